package quant

import (
	"bytes"
	"encoding/binary"
	"math"
	"strings"
	"testing"

	"github.com/smeltgguf/smelt/internal/quanttest"
)

// budgets are the largest relative root mean square errors that encoding and
// decoding bell-shaped values may have, without importance and with.
var budgets = []struct {
	t               Type
	plain, weighted float64
}{
	{F32, 0, 0},
	{BF16, 0.0018, 0.0018},
	{F16, 0.00024, 0.00024},
	{Q8_0, 0.0056, 0.0056},
	{Q6_K, 0.022, 0.024},
	{Q5_K, 0.037, 0.043},
	{Q5_1, 0.042, 0.047},
	{Q5_0, 0.046, 0.049},
	{Q4_K, 0.075, 0.085},
	{Q4_1, 0.086, 0.092},
	{Q4_0, 0.091, 0.096},
	{NVFP4, 0.11, 0.11},
	{MXFP4, 0.13, 0.13},
	{Q3_K, 0.16, 0.18},
	{Q2_K, 0.32, 0.32},
	{Q2_0, 0.7, 0.7},
	{TQ1_0, 0.77, 0.77},
	{TQ2_0, 0.77, 0.77},
	{Q1_0, 0.61, 0.61},
}

func TestRoundTripError(t *testing.T) {
	const n = 1 << 14
	x := quanttest.Classes[0].Rows(1, 1, n)
	importance := quanttest.Importance(2, n)
	budgeted := map[Type]bool{}
	for _, b := range budgets {
		budgeted[b.t] = true
		for _, imp := range [][]float32{nil, importance} {
			dst, y := make([]byte, b.t.RowSize(n)), make([]float32, n)
			Encode(b.t, dst, x, imp)
			Decode(b.t, y, dst)
			var sum, square float64
			for i, v := range x {
				d := float64(y[i]) - float64(v)
				sum += d * d
				square += float64(v) * float64(v)
			}
			limit := b.plain
			if imp != nil {
				limit = b.weighted
			}
			if err := math.Sqrt(sum / square); err > limit || err < 0.7*limit {
				t.Errorf("%v, importance %v: relative error %.5f, budget %.5f", b.t, imp != nil, err, limit)
			}
		}
	}
	for typ := range Type(numTypes) {
		if typ.CanEncode() && !budgeted[typ] && !strings.HasPrefix(typ.String(), "IQ") {
			t.Errorf("%v has no budget", typ)
		}
	}
}

// levelSetters set all levels of a block to l and leave its scales alone. The
// types that choose levels before their scale is rounded to half precision
// may miss the nearest by what that rounding does to the largest element.
var levelSetters = map[Type]struct {
	levels int
	set    func(block []byte, l byte)
	slack  float64 // in units of the largest magnitude of a block
}{
	Q4_0: {16, func(b []byte, l byte) { fill(b[2:], l*0x11) }, halfEpsilon},
	Q4_1: {16, func(b []byte, l byte) { fill(b[4:], l*0x11) }, 3 * halfEpsilon},
	Q5_0: {32, func(b []byte, l byte) {
		fill(b[2:6], -(l >> 4))
		fill(b[6:], l&15*0x11)
	}, halfEpsilon},
	Q5_1: {32, func(b []byte, l byte) {
		fill(b[4:8], -(l >> 4))
		fill(b[8:], l&15*0x11)
	}, 3 * halfEpsilon},
	Q8_0: {256, func(b []byte, l byte) { fill(b[2:], l) }, halfEpsilon},
	Q2_K: {4, func(b []byte, l byte) { fill(b[16:80], l*0x55) }, 0},
	Q3_K: {8, func(b []byte, l byte) {
		fill(b[:32], -(l >> 2))
		fill(b[32:96], l&3*0x55)
	}, 0},
	Q4_K: {16, func(b []byte, l byte) { fill(b[16:144], l*0x11) }, 0},
	Q5_K: {32, func(b []byte, l byte) {
		fill(b[16:48], -(l >> 4))
		fill(b[48:176], l&15*0x11)
	}, 0},
	Q6_K: {64, func(b []byte, l byte) {
		fill(b[:128], l&15*0x11)
		fill(b[128:192], l>>4*0x55)
	}, 0},
	MXFP4: {16, func(b []byte, l byte) { fill(b[1:17], l*0x11) }, 0},
	NVFP4: {16, func(b []byte, l byte) { fill(b[4:36], l*0x11) }, 0},
}

