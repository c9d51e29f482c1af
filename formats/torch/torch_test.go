package torch

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/flate"

	"github.com/smeltgguf/smelt/formats"
)

// described is a tensor as testdata/make.py wrote it down.
type described struct {
	Name, DType string
	Shape       []int
	Data        string
}

// elements reads a tensor in logical order, one element at a time.
func elements(t testing.TB, x *Tensor) []byte {
	t.Helper()
	var out []byte
	es := x.DType.Bits() / 8
	n := x.Elems()
	for i := range n {
		at, rest := x.Start, i
		for d := len(x.Shape) - 1; d >= 0; d-- {
			at += rest % x.Shape[d] * x.Strides[d]
			rest /= x.Shape[d]
		}
		b := make([]byte, es)
		if _, err := x.Storage.ReadAt(b, int64(at*es)); err != nil {
			t.Fatalf("%s: element %d: %v", x.Name, i, err)
		}
		out = append(out, b...)
	}
	return out
}

func TestFiles(t *testing.T) {
	for file, desc := range map[string]string{
		"odd.pt": "odd.json", "odd-proto4.pt": "odd.json", "odd-legacy.pt": "odd.json", "odd-nocrc.pt": "odd.json", "odd-deflated.pt": "odd.json",
		"module.pt": "module.json", "nested.pt": "module.json",
	} {
		t.Run(file, func(t *testing.T) {
			data, err := os.ReadFile("testdata/" + file)
			if err != nil {
				t.Fatal(err)
			}
			j, err := os.ReadFile("testdata/" + desc)
			if err != nil {
				t.Fatal(err)
			}
			var want []described
			if err := json.Unmarshal(j, &want); err != nil {
				t.Fatal(err)
			}
			if !IsFile(data) {
				t.Error("not recognised")
			}
			f, err := Read(bytes.NewReader(data), int64(len(data)), file)
			if err != nil {
				t.Fatal(err)
			}
			if file == "odd-legacy.pt" {
				want = want[:len(want)-1] // float8 came later
			}
			if len(f.Tensors) != len(want) {
				t.Fatalf("%d tensors, want %d", len(f.Tensors), len(want))
			}
			for i, w := range want {
				x := &f.Tensors[i]
				if x.Name != w.Name || dtypes[global(w.DType)] != x.DType || !slices.Equal(x.Shape, w.Shape) {
					t.Errorf("tensor %d is %s %v %v, want %s %v %v", i, x.Name, x.DType, x.Shape, w.Name, w.DType, w.Shape)
				}
				if got := hex.EncodeToString(elements(t, x)); got != w.Data {
					t.Errorf("%s: got %.64s, want %.64s", w.Name, got, w.Data)
				}
			}
			if err := f.Verify(); err != nil {
				t.Error(err)
			}
		})
	}
}

// The parts of pickles.
func str(s string) string {
	return "X" + string(binary.LittleEndian.AppendUint32(nil, uint32(len(s)))) + s
}
func num(n int) string { return "J" + string(binary.LittleEndian.AppendUint32(nil, uint32(n))) }
func glob(s string) string {
	i := strings.LastIndexByte(s, '.')
	return "c" + s[:i] + "\n" + s[i+1:] + "\n"
}

func nums(n ...int) string {
	s := "("
	for _, n := range n {
		s += num(n)
	}
	return s + "t"
}

func storage(typ, key string, numel int) string {
	return "(" + str("storage") + glob(typ) + str(key) + str("cpu") + num(numel) + "tQ"
}

func tensor(store string, start int, shape, strides string) string {
	return glob("torch._utils._rebuild_tensor_v2") + "(" + store + num(start) + shape + strides + "\x89" + glob("collections.OrderedDict") + ")RtR"
}

func pickle(body string) string { return "\x80\x02" + body + "." }

// entry is a record of a zip file to be built; what is not set is right.
type entry struct {
	name, local   string
	data          string
	flags, method uint16
	localFlags    uint16
	crc           uint32 // added to the right one
	size          int    // added to the right one
	descriptor    bool
}

