package kernels

import (
	"encoding/binary"
	"math"

	"github.com/smeltgguf/smelt/quant"
)

// A form is how a type's weights are brought into unsigned bytes for integer
// products: w = scale*(u-zero) + offset, with one scale and offset for each
// group of consecutive elements of a row. Every type has one; the layouts of
// the blocks are those of ggml-common.h.
type form struct {
	group int  // elements that share a scale: 16 or 32
	shift uint // zero is 1<<shift, or 0 where shift is noZero
	// offset tells that the type has offsets; without, none are stored.
	offset bool
	// unpack writes the form of whole blocks of a row. nil: the type has no
	// integer form and its decoded values are rounded to one.
	unpack func(u []byte, scale, offset []float32, src []byte)
}

const noZero = 32

// zero returns what is subtracted from the unsigned bytes.
func (f *form) zero() byte { return byte(uint32(1) << f.shift) }

// rounded is the form of types without an integer form of their own.
var rounded = form{group: 32, shift: 7}

// forms holds the form of each type, indexed by quant.Type.
var forms = [43]form{
	quant.Q4_0:   {32, 3, false, unpackQ4_0},
	quant.Q4_1:   {32, noZero, true, unpackQ4_1},
	quant.Q5_0:   {32, 4, false, unpackQ5_0},
	quant.Q5_1:   {32, noZero, true, unpackQ5_1},
	quant.Q8_0:   {32, 7, false, unpackQ8_0},
	quant.Q2_K:   {16, noZero, true, unpackQ2K},
	quant.Q3_K:   {16, 2, false, unpackQ3K},
	quant.Q4_K:   {32, noZero, true, unpackQ4K},
	quant.Q5_K:   {32, noZero, true, unpackQ5K},
	quant.Q6_K:   {16, 5, false, unpackQ6K},
	quant.IQ4_NL: {32, 7, false, unpackIQ4NL},
	quant.IQ4_XS: {32, 7, false, unpackIQ4XS},
	quant.MXFP4:  {32, 4, false, unpackMXFP4},
	quant.NVFP4:  {16, 4, false, unpackNVFP4},
	quant.TQ1_0:  {32, 0, false, unpackTQ1},
	quant.TQ2_0:  {32, 0, false, unpackTQ2},
	quant.Q1_0:   {32, 0, false, unpackQ1_0},
	quant.Q2_0:   {32, 0, false, unpackQ2_0},

	quant.IQ1_S:   {32, 4, false, unpackIQ1S},
	quant.IQ1_M:   {16, 4, false, unpackIQ1M},
	quant.IQ2_XXS: {32, 7, false, unpackIQ2XXS},
	quant.IQ2_XS:  {16, 7, false, unpackIQ2XS},
	quant.IQ2_S:   {16, 7, false, unpackIQ2S},
	quant.IQ3_XXS: {32, 7, false, unpackIQ3XXS},
	quant.IQ3_S:   {32, 7, false, unpackIQ3S},
}

func init() {
	for t := range forms {
		if forms[t].unpack == nil {
			forms[t] = rounded
		}
	}
}

// unpack brings part of a row, the blocks of src, into its form. u, scale and
// offset have room for whole groups of 32; elements past the row's end become
// zero times a scale. The caller counts the blocks: it is called so often that
// divisions show.
func unpack(t quant.Type, u []byte, scale, offset []float32, src []byte, blocks int, s *scratch) {
	if f := forms[t].unpack; f != nil {
		if !unpackSIMD(t, u, scale, offset, src, blocks) {
			f(u, scale, offset, src)
		}
		return
	}
	n := blocks * t.BlockLen()
	groups := (n + 31) / 32
	s.dots = grow(s.dots, n)
	s.isums = grow(s.isums, 2*groups)
	DecodeRow(t, s.dots, src)
	quantizeRow(u[:groups*32], scale[:groups], s.isums, s.dots, 0x80)
}

// decode expands part of a row to float32, with the values of quant.Decode.
func decode(t quant.Type, dst []float32, src []byte, s *scratch) {
	f := &forms[t]
	if f.unpack == nil {
		DecodeRow(t, dst, src)
		return
	}
	s.unpack(t, src, len(dst))
	expand(f, dst, s.bytes, s.row16, s.off16)
}

