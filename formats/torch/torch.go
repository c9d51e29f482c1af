// Package torch reads the weights in files written by torch.save: the zip
// format of PyTorch 1.6 and later, and the one before it. Pickles run on a
// machine that can build tensors and nothing else.
//
// The formats are defined by torch/serialization.py and torch/_utils.py of
// PyTorch; zip by PKWARE's APPNOTE.TXT 6.3.
package torch

import (
	"bytes"
	"encoding/binary"
	"io"
	"math"
	"math/big"
	"math/bits"
	"strconv"
	"strings"

	"github.com/smeltgguf/smelt/formats"
)

// Tensor is a view of a storage: element (i, j, ...) is the storage's element
// Start + i*Strides[0] + j*Strides[1] + ...; all of them are inside.
type Tensor struct {
	formats.TensorInfo
	Strides []int // in elements, one for each dimension, not negative
	Start   int   // in elements
	Storage *Storage
}

// Storage is a run of bytes of the file, little-endian elements, that tensors
// may share. It is safe for concurrent use.
type Storage struct {
	key   string
	dtype formats.DType // U8 for an untyped one
	elems uint64
	off   int64 // in data
	data  io.ReaderAt
}

// ReadAt fills p from byte off of the storage on.
func (s *Storage) ReadAt(p []byte, off int64) (int, error) {
	return s.data.ReadAt(p, s.off+off)
}

// File is a file of weights.
type File struct {
	Tensors []Tensor // in the order in which they were saved
	archive *archive // nil for the legacy format
}

// IsFile reports whether b, the first bytes of a file, are those of one that
// torch.save wrote.
func IsFile(b []byte) bool {
	return bytes.HasPrefix(b, []byte("PK\x03\x04")) || bytes.HasPrefix(b, legacyMagic) || isTar(b)
}

// Read reads what the file r of size bytes says about its tensors. name stands
// for the file in errors, which are of type *formats.FormatError unless reading
// failed. The tensors' elements are read from r when they are asked for.
func Read(r io.ReaderAt, size int64, name string) (*File, error) {
	head := make([]byte, min(size, 512))
	if _, err := r.ReadAt(head, 0); err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte("PK\x03\x04")):
		return readZip(r, size, name)
	case isTar(head):
		return nil, formats.Unsupportedf(name, -1, "legacy tar unsupported").
			WithHint("load and save it once with a current PyTorch")
	case len(head) > 0 && head[0] == opProto:
		return readLegacy(r, size, name)
	}
	return nil, formats.Malformedf(name, 0, "not a file of torch.save (starts with %q)", head[:min(len(head), 8)])
}

// isTar recognises a tar archive, which PyTorch before 0.1.10 wrote.
func isTar(b []byte) bool { return len(b) >= 262 && string(b[257:262]) == "ustar" }

// Verify checks the checksums of all records from which something was read,
// reading what is still missing of them. Legacy files have none.
func (f *File) Verify() error {
	if f.archive == nil {
		return nil
	}
	return f.archive.verify()
}

// The globals that a pickle may name.
var (
	storageTypes = map[global]formats.DType{
		"torch.DoubleStorage":          formats.F64,
		"torch.FloatStorage":           formats.F32,
		"torch.HalfStorage":            formats.F16,
		"torch.BFloat16Storage":        formats.BF16,
		"torch.LongStorage":            formats.I64,
		"torch.IntStorage":             formats.I32,
		"torch.ShortStorage":           formats.I16,
		"torch.CharStorage":            formats.I8,
		"torch.ByteStorage":            formats.U8,
		"torch.BoolStorage":            formats.Bool,
		"torch.storage.UntypedStorage": formats.U8,
	}
	dtypes = map[global]formats.DType{
		"torch.float64":        formats.F64,
		"torch.float32":        formats.F32,
		"torch.float16":        formats.F16,
		"torch.bfloat16":       formats.BF16,
		"torch.float8_e4m3fn":  formats.F8E4M3,
		"torch.float8_e5m2":    formats.F8E5M2,
		"torch.float8_e8m0fnu": formats.F8E8M0,
		"torch.int64":          formats.I64,
		"torch.int32":          formats.I32,
		"torch.int16":          formats.I16,
		"torch.int8":           formats.I8,
		"torch.uint64":         formats.U64,
		"torch.uint32":         formats.U32,
		"torch.uint16":         formats.U16,
		"torch.uint8":          formats.U8,
		"torch.bool":           formats.Bool,
	}
	otherGlobals = map[global]bool{
		"collections.OrderedDict":                    true,
		"torch.Size":                                 true,
		"torch.Tensor":                               true,
		"torch.device":                               true,
		"torch.nn.parameter.Parameter":               true,
		"torch._tensor._rebuild_from_type_v2":        true,
		"torch._utils._rebuild_tensor":               true,
		"torch._utils._rebuild_tensor_v2":            true,
		"torch._utils._rebuild_tensor_v3":            true,
		"torch._utils._rebuild_parameter":            true,
		"torch._utils._rebuild_parameter_with_state": true,
	}
)

