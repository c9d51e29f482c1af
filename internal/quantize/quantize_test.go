package quantize_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/smeltgguf/smelt/formats/gguf"
	"github.com/smeltgguf/smelt/internal/imatrix"
	"github.com/smeltgguf/smelt/internal/quantize"
	"github.com/smeltgguf/smelt/internal/quanttest"
	"github.com/smeltgguf/smelt/internal/recipe"
	"github.com/smeltgguf/smelt/internal/stream"
	"github.com/smeltgguf/smelt/quant"
)

// shape is a tensor of a made model.
type shape struct {
	name string
	typ  quant.Type
	dims []uint64
}

// makeModel writes a model of random weights, small in size and large enough
// for several work units.
func makeModel(t *testing.T, arch string, keys map[string]any, shapes []shape, change func(name string, x []float32)) string {
	t.Helper()
	meta := gguf.NewMetadata()
	meta.Set("general.architecture", arch)
	meta.Set("general.file_type", uint32(1))
	for _, k := range slices.Sorted(func(yield func(string) bool) {
		for k := range keys {
			if !yield(k) {
				return
			}
		}
	}) {
		meta.Set(k, keys[k])
	}
	meta.Set("tokenizer.ggml.tokens", []string{"a", "b"})
	var ts []*gguf.Tensor
	for _, s := range shapes {
		ts = append(ts, &gguf.Tensor{Name: s.name, Type: s.typ, Dims: s.dims})
	}
	l, err := gguf.Plan(meta, ts)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, l.Size)
	copy(b, l.Header)
	r := quanttest.Rand(1)
	for i, ten := range l.Tensors {
		x := make([]float32, ten.Elems())
		for k := range x {
			x[k] = r.Bell()
		}
		if change != nil {
			change(ten.Name, x)
		}
		for row := range ten.Rows() {
			n, size := ten.RowLen(), ten.Type.RowSize(ten.RowLen())
			quant.Encode(ten.Type, b[int(l.Offset(i))+row*size:][:size], x[row*n:][:n], nil)
		}
	}
	path := filepath.Join(t.TempDir(), "model.gguf")
	if err := os.WriteFile(path, b, 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

// dense are the tensors of a model with the given number of layers.
func dense(layers int, typ quant.Type) []shape {
	out := []shape{
		{"token_embd.weight", typ, []uint64{256, 96}},
		{"output_norm.weight", quant.F32, []uint64{256}},
		{"output.weight", typ, []uint64{256, 96}},
	}
	for i := range layers {
		b := fmt.Sprintf("blk.%d.", i)
		out = append(out,
			shape{b + "attn_norm.weight", quant.F32, []uint64{256}},
			shape{b + "attn_q.weight", typ, []uint64{256, 256}},
			shape{b + "attn_k.weight", typ, []uint64{256, 128}},
			shape{b + "attn_v.weight", typ, []uint64{256, 128}},
			shape{b + "attn_output.weight", typ, []uint64{256, 256}},
			shape{b + "ffn_gate.weight", typ, []uint64{256, 96, 1}},
			shape{b + "ffn_down.weight", typ, []uint64{96, 256}},
		)
	}
	return out
}

func llamaKeys(layers int) map[string]any {
	return map[string]any{
		"llama.block_count": uint32(layers), "llama.attention.head_count": uint32(8), "llama.attention.head_count_kv": uint32(4),
	}
}

// plan opens a model and plans its quantization.
func plan(t *testing.T, path string, opt quantize.Options) (*quantize.Plan, error) {
	t.Helper()
	return quantize.New(quantize.FromGGUF(open(t, path)), opt)
}

// run quantizes, and returns the contents of all files made.
func run(t *testing.T, path string, opt quantize.Options, ro quantize.RunOptions) map[string][]byte {
	t.Helper()
	p, err := plan(t, path, opt)
	if err != nil {
		t.Fatal(err)
	}
	if ro.Out == "" {
		ro.Out = filepath.Join(t.TempDir(), "out-{ftype}.gguf")
	}
	res, err := p.Run(context.Background(), ro)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for _, paths := range res.Paths {
		for _, path := range paths {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			files[filepath.Base(path)] = b
		}
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(ro.Out), ".*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
	return files
}

func readBack(t *testing.T, b []byte) *gguf.File {
	t.Helper()
	f, err := gguf.NewFile(bytes.NewReader(b), int64(len(b)), "out")
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestOnePass compares several outputs of one pass, at several numbers of
// threads, with one output at a time.
func TestOnePass(t *testing.T) {
	path := makeModel(t, "llama", llamaKeys(3), dense(3, quant.F16), nil)
	names := []string{"Q4_K_M", "Q5_K_M", "Q8_0", "Q4_0"}
	want := map[string][]byte{}
	for _, n := range names {
		for name, b := range run(t, path, quantize.Options{Targets: targets(t, n)}, quantize.RunOptions{Threads: 1}) {
			want[name] = b
		}
	}
	if len(want) != 4 || want["out-q4_k_m.gguf"] == nil {
		t.Fatal("outputs are not named after their types")
	}
	for _, threads := range []int{1, 2, 3, 7} {
		got := run(t, path, quantize.Options{Targets: targets(t, names...)}, quantize.RunOptions{Threads: threads})
		for name := range want {
			if !bytes.Equal(got[name], want[name]) {
				t.Errorf("%d threads: %s differs", threads, name)
			}
		}
	}
	p, err := plan(t, path, quantize.Options{Targets: targets(t, names...)})
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Run(context.Background(), quantize.RunOptions{Out: filepath.Join(t.TempDir(), "x.gguf")})
	if err == nil || !strings.Contains(err.Error(), "two outputs have this name") {
		t.Errorf("error %v", err)
	}
}

func TestMetadata(t *testing.T) {
	path := makeModel(t, "llama", llamaKeys(2), dense(2, quant.F16), nil)
	im := imatrix.New()
	im.Chunks, im.Datasets = 9, []string{strings.Repeat("ä", 100)}
	im.Set("blk.0.attn_q.weight", &imatrix.Entry{Sums: make([]float32, 256), Counts: []float32{1}})
	im.Set("other", &imatrix.Entry{Sums: []float32{1}, Counts: []float32{1}})
	files := run(t, path, quantize.Options{
		Targets: targets(t, "q8_0"), Imatrix: im, ImatrixFile: "/home/someone/matrix.dat", Exclude: []string{"oth"},
		OverrideKV: []quantize.KV{{Key: "general.file_type", Value: uint32(99)}, {Key: "x", Value: "y"}, {Key: "general.architecture", Value: "llama"}},
	}, quantize.RunOptions{})
	f := readBack(t, files["out-q8_0.gguf"])
	var got [][]any
	for k, v := range f.Metadata.All() {
		got = append(got, []any{k, v})
	}
	want := [][]any{
		{"llama.attention.head_count", uint32(8)},
		{"llama.attention.head_count_kv", uint32(4)},
		{"llama.block_count", uint32(2)},
		{"tokenizer.ggml.tokens", []string{"a", "b"}},
		{"general.quantization_version", uint32(2)},
		{"general.file_type", uint32(99)},
		{"x", "y"},
		{"general.architecture", "llama"},
		{"quantize.imatrix.file", "matrix.dat"},
		{"quantize.imatrix.dataset", strings.Repeat("ä", 63)},
		{"quantize.imatrix.entries_count", uint32(1)},
		{"quantize.imatrix.chunks_count", uint32(9)},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	var names []string
	for _, ten := range f.Tensors {
		names = append(names, ten.Name)
	}
	if !slices.IsSortedFunc(names, recipe.Compare) || len(names) != 17 {
		t.Errorf("order of tensors: %q", names)
	}
	if d := f.Tensor("blk.0.ffn_gate.weight").Dims; len(d) != 2 {
		t.Errorf("a last dimension of 1 is written: %v", d)
	}
}

func TestCopy(t *testing.T) {
	path := makeModel(t, "llama", llamaKeys(1), dense(1, quant.Q8_0)[:8], nil)
	src := open(t, path)
	f := readBack(t, run(t, path, quantize.Options{Targets: []quantize.Target{{}}}, quantize.RunOptions{})["out-copy.gguf"])
	if n, err := f.Metadata.Uint("general.file_type"); err != nil || n != 1 {
		t.Errorf("file type %d, %v", n, err)
	}
	for _, ten := range src.Tensors {
		if c := f.Tensor(ten.Name); c == nil || c.Type != ten.Type || sum(t, f, c) != sum(t, src, ten) {
			t.Errorf("%s is not copied", ten.Name)
		}
	}
}

func TestPrune(t *testing.T) {
	path := makeModel(t, "llama", llamaKeys(4), dense(4, quant.F16), nil)
	src := open(t, path)
	f := readBack(t, run(t, path, quantize.Options{Targets: targets(t, "f16"), Prune: []int{1, 2}}, quantize.RunOptions{})["out-f16.gguf"])
	if n, err := f.Metadata.Uint("llama.block_count"); err != nil || n != 2 {
		t.Errorf("%d layers, %v", n, err)
	}
	if len(f.Tensors) != 17 {
		t.Errorf("%d tensors", len(f.Tensors))
	}
	for from, to := range map[string]string{"blk.0.attn_q.weight": "blk.0.attn_q.weight", "blk.3.attn_q.weight": "blk.1.attn_q.weight"} {
		if sum(t, src, src.Tensor(from)) != sum(t, f, f.Tensor(to)) {
			t.Errorf("%s is not %s", to, from)
		}
	}
	if _, err := plan(t, path, quantize.Options{Targets: targets(t, "f16"), Prune: []int{4}}); err == nil || !strings.Contains(err.Error(), "no layer 4 to prune") {
		t.Errorf("error %v", err)
	}
}

// TestKeepSplit quantizes a model of three parts, the first without tensors.
func TestKeepSplit(t *testing.T) {
	whole := open(t, makeModel(t, "llama", llamaKeys(2), dense(2, quant.F16), nil))
	dir := t.TempDir()
	layouts, err := gguf.PlanSplit(whole.Metadata, whole.Tensors, gguf.SplitOptions{MaxTensors: 9, NoTensorFirst: true})
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range layouts {
		b := make([]byte, l.Size)
		copy(b, l.Header)
		for k, ten := range l.Tensors {
			w := whole.Tensor(ten.Name)
			if err := whole.Rows(w).ReadRows(b[l.Offset(k):][:w.Size()], 0, w.Rows()); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(gguf.SplitName(filepath.Join(dir, "in.gguf"), i, len(layouts)), b, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	in := gguf.SplitName(filepath.Join(dir, "in.gguf"), 0, len(layouts))
	out := filepath.Join(dir, "out.gguf")
	run(t, in, quantize.Options{Targets: targets(t, "q8_0"), KeepSplit: true}, quantize.RunOptions{Out: out})
	got, want := open(t, gguf.SplitName(out, 1, 3)), open(t, in)
	if len(got.Paths()) != 3 || len(got.Tensors) != len(want.Tensors) {
		t.Fatalf("%d parts of %d tensors", len(got.Paths()), len(got.Tensors))
	}
	for i, ten := range got.Tensors {
		if w := want.Tensors[i]; ten.Name != w.Name || got.Part(ten) != want.Part(w) {
			t.Errorf("tensor %d is %s in part %d, want %s in %d", i, ten.Name, got.Part(ten), w.Name, want.Part(w))
		}
	}
	// Without the option the parts are joined.
	f := readBack(t, run(t, in, quantize.Options{Targets: targets(t, "q8_0")}, quantize.RunOptions{})["out-q8_0.gguf"])
	if _, ok := f.Metadata.Get("split.count"); ok || len(f.Tensors) != len(want.Tensors) {
		t.Error("split keys, or tensors missing")
	}
}

// TestNotes checks that every request without effect is told, and refused when
// strict.
func TestNotes(t *testing.T) {
	path := makeModel(t, "llama", llamaKeys(2), dense(2, quant.F16), nil)
	im := imatrix.New()
	for _, s := range dense(2, quant.F16) {
		if len(s.dims) > 1 {
			im.Set(s.name, entry(int(s.dims[0]), 1))
		}
	}
	override := func(exprs ...string) (out []recipe.Override) {
		for _, e := range exprs {
			out = append(out, recipe.Override{Pattern: pattern(e), Type: quant.Q4_0})
		}
		return out
	}
	kv, err := quantize.ParseKV("x=int:-5")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		target string // "" copies
		opt    quantize.Options
		want   []string
	}{
		{"q8_0", quantize.Options{Pure: true, LeaveOutput: true, Overrides: override("attn_q", "attn"), EmbdType: typ(quant.Q5_0)}, nil},
		{"q8_0", quantize.Options{Overrides: override("attn", "attn_q")}, []string{`--tensor-type "attn_q=Q4_0" chooses for no tensor`}},
		{"f16", quantize.Options{Overrides: override("attn_q")}, []string{`--tensor-type "attn_q=Q4_0" chooses for no tensor`}},
		{"", quantize.Options{Overrides: override("attn_q"), OutputType: typ(quant.Q8_0), EmbdType: typ(quant.F16), Pure: true}, []string{
			"--pure has no effect: tensors are copied", "--output-tensor-type Q8_0 chooses for no tensor",
			"--token-embedding-type F16 chooses for no tensor", `--tensor-type "attn_q=Q4_0" chooses for no tensor`,
		}},
		{"", quantize.Options{Imatrix: im}, []string{"--imatrix has no effect: no tensor is quantized"}},
		{"q8_0", quantize.Options{Include: []string{"a"}}, []string{"--include-weights and --exclude-weights have no effect without --imatrix"}},
		{"q8_0", quantize.Options{Imatrix: im, Include: []string{"weight", "atn"}}, []string{`--include-weights "atn" matches no entry of the importance matrix`}},
		{"q8_0", quantize.Options{OverrideKV: []quantize.KV{kv}}, []string{`--override-kv "x": negative numbers are written without their sign, as 5`}},
		{"q8_0", quantize.Options{OverrideKV: []quantize.KV{{Key: "x", Value: uint32(1)}, {Key: "x", Value: uint32(2)}}}, []string{`--override-kv "x" is given twice: the last counts`}},
		{"q8_0", quantize.Options{Notes: []string{"the caller's"}}, []string{"the caller's"}},
	} {
		tt.opt.Targets = []quantize.Target{{}}
		if tt.target != "" {
			tt.opt.Targets = targets(t, tt.target)
		}
		p, err := plan(t, path, tt.opt)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(tt.want, p.Summarize(0, nil).Notes); d != "" {
			t.Errorf("%s: %s", tt.target, d)
		}
		tt.opt.Strict = true
		if _, err := plan(t, path, tt.opt); len(tt.want) > 0 && (err == nil || !strings.Contains(err.Error(), tt.want[0])) {
			t.Errorf("%s: strict: error %v, want %q", tt.target, err, tt.want[0])
		}
	}
	// Without an output tensor there is none to leave.
	tied := makeModel(t, "llama", llamaKeys(1), slices.DeleteFunc(dense(1, quant.F16), func(s shape) bool { return s.name == "output.weight" }), nil)
	if p, err := plan(t, tied, quantize.Options{Targets: targets(t, "q8_0"), LeaveOutput: true}); err != nil || len(p.Outputs[0].Notes) != 1 {
		t.Errorf("%v, error %v", p.Outputs[0].Notes, err)
	}
}

func typ(t quant.Type) *quant.Type { return &t }

func pattern(expr string) *recipe.Pattern {
	p, err := recipe.ParsePattern(expr)
	if err != nil {
		panic(err)
	}
	return p
}

// entry is an importance entry of n values, each v.
func entry(n int, v float32) *imatrix.Entry {
	e := &imatrix.Entry{Sums: make([]float32, n), Counts: []float32{1}}
	for i := range e.Sums {
		e.Sums[i] = v
	}
	return e
}

func TestRefusals(t *testing.T) {
	f16 := makeModel(t, "llama", llamaKeys(2), dense(2, quant.F16), nil)
	q8 := makeModel(t, "llama", llamaKeys(2), dense(2, quant.Q8_0), nil)
	f64 := makeModel(t, "llama", llamaKeys(1), []shape{{"blk.0.attn_q.weight", quant.F32, []uint64{256, 2}}}, nil)
	b, err := os.ReadFile(f64)
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.LastIndex(b, []byte("attn_q.weight")) + len("attn_q.weight") + 4 + 16
	binary.LittleEndian.PutUint32(b[i:], uint32(quant.I32))
	if err := os.WriteFile(f64, b, 0o666); err != nil {
		t.Fatal(err)
	}
	badCount := makeModel(t, "llama", map[string]any{"llama.block_count": "many"}, dense(1, quant.F16), nil)
	matrix := func(name string, n int) *imatrix.Matrix {
		m := imatrix.New()
		m.Set(name, entry(n, 1))
		return m
	}
	odd := makeModel(t, "llama", llamaKeys(1), []shape{
		{"output.weight", quant.F16, []uint64{96, 64}}, {"blk.0.attn_q.weight", quant.F16, []uint64{96, 96}},
	}, nil)
	two := matrix("blk.0.attn_q.weight", 7)
	two.Set("blk.0.attn_k.weight", entry(256, 1))
	for _, tt := range []struct {
		name, path, target string
		opt                quantize.Options
		want               string
	}{
		{"requantize", q8, "q4_k_m", quantize.Options{}, `Q4_K_M: tensor "output.weight": is Q8_0 already`},
		{"requantize allowed", q8, "q4_k_m", quantize.Options{AllowRequantize: true}, ""},
		{"same type", q8, "q8_0", quantize.Options{Pure: true, Overrides: []recipe.Override{}}, ""},
		{"integers", f64, "q4_0", quantize.Options{AllowRequantize: true}, `Q4_0: tensor "blk.0.attn_q.weight": I32 cannot be quantized`},
		{"strict", f16, "q4_k_m", quantize.Options{Strict: true}, `tensor "blk.0.ffn_down.weight": Q4_K does not fit (row of 96 is not a multiple of 256), Q5_0 would stand in`},
		{"strict without reason", f16, "q8_0", quantize.Options{Strict: true}, ""},
		{"strict, missing importance", f16, "q8_0", quantize.Options{Strict: true, Imatrix: matrix("blk.0.attn_q.weight", 256)}, `tensor "blk.0.attn_k.weight": the importance matrix has no entry`},
		{"no matrix", f16, "iq2_xs", quantize.Options{}, `tensor "blk.0.attn_k.weight": IQ2_XS needs an importance matrix`},
		{"no matrix, dry run", f16, "iq2_xs", quantize.Options{DryRun: true}, ""},
		{"no entry", f16, "iq2_xs", quantize.Options{Imatrix: matrix("blk.0.attn_q.weight", 256)}, "IQ2_XS needs importance, and the matrix has no entry"},
		{"no matrix, embeddings", f16, "q4_0", quantize.Options{EmbdType: typ(quant.IQ1_S)}, `tensor "token_embd.weight": IQ1_S needs an importance matrix`},
		{"no matrix, output", f16, "q4_0", quantize.Options{OutputType: typ(quant.IQ2_XXS)}, `tensor "output.weight": IQ2_XXS needs an importance matrix`},
		{"no entry, output, pure", f16, "iq2_xs", quantize.Options{Pure: true, Imatrix: matrix("token_embd.weight", 256)}, `tensor "output.weight": IQ2_XS needs importance, and the matrix has no entry`},
		{"no entry, embeddings, override", f16, "q4_0", quantize.Options{
			Overrides: []recipe.Override{{Pattern: pattern("token_embd"), Type: quant.IQ2_XS}}, Imatrix: matrix("blk.0.attn_q.weight", 256),
		}, `tensor "token_embd.weight": IQ2_XS needs importance, and the matrix has no entry`},
		{"wrong size of embeddings that need it", f16, "q4_0", quantize.Options{EmbdType: typ(quant.IQ1_S), Imatrix: matrix("token_embd.weight", 7)}, "its importance has 7 values, the tensor wants 256 x 1"},
		{"IQ1_M output without matrix", f16, "q4_0", quantize.Options{OutputType: typ(quant.IQ1_M)}, ""},
		{"entry left out", f16, "q8_0", quantize.Options{
			Imatrix: two, Include: []string{"attn_k"},
		}, ""},
		{"include matches nothing", f16, "q8_0", quantize.Options{Imatrix: two, Include: []string{"atn_k"}}, "--include-weights matches no entry"},
		{"exclude leaves nothing", f16, "q8_0", quantize.Options{Imatrix: two, Exclude: []string{"attn"}}, "--exclude-weights leaves no entry"},
		{"empty matrix", f16, "q8_0", quantize.Options{Imatrix: imatrix.New()}, "the importance matrix has no entries"},
		{"wrong size", f16, "q8_0", quantize.Options{Imatrix: matrix("blk.0.attn_q.weight", 7)}, "its importance has 7 values, the tensor wants 256 x 1"},
		{"wrong size of embeddings", f16, "q8_0", quantize.Options{Imatrix: matrix("token_embd.weight", 7)}, ""},
		{"alignment", f16, "q8_0", quantize.Options{OverrideKV: []quantize.KV{{Key: "general.alignment", Value: uint32(7)}}}, f16 + ": Q8_0: alignment must be"},
		{"no layer left", f16, "q8_0", quantize.Options{Prune: []int{0, 1}}, "pruning leaves no layer"},
		{"strict, output of odd rows", odd, "q5_0", quantize.Options{Strict: true}, `tensor "output.weight": Q6_K does not fit (row of 96 is not a multiple of 256), Q8_0 would stand in for it`},
		{"strict, output of odd rows, by rule", odd, "q4_k_s", quantize.Options{Strict: true, Overrides: []recipe.Override{{Pattern: pattern("attn"), Type: quant.Q8_0}}}, `tensor "output.weight": Q6_K does not fit (row of 96 is not a multiple of 256), Q8_0 would stand in for it`},
		{"layers", badCount, "q8_0", quantize.Options{}, "llama.block_count: want"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.opt.Targets = targets(t, tt.target)
			_, err := plan(t, tt.path, tt.opt)
			if tt.want == "" {
				if err != nil {
					t.Error(err)
				}
			} else if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

func TestNonfinite(t *testing.T) {
	path := makeModel(t, "llama", llamaKeys(1), dense(1, quant.F16), func(name string, x []float32) {
		if name == "blk.0.attn_k.weight" {
			x[300], x[17] = float32(math.Inf(-1)), float32(math.NaN())
		}
	})
	for _, target := range []string{"q4_k_m", "f16"} {
		p, err := plan(t, path, quantize.Options{Targets: targets(t, target)})
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		_, err = p.Run(context.Background(), quantize.RunOptions{Out: filepath.Join(dir, "x.gguf")})
		var nf *stream.NonfiniteError
		if !errors.As(err, &nf) || nf.Tensor != "blk.0.attn_k.weight" || nf.First != 17 || nf.NaN != 1 || nf.Inf != 1 {
			t.Errorf("%s: error %v", target, err)
		}
		if err != nil && !strings.HasPrefix(err.Error(), path+`: tensor "blk.0.attn_k.weight": 1 NaN, 1 infinite, first at 17`) {
			t.Errorf("%s: error %v", target, err)
		}
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("%s: %v left behind", target, left)
		}
	}
}

// TestNonfiniteFigures checks that what is measured of weights that are no
// numbers can be written as JSON.
func TestNonfiniteFigures(t *testing.T) {
	path := makeModel(t, "llama", llamaKeys(1), dense(1, quant.F16), func(name string, x []float32) {
		switch name {
		case "blk.0.attn_k.weight":
			x[300] = float32(math.NaN())
		case "blk.0.attn_q.weight":
			x[300] = float32(math.Inf(1))
		}
	})
	p, err := plan(t, path, quantize.Options{Targets: targets(t, "q8_0")})
	if err != nil {
		t.Fatal(err)
	}
	res, err := p.Run(context.Background(), quantize.RunOptions{Out: filepath.Join(t.TempDir(), "x.gguf"), Measure: true, AllowNonfinite: true})
	if err != nil {
		t.Fatal(err)
	}
	s := p.Summarize(0, res)
	if w := s.Worst(2); len(w) != 2 || w[0].Name != "blk.0.attn_k.weight" || w[1].Name != "blk.0.attn_q.weight" {
		t.Errorf("worst: %+v", w)
	}
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(b, []byte(`"rmse":null,"relative_rmse":null`)) {
		t.Errorf("no null in %s", b)
	}
}

func TestOutputs(t *testing.T) {
	path := makeModel(t, "llama", llamaKeys(1), dense(1, quant.F16), nil)
	p, err := plan(t, path, quantize.Options{Targets: targets(t, "q8_0")})
	if err != nil {
		t.Fatal(err)
	}
	for out, want := range map[string]string{
		"":                                    "empty output name",
		t.TempDir():                           "is a directory",
		t.TempDir() + "/":                     "is a directory",
		filepath.Join(t.TempDir(), "no", "x"): "no directory for it",
		filepath.Join(path, "x"):              "not a directory",
		path:                                  "output is an input",
	} {
		for _, resume := range []bool{false, true} {
			_, err := p.Run(context.Background(), quantize.RunOptions{Out: out, Resume: resume, Force: true})
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%q: error %v, want %q", out, err, want)
			}
		}
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Errorf("left beside the input: %v", left)
	}
}

// TestExperts checks that each expert gets its own importance.
func TestExperts(t *testing.T) {
	keys := llamaKeys(1)
	keys["llama.expert_count"] = uint32(2)
	const n, rows = 256, 8
	path := makeModel(t, "llama", keys, []shape{{"blk.0.ffn_down_exps.weight", quant.F16, []uint64{n, rows, 2}}}, nil)
	im := imatrix.New()
	e := &imatrix.Entry{Sums: make([]float32, 2*n), Counts: []float32{1, 0}}
	for i := range n {
		e.Sums[i] = float32(i % 7)
	}
	im.Set("blk.0.ffn_down_exps.weight", e)
	f := readBack(t, run(t, path, quantize.Options{Targets: targets(t, "q4_k_s"), Imatrix: im, Pure: true}, quantize.RunOptions{})["out-q4_k_s.gguf"])
	src := open(t, path)
	raw := make([]byte, 2*rows*n*2)
	if err := src.Rows(src.Tensors[0]).ReadRows(raw, 0, 2*rows); err != nil {
		t.Fatal(err)
	}
	x := make([]float32, 2*rows*n)
	quant.Decode(quant.F16, x, raw)
	ones := slices.Repeat([]float32{1}, n)
	want := make([]byte, 2*rows*quant.Q4_K.RowSize(n))
	for r := range 2 * rows {
		imp := e.Sums[:n]
		if r >= rows {
			imp = ones
		}
		quant.Encode(quant.Q4_K, want[r*quant.Q4_K.RowSize(n):][:quant.Q4_K.RowSize(n)], x[r*n:][:n], imp)
	}
	got := make([]byte, len(want))
	if err := f.Rows(f.Tensors[0]).ReadRows(got, 0, 2*rows); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("experts are not quantized with their own importance")
	}
}

func TestSummary(t *testing.T) {
	path := makeModel(t, "llama", llamaKeys(1), dense(1, quant.F16), nil)
	im := imatrix.New()
	im.Set("blk.0.attn_q.weight", entry(256, 1))
	im.Set("token_embd.weight", entry(7, 1))
	p, err := plan(t, path, quantize.Options{Targets: targets(t, "q4_k_s"), Imatrix: im})
	if err != nil {
		t.Fatal(err)
	}
	res, err := p.Run(context.Background(), quantize.RunOptions{Out: filepath.Join(t.TempDir(), "x.gguf"), Measure: true})
	if err != nil {
		t.Fatal(err)
	}
	s := p.Summarize(0, res)
	if s.Importance.String() != "1 tensors with, 6 without, 1 of the wrong size" {
		t.Errorf("importance: %v", s.Importance)
	}
	wantSubst := []quantize.Substitution{{Tensor: "blk.0.ffn_down.weight", Wanted: "Q4_K", Got: "Q5_0", Reason: "row of 96 is not a multiple of 256"}}
	if d := cmp.Diff(wantSubst, s.Substitutions); d != "" {
		t.Error(d)
	}
	params, size := 2*96*256+2*256+2*256*256+2*128*256+2*96*256, int64(0)
	n := 0
	for _, c := range s.Types {
		size += c.Bytes
		n += c.Tensors
	}
	if s.Parameters != uint64(params) || s.Bytes != size || n != 10 || math.Abs(s.BitsPerWeight-float64(size)*8/float64(params)) > 1e-12 {
		t.Errorf("%+v", s)
	}
	// The errors are those between the files' values.
	src, out := open(t, path), open(t, res.Paths[0][0])
	for _, e := range s.Tensors {
		x, y := values(t, src, e.Name), values(t, out, e.Name)
		var square, xx, yy, xy, worst float64
		for i := range x {
			d := float64(x[i]) - float64(y[i])
			square += d * d
			worst = max(worst, math.Abs(d))
			xx += float64(x[i]) * float64(x[i])
			yy += float64(y[i]) * float64(y[i])
			xy += float64(x[i]) * float64(y[i])
		}
		if e.Type == e.From {
			if e.Measured != 0 || square != 0 {
				t.Errorf("%s: copied, but %+v", e.Name, e)
			}
			continue
		}
		for _, c := range []struct {
			what      string
			got, want float64
		}{
			{"RMSE", float64(e.RMSE), math.Sqrt(square / float64(len(x)))},
			{"relative RMSE", float64(e.Relative), math.Sqrt(square / xx)},
			{"largest error", float64(e.MaxAbs), worst},
			{"cosine", float64(e.Cosine), xy / math.Sqrt(xx*yy)},
			{"SNR", float64(e.SNR), 10 * math.Log10(xx/square)},
		} {
			if math.Abs(c.got-c.want) > 1e-6*math.Abs(c.want) {
				t.Errorf("%s: %s %g, want %g", e.Name, c.what, c.got, c.want)
			}
		}
	}
	if w := s.Worst(2); len(w) != 2 || w[0].Relative < w[1].Relative {
		t.Errorf("worst: %+v", w)
	}
}

func values(t *testing.T, f *gguf.File, name string) []float32 {
	t.Helper()
	ten := f.Tensor(name)
	raw := make([]byte, ten.Size())
	if err := f.Rows(ten).ReadRows(raw, 0, ten.Rows()); err != nil {
		t.Fatal(err)
	}
	x := make([]float32, ten.Elems())
	quant.Decode(ten.Type, x, raw)
	return x
}

func TestParseKV(t *testing.T) {
	for s, want := range map[string]any{
		"a.b=int:-5": uint32(5), "general.architecture=str:x": "x", "a.b=float:1.5": float32(1.5), "a.b=bool:true": true, "a.b=str:x=y:z": "x=y:z", "a.b=str:": "",
	} {
		if kv, err := quantize.ParseKV(s); err != nil || kv.Key != s[:strings.Index(s, "=")] || kv.Negative != strings.Contains(s, "-") || kv.Value != want {
			t.Errorf("%q: %v, %v", s, kv, err)
		}
	}
	for _, s := range []string{"", "a", "=int:1", "a=int", "a=int:x", "a=int:99999999999", "a=bool:yes", "a=float:x", "a=f32:1", "split.count=int:3", "general.architecture=int:7", "general.architecture=str:", "a=str:\xff"} {
		if _, err := quantize.ParseKV(s); err == nil {
			t.Errorf("%q was read", s)
		}
	}
}

// The journal tests run on this model: several work units in two outputs.
func resumeModel(t *testing.T) (string, quantize.Options) {
	path := makeModel(t, "llama", llamaKeys(4), dense(4, quant.F16), nil)
	return path, quantize.Options{Targets: targets(t, "q4_0", "q8_0")}
}

// interrupt runs until about stop bytes of source have been dealt with.
func interrupt(t *testing.T, path string, opt quantize.Options, ro quantize.RunOptions, stop int64) {
	t.Helper()
	p, err := plan(t, path, opt)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ro.Progress = func(done int64) {
		if done >= stop {
			cancel()
		}
	}
	if _, err = p.Run(ctx, ro); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
}

// TestResume interrupts runs at several points and continues them.
func TestResume(t *testing.T) {
	path, opt := resumeModel(t)
	want := run(t, path, opt, quantize.RunOptions{})
	for _, tt := range []struct {
		name    string
		stop    int64 // bytes of source after which the first run is interrupted
		measure bool
		between func(t *testing.T, dir string, opt *quantize.Options)
		notice  string
	}{
		{name: "late", stop: 900_000, notice: "resuming: "},
		{name: "early", stop: 1, notice: "resuming: "},
		{name: "nothing to resume", notice: "starting over: no unfinished run has left"},
		{name: "measured", stop: 500_000, measure: true, notice: "resuming: "},
		{name: "line cut short", stop: 900_000, notice: "resuming: ", between: func(t *testing.T, dir string, _ *quantize.Options) {
			name := filepath.Join(dir, ".out-q4_0.gguf.journal")
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(name, b[:len(b)-5], 0o666); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "bytes lost", stop: 900_000, notice: "resuming: ", between: func(t *testing.T, dir string, _ *quantize.Options) {
			temps, err := filepath.Glob(filepath.Join(dir, ".*.tmp-*"))
			if err != nil || len(temps) != 2 {
				t.Fatal(temps, err)
			}
			for _, name := range temps {
				f, err := os.OpenFile(name, os.O_RDWR, 0)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := f.WriteAt(make([]byte, 3000), 50_000); err != nil {
					t.Fatal(err)
				}
				f.Close()
			}
		}},
		{name: "another plan", stop: 900_000, notice: "starting over: the unfinished run was of another input or plan", between: func(t *testing.T, dir string, opt *quantize.Options) {
			opt.OverrideKV = []quantize.KV{{Key: "general.name", Value: "x"}}
		}},
		{name: "temporary file lost", stop: 900_000, notice: "starting over: ", between: func(t *testing.T, dir string, _ *quantize.Options) {
			temps, err := filepath.Glob(filepath.Join(dir, ".out-q8_0.gguf.tmp-*"))
			if err != nil || len(temps) != 1 {
				t.Fatal(temps, err)
			}
			if err := os.Remove(temps[0]); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "damaged journal", stop: 900_000, notice: "starting over: the journal", between: func(t *testing.T, dir string, _ *quantize.Options) {
			if err := os.WriteFile(filepath.Join(dir, ".out-q4_0.gguf.journal"), []byte("{"), 0o666); err != nil {
				t.Fatal(err)
			}
			// What the journal would have named is nobody's any more.
			temps, _ := filepath.Glob(filepath.Join(dir, ".*.tmp-*"))
			for _, name := range temps {
				os.Remove(name)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			opt, want := opt, want
			dir := t.TempDir()
			out := filepath.Join(dir, "out-{ftype}.gguf")
			if tt.stop > 0 {
				interrupt(t, path, opt, quantize.RunOptions{Out: out, Threads: 2, Resume: true, Measure: tt.measure}, tt.stop)
				if _, err := os.Stat(filepath.Join(dir, "out-q8_0.gguf")); !errors.Is(err, fs.ErrNotExist) {
					t.Error("an unfinished output has its name")
				}
			}
			if tt.between != nil {
				tt.between(t, dir, &opt)
				if opt.OverrideKV != nil {
					want = run(t, path, opt, quantize.RunOptions{})
				}
			}
			notice := ""
			got := run(t, path, opt, quantize.RunOptions{Out: out, Resume: true, Measure: tt.measure, Notice: func(s string) { notice += s }})
			if !strings.HasPrefix(notice, tt.notice) {
				t.Errorf("notice %q, want %q", notice, tt.notice)
			}
			for name := range want {
				if !bytes.Equal(got[name], want[name]) {
					t.Errorf("%s differs", name)
				}
			}
		})
	}
}

// TestResumedMeasure checks that errors measured before an interruption count.
func TestResumedMeasure(t *testing.T) {
	path, opt := resumeModel(t)
	p, err := plan(t, path, opt)
	if err != nil {
		t.Fatal(err)
	}
	ro := quantize.RunOptions{Out: filepath.Join(t.TempDir(), "a-{ftype}"), Measure: true, Resume: true}
	want, err := p.Run(context.Background(), ro)
	if err != nil {
		t.Fatal(err)
	}
	ro.Out = filepath.Join(t.TempDir(), "b-{ftype}")
	interrupt(t, path, opt, ro, 600_000)
	got, err := p.Run(context.Background(), ro)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want.Errors, got.Errors); d != "" {
		t.Error(d)
	}
}

// TestAnotherInput ends a run and starts one on another model of the same
// shapes, size and time. The first model's zeros must not stand in the second
// one's output, neither from the journal nor from the temporary file.
func TestAnotherInput(t *testing.T) {
	zero := func(name string, x []float32) {
		if name == "blk.0.attn_q.weight" {
			clear(x)
		}
	}
	first := makeModel(t, "llama", llamaKeys(3), dense(3, quant.F16), zero)
	second := makeModel(t, "llama", llamaKeys(3), dense(3, quant.F16), nil)
	for _, path := range []string{first, second} {
		if err := os.Chtimes(path, time.Unix(1e6, 0), time.Unix(1e6, 0)); err != nil {
			t.Fatal(err)
		}
	}
	opt := quantize.Options{Targets: targets(t, "q8_0")}
	want := run(t, second, opt, quantize.RunOptions{})
	for _, resume := range []bool{false, true} {
		t.Run(fmt.Sprintf("resume=%v", resume), func(t *testing.T) {
			ro := quantize.RunOptions{Out: filepath.Join(t.TempDir(), "out-{ftype}.gguf"), Resume: true}
			interrupt(t, first, opt, ro, 900_000)
			notice := ""
			ro.Resume = resume
			ro.Notice = func(s string) { notice += s }
			got := run(t, second, opt, ro)
			if resume && !strings.HasPrefix(notice, "starting over: the unfinished run was of another input") {
				t.Errorf("notice %q", notice)
			}
			for name := range want {
				if !bytes.Equal(got[name], want[name]) {
					t.Errorf("%s differs", name)
				}
			}
		})
	}
}

// TestAnotherVersion: what one version began no other one finishes.
func TestAnotherVersion(t *testing.T) {
	path, opt := resumeModel(t)
	ro := quantize.RunOptions{Out: filepath.Join(t.TempDir(), "out-{ftype}.gguf"), Resume: true, Version: "1"}
	interrupt(t, path, opt, ro, 900_000)
	notice := ""
	ro.Version = "2"
	ro.Notice = func(s string) { notice += s }
	run(t, path, opt, ro)
	if !strings.HasPrefix(notice, "starting over: ") {
		t.Errorf("notice %q", notice)
	}
}

// TestNotAJournal: what stands in the journal's place and is none stays as it
// is, also behind a link.
func TestNotAJournal(t *testing.T) {
	path, opt := resumeModel(t)
	for _, tt := range []struct {
		name string
		put  func(victim, journal string) error
		want string
	}{
		{"link", os.Symlink, "no regular file"},
		{"hard link", os.Link, "not a journal"},
		{"directory", func(_, journal string) error { return os.Mkdir(journal, 0o777) }, "no regular file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			victim := filepath.Join(dir, "victim")
			const text = "what is dear to someone\n"
			if err := os.WriteFile(victim, []byte(text), 0o666); err != nil {
				t.Fatal(err)
			}
			if err := tt.put(victim, filepath.Join(dir, ".out-q4_0.gguf.journal")); err != nil {
				t.Skip(err)
			}
			p, err := plan(t, path, opt)
			if err != nil {
				t.Fatal(err)
			}
			_, err = p.Run(context.Background(), quantize.RunOptions{Out: filepath.Join(dir, "out-{ftype}.gguf")})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v", err)
			}
			if b, err := os.ReadFile(victim); err != nil || string(b) != text {
				t.Errorf("the file holds %q, %v", b, err)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, ".*.tmp-*")); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

// TestJournalOfALink: the journal belongs to the file, whatever it is called.
func TestJournalOfALink(t *testing.T) {
	path, opt := resumeModel(t)
	opt.Targets = opt.Targets[:1]
	want := run(t, path, opt, quantize.RunOptions{})["out-q4_0.gguf"]
	dir := t.TempDir()
	real := filepath.Join(dir, "real")
	if err := os.Mkdir(real, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(real, "x.gguf"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link.gguf")
	if err := os.Symlink(filepath.Join("real", "x.gguf"), link); err != nil {
		t.Skip("no symbolic links here:", err)
	}
	notice := ""
	ro := quantize.RunOptions{Out: link, Force: true, Resume: true}
	interrupt(t, path, opt, ro, 900_000)
	ro.Notice = func(s string) { notice += s }
	got := run(t, path, opt, ro)["link.gguf"]
	if !strings.HasPrefix(notice, "resuming: ") || !bytes.Equal(got, want) {
		t.Errorf("notice %q", notice)
	}
	if left, _ := os.ReadDir(real); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

// TestLongName: an output's name may be as long as the file system allows.
func TestLongName(t *testing.T) {
	path, opt := resumeModel(t)
	opt.Targets = opt.Targets[:1]
	ro := quantize.RunOptions{Out: filepath.Join(t.TempDir(), strings.Repeat("n", 250)+".gguf"), Resume: true}
	interrupt(t, path, opt, ro, 900_000)
	notice := ""
	ro.Notice = func(s string) { notice += s }
	run(t, path, opt, ro)
	if !strings.HasPrefix(notice, "resuming: ") {
		t.Errorf("notice %q", notice)
	}
}

// TestLostJournal: temporary files that no journal names any more do not stay.
func TestLostJournal(t *testing.T) {
	path, opt := resumeModel(t)
	dir := t.TempDir()
	ro := quantize.RunOptions{Out: filepath.Join(dir, "out-{ftype}.gguf"), Resume: true}
	interrupt(t, path, opt, ro, 900_000)
	if err := os.Truncate(filepath.Join(dir, ".out-q4_0.gguf.journal"), 0); err != nil {
		t.Fatal(err)
	}
	// One is still in use, as far as anyone can see.
	temps, err := filepath.Glob(filepath.Join(dir, ".out-q8_0.gguf.tmp-*"))
	if err != nil || len(temps) != 1 {
		t.Fatal(temps, err)
	}
	f, err := os.OpenFile(temps[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := stream.Lock(f); err != nil {
		t.Skip("no locks here:", err)
	}
	p, err := plan(t, path, opt)
	if err != nil {
		t.Fatal(err)
	}
	ro.Resume = false
	if _, err := p.Run(context.Background(), ro); err != nil {
		t.Fatal(err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".*")); err != nil || !slices.Equal(left, temps) {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

// TestTwoRuns: of many runs that write the same output at the same time each
// ends well or says that another one is writing.
func TestTwoRuns(t *testing.T) {
	path := makeModel(t, "llama", llamaKeys(0), []shape{{"token_embd.weight", quant.F16, []uint64{32, 1}}}, nil)
	opt := quantize.Options{Targets: targets(t, "q8_0")}
	dir := t.TempDir()
	ro := quantize.RunOptions{Out: filepath.Join(dir, "out-{ftype}.gguf"), Threads: 1, Force: true}
	var wg sync.WaitGroup
	for range 8 {
		p, err := plan(t, path, opt)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			for range 200 {
				if _, err := p.Run(context.Background(), ro); err != nil && !strings.Contains(err.Error(), "another run is writing") {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if left, err := filepath.Glob(filepath.Join(dir, ".*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

// failing is a tensor whose reading fails from some time on.
type failing struct {
	stream.Rows
	err atomic.Pointer[error]
}

func (f *failing) ReadRows(dst []byte, first, n int) error {
	if err := f.err.Load(); err != nil {
		if *err == nil {
			panic("a programming error")
		}
		return *err
	}
	return f.Rows.ReadRows(dst, first, n)
}

// TestKeep: what may go on is kept, with --resume only; what would fail again is
// not.
func TestKeep(t *testing.T) {
	path, opt := resumeModel(t)
	for _, tt := range []struct {
		name   string
		resume bool
		err    error // nil: a panic
		keep   bool
	}{
		{"read error", true, &fs.PathError{Op: "read", Path: "x", Err: syscall.EIO}, true},
		{"no space", true, &stream.OutputError{Path: "x", Err: syscall.ENOSPC}, true},
		{"without resume", false, syscall.EIO, false},
		{"another error", true, errors.New("bad block"), false},
		{"panic", true, nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			src := quantize.FromGGUF(open(t, path))
			last := &src.Tensors[len(src.Tensors)-1]
			f := &failing{Rows: last.Rows}
			last.Rows = f
			p, err := quantize.New(src, opt)
			if err != nil {
				t.Fatal(err)
			}
			dir, notice := t.TempDir(), ""
			_, err = p.Run(context.Background(), quantize.RunOptions{
				Out: filepath.Join(dir, "out-{ftype}.gguf"), Threads: 1, Resume: tt.resume,
				Progress: func(int64) { f.err.Store(&tt.err) },
				Notice:   func(s string) { notice = s },
			})
			if err == nil || !strings.Contains(err.Error(), last.Name) || tt.err != nil && !errors.Is(err, tt.err) {
				t.Errorf("error %v", err)
			}
			left, _ := os.ReadDir(dir)
			if kept := strings.HasPrefix(notice, "what is done is kept"); kept != tt.keep || len(left) > 0 != tt.keep {
				t.Errorf("notice %q, left %v", notice, left)
			}
		})
	}
}

// TestKilled ends a run in the middle as kill -9 does; only a process of its
// own can be ended like that.
func TestKilled(t *testing.T) {
	if out := os.Getenv("QUANTIZE_TEST_OUT"); out != "" {
		p, err := plan(t, os.Getenv("QUANTIZE_TEST_IN"), quantize.Options{Targets: targets(t, "q4_0", "q8_0")})
		if err != nil {
			t.Fatal(err)
		}
		me, err := os.FindProcess(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		_, err = p.Run(context.Background(), quantize.RunOptions{Out: out, Threads: 2, Progress: func(done int64) {
			if done > 700_000 {
				_ = me.Kill()
				select {} // until it arrives
			}
		}})
		t.Fatalf("survived: %v", err)
	}
	path, opt := resumeModel(t)
	want := run(t, path, opt, quantize.RunOptions{})
	out := filepath.Join(t.TempDir(), "out-{ftype}.gguf")
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
	cmd.Env = append(os.Environ(), "QUANTIZE_TEST_OUT="+out, "QUANTIZE_TEST_IN="+path)
	if b, err := cmd.CombinedOutput(); err == nil || bytes.Contains(b, []byte("FAIL")) {
		t.Fatalf("%v\n%s", err, b)
	}
	notice := ""
	got := run(t, path, opt, quantize.RunOptions{Out: out, Resume: true, Notice: func(s string) { notice += s }})
	if !strings.HasPrefix(notice, "resuming: ") || strings.HasPrefix(notice, "resuming: 0 ") {
		t.Errorf("notice %q", notice)
	}
	for name := range want {
		if !bytes.Equal(got[name], want[name]) {
			t.Errorf("%s differs", name)
		}
	}
}

// TestStale checks that a new run removes what a killed one has left.
func TestStale(t *testing.T) {
	path, opt := resumeModel(t)
	dir := t.TempDir()
	out := filepath.Join(dir, "out-{ftype}.gguf")
	p, err := plan(t, path, opt)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := p.Run(ctx, quantize.RunOptions{Out: out, Resume: true}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 3 {
		t.Fatalf("%v left", left)
	}
	run(t, path, opt, quantize.RunOptions{Out: out}) // fails on anything left behind
}
