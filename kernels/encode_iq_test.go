package kernels

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/smeltgguf/smelt/quant"
)

var iqTypes = []quant.Type{
	quant.IQ1_S, quant.IQ1_M, quant.IQ2_XXS, quant.IQ2_XS, quant.IQ2_S,
	quant.IQ3_XXS, quant.IQ3_S, quant.IQ4_NL, quant.IQ4_XS,
}

func TestEncodeIQ(t *testing.T) {
	eachCPU(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(1, 2))
		values := []func(i int) float32{
			func(int) float32 { return float32(r.NormFloat64()) * 0.02 },
			func(int) float32 { return float32(r.NormFloat64() * math.Exp(3*r.NormFloat64())) },
			func(i int) float32 { return float32(r.NormFloat64()) * float32(i/32%3) },
			func(i int) float32 { return []float32{0.37, -1, 0, 3e-5}[i/256%4] },
			func(int) float32 { return float32(r.IntN(5)-2) / 8 },
			func(int) float32 { return float32(math.Copysign(0, r.NormFloat64())) },
			func(i int) float32 { return float32(r.NormFloat64() * math.Pow(10, float64(i/16%30)-20)) },
			func(int) float32 { return float32(r.NormFloat64()) * 1e4 },
			func(i int) float32 { return float32(math.Ldexp(float64(i%7-3), -i%5)) },
		}
		weights := []func() float32{
			nil,
			func() float32 { return float32(r.ExpFloat64()) },
			func() float32 { return float32(r.IntN(2)) * r.Float32() },
			func() float32 { return 0 },
			func() float32 { return 1 },
			func() float32 { return float32(math.Exp(6 * r.NormFloat64())) },
		}
		lengths := []int{0, 256, 768}
		if testing.Short() {
			lengths = lengths[:2]
		}
		for _, typ := range iqTypes {
			for _, value := range values {
				for _, weight := range weights {
					if weight == nil && typ.RequiresImportance() {
						continue
					}
					for _, n := range lengths {
						if typ == quant.IQ4_NL && n > 0 {
							n -= 32 // odd numbers of blocks
						}
						row := make([]float32, n)
						for i := range row {
							row[i] = value(i)
						}
						var importance []float32
						if weight != nil {
							importance = make([]float32, n)
							for i := range importance {
								importance[i] = weight()
							}
						}
						compareEncode(t, typ, row, importance)
					}
				}
			}
		}
	})
}

// FuzzEncodeIQ compares on any finite numbers, even those so large that sums of
// squares overflow, where ggml gives up.
func FuzzEncodeIQ(f *testing.F) {
	f.Add(uint8(0), []byte{1, 2, 3, 4, 5, 6, 7, 8})
	f.Add(uint8(1), []byte{0, 0, 0x80, 0x3f, 0, 0, 0x80, 0xbf, 0, 0, 0, 0})
	f.Add(uint8(2), []byte{0, 0, 0x80, 0x7f, 0xff, 0xff, 0x7f, 0x7f, 1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, mode uint8, data []byte) {
		if len(data) < 4 {
			return
		}
		number := func(i int) float32 {
			v := math.Float32frombits(binary.LittleEndian.Uint32(data[i*4%(len(data)-3):]))
			if v != v || math.IsInf(float64(v), 0) {
				return float32(i)
			}
			return v
		}
		row, importance := make([]float32, 512), make([]float32, 512)
		for i := range row {
			row[i] = number(i)
			importance[i] = float32(math.Abs(float64(number(i + 1000))))
		}
		defer saveCPU()()
		for _, level := range []string{"avx512", "avx2"} {
			limitCPU(level)
			for _, typ := range iqTypes {
				if mode%2 == 1 && !typ.RequiresImportance() {
					compareEncode(t, typ, row, nil)
				} else {
					compareEncode(t, typ, row, importance)
				}
			}
		}
	})
}

// BenchmarkEncodeIQ goes through so many rows that branches cannot be learned.
func BenchmarkEncodeIQ(b *testing.B) {
	const rows, n = 128, 2048
	r := rand.New(rand.NewPCG(1, 2))
	x, importance := make([]float32, rows*n), make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64()) * 0.02
	}
	for i := range importance {
		importance[i] = float32(r.ExpFloat64())
	}
	for _, typ := range iqTypes {
		b.Run(typ.String(), func(b *testing.B) {
			dst := make([]byte, typ.RowSize(n))
			b.SetBytes(4 * n)
			for i := 0; b.Loop(); i++ {
				EncodeRow(typ, dst, x[i%rows*n:][:n], importance)
			}
		})
	}
}
