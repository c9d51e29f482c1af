package quant

import (
	"encoding/binary"
	"math"

	"github.com/x448/float16"
)

// IQ1_S and IQ1_M store three levels, -1, 0 and 1, all shifted up or down by
// one eighth (ggml-common.h, IQ1S_DELTA): a shift per group of 32 in IQ1_S, per
// 8 elements in IQ1_M.
const iq1Delta = 0.125

var (
	iq1Plus  = [8]float32{-1 + iq1Delta, iq1Delta, 1 + iq1Delta}
	iq1Minus = [8]float32{-1 - iq1Delta, -iq1Delta, 1 - iq1Delta}
)

func iq1Levels(plus bool) *[8]float32 {
	if plus {
		return &iq1Plus
	}
	return &iq1Minus
}

// decodeIQ1S reads super-blocks of 256: a half-precision scale, the low 8 bits
// of 32 points, then for each group of 32 two bytes with the high 3 bits of its
// four points, a 3-bit scale and the shift's sign.
func decodeIQ1S(dst []float32, src []byte) {
	grid := gridIQ1()
	for ; len(src) > 0; dst, src = dst[256:], src[50:] {
		d := halfToFloat(src)
		for ib := range 8 {
			high := binary.LittleEndian.Uint16(src[34+2*ib:])
			scale := d * float32(2*(high>>12&7)+1)
			levels := iq1Levels(high&0x8000 == 0)
			for k := range 4 {
				point := int(src[2+4*ib+k]) | int(high>>(3*k)&7)<<8
				decodePoint(dst[32*ib+8*k:], grid, levels, point, 0, scale)
			}
		}
	}
}

// decodeIQ1M reads super-blocks of 256: the low 8 bits of 32 points, a nibble
// for each with the high 3 bits and the shift's sign, then four times 16 bits
// with four 3-bit scales of groups of 16, their top nibbles together being the
// half-precision scale.
func decodeIQ1M(dst []float32, src []byte) {
	grid := gridIQ1()
	for ; len(src) > 0; dst, src = dst[256:], src[56:] {
		var half uint16
		for i := range 4 {
			half |= binary.LittleEndian.Uint16(src[48+2*i:]) >> 12 << (4 * i)
		}
		d := float16.Frombits(half).Float32()
		for k := range 32 {
			scales := binary.LittleEndian.Uint16(src[48+k/8*2:])
			scale := d * float32(2*(scales>>(k/2%4*3)&7)+1)
			high := src[32+k/2] >> (k % 2 * 4)
			point := int(src[k]) | int(high&7)<<8
			decodePoint(dst[8*k:], grid, iq1Levels(high&8 == 0), point, 0, scale)
		}
	}
}

// An IQ1Split is a block in the search for IQ1's levels. With only three
// levels, the optimum without a codebook is among the splits of the sorted
// values into three runs: the first Low values get level 0, the next ones up to
// High level 1, the rest level 2. Running sums make each split a matter of a
// few operations.
type IQ1Split struct {
	Len int // 32 for IQ1_S, 16 for IQ1_M

	// SumX[h][j] is the sum of weight times value over the first j of the
	// sorted values, SumW[h][j] that of the weights. In IQ1_M there is one for
	// each half h of the block, as each half has its own shift. Entries beyond
	// Len are NaN: the idle lanes of a vector never win.
	SumX, SumW [2][48]float32

	// Results: the split, its scale and the choice of shifts. Low is -1 where
	// no split is any good. Shift is 0 for plus and 1 for minus in IQ1_S; in
	// IQ1_M bit 1 is set for minus in the first half, bit 0 in the second.
	Low, High, Shift int
	Scale            float32
}

// iq1Order stores the order of the values of x, equal ones as they come.
func iq1Order(order *[32]uint8, x []float32) {
	for i, v := range x {
		j := i
		for ; j > 0 && v < x[order[j-1]]; j-- {
			order[j] = order[j-1]
		}
		order[j] = uint8(i)
	}
}

// iq1Split tries all splits with both shifts.
func iq1Split(s *IQ1Split) {
	const n = 32
	sumx, sumw := &s.SumX[0], &s.SumW[0]
	best := float32(-math.MaxFloat32)
	s.Low = -1
	for low := 0; low <= n; low++ {
		for high := low; high <= n; high++ {
			x0, x1, x2 := sumx[low], sumx[high]-sumx[low], sumx[n]-sumx[high]
			w0, w1, w2 := sumw[low], sumw[high]-sumw[low], sumw[n]-sumw[high]
			for shift, q := range [2]*[8]float32{&iq1Plus, &iq1Minus} {
				sumqx := float32(x0*q[0]) + float32(x1*q[1]) + float32(x2*q[2])
				sumq2 := float32(float32(w0*q[0])*q[0]) + float32(float32(w1*q[1])*q[1]) + float32(float32(w2*q[2])*q[2])
				if sumq2 > 0 && float32(sumqx*sumqx) > float32(best*sumq2) {
					s.Scale = sumqx / sumq2
					best = s.Scale * sumqx
					s.Low, s.High, s.Shift = low, high, shift
				}
			}
		}
	}
}

