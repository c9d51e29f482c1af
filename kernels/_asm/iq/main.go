// Command iq writes iq_amd64.s: the inner loops of the IQ encoders
// (quant.IQOps) for AVX2 and AVX-512. Each routine does, in every lane, the
// sequence of float operations of its plain Go form.
package main

import (
	"math"
	"strconv"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

//go:generate go run . -out ../../iq_amd64.s

// Offsets in the structs of package quant; kernels/iq_amd64.go asserts them.
const (
	gridX      = 0
	gridWeight = 128
	gridRoot   = 256
	gridLevel  = 384
	gridInv    = 416
	gridScale  = 544
	gridCodes  = 672
	gridOff    = 1184
	gridSumQX  = 1216
	gridSumQ2  = 1344
	gridLen    = 1472
	gridTrials = 1480

	splitSumX  = 8
	splitSumW  = 392
	splitLow   = 776
	splitHigh  = 784
	splitShift = 792
	splitScale = 800

	iq4X      = 0
	iq4Weight = 128
	iq4Inv    = 256
	iq4SumQX  = 320
	iq4SumQ2  = 384
)

// A width is a vector register's: 8 lanes in AVX2, 16 in AVX-512.
type width struct {
	name  string
	lanes int
	vec   func() reg.VecVirtual
}

var widths = []width{
	{"AVX2", 8, YMM},
	{"AVX512", 16, ZMM},
}

func (w width) bytes() int { return 4 * w.lanes }

func main() {
	ConstraintExpr("amd64,!purego")
	for _, w := range widths {
		for _, dim := range []int{8, 4} {
			round(w, dim)
			nearest(w, dim)
			sums(w, dim)
		}
		iq4Sums(w)
		iq1Split(w)
		iq1mSplit(w)
	}
	iq4Pack()
	iq1Order()
	Generate()
}

// constant returns a vector in memory of the given 32-bit words, repeated.
var constants = map[string]Mem{}

func words(name string, v ...uint32) Mem {
	if m, ok := constants[name]; ok {
		return m
	}
	m := GLOBL("iq"+name, RODATA|NOPTR)
	for i := range 16 {
		DATA(4*i, U32(v[i%len(v)]))
	}
	constants[name] = m
	return m
}

func floats(name string, v ...float32) Mem {
	u := make([]uint32, len(v))
	for i, f := range v {
		u[i] = math.Float32bits(f)
	}
	return words(name, u...)
}

func load(w width, m Mem) reg.VecVirtual {
	v := w.vec()
	VMOVUPS(m, v)
	return v
}

func broadcast(w width, m Mem) reg.VecVirtual {
	v := w.vec()
	VBROADCASTSS(m, v)
	return v
}

func zero(w width) reg.VecVirtual {
	v := w.vec()
	if w.lanes == 8 {
		VXORPS(v, v, v)
	} else {
		VPXORD(v, v, v)
	}
	return v
}

// subGroups loads the number of sub-groups of dim elements.
func subGroups(g reg.Register, dim int) reg.GPVirtual {
	n := GP64()
	MOVQ(Mem{Base: g, Disp: gridLen}, n)
	SHRQ(U8(bitsLen(dim)), n)
	return n
}

func bitsLen(dim int) uint64 {
	if dim == 8 {
		return 3
	}
	return 2
}

// round: lanes are trials.
func round(w width, dim int) {
	TEXT("gridRound"+strconv.Itoa(dim)+w.name, NOSPLIT, "func(trials *byte)")
	g := Load(Param("trials"), GP64())
	left := subGroups(g, dim)
	trials := GP64()
	MOVQ(Mem{Base: g, Disp: gridTrials}, trials)
	magic := load(w, floats("Magic", 12582912))
	one := load(w, floats("One", 1))
	half := load(w, floats("Half", 0.5))
	low := load(w, words("Low23", 0x7fffff))
	base := load(w, words("Base", 0x400000))
	top, shift := load(w, words("Two", 2)), uint64(2)
	if dim == 4 {
		top, shift = load(w, words("Seven", 7)), 3
	}
	zero := zero(w)
	x, codes := GP64(), GP64()
	MOVQ(g, x)
	LEAQ(Mem{Base: g, Disp: gridCodes}, codes)
	Label("group")
	t := GP64()
	XORQ(t, t)
	Label("trials")
	inv := load(w, Mem{Base: g, Disp: gridInv, Index: t, Scale: 4})
	code := w.vec()
	for i := range dim {
		v := w.vec()
		VBROADCASTSS(Mem{Base: x, Disp: 4 * i}, v)
		VMULPS(inv, v, v)
		VSUBPS(one, v, v)
		VMULPS(half, v, v)
		VADDPS(magic, v, v)
		if w.lanes == 8 {
			VPAND(low, v, v)
		} else {
			VPANDD(low, v, v)
		}
		VPSUBD(base, v, v)
		VPMAXSD(zero, v, v)
		VPMINSD(top, v, v)
		if i == 0 {
			code = v
			continue
		}
		VPSLLD(U8(shift*uint64(i)), v, v)
		if w.lanes == 8 {
			VPOR(v, code, code)
		} else {
			VPORD(v, code, code)
		}
	}
	out := Mem{Base: codes, Index: t, Scale: 2}
	if w.lanes == 8 {
		VPACKUSDW(code, code, code)
		VPERMQ(U8(0xd8), code, code)
		VMOVDQU(code.(reg.VecVirtual).AsX(), out)
	} else {
		VPMOVDW(code, out)
	}
	ADDQ(U8(w.lanes), t)
	CMPQ(t, trials)
	JLT(LabelRef("trials"))
	ADDQ(U8(4*dim), x)
	ADDQ(U8(64), codes)
	DECQ(left)
	JNZ(LabelRef("group"))
	VZEROUPPER()
	RET()
}

// nearest: lanes are candidates. The terms of a distance come from a small
// table per element, one entry for each level.
func nearest(w width, dim int) {
	TEXT("gridNearest"+strconv.Itoa(dim)+w.name, NOSPLIT, "func(trials *byte, lookup *int32, near *uint16)")
	g := Load(Param("trials"), GP64())
	lookup := Load(Param("lookup"), GP64())
	near := Load(Param("near"), GP64())
	trials := GP64()
	MOVQ(Mem{Base: g, Disp: gridTrials}, trials)
	left := subGroups(g, dim)
	x, codes, off := GP64(), GP64(), GP64()
	MOVQ(g, x)
	LEAQ(Mem{Base: g, Disp: gridCodes}, codes)
	LEAQ(Mem{Base: g, Disp: gridOff}, off)

	// The levels, repeated so that every part of the register that a
	// permutation reads from has all of them.
	level := w.vec()
	switch {
	case dim == 8 && w.lanes == 8:
		VBROADCASTF128(Mem{Base: g, Disp: gridLevel}, level)
	case dim == 8:
		VBROADCASTF32X4(Mem{Base: g, Disp: gridLevel}, level)
	case w.lanes == 8:
		VMOVUPS(Mem{Base: g, Disp: gridLevel}, level)
	default:
		VBROADCASTF32X8(Mem{Base: g, Disp: gridLevel}, level)
	}
	positions := AllocLocal(64)

	// Elements' values and weights, one to a register, stay in registers where
	// there are enough.
	inRegs := w.lanes == 16 || dim == 4
	var vals, roots []reg.VecVirtual
	var spill Mem
	if inRegs && !(w.lanes == 8) {
		for range dim {
			vals, roots = append(vals, w.vec()), append(roots, w.vec())
		}
	} else {
		inRegs = false
		spill = AllocLocal(2 * dim * 32)
	}

	Label("group")
	for i := range dim {
		a, b := Mem{Base: x, Disp: gridX + 4*i}, Mem{Base: x, Disp: gridRoot + 4*i}
		if inRegs {
			VBROADCASTSS(a, vals[i])
			VBROADCASTSS(b, roots[i])
			continue
		}
		v := w.vec()
		VBROADCASTSS(a, v)
		VMOVUPS(v, spill.Offset(64*i))
		v = w.vec()
		VBROADCASTSS(b, v)
		VMOVUPS(v, spill.Offset(64*i+32))
	}
	t, bits := GP64(), GP32()
	XORQ(t, t)
	XORL(bits, bits)
	Label("trial")
	at := GP64()
	MOVWQZX(Mem{Base: codes, Index: t, Scale: 2}, at)
	MOVLQSX(Mem{Base: lookup, Index: at, Scale: 4}, at)
	TESTQ(at, at)
	JGE(LabelRef("next"))
	BTSL(t.As32(), bits)
	NOTQ(at) // -1-at
	list, n := GP64(), GP64()
	LEAQ(Mem{Base: near, Index: at, Scale: 2}, list)
	MOVWQZX(Mem{Base: list}, n)

	scaled := w.vec()
	VBROADCASTSS(Mem{Base: g, Disp: gridScale, Index: t, Scale: 4}, scaled)
	VMULPS(level, scaled, scaled)
	term := make([]reg.VecVirtual, dim)
	for i := range dim {
		diff, weighted := w.vec(), w.vec()
		if inRegs {
			VSUBPS(vals[i], scaled, diff)
			VMULPS(roots[i], diff, weighted)
		} else {
			VSUBPS(spill.Offset(64*i), scaled, diff)
			VMULPS(spill.Offset(64*i+32), diff, weighted)
		}
		VMULPS(diff, weighted, diff)
		term[i] = diff
	}

	best := w.vec()
	VBROADCASTSS(floats("MaxFloat", math.MaxFloat32), best)
	where := zero(w)
	here := load(w, words("Iota", 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15))
	next := GP64()
	LEAQ(Mem{Base: list, Disp: 2}, next)
	Label("candidates")
	c := w.vec()
	VPMOVZXWD(Mem{Base: next}, c)
	d := w.vec()
	lookupTerm := func(i int, out reg.VecVirtual) {
		if dim == 8 {
			VPERMILPS(c, term[i], out)
		} else {
			VPERMPS(term[i], c, out)
		}
	}
	lookupTerm(0, d)
	for i := 1; i < dim; i++ {
		VPSRLD(U8(map[int]uint64{8: 2, 4: 3}[dim]), c, c)
		p := w.vec()
		lookupTerm(i, p)
		VADDPS(p, d, d)
	}
	if w.lanes == 8 {
		less := w.vec()
		VCMPPS(U8(1), best, d, less) // d < best
		VBLENDVPS(less, d, best, best)
		VBLENDVPS(less, here, where, where)
		VPADDD(words("Eight", 8), here, here)
	} else {
		less := K()
		VCMPPS(U8(1), best, d, less)
		VMOVAPS(d, less, best)
		VMOVDQA32(here, less, where)
		VPADDD(words("Sixteen", 16), here, here)
	}
	ADDQ(U8(2*w.lanes), next)
	SUBQ(U8(w.lanes), n)
	JG(LabelRef("candidates"))

	// The first of the candidates at the least distance.
	VMOVUPS(where, positions)
	least, mask := w.vec(), GP32()
	VMOVAPS(best, least)
	reduce(w, least, VMINPS)
	if w.lanes == 8 {
		VCMPPS(U8(0), least, best, least)
		VMOVMSKPS(least, mask)
	} else {
		k := K()
		VCMPPS(U8(0), least, best, k)
		KMOVW(k, mask)
	}
	lane, pos := GP32(), GP32()
	TZCNTL(mask, lane)
	MOVL(positions.Idx(lane.As64(), 4), pos)
	Label("ties")
	rest := GP32()
	LEAL(Mem{Base: mask.As64(), Disp: -1}, rest)
	ANDL(rest, mask)
	JZ(LabelRef("found"))
	TZCNTL(mask, lane)
	cand := GP32()
	MOVL(positions.Idx(lane.As64(), 4), cand)
	CMPL(cand, pos)
	CMOVLLT(cand, pos)
	JMP(LabelRef("ties"))
	Label("found")
	code := GP32()
	MOVWLZX(Mem{Base: list, Disp: 2, Index: pos.As64(), Scale: 2}, code)
	MOVW(code.As16(), Mem{Base: codes, Index: t, Scale: 2})
	Label("next")
	INCQ(t)
	CMPQ(t, trials)
	JLT(LabelRef("trial"))
	MOVL(bits, Mem{Base: off})
	ADDQ(U8(4*dim), x)
	ADDQ(U8(64), codes)
	ADDQ(U8(4), off)
	DECQ(left)
	JNZ(LabelRef("group"))
	VZEROUPPER()
	RET()
}

// sums: lanes are trials.
func sums(w width, dim int) {
	TEXT("gridSums"+strconv.Itoa(dim)+w.name, NOSPLIT, "func(trials *byte)")
	g := Load(Param("trials"), GP64())
	trials := GP64()
	MOVQ(Mem{Base: g, Disp: gridTrials}, trials)
	var q reg.VecVirtual
	if dim == 8 {
		q = load(w, floats("Odd4", 1, 3, 5, 7))
	} else {
		q = load(w, floats("Odd8", 1, 3, 5, 7, 9, 11, 13, 15))
	}
	t := GP64()
	XORQ(t, t)
	Label("trials")
	sumqx, sumq2 := zero(w), zero(w)
	x, codes := GP64(), GP64()
	MOVQ(g, x)
	LEAQ(Mem{Base: g, Disp: gridCodes, Index: t, Scale: 2}, codes)
	left := subGroups(g, dim)
	Label("group")
	c := w.vec()
	VPMOVZXWD(Mem{Base: codes}, c)
	for i := range dim {
		if i > 0 {
			VPSRLD(U8(map[int]uint64{8: 2, 4: 3}[dim]), c, c)
		}
		level, weight, wx := w.vec(), w.vec(), w.vec()
		if dim == 8 {
			VPERMILPS(c, q, level)
		} else {
			VPERMPS(q, c, level)
		}
		VBROADCASTSS(Mem{Base: x, Disp: gridWeight + 4*i}, weight)
		VBROADCASTSS(Mem{Base: x, Disp: gridX + 4*i}, wx)
		VMULPS(weight, wx, wx)
		VMULPS(level, wx, wx)
		VADDPS(wx, sumqx, sumqx)
		VMULPS(level, weight, weight)
		VMULPS(level, weight, weight)
		VADDPS(weight, sumq2, sumq2)
	}
	ADDQ(U8(4*dim), x)
	ADDQ(U8(64), codes)
	DECQ(left)
	JNZ(LabelRef("group"))
	VMOVUPS(sumqx, Mem{Base: g, Disp: gridSumQX, Index: t, Scale: 4})
	VMOVUPS(sumq2, Mem{Base: g, Disp: gridSumQ2, Index: t, Scale: 4})
	ADDQ(U8(w.lanes), t)
	CMPQ(t, trials)
	JLT(LabelRef("trials"))
	VZEROUPPER()
	RET()
}

var iq4Values = []float32{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}

func iq4Mid(i int) float32 { return (iq4Values[i] + iq4Values[i+1]) / 2 }

// greater is the predicate of a comparison "greater than, and ordered".
const greater = 0x1e

// notLess is the predicate "not less than, or unordered": NaN gets the last
// level.
const notLess = 5

// An iq4Search finds the levels nearest to the lanes of a vector by binary
// search among the 15 midpoints, in 8 lanes.
type iq4Search struct{ m7, m3, m11, third, fourth, even, odd reg.VecVirtual }

func newIQ4Search(values bool) *iq4Search {
	w := widths[0]
	var third, fourth, even, odd []float32
	for i := range 8 {
		third = append(third, iq4Mid(1+4*(i%4)))
		fourth = append(fourth, iq4Mid(2*i))
		even, odd = append(even, iq4Values[2*i]), append(odd, iq4Values[2*i+1])
	}
	s := &iq4Search{
		m7: load(w, floats("Mid7", iq4Mid(7))), m3: load(w, floats("Mid3", iq4Mid(3))), m11: load(w, floats("Mid11", iq4Mid(11))),
		third: load(w, floats("Third", third...)), fourth: load(w, floats("Fourth", fourth...)),
	}
	if values {
		s.even, s.odd = load(w, floats("Even", even...)), load(w, floats("OddValues", odd...))
	}
	return s
}

// index returns half of each level's index, rounded down, and in all bits the
// lowest bit of the index. It changes v's register only by reading.
func (s *iq4Search) index(v reg.VecVirtual) (half, low reg.VecVirtual) {
	b3, b2, b1, b0 := YMM(), YMM(), YMM(), YMM()
	t := YMM()
	VCMPPS(U8(notLess), s.m7, v, b3)
	VBLENDVPS(b3, s.m11, s.m3, t)
	VCMPPS(U8(notLess), t, v, b2)
	// The masks are -1: count downwards, then take the absolute value.
	idx := YMM()
	VPADDD(b3, b3, idx)
	VPADDD(b2, idx, idx)
	VPABSD(idx, t)
	VPERMPS(s.third, t, t)
	VCMPPS(U8(notLess), t, v, b1)
	VPADDD(idx, idx, idx)
	VPADDD(b1, idx, idx)
	VPABSD(idx, idx)
	VPERMPS(s.fourth, idx, t)
	VCMPPS(U8(notLess), t, v, b0)
	return idx, b0
}

// iq4Sums: lanes are trials.
func iq4Sums(w width) {
	TEXT("iq4Sums"+w.name, NOSPLIT, "func(w *byte)")
	p := Load(Param("w"), GP64())
	end := GP64()
	n := 1
	if w.lanes == 8 {
		n = 2
	}
	var search *iq4Search
	var thr [4]reg.VecVirtual
	var values, steps reg.VecVirtual
	var step [3]reg.VecVirtual
	if w.lanes == 8 {
		search = newIQ4Search(true)
	} else {
		// Step s compares with the midpoint at the index found so far plus
		// 7, 3, 1 and 0.
		for s, plus := range []int{7, 3, 1, 0} {
			var m []float32
			for i := range 16 {
				m = append(m, iq4Mid(min(i+plus, 14)))
			}
			if s == 0 {
				thr[s] = load(w, floats("Mid7", iq4Mid(7)))
			} else {
				thr[s] = load(w, floats("Step"+strconv.Itoa(s), m...))
			}
		}
		values = load(w, floats("Values", iq4Values...))
		steps = load(w, words("Eight", 8))
		step[0], step[1], step[2] = load(w, words("Four", 4)), load(w, words("Two", 2)), load(w, words("OneInt", 1))
	}
	inv := make([]reg.VecVirtual, n)
	sumqx, sumq2 := make([]reg.VecVirtual, n), make([]reg.VecVirtual, n)
	for i := range n {
		if w.lanes == 16 {
			inv[i] = load(w, Mem{Base: p, Disp: iq4Inv + 64*i})
		}
		sumqx[i], sumq2[i] = zero(w), zero(w)
	}
	x := GP64()
	MOVQ(p, x)
	LEAQ(Mem{Base: p, Disp: 128}, end)
	Label("element")
	for i := range n {
		v, q := w.vec(), w.vec()
		val := broadcast(w, Mem{Base: x, Disp: iq4X})
		if w.lanes == 16 {
			VMULPS(inv[i], val, v)
			k := K()
			idx := w.vec()
			VCMPPS(U8(notLess), thr[0], v, k)
			VMOVDQA32_Z(steps, k, idx)
			for s := 1; s < 4; s++ {
				t := w.vec()
				VPERMPS(thr[s], idx, t)
				k := K()
				VCMPPS(U8(notLess), t, v, k)
				VPADDD(step[s-1], idx, k, idx)
			}
			VPERMPS(values, idx, q)
		} else {
			VMULPS(Mem{Base: p, Disp: iq4Inv + 32*i}, val, v)
			half, low := search.index(v)
			even := w.vec()
			VPERMPS(search.even, half, even)
			VPERMPS(search.odd, half, q)
			VBLENDVPS(low, q, even, q)
		}
		wq := broadcast(w, Mem{Base: x, Disp: iq4Weight})
		VMULPS(q, wq, wq)
		VMULPS(wq, val, val)
		VADDPS(val, sumqx[i], sumqx[i])
		VMULPS(q, wq, wq)
		VADDPS(wq, sumq2[i], sumq2[i])
	}
	ADDQ(U8(4), x)
	CMPQ(x, end)
	JLT(LabelRef("element"))
	for i := range n {
		VMOVUPS(sumqx[i], Mem{Base: p, Disp: iq4SumQX + 32*i})
		VMOVUPS(sumq2[i], Mem{Base: p, Disp: iq4SumQ2 + 32*i})
	}
	VZEROUPPER()
	RET()
}

// iq4Pack: lanes are elements.
func iq4Pack() {
	TEXT("iq4PackAVX2", NOSPLIT, "func(dst *byte, x *float32, inv float32)")
	dst := Load(Param("dst"), GP64())
	x := Load(Param("x"), GP64())
	inv := YMM()
	{
		m, err := Param("inv").Resolve()
		if err != nil {
			panic(err)
		}
		VBROADCASTSS(m.Addr, inv)
	}
	search := newIQ4Search(false)
	index := func(i int) reg.VecVirtual {
		v := YMM()
		VMULPS(Mem{Base: x, Disp: 32 * i}, inv, v)
		half, low := search.index(v)
		VPADDD(half, half, half)
		VPSUBD(low, half, half)
		return half
	}
	var out [2]reg.VecVirtual
	for i := range 2 {
		out[i] = index(i)
		high := index(i + 2)
		VPSLLD(U8(4), high, high)
		VPOR(high, out[i], out[i])
	}
	VPACKUSDW(out[1], out[0], out[0])
	VPERMQ(U8(0xd8), out[0], out[0])
	top := XMM()
	VEXTRACTI128(U8(1), out[0], top)
	VPACKUSWB(top, out[0].AsX(), top)
	VMOVDQU(top, Mem{Base: dst})
	VZEROUPPER()
	RET()
}

// iq1Order: lanes are elements, whose rank is counted.
func iq1Order() {
	TEXT("iq1OrderAVX2", NOSPLIT, "func(order *[32]byte, x *float32, n int)")
	order := Load(Param("order"), GP64())
	x := Load(Param("x"), GP64())
	n := Load(Param("n"), GP64())
	// Entry 31-j+i tells whether i is greater than j.
	after := GLOBL("iqAfter", RODATA|NOPTR)
	for k := range 64 {
		v := uint32(0)
		if k > 31 {
			v = math.MaxUint32
		}
		DATA(4*k, U32(v))
	}
	ranks := AllocLocal(128)
	window := GP64()
	i := GP64()
	XORQ(i, i)
	Label("vector")
	v, rank := YMM(), YMM()
	VMOVUPS(Mem{Base: x, Index: i, Scale: 4}, v)
	VPXOR(rank, rank, rank)
	LEAQ(after.Offset(4*31), window)
	LEAQ(Mem{Base: window, Index: i, Scale: 4}, window)
	j := GP64()
	XORQ(j, j)
	Label("compare")
	other, less, equal := YMM(), YMM(), YMM()
	VBROADCASTSS(Mem{Base: x, Index: j, Scale: 4}, other)
	VCMPPS(U8(1), v, other, less) // other < v
	VCMPPS(U8(0), v, other, equal)
	VANDPS(Mem{Base: window}, equal, equal)
	VORPS(equal, less, less)
	VPSUBD(less, rank, rank)
	SUBQ(U8(4), window)
	INCQ(j)
	CMPQ(j, n)
	JLT(LabelRef("compare"))
	VMOVUPS(rank, ranks.Idx(i, 4))
	ADDQ(U8(8), i)
	CMPQ(i, n)
	JLT(LabelRef("vector"))
	r := GP64()
	XORQ(i, i)
	Label("store")
	MOVLQZX(ranks.Idx(i, 4), r)
	MOVB(i.As8(), Mem{Base: order, Index: r, Scale: 1})
	INCQ(i)
	CMPQ(i, n)
	JLT(LabelRef("store"))
	VZEROUPPER()
	RET()
}

// A scan looks through candidates, some to a vector, for the one with the best
// score. What is better depends on the best so far, so where a lane beats it
// the candidates are gone through one by one.
type scan struct {
	w               width
	kinds           int
	sumqx, sumq2    Mem            // kinds vectors each
	best            reg.VecVirtual // in all lanes
	scale, zero     reg.VecVirtual
	low, high, kind reg.GPVirtual
}

func newScan(w width, kinds int) *scan {
	return &scan{w: w, kinds: kinds,
		sumqx: AllocLocal(kinds * w.bytes()), sumq2: AllocLocal(kinds * w.bytes()),
		best: w.vec(), scale: XMM(), zero: zero(w), low: GP64(), high: GP64(), kind: GP64()}
}

// run calls sums for all pairs of bounds up to n, one pass to find a bound on
// the score, one to find the candidate. weight is the sum of all weights.
//
// A candidate's score is sumqx squared by sumq2. The plain Go loop starts with
// the lowest number as the best score so far; all that scores noticeably less
// than some candidate makes no difference to what it ends with. So the scan
// starts with a bound that is a little below the best of a sample, and few
// candidates ever beat the best so far. That holds where no product underflows
// or overflows and no sumq2 is nearly zero; otherwise it starts as plain Go does.
func (s *scan) run(p reg.Register, n int, weight reg.VecVirtual, sums func(low, high reg.GPVirtual) func(kind int) (sumqx, sumq2 reg.VecVirtual)) {
	w := s.w
	low, high := GP64(), GP64()
	loop := func(name string, step int, body func()) {
		XORQ(low, low)
		Label(name + "Low")
		MOVQ(low, high)
		Label(name + "High")
		body()
		ADDQ(U8(w.lanes), high)
		CMPQ(high, U8(n))
		JLE(LabelRef(name + "High"))
		ADDQ(U8(step), low)
		CMPQ(low, U8(n))
		JLE(LabelRef(name + "Low"))
	}

	top, least := zero(w), broadcast(w, floats("MaxFloat", math.MaxFloat32))
	loop("bound", 4, func() {
		sum := sums(low, high)
		for kind := range s.kinds {
			sumqx, sumq2 := sum(kind)
			// The operand order keeps top and least where a lane is NaN.
			VMINPS(least, sumq2, least)
			VMULPS(sumqx, sumqx, sumqx)
			if w.lanes == 8 {
				VRCPPS(sumq2, sumq2)
			} else {
				VRCP14PS(sumq2, sumq2)
			}
			VMULPS(sumq2, sumqx, sumqx)
			VMAXPS(top, sumqx, top)
		}
	})
	reduce(w, top, VMAXPS)
	reduce(w, least, VMINPS)
	bound, t := top.AsX(), XMM()
	VBROADCASTSS(floats("Lowest", -math.MaxFloat32), s.best)
	VMULSS(floats("Hundredth", 0.01), weight.AsX(), t)
	VUCOMISS(t, least.AsX())
	JBE(LabelRef("start"))
	VMULSS(weight.AsX(), bound, t)
	for _, v := range []reg.Register{t, bound, weight.AsX()} {
		VUCOMISS(floats("Small", 1e-30), v)
		JBE(LabelRef("start"))
		VUCOMISS(floats("Large", 1e30), v)
		JHI(LabelRef("start"))
	}
	VMULSS(floats("Below", 1-1.0/512), bound, bound)
	VBROADCASTSS(bound, s.best)
	Label("start")

	MOVQ(I32(-1), s.low)
	XORQ(s.high, s.high)
	XORQ(s.kind, s.kind)
	VXORPS(s.scale, s.scale, s.scale)
	loop("scan", 1, func() { s.add(low, high, sums(low, high)) })
	MOVQ(s.low, Mem{Base: p, Disp: splitLow})
	MOVQ(s.high, Mem{Base: p, Disp: splitHigh})
	MOVQ(s.kind, Mem{Base: p, Disp: splitShift})
	VMOVSS(s.scale, Mem{Base: p, Disp: splitScale})
}

// reduce brings the extreme of all lanes of v to its lane 0.
func reduce(w width, v reg.VecVirtual, op func(...Op)) {
	t := w.vec()
	if w.lanes == 16 {
		VSHUFF32X4(U8(0x4e), v, v, t)
		op(t, v, v)
		VSHUFF32X4(U8(0xb1), v, v, t)
	} else {
		VPERM2F128(U8(1), v, v, t)
	}
	op(t, v, v)
	VPERMILPS(U8(0x4e), v, t)
	op(t, v, v)
	VPERMILPS(U8(0xb1), v, t)
	op(t, v, v)
}

// add considers a vector of candidates for each kind, in the order of their
// lanes and, in a lane, of their kinds. Lane 0 has the bounds low and high.
func (s *scan) add(low, high reg.GPVirtual, sums func(kind int) (sumqx, sumq2 reg.VecVirtual)) {
	lanes := GP32()
	var all reg.Register
	for i := range s.kinds {
		sumqx, sumq2 := sums(i)
		VMOVUPS(sumqx, s.sumqx.Offset(i*s.w.bytes()))
		VMOVUPS(sumq2, s.sumq2.Offset(i*s.w.bytes()))
		limit := s.w.vec()
		VMULPS(sumqx, sumqx, sumqx)
		VMULPS(sumq2, s.best, limit)
		if s.w.lanes == 8 {
			VCMPPS(U8(greater), limit, sumqx, limit)
			VCMPPS(U8(greater), s.zero, sumq2, sumq2)
			VANDPS(sumq2, limit, limit)
			if i == 0 {
				all = limit
			} else {
				VORPS(limit, all, all)
			}
		} else {
			positive, better := K(), K()
			VCMPPS(U8(greater), s.zero, sumq2, positive)
			VCMPPS(U8(greater), limit, sumqx, positive, better)
			if i == 0 {
				all = better
			} else {
				KORW(better, all, all)
			}
		}
	}
	if s.w.lanes == 8 {
		VMOVMSKPS(all, lanes)
	} else {
		KMOVW(all, lanes)
	}
	TESTL(lanes, lanes)
	JZ(LabelRef("none"))
	lane := GP64()
	Label("lanes")
	TZCNTL(lanes, lane.As32())
	rest := GP32()
	LEAL(Mem{Base: lanes.As64(), Disp: -1}, rest)
	ANDL(rest, lanes)
	best := s.best.AsX()
	for i := range s.kinds {
		skip := "skip" + strconv.Itoa(i)
		qx, q2, sq, limit := XMM(), XMM(), XMM(), XMM()
		VMOVSS(s.sumq2.Offset(i*s.w.bytes()).Idx(lane, 4), q2)
		VUCOMISS(s.zero.AsX(), q2)
		JBE(LabelRef(skip)) // also if unordered
		VMOVSS(s.sumqx.Offset(i*s.w.bytes()).Idx(lane, 4), qx)
		VMULSS(qx, qx, sq)
		VMULSS(q2, best, limit)
		VUCOMISS(limit, sq)
		JBE(LabelRef(skip))
		VDIVSS(q2, qx, s.scale)
		VMULSS(qx, s.scale, best)
		MOVQ(low, s.low)
		LEAQ(Mem{Base: high, Index: lane, Scale: 1}, s.high)
		MOVQ(I32(i), s.kind)
		Label(skip)
	}
	TESTL(lanes, lanes)
	JNZ(LabelRef("lanes"))
	VBROADCASTSS(best, s.best)
	Label("none")
}

// iq1Levels are the three levels with the shift up and down.
var iq1Levels = [2][3]float32{{-0.875, 0.125, 1.125}, {-1.125, -0.125, 0.875}}

// iq1Split: lanes are upper bounds.
func iq1Split(w width) {
	TEXT("iq1Split"+w.name, NOSPLIT, "func(s *byte)")
	p := Load(Param("s"), GP64())
	level := func(shift, l int) Mem {
		return floats("Level"+[]string{"P", "M"}[shift]+strconv.Itoa(l), iq1Levels[shift][l])
	}
	sumx := Mem{Base: p, Disp: splitSumX}
	sumw := Mem{Base: p, Disp: splitSumW}
	weight := broadcast(w, sumw.Offset(4*32))
	newScan(w, 2).run(p, 32, weight, func(low, high reg.GPVirtual) func(int) (sumqx, sumq2 reg.VecVirtual) {
		x0, w0 := broadcast(w, sumx.Idx(low, 4)), broadcast(w, sumw.Idx(low, 4))
		x1, x2, w1, w2 := load(w, sumx.Idx(high, 4)), broadcast(w, sumx.Offset(4*32)), load(w, sumw.Idx(high, 4)), w.vec()
		VSUBPS(x1, x2, x2)
		VSUBPS(x0, x1, x1)
		VSUBPS(w1, weight, w2)
		VSUBPS(w0, w1, w1)
		return func(shift int) (sumqx, sumq2 reg.VecVirtual) {
			a, b, c := w.vec(), w.vec(), w.vec()
			VMULPS(level(shift, 0), x0, a)
			VMULPS(level(shift, 1), x1, b)
			VADDPS(b, a, a)
			VMULPS(level(shift, 2), x2, b)
			VADDPS(b, a, a)
			VMULPS(level(shift, 0), w0, c)
			VMULPS(level(shift, 0), c, c)
			VMULPS(level(shift, 1), w1, b)
			VMULPS(level(shift, 1), b, b)
			VADDPS(b, c, c)
			VMULPS(level(shift, 2), w2, b)
			VMULPS(level(shift, 2), b, b)
			VADDPS(b, c, c)
			return a, c
		}
	})
	VZEROUPPER()
	RET()
}

// iq1mSplit: lanes are upper bounds. The kinds are pairs of shifts.
func iq1mSplit(w width) {
	TEXT("iq1mSplit"+w.name, NOSPLIT, "func(s *byte)")
	p := Load(Param("s"), GP64())
	const half = 192 // bytes between the halves' sums
	// By half and shift: the totals at the highest level, in registers where
	// there are enough.
	var topx, topw [2][2]Op
	var tops Mem
	if w.lanes == 8 {
		tops = AllocLocal(2 * 2 * 2 * w.bytes())
	}
	step := func(shift, n int) Mem {
		q := iq1Levels[shift]
		return floats("Difference"+[]string{"P", "M"}[shift]+strconv.Itoa(n), q[n-1]*q[n-1]-q[n]*q[n])
	}
	for h := range 2 {
		for shift := range 2 {
			q := floats("Level"+[]string{"P", "M"}[shift]+"2", iq1Levels[shift][2])
			x, weight := broadcast(w, Mem{Base: p, Disp: splitSumX + half*h + 4*16}), broadcast(w, Mem{Base: p, Disp: splitSumW + half*h + 4*16})
			VMULPS(q, x, x)
			VMULPS(q, weight, weight)
			VMULPS(q, weight, weight)
			topx[h][shift], topw[h][shift] = x, weight
			if w.lanes == 8 {
				mx, mw := tops.Offset((2*h+shift)*w.bytes()), tops.Offset((4+2*h+shift)*w.bytes())
				VMOVUPS(x, mx)
				VMOVUPS(weight, mw)
				topx[h][shift], topw[h][shift] = mx, mw
			}
		}
	}
	sumx := Mem{Base: p, Disp: splitSumX}
	sumw := Mem{Base: p, Disp: splitSumW}
	weight := broadcast(w, sumw.Offset(4*16))
	VADDSS(sumw.Offset(half+4*16), weight.AsX(), weight.AsX())
	newScan(w, 4).run(p, 16, weight, func(low, high reg.GPVirtual) func(int) (sumqx, sumq2 reg.VecVirtual) {
		var qx, q2 [2][2]reg.VecVirtual
		for h := range 2 {
			below := load(w, sumx.Offset(half*h).Idx(high, 4))
			lowx := broadcast(w, sumx.Offset(half*h).Idx(low, 4))
			VADDPS(below, lowx, below)
			for shift := range 2 {
				v := w.vec()
				VMOVUPS(topx[h][shift], v)
				VSUBPS(below, v, v)
				qx[h][shift] = v
				a, b := broadcast(w, sumw.Offset(half*h).Idx(low, 4)), w.vec()
				VMULPS(step(shift, 1), a, a)
				VADDPS(topw[h][shift], a, a)
				VMOVUPS(sumw.Offset(half*h).Idx(high, 4), b)
				VMULPS(step(shift, 2), b, b)
				VADDPS(b, a, a)
				q2[h][shift] = a
			}
		}
		return func(kind int) (sumqx, sumq2 reg.VecVirtual) {
			a, b := w.vec(), w.vec()
			VADDPS(qx[1][kind&1], qx[0][kind>>1], a)
			VADDPS(q2[1][kind&1], q2[0][kind>>1], b)
			return a, b
		}
	})
	VZEROUPPER()
	RET()
}
