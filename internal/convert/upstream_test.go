package convert

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smeltgguf/smelt/formats/gguf"
	"github.com/smeltgguf/smelt/internal/fixture"
)

// upstream are files that llama.cpp's converter made of the fixtures, by name:
// a line for each key and each tensor, arrays and weights as their CRC-32. Its
// recursion for Baichuan was mended for it; two fixtures it cannot convert. The
// pre-tokenizer is left out, which it knows by hashes of published vocabularies.
func upstream(t *testing.T) map[string]string {
	t.Helper()
	data, err := os.ReadFile("testdata/llamacpp.txt")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, part := range strings.Split("\n"+string(data), "\n# ")[1:] {
		name, lines, _ := strings.Cut(part, "\n")
		files[name] = strings.TrimSpace(lines)
	}
	return files
}

// TestUpstream converts the fixtures and wants llama.cpp's files: the same keys
// and tensors in the same order, the same values and bytes.
func TestUpstream(t *testing.T) {
	files := upstream(t)
	for _, m := range fixture.Models() {
		t.Run(m.Name, func(t *testing.T) {
			want, ok := files[m.Name]
			delete(files, m.Name)
			if !ok {
				if m.Name != "stablelm" && m.Name != "internlm2-bias" {
					t.Error("testdata/llamacpp.txt does not have it")
				}
				return
			}
			dir := filepath.Join(t.TempDir(), m.Name)
			if err := m.Write(dir); err != nil {
				t.Fatal(err)
			}
			f, err := gguf.Open(run(t, Options{In: dir, Outtype: "f32"}))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			var got []string
			for key, v := range f.Metadata.All() {
				if key != "tokenizer.ggml.pre" {
					got = append(got, key+" = "+valueLine(t, v))
				}
			}
			for i := range f.Tensors {
				got = append(got, tensorLine(t, f, f.Tensors[i]))
			}
			if diff := cmp.Diff(strings.Split(want, "\n"), got); diff != "" {
				t.Errorf("llama.cpp's (-) and ours (+):\n%s", diff)
			}
		})
	}
	for name := range files {
		t.Errorf("testdata/llamacpp.txt: there is no fixture %s", name)
	}
}

// valueLine says type and value; of an array type, length and CRC-32 of its
// elements as they stand in the file.
func valueLine(t *testing.T, v any) string {
	t.Helper()
	array := func(typ string, n int, elements []byte) string {
		return fmt.Sprintf("[]%s %d %08x", typ, n, crc32.ChecksumIEEE(elements))
	}
	var raw []byte
	switch v := v.(type) {
	case string:
		return "string " + v
	case bool:
		return fmt.Sprintf("bool %t", v)
	case uint32:
		return fmt.Sprintf("u32 %d", v)
	case float32:
		return fmt.Sprintf("f32 %08x", math.Float32bits(v))
	case []string:
		for _, s := range v {
			raw = append(binary.LittleEndian.AppendUint64(raw, uint64(len(s))), s...)
		}
		return array("string", len(v), raw)
	case []float32:
		for _, x := range v {
			raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(x))
		}
		return array("f32", len(v), raw)
	case []int32:
		for _, x := range v {
			raw = binary.LittleEndian.AppendUint32(raw, uint32(x))
		}
		return array("i32", len(v), raw)
	case []bool:
		for _, x := range v {
			raw = append(raw, map[bool]byte{true: 1}[x])
		}
		return array("bool", len(v), raw)
	}
	t.Fatalf("a value of type %T: the test has no case for it", v)
	return ""
}

func tensorLine(t *testing.T, f *gguf.File, x *gguf.Tensor) string {
	t.Helper()
	rows := f.Rows(x)
	raw := make([]byte, rows.Count()*x.Type.RowSize(rows.Len()))
	if err := rows.ReadRows(raw, 0, rows.Count()); err != nil {
		t.Fatal(err)
	}
	dims := strings.Trim(strings.ReplaceAll(fmt.Sprint(x.Dims), " ", ","), "[]")
	return fmt.Sprintf("%s %s %s %08x", x.Name, x.Type, dims, crc32.ChecksumIEEE(raw))
}
