//go:build !purego

package kernels

import (
	"math"
	"unsafe"

	"github.com/smeltgguf/smelt/quant"
)

// Which kernel runs where. Vectors are handled in multiples of their length,
// the rest in plain Go.

// vectorLen is the number of float32 in a vector, 0 without any.
func vectorLen() int {
	if hasNEON {
		return 4
	}
	return 0
}

// whole returns the largest multiple of the vector length within n.
func whole(n int) int {
	if !hasNEON {
		return 0
	}
	return n &^ 3
}

func gemmF32(c, a []float32, rs, ks int, b []float32, depth, rows int) {
	if depth == 0 {
		return
	}
	_, _, _ = c[rows*lanes-1], a[(rows-1)*rs+(depth-1)*ks], b[depth*lanes-1]
	r, k := uintptr(4*rs), uintptr(4*ks)
	switch {
	case hasNEON && rows == tile && ks == 1:
		for l := 0; l < lanes; l += 8 {
			gemmF32x8NEON(&c[l], &a[0], r, &b[l], depth)
		}
	case hasNEON && rows == tile && rs == 1:
		for l := 0; l < lanes; l += 8 {
			gemmF32x8tNEON(&c[l], &a[0], k, &b[l], depth)
		}
	case hasNEON && rows == 1:
		gemmF32x1NEON(&c[0], &a[0], k, &b[0], depth)
	default:
		gemmF32Go(c, a, rs, ks, b, depth, rows)
	}
}

func gemmInt8(f *form, c []float32, u []byte, scale, offset []float32, acts []byte, groups int) {
	if !hasNEON || groups == 0 || f.offset && f.shift != noZero {
		gemmInt8Go(f, c, u, scale, offset, acts, groups)
		return
	}
	per := groups * 32 / f.group
	rows := len(c) / lanes
	_, _, _ = c[tile*lanes-1], u[(rows-1)*strideI+groups*32-1], acts[groups*actGroup-1]
	_, _ = scale[(rows-1)*groupsI+per-1], offset[(rows-1)*groupsI+per-1]
	kernels := &gemmInt8g32
	if f.group == 16 {
		kernels = &gemmInt8g16
	}
	i, width := 0, 4
	switch {
	case f.offset:
		i = 1
	case f.shift == 7:
		i = 2
	}
	if hasDotProd {
		i, width = i+3, 8
	}
	for r := 0; r < rows; r += 4 {
		for l := 0; l < lanes; l += width {
			kernels[i](&c[r*lanes+l], &u[r*strideI], &scale[r*groupsI], &offset[r*groupsI], &acts[4*l], groups, uint64(f.shift))
		}
	}
}

type gemmInt8Kernel = func(c *float32, u *byte, scale, offset *float32, acts *byte, groups int, shift uint64)

// The integer micro-kernels: for types with a zero below 128, with offsets, and
// with zero 128; then the same with dot products.
var (
	gemmInt8g32 = [6]gemmInt8Kernel{gemmInt8g32NEON, gemmInt8g32oNEON, gemmInt8g32fNEON, gemmInt8g32DOT, gemmInt8g32oDOT, gemmInt8g32fDOT}
	gemmInt8g16 = [6]gemmInt8Kernel{gemmInt8g16NEON, gemmInt8g16oNEON, gemmInt8g16fNEON, gemmInt8g16DOT, gemmInt8g16oDOT, gemmInt8g16fDOT}
)

func transpose16(dst []float32, ds int, src []float32, ss int) {
	if !hasNEON {
		transpose16Go(dst, ds, src, ss)
		return
	}
	_, _ = dst[15*ds+15], src[15*ss+15]
	for i := 0; i < 16; i += 4 {
		transpose4NEON((*byte)(unsafe.Pointer(&dst[i])), uintptr(4*ds), (*byte)(unsafe.Pointer(&src[i*ss])), uintptr(4*ss), 4)
	}
}

