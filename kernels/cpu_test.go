package kernels

import "testing"

// eachCPU runs f once per level that this CPU has, "generic" first.
func eachCPU(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	a, b, c := hasAVX2, hasAVX512, hasVNNI
	restore := func() { hasAVX2, hasAVX512, hasVNNI = a, b, c }
	defer restore()
	for _, level := range []string{"generic", "avx2", "avx512", "avx512vnni"} {
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
