package arch

import "github.com/smeltgguf/smelt/formats"

// smollm3Family is Llama without rope in every fourth layer.
var smollm3Family = &Family{
	Name:    "smollm3",
	Models:  "SmolLM3",
	Classes: []string{"SmolLM3ForCausalLM"},
	load: func(b *builder) {
		c := b.cfg
		if n := c.countOr(4, "no_rope_layer_interval"); n != 4 {
			c.bad(formats.Unsupported, "no_rope_layer_interval %d: the GGUF means 4", n)
		}
		if _, list, ok := c.find([]string{"no_rope_layers"}); ok {
			layers, _ := list.([]any)
			for i, v := range layers {
				if n, ok := integer(v); !ok || (n == 0) != ((i+1)%4 == 0) {
					c.bad(formats.Unsupported, "no_rope_layers: layer %d is %s, the GGUF means every fourth", i, show(v))
				}
			}
		}
		loadLlama(b)
	},
	vocab:   llamaVocab,
	decoder: func(d *Decoder, _ *params) { d.NoRopeStep = 4 },
	export: func(e *exporter) {
		e.class("SmolLM3ForCausalLM", "smollm3")
		e.cfg["hidden_act"] = "silu"
		e.cfg["attention_bias"] = e.has("blk.0.attn_q.bias")
		e.cfg["no_rope_layer_interval"] = number(4)
	},
}