func interleave(dst, src []byte, stride int) {
	if !hasNEON {
		interleaveGo(dst, src, stride)
		return
	}
	_, _ = dst[32*lanes-1], src[(lanes-1)*stride+31]
	for t := 0; t < lanes; t += 4 {
		transpose4NEON(&dst[4*t], 4*lanes, &src[t*stride], uintptr(stride), 2)
	}
}

func quantizeRow(values []byte, scales []float32, sums []int32, x []float32, flip byte) {
	groups := 0
	if hasNEON {
		groups = len(x) / 32
		if groups > 0 {
			_, _, _ = values[groups*32-1], scales[groups-1], sums[2*groups-1]
			quantizeRowNEON(&values[0], &scales[0], &sums[0], &x[0], groups, uint64(flip))
		}
	}
	quantizeRowGo(values[groups*32:], scales[groups:], sums[2*groups:], x[groups*32:], flip)
}

func dotF32(x, y []float32) float32 {
	n := whole(len(x))
	if n == 0 {
		return dotF32Go(x, y)
	}
	_ = y[len(x)-1]
	s := dotF32NEON((*byte)(unsafe.Pointer(&x[0])), &y[0], n)
	if n < len(x) {
		s += dotF32Go(x[n:], y[n:])
	}
	return s
}

// dotRows multiplies rows of a plain float type that follow each other, read in
// place, with x.
func dotRows(t quant.Type, out []float32, rows []byte, x []float32) {
	dot := dotF32NEON
	switch t {
	case quant.F16:
		dot = dotF16NEON
	case quant.BF16:
		dot = dotBF16NEON
	}
	n := whole(len(x))
	size := t.RowSize(len(x))
	rest := t.RowSize(n) // where what is left to plain Go begins
	_ = rows[:size*len(out)]
	for r := range out {
		row := rows[r*size:][:size]
		out[r] = 0
		if n > 0 {
			out[r] = dot(&row[0], &x[0], n)
		}
		if n < len(x) {
			out[r] += dotRowGo(t, row[rest:], x[n:])
		}
	}
}

func dotGroups(group int, u []byte, scale []float32, values []byte, scales []float32, groups int) float32 {
	if groups == 0 || !hasNEON {
		return dotGroupsGo(group, u, scale, values, scales, groups)
	}
	_, _, _, _ = u[groups*32-1], scale[groups*32/group-1], values[groups*32-1], scales[groups-1]
	switch {
	case hasDotProd && group == 32:
		return dotGroups32DOT(&u[0], &scale[0], &values[0], &scales[0], groups)
	case hasDotProd:
		return dotGroups16DOT(&u[0], &scale[0], &values[0], &scales[0], groups)
	case group == 32:
		return dotGroups32NEON(&u[0], &scale[0], &values[0], &scales[0], groups)
	default:
		return dotGroups16NEON(&u[0], &scale[0], &values[0], &scales[0], groups)
	}
}

func expand(f *form, dst []float32, u []byte, scale, offset []float32) {
	groups := len(dst) / f.group
	if groups == 0 || !hasNEON {
		expandGo(f, dst, u, scale, offset)
		return
	}
	_, _ = u[groups*f.group-1], scale[groups-1]
	var off *float32
	if f.offset {
		off = &offset[:groups][0]
	}
	expandNEON(&dst[0], &u[0], &scale[0], off, groups, f.group, uint64(f.zero()))
}

