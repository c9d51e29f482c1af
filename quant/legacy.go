package quant

// The types with blocks of 32 and one scale: Q4_0 and Q5_0 are symmetric,
// Q4_1 and Q5_1 have a minimum too. A level is unsigned, 4 or 5 bits; the low
// four bits of elements i and i+16 share byte i, the fifth bits of all 32
// elements are one little-endian word.

const len0 = 32 // elements per block

// putNibbles packs the low four bits of 32 levels.
func putNibbles(dst []byte, levels *[len0]uint8) {
	for i := range len0 / 2 {
		dst[i] = levels[i]&15 | levels[i+len0/2]&15<<4
	}
}

// putFifthBits packs bit 4 of 32 levels: level i becomes bit i%8 of byte i/8.
func putFifthBits(dst []byte, levels *[len0]uint8) {
	for i := range 4 {
		var b uint8
		for j := range 8 {
			b |= levels[8*i+j] >> 4 & 1 << j
		}
		dst[i] = b
	}
}

// symmetric finds the scale and levels of one block without importance: the
// element of largest magnitude gets the level -half.
func symmetric(levels *[len0]uint8, x []float32, half float32) (scale float32) {
	largest, _ := extreme(x)
	d := largest / -half
	inv := invert(d)
	for i, v := range x {
		// Truncation to 8 bits decides where the scale's inverse overflows.
		levels[i] = uint8(min(int8(truncInt(float32(v*inv)+(half+0.5))), int8(2*half-1)))
	}
	return d
}

// affine finds the scale, minimum and levels of one block without importance:
// 0 to top span the block's range.
func affine(levels *[len0]uint8, x []float32, top float32) (scale, lowest float32) {
	lowest, highest := bounds(x)
	d := (highest - lowest) / top
	inv := invert(d)
	for i, v := range x {
		levels[i] = uint8(truncInt(float32((v-lowest)*inv) + 0.5))
	}
	return d, lowest
}

// bounds returns the smallest and the largest element. Of -0 and 0 the first
// counts.
func bounds(x []float32) (lowest, highest float32) {
	lowest, highest = 0x1p127*(2-0x1p-23), -0x1p127*(2-0x1p-23)
	for _, v := range x {
		if v < lowest {
			lowest = v
		}
		if v > highest {
			highest = v
		}
	}
	return lowest, highest
}

// Q4_0, 18 bytes for 32 elements:
//
//	0  scale d, half precision
//	2  16 bytes of levels q
//
// x = d * (q - 8)
func decodeQ4_0(dst []float32, src []byte) {
	for ; len(src) > 0; src, dst = src[18:], dst[len0:] {
		d := halfToFloat(src)
		for i, q := range src[2:18] {
			dst[i] = d * float32(int(q&15)-8)
			dst[i+len0/2] = d * float32(int(q>>4)-8)
		}
	}
}

// encodeSymmetric is the encoder of Q4_0 and Q5_0, whose levels have an offset
// of half. With importance the scale is searched (ggml-quants.c,
// quantize_row_q4_0_impl).
func encodeSymmetric(t Type, size, half int) func(dst []byte, row, importance []float32) {
	return func(dst []byte, row, importance []float32) {
		var (
			levels [len0]uint8
			weight [len0]float32
			d      float32
		)
		var sigma2 float32
		if importance != nil {
			sigma2 = sumSquares(row) / float32(len(row))
		}
		for ; len(row) > 0; row, dst = row[len0:], dst[size:] {
			x := row[:len0]
			if importance == nil {
				d = symmetric(&levels, x, float32(half))
			} else {
				scaleImportance(weight[:], importance, x, sigma2)
				var inv float32
				d, inv = fitSigned(half, x, weight[:])
				signedLevels(half, levels[:], x, inv)
				importance = importance[len0:]
			}
			PutLevels(t, dst[:size], &levels, d, 0)
		}
	}
}

// PutLevels is the last step of encoding a block of Q4_0, Q4_1, Q5_0 or Q5_1:
// it stores the levels, the scale and for Q4_1 and Q5_1 the minimum.
func PutLevels(t Type, dst []byte, levels *[len0]uint8, scale, minimum float32) {
	putHalf(dst, scale)
	dst = dst[2:]
	if t == Q4_1 || t == Q5_1 {
		putHalf(dst, minimum)
		dst = dst[2:]
	}
	if t == Q5_0 || t == Q5_1 {
		putFifthBits(dst, levels)
		dst = dst[4:]
	}
	putNibbles(dst, levels)
}

