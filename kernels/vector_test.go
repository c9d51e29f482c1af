package kernels

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// Budgets of the vector functions, relative to the largest of the result's
// magnitude and 1 unless a test says otherwise.
const (
	budgetExp  = 3e-7
	budgetNorm = 1e-6
	budgetAct  = 1e-6
	budgetAtt  = 3e-6
)

func near(got float32, want, budget float64) bool {
	if math.IsNaN(want) {
		return got != got
	}
	if math.IsInf(want, 0) {
		return float64(got) == want
	}
	return math.Abs(float64(got)-want) <= budget*max(1, math.Abs(want))
}

// elementwise checks f against want for every length, with guards around.
func elementwise(t *testing.T, name string, budget float64, f func(out, x []float32), want func(x float64) float64) {
	t.Helper()
	r := rand.New(rand.NewPCG(3, 4))
	special := []float32{0, float32(math.Copysign(0, -1)), 1, -1, 20, -20, 90, -90, 200, -200, 1e30, -1e30,
		float32(math.Inf(1)), float32(math.Inf(-1)), float32(math.NaN()), 1e-30, -1e-30}
	for n := range 100 {
		for align := range 4 {
			x := randomFloats(r, n)
			for i := range x {
				x[i] *= 4
				if r.IntN(4) == 0 {
					x[i] = special[r.IntN(len(special))]
				}
			}
			buf := make([]float32, n+8)
			for i := range buf {
				buf[i] = 42
			}
			out := buf[align:][:n]
			f(out, x)
			for i, v := range x {
				if w := want(float64(v)); !near(out[i], w, budget) {
					t.Fatalf("%s: element %d of %d, of %g, is %g, want %g", name, i, n, v, out[i], w)
				}
			}
			for i, v := range buf {
				if (i < align || i >= align+n) && v != 42 {
					t.Fatalf("%s: wrote outside %d elements", name, n)
				}
			}
		}
	}
}

func TestElementwise(t *testing.T) {
	eachCPU(t, func(t *testing.T) {
		sigmoid := func(x float64) float64 { return 1 / (1 + math.Exp(-x)) }
		one := make([]float32, 100)
		for i := range one {
			one[i] = 1
		}
		// x*sigmoid(x) of -Inf is NaN in some paths and 0 in the limit: the
		// formula's value is what counts.
		elementwise(t, "SiLUMul", budgetAct, func(out, x []float32) { SiLUMul(out, x, one[:len(x)]) },
			func(x float64) float64 { return x * sigmoid(x) })
		elementwise(t, "SiLU", budgetAct, SiLU, func(x float64) float64 { return x * sigmoid(x) })
		elementwise(t, "GELUQuick", budgetAct, GELUQuick, func(x float64) float64 { return x * sigmoid(1.702*x) })
		elementwise(t, "GELU", budgetAct, GELU, func(x float64) float64 {
			return x * sigmoid(2*math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x))
		})
		elementwise(t, "GELUErf", budgetAct, GELUErf, func(x float64) float64 { return x / 2 * (1 + math.Erf(x/math.Sqrt2)) })
		elementwise(t, "ReLUSquared", budgetAct, ReLUSquared, func(x float64) float64 {
			v := float64(float32(math.Max(x, 0)) * float32(math.Max(x, 0)))
			return v
		})
		elementwise(t, "Softcap", budgetAct*30, func(out, x []float32) { copy(out, x); Softcap(out, 30) },
			func(x float64) float64 { return 30 * math.Tanh(x/30) })
		elementwise(t, "Scale", budgetAct, func(out, x []float32) { copy(out, x); Scale(out, 0.75) },
			func(x float64) float64 { return x * 0.75 })
		elementwise(t, "Clamp", 0, func(out, x []float32) { copy(out, x); Clamp(out, -0.5, 3) },
			func(x float64) float64 { return math.Min(math.Max(x, -0.5), 3) })
		for up, factor := range map[float32]float64{-9: -6, 0.5: 1.5, 20: 8} {
			elementwise(t, "SwiGLUClamped", 8*budgetAct, func(out, x []float32) {
				ups := make([]float32, len(x))
				for i := range ups {
					ups[i] = up
				}
				copy(out, x)
				SwiGLUClamped(out, ups, 7)
			}, func(x float64) float64 { return math.Min(x, 7) * sigmoid(1.702*math.Min(x, 7)) * factor })
		}
		elementwise(t, "Mul", budgetAct, func(out, x []float32) { copy(out, x); Mul(out, one[:len(x)]) },
			func(x float64) float64 { return x })
		elementwise(t, "ScaleAdd", budgetAct, func(out, x []float32) { clear(out); ScaleAdd(out, x, 0.5) },
			func(x float64) float64 { return x * 0.5 })
	})
}

