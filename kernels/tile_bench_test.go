//go:build unix

package kernels

import (
	"fmt"
	"testing"

	"github.com/smeltgguf/smelt/quant"
)

// BenchmarkTile runs the micro-kernels on operands in the first-level cache:
// the rate that a product of matrices can reach.
func BenchmarkTile(b *testing.B) {
	for _, depth := range []int{64, 128, 256} {
		b.Run(fmt.Sprintf("F32/%d", depth), func(b *testing.B) {
			a, x, c := make([]float32, tile*strideF), make([]float32, lanes*depth), make([]float32, tile*lanes)
			start := cpuSeconds()
			for b.Loop() {
				for range 100 {
					gemmF32(c, a, strideF, 1, x, depth, tile)
				}
			}
			b.ReportMetric(200*tile*lanes*float64(depth)*float64(b.N)/(cpuSeconds()-start)/1e9, "Gop/s")
		})
	}
	for _, t := range []quant.Type{quant.Q4_0, quant.Q4_K, quant.Q6_K, quant.Q2_K} {
		b.Run("Int8/"+t.String(), func(b *testing.B) {
			const groups = 16
			u, acts, c := make([]byte, tile*strideI), make([]byte, groups*actGroup), make([]float32, tile*lanes)
			scale := make([]float32, tile*groupsI)
			start := cpuSeconds()
			for b.Loop() {
				for range 100 {
					gemmInt8(&forms[t], c, u, scale, scale, acts, groups)
				}
			}
			b.ReportMetric(200*tile*lanes*groups*32*float64(b.N)/(cpuSeconds()-start)/1e9, "Gop/s")
		})
	}
}
