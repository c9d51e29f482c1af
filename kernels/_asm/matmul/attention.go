package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// The constants of ../../attention_int16.go.
const (
	sumBlock   = 64
	negligible = 1e-20
	lowest     = -1e30
	least      = -100
)

func attention() {
	roundRowsAVX512()
	zip16AVX512()
	scores16VNNI()
	sums16VNNI()
}

func roundRowsAVX512() {
	text("roundRowsAVX512", "func(dst *byte, tops, x *float32, stride uintptr, rows, n int, limit float32)",
		"roundRowsAVX512 is roundRowsGo for rows of 16*n elements, stride bytes apart; neither rows",
		"nor n is 0.")
	dst, tops, next, stride, rows := load("dst"), load("tops"), load("x"), load("stride"), load("rows")
	limit := reg.X5
	Load(Param("limit"), limit)
	VPBROADCASTD(NewDataAddr(Symbol{Name: "absMask", Static: true}, 0), reg.Z2)
	x, n, bits := GP64(), GP64(), GP32()
	Label("row")
	MOVQ(next, x)
	Load(Param("n"), n)
	zero(reg.Y0)
	Label("top")
	VPANDD(ptr(x, 0), reg.Z2, reg.Z1)
	VPMAXUD(reg.Z1, reg.Z0, reg.Z0)
	ADDQ(U32(64), x)
	DECQ(n)
	JNZ(LabelRef("top"))
	VEXTRACTI64X4(U8(1), reg.Z0, reg.Y1)
	VPMAXUD(reg.Y1, reg.Y0, reg.Y0)
	VEXTRACTI128(U8(1), reg.Y0, reg.X1)
	VPMAXUD(reg.X1, reg.X0, reg.X0)
	VPSHUFD(U8(0x0e), reg.X0, reg.X1)
	VPMAXUD(reg.X1, reg.X0, reg.X0)
	VPSHUFD(U8(0x01), reg.X0, reg.X1)
	VPMAXUD(reg.X1, reg.X0, reg.X0)
	VDIVSS(reg.X0, limit, reg.X3)
	VMOVD(reg.X0, bits)
	KXNORW(reg.K1, reg.K1, reg.K1)
	least := math.Float32bits(negligible)
	SUBL(U32(least), bits)
	CMPL(bits, U32(0x7f800000-least))
	JB(LabelRef("round"))
	// Negligible or not finite: no values, and for the scale x-x or 0.
	KXORW(reg.K1, reg.K1, reg.K1)
	VSUBSS(reg.X0, reg.X0, reg.X0)
	Label("round")
	VMOVSS(reg.X0, ptr(tops, 0))
	VBROADCASTSS(reg.X3, reg.Z3)
	MOVQ(next, x)
	Load(Param("n"), n)
	Label("values")
	VMULPS(ptr(x, 0), reg.Z3, reg.Z0)
	VCVTPS2DQ_Z(reg.Z0, reg.K1, reg.Z0)
	VPMOVSDW(reg.Z0, ptr(dst, 0))
	ADDQ(U32(64), x)
	ADDQ(U32(32), dst)
	DECQ(n)
	JNZ(LabelRef("values"))
	ADDQ(stride, next)
	ADDQ(U32(4), tops)
	DECQ(rows)
	JNZ(LabelRef("row"))
	ret()
}

func zip16AVX512() {
	text("zip16AVX512", "func(dst, a, b *byte, n int)",
		"zip16AVX512 puts 16*n elements of 16 bits of a and b, n > 0, side by side.")
	dst, a, b, n := load("dst"), load("a"), load("b"), load("n")
	Label("loop")
	VPMOVZXWD(ptr(a, 0), reg.Z0)
	VPMOVZXWD(ptr(b, 0), reg.Z1)
	VPSLLD(U8(16), reg.Z1, reg.Z1)
	VPORD(reg.Z1, reg.Z0, reg.Z0)
	VMOVDQU32(reg.Z0, ptr(dst, 0))
	ADDQ(U32(32), a)
	ADDQ(U32(32), b)
	ADDQ(U32(64), dst)
	DECQ(n)
	JNZ(LabelRef("loop"))
	ret()
}