func known(g global) bool {
	_, s := storageTypes[g]
	_, d := dtypes[g]
	return s || d || otherGlobals[g]
}

// bad is an error whose place the machine fills in.
func bad(format string, args ...any) error { return formats.Malformedf("", -1, format, args...) }

// loader is what the pickles of both formats have in common.
type loader struct {
	storages map[string]*Storage
	// place finds the bytes of a storage when it is first named.
	place func(s *Storage) error
}

func newLoader() *loader { return &loader{storages: map[string]*Storage{}} }

// persistent resolves ('storage', type, key, location, numel[, view]).
func (l *loader) persistent(id any) (any, error) {
	t, ok := id.(tuple)
	if !ok || len(t) < 5 || len(t) > 6 || t[0] != any("storage") {
		return nil, bad("persistent id is %s, want a storage", kind(id))
	}
	typ, _ := t[1].(global)
	dtype, ok := storageTypes[typ]
	if !ok {
		return nil, bad("storage type is %s", kind(t[1]))
	}
	key, ok := t[2].(string)
	numel, ok2 := t[4].(int64)
	if !ok || !ok2 || numel < 0 {
		return nil, bad("malformed storage id")
	}
	s := l.storages[key]
	if s == nil {
		s = &Storage{key: key, dtype: dtype, elems: uint64(numel)}
		if numel > math.MaxInt64/8 {
			return nil, bad("storage %s overflows", formats.Quote(key))
		}
		if err := l.place(s); err != nil {
			return nil, err
		}
		l.storages[key] = s
	}
	if s.dtype != dtype || s.elems != uint64(numel) {
		return nil, bad("storage %s is both %d x %v and %d x %v", formats.Quote(key), s.elems, s.dtype, numel, dtype)
	}
	if len(t) == 6 && t[5] != nil {
		return s.view(t[5])
	}
	return s, nil
}

// bytes returns the storage's size.
func (s *Storage) bytes() int64 { return int64(s.elems) * int64(s.dtype.Bits()/8) }

// view is a part of a storage, (key, offset, numel): files of PyTorch before
// 0.4 have them. It stays tied to its root, which may not have its place yet.
func (s *Storage) view(v any) (any, error) {
	t, ok := v.(tuple)
	if !ok || len(t) != 3 {
		return nil, bad("malformed storage view")
	}
	off, ok := t[1].(int64)
	n, ok2 := t[2].(int64)
	if !ok || !ok2 || off < 0 || n < 0 || uint64(off) > s.elems || uint64(n) > s.elems-uint64(off) {
		return nil, bad("view of storage %s exceeds it", formats.Quote(s.key))
	}
	return &Storage{key: s.key, dtype: s.dtype, elems: uint64(n), off: off * int64(s.dtype.Bits()/8), data: s}, nil
}

// reduce does what calling one of the known globals does.
func (l *loader) reduce(fn global, args tuple) (any, error) {
	arg := func(i int) any {
		if i < len(args) {
			return args[i]
		}
		return nil
	}
	switch fn {
	case "collections.OrderedDict":
		d := &dict{}
		if len(args) == 0 {
			return d, nil
		}
		items, ok := args[0].(*list) // as Python 2 wrote it
		if !ok || len(args) > 1 {
			return nil, bad("OrderedDict of %s", kind(args[0]))
		}
		for _, it := range items.items {
			var kv []any
			switch it := it.(type) {
			case *list:
				kv = it.items
			case tuple:
				kv = it
			}
			if len(kv) != 2 {
				return nil, bad("OrderedDict item is %s, want a pair", kind(it))
			}
			d.keys, d.vals = append(d.keys, kv[0]), append(d.vals, kv[1])
		}
		return d, nil
	case "torch.Size":
		if t, ok := arg(0).(tuple); ok {
			return t, nil
		}
		if t, ok := arg(0).(*list); ok {
			return tuple(t.items), nil
		}
	case "torch.device":
		return nil, nil
	case "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3":
		return rebuildTensor(fn, args)
	case "torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state":
		if t, ok := arg(0).(*Tensor); ok {
			return t, nil
		}
	case "torch._tensor._rebuild_from_type_v2": // (function, type, its arguments, state)
		inner, ok := arg(0).(global)
		innerArgs, ok2 := arg(2).(tuple)
		if ok && ok2 && inner != fn && strings.HasPrefix(string(inner), "torch._utils.") {
			return l.reduce(inner, innerArgs)
		}
	default:
		return nil, bad("global %s is not to be called", clean(string(fn)))
	}
	return nil, bad("malformed arguments of %s", clean(string(fn)))
}

