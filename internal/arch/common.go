package arch

import (
	"fmt"
	"slices"
	"strings"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/internal/checkpoint"
)

// shape holds the dimensions that nearly all configs have.
type shape struct {
	layers, embd, heads, kv, headDim, ffn, vocab, context int
}

// The names that configs use for the same thing, the usual one first.
var (
	layerKeys   = []string{"num_hidden_layers", "n_layers", "n_layer", "num_layers"}
	contextKeys = []string{"max_position_embeddings", "n_ctx", "n_positions", "max_length", "max_sequence_length", "model_max_length"}
	embdKeys    = []string{"hidden_size", "n_embd", "dim"}
	ffnKeys     = []string{"intermediate_size", "n_inner", "hidden_dim"}
	headKeys    = []string{"num_attention_heads", "n_head", "n_heads"}
	kvKeys      = []string{"num_key_value_heads", "n_kv_heads"}
)

// keyPair ties a key of an architecture in the GGUF to the key of config.json
// that it comes from, under any of its names; Export writes the first.
type keyPair struct {
	key  string
	from []string
}

// What most architectures share: convert reads these tables in one direction,
// Export in the other. Each list is in the order of the file.
var (
	dimKeys = []keyPair{
		{"block_count", layerKeys},
		{"context_length", contextKeys},
		{"embedding_length", embdKeys},
		{"feed_forward_length", ffnKeys},
		{"attention.head_count", headKeys},
		{"attention.head_count_kv", kvKeys},
	}
	epsKeys = []keyPair{
		{"attention.layer_norm_rms_epsilon", []string{"rms_norm_eps", "norm_eps"}},
		{"attention.layer_norm_epsilon", []string{"layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"}},
	}
	expertKeys = []keyPair{
		{"expert_count", []string{"num_local_experts", "num_experts", "n_routed_experts"}},
		{"expert_used_count", []string{"num_experts_per_tok", "num_experts_per_token", "top_k_experts"}},
		{"expert_group_count", []string{"n_group"}},
		{"expert_group_used_count", []string{"topk_group"}},
	}
	headDimKeys = []string{"attention.key_length", "attention.value_length"}
)

// maxLayers bounds num_hidden_layers: far above any model, low enough that a
// wrong number is found before it is looped over.
const maxLayers = 10000

// commonShape reads the dimensions.
func (b *builder) commonShape() shape {
	c := b.cfg
	s := shape{
		layers:  c.count(layerKeys...),
		embd:    c.count(embdKeys...),
		heads:   c.count(headKeys...),
		ffn:     c.countOr(0, ffnKeys...),
		vocab:   c.count("vocab_size"),
		context: c.countOr(0, contextKeys...),
	}
	if s.layers > maxLayers {
		c.bad(formats.Malformed, "%s: %d layers are not plausible", layerKeys[0], s.layers)
	}
	s.kv = c.countOr(s.heads, kvKeys...)
	if s.heads%s.kv != 0 {
		c.bad(formats.Malformed, "%d heads are no multiple of %d kv heads", s.heads, s.kv)
	}
	if s.headDim = c.countOr(0, "head_dim"); s.headDim == 0 {
		if s.embd%s.heads != 0 {
			c.bad(formats.Malformed, "hidden_size %d is no multiple of %d heads, and head_dim is missing", s.embd, s.heads)
		}
		s.headDim = s.embd / s.heads
	}
	b.vocabSize = s.vocab
	return s
}

// commonParams writes the keys that most architectures share, in the order of
// llama.cpp's converter, general.file_type last.
func (b *builder) commonParams(s shape, r *rope) {
	c := b.cfg
	kv := 0 // not said: as many as heads
	if _, _, ok := c.find(kvKeys); ok {
		kv = s.kv
	}
	for i, n := range []int{s.layers, s.context, s.embd, s.ffn, s.heads, kv} {
		if n > 0 {
			b.setUint(dimKeys[i].key, n)
		}
	}
	if r != nil {
		b.ropeParams(r)
	}
	for _, k := range epsKeys {
		if eps, ok := c.floatIf(k.from...); ok {
			b.setEps(k.from[0], k.key, eps)
		}
	}
	for _, k := range expertKeys {
		if n, ok := c.countIf(k.from...); ok {
			b.setUint(k.key, n)
		}
	}
	switch f := c.text("", "score_function", "scoring_func", "score_func", "moe_router_activation", "moe_router_activation_func"); f {
	case "":
	case "softmax":
		b.setUint("expert_gating_func", gatingSoftmax)
	case "sigmoid":
		b.setUint("expert_gating_func", gatingSigmoid)
	default:
		c.bad(formats.Unsupported, "expert gating function %s is not understood", formats.Quote(f))
	}
	if c.has("head_dim") {
		for _, k := range headDimKeys {
			b.setUint(k, s.headDim)
		}
	}
	b.setFileType()
}

