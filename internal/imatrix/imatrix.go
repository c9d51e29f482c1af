// Package imatrix reads, merges and writes importance matrices: how strongly
// each input channel of each weight matrix is driven by a calibration text, as
// the sum of squared activations. Quantization weighs its errors with them.
// Both forms of llama-imatrix are read, the GGUF one and the legacy .dat one.
package imatrix

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/formats/gguf"
	"github.com/smeltgguf/smelt/internal/stream"
	"github.com/smeltgguf/smelt/quant"
)

// Matrix is an importance matrix.
type Matrix struct {
	Datasets  []string // names of the calibration texts
	Chunks    uint32   // chunks of text that went into it
	ChunkSize uint32   // tokens per chunk; 0 in the legacy form, which does not say

	entries map[string]*Entry
	file    io.Closer // that entries are read from
}

// Entry is what was measured for one tensor.
type Entry struct {
	// Sums of squared activations, row length values per matrix: one matrix,
	// or one per expert. Nil where they are still in the file.
	Sums []float32
	// Counts of summed activations, one per matrix or one for all of them.
	Counts []float32

	stored *stored
}

// stored is where an entry's sums are in a file.
type stored struct {
	n    int // values
	read func(p []byte, off int64) error
}

// New returns a matrix without entries.
func New() *Matrix { return &Matrix{entries: map[string]*Entry{}} }

// Set adds or replaces the entry of a tensor.
func (m *Matrix) Set(tensor string, e *Entry) { m.entries[tensor] = e }

// Entry returns the entry of a tensor, nil if there is none.
func (m *Matrix) Entry(tensor string) *Entry { return m.entries[tensor] }

// Names returns the tensors' names in order.
func (m *Matrix) Names() []string { return slices.Sorted(maps.Keys(m.entries)) }

// Len returns the number of entries.
func (m *Matrix) Len() int { return len(m.entries) }

// Filter returns a matrix of the entries whose names keep accepts.
func (m *Matrix) Filter(keep func(tensor string) bool) *Matrix {
	out := &Matrix{Datasets: m.Datasets, Chunks: m.Chunks, ChunkSize: m.ChunkSize, entries: map[string]*Entry{}, file: m.file}
	for name, e := range m.entries {
		if keep(name) {
			out.entries[name] = e
		}
	}
	return out
}

// Len returns the number of values: input channels, of all matrices.
func (e *Entry) Len() int {
	if e.stored != nil {
		return e.stored.n
	}
	return len(e.Sums)
}

// Values returns the mean squared activation of each input channel, in the
// form that quantization takes; see ReadValues. The sums are held in memory.
func (e *Entry) Values() []float32 {
	out := slices.Clone(e.Sums)
	e.divide(out, 0)
	return out
}

// ReadValues fills dst with the mean squared activations of input channels
// from first on. An expert that the text never reached counts as all ones.
func (e *Entry) ReadValues(dst []float32, first int) error {
	if e.stored == nil {
		copy(dst, e.Sums[first:])
	} else if err := e.stored.sums(dst, first); err != nil {
		return err
	}
	e.divide(dst, first)
	return nil
}

// divide divides sums, those from first on, by their counts.
func (e *Entry) divide(sums []float32, first int) {
	n := e.Len() / len(e.Counts) // values of a count
	for len(sums) > 0 {
		count := e.Counts[first/n]
		part := sums[:min(len(sums), n-first%n)]
		for i := range part {
			if count > 0 {
				part[i] /= count
			} else {
				part[i] = 1
			}
		}
		sums, first = sums[len(part):], first+len(part)
	}
}

// pieceBytes is how much of a file is read at a time.
const pieceBytes = 64 << 10

var pieces = sync.Pool{New: func() any { return new([pieceBytes]byte) }}

// sums reads sums from first on.
func (s *stored) sums(dst []float32, first int) error {
	raw := pieces.Get().(*[pieceBytes]byte)
	defer pieces.Put(raw)
	off := int64(4 * first)
	for len(dst) > 0 {
		piece := raw[:min(4*len(dst), len(raw))]
		if err := s.read(piece, off); err != nil {
			return err
		}
		floats(dst[:len(piece)/4], piece)
		dst, off = dst[len(piece)/4:], off+int64(len(piece))
	}
	return nil
}

// load brings the sums into memory.
func (e *Entry) load() error {
	if e.stored == nil {
		return nil
	}
	sums := make([]float32, e.stored.n)
	if err := e.stored.sums(sums, 0); err != nil {
		return err
	}
	e.Sums, e.stored = sums, nil
	return nil
}