// decodeDot returns the product of a row with x, decoded by decode's arithmetic.
func decodeDot(t quant.Type, row []byte, x []float32, s *scratch) float32 {
	f := &forms[t]
	s.row = grow(s.row, len(x))
	if f.unpack == nil {
		DecodeRow(t, s.row, row)
		return dotF32(s.row, x)
	}
	s.unpack(t, row, len(x))
	if dot, ok := dotForm(f, s.bytes, s.row16, s.off16, x); ok {
		return dot
	}
	expand(f, s.row, s.bytes, s.row16, s.off16)
	return dotF32(s.row, x)
}

// unpack brings n elements into their form, in s.
func (s *scratch) unpack(t quant.Type, src []byte, n int) {
	s.bytes = grow(s.bytes, n)
	s.row16 = grow(s.row16, n/16)
	s.off16 = grow(s.off16, n/16)
	if !unpackSIMD(t, s.bytes, s.row16, s.off16, src, len(src)/t.BlockSize()) {
		forms[t].unpack(s.bytes, s.row16, s.off16, src)
	}
}

// expandGo computes dst[i] = scale[g]*(u[i]-zero) + offset[g], g = i/group.
func expandGo(f *form, dst []float32, u []byte, scale, offset []float32) {
	zero := int32(f.zero())
	for i := range dst {
		g := i / f.group
		v := float32(scale[g] * float32(int32(u[i])-zero))
		if f.offset {
			v += offset[g]
		}
		dst[i] = v
	}
}

// quantize32 rounds 32 values to x[i] ≈ scale*int8(q[i]), the largest to 127,
// and returns the scale. If a value is not finite the scale is NaN, so that
// what is computed from it is NaN.
func quantize32(q []byte, x []float32) float32 {
	var amax float32
	for _, v := range x[:32] {
		amax = max(amax, abs32(v)) // NaN if there is one
	}
	if amax == 0 || amax-amax != 0 {
		clear(q[:32])
		return amax - amax
	}
	scale := amax / 127
	inv := 127 / amax
	if inv > math.MaxFloat32 { // amax is subnormal
		scale, inv = 0, 0
	}
	for i, v := range x[:32] {
		q[i] = byte(int8(math.RoundToEven(float64(v * inv))))
	}
	return scale
}

func abs32(x float32) float32 { return math.Float32frombits(math.Float32bits(x) &^ (1 << 31)) }

// half reads an IEEE half-precision number.
func half(b []byte) float32 { return halfToFloat(binary.LittleEndian.Uint16(b)) }

// halfToFloat converts through the exponent: shifted into place, a half is a
// float32 that is 2^112 too small.
func halfToFloat(h uint16) float32 {
	sign := uint32(h&0x8000) << 16
	if h&0x7c00 == 0x7c00 {
		return math.Float32frombits(sign | 0x7f800000 | uint32(h&0x3ff)<<13)
	}
	return math.Float32frombits(sign | math.Float32bits(math.Float32frombits(uint32(h&0x7fff)<<13)*0x1p112))
}

// nibbles spreads 16 bytes: low nibbles to u[0:16], high ones to u[16:32].
func nibbles(u, q []byte) {
	u, q = u[:32], q[:16]
	for i, b := range q {
		u[i], u[i+16] = b&15, b>>4
	}
}

func unpackQ4_0(u []byte, scale, _ []float32, src []byte) {
	for g := 0; len(src) >= 18; g, src = g+1, src[18:] {
		scale[g] = half(src)
		nibbles(u[32*g:], src[2:])
	}
}

func unpackQ4_1(u []byte, scale, offset []float32, src []byte) {
	for g := 0; len(src) >= 20; g, src = g+1, src[20:] {
		scale[g], offset[g] = half(src), half(src[2:])
		nibbles(u[32*g:], src[4:])
	}
}

// fifth adds bit i of h to element i as its value 16.
func fifth(u []byte, h uint32) {
	for i := range u[:32] {
		u[i] |= byte(h>>i&1) << 4
	}
}

func unpackQ5_0(u []byte, scale, _ []float32, src []byte) {
	for g := 0; len(src) >= 22; g, src = g+1, src[22:] {
		scale[g] = half(src)
		nibbles(u[32*g:], src[6:])
		fifth(u[32*g:], binary.LittleEndian.Uint32(src[2:]))
	}
}

func unpackQ5_1(u []byte, scale, offset []float32, src []byte) {
	for g := 0; len(src) >= 24; g, src = g+1, src[24:] {
		scale[g], offset[g] = half(src), half(src[2:])
		nibbles(u[32*g:], src[8:])
		fifth(u[32*g:], binary.LittleEndian.Uint32(src[4:]))
	}
}

