package quant

// The searches for scales and levels that the quantized types share. Each does
// the float32 operations of its counterpart in ggml-quants.c in the same order,
// which is what makes the bytes equal.

// tooSmall is the magnitude below which a group counts as all zero.
const tooSmall = 1e-15

// fitSigned finds a scale and levels l in [-half, half) so that l*scale
// represents x with little weighted squared error: it tries the scale that
// gives the largest element the level -half, and 18 others around it
// (make_qx_quants). It stores l+half, except for a group of zeros, whose levels
// are 0, and returns the scale.
func fitSigned(half int, levels []uint8, x, weight []float32) float32 {
	largest, magnitude := extreme(x)
	if magnitude < tooSmall {
		clear(levels[:len(x)])
		return 0
	}
	try := func(inv float32) (sumlx, suml2 float32) {
		for i, v := range x {
			l := float32(signedLevel(half, inv*v))
			sumlx += float32(float32(weight[i]*v) * l)
			suml2 += float32(float32(weight[i]*l) * l)
		}
		return sumlx, suml2
	}
	bestInv := float32(-half) / largest
	sumlx, suml2 := try(bestInv)
	var scale float32
	if suml2 != 0 {
		scale = sumlx / suml2
	}
	best := scale * sumlx
	for step := -9; step <= 9; step++ {
		if step == 0 {
			continue
		}
		inv := -(float32(half) + float32(0.1*float32(step))) / largest
		sumlx, suml2 := try(inv)
		if suml2 > 0 && float32(sumlx*sumlx) > float32(best*suml2) {
			bestInv = inv
			scale = sumlx / suml2
			best = scale * sumlx
		}
	}
	for i, v := range x {
		levels[i] = uint8(half + signedLevel(half, bestInv*v))
	}
	return scale
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

// affineSearch says what fitAffine tries.
type affineSearch struct {
	top      int     // highest level
	first    float32 // the inverse scales tried are (top+first)/range,
	step     float32 // then step more, and so on,
	steps    int     // steps times
	absolute bool    // compare absolute errors, not squares
}

// importanceSearch is what all types do that have an importance matrix.
func importanceSearch(top int) affineSearch {
	return affineSearch{top: top, first: -0.9, step: 0.05, steps: 36}
}

// fitAffine finds a scale, a minimum not above 0 and levels l in [0, s.top] so
// that l*scale + minimum represents x with little weighted error: for several
// inverse scales it rounds, then solves for the best scale and minimum of those
// levels (make_qkx2_quants, make_qkx3_quants). An improved minimum is where the
// next trials start from. It stores the levels and returns the scale and the
// minimum's negative. Groups have at most 32 elements.
func fitAffine(s affineSearch, levels []uint8, x, weight []float32) (scale, negMin float32) {
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
	levels = levels[:len(x)]
	if minimum > 0 {
		minimum = 0
	}
	if highest <= minimum {
		clear(levels)
		return 0, -minimum
	}
	round := func(levels []uint8, inv float32) {
		for i, v := range x {
			levels[i] = uint8(max(0, min(s.top, nearestInt(inv*(v-minimum)))))
		}
	}
	misfit := func(levels []uint8, scale, minimum float32) (sum float32) {
		for i, v := range x {
			diff := float32(scale*float32(levels[i])) + minimum - v
			if s.absolute {
				diff = abs32(diff)
			} else {
				diff *= diff
			}
			sum += float32(weight[i] * diff)
		}
		return sum
	}

	inv := float32(s.top) / (highest - minimum)
	scale = 1 / inv
	round(levels, inv)
	least := misfit(levels, scale, minimum)
	var space [32]uint8
	trial := space[:len(x)]
	for step := range s.steps + 1 {
		inv := (s.first + float32(s.step*float32(step)) + float32(s.top)) / (highest - minimum)
		round(trial, inv)
		var suml, suml2, sumxl float32
		for i, v := range x {
			l := float32(trial[i])
			wl := float32(weight[i] * l)
			suml += wl
			suml2 += float32(wl * l)
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
		if sum := misfit(trial, trialScale, trialMin); sum < least {
			copy(levels, trial)
			least, scale, minimum = sum, trialScale, trialMin
		}
	}
	return scale, -minimum
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
