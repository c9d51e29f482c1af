package gguf

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/smeltgguf/smelt/quant"
)

func writeSplit(t *testing.T, opt SplitOptions) (dir string, layouts []*Layout) {
	t.Helper()
	m := NewMetadata()
	m.Set("general.architecture", "llama")
	m.Set("general.alignment", uint32(64))
	ts := []*Tensor{
		NewTensor("a", quant.F32, []int{10}), NewTensor("b", quant.F32, []int{20}),
		NewTensor("c", quant.F32, []int{30}), NewTensor("d", quant.F32, []int{5}),
	}
	layouts, err := PlanSplit(m, ts, opt)
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	n := byte(1)
	for i, l := range layouts {
		b := make([]byte, l.Size)
		copy(b, l.Header)
		for j, x := range l.Tensors {
			copy(b[l.Offset(j):], bytes.Repeat([]byte{n}, int(x.Size())))
			n++
		}
		name := "m.gguf"
		if len(layouts) > 1 || opt.Resplit {
			name = SplitName("m.gguf", i, len(layouts))
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir, layouts
}

func TestSplit(t *testing.T) {
	for _, tt := range []struct {
		name  string
		opt   SplitOptions
		parts string // tensors of each part
	}{
		{"none", SplitOptions{}, "abcd"},
		{"two tensors", SplitOptions{MaxTensors: 2}, "ab|cd"},
		{"by size", SplitOptions{MaxSize: 120}, "ab|c|d"},
		{"a tensor larger than the bound", SplitOptions{MaxSize: 50}, "a|b|c|d"},
		{"as llama-gguf-split", SplitOptions{MaxSize: 127, Resplit: true}, "a|b|c|d"}, // 64 + 96 + 128 + 32 bytes with padding
		{"one part of llama-gguf-split", SplitOptions{Resplit: true}, "abcd"},
		{"metadata first", SplitOptions{MaxTensors: 3, NoTensorFirst: true}, "|abc|d"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, layouts := writeSplit(t, tt.opt)
			var parts []string
			for _, l := range layouts {
				s := ""
				for _, x := range l.Tensors {
					s += x.Name
				}
				parts = append(parts, s)
			}
			if got := strings.Join(parts, "|"); got != tt.parts {
				t.Fatalf("parts %s, want %s", got, tt.parts)
			}
			files, _ := filepath.Glob(filepath.Join(dir, "*"))
			for _, path := range files { // any part opens the whole
				f, err := Open(path)
				if err != nil {
					t.Fatal(err)
				}
				names := ""
				for i, x := range f.Tensors {
					names += x.Name
					b := make([]byte, x.Size())
					if err := f.Rows(x).ReadRows(b, 0, 1); err != nil || b[0] != byte(i+1) {
						t.Errorf("%s: %v, first byte %d", x.Name, err, b[0])
					}
				}
				if names != "abcd" || f.Metadata.Len() != 2 || len(f.Paths()) != len(layouts) {
					t.Errorf("%s: tensors %s, %d keys, files %v", path, names, f.Metadata.Len(), f.Paths())
				}
				if err := f.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestSplitHostile(t *testing.T) {
	for _, tt := range []struct {
		name   string
		damage func(t *testing.T, dir string)
		want   string
	}{
		{"a part missing", func(t *testing.T, dir string) {
			remove(t, dir, 1, 2)
		}, "split 2 of 2 missing"},
		{"renamed", func(t *testing.T, dir string) {
			rename(t, dir, "m-00001-of-00002.gguf", "other.gguf")
		}, "part 1 of 2 of a split model, but its name does not end in -00001-of-00002.gguf"},
		{"parts exchanged", func(t *testing.T, dir string) {
			rename(t, dir, "m-00001-of-00002.gguf", "x")
			rename(t, dir, "m-00002-of-00002.gguf", "m-00001-of-00002.gguf")
			rename(t, dir, "x", "m-00002-of-00002.gguf")
		}, "the name says part 1 of 2, the file part 2 of 2"},
		{"a part of another model", func(t *testing.T, dir string) {
			other, _ := writeSplit(t, SplitOptions{MaxTensors: 1})
			b, err := os.ReadFile(filepath.Join(other, "m-00002-of-00004.gguf"))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "m-00002-of-00002.gguf"), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "part 2 of 4 with 4 tensors in all"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, _ := writeSplit(t, SplitOptions{MaxTensors: 2})
			tt.damage(t, dir)
			path := filepath.Join(dir, "m-00001-of-00002.gguf")
			if _, err := os.Stat(path); err != nil {
				path = filepath.Join(dir, "other.gguf")
			}
			_, err := Open(path)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want ...%s...", err, tt.want)
			}
		})
	}
}

func remove(t *testing.T, dir string, no, count int) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, SplitName("m.gguf", no, count))); err != nil {
		t.Fatal(err)
	}
}

func rename(t *testing.T, dir, from, to string) {
	t.Helper()
	if err := os.Rename(filepath.Join(dir, from), filepath.Join(dir, to)); err != nil {
		t.Fatal(err)
	}
}
