package arch

import (
	"fmt"
	"math"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/internal/vocab"
)

// Gemma 1 to 3: embeddings scaled by the root of their width, RMS norms whose
// weights are stored less one, GELU, from 2 on norms after attention and
// feed-forward and windows in some layers; output tied to the embeddings.
var (
	gemmaFamily = &Family{
		Name:    "gemma",
		Models:  "Gemma",
		Classes: []string{"GemmaForCausalLM"},
		load:    func(b *builder) { loadGemma(b, 1) },
		vocab: func(v *vocab.Builder) {
			v.SentencePiece()
			v.SetToken("eot", 107) // <end_of_turn>
			v.SetSpacePrefix(false)
		},
		decoder: gemmaDecoder,
		export: func(e *exporter) {
			e.class("GemmaForCausalLM", "gemma")
			e.cfg["hidden_act"] = gemmaActivation
			e.cfg["hidden_activation"] = gemmaActivation
		},
	}
	gemma2Family = &Family{
		Name:    "gemma2",
		Models:  "Gemma 2",
		Classes: []string{"Gemma2ForCausalLM"},
		load:    func(b *builder) { loadGemma(b, 2) },
		vocab:   gemmaVocab,
		decoder: func(d *Decoder, m *params) {
			gemmaDecoder(d, m)
			d.AttnSoftcap = float32(m.floatOr(50, "attn_logit_softcapping"))
			d.LogitSoftcap = float32(m.floatOr(30, "final_logit_softcapping"))
			d.Window, d.WindowPattern = m.countOr(4096, "attention.sliding_window"), 2
			if d.Layers == 46 { // 27B scales by the embeddings' share of a head
				d.AttnScale = rsqrt(d.Embd / d.Heads)
			}
		},
		export: func(e *exporter) {
			e.gemma("Gemma2ForCausalLM", "gemma2")
			e.cfg["attn_logit_softcapping"] = jsonFloat(float64(e.d.AttnSoftcap))
			e.cfg["final_logit_softcapping"] = jsonFloat(float64(e.d.LogitSoftcap))
		},
	}
	gemma3Family = &Family{
		Name:    "gemma3",
		Models:  "Gemma 3 (text)",
		Classes: []string{"Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"},
		load:    func(b *builder) { loadGemma(b, 3) },
		vocab:   gemmaVocab,
		decoder: func(d *Decoder, m *params) {
			gemmaDecoder(d, m)
			d.LogitSoftcap = float32(m.floatOr(0, "final_logit_softcapping"))
			if d.Window = m.countOr(0, "attention.sliding_window"); d.Window > 0 {
				d.WindowPattern = 6
				if d.Rope.BaseLocal == 0 {
					d.Rope.BaseLocal = 10000
				}
			}
			if d.Layers == 62 {
				d.AttnScale = rsqrt(d.Embd / d.Heads)
			}
		},
		export: func(e *exporter) {
			e.gemma("Gemma3ForCausalLM", "gemma3_text")
			pattern := e.d.WindowPattern
			if e.d.Window == 0 {
				pattern = 1 // all layers attend to the whole text
			}
			e.cfg["sliding_window_pattern"] = number(pattern)
			if e.d.LogitSoftcap > 0 {
				e.cfg["final_logit_softcapping"] = jsonFloat(float64(e.d.LogitSoftcap))
			}
		},
	}
)

// gemma writes what Gemma 2 and 3 have in common.
func (e *exporter) gemma(class, modelType string) {
	e.class(class, modelType)
	e.cfg["hidden_activation"] = gemmaActivation
	scalar := e.d.HeadDim
	if s := float64(e.d.AttnScale); s != 0 {
		scalar = int(math.Round(1 / (s * s)))
	}
	e.cfg["query_pre_attn_scalar"] = number(scalar)
	if e.d.Window > 0 {
		e.cfg["sliding_window"] = number(e.d.Window)
	}
}

const gemmaActivation = "gelu_pytorch_tanh"

func rsqrt(n int) float32 { return float32(1 / math.Sqrt(float64(n))) }

func gemmaVocab(v *vocab.Builder) {
	if !v.HasSentencePiece() {
		v.BPE()
		return
	}
	v.SentencePiece()
	v.SetSpacePrefix(false)
}

func gemmaDecoder(d *Decoder, _ *params) {
	d.Activation = GELU
	d.Rope.Half = true
	d.EmbdScale = float32(math.Sqrt(float64(d.Embd)))
}

