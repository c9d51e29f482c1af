package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// The searches of K-quants run with one group of elements per SIMD lane: each
// lane does what package quant does for its group, operation by operation. All
// work on a groups structure, see kquants_amd64.go: columns are lanes, and a
// vector of eight lanes is half a row of it.

// Offsets in a groups structure.
const (
	rowX = 2048 * iota
	rowW
	rowL
	rest
)

const (
	atScale = rest + 64*iota
	atNegMin
	atInv
	atBase
	atSumW
	atSigma2
	atWild
	atSumX
	atLowest
	atHighest
	atMinimum
	atLeast
)

// Comparison predicates; false with NaN but for the last two.
const (
	equal        = 0
	less         = 0x11
	greater      = 0x1e
	lessEqual    = 0x12
	greaterEqual = 0x1d
	notEqual     = 4
	always       = 0xf
	notLessEqual = 6
)

// target is an instruction set: the lanes of its vectors and its name.
type target struct {
	lanes int
	name  string
}

func (t target) reg() reg.VecVirtual {
	if t.lanes == 16 {
		return ZMM()
	}
	return YMM()
}

func (t target) load(m Mem) reg.VecVirtual {
	r := t.reg()
	VMOVUPS(m, r)
	return r
}

func (t target) zero() reg.VecVirtual {
	r := t.reg()
	if t.lanes == 16 {
		VPXORD(r, r, r)
	} else {
		VPXOR(r, r, r)
	}
	return r
}

// broadcast loads a float parameter into all lanes.
func (t target) broadcast(name string) reg.VecVirtual {
	p, err := Param(name).Resolve()
	if err != nil {
		panic(err)
	}
	r := t.reg()
	VBROADCASTSS(p.Addr, r)
	return r
}

// cmp compares a with b; the result is a mask register or a vector.
func (t target) cmp(pred uint64, a, b Op) reg.Register {
	if t.lanes == 16 {
		k := K()
		VCMPPS(Imm(pred), b, a, k)
		return k
	}
	y := YMM()
	VCMPPS(Imm(pred), b, a, y)
	return y
}

// and narrows mask m.
func (t target) and(m, by reg.Register) {
	if t.lanes == 16 {
		KANDW(by, m, m)
	} else {
		VANDPS(by, m, m)
	}
}

// blend sets the lanes of dst in the mask to those of v.
func (t target) blend(m reg.Register, v, dst reg.Register) {
	if t.lanes == 16 {
		VMOVAPS(v, m, dst)
	} else {
		VBLENDVPS(m, v, dst, dst)
	}
}

// ifNone jumps where no lane is in the mask.
func (t target) ifNone(m reg.Register, label string) {
	if t.lanes == 16 {
		KORTESTW(m, m)
	} else {
		VPTEST(m, m)
	}
	JZ(LabelRef(label))
}

var labels int

func label(name string) string {
	labels++
	return fmt.Sprintf("%s%d", name, labels)
}

// each emits a loop over the n rows of a groups structure at g, n a multiple of
// unroll, from row first on.
func each(g, n reg.Register, first, unroll int, body func(x, w, l Mem)) {
	p, c, again := GP64(), GP64(), label("each")
	MOVQ(g, p)
	MOVQ(n, c)
	if first > 0 {
		ADDQ(U32(uint32(64*first)), p)
		SUBQ(U32(uint32(first)), c)
	}
	Label(again)
	for u := range unroll {
		body(Mem{Base: p, Disp: rowX + 64*u}, Mem{Base: p, Disp: rowW + 64*u}, Mem{Base: p, Disp: rowL + 64*u})
	}
	ADDQ(U32(uint32(64*unroll)), p)
	SUBQ(U32(uint32(unroll)), c)
	JNZ(LabelRef(again))
}

var (
	kMagic, kZero, kAbs, kSign, kSmall, kFar, kOne, kMantissa, kBias, kThirtySecond, kTwo23, kTiny Mem
	kMiddle, kReach                                                                                Mem // of screenGreedy, by the low bits of the level
)

func (t target) kquants() {
	if t.lanes == 8 {
		kMagic = floats("roundMagic", 12582912)
		kZero = floats("zeroK", 0)
		kAbs = ints("absMaskK", 0x7fffffff)
		kSign = ints("signMaskK", 0x80000000)
		kSmall = floats("tooSmall", 1e-15)
		kFar = floats("farLevel", 4e6)
		kOne = floats("oneK", 1)
		kMantissa = ints("mantissa", 0x7fffff)
		kBias = ints("mantissaBias", 0x400000)
		kThirtySecond = floats("thirtySecond", 1.0/32)
		kTwo23 = floats("two23", 1<<23)
		kTiny = floats("tiny", 1e-30)
		middle, reach := greedyBounds()
		kMiddle = table("middle", middle)
		kReach = table("reach", reach)
		putPlanes()
		roundScales()
	}
	t.toLanes()
	t.weights()
	t.fitAffine("fitAffine", false)
	t.fitAffine("fitAffineAbs", true)
	t.fitSigned()
	t.screenGreedy()
	t.fitGreedy()
	t.levels("levelsDivide", true)
	t.levels("levelsMultiply", false)
}