// rebuildTensor makes a tensor of (storage, offset, size, stride, ...); version
// 3 has the element type as the seventh argument.
func rebuildTensor(fn global, args tuple) (any, error) {
	if len(args) < 4 {
		return nil, bad("malformed tensor")
	}
	s, ok := args[0].(*Storage)
	start, ok2 := args[1].(int64)
	shape, ok3 := ints(args[2])
	strides, ok4 := ints(args[3])
	if !ok || !ok2 || !ok3 || !ok4 || start < 0 || len(shape) != len(strides) || len(shape) > 64 {
		return nil, bad("malformed tensor")
	}
	t := &Tensor{TensorInfo: formats.TensorInfo{DType: s.dtype, Shape: shape}, Strides: strides, Start: int(start), Storage: s}
	if fn == "torch._utils._rebuild_tensor_v3" {
		var name global
		if len(args) >= 7 {
			name, _ = args[6].(global)
		}
		if t.DType = dtypes[name]; t.DType == formats.Invalid {
			return nil, bad("malformed tensor: dtype %s", clean(string(name)))
		}
	}
	return t, nil
}

func ints(v any) ([]int, bool) {
	t, ok := v.(tuple)
	if !ok {
		return nil, false
	}
	if len(t) == 0 {
		return nil, true
	}
	out := make([]int, len(t))
	for i, e := range t {
		n, ok := e.(int64)
		if !ok || n < 0 {
			return nil, false
		}
		out[i] = int(n)
	}
	return out, true
}

// checkBounds returns an error if an element is outside of the storage.
func (t *Tensor) checkBounds() error {
	elems, last, empty := uint64(1), uint64(t.Start), false
	for i, d := range t.Shape {
		hi, lo := bits.Mul64(elems, uint64(d))
		if hi != 0 || lo > math.MaxInt64/8 {
			return bad("shape overflows")
		}
		elems = lo
		if d == 0 {
			empty = true
			continue
		}
		hi, lo = bits.Mul64(uint64(d-1), uint64(t.Strides[i]))
		sum, carry := bits.Add64(last, lo, 0)
		if hi != 0 || carry != 0 {
			return bad("strides overflow")
		}
		last = sum
	}
	has := uint64(t.Storage.bytes()) / uint64(t.DType.Bits()/8)
	if !empty && last >= has {
		return bad("exceeds storage %s: element %d of %d", formats.Quote(t.Storage.key), last, has)
	}
	return nil
}

// Contiguous reports whether the elements stand in the storage in logical
// order without gaps.
func (t *Tensor) Contiguous() bool {
	want := 1
	for i := len(t.Shape) - 1; i >= 0; i-- {
		if t.Shape[i] == 0 {
			return true
		}
		if t.Shape[i] != 1 && t.Strides[i] != want {
			return false
		}
		want *= t.Shape[i]
	}
	return true
}

// tensors returns the tensors of the state dict that a pickle holds: the
// value itself or, if it has no tensors, what training scripts put under one of
// two names. Other values beside tensors (counters, settings) are passed over.
func tensors(v any, file string) ([]Tensor, error) {
	d, ok := v.(*dict)
	if !ok {
		return nil, formats.Unsupportedf(file, -1, "holds %s, want a dict of tensors", kind(v))
	}
	hasTensor := func(d *dict) bool {
		for _, v := range d.vals {
			if _, ok := v.(*Tensor); ok {
				return true
			}
		}
		return false
	}
	if !hasTensor(d) {
	search:
		for _, name := range []string{"state_dict", "model"} {
			for i, k := range d.keys {
				if inner, ok := d.vals[i].(*dict); ok && k == any(name) && hasTensor(inner) {
					d = inner
					break search
				}
			}
		}
	}
	var out []Tensor
	seen := map[string]bool{}
	for i, v := range d.vals {
		t, ok := v.(*Tensor)
		if !ok {
			continue
		}
		name, ok := d.keys[i].(string)
		if !ok {
			return nil, formats.Malformedf(file, -1, "a tensor's name is %s", kind(d.keys[i]))
		}
		if seen[name] {
			return nil, formats.Malformedf(file, -1, "duplicate tensor %s", formats.Quote(name))
		}
		seen[name] = true
		named := *t
		named.Name = name
		if err := named.checkBounds(); err != nil {
			return nil, formats.Malformedf(file, -1, "tensor %s %v", formats.Quote(name), err)
		}
		out = append(out, named)
	}
	if len(out) == 0 {
		return nil, formats.Unsupportedf(file, -1, "holds no tensors")
	}
	return out, nil
}

