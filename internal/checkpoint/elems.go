package checkpoint

import "github.com/smeltgguf/smelt/internal/stream"

// ReadElems fills dst with n elements of r from element first on, counted
// through all rows: part of a row without the rest, where r stands in a file as
// it is. The elements are of a type without blocks.
func ReadElems(r stream.Rows, dst []byte, first, n int) error {
	size := r.Type().BlockSize()
	if f, ok := r.(*flat); ok {
		_, err := f.src.ReadAt(dst, f.off+int64(first)*int64(size))
		return err
	}
	if n == 0 {
		return nil
	}
	rowLen := r.Len()
	a, b := first/rowLen, (first+n-1)/rowLen+1
	buf := scratch.Get().(*[]byte)
	defer scratch.Put(buf)
	*buf = grow(*buf, (b-a)*rowLen*size)
	if err := r.ReadRows(*buf, a, b-a); err != nil {
		return err
	}
	copy(dst, (*buf)[(first-a*rowLen)*size:][:n*size])
	return nil
}
