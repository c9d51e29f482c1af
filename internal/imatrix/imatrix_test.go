package imatrix

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smeltgguf/smelt/formats/gguf"
	"github.com/smeltgguf/smelt/quant"
)

// legacy builds a file of the .dat form; its arguments are written one after
// the other, strings with their length before them.
func legacy(args ...any) []byte {
	var b []byte
	for _, a := range args {
		switch a := a.(type) {
		case int:
			b = binary.LittleEndian.AppendUint32(b, uint32(int32(a)))
		case string:
			b = binary.LittleEndian.AppendUint32(b, uint32(len(a)))
			b = append(b, a...)
		case []float32:
			b = binary.LittleEndian.AppendUint32(b, uint32(len(a)))
			for _, v := range a {
				b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
			}
		}
	}
	return b
}

func read(b []byte) (*Matrix, error) { return Read(bytes.NewReader(b), int64(len(b)), "f") }

func TestLegacy(t *testing.T) {
	m, err := read(legacy(2, "blk.0.attn_q.weight", 4, []float32{4, 8, 0}, "b", 0, []float32{3}, 17, "text.txt"))
	if err != nil {
		t.Fatal(err)
	}
	if got := m.Entry("blk.0.attn_q.weight").Values(); !slices.Equal(got, []float32{1, 2, 0}) {
		t.Errorf("values %v", got)
	}
	if got := m.Entry("b").Values(); !slices.Equal(got, []float32{3}) {
		t.Errorf("without calls: values %v", got)
	}
	if m.Chunks != 17 || !slices.Equal(m.Datasets, []string{"text.txt"}) || m.Len() != 2 {
		t.Errorf("%+v", m)
	}
	// Earlier files end after the entries or after the number of chunks.
	for _, end := range [][]any{{}, {5}} {
		if _, err := read(legacy(append([]any{1, "a", 1, []float32{1}}, end...)...)); err != nil {
			t.Error(err)
		}
	}
}

func TestSaveAndOpen(t *testing.T) {
	m := New()
	m.Datasets, m.Chunks, m.ChunkSize = []string{"a.txt", "b.txt"}, 3, 256
	m.Set("blk.1.ffn_down_exps.weight", &Entry{Sums: []float32{2, 4, 9, 9, 1, 2}, Counts: []float32{2, 0, 4}})
	m.Set("blk.0.attn_q.weight", &Entry{Sums: []float32{3, 6}, Counts: []float32{3}})
	path := filepath.Join(t.TempDir(), "m.gguf")
	if err := m.Save(path, false); err != nil {
		t.Fatal(err)
	}
	got, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(m, got, cmp.AllowUnexported(Matrix{}, Entry{})); d != "" {
		t.Error(d)
	}
	e := got.Entry("blk.1.ffn_down_exps.weight")
	if v := e.Values(); !slices.Equal(v, []float32{1, 2, 1, 1, 0.25, 0.5}) || e.Unseen() != 1 {
		t.Errorf("values %v, unseen %d", v, e.Unseen())
	}
	f, err := gguf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var keys, tensors []string
	for k := range f.Metadata.All() {
		keys = append(keys, k)
	}
	for _, x := range f.Tensors {
		tensors = append(tensors, x.Name)
	}
	if want := []string{"general.type", "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"}; !slices.Equal(keys, want) {
		t.Errorf("keys %q", keys)
	}
	if want := []string{
		"blk.0.attn_q.weight.in_sum2", "blk.0.attn_q.weight.counts",
		"blk.1.ffn_down_exps.weight.in_sum2", "blk.1.ffn_down_exps.weight.counts",
	}; !slices.Equal(tensors, want) {
		t.Errorf("tensors %q", tensors)
	}
}

