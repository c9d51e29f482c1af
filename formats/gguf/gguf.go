// Package gguf reads and writes GGUF files (ggml's docs/gguf.md): versions 2
// and 3, split over several files or not. A reader checks everything that the
// metadata says against the file before it hands anything out.
package gguf

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/quant"
)

// Tensor describes one tensor.
type Tensor struct {
	Name   string
	Type   quant.Type
	Dims   []uint64 // row length first, as ggml numbers them
	Offset uint64   // from the start of its file's tensor data

	part *part // where it was read from; nil in a plan
}

// Elems returns the number of elements.
func (t *Tensor) Elems() uint64 {
	n := uint64(1)
	for _, d := range t.Dims {
		n *= d
	}
	return n
}

// Size returns the bytes of the tensor's data.
func (t *Tensor) Size() uint64 {
	return t.Elems() / uint64(t.Type.BlockLen()) * uint64(t.Type.BlockSize())
}

// RowLen returns the elements of a row: the first dimension, 1 for a scalar.
func (t *Tensor) RowLen() int {
	if len(t.Dims) == 0 {
		return 1
	}
	return int(t.Dims[0])
}

// Rows returns the number of rows, all further dimensions flattened.
func (t *Tensor) Rows() int {
	n := uint64(1)
	for _, d := range t.Dims[min(1, len(t.Dims)):] {
		n *= d
	}
	return int(n)
}

// File is an opened model: one file or all parts of a split one.
type File struct {
	Version  uint32
	Metadata *Metadata // the first part's, without the split keys
	Tensors  []*Tensor // of all parts, in order

	parts  []*part
	byName map[string]*Tensor
}

// Open opens the model that path is a part of: given any part of a split model,
// it finds the others by their names. Only regular files are read.
func Open(path string) (*File, error) {
	p, err := openPart(path)
	if err != nil {
		return nil, err
	}
	f := &File{parts: []*part{p}}
	if err := f.addSplits(path); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	f.collect()
	return f, nil
}

// openPart opens and reads one file.
func openPart(path string) (*part, error) {
	file, err := formats.OpenRegular(path)
	if err != nil {
		return nil, err
	}
	fi, err := file.Stat()
	if err != nil {
		file.Close()
		return nil, pathError(path, err)
	}
	p, err := readPart(file, fi.Size(), path)
	if err != nil {
		file.Close()
		return nil, err
	}
	p.file, p.modTime = file, fi.ModTime()
	return p, nil
}

// NewFile reads a model that is not split from r; name is for messages.
func NewFile(r io.ReaderAt, size int64, name string) (*File, error) {
	p, err := readPart(r, size, name)
	if err != nil {
		return nil, err
	}
	s, err := splitOf(p)
	if err != nil {
		return nil, err
	}
	if s.count > 1 {
		return nil, formats.Unsupportedf(name, -1, "part %d of a model split into %d", s.no+1, s.count).
			WithHint("open it by its path")
	}
	f := &File{parts: []*part{p}}
	f.collect()
	return f, nil
}

// collect fills what is derived from the parts.
func (f *File) collect() {
	f.Version, f.Metadata = f.parts[0].version, f.parts[0].meta
	f.byName = map[string]*Tensor{}
	for _, p := range f.parts {
		for _, t := range p.tensors {
			f.Tensors = append(f.Tensors, t)
			f.byName[t.Name] = t
		}
	}
	// A count of 0 is what llama-gguf-split leaves in a merged file: no split.
	if n, err := f.Metadata.Uint(keySplitCount); err == nil && n > 0 {
		f.Metadata = f.Metadata.Clone()
		for _, k := range splitKeys {
			f.Metadata.Delete(k)
		}
	}
}

// Tensor finds a tensor by name; nil if there is none.
func (f *File) Tensor(name string) *Tensor { return f.byName[name] }

// Paths lists the files read.
func (f *File) Paths() []string {
	var names []string
	for _, p := range f.parts {
		names = append(names, p.name)
	}
	return names
}

// Part returns which of the Paths holds the tensor.
func (f *File) Part(t *Tensor) int { return max(0, slices.Index(f.parts, t.part)) }

// Size returns the bytes of all files.
func (f *File) Size() int64 {
	var n int64
	for _, p := range f.parts {
		n += p.size
	}
	return n
}

