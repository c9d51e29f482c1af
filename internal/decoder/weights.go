package decoder

import (
	"fmt"
	"slices"

	"github.com/smeltgguf/smelt/formats/gguf"
	"github.com/smeltgguf/smelt/internal/arch"
	"github.com/smeltgguf/smelt/kernels"
	"github.com/smeltgguf/smelt/quant"
)

// Tensor is a tensor of a model: rows of blocks as they stand in the file.
type Tensor struct {
	Type quant.Type
	Dims []uint64 // row length first
	Data []byte
}

// Source finds a model's tensors by their GGUF names; ok is false where there
// is none.
type Source interface {
	Tensor(name string) (t Tensor, ok bool, err error)
}

// GGUF gives the tensors of a mapped GGUF file.
type GGUF struct{ File *gguf.File }

// Tensor returns the tensor's data in the mapped file.
func (g GGUF) Tensor(name string) (Tensor, bool, error) {
	t := g.File.Tensor(name)
	if t == nil {
		return Tensor{}, false, nil
	}
	return Tensor{Type: t.Type, Dims: t.Dims, Data: g.File.Bytes(t)}, true, nil
}

// weights are a model's tensors; matrices stay in the file's own type.
type weights struct {
	tokenEmbd  kernels.Matrix // (vocab, embd)
	outputNorm norm           // (embd)
	output     linear         // (vocab, embd); tokenEmbd where tied
	layers     []layer
	positions  kernels.Matrix // (positions, embd) learned ones, or none

	// Divisors of the rope's frequencies, (ropeDim/2) each or nil: for all
	// contexts, or by whether the context is longer than the original one.
	ropeFreqs, ropeShort, ropeLong []float32
}

type layer struct {
	attnNorm norm      // (embd)
	wq       linear    // (heads*headDim, embd)
	wk, wv   linear    // (kvHeads*headDim, embd)
	qNorm    norm      // (headDim), (heads, headDim), (heads*headDim) or none
	kNorm    norm      // the same of kvHeads
	wo       linear    // (embd, heads*headDim)
	sinks    []float32 // (heads) scores of a position without value, or nil
	mla      latent
	attnPost norm // (embd) or none: after attention, before the residual

	ffnNorm  norm        // (embd); none where attention and feed-forward share one
	parallel bool        // attention and feed-forward are computed side by side
	ffn      feedForward // dense
	ffnPost  norm        // (embd) or none

	router     linear        // (experts, embd); none: dense
	routerBias []float32     // (experts), for the choice only; or nil
	experts    []feedForward // one per expert
	shared     feedForward   // experts that all tokens use, as one; or none
	sharedGate linear        // (1, embd) or none
}

// latent are the matrices of multi-head latent attention, which has wq only if
// q is not compressed.
type latent struct {
	qDown linear   // (qRank, embd) or none
	qNorm norm     // (qRank)
	qUp   linear   // (heads*keyDim, qRank)
	down  linear   // (kvRank+ropeDim, embd)
	norm  norm     // (kvRank)
	key   []linear // per head (kvRank, keyDim-ropeDim): takes q into the latent space
	value []linear // per head (valueDim, kvRank): takes values out of it
}

type feedForward struct {
	gate linear // (ffn, embd) or none
	up   linear // (ffn, embd); none: there is no such feed-forward
	down linear // (embd, ffn)
}

type linear struct {
	name   string // of the weight's tensor; "" where an earlier part of a fused one stands for it
	expert int    // which matrix of the tensor
	w      kernels.Matrix
	bias   []float32 // (out) or nil
}

func (l *linear) none() bool { return l.w.Rows == 0 }

type norm struct {
	width int       // elements that are normalised together
	w, b  []float32 // (width) or (heads, width) weights, (width) biases, or nil
}

// Model is a model ready to run: its description and its weights.
type Model struct {
	desc *arch.Decoder
	weights
}

// Desc returns the model's description.
func (m *Model) Desc() *arch.Decoder { return m.desc }

// Load finds and checks all tensors that desc asks for.
func Load(desc *arch.Decoder, src Source) (*Model, error) {
	l := loader{src: src}
	m := l.model(desc)
	if len(l.errs) > 0 {
		return nil, l.errs[0]
	}
	return m, nil
}

// Check returns everything that Load has to say against the tensors: those
// missing, those of other dimensions than desc implies.
func Check(desc *arch.Decoder, src Source) []error {
	l := loader{src: src}
	l.model(desc)
	return l.errs
}

