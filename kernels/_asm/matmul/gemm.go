package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

func gemm() {
	gemmF32AVX512(8, true)
	gemmF32AVX512(8, false)
	gemmF32AVX512(1, false)
	gemmF32AVX2(4)
	gemmF32AVX2(1)
	for _, group := range []int{32, 16} {
		for _, offset := range []bool{false, true} {
			gemmInt8VNNI(group, offset)
			gemmInt8AVX2(group, offset)
		}
	}
}

// rowBases returns the address of row r of a matrix with row stride rs.
func rowBases(a, rs reg.GPVirtual, rows int) (at func(r int) Mem, advance func(by Op)) {
	if rows == 1 {
		return func(int) Mem { return Mem{Base: a} }, func(by Op) { ADDQ(by, a) }
	}
	rs3 := GP64()
	LEAQ(Mem{Base: rs, Index: rs, Scale: 2}, rs3)
	bases := []reg.GPVirtual{a}
	for r := 4; r < rows; r += 4 {
		b := GP64()
		LEAQ(Mem{Base: bases[len(bases)-1], Index: rs, Scale: 4}, b)
		bases = append(bases, b)
	}
	at = func(r int) Mem {
		b := bases[r/4]
		switch r % 4 {
		case 1:
			return Mem{Base: b, Index: rs, Scale: 1}
		case 2:
			return Mem{Base: b, Index: rs, Scale: 2}
		case 3:
			return Mem{Base: b, Index: rs3, Scale: 1}
		}
		return Mem{Base: b}
	}
	return at, func(by Op) {
		for _, b := range bases {
			ADDQ(by, b)
		}
	}
}

// gemmF32AVX512 has two forms: with a stride between columns, or, contiguous,
// with the columns side by side: additions to pointers take turns on the ports
// that multiply, so it makes few of them.
func gemmF32AVX512(rows int, contiguous bool) {
	name := fmt.Sprintf("gemmF32x%dAVX512", rows)
	signature := "func(c, a *float32, rs, ks uintptr, b *float32, depth int)"
	index := "r*rs/4+k*ks/4"
	if contiguous {
		name = fmt.Sprintf("gemmF32x%dcAVX512", rows)
		signature = "func(c, a *float32, rs uintptr, b *float32, depth int)"
		index = "r*rs/4+k"
	}
	text(name, signature,
		name+" adds a product to c, ("+fmt.Sprint(rows)+", 32); strides are in bytes:",
		"",
		"\tfor r := range "+fmt.Sprint(rows)+" {",
		"\t\tfor k := range depth {",
		"\t\t\tfor l := range 32 {",
		"\t\t\t\tc[r*32+l] += a["+index+"] * b[k*32+l]")
	c, a, rs, b, depth := load("c"), load("a"), load("rs"), load("b"), load("depth")
	at, advance := rowBases(a, rs, rows)
	step4 := GP64()
	sixteen := GP64()
	if contiguous {
		MOVQ(U32(4), step4)
		MOVQ(U32(16), sixteen)
	} else {
		Load(Param("ks"), step4)
	}
	acc := func(r, t int) reg.VecPhysical { return zmm[2*r+t] }
	for r := range rows {
		for t := range 2 {
			VMOVUPS(ptr(c, r*128+t*64), acc(r, t))
		}
	}
	step := func(k, disp int) {
		x0, x1 := zmm[16+k%2*2], zmm[17+k%2*2]
		VMOVUPS(ptr(b, k*128), x0)
		VMOVUPS(ptr(b, k*128+64), x1)
		for r := range rows {
			w, m := zmm[20+(r+k*rows)%8], at(r)
			m.Disp = disp
			VBROADCASTSS(m, w)
			VFMADD231PS(x0, w, acc(r, 0))
			VFMADD231PS(x1, w, acc(r, 1))
		}
	}
	turns := GP64()
	MOVQ(depth, turns)
	SHRQ(U8(2), turns)
	JZ(LabelRef("rest"))
	Label("loop")
	for k := range 4 {
		if contiguous {
			step(k, 4*k)
			if rows > 1 {
				for _, r := range []int{2 * k, 2*k + 1} {
					m := at(r)
					m.Disp = 64
					PREFETCHT0(m)
				}
			}
			continue
		}
		step(k, 0)
		advance(step4)
	}
	if contiguous {
		advance(sixteen)
	}
	ADDQ(U32(512), b)
	DECQ(turns)
	JNZ(LabelRef("loop"))
	Label("rest")
	ANDQ(U32(3), depth)
	JZ(LabelRef("done"))
	Label("one")
	step(0, 0)
	advance(step4)
	ADDQ(U32(128), b)
	DECQ(depth)
	JNZ(LabelRef("one"))
	Label("done")
	for r := range rows {
		for t := range 2 {
			VMOVUPS(acc(r, t), ptr(c, r*128+t*64))
		}
	}
	ret()
}

