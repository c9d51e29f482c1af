package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

func layout() {
	transpose16AVX512()
	transpose8AVX2()
	for _, w := range []width{avx512, avx2} {
		fromHalf(w)
		toHalf(w)
		expand(w)
	}
	quantizeRowAVX2()
	packGroupAVX512()
}

// transpose16AVX512 swaps 32-bit elements in pairs, pairs in fours, then
// 128-bit lanes.
func transpose16AVX512() {
	text("transpose16AVX512", "func(dst *byte, ds uintptr, src *byte, ss uintptr)",
		"transpose16AVX512 transposes 16x16 elements of 4 bytes; strides are in bytes:",
		"",
		"\tdst[j*ds+4*i:][:4] = src[i*ss+4*j:][:4]")
	dst, ds, src, ss := load("dst"), load("ds"), load("src"), load("ss")
	for i := range 16 {
		VMOVUPS(ptr(src, 0), zmm[i])
		if i < 15 {
			ADDQ(ss, src)
		}
	}
	// Rows of 4x4 blocks inside each lane.
	for i := 0; i < 16; i += 4 {
		VUNPCKLPS(zmm[i+1], zmm[i], zmm[16])
		VUNPCKHPS(zmm[i+1], zmm[i], zmm[17])
		VUNPCKLPS(zmm[i+3], zmm[i+2], zmm[18])
		VUNPCKHPS(zmm[i+3], zmm[i+2], zmm[19])
		VUNPCKLPD(zmm[18], zmm[16], zmm[i])
		VUNPCKHPD(zmm[18], zmm[16], zmm[i+1])
		VUNPCKLPD(zmm[19], zmm[17], zmm[i+2])
		VUNPCKHPD(zmm[19], zmm[17], zmm[i+3])
	}
	// Register 4*b+c now holds, in lane l, column 4*l+c of rows 4*b to 4*b+3.
	for c := range 4 {
		VSHUFF32X4(U8(0x88), zmm[4+c], zmm[c], zmm[16])    // lanes 0 2 of blocks 0 1
		VSHUFF32X4(U8(0xdd), zmm[4+c], zmm[c], zmm[17])    // lanes 1 3
		VSHUFF32X4(U8(0x88), zmm[12+c], zmm[8+c], zmm[18]) // blocks 2 3
		VSHUFF32X4(U8(0xdd), zmm[12+c], zmm[8+c], zmm[19])
		VSHUFF32X4(U8(0x88), zmm[18], zmm[16], zmm[c])    // lane 0: column c
		VSHUFF32X4(U8(0x88), zmm[19], zmm[17], zmm[4+c])  // lane 1: column 4+c
		VSHUFF32X4(U8(0xdd), zmm[18], zmm[16], zmm[8+c])  // lane 2
		VSHUFF32X4(U8(0xdd), zmm[19], zmm[17], zmm[12+c]) // lane 3
	}
	// What the next call of transposeOut writes is far from this.
	ahead := GP64()
	MOVQ(ds, ahead)
	SHLQ(U8(4), ahead)
	for i := range 16 {
		PREFETCHT0(Mem{Base: dst, Index: ahead, Scale: 1})
		VMOVUPS(zmm[i], ptr(dst, 0))
		if i < 15 {
			ADDQ(ds, dst)
		}
	}
	ret()
}

func transpose8AVX2() {
	text("transpose8AVX2", "func(dst *byte, ds uintptr, src *byte, ss uintptr)",
		"transpose8AVX2 transposes 8x8 elements of 4 bytes; strides are in bytes:",
		"",
		"\tdst[j*ds+4*i:][:4] = src[i*ss+4*j:][:4]")
	dst, ds, src, ss := load("dst"), load("ds"), load("src"), load("ss")
	for i := range 8 {
		VMOVUPS(ptr(src, 0), ymm[i])
		if i < 7 {
			ADDQ(ss, src)
		}
	}
	for i := 0; i < 8; i += 4 {
		VUNPCKLPS(ymm[i+1], ymm[i], ymm[8])
		VUNPCKHPS(ymm[i+1], ymm[i], ymm[9])
		VUNPCKLPS(ymm[i+3], ymm[i+2], ymm[10])
		VUNPCKHPS(ymm[i+3], ymm[i+2], ymm[11])
		VUNPCKLPD(ymm[10], ymm[8], ymm[i])
		VUNPCKHPD(ymm[10], ymm[8], ymm[i+1])
		VUNPCKLPD(ymm[11], ymm[9], ymm[i+2])
		VUNPCKHPD(ymm[11], ymm[9], ymm[i+3])
	}
	for c := range 4 {
		VPERM2F128(U8(0x31), ymm[4+c], ymm[c], ymm[8+c])
		VPERM2F128(U8(0x20), ymm[4+c], ymm[c], ymm[c])
	}
	for i := range 8 {
		v := ymm[i]
		if i >= 4 {
			v = ymm[4+i]
		}
		VMOVUPS(v, ptr(dst, 0))
		if i < 7 {
			ADDQ(ds, dst)
		}
	}
	ret()
}

