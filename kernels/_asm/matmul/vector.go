package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

func vectors() {
	e, erf := newExponential(), newErfConstants()
	softmax16(e)
	for _, w := range []width{avx512, avx2} {
		sumSquares(w)
		mulScale(w)
		scaleAdd(w)
		maximum(w, e)
		expSum(w, e)
		divergence(w, e)
		siluMul(w, e)
		gelu(w, e)
		softcap(w, e)
		softmaxLanes(w, e)
		rotate(w)
		rotatePairs(w)
		sum(w)
		affine(w)
		clamp(w)
		geluErf(w, e, erf)
	}
}

// exponential holds the constants of exp: Cephes' expf.
type exponential struct {
	lo, hi, log2e, ln2hi, ln2lo, one, bias Mem
	minusInf, geluCube, geluScale          Mem
	poly                                   [6]Mem
}

func newExponential() *exponential {
	e := &exponential{
		lo: f32("expLow", -104), hi: f32("expHigh", 89), log2e: f32("log2e", 1.44269504088896341),
		ln2hi: f32("ln2high", 0.693359375), ln2lo: f32("ln2low", -2.12194440e-4), one: f32("one", 1),
		bias: ConstData("expBias", U32(127)), minusInf: ConstData("minusInf", U32(0xff800000)),
		geluCube: f32("geluCube", 0.044715), geluScale: f32("geluScale", -1.5957691216057308),
	}
	for i, c := range []float32{1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1} {
		e.poly[i] = f32([]string{"expP0", "expP1", "expP2", "expP3", "expP4", "expP5"}[i], c)
	}
	return e
}

// The constants live in registers 3 to 15 with AVX-512, and are broadcast from
// memory by AVX2, which has too few.
func (e *exponential) all() []Mem {
	return append([]Mem{e.lo, e.hi, e.log2e, e.ln2hi, e.ln2lo, e.one}, e.poly[:]...)
}

func (e *exponential) setup(w width) {
	if w == avx512 {
		for i, m := range e.all() {
			VBROADCASTSS(m, zmm[20+i])
		}
	}
}

// one returns a register of ones; tmp is where AVX2 puts it.
func (e *exponential) constant(w width, i, tmp int) reg.VecPhysical {
	if w == avx512 {
		return zmm[20+i]
	}
	VBROADCASTSS(e.all()[i], ymm[tmp])
	return ymm[tmp]
}

// apply replaces register x by its exponential; a, b, c and tmp are scratch.
func (e *exponential) apply(w width, x, a, b, tmp int) {
	e.applyAll(w, tmp, [3]int{x, a, b})
}

// applyAll replaces the first register of each set by its exponential, the
// others are scratch. Each step waits for the one before it, so the processor
// needs several sets side by side to be busy.
func (e *exponential) applyAll(w width, tmp int, sets ...[3]int) {
	v := w.v
	// step emits f for each set, with a constant if i >= 0.
	step := func(i int, f func(c, x, a, b reg.VecPhysical)) {
		var c reg.VecPhysical
		if i >= 0 {
			c = e.constant(w, i, tmp)
		}
		for _, s := range sets {
			f(c, v(s[0]), v(s[1]), v(s[2]))
		}
	}
	// NaN passes: the operand that is returned for it is x.
	step(0, func(c, x, _, _ reg.VecPhysical) { VMAXPS(x, c, x) })
	step(1, func(c, x, _, _ reg.VecPhysical) { VMINPS(x, c, x) })
	step(2, func(c, x, a, _ reg.VecPhysical) { VMULPS(c, x, a) })
	step(-1, func(_, _, a, _ reg.VecPhysical) {
		if w == avx512 {
			VRNDSCALEPS(U8(8), a, a)
		} else {
			VROUNDPS(U8(8), a, a)
		}
	})
	step(3, func(c, x, a, _ reg.VecPhysical) { VFNMADD231PS(c, a, x) })
	step(4, func(c, x, a, _ reg.VecPhysical) { VFNMADD231PS(c, a, x) })
	step(6, func(c, _, _, b reg.VecPhysical) { VMOVAPS(c, b) })
	for i := 7; i < 12; i++ {
		step(i, func(c, x, _, b reg.VecPhysical) { VFMADD213PS(c, x, b) })
	}
	step(-1, func(_, x, _, b reg.VecPhysical) { VMULPS(x, b, b) })
	step(-1, func(_, x, _, b reg.VecPhysical) { VFMADD213PS(x, x, b) })
	step(5, func(c, x, _, b reg.VecPhysical) { VADDPS(c, b, x) })
	if w == avx512 {
		step(-1, func(_, x, a, _ reg.VecPhysical) { VSCALEFPS(a, x, x) })
		return
	}
	// In two steps, for 2^n may be too large or too small for one.
	step(-1, func(_, _, a, _ reg.VecPhysical) { VCVTPS2DQ(a, a) })
	step(-1, func(_, _, a, b reg.VecPhysical) { VPSRAD(U8(1), a, b) })
	step(-1, func(_, _, a, b reg.VecPhysical) { VPSUBD(b, a, a) })
	VPBROADCASTD(e.bias, v(tmp))
	for _, second := range []bool{false, true} {
		step(-1, func(_, x, a, b reg.VecPhysical) {
			n := a
			if second {
				n = b
			}
			VPADDD(v(tmp), n, n)
			VPSLLD(U8(23), n, n)
			VMULPS(n, x, x)
		})
	}
}

