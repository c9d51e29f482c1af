package eval

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/smeltgguf/smelt/kernels"
	"github.com/smeltgguf/smelt/quant"
)

// BenchmarkStatistics measures what two models' figures cost per position of a
// vocabulary of 128k tokens, beside the last matrix product alone of one of two
// passes, (128k, 2048) in BF16: the least that makes the logits, and in a model of
// a billion weights a fifth of the pass.
func BenchmarkStatistics(b *testing.B) {
	const vocab, embd, n = 128 << 10, 2048, 32
	rng := rand.New(rand.NewPCG(1, 1))
	r := &run{base: true, vocab: vocab, models: make([]Named, 2), logits: make([][]float32, 2), batch: n}
	rows := make([][]rowFigures, 2)
	for i := range r.logits {
		r.logits[i] = make([]float32, n*vocab)
		for k := range r.logits[i] {
			r.logits[i][k] = float32(3 * rng.NormFloat64())
		}
		rows[i] = make([]rowFigures, n)
	}
	targets := make([]int32, n)

	pool := kernels.NewPool(0)
	defer pool.Close()
	var ws kernels.Workspace
	w := kernels.Matrix{Type: quant.BF16, Rows: vocab, Cols: embd, Data: make([]byte, 2*vocab*embd)}
	x, out := make([]float32, n*embd), make([]float32, n*vocab)
	product := func() time.Duration {
		start := time.Now()
		kernels.MatMul(pool, &ws, kernels.Exact, x, n, kernels.Product{W: w, Out: out})
		return time.Since(start)
	}
	product()
	best := product()
	for range 3 {
		best = min(best, product())
	}
	stats := time.Duration(1 << 62)
	for b.Loop() {
		start := time.Now()
		if err := r.scoreRows(rows, targets); err != nil {
			b.Fatal(err)
		}
		stats = min(stats, time.Since(start))
	}
	b.ReportMetric(float64(stats.Microseconds())/n, "µs/position")
	b.ReportMetric(100*float64(stats)/float64(2*best), "%-of-both-products")
}
