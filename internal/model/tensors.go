package model

import (
	"io"

	"github.com/smeltgguf/smelt/formats/gguf"
	"github.com/smeltgguf/smelt/internal/arch"
	"github.com/smeltgguf/smelt/internal/checkpoint"
)

// Tensors are a model's weights as a GGUF has them, whatever they are read
// from: of a checkpoint under their GGUF names, reordered and joined as convert
// does.
type Tensors struct {
	Path  string
	List  []arch.Tensor // in the order of the file
	close io.Closer
}

// Close releases the files.
func (t *Tensors) Close() error { return t.close.Close() }

// OpenTensors opens a GGUF file or a checkpoint, as Open does, for its tensors
// alone.
func OpenTensors(path string) (*Tensors, error) {
	ok, err := isGGUF(path)
	if err != nil {
		return nil, err
	}
	if !ok {
		ck, err := checkpoint.Open(path)
		if err != nil {
			return nil, err
		}
		m, err := arch.Load(ck, arch.Options{})
		if err != nil {
			ck.Close()
			return nil, err
		}
		return &Tensors{path, m.Tensors, ck}, nil
	}
	f, err := gguf.Open(path)
	if err != nil {
		return nil, err
	}
	return &Tensors{path, GGUFTensors(f), f}, nil
}

// GGUFTensors returns the tensors of an opened file.
func GGUFTensors(f *gguf.File) []arch.Tensor {
	var list []arch.Tensor
	for _, g := range f.Tensors {
		shape := make([]int, len(g.Dims))
		for i, d := range g.Dims {
			shape[len(shape)-1-i] = int(d)
		}
		list = append(list, arch.Tensor{Name: g.Name, Shape: shape, Rows: f.Rows(g)})
	}
	return list
}
