package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// exactRow writes the product of rows of blocks with float32: size bytes are 256
// columns. Weights are what the decoders make of them, to the bit. In body
// r.values are the 256 activations.
func exactRow(name string, size int, setup func(), body func(r *rowProduct)) {
	text("exact"+name+"AVX512", "func(out *float32, outStep, rows int, src *byte, srcStep int, x *float32, blocks int)",
		"exact"+name+"AVX512 multiplies four runs of rows, see rowStreams, of blocks of 256 columns with x.")
	s := fourStreams()
	x, left := GP64(), GP64()
	setup()
	s.eachRow(avx512, func() {
		for r := range streams {
			clearZ(zmm[16+r])
			clearZ(zmm[20+r])
		}
		Load(Param("x"), x)
		Load(Param("blocks"), left)
		Label("block")
		for r, src := range s.src {
			s.fetch(r, size)
			body(&rowProduct{src: src, values: x, acc: zmm[16+r], acc2: zmm[20+r]})
			ADDQ(U32(uint32(size)), src)
		}
		ADDQ(U32(1024), x)
		DECQ(left)
		JNZ(LabelRef("block"))
		for r := range streams {
			VADDPS(zmm[20+r], zmm[16+r], zmm[r])
		}
	})
}

// floats returns a constant of 16 numbers.
func floats(name string, f func(i int) float32) Mem {
	return indices(name, func(i int) uint32 { return math.Float32bits(f(i)) })
}

