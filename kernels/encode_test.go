package kernels

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"testing"

	"github.com/smeltgguf/smelt/internal/quanttest"
	"github.com/smeltgguf/smelt/quant"
)

// encodable are the types that EncodeRow takes.
func encodable() []quant.Type {
	var types []quant.Type
	for t := quant.Type(0); t < 64; t++ {
		if t.CanEncode() {
			types = append(types, t)
		}
	}
	return types
}

// compareEncode encodes a row both ways, with guard bytes around what the fast
// path may touch.
func compareEncode(t *testing.T, typ quant.Type, row, importance []float32) {
	t.Helper()
	const guard = 64
	size := typ.RowSize(len(row))
	want := make([]byte, size)
	quant.Encode(typ, want, row, importance)
	got := bytes.Repeat([]byte{0xa5}, size+2*guard)
	EncodeRow(typ, got[guard:][:size:size], row, importance)
	if !bytes.Equal(got[guard:][:size], want) {
		for b := 0; b*typ.BlockSize() < size; b++ {
			w, g := want[b*typ.BlockSize():][:typ.BlockSize()], got[guard+b*typ.BlockSize():][:typ.BlockSize()]
			if !bytes.Equal(w, g) {
				t.Fatalf("%v, %d elements, importance %v: block %d:\n got %x\nwant %x\nfor %v", typ, len(row),
					importance != nil, b, g, w, row[b*typ.BlockLen():][:typ.BlockLen()])
			}
		}
	}
	edge := bytes.Repeat([]byte{0xa5}, guard)
	if !bytes.Equal(got[:guard], edge) || !bytes.Equal(got[guard+size:], edge) {
		t.Fatalf("%v, %d elements: bytes around the row were written", typ, len(row))
	}
}

// hasFastPath tells whether EncodeRow has more than quant.Encode for a type.
func hasFastPath(typ quant.Type, weighted bool) bool {
	if typ == quant.F16 || typ == quant.BF16 {
		return true
	}
	row, importance := make([]float32, typ.BlockLen()), []float32(nil)
	if weighted {
		importance = row
	}
	return encodeSIMD(typ, make([]byte, typ.BlockSize()), row, importance)
}

func TestEncodeRow(t *testing.T) {
	eachCPU(t, func(t *testing.T) {
		for _, typ := range encodable() {
			for _, class := range quanttest.Classes {
				for _, blocks := range []int{1, 2, 3, 5, 8, 9} {
					if blocks > 3 && typ.BlockLen() == 256 && testing.Short() {
						continue
					}
					n := blocks * typ.BlockLen()
					row := class.Rows(uint64(blocks), 1, n)
					for _, importance := range [][]float32{nil, quanttest.Importance(uint64(n), n)} {
						if hasFastPath(typ, importance != nil) {
							compareEncode(t, typ, row, importance)
						}
					}
				}
			}
		}
	})
}

// TestEncodeQ3Groups compares many groups of Q3_K: those that the search would
// change are told apart by bounds that must not be too wide.
func TestEncodeQ3Groups(t *testing.T) {
	n := 300 * 256
	if testing.Short() {
		n /= 10
	}
	eachCPU(t, func(t *testing.T) {
		for i, class := range quanttest.Classes {
			compareEncode(t, quant.Q3_K, class.Rows(uint64(100+i), 1, n), nil)
		}
		// Few different numbers, so that quotients hit the middle of two levels.
		row := make([]float32, n)
		r := quanttest.Rand(1)
		for i := range row {
			row[i] = float32(r.Intn(17)-8) / 16
		}
		compareEncode(t, quant.Q3_K, row, nil)
	})
}

