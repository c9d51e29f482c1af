package quant

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
)

// iqBudgets are the largest relative root mean square errors that encoding and
// decoding Gaussian values may have, without importance where that is possible.
var iqBudgets = []struct {
	t   Type
	max float64
}{
	{IQ1_S, 0.56},
	{IQ1_M, 0.58},
	{IQ2_XXS, 0.37},
	{IQ2_XS, 0.35},
	{IQ2_S, 0.31},
	{IQ3_XXS, 0.23},
	{IQ3_S, 0.19},
	{IQ4_NL, 0.09},
	{IQ4_XS, 0.09},
}

// testRand is a small generator whose numbers never change (xorshift64*).
type testRand uint64

func (r *testRand) next() uint64 {
	*r ^= *r >> 12
	*r ^= *r << 25
	*r ^= *r >> 27
	return uint64(*r) * 0x2545f4914f6cdd1d
}

// uniform returns a number in [0, 1).
func (r *testRand) uniform() float32 { return float32(r.next()>>40) / (1 << 24) }

// bell returns a number from a bell-shaped distribution of variance 1.
func (r *testRand) bell() float32 {
	var sum float32
	for range 12 {
		sum += r.uniform() - 0.5
	}
	return sum
}

// iqKinds are kinds of input rows: n elements each.
var iqKinds = []struct {
	name string
	at   func(r *testRand, i int) float32
}{
	{"bell", func(r *testRand, _ int) float32 { return r.bell() / 64 }},
	{"heavy", func(r *testRand, _ int) float32 { b := r.bell(); return b * b * b * b * b }},
	{"outliers", func(r *testRand, _ int) float32 {
		b := r.bell() / 64
		if r.next()>>56 == 0 {
			b *= 300
		}
		return b
	}},
	{"one", func(_ *testRand, i int) float32 { return []float32{0.375, -1, 0, 3e-5}[i/256%4] }},
	{"few", func(r *testRand, _ int) float32 { return float32(int(r.next()>>61)-4) / 8 }},
	{"emptyGroups", func(r *testRand, i int) float32 {
		if i/32%3 == 1 {
			return 0
		}
		return r.bell()
	}},
	{"scales", func(r *testRand, i int) float32 {
		return r.bell() * []float32{1, 1e-3, 1e-6, 1e-9, 1e-12, 1e-15, 1e3, 1e6}[i/64%8]
	}},
	{"huge", func(r *testRand, _ int) float32 { return r.bell() * 10000 }},
	{"tiny", func(r *testRand, _ int) float32 { return r.bell() * 1e-16 }},
}

var iqImportances = []struct {
	name string
	at   func(r *testRand) float32
}{
	{"none", nil},
	{"random", (*testRand).uniform},
	{"zeros", func(r *testRand) float32 {
		u := r.uniform()
		if u < 0.5 {
			return 0
		}
		return u
	}},
	{"skewed", func(r *testRand) float32 { b := r.bell(); return b * b * b * b * b * b }},
}

// iqInput returns the rows of a kind, and the importance; the same for every
// type.
func iqInput(kind, importance, rows, n int) (x, imp []float32) {
	r := testRand(1 + 16*kind + importance)
	for i := range rows * n {
		x = append(x, iqKinds[kind].at(&r, i))
	}
	if at := iqImportances[importance].at; at != nil {
		for range n {
			imp = append(imp, at(&r))
		}
	}
	return x, imp
}

func encodeRows(t Type, x, importance []float32, n int) []byte {
	var out []byte
	for ; len(x) > 0; x = x[n:] {
		dst := make([]byte, t.RowSize(n))
		Encode(t, dst, x[:n], importance)
		out = append(out, dst...)
	}
	return out
}

