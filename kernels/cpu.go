// Package kernels holds the hot loops: matrix multiplication for every ggml
// type, the vector functions of a transformer's forward pass, and quantization.
// Slices in, slices out; nothing is allocated per call.
//
// Every kernel exists as plain Go, which says what it computes, and for some
// instruction sets as assembly, chosen at run time from the variables in this
// file. The build tag purego leaves the assembly out.
package kernels

import (
	"os"
	"slices"
)

// The instruction sets that kernels may use. Tests switch them off to reach
// every path on one machine; they never switch on what the CPU does not have.
// Each implies the ones before it of its architecture.
var (
	hasAVX2   bool // AVX2, FMA and F16C
	hasAVX512 bool // AVX-512 F, BW, CD, DQ and VL
	hasVNNI   bool // AVX-512 VNNI, and BMI2, which all with it have

	hasNEON    bool // Advanced SIMD, which every arm64 has
	hasDotProd bool // FEAT_DotProd, Armv8.2's SDOT
)

// levels names the instruction sets that CPU may return, each architecture's
// ascending.
var levels = []string{"generic", "avx2", "avx512", "avx512vnni", "neon", "dotprod"}

var detected []string // those of levels that this machine has

func init() {
	for _, level := range levels {
		detect()
		limitCPU(level)
		if CPU() == level {
			detected = append(detected, level)
		}
	}
	detect()
	limitCPU(os.Getenv("SMELT_CPU"))
}

// CPULevels lists the values that SMELT_CPU can have, and those of them that
// this machine has.
func CPULevels() (all, here []string) { return slices.Clone(levels), slices.Clone(detected) }

// limitCPU switches off what the named level does not have: "generic" is plain
// Go, the others are what they say. Other names, and those of other
// architectures, change nothing.
func limitCPU(level string) {
	switch level {
	case "generic":
		hasAVX2, hasAVX512, hasVNNI = false, false, false
		hasNEON, hasDotProd = false, false
	case "avx2":
		hasAVX512, hasVNNI = false, false
	case "avx512":
		hasVNNI = false
	case "neon":
		hasDotProd = false
	}
}

// CPU names the instruction set that the kernels use: "avx512vnni", "avx512",
// "avx2", "dotprod" (NEON with dot products), "neon" or "generic". The
// environment variable SMELT_CPU, read at start, limits it to one of these.
func CPU() string {
	switch {
	case hasVNNI:
		return "avx512vnni"
	case hasAVX512:
		return "avx512"
	case hasAVX2:
		return "avx2"
	case hasDotProd:
		return "dotprod"
	case hasNEON:
		return "neon"
	}
	return "generic"
}
