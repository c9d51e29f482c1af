package split

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/smeltgguf/smelt/formats/gguf"
)

const model = "../../formats/gguf/testdata/llamacpp-q4_0.gguf"

func write(t *testing.T, p *Plan, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Write(context.Background(), Options{}); err != nil {
		t.Fatal(err)
	}
}

// TestSplitMerge: merging what Split made gives the same file again.
func TestSplitMerge(t *testing.T) {
	want, err := os.ReadFile(model)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		opt  gguf.SplitOptions
		n    int
	}{
		{"tensors", gguf.SplitOptions{MaxTensors: 5}, 3},
		{"size", gguf.SplitOptions{MaxSize: 20_000}, 3},
		{"one part", gguf.SplitOptions{MaxTensors: 128}, 1},
		{"metadata first", gguf.SplitOptions{MaxTensors: 12, NoTensorFirst: true}, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			p, err := Split(model, filepath.Join(dir, "m"), tt.opt)
			write(t, p, err)
			if len(p.Paths) != tt.n {
				t.Errorf("parts %v, want %d", p.Paths, tt.n)
			}
			out := filepath.Join(dir, "out.gguf")
			p, err = Merge(p.Paths[tt.n-1], out)
			write(t, p, err)
			got, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Error("merged, the file differs")
			}
		})
	}
}

// TestKeys: the keys of each part, in llama-gguf-split's order.
func TestKeys(t *testing.T) {
	dir := t.TempDir()
	p, err := Split(model, filepath.Join(dir, "m.gguf"), gguf.SplitOptions{MaxTensors: 6})
	write(t, p, err)
	for i, path := range []string{"m-00001-of-00002.gguf", "m-00002-of-00002.gguf"} {
		b, err := os.ReadFile(filepath.Join(dir, path))
		if err != nil {
			t.Fatal(err)
		}
		no := "split.no\x02\x00\x00\x00" + string(rune(i)) + "\x00"
		n := "split.tensors.count\x05\x00\x00\x00\x0c\x00\x00\x00"
		count := "split.count\x02\x00\x00\x00\x02\x00"
		at := []int{bytes.Index(b, []byte(no)), bytes.Index(b, []byte(n)), bytes.Index(b, []byte(count))}
		if at[0] < 0 || at[1] < at[0] || at[2] < at[1] {
			t.Errorf("%s: split keys at %d", path, at)
		}
		if bytes.Contains(b, []byte("general.architecture")) != (i == 0) {
			t.Errorf("%s: all other keys belong to the first part alone", path)
		}
	}
}

func TestRefuses(t *testing.T) {
	dir := t.TempDir()
	p, err := Split(model, filepath.Join(dir, "m"), gguf.SplitOptions{MaxTensors: 6})
	write(t, p, err)
	parts := p.Paths
	if _, err := Merge(model, filepath.Join(dir, "out")); err == nil || !strings.Contains(err.Error(), "not a part of a split model") {
		t.Errorf("merging a whole model: %v", err)
	}
	p, err = Merge(parts[0], parts[1])
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Write(context.Background(), Options{Force: true}); err == nil || !strings.Contains(err.Error(), "output is an input") {
		t.Errorf("merging into a part: %v", err)
	}
	q, err := Split(model, filepath.Join(dir, "m"), gguf.SplitOptions{MaxTensors: 6})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	if err := q.Write(context.Background(), Options{}); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Errorf("splitting over old parts: %v", err)
	}
	if err := os.Remove(parts[1]); err != nil {
		t.Fatal(err)
	}
	if _, err := Merge(parts[0], filepath.Join(dir, "out")); err == nil || !strings.Contains(err.Error(), "split 2 of 2 missing") {
		t.Errorf("merging without a part: %v", err)
	}
}

// TestInterrupted leaves nothing behind.
func TestInterrupted(t *testing.T) {
	dir := t.TempDir()
	p, err := Split(model, filepath.Join(dir, "m"), gguf.SplitOptions{MaxTensors: 6})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := p.Write(ctx, Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if es, err := os.ReadDir(dir); err != nil || len(es) > 0 {
		t.Errorf("left behind: %v, %v", es, err)
	}
}
