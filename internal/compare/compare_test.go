package compare

import (
	"context"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/smeltgguf/smelt/internal/arch"
	"github.com/smeltgguf/smelt/quant"
)

// rows is a matrix in memory.
type rows struct {
	t    quant.Type
	n    int
	data []byte
}

func (r *rows) Type() quant.Type { return r.t }
func (r *rows) Len() int         { return r.n }
func (r *rows) Count() int       { return len(r.data) / r.t.RowSize(r.n) }
func (r *rows) ReadRows(dst []byte, first, n int) error {
	copy(dst, r.data[first*r.t.RowSize(r.n):])
	return nil
}

func tensor(name string, t quant.Type, x []float32, n int) arch.Tensor {
	data := make([]byte, t.RowSize(len(x)))
	if t == quant.F32 {
		for i, v := range x {
			binary.LittleEndian.PutUint32(data[4*i:], math.Float32bits(v))
		}
	} else {
		quant.Encode(t, data, x, nil)
	}
	return arch.Tensor{Name: name, Shape: []int{len(x) / n, n}, Rows: &rows{t, n, data}}
}

func random(n int) []float32 {
	rng := rand.New(rand.NewPCG(4, 5))
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	return x
}

func decode(t arch.Tensor) []float32 {
	r := t.Rows.(*rows)
	y := make([]float32, r.n*r.Count())
	quant.Decode(r.t, y, r.data)
	return y
}

func compareOne(t *testing.T, a, b arch.Tensor) Tensor {
	t.Helper()
	res, err := Tensors(context.Background(), []arch.Tensor{a}, []arch.Tensor{b}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return res.Tensors[0]
}

// TestFigures computes the figures again from the textbook formulas, for a
// tensor of several units.
func TestFigures(t *testing.T) {
	x := random(3 * unitElems / 256 * 256)
	a, b := tensor("w", quant.F32, x, 256), tensor("w", quant.Q4_K, x, 256)
	got, y := compareOne(t, a, b), decode(b)
	var dd, xx, yy, xy, worst float64
	for i := range x {
		u, v := float64(x[i]), float64(y[i])
		dd += (u - v) * (u - v)
		xx += u * u
		yy += v * v
		xy += u * v
		worst = max(worst, math.Abs(u-v))
	}
	n := float64(len(x))
	for _, c := range []struct {
		what      string
		got, want float64
	}{
		{"rmse", got.RMSE, math.Sqrt(dd / n)},
		{"rel_rmse", got.Relative, math.Sqrt(dd / xx)},
		{"cosine", got.Cosine, xy / math.Sqrt(xx*yy)},
		{"max_error", got.Max, worst},
		{"elements", float64(got.Elements), n},
		{"blocks", float64(got.Blocks), n / 256},
	} {
		if math.Abs(c.got-c.want) > 1e-6*c.want {
			t.Errorf("%s = %.9g, want %.9g", c.what, c.got, c.want)
		}
	}
}

func TestNonfiniteAndZeroRows(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	a := tensor("w", quant.F32, []float32{1, 2, nan, 0, 0, 0, 3, -inf, 5}, 3)
	b := tensor("w", quant.F32, []float32{1, 4, 1, 0, 0, 0, 0, 0, 0}, 3)
	got := compareOne(t, a, b)
	want := Figures{
		Elements: 9, NaNA: 1, InfA: 1, ZeroRowsA: 1, ZeroRowsB: 2,
		RMSE: math.Sqrt((4. + 9 + 25) / 7), Relative: math.Sqrt((4. + 9 + 25) / (1 + 4 + 9 + 25)), Max: 5,
	}
	want.Cosine = got.Cosine
	if got.Figures != want {
		t.Errorf("got %+v\nwant %+v", got.Figures, want)
	}
	if wantCos := 9 / math.Sqrt(39*17.); math.Abs(got.Cosine-wantCos) > 1e-12 {
		t.Errorf("cosine %g, want %g", got.Cosine, wantCos)
	}
}

// TestSaturated: Q8_0 holds every block of finite values of usual size, Q4_0
// clips the value opposite the largest, and a block of values below the least
// half scale is lost.
func TestSaturated(t *testing.T) {
	x := random(64 * 32)
	if got := compareOne(t, tensor("w", quant.F32, x, 64), tensor("w", quant.Q8_0, x, 64)); got.Saturated != 0 {
		t.Errorf("Q8_0: %d of %d blocks saturated", got.Saturated, got.Blocks)
	}
	x = make([]float32, 64)
	for i := range 32 {
		x[i] = float32(i-16) / 4 // -4 ... 3.75: sixteen steps of 0.5 end at 3.5
		x[32+i] = 1e-12
	}
	x[31] = 4
	got := compareOne(t, tensor("w", quant.F32, x, 64), tensor("w", quant.Q4_0, x, 64))
	if got.Blocks != 2 || got.Saturated != 2 {
		t.Errorf("Q4_0: %d of %d blocks saturated, want 2 of 2", got.Saturated, got.Blocks)
	}
}

func TestMissed(t *testing.T) {
	x := random(64)
	zero, bad := make([]float32, 64), random(64)
	bad[3] = float32(math.Inf(-1))
	a := []arch.Tensor{
		tensor("good", quant.F32, x, 64), tensor("coarse", quant.F32, x, 64), tensor("inf", quant.F32, x, 64),
		tensor("zero", quant.F32, zero, 64), tensor("shape", quant.F32, x, 64), tensor("a only", quant.F32, x, 64),
	}
	b := []arch.Tensor{
		tensor("coarse", quant.Q4_0, x, 64), tensor("good", quant.Q8_0, x, 64), tensor("inf", quant.F32, bad, 64),
		tensor("zero", quant.F32, x, 64), tensor("shape", quant.F32, x, 32), tensor("b only", quant.F32, x, 64),
	}
	res, err := Tensors(context.Background(), a, b, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Join(res.Missed(0.02), "\n")
	for _, want := range []string{
		`tensor "coarse": rel_rmse is 0.`,
		`tensor "inf": 0 NaN and 1 infinite values, the reference has 0 and 0`,
		`tensor "zero": not zero, as the reference is`,
		`tensor "shape": shape [2 32], the reference has [1 64]`,
		`tensor "a only" is missing`,
		`tensor "b only" is not in the reference`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no line %q in\n%s", want, got)
		}
	}
	if strings.Contains(got, `"good"`) {
		t.Errorf("a tensor within the bound is listed:\n%s", got)
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	x := []arch.Tensor{tensor("w", quant.F32, random(64), 64)}
	if _, err := Tensors(ctx, x, x, nil); err == nil {
		t.Error("no error from a cancelled run")
	}
}