// TensorError says what is wrong with a tensor.
type TensorError struct {
	Name    string
	Problem string // "is missing"
}

func (e *TensorError) Error() string { return "tensor " + e.Name + " " + e.Problem }

// loader collects errors, so that loading reads as a list.
type loader struct {
	src  Source
	errs []error
}

func (l *loader) model(d *arch.Decoder) *Model {
	m := &Model{desc: d}
	m.tokenEmbd = l.matrix("token_embd.weight", d.Vocab, d.Embd, true).w
	m.outputNorm = l.blockNorm(d, "output_norm", true)
	m.output = l.linear("output", d.Vocab, d.Embd, false)
	if m.output.none() {
		m.output.w = m.tokenEmbd
	}
	if p, ok, _ := l.src.Tensor("position_embd.weight"); ok && len(p.Dims) == 2 {
		m.positions = l.matrix("position_embd.weight", int(p.Dims[1]), d.Embd, true).w
	}
	if d.Rope.Dim > 0 {
		m.ropeFreqs = l.vector("rope_freqs.weight", d.Rope.Dim/2, false)
		m.ropeShort = l.vector("rope_factors_short.weight", d.Rope.Dim/2, false)
		m.ropeLong = l.vector("rope_factors_long.weight", d.Rope.Dim/2, m.ropeShort != nil)
	}
	for i := range d.Layers {
		m.layers = append(m.layers, l.layer(d, fmt.Sprintf("blk.%d.", i), i))
	}
	return m
}

func (l *loader) layer(d *arch.Decoder, p string, i int) layer {
	q, kv := d.Heads*d.HeadDim, d.KVHeads*d.HeadDim
	y := layer{
		attnNorm: l.blockNorm(d, p+"attn_norm", !d.NormsBehind),
		qNorm:    l.headNorm(p+"attn_q_norm", d.Heads, d.HeadDim),
		kNorm:    l.headNorm(p+"attn_k_norm", d.KVHeads, d.HeadDim),
		sinks:    l.vector(p+"attn_sinks.weight", d.Heads, false),
		attnPost: l.norm(p+"post_attention_norm", d.Embd, d.NormsBehind),
		ffnNorm:  l.blockNorm(d, p+"ffn_norm", false),
		ffnPost:  l.norm(p+"post_ffw_norm", d.Embd, d.NormsBehind),
	}
	switch {
	case d.MLA != nil:
		y.mla = l.latent(d, p)
		if y.mla.qDown.none() {
			y.wq = l.linear(p+"attn_q", d.Heads*d.MLA.KeyDim, d.Embd, true)
		}
		y.wo = l.linear(p+"attn_output", d.Embd, d.Heads*d.MLA.ValueDim, true)
	case l.has(p + "attn_qkv.weight"):
		qkv := l.parts(p+"attn_qkv", d.Embd, q, kv, kv)
		y.wq, y.wk, y.wv = qkv[0], qkv[1], qkv[2]
		y.wo = l.linear(p+"attn_output", d.Embd, q, true)
	default:
		y.wq = l.linear(p+"attn_q", q, d.Embd, true)
		y.wk = l.linear(p+"attn_k", kv, d.Embd, true)
		y.wv = l.linear(p+"attn_v", kv, d.Embd, true)
		y.wo = l.linear(p+"attn_output", d.Embd, q, true)
	}

	if d.FFNNorm != "" { // the name has another meaning here
		y.attnPost, y.ffnNorm = norm{}, l.norm(p+d.FFNNorm, d.Embd, true)
	}
	if own := l.norm(p+"attn_norm_2", d.Embd, false); own.w != nil {
		// Falcon's attention has the second norm, its feed-forward the first.
		y.attnNorm, y.ffnNorm = own, y.attnNorm
	}
	y.parallel = d.ParallelResidual || d.ParallelUnlessNorm && y.ffnNorm.w == nil
	if y.ffnNorm.w == nil && !y.parallel && !d.NormsBehind {
		l.errs = append(l.errs, &TensorError{p + "ffn_norm.weight", "is missing"})
	}

	if d.Experts == 0 || i < d.DenseLayers {
		y.ffn = l.feedForward(p, "", d.FFN, d.Embd)
		return y
	}
	y.router = l.linear(p+"ffn_gate_inp", d.Experts, d.Embd, true)
	y.routerBias = l.vector(p+"exp_probs_b.bias", d.Experts, false)
	gate := l.stack(p+"ffn_gate_exps", d.Experts, d.ExpertFFN, d.Embd)
	up := l.stack(p+"ffn_up_exps", d.Experts, d.ExpertFFN, d.Embd)
	down := l.stack(p+"ffn_down_exps", d.Experts, d.Embd, d.ExpertFFN)
	if len(l.errs) == 0 {
		for e := range d.Experts {
			y.experts = append(y.experts, feedForward{gate[e], up[e], down[e]})
		}
	}
	if d.SharedFFN > 0 {
		y.shared = l.feedForward(p, "_shexp", d.SharedFFN, d.Embd)
		y.sharedGate = l.linear(p+"ffn_gate_inp_shexp", 1, d.Embd, false)
	}
	return y
}

