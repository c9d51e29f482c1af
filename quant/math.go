package quant

import (
	"encoding/binary"
	"math"

	"github.com/x448/float16"
)

// Products that are added to something are written float32(a*b): the
// conversion forbids the compiler to fuse the two operations, which would
// change the last bit on the CPUs where it does so.

// nearestInt rounds v to the nearest integer, halves to even, as ggml does: by
// adding a number so large that the sum has no fraction bits. Beyond ±2^22 the
// result is what the low bits of the sum happen to be, and ggml relies on it.
//
// The conversion keeps a product that is passed in from being fused with the
// addition where the call is inlined.
func nearestInt(v float32) int {
	return int(math.Float32bits(float32(v)+12582912)&0x7fffff) - 0x400000
}

// truncInt converts to int32 towards zero as x86 does: whatever does not fit,
// NaN too, becomes the smallest int32. Go leaves those cases to the CPU.
func truncInt(v float32) int32 {
	if v > -2147483904 && v < 2147483648 {
		return int32(v)
	}
	return math.MinInt32
}

// roundAway rounds halves away from zero, as C's roundf.
func roundAway(v float32) float32 { return float32(math.Round(float64(v))) }

// invert returns 1/v, or 0 for 0.
func invert(v float32) float32 {
	if v == 0 {
		return 0
	}
	return 1 / v
}

func abs32(v float32) float32  { return float32(math.Abs(float64(v))) }
func sqrt32(v float32) float32 { return float32(math.Sqrt(float64(v))) }

// halfFromFloat rounds to half precision, halves to even; values too large
// become infinite and NaN becomes the quiet NaN with no payload.
func halfFromFloat(v float32) uint16 {
	if v != v {
		return uint16(math.Float32bits(v)>>16)&0x8000 | 0x7e00
	}
	return float16.Fromfloat32(v).Bits()
}

// halfToFloat reads the half-precision number at the start of b.
func halfToFloat(b []byte) float32 {
	return float16.Frombits(binary.LittleEndian.Uint16(b)).Float32()
}

// putHalf stores v, a result of arithmetic, at the start of b, rounded to half
// precision. NaN gets the sign that it has on x86, where operations make
// negative ones.
func putHalf(b []byte, v float32) {
	h := halfFromFloat(v)
	if v != v {
		h ^= positiveNaN
	}
	binary.LittleEndian.PutUint16(b, h)
}

// positiveNaN is a half's sign bit where operations make positive NaNs.
var positiveNaN = func() uint16 {
	zero := float32(0)
	nan := zero / zero
	return uint16(^math.Float32bits(nan)>>16) & 0x8000
}()

// extreme returns the element of largest magnitude, the first of equals, and
// that magnitude.
func extreme(x []float32) (value, magnitude float32) {
	for _, v := range x {
		if a := abs32(v); a > magnitude {
			magnitude, value = a, v
		}
	}
	return value, magnitude
}

// sumSquares adds the squares in order.
func sumSquares(x []float32) float32 {
	var sum float32
	for _, v := range x {
		sum += float32(v * v)
	}
	return sum
}

// scaleImportance sets weight[i] to importance[i] * sqrt(sigma2 + x[i]^2), the
// weights that ggml's searches use with an importance matrix, and returns
// their sum.
func scaleImportance(weight, importance, x []float32, sigma2 float32) float32 {
	var sum float32
	for i, v := range x {
		// Stored or not, the product would be fused with the addition.
		w := float32(importance[i] * sqrt32(sigma2+float32(v*v)))
		weight[i] = w
		sum += w
	}
	return sum
}
