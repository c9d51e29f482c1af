package main

import (
	"strings"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// rowProduct holds the pointers of a product of rows with one token, and the
// row's sums, for float32 in two registers. What a kernel does not ask for is
// not loaded.
type rowProduct struct {
	src, values, neg, table, scales, sums reg.GPVirtual
	acc, acc2                             reg.VecPhysical
}

// rowKernel describes a product of rows with one token.
type rowKernel struct {
	name  string
	size  int  // bytes of 256 columns of a row
	negs  int  // bytes of neg for 256 columns; 0: no neg
	sums  int  // how many activations one of sums is over, 32 or 16; 0: no sums
	table bool // in place of neg comes the type's table

	shared func(r *rowProduct) // what all rows need of a block's activations
}

// rows writes the product of rows with a token.
func rows(k rowKernel, setup func(), body func(r *rowProduct)) {
	aux := "neg"
	doc := []string{"rows" + k.name + "VNNI multiplies four runs of rows, see rowStreams, of blocks of 256 columns with the activations",
		"of one token: values and neg as oneToken has them for the type, scales as quantizeRowGo writes them,",
		"sums the sums of each 32 activations."}
	if k.sums == 16 {
		doc[2] = strings.Replace(doc[2], "32", "16", 1)
	}
	if k.table {
		aux = "table"
		doc[1] = strings.Replace(doc[1], "values and neg", "table is the type's, values", 1)
	}
	text("rows"+k.name+"VNNI", "func(out *float32, outStep, rows int, src *byte, srcStep int, values *byte, "+aux+" *int32, scales, sums *float32, blocks int)", doc...)
	s := fourStreams()
	p := rowProduct{values: GP64(), scales: GP64()}
	left := GP64()
	if k.sums > 0 {
		p.sums = GP64()
	}
	switch {
	case k.table:
		p.table = load("table")
	case k.negs > 0:
		p.neg = GP64()
	}
	setup()
	s.eachRow(avx512, func() {
		for r := range streams {
			clearZ(zmm[16+r])
		}
		Load(Param("values"), p.values)
		Load(Param("scales"), p.scales)
		if k.negs > 0 {
			Load(Param("neg"), p.neg)
		}
		if k.sums > 0 {
			Load(Param("sums"), p.sums)
		}
		Load(Param("blocks"), left)
		Label("block")
		if k.shared != nil {
			k.shared(&p)
		}
		for r, src := range s.src {
			s.fetch(r, k.size)
			one := p
			one.src, one.acc = src, zmm[16+r]
			body(&one)
			ADDQ(U32(uint32(k.size)), src)
		}
		ADDQ(U32(256), p.values)
		ADDQ(U32(32), p.scales)
		if k.negs > 0 {
			ADDQ(U32(uint32(k.negs)), p.neg)
		}
		if k.sums > 0 {
			ADDQ(U32(uint32(4*256/k.sums)), p.sums)
		}
		DECQ(left)
		JNZ(LabelRef("block"))
		for r := range streams {
			VMOVAPS(zmm[16+r], zmm[r])
		}
	})
}

// picks puts into zmm20 and those after it what spreads scales over the lanes
// of one register of products after the other: first, and first plus each of
// the others.
func picks(first string, others ...uint32) {
	VMOVDQU32(named(first), zmm[20])
	g := GP32()
	for i, v := range others {
		MOVL(U32(v), g)
		VPBROADCASTD(g, zmm[21+i])
		VPADDD(zmm[20], zmm[21+i], zmm[21+i])
	}
}

// named is a constant that was made elsewhere.
func named(name string) Mem { return NewDataAddr(Symbol{Name: name, Static: true}, 0) }

// start begins products j in zmm7.
func start(r *rowProduct, j int) {
	if r.neg != nil {
		VMOVDQU32(ptr(r.neg, 64*j), zmm[7])
	} else {
		clearZ(zmm[7])
	}
}

// finish scales the products in zmm7 by the scales in zmm0 and adds them.
func finish(r *rowProduct, j int) {
	VCVTDQ2PS(zmm[7], zmm[7])
	VPERMPS(zmm[0], zmm[20+j], zmm[9])
	VFMADD231PS(zmm[9], zmm[7], r.acc)
}

// multiply takes quarter j of weights in zmm6.
func multiply(r *rowProduct, j int) {
	start(r, j)
	VPDPBUSD(ptr(r.values, 64*j), zmm[6], zmm[7])
	finish(r, j)
}

// multiplyHalves takes half j of weights, in zmm6 and zmm8.
func multiplyHalves(r *rowProduct, j int) {
	start(r, j)
	VPDPBUSD(ptr(r.values, 128*j), zmm[6], zmm[7])
	VPDPBUSD(ptr(r.values, 128*j+64), zmm[8], zmm[7])
	finish(r, j)
}

// split takes the nibbles of zmm8 apart: the low ones come into zmm6.
func split() {
	VPANDD(zmm[31], zmm[8], zmm[6])
	VPSRLW(U8(4), zmm[8], zmm[8])
	VPANDD(zmm[31], zmm[8], zmm[8])
}

// halved unpacks 64 bytes from disp on: the low ones into zmm6, the high ones
// into zmm8.
func halved(r *rowProduct, disp int) {
	VMOVDQU64(ptr(r.src, disp), zmm[8])
	split()
}

// fours unpacks four runs of 16 bytes, stride apart, in the same way.
func fours(r *rowProduct, disp, stride int) {
	VMOVDQU(ptr(r.src, disp), reg.X8)
	for i := 1; i < 4; i++ {
		VINSERTI32X4(U8(uint8(i)), ptr(r.src, disp+stride*i), zmm[8], zmm[8])
	}
	split()
}

func broadcast(m Mem, r int) { VPBROADCASTQ(m, zmm[r]) }

// words returns a constant of 32 words; what is not given is 0.
func words(name string, v ...uint16) Mem {
	m := GLOBL(name, RODATA|NOPTR)
	for i := range 32 {
		x := uint16(0)
		if i < len(v) {
			x = v[i]
		}
		DATA(2*i, U16(x))
	}
	return m
}

// halfAt loads a half, times factor, into all lanes of a register of 8 or 16; a
// factor of nil is 1.
func halfAt(r *rowProduct, disp int, factor Op, to reg.VecPhysical) {
	if to.Size() == 64 {
		VPBROADCASTW(ptr(r.src, disp), reg.Y2)
		VCVTPH2PS(reg.Y2, to)
	} else {
		VPBROADCASTW(ptr(r.src, disp), reg.X2)
		VCVTPH2PS(reg.X2, to)
	}
	if factor != nil {
		VMULPS_BCST(factor, to, to)
	}
}

// scale16 multiplies 16 scales in zmm0 by those of the activations; zmm27 holds
// "doubled".
func scale16(r *rowProduct) {
	VMOVUPS(ptr(r.scales, 0), reg.Y1)
	VPERMPS(zmm[1], zmm[27], zmm[1])
	VMULPS(zmm[1], zmm[0], zmm[0])
}

// scalesAndSums has the activations' scales and, behind them, their sums in zmm4.
func scalesAndSums(r *rowProduct) {
	VMOVUPS(ptr(r.scales, 0), reg.Y4)
	VINSERTF32X8(U8(1), ptr(r.sums, 0), zmm[4], zmm[4])
}

// upperHalf makes K3 a mask of the upper 8 of 16 lanes.
func upperHalf() {
	g := GP32()
	MOVL(U32(0xff00), g)
	KMOVW(g, reg.K3)
}

// What follows is shared by products with 8-bit and with float32 activations.

// halves34 has the 8 halves of Q8_0 blocks in x0.
func halves34(r *rowProduct) {
	halves(r, 8, 34)
}

// halves has the halves of n blocks, which are size bytes apart, in xmm0.
func halves(r *rowProduct, n, size int) {
	VPXOR(reg.X0, reg.X0, reg.X0)
	for i := range n {
		VPINSRW(U8(uint8(i)), ptr(r.src, size*i), reg.X0, reg.X0)
	}
}

// sixBitConstants are those of sixBitScales.
func sixBitConstants() {
	for i, name := range []string{"sixMask", "sixShift", "fourMask", "fourShift"} {
		VMOVDQU(named(name), ymm[12+i].AsX())
	}
	VMOVDQU(named("twoHalves"), reg.Y5)
}

// sixBitScales has the 8 scales of 6 bits of Q4_K and Q5_K and behind them the 8
// minimums in zmm0, and what they are multiples of in zmm1. Of both, 4 come
// from a word alone, and 4 have their low bits in the last word and their high
// bits above those of the others.
func sixBitScales(r *rowProduct) {
	VPSHUFD(U8(0b10_10_01_01), ptr(r.src, 0), reg.X0)
	VPSRLVD(reg.X13, reg.X0, reg.X0)
	VPAND(reg.X12, reg.X0, reg.X0)
	VPBROADCASTD(ptr(r.src, 12), reg.X1)
	VPSRLVD(reg.X15, reg.X1, reg.X1)
	VPTERNLOGD(U8(0xf8), reg.X14, reg.X1, reg.X0) // x0 | x1 & x14
	VPMOVZXBD(reg.X0, zmm[0])
	VCVTDQ2PS(zmm[0], zmm[0])
	VPBROADCASTD(ptr(r.src, 0), reg.Y1)
	VPSHUFB(reg.Y5, reg.Y1, reg.Y1)
	VCVTPH2PS(reg.Y1, zmm[1])
}

// constantsQ6K are those of quartersQ6K.
func constantsQ6K() {
	broadcast(named("low4"), 31)
	broadcast(named("bits45"), 30)
	VMOVDQU64(named("sixth0"), zmm[25])
	VMOVDQU64(named("sixth1"), zmm[26])
}

// scalesQ6K has the 16 scales of Q6_K in zmm0.
func scalesQ6K(r *rowProduct) {
	halfAt(r, 208, nil, zmm[2])
	VPMOVSXBD(ptr(r.src, 192), zmm[0])
	VCVTDQ2PS(zmm[0], zmm[0])
	VMULPS(zmm[2], zmm[0], zmm[0])
}

// quartersQ6K has each quarter j of half h of the elements in zmm6.
func quartersQ6K(r *rowProduct, h int, use func(j int)) {
	VMOVDQU64(ptr(r.src, 64*h), zmm[11])
	VBROADCASTI64X4(ptr(r.src, 128+32*h), zmm[10])
	for part := range 2 {
		if part == 0 {
			VPANDD(zmm[31], zmm[11], zmm[6])
			VPSLLVW(zmm[25], zmm[10], zmm[8])
		} else {
			VPSRLW(U8(4), zmm[11], zmm[6])
			VPANDD(zmm[31], zmm[6], zmm[6])
			VPSRLVW(zmm[26], zmm[10], zmm[8])
		}
		VPTERNLOGD(U8(0xf8), zmm[30], zmm[8], zmm[6]) // z6 | z8 & z30
		use(2*h + part)
	}
}

// constantsIQ4XS are those of sixBitsIQ4XS; by2 is the register of one of them.
func constantsIQ4XS(by2 reg.Register) {
	VPBROADCASTD(named("n32"), reg.Y13)
	VPBROADCASTD(named("n15"), reg.Y12)
	VPBROADCASTD(named("n3"), reg.Y11)
	VMOVDQU(named("by4"), reg.Y10)
	VMOVDQU(named("by2"), by2)
}

// sixBitsIQ4XS has the levels of the 8 scales of the block at src in ymm0.
func sixBitsIQ4XS(src, by2 reg.Register) {
	VPBROADCASTD(ptr(src, 4), reg.Y0)
	VPSRLVD(reg.Y10, reg.Y0, reg.Y0)
	VPAND(reg.Y12, reg.Y0, reg.Y0)
	VPBROADCASTW(ptr(src, 2), reg.Y1)
	VPSRLVD(by2, reg.Y1, reg.Y1)
	VPAND(reg.Y11, reg.Y1, reg.Y1)
	VPSLLD(U8(4), reg.Y1, reg.Y1)
	VPOR(reg.Y1, reg.Y0, reg.Y0)
	VPSUBD(reg.Y13, reg.Y0, reg.Y0)
}

// scalesIQ4XS has the 8 scales of IQ4_XS in ymm0.
func scalesIQ4XS(r *rowProduct) {
	halfAt(r, 0, nil, reg.Y2)
	sixBitsIQ4XS(r.src, reg.Y15)
	VCVTDQ2PS(reg.Y0, reg.Y0)
	VMULPS(reg.Y2, reg.Y0, reg.Y0)
}

// moreRows is for types whose elements are numbers, not indices into a codebook.
func moreRows() {
	z := zmm
	low4, low2, bit2, bit4 := named("low4"), named("low2"), named("bit2"), named("bit4")
	// counts of shifts for the low and the high half of a register, as 16-bit lanes
	lanes := func(name string, low, high uint64) Mem {
		m := GLOBL(name, RODATA|NOPTR)
		for i := range 8 {
			v := low
			if i >= 4 {
				v = high
			}
			DATA(8*i, U64(v*0x0001000100010001))
		}
		return m
	}
	counts02, counts46 := lanes("counts02", 0, 2), lanes("counts46", 4, 6)

	rows(rowKernel{name: "IQ4NL", size: 8 * 18, negs: 128}, func() {
		picks("quarters", 4)
		broadcast(low4, 31)
		VBROADCASTI32X4(named("levelsIQ4"), z[28])
		VMOVDQU(named("ninths"), reg.X12)
	}, func(r *rowProduct) {
		VMOVDQA64(z[12], z[0])
		VMOVDQU64(ptr(r.src, 0), z[1])
		VPERMI2W(ptr(r.src, 64), z[1], z[0])
		VCVTPH2PS(reg.X0, reg.Y0)
		VMULPS(ptr(r.scales, 0), reg.Y0, reg.Y0)
		for j := range 2 {
			fours(r, 72*j+2, 18)
			VPSHUFB(z[6], z[28], z[6])
			VPSHUFB(z[8], z[28], z[8])
			multiplyHalves(r, j)
		}
	})

	// Words of the first 64 bytes, and of 64 bytes from byte 80 on.
	tenths := words("tenths", 0, 10, 20, 30, 32, 42, 52, 62, 1, 11, 21, 31, 33, 43, 53, 63)
	// withMinimums has scales and, behind them, minimums in z[0].
	withMinimums := func(r *rowProduct) {
		VMULPS(z[4], z[0], z[0])
		VADDPS(z[0], r.acc, reg.K3, r.acc)
	}
	rows(rowKernel{name: "Q4_1", size: 8 * 20, sums: 32, shared: scalesAndSums}, func() {
		picks("quarters", 4)
		broadcast(low4, 31)
		VMOVDQU64(tenths, z[12])
		upperHalf()
	}, func(r *rowProduct) {
		VMOVDQA64(z[12], z[0])
		VMOVDQU64(ptr(r.src, 0), z[1])
		VPERMI2W(ptr(r.src, 80), z[1], z[0])
		VCVTPH2PS(reg.Y0, z[0])
		withMinimums(r)
		for j := range 2 {
			fours(r, 80*j+4, 20)
			multiplyHalves(r, j)
		}
	})

	// Q5_0 and Q5_1: of four blocks, a register of words takes the scales, the
	// minimums, and for the high bits those of the first and of the second 16
	// elements of each block, which become masks. The words come from the first
	// 64 bytes of the four blocks and their last 64.
	fifths := func(name string, size, negs, sums int, pick Mem) {
		last := 4*size - 64
		k := rowKernel{name: name, size: 8 * size, negs: negs, sums: sums}
		if sums > 0 {
			k.shared = scalesAndSums
		}
		rows(k, func() {
			picks("quarters", 4)
			broadcast(low4, 31)
			broadcast(bit4, 30)
			VMOVDQU64(pick, z[12])
			if sums > 0 {
				upperHalf()
			}
		}, func(r *rowProduct) {
			for j := range 2 {
				VMOVDQA64(z[12], z[10+j])
				VMOVDQU64(ptr(r.src, 4*size*j), z[1])
				VPERMI2W(ptr(r.src, 4*size*j+last), z[1], z[10+j])
			}
			VPUNPCKLQDQ(reg.X11, reg.X10, reg.X0)
			if sums > 0 {
				VPUNPCKHQDQ(reg.X11, reg.X10, reg.X1)
				VINSERTI128(U8(1), reg.X1, reg.Y0, reg.Y0)
				VCVTPH2PS(reg.Y0, z[0])
				withMinimums(r)
			} else {
				VCVTPH2PS(reg.X0, reg.Y0)
				VMULPS(ptr(r.scales, 0), reg.Y0, reg.Y0)
			}
			for j := range 2 {
				g, h := GP64(), GP64()
				VEXTRACTI128(U8(1), ymm[10+j], reg.X1)
				VMOVQ(reg.X1, g)
				VPEXTRQ(U8(1), reg.X1, h)
				KMOVQ(g, reg.K1)
				KMOVQ(h, reg.K2)
				fours(r, 4*size*j+size-16, size)
				VPADDB(z[30], z[6], reg.K1, z[6])
				VPADDB(z[30], z[8], reg.K2, z[8])
				multiplyHalves(r, j)
			}
		})
	}
	fifths("Q5_0", 22, 128, 0, words("elevenths", 0, 11, 22, 53, 0, 0, 0, 0, 1, 12, 23, 54, 2, 13, 24, 55))
	fifths("Q5_1", 24, 0, 32, words("twelfths", 0, 12, 24, 52, 1, 13, 25, 53, 2, 14, 26, 54, 3, 15, 27, 55))

	rows(rowKernel{name: "MXFP4", size: 8 * 17, negs: 128}, func() {
		picks("quarters", 4)
		broadcast(low4, 31)
		VBROADCASTI32X4(named("levelsFP4"), z[28])
		VBROADCASTSS(f32("minus128", -128), reg.Y12)
		VBROADCASTSS(named("one"), reg.Y13)
	}, func(r *rowProduct) {
		VPXOR(reg.X0, reg.X0, reg.X0)
		for i := range 8 {
			VPINSRB(U8(uint8(i)), ptr(r.src, 17*i), reg.X0, reg.X0)
		}
		VPMOVZXBD(reg.X0, reg.Y0)
		VCVTDQ2PS(reg.Y0, reg.Y0)
		VADDPS(reg.Y12, reg.Y0, reg.Y0)
		VSCALEFPS(reg.Y0, reg.Y13, reg.Y0) // 2^(e-128), subnormal ones too
		VMULPS(ptr(r.scales, 0), reg.Y0, reg.Y0)
		for j := range 2 {
			fours(r, 68*j+1, 17)
			VPSHUFB(z[6], z[28], z[6])
			VPSHUFB(z[8], z[28], z[8])
			multiplyHalves(r, j)
		}
	})

	rows(rowKernel{name: "NVFP4", size: 4 * 36, negs: 128}, func() {
		picks("doubled", 8)
		broadcast(low4, 31)
		VBROADCASTI32X4(named("levelsFP4"), z[28])
		VMOVDQU32(named("doubled"), z[27])
		VPBROADCASTB(ConstData("byte7f", U8(0x7f)), reg.X12)
		VBROADCASTSS(f32("two7", 0x1p7), z[13])
	}, func(r *rowProduct) {
		VMOVD(ptr(r.src, 0), reg.X0)
		for i := 1; i < 4; i++ {
			VPINSRD(U8(uint8(i)), ptr(r.src, 36*i), reg.X0, reg.X0)
		}
		// Bits 0 to 6 are exponent and mantissa; as those of a half, the number is
		// 2^8 too small, and half of it is wanted. NaN counts as 0.
		VPCMPEQB(reg.X12, reg.X0, reg.X1)
		VPAND(reg.X12, reg.X0, reg.X0)
		VPANDN(reg.X0, reg.X1, reg.X0)
		VPMOVZXBW(reg.X0, reg.Y0)
		VPSLLW(U8(7), reg.Y0, reg.Y0)
		VCVTPH2PS(reg.Y0, z[0])
		VMULPS(z[13], z[0], z[0])
		scale16(r)
		for j := range 2 {
			VMOVDQU(ptr(r.src, 72*j+4), reg.Y8)
			VINSERTI64X4(U8(1), ptr(r.src, 72*j+40), z[8], z[8])
			split()
			VPSHUFB(z[6], z[28], z[6])
			VPSHUFB(z[8], z[28], z[8])
			multiplyHalves(r, j)
		}
	})

	// quarters puts 2 bits of each of 32 bytes at disp into z[6], twice: bits 0
	// and 1, 2 and 3 for part 0, the others for part 1; z[10] holds the bytes.
	quarters := func(r *rowProduct, disp, part int) {
		if part == 0 {
			VBROADCASTI64X4(ptr(r.src, disp), z[10])
		}
		VPSRLVW(z[24+part], z[10], z[6])
		VPANDD(z[31], z[6], z[6])
	}
	quarterConstants := func() {
		broadcast(low2, 31)
		VMOVDQU64(counts02, z[24])
		VMOVDQU64(counts46, z[25])
	}
	rows(rowKernel{name: "Q2K", size: 84, sums: 16}, func() {
		picks("quarters", 4, 8, 12)
		quarterConstants()
		VMOVDQU32(named("doubled"), z[27])
		VPBROADCASTQ(low4, reg.X12)
	}, func(r *rowProduct) {
		halfAt(r, 80, nil, z[3])
		halfAt(r, 82, nil, z[4])
		VMOVDQU(ptr(r.src, 0), reg.X1)
		VPAND(reg.X12, reg.X1, reg.X0)
		VPSRLW(U8(4), reg.X1, reg.X1)
		VPAND(reg.X12, reg.X1, reg.X1)
		VPMOVZXBD(reg.X0, z[0])
		VPMOVZXBD(reg.X1, z[5])
		VCVTDQ2PS(z[0], z[0])
		VCVTDQ2PS(z[5], z[5])
		VMULPS(z[3], z[0], z[0])
		VMULPS(z[4], z[5], z[5])
		VMULPS(ptr(r.sums, 0), z[5], z[5])
		VSUBPS(z[5], r.acc, r.acc)
		scale16(r)
		for j := range 4 {
			quarters(r, 16+j/2*32, j%2)
			multiply(r, j)
		}
	})

	// The third bits of Q3_K: how far bits 2*j and 2*j+1 are from bit 2.
	thirds := [4]Mem{lanes("third0", 2, 1), lanes("third1", 0, 1), lanes("third2", 2, 3), lanes("third3", 4, 5)}
	by0246 := indices("by0246", func(i int) uint32 { return uint32(2 * i) })
	rows(rowKernel{name: "Q3K", size: 110, negs: 256}, func() {
		picks("quarters", 4, 8, 12)
		quarterConstants()
		VMOVDQU32(named("doubled"), z[27])
		broadcast(bit2, 30)
		for j, m := range thirds {
			if j < 2 {
				VMOVDQU64(m, z[28+j])
			} else {
				VMOVDQU64(m, z[11+j])
			}
		}
		VPBROADCASTQ(low4, reg.X12)
		VPBROADCASTB(ConstData("byte32", U8(32)), reg.X15)
		VMOVDQU32(by0246, reg.X26)
	}, func(r *rowProduct) {
		// 16 scales of 6 bits: the low 4 from 8 bytes, the high 2 from 4.
		VMOVQ(ptr(r.src, 96), reg.X0)
		VPSRLW(U8(4), reg.X0, reg.X1)
		VPUNPCKLQDQ(reg.X1, reg.X0, reg.X0)
		VPAND(reg.X12, reg.X0, reg.X0)
		VPBROADCASTD(ptr(r.src, 104), reg.X1)
		VPSRLVD(reg.X26, reg.X1, reg.X1)
		VPANDD(reg.X31, reg.X1, reg.X1)
		VPSLLD(U8(4), reg.X1, reg.X1)
		VPOR(reg.X1, reg.X0, reg.X0)
		VPSUBB(reg.X15, reg.X0, reg.X0)
		VPMOVSXBD(reg.X0, z[0])
		VCVTDQ2PS(z[0], z[0])
		halfAt(r, 108, nil, z[3])
		VMULPS(z[3], z[0], z[0])
		scale16(r)
		VBROADCASTI64X4(ptr(r.src, 0), z[11])
		for j := range 4 {
			quarters(r, 32+j/2*32, j%2)
			if j == 0 {
				VPSLLVW(z[28], z[11], z[8])
			} else {
				VPSRLVW(z[[]int{0, 29, 13, 14}[j]], z[11], z[8])
			}
			VPTERNLOGD(U8(0xf8), z[30], z[8], z[6]) // z6 | z8 & z30
			multiply(r, j)
		}
	})

	// The rest has elements that are small numbers minus 1 and few scales: those
	// that z[0] has of each 32 elements are subtracted times sums, too.
	minusOne := func(r *rowProduct) {
		VMULPS(ptr(r.sums, 0), reg.Y0, reg.Y1)
		VSUBPS(z[1], r.acc, r.acc)
		VMULPS(ptr(r.scales, 0), reg.Y0, reg.Y0)
	}
	rows(rowKernel{name: "TQ2", size: 66, sums: 32}, func() {
		picks("pairOfGroups", 2, 4, 6)
		quarterConstants()
	}, func(r *rowProduct) {
		halfAt(r, 64, nil, reg.Y0)
		minusOne(r)
		for j := range 4 {
			quarters(r, j/2*32, j%2)
			multiply(r, j)
		}
	})
	rows(rowKernel{name: "Q2_0", size: 4 * 18, sums: 32}, func() {
		picks("pairOfGroups", 2, 4, 6)
		broadcast(low2, 31)
		VMOVDQU(numbers("eachTwice", 0, 0, 1, 1, 2, 2, 3, 3), reg.Y12)
	}, func(r *rowProduct) {
		halves(r, 4, 18)
		VCVTPH2PS(reg.X0, reg.Y0)
		VPERMPS(reg.Y0, reg.Y12, reg.Y0)
		minusOne(r)
		for j := range 4 {
			// The four elements of a byte go to the bytes of 32 bits.
			VPMOVZXBD(ptr(r.src, 18*j+2), z[6])
			VPSLLD(U8(6), z[6], z[8])
			VPORD(z[8], z[6], z[6])
			VPSLLD(U8(12), z[6], z[8])
			VPORD(z[8], z[6], z[6])
			VPANDD(z[31], z[6], z[6])
			multiply(r, j)
		}
	})
	rows(rowKernel{name: "Q1_0", size: 2 * 18, sums: 32}, func() {
		picks("pairOfGroups", 2, 4, 6)
		broadcast(named("bit1"), 31)
		VMOVDQU(numbers("eachFour", 0, 0, 0, 0, 1, 1, 1, 1), reg.Y12)
	}, func(r *rowProduct) {
		halves(r, 2, 18)
		VCVTPH2PS(reg.X0, reg.Y0)
		VPERMPS(reg.Y0, reg.Y12, reg.Y0)
		minusOne(r)
		for j := range 4 {
			KMOVQ(ptr(r.src, j/2*18+2+j%2*8), reg.K1)
			VMOVDQU8_Z(z[31], reg.K1, z[6])
			multiply(r, j)
		}
	})

	// TQ1_0: multiplied by powers of 3, each byte x has digit after digit in
	// front of the point: floor(3*x/256). 32 bytes have 5 of them, 16 bytes have
	// 5, and 4 bytes 4. Averages round up; those of the inverse of x, inverted, do
	// not, and bits 6 and 7 of that of x and of its average with 0 are the digit.
	top2, perDigit := ConstData("top2", U64(0xc0c0c0c0c0c0c0c0)), f32("sixtyFourth", 1.0/64)
	rows(rowKernel{name: "TQ1", size: 54, sums: 32}, func() {
		picks("pairOfGroups", 2, 4, 6)
		broadcast(top2, 31)
		VPTERNLOGD(U8(0xff), z[30], z[30], z[30])
		VBROADCASTSS(perDigit, reg.Y13)
		g := GP64()
		for i, m := range []uint64{
			0xffffffff_00000000, 0xffff0000_00000000, // see below
			0xfff0ffff_ffffffff, 0xff00ffff_ffffffff, 0xf000ffff_ffff0000, 0x0000ffff_00000000,
			0xf000,
		} {
			MOVQ(U64(m), g)
			KMOVQ(g, []reg.Register{reg.K1, reg.K2, reg.K3, reg.K4, reg.K5, reg.K6, reg.K7}[i])
		}
	}, func(r *rowProduct) {
		halfAt(r, 52, nil, reg.Y0)
		minusOne(r)
		VMULPS(reg.Y13, reg.Y0, reg.Y0)
		// three triples the bytes of x that are in the mask.
		three := func(x reg.VecPhysical, mask reg.Register) {
			VPADDB(x, x, z[5])
			VPADDB(z[5], x, mask, x)
		}
		nine := func(from, to reg.VecPhysical) {
			VPADDB(from, from, to)
			VPADDB(from, to, to)
			VPADDB(to, to, z[5])
			VPADDB(z[5], to, to)
		}
		digits := func(j int, x reg.VecPhysical) {
			VPXORD(z[30], x, z[6])
			VPAVGB(z[30], z[6], z[8])
			VPAVGB(z[8], z[6], z[6])
			VPANDND(z[31], z[6], z[6])
			multiply(r, j)
		}
		VBROADCASTI64X4(ptr(r.src, 0), z[10])
		three(z[10], reg.K1) // the 32 bytes, and 3 times them
		digits(0, z[10])
		nine(z[10], z[11])
		digits(1, z[11])
		nine(z[11], z[10]) // 81 times; the 16 bytes, and 3 times them
		VBROADCASTI128(ptr(r.src, 32), reg.Y12)
		VINSERTI64X4(U8(1), reg.Y12, z[10], z[10])
		three(z[10], reg.K2)
		digits(2, z[10])
		// 9, 27 and 81 times the 16 bytes; 1, 3, 9 and 27 times the 4 bytes.
		VINSERTI64X4(U8(1), reg.Y12, z[12], z[12])
		VPBROADCASTD(ptr(r.src, 48), reg.K7, z[12])
		for _, mask := range []reg.Register{reg.K3, reg.K4, reg.K5, reg.K6} {
			three(z[12], mask)
		}
		digits(3, z[12])
	})
}

// lookupRows is for the IQ types with codebooks: 8 or 4 elements are looked up
// in the type's table, by an index of a lane each. Its elements are positive;
// signs go to the activations.
func lookupRows() {
	z := zmm
	sevens := ConstData("sevenBits", U64(0x7f7f7f7f7f7f7f7f))
	tops := ConstData("topBits", U64(0x8080808080808080))
	low28 := ConstData("low28", U64(0x0fffffff0fffffff))
	nibbles := ConstData("topNibbles", U64(0xf000f000f000f000))

	gather8 := func(r *rowProduct) { // indices in y[4], elements to z[6]
		KXNORW(reg.K2, reg.K2, reg.K2)
		VPGATHERDQ(Mem{Base: r.table, Index: reg.Y4, Scale: 8}, reg.K2, z[6])
	}
	gather4 := func(r *rowProduct) { // indices in z[4]
		KXNORW(reg.K2, reg.K2, reg.K2)
		VPGATHERDD(Mem{Base: r.table, Index: z[4], Scale: 4}, reg.K2, z[6])
	}
	// complete makes sign bits in K1 of seven in each byte of g: the number of
	// minus signs is even.
	complete := func(g reg.GPVirtual) {
		p, t := GP64(), GP64()
		MOVQ(g, p)
		for _, n := range []uint8{4, 2, 1} {
			MOVQ(p, t)
			SHRQ(U8(n), t)
			XORQ(t, p)
		}
		SHLQ(U8(7), p)
		ANDQ(tops, p)
		ORQ(p, g)
		KMOVQ(g, reg.K1)
	}
	// spread brings 28 bits of each half of g into bytes.
	spread := func(g reg.GPVirtual) {
		PEXTQ(low28, g, g)
		PDEPQ(sevens, g, g)
	}
	// signed multiplies quarter j of elements in z[6] that have signs in K1; z[15]
	// is zero.
	signed := func(r *rowProduct, j int) {
		VMOVDQU64(ptr(r.values, 64*j), z[8])
		VPSUBB(z[8], z[15], reg.K1, z[8])
		clearZ(z[7])
		VPDPBUSD(z[8], z[6], z[7])
		finish(r, j)
	}
	// odd makes scales of twice the integers in z[0] plus 1, times z[3].
	odd := func(v reg.VecPhysical) {
		VPADDD(v, v, v)
		if v.Size() == 64 {
			VPADDD(z[26], v, v)
		} else {
			VPADDD(reg.Y26, v, v)
		}
		VCVTDQ2PS(v, v)
		if v.Size() == 64 {
			VMULPS(z[3], v, v)
		} else {
			VMULPS(reg.Y3, v, v)
		}
	}
	// nibbleScales spreads the nibbles of bytes in x[0].
	nibbleScales := func() {
		VPSRLW(U8(4), reg.X0, reg.X1)
		VPUNPCKLBW(reg.X1, reg.X0, reg.X0)
		VPANDD(reg.X31, reg.X0, reg.X0)
	}
	ones := func() {
		g := GP32()
		MOVL(U32(1), g)
		VPBROADCASTD(g, z[26])
		clearZ(z[15])
	}
	pairs := func() {
		picks("pairOfGroups", 2, 4, 6)
		ones()
	}
	sixteens := func() {
		picks("quarters", 4, 8, 12)
		VMOVDQU32(named("doubled"), z[27])
		broadcast(named("low4"), 31)
		ones()
	}
	eighth, quarter := named("eighth"), named("quarter")
	number := func(v uint32, to reg.VecPhysical) {
		g := GP32()
		MOVL(U32(v), g)
		VPBROADCASTD(g, to)
	}

	rows(rowKernel{name: "IQ2XXS", size: 66, table: true}, pairs, func(r *rowProduct) {
		halfAt(r, 0, eighth, reg.Y3)
		VPSRLQ(U8(60), ptr(r.src, 2), z[0])
		VPMOVQD(z[0], reg.Y0)
		odd(reg.Y0)
		VMULPS(ptr(r.scales, 0), reg.Y0, reg.Y0)
		for j := range 4 {
			at := 2 + 16*j
			VMOVDQU(ptr(r.src, at), reg.X4)
			VPSHUFD(U8(0b1000), reg.X4, reg.X4)
			VPMOVZXBD(reg.X4, reg.Y4)
			gather8(r)
			g, h := GP64(), GP64()
			MOVL(ptr(r.src, at+4), g.As32())
			MOVL(ptr(r.src, at+12), h.As32())
			SHLQ(U8(32), h)
			ORQ(h, g)
			spread(g)
			complete(g)
			signed(r, j)
		}
	})
	scalesIQ2 := func(r *rowProduct, at int) {
		halfAt(r, 0, eighth, z[3])
		VMOVQ(ptr(r.src, at), reg.X0)
		nibbleScales()
		VPMOVZXBD(reg.X0, z[0])
		odd(z[0])
		scale16(r)
	}
	rows(rowKernel{name: "IQ2XS", size: 74, table: true}, func() { sixteens(); number(511, reg.Y14) }, func(r *rowProduct) {
		scalesIQ2(r, 66)
		for j := range 4 {
			VMOVDQU(ptr(r.src, 2+16*j), reg.X5)
			VPMOVZXWD(reg.X5, reg.Y4)
			VPAND(reg.Y14, reg.Y4, reg.Y4)
			gather8(r)
			VPSRLW(U8(9), reg.X5, reg.X5)
			VPACKUSWB(reg.X5, reg.X5, reg.X5)
			g := GP64()
			VMOVQ(reg.X5, g)
			complete(g)
			signed(r, j)
		}
	})
	rows(rowKernel{name: "IQ2S", size: 82, table: true}, func() {
		sixteens()
		number(0x300, reg.Y14)
		VMOVDQU(named("by2"), reg.Y13)
	}, func(r *rowProduct) {
		scalesIQ2(r, 74)
		for j := range 4 {
			VPMOVZXBD(ptr(r.src, 2+8*j), reg.Y4)
			VPBROADCASTW(ptr(r.src, 66+2*j), reg.Y5)
			VPSRLVD(reg.Y13, reg.Y5, reg.Y5)
			VPSLLD(U8(8), reg.Y5, reg.Y5)
			VPTERNLOGD(U8(0xf8), reg.Y14, reg.Y5, reg.Y4) // y4 | y5 & y14
			gather8(r)
			KMOVQ(ptr(r.src, 34+8*j), reg.K1)
			signed(r, j)
		}
	})
	rows(rowKernel{name: "IQ3XXS", size: 98, table: true}, pairs, func(r *rowProduct) {
		halfAt(r, 0, quarter, reg.Y3)
		VMOVDQU(ptr(r.src, 66), reg.Y0)
		VPSRLD(U8(28), reg.Y0, reg.Y0)
		odd(reg.Y0)
		VMULPS(ptr(r.scales, 0), reg.Y0, reg.Y0)
		for j := range 4 {
			VPMOVZXBD(ptr(r.src, 2+16*j), z[4])
			gather4(r)
			g := GP64()
			MOVQ(ptr(r.src, 66+8*j), g)
			spread(g)
			complete(g)
			signed(r, j)
		}
	})
	rows(rowKernel{name: "IQ3S", size: 110, table: true}, func() {
		pairs()
		broadcast(named("low4"), 31)
		number(0x100, z[14])
	}, func(r *rowProduct) {
		halfAt(r, 0, nil, reg.Y3)
		VMOVD(ptr(r.src, 106), reg.X0)
		nibbleScales()
		VPMOVZXBD(reg.X0, reg.Y0)
		odd(reg.Y0)
		VMULPS(ptr(r.scales, 0), reg.Y0, reg.Y0)
		for j := range 4 {
			VPMOVZXBD(ptr(r.src, 2+16*j), z[4])
			KMOVW(ptr(r.src, 66+2*j), reg.K1)
			VPORD(z[14], z[4], reg.K1, z[4])
			gather4(r)
			KMOVQ(ptr(r.src, 74+8*j), reg.K1)
			signed(r, j)
		}
	})

	// The table of IQ1 holds 16 + 8 times the level; scales are eighths.
	rows(rowKernel{name: "IQ1S", size: 50, table: true, sums: 32}, func() {
		pairs()
		number(7, reg.Y12)
		number(15, reg.Y13)
		number(0x700, reg.Y14)
		VMOVDQU32(numbers("by3pairs", 0, 3, 6, 9, 16, 19, 22, 25), reg.Y27)
	}, func(r *rowProduct) {
		halfAt(r, 0, eighth, reg.Y3)
		VPMOVZXWD(ptr(r.src, 34), reg.Y1)
		VPSRLD(U8(12), reg.Y1, reg.Y0)
		VPAND(reg.Y12, reg.Y0, reg.Y0)
		odd(reg.Y0)
		// All levels are 1 higher or lower: 15 or 17 too high.
		VPSRLD(U8(15), reg.Y1, reg.Y1)
		VPADDD(reg.Y1, reg.Y1, reg.Y1)
		VPADDD(reg.Y13, reg.Y1, reg.Y1)
		VCVTDQ2PS(reg.Y1, reg.Y1)
		VMULPS(reg.Y0, reg.Y1, reg.Y1)
		VMULPS(ptr(r.sums, 0), reg.Y1, reg.Y1)
		VSUBPS(z[1], r.acc, r.acc)
		VMULPS(ptr(r.scales, 0), reg.Y0, reg.Y0)
		for j := range 4 {
			VPMOVZXBD(ptr(r.src, 2+8*j), reg.Y4)
			VPBROADCASTD(ptr(r.src, 34+4*j), reg.Y5)
			VPSRLVD(reg.Y27, reg.Y5, reg.Y5)
			VPSLLD(U8(8), reg.Y5, reg.Y5)
			VPTERNLOGD(U8(0xf8), reg.Y14, reg.Y5, reg.Y4)
			gather8(r)
			multiply(r, j)
		}
	})
	by369 := indices("by369", func(i int) uint32 { return uint32(3 * (i % 4)) })
	rows(rowKernel{name: "IQ1M", size: 56, table: true, sums: 16}, func() {
		sixteens()
		number(7, z[12])
		number(8, reg.Y13)
		number(0x700, reg.Y14)
		number(0x01010101, z[28])
		VPTERNLOGD(U8(0xff), z[29], z[29], z[29])
		VMOVDQU32(by369, z[24])
		VMOVDQU32(named("by4"), reg.Y25)
		VBROADCASTSS(f32("sixteen", 16), z[30])
	}, func(r *rowProduct) {
		g := GP64()
		MOVQ(ptr(r.src, 48), g)
		PEXTQ(nibbles, g, g)
		VMOVD(g.As32(), reg.X2)
		VCVTPH2PS(reg.X2, reg.X2)
		VMULSS(eighth, reg.X2, reg.X2)
		VBROADCASTSS(reg.X2, z[3])
		VPMOVZXWD(ptr(r.src, 48), reg.X0)
		VPERMD(z[0], z[20], z[0]) // four of each
		VPSRLVD(z[24], z[0], z[0])
		VPANDD(z[12], z[0], z[0])
		odd(z[0])
		VMULPS(ptr(r.sums, 0), z[0], z[1])
		VFNMADD231PS(z[30], z[1], r.acc)
		scale16(r)
		for j := range 4 {
			VPMOVZXBD(ptr(r.src, 8*j), reg.Y4)
			VPBROADCASTD(ptr(r.src, 32+4*j), reg.Y5)
			VPSRLVD(reg.Y25, reg.Y5, reg.Y5)
			VPTESTMD(reg.Y13, reg.Y5, reg.K1)
			VPSLLD(U8(8), reg.Y5, reg.Y5)
			VPTERNLOGD(U8(0xf8), reg.Y14, reg.Y5, reg.Y4)
			gather8(r)
			VPBLENDMQ(z[29], z[28], reg.K1, z[8]) // up or down
			VPADDB(z[8], z[6], z[6])
			multiply(r, j)
		}
	})
}
