//go:build amd64 && !purego

package kernels

import (
	"unsafe"

	"github.com/smeltgguf/smelt/quant"
)

// iqOps returns the inner loops of the IQ encoders for this CPU.
func iqOps() *quant.IQOps {
	switch {
	case hasAVX512:
		return &iqOpsAVX512
	case hasAVX2:
		return &iqOpsAVX2
	}
	return &quant.PlainIQOps
}

var iqOpsAVX2 = quant.IQOps{
	Round: func(grid *quant.Grid, g *quant.GridTrials) {
		if grid.Dim == 8 {
			gridRound8AVX2(g)
		} else {
			gridRound4AVX2(g)
		}
	},
	Nearest: func(grid *quant.Grid, g *quant.GridTrials) {
		if grid.Dim == 8 {
			gridNearest8AVX2(g, &grid.Lookup[0], &grid.Near[0])
		} else {
			gridNearest4AVX2(g, &grid.Lookup[0], &grid.Near[0])
		}
	},
	Sums: func(grid *quant.Grid, g *quant.GridTrials) {
		if grid.Dim == 8 {
			gridSums8AVX2(g)
		} else {
			gridSums4AVX2(g)
		}
	},
	IQ1Order:  iq1Order,
	IQ1Split:  func(s *quant.IQ1Split) { iq1SplitAVX2(s) },
	IQ1MSplit: func(s *quant.IQ1Split) { iq1mSplitAVX2(s) },
	IQ4Sums:   func(w *quant.IQ4Trials) { iq4SumsAVX2(w) },
	IQ4Pack:   iq4Pack,
}

var iqOpsAVX512 = quant.IQOps{
	Round: func(grid *quant.Grid, g *quant.GridTrials) {
		if grid.Dim == 8 {
			gridRound8AVX512(g)
		} else {
			gridRound4AVX512(g)
		}
	},
	Nearest: func(grid *quant.Grid, g *quant.GridTrials) {
		if grid.Dim == 8 {
			gridNearest8AVX512(g, &grid.Lookup[0], &grid.Near[0])
		} else {
			gridNearest4AVX512(g, &grid.Lookup[0], &grid.Near[0])
		}
	},
	Sums: func(grid *quant.Grid, g *quant.GridTrials) {
		if grid.Dim == 8 {
			gridSums8AVX512(g)
		} else {
			gridSums4AVX512(g)
		}
	},
	IQ1Order:  iq1Order,
	IQ1Split:  func(s *quant.IQ1Split) { iq1SplitAVX512(s) },
	IQ1MSplit: func(s *quant.IQ1Split) { iq1mSplitAVX512(s) },
	IQ4Sums:   func(w *quant.IQ4Trials) { iq4SumsAVX512(w) },
	IQ4Pack:   iq4Pack,
}

func iq1Order(order *[32]uint8, x []float32) {
	iq1OrderAVX2(order, &x[0], len(x))
}

func iq4Pack(dst []byte, x []float32, inv float32) {
	_, _ = dst[15], x[31]
	iq4PackAVX2(&dst[0], &x[0], inv)
}

// The layouts that the assembly relies on (_asm/iq/main.go): a constant index
// out of range does not compile.
const (
	_ = -(unsafe.Offsetof(quant.GridTrials{}.Weight) ^ 128)
	_ = -(unsafe.Offsetof(quant.GridTrials{}.Root) ^ 256)
	_ = -(unsafe.Offsetof(quant.GridTrials{}.Level) ^ 384)
	_ = -(unsafe.Offsetof(quant.GridTrials{}.Inv) ^ 416)
	_ = -(unsafe.Offsetof(quant.GridTrials{}.Scale) ^ 544)
	_ = -(unsafe.Offsetof(quant.GridTrials{}.Codes) ^ 672)
	_ = -(unsafe.Offsetof(quant.GridTrials{}.Off) ^ 1184)
	_ = -(unsafe.Offsetof(quant.GridTrials{}.SumQX) ^ 1216)
	_ = -(unsafe.Offsetof(quant.GridTrials{}.SumQ2) ^ 1344)
	_ = -(unsafe.Offsetof(quant.GridTrials{}.Len) ^ 1472)
	_ = -(unsafe.Offsetof(quant.GridTrials{}.Trials) ^ 1480)

	_ = -(unsafe.Offsetof(quant.IQ1Split{}.SumX) ^ 8)
	_ = -(unsafe.Offsetof(quant.IQ1Split{}.SumW) ^ 392)
	_ = -(unsafe.Offsetof(quant.IQ1Split{}.Low) ^ 776)
	_ = -(unsafe.Offsetof(quant.IQ1Split{}.High) ^ 784)
	_ = -(unsafe.Offsetof(quant.IQ1Split{}.Shift) ^ 792)
	_ = -(unsafe.Offsetof(quant.IQ1Split{}.Scale) ^ 800)

	_ = -(unsafe.Offsetof(quant.IQ4Trials{}.Weight) ^ 128)
	_ = -(unsafe.Offsetof(quant.IQ4Trials{}.Inv) ^ 256)
	_ = -(unsafe.Offsetof(quant.IQ4Trials{}.SumQX) ^ 320)
	_ = -(unsafe.Offsetof(quant.IQ4Trials{}.SumQ2) ^ 384)
)

