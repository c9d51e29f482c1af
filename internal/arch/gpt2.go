package arch

import (
	"fmt"

	"github.com/smeltgguf/smelt/internal/vocab"
)

// gpt2Family: learned positions, layer norms, q, k, v in one matrix. Its linear
// layers are stored transposed (Conv1D).
var gpt2Family = &Family{
	Name:    "gpt2",
	Models:  "GPT-2",
	Classes: []string{"GPT2LMHeadModel"},
	load:    loadGPT2,
	vocab:   func(v *vocab.Builder) { v.BPE() },
	decoder: func(d *Decoder, _ *params) {
		d.Activation = GELU
		d.Rope = Rope{}
	},
}

func loadGPT2(b *builder) {
	c := b.cfg
	s := b.commonShape()
	s.context = c.count("n_ctx", "n_positions")
	positions := c.count("n_positions", "n_ctx")
	s.ffn = c.countOr(4*s.embd, "n_inner")
	c.oneOf("activation_function", "gelu_new", "gelu_new", "gelu_pytorch_tanh")
	c.mustBe("scale_attn_weights", true)
	c.mustBe("scale_attn_by_inverse_layer_idx", false)

	b.setUint("block_count", s.layers)
	b.setUint("context_length", s.context)
	b.setUint("embedding_length", s.embd)
	b.setUint("feed_forward_length", s.ffn)
	b.setUint("attention.head_count", s.heads)
	b.setEps("layer_norm_epsilon", "attention.layer_norm_epsilon", c.positive("layer_norm_epsilon"))
	b.setFileType()

	conv := func(dst, src string, out, in int) {
		b.put(dst+".weight", b.src(src+".weight", in, out).transpose())
		b.put(dst+".bias", b.src(src+".bias", out))
	}
	b.addPrefix("transformer.")
	b.put("token_embd.weight", b.src("transformer.wte.weight", s.vocab, s.embd))
	b.put("position_embd.weight", b.src("transformer.wpe.weight", positions, s.embd))
	for _, head := range []string{"lm_head.weight", "transformer.lm_head.weight"} {
		if b.has(head) {
			b.put("output.weight", b.src(head, s.vocab, s.embd))
			break
		}
	}
	for i := range s.layers {
		p, blk := fmt.Sprintf("transformer.h.%d.", i), fmt.Sprintf("blk.%d.", i)
		b.norm(blk+"attn_norm", p+"ln_1", s.embd)
		conv(blk+"attn_qkv", p+"attn.c_attn", 3*s.embd, s.embd)
		conv(blk+"attn_output", p+"attn.c_proj", s.embd, s.embd)
		b.norm(blk+"ffn_norm", p+"ln_2", s.embd)
		conv(blk+"ffn_up", p+"mlp.c_fc", s.ffn, s.embd)
		conv(blk+"ffn_down", p+"mlp.c_proj", s.embd, s.ffn)
		b.skip(p + "attn.bias") // the causal mask
		b.skip(p + "attn.masked_bias")
	}
	b.norm("output_norm", "transformer.ln_f", s.embd)
}
