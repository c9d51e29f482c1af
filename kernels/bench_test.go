package kernels

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/smeltgguf/smelt/quant"
)

// fastest runs f until the benchmark's time is over and returns the seconds of
// the fastest call: what the kernels can do, whoever else uses the machine.
func fastest(b *testing.B, f func()) float64 {
	best := math.Inf(1)
	for b.Loop() {
		start := time.Now()
		f()
		best = min(best, time.Since(start).Seconds())
	}
	return best
}

// The benchmarks run on one thread and give the rates of the fastest call. They
// multiply with matrices of the shape of a 1.1 B model's. For
// one token the matrices together are larger than the caches. Gop counts two
// for a multiply-add.

func BenchmarkPeak(b *testing.B) {
	pool := NewPool(1)
	defer pool.Close()
	buf := make([]byte, 512<<20)
	for i := range buf {
		buf[i] = byte(i)
	}
	for b.Loop() {
		b.ReportMetric(PeakFMA(time.Second/4)/1e9, "GFLOP/s")
		b.ReportMetric(PeakInt8(time.Second/4)/1e9, "Gop/s")
		b.ReportMetric(PeakRead(pool, buf, time.Second/2)/1e9, "GB/s")
	}
}

func BenchmarkMatMul(b *testing.B) {
	for _, typ := range weightTypes() {
		if !canDecode(typ) {
			continue
		}
		for _, mode := range []Compute{Exact, Int8} {
			b.Run(fmt.Sprintf("%s/%s/512", typ, mode), func(b *testing.B) { benchMatMul(b, typ, mode, 512, 1) })
			b.Run(fmt.Sprintf("%s/%s/1", typ, mode), func(b *testing.B) { benchMatMul(b, typ, mode, 1, 1) })
		}
	}
}

func benchMatMul(b *testing.B, typ quant.Type, mode Compute, n, threads int) {
	const rows, cols = 1024, 2048
	pool := NewPool(threads)
	defer pool.Close()
	r := rand.New(rand.NewPCG(1, 1))
	w := randomMatrix(r, typ, rows, cols)
	copies := 1
	if n == 1 {
		copies = 400<<20/len(w.Data) + 1
	}
	all := make([]Matrix, copies)
	for i := range all {
		all[i] = w
		if i > 0 {
			all[i].Data = append([]byte(nil), w.Data...)
		}
	}
	x, out := randomFloats(r, n*cols), make([]float32, n*rows)
	var ws Workspace
	MatMul(pool, &ws, mode, x, n, Product{w, out})
	i := 0
	seconds := fastest(b, func() {
		MatMul(pool, &ws, mode, x, n, Product{all[i%copies], out})
		i++
	})
	b.ReportMetric(2*rows*cols*float64(n)/seconds/1e9, "Gop/s")
	b.ReportMetric(float64(len(w.Data))/seconds/1e9, "GB/s")
}

func BenchmarkVector(b *testing.B) {
	const n = 4096
	r := rand.New(rand.NewPCG(1, 1))
	x, y, w := randomFloats(r, n), randomFloats(r, n), randomFloats(r, n)
	out := make([]float32, n)
	cos, sin := randomFloats(r, 32), randomFloats(r, 32)
	run := func(name string, f func()) {
		b.Run(name, func(b *testing.B) {
			seconds := fastest(b, func() {
				for range 10 {
					f()
				}
			})
			b.ReportMetric(10*n/seconds/1e9, "Gelem/s")
		})
	}
	run("RMSNorm", func() { RMSNorm(out, x, w, n, 1e-5) })
	run("LayerNorm", func() { LayerNorm(out, x, w, y, n, 1e-5) })
	run("Softmax", func() { copy(out, x); Softmax(out) })
	run("LogSumExp", func() { LogSumExp(x) })
	run("SiLUMul", func() { SiLUMul(out, x, y) })
	run("GELU", func() { GELU(out, x) })
	run("GELUErf", func() { GELUErf(out, x) })
	run("GELUQuick", func() { GELUQuick(out, x) })
	run("Softcap", func() { Softcap(out, 30) })
	run("Add", func() { Add(out, x) })
	run("Scale", func() { Scale(out, 1) })
	run("Dot", func() { Dot(x, y) })
	run("ArgMax", func() { ArgMax(x) })
	run("RopePairs", func() { Rope(out, 64, cos, sin, false) })
	run("RopeHalf", func() { Rope(out, 64, cos, sin, true) })
}