func (l *loader) latent(d *arch.Decoder, p string) latent {
	m := d.MLA
	y := latent{
		down:  l.linear(p+"attn_kv_a_mqa", m.KVRank+d.Rope.Dim, d.Embd, true),
		norm:  l.norm(p+"attn_kv_a_norm", m.KVRank, true),
		key:   l.stack(p+"attn_k_b", d.Heads, m.KVRank, m.KeyDim-d.Rope.Dim),
		value: l.stack(p+"attn_v_b", d.Heads, m.ValueDim, m.KVRank),
	}
	if m.QRank > 0 {
		y.qDown = l.linear(p+"attn_q_a", m.QRank, d.Embd, true)
		y.qNorm = l.norm(p+"attn_q_a_norm", m.QRank, true)
		y.qUp = l.linear(p+"attn_q_b", d.Heads*m.KeyDim, m.QRank, true)
	}
	return y
}

// feedForward finds a feed-forward's matrices. An up matrix of twice the rows
// holds gate's first.
func (l *loader) feedForward(p, suffix string, ffn, embd int) feedForward {
	y := feedForward{down: l.linear(p+"ffn_down"+suffix, embd, ffn, true)}
	up := p + "ffn_up" + suffix
	if t, ok, _ := l.src.Tensor(up + ".weight"); ok && len(t.Dims) == 2 && t.Dims[1] == 2*uint64(ffn) {
		both := l.parts(up, embd, ffn, ffn)
		y.gate, y.up = both[0], both[1]
		return y
	}
	y.gate = l.linear(p+"ffn_gate"+suffix, ffn, embd, false)
	y.up = l.linear(up, ffn, embd, true)
	return y
}

// parts finds a matrix whose rows are those of several ones.
func (l *loader) parts(name string, cols int, rows ...int) []linear {
	total := 0
	for _, n := range rows {
		total += n
	}
	all := l.linear(name, total, cols, true)
	out := make([]linear, len(rows))
	if all.none() {
		return out
	}
	size, first := all.w.Type.RowSize(cols), 0
	for i, n := range rows {
		out[i] = all
		out[i].w.Rows, out[i].w.Data = n, all.w.Data[first*size:(first+n)*size]
		if all.bias != nil {
			out[i].bias = all.bias[first : first+n]
		}
		if i > 0 {
			out[i].name = ""
		}
		first += n
	}
	return out
}

func (l *loader) has(name string) bool {
	_, ok, _ := l.src.Tensor(name)
	return ok
}

// tensor finds a tensor of rows x cols x matrices elements and checks it.
func (l *loader) tensor(name string, dims []uint64, required bool) (Tensor, bool) {
	t, ok, err := l.src.Tensor(name)
	switch {
	case err != nil:
	case !ok && required:
		err = &TensorError{name, "is missing"}
	case ok && !equalDims(t.Dims, dims):
		err = &TensorError{name, fmt.Sprintf("is %v, the metadata implies %v", t.Dims, dims)}
	case ok && !t.Type.CanDecode():
		err = &TensorError{name, fmt.Sprintf("has type %s, which cannot be computed with", t.Type)}
	}
	if err != nil {
		l.errs = append(l.errs, err)
	}
	return t, ok && err == nil
}

// equalDims compares dimensions; trailing ones do not count.
func equalDims(a, b []uint64) bool {
	for i := range max(len(a), len(b)) {
		x, y := uint64(1), uint64(1)
		if i < len(a) {
			x = a[i]
		}
		if i < len(b) {
			y = b[i]
		}
		if x != y {
			return false
		}
	}
	return true
}

