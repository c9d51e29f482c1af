package arch

import (
	"fmt"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/internal/checkpoint"
	"github.com/smeltgguf/smelt/internal/vocab"
)

// llamaFamily is Llama and what is built like it: grouped-query attention, a
// gated feed-forward or experts (Mixtral), RMS norms, rope over whole heads,
// interleaved in the GGUF.
var llamaFamily = &Family{
	Name:    "llama",
	Models:  "Llama 1 to 3.3, Code Llama, TinyLlama, SmolLM2, Yi, DeepSeek-R1 distillations, Mistral, Mixtral",
	Classes: []string{"LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM", "MixtralForCausalLM", "LlamaModel"},
	Meta:    true,
	load: func(b *builder) {
		if b.ck.Layout == checkpoint.Meta {
			loadMetaLlama(b)
			return
		}
		loadLlama(b)
	},
	vocab: llamaVocab,
	decoder: func(d *Decoder, m *params) {
		d.ExpertNorm = true
	},
	export: func(e *exporter) {
		e.cfg["hidden_act"] = "silu"
		if e.d.Experts > 0 {
			e.class("MixtralForCausalLM", "mixtral")
			return
		}
		e.class("LlamaForCausalLM", "llama")
		e.cfg["attention_bias"] = e.has("blk.0.attn_q.bias")
		e.cfg["mlp_bias"] = e.has("blk.0.ffn_up.bias")
	},
}

func loadLlama(b *builder) {
	c := b.cfg
	s := b.commonShape()
	c.oneOf("hidden_act", "silu", "silu", "swish")
	c.positive("rms_norm_eps")
	c.mustBe("rope_interleaved", false)
	c.ignore("attention_bias", "mlp_bias", "bias", "is_llama_config", "original_max_position_embeddings")
	b.windowNotWritten()
	r := b.rope(10000, "linear", "dynamic", "llama3", "yarn")
	b.commonParams(s, r)
	b.setUint("vocab_size", s.vocab)
	b.setUint("rope.dimension_count", s.headDim)

	b.addPrefix("model.")
	experts := c.countOr(0, "num_local_experts")
	b.embedding("model.embed_tokens.weight", "lm_head.weight", s.vocab, s.embd)
	for i := range s.layers {
		p, blk := fmt.Sprintf("model.layers.%d.", i), fmt.Sprintf("blk.%d.", i)
		b.norm(blk+"attn_norm", p+"input_layernorm", s.embd)
		b.attention(i, s, true)
		b.norm(blk+"ffn_norm", p+"post_attention_layernorm", s.embd)
		if experts == 0 {
			b.mlp(i, p+"mlp.", "", s.embd, s.ffn)
			continue
		}
		b.linear(blk+"ffn_gate_inp", p+"block_sparse_moe.gate", experts, s.embd, nil)
		e := p + "block_sparse_moe.experts.%d."
		b.experts(experts,
			expert{blk + "ffn_gate_exps.weight", e + "w1.weight", s.ffn, s.embd},
			expert{blk + "ffn_down_exps.weight", e + "w2.weight", s.embd, s.ffn},
			expert{blk + "ffn_up_exps.weight", e + "w3.weight", s.ffn, s.embd})
	}
	b.norm("output_norm", "model.norm", s.embd)
}

