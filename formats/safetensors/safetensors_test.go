package safetensors

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	lib "github.com/nlpodyssey/safetensors"

	"github.com/smeltgguf/smelt/formats"
)

// file is a safetensors file of that header and n bytes of data.
func file(header string, n int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), make([]byte, n)...)
}

func read(b []byte) ([]Tensor, error) {
	return ReadHeader(bytes.NewReader(b), int64(len(b)), "f.safetensors")
}

func TestReadHeader(t *testing.T) {
	ts, err := read(file(`{"__metadata__":{"format":"pt"},"z":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},`+
		`"a\u0062":{"data_offsets":[24,26],"shape":[],"dtype":"BF16"},"none":{"dtype":"F64","shape":[4,0],"data_offsets":[26,26]},`+
		`"q":{"dtype":"F8_E4M3","shape":[3],"data_offsets":[26,29]},"half":{"dtype":"F4","shape":[2,1],"data_offsets":[29,30]}}   `, 30))
	if err != nil {
		t.Fatal(err)
	}
	start := ts[0].Offset - 24
	var got []string
	for _, x := range ts {
		got = append(got, fmt.Sprintf("%s %v %v %d+%d", x.Name, x.DType, x.Shape, x.Offset-start, x.Size))
	}
	want := []string{"ab BF16 [] 24+2", "half F4 [2 1] 29+1", "none F64 [4 0] 26+0", "q F8_E4M3 [3] 26+3", "z F32 [2 3] 0+24"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if ts, err := read(file(`{}`, 0)); err != nil || len(ts) != 0 {
		t.Error(ts, err)
	}
}

func TestHostile(t *testing.T) {
	entry := func(name, dtype, shape, offsets string) string {
		return fmt.Sprintf(`%q:{"dtype":%q,"shape":%s,"data_offsets":%s}`, name, dtype, shape, offsets)
	}
	one := func(dtype, shape, offsets string, n int) []byte {
		return file("{"+entry("w", dtype, shape, offsets)+"}", n)
	}
	w := entry("w", "F32", "[1]", "[0,4]")
	var same strings.Builder
	for i := range 100_000 {
		same.WriteString(entry(fmt.Sprint("t", i), "U8", "[1]", "[0,1]") + ",")
	}
	length := func(n uint64, total int) []byte {
		b := make([]byte, total)
		binary.LittleEndian.PutUint64(b, n)
		return b
	}
	for _, tt := range []struct {
		name string
		in   []byte
		want string
	}{
		{"nothing", nil, "header length truncated: 0 of 8 bytes"},
		{"7 bytes", make([]byte, 7), "header length truncated: 7 of 8 bytes"},
		{"negative length", length(1<<64-1, 88), "header 18446744073709551615 > file 88"},
		{"length", length(1000, 88), "header 1000 > file 88"},
		{"length with its own", length(88, 88), "header truncated: 80 of 88 bytes"},
		{"same bytes", file("{"+same.String()+entry("x", "U8", "[1]", "[0,1]")+"}", 1000), "offsets overlap: tensors"},
		{"bad UTF-8", file("{\"w\xff\":{}}", 0), "header not UTF-8, at offset 11"},
		{"depth", file(`{"w":`+strings.Repeat("[", 10001), 0), `tensor "w": want an object`},
		{"depth in an entry", file(`{"w":{"shape":`+strings.Repeat("[", 10001), 0), `tensor "w": bad shape`},
		{"duplicate name", file("{"+w+","+w+"}", 4), `duplicate key "w"`},
		{"duplicate name of other bytes", file("{"+w+","+entry("w", "F32", "[1]", "[4,8]")+"}", 8), `duplicate key "w"`},
		{"duplicate key", file(`{"w":{"dtype":"F32","dtype":"I32","shape":[1],"data_offsets":[0,4]}}`, 4), `duplicate key "dtype"`},
		{"case", file(`{"w":{"DTYPE":"F32","shape":[1],"data_offsets":[0,4]}}`, 4), `tensor "w": unknown key "DTYPE"`},
		{"second metadata", file(`{"__metadata__":{},"__metadata__":{}}`, 0), `duplicate key "__metadata__"`},
		{"hole", file("{"+w+","+entry("x", "F32", "[1]", "[8,12]")+"}", 12), "data not fully covered: byte 4 of 12 belongs to no tensor"},
		{"hole at the start", one("F32", "[1]", "[4,8]", 8), "data not fully covered: byte 0 of 8"},
		{"tail", one("F32", "[1]", "[0,4]", 5), "data not fully covered: byte 4 of 5"},
		{"tail after nothing", file("{}", 3), "data not fully covered: byte 0 of 3"},
		{"overlap", file("{"+entry("a", "F32", "[2]", "[0,8]")+","+entry("b", "F32", "[1]", "[4,8]")+"}", 12), `offsets overlap: tensors "a" and "b"`},
		{"begin after end", one("F32", "[1]", "[4,0]", 4), `tensor "w": bad data_offsets`},
		{"negative", one("F32", "[1]", "[-4,0]", 4), `tensor "w": bad data_offsets`},
		{"one offset", one("F32", "[1]", "[4]", 4), `tensor "w": bad data_offsets`},
		{"three offsets", one("F32", "[1]", "[0,4,8]", 4), `tensor "w": bad data_offsets`},
		{"no offsets", file(`{"w":{"dtype":"F32","shape":[1]}}`, 4), `tensor "w": bad data_offsets`},
		{"offsets are text", one("F32", "[1]", `"0"`, 4), `tensor "w": bad data_offsets`},
		{"past the end", one("F32", "[2]", "[0,8]", 4), `tensor "w" [0,8) exceeds the file's 4 bytes of data`},
		{"too few bytes", one("F32", "[1000,1000]", "[0,4]", 4), `tensor "w": needs 4000000 bytes, has 4`},
		{"shape wraps", one("F32", "[4294967296,4294967296,4294967296]", "[0,4]", 4), `tensor "w": shape overflows`},
		{"shape wraps to 4", one("F32", "[4611686018427387905]", "[0,4]", 4), `tensor "w": shape overflows`},
		{"shape of 2^64", one("F32", "[18446744073709551616]", "[0,4]", 4), `tensor "w": bad shape`},
		{"negative shape", one("F32", "[-1]", "[0,4]", 4), `tensor "w": bad shape`},
		{"fraction", one("F32", "[1.0]", "[0,4]", 4), `tensor "w": bad shape`},
		{"rank", one("F32", "[1"+strings.Repeat(",1", 64)+"]", "[0,4]", 4), `tensor "w": more than 64 dimensions`},
		{"no shape", file(`{"w":{"dtype":"F32","data_offsets":[0,4]}}`, 4), `tensor "w": shape missing`},
		{"no dtype", file(`{"w":{"shape":[1],"data_offsets":[0,4]}}`, 4), `tensor "w": dtype missing`},
		{"dtype", one("F6_E2M3", "[4]", "[0,3]", 3), `tensor "w": dtype F6_E2M3 unsupported`},
		{"dtype in lower case", one("f32", "[1]", "[0,4]", 4), `tensor "w": dtype f32 unsupported`},
		{"F4 of odd size", one("F4", "[3]", "[0,2]", 2), `tensor "w": 3 elements of F4 are no whole number of bytes`},
		{"metadata of numbers", file(`{"__metadata__":{"n":1}}`, 0), `metadata must be strings: "n" is not`},
		{"metadata list", file(`{"__metadata__":[]}`, 0), `metadata must be strings`},
		{"list", file(`[]`, 0), "header is no JSON object"},
		{"empty header", file(``, 8), "header is no JSON object"},
		{"space before", file(` {}`, 0), "header is no JSON object"},
		{"two objects", file(`{}{}`, 0), "JSON has '{', want its end"},
		{"NUL padding", file("{}\x00", 0), `JSON has '\x00', want its end`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := read(tt.in)
			runtime.ReadMemStats(&after)
			var fe *formats.FormatError
			if !errors.As(err, &fe) || !strings.HasPrefix(err.Error(), "f.safetensors: ") || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if got, limit := after.TotalAlloc-before.TotalAlloc, uint64(64<<20+4*len(tt.in)); got > limit {
				t.Errorf("%d MiB allocated for %d MiB", got>>20, len(tt.in)>>20)
			}
		})
	}
}