func unpackQ8_0(u []byte, scale, _ []float32, src []byte) {
	for g := 0; len(src) >= 34; g, src = g+1, src[34:] {
		scale[g] = half(src)
		for i, q := range src[2:34] {
			u[32*g+i] = q ^ 0x80
		}
	}
}

func scalesQ2K(scale, offset []float32, src []byte) {
	d, dmin := half(src[80:]), half(src[82:])
	for g, sc := range src[:16] {
		scale[g], offset[g] = d*float32(sc&15), -(dmin * float32(sc>>4))
	}
}

func unpackQ2K(u []byte, scale, offset []float32, src []byte) {
	for ; len(src) >= 84; u, scale, offset, src = u[256:], scale[16:], offset[16:], src[84:] {
		scalesQ2K(scale, offset, src)
		for i := range 256 {
			u[i] = src[16+i/128*32+i%32] >> (i / 32 % 4 * 2) & 3
		}
	}
}

func scalesQ3K(scale []float32, src []byte) {
	d, sc := half(src[108:]), src[96:108]
	for g := range 16 {
		// 6 bits: low 4 from the first 8 bytes, high 2 from the last 4.
		low := sc[g%8] >> (g / 8 * 4) & 15
		high := sc[8+g%4] >> (g / 4 * 2) & 3
		scale[g] = d * float32(int(low|high<<4)-32)
	}
}

func unpackQ3K(u []byte, scale, _ []float32, src []byte) {
	for ; len(src) >= 110; u, scale, src = u[256:], scale[16:], src[110:] {
		scalesQ3K(scale, src)
		for i := range 256 {
			u[i] = src[32+i/128*32+i%32]>>(i/32%4*2)&3 | src[i%32]>>(i/32)&1<<2
		}
	}
}

// scalesK reads the eight 6-bit scales and minimums of Q4_K and Q5_K.
func scalesK(scale, offset []float32, src []byte) {
	d, dmin, q := half(src), half(src[2:]), src[4:16]
	for g := range 8 {
		var sc, m byte
		if g < 4 {
			sc, m = q[g]&63, q[g+4]&63
		} else {
			sc, m = q[g+4]&15|q[g-4]>>6<<4, q[g+4]>>4|q[g]>>6<<4
		}
		scale[g], offset[g] = d*float32(sc), -(dmin * float32(m))
	}
}

func unpackQ4K(u []byte, scale, offset []float32, src []byte) {
	for ; len(src) >= 144; u, scale, offset, src = u[256:], scale[8:], offset[8:], src[144:] {
		scalesK(scale, offset, src)
		for i, q := range src[16:144] {
			at := i/32*64 + i%32
			u[at], u[at+32] = q&15, q>>4
		}
	}
}

func unpackQ5K(u []byte, scale, offset []float32, src []byte) {
	for ; len(src) >= 176; u, scale, offset, src = u[256:], scale[8:], offset[8:], src[176:] {
		scalesK(scale, offset, src)
		for i, q := range src[48:176] {
			at := i/32*64 + i%32
			h := src[16+i%32] >> (i / 32 * 2)
			u[at], u[at+32] = q&15|h&1<<4, q>>4|h>>1&1<<4
		}
	}
}

func scalesQ6K(scale []float32, src []byte) {
	d := half(src[208:])
	for g, sc := range src[192:208] {
		scale[g] = d * float32(int8(sc))
	}
}

func unpackQ6K(u []byte, scale, _ []float32, src []byte) {
	for ; len(src) >= 210; u, scale, src = u[256:], scale[16:], src[210:] {
		scalesQ6K(scale, src)
		for i := range 256 {
			part := i / 32 % 4
			low := src[i/128*64+part%2*32+i%32] >> (part / 2 * 4) & 15
			high := src[128+i/128*32+i%32] >> (2 * part) & 3
			u[i] = low | high<<4
		}
	}
}

// levelsIQ4 are the levels of IQ4_NL and IQ4_XS plus 128 (ggml-common.h,
// kvalues_iq4nl).
var levelsIQ4 = [16]byte{1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241}

// levelsFP4 are twice the values of E2M1, plus 16 (OCP Microscaling Formats
// specification 1.0, section 5.3.3).
var levelsFP4 = [16]byte{16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4}

