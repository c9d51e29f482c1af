package arch

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/smeltgguf/smelt/quant"
)

// matrix is a tensor in memory whose element at position i is i.
func matrix(shape ...int) shaped {
	n := 1
	for _, d := range shape {
		n *= d
	}
	f := make(floats, n)
	for i := range f {
		f[i] = float32(i)
	}
	return shaped{rows: reshape(f, shape[len(shape)-1]), shape: shape}
}

// read reads all elements, in runs of rows of random lengths, and checks that
// rows read alone are the same.
func read(t *testing.T, s shaped) []float32 {
	t.Helper()
	r := s.rows
	n := 1
	for _, d := range s.shape {
		n *= d
	}
	if r.Len()*r.Count() != n || r.Len() != s.shape[len(s.shape)-1] {
		t.Fatalf("shape %v has %d rows of %d", s.shape, r.Count(), r.Len())
	}
	get := func(first, n int) []float32 {
		raw := make([]byte, n*r.Type().RowSize(r.Len()))
		if err := r.ReadRows(raw, first, n); err != nil {
			t.Fatal(err)
		}
		f := make([]float32, n*r.Len())
		quant.Decode(r.Type(), f, raw)
		return f
	}
	var out []float32
	for first := 0; first < r.Count(); {
		k := 1 + rand.IntN(r.Count()-first)
		out = append(out, get(first, k)...)
		first += k
	}
	for i := range r.Count() {
		if got, want := get(i, 1), out[i*r.Len():][:r.Len()]; !slices.Equal(got, want) {
			t.Errorf("row %d alone is %v, in a run %v", i, got, want)
		}
	}
	return out
}

func equal(t *testing.T, got shaped, shape []int, want func(i int) int) {
	t.Helper()
	if !slices.Equal(got.shape, shape) {
		t.Errorf("shape %v, want %v", got.shape, shape)
	}
	for i, v := range read(t, got) {
		if int(v) != want(i) {
			t.Errorf("element %d is %g, want %d", i, v, want(i))
			return
		}
	}
}

func TestUnrope(t *testing.T) {
	// 2 heads of 6: first half a, second half b; a0 b0 a1 b1 a2 b2.
	order := []int{0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11}
	equal(t, matrix(12, 5).unrope(2), []int{12, 5}, func(i int) int { return order[i/5]*5 + i%5 })
	equal(t, matrix(12).unrope(2), []int{12}, func(i int) int { return order[i] })
}

func TestPickAndView(t *testing.T) {
	equal(t, matrix(6, 2, 3).slice(2, 3), []int{3, 2, 3}, func(i int) int { return 12 + i })
	equal(t, matrix(6).slice(2, 3), []int{3}, func(i int) int { return 2 + i })
	equal(t, matrix(4, 3).pick(4, func(i int) int { return 3 - i }), []int{4, 3}, func(i int) int { return (3-i/3)*3 + i%3 })
	equal(t, matrix(4, 6).view(2, 3, 4), []int{2, 3, 4}, func(i int) int { return i })
	equal(t, matrix(5, 4).view(20, 1).pick(10, func(i int) int { return 2 * i }).view(5, 2), []int{5, 2}, func(i int) int { return 2 * i })
}

func TestJoin(t *testing.T) {
	a, b := matrix(2, 3), matrix(2, 3)
	equal(t, join([]shaped{a, b}, true), []int{2, 2, 3}, func(i int) int { return i % 6 })
	equal(t, join([]shaped{a, b, a}, false), []int{6, 3}, func(i int) int { return i % 6 })
	equal(t, join([]shaped{matrix(3), matrix(2)}, false), []int{5}, func(i int) int { return []int{0, 1, 2, 0, 1}[i] })
	if err := caught(func() { join([]shaped{a, matrix(2, 4)}, false) }); err == nil {
		t.Error("rows of different lengths were joined")
	}
}