// TestIQGolden compares with what ggml's library made of the same rows. Each
// line of the golden file names a type, a kind of input and one of importance,
// the first 12 bytes of the SHA-256 of the encoded rows, and that of the rows
// decoded again, as little-endian float32.
func TestIQGolden(t *testing.T) {
	f, err := os.Open("testdata/iq.golden")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want := make(map[string]string)
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if i := strings.LastIndex(sc.Text(), " "); i > 0 {
			j := strings.LastIndex(sc.Text()[:i], " ")
			want[sc.Text()[:j]] = sc.Text()[j+1:]
		}
	}
	seen := 0
	for _, budget := range iqBudgets {
		typ := budget.t
		for k, kind := range iqKinds {
			for m, imp := range iqImportances {
				if imp.at == nil && typ.RequiresImportance() {
					continue
				}
				seen++
				const rows, n = 3, 768
				x, importance := iqInput(k, m, rows, n)
				enc := encodeRows(typ, x, importance, n)
				dec := make([]float32, rows*n)
				Decode(typ, dec, enc)
				raw := make([]byte, 0, 4*len(dec))
				for _, v := range dec {
					raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(v))
				}
				e, d := sha256.Sum256(enc), sha256.Sum256(raw)
				name := fmt.Sprint(typ, " ", kind.name, " ", imp.name)
				if got := hex.EncodeToString(e[:12]) + " " + hex.EncodeToString(d[:12]); got != want[name] {
					t.Errorf("%s: got %s, want %s", name, got, want[name])
				}
			}
		}
	}
	if seen != len(want) {
		t.Errorf("%d cases, %d in the golden file", seen, len(want))
	}
}

func TestIQRoundTrip(t *testing.T) {
	const n = 4096
	x, _ := iqInput(0, 0, 1, n)
	ones := make([]float32, n)
	for i := range ones {
		ones[i] = 1
	}
	for _, budget := range iqBudgets {
		var imp []float32
		if budget.t.RequiresImportance() {
			imp = ones
		}
		dec := make([]float32, n)
		Decode(budget.t, dec, encodeRows(budget.t, x, imp, n))
		var err, sum float64
		for i, v := range x {
			err += float64(v-dec[i]) * float64(v-dec[i])
			sum += float64(v) * float64(v)
		}
		if rel := math.Sqrt(err / sum); rel > budget.max || rel < budget.max/2 {
			t.Errorf("%v: relative error %.4f, budget %.4f", budget.t, rel, budget.max)
		}
	}
}

// TestIQ4Index holds the table of nearest levels against a plain search, around
// every midpoint and level.
func TestIQ4Index(t *testing.T) {
	nearest := func(v float32) int {
		best := 0
		for i, level := range iq4Values {
			if abs32(v-level) <= abs32(v-iq4Values[best]) {
				best = i
			}
		}
		return best
	}
	for i := range 15 {
		for _, v := range []float32{iq4Values[i], iq4Values[i+1], (iq4Values[i] + iq4Values[i+1]) / 2} {
			for range 100 {
				v = math.Nextafter32(v, -1000)
			}
			for range 201 {
				if got, want := int(iq4Index(v)), nearest(v); got != want {
					t.Fatalf("iq4Index(%v) = %d, want %d", v, got, want)
				}
				v = math.Nextafter32(v, 1000)
			}
		}
	}
	inf := float32(math.Inf(1))
	for _, tt := range []struct {
		v    float32
		want uint8
	}{{inf, 15}, {-inf, 0}, {1e30, 15}, {-1e30, 0}, {inf - inf, 15}} {
		if got := iq4Index(tt.v); got != tt.want {
			t.Errorf("iq4Index(%v) = %d, want %d", tt.v, got, tt.want)
		}
	}
}

