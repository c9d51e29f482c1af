package convert

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/smeltgguf/smelt/formats/gguf"
	"github.com/smeltgguf/smelt/internal/fixture"
)

func checkpointOf(t *testing.T, name string) string {
	t.Helper()
	for _, m := range fixture.Models() {
		if m.Name == name {
			dir := filepath.Join(t.TempDir(), "My-Model-7B-Chat-v2")
			if err := m.Write(dir); err != nil {
				t.Fatal(err)
			}
			return dir
		}
	}
	t.Fatalf("no fixture %s", name)
	return ""
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o666); err != nil {
		t.Fatal(err)
	}
}

func TestOutputNames(t *testing.T) {
	in := checkpointOf(t, "llama")
	dir := t.TempDir()
	for _, tt := range []struct{ out, outtype, want string }{
		{"m.gguf", "f16", "m.gguf"},
		{"m-{ftype}.gguf", "", "m-f16.gguf"}, // auto: float32 weights become f16
		{"m-{FTYPE}-{outtype}.gguf", "q8_0", "m-Q8_0-q8_0.gguf"},
		{"", "bf16", "My-Model-280K-7b-Chat-v2-BF16.gguf"},
	} {
		p, err := NewPlan(Options{In: in, Out: filepath.Join(dir, tt.out), Outtype: tt.outtype})
		if err != nil {
			t.Fatal(err)
		}
		p.Close()
		got, err := filepath.Rel(dir, p.Files[0])
		if tt.out == "" {
			// The size depends on the fixture.
			label, _ := p.Metadata.String("general.size_label")
			tt.want = strings.Replace(tt.want, "280K", label, 1)
		}
		if err != nil || got != tt.want || len(p.Files) != 1 {
			t.Errorf("%q: %q, want %s", tt.out, p.Files, tt.want)
		}
	}
}

// TestSplit: parts by number of tensors hold together what one file holds.
func TestSplit(t *testing.T) {
	in := checkpointOf(t, "llama")
	whole := run(t, Options{In: in, Outtype: "f16"})
	dir := t.TempDir()
	first := run(t, Options{In: in, Outtype: "f16", Out: filepath.Join(dir, "m.gguf"), SplitMaxTensors: 20})
	if filepath.Base(first) != "m-00001-of-00002.gguf" {
		t.Errorf("first part is %s", first)
	}
	a, err := gguf.Open(whole)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := gguf.Open(first)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if len(a.Tensors) != len(b.Tensors) || len(b.Paths()) != 2 {
		t.Fatalf("%d tensors in %d parts, want %d in 2", len(b.Tensors), len(b.Paths()), len(a.Tensors))
	}
	for i, x := range a.Tensors {
		y := b.Tensors[i]
		p, q := make([]byte, x.Size()), make([]byte, y.Size())
		if err := errors.Join(a.Rows(x).ReadRows(p, 0, x.Rows()), b.Rows(y).ReadRows(q, 0, y.Rows())); err != nil {
			t.Fatal(err)
		}
		if x.Name != y.Name || !slices.Equal(p, q) {
			t.Errorf("tensor %s differs from %s", y.Name, x.Name)
		}
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 2 {
		t.Errorf("%d files, want 2", len(entries))
	}
}

func TestVocabOnly(t *testing.T) {
	out := run(t, Options{In: checkpointOf(t, "llama"), VocabOnly: true})
	f, err := gguf.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if tokens, err := f.Metadata.Strings("tokenizer.ggml.tokens"); err != nil || len(tokens) != 320 || len(f.Tensors) != 0 {
		t.Errorf("%d tokens, %d tensors, %v", len(tokens), len(f.Tensors), err)
	}
}

// TestVocabOnlyWithoutWeights: the weights are not missed, or only where
// nothing else tells the shape of the model.
func TestVocabOnlyWithoutWeights(t *testing.T) {
	for _, m := range fixture.Models() {
		in := filepath.Join(t.TempDir(), "model")
		if err := m.Write(in); err != nil {
			t.Fatal(err)
		}
		with, err := os.ReadFile(run(t, Options{In: in, VocabOnly: true}))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(in, "model.safetensors")); err != nil {
			t.Fatal(err)
		}
		without, err := os.ReadFile(run(t, Options{In: in, VocabOnly: true}))
		if err != nil || !slices.Equal(with, without) {
			t.Errorf("%s: another file without weights; %v", m.Name, err)
		}
	}
	if _, err := NewPlan(Options{In: t.TempDir(), Out: "o.gguf", VocabOnly: true}); err == nil {
		t.Error("an empty directory was accepted")
	}
}

// TestSubstitution: a row that Q8_0 cannot hold becomes F16, and the plan says
// so.
func TestSubstitution(t *testing.T) {
	p, err := NewPlan(Options{In: checkpointOf(t, "deepseek2"), Out: filepath.Join(t.TempDir(), "o.gguf"), Outtype: "q8_0"})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for _, x := range p.Tensors {
		row := x.Shape[len(x.Shape)-1]
		substituted := strings.HasSuffix(x.Name, ".weight") && len(x.Shape) > 1 && row%32 != 0 && !strings.Contains(x.Name, "norm")
		if (x.Substituted != "") != substituted || substituted && x.Type.String() != "F16" {
			t.Errorf("%s %v is %v: %q", x.Name, x.Shape, x.Type, x.Substituted)
		}
	}
}

