package arch

import "fmt"

// graniteMoEFamily is Granite with experts, whose gate and up matrices are
// stacked in one, and in later models one shared expert.
var graniteMoEFamily = &Family{
	Name:    "granitemoe",
	Models:  "Granite 3 with experts",
	Classes: []string{"GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"},
	load:    loadGraniteMoE,
	vocab:   llamaVocab,
	decoder: func(d *Decoder, m *params) {
		graniteDecoder(d, m)
		d.ExpertNorm = true
	},
}

func loadGraniteMoE(b *builder) {
	c := b.cfg
	delete(c.vals, "head_dim") // the GGUF has no place for it
	s := b.commonShape()
	c.oneOf("hidden_act", "silu", "silu")
	c.positive("rms_norm_eps")
	c.ignore("attention_bias", "mlp_bias")
	b.commonParams(s, b.rope(10000, "linear", "dynamic", "yarn"))
	b.setUint("vocab_size", s.vocab)
	b.setUint("rope.dimension_count", s.headDim)
	b.graniteScales()
	experts := c.count("num_local_experts")
	shared := c.countOr(0, "shared_intermediate_size")
	if shared > 0 {
		b.setUint("expert_shared_feed_forward_length", shared)
	}

	b.embedding("model.embed_tokens.weight", "lm_head.weight", s.vocab, s.embd)
	for i := range s.layers {
		p, blk := fmt.Sprintf("model.layers.%d.", i), fmt.Sprintf("blk.%d.", i)
		moe := p + "block_sparse_moe."
		b.norm(blk+"attn_norm", p+"input_layernorm", s.embd)
		b.attention(i, s, true)
		b.norm(blk+"ffn_norm", p+"post_attention_layernorm", s.embd)
		b.linear(blk+"ffn_gate_inp", moe+"router.layer", experts, s.embd, nil)
		b.gateUpExperts(i, moe+"input_linear.weight", experts, s.embd, s.ffn)
		b.put(blk+"ffn_down_exps.weight", b.src(moe+"output_linear.weight", experts, s.embd, s.ffn))
		if shared > 0 {
			both := b.src(p+"shared_mlp.input_linear.weight", 2*shared, s.embd)
			b.put(blk+"ffn_gate_shexp.weight", both.slice(0, shared))
			b.put(blk+"ffn_up_shexp.weight", both.slice(shared, shared))
			b.linear(blk+"ffn_down_shexp", p+"shared_mlp.output_linear", s.embd, shared, nil)
		}
	}
	b.norm("output_norm", "model.norm", s.embd)
}
