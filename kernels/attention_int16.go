package kernels

import (
	"encoding/binary"
	"math"
)

// Attention in 16-bit integers, for batches in Int8 arithmetic. Queries and
// keys are rounded with one scale per head's vector, to as many bits as sums
// over a head have room for in 32 (12 and a sign for heads of 64), values to 11
// bits and a sign, weights to 14. That is at least 15 times finer than the
// rounding of the activations around it.
//
// A value's scale is moved to its weight: what is rounded is exp(score) * scale,
// relative to the largest of a block of positions. A position that takes most
// of the weight while its values are next to nothing, which is how models say
// that nothing is to be seen, then does not take the others' precision.

const (
	sumBlock  = 64      // positions whose weighted values are summed in 32 bits
	maxWeight = 1 << 14 // sumBlock * maxWeight * maxValue < 1<<31, with room for
	maxValue  = 2000    // weights that rounding of exponents makes larger

	// negligible is what magnitudes below are zero for 16 bits, and the least
	// scale of a value.
	negligible = 1e-20
)

// packedBytes is about how much memory the rounded keys and values of the heads
// that are computed together may take; tests make it less.
var packedBytes = 32 << 20

// packedCache holds the keys and values of some heads in 16 bits.
type packedCache struct {
	heads  int // first of them, and
	count  int // how many
	first  int // first position
	n      int // positions, those after the last zero
	keys   []byte
	values []byte // (count, n/2, dim, 2) int16; keys are (count, n, dim)
	scales []float32
	// For values of the largest magnitude a: log2(a) and 1/a, (count, n), as scales.
	logs, inverse []float32
}

// suits16 tells whether a call is one for 16-bit integers: rounding keys and
// values must pay.
func (a *attention) suits16() bool {
	return has16() && a.n*a.s.Heads/a.s.KVHeads >= 4*lanes && a.s.HeadDim%16 == 0
}

// attention16 computes ws.att in 16-bit integers.
func (ws *Workspace) attention16(p *Pool) {
	a, c := &ws.att, &ws.packed
	s := &a.s
	c.first = 0
	if s.Window > 0 {
		c.first = max(0, a.pos-s.Window+1) &^ 1
	}
	// Tiles may end after the last position.
	c.n = (a.pos + a.n - c.first + tile + sumBlock - 1) / sumBlock * sumBlock
	count := min(max(packedBytes/(4*c.n*s.HeadDim), 1), s.KVHeads)
	c.keys, c.values = grow(c.keys, 2*count*c.n*s.HeadDim), grow(c.values, 2*count*c.n*s.HeadDim)
	c.scales, c.logs, c.inverse = grow(c.scales, count*c.n), grow(c.logs, count*c.n), grow(c.inverse, count*c.n)
	for c.heads = 0; c.heads < s.KVHeads; c.heads += count {
		c.count = min(count, s.KVHeads-c.heads)
		p.Run(c.count*c.n/sumBlock, ws.pack16)
		p.Run(c.count*a.blocks(), ws.attend16)
	}
}

// packItem16 rounds the keys and values of a head for a block of positions.
func (ws *Workspace) packItem16(worker, item int) {
	a, c, w := &ws.att, &ws.packed, &ws.workers[worker]
	dim, width := a.s.HeadDim, a.s.KVHeads*a.s.HeadDim
	head, block := item%c.count, item/c.count
	at := head*c.n + block*sumBlock
	first := c.first + block*sumBlock
	n := min(max(a.pos+a.n-first, 0), sumBlock)

	keys := c.keys[2*at*dim:][:2*sumBlock*dim]
	scales := c.scales[at:][:sumBlock]
	clear(keys[2*n*dim:])
	clear(scales[n:])
	if n > 0 {
		limit := int16Limit(dim)
		rows, stride := a.k.rows(w, first*width+(c.heads+head)*dim, n, width, dim)
		roundRows(keys, scales[:n], rows, stride, dim, limit)
		Scale(scales[:n], 1/float32(limit))
	}

	values := c.values[2*at*dim:][:2*sumBlock*dim]
	logs, inverse := c.logs[at:][:sumBlock], c.inverse[at:][:sumBlock]
	w.bytes = grow(w.bytes, 2*sumBlock*dim)
	clear(w.bytes[2*n*dim:])
	if n > 0 {
		rows, stride := a.v.rows(w, first*width+(c.heads+head)*dim, n, width, dim)
		roundRows(w.bytes, inverse[:n], rows, stride, dim, maxValue)
	}
	for i := range sumBlock {
		logs[i] = 0
		if i >= n {
			inverse[i] = 1
			continue
		}
		top := max(inverse[i], negligible)
		inverse[i] = 1 / top
		if top == top { // NaN comes through the sum of weights
			logs[i] = float32(math.Log2(float64(top)))
		}
	}
	for i := 0; i < sumBlock; i += 2 {
		zip16(values[2*i*dim:][:4*dim], w.bytes[2*i*dim:][:2*dim], w.bytes[2*(i+1)*dim:][:2*dim])
	}
}