func TestModelCard(t *testing.T) {
	in := checkpointOf(t, "llama")
	write(t, filepath.Join(in, "README.md"), "---\r\nlicense: [mit, apache-2.0]\r\nlanguage: no\r\ntags:\r\n- a\r\npipeline_tag: text-generation\r\nmodel_creator: Someone\r\n"+
		"base_model:\r\n- https://huggingface.co/org/Base-2-v0.3\r\n- https://example.org/x\r\n- name: Given\r\ndatasets: org/data\r\n---\r\n# Title\r\n")
	write(t, filepath.Join(in, "generation_config.json"), `{"temperature": 0.6, "top_k": 20, "top_p": null, "repetition_penalty": 1.05}`)
	override := filepath.Join(t.TempDir(), "meta.json")
	write(t, override, `{"general.version": "v9", "general.url": "https://example.org", "general.sampling.top_k": 7}`)
	p, err := NewPlan(Options{In: in, Out: "o.gguf", MetadataFile: override, ModelName: "The Name"})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	want := map[string]any{
		"general.name": "The Name", "general.author": "Someone", "general.version": "v9", "general.finetune": "7b-Chat", "general.basename": "My-Model",
		"general.license": "mit,apache-2.0", "general.url": "https://example.org",
		"general.sampling.top_k": int32(7), "general.sampling.temp": float32(0.6), "general.sampling.penalty_repeat": float32(1.05),
		"general.base_model.count": uint32(3), "general.base_model.0.name": "Base 2 v0.3", "general.base_model.0.organization": "Org",
		"general.base_model.0.version": "2-v0.3", "general.base_model.0.repo_url": "https://huggingface.co/org/Base-2-v0.3",
		"general.base_model.1.repo_url": "https://example.org/x", "general.base_model.2.name": "Given",
		"general.dataset.count": uint32(1), "general.dataset.0.name": "Data", "general.dataset.0.organization": "Org", "general.dataset.0.repo_url": "https://huggingface.co/org/data",
		"general.architecture": "llama", "general.type": "model", "general.file_type": uint32(1), "general.quantization_version": uint32(2),
	}
	for k, v := range p.Metadata.All() {
		if !strings.HasPrefix(k, "general.") || k == "general.tags" || k == "general.languages" || k == "general.size_label" {
			continue
		}
		if w, ok := want[k]; !ok || w != v {
			t.Errorf("%s = %v, want %v", k, v, w)
		}
		delete(want, k)
	}
	for k := range want {
		t.Errorf("%s is missing", k)
	}
	if tags, _ := p.Metadata.Strings("general.tags"); !slices.Equal(tags, []string{"a", "text-generation"}) {
		t.Errorf("tags %q", tags)
	}
	if langs, _ := p.Metadata.Strings("general.languages"); !slices.Equal(langs, []string{"no"}) {
		t.Errorf("languages %q: Norwegian is not false", langs)
	}
}

func TestBrokenCardIsNoted(t *testing.T) {
	in := checkpointOf(t, "llama")
	write(t, filepath.Join(in, "README.md"), "---\n- a: [\n---\n")
	write(t, filepath.Join(in, "generation_config.json"), `{`)
	p, err := NewPlan(Options{In: in, Out: "o.gguf"})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if len(p.Notes) != 2 {
		t.Errorf("notes %q", p.Notes)
	}
}

func TestRefuses(t *testing.T) {
	in := checkpointOf(t, "llama")
	bad := filepath.Join(t.TempDir(), "bad.json")
	write(t, bad, `{"llama.block_count": 3}`)
	weights := filepath.Join(in, "model.safetensors")
	old := filepath.Join(t.TempDir(), "old.gguf")
	write(t, old, "old")
	for _, tt := range []struct {
		name string
		opt  Options
		want string
	}{
		{"type", Options{In: in, Outtype: "q5_9"}, `unknown output type "q5_9"`},
		{"metadata", Options{In: in, MetadataFile: bad}, "only general.* can be given"},
		{"base", Options{In: in, Base: in}, "this is no adapter"},
		{"input", Options{In: in, Out: weights, Force: true}, "output is an input"},
		{"exists", Options{In: in, Out: old}, "exists already"},
	} {
		if tt.opt.Out == "" {
			tt.opt.Out = filepath.Join(t.TempDir(), "o.gguf")
		}
		p, err := NewPlan(tt.opt)
		if err == nil {
			_, err = p.Run(context.Background(), nil)
			p.Close()
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want %s", tt.name, err, tt.want)
		}
	}
}

// TestInterrupted: no file is left when the context ends.
func TestInterrupted(t *testing.T) {
	in := checkpointOf(t, "llama")
	dir := t.TempDir()
	p, err := NewPlan(Options{In: in, Out: filepath.Join(dir, "o.gguf"), Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	ctx, cancel := context.WithCancel(context.Background())
	if _, err := p.Run(ctx, func(int64) { cancel() }); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Errorf("%v is left", entries)
	}
}

// TestProgress ends at SourceBytes.
func TestProgress(t *testing.T) {
	p, err := NewPlan(Options{In: checkpointOf(t, "mixtral"), Out: filepath.Join(t.TempDir(), "o.gguf")})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	var done int64
	if _, err := p.Run(context.Background(), func(n int64) { done = n }); err != nil || done != p.SourceBytes() {
		t.Errorf("%d of %d bytes, %v", done, p.SourceBytes(), err)
	}
	if st, err := os.Stat(p.Files[0]); err != nil || st.Size() != p.Size {
		t.Errorf("the plan says %d bytes: %v %v", p.Size, st.Size(), err)
	}
}
