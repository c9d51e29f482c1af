// Package formats holds what the readers of all checkpoint formats share:
// element types, tensor descriptions and the error that a bad file gives.
package formats

import (
	"bytes"
	"fmt"
	"strings"
)

// DType is the element type of a checkpoint's tensor.
type DType uint8

// The element types that safetensors and PyTorch files name.
const (
	Invalid DType = iota
	F64
	F32
	F16
	BF16
	F8E4M3
	F8E5M2
	F8E8M0
	F4
	I64
	I32
	I16
	I8
	U64
	U32
	U16
	U8
	Bool
)

var dtypes = [...]struct {
	name string // as safetensors spells it
	bits int
}{
	Invalid: {"invalid", 0},
	F64:     {"F64", 64},
	F32:     {"F32", 32},
	F16:     {"F16", 16},
	BF16:    {"BF16", 16},
	F8E4M3:  {"F8_E4M3", 8},
	F8E5M2:  {"F8_E5M2", 8},
	F8E8M0:  {"F8_E8M0", 8},
	F4:      {"F4", 4},
	I64:     {"I64", 64},
	I32:     {"I32", 32},
	I16:     {"I16", 16},
	I8:      {"I8", 8},
	U64:     {"U64", 64},
	U32:     {"U32", 32},
	U16:     {"U16", 16},
	U8:      {"U8", 8},
	Bool:    {"BOOL", 8},
}

// String returns the name that safetensors uses: "BF16", "F8_E4M3".
func (d DType) String() string {
	if int(d) >= len(dtypes) {
		return fmt.Sprintf("DType(%d)", uint8(d))
	}
	return dtypes[d].name
}

// Bits returns the width of one element in bits, 0 for Invalid.
func (d DType) Bits() int {
	if int(d) >= len(dtypes) {
		return 0
	}
	return dtypes[d].bits
}

// ParseDType finds an element type by its safetensors name.
func ParseDType(name string) (DType, bool) {
	for d := F64; int(d) < len(dtypes); d++ {
		if dtypes[d].name == name {
			return d, true
		}
	}
	return Invalid, false
}

// TensorInfo describes a tensor of a checkpoint.
type TensorInfo struct {
	Name  string
	DType DType
	Shape []int // outermost dimension first, as PyTorch prints it; nil for a scalar
}

// Elems returns the number of elements; readers have checked that it fits.
func (t TensorInfo) Elems() int {
	n := 1
	for _, d := range t.Shape {
		n *= d
	}
	return n
}

// Kind tells what is wrong with a file.
type Kind uint8

const (
	// Malformed: the file breaks its format.
	Malformed Kind = iota
	// Unsupported: the file is valid, but uses what smelt does not read.
	Unsupported
)

// FormatError says what is wrong with a file, and where. It prints as
// `<file>: <message>[, at offset <n>]`; the message names the tensor, key or
// record that it is about.
type FormatError struct {
	File   string
	Offset int64 // in bytes from the start of the file; -1 where it says nothing
	Kind   Kind
	Msg    string // what was found and what was expected
	Hint   string // what to do about it; may be empty
	Err    error  // the cause; may be nil
}

func (e *FormatError) Error() string {
	var b strings.Builder
	if e.File != "" {
		b.WriteString(e.File)
		b.WriteString(": ")
	}
	b.WriteString(e.Msg)
	if e.Offset >= 0 {
		fmt.Fprintf(&b, ", at offset %d", e.Offset)
	}
	return b.String()
}

func (e *FormatError) Unwrap() error { return e.Err }

// Malformedf returns a FormatError of kind Malformed; offset is -1 where it
// says nothing.
func Malformedf(file string, offset int64, format string, args ...any) *FormatError {
	return newError(Malformed, file, offset, format, args)
}

// Unsupportedf returns a FormatError of kind Unsupported.
func Unsupportedf(file string, offset int64, format string, args ...any) *FormatError {
	return newError(Unsupported, file, offset, format, args)
}

// WithHint sets the hint and returns e.
func (e *FormatError) WithHint(format string, args ...any) *FormatError {
	e.Hint = fmt.Sprintf(format, args...)
	return e
}

func newError(kind Kind, file string, offset int64, format string, args []any) *FormatError {
	e := &FormatError{File: file, Offset: offset, Kind: kind, Msg: fmt.Sprintf(format, args...)}
	for _, a := range args {
		if err, ok := a.(error); ok {
			e.Err = err
		}
	}
	return e
}

// Quote quotes untrusted text for an error message and caps its length.
func Quote(s string) string {
	const limit = 80
	if len(s) > limit {
		return fmt.Sprintf("%q...", s[:limit])
	}
	return fmt.Sprintf("%q", s)
}

// Name shows untrusted text, such as a tensor's name, as it is where that is
// safe on a terminal, else quoted and capped as Quote does.
func Name(s string) string {
	if q := Quote(s); q != `"`+s+`"` {
		return q
	}
	return s
}

// NotDownloaded recognises what stands in a file's place when a download went
// wrong: b is the start of the file, 64 bytes or more if it has them. It returns
// nil for anything else.
func NotDownloaded(b []byte, file string) error {
	text := bytes.ToLower(bytes.TrimLeft(b, " \t\r\n"))
	switch {
	case bytes.HasPrefix(b, []byte("version https://git-lfs")):
		return Malformedf(file, -1, "this is a Git LFS pointer").WithHint("git lfs pull")
	case bytes.HasPrefix(text, []byte("<!doctype html")), bytes.HasPrefix(text, []byte("<html")):
		return Malformedf(file, -1, "this is an HTML page").
			WithHint("download the file itself: what was saved is a page about it")
	}
	return nil
}
