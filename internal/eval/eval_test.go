package eval

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
)

// tableModel gives logits that depend on position and token alone.
type tableModel struct {
	vocab  int
	seed   uint64
	noise  float64
	side   int // chunks at once; 0: one
	ctx    int // of the last chunks
	tokens []int32
	seen   [][]int32
}

func (m *tableModel) Vocab() int { return m.vocab }

func (m *tableModel) Sequences() int { return max(1, m.side) }

func (m *tableModel) Forward(_ context.Context, chunks ...[]int32) error {
	if len(chunks) > m.Sequences() {
		return fmt.Errorf("%d chunks, not %d", len(chunks), m.Sequences())
	}
	m.tokens, m.ctx = slices.Concat(chunks...), len(chunks[0])
	for _, c := range chunks {
		m.seen = append(m.seen, slices.Clone(c))
	}
	return nil
}

func (m *tableModel) row(pos int) []float32 {
	base := rand.New(rand.NewPCG(7, uint64(pos%m.ctx)<<32|uint64(m.tokens[pos])))
	noise := rand.New(rand.NewPCG(m.seed, uint64(pos%m.ctx)))
	x := make([]float32, m.vocab)
	for i := range x {
		x[i] = float32(2*base.NormFloat64() + m.noise*noise.NormFloat64())
	}
	return x
}

func (m *tableModel) Logits(dst []float32, first, n int) error {
	for k := range n {
		copy(dst[k*m.vocab:], m.row(first+k))
	}
	return nil
}

func softmax(x []float32) []float64 {
	var sum float64
	p := make([]float64, len(x))
	for i, v := range x {
		p[i] = math.Exp(float64(v))
		sum += p[i]
	}
	for i := range p {
		p[i] /= sum
	}
	return p
}

func text(n, vocab int) []int32 {
	rng := rand.New(rand.NewPCG(1, 2))
	t := make([]int32, n)
	for i := range t {
		t[i] = int32(rng.IntN(vocab))
	}
	return t
}

func near(t *testing.T, what string, got, want, tol float64) {
	t.Helper()
	if !(math.Abs(got-want) <= tol) {
		t.Errorf("%s = %.12g, want %.12g", what, got, want)
	}
}

// TestRunAgainstDirectSums computes every figure again from full probability
// vectors and the textbook formulas; what remains is the float32 exponentials.
func TestRunAgainstDirectSums(t *testing.T) {
	const vocab, ctx = 50, 16
	tokens := text(100, vocab)
	base, model := &tableModel{vocab: vocab}, &tableModel{vocab: vocab, seed: 9, noise: 0.3}
	res, err := Run(context.Background(), &Named{"base", base}, []Named{{"model", model}}, tokens, Options{Ctx: ctx, BOS: 1})
	if err != nil {
		t.Fatal(err)
	}
	if res.Chunks != 6 || res.Scored != 6*(ctx-1-ctx/2) || !res.Complete {
		t.Fatalf("chunks %d, scored %d, complete %v", res.Chunks, res.Scored, res.Complete)
	}
	var nll, nllBase, kl, dp, dp2, same float64
	var kls []float64
	n := 0.0
	for c := range 6 {
		chunk := slices.Clone(tokens[c*ctx : (c+1)*ctx])
		chunk[0] = 1
		base.tokens, model.tokens = chunk, chunk
		if !slices.Equal(base.seen[c], chunk) {
			t.Fatalf("chunk %d was run on %v, want %v", c, base.seen[c], chunk)
		}
		for pos := ctx / 2; pos < ctx-1; pos++ {
			p, q := softmax(base.row(pos)), softmax(model.row(pos))
			target := chunk[pos+1]
			nllBase -= math.Log(p[target])
			nll -= math.Log(q[target])
			var k float64
			for i := range p {
				k += p[i] * math.Log(p[i]/q[i])
			}
			kl += k
			kls = append(kls, k)
			dp += q[target] - p[target]
			dp2 += (q[target] - p[target]) * (q[target] - p[target])
			if slices.Index(p, slices.Max(p)) == slices.Index(q, slices.Max(q)) {
				same++
			}
			n++
		}
	}
	m := res.Models[0]
	near(t, "base ppl", res.Base.PPL, math.Exp(nllBase/n), 1e-5)
	near(t, "ppl", m.PPL, math.Exp(nll/n), 1e-5)
	near(t, "ppl_ratio", m.PPLRatio, math.Exp((nll-nllBase)/n), 1e-7)
	near(t, "ppl_diff", m.PPLDiff, math.Exp(nll/n)-math.Exp(nllBase/n), 1e-5)
	near(t, "mean_kld", m.MeanKLD, kl/n, 1e-7)
	slices.Sort(kls)
	near(t, "max_kld", m.MaxKLD, kls[len(kls)-1], 1e-7)
	near(t, "median_kld", m.MedianKLD, (kls[(len(kls)-1)/2]+kls[len(kls)/2])/2, 1e-7)
	near(t, "mean_dp", m.MeanDP, dp/n, 1e-7)
	near(t, "rms_dp", m.RMSDP, math.Sqrt(dp2/n), 1e-7)
	near(t, "same_top", m.SameTop, same/n, 1e-12)
	if m.Correlation < 0.8 || m.Correlation > 1 {
		t.Errorf("correlation %g of nearly equal models", m.Correlation)
	}
	if m.PPLSE <= 0 || m.MeanKLDSE <= 0 || m.PPLRatioSE <= 0 || m.PPLRatioSE > m.PPLSE {
		t.Errorf("standard errors: ppl %g, kld %g, ratio %g", m.PPLSE, m.MeanKLDSE, m.PPLRatioSE)
	}
}

