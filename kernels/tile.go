package kernels

import (
	"encoding/binary"
	"math"

	"github.com/smeltgguf/smelt/quant"
)

// The micro-kernels and what prepares their operands, in plain Go. Tokens
// stand side by side, one in each lane of a vector, and a weight is broadcast
// to all of them: weights need no rearrangement, only unpacking, and one
// arrangement of the activations serves every matrix.

// gemmF32Go adds to c, (rows, lanes), the product of a and b:
// c[r][l] += sum over k of a[r*rs+k*ks] * b[k][l], b being (depth, lanes).
func gemmF32Go(c, a []float32, rs, ks int, b []float32, depth, rows int) {
	for r := range rows {
		c := c[r*lanes:][:lanes]
		for k := range depth {
			w := a[r*rs+k*ks]
			for l, v := range b[k*lanes:][:lanes] {
				c[l] += w * v
			}
		}
	}
}

// gemmInt8Go adds to c, (rows, lanes), the product of rows of unpacked weights
// (strides strideI and groupsI) and groups of packed activations. The number of
// rows is a multiple of tile.
func gemmInt8Go(f *form, c []float32, u []byte, scale, offset []float32, acts []byte, groups int) {
	zero := int32(f.zero())
	parts := 32 / f.group
	for r := range len(c) / lanes {
		for g := range groups {
			act := acts[g*actGroup:][:actGroup]
			for part := range parts {
				i := r*groupsI + g*parts + part
				for l := range lanes {
					var sum, asum int32
					for k := part * f.group; k < (part+1)*f.group; k++ {
						sum += int32(u[r*strideI+g*32+k]) * int32(int8(act[k/4*4*lanes+4*l+k%4]))
					}
					for j := part * 2 / parts; j < (part+1)*2/parts; j++ {
						asum -= int32(binary.LittleEndian.Uint32(act[actSums+4*(j*lanes+l):]))
					}
					v := scale[i] * float32(sum-zero*asum)
					if f.offset {
						v += offset[i] * float32(asum)
					}
					d := math.Float32frombits(binary.LittleEndian.Uint32(act[actScales+4*l:]))
					c[r*lanes+l] += d * v
				}
			}
		}
	}
}

// transposeIn writes x, n <= lanes rows of cols elements that begin stride
// elements apart, as dst, (cols, lanes); the lanes beyond n become zero.
func transposeIn(dst, x []float32, stride, n, cols int) {
	full := 0
	if n == lanes {
		full = cols / 16 * 16
		for t := 0; t < lanes; t += 16 {
			for k := 0; k < full; k += 16 {
				transpose16(dst[k*lanes+t:], lanes, x[t*stride+k:], stride)
			}
		}
	}
	for k := full; k < cols; k++ {
		d := dst[k*lanes:][:lanes]
		for t := range n {
			d[t] = x[t*stride+k]
		}
		clear(d[n:])
	}
}

// transposeOut writes c, (rows, lanes), as out[t*stride+r] for t < n.
func transposeOut(out []float32, stride int, c []float32, rows, n int) {
	full, cols := rows/16*16, n/16*16
	for t := 0; t < cols; t += 16 {
		for r := 0; r < full; r += 16 {
			transpose16(out[t*stride+r:], stride, c[r*lanes+t:], lanes)
		}
	}
	for t := range n {
		first := 0
		if t < cols {
			first = full
		}
		for r := first; r < rows; r++ {
			out[t*stride+r] = c[r*lanes+t]
		}
	}
}

// transpose16Go computes dst[j*ds+i] = src[i*ss+j] for i, j < 16.
func transpose16Go[T float32 | uint32](dst []T, ds int, src []T, ss int) {
	for i := range 16 {
		for j, v := range src[i*ss:][:16] {
			dst[j*ds+i] = v
		}
	}
}

// quantizeRowGo rounds a row to 8 bits: x[i] ≈ scales[i/32] * int8(values[i] ^
// flip). values has room for whole groups of 32, the missing ones being zero;
// sums[j] is the sum of the rounded values 16*j to 16*j+15.
func quantizeRowGo(values []byte, scales []float32, sums []int32, x []float32, flip byte) {
	var last [32]float32
	for g := 0; g*32 < len(x); g++ {
		in := x[g*32:]
		if len(in) < 32 {
			copy(last[:], in)
			in = last[:]
		}
		q := values[g*32:][:32]
		scales[g] = quantize32(q, in)
		var a, b int32
		for i := range 16 {
			a += int32(int8(q[i]))
			b += int32(int8(q[i+16]))
		}
		for i := range q {
			q[i] ^= flip
		}
		sums[2*g], sums[2*g+1] = a, b
	}
}

