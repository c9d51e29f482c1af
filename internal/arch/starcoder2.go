package arch

import (
	"fmt"

	"github.com/smeltgguf/smelt/internal/vocab"
)

// starcoder2Family: grouped-query attention, layer norms, a feed-forward
// without a gate, biases.
var starcoder2Family = &Family{
	Name:    "starcoder2",
	Models:  "StarCoder2",
	Classes: []string{"Starcoder2ForCausalLM"},
	load: func(b *builder) {
		c := b.cfg
		s := b.commonShape()
		c.oneOf("hidden_act", "gelu_pytorch_tanh", "gelu_pytorch_tanh", "gelu_new")
		c.oneOf("norm_type", "layer_norm", "layer_norm")
		c.oneOf("mlp_type", "default", "default")
		c.mustBe("scale_attn_weights", true)
		c.ignore("use_bias", "activation_function", "attention_softmax_in_fp32", "scale_attention_softmax_in_fp32")
		c.positive("norm_epsilon", "layer_norm_epsilon")
		b.windowNotWritten()
		b.commonParams(s, b.rope(10000, "linear", "yarn"))
		b.embedding("model.embed_tokens.weight", "lm_head.weight", s.vocab, s.embd)
		for i := range s.layers {
			p, blk := fmt.Sprintf("model.layers.%d.", i), fmt.Sprintf("blk.%d.", i)
			b.norm(blk+"attn_norm", p+"input_layernorm", s.embd)
			b.attention(i, s, false)
			b.norm(blk+"ffn_norm", p+"post_attention_layernorm", s.embd)
			b.linear(blk+"ffn_up", p+"mlp.c_fc", s.ffn, s.embd, nil)
			b.linear(blk+"ffn_down", p+"mlp.c_proj", s.embd, s.ffn, nil)
		}
		b.norm("output_norm", "model.norm", s.embd)
	},
	vocab: func(v *vocab.Builder) { v.BPE() },
	decoder: func(d *Decoder, _ *params) {
		d.Activation = GELU
		d.Rope.Half = true
	},
}
