package arch

import (
	"fmt"

	"github.com/smeltgguf/smelt/internal/vocab"
)

// stablelmFamily: Llama's layers with layer norms and partial rope; the 12B has
// norms of each head and a parallel residual.
var stablelmFamily = &Family{
	Name:    "stablelm",
	Models:  "StableLM 3B and 2",
	Classes: []string{"StableLmForCausalLM", "StableLMEpochForCausalLM", "LlavaStableLMEpochForCausalLM"},
	load:    loadStableLM,
	vocab:   func(v *vocab.Builder) { v.BPE() },
	decoder: func(d *Decoder, m *params) {
		d.ParallelUnlessNorm = true
		m.ignore("use_parallel_residual") // the absence of a norm says the same
		d.Rope.Half = true
	},
}

func loadStableLM(b *builder) {
	c := b.cfg
	s := b.commonShape()
	c.oneOf("hidden_act", "silu", "silu")
	eps := c.positive("layer_norm_eps", "norm_eps")
	r := b.rope(10000)
	partial := 0.25
	if r.params != nil {
		partial = r.params.floatOr(partial, "partial_rotary_factor")
		ropeLeftover(r.params)
	}
	partial = c.floatOr(partial, "partial_rotary_factor", "rope_pct")
	parallel := c.boolean(false, "use_parallel_residual")
	if !c.has("use_parallel_residual") {
		parallel = true // the models of the first library did not say it
	}
	c.ignore("use_qkv_bias", "qk_layernorm", "rotary_scaling_factor")

	b.setUint("context_length", s.context)
	b.setUint("embedding_length", s.embd)
	b.setUint("block_count", s.layers)
	b.setUint("feed_forward_length", s.ffn)
	b.setUint("rope.dimension_count", int(partial*float64(s.headDim)))
	b.setUint("attention.head_count", s.heads)
	b.setUint("attention.head_count_kv", s.kv)
	b.set("use_parallel_residual", parallel)
	b.setEps("layer_norm_eps", "attention.layer_norm_epsilon", eps)
	b.setFileType()
	b.freqBaseUnlessDefault(r)

	heads := func(dst, src string, n int) { // one norm per head
		parts := make([]shaped, n)
		for h := range parts {
			parts[h] = b.src(fmt.Sprintf("%s.norms.%d.weight", src, h), s.headDim)
		}
		b.put(dst+".weight", join(parts, true))
	}
	b.embedding("model.embed_tokens.weight", "lm_head.weight", s.vocab, s.embd)
	for i := range s.layers {
		p, blk := fmt.Sprintf("model.layers.%d.", i), fmt.Sprintf("blk.%d.", i)
		b.norm(blk+"attn_norm", p+"input_layernorm", s.embd)
		b.attention(i, s, false)
		if b.has(p + "self_attn.q_layernorm.norms.0.weight") {
			heads(blk+"attn_q_norm", p+"self_attn.q_layernorm", s.heads)
			heads(blk+"attn_k_norm", p+"self_attn.k_layernorm", s.kv)
		}
		if !parallel || b.has(p+"post_attention_layernorm.weight") {
			b.norm(blk+"ffn_norm", p+"post_attention_layernorm", s.embd)
		}
		b.mlp(i, p+"mlp.", "", s.embd, s.ffn)
	}
	b.norm("output_norm", "model.norm", s.embd)
}
