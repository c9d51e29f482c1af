package arch

import (
	"fmt"

	"github.com/smeltgguf/smelt/internal/vocab"
)

// olmo2Family: Llama's layers with norms behind attention and feed-forward
// instead of before them, and norms of q and k over all heads at once; OLMo 3
// has a window in three of four layers.
var olmo2Family = &Family{
	Name:    "olmo2",
	Models:  "OLMo 2 and 3",
	Classes: []string{"Olmo2ForCausalLM", "Olmo3ForCausalLM"},
	load:    loadOLMo2,
	vocab:   func(v *vocab.Builder) { v.BPE() },
	decoder: func(d *Decoder, m *params) {
		d.Rope.Half = true
		d.NormsBehind = true
		if d.Window = m.countOr(0, "attention.sliding_window"); d.Window == 0 {
			return
		}
		d.WindowPattern = 4
		if d.Rope.BaseLocal == 0 {
			d.Rope.BaseLocal = d.Rope.Base // YaRN is for the other layers only
		}
		key := m.key("attention.sliding_window_pattern")
		v, ok := m.m.Get(key)
		pattern, isBools := v.([]bool)
		if ok && !isBools {
			fail("%s: want bools, got %T", key, v)
		}
		for l, windowed := range pattern {
			if windowed == d.Global(l) {
				fail("%s: layer %d is %t, every fourth and no other must be false", key, l, windowed)
			}
		}
	},
	export: func(e *exporter) {
		e.class("Olmo2ForCausalLM", "olmo2")
		e.cfg["hidden_act"] = "silu"
		if e.d.Window > 0 {
			e.class("Olmo3ForCausalLM", "olmo3") // whose default is the pattern of windows
			e.cfg["sliding_window"] = number(e.d.Window)
		}
	},
}

func loadOLMo2(b *builder) {
	c := b.cfg
	s := b.commonShape()
	c.oneOf("hidden_act", "silu", "silu")
	c.positive("rms_norm_eps")
	c.ignore("attention_bias")
	b.commonParams(s, b.rope(10000, "linear", "yarn"))
	window := c.countOr(0, "sliding_window")
	types := c.strings("layer_types")
	if window > 0 {
		b.setUint("attention.sliding_window", window)
		pattern := make([]bool, s.layers)
		for i := range pattern {
			pattern[i] = (i+1)%4 != 0
			if i < len(types) {
				pattern[i] = types[i] == "sliding_attention"
			}
		}
		b.set("attention.sliding_window_pattern", pattern)
	}
	b.embedding("model.embed_tokens.weight", "lm_head.weight", s.vocab, s.embd)
	for i := range s.layers {
		p, blk := fmt.Sprintf("model.layers.%d.", i), fmt.Sprintf("blk.%d.", i)
		b.attention(i, s, false)
		b.norm(blk+"attn_q_norm", p+"self_attn.q_norm", s.heads*s.headDim)
		b.norm(blk+"attn_k_norm", p+"self_attn.k_norm", s.kv*s.headDim)
		b.norm(blk+"post_attention_norm", p+"post_attention_layernorm", s.embd)
		b.mlp(i, p+"mlp.", "", s.embd, s.ffn)
		b.norm(blk+"post_ffw_norm", p+"post_feedforward_layernorm", s.embd)
	}
	b.norm("output_norm", "model.norm", s.embd)
}
