package baseline

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/smeltgguf/smelt/formats"
)

const (
	magic      = "smeltbas"
	version    = 1
	maxHeader  = 1 << 20
	maxSection = 64 << 20
	maxCtx     = 1 << 22
	maxVocab   = 1 << 22
	// maxCells bounds positions times vocabulary of one record.
	maxCells = 4 << 20
)

// Kinds of records.
const (
	kindChunk = 'C' // a chunk's tokens
	kindRows  = 'R' // positions of the last chunk
	kindEnd   = 'E' // the trailer
)

// trailer ends a file; one without it was cut short.
type trailer struct {
	Chunks int `json:"chunks"`
	Scored int `json:"scored"`
}

// MaxRows is how many positions go into one record.
func MaxRows(vocab int) int { return max(1, maxCells/vocab) }

// Writer writes a baseline under a temporary name in the directory of its own.
type Writer struct {
	path   string
	f      *os.File
	err    error
	vocab  int
	zstd   *zstd.Encoder
	rows   []*encoder // one per worker
	chunks int
	scored int
	done   bool
}

// Create begins a baseline; Commit or Abort ends it.
func Create(path string, h *Header) (*Writer, error) {
	if h.Vocab < 1 || h.Vocab > maxVocab || h.Ctx > maxCtx {
		return nil, fmt.Errorf("%s: vocabulary of %d, context of %d: too large for a baseline", path, h.Vocab, h.Ctx)
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithSingleSegment(true), zstd.WithZeroFrames(true))
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".tmp")
	if err != nil {
		return nil, err
	}
	w := &Writer{path: path, f: f, vocab: h.Vocab, zstd: enc}
	for range runtime.GOMAXPROCS(0) {
		w.rows = append(w.rows, newEncoder(h.Vocab))
	}
	b := binary.LittleEndian.AppendUint32([]byte(magic), version)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(text)))
	w.write(append(b, text...))
	return w, w.err
}

func (w *Writer) write(b []byte) {
	if w.err == nil {
		_, w.err = w.f.Write(b)
	}
}

func (w *Writer) section(data []byte) {
	b := w.zstd.EncodeAll(data, nil)
	head := binary.LittleEndian.AppendUint32(nil, uint32(len(data)))
	w.write(binary.LittleEndian.AppendUint32(head, uint32(len(b))))
	w.write(b)
}

// Chunk begins a chunk: where in the text it stands, and its tokens as the text
// has them.
func (w *Writer) Chunk(start int, tokens []int32) error {
	b, err := binary.Append(binary.LittleEndian.AppendUint64(nil, uint64(start)), binary.LittleEndian, tokens)
	if err != nil {
		return err
	}
	w.write([]byte{kindChunk})
	w.section(b)
	w.chunks++
	return w.err
}

// Rows writes the next positions of the chunk, at most MaxRows: logits is
// (len(targets), vocab), targets the right tokens.
func (w *Writer) Rows(logits []float32, targets []int32) error {
	if w.err != nil || len(targets) == 0 {
		return w.err
	}
	// Each worker makes a run of rows, so that only the runs are put together.
	type part struct{ heads, logits, syms, bits []byte }
	parts := make([]part, min(len(w.rows), len(targets)))
	var wg sync.WaitGroup
	for k := range parts {
		wg.Go(func() {
			p, e := &parts[k], w.rows[k]
			for i := k * len(targets) / len(parts); i < (k+1)*len(targets)/len(parts); i++ {
				e.encode(logits[i*w.vocab:(i+1)*w.vocab], targets[i], uint64(w.scored+i))
				p.heads, _ = binary.Append(p.heads, binary.LittleEndian, &e.head) // only strange types fail
				p.logits, _ = binary.Append(p.logits, binary.LittleEndian, e.logit)
				p.syms = append(p.syms, e.syms...)
				p.bits = append(p.bits, e.bits.b...)
			}
		})
	}
	wg.Wait()
	var all part
	for _, p := range parts {
		all.heads = append(all.heads, p.heads...)
		all.logits = append(all.logits, p.logits...)
		all.syms = append(all.syms, p.syms...)
		all.bits = append(all.bits, p.bits...)
	}
	w.write(binary.LittleEndian.AppendUint32([]byte{kindRows}, uint32(len(targets))))
	for _, s := range [][]byte{all.heads, all.logits, all.syms, all.bits} {
		w.section(s)
	}
	w.scored += len(targets)
	return w.err
}

// Commit ends the file and gives it its name.
func (w *Writer) Commit() error {
	text, err := json.Marshal(trailer{w.chunks, w.scored})
	if err != nil {
		w.err = errors.Join(w.err, err)
	}
	w.write(append(binary.LittleEndian.AppendUint32([]byte{kindEnd}, uint32(len(text))), text...))
	if w.err == nil {
		w.err = w.f.Chmod(0o644)
	}
	if w.err == nil {
		w.err = w.f.Sync()
	}
	if err := w.f.Close(); w.err == nil {
		w.err = err
	}
	if w.err == nil {
		w.err = os.Rename(w.f.Name(), w.path)
	}
	if w.err != nil {
		os.Remove(w.f.Name())
	}
	w.done = true
	return w.err
}