// sparse is a file of size bytes that begins with head and goes on with what
// repeat gives.
type sparse struct {
	head []byte
	unit string
	size int64
}

func (s sparse) ReadAt(p []byte, off int64) (int, error) {
	for i := range p {
		at := off + int64(i)
		switch {
		case at >= s.size:
			return i, io.EOF
		case at < int64(len(s.head)):
			p[i] = s.head[at]
		default:
			p[i] = s.unit[(at-int64(len(s.head)))%int64(len(s.unit))]
		}
	}
	return len(p), nil
}

func TestHugeHeader(t *testing.T) {
	head := binary.LittleEndian.AppendUint64(nil, maxHeader+1)
	_, err := ReadHeader(sparse{head, " ", 1 << 40}, 1<<40, "f")
	if err == nil || !strings.Contains(err.Error(), "header exceeds 100 MB") {
		t.Error(err)
	}
}

// TestManyTensors: a header near the limit, its tensors empty, so that nothing
// but their number is wrong.
func TestManyTensors(t *testing.T) {
	if testing.Short() {
		t.Skip("a header of 30 MB")
	}
	var b strings.Builder
	b.WriteString("{")
	for i := 0; b.Len() < 30<<20; i++ {
		fmt.Fprintf(&b, `"%x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},`, i)
	}
	in := file(b.String()+`"0":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}`, 0)
	b.Reset()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := read(in)
	runtime.ReadMemStats(&after)
	if err == nil || !strings.Contains(err.Error(), `duplicate key "0"`) {
		t.Error(err)
	}
	if got, limit := after.TotalAlloc-before.TotalAlloc, uint64(64<<20+4*len(in)); got > limit {
		t.Errorf("%d MiB allocated for %d MiB", got>>20, len(in)>>20)
	}
}

