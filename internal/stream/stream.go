// Package stream is the bounded-memory pipeline that convert and quantize
// share: read rows, transform, encode, write at a known offset. Work units are
// runs of whole rows of a few MiB; neither their order nor the number of
// workers changes the output.
package stream

import "github.com/smeltgguf/smelt/quant"

// Rows is a lazily read matrix: Count() rows of Len() elements of type Type(),
// each row Type().RowSize(Len()) bytes, little-endian. A tensor of more than
// two dimensions counts as one matrix, its leading dimensions flattened into
// rows; a vector is one row.
//
// Implementations are safe for concurrent use and read no more than they are
// asked for. Package checkpoint makes them from files, package arch wraps them
// in transformations (reordering rows, slicing, stacking), so that nothing
// larger than a work unit is ever in memory.
type Rows interface {
	Type() quant.Type
	Len() int
	Count() int
	// ReadRows fills dst with n rows from row first on;
	// len(dst) = n * Type().RowSize(Len()).
	ReadRows(dst []byte, first, n int) error
}

// Mapper is what Rows implement that may stand in a file as they are, one after
// the other. Map returns the rows mapped into memory, to be read only and under
// formats.Guard; nil if they do not stand so.
type Mapper interface {
	Map() ([]byte, error)
}
