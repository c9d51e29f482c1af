package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// measures emits what looks at elements before and after their encoding.
func measures() {
	t := target{8, "AVX2"}
	abs16, abs32 := ints("absMask16", 0x7fff7fff), ints("absMaskM", 0x7fffffff)

	TEXT("maxBits16AVX2", NOSPLIT, "func(src *byte, n int) uint32")
	Doc("maxBits16AVX2: the largest of n 16-bit numbers, a multiple of 64, without their highest bits")
	src, n := Load(Param("src"), GP64()), Load(Param("n"), GP64())
	var m []reg.VecVirtual
	for range 4 {
		m = append(m, t.zero())
	}
	again := label("max")
	Label(again)
	for i := range m {
		v := t.load(Mem{Base: src, Disp: 32 * i})
		VANDPS(abs16, v, v)
		VPMAXUW(v, m[i], m[i])
	}
	ADDQ(Imm(128), src)
	SUBQ(Imm(64), n)
	JNZ(LabelRef(again))
	VPMAXUW(m[1], m[0], m[0])
	VPMAXUW(m[3], m[2], m[2])
	VPMAXUW(m[2], m[0], m[0])
	hi := XMM()
	VEXTRACTI128(Imm(1), m[0], hi)
	VPMAXUW(m[0].AsX(), hi, hi)
	for _, order := range []uint64{0x4e, 0xb1} {
		other := XMM()
		VPSHUFD(Imm(order), hi, other)
		VPMAXUW(other, hi, hi)
	}
	bits, low := GP32(), GP32()
	VMOVD(hi, bits)
	MOVWLZX(bits.As16(), low)
	SHRL(Imm(16), bits)
	CMPL(bits, low)
	CMOVLCS(low, bits)
	Store(bits, ReturnIndex(0))
	ret()

	TEXT("addErrorsAVX2", NOSPLIT, "func(x, y *float32, n int, sums *float64) (worst uint32)")
	Doc("addErrorsAVX2: the sums of kernels.AddErrors, for n elements, a multiple of 4; worst is the largest |x[i]-y[i]|, as bits")
	x, y, n := Load(Param("x"), GP64()), Load(Param("y"), GP64()), Load(Param("n"), GP64())
	sums := Load(Param("sums"), GP64())
	var total [3]reg.VecVirtual
	for i := range total {
		total[i] = YMM()
		VMOVUPD(Mem{Base: sums, Disp: 32 * i}, total[i])
	}
	mask, worst := XMM(), XMM()
	VMOVUPS(abs32, mask)
	VPXOR(worst, worst, worst)
	again = label("errors")
	Label(again)
	{
		v, d, size := XMM(), XMM(), XMM()
		a, e, p := YMM(), YMM(), YMM()
		VMOVUPS(Mem{Base: x}, v)
		VSUBPS(Mem{Base: y}, v, d)
		VANDPS(mask, d, size)
		VPMAXUD(size, worst, worst)
		VCVTPS2PD(v, a)
		VCVTPS2PD(d, e)
		VMULPD(e, e, p)
		VADDPD(p, total[0], total[0])
		VMULPD(a, e, e)
		VADDPD(e, total[2], total[2])
		VMULPD(a, a, a)
		VADDPD(a, total[1], total[1])
	}
	ADDQ(Imm(16), x)
	ADDQ(Imm(16), y)
	SUBQ(Imm(4), n)
	JNZ(LabelRef(again))
	for i := range total {
		VMOVUPD(total[i], Mem{Base: sums, Disp: 32 * i})
	}
	for _, order := range []uint64{0x4e, 0xb1} {
		other := XMM()
		VPSHUFD(Imm(order), worst, other)
		VPMAXUD(other, worst, worst)
	}
	bits = GP32()
	VMOVD(worst, bits)
	Store(bits, ReturnIndex(0))
	ret()
}