// round rounds v and limits it, all in floats: right up to 2^22.
func round(v, magic, bottom, top reg.Register) {
	VADDPS(magic, v, v)
	VSUBPS(magic, v, v)
	VMAXPS(bottom, v, v)
	VMINPS(top, v, v)
}

// ret ends a function.
func ret() {
	VZEROUPPER()
	RET()
}

// toLanes transposes a square of floats.
func (t target) toLanes() {
	TEXT("toLanes"+t.name, NOSPLIT, "func(dst, src *float32, stride int)")
	Doc(fmt.Sprintf("toLanes%s: dst[16*i+j] = src[stride*j+i] for i, j < %d", t.name, t.lanes))
	dst, src, stride := Load(Param("dst"), GP64()), Load(Param("src"), GP64()), Load(Param("stride"), GP64())
	SHLQ(Imm(2), stride)
	for i, r := range t.transpose(src, stride) {
		VMOVUPS(r, Mem{Base: dst, Disp: 64 * i})
	}
	ret()
}

// transpose loads rows that are stride bytes apart, as many as there are lanes,
// and returns the columns. It changes src.
func (t target) transpose(src, stride reg.Register) []reg.VecVirtual {
	n := t.lanes
	a := make([]reg.VecVirtual, n)
	b := make([]reg.VecVirtual, n)
	for i := range n {
		a[i] = t.load(Mem{Base: src})
		if i < n-1 {
			ADDQ(stride, src)
		}
	}
	// Pairs, then quads of floats inside 128 bits.
	for i := 0; i < n; i += 2 {
		b[i], b[i+1] = t.reg(), t.reg()
		VUNPCKLPS(a[i+1], a[i], b[i])
		VUNPCKHPS(a[i+1], a[i], b[i+1])
	}
	for i := 0; i < n; i += 4 {
		for j := range 4 {
			a[i+j] = t.reg()
		}
		VUNPCKLPD(b[i+2], b[i], a[i])
		VUNPCKHPD(b[i+2], b[i], a[i+1])
		VUNPCKLPD(b[i+3], b[i+1], a[i+2])
		VUNPCKHPD(b[i+3], b[i+1], a[i+3])
	}
	// a[4*k+j] has in its 128-bit part p the rows 4k..4k+3 of column 4p+j.
	columns := make([]reg.VecVirtual, n)
	for j := range 4 {
		if n == 8 {
			for p := range 2 {
				columns[4*p+j] = t.reg()
				VPERM2F128(Imm(uint64(0x20+0x11*p)), a[4+j], a[j], columns[4*p+j])
			}
			continue
		}
		for half := range 2 {
			lo, hi := t.reg(), t.reg()
			sel := uint64(0x44 + 0xaa*half) // parts 0 and 1, or 2 and 3
			VSHUFF32X4(Imm(sel), a[4+j], a[j], lo)
			VSHUFF32X4(Imm(sel), a[12+j], a[8+j], hi)
			for p := range 2 {
				c := 4*(2*half+p) + j
				columns[c] = t.reg()
				VSHUFF32X4(Imm(uint64(0x88+0x55*p)), hi, lo, columns[c])
			}
		}
	}
	return columns
}

// weights emits the functions that fill the weights of a groups structure.
func (t target) weights() {
	start := func(name, doc string) (g, n reg.Register) {
		TEXT(name+t.name, NOSPLIT, "func(p *byte, n int)")
		Doc(name + t.name + ": " + doc)
		return Load(Param("p"), GP64()), Load(Param("n"), GP64())
	}
	g, n := start("weightsAbs", "w[i] = |x[i]|")
	each(g, n, 0, 16, func(x, w, _ Mem) {
		r := t.load(x)
		VANDPS(kAbs, r, r)
		VMOVUPS(r, w)
	})
	ret()

	g, n = start("weightsSquare", "w[i] = x[i] * x[i]")
	each(g, n, 0, 16, func(x, w, _ Mem) {
		r := t.load(x)
		VMULPS(r, r, r)
		VMOVUPS(r, w)
	})
	ret()

	g, n = start("weightsMean", "w[i] = sqrt(sum of x[i]*x[i] / 32) + |x[i]|")
	sum := t.zero()
	each(g, n, 0, 16, func(x, _, _ Mem) {
		r := t.load(x)
		VMULPS(r, r, r)
		VADDPS(r, sum, sum)
	})
	VMULPS(kThirtySecond, sum, sum)
	VSQRTPS(sum, sum)
	each(g, n, 0, 16, func(x, w, _ Mem) {
		r := t.load(x)
		VANDPS(kAbs, r, r)
		VADDPS(r, sum, r)
		VMOVUPS(r, w)
	})
	ret()

	g, n = start("weightsImportance", "w[i] *= sqrt(sigma2 + x[i]*x[i]); sumw += w[i]")
	sum = t.zero()
	sigma2 := t.load(Mem{Base: g, Disp: atSigma2})
	each(g, n, 0, 16, func(x, w, _ Mem) {
		r := t.load(x)
		VMULPS(r, r, r)
		VADDPS(r, sigma2, r)
		VSQRTPS(r, r)
		VMULPS(w, r, r)
		VMOVUPS(r, w)
		VADDPS(r, sum, sum)
	})
	VMOVUPS(sum, Mem{Base: g, Disp: atSumW})
	ret()
}

