// Package check looks through a GGUF for what makes a model unusable, without
// running it: structure, values, tensors of the architecture, vocabulary.
package check

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/formats/gguf"
	"github.com/smeltgguf/smelt/internal/arch"
	"github.com/smeltgguf/smelt/internal/decoder"
	"github.com/smeltgguf/smelt/internal/inspect"
	"github.com/smeltgguf/smelt/internal/manifest"
	"github.com/smeltgguf/smelt/internal/tokenizer"
	"github.com/smeltgguf/smelt/kernels"
	"github.com/smeltgguf/smelt/quant"
)

// Severity tells how bad a finding is.
type Severity string

const (
	// Error: the model does not load, or computes something else than it should.
	Error Severity = "error"
	// Warning: worth a look.
	Warning Severity = "warning"
)

// Finding is one thing that is wrong.
type Finding struct {
	Severity Severity `json:"severity"`
	Tensor   string   `json:"tensor,omitempty"` // the tensor it is about, if any
	Message  string   `json:"message"`
}

func (f Finding) String() string {
	if f.Tensor == "" {
		return fmt.Sprintf("%s: %s", f.Severity, f.Message)
	}
	return fmt.Sprintf("%s: tensor %s %s", f.Severity, formats.Quote(f.Tensor), f.Message)
}

// Options say what to look at beyond the file itself.
type Options struct {
	// Text, unless empty, is tokenized and must come back from its tokens.
	Text string
	// Manifest, unless empty, is a manifest that the model's files must fit.
	Manifest string
	// Checksums is told how many bytes have been read for the manifest, of how
	// many; nil: nobody is.
	Checksums func(done, total int64)
	// Progress is told how many bytes of tensors have been read, of how many.
	Progress func(done, total int64)
}

// Count returns how many of the findings are errors and how many warnings.
func Count(found []Finding) (errs, warnings int) {
	for _, f := range found {
		if f.Severity == Error {
			errs++
		}
	}
	return errs, len(found) - errs
}

// maxLoadName is the longest tensor name that llama.cpp loads (GGML_MAX_NAME,
// less the NUL).
const maxLoadName = 63

// maxOfKind bounds how many findings of one kind are listed one by one.
const maxOfKind = 20

