package checkpoint

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nlpodyssey/safetensors"
)

// weights is the bytes of a safetensors file with the tensors given as name,
// shape; tensor i's bytes are filled with i+1 + the file's salt.
func weights(t *testing.T, salt byte, tensors map[string][]uint64) []byte {
	t.Helper()
	views := map[string]safetensors.TensorView{}
	for name, shape := range tensors {
		n := uint64(4)
		for _, d := range shape {
			n *= d
		}
		data := make([]byte, n)
		for i := range data {
			data[i] = byte(i) + salt
		}
		v, err := safetensors.NewTensorView(safetensors.F32, shape, data)
		if err != nil {
			t.Fatal(err)
		}
		views[name] = v
	}
	b, err := safetensors.Serialize(views, nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// directory makes a directory of these files.
func directory(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestOpenErrors(t *testing.T) {
	ab := string(weights(t, 0, map[string][]uint64{"a": {2}, "b": {2}}))
	c := string(weights(t, 0, map[string][]uint64{"c": {2}}))
	bc := string(weights(t, 0, map[string][]uint64{"b": {2}, "c": {2}}))
	const s1, s2 = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
	index := func(m string) string { return `{"weight_map":{` + m + `}}` }
	full := index(`"a":"` + s1 + `","b":"` + s1 + `","c":"` + s2 + `"`)
	const ix = "model.safetensors.index.json"
	read := func(name string) string {
		b, err := os.ReadFile(models + name)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	half := read("micro/meta-2/consolidated.00.pth")
	params := `{"dim":64,"n_heads":4,"n_layers":2}`
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"nothing", nil, "no weights found"},
		{"only configs", map[string]string{"config.json": "{}"}, "no weights found"},
		{"LFS pointer", map[string]string{"model.safetensors": "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"}, "model.safetensors: this is a Git LFS pointer"},
		{"LFS pointer of an index", map[string]string{ix: "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"}, ix + ": this is a Git LFS pointer"},
		{"HTML", map[string]string{"pytorch_model.bin": "\n<!DOCTYPE html><html>"}, "pytorch_model.bin: this is an HTML page"},
		{"GGUF", map[string]string{"model.safetensors": "GGUF\x03\x00\x00\x00"}, "this is a GGUF file, not a checkpoint"},
		{"empty", map[string]string{"model.safetensors": ""}, "model.safetensors: header length truncated: 0 of 8 bytes"},
		{"text", map[string]string{"pytorch_model.bin": "hello there"}, "pytorch_model.bin: not a file of torch.save"},
		{"name not local", map[string]string{ix: index(`"a":"../x"`)}, `shard name not local: "../x"`},
		{"missing shard", map[string]string{ix: full, s2: c}, ix + `: missing shard "model-00001-of-00002.safetensors" (2 tensors)`},
		{"missing shard without index", map[string]string{s2: c}, "missing shard model-00001-of-00002.safetensors"},
		{"missing .bin shard", map[string]string{"pytorch_model-00001-of-00003.bin": c}, "missing shard pytorch_model-00002-of-00003.bin"},
		{"absurd count", map[string]string{"model-00001-of-99999.safetensors": c}, "name says that there are 99999 shards"},
		{"tensor not in index", map[string]string{ix: index(`"a":"` + s1 + `","c":"` + s2 + `"`), s1: ab, s2: c}, `tensor "b" of model-00001-of-00002.safetensors not in index`},
		{"shard not in index", map[string]string{ix: index(`"a":"` + s1 + `","b":"` + s1 + `"`), s1: ab, s2: c}, `shard "model-00002-of-00002.safetensors" not in index`},
		{"tensor in two shards", map[string]string{ix: full, s1: ab, s2: bc}, `tensor "b" in model-00001-of-00002.safetensors and model-00002-of-00002.safetensors`},
		{"tensor in two shards without index", map[string]string{s1: ab, s2: bc}, `tensor "b" in model-00001-of-00002.safetensors and model-00002-of-00002.safetensors`},
		{"tensor elsewhere", map[string]string{ix: index(`"a":"` + s1 + `","b":"` + s2 + `","c":"` + s2 + `"`), s1: ab, s2: c}, `tensor "b" is in model-00001-of-00002.safetensors, not in "model-00002-of-00002.safetensors"`},
		{"tensor nowhere", map[string]string{ix: index(`"a":"` + s1 + `","b":"` + s1 + `","c":"` + s2 + `","d":"` + s2 + `"`), s1: ab, s2: c}, `tensor "d" not in model-00002-of-00002.safetensors (1 missing)`},
		{"two models", map[string]string{"x.safetensors": ab, "y.safetensors": c}, `both "x.safetensors" and "y.safetensors" hold weights`},
		{"parallel hole", map[string]string{"params.json": params, "consolidated.00.pth": half, "consolidated.02.pth": half}, "missing shard consolidated.01.pth"},
		{"parallel, no params", map[string]string{"consolidated.00.pth": half, "consolidated.01.pth": half}, "params.json: file does not exist"},
		{"parallel, dim missing", map[string]string{"params.json": "{}", "consolidated.00.pth": half, "consolidated.01.pth": half}, "params.json: dim missing"},
		{"parallel, dim of text", map[string]string{"params.json": `{"dim":"64"}`, "consolidated.00.pth": half, "consolidated.01.pth": half}, `params.json: dim: want a positive integer, got "64"`},
		{"parallel, wrong dim", map[string]string{"params.json": `{"dim":128}`, "consolidated.00.pth": half, "consolidated.01.pth": half}, `tensor "tok_embeddings.weight" is [2048 32] in each of 2 files, params.json has dim 128`},
		{"parallel, one lacks a tensor", map[string]string{"params.json": params, "consolidated.00.safetensors": ab, "consolidated.01.safetensors": bc}, `tensor "c" is not in consolidated.00.safetensors`},
		{"parallel, one has less", map[string]string{"params.json": params, "consolidated.00.safetensors": bc, "consolidated.01.safetensors": c}, `tensor "b" is missing, but in consolidated.00.safetensors`},
		{"parallel, other shape", map[string]string{"params.json": params, "consolidated.00.safetensors": c,
			"consolidated.01.safetensors": string(weights(t, 0, map[string][]uint64{"c": {1, 2}}))}, `tensor "c" is F32 [1 2], but F32 [2] in consolidated.00.safetensors`},
		{"parallel, other copy", map[string]string{"params.json": params, "consolidated.00.safetensors": c,
			"consolidated.01.safetensors": string(weights(t, 1, map[string][]uint64{"c": {2}}))}, `tensor "c" differs from its copy in consolidated.00.safetensors`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := Open(directory(t, tt.files))
			if err == nil {
				c.Close()
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
	if _, err := Open(t.TempDir()); !errors.Is(err, ErrNoWeights) {
		t.Error(err)
	}
	if _, err := Open(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// TestByContent: what a file is called does not decide how it is read.
func TestByContent(t *testing.T) {
	zip, err := os.ReadFile(models + "micro/hf-bin/pytorch_model.bin")
	if err != nil {
		t.Fatal(err)
	}
	legacy, err := os.ReadFile(models + "micro/hf-bin-legacy/pytorch_model.bin")
	if err != nil {
		t.Fatal(err)
	}
	st := weights(t, 0, map[string][]uint64{"a": {2}})
	for name, data := range map[string][]byte{
		"model.safetensors": zip, "pytorch_model.bin": st, "x.pt": legacy, "other.bin": zip, "adapter_model.safetensors": st,
	} {
		dir := directory(t, map[string]string{name: string(data), "training_args.bin": "nothing"})
		for _, path := range []string{dir, filepath.Join(dir, name)} {
			c := open(t, path)
			if len(c.Tensors) == 0 || !slices.Equal(c.Files(), []string{filepath.Join(dir, name)}) {
				t.Errorf("%s: %d tensors of %v", path, len(c.Tensors), c.Files())
			}
		}
	}
}

func TestLinks(t *testing.T) {
	st := string(weights(t, 0, map[string][]uint64{"a": {2}}))
	root := directory(t, map[string]string{"outside.safetensors": st})
	link := func(target string, path ...string) string {
		p := filepath.Join(append([]string{root}, path...)...)
		if err := os.MkdirAll(filepath.Dir(p), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, p); err != nil {
			t.Skip("no symbolic links here:", err)
		}
		return filepath.Dir(p)
	}
	out := link("../outside.safetensors", "model", "model.safetensors")
	if _, err := Open(out); err == nil || !strings.Contains(err.Error(), "not a regular file of the checkpoint: a symbolic link leads out of it") {
		t.Error(err)
	}
	open(t, filepath.Join(out, "model.safetensors")) // the user named it

	snap := link("../../blobs/0123", "hub", "snapshots", "rev", "model.safetensors")
	if err := os.Mkdir(filepath.Join(root, "hub", "blobs"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "hub", "blobs", "0123"), []byte(st), 0o666); err != nil {
		t.Fatal(err)
	}
	open(t, snap)

	c := open(t, snap)
	link("../../../outside.safetensors", "hub", "snapshots", "rev", "config.json")
	if _, err := c.ReadFile("config.json"); err == nil || !strings.Contains(err.Error(), "leads out of it") {
		t.Error(err)
	}
	for _, name := range []string{"../config.json", "/etc/passwd", "a\x00b"} {
		if _, err := c.ReadFile(name); err == nil || !strings.Contains(err.Error(), "not local") {
			t.Errorf("%q: %v", name, err)
		}
	}
	link("loop", "hub", "snapshots", "rev", "loop")
	if _, err := c.ReadFile("loop"); err == nil {
		t.Error("a link to itself was read")
	}
}

func TestNotRegular(t *testing.T) {
	dir := directory(t, map[string]string{"model.safetensors": string(weights(t, 0, map[string][]uint64{"a": {2}}))})
	if err := os.Mkdir(filepath.Join(dir, "config.json"), 0o777); err != nil {
		t.Fatal(err)
	}
	c := open(t, dir)
	if _, err := c.JSON("config.json"); err == nil || !strings.Contains(err.Error(), "config.json: not a regular file") {
		t.Error(err)
	}
	if _, err := Open(os.DevNull); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Error(err)
	}
}

func TestConfigErrors(t *testing.T) {
	dir := directory(t, map[string]string{
		"model.safetensors":      string(weights(t, 0, map[string][]uint64{"a": {2}})),
		"config.json":            `{"hidden_size":1,"Hidden_Size":2}`,
		"params.json":            `{"dim":1,"dim":2}`,
		"generation_config.json": "{\"a\":\"\xff\"}",
		"tokenizer.json":         `{"a":1,"A":2}`,
		"tokenizer_config.json":  `[]`,
		"tokenizer.model":        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
		"adapter_config.json":    strings.Repeat(`{"a":`, 10001),
	})
	c := open(t, dir)
	for name, want := range map[string]string{
		"config.json":            `config.json: keys "hidden_size" and "Hidden_Size" differ only in case`,
		"params.json":            `params.json: duplicate key "dim"`,
		"generation_config.json": "generation_config.json: text not UTF-8",
		"tokenizer_config.json":  "tokenizer_config.json: no JSON object",
		"tokenizer.model":        "tokenizer.model: this is a Git LFS pointer",
		"adapter_config.json":    "adapter_config.json: JSON nested deeper than 100",
	} {
		if _, err := c.JSON(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	if m, err := c.JSON("tokenizer.json"); err != nil || len(m) != 2 {
		t.Error(m, err)
	}
	if _, err := c.ReadFile("none.json"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if c, err := OpenConfig(dir); err != nil || c.Layout != HuggingFace || len(c.Tensors) != 0 {
		t.Error(err)
	}
}

// TestInputChanges: a file that is cut or written to while it is read.
func TestInputChanges(t *testing.T) {
	path := filepath.Join(directory(t, map[string]string{"model.safetensors": string(weights(t, 0, map[string][]uint64{"a": {1000, 10}}))}), "model.safetensors")
	c := open(t, path)
	if err := c.Verify(); err != nil {
		t.Error(err)
	}
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(path, later, later); err != nil {
		t.Fatal(err)
	}
	if err := c.Verify(); err == nil || err.Error() != path+": input changed while reading" {
		t.Error(err)
	}
	if err := os.Truncate(path, 20000); err != nil {
		t.Fatal(err)
	}
	a := &c.Tensors[0]
	b := make([]byte, a.Count()*40)
	if err := a.ReadRows(b, 0, a.Count()); err == nil || err.Error() != path+": input changed while reading" {
		t.Error(err)
	}
	if err := a.ReadRows(b[:40], 1, 1); err != nil {
		t.Error(err)
	}
}

// TestReadError: what the system says, and where.
func TestReadError(t *testing.T) {
	path := filepath.Join(directory(t, map[string]string{"model.safetensors": string(weights(t, 0, map[string][]uint64{"a": {10, 10}}))}), "model.safetensors")
	c := open(t, path)
	if err := c.parts[0].in.f.Close(); err != nil {
		t.Fatal(err)
	}
	a := &c.Tensors[0]
	at := a.Rows.(*flat).off + 40
	err := a.ReadRows(make([]byte, 40), 1, 1)
	if want := fmt.Sprintf("%s: read error at %d: ", path, at); err == nil || !strings.HasPrefix(err.Error(), want) || !errors.Is(err, fs.ErrClosed) {
		t.Errorf("error %v, want %s...", err, want)
	}
}

// TestParallel joins four and eight files, with the embedding divided along
// the columns as in Llama 2 and along the rows as in Llama 3.
func TestParallel(t *testing.T) {
	const dim, vocab, ffn = 16, 24, 32
	for _, n := range []uint64{4, 8} {
		for _, rows := range []bool{false, true} {
			embed := []uint64{vocab, dim / n}
			if rows {
				embed = []uint64{vocab / n, dim}
			}
			shapes := map[string][]uint64{
				"tok_embeddings.weight": embed, "output.weight": {vocab / n, dim},
				"layers.0.attention.wq.weight": {dim / n, dim}, "layers.0.attention.wo.weight": {dim, dim / n},
				"layers.0.feed_forward.w1.weight": {ffn / n, dim}, "layers.0.feed_forward.w2.weight": {dim, ffn / n},
			}
			files := map[string]string{"params.json": fmt.Sprintf(`{"dim":%d}`, dim)}
			for i := range n {
				files[fmt.Sprintf("consolidated.%02d.safetensors", i)] = string(weights(t, byte(i*31), shapes))
			}
			c := open(t, directory(t, files))
			if c.Layout != Meta || len(c.Tensors) != len(shapes) {
				t.Fatalf("%v with %d tensors", c.Layout, len(c.Tensors))
			}
			for name, shape := range shapes {
				wide := strings.HasSuffix(name, ".wo.weight") || strings.HasSuffix(name, ".w2.weight") || name == "tok_embeddings.weight" && !rows
				var want []byte
				part := func(i, row, width uint64) {
					for j := range width {
						want = append(want, byte(row*width+j)+byte(i*31))
					}
				}
				if wide {
					for r := range shape[0] {
						for i := range n {
							part(i, r, shape[1]*4)
						}
					}
					shape = []uint64{shape[0], shape[1] * n}
				} else {
					for i := range n {
						for r := range shape[0] {
							part(i, r, shape[1]*4)
						}
					}
					shape = []uint64{shape[0] * n, shape[1]}
				}
				x, _ := c.Tensor(name)
				if fmt.Sprint(x.Shape) != fmt.Sprint(shape) || !bytes.Equal(contents(t, x), want) {
					t.Errorf("%d files: %s is wrong, shape %v", n, name, x.Shape)
				}
				piecewise(t, x, want)
			}
		}
	}
}

// piecewise reads rows in runs of all lengths.
func piecewise(t *testing.T, x *Tensor, want []byte) {
	t.Helper()
	size := x.Type().RowSize(x.Len())
	for n := 1; n <= x.Count(); n++ {
		for first := 0; first+n <= x.Count(); first++ {
			b := make([]byte, n*size)
			if err := x.ReadRows(b, first, n); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(b, want[first*size:][:n*size]) {
				t.Fatalf("%s: rows [%d,+%d) are wrong", x.Name, first, n)
			}
		}
	}
}

// TestViews reads tensors of PyTorch files that are transposed, cut out,
// repeated and shared.
func TestViews(t *testing.T) {
	const dir = "../../formats/torch/testdata/"
	j, err := os.ReadFile(dir + "odd.json")
	if err != nil {
		t.Fatal(err)
	}
	var want []struct {
		Name, Data string
		Shape      []int
	}
	if err := json.Unmarshal(j, &want); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"odd.pt", "odd-legacy.pt", "odd-deflated.pt", "odd-nocrc.pt"} {
		c := open(t, dir+file)
		for _, w := range want {
			x, ok := c.Tensor(w.Name)
			if !ok && file == "odd-legacy.pt" && w.Name == "f8" {
				continue
			}
			data, err := hex.DecodeString(w.Data)
			if !ok || err != nil {
				t.Errorf("%s: %s is missing", file, w.Name)
				continue
			}
			if !slices.Equal(x.Shape, w.Shape) || !bytes.Equal(contents(t, x), data) {
				t.Errorf("%s: %s is wrong", file, w.Name)
			}
			piecewise(t, x, data)
			err = x.Weights()
			if isInt := slices.Contains([]string{"i64", "u8", "bool", "f8"}, w.Name); isInt != (err != nil) {
				t.Errorf("%s: %v", w.Name, err)
			}
			if w.Name == "f8" && !strings.HasSuffix(err.Error(), `odd.pt: tensor "f8": dtype F8_E4M3 unsupported`) && file == "odd.pt" {
				t.Error(err)
			}
		}
		if err := c.Verify(); err != nil {
			t.Error(err)
		}
	}
}

// TestBadChecksum: a wrong byte among the weights is found before the output
// counts.
func TestBadChecksum(t *testing.T) {
	b, err := os.ReadFile(models + "micro/hf-bin/pytorch_model.bin")
	if err != nil {
		t.Fatal(err)
	}
	c := open(t, models+"micro/hf-bin")
	head := contents(t, &c.Tensors[0])[:64]
	i := bytes.Index(b, head)
	b[i] ^= 1
	c = open(t, directory(t, map[string]string{"pytorch_model.bin": string(b)}))
	if err := c.Verify(); err != nil {
		t.Error("nothing was read yet:", err)
	}
	contents(t, &c.Tensors[0])
	if err := c.Verify(); err == nil || !strings.HasSuffix(err.Error(), "pytorch_model.bin: CRC mismatch data/0") {
		t.Error(err)
	}
}

// TestAllocations: reading rows that stand in the file costs no memory.
func TestAllocations(t *testing.T) {
	c := open(t, models+"micro/hf")
	x := &c.Tensors[0]
	b := make([]byte, 4*x.Type().RowSize(x.Len()))
	if n := testing.AllocsPerRun(100, func() {
		if err := x.ReadRows(b, 3, 4); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
	if binary.LittleEndian.Uint64(b) == 0 {
		t.Error("nothing was read")
	}
}
