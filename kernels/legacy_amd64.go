//go:build !purego

package kernels

import "github.com/smeltgguf/smelt/quant"

// encodeWeighted is quant.Encode with importance for Q4_0, Q4_1, Q5_0 and Q5_1:
// the search of scales with one block per SIMD lane.
func encodeWeighted(t quant.Type, dst []byte, row, importance []float32) {
	s := kScratches.Get().(*kScratch)
	defer kScratches.Put(s)
	g := &s.groups
	const n = 32
	var sum float32
	for _, v := range row {
		sum += float32(v * v)
	}
	sigma2 := sum / float32(len(row))
	for j := range g.sigma2 {
		g.sigma2[j] = sigma2
	}
	size := t.BlockSize()
	for len(row) > 0 {
		count := min(16*n, len(row))
		transposeGroups(&g.w, s.pad(importance[:count], 16*n), n)
		transposeGroups(&g.x, s.pad(row[:count], 16*n), n)
		g.weightsImportance(n)
		var half, top int
		switch t {
		case quant.Q4_0:
			half = 8
			g.fitSigned(n, half, trials8)
		case quant.Q5_0:
			half = 16
			g.fitSigned(n, half, trials16)
		case quant.Q4_1:
			top = 15
			g.fitAffine(n, importanceTrials[top])
		case quant.Q5_1:
			top = 31
			g.fitAffine(n, importanceTrials[top])
		}
		for b := range count / n {
			x := row[n*b:][:n]
			var levels [n]uint8
			switch {
			case half == 0:
				if g.wild[b] != 0 {
					g.fitPlain(b, top, x)
				}
				levelsMultiply(&levels, x, 0, top, g.inv[b], g.base[b])
			case g.inv[b] != 0: // else a block of zeros
				levelsMultiply(&levels, x, -half, half-1, g.inv[b], 0)
			}
			quant.PutLevels(t, dst[size*b:][:size], &levels, g.scale[b], -g.negMin[b])
		}
		row, importance, dst = row[count:], importance[count:], dst[size*count/n:]
	}
}

// fitPlain is fitAffine for column b alone, whose elements are x.
func (g *groups) fitPlain(b, top int, x []float32) {
	var w [32]float32
	for i := range w {
		w[i] = g.w[i][b]
	}
	fit := quant.FitAffine(importanceTrials[top], x, w[:])
	g.scale[b], g.negMin[b], g.inv[b], g.base[b] = fit.Scale, fit.NegMin, fit.Inv, fit.Base
}

var trials8, trials16 = quant.SignedTrials(8), quant.SignedTrials(16)

// importanceTrials are those of Q4_1 and Q5_1, by highest level.
var importanceTrials = func() map[int]*quant.AffineTrials {
	t15, t31 := quant.ImportanceTrials(15), quant.ImportanceTrials(31)
	return map[int]*quant.AffineTrials{15: &t15, 31: &t31}
}()
