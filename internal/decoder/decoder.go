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

	"github.com/smeltgguf/smelt/internal/arch"
	"github.com/smeltgguf/smelt/kernels"
	"github.com/smeltgguf/smelt/quant"
)

// maxBatch is how many tokens go through the layers together: enough that
// unpacking a weight is paid once for many products, little enough that the
// activations stay small.
const maxBatch = 512

// Options say how a model is run.
type Options struct {
	Context int             // most tokens of a sequence
	Compute kernels.Compute // arithmetic of the matrix products
	Pool    *kernels.Pool   // the cores to use; nil: one
	// Observe, if not nil, is shown the input of every matrix product: n rows
	// of x go through matrix number expert of the tensor. x is not to be kept.
	Observe func(tensor string, expert int, x []float32, n int)
}

// Decoder runs one sequence at a time. It is not safe for concurrent use.
type Decoder struct {
	desc *arch.Decoder
	w    *weights
	opt  Options
	ws   kernels.Workspace

	pos    int         // tokens in the cache
	keys   [][]float32 // per layer (context, kvHeads*headDim)
	values [][]float32 // per layer (context, kvHeads*headDim)
	hidden []float32   // (context, embd): normed output of the last layer

	// Activations of a batch of n tokens.
	x     []float32    // (n, embd) residual stream
	xb    []float32    // (n, embd) normed input of a block
	out   []float32    // (n, embd) a block's output
	q     []float32    // (n, heads*headDim)
	att   []float32    // (n, heads*headDim)
	gate  []float32    // (n, ffn)
	up    []float32    // (n, ffn)
	rope  [2]ropeTable // of global layers, of layers with a sliding window
	probs []float32    // (n, experts)
	order []int        // experts, most probable first
	part  []float32    // (n, embd) tokens of one expert, gathered
	sum   []float32    // (n, embd) their outputs
}

// New returns a decoder of the model.
func New(m *Model, opt Options) *Decoder {
	d := m.desc
	n := min(opt.Context, maxBatch)
	kv := d.KVHeads * d.HeadDim
	dec := &Decoder{
		desc: d, w: &m.weights, opt: opt,
		hidden: make([]float32, opt.Context*d.Embd),
		x:      make([]float32, n*d.Embd),
		xb:     make([]float32, n*d.Embd),
		out:    make([]float32, n*d.Embd),
		q:      make([]float32, n*d.Heads*d.HeadDim),
		att:    make([]float32, n*d.Heads*d.HeadDim),
		gate:   make([]float32, n*d.FFN),
		up:     make([]float32, n*d.FFN),
	}
	if d.Experts > 0 {
		dec.probs = make([]float32, n*d.Experts)
		dec.part = make([]float32, n*d.Embd)
		dec.sum = make([]float32, n*d.Embd)
	}
	for range d.Layers {
		dec.keys = append(dec.keys, make([]float32, opt.Context*kv))
		dec.values = append(dec.values, make([]float32, opt.Context*kv))
	}
	dec.rope[0] = newRopeTable(&d.Rope, d.Rope.Base, m.weights.ropeFreqs, opt.Context)
	dec.rope[1] = dec.rope[0]
	if d.Rope.BaseLocal != 0 {
		dec.rope[1] = newRopeTable(&d.Rope, d.Rope.BaseLocal, nil, opt.Context)
	}
	return dec
}

// Vocab returns the number of logits per position.
func (d *Decoder) Vocab() int { return d.desc.Vocab }

// Pos returns the number of tokens that the context holds.
func (d *Decoder) Pos() int { return d.pos }

// Reset empties the context.
func (d *Decoder) Reset() { d.pos = 0 }

// Forward runs tokens from an empty context; Logits then gives their logits.
func (d *Decoder) Forward(ctx context.Context, tokens []int32) error {
	d.Reset()
	return d.Append(ctx, tokens)
}

// Append runs tokens after those that the context holds.
func (d *Decoder) Append(ctx context.Context, tokens []int32) error {
	if d.pos+len(tokens) > d.opt.Context {
		return fmt.Errorf("%d tokens after %d exceed the context of %d", len(tokens), d.pos, d.opt.Context)
	}
	for len(tokens) > 0 {
		n := min(len(tokens), maxBatch)
		for _, t := range tokens[:n] {
			if t < 0 || int(t) >= d.desc.Vocab {
				return fmt.Errorf("token %d: the vocabulary has %d", t, d.desc.Vocab)
			}
		}
		if err := d.batch(ctx, tokens[:n]); err != nil {
			return err
		}
		tokens = tokens[n:]
	}
	return nil
}

// Logits writes the logits of n positions from position first on: dst is
// (n, vocab).
func (d *Decoder) Logits(dst []float32, first, n int) error {
	if first < 0 || n < 0 || first+n > d.pos {
		return fmt.Errorf("positions %d to %d: the context holds %d", first, first+n, d.pos)
	}
	e := d.desc.Embd
	d.mul(d.hidden[first*e:(first+n)*e], n, to{&d.w.output, dst})
	scale(dst[:n*d.desc.Vocab], d.desc.LogitScale)
	if c := d.desc.LogitSoftcap; c != 0 {
		kernels.Softcap(dst[:n*d.desc.Vocab], c)
	}
	return nil
}

