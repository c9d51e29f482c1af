package quant

import "encoding/binary"

// A gridSpec says how a type of the families IQ2 and IQ3 searches its codes.
// A super-block of 256 has one half-precision scale and 256/group groups with
// a 4-bit scale each.
type gridSpec struct {
	grid  func() *Grid
	group int // elements per group

	sigma     float32 // weights use this times the mean square of the super-block
	even      bool    // the number of minus signs among 8 elements is even
	eps       float32 // a group whose largest value is smaller becomes zero
	trials    int     // number of scales tried, odd
	step      float32 // between trials, in units of half a level
	fitFirst  bool    // start from the best unsigned fit without a codebook
	refineAll bool    // the last step searches all codes anew
	fudge     float32 // factor on the super-block's scale

	// weight is the weight of a value without importance.
	weight func(x, sigma2 float32) float32
}

var (
	specIQ2XXS = gridSpec{grid: gridIQ2XXS, group: 32, sigma: 1, even: true, eps: 1e-15, trials: 13, step: 0.1,
		fitFirst: true, refineAll: true, fudge: 1}
	specIQ2XS = gridSpec{grid: gridIQ2XS, group: 16, sigma: 1, even: true, eps: 1e-15, trials: 19, step: 0.1, fudge: 1}
	specIQ2S  = gridSpec{grid: gridIQ2S, group: 16, sigma: 2, eps: 1e-8, trials: 19, step: 0.1, fudge: 0.9875,
		weight: func(x, sigma2 float32) float32 { return float32(0.25*sigma2) + float32(x*x) }}
	specIQ3XXS = gridSpec{grid: gridIQ3XXS, group: 32, sigma: 2, even: true, eps: 1e-8, trials: 31, step: 0.2, fudge: 1.0125,
		weight: func(x, _ float32) float32 { return x * x }}
	specIQ3S = gridSpec{grid: gridIQ3S, group: 32, sigma: 2, trials: 19, step: 0.2, refineAll: true, fudge: 1.033,
		weight: func(x, _ float32) float32 { return x * x }}
)

// A gridBlock is a super-block between search and storage.
type gridBlock struct {
	d      float32    // the super-block's scale
	zero   bool       // all groups' scales are zero; d and scale are not set
	empty  [16]bool   // groups whose elements all count as zero
	scale  [16]uint8  // of each group, 4 bits
	points [64]uint16 // indices into the grid, in the order of the elements
	signs  [32]uint8  // a bit for each element, set for minus
}

// encode searches the super-block x (ggml-quants.c, quantize_row_iq2_xxs_impl
// and its four siblings).
func (s *gridSpec) encode(b *gridBlock, x, importance []float32, ops *IQOps, g *GridTrials) {
	*b = gridBlock{}
	grid := s.grid()
	var sumx2 float32
	for _, v := range x[:256] {
		sumx2 += float32(v * v)
	}
	sigma2 := s.sigma * sumx2 / 256
	top := float32(2*levelCount(grid) - 1) // what the highest level stands for
	for i := range g.Level {
		g.Level[i] = float32(2*i + 1)
	}
	var scales [16]float32
	var maxScale float32
	for ib := range 256 / s.group {
		first := ib * s.group
		xb := x[first:][:s.group]
		var imp []float32
		if importance != nil {
			imp = importance[first:][:s.group]
		}
		signs := b.signs[first/8:][:s.group/8]
		largest := s.prepare(g, signs, xb, imp, sigma2)
		if largest < s.eps || largest == 0 {
			b.empty[ib] = true
			clear(signs)
			continue
		}
		var best float32
		scale := largest / top
		if s.fitFirst {
			var levels [32]uint8
			scale = fitUnsigned(levelCount(grid)+1, levels[:], g.X[:s.group], g.Weight[:s.group])
			largest = scale * float32(levelCount(grid))
			if largest <= 0 {
				clear(signs)
				continue
			}
		}
		g.Trials = s.trials
		for t := range s.trials {
			g.Inv[t] = (top + float32(float32(t-s.trials/2)*s.step)) / largest
			g.Scale[t] = 1 / g.Inv[t]
		}
		ops.Round(grid, g)
		ops.Nearest(grid, g)
		ops.Sums(grid, g)
		chosen := -1
		for t := range s.trials {
			if sumqx, sumq2 := g.SumQX[t], g.SumQ2[t]; sumq2 > 0 && sumqx*sumqx > best*sumq2 {
				scale = sumqx / sumq2
				best = scale * sumqx
				chosen = t
			}
		}
		codes, fixed := s.take(g, grid, chosen)
		if fixed != 1<<(s.group/grid.Dim)-1 && scale > 0 {
			// Codes that were no points depend on the scale: search them anew.
			g.Trials = 1
			g.Inv[0], g.Scale[0] = 1/scale, scale
			ops.Round(grid, g)
			ops.Nearest(grid, g)
			for k := range s.group / grid.Dim {
				if fixed>>k&1 != 0 {
					g.Codes[k][0] = codes[k]
				}
				codes[k] = g.Codes[k][0]
			}
			ops.Sums(grid, g)
			if g.SumQ2[0] > 0 {
				scale = g.SumQX[0] / g.SumQ2[0]
			}
		}
		if scale < 0 {
			scale = -scale
			for i := range signs {
				signs[i] = ^signs[i]
				if s.even {
					signs[i] = evenSigns(signs[i])
				}
			}
		}
		for k := range s.group / grid.Dim {
			b.points[first/grid.Dim+k] = uint16(grid.Lookup[codes[k]])
		}
		scales[ib] = scale
		maxScale = max(maxScale, scale)
	}
	if maxScale == 0 {
		b.zero = true
		return
	}
	d := maxScale / 31
	b.d = d * s.fudge
	id := 1 / d
	for ib := range 256 / s.group {
		b.scale[ib] = uint8(min(max(nearestInt(0.5*(float32(id*scales[ib])-1)), 0), 15))
	}
}

