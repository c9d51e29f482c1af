//go:build amd64 && !purego

package kernels

import "golang.org/x/sys/cpu"

// detect fills in the feature variables. x/sys/cpu checks that the operating
// system saves the wide registers; every CPU with AVX2 and FMA has F16C.
func detect() {
	x := &cpu.X86
	hasAVX2 = x.HasAVX2 && x.HasFMA
	hasAVX512 = hasAVX2 && x.HasAVX512F && x.HasAVX512BW && x.HasAVX512CD && x.HasAVX512DQ && x.HasAVX512VL
	hasVNNI = hasAVX512 && x.HasAVX512VNNI && x.HasBMI2
}