// TestLazy reads values from files of both forms piece by piece.
func TestLazy(t *testing.T) {
	dir := t.TempDir()
	const n = 3 * 20000 // more than a piece of the file
	e := &Entry{Sums: make([]float32, n), Counts: []float32{2, 0, 4}}
	for i := range e.Sums {
		e.Sums[i] = float32(i % 1000)
	}
	m := New()
	m.Datasets, m.Chunks, m.ChunkSize = []string{"a.txt"}, 3, 256
	m.Set("a", &Entry{Sums: []float32{3}, Counts: []float32{1}})
	m.Set("b", e)
	if err := m.Save(filepath.Join(dir, "m.gguf"), false); err != nil {
		t.Fatal(err)
	}
	old := legacy(2, "a", 1, []float32{3}, "b", 4, e.Sums, 3)
	if err := os.WriteFile(filepath.Join(dir, "m.dat"), old, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"m.gguf", "m.dat"} {
		path := filepath.Join(dir, name)
		whole, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		lazy, err := OpenLazy(path)
		if err != nil {
			t.Fatal(err)
		}
		got, want := lazy.Filter(func(tensor string) bool { return tensor == "b" }).Entry("b"), whole.Entry("b").Values()
		if got.Len() != n || got.Sums != nil || whole.Entry("b").Len() != n {
			t.Errorf("%s: %d values, %d of them held", name, got.Len(), len(got.Sums))
		}
		for _, r := range [][2]int{{0, n}, {0, 1}, {n - 1, n}, {19999, 20001}, {12345, 54321}, {7, 7}} {
			dst := make([]float32, r[1]-r[0])
			if err := got.ReadValues(dst, r[0]); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(dst, want[r[0]:r[1]]) {
				t.Errorf("%s: values %d to %d differ", name, r[0], r[1])
			}
		}
		if err := lazy.Close(); err != nil {
			t.Fatal(err)
		}
		if err := got.ReadValues(make([]float32, 1), 0); err == nil {
			t.Errorf("%s: read from a closed file", name)
		}
	}
}

// TestLazyMemory opens a matrix of many experts.
func TestLazyMemory(t *testing.T) {
	const values = 16 << 20
	path := filepath.Join(t.TempDir(), "m.dat")
	head := legacy(1, "blk.0.ffn_up_exps.weight", 1, values)
	if err := os.WriteFile(path, head, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, int64(len(head)+4*values)); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	m, err := OpenLazy(path)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	row := make([]float32, 4096)
	if err := m.Entry("blk.0.ffn_up_exps.weight").ReadValues(row, values-len(row)); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > values/2 {
		t.Errorf("%d bytes allocated for a matrix of %d", n, 4*values)
	}
}

func TestMerge(t *testing.T) {
	make := func() *Matrix {
		m := New()
		m.Datasets, m.Chunks, m.ChunkSize = []string{"a.txt"}, 3, 256
		m.Set("a", &Entry{Sums: []float32{1, 2}, Counts: []float32{1}})
		return m
	}
	m, other := make(), make()
	other.Datasets = []string{"b.txt"}
	other.Set("b", &Entry{Sums: []float32{5}, Counts: []float32{2}})
	if err := m.Merge(other); err != nil {
		t.Fatal(err)
	}
	if a := m.Entry("a"); !slices.Equal(a.Sums, []float32{2, 4}) || a.Counts[0] != 2 {
		t.Errorf("a: %+v", a)
	}
	if m.Chunks != 6 || m.Len() != 2 || !slices.Equal(m.Datasets, []string{"a.txt", "b.txt"}) {
		t.Errorf("%+v", m)
	}
	other.Entry("b").Sums[0] = 100
	if m.Entry("b").Sums[0] != 5 {
		t.Error("a merged entry is shared with its source")
	}
	wrong := make()
	wrong.Set("a", &Entry{Sums: []float32{1}, Counts: []float32{1}})
	if err := m.Merge(wrong); err == nil || !strings.Contains(err.Error(), `importance of "a": 2 values`) {
		t.Errorf("error %v", err)
	}
	wrong.ChunkSize = 512
	if err := m.Merge(wrong); err == nil || !strings.Contains(err.Error(), "chunks of 256 and of 512 tokens") {
		t.Errorf("error %v", err)
	}
}

// ggufFile builds a file of the GGUF form from tensors of float32.
func ggufFile(t *testing.T, meta *gguf.Metadata, tensors map[string][]float32) []byte {
	t.Helper()
	var names []string
	for n := range tensors {
		names = append(names, n)
	}
	slices.Sort(names)
	var ts []*gguf.Tensor
	for _, n := range names {
		ts = append(ts, &gguf.Tensor{Name: n, Type: quant.F32, Dims: []uint64{uint64(len(tensors[n]))}})
	}
	l, err := gguf.Plan(meta, ts)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, l.Size)
	copy(b, l.Header)
	for i, n := range names {
		for j, v := range tensors[n] {
			binary.LittleEndian.PutUint32(b[int(l.Offset(i))+4*j:], math.Float32bits(v))
		}
	}
	return b
}

