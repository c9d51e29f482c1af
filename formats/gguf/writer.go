package gguf

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"

	"github.com/smeltgguf/smelt/formats"
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
// layout's tensors are copies with their Offset set; the given ones, which may
// be those of an opened File, stay as they are. Without tensors the file ends
// with its metadata, as llama.cpp's converter has it for a vocabulary only.
func Plan(meta *Metadata, tensors []*Tensor) (*Layout, error) {
	return plan(meta, tensors, len(tensors) > 0)
}

// plan is Plan; padded tells whether the metadata is padded to the alignment.
func plan(meta *Metadata, tensors []*Tensor, padded bool) (*Layout, error) {
	align, err := alignment(meta)
	if err != nil {
		return nil, err
	}
	for k := range meta.All() {
		if err := checkName(k); err != nil || len(k) > maxKeyLen {
			return nil, fmt.Errorf("key of %d bytes, %s: %w", len(k), formats.Quote(k), cmp.Or(err, errTooLong))
		}
	}
	l := &Layout{Tensors: make([]*Tensor, len(tensors))}
	seen := make(map[string]bool, len(tensors))
	next := uint64(0)
	for i, t := range tensors {
		err := checkName(t.Name)
		switch {
		case err != nil:
		case len(t.Name) > maxNameLen:
			err = errTooLong
		case seen[t.Name]:
			err = errors.New("duplicate")
		case len(t.Dims) > maxDims:
			err = fmt.Errorf("%d dimensions > %d", len(t.Dims), maxDims)
		case !t.Type.Valid():
			err = fmt.Errorf("unknown %s", t.Type)
		default:
			err = t.checkShape()
		}
		if err == nil && next+t.Size() > 1<<62 {
			err = errors.New("data size overflows")
		}
		if err != nil {
			return nil, fmt.Errorf("tensor %s: %w", formats.Quote(t.Name), err)
		}
		seen[t.Name] = true
		l.Tensors[i] = &Tensor{Name: t.Name, Type: t.Type, Dims: t.Dims, Offset: next}
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
	for _, t := range l.Tensors {
		h = appendString(h, t.Name)
		h = binary.LittleEndian.AppendUint32(h, uint32(len(t.Dims)))
		for _, d := range t.Dims {
			h = binary.LittleEndian.AppendUint64(h, d)
		}
		h = binary.LittleEndian.AppendUint32(h, uint32(t.Type))
		h = binary.LittleEndian.AppendUint64(h, t.Offset)
	}
	if padded {
		h = append(h, make([]byte, int(pad(uint64(len(h)), align))-len(h))...)
	}
	l.Header, l.DataOffset, l.Size = h, int64(len(h)), int64(len(h))+int64(next)
	return l, nil
}

var errTooLong = errors.New("name too long")

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
		b = binary.LittleEndian.AppendUint64(b, uint64(reflect.ValueOf(v).Len()))
	}
	return AppendData(b, v)
}

// AppendData appends a value's bytes alone: of an array the elements without
// type and count.
func AppendData(b []byte, v any) []byte {
	switch v := v.(type) {
	case string:
		return appendString(b, v)
	case []string:
		for _, s := range v {
			b = appendString(b, s)
		}
		return b
	}
	b, err := binary.Append(b, binary.LittleEndian, v)
	if err != nil {
		panic(fmt.Sprintf("gguf: no type for %T", v))
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
