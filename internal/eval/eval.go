// Package eval measures language models on a text: perplexity of one, and of
// others against it perplexity ratio, KL divergence and agreement of the
// tokens they find most probable. Definitions are those of llama-perplexity;
// sums are float64 and logits are compared in full, so that there is no error
// but the models' own.
package eval

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"

	"github.com/smeltgguf/smelt/kernels"
)

// Model is a language model that can be measured.
type Model interface {
	// Vocab is the number of logits per position.
	Vocab() int
	// Sequences is how many chunks Forward takes.
	Sequences() int
	// Forward runs chunks of Options.Ctx tokens, each from an empty context, side
	// by side, and keeps what Logits needs.
	Forward(ctx context.Context, chunks ...[]int32) error
	// Logits writes the logits of n positions from position first of the last
	// Forward on, that of position p of chunk c being c*Ctx+p: dst is (n, Vocab()).
	Logits(dst []float32, first, n int) error
}

// Options say which parts of a text are scored.
type Options struct {
	Ctx    int    // tokens per chunk; at least 4
	Stride int    // tokens from one chunk's start to the next's; 0: Ctx
	Chunks int    // how many chunks; 0: all
	Seed   uint64 // not 0: a random sample of Chunks chunks in place of the first
	BOS    int32  // replaces the first token of each chunk; -1: nothing does

	// Progress is called after each chunk; nil: not.
	Progress func(Progress)
	// Stop is asked after each chunk; true ends the run early. What it is given
	// has no quantiles yet, but minimum and maximum. nil: never.
	Stop func(*Result) bool
}

// Progress is what is known after a chunk.
type Progress struct {
	Chunks, TotalChunks int
	Tokens, TotalTokens int64 // of all models together
	Result              *Result
}

// Result is what a run found. For a base model and for a run without one the
// comparison's fields are zero.
type Result struct {
	Ctx      int  `json:"ctx"`
	Chunks   int  `json:"chunks"`
	Tokens   int  `json:"tokens"` // that each model was run on
	Scored   int  `json:"scored"` // positions that count
	Complete bool `json:"complete"`
	Decided  bool `json:"decided,omitempty"` // Options.Stop ended the run
	// SegmentStarts divides what was scored into stretches of the text: the
	// position, in tokens, where each begins. KLDEdges are the bounds between the
	// bins of the models' KLDHistogram, in nats. Both are only in Run's result.
	SegmentStarts []int     `json:"segment_starts,omitempty"`
	KLDEdges      []float64 `json:"kld_edges,omitempty"`
	Base          *Figures  `json:"base,omitempty"`
	Models        []Figures `json:"models"`
}

// Figures are one model's. Compared ones are against the base; differences of
// probability are fractions, not per cent.
type Figures struct {
	Path string  `json:"path"`
	PPL  float64 `json:"ppl"`
	// PPLSE is PPL's standard error, as are the other fields so named.
	PPLSE   float64 `json:"ppl_se"`
	MeanNLL float64 `json:"mean_nll"` // nats per token; PPL = exp of it
	// SegmentPPL is the perplexity of each of Result.SegmentStarts.
	SegmentPPL []float64 `json:"segment_ppl,omitempty"`

	*Comparison // nil for the base and where there is none
}

// Comparison holds a model's figures against the base.
type Comparison struct {
	PPLRatio     float64 `json:"ppl_ratio"`
	PPLRatioSE   float64 `json:"ppl_ratio_se"`
	LnPPLRatio   float64 `json:"ln_ppl_ratio"`
	LnPPLRatioSE float64 `json:"ln_ppl_ratio_se"`
	PPLDiff      float64 `json:"ppl_diff"`
	PPLDiffSE    float64 `json:"ppl_diff_se"`
	Correlation  float64 `json:"correlation"` // of the tokens' log-likelihoods

	MeanKLD   float64 `json:"mean_kld"` // nats
	MeanKLDSE float64 `json:"mean_kld_se"`
	MedianKLD float64 `json:"median_kld"`
	KLD90     float64 `json:"kld_90"`
	KLD95     float64 `json:"kld_95"`
	KLD99     float64 `json:"kld_99"`
	KLD999    float64 `json:"kld_99_9"`
	MaxKLD    float64 `json:"max_kld"`
	MinKLD    float64 `json:"min_kld"`
	// KLDHistogram counts positions by KL divergence: below the first of
	// Result.KLDEdges, from each edge to the next, from the last on.
	KLDHistogram []int `json:"kld_histogram,omitempty"`

	MeanDP   float64 `json:"mean_dp"` // change in the right token's probability
	MeanDPSE float64 `json:"mean_dp_se"`
	RMSDP    float64 `json:"rms_dp"`
	RMSDPSE  float64 `json:"rms_dp_se"`
	MinDP    float64 `json:"min_dp"`
	DP01     float64 `json:"dp_1"`
	DP05     float64 `json:"dp_5"`
	DP10     float64 `json:"dp_10"`
	MedianDP float64 `json:"median_dp"`
	DP90     float64 `json:"dp_90"`
	DP95     float64 `json:"dp_95"`
	DP99     float64 `json:"dp_99"`
	MaxDP    float64 `json:"max_dp"`

	SameTop     float64 `json:"same_top"` // share of positions with the same most probable token
	SameTopSE   float64 `json:"same_top_se"`
	Top5Overlap float64 `json:"top5_overlap"`
}