func TestHostile(t *testing.T) {
	nan := float32(math.NaN())
	meta := gguf.NewMetadata()
	meta.Set("imatrix.datasets", []string{"x"})
	meta.Set("imatrix.chunk_count", uint32(1))
	meta.Set("imatrix.chunk_size", uint32(8))
	noChunks := meta.Clone()
	noChunks.Delete("imatrix.chunk_count")
	one := map[string][]float32{"a.in_sum2": {1, 2}, "a.counts": {1}}
	tests := []struct {
		name string
		b    []byte
		want string
	}{
		{"empty", nil, "f: neither GGUF nor a legacy importance matrix, or truncated: needs 4 bytes, has 0, at offset 0"},
		{"text", []byte("hello, this is not one"), "bytes, has 14, at offset 8"},
		{"no entries", legacy(0), "without entries"},
		{"negative", legacy(-1), "number of entries is -1"},
		{"name too long", legacy(1, 1<<30), "needs 1073741824 bytes"},
		{"cut name", legacy(1, "abc")[:9], "truncated: needs 3 bytes, has 1"},
		{"values missing", legacy(1, "a", 1, 1<<29), "needs 2147483648 bytes, has 0"},
		{"no values", legacy(1, "a", 1, 0), `entry "a": 0 values for 1 matrices`},
		{"second entry missing", legacy(2, "a", 1, []float32{1}), "truncated"},
		{"NaN", legacy(1, "a", 1, []float32{1, nan}), `entry "a": value 1 is NaN`},
		{"negative value", legacy(1, "a", 1, []float32{-1}), `entry "a": value 0 is -1`},
		{"infinite", legacy(1, "a", 1, []float32{float32(math.Inf(1))}), "value 0 is +Inf"},
		{"twice", legacy(2, "a", 1, []float32{1}, "a", 1, []float32{1}), `duplicate entry "a"`},
		{"cut chunks", append(legacy(1, "a", 1, []float32{1}), 1, 2), "needs 4 bytes, has 2"},
		{"gguf header only", []byte("GGUF"), "truncated"},
		{"gguf without keys", ggufFile(t, gguf.NewMetadata(), one), "no importance matrix: imatrix.datasets"},
		{"gguf without chunks", ggufFile(t, noChunks, one), "no importance matrix: imatrix.chunk_count"},
		{"gguf without entries", ggufFile(t, meta, nil), "without entries"},
		{"gguf without counts", ggufFile(t, meta, map[string][]float32{"a.in_sum2": {1}}), `tensor "a.in_sum2" without "a.counts"`},
		{"gguf without sums", ggufFile(t, meta, map[string][]float32{"a.counts": {1}}), `tensor "a.counts" without "a.in_sum2"`},
		{"gguf NaN", ggufFile(t, meta, map[string][]float32{"a.in_sum2": {1, nan}, "a.counts": {1}}), `tensor "a": value 1 is NaN`},
		{"gguf NaN count", ggufFile(t, meta, map[string][]float32{"a.in_sum2": {1}, "a.counts": {nan}}), `count 0 is NaN`},
		{"gguf sizes", ggufFile(t, meta, map[string][]float32{"a.in_sum2": {1, 2, 3}, "a.counts": {1, 1}}), "3 values for 2 matrices"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := read(tt.b); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
	if _, err := Open(t.TempDir()); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("directory: %v", err)
	}
	if _, err := Open(filepath.Join(t.TempDir(), "x")); err == nil || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

// FuzzRead checks that whatever is accepted has usable values.
func FuzzRead(f *testing.F) {
	f.Add(legacy(2, "a", 4, []float32{4, 8, 0}, "b", 0, []float32{3}, 17, "text.txt"))
	f.Add(legacy(1, "a", 1, []float32{1}))
	f.Add([]byte("GGUF"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := read(b)
		if err != nil {
			return
		}
		for _, name := range m.Names() {
			for _, v := range m.Entry(name).Values() {
				if !(v >= 0) {
					t.Fatalf("%q: %v", name, v)
				}
			}
		}
	})
}