func (l *loader) matrix(name string, rows, cols int, required bool) linear {
	t, ok := l.tensor(name, []uint64{uint64(cols), uint64(rows)}, required)
	if !ok {
		return linear{}
	}
	return linear{name: name, w: kernels.Matrix{Type: t.Type, Rows: rows, Cols: cols, Data: t.Data}}
}

func (l *loader) stack(name string, n, rows, cols int) []linear {
	t, ok := l.tensor(name+".weight", []uint64{uint64(cols), uint64(rows), uint64(n)}, true)
	bias, hasBias := l.tensor(name+".bias", []uint64{uint64(rows), uint64(n)}, false)
	if !ok {
		return nil
	}
	biases := l.decode(bias, rows*n, hasBias)
	name += ".weight"
	out := make([]linear, n)
	size := rows * t.Type.RowSize(cols)
	for i := range out {
		out[i] = linear{name: name, expert: i, w: kernels.Matrix{Type: t.Type, Rows: rows, Cols: cols, Data: t.Data[i*size : (i+1)*size]}}
		if hasBias {
			out[i].bias = biases[i*rows : (i+1)*rows]
		}
	}
	return out
}

func (l *loader) linear(name string, rows, cols int, required bool) linear {
	y := l.matrix(name+".weight", rows, cols, required)
	if !y.none() {
		y.bias = l.vector(name+".bias", rows, false)
	}
	return y
}

func (l *loader) vector(name string, n int, required bool) []float32 {
	t, ok := l.tensor(name, []uint64{uint64(n)}, required)
	return l.decode(t, n, ok)
}

func (l *loader) decode(t Tensor, n int, ok bool) []float32 {
	if !ok {
		return nil
	}
	v := make([]float32, n)
	quant.Decode(t.Type, v, t.Data)
	return v
}

func (l *loader) norm(name string, n int, required bool) norm {
	return norm{n, l.vector(name+".weight", n, required), l.vector(name+".bias", n, false)}
}

// blockNorm finds a norm before a block or the output.
func (l *loader) blockNorm(d *arch.Decoder, name string, required bool) norm {
	if d.BareNorms {
		return norm{width: d.Embd, w: slices.Repeat([]float32{1}, d.Embd)}
	}
	return l.norm(name, d.Embd, required)
}

// headNorm finds a norm of q or k, whose shape tells what it is over: each head
// with the same weights or with its own, or all heads at once.
func (l *loader) headNorm(name string, heads, headDim int) norm {
	t, ok, _ := l.src.Tensor(name + ".weight")
	if !ok || len(t.Dims) == 0 {
		return norm{}
	}
	if len(t.Dims) == 1 && t.Dims[0] == uint64(heads*headDim) {
		return l.norm(name, heads*headDim, true)
	}
	if len(t.Dims) == 2 {
		w, ok := l.tensor(name+".weight", []uint64{uint64(headDim), uint64(heads)}, true)
		return norm{width: headDim, w: l.decode(w, heads*headDim, ok)}
	}
	return l.norm(name, headDim, true)
}

// Cost returns what one token takes: multiply-adds of the matrix products (the
// output included, attention not) and bytes of weights that are read. Of
// experts those count that a token uses.
func (m *Model) Cost() (macs, bytes int64) {
	add := func(l *linear, times int) {
		macs += int64(l.w.Rows) * int64(l.w.Cols) * int64(times)
		bytes += int64(len(l.w.Data)) * int64(times)
	}
	ffn := func(f *feedForward, times int) {
		add(&f.gate, times)
		add(&f.up, times)
		add(&f.down, times)
	}
	for i := range m.layers {
		y := &m.layers[i]
		for _, l := range []*linear{&y.wq, &y.wk, &y.wv, &y.wo, &y.router, &y.sharedGate, &y.mla.qDown, &y.mla.qUp, &y.mla.down} {
			add(l, 1)
		}
		for h := range y.mla.key {
			add(&y.mla.key[h], 1)
			add(&y.mla.value[h], 1)
		}
		ffn(&y.ffn, 1)
		ffn(&y.shared, 1)
		if len(y.experts) > 0 {
			ffn(&y.experts[0], m.desc.ExpertsUsed)
		}
	}
	add(&m.output, 1)
	return macs, bytes
}