func buildZip(entries ...entry) []byte {
	var out, dir []byte
	le := binary.LittleEndian
	for _, e := range entries {
		if e.local == "" {
			e.local = e.name
		}
		packed := []byte(e.data)
		if e.method == 8 {
			var b bytes.Buffer
			w, _ := flate.NewWriter(&b, 1)
			if _, err := w.Write([]byte(e.data)); err != nil {
				panic(err)
			}
			if err := w.Close(); err != nil {
				panic(err)
			}
			packed = b.Bytes()
		}
		crc, size := crc32.ChecksumIEEE([]byte(e.data))+e.crc, uint32(len(e.data)+e.size)
		psize := uint32(len(packed))
		if e.method == 0 {
			psize = size
		}
		at := uint32(len(out))
		fields := func(b []byte, flags uint16, zero bool) []byte {
			b = le.AppendUint16(b, flags)
			b = le.AppendUint16(b, e.method)
			b = le.AppendUint32(b, 0)
			if zero {
				return append(b, make([]byte, 12)...)
			}
			b = le.AppendUint32(b, crc)
			b = le.AppendUint32(b, psize)
			return le.AppendUint32(b, size)
		}
		flags := e.flags
		if e.descriptor {
			flags |= flagDesc
		}
		out = le.AppendUint32(out, sigLocal)
		out = fields(le.AppendUint16(out, 20), flags|e.localFlags, e.descriptor)
		out = le.AppendUint16(out, uint16(len(e.local)))
		out = le.AppendUint16(out, 0)
		out = append(append(out, e.local...), packed...)
		dir = le.AppendUint32(dir, sigCentral)
		dir = fields(le.AppendUint32(dir, 20<<16|20), flags, false)
		dir = le.AppendUint16(dir, uint16(len(e.name)))
		dir = append(dir, make([]byte, 12)...)
		dir = append(le.AppendUint32(dir, at), e.name...)
	}
	end := le.AppendUint32(nil, sigEnd)
	end = append(end, 0, 0, 0, 0)
	end = le.AppendUint16(end, uint16(len(entries)))
	end = le.AppendUint16(end, uint16(len(entries)))
	end = le.AppendUint32(end, uint32(len(dir)))
	end = le.AppendUint32(end, uint32(len(out)))
	end = append(end, 0, 0)
	return append(append(out, dir...), end...)
}

// saved is a sound archive of one tensor "w" of four floats.
func saved(extra ...entry) []entry {
	w := str("w") + tensor(storage("torch.FloatStorage", "0", 4), 0, nums(2, 2), nums(2, 1))
	return append([]entry{
		{name: "m/data.pkl", data: pickle("}" + w + "s")},
		{name: "m/data/0", data: "0123456789abcdef"},
		{name: "m/version", data: "3\n"},
	}, extra...)
}

// withPickle is an archive with that pickle.
func withPickle(p string) []byte {
	e := saved()
	e[0].data = p
	return buildZip(e...)
}

func edit(f func(e []entry)) []byte {
	e := saved()
	f(e)
	return buildZip(e...)
}

// legacy is a legacy file of that pickle, keys and what follows.
func legacy(p, keys, rest string) []byte {
	return []byte(string(legacyMagic) + pickle("M\xe9\x03") + pickle("}"+str("little_endian")+"\x88s") + p + keys + rest)
}