// batch runs n tokens through all layers and appends them to the context.
func (d *Decoder) batch(ctx context.Context, tokens []int32) error {
	a, n := d.desc, len(tokens)
	x := d.x[:n*a.Embd]
	for i, t := range tokens {
		w := &d.w.tokenEmbd
		size := w.Type.RowSize(w.Cols)
		quant.Decode(w.Type, x[i*a.Embd:(i+1)*a.Embd], w.Data[int(t)*size:(int(t)+1)*size])
	}
	scale(x, a.EmbdScale)
	for l := range d.w.layers {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		w := &d.w.layers[l]
		xb, out := d.xb[:n*a.Embd], d.out[:n*a.Embd]

		d.norm(xb, x, &w.attnNorm, a.Embd)
		if a.ParallelResidual {
			// Both blocks read the same residual stream; the feed-forward norms
			// it for itself where it has a norm (GPT-NeoX), before attention
			// adds to it.
			d.attention(out, xb, l, n)
			if w.ffnNorm.w != nil {
				d.norm(xb, x, &w.ffnNorm, a.Embd)
			}
			d.residual(x, out)
		} else {
			d.attention(out, xb, l, n)
			d.norm(out, out, &w.attnPost, a.Embd)
			d.residual(x, out)
			d.norm(xb, x, &w.ffnNorm, a.Embd)
		}
		d.feedForward(out, xb, w, n)
		d.norm(out, out, &w.ffnPost, a.Embd)
		d.residual(x, out)
	}
	d.norm(d.hidden[d.pos*a.Embd:(d.pos+n)*a.Embd], x, &d.w.outputNorm, a.Embd)
	d.pos += n
	return nil
}

// attention computes a block's attention: out (n, embd) from xb (n, embd). The
// keys and values of the n tokens join the context.
func (d *Decoder) attention(out, xb []float32, l, n int) {
	a, w := d.desc, &d.w.layers[l]
	kvDim := a.KVHeads * a.HeadDim
	q := d.q[:n*a.Heads*a.HeadDim]
	k := d.keys[l][d.pos*kvDim : (d.pos+n)*kvDim]
	v := d.values[l][d.pos*kvDim : (d.pos+n)*kvDim]
	d.mul(xb, n, to{&w.wq, q}, to{&w.wk, k}, to{&w.wv, v})
	d.norm(q, q, &w.qNorm, a.HeadDim)
	d.norm(k, k, &w.kNorm, a.HeadDim)

	rope, window := &d.rope[0], 0
	if !a.Global(l) {
		rope, window = &d.rope[1], a.Window
	}
	rope.apply(q, a.HeadDim, a.Heads, d.pos)
	rope.apply(k, a.HeadDim, a.KVHeads, d.pos)

	att := d.att[:n*a.Heads*a.HeadDim]
	shape := kernels.AttentionShape{
		Heads: a.Heads, KVHeads: a.KVHeads, HeadDim: a.HeadDim,
		Scale: a.AttnScale, Softcap: a.AttnSoftcap, Window: window,
	}
	if shape.Scale == 0 {
		shape.Scale = float32(1 / math.Sqrt(float64(a.HeadDim)))
	}
	kernels.Attention(d.opt.Pool, &d.ws, shape, att, q, kernels.Cache{F32: d.keys[l]}, kernels.Cache{F32: d.values[l]}, n, d.pos)
	d.mul(att, n, to{&w.wo, out})
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
	route := d.route(probs, n)
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
}

// choice is a token that an expert is to process, and the weight of the result.
type choice struct {
	token  int
	weight float32
}

// route picks each token's experts from the router's logits (n, experts): the
// most probable ones, weighted by their probabilities. It returns the tokens of
// each expert.
func (d *Decoder) route(logits []float32, n int) [][]choice {
	a := d.desc
	out := make([][]choice, a.Experts)
	for t := range n {
		p := logits[t*a.Experts : (t+1)*a.Experts]
		kernels.Softmax(p)
		d.order = d.order[:0]
		for e := range p {
			d.order = append(d.order, e)
		}
		slices.SortStableFunc(d.order, func(x, y int) int { return cmp.Compare(p[y], p[x]) })
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

// dense computes one feed-forward network: down(act(gate(x)) * up(x)), or
// down(act(up(x))) where there is no gate.
func (d *Decoder) dense(out, x []float32, f *feedForward, n int) {
	a := d.desc
	up := d.up[:n*a.FFN]
	if f.gate.none() {
		d.mul(x, n, to{&f.up, up})
		activate(up, a.Activation)
	} else {
		gate := d.gate[:n*a.FFN]
		d.mul(x, n, to{&f.gate, gate}, to{&f.up, up})
		activateGate(gate, up, a.Activation)
		up = gate
	}
	d.mul(up, n, to{&f.down, out})
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
			d.opt.Observe(t.l.name, t.l.expert, x, n)
		}
	}
	for _, t := range tos {
		if t.l.bias == nil {
			continue
		}
		for i := range n {
			kernels.Add(t.out[i*len(t.l.bias):(i+1)*len(t.l.bias)], t.l.bias)
		}
	}
}

// norm normalises each run of width elements of x; without weights it copies.
func (d *Decoder) norm(out, x []float32, w *norm, width int) {
	if w.w == nil {
		copy(out, x)
		return
	}
	if d.desc.Norm == arch.LayerNorm {
		kernels.LayerNorm(out, x, w.w, w.b, width, d.desc.NormEps)
	} else {
		kernels.RMSNorm(out, x, w.w, width, d.desc.NormEps)
	}
}

// residual adds what a block computed to the residual stream.
func (d *Decoder) residual(x, out []float32) {
	scale(out[:len(x)], d.desc.ResidualScale)
	kernels.Add(x, out[:len(x)])
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
func activateGate(gate, up []float32, f arch.Activation) {
	if f == arch.SiLU {
		kernels.SiLUMul(gate, gate, up)
		return
	}
	activate(gate, f)
	for i, v := range up {
		gate[i] *= v
	}
}