// Unseen returns how many of the entry's experts the text never reached.
func (e *Entry) Unseen() int {
	n := 0
	for _, c := range e.Counts {
		if c == 0 {
			n++
		}
	}
	return n
}

// Add adds what other measured to e; both are of the same tensor.
func (e *Entry) add(other *Entry) bool {
	if len(e.Sums) != len(other.Sums) || len(e.Counts) != len(other.Counts) {
		return false
	}
	for i, v := range other.Sums {
		e.Sums[i] += v
	}
	for i, v := range other.Counts {
		e.Counts[i] += v
	}
	return true
}

// Merge adds what other measured, as if both texts had been one.
func (m *Matrix) Merge(other *Matrix) error {
	if m.ChunkSize != other.ChunkSize && m.Len() > 0 && other.Len() > 0 {
		return formats.Unsupportedf("", -1, "importance matrices of chunks of %d and of %d tokens do not add up", m.ChunkSize, other.ChunkSize).
			WithHint("a legacy .dat file holds means rather than sums; merge files in GGUF form of one chunk size")
	}
	for _, name := range other.Names() {
		o := other.entries[name]
		e := m.entries[name]
		if e == nil {
			m.entries[name] = &Entry{Sums: slices.Clone(o.Sums), Counts: slices.Clone(o.Counts)}
			continue
		}
		if !e.add(o) {
			return formats.Malformedf("", -1, "importance of %s: %d values for %d matrices, the other matrix has %d for %d",
				formats.Quote(name), len(e.Sums), len(e.Counts), len(o.Sums), len(o.Counts))
		}
	}
	m.Chunks += other.Chunks
	m.ChunkSize = cmp.Or(m.ChunkSize, other.ChunkSize)
	for _, d := range other.Datasets {
		if !slices.Contains(m.Datasets, d) {
			m.Datasets = append(m.Datasets, d)
		}
	}
	return nil
}

// Keys and tensor name suffixes of the GGUF form (llama.cpp, tools/imatrix).
// Later files also have ".in_sum", sums of plain activations; they are skipped.
const (
	keyType      = "general.type"
	keyDatasets  = "imatrix.datasets"
	keyChunks    = "imatrix.chunk_count"
	keyChunkSize = "imatrix.chunk_size"

	suffixSums   = ".in_sum2"
	suffixCounts = ".counts"
)

// Open reads a file of either form, told apart by its contents.
func Open(path string) (*Matrix, error) {
	m, err := OpenLazy(path)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	return m, m.load()
}

// OpenLazy is Open for a matrix that may be larger than memory: all values are
// looked at, but stay in the file, for Entry.ReadValues alone. Close the matrix
// after use.
func OpenLazy(path string) (*Matrix, error) {
	f, err := formats.OpenRegular(path)
	if err != nil {
		return nil, err
	}
	m, err := openLazy(f, path)
	if err != nil {
		f.Close()
		return nil, err
	}
	m.file = f
	return m, nil
}

func openLazy(f *os.File, path string) (*Matrix, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, formats.Malformedf(path, -1, "%v", err)
	}
	return readLazy(f, st.Size(), path)
}

// Close closes the file of a matrix that OpenLazy returned; others, nil too, have none.
func (m *Matrix) Close() error {
	if m == nil || m.file == nil {
		return nil
	}
	return m.file.Close()
}

// Read reads size bytes of either form from r; name is for messages.
func Read(r io.ReaderAt, size int64, name string) (*Matrix, error) {
	m, err := readLazy(r, size, name)
	if err != nil {
		return nil, err
	}
	return m, m.load()
}

// load brings all values into memory.
func (m *Matrix) load() error {
	for _, e := range m.entries {
		if err := e.load(); err != nil {
			return err
		}
	}
	m.file = nil
	return nil
}

func readLazy(r io.ReaderAt, size int64, name string) (*Matrix, error) {
	var magic [4]byte
	if _, err := r.ReadAt(magic[:], 0); err == nil && string(magic[:]) == "GGUF" {
		return readGGUF(r, size, name)
	}
	return readLegacy(r, size, name)
}