// gridRound8, for grids of 8 levels to a code: lanes are trials t. Trials are
// rounded up to whole vectors.
//
//	for k := range g.Len / 8 {
//		for t := range g.Trials {
//			code := 0
//			for i := range 8 {
//				l := nearestInt(0.5 * (float32(g.Inv[t]*g.X[8*k+i]) - 1))
//				code |= min(max(l, 0), 2) << (2 * i)
//			}
//			g.Codes[k][t] = uint16(code)
//		}
//	}
//
//go:noescape
func gridRound8AVX2(trials *quant.GridTrials)

//go:noescape
func gridRound8AVX512(trials *quant.GridTrials)

// gridRound4, for grids of 4 levels to a code: as gridRound8 with 4 in place of
// 8, levels up to 7 and 3 bits to a level.
//
//go:noescape
func gridRound4AVX2(trials *quant.GridTrials)

//go:noescape
func gridRound4AVX512(trials *quant.GridTrials)

// gridNearest8, for grids of 8 levels to a code: lanes are neighbours.
//
//	for k := range g.Len / 8 {
//		g.Off[k] = 0
//		for t := range g.Trials {
//			at := lookup[g.Codes[k][t]]
//			if at >= 0 {
//				continue
//			}
//			g.Off[k] |= 1 << t
//			list := near[-1-at:]
//			best := float32(math.MaxFloat32)
//			g.Codes[k][t] = list[1]
//			for _, c := range list[1 : 1+list[0]] {
//				var d float32
//				for i := range 8 {
//					diff := float32(g.Scale[t]*g.Level[c>>(2*i)&3]) - g.X[8*k+i]
//					d += float32(float32(g.Root[8*k+i]*diff) * diff)
//				}
//				if d < best {
//					best, g.Codes[k][t] = d, c
//				}
//			}
//		}
//	}
//
//go:noescape
func gridNearest8AVX2(trials *quant.GridTrials, lookup *int32, near *uint16)

//go:noescape
func gridNearest8AVX512(trials *quant.GridTrials, lookup *int32, near *uint16)

// gridNearest4, for grids of 4 levels to a code: as gridNearest8 with 4 in
// place of 8 and 3 bits to a level.
//
//go:noescape
func gridNearest4AVX2(trials *quant.GridTrials, lookup *int32, near *uint16)

//go:noescape
func gridNearest4AVX512(trials *quant.GridTrials, lookup *int32, near *uint16)

// gridSums8, for grids of 8 levels to a code: lanes are trials t. Trials are
// rounded up to whole vectors.
//
//	for t := range g.Trials {
//		var sumqx, sumq2 float32
//		for i := range g.Len {
//			q := float32(2*(g.Codes[i/8][t]>>(i%8*2)&3) + 1)
//			sumqx += float32(float32(g.Weight[i]*g.X[i]) * q)
//			sumq2 += float32(float32(g.Weight[i]*q) * q)
//		}
//		g.SumQX[t], g.SumQ2[t] = sumqx, sumq2
//	}
//
//go:noescape
func gridSums8AVX2(trials *quant.GridTrials)

//go:noescape
func gridSums8AVX512(trials *quant.GridTrials)

