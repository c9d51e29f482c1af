package decoder

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/smeltgguf/smelt/internal/arch"
	"github.com/smeltgguf/smelt/kernels"
	"github.com/smeltgguf/smelt/quant"
)

// maxError is how far float32 logits may be from the same sums in float64.
const maxError = 2e-5

// maxErrorHalf is how far they may move when keys and values are rounded to 11
// bits.
const maxErrorHalf = 2e-2

// memory is a Source of random float32 tensors.
type memory map[string]Tensor

func (m memory) Tensor(name string) (Tensor, bool, error) {
	t, ok := m[name]
	return t, ok, nil
}

// add makes a tensor; dims have the row length first.
func (m memory) add(rng *rand.Rand, name string, mean, std float64, dims ...int) {
	t := Tensor{Type: quant.F32}
	n := 1
	for _, d := range dims {
		t.Dims = append(t.Dims, uint64(d))
		n *= d
	}
	for range n {
		t.Data = binary.LittleEndian.AppendUint32(t.Data, math.Float32bits(float32(mean+std*rng.NormFloat64())))
	}
	m[name] = t
}

// get returns a tensor's values; nil if it is not there.
func (m memory) get(name string) []float64 {
	var x []float64
	for b := m[name].Data; len(b) > 0; b = b[4:] {
		x = append(x, float64(math.Float32frombits(binary.LittleEndian.Uint32(b))))
	}
	return x
}

// build makes all tensors that d asks for; with lists what optional ones.
func build(d *arch.Decoder, with string) memory {
	rng := rand.New(rand.NewPCG(3, 5))
	m := memory{}
	bias := func(name string, out int) {
		if strings.Contains(with, "bias") {
			m.add(rng, name+".bias", 0, 0.1, out)
		}
	}
	linear := func(name string, in, out int) {
		m.add(rng, name+".weight", 0, 1/math.Sqrt(float64(in)), in, out)
		bias(name, out)
	}
	norm := func(name string, n int) {
		m.add(rng, name+".weight", 1, 0.2, n)
		if d.Norm == arch.LayerNorm {
			m.add(rng, name+".bias", 0, 0.2, n)
		}
	}
	m.add(rng, "token_embd.weight", 0, 1, d.Embd, d.Vocab)
	norm("output_norm", d.Embd)
	if !strings.Contains(with, "tied") {
		m.add(rng, "output.weight", 0, 0.2, d.Embd, d.Vocab)
	}
	if strings.Contains(with, "freqs") {
		m.add(rng, "rope_freqs.weight", 2, 0.5, d.Rope.Dim/2)
	}
	q, kv := d.Heads*d.HeadDim, d.KVHeads*d.HeadDim
	for l := range d.Layers {
		p := fmt.Sprintf("blk.%d.", l)
		norm(p+"attn_norm", d.Embd)
		linear(p+"attn_q", d.Embd, q)
		linear(p+"attn_k", d.Embd, kv)
		linear(p+"attn_v", d.Embd, kv)
		linear(p+"attn_output", q, d.Embd)
		if strings.Contains(with, "qknorm") {
			norm(p+"attn_q_norm", d.HeadDim)
			norm(p+"attn_k_norm", d.HeadDim)
		}
		if strings.Contains(with, "post") {
			norm(p+"post_attention_norm", d.Embd)
			norm(p+"post_ffw_norm", d.Embd)
		}
		if !strings.Contains(with, "oneNorm") {
			norm(p+"ffn_norm", d.Embd)
		}
		if d.Experts > 0 {
			m.add(rng, p+"ffn_gate_inp.weight", 0, 0.5, d.Embd, d.Experts)
			m.add(rng, p+"ffn_gate_exps.weight", 0, 0.3, d.Embd, d.ExpertFFN, d.Experts)
			m.add(rng, p+"ffn_up_exps.weight", 0, 0.3, d.Embd, d.ExpertFFN, d.Experts)
			m.add(rng, p+"ffn_down_exps.weight", 0, 0.3, d.ExpertFFN, d.Embd, d.Experts)
			continue
		}
		if !strings.Contains(with, "noGate") {
			linear(p+"ffn_gate", d.Embd, d.FFN)
		}
		linear(p+"ffn_up", d.Embd, d.FFN)
		linear(p+"ffn_down", d.FFN, d.Embd)
	}
	return m
}