// each loops over n elements, a multiple of the vector length.
func each(w width, n reg.GPVirtual, pointers []reg.GPVirtual, body func()) {
	TESTQ(n, n)
	JZ(LabelRef("done"))
	Label("loop")
	body()
	for _, p := range pointers {
		ADDQ(U32(uint32(w)), p)
	}
	SUBQ(U32(uint32(w)/4), n)
	JNZ(LabelRef("loop"))
	Label("done")
}

func sumSquares(w width) {
	text("sumSquares"+w.suffix(), "func(x *float32, n int) float64",
		"sumSquares"+w.suffix()+" returns the sum of float64(x[i])*float64(x[i]), n being a multiple of the vector length.")
	x, n := load("x"), load("n")
	half := int(w) / 2
	for i := range 2 {
		zero(w.v(i))
	}
	each(w, n, []reg.GPVirtual{x}, func() {
		for i := range 2 {
			VCVTPS2PD(ptr(x, i*half), w.v(2+i))
			VFMADD231PD(w.v(2+i), w.v(2+i), w.v(i))
		}
	})
	VADDPD(w.v(1), w.v(0), w.v(0))
	sumPD(w, 0, 1)
	Store(reg.X0, ReturnIndex(0))
	ret()
}

func sumPD(w width, i, tmp int) {
	if w == avx512 {
		VEXTRACTF64X4(U8(1), zmm[i], ymm[tmp])
		VADDPD(ymm[tmp], ymm[i], ymm[i])
	}
	x, t := ymm[i].AsX(), ymm[tmp].AsX()
	VEXTRACTF128(U8(1), ymm[i], t)
	VADDPD(t, x, x)
	VPSHUFD(U8(0x0e), x, t)
	VADDSD(t, x, x)
}

func mulScale(w width) {
	text("mulScale"+w.suffix(), "func(out, x, weight *float32, n int, s float32)",
		"mulScale"+w.suffix()+" computes out[i] = x[i]*s*weight[i], n being a multiple of the vector length.")
	out, x, weight, n := load("out"), load("x"), load("weight"), load("n")
	s := XMM()
	Load(Param("s"), s)
	VBROADCASTSS(s, w.v(2))
	each(w, n, []reg.GPVirtual{out, x, weight}, func() {
		VMULPS(ptr(x, 0), w.v(2), w.v(0))
		VMULPS(ptr(weight, 0), w.v(0), w.v(0))
		VMOVUPS(w.v(0), ptr(out, 0))
	})
	ret()
}

func scaleAdd(w width) {
	text("scaleAdd"+w.suffix(), "func(dst, x *float32, n int, s float32)",
		"scaleAdd"+w.suffix()+" computes dst[i] += s*x[i], n being a multiple of the vector length.")
	dst, x, n := load("dst"), load("x"), load("n")
	s := XMM()
	Load(Param("s"), s)
	VBROADCASTSS(s, w.v(2))
	each(w, n, []reg.GPVirtual{dst, x}, func() {
		VMOVUPS(ptr(dst, 0), w.v(0))
		VFMADD231PS(ptr(x, 0), w.v(2), w.v(0))
		VMOVUPS(w.v(0), ptr(dst, 0))
	})
	ret()
}