// TestEncodeFP4Points encodes numbers half-way between two codes and their
// neighbours, for all scales.
func TestEncodeFP4Points(t *testing.T) {
	points := func(unit float32) (x []float32) {
		for _, m := range []float32{0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 10, 12} {
			v := m * unit
			x = append(x, v, -v, math.Nextafter32(v, 0), math.Nextafter32(v, 1e38), -math.Nextafter32(v, 0), -math.Nextafter32(v, 1e38))
		}
		return x
	}
	eachCPU(t, func(t *testing.T) {
		// rows puts the points for a unit next to an element of each group that
		// fixes the scale.
		rows := func(typ quant.Type, group int, unit, largest float32) {
			var row []float32
			for i, v := range points(unit) {
				if i%(group-1) == 0 {
					row = append(row, largest)
				}
				row = append(row, v)
			}
			row = append(row, make([]float32, typ.BlockLen()-len(row)%typ.BlockLen())...)
			compareEncode(t, typ, row, nil)
		}
		for exp := -140; exp < 120; exp++ {
			unit := float32(math.Ldexp(1, exp))
			for _, largest := range []float32{12, 13, 15.9, math.Nextafter32(16, 0), 8, 10} {
				rows(quant.MXFP4, 32, unit, largest*unit)
			}
		}
		for code := range 127 {
			src := bytes.Repeat([]byte{0x11}, quant.NVFP4.BlockSize()) // all codes 1
			copy(src, bytes.Repeat([]byte{byte(code)}, 4))
			unit := make([]float32, quant.NVFP4.BlockLen())
			quant.Decode(quant.NVFP4, unit, src)
			rows(quant.NVFP4, 16, unit[0], 12*unit[0])
		}
	})
}

func FuzzEncodeRow(f *testing.F) {
	for typ := range quant.Type(64) {
		if typ.CanEncode() {
			f.Add(uint32(typ), uint64(typ), uint8(3), false, []byte{})
		}
	}
	f.Add(uint32(quant.Q8_0), uint64(1), uint8(1), true, bytes.Repeat([]byte{0xff, 0xff, 0x7f, 0x7f}, 16))
	f.Add(uint32(quant.Q4_1), uint64(1), uint8(1), true, bytes.Repeat([]byte{0, 0, 0, 0x80}, 8))
	f.Fuzz(func(t *testing.T, typ uint32, seed uint64, blocks uint8, weighted bool, raw []byte) {
		qt := quant.Type(typ % 64)
		if !qt.CanEncode() || (qt.RequiresImportance() && !weighted) {
			t.Skip()
		}
		n := (int(blocks)%8 + 1) * qt.BlockLen()
		row := quanttest.Classes[seed%uint64(len(quanttest.Classes))].Rows(seed, 1, n)
		for i := 0; i < n && 4*i+4 <= len(raw); i++ {
			if v := math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:])); v-v == 0 {
				row[i] = v
			}
		}
		var importance []float32
		if weighted {
			importance = quanttest.Importance(seed, n)
		}
		defer saveCPU()()
		for _, level := range []string{"avx512", "avx2", "neon"} {
			limitCPU(level)
			compareEncode(t, qt, row, importance)
		}
	})
}

// TestEncodeNonfinite checks that NaN and infinity do no harm; what they become
// is nobody's business.
func TestEncodeNonfinite(t *testing.T) {
	inf := float32(math.Inf(1))
	eachCPU(t, func(t *testing.T) {
		for _, typ := range encodable() {
			for _, v := range []float32{inf, -inf, inf - inf} {
				if !hasFastPath(typ, true) {
					continue // quant's own affair
				}
				n := 3 * typ.BlockLen()
				row, importance := quanttest.Classes[0].Rows(1, 1, n), quanttest.Importance(1, n)
				dst := make([]byte, typ.RowSize(n))
				for i := 0; i < n; i += 7 {
					row[i] = v
				}
				EncodeRow(typ, dst, row, importance)
				for i := range row {
					row[i] = v
				}
				EncodeRow(typ, dst, row, importance)
			}
		}
	})
}

func TestDecodeRow(t *testing.T) {
	eachCPU(t, func(t *testing.T) {
		for typ := quant.Type(0); typ < 64; typ++ {
			if !typ.CanDecode() {
				continue
			}
			for _, blocks := range []int{0, 1, 2, 15, 16, 17, 33} {
				r := quanttest.Rand(blocks)
				src := make([]byte, blocks*typ.BlockSize())
				for i := range src {
					src[i] = byte(r.Uint64())
				}
				want := make([]float32, blocks*typ.BlockLen())
				got := make([]float32, len(want))
				quant.Decode(typ, want, src)
				DecodeRow(typ, got, src)
				for i, w := range want {
					if math.Float32bits(got[i]) != math.Float32bits(w) && (w == w || got[i] == got[i]) {
						t.Fatalf("%v, %d blocks: element %d is %v, want %v", typ, blocks, i, got[i], w)
					}
				}
			}
		}
	})
}