// reference computes the logits of every position in float64, one token and
// one number at a time.
func reference(d *arch.Decoder, m memory, tokens []int32) [][]float64 {
	mul := func(w, bias, x []float64) []float64 {
		out := make([]float64, len(w)/len(x))
		for r := range out {
			for c, v := range x {
				out[r] += w[r*len(x)+c] * v
			}
			if bias != nil {
				out[r] += bias[r]
			}
		}
		return out
	}
	linear := func(name string, x []float64) []float64 { return mul(m.get(name+".weight"), m.get(name+".bias"), x) }
	norm := func(name string, x []float64) []float64 {
		w, b := m.get(name+".weight"), m.get(name+".bias")
		if w == nil {
			return x
		}
		var mean, sq float64
		if d.Norm == arch.LayerNorm {
			for _, v := range x {
				mean += v / float64(len(x))
			}
		}
		for _, v := range x {
			sq += (v - mean) * (v - mean) / float64(len(x))
		}
		out := make([]float64, len(x))
		for i, v := range x {
			out[i] = (v - mean) / math.Sqrt(sq+float64(d.NormEps)) * w[i]
			if b != nil {
				out[i] += b[i]
			}
		}
		return out
	}
	heads := func(x []float64, f func(h []float64) []float64) []float64 {
		var out []float64
		for i := 0; i < len(x); i += d.HeadDim {
			out = append(out, f(x[i:i+d.HeadDim])...)
		}
		return out
	}
	or1 := func(f float32) float64 {
		if f == 0 {
			return 1
		}
		return float64(f)
	}
	freqs := m.get("rope_freqs.weight")
	rope := func(h []float64, pos int, base float64, freqs []float64) []float64 {
		out := slices.Clone(h)
		half := d.Rope.Dim / 2
		for i := range half {
			f := math.Pow(base, -2*float64(i)/float64(d.Rope.Dim))
			if freqs != nil {
				f /= freqs[i]
			}
			if d.Rope.Scale != 0 {
				f *= d.Rope.Scale
			}
			a, b := 2*i, 2*i+1
			if d.Rope.Half {
				a, b = i, i+half
			}
			sin, cos := math.Sincos(float64(pos) * f)
			out[a], out[b] = h[a]*cos-h[b]*sin, h[a]*sin+h[b]*cos
		}
		return out
	}
	act := func(x float64) float64 {
		switch d.Activation {
		case arch.GELU:
			return x * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x))) / 2
		case arch.GELUErf:
			return x * (1 + math.Erf(x/math.Sqrt2)) / 2
		case arch.ReLUSquared:
			return math.Max(0, x) * math.Max(0, x)
		}
		return x / (1 + math.Exp(-x))
	}
	softcap := func(x float64, limit float32) float64 {
		if limit == 0 {
			return x
		}
		return float64(limit) * math.Tanh(x/float64(limit))
	}
	ffn := func(p string, x []float64, e int) []float64 {
		slice := func(name string) []float64 {
			w := m.get(name)
			if e >= 0 {
				n := len(w) / d.Experts
				w = w[e*n : (e+1)*n]
			}
			return w
		}
		suffix := ""
		if e >= 0 {
			suffix = "_exps"
		}
		up := mul(slice(p+"ffn_up"+suffix+".weight"), m.get(p+"ffn_up.bias"), x)
		gate := slice(p + "ffn_gate" + suffix + ".weight")
		var g []float64
		if gate != nil {
			g = mul(gate, m.get(p+"ffn_gate.bias"), x)
		}
		for i := range up {
			if g != nil {
				up[i] *= act(g[i])
			} else {
				up[i] = act(up[i])
			}
		}
		return mul(slice(p+"ffn_down"+suffix+".weight"), m.get(p+"ffn_down.bias"), up)
	}
	keys, values := make([][][]float64, d.Layers), make([][][]float64, d.Layers)
	var logits [][]float64
	embd := m.get("token_embd.weight")
	for pos, t := range tokens {
		x := slices.Clone(embd[int(t)*d.Embd : int(t+1)*d.Embd])
		for i := range x {
			x[i] *= or1(d.EmbdScale)
		}
		add := func(y []float64) {
			for i := range x {
				x[i] += y[i] * or1(d.ResidualScale)
			}
		}
		for l := range d.Layers {
			p := fmt.Sprintf("blk.%d.", l)
			base, fr := d.Rope.Base, freqs
			if !d.Global(l) && d.Rope.BaseLocal != 0 {
				base, fr = d.Rope.BaseLocal, nil
			}
			turn := func(h []float64) []float64 { return rope(h, pos, base, fr) }
			xb := norm(p+"attn_norm", x)
			q := heads(heads(linear(p+"attn_q", xb), func(h []float64) []float64 { return norm(p+"attn_q_norm", h) }), turn)
			k := heads(heads(linear(p+"attn_k", xb), func(h []float64) []float64 { return norm(p+"attn_k_norm", h) }), turn)
			keys[l], values[l] = append(keys[l], k), append(values[l], linear(p+"attn_v", xb))
			var att []float64
			for h := range d.Heads {
				kv := h / (d.Heads / d.KVHeads) * d.HeadDim
				first := 0
				if !d.Global(l) {
					first = max(0, pos+1-d.Window)
				}
				var scores []float64
				sum := 0.0
				for j := first; j <= pos; j++ {
					s := 0.0
					for i := range d.HeadDim {
						s += q[h*d.HeadDim+i] * keys[l][j][kv+i]
					}
					scale := 1 / math.Sqrt(float64(d.HeadDim))
					if d.AttnScale != 0 {
						scale = float64(d.AttnScale)
					}
					e := math.Exp(softcap(s*scale, d.AttnSoftcap))
					scores = append(scores, e)
					sum += e
				}
				out := make([]float64, d.HeadDim)
				for j, s := range scores {
					for i := range out {
						out[i] += s / sum * values[l][first+j][kv+i]
					}
				}
				att = append(att, out...)
			}
			attended := norm(p+"post_attention_norm", linear(p+"attn_output", att))
			in := xb
			if !d.ParallelResidual {
				add(attended)
				in = norm(p+"ffn_norm", x)
			} else if m.get(p+"ffn_norm.weight") != nil {
				in = norm(p+"ffn_norm", x)
			}
			var y []float64
			if d.Experts == 0 {
				y = ffn(p, in, -1)
			} else {
				router := mul(m.get(p+"ffn_gate_inp.weight"), nil, in)
				order := make([]int, d.Experts)
				total := 0.0
				for e := range router {
					order[e] = e
					router[e] = math.Exp(router[e])
					total += router[e]
				}
				slices.SortFunc(order, func(a, b int) int { return cmp.Compare(router[b], router[a]) })
				used := 0.0
				for _, e := range order[:d.ExpertsUsed] {
					used += router[e]
				}
				y = make([]float64, d.Embd)
				for _, e := range order[:d.ExpertsUsed] {
					weight := router[e] / total
					if d.ExpertNorm {
						weight = router[e] / used
					}
					for i, v := range ffn(p, in, e) {
						y[i] += v * weight * or1(d.ExpertScale)
					}
				}
			}
			if d.ParallelResidual {
				add(attended)
			}
			add(norm(p+"post_ffw_norm", y))
		}
		out := m.get("output.weight")
		if out == nil {
			out = embd
		}
		row := mul(out, nil, norm("output_norm", x))
		for i := range row {
			row[i] = softcap(row[i]*or1(d.LogitScale), d.LogitSoftcap)
		}
		logits = append(logits, row)
	}
	return logits
}

