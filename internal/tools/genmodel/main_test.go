package main

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/smeltgguf/smelt/internal/checkpoint"
	"github.com/smeltgguf/smelt/quant"
)

// TestGenerate: what is written is a checkpoint of the right shapes, its values
// are distributed as they should be, and the seed decides about them.
func TestGenerate(t *testing.T) {
	s := shape{1, 64, 4, 2, 96, 1000}
	read := func(dtype string, seed uint64) (string, *checkpoint.Checkpoint) {
		dir := filepath.Join(t.TempDir(), "m")
		if err := generate(dir, s, dtype, "", seed); err != nil {
			t.Fatal(err)
		}
		c, err := checkpoint.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return filepath.Join(dir, "model.safetensors"), c
	}
	for dtype, want := range map[string]quant.Type{"bf16": quant.BF16, "f16": quant.F16, "f32": quant.F32} {
		path, c := read(dtype, 1)
		if got := len(c.Tensors); got != 12 {
			t.Errorf("%d tensors", got)
		}
		x, _ := c.Tensor("model.layers.0.self_attn.k_proj.weight")
		if x.Count() != 32 || x.Len() != 64 || x.Type() != want {
			t.Errorf("k_proj is %d x %d of %v", x.Count(), x.Len(), x.Type())
		}
		again, _ := read(dtype, 1)
		other, _ := read(dtype, 2)
		a, _ := os.ReadFile(path)
		b, _ := os.ReadFile(again)
		d, _ := os.ReadFile(other)
		if !bytes.Equal(a, b) || bytes.Equal(a, d) {
			t.Errorf("%s: the seed does not decide", dtype)
		}
		x, _ = c.Tensor("lm_head.weight")
		raw := make([]byte, x.Count()*x.Type().RowSize(x.Len()))
		if err := x.ReadRows(raw, 0, x.Count()); err != nil {
			t.Fatal(err)
		}
		v := make([]float32, x.Count()*x.Len())
		quant.Decode(want, v, raw)
		var sum, sq float64
		for _, f := range v {
			sum += float64(f)
			sq += float64(f) * float64(f)
		}
		n := float64(len(v))
		if mean, std := sum/n, math.Sqrt(sq/n); math.Abs(mean) > 5*0.02/math.Sqrt(n) || math.Abs(std-0.02) > 5*0.02/math.Sqrt(2*n) {
			t.Errorf("%s: mean %g, standard deviation %g", dtype, mean, std)
		}
	}
}
