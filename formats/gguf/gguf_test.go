package gguf

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/quant"
)

// everyType has a value of every type that GGUF has.
func everyType() *Metadata {
	m := NewMetadata()
	for _, kv := range []struct {
		k string
		v any
	}{
		{"general.architecture", "llama"},
		{"u8", uint8(200)}, {"i8", int8(-3)}, {"u16", uint16(60000)}, {"i16", int16(-300)},
		{"u32", uint32(1 << 31)}, {"i32", int32(-1 << 31)}, {"u64", uint64(1 << 63)}, {"i64", int64(-1 << 63)},
		{"f32", float32(1.5)}, {"f64", math.Pi}, {"true", true}, {"false", false}, {"s", "text\x00\xff"}, {"empty", ""},
		{"au8", []uint8{1, 2}}, {"ai8", []int8{-1}}, {"au16", []uint16{1}}, {"ai16", []int16{-1}},
		{"au32", []uint32{1}}, {"ai32", []int32{-1}}, {"au64", []uint64{1}}, {"ai64", []int64{-1}},
		{"af32", []float32{0.5, -2}}, {"af64", []float64{0.25}}, {"ab", []bool{true, false}},
		{"as", []string{"a", "", "long enough to matter"}}, {"none", []string{}},
	} {
		m.Set(kv.k, kv.v)
	}
	return m
}

func someTensors() []*Tensor {
	return []*Tensor{
		NewTensor("a", quant.F32, []int{3, 5}),
		NewTensor("q", quant.Q4_0, []int{2, 2, 64}),
		NewTensor("scalar", quant.F32, nil),
		NewTensor("none", quant.F16, []int{0, 7}),
		NewTensor("z", quant.F16, []int{1}),
	}
}

// encode gives the whole file, tensor i filled with byte i+1.
func encode(t *testing.T, m *Metadata, ts []*Tensor) []byte {
	t.Helper()
	l, err := Plan(m, ts)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, l.Size)
	copy(b, l.Header)
	for i, x := range l.Tensors {
		for j := range x.Size() {
			b[uint64(l.Offset(i))+j] = byte(i + 1)
		}
	}
	return b
}

func open(b []byte) (*File, error) { return NewFile(bytes.NewReader(b), int64(len(b)), "f") }

func TestRoundTrip(t *testing.T) {
	m, ts := everyType(), someTensors()
	data := encode(t, m, ts)
	f, err := open(data)
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for k, v := range f.Metadata.All() {
		keys = append(keys, k)
		want, _ := m.Get(k)
		if !reflect.DeepEqual(v, want) {
			t.Errorf("%s = %#v, want %#v", k, v, want)
		}
	}
	if !reflect.DeepEqual(keys, m.keys) {
		t.Errorf("keys %v, want %v", keys, m.keys)
	}
	if len(f.Tensors) != len(ts) {
		t.Fatalf("%d tensors, want %d", len(f.Tensors), len(ts))
	}
	for i, x := range f.Tensors {
		if x.Name != ts[i].Name || x.Type != ts[i].Type || !reflect.DeepEqual(x.Dims, ts[i].Dims) && len(x.Dims) > 0 {
			t.Errorf("tensor %d: %+v, want %+v", i, x, ts[i])
		}
		r := f.Rows(x)
		got := make([]byte, x.Size())
		if err := r.ReadRows(got, 0, r.Count()); err != nil {
			t.Errorf("%s: %v", x.Name, err)
		}
		if !bytes.Equal(got, bytes.Repeat([]byte{byte(i + 1)}, len(got))) {
			t.Errorf("%s: other bytes", x.Name)
		}
	}
	if f.Trailing() != 0 {
		t.Errorf("%d trailing bytes", f.Trailing())
	}
	if again := encode(t, f.Metadata, f.Tensors); !bytes.Equal(again, data) {
		t.Error("written again, the file differs")
	}
}

