package arch

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/formats/gguf"
)

// params reads an architecture's keys from a GGUF's metadata; like Config, it
// panics with a failure where something is wrong.
type params struct {
	m    *gguf.Metadata
	arch string
	seen map[string]bool // keys that were asked for
}

func (p *params) key(name string) string {
	key := p.arch + "." + name
	p.seen[key] = true
	return key
}

// ignore passes over keys that change nothing about the forward pass.
func (p *params) ignore(names ...string) {
	for _, n := range names {
		p.key(n)
	}
}

// leftover refuses the architecture's keys that nobody asked for.
func (p *params) leftover() {
	for key, v := range p.m.All() {
		if strings.HasPrefix(key, p.arch+".") && !p.seen[key] {
			fail("%s = %s is not understood and may change what the model computes", formats.Quote(key), formats.Quote(fmt.Sprint(v)))
		}
	}
}

// check passes over a missing key, which leaves the value at its default.
func check(err error, what string) bool {
	if errors.Is(err, gguf.ErrMissing) {
		return false
	}
	if err != nil {
		panic(failure{fmt.Errorf("%s%w", what, err)})
	}
	return true
}

func (p *params) countOr(def int, name string) int {
	n, err := p.m.Uint(p.key(name))
	if !check(err, "") {
		return def
	}
	if n > math.MaxInt32 {
		fail("%s: %d is out of range", p.key(name), n)
	}
	return int(n)
}

// count returns a number that must be there and at least 1.
func (p *params) count(name string) int {
	n := p.countOr(-1, name)
	if n == -1 {
		fail("%s missing", p.key(name))
	}
	if n < 1 {
		fail("%s: want u32 >= 1, got %d", p.key(name), n)
	}
	return n
}

func (p *params) floatOr(def float64, name string) float64 {
	f, err := p.m.Float(p.key(name))
	if !check(err, "") {
		return def
	}
	if math.IsNaN(f) || math.IsInf(f, 0) {
		fail("%s is %g", p.key(name), f)
	}
	return f
}

func (p *params) boolOr(def bool, name string) bool {
	b, err := p.m.Bool(p.key(name))
	if !check(err, "") {
		return def
	}
	return b
}

func (p *params) textOr(def, name string) string {
	s, err := p.m.String(p.key(name))
	if !check(err, "") {
		return def
	}
	return s
}

