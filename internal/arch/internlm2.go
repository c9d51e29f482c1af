package arch

import (
	"fmt"
	"strings"

	"github.com/smeltgguf/smelt/internal/vocab"
)

// internlm2Family is Llama with q, k, v in one matrix, grouped by kv head.
var internlm2Family = &Family{
	Name:    "internlm2",
	Models:  "InternLM2, 2.5",
	Classes: []string{"InternLM2ForCausalLM"},
	load:    loadInternLM2,
	vocab: func(v *vocab.Builder) {
		v.Retype(func(text string, typ int32) (string, int32) {
			if text == "\x00" {
				text = "\U0001F409" // no text may be empty to a reader of C strings
			}
			if strings.HasPrefix(text, "[UNUSED") {
				typ = vocab.Unused
			}
			return text, typ
		})
		v.PreferEOS("<|im_end|>") // chat models end turns with it
		v.SentencePieceExact(true)
	},
}

func loadInternLM2(b *builder) {
	c := b.cfg
	s := b.commonShape()
	c.oneOf("hidden_act", "silu", "silu")
	c.positive("rms_norm_eps")
	c.ignore("bias")
	b.commonParams(s, b.rope(10000, "linear", "dynamic"))

	// (kv heads, q heads of the group + k + v, dim)
	perKV := s.heads / s.kv
	part := func(x shaped, heads, of, first int) shaped {
		return x.pick(heads*s.headDim, func(i int) int {
			h := i / s.headDim
			return (h/of*(perKV+2)+first+h%of)*s.headDim + i%s.headDim
		})
	}
	viaQ, viaK := b.unrope(s.heads), b.unrope(s.kv)
	b.embedding("model.tok_embeddings.weight", "output.weight", s.vocab, s.embd)
	for i := range s.layers {
		p, blk := fmt.Sprintf("model.layers.%d.", i), fmt.Sprintf("blk.%d.", i)
		b.norm(blk+"attn_norm", p+"attention_norm", s.embd)
		qkv := func(suffix string, x shaped) {
			b.putVia(blk+"attn_q"+suffix, part(x, s.heads, perKV, 0), viaQ)
			b.putVia(blk+"attn_k"+suffix, part(x, s.kv, 1, perKV), viaK)
			b.put(blk+"attn_v"+suffix, part(x, s.kv, 1, perKV+1))
		}
		rows := (s.heads + 2*s.kv) * s.headDim
		qkv(".weight", b.src(p+"attention.wqkv.weight", rows, s.embd))
		if b.has(p + "attention.wqkv.bias") {
			qkv(".bias", b.src(p+"attention.wqkv.bias", rows))
		}
		b.linear(blk+"attn_output", p+"attention.wo", s.embd, s.heads*s.headDim, nil)
		b.norm(blk+"ffn_norm", p+"ffn_norm", s.embd)
		b.linear(blk+"ffn_gate", p+"feed_forward.w1", s.ffn, s.embd, nil)
		b.linear(blk+"ffn_down", p+"feed_forward.w2", s.embd, s.ffn, nil)
		b.linear(blk+"ffn_up", p+"feed_forward.w3", s.ffn, s.embd, nil)
	}
	b.norm("output_norm", "model.norm", s.embd)
}