func gemmF32AVX2(rows int) {
	name := fmt.Sprintf("gemmF32x%dAVX2", rows)
	text(name, "func(c, a *float32, rs, ks uintptr, b *float32, depth int)",
		name+" adds a product to half of the lanes of c, ("+fmt.Sprint(rows)+", 32); strides are in bytes:",
		"",
		"\tfor r := range "+fmt.Sprint(rows)+" {",
		"\t\tfor k := range depth {",
		"\t\t\tfor l := range 16 {",
		"\t\t\t\tc[r*32+l] += a[r*rs/4+k*ks/4] * b[k*32+l]")
	c, a, rs, ks, b, depth := load("c"), load("a"), load("rs"), load("ks"), load("b"), load("depth")
	at, advance := rowBases(a, rs, rows)
	acc := func(r, t int) reg.VecPhysical { return ymm[2*r+t] }
	for r := range rows {
		for t := range 2 {
			VMOVUPS(ptr(c, r*128+t*32), acc(r, t))
		}
	}
	TESTQ(depth, depth)
	JZ(LabelRef("done"))
	Label("loop")
	VMOVUPS(ptr(b, 0), reg.Y8)
	VMOVUPS(ptr(b, 32), reg.Y9)
	for r := range rows {
		w := ymm[10+r]
		VBROADCASTSS(at(r), w)
		VFMADD231PS(reg.Y8, w, acc(r, 0))
		VFMADD231PS(reg.Y9, w, acc(r, 1))
	}
	advance(ks)
	ADDQ(U32(128), b)
	DECQ(depth)
	JNZ(LabelRef("loop"))
	Label("done")
	for r := range rows {
		for t := range 2 {
			VMOVUPS(acc(r, t), ptr(c, r*128+t*32))
		}
	}
	ret()
}

func int8Doc(name string, group int, offset bool, rows, width int) []string {
	doc := []string{
		fmt.Sprintf("%s adds to %d lanes of c, (%d, 32), the product of unpacked weights", name, width, rows),
		"with groups of packed activations, for each group of 32 columns and each part",
		fmt.Sprintf("p of %d of them, i being the part's number:", group),
		"",
		"\tsum := sum of (u[r*strideI+k] - zero) * act[k][l] over the part's columns k",
		"\tc[r*32+l] += scaleOfAct[l] * scale[r*groupsI+i] * sum",
	}
	if offset {
		doc = append(doc, "\tc[r*32+l] += scaleOfAct[l] * offset[r*groupsI+i] * sumOfAct[l]")
	}
	return doc
}

func int8Name(group int, offset bool, suffix string) string {
	name := fmt.Sprintf("gemmInt8g%d", group)
	if offset {
		name += "o"
	}
	return name + suffix
}