func BenchmarkAttention(b *testing.B) {
	for _, c := range []struct {
		n, pos, heads, kv int
		mode              Compute
	}{{512, 0, 8, 1, Exact}, {512, 0, 8, 1, Int8}, {1, 511, 32, 4, Exact}, {1, 4095, 32, 4, Exact}, {1, 511, 32, 32, Exact}} {
		for _, half := range []bool{false, true} {
			b.Run(fmt.Sprintf("%d at %d of %d over %d half=%t %s", c.n, c.pos, c.heads, c.kv, half, c.mode), func(b *testing.B) {
				const dim = 64
				r := rand.New(rand.NewPCG(1, 1))
				s := AttentionShape{Heads: c.heads, KVHeads: c.kv, HeadDim: dim, Scale: 0.125}
				size := (c.pos + c.n) * c.kv * dim
				q, k, v := randomFloats(r, c.n*c.heads*dim), Cache{F32: randomFloats(r, size)}, Cache{F32: randomFloats(r, size)}
				if half {
					kh, vh := make([]uint16, size), make([]uint16, size)
					ToHalf(kh, k.F32)
					ToHalf(vh, v.F32)
					k, v = Cache{F16: kh}, Cache{F16: vh}
				}
				out := make([]float32, len(q))
				var ws Workspace
				seconds := fastest(b, func() { Attention(nil, &ws, c.mode, s, out, q, k, v, c.n, c.pos) })
				var seen float64
				for t := range c.n {
					seen += float64(c.pos + t + 1)
				}
				b.ReportMetric(seen*float64(c.heads)*dim*4/seconds/1e9, "GFLOP/s")
			})
		}
	}
}

// BenchmarkTile runs the micro-kernels on operands in the first-level cache:
// the rate that a product of matrices can reach.
func BenchmarkTile(b *testing.B) {
	for _, depth := range []int{64, 128, 256} {
		b.Run(fmt.Sprintf("F32/%d", depth), func(b *testing.B) {
			a, x, c := make([]float32, tile*strideF), make([]float32, lanes*depth), make([]float32, tile*lanes)
			seconds := fastest(b, func() {
				for range 100 {
					gemmF32(c, a, strideF, 1, x, depth, tile)
				}
			})
			b.ReportMetric(200*tile*lanes*float64(depth)/seconds/1e9, "Gop/s")
		})
	}
	for _, t := range []quant.Type{quant.Q4_0, quant.Q4_K, quant.Q6_K, quant.Q2_K} {
		b.Run("Int8/"+t.String(), func(b *testing.B) {
			const groups = 16
			u, acts, c := make([]byte, tile*strideI), make([]byte, groups*actGroup), make([]float32, tile*lanes)
			scale := make([]float32, tile*groupsI)
			seconds := fastest(b, func() {
				for range 100 {
					gemmInt8(&forms[t], c, u, scale, scale, acts, groups)
				}
			})
			b.ReportMetric(200*tile*lanes*groups*32/seconds/1e9, "Gop/s")
		})
	}
}

// BenchmarkDivergence is what verify does per position and model beside the
// forward pass.
func BenchmarkDivergence(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	p, q := randomFloats(r, 128<<10), randomFloats(r, 128<<10)
	b.SetBytes(int64(4 * (len(p) + len(q))))
	for b.Loop() {
		Divergence(p, q)
	}
}
