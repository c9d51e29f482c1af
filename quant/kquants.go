package quant

import (
	"encoding/binary"
	"slices"
)

// K-quants: super-blocks of 256 elements in groups of 16 or 32. A group's scale
// (and minimum) is itself a level times a half-precision number of the
// super-block. Levels are packed in planes: 32 consecutive bytes hold the same
// bits of 32 consecutive elements, and the next 32 elements take the next bits
// of the same bytes.

const superLen = 256

// putPlanes is the plain form of KLevels.Planes.
func putPlanes(dst, levels []uint8, shift, bits int) {
	mask := uint64(1<<bits-1) * 0x0101010101010101
	for i := 0; i < 32; i += 8 { // eight bytes at a time
		var b uint64
		for j := 0; 32*j < len(levels); j++ {
			b |= binary.LittleEndian.Uint64(levels[32*j+i:]) >> (shift & 63) & mask << (bits * j & 63)
		}
		binary.LittleEndian.PutUint64(dst[i:], b)
	}
}

// A kForm is what the encoders of two K-quants have different.
type kForm struct {
	size     int // bytes of a super-block
	group    int // elements that share a scale
	top      int // the highest level where groups have minima,
	half     int // or else the offset of levels
	scaleTop int // the highest level of scales and minima
	plain    AffineTrials
	weighted AffineTrials // with importance
}

var kForms = map[Type]*kForm{
	Q2_K: {size: 84, group: 16, top: 3, scaleTop: 15, plain: absolute(affineTrials(3, -0.5, 0.1, 15)), weighted: ImportanceTrials(3)},
	Q3_K: {size: 110, group: 16, half: 4},
	Q4_K: {size: 144, group: 32, top: 15, scaleTop: 63, plain: affineTrials(15, -1, 0.1, 20), weighted: ImportanceTrials(15)},
	Q5_K: {size: 176, group: 32, top: 31, scaleTop: 63, plain: affineTrials(31, -0.5, 0.1, 15), weighted: ImportanceTrials(31)},
	Q6_K: {size: 210, group: 16, half: 32},
}

func absolute(t AffineTrials) AffineTrials {
	t.Absolute = true
	return t
}

// KTrials returns what the search of Q2_K, Q4_K or Q5_K tries.
func KTrials(t Type, weighted bool) *AffineTrials {
	if weighted {
		return &kForms[t].weighted
	}
	return &kForms[t].plain
}

// A KFit is a super-block on its way to bytes. Package kernels has faster forms
// of single steps and leaves the rest to the methods; Encode uses the methods
// only.
type KFit struct {
	// What Search finds: for each group its scale and the negative of its
	// minimum, and that levels are (x-Base)*Inv, rounded. Q3_K and Q6_K have
	// no minima and no Base. SumW is the sum of weights, with importance.
	Scale, NegMin, Inv, Base, SumW [16]float32
	// What Round makes of them: the scale of group j is near D*LScale[j], the
	// negative minimum near DMin*LMin[j]. Q3_K and Q6_K have an offset of 32
	// and none.
	D, DMin      float32
	LScale, LMin [16]uint8
	// Levels are those of Put. Of Q3_K and Q6_K, Search sets those of groups
	// without Inv: of zeros, and without importance all of Q3_K.
	Levels [superLen]uint8

	stored, storedMin [16]float32 // scales and minima as the block has them
}

// Search is the first step: x is one super-block, importance nil or its
// weights.
func (f *KFit) Search(t Type, x, importance []float32) {
	var sigma2 float32
	if importance != nil {
		sigma2 = KSigma2(t, sumSquares(x))
	}
	for j := range superLen / kForms[t].group {
		f.searchGroup(t, j, x, importance, sigma2)
	}
}

// SearchGroup does the first step for group j of a super-block x, without
// importance.
func (f *KFit) SearchGroup(t Type, j int, x []float32) { f.searchGroup(t, j, x, nil, 0) }

func (f *KFit) searchGroup(t Type, j int, x, importance []float32, sigma2 float32) {
	var weight [32]float32
	form := kForms[t]
	w, xg := weight[:form.group], x[form.group*j:][:form.group]
	switch {
	case importance != nil && t == Q6_K:
		copy(w, importance[16*j:])
	case importance != nil:
		f.SumW[j] = scaleImportance(w, importance[form.group*j:], xg, sigma2)
	case t == Q2_K:
		for i, v := range xg {
			w[i] = abs32(v)
		}
	case t == Q3_K:
		f.Scale[j] = fitSignedGreedy(4, f.Levels[16*j:], xg)
		return
	case t == Q6_K:
		for i, v := range xg {
			w[i] = v * v
		}
	default:
		mean := sqrt32(sumSquares(xg) / float32(form.group))
		for i, v := range xg {
			w[i] = mean + abs32(v)
		}
	}
	if form.half > 0 {
		f.Scale[j], f.Inv[j] = fitSigned(form.half, xg, w)
		return
	}
	fit := FitAffine(KTrials(t, importance != nil), xg, w)
	f.Scale[j], f.NegMin[j], f.Inv[j], f.Base[j] = fit.Scale, fit.NegMin, fit.Inv, fit.Base
}

