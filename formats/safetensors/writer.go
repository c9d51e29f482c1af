package safetensors

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"

	"github.com/smeltgguf/smelt/formats"
)

// Layout is a file to be written: its first bytes, and where each tensor's data
// belong.
type Layout struct {
	Header  []byte   // everything before the data
	Tensors []Tensor // as they were given, with their places
	Size    int64    // of the file, in bytes
}

// Plan lays out a file: data in the order given, with metadata format "pt",
// which Hugging Face's libraries ask for. Names must be unique. It is an error
// if the header exceeds the format's limit.
func Plan(tensors []formats.TensorInfo) (*Layout, error) {
	l := &Layout{}
	b := []byte(`{"__metadata__":{"format":"pt"}`)
	var at uint64
	for _, t := range tensors {
		bits := uint64(t.DType.Bits())
		for _, d := range t.Shape {
			if d > 0 && bits > math.MaxInt64/uint64(d) {
				return nil, fmt.Errorf("tensor %s %v is too large", formats.Quote(t.Name), t.Shape)
			}
			bits *= uint64(d)
		}
		size := (bits + 7) / 8
		if size > math.MaxInt64-1-maxHeader-at {
			return nil, fmt.Errorf("tensor %s %v is too large", formats.Quote(t.Name), t.Shape)
		}
		shape := t.Shape
		if shape == nil {
			shape = []int{} // a scalar
		}
		name, err := json.Marshal(t.Name)
		if err != nil {
			return nil, err
		}
		entry, err := json.Marshal(struct {
			DType   string    `json:"dtype"`
			Shape   []int     `json:"shape"`
			Offsets [2]uint64 `json:"data_offsets"`
		}{t.DType.String(), shape, [2]uint64{at, at + size}})
		if err != nil {
			return nil, err
		}
		b = append(append(append(append(b, ','), name...), ':'), entry...)
		l.Tensors = append(l.Tensors, Tensor{TensorInfo: t, Offset: int64(at), Size: int64(size)})
		at += size
	}
	b = append(b, '}')
	for len(b)%8 != 0 {
		b = append(b, ' ') // data are aligned
	}
	if len(b) > maxHeader {
		return nil, fmt.Errorf("a header of %d bytes exceeds the limit of %d", len(b), maxHeader)
	}
	l.Header = append(binary.LittleEndian.AppendUint64(nil, uint64(len(b))), b...)
	for i := range l.Tensors {
		l.Tensors[i].Offset += int64(len(l.Header))
	}
	l.Size = int64(len(l.Header)) + int64(at)
	return l, nil
}
