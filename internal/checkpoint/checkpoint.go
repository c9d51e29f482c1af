// Package checkpoint presents a directory or file of any input format as one
// ordered set of named, lazily read tensors and the configuration files beside
// them.
package checkpoint

import (
	"github.com/smeltgguf/smelt/internal/stream"
)

// Layout names the conventions that a checkpoint's tensor names and weights
// follow.
type Layout uint8

const (
	// HuggingFace: config.json; q and k rows in rotate-half order.
	HuggingFace Layout = iota + 1
	// Meta: params.json; q and k rows interleaved, model-parallel shards joined.
	Meta
)

func (l Layout) String() string {
	switch l {
	case HuggingFace:
		return "Hugging Face"
	case Meta:
		return "Meta"
	}
	return "unknown"
}

// Tensor is one tensor of a checkpoint.
type Tensor struct {
	Name  string
	Shape []int // outermost dimension first; nil for a scalar
	// Rows reads the elements in logical order (whatever strides, shards or
	// records they come from); its type is F64, F32, F16, BF16 or an integer.
	// The last dimension is the row.
	stream.Rows
	// File is where the tensor stands, for messages.
	File string
}

// Checkpoint is an opened checkpoint.
type Checkpoint struct {
	Path    string // as given
	Layout  Layout
	Tensors []Tensor // in the order that llama.cpp's converter sees them
}
