package safetensors

import (
	"bytes"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smeltgguf/smelt/formats"
)

func TestPlan(t *testing.T) {
	in := []formats.TensorInfo{
		{Name: "a", DType: formats.F32, Shape: []int{2, 3}},
		{Name: "b\"\u2028<", DType: formats.BF16, Shape: []int{5}},
		{Name: "c", DType: formats.F16},
		{Name: "empty", DType: formats.F16, Shape: []int{0, 4}},
	}
	l, err := Plan(in)
	if err != nil {
		t.Fatal(err)
	}
	if len(l.Header)%8 != 0 {
		t.Errorf("data begin at %d", len(l.Header))
	}
	file := append(bytes.Clone(l.Header), make([]byte, l.Size-int64(len(l.Header)))...)
	got, err := ReadHeader(bytes.NewReader(file), l.Size, "x")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(l.Tensors, got); d != "" {
		t.Errorf("what is read differs from the plan (-plan +read):\n%s", d)
	}
	if want := int64(len(l.Header) + 24 + 10 + 2); l.Size != want {
		t.Errorf("size %d, want %d", l.Size, want)
	}
}

func TestPlanTooLarge(t *testing.T) {
	for _, shape := range [][]int{{math.MaxInt32, math.MaxInt32, 16}, {math.MaxInt64}} {
		if _, err := Plan([]formats.TensorInfo{{Name: "a", DType: formats.F32, Shape: shape}}); err == nil || !strings.Contains(err.Error(), "too large") {
			t.Errorf("%v: error %v", shape, err)
		}
	}
	two := []formats.TensorInfo{{Name: "a", DType: formats.F32, Shape: []int{1 << 58}}, {Name: "b", DType: formats.F32, Shape: []int{1 << 58}}}
	for len(two) < 16 {
		two = append(two, two...)
	}
	if _, err := Plan(two); err == nil || !strings.Contains(err.Error(), "too large") {
		t.Errorf("together: error %v", err)
	}
}
