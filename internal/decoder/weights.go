package decoder

import (
	"fmt"

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
	ropeFreqs  []float32 // (ropeDim/2) divisors of the frequencies, or nil
}

type layer struct {
	attnNorm norm   // (embd)
	wq       linear // (heads*headDim, embd)
	wk, wv   linear // (kvHeads*headDim, embd)
	qNorm    norm   // (headDim) or none
	kNorm    norm   // (headDim) or none
	wo       linear // (embd, heads*headDim)
	attnPost norm   // (embd) or none: after attention, before the residual

	ffnNorm norm        // (embd); none where attention and feed-forward share one
	ffn     feedForward // dense
	ffnPost norm        // (embd) or none

	router  linear        // (experts, embd); none: dense
	experts []feedForward // one per expert
}

type feedForward struct {
	gate linear // (ffn, embd) or none
	up   linear // (ffn, embd)
	down linear // (embd, ffn)
}

type linear struct {
	name   string // of the weight's tensor
	expert int    // which matrix of the tensor
	w      kernels.Matrix
	bias   []float32 // (out) or nil
}

func (l *linear) none() bool { return l.w.Rows == 0 }

type norm struct {
	w, b []float32 // (width) each, or nil
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
	m.outputNorm = l.norm("output_norm", d.Embd, true)
	m.output = l.linear("output", d.Vocab, d.Embd, false)
	if m.output.none() {
		m.output.w = m.tokenEmbd
	}
	m.ropeFreqs = l.vector("rope_freqs.weight", d.Rope.Dim/2, false)
	for i := range d.Layers {
		m.layers = append(m.layers, l.layer(d, fmt.Sprintf("blk.%d.", i), i))
	}
	return m
}

func (l *loader) layer(d *arch.Decoder, p string, i int) layer {
	q, kv := d.Heads*d.HeadDim, d.KVHeads*d.HeadDim
	y := layer{
		attnNorm: l.norm(p+"attn_norm", d.Embd, true),
		wq:       l.linear(p+"attn_q", q, d.Embd, true),
		wk:       l.linear(p+"attn_k", kv, d.Embd, true),
		wv:       l.linear(p+"attn_v", kv, d.Embd, true),
		qNorm:    l.norm(p+"attn_q_norm", d.HeadDim, false),
		kNorm:    l.norm(p+"attn_k_norm", d.HeadDim, false),
		wo:       l.linear(p+"attn_output", d.Embd, q, true),
		attnPost: l.norm(p+"post_attention_norm", d.Embd, false),
		ffnNorm:  l.norm(p+"ffn_norm", d.Embd, !d.ParallelResidual),
		ffnPost:  l.norm(p+"post_ffw_norm", d.Embd, false),
	}
	if d.Experts == 0 || i < d.DenseLayers {
		y.ffn = feedForward{
			gate: l.linear(p+"ffn_gate", d.FFN, d.Embd, false),
			up:   l.linear(p+"ffn_up", d.FFN, d.Embd, true),
			down: l.linear(p+"ffn_down", d.Embd, d.FFN, true),
		}
		return y
	}
	y.router = l.linear(p+"ffn_gate_inp", d.Experts, d.Embd, true)
	gate := l.stack(p+"ffn_gate_exps.weight", d.Experts, d.FFN, d.Embd)
	up := l.stack(p+"ffn_up_exps.weight", d.Experts, d.FFN, d.Embd)
	down := l.stack(p+"ffn_down_exps.weight", d.Experts, d.Embd, d.FFN)
	if len(l.errs) == 0 {
		for e := range d.Experts {
			y.experts = append(y.experts, feedForward{gate[e], up[e], down[e]})
		}
	}
	return y
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
	t, ok := l.tensor(name, []uint64{uint64(cols), uint64(rows), uint64(n)}, true)
	if !ok {
		return nil
	}
	out := make([]linear, n)
	size := rows * t.Type.RowSize(cols)
	for i := range out {
		out[i] = linear{name: name, expert: i, w: kernels.Matrix{Type: t.Type, Rows: rows, Cols: cols, Data: t.Data[i*size : (i+1)*size]}}
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
	if !ok {
		return nil
	}
	v := make([]float32, n)
	quant.Decode(t.Type, v, t.Data)
	return v
}

func (l *loader) norm(name string, n int, required bool) norm {
	return norm{l.vector(name+".weight", n, required), l.vector(name+".bias", n, false)}
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
		for _, l := range []*linear{&y.wq, &y.wk, &y.wv, &y.wo, &y.router} {
			add(l, 1)
		}
		ffn(&y.ffn, 1)
		if len(y.experts) > 0 {
			ffn(&y.experts[0], m.desc.ExpertsUsed)
		}
	}
	add(&m.output, 1)
	return macs, bytes
}
