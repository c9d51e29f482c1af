package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

func dots() {
	for _, w := range []width{avx512, avx2} {
		dotFloat(w)
		dotRows(w, "F32", 4)
		dotRows(w, "F16", 2)
		dotRows(w, "BF16", 2)
		for _, group := range []int{16, 32} {
			dotForm(w, group, false)
			dotForm(w, group, true)
		}
	}
	dotGroups32VNNI()
	dotGroups16VNNI()
	dotGroupsAVX2(32)
	dotGroupsAVX2(16)
}

// dotFloat multiplies n elements, a multiple of the vector length, in 4
// accumulators.
func dotFloat(w width) {
	step := int(w) / 4
	text("dotF32"+w.suffix(), "func(x *byte, y *float32, n int) float32",
		"dotF32"+w.suffix()+" returns the sum of x[i]*y[i], n being a multiple of the vector length.")
	x, y, n := load("x"), load("y"), load("n")
	for i := range 4 {
		zero(w.v(i))
	}
	Label("wide")
	CMPQ(n, U32(uint32(4*step)))
	JL(LabelRef("narrow"))
	for i := range 4 {
		VMOVUPS(ptr(x, i*int(w)), w.v(4+i))
		VFMADD231PS(ptr(y, i*int(w)), w.v(4+i), w.v(i))
	}
	ADDQ(U32(uint32(4*w)), x)
	ADDQ(U32(uint32(4*w)), y)
	SUBQ(U32(uint32(4*step)), n)
	JMP(LabelRef("wide"))
	Label("narrow")
	TESTQ(n, n)
	JZ(LabelRef("sum"))
	VMOVUPS(ptr(x, 0), w.v(4))
	VFMADD231PS(ptr(y, 0), w.v(4), w.v(0))
	ADDQ(U32(uint32(w)), x)
	ADDQ(U32(uint32(w)), y)
	SUBQ(U32(uint32(step)), n)
	JMP(LabelRef("narrow"))
	Label("sum")
	VADDPS(w.v(1), w.v(0), w.v(0))
	VADDPS(w.v(3), w.v(2), w.v(2))
	VADDPS(w.v(2), w.v(0), w.v(0))
	sumPS(w, 0, 1)
	Store(reg.X0, ReturnIndex(0))
	ret()
}

// dotRows multiplies rows of plain floats with y, four at a time as rows does.
// Rows have n elements, a multiple of the vector length, and skip bytes that
// are not multiplied.
func dotRows(w width, name string, size int) {
	step := int(w) / 4
	text("dotRows"+name+w.suffix(), "func(out *float32, outStep, rows int, src *byte, srcStep, skip int, y *float32, n int)",
		"dotRows"+name+w.suffix()+" multiplies four runs of rows, see rowStreams, with y. Rows have n elements that are multiplied,",
		"a multiple of the vector length but not 0, and skip bytes that are not.")
	s := fourStreams()
	y, n := GP64(), GP64()
	s.eachRow(w, func() {
		for i := range 2 * streams {
			zero(w.v(i))
		}
		Load(Param("y"), y)
		Load(Param("n"), n)
		multiply := func(count int) {
			for i := range count {
				VMOVUPS(ptr(y, i*int(w)), w.v(8+i))
			}
			for r, src := range s.src {
				s.fetch(r, count*step*size)
				for i := range count {
					m, v := ptr(src, i*step*size), w.v(10+(2*r+i)%6)
					switch name {
					case "F32":
						VFMADD231PS(m, w.v(8+i), w.v(2*r+i))
						continue
					case "F16":
						VCVTPH2PS(m, v)
					case "BF16":
						VPMOVZXWD(m, v)
						VPSLLD(U8(16), v, v)
					}
					VFMADD231PS(w.v(8+i), v, w.v(2*r+i))
				}
				ADDQ(U32(uint32(count*step*size)), src)
			}
			ADDQ(U32(uint32(count*int(w))), y)
			SUBQ(U32(uint32(count*step)), n)
		}
		Label("wide")
		CMPQ(n, U32(uint32(2*step)))
		JL(LabelRef("narrow"))
		multiply(2)
		JMP(LabelRef("wide"))
		Label("narrow")
		TESTQ(n, n)
		JZ(LabelRef("sum"))
		multiply(1)
		Label("sum")
		Load(Param("skip"), n)
		for r, src := range s.src {
			ADDQ(n, src)
			VADDPS(w.v(2*r+1), w.v(2*r), w.v(r))
		}
	})
}