// iq1mSplit tries all splits with the four pairs of shifts. As levels are 1
// apart, a half's weighted sum of level times value is its total at the highest
// level less the running sums at the two bounds; that of level squared is made
// up likewise with the differences of the levels' squares.
func iq1mSplit(s *IQ1Split) {
	const n = 16
	var topx, topw, step1, step2 [2][2]float32 // by half and shift
	for h := range 2 {
		for shift, q := range [2]*[8]float32{&iq1Plus, &iq1Minus} {
			topx[h][shift] = float32(s.SumX[h][n] * q[2])
			topw[h][shift] = float32(s.SumW[h][n] * q[2] * q[2])
			step1[h][shift] = float32(q[0]*q[0]) - float32(q[1]*q[1])
			step2[h][shift] = float32(q[1]*q[1]) - float32(q[2]*q[2])
		}
	}
	best := float32(-math.MaxFloat32)
	s.Low = -1
	for low := 0; low <= n; low++ {
		for high := low; high <= n; high++ {
			var qx, q2 [2][2]float32
			for h := range 2 {
				below := s.SumX[h][low] + s.SumX[h][high]
				for shift := range 2 {
					qx[h][shift] = topx[h][shift] - below
					q2[h][shift] = topw[h][shift] + float32(s.SumW[h][low]*step1[h][shift]) + float32(s.SumW[h][high]*step2[h][shift])
				}
			}
			for shift := range 4 {
				sumqx := qx[0][shift>>1] + qx[1][shift&1]
				sumq2 := q2[0][shift>>1] + q2[1][shift&1]
				if sumq2 > 0 && float32(sumqx*sumqx) > float32(best*sumq2) {
					s.Scale = sumqx / sumq2
					best = s.Scale * sumqx
					s.Low, s.High, s.Shift = low, high, shift
				}
			}
		}
	}
}

// iq1Group is the search for one group's codes, the same for IQ1_S (32
// elements) and IQ1_M (16) but for how many shifts there are.
type iq1Group struct {
	trials GridTrials
	split  IQ1Split

	points [4]uint16 // results
	minus  [4]bool   // for each point
	scale  float32
}

// newIQ1Group returns the storage for groups of n elements.
func newIQ1Group(n int) *iq1Group {
	g := new(iq1Group)
	g.split.Len = n
	for h := range g.split.SumX {
		for j := n + 1; j < len(g.split.SumX[h]); j++ {
			g.split.SumX[h][j] = float32(math.NaN())
			g.split.SumW[h][j] = float32(math.NaN())
		}
	}
	return g
}

// iq1Share tells by half of a block of 16 in which of the two sums it counts.
var iq1Share = [4][2]float32{{1, 0}, {0, 1}}

// search finds the group's points. perPoint says that there is a shift for
// each of two points. It reports false where the group counts as zero. The
// weights are in g.trials.Weight.
func (g *iq1Group) search(x []float32, eps float32, perPoint bool, ops *IQOps) bool {
	weight := g.trials.Weight[:len(x)]
	largest := abs32(x[0])
	for _, v := range x[1:] {
		if a := abs32(v); a > largest {
			largest = a
		}
	}
	if largest < eps {
		return false
	}

	var order [32]uint8
	ops.IQ1Order(&order, x)
	s := &g.split
	var sumx, sumw [2]float32
	for j, i := range order[:len(x)] {
		// A factor of 0 leaves a half's sum as it is; a branch would be taken
		// at random.
		share := [2]float32{1, 0}
		if perPoint {
			share = iq1Share[i/8]
		}
		wx, w := float32(weight[i]*x[i]), weight[i]
		for h := range share {
			sumx[h] += float32(share[h] * wx)
			sumw[h] += float32(share[h] * w)
			s.SumX[h][j+1], s.SumW[h][j+1] = sumx[h], sumw[h]
		}
	}
	if perPoint {
		ops.IQ1MSplit(s)
	} else {
		ops.IQ1Split(s)
	}
	if s.Low < 0 {
		return false
	}
	scale, shift := s.Scale, s.Shift
	for k := range g.minus {
		g.minus[k] = shift&1 != 0
	}
	if perPoint {
		g.minus[0] = shift>>1 != 0
	}
	codes := [4]uint16{0x5555, 0x5555, 0x5555, 0x5555} // all at level 1
	low, high := uint16(0^1), uint16(2^1)
	if scale < 0 {
		low, high = high, low
	}
	for _, i := range order[:s.Low] {
		codes[i/8] ^= low << (i % 8 * 2)
	}
	for _, i := range order[s.High:len(x)] {
		codes[i/8] ^= high << (i % 8 * 2)
	}
	if scale < 0 {
		scale = -scale
		for k := range g.minus {
			g.minus[k] = !g.minus[k]
		}
	}

	grid := gridIQ1()
	moved := false
	t := &g.trials
	t.Trials, t.Len, t.Scale[0] = 1, 8, scale
	for k := range len(x) / 8 {
		if grid.Lookup[codes[k]] < 0 {
			moved = true
			copy(t.X[:8], x[8*k:])
			copy(t.Root[:8], weight[8*k:])
			t.Level = *iq1Levels(!g.minus[k])
			t.Codes[0][0] = codes[k]
			ops.Nearest(grid, t)
			codes[k] = t.Codes[0][0]
		}
		g.points[k] = uint16(grid.Lookup[codes[k]])
	}
	if moved {
		var sumqx, sumq2 float32
		for i, v := range x {
			q := iq1Levels(!g.minus[i/8])[grid.level(codes[i/8], i%8)]
			wq := weight[i] * q
			sumqx += float32(wq * v)
			sumq2 += float32(wq * q)
		}
		if sumqx > 0 && sumq2 > 0 {
			scale = sumqx / sumq2
		}
	}
	g.scale = scale
	return true
}