// batchBytes bounds the logits that are held of each model at a time.
const batchBytes = 16 << 20

// Run measures models on tokens. With a base, every model is compared with it
// position by position; base may be nil. The names go into the result.
func Run(ctx context.Context, base *Named, models []Named, tokens []int32, opt Options) (*Result, error) {
	starts, err := chunkStarts(len(tokens), &opt)
	if err != nil {
		return nil, err
	}
	all := slices.Clone(models)
	if base != nil {
		all = slices.Insert(all, 0, *base)
	}
	if len(all) == 0 {
		return nil, errors.New("no model to measure")
	}
	vocab := all[0].Model.Vocab()
	for _, m := range all[1:] {
		if m.Model.Vocab() != vocab {
			return nil, fmt.Errorf("%s: vocabulary of %d tokens, %s has %d: they cannot be compared", m.Path, m.Model.Vocab(), all[0].Path, vocab)
		}
	}
	for i, t := range tokens {
		if t < 0 || int(t) >= vocab {
			return nil, fmt.Errorf("%s: token %d of the text is %d, the model's vocabulary has %d", all[0].Path, i, t, vocab)
		}
	}
	r := &run{opt: opt, base: base != nil, vocab: vocab, models: all, total: len(starts)}
	r.acc = make([]accumulator, len(all))
	r.batch = max(1, min(opt.Ctx, batchBytes/(4*vocab)))
	r.logits = make([][]float32, len(all))
	for i := range r.logits {
		r.logits[i] = make([]float32, r.batch*vocab)
	}
	side := len(starts)
	for _, m := range all {
		side = min(side, m.Model.Sequences())
	}
	for i, s := range starts {
		if i%side == 0 {
			if err := r.forward(ctx, tokens, starts[i:min(i+side, len(starts))]); err != nil {
				return r.result(true), err
			}
		}
		if err := r.score(tokens[s:s+opt.Ctx], i%side); err != nil {
			return r.result(true), err
		}
		r.segments.add(s, r.chunkNLL)
		if opt.Progress != nil {
			opt.Progress(Progress{
				Chunks: r.chunks, TotalChunks: r.total,
				Tokens: int64(r.chunks * opt.Ctx * len(all)), TotalTokens: int64(r.total * opt.Ctx * len(all)),
				Result: r.result(false),
			})
		}
		if opt.Stop != nil && r.chunks < r.total && opt.Stop(r.result(false)) {
			res := r.result(true)
			res.Decided = true
			return res, nil
		}
	}
	return r.result(true), nil
}

// Named is a model with the path that it was given by.
type Named struct {
	Path  string
	Model Model
}

// chunkStarts returns where the chunks to be scored begin.
func chunkStarts(n int, opt *Options) ([]int, error) {
	if opt.Ctx < 4 {
		return nil, fmt.Errorf("context of %d tokens: at least 4 are needed", opt.Ctx)
	}
	if opt.Stride <= 0 || opt.Stride > opt.Ctx {
		opt.Stride = opt.Ctx
	}
	var starts []int
	for s := 0; s+opt.Ctx <= n; s += opt.Stride {
		starts = append(starts, s)
	}
	if len(starts) == 0 {
		return nil, fmt.Errorf("the text has %d tokens, one chunk takes %d: use a longer text or a smaller context", n, opt.Ctx)
	}
	if opt.Chunks > 0 && opt.Chunks < len(starts) {
		if opt.Seed != 0 {
			rng := rand.New(rand.NewPCG(opt.Seed, 0))
			rng.Shuffle(len(starts), func(i, j int) { starts[i], starts[j] = starts[j], starts[i] })
		}
		starts = starts[:opt.Chunks]
		slices.Sort(starts)
	}
	return starts, nil
}