func TestExp(t *testing.T) {
	for x := -104.0; x < 89; x += 0.00917 {
		v := float32(x)
		want := math.Exp(float64(v))
		if got := float64(exp32(v)); want > math.MaxFloat32 && !math.IsInf(got, 1) ||
			want <= math.MaxFloat32 && math.Abs(got-want) > budgetExp*want+0x1p-149 {
			t.Fatalf("exp(%g) = %g, want %g", v, got, want)
		}
	}
}

func TestHalf(t *testing.T) {
	eachCPU(t, func(t *testing.T) {
		var h [65536]uint16
		for i := range h {
			h[i] = uint16(i)
		}
		x := make([]float32, len(h))
		FromHalf(x, h[:])
		back := make([]uint16, len(h))
		ToHalf(back, x)
		for i, v := range x {
			exp, man := i>>10&31, float64(i&1023)
			want := math.Ldexp(1+man/1024, exp-15)
			if exp == 0 {
				want = math.Ldexp(man, -24)
			}
			if i>>15 != 0 {
				want = -want
			}
			if exp == 31 && man != 0 {
				if v == v {
					t.Fatalf("half %#04x is %g, want NaN", i, v)
				}
				if back[i]&0x7c00 != 0x7c00 || back[i]&0x3ff == 0 {
					t.Fatalf("NaN %#04x becomes %#04x", i, back[i])
				}
				continue
			}
			if exp == 31 {
				want = math.Copysign(math.Inf(1), want)
			}
			if float64(v) != want || back[i] != uint16(i) {
				t.Fatalf("half %#04x is %g, want %g; and back it is %#04x", i, v, want, back[i])
			}
		}
		// Between two halves: to nearest, ties to even.
		r := rand.New(rand.NewPCG(9, 9))
		y := make([]float32, 4096)
		for i := range y {
			y[i] = float32(math.Ldexp(r.NormFloat64(), r.IntN(40)-26))
			if i%3 == 0 { // a tie
				a := r.IntN(0x7bff)
				y[i] = (halfToFloat(uint16(a)) + halfToFloat(uint16(a+1))) / 2
			}
		}
		got, want := make([]uint16, len(y)), make([]uint16, len(y))
		ToHalf(got, y)
		toHalfGo(want, y)
		for i := range y {
			if got[i] != want[i] {
				t.Fatalf("%g becomes %#04x, want %#04x", y[i], got[i], want[i])
			}
			if d := math.Abs(float64(halfToFloat(want[i])) - float64(y[i])); !math.IsInf(d, 0) {
				for _, o := range []uint16{want[i] - 1, want[i] + 1} {
					if e := math.Abs(float64(halfToFloat(o)) - float64(y[i])); e < d || e == d && want[i]&1 == 1 {
						t.Fatalf("%g becomes %#04x, %#04x is nearer or even", y[i], want[i], o)
					}
				}
			}
		}
	})
}

func TestNorms(t *testing.T) {
	eachCPU(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(1, 1))
		for dim := 1; dim < 140; dim++ {
			x, w, b := randomFloats(r, 3*dim), randomFloats(r, dim), randomFloats(r, dim)
			rms, ln, plain := make([]float32, 3*dim), make([]float32, 3*dim), make([]float32, 3*dim)
			RMSNorm(rms, x, w, dim, 1e-5)
			RMSNorm(plain, x, nil, dim, 1e-5)
			LayerNorm(ln, x, w, b, dim, 1e-5)
			for row := range 3 {
				var sum, squares, variance float64
				for _, v := range x[row*dim:][:dim] {
					sum += float64(v)
					squares += float64(v) * float64(v)
				}
				mean := sum / float64(dim)
				for _, v := range x[row*dim:][:dim] {
					variance += (float64(v) - mean) * (float64(v) - mean)
				}
				for i := range dim {
					v := float64(x[row*dim+i])
					p := v / math.Sqrt(squares/float64(dim)+1e-5)
					l := (v-mean)/math.Sqrt(variance/float64(dim)+1e-5)*float64(w[i]) + float64(b[i])
					// A row of nearly equal values has a variance that its mean's rounding decides.
					if !near(rms[row*dim+i], p*float64(w[i]), budgetNorm) || !near(plain[row*dim+i], p, budgetNorm) ||
						!near(ln[row*dim+i], l, 20*budgetNorm) {
						t.Fatalf("dim %d: got %g, %g, %g, want %g, %g, %g", dim, rms[row*dim+i], plain[row*dim+i], ln[row*dim+i], p*float64(w[i]), p, l)
					}
				}
			}
		}
	})
}