func fromHalf(w width) {
	step := int(w) / 4
	text("fromHalf"+w.suffix(), "func(dst *float32, x *uint16, n int)",
		"fromHalf"+w.suffix()+" expands n halves, a multiple of the vector length, to float32.")
	dst, x, n := load("dst"), load("x"), load("n")
	TESTQ(n, n)
	JZ(LabelRef("done"))
	Label("loop")
	VCVTPH2PS(ptr(x, 0), w.v(0))
	VMOVUPS(w.v(0), ptr(dst, 0))
	ADDQ(U32(uint32(2*step)), x)
	ADDQ(U32(uint32(w)), dst)
	SUBQ(U32(uint32(step)), n)
	JNZ(LabelRef("loop"))
	Label("done")
	ret()
}

func toHalf(w width) {
	step := int(w) / 4
	text("toHalf"+w.suffix(), "func(dst *uint16, x *float32, n int)",
		"toHalf"+w.suffix()+" rounds n elements, a multiple of the vector length, to half precision.")
	dst, x, n := load("dst"), load("x"), load("n")
	TESTQ(n, n)
	JZ(LabelRef("done"))
	Label("loop")
	VMOVUPS(ptr(x, 0), w.v(0))
	VCVTPS2PH(U8(0), w.v(0), ptr(dst, 0))
	ADDQ(U32(uint32(w)), x)
	ADDQ(U32(uint32(2*step)), dst)
	SUBQ(U32(uint32(step)), n)
	JNZ(LabelRef("loop"))
	Label("done")
	ret()
}

// expand turns unpacked bytes into float32, one scale and offset per group.
// The product is rounded before the offset is added, as the decoders do.
func expand(w width) {
	text("expand"+w.suffix(), "func(dst *float32, u *byte, scale, offset *float32, groups, group int, zero uint64)",
		"expand"+w.suffix()+" computes dst[i] = scale[g]*float32(u[i]-zero) + offset[g] with g = i/group, for",
		"groups of 16 or 32 elements; offset may be nil.")
	dst, u, scale, offset, groups, group := load("dst"), load("u"), load("scale"), load("offset"), load("groups"), load("group")
	VMOVQ(load("zero"), reg.X5)
	VPBROADCASTD(reg.X5, w.v(5))
	step := int(w) / 4
	TESTQ(groups, groups)
	JZ(LabelRef("done"))
	n := GP64()
	Label("group")
	VBROADCASTSS(ptr(scale, 0), w.v(6))
	ADDQ(U32(4), scale)
	MOVQ(group, n)
	TESTQ(offset, offset)
	JNZ(LabelRef("offset"))
	body := func(label string, add bool) {
		Label(label)
		for i := range 16 / step {
			v := w.v(i)
			VPMOVZXBD(ptr(u, i*step), v)
			VPSUBD(w.v(5), v, v)
			VCVTDQ2PS(v, v)
			VMULPS(w.v(6), v, v)
			if add {
				VADDPS(w.v(7), v, v)
			}
			VMOVUPS(v, ptr(dst, i*int(w)))
		}
		ADDQ(U32(16), u)
		ADDQ(U32(64), dst)
		SUBQ(U32(16), n)
		JNZ(LabelRef(label))
	}
	body("plain", false)
	DECQ(groups)
	JNZ(LabelRef("group"))
	JMP(LabelRef("done"))
	Label("offset")
	VBROADCASTSS(ptr(offset, 0), w.v(7))
	ADDQ(U32(4), offset)
	body("shifted", true)
	DECQ(groups)
	JNZ(LabelRef("group"))
	Label("done")
	ret()
}

