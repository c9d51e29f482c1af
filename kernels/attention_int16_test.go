package kernels

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"
)

// budgetAtt16 bounds the error of attention in 16 bits, in units of the largest
// magnitude of a value: values have 11 bits, weights 14, scores about 12.
const budgetAtt16 = 1e-3

// randomBytes16 returns 16-bit integers of magnitudes up to limit.
func randomBytes16(r *rand.Rand, n, limit int) []byte {
	var dst []byte
	for range n {
		dst = binary.LittleEndian.AppendUint16(dst, uint16(r.IntN(2*limit+1)-limit))
	}
	return dst
}

func TestInt16(t *testing.T) {
	eachCPU(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(4, 16))
		for dim := 16; dim <= 320; dim += 16 {
			rows, stride := 1+r.IntN(9), dim+r.IntN(7)
			x := randomFloats(r, rows*stride)
			for row := range rows {
				switch at := x[row*stride:][:dim]; r.IntN(8) {
				case 0:
					at[r.IntN(dim)] = float32(math.NaN())
				case 1:
					at[r.IntN(dim)] = float32(math.Inf(-1))
				case 2:
					Scale(at, 1e-22)
				case 3:
					Scale(at, 1e37)
				case 4:
					clear(at)
				}
			}
			got, want := make([]byte, 2*rows*dim+1), make([]byte, 2*rows*dim+1)
			tops, topsGo := make([]float32, rows+1), make([]float32, rows+1)
			got[2*rows*dim], want[2*rows*dim], tops[rows], topsGo[rows] = 7, 7, 7, 7
			roundRows(got, tops[:rows], x, stride, dim, 1234)
			roundRowsGo(want, topsGo[:rows], x, stride, dim, 1234)
			if string(got) != string(want) {
				t.Fatalf("rounding %d rows of %d elements: %v, want %v", rows, dim, got, want)
			}
			for i, top := range topsGo {
				if !same(tops[i], top) {
					t.Fatalf("rounding %d rows of %d elements: largest of row %d is %g, want %g", rows, dim, i, tops[i], top)
				}
			}
			a, b := randomBytes16(r, dim, 32767), randomBytes16(r, dim, 32767)
			got, want = make([]byte, 4*dim+1), make([]byte, 4*dim+1)
			zip16(got, a, b)
			zip16Go(want, a, b)
			if string(got) != string(want) {
				t.Fatalf("zipping %d elements: %v, want %v", dim, got, want)
			}

			// The largest sums that there are.
			limit := int16Limit(dim)
			keys, queries := randomBytes16(r, tile*dim, limit), randomBytes16(r, lanes*dim, limit)
			for i := range dim {
				copy(keys[2*i:], []byte{byte(limit), byte(limit >> 8)})
			}
			for i := range dim / 2 {
				copy(queries[4*i*lanes:], []byte{byte(limit), byte(limit >> 8), byte(limit), byte(limit >> 8)})
			}
			scale, lane := randomFloats(r, tile), [lanes]float32(randomFloats(r, lanes))
			c, cGo := randomFloats(r, tile*lanes+1), make([]float32, tile*lanes)
			guard := c[tile*lanes]
			scores16(c[:tile*lanes], keys, queries, dim/2, scale, &lane, nil)
			scores16Go(cGo, keys, queries, dim/2, scale, &lane)
			for i, v := range cGo {
				if c[i] != v {
					t.Fatalf("score %d of heads of %d is %g, want %g", i, dim, c[i], v)
				}
			}
			if most := float32(int32(limit)*int32(limit)*int32(dim)) * (scale[0] * lane[0]); math.Abs(float64(c[0]/most)-1) > 1e-6 || c[tile*lanes] != guard {
				t.Fatalf("the largest score of heads of %d is %g, want %g", dim, c[0], most)
			}
		}
		for rows := 2; rows <= sumBlock; rows += 2 {
			sink := [lanes]float32(randomFloats(r, lanes))
			sink[3] = float32(math.Inf(-1))
			var state, stateGo softmaxState
			state.start(sink)
			stateGo.start(sink)
			for block := range 4 {
				scores, logs, inverse := randomFloats(r, rows*lanes), randomFloats(r, rows), make([]float32, rows)
				for i, v := range logs {
					inverse[i] = float32(math.Exp2(-float64(v)))
				}
				for p := range rows {
					scores[p*lanes+4] += float32(30 * block)  // always the largest so far
					scores[p*lanes+11] -= float32(30 * block) // never
					if scores[p*lanes+3] = float32(p); block < 2 {
						scores[p*lanes+3] = float32(math.Inf(-1)) // nothing is seen
					}
				}
				for p := r.IntN(rows); p < rows; p++ {
					scores[p*lanes+5] = float32(math.Inf(-1))
				}
				if block == 1 {
					scores[9] = float32(math.NaN())
				}
				scoresGo := append([]float32(nil), scores...)
				w, wGo := make([]byte, 2*rows*lanes+1), make([]byte, 2*rows*lanes+1)
				softmax16(w, scores, logs, inverse, &state)
				softmax16Go(wGo, scoresGo, logs, inverse, &stateGo)
				for l := range lanes {
					for _, v := range []struct {
						name      string
						got, want float32
					}{
						{"top", state.top[l], stateGo.top[l]}, {"sum", state.sum[l], stateGo.sum[l]},
						{"old", state.old[l], stateGo.old[l]}, {"factor", state.factor[l], stateGo.factor[l]},
					} {
						if !near(v.got, float64(v.want), 2e-5) && !(l == 9 && v.name != "sum") {
							t.Fatalf("%d rows, block %d: %s of lane %d is %g, want %g", rows, block, v.name, l, v.got, v.want)
						}
					}
				}
				if nan := state.sum[9] != state.sum[9]; nan != (block > 0) {
					t.Fatalf("%d rows, block %d: NaN comes through: %t", rows, block, nan)
				}
				for i := 0; i < len(w)-1; i += 2 {
					got, want := int(int16(binary.LittleEndian.Uint16(w[i:]))), int(int16(binary.LittleEndian.Uint16(wGo[i:])))
					if lane := i / 4 % lanes; lane != 9 && (got < want-1 || got > want+1 || got > maxWeight+1) {
						t.Fatalf("%d rows, block %d: weight %d of lane %d is %d, want %d", rows, block, i/2, lane, got, want)
					}
				}
				if w[len(w)-1] != 0 {
					t.Fatalf("%d rows: writes past the end", rows)
				}
			}

			values, weights := randomBytes16(r, rows*3*tile, maxValue), randomBytes16(r, rows*lanes, maxWeight)
			c := randomFloats(r, 3*tile*lanes)
			cGo := append([]float32(nil), c...)
			old, factor := [lanes]float32(randomFloats(r, lanes)), [lanes]float32(randomFloats(r, lanes))
			sums16(c, values, weights, rows/2, &old, &factor, nil)
			sums16Go(cGo, values, weights, rows/2, &old, &factor)
			for i, v := range cGo {
				if !same(c[i], v) && !(math.Abs(float64(c[i]-v)) <= 1e-6*math.Abs(float64(v))+1) {
					t.Fatalf("%d rows: sum %d is %g, want %g", rows, i, c[i], v)
				}
			}
		}
	})
	if dim, most := 64, sumBlock*maxWeight*maxValue; most >= 1<<31 || int16Limit(dim)*int16Limit(dim)*dim >= 1<<31 {
		t.Errorf("sums of up to %d do not fit into 32 bits", most)
	}
}

