package checkpoint

import (
	"bytes"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

const models = "../../testdata/models/"

// contents reads a tensor as a whole.
func contents(t *testing.T, x *Tensor) []byte {
	t.Helper()
	b := make([]byte, x.Count()*x.Type().RowSize(x.Len()))
	if err := x.ReadRows(b, 0, x.Count()); err != nil {
		t.Fatal(err)
	}
	return b
}

func open(t *testing.T, path string) *Checkpoint {
	t.Helper()
	c, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestSharded(t *testing.T) {
	one := open(t, models+"micro/hf")
	for _, path := range []string{"micro/hf-sharded", "micro/hf-sharded/model.safetensors.index.json", "micro/hf-sharded/model-00002-of-00003.safetensors"} {
		c := open(t, models+path)
		if c.Layout != HuggingFace || len(c.Tensors) != len(one.Tensors) {
			t.Fatalf("%v, %d tensors", c.Layout, len(c.Tensors))
		}
		for i := range one.Tensors {
			a := &one.Tensors[i]
			b, ok := c.Tensor(a.Name)
			if !ok || !bytes.Equal(contents(t, a), contents(t, b)) {
				t.Errorf("%s differs", a.Name)
			}
		}
		if got := len(c.Files()); got != 4 {
			t.Errorf("%d files", got)
		}
		if err := c.Verify(); err != nil {
			t.Error(err)
		}
	}
}

func TestConfigs(t *testing.T) {
	c := open(t, models+"tiny/hf/model.safetensors")
	m, err := c.JSON("config.json")
	if err != nil || m["model_type"] != "llama" {
		t.Error(m, err)
	}
	if _, err := c.JSON("config.json"); err != nil {
		t.Error(err)
	}
	dir := models + "tiny/hf/"
	if got, want := c.Files(), []string{dir + "model.safetensors", filepath.Clean(dir + "config.json")}; !slices.Equal(got, want) {
		t.Errorf("files %q, want %q", got, want)
	}
	if got, want := c.File("x"), filepath.Join(models, "tiny/hf/x"); got != want {
		t.Errorf("File: %s, want %s", got, want)
	}
}

// metaNames are Meta's names of what Hugging Face calls otherwise.
var metaNames = strings.NewReplacer(
	"model.embed_tokens", "tok_embeddings", "lm_head", "output", "model.norm", "norm", "model.layers", "layers",
	"self_attn.q_proj", "attention.wq", "self_attn.k_proj", "attention.wk", "self_attn.v_proj", "attention.wv", "self_attn.o_proj", "attention.wo",
	"mlp.gate_proj", "feed_forward.w1", "mlp.down_proj", "feed_forward.w2", "mlp.up_proj", "feed_forward.w3",
	"input_layernorm", "attention_norm", "post_attention_layernorm", "ffn_norm")

// interleave turns the rows of q or k from rotate-half order, Hugging Face's,
// into Meta's.
func interleave(b []byte, heads, rows int) []byte {
	rowSize, dim := len(b)/rows, rows/heads
	out := make([]byte, 0, len(b))
	for h := range heads {
		for i := range dim {
			src := h*dim + i/2 + i%2*dim/2
			out = append(out, b[src*rowSize:][:rowSize]...)
		}
	}
	return out
}

// TestSixForms: one set of weights, published in six ways.
func TestSixForms(t *testing.T) {
	want := open(t, models+"micro/hf")
	for _, form := range []string{"hf-sharded", "hf-bin", "hf-bin-legacy", "meta-1", "meta-2"} {
		t.Run(form, func(t *testing.T) {
			c := open(t, models+"micro/"+form)
			n := 0
			for i := range want.Tensors {
				w := &want.Tensors[i]
				name, data := w.Name, contents(t, w)
				if c.Layout == Meta {
					name = metaNames.Replace(name)
					switch {
					case strings.HasSuffix(name, ".wq.weight"):
						data = interleave(data, 4, 64)
					case strings.HasSuffix(name, ".wk.weight"):
						data = interleave(data, 2, 32)
					}
				}
				got, ok := c.Tensor(name)
				if !ok {
					t.Errorf("%s is missing", name)
					continue
				}
				n++
				if got.DType != w.DType || !slices.Equal(got.Shape, w.Shape) || !bytes.Equal(contents(t, got), data) {
					t.Errorf("%s differs", name)
				}
			}
			if _, ok := c.Tensor("rope.freqs"); ok {
				n++ // Meta saves what follows from params.json
			}
			if n != len(c.Tensors) {
				t.Errorf("%d tensors, want %d", len(c.Tensors), n)
			}
			if err := c.Verify(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestConcurrent: several workers read the same tensors at the same time.
func TestConcurrent(t *testing.T) {
	for _, path := range []string{models + "micro/hf", models + "micro/hf-bin", models + "micro/hf-bin-legacy", models + "micro/meta-2", "../../formats/torch/testdata/odd-deflated.pt"} {
		c := open(t, path)
		want := make([][]byte, len(c.Tensors))
		for i := range c.Tensors {
			want[i] = contents(t, &c.Tensors[i])
		}
		c = open(t, path)
		var wg sync.WaitGroup
		for w := range 4 {
			wg.Go(func() {
				for i := range c.Tensors {
					i = (i + w*len(c.Tensors)/4) % len(c.Tensors)
					x := &c.Tensors[i]
					size := x.Type().RowSize(x.Len())
					for first := 0; first < x.Count(); first += 3 {
						n := min(3, x.Count()-first)
						b := make([]byte, n*size)
						if err := x.ReadRows(b, first, n); err != nil {
							t.Error(err)
						}
						if !bytes.Equal(b, want[i][first*size:][:n*size]) {
							t.Errorf("%s: %s differs", path, x.Name)
						}
					}
				}
			})
		}
		wg.Wait()
		if err := c.Verify(); err != nil {
			t.Error(err)
		}
	}
}
