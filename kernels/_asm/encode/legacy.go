package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// horizontal reduces a register to its lowest element.
func horizontal(op func(ops ...Op), y reg.VecVirtual) reg.VecVirtual {
	x, t := XMM(), XMM()
	VEXTRACTF128(Imm(1), y, t)
	op(t, y.AsX(), x)
	VPERMILPS(Imm(0x4e), x, t)
	op(t, x, x)
	VPERMILPS(Imm(0xb1), x, t)
	op(t, x, x)
	return x
}

func reduce4(op func(ops ...Op), v []reg.VecVirtual) reg.VecVirtual {
	a, b := YMM(), YMM()
	op(v[1], v[0], a)
	op(v[3], v[2], b)
	op(b, a, a)
	return horizontal(op, a)
}

// firstEqual loads the first of the 32 floats at x that equals the scalar s; v
// are their values, or what s was chosen from.
func firstEqual(x reg.Register, v []reg.VecVirtual, s reg.VecVirtual) reg.VecVirtual {
	y := YMM()
	VBROADCASTSS(s, y)
	bits := GP32()
	for i := 3; i >= 0; i-- {
		eq, m := YMM(), GP32()
		VCMPPS(Imm(0), y, v[i], eq)
		VMOVMSKPS(eq, m)
		if i == 3 {
			MOVL(m, bits)
		} else {
			SHLL(Imm(8), bits)
			ORL(m, bits)
		}
	}
	// With NaNs there may be none; stay inside the block.
	BSFL(bits, bits)
	ANDL(Imm(31), bits)
	r := XMM()
	VMOVSS(Mem{Base: x, Index: bits.As64(), Scale: 4}, r)
	return r
}

// packBytes packs the low bytes of 32 32-bit numbers.
func packBytes(v []reg.VecVirtual, low, order reg.VecVirtual) reg.VecVirtual {
	for _, y := range v {
		VPAND(low, y, y)
	}
	VPACKUSDW(v[1], v[0], v[0])
	VPACKUSDW(v[3], v[2], v[2])
	VPACKUSWB(v[2], v[0], v[0])
	VPERMD(v[0], order, v[0])
	return v[0]
}

func putHalf(s reg.VecVirtual, dst Mem) {
	h := XMM()
	VCVTPS2PH(Imm(0), s, h)
	VPEXTRW(Imm(0), h, dst)
}

// inverse returns 1/s, or 0 where s is 0.
func inverse(s, one reg.VecVirtual) reg.VecVirtual {
	zero, keep, inv := XMM(), XMM(), XMM()
	VXORPS(zero, zero, zero)
	VCMPSS(Imm(4), zero, s, keep)
	VDIVSS(s, one.AsX(), inv)
	VANDPS(keep, inv, inv)
	return inv
}

// packOrder restores the order of 32 bytes after two rounds of packing, which
// work on 128 bits each.
var packOrder Mem

