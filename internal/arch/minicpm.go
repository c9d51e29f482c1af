package arch

import (
	"fmt"
	"math"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/internal/vocab"
)

// minicpmFamily is Llama with scaled embeddings, residuals and logits.
var minicpmFamily = &Family{
	Name:    "minicpm",
	Models:  "MiniCPM 1, 2, 4",
	Classes: []string{"MiniCPMForCausalLM"},
	load:    loadMiniCPM,
	vocab:   func(v *vocab.Builder) { v.SentencePiece() },
	decoder: graniteDecoder,
}

func loadMiniCPM(b *builder) {
	c := b.cfg
	s := b.commonShape()
	c.oneOf("hidden_act", "silu", "silu")
	c.positive("rms_norm_eps")
	c.ignore("attention_bias", "mlp_bias", "sparse_config")
	r := b.rope(10000, "longrope", "linear", "dynamic")
	if r.typ == "longrope" {
		long, short := r.params.floatList("long_factor", s.headDim/2), r.params.floatList("short_factor", s.headDim/2)
		if long == nil || short == nil {
			c.bad(formats.Malformed, "%slong_factor or short_factor missing", r.params.where)
		}
		r.params.ignore("original_max_position_embeddings")
		b.put("rope_factors_long.weight", values(long))
		b.put("rope_factors_short.weight", values(short))
	}
	b.commonParams(s, r)
	b.setFloat("embedding_scale", c.float("scale_emb"))
	b.setFloat("residual_scale", c.float("scale_depth")/math.Sqrt(float64(s.layers)))
	b.setFloat("logit_scale", float64(s.embd)/float64(c.count("dim_model_base")))

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
