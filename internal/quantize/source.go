// Package quantize plans and writes quantized models: which type each tensor
// gets (package recipe), what the metadata says, where every byte goes, and
// then one pass over the source that writes all outputs (package stream). The
// result equals that of llama-quantize, byte for byte.
package quantize

import (
	"fmt"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/formats/gguf"
	"github.com/smeltgguf/smelt/internal/recipe"
	"github.com/smeltgguf/smelt/internal/stream"
	"github.com/smeltgguf/smelt/quant"
)

// Source is a model to quantize: a GGUF file, or one that convert is about to
// make.
type Source struct {
	Name     string // for messages
	Metadata *gguf.Metadata
	Tensors  []Tensor
	Paths    []string // the files that it is read from
	Parts    int      // files of a split model, 1 for others
	// Verify returns an error if the files are no longer what they were; nil
	// if there is nothing to verify.
	Verify func() error
}

// Tensor is a tensor of the source. Rows may be nil where only a plan is
// wanted.
type Tensor struct {
	Name string
	Type quant.Type
	Dims []uint64 // row length first
	Rows stream.Rows
	Part int // of a split model
}

// FromGGUF returns an opened file as a source.
func FromGGUF(f *gguf.File) *Source {
	paths := f.Paths()
	s := &Source{Metadata: f.Metadata, Paths: paths, Parts: max(1, len(paths)), Verify: f.Changed}
	if len(paths) > 0 {
		s.Name = paths[0]
	}
	for _, t := range f.Tensors {
		s.Tensors = append(s.Tensors, Tensor{Name: t.Name, Type: t.Type, Dims: t.Dims, Rows: f.Rows(t), Part: f.Part(t)})
	}
	return s
}

// bytes returns the size of the tensor's data as type t.
func (t *Tensor) bytes(as quant.Type) int64 {
	return int64(t.elems() / uint64(as.BlockLen()) * uint64(as.BlockSize()))
}

func (t *Tensor) elems() uint64 {
	n := uint64(1)
	for _, d := range t.Dims {
		n *= d
	}
	return n
}

// dim returns dimension i, 1 past the last.
func (t *Tensor) dim(i int) uint64 {
	if i < len(t.Dims) {
		return t.Dims[i]
	}
	return 1
}

// modelOf reads what recipes ask about a model.
func modelOf(meta *gguf.Metadata, file string) (recipe.Model, error) {
	arch := meta.Architecture()
	m := recipe.Model{Arch: arch}
	for _, f := range []struct {
		key string
		to  *int
	}{
		{"block_count", &m.Layers},
		{"expert_count", &m.Experts},
		{"attention.head_count", &m.Heads},
		{"attention.head_count_kv", &m.KVHeads},
	} {
		key := arch + "." + f.key
		n, ok, err := firstInt(meta, key)
		if err != nil {
			return m, formats.Malformedf(file, -1, "%v", err)
		}
		if !ok && f.to == &m.KVHeads {
			n = m.Heads
		}
		*f.to = n
	}
	return m, nil
}

// firstInt reads a small number that may also stand as an array, one per
// layer; then the first counts.
func firstInt(meta *gguf.Metadata, key string) (n int, ok bool, err error) {
	v, ok := meta.Get(key)
	if !ok {
		return 0, false, nil
	}
	var u uint64
	switch v := v.(type) {
	case []int32:
		if len(v) > 0 && v[0] >= 0 {
			u = uint64(v[0])
		}
	case []uint32:
		if len(v) > 0 {
			u = uint64(v[0])
		}
	default:
		if u, err = meta.Uint(key); err != nil {
			return 0, false, err
		}
	}
	if u > 1<<20 {
		return 0, false, fmt.Errorf("%s: %d is out of range", key, u)
	}
	return int(u), true, nil
}