// prepare fills in g's values without signs and their weights, sets the signs
// and returns the largest value.
func (s *gridSpec) prepare(g *GridTrials, signs []uint8, x, importance []float32, sigma2 float32) float32 {
	g.Len = len(x)
	for i, v := range x {
		if importance != nil {
			g.Weight[i] = importance[i] * sqrt32(sigma2+float32(v*v))
		} else {
			g.Weight[i] = s.weight(v, sigma2)
		}
		g.Root[i] = sqrt32(g.Weight[i])
	}
	for k := range signs {
		signs[k] = 0
		odd := false
		for i := 8 * k; i < 8*k+8; i++ {
			g.X[i] = x[i]
			if !(x[i] >= 0) {
				g.X[i] = -x[i]
				signs[k] |= 1 << (i % 8)
				odd = !odd
			}
		}
		if odd && s.even {
			// Give the wrong sign to the element that matters least.
			cheapest, cost := 8*k, float32(float32(g.Weight[8*k]*x[8*k])*x[8*k])
			for i := 8*k + 1; i < 8*k+8; i++ {
				if c := float32(float32(g.Weight[i]*x[i]) * x[i]); c < cost {
					cheapest, cost = i, c
				}
			}
			g.X[cheapest] = -g.X[cheapest]
			signs[k] ^= 1 << (cheapest % 8)
		}
	}
	largest := g.X[0]
	for _, v := range g.X[1:len(x)] {
		if v > largest {
			largest = v
		}
	}
	return largest
}

// take returns the codes of trial t, and a bit for each that need not be
// searched anew. With t = -1, where no trial was any good, they are zero.
func (s *gridSpec) take(g *GridTrials, grid *Grid, t int) (codes [8]uint16, fixed int) {
	if t < 0 {
		fixed = 1<<(s.group/grid.Dim) - 1
		if s.refineAll {
			fixed = 0
		}
		return codes, fixed
	}
	for k := range s.group / grid.Dim {
		codes[k] = g.Codes[k][t]
		if g.Off[k]>>t&1 == 0 {
			fixed |= 1 << k
		}
	}
	if s.fitFirst || s.refineAll && fixed != 1<<(s.group/grid.Dim)-1 {
		fixed = 0
	}
	return codes, fixed
}

// levelCount returns the number of levels of the grid's codes.
func levelCount(grid *Grid) int {
	if grid.Bits == 2 {
		return 3
	}
	return 8
}

// decodePoint expands a point of the grid times scale; bit i of signs negates
// element i.
func decodePoint(dst []float32, grid *Grid, levels *[8]float32, point int, signs uint8, scale float32) {
	code := grid.Codes[point]
	for i := range grid.Dim {
		v := scale * levels[grid.level(code, i)]
		if signs>>i&1 != 0 {
			v = -v
		}
		dst[i] = v
	}
}

