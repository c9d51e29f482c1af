package export

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/smeltgguf/smelt/formats/gguf"
	"github.com/smeltgguf/smelt/internal/arch"
	"github.com/smeltgguf/smelt/internal/checkpoint"
	"github.com/smeltgguf/smelt/internal/convert"
	"github.com/smeltgguf/smelt/internal/fixture"
	"github.com/smeltgguf/smelt/quant"
)

// toGGUF converts a checkpoint.
func toGGUF(t testing.TB, in, outtype string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "x.gguf")
	p, err := convert.NewPlan(convert.Options{In: in, Out: out, Outtype: outtype})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := p.Run(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	return out
}

// run exports a GGUF to a directory that is named as the checkpoint was.
func run(t testing.TB, opt Options) *Result {
	t.Helper()
	p, err := NewPlan(opt)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	res, err := p.Run(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// roundTrip converts, exports and converts again: the same bytes.
func roundTrip(t *testing.T, checkpoint, outtype string) {
	t.Helper()
	first := toGGUF(t, checkpoint, outtype)
	dir := filepath.Join(t.TempDir(), filepath.Base(checkpoint))
	res := run(t, Options{In: first, Out: dir})
	if len(res.Differ)+len(res.New) > 0 {
		t.Errorf("metadata differ in %q, new are %q", res.Differ, res.New)
	}
	for _, name := range res.Files {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	if !slices.Equal(read(t, first), read(t, toGGUF(t, dir, outtype))) {
		t.Error("the GGUF of what was exported differs from the one that was exported")
	}
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const models = "../../testdata/models/"

func TestRoundTrip(t *testing.T) {
	for _, m := range fixture.Models() {
		if !slices.Contains(arch.Exportable(), archOf(t, m)) {
			continue
		}
		t.Run(m.Name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "Acme-Model-7B-Chat")
			if err := m.Write(dir); err != nil {
				t.Fatal(err)
			}
			config := `{"add_bos_token": true, "add_eos_token": false}`
			if err := os.WriteFile(filepath.Join(dir, "tokenizer_config.json"), []byte(config), 0o666); err != nil {
				t.Fatal(err)
			}
			roundTrip(t, dir, "f32")
		})
	}
	for _, name := range []string{"tiny/hf", "micro/hf", "micro/hf-sharded"} {
		t.Run(name, func(t *testing.T) { roundTrip(t, models+name, "auto") })
	}
}

// TestSharedFamilies takes checkpoints as they are published, with the tokenizers
// that go with them.
func TestSharedFamilies(t *testing.T) {
	shared := os.Getenv("SMELT_SHARED")
	if shared == "" {
		shared = filepath.Join("..", "..", "..", "shared")
	}
	dirs, err := filepath.Glob(filepath.Join(shared, "families", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	if len(dirs) == 0 {
		t.Skipf("%s holds no families: set SMELT_SHARED to run this", shared)
	}
	for _, dir := range dirs {
		ck, err := checkpoint.OpenConfig(dir)
		if err != nil {
			t.Fatal(err)
		}
		f, err := arch.Find(ck)
		ck.Close()
		if err == nil && slices.Contains(arch.Exportable(), f.Name) {
			t.Run(filepath.Base(dir), func(t *testing.T) { roundTrip(t, dir, "auto") })
		}
	}
}

func archOf(t *testing.T, m fixture.Model) string {
	t.Helper()
	for _, f := range arch.Families {
		if slices.Contains(f.Classes, m.Config["architectures"].([]string)[0]) {
			return f.Name
		}
	}
	t.Fatalf("%s is of no family", m.Name)
	return ""
}

// TestMeta: Meta's own layout comes back as Hugging Face's, whose GGUF has the
// same tensors, if not in the same order.
func TestMeta(t *testing.T) {
	first := toGGUF(t, models+"micro/meta-1", "auto")
	dir := filepath.Join(t.TempDir(), "meta-1")
	run(t, Options{In: first, Out: dir})
	sameTensors(t, first, toGGUF(t, dir, "auto"))
}

func sameTensors(t *testing.T, a, b string) {
	t.Helper()
	x, y := tensorsOf(t, a), tensorsOf(t, b)
	if len(x) != len(y) {
		t.Errorf("%d and %d tensors", len(x), len(y))
	}
	for name, data := range x {
		if !bytes.Equal(data, y[name]) {
			t.Errorf("%s differs", name)
		}
	}
}

func tensorsOf(t testing.TB, path string) map[string][]byte {
	t.Helper()
	f, err := gguf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out := map[string][]byte{}
	for _, x := range f.Tensors {
		data := make([]byte, x.Size())
		if err := f.Rows(x).ReadRows(data, 0, x.Rows()); err != nil {
			t.Fatal(err)
		}
		out[x.Name] = data
	}
	return out
}

// TestQuantized: quantized tensors are decoded, and those values are what another
// conversion has.
func TestQuantized(t *testing.T) {
	first := toGGUF(t, models+"tiny/hf", "q8_0")
	for _, d := range dtypes {
		dir := filepath.Join(t.TempDir(), "hf")
		run(t, Options{In: first, Out: dir, DType: strings.ToUpper(d.name), Threads: 1})
		got := tensorsOf(t, toGGUF(t, dir, d.name))
		f, err := gguf.Open(first)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		decoded := 0
		for name, data := range tensorsOf(t, first) {
			want := data
			if x := f.Tensor(name); x.Type == quant.Q8_0 {
				values := make([]float32, x.Elems())
				quant.Decode(x.Type, values, data)
				want = make([]byte, len(values)*d.typ.BlockSize())
				quant.Encode(d.typ, want, values, nil)
				decoded++
			}
			if !bytes.Equal(got[name], want) {
				t.Errorf("%s: %s differs", d.name, name)
			}
		}
		if decoded == 0 {
			t.Error("nothing was quantized")
		}
	}
}

func TestShards(t *testing.T) {
	first := toGGUF(t, models+"micro/hf", "auto")
	dir := filepath.Join(t.TempDir(), "hf")
	const limit = 300_000
	p, err := NewPlan(Options{In: first, Out: dir, MaxShardSize: limit})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if len(p.shards) < 2 || p.Tensors[0].File != "model-00001-of-0000"+string(rune('0'+len(p.shards)))+".safetensors" {
		t.Errorf("files %q", p.Files)
	}
	for _, s := range p.shards {
		if size := s.layout.Size - int64(len(s.layout.Header)); size > limit {
			t.Errorf("%s holds %d bytes of tensors", s.name, size)
		}
	}
	if _, err := p.Run(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "model.safetensors.index.json")); err != nil {
		t.Error(err)
	}
	sameTensors(t, first, toGGUF(t, dir, "auto"))
	// A tensor that is larger than a file may be has one of its own.
	if p, err = NewPlan(Options{In: first, Out: dir, MaxShardSize: 1}); err != nil {
		t.Fatal(err)
	}
	p.Close()
	if len(p.shards) != len(p.Tensors) {
		t.Errorf("%d files for %d tensors", len(p.shards), len(p.Tensors))
	}
}

// listing returns the names in a directory, hidden ones too.
func listing(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestExisting(t *testing.T) {
	first := toGGUF(t, models+"micro/hf", "auto")
	parent := t.TempDir()
	dir := filepath.Join(parent, "hf")
	try := func(force bool) error {
		t.Helper()
		p, err := NewPlan(Options{In: first, Out: dir, Force: force})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		_, err = p.Run(context.Background(), nil)
		if names := listing(t, parent); !slices.Equal(names, []string{"hf"}) {
			t.Errorf("%q was left behind", names)
		}
		return err
	}
	if err := try(false); err != nil {
		t.Fatal(err)
	}
	before := listing(t, dir)
	if err := try(false); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Errorf("error %v", err)
	}
	// What a run replaces is gone, also what the new one does not have.
	if err := os.WriteFile(filepath.Join(dir, "model-00001-of-00001.safetensors"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := try(true); err != nil {
		t.Fatal(err)
	}
	if after := listing(t, dir); !slices.Equal(before, after) {
		t.Errorf("%q, want %q", after, before)
	}
	// A directory that holds something else stays.
	if err := os.WriteFile(filepath.Join(dir, "thesis.txt"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := try(true); err == nil || !strings.Contains(err.Error(), `holds "thesis.txt"`) {
		t.Errorf("error %v", err)
	}
	if after := listing(t, dir); !slices.Contains(after, "thesis.txt") {
		t.Errorf("%q", after)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := try(true); err == nil || !strings.Contains(err.Error(), "is no directory") {
		t.Errorf("error %v", err)
	}
}

func TestInterrupted(t *testing.T) {
	first := toGGUF(t, models+"tiny/hf", "auto")
	parent := t.TempDir()
	p, err := NewPlan(Options{In: first, Out: filepath.Join(parent, "hf"), Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	ctx, cancel := context.WithCancel(context.Background())
	_, err = p.Run(ctx, func(done int64) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if names := listing(t, parent); len(names) > 0 {
		t.Errorf("%q was left behind", names)
	}
}

// edited writes a GGUF with other metadata and without some tensors.
func edited(t testing.TB, in string, set map[string]any, without ...string) string {
	t.Helper()
	f, err := gguf.Open(in)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	meta := f.Metadata.Clone()
	for k, v := range set {
		meta.Delete(k)
		if v != nil {
			meta.Set(k, v)
		}
	}
	data := tensorsOf(t, in)
	var list []*gguf.Tensor
	for _, x := range f.Tensors {
		if slices.Contains(without, x.Name) {
			continue
		}
		shape := make([]int, len(x.Dims))
		for i, d := range x.Dims {
			shape[len(shape)-1-i] = int(d)
		}
		list = append(list, gguf.NewTensor(x.Name, x.Type, shape))
	}
	l, err := gguf.Plan(meta, list)
	if err != nil {
		t.Fatal(err)
	}
	out := make([]byte, l.Size)
	copy(out, l.Header)
	for i, x := range l.Tensors {
		copy(out[l.Offset(i):], data[x.Name])
	}
	path := filepath.Join(t.TempDir(), "edited.gguf")
	if err := os.WriteFile(path, out, 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRefuses(t *testing.T) {
	micro := toGGUF(t, models+"micro/hf", "auto")
	f, err := gguf.Open(micro)
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := f.Metadata.Strings("tokenizer.ggml.tokens")
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	double := slices.Clone(tokens)
	double[300] = double[301]
	for _, tt := range []struct {
		name    string
		set     map[string]any
		without string
		want    string
	}{
		{"architecture", map[string]any{"general.architecture": "falcon"}, "", `architecture "falcon" cannot be exported`},
		{"no such architecture", map[string]any{"general.architecture": "nobody\n"}, "", `architecture "nobody\n" cannot be exported`},
		{"adapter", map[string]any{"general.type": "adapter"}, "", `general.type "adapter"`},
		{"layers", map[string]any{"llama.block_count": uint32(3)}, "", `tensor "blk.2.`},
		{"many layers", map[string]any{"llama.block_count": uint32(9999)}, "", `tensor "blk.2.`},
		{"too many layers", map[string]any{"llama.block_count": uint32(math.MaxUint32)}, "", "out of range"},
		{"fewer layers", map[string]any{"llama.block_count": uint32(1)}, "", "has no place"},
		{"heads", map[string]any{"llama.attention.head_count": uint32(1), "llama.attention.head_count_kv": uint32(1)}, "", "metadata implies"},
		{"width", map[string]any{"llama.embedding_length": uint32(1 << 20)}, "", "metadata implies"},
		{"experts", map[string]any{"llama.expert_count": uint32(math.MaxInt32), "llama.expert_used_count": uint32(2)}, "", `tensor "blk.0.ffn_gate_exps.weight" is missing`},
		{"tensor", nil, "blk.1.attn_v.weight", `tensor "blk.1.attn_v.weight" is missing`},
		{"norm", nil, "output_norm.weight", `tensor "output_norm.weight" is missing`},
		{"embeddings", nil, "token_embd.weight", `tensor "token_embd.weight" is missing`},
		{"key", map[string]any{"llama.attention.clamp_kqv": float32(8)}, "", `"llama.attention.clamp_kqv" = "8" is not understood`},
		{"rope", map[string]any{"llama.rope.scaling.type": "longrope", "llama.rope.scaling.attn_factor": float32(1.2)}, "", `"llama.rope.scaling.`},
		{"yarn's factor", map[string]any{"llama.rope.scaling.type": "yarn"}, "", "llama.rope.scaling.factor: 0"},
		{"no tokenizer", map[string]any{"tokenizer.ggml.model": nil}, "", "the file has no tokenizer"},
		{"tokenizer", map[string]any{"tokenizer.ggml.model": "t5"}, "", `tokenizer model "t5" cannot be exported`},
		{"pre-tokenizer", map[string]any{"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "default", "tokenizer.ggml.merges": []string{}}, "", `pre-tokenizer "default" has no description`},
		{"token twice", map[string]any{"tokenizer.ggml.tokens": double}, "", "pieces 300 and 301 are both"},
		{"merges", map[string]any{"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.merges": []string{"\xff a"}}, "", "merge 0 is"},
		{"token twice in tokenizer.json", map[string]any{"tokenizer.ggml.tokens": double, "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.merges": []string{"a b"}}, "", "tokenizer.json cannot be written"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := edited(t, micro, tt.set, tt.without)
			p, err := NewPlan(Options{In: in, Out: "x"})
			if err == nil {
				p.Close()
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), in) {
				t.Errorf("error %v\nwant  %s", err, tt.want)
			}
		})
	}
	if _, err := NewPlan(Options{In: micro, Out: "x", DType: "q4_0"}); err == nil || !strings.Contains(err.Error(), `unknown type "q4_0"; known: auto, f16, bf16, f32`) {
		t.Errorf("error %v", err)
	}
}

// TestRopeFactors: a GGUF holds what the scaling of Llama 3.1 gives, not its
// parameters; they are found again, and other factors are refused.
func TestRopeFactors(t *testing.T) {
	for _, m := range fixture.Models() {
		if m.Name != "llama-rope3" {
			continue // TestRoundTrip has it as it is
		}
		dir := filepath.Join(t.TempDir(), "Llama-3.2")
		if err := m.Write(dir); err != nil {
			t.Fatal(err)
		}
		in := toGGUF(t, dir, "f32")
		data := read(t, in)
		factors := tensorsOf(t, in)["rope_freqs.weight"]
		at := bytes.Index(data, factors)
		bad := filepath.Join(t.TempDir(), "bad.gguf")
		try := func(first float32) (*Plan, error) {
			copy(data[at:], binary.LittleEndian.AppendUint32(nil, math.Float32bits(first)))
			if err := os.WriteFile(bad, data, 0o666); err != nil {
				t.Fatal(err)
			}
			return NewPlan(Options{In: bad, Out: "x"})
		}
		if _, err := try(1.5); err == nil || !strings.Contains(err.Error(), `"rope_freqs.weight" holds factors that are not those of Llama 3.1`) {
			t.Errorf("error %v", err)
		}
		if _, err := try(float32(math.NaN())); err == nil {
			t.Error("NaN is accepted")
		}
		p, err := try(math.Nextafter32(1, 2)) // another library's rounding
		if err != nil {
			t.Fatal(err)
		}
		p.Close()
		if want := fmt.Sprintf("rope_freqs.weight: 1 of its %d values are rounded otherwise", len(factors)/4); len(p.Notes) != 1 || !strings.Contains(p.Notes[0], want) {
			t.Errorf("notes %q, want %s", p.Notes, want)
		}
		return
	}
	t.Fatal("no fixture")
}

// TestNonfinite: a NaN in the weights is an error unless it is allowed.
func TestNonfinite(t *testing.T) {
	in := toGGUF(t, models+"micro/hf", "f32")
	data := read(t, in)
	norm := tensorsOf(t, in)["output_norm.weight"]
	at := bytes.Index(data, norm)
	copy(data[at:], binary.LittleEndian.AppendUint32(nil, math.Float32bits(float32(math.NaN()))))
	bad := filepath.Join(t.TempDir(), "bad.gguf")
	if err := os.WriteFile(bad, data, 0o666); err != nil {
		t.Fatal(err)
	}
	parent := t.TempDir()
	out := filepath.Join(parent, "hf")
	p, err := NewPlan(Options{In: bad, Out: out})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := p.Run(context.Background(), nil); err == nil || !strings.Contains(err.Error(), `"model.norm.weight": 1 NaN`) {
		t.Errorf("error %v", err)
	}
	if names := listing(t, parent); len(names) > 0 {
		t.Errorf("%q was left behind", names)
	}
	if res := run(t, Options{In: bad, Out: out, AllowNonfinite: true}); len(res.Nonfinite) != 1 {
		t.Errorf("%v", res.Nonfinite)
	}
}

// TestDiffer: keys that a checkpoint has no place for are named.
func TestDiffer(t *testing.T) {
	in := edited(t, toGGUF(t, models+"micro/hf", "auto"), map[string]any{
		"general.quantized_by": "someone", "general.name": nil, "llama.rope.scaling.finetuned": true, "tokenizer.ggml.add_bos_token": nil,
	})
	p, err := NewPlan(Options{In: in, Out: filepath.Join(t.TempDir(), "hf")})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if len(p.Notes) != 1 || !strings.Contains(p.Notes[0], "llama.rope.scaling.finetuned") {
		t.Errorf("notes %q", p.Notes)
	}
	res, err := p.Run(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(res.Differ)
	if want := []string{"general.quantized_by", "llama.rope.scaling.finetuned"}; !slices.Equal(res.Differ, want) {
		t.Errorf("differ: %q, want %q", res.Differ, want)
	}
	slices.Sort(res.New)
	// Without the key a text begins with BOS; the checkpoint says so.
	if want := []string{"general.name", "tokenizer.ggml.add_bos_token"}; !slices.Equal(res.New, want) {
		t.Errorf("new: %q, want %q", res.New, want)
	}
}

// FuzzPlan exports a small GGUF of which any byte of the header may differ: an
// error or a plan, never a panic.
func FuzzPlan(f *testing.F) {
	var model fixture.Model
	for _, m := range fixture.Models() {
		if m.Name == "llama" {
			model = m
		}
	}
	dir := filepath.Join(f.TempDir(), "m")
	if err := model.Write(dir); err != nil {
		f.Fatal(err)
	}
	data := read(f, toGGUF(f, dir, "f16"))
	path := filepath.Join(f.TempDir(), "x.gguf")
	for _, at := range []uint32{0, 8, 100, 300, 500, 700} {
		f.Add(at, byte(1))
		f.Add(at, byte(255))
	}
	f.Fuzz(func(t *testing.T, at uint32, change byte) {
		b := bytes.Clone(data)
		b[int(at)%len(b)] ^= change
		if err := os.WriteFile(path, b, 0o666); err != nil {
			t.Fatal(err)
		}
		p, err := NewPlan(Options{In: path, Out: "x"})
		if err != nil {
			return
		}
		defer p.Close()
		if len(p.Tensors) == 0 || p.small["config.json"] == nil {
			t.Error("neither a plan nor an error")
		}
	})
}