// attend16 is Attention in 16 bits whatever the CPU.
func attend16(p *Pool, ws *Workspace, s AttentionShape, out, q []float32, k, v Cache, n, pos int) {
	ws.prepare(p.Threads())
	ws.att = attention{s, out, q, k, v, n, pos}
	ws.attention16(p)
}

func TestAttentionInt16(t *testing.T) {
	pool := NewPool(2)
	defer pool.Close()
	whole := packedBytes
	defer func() { packedBytes = whole }()
	eachCPU(t, func(t *testing.T) {
		var ws Workspace
		r := rand.New(rand.NewPCG(8, 7))
		for _, c := range []struct {
			heads, kv, dim, n, pos, window int
			cap                            float32
			sinks, half, slopes            bool
			bytes                          int
		}{
			{1, 1, 16, 1, 0, 0, 0, false, false, false, whole},
			{4, 2, 16, 5, 0, 0, 0, false, false, false, whole},
			{4, 4, 48, 9, 77, 0, 20, true, true, false, 1},
			{8, 2, 64, 33, 150, 0, 0, false, false, false, whole},
			{8, 1, 32, 7, 201, 0, 50, false, true, false, whole},
			{6, 3, 32, 70, 9, 16, 0, true, false, false, 2 * 128 * 4 * 32},
			{6, 2, 16, 70, 90, 41, 0, true, false, true, whole},
			{2, 1, 128, 3, 130, 63, 0, false, false, true, whole},
		} {
			packedBytes = c.bytes
			s := AttentionShape{Heads: c.heads, KVHeads: c.kv, HeadDim: c.dim, Scale: 0.3, Window: c.window, Softcap: c.cap}
			if c.sinks {
				s.Sinks = randomFloats(r, c.heads)
			}
			if c.slopes {
				s.Slopes = randomFloats(r, c.heads)
			}
			width := c.kv * c.dim
			size := (c.pos + c.n) * width
			q, k, v := randomFloats(r, c.n*c.heads*c.dim), randomFloats(r, size), randomFloats(r, size)
			// A position that is looked at most and has next to no values must not
			// cost the others' precision; one without any counts, too.
			for i := range width {
				k[i] = q[i%c.dim] / 2
				v[i] *= 1e-5
				if c.pos > 2 {
					v[2*width+i] = 0
				}
			}
			ck, cv := Cache{F32: k}, Cache{F32: v}
			if c.half {
				ck, cv = Cache{F16: make([]uint16, size)}, Cache{F16: make([]uint16, size)}
				ToHalf(ck.F16, k)
				ToHalf(cv.F16, v)
				FromHalf(k, ck.F16)
				FromHalf(v, cv.F16)
			}
			out := randomFloats(r, len(q))
			attend16(pool, &ws, s, out, q, ck, cv, c.n, c.pos)
			for tok := range c.n {
				for h := range c.heads {
					want := attentionReference(&s, q[(tok*c.heads+h)*c.dim:], k, v, h, c.pos+tok)
					for d, w := range want {
						if got := out[(tok*c.heads+h)*c.dim+d]; !(math.Abs(float64(got)-w) <= budgetAtt16*4) {
							t.Fatalf("%+v: token %d head %d element %d is %g, want %g", c, tok, h, d, got, w)
						}
					}
				}
			}
			if c.n < 3 {
				continue
			}
			// NaN in a query is that head's alone, infinities in a key and in a
			// value are for all tokens that see them.
			q[(c.heads+1)%(c.n*c.heads)*c.dim] = float32(math.NaN())
			attend16(pool, &ws, s, out, q, ck, cv, c.n, c.pos)
			for i, got := range out {
				if nan := i/c.dim == c.heads+1; nan != (got != got) {
					t.Fatalf("%+v: with NaN in head %d, element %d of head %d is %g", c, c.heads+1, i%c.dim, i/c.dim, got)
				}
			}
		}
	})
}