func TestRunOnItself(t *testing.T) {
	m := &tableModel{vocab: 20}
	res, err := Run(context.Background(), &Named{"a", m}, []Named{{"b", m}}, text(64, 20), Options{Ctx: 32, BOS: -1})
	if err != nil {
		t.Fatal(err)
	}
	c := res.Models[0]
	if c.MeanKLD > 1e-14 || c.PPLRatio != 1 || c.SameTop != 1 || c.Top5Overlap != 1 || c.RMSDP != 0 || c.Correlation != 1 {
		t.Errorf("a model against itself: %+v", c.Comparison)
	}
}

// TestStride checks that with overlapping chunks each position is scored once.
func TestStride(t *testing.T) {
	m := &tableModel{vocab: 20}
	res, err := Run(context.Background(), nil, []Named{{"a", m}}, text(64, 20), Options{Ctx: 32, Stride: 8, BOS: -1})
	if err != nil {
		t.Fatal(err)
	}
	if res.Chunks != 5 || res.Scored != 5*8 {
		t.Errorf("chunks %d, scored %d; want 5 and 40", res.Chunks, res.Scored)
	}
	if res.Base != nil || res.Models[0].Comparison != nil {
		t.Error("a comparison without a base")
	}
}

// TestSideBySide checks that chunks run together give what they give alone,
// whatever remains for the last run.
func TestSideBySide(t *testing.T) {
	run := func(side int) *Result {
		base, m := &tableModel{vocab: 20, side: side}, &tableModel{vocab: 20, seed: 1, noise: 0.3, side: side + 1}
		res, err := Run(context.Background(), &Named{"base", base}, []Named{{"m", m}}, text(16*7, 20), Options{Ctx: 16, BOS: 1})
		if err != nil {
			t.Fatal(err)
		}
		if len(m.seen) != 7 {
			t.Errorf("%d side by side: ran %d chunks", side, len(m.seen))
		}
		for i, c := range m.seen {
			if len(c) != 16 || c[0] != 1 {
				t.Errorf("%d side by side: chunk %d is %v", side, i, c)
			}
		}
		return res
	}
	want := run(1)
	for _, side := range []int{2, 3, 7, 9} {
		if got := run(side); !reflect.DeepEqual(got, want) {
			t.Errorf("%d side by side: %+v, want %+v", side, got, want)
		}
	}
}

