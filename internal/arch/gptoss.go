package arch

import (
	"fmt"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/internal/stream"
	"github.com/smeltgguf/smelt/internal/vocab"
	"github.com/smeltgguf/smelt/quant"
)

// gptOSSFamily: experts in MXFP4, whose blocks are repacked without loss,
// attention sinks, a window in every other layer, YaRN.
var gptOSSFamily = &Family{
	Name:    "gpt-oss",
	Models:  "gpt-oss",
	Classes: []string{"GptOssForCausalLM"},
	load:    loadGPTOSS,
	vocab:   func(v *vocab.Builder) { v.BPE() },
	decoder: func(d *Decoder, m *params) {
		d.Activation = SwiGLUClamped
		d.ExpertNorm = true
		d.expertFFN(m)
		d.Rope.Half = true
		d.Window, d.WindowPattern = m.countOr(128, "attention.sliding_window"), 2
	},
}

// fileTypeMXFP4 is general.file_type of a file whose experts are MXFP4.
const fileTypeMXFP4 = 38

func loadGPTOSS(b *builder) {
	c := b.cfg
	s := b.commonShape()
	c.oneOf("hidden_act", "silu", "silu")
	c.positive("rms_norm_eps")
	if f := c.floatOr(7, "swiglu_limit"); f != 7 {
		c.bad(formats.Unsupported, "swiglu_limit %g: the GGUF means 7", f)
	}
	experts := c.count("num_local_experts", "num_experts")
	c.count("num_experts_per_tok", "experts_per_token")
	c.ignore("attention_bias", "initial_context_length", "experts_per_token")
	for i, t := range c.strings("layer_types") {
		if want := [2]string{"sliding_attention", "full_attention"}[i%2]; t != want {
			c.bad(formats.Unsupported, "layer_types: layer %d is %s, the GGUF means %s", i, formats.Quote(t), want)
		}
	}
	r := b.rope(150000, "yarn")
	if r.params != nil {
		r.params.ignore("truncate")
	}
	packed := false
	if q := c.object("quantization_config"); q != nil {
		q.oneOf("quant_method", "mxfp4", "mxfp4")
		packed = true
	}
	if packed && b.opt.FileType != 7 {
		b.opt.FileType = fileTypeMXFP4
	}
	b.commonParams(s, r)
	b.setUint("attention.sliding_window", c.count("sliding_window"))
	b.setUint("expert_feed_forward_length", s.ffn)

	// The rows of gate and up alternate.
	every2nd := func(x shaped, first int) shaped {
		n := x.shape[0] * x.shape[1] / 2
		var flat shaped
		if len(x.shape) == 2 {
			flat = x.view(2*n, 1)
		} else {
			flat = x.view(2*n, x.shape[2])
		}
		flat = flat.pick(n, func(i int) int { return 2*i + first })
		return flat.view(append([]int{x.shape[0], x.shape[1] / 2}, x.shape[2:]...)...)
	}
	b.embedding("model.embed_tokens.weight", "lm_head.weight", s.vocab, s.embd)
	for i := range s.layers {
		p, blk := fmt.Sprintf("model.layers.%d.", i), fmt.Sprintf("blk.%d.", i)
		b.norm(blk+"attn_norm", p+"input_layernorm", s.embd)
		b.attention(i, s, false)
		b.put(blk+"attn_sinks.weight", b.src(p+"self_attn.sinks", s.heads))
		b.norm(blk+"post_attention_norm", p+"post_attention_layernorm", s.embd)
		b.linear(blk+"ffn_gate_inp", p+"mlp.router", experts, s.embd, nil)
		e := p + "mlp.experts."
		down, both := b.gptOSSExperts(e+"down_proj", experts, s.embd, s.ffn), b.gptOSSExperts(e+"gate_up_proj", experts, 2*s.ffn, s.embd)
		b.put(blk+"ffn_down_exps.weight", down)
		b.put(blk+"ffn_gate_exps.weight", every2nd(both, 0))
		b.put(blk+"ffn_up_exps.weight", every2nd(both, 1))
		b.put(blk+"ffn_down_exps.bias", b.src(e+"down_proj_bias", experts, s.embd))
		bias := b.src(e+"gate_up_proj_bias", experts, 2*s.ffn)
		b.put(blk+"ffn_gate_exps.bias", every2nd(bias, 0))
		b.put(blk+"ffn_up_exps.bias", every2nd(bias, 1))
	}
	b.norm("output_norm", "model.norm", s.embd)
}

// gptOSSExperts returns the experts' matrices of shape (n, out, in): packed in
// MXFP4, which come before all other tensors, or as floats, stored transposed.
func (b *builder) gptOSSExperts(name string, n, out, in int) shaped {
	if !b.has(name + "_blocks") {
		return b.src(name, n, in, out).transpose()
	}
	if in%32 != 0 {
		fail("%s: rows of %d are no multiple of 32", b.ck.Path, in)
	}
	blocks := b.srcBytes(name+"_blocks", n, out, in/32, 16)
	scales := b.srcBytes(name+"_scales", n, out, in/32)
	rows := &mxfp4{blocks: reshape(blocks.rows, in/2), scales: scales.rows, in: in}
	// Before the tensors that are read as they stand.
	return shaped{rows: rows, shape: []int{n, out, in}, order: scales.order - len(b.ck.Tensors)}
}

// mxfp4 puts blocks and scales together to ggml's blocks: the scale, then 16
// bytes whose low halves are the first 16 elements and whose high halves the
// others. In the checkpoint the two elements of a byte are neighbours.
type mxfp4 struct {
	blocks, scales stream.Rows
	in             int // elements of a row
}

func (m *mxfp4) Type() quant.Type { return quant.MXFP4 }
func (m *mxfp4) Len() int         { return m.in }
func (m *mxfp4) Count() int       { return m.blocks.Count() }

func (m *mxfp4) ReadRows(dst []byte, first, n int) error {
	per := m.in / 32
	scales := make([]byte, n*per)
	blocks := make([]byte, n*per*16)
	if err := m.scales.ReadRows(scales, first, n); err != nil {
		return err
	}
	if err := m.blocks.ReadRows(blocks, first, n); err != nil {
		return err
	}
	for i, scale := range scales {
		out, in := dst[i*17:][:17], blocks[i*16:][:16]
		out[0] = scale
		for j := range 8 {
			a, b := in[j], in[8+j] // elements 2j, 2j+1 and 16+2j, 17+2j
			out[1+2*j] = a&0x0f | b<<4
			out[2+2*j] = a>>4 | b&0xf0
		}
	}
	return nil
}