func maximum(w width, e *exponential) {
	text("maximum"+w.suffix(), "func(x *float32, n int) float32",
		"maximum"+w.suffix()+" returns the largest of n elements, a multiple of the vector length, NaN if there is one.")
	x, n := load("x"), load("n")
	VBROADCASTSS(e.minusInf, w.v(0))
	zero(w.v(2))
	if w == avx512 {
		KXORW(reg.K2, reg.K2, reg.K2)
	}
	each(w, n, []reg.GPVirtual{x}, func() {
		VMOVUPS(ptr(x, 0), w.v(1))
		if w == avx512 {
			// Keep a NaN that is already there, take one that comes.
			VMAXPS(w.v(1), w.v(0), w.v(0))
			VCMPPS(U8(3), w.v(1), w.v(1), reg.K1)
			KORW(reg.K1, reg.K2, reg.K2)
		} else {
			VMAXPS(w.v(1), w.v(0), w.v(0))
			VCMPPS(U8(3), w.v(1), w.v(1), w.v(3))
			VORPS(w.v(3), w.v(2), w.v(2))
		}
	})

	bits := GP32()
	if w == avx512 {
		KMOVW(reg.K2, bits)
		VEXTRACTF64X4(U8(1), zmm[0], reg.Y1)
		VMAXPS(reg.Y1, reg.Y0, reg.Y0)
	} else {
		VMOVMSKPS(reg.Y2, bits)
	}
	VEXTRACTF128(U8(1), reg.Y0, reg.X1)
	VMAXPS(reg.X1, reg.X0, reg.X0)
	VPSHUFD(U8(0x0e), reg.X0, reg.X1)
	VMAXPS(reg.X1, reg.X0, reg.X0)
	VPSHUFD(U8(0x01), reg.X0, reg.X1)
	VMAXSS(reg.X1, reg.X0, reg.X0)
	TESTL(bits, bits)
	JZ(LabelRef("plain"))
	VPCMPEQD(reg.X0, reg.X0, reg.X0) // all bits set: a NaN
	Label("plain")
	Store(reg.X0, ReturnIndex(0))
	ret()
}

func expSum(w width, e *exponential) {
	text("expSum"+w.suffix(), "func(dst, x *float32, n int, top float32) float64",
		"expSum"+w.suffix()+" returns the sum, in float64, of exp(x[i]-top) and stores the terms in dst unless it is",
		"nil; n is a multiple of the vector length.")
	dst, x, n := load("dst"), load("x"), load("n")
	s := XMM()
	Load(Param("top"), s)
	v := w.v
	VBROADCASTSS(s, v(6))
	e.setup(w)
	zero(v(7))
	zero(v(8))
	step := GP64()
	XORQ(step, step)
	TESTQ(dst, dst)
	JNZ(LabelRef("store"))
	body := func() {
		VMOVUPS(ptr(x, 0), v(0))
		VSUBPS(v(6), v(0), v(0))
		e.apply(w, 0, 1, 2, 3)
		if w == avx512 {
			VEXTRACTF64X4(U8(1), zmm[0], reg.Y2)
			VCVTPS2PD(reg.Y0, zmm[1])
			VCVTPS2PD(reg.Y2, zmm[2])
		} else {
			VEXTRACTF128(U8(1), reg.Y0, reg.X2)
			VCVTPS2PD(reg.X0, reg.Y1)
			VCVTPS2PD(reg.X2, reg.Y2)
		}
		VADDPD(v(1), v(7), v(7))
		VADDPD(v(2), v(8), v(8))
	}
	each(w, n, []reg.GPVirtual{x}, body)
	JMP(LabelRef("sum"))
	Label("store")
	TESTQ(n, n)
	JZ(LabelRef("sum"))
	Label("storing")
	body()
	VMOVUPS(v(0), ptr(dst, 0))
	ADDQ(U32(uint32(w)), x)
	ADDQ(U32(uint32(w)), dst)
	SUBQ(U32(uint32(w)/4), n)
	JNZ(LabelRef("storing"))
	Label("sum")
	VADDPD(v(8), v(7), v(7))
	sumPD(w, 7, 1)
	Store(reg.X7, ReturnIndex(0))
	ret()
}