// The legacy format: three pickles (a magic number, the version of the format,
// the machine's properties), the pickle of what was saved, the pickle of a list
// of storage keys, then for each of them its number of elements (int64) and its
// elements.

var (
	legacyMagic    = []byte("\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.")
	legacyNumber   = new(big.Int).SetBytes([]byte("\x19\x50\xa8\x6a\x20\xf9\x46\x9c\xfc\x6c"))
	legacyProtocol = int64(1001)
)

func readLegacy(r io.ReaderAt, size int64, name string) (*File, error) {
	pos := int64(0)
	l := newLoader()
	l.place = func(s *Storage) error {
		if s.bytes() > size {
			return bad("storage %s of %s > file of %d bytes", formats.Quote(s.key), gib(s.bytes()), size)
		}
		return nil
	}
	// next runs the next pickle.
	next := func() (any, error) {
		m := newMachine(name, io.NewSectionReader(r, pos, size-pos), pos, size-pos)
		m.reduce, m.persistent = l.reduce, l.persistent
		v, err := m.run()
		pos += m.pos
		return v, err
	}
	var head [3]any
	for i := range head {
		v, err := next()
		if err != nil {
			return nil, err
		}
		head[i] = v
		if n, ok := head[0].(*big.Int); !ok || n.Cmp(legacyNumber) != 0 {
			return nil, formats.Unsupportedf(name, 0, "a pickle, but not one of torch.save")
		}
	}
	if head[1] != any(legacyProtocol) {
		return nil, formats.Unsupportedf(name, -1, "legacy format has protocol %v, want %d", head[1], legacyProtocol)
	}
	if d, ok := head[2].(*dict); ok {
		for i, k := range d.keys {
			if k == any("little_endian") && d.vals[i] != any(true) {
				return nil, formats.Unsupportedf(name, -1, "big-endian checkpoint unsupported")
			}
		}
	}
	v, err := next()
	if err != nil {
		return nil, err
	}
	f := &File{}
	if f.Tensors, err = tensors(v, name); err != nil {
		return nil, err
	}
	keys, err := next()
	if err != nil {
		return nil, err
	}
	klist, ok := keys.(*list)
	if !ok {
		return nil, formats.Malformedf(name, pos, "storage keys are %s, want a list", kind(keys))
	}
	for _, k := range klist.items {
		key, ok := k.(string)
		s := l.storages[key]
		if !ok || s == nil || s.data != nil {
			return nil, formats.Malformedf(name, pos, "storage key %s is unknown or there twice", formats.Quote(key))
		}
		var b [8]byte
		if size-pos < 8 {
			return nil, formats.Malformedf(name, pos, "truncated before storage %s", formats.Quote(key))
		}
		if _, err := r.ReadAt(b[:], pos); err != nil && err != io.EOF {
			return nil, err
		}
		pos += 8
		if n := binary.LittleEndian.Uint64(b[:]); n != s.elems {
			return nil, formats.Malformedf(name, pos-8, "storage %s has %d elements, its tensors expect %d", formats.Quote(key), n, s.elems)
		}
		if s.bytes() > size-pos {
			return nil, formats.Malformedf(name, pos, "storage %s truncated: %d of %d bytes", formats.Quote(key), size-pos, s.bytes())
		}
		s.data, s.off = r, pos
		pos += s.bytes()
	}
	for key, s := range l.storages {
		if s.data == nil {
			return nil, formats.Malformedf(name, -1, "storage %s missing", formats.Quote(key))
		}
	}
	if pos != size {
		return nil, formats.Malformedf(name, pos, "%d bytes after the last storage", size-pos)
	}
	return f, nil
}

// gib prints a number of bytes for people.
func gib(n int64) string {
	if n >= 1<<30 {
		return strconv.FormatFloat(float64(n)/(1<<30), 'g', 3, 64) + " GiB"
	}
	return strconv.FormatInt(n, 10) + " bytes"
}