func loadGemma(b *builder, generation int) {
	c := b.cfg
	// Defaults that small configs leave out.
	defaults, defaulted := map[string]int{"head_dim": 256}, map[string]bool{}
	if generation == 3 {
		defaults = map[string]int{"head_dim": 256, "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 131072}
	}
	for key, n := range defaults {
		if defaulted[key] = !c.has(key); defaulted[key] {
			c.vals[key] = number(n)
		}
	}
	if !c.has("vocab_size") {
		c.vals["vocab_size"] = number(vocab.Count(b.ck))
	}
	s := b.commonShape()
	// "gelu" is what the first configs said; the models were trained with the
	// tanh form, which hidden_activation names.
	c.oneOf("hidden_activation", gemmaActivation, gemmaActivation)
	c.oneOf("hidden_act", gemmaActivation, gemmaActivation, "gelu")
	eps := c.floatOr(1e-6, "rms_norm_eps")
	c.mustBe("use_bidirectional_attention", false)
	c.ignore("attention_bias", "layer_types")

	if generation == 3 {
		r := b.rope(1e6, "linear")
		if c.has("attn_logit_softcapping") {
			c.bad(formats.Unsupported, "attn_logit_softcapping is not supported for Gemma 3")
		}
		c.ignore("attn_logit_softcapping")
		b.commonParams(s, r)
		b.setEps("rms_norm_eps", "attention.layer_norm_rms_epsilon", eps)
		// What the config leaves out stands behind what it says.
		defaulted["rms_norm_eps"], defaulted["rope_theta"] = !c.has("rms_norm_eps"), !r.given
		for _, k := range [][2]string{
			{"max_position_embeddings", "context_length"}, {"num_attention_heads", "attention.head_count"},
			{"rms_norm_eps", "attention.layer_norm_rms_epsilon"}, {"head_dim", "attention.key_length"},
			{"head_dim", "attention.value_length"}, {"rope_theta", "rope.freq_base"},
		} {
			if defaulted[k[0]] {
				b.toEnd(k[1])
			}
		}
		if f, ok := c.floatIf("final_logit_softcapping"); ok && f != 0 {
			b.setFloat("final_logit_softcapping", f)
		}
		if pattern := c.countOr(6, "sliding_window_pattern", "_sliding_window_pattern"); pattern != 1 {
			if pattern != 6 {
				c.bad(formats.Unsupported, "sliding_window_pattern %d: the GGUF of a Gemma 3 means 6", pattern)
			}
			b.setUint("attention.sliding_window", c.count("sliding_window"))
		}
		if defaulted["num_key_value_heads"] {
			b.toEnd("attention.head_count_kv")
		}
	} else {
		b.rope(10000) // must be plain
		b.setUint("context_length", c.count("max_position_embeddings"))
		b.setUint("embedding_length", s.embd)
		b.setUint("block_count", s.layers)
		b.setUint("feed_forward_length", s.ffn)
		b.setUint("attention.head_count", s.heads)
		b.setUint("attention.head_count_kv", s.kv)
		b.setEps("rms_norm_eps", "attention.layer_norm_rms_epsilon", eps)
		b.setUint("attention.key_length", s.headDim)
		b.setUint("attention.value_length", s.headDim)
		b.setFileType()
	}
	if generation == 2 {
		b.setFloat("attn_logit_softcapping", c.float("attn_logit_softcapping"))
		b.setFloat("final_logit_softcapping", c.float("final_logit_softcapping"))
		b.setUint("attention.sliding_window", c.count("sliding_window"))
	}
	if scalar, ok := c.floatIf("query_pre_attn_scalar"); ok && scalar > 0 {
		b.native(func(d *Decoder) { d.AttnScale = float32(1 / math.Sqrt(scalar)) })
	}

	plus1 := func(dst, src string, n int) { b.put(dst+".weight", b.src(src+".weight", n).add(1)) }
	b.addPrefix("model.")
	b.skip("lm_head.weight")
	embd := b.srcAny("model.embed_tokens.weight")
	if len(embd.shape) != 2 || embd.shape[0] < s.vocab || embd.shape[1] != s.embd {
		embd = b.src("model.embed_tokens.weight", s.vocab, s.embd)
	}
	b.put("token_embd.weight", embd.slice(0, s.vocab)) // rows past the vocabulary are padding
	for i := range s.layers {
		p, blk := fmt.Sprintf("model.layers.%d.", i), fmt.Sprintf("blk.%d.", i)
		plus1(blk+"attn_norm", p+"input_layernorm", s.embd)
		b.attention(i, s, false)
		if generation == 1 {
			plus1(blk+"ffn_norm", p+"post_attention_layernorm", s.embd)
		} else {
			plus1(blk+"post_attention_norm", p+"post_attention_layernorm", s.embd)
			plus1(blk+"ffn_norm", p+"pre_feedforward_layernorm", s.embd)
			plus1(blk+"post_ffw_norm", p+"post_feedforward_layernorm", s.embd)
		}
		if generation == 3 {
			plus1(blk+"attn_q_norm", p+"self_attn.q_norm", s.headDim)
			plus1(blk+"attn_k_norm", p+"self_attn.k_norm", s.headDim)
		}
		b.mlp(i, p+"mlp.", "", s.embd, s.ffn)
	}
	plus1("output_norm", "model.norm", s.embd)
}
