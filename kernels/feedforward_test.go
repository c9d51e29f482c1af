package kernels

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/smeltgguf/smelt/quant"
)

// FeedForward is what it says it is, to the bit.
func TestFeedForward(t *testing.T) {
	pool := NewPool(2)
	defer pool.Close()
	act := func(gate, up []float32) { SiLUMul(gate, gate, up) }
	eachCPU(t, func(t *testing.T) {
		var ws Workspace
		for _, c := range []struct {
			gate, up, down quant.Type
			cols, rows, n  int
		}{
			{quant.Q4_0, quant.Q4_0, quant.Q6_K, 64, 256, 33},
			{quant.Q4_K, quant.Q8_0, quant.Q4_0, 256, 96, few},
			{quant.F16, quant.F32, quant.BF16, 40, 48, 70},
			{quant.F32, quant.F32, quant.F32, 16, 304, batch + few - 1},
			{quant.Q5_1, quant.Q4_K, quant.Q8_0, 256, 224, 1},
			{quant.F16, quant.F16, quant.F16, 16, 16, few - 1},
		} {
			r := rand.New(rand.NewPCG(uint64(c.n), 5))
			gate, up := randomMatrix(r, c.gate, c.rows, c.cols), randomMatrix(r, c.up, c.rows, c.cols)
			down := randomMatrix(r, c.down, 24, c.rows)
			x := randomFloats(r, c.n*c.cols)
			for i := range x {
				x[i] /= 16 // not all of what the gate gives is 0 or what it gets
			}
			for _, mode := range []Compute{Exact, Int8} {
				a, b, want := make([]float32, c.n*c.rows), make([]float32, c.n*c.rows), make([]float32, c.n*24)
				for i := 0; i < c.n; i += batch { // few tokens left have their own kernels
					n := min(batch, c.n-i)
					a, b := a[i*c.rows:][:n*c.rows], b[i*c.rows:][:n*c.rows]
					MatMul(pool, &ws, mode, x[i*c.cols:], n, Product{gate, a}, Product{up, b})
					act(a, b)
					MatMul(pool, &ws, mode, a, n, Product{down, want[i*24:]})
				}
				got := randomFloats(r, c.n*24+1)
				guard := got[c.n*24]
				FeedForward(pool, &ws, mode, x, c.n, gate, up, act, Product{down, got})
				for i, v := range want {
					if math.Float32bits(got[i]) != math.Float32bits(v) {
						t.Fatalf("%+v %s: element %d is %g, want %g", c, mode, i, got[i], v)
					}
				}
				if got[c.n*24] != guard {
					t.Fatalf("%+v %s: wrote past the result", c, mode)
				}
			}
		}
		r := rand.New(rand.NewPCG(5, 5))
		w := randomMatrix(r, quant.Q4_0, 64, 64)
		x, out := randomFloats(r, 40*64), make([]float32, 40*64)
		if a := testing.AllocsPerRun(5, func() { FeedForward(pool, &ws, Int8, x, 40, w, w, act, Product{w, out}) }); a >= 1 {
			t.Errorf("%g allocations per call", a)
		}
	})
}