func TestAttentionInt16NotFinite(t *testing.T) {
	eachCPU(t, func(t *testing.T) {
		var ws Workspace
		r := rand.New(rand.NewPCG(8, 9))
		const n, dim, bad = 200, 16, 150
		s := AttentionShape{Heads: 1, KVHeads: 1, HeadDim: dim, Scale: 0.3}
		for _, values := range []bool{false, true} {
			q, k, v := randomFloats(r, n*dim), randomFloats(r, n*dim), randomFloats(r, n*dim)
			in := k
			if values {
				in = v
			}
			in[bad*dim+3] = float32(math.Inf(1))
			out := make([]float32, n*dim)
			attend16(nil, &ws, s, out, q, Cache{F32: k}, Cache{F32: v}, n, 0)
			for i, got := range out {
				tok := i / dim
				// Tokens of one block of lanes may share what one of them sees.
				if got == got && tok >= bad || got != got && tok < bad/lanes*lanes {
					t.Fatalf("infinity at %d (in a value: %t): token %d has %g", bad, values, tok, got)
				}
			}
		}
	})
}

// In Int8 arithmetic batches give what Exact does, but for rounding.
func TestAttentionCompute(t *testing.T) {
	var ws Workspace
	r := rand.New(rand.NewPCG(3, 9))
	const n, dim = 130, 32
	s := AttentionShape{Heads: 2, KVHeads: 2, HeadDim: dim, Scale: 0.2}
	q, k, v := randomFloats(r, n*2*dim), Cache{F32: randomFloats(r, n*2*dim)}, Cache{F32: randomFloats(r, n*2*dim)}
	exact, int8 := make([]float32, len(q)), make([]float32, len(q))
	Attention(nil, &ws, Exact, s, exact, q, k, v, n, 0)
	Attention(nil, &ws, Int8, s, int8, q, k, v, n, 0)
	differ := false
	for i, v := range exact {
		differ = differ || v != int8[i]
		if !near(int8[i], float64(v), 4*budgetAtt16) {
			t.Fatalf("element %d is %g, want %g", i, int8[i], v)
		}
	}
	if differ != has16() {
		t.Errorf("rounded %t, want %t", differ, has16())
	}
}