func TestBytes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.gguf")
	if err := os.WriteFile(path, encode(t, everyType(), someTensors()), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Map(); err != nil {
		t.Fatal(err)
	}
	for i, x := range f.Tensors {
		if b := f.Bytes(x); !bytes.Equal(b, bytes.Repeat([]byte{byte(i + 1)}, int(x.Size()))) {
			t.Errorf("%s: %x", x.Name, b)
		}
	}
	if err := f.Changed(); err != nil {
		t.Error(err)
	}
	if err := os.Truncate(path, 100); err != nil {
		t.Fatal(err)
	}
	if err := f.Changed(); !errors.Is(err, formats.ErrChanged) {
		t.Errorf("a file cut short: %v", err)
	}
	if err := f.Rows(f.Tensors[0]).ReadRows(make([]byte, 20), 0, 1); err == nil || !strings.Contains(err.Error(), "input changed while reading") {
		t.Errorf("reading a file cut short: %v", err)
	}
}

// TestReadBlocks reads tensors through buffers of all sizes that hold a block.
func TestReadBlocks(t *testing.T) {
	f, err := open(encode(t, everyType(), someTensors()))
	if err != nil {
		t.Fatal(err)
	}
	for i, x := range f.Tensors {
		block := x.Type.BlockSize()
		for size := block; size <= int(x.Size())+block; size++ {
			var got []byte
			err := f.ReadBlocks(context.Background(), x, make([]byte, size), func(b []byte) error {
				if len(b) > size || len(b)%block != 0 {
					t.Errorf("%s: %d bytes through %d", x.Name, len(b), size)
				}
				got = append(got, b...)
				return nil
			})
			if err != nil || !bytes.Equal(got, bytes.Repeat([]byte{byte(i + 1)}, int(x.Size()))) {
				t.Errorf("%s through %d: %v, %x", x.Name, size, err, got)
			}
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	calls := 0
	err = f.ReadBlocks(ctx, f.Tensor("q"), make([]byte, 18), func([]byte) error { calls++; cancel(); return nil })
	if !errors.Is(err, context.Canceled) || calls != 1 {
		t.Errorf("interrupted: %v after %d calls", err, calls)
	}
	if err := f.ReadBlocks(context.Background(), f.Tensor("q"), make([]byte, 18), func([]byte) error { return io.ErrShortWrite }); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("an error of the function: %v", err)
	}
}

// TestGuard reads a mapped page that the file no longer backs.
func TestGuard(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a mapped file cannot be cut short on Windows")
	}
	path := filepath.Join(t.TempDir(), "m.gguf")
	m := NewMetadata()
	m.Set("general.architecture", "llama")
	if err := os.WriteFile(path, encode(t, m, []*Tensor{NewTensor("w", quant.F32, []int{1 << 16})}), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Map(); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 64); err != nil {
		t.Fatal(err)
	}
	b := f.Bytes(f.Tensors[0])
	var last byte
	err = formats.Guard(func() error { last = b[len(b)-1]; return nil })
	if !errors.Is(err, formats.ErrChanged) {
		t.Errorf("read %d, error %v; want %v", last, err, formats.ErrChanged)
	}
	if err := formats.Guard(func() error { return io.EOF }); !errors.Is(err, io.EOF) {
		t.Errorf("an error of the function itself came out as %v", err)
	}
}

// file is a hand-made GGUF, for what the writer refuses to make.
type file struct{ bytes.Buffer }

func (f *file) put(vs ...any) *file {
	for _, v := range vs {
		if s, ok := v.(string); ok {
			f.put(uint64(len(s)))
			f.WriteString(s)
			continue
		}
		if err := binary.Write(f, binary.LittleEndian, v); err != nil {
			panic(err)
		}
	}
	return f
}

func header(version uint32, tensors, keys uint64) *file {
	f := &file{}
	f.WriteString("GGUF")
	return f.put(version, tensors, keys)
}

// key puts one key into an otherwise empty file.
func key(vs ...any) []byte { return header(3, 0, 1).put(vs...).Bytes() }

// tensor puts one tensor info and 64 bytes of data after it.
func tensor(vs ...any) []byte {
	f := header(3, 1, 0).put(vs...)
	f.Write(make([]byte, (32-f.Len()%32)%32+64))
	return f.Bytes()
}

type u32 = uint32