// divergence sums what a KL divergence is made of; all sums are float64, and so
// are the differences p-q.
func divergence(w width, e *exponential) {
	text("divergence"+w.suffix(), "func(p, q *float32, n int, topP, topQ float32) (sumP, sumQ, diff float64)",
		"divergence"+w.suffix()+" returns the sums of exp(p[i]-topP), of exp(q[i]-topQ) and of",
		"exp(p[i]-topP)*(p[i]-q[i]); n is a multiple of the vector length.")
	p, q, n := load("p"), load("q"), load("n")
	v := w.v
	for i, name := range []string{"topP", "topQ"} {
		s := XMM()
		Load(Param(name), s)
		VBROADCASTSS(s, v(6+i))
	}
	e.setup(w)
	for i := 8; i < 14; i++ {
		zero(v(i))
	}
	// half is what VCVTPS2PD reads: half a vector.
	half := int(w) / 2
	exp := func(x reg.GPVirtual, top int) {
		VMOVUPS(ptr(x, 0), v(0))
		VSUBPS(v(top), v(0), v(0))
		e.apply(w, 0, 1, 2, 3)
		if w == avx512 {
			VEXTRACTF64X4(U8(1), zmm[0], reg.Y2)
			VCVTPS2PD(reg.Y0, zmm[1])
			VCVTPS2PD(reg.Y2, zmm[2])
		} else {
			VEXTRACTF128(U8(1), reg.Y0, reg.X2)
			VCVTPS2PD(reg.X0, reg.Y1)
			VCVTPS2PD(reg.X2, reg.Y2)
		}
	}
	each(w, n, []reg.GPVirtual{p, q}, func() {
		exp(p, 6)
		for i := range 2 {
			VADDPD(v(1+i), v(8+i), v(8+i))
			VCVTPS2PD(ptr(p, i*half), v(4))
			VCVTPS2PD(ptr(q, i*half), v(5))
			VSUBPD(v(5), v(4), v(4))
			VFMADD231PD(v(4), v(1+i), v(12+i))
		}
		exp(q, 7)
		VADDPD(v(1), v(10), v(10))
		VADDPD(v(2), v(11), v(11))
	})
	for i := range 3 {
		VADDPD(v(9+2*i), v(8+2*i), v(8+2*i))
		sumPD(w, 8+2*i, 1)
	}
	Store(reg.X8, ReturnIndex(0))
	Store(reg.X10, ReturnIndex(1))
	Store(reg.X12, ReturnIndex(2))
	ret()
}

// sigmoidTimes divides register x by 1 + the exponential of register y.
func (e *exponential) sigmoidTimes(w width, x, y, a, b, tmp int) {
	e.apply(w, y, a, b, tmp)
	VADDPS(e.constant(w, 5, tmp), w.v(y), w.v(y))
	VDIVPS(w.v(y), w.v(x), w.v(x))
}

// eachFour is each with four vectors at a time as long as there are as many:
// body gets how many.
func eachFour(w width, n reg.GPVirtual, pointers []reg.GPVirtual, body func(vectors int)) {
	Label("four")
	SUBQ(U32(uint32(w)), n)
	JL(LabelRef("less"))
	body(4)
	for _, p := range pointers {
		ADDQ(U32(4*uint32(w)), p)
	}
	JMP(LabelRef("four"))
	Label("less")
	ADDQ(U32(uint32(w)), n)
	each(w, n, pointers, func() { body(1) })
}

func siluMul(w width, e *exponential) {
	text("siluMul"+w.suffix(), "func(out, gate, up *float32, n int)",
		"siluMul"+w.suffix()+" computes out[i] = gate[i] / (1 + exp(-gate[i])) * up[i], n being a multiple of the vector",
		"length.")
	out, gate, up, n := load("out"), load("gate"), load("up"), load("n")
	v := w.v
	e.setup(w)
	zero(v(7))
	pointers := []reg.GPVirtual{out, gate, up}
	if w == avx2 {
		each(w, n, pointers, func() {
			VMOVUPS(ptr(gate, 0), v(4))
			VSUBPS(v(4), v(7), v(0))
			e.sigmoidTimes(w, 4, 0, 1, 2, 3)
			VMULPS(ptr(up, 0), v(4), v(4))
			VMOVUPS(v(4), ptr(out, 0))
		})
		ret()
		return
	}
	eachFour(w, n, pointers, func(vectors int) {
		sets := [][3]int{{0, 1, 2}, {3, 4, 5}, {8, 9, 10}, {11, 12, 13}}[:vectors]
		for i, s := range sets {
			VSUBPS(ptr(gate, i*int(w)), v(7), v(s[0]))
		}
		e.applyAll(w, 0, sets...)
		for i, s := range sets {
			VADDPS(e.constant(w, 5, 0), v(s[0]), v(s[0]))
			VMOVUPS(ptr(gate, i*int(w)), v(s[1]))
			VDIVPS(v(s[0]), v(s[1]), v(s[1]))
		}
		for i, s := range sets {
			VMULPS(ptr(up, i*int(w)), v(s[1]), v(s[1]))
			VMOVUPS(v(s[1]), ptr(out, i*int(w)))
		}
	})
	ret()
}

