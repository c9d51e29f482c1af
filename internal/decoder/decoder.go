// Package decoder is the reference forward pass: it runs a decoder-only
// transformer from a GGUF file or straight from a checkpoint, as the
// description in package arch says. This file is the whole of it; weights.go
// finds the tensors.
//
// Shapes in comments are row-major with the fastest dimension last: a matrix
// (out, in) multiplies vectors of in elements.
package decoder

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/internal/arch"
	"github.com/smeltgguf/smelt/kernels"
	"github.com/smeltgguf/smelt/quant"
)

// MaxBatch is how many tokens go through the layers together: enough that
// unpacking a weight is paid once for many products, little enough that the
// activations stay small.
const MaxBatch = 512

// Options say how a model is run.
type Options struct {
	Context   int             // most tokens of a sequence
	Sequences int             // most sequences side by side; 0: one
	HalfCache bool            // keep keys and values in half precision
	Compute   kernels.Compute // arithmetic of the matrix products
	Pool      *kernels.Pool   // the cores to use; nil: one
	// Observe, if not nil, is shown the input of every matrix product: n rows
	// of x go through matrix number expert of the tensor. x is not to be kept.
	Observe func(tensor string, expert int, x []float32, n int)
}

// Decoder runs sequences, several side by side if it was made for them:
// position p of sequence s has slot s*Context+p. It is not safe for concurrent
// use.
type Decoder struct {
	desc *arch.Decoder
	w    *weights
	opt  Options
	ws   kernels.Workspace

	pos    []int           // per sequence: tokens in the cache
	keys   []kernels.Cache // per layer (slots, kvHeads*headDim)
	values []kernels.Cache // per layer (slots, kvHeads*headDim); with latent attention the keys
	hidden []float32       // (slots, embd): normed output of the last layer

	// Activations of a batch of n tokens.
	spans []span    // the sequences that they belong to
	x     []float32 // (n, embd) residual stream
	xb    []float32 // (n, embd) normed input of a block
	out   []float32 // (n, embd) a block's output
	q     []float32 // (n, heads*headDim)
	k, v  []float32 // (n, kvHeads*headDim)
	att   []float32 // (n, heads*headDim)
	gate  []float32 // (n, ffn)
	up    []float32 // (n, ffn)
	mla   latentState
	rope  [2]ropeTable // of global layers, of layers with a sliding window
	slope []float32    // (heads) what scores lose per position of distance, or nil
	probs []float32    // (n, experts)
	order []int        // experts, most probable first
	part  []float32    // (n, embd) tokens of one expert, gathered
	sum   []float32    // (n, embd) their outputs
}

// latentState are activations of latent attention.
type latentState struct {
	down    []float32 // (n, qRank)
	full    []float32 // (n, heads*keyDim) q as it is before it enters the latent space
	att     []float32 // (n, heads*valueDim)
	in, out []float32 // (n, widest) one head of the tokens, before and after a matrix
}

