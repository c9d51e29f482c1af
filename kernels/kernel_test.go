package kernels

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/smeltgguf/smelt/quant"
)

// generically runs f with every instruction set switched off.
func generically(f func()) {
	defer saveCPU()()
	limitCPU("generic")
	f()
}

// same tells whether two results are the same number, NaN being one.
func same(a, b float32) bool { return a == b || a != a && b != b }

func floatsOf(data []byte) []float32 {
	x := make([]float32, len(data)/4)
	for i := range x {
		x[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:]))
	}
	return x
}

// checkQuantizeRow compares quantizeRow with plain Go: the same bytes.
func checkQuantizeRow(t *testing.T, x []float32, flip byte) {
	t.Helper()
	groups := (len(x) + 31) / 32
	const guard = 0x5a
	run := func(f func([]byte, []float32, []int32, []float32, byte)) ([]byte, []float32, []int32) {
		values, scales, sums := make([]byte, groups*32+1), make([]float32, groups+1), make([]int32, 2*groups+1)
		values[groups*32], scales[groups], sums[2*groups] = guard, guard, guard
		f(values[:groups*32], scales[:groups], sums[:2*groups], x, flip)
		if values[groups*32] != guard || scales[groups] != guard || sums[2*groups] != guard {
			t.Fatalf("wrote past the results of %d elements", len(x))
		}
		return values, scales, sums
	}
	v, s, n := run(quantizeRow)
	wv, ws, wn := run(quantizeRowGo)
	for i := range v {
		if v[i] != wv[i] {
			t.Fatalf("value %d of %d is %d, want %d; of %g", i, len(x), int8(v[i]), int8(wv[i]), x[i])
		}
	}
	for i := range s {
		if !same(s[i], ws[i]) {
			t.Fatalf("scale %d of %d is %g, want %g", i, len(x), s[i], ws[i])
		}
	}
	for i := range n {
		if n[i] != wn[i] {
			t.Fatalf("sum %d of %d is %d, want %d", i, len(x), n[i], wn[i])
		}
	}
}

// activations returns numbers that rounding to 8 bits treats in all its ways.
func activations(r *rand.Rand, n int) []float32 {
	special := []float32{0, float32(math.Inf(1)), float32(math.NaN()), 1e-45, 1e-38, -3e38, 2.5, -0.5}
	x := randomFloats(r, n)
	for i := range x {
		if r.IntN(40) == 0 {
			x[i] = special[r.IntN(len(special))]
		}
		switch i / 32 % 5 {
		case 4:
			x[i] *= 1e-44 // a group of subnormal numbers
		case 3:
			x[i] = float32(math.Round(float64(x[i]) * 8)) // ties
		case 2:
			x[i] = 0
		}
	}
	return x
}

func TestQuantizeRow(t *testing.T) {
	eachCPU(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(4, 4))
		for n := range 200 {
			checkQuantizeRow(t, activations(r, n+n%7)[n%7:], byte(n%2)<<7)
		}
	})
}

// What panels of activations hold does not depend on the instruction set, nor on
// whether they come by token or side by side.
func TestPackInt8(t *testing.T) {
	eachCPU(t, func(t *testing.T) {
		var s scratch
		r := rand.New(rand.NewPCG(4, 6))
		for _, c := range []struct{ n, cols int }{{lanes, 32}, {lanes, 320}, {lanes, 80}, {5, 64}, {1, 16}} {
			x := activations(r, c.n*c.cols)
			size := (c.cols + 31) / 32 * actGroup
			got, want := make([]byte, size+1), make([]byte, size+1)
			got[size], want[size] = 3, 3
			packInt8(got, x, c.n, c.cols, &s)
			generically(func() { packInt8(want, x, c.n, c.cols, new(scratch)) })
			// NaN scales have any bits.
			for i := 0; i < size; i += 4 {
				if at := i % actGroup; at >= actScales && at < actSums {
					g, w := floatsOf(got[i : i+4])[0], floatsOf(want[i : i+4])[0]
					if !same(g, w) {
						t.Fatalf("%+v: scale at %d is %g, want %g", c, i, g, w)
					}
					copy(got[i:i+4], want[i:])
				}
			}
			if !bytes.Equal(got, want) {
				t.Fatalf("%+v: the panel differs", c)
			}
			if c.n != lanes || c.cols%32 != 0 {
				continue
			}
			columns := make([]float32, len(x))
			transposeIn(columns, x, c.cols, lanes, c.cols)
			for g := range c.cols / 32 {
				packGroup(got[g*actGroup:][:actGroup], columns[g*32*lanes:], &s)
				for i := actScales; i < actSums; i += 4 {
					if at := g*actGroup + i; same(floatsOf(got[at : at+4])[0], floatsOf(want[at : at+4])[0]) {
						copy(got[at:at+4], want[at:])
					}
				}
			}
			if !bytes.Equal(got, want) {
				t.Fatalf("%+v: groups side by side differ", c)
			}
		}
	})
}