// fitAffine is quant's fitAffine. Lanes whose levels left the range in which
// floats round like integers are marked wild.
func (t target) fitAffine(name string, absolute bool) {
	name += t.name
	TEXT(name, NOSPLIT, "func(p *byte, n int, top float32, trials *float32, count int)")
	Doc(name + ": scale, negMin, inv and base of every lane as quant's fitAffine finds them")
	g, n := Load(Param("p"), GP64()), Load(Param("n"), GP64())
	at := func(disp int) Mem { return Mem{Base: g, Disp: disp} }
	zero, magic := t.zero(), t.load(kMagic)
	top := t.broadcast("top")

	minimum, highest, sumw, sumx := t.load(at(rowX)), t.reg(), t.load(at(rowW)), t.reg()
	VMOVAPS(minimum, highest)
	VMULPS(minimum, sumw, sumx)
	each(g, n, 1, 1, func(x, w, _ Mem) {
		v, wv := t.load(x), t.load(w)
		VMINPS(minimum, v, minimum)
		VMAXPS(highest, v, highest)
		VADDPS(wv, sumw, sumw)
		VMULPS(v, wv, wv)
		VADDPS(wv, sumx, sumx)
	})
	VMOVUPS(highest, at(atHighest))
	VMOVUPS(sumw, at(atSumW))
	VMOVUPS(sumx, at(atSumX))
	VMOVUPS(minimum, at(atLowest))
	VMINPS(minimum, zero, minimum)
	VMOVUPS(minimum, at(atMinimum))
	VMOVUPS(minimum, at(atBase))

	// markWild marks lanes in which inv*(x-minimum) may be out of range.
	markWild := func(inv, minimum, one reg.VecVirtual) {
		wild := t.load(at(atWild))
		for _, end := range []int{atLowest, atHighest} {
			v := t.load(at(end))
			VSUBPS(minimum, v, v)
			VMULPS(inv, v, v)
			VANDPS(kAbs, v, v)
			t.blend(t.cmp(notLessEqual, v, kFar), one, wild)
		}
		VMOVUPS(wild, at(atWild))
	}
	misfit := func(scale, minimum reg.VecVirtual) reg.VecVirtual {
		sum := t.zero()
		each(g, n, 0, 16, func(x, w, l Mem) {
			d := t.reg()
			VMULPS(l, scale, d)
			VADDPS(minimum, d, d)
			VSUBPS(x, d, d)
			if absolute {
				VANDPS(kAbs, d, d)
			} else {
				VMULPS(d, d, d)
			}
			VMULPS(w, d, d)
			VADDPS(d, sum, sum)
		})
		return sum
	}

	VMOVUPS(zero, at(atWild))
	inv, scale, one := t.reg(), t.reg(), t.load(kOne)
	VSUBPS(minimum, highest, inv)
	VDIVPS(inv, top, inv)
	VMOVUPS(inv, at(atInv))
	markWild(inv, minimum, one)
	each(g, n, 0, 16, func(x, _, l Mem) {
		v := t.load(x)
		VSUBPS(minimum, v, v)
		VMULPS(inv, v, v)
		round(v, magic, zero, top)
		VMOVUPS(v, l)
	})
	VDIVPS(inv, one, scale)
	VMOVUPS(scale, at(atScale))
	VMOVUPS(misfit(scale, minimum), at(atLeast))

	trials, count := Load(Param("trials"), GP64()), Load(Param("count"), GP64())
	again, next, solved := label("trial"), label("next"), label("solved")
	Label(again)
	{
		minimum := t.load(at(atMinimum))
		inv, suml, suml2, sumxl := t.reg(), t.zero(), t.zero(), t.zero()
		width := t.load(at(atHighest))
		VSUBPS(minimum, width, width)
		VBROADCASTSS(Mem{Base: trials}, inv)
		VDIVPS(width, inv, inv)
		markWild(inv, minimum, one)
		each(g, n, 0, 16, func(x, w, l Mem) {
			v, wl := t.load(x), t.reg()
			VSUBPS(minimum, v, v)
			VMULPS(inv, v, v)
			round(v, magic, zero, top)
			VMOVUPS(v, l)
			VMULPS(w, v, wl)
			VADDPS(wl, suml, suml)
			VMULPS(wl, v, v)
			VADDPS(v, suml2, suml2)
			VMULPS(x, wl, wl)
			VADDPS(wl, sumxl, sumxl)
		})
		det, a, b := t.load(at(atSumW)), t.load(at(atSumW)), t.load(at(atSumX))
		VMULPS(suml2, det, det)
		tmp := t.reg()
		VMULPS(suml, suml, tmp)
		VSUBPS(tmp, det, det)
		ok := t.cmp(greater, det, zero)
		t.ifNone(ok, next)
		VMULPS(sumxl, a, a)
		VMULPS(suml, b, tmp)
		VSUBPS(tmp, a, a)
		VDIVPS(det, a, a) // the scale
		VMULPS(suml2, b, b)
		VMULPS(sumxl, suml, tmp)
		VSUBPS(tmp, b, b)
		VDIVPS(det, b, b) // the minimum
		positive := t.cmp(greater, b, zero)
		t.ifNone(positive, solved)
		t.blend(positive, zero, b)
		VDIVPS(suml2, sumxl, sumxl)
		t.blend(positive, sumxl, a)
		Label(solved)
		sum := misfit(a, b)
		least := t.load(at(atLeast))
		better := t.cmp(less, sum, least)
		t.and(better, ok)
		t.ifNone(better, next)
		t.blend(better, sum, least)
		VMOVUPS(least, at(atLeast))
		for _, u := range []struct {
			v  reg.VecVirtual
			at int
		}{{a, atScale}, {inv, atInv}, {minimum, atBase}, {b, atMinimum}} {
			old := t.load(at(u.at))
			t.blend(better, u.v, old)
			VMOVUPS(old, at(u.at))
		}
	}
	Label(next)
	ADDQ(Imm(4), trials)
	DECQ(count)
	JNZ(LabelRef(again))

	// Groups without width have scale 0 and no levels.
	low, final := t.load(at(atLowest)), t.load(at(atMinimum))
	VMINPS(low, zero, low)
	flat := t.cmp(lessEqual, t.load(at(atHighest)), low)
	for _, slot := range []int{atScale, atInv, atWild} {
		v := t.load(at(slot))
		t.blend(flat, zero, v)
		VMOVUPS(v, at(slot))
	}
	t.blend(flat, low, final)
	base := t.load(at(atBase))
	t.blend(flat, low, base)
	VMOVUPS(base, at(atBase))
	neg := t.load(kSign)
	VXORPS(neg, final, final)
	VMOVUPS(final, at(atNegMin))
	ret()
}