// TestHalves converts all 65,536 numbers of 16 bits.
func TestHalves(t *testing.T) {
	all := make([]byte, 2<<16)
	for i := range 1 << 16 {
		binary.LittleEndian.PutUint16(all[2*i:], uint16(i))
	}
	eachCPU(t, func(t *testing.T) {
		for _, c := range []struct {
			from, to quant.Type
			direct   func(dst, src []byte) int
			to32     func(dst []float32, src []byte)
			from32   func(dst []byte, src []float32) int
		}{
			{quant.F16, quant.BF16, F16ToBF16, F16ToF32, F32ToBF16},
			{quant.BF16, quant.F16, BF16ToF16, BF16ToF32, F32ToF16},
			{quant.F16, quant.F16, nil, F16ToF32, F32ToF16},
			{quant.BF16, quant.BF16, nil, BF16ToF32, F32ToBF16},
		} {
			f32, got32 := make([]float32, 1<<16), make([]float32, 1<<16)
			quant.Decode(c.from, f32, all)
			c.to32(got32, all)
			want, got := make([]byte, len(all)), make([]byte, len(all))
			quant.Encode(c.to, want, f32, nil)
			first := c.from32(got, f32)
			check := func(how string, first int) {
				for i := range f32 {
					if !bytes.Equal(got[2*i:][:2], want[2*i:][:2]) {
						t.Errorf("%v to %v %s: %04x becomes %x, want %x", c.from, c.to, how, i, got[2*i:][:2], want[2*i:][:2])
						return
					}
				}
				back := make([]float32, len(f32))
				quant.Decode(c.to, back, want)
				if w := FirstNonfinite(back); first != w {
					t.Errorf("%v to %v %s: first not finite is %d, want %d", c.from, c.to, how, first, w)
				}
			}
			check("from float32", first)
			for i, v := range f32 {
				if got32[i] != v && v == v {
					t.Errorf("%v %04x decodes to %v, want %v", c.from, i, got32[i], v)
					break
				}
			}
			if c.direct != nil {
				clear(got)
				check("direct", c.direct(got, all))
			}
		}
	})
}

// TestConvertLengths converts every length up to past several registers, with
// one number out of range at every place.
func TestConvertLengths(t *testing.T) {
	eachCPU(t, func(t *testing.T) {
		for n := range 70 {
			for bad := -1; bad < n; bad++ {
				x := quanttest.Classes[0].Rows(uint64(n), 1, n)
				if bad >= 0 {
					x[bad] = 1e5
				}
				h := bytes.Repeat([]byte{0xa5}, 2*n+16)
				if got := F32ToF16(h[:2*n:2*n], x); got != bad {
					t.Fatalf("F32ToF16, %d elements: first not finite is %d, want %d", n, got, bad)
				}
				b := make([]byte, 2*n)
				if got := F32ToBF16(b, x); got != -1 {
					t.Fatalf("F32ToBF16, %d elements: first not finite is %d", n, got)
				}
				h2 := bytes.Repeat([]byte{0xa5}, 2*n+16)
				if got := BF16ToF16(h2[:2*n:2*n], b); got != bad {
					t.Fatalf("BF16ToF16, %d elements: first not finite is %d, want %d", n, got, bad)
				}
				if got := F16ToBF16(b, h[:2*n]); got != bad {
					t.Fatalf("F16ToBF16, %d elements: first not finite is %d, want %d", n, got, bad)
				}
				edge := bytes.Repeat([]byte{0xa5}, 16)
				if !bytes.Equal(h[2*n:], edge) || !bytes.Equal(h2[2*n:], edge) {
					t.Fatalf("%d elements: bytes after the slice were written", n)
				}
			}
		}
	})
}

