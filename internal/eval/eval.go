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
	"io"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"

	"github.com/smeltgguf/smelt/internal/baseline"
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

	// Baseline, if not nil, stands for the base model and says which chunks are
	// scored; Ctx, Stride and Seed are its own then.
	Baseline baseline.Reader
	// Save, if not nil, is given what the base model says.
	Save *baseline.Writer

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
	// MeanKLDBound is how far MeanKLD may be from that of the full distributions,
	// KLDBound the same of any single position and so of quantiles; only of a
	// baseline that leaves something out. See BoundZ.
	MeanKLDBound float64 `json:"mean_kld_bound,omitempty"`
	KLDBound     float64 `json:"kld_bound,omitempty"`
	MedianKLD    float64 `json:"median_kld"`
	KLD90        float64 `json:"kld_90"`
	KLD95        float64 `json:"kld_95"`
	KLD99        float64 `json:"kld_99"`
	KLD999       float64 `json:"kld_99_9"`
	MaxKLD       float64 `json:"max_kld"`
	MinKLD       float64 `json:"min_kld"`
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

// logitsBytes bounds the logits that are held of all models at a time. Those of
// many positions share one unpacking of the output matrix.
const logitsBytes = 48 << 20

// batch is of how many positions logits are held at a time: a multiple of what
// the products take side by side, where there is room.
func batch(ctx, vocab, models int) int {
	const side = 32
	n := min(logitsBytes/(4*vocab*models), ctx)
	if n >= side {
		n -= n % side
	}
	return max(n, 1)
}

// BoundZ is how many standard deviations of the chance that went into a baseline
// the bounds of its figures are: a sum of thousands of independent errors is
// farther off once in 16,000 times.
const BoundZ = 4

// Run measures models on tokens. With a base, every model is compared with it
// position by position; base may be nil. The names go into the result. With
// opt.Baseline base has a path only, and tokens are not looked at.
func Run(ctx context.Context, base *Named, models []Named, tokens []int32, opt Options) (*Result, error) {
	var starts []int
	total := 0
	if h := header(opt.Baseline); h != nil {
		opt.Ctx, opt.Stride = h.Ctx, h.Stride
		if total = h.Chunks; opt.Chunks > 0 {
			total = min(total, opt.Chunks)
		}
	} else {
		var err error
		if starts, err = ChunkStarts(len(tokens), &opt); err != nil {
			return nil, err
		}
		total = len(starts)
	}
	all := slices.Clone(models)
	if base != nil {
		all = slices.Insert(all, 0, *base)
	}
	if len(all) == 0 {
		return nil, errors.New("no model to measure")
	}
	live := all[0]
	if live.Model == nil {
		if len(models) == 0 {
			return nil, errors.New("no model to measure")
		}
		live = models[0]
	}
	vocab := live.Model.Vocab()
	if h := header(opt.Baseline); h != nil && h.Vocab != vocab {
		return nil, fmt.Errorf("%s: vocabulary of %d tokens, %s has %d: they cannot be compared", live.Path, vocab, all[0].Path, h.Vocab)
	}
	for _, m := range all {
		if m.Model != nil && m.Model.Vocab() != vocab {
			return nil, fmt.Errorf("%s: vocabulary of %d tokens, %s has %d: they cannot be compared", m.Path, m.Model.Vocab(), live.Path, vocab)
		}
	}
	for i, t := range tokens {
		if t < 0 || int(t) >= vocab {
			return nil, fmt.Errorf("%s: token %d of the text is %d, the model's vocabulary has %d", all[0].Path, i, t, vocab)
		}
	}
	r := &run{opt: opt, base: base != nil, vocab: vocab, models: all, total: total}
	r.acc = make([]accumulator, len(all))
	running := 0
	for _, m := range all {
		if m.Model != nil {
			running++
		}
	}
	r.batch = batch(opt.Ctx, vocab, running)
	r.logits = make([][]float32, len(all))
	for i, m := range all {
		if m.Model == nil {
			continue
		}
		r.logits[i] = make([]float32, r.batch*vocab)
	}
	if opt.Baseline != nil {
		return r.recorded(ctx)
	}
	side := len(starts)
	for _, m := range all {
		side = min(side, m.Model.Sequences())
	}
	for i, s := range starts {
		if i%side == 0 {
			var chunks [][]int32
			for _, s := range starts[i:min(i+side, len(starts))] {
				chunks = append(chunks, tokens[s:s+opt.Ctx])
			}
			if err := r.forward(ctx, chunks); err != nil {
				return r.result(true), err
			}
		}
		if stop, err := r.score(s, tokens[s:s+opt.Ctx], i%side); stop || err != nil {
			return r.ended(stop), err
		}
	}
	return r.result(true), nil
}

