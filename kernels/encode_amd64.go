//go:build !purego

package kernels

import "github.com/smeltgguf/smelt/quant"

// convertSIMD converts as many of the n elements as come in whole registers
// and returns their number. bad tells that some of them are not finite.
func convertSIMD(c conversion, dst, src *byte, n int) (done int, bad bool) {
	n &^= 15
	if !hasAVX2 || n == 0 {
		return 0, false
	}
	switch c {
	case f16ToF32:
		f16ToF32AVX2(dst, src, n)
	case bf16ToF32:
		bf16ToF32AVX2(dst, src, n)
	case f32ToF16:
		bad = f32ToF16AVX2(dst, src, n)
	case f32ToBF16:
		bad = f32ToBF16AVX2(dst, src, n)
	case bf16ToF16:
		bad = bf16ToF16AVX2(dst, src, n)
	case f16ToBF16:
		bad = f16ToBF16AVX2(dst, src, n)
	}
	return n, bad
}

// encodeSIMD encodes one row that is not empty, or returns false where there is
// no fast path for the type on this CPU.
func encodeSIMD(t quant.Type, dst []byte, row, importance []float32) bool {
	if !hasAVX2 || len(row)%t.BlockLen() != 0 || len(dst) != t.RowSize(len(row)) ||
		(importance != nil && len(importance) != len(row)) {
		return false
	}
	switch t {
	case quant.Q2_K, quant.Q3_K, quant.Q4_K, quant.Q5_K, quant.Q6_K:
		encodeK(t, dst, row, importance)
		return true
	case quant.Q1_0:
		encodeQ1(dst, row)
		return true
	case quant.MXFP4, quant.NVFP4:
		encodeFP4(t, dst, row)
		return true
	case quant.Q2_0, quant.TQ1_0, quant.TQ2_0:
		encodeTernary(t, dst, row)
		return true
	}
	blocks := len(row) / t.BlockLen()
	if importance != nil && t != quant.Q8_0 {
		switch t {
		case quant.Q4_0, quant.Q4_1, quant.Q5_0, quant.Q5_1:
			encodeWeighted(t, dst, row, importance)
			return true
		}
	} else {
		switch t {
		case quant.Q4_0:
			encodeQ4_0AVX2(&dst[0], &row[0], blocks)
			return true
		case quant.Q4_1:
			encodeQ4_1AVX2(&dst[0], &row[0], blocks)
			return true
		case quant.Q5_0:
			encodeQ5_0AVX2(&dst[0], &row[0], blocks)
			return true
		case quant.Q5_1:
			encodeQ5_1AVX2(&dst[0], &row[0], blocks)
			return true
		case quant.Q8_0:
			encodeQ8_0AVX2(&dst[0], &row[0], blocks)
			return true
		}
	}
	return false
}

// encodeTernary is quant.Encode for the types with one scale per block, its
// largest magnitude, and three levels.
func encodeTernary(t quant.Type, dst []byte, row []float32) {
	var levels [256]uint8
	n, size := t.BlockLen(), t.BlockSize()
	for ; len(row) > 0; row, dst = row[n:], dst[size:] {
		d := maxAbsAVX2(&row[0], n)
		if !(d > 0x1p-126 && d < 0x1p127) {
			// Zero, or the inverse is not normal.
			quant.Encode(t, dst[:size], row[:n], nil)
			continue
		}
		roundLevelsAVX2(&levels[0], &row[0], 1/d, n)
		quant.PutTernary(t, dst[:size], levels[:n], d)
	}
}

// encodeFP4 is quant.Encode for MXFP4 and NVFP4. The assembly stops at blocks
// that need care.
func encodeFP4(t quant.Type, dst []byte, row []float32) {
	n, size := t.BlockLen(), t.BlockSize()
	kernel := encodeMXFP4AVX2
	if t == quant.NVFP4 {
		kernel = encodeNVFP4AVX2
	}
	for len(row) > 0 {
		done := kernel(&dst[0], &row[0], len(row)/n)
		row, dst = row[n*done:], dst[size*done:]
		if len(row) > 0 {
			quant.Encode(t, dst[:size], row[:n], nil)
			row, dst = row[n:], dst[size:]
		}
	}
}

// encodeQ1 is quant.Encode for Q1_0.
func encodeQ1(dst []byte, row []float32) {
	const n, size = 128, 18
	var sums [8]float32
	for ; len(row) >= 8*n; row, dst = row[8*n:], dst[8*size:] {
		sumAbsAVX2(&sums[0], &row[0], n, n)
		for b := range sums {
			sums[b] /= n
			signBitsAVX2(&dst[size*b+2], &row[n*b], n)
			F32ToF16(dst[size*b:][:2], sums[b:][:1])
		}
	}
	quant.Encode(quant.Q1_0, dst, row, nil)
}

// maxBits16SIMD takes a multiple of 64 numbers.
func maxBits16SIMD(src []byte) (uint32, bool) {
	if !hasAVX2 {
		return 0, false
	}
	return maxBits16AVX2(&src[0], len(src)/2), true
}

// addErrorsSIMD takes a multiple of 4 elements.
func addErrorsSIMD(sums *[3][4]float64, x, y []float32) (uint32, bool) {
	if !hasAVX2 {
		return 0, false
	}
	return addErrorsAVX2(&x[0], &y[0], len(x), &sums[0][0]), true
}

// maxAbsSIMD takes a multiple of 32 elements.
func maxAbsSIMD(x []float32) (float32, bool) {
	if !hasAVX2 {
		return 0, false
	}
	return maxAbsAVX2(&x[0], len(x)), true
}
