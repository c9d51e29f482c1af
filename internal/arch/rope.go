package arch

import (
	"math"
	"slices"
	"strings"

	"github.com/smeltgguf/smelt/formats"
)

// rope is what a config says about rotary position embeddings.
type rope struct {
	typ    string  // "default", "linear", "llama3", "yarn", "longrope", "dynamic"
	theta  float64 // base
	given  bool    // the config says theta
	local  float64 // base of layers with a sliding window; 0: none of their own
	params *Config // of the type; nil for default
}

// yarnKeys are YaRN's parameters besides its factor and the original context.
var yarnKeys = []keyPair{
	{"rope.scaling.yarn_ext_factor", []string{"extrapolation_factor"}},
	{"rope.scaling.yarn_attn_factor", []string{"attention_factor", "attn_factor"}},
	{"rope.scaling.yarn_beta_fast", []string{"beta_fast"}},
	{"rope.scaling.yarn_beta_slow", []string{"beta_slow"}},
}

// defaultBase is the base that readers of a GGUF without rope.freq_base take.
const defaultBase = 10000

// rope reads the rope settings, in the form of rope_theta and rope_scaling or
// of rope_parameters. The type must be "default" or among supported.
func (b *builder) rope(defaultTheta float64, supported ...string) *rope {
	c := b.cfg
	r := &rope{typ: "default"}
	p := c.object("rope_parameters", "rope_scaling")
	theta, hasTheta := c.floatIf("global_rope_theta", "rope_global_theta", "rope_theta_global", "rope_theta", "rotary_emb_base")
	r.local, _ = c.floatIf("local_rope_theta", "rope_local_theta", "rope_theta_local", "swa_rope_theta", "rope_local_base_freq")
	if p != nil {
		if sw := p.object("sliding_attention"); sw != nil {
			r.local = sw.positive("rope_theta")
			sw.oneOf("rope_type", "default", "default")
			ropeLeftover(sw)
		}
		if full := p.object("full_attention"); full != nil {
			ropeLeftover(p)
			p = full
		}
		if t, ok := p.floatIf("rope_theta"); ok {
			theta, hasTheta = t, true
		}
		r.typ = strings.ToLower(p.text("default", "rope_type", "type"))
		r.params = p
	}
	if r.typ == "su" {
		r.typ = "longrope" // its first name
	}
	if r.typ == "mrope" {
		r.typ = "default"
	}
	if r.typ != "default" && !slices.Contains(supported, r.typ) {
		c.bad(formats.Unsupported, "%srope_type %s is not understood; known here: %q", r.params.where, formats.Quote(r.typ), append([]string{"default"}, supported...))
	}
	r.theta, r.given = defaultTheta, hasTheta
	if hasTheta {
		r.theta = theta
	}
	if r.theta < 0 || hasTheta && r.theta == 0 {
		c.bad(formats.Malformed, "rope_theta: want a positive number, got %g", r.theta)
	}
	return r
}

// ropeLeftover refuses what of a rope object nobody asked for.
func ropeLeftover(p *Config) {
	if left := p.leftover(); len(left) > 0 {
		p.bad(formats.Unsupported, "%s%s = %s is not understood and may change what the model computes", p.where, left[0], show(p.vals[left[0]]))
	}
}

// ropeParams writes the keys of the rope and checks that all of it is
// understood. Families that read more of r.params do so before.
func (b *builder) ropeParams(r *rope) {
	p := r.params
	switch r.typ {
	case "linear":
		b.set("rope.scaling.type", "linear")
		b.setFloat("rope.scaling.factor", p.positive("factor"))
	case "yarn":
		b.set("rope.scaling.type", "yarn")
		b.setFloat("rope.scaling.factor", p.positive("factor"))
		orig, ok := p.countIf("original_max_position_embeddings")
		if !ok {
			orig = b.cfg.count("original_max_position_embeddings")
		}
		b.setUint("rope.scaling.original_context_length", orig)
		for _, k := range yarnKeys {
			if f, ok := p.floatIf(k.from...); ok {
				b.setFloat(k.key, f)
			}
		}
	case "longrope":
		b.set("rope.scaling.type", "longrope")
	case "llama3":
		b.llama3Factors(r)
	case "dynamic":
		// The base grows only for texts beyond the trained context.
		p.ignore("factor", "original_max_position_embeddings", "alpha")
	}
	if p != nil {
		p.ignore("mrope_section")
		ropeLeftover(p)
	}
	if r.given || r.theta != defaultBase {
		b.setFloat("rope.freq_base", r.theta)
	}
	if r.local > 0 {
		b.setFloat("rope.freq_base_swa", r.local)
	}
}

// llama3Scaling are the parameters of Llama 3.1's rope scaling
// (github.com/meta-llama/llama-models, models/llama3/model.py).
type llama3Scaling struct {
	factor, lowFreq, highFreq float64
	context                   int
}

// ropeFactors is the tensor that holds a factor for each pair of a head.
const ropeFactors = "rope_freqs.weight"

// llama3Factors puts rope_freqs.weight: for each pair of a head the factor by
// which its frequency is divided.
func (b *builder) llama3Factors(r *rope) {
	p := r.params
	dim := b.cfg.countOr(0, "head_dim")
	if dim == 0 {
		dim = b.cfg.count(embdKeys...) / b.cfg.count(headKeys...)
	}
	s := llama3Scaling{
		factor:   p.floatOr(8, "factor"),
		lowFreq:  p.floatOr(1, "low_freq_factor"),
		highFreq: p.floatOr(4, "high_freq_factor"),
		context:  p.countOr(b.cfg.countOr(8192, "original_max_position_embeddings"), "original_max_position_embeddings"),
	}
	if s.factor <= 0 || s.lowFreq <= 0 || s.highFreq <= s.lowFreq {
		p.bad(formats.Malformed, "%sfactor %g, low_freq_factor %g, high_freq_factor %g are out of range", p.where, s.factor, s.lowFreq, s.highFreq)
	}
	b.put(ropeFactors, values(s.factors(dim, r.theta)))
}

// factors computes in float32, step by step as the original does on PyTorch's
// tensors, where a number divided by a tensor is the number times its inverse.
func (s llama3Scaling) factors(dim int, base float64) []float32 {
	longest := float64(s.context) / s.lowFreq   // wavelengths above it are stretched
	shortest := float64(s.context) / s.highFreq // those below it are left alone
	out := make([]float32, 0, dim/2)
	for i := 0; i < dim; i += 2 {
		e := float32(i) / float32(dim)
		freq := 1 / float32(math.Pow(base, float64(e)))
		wave := 1 / freq * float32(2*math.Pi)
		switch {
		case wave < float32(shortest):
			out = append(out, 1)
		case wave > float32(longest):
			out = append(out, float32(s.factor))
		default:
			smooth := (float32(1/wave*float32(s.context)) - float32(s.lowFreq)) / float32(s.highFreq-s.lowFreq)
			blend := float32((1-smooth)/float32(s.factor)) + smooth
			out = append(out, 1/blend)
		}
	}
	return out
}