// run is the state of one Run.
type run struct {
	opt    Options
	base   bool // models[0] is the base
	vocab  int
	models []Named
	acc    []accumulator
	batch  int         // positions whose logits are held at a time
	logits [][]float32 // per model (batch, vocab)
	total  int
	chunks int

	segments segments
	chunkNLL []mean // of the last chunk, per model
}

// accumulator holds what has been seen of one model.
type accumulator struct {
	nll     pair // negative log-likelihoods: the model's, the base's
	kl      mean
	kls     []float64
	dp, dp2 mean
	dps     []float64
	klRange [2]float64 // smallest and largest of kls
	dpRange [2]float64
	same    mean
	top5    mean
}

// rowFigures is what one position gives for one model.
type rowFigures struct {
	nll, kl, dp, same, top5 float64
}

// forward runs every model on the chunks that begin at starts.
func (r *run) forward(ctx context.Context, tokens []int32, starts []int) error {
	chunks := make([][]int32, len(starts))
	for i, s := range starts {
		chunks[i] = tokens[s : s+r.opt.Ctx]
		if r.opt.BOS >= 0 {
			chunks[i] = slices.Clone(chunks[i])
			chunks[i][0] = r.opt.BOS
		}
	}
	for _, m := range r.models {
		if err := m.Model.Forward(ctx, chunks...); err != nil {
			return fmt.Errorf("%s: %w", m.Path, err)
		}
	}
	return nil
}

// score scores the second half of one chunk, number at of those that forward
// ran.
func (r *run) score(chunk []int32, at int) error {
	// Positions first..Ctx-2 predict a token that is known; with a stride
	// below half the context each position counts once.
	first := max(r.opt.Ctx/2, r.opt.Ctx-1-r.opt.Stride)
	r.chunkNLL = make([]mean, len(r.models))
	rows := make([][]rowFigures, len(r.models))
	for i := range rows {
		rows[i] = make([]rowFigures, r.batch)
	}
	for p := first; p < r.opt.Ctx-1; p += r.batch {
		n := min(r.batch, r.opt.Ctx-1-p)
		for i, m := range r.models {
			if err := m.Model.Logits(r.logits[i][:n*r.vocab], at*r.opt.Ctx+p, n); err != nil {
				return fmt.Errorf("%s: %w", m.Path, err)
			}
		}
		r.scoreRows(rows, chunk[p+1:p+1+n])
		for k := range n {
			for i := range r.models {
				r.acc[i].add(rows[i][k], rows[0][k].nll, r.base && i > 0)
				r.chunkNLL[i].add(rows[i][k].nll)
			}
			for i := range r.models {
				if v := rows[i][k].nll; math.IsNaN(v) || math.IsInf(v, 0) {
					return fmt.Errorf("%s: log-likelihood is %v at chunk %d, position %d: the model's output is not finite", r.models[i].Path, v, r.chunks, p+k)
				}
			}
		}
	}
	r.chunks++
	return nil
}

// scoreRows fills rows from the logits held for len(targets) positions, positions
// side by side on all cores.
func (r *run) scoreRows(rows [][]rowFigures, targets []int32) {
	var wg sync.WaitGroup
	workers := min(runtime.GOMAXPROCS(0), len(targets))
	for w := range workers {
		wg.Go(func() {
			for k := w; k < len(targets); k += workers {
				r.scoreRow(rows, k, targets[k])
			}
		})
	}
	wg.Wait()
}

func (r *run) scoreRow(rows [][]rowFigures, k int, target int32) {
	row := func(i int) []float32 { return r.logits[i][k*r.vocab : (k+1)*r.vocab] }
	first := row(0)
	if !r.base {
		for i := range r.models {
			x := row(i)
			rows[i][k] = rowFigures{nll: kernels.LogSumExp(x) - float64(x[target])}
		}
		return
	}
	if len(r.models) == 1 {
		rows[0][k] = rowFigures{nll: kernels.LogSumExp(first) - float64(first[target])}
		return
	}
	baseTop := top(first)
	for i := 1; i < len(r.models); i++ {
		x := row(i)
		kl, lseBase, lse := kernels.Divergence(first, x)
		base := rowFigures{nll: lseBase - float64(first[target])}
		f := rowFigures{nll: lse - float64(x[target]), kl: kl}
		f.dp = math.Exp(-f.nll) - math.Exp(-base.nll)
		t := top(x)
		if t[0] == baseTop[0] {
			f.same = 1
		}
		f.top5 = overlap(t, baseTop)
		rows[0][k], rows[i][k] = base, f
	}
}