// DecoderFromGGUF describes the forward pass of a GGUF from its metadata. A key
// of the architecture that is not understood is an error that names it.
func DecoderFromGGUF(meta *gguf.Metadata) (d *Decoder, err error) {
	defer catch(&err)
	name := meta.Architecture()
	f := byName(name)
	if f == nil {
		return nil, fmt.Errorf("general.architecture %s is not supported", formats.Quote(name))
	}
	p := &params{meta, name, map[string]bool{}}
	d = &Decoder{
		Arch:    name,
		Layers:  p.count("block_count"),
		Embd:    p.count("embedding_length"),
		Heads:   p.count("attention.head_count"),
		FFN:     p.countOr(0, "feed_forward_length"),
		Context: p.countOr(0, "context_length"),
		Vocab:   p.countOr(0, "vocab_size"),
	}
	if d.Layers > maxLayers {
		fail("%s: %d layers are not plausible", p.key("block_count"), d.Layers)
	}
	d.KVHeads = p.countOr(d.Heads, "attention.head_count_kv")
	if d.KVHeads < 1 || d.Heads%d.KVHeads != 0 {
		fail("%s: %d heads are no multiple of %d", p.key("attention.head_count_kv"), d.Heads, d.KVHeads)
	}
	d.HeadDim = p.countOr(d.Embd/d.Heads, "attention.key_length")
	if d.HeadDim < 1 {
		fail("%s: heads of %d elements", p.key("attention.key_length"), d.HeadDim)
	}
	if tokens, err := meta.Strings("tokenizer.ggml.tokens"); check(err, "") {
		d.Vocab = len(tokens)
	}
	if eps := p.floatOr(0, "attention.layer_norm_rms_epsilon"); eps > 0 {
		d.NormEps = float32(eps)
	} else if eps := p.floatOr(0, "attention.layer_norm_epsilon"); eps > 0 {
		d.Norm, d.NormEps = LayerNorm, float32(eps)
	} else {
		fail("%s missing", p.key("attention.layer_norm_rms_epsilon"))
	}
	p.ignore("tensor_data_layout")
	if n := p.countOr(d.HeadDim, "attention.value_length"); n != d.HeadDim && f != deepseek2Family {
		fail("%s: %d, heads of keys have %d: different ones are not supported", p.key("attention.value_length"), n, d.HeadDim)
	}
	if !p.boolOr(true, "attention.causal") {
		fail("%s is false: only models that generate are supported", p.key("attention.causal"))
	}
	d.Experts = p.countOr(0, "expert_count")
	d.ExpertsUsed = p.countOr(0, "expert_used_count")
	if d.ExpertsUsed > d.Experts || d.Experts > 0 && d.ExpertsUsed == 0 {
		fail("%s: %d of %d experts", p.key("expert_used_count"), d.ExpertsUsed, d.Experts)
	}
	if ffn, shared := p.countOr(d.FFN, "expert_feed_forward_length"), p.countOr(0, "expert_shared_count"); d.Experts > 0 {
		d.ExpertFFN = ffn
		if shared > math.MaxInt32/max(1, ffn) {
			fail("%s: %d is out of range", p.key("expert_shared_count"), shared)
		}
		d.SharedFFN = p.countOr(shared*ffn, "expert_shared_feed_forward_length")
	}
	switch g := p.countOr(gatingSoftmax, "expert_gating_func"); g {
	case gatingSoftmax:
	case gatingSigmoid:
		d.ExpertSigmoid = true
	default:
		fail("%s: gating function %d is not understood", p.key("expert_gating_func"), g)
	}
	d.Rope = p.rope(d.HeadDim, d.Context)
	if f.decoder != nil {
		f.decoder(d, p)
	}
	p.leftover()
	return d, nil
}

// rope reads the keys that describe rope, for heads of headDim elements and a
// context of that many tokens.
func (p *params) rope(headDim, context int) Rope {
	r := Rope{
		Dim:             p.countOr(headDim, "rope.dimension_count"),
		Base:            p.floatOr(defaultBase, "rope.freq_base"),
		BaseLocal:       p.floatOr(0, "rope.freq_base_swa"),
		AttnFactor:      p.floatOr(0, "rope.scaling.attn_factor"),
		OriginalContext: p.countOr(context, "rope.scaling.original_context_length"),
	}
	p.ignore("rope.scaling.finetuned")
	if r.Dim > headDim || r.Dim%2 != 0 {
		fail("%s: %d of heads of %d", p.key("rope.dimension_count"), r.Dim, headDim)
	}
	if r.Base <= 0 {
		fail("%s: %g", p.key("rope.freq_base"), r.Base)
	}
	factor := p.floatOr(p.floatOr(0, "rope.scale_linear"), "rope.scaling.factor")
	typ := p.textOr("", "rope.scaling.type")
	if factor < 0 || factor == 0 && (typ == "linear" || typ == "yarn") {
		fail("%s: %g", p.key("rope.scaling.factor"), factor)
	}
	switch typ {
	case "none":
	case "", "linear", "longrope":
		if factor > 0 {
			r.Scale = 1 / factor
		}
	case "yarn":
		r.Yarn = &Yarn{
			Factor:          factor,
			BetaFast:        p.floatOr(32, "rope.scaling.yarn_beta_fast"),
			BetaSlow:        p.floatOr(1, "rope.scaling.yarn_beta_slow"),
			OriginalContext: r.OriginalContext,
		}
		if f := p.floatOr(1, "rope.scaling.yarn_ext_factor"); f != 1 {
			fail("%s: %g is not supported", p.key("rope.scaling.yarn_ext_factor"), f)
		}
		// What llama.cpp replaces by the default, as all do that read its files.
		p.ignore("rope.scaling.yarn_attn_factor")
		if r.AttnFactor == 0 {
			r.AttnFactor = 1
		}
		r.AttnFactor *= r.Yarn.magnitude(0.1)
	default:
		fail("%s %s is not understood", p.key("rope.scaling.type"), formats.Quote(typ))
	}
	return r
}