// pairs16 multiplies pairs of 16-bit integers, 8 rows by 32 lanes: at(r, k) is
// where row r's pair k from the present one stands, next moves on by unroll
// pairs. The sums are in registers 0 to 15. Each turn asks for one of the cache
// lines to come.
func pairs16(b, depth reg.GPVirtual, unroll int, at func(r, k int) Mem, next func(pairs int), soon, lines reg.GPVirtual) {
	for i := range 16 {
		clearZ(zmm[i])
	}
	step := func(k int) {
		b0, b1 := zmm[16+k%2*2], zmm[17+k%2*2]
		VMOVDQU32(ptr(b, k*128), b0)
		VMOVDQU32(ptr(b, k*128+64), b1)
		for r := range 8 {
			w := zmm[20+r]
			VPBROADCASTD(at(r, k), w)
			VPDPWSSD(b0, w, zmm[2*r])
			VPDPWSSD(b1, w, zmm[2*r+1])
		}
	}
	turns := GP64()
	MOVQ(depth, turns)
	SHRQ(U8(map[int]uint8{2: 1, 4: 2}[unroll]), turns)
	JZ(LabelRef("rest"))
	Label("loop")
	TESTQ(lines, lines)
	JZ(LabelRef("asked"))
	PREFETCHT1(ptr(soon, 0))
	ADDQ(U32(64), soon)
	DECQ(lines)
	Label("asked")
	for k := range unroll {
		step(k)
	}
	next(unroll)
	ADDQ(U32(uint32(128*unroll)), b)
	DECQ(turns)
	JNZ(LabelRef("loop"))
	Label("rest")
	ANDQ(U32(uint32(unroll-1)), depth)
	JZ(LabelRef("done"))
	Label("one")
	step(0)
	next(1)
	ADDQ(U32(128), b)
	DECQ(depth)
	JNZ(LabelRef("one"))
	Label("done")
}

func scores16VNNI() {
	text("scores16VNNI", "func(c *float32, keys *byte, stride uintptr, queries *byte, depth int, scale, lane *float32, tiles int, soon *float32, lines int)",
		"scores16VNNI is scores16Go, for 8*tiles rows; tiles is not 0.")
	c, next, stride, scale, tiles := load("c"), load("keys"), load("stride"), load("scale"), load("tiles")
	soon, lines := load("soon"), load("lines")
	keys := GP64()
	Label("tile")
	MOVQ(next, keys)
	LEAQ(Mem{Base: next, Index: stride, Scale: 8}, next)
	queries, depth := load("queries"), load("depth")
	base, advance := rowBases(keys, stride, 8)
	pairs16(queries, depth, 4, func(r, k int) Mem {
		m := base(r)
		m.Disp = 4 * k
		return m
	}, func(pairs int) {
		advance(U8(4 * pairs))
	}, soon, lines)
	lane := load("lane")
	VMOVUPS(ptr(lane, 0), zmm[16])
	VMOVUPS(ptr(lane, 64), zmm[17])
	for r := range 8 {
		for t := range 2 {
			VCVTDQ2PS(zmm[2*r+t], zmm[2*r+t])
			VMULPS_BCST(ptr(scale, 4*r), zmm[16+t], zmm[18+t])
			VMULPS(zmm[18+t], zmm[2*r+t], zmm[2*r+t])
			VMOVUPS(zmm[2*r+t], ptr(c, r*128+t*64))
		}
	}
	ADDQ(U32(8*4*lanes), c)
	ADDQ(U32(8*4), scale)
	DECQ(tiles)
	JNZ(LabelRef("tile"))
	ret()
}

func sums16VNNI() {
	text("sums16VNNI", "func(c *float32, values *byte, stride uintptr, weights *byte, depth int, old, factor *float32, tiles int, soon *float32, lines int)",
		"sums16VNNI is sums16Go, for 8*tiles rows; tiles is not 0.")
	c, next, stride, tiles := load("c"), load("values"), load("stride"), load("tiles")
	soon, lines := load("soon"), load("lines")
	values := GP64()
	Label("tile")
	MOVQ(next, values)
	ADDQ(U32(8*4), next)
	weights, depth := load("weights"), load("depth")
	pairs16(weights, depth, 2, func(r, k int) Mem {
		m := Mem{Base: values, Disp: 4 * r}
		if k == 1 {
			m.Index, m.Scale = stride, 1
		}
		return m
	}, func(pairs int) {
		for range pairs {
			ADDQ(stride, values)
		}
	}, soon, lines)
	old, factor := load("old"), load("factor")
	for t := range 2 {
		VMOVUPS(ptr(factor, 64*t), zmm[16+t])
		VMOVUPS(ptr(old, 64*t), zmm[18+t])
	}
	for r := range 8 {
		for t := range 2 {
			VCVTDQ2PS(zmm[2*r+t], zmm[2*r+t])
			VMULPS(zmm[16+t], zmm[2*r+t], zmm[2*r+t])
			VFMADD231PS(ptr(c, r*128+t*64), zmm[18+t], zmm[2*r+t])
			VMOVUPS(zmm[2*r+t], ptr(c, r*128+t*64))
		}
	}
	ADDQ(U32(8*4*lanes), c)
	DECQ(tiles)
	JNZ(LabelRef("tile"))
	ret()
}

