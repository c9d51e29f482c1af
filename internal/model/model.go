// Package model opens what a forward pass can run from, whatever its form: a
// GGUF file or a checkpoint in its own layout.
package model

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/smeltgguf/smelt/formats/gguf"
	"github.com/smeltgguf/smelt/internal/arch"
	"github.com/smeltgguf/smelt/internal/checkpoint"
	"github.com/smeltgguf/smelt/internal/decoder"
	"github.com/smeltgguf/smelt/internal/recipe"
	"github.com/smeltgguf/smelt/internal/stream"
	"github.com/smeltgguf/smelt/internal/tokenizer"
	"github.com/smeltgguf/smelt/quant"
)

// Tokenizer is a model's tokenizer as evaluation uses it.
type Tokenizer struct {
	Path string
	*tokenizer.Tokenizer
}

// Tokenize returns the ids of a text, the token for its beginning first where
// the model wants one. Texts are taken as they are: "<s>" is no control token.
func (t *Tokenizer) Tokenize(text []byte) []int32 {
	return t.Encode(string(text), tokenizer.Options{AddSpecial: true})
}

// Start returns the token that begins a text, -1 where the model wants none.
func (t *Tokenizer) Start() int32 {
	if !t.AddBOS() {
		return -1
	}
	return t.BOS()
}

// Piece returns a token's text for output.
func (t *Tokenizer) Piece(id int32) []byte { return t.AppendPiece(nil, id, false) }

