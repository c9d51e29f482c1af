package gguf

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/quant"
)

// Limits that no real file comes near; they keep hostile ones cheap.
const (
	maxKeys     = 1 << 16 // real files have fewer than a hundred
	maxTensors  = 1 << 16 // real files have a few thousand at most
	maxMetadata = 1 << 27 // bytes before the tensor data; real files have 30 MB at most
)

const (
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

	file    *os.File // nil where NewFile was given a reader
	modTime time.Time
	mapped  []byte
}

// chunk is how many bytes of a long item are read at a time.
const chunk = 1 << 16

// decoder reads a part's metadata front to back.
type decoder struct {
	name string
	r    *bufio.Reader // of chunk bytes
	pos  int64
	size int64
	text arena
}

func (d *decoder) remaining() uint64 { return uint64(d.size - d.pos) }

func (d *decoder) bad(format string, args ...any) error {
	return formats.Malformedf(d.name, d.pos, format, args...)
}

// next returns the next n bytes, at most chunk, which are good until the next
// call.
func (d *decoder) next(n int, where string) ([]byte, error) {
	if uint64(n) > d.remaining() {
		return nil, d.bad("truncated in %s", where)
	}
	if err := d.afford(uint64(n)); err != nil {
		return nil, err
	}
	b, err := d.r.Peek(n)
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %w", d.name, formats.ErrChanged)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: read error at %d, in %s: %w", d.name, d.pos, where, cause(err))
	}
	d.pos += int64(n)
	_, err = d.r.Discard(n)
	return b, err
}

// afford holds n more bytes against the bound on the metadata.
func (d *decoder) afford(n uint64) error {
	if uint64(d.pos)+n > maxMetadata {
		return formats.Unsupportedf(d.name, d.pos, "metadata of more than %d MiB", maxMetadata>>20)
	}
	return nil
}

func (d *decoder) u32(where string) (uint32, error) {
	b, err := d.next(4, where)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b), nil
}

func (d *decoder) u64(where string) (uint64, error) {
	b, err := d.next(8, where)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b), nil
}

// string reads a string of at most limit bytes. Any bytes will do: in
// vocabularies they need not be UTF-8.
func (d *decoder) string(where string, limit uint64) (string, error) {
	n, err := d.u64(where)
	if err != nil {
		return "", err
	}
	if n > d.remaining() {
		return "", d.bad("%s: string length %d > remaining %d", where, n, d.remaining())
	}
	if n > limit {
		return "", d.bad("%s: length %d > %d", where, n, limit)
	}
	if err := d.afford(n); err != nil {
		return "", err
	}
	d.text.grow(int(n))
	for left := int(n); left > 0; {
		b, err := d.next(min(left, chunk), where)
		if err != nil {
			return "", err
		}
		d.text.Write(b)
		left -= len(b)
	}
	return d.text.String()[d.text.Len()-int(n):], nil
}

