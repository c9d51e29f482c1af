package kernels

import (
	"fmt"
	"math"
)

// AttentionShape describes the attention of one layer.
type AttentionShape struct {
	Heads   int // query heads
	KVHeads int // heads of keys and values; Heads is a multiple of it
	HeadDim int // elements of a head of queries, keys and values

	Scale   float32   // scores are Scale * q·k
	Softcap float32   // then Softcap * tanh(score/Softcap), unless 0
	Window  int       // a query sees this many positions, its own included; 0: all
	Sinks   []float32 // (Heads) scores of a position without value, or nil
	// Slopes, (Heads) or nil, make scores fall with distance: Slopes[h] * d is
	// taken from the score of a key d positions back (ALiBi, arXiv:2108.12409).
	Slopes []float32
}

// Cache holds the keys or the values of the positions seen so far,
// (positions, KVHeads, HeadDim), in float32 or, if F32 is nil, in half
// precision.
type Cache struct {
	F32 []float32
	F16 []uint16
}

// keyBlock is the number of positions of a half-precision cache that are
// expanded at a time.
const keyBlock = 128

// fewLanes is the number of (query, head) pairs up to which they are computed
// one at a time: most lanes would be empty.
const fewLanes = 3

// attention holds the arguments of a call for the workers.
type attention struct {
	s    AttentionShape
	out  []float32
	q    []float32
	k, v Cache
	n    int
	pos  int
}

// Attention computes causal attention of n queries at positions pos, pos+1, ...
// over the keys and values of positions 0 to pos+n-1. q and out are (n, Heads,
// HeadDim). Heads h*g to h*g+g-1, with g = Heads/KVHeads, read head h of the
// cache. Exact computes in float32; Int8 may round to 16-bit integers where many
// queries read the same keys.
func Attention(p *Pool, ws *Workspace, mode Compute, s AttentionShape, out, q []float32, k, v Cache, n, pos int) {
	need := (pos + n) * s.KVHeads * s.HeadDim
	if s.KVHeads < 1 || s.Heads%s.KVHeads != 0 || len(q) < n*s.Heads*s.HeadDim || len(out) < n*s.Heads*s.HeadDim ||
		max(len(k.F32), len(k.F16)) < need || max(len(v.F32), len(v.F16)) < need || s.Sinks != nil && len(s.Sinks) < s.Heads || s.Slopes != nil && len(s.Slopes) < s.Heads {
		panic(fmt.Sprintf("kernels: attention of %d queries at %d with %+v over %d keys and %d values", n, pos, s,
			max(len(k.F32), len(k.F16)), max(len(v.F32), len(v.F16))))
	}
	ws.prepare(p.Threads())
	ws.att = attention{s, out, q, k, v, n, pos}
	if mode == Int8 && ws.att.suits16() {
		ws.attention16(p)
	} else {
		p.Run(ws.att.blocks()*s.KVHeads, ws.attend)
	}
	ws.att = attention{}
}

// blocks returns the number of a head's blocks of queries.
func (a *attention) blocks() int { return (a.n*a.s.Heads/a.s.KVHeads + lanes - 1) / lanes }

// part returns part i of n of what stands in x, (n, Heads, HeadDim), for a head's
// block of queries, or as much of it as is one token's.
func (a *attention) part(x []float32, head, block, i, n int) []float32 {
	group := a.s.Heads / a.s.KVHeads
	first := (a.blocks() - 1 - block) * lanes
	l := first + lanes*i/n
	end := min(first+lanes*(i+1)/n, (l/group+1)*group, a.n*group)
	if l >= end {
		return nil
	}
	return x[(l/group*a.s.Heads+head*group+l%group)*a.s.HeadDim:][:(end-l)*a.s.HeadDim]
}

// A queryBlock is up to 32 (query, head) pairs that share a head of keys and
// values, one in each lane.
type queryBlock struct {
	a               *attention
	head            int // of keys and values
	m               int // pairs
	lowest, highest int // positions of the first and the last
	lo, rows        int // positions that any of them sees: the first, and how many
	lane            [lanes]struct {
		head int // of queries
		pos  int
		at   int // where query and result stand
	}
}