func (a *accumulator) add(f rowFigures, baseNLL float64, compared bool) {
	a.nll.add(f.nll, baseNLL)
	if !compared {
		return
	}
	if len(a.kls) == 0 {
		a.klRange, a.dpRange = [2]float64{f.kl, f.kl}, [2]float64{f.dp, f.dp}
	}
	a.klRange = [2]float64{min(a.klRange[0], f.kl), max(a.klRange[1], f.kl)}
	a.dpRange = [2]float64{min(a.dpRange[0], f.dp), max(a.dpRange[1], f.dp)}
	a.kl.add(f.kl)
	a.kls = append(a.kls, f.kl)
	a.dp.add(f.dp)
	a.dp2.add(f.dp * f.dp)
	a.dps = append(a.dps, f.dp)
	a.same.add(f.same)
	a.top5.add(f.top5)
}

// result sums up what has been seen so far; quantiles, which need a sort, and
// distributions only on request.
func (r *run) result(quantiles bool) *Result {
	res := &Result{Ctx: r.opt.Ctx, Chunks: r.chunks, Tokens: r.chunks * r.opt.Ctx, Scored: r.acc[0].nll.x.n, Complete: r.chunks == r.total}
	if quantiles {
		res.SegmentStarts = r.segments.starts()
		if r.base && len(r.models) > 1 {
			res.KLDEdges = kldEdges()
		}
	}
	for i := range r.acc {
		f := r.acc[i].figures()
		f.Path = r.models[i].Path
		if quantiles {
			f.SegmentPPL = r.segments.ppl(i)
		}
		if r.base && i == 0 {
			res.Base = &f
			continue
		}
		if r.base && r.chunks > 0 {
			f.Comparison = r.acc[i].comparison(quantiles)
		}
		res.Models = append(res.Models, f)
	}
	return res
}

func (a *accumulator) figures() Figures {
	nll := a.nll.x.value()
	ppl := math.Exp(nll)
	return Figures{PPL: ppl, PPLSE: ppl * a.nll.x.se(), MeanNLL: nll}
}

func (a *accumulator) comparison(quantiles bool) *Comparison {
	x, y := &a.nll.x, &a.nll.y
	lnRatio, cov := x.value()-y.value(), a.nll.cov()
	ppl, base := math.Exp(x.value()), math.Exp(y.value())
	c := &Comparison{
		LnPPLRatio:   lnRatio,
		LnPPLRatioSE: math.Sqrt(math.Max(0, sq(x.se())+sq(y.se())-2*cov)),
		PPLRatio:     math.Exp(lnRatio),
		PPLDiff:      ppl - base,
		PPLDiffSE:    math.Sqrt(math.Max(0, sq(ppl*x.se())+sq(base*y.se())-2*ppl*base*cov)),
		Correlation:  a.nll.correlation(),
		MeanKLD:      a.kl.value(),
		MeanKLDSE:    a.kl.se(),
		MinKLD:       a.klRange[0],
		MaxKLD:       a.klRange[1],
		MinDP:        a.dpRange[0],
		MaxDP:        a.dpRange[1],
		MeanDP:       a.dp.value(),
		MeanDPSE:     a.dp.se(),
		SameTop:      a.same.value(),
		SameTopSE:    a.same.se(),
		Top5Overlap:  a.top5.value(),
	}
	c.PPLRatioSE = c.PPLRatio * c.LnPPLRatioSE
	c.RMSDP, c.RMSDPSE = rms(&a.dp2)
	if !quantiles {
		return c
	}
	kls, dps := sorted(a.kls), sorted(a.dps)
	c.KLDHistogram = histogram(kls, kldEdges())
	for _, q := range []struct {
		to     *float64
		sorted []float64
		q      float64
	}{
		{&c.MedianKLD, kls, 0.5}, {&c.KLD90, kls, 0.9}, {&c.KLD95, kls, 0.95},
		{&c.KLD99, kls, 0.99}, {&c.KLD999, kls, 0.999},
		{&c.DP01, dps, 0.01}, {&c.DP05, dps, 0.05}, {&c.DP10, dps, 0.1}, {&c.MedianDP, dps, 0.5},
		{&c.DP90, dps, 0.9}, {&c.DP95, dps, 0.95}, {&c.DP99, dps, 0.99},
	} {
		*q.to = quantile(q.sorted, q.q)
	}
	return c
}

func sq(x float64) float64 { return x * x }
