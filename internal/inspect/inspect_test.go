package inspect

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/smeltgguf/smelt/formats/gguf"
	"github.com/smeltgguf/smelt/quant"
)

const llamaCpp = "../../formats/gguf/testdata/llamacpp-q4_0.gguf"

func open(t *testing.T, path string) *gguf.File {
	t.Helper()
	f, err := gguf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// TestJSON compares with what an independent reader in Python printed.
func TestJSON(t *testing.T) {
	f := open(t, llamaCpp)
	sums, err := Hash(context.Background(), f, nil)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := JSON(&b, f, sums); err != nil {
		t.Fatal(err)
	}
	golden, err := os.ReadFile("testdata/llamacpp-q4_0.json")
	if err != nil {
		t.Fatal(err)
	}
	var got, want any
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(golden, &want); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %s", b.String())
	}
	last := -1 // keys come in the file's order
	for k := range f.Metadata.All() {
		i := strings.Index(b.String(), `"`+k+`": {`)
		if i <= last {
			t.Errorf("%s at %d, the key before it at %d", k, i, last)
		}
		last = i
	}
}

// memory makes a file of metadata and tensors of zeros.
func memory(t *testing.T, m *gguf.Metadata, tensors ...*gguf.Tensor) *gguf.File {
	t.Helper()
	l, err := gguf.Plan(m, tensors)
	if err != nil {
		t.Fatal(err)
	}
	b := append(l.Header, make([]byte, l.Size-l.DataOffset)...)
	f, err := gguf.NewFile(bytes.NewReader(b), l.Size, "f")
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestJSONValues(t *testing.T) {
	m := gguf.NewMetadata()
	m.Set("bytes", "a\xffb\x00\"\\<é\u2028")
	m.Set("f32", float32(0.1))
	m.Set("f64", 0.1)
	m.Set("nonfinite", []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1))})
	m.Set("u64", uint64(math.MaxUint64))
	m.Set("short", make([]uint8, 64))
	m.Set("long", make([]uint8, 65))
	var b bytes.Buffer
	if err := JSON(&b, memory(t, m, gguf.NewTensor("s", quant.F32, nil)), nil); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"bytes": {"type": 8, "value": "a\udcffb\u0000\"\\<é\u2028"}`,
		`"f32": {"type": 6, "value": 0.10000000149011612}`,
		`"f64": {"type": 12, "value": 0.1}`,
		`"nonfinite": {"type": 9, "elem": 6, "value": ["NaN", "Infinity", "-Infinity"]}`,
		`"u64": {"type": 10, "value": 18446744073709551615}`,
		`"short": {"type": 9, "elem": 0, "value": [0, 0,`,
		// sha256sum of 65 zeros
		`"long": {"type": 9, "elem": 0, "len": 65, "sha256": "98ce42deef51d40269d542f5314bef2c7468d401ad5d85168bfab4c0108f75f7"}`,
		`["s", "F32", []]`,
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %s in %s", want, b.String())
		}
	}
	if !json.Valid(b.Bytes()) {
		t.Error("not JSON")
	}
}

func TestText(t *testing.T) {
	m := gguf.NewMetadata()
	m.Set("general.name", strings.Repeat("long ", 100))
	m.Set("evil", "\x1b[31m")
	m.Set("list", []int32{1, 2, 3})
	m.Set("many", make([]float32, 1000))
	f := memory(t, m,
		gguf.NewTensor("w", quant.Q4_0, []int{2, 64}), gguf.NewTensor("b", quant.F32, []int{64}),
		gguf.NewTensor("\x1b[2J", quant.F32, nil), gguf.NewTensor("none", quant.F32, []int{0}))
	var b bytes.Buffer
	if err := Text(&b, f, nil); err != nil {
		t.Fatal(err)
	}
	out := strings.Join(strings.Fields(b.String()), " ")
	for _, want := range []string{
		`... (500 bytes)`, `evil string "\x1b[31m"`, `list i32[3] [1, 2, 3]`, `many f32[1000] [0, 0,`, `0, ...]`,
		"w Q4_0 64 x 2 72 B", `"\x1b[2J" F32 scalar 4 B`, "none F32 0 0 B",
		"F32 3 tensors 65 weights 260 B 32.00 bits per weight", "Q4_0 1 tensor 128 weights 72 B 4.50 bits per weight",
		"total 4 tensors 193 weights 332 B 13.76 bits per weight",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	if strings.Contains(b.String(), "\x1b") || strings.Contains(b.String(), "trailing") {
		t.Errorf("an escape or trailing bytes in\n%s", b.String())
	}
}

func TestHashInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Hash(ctx, open(t, llamaCpp), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestCount(t *testing.T) {
	for n, want := range map[uint64]string{0: "0", 999: "999", 1000: "1.00 K", 2_800_000: "2.80 M", 6_738_415_616: "6.74 B", 1e12: "1.00 T"} {
		if got := Count(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}