// KSigma2 returns what is added to squares before importance is applied: the
// mean square of the super-block, for most types twice that.
func KSigma2(t Type, sumSquares float32) float32 {
	if t == Q2_K {
		return sumSquares / superLen
	}
	return 2 * sumSquares / superLen
}

// Round is the second step: it rounds scales and minima to multiples of D and
// DMin. With importance those are searched, without they follow from the
// largest.
func (f *KFit) Round(t Type, weighted bool) {
	form := kForms[t]
	n := superLen / form.group
	switch {
	case t == Q6_K:
		f.roundQ6()
	case t == Q3_K && weighted:
		var inv float32
		f.D, inv = fitSigned(32, f.Scale[:], f.SumW[:])
		signedLevels(32, f.LScale[:], f.Scale[:], inv)
	case t == Q3_K:
		f.roundQ3()
	case weighted:
		f.D = fitUnsigned(form.scaleTop, f.LScale[:n], f.Scale[:n], f.SumW[:n])
		f.DMin = fitUnsigned(form.scaleTop, f.LMin[:n], f.NegMin[:n], f.SumW[:n])
	default:
		f.D = roundScales(form.scaleTop, f.LScale[:n], f.Scale[:n])
		f.DMin = roundScales(form.scaleTop, f.LMin[:n], f.NegMin[:n])
	}
	if t == Q5_K || (t == Q4_K && !weighted) {
		for j := range n {
			f.LScale[j], f.LMin[j] = min(63, f.LScale[j]), min(63, f.LMin[j])
		}
	}
}

// roundScales sets levels to x in units of 1/top of the largest x, and returns
// that unit. A negative x gives a level that wraps around, as in ggml.
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

func (f *KFit) roundQ3() {
	clear(f.LScale[:])
	f.D = 0
	if largest, _ := extreme(f.Scale[:]); largest != 0 {
		inv := -32 / largest
		for j, v := range f.Scale {
			// Only 8 bits of the rounded number count.
			f.LScale[j] = uint8(max(-32, min(31, int8(nearestInt(inv*v)))) + 32)
		}
		f.D = 1 / inv
	}
}

// roundQ6 stores scales as they are in the block: 8 bits and a sign.
func (f *KFit) roundQ6() {
	clear(f.LScale[:])
	f.D = 0
	if largest, magnitude := extreme(f.Scale[:]); magnitude >= tooSmall {
		inv := -128 / largest
		for j, v := range f.Scale {
			f.LScale[j] = uint8(int8(min(127, nearestInt(inv*v))))
		}
		f.D = 1 / inv
	}
}

// KLevels sets the levels of the groups of a super-block, for scales and minima
// as they are stored: (x+minimum)/scale, rounded and limited to [0, top]; or
// x/scale limited to [-half, half), plus half. What it does where a scale is 0
// does not matter.
//
// Planes packs bits of levels, from bit shift on: byte i of dst gets those of
// elements i, i+32, i+64 ..., the first in the lowest bits. len(levels) is 32
// times what fits a byte, dst has at least 32 bytes.
type KLevels struct {
	Affine func(levels *[superLen]uint8, x []float32, top int, scale, minimum []float32)
	Signed func(levels *[superLen]uint8, x []float32, half int, scale []float32)
	Planes func(dst, levels []uint8, shift, bits int)
}

// PlainKLevels are the plain forms.
var PlainKLevels = KLevels{
	Affine: func(levels *[superLen]uint8, x []float32, top int, scale, minimum []float32) {
		group := superLen / len(scale)
		for i, v := range x {
			j := i / group
			levels[i] = uint8(max(0, min(top, nearestInt((v+minimum[j])/scale[j]))))
		}
	},
	Signed: func(levels *[superLen]uint8, x []float32, half int, scale []float32) {
		for i, v := range x {
			levels[i] = uint8(half + signedLevel(half, v/scale[i/16]))
		}
	},
	Planes: putPlanes,
}

// Put is the last step: it sets the levels and stores the block. A group whose
// scale is stored as 0 has the levels that the search found.
func (f *KFit) Put(t Type, dst []byte, x []float32, kernel *KLevels) {
	switch t {
	case Q2_K:
		f.putQ2(dst, x, kernel)
	case Q3_K:
		f.putQ3(dst, x, kernel)
	case Q6_K:
		f.putQ6(dst, x, kernel)
	default:
		f.putQ45(t, dst, x, kernel)
	}
}

func (f *KFit) setAffine(form *kForm, x []float32, kernel *KLevels, scale, minimum []float32) {
	kernel.Affine(&f.Levels, x, form.top, scale, minimum)
	for j, d := range scale {
		if d == 0 {
			g := form.group * j
			affineLevels(form.top, f.Levels[g:], x[g:][:form.group], f.Inv[j], f.Base[j])
		}
	}
}

