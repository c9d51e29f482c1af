package arch

import (
	"fmt"

	"github.com/smeltgguf/smelt/internal/vocab"
)

// Qwen 2 to 3: Llama's layers with biases at q, k and v (2) or norms of q's and
// k's heads (3), dense or with experts; rope rotates halves.
var (
	qwen2Family = &Family{
		Name:    "qwen2",
		Models:  "Qwen 1.5, 2 and 2.5, DeepSeek-R1 distillations of them",
		Classes: []string{"Qwen2ForCausalLM", "Qwen2Model"},
		load:    func(b *builder) { loadQwen(b) },
		vocab:   sentencePieceOrBPE,
		decoder: func(d *Decoder, _ *params) { d.Rope.Half = true },
		export:  func(e *exporter) { exportQwen(e, "Qwen2ForCausalLM", "qwen2") },
	}
	qwen2MoEFamily = &Family{
		Name:    "qwen2moe",
		Models:  "Qwen 1.5 and 2 with experts",
		Classes: []string{"Qwen2MoeForCausalLM"},
		load: func(b *builder) {
			b.cfg.mustBe("norm_topk_prob", false)
			loadQwen(b)
		},
		vocab:   func(v *vocab.Builder) { v.BPE() },
		decoder: func(d *Decoder, _ *params) { d.Rope.Half = true },
		export:  func(e *exporter) { exportQwen(e, "Qwen2MoeForCausalLM", "qwen2_moe") },
	}
	qwen3Family = &Family{
		Name:    "qwen3",
		Models:  "Qwen 3",
		Classes: []string{"Qwen3ForCausalLM", "Qwen3Model"},
		load:    func(b *builder) { loadQwen(b) },
		vocab:   sentencePieceOrBPE,
		decoder: func(d *Decoder, _ *params) { d.Rope.Half = true },
		export:  func(e *exporter) { exportQwen(e, "Qwen3ForCausalLM", "qwen3") },
	}
	qwen3MoEFamily = &Family{
		Name:    "qwen3moe",
		Models:  "Qwen 3 with experts",
		Classes: []string{"Qwen3MoeForCausalLM"},
		load: func(b *builder) {
			b.cfg.mustBe("norm_topk_prob", true)
			loadQwen(b)
		},
		vocab:   func(v *vocab.Builder) { v.BPE() },
		decoder: func(d *Decoder, _ *params) { d.Rope.Half = true; d.ExpertNorm = true },
		export:  func(e *exporter) { exportQwen(e, "Qwen3MoeForCausalLM", "qwen3_moe") },
	}
)

// sentencePieceOrBPE: tokenizer.model if there is one, else byte-level BPE.
func sentencePieceOrBPE(v *vocab.Builder) {
	if v.HasSentencePiece() {
		v.SentencePiece()
		return
	}
	v.BPE()
}

// The widths of the experts' feed-forward.
var (
	qwenExpertFFN = keyPair{"expert_feed_forward_length", []string{"moe_intermediate_size"}}
	qwenSharedFFN = keyPair{"expert_shared_feed_forward_length", []string{"shared_expert_intermediate_size"}}
)

func exportQwen(e *exporter, class, modelType string) {
	e.class(class, modelType)
	e.cfg["hidden_act"] = "silu"
	if e.d.Experts == 0 {
		return
	}
	e.cfg["norm_topk_prob"] = e.d.ExpertNorm
	e.cfg["decoder_sparse_step"] = number(1)
	delete(e.cfg, expertKeys[0].from[0]) // another name for it
	e.cfg["num_experts"] = number(e.d.Experts)
	e.copyUint(qwenExpertFFN)
	e.copyUint(qwenSharedFFN)
}