func TestSoftmax(t *testing.T) {
	eachCPU(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(2, 1))
		for n := range 200 {
			x := randomFloats(r, n)
			for i := range x {
				x[i] *= 5
				if r.IntN(10) == 0 {
					x[i] = float32(math.Inf(-1))
				}
			}
			if n > 0 {
				x[r.IntN(n)] = 7
			}
			var sum float64
			best := -1
			for i, v := range x {
				sum += math.Exp(float64(v))
				if best < 0 || v > x[best] {
					best = i
				}
			}
			if got := LogSumExp(x); n > 0 && math.Abs(got-math.Log(sum)) > 2e-7*max(1, math.Abs(got)) {
				t.Fatalf("LogSumExp of %d: %g, want %g", n, got, math.Log(sum))
			}
			if got := ArgMax(x); got != best {
				t.Fatalf("ArgMax of %d: %d, want %d", n, got, best)
			}
			y := append([]float32(nil), x...)
			Softmax(y)
			for i, v := range x {
				if !near(y[i], math.Exp(float64(v))/sum, budgetExp) {
					t.Fatalf("softmax of %d: %g, want %g", n, y[i], math.Exp(float64(v))/sum)
				}
			}
			if n > 0 {
				x[n/2] = float32(math.NaN())
				if got := LogSumExp(x); got == got {
					t.Fatalf("LogSumExp of %d with a NaN: %g", n, got)
				}
			}
		}
	})
	if !math.IsInf(LogSumExp(nil), -1) || ArgMax(nil) != -1 {
		t.Error("empty slices have no sum and no maximum")
	}
}

func TestRope(t *testing.T) {
	eachCPU(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(2, 7))
		for pairs := range 40 {
			headDim := 2*pairs + 6
			x := randomFloats(r, 3*headDim)
			cos, sin := make([]float32, pairs), make([]float32, pairs)
			for i := range cos {
				a := r.Float64() * 7
				cos[i], sin[i] = float32(math.Cos(a)), float32(math.Sin(a))
			}
			for _, half := range []bool{false, true} {
				want := append([]float32(nil), x...)
				for h := range 3 {
					for i := range pairs {
						a, b := h*headDim+2*i, h*headDim+2*i+1
						if half {
							a, b = h*headDim+i, h*headDim+i+pairs
						}
						want[a] = x[a]*cos[i] - x[b]*sin[i]
						want[b] = x[a]*sin[i] + x[b]*cos[i]
					}
				}
				got := append([]float32(nil), x...)
				Rope(got, headDim, cos, sin, half)
				for i, v := range got {
					if !near(v, float64(want[i]), budgetNorm) {
						t.Fatalf("%d pairs, half %t: element %d is %g, want %g", pairs, half, i, v, want[i])
					}
				}
			}
		}
	})
}

func TestAttention(t *testing.T) {
	pool := NewPool(2)
	defer pool.Close()
	eachCPU(t, func(t *testing.T) {
		var ws Workspace
		r := rand.New(rand.NewPCG(8, 7))
		for _, c := range []struct {
			heads, kv, dim, n, pos, window int
			cap                            float32
			sinks, half, slopes            bool
		}{
			{1, 1, 8, 1, 0, 0, 0, false, false, false},
			{4, 2, 16, 5, 0, 0, 0, false, false, false},
			{4, 4, 20, 1, 77, 0, 20, true, true, false},
			{4, 4, 64, 3, 90, 40, 0, true, false, false},
			{2, 2, 9, 2, 0, 2, 0, false, false, false},
			{4, 4, 24, 40, 3, 0, 0, false, true, false},
			{8, 2, 64, 33, 150, 0, 0, false, false, false},
			{8, 1, 20, 7, 200, 0, 50, false, true, false},
			{6, 2, 32, 70, 9, 16, 0, true, false, false},
			{6, 3, 7, 3, 300, 130, 30, true, true, false},
			{4, 4, 24, 40, 3, 0, 0, false, true, true},
			{6, 2, 16, 2, 90, 40, 0, true, false, true},
			{4, 2, 16, 1, 70, 0, 0, false, false, true},
		} {
			s := AttentionShape{Heads: c.heads, KVHeads: c.kv, HeadDim: c.dim, Scale: 0.3, Window: c.window, Softcap: c.cap}
			if c.sinks {
				s.Sinks = randomFloats(r, c.heads)
			}
			if c.slopes {
				s.Slopes = randomFloats(r, c.heads)
			}
			size := (c.pos + c.n) * c.kv * c.dim
			q, k, v := randomFloats(r, c.n*c.heads*c.dim), randomFloats(r, size), randomFloats(r, size)
			ck, cv := Cache{F32: k}, Cache{F32: v}
			if c.half {
				ck, cv = Cache{F16: make([]uint16, size)}, Cache{F16: make([]uint16, size)}
				ToHalf(ck.F16, k)
				ToHalf(cv.F16, v)
				FromHalf(k, ck.F16)
				FromHalf(v, cv.F16)
			}
			out := randomFloats(r, len(q))
			Attention(pool, &ws, Exact, s, out, q, ck, cv, c.n, c.pos)
			for tok := range c.n {
				for h := range c.heads {
					want := attentionReference(&s, q[(tok*c.heads+h)*c.dim:], k, v, h, c.pos+tok)
					for d, w := range want {
						if got := out[(tok*c.heads+h)*c.dim+d]; !near(got, w, budgetAtt) {
							t.Fatalf("%+v: token %d head %d element %d is %g, want %g", c, tok, h, d, got, w)
						}
					}
				}
			}
		}
	})
}