// halfEpsilon bounds the relative difference of two elements, each off by half
// a unit in the last place of a half.
const halfEpsilon = 1.0 / 1024

func fill(b []byte, v byte) {
	for i := range b {
		b[i] = v
	}
}

// TestNearestLevel checks the types that choose levels last, for scales as they
// are stored: no other level of an element's group is nearer to it.
func TestNearestLevel(t *testing.T) {
	for typ, s := range levelSetters {
		for _, class := range quanttest.Classes {
			switch class.Name {
			case "huge", "large", "beyond half": // scales become infinite
				continue
			case "tiny", "tinier", "at epsilon", "subnormal", "smallest", "very scaled groups", "any finite":
				continue // and here 0
			}
			n := typ.BlockLen()
			x := class.Rows(3, 1, n)
			var slack float64
			for _, v := range x {
				slack = max(slack, s.slack*math.Abs(float64(v)))
			}
			block, y := make([]byte, typ.BlockSize()), make([]float32, n)
			Encode(typ, block, x, nil)
			Decode(typ, y, block)
			other := make([]float32, n)
			for l := range s.levels {
				s.set(block, byte(l))
				Decode(typ, other, block)
				for i, v := range x {
					got, best := math.Abs(float64(y[i])-float64(v)), math.Abs(float64(other[i])-float64(v))
					// Rounding happens in float32: ties may go either way.
					if got > best+slack+1e-5*(math.Abs(float64(v))+math.Abs(float64(y[i]))) {
						t.Fatalf("%v %q: element %d, %v, became %v, but level %d is %v", typ, class.Name, i, v, y[i], l, other[i])
					}
				}
			}
		}
	}
}

// TestNearestHalf goes through all halves: each comes back, and what lies
// between two goes to the nearer, from the middle to the even one.
func TestNearestHalf(t *testing.T) {
	value := func(h uint16) float32 { // of a finite half that is not negative
		exp, frac := int(h>>10), float64(h&0x3ff)
		if exp == 0 {
			return float32(math.Ldexp(frac, -24))
		}
		return float32(math.Ldexp(1024+frac, exp-25))
	}
	encode := func(v float32) uint16 {
		var b [2]byte
		Encode(F16, b[:], []float32{v}, nil)
		return binary.LittleEndian.Uint16(b[:])
	}
	check := func(v float32, want uint16) {
		t.Helper()
		if got := encode(v); got != want {
			t.Fatalf("%v becomes %#04x, want %#04x", v, got, want)
		}
		if got := encode(-v); got != want|0x8000 {
			t.Fatalf("%v becomes %#04x, want %#04x", -v, got, want|0x8000)
		}
	}
	for h := uint16(0); h < 0x7c00; h++ {
		v := value(h)
		if got := halfToFloat([]byte{byte(h), byte(h >> 8)}); got != v {
			t.Fatalf("%#04x decodes to %v, want %v", h, got, v)
		}
		next := float32(65536) // where infinity would begin
		if h < 0x7bff {
			next = value(h + 1)
		}
		middle := (v + next) / 2
		check(v, h)
		check(math.Nextafter32(middle, 0), h)
		check(middle, h+h&1)
		check(math.Nextafter32(middle, next), h+1)
	}
	inf := float32(math.Inf(1))
	check(inf, 0x7c00)
	check(math.MaxFloat32, 0x7c00)
	check(math.Float32frombits(0x7f800001), 0x7e00)
	check(math.Float32frombits(0x7fffffff), 0x7e00)
}