// extreme loads the elements of largest magnitude and that magnitude.
func (t target) extreme(g, n reg.Register) (value, magnitude reg.VecVirtual) {
	value, magnitude = t.zero(), t.zero()
	each(g, n, 0, 4, func(x, _, _ Mem) { t.extremeStep(x, value, magnitude) })
	return value, magnitude
}

func (t target) extremeStep(x Mem, value, magnitude reg.VecVirtual) {
	v, a := t.load(x), t.reg()
	VANDPS(kAbs, v, a)
	t.blend(t.cmp(greater, a, magnitude), v, value)
	VMAXPS(magnitude, a, magnitude)
}

// fitSigned is quant's fitSigned.
func (t target) fitSigned() {
	name := "fitSigned" + t.name
	TEXT(name, NOSPLIT, "func(p *byte, n int, half float32, trials *float32, count int)")
	Doc(name + ": scale and inv of every lane as quant's fitSigned finds them")
	g, n := Load(Param("p"), GP64()), Load(Param("n"), GP64())
	at := func(disp int) Mem { return Mem{Base: g, Disp: disp} }
	largest, magnitude := t.extreme(g, n)
	VMOVUPS(magnitude, at(atHighest))

	zero, magic := t.zero(), t.load(kMagic)
	bottom, top := t.broadcast("half"), t.broadcast("half")
	VXORPS(kSign, bottom, bottom)
	VSUBPS(kOne, top, top)
	each(g, n, 0, 16, func(x, w, l Mem) {
		v := t.load(x)
		VMULPS(w, v, v)
		VMOVUPS(v, l)
	})
	sums := func(inv reg.VecVirtual) (sumlx, suml2 reg.VecVirtual) {
		sumlx, suml2 = t.zero(), t.zero()
		each(g, n, 0, 16, func(x, w, wx Mem) {
			l, a := t.reg(), t.reg()
			VMULPS(x, inv, l)
			round(l, magic, bottom, top)
			VMULPS(wx, l, a)
			VADDPS(a, sumlx, sumlx)
			VMULPS(w, l, a)
			VMULPS(l, a, a)
			VADDPS(a, suml2, suml2)
		})
		return sumlx, suml2
	}
	inv, scale, best := t.reg(), t.zero(), t.reg()
	VDIVPS(largest, bottom, inv)
	sumlx, suml2 := sums(inv)
	first := t.cmp(notEqual, suml2, zero)
	q := t.reg()
	VDIVPS(suml2, sumlx, q)
	t.blend(first, q, scale)
	VMULPS(sumlx, scale, best)

	trials, count, again := Load(Param("trials"), GP64()), Load(Param("count"), GP64()), label("trial")
	Label(again)
	{
		trial := t.reg()
		VBROADCASTSS(Mem{Base: trials}, trial)
		VDIVPS(largest, trial, trial)
		sumlx, suml2 := sums(trial)
		a, b := t.reg(), t.reg()
		VMULPS(sumlx, sumlx, a)
		VMULPS(suml2, best, b)
		better := t.cmp(greater, a, b)
		t.and(better, t.cmp(greater, suml2, zero))
		VDIVPS(suml2, sumlx, a)
		VMULPS(sumlx, a, b)
		t.blend(better, a, scale)
		t.blend(better, b, best)
		t.blend(better, trial, inv)
	}
	ADDQ(Imm(4), trials)
	DECQ(count)
	JNZ(LabelRef(again))

	flat := t.cmp(less, t.load(at(atHighest)), kSmall)
	t.blend(flat, zero, scale)
	t.blend(flat, zero, inv)
	VMOVUPS(scale, at(atScale))
	VMOVUPS(inv, at(atInv))
	ret()
}