func TestDots(t *testing.T) {
	eachCPU(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(4, 5))
		for n := range 300 {
			align := n % 5
			x, y := randomFloats(r, n+align)[align:], randomFloats(r, n)
			f32, f16, bf16 := make([]byte, 4*n), make([]byte, 2*n), make([]byte, 2*n)
			h := make([]uint16, n)
			ToHalf(h, y)
			var want, want16, wantB, abs float64
			for i, v := range y {
				bits := math.Float32bits(v)
				binary.LittleEndian.PutUint32(f32[4*i:], bits)
				binary.LittleEndian.PutUint16(f16[2*i:], h[i])
				binary.LittleEndian.PutUint16(bf16[2*i:], uint16(bits>>16))
				want += float64(v) * float64(x[i])
				want16 += float64(halfToFloat(h[i])) * float64(x[i])
				wantB += float64(math.Float32frombits(bits>>16<<16)) * float64(x[i])
				abs += math.Abs(float64(v) * float64(x[i]))
			}
			for _, c := range []struct {
				name string
				got  float32
				want float64
			}{
				{"Dot", Dot(y, x), want},
				{"F32", oneOfRows(t, quant.F32, f32, x), want},
				{"F16", oneOfRows(t, quant.F16, f16, x), want16},
				{"BF16", oneOfRows(t, quant.BF16, bf16, x), wantB},
			} {
				if math.Abs(float64(c.got)-c.want) > budgetSum(n)*abs {
					t.Fatalf("%s of %d is %g, want %g", c.name, n, c.got, c.want)
				}
			}
		}
	})
}

// oneOfRows multiplies up to 9 rows of which one is not zero, each in turn, and
// returns its result, which must not depend on its place.
func oneOfRows(t *testing.T, typ quant.Type, row []byte, x []float32) float32 {
	t.Helper()
	var result float32
	for count := 1; count <= 9; count++ {
		for at := range count {
			rows := make([]byte, count*len(row))
			copy(rows[at*len(row):], row)
			out := make([]float32, count+1)
			for i := range out {
				out[i] = 42
			}
			dotRows(typ, out[:count], rows, x)
			if count == 1 {
				result = out[0]
			}
			for i, got := range out {
				want := float32(0)
				switch i {
				case at:
					want = result
				case count:
					want = 42
				}
				if got != want {
					t.Fatalf("%s: row %d of %d is %g, want %g", typ, i, count, got, want)
				}
			}
		}
	}
	return result
}

// FuzzDecode: whatever the blocks hold, all paths decode the same values.
func FuzzDecode(f *testing.F) {
	r := rand.New(rand.NewPCG(6, 6))
	for _, typ := range weightTypes() {
		f.Add(uint8(typ), randomMatrix(r, typ, 1, 2*typ.BlockLen()).Data)
	}
	f.Fuzz(func(t *testing.T, number uint8, data []byte) {
		typ := quant.Type(number)
		if !typ.Valid() || !canDecode(typ) {
			return
		}
		blocks := min(len(data)/typ.BlockSize(), 4096/typ.BlockLen())
		data = data[:blocks*typ.BlockSize()]
		got, want := make([]float32, blocks*typ.BlockLen()), make([]float32, blocks*typ.BlockLen())
		var s scratch
		decode(typ, got, data, &s)
		generically(func() { decode(typ, want, data, &s) })
		for i := range got {
			if !same(got[i], want[i]) {
				t.Fatalf("%s: element %d is %g, want %g", typ, i, got[i], want[i])
			}
		}
	})
}

// FuzzQuantizeRow: any floats are rounded to the same bytes on all paths.
func FuzzQuantizeRow(f *testing.F) {
	f.Add(make([]byte, 128))
	f.Add([]byte("\x00\x00\x80\x7f some floats, some not, and an infinity in front of them all, so that there is more than one group of 32 of them here; "))
	f.Fuzz(func(t *testing.T, data []byte) { checkQuantizeRow(t, floatsOf(data), 0x80) })
}

// FuzzMatMul: one-token and many-token products of any bytes agree between all
// paths, or are not finite on all of them.
func FuzzMatMul(f *testing.F) {
	f.Add(uint8(quant.Q4_K), uint8(1), uint64(1))
	f.Add(uint8(quant.Q6_K), uint8(33), uint64(2))
	f.Add(uint8(quant.Q8_0), uint8(12), uint64(3))
	f.Fuzz(func(t *testing.T, number, tokens uint8, seed uint64) {
		typ := quant.Type(number)
		n := int(tokens%40) + 1
		found := false
		for _, w := range weightTypes() {
			found = found || w == typ
		}
		if !found || !canDecode(typ) {
			return
		}
		r := rand.New(rand.NewPCG(seed, 1))
		cols := 256 * (1 + r.IntN(3))
		w, x := randomMatrix(r, typ, 1+r.IntN(20), cols), randomFloats(r, n*cols)
		got := make([]float32, n*w.Rows)
		var ws Workspace
		for _, mode := range []Compute{Exact, Int8} {
			MatMul(nil, &ws, mode, x, n, Product{w, got})
			if n < few && plainFloat(typ) {
				mode = Exact
			}
			compare(t, mode, w, got, x, n)
		}
	})
}