func readGGUF(r io.ReaderAt, size int64, name string) (*Matrix, error) {
	f, err := gguf.NewFile(r, size, name)
	if err != nil {
		return nil, err
	}
	bad := func(format string, args ...any) error { return formats.Malformedf(name, -1, format, args...) }
	m := New()
	if m.Datasets, err = f.Metadata.Strings(keyDatasets); err != nil {
		return nil, bad("no importance matrix: %v", err)
	}
	for key, to := range map[string]*uint32{keyChunks: &m.Chunks, keyChunkSize: &m.ChunkSize} {
		v, err := f.Metadata.Uint(key)
		if err != nil {
			return nil, bad("no importance matrix: %v", err)
		}
		if v > math.MaxInt32 {
			return nil, bad("%s: %d", key, v)
		}
		*to = uint32(v)
	}
	for _, t := range f.Tensors {
		if t.Type != quant.F32 {
			return nil, bad("tensor %s: want F32, got %s", formats.Quote(t.Name), t.Type)
		}
		tensor, ok := strings.CutSuffix(t.Name, suffixSums)
		if !ok {
			if base, ok := strings.CutSuffix(t.Name, suffixCounts); ok && f.Tensor(base+suffixSums) == nil {
				return nil, bad("tensor %s without %s", formats.Quote(t.Name), formats.Quote(base+suffixSums))
			}
			continue
		}
		counts := f.Tensor(tensor + suffixCounts)
		if counts == nil {
			return nil, bad("tensor %s without %s", formats.Quote(t.Name), formats.Quote(tensor+suffixCounts))
		}
		if err := checkSize(t.Elems(), counts.Elems()); err != nil {
			return nil, bad("tensor %s: %v", formats.Quote(tensor), err)
		}
		read := func(p []byte, off int64) error { return t.ReadData(p, uint64(off)) }
		e := &Entry{Counts: make([]float32, counts.Elems()), stored: &stored{int(t.Elems()), read}}
		n := &stored{len(e.Counts), func(p []byte, off int64) error { return counts.ReadData(p, uint64(off)) }}
		if err := n.sums(e.Counts, 0); err != nil {
			return nil, err
		}
		for i, c := range e.Counts {
			e.Counts[i] = float32(math.Round(float64(c)))
		}
		if err := e.check(); err != nil {
			var fe *formats.FormatError
			if !errors.As(err, &fe) {
				return nil, err
			}
			return nil, bad("tensor %s: %v", formats.Quote(tensor), err)
		}
		m.entries[tensor] = e
	}
	if m.Len() == 0 {
		return nil, bad("an importance matrix without entries")
	}
	return m, nil
}

