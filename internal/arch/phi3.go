package arch

import (
	"fmt"
	"math"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/internal/vocab"
)

// phi3Family: Llama's layers with q, k, v in one matrix and gate and up in
// another, partial rope, and for long contexts a factor per frequency
// (longrope, arXiv:2402.13753).
var phi3Family = &Family{
	Name:    "phi3",
	Models:  "Phi-3, Phi-3.5, Phi-4",
	Classes: []string{"Phi3ForCausalLM"},
	load:    loadPhi3,
	vocab: func(v *vocab.Builder) {
		if v.TokenizerClass() == "GPT2Tokenizer" {
			v.BPE()
			return
		}
		v.SentencePieceExact(false)
	},
	decoder: func(d *Decoder, m *params) {
		d.Rope.Half = true
		m.ignore("attention.sliding_window") // llama.cpp makes no use of it
	},
}

func loadPhi3(b *builder) {
	c := b.cfg
	s := b.commonShape()
	c.oneOf("hidden_act", "silu", "silu")
	eps := c.positive("rms_norm_eps")
	r := b.rope(10000, "longrope", "yarn")
	c.ignore("attention_bias", "use_sliding_window", "embedding_layer_norm", "mlp_bias")
	partial, original := 1.0, 0
	if p := r.params; p != nil {
		partial = p.floatOr(1, "partial_rotary_factor")
		original = p.countOr(0, "original_max_position_embeddings")
	}
	partial = c.floatOr(partial, "partial_rotary_factor")
	original = c.countOr(original, "original_max_position_embeddings")
	if original == 0 {
		original = s.context
	}
	ropeDim := int(partial*float64(s.embd)) / s.heads
	if ropeDim < 2 || ropeDim%2 != 0 || ropeDim > s.headDim {
		c.bad(formats.Malformed, "partial_rotary_factor %g gives a rope over %d of %d elements", partial, ropeDim, s.headDim)
	}
	if r.typ != "default" {
		long, short := r.params.floatList("long_factor", ropeDim/2), r.params.floatList("short_factor", ropeDim/2)
		if long == nil || short == nil {
			c.bad(formats.Malformed, "%slong_factor or short_factor missing", r.params.where)
		}
		factor, scale := 1.0, float64(s.context)/float64(original)
		if scale > 1 && r.typ == "longrope" {
			factor = math.Sqrt(1 + math.Log(scale)/math.Log(float64(original)))
		} else if scale > 1 {
			factor = float64(0.1*math.Log(scale)) + 1
		}
		b.m.Early.Set(b.f.Name+".rope.scaling.attn_factor", float32(factor))
		b.put("rope_factors_long.weight", values(long))
		b.put("rope_factors_short.weight", values(short))
		ropeLeftover(r.params)
	}

	b.setUint("context_length", c.count("n_positions", "max_position_embeddings"))
	b.setUint("rope.scaling.original_context_length", original)
	b.setUint("embedding_length", s.embd)
	b.setUint("feed_forward_length", s.ffn)
	b.setUint("block_count", s.layers)
	b.setUint("attention.head_count", s.heads)
	b.setUint("attention.head_count_kv", s.kv)
	b.setEps("rms_norm_eps", "attention.layer_norm_rms_epsilon", eps)
	b.setUint("rope.dimension_count", ropeDim)
	b.setFloat("rope.freq_base", r.theta)
	b.setFileType()
	window := c.countOr(0, "sliding_window")
	b.setUint("attention.sliding_window", window) // 0: Phi-4
	if window > 0 && window < s.context {
		b.native(func(d *Decoder) { d.Window = window })
		b.note("sliding_window %d: llama.cpp's phi3 attends to the whole text", window)
	}

	b.embedding("model.embed_tokens.weight", "lm_head.weight", s.vocab, s.embd)
	for i := range s.layers {
		p, blk := fmt.Sprintf("model.layers.%d.", i), fmt.Sprintf("blk.%d.", i)
		b.norm(blk+"attn_norm", p+"input_layernorm", s.embd)
		b.linear(blk+"attn_qkv", p+"self_attn.qkv_proj", (s.heads+2*s.kv)*s.headDim, s.embd, nil)
		b.linear(blk+"attn_output", p+"self_attn.o_proj", s.embd, s.heads*s.headDim, nil)
		b.norm(blk+"ffn_norm", p+"post_attention_layernorm", s.embd)
		b.linear(blk+"ffn_up", p+"mlp.gate_up_proj", 2*s.ffn, s.embd, nil)
		b.linear(blk+"ffn_down", p+"mlp.down_proj", s.embd, s.ffn, nil)
	}
	b.norm("output_norm", "model.norm", s.embd)
}
