package gguf

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/smeltgguf/smelt/quant"
)

// version is what is written.
const version = 3

// Layout is the plan of one output file: its metadata's bytes and where every
// tensor goes.
type Layout struct {
	Header     []byte // everything before the tensor data, padding included
	DataOffset int64  // = len(Header)
	Size       int64  // of the whole file, the last tensor's padding included
	Tensors    []*Tensor
}

// Offset returns where in the file tensor i begins.
func (l *Layout) Offset(i int) int64 { return l.DataOffset + int64(l.Tensors[i].Offset) }

// Gaps returns the ranges of padding between and after the tensors as pairs of
// offset and length; whoever writes the file zeroes them.
func (l *Layout) Gaps() [][2]int64 {
	var gaps [][2]int64
	for i, t := range l.Tensors {
		end := l.Offset(i) + int64(t.Size())
		next := l.Size
		if i+1 < len(l.Tensors) {
			next = l.Offset(i + 1)
		}
		if next > end {
			gaps = append(gaps, [2]int64{end, next - end})
		}
	}
	return gaps
}

// Plan lays out a file of version 3: metadata in order, tensors one after the
// other, each aligned to general.alignment (32 where the key is absent). The
// tensors' Offset is assigned; Dims and Type are the caller's.
func Plan(meta *Metadata, tensors []*Tensor) (*Layout, error) {
	align, err := alignment(meta)
	if err != nil {
		return nil, err
	}
	seen := make(map[string]bool, len(tensors))
	next := uint64(0)
	for _, t := range tensors {
		switch {
		case t.Name == "" || len(t.Name) > maxNameLen:
			return nil, fmt.Errorf("tensor name of %d bytes", len(t.Name))
		case seen[t.Name]:
			return nil, fmt.Errorf("duplicate tensor %q", t.Name)
		case len(t.Dims) > maxDims:
			return nil, fmt.Errorf("tensor %q: %d dimensions > %d", t.Name, len(t.Dims), maxDims)
		case !t.Type.Valid():
			return nil, fmt.Errorf("tensor %q: unknown %s", t.Name, t.Type)
		case t.RowLen()%t.Type.BlockLen() != 0:
			return nil, fmt.Errorf("tensor %q: row %d not a multiple of %d (%s)", t.Name, t.RowLen(), t.Type.BlockLen(), t.Type)
		}
		seen[t.Name] = true
		t.Offset = next
		next = pad(next+t.Size(), align)
	}
	h := make([]byte, 0, 1<<16)
	h = append(h, "GGUF"...)
	h = binary.LittleEndian.AppendUint32(h, version)
	h = binary.LittleEndian.AppendUint64(h, uint64(len(tensors)))
	h = binary.LittleEndian.AppendUint64(h, uint64(meta.Len()))
	for k, v := range meta.All() {
		h = appendString(h, k)
		h = AppendValue(h, v)
	}
	for _, t := range tensors {
		h = appendString(h, t.Name)
		h = binary.LittleEndian.AppendUint32(h, uint32(len(t.Dims)))
		for _, d := range t.Dims {
			h = binary.LittleEndian.AppendUint64(h, d)
		}
		h = binary.LittleEndian.AppendUint32(h, uint32(t.Type))
		h = binary.LittleEndian.AppendUint64(h, t.Offset)
	}
	h = append(h, make([]byte, int(pad(uint64(len(h)), align))-len(h))...)
	return &Layout{Header: h, DataOffset: int64(len(h)), Size: int64(len(h)) + int64(next), Tensors: tensors}, nil
}

func appendString(b []byte, s string) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(len(s)))
	return append(b, s...)
}

// AppendValue appends a value as it stands in a file: its type, for an array
// the element type and count, then the elements.
func AppendValue(b []byte, v any) []byte {
	typ, elem, ok := TypeOf(v)
	if !ok {
		panic(fmt.Sprintf("gguf: no type for %T", v))
	}
	b = binary.LittleEndian.AppendUint32(b, typ)
	if typ == typeArray {
		b = binary.LittleEndian.AppendUint32(b, elem)
	}
	return appendData(b, v)
}

func appendData(b []byte, v any) []byte {
	le := binary.LittleEndian
	switch v := v.(type) {
	case uint8:
		return append(b, v)
	case int8:
		return append(b, byte(v))
	case uint16:
		return le.AppendUint16(b, v)
	case int16:
		return le.AppendUint16(b, uint16(v))
	case uint32:
		return le.AppendUint32(b, v)
	case int32:
		return le.AppendUint32(b, uint32(v))
	case uint64:
		return le.AppendUint64(b, v)
	case int64:
		return le.AppendUint64(b, uint64(v))
	case float32:
		return le.AppendUint32(b, math.Float32bits(v))
	case float64:
		return le.AppendUint64(b, math.Float64bits(v))
	case bool:
		if v {
			return append(b, 1)
		}
		return append(b, 0)
	case string:
		return appendString(b, v)
	case []uint8:
		return appendArray(b, v)
	case []int8:
		return appendArray(b, v)
	case []uint16:
		return appendArray(b, v)
	case []int16:
		return appendArray(b, v)
	case []uint32:
		return appendArray(b, v)
	case []int32:
		return appendArray(b, v)
	case []uint64:
		return appendArray(b, v)
	case []int64:
		return appendArray(b, v)
	case []float32:
		return appendArray(b, v)
	case []float64:
		return appendArray(b, v)
	case []bool:
		return appendArray(b, v)
	case []string:
		return appendArray(b, v)
	}
	panic(fmt.Sprintf("gguf: no type for %T", v))
}

func appendArray[T any](b []byte, v []T) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(len(v)))
	for _, x := range v {
		b = appendData(b, x)
	}
	return b
}

// NewTensor describes a tensor to be written; shape has the outermost dimension
// first, as checkpoints have it.
func NewTensor(name string, t quant.Type, shape []int) *Tensor {
	dims := make([]uint64, len(shape))
	for i, d := range shape {
		dims[len(shape)-1-i] = uint64(d)
	}
	return &Tensor{Name: name, Type: t, Dims: dims}
}