// quantizeRowAVX2 rounds whole groups of 32 floats to signed bytes.
func quantizeRowAVX2() {
	mask := ConstData("absMask", U32(0x7fffffff))
	c127 := f32("f127", 127)
	order := GLOBL("packOrder", RODATA|NOPTR)
	for i, v := range []uint32{0, 4, 1, 5, 2, 6, 3, 7} {
		DATA(4*i, U32(v))
	}
	text("quantizeRowAVX2", "func(values *byte, scales *float32, sums *int32, x *float32, groups int, flip uint64)",
		"quantizeRowAVX2 is quantizeRowGo for whole groups; the bits of flip are inverted in each byte of values.")
	values, scales, sums, x, groups := load("values"), load("scales"), load("sums"), load("x"), load("groups")
	VBROADCASTSS(mask, reg.Y15)
	VMOVQ(load("flip"), reg.X11)
	VPBROADCASTB(reg.X11, reg.Y11)
	VMOVDQU(order, reg.Y14)
	VPCMPEQW(reg.Y13, reg.Y13, reg.Y13)
	VPABSB(reg.Y13, reg.Y12) // ones, bytes
	VPABSW(reg.Y13, reg.Y13) // ones, words
	TESTQ(groups, groups)
	JZ(LabelRef("done"))
	bits, limit, low := GP32(), GP32(), GP32()
	Label("loop")
	for i := range 4 {
		VMOVUPS(ptr(x, 32*i), ymm[i])
		VPAND(reg.Y15, ymm[i], ymm[4+i])
	}
	// The bits of absolute values order as the values do, NaN above infinity.
	VPMAXUD(reg.Y5, reg.Y4, reg.Y4)
	VPMAXUD(reg.Y7, reg.Y6, reg.Y6)
	VPMAXUD(reg.Y6, reg.Y4, reg.Y4)
	VEXTRACTI128(U8(1), reg.Y4, reg.X5)
	VPMAXUD(reg.X5, reg.X4, reg.X4)
	VPSHUFD(U8(0x0e), reg.X4, reg.X5)
	VPMAXUD(reg.X5, reg.X4, reg.X4)
	VPSHUFD(U8(0x01), reg.X4, reg.X5)
	VPMAXUD(reg.X5, reg.X4, reg.X4) // amax
	VMOVSS(c127, reg.X6)
	VDIVSS(reg.X6, reg.X4, reg.X7) // scale
	VDIVSS(reg.X4, reg.X6, reg.X8) // inverse
	VMOVD(reg.X4, bits)
	MOVL(U32(0x7f800000), limit)
	// amax 0, infinite or NaN: scale amax-amax, values 0.
	MOVL(bits, low)
	DECL(low)
	CMPL(low, U32(0x7f7fffff))
	JAE(LabelRef("special"))
	// A subnormal amax has no finite inverse: scale 0, values 0.
	VMOVD(reg.X8, low)
	CMPL(low, limit)
	JNE(LabelRef("round"))
	zero(reg.Y7)
	zero(reg.Y8)
	JMP(LabelRef("round"))
	Label("special")
	VSUBSS(reg.X4, reg.X4, reg.X7)
	for i := range 4 {
		zero(ymm[i])
	}
	zero(reg.Y8)
	Label("round")
	VMOVSS(reg.X7, ptr(scales, 0))
	VBROADCASTSS(reg.X8, reg.Y8)
	for i := range 4 {
		VMULPS(reg.Y8, ymm[i], ymm[i])
		VCVTPS2DQ(ymm[i], ymm[i])
	}
	VPACKSSDW(reg.Y1, reg.Y0, reg.Y0)
	VPACKSSDW(reg.Y3, reg.Y2, reg.Y2)
	VPACKSSWB(reg.Y2, reg.Y0, reg.Y0)
	VPERMD(reg.Y0, reg.Y14, reg.Y0)
	VPXOR(reg.Y11, reg.Y0, reg.Y1)
	VMOVDQU(reg.Y1, ptr(values, 0))
	VPMADDUBSW(reg.Y0, reg.Y12, reg.Y1)
	VPMADDWD(reg.Y13, reg.Y1, reg.Y1)
	VPSHUFD(U8(0x0e), reg.Y1, reg.Y2)
	VPADDD(reg.Y2, reg.Y1, reg.Y1)
	VPSHUFD(U8(0x01), reg.Y1, reg.Y2)
	VPADDD(reg.Y2, reg.Y1, reg.Y1)
	VEXTRACTI128(U8(1), reg.Y1, reg.X2)
	VMOVD(reg.X1, ptr(sums, 0))
	VMOVD(reg.X2, ptr(sums, 4))
	ADDQ(U32(128), x)
	ADDQ(U32(32), values)
	ADDQ(U32(4), scales)
	ADDQ(U32(8), sums)
	DECQ(groups)
	JNZ(LabelRef("loop"))
	Label("done")
	ret()
}

