package arch

import (
	"fmt"

	"github.com/smeltgguf/smelt/internal/vocab"
)

// baichuanFamily is Llama with q, k, v in one matrix; the 13B models have
// linear biases (ALiBi, arXiv:2108.12409) instead of rope.
var baichuanFamily = &Family{
	Name:    "baichuan",
	Models:  "Baichuan 7B, 13B",
	Classes: []string{"BaichuanForCausalLM", "BaiChuanForCausalLM"},
	load:    loadBaichuan,
	vocab:   func(v *vocab.Builder) { v.SentencePiece() },
	decoder: func(d *Decoder, _ *params) {
		if d.Layers == 40 { // 13B; nothing else tells
			d.Rope, d.AlibiMax = Rope{}, 8
		}
	},
}

func loadBaichuan(b *builder) {
	c := b.cfg
	s := b.commonShape()
	c.oneOf("hidden_act", "silu", "silu")
	c.positive("rms_norm_eps")
	r := b.rope(10000, "linear")
	if s.vocab == 125696 {
		b.note("Baichuan 2 normalizes the rows of its output matrix when it runs; they are written as they are, as llama.cpp's converter does")
	}

	if s.context == 0 {
		c.count("max_position_embeddings")
	}
	b.commonParams(s, r)
	b.set("tensor_data_layout", "Meta AI original pth")
	b.setUint("rope.dimension_count", s.headDim)

	viaQ, viaK := b.unrope(s.heads), b.unrope(s.kv)
	b.embedding("model.embed_tokens.weight", "lm_head.weight", s.vocab, s.embd)
	for i := range s.layers {
		p, blk := fmt.Sprintf("model.layers.%d.", i), fmt.Sprintf("blk.%d.", i)
		b.norm(blk+"attn_norm", p+"input_layernorm", s.embd)
		pack := b.src(p+"self_attn.W_pack.weight", 3*s.embd, s.embd)
		b.putVia(blk+"attn_q.weight", pack.slice(0, s.embd), viaQ)
		b.putVia(blk+"attn_k.weight", pack.slice(s.embd, s.embd), viaK)
		b.put(blk+"attn_v.weight", pack.slice(2*s.embd, s.embd))
		b.linear(blk+"attn_output", p+"self_attn.o_proj", s.embd, s.embd, nil)
		b.norm(blk+"ffn_norm", p+"post_attention_layernorm", s.embd)
		b.mlp(i, p+"mlp.", "", s.embd, s.ffn)
	}
	b.norm("output_norm", "model.norm", s.embd)
}
