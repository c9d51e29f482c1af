package gguf

import (
	"bufio"
	"encoding/binary"
	"io"
	"math"
	"math/bits"
	"strings"
	"unicode/utf8"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/quant"
)

// Limits that no real file comes near; they keep hostile ones cheap.
const (
	maxKeys       = 1 << 16 // real files have fewer than a hundred
	maxKeyLen     = 1<<16 - 1
	maxNameLen    = 1<<16 - 1
	maxDims       = 4
	maxAlignment  = 1 << 20
	defaultAlign  = 32
	headerSize    = 24
	minKeySize    = 8 + 4 + 1     // empty key, type, one-byte value
	minTensorSize = 8 + 4 + 4 + 8 // empty name, no dimensions, type, offset
	alignmentKey  = "general.alignment"
)

// part is one file of a possibly split model.
type part struct {
	name       string
	r          io.ReaderAt
	size       int64
	version    uint32
	meta       *Metadata
	tensors    []*Tensor
	dataOffset int64
	trailing   int64
	mapped     []byte
}

// decoder reads a part's metadata front to back.
type decoder struct {
	name string
	r    *bufio.Reader
	pos  int64
	size int64
	buf  [8]byte
}

func (d *decoder) remaining() uint64 { return uint64(d.size - d.pos) }

func (d *decoder) bad(format string, args ...any) error {
	return formats.Malformedf(d.name, d.pos, format, args...)
}

// truncated is the error for an item that the rest of the file cannot hold.
func (d *decoder) truncated(where string, err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return d.bad("truncated in %s", where)
	}
	return formats.Malformedf(d.name, d.pos, "read error in %s: %v", where, err)
}

func (d *decoder) bytes(b []byte, where string) error {
	if uint64(len(b)) > d.remaining() {
		return d.bad("truncated in %s", where)
	}
	n, err := io.ReadFull(d.r, b)
	d.pos += int64(n)
	if err != nil {
		return d.truncated(where, err)
	}
	return nil
}

func (d *decoder) u32(where string) (uint32, error) {
	err := d.bytes(d.buf[:4], where)
	return binary.LittleEndian.Uint32(d.buf[:]), err
}

func (d *decoder) u64(where string) (uint64, error) {
	err := d.bytes(d.buf[:8], where)
	return binary.LittleEndian.Uint64(d.buf[:]), err
}

// length reads the length of a string and holds it against what remains.
func (d *decoder) length(where string) (int, error) {
	n, err := d.u64(where)
	if err != nil {
		return 0, err
	}
	if n > d.remaining() {
		return 0, d.bad("%s: string length %d > remaining %d", where, n, d.remaining())
	}
	return int(n), nil
}

// string reads a string value. Vocabularies may hold any bytes, so UTF-8 is not
// asked for.
func (d *decoder) string(where string) (string, error) {
	n, err := d.length(where)
	if err != nil {
		return "", err
	}
	b := make([]byte, n)
	if err := d.bytes(b, where); err != nil {
		return "", err
	}
	return string(b), nil
}

// identifier reads a key or tensor name: short, UTF-8, without NUL, not empty.
func (d *decoder) identifier(where string, limit int) (string, error) {
	at := d.pos
	n, err := d.length(where)
	if err != nil {
		return "", err
	}
	if n > limit {
		return "", d.bad("%s: length %d > %d", where, n, limit)
	}
	b := make([]byte, n)
	if err := d.bytes(b, where); err != nil {
		return "", err
	}
	s := string(b)
	fail := func(format string, args ...any) (string, error) {
		return "", formats.Malformedf(d.name, at, format, args...)
	}
	switch i := strings.IndexByte(s, 0); {
	case s == "":
		return fail("%s: empty name", where)
	case i >= 0:
		return fail("%s: name has NUL at %d", where, i)
	case !utf8.ValidString(s):
		return fail("%s: name %s is not UTF-8", where, formats.Quote(s))
	}
	return s, nil
}