func header(b baseline.Reader) *baseline.Header {
	if b == nil {
		return nil
	}
	return b.Header()
}

// recorded runs the models on the chunks of the baseline.
func (r *run) recorded(ctx context.Context) (*Result, error) {
	for r.opt.Chunks == 0 || r.chunks < r.opt.Chunks {
		start, chunk, err := r.opt.Baseline.Chunk()
		if errors.Is(err, io.EOF) {
			r.total = r.chunks
			break
		}
		if err != nil {
			return r.result(true), err
		}
		if err := r.forward(ctx, [][]int32{chunk}); err != nil {
			return r.result(true), err
		}
		if stop, err := r.score(start, chunk, 0); stop || err != nil {
			return r.ended(stop), err
		}
	}
	return r.result(true), nil
}

// ended is the result of a run that Options.Stop or an error ends.
func (r *run) ended(decided bool) *Result {
	res := r.result(true)
	res.Decided = decided
	return res
}

// Named is a model with the path that it was given by. Model is nil where a
// baseline stands for it.
type Named struct {
	Path  string
	Model Model
}

// ChunkStarts returns where in a text of n tokens the chunks to be scored begin; it
// sets opt.Stride where that is to be the context.
func ChunkStarts(n int, opt *Options) ([]int, error) {
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

	kept     []baseline.Row // of the baseline, for the positions at hand
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

	variance, maxVariance float64 // of the errors of kls: sum and largest
}

// rowFigures is what one position gives for one model.
type rowFigures struct {
	nll, kl, dp, same, top5 float64
	variance                float64 // of kl's error
}

// forward runs every model on chunks of the text.
func (r *run) forward(ctx context.Context, chunks [][]int32) error {
	if r.opt.BOS >= 0 {
		chunks = slices.Clone(chunks)
		for i, c := range chunks {
			chunks[i] = slices.Clone(c)
			chunks[i][0] = r.opt.BOS
		}
	}
	for _, m := range r.models {
		if m.Model == nil {
			continue
		}
		if err := m.Model.Forward(ctx, chunks...); err != nil {
			return fmt.Errorf("%s: %w", m.Path, err)
		}
	}
	return nil
}

// First is the first position of a chunk that is scored, the last being ctx-2:
// half a chunk stands before it, and with a stride below that each position counts
// once.
func First(ctx, stride int) int { return max(ctx/2, ctx-1-stride) }