// floats decodes raw into dst.
func floats(dst []float32, raw []byte) {
	for i := range dst {
		dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
}

func checkSize(values, counts uint64) error {
	if counts == 0 || values == 0 || values%counts != 0 {
		return formats.Malformedf("", -1, "%d values for %d matrices", values, counts)
	}
	return nil
}

// check refuses what cannot be sums of squares and counts.
func (e *Entry) check() error {
	buf := make([]float32, min(e.stored.n, pieceBytes/4))
	for first := 0; first < e.stored.n; first += len(buf) {
		piece := buf[:min(len(buf), e.stored.n-first)]
		if err := e.stored.sums(piece, first); err != nil {
			return err
		}
		if err := checkFloats("value", piece, first); err != nil {
			return err
		}
	}
	return checkFloats("count", e.Counts, 0)
}

// checkFloats refuses negative and nonfinite numbers; first is the position of
// the first.
func checkFloats(what string, x []float32, first int) error {
	for i, v := range x {
		if !(v >= 0) || math.IsInf(float64(v), 0) {
			return formats.Malformedf("", -1, "%s %d is %g", what, first+i, v)
		}
	}
	return nil
}

// readLegacy reads the form that llama-imatrix wrote until 2025: the number of
// entries, then for each its name, how often it was measured and its values,
// sums of means; then, in later files, the number of chunks and the name of
// the text. All numbers are int32 or float32, strings have their length before
// them.
func readLegacy(r io.ReaderAt, size int64, name string) (*Matrix, error) {
	d := legacyReader{file: r, r: bufio.NewReader(io.NewSectionReader(r, 0, size)), size: size, name: name}
	m := New()
	n := d.count("number of entries")
	if d.err == nil && n == 0 {
		return nil, formats.Malformedf(name, 0, "an importance matrix without entries")
	}
	for i := 0; i < n && d.err == nil; i++ {
		at := d.pos
		tensor := string(d.bytes(d.count("length of a name")))
		calls := d.count("number of calls")
		values := d.count("number of values")
		start := d.pos
		d.skip(4 * values)
		if d.err != nil {
			break
		}
		e := &Entry{Counts: []float32{float32(calls)}, stored: &stored{values, func(p []byte, off int64) error {
			if _, err := r.ReadAt(p, start+off); err != nil {
				return formats.Malformedf(name, start+off, "read error: %v", err)
			}
			return nil
		}}}
		if err := checkSize(uint64(values), 1); err != nil {
			return nil, formats.Malformedf(name, at, "entry %s: %v", formats.Quote(tensor), err)
		}
		if calls == 0 {
			e.Counts[0] = 1 // the values stand as they are
		}
		if err := e.check(); err != nil {
			return nil, formats.Malformedf(name, at, "entry %s: %v", formats.Quote(tensor), err)
		}
		if m.entries[tensor] != nil {
			return nil, formats.Malformedf(name, at, "duplicate entry %s", formats.Quote(tensor))
		}
		m.entries[tensor] = e
	}
	if d.err == nil && d.pos < size {
		m.Chunks = uint32(d.count("number of chunks"))
		if d.err == nil && d.pos < size {
			if text := d.bytes(d.count("length of the text's name")); len(text) > 0 {
				m.Datasets = []string{string(text)}
			}
		}
	}
	if d.err != nil {
		return nil, d.err
	}
	return m, nil
}

type legacyReader struct {
	file      io.ReaderAt
	r         *bufio.Reader
	pos, size int64
	name      string
	err       error // the first
}

// bytes reads n bytes that the file is known to have.
func (d *legacyReader) bytes(n int) []byte {
	if !d.need(n) {
		return nil
	}
	b := make([]byte, n)
	k, err := io.ReadFull(d.r, b)
	d.pos += int64(k)
	if err != nil {
		d.err = formats.Malformedf(d.name, d.pos, "read error: %v", err)
		return nil
	}
	return b
}

// skip passes over n bytes that the file is known to have.
func (d *legacyReader) skip(n int) {
	if d.need(n) {
		d.pos += int64(n)
		d.r.Reset(io.NewSectionReader(d.file, d.pos, d.size-d.pos))
	}
}

// need tells whether the file has n more bytes and no error came before.
func (d *legacyReader) need(n int) bool {
	if d.err == nil && int64(n) > d.size-d.pos {
		d.err = formats.Malformedf(d.name, d.pos, "neither GGUF nor a legacy importance matrix, or truncated: needs %d bytes, has %d", n, d.size-d.pos)
	}
	return d.err == nil
}

func (d *legacyReader) count(what string) int {
	at := d.pos
	b := d.bytes(4)
	if d.err != nil {
		return 0
	}
	n := int32(binary.LittleEndian.Uint32(b))
	if n < 0 {
		d.err = formats.Malformedf(d.name, at, "%s is %d", what, n)
		return 0
	}
	return int(n)
}

// Save writes the GGUF form to path, which appears as a whole.
func (m *Matrix) Save(path string, force bool, inputs ...string) error {
	meta := gguf.NewMetadata()
	meta.Set(keyType, "imatrix")
	meta.Set(keyDatasets, append([]string{}, m.Datasets...))
	meta.Set(keyChunks, m.Chunks)
	meta.Set(keyChunkSize, m.ChunkSize)
	var tensors []*gguf.Tensor
	var data [][]float32
	for _, name := range m.Names() {
		e := m.entries[name]
		for _, s := range []struct {
			suffix string
			v      []float32
		}{{suffixSums, e.Sums}, {suffixCounts, e.Counts}} {
			dims := []uint64{uint64(len(s.v) / len(e.Counts))}
			if len(e.Counts) > 1 {
				dims = append(dims, uint64(len(e.Counts)))
			}
			tensors = append(tensors, &gguf.Tensor{Name: name + s.suffix, Type: quant.F32, Dims: dims})
			data = append(data, s.v)
		}
	}
	l, err := gguf.Plan(meta, tensors)
	if err != nil {
		return err
	}
	out, err := stream.Create(path, l.Size, force, inputs...)
	if err != nil {
		return err
	}
	defer out.Abort()
	if _, err := out.WriteAt(l.Header, 0); err != nil {
		return err
	}
	for i, v := range data {
		raw := make([]byte, 0, 4*len(v))
		for _, x := range v {
			raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(x))
		}
		if _, err := out.WriteAt(raw, l.Offset(i)); err != nil {
			return err
		}
	}
	return out.Commit()
}