// readPart reads the metadata of one file.
func readPart(r io.ReaderAt, size int64, name string) (*part, error) {
	d := &decoder{name: name, r: bufio.NewReaderSize(io.NewSectionReader(r, 0, size), 1<<16), size: size}
	p := &part{name: name, r: r, size: size, meta: NewMetadata()}
	var head [headerSize]byte
	n := int(min(size, headerSize))
	if err := d.bytes(head[:n], "header"); err != nil {
		return nil, err
	}
	if n >= 4 && string(head[:4]) != "GGUF" {
		return nil, formats.Malformedf(name, 0, "not GGUF (magic %q)", head[:4])
	}
	if n < headerSize {
		return nil, formats.Malformedf(name, -1, "truncated header: %d of %d bytes", n, headerSize)
	}
	p.version = binary.LittleEndian.Uint32(head[4:])
	switch {
	case p.version == 2 || p.version == 3:
	case bits.ReverseBytes32(p.version) <= 3 && p.version > 3:
		return nil, formats.Unsupportedf(name, 4, "big-endian GGUF unsupported").
			WithHint("convert the file to little-endian first")
	default:
		return nil, formats.Unsupportedf(name, 4, "unsupported version %d", p.version).
			WithHint("versions 2 and 3 are read")
	}
	nTensors, nKeys := binary.LittleEndian.Uint64(head[8:]), binary.LittleEndian.Uint64(head[16:])
	if nKeys > d.remaining()/minKeySize {
		return nil, formats.Malformedf(name, 16, "n_kv %d impossible in %d bytes", nKeys, size)
	}
	if nTensors > d.remaining()/minTensorSize {
		return nil, formats.Malformedf(name, 8, "n_tensors %d impossible in %d bytes", nTensors, size)
	}
	if nKeys > maxKeys {
		return nil, formats.Unsupportedf(name, 16, "n_kv %d: more than %d keys", nKeys, maxKeys)
	}
	for i := range nKeys {
		if err := d.pair(p.meta, int(i)); err != nil {
			return nil, err
		}
	}
	align, err := alignment(p.meta)
	if err != nil {
		return nil, formats.Malformedf(name, -1, "%v", err)
	}
	if err := d.tensors(p, int(nTensors), align); err != nil {
		return nil, err
	}
	return p, nil
}

// alignment returns general.alignment, checked.
func alignment(m *Metadata) (uint64, error) {
	v, ok := m.Get(alignmentKey)
	if !ok {
		return defaultAlign, nil
	}
	a, ok := v.(uint32)
	if !ok || a == 0 || a&(a-1) != 0 || a > maxAlignment {
		if ok && a == 0 {
			return 0, errAlignZero
		}
		return 0, alignError{describe(v)}
	}
	return uint64(a), nil
}

type alignError struct{ got string }

func (e alignError) Error() string {
	return "alignment must be a u32 power of two <= 1 MiB, got " + e.got
}

var errAlignZero = alignError{"alignment 0"}

// pair reads key number i and its value.
func (d *decoder) pair(m *Metadata, i int) error {
	at := d.pos
	key, err := d.identifier("key "+itoa(i), maxKeyLen)
	if err != nil {
		return err
	}
	if _, ok := m.Get(key); ok {
		return formats.Malformedf(d.name, at, "duplicate key %s", formats.Quote(key))
	}
	where := "key " + formats.Quote(key)
	typ, err := d.u32(where)
	if err != nil {
		return err
	}
	if typ >= uint32(len(typeNames)) {
		return d.bad("%s: type %d", where, int32(typ))
	}
	v, err := d.value(typ, where)
	if err != nil {
		return err
	}
	m.Set(key, v)
	return nil
}

