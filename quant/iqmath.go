package quant

import (
	"encoding/binary"
	"math"

	"github.com/x448/float16"
)

// nearestInt rounds v to the nearest integer, halves to even, as ggml does: by
// adding a number so large that the sum has no fraction bits. Beyond ±2^22 the
// result is what the low bits of the sum happen to be, and tests rely on it.
func nearestInt(v float32) int {
	return int(math.Float32bits(v+12582912)&0x7fffff) - 0x400000
}

// invert returns 1/v, or 0 for 0.
func invert(v float32) float32 {
	if v == 0 {
		return 0
	}
	return 1 / v
}

func abs32(v float32) float32  { return float32(math.Abs(float64(v))) }
func sqrt32(v float32) float32 { return float32(math.Sqrt(float64(v))) }

// halfToFloat reads the half-precision number at the start of b.
func halfToFloat(b []byte) float32 {
	return float16.Frombits(binary.LittleEndian.Uint16(b)).Float32()
}

// putHalf stores v in half precision, rounded to nearest even.
func putHalf(b []byte, v float32) {
	binary.LittleEndian.PutUint16(b, float16.Fromfloat32(v).Bits())
}

// fitUnsigned finds levels 0 to top and a scale so that level times scale
// represents x with little weighted squared error: the best of nine scales,
// then up to five rounds in which each level moves where that helps
// (ggml-quants.c, make_qp_quants). It stores the levels and returns the scale.
// A negative x gives a level that wrapped around, as in ggml.
func fitUnsigned(top int, levels []uint8, x, weight []float32) float32 {
	var largest float32
	for _, v := range x {
		if v > largest {
			largest = v
		}
	}
	if largest < 1e-15 {
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