// packInt8 rounds the activations of n <= lanes tokens to 8 bits and writes
// the panel that gemmInt8 reads.
func packInt8(dst []byte, x []float32, n, cols int, s *scratch) {
	groups := (cols + 31) / 32
	if packsGroups() && n == lanes && cols%32 == 0 {
		s.dots = grow(s.dots, 32*lanes)
		for g := range groups {
			transposeIn(s.dots, x[g*32:], cols, n, 32)
			packGroup(dst[g*actGroup:][:actGroup], s.dots, s)
		}
		return
	}
	s.bytes = grow(s.bytes, lanes*groups*32)
	s.row16 = grow(s.row16, lanes*groups)
	s.isums = grow(s.isums, lanes*groups*2)
	clear(s.bytes[n*groups*32:])
	clear(s.row16[n*groups:])
	clear(s.isums[n*groups*2:])
	for t := range n {
		quantizeRow(s.bytes[t*groups*32:][:groups*32], s.row16[t*groups:][:groups], s.isums[t*groups*2:][:groups*2], x[t*cols:][:cols], 0)
	}
	for g := range groups {
		d := dst[g*actGroup:][:actGroup]
		interleave(d, s.bytes[g*32:], groups*32)
		for t := range lanes {
			binary.LittleEndian.PutUint32(d[actScales+4*t:], math.Float32bits(s.row16[t*groups+g]))
			binary.LittleEndian.PutUint32(d[actSums+4*t:], uint32(-s.isums[(t*groups+g)*2]))
			binary.LittleEndian.PutUint32(d[actSums+4*(lanes+t):], uint32(-s.isums[(t*groups+g)*2+1]))
		}
	}
}

// packGroup rounds 32 activations of each of the tokens that stand side by side,
// x being (32, lanes), to a group of a panel.
func packGroup(dst []byte, x []float32, s *scratch) {
	if packsGroups() {
		packGroupSIMD(dst, x)
		return
	}
	s.dots = grow(s.dots, lanes*32)
	transposeOut(s.dots, 32, x, 32, lanes)
	packInt8(dst, s.dots, lanes, 32, s)
}

// interleaveGo writes 32 bytes of each of 32 rows as dst, (8, lanes, 4).
func interleaveGo(dst, src []byte, stride int) {
	for t := range lanes {
		for j := range 8 {
			copy(dst[(j*lanes+t)*4:][:4], src[t*stride+4*j:])
		}
	}
}

// dotF32Go returns the sum of x[i]*y[i], len(y) >= len(x), in 16 partial sums
// as the assembly does.
func dotF32Go(x, y []float32) float32 {
	var s [16]float32
	y = y[:len(x)]
	for i, v := range x {
		s[i&15] += v * y[i]
	}
	for n := 8; n > 0; n /= 2 {
		for i := range n {
			s[i] += s[i+n]
		}
	}
	return s[0]
}

// dotRowGo returns the product of one row of a plain float type, read in place,
// with x.
func dotRowGo(t quant.Type, row []byte, x []float32) float32 {
	switch t {
	case quant.F32:
		return dotBytesGo(row, x)
	case quant.F16:
		return dotF16Go(row, x)
	default:
		return dotBF16Go(row, x)
	}
}

func dotBytesGo(row []byte, x []float32) float32 {
	var s [16]float32
	for i, v := range x {
		s[i&15] += math.Float32frombits(binary.LittleEndian.Uint32(row[4*i:])) * v
	}
	return dotF32Go(s[:], ones[:])
}

func dotF16Go(row []byte, x []float32) float32 {
	var s [16]float32
	for i, v := range x {
		s[i&15] += half(row[2*i:]) * v
	}
	return dotF32Go(s[:], ones[:])
}

func dotBF16Go(row []byte, x []float32) float32 {
	var s [16]float32
	for i, v := range x {
		s[i&15] += math.Float32frombits(uint32(binary.LittleEndian.Uint16(row[2*i:]))<<16) * v
	}
	return dotF32Go(s[:], ones[:])
}

var ones = [16]float32{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}

// dotInt8 returns the product of an unpacked row with one token's activations:
// values and scales of quantizeRow, and the sums of activations in groups of
// 16, then in groups of 32.
func dotInt8(f *form, u []byte, scale, offset []float32, values []byte, scales, sums []float32, groups int) float32 {
	if f.group == 32 {
		sums = sums[2*groups:][:groups]
	} else {
		sums = sums[:2*groups]
	}
	dot := dotGroups(f.group, u, scale, values, scales, groups)
	if f.shift != noZero {
		dot -= float32(int32(1)<<f.shift) * dotF32(sums, scale)
	}
	if f.offset {
		dot += dotF32(sums, offset)
	}
	return dot
}

// dotGroupsGo returns the sum over groups of 32 of scales[g] * sum over the
// parts p of it of scale[p] * sum of u*values.
func dotGroupsGo(group int, u []byte, scale []float32, values []byte, scales []float32, groups int) float32 {
	var dot float32
	parts := 32 / group
	for g := range groups {
		for p := range parts {
			var sum int32
			for i := g*32 + p*group; i < g*32+(p+1)*group; i++ {
				sum += int32(u[i]) * int32(int8(values[i]))
			}
			dot += scales[g] * scale[g*parts+p] * float32(sum)
		}
	}
	return dot
}