// VocabHash identifies the vocabulary: the SHA-256 of its tokens' texts, each
// ended by a zero byte.
func (t *Tokenizer) VocabHash() string {
	h := sha256.New()
	for i := range t.Len() {
		h.Write(append([]byte(t.Text(int32(i))), 0))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Model is a model ready to run.
type Model struct {
	Tokenizer
	Weights *decoder.Model

	Ftype         string  // what its file type is called: "Q4_K_M"; for a checkpoint its main element type
	Bytes         int64   // of tensor data
	BitsPerWeight float64 // over all tensors
	Name          string  // that the model gives itself; may be empty
	// Hash identifies the model without reading its weights: the SHA-256 of its
	// metadata, if it is a GGUF file, and of its tensors' names, types and shapes.
	Hash string

	close io.Closer
}

// Close releases the files; the weights are gone.
func (m *Model) Close() error { return m.close.Close() }

// Open opens a GGUF file (any part of a split one) or a checkpoint: a directory
// or one of its files.
func Open(path string) (*Model, error) {
	ok, err := isGGUF(path)
	if err != nil {
		return nil, err
	}
	if ok {
		return openGGUF(path)
	}
	return openCheckpoint(path)
}

// OpenTokenizer opens a model's tokenizer without its weights.
func OpenTokenizer(path string) (*Tokenizer, error) {
	ok, err := isGGUF(path)
	if err != nil {
		return nil, err
	}
	if ok {
		f, err := gguf.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return newTokenizer(path, f.Metadata)
	}
	ck, err := checkpoint.Open(path)
	if err != nil {
		return nil, err
	}
	defer ck.Close()
	m, err := arch.Load(ck, arch.Options{Native: true})
	if err != nil {
		return nil, err
	}
	return checkpointTokenizer(path, ck, m)
}

// isGGUF looks at the magic; a directory is a checkpoint.
func isGGUF(path string) (bool, error) {
	fi, err := os.Stat(path)
	if err != nil {
		var pe *os.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return false, fmt.Errorf("%s: %w", path, err)
	}
	if !fi.Mode().IsRegular() {
		return false, nil // what opens checkpoints says what is wrong with it
	}
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	var magic [4]byte
	_, err = io.ReadFull(f, magic[:])
	return err == nil && string(magic[:]) == "GGUF", nil
}

func newTokenizer(path string, meta *gguf.Metadata) (*Tokenizer, error) {
	t, err := tokenizer.FromMetadata(meta)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &Tokenizer{path, t}, nil
}

func openGGUF(path string) (m *Model, err error) {
	f, err := gguf.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	tok, err := newTokenizer(path, f.Metadata)
	if err != nil {
		return nil, err
	}
	desc, err := arch.DecoderFromGGUF(f.Metadata)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if t := f.Tensor("token_embd.weight"); t != nil {
		desc.Vocab = t.Rows() // the vocabulary may be padded, or cut
	}
	if n := tok.Len(); n > desc.Vocab {
		return nil, fmt.Errorf("%s: vocab %d, embedding %d", path, n, desc.Vocab)
	}
	if err := f.Map(); err != nil {
		return nil, err
	}
	w, err := decoder.Load(desc, decoder.GGUF{File: f})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	m = &Model{Tokenizer: *tok, Weights: w, Ftype: ftypeName(f), close: f}
	m.Name, _ = f.Metadata.String("general.name")
	hash := sha256.New()
	for k, v := range f.Metadata.All() {
		fmt.Fprintf(hash, "%q", k)
		hash.Write(gguf.AppendValue(nil, v))
	}
	var elems uint64
	for _, t := range f.Tensors {
		fmt.Fprintf(hash, "%q %v %v\n", t.Name, t.Type, t.Dims)
		m.Bytes += int64(t.Size())
		elems += t.Elems()
	}
	m.BitsPerWeight = 8 * float64(m.Bytes) / float64(elems)
	m.Hash = hex.EncodeToString(hash.Sum(nil))
	return m, nil
}

// ftypeName names the file type; where the file does not say, its commonest
// matrix type.
func ftypeName(f *gguf.File) string {
	if n, err := f.Metadata.Uint("general.file_type"); err == nil {
		if r, err := recipe.Find(strconv.FormatUint(n, 10)); err == nil {
			return r.Name
		}
	}
	count, best := map[quant.Type]uint64{}, quant.F32
	for _, t := range f.Tensors {
		count[t.Type] += t.Elems()
		if count[t.Type] > count[best] {
			best = t.Type
		}
	}
	return best.String()
}

func openCheckpoint(path string) (m *Model, err error) {
	ck, err := checkpoint.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			ck.Close()
		}
	}()
	a, err := arch.Load(ck, arch.Options{Native: true})
	if err != nil {
		return nil, err
	}
	tok, err := checkpointTokenizer(path, ck, a)
	if err != nil {
		return nil, err
	}
	src := tensors{}
	m = &Model{Tokenizer: *tok, close: ck}
	var elems int64
	hash := sha256.New()
	count, best := map[quant.Type]int64{}, quant.F32
	for i := range a.Tensors {
		t := &a.Tensors[i]
		src[t.Name] = t
		fmt.Fprintf(hash, "%q %v %v\n", t.Name, t.Type(), t.Shape)
		n := int64(t.Len()) * int64(t.Count())
		elems += n
		m.Bytes += int64(t.Type().RowSize(t.Len())) * int64(t.Count())
		count[t.Type()] += n
		if count[t.Type()] > count[best] {
			best = t.Type()
		}
	}
	m.Hash = hex.EncodeToString(hash.Sum(nil))
	m.Ftype, m.BitsPerWeight = best.String(), 8*float64(m.Bytes)/float64(elems)
	if m.Weights, err = decoder.Load(a.Decoder, src); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

func checkpointTokenizer(path string, ck *checkpoint.Checkpoint, m *arch.Model) (*Tokenizer, error) {
	meta := gguf.NewMetadata()
	if err := m.WriteVocab(ck, meta); err != nil {
		return nil, err
	}
	return newTokenizer(path, meta)
}

// tensors gives a checkpoint's tensors to the decoder by their GGUF names.
type tensors map[string]*arch.Tensor

// Tensor maps the tensor, or reads it whole where it does not stand in a file as
// the decoder needs it. It is in the checkpoint's own layout.
func (s tensors) Tensor(name string) (decoder.Tensor, bool, error) {
	t, ok := s[name]
	if !ok {
		return decoder.Tensor{}, false, nil
	}
	dims := make([]uint64, len(t.Shape))
	for i, d := range t.Shape {
		dims[len(dims)-1-i] = uint64(d)
	}
	if m, ok := t.Rows.(stream.Mapper); ok {
		b, err := m.Map()
		if err != nil {
			return decoder.Tensor{}, false, err
		}
		if b != nil {
			return decoder.Tensor{Type: t.Type(), Dims: dims, Data: b}, true, nil
		}
	}
	data := make([]byte, t.Type().RowSize(t.Len())*t.Count())
	if err := t.ReadRows(data, 0, t.Count()); err != nil {
		return decoder.Tensor{}, false, err
	}
	return decoder.Tensor{Type: t.Type(), Dims: dims, Data: data}, true, nil
}
