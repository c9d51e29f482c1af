package arch

import (
	"math"
	"testing"
)

// TestLlama3FactorBits wants the bits that PyTorch computes, step by step, with the
// code of Meta's models.
func TestLlama3FactorBits(t *testing.T) {
	for _, tt := range []struct {
		base    float64
		dim     int
		context int
		factor  float64
		want    []uint32
	}{
		{10000, 24, 64, 8, []uint32{0x3f800000, 0x3f800000, 0x400731c0, 0x40f55b38, 0x41000000, 0x41000000, 0x41000000, 0x41000000, 0x41000000, 0x41000000, 0x41000000, 0x41000000}},
		{500000, 64, 8192, 32, []uint32{0x3f800000, 0x3f800000, 0x3f800000, 0x3f800000, 0x3f800000, 0x3f800000, 0x3f800000, 0x3f800000, 0x3f800000, 0x3f800000, 0x3f800000, 0x3f800000, 0x3f800000, 0x3f800000, 0x3f800000, 0x3fd35ec2, 0x4052b46f, 0x411aaaee, 0x42000000, 0x42000000, 0x42000000, 0x42000000, 0x42000000, 0x42000000, 0x42000000, 0x42000000, 0x42000000, 0x42000000, 0x42000000, 0x42000000, 0x42000000, 0x42000000}},
		{1e+06, 32, 3000, 5, []uint32{0x3f800000, 0x3f800000, 0x3f800000, 0x3f800000, 0x3f800000, 0x3f800000, 0x3fc5206f, 0x40880429, 0x40a00000, 0x40a00000, 0x40a00000, 0x40a00000, 0x40a00000, 0x40a00000, 0x40a00000, 0x40a00000}},
	} {
		s := llama3Scaling{factor: tt.factor, lowFreq: 1, highFreq: 4, context: tt.context}
		for i, f := range s.factors(tt.dim, tt.base) {
			if got := math.Float32bits(f); got != tt.want[i] {
				t.Errorf("base %g, %d of %d: %#x, want %#x", tt.base, i, tt.dim, got, tt.want[i])
			}
		}
	}
}