// setSigned also serves Q3_K without importance, whose levels come from the
// search; they have no inverse.
func (f *KFit) setSigned(form *kForm, x []float32, kernel *KLevels, scale []float32) {
	if !slices.Contains(scale, 0) {
		kernel.Signed(&f.Levels, x, form.half, scale)
		return
	}
	found := f.Levels
	kernel.Signed(&f.Levels, x, form.half, scale)
	for j, d := range scale {
		switch levels := f.Levels[16*j:][:16]; {
		case d != 0:
		case f.Inv[j] == 0:
			copy(levels, found[16*j:])
		default:
			signedLevels(form.half, levels, x[16*j:][:16], f.Inv[j])
		}
	}
}

func encodeK(t Type) func(dst []byte, row, importance []float32) {
	return func(dst []byte, row, importance []float32) {
		size := kForms[t].size
		for ; len(row) > 0; row, dst = row[superLen:], dst[size:] {
			var f KFit
			f.Search(t, row[:superLen], importance)
			f.Round(t, importance != nil)
			f.Put(t, dst[:size], row[:superLen], &PlainKLevels)
			if importance != nil {
				importance = importance[superLen:]
			}
		}
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

func (f *KFit) putQ2(dst []byte, x []float32, kernel *KLevels) {
	putHalf(dst[80:], f.D)
	putHalf(dst[82:], f.DMin)
	d, dmin := halfToFloat(dst[80:]), halfToFloat(dst[82:])
	scale, minimum := &f.stored, &f.storedMin
	for j := range 16 {
		dst[j] = f.LScale[j] | f.LMin[j]<<4
		scale[j], minimum[j] = d*float32(dst[j]&15), dmin*float32(dst[j]>>4)
	}
	f.setAffine(kForms[Q2_K], x, kernel, scale[:], minimum[:])
	kernel.Planes(dst[16:], f.Levels[:128], 0, 2)
	kernel.Planes(dst[48:], f.Levels[128:], 0, 2)
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
	const low, high = 0x0f0f0f0f0f0f0f0f, 0x0303030303030303
	a, b := binary.LittleEndian.Uint64(scales[:]), binary.LittleEndian.Uint64(scales[8:])
	binary.LittleEndian.PutUint64(packed, a&low|b&low<<4)
	a, b = a>>4&high, b>>4&high
	a |= b << 4                                                // groups j and j+8
	binary.LittleEndian.PutUint32(packed[8:], uint32(a|a>>30)) // and j+4, j+12
}

func (f *KFit) putQ3(dst []byte, x []float32, kernel *KLevels) {
	putScalesQ3(dst[96:], &f.LScale)
	putHalf(dst[108:], f.D)
	d := halfToFloat(dst[108:])
	scale := &f.stored
	for j, l := range f.LScale {
		scale[j] = d * float32(int(l)-32)
	}
	f.setSigned(kForms[Q3_K], x, kernel, scale[:])
	kernel.Planes(dst[32:], f.Levels[:128], 0, 2)
	kernel.Planes(dst[64:], f.Levels[128:], 0, 2)
	kernel.Planes(dst, f.Levels[:], 2, 1)
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
func (f *KFit) putScalesMinsK(packed []byte) {
	for j := range 4 {
		packed[j] = f.LScale[j] | f.LScale[j+4]>>4<<6
		packed[j+4] = f.LMin[j] | f.LMin[j+4]>>4<<6
		packed[j+8] = f.LScale[j+4]&15 | f.LMin[j+4]<<4
	}
}

// putQ45 stores a block of Q4_K or Q5_K.
func (f *KFit) putQ45(t Type, dst []byte, x []float32, kernel *KLevels) {
	putHalf(dst, f.D)
	putHalf(dst[2:], f.DMin)
	f.putScalesMinsK(dst[4:])
	d, dmin := halfToFloat(dst), halfToFloat(dst[2:])
	scale, minimum := f.stored[:8], f.storedMin[:8]
	for j := range 8 {
		sc, m := scaleMinK(dst[4:], j)
		scale[j], minimum[j] = d*float32(sc), dmin*float32(m)
	}
	f.setAffine(kForms[t], x, kernel, scale[:], minimum[:])
	low := dst[len(dst)-superLen/2:]
	for j := range 4 {
		kernel.Planes(low[32*j:], f.Levels[64*j:][:64], 0, 4)
	}
	if t == Q5_K {
		kernel.Planes(dst[16:], f.Levels[:], 4, 1)
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

func (f *KFit) putQ6(dst []byte, x []float32, kernel *KLevels) {
	if f.D == 0 {
		clear(dst)
		return
	}
	putHalf(dst[208:], f.D)
	d := halfToFloat(dst[208:])
	scale := &f.stored
	for j, l := range f.LScale {
		dst[192+j] = l
		scale[j] = d * float32(int8(l))
	}
	f.setSigned(kForms[Q6_K], x, kernel, scale[:])
	for half := range 2 {
		// Elements 64 apart share a byte, so that a plane is twice as wide.
		for i := range 2 {
			var pair [64]uint8
			copy(pair[:32], f.Levels[128*half+32*i:])
			copy(pair[32:], f.Levels[128*half+32*i+64:])
			kernel.Planes(dst[64*half+32*i:], pair[:], 0, 4)
		}
	}
	kernel.Planes(dst[128:], f.Levels[:128], 4, 2)
	kernel.Planes(dst[160:], f.Levels[128:], 4, 2)
}
