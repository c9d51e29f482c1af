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

func encodeQ4_0(dst []byte, row, importance []float32) {
	encodeSymmetric(row, importance, 8, func(d float32, levels *[len0]uint8) {
		putHalf(dst, d)
		putNibbles(dst[2:], levels)
		dst = dst[18:]
	})
}

// encodeSymmetric hands the scale and levels of each block to put. With
// importance the scale is searched (ggml-quants.c, quantize_row_q4_0_impl).
func encodeSymmetric(row, importance []float32, half int, put func(d float32, levels *[len0]uint8)) {
	var levels [len0]uint8
	if importance == nil {
		for ; len(row) > 0; row = row[len0:] {
			d := symmetric(&levels, row[:len0], float32(half))
			put(d, &levels)
		}
		return
	}
	var weight [len0]float32
	sigma2 := sumSquares(row) / float32(len(row))
	for ; len(row) > 0; row, importance = row[len0:], importance[len0:] {
		x := row[:len0]
		scaleImportance(weight[:], importance, x, sigma2)
		d, inv := fitSigned(half, x, weight[:])
		signedLevels(half, levels[:], x, inv)
		put(d, &levels)
	}
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

func encodeQ4_1(dst []byte, row, importance []float32) {
	encodeAffine(row, importance, 15, func(d, m float32, levels *[len0]uint8) {
		putHalf(dst, d)
		putHalf(dst[2:], m)
		putNibbles(dst[4:], levels)
		dst = dst[20:]
	})
}

// encodeAffine hands the scale, minimum and levels of each block to put. With
// importance both are searched (ggml-quants.c, quantize_row_q4_1_impl).
func encodeAffine(row, importance []float32, top int, put func(d, m float32, levels *[len0]uint8)) {
	var levels [len0]uint8
	if importance == nil {
		for ; len(row) > 0; row = row[len0:] {
			d, m := affine(&levels, row[:len0], float32(top))
			put(d, m, &levels)
		}
		return
	}
	var weight [len0]float32
	trials := importanceTrials(top)
	sigma2 := sumSquares(row) / float32(len(row))
	for ; len(row) > 0; row, importance = row[len0:], importance[len0:] {
		x := row[:len0]
		scaleImportance(weight[:], importance, x, sigma2)
		fit := fitAffine(trials, x, weight[:])
		affineLevels(top, levels[:], x, fit.inv, fit.base)
		put(fit.scale, -fit.negMin, &levels)
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

func encodeQ5_0(dst []byte, row, importance []float32) {
	encodeSymmetric(row, importance, 16, func(d float32, levels *[len0]uint8) {
		putHalf(dst, d)
		putFifthBits(dst[2:], levels)
		putNibbles(dst[6:], levels)
		dst = dst[22:]
	})
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

func encodeQ5_1(dst []byte, row, importance []float32) {
	encodeAffine(row, importance, 31, func(d, m float32, levels *[len0]uint8) {
		putHalf(dst, d)
		putHalf(dst[2:], m)
		putFifthBits(dst[4:], levels)
		putNibbles(dst[8:], levels)
		dst = dst[24:]
	})
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
