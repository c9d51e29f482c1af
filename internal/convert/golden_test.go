package convert

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/smeltgguf/smelt/formats/gguf"
)

// golden is what llama.cpp's converter makes of a checkpoint.
type golden struct {
	MayAdd    []string `json:"may_add"`
	MayDiffer []string `json:"may_differ"` // guesses from directory names
	Outtypes  map[string]goldenFile
}

type goldenFile struct {
	KV      map[string]goldenValue
	KVOrder []string `json:"kv_order"`
	Tensors [][4]any // name, type, dims, sha256
}

type goldenValue struct {
	Type   uint32
	Elem   *uint32
	Len    int
	SHA256 string
	Value  any
}

func readGolden(t *testing.T, path string, into any) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatal(path, err)
	}
}

// describe puts a metadata value into the form of the golden files.
func describe(v any) goldenValue {
	typ, elem, _ := gguf.TypeOf(v)
	g := goldenValue{Type: typ}
	rv := reflect.ValueOf(v)
	if rv.Kind() != reflect.Slice {
		g.Value = plain(rv)
		return g
	}
	g.Elem = &elem
	if rv.Len() > 64 {
		sum := sha256.Sum256(gguf.AppendValue(nil, v)[4+4+8:])
		g.Len, g.SHA256 = rv.Len(), hex.EncodeToString(sum[:])
		return g
	}
	list := []any{}
	for i := range rv.Len() {
		list = append(list, plain(rv.Index(i)))
	}
	g.Value = list
	return g
}

// plain is a scalar as encoding/json would have read it.
func plain(v reflect.Value) any {
	switch {
	case v.CanInt():
		return float64(v.Int())
	case v.CanUint():
		return float64(v.Uint())
	case v.CanFloat():
		return v.Float()
	}
	return v.Interface()
}

// compare checks a file against what llama.cpp made of the same checkpoint.
func compare(t *testing.T, path string, want goldenFile, g golden) {
	t.Helper()
	f, err := gguf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Trailing() != 0 {
		t.Errorf("%d bytes after the last tensor", f.Trailing())
	}
	arch := f.Metadata.Architecture()
	var order []string
	for key, v := range f.Metadata.All() {
		w, ok := want.KV[key]
		if !ok {
			if !slices.Contains(g.MayAdd, strings.Replace(key, arch+".", "{arch}.", 1)) {
				t.Errorf("key %s should not be there", key)
			}
			continue
		}
		order = append(order, key)
		if got := describe(v); !slices.Contains(g.MayDiffer, key) && !reflect.DeepEqual(got, w) {
			t.Errorf("%s = %s, want %s", key, text(got), text(w))
		}
	}
	if !slices.Equal(order, want.KVOrder) {
		t.Errorf("keys %q\nwant %q", order, want.KVOrder)
	}
	if len(f.Tensors) != len(want.Tensors) {
		t.Fatalf("%d tensors, want %d", len(f.Tensors), len(want.Tensors))
	}
	for i, x := range f.Tensors {
		data := make([]byte, x.Size())
		if err := f.Rows(x).ReadRows(data, 0, x.Rows()); err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(data)
		got := text([]any{x.Name, x.Type.String(), x.Dims, hex.EncodeToString(sum[:])})
		if w := text(want.Tensors[i]); got != w {
			t.Errorf("tensor %d: %s\nwant %s", i, got, w)
		}
	}
}

func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(b)
}

