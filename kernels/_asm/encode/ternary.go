package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// ternary emits what the types with very few levels need.
func ternary() {
	t := target{8, "AVX2"}
	var (
		signs     = ints("signMaskT", 0x80000000)
		abs       = ints("absMaskT", 0x7fffffff)
		belowHalf = ints("belowHalfT", 0x3effffff) // see legacy.go
		one       = ints("one32T", 1)
	)

	TEXT("maxAbsAVX2", NOSPLIT, "func(x *float32, n int) float32")
	Doc("maxAbsAVX2: the largest |x[i]|, i < n, a multiple of 32; compared as integers, so that NaN is the largest")
	x, n := Load(Param("x"), GP64()), Load(Param("n"), GP64())
	var m []reg.VecVirtual
	for range 4 {
		m = append(m, t.zero())
	}
	again := label("max")
	Label(again)
	for i := range 4 {
		v := t.load(Mem{Base: x, Disp: 32 * i})
		VANDPS(abs, v, v)
		VPMAXSD(m[i], v, m[i])
	}
	ADDQ(Imm(128), x)
	SUBQ(Imm(32), n)
	JNZ(LabelRef(again))
	r := reduce4(VPMAXSD, m)
	Store(r, ReturnIndex(0))
	ret()

	TEXT("roundLevelsAVX2", NOSPLIT, "func(levels *byte, x *float32, inv float32, n int)")
	Doc("roundLevelsAVX2: levels[i] = 1 + round(x[i]*inv), halves away from zero, i < n, a multiple of 32")
	dst, x, inv, n := Load(Param("levels"), GP64()), Load(Param("x"), GP64()), t.broadcast("inv"), Load(Param("n"), GP64())
	order := load(packOrder)
	again = label("round")
	Label(again)
	v := make([]reg.VecVirtual, 4)
	for i := range v {
		v[i] = t.load(Mem{Base: x, Disp: 32 * i})
		s := t.reg()
		VMULPS(inv, v[i], v[i])
		VANDPS(signs, v[i], s)
		VORPS(belowHalf, s, s)
		VADDPS(s, v[i], v[i])
		VCVTTPS2DQ(v[i], v[i])
		VPADDD(one, v[i], v[i])
	}
	VPACKUSDW(v[1], v[0], v[0])
	VPACKUSDW(v[3], v[2], v[2])
	VPACKUSWB(v[2], v[0], v[0])
	VPERMD(v[0], order, v[0])
	VMOVDQU(v[0], Mem{Base: dst})
	ADDQ(Imm(128), x)
	ADDQ(Imm(32), dst)
	SUBQ(Imm(32), n)
	JNZ(LabelRef(again))
	ret()

	TEXT("signBitsAVX2", NOSPLIT, "func(dst *byte, x *float32, n int)")
	Doc("signBitsAVX2: bit i%8 of dst[i/8] is x[i] >= 0, i < n, a multiple of 8")
	dst, x, n = Load(Param("dst"), GP64()), Load(Param("x"), GP64()), Load(Param("n"), GP64())
	zero := t.zero()
	again = label("signs")
	Label(again)
	bits := GP32()
	VMOVMSKPS(t.cmp(greaterEqual, t.load(Mem{Base: x}), zero), bits)
	MOVB(bits.As8(), Mem{Base: dst})
	ADDQ(Imm(32), x)
	INCQ(dst)
	SUBQ(Imm(8), n)
	JNZ(LabelRef(again))
	ret()

	TEXT("sumAbsAVX2", NOSPLIT, "func(sums, x *float32, stride, n int)")
	Doc("sumAbsAVX2: sums[j] = the sum of |x[stride*j+i]| over i < n, a multiple of 8, in order, j < 8")
	sums, x, stride, n := Load(Param("sums"), GP64()), Load(Param("x"), GP64()), Load(Param("stride"), GP64()), Load(Param("n"), GP64())
	SHLQ(Imm(2), stride)
	sum := t.zero()
	again = label("sum")
	Label(again)
	p := GP64()
	MOVQ(x, p)
	columns := t.transpose(p, stride)
	for _, c := range columns {
		VANDPS(abs, c, c)
		VADDPS(c, sum, sum)
	}
	ADDQ(Imm(32), x)
	SUBQ(Imm(8), n)
	JNZ(LabelRef(again))
	VMOVUPS(sum, Mem{Base: sums})
	ret()
}