// strings reads n strings, which the caller has found to fit in the file if
// they are short enough.
func (d *decoder) strings(n int, where string) ([]string, error) {
	out := make([]string, 0, n)
	for len(out) < n {
		// Those that are in the buffer already, without a call for each.
		b, err := d.r.Peek(d.r.Buffered())
		if err != nil {
			return nil, err
		}
		used := 0
		for len(out) < n && len(b)-used >= 8 {
			k := binary.LittleEndian.Uint64(b[used:])
			if k > uint64(len(b)-used-8) {
				break
			}
			used += 8
			out = append(out, d.text.add(b[used:used+int(k)]))
			used += int(k)
		}
		if _, err := d.r.Discard(used); err != nil {
			return nil, err
		}
		d.pos += int64(used)
		if len(out) == n {
			break
		}
		s, err := d.string(where, math.MaxUint64) // reaches past the buffer, or fails
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, d.afford(0)
}

// arena holds the texts of many strings in few pieces of memory.
type arena struct{ strings.Builder }

// grow makes room for n bytes in one piece.
func (a *arena) grow(n int) {
	if a.Cap()-a.Len() < n {
		a.Builder = strings.Builder{}
		a.Grow(max(n, chunk))
	}
}

// add keeps a copy of b.
func (a *arena) add(b []byte) string {
	a.grow(len(b))
	a.Write(b)
	return a.String()[a.Len()-len(b):]
}

// identifier reads a key or tensor name.
func (d *decoder) identifier(where string, limit uint64) (string, error) {
	at := d.pos
	s, err := d.string(where, limit)
	if err != nil {
		return "", err
	}
	if err := checkName(s); err != nil {
		return "", formats.Malformedf(d.name, at, "%s: %v", where, err)
	}
	return s, nil
}

// checkName refuses what is no name of a key or tensor.
func checkName(s string) error {
	switch i := strings.IndexByte(s, 0); {
	case s == "":
		return errors.New("empty name")
	case i >= 0:
		return fmt.Errorf("name has NUL at %d", i)
	case !utf8.ValidString(s):
		return fmt.Errorf("name %s is not UTF-8", formats.Quote(s))
	}
	return nil
}

// readPart reads the metadata of one file.
func readPart(r io.ReaderAt, size int64, name string) (*part, error) {
	d := &decoder{name: name, r: bufio.NewReaderSize(io.NewSectionReader(r, 0, size), chunk), size: size}
	p := &part{name: name, r: r, size: size, meta: NewMetadata()}
	n := int(min(size, headerSize))
	head, err := d.next(n, "header")
	if err != nil {
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
	if nTensors > maxTensors {
		return nil, formats.Unsupportedf(name, 8, "n_tensors %d: more than %d tensors", nTensors, maxTensors)
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
	if ok && a == 0 {
		return 0, errors.New("alignment 0")
	}
	if !ok || a&(a-1) != 0 || a > maxAlignment {
		return 0, fmt.Errorf("alignment must be a u32 power of two <= 1 MiB, got %s", describe(v))
	}
	return uint64(a), nil
}

// pair reads key number i and its value.
func (d *decoder) pair(m *Metadata, i int) error {
	at := d.pos
	key, err := d.identifier("key "+strconv.Itoa(i), maxKeyLen)
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
		return d.string(where, math.MaxUint64)
	case typeArray:
		return d.array(where)
	}
	b, err := d.next(typeSizes[typ], where)
	if err != nil {
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
	if err := d.afford(count * size); err != nil {
		return nil, err
	}
	n := int(count)
	switch elem {
	case typeString:
		return d.strings(n, where)
	case typeUint8:
		return scalars[uint8](d, n, where)
	case typeInt8:
		return scalars[int8](d, n, where)
	case typeUint16:
		return scalars[uint16](d, n, where)
	case typeInt16:
		return scalars[int16](d, n, where)
	case typeUint32:
		return scalars[uint32](d, n, where)
	case typeInt32:
		return scalars[int32](d, n, where)
	case typeFloat32:
		return scalars[float32](d, n, where)
	case typeUint64:
		return scalars[uint64](d, n, where)
	case typeInt64:
		return scalars[int64](d, n, where)
	case typeFloat64:
		return scalars[float64](d, n, where)
	default: // typeBool
		b, err := scalars[uint8](d, n, where)
		if err != nil {
			return nil, err
		}
		out := make([]bool, n)
		for i, v := range b {
			if v > 1 {
				return nil, d.bad("%s: bool of value %d", where, v)
			}
			out[i] = v == 1
		}
		return out, nil
	}
}

// scalars reads n elements, which the caller has found to be in the file.
func scalars[T any](d *decoder, n int, where string) ([]T, error) {
	out := make([]T, n)
	var one T
	size := binary.Size(one)
	for rest := out; len(rest) > 0; {
		k := min(len(rest), chunk/size)
		b, err := d.next(k*size, where)
		if err != nil {
			return nil, err
		}
		if _, err := binary.Decode(b, binary.LittleEndian, rest[:k]); err != nil {
			return nil, err
		}
		rest = rest[k:]
	}
	return out, nil
}

// tensors reads the tensor infos and checks that the data they describe lies
// in the file one after the other, without holes.
func (d *decoder) tensors(p *part, n int, align uint64) error {
	p.tensors = make([]*Tensor, 0, n)
	seen := make(map[string]bool, n)
	at := make([]int64, 0, n) // where each info stands, for messages
	for i := range n {
		pos := d.pos
		where := "tensor info " + strconv.Itoa(i)
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
	for i := range t.Dims {
		if t.Dims[i], err = d.u64(where); err != nil {
			return err
		}
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
	if err := t.checkShape(); err != nil {
		return d.bad("tensor %s: %v", q, err)
	}
	return nil
}

// checkShape refuses shapes of which Elems, Size, RowLen or Rows would not be
// right. The type is valid.
func (t *Tensor) checkShape() error {
	elems := uint64(1) // as if a dimension of 0 were 1, so that partial products fit too
	for _, n := range t.Dims {
		hi, lo := bits.Mul64(elems, max(1, n))
		if hi != 0 || lo > 1<<62 {
			return errors.New("element count overflows")
		}
		elems = lo
	}
	block := uint64(t.Type.BlockLen())
	if row := uint64(t.RowLen()); row%block != 0 {
		return fmt.Errorf("row %d not a multiple of %d (%s)", row, block, t.Type)
	}
	if hi, lo := bits.Mul64(elems/block, uint64(t.Type.BlockSize())); hi != 0 || lo > 1<<62 {
		return errors.New("data size overflows")
	}
	return nil
}

// pad rounds n up to a multiple of align, a power of two.
func pad(n, align uint64) uint64 { return (n + align - 1) &^ (align - 1) }