func TestMaxAbs(t *testing.T) {
	inf := float32(math.Inf(1))
	eachCPU(t, func(t *testing.T) {
		for n := range 140 {
			x := quanttest.Classes[0].Rows(uint64(n), 1, n)
			for i := -1; i < n; i++ {
				for _, v := range []float32{-7, inf, inf - inf} {
					y := append([]float32(nil), x...)
					var want float32
					for _, v := range y {
						want = max(want, float32(math.Abs(float64(v))))
					}
					if i >= 0 {
						y[i] = v
						if want = 7; v != -7 {
							want = inf
						}
					}
					if got := MaxAbs(y); got != want {
						t.Fatalf("%d elements, %v at %d: MaxAbs = %v, want %v", n, v, i, got, want)
					}
				}
			}
		}
	})
}

// BenchmarkEncode prints the time per block of every type, plain Go against
// the fastest path, without and with importance.
func BenchmarkEncode(b *testing.B) {
	const n = 4096
	row, importance := quanttest.Classes[0].Rows(1, 1, n), quanttest.Importance(1, n)
	for _, typ := range encodable() {
		dst := make([]byte, typ.RowSize(n))
		for _, imp := range [][]float32{nil, importance} {
			if imp == nil && typ.RequiresImportance() {
				continue
			}
			for _, path := range []struct {
				name   string
				encode func(quant.Type, []byte, []float32, []float32)
			}{{"plain", quant.Encode}, {CPU(), EncodeRow}} {
				b.Run(fmt.Sprintf("%v/importance=%v/%s", typ, imp != nil, path.name), func(b *testing.B) {
					b.SetBytes(4 * n)
					for b.Loop() {
						path.encode(typ, dst, row, imp)
					}
					b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n/typ.BlockLen()), "ns/block")
				})
			}
		}
	}
}

func TestMaxAbs16(t *testing.T) {
	eachCPU(t, func(t *testing.T) {
		for _, typ := range []quant.Type{quant.F16, quant.BF16} {
			for n := range 140 {
				x := quanttest.Classes[0].Rows(uint64(n), 1, n)
				src := make([]byte, 2*n)
				quant.Encode(typ, src, x, nil)
				quant.Decode(typ, x, src)
				for i := range n + 1 {
					for _, bits := range []uint16{0x41, 0x8001, 0xc000, 0x7bff, 0xff7f, 0x7f80, 0xfc00, 0xffff} {
						b := append(bytes.Clone(src), 0, 0)
						binary.LittleEndian.PutUint16(b[2*i:], bits)
						b = b[:2*n]
						y := make([]float32, n)
						quant.Decode(typ, y, b)
						want := MaxAbs(y)
						if got := MaxAbs16(typ, b); got != want {
							t.Fatalf("%v, %d elements, %#x at %d: MaxAbs16 = %v, want %v", typ, n, bits, i, got, want)
						}
					}
				}
			}
		}
	})
}

// TestAddErrors compares with a loop in float64, whose order is the documented
// one, so that the sums are equal.
func TestAddErrors(t *testing.T) {
	nan := float32(math.NaN())
	eachCPU(t, func(t *testing.T) {
		for n := range 70 {
			x := quanttest.Classes[0].Rows(uint64(n), 1, n)
			y := quanttest.Classes[0].Rows(uint64(n)+1, 1, n)
			got := [3][4]float64{{1, 2, 3, 4}, {5, 6, 7, 8}, {9, 10, 11, 12}}
			want := got
			var worst float32
			for i := range x {
				d := x[i] - y[i]
				worst = max(worst, d, -d)
				want[0][i%4] += float64(float64(d) * float64(d))
				want[1][i%4] += float64(float64(x[i]) * float64(x[i]))
				want[2][i%4] += float64(float64(x[i]) * float64(d))
			}
			if w := AddErrors(&got, x, y); w != worst || got != want {
				t.Fatalf("%d elements: %v, largest %v, want %v, %v", n, got, w, want, worst)
			}
			if n > 0 {
				y[n/2] = nan
				if w := AddErrors(&got, x, y); w == w {
					t.Fatalf("%d elements: NaN is lost: %v", n, w)
				}
			}
		}
	})
}
