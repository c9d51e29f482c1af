package kernels

import (
	"slices"
	"testing"
)

// saveCPU returns what switches the present instruction sets on again.
func saveCPU() (restore func()) {
	a, b, c, d, e := hasAVX2, hasAVX512, hasVNNI, hasNEON, hasDotProd
	return func() { hasAVX2, hasAVX512, hasVNNI, hasNEON, hasDotProd = a, b, c, d, e }
}

// eachCPU runs f once per level that this CPU has, "generic" first.
func eachCPU(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	restore := saveCPU()
	defer restore()
	for _, level := range levels {
		restore()
		limitCPU(level)
		if CPU() == level {
			t.Run(level, f)
		}
	}
}

func TestLimitCPU(t *testing.T) {
	levels := 0
	eachCPU(t, func(*testing.T) { levels++ })
	if levels == 0 {
		t.Fatal("no level ran; generic must always")
	}
	best := CPU()
	limitCPU("no such level")
	if CPU() != best {
		t.Errorf("an unknown level changed %s to %s", best, CPU())
	}
}

func TestCPULevels(t *testing.T) {
	all, here := CPULevels()
	var ran []string
	eachCPU(t, func(*testing.T) { ran = append(ran, CPU()) })
	// The environment may have limited what is left to choose from.
	if len(ran) > len(here) || !slices.Equal(ran, here[:len(ran)]) || here[0] != all[0] {
		t.Errorf("of %v this machine has %v, but %v can be chosen", all, here, ran)
	}
}
