package quant

// K-quants: super-blocks of 256 elements in groups of 16 or 32. A group's scale
// (and minimum) is itself a level times a half-precision number of the
// super-block. Levels are packed in planes: 32 consecutive bytes hold the same
// bits of 32 consecutive elements, and the next 32 elements take the next bits
// of the same bytes.

const superLen = 256

// putPlanes packs levels of bits bits: byte i of dst gets the bits of elements
// i, i+32, i+64 ..., the first in the lowest bits. len(levels) is 32 times what
// fits a byte, dst has 32 bytes.
func putPlanes(dst, levels []uint8, bits int) {
	for i := range 32 {
		var b uint8
		for shift := 0; shift < 8; shift += bits {
			b |= levels[32*(shift/bits)+i] << shift
		}
		dst[i] = b
	}
}

// scalesK is what Q4_K and Q5_K, and with other widths Q2_K, store for a
// super-block: group j has scale d*scale[j] and minimum -dmin*min[j].
type scalesK struct {
	d, dmin    float32
	scale, min [16]uint8
}

// affineK finds scales, minima and levels of one super-block in groups of len
// group. Without importance the groups' scales are rounded to multiples of
// 1/topScale of the largest; with importance that rounding is searched too.
func affineK(levels *[superLen]uint8, x, importance []float32, group, topScale int, s affineSearch, sigma2 float32) scalesK {
	var (
		scale, minimum, sumw [16]float32
		weight               [32]float32
		r                    scalesK
	)
	groups := superLen / group
	w := weight[:group]
	for j := range groups {
		xg := x[group*j:][:group]
		switch {
		case importance != nil:
			sumw[j] = scaleImportance(w, importance[group*j:], xg, sigma2)
		case s.absolute:
			for i, v := range xg {
				w[i] = abs32(v)
			}
		default:
			mean := sqrt32(sumSquares(xg) / float32(group))
			for i, v := range xg {
				w[i] = mean + abs32(v)
			}
		}
		scale[j], minimum[j] = fitAffine(s, levels[group*j:], xg, w)
	}
	if importance != nil {
		r.d = fitUnsigned(topScale, r.scale[:groups], scale[:groups], sumw[:groups])
		r.dmin = fitUnsigned(topScale, r.min[:groups], minimum[:groups], sumw[:groups])
	} else {
		r.d = roundScales(topScale, r.scale[:groups], scale[:groups])
		r.dmin = roundScales(topScale, r.min[:groups], minimum[:groups])
	}
	return r
}

// roundScales sets levels to x in units of 1/top of the largest x, which it
// returns. A negative x gives a level that wraps around, as in ggml.
func roundScales(top int, levels []uint8, x []float32) float32 {
	var largest float32
	for _, v := range x {
		if v > largest {
			largest = v
		}
	}
	var inv float32
	if largest > 0 {
		inv = float32(top) / largest
	}
	for i, v := range x {
		levels[i] = uint8(nearestInt(inv * v))
	}
	return largest / float32(top)
}

// requantizeAffine sets the levels of one group again, for the scale and
// minimum as they are stored. A group whose scale came out 0 keeps its levels.
func requantizeAffine(levels []uint8, x []float32, top int, scale, minimum float32) {
	if scale == 0 {
		return
	}
	for i, v := range x {
		levels[i] = uint8(max(0, min(top, nearestInt((v+minimum)/scale))))
	}
}

// requantizeSigned is the same for levels in [-half, half), stored as l+half.
func requantizeSigned(levels []uint8, x []float32, half int, scale float32) {
	if scale == 0 {
		return
	}
	for i, v := range x {
		levels[i] = uint8(half + signedLevel(half, v/scale))
	}
}

// Q2_K, 84 bytes:
//
//	 0  16 bytes, one per group of 16: scale in the low, minimum in the high
//	    four bits
//	16  64 bytes: levels q of 2 bits, in planes of 128 elements
//	80  d, half precision
//	82  dmin, half precision
//
// x = d * scale * q - dmin * minimum
func decodeQ2_K(dst []float32, src []byte) {
	for ; len(src) > 0; src, dst = src[84:], dst[superLen:] {
		d, dmin := halfToFloat(src[80:]), halfToFloat(src[82:])
		for j := range 16 {
			scale, minimum := d*float32(src[j]&15), dmin*float32(src[j]>>4)
			q, shift := src[16+32*(j/8)+16*(j%2):], 2*(j/2%4)
			for i := range 16 {
				dst[16*j+i] = float32(scale*float32(q[i]>>shift&3)) - minimum
			}
		}
	}
}

