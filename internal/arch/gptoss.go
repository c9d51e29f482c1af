package arch

import (
	"fmt"

	"github.com/smeltgguf/smelt/formats"
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
		d.FFNNorm = "post_attention_norm"
		d.Rope.Half = true
		d.Window, d.WindowPattern = m.countOr(128, "attention.sliding_window"), 2
	},
}

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
	if r.params != nil && !r.params.boolean(true, "truncate") && r.typ == "yarn" {
		b.native(func(d *Decoder) { d.Rope.Yarn.Unrounded = true }) // GGUF has no key for it
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
	if i, ok := b.index[name]; !ok || b.tensors[i].Rows.Type() != quant.MXFP4 {
		return b.src(name, n, in, out).transpose()
	}
	x := b.src(name, n, out, in)
	x.order -= len(b.tensors) // before the tensors that are read as they stand
	return x
}