// loadMetaLlama reads Meta's own layout: q and k are interleaved already.
// params.json says nothing about the feed-forward's width and little about the
// context; the one follows from w1, the other from the generation of models.
func loadMetaLlama(b *builder) {
	c := b.cfg
	s := shape{
		layers: c.count("n_layers", "num_hidden_layers"),
		embd:   c.count("dim", "hidden_size"),
		heads:  c.count("n_heads", "num_attention_heads"),
	}
	if s.layers > maxLayers {
		c.bad(formats.Malformed, "n_layers: %d layers are not plausible", s.layers)
	}
	s.kv = c.countOr(s.heads, "n_kv_heads")
	if s.heads%s.kv != 0 {
		c.bad(formats.Malformed, "n_heads %d is no multiple of n_kv_heads %d", s.heads, s.kv)
	}
	if s.headDim = c.countOr(0, "head_dim"); s.headDim == 0 {
		if s.embd%s.heads != 0 {
			c.bad(formats.Malformed, "dim %d is no multiple of n_heads %d", s.embd, s.heads)
		}
		s.headDim = s.embd / s.heads
	}
	if s.vocab, _ = c.intIf("vocab_size"); s.vocab <= 0 { // -1: from the tokenizer
		if b.adapting() {
			c.bad(formats.Unsupported, "vocab_size %d: without weights nothing tells the vocabulary's size", s.vocab)
		}
		s.vocab = b.srcAny("tok_embeddings.weight").shape[0]
	}
	b.vocabSize = s.vocab
	c.ignore("multiple_of", "ffn_dim_multiplier", "hidden_dim", "sliding_window", "max_seq_len", "max_batch_size")
	if b.adapting() {
		s.ffn = metaFFN(c, s.embd)
	} else {
		s.ffn = b.srcAny("layers.0.feed_forward.w1.weight").shape[0]
	}
	eps := c.positive("norm_eps", "rms_norm_eps")
	theta := c.floatOr(10000, "rope_theta")
	scaled := c.boolean(false, "use_scaled_rope")

	b.setUint("block_count", s.layers)
	b.setUint("context_length", metaContext(c, s, eps, theta, scaled))
	b.setUint("embedding_length", s.embd)
	b.setUint("feed_forward_length", s.ffn)
	b.setUint("attention.head_count", s.heads)
	b.setUint("attention.head_count_kv", s.kv)
	b.setFloat("rope.freq_base", theta)
	b.setEps("norm_eps", "attention.layer_norm_rms_epsilon", eps)
	if c.has("head_dim") {
		b.setUint("attention.key_length", s.headDim)
		b.setUint("attention.value_length", s.headDim)
	}
	b.setFileType()
	b.setUint("vocab_size", s.vocab)
	b.setUint("rope.dimension_count", s.headDim)

	if scaled {
		// Llama 3.2's small models were extended by 32, all others by 8; the
		// file does not say so.
		f := llama3Scaling{factor: 8, lowFreq: 1, highFreq: 4, context: 8192}
		if s.embd <= 3072 {
			f.factor = 32
		}
		b.put(ropeFactors, values(f.factors(s.headDim, theta)))
	}
	b.put("token_embd.weight", b.src("tok_embeddings.weight", s.vocab, s.embd))
	if b.has("output.weight") {
		b.put("output.weight", b.src("output.weight", s.vocab, s.embd))
	}
	for i := range s.layers {
		p, blk := fmt.Sprintf("layers.%d.", i), fmt.Sprintf("blk.%d.", i)
		b.norm(blk+"attn_norm", p+"attention_norm", s.embd)
		b.linear(blk+"attn_q", p+"attention.wq", s.heads*s.headDim, s.embd, nil)
		b.linear(blk+"attn_k", p+"attention.wk", s.kv*s.headDim, s.embd, nil)
		b.linear(blk+"attn_v", p+"attention.wv", s.kv*s.headDim, s.embd, nil)
		b.linear(blk+"attn_output", p+"attention.wo", s.embd, s.heads*s.headDim, nil)
		b.norm(blk+"ffn_norm", p+"ffn_norm", s.embd)
		b.linear(blk+"ffn_gate", p+"feed_forward.w1", s.ffn, s.embd, nil)
		b.linear(blk+"ffn_down", p+"feed_forward.w2", s.embd, s.ffn, nil)
		b.linear(blk+"ffn_up", p+"feed_forward.w3", s.ffn, s.embd, nil)
	}
	b.norm("output_norm", "norm", s.embd)
}

// metaFFN computes the feed-forward's width as Meta's llama/model.py does, for
// when there are no weights to tell it.
func metaFFN(c *Config, embd int) int {
	n := int(c.floatOr(1, "ffn_dim_multiplier") * float64(8*embd/3))
	multiple := c.countOr(256, "multiple_of")
	return (n + multiple - 1) / multiple * multiple
}

func metaContext(c *Config, s shape, eps, theta float64, scaled bool) int {
	def := 2048 // Llama 1
	switch {
	case scaled:
		def = 131072 // Llama 3.1 and later
	case s.vocab == 128256:
		def = 8192 // Llama 3
	case theta == 1e6:
		def = 16384 // Code Llama
	case eps == 1e-5:
		def = 4096 // Llama 2
	}
	return c.countOr(def, "max_position_embeddings")
}

// llamaVocab: tokenizer.model, or tokenizer.json in SentencePiece's form, or
// byte-level BPE.
func llamaVocab(v *vocab.Builder) {
	v.AddPrefixSpace()
	switch {
	case v.HasSentencePiece():
		v.SentencePiece()
	case v.HasByteFallbackBPE():
		v.ByteFallbackBPE()
	default:
		v.BPE()
	}
	switch v.Size() {
	case 32016: // Code Llama: the end of an infill
		v.SetToken("eot", 32010)
	case 49152: // small code models that were trained without BOS
		v.SetAdd("bos", false)
	}
}