// dotForm multiplies what expand makes of unpacked bytes, without storing it,
// 32 elements a turn.
func dotForm(w width, group int, offset bool) {
	name := int8Name(group, offset, w.suffix())
	name = "dotForm" + name[len("gemmInt8"):]
	text(name, "func(u *byte, scale, offset, x *float32, n int, zero uint64) float32",
		name+" returns the sum of x[i]*(scale[g]*float32(u[i]-zero)+offset[g]), g being i over the group's length and n a",
		"multiple of 32. Of names: g16 and g32 are the length, o has offsets.")
	u, scale, x, n := load("u"), load("scale"), load("x"), load("n")
	var off reg.GPVirtual
	if offset {
		off = load("offset")
	}
	VMOVQ(load("zero"), reg.X14)
	VPBROADCASTD(reg.X14, w.v(14))
	step := int(w) / 4
	for i := range 4 {
		zero(w.v(i))
	}
	TESTQ(n, n)
	JZ(LabelRef("sum"))
	Label("loop")
	for g := range 32 / group {
		VBROADCASTSS(ptr(scale, 4*g), w.v(12))
		if offset {
			VBROADCASTSS(ptr(off, 4*g), w.v(13))
		}
		for i := range group / step {
			at := g*group + i*step
			v := w.v(4 + at/step%4)
			VPMOVZXBD(ptr(u, at), v)
			VPSUBD(w.v(14), v, v)
			VCVTDQ2PS(v, v)
			VMULPS(w.v(12), v, v)
			if offset {
				VADDPS(w.v(13), v, v)
			}
			VFMADD231PS(ptr(x, 4*at), v, w.v(at/step%4))
		}
	}
	ADDQ(U32(32), u)
	ADDQ(U32(uint32(4*32/group)), scale)
	if offset {
		ADDQ(U32(uint32(4*32/group)), off)
	}
	ADDQ(U32(128), x)
	SUBQ(U32(32), n)
	JNZ(LabelRef("loop"))
	Label("sum")
	VADDPS(w.v(1), w.v(0), w.v(0))
	VADDPS(w.v(3), w.v(2), w.v(2))
	VADDPS(w.v(2), w.v(0), w.v(0))
	sumPS(w, 0, 1)
	Store(reg.X0, ReturnIndex(0))
	ret()
}

// sumPS adds the lanes of register i into its lowest, with a scratch register.
func sumPS(w width, i, tmp int) {
	if w == avx512 {
		VEXTRACTF64X4(U8(1), zmm[i], ymm[tmp])
		VADDPS(ymm[tmp], ymm[i], ymm[i])
	}
	x, t := ymm[i].AsX(), ymm[tmp].AsX()
	VEXTRACTF128(U8(1), ymm[i], t)
	VADDPS(t, x, x)
	VPSHUFD(U8(0x0e), x, t)
	VADDPS(t, x, x)
	VPSHUFD(U8(0x01), x, t)
	VADDSS(t, x, x)
}

// indices returns a constant of 16 numbers.
func indices(name string, f func(i int) uint32) Mem {
	m := GLOBL(name, RODATA|NOPTR)
	for i := range 16 {
		DATA(4*i, U32(f(i)))
	}
	return m
}

const dotSignature = "func(u *byte, scale *float32, values *byte, scales *float32, groups int) float32"