func gelu(w width, e *exponential) {
	text("gelu"+w.suffix(), "func(out, x *float32, n int)",
		"gelu"+w.suffix()+" computes out[i] = x[i] / (1 + exp(-2*sqrt(2/pi)*(x[i] + 0.044715*x[i]^3))), n being a",
		"multiple of the vector length.")
	out, x, n := load("out"), load("x"), load("n")
	v := w.v
	e.setup(w)
	VBROADCASTSS(e.geluCube, v(7))
	VBROADCASTSS(e.geluScale, v(8))
	each(w, n, []reg.GPVirtual{out, x}, func() {
		VMOVUPS(ptr(x, 0), v(4))
		VMULPS(v(4), v(4), v(0))
		VMULPS(v(4), v(8), v(1))
		VFMADD213PS(e.constant(w, 5, 3), v(7), v(0))
		VMULPS(v(1), v(0), v(0))
		e.sigmoidTimes(w, 4, 0, 1, 2, 3)
		VMOVUPS(v(4), ptr(out, 0))
	})
	ret()
}

func softcap(w width, e *exponential) {
	text("softcap"+w.suffix(), "func(x *float32, n int, limit, twice float32)",
		"softcap"+w.suffix()+" computes x[i] = limit * (1 - 2/(exp(twice*x[i])+1)) with twice = 2/limit, n being a",
		"multiple of the vector length.")
	x, n := load("x"), load("n")
	limit, twice := XMM(), XMM()
	Load(Param("limit"), limit)
	Load(Param("twice"), twice)
	v := w.v
	VBROADCASTSS(limit, v(7))
	VBROADCASTSS(twice, v(8))
	VADDPS(v(7), v(7), v(9))
	e.setup(w)
	each(w, n, []reg.GPVirtual{x}, func() {
		VMULPS(ptr(x, 0), v(8), v(0))
		e.apply(w, 0, 1, 2, 3)
		VADDPS(e.constant(w, 5, 3), v(0), v(0))
		VDIVPS(v(0), v(9), v(1))
		VSUBPS(v(1), v(7), v(1))
		VMOVUPS(v(1), ptr(x, 0))
	})
	ret()
}

// softmaxLanes works on one vector of lanes at a time.
func softmaxLanes(w width, e *exponential) {
	text("softmaxLanes"+w.suffix(), "func(s *float32, rows int, sink, sums *float32)",
		"softmaxLanes"+w.suffix()+" is softmaxLanesGo for the lanes of one vector, rows being at least 1.")
	s, rows, sink, sums := load("s"), load("rows"), load("sink"), load("sums")
	p, n := GP64(), GP64()
	v := w.v
	e.setup(w)
	VMOVUPS(ptr(sink, 0), v(6))
	MOVQ(s, p)
	MOVQ(rows, n)
	Label("top")
	VMAXPS(ptr(p, 0), v(6), v(6))
	ADDQ(U32(4*lanes), p)
	DECQ(n)
	JNZ(LabelRef("top"))
	VMOVUPS(ptr(sink, 0), v(0))
	VSUBPS(v(6), v(0), v(0))
	e.apply(w, 0, 1, 2, 3)
	VMOVAPS(v(0), v(7))
	Label("terms")
	VMOVUPS(ptr(s, 0), v(0))
	VSUBPS(v(6), v(0), v(0))
	e.apply(w, 0, 1, 2, 3)
	VMOVUPS(v(0), ptr(s, 0))
	VADDPS(v(0), v(7), v(7))
	ADDQ(U32(4*lanes), s)
	DECQ(rows)
	JNZ(LabelRef("terms"))
	VMOVUPS(v(7), ptr(sums, 0))
	ret()
}

