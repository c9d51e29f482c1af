package checkpoint

import (
	"bytes"
	"path/filepath"
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
	if got, want := c.File("x"), filepath.Join(models, "tiny/hf/x"); got != want {
		t.Errorf("File: %s, want %s", got, want)
	}
}
