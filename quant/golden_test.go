package quant_test

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/smeltgguf/smelt/internal/quanttest"
	"github.com/smeltgguf/smelt/quant"
)

// golden is one line of testdata/golden.json: what ggml's library (llama.cpp
// v0.5.0, x86-64) makes of goldenRows rows of the class. Encoded is the sha256
// of the blocks, Decoded of the little-endian float32s that they decode to.
type golden struct {
	Type, Class      string
	N                int
	Importance       bool
	Encoded, Decoded string
}

const (
	goldenRows     = 4
	goldenSeed     = 1
	importanceSeed = 2
)

func TestGolden(t *testing.T) {
	data, err := os.ReadFile("testdata/golden.json")
	if err != nil {
		t.Fatal(err)
	}
	var all []golden
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	classes := map[string]quanttest.Class{}
	for _, c := range quanttest.Classes {
		classes[c.Name] = c
	}
	seen := map[string]int{}
	for _, g := range all {
		typ, err := quant.ParseType(g.Type)
		if err != nil {
			t.Fatal(err)
		}
		class, ok := classes[g.Class]
		if !ok {
			t.Fatalf("no class %q", g.Class)
		}
		x := class.Rows(goldenSeed, goldenRows, g.N)
		var importance []float32
		if g.Importance {
			importance = quanttest.Importance(importanceSeed, g.N)
		}
		size := typ.RowSize(g.N)
		blocks := make([]byte, goldenRows*size)
		for i := range goldenRows {
			quant.Encode(typ, blocks[i*size:][:size], x[i*g.N:][:g.N], importance)
		}
		if got := sum(blocks); got != g.Encoded {
			t.Errorf("%s %q, importance %v: blocks differ", g.Type, g.Class, g.Importance)
			continue
		}
		y := make([]float32, len(x))
		quant.Decode(typ, y, blocks)
		if got := sum(floatBytes(y)); got != g.Decoded {
			t.Errorf("%s %q, importance %v: decoded numbers differ", g.Type, g.Class, g.Importance)
		}
		seen[g.Type]++
	}
	if len(seen) == 0 {
		t.Error("no golden data")
	}
	for typ := quant.Type(0); typ < 64; typ++ {
		if strings.HasPrefix(typ.String(), "IQ") {
			continue // they have iq.golden
		}
		if typ.CanEncode() && typ != quant.F32 && seen[typ.String()] < len(classes) {
			t.Errorf("%v: golden data for %d rows, want at least one per class", typ, seen[typ.String()])
		}
	}
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// floatBytes gives all NaNs one form: their payload is no part of the formats.
func floatBytes(x []float32) []byte {
	b := make([]byte, 0, 4*len(x))
	for _, v := range x {
		bits := math.Float32bits(v)
		if v != v {
			bits = 0x7fc00000
		}
		b = binary.LittleEndian.AppendUint32(b, bits)
	}
	return b
}
