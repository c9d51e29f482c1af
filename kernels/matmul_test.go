package kernels

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/smeltgguf/smelt/quant"
)

// budgetSum bounds |got - want| of a sum of n products, float32 or integers of
// groups scaled to float32, relative to the sum of the terms' absolute values.
// Each addition rounds by at most 2^-24 of the sum so far; n such errors, as
// good as independent, grow with the root of n, and four times that is out of
// reach unless a term is lost.
func budgetSum(n int) float64 { return 4 * math.Sqrt(float64(n)) / (1 << 24) }

// halves gives where the blocks of a type hold half-precision scales.
var halves = map[quant.Type][]int{
	quant.Q4_0: {0}, quant.Q4_1: {0, 2}, quant.Q5_0: {0}, quant.Q5_1: {0, 2}, quant.Q8_0: {0}, quant.Q8_1: {0, 2},
	quant.Q2_K: {80, 82}, quant.Q3_K: {108}, quant.Q4_K: {0, 2}, quant.Q5_K: {0, 2}, quant.Q6_K: {208},
	quant.IQ2_XXS: {0}, quant.IQ2_XS: {0}, quant.IQ3_XXS: {0}, quant.IQ1_S: {0}, quant.IQ4_NL: {0}, quant.IQ3_S: {0},
	quant.IQ2_S: {0}, quant.IQ4_XS: {0}, quant.TQ1_0: {52}, quant.TQ2_0: {64}, quant.Q1_0: {0}, quant.Q2_0: {0},
}

// weightTypes are the types that matrices have.
func weightTypes() (types []quant.Type) {
	for t := quant.Type(0); t < 43; t++ {
		switch t {
		case quant.I8, quant.I16, quant.I32, quant.I64, quant.F64, quant.Q8_1, quant.Q8_K:
			continue
		}
		if t.Valid() {
			types = append(types, t)
		}
	}
	return types
}

// randomMatrix fills a matrix with random blocks whose scales are of the same
// magnitude.
func randomMatrix(r *rand.Rand, t quant.Type, rows, cols int) Matrix {
	w := Matrix{Type: t, Rows: rows, Cols: cols, Data: make([]byte, rows*t.RowSize(cols))}
	for i := range w.Data {
		w.Data[i] = byte(r.Uint32())
	}
	for b := 0; b < len(w.Data); b += t.BlockSize() {
		block := w.Data[b:][:t.BlockSize()]
		for _, at := range halves[t] {
			binary.LittleEndian.PutUint16(block[at:], uint16(r.IntN(1024)|12<<10|r.IntN(2)<<15))
		}
		v := float32(r.NormFloat64())
		switch t {
		case quant.F32:
			binary.LittleEndian.PutUint32(block, math.Float32bits(v))
		case quant.BF16:
			binary.LittleEndian.PutUint16(block, uint16(math.Float32bits(v)>>16))
		case quant.F16:
			var h [1]uint16
			toHalfGo(h[:], []float32{v})
			binary.LittleEndian.PutUint16(block, h[0])
		case quant.MXFP4:
			block[0] = byte(120 + r.IntN(8))
		case quant.NVFP4:
			for i := range 4 {
				block[i] &= 0x3f
			}
		case quant.IQ1_M: // the scale's bits are the top ones of four words
			block[55] = block[55]&0x0f | 0x20
		}
	}
	return w
}

func randomFloats(r *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	return x
}

func canDecode(t quant.Type) bool {
	return t.CanDecode() || t == quant.F32 || t == quant.F16 || t == quant.BF16
}

// TestDecode compares the forms of all types, and what expands them, with
// quant's decoders: the values are the same to the bit.
func TestDecode(t *testing.T) {
	eachCPU(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(1, 2))
		var s scratch
		for _, typ := range weightTypes() {
			if !typ.CanDecode() {
				continue
			}
			for blocks := range 9 {
				w := randomMatrix(r, typ, 1, blocks*typ.BlockLen())
				want := make([]float32, w.Cols)
				quant.Decode(typ, want, w.Data)
				got := make([]float32, w.Cols+1)
				got[w.Cols] = 42
				decode(typ, got[:w.Cols], w.Data, &s)
				row := make([]float32, w.Cols)
				DecodeRow(typ, row, w.Data)
				for i, v := range want {
					if math.Float32bits(got[i]) != math.Float32bits(v) || math.Float32bits(row[i]) != math.Float32bits(v) {
						t.Fatalf("%s: element %d of %d is %g, want %g", typ, i, w.Cols, got[i], v)
					}
				}
				if got[w.Cols] != 42 {
					t.Fatalf("%s: wrote past %d elements", typ, w.Cols)
				}
			}
		}
	})
}

