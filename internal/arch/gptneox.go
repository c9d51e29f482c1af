package arch

import (
	"fmt"

	"github.com/smeltgguf/smelt/internal/vocab"
)

// gptneoxFamily: GPT-2's layers with partial rope and, mostly, a parallel
// residual; q, k, v are interleaved by head in the checkpoint.
var gptneoxFamily = &Family{
	Name:    "gptneox",
	Models:  "GPT-NeoX, Pythia",
	Classes: []string{"GPTNeoXForCausalLM"},
	load:    loadGPTNeoX,
	vocab:   func(v *vocab.Builder) { v.BPE() },
	decoder: func(d *Decoder, m *params) {
		d.Activation = GELU
		d.ParallelResidual = m.boolOr(true, "use_parallel_residual")
		d.Rope.Half = true
	},
}

func loadGPTNeoX(b *builder) {
	c := b.cfg
	s := b.commonShape()
	act := c.oneOf("hidden_act", "gelu", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh")
	eps := c.positive("layer_norm_eps")
	r := b.rope(10000)
	partial := 0.25
	if r.params != nil {
		partial = r.params.floatOr(partial, "partial_rotary_factor")
		ropeLeftover(r.params)
	}
	partial = c.floatOr(partial, "rotary_pct", "partial_rotary_factor")
	c.ignore("attention_bias")

	b.setUint("context_length", c.count("max_position_embeddings"))
	b.setUint("embedding_length", s.embd)
	b.setUint("block_count", s.layers)
	b.setUint("feed_forward_length", s.ffn)
	b.setUint("rope.dimension_count", int(partial*float64(s.headDim)))
	b.setUint("attention.head_count", s.heads)
	b.set("use_parallel_residual", c.boolean(true, "use_parallel_residual"))
	b.setEps("layer_norm_eps", "attention.layer_norm_epsilon", eps)
	b.freqBaseUnlessDefault(r)
	if act == "gelu" {
		b.native(func(d *Decoder) { d.Activation = GELUErf })
	}

	// (heads, 3, dim) -> (3, heads, dim)
	ungroup := func(x shaped) shaped {
		return x.pick(3*s.embd, func(i int) int {
			part, h, j := i/s.embd, i%s.embd/s.headDim, i%s.headDim
			return (h*3+part)*s.headDim + j
		})
	}
	b.put("token_embd.weight", b.src("gpt_neox.embed_in.weight", s.vocab, s.embd))
	if b.has("embed_out.weight") {
		b.put("output.weight", b.src("embed_out.weight", s.vocab, s.embd))
	}
	for i := range s.layers {
		p, blk := fmt.Sprintf("gpt_neox.layers.%d.", i), fmt.Sprintf("blk.%d.", i)
		b.norm(blk+"attn_norm", p+"input_layernorm", s.embd)
		b.linear(blk+"attn_qkv", p+"attention.query_key_value", 3*s.embd, s.embd, ungroup)
		b.linear(blk+"attn_output", p+"attention.dense", s.embd, s.embd, nil)
		b.norm(blk+"ffn_norm", p+"post_attention_layernorm", s.embd)
		b.linear(blk+"ffn_up", p+"mlp.dense_h_to_4h", s.ffn, s.embd, nil)
		b.linear(blk+"ffn_down", p+"mlp.dense_4h_to_h", s.embd, s.ffn, nil)
	}
	b.norm("output_norm", "gpt_neox.final_layer_norm", s.embd)
}
