package arch

import (
	"fmt"
	"math"
	"strings"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/internal/vocab"
)

// deepseek2Family: latent attention (keys and values of all heads come from one
// compressed vector) and experts, some shared, after leading dense layers
// (arXiv:2405.04434). The GGUF holds attention in its absorbed form: one kv
// head, and the matrices that take q into and values out of the compressed
// space.
var deepseek2Family = &Family{
	Name:    "deepseek2",
	Models:  "DeepSeek-V2, V2-Lite, V3, R1",
	Classes: []string{"DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM"},
	load:    loadDeepseek2,
	vocab:   func(v *vocab.Builder) { v.BPE() },
	decoder: func(d *Decoder, m *params) {
		d.MLA = &MLA{
			QRank:    m.countOr(0, "attention.q_lora_rank"),
			KVRank:   m.count("attention.kv_lora_rank"),
			KeyDim:   m.count("attention.key_length_mla"),
			ValueDim: m.count("attention.value_length_mla"),
		}
		d.DenseLayers = m.countOr(0, "leading_dense_block_count")
		d.ExpertScale = float32(m.floatOr(0, "expert_weights_scale"))
		d.ExpertNorm = m.boolOr(false, "expert_weights_norm")
		d.ExpertGroups = m.countOr(0, "expert_group_count")
		d.ExpertGroupsUsed = m.countOr(0, "expert_group_used_count")
		if want := d.MLA.KVRank + d.Rope.Dim; d.HeadDim != want || d.KVHeads != 1 || d.MLA.KeyDim <= d.Rope.Dim {
			fail("%s: latent attention wants one kv head of kv_lora_rank + rope.dimension_count = %d elements and key_length_mla above %d",
				m.key("attention.key_length"), want, d.Rope.Dim)
		}
		if n := m.countOr(d.MLA.KVRank, "attention.value_length"); n != d.MLA.KVRank {
			fail("%s: %d, kv_lora_rank is %d", m.key("attention.value_length"), n, d.MLA.KVRank)
		}
		// YaRN's factor goes into the scores instead of the rotated values, which
		// are only a part of each head.
		factor := 1.0
		if y := d.Rope.Yarn; y != nil {
			if mult := m.floatOr(0, "rope.scaling.yarn_log_multiplier"); mult != 0 {
				d.Rope.AttnFactor /= y.magnitude(0.1)
				factor = y.magnitude(mult)
			}
			factor *= d.Rope.AttnFactor
		}
		d.AttnScale = float32(factor * factor / math.Sqrt(float64(d.MLA.KeyDim)))
		if d.ExpertGroups > 1 && (d.Experts%d.ExpertGroups != 0 || d.Experts/d.ExpertGroups < 2 || d.ExpertGroupsUsed < 1 ||
			d.ExpertGroupsUsed > d.ExpertGroups || d.Experts/d.ExpertGroups*d.ExpertGroupsUsed < d.ExpertsUsed) {
			fail("%s: %d of %d experts from %d of %d groups", m.key("expert_group_used_count"), d.ExpertsUsed, d.Experts, d.ExpertGroupsUsed, d.ExpertGroups)
		}
	},
}