// New returns a decoder of the model.
func New(m *Model, opt Options) *Decoder {
	d := m.desc
	opt.Sequences = max(opt.Sequences, 1)
	slots := opt.Sequences * opt.Context
	n := min(slots, MaxBatch)
	kv := d.KVHeads * d.HeadDim
	dec := &Decoder{
		desc: d, w: &m.weights, opt: opt,
		pos:    make([]int, opt.Sequences),
		hidden: make([]float32, slots*d.Embd),
		x:      make([]float32, n*d.Embd),
		xb:     make([]float32, n*d.Embd),
		out:    make([]float32, n*d.Embd),
		q:      make([]float32, n*d.Heads*d.HeadDim),
		k:      make([]float32, n*kv),
		v:      make([]float32, n*kv),
		att:    make([]float32, n*d.Heads*d.HeadDim),
		gate:   make([]float32, n*max(d.FFN, d.ExpertFFN, d.SharedFFN)),
		up:     make([]float32, n*max(d.FFN, d.ExpertFFN, d.SharedFFN)),
		slope:  slopes(d.AlibiMax, d.Heads),
	}
	if d.Experts > 0 {
		dec.probs = make([]float32, n*d.Experts)
		dec.part = make([]float32, n*d.Embd)
		dec.sum = make([]float32, n*d.Embd)
	}
	for range d.Layers {
		dec.keys = append(dec.keys, newCache(slots*kv, opt.HalfCache))
		if d.MLA == nil {
			dec.values = append(dec.values, newCache(slots*kv, opt.HalfCache))
		}
	}
	if l := d.MLA; l != nil {
		dec.values = dec.keys
		dec.mla = latentState{
			down: make([]float32, n*l.QRank),
			full: make([]float32, n*d.Heads*l.KeyDim),
			att:  make([]float32, n*d.Heads*l.ValueDim),
			in:   make([]float32, n*max(l.KeyDim, l.KVRank)),
			out:  make([]float32, n*max(l.ValueDim, l.KVRank)),
		}
	}
	freqs := m.ropeFreqs
	if freqs == nil {
		freqs = m.ropeShort
		if opt.Context > d.Rope.OriginalContext {
			freqs = m.ropeLong
		}
	}
	dec.rope[0] = newRopeTable(&d.Rope, freqs, opt.Context)
	dec.rope[1] = dec.rope[0]
	if d.Rope.BaseLocal != 0 {
		local := arch.Rope{Dim: d.Rope.Dim, Half: d.Rope.Half, Base: d.Rope.BaseLocal}
		dec.rope[1] = newRopeTable(&local, nil, opt.Context)
	}
	return dec
}

func newCache(n int, half bool) kernels.Cache {
	if half {
		return kernels.Cache{F16: make([]uint16, n)}
	}
	return kernels.Cache{F32: make([]float32, n)}
}

// slopes are ALiBi's (arXiv:2108.12409): from the head of 2^(-most/heads) on a
// geometric sequence; heads beyond a power of two take every second of the one
// for twice as many. Without a largest exponent there are none.
func slopes(most float32, heads int) []float32 {
	if most == 0 {
		return nil
	}
	power := 1
	for 2*power <= heads {
		power *= 2
	}
	out := make([]float32, heads)
	for h := range out {
		e := float64(h+1) / float64(power)
		if h >= power {
			e = (float64(h-power) + 0.5) / float64(power)
		}
		out[h] = float32(math.Exp2(-float64(most) * e))
	}
	return out
}

// Sequences returns how many sequences can be run side by side.
func (d *Decoder) Sequences() int { return len(d.pos) }

// Vocab returns the number of logits per position.
func (d *Decoder) Vocab() int { return d.desc.Vocab }

// Pos returns the number of tokens of a sequence.
func (d *Decoder) Pos(seq int) int { return d.pos[seq] }

// Reset empties all sequences.
func (d *Decoder) Reset() { clear(d.pos) }

// Forward runs tokens, those of one or several sequences, from empty ones;
// Logits then gives their logits.
func (d *Decoder) Forward(ctx context.Context, seqs ...[]int32) error {
	d.Reset()
	return d.Append(ctx, seqs...)
}

// Fork gives the other sequences the first n tokens of sequence 0 in place of
// what they hold.
func (d *Decoder) Fork(n int) error {
	if n < 0 || n > d.pos[0] {
		return fmt.Errorf("%d tokens of a sequence that has %d", n, d.pos[0])
	}
	for s := 1; s < len(d.pos); s++ {
		for l := range d.keys {
			d.fork(&d.keys[l], s, n)
			if d.desc.MLA == nil {
				d.fork(&d.values[l], s, n)
			}
		}
		copy(d.hidden[s*d.opt.Context*d.desc.Embd:], d.hidden[:n*d.desc.Embd])
		d.pos[s] = n
	}
	return nil
}

func (d *Decoder) fork(c *kernels.Cache, seq, n int) {
	kv := d.desc.KVHeads * d.desc.HeadDim
	if c.F32 != nil {
		copy(c.F32[seq*d.opt.Context*kv:], c.F32[:n*kv])
	} else {
		copy(c.F16[seq*d.opt.Context*kv:], c.F16[:n*kv])
	}
}