// dotGroups32VNNI handles 16 groups of 32 per turn, then pairs, then one.
func dotGroups32VNNI() {
	pair := indices("pairOfGroups", func(i int) uint32 { return uint32(i / 8) })
	two := ConstData("two", U32(2))
	text("dotGroups32VNNI", dotSignature,
		"dotGroups32VNNI returns the sum over g of scale[g]*scales[g] * sum of u[i]*values[i] over group g of 32.")
	u, scale, values, scales, groups := load("u"), load("scale"), load("values"), load("scales"), load("groups")
	for i := range 4 {
		zero(zmm[i])
	}
	VPBROADCASTD(two, zmm[9])
	// zmm16 to zmm23 pick the scales of the eight pairs of 16 groups.
	pick := func(i int) reg.VecPhysical { return zmm[16+i] }
	VMOVDQU32(pair, pick(0))
	for i := range 7 {
		VPADDD(zmm[9], pick(i), pick(i+1))
	}
	Label("wide")
	CMPQ(groups, U32(16))
	JL(LabelRef("narrow"))
	VMOVUPS(ptr(scale, 0), zmm[10])
	VMULPS(ptr(scales, 0), zmm[10], zmm[10])
	for i := range 8 {
		p, s := zmm[24+i%4], zmm[28+i%4]
		VMOVDQU32(ptr(u, 64*i), s)
		clearZ(p)
		VPDPBUSD(ptr(values, 64*i), s, p)
		VCVTDQ2PS(p, p)
		VPERMPS(zmm[10], pick(i), s)
		VFMADD231PS(s, p, zmm[i%4])
	}
	ADDQ(U32(512), u)
	ADDQ(U32(512), values)
	ADDQ(U32(64), scale)
	ADDQ(U32(64), scales)
	SUBQ(U32(16), groups)
	JMP(LabelRef("wide"))
	Label("narrow")
	TESTQ(groups, groups)
	JZ(LabelRef("sum"))
	VBROADCASTSS(ptr(scale, 0), ymm[10])
	VMULPS(mulBroadcast(scales, ymm[11]), ymm[10], ymm[10])
	VMOVDQU(ptr(u, 0), ymm[12])
	zero(ymm[13])
	VPDPBUSD(ptr(values, 0), ymm[12], ymm[13])
	VCVTDQ2PS(ymm[13], ymm[13])
	VMULPS(ymm[10], ymm[13], ymm[13])
	VADDPS(zmm[13], zmm[0], zmm[0])
	ADDQ(U32(32), u)
	ADDQ(U32(32), values)
	ADDQ(U32(4), scale)
	ADDQ(U32(4), scales)
	DECQ(groups)
	JMP(LabelRef("narrow"))
	Label("sum")
	sumAccumulators()
}

// mulBroadcast loads one float into all lanes of v.
func mulBroadcast(p reg.GPVirtual, v reg.VecPhysical) reg.VecPhysical {
	VBROADCASTSS(ptr(p, 0), v)
	return v
}

func sumAccumulators() {
	VADDPS(zmm[1], zmm[0], zmm[0])
	VADDPS(zmm[3], zmm[2], zmm[2])
	VADDPS(zmm[2], zmm[0], zmm[0])
	sumPS(avx512, 0, 1)
	Store(reg.X0, ReturnIndex(0))
	ret()
}

