package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// ints returns sixteen copies of a 32-bit constant in memory.
func ints(name string, v uint32) Mem {
	m := GLOBL(name, 8|16) // NOPTR and RODATA
	for i := range 16 {
		DATA(4*i, U32(v))
	}
	return m
}

func floats(name string, v float32) Mem { return ints(name, math.Float32bits(v)) }

// table puts sixteen floats into memory.
func table(name string, values [16]float32) Mem {
	m := GLOBL(name, 8|16)
	for i, v := range values {
		DATA(4*i, U32(math.Float32bits(v)))
	}
	return m
}

// load fills a register with a constant.
func load(m Mem) reg.VecVirtual {
	y := YMM()
	VMOVUPS(m, y)
	return y
}

// conversion emits a function that converts n elements, a multiple of 16, 16
// at a time. to32 brings eight into a register as float32, from32 stores two
// registers; it may set bits in bad for what is not finite.
func conversion(name, doc string, srcSize, dstSize int, to32 func(src Mem, y reg.VecVirtual), from32 func(a, b, bad reg.VecVirtual, dst Mem)) {
	sig := "func(dst, src *byte, n int)"
	if from32 != nil {
		sig = "func(dst, src *byte, n int) (bad bool)"
	}
	TEXT(name, NOSPLIT, sig)
	Doc(doc)
	dst, src, n := Load(Param("dst"), GP64()), Load(Param("src"), GP64()), Load(Param("n"), GP64())
	bad := YMM()
	VPXOR(bad, bad, bad)
	Label(name + "Loop")
	TESTQ(n, n)
	JZ(LabelRef(name + "Done"))
	a, b := YMM(), YMM()
	to32(Mem{Base: src}, a)
	to32(Mem{Base: src, Disp: 8 * srcSize}, b)
	if from32 != nil {
		from32(a, b, bad, Mem{Base: dst})
	} else {
		VMOVUPS(a, Mem{Base: dst})
		VMOVUPS(b, Mem{Base: dst, Disp: 32})
	}
	ADDQ(Imm(uint64(16*srcSize)), src)
	ADDQ(Imm(uint64(16*dstSize)), dst)
	SUBQ(Imm(16), n)
	JMP(LabelRef(name + "Loop"))
	Label(name + "Done")
	if from32 != nil {
		r := GP8()
		VPTEST(bad, bad)
		SETNE(r)
		Store(r, ReturnIndex(0))
	}
	VZEROUPPER()
	RET()
}

func conversions() {
	var (
		halfExp  = ints("halfExponent", 0x7c007c00)
		floatExp = ints("floatExponent", 0x7f800000)
		half     = ints("bfloatHalf", 0x7fff)
		one      = ints("one32", 1)
	)
	fromHalf := func(src Mem, y reg.VecVirtual) { VCVTPH2PS(src, y) }
	fromBF16 := func(src Mem, y reg.VecVirtual) {
		VPMOVZXWD(src, y)
		VPSLLD(Imm(16), y, y)
	}
	fromF32 := func(src Mem, y reg.VecVirtual) { VMOVUPS(src, y) }
	toHalf := func(a, b, bad reg.VecVirtual, dst Mem) {
		for i, v := range []reg.VecVirtual{a, b} {
			h, t := XMM(), XMM()
			VCVTPS2PH(Imm(0), v, h)
			VMOVDQU(h, dst.Offset(16*i))
			VPAND(halfExp, h, t)
			VPCMPEQW(halfExp, t, t)
			VPOR(t.AsY(), bad, bad)
		}
	}
	toBF16 := func(a, b, bad reg.VecVirtual, dst Mem) {
		for _, v := range []reg.VecVirtual{a, b} {
			t := YMM()
			VPAND(floatExp, v, t)
			VPCMPEQD(floatExp, t, t)
			VPOR(t, bad, bad)
			VPSRLD(Imm(16), v, t)
			VPAND(one, t, t)
			VPADDD(half, t, t)
			VPADDD(v, t, v)
			VPAND(floatExp, v, t)
			VPCMPEQD(floatExp, t, t)
			VPOR(t, bad, bad)
			VPSRLD(Imm(16), v, v)
		}
		VPACKUSDW(b, a, a)
		VPERMQ(Imm(0xd8), a, a)
		VMOVDQU(a, dst)
	}
	conversion("f16ToF32AVX2", "f16ToF32AVX2: dst[i] = float32(src[i])", 2, 4, fromHalf, nil)
	conversion("bf16ToF32AVX2", "bf16ToF32AVX2: dst[i] = float32(src[i])", 2, 4, fromBF16, nil)
	conversion("f32ToF16AVX2", "f32ToF16AVX2: dst[i] = float16(src[i]); bad tells that some dst[i] is not finite", 4, 2, fromF32, toHalf)
	conversion("bf16ToF16AVX2", "bf16ToF16AVX2: dst[i] = float16(src[i]); bad tells that some dst[i] is not finite", 2, 2, fromBF16, toHalf)
	conversion("f32ToBF16AVX2", "f32ToBF16AVX2: dst[i] = bfloat16(src[i]); bad tells that some src[i] or dst[i] is not finite", 4, 2, fromF32, toBF16)
	conversion("f16ToBF16AVX2", "f16ToBF16AVX2: dst[i] = bfloat16(src[i]); bad tells that some src[i] is not finite", 2, 2, fromHalf, toBF16)
}
