package quant

// The searches for scales and levels that the quantized types share. Each does
// the float32 operations of its counterpart in ggml-quants.c in the same order,
// which is what makes the bytes equal.

// tooSmall is the magnitude below which a group counts as all zero.
const tooSmall = 1e-15

// SignedTrials returns what fitSigned tries besides -half, divided by the
// element of largest magnitude, as the inverse of the scale.
func SignedTrials(half int) []float32 {
	var trials []float32
	for step := -9; step <= 9; step++ {
		if step != 0 {
			trials = append(trials, -(float32(half) + float32(float32(0.1)*float32(step))))
		}
	}
	return trials
}

var signedTrials = map[int][]float32{4: SignedTrials(4), 8: SignedTrials(8), 16: SignedTrials(16), 32: SignedTrials(32)}

// fitSigned finds a scale such that levels l in [-half, half) times scale
// represent x with little weighted squared error: it tries the scale that gives
// the largest element the level -half, and 18 others around it
// (make_qx_quants). The levels are x times inv, rounded; scale and inv are 0 for a group
// of zeros.
func fitSigned(half int, x, weight []float32) (scale, inv float32) {
	largest, magnitude := extreme(x)
	if magnitude < tooSmall {
		return 0, 0
	}
	sums := func(inv float32) (sumlx, suml2 float32) {
		for i, v := range x {
			l := float32(signedLevel(half, inv*v))
			sumlx += float32(float32(weight[i]*v) * l)
			suml2 += float32(float32(weight[i]*l) * l)
		}
		return sumlx, suml2
	}
	inv = float32(-half) / largest
	sumlx, suml2 := sums(inv)
	if suml2 != 0 {
		scale = sumlx / suml2
	}
	best := scale * sumlx
	for _, num := range signedTrials[half] {
		trial := num / largest
		sumlx, suml2 := sums(trial)
		if suml2 > 0 && float32(sumlx*sumlx) > float32(best*suml2) {
			inv = trial
			scale = sumlx / suml2
			best = scale * sumlx
		}
	}
	return scale, inv
}

// signedLevels stores the levels that fitSigned found, plus half; those of a
// group of zeros are 0.
func signedLevels(half int, levels []uint8, x []float32, inv float32) {
	if _, magnitude := extreme(x); magnitude < tooSmall {
		clear(levels[:len(x)])
		return
	}
	for i, v := range x {
		levels[i] = uint8(half + signedLevel(half, inv*v))
	}
}

// signedLevel rounds v to a level in [-half, half).
func signedLevel(half int, v float32) int {
	return max(-half, min(half-1, nearestInt(v)))
}

// fitSignedGreedy is the search of Q3_K without importance (make_q3_quants):
// weights are squares, and from the scale that gives the largest element the
// level -half, up to five rounds move single levels where that helps. It stores
// l+half, except for a group of zeros, whose levels are 0, and returns the
// scale.
func fitSignedGreedy(half int, levels []uint8, x []float32) float32 {
	largest, magnitude := extreme(x)
	if magnitude < tooSmall {
		clear(levels[:len(x)])
		return 0
	}
	inv := float32(-half) / largest
	var sumlx, suml2 float32
	for i, v := range x {
		l := signedLevel(half, inv*v)
		levels[i] = uint8(l + half)
		w := float32(v * v)
		sumlx += float32(float32(w*v) * float32(l))
		suml2 += float32(float32(w*float32(l)) * float32(l))
	}
	for range 5 {
		changed := false
		for i, v := range x {
			w := float32(v * v)
			old := float32(int(levels[i]) - half)
			slx := sumlx - float32(float32(w*v)*old)
			if !(slx > 0) {
				continue
			}
			sl2 := suml2 - float32(float32(w*old)*old)
			l := signedLevel(half, float32(v*sl2)/slx)
			if l == int(levels[i])-half {
				continue
			}
			slx += float32(float32(w*v) * float32(l))
			sl2 += float32(float32(w*float32(l)) * float32(l))
			if sl2 > 0 && float32(float32(slx*slx)*suml2) > float32(float32(sumlx*sumlx)*sl2) {
				levels[i] = uint8(l + half)
				sumlx, suml2 = slx, sl2
				changed = true
			}
		}
		if !changed {
			break
		}
	}
	if suml2 > 0 {
		return sumlx / suml2
	}
	return 0
}

// AffineTrials says what FitAffine tries.
type AffineTrials struct {
	Top        float32   // the highest level
	Numerators []float32 // divided by the range, the inverse scales
	Absolute   bool      // errors are absolute, not squares
}

// affineTrials lists top+first, top+first+step ...
func affineTrials(top int, first, step float32, steps int) AffineTrials {
	t := AffineTrials{Top: float32(top)}
	for i := range steps + 1 {
		t.Numerators = append(t.Numerators, first+float32(step*float32(i))+t.Top)
	}
	return t
}

// ImportanceTrials is what all types try that have an importance matrix.
func ImportanceTrials(top int) AffineTrials { return affineTrials(top, -0.9, 0.05, 36) }

// An AffineFit is what FitAffine finds: levels are x-Base times Inv, rounded,
// and Scale times the level less NegMin is near x.
type AffineFit struct{ Scale, NegMin, Inv, Base float32 }