// The exact products of types of 4 bits look weights up among 16 numbers of a
// block in one register; those of others convert bytes. Scales go through
// memory, from where they are broadcast at no cost.
func exactRows() {
	z := zmm
	// column multiplies 16 weights in z[9] with the activations from column c on.
	column := func(r *rowProduct, c int) {
		VFMADD231PS(ptr(r.values, 4*c), z[9], []reg.VecPhysical{r.acc, r.acc2}[c/16%2])
	}
	// pair looks up nibbles of 16 bytes at disp: the low ones in low, for columns
	// from c on, and the high ones in high, for columns from d on.
	pair := func(r *rowProduct, disp int, low, high reg.VecPhysical, c, d int) {
		VPMOVZXBD(ptr(r.src, disp), z[6])
		VPERMPS(low, z[6], z[9]) // by the low 4 bits of each lane
		column(r, c)
		VPSRLD(U8(4), z[6], z[6])
		VPERMPS(high, z[6], z[9])
		column(r, d)
	}
	// scales are where a kernel keeps up to 16 of them.
	var scales Mem
	scale := func(i int) Mem { return scales.Offset(4 * i) }
	nibbles := func(name string, size int, setup func(), scaling func(r *rowProduct), first, stride int, levels Mem) {
		exactRow(name, size, func() {
			scales = AllocLocal(32)
			setup()
			VMOVUPS(levels, z[28])
		}, func(r *rowProduct) {
			scaling(r)
			VMOVUPS(reg.Y0, scales)
			for b := range 8 {
				VMULPS_BCST(scale(b), z[28], z[8])
				pair(r, first+stride*b, z[8], z[8], 32*b, 32*b+16)
			}
		})
	}
	halves18 := func(r *rowProduct) {
		VMOVDQA64(z[12], z[0])
		VMOVDQU64(ptr(r.src, 0), z[1])
		VPERMI2W(ptr(r.src, 64), z[1], z[0])
		VCVTPH2PS(reg.X0, reg.Y0)
	}
	ninths := func() { VMOVDQU(named("ninths"), reg.X12) }
	iq4 := floats("floatsIQ4", func(i int) float32 {
		return [16]float32{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}[i]
	})
	nibbles("Q4_0", 8*18, ninths, halves18, 2, 18, floats("floatsQ4", func(i int) float32 { return float32(i - 8) }))
	nibbles("IQ4NL", 8*18, ninths, halves18, 2, 18, iq4)
	nibbles("IQ4XS", 136, func() { constantsIQ4XS(reg.Y15) }, scalesIQ4XS, 8, 16, iq4)

	exactRow("Q8_0", 8*34, func() { scales = AllocLocal(32) }, func(r *rowProduct) {
		halves34(r)
		VCVTPH2PS(reg.X0, reg.Y0)
		VMOVUPS(reg.Y0, scales)
		for b := range 8 {
			for h := range 2 {
				VPMOVSXBD(ptr(r.src, 34*b+2+16*h), z[9])
				VCVTDQ2PS(z[9], z[9])
				VMULPS_BCST(scale(b), z[9], z[9])
				column(r, 32*b+16*h)
			}
		}
	})

	// scaled keeps the 8 scales and the 8 minimums of Q4_K and Q5_K.
	scaled := func(r *rowProduct) {
		sixBitScales(r)
		VMULPS(z[1], z[0], z[0])
		VMOVUPS(z[0], scales)
	}
	// levels makes those of block b from counts in from.
	levels := func(b int, from, to reg.VecPhysical) {
		VMULPS_BCST(scale(b), from, to)
		VSUBPS_BCST(scale(8+b), to, to)
	}
	upTo15 := floats("floatsTo15", func(i int) float32 { return float32(i) })
	upTo31 := floats("floatsTo31", func(i int) float32 { return float32(16 + i) })
	exactRow("Q4K", 144, func() {
		scales = AllocLocal(64)
		sixBitConstants()
		VMOVUPS(upTo15, z[28])
	}, func(r *rowProduct) {
		scaled(r)
		for j := range 4 {
			levels(2*j, z[28], z[7])
			levels(2*j+1, z[28], z[8])
			for h := range 2 {
				pair(r, 16+32*j+16*h, z[7], z[8], 64*j+16*h, 64*j+32+16*h)
			}
		}
	})
	exactRow("Q5K", 176, func() {
		scales = AllocLocal(64)
		sixBitConstants()
		VMOVUPS(upTo15, z[28])
		VMOVUPS(upTo31, z[29])
		VPBROADCASTD(ConstData("n16", U32(16)), z[30])
	}, func(r *rowProduct) {
		scaled(r)
		for h := range 2 { // high bits, that of block 4 in place
			VPMOVZXBD(ptr(r.src, 16+16*h), z[10+h])
		}
		for b := range 8 {
			levels(b, z[28], z[7])
			levels(b, z[29], z[8])
			for h := range 2 {
				VPMOVZXBD(ptr(r.src, 48+32*(b/2)+16*h), z[9])
				if b%2 == 1 {
					VPSRLD(U8(4), z[9], z[9])
				}
				high := z[10+h]
				switch {
				case b < 4:
					high = z[6]
					VPSLLD(U8(uint8(4-b)), z[10+h], high)
				case b > 4:
					high = z[6]
					VPSRLD(U8(uint8(b-4)), z[10+h], high)
				}
				VPTERNLOGD(U8(0xd8), z[30], high, z[9]) // bit 4 from high
				VPERMI2PS(z[8], z[7], z[9])             // by the low 5 bits
				column(r, 32*b+16*h)
			}
		}
	})

	var levelsQ6 Mem
	exactRow("Q6K", 210, func() {
		scales, levelsQ6 = AllocLocal(64), AllocLocal(64)
		constantsQ6K()
		VPBROADCASTB(ConstData("byteN32", U8(32)), z[28])
	}, func(r *rowProduct) {
		scalesQ6K(r)
		VMOVUPS(z[0], scales)
		for h := range 2 {
			quartersQ6K(r, h, func(j int) {
				VPSUBB(z[28], z[6], z[6])
				VMOVDQU64(z[6], levelsQ6)
				for i := range 4 {
					VPMOVSXBD(levelsQ6.Offset(16*i), z[9])
					VCVTDQ2PS(z[9], z[9])
					VMULPS_BCST(scale(4*j+i), z[9], z[9])
					column(r, 64*j+16*i)
				}
			})
		}
	})
}