// softmax16 has an exponential of its own, 2^x with a polynomial of degree 4
// (relative error 4e-6) for what floor leaves: weights have 14 bits.
func softmax16(e *exponential) {
	text("softmax16AVX512", "func(weights *byte, scores *float32, rows int, logs, inverse, state *float32)",
		"softmax16AVX512 is softmax16Go; rows is even and not 0.")
	weights, scores, rows := load("weights"), load("scores"), load("rows")
	logs, inverse, state := load("logs"), load("inverse"), load("state")
	const top, sum, old, factor = 0, 4 * lanes, 8 * lanes, 12 * lanes // in state
	toWeight := f32("weightBits", -14)
	log2e, floor := zmm[20], zmm[21]
	VBROADCASTSS(e.log2e, log2e)
	VBROADCASTSS(f32("least", least), floor)
	poly := zmm[22:27]
	for i, c := range []float32{0.0136703095, 0.0517449978, 0.241604357, 0.692972922, 1.00000349} {
		VBROADCASTSS(f32([]string{"pow4", "pow3", "pow2", "pow1", "pow0"}[i], c), poly[i])
	}
	// pow2 replaces registers 0 to 3, x, by 2^x, step by step side by side;
	// registers x+4 and x+8 are scratch.
	pow2 := func() {
		for x := range 4 {
			VMAXPS(zmm[x], floor, zmm[x])
		}
		for x := range 4 {
			VREDUCEPS(U8(9), zmm[x], zmm[x+4]) // less its floor
		}
		for i, c := range poly {
			for x := range 4 {
				if i == 0 {
					VMOVAPS(c, zmm[x+8])
				} else {
					VFMADD213PS(c, zmm[x+4], zmm[x+8])
				}
			}
		}
		for x := range 4 {
			VSCALEFPS(zmm[x], zmm[x+8], zmm[x])
		}
	}

	// Two rows at a time: register i is half i%2 of row i/2.
	n, p := GP64(), GP64()
	most := zmm[12:16]
	low := f32("lowest", lowest)
	for i := range 4 {
		VBROADCASTSS(low, most[i])
	}
	MOVQ(rows, n)
	SHRQ(U8(1), n)
	MOVQ(scores, p)
	Label("tops")
	for i := range 4 {
		VMOVUPS(ptr(p, 64*i), zmm[i])
		if i%2 == 0 {
			VBROADCASTSS(ptr(logs, 4*(i/2)), zmm[4+i/2])
		}
		VFMADD213PS(zmm[4+i/2], log2e, zmm[i])
		VMAXPS(zmm[i], most[i], most[i])
		VMOVUPS(zmm[i], ptr(p, 64*i))
	}
	ADDQ(U32(2*4*lanes), p)
	ADDQ(U32(8), logs)
	DECQ(n)
	JNZ(LabelRef("tops"))
	part := zmm[16:18]
	for h := range 2 {
		VMAXPS(most[2+h], most[h], most[h])
		clearZ(part[h])
		VMOVUPS(ptr(state, top+64*h), zmm[h])
		VMAXPS(most[h], zmm[h], zmm[18+h])
		VMOVUPS(zmm[18+h], ptr(state, top+64*h))
		VSUBPS(zmm[18+h], zmm[h], zmm[h])
		VSUBPS(zmm[18+h], most[h], zmm[2+h])
	}
	pow2()
	for h := range 2 {
		VMOVUPS(zmm[h], ptr(state, old+64*h))
		VMOVUPS(zmm[2+h], ptr(state, factor+64*h))
		VMULPS(ptr(state, sum+64*h), zmm[h], zmm[h])
		VMOVUPS(zmm[h], ptr(state, sum+64*h))
		VADDPS_BCST(toWeight, most[h], most[h])
	}

	SHRQ(U8(1), rows)
	Label("rows")
	for i := range 4 {
		VMOVUPS(ptr(scores, 64*i), zmm[i])
		VSUBPS(most[i%2], zmm[i], zmm[i])
	}
	pow2()
	for i := range 4 {
		VFMADD231PS_BCST(ptr(inverse, 4*(i/2)), zmm[i], part[i%2])
		VCVTPS2DQ(zmm[i], zmm[i])
	}
	for h := range 2 {
		VPSLLD(U8(16), zmm[2+h], zmm[2+h])
		VPORD(zmm[2+h], zmm[h], zmm[h])
		VMOVDQU32(zmm[h], ptr(weights, 64*h))
	}
	ADDQ(U32(2*4*lanes), scores)
	ADDQ(U32(4*lanes), weights)
	ADDQ(U32(8), inverse)
	DECQ(rows)
	JNZ(LabelRef("rows"))
	for h := range 2 {
		VMOVUPS(ptr(state, factor+64*h), zmm[h])
		VFMADD213PS(ptr(state, sum+64*h), part[h], zmm[h])
		VMOVUPS(zmm[h], ptr(state, sum+64*h))
	}
	ret()
}