func (d *decoder) value(typ uint32, where string) (any, error) {
	switch typ {
	case typeString:
		return d.string(where)
	case typeArray:
		return d.array(where)
	}
	b := d.buf[:typeSizes[typ]]
	if err := d.bytes(b, where); err != nil {
		return nil, err
	}
	switch typ {
	case typeUint8:
		return b[0], nil
	case typeInt8:
		return int8(b[0]), nil
	case typeUint16:
		return binary.LittleEndian.Uint16(b), nil
	case typeInt16:
		return int16(binary.LittleEndian.Uint16(b)), nil
	case typeUint32:
		return binary.LittleEndian.Uint32(b), nil
	case typeInt32:
		return int32(binary.LittleEndian.Uint32(b)), nil
	case typeFloat32:
		return math.Float32frombits(binary.LittleEndian.Uint32(b)), nil
	case typeUint64:
		return binary.LittleEndian.Uint64(b), nil
	case typeInt64:
		return int64(binary.LittleEndian.Uint64(b)), nil
	case typeFloat64:
		return math.Float64frombits(binary.LittleEndian.Uint64(b)), nil
	default: // typeBool; the caller has checked the range
		if b[0] > 1 {
			return nil, d.bad("%s: bool of value %d", where, b[0])
		}
		return b[0] == 1, nil
	}
}

func (d *decoder) array(where string) (any, error) {
	elem, err := d.u32(where)
	if err != nil {
		return nil, err
	}
	count, err := d.u64(where)
	if err != nil {
		return nil, err
	}
	if elem >= uint32(len(typeNames)) {
		return nil, d.bad("%s: array of type %d", where, int32(elem))
	}
	if elem == typeArray {
		return nil, formats.Unsupportedf(d.name, d.pos, "%s: nested array unsupported", where)
	}
	size := uint64(typeSizes[elem])
	if elem == typeString {
		size = 8 // its length
	}
	if count > d.remaining()/size {
		return nil, d.bad("%s: array count %d > remaining %d bytes", where, count, d.remaining())
	}
	n := int(count)
	switch elem {
	case typeString:
		return d.strings(n, where)
	case typeUint8:
		return scalars(d, n, 1, where, func(b []byte) uint8 { return b[0] })
	case typeInt8:
		return scalars(d, n, 1, where, func(b []byte) int8 { return int8(b[0]) })
	case typeUint16:
		return scalars(d, n, 2, where, binary.LittleEndian.Uint16)
	case typeInt16:
		return scalars(d, n, 2, where, func(b []byte) int16 { return int16(binary.LittleEndian.Uint16(b)) })
	case typeUint32:
		return scalars(d, n, 4, where, binary.LittleEndian.Uint32)
	case typeInt32:
		return scalars(d, n, 4, where, func(b []byte) int32 { return int32(binary.LittleEndian.Uint32(b)) })
	case typeFloat32:
		return scalars(d, n, 4, where, func(b []byte) float32 { return math.Float32frombits(binary.LittleEndian.Uint32(b)) })
	case typeUint64:
		return scalars(d, n, 8, where, binary.LittleEndian.Uint64)
	case typeInt64:
		return scalars(d, n, 8, where, func(b []byte) int64 { return int64(binary.LittleEndian.Uint64(b)) })
	case typeFloat64:
		return scalars(d, n, 8, where, func(b []byte) float64 { return math.Float64frombits(binary.LittleEndian.Uint64(b)) })
	default: // typeBool
		return scalars(d, n, 1, where, func(b []byte) bool { return b[0] != 0 })
	}
}

// scalars reads n elements of size bytes in pieces, so that a count that lies
// within the file's size costs no more than what is really there.
func scalars[T any](d *decoder, n, size int, where string, get func([]byte) T) ([]T, error) {
	out := make([]T, 0, min(n, 1<<16))
	var buf [4096]byte
	for len(out) < n {
		k := min(n-len(out), len(buf)/size)
		if err := d.bytes(buf[:k*size], where); err != nil {
			return nil, err
		}
		for i := range k {
			out = append(out, get(buf[i*size:]))
		}
	}
	return out, nil
}