// FitAffine finds a scale, a minimum not above 0 and levels in [0, t.Top] that
// represent x with little weighted error: for several inverse scales it
// rounds, then solves for the best scale and minimum of those levels
// (make_qkx2_quants, make_qkx3_quants). An improved minimum is the base of the
// trials that follow. x has at most 32 elements.
func FitAffine(t *AffineTrials, x, weight []float32) AffineFit {
	minimum, highest := x[0], x[0]
	sumw := weight[0]
	sumx := sumw * x[0]
	for i := 1; i < len(x); i++ {
		if x[i] < minimum {
			minimum = x[i]
		}
		if x[i] > highest {
			highest = x[i]
		}
		sumw += weight[i]
		sumx += float32(weight[i] * x[i])
	}
	if minimum > 0 {
		minimum = 0
	}
	if highest <= minimum {
		return AffineFit{NegMin: -minimum, Base: minimum}
	}
	top := int(t.Top)
	var space [32]float32
	levels := space[:len(x)]
	round := func(inv float32) {
		for i, v := range x {
			levels[i] = float32(affineLevel(top, inv, v-minimum))
		}
	}
	misfit := func(scale, minimum float32) (sum float32) {
		for i, v := range x {
			diff := float32(scale*levels[i]) + minimum - v
			if t.Absolute {
				diff = abs32(diff)
			} else {
				diff *= diff
			}
			sum += float32(weight[i] * diff)
		}
		return sum
	}

	inv := t.Top / (highest - minimum)
	fit := AffineFit{Scale: 1 / inv, Inv: inv, Base: minimum}
	round(inv)
	least := misfit(fit.Scale, minimum)
	for _, num := range t.Numerators {
		inv := num / (highest - minimum)
		round(inv)
		var suml, suml2, sumxl float32
		for i, v := range x {
			wl := float32(weight[i] * levels[i])
			suml += wl
			suml2 += float32(wl * levels[i])
			sumxl += float32(wl * v)
		}
		det := float32(sumw*suml2) - float32(suml*suml)
		if !(det > 0) {
			continue
		}
		trialScale := (float32(sumw*sumxl) - float32(sumx*suml)) / det
		trialMin := (float32(suml2*sumx) - float32(suml*sumxl)) / det
		if trialMin > 0 {
			trialMin = 0
			trialScale = sumxl / suml2
		}
		if sum := misfit(trialScale, trialMin); sum < least {
			least = sum
			fit.Scale, fit.Inv, fit.Base = trialScale, inv, minimum
			minimum = trialMin
		}
	}
	fit.NegMin = -minimum
	return fit
}

func affineLevel(top int, inv, v float32) int { return max(0, min(top, nearestInt(inv*v))) }

// affineLevels stores the levels that FitAffine found.
func affineLevels(top int, levels []uint8, x []float32, inv, base float32) {
	for i, v := range x {
		levels[i] = uint8(affineLevel(top, inv, v-base))
	}
}

// fitUnsigned finds a scale and levels l in [0, top] so that l*scale represents
// x with little weighted squared error: the best of nine scales, then up to
// five rounds in which each level moves where that helps (make_qp_quants). It
// stores the levels and returns the scale. A negative x gives a level that
// wraps around, as in ggml.
func fitUnsigned(top int, levels []uint8, x, weight []float32) float32 {
	var largest float32
	for _, v := range x {
		if v > largest {
			largest = v
		}
	}
	if largest < tooSmall {
		clear(levels[:len(x)])
		return 0
	}
	inv := float32(top) / largest
	scale := 1 / inv
	var least float32
	for i, v := range x {
		diff := v - float32(scale*float32(uint8(nearestInt(inv*v))))
		least += float32(float32(weight[i]*diff) * diff)
	}
	for step := -4; step <= 4; step++ {
		if step == 0 {
			continue
		}
		tryInv := (float32(float32(0.1)*float32(step)) + float32(top)) / largest
		tryScale := 1 / tryInv
		var sum float32
		for i, v := range x {
			diff := v - float32(tryScale*float32(min(nearestInt(tryInv*v), top)))
			sum += float32(float32(weight[i]*diff) * diff)
		}
		if sum < least {
			least, inv = sum, tryInv
		}
	}

	var sumlx, suml2 float32
	for i, v := range x {
		l := min(nearestInt(inv*v), top)
		levels[i] = uint8(l)
		sumlx += float32(float32(weight[i]*v) * float32(l))
		suml2 += float32(float32(weight[i]*float32(l)) * float32(l))
	}
	for range 5 {
		changed := false
		for i, v := range x {
			w, old := weight[i], float32(levels[i])
			slx := sumlx - float32(float32(w*v)*old)
			sl2 := suml2 - float32(float32(w*old)*old)
			if !(slx > 0 && sl2 > 0) {
				continue
			}
			l := min(nearestInt(float32(v*sl2)/slx), top)
			if l == int(levels[i]) {
				continue
			}
			slx += float32(float32(w*v) * float32(l))
			sl2 += float32(float32(w*float32(l)) * float32(l))
			if float32(float32(slx*slx)*suml2) > float32(float32(sumlx*sumlx)*sl2) {
				levels[i] = uint8(l)
				sumlx, suml2 = slx, sl2
				changed = true
			}
		}
		if !changed {
			break
		}
	}
	if suml2 > 0 {
		return sumlx / suml2
	}
	return 0
}
