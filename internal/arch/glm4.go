package arch

import (
	"fmt"

	"github.com/smeltgguf/smelt/internal/vocab"
)

// glm4Family: norms before and behind attention and feed-forward, gate and up
// in one matrix, rope over half of each head, interleaved in the checkpoint as
// well.
var glm4Family = &Family{
	Name:    "glm4",
	Models:  "GLM-4-0414",
	Classes: []string{"Glm4ForCausalLM"},
	load:    loadGLM4,
	vocab: func(v *vocab.Builder) {
		v.DefaultToken("eos", "<|endoftext|>")
		v.DefaultToken("eot", "<|user|>")
		v.DefaultToken("unk", "<|endoftext|>")
		v.DefaultToken("bos", "<|endoftext|>")
		v.BPE()
	},
}

func loadGLM4(b *builder) {
	c := b.cfg
	s := b.commonShape()
	c.oneOf("hidden_act", "silu", "silu")
	c.positive("rms_norm_eps")
	c.ignore("attention_bias")
	r := b.rope(10000)
	partial := 0.5
	if r.params != nil {
		partial = r.params.floatOr(partial, "partial_rotary_factor")
	}
	partial = c.floatOr(partial, "partial_rotary_factor")
	b.commonParams(s, r)
	b.setUint("rope.dimension_count", int(float64(s.headDim)*partial))

	b.embedding("model.embed_tokens.weight", "lm_head.weight", s.vocab, s.embd)
	for i := range s.layers {
		p, blk := fmt.Sprintf("model.layers.%d.", i), fmt.Sprintf("blk.%d.", i)
		b.norm(blk+"attn_norm", p+"input_layernorm", s.embd)
		b.attention(i, s, false)
		b.norm(blk+"post_attention_norm", p+"post_self_attn_layernorm", s.embd)
		b.norm(blk+"ffn_norm", p+"post_attention_layernorm", s.embd)
		b.linear(blk+"ffn_up", p+"mlp.gate_up_proj", 2*s.ffn, s.embd, nil)
		b.linear(blk+"ffn_down", p+"mlp.down_proj", s.embd, s.ffn, nil)
		b.norm(blk+"post_ffw_norm", p+"post_mlp_layernorm", s.embd)
	}
	b.norm("output_norm", "model.norm", s.embd)
}