// gemmInt8VNNI multiplies 8 rows with 32 tokens. The zero is taken care of by
// where the integer sums start: at the negated sums of the activations, shifted
// left; a count of 32 gives zero.
func gemmInt8VNNI(group int, offset bool) {
	name := int8Name(group, offset, "VNNI")
	text(name, "func(c *float32, u *byte, scale, offset *float32, acts *byte, groups int, shift uint64, tiles int)",
		append(int8Doc(name, group, offset, 8, 32), "", "with zero = 1<<shift, or 0 if shift is 32, and goes on with the next 8 rows until",
			"it has done tiles times 8. Neither tiles nor groups is 0.")...)
	c, nextU, nextScale, nextOff, tiles := load("c"), load("u"), load("scale"), load("offset"), load("tiles")
	shift := reg.X31
	VMOVQ(load("shift"), shift)
	parts := 32 / group
	u, scale, off := GP64(), GP64(), GP64()
	Label("tile")
	acts, groups := load("acts"), load("groups")
	for _, p := range []struct {
		at, next reg.GPVirtual
		step     uint32
	}{{u, nextU, 8 * strideI}, {scale, nextScale, 8 * 4 * groupsI}, {off, nextOff, 8 * 4 * groupsI}} {
		MOVQ(p.next, p.at)
		ADDQ(U32(p.step), p.next)
	}
	Label("loop")
	das := [2]reg.VecPhysical{zmm[22], zmm[23]}
	VMOVUPS(ptr(acts, actScales), das[0])
	VMOVUPS(ptr(acts, actScales+64), das[1])
	// start[p][t]: where integer sums begin; asum[p][t]: negated scaled sums.
	start := func(p, t int) reg.VecPhysical { return zmm[24+2*p+t] }
	for p := range parts {
		for t := range 2 {
			s := start(p, t)
			VMOVDQU32(ptr(acts, actSums+p*128+t*64), s)
			if parts == 1 {
				VPADDD(ptr(acts, actSums+128+t*64), s, s)
			}
			if offset {
				VCVTDQ2PS(s, s)
				VMULPS(das[t], s, s)
			} else {
				VPSLLD(shift, s, s)
			}
		}
	}
	sum := func(p, t, acc int) {
		if offset {
			clearZ(zmm[acc])
		} else {
			VMOVDQA32(start(p, t), zmm[acc])
		}
	}
	if group == 32 {
		for r := range 8 {
			sum(0, 0, 2*r)
			sum(0, 1, 2*r+1)
		}
		for k := range 8 {
			a0, a1 := zmm[16+k%2*2], zmm[17+k%2*2]
			VMOVDQU32(ptr(acts, k*128), a0)
			VMOVDQU32(ptr(acts, k*128+64), a1)
			PREFETCHT0(ptr(u, k*strideI+128))
			for r := range 8 {
				w := zmm[20+r%2]
				if !offset {
					w = zmm[[]int{20, 21, 26, 27}[r%4]]
				}
				VPBROADCASTD(ptr(u, r*strideI+4*k), w)
				VPDPBUSD(a0, w, zmm[2*r])
				VPDPBUSD(a1, w, zmm[2*r+1])
			}
		}
		for r := range 8 {
			ws := zmm[16+r%2]
			VBROADCASTSS(ptr(scale, r*groupsI*4), ws)
			if offset {
				VBROADCASTSS(ptr(off, r*groupsI*4), zmm[26])
			}
			for t := range 2 {
				acc, s := zmm[2*r+t], zmm[18+t]
				VCVTDQ2PS(acc, acc)
				VMULPS(ws, das[t], s)
				VFMADD213PS(ptr(c, r*128+t*64), s, acc)
				if offset {
					VFNMADD231PS(start(0, t), zmm[26], acc)
				}
				VMOVUPS(acc, ptr(c, r*128+t*64))
			}
		}
	} else {
		// Four rows at a time, both parts side by side.
		for half := 0; half < 8; half += 4 {
			acc := func(r, p, t int) int { return r*4 + p*2 + t }
			for r := range 4 {
				for p := range 2 {
					sum(p, 0, acc(r, p, 0))
					sum(p, 1, acc(r, p, 1))
				}
			}
			for k := range 4 {
				for p := range 2 {
					a0, a1 := zmm[16+2*p], zmm[17+2*p]
					VMOVDQU32(ptr(acts, (4*p+k)*128), a0)
					VMOVDQU32(ptr(acts, (4*p+k)*128+64), a1)
					for r := range 4 {
						w := zmm[[]int{20, 21, 28, 29}[r]]
						VPBROADCASTD(ptr(u, (half+r)*strideI+16*p+4*k), w)
						VPDPBUSD(a0, w, zmm[acc(r, p, 0)])
						VPDPBUSD(a1, w, zmm[acc(r, p, 1)])
					}
				}
			}
			for r := range 4 {
				row := half + r
				VBROADCASTSS(ptr(scale, row*groupsI*4), zmm[16])
				VBROADCASTSS(ptr(scale, row*groupsI*4+4), zmm[17])
				if offset {
					VBROADCASTSS(ptr(off, row*groupsI*4), zmm[20])
					VBROADCASTSS(ptr(off, row*groupsI*4+4), zmm[21])
				}
				for t := range 2 {
					x, y := zmm[acc(r, 0, t)], zmm[acc(r, 1, t)]
					VCVTDQ2PS(x, x)
					VCVTDQ2PS(y, y)
					VMULPS(zmm[16], x, x)
					VFMADD231PS(zmm[17], y, x)
					VFMADD213PS(ptr(c, row*128+t*64), das[t], x)
					if offset {
						VFNMADD231PS(start(0, t), zmm[20], x)
						VFNMADD231PS(start(1, t), zmm[21], x)
					}
					VMOVUPS(x, ptr(c, row*128+t*64))
				}
			}
		}
	}
	ADDQ(U32(actGroup), acts)
	ADDQ(U32(32), u)
	ADDQ(U32(4*parts), scale)
	if offset {
		ADDQ(U32(4*parts), off)
	}
	DECQ(groups)
	JNZ(LabelRef("loop"))
	ADDQ(U32(8*4*lanes), c)
	DECQ(tiles)
	JNZ(LabelRef("tile"))
	ret()
}

