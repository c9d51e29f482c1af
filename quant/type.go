// Package quant holds the ggml tensor types: one table entry per type with its
// block length, block size, decoder and encoder. Everything here is plain,
// readable Go and bit-exact with ggml's x86-64 reference quantizers; package
// kernels holds the fast forms, which are tested against this one.
package quant

import (
	"fmt"
	"strings"
)

// Type is a ggml tensor type; the numbers are those stored in GGUF files
// (ggml.h, enum ggml_type).
type Type uint32

// The ggml types. Gaps in the numbering are types that were withdrawn.
const (
	F32     Type = 0
	F16     Type = 1
	Q4_0    Type = 2
	Q4_1    Type = 3
	Q5_0    Type = 6
	Q5_1    Type = 7
	Q8_0    Type = 8
	Q8_1    Type = 9
	Q2_K    Type = 10
	Q3_K    Type = 11
	Q4_K    Type = 12
	Q5_K    Type = 13
	Q6_K    Type = 14
	Q8_K    Type = 15
	IQ2_XXS Type = 16
	IQ2_XS  Type = 17
	IQ3_XXS Type = 18
	IQ1_S   Type = 19
	IQ4_NL  Type = 20
	IQ3_S   Type = 21
	IQ2_S   Type = 22
	IQ4_XS  Type = 23
	I8      Type = 24
	I16     Type = 25
	I32     Type = 26
	I64     Type = 27
	F64     Type = 28
	IQ1_M   Type = 29
	BF16    Type = 30
	TQ1_0   Type = 34
	TQ2_0   Type = 35
	MXFP4   Type = 39
	NVFP4   Type = 40
	Q1_0    Type = 41
	Q2_0    Type = 42
)

// numTypes is one more than the largest type number.
const numTypes = 43

// Format describes one type. Blocks are self-contained: BlockLen consecutive
// elements of a row are stored in BlockSize bytes.
type Format struct {
	Name      string // ggml's name in upper case: "Q4_K"
	BlockLen  int    // elements per block; a row's length is a multiple of it
	BlockSize int    // bytes per block

	// decode expands len(src)/BlockSize blocks into dst.
	decode func(dst []float32, src []byte)
	// encode quantizes one row; see Encode.
	encode func(dst []byte, row, importance []float32)
}

// formats is the table, indexed by Type; an entry without a name is no type.
// Each codec's file adds its decode and encode functions here.
var formats = [numTypes]Format{
	F32:     {Name: "F32", BlockLen: 1, BlockSize: 4, decode: decodeF32, encode: encodeF32},
	F16:     {Name: "F16", BlockLen: 1, BlockSize: 2, decode: decodeF16, encode: encodeF16},
	Q4_0:    {Name: "Q4_0", BlockLen: 32, BlockSize: 18, decode: decodeQ4_0, encode: encodeSymmetric(Q4_0, 18, 8)},
	Q4_1:    {Name: "Q4_1", BlockLen: 32, BlockSize: 20, decode: decodeQ4_1, encode: encodeAffine(Q4_1, 20, 15)},
	Q5_0:    {Name: "Q5_0", BlockLen: 32, BlockSize: 22, decode: decodeQ5_0, encode: encodeSymmetric(Q5_0, 22, 16)},
	Q5_1:    {Name: "Q5_1", BlockLen: 32, BlockSize: 24, decode: decodeQ5_1, encode: encodeAffine(Q5_1, 24, 31)},
	Q8_0:    {Name: "Q8_0", BlockLen: 32, BlockSize: 34, decode: decodeQ8_0, encode: encodeQ8_0},
	Q8_1:    {Name: "Q8_1", BlockLen: 32, BlockSize: 36},
	Q2_K:    {Name: "Q2_K", BlockLen: 256, BlockSize: 84, decode: decodeQ2_K, encode: encodeK(Q2_K)},
	Q3_K:    {Name: "Q3_K", BlockLen: 256, BlockSize: 110, decode: decodeQ3_K, encode: encodeK(Q3_K)},
	Q4_K:    {Name: "Q4_K", BlockLen: 256, BlockSize: 144, decode: decodeQ4_K, encode: encodeK(Q4_K)},
	Q5_K:    {Name: "Q5_K", BlockLen: 256, BlockSize: 176, decode: decodeQ5_K, encode: encodeK(Q5_K)},
	Q6_K:    {Name: "Q6_K", BlockLen: 256, BlockSize: 210, decode: decodeQ6_K, encode: encodeK(Q6_K)},
	Q8_K:    {Name: "Q8_K", BlockLen: 256, BlockSize: 292},
	IQ2_XXS: {Name: "IQ2_XXS", BlockLen: 256, BlockSize: 66, decode: decodeIQ2XXS, encode: plainIQ(IQ2_XXS)},
	IQ2_XS:  {Name: "IQ2_XS", BlockLen: 256, BlockSize: 74, decode: decodeIQ2XS, encode: plainIQ(IQ2_XS)},
	IQ3_XXS: {Name: "IQ3_XXS", BlockLen: 256, BlockSize: 98, decode: decodeIQ3XXS, encode: plainIQ(IQ3_XXS)},
	IQ1_S:   {Name: "IQ1_S", BlockLen: 256, BlockSize: 50, decode: decodeIQ1S, encode: plainIQ(IQ1_S)},
	IQ4_NL:  {Name: "IQ4_NL", BlockLen: 32, BlockSize: 18, decode: decodeIQ4NL, encode: plainIQ(IQ4_NL)},
	IQ3_S:   {Name: "IQ3_S", BlockLen: 256, BlockSize: 110, decode: decodeIQ3S, encode: plainIQ(IQ3_S)},
	IQ2_S:   {Name: "IQ2_S", BlockLen: 256, BlockSize: 82, decode: decodeIQ2S, encode: plainIQ(IQ2_S)},
	IQ4_XS:  {Name: "IQ4_XS", BlockLen: 256, BlockSize: 136, decode: decodeIQ4XS, encode: plainIQ(IQ4_XS)},
	I8:      {Name: "I8", BlockLen: 1, BlockSize: 1},
	I16:     {Name: "I16", BlockLen: 1, BlockSize: 2},
	I32:     {Name: "I32", BlockLen: 1, BlockSize: 4},
	I64:     {Name: "I64", BlockLen: 1, BlockSize: 8},
	F64:     {Name: "F64", BlockLen: 1, BlockSize: 8, decode: decodeF64},
	IQ1_M:   {Name: "IQ1_M", BlockLen: 256, BlockSize: 56, decode: decodeIQ1M, encode: plainIQ(IQ1_M)},
	BF16:    {Name: "BF16", BlockLen: 1, BlockSize: 2, decode: decodeBF16, encode: encodeBF16},
	TQ1_0:   {Name: "TQ1_0", BlockLen: 256, BlockSize: 54, decode: decodeTQ1_0, encode: encodeTQ(TQ1_0, 54)},
	TQ2_0:   {Name: "TQ2_0", BlockLen: 256, BlockSize: 66, decode: decodeTQ2_0, encode: encodeTQ(TQ2_0, 66)},
	MXFP4:   {Name: "MXFP4", BlockLen: 32, BlockSize: 17, decode: decodeMXFP4, encode: encodeMXFP4},
	NVFP4:   {Name: "NVFP4", BlockLen: 64, BlockSize: 36, decode: decodeNVFP4, encode: encodeNVFP4},
	Q1_0:    {Name: "Q1_0", BlockLen: 128, BlockSize: 18, decode: decodeQ1_0, encode: encodeQ1_0},
	Q2_0:    {Name: "Q2_0", BlockLen: 64, BlockSize: 18, decode: decodeQ2_0, encode: encodeQ2_0},
}