// roundInt rounds v as quant's nearestInt, limits it and leaves 32-bit numbers.
func roundInt(v reg.VecVirtual, magic, bottom, top reg.Register, wide bool) {
	VADDPS(magic, v, v)
	if wide {
		VPANDD(kMantissa, v, v)
	} else {
		VPAND(kMantissa, v, v)
	}
	VPSUBD(kBias, v, v)
	VPMAXSD(bottom, v, v)
	VPMINSD(top, v, v)
}

// groupsSize is the size of a groups structure.
const groupsSize = rest + 64*12

// Rows of a groups structure that the greedy search uses, groups being of 16.
const (
	rowCube   = rowX + 1024 // w*x
	rowA      = rowW + 1024 // what the element adds to sumlx at its level
	rowB      = rowL + 1024 // and to suml2
	rowSquare = rowW        // the weight
)

// The searches of fitSignedGreedy wait for their own results most of the time,
// so that several vectors take turns: four structures with AVX-512, both halves
// of one with AVX2.
func (t target) greedySets() (sets, stride int) {
	if t.lanes == 16 {
		return 4, groupsSize
	}
	return 2, 32
}

// eachSet goes through the elements of all sets.
func (t target) eachSet(g, n reg.Register, body func(s int, x, w, l Mem)) {
	sets, stride := t.greedySets()
	each(g, n, 0, 1, func(x, w, l Mem) {
		for s := range sets {
			body(s, x.Offset(s*stride), w.Offset(s*stride), l.Offset(s*stride))
		}
	})
}

// greedyStart emits the first step of fitSignedGreedy for lanes whose elements
// of largest magnitude are given, and returns their sums. Where keep is set, it
// stores levels and weights, else the levels plus roundMagic.
func (t target) greedyStart(g, n reg.Register, magic, bottom, top reg.VecVirtual, largest []reg.VecVirtual, keep bool) (sumlx, suml2 []reg.VecVirtual) {
	inv := largest
	for _, v := range inv {
		VDIVPS(v, bottom, v)
		sumlx, suml2 = append(sumlx, t.zero()), append(suml2, t.zero())
	}
	t.eachSet(g, n, func(s int, x, w, l Mem) {
		v, q, a, wv := t.load(x), t.reg(), t.reg(), t.reg()
		VMULPS(inv[s], v, q)
		VMINPS(top, q, q) // no element is below bottom by more than rounding
		VADDPS(magic, q, q)
		if !keep {
			VMOVUPS(q, l)
		}
		VSUBPS(magic, q, q)
		VMULPS(v, v, wv)
		VMULPS(v, wv, a)
		if keep {
			VMOVUPS(q, l)
			VMOVUPS(wv, w.Offset(rowSquare-rowW))
			VMOVUPS(a, x.Offset(rowCube-rowX))
		}
		VMULPS(q, a, a)
		VMOVUPS(a, w.Offset(rowA-rowW))
		VADDPS(a, sumlx[s], sumlx[s])
		VMULPS(q, wv, a)
		VMULPS(q, a, a)
		VMOVUPS(a, l.Offset(rowB-rowL))
		VADDPS(a, suml2[s], suml2[s])
	})
	return sumlx, suml2
}

// greedyScale stores the scales that the sums give.
func (t target) greedyScale(sumlx, suml2 reg.VecVirtual, magnitude Op, at Mem) {
	scale, q, zero := t.zero(), t.reg(), t.zero()
	VDIVPS(suml2, sumlx, q)
	t.blend(t.cmp(greater, suml2, zero), q, scale)
	t.blend(t.cmp(greater, t.load(kSmall), magnitude), zero, scale)
	VMOVUPS(scale, at)
}

// greedyBounds returns, by the low bits of a level from -4 to 3, the middle of
// the quotients for which screenGreedy says that it stays and how far they reach.
func greedyBounds() (middle, reach [16]float32) {
	for i := range 16 {
		level := float32((i+4)%8 - 4)
		lo, hi := level-0.499, level+0.499
		switch level {
		case -4:
			lo = -1000
		case 3:
			hi = 1000
		}
		middle[i], reach[i] = (lo+hi)/2, (hi-lo)/2
	}
	return middle, reach
}