// span is a run of tokens of a batch that belong to one sequence.
type span struct {
	seq   int
	first int // its first token in the batch
	n     int
	pos   int // of the first token in the sequence
}

// Append runs tokens after those that the sequences hold: seqs[s] continues
// sequence s. A file of weights that is cut short meanwhile is an error.
func (d *Decoder) Append(ctx context.Context, seqs ...[]int32) error {
	if len(seqs) > len(d.pos) {
		return fmt.Errorf("%d sequences at once: the decoder was made for %d", len(seqs), len(d.pos))
	}
	for s, tokens := range seqs {
		if d.pos[s]+len(tokens) > d.opt.Context {
			return fmt.Errorf("%d tokens after %d exceed the context of %d", len(tokens), d.pos[s], d.opt.Context)
		}
		if most := d.w.positions.Rows; most > 0 && d.pos[s]+len(tokens) > most {
			return fmt.Errorf("%d tokens after %d: the model has embeddings of %d positions", len(tokens), d.pos[s], most)
		}
		for _, t := range tokens {
			if t < 0 || int(t) >= d.desc.Vocab {
				return fmt.Errorf("token %d: the vocabulary has %d", t, d.desc.Vocab)
			}
		}
	}
	return formats.Guard(func() error {
		var batch []int32
		d.spans = d.spans[:0]
		for s, tokens := range seqs {
			for len(tokens) > 0 {
				n := min(len(tokens), MaxBatch-len(batch))
				d.spans = append(d.spans, span{seq: s, first: len(batch), n: n, pos: d.pos[s]})
				batch, tokens = append(batch, tokens[:n]...), tokens[n:]
				if len(batch) == MaxBatch {
					if err := d.batch(ctx, batch); err != nil {
						return err
					}
					batch, d.spans = batch[:0], d.spans[:0]
				}
			}
		}
		if len(batch) == 0 {
			return nil
		}
		return d.batch(ctx, batch)
	})
}

// Logits writes the logits of n slots of one sequence from slot first on: dst
// is (n, vocab).
func (d *Decoder) Logits(dst []float32, first, n int) error {
	if seq := first / d.opt.Context; first < 0 || n < 0 || seq >= len(d.pos) || first%d.opt.Context+n > d.pos[seq] {
		return fmt.Errorf("slots %d to %d: the %d sequences of %d hold %v tokens", first, first+n, len(d.pos), d.opt.Context, d.pos)
	}
	e := d.desc.Embd
	return formats.Guard(func() error {
		d.mul(d.hidden[first*e:(first+n)*e], n, to{&d.w.output, dst})
		d.share(n, d.desc.Vocab, func(from, to int) {
			part := dst[from*d.desc.Vocab : to*d.desc.Vocab]
			scale(part, d.desc.LogitScale)
			if c := d.desc.LogitSoftcap; c != 0 {
				kernels.Softcap(part, c)
			}
		})
		return nil
	})
}

// piece is how many elements are worth another core's attention.
const piece = 1 << 14

// share divides work on n rows of the given width between the cores: f does
// rows from to to-1.
func (d *Decoder) share(n, width int, f func(from, to int)) {
	rows := max(1, piece/width)
	items := (n + rows - 1) / rows
	if items <= 1 {
		f(0, n)
		return
	}
	d.opt.Pool.Run(items, func(_, i int) { f(i*rows, min((i+1)*rows, n)) })
}