func rotate(w width) {
	text("rotate"+w.suffix(), "func(a, b, cos, sin *float32, n int)",
		"rotate"+w.suffix()+" computes a[i], b[i] = a[i]*cos[i] - b[i]*sin[i], a[i]*sin[i] + b[i]*cos[i], n being a",
		"multiple of the vector length.")
	a, b, cos, sin, n := load("a"), load("b"), load("cos"), load("sin"), load("n")
	v := w.v
	each(w, n, []reg.GPVirtual{a, b, cos, sin}, func() {
		VMOVUPS(ptr(a, 0), v(0))
		VMOVUPS(ptr(b, 0), v(1))
		VMOVUPS(ptr(cos, 0), v(2))
		VMOVUPS(ptr(sin, 0), v(3))
		VMULPS(v(3), v(1), v(4))
		VMULPS(v(3), v(0), v(5))
		VFMSUB231PS(v(2), v(0), v(4))
		VFMADD231PS(v(2), v(1), v(5))
		VMOVUPS(v(4), ptr(a, 0))
		VMOVUPS(v(5), ptr(b, 0))
	})
	ret()
}

// sum writes the sum of floats in double precision.
func sum(w width) {
	text("sum"+w.suffix(), "func(x *float32, n int) float64",
		"sum"+w.suffix()+" returns the sum of float64(x[i]), n being a multiple of the vector length.")
	x, n := load("x"), load("n")
	half := int(w) / 2
	for i := range 2 {
		zero(w.v(i))
	}
	each(w, n, []reg.GPVirtual{x}, func() {
		for i := range 2 {
			VCVTPS2PD(ptr(x, i*half), w.v(2+i))
			VADDPD(w.v(2+i), w.v(i), w.v(i))
		}
	})
	VADDPD(w.v(1), w.v(0), w.v(0))
	sumPD(w, 0, 1)
	Store(reg.X0, ReturnIndex(0))
	ret()
}

func affine(w width) {
	text("affine"+w.suffix(), "func(out, x *float32, n int, scale, shift float32)",
		"affine"+w.suffix()+" computes out[i] = x[i]*scale + shift, n being a multiple of the vector length.")
	out, x, n := load("out"), load("x"), load("n")
	scale, shift := XMM(), XMM()
	Load(Param("scale"), scale)
	Load(Param("shift"), shift)
	VBROADCASTSS(scale, w.v(2))
	VBROADCASTSS(shift, w.v(3))
	each(w, n, []reg.GPVirtual{out, x}, func() {
		VMOVUPS(ptr(x, 0), w.v(0))
		VFMADD213PS(w.v(3), w.v(2), w.v(0))
		VMOVUPS(w.v(0), ptr(out, 0))
	})
	ret()
}

func clamp(w width) {
	text("clamp"+w.suffix(), "func(out, x *float32, n int, low, high float32)",
		"clamp"+w.suffix()+" computes out[i] = min(max(x[i], low), high), n being a multiple of the vector length.")
	out, x, n := load("out"), load("x"), load("n")
	low, high := XMM(), XMM()
	Load(Param("low"), low)
	Load(Param("high"), high)
	VBROADCASTSS(low, w.v(2))
	VBROADCASTSS(high, w.v(3))
	each(w, n, []reg.GPVirtual{out, x}, func() {
		// NaN passes: the operand that is returned for it is the last.
		VMOVUPS(ptr(x, 0), w.v(0))
		VMAXPS(w.v(0), w.v(2), w.v(0))
		VMINPS(w.v(0), w.v(3), w.v(0))
		VMOVUPS(w.v(0), ptr(out, 0))
	})
	ret()
}

func bitAnd(w width, a, b, c int) {
	if w == avx512 {
		VPANDD(w.v(a), w.v(b), w.v(c))
	} else {
		VPAND(w.v(a), w.v(b), w.v(c))
	}
}

// erfConstants are those of the rational approximation 26.2.17 of Abramowitz and
// Stegun, whose error is below 7.5e-8, and what comes with it.
type erfConstants struct {
	minusHalf, half, sign, magnitude, p Mem
	b                                   [5]Mem
}