// set makes b a head's block of number i, the last queries first: they have the
// most to read, and what takes longest is to come first.
func (b *queryBlock) set(a *attention, head, i int) {
	s := &a.s
	group := s.Heads / s.KVHeads
	first := (a.blocks() - 1 - i) * lanes
	b.a, b.head, b.m = a, head, min(lanes, a.n*group-first)
	t, h := first/group, first%group
	for l := range b.m {
		lane := &b.lane[l]
		lane.head, lane.pos = head*group+h, a.pos+t
		lane.at = (t*s.Heads + lane.head) * s.HeadDim
		if h++; h == group {
			t, h = t+1, 0
		}
	}
	b.lowest, b.highest = b.lane[0].pos, b.lane[b.m-1].pos
	b.lo = 0
	if s.Window > 0 {
		b.lo = max(0, b.lowest-s.Window+1)
	}
	b.rows = b.highest + 1 - b.lo
}

// run returns how many lanes from l on are neighbouring heads of one token.
func (b *queryBlock) run(l int) int {
	n := 1
	for l+n < b.m && b.lane[l+n].pos == b.lane[l].pos {
		n++
	}
	return n
}

// adjust applies what comes between products and softmax to scores, (rows,
// lanes), the first row being position lo+first; positions that a query does not
// see get -Inf.
func (b *queryBlock) adjust(scores []float32, first int) {
	s := &b.a.s
	first += b.lo
	rows := len(scores) / lanes
	if s.Softcap > 0 {
		Softcap(scores, s.Softcap)
	}
	if s.Slopes != nil {
		for l := range b.m {
			slope := s.Slopes[b.lane[l].head]
			for p := range rows {
				scores[p*lanes+l] -= float32(slope * float32(b.lane[l].pos-first-p))
			}
		}
	}
	if first+rows <= b.lowest+1 && s.Window == 0 {
		return // all of them see all
	}
	inf := float32(math.Inf(-1))
	for l := range lanes {
		pos := b.lowest
		if l < b.m {
			pos = b.lane[l].pos
		}
		for p := max(0, pos+1-first); p < rows; p++ {
			scores[p*lanes+l] = inf
		}
		if s.Window > 0 {
			for p := 0; p < min(pos-s.Window+1-first, rows); p++ {
				scores[p*lanes+l] = inf
			}
		}
	}
}

// sinks returns the lanes' scores of a position without value.
func (b *queryBlock) sinks() (sink [lanes]float32) {
	for l := range sink {
		sink[l] = float32(math.Inf(-1))
		if s := b.a.s.Sinks; s != nil && l < b.m {
			sink[l] = s[b.lane[l].head]
		}
	}
	return sink
}

// attendItem computes a block of queries.
func (ws *Workspace) attendItem(worker, item int) {
	a, w := &ws.att, &ws.workers[worker]
	s := &a.s
	dim, width := s.HeadDim, s.KVHeads*s.HeadDim
	b := &w.queries
	b.set(a, item%s.KVHeads, item/s.KVHeads)
	if b.m <= fewLanes {
		ws.attendFew(w, b)
		return
	}

	w.query = grow(w.query, lanes*dim)
	w.columns = grow(w.columns, lanes*dim)
	w.scores = grow(w.scores, b.rows*lanes)
	w.c = grow(w.c, dim*lanes)
	for l := range b.m {
		at := b.lane[l].at
		copy(w.query[l*dim:][:dim], a.q[at:])
	}
	clear(w.query[b.m*dim:])
	Scale(w.query, s.Scale)
	transposeIn(w.columns, w.query, dim, lanes, dim)

	// scores[p][l] = k[lo+p] · q[l]
	scores := w.scores
	clear(scores)
	for p := 0; p < b.rows; p += keyBlock {
		n := min(keyBlock, b.rows-p)
		keys, stride := a.k.rows(w, (b.lo+p)*width+b.head*dim, n, width, dim)
		gemmRows(scores[p*lanes:], keys, stride, 1, w.columns, dim, n)
	}
	b.adjust(scores, 0)
	var sums [lanes]float32
	sink := b.sinks()
	softmaxLanes(scores, &sink, &sums)

	// c[d][l] = sum over p of v[lo+p][d] * scores[p][l]
	clear(w.c)
	for p := 0; p < b.rows; p += keyBlock {
		n := min(keyBlock, b.rows-p)
		values, stride := a.v.rows(w, (b.lo+p)*width+b.head*dim, n, width, dim)
		gemmRows(w.c, values, 1, stride, scores[p*lanes:], n, dim)
	}
	transposeOut(w.query, dim, w.c, dim, lanes)
	for l := range b.m {
		at := b.lane[l].at
		affine(a.out[at:at+dim], w.query[l*dim:][:dim], 1/sums[l], 0)
	}
}