func TestIndex(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{`{"metadata":{"total_size":8},"weight_map":{"b":"2.bin","a":"1.bin","c":"2.bin"}}`, "[1.bin 2.bin] map[a:1.bin b:2.bin c:2.bin]"},
		{`{"weight_map":{"a":"../x"}}`, `shard name not local: "../x"`},
		{`{"weight_map":{"a":".."}}`, `shard name not local: ".."`},
		{`{"weight_map":{"a":"/etc/passwd"}}`, `shard name not local: "/etc/passwd"`},
		{`{"weight_map":{"a":"C:\\x"}}`, `shard name not local: "C:\\x"`},
		{`{"weight_map":{"a":"x\u0000.safetensors"}}`, `shard name not local: "x\x00.safetensors"`},
		{`{"weight_map":{"a":""}}`, `shard name not local: ""`},
		{`{"weight_map":{"a":"1","a":"2"}}`, `duplicate key "a"`},
		{`{"weight_map":{"a":1}}`, `weight_map: tensor "a": want a file name`},
		{`{"weight_map":{},"weight_map":{}}`, `duplicate key "weight_map"`},
		{`{"weight_map":[]}`, `weight_map is no object`},
		{`{"metadata":{}}`, `weight_map missing or empty`},
		{"{\"weight_map\":{\"\xff\":\"a\"}}", "index not UTF-8"},
		{`[]`, `index is no JSON object`},
		{`{"weight_map":{"a":"1"}} x`, "JSON has 'x', want its end"},
	} {
		ix, err := ReadIndex(strings.NewReader(tt.in), "i.json")
		got := ""
		if err != nil {
			got = strings.TrimPrefix(err.Error(), "i.json: ")
			if i := strings.LastIndex(got, ", at offset"); i >= 0 {
				got = got[:i]
			}
		} else {
			got = fmt.Sprint(ix.Files, ix.Tensors)
		}
		if got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.in, got, tt.want)
		}
	}
}

// FuzzReadHeader: what is accepted is what the library makes of it.
func FuzzReadHeader(f *testing.F) {
	for _, h := range []string{
		`{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`,
		`{"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]}}  `,
		`{"a":{"dtype":"F16","shape":[],"data_offsets":[0,2]},"b":{"dtype":"I16","shape":[3],"data_offsets":[2,8]}}`,
		`{"a":{"dtype":"F32","shape":[0,5],"data_offsets":[0,0]},"b":{"dtype":"U64","shape":[1],"data_offsets":[0,8]}}`,
		`{"w":{"dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8]}}`,
		`{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`,
	} {
		f.Add([]byte(h), 8)
	}
	f.Fuzz(func(t *testing.T, h []byte, n int) {
		if n < 0 || n > 1<<16 {
			return
		}
		in := file(string(h), n)
		ts, err := read(in)
		if err != nil {
			return
		}
		for _, x := range ts {
			if _, err := lib.ParseDType(x.DType.String()); err != nil {
				return // the library does not know the type
			}
		}
		size, m, err := lib.ReadMetadata(in)
		if err != nil {
			t.Fatalf("accepted %q, which the library does not: %v", h, err)
		}
		infos := m.Tensors()
		if len(infos) != len(ts) {
			t.Fatalf("%q: %d tensors, the library has %d", h, len(ts), len(infos))
		}
		for _, x := range ts {
			want := infos[x.Name]
			if want == nil || want.DType.String() != x.DType.String() || fmt.Sprint(want.Shape) != fmt.Sprint(x.Shape) ||
				int64(8+size+want.DataOffsets[0]) != x.Offset || int64(8+size+want.DataOffsets[1]) != x.Offset+x.Size {
				t.Fatalf("%q: %+v, the library has %+v", h, x, want)
			}
		}
	})
}

func FuzzReadIndex(f *testing.F) {
	b, err := os.ReadFile("../../testdata/models/micro/hf-sharded/model.safetensors.index.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"weight_map":{"a":"../x"}}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		ix, err := ReadIndex(bytes.NewReader(in), "i")
		if err != nil {
			return
		}
		for name, file := range ix.Tensors {
			if _, ok := slices.BinarySearch(ix.Files, file); !ok || strings.ContainsAny(file, "/\\\x00") || file == ".." {
				t.Fatalf("tensor %q in %q", name, file)
			}
		}
	})
}