func TestHostile(t *testing.T) {
	w := func(start int, shape, strides string) []byte {
		return withPickle(pickle("}" + str("w") + tensor(storage("torch.FloatStorage", "0", 4), start, shape, strides) + "s"))
	}
	le64 := func(n uint64) string { return string(binary.LittleEndian.AppendUint64(nil, n)) }
	one := pickle("}" + str("w") + tensor(storage("torch.FloatStorage", "k", 2), 0, nums(2), nums(1)) + "s")
	keys := pickle("](" + str("k") + "e")
	tarball := make([]byte, 600)
	copy(tarball, "sys_info")
	copy(tarball[257:], "ustar\x0000")
	overlap := buildZip(saved()...)
	// The directory's second entry points at the first one's local header.
	dirAt := bytes.Index(overlap, binary.LittleEndian.AppendUint32(nil, sigCentral))
	second := dirAt + 46 + len("m/data.pkl")
	copy(overlap[second+42:], overlap[dirAt+42:][:4])

	for _, tt := range []struct {
		name string
		in   []byte
		want string
	}{
		{"global", withPickle(pickle("cposix\nsystem\n(" + str("id") + "tR")), "global posix.system refused"},
		{"inst", withPickle(pickle("(iposix\nsystem\n")), "global posix.system refused"},
		{"inst of a known one", withPickle(pickle("(itorch\nSize\n")), "opcode INST refused"},
		{"stack global", withPickle(pickle(str("builtins") + str("eval") + "\x93")), "global builtins.eval refused"},
		{"nested pickle", withPickle(pickle("ctorch.storage\n_load_from_bytes\n")), "global torch.storage._load_from_bytes refused"},
		{"long global", withPickle(pickle("c" + strings.Repeat("a", 2000) + "\nb\n")), "line in a pickle longer than 1024"},
		{"odd global", withPickle(pickle("ca\x1b[2J\nb\n")), `global "a\x1b[2J.b" refused`},
		{"obj", withPickle(pickle("(" + glob("torch.Size") + "o")), "pickle opcode 'o' refused"},
		{"ext", withPickle(pickle("\x82\x01")), "extension code in a pickle refused"},
		{"call of a type", withPickle(pickle(glob("torch.FloatStorage") + ")R")), "global torch.FloatStorage is not to be called"},
		{"newobj", withPickle(pickle(glob("torch.nn.parameter.Parameter") + ")\x81")), "global torch.nn.parameter.Parameter is not to be called"},
		{"endless rebuild", withPickle(pickle(glob("torch._tensor._rebuild_from_type_v2") + "(" + glob("torch._tensor._rebuild_from_type_v2") + "N)NtR")), "malformed arguments of torch._tensor._rebuild_from_type_v2"},
		{"setitem on a tensor", withPickle(pickle(tensor(storage("torch.FloatStorage", "0", 4), 0, nums(4), nums(1)) + str("a") + "Ns")), "SETITEM on a tensor"},
		{"build on a tensor", withPickle(pickle(tensor(storage("torch.FloatStorage", "0", 4), 0, nums(4), nums(1)) + "}b")), "BUILD on a tensor"},
		{"append on a tuple", withPickle(pickle(")Na")), "APPEND on a tuple"},
		{"storage larger than its record", withPickle(pickle("}" + str("w") + tensor(storage("torch.FloatStorage", "0", 5), 0, nums(5), nums(1)) + "s")), `storage "0" needs 20 bytes, record data/0 has 16`},
		{"storage smaller than its record", withPickle(pickle("}" + str("w") + tensor(storage("torch.FloatStorage", "0", 3), 0, nums(3), nums(1)) + "s")), `storage "0" needs 12 bytes, record data/0 has 16`},
		{"storage of two types", withPickle(pickle("}" + str("a") + tensor(storage("torch.FloatStorage", "0", 4), 0, nums(4), nums(1)) + "s" +
			str("b") + tensor(storage("torch.IntStorage", "0", 4), 0, nums(4), nums(1)) + "s")), `storage "0" is both 4 x F32 and 4 x I32`},
		{"complex", withPickle(pickle(glob("torch.ComplexFloatStorage"))), "global torch.ComplexFloatStorage refused"},
		{"long binput", withPickle(pickle("}r\xff\xff\xff\xff")), "holds no tensors"},
		{"memo get", withPickle(pickle("h\x07")), "memo key 7 was never set"},
		{"bad memo key", withPickle(pickle("}p-1\n")), `bad memo key "-1"`},
		{"cycle", withPickle(pickle("]q\x00h\x00a")), "holds a list, want a dict of tensors"},
		{"dict bomb", withPickle(pickle(strings.Repeat("}", 1<<20))), "object budget exceeded"},
		{"memo bomb", withPickle(pickle("}" + strings.Repeat("\x94", 1<<20))), "object budget exceeded"},
		{"tuple bomb", withPickle(pickle(")" + strings.Repeat("2\x86", 1<<20))), "object budget exceeded"},
		{"dup bomb", withPickle(pickle("N" + strings.Repeat("2", 1<<22))), "object budget exceeded"},
		{"mark bomb", withPickle(pickle(strings.Repeat("(", 8<<20))), "object budget exceeded"},
		{"underflow", withPickle(pickle("\x86")), "pickle truncated or damaged: 2 values wanted, the stack has 0"},
		{"underflow at a mark", withPickle(pickle("N(\x85")), "1 values wanted, the stack has 0"},
		{"no mark", withPickle(pickle("t")), "pickle truncated or damaged: no mark"},
		{"no stop", withPickle("\x80\x02}"), "pickle truncated or damaged: no STOP"},
		{"empty", withPickle(""), "pickle truncated or damaged: no STOP"},
		{"length 2^63", withPickle("\x80\x02\x8d" + le64(1<<63)), "pickle truncated or damaged: string of 9223372036854775808 bytes, 0 left"},
		{"length 2^32-1", withPickle("\x80\x02B\xff\xff\xff\xff"), "pickle truncated or damaged: string of 4294967295 bytes, 0 left"},
		{"hexadecimal", withPickle(pickle("I0x10\n")), `bad number "0x10" in a pickle: decimal only`},
		{"underscores", withPickle(pickle("L1_0L\n")), `bad number "1_0" in a pickle: decimal only`},
		{"octal escape", withPickle(pickle("S'\\101'\n")), "escaped string in a pickle unsupported"},
		{"opcode", withPickle(pickle("\xff")), "pickle opcode 0xff unsupported"},
		{"protocol", withPickle("\x80\x06N."), "pickle protocol 6 unsupported"},
		{"after stop", withPickle(pickle("}") + "N."), "2 bytes after the pickle's STOP"},
		{"values left", withPickle(pickle("NN")), "1 values left at STOP"},
		{"not a dict", withPickle(pickle("N")), "holds None, want a dict of tensors"},
		{"tensor twice", withPickle(pickle("}" + strings.Repeat(str("w")+tensor(storage("torch.FloatStorage", "0", 4), 0, nums(4), nums(1))+"s", 2))), `duplicate tensor "w"`},
		{"name is a number", withPickle(pickle("}" + num(1) + tensor(storage("torch.FloatStorage", "0", 4), 0, nums(4), nums(1)) + "s")), "a tensor's name is an int"},
		{"strides outside", w(0, nums(2, 2), nums(3, 1)), `tensor "w" exceeds storage "0": element 4 of 4`},
		{"offset outside", w(1, nums(4), nums(1)), `tensor "w" exceeds storage "0": element 4 of 4`},
		{"negative stride", w(3, nums(2), nums(-1)), "malformed tensor"},
		{"negative offset", w(-1, nums(2), nums(1)), "malformed tensor"},
		{"strides wrap", w(0, nums(3, 1<<31-1, 1<<31-1), nums(1<<31-1, 1<<31-1, 1<<31-1)), `tensor "w" shape overflows`},
		{"wrong rank", w(0, nums(2, 2), nums(1)), "malformed tensor"},
		{"record missing", withPickle(pickle("}" + str("w") + tensor(storage("torch.FloatStorage", "7", 4), 0, nums(4), nums(1)) + "s")), "record data/7 missing"},
		{"record outside", withPickle(pickle("}" + str("w") + tensor(storage("torch.FloatStorage", "../../x", 4), 0, nums(4), nums(1)) + "s")), `record data/"../../x" missing`},

		{"two data.pkl", buildZip(saved(entry{name: "m/data.pkl", data: "N."})...), `duplicate record "m/data.pkl"`},
		{"DATA.PKL", buildZip(saved(entry{name: "m/DATA.PKL", data: "N."})...), `duplicate record "m/data.pkl"`},
		{"another directory", buildZip(saved(entry{name: "n/data.pkl", data: "N."})...), `duplicate record "n/data.pkl"`},
		{"deeper", buildZip(saved(entry{name: "m/x/data.pkl", data: "N."})...), `duplicate record "m/x/data.pkl"`},
		{"record twice", buildZip(saved(entry{name: "m/data/0", data: "fedcba9876543210"})...), `duplicate record "m/data/0"`},
		{"no directory", buildZip(entry{name: "data.pkl", data: "N."}), `record name "data.pkl" refused`},
		{"dot dot", buildZip(saved(entry{name: "m/../../etc/passwd", data: ""})...), `record name "m/../../etc/passwd" refused`},
		{"absolute", buildZip(entry{name: "/etc/passwd", data: ""}), `record name "/etc/passwd" refused`},
		{"NUL in a name", buildZip(saved(entry{name: "m/a\x00b", data: ""})...), `record name "m/a\x00b" refused`},
		{"encrypted", edit(func(e []entry) { e[1].flags = 1 }), `zip flag 0x1 refused: record "m/data/0"`},
		{"patch data", edit(func(e []entry) { e[1].flags = 0x20 }), "zip flag 0x20 refused"},
		{"strong encryption", edit(func(e []entry) { e[1].flags = 0x40 }), "zip flag 0x40 refused"},
		{"flag in the local header", edit(func(e []entry) { e[1].localFlags = 1 }), "zip flag 0x1 refused"},
		{"local name differs", edit(func(e []entry) { e[1].local = "m/data/9" }), `record "m/data/0": local header differs from the directory`},
		{"method", edit(func(e []entry) { e[1].method = 12 }), `zip method 12 unsupported`},
		{"bad CRC of the pickle", edit(func(e []entry) { e[0].crc = 1 }), "CRC mismatch data.pkl"},
		{"bad CRC of a deflated pickle", edit(func(e []entry) { e[0].crc = 1; e[0].method = 8 }), "CRC mismatch data.pkl"},
		{"deflated to less", edit(func(e []entry) { e[0].size = 1; e[0].method = 8 }), "record data.pkl does not inflate to"},
		{"deflated to more", edit(func(e []entry) { e[0].size = -1; e[0].method = 8 }), "record data.pkl does not inflate to"},
		{"impossible ratio", edit(func(e []entry) { e[0].size = 1 << 30; e[0].method = 8 }), "bytes cannot become 107374"},
		{"overlap", overlap, "overlaps another"},
		{"byteorder", buildZip(saved(entry{name: "m/byteorder", data: "big"})...), `byteorder "big" unsupported`},
		{"TorchScript", buildZip(saved(entry{name: "m/constants.pkl", data: "N."})...), "TorchScript archive unsupported"},
		{"TorchScript code", buildZip(saved(entry{name: "m/code/__torch__.py", data: ""})...), "TorchScript archive unsupported"},
		{"no pickle", buildZip(saved()[1:]...), "record data.pkl missing"},
		{"cut", buildZip(saved()...)[:400], "zip truncated: no end of central directory"},
		{"bytes before", append([]byte("PK\x03\x04"), buildZip(saved()...)...), "does not end at"},
		{"bytes after", append(buildZip(saved()...), 0), "zip truncated: no end of central directory"},

		{"legacy numel", legacy(pickle("}"+str("w")+tensor(storage("torch.FloatStorage", "k", 1<<30), 0, nums(2), nums(1))+"s"), keys, le64(1<<30)), `storage "k" of 4 GiB > file of`},
		{"legacy numel differs", legacy(one, keys, le64(3)+"012345678901"), `storage "k" has 3 elements, its tensors expect 2`},
		{"legacy cut", legacy(one, keys, le64(2)+"0123456"), `storage "k" truncated: 7 of 8 bytes`},
		{"legacy cut before", legacy(one, keys, "1234567"), `truncated before storage "k"`},
		{"legacy key missing", legacy(one, pickle("]"), ""), `storage "k" missing`},
		{"legacy key unknown", legacy(one, pickle("]("+str("z")+"e"), ""), `storage key "z" is unknown or there twice`},
		{"legacy tail", legacy(one, keys, le64(2)+"01234567x"), "1 bytes after the last storage"},
		{"legacy big-endian", []byte(string(legacyMagic) + pickle("M\xe9\x03") + pickle("}"+str("little_endian")+"\x89s") + one + keys + le64(2) + "01234567"), "big-endian checkpoint unsupported"},
		{"legacy view", legacy(pickle("}"+str("w")+tensor("("+str("storage")+glob("torch.FloatStorage")+str("k")+str("cpu")+num(2)+"("+str("v")+num(1)+num(2)+"ttQ", 0, nums(1), nums(1))+"s"), keys, le64(2)+"01234567"), `view of storage "k" exceeds it`},
		{"tar", tarball, "legacy tar unsupported"},
		{"other pickle", []byte(pickle("N")), "a pickle, but not one of torch.save"},
		{"text", []byte("hello"), `not a file of torch.save (starts with "hello")`},
		{"nothing", nil, `not a file of torch.save (starts with "")`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := Read(bytes.NewReader(tt.in), int64(len(tt.in)), "f.bin")
			runtime.ReadMemStats(&after)
			var fe *formats.FormatError
			if !errors.As(err, &fe) || !strings.HasPrefix(err.Error(), "f.bin: ") || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			// Twice the limit on the peak, because growing a slice leaves its
			// halves behind.
			if got, limit := after.TotalAlloc-before.TotalAlloc, uint64(2*(64<<20+4*len(tt.in))); got > limit {
				t.Errorf("%d MiB allocated", got>>20)
			}
		})
	}
}