func encodeQ2_K(dst []byte, row, importance []float32) {
	search := affineSearch{top: 3, first: -0.5, step: 0.1, steps: 15, absolute: true}
	if importance != nil {
		search = importanceSearch(3)
	}
	var levels [superLen]uint8
	for ; len(row) > 0; row, dst = row[superLen:], dst[84:] {
		x := row[:superLen]
		var sigma2 float32
		if importance != nil {
			sigma2 = sumSquares(x) / superLen
		}
		k := affineK(&levels, x, importance, 16, 15, search, sigma2)
		putHalf(dst[80:], k.d)
		putHalf(dst[82:], k.dmin)
		d, dmin := halfToFloat(dst[80:]), halfToFloat(dst[82:])
		for j := range 16 {
			dst[j] = k.scale[j] | k.min[j]<<4
			requantizeAffine(levels[16*j:], x[16*j:][:16], 3, d*float32(dst[j]&15), dmin*float32(dst[j]>>4))
		}
		putPlanes(dst[16:], levels[:128], 2)
		putPlanes(dst[48:], levels[128:], 2)
		if importance != nil {
			importance = importance[superLen:]
		}
	}
}

// Q3_K, 110 bytes:
//
//	  0  32 bytes: the high bits of the levels, in planes of 256 elements
//	 32  64 bytes: the low 2 bits of the levels, in planes of 128 elements
//	 96  12 bytes: scales of the 16 groups, see scaleQ3
//	108  d, half precision
//
// x = d * (scale - 32) * (q - 4)
func decodeQ3_K(dst []float32, src []byte) {
	for ; len(src) > 0; src, dst = src[110:], dst[superLen:] {
		d := halfToFloat(src[108:])
		for j := range 16 {
			scale := d * float32(scaleQ3(src[96:], j))
			hi, q, shift := src[16*(j%2):], src[32+32*(j/8)+16*(j%2):], 2*(j/2%4)
			for i := range 16 {
				level := q[i]>>shift&3 | hi[i]>>(j/2)&1<<2
				dst[16*j+i] = scale * float32(int(level)-4)
			}
		}
	}
}

// scaleQ3 unpacks the scale of group j of Q3_K, 6 bits with an offset of 32:
// its low four bits are the low half of byte j, or from group 8 on the high
// half of byte j-8; its high bits are in byte 8+j%4, group j/4 first.
func scaleQ3(packed []byte, j int) int {
	low := packed[j%8] >> (4 * (j / 8)) & 15
	high := packed[8+j%4] >> (2 * (j / 4)) & 3
	return int(high<<4|low) - 32
}

// putScalesQ3 packs 16 scales, offset included.
func putScalesQ3(packed []byte, scales *[16]uint8) {
	clear(packed[:12])
	for j, l := range scales {
		packed[j%8] |= l & 15 << (4 * (j / 8))
		packed[8+j%4] |= l >> 4 << (2 * (j / 4))
	}
}

func encodeQ3_K(dst []byte, row, importance []float32) {
	var (
		levels      [superLen]uint8
		scale, sumw [16]float32
		ls          [16]uint8
		weight      [16]float32
	)
	for ; len(row) > 0; row, dst = row[superLen:], dst[110:] {
		x := row[:superLen]
		var d float32
		if importance != nil {
			sigma2 := 2 * sumSquares(x) / superLen
			for j := range 16 {
				xg := x[16*j:][:16]
				sumw[j] = scaleImportance(weight[:], importance[16*j:], xg, sigma2)
				scale[j] = fitSigned(4, levels[16*j:], xg, weight[:])
			}
			d = fitSigned(32, ls[:], scale[:], sumw[:])
			importance = importance[superLen:]
		} else {
			for j := range 16 {
				scale[j] = fitSignedGreedy(4, levels[16*j:], x[16*j:][:16])
			}
			clear(ls[:])
			if largest, _ := extreme(scale[:]); largest != 0 {
				inv := -32 / largest
				for j, v := range scale {
					// Only 8 bits of the rounded number count.
					ls[j] = uint8(max(-32, min(31, int8(nearestInt(inv*v)))) + 32)
				}
				d = 1 / inv
			}
		}
		putScalesQ3(dst[96:], &ls)
		putHalf(dst[108:], d)
		d = halfToFloat(dst[108:])
		for j := range 16 {
			requantizeSigned(levels[16*j:], x[16*j:][:16], 4, d*float32(scaleQ3(dst[96:], j)))
		}
		var high [superLen]uint8
		for i, l := range levels {
			levels[i], high[i] = l&3, l>>2
		}
		putPlanes(dst, high[:], 1)
		putPlanes(dst[32:], levels[:128], 2)
		putPlanes(dst[64:], levels[128:], 2)
	}
}

