package baseline

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"

	"github.com/smeltgguf/smelt/formats"
)

const llamaMagic = "_logits_"

// llama reads what llama-perplexity --save-all-logits writes: the magic, uint32
// n_ctx, int32 n_vocab, int32 n_chunk, all chunks' tokens as int32, then for the
// positions n_ctx/2 to n_ctx-2 of each chunk a row of uint16, of even length: a
// float32 scale, a float32 smallest log-probability, and for each token the
// log-probability's distance from it in scales. Tokens are those of the text; the
// first of each chunk was replaced where the model wants a beginning.
type llama struct {
	path   string
	f      source
	header Header
	at     int64 // of the next row
	left   int   // positions of the chunk not read yet
	chunk  int
	width  int64 // bytes of a row
}

const llamaHeader = 8 + 3*4

func newLlama(path string, f source, size int64) (*llama, error) {
	var b [llamaHeader]byte
	if size < llamaHeader {
		return nil, formats.Malformedf(path, 0, "%d bytes: it was cut short", size)
	}
	if _, err := f.ReadAt(b[:], 0); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	ctx := int64(binary.LittleEndian.Uint32(b[8:]))
	vocab := int64(int32(binary.LittleEndian.Uint32(b[12:])))
	chunks := int64(int32(binary.LittleEndian.Uint32(b[16:])))
	if ctx < 4 || ctx > maxCtx || vocab < 1 || vocab > maxVocab || chunks < 1 {
		return nil, formats.Malformedf(path, 8, "context %d, vocabulary %d, %d chunks cannot be", ctx, vocab, chunks)
	}
	l := &llama{path: path, f: f, width: 2 * (2*((vocab+1)/2) + 4)}
	perChunk := (ctx - 1 - ctx/2) * l.width // at most 2^45
	if rest := size - llamaHeader; rest/(4*ctx+perChunk) != chunks || rest%(4*ctx+perChunk) != 0 {
		return nil, formats.Malformedf(path, 0, "%d bytes do not fit %d chunks of %d tokens and a vocabulary of %d: %d are wanted for each chunk", size, chunks, ctx, vocab, 4*ctx+perChunk)
	}
	l.at = llamaHeader + 4*ctx*chunks
	l.header = Header{Model: Model{Path: path}, Ctx: int(ctx), Stride: int(ctx), First: int(ctx / 2), Chunks: int(chunks), Vocab: int(vocab)}
	return l, nil
}

func (l *llama) Header() *Header { return &l.header }

func (l *llama) Close() error { return l.f.Close() }

func (l *llama) Chunk() (int, []int32, error) {
	if l.chunk == l.header.Chunks {
		return 0, nil, io.EOF
	}
	ctx := l.header.Ctx
	b := make([]byte, 4*ctx)
	off := llamaHeader + int64(l.chunk)*int64(len(b))
	if _, err := l.f.ReadAt(b, off); err != nil {
		return 0, nil, fmt.Errorf("%s: tokens: %w", l.path, err)
	}
	tokens := make([]int32, ctx)
	for i := range tokens {
		t := int32(binary.LittleEndian.Uint32(b[4*i:]))
		if t < 0 || int(t) >= l.header.Vocab {
			return 0, nil, formats.Malformedf(l.path, off+int64(4*i), "token %d is %d, the vocabulary has %d", i, t, l.header.Vocab)
		}
		tokens[i] = t
	}
	l.chunk++
	l.left = ctx - 1 - l.header.First
	return (l.chunk - 1) * ctx, tokens, nil
}

func (l *llama) Rows(limit int) ([]Row, error) {
	n := min(limit, l.left, MaxRows(l.header.Vocab))
	b := make([]byte, int64(n)*l.width)
	if _, err := l.f.ReadAt(b, l.at); err != nil {
		return nil, fmt.Errorf("%s: log-probabilities: %w", l.path, err)
	}
	rows := make([]Row, n)
	for i := range rows {
		row := b[int64(i)*l.width:]
		scale := math.Float32frombits(binary.LittleEndian.Uint32(row))
		least := math.Float32frombits(binary.LittleEndian.Uint32(row[4:]))
		if !(scale >= 0 && scale <= 1) || !(least <= 0 && least >= -1e6) {
			return nil, formats.Malformedf(l.path, l.at+int64(i)*l.width, "a row has scale %v and smallest log-probability %v", scale, least)
		}
		f := make(full, l.header.Vocab)
		for t := range f {
			f[t] = float32(scale*float32(binary.LittleEndian.Uint16(row[8+2*t:]))) + least
		}
		rows[i] = f
	}
	l.at += int64(len(b))
	l.left -= n
	return rows, nil
}