func TestSample(t *testing.T) {
	a, err := ChunkStarts(1000, &Options{Ctx: 10, Chunks: 5, Seed: 3})
	if err != nil {
		t.Fatal(err)
	}
	b, _ := ChunkStarts(1000, &Options{Ctx: 10, Chunks: 5, Seed: 3})
	c, _ := ChunkStarts(1000, &Options{Ctx: 10, Chunks: 5})
	if !slices.Equal(a, b) || !slices.IsSorted(a) || slices.Equal(a, c) {
		t.Errorf("samples %v %v, first chunks %v", a, b, c)
	}
}

func TestRunErrors(t *testing.T) {
	m, other := &tableModel{vocab: 20}, &tableModel{vocab: 21}
	for _, tt := range []struct {
		name   string
		base   *Named
		tokens []int32
		ctx    int
		want   string
	}{
		{"short text", nil, text(10, 20), 32, "the text has 10 tokens, one chunk takes 32: use a longer text or a smaller context"},
		{"small context", nil, text(10, 20), 3, "context of 3 tokens: at least 4 are needed"},
		{"vocabularies", &Named{"b", other}, text(32, 20), 32, "m: vocabulary of 20 tokens, b has 21: they cannot be compared"},
		{"token", nil, slices.Repeat([]int32{20}, 32), 32, "m: token 0 of the text is 20, the model's vocabulary has 20"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Run(context.Background(), tt.base, []Named{{"m", m}}, tt.tokens, Options{Ctx: tt.ctx, BOS: -1})
			if err == nil || err.Error() != tt.want {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

// failing is a model whose logits are not finite.
type failing struct{ tableModel }

func (m *failing) Logits(dst []float32, _, _ int) error {
	for i := range dst {
		dst[i] = float32(math.NaN())
	}
	return nil
}

func TestRunNotFinite(t *testing.T) {
	_, err := Run(context.Background(), nil, []Named{{"m", &failing{tableModel{vocab: 20}}}}, text(32, 20), Options{Ctx: 32, BOS: -1})
	if err == nil {
		t.Error("NaN logits were scored")
	}
}

type cancelled struct{ tableModel }

func (m *cancelled) Forward(ctx context.Context, chunks ...[]int32) error {
	if len(m.seen) == 2 {
		return context.Canceled
	}
	return m.tableModel.Forward(ctx, chunks...)
}

func TestRunInterrupted(t *testing.T) {
	res, err := Run(context.Background(), nil, []Named{{"m", &cancelled{tableModel{vocab: 20}}}}, text(100, 20), Options{Ctx: 20, BOS: -1})
	if !errors.Is(err, context.Canceled) || res == nil || res.Chunks != 2 || res.Complete {
		t.Errorf("result %+v, error %v; want what two chunks gave", res, err)
	}
}

func TestGates(t *testing.T) {
	res := &Result{Models: []Figures{{Path: "m", PPL: 10, Comparison: &Comparison{MeanKLD: 0.02, SameTop: 0.9, PPLRatio: 1.01}}}}
	for _, tt := range []struct {
		gate Gate
		pass bool
	}{
		{Gate{"mean_kld", 0.02}, true},
		{Gate{"mean_kld", 0.0199}, false},
		{Gate{"same_top", 0.9}, true},
		{Gate{"same_top", 0.91}, false},
		{Gate{"ppl", 9}, false},
		{Gate{"ppl_ratio", 1.02}, true},
	} {
		out := Check(res, [][]Gate{{tt.gate}})
		if len(out) != 1 || out[0].Passed != tt.pass {
			t.Errorf("%v: %+v", tt.gate, out)
		}
	}
	if err := (Gate{"mean_kl", 1}).Validate(); err == nil {
		t.Error("an unknown figure is a gate")
	}
	single := &Result{Models: []Figures{{Path: "m", PPL: 10}}}
	if Check(single, [][]Gate{{{"mean_kld", 1}}})[0].Passed {
		t.Error("a figure that was not measured passes")
	}
}

func TestDecided(t *testing.T) {
	c := &Comparison{MeanKLD: 0.02, MeanKLDSE: 0.001, SameTop: 1, MaxKLD: 3, MinDP: -0.4, KLD99: 0.1}
	res := &Result{Chunks: 10, Scored: 1000, Models: []Figures{{Path: "m", PPL: 10, PPLSE: 0.1, MeanNLL: math.Log(10), Comparison: c}}}
	for _, tt := range []struct {
		gate Gate
		want bool
	}{
		{Gate{"mean_kld", 0.0226}, true}, // 0.02 + 2.58*0.001 = 0.02258
		{Gate{"mean_kld", 0.0225}, false},
		{Gate{"mean_kld", 0.0174}, true},
		{Gate{"mean_kld", 0.0175}, false},
		{Gate{"mean_nll", math.Log(10) + 0.026}, true},
		{Gate{"mean_nll", math.Log(10) - 0.025}, false},
		{Gate{"ppl", 10.2}, false},
		// All of 1000 agree: the share may still be 0.995, not 0.99.
		{Gate{"same_top", 0.99}, true},
		{Gate{"same_top", 0.995}, false},
		{Gate{"max_kld", 2}, true},
		{Gate{"max_kld", 4}, false},
		{Gate{"min_dp", -0.3}, true},
		{Gate{"min_dp", -0.5}, false},
		{Gate{"kld_99", 5}, false},
	} {
		if got := Decided(res, [][]Gate{{tt.gate}}); got != tt.want {
			t.Errorf("%v: decided %v", tt.gate, got)
		}
	}
	if Decided(res, [][]Gate{{{"mean_kld", 1}, {"ppl", 10}}}) {
		t.Error("decided with one gate open")
	}
	res.Chunks = 3
	if Decided(res, [][]Gate{{{"mean_kld", 1}}}) {
		t.Error("decided after three chunks")
	}
}

// TestStop ends a run as soon as it is decided, with all figures.
func TestStop(t *testing.T) {
	base, model := &tableModel{vocab: 50}, &tableModel{vocab: 50, seed: 9, noise: 0.3}
	gates := [][]Gate{{{"mean_kld", 1e-6}, {"max_kld", 1e-6}}}
	res, err := Run(context.Background(), &Named{"base", base}, []Named{{"model", model}}, text(320, 50), Options{
		Ctx: 16, BOS: -1, Stop: func(r *Result) bool { return Decided(r, gates) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if res.Chunks != minDecision || !res.Decided || res.Complete || res.Models[0].KLD99 == 0 {
		t.Errorf("chunks %d, decided %v, complete %v, 99%% KL %g", res.Chunks, res.Decided, res.Complete, res.Models[0].KLD99)
	}
}

// TestJSONNames holds the names that docs/verify.md promises.
func TestJSONNames(t *testing.T) {
	b, err := json.Marshal(Result{Base: &Figures{Path: "b", PPL: 2}, Models: []Figures{{Path: "m", Comparison: &Comparison{}}}})
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Base   map[string]any
		Models []map[string]any
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	for _, k := range []string{"path", "ppl", "ppl_se", "ppl_ratio", "mean_kld", "max_kld", "same_top"} {
		if _, ok := v.Models[0][k]; !ok {
			t.Errorf("models[0] has no %q: %s", k, b)
		}
	}
	if _, ok := v.Base["mean_kld"]; ok || v.Base["ppl"] != 2.0 {
		t.Errorf("base: %v", v.Base)
	}
}

func TestQuantile(t *testing.T) {
	for _, tt := range []struct{ q, want float64 }{{0, 1}, {1, 5}, {0.5, 3}, {0.25, 2}, {0.9, 4.6}} {
		near(t, "quantile", quantile([]float64{1, 2, 3, 4, 5}, tt.q), tt.want, 1e-12)
	}
}

func TestBatch(t *testing.T) {
	for _, tt := range []struct{ ctx, vocab, models, want int }{
		{512, 512, 2, 512},       // all
		{500, 512, 2, 480},       // as many as products take
		{20, 512, 2, 20},         // fewer than that
		{512, 49152, 2, 128},     // as there is room for
		{4096, 131072, 2, 32},    // the same
		{4096, 262144, 16, 3},    // less
		{4096, 256 << 20, 16, 1}, // one there must be
	} {
		if got := batch(tt.ctx, tt.vocab, tt.models); got != tt.want {
			t.Errorf("context %d, %d tokens, %d models: %d positions, want %d", tt.ctx, tt.vocab, tt.models, got, tt.want)
		}
	}
}