// effective returns the weights of a matrix, (Rows, Cols), as a product uses
// them: for Int8 those without an integer form are rounded.
func effective(w Matrix, mode Compute) []float32 {
	var s scratch
	weights := make([]float32, w.Rows*w.Cols)
	size := w.Type.RowSize(w.Cols)
	for r := range w.Rows {
		row := weights[r*w.Cols:][:w.Cols]
		decode(w.Type, row, w.Data[r*size:][:size], &s)
		if mode == Int8 && forms[w.Type].unpack == nil {
			copy(row, roundTrip(row))
		}
	}
	return weights
}

func roundTrip(x []float32) []float32 {
	groups := (len(x) + 31) / 32
	q, scales, sums := make([]byte, groups*32), make([]float32, groups), make([]int32, groups*2)
	quantizeRowGo(q, scales, sums, x, 0)
	out := make([]float32, len(x))
	for i := range out {
		out[i] = scales[i/32] * float32(int8(q[i]))
	}
	return out
}

func TestMatMul(t *testing.T) {
	pool := NewPool(3)
	defer pool.Close()
	eachCPU(t, func(t *testing.T) {
		var ws Workspace
		for _, typ := range weightTypes() {
			if !canDecode(typ) {
				continue
			}
			widths := []int{typ.BlockLen(), 5 * typ.BlockLen(), 768}
			if typ.BlockLen() == 1 {
				widths = []int{1, 31, 33, 700}
			}
			tokens := []int{1, few - 1, few, 33}
			if testing.Short() { // for emulators
				widths, tokens = widths[1:], []int{1, 33}
			}
			for _, cols := range widths {
				for _, n := range tokens {
					r := rand.New(rand.NewPCG(uint64(cols), uint64(n)))
					a, b := randomMatrix(r, typ, 11, cols), randomMatrix(r, typ, 8, cols)
					x := randomFloats(r, n*cols)
					for _, mode := range []Compute{Exact, Int8} {
						outA, outB := randomFloats(r, n*a.Rows+1), randomFloats(r, n*b.Rows+1)
						guardA, guardB := outA[n*a.Rows], outB[n*b.Rows]
						MatMul(pool, &ws, mode, x, n, Product{a, outA}, Product{b, outB})
						as := mode
						if n < few && plainFloat(typ) {
							as = Exact
						}
						compare(t, as, a, outA, x, n)
						compare(t, as, b, outB, x, n)
						if outA[n*a.Rows] != guardA || outB[n*b.Rows] != guardB {
							t.Fatalf("%s: wrote past the result", typ)
						}
					}
				}
			}
		}
	})
}

// compare computes a product in float64, from what the kernels are given.
func compare(t *testing.T, mode Compute, w Matrix, out, x []float32, n int) {
	t.Helper()
	budget := budgetSum(w.Cols)
	weights := effective(w, mode)
	for i := range n {
		token := x[i*w.Cols:][:w.Cols]
		if mode == Int8 {
			token = roundTrip(token)
		}
		for row := range w.Rows {
			var want, abs float64
			for c, v := range token {
				p := float64(v) * float64(weights[row*w.Cols+c])
				want += p
				abs += math.Abs(p)
			}
			if mode == Int8 {
				abs += offsetTerms(w, row, token)
			}
			if got := float64(out[i*w.Rows+row]); !(math.Abs(got-want) <= budget*abs) {
				t.Fatalf("%s %s (%d, %d) x %d tokens: token %d row %d is %g, want %g, off by %.2g of the terms' sum",
					mode, w.Type, w.Rows, w.Cols, n, i, row, got, want, math.Abs(got-want)/abs)
			}
		}
	}
}

// offsetTerms returns the sum of the absolute terms that cancel in integer
// products: zero and offset times the groups' sums.
func offsetTerms(w Matrix, row int, rounded []float32) (abs float64) {
	var s scratch
	groups := (w.Cols + 31) / 32
	u, scale, offset := make([]byte, groups*32), make([]float32, groups*2), make([]float32, groups*2)
	size := w.Type.RowSize(w.Cols)
	f := &forms[w.Type]
	unpack(w.Type, u, scale, offset, w.Data[row*size:][:size], w.Cols/w.Type.BlockLen(), &s)
	for g := range groups * 32 / f.group {
		var sum float64
		for i := g * f.group; i < min((g+1)*f.group, len(rounded)); i++ {
			sum += float64(rounded[i])
		}
		abs += math.Abs(sum) * (math.Abs(float64(scale[g]))*float64(f.zero()) + math.Abs(float64(offset[g])))
	}
	return abs
}