// packGroupAVX512 does what quantizeRowAVX2 does, in each lane.
func packGroupAVX512() {
	text("packGroupAVX512", "func(dst *byte, x *float32)",
		"packGroupAVX512 is packGroup.")
	dst, x := load("dst"), load("x")
	broadcast := func(name string, z reg.VecPhysical) {
		VPBROADCASTD(NewDataAddr(Symbol{Name: name, Static: true}, 0), z)
	}
	abs, c127, low := zmm[31], zmm[30], zmm[29]
	broadcast("absMask", abs)
	broadcast("f127", c127)
	VPBROADCASTD(ConstData("lowByte", U32(0xff)), low)
	VPBROADCASTD(ConstData("infinity", U32(0x7f800000)), zmm[28])
	VPBROADCASTD(ConstData("mostFinite", U32(0x7f7fffff)), zmm[27])
	VPTERNLOGD(U8(0xff), zmm[26], zmm[26], zmm[26]) // -1
	for half := 0; half < 128; half += 64 {
		tops := zmm[:4]
		for i, top := range tops {
			VPANDD(ptr(x, i*128+half), abs, top)
		}
		for r := 4; r < 32; r++ {
			v := zmm[4+r%8]
			VPANDD(ptr(x, r*128+half), abs, v)
			VPMAXUD(v, tops[r%4], tops[r%4])
		}
		VPMAXUD(tops[1], tops[0], tops[0])
		VPMAXUD(tops[3], tops[2], tops[2])
		VPMAXUD(tops[2], tops[0], tops[0])
		top, scale, inverse := zmm[0], zmm[1], zmm[2]
		VDIVPS(c127, top, scale)
		VDIVPS(top, c127, inverse)
		// 0, infinite or NaN: scale top-top; no finite inverse: scale 0. Both: values 0.
		VPADDD(zmm[26], top, zmm[3])
		VPCMPUD(U8(5), zmm[27], zmm[3], reg.K1)
		VPCMPEQD(zmm[28], inverse, reg.K2)
		KORW(reg.K1, reg.K2, reg.K3)
		KNOTW(reg.K3, reg.K3)
		KNOTW(reg.K2, reg.K2)
		VMOVAPS_Z(scale, reg.K2, scale)
		VSUBPS(top, top, reg.K1, scale)
		VMOVUPS(scale, ptr(dst, actScales+half))
		for part := range 2 {
			sum := zmm[16]
			clearZ(sum)
			for j := 4 * part; j < 4*part+4; j++ {
				v := zmm[4+j%2*4:]
				for i := range 4 {
					VMULPS(ptr(x, (4*j+i)*128+half), inverse, v[i])
					VCVTPS2DQ_Z(v[i], reg.K3, v[i])
				}
				for i := range 4 {
					VPADDD(v[i], sum, sum)
					if i < 3 {
						VPANDD(low, v[i], v[i])
					}
					if i > 0 {
						VPSLLD(U8(uint8(8*i)), v[i], v[i])
					}
				}
				VPTERNLOGD(U8(0xfe), v[1], v[2], v[3])
				VPORD(v[0], v[3], v[3])
				VMOVDQU32(v[3], ptr(dst, j*128+half))
			}
			clearZ(zmm[17])
			VPSUBD(sum, zmm[17], sum)
			VMOVDQU32(sum, ptr(dst, actSums+part*128+half))
		}
	}
	ret()
}