func TestHostile(t *testing.T) {
	two := func(name string, off uint64) []byte {
		f := header(3, 2, 0).put("a", u32(1), uint64(2), u32(0), uint64(0), name, u32(1), uint64(2), u32(0), off)
		f.Write(make([]byte, (32-f.Len()%32)%32+64))
		return f.Bytes()
	}
	align := func(v any, typ uint32) []byte { return key("general.alignment", typ, v) }
	for _, tt := range []struct {
		row  int // of the table of hostile inputs
		name string
		data []byte
		want string
		kind formats.Kind
	}{
		{1, "magic only", []byte("GGUF"), "f: truncated header: 4 of 24 bytes", formats.Malformed},
		{1, "empty", nil, "f: truncated header: 0 of 24 bytes", formats.Malformed},
		{3, "past the end", tensor("X", u32(1), uint64(1000), u32(0), uint64(0)), `tensor "X" [64,4064) exceeds file size 128`, formats.Malformed},
		{4, "GGJT", append([]byte("ggjt"), make([]byte, 60)...), `not GGUF (magic "ggjt")`, formats.Malformed},
		{5, "big-endian", append([]byte("GGUF\x00\x00\x00\x03"), make([]byte, 60)...), "big-endian GGUF unsupported", formats.Unsupported},
		{6, "version 0", header(0, 0, 0).Bytes(), "unsupported version 0", formats.Unsupported},
		{6, "version 1", header(1, 0, 0).Bytes(), "unsupported version 1", formats.Unsupported},
		{6, "version 4", header(4, 0, 0).Bytes(), "unsupported version 4", formats.Unsupported},
		{7, "version 1, an empty string", header(1, 0, 1).put(u32(0), u32(8), u32(0)).Bytes(), "unsupported version 1", formats.Unsupported},
		{8, "2^63 keys", append(header(3, 0, 1<<63).Bytes(), make([]byte, 19)...), "n_kv 9223372036854775808 impossible in 43 bytes", formats.Malformed},
		{9, "2^63 tensors", append(header(3, 1<<63, 0).Bytes(), make([]byte, 19)...), "n_tensors 9223372036854775808 impossible in 43 bytes", formats.Malformed},
		{10, "string length", key("k", u32(8), uint64(math.MaxUint64)), `key "k": string length 18446744073709551615 > remaining 0`, formats.Malformed},
		{10, "key length", key(uint64(math.MaxUint64), uint64(0)), "key 0: string length 18446744073709551615 > remaining 8", formats.Malformed},
		{11, "array count", key("k", u32(9), u32(5), uint64(1<<62)), `key "k": array count 4611686018427387904 > remaining 0 bytes`, formats.Malformed},
		{12, "nested arrays", key("k", u32(9), u32(9), uint64(1), u32(9), uint64(1)), `key "k": nested array unsupported`, formats.Unsupported},
		{13, "value type 13", key("k", u32(13), uint64(0)), `key "k": type 13`, formats.Malformed},
		{13, "value type -1", key("k", int32(-1), uint64(0)), `key "k": type -1`, formats.Malformed},
		{13, "element type 13", key("k", u32(9), u32(13), uint64(0)), `key "k": array of type 13`, formats.Malformed},
		{14, "duplicate key", header(3, 0, 2).put("k", u32(0), uint8(1), "k", u32(0), uint8(2)).Bytes(), `duplicate key "k"`, formats.Malformed},
		{15, "a million keys", append(header(3, 0, 1e6).Bytes(), make([]byte, 13e6)...), "n_kv 1000000: more than 65536 keys", formats.Unsupported},
		{16, "empty key", key("", u32(0), uint8(1)), "key 0: empty name", formats.Malformed},
		{16, "key not UTF-8", key("k\xff", u32(0), uint8(1)), `key 0: name "k\xff" is not UTF-8`, formats.Malformed},
		{16, "NUL in a tensor's name", tensor("abc\x00d", u32(1), uint64(2), u32(0), uint64(0)), "tensor info 0: name has NUL at 3", formats.Malformed},
		{17, "alignment 0", align(u32(0), 4), "alignment 0", formats.Malformed},
		{18, "alignment 2^31", align(u32(1<<31), 4), "alignment must be a u32 power of two <= 1 MiB, got u32 2147483648", formats.Malformed},
		{18, "alignment 24", align(u32(24), 4), "alignment must be a u32 power of two <= 1 MiB, got u32 24", formats.Malformed},
		{18, "alignment as i32", align(int32(32), 5), "alignment must be a u32 power of two <= 1 MiB, got i32 32", formats.Malformed},
		{19, "5 dimensions", tensor("X", u32(5), [5]uint64{1, 1, 1, 1, 1}, u32(0), uint64(0)), `tensor "X": n_dims 5 > 4`, formats.Malformed},
		{19, "2^32-1 dimensions", tensor("X", u32(math.MaxUint32), uint64(0)), `tensor "X": n_dims 4294967295 > 4`, formats.Malformed},
		{21, "product wraps to 4", tensor("X", u32(2), uint64(1<<63+2), uint64(2), u32(0), uint64(0)), `tensor "X": element count overflows`, formats.Malformed},
		{21, "product wraps behind a zero", tensor("X", u32(3), uint64(0), uint64(1<<40), uint64(1<<40), u32(0), uint64(0)), `tensor "X": element count overflows`, formats.Malformed},
		{22, "size wraps", tensor("X", u32(1), uint64(1<<62), u32(0), uint64(0)), `tensor "X": data size overflows`, formats.Malformed},
		{23, "type 5", tensor("X", u32(1), uint64(2), u32(5), uint64(0)), `tensor "X": unknown type 5`, formats.Unsupported},
		{23, "type -1", tensor("X", u32(1), uint64(2), int32(-1), uint64(0)), `tensor "X": unknown type -1`, formats.Unsupported},
		{23, "type past the last", tensor("X", u32(1), uint64(2), u32(1000), uint64(0)), `tensor "X": unknown type 1000`, formats.Unsupported},
		{24, "row 31", tensor("X", u32(1), uint64(31), u32(2), uint64(0)), `tensor "X": row 31 not a multiple of 32 (Q4_0)`, formats.Malformed},
		{25, "misaligned", two("b", 40), `tensor "b": offset 40, expected 32`, formats.Malformed},
		{25, "overlapping", two("b", 0), `tensor "b": offset 0, expected 32`, formats.Malformed},
		{25, "a hole", two("b", 64), `tensor "b": offset 64, expected 32`, formats.Malformed},
		{26, "duplicate tensor", two("a", 32), `duplicate tensor "a"`, formats.Malformed},
		{15, "a million tensors", append(header(3, 1e6, 0).Bytes(), make([]byte, 24e6)...), "n_tensors 1000000: more than 65536 tensors", formats.Unsupported},
		{0, "bool of 2 in an array", key("k", u32(9), u32(7), uint64(2), uint16(0x0201)), `key "k": bool of value 2`, formats.Malformed},
		{0, "bool of 2", key("k", u32(7), uint8(2)), `key "k": bool of value 2`, formats.Malformed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := open(tt.data)
			runtime.ReadMemStats(&after)
			if err == nil {
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q, want ...%s...", err, tt.want)
			}
			var fe *formats.FormatError
			if !errors.As(err, &fe) || fe.Kind != tt.kind {
				t.Errorf("kind of %v: want %d", err, tt.kind)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > 64<<20+4*uint64(len(tt.data)) {
				t.Errorf("%d bytes allocated for %d", n, len(tt.data))
			}
		})
	}
}

