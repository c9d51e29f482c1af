package stream

import (
	"bytes"
	"testing"

	"github.com/smeltgguf/smelt/quant"
)

func TestCast(t *testing.T) {
	src := wave()
	if Cast(src, quant.F32) != Rows(src) {
		t.Error("a matrix is wrapped that has the type already")
	}
	for _, typ := range []quant.Type{quant.F16, quant.BF16, quant.Q8_0} {
		c := Cast(src, typ)
		if c.Type() != typ || c.Len() != src.Len() || c.Count() != src.Count() {
			t.Fatalf("%s: %s, %d x %d", typ, c.Type(), c.Len(), c.Count())
		}
		row := typ.RowSize(src.len)
		want := make([]byte, src.Count()*row)
		x := make([]float32, src.len)
		for i := range src.Count() {
			quant.Decode(quant.F32, x, src.data[4*src.len*i:][:4*src.len])
			quant.Encode(typ, want[i*row:][:row], x, nil)
		}
		const first, n = 700, 1000
		got := make([]byte, n*row)
		if err := c.ReadRows(got, first, n); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want[first*row:][:n*row]) {
			t.Errorf("%s: rows differ", typ)
		}
	}
}