// What the levels stand for when decoded, in units of an eighth of the group's
// scale for IQ2 and a quarter for IQ3_XXS (ggml-common.h, iq2xxs_grid,
// iq3xxs_grid, iq3s_grid): not quite the odd numbers that encoding assumes.
var (
	iq2Levels    = [8]float32{8, 25, 43}
	iq3xxsLevels = [8]float32{4, 12, 20, 28, 36, 44, 52, 62}
	iq3sLevels   = [8]float32{1, 3, 5, 7, 9, 11, 13, 15}
)

// IQ2_XXS: half-precision scale, then for each group of 32 four bytes of points
// and four bytes with 4 times 7 signs and the scale in the top 4 bits.
func decodeIQ2XXS(dst []float32, src []byte) {
	grid := gridIQ2XXS()
	for ; len(src) > 0; dst, src = dst[256:], src[66:] {
		d := halfToFloat(src)
		for ib := range 8 {
			q := src[2+8*ib:]
			rest := binary.LittleEndian.Uint32(q[4:])
			scale := float32(d*(0.5+float32(rest>>28))) * 0.25
			for k := range 4 {
				decodePoint(dst[32*ib+8*k:], grid, &iq2Levels, int(q[k]), evenSigns(uint8(rest>>(7*k))), scale)
			}
		}
	}
}

func encodeIQ2XXS(dst []byte, row, importance []float32, ops *IQOps) {
	eachSuperBlock(&specIQ2XXS, dst, 66, row, importance, ops, func(dst []byte, b *gridBlock) {
		clear(dst)
		if b.zero {
			return
		}
		putHalf(dst, b.d)
		for ib := range 8 {
			q := dst[2+8*ib:]
			rest := uint32(b.scale[ib]) << 28
			for k := range 4 {
				q[k] = uint8(b.points[4*ib+k])
				rest |= uint32(b.signs[4*ib+k]&0x7f) << (7 * k)
			}
			binary.LittleEndian.PutUint32(q[4:], rest)
		}
	})
}

// IQ2_XS: half-precision scale, 32 times 16 bits with a 9-bit point and 7
// signs, and 4-bit scales of groups of 16.
func decodeIQ2XS(dst []float32, src []byte) {
	grid := gridIQ2XS()
	for ; len(src) > 0; dst, src = dst[256:], src[74:] {
		d := halfToFloat(src)
		for k := range 32 {
			q := binary.LittleEndian.Uint16(src[2+2*k:])
			scale := float32(d*(0.5+float32(src[66+k/4]>>(k/2%2*4)&15))) * 0.25
			decodePoint(dst[8*k:], grid, &iq2Levels, int(q&511), evenSigns(uint8(q>>9)), scale)
		}
	}
}

func encodeIQ2XS(dst []byte, row, importance []float32, ops *IQOps) {
	eachSuperBlock(&specIQ2XS, dst, 74, row, importance, ops, func(dst []byte, b *gridBlock) {
		clear(dst)
		if b.zero {
			return
		}
		putHalf(dst, b.d)
		for k := range 32 {
			binary.LittleEndian.PutUint16(dst[2+2*k:], b.points[k]|uint16(b.signs[k])<<9)
		}
		packNibbles(dst[66:], b.scale[:])
	})
}

// IQ2_S: half-precision scale, the low 8 bits of 32 points, 32 bytes of signs,
// the high 2 bits of the points, and 4-bit scales of groups of 16.
func decodeIQ2S(dst []float32, src []byte) {
	grid := gridIQ2S()
	for ; len(src) > 0; dst, src = dst[256:], src[82:] {
		d := halfToFloat(src)
		for k := range 32 {
			point := int(src[2+k]) | int(src[66+k/4]>>(k%4*2)&3)<<8
			scale := float32(d*(0.5+float32(src[74+k/4]>>(k/2%2*4)&15))) * 0.25
			decodePoint(dst[8*k:], grid, &iq2Levels, point, src[34+k], scale)
		}
	}
}

