package quantize_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/smeltgguf/smelt/formats/gguf"
	"github.com/smeltgguf/smelt/internal/convert"
	"github.com/smeltgguf/smelt/internal/imatrix"
	"github.com/smeltgguf/smelt/internal/quantize"
	"github.com/smeltgguf/smelt/internal/recipe"
	"github.com/smeltgguf/smelt/kernels"
	"github.com/smeltgguf/smelt/quant"
)

// golden is what llama.cpp v0.5.0 makes of tiny's F16 file.
type golden struct {
	Tensors [][]any // name, then dimensions
	FTypes  map[string]struct {
		Refused  bool
		FileType uint32 `json:"file_type"`
		Types    string // of the tensors, in order
		SHA256   string // the first half of each tensor's
		KV       map[string]any
	}
}

const matrix = "../../testdata/golden/tiny.imatrix.gguf"

func readGolden(t *testing.T) *golden {
	t.Helper()
	text, err := os.ReadFile("../../testdata/golden/tiny.quantize.json")
	if err != nil {
		t.Fatal(err)
	}
	var g golden
	if err := json.Unmarshal(text, &g); err != nil {
		t.Fatal(err)
	}
	return &g
}

// convertTo converts a model of testdata and returns the file.
func convertTo(t *testing.T, model, outtype string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "source.gguf")
	p, err := convert.NewPlan(convert.Options{In: filepath.Join("../../testdata/models", model), Out: path, Outtype: outtype})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := p.Run(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t *testing.T, path string) *gguf.File {
	t.Helper()
	f, err := gguf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func targets(t *testing.T, names ...string) []quantize.Target {
	t.Helper()
	var out []quantize.Target
	for _, n := range names {
		r, err := recipe.Find(n)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, quantize.Target{Recipe: r})
	}
	return out
}

// TestGolden quantizes tiny to all types, with and without an importance
// matrix, each time in one pass.
func TestGolden(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	g := readGolden(t)
	src := quantize.FromGGUF(open(t, convertTo(t, "tiny/hf", "f16")))
	im, err := imatrix.Open(matrix)
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, suffix := range []string{"", "+imatrix"} {
		opt := quantize.Options{}
		if suffix != "" {
			opt.Imatrix, opt.ImatrixFile = im, matrix
		}
		var names []string
		for name, want := range g.FTypes {
			ftype, ok := strings.CutSuffix(name, "+imatrix")
			if ok != (suffix != "") {
				continue
			}
			checked++
			if !want.Refused {
				names = append(names, ftype)
				continue
			}
			opt := opt
			opt.Targets = targets(t, ftype)
			if _, err := quantize.New(src, opt); err == nil || !strings.Contains(err.Error(), "needs an importance matrix") {
				t.Errorf("%s: error %v", name, err)
			}
		}
		opt.Targets = targets(t, names...)
		p, err := quantize.New(src, opt)
		if err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(t.TempDir(), "{FTYPE}.gguf")
		if _, err := p.Run(context.Background(), quantize.RunOptions{Out: out}); err != nil {
			t.Fatal(err)
		}
		for i, name := range names {
			want := g.FTypes[name+suffix]
			f := open(t, p.Paths(i, out)[0])
			var types, sums []string
			for k, ten := range f.Tensors {
				if got, want := fmt.Sprint(ten.Name, ten.Dims), fmt.Sprint(g.Tensors[k][0], g.Tensors[k][1:]); got != want {
					t.Errorf("%s: tensor %d is %s, want %s", name+suffix, k, got, want)
				}
				types = append(types, ten.Type.String())
				sums = append(sums, sum(t, f, ten))
			}
			wantTypes, wantSums := strings.Fields(want.Types), strings.Fields(want.SHA256)
			if len(types) != len(wantTypes) {
				t.Fatalf("%s: %d tensors, want %d", name+suffix, len(types), len(wantTypes))
			}
			for k := range types {
				if types[k] != wantTypes[k] {
					t.Errorf("%s: %s is %s, want %s", name+suffix, f.Tensors[k].Name, types[k], wantTypes[k])
				} else if sums[k] != wantSums[k] {
					t.Errorf("%s: %s (%s) has other bytes", name+suffix, f.Tensors[k].Name, types[k])
				}
			}
			if n, err := f.Metadata.Uint("general.file_type"); err != nil || n != uint64(want.FileType) {
				t.Errorf("%s: file type %d, %v; want %d", name+suffix, n, err, want.FileType)
			}
			for key, v := range want.KV {
				if got, _ := f.Metadata.Get(key); fmt.Sprint(got) != fmt.Sprint(v) {
					t.Errorf("%s: %s is %v, want %v", name+suffix, key, got, v)
				}
			}
		}
	}
	if checked != 68 {
		t.Errorf("%d entries checked", checked)
	}
}