// screenGreedy finds the groups whose levels the search would not change, which
// are four in five of ordinary weights. Half of them are those whose largest
// element is positive: its level is -4, sumlx has only terms that are not
// positive, and the search wants slx above 0. In the others, as long as nothing
// changes the sums
// are the same for all elements, so that the steps need not wait for each
// other, and whether a level stays needs no quotient: level l stays if
// v*sl2/slx is within a half of it, or past it at either end. The bounds here are
// a little closer than that, far wider than what rounding could do, and below
// what nearestInt can round; so that a group is told to change in vain now and
// then, but never the other way round.
func (t target) screenGreedy() {
	name := "screenGreedy" + t.name
	TEXT(name, NOSPLIT, "func(p *byte, half float32) (unsettled uint64)")
	sets, stride := t.greedySets()
	Doc(fmt.Sprintf("%s: scale of every lane as quant's fitSignedGreedy finds it, but for those in unsettled, whose levels may change; %d vectors, %d bytes apart", name, sets, stride))
	g, n := Load(Param("p"), GP64()), GP64()
	MOVQ(U32(16), n)
	at := func(set, disp int) Mem { return Mem{Base: g, Disp: disp + set*stride} }
	magic := t.load(kMagic)
	bottom, top := t.broadcast("half"), t.broadcast("half")
	VXORPS(kSign, bottom, bottom)
	VSUBPS(kOne, top, top)
	var lowest, highest, largest []reg.VecVirtual
	for s := range sets {
		lowest, highest = append(lowest, t.load(at(s, rowX))), append(highest, t.load(at(s, rowX)))
	}
	t.eachSet(g, n, func(s int, x, _, _ Mem) {
		v := t.load(x)
		VMINPS(v, lowest[s], lowest[s])
		VMAXPS(v, highest[s], highest[s])
	})
	for s := range sets {
		VXORPS(kSign, lowest[s], lowest[s])
		VMOVUPS(lowest[s], at(s, atLowest))
		VMOVUPS(highest[s], at(s, atHighest))
		v := t.reg()
		largest = append(largest, v)
		VXORPS(kSign, lowest[s], v)
		t.blend(t.cmp(greater, highest[s], lowest[s]), highest[s], v)
	}
	sumlx, suml2 := t.greedyStart(g, n, magic, bottom, top, largest, false)

	middle, reach := t.load(kMiddle), t.load(kReach)
	tiny := t.load(kTiny)
	// In a lane that stays, each element is on the good side.
	var stay []reg.Register
	for range sets {
		if t.lanes == 16 {
			k := K()
			KXNORW(k, k, k)
			stay = append(stay, k)
		} else {
			stay = append(stay, t.cmp(always, tiny, tiny))
		}
	}
	t.eachSet(g, n, func(s int, x, w, l Mem) {
		slx, sl2, index, m, r := t.reg(), t.reg(), t.load(l), t.reg(), t.reg()
		VSUBPS(w.Offset(rowA-rowW), sumlx[s], slx)
		VSUBPS(l.Offset(rowB-rowL), suml2[s], sl2)
		VMULPS(x, sl2, sl2)
		// The low bits of a level plus the magic number are the level's.
		VPERMPS(middle, index, m)
		VPERMPS(reach, index, r)
		VFNMADD231PS(slx, m, sl2) // sl2 -= slx * m
		VANDPS(kAbs, sl2, sl2)
		VFMSUB213PS(tiny, slx, r) // r = r*slx - tiny
		t.narrow(stay[s], greater, r, sl2)
	})
	result := GP64()
	XORL(result.As32(), result.As32())
	for s := sets - 1; s >= 0; s-- {
		low, magnitude := t.load(at(s, atLowest)), t.reg()
		VMAXPS(at(s, atHighest), low, magnitude)
		t.greedyScale(sumlx[s], suml2[s], magnitude, at(s, atScale))
		negative := t.cmp(lessEqual, sumlx[s], kZero)
		small := t.cmp(less, magnitude, kSmall)
		// Of equal magnitudes the first counts: such groups are left to the search.
		tie := t.cmp(equal, low, at(s, atHighest))
		bits := GP64()
		if t.lanes == 16 {
			KORW(negative, stay[s], stay[s])
			KANDNW(stay[s], tie, stay[s])
			KORW(small, stay[s], stay[s])
			KNOTW(stay[s], stay[s])
			KMOVW(stay[s], bits.As32())
		} else {
			VORPS(negative, stay[s], stay[s])
			VANDNPS(stay[s], tie, stay[s])
			VORPS(small, stay[s], stay[s])
			VMOVMSKPS(stay[s], bits.As32())
			XORL(Imm(0xff), bits.As32())
		}
		SHLQ(Imm(uint64(t.lanes)), result)
		ORQ(bits, result)
	}
	Store(result, ReturnIndex(0))
	ret()
}