// TestNearestBF16 does the same for bfloat16.
func TestNearestBF16(t *testing.T) {
	for b := uint32(0); b < 0x7f80; b++ {
		for _, c := range []struct{ bits, want uint32 }{
			{b << 16, b},
			{b<<16 | 0x7fff, b},
			{b<<16 | 0x8000, b + b&1},
			{b<<16 | 0x8001, b + 1},
		} {
			for _, sign := range []uint32{0, 1 << 31} {
				if got := bf16FromFloat(math.Float32frombits(c.bits | sign)); uint32(got) != c.want|sign>>16 {
					t.Fatalf("%#08x becomes %#04x, want %#04x", c.bits|sign, got, c.want|sign>>16)
				}
			}
		}
	}
	for nan := uint32(0x7f800001); nan < 0x7f800001+1<<17; nan += 977 {
		if got := bf16FromFloat(math.Float32frombits(nan)); uint32(got) != nan>>16|0x40 {
			t.Fatalf("%#08x becomes %#04x, want it quiet", nan, got)
		}
	}
}

// FuzzDecode decodes any bytes; without a crash, and blocks do not influence
// each other.
func FuzzDecode(f *testing.F) {
	for typ := range Type(numTypes) {
		if typ.CanDecode() {
			f.Add(uint32(typ), bytes.Repeat([]byte{0xff, 0x7c, 1, 0x80}, 2*typ.BlockSize()))
		}
	}
	f.Fuzz(func(t *testing.T, number uint32, data []byte) {
		typ := Type(number % numTypes)
		if !typ.CanDecode() {
			t.Skip()
		}
		size, n := typ.BlockSize(), typ.BlockLen()
		blocks := len(data) / size
		all, one := make([]float32, blocks*n), make([]float32, n)
		Decode(typ, all, data[:blocks*size])
		for b := range blocks {
			Decode(typ, one, data[b*size:][:size])
			for i, v := range one {
				if math.Float32bits(v) != math.Float32bits(all[b*n+i]) {
					t.Fatalf("%v: element %d of block %d is %v in a row, %v alone", typ, i, b, all[b*n+i], v)
				}
			}
		}
	})
}

// FuzzEncode encodes any numbers, NaN and infinity too: without a crash, every
// time the same, and without importance block by block.
func FuzzEncode(f *testing.F) {
	for typ := range Type(numTypes) {
		if typ.CanEncode() {
			f.Add(uint32(typ), []byte{0, 0, 0x80, 0x7f, 1, 0, 0, 0, 0, 0, 0xc0, 0x7f, 0, 0, 0x80, 0x3f})
		}
	}
	f.Fuzz(func(t *testing.T, number uint32, data []byte) {
		typ := Type(number % numTypes)
		if !typ.CanEncode() {
			t.Skip()
		}
		size, n := typ.BlockSize(), typ.BlockLen()
		row := make([]float32, 2*n)
		for i := range row {
			if len(data) >= 4 {
				at := i % (len(data) / 4) * 4
				row[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[at:]))
			}
		}
		importance := quanttest.Importance(uint64(len(data)), 2*n)
		a, b := make([]byte, 2*size), bytes.Repeat([]byte{0xff}, 2*size)
		Encode(typ, a, row, importance)
		Encode(typ, b, row, importance)
		if !bytes.Equal(a, b) {
			t.Fatalf("%v: the same row gave\n%x and\n%x", typ, a, b)
		}
		if typ.RequiresImportance() {
			return
		}
		Encode(typ, a, row, nil)
		Encode(typ, b[:size], row[:n], nil)
		Encode(typ, b[size:], row[n:], nil)
		if !bytes.Equal(a, b) {
			t.Fatalf("%v: a row gave\n%x, its blocks\n%x", typ, a, b)
		}
	})
}
