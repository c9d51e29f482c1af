//go:build unix

package kernels

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/smeltgguf/smelt/quant"
)

// cpuSeconds returns the processor time that the process has taken: steadier
// than the clock where others use the machine too.
func cpuSeconds() float64 {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return float64(u.Utime.Sec) + float64(u.Utime.Usec)/1e6
}

// The benchmarks run on one thread and give rates per second of processor time.
// They multiply with matrices of the shape of a 1.1 B model's. For
// one token the matrices together are larger than the caches. Gop counts two
// for a multiply-add.

func BenchmarkPeak(b *testing.B) {
	pool := NewPool(1)
	defer pool.Close()
	buf := make([]byte, 256<<20)
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
	const rows, cols = 2048, 2048
	pool := NewPool(threads)
	defer pool.Close()
	r := rand.New(rand.NewPCG(1, 1))
	w := randomMatrix(r, typ, rows, cols)
	copies := 1
	if n == 1 {
		copies = 512<<20/len(w.Data) + 1
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
	i, start := 0, cpuSeconds()
	for b.Loop() {
		MatMul(pool, &ws, mode, x, n, Product{all[i%copies], out})
		i++
	}
	seconds := (cpuSeconds() - start) / float64(b.N)
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
			for b.Loop() {
				f()
			}
			b.ReportMetric(n*float64(b.N)/b.Elapsed().Seconds()/1e9, "Gelem/s")
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
	for _, c := range []struct{ n, pos, heads, kv int }{{512, 0, 32, 4}, {1, 511, 32, 4}, {1, 4095, 32, 4}, {1, 511, 32, 32}} {
		for _, half := range []bool{false, true} {
			b.Run(fmt.Sprintf("%d at %d of %d over %d half=%t", c.n, c.pos, c.heads, c.kv, half), func(b *testing.B) {
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
				for b.Loop() {
					Attention(nil, &ws, s, out, q, k, v, c.n, c.pos)
				}
				var seen float64
				for t := range c.n {
					seen += float64(c.pos + t + 1)
				}
				b.ReportMetric(seen*float64(c.heads)*dim*4*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
			})
		}
	}
}
