package decoder

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
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

// variant is a decoder and what optional tensors it has.
type variant struct {
	d    arch.Decoder
	with string
}

// variants are decoders that differ in what families differ in.
func variants() map[string]variant {
	out := map[string]variant{}
	add := func(name, with string, change func(d *arch.Decoder)) {
		d := arch.Decoder{
			Arch: "test", Layers: 3, Embd: 32, Heads: 4, KVHeads: 2, HeadDim: 8, FFN: 48, Vocab: 40, Context: 64,
			NormEps: 1e-5, Rope: arch.Rope{Dim: 8, Base: 10000},
		}
		change(&d)
		out[name] = variant{d, with}
	}
	add("llama", "", func(*arch.Decoder) {})
	add("rotate-half", "", func(d *arch.Decoder) { d.Rope.Half = true })
	add("biases", "bias", func(*arch.Decoder) {})
	add("tied", "tied", func(*arch.Decoder) {})
	add("linear scaling", "", func(d *arch.Decoder) { d.Rope.Scale = 0.25 })
	add("frequency factors", "freqs", func(*arch.Decoder) {})
	add("window", "", func(d *arch.Decoder) { d.Window = 5 })
	add("window in the last layers", "", func(d *arch.Decoder) { d.Window, d.WindowFrom = 5, 1 })
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
	add("parallel, own norm of attention", "noGate attnNorm2 oneNorm", func(d *arch.Decoder) {
		d.Norm, d.ParallelResidual, d.Activation = arch.LayerNorm, true, arch.GELU
	})
	add("parallel where a norm is missing", "oneNorm", func(d *arch.Decoder) { d.Norm, d.ParallelUnlessNorm = arch.LayerNorm, true })
	add("multipliers", "", func(d *arch.Decoder) { d.EmbdScale, d.ResidualScale, d.LogitScale = 3, 0.5, 0.25 })
	add("learned positions", "positions bias noGate", func(d *arch.Decoder) {
		d.Norm, d.Activation, d.Rope = arch.LayerNorm, arch.GELU, arch.Rope{}
	})
	add("linear biases", "", func(d *arch.Decoder) { d.Rope, d.AlibiMax = arch.Rope{}, 8 })
	add("linear biases, 6 heads", "", func(d *arch.Decoder) { d.Rope, d.AlibiMax, d.Heads = arch.Rope{}, 8, 6 })
	add("fused matrices", "qkv gateUp bias", func(*arch.Decoder) {})
	add("norms of whole q and k, norms behind", "wholeNorm post noPre", func(d *arch.Decoder) { d.NormsBehind, d.Rope.Half = true, true })
	add("norms without weights, clamped", "", func(d *arch.Decoder) { d.Norm, d.BareNorms, d.ClampQKV = arch.LayerNorm, true, 0.7 })
	add("a norm for each head", "headwiseNorm", func(d *arch.Decoder) { d.Norm = arch.LayerNorm })
	add("no rope in every second layer", "", func(d *arch.Decoder) { d.NoRopeStep = 2 })
	add("yarn", "", func(d *arch.Decoder) {
		d.Rope.Base, d.Rope.AttnFactor = 50, 1.2
		d.Rope.Yarn = &arch.Yarn{Factor: 8, BetaFast: 4, BetaSlow: 0.5, OriginalContext: 64}
	})
	add("yarn, bounds not rounded", "", func(d *arch.Decoder) {
		d.Rope.Base, d.Rope.Half = 50, true
		d.Rope.Yarn = &arch.Yarn{Factor: 8, BetaFast: 4, BetaSlow: 0.5, OriginalContext: 64, Unrounded: true}
	})
	add("yarn, not in layers with a window", "", func(d *arch.Decoder) {
		d.Window, d.WindowPattern, d.Rope.BaseLocal = 5, 2, 50
		d.Rope.Yarn = &arch.Yarn{Factor: 8, BetaFast: 4, BetaSlow: 0.5, OriginalContext: 64}
	})
	add("longrope, long", "longrope", func(d *arch.Decoder) { d.Rope.OriginalContext, d.Rope.AttnFactor = 16, 1.1 })
	add("longrope, short", "longrope", func(d *arch.Decoder) { d.Rope.OriginalContext, d.Rope.AttnFactor = 32, 1.1 })
	add("experts", "", func(d *arch.Decoder) { d.Experts, d.ExpertsUsed, d.ExpertFFN, d.ExpertNorm = 6, 2, 40, true })
	add("experts, not normed", "", func(d *arch.Decoder) { d.Experts, d.ExpertsUsed, d.ExpertFFN, d.ExpertScale = 6, 3, 56, 1.5 })
	add("shared experts", "sharedGate", func(d *arch.Decoder) {
		d.Experts, d.ExpertsUsed, d.ExpertFFN, d.SharedFFN, d.DenseLayers = 6, 2, 24, 56, 1
	})
	add("sinks, clamped experts", "bias sinks", func(d *arch.Decoder) {
		d.Experts, d.ExpertsUsed, d.ExpertFFN, d.ExpertNorm = 4, 2, 40, true
		d.Window, d.WindowPattern, d.FFNNorm, d.Activation, d.EmbdScale = 6, 2, "post_attention_norm", arch.SwiGLUClamped, 2
	})
	add("expert groups", "routerBias", func(d *arch.Decoder) {
		d.Experts, d.ExpertsUsed, d.ExpertFFN, d.SharedFFN = 8, 3, 24, 24
		d.ExpertSigmoid, d.ExpertNorm, d.ExpertScale, d.ExpertGroups, d.ExpertGroupsUsed = true, true, 2.5, 4, 2
	})
	latent := func(d *arch.Decoder, qRank int) {
		d.MLA = &arch.MLA{QRank: qRank, KVRank: 12, KeyDim: 10, ValueDim: 6}
		d.KVHeads, d.Rope.Dim, d.HeadDim, d.AttnScale = 1, 4, 16, 0.3
	}
	add("latent attention", "", func(d *arch.Decoder) { latent(d, 0) })
	add("latent attention, compressed q", "", func(d *arch.Decoder) { latent(d, 14) })
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
			want := newReference(&v.d, src, len(ids)).logits(ids)
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