func encodeIQ2S(dst []byte, row, importance []float32, ops *IQOps) {
	eachSuperBlock(&specIQ2S, dst, 82, row, importance, ops, func(dst []byte, b *gridBlock) {
		clear(dst)
		for k, point := range b.points[:32] {
			dst[2+k] = uint8(point)
			dst[66+k/4] |= uint8(point>>8) << (k % 4 * 2)
			dst[34+k] = b.signs[k]
		}
		if !b.zero {
			putHalf(dst, b.d)
			packNibbles(dst[74:], b.scale[:])
		}
	})
}

// IQ3_XXS: half-precision scale, 64 bytes of points, then for each group of 32
// four bytes with 4 times 7 signs and the scale in the top 4 bits.
func decodeIQ3XXS(dst []float32, src []byte) {
	grid := gridIQ3XXS()
	for ; len(src) > 0; dst, src = dst[256:], src[98:] {
		d := halfToFloat(src)
		for ib := range 8 {
			rest := binary.LittleEndian.Uint32(src[66+4*ib:])
			scale := float32(d*(0.5+float32(rest>>28))) * 0.5
			for k := range 8 {
				signs := evenSigns(uint8(rest>>(k/2*7))) >> (k % 2 * 4)
				decodePoint(dst[32*ib+4*k:], grid, &iq3xxsLevels, int(src[2+8*ib+k]), signs, scale)
			}
		}
	}
}

func encodeIQ3XXS(dst []byte, row, importance []float32, ops *IQOps) {
	eachSuperBlock(&specIQ3XXS, dst, 98, row, importance, ops, func(dst []byte, b *gridBlock) {
		clear(dst)
		if b.zero {
			return
		}
		putHalf(dst, b.d)
		for i, point := range b.points {
			dst[2+i] = uint8(point)
		}
		for ib := range 8 {
			rest := uint32(b.scale[ib]) << 28
			for k := range 4 {
				rest |= uint32(b.signs[4*ib+k]&0x7f) << (7 * k)
			}
			binary.LittleEndian.PutUint32(dst[66+4*ib:], rest)
		}
	})
}

// IQ3_S: half-precision scale, the low 8 bits of 64 points, their ninth bits,
// 32 bytes of signs, and 4-bit scales of groups of 32, of which the odd numbers
// 2s+1 count.
func decodeIQ3S(dst []float32, src []byte) {
	grid := gridIQ3S()
	for ; len(src) > 0; dst, src = dst[256:], src[110:] {
		d := halfToFloat(src)
		for k := range 64 {
			point := int(src[2+k]) | int(src[66+k/8]>>(k%8)&1)<<8
			scale := d * float32(1+2*(src[106+k/16]>>(k/8%2*4)&15))
			decodePoint(dst[4*k:], grid, &iq3sLevels, point, src[74+k/2]>>(k%2*4), scale)
		}
	}
}

func encodeIQ3S(dst []byte, row, importance []float32, ops *IQOps) {
	eachSuperBlock(&specIQ3S, dst, 110, row, importance, ops, func(dst []byte, b *gridBlock) {
		clear(dst)
		// In ggml an empty group takes no place among the low bits and signs:
		// those after it move up, and what ends up at the end is zero.
		at := 0
		for ib := range 8 {
			if b.empty[ib] {
				continue
			}
			for k, point := range b.points[8*ib:][:8] {
				dst[2+8*at+k] = uint8(point)
				dst[66+ib] |= uint8(point>>8) << k
			}
			copy(dst[74+4*at:], b.signs[4*ib:][:4])
			at++
		}
		if !b.zero {
			putHalf(dst, b.d)
			packNibbles(dst[106:], b.scale[:8])
		}
	})
}

// eachSuperBlock searches the row's super-blocks and has put store each.
func eachSuperBlock(s *gridSpec, dst []byte, size int, row, importance []float32, ops *IQOps, put func(dst []byte, b *gridBlock)) {
	g := new(GridTrials)
	b := new(gridBlock)
	for ; len(row) > 0; row, dst = row[256:], dst[size:] {
		s.encode(b, row, importance, ops, g)
		put(dst[:size], b)
		if importance != nil {
			importance = importance[256:]
		}
	}
}

// packNibbles stores 4-bit numbers in pairs, the first in the low half.
func packNibbles(dst []byte, v []uint8) {
	for i := range len(v) / 2 {
		dst[i] = v[2*i] | v[2*i+1]<<4
	}
}
