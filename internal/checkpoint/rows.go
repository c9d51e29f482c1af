package checkpoint

import (
	"io"
	"sync"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/internal/stream"
	"github.com/smeltgguf/smelt/quant"
)

// rawType returns the type that rows of d have: ggml's where it has one, and a
// signed integer of the same width for what is merely passed through.
func rawType(d formats.DType) quant.Type {
	switch d {
	case formats.F64:
		return quant.F64
	case formats.F32:
		return quant.F32
	case formats.F16:
		return quant.F16
	case formats.BF16:
		return quant.BF16
	}
	switch d.Bits() {
	case 64:
		return quant.I64
	case 32:
		return quant.I32
	case 16:
		return quant.I16
	}
	return quant.I8
}

// matrix is what all Rows here share: their type and size.
type matrix struct {
	typ        quant.Type
	len, count int
}

func (m *matrix) Type() quant.Type { return m.typ }
func (m *matrix) Len() int         { return m.len }
func (m *matrix) Count() int       { return m.count }

// matrixOf flattens a tensor's shape. Elements of less than a byte count as
// bytes.
func matrixOf(info formats.TensorInfo) matrix {
	m := matrix{rawType(info.DType), 1, 1}
	if n := len(info.Shape); n > 0 {
		m.len = info.Shape[n-1]
		for _, d := range info.Shape[:n-1] {
			m.count *= d
		}
	}
	if bits := info.DType.Bits(); bits < 8 {
		if m.len*bits%8 != 0 {
			m.len, m.count = m.len*m.count, 1
		}
		m.len = m.len * bits / 8
	}
	if m.len == 0 {
		m.count = 0 // no bytes, however many rows
	}
	return m
}

// flat is a tensor whose rows stand one after the other from off on.
type flat struct {
	matrix
	src io.ReaderAt
	off int64
}

func (f *flat) ReadRows(dst []byte, first, n int) error {
	_, err := f.src.ReadAt(dst, f.off+int64(first)*int64(f.typ.RowSize(f.len)))
	return err
}

// Map implements stream.Mapper.
func (f *flat) Map() ([]byte, error) {
	in, ok := f.src.(*input)
	if !ok {
		return nil, nil // a record of an archive
	}
	b, err := in.mapFile()
	if err != nil {
		return nil, err
	}
	return b[f.off:][:f.count*f.typ.RowSize(f.len)], nil
}

// stacked is matrices of equal row length one below the other.
type stacked struct {
	matrix
	parts []stream.Rows
}

func (s *stacked) ReadRows(dst []byte, first, n int) error {
	rowSize := s.typ.RowSize(s.len)
	for _, p := range s.parts {
		if n == 0 {
			break
		}
		if first >= p.Count() {
			first -= p.Count()
			continue
		}
		k := min(n, p.Count()-first)
		if err := p.ReadRows(dst[:k*rowSize], first, k); err != nil {
			return err
		}
		dst, first, n = dst[k*rowSize:], 0, n-k
	}
	return nil
}

// sideBySide is matrices of equal height beside each other.
type sideBySide struct {
	matrix
	parts []stream.Rows
}

// scratch holds buffers for what cannot be read to where it belongs.
var scratch = sync.Pool{New: func() any { return new([]byte) }}

func (s *sideBySide) ReadRows(dst []byte, first, n int) error {
	buf := scratch.Get().(*[]byte)
	defer scratch.Put(buf)
	rowSize, at := s.typ.RowSize(s.len), 0
	for _, p := range s.parts {
		size := s.typ.RowSize(p.Len())
		*buf = grow(*buf, n*size)
		if err := p.ReadRows(*buf, first, n); err != nil {
			return err
		}
		for i := range n {
			copy(dst[i*rowSize+at:][:size], (*buf)[i*size:])
		}
		at += size
	}
	return nil
}

func grow(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n)
	}
	return b[:n]
}