func newErfConstants() *erfConstants {
	c := &erfConstants{
		minusHalf: f32("minusHalf", -0.5), half: f32("half", 0.5), p: f32("erfP", 0.2316419),
		sign: ConstData("erfSign", U32(1<<31)), magnitude: ConstData("erfMagnitude", U32(1<<31-1)),
	}
	// The density's factor 1/sqrt(2 pi) is in them.
	for i, v := range []float64{0.319381530, -0.356563782, 1.781477937, -1.821255978, 1.330274429} {
		c.b[i] = f32([]string{"erfB1", "erfB2", "erfB3", "erfB4", "erfB5"}[i], float32(v/math.Sqrt(2*math.Pi)))
	}
	return c
}

func geluErf(w width, e *exponential, c *erfConstants) {
	text("geluErf"+w.suffix(), "func(out, x *float32, n int)",
		"geluErf"+w.suffix()+" computes out[i] = x[i] times the normal distribution at x[i], n being a multiple of the",
		"vector length.")
	out, x, n := load("out"), load("x"), load("n")
	v := w.v
	e.setup(w)
	each(w, n, []reg.GPVirtual{out, x}, func() {
		VMOVUPS(ptr(x, 0), v(4))
		VMULPS(v(4), v(4), v(0))
		VBROADCASTSS(c.minusHalf, v(5))
		VMULPS(v(5), v(0), v(0))
		e.apply(w, 0, 1, 2, 3)
		// t = 1 / (1 + p|x|)
		VBROADCASTSS(c.magnitude, v(5))
		bitAnd(w, 5, 4, 6)
		VBROADCASTSS(c.p, v(5))
		one := e.constant(w, 5, 3)
		VFMADD213PS(one, v(5), v(6))
		VDIVPS(v(6), one, v(1))
		// what is beyond |x|: exp(-x^2/2) (b1 t + ... + b5 t^5)
		VBROADCASTSS(c.b[4], v(2))
		for i := 3; i >= 0; i-- {
			VBROADCASTSS(c.b[i], v(5))
			VFMADD213PS(v(5), v(1), v(2))
		}
		VMULPS(v(1), v(2), v(2))
		VMULPS(v(0), v(2), v(2))
		// x < 0: that; else 1 minus that
		VBROADCASTSS(c.sign, v(5))
		bitAnd(w, 5, 4, 6)
		VBROADCASTSS(c.half, v(5))
		if w == avx512 {
			VPXORD(v(6), v(2), v(2))
			VPORD(v(5), v(6), v(6))
		} else {
			VPXOR(v(6), v(2), v(2))
			VPOR(v(5), v(6), v(6))
		}
		VADDPS(v(5), v(6), v(6))
		VSUBPS(v(2), v(6), v(6))
		VMULPS(v(6), v(4), v(4))
		VMOVUPS(v(4), ptr(out, 0))
	})
	ret()
}

func rotatePairs(w width) {
	text("rotatePairs"+w.suffix(), "func(x, cos, sin *float32, n int)",
		"rotatePairs"+w.suffix()+" turns n pairs (x[2*i], x[2*i+1]) by the angles of cos[i] and sin[i], n being a",
		"multiple of half the vector length.")
	x, cos, sin, n := load("x"), load("cos"), load("sin"), load("n")
	v := w.v
	twice := NewDataAddr(Symbol{Name: "doubled", Static: true}, 0)
	if w == avx512 {
		VMOVDQU32(twice, v(5))
	} else {
		VMOVDQU(twice, v(5))
	}
	TESTQ(n, n)
	JZ(LabelRef("done"))
	Label("loop")
	for i, p := range []reg.GPVirtual{cos, sin} {
		if w == avx512 {
			VMOVUPS(ptr(p, 0), ymm[2+i])
		} else {
			VMOVUPS(ptr(p, 0), ymm[2+i].AsX())
		}
		VPERMPS(v(2+i), v(5), v(2+i))
		ADDQ(U32(uint32(w)/2), p)
	}
	VMOVUPS(ptr(x, 0), v(0))
	VPERMILPS(U8(0xb1), v(0), v(1))
	VMULPS(v(3), v(1), v(1))
	VFMADDSUB213PS(v(1), v(2), v(0))
	VMOVUPS(v(0), ptr(x, 0))
	ADDQ(U32(uint32(w)), x)
	SUBQ(U32(uint32(w)/8), n)
	JNZ(LabelRef("loop"))
	Label("done")
	ret()
}