// int16Limit returns the largest integer of which the squares' sum over dim
// elements stays below 1<<31.
func int16Limit(dim int) int {
	return min(int(math.Sqrt((1<<31-1)/float64(dim))), math.MaxInt16)
}

// roundRowsGo rounds rows of x, dim elements each and stride apart, to 16-bit
// integers: x[i] ≈ dst[i] * tops[r] / limit. tops[r] is the largest magnitude of
// row r, 0 if that is negligible and NaN if it is not finite; all of the row is 0
// in these cases. dim is a multiple of 16.
func roundRowsGo(dst []byte, tops, x []float32, stride, dim, limit int) {
	for r := range tops {
		row, dst := x[r*stride:][:dim], dst[2*r*dim:][:2*dim]
		var bits uint32
		for _, v := range row {
			bits = max(bits, math.Float32bits(v)&^(1<<31)) // NaN is above infinity
		}
		top := math.Float32frombits(bits)
		tops[r] = top
		switch {
		case top < negligible:
			tops[r] = 0
			clear(dst)
			continue
		case !(top <= math.MaxFloat32):
			tops[r] = float32(math.NaN())
			clear(dst)
			continue
		}
		scale := float32(limit) / top
		for i, v := range row {
			binary.LittleEndian.PutUint16(dst[2*i:], uint16(int16(math.RoundToEven(float64(v*scale)))))
		}
	}
}

// zip16Go puts the 16-bit elements of a and b side by side.
func zip16Go(dst, a, b []byte) {
	for i := 0; i < len(a); i += 2 {
		copy(dst[2*i:], a[i:i+2])
		copy(dst[2*i+2:], b[i:i+2])
	}
}

// attendItem16 is attendItem in 16-bit integers.
func (ws *Workspace) attendItem16(worker, item int) {
	a, c, w := &ws.att, &ws.packed, &ws.workers[worker]
	dim := a.s.HeadDim
	head := item % c.count
	b := &w.queries
	b.set(a, c.heads+head, item/c.count)
	from := (b.lo - c.first) &^ 1 // pairs of values begin with even positions
	b.lo = c.first + from
	b.rows = (b.highest + 1 - b.lo + tile - 1) / tile * tile
	at := head*c.n + from // of positions

	w.query = grow(w.query, lanes*dim)
	w.bytes = grow(w.bytes, 2*lanes*dim)
	w.panelI = grow(w.panelI, 2*lanes*dim)
	w.scores = grow(w.scores, sumBlock*lanes)
	w.weights = grow(w.weights, 2*sumBlock*lanes)
	w.c = grow(w.c, dim*lanes)

	var scale [lanes]float32
	limit := int16Limit(dim)
	for l := 0; l < b.m; {
		n := b.run(l)
		roundRows(w.bytes[2*l*dim:], scale[l:l+n], a.q[b.lane[l].at:], dim, dim, limit)
		l += n
	}
	Scale(scale[:], a.s.Scale/float32(limit))
	clear(w.bytes[2*b.m*dim:])
	for d := 0; d < dim; d += 16 {
		interleave(w.panelI[2*d*lanes:], w.bytes[2*d:], 2*dim)
	}
	// Results and the queries of what this worker is likely to do next are fetched
	// while it multiplies.
	next := min(item+len(ws.workers), c.count*a.blocks()-1)
	sums := &w.softmax
	sums.start(b.sinks())
	clear(w.c)
	blocks := (b.rows + sumBlock - 1) / sumBlock
	for i := range blocks {
		p := i * sumBlock
		n := min(sumBlock, b.rows-p)
		scores := w.scores[:n*lanes]
		soon := a.part(a.out, b.head, item/c.count, i, blocks)
		scores16(scores, c.keys[2*(at+p)*dim:], w.panelI, dim/2, c.scales[at+p:], &scale, soon)
		b.adjust(scores, p)
		softmax16(w.weights, scores, c.logs[at+p:], c.inverse[at+p:], sums)
		if i == blocks-1 {
			sums.divide()
		}
		soon = a.part(a.q, c.heads+next%c.count, next/c.count, i, blocks)
		sums16(w.c, c.values[2*(at+p)*dim:], w.weights, n/2, &sums.old, &sums.factor, soon)
	}
	transposeOut(w.query, dim, w.c, dim, lanes)
	for l := 0; l < b.m; {
		n := b.run(l)
		copy(a.out[b.lane[l].at:][:n*dim], w.query[l*dim:])
		l += n
	}
}