// Abort removes what has been written; after Commit it does nothing.
func (w *Writer) Abort() {
	if w.done {
		return
	}
	w.done = true
	w.f.Close()
	os.Remove(w.f.Name())
}

// Open opens a baseline of either form.
func Open(path string) (Reader, error) {
	f, err := formats.OpenRegular(path)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	r, err := newReader(path, f, fi.Size())
	if err != nil {
		f.Close()
		return nil, err
	}
	return r, nil
}

// source is what a baseline is read from.
type source interface {
	io.ReaderAt
	io.Closer
}

func newReader(path string, f source, size int64) (Reader, error) {
	var m [8]byte
	if _, err := f.ReadAt(m[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	switch string(m[:]) {
	case magic:
		return newOwn(path, f, size)
	case llamaMagic:
		return newLlama(path, f, size)
	}
	return nil, formats.Malformedf(path, 0, "no baseline: begins with %s", formats.Quote(string(m[:])))
}

// own reads the project's form.
type own struct {
	path   string
	f      source
	size   int64
	at     int64
	header Header
	zstd   *zstd.Decoder
	tokens []int32
	left   int   // positions of the chunk not read yet
	rows   []Row // read, not given out yet
	done   trailer
}

func newOwn(path string, f source, size int64) (*own, error) {
	r := &own{path: path, f: f, size: size, at: int64(len(magic))}
	v, err := r.uint32("version")
	if err != nil {
		return nil, err
	}
	if v != version {
		return nil, formats.Unsupportedf(path, 8, "version %d of a baseline; this program reads %d", v, version)
	}
	text, err := r.text("header")
	if err != nil {
		return nil, err
	}
	h := &r.header
	if err := json.Unmarshal(text, h); err != nil {
		return nil, r.malformed("header: %v", err)
	}
	if h.Vocab < 1 || h.Vocab > maxVocab || h.Ctx < 4 || h.Ctx > maxCtx || h.First < 0 || h.First > h.Ctx-2 || h.Stride < 1 || h.Stride > h.Ctx || h.Chunks < 1 || h.BOS < -1 || int(h.BOS) >= h.Vocab {
		return nil, r.malformed("header: vocab %d, ctx %d, stride %d, first %d, chunks %d, bos %d cannot be", h.Vocab, h.Ctx, h.Stride, h.First, h.Chunks, h.BOS)
	}
	r.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxSection))
	return r, err
}

func (r *own) malformed(format string, args ...any) error {
	return formats.Malformedf(r.path, r.at, format, args...)
}

func (r *own) Header() *Header { return &r.header }

func (r *own) Close() error {
	r.zstd.Close()
	return r.f.Close()
}

// read reads n bytes of what is called name.
func (r *own) read(name string, n int64) ([]byte, error) {
	if n > r.size-r.at {
		return nil, r.malformed("%s: %d bytes, the file has %d left: it was cut short", name, n, r.size-r.at)
	}
	b := make([]byte, n)
	if _, err := r.f.ReadAt(b, r.at); err != nil {
		return nil, fmt.Errorf("%s: %s: %w", r.path, name, err)
	}
	r.at += n
	return b, nil
}

func (r *own) uint32(name string) (uint32, error) {
	b, err := r.read(name, 4)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b), nil
}

// text reads a JSON text with its length.
func (r *own) text(name string) ([]byte, error) {
	n, err := r.uint32(name)
	if err != nil {
		return nil, err
	}
	if n > maxHeader {
		return nil, r.malformed("%s: %d bytes, at most %d are read", name, n, maxHeader)
	}
	return r.read(name, int64(n))
}

// section reads a compressed section whose size is from min to max.
func (r *own) section(name string, lo, hi int64) ([]byte, error) {
	b, err := r.read(name, 8)
	if err != nil {
		return nil, err
	}
	raw, packed := int64(binary.LittleEndian.Uint32(b)), int64(binary.LittleEndian.Uint32(b[4:]))
	if raw < lo || raw > min(hi, maxSection) || packed > raw+raw/64+1024 {
		return nil, r.malformed("%s: %d bytes, compressed %d, want %d to %d", name, raw, packed, lo, min(hi, maxSection))
	}
	if b, err = r.read(name, packed); err != nil {
		return nil, err
	}
	var h zstd.Header
	if err := h.Decode(b); err != nil || !h.HasFCS || h.FrameContentSize != uint64(raw) {
		return nil, r.malformed("%s: not a zstd frame of %d bytes", name, raw)
	}
	out, err := r.zstd.DecodeAll(b, nil)
	if err != nil {
		return nil, r.malformed("%s: %v", name, err)
	}
	if int64(len(out)) != raw {
		return nil, r.malformed("%s: %d bytes, want %d", name, len(out), raw)
	}
	return out, nil
}