// zeros is a file of the given size that holds head, then zeros.
type zeros struct {
	head []byte
	size int64
}

func (z zeros) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	if off < int64(len(z.head)) {
		copy(p, z.head[off:])
	}
	if off+int64(len(p)) > z.size {
		return int(max(0, z.size-off)), io.EOF
	}
	return len(p), nil
}

// TestHugeMetadata has counts that a file of a terabyte could hold.
func TestHugeMetadata(t *testing.T) {
	for _, tt := range []struct {
		name string
		head []byte
	}{
		{"string", key("k", u32(8), uint64(1<<39))},
		{"strings", key("k", u32(9), u32(8), uint64(1<<36))},
		{"floats", key("k", u32(9), u32(6), uint64(1<<37))},
		{"long strings", key("k", u32(9), u32(8), uint64(2), uint64(1<<39))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := NewFile(zeros{tt.head, 1 << 40}, 1<<40, "f")
			runtime.ReadMemStats(&after)
			if err == nil || !strings.Contains(err.Error(), "metadata of more than 128 MiB") {
				t.Errorf("error %v", err)
			}
			if n := after.TotalAlloc - before.TotalAlloc; n > 64<<20 {
				t.Errorf("%d bytes allocated", n)
			}
		})
	}
}

// TestMemory reads what costs the most memory for its size in a file.
func TestMemory(t *testing.T) {
	const n = 1 << 18
	emptyStrings := header(3, 0, 1).put("k", u32(9), u32(8), uint64(n))
	emptyStrings.Write(make([]byte, 8*n))
	keys := header(3, 0, maxKeys)
	for i := range maxKeys {
		keys.put(strconv.Itoa(i), u32(0), uint8(0))
	}
	tensors := header(3, maxTensors, 0)
	for i := range maxTensors {
		tensors.put(strconv.Itoa(i), u32(1), uint64(0), u32(0), uint64(0))
	}
	for _, tt := range []struct {
		name string
		data []byte
	}{
		{"empty strings", emptyStrings.Bytes()}, {"tiny keys", keys.Bytes()}, {"tiny tensors", tensors.Bytes()},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := open(tt.data); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 64<<20+4*uint64(len(tt.data)) {
			t.Errorf("%s: %d bytes allocated for %d", tt.name, n, len(tt.data))
		}
	}
}