// scores16Go computes c, (rows, lanes), from keys, (rows, depth, 2), and
// queries, (depth, lanes, 2): c[r][l] = scale[r] * lane[l] * the sum of their
// products. The number of rows is a multiple of tile.
func scores16Go(c []float32, keys, queries []byte, depth int, scale []float32, lane *[lanes]float32) {
	for r := range len(c) / lanes {
		for l := range lanes {
			var sum int32
			for k := range depth {
				sum += dotPair(keys[4*(r*depth+k):], queries[4*(k*lanes+l):])
			}
			c[r*lanes+l] = float32(sum) * (scale[r] * lane[l])
		}
	}
}

// sums16Go computes c, (rows, lanes), from values, (depth, rows, 2), and weights,
// (depth, lanes, 2): c[r][l] = old[l] * c[r][l] + factor[l] * the sum of their
// products. The number of rows is a multiple of tile.
func sums16Go(c []float32, values, weights []byte, depth int, old, factor *[lanes]float32) {
	rows := len(c) / lanes
	for r := range rows {
		for l := range lanes {
			var sum int32
			for k := range depth {
				sum += dotPair(values[4*(k*rows+r):], weights[4*(k*lanes+l):])
			}
			c[r*lanes+l] = float32(old[l]*c[r*lanes+l]) + float32(float32(sum)*factor[l])
		}
	}
}

func dotPair(a, b []byte) int32 {
	x, y := binary.LittleEndian.Uint32(a), binary.LittleEndian.Uint32(b)
	return int32(int16(x))*int32(int16(y)) + int32(int16(x>>16))*int32(int16(y>>16))
}

// softmaxState is what a softmax keeps of each lane from block to block of
// positions (arXiv:1805.02867): sums of weights, and of weighted values, are in
// units of 2^top.
type softmaxState struct {
	top    [lanes]float32 // the largest exponent so far, to base 2
	sum    [lanes]float32 // of exp(score), sink included; NaN comes through it
	old    [lanes]float32 // what sums before the last block are to be multiplied by
	factor [lanes]float32 // and the last block's
}

// start begins with the score of a position without value.
func (s *softmaxState) start(sink [lanes]float32) {
	for l, v := range sink {
		s.top[l], s.sum[l] = v*math.Log2E, 0
		if v >= -math.MaxFloat32 {
			s.sum[l] = maxWeight
		}
	}
}

// divide makes sums of weights times values in units of maxValue, with old and
// factor, the result.
func (s *softmaxState) divide() {
	for l, sum := range s.sum {
		f := 1 / (sum * maxValue)
		s.old[l] *= f
		s.factor[l] *= f
	}
}

// softmax16Go makes weights, (rows/2, lanes, 2), of a block's scores, (rows,
// lanes), rows being even: exp(score) * 2^(logs - m) * maxWeight, m being such
// that the lane's largest is maxWeight. Scores are lost.
func softmax16Go(weights []byte, scores, logs, inverse []float32, s *softmaxState) {
	pow2 := func(x float32) float32 { return float32(math.Exp2(float64(max(x, -100)))) }
	for l := range lanes {
		most := float32(lowest)
		for i := range len(scores) / lanes {
			x := &scores[i*lanes+l]
			*x = float32(*x*math.Log2E) + logs[i]
			most = max(most, *x)
		}
		top := max(s.top[l], most)
		s.old[l], s.factor[l], s.top[l] = pow2(s.top[l]-top), pow2(most-top), top
		var part float32
		for i := range len(scores) / lanes {
			e := maxWeight * pow2(scores[i*lanes+l]-most)
			part += float32(e * inverse[i])
			binary.LittleEndian.PutUint16(weights[4*(i/2*lanes+l)+2*(i%2):], uint16(int16(math.RoundToEven(float64(e)))))
		}
		s.sum[l] = float32(s.old[l]*s.sum[l]) + float32(s.factor[l]*part)
	}
}

// lowest stands for the largest exponent where all scores are -Inf.
const lowest = -1e30
