package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// fp4 emits the encoders of the types whose elements are E2M1 numbers. Each
// compares magnitudes with the points half-way between two codes: the code is
// the number of points below. quant compares rounded distances, which comes to
// the same: between neighbours of which one is at most twice the other
// distances are exact, and between 0 and the first code they are from the
// half-way point on. Far above the last code they are not, which is left to
// quant.
func fp4() {
	var (
		abs  = ints("absMaskE", 0x7fffffff)
		sign = ints("signMaskE", 0x80000000)
		// The sign bit of four codes.
		signBits = ints("signBitsE", 0x08080808)
	)
	order := func() reg.VecVirtual { return load(packOrder) }

	TEXT("encodeMXFP4AVX2", NOSPLIT, "func(dst *byte, x *float32, blocks int) (done int)")
	Doc("encodeMXFP4AVX2: quant.Encode(quant.MXFP4, dst, x[:32*blocks], nil) up to the first block that is zero, or whose largest element is tiny or close to a power of two from below")
	dst, x, n := Load(Param("dst"), GP64()), Load(Param("x"), GP64()), Load(Param("blocks"), GP64())
	left, ord := GP64(), order()
	MOVQ(n, left)
	// With q the magnitude in units of half the scale, the points are multiples
	// of a half, so that the ceiling of 2q tells on which side of each q is.
	var points []reg.VecVirtual
	for i, v := range []uint32{1, 3, 5, 7, 10, 14, 20} {
		p := YMM()
		VMOVUPS(ints([]string{"e1", "e3", "e5", "e7", "e10", "e14", "e20"}[i], v*0x01010101), p)
		points = append(points, p)
	}
	again, done := label("mxfp4"), label("mxfp4Done")
	Label(again)
	TESTQ(left, left)
	JZ(LabelRef(done))
	{
		m := make([]reg.VecVirtual, 4)
		for i := range m {
			m[i] = YMM()
			VMOVUPS(Mem{Base: x, Disp: 32 * i}, m[i])
			VANDPS(abs, m[i], m[i])
		}
		largest, t := GP32(), GP32()
		VMOVD(reduce4(VPMAXSD, m), largest)
		MOVL(largest, t)
		ANDL(Imm(0x7fffff), t)
		CMPL(t, Imm(0x7f0000))
		JAE(LabelRef(done)) // the logarithm may round up
		SHRL(Imm(23), largest)
		CMPL(largest, Imm(255))
		JE(LabelRef(done))
		SUBL(Imm(2), largest)
		CMPL(largest, Imm(6))
		JLT(LabelRef(done))
		MOVB(largest.As8(), Mem{Base: dst})
		MOVL(U32(256), t)
		SUBL(largest, t)
		SHLL(Imm(23), t)
		inv := YMM()
		VMOVD(t, inv.AsX())
		VPBROADCASTD(inv.AsX(), inv)
		for i := range m {
			s := YMM()
			VMULPS(inv, m[i], m[i])
			VROUNDPS(Imm(2), m[i], m[i]) // up
			VMOVUPS(Mem{Base: x, Disp: 32 * i}, s)
			VANDPS(sign, s, s)
			VORPS(s, m[i], m[i])
			VCVTPS2DQ(m[i], m[i])
		}
		VPACKSSDW(m[1], m[0], m[0])
		VPACKSSDW(m[3], m[2], m[2])
		VPACKSSWB(m[2], m[0], m[0])
		v, code, above, negative := m[0], YMM(), YMM(), YMM()
		VPERMD(v, ord, v)
		VPXOR(code, code, code)
		VPCMPGTB(v, code, negative)
		VPABSB(v, v)
		for i, p := range points {
			VPCMPGTB(p, v, above)
			VPSUBB(above, code, code)
			if i == 0 {
				VPAND(above, negative, negative) // 0 has no sign
			}
		}
		VPSLLW(Imm(3), negative, negative)
		VPAND(signBits, negative, negative)
		VPOR(negative, code, code)
		hi := XMM()
		VEXTRACTI128(Imm(1), code, hi)
		VPSLLW(Imm(4), hi, hi)
		VPOR(hi, code.AsX(), hi)
		VMOVDQU(hi, Mem{Base: dst, Disp: 1})
	}
	ADDQ(Imm(128), x)
	ADDQ(Imm(17), dst)
	DECQ(left)
	JMP(LabelRef(again))
	Label(done)
	SUBQ(left, n)
	Store(n, ReturnIndex(0))
	ret()

	// Half the value of each E4M3 scale. Nothing is above the points of scale
	// 0, whose codes are all 0.
	halves := GLOBL("halvesE4M3", 8|16)
	for code := range 127 {
		v := math.Ldexp(float64(8+code&7), code>>3-11)
		switch {
		case code == 0:
			v = math.Inf(1)
		case code < 8:
			v = math.Ldexp(float64(code), -10)
		}
		DATA(4*code, U32(math.Float32bits(float32(v))))
	}
	eight := ints("eightE", 8)
	six, c512, half := floats("sixE", 6), floats("c512E", 512), floats("halfE", 0.5)
	var middles []Mem
	for i, v := range []float32{0.5, 1.5, 2.5, 3.5, 5, 7, 10} {
		middles = append(middles, floats([]string{"m1", "m3", "m5", "m7", "m10", "m14", "m20"}[i], v))
	}

	TEXT("encodeNVFP4AVX2", NOSPLIT, "func(dst *byte, x *float32, blocks int) (done int)")
	Doc("encodeNVFP4AVX2: quant.Encode(quant.NVFP4, dst, x[:64*blocks], nil) up to the first block with an element of 6144 or more, where distances to all codes may round to the same")
	dst, x, n = Load(Param("dst"), GP64()), Load(Param("x"), GP64()), Load(Param("blocks"), GP64())
	ord = order()
	table := GP64()
	LEAQ(halves, table)
	left = GP64()
	MOVQ(n, left)
	again, done = label("nvfp4"), label("nvfp4Done")
	Label(again)
	TESTQ(left, left)
	JZ(LabelRef(done))
	groups := make([]reg.VecVirtual, 4)
	for g := range groups {
		at := func(i int) Mem { return Mem{Base: x, Disp: 64*g + 32*i} }
		m := [2]reg.VecVirtual{YMM(), YMM()}
		largest := YMM()
		for i := range m {
			VMOVUPS(at(i), m[i])
			VANDPS(abs, m[i], m[i])
		}
		VMAXPS(m[1], m[0], largest)
		v := horizontal(VMAXPS, largest)
		VDIVSS(six, v, v)
		bits, up, code := GP32(), GP32(), GP32()
		VMOVD(v, bits)
		CMPL(bits, U32(math.Float32bits(1024)))
		JAE(LabelRef(done))
		VMULSS(c512, v, v) // subnormal: multiples of 2^-9
		VADDSS(half, v, v)
		VCVTTSS2SI(v, code)
		MOVL(U32(7), up)
		CMPL(code, up)
		CMOVLGT(up, code)
		normal := GP32()
		MOVL(bits, normal)
		SHRL(Imm(20), normal)
		MOVL(bits, up)
		SHRL(Imm(19), up)
		ANDL(Imm(1), up)
		LEAL(Mem{Base: normal.As64(), Index: up.As64(), Scale: 1, Disp: -960}, normal)
		MOVL(U32(126), up)
		CMPL(normal, Imm(120))
		CMOVLGE(up, normal)
		CMPL(bits, U32(121<<23))
		CMOVLGE(normal, code)
		MOVB(code.As8(), Mem{Base: dst, Disp: g})
		scale := YMM()
		VBROADCASTSS(Mem{Base: table, Index: code.As64(), Scale: 4}, scale)
		var sum, negative [2]reg.VecVirtual
		for i := range sum {
			sum[i], negative[i] = YMM(), YMM()
			VMOVUPS(at(i), negative[i])
			VPSRLD(Imm(28), negative[i], negative[i])
		}
		for k, middle := range middles {
			point := YMM()
			VMULPS(middle, scale, point)
			for i := range sum {
				above := YMM()
				VCMPPS(Imm(greater), point, m[i], above)
				if k == 0 { // 0 has no sign
					VPAND(above, negative[i], sum[i])
					VPAND(eight, sum[i], sum[i])
				}
				VPSUBD(above, sum[i], sum[i])
			}
		}
		VPSLLD(Imm(4), sum[1], sum[1])
		VPOR(sum[1], sum[0], sum[0])
		groups[g] = sum[0]
	}
	VMOVDQU(packBytes(groups, load(ints("lowByteE", 0xff)), ord), Mem{Base: dst, Disp: 4})
	ADDQ(U32(256), x)
	ADDQ(Imm(36), dst)
	DECQ(left)
	JMP(LabelRef(again))
	Label(done)
	SUBQ(left, n)
	Store(n, ReturnIndex(0))
	ret()
}