// File checks the model that path is a part of. A file that breaks the format
// is a finding; the error is for what kept File from looking: no such file,
// an I/O error, an interrupt.
func File(ctx context.Context, path string, opt Options) ([]Finding, error) {
	found, err := sums(ctx, path, opt)
	if err != nil {
		return nil, err
	}
	f, err := gguf.Open(path)
	var broken *formats.FormatError
	if errors.As(err, &broken) {
		return append(found, Finding{Error, "", broken.Error()}), nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	more, err := Open(ctx, f, opt)
	return append(found, more...), err
}

// sums holds the model's files against the manifest.
func sums(ctx context.Context, path string, opt Options) ([]Finding, error) {
	if opt.Manifest == "" {
		return nil, nil
	}
	m, err := manifest.Read(opt.Manifest)
	var broken *formats.FormatError
	if errors.As(err, &broken) {
		return []Finding{{Error, "", broken.Error()}}, nil
	}
	if err != nil {
		return nil, err
	}
	problems, err := m.Check(ctx, path, opt.Checksums)
	var found []Finding
	for _, p := range problems {
		found = append(found, Finding{Error, "", p})
	}
	return found, err
}

// Open checks an opened model.
func Open(ctx context.Context, f *gguf.File, opt Options) ([]Finding, error) {
	c := checker{f: f}
	c.structure()
	if err := c.model(opt.Text); err != nil {
		return nil, err
	}
	if err := c.values(ctx, opt.Progress); err != nil {
		return nil, err
	}
	return c.findings, nil
}

type checker struct {
	f        *gguf.File
	findings []Finding
}

func (c *checker) add(s Severity, tensor, format string, args ...any) {
	c.findings = append(c.findings, Finding{s, tensor, fmt.Sprintf(format, args...)})
}

// structure is what gguf.Open accepts and yet is not as it should be.
func (c *checker) structure() {
	if n := c.f.Trailing(); n > 0 {
		c.add(Warning, "", "%d trailing bytes after the last tensor", n)
	}
	for _, t := range c.f.Tensors {
		if n := len(t.Name); n > maxLoadName {
			c.add(Warning, t.Name, "has a name of %d bytes: llama.cpp loads at most %d", n, maxLoadName)
		}
	}
}

// model checks the tensors against the architecture and the vocabulary.
func (c *checker) model(text string) error {
	meta := c.f.Metadata
	if kind, _ := meta.String("general.type"); kind != "" && kind != "model" {
		return nil // an adapter or an importance matrix: no decoder, no vocabulary
	}
	c.vocabulary(text)
	if meta.Architecture() == "" {
		c.add(Error, "", "general.architecture is missing")
		return nil
	}
	if len(c.f.Tensors) == 0 {
		c.add(Warning, "", "no tensors: a vocabulary only")
		return nil
	}
	desc, err := arch.DecoderFromGGUF(meta)
	if err != nil {
		c.add(Error, "", "%v", err)
		return nil
	}
	tokens := uint64(desc.Vocab)
	if embd := c.f.Tensor("token_embd.weight"); embd != nil && len(embd.Dims) == 2 && embd.Dims[1] != tokens {
		c.add(Error, embd.Name, "does not fit the vocabulary: vocab %d, embedding %d", tokens, embd.Dims[1])
		desc.Vocab = int(embd.Dims[1]) // said once
	}
	if err := c.f.Map(); err != nil {
		return err
	}
	src := source{c.f, map[string]bool{}}
	var errs []error
	if err := formats.Guard(func() error { errs = decoder.Check(desc, src); return nil }); err != nil {
		return err
	}
	for i, err := range errs {
		if i == maxOfKind {
			c.add(Error, "", "%d more tensors missing or of other dimensions", len(errs)-i)
			break
		}
		var te *decoder.TensorError
		if errors.As(err, &te) {
			c.add(Error, te.Name, "%s", te.Problem)
		} else {
			c.add(Error, "", "%v", err)
		}
	}
	unused := slices.DeleteFunc(slices.Clone(c.f.Tensors), func(t *gguf.Tensor) bool { return src.used[t.Name] })
	for i, t := range unused {
		if i == maxOfKind {
			c.add(Warning, "", "%d more tensors are of no use to %s", len(unused)-i, desc.Arch)
			break
		}
		c.add(Warning, t.Name, "is of no use to %s", desc.Arch)
	}
	return nil
}

// source remembers which tensors were asked for.
type source struct {
	f    *gguf.File
	used map[string]bool
}

func (s source) Tensor(name string) (decoder.Tensor, bool, error) {
	s.used[name] = true
	return decoder.GGUF{File: s.f}.Tensor(name)
}

// vocabulary checks the tokenizer and sends text through it. Where that does
// not come back the model may still be sound: a SentencePiece tokenizer puts a
// space after each user-defined token, for one.
func (c *checker) vocabulary(text string) {
	if model, _ := c.f.Metadata.String("tokenizer.ggml.model"); model == "" || model == "none" {
		c.add(Warning, "", "no vocabulary")
		return
	}
	tok, err := tokenizer.FromMetadata(c.f.Metadata)
	if err != nil {
		c.add(Error, "", "%v", err)
		return
	}
	if text == "" {
		return
	}
	back := tok.Decode(tok.Encode(text, tokenizer.Options{}), true)
	if i := differs(back, []byte(text)); i >= 0 {
		c.add(Warning, "", "the tokenizer does not give the text back: from byte %d on %s became %s",
			i, formats.Quote(text[i:]), formats.Quote(string(back[i:])))
	}
}

// differs returns where a and b begin to differ, -1 where they do not.
func differs(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	i := 0
	for i < min(len(a), len(b)) && a[i] == b[i] {
		i++
	}
	return i
}

// values decodes every block: a scale that is not finite makes its weights NaN
// or infinite, whatever the type.
func (c *checker) values(ctx context.Context, progress func(done, total int64)) error {
	_, all := inspect.Totals(c.f)
	scans := make([]scan, len(c.f.Tensors))
	err := inspect.ForEach(ctx, c.f, func(done int64) {
		if progress != nil {
			progress(done, int64(all.Bytes))
		}
	}, func(i int, read func(func([]byte)) error) error {
		s := &scans[i]
		s.t, s.first = c.f.Tensors[i].Type, -1
		err := read(s.add)
		s.x = nil
		return err
	})
	if err != nil {
		return err
	}
	for i, t := range c.f.Tensors {
		s := scans[i]
		switch {
		case s.nan+s.inf > 0:
			c.add(Error, t.Name, "holds %s, first at %d", s.counts(), s.first)
		case t.Elems() > 0 && !s.nonzero:
			c.add(Warning, t.Name, "is all zero")
		case !decodable(t.Type):
			c.add(Warning, t.Name, "is of type %s, whose values are not checked", t.Type)
		}
	}
	return nil
}

// scan goes through a tensor's blocks.
type scan struct {
	t        quant.Type
	x        []float32
	n        int64 // elements so far
	nonzero  bool
	nan, inf int64
	first    int64 // position of the first of them
}

// decodable reports whether values of the type can be looked at; integers are
// finite as they are.
func decodable(t quant.Type) bool { return t.CanDecode() || integer(t) }

func integer(t quant.Type) bool {
	return t == quant.I8 || t == quant.I16 || t == quant.I32 || t == quant.I64
}

func (s *scan) add(b []byte) {
	if !s.t.CanDecode() {
		s.nonzero = s.nonzero || slices.ContainsFunc(b, func(c byte) bool { return c != 0 })
		return
	}
	n := len(b) / s.t.BlockSize() * s.t.BlockLen()
	if cap(s.x) < n {
		s.x = make([]float32, n)
	}
	x := s.x[:n]
	kernels.DecodeRow(s.t, x, b)
	s.nonzero = s.nonzero || slices.ContainsFunc(x, func(v float32) bool { return v != 0 })
	if i := kernels.FirstNonfinite(x); i >= 0 {
		if s.first < 0 {
			s.first = s.n + int64(i)
		}
		for _, v := range x[i:] {
			switch {
			case v != v:
				s.nan++
			case math.IsInf(float64(v), 0):
				s.inf++
			}
		}
	}
	s.n += int64(n)
}

// counts says "3 NaN, 1 infinite".
func (s *scan) counts() string {
	var parts []string
	if s.nan > 0 {
		parts = append(parts, fmt.Sprintf("%d NaN", s.nan))
	}
	if s.inf > 0 {
		parts = append(parts, fmt.Sprintf("%d infinite", s.inf))
	}
	return strings.Join(parts, ", ")
}