// badDisk fails from a position on.
type badDisk struct {
	io.ReaderAt
	from int64
}

func (d badDisk) ReadAt(p []byte, off int64) (int, error) {
	if n := int(max(0, d.from-off)); n < len(p) {
		n, _ = d.ReaderAt.ReadAt(p[:n], off)
		return n, errors.New("the disk is broken")
	}
	return d.ReaderAt.ReadAt(p, off)
}

func TestReadError(t *testing.T) {
	data := encode(t, everyType(), someTensors())
	if _, err := NewFile(badDisk{bytes.NewReader(data), 100}, int64(len(data)), "f"); err == nil || !strings.Contains(err.Error(), "f: read error at ") {
		t.Errorf("in the metadata: %v", err)
	}
	f, err := open(data)
	if err != nil {
		t.Fatal(err)
	}
	q := f.Tensor("q")
	at := f.parts[0].dataOffset + int64(q.Offset) + 40
	f.parts[0].r = badDisk{f.parts[0].r, at}
	err = f.Rows(q).ReadRows(make([]byte, q.Size()), 0, q.Rows())
	if want := fmt.Sprintf(`f: tensor "q": read error at %d: the disk is broken`, at); err == nil || err.Error() != want {
		t.Errorf("in a tensor: %v, want %s", err, want)
	}
}

// TestLlamaCpp reads a file that llama.cpp's quantizer wrote; written again, it
// is the same to the byte.
func TestLlamaCpp(t *testing.T) {
	const path = "testdata/llamacpp-q4_0.gguf"
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Metadata.Architecture() != "llama" || len(f.Tensors) != 12 || f.Trailing() != 0 {
		t.Errorf("architecture %q, %d tensors, %d trailing bytes", f.Metadata.Architecture(), len(f.Tensors), f.Trailing())
	}
	l, err := Plan(f.Metadata, f.Tensors)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, l.Size)
	copy(got, l.Header)
	for i, x := range f.Tensors {
		if err := f.Rows(x).ReadRows(got[l.Offset(i):][:x.Size()], 0, x.Rows()); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got, want) {
		t.Error("written again, the file differs")
	}
}

// TestPlanRefuses holds the writer to what the reader accepts.
func TestPlanRefuses(t *testing.T) {
	meta := func(k string, v any) *Metadata { m := NewMetadata(); m.Set(k, v); return m }
	one := func(x *Tensor) []*Tensor { return []*Tensor{x} }
	for _, tt := range []struct {
		meta    *Metadata
		tensors []*Tensor
		want    string
	}{
		{meta("", uint8(1)), nil, "empty name"},
		{meta("a\x00", uint8(1)), nil, "NUL"},
		{meta("general.alignment", uint32(0)), nil, "alignment 0"},
		{meta("general.alignment", int32(32)), nil, "alignment must be a u32 power of two <= 1 MiB, got i32 32"},
		{NewMetadata(), one(NewTensor("", quant.F32, nil)), "empty name"},
		{NewMetadata(), one(NewTensor("a", quant.F32, []int{1, 1, 1, 1, 1})), "5 dimensions > 4"},
		{NewMetadata(), one(NewTensor("a", 5, []int{1})), "unknown"},
		{NewMetadata(), one(NewTensor("a", quant.Q4_0, []int{2, 31})), "row 31 not a multiple of 32"},
		{NewMetadata(), one(NewTensor("a", quant.F32, []int{1 << 40, 1 << 40})), "element count overflows"},
		{NewMetadata(), append(one(NewTensor("a", quant.F32, []int{1 << 59})), NewTensor("b", quant.F32, []int{1 << 60})), "data size overflows"},
		{NewMetadata(), append(someTensors(), someTensors()...), `tensor "a": duplicate`},
	} {
		if _, err := Plan(tt.meta, tt.tensors); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("error %v, want ...%s...", err, tt.want)
		}
	}
}