// batch runs n tokens, those of d.spans, through all layers and appends them to
// their sequences.
func (d *Decoder) batch(ctx context.Context, tokens []int32) error {
	a, n := d.desc, len(tokens)
	x := d.x[:n*a.Embd]
	for i, t := range tokens {
		row(x[i*a.Embd:(i+1)*a.Embd], &d.w.tokenEmbd, int(t))
	}
	scale(x, a.EmbdScale)
	if d.w.positions.Rows > 0 {
		for _, s := range d.spans {
			for i := range s.n {
				row(d.out[:a.Embd], &d.w.positions, s.pos+i)
				kernels.Add(x[(s.first+i)*a.Embd:], d.out[:a.Embd])
			}
		}
	}
	for l := range d.w.layers {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		w := &d.w.layers[l]
		xb, out := d.xb[:n*a.Embd], d.out[:n*a.Embd]

		d.norm(xb, x, &w.attnNorm)
		if w.parallel {
			// Both blocks read the same residual stream; the feed-forward norms
			// it for itself where it has a norm (GPT-NeoX, Falcon 40B), before
			// attention adds to it.
			d.attention(out, xb, l, n)
			if w.ffnNorm.w != nil {
				d.norm(xb, x, &w.ffnNorm)
			}
			d.residual(x, out)
		} else {
			d.attention(out, xb, l, n)
			d.norm(out, out, &w.attnPost)
			d.residual(x, out)
			d.norm(xb, x, &w.ffnNorm)
		}
		d.feedForward(out, xb, w, n)
		d.norm(out, out, &w.ffnPost)
		d.residual(x, out)
	}
	for _, s := range d.spans {
		at := (s.seq*d.opt.Context + s.pos) * a.Embd
		d.norm(d.hidden[at:at+s.n*a.Embd], x[s.first*a.Embd:(s.first+s.n)*a.Embd], &d.w.outputNorm)
		d.pos[s.seq] += s.n
	}
	return nil
}

// row decodes row i of an embedding.
func row(dst []float32, w *kernels.Matrix, i int) {
	size := w.Type.RowSize(w.Cols)
	quant.Decode(w.Type, dst, w.Data[i*size:(i+1)*size])
}

// attention computes a block's attention: out (n, embd) from xb (n, embd). The
// keys and values of the n tokens join the context.
func (d *Decoder) attention(out, xb []float32, l, n int) {
	a, w := d.desc, &d.w.layers[l]
	kvDim := a.KVHeads * a.HeadDim
	q, k, v := d.q[:n*a.Heads*a.HeadDim], d.k[:n*kvDim], d.v[:n*kvDim]
	rope, window := &d.rope[0], 0
	if !a.Global(l) {
		rope, window = &d.rope[1], a.Window
	}
	if a.MLA != nil {
		d.latent(q, k, xb, w, rope, n)
	} else {
		d.mul(xb, n, to{&w.wq, q}, to{&w.wk, k}, to{&w.wv, v})
		if c := a.ClampQKV; c > 0 {
			for _, x := range [][]float32{q, k, v} {
				kernels.Clamp(x, -c, c)
			}
		}
		d.norm(q, q, &w.qNorm)
		d.norm(k, k, &w.kNorm)
		if a.NoRopeStep == 0 || l%a.NoRopeStep != a.NoRopeStep-1 {
			d.rotate(rope, q, a.HeadDim, a.Heads, 0)
			d.rotate(rope, k, a.HeadDim, a.KVHeads, 0)
		}
	}

	att := d.att[:n*a.Heads*a.HeadDim]
	shape := kernels.AttentionShape{
		Heads: a.Heads, KVHeads: a.KVHeads, HeadDim: a.HeadDim,
		Scale: a.AttnScale, Softcap: a.AttnSoftcap, Window: window, Sinks: w.sinks, Slopes: d.slope,
	}
	if shape.Scale == 0 {
		shape.Scale = float32(1 / math.Sqrt(float64(a.HeadDim)))
	}
	width := a.Heads * a.HeadDim
	for _, s := range d.spans {
		from, to := s.first*kvDim, (s.first+s.n)*kvDim
		keys := d.store(&d.keys[l], k[from:to], s)
		values := keys
		if a.MLA == nil {
			values = d.store(&d.values[l], v[from:to], s)
		}
		kernels.Attention(d.opt.Pool, &d.ws, d.opt.Compute, shape, att[s.first*width:], q[s.first*width:], keys, values, s.n, s.pos)
	}
	if m := a.MLA; m != nil {
		// (n, heads, kvRank) of att -> (n, heads, valueDim)
		d.perHead(d.mla.att, m.ValueDim, att, a.HeadDim, w.mla.value, n)
		att = d.mla.att[:n*a.Heads*m.ValueDim]
	}
	d.mul(att, n, to{&w.wo, out})
}