// variants are decoders that differ in what families differ in.
func variants() map[string]struct {
	d    arch.Decoder
	with string
} {
	type v = struct {
		d    arch.Decoder
		with string
	}
	out := map[string]v{}
	add := func(name, with string, change func(d *arch.Decoder)) {
		d := arch.Decoder{
			Arch: "test", Layers: 3, Embd: 32, Heads: 4, KVHeads: 2, HeadDim: 8, FFN: 48, Vocab: 40, Context: 64,
			NormEps: 1e-5, Rope: arch.Rope{Dim: 8, Base: 10000},
		}
		change(&d)
		out[name] = v{d, with}
	}
	add("llama", "", func(*arch.Decoder) {})
	add("rotate-half", "", func(d *arch.Decoder) { d.Rope.Half = true })
	add("biases", "bias", func(*arch.Decoder) {})
	add("tied", "tied", func(*arch.Decoder) {})
	add("linear scaling", "", func(d *arch.Decoder) { d.Rope.Scale = 0.25 })
	add("frequency factors", "freqs", func(*arch.Decoder) {})
	add("window", "", func(d *arch.Decoder) { d.Window = 5 })
	add("alternating windows", "qknorm post", func(d *arch.Decoder) {
		d.Window, d.WindowPattern, d.Rope.BaseLocal = 4, 2, 100
		d.Activation, d.EmbdScale, d.AttnSoftcap, d.LogitSoftcap, d.AttnScale = arch.GELU, 5, 3, 2, 0.2
	})
	add("partial rope", "", func(d *arch.Decoder) { d.Rope.Dim, d.Rope.Half = 4, true })
	add("parallel", "bias oneNorm noGate", func(d *arch.Decoder) {
		d.Norm, d.ParallelResidual, d.Activation = arch.LayerNorm, true, arch.GELUErf
	})
	add("parallel, two norms", "noGate", func(d *arch.Decoder) {
		d.Norm, d.ParallelResidual, d.Activation = arch.LayerNorm, true, arch.ReLUSquared
	})
	add("multipliers", "", func(d *arch.Decoder) { d.EmbdScale, d.ResidualScale, d.LogitScale = 3, 0.5, 0.25 })
	add("experts", "", func(d *arch.Decoder) { d.Experts, d.ExpertsUsed, d.ExpertFFN, d.ExpertNorm = 6, 2, 40, true })
	add("experts, not normed", "", func(d *arch.Decoder) { d.Experts, d.ExpertsUsed, d.ExpertFFN, d.ExpertScale = 6, 3, 56, 1.5 })
	return out
}