// Trailing returns how many bytes follow the last tensor, in all files
// together: 0 in a well-made model.
func (f *File) Trailing() int64 {
	var n int64
	for _, p := range f.parts {
		n += p.trailing
	}
	return n
}

// Close closes the files. What Bytes returned is gone.
func (f *File) Close() error {
	var errs []error
	for _, p := range f.parts {
		if p.file == nil {
			continue
		}
		if p.mapped != nil {
			errs = append(errs, formats.UnmapFile(p.mapped))
		}
		errs = append(errs, p.file.Close())
	}
	f.parts = nil
	return errors.Join(errs...)
}

// Changed returns an error if a file's size or time is no longer what it was
// when the file was opened.
func (f *File) Changed() error {
	for _, p := range f.parts {
		if p.file == nil {
			continue
		}
		fi, err := p.file.Stat()
		if err == nil && (fi.Size() != p.size || !fi.ModTime().Equal(p.modTime)) {
			err = formats.ErrChanged
		}
		if err != nil {
			return pathError(p.name, err)
		}
	}
	return nil
}

// Rows returns a reader of the tensor's rows, safe for concurrent use.
func (f *File) Rows(t *Tensor) *Rows { return &Rows{t} }

// Rows reads a tensor's rows from its file.
type Rows struct{ t *Tensor }

// Type returns the type of the elements.
func (r *Rows) Type() quant.Type { return r.t.Type }

// Len returns the elements of a row.
func (r *Rows) Len() int { return r.t.RowLen() }

// Count returns the number of rows.
func (r *Rows) Count() int { return r.t.Rows() }

// ReadRows fills dst with n rows from row first on.
func (r *Rows) ReadRows(dst []byte, first, n int) error {
	size := r.t.Type.RowSize(r.t.RowLen())
	if len(dst) != n*size {
		panic(fmt.Sprintf("gguf: %d rows of %d bytes into %d", n, size, len(dst)))
	}
	return r.t.ReadData(dst, uint64(first)*uint64(size))
}

// ReadData fills p with the tensor's data from byte off on.
func (t *Tensor) ReadData(p []byte, off uint64) error {
	at := t.part.dataOffset + int64(t.Offset+off)
	n, err := t.part.r.ReadAt(p, at)
	if n == len(p) {
		return nil
	}
	if errors.Is(err, io.EOF) {
		err = formats.ErrChanged
	} else {
		err = fmt.Errorf("read error at %d: %w", at+int64(n), cause(err))
	}
	return fmt.Errorf("%s: tensor %s: %w", t.part.name, formats.Quote(t.Name), err)
}

// ReadBlocks calls fn with a tensor's data from front to back, as many whole
// blocks at a time as fit buf, which must hold one.
func (f *File) ReadBlocks(ctx context.Context, t *Tensor, buf []byte, fn func(b []byte) error) error {
	per := uint64(len(buf) / t.Type.BlockSize() * t.Type.BlockSize())
	for off := uint64(0); off < t.Size(); off += per {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		b := buf[:min(per, t.Size()-off)]
		if err := t.ReadData(b, off); err != nil {
			return err
		}
		if err := fn(b); err != nil {
			return err
		}
	}
	return nil
}

// Map maps the files into memory, for Bytes. A model from NewFile is read into
// memory instead.
func (f *File) Map() error {
	for _, p := range f.parts {
		if p.mapped != nil {
			continue
		}
		if p.file == nil {
			b := make([]byte, p.size)
			if _, err := p.r.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
				return fmt.Errorf("%s: read error: %w", p.name, cause(err))
			}
			p.mapped = b
			continue
		}
		b, err := formats.MapFile(p.file, p.size)
		if err != nil {
			return fmt.Errorf("%s: cannot map the file: %w", p.name, err)
		}
		p.mapped = b
	}
	return nil
}

// Bytes returns a tensor's data as it stands in the mapped file. Reading it
// may fault if the file is cut short meanwhile: see formats.Guard.
func (f *File) Bytes(t *Tensor) []byte {
	start := uint64(t.part.dataOffset) + t.Offset
	return t.part.mapped[start : start+t.Size() : start+t.Size()]
}

func pathError(path string, err error) error { return fmt.Errorf("%s: %w", path, cause(err)) }

// cause leaves the operation and the path out of an error of package os.
func cause(err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