func legacy() {
	var (
		absMask  = ints("absMask", 0x7fffffff)
		signMask = ints("signMask", 0x80000000)
		lowByte  = ints("lowByte", 0xff)
		lowHalf  = ints("lowNibbles", 0x0f0f0f0f)
		ones     = floats("oneF", 1)
		half     = floats("halfF", 0.5)
		// The largest float below a half: adding it and truncating rounds
		// halves away from zero, and nothing below a half.
		belowHalf = ints("belowHalf", 0x3effffff)
	)
	packOrder = GLOBL("packOrder", 8|16)
	for i, v := range []uint32{0, 4, 1, 5, 2, 6, 3, 7} {
		DATA(4*i, U32(v))
	}

	// block emits the loop over blocks around body.
	block := func(name, doc string, size int, setup func(), body func(x, dst reg.Register, v []reg.VecVirtual)) {
		TEXT(name, NOSPLIT, "func(dst *byte, x *float32, blocks int)")
		Doc(doc)
		dst, x, n := Load(Param("dst"), GP64()), Load(Param("x"), GP64()), Load(Param("blocks"), GP64())
		setup()
		Label(name + "Loop")
		TESTQ(n, n)
		JZ(LabelRef(name + "Done"))
		v := make([]reg.VecVirtual, 4)
		for i := range v {
			v[i] = YMM()
			VMOVUPS(Mem{Base: x, Disp: 32 * i}, v[i])
		}
		body(x, dst, v)
		ADDQ(Imm(128), x)
		ADDQ(Imm(uint64(size)), dst)
		DECQ(n)
		JMP(LabelRef(name + "Loop"))
		Label(name + "Done")
		VZEROUPPER()
		RET()
	}
	var one, low, ord reg.VecVirtual
	setup := func() { one, low, ord = load(ones), load(lowByte), load(packOrder) }
	magnitudes := func(v []reg.VecVirtual) []reg.VecVirtual {
		abs := make([]reg.VecVirtual, 4)
		for i := range abs {
			abs[i] = YMM()
			VANDPS(absMask, v[i], abs[i])
		}
		return abs
	}
	// levels stores the bytes in packed the way the types with 4 and 5 bits do.
	levels := func(packed reg.VecVirtual, dst reg.Register, at int, fifth bool) {
		if fifth {
			t, bits := YMM(), GP32()
			VPSLLW(Imm(3), packed, t)
			VPMOVMSKB(t, bits)
			MOVL(bits, Mem{Base: dst, Disp: at})
			at += 4
		}
		hi := XMM()
		VPAND(lowHalf, packed, packed)
		VEXTRACTI128(Imm(1), packed, hi)
		VPSLLW(Imm(4), hi, hi)
		VPOR(hi, packed.AsX(), hi)
		VMOVDQU(hi, Mem{Base: dst, Disp: at})
	}

	block("encodeQ8_0AVX2", "encodeQ8_0AVX2: quant.Encode(quant.Q8_0, dst, x[:32*blocks], nil)", 34, setup,
		func(x, dst reg.Register, v []reg.VecVirtual) {
			d, y := XMM(), YMM()
			VDIVSS(floats("c127", 127), reduce4(VMAXPS, magnitudes(v)), d)
			putHalf(d, Mem{Base: dst})
			VBROADCASTSS(inverse(d, one), y)
			for _, r := range v {
				t := YMM()
				VMULPS(y, r, r)
				VANDPS(signMask, r, t)
				VORPS(belowHalf, t, t)
				VADDPS(t, r, r)
				VCVTTPS2DQ(r, r)
			}
			VMOVDQU(packBytes(v, low, ord), Mem{Base: dst, Disp: 2})
		})

	symmetric := func(name, typ string, size int, scale, offset Mem, top Mem, fifth bool) {
		block(name, name+": quant.Encode(quant."+typ+", dst, x[:32*blocks], nil)", size, setup,
			func(x, dst reg.Register, v []reg.VecVirtual) {
				abs := magnitudes(v)
				amax := reduce4(VMAXPS, abs)
				d := firstEqual(x, abs, amax)
				zero, keep, y := XMM(), XMM(), YMM()
				VXORPS(zero, zero, zero)
				VCMPSS(Imm(4), zero, amax, keep) // a block of zeros counts as +0
				VANDPS(keep, d, d)
				VMULSS(scale, d, d)
				putHalf(d, Mem{Base: dst})
				VBROADCASTSS(inverse(d, one), y)
				for _, r := range v {
					VMULPS(y, r, r)
					VADDPS(offset, r, r)
					VCVTTPS2DQ(r, r)
					VPMINSD(top, r, r)
				}
				levels(packBytes(v, low, ord), dst, 2, fifth)
			})
	}
	symmetric("encodeQ4_0AVX2", "Q4_0", 18, floats("minusEighth", -0.125), floats("c8_5", 8.5), ints("i15", 15), false)
	symmetric("encodeQ5_0AVX2", "Q5_0", 22, floats("minusSixteenth", -0.0625), floats("c16_5", 16.5), ints("i31", 31), true)

	affine := func(name, typ string, size int, top Mem, fifth bool) {
		block(name, name+": quant.Encode(quant."+typ+", dst, x[:32*blocks], nil)", size, setup,
			func(x, dst reg.Register, v []reg.VecVirtual) {
				lowest := firstEqual(x, v, reduce4(VMINPS, v))
				highest := reduce4(VMAXPS, v)
				d, keep, y, low32 := XMM(), XMM(), YMM(), YMM()
				VSUBSS(lowest, highest, d)
				VCMPSS(Imm(4), lowest, highest, keep) // equal zeros differ by +0
				VANDPS(keep, d, d)
				VDIVSS(top, d, d)
				putHalf(d, Mem{Base: dst})
				putHalf(lowest, Mem{Base: dst, Disp: 2})
				VBROADCASTSS(inverse(d, one), y)
				VBROADCASTSS(lowest, low32)
				for _, r := range v {
					VSUBPS(low32, r, r)
					VMULPS(y, r, r)
					VADDPS(half, r, r)
					VCVTTPS2DQ(r, r)
				}
				levels(packBytes(v, low, ord), dst, 4, fifth)
			})
	}
	affine("encodeQ4_1AVX2", "Q4_1", 20, floats("c15", 15), false)
	affine("encodeQ5_1AVX2", "Q5_1", 24, floats("c31", 31), true)
}