// TestGridNearest checks the neighbour lists against their definition.
func TestGridNearest(t *testing.T) {
	for _, tt := range []struct {
		name   string
		grid   *Grid
		points int
		levels int
		shells int
	}{
		{"IQ1", gridIQ1(), 2048, 3, 3},
		{"IQ2_XXS", gridIQ2XXS(), 256, 3, 2},
		{"IQ2_XS", gridIQ2XS(), 512, 3, 2},
		{"IQ2_S", gridIQ2S(), 1024, 3, 1},
		{"IQ3_XXS", gridIQ3XXS(), 256, 8, 2},
		{"IQ3_S", gridIQ3S(), 512, 8, 3},
	} {
		g := tt.grid
		if len(g.Codes) != tt.points {
			t.Errorf("%s: %d points, want %d", tt.name, len(g.Codes), tt.points)
		}
		for i, c := range g.Codes {
			if g.Lookup[c] != int32(i) {
				t.Fatalf("%s: Lookup[%#x] = %d, want %d", tt.name, c, g.Lookup[c], i)
			}
		}
		dist := func(a, b uint16) (d int) {
			for i := range g.Dim {
				diff := g.level(a, i) - g.level(b, i)
				d += diff * diff
			}
			return d
		}
		for code := 0; code < len(g.Lookup); code += 37 {
			at := g.Lookup[code]
			if at >= 0 {
				continue
			}
			valid := true
			for i := range g.Dim {
				valid = valid && g.level(uint16(code), i) < tt.levels
			}
			if !valid {
				continue
			}
			near := g.Near[-1-at:]
			list := near[1 : 1+near[0]]
			shells, inside := 1, make(map[uint16]bool)
			for i, c := range list {
				inside[c] = true
				if i == 0 {
					continue
				}
				a, b := dist(uint16(code), list[i-1]), dist(uint16(code), c)
				if a < b {
					shells++
				} else if a > b || g.Lookup[list[i-1]] >= g.Lookup[c] {
					t.Fatalf("%s: neighbours of %#x out of order", tt.name, code)
				}
			}
			if shells != tt.shells {
				t.Fatalf("%s: %d distances among the neighbours of %#x, want %d", tt.name, shells, code, tt.shells)
			}
			farthest := dist(uint16(code), list[len(list)-1])
			for _, c := range g.Codes {
				if !inside[c] && dist(uint16(code), c) <= farthest {
					t.Fatalf("%s: %#x is missing among the neighbours of %#x", tt.name, c, code)
				}
			}
		}
	}
}

func TestIQRequiresImportance(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("encoding IQ2_XS without importance does not panic")
		}
	}()
	Encode(IQ2_XS, make([]byte, IQ2_XS.RowSize(256)), make([]float32, 256), nil)
}

// FuzzIQEncode checks that no row makes an encoder panic, or its bytes decode
// to anything but numbers where the row is finite and of ordinary size.
func FuzzIQEncode(f *testing.F) {
	f.Add([]byte{1, 2, 3, 4, 5, 6, 7, 8})
	f.Add([]byte{0, 0, 0x80, 0x3f, 0xff, 0xff, 0x7f, 0x7f, 0, 0, 0xc0, 0x7f})
	f.Add([]byte{0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) < 4 {
			return
		}
		x, imp := make([]float32, 256), make([]float32, 256)
		ordinary := true
		for i := range x {
			at := func(i int) float32 {
				return math.Float32frombits(binary.LittleEndian.Uint32(data[i*4%(len(data)-3):]))
			}
			x[i], imp[i] = at(i), abs32(at(i+77))
			a := max(abs32(x[i]), imp[i])
			ordinary = ordinary && a < 1e4 && (a == 0 || a > 1e-4)
		}
		for _, budget := range iqBudgets {
			typ := budget.t
			dst, dec := make([]byte, typ.RowSize(256)), make([]float32, 256)
			Encode(typ, dst, x, imp)
			Decode(typ, dec, dst)
			for i, v := range dec {
				if ordinary && (v != v || math.IsInf(float64(v), 0)) {
					t.Errorf("%v: element %d comes back as %v", typ, i, v)
				}
			}
		}
	})
}

func BenchmarkIQEncode(b *testing.B) {
	const n = 2048
	x, imp := iqInput(0, 1, 1, n)
	for _, budget := range iqBudgets {
		b.Run(budget.t.String(), func(b *testing.B) {
			dst := make([]byte, budget.t.RowSize(n))
			b.SetBytes(4 * n)
			for b.Loop() {
				Encode(budget.t, dst, x, imp)
			}
		})
	}
}
