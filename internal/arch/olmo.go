package arch

import (
	"fmt"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/internal/vocab"
)

// olmoFamily is Llama with layer norms that have no weights; in some models q, k
// and v are clamped.
var olmoFamily = &Family{
	Name:    "olmo",
	Models:  "OLMo 1",
	Classes: []string{"OlmoForCausalLM", "OLMoForCausalLM"},
	load:    loadOLMo,
	vocab:   func(v *vocab.Builder) { v.BPE() },
	decoder: func(d *Decoder, m *params) {
		d.BareNorms = true
		d.ClampQKV = float32(m.floatOr(0, "attention.clamp_kqv"))
	},
}

func loadOLMo(b *builder) {
	c := b.cfg
	s := b.commonShape()
	c.oneOf("hidden_act", "silu", "silu")
	c.mustBe("attention_bias", false)
	b.commonParams(s, b.rope(10000, "linear", "dynamic"))
	b.setFloat("attention.layer_norm_epsilon", 1e-5)
	if clamp, ok := c.floatIf("clip_qkv"); ok {
		if clamp <= 0 {
			c.bad(formats.Malformed, "clip_qkv: want a positive number, got %g", clamp)
		}
		b.setFloat("attention.clamp_kqv", clamp)
	}

	b.embedding("model.embed_tokens.weight", "lm_head.weight", s.vocab, s.embd)
	for i := range s.layers {
		b.attention(i, s, true)
		b.mlp(i, fmt.Sprintf("model.layers.%d.mlp.", i), "", s.embd, s.ffn)
	}
}