// TestOneTokenScales multiplies one token with blocks of all scales that the
// types with a byte for one have.
func TestOneTokenScales(t *testing.T) {
	eachCPU(t, func(t *testing.T) {
		var ws Workspace
		r := rand.New(rand.NewPCG(9, 10))
		for _, typ := range []quant.Type{quant.MXFP4, quant.NVFP4} {
			w := randomMatrix(r, typ, 256, 256)
			for i := range w.Rows {
				for b := i * typ.RowSize(w.Cols); b < (i+1)*typ.RowSize(w.Cols); b += typ.BlockSize() {
					w.Data[b] = byte(i)
				}
			}
			if typ == quant.MXFP4 { // without those whose sums overflow
				w.Rows = 240
			}
			x, out := randomFloats(r, w.Cols), make([]float32, w.Rows)
			MatMul(nil, &ws, Int8, x, 1, Product{w, out})
			compare(t, Int8, w, out, x, 1)
		}
	})
}

// TestExactWeights multiplies with a single 1: what comes out are the weights as
// the decoders give them, to the bit.
func TestExactWeights(t *testing.T) {
	eachCPU(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(9, 9))
		var ws Workspace
		for _, typ := range weightTypes() {
			if !typ.CanDecode() || 512%typ.BlockLen() != 0 {
				continue
			}
			const rows, cols = 7, 512
			w := randomMatrix(r, typ, rows, cols)
			want := make([]float32, rows*cols)
			quant.Decode(typ, want, w.Data)
			for c := range cols {
				x, out := make([]float32, cols), make([]float32, rows)
				x[c] = 1
				MatMul(nil, &ws, Exact, x, 1, Product{w, out})
				for i, got := range out {
					if want := want[i*cols+c]; got != want {
						t.Fatalf("%s: element %d of row %d is %g, want %g", typ, c, i, got, want)
					}
				}
			}
		}
	})
}

func TestMatMulNonFinite(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	eachCPU(t, func(t *testing.T) {
		var ws Workspace
		r := rand.New(rand.NewPCG(5, 6))
		for _, mode := range []Compute{Exact, Int8} {
			for _, n := range []int{1, 40} {
				for _, bad := range []float32{inf, -inf, nan} {
					w := randomMatrix(r, quant.F16, 16, 96)
					x := randomFloats(r, n*96)
					x[(n-1)*96+50] = bad
					out := make([]float32, n*16)
					MatMul(nil, &ws, mode, x, n, Product{w, out})
					for i, v := range out {
						if finite := v-v == 0; finite != (i/16 != n-1) {
							t.Fatalf("%s: %g among the activations of the last of %d tokens: token %d has result %g", mode, bad, n, i/16, v)
						}
					}
				}
			}
		}
	})
}

func TestMatMulAllocates(t *testing.T) {
	pool := NewPool(2)
	defer pool.Close()
	var ws Workspace
	r := rand.New(rand.NewPCG(7, 8))
	w := randomMatrix(r, quant.Q4_0, 64, 256)
	for _, n := range []int{1, 64} {
		x, out := randomFloats(r, n*256), make([]float32, n*64)
		for _, mode := range []Compute{Exact, Int8} {
			if a := testing.AllocsPerRun(10, func() { MatMul(pool, &ws, mode, x, n, Product{w, out}) }); a >= 1 {
				t.Errorf("%s, %d tokens: %g allocations per call", mode, n, a)
			}
		}
	}
}

func TestPool(t *testing.T) {
	for _, threads := range []int{1, 2, 5} {
		p := NewPool(threads)
		for items := range 40 {
			seen := make([]int, items)
			p.Run(items, func(worker, item int) {
				if worker < 0 || worker >= threads {
					panic(fmt.Sprint("worker ", worker))
				}
				seen[item]++
			})
			for i, n := range seen {
				if n != 1 {
					t.Fatalf("%d threads: item %d of %d ran %d times", threads, i, items, n)
				}
			}
		}
		p.Close()
		p.Close()
	}
}