// sum returns the first half of the SHA-256 of a tensor's bytes.
func sum(t *testing.T, f *gguf.File, ten *gguf.Tensor) string {
	t.Helper()
	b := make([]byte, ten.Size())
	if err := f.Rows(ten).ReadRows(b, 0, ten.Rows()); err != nil {
		t.Fatal(err)
	}
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:16])
}

// TestGoldenTypes encodes the smallest tensor there is of each type, with and
// without an importance matrix. It is what TestGolden shows of an encoder, in a
// time that an emulator has for it.
func TestGoldenTypes(t *testing.T) {
	g := readGolden(t)
	f := open(t, convertTo(t, "tiny/hf", "f16"))
	im, err := imatrix.Open(matrix)
	if err != nil {
		t.Fatal(err)
	}
	type variant struct {
		typ      string
		weighted bool
	}
	type example struct {
		tensor *gguf.Tensor
		sum    string
	}
	smallest := map[variant]example{}
	for _, name := range slices.Sorted(maps.Keys(g.FTypes)) {
		want := g.FTypes[name]
		sums := strings.Fields(want.SHA256)
		for k, typ := range strings.Fields(want.Types) {
			v := variant{typ, strings.HasSuffix(name, "+imatrix")}
			ten := f.Tensor(fmt.Sprint(g.Tensors[k][0]))
			if ten.Type != quant.F16 || im.Entry(ten.Name) == nil {
				continue // norms, and what the matrix does not have
			}
			if old, ok := smallest[v]; !ok || ten.Size() < old.tensor.Size() {
				smallest[v] = example{ten, sums[k]}
			}
		}
	}
	if len(smallest) != 46 {
		t.Errorf("%d types", len(smallest))
	}
	for v, want := range smallest {
		ten := want.tensor
		typ, err := quant.ParseType(v.typ)
		if err != nil {
			t.Fatal(err)
		}
		half := make([]byte, ten.Size())
		if err := f.Rows(ten).ReadRows(half, 0, ten.Rows()); err != nil {
			t.Fatal(err)
		}
		cols := int(ten.Dims[0])
		row, block, sum := make([]float32, cols), make([]byte, typ.RowSize(cols)), sha256.New()
		var importance []float32
		if v.weighted {
			importance = im.Entry(ten.Name).Values()
		}
		for ; len(half) > 0; half = half[2*cols:] {
			kernels.F16ToF32(row, half[:2*cols])
			kernels.EncodeRow(typ, block, row, importance)
			sum.Write(block)
		}
		if got := hex.EncodeToString(sum.Sum(nil)[:16]); got != want.sum {
			t.Errorf("%s as %s, with importance %v: other bytes", ten.Name, v.typ, v.weighted)
		}
	}
}

// TestFromCheckpoint compares quantizing a checkpoint in one pass with doing
// so by way of a GGUF file.
func TestFromCheckpoint(t *testing.T) {
	for _, model := range []string{"micro/hf", "micro/hf-bin", "micro/meta-2"} {
		for _, outtype := range []string{"auto", "f32", "bf16"} {
			opt := quantize.Options{Targets: targets(t, "q4_k_m", "q5_0")}
			want := run(t, convertTo(t, model, outtype), opt, quantize.RunOptions{})
			c, err := convert.NewPlan(convert.Options{In: filepath.Join("../../testdata/models", model), Out: t.TempDir(), Outtype: outtype})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			p, err := quantize.New(c.Source(), opt)
			if err != nil {
				t.Fatal(err)
			}
			res, err := p.Run(context.Background(), quantize.RunOptions{Out: filepath.Join(t.TempDir(), "out-{ftype}.gguf")})
			if err != nil {
				t.Fatal(err)
			}
			for _, paths := range res.Paths {
				got, err := os.ReadFile(paths[0])
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got, want[filepath.Base(paths[0])]) {
					t.Errorf("%s %s: %s differs", model, outtype, filepath.Base(paths[0]))
				}
			}
		}
	}
}
