package arch

import (
	"fmt"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/internal/vocab"
)

// falconFamily: attention and feed-forward in parallel, few kv heads; q, k, v
// are interleaved by kv group in the checkpoint.
var falconFamily = &Family{
	Name:    "falcon",
	Models:  "Falcon 7B, 11B, 40B, 180B",
	Classes: []string{"FalconForCausalLM", "RWForCausalLM"},
	load:    loadFalcon,
	vocab:   func(v *vocab.Builder) { v.BPE() },
	decoder: func(d *Decoder, _ *params) {
		d.Activation = GELU
		d.ParallelResidual = true
		d.Rope.Half = true
	},
}

func loadFalcon(b *builder) {
	c := b.cfg
	s := b.commonShape()
	s.kv = c.countOr(1, "num_kv_heads", "n_head_kv")
	if !c.boolean(false, "new_decoder_architecture") && !c.boolean(true, "multi_query") {
		s.kv = s.heads
	}
	if s.heads%s.kv != 0 {
		c.bad(formats.Malformed, "%d heads are no multiple of %d kv heads", s.heads, s.kv)
	}
	s.ffn = c.countOr(4*s.embd, "ffn_hidden_size")
	c.mustBe("alibi", false)
	c.mustBe("parallel_attn", true)
	c.mustBe("apply_residual_connection_post_layernorm", false)
	c.oneOf("activation", "gelu", "gelu")
	c.ignore("bias", "num_ln_in_parallel_attn", "rotary")
	eps := c.positive("layer_norm_epsilon")
	r := b.rope(10000)

	b.setUint("context_length", 2048) // llama.cpp's converter writes it for all of them
	b.set("tensor_data_layout", "jploski")
	b.setUint("embedding_length", s.embd)
	b.setUint("feed_forward_length", s.ffn)
	b.setUint("block_count", s.layers)
	b.setUint("attention.head_count", s.heads)
	b.setUint("attention.head_count_kv", s.kv)
	b.setEps("layer_norm_epsilon", "attention.layer_norm_epsilon", eps)
	b.setFileType()
	b.freqBaseUnlessDefault(r)
	b.native(func(d *Decoder) { d.Activation = GELUErf })

	// (kv groups, q heads of the group + k + v, dim) -> all q, all k, all v
	group := s.heads/s.kv + 2
	rows := (s.heads + 2*s.kv) * s.headDim
	head := func(h int) (from int) {
		switch {
		case h < s.heads:
			return h/(group-2)*group + h%(group-2)
		case h < s.heads+s.kv:
			return (h-s.heads)*group + group - 2
		}
		return (h-s.heads-s.kv)*group + group - 1
	}
	ungroup := func(x shaped) shaped {
		return x.pick(rows, func(i int) int { return head(i/s.headDim)*s.headDim + i%s.headDim })
	}
	b.addPrefix("transformer.")
	b.put("token_embd.weight", b.src("transformer.word_embeddings.weight", s.vocab, s.embd))
	if b.has("lm_head.weight") {
		b.put("output.weight", b.src("lm_head.weight", s.vocab, s.embd))
	}
	for i := range s.layers {
		p, blk := fmt.Sprintf("transformer.h.%d.", i), fmt.Sprintf("blk.%d.", i)
		if b.has(p + "ln_mlp.weight") { // 40B: a norm for each branch
			b.norm(blk+"attn_norm", p+"ln_mlp", s.embd)
			b.norm(blk+"attn_norm_2", p+"ln_attn", s.embd)
		} else {
			b.norm(blk+"attn_norm", p+"input_layernorm", s.embd)
		}
		b.linear(blk+"attn_qkv", p+"self_attention.query_key_value", rows, s.embd, ungroup)
		b.linear(blk+"attn_output", p+"self_attention.dense", s.embd, s.embd, nil)
		b.linear(blk+"ffn_up", p+"mlp.dense_h_to_4h", s.ffn, s.embd, nil)
		b.linear(blk+"ffn_down", p+"mlp.dense_4h_to_h", s.embd, s.ffn, nil)
	}
	b.norm("output_norm", "transformer.ln_f", s.embd)
}

// freqBaseUnlessDefault writes the base of the rope where llama.cpp's converter
// leaves it out, if it is not what llama.cpp then takes.
func (b *builder) freqBaseUnlessDefault(r *rope) {
	if r.theta != defaultBase {
		b.setFloat("rope.freq_base", r.theta)
	}
}