func tokens(n, vocab int) []int32 {
	rng := rand.New(rand.NewPCG(8, 8))
	t := make([]int32, n)
	for i := range t {
		t[i] = int32(rng.IntN(vocab))
	}
	return t
}

func TestAgainstFloat64(t *testing.T) {
	pool := kernels.NewPool(2)
	defer pool.Close()
	for name, v := range variants() {
		t.Run(name, func(t *testing.T) {
			src := build(&v.d, v.with)
			m, err := Load(&v.d, src)
			if err != nil {
				t.Fatal(err)
			}
			ids := tokens(24, v.d.Vocab)
			want := reference(&v.d, src, ids)
			// All at once, one by one, and in uneven pieces give the same.
			for _, pieces := range [][]int{{24}, slices.Repeat([]int{1}, 24), {1, 13, 2, 8}} {
				d := New(m, Options{Context: 24, Pool: pool})
				rest := ids
				for _, n := range pieces {
					if err := d.Append(context.Background(), rest[:n]); err != nil {
						t.Fatal(err)
					}
					rest = rest[n:]
				}
				got := make([]float32, 24*v.d.Vocab)
				if err := d.Logits(got, 0, 24); err != nil {
					t.Fatal(err)
				}
				worst := 0.0
				for i, row := range want {
					for j, w := range row {
						worst = max(worst, math.Abs(w-float64(got[i*v.d.Vocab+j])))
					}
				}
				if !(worst < maxError) {
					t.Errorf("in pieces %v: logits are off by %g, budget %g", pieces, worst, maxError)
				}
			}
		})
	}
}