// unpackSIMD is a type's unpacker with assembly for the bytes, false if there
// is none.
func unpackSIMD(t quant.Type, u []byte, scale, offset []float32, src []byte, blocks int) bool {
	size := t.BlockSize()
	if !hasNEON || blocks == 0 {
		return false
	}
	var kernel func(u, src *byte, blocks int)
	var withTable func(u, src *byte, blocks int, table *[16]byte)
	table := &levelsIQ4
	switch t {
	case quant.Q4_0:
		kernel = unpackQ4_0NEON
	case quant.Q4_1:
		kernel = unpackQ4_1NEON
	case quant.Q5_0:
		kernel = unpackQ5_0NEON
	case quant.Q5_1:
		kernel = unpackQ5_1NEON
	case quant.Q8_0:
		kernel = unpackQ8_0NEON
	case quant.Q2_K:
		kernel = unpackQ2KNEON
	case quant.Q3_K:
		kernel = unpackQ3KNEON
	case quant.Q4_K:
		kernel = unpackQ4KNEON
	case quant.Q5_K:
		kernel = unpackQ5KNEON
	case quant.Q6_K:
		kernel = unpackQ6KNEON
	case quant.TQ2_0:
		kernel = unpackTQ2NEON
	case quant.TQ1_0:
		kernel = unpackTQ1NEON
	case quant.Q1_0:
		kernel = unpackQ1_0NEON
	case quant.Q2_0:
		kernel = unpackQ2_0NEON
	case quant.IQ4_NL:
		withTable = unpackIQ4NLNEON
	case quant.IQ4_XS:
		withTable = unpackIQ4XSNEON
	case quant.MXFP4:
		withTable, table = unpackMXFP4NEON, &levelsFP4
	case quant.NVFP4:
		withTable, table = unpackNVFP4NEON, &levelsFP4
	default:
		return false
	}
	_, _ = u[blocks*t.BlockLen()-1], src[blocks*size-1]
	if kernel != nil {
		kernel(&u[0], &src[0], blocks)
	} else {
		withTable(&u[0], &src[0], blocks, table)
	}
	for b := range blocks {
		src := src[b*size:][:size]
		switch t {
		case quant.Q4_0, quant.Q5_0, quant.Q8_0, quant.IQ4_NL:
			scale[b] = half(src)
		case quant.Q4_1, quant.Q5_1:
			scale[b], offset[b] = half(src), half(src[2:])
		case quant.Q2_K:
			scalesQ2K(scale[16*b:], offset[16*b:], src)
		case quant.Q3_K:
			scalesQ3K(scale[16*b:], src)
		case quant.Q4_K, quant.Q5_K:
			scalesK(scale[8*b:], offset[8*b:], src)
		case quant.Q6_K:
			scalesQ6K(scale[16*b:], src)
		case quant.TQ2_0:
			fill(scale[8*b:][:8], half(src[64:]))
		case quant.TQ1_0:
			fill(scale[8*b:][:8], half(src[52:]))
		case quant.Q1_0:
			fill(scale[4*b:][:4], half(src))
		case quant.Q2_0:
			fill(scale[2*b:][:2], half(src))
		case quant.IQ4_XS:
			scalesIQ4XS(scale[8*b:], src)
		case quant.MXFP4:
			scale[b] = halfE8M0(src[0])
		case quant.NVFP4:
			for g := range 4 {
				scale[4*b+g] = halfUE4M3(src[g])
			}
		}
	}
	return true
}

func mulScale(out, x, weight []float32, s float32) {
	n := whole(len(x))
	if n > 0 {
		mulScaleNEON(&out[0], &x[0], &weight[0], n, s)
	}
	mulScaleGo(out[n:], x[n:], weight[n:], s)
}

func sumSquares(x []float32) float64 {
	n := whole(len(x))
	if n == 0 {
		return sumSquaresGo(x)
	}
	return sumSquaresNEON(&x[0], n) + sumSquaresGo(x[n:])
}

func expSum(dst, x []float32, top float32) float64 {
	n := whole(len(x))
	var d *float32
	rest := dst
	if dst != nil {
		rest = dst[n:]
		if n > 0 {
			d = &dst[0]
		}
	}
	sum := expSumGo(rest, x[n:], top)
	if n > 0 {
		sum += expSumNEON(d, &x[0], n, top)
	}
	return sum
}

