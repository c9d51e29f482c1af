package quant

import "math"

// The types whose elements are E2M1 numbers: sign, two exponent bits, one
// mantissa bit (OCP Microscaling Formats specification, section 5.3.3).
// Importance makes no difference to them.

// e2m1 holds twice the value of each E2M1 code.
var e2m1 = [16]float32{0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12}

// scaledE2M1 returns the values of the codes 0 to 7 in a group.
func scaledE2M1(halfScale float32) (values [8]float32) {
	for code := range values {
		values[code] = e2m1[code] * halfScale
	}
	return values
}

// nearestE2M1 returns the code nearest to v, of two the smaller in magnitude.
// Codes of the other sign are never nearer than 0.
func nearestE2M1(v float32, values *[8]float32) uint8 {
	m := abs32(v)
	best, least := uint8(0), m
	for code := 1; code < len(values); code++ {
		diff := abs32(values[code] - m)
		if diff < least {
			best, least = uint8(code), diff
		} else if values[code] > m {
			break
		}
	}
	if best > 0 && v < 0 {
		best += 8
	}
	return best
}

// MXFP4, 17 bytes for 32 elements:
//
//	0  exponent e: the scale is 2^(e-127)
//	1  16 bytes of codes; elements i and i+16 share byte i
func decodeMXFP4(dst []float32, src []byte) {
	for ; len(src) > 0; src, dst = src[17:], dst[32:] {
		half := halfE8M0(src[0])
		for i, q := range src[1:17] {
			dst[i] = e2m1[q&15] * half
			dst[i+16] = e2m1[q>>4] * half
		}
	}
}

func encodeMXFP4(dst []byte, row, _ []float32) {
	for ; len(row) > 0; row, dst = row[32:], dst[17:] {
		x := row[:32]
		_, largest := extreme(x)
		dst[0] = 0
		if largest > 0 {
			// The largest E2M1 number is 1.5 * 2^2. Exponents out of range
			// wrap around, as in ggml.
			dst[0] = uint8(floorLog2(largest) - 2 + 127)
		}
		values := scaledE2M1(halfE8M0(dst[0]))
		for i := range 16 {
			dst[1+i] = nearestE2M1(x[i], &values) | nearestE2M1(x[i+16], &values)<<4
		}
	}
}

// halfE8M0 returns 2^(e-128): half of what the exponent byte e stands for.
func halfE8M0(e uint8) float32 { return float32(math.Ldexp(1, int(e)-128)) }

// floorLog2 returns what C's floorf(log2f(v)) is for v > 0. The logarithm is
// rounded to float32 first, so that numbers a little below a power of two count
// as that power: how little depends on the spacing of float32 near the
// exponent.
func floorLog2(v float32) int {
	if math.IsInf(float64(v), 1) {
		return math.MinInt32 // what the conversion from infinity gives
	}
	frac, exp := math.Frexp(float64(v)) // v = frac * 2^exp, frac in [0.5, 1)
	if frac == 0.5 || exp == 0 {
		return exp - 1
	}
	// Just below exp, float32 numbers are spacing apart.
	magnitude := math.Abs(float64(exp))
	if exp > 0 {
		magnitude -= 0.5
	}
	_, e := math.Frexp(magnitude)
	spacing := math.Ldexp(1, e-24)
	if (1-frac)*math.Log2E < spacing/2 {
		return exp
	}
	return exp - 1
}

// NVFP4, 36 bytes for 64 elements in four groups of 16:
//
//	0  4 scales, unsigned E4M3
//	4  32 bytes of codes, 8 per group; elements i and i+8 of a group share a byte
func decodeNVFP4(dst []float32, src []byte) {
	for ; len(src) > 0; src, dst = src[36:], dst[64:] {
		for g := range 4 {
			half := halfE4M3(src[g])
			for i, q := range src[4+8*g:][:8] {
				dst[16*g+i] = e2m1[q&15] * half
				dst[16*g+8+i] = e2m1[q>>4] * half
			}
		}
	}
}

func encodeNVFP4(dst []byte, row, _ []float32) {
	for ; len(row) > 0; row, dst = row[64:], dst[36:] {
		for g := range 4 {
			x := row[16*g:][:16]
			_, largest := extreme(x)
			dst[g] = e4m3FromFloat(largest / 6)
			values := scaledE2M1(halfE4M3(dst[g]))
			for i := range 8 {
				dst[4+8*g+i] = nearestE2M1(x[i], &values) | nearestE2M1(x[i+8], &values)<<4
			}
		}
	}
}

// halfE4M3 returns half the value of an unsigned E4M3 number: 4 exponent bits
// with bias 7, 3 mantissa bits. 127 is NaN and counts as 0.
func halfE4M3(b uint8) float32 {
	if b == 127 {
		return 0
	}
	exp, man := int(b>>3&15), int(b&7)
	if exp == 0 {
		return float32(math.Ldexp(float64(man), -10))
	}
	return float32(math.Ldexp(float64(8+man), exp-11))
}

// e4m3FromFloat rounds to unsigned E4M3, halves away from zero; what is not
// positive becomes 0, and 448 is the largest.
func e4m3FromFloat(v float32) uint8 {
	if !(v > 0) {
		return 0
	}
	bits := math.Float32bits(min(v, 448))
	exp := int(bits>>23) - 127 + 7
	if exp <= 0 { // subnormal: multiples of 2^-9
		return uint8(min(7, int(float32(v*512)+0.5)))
	}
	// Rounding may carry into the exponent.
	code := exp<<3 + int(bits>>20&7) + int(bits>>19&1)
	if code >= 15<<3 {
		return 126 // ggml rounds all of the last binade up
	}
	return uint8(code)
}