func TestTranspose(t *testing.T) {
	for _, s := range [][3]int{{1, 3, 5}, {2, 4, 3}, {3, 1, 7}, {1, 700, 600}} {
		b, r, c := s[0], s[1], s[2]
		equal(t, matrix(b, r, c).transpose(), []int{b, c, r}, func(i int) int {
			m, x, y := i/(r*c), i/r%c, i%r
			return m*r*c + y*c + x
		})
	}
	equal(t, matrix(3, 4).transpose().transpose(), []int{3, 4}, func(i int) int { return i })
}

// TestAdd: one is added in float32, but to halves in half precision.
func TestAdd(t *testing.T) {
	equal(t, matrix(2, 3).add(1), []int{2, 3}, func(i int) int { return i + 1 })
	half := &raw{quant.F16, []byte{0x01, 0x14}} // 0x1p-10 + 1 ulp: 1 + it rounds to 1 + 0x1p-10
	s := shaped{rows: half, shape: []int{1}}.add(1)
	if s.rows.Type() != quant.F16 {
		t.Fatalf("a half plus one is %v", s.rows.Type())
	}
	if got := read(t, s)[0]; got != 1+0x1p-10 {
		t.Errorf("got %v", got)
	}
	bf := shaped{rows: &raw{quant.BF16, []byte{0x80, 0x3a}}, shape: []int{1}}.add(1) // 0x1p-10
	if got := read(t, bf)[0]; bf.rows.Type() != quant.F32 || got != 1+0x1p-10 {
		t.Errorf("bfloat16: %v %v", bf.rows.Type(), got)
	}
}

// raw is one row of bytes.
type raw struct {
	typ  quant.Type
	data []byte
}

func (r *raw) Type() quant.Type { return r.typ }
func (r *raw) Len() int         { return len(r.data) / r.typ.BlockSize() * r.typ.BlockLen() }
func (r *raw) Count() int       { return 1 }
func (r *raw) ReadRows(dst []byte, _, _ int) error {
	copy(dst, r.data)
	return nil
}

func TestMerged(t *testing.T) {
	w, a, b := matrix(3, 4), matrix(2, 4), matrix(3, 2)
	m := &merged{Rows: w.rows, a: a.rows, b: b.rows, rank: 2, scale: 0.5}
	for i, v := range read(t, shaped{rows: m, shape: []int{3, 4}}) {
		r, c := i/4, i%4
		want := float32(i) + 0.5*float32((2*r)*c+(2*r+1)*(4+c))
		if v != want {
			t.Errorf("element %d is %g, want %g", i, v, want)
		}
	}
}

// TestLlama3Factors: wavelengths below context/4 keep their frequency, those
// above the context are stretched by the factor, between is a blend.
func TestLlama3Factors(t *testing.T) {
	s := llama3Scaling{factor: 8, lowFreq: 1, highFreq: 4, context: 8192}
	f := s.factors(128, 500000)
	if len(f) != 64 || f[0] != 1 || f[63] != 8 {
		t.Fatalf("%d factors, %v", len(f), f)
	}
	if !slices.IsSorted(f) {
		t.Errorf("not monotonic: %v", f)
	}
	for i, v := range f {
		wave := 2 * math.Pi * math.Pow(500000, float64(2*i)/128)
		want := 1.0
		if wave > 8192 {
			want = 8
		} else if wave >= 2048 {
			smooth := (8192/wave - 1) / 3
			want = 1 / ((1-smooth)/8 + smooth)
		}
		if math.Abs(float64(v)-want) > 1e-5*want {
			t.Errorf("factor %d is %g, want %g", i, v, want)
		}
	}
}

func caught(f func()) (err error) {
	defer catch(&err)
	f()
	return nil
}

func TestFloats(t *testing.T) {
	b := make([]byte, 8)
	if err := (floats{1, 2}).ReadRows(b, 0, 1); err != nil || math.Float32frombits(binary.LittleEndian.Uint32(b[4:])) != 2 {
		t.Errorf("% x, %v", b, err)
	}
	if err := (floats{1}).ReadRows(b, 1, 1); err == nil {
		t.Error("row 1 of 1 was read")
	}
}