// score scores the second half of one chunk, which begins at position start of
// the text and is number at of those that forward ran; stop is true if that
// decides the run.
func (r *run) score(start int, chunk []int32, at int) (stop bool, err error) {
	first := First(r.opt.Ctx, r.opt.Stride)
	if h := header(r.opt.Baseline); h != nil {
		first = h.First
	}
	r.chunkNLL = make([]mean, len(r.models))
	rows := make([][]rowFigures, len(r.models))
	for i := range rows {
		rows[i] = make([]rowFigures, r.batch)
	}
	if r.opt.Save != nil {
		if err := r.opt.Save.Chunk(start, chunk); err != nil {
			return false, err
		}
	}
	// Positions first..Ctx-2 predict a token that is known.
	for p := first; p < r.opt.Ctx-1; {
		n := min(r.batch, r.opt.Ctx-1-p)
		if r.opt.Baseline != nil {
			if r.kept, err = r.opt.Baseline.Rows(n); err != nil {
				return false, err
			}
			n = len(r.kept)
		}
		for i, m := range r.models {
			if m.Model == nil {
				continue
			}
			if err := m.Model.Logits(r.logits[i][:n*r.vocab], at*r.opt.Ctx+p, n); err != nil {
				return false, fmt.Errorf("%s: %w", m.Path, err)
			}
		}
		targets := chunk[p+1 : p+1+n]
		if r.opt.Save != nil {
			if err := r.opt.Save.Rows(r.logits[0][:n*r.vocab], targets); err != nil {
				return false, err
			}
		}
		if err := r.scoreRows(rows, targets); err != nil {
			return false, fmt.Errorf("%s: chunk %d, positions %d to %d: %w", r.models[0].Path, r.chunks, p, p+n-1, err)
		}
		for k := range n {
			for i := range r.models {
				r.acc[i].add(rows[i][k], rows[0][k].nll, r.base && i > 0)
				r.chunkNLL[i].add(rows[i][k].nll)
			}
			for i := range r.models {
				if v := rows[i][k].nll; math.IsNaN(v) || math.IsInf(v, 0) {
					return false, fmt.Errorf("%s: log-likelihood is %v at chunk %d, position %d: the model's output is not finite", r.models[i].Path, v, r.chunks, p+k)
				}
			}
		}
		p += n
	}
	r.chunks++
	r.segments.add(start, r.chunkNLL)
	if r.opt.Progress != nil {
		per := int64(r.opt.Ctx * len(r.models))
		r.opt.Progress(Progress{
			Chunks: r.chunks, TotalChunks: r.total,
			Tokens: int64(r.chunks) * per, TotalTokens: int64(r.total) * per,
			Result: r.result(false),
		})
	}
	return r.opt.Stop != nil && r.chunks < r.total && r.opt.Stop(r.result(false)), nil
}

// scoreRows fills rows from the logits held for len(targets) positions, positions
// side by side on all cores.
func (r *run) scoreRows(rows [][]rowFigures, targets []int32) error {
	var wg sync.WaitGroup
	workers := min(runtime.GOMAXPROCS(0), len(targets))
	errs := make([]error, workers)
	for w := range workers {
		wg.Go(func() {
			for k := w; k < len(targets) && errs[w] == nil; k += workers {
				errs[w] = r.scoreRow(rows, k, targets[k])
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (r *run) scoreRow(rows [][]rowFigures, k int, target int32) error {
	row := func(i int) []float32 { return r.logits[i][k*r.vocab : (k+1)*r.vocab] }
	if !r.base || len(r.models) == 1 && r.opt.Baseline == nil {
		for i := range r.models {
			x := row(i)
			rows[i][k] = rowFigures{nll: kernels.LogSumExp(x) - float64(x[target])}
		}
		return nil
	}
	var places [2][topK]int
	var baseTop []int
	if r.opt.Baseline != nil {
		rows[0][k] = rowFigures{nll: r.kept[k].NLL(target)}
		baseTop = r.kept[k].Top(places[0][:])
	} else {
		baseTop = kernels.Top(places[0][:], row(0))
	}
	for i := 1; i < len(r.models); i++ {
		x := row(i)
		var c baseline.Comparison
		if r.opt.Baseline != nil {
			var err error
			if c, err = r.kept[k].Compare(x, target); err != nil {
				return err
			}
		} else {
			kl, lseBase, lse := kernels.Divergence(row(0), x)
			c = baseline.Comparison{NLL: lse - float64(x[target]), BaseNLL: lseBase - float64(row(0)[target]), KL: kl}
		}
		f := rowFigures{nll: c.NLL, kl: c.KL, variance: c.Variance}
		f.dp = math.Exp(-f.nll) - math.Exp(-c.BaseNLL)
		t := kernels.Top(places[1][:], x)
		if len(t) > 0 && len(baseTop) > 0 && t[0] == baseTop[0] {
			f.same = 1
		}
		f.top5 = overlap(baseTop, t)
		rows[0][k].nll, rows[i][k] = c.BaseNLL, f
	}
	return nil
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
	a.variance += f.variance
	a.maxVariance = max(a.maxVariance, f.variance)
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
	if a.variance > 0 {
		c.MeanKLDBound = BoundZ*math.Sqrt(a.variance)/float64(a.kl.n) + baseline.Storage
		c.KLDBound = BoundZ*math.Sqrt(a.maxVariance) + baseline.Storage
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
