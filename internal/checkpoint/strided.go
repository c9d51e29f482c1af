package checkpoint

import (
	"io"

	"github.com/smeltgguf/smelt/formats/torch"
)

// strided is a view of a storage whose elements do not stand in logical order:
// transposed, cut out, repeated.
type strided struct {
	matrix
	src     io.ReaderAt
	start   int   // first element's position in src, in elements
	shape   []int // of the leading dimensions, which are the rows
	strides []int // theirs, in elements
	step    int   // from one element of a row to the next
}

func newStrided(t *torch.Tensor) *strided {
	s := &strided{matrix: matrixOf(t.TensorInfo), src: t.Storage, start: t.Start}
	if n := len(t.Shape); n > 0 {
		s.shape, s.strides, s.step = t.Shape[:n-1], t.Strides[:n-1], t.Strides[n-1]
	}
	return s
}

// row returns the position of the first element of row i.
func (s *strided) row(i int) int {
	at := s.start
	for d := len(s.shape) - 1; d >= 0; d-- {
		at += i % s.shape[d] * s.strides[d]
		i /= s.shape[d]
	}
	return at
}

// spanBytes bounds how much is read around the elements of a row in one go.
const spanBytes = 256 << 10

func (s *strided) ReadRows(dst []byte, first, n int) error {
	es := s.typ.BlockSize()
	rowSize := s.len * es
	if s.len == 0 || n == 0 {
		return nil
	}
	buf := scratch.Get().(*[]byte)
	defer scratch.Put(buf)
	last := len(s.strides) - 1
	if s.step > 1 && last >= 0 && s.strides[last] == 1 {
		// Columns are contiguous: read each of them for as many rows as there
		// are before an outer dimension moves on.
		for n > 0 {
			k := min(n, s.shape[last]-first%s.shape[last])
			*buf = grow(*buf, k*es)
			at := s.row(first)
			for j := range s.len {
				if err := readFull(s.src, *buf, int64(at+j*s.step)*int64(es)); err != nil {
					return err
				}
				for i := range k {
					copy(dst[i*rowSize+j*es:][:es], (*buf)[i*es:])
				}
			}
			dst, first, n = dst[k*rowSize:], first+k, n-k
		}
		return nil
	}
	for i := range n {
		row := dst[i*rowSize:][:rowSize]
		at := int64(s.row(first+i)) * int64(es)
		if s.step == 1 {
			if err := readFull(s.src, row, at); err != nil {
				return err
			}
			continue
		}
		// Read stretches of the row with what lies between its elements.
		per := s.len
		if s.step > 0 {
			per = max(1, min(s.len, spanBytes/(s.step*es)))
		}
		for j := 0; j < s.len; j += per {
			k := min(per, s.len-j)
			*buf = grow(*buf, ((k-1)*s.step+1)*es)
			if err := readFull(s.src, *buf, at+int64(j*s.step)*int64(es)); err != nil {
				return err
			}
			for e := range k {
				copy(row[(j+e)*es:][:es], (*buf)[e*s.step*es:])
			}
		}
	}
	return nil
}

func readFull(r io.ReaderAt, p []byte, off int64) error {
	_, err := r.ReadAt(p, off)
	return err
}
