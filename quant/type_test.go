package quant

import "testing"

// TestBlockSizes adds up the parts of each block, as its codec documents them.
func TestBlockSizes(t *testing.T) {
	const half = 2
	for typ, parts := range map[Type][]int{
		F32:   {4},
		F16:   {half},
		BF16:  {half},
		F64:   {8},
		Q4_0:  {half, 32 * 4 / 8},
		Q4_1:  {half, half, 32 * 4 / 8},
		Q5_0:  {half, 32 / 8, 32 * 4 / 8},
		Q5_1:  {half, half, 32 / 8, 32 * 4 / 8},
		Q8_0:  {half, 32},
		Q2_K:  {16, 256 * 2 / 8, half, half},
		Q3_K:  {256 / 8, 256 * 2 / 8, 12, half},
		Q4_K:  {half, half, 12, 256 * 4 / 8},
		Q5_K:  {half, half, 12, 256 / 8, 256 * 4 / 8},
		Q6_K:  {256 * 4 / 8, 256 * 2 / 8, 16, half},
		Q1_0:  {half, 128 / 8},
		Q2_0:  {half, 64 * 2 / 8},
		TQ1_0: {240 / 5, 16 / 4, half},
		TQ2_0: {256 * 2 / 8, half},
		MXFP4: {1, 32 * 4 / 8},
		NVFP4: {64 / 16, 64 * 4 / 8},
	} {
		size := 0
		for _, n := range parts {
			size += n
		}
		if typ.BlockSize() != size {
			t.Errorf("%v: block size %d, its parts have %d", typ, typ.BlockSize(), size)
		}
	}
}

func TestParseType(t *testing.T) {
	for typ := range Type(numTypes) {
		if !typ.Valid() {
			continue
		}
		if got, err := ParseType(typ.String()); err != nil || got != typ {
			t.Errorf("ParseType(%q) = %v, %v", typ.String(), got, err)
		}
	}
	if got, err := ParseType("q4_k"); err != nil || got != Q4_K {
		t.Errorf("ParseType(q4_k) = %v, %v", got, err)
	}
	for _, name := range []string{"", "Q7_K", "type 4"} {
		if got, err := ParseType(name); err == nil {
			t.Errorf("ParseType(%q) = %v", name, got)
		}
	}
}