// run converts in to a new file and returns its path.
func run(t *testing.T, opt Options) string {
	t.Helper()
	if opt.Out == "" {
		opt.Out = filepath.Join(t.TempDir(), "out.gguf")
	}
	p, err := NewPlan(opt)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	res, err := p.Run(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return res.Files[0]
}

const testdata = "../../testdata"

// TestGolden: metadata, order, types and bytes equal llama.cpp's.
func TestGolden(t *testing.T) {
	for _, model := range []string{"tiny", "micro"} {
		var g golden
		readGolden(t, filepath.Join(testdata, "golden", model+".convert.json"), &g)
		for _, outtype := range sorted(g.Outtypes) {
			t.Run(model+"/"+outtype, func(t *testing.T) {
				out := run(t, Options{In: filepath.Join(testdata, "models", model, "hf"), Outtype: outtype})
				compare(t, out, g.Outtypes[outtype], g)
			})
		}
	}
}

func sorted[T any](m map[string]T) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// TestFamilies compares the fixtures of all families, where they are at hand.
func TestFamilies(t *testing.T) {
	shared := os.Getenv("SMELT_SHARED")
	if shared == "" {
		shared = "../../../shared"
	}
	path := filepath.Join(shared, "golden", "families.json")
	if _, err := os.Stat(path); err != nil {
		t.Skipf("no fixtures: %v (SMELT_SHARED names the directory that holds them)", err)
	}
	if testing.Short() {
		t.Skip("short")
	}
	var g struct {
		golden
		Families map[string]struct {
			Dir, Base string
			Outtypes  map[string]goldenFile
		}
	}
	readGolden(t, path, &g)
	for _, name := range sorted(g.Families) {
		f := g.Families[name]
		for _, outtype := range sorted(f.Outtypes) {
			t.Run(name+"/"+outtype, func(t *testing.T) {
				opt := Options{In: filepath.Join(shared, "families", f.Dir), Outtype: outtype}
				if f.Base != "" {
					opt.Base = filepath.Join(shared, "families", f.Base)
				}
				compare(t, run(t, opt), f.Outtypes[outtype], g.golden)
			})
		}
	}
}

// TestForms: all forms of one set of weights give the same tensors.
func TestForms(t *testing.T) {
	want := map[string]string{}
	forms := []string{"hf", "hf-sharded", "hf-bin", "hf-bin-legacy", "meta-1", "meta-2"}
	for _, form := range forms {
		out := run(t, Options{In: filepath.Join(testdata, "models", "micro", form), Outtype: "f32"})
		f, err := gguf.Open(out)
		if err != nil {
			t.Fatal(err)
		}
		if len(want) > 0 && len(f.Tensors) != len(want) {
			t.Errorf("%s: %d tensors, want %d", form, len(f.Tensors), len(want))
		}
		first := len(want) == 0
		for _, x := range f.Tensors {
			data := make([]byte, x.Size())
			if err := f.Rows(x).ReadRows(data, 0, x.Rows()); err != nil {
				t.Fatal(err)
			}
			sum := text([]any{x.Dims, sha256.Sum256(data)})
			if first {
				want[x.Name] = sum
			} else if want[x.Name] != sum {
				t.Errorf("%s: tensor %s differs from %s's", form, x.Name, forms[0])
			}
		}
		f.Close()
	}
}

func TestSizeLabels(t *testing.T) {
	for n, want := range map[int64]string{
		348000: "348K", 2830000: "2.8M", 6738415616: "6.7B", 12e9: "12B", 999: "1.0K", 1.5e12: "1.5T", 9.96e9: "10B",
	} {
		if got := rounded(n); got != want {
			t.Errorf("%d parameters are %q, want %q", n, got, want)
		}
	}
	if got := (&paramCounts{shared: 1e9, expert: 6e9, experts: 8}).label(); got != "8x7.0B" {
		t.Errorf("8 experts: %q", got)
	}
}

func TestParseID(t *testing.T) {
	const b = 1_000_000_000
	for _, tt := range []struct {
		id     string
		params int64
		want   idParts
	}{
		{"", 0, idParts{}},
		{"A model of mine", 0, idParts{full: "A model of mine"}},
		{"meta-llama/Llama-2-7b-hf", 7 * b, idParts{"Llama-2-7b-hf", "meta-llama", "Llama-2", "hf", "", "7B"}},
		{"Mistral-7B-v0.1", 7 * b, idParts{"Mistral-7B-v0.1", "", "Mistral", "", "v0.1", "7B"}},
		{"Mixtral-8x7B-Instruct-v0.1", 46 * b, idParts{"Mixtral-8x7B-Instruct-v0.1", "", "Mixtral", "Instruct", "v0.1", "8x7B"}},
		{"Phi-3-mini-4k-instruct", 4 * b, idParts{"Phi-3-mini-4k-instruct", "", "Phi-3", "4k-instruct", "", "mini"}},
		{"bloom-7b1", 7 * b, idParts{"bloom-7b1", "", "bloom", "", "", "7.1B"}},
		{"gpt2", b, idParts{full: "gpt2"}},
		{"./somewhere", b, idParts{full: "somewhere"}},
	} {
		if got := parseID(tt.id, tt.params); got != tt.want {
			t.Errorf("%q: %+v, want %+v", tt.id, got, tt.want)
		}
	}
}

func TestTitle(t *testing.T) {
	for id, want := range map[string]string{
		"llama-2-7b-hf": "Llama 2 7b Hf", "Mistral-7B-v0.1": "Mistral 7B v0.1", "stablelm-2-1_6b": "Stablelm 2 1_6b", "o1don't": "O1Don'T",
	} {
		if got := title(id); got != want {
			t.Errorf("%q: %q, want %q", id, got, want)
		}
	}
}

// FuzzParseID takes any model id apart: parts of it, never a panic.
func FuzzParseID(f *testing.F) {
	for _, id := range []string{"meta-llama/Llama-2-7b-hf", "bloom-7b1", "a--b", "x-xl", "./y", "Mixtral-8x7B-Instruct-v0.1", "é-4k"} {
		f.Add(id, int64(7e9))
	}
	f.Fuzz(func(t *testing.T, id string, params int64) {
		p := parseID(id, params)
		if p.full != "" && !strings.HasSuffix(id, p.full) {
			t.Errorf("%q gives the name %q", id, p.full)
		}
		title(p.full)
	})
}
