package quant

import "math"

// The IQ types store small vectors of weights as indices into a codebook (IQ1,
// IQ2, IQ3) or weights as indices into a table of unevenly spaced levels (IQ4).
// Their encoders are searches. The files iq1.go, iq23.go and iq4.go have the
// layouts and the order of the search; its inner loops are functions in an
// IQOps, so that package kernels can run the same encoders on faster ones.

// RequiresImportance reports whether the encoder of t cannot do without
// importance: Encode panics where it is nil (ggml.c,
// ggml_quantize_requires_imatrix). A recipe may well demand it for more types.
func (t Type) RequiresImportance() bool {
	return t == IQ2_XXS || t == IQ2_XS || t == IQ1_S
}

// IQOps are the inner loops of the IQ encoders. Any implementation gives
// exactly the results of PlainIQOps, bit by bit.
type IQOps struct {
	// Round sets g.Codes[k][t] for each of the g.Len/grid.Dim sub-groups k and
	// trials t to the levels nearest to g.Inv[t] times the sub-group's values.
	Round func(grid *Grid, g *GridTrials)

	// Nearest replaces each code that is no point of the grid by the first one
	// among its neighbours that has the least weighted distance to the
	// sub-group's values at scale g.Scale[t], and sets g.Off[k] to the trials
	// for which it did so, one bit each.
	Nearest func(grid *Grid, g *GridTrials)

	// Sums sets g.SumQX[t] and g.SumQ2[t] from g.Codes, with the levels 2l+1.
	Sums func(grid *Grid, g *GridTrials)

	// IQ1Order sorts: order[j] becomes the index of the j-th smallest of the 16
	// or 32 numbers in x, and of equal ones the first comes first.
	IQ1Order func(order *[32]uint8, x []float32)

	// IQ1Split finds the best split of a block of 32 for IQ1_S, IQ1MSplit that
	// of a block of 16 for IQ1_M.
	IQ1Split  func(s *IQ1Split)
	IQ1MSplit func(s *IQ1Split)

	// IQ4Sums sets the sums of w. IQ4Pack stores in dst[:16] the levels
	// nearest to inv times the 32 elements of x.
	IQ4Sums func(w *IQ4Trials)
	IQ4Pack func(dst []byte, x []float32, inv float32)
}

// PlainIQOps are the inner loops in plain Go.
var PlainIQOps = IQOps{
	Round:     gridRound,
	Nearest:   gridNearest,
	Sums:      gridSums,
	IQ1Order:  iq1Order,
	IQ1Split:  iq1Split,
	IQ1MSplit: iq1mSplit,
	IQ4Sums:   iq4Sums,
	IQ4Pack:   iq4Pack,
}

// EncodeIQ is Encode for the IQ types with the inner loops in ops.
func EncodeIQ(t Type, dst []byte, row, importance []float32, ops *IQOps) {
	checkEncode(t, dst, row, importance)
	iqEncoders[t](dst, row, importance, ops)
}

// iqEncoders has the encoders of the IQ types, nil for other types.
var iqEncoders = [numTypes]func(dst []byte, row, importance []float32, ops *IQOps){
	IQ1_S:   encodeIQ1S,
	IQ1_M:   encodeIQ1M,
	IQ2_XXS: encodeIQ2XXS,
	IQ2_XS:  encodeIQ2XS,
	IQ2_S:   encodeIQ2S,
	IQ3_XXS: encodeIQ3XXS,
	IQ3_S:   encodeIQ3S,
	IQ4_NL:  encodeIQ4NL,
	IQ4_XS:  encodeIQ4XS,
}

// plainIQ returns the encoder of t that runs on PlainIQOps.
func plainIQ(t Type) func(dst []byte, row, importance []float32) {
	return func(dst []byte, row, importance []float32) {
		iqEncoders[t](dst, row, importance, &PlainIQOps)
	}
}

// GridTrials is the working storage of the search for the codes of a group:
// Len elements in sub-groups of one code each, and a number of trials, which
// differ in scale. Sub-group k of a grid of dimension n has elements k*n to
// k*n+n-1.
type GridTrials struct {
	X      [32]float32 // values to be represented
	Weight [32]float32 // weight of each in the sums
	Root   [32]float32 // weight of each in the distance to a point
	Level  [8]float32  // for Nearest: what a level stands for, times the scale

	Inv   [32]float32 // by trial: what X is multiplied with to find the levels
	Scale [32]float32 // by trial: the scale for distances

	Codes [8][32]uint16 // by sub-group and trial
	Off   [8]uint32     // by sub-group: the trials whose code came from Nearest
	SumQX [32]float32   // by trial: weighted sum of level times value
	SumQ2 [32]float32   // by trial: weighted sum of level squared

	Len    int // elements: 8, 16 or 32
	Trials int // at most 32
}

func gridRound(grid *Grid, g *GridTrials) {
	top := 1<<grid.Bits - 1
	if grid.Bits == 2 {
		top = 2
	}
	for k := range g.Len / grid.Dim {
		x := g.X[k*grid.Dim:][:grid.Dim]
		for t, inv := range g.Inv[:g.Trials] {
			var code uint16
			for i, v := range x {
				l := nearestInt(0.5 * (float32(inv*v) - 1))
				code |= uint16(min(max(l, 0), top)) << (grid.Bits * i)
			}
			g.Codes[k][t] = code
		}
	}
}

func gridNearest(grid *Grid, g *GridTrials) {
	for k := range g.Len / grid.Dim {
		x, root := g.X[k*grid.Dim:][:grid.Dim], g.Root[k*grid.Dim:][:grid.Dim]
		g.Off[k] = 0
		for t, scale := range g.Scale[:g.Trials] {
			at := grid.Lookup[g.Codes[k][t]]
			if at >= 0 {
				continue
			}
			g.Off[k] |= 1 << t

			// The terms a distance is made of.
			var term [8][8]float32
			for i, v := range x {
				for l := range 1 << grid.Bits {
					diff := float32(scale*g.Level[l]) - v
					term[i][l] = float32(root[i]*diff) * diff
				}
			}
			near := grid.Near[-1-at:]
			list := near[1 : 1+near[0]]
			best, code := float32(math.MaxFloat32), list[0]
			if grid.Bits == 2 {
				for _, c := range list {
					d := term[0][c&3] + term[1][c>>2&3] + term[2][c>>4&3] + term[3][c>>6&3] +
						term[4][c>>8&3] + term[5][c>>10&3] + term[6][c>>12&3] + term[7][c>>14]
					if d < best {
						best, code = d, c
					}
				}
			} else {
				for _, c := range list {
					d := term[0][c&7] + term[1][c>>3&7] + term[2][c>>6&7] + term[3][c>>9&7]
					if d < best {
						best, code = d, c
					}
				}
			}
			g.Codes[k][t] = code
		}
	}
}

func gridSums(grid *Grid, g *GridTrials) {
	for t := range g.Trials {
		var sumqx, sumq2 float32
		for i := range g.Len {
			q := float32(2*grid.level(g.Codes[i/grid.Dim][t], i%grid.Dim) + 1)
			w := g.Weight[i]
			sumqx += float32(float32(w*g.X[i]) * q)
			sumq2 += float32(float32(w*q) * q)
		}
		g.SumQX[t], g.SumQ2[t] = sumqx, sumq2
	}
}