// store appends x (n, kvHeads*headDim), a span's keys or values, to a cache, and
// returns the span's sequence of it.
func (d *Decoder) store(c *kernels.Cache, x []float32, s span) kernels.Cache {
	width := len(x) / s.n
	from, to := s.seq*d.opt.Context*width, (s.seq+1)*d.opt.Context*width
	if c.F32 != nil {
		copy(c.F32[from+s.pos*width:], x)
		return kernels.Cache{F32: c.F32[from:to]}
	}
	kernels.ToHalf(c.F16[from+s.pos*width:][:len(x)], x)
	return kernels.Cache{F16: c.F16[from:to]}
}

// rotate turns dim elements of each head of x (n, heads, headDim), those from
// skip on, by their tokens' positions.
func (d *Decoder) rotate(t *ropeTable, x []float32, headDim, heads, skip int) {
	row := heads * headDim
	for _, s := range d.spans {
		d.share(s.n, row, func(from, to int) {
			t.apply(x[(s.first+from)*row:(s.first+to)*row], headDim, heads, skip, s.pos+from)
		})
	}
}

// latent computes latent attention's queries and what it keeps of n tokens: k
// (n, kvRank+ropeDim) is a normed vector that stands for all heads' keys and
// values, and the rotated part of the keys; q (n, heads, kvRank+ropeDim) are
// the queries that ask for these.
func (d *Decoder) latent(q, k, xb []float32, w *layer, rope *ropeTable, n int) {
	a, m := d.desc, d.desc.MLA
	full, nope := d.mla.full[:n*a.Heads*m.KeyDim], m.KeyDim-a.Rope.Dim
	if m.QRank > 0 {
		down := d.mla.down[:n*m.QRank]
		d.mul(xb, n, to{&w.mla.qDown, down}, to{&w.mla.down, k})
		d.norm(down, down, &w.mla.qNorm)
		d.mul(down, n, to{&w.mla.qUp, full})
	} else {
		d.mul(xb, n, to{&w.wq, full}, to{&w.mla.down, k})
	}
	for i := range n {
		c := k[i*a.HeadDim:][:m.KVRank]
		d.norm(c, c, &w.mla.norm)
	}
	d.rotate(rope, k, a.HeadDim, 1, m.KVRank)
	d.rotate(rope, full, m.KeyDim, a.Heads, nope)
	// (n, heads, nope) of full -> (n, heads, kvRank) of q
	d.perHead(q, a.HeadDim, full, m.KeyDim, w.mla.key, n)
	for i := range n * a.Heads {
		copy(q[i*a.HeadDim+m.KVRank:(i+1)*a.HeadDim], full[i*m.KeyDim+nope:])
	}
}

// perHead multiplies the first elements of each head of x (n, heads, inStride)
// with the head's own matrix; the products are the first elements of each head
// of out (n, heads, outStride).
func (d *Decoder) perHead(out []float32, outStride int, x []float32, inStride int, w []linear, n int) {
	for h := range w {
		rows, cols := w[h].w.Rows, w[h].w.Cols
		for i := range n {
			copy(d.mla.in[i*cols:(i+1)*cols], x[(i*len(w)+h)*inStride:])
		}
		d.mul(d.mla.in[:n*cols], n, to{&w[h], d.mla.out[:n*rows]})
		for i := range n {
			copy(out[(i*len(w)+h)*outStride:], d.mla.out[i*rows:(i+1)*rows])
		}
	}
}