// gemmInt8AVX2 multiplies 4 rows with 16 tokens. VPMADDUBSW wants unsigned by
// signed bytes and saturates at 16 bits: it gets |w| <= 128 and the activation
// with w's sign, whose pairs of products fit.
func gemmInt8AVX2(group int, offset bool) {
	name := int8Name(group, offset, "AVX2")
	text(name, "func(c *float32, u *byte, scale, offset *float32, acts *byte, groups int, zero uint64)", int8Doc(name, group, offset, 4, 16)...)
	c, u, scale, off, acts, groups := load("c"), load("u"), load("scale"), load("offset"), load("acts"), load("groups")
	VMOVQ(load("zero"), reg.X15)
	VPBROADCASTB(reg.X15, reg.Y15)
	VPCMPEQW(reg.Y14, reg.Y14, reg.Y14)
	VPABSW(reg.Y14, reg.Y14) // sixteen ones
	parts := 32 / group
	TESTQ(groups, groups)
	JZ(LabelRef("done"))
	Label("loop")
	for p := range parts {
		for i := range 8 {
			zero(ymm[i])
		}
		for k := p * group / 4; k < (p+1)*group/4; k++ {
			VMOVDQU(ptr(acts, k*128), reg.Y8)
			VMOVDQU(ptr(acts, k*128+32), reg.Y9)
			for r := range 4 {
				VPBROADCASTD(ptr(u, r*strideI+4*k), reg.Y10)
				VPSUBB(reg.Y15, reg.Y10, reg.Y10)
				VPABSB(reg.Y10, reg.Y11)
				for t, tmp := range []reg.VecPhysical{reg.Y12, reg.Y13} {
					VPSIGNB(reg.Y10, ymm[8+t], tmp)
					VPMADDUBSW(tmp, reg.Y11, tmp)
					VPMADDWD(reg.Y14, tmp, tmp)
					VPADDD(tmp, ymm[2*r+t], ymm[2*r+t])
				}
			}
		}
		for t := range 2 {
			VMOVUPS(ptr(acts, actScales+t*32), ymm[8+t])
			if offset {
				VMOVDQU(ptr(acts, actSums+p*128+t*32), ymm[12+t])
				if parts == 1 {
					VPADDD(ptr(acts, actSums+128+t*32), ymm[12+t], ymm[12+t])
				}
				VCVTDQ2PS(ymm[12+t], ymm[12+t])
			}
		}
		for r := range 4 {
			VBROADCASTSS(ptr(scale, r*groupsI*4+4*p), reg.Y10)
			if offset {
				VBROADCASTSS(ptr(off, r*groupsI*4+4*p), reg.Y11)
			}
			for t := range 2 {
				acc := ymm[2*r+t]
				VCVTDQ2PS(acc, acc)
				VMULPS(reg.Y10, acc, acc)
				if offset {
					VFNMADD231PS(ymm[12+t], reg.Y11, acc)
				}
				VFMADD213PS(ptr(c, r*128+t*32), ymm[8+t], acc)
				VMOVUPS(acc, ptr(c, r*128+t*32))
			}
		}
	}
	ADDQ(U32(actGroup), acts)
	ADDQ(U32(32), u)
	ADDQ(U32(4*parts), scale)
	if offset {
		ADDQ(U32(4*parts), off)
	}
	DECQ(groups)
	JNZ(LabelRef("loop"))
	Label("done")
	ret()
}
