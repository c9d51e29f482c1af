//go:build !purego

package kernels

import "golang.org/x/sys/cpu"

// detect fills in the feature variables. What the Go compiler itself emits
// needs Advanced SIMD.
func detect() {
	hasNEON = true
	hasDotProd = cpu.ARM64.HasASIMDDP
}
