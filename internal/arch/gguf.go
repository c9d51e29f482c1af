package arch

import (
	"errors"
	"fmt"
	"math"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/formats/gguf"
)

// params reads an architecture's keys from a GGUF's metadata; like Config, it
// panics with a failure where something is wrong.
type params struct {
	m    *gguf.Metadata
	arch string
}

func (p *params) key(name string) string { return p.arch + "." + name }

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

// DecoderFromGGUF describes the forward pass of a GGUF from its metadata.
func DecoderFromGGUF(meta *gguf.Metadata) (d *Decoder, err error) {
	defer catch(&err)
	name := meta.Architecture()
	f := byName(name)
	if f == nil {
		return nil, fmt.Errorf("general.architecture %s is not supported", formats.Quote(name))
	}
	p := &params{meta, name}
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
	d.Experts = p.countOr(0, "expert_count")
	d.ExpertsUsed = p.countOr(0, "expert_used_count")
	if d.ExpertsUsed > d.Experts || d.Experts > 0 && d.ExpertsUsed == 0 {
		fail("%s: %d of %d experts", p.key("expert_used_count"), d.ExpertsUsed, d.Experts)
	}
	d.Rope = p.rope(d.HeadDim)
	if f.decoder != nil {
		f.decoder(d, p)
	}
	return d, nil
}

// rope reads the keys that describe rope, for heads of headDim elements.
func (p *params) rope(headDim int) Rope {
	r := Rope{
		Dim:             p.countOr(headDim, "rope.dimension_count"),
		Base:            p.floatOr(10000, "rope.freq_base"),
		BaseLocal:       p.floatOr(0, "rope.freq_base_swa"),
		AttnFactor:      p.floatOr(0, "rope.scaling.attn_factor"),
		OriginalContext: p.countOr(0, "rope.scaling.original_context_length"),
	}
	if r.Dim > headDim || r.Dim%2 != 0 {
		fail("%s: %d of heads of %d", p.key("rope.dimension_count"), r.Dim, headDim)
	}
	if r.Base <= 0 {
		fail("%s: %g", p.key("rope.freq_base"), r.Base)
	}
	factor := p.floatOr(0, "rope.scaling.factor")
	switch t := p.textOr("", "rope.scaling.type"); t {
	case "", "none", "longrope":
		if old := p.floatOr(0, "rope.scale_linear"); old > 0 {
			r.Scale = 1 / old
		}
	case "linear":
		if factor <= 0 {
			fail("%s: %g", p.key("rope.scaling.factor"), factor)
		}
		r.Scale = 1 / factor
	case "yarn":
		if factor <= 0 {
			fail("%s: %g", p.key("rope.scaling.factor"), factor)
		}
		r.Yarn = &Yarn{
			Factor:          factor,
			BetaFast:        p.floatOr(32, "rope.scaling.yarn_beta_fast"),
			BetaSlow:        p.floatOr(1, "rope.scaling.yarn_beta_slow"),
			OriginalContext: r.OriginalContext,
		}
	default:
		fail("%s %s is not understood", p.key("rope.scaling.type"), formats.Quote(t))
	}
	return r
}