func divergence(p, q []float32, topP, topQ float32) (sumP, sumQ, diff float64) {
	n := whole(len(p))
	sumP, sumQ, diff = divergenceGo(p[n:], q[n:], topP, topQ)
	if n > 0 {
		var sums [3]float64
		divergenceNEON(&p[0], &q[0], n, topP, topQ, &sums)
		sumP, sumQ, diff = sumP+sums[0], sumQ+sums[1], diff+sums[2]
	}
	return sumP, sumQ, diff
}

func maximum(x []float32) float32 {
	n := whole(len(x))
	top := maximumGo(x[n:])
	if n > 0 {
		top = max(top, maximumNEON(&x[0], n))
	}
	return top
}

func siluMul(out, gate, up []float32) {
	n := whole(len(gate))
	if n > 0 {
		siluMulNEON(&out[0], &gate[0], &up[0], n)
	}
	siluMulGo(out[n:], gate[n:], up[n:])
}

func gelu(out, x []float32) {
	n := whole(len(x))
	if n > 0 {
		geluNEON(&out[0], &x[0], n)
	}
	geluGo(out[n:], x[n:])
}

func softcap(x []float32, limit float32) {
	n := whole(len(x))
	if n > 0 {
		softcapNEON(&x[0], n, limit, 2/limit)
	}
	softcapGo(x[n:], limit)
}

func scaleAdd(dst, x []float32, s float32) {
	n := whole(len(x))
	if n > 0 {
		scaleAddNEON(&dst[0], &x[0], n, s)
	}
	scaleAddGo(dst[n:], x[n:], s)
}

func toHalf(dst []uint16, x []float32) {
	n := whole(len(x)) &^ 15
	if n > 0 {
		f32ToF16NEON((*byte)(unsafe.Pointer(&dst[0])), (*byte)(unsafe.Pointer(&x[0])), n)
	}
	toHalfGo(dst[n:], x[n:])
}

func fromHalf(dst []float32, x []uint16) {
	n := whole(len(x)) &^ 15
	if n > 0 {
		f16ToF32NEON((*byte)(unsafe.Pointer(&dst[0])), (*byte)(unsafe.Pointer(&x[0])), n)
	}
	fromHalfGo(dst[n:], x[n:])
}

// convertSIMD converts as many of the n elements as come in whole registers
// and returns their number. bad tells that some of them are not finite.
func convertSIMD(c conversion, dst, src *byte, n int) (done int, bad bool) {
	n &^= 15
	if !hasNEON || n == 0 {
		return 0, false
	}
	switch c {
	case f16ToF32:
		f16ToF32NEON(dst, src, n)
	case bf16ToF32:
		bf16ToF32NEON(dst, src, n)
	case f32ToF16:
		bad = f32ToF16NEON(dst, src, n)
	case f32ToBF16:
		bad = f32ToBF16NEON(dst, src, n)
	case bf16ToF16:
		bad = bf16ToF16NEON(dst, src, n)
	case f16ToBF16:
		bad = f16ToBF16NEON(dst, src, n)
	}
	return n, bad
}

func encodeSIMD(quant.Type, []byte, []float32, []float32) bool { return false }

func maxBits16SIMD([]byte) (uint32, bool) { return 0, false }

func addErrorsSIMD(*[3][4]float64, []float32, []float32) (uint32, bool) { return 0, false }

// maxAbsSIMD takes a multiple of 32 elements.
func maxAbsSIMD(x []float32) (float32, bool) {
	if !hasNEON {
		return 0, false
	}
	return math.Float32frombits(uint32(maxAbsNEON(&x[0], len(x)))), true
}

func softmaxLanes(s []float32, sink, sums *[lanes]float32) {
	if !hasNEON || len(s) == 0 {
		softmaxLanesGo(s, sink, sums)
		return
	}
	for l := 0; l < lanes; l += 16 {
		softmaxLanesNEON(&s[l], len(s)/lanes, &sink[l], &sums[l])
	}
}

func rotate(a, b, cos, sin []float32) {
	n := whole(len(cos))
	if n > 0 {
		rotateNEON(&a[0], &b[0], &cos[0], &sin[0], n)
	}
	rotateGo(a[n:], b[n:], cos[n:], sin[n:])
}

