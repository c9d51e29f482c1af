package arch

import (
	"fmt"

	"github.com/smeltgguf/smelt/internal/vocab"
)

// commandRFamily: attention and feed-forward in parallel behind one layer norm
// without bias, scaled logits, in the larger models norms of q's and k's heads.
// Rope is interleaved in the checkpoint as well.
var commandRFamily = &Family{
	Name:    "command-r",
	Models:  "Command-R, Command-R+, Aya 23",
	Classes: []string{"CohereForCausalLM"},
	load:    loadCommandR,
	vocab:   func(v *vocab.Builder) { v.BPE() },
	decoder: func(d *Decoder, m *params) {
		d.ParallelResidual = true
		d.LogitScale = float32(m.floatOr(0, "logit_scale"))
	},
}

func loadCommandR(b *builder) {
	c := b.cfg
	if c.has("model_max_length") { // max_position_embeddings says less than they were trained for
		c.vals["max_position_embeddings"] = c.vals["model_max_length"]
	}
	s := b.commonShape()
	c.oneOf("hidden_act", "silu", "silu")
	c.positive("layer_norm_eps")
	c.ignore("attention_bias")
	qkNorm := c.boolean(false, "use_qk_norm")
	b.commonParams(s, b.rope(10000))
	b.setFloat("logit_scale", c.float("logit_scale"))
	b.set("rope.scaling.type", "none")

	b.embedding("model.embed_tokens.weight", "lm_head.weight", s.vocab, s.embd)
	for i := range s.layers {
		p, blk := fmt.Sprintf("model.layers.%d.", i), fmt.Sprintf("blk.%d.", i)
		b.norm(blk+"attn_norm", p+"input_layernorm", s.embd)
		b.attention(i, s, false)
		if qkNorm {
			b.put(blk+"attn_q_norm.weight", b.src(p+"self_attn.q_norm.weight", s.heads, s.headDim))
			b.put(blk+"attn_k_norm.weight", b.src(p+"self_attn.k_norm.weight", s.kv, s.headDim))
		}
		b.mlp(i, p+"mlp.", "", s.embd, s.ffn)
	}
	b.norm("output_norm", "model.norm", s.embd)
}