// feedForward computes out (n, embd) from xb (n, embd).
func (d *Decoder) feedForward(out, xb []float32, w *layer, n int) {
	if w.router.none() {
		d.dense(out, xb, &w.ffn, n)
		return
	}
	a := d.desc
	probs := d.probs[:n*a.Experts]
	d.mul(xb, n, to{&w.router, probs})
	clear(out)
	route := d.route(probs, w.routerBias, n)
	for e := range w.experts {
		// The tokens that chose this expert go through it together.
		tokens := route[e]
		for i, t := range tokens {
			copy(d.part[i*a.Embd:(i+1)*a.Embd], xb[t.token*a.Embd:])
		}
		if len(tokens) == 0 {
			continue
		}
		d.dense(d.sum, d.part, &w.experts[e], len(tokens))
		for i, t := range tokens {
			kernels.ScaleAdd(out[t.token*a.Embd:], d.sum[i*a.Embd:(i+1)*a.Embd], t.weight)
		}
	}
	if w.shared.up.none() {
		return
	}
	d.dense(d.sum, xb, &w.shared, n)
	gates := d.probs[:n] // (n, 1); without gates all count in full
	if !w.sharedGate.none() {
		d.mul(xb, n, to{&w.sharedGate, gates})
	}
	for i := range n {
		weight := float32(1)
		if !w.sharedGate.none() {
			weight = sigmoid(gates[i])
		}
		kernels.ScaleAdd(out[i*a.Embd:], d.sum[i*a.Embd:(i+1)*a.Embd], weight)
	}
}

func sigmoid(x float32) float32 { return float32(1 / (1 + math.Exp(-float64(x)))) }

// choice is a token that an expert is to process, and the weight of the result.
type choice struct {
	token  int
	weight float32
}

// route picks each token's experts from the router's logits (n, experts): those
// of the highest scores, which are the probabilities plus bias, weighted by
// their probabilities. It returns the tokens of each expert.
func (d *Decoder) route(logits, bias []float32, n int) [][]choice {
	a := d.desc
	out := make([][]choice, a.Experts)
	for t := range n {
		p := logits[t*a.Experts : (t+1)*a.Experts]
		if a.ExpertSigmoid {
			for e, x := range p {
				p[e] = sigmoid(x)
			}
		} else {
			kernels.Softmax(p)
		}
		score := p
		if bias != nil {
			score = slices.Clone(p)
			kernels.Add(score, bias)
		}
		d.order = d.order[:0]
		for e := range score {
			d.order = append(d.order, e)
		}
		byScore := func(x, y int) int { return cmp.Compare(score[y], score[x]) }
		if a.ExpertGroups > 1 {
			d.order = bestGroups(d.order, score, a.ExpertGroups, a.ExpertGroupsUsed, byScore)
		}
		slices.SortStableFunc(d.order, byScore)
		used := d.order[:a.ExpertsUsed]
		scale := float32(1)
		if a.ExpertNorm {
			var sum float32
			for _, e := range used {
				sum += p[e]
			}
			scale = 1 / sum
		}
		if a.ExpertScale != 0 {
			scale *= a.ExpertScale
		}
		for _, e := range used {
			out[e] = append(out[e], choice{t, p[e] * scale})
		}
	}
	return out
}

// bestGroups returns the experts of the groups whose two best experts have the
// highest scores together (arXiv:2412.19437).
func bestGroups(experts []int, score []float32, groups, used int, byScore func(x, y int) int) []int {
	size := len(experts) / groups
	var list [][]int
	for g := range groups {
		group := experts[g*size : (g+1)*size]
		slices.SortStableFunc(group, byScore)
		list = append(list, group)
	}
	best := func(g []int) float32 { return score[g[0]] + score[g[1]] }
	slices.SortStableFunc(list, func(x, y []int) int { return cmp.Compare(best(y), best(x)) })
	return slices.Concat(list[:used]...)
}

