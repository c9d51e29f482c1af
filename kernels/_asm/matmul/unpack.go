package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// The unpackers use AVX2 alone: 32 elements as bytes are one register.

// unpacker holds what they share: pointers to the next block's results and
// source, and constants.
type unpacker struct {
	u, scale, offset, src reg.GPVirtual
}

// bytesOf returns 32 equal bytes as 8 bytes to broadcast.
func bytesOf(name string, b uint64) Mem { return ConstData(name, U64(b*0x0101010101010101)) }

// numbers returns a constant of whole numbers, mostly 8.
func numbers(name string, v ...uint32) Mem {
	m := GLOBL(name, RODATA|NOPTR)
	for i, x := range v {
		DATA(4*i, U32(x))
	}
	return m
}

// levels returns a constant of 16 bytes.
func levels(name string, v [16]byte) Mem {
	m := GLOBL(name, RODATA|NOPTR)
	for i, x := range v {
		DATA(i, U8(x))
	}
	return m
}

func unpackers() {
	low4 := bytesOf("low4", 0x0f)
	low2 := bytesOf("low2", 0x03)
	bit2 := bytesOf("bit2", 0x04)
	bit4 := bytesOf("bit4", 0x10)
	bits45 := bytesOf("bits45", 0x30)
	sign8 := bytesOf("sign8", 0x80)
	each8 := ConstData("eachBit", U64(0x7fbfdfeff7fbfdfe))
	spread := GLOBL("spread", RODATA|NOPTR)
	for i := range 32 {
		DATA(i, U8(uint8(i/8)))
	}
	minus := ConstData("signBit", U32(0x80000000))
	by4 := numbers("by4", 0, 4, 8, 12, 16, 20, 24, 28)
	by2 := numbers("by2", 0, 2, 4, 6, 8, 10, 12, 14)
	n32 := ConstData("n32", U32(32))
	n15 := ConstData("n15", U32(15))
	ConstData("n3", U32(3)) // used by name
	iq4 := levels("levelsIQ4", [16]byte{1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241})
	fp4 := levels("levelsFP4", [16]byte{16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4})

	y := ymm
	constant := func(m Mem, r int) { VPBROADCASTQ(m, y[r]) }

	// half loads one half as a float32 into x[r].
	half := func(p *unpacker, disp, r int) {
		g := GP32()
		MOVWLZX(ptr(p.src, disp), g)
		VMOVD(g, y[r].AsX())
		VCVTPH2PS(y[r].AsX(), y[r].AsX())
	}
	// nibbles spreads 16 bytes to y[0]; y[15] holds low4.
	nibbles := func(p *unpacker, disp int) {
		VMOVDQU(ptr(p.src, disp), reg.X0)
		VPSRLW(U8(4), reg.X0, reg.X1)
		VINSERTI128(U8(1), reg.X1, reg.Y0, reg.Y0)
		VPAND(reg.Y15, reg.Y0, reg.Y0)
	}
	// fifth adds 32 bits at disp to y[0] as 16; y[12..14] hold constants.
	fifth := func(p *unpacker, disp int) {
		VPBROADCASTD(ptr(p.src, disp), reg.Y1)
		VPSHUFB(reg.Y12, reg.Y1, reg.Y1)
		VPOR(reg.Y13, reg.Y1, reg.Y1)
		VPCMPEQB(reg.Y11, reg.Y1, reg.Y1)
		VPAND(reg.Y14, reg.Y1, reg.Y1)
		VPOR(reg.Y1, reg.Y0, reg.Y0)
	}
	fifthConstants := func() {
		constant(low4, 15)
		constant(bit4, 14)
		constant(each8, 13)
		VMOVDQU(spread, reg.Y12)
		VPCMPEQB(reg.Y11, reg.Y11, reg.Y11)
	}

	small := func(name string, size int, offset bool, setup func(), body func(p *unpacker)) {
		unpack(name, size, 32, 1, offset, setup, func(p *unpacker) {
			half(p, 0, 2)
			VMOVSS(reg.X2, ptr(p.scale, 0))
			if offset {
				half(p, 2, 3)
				VMOVSS(reg.X3, ptr(p.offset, 0))
			}
			body(p)
			VMOVDQU(reg.Y0, ptr(p.u, 0))
		})
	}
	small("Q4_0", 18, false, func() { constant(low4, 15) }, func(p *unpacker) { nibbles(p, 2) })
	small("Q4_1", 20, true, func() { constant(low4, 15) }, func(p *unpacker) { nibbles(p, 4) })
	small("Q5_0", 22, false, fifthConstants, func(p *unpacker) { nibbles(p, 6); fifth(p, 2) })
	small("Q5_1", 24, true, fifthConstants, func(p *unpacker) { nibbles(p, 8); fifth(p, 4) })
	small("Q8_0", 34, false, func() { constant(sign8, 15) }, func(p *unpacker) { VPXOR(ptr(p.src, 2), reg.Y15, reg.Y0) })
	small("IQ4NL", 18, false, func() { constant(low4, 15); VBROADCASTI128(iq4, reg.Y14) }, func(p *unpacker) {
		nibbles(p, 2)
		VPSHUFB(reg.Y0, reg.Y14, reg.Y0)
	})
	unpack("MXFP4", 17, 32, 1, false, func() { constant(low4, 15); VBROADCASTI128(fp4, reg.Y14) }, func(p *unpacker) {
		// 2^(e-128); e of 0 and 1 give subnormal numbers.
		e, tiny := GP32(), GP32()
		MOVBLZX(ptr(p.src, 0), e)
		MOVL(U32(0x00200000), tiny)
		CMPL(e, U32(2))
		JAE(LabelRef("normal"))
		TESTL(e, e)
		JZ(LabelRef("stored"))
		ADDL(tiny, tiny)
		JMP(LabelRef("stored"))
		Label("normal")
		LEAL(Mem{Base: e, Disp: -1}, tiny)
		SHLL(U8(23), tiny)
		Label("stored")
		MOVL(tiny, ptr(p.scale, 0))
		nibbles(p, 1)
		VPSHUFB(reg.Y0, reg.Y14, reg.Y0)
		VMOVDQU(reg.Y0, ptr(p.u, 0))
	})

	// store writes y[r], 32 elements, at their place.
	store := func(p *unpacker, r, at int) { VMOVDQU(y[r], ptr(p.u, at)) }
	// scaled writes 8 integers in y[r], times y[by], as floats.
	scaled := func(r, by int, to Mem) {
		VCVTDQ2PS(y[r], y[r])
		VMULPS(y[by], y[r], y[r])
		VMOVUPS(y[r], to)
	}
	// two loads d and -dmin to y[2] and y[3].
	two := func(p *unpacker, disp int) {
		VMOVD(ptr(p.src, disp), reg.X2)
		VCVTPH2PS(reg.X2, reg.X2)
		VPSHUFD(U8(1), reg.X2, reg.X3)
		VBROADCASTSS(reg.X2, reg.Y2)
		VBROADCASTSS(reg.X3, reg.Y3)
		VPBROADCASTD(minus, reg.Y4)
		VXORPS(reg.Y4, reg.Y3, reg.Y3)
	}
	one := func(p *unpacker, disp int) {
		half(p, disp, 2)
		VBROADCASTSS(reg.X2, reg.Y2)
	}
	and := func(g reg.GPVirtual, mask uint32) reg.GPVirtual { ANDL(U32(mask), g); return g }
	shifted := func(g reg.GPVirtual, n int) reg.GPVirtual {
		s := GP32()
		MOVL(g, s)
		if n > 0 {
			SHRL(U8(uint8(n)), s)
		}
		return s
	}
	// merge puts 2 bits of each byte of g above the 4 bits of low.
	merge := func(low, g reg.GPVirtual, shift int) reg.GPVirtual {
		h := and(shifted(g, shift), 0x03030303)
		SHLL(U8(4), h)
		ORL(h, low)
		return low
	}
	loadL := func(p *unpacker, disp int) reg.GPVirtual {
		g := GP32()
		MOVL(ptr(p.src, disp), g)
		return g
	}
	eight := func(a, b reg.GPVirtual, r int) {
		VMOVD(a, y[r].AsX())
		VPINSRD(U8(1), b, y[r].AsX(), y[r].AsX())
		VPMOVZXBD(y[r].AsX(), y[r])
	}
	scalesK := func(p *unpacker) {
		two(p, 0)
		s0, s1, s2 := loadL(p, 4), loadL(p, 8), loadL(p, 12)
		hi := merge(and(shifted(s2, 0), 0x0f0f0f0f), s0, 6)
		min := merge(and(shifted(s2, 4), 0x0f0f0f0f), s1, 6)
		eight(and(s0, 0x3f3f3f3f), hi, 0)
		eight(and(s1, 0x3f3f3f3f), min, 1)
		scaled(0, 2, ptr(p.scale, 0))
		scaled(1, 3, ptr(p.offset, 0))
	}
	unpack("Q4K", 144, 256, 8, true, func() { constant(low4, 15) }, func(p *unpacker) {
		scalesK(p)
		for j := range 4 {
			VMOVDQU(ptr(p.src, 16+32*j), reg.Y0)
			VPSRLW(U8(4), reg.Y0, reg.Y1)
			VPAND(reg.Y15, reg.Y0, reg.Y0)
			VPAND(reg.Y15, reg.Y1, reg.Y1)
			store(p, 0, 64*j)
			store(p, 1, 64*j+32)
		}
	})
	// place shifts the words of y[from] so that bit `bit` comes to bit `to`.
	place := func(from, into, bit, to int) {
		switch {
		case bit < to:
			VPSLLW(U8(uint8(to-bit)), y[from], y[into])
		case bit > to:
			VPSRLW(U8(uint8(bit-to)), y[from], y[into])
		default:
			VMOVDQA(y[from], y[into])
		}
	}
	unpack("Q5K", 176, 256, 8, true, func() { constant(low4, 15); constant(bit4, 14) }, func(p *unpacker) {
		scalesK(p)
		VMOVDQU(ptr(p.src, 16), reg.Y5)
		for j := range 4 {
			VMOVDQU(ptr(p.src, 48+32*j), reg.Y0)
			VPSRLW(U8(4), reg.Y0, reg.Y1)
			for part := range 2 {
				VPAND(reg.Y15, y[part], y[part])
				place(5, 6, 2*j+part, 4)
				VPAND(reg.Y14, reg.Y6, reg.Y6)
				VPOR(reg.Y6, y[part], y[part])
				store(p, part, 64*j+32*part)
			}
		}
	})
	unpack("Q6K", 210, 256, 16, false, func() { constant(low4, 15); constant(bits45, 14) }, func(p *unpacker) {
		one(p, 208)
		for i := range 2 {
			VPMOVSXBD(ptr(p.src, 192+8*i), y[i])
			scaled(i, 2, ptr(p.scale, 32*i))
		}
		for h := range 2 {
			VMOVDQU(ptr(p.src, 64*h), reg.Y0)
			VMOVDQU(ptr(p.src, 64*h+32), reg.Y1)
			VMOVDQU(ptr(p.src, 128+32*h), reg.Y5)
			for part := range 4 {
				if part < 2 {
					VPAND(reg.Y15, y[part], reg.Y7)
				} else {
					VPSRLW(U8(4), y[part-2], reg.Y7)
					VPAND(reg.Y15, reg.Y7, reg.Y7)
				}
				place(5, 6, 2*part, 4)
				VPAND(reg.Y14, reg.Y6, reg.Y6)
				VPOR(reg.Y6, reg.Y7, reg.Y7)
				store(p, 7, 128*h+32*part)
			}
		}
	})
	// quarters spreads 64 bytes at disp, 4 elements in each, or in y[0..3].
	quarters := func(p *unpacker, disp int, also func(h, part int)) {
		for h := range 2 {
			VMOVDQU(ptr(p.src, disp+32*h), reg.Y0)
			for part := range 4 {
				place(0, 1, 2*part, 0)
				VPAND(reg.Y15, reg.Y1, reg.Y1)
				if also != nil {
					also(h, part)
				}
				store(p, 1, 128*h+32*part)
			}
		}
	}
	unpack("Q2K", 84, 256, 16, true, func() { constant(low2, 15); VPBROADCASTD(n15, reg.Y14) }, func(p *unpacker) {
		two(p, 80)
		for i := range 2 {
			VPMOVZXBD(ptr(p.src, 8*i), reg.Y0)
			VPSRLD(U8(4), reg.Y0, reg.Y1)
			VPAND(reg.Y14, reg.Y0, reg.Y0)
			scaled(0, 2, ptr(p.scale, 32*i))
			scaled(1, 3, ptr(p.offset, 32*i))
		}
		quarters(p, 16, nil)
	})
	unpack("Q3K", 110, 256, 16, false, func() { constant(low2, 15); constant(bit2, 14); VPBROADCASTD(n32, reg.Y13) }, func(p *unpacker) {
		one(p, 108)
		s0, s1, s2 := loadL(p, 96), loadL(p, 100), loadL(p, 104)
		a := merge(and(shifted(s0, 0), 0x0f0f0f0f), s2, 0)
		b := merge(and(shifted(s1, 0), 0x0f0f0f0f), s2, 2)
		c := merge(and(shifted(s0, 4), 0x0f0f0f0f), s2, 4)
		d := merge(and(shifted(s1, 4), 0x0f0f0f0f), s2, 6)
		eight(a, b, 0)
		eight(c, d, 1)
		for i := range 2 {
			VPSUBD(reg.Y13, y[i], y[i])
			scaled(i, 2, ptr(p.scale, 32*i))
		}
		VMOVDQU(ptr(p.src, 0), reg.Y5)
		quarters(p, 32, func(h, part int) {
			place(5, 6, 4*h+part, 2)
			VPAND(reg.Y14, reg.Y6, reg.Y6)
			VPOR(reg.Y6, reg.Y1, reg.Y1)
		})
	})
	unpack("IQ4XS", 136, 256, 8, false, func() {
		constant(low4, 15)
		VBROADCASTI128(iq4, reg.Y14)
		constantsIQ4XS(reg.Y9)
	}, func(p *unpacker) {
		one(p, 0)
		sixBitsIQ4XS(p.src, reg.Y9)
		scaled(0, 2, ptr(p.scale, 0))
		for j := range 8 {
			nibbles(p, 8+16*j)
			VPSHUFB(reg.Y0, reg.Y14, reg.Y0)
			store(p, 0, 32*j)
		}
	})
	unpack("TQ2", 66, 256, 8, false, func() { constant(low2, 15) }, func(p *unpacker) {
		one(p, 64)
		VMOVUPS(reg.Y2, ptr(p.scale, 0))
		quarters(p, 0, nil)
	})

	unpack("TQ1", 54, 256, 8, false, func() {
		constant(bytesOf("third", 86), 15)
		constant(bytesOf("twoThirds", 171), 14)
	}, func(p *unpacker) {
		one(p, 52)
		VMOVUPS(reg.Y2, ptr(p.scale, 0))
		// A byte is a fraction of 256; the digit in front of its point after
		// multiplying by 3 is the element, what is behind it has the next ones.
		digits := func(n int, next func(digit int)) {
			for i := range n {
				VPMAXUB(reg.Y15, reg.Y0, reg.Y1)
				VPCMPEQB(reg.Y0, reg.Y1, reg.Y1)
				VPMAXUB(reg.Y14, reg.Y0, reg.Y3)
				VPCMPEQB(reg.Y0, reg.Y3, reg.Y3)
				VPADDB(reg.Y3, reg.Y1, reg.Y1)
				VPABSB(reg.Y1, reg.Y1)
				next(i)
				VPADDB(reg.Y0, reg.Y0, reg.Y3)
				VPADDB(reg.Y3, reg.Y0, reg.Y0)
			}
		}
		VMOVDQU(ptr(p.src, 0), reg.Y0)
		digits(5, func(i int) { VMOVDQU(reg.Y1, ptr(p.u, 32*i)) })
		VMOVDQU(ptr(p.src, 32), reg.X0)
		digits(5, func(i int) { VMOVDQU(reg.X1, ptr(p.u, 160+16*i)) })
		VMOVD(ptr(p.src, 48), reg.X0)
		digits(4, func(i int) { VMOVD(reg.X1, ptr(p.u, 240+4*i)) })
	})
	unpack("Q1_0", 18, 128, 4, false, func() { fifthConstants(); constant(bytesOf("bit1", 2), 14) }, func(p *unpacker) {
		one(p, 0)
		VMOVUPS(reg.X2, ptr(p.scale, 0))
		for j := range 4 {
			zero(reg.Y0)
			fifth(p, 2+4*j)
			VMOVDQU(reg.Y0, ptr(p.u, 32*j))
		}
	})
	unpack("Q2_0", 18, 64, 2, false, func() { constant(low2, 15) }, func(p *unpacker) {
		one(p, 0)
		VMOVSD(reg.X2, ptr(p.scale, 0))
		for j := range 2 {
			// The four elements of a byte go to the bytes of 32 bits.
			VPMOVZXBD(ptr(p.src, 2+8*j), reg.Y0)
			for _, n := range []uint8{6, 12} {
				VPSLLD(U8(n), reg.Y0, reg.Y1)
				VPOR(reg.Y1, reg.Y0, reg.Y0)
			}
			VPAND(reg.Y15, reg.Y0, reg.Y0)
			VMOVDQU(reg.Y0, ptr(p.u, 32*j))
		}
	})
	halves := GLOBL("halfUE4M3", RODATA|NOPTR)
	for i := range 256 {
		v := 0.0
		if exp, man := i>>3&15, float64(i&7); i == 0x7f {
			v = 0
		} else if exp == 0 {
			v = math.Ldexp(man, -10)
		} else {
			v = math.Ldexp(1+man/8, exp-8)
		}
		DATA(4*i, U32(math.Float32bits(float32(v))))
	}
	unpack("NVFP4", 36, 64, 4, false, func() { constant(low4, 15); VBROADCASTI128(fp4, reg.Y14) }, func(p *unpacker) {
		table := GP64()
		LEAQ(halves, table)
		for g := range 4 {
			e := GP32()
			MOVBLZX(ptr(p.src, g), e)
			MOVL(Mem{Base: table, Index: e.As64(), Scale: 4}, e)
			MOVL(e, ptr(p.scale, 4*g))
		}
		for j := range 2 {
			VMOVDQU(ptr(p.src, 4+16*j), reg.X0)
			VPSRLW(U8(4), reg.X0, reg.X1)
			VPUNPCKHQDQ(reg.X1, reg.X0, reg.X2)
			VPUNPCKLQDQ(reg.X1, reg.X0, reg.X0)
			VINSERTI128(U8(1), reg.X2, reg.Y0, reg.Y0)
			VPAND(reg.Y15, reg.Y0, reg.Y0)
			VPSHUFB(reg.Y0, reg.Y14, reg.Y0)
			VMOVDQU(reg.Y0, ptr(p.u, 32*j))
		}
	})

	// The IQ types look elements up in tables of package kernels, passed as
	// arguments: 8 elements, or 4, to an index; masks has a byte of ones for each
	// minus sign.
	type iq struct{ u, scale, table, masks, src reg.GPVirtual }
	lookup := func(name string, size, groups int, setup func(), scales func(p *iq), body func(p *iq, g int)) {
		text("unpack"+name+"AVX2", "func(u *byte, scale *float32, table *byte, masks *uint64, src *byte, blocks int)",
			"unpack"+name+"AVX2 is the unpacker of plain Go, for whole blocks.")
		p := &iq{load("u"), load("scale"), load("table"), load("masks"), load("src")}
		blocks := load("blocks")
		setup()
		TESTQ(blocks, blocks)
		JZ(LabelRef("done"))
		Label("loop")
		for i := 0; i < size; i += 64 {
			PREFETCHT0(ptr(p.src, ahead+i))
		}
		scales(p)
		for g := range 8 {
			body(p, g)
		}
		ADDQ(U32(256), p.u)
		ADDQ(U32(uint32(4*groups)), p.scale)
		ADDQ(U32(uint32(size)), p.src)
		DECQ(blocks)
		JNZ(LabelRef("loop"))
		Label("done")
		ret()
	}
	// odd writes scales of twice the integers in y[r] plus 1, times y[2].
	odd := func(p *iq, r, at int) {
		VPCMPEQD(reg.Y3, reg.Y3, reg.Y3)
		VPADDD(y[r], y[r], y[r])
		VPSUBD(reg.Y3, y[r], y[r])
		scaled(r, 2, ptr(p.scale, at))
	}
	// factor has a half, times factor unless that is nil, in y[2].
	factor := func(p *iq, disp int, factor Op) {
		VPBROADCASTW(ptr(p.src, disp), reg.X2)
		VCVTPH2PS(reg.X2, reg.Y2)
		if factor != nil {
			VBROADCASTSS(factor, reg.Y3)
			VMULPS(reg.Y3, reg.Y2, reg.Y2)
		}
	}
	// spreadNibbles makes bytes of the nibbles in x[0].
	spreadNibbles := func() {
		VPSRLW(U8(4), reg.X0, reg.X1)
		VPUNPCKLBW(reg.X1, reg.X0, reg.X0)
		VPBROADCASTQ(low4, reg.X1)
		VPAND(reg.X1, reg.X0, reg.X0)
	}
	eighth, quarter := f32("eighth", 0.125), f32("quarter", 0.25)
	n7 := ConstData("n7", U32(7))
	scalesIQ2 := func(at int) func(p *iq) {
		return func(p *iq) {
			factor(p, 0, eighth)
			VMOVQ(ptr(p.src, at), reg.X0)
			spreadNibbles()
			VPSRLDQ(U8(8), reg.X0, reg.X1)
			for i := range 2 {
				VPMOVZXBD(y[i].AsX(), y[i])
				odd(p, i, 32*i)
			}
		}
	}
	// gather8 looks up the 4 indices in y[from] as words of 8 bytes.
	gather8 := func(table reg.GPVirtual, from, to, mask int) {
		VPCMPEQB(y[mask], y[mask], y[mask])
		VPGATHERDQ(y[mask], Mem{Base: table, Index: y[from].AsX(), Scale: 8}, y[to])
	}
	// signed applies the mask in y[1] to y[0] and writes group g.
	signed := func(p *iq, g int) {
		VPXOR(reg.Y1, reg.Y0, reg.Y0)
		VPSUBB(reg.Y1, reg.Y0, reg.Y0)
		VPXOR(reg.Y15, reg.Y0, reg.Y0)
		VMOVDQU(reg.Y0, ptr(p.u, 32*g))
	}
	// signBits makes a mask in y[1] of the 32 bits at disp.
	signBits := func(p *iq, disp int) {
		VPBROADCASTD(ptr(p.src, disp), reg.Y1)
		VPSHUFB(reg.Y12, reg.Y1, reg.Y1)
		VPOR(reg.Y13, reg.Y1, reg.Y1)
		VPCMPEQB(reg.Y11, reg.Y1, reg.Y1)
	}
	signConstants := func() {
		constant(sign8, 15)
		constant(each8, 13)
		VMOVDQU(spread, reg.Y12)
		VPCMPEQB(reg.Y11, reg.Y11, reg.Y11)
	}
	// number broadcasts an integer to the 32-bit lanes of y[r].
	number := func(v uint32, r int) {
		g := GP32()
		MOVL(U32(v), g)
		VMOVD(g, y[r].AsX())
		VPBROADCASTD(y[r].AsX(), y[r])
	}
	by1 := numbers("by1", 0, 1, 2, 3, 4, 5, 6, 7)
	by3 := numbers("by3", 0, 3, 6, 9, 0, 0, 0, 0)
	by7 := numbers("by7", 0, 7, 14, 21, 0, 0, 0, 0)
	// sevens makes a mask in y[1] of the 4 times 7 bits at disp; y[14] holds
	// by7, y[10] 127.
	sevens := func(p *iq, disp int) {
		VPBROADCASTD(ptr(p.src, disp), reg.X1)
		VPSRLVD(reg.X14, reg.X1, reg.X1)
		VPAND(reg.X10, reg.X1, reg.X2)
		gather8(p.masks, 2, 1, 3)
	}
	sevenConstants := func() {
		constant(sign8, 15)
		VMOVDQU(by7, reg.Y14)
		number(127, 10)
	}
	lookup("IQ2XXS", 66, 8, sevenConstants, func(p *iq) {
		factor(p, 0, eighth)
		VMOVDQU(ptr(p.src, 2), reg.Y0)
		VMOVDQU(ptr(p.src, 34), reg.Y1)
		VPSRLQ(U8(60), reg.Y0, reg.Y0)
		VPSRLQ(U8(60), reg.Y1, reg.Y1)
		VSHUFPS(U8(0b10001000), reg.Y1, reg.Y0, reg.Y0)
		VPERMQ(U8(0b11011000), reg.Y0, reg.Y0)
		odd(p, 0, 0)
	}, func(p *iq, g int) {
		VPMOVZXBD(ptr(p.src, 2+8*g), reg.X4)
		gather8(p.table, 4, 0, 3)
		sevens(p, 2+8*g+4)
		signed(p, g)
	})
	lookup("IQ2XS", 74, 16, func() { constant(sign8, 15); number(511, 14) }, scalesIQ2(66), func(p *iq, g int) {
		VPMOVZXWD(ptr(p.src, 2+8*g), reg.X4)
		VPSRLD(U8(9), reg.X4, reg.X5)
		VPAND(reg.X14, reg.X4, reg.X4)
		gather8(p.table, 4, 0, 3)
		gather8(p.masks, 5, 1, 3)
		signed(p, g)
	})
	lookup("IQ2S", 82, 16, func() { signConstants(); VMOVDQU(by2, reg.Y14); number(0x300, 10) }, scalesIQ2(74), func(p *iq, g int) {
		VPMOVZXBD(ptr(p.src, 2+4*g), reg.X4)
		VPBROADCASTB(ptr(p.src, 66+g), reg.X5)
		VPSRLVD(reg.X14, reg.X5, reg.X5)
		VPSLLD(U8(8), reg.X5, reg.X5)
		VPAND(reg.X10, reg.X5, reg.X5)
		VPOR(reg.X5, reg.X4, reg.X4)
		gather8(p.table, 4, 0, 3)
		signBits(p, 34+4*g)
		signed(p, g)
	})
	gather4 := func(p *iq) {
		VPCMPEQB(reg.Y3, reg.Y3, reg.Y3)
		VPGATHERDD(reg.Y3, Mem{Base: p.table, Index: reg.Y4, Scale: 4}, reg.Y0)
	}
	lookup("IQ3XXS", 98, 8, sevenConstants, func(p *iq) {
		factor(p, 0, quarter)
		VMOVDQU(ptr(p.src, 66), reg.Y0)
		VPSRLD(U8(28), reg.Y0, reg.Y0)
		odd(p, 0, 0)
	}, func(p *iq, g int) {
		VPMOVZXBD(ptr(p.src, 2+8*g), reg.Y4)
		gather4(p)
		sevens(p, 66+4*g)
		signed(p, g)
	})
	lookup("IQ3S", 110, 8, func() { signConstants(); VMOVDQU(by1, reg.Y14); number(0x100, 10) }, func(p *iq) {
		factor(p, 0, nil)
		VMOVD(ptr(p.src, 106), reg.X0)
		spreadNibbles()
		VPMOVZXBD(reg.X0, reg.Y0)
		odd(p, 0, 0)
	}, func(p *iq, g int) {
		VPMOVZXBD(ptr(p.src, 2+8*g), reg.Y4)
		VPBROADCASTB(ptr(p.src, 66+g), reg.Y5)
		VPSRLVD(reg.Y14, reg.Y5, reg.Y5)
		VPSLLD(U8(8), reg.Y5, reg.Y5)
		VPAND(reg.Y10, reg.Y5, reg.Y5)
		VPOR(reg.Y5, reg.Y4, reg.Y4)
		gather4(p)
		signBits(p, 74+4*g)
		signed(p, g)
	})
	// IQ1: y[14] holds shifts, y[10] 0x700; masks holds what is added, up first.
	lookup("IQ1S", 50, 8, func() { VMOVDQU(by3, reg.Y14); number(0x700, 10) }, func(p *iq) {
		factor(p, 0, eighth)
		VPMOVZXWD(ptr(p.src, 34), reg.Y0)
		VPSRLD(U8(12), reg.Y0, reg.Y0)
		VPBROADCASTD(n7, reg.Y1)
		VPAND(reg.Y1, reg.Y0, reg.Y0)
		odd(p, 0, 0)
	}, func(p *iq, g int) {
		VPMOVZXBD(ptr(p.src, 2+4*g), reg.X4)
		h := GP32()
		MOVWLZX(ptr(p.src, 34+2*g), h)
		VMOVD(h, reg.X5)
		VPBROADCASTD(reg.X5, reg.X5)
		VPSRLVD(reg.X14, reg.X5, reg.X5)
		VPSLLD(U8(8), reg.X5, reg.X5)
		VPAND(reg.X10, reg.X5, reg.X5)
		VPOR(reg.X5, reg.X4, reg.X4)
		gather8(p.table, 4, 0, 3)
		SHRL(U8(15), h)
		VPBROADCASTQ(Mem{Base: p.masks, Index: h.As64(), Scale: 8}, reg.Y1)
		VPADDB(reg.Y1, reg.Y0, reg.Y0)
		VMOVDQU(reg.Y0, ptr(p.u, 32*g))
	})
	// Words 0 and 1, words 2 and 3 of 8 bytes, four times each as 32 bits, and how
	// far the scales in them are shifted.
	var wordPairs [2]Mem
	for i := range wordPairs {
		wordPairs[i] = GLOBL([]string{"words01", "words23"}[i], RODATA|NOPTR)
		for j := range 8 {
			w := uint32(2*i + j/4)
			DATA(4*j, U32(0x80800000|(2*w+1)<<8|2*w))
		}
	}
	by369 := numbers("by369twice", 0, 3, 6, 9, 0, 3, 6, 9)
	lookup("IQ1M", 56, 16, func() {
		VMOVDQU(by4, reg.Y14)
		number(0x700, 10)
		number(1, 13)
		VMOVDQU(wordPairs[0], reg.Y7)
		VMOVDQU(wordPairs[1], reg.Y8)
		VMOVDQU(by369, reg.Y9)
		VPBROADCASTD(n7, reg.Y12)
	}, func(p *iq) {
		// The scale's bits are the top ones of four words.
		words, bits, part := GP64(), GP64(), GP64()
		MOVQ(ptr(p.src, 48), words)
		MOVQ(words, bits)
		SHRQ(U8(12), bits)
		ANDQ(U32(0xf), bits)
		for i, n := range []uint8{24, 36, 48} {
			MOVQ(words, part)
			SHRQ(U8(n), part)
			ANDQ(U32(0xf0<<(4*i)), part)
			ORQ(part, bits)
		}
		VMOVD(bits.As32(), reg.X2)
		VCVTPH2PS(reg.X2, reg.X2)
		VBROADCASTSS(reg.X2, reg.Y2)
		VBROADCASTSS(eighth, reg.Y3)
		VMULPS(reg.Y3, reg.Y2, reg.Y2)
		VMOVQ(words, reg.X0)
		VPBROADCASTQ(reg.X0, reg.Y0)
		VPSHUFB(reg.Y8, reg.Y0, reg.Y1)
		VPSHUFB(reg.Y7, reg.Y0, reg.Y0)
		for i := range 2 {
			VPSRLVD(reg.Y9, y[i], y[i])
			VPAND(reg.Y12, y[i], y[i])
			odd(p, i, 32*i)
		}
	}, func(p *iq, g int) {
		VPMOVZXBD(ptr(p.src, 4*g), reg.X4)
		VPBROADCASTW(ptr(p.src, 32+2*g), reg.X5)
		VPSRLVD(reg.X14, reg.X5, reg.X5)
		VPSRLD(U8(3), reg.X5, reg.X6)
		VPSLLD(U8(8), reg.X5, reg.X5)
		VPAND(reg.X10, reg.X5, reg.X5)
		VPOR(reg.X5, reg.X4, reg.X4)
		VPAND(reg.X13, reg.X6, reg.X6)
		gather8(p.table, 4, 0, 3)
		gather8(p.masks, 6, 1, 3)
		VPADDB(reg.Y1, reg.Y0, reg.Y0)
		VMOVDQU(reg.Y0, ptr(p.u, 32*g))
	})

	// The rest are products of rows with one token, straight from the blocks:
	// 256 columns a turn, in registers of 64 unpacked weights each, whose order
	// the activations have too (oneToken in ../../matmul.go).
	z := zmm
	laneCounts := func(name string, counts ...uint64) Mem {
		m := GLOBL(name, RODATA|NOPTR)
		for i := range 8 {
			DATA(8*i, U64(counts[i*len(counts)/8]*0x0001000100010001))
		}
		return m
	}
	fifthCounts := [4]Mem{laneCounts("fifth0", 4, 2), laneCounts("fifth1", 3, 1), laneCounts("fifth2", 0, 2), laneCounts("fifth3", 1, 3)}
	laneCounts("sixth0", 4, 2)
	laneCounts("sixth1", 0, 2)
	numbers("sixMask", 0x3f3f3f3f, 0x30303030, 0x3f3f3f3f, 0x30303030)
	numbers("sixShift", 0, 2, 0, 2)
	numbers("fourMask", 0, 0x0f0f0f0f, 0, 0x0f0f0f0f)
	numbers("fourShift", 0, 0, 0, 4)
	GLOBL("twoHalves", RODATA|NOPTR)
	for i := range 32 {
		DATA(i, U8(uint8(i/16*2+i%2)))
	}

	// scaled16 makes scales in z[0] of 8 halves in x[0].
	scaled16 := func(r *rowProduct) {
		VCVTPH2PS(reg.X0, reg.Y0)
		VMULPS(ptr(r.scales, 0), reg.Y0, reg.Y0)
	}
	ninths := GLOBL("ninths", RODATA|NOPTR)
	for i := range 8 {
		DATA(2*i, U16(uint16(9*i)))
	}
	rows(rowKernel{name: "Q4_0", size: 8 * 18, negs: 128}, func() {
		picks("quarters", 4)
		broadcast(low4, 31)
		VMOVDQU(ninths, reg.X12)
	}, func(r *rowProduct) {
		VMOVDQA64(z[12], z[0])
		VMOVDQU64(ptr(r.src, 0), z[1])
		VPERMI2W(ptr(r.src, 64), z[1], z[0])
		scaled16(r)
		for j := range 2 {
			fours(r, 72*j+2, 18)
			multiplyHalves(r, j)
		}
	})
	rows(rowKernel{name: "Q8_0", size: 8 * 34, negs: 256}, func() {
		picks("pairOfGroups", 2, 4, 6)
		broadcast(sign8, 31)
	}, func(r *rowProduct) {
		halves34(r)
		scaled16(r)
		for j := range 4 {
			VMOVDQU(ptr(r.src, 68*j+2), reg.Y6)
			VINSERTI64X4(U8(1), ptr(r.src, 68*j+36), z[6], z[6])
			VPXORD(z[31], z[6], z[6])
			multiply(r, j)
		}
	})
	rowConstantsK := func() {
		picks("everyOtherGroup", 1, 4, 5)
		broadcast(low4, 31)
		sixBitConstants()
		upperHalf()
	}
	rowScalesK := func(r *rowProduct) {
		sixBitScales(r)
		VMULPS(z[4], z[1], z[1])
		VMULPS(z[1], z[0], z[0])
		VSUBPS(z[0], r.acc, reg.K3, r.acc)
	}
	indices("everyOtherGroup", func(i int) uint32 { return uint32(i / 8 * 2) })
	rows(rowKernel{name: "Q4K", size: 144, sums: 32, shared: scalesAndSums}, rowConstantsK, func(r *rowProduct) {
		rowScalesK(r)
		for j := range 2 {
			halved(r, 16+64*j)
			multiply(r, 2*j)
			VMOVDQA64(z[8], z[6])
			multiply(r, 2*j+1)
		}
	})
	rows(rowKernel{name: "Q5K", size: 176, sums: 32, shared: scalesAndSums}, func() {
		rowConstantsK()
		broadcast(bit4, 30)
		for j, m := range fifthCounts {
			VMOVDQU64(m, z[24+j])
		}
	}, func(r *rowProduct) {
		rowScalesK(r)
		VBROADCASTI64X4(ptr(r.src, 16), z[10])
		// fifth adds quarter j's high bits to z[to].
		fifth := func(j, to int) {
			if j < 2 {
				VPSLLVW(z[24+j], z[10], z[11])
			} else {
				VPSRLVW(z[24+j], z[10], z[11])
			}
			VPTERNLOGD(U8(0xf8), z[30], z[11], z[to]) // z[to] | z11 & z30
		}
		for j := range 2 {
			halved(r, 48+64*j)
			fifth(2*j, 6)
			fifth(2*j+1, 8)
			multiply(r, 2*j)
			VMOVDQA64(z[8], z[6])
			multiply(r, 2*j+1)
		}
	})
	rows(rowKernel{name: "Q6K", size: 210, negs: 256}, func() {
		picks("quarters", 4, 8, 12)
		constantsQ6K()
		VMOVDQU32(named("doubled"), z[27])
	}, func(r *rowProduct) {
		scalesQ6K(r)
		scale16(r)
		for h := range 2 {
			quartersQ6K(r, h, func(j int) { multiply(r, j) })
		}
	})
	rows(rowKernel{name: "IQ4XS", size: 136, negs: 128}, func() {
		picks("quarters", 4)
		broadcast(low4, 31)
		VBROADCASTI32X4(iq4, z[28])
		constantsIQ4XS(reg.Y15)
	}, func(r *rowProduct) {
		scalesIQ4XS(r)
		VMULPS(ptr(r.scales, 0), reg.Y0, reg.Y0)
		for j := range 2 {
			halved(r, 8+64*j)
			VPSHUFB(z[6], z[28], z[6])
			VPSHUFB(z[8], z[28], z[8])
			multiplyHalves(r, j)
		}
	})
	moreRows()
	lookupRows()
	negatedSums()
}