// fitGreedy is quant's fitSignedGreedy for groups of 16.
func (t target) fitGreedy() {
	name := "fitGreedy" + t.name
	TEXT(name, NOSPLIT, "func(p *byte, half float32, rounds int)")
	sets, stride := t.greedySets()
	Doc(fmt.Sprintf("%s: scale of every lane as quant's fitSignedGreedy finds it in so many rounds; wild is not 0 where the last changed something; %d vectors, %d bytes apart", name, sets, stride))
	g, n := Load(Param("p"), GP64()), GP64()
	MOVQ(U32(16), n)
	at := func(set, disp int) Mem { return Mem{Base: g, Disp: disp + set*stride} }

	magic, one := t.load(kMagic), t.load(kOne)
	bottom, top := t.broadcast("half"), t.broadcast("half")
	VXORPS(kSign, bottom, bottom)
	VSUBPS(one, top, top)
	var largest, magnitude []reg.VecVirtual
	for range sets {
		largest, magnitude = append(largest, t.zero()), append(magnitude, t.zero())
	}
	t.eachSet(g, n, func(s int, x, _, _ Mem) { t.extremeStep(x, largest[s], magnitude[s]) })
	for s, m := range magnitude {
		VMOVUPS(m, at(s, atHighest))
	}
	sumlx, suml2 := t.greedyStart(g, n, magic, bottom, top, largest, true)
	var mantissa reg.VecVirtual
	if t.lanes == 16 {
		mantissa = t.load(kMantissa)
	}
	// What nearestInt leaves in the mantissa, as a number from 2^23 on.
	VADDPS(magic, bottom, bottom)
	VADDPS(magic, top, top)

	rounds, again, done := Load(Param("rounds"), GP64()), label("round"), label("done")
	Label(again)
	{
		zero := t.zero()
		for s := range sets {
			VMOVUPS(zero, at(s, atWild)) // what changed
		}
		t.eachSet(g, n, func(s int, x, w, l Mem) {
			slx, sl2, q, a, b := t.reg(), t.reg(), t.reg(), t.reg(), t.reg()
			VSUBPS(w.Offset(rowA-rowW), sumlx[s], slx)
			VSUBPS(l.Offset(rowB-rowL), suml2[s], sl2)
			m := t.cmp(greater, slx, kZero)
			VMULPS(x, sl2, q)
			VDIVPS(slx, q, q)
			VADDPS(magic, q, q)
			if t.lanes == 16 {
				VPTERNLOGD(Imm(0xea), kTwo23, mantissa, q) // q&mantissa | 2^23
			} else {
				VANDPS(kMantissa, q, q)
				VORPS(kTwo23, q, q)
			}
			VMAXPS(bottom, q, q)
			VMINPS(top, q, q)
			VSUBPS(magic, q, q)
			t.narrow(m, notEqual, q, l)
			VMULPS(x.Offset(rowCube-rowX), q, a)
			VADDPS(a, slx, slx)
			VMULPS(w.Offset(rowSquare-rowW), q, b)
			VMULPS(q, b, b)
			VADDPS(b, sl2, sl2)
			t.narrow(m, greater, sl2, kZero)
			newLX, oldLX := t.reg(), t.reg()
			VMULPS(slx, slx, newLX)
			VMULPS(suml2[s], newLX, newLX)
			VMULPS(sumlx[s], sumlx[s], oldLX)
			VMULPS(sl2, oldLX, oldLX)
			t.narrow(m, greater, newLX, oldLX)
			t.blend(m, slx, sumlx[s])
			t.blend(m, sl2, suml2[s])
			t.storeMasked(m, q, l)
			t.storeMasked(m, a, w.Offset(rowA-rowW))
			t.storeMasked(m, b, l.Offset(rowB-rowL))
			t.storeMasked(m, magic, at(s, atWild))
		})
		changed := t.load(at(0, atWild))
		for s := 1; s < sets; s++ {
			VORPS(at(s, atWild), changed, changed)
		}
		t.ifNone(t.cmp(notEqual, changed, t.zero()), done)
	}
	DECQ(rounds)
	JNZ(LabelRef(again))
	Label(done)
	for s := range sets {
		t.greedyScale(sumlx[s], suml2[s], at(s, atHighest), at(s, atScale))
	}
	ret()
}

// narrow takes out of mask m the lanes in which a comparison of a with b fails.
func (t target) narrow(m reg.Register, pred uint64, a, b Op) {
	if t.lanes == 16 {
		VCMPPS(Imm(pred), b, a, m, m)
	} else {
		t.and(m, t.cmp(pred, a, b))
	}
}

// storeMasked stores the lanes of v in the mask.
func (t target) storeMasked(m, v reg.Register, dst Mem) {
	if t.lanes == 16 {
		VMOVUPS(v, m, dst)
	} else {
		old := t.load(dst)
		t.blend(m, v, old)
		VMOVUPS(old, dst)
	}
}

// levels emits what sets levels from what a search found, in natural order: 16
// elements per scale. dividing is quant's KLevels, the other form has the
// inverse of the scale.
func (t target) levels(name string, dividing bool) {
	name += t.name
	TEXT(name, NOSPLIT, "func(levels *byte, x *float32, bottom, top float32, scale, base *float32, groups int)")
	expr := "(x[i]-base[i/16])*scale[i/16]"
	if dividing {
		expr = "(x[i]+base[i/16])/scale[i/16]"
	}
	Doc(name + ": levels[i] = max(bottom, min(top, round(" + expr + "))) - bottom")
	dst, x := Load(Param("levels"), GP64()), Load(Param("x"), GP64())
	scales, bases := Load(Param("scale"), GP64()), Load(Param("base"), GP64())
	groups := Load(Param("groups"), GP64())
	magic, bottom, top := t.load(kMagic), t.broadcast("bottom"), t.broadcast("top")
	VCVTTPS2DQ(bottom, bottom)
	VCVTTPS2DQ(top, top)
	again := label("levels")
	Label(again)
	var out []reg.VecVirtual
	scale, base := t.reg(), t.reg()
	VBROADCASTSS(Mem{Base: scales}, scale)
	VBROADCASTSS(Mem{Base: bases}, base)
	for i := 0; i < 16; i += t.lanes {
		v := t.load(Mem{Base: x, Disp: 4 * i})
		if dividing {
			VADDPS(base, v, v)
			VDIVPS(scale, v, v)
		} else {
			VSUBPS(base, v, v)
			VMULPS(scale, v, v)
		}
		roundInt(v, magic, bottom, top, t.lanes == 16)
		VPSUBD(bottom, v, v)
		out = append(out, v)
	}
	if t.lanes == 16 {
		VPMOVDB(out[0], Mem{Base: dst})
	} else {
		VPACKUSDW(out[1], out[0], out[0])
		VPERMQ(Imm(0xd8), out[0], out[0])
		hi := XMM()
		VEXTRACTI128(Imm(1), out[0], hi)
		VPACKUSWB(hi, out[0].AsX(), hi)
		VMOVDQU(hi, Mem{Base: dst})
	}
	ADDQ(Imm(64), x)
	ADDQ(Imm(16), dst)
	ADDQ(Imm(4), scales)
	ADDQ(Imm(4), bases)
	DECQ(groups)
	JNZ(LabelRef(again))
	ret()
}