func loadDeepseek2(b *builder) {
	c := b.cfg
	s := b.commonShape()
	c.oneOf("hidden_act", "silu", "silu")
	if !c.has("rms_norm_eps") {
		c.vals["rms_norm_eps"] = decimal("1e-6")
	}
	c.oneOf("topk_method", "greedy", "greedy", "group_limited_greedy", "noaux_tc")
	if n := c.countOr(1, "moe_layer_freq"); n != 1 {
		c.bad(formats.Unsupported, "moe_layer_freq %d is not supported", n)
	}
	c.ignore("attention_bias", "num_nextn_predict_layers")
	r := b.rope(10000, "yarn")
	mscaleAll, hasMscale := 0.0, false
	if r.typ == "yarn" {
		mscaleAll, hasMscale = r.params.floatIf("mscale_all_dim")
		if f, ok := r.params.floatIf("mscale"); ok && f != mscaleAll {
			b.note("rope_scaling.mscale %g differs from mscale_all_dim %g, which the GGUF takes for both", f, mscaleAll)
		}
	}
	nope, ropeDim, vDim := c.count("qk_nope_head_dim"), c.count("qk_rope_head_dim"), c.count("v_head_dim")
	kvRank := c.countOr(512, "kv_lora_rank")
	qRank := c.countOr(0, "q_lora_rank")
	experts := c.countOr(0, "n_routed_experts")
	shared := c.natural("n_shared_experts")
	dense := s.layers
	if experts > 0 {
		dense = c.natural("first_k_dense_replace")
	}
	expertFFN := c.countOr(s.ffn, "moe_intermediate_size")

	b.commonParams(s, r)
	b.setUint("attention.head_count_kv", 1)
	b.setUint("leading_dense_block_count", dense)
	b.setUint("vocab_size", s.vocab)
	if qRank > 0 {
		b.setUint("attention.q_lora_rank", qRank)
	}
	b.setUint("attention.kv_lora_rank", kvRank)
	b.setUint("attention.key_length", kvRank+ropeDim)
	b.setUint("attention.value_length", kvRank)
	b.setUint("attention.key_length_mla", nope+ropeDim)
	b.setUint("attention.value_length_mla", vDim)
	b.setUint("expert_feed_forward_length", expertFFN)
	b.setUint("expert_shared_count", shared)
	if f, ok := c.floatIf("routed_scaling_factor"); ok {
		b.setFloat("expert_weights_scale", f)
	}
	if c.boolean(false, "norm_topk_prob") {
		b.set("expert_weights_norm", true)
	}
	b.setUint("rope.dimension_count", ropeDim)
	if hasMscale {
		b.setFloat("rope.scaling.yarn_log_multiplier", 0.1*mscaleAll)
	}

	if c.boolean(false, "tie_word_embeddings") {
		b.skip("lm_head.weight")
		b.put("token_embd.weight", b.src("model.embed_tokens.weight", s.vocab, s.embd))
	} else {
		b.embedding("model.embed_tokens.weight", "lm_head.weight", s.vocab, s.embd)
	}
	for i := range s.layers {
		p, blk := fmt.Sprintf("model.layers.%d.", i), fmt.Sprintf("blk.%d.", i)
		a := p + "self_attn."
		b.norm(blk+"attn_norm", p+"input_layernorm", s.embd)
		if qRank > 0 {
			b.linear(blk+"attn_q_a", a+"q_a_proj", qRank, s.embd, nil)
			b.norm(blk+"attn_q_a_norm", a+"q_a_layernorm", qRank)
			b.linear(blk+"attn_q_b", a+"q_b_proj", s.heads*(nope+ropeDim), qRank, nil)
		} else {
			b.linear(blk+"attn_q", a+"q_proj", s.heads*(nope+ropeDim), s.embd, nil)
		}
		b.linear(blk+"attn_kv_a_mqa", a+"kv_a_proj_with_mqa", kvRank+ropeDim, s.embd, nil)
		b.norm(blk+"attn_kv_a_norm", a+"kv_a_layernorm", kvRank)
		// (heads, nope + v, rank): k's part is transposed within each head.
		kvB := b.src(a+"kv_b_proj.weight", s.heads*(nope+vDim), kvRank)
		part := func(first, n int) shaped {
			return kvB.pick(s.heads*n, func(i int) int { return i/n*(nope+vDim) + first + i%n }).view(s.heads, n, kvRank)
		}
		b.put(blk+"attn_k_b.weight", part(0, nope).transpose())
		b.put(blk+"attn_v_b.weight", part(nope, vDim))
		b.linear(blk+"attn_output", a+"o_proj", s.embd, s.heads*vDim, nil)
		b.norm(blk+"ffn_norm", p+"post_attention_layernorm", s.embd)
		if i < dense {
			b.mlp(i, p+"mlp.", "", s.embd, s.ffn)
			continue
		}
		b.linear(blk+"ffn_gate_inp", p+"mlp.gate", experts, s.embd, nil)
		if bias := p + "mlp.gate.e_score_correction_bias"; b.has(bias) {
			b.put(blk+"exp_probs_b.bias", b.src(bias, experts))
		}
		b.mlpExperts(i, p+"mlp.", experts, s.embd, expertFFN)
		if shared > 0 {
			b.mlp(i, p+"mlp.shared_experts.", "_shexp", s.embd, shared*expertFFN)
		}
	}
	b.norm("output_norm", "model.norm", s.embd)
	// Layers past the last one predict further tokens (MTP).
	for name := range b.index {
		var l int
		if rest, ok := strings.CutPrefix(name, "model.layers."); ok {
			if _, err := fmt.Sscanf(rest, "%d.", &l); err == nil && l >= s.layers {
				b.skip(name)
			}
		}
	}
}