// lookup replaces the nibbles of q by levels, in the order of nibbles.
func lookup(u, q []byte, levels *[16]byte) {
	h := len(q)
	for i, b := range q {
		u[i], u[i+h] = levels[b&15], levels[b>>4]
	}
}

func unpackIQ4NL(u []byte, scale, _ []float32, src []byte) {
	for g := 0; len(src) >= 18; g, src = g+1, src[18:] {
		scale[g] = half(src)
		lookup(u[32*g:], src[2:18], &levelsIQ4)
	}
}

func scalesIQ4XS(scale []float32, src []byte) {
	d, high := half(src), binary.LittleEndian.Uint16(src[2:])
	for g := range 8 {
		sc := src[4+g/2]>>(g%2*4)&15 | byte(high>>(2*g)&3)<<4
		scale[g] = d * float32(int(sc)-32)
	}
}

func unpackIQ4XS(u []byte, scale, _ []float32, src []byte) {
	for ; len(src) >= 136; u, scale, src = u[256:], scale[8:], src[136:] {
		scalesIQ4XS(scale, src)
		for g := range 8 {
			lookup(u[32*g:], src[8+16*g:24+16*g], &levelsIQ4)
		}
	}
}

// halfE8M0 returns half of 2^(e-127), for the levels are twice the values.
func halfE8M0(e byte) float32 {
	if e >= 2 {
		return math.Float32frombits(uint32(e-1) << 23)
	}
	return math.Float32frombits(uint32(0x00200000) << e)
}

func unpackMXFP4(u []byte, scale, _ []float32, src []byte) {
	for g := 0; len(src) >= 17; g, src = g+1, src[17:] {
		scale[g] = halfE8M0(src[0])
		lookup(u[32*g:], src[1:17], &levelsFP4)
	}
}

func unpackNVFP4(u []byte, scale, _ []float32, src []byte) {
	for ; len(src) >= 36; u, scale, src = u[64:], scale[4:], src[36:] {
		for g := range 4 {
			scale[g] = halfUE4M3(src[g])
			lookup(u[16*g:], src[4+8*g:12+8*g], &levelsFP4)
		}
	}
}

// halfUE4M3 returns half the value of an unsigned 8-bit float with 4 bits of
// exponent (bias 7) and 3 of mantissa; 0x7f, a NaN, counts as zero, and the
// top bit is not looked at.
func halfUE4M3(x byte) float32 {
	if x == 0x7f {
		return 0
	}
	exp, man := int(x>>3&15), float64(x&7)
	if exp == 0 {
		return float32(math.Ldexp(man, -10))
	}
	return float32(math.Ldexp(1+man/8, exp-8))
}

// trits reads digit n (0 to 4) of the base-3 fraction in q.
func trit(q byte, n int) byte {
	return byte(uint16(q*[5]byte{1, 3, 9, 27, 81}[n]) * 3 >> 8)
}

func unpackTQ1(u []byte, scale, _ []float32, src []byte) {
	for ; len(src) >= 54; u, scale, src = u[256:], scale[8:], src[54:] {
		fill(scale[:8], half(src[52:]))
		for n := range 5 {
			for i := range 32 {
				u[32*n+i] = trit(src[i], n)
			}
			for i := range 16 {
				u[160+16*n+i] = trit(src[32+i], n)
			}
		}
		for n := range 4 {
			for i := range 4 {
				u[240+4*n+i] = trit(src[48+i], n)
			}
		}
	}
}

func unpackTQ2(u []byte, scale, _ []float32, src []byte) {
	for ; len(src) >= 66; u, scale, src = u[256:], scale[8:], src[66:] {
		fill(scale[:8], half(src[64:]))
		for i := range 256 {
			u[i] = src[i/128*32+i%32] >> (i / 32 % 4 * 2) & 3
		}
	}
}

func unpackQ1_0(u []byte, scale, _ []float32, src []byte) {
	for ; len(src) >= 18; u, scale, src = u[128:], scale[4:], src[18:] {
		fill(scale[:4], half(src))
		for i := range 128 {
			u[i] = src[2+i/8] >> (i % 8) & 1 << 1
		}
	}
}

func unpackQ2_0(u []byte, scale, _ []float32, src []byte) {
	for ; len(src) >= 18; u, scale, src = u[64:], scale[2:], src[18:] {
		fill(scale[:2], half(src))
		for i := range 64 {
			u[i] = src[2+i/4] >> (i % 4 * 2) & 3
		}
	}
}

func fill(s []float32, v float32) {
	for i := range s {
		s[i] = v
	}
}