// The loops behind the measured ceilings return the operations that they did.
// They run in pieces, for assembly cannot be preempted.

func peakFMA(n int) float64 {
	if !hasNEON {
		return 0
	}
	for i := 0; i < n; i += 1 << 12 {
		peakFMANEON(1 << 12)
	}
	return float64(n) * 24 * 2 * 4
}

func peakInt8(n int) float64 {
	if !hasDotProd {
		return 0
	}
	for i := 0; i < n; i += 1 << 12 {
		peakDOT(1 << 12)
	}
	return float64(n) * 24 * 2 * 16
}

func readAll(buf []byte) {
	if n := len(buf) &^ 255; hasNEON && n > 0 {
		readAllNEON(&buf[0], n)
	}
}

func dotForm(*form, []byte, []float32, []float32, []float32) (float32, bool) { return 0, false }

func exactRows(quant.Type, []float32, []byte, []float32) bool { return false }

// rowsForm tells for which types rowsSIMD is there; all take the values as they
// come, and signed weights.
func rowsForm(t quant.Type) (form oneForm, ok bool) {
	switch t {
	case quant.Q4_0, quant.Q8_0, quant.Q4_K, quant.Q5_K, quant.Q6_K, quant.IQ4_XS:
		return oneForm{}, hasDotProd
	}
	return oneForm{}, false
}

func negSums([]int32, []byte, int, int) { panic("kernels: no weights want an offset") }

// rowsSIMD multiplies rows whose width is a multiple of 256 with one token's
// activations, straight from the blocks: for types of which rowsForm knows. sums
// is as in Workspace.
func rowsSIMD(t quant.Type, out []float32, src []byte, x *oneToken, scales, sums []float32) {
	var kernel func(out *float32, rows int, src, values *byte, scales, sums *float32, blocks int, table *[16]byte)
	switch t {
	case quant.Q4_0:
		kernel = rowsQ4_0DOT
	case quant.Q8_0:
		kernel = rowsQ8_0DOT
	case quant.Q4_K:
		kernel = rowsQ4KDOT
	case quant.Q5_K:
		kernel = rowsQ5KDOT
	case quant.Q6_K:
		kernel = rowsQ6KDOT
	case quant.IQ4_XS:
		kernel = rowsIQ4XSDOT
	default:
		panic("kernels: no product of rows of " + t.String())
	}
	blocks := len(scales) / 8
	if len(out) == 0 || blocks == 0 {
		clear(out)
		return
	}
	sums = sums[2*len(scales):][:len(scales)]
	_, _ = src[len(out)*blocks*t.RowSize(256)-1], x.values[256*blocks-1]
	kernel(&out[0], len(out), &src[0], &x.values[0], &scales[0], &sums[0], blocks, &levelsIQ4)
}

func geluErf(out, x []float32) {
	n := whole(len(x))
	if n > 0 {
		geluErfNEON(&out[0], &x[0], n)
	}
	geluErfGo(out[n:], x[n:])
}

func sum(x []float32) float64 {
	n := whole(len(x))
	if n == 0 {
		return sumGo(x)
	}
	return sumNEON(&x[0], n) + sumGo(x[n:])
}

func affine(out, x []float32, scale, shift float32) {
	n := whole(len(x))
	if n > 0 {
		affineNEON(&out[0], &x[0], n, scale, shift)
	}
	affineGo(out[n:], x[n:], scale, shift)
}

func clamp(out, x []float32, low, high float32) {
	n := whole(len(x))
	if n > 0 {
		clampNEON(&out[0], &x[0], n, low, high)
	}
	clampGo(out[n:], x[n:], low, high)
}

func rotatePairs(x, cos, sin []float32) {
	n := whole(len(cos))
	if n > 0 {
		rotatePairsNEON(&x[0], &cos[0], &sin[0], n)
	}
	rotatePairsGo(x[2*n:], cos[n:], sin[n:])
}
