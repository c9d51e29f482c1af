package arch

import (
	"fmt"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/internal/vocab"
)

// cohere2Family is Command-R with a window and rope in three of four layers,
// neither in the fourth.
var cohere2Family = &Family{
	Name:    "cohere2",
	Models:  "Command R7B, Command A, Aya Expanse",
	Classes: []string{"Cohere2ForCausalLM"},
	load:    loadCohere2,
	vocab:   func(v *vocab.Builder) { v.BPE() },
	decoder: func(d *Decoder, m *params) {
		d.ParallelResidual = true
		d.LogitScale = float32(m.floatOr(0, "logit_scale"))
		d.Window, d.WindowPattern, d.NoRopeStep = m.count("attention.sliding_window"), 4, 4
	},
}

func loadCohere2(b *builder) {
	c := b.cfg
	s := b.commonShape()
	c.oneOf("hidden_act", "silu", "silu")
	c.positive("layer_norm_eps")
	c.mustBe("use_qk_norm", false)
	c.mustBe("attention_bias", false)
	c.mustBe("use_parallel_block", true)
	c.mustBe("use_gated_activation", true)
	c.oneOf("position_embedding_type", "rope_gptj", "rope_gptj")
	c.oneOf("order_of_interleaved_layers", "local_attn_first", "local_attn_first")
	c.ignore("use_embedding_sharing", "use_parallel_embedding")
	for _, key := range []string{"sliding_window_pattern", "_sliding_window_pattern", "layer_switch"} {
		if n := c.countOr(4, key); n != 4 {
			c.bad(formats.Unsupported, "%s %d: the GGUF means 4", key, n)
		}
	}
	for i, t := range c.strings("layer_types") {
		want := "sliding_attention"
		if i%4 == 3 {
			want = "full_attention"
		}
		if t != want {
			c.bad(formats.Unsupported, "layer_types: layer %d is %s, the GGUF means %s", i, formats.Quote(t), want)
		}
	}
	rotary := c.floatOr(1, "rotary_pct")
	if rotary <= 0 || rotary > 1 {
		c.bad(formats.Malformed, "rotary_pct: %g is out of range", rotary)
	}
	b.commonParams(s, b.rope(10000))
	b.setFloat("logit_scale", c.float("logit_scale"))
	b.setUint("attention.sliding_window", c.count("sliding_window"))
	b.setUint("vocab_size", s.vocab)
	b.setUint("rope.dimension_count", int(rotary*float64(s.embd/s.heads)))
	b.set("rope.scaling.type", "none")

	b.embedding("model.embed_tokens.weight", "lm_head.weight", s.vocab, s.embd)
	for i := range s.layers {
		p, blk := fmt.Sprintf("model.layers.%d.", i), fmt.Sprintf("blk.%d.", i)
		b.norm(blk+"attn_norm", p+"input_layernorm", s.embd)
		b.attention(i, s, false)
		b.mlp(i, p+"mlp.", "", s.embd, s.ffn)
	}
	b.norm("output_norm", "model.norm", s.embd)
}
