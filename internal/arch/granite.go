package arch

import "fmt"

// graniteFamily is Llama with multipliers: of embeddings, of attention scores,
// of what each block adds and of logits.
var graniteFamily = &Family{
	Name:    "granite",
	Models:  "Granite 3",
	Classes: []string{"GraniteForCausalLM"},
	load:    loadGranite,
	vocab:   llamaVocab,
	decoder: graniteDecoder,
	export: func(e *exporter) {
		e.class("GraniteForCausalLM", "granite")
		e.cfg["hidden_act"] = "silu"
		e.cfg["attention_bias"] = e.has("blk.0.attn_q.bias")
		e.cfg["mlp_bias"] = e.has("blk.0.ffn_up.bias")
		for _, k := range graniteScaleKeys {
			e.copyFloat(e.cfg, k)
		}
	},
}

func graniteDecoder(d *Decoder, m *params) {
	d.AttnScale = float32(m.floatOr(0, "attention.scale"))
	d.EmbdScale = float32(m.floatOr(0, "embedding_scale"))
	d.ResidualScale = float32(m.floatOr(0, "residual_scale"))
	if f := m.floatOr(0, "logit_scale"); f != 0 {
		d.LogitScale = float32(1 / f)
	}
	if !m.boolOr(true, "rope.scaling.finetuned") { // llama.cpp's switch for models without positions
		d.Rope.Dim = 0
	}
}

func loadGranite(b *builder) {
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

	b.embedding("model.embed_tokens.weight", "lm_head.weight", s.vocab, s.embd)
	for i := range s.layers {
		p, blk := fmt.Sprintf("model.layers.%d.", i), fmt.Sprintf("blk.%d.", i)
		b.norm(blk+"attn_norm", p+"input_layernorm", s.embd)
		b.attention(i, s, true)
		b.norm(blk+"ffn_norm", p+"post_attention_layernorm", s.embd)
		b.mlp(i, p+"mlp.", "", s.embd, s.ffn)
	}
	b.norm("output_norm", "model.norm", s.embd)
}

var graniteScaleKeys = []keyPair{
	{"attention.scale", []string{"attention_multiplier"}},
	{"embedding_scale", []string{"embedding_multiplier"}},
	{"residual_scale", []string{"residual_multiplier"}},
	{"logit_scale", []string{"logits_scaling"}},
}

// graniteScales writes the multipliers.
func (b *builder) graniteScales() {
	for _, k := range graniteScaleKeys {
		if f, ok := b.cfg.floatIf(k.from...); ok && f != 0 {
			b.setFloat(k.key, f)
		}
	}
}