// TestSequences checks that sequences side by side, and those that continue a
// common beginning, give what each gives alone; and what a cache in half
// precision costs.
func TestSequences(t *testing.T) {
	pool := kernels.NewPool(2)
	defer pool.Close()
	for name, v := range variants() {
		for _, half := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/half=%t", name, half), func(t *testing.T) {
				m, err := Load(&v.d, build(&v.d, v.with))
				if err != nil {
					t.Fatal(err)
				}
				const context = 24
				budget := maxError
				if half {
					budget = maxErrorHalf // sums in another order round to other halves
				}
				opt := Options{Context: context, Sequences: 3, HalfCache: half, Pool: pool}
				logits := func(d *Decoder, seq, n int) []float32 {
					got := make([]float32, n*v.d.Vocab)
					if err := d.Logits(got, seq*context, n); err != nil {
						t.Fatal(err)
					}
					return got
				}
				ids := tokens(60, v.d.Vocab)
				seqs := [][]int32{ids[:24], ids[24:31], ids[31:52]}
				one, many := New(m, Options{Context: context, HalfCache: half, Pool: pool}), New(m, opt)
				if err := many.Forward(t.Context(), seqs...); err != nil {
					t.Fatal(err)
				}
				for s, ids := range seqs {
					if err := one.Forward(t.Context(), ids); err != nil {
						t.Fatal(err)
					}
					near(t, fmt.Sprintf("sequence %d", s), logits(many, s, len(ids)), logits(one, 0, len(ids)), budget)
				}
				// A beginning of 5 tokens, continued in three ways.
				if err := many.Forward(t.Context(), ids[:9]); err != nil {
					t.Fatal(err)
				}
				if err := many.Fork(5); err != nil {
					t.Fatal(err)
				}
				if err := many.Append(t.Context(), nil, ids[10:13], ids[20:31]); err != nil {
					t.Fatal(err)
				}
				if err := one.Forward(t.Context(), slices.Concat(ids[:5], ids[20:31])); err != nil {
					t.Fatal(err)
				}
				near(t, "continued", logits(many, 2, 16), logits(one, 0, 16), budget)
				if many.Pos(0) != 9 || many.Pos(1) != 8 || many.Pos(2) != 16 {
					t.Errorf("sequences of %d, %d and %d tokens", many.Pos(0), many.Pos(1), many.Pos(2))
				}
				if half {
					full := New(m, Options{Context: context})
					if err := full.Forward(t.Context(), seqs[0]); err != nil {
						t.Fatal(err)
					}
					if err := one.Forward(t.Context(), seqs[0]); err != nil {
						t.Fatal(err)
					}
					near(t, "half precision", logits(one, 0, 24), logits(full, 0, 24), maxErrorHalf)
				}
				if err := many.Append(t.Context(), nil, nil, nil, ids[:1]); err == nil {
					t.Error("ran a fourth sequence of three")
				}
				if err := many.Fork(10); err == nil {
					t.Error("continued 10 tokens of 9")
				}
			})
		}
	}
}

// near compares logits.
func near(t *testing.T, what string, got, want []float32, budget float64) {
	t.Helper()
	worst := 0.0
	for i := range want {
		worst = max(worst, math.Abs(float64(got[i])-float64(want[i])))
	}
	if !(worst <= budget) {
		t.Errorf("%s: logits are off by %g, budget %g", what, worst, budget)
	}
}

func TestErrors(t *testing.T) {
	v := variants()["llama"]
	m, err := Load(&v.d, build(&v.d, ""))
	if err != nil {
		t.Fatal(err)
	}
	d := New(m, Options{Context: 8})
	if err := d.Append(context.Background(), tokens(9, 40)); err == nil || err.Error() != "9 tokens after 0 exceed the context of 8" {
		t.Errorf("too many tokens: %v", err)
	}
	if err := d.Append(context.Background(), []int32{40}); err == nil || err.Error() != "token 40: the vocabulary has 40" {
		t.Errorf("a token that is not there: %v", err)
	}
	if err := d.Logits(make([]float32, 40), 0, 1); err == nil {
		t.Error("logits of a position that was not run")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := d.Append(ctx, []int32{1}); err == nil {
		t.Error("ran although cancelled")
	}
}

func TestLoadErrors(t *testing.T) {
	v := variants()["llama"]
	for _, tt := range []struct {
		damage func(m memory)
		want   string
	}{
		{func(m memory) { delete(m, "blk.1.attn_v.weight") }, "tensor blk.1.attn_v.weight is missing"},
		{func(m memory) { m["blk.2.ffn_up.weight"] = m["blk.2.ffn_down.weight"] }, "tensor blk.2.ffn_up.weight is [48 32], the metadata implies [32 48]"},
		{func(m memory) {
			x := m["output_norm.weight"]
			x.Type = quant.I8
			m["output_norm.weight"] = x
		}, "tensor output_norm.weight has type I8, which cannot be computed with"},
	} {
		m := build(&v.d, "")
		tt.damage(m)
		if _, err := Load(&v.d, m); err == nil || err.Error() != tt.want {
			t.Errorf("error %v, want %s", err, tt.want)
		}
	}
}