// dotGroups16VNNI handles 8 groups of 32 per turn, then one.
func dotGroups16VNNI() {
	double := indices("doubled", func(i int) uint32 { return uint32(i / 2) })
	quad := indices("quarters", func(i int) uint32 { return uint32(i / 4) })
	four := ConstData("four", U32(4))
	text("dotGroups16VNNI", dotSignature,
		"dotGroups16VNNI returns the sum over g of scales[g] * (scale[2*g] * sum of u[i]*values[i] over the first 16",
		"of group g of 32 + scale[2*g+1] * that of the others).")
	u, scale, values, scales, groups := load("u"), load("scale"), load("values"), load("scales"), load("groups")
	for i := range 4 {
		zero(zmm[i])
	}
	VMOVDQU32(double, zmm[7])
	VMOVDQU32(quad, zmm[16])
	VPBROADCASTD(four, zmm[9])
	for i := range 3 {
		VPADDD(zmm[9], zmm[16+i], zmm[17+i])
	}
	Label("wide")
	CMPQ(groups, U32(8))
	JL(LabelRef("narrow"))
	VMOVUPS(ptr(scales, 0), ymm[10])
	VPERMPS(zmm[10], zmm[7], zmm[10])
	VMULPS(ptr(scale, 0), zmm[10], zmm[10])
	for i := range 4 {
		p, s := zmm[24+i], zmm[28+i]
		VMOVDQU32(ptr(u, 64*i), s)
		clearZ(p)
		VPDPBUSD(ptr(values, 64*i), s, p)
		VCVTDQ2PS(p, p)
		VPERMPS(zmm[10], zmm[16+i], s)
		VFMADD231PS(s, p, zmm[i])
	}
	ADDQ(U32(256), u)
	ADDQ(U32(256), values)
	ADDQ(U32(64), scale)
	ADDQ(U32(32), scales)
	SUBQ(U32(8), groups)
	JMP(LabelRef("wide"))
	Label("narrow")
	TESTQ(groups, groups)
	JZ(LabelRef("sum"))
	VMOVSD(ptr(scale, 0), reg.X10) // two scales
	VPERMPS(zmm[10], zmm[16], zmm[10])
	VBROADCASTSS(ptr(scales, 0), ymm[11])
	VMULPS(ymm[11], ymm[10], ymm[10])
	VMOVDQU(ptr(u, 0), ymm[12])
	zero(ymm[13])
	VPDPBUSD(ptr(values, 0), ymm[12], ymm[13])
	VCVTDQ2PS(ymm[13], ymm[13])
	VMULPS(ymm[10], ymm[13], ymm[13])
	VADDPS(zmm[13], zmm[0], zmm[0])
	ADDQ(U32(32), u)
	ADDQ(U32(32), values)
	ADDQ(U32(8), scale)
	ADDQ(U32(4), scales)
	DECQ(groups)
	JMP(LabelRef("narrow"))
	Label("sum")
	sumAccumulators()
}

// dotGroupsAVX2 widens to 16 bits: products of unsigned and signed bytes may
// not fit VPMADDUBSW's sums.
func dotGroupsAVX2(group int) {
	name := map[int]string{16: "dotGroups16AVX2", 32: "dotGroups32AVX2"}[group]
	text(name, dotSignature, name+" is dotGroups for groups of 32 with one scale per "+map[int]string{16: "16.", 32: "32."}[group])
	u, scale, values, scales, groups := load("u"), load("scale"), load("values"), load("scales"), load("groups")
	zero(reg.Y0)
	zero(reg.Y1)
	TESTQ(groups, groups)
	JZ(LabelRef("sum"))
	Label("loop")
	VBROADCASTSS(ptr(scales, 0), reg.Y6)
	for p := range 2 {
		VPMOVZXBW(ptr(u, 16*p), ymm[2+p])
		VPMOVSXBW(ptr(values, 16*p), ymm[4+p])
		VPMADDWD(ymm[4+p], ymm[2+p], ymm[2+p])
	}
	if group == 32 {
		VPADDD(reg.Y3, reg.Y2, reg.Y2)
		VBROADCASTSS(ptr(scale, 0), reg.Y7)
		VMULPS(reg.Y6, reg.Y7, reg.Y7)
		VCVTDQ2PS(reg.Y2, reg.Y2)
		VFMADD231PS(reg.Y7, reg.Y2, reg.Y0)
		ADDQ(U32(4), scale)
	} else {
		for p := range 2 {
			VBROADCASTSS(ptr(scale, 4*p), reg.Y7)
			VMULPS(reg.Y6, reg.Y7, reg.Y7)
			VCVTDQ2PS(ymm[2+p], ymm[2+p])
			VFMADD231PS(reg.Y7, ymm[2+p], ymm[p])
		}
		ADDQ(U32(8), scale)
	}
	ADDQ(U32(32), u)
	ADDQ(U32(32), values)
	ADDQ(U32(4), scales)
	DECQ(groups)
	JNZ(LabelRef("loop"))
	Label("sum")
	VADDPS(reg.Y1, reg.Y0, reg.Y0)
	sumPS(avx2, 0, 1)
	Store(reg.X0, ReturnIndex(0))
	ret()
}