// putPlanes emits quant's KLevels.Planes. It goes through the planes from the
// last, shifting what it has to make room.
func putPlanes() {
	TEXT("putPlanesAVX2", NOSPLIT, "func(dst, levels *byte, shift, bits, planes int)")
	Doc("putPlanesAVX2: bits of 32*planes levels, from bit shift on, into 32 bytes")
	dst, levels, n := Load(Param("dst"), GP64()), Load(Param("levels"), GP64()), Load(Param("planes"), GP64())
	shift, bits := XMM(), XMM()
	param := func(name string) Mem {
		p, err := Param(name).Resolve()
		if err != nil {
			panic(err)
		}
		return p.Addr
	}
	VMOVQ(param("shift"), shift)
	VMOVQ(param("bits"), bits)
	// The lowest bits of each byte.
	mask, room := YMM(), YMM()
	VPCMPEQB(mask, mask, mask)
	VPSLLW(bits, mask, room) // ones above the bits, in words
	VPANDN(mask, room, mask)
	VPSLLW(Imm(8), mask, room)
	VPOR(room, mask, mask)
	acc := YMM()
	VPXOR(acc, acc, acc)
	at := GP64()
	MOVQ(n, at)
	SHLQ(Imm(5), at)
	ADDQ(at, levels)
	again := label("plane")
	Label(again)
	SUBQ(Imm(32), levels)
	v := YMM()
	VMOVDQU(Mem{Base: levels}, v)
	VPSRLW(shift, v, v)
	VPAND(mask, v, v)
	VPSLLW(bits, acc, acc)
	VPOR(v, acc, acc)
	DECQ(n)
	JNZ(LabelRef(again))
	VMOVDQU(acc, Mem{Base: dst})
	ret()
}

// roundScales emits what turns the 16 scales of a super-block into levels.
func roundScales() {
	TEXT("roundScalesAVX2", NOSPLIT, "func(levels *byte, scales *float32, numerator, magic, top float32) (largest float32)")
	Doc("roundScalesAVX2: the low bytes of min(top, magic + scales[j]*(numerator/largest)); largest is the scale of largest magnitude, the first of equals. Magnitudes compare as integers, so that NaN is the largest")
	t := target{8, "AVX2"}
	levels, scales := Load(Param("levels"), GP64()), Load(Param("scales"), GP64())
	v := [2]reg.VecVirtual{t.load(Mem{Base: scales}), t.load(Mem{Base: scales, Disp: 32})}
	abs := [2]reg.VecVirtual{YMM(), YMM()}
	for i := range v {
		VANDPS(kAbs, v[i], abs[i])
	}
	m := YMM()
	VPMAXSD(abs[1], abs[0], m)
	VPBROADCASTD(horizontal(VPMAXSD, m), m)
	first, mask := GP32(), GP32()
	for i := 1; i >= 0; i-- {
		eq := YMM()
		VPCMPEQD(m, abs[i], eq)
		VMOVMSKPS(eq, mask)
		if i == 1 {
			MOVL(mask, first)
			SHLL(Imm(8), first)
		} else {
			ORL(mask, first)
		}
	}
	BSFL(first, first)
	largest := XMM()
	VMOVSS(Mem{Base: scales, Index: first.As64(), Scale: 4}, largest)
	Store(largest, ReturnIndex(0))
	inv := t.broadcast("numerator")
	VBROADCASTSS(largest, m)
	VDIVPS(m, inv, inv)
	magic, top := t.broadcast("magic"), t.broadcast("top")
	low := t.load(ints("lowByteK", 0xff))
	for i := range v {
		VMULPS(inv, v[i], v[i])
		VADDPS(magic, v[i], v[i])
		VMINPS(top, v[i], v[i])
		VPAND(low, v[i], v[i])
	}
	VPACKUSDW(v[1], v[0], v[0]) // dwords 0-3, 8-11, 4-7, 12-15
	VPERMQ(Imm(0xd8), v[0], v[0])
	hi := XMM()
	VEXTRACTI128(Imm(1), v[0], hi)
	VPACKUSWB(hi, v[0].AsX(), hi)
	VMOVDQU(hi, Mem{Base: levels})
	ret()
}