// Chunk returns the next chunk.
func (r *own) Chunk() (int, []int32, error) {
	if r.left > 0 || len(r.rows) > 0 {
		return 0, nil, r.malformed("chunk %d ends %d positions early", r.done.Chunks, r.left+len(r.rows))
	}
	kind, err := r.read("record", 1)
	if err != nil {
		return 0, nil, err
	}
	switch kind[0] {
	case kindEnd:
		text, err := r.text("trailer")
		if err != nil {
			return 0, nil, err
		}
		var t trailer
		if err := json.Unmarshal(text, &t); err != nil || t != r.done || r.at != r.size {
			return 0, nil, r.malformed("trailer %s does not fit: %d chunks and %d positions were read, %d bytes follow", formats.Quote(string(text)), r.done.Chunks, r.done.Scored, r.size-r.at)
		}
		return 0, nil, io.EOF
	case kindChunk:
	default:
		return 0, nil, r.malformed("record of kind %d, want a chunk", kind[0])
	}
	n := int64(8 + 4*r.header.Ctx)
	b, err := r.section("tokens", n, n)
	if err != nil {
		return 0, nil, err
	}
	start := binary.LittleEndian.Uint64(b)
	if start > math.MaxInt32 {
		return 0, nil, r.malformed("chunk %d begins at token %d of the text", r.done.Chunks, start)
	}
	r.tokens = make([]int32, r.header.Ctx)
	if _, err := binary.Decode(b[8:], binary.LittleEndian, r.tokens); err != nil {
		return 0, nil, err
	}
	for i, t := range r.tokens {
		if t < 0 || int(t) >= r.header.Vocab {
			return 0, nil, r.malformed("token %d is %d, the vocabulary has %d", i, t, r.header.Vocab)
		}
	}
	r.done.Chunks++
	r.left = r.header.Ctx - 1 - r.header.First
	return int(start), r.tokens, nil
}

// Rows returns the next positions.
func (r *own) Rows(limit int) ([]Row, error) {
	if len(r.rows) == 0 && r.left > 0 {
		if err := r.record(); err != nil {
			return nil, err
		}
	}
	n := min(limit, len(r.rows))
	rows := r.rows[:n]
	r.rows = r.rows[n:]
	return rows, nil
}

// record reads a record of rows.
func (r *own) record() error {
	kind, err := r.read("record", 1)
	if err != nil {
		return err
	}
	n, err := r.uint32("rows")
	if err != nil {
		return err
	}
	if kind[0] != kindRows || n == 0 || int64(n) > int64(r.left) || n > 1 && int64(n) > int64(MaxRows(r.header.Vocab)) {
		return r.malformed("record of kind %d with %d positions, want at most %d positions", kind[0], n, min(r.left, MaxRows(r.header.Vocab)))
	}
	rows, cells := int64(n), int64(n)*int64(r.header.Vocab)
	heads, err := r.section("heads", rows*int64(headSize), rows*int64(headSize))
	if err != nil {
		return err
	}
	logits, err := r.section("logits", 0, rows*4*int64(exactTokens(r.header.Vocab)))
	if err != nil {
		return err
	}
	syms, err := r.section("symbols", 0, cells)
	if err != nil {
		return err
	}
	stream, err := r.section("bits", 0, 8*cells)
	if err != nil {
		return err
	}
	all := make([]packed, n)
	for i := range all {
		p := &all[i]
		p.vocab = r.header.Vocab
		if _, err := binary.Decode(heads[i*headSize:], binary.LittleEndian, &p.head); err != nil {
			return err
		}
		if int64(p.Count) > int64(len(syms)) || int64(p.Count) > int64(p.vocab) || int64(p.Bits) > int64(len(stream)) || p.Step > maxStep || p.Rice > 24 || !p.finite() {
			return r.malformed("position %d of the record cannot be", i)
		}
		p.syms, syms = syms[:p.Count], syms[p.Count:]
		p.bits, stream = stream[:p.Bits], stream[p.Bits:]
		exact := bytes.Count(p.syms, []byte{symExact})
		if exact == 0 || exact > len(logits)/4 {
			return r.malformed("position %d of the record has %d logits", i, exact)
		}
		p.logit = make([]float32, exact)
		if _, err := binary.Decode(logits, binary.LittleEndian, p.logit); err != nil {
			return err
		}
		for _, v := range p.logit {
			if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
				return r.malformed("position %d of the record: a logit is %v", i, v)
			}
		}
		logits = logits[4*exact:]
		r.rows = append(r.rows, p)
	}
	if len(syms)+len(stream)+len(logits) > 0 {
		return r.malformed("%d bytes of the record belong to no position", len(syms)+len(stream)+len(logits))
	}
	r.left -= int(n)
	r.done.Scored += int(n)
	return nil
}

// finite reports whether the head's numbers are.
func (h *head) finite() bool {
	for _, v := range []float64{h.LSE, h.Likely, float64(h.Target), float64(h.Mass), float64(h.Offset), float64(h.Blur)} {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return false
		}
	}
	return h.Mass >= 0 && h.Blur >= 0
}
