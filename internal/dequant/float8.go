package dequant

import (
	"math"

	"github.com/smeltgguf/smelt/formats"
)

// bytes8 holds the values of the types of one byte.
var bytes8 = map[formats.DType]*[256]float32{
	formats.F8E4M3: table(e4m3),
	formats.F8E5M2: table(e5m2),
	formats.F8E8M0: table(e8m0),
	formats.I8:     table(func(b byte) float64 { return float64(int8(b)) }),
}

func table(value func(b byte) float64) *[256]float32 {
	t := new([256]float32)
	for i := range t {
		t[i] = float32(value(byte(i)))
	}
	return t
}

// e4m3 is FP8 E4M3 (OCP 8-bit Floating Point Specification): bias 7, no
// infinities, NaN where all other bits are ones.
func e4m3(b byte) float64 {
	if b&0x7f == 0x7f {
		return math.NaN()
	}
	return minifloat(b, 3, 7)
}

// e5m2 is FP8 E5M2, the upper byte of a half: bias 15, infinities and NaN.
func e5m2(b byte) float64 {
	switch b & 0x7f {
	case 0x7c:
		return math.Inf(1 - int(b>>7)*2)
	case 0x7d, 0x7e, 0x7f:
		return math.NaN()
	}
	return minifloat(b, 2, 15)
}

// minifloat is a finite number of one sign bit, an exponent with the bias and
// frac bits of fraction.
func minifloat(b byte, frac, bias int) float64 {
	exp, m := int(b&0x7f)>>frac, int(b)&(1<<frac-1)
	if exp == 0 {
		exp = 1
	} else {
		m |= 1 << frac
	}
	v := math.Ldexp(float64(m), exp-bias-frac)
	if b&0x80 != 0 {
		return math.Copysign(v, -1)
	}
	return v
}

// e8m0 is a power of two (OCP Microscaling Formats): bias 127, 255 is NaN.
func e8m0(b byte) float64 {
	if b == 255 {
		return math.NaN()
	}
	return math.Ldexp(1, int(b)-127)
}