// iq1Sigma returns twice the mean square of the super-block x.
func iq1Sigma(x []float32) float32 {
	var sumx2 float32
	for _, v := range x[:256] {
		sumx2 += float32(v * v)
	}
	return float32(2 * sumx2 / 256)
}

func encodeIQ1S(dst []byte, row, importance []float32, ops *IQOps) {
	g := newIQ1Group(32)
	for ; len(row) > 0; row, importance, dst = row[256:], importance[256:], dst[50:] {
		clear(dst[:50])
		sigma2 := iq1Sigma(row)
		var scales [8]float32
		var high [8]uint16
		var maxScale float32
		for ib := range scales {
			x := row[32*ib:][:32]
			for i, v := range x {
				g.trials.Weight[i] = importance[32*ib+i] * sqrt32(sigma2+float32(v*v))
			}
			if !g.search(x, 1e-12, false, ops) {
				continue
			}
			for k, point := range g.points {
				dst[2+4*ib+k] = uint8(point)
				high[ib] |= point >> 8 << (3 * k)
			}
			if g.minus[0] {
				high[ib] |= 0x8000
			}
			scales[ib] = g.scale
			maxScale = max(maxScale, g.scale)
		}
		if maxScale > 0 {
			d := maxScale / 15
			putHalf(dst, d*1.125)
			id := 1 / d
			for ib, scale := range scales {
				l := min(max(nearestInt(0.5*(float32(id*scale)-1)), 0), 7)
				high[ib] |= uint16(l) << 12
			}
		}
		for ib, h := range high {
			if maxScale == 0 {
				h &= 0x0fff
			}
			binary.LittleEndian.PutUint16(dst[34+2*ib:], h)
		}
	}
}

func encodeIQ1M(dst []byte, row, importance []float32, ops *IQOps) {
	g := newIQ1Group(16)
	for ; len(row) > 0; row, dst = row[256:], dst[56:] {
		clear(dst[:56])
		sigma2 := iq1Sigma(row)
		var weight [256]float32
		for i, v := range row[:256] {
			weight[i] = float32(v * v)
			if importance != nil {
				weight[i] = importance[i] * sqrt32(sigma2+float32(v*v))
			}
		}
		var scales [16]float32
		var signs [16]uint8
		var maxScale float32
		for ib := range scales {
			copy(g.trials.Weight[:16], weight[16*ib:])
			if !g.search(row[16*ib:][:16], 1e-7, true, ops) {
				continue
			}
			dst[2*ib], dst[2*ib+1] = uint8(g.points[0]), uint8(g.points[1])
			dst[32+ib] = uint8(g.points[0]>>8 | g.points[1]>>8<<4)
			if g.minus[0] {
				signs[ib] |= 0x08
			}
			if g.minus[1] {
				signs[ib] |= 0x80
			}
			scales[ib] = g.scale
			maxScale = max(maxScale, g.scale)
		}
		if importance != nil {
			importance = importance[256:]
		}
		if maxScale == 0 {
			continue
		}

		// With the groups' scales rounded, the super-block's can be fitted.
		grid := gridIQ1()
		d := maxScale / 15
		id := 1 / d
		var packed [4]uint16
		var sumqx, sumq2 float32
		for ib, scale := range scales {
			l := min(max(nearestInt(0.5*(float32(id*scale)-1)), 0), 7)
			packed[ib/4] |= uint16(l) << (ib % 4 * 3)
			for k := range 2 {
				code := grid.Codes[int(dst[2*ib+k])|int(dst[32+ib]>>(4*k)&7)<<8]
				levels := iq1Levels(signs[ib]>>(4*k)&8 == 0)
				for i := range 8 {
					j := 16*ib + 8*k + i
					q := levels[grid.level(code, i)] * float32(2*l+1)
					wq := weight[j] * q
					sumqx += float32(wq * row[j])
					sumq2 += float32(wq * q)
				}
			}
			dst[32+ib] |= signs[ib]
		}
		if sumq2 > 0 {
			d = sumqx / sumq2
		}
		half := float16.Fromfloat32(d * 1.1125).Bits()
		for i := range packed {
			binary.LittleEndian.PutUint16(dst[48+2*i:], packed[i]|half>>(4*i)<<12)
		}
	}
}
