package kernels

import (
	"encoding/binary"
	"fmt"
	"math"
	"unsafe"

	"github.com/smeltgguf/smelt/quant"
)

// Whole-slice conversions between plain floats. Byte slices hold little-endian
// numbers. All round to nearest, halves to even, as ggml does; all panic where
// lengths disagree. Those that return an int return the index of the first
// element that is infinite or NaN in the result, by overflow or because the
// source is, or -1; the whole slice is converted in any case.

// F16ToF32 sets dst[i] to half i of src.
func F16ToF32(dst []float32, src []byte) { DecodeRow(quant.F16, dst, src) }

// BF16ToF32 sets dst[i] to bfloat16 number i of src.
func BF16ToF32(dst []float32, src []byte) { DecodeRow(quant.BF16, dst, src) }

// F32ToF16 stores src in half precision.
func F32ToF16(dst []byte, src []float32) int {
	checkLengths("F32ToF16", len(dst)/2, len(src), len(dst)%2)
	if len(src) == 0 {
		return -1
	}
	n, bad := convertSIMD(f32ToF16, &dst[0], (*byte)(unsafe.Pointer(&src[0])), len(src))
	quant.Encode(quant.F16, dst[2*n:], src[n:], nil)
	if bad {
		quant.Encode(quant.F16, dst, src, nil) // NaNs too as ggml has them
	}
	if bad || n < len(src) {
		return firstNonfinite(dst, halfExponent)
	}
	return -1
}

// F32ToBF16 stores src as bfloat16.
func F32ToBF16(dst []byte, src []float32) int {
	checkLengths("F32ToBF16", len(dst)/2, len(src), len(dst)%2)
	if len(src) == 0 {
		return -1
	}
	n, bad := convertSIMD(f32ToBF16, &dst[0], (*byte)(unsafe.Pointer(&src[0])), len(src))
	quant.Encode(quant.BF16, dst[2*n:], src[n:], nil)
	if bad {
		quant.Encode(quant.BF16, dst, src, nil)
	}
	if bad || n < len(src) {
		return firstNonfinite(dst, bfloatExponent)
	}
	return -1
}

// BF16ToF16 converts bfloat16 numbers to halves.
func BF16ToF16(dst, src []byte) int {
	return convert16(bf16ToF16, quant.F16, quant.BF16, halfExponent, dst, src)
}

// F16ToBF16 converts halves to bfloat16 numbers.
func F16ToBF16(dst, src []byte) int {
	return convert16(f16ToBF16, quant.BF16, quant.F16, bfloatExponent, dst, src)
}

func convert16(c conversion, to, from quant.Type, exponent uint16, dst, src []byte) int {
	checkLengths(fmt.Sprintf("%v to %v", from, to), len(dst), len(src), len(dst)%2)
	if len(src) == 0 {
		return -1
	}
	n, bad := convertSIMD(c, &dst[0], &src[0], len(src)/2)
	if bad {
		n = 0
	}
	var buf [256]float32
	for i := 2 * n; i < len(src); i += 2 * len(buf) {
		end := min(len(src), i+2*len(buf))
		f := buf[:(end-i)/2]
		quant.Decode(from, f, src[i:end])
		quant.Encode(to, dst[i:end], f, nil)
	}
	if 2*n < len(src) {
		return firstNonfinite(dst, exponent)
	}
	return -1
}

// Exponent bits of 16-bit floats; all ones mean infinity or NaN.
const (
	halfExponent   = 0x7c00
	bfloatExponent = 0x7f80
)

func firstNonfinite(b []byte, exponent uint16) int {
	for i := 0; i < len(b); i += 2 {
		if binary.LittleEndian.Uint16(b[i:])&exponent == exponent {
			return i / 2
		}
	}
	return -1
}

func checkLengths(what string, dst, src, rest int) {
	if dst != src || rest != 0 {
		panic(fmt.Sprintf("kernels: %s: %d elements into %d", what, src, dst))
	}
}

// conversion names an assembly routine.
type conversion int

const (
	f16ToF32 conversion = iota
	bf16ToF32
	f32ToF16
	f32ToBF16
	bf16ToF16
	f16ToBF16
)

// FirstNonfinite returns the index of the first NaN or infinity in x, or -1.
func FirstNonfinite(x []float32) int {
	const exponent = 0x7f800000
	for i, v := range x {
		if math.Float32bits(v)&exponent == exponent {
			return i
		}
	}
	return -1
}

// MaxAbs16 returns the largest magnitude among the numbers in src, of type F16
// or BF16, 0 for none; NaN counts as infinite.
func MaxAbs16(t quant.Type, src []byte) float32 {
	checkLengths("MaxAbs16", 0, 0, len(src)%2)
	var m uint32
	if n := 2 * (len(src) / 2 &^ 63); n > 0 {
		if v, ok := maxBits16SIMD(src[:n]); ok {
			m, src = v, src[n:]
		}
	}
	for i := 0; i < len(src); i += 2 {
		m = max(m, uint32(binary.LittleEndian.Uint16(src[i:])&0x7fff))
	}
	infinity := uint32(halfExponent)
	if t == quant.BF16 {
		infinity = bfloatExponent
	}
	m = min(m, infinity)
	var v [1]float32
	quant.Decode(t, v[:], []byte{byte(m), byte(m >> 8)})
	return v[0]
}

// AddErrors adds what became of elements x, namely y, to sums: with d = x - y
// those of d*d, x*x and d*x. Each sum has four parts, part j of them elements j,
// j+4, j+8 and so on, in order. It returns the largest |d|.
func AddErrors(sums *[3][4]float64, x, y []float32) float32 {
	checkLengths("AddErrors", len(y), len(x), 0)
	var worst uint32 // magnitudes are in the order of their bits
	i := 0
	if n := len(x) &^ 3; n > 0 {
		if w, ok := addErrorsSIMD(sums, x[:n], y); ok {
			worst, i = w, n
		}
	}
	for ; i < len(x); i++ {
		d := x[i] - y[i]
		worst = max(worst, math.Float32bits(d)&^(1<<31))
		a, e, j := float64(x[i]), float64(d), i%4
		sums[0][j] += float64(e * e)
		sums[1][j] += float64(a * a)
		sums[2][j] += float64(e * a)
	}
	return math.Float32frombits(worst)
}

// MaxAbs returns the largest magnitude in x, 0 for none; NaN counts as
// infinite.
func MaxAbs(x []float32) float32 {
	n := len(x) &^ 31
	var m uint32
	if n > 0 {
		if v, ok := maxAbsSIMD(x[:n]); ok {
			m, x = math.Float32bits(v), x[n:]
		}
	}
	for _, v := range x {
		m = max(m, math.Float32bits(v)&^(1<<31))
	}
	return math.Float32frombits(min(m, 0x7f800000))
}