func loadQwen(b *builder) {
	c := b.cfg
	s := b.commonShape()
	c.oneOf("hidden_act", "silu", "silu")
	c.positive("rms_norm_eps")
	c.ignore("attention_bias", "qkv_bias")
	b.windowNotWritten()
	b.commonParams(s, b.rope(10000, "linear", "dynamic", "yarn"))
	experts := c.countOr(0, "num_experts", "num_local_experts")
	var expertFFN, sharedFFN int
	if experts > 0 {
		expertFFN = c.count(qwenExpertFFN.from...)
		b.setUint(qwenExpertFFN.key, expertFFN)
		if sharedFFN = c.countOr(0, qwenSharedFFN.from...); sharedFFN > 0 {
			b.setUint(qwenSharedFFN.key, sharedFFN)
		}
		if step := c.countOr(1, "decoder_sparse_step"); step != 1 {
			fail("%s: decoder_sparse_step %d is not supported: all layers must have experts", c.file, step)
		}
	}

	b.addPrefix("model.")
	b.embedding("model.embed_tokens.weight", "lm_head.weight", s.vocab, s.embd)
	for i := range s.layers {
		p, blk := fmt.Sprintf("model.layers.%d.", i), fmt.Sprintf("blk.%d.", i)
		b.norm(blk+"attn_norm", p+"input_layernorm", s.embd)
		b.attention(i, s, false)
		b.headNorms(i, s.headDim)
		b.norm(blk+"ffn_norm", p+"post_attention_layernorm", s.embd)
		if experts == 0 {
			b.mlp(i, p+"mlp.", "", s.embd, s.ffn)
			continue
		}
		b.linear(blk+"ffn_gate_inp", p+"mlp.gate", experts, s.embd, nil)
		b.mlpExperts(i, p+"mlp.", experts, s.embd, expertFFN)
		if sharedFFN > 0 {
			b.mlp(i, p+"mlp.shared_expert.", "_shexp", s.embd, sharedFFN)
			b.linear(blk+"ffn_gate_inp_shexp", p+"mlp.shared_expert_gate", 1, s.embd, nil)
		}
	}
	b.norm("output_norm", "model.norm", s.embd)
}

// headNorms puts the norms of q's and k's heads, where there are some: one
// weight per element of a head.
func (b *builder) headNorms(i, headDim int) {
	p, blk := fmt.Sprintf("model.layers.%d.self_attn.", i), fmt.Sprintf("blk.%d.", i)
	if b.has(p + "q_norm.weight") {
		b.norm(blk+"attn_q_norm", p+"q_norm", headDim)
		b.norm(blk+"attn_k_norm", p+"k_norm", headDim)
	}
}

// mlpExperts puts a layer's experts: one matrix each, or, as newer libraries
// save them, stacked with gate and up in one.
func (b *builder) mlpExperts(i int, prefix string, n, embd, ffn int) {
	blk := fmt.Sprintf("blk.%d.ffn_", i)
	if stacked := prefix + "experts.gate_up_proj"; b.hasOther(stacked) {
		b.put(blk+"down_exps.weight", b.src(prefix+"experts.down_proj", n, embd, ffn))
		b.gateUpExperts(i, stacked, n, embd, ffn)
		return
	}
	e := prefix + "experts.%d."
	b.experts(n,
		expert{blk + "down_exps.weight", e + "down_proj.weight", embd, ffn},
		expert{blk + "gate_exps.weight", e + "gate_proj.weight", ffn, embd},
		expert{blk + "up_exps.weight", e + "up_proj.weight", ffn, embd})
}

// gateUpExperts puts the experts' gate and up matrices from one tensor of shape
// (n, 2*ffn, embd), gate first.
func (b *builder) gateUpExperts(i int, name string, n, embd, ffn int) {
	blk := fmt.Sprintf("blk.%d.ffn_", i)
	rows := b.src(name, n, 2*ffn, embd).view(n*2*ffn, embd)
	half := func(first int) shaped {
		return rows.pick(n*ffn, func(i int) int { return i/ffn*2*ffn + first + i%ffn }).view(n, ffn, embd)
	}
	b.put(blk+"gate_exps.weight", half(0))
	b.put(blk+"up_exps.weight", half(ffn))
}