// dense computes one feed-forward network: down(act(gate(x)) * up(x)), or
// down(act(up(x))) where there is no gate.
func (d *Decoder) dense(out, x []float32, f *feedForward, n int) {
	a := d.desc
	width := f.up.w.Rows
	up := d.up[:n*width]
	if f.gate.none() {
		d.mul(x, n, to{&f.up, up})
		d.share(n, width, func(from, to int) { activate(up[from*width:to*width], a.Activation) })
		d.mul(up, n, to{&f.down, out})
		return
	}
	if d.opt.Observe == nil && f.gate.bias == nil && f.up.bias == nil {
		// Nobody wants to see what is between the matrices.
		down := kernels.Product{W: f.down.w, Out: out}
		kernels.FeedForward(d.opt.Pool, &d.ws, d.opt.Compute, x, n, f.gate.w, f.up.w, d.activateGate, down)
		d.addBias(to{&f.down, out}, n)
		return
	}
	gate := d.gate[:n*width]
	d.mul(x, n, to{&f.gate, gate}, to{&f.up, up})
	d.share(n, width, func(from, to int) { d.activateGate(gate[from*width:to*width], up[from*width:to*width]) })
	d.mul(gate, n, to{&f.down, out})
}

// to names a matrix and where its product goes.
type to struct {
	l   *linear
	out []float32 // (n, out)
}

// mul multiplies x (n, in) with one or several matrices of the same width and
// adds their biases.
func (d *Decoder) mul(x []float32, n int, tos ...to) {
	var products [3]kernels.Product
	for i, t := range tos {
		products[i] = kernels.Product{W: t.l.w, Out: t.out}
	}
	kernels.MatMul(d.opt.Pool, &d.ws, d.opt.Compute, x, n, products[:len(tos)]...)
	if d.opt.Observe != nil {
		for _, t := range tos {
			if t.l.name == "" {
				continue
			}
			d.opt.Observe(t.l.name, t.l.expert, x, n)
		}
	}
	for _, t := range tos {
		d.addBias(t, n)
	}
}

// addBias adds a matrix's bias, if it has one, to its product for n tokens.
func (d *Decoder) addBias(t to, n int) {
	if t.l.bias == nil {
		return
	}
	width := len(t.l.bias)
	d.share(n, width, func(from, to int) {
		for i := from; i < to; i++ {
			kernels.Add(t.out[i*width:(i+1)*width], t.l.bias)
		}
	})
}

// norm normalises each run of w.width elements of x, which each have the same
// weights or, in turn, those of their head; without weights it copies.
func (d *Decoder) norm(out, x []float32, w *norm) {
	if w.w == nil {
		copy(out, x)
		return
	}
	weight := w.w
	if len(weight) != w.width {
		weight = nil
	}
	row := len(w.w) // what the weights are for
	d.share(len(x)/row, row, func(from, to int) {
		out, x := out[from*row:to*row], x[from*row:to*row]
		if d.desc.Norm == arch.LayerNorm {
			kernels.LayerNorm(out, x, weight, w.b, w.width, d.desc.NormEps)
		} else {
			kernels.RMSNorm(out, x, weight, w.width, d.desc.NormEps)
		}
		if weight == nil {
			for i := 0; i < len(out); i += row {
				kernels.Mul(out[i:i+row], w.w)
			}
		}
	})
}

// residual adds what a block computed to the residual stream.
func (d *Decoder) residual(x, out []float32) {
	row := d.desc.Embd
	d.share(len(x)/row, row, func(from, to int) {
		x, out := x[from*row:to*row], out[from*row:to*row]
		scale(out, d.desc.ResidualScale)
		kernels.Add(x, out)
	})
}

// scale multiplies by f; 0 stands for 1.
func scale(x []float32, f float32) {
	if f != 0 && f != 1 {
		kernels.Scale(x, f)
	}
}

// activate applies the feed-forward's non-linearity.
func activate(x []float32, f arch.Activation) {
	switch f {
	case arch.GELU:
		kernels.GELU(x, x)
	case arch.GELUErf:
		kernels.GELUErf(x, x)
	case arch.ReLUSquared:
		kernels.ReLUSquared(x, x)
	default:
		kernels.SiLU(x, x)
	}
}

// activateGate computes gate = act(gate) * up.
func (d *Decoder) activateGate(gate, up []float32) {
	switch d.desc.Activation {
	case arch.SiLU:
		kernels.SiLUMul(gate, gate, up)
		return
	case arch.SwiGLUClamped:
		kernels.SwiGLUClamped(gate, up, 7)
		return
	default:
		activate(gate, d.desc.Activation)
	}
	kernels.Mul(gate, up)
}