// Q4_1, 20 bytes for 32 elements:
//
//	0  scale d, half precision
//	2  minimum m, half precision
//	4  16 bytes of levels q
//
// x = d * q + m
func decodeQ4_1(dst []float32, src []byte) {
	for ; len(src) > 0; src, dst = src[20:], dst[len0:] {
		d, m := halfToFloat(src), halfToFloat(src[2:])
		for i, q := range src[4:20] {
			dst[i] = float32(d*float32(q&15)) + m
			dst[i+len0/2] = float32(d*float32(q>>4)) + m
		}
	}
}

// encodeAffine is the encoder of Q4_1 and Q5_1. With importance scale and
// minimum are searched (ggml-quants.c, quantize_row_q4_1_impl).
func encodeAffine(t Type, size, top int) func(dst []byte, row, importance []float32) {
	trials := ImportanceTrials(top)
	return func(dst []byte, row, importance []float32) {
		var (
			levels [len0]uint8
			weight [len0]float32
			d, m   float32
		)
		var sigma2 float32
		if importance != nil {
			sigma2 = sumSquares(row) / float32(len(row))
		}
		for ; len(row) > 0; row, dst = row[len0:], dst[size:] {
			x := row[:len0]
			if importance == nil {
				d, m = affine(&levels, x, float32(top))
			} else {
				scaleImportance(weight[:], importance, x, sigma2)
				fit := FitAffine(&trials, x, weight[:])
				affineLevels(top, levels[:], x, fit.Inv, fit.Base)
				d, m = fit.Scale, -fit.NegMin
				importance = importance[len0:]
			}
			PutLevels(t, dst[:size], &levels, d, m)
		}
	}
}

// Q5_0, 22 bytes for 32 elements:
//
//	0  scale d, half precision
//	2  4 bytes of fifth bits
//	6  16 bytes of low four bits
//
// x = d * (q - 16)
func decodeQ5_0(dst []float32, src []byte) {
	for ; len(src) > 0; src, dst = src[22:], dst[len0:] {
		d := halfToFloat(src)
		for i, q := range src[6:22] {
			hi0, hi1 := src[2+i/8]>>(i%8)&1, src[4+i/8]>>(i%8)&1
			dst[i] = d * float32(int(q&15|hi0<<4)-16)
			dst[i+len0/2] = d * float32(int(q>>4|hi1<<4)-16)
		}
	}
}

// Q5_1, 24 bytes for 32 elements:
//
//	0  scale d, half precision
//	2  minimum m, half precision
//	4  4 bytes of fifth bits
//	8  16 bytes of low four bits
//
// x = d * q + m
func decodeQ5_1(dst []float32, src []byte) {
	for ; len(src) > 0; src, dst = src[24:], dst[len0:] {
		d, m := halfToFloat(src), halfToFloat(src[2:])
		for i, q := range src[8:24] {
			hi0, hi1 := src[4+i/8]>>(i%8)&1, src[6+i/8]>>(i%8)&1
			dst[i] = float32(d*float32(q&15|hi0<<4)) + m
			dst[i+len0/2] = float32(d*float32(q>>4|hi1<<4)) + m
		}
	}
}

// Q8_0, 34 bytes for 32 elements:
//
//	0  scale d, half precision
//	2  32 signed bytes q
//
// x = d * q. Importance makes no difference.
func decodeQ8_0(dst []float32, src []byte) {
	for ; len(src) > 0; src, dst = src[34:], dst[len0:] {
		d := halfToFloat(src)
		for i, q := range src[2:34] {
			dst[i] = d * float32(int8(q))
		}
	}
}

func encodeQ8_0(dst []byte, row, _ []float32) {
	for ; len(row) > 0; row, dst = row[len0:], dst[34:] {
		x := row[:len0]
		_, largest := extreme(x)
		d := largest / 127
		inv := invert(d)
		putHalf(dst, d)
		for i, v := range x {
			dst[2+i] = byte(truncInt(roundAway(v * inv)))
		}
	}
}