// scaleMinK unpacks the scale and minimum of group j of Q4_K and Q5_K, 6 bits
// each, from 12 bytes: for the first four groups they are the low six bits of
// bytes j and j+4; for the others the halves of byte j+4 are their low four
// bits and the high two bits of bytes j-4 and j their high ones.
func scaleMinK(packed []byte, j int) (scale, minimum uint8) {
	if j < 4 {
		return packed[j] & 63, packed[j+4] & 63
	}
	return packed[j+4]&15 | packed[j-4]>>6<<4, packed[j+4]>>4 | packed[j]>>6<<4
}

// putScalesMinsK packs eight scales and minima.
func putScalesMinsK(packed []byte, k *scalesK) {
	for j := range 4 {
		packed[j] = k.scale[j] | k.scale[j+4]>>4<<6
		packed[j+4] = k.min[j] | k.min[j+4]>>4<<6
		packed[j+8] = k.scale[j+4]&15 | k.min[j+4]<<4
	}
}

// encodeScalesK does what Q4_K and Q5_K have in common: the 16 bytes of scales
// and the levels of one super-block.
func encodeScalesK(dst []byte, levels *[superLen]uint8, x, importance []float32, search affineSearch) {
	var sigma2 float32
	if importance != nil {
		sigma2 = 2 * sumSquares(x) / superLen
	}
	k := affineK(levels, x, importance, 32, 63, search, sigma2)
	for j := range 8 {
		if importance == nil || search.top == 31 {
			k.scale[j], k.min[j] = min(63, k.scale[j]), min(63, k.min[j])
		}
	}
	putHalf(dst, k.d)
	putHalf(dst[2:], k.dmin)
	putScalesMinsK(dst[4:], &k)
	d, dmin := halfToFloat(dst), halfToFloat(dst[2:])
	for j := range 8 {
		scale, minimum := scaleMinK(dst[4:], j)
		requantizeAffine(levels[32*j:], x[32*j:][:32], search.top, d*float32(scale), dmin*float32(minimum))
	}
}

// Q4_K, 144 bytes:
//
//	 0  d, half precision
//	 2  dmin, half precision
//	 4  12 bytes: scales and minima of the 8 groups, see scaleMinK
//	16  128 bytes: levels q of 4 bits, in planes of 64 elements
//
// x = d * scale * q - dmin * minimum
func decodeQ4_K(dst []float32, src []byte) {
	for ; len(src) > 0; src, dst = src[144:], dst[superLen:] {
		d, dmin := halfToFloat(src), halfToFloat(src[2:])
		for j := range 8 {
			sc, m := scaleMinK(src[4:], j)
			scale, minimum := d*float32(sc), dmin*float32(m)
			q, shift := src[16+32*(j/2):], 4*(j%2)
			for i := range 32 {
				dst[32*j+i] = float32(scale*float32(q[i]>>shift&15)) - minimum
			}
		}
	}
}

func encodeQ4_K(dst []byte, row, importance []float32) {
	search := affineSearch{top: 15, first: -1, step: 0.1, steps: 20}
	if importance != nil {
		search = importanceSearch(15)
	}
	var levels [superLen]uint8
	for ; len(row) > 0; row, dst = row[superLen:], dst[144:] {
		encodeScalesK(dst, &levels, row[:superLen], importance, search)
		for j := range 4 {
			putPlanes(dst[16+32*j:], levels[64*j:][:64], 4)
		}
		if importance != nil {
			importance = importance[superLen:]
		}
	}
}