func attentionReference(s *AttentionShape, q, k, v []float32, head, pos int) []float64 {
	out := make([]float64, s.HeadDim)
	kv := head / (s.Heads / s.KVHeads)
	var sum float64
	if s.Sinks != nil {
		sum = math.Exp(float64(s.Sinks[head]))
	}
	for p := 0; p <= pos; p++ {
		if s.Window > 0 && p <= pos-s.Window {
			continue
		}
		at := (p*s.KVHeads + kv) * s.HeadDim
		var score float64
		for d := range s.HeadDim {
			score += float64(q[d]) * float64(k[at+d])
		}
		score *= float64(s.Scale)
		if s.Softcap > 0 {
			score = float64(s.Softcap) * math.Tanh(score/float64(s.Softcap))
		}
		if s.Slopes != nil {
			score -= float64(s.Slopes[head]) * float64(pos-p)
		}
		e := math.Exp(score)
		sum += e
		for d := range out {
			out[d] += e * float64(v[at+d])
		}
	}
	for d := range out {
		out[d] /= sum
	}
	return out
}

func TestDivergence(t *testing.T) {
	eachCPU(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(6, 2))
		for _, n := range []int{1, 2, 7, 8, 15, 16, 17, 33, 100, 1000, 32001} {
			for _, noise := range []float64{0, 0.01, 3} {
				p, q := make([]float32, n), make([]float32, n)
				var sp, sq, want float64
				for i := range p {
					x := 4 * r.NormFloat64()
					p[i], q[i] = float32(x+20), float32(x+noise*r.NormFloat64()-9)
					sp += math.Exp(float64(p[i]))
					sq += math.Exp(float64(q[i]))
				}
				for i := range p {
					a, b := float64(p[i])-math.Log(sp), float64(q[i])-math.Log(sq)
					want += math.Exp(a) * (a - b)
				}
				kl, lp, lq := Divergence(p, q)
				if math.Abs(kl-want) > 5e-7*max(1, want) || kl < 0 {
					t.Errorf("%d of noise %g: KL %g, want %g", n, noise, kl, want)
				}
				if math.Abs(lp-math.Log(sp)) > 2e-6 || math.Abs(lq-math.Log(sq)) > 2e-6 {
					t.Errorf("%d of noise %g: sums %g and %g, want %g and %g", n, noise, lp, lq, math.Log(sp), math.Log(sq))
				}
			}
		}
		p := make([]float32, 40)
		p[3] = float32(math.NaN())
		if kl, lp, _ := Divergence(p, make([]float32, 40)); kl == kl || lp == lp {
			t.Errorf("a NaN gives %g and %g", kl, lp)
		}
	})
}

func TestTop(t *testing.T) {
	for _, tt := range []struct {
		x    []float32
		want []int
	}{
		{[]float32{3, 9, 9, 1, 5, 7, 2}, []int{1, 2, 5, 4, 0}},
		{[]float32{1, 2}, []int{1, 0}},
		{[]float32{1, 1, 1, 1, 1, 1}, []int{0, 1, 2, 3, 4}},
		{nil, nil},
	} {
		if got := Top(make([]int, 5), tt.x); !slices.Equal(got, tt.want) {
			t.Errorf("Top of %v: %v, want %v", tt.x, got, tt.want)
		}
	}
	// Long ones, with many equal elements, against a sort.
	eachCPU(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(3, 4))
		for _, n := range []int{255, 256, 257, 511, 3000} {
			for levels := 1; levels <= 1<<20; levels *= 32 {
				x, want := make([]float32, n), make([]int, n)
				for i := range x {
					x[i], want[i] = float32(r.IntN(levels)), i
				}
				slices.SortStableFunc(want, func(a, b int) int { return cmp.Compare(x[b], x[a]) })
				if got := Top(make([]int, 5), x); !slices.Equal(got, want[:5]) {
					t.Errorf("Top of %d elements of %d levels: %v, want %v", n, levels, got, want[:5])
				}
			}
		}
	})
}