// Values of expert_gating_func.
const (
	gatingSoftmax = 1
	gatingSigmoid = 2
)

func (b *builder) setEps(key, to string, eps float64) {
	if eps <= 0 || eps > 1 {
		b.cfg.bad(formats.Malformed, "%s: %g is no epsilon", key, eps)
	}
	b.setFloat(to, eps)
}

// attention puts q, k, v and the output projection of layer i, named as
// Hugging Face's models have them; q and k are reordered if reorder is set.
func (b *builder) attention(i int, s shape, reorder bool) {
	p, blk := fmt.Sprintf("model.layers.%d.self_attn.", i), fmt.Sprintf("blk.%d.", i)
	var viaQ, viaK func(shaped) shaped
	if reorder {
		viaQ, viaK = b.unrope(s.heads), b.unrope(s.kv)
	}
	b.linear(blk+"attn_q", p+"q_proj", s.heads*s.headDim, s.embd, viaQ)
	b.linear(blk+"attn_k", p+"k_proj", s.kv*s.headDim, s.embd, viaK)
	b.linear(blk+"attn_v", p+"v_proj", s.kv*s.headDim, s.embd, nil)
	b.linear(blk+"attn_output", p+"o_proj", s.embd, s.heads*s.headDim, nil)
}

// mlp puts a gated feed-forward of width ffn from prefix's gate_proj, up_proj
// and down_proj; suffix is added to the names in the GGUF.
func (b *builder) mlp(i int, prefix, suffix string, embd, ffn int) {
	blk := fmt.Sprintf("blk.%d.ffn_", i)
	b.linear(blk+"gate"+suffix, prefix+"gate_proj", ffn, embd, nil)
	b.linear(blk+"up"+suffix, prefix+"up_proj", ffn, embd, nil)
	b.linear(blk+"down"+suffix, prefix+"down_proj", embd, ffn, nil)
}

// expert says how one matrix of each expert is named and shaped; src has a %d
// for the expert.
type expert struct {
	dst, src string
	out, in  int
}

// experts stacks the matrices of n experts. All of a layer's come into the file
// together, where the last of them stands.
func (b *builder) experts(n int, kinds ...expert) {
	if b.exporting() {
		b.export.mustStack(n, kinds)
	}
	stacks := make([]shaped, len(kinds))
	last := 0
	for k, e := range kinds {
		var parts []shaped // n is only what the config says
		for i := range n {
			parts = append(parts, b.src(fmt.Sprintf(e.src, i), e.out, e.in))
		}
		stacks[k] = join(parts, true)
		last = max(last, stacks[k].order)
	}
	for k, e := range kinds {
		stacks[k].order = last
		b.put(e.dst, stacks[k])
	}
}

// windowNotWritten reads a sliding window that llama.cpp has no key for in this
// architecture: texts longer than the window then see all of it. The forward
// pass of the checkpoint keeps to the window.
func (b *builder) windowNotWritten() {
	c := b.cfg
	w, layers := c.countOr(0, "sliding_window"), c.count(layerKeys...)
	first := c.natural("max_window_layers") // of the layers that use it
	types := c.strings("layer_types")
	if !c.boolean(true, "use_sliding_window") || w == 0 || w >= c.countOr(0, contextKeys...) {
		return
	}
	if len(types) > 0 {
		first = max(0, slices.Index(append(types, "sliding_attention"), "sliding_attention"))
		for i, t := range types[min(first, len(types)):] {
			if t != "sliding_attention" {
				c.bad(formats.Unsupported, "layer_types: layer %d is %s after one with a window", first+i, formats.Quote(t))
			}
		}
	}
	if first < layers {
		b.native(func(d *Decoder) { d.Window, d.WindowFrom = w, first })
		b.note("sliding_window %d is not written: llama.cpp's %s attends to the whole text", w, b.f.Name)
	}
}

// readConfig reads and checks the checkpoint's config.
func readConfig(ck *checkpoint.Checkpoint) (*Config, error) {
	name := "config.json"
	if ck.Layout == checkpoint.Meta {
		name = "params.json"
	}
	vals, err := ck.JSON(name)
	if err != nil {
		return nil, err
	}
	// The text part of a multimodal config counts as if it were outside.
	for _, k := range []string{"text_config", "llm_config", "language_config"} {
		if inner, ok := vals[k].(map[string]any); ok {
			merged := map[string]any{}
			for k, v := range vals {
				if !strings.Contains(k, "vision") && !strings.Contains(k, "audio") && !strings.Contains(k, "image") {
					merged[k] = v
				}
			}
			delete(merged, k)
			for k, v := range inner {
				if k != "architectures" && k != "model_type" {
					merged[k] = v
				}
			}
			vals = merged
		}
	}
	return newConfig(ck.File(name), vals), nil
}