// Q5_K, 176 bytes:
//
//	 0  d, half precision
//	 2  dmin, half precision
//	 4  12 bytes: scales and minima of the 8 groups, see scaleMinK
//	16  32 bytes: the high bits of the levels, in planes of 256 elements
//	48  128 bytes: the low 4 bits of the levels, in planes of 64 elements
//
// x = d * scale * q - dmin * minimum
func decodeQ5_K(dst []float32, src []byte) {
	for ; len(src) > 0; src, dst = src[176:], dst[superLen:] {
		d, dmin := halfToFloat(src), halfToFloat(src[2:])
		for j := range 8 {
			sc, m := scaleMinK(src[4:], j)
			scale, minimum := d*float32(sc), dmin*float32(m)
			hi, q, shift := src[16:], src[48+32*(j/2):], 4*(j%2)
			for i := range 32 {
				level := q[i]>>shift&15 | hi[i]>>j&1<<4
				dst[32*j+i] = float32(scale*float32(level)) - minimum
			}
		}
	}
}

func encodeQ5_K(dst []byte, row, importance []float32) {
	search := affineSearch{top: 31, first: -0.5, step: 0.1, steps: 15}
	if importance != nil {
		search = importanceSearch(31)
	}
	var levels, high [superLen]uint8
	for ; len(row) > 0; row, dst = row[superLen:], dst[176:] {
		encodeScalesK(dst, &levels, row[:superLen], importance, search)
		for i, l := range levels {
			levels[i], high[i] = l&15, l>>4
		}
		putPlanes(dst[16:], high[:], 1)
		for j := range 4 {
			putPlanes(dst[48+32*j:], levels[64*j:][:64], 4)
		}
		if importance != nil {
			importance = importance[superLen:]
		}
	}
}

// Q6_K, 210 bytes:
//
//	  0  128 bytes: the low 4 bits of the levels; 64 bytes for 128 elements,
//	     elements 0 to 63 in the low and 64 to 127 in the high halves
//	128  64 bytes: the high 2 bits, in planes of 128 elements
//	192  16 signed bytes, one per group of 16: scales
//	208  d, half precision
//
// x = d * scale * (q - 32)
func decodeQ6_K(dst []float32, src []byte) {
	for ; len(src) > 0; src, dst = src[210:], dst[superLen:] {
		d := halfToFloat(src[208:])
		for j := range 16 {
			scale := d * float32(int8(src[192+j]))
			half, part := j/8, j%8 // of the super-block, of the half
			low, lowShift := src[64*half+16*(part%4):], 4*(part/4)
			high, highShift := src[128+32*half+16*(part%2):], 2*(part/2)
			for i := range 16 {
				level := low[i]>>lowShift&15 | high[i]>>highShift&3<<4
				dst[16*j+i] = scale * float32(int(level)-32)
			}
		}
	}
}

func encodeQ6_K(dst []byte, row, importance []float32) {
	var (
		levels  [superLen]uint8
		scale   [16]float32
		squares [16]float32
	)
	for ; len(row) > 0; row, dst = row[superLen:], dst[210:] {
		x := row[:superLen]
		for j := range 16 {
			xg := x[16*j:][:16]
			weight := squares[:]
			if importance != nil {
				weight = importance[16*j:][:16]
			} else {
				for i, v := range xg {
					squares[i] = v * v
				}
			}
			scale[j] = fitSigned(32, levels[16*j:], xg, weight)
		}
		if importance != nil {
			importance = importance[superLen:]
		}
		largest, magnitude := extreme(scale[:])
		if magnitude < tooSmall {
			clear(dst[:210])
			continue
		}
		inv := -128 / largest
		putHalf(dst[208:], 1/inv)
		d := halfToFloat(dst[208:])
		for j, v := range scale {
			l := int8(min(127, nearestInt(inv*v)))
			dst[192+j] = byte(l)
			requantizeSigned(levels[16*j:], x[16*j:][:16], 32, d*float32(l))
		}
		for half := range 2 {
			for i := range 64 {
				q := levels[128*half+i:]
				dst[64*half+i] = q[0]&15 | q[64]&15<<4
			}
			for i, l := range levels[128*half:][:128] {
				levels[128*half+i] = l >> 4
			}
			putPlanes(dst[128+32*half:], levels[128*half:][:128], 2)
		}
	}
}