// TestPlanVocabulary: without tensors there is nothing after the metadata.
func TestPlanVocabulary(t *testing.T) {
	m := everyType()
	l, err := Plan(m, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := header(version, 0, uint64(m.Len()))
	for k, v := range m.All() {
		want.put(k)
		want.Write(AppendValue(nil, v))
	}
	if !bytes.Equal(l.Header, want.Bytes()) || l.Size != int64(want.Len()) {
		t.Errorf("%d bytes of %d, want %d", len(l.Header), l.Size, want.Len())
	}
}

// TestStrings reads arrays of strings that end at, before and after the edges
// of what is read at a time.
func TestStrings(t *testing.T) {
	for shift := range 20 {
		want := []string{strings.Repeat("x", chunk-100+shift)}
		for i := range 40 {
			want = append(want, strings.Repeat("y", i%5))
		}
		want = append(want, strings.Repeat("z", 3*chunk), "", "end")
		m := NewMetadata()
		m.Set("k", want)
		f, err := open(encode(t, m, nil))
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := f.Metadata.Strings("k"); !slices.Equal(got, want) {
			t.Errorf("shift %d: %d strings, want %d, or others", shift, len(got), len(want))
		}
	}
}

// TestPlanCopies plans a file with a tensor less: those of the opened file
// still have their own offsets.
func TestPlanCopies(t *testing.T) {
	f, err := open(encode(t, everyType(), someTensors()))
	if err != nil {
		t.Fatal(err)
	}
	q := f.Tensor("q")
	before := q.Offset
	l, err := Plan(f.Metadata, f.Tensors[1:])
	if err != nil {
		t.Fatal(err)
	}
	if q.Offset != before || l.Tensors[0].Offset != 0 {
		t.Errorf("offsets %d and %d, want %d and 0", q.Offset, l.Tensors[0].Offset, before)
	}
}

// TestRoundTripRandom writes and reads models made at random.
func TestRoundTripRandom(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	types := []quant.Type{quant.F32, quant.F16, quant.BF16, quant.I8, quant.Q4_0, quant.Q6_K, quant.TQ1_0, quant.MXFP4}
	kinds := everyType()
	for range 200 {
		m := NewMetadata()
		for i := range r.IntN(8) {
			_, v := kinds.at(r.IntN(kinds.Len()))
			m.Set(fmt.Sprintf("k%d", i), v)
		}
		if r.IntN(2) == 0 {
			m.Set("general.alignment", uint32(1)<<r.IntN(12))
		}
		var ts []*Tensor
		for i := range r.IntN(6) {
			typ := types[r.IntN(len(types))]
			shape := make([]int, r.IntN(5))
			for j := range shape {
				shape[j] = r.IntN(4)
			}
			if n := len(shape); n > 0 {
				shape[n-1] *= typ.BlockLen()
			} else if typ.BlockLen() > 1 {
				continue
			}
			ts = append(ts, NewTensor(fmt.Sprintf("t%d", i), typ, shape))
		}
		data := encode(t, m, ts)
		f, err := open(data)
		if err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(describeAll(m), describeAll(f.Metadata)) || !slices.Equal(f.Metadata.keys, m.keys) {
			t.Fatalf("metadata %v, want %v", f.Metadata, m)
		}
		if again := encode(t, f.Metadata, f.Tensors); !bytes.Equal(again, data) {
			t.Fatal("written again, the file differs")
		}
	}
}

func (m *Metadata) at(i int) (string, any) { return m.keys[i], m.values[m.keys[i]] }

func describeAll(m *Metadata) map[string]string {
	d := map[string]string{}
	for k, v := range m.All() {
		d[k] = fmt.Sprintf("%T %#v", v, v)
	}
	return d
}

// TestTruncated cuts a file everywhere in its metadata (row 2).
func TestTruncated(t *testing.T) {
	data := encode(t, everyType(), someTensors())
	whole, err := open(data)
	if err != nil {
		t.Fatal(err)
	}
	for n := range data {
		_, err := open(data[:n])
		needed := whole.parts[0].dataOffset + int64(whole.Tensors[4].Offset+whole.Tensors[4].Size())
		if int64(n) >= needed {
			if err != nil {
				t.Errorf("without the last padding (%d of %d bytes): %v", n, len(data), err)
			}
			continue
		}
		var fe *formats.FormatError
		if !errors.As(err, &fe) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
	for i, x := range whole.Tensors { // the boundaries of the infos, and a byte to either side
		start := bytes.LastIndex(data, appendString(nil, x.Name))
		for _, cut := range []int{start - 1, start, start + 1} {
			want := fmt.Sprintf("truncated in tensor info %d", i)
			if cut < start {
				want = fmt.Sprintf("truncated in tensor info %d", i-1)
			}
			if i == 0 && cut < start {
				want = `truncated in key "none"` // the last of everyType
			}
			if _, err := open(data[:cut]); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("cut at %d: %v, want %s", cut, err, want)
			}
		}
	}
	info := bytes.Index(data, []byte("\x06\x00\x00\x00\x00\x00\x00\x00scalar"))
	if _, err := open(data[:info+10]); err == nil || !strings.Contains(err.Error(), "tensor info 2") {
		t.Errorf("cut in tensor info 2: %v", err)
	}
}

func TestTrailing(t *testing.T) {
	f, err := open(append(encode(t, everyType(), someTensors()), 1, 2, 3))
	if err != nil {
		t.Fatal(err)
	}
	if f.Trailing() != 3 {
		t.Errorf("%d trailing bytes, want 3", f.Trailing())
	}
}

func TestAlignment(t *testing.T) {
	m := everyType()
	m.Set("general.alignment", uint32(256))
	f, err := open(encode(t, m, someTensors()))
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range f.Tensors {
		if x.Offset%256 != 0 {
			t.Errorf("%s at %d", x.Name, x.Offset)
		}
	}
}

func TestNotRegular(t *testing.T) {
	dir := t.TempDir()
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a directory: %v", err)
	}
	if _, err := Open(os.DevNull); runtime.GOOS != "windows" && (err == nil || !strings.Contains(err.Error(), "not a regular file")) {
		t.Errorf("%s: %v", os.DevNull, err)
	}
	if _, err := Open(filepath.Join(dir, "none.gguf")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

func TestGetters(t *testing.T) {
	m := everyType()
	if v, err := m.Uint("u16"); v != 60000 || err != nil {
		t.Errorf("u16: %d, %v", v, err)
	}
	if v, err := m.Float("f32"); v != 1.5 || err != nil {
		t.Errorf("f32: %g, %v", v, err)
	}
	for _, tt := range []struct {
		got  func() error
		want string
	}{
		{func() error { _, err := m.Uint("i8"); return err }, "i8: want at least 0, got -3"},
		{func() error { _, err := m.Uint("s"); return err }, "s: want an integer, got string"},
		{func() error { _, err := m.Float("none"); return err }, "none: want a float, got array of string"},
		{func() error { _, err := m.Floats("ai8"); return err }, "ai8: want an array of f32, got array of i8"},
		{func() error { _, err := m.String("absent"); return err }, "absent: missing"},
	} {
		if err := tt.got(); err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("error %v, want %s", err, tt.want)
		}
	}
	if _, err := m.Uint("absent"); !errors.Is(err, ErrMissing) {
		t.Errorf("absent: %v", err)
	}
	m.Delete("u8")
	if _, ok := m.Get("u8"); ok || m.Len() != len(everyType().keys)-1 {
		t.Error("a deleted key is there")
	}
}

// FuzzOpen: no input panics, and what is accepted can be read whole, written
// and read again.
func FuzzOpen(f *testing.F) {
	l, err := Plan(everyType(), someTensors())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(l.Header, make([]byte, l.Size-l.DataOffset)...))
	f.Fuzz(func(t *testing.T, data []byte) {
		x, err := open(data)
		if err != nil {
			return
		}
		for _, tn := range x.Tensors {
			b := make([]byte, tn.Size())
			if err := x.Rows(tn).ReadRows(b, 0, tn.Rows()); err != nil {
				t.Fatalf("%s: %v", tn.Name, err)
			}
		}
		again, err := open(encode(t, x.Metadata, x.Tensors))
		if err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(describeAll(again.Metadata), describeAll(x.Metadata)) || len(again.Tensors) != len(x.Tensors) {
			t.Fatal("differs when written again")
		}
	})
}