// TestSound: what the hostile files are made from is accepted.
func TestSound(t *testing.T) {
	le64 := func(n uint64) string { return string(binary.LittleEndian.AppendUint64(nil, n)) }
	view := "(" + str("storage") + glob("torch.ShortStorage") + str("k") + str("cpu") + num(6) + "(" + str("v") + num(2) + num(3) + "ttQ"
	for name, in := range map[string][]byte{
		"zip":        buildZip(saved()...),
		"descriptor": edit(func(e []entry) { e[0].descriptor, e[1].descriptor = true, true }),
		"deflated":   edit(func(e []entry) { e[0].method, e[1].method = 8, 8 }),
		"python 2": withPickle(pickle(glob("collections.OrderedDict") + "(](](U\x01w" +
			tensor(storage("torch.FloatStorage", "0", 4), 0, nums(2, 2), nums(2, 1)) + "eetR")),
		"protocol 0": withPickle("(dS'w'\n" + tensor(storage("torch.FloatStorage", "0", 4), 0, nums(2, 2), nums(2, 1)) + "s."),
		"subclass": withPickle(pickle("}" + str("w") + glob("torch._tensor._rebuild_from_type_v2") + "(" + glob("torch._utils._rebuild_tensor_v2") + glob("torch.Tensor") +
			"(" + storage("torch.FloatStorage", "0", 4) + num(0) + nums(2, 2) + nums(2, 1) + "\x89Nt}tRs")),
		"legacy": legacy(pickle("}"+str("w")+tensor(storage("torch.FloatStorage", "k", 4), 0, nums(2, 2), nums(2, 1))+"s"),
			pickle("]("+str("k")+"e"), le64(4)+"0123456789abcdef"),
	} {
		f, err := Read(bytes.NewReader(in), int64(len(in)), name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if x := &f.Tensors[0]; x.Name != "w" || string(elements(t, x)) != "0123456789abcdef" || !x.Contiguous() {
			t.Errorf("%s: got %+v", name, x)
		}
	}
	in := legacy(pickle("}"+str("w")+tensor(view, 1, nums(2), nums(1))+"s"), pickle("]("+str("k")+"e"), le64(6)+"0123456789ab")
	f, err := Read(bytes.NewReader(in), int64(len(in)), "view")
	if err != nil {
		t.Fatal(err)
	}
	if got := string(elements(t, &f.Tensors[0])); got != "6789" {
		t.Errorf("view: %q", got)
	}
}

// TestChecksums: a wrong byte in a tensor's record is found at the end at the
// latest, whatever was read of it and in which order.
func TestChecksums(t *testing.T) {
	const size = 5<<20 + 12
	data := make([]byte, size)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range data {
		data[i] = byte(rng.Uint32() >> 7 & 0x3f)
	}
	make := func(method uint16, crc uint32) *File {
		e := saved()
		e[0].data = pickle("}" + str("w") + tensor(storage("torch.ByteStorage", "0", size), 0, nums(size), nums(1)) + "s")
		e[1] = entry{name: "m/data/0", data: string(data), method: method, crc: crc}
		b := buildZip(e...)
		f, err := Read(bytes.NewReader(b), int64(len(b)), "f")
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	for _, method := range []uint16{methodStored, methodDeflate} {
		for _, crc := range []uint32{0, 1} {
			for name, pieces := range map[string][]int{
				"nothing":   nil,
				"whole":     {0, size},
				"forward":   {0, 100, 100, 1 << 20, 1<<20 + 100, size - 1<<20 - 100},
				"backward":  {4 << 20, size - 4<<20, 100, 4<<20 - 100, 0, 100},
				"middle":    {1000, 10},
				"overlaps":  {0, 3 << 20, 1 << 20, 3 << 20, 0, size},
				"end first": {size - 1, 1, 0, size},
			} {
				f := make(method, crc)
				var err error
				for i := 0; i < len(pieces) && err == nil; i += 2 {
					buf := append([]byte(nil), data[:pieces[i+1]]...)
					clear(buf)
					if _, err = f.Tensors[0].Storage.ReadAt(buf, int64(pieces[i])); err == nil && !bytes.Equal(buf, data[pieces[i]:][:pieces[i+1]]) {
						t.Errorf("method %d, %s: wrong bytes", method, name)
					}
				}
				if err == nil {
					err = f.Verify()
				}
				want := "<nil>"
				if crc != 0 && pieces != nil {
					want = "f: CRC mismatch data/0"
				}
				if fmt.Sprint(err) != want {
					t.Errorf("method %d, %s: error %v, want %s", method, name, err, want)
				}
			}
		}
	}
}

func TestJoin(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		a, b := make([]byte, rng.IntN(300)), make([]byte, rng.IntN(300))
		for i := range a {
			a[i] = byte(rng.Uint32())
		}
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		got := join(span{0, int64(len(a)), crc32.ChecksumIEEE(a)}, span{int64(len(a)), int64(len(a) + len(b)), crc32.ChecksumIEEE(b)})
		if want := crc32.ChecksumIEEE(append(a, b...)); got.sum != want {
			t.Fatalf("%d and %d bytes: %08x, want %08x", len(a), len(b), got.sum, want)
		}
	}
}

// FuzzRead: no input makes the reader panic, and all that an accepted file says
// can be read.
func FuzzRead(f *testing.F) {
	// Small ones: the fuzzer spends its time on making inputs smaller else.
	f.Add(buildZip(saved()...))
	f.Add(buildZip(entry{name: "m/data.pkl", data: "N."}))
	f.Add(legacy(pickle("}"), pickle("]"), ""))
	f.Add(edit(func(e []entry) { e[0].method, e[1].descriptor = 8, true }))
	f.Fuzz(func(t *testing.T, in []byte) {
		x, err := Read(bytes.NewReader(in), int64(len(in)), "f")
		readAll(t, x, err)
	})
}

// FuzzPickle runs the machine inside an archive whose checksums are right.
func FuzzPickle(f *testing.F) {
	f.Add([]byte(saved()[0].data))
	f.Add([]byte(pickle("cposix\nsystem\n(" + str("id") + "tR")))
	f.Add([]byte(pickle(")" + strings.Repeat("2\x86", 100))))
	f.Add([]byte(pickle("]q\x00h\x00a")))
	f.Add([]byte("\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x01a\x94K\x01s."))
	f.Add([]byte("(dS'a'\nI12\nsV\x41\nF1.5\ns."))
	f.Fuzz(func(t *testing.T, p []byte) {
		in := withPickle(string(p))
		x, err := Read(bytes.NewReader(in), int64(len(in)), "f")
		readAll(t, x, err)
	})
}

// FuzzLegacy fuzzes what follows the legacy format's three header pickles.
func FuzzLegacy(f *testing.F) {
	f.Add([]byte(pickle("}"+str("w")+tensor(storage("torch.FloatStorage", "k", 1), 0, nums(1), nums(1))+"s") + pickle("]("+str("k")+"e") + "\x01\x00\x00\x00\x00\x00\x00\x000123"))
	f.Fuzz(func(t *testing.T, rest []byte) {
		in := legacy("", "", string(rest))
		x, err := Read(bytes.NewReader(in), int64(len(in)), "f")
		readAll(t, x, err)
	})
}

func readAll(t *testing.T, f *File, err error) {
	if err != nil {
		return
	}
	for i := range f.Tensors {
		x := &f.Tensors[i]
		if x.Elems() > 1<<12 {
			continue // expanded from little
		}
		es := x.DType.Bits() / 8
		b := make([]byte, es)
		last := x.Start
		for d, n := range x.Shape {
			if n == 0 {
				last = -1
				break
			}
			last += (n - 1) * x.Strides[d]
		}
		if last < 0 {
			continue
		}
		for _, at := range []int{x.Start, last} {
			if _, err := x.Storage.ReadAt(b, int64(at*es)); err != nil {
				if strings.Contains(err.Error(), "inflate") || strings.Contains(err.Error(), "CRC mismatch") {
					return
				}
				t.Fatalf("tensor %q, element %d: %v", x.Name, at, err)
			}
		}
	}
	if err := f.Verify(); err != nil && !strings.Contains(err.Error(), "inflate") && !strings.Contains(err.Error(), "CRC mismatch") {
		t.Fatal(err)
	}
}
