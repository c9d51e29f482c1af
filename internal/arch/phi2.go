package arch

import (
	"fmt"

	"github.com/smeltgguf/smelt/internal/vocab"
)

// phi2Family: attention and feed-forward in parallel behind one layer norm,
// biases everywhere, partial rope.
var phi2Family = &Family{
	Name:    "phi2",
	Models:  "Phi-1, Phi-1.5, Phi-2",
	Classes: []string{"PhiForCausalLM"},
	load:    loadPhi2,
	vocab:   func(v *vocab.Builder) { v.BPE() },
	decoder: func(d *Decoder, _ *params) {
		d.Activation = GELU
		d.ParallelResidual = true
		d.Rope.Half = true
	},
}

func loadPhi2(b *builder) {
	c := b.cfg
	s := b.commonShape()
	s.kv = c.countOr(s.heads, kvKeys...)
	s.ffn = c.countOr(4*s.embd, ffnKeys...)
	c.oneOf("hidden_act", "gelu_new", "gelu_new", "gelu_pytorch_tanh")
	c.mustBe("qk_layernorm", false)
	eps := c.positive("layer_norm_epsilon", "layer_norm_eps")
	r := b.rope(10000)
	partial := 0.5
	if r.params != nil {
		partial = r.params.floatOr(partial, "partial_rotary_factor")
		ropeLeftover(r.params)
	}
	partial = c.floatOr(partial, "partial_rotary_factor")

	b.setUint("context_length", c.count("n_positions", "max_position_embeddings"))
	b.setUint("embedding_length", s.embd)
	b.setUint("feed_forward_length", s.ffn)
	b.setUint("block_count", s.layers)
	b.setUint("attention.head_count", s.heads)
	b.setUint("attention.head_count_kv", s.kv)
	b.setEps("layer_norm_eps", "attention.layer_norm_epsilon", eps)
	b.setUint("rope.dimension_count", int(partial*float64(s.embd))/s.heads)
	b.setFileType()
	b.freqBaseUnlessDefault(r)
	b.m.Params.Set("tokenizer.ggml.add_bos_token", false)

	b.embedding("model.embed_tokens.weight", "lm_head.weight", s.vocab, s.embd)
	if b.has("lm_head.bias") {
		b.put("output.bias", b.src("lm_head.bias", s.vocab))
	}
	for i := range s.layers {
		p, blk := fmt.Sprintf("model.layers.%d.", i), fmt.Sprintf("blk.%d.", i)
		b.norm(blk+"attn_norm", p+"input_layernorm", s.embd)
		b.linear(blk+"attn_q", p+"self_attn.q_proj", s.heads*s.headDim, s.embd, nil)
		b.linear(blk+"attn_k", p+"self_attn.k_proj", s.kv*s.headDim, s.embd, nil)
		b.linear(blk+"attn_v", p+"self_attn.v_proj", s.kv*s.headDim, s.embd, nil)
		b.linear(blk+"attn_output", p+"self_attn.dense", s.embd, s.heads*s.headDim, nil)
		b.linear(blk+"ffn_up", p+"mlp.fc1", s.ffn, s.embd, nil)
		b.linear(blk+"ffn_down", p+"mlp.fc2", s.embd, s.ffn, nil)
	}
	b.norm("output_norm", "model.final_layernorm", s.embd)
}