// strings reads n strings into one piece of memory.
func (d *decoder) strings(n int, where string) ([]string, error) {
	var text strings.Builder
	ends := make([]int, 0, min(n, 1<<16))
	var buf [4096]byte
	for range n {
		k, err := d.length(where)
		if err != nil {
			return nil, err
		}
		for k > 0 {
			b := buf[:min(k, len(buf))]
			if err := d.bytes(b, where); err != nil {
				return nil, err
			}
			text.Write(b)
			k -= len(b)
		}
		ends = append(ends, text.Len())
	}
	all, out, start := text.String(), make([]string, n), 0
	for i, end := range ends {
		out[i] = all[start:end]
		start = end
	}
	return out, nil
}

// tensors reads the tensor infos and checks that the data they describe lies
// in the file one after the other, without holes.
func (d *decoder) tensors(p *part, n int, align uint64) error {
	p.tensors = make([]*Tensor, 0, min(n, 1<<16))
	seen := make(map[string]bool, min(n, 1<<16))
	at := make([]int64, 0, min(n, 1<<16)) // where each info stands, for messages
	for i := range n {
		pos := d.pos
		where := "tensor info " + itoa(i)
		name, err := d.identifier(where, maxNameLen)
		if err != nil {
			return err
		}
		if seen[name] {
			return formats.Malformedf(d.name, pos, "duplicate tensor %s", formats.Quote(name))
		}
		seen[name] = true
		t := &Tensor{Name: name, part: p}
		if err := d.tensor(t, where); err != nil {
			return err
		}
		p.tensors = append(p.tensors, t)
		at = append(at, pos)
	}
	p.dataOffset = int64(pad(uint64(d.pos), align))
	next := uint64(0)
	for i, t := range p.tensors {
		if t.Offset != next {
			return formats.Malformedf(d.name, at[i], "tensor %s: offset %d, expected %d", formats.Quote(t.Name), t.Offset, next)
		}
		start := uint64(p.dataOffset) + t.Offset
		end := start + t.Size() // neither overflows: each size is below 2^62 and start lies within the file
		if end > uint64(p.size) && t.Size() > 0 {
			return formats.Malformedf(d.name, at[i], "tensor %s [%d,%d) exceeds file size %d", formats.Quote(t.Name), start, end, p.size)
		}
		next = pad(t.Offset+t.Size(), align)
	}
	p.trailing = max(0, p.size-p.dataOffset-int64(next))
	return nil
}

func (d *decoder) tensor(t *Tensor, where string) error {
	nDims, err := d.u32(where)
	if err != nil {
		return err
	}
	q := formats.Quote(t.Name)
	if nDims > maxDims {
		return d.bad("tensor %s: n_dims %d > %d", q, nDims, maxDims)
	}
	t.Dims = make([]uint64, nDims)
	elems := uint64(1) // as if a dimension of 0 were 1, so that partial products fit too
	for i := range t.Dims {
		if t.Dims[i], err = d.u64(where); err != nil {
			return err
		}
		hi, lo := bits.Mul64(elems, max(1, t.Dims[i]))
		if hi != 0 || lo > 1<<62 {
			return d.bad("tensor %s: element count overflows", q)
		}
		elems = lo
	}
	typ, err := d.u32(where)
	if err != nil {
		return err
	}
	t.Type = quant.Type(typ)
	if t.Offset, err = d.u64(where); err != nil {
		return err
	}
	if !t.Type.Valid() {
		return formats.Unsupportedf(d.name, d.pos, "tensor %s: unknown type %d", q, int32(typ))
	}
	if row := uint64(t.RowLen()); row%uint64(t.Type.BlockLen()) != 0 {
		return d.bad("tensor %s: row %d not a multiple of %d (%s)", q, row, t.Type.BlockLen(), t.Type)
	}
	if hi, lo := bits.Mul64(elems/uint64(t.Type.BlockLen()), uint64(t.Type.BlockSize())); hi != 0 || lo > 1<<62 {
		return d.bad("tensor %s: data size overflows", q)
	}
	return nil
}

// pad rounds n up to a multiple of align, a power of two.
func pad(n, align uint64) uint64 { return (n + align - 1) &^ (align - 1) }