// attendFew is attendItem for blocks of at most fewLanes pairs.
func (ws *Workspace) attendFew(w *scratch, b *queryBlock) {
	a := &ws.att
	s := &a.s
	head, m, lo, n := b.head, b.m, b.lo, b.rows
	dim, width := s.HeadDim, s.KVHeads*s.HeadDim
	w.scores = grow(w.scores, m*n)
	for p := range n {
		key := a.k.row(w, (lo+p)*width+head*dim, dim)
		for l := range m {
			at := b.lane[l].at
			w.scores[l*n+p] = s.Scale * dotF32(a.q[at:at+dim], key)
		}
	}
	var sums [fewLanes]float32
	for l := range m {
		at, pos := b.lane[l].at, b.lane[l].pos
		clear(a.out[at : at+dim])
		scores := w.scores[l*n:][:n]
		if s.Softcap > 0 {
			Softcap(scores, s.Softcap)
		}
		seen := scores[:pos+1-lo]
		if s.Slopes != nil {
			slope := s.Slopes[b.lane[l].head]
			for p := range seen {
				seen[p] -= float32(slope * float32(pos-lo-p))
			}
		}
		clear(scores[len(seen):])
		if s.Window > 0 {
			before := max(0, pos-s.Window+1-lo)
			clear(seen[:before])
			seen = seen[before:]
		}
		top := maximum(seen)
		if s.Sinks != nil {
			sink := s.Sinks[b.lane[l].head]
			top = max(top, sink)
			sums[l] = exp32(sink - top)
		}
		sums[l] += float32(expSum(seen, seen, top))
	}
	for p := range n {
		value := a.v.row(w, (lo+p)*width+head*dim, dim)
		for l := range m {
			if weight := w.scores[l*n+p]; weight != 0 {
				at := b.lane[l].at
				scaleAdd(a.out[at:at+dim], value, weight)
			}
		}
	}
	for l := range m {
		at := b.lane[l].at
		Scale(a.out[at:at+dim], 1/sums[l])
	}
}

// row returns a row of a head, the one at offset at, as float32.
func (c *Cache) row(w *scratch, at, dim int) []float32 {
	rows, _ := c.rows(w, at, 1, dim, dim)
	return rows[:dim]
}

// rows returns n rows of a head, the first at offset at, as float32, and their
// stride.
func (c *Cache) rows(w *scratch, at, n, width, dim int) ([]float32, int) {
	if c.F32 != nil {
		return c.F32[at:], width
	}
	w.row = grow(w.row, keyBlock*dim)
	for i := range n {
		FromHalf(w.row[i*dim:][:dim], c.F16[at+i*width:][:dim])
	}
	return w.row, dim
}

// gemmRows is gemmF32 for any number of rows.
func gemmRows(c, a []float32, rs, ks int, b []float32, depth, rows int) {
	r := 0
	for ; r+tile <= rows; r += tile {
		gemmF32(c[r*lanes:], a[r*rs:], rs, ks, b, depth, tile)
	}
	for ; r < rows; r++ {
		gemmF32(c[r*lanes:], a[r*rs:], rs, ks, b, depth, 1)
	}
}

// softmaxLanesGo replaces each lane of s, (rows, lanes), by exp(s - top) with
// top the lane's largest score, sink included, and returns the sums of these,
// exp(sink - top) included.
func softmaxLanesGo(s []float32, sink, sums *[lanes]float32) {
	top := *sink
	for p := 0; p < len(s); p += lanes {
		for l, v := range s[p:][:lanes] {
			top[l] = max(top[l], v)
		}
	}
	for l := range sums {
		sums[l] = exp32(sink[l] - top[l])
	}
	for p := 0; p < len(s); p += lanes {
		for l, v := range s[p:][:lanes] {
			e := exp32(v - top[l])
			s[p+l] = e
			sums[l] += e
		}
	}
}