// gridSums4, for grids of 4 levels to a code: as gridSums8 with 4 in place of 8
// and 3 bits to a level.
//
//go:noescape
func gridSums4AVX2(trials *quant.GridTrials)

//go:noescape
func gridSums4AVX512(trials *quant.GridTrials)

// iq1OrderAVX2, for n a multiple of 8, at most 32: lanes are i.
//
//	for i := range n {
//		rank := 0
//		for j := range n {
//			if x[j] < x[i] || x[j] == x[i] && j < i {
//				rank++
//			}
//		}
//		order[rank] = uint8(i)
//	}
//
//go:noescape
func iq1OrderAVX2(order *[32]uint8, x *float32, n int)

// iq1Split: lanes are upper bounds; plus and minus are the levels -1, 0 and 1
// moved up and down by 1/8.
//
//	best := float32(-math.MaxFloat32)
//	s.Low = -1
//	for low := 0; low <= 32; low++ {
//		for high := low; high <= 32; high++ {
//			x := [3]float32{s.SumX[0][low], s.SumX[0][high] - s.SumX[0][low], s.SumX[0][32] - s.SumX[0][high]}
//			w := [3]float32{s.SumW[0][low], s.SumW[0][high] - s.SumW[0][low], s.SumW[0][32] - s.SumW[0][high]}
//			for shift, q := range [2][3]float32{plus, minus} {
//				sumqx := x[0]*q[0] + x[1]*q[1] + x[2]*q[2]
//				sumq2 := w[0]*q[0]*q[0] + w[1]*q[1]*q[1] + w[2]*q[2]*q[2]
//				if sumq2 > 0 && sumqx*sumqx > best*sumq2 {
//					s.Scale = sumqx / sumq2
//					best = s.Scale * sumqx
//					s.Low, s.High, s.Shift = low, high, shift
//				}
//			}
//		}
//	}
//
//go:noescape
func iq1SplitAVX2(s *quant.IQ1Split)

//go:noescape
func iq1SplitAVX512(s *quant.IQ1Split)

// iq1mSplit: lanes are upper bounds; q is plus or minus by shift, as above.
//
//	best := float32(-math.MaxFloat32)
//	s.Low = -1
//	for low := 0; low <= 16; low++ {
//		for high := low; high <= 16; high++ {
//			var qx, q2 [2][2]float32 // by half and shift
//			for h := range 2 {
//				for shift, q := range [2][3]float32{plus, minus} {
//					qx[h][shift] = s.SumX[h][16]*q[2] - (s.SumX[h][low] + s.SumX[h][high])
//					q2[h][shift] = s.SumW[h][16]*q[2]*q[2] +
//						s.SumW[h][low]*(q[0]*q[0]-q[1]*q[1]) + s.SumW[h][high]*(q[1]*q[1]-q[2]*q[2])
//				}
//			}
//			for shift := range 4 {
//				sumqx := qx[0][shift>>1] + qx[1][shift&1]
//				sumq2 := q2[0][shift>>1] + q2[1][shift&1]
//				if sumq2 > 0 && sumqx*sumqx > best*sumq2 {
//					s.Scale = sumqx / sumq2
//					best = s.Scale * sumqx
//					s.Low, s.High, s.Shift = low, high, shift
//				}
//			}
//		}
//	}
//
//go:noescape
func iq1mSplitAVX2(s *quant.IQ1Split)

//go:noescape
func iq1mSplitAVX512(s *quant.IQ1Split)

// iq4Sums: lanes are trials t.
//
//	for t := range w.Inv {
//		var sumqx, sumq2 float32
//		for j, v := range w.X {
//			q := levels[nearest(w.Inv[t]*v)]
//			sumqx += float32(float32(w.Weight[j]*q) * v)
//			sumq2 += float32(float32(w.Weight[j]*q) * q)
//		}
//		w.SumQX[t], w.SumQ2[t] = sumqx, sumq2
//	}
//
//go:noescape
func iq4SumsAVX2(w *quant.IQ4Trials)

//go:noescape
func iq4SumsAVX512(w *quant.IQ4Trials)

// iq4PackAVX2: lanes are elements.
//
//	for j := range 16 {
//		dst[j] = nearest(inv*x[j]) | nearest(inv*x[j+16])<<4
//	}
//
//go:noescape
func iq4PackAVX2(dst *byte, x *float32, inv float32)