// negatedSums writes what takes the offset of unsigned weights out of a product.
func negatedSums() {
	text("negSumsVNNI", "func(neg *int32, values *byte, each, n int, shift uint64)",
		"negSumsVNNI writes n times 16 negated sums of 4 values, shifted left: those of 64 values, or for each = 2",
		"those of 64 and of the 64 after them together.")
	neg, values, each, n := load("neg"), load("values"), load("each"), load("n")
	shift := load("shift")
	VMOVQ(shift, reg.X5)
	VPBROADCASTD(ConstData("bytesOfOne", U32(0x01010101)), zmm[4])
	clearZ(zmm[3])
	Label("loop")
	clearZ(zmm[0])
	VPDPBUSD(ptr(values, 0), zmm[4], zmm[0])
	ADDQ(U32(64), values)
	CMPQ(each, U32(2))
	JNE(LabelRef("store"))
	VPDPBUSD(ptr(values, 0), zmm[4], zmm[0])
	ADDQ(U32(64), values)
	Label("store")
	VPSUBD(zmm[0], zmm[3], zmm[0])
	VPSLLD(reg.X5, zmm[0], zmm[0])
	VMOVDQU32(zmm[0], ptr(neg, 0))
	ADDQ(U32(64), neg)
	DECQ(n)
	JNZ(LabelRef("loop"))
	ret()
}

// ahead is how far before their use bytes of a matrix are asked for: one that
// is read once comes from memory.
const ahead = 2048

// unpack writes an unpacker of whole blocks: size bytes, n elements, groups
// scales.
func unpack(name string, size, n, groups int, offset bool, setup func(), body func(p *unpacker)) {
	text("unpack"+name+"AVX2", "func(u *byte, scale, offset *float32, src *byte, blocks int)",
		"unpack"+name+"AVX2 is the unpacker of plain Go, for whole blocks.")
	p := &unpacker{u: load("u"), scale: load("scale"), src: load("src")}
	if offset {
		p.offset = load("offset")
	}
	blocks := load("blocks")
	setup()
	TESTQ(blocks, blocks)
	JZ(LabelRef("done"))
	Label("loop")
	for i := 0; i < size; i += 64 {
		PREFETCHT0(ptr(p.src, ahead+i))
	}
	body(p)
	ADDQ(U32(uint32(n)), p.u)
	ADDQ(U32(uint32(4*groups)), p.scale)
	if offset {
		ADDQ(U32(uint32(4*groups)), p.offset)
	}
	ADDQ(U32(uint32(size)), p.src)
	DECQ(blocks)
	JNZ(LabelRef("loop"))
	Label("done")
	ret()
}