// Valid reports whether t is a type that GGUF files may hold.
func (t Type) Valid() bool { return t < numTypes && formats[t].Name != "" }

// String returns ggml's name of the type, or its number if it has none.
func (t Type) String() string {
	if !t.Valid() {
		return fmt.Sprintf("type %d", uint32(t))
	}
	return formats[t].Name
}

// BlockLen returns the number of elements in a block, 0 for an invalid type.
func (t Type) BlockLen() int {
	if !t.Valid() {
		return 0
	}
	return formats[t].BlockLen
}

// BlockSize returns the number of bytes in a block, 0 for an invalid type.
func (t Type) BlockSize() int {
	if !t.Valid() {
		return 0
	}
	return formats[t].BlockSize
}

// RowSize returns the bytes that n elements take; n is a multiple of the block
// length.
func (t Type) RowSize(n int) int { return n / t.BlockLen() * t.BlockSize() }

// CanDecode reports whether Decode knows the type.
func (t Type) CanDecode() bool { return t.Valid() && formats[t].decode != nil }

// CanEncode reports whether Encode knows the type.
func (t Type) CanEncode() bool { return t.Valid() && formats[t].encode != nil }

// ParseType finds a type by its ggml name, in any case.
func ParseType(name string) (Type, error) {
	up := strings.ToUpper(name)
	for t := range formats {
		if formats[t].Name == up && up != "" {
			return Type(t), nil
		}
	}
	return 0, fmt.Errorf("unknown tensor type %q", name)
}

// Decode expands whole blocks of type t: len(src) is a multiple of the block
// size and dst holds the matching number of elements. It panics where the
// lengths disagree or CanDecode is false.
func Decode(t Type, dst []float32, src []byte) {
	f := &formats[t]
	if len(src)%f.BlockSize != 0 || len(src)/f.BlockSize*f.BlockLen != len(dst) {
		panic(fmt.Sprintf("quant: decode %s: %d bytes into %d elements", f.Name, len(src), len(dst)))
	}
	f.decode(dst, src)
}

// Encode quantizes one row to type t. len(row) is a multiple of the block
// length and len(dst) = t.RowSize(len(row)). importance is nil or holds one
// weight per element of the row (the row of an importance matrix); types that
// make no use of it ignore it. A whole row is needed at once because several
// types scale importance by the row's mean square. It panics where the lengths
// disagree, CanEncode is false, or RequiresImportance is true and there is none.
func Encode(t Type, dst []byte, row, importance []float32) {
	checkEncode(t, dst, row, importance)
	formats[t].encode(dst, row, importance)
}

func checkEncode(t Type, dst []byte, row, importance []float32) {
	f := &formats[t]
	if len(row)%f.BlockLen != 0 || len(dst) != t.RowSize(len(row)) || (importance != nil && len(importance) != len(row)) {
		panic(fmt.Sprintf("quant: encode %s: %d elements into %d bytes", f.Name, len(row), len(dst)))
	}
	if importance == nil && t.RequiresImportance() {
		panic(fmt.Sprintf("quant: encode %s: no importance", f.Name))
	}
}
