package quant

import (
	"encoding/binary"
	"math"
)

// The unquantized types, one element per block, little-endian.

func decodeF32(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
	}
}

func encodeF32(dst []byte, row, _ []float32) {
	for i, v := range row {
		binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(v))
	}
}

func decodeF16(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = halfToFloat(src[2*i:])
	}
}

func encodeF16(dst []byte, row, _ []float32) {
	for i, v := range row {
		binary.LittleEndian.PutUint16(dst[2*i:], halfFromFloat(v))
	}
}

// BF16 is the upper half of a float32.
func decodeBF16(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(src[2*i:])) << 16)
	}
}

func encodeBF16(dst []byte, row, _ []float32) {
	for i, v := range row {
		binary.LittleEndian.PutUint16(dst[2*i:], bf16FromFloat(v))
	}
}

// bf16FromFloat rounds to nearest, halves to even. A NaN keeps its upper bits
// and becomes quiet.
func bf16FromFloat(v float32) uint16 {
	bits := math.Float32bits(v)
	if v != v {
		return uint16(bits>>16) | 0x40
	}
	return uint16((bits + 0x7fff + bits>>16&1) >> 16)
}

// decodeF64 rounds to float32.
func decodeF64(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = float32(math.Float64frombits(binary.LittleEndian.Uint64(src[8*i:])))
	}
}
