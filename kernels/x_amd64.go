//go:build amd64 && !purego

package kernels

import (
	"unsafe"

	"github.com/smeltgguf/smelt/quant"
)

// Which kernel runs where. Vectors are handled in multiples of their length,
// the rest in plain Go.

// vectorLen is the number of float32 in a vector, 0 without any.
func vectorLen() int {
	switch {
	case hasAVX512:
		return 16
	case hasAVX2:
		return 8
	}
	return 0
}

// whole returns the largest multiple of the vector length within n.
func whole(n int) int {
	if v := vectorLen(); v > 0 {
		return n &^ (v - 1)
	}
	return 0
}

func gemmF32(c, a []float32, rs, ks int, b []float32, depth, rows int) {
	if depth == 0 {
		return
	}
	_, _, _ = c[rows*lanes-1], a[(rows-1)*rs+(depth-1)*ks], b[depth*lanes-1]
	r, k := uintptr(4*rs), uintptr(4*ks)
	switch {
	case hasAVX512 && rows == tile && ks == 1:
		gemmF32x8cAVX512(&c[0], &a[0], r, &b[0], depth)
	case hasAVX512 && rows == tile:
		gemmF32x8AVX512(&c[0], &a[0], r, k, &b[0], depth)
	case hasAVX512 && rows == 1:
		gemmF32x1AVX512(&c[0], &a[0], r, k, &b[0], depth)
	case hasAVX2 && rows == tile:
		for half := 0; half < lanes; half += 16 {
			gemmF32x4AVX2(&c[half], &a[0], r, k, &b[half], depth)
			gemmF32x4AVX2(&c[4*lanes+half], &a[4*rs], r, k, &b[half], depth)
		}
	case hasAVX2 && rows == 1:
		gemmF32x1AVX2(&c[0], &a[0], r, k, &b[0], depth)
		gemmF32x1AVX2(&c[16], &a[0], r, k, &b[16], depth)
	default:
		gemmF32Go(c, a, rs, ks, b, depth, rows)
	}
}

func gemmInt8(f *form, c []float32, u []byte, scale, offset []float32, acts []byte, groups int) {
	if groups == 0 {
		return
	}
	per := groups * 32 / f.group
	rows := len(c) / lanes
	_, _, _ = c[tile*lanes-1], u[(rows-1)*strideI+groups*32-1], acts[groups*actGroup-1]
	_, _ = scale[(rows-1)*groupsI+per-1], offset[(rows-1)*groupsI+per-1]
	switch {
	case hasVNNI:
		kernel := gemmInt8g32VNNI
		switch {
		case f.group == 32 && f.offset:
			kernel = gemmInt8g32oVNNI
		case f.group == 16 && !f.offset:
			kernel = gemmInt8g16VNNI
		case f.group == 16:
			kernel = gemmInt8g16oVNNI
		}
		kernel(&c[0], &u[0], &scale[0], &offset[0], &acts[0], groups, uint64(f.shift), rows/tile)
	case hasAVX2:
		kernel := gemmInt8g32AVX2
		switch {
		case f.group == 32 && f.offset:
			kernel = gemmInt8g32oAVX2
		case f.group == 16 && !f.offset:
			kernel = gemmInt8g16AVX2
		case f.group == 16:
			kernel = gemmInt8g16oAVX2
		}
		for r := 0; r < rows; r += 4 {
			for half := 0; half < lanes; half += 16 {
				kernel(&c[r*lanes+half], &u[r*strideI], &scale[r*groupsI], &offset[r*groupsI], &acts[4*half], groups, uint64(f.zero()))
			}
		}
	default:
		gemmInt8Go(f, c, u, scale, offset, acts, groups)
	}
}

func transpose16(dst []float32, ds int, src []float32, ss int) {
	_, _ = dst[15*ds+15], src[15*ss+15]
	switch {
	case hasAVX512:
		transpose16AVX512((*byte)(unsafe.Pointer(&dst[0])), uintptr(4*ds), (*byte)(unsafe.Pointer(&src[0])), uintptr(4*ss))
	case hasAVX2:
		for i := 0; i < 16; i += 8 {
			for j := 0; j < 16; j += 8 {
				transpose8AVX2((*byte)(unsafe.Pointer(&dst[j*ds+i])), uintptr(4*ds), (*byte)(unsafe.Pointer(&src[i*ss+j])), uintptr(4*ss))
			}
		}
	default:
		transpose16Go(dst, ds, src, ss)
	}
}

func interleave(dst, src []byte, stride int) {
	if !hasAVX2 {
		interleaveGo(dst, src, stride)
		return
	}
	_, _ = dst[32*lanes-1], src[(lanes-1)*stride+31]
	for t := 0; t < lanes; t += 8 {
		transpose8AVX2(&dst[4*t], 4*lanes, &src[t*stride], uintptr(stride))
	}
}

// packsGroups tells whether packGroupSIMD is there.
func packsGroups() bool { return hasAVX512 }

func packGroupSIMD(dst []byte, x []float32) {
	_, _ = dst[actGroup-1], x[32*lanes-1]
	packGroupAVX512(&dst[0], &x[0])
}

func quantizeRow(values []byte, scales []float32, sums []int32, x []float32, flip byte) {
	groups := 0
	if hasAVX2 {
		groups = len(x) / 32
		if groups > 0 {
			_, _, _ = values[groups*32-1], scales[groups-1], sums[2*groups-1]
			quantizeRowAVX2(&values[0], &scales[0], &sums[0], &x[0], groups, uint64(flip))
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
	dot := dotF32AVX2
	if hasAVX512 {
		dot = dotF32AVX512
	}
	s := dot((*byte)(unsafe.Pointer(&x[0])), &y[0], n)
	if n < len(x) {
		s += dotF32Go(x[n:], y[n:])
	}
	return s
}

// dotRows multiplies rows of a plain float type that follow each other, read in
// place, with x.
func dotRows(t quant.Type, out []float32, rows []byte, x []float32) {
	var kernel func(out *float32, outStep, rows int, src *byte, srcStep, skip int, y *float32, n int)
	switch n := whole(len(x)); {
	case n == 0:
	case t == quant.F32 && hasAVX512:
		kernel = dotRowsF32AVX512
	case t == quant.F16 && hasAVX512:
		kernel = dotRowsF16AVX512
	case t == quant.BF16 && hasAVX512:
		kernel = dotRowsBF16AVX512
	case t == quant.F32:
		kernel = dotRowsF32AVX2
	case t == quant.F16:
		kernel = dotRowsF16AVX2
	case t == quant.BF16:
		kernel = dotRowsBF16AVX2
	}
	n := whole(len(x))
	size := t.RowSize(len(x))
	rest := t.RowSize(n) // where what is left to plain Go begins
	_ = rows[:size*len(out)]
	if n > 0 {
		streams(len(out), func(first, step, count int) {
			kernel(&out[first], 4*step, count, &rows[first*size], step*size, size-rest, &x[0], n)
		})
	} else {
		clear(out)
	}
	if n < len(x) {
		for r := range out {
			out[r] += dotRowGo(t, rows[r*size+rest:(r+1)*size], x[n:])
		}
	}
}

// streams calls f for rows, which the kernels read in four runs that are step
// rows apart: with the first row and the number of rows of a run.
func streams(rows int, f func(first, step, count int)) {
	quarter := rows / 4
	if quarter > 0 {
		f(0, quarter, quarter)
	}
	for r := 4 * quarter; r < rows; r++ {
		f(r, 0, 1) // the same row four times
	}
}

func dotGroups(group int, u []byte, scale []float32, values []byte, scales []float32, groups int) float32 {
	if groups == 0 || !hasAVX2 {
		return dotGroupsGo(group, u, scale, values, scales, groups)
	}
	_, _, _, _ = u[groups*32-1], scale[groups*32/group-1], values[groups*32-1], scales[groups-1]
	switch {
	case hasVNNI && group == 32:
		return dotGroups32VNNI(&u[0], &scale[0], &values[0], &scales[0], groups)
	case hasVNNI:
		return dotGroups16VNNI(&u[0], &scale[0], &values[0], &scales[0], groups)
	case group == 32:
		return dotGroups32AVX2(&u[0], &scale[0], &values[0], &scales[0], groups)
	default:
		return dotGroups16AVX2(&u[0], &scale[0], &values[0], &scales[0], groups)
	}
}

func expand(f *form, dst []float32, u []byte, scale, offset []float32) {
	groups := len(dst) / f.group
	if groups == 0 || !hasAVX2 {
		expandGo(f, dst, u, scale, offset)
		return
	}
	_, _ = u[groups*f.group-1], scale[groups-1]
	var off *float32
	if f.offset {
		off = &offset[:groups][0]
	}
	if hasAVX512 {
		expandAVX512(&dst[0], &u[0], &scale[0], off, groups, f.group, uint64(f.zero()))
	} else {
		expandAVX2(&dst[0], &u[0], &scale[0], off, groups, f.group, uint64(f.zero()))
	}
}

// dotForm returns the product of what expand makes of unpacked bytes with x; false
// where there is no assembly for it.
func dotForm(f *form, u []byte, scale, offset, x []float32) (dot float32, ok bool) {
	if !hasAVX2 || len(x) == 0 || len(x)%32 != 0 {
		return 0, false
	}
	groups := len(x) / f.group
	_, _ = u[len(x)-1], scale[groups-1]
	var off *float32
	if f.offset {
		off = &offset[:groups][0]
	}
	kernel := dotFormg32AVX2
	switch wide := hasAVX512; {
	case wide && f.group == 32 && !f.offset:
		kernel = dotFormg32AVX512
	case wide && f.group == 32:
		kernel = dotFormg32oAVX512
	case wide && !f.offset:
		kernel = dotFormg16AVX512
	case wide:
		kernel = dotFormg16oAVX512
	case f.group == 32 && f.offset:
		kernel = dotFormg32oAVX2
	case f.group == 16 && !f.offset:
		kernel = dotFormg16AVX2
	case f.group == 16:
		kernel = dotFormg16oAVX2
	}
	return kernel(&u[0], &scale[0], off, &x[0], len(x), uint64(f.zero())), true
}

func fromHalf(dst []float32, x []uint16) {
	n := whole(len(x))
	switch {
	case n == 0:
	case hasAVX512:
		fromHalfAVX512(&dst[0], &x[0], n)
	default:
		fromHalfAVX2(&dst[0], &x[0], n)
	}
	fromHalfGo(dst[n:], x[n:])
}

func toHalf(dst []uint16, x []float32) {
	n := whole(len(x))
	switch {
	case n == 0:
	case hasAVX512:
		toHalfAVX512(&dst[0], &x[0], n)
	default:
		toHalfAVX2(&dst[0], &x[0], n)
	}
	toHalfGo(dst[n:], x[n:])
}

func sumSquares(x []float32) float64 {
	n := whole(len(x))
	switch {
	case n == 0:
		return sumSquaresGo(x)
	case hasAVX512:
		return sumSquaresAVX512(&x[0], n) + sumSquaresGo(x[n:])
	default:
		return sumSquaresAVX2(&x[0], n) + sumSquaresGo(x[n:])
	}
}

func mulScale(out, x, weight []float32, s float32) {
	n := whole(len(x))
	switch {
	case n == 0:
	case hasAVX512:
		mulScaleAVX512(&out[0], &x[0], &weight[0], n, s)
	default:
		mulScaleAVX2(&out[0], &x[0], &weight[0], n, s)
	}
	mulScaleGo(out[n:], x[n:], weight[n:], s)
}

func scaleAdd(dst, x []float32, s float32) {
	n := whole(len(x))
	switch {
	case n == 0:
	case hasAVX512:
		scaleAddAVX512(&dst[0], &x[0], n, s)
	default:
		scaleAddAVX2(&dst[0], &x[0], n, s)
	}
	scaleAddGo(dst[n:], x[n:], s)
}

func maximum(x []float32) float32 {
	n := whole(len(x))
	top := maximumGo(x[n:])
	switch {
	case n == 0:
	case hasAVX512:
		top = max(top, maximumAVX512(&x[0], n))
	default:
		top = max(top, maximumAVX2(&x[0], n))
	}
	return top
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
	switch {
	case n == 0:
	case hasAVX512:
		sum += expSumAVX512(d, &x[0], n, top)
	default:
		sum += expSumAVX2(d, &x[0], n, top)
	}
	return sum
}

func divergence(p, q []float32, topP, topQ float32) (sumP, sumQ, diff float64) {
	n := whole(len(p))
	sumP, sumQ, diff = divergenceGo(p[n:], q[n:], topP, topQ)
	var a, b, d float64
	switch {
	case n == 0:
	case hasAVX512:
		a, b, d = divergenceAVX512(&p[0], &q[0], n, topP, topQ)
	default:
		a, b, d = divergenceAVX2(&p[0], &q[0], n, topP, topQ)
	}
	return sumP + a, sumQ + b, diff + d
}

func siluMul(out, gate, up []float32) {
	n := whole(len(gate))
	switch {
	case n == 0:
	case hasAVX512:
		siluMulAVX512(&out[0], &gate[0], &up[0], n)
	default:
		siluMulAVX2(&out[0], &gate[0], &up[0], n)
	}
	siluMulGo(out[n:], gate[n:], up[n:])
}

func gelu(out, x []float32) {
	n := whole(len(x))
	switch {
	case n == 0:
	case hasAVX512:
		geluAVX512(&out[0], &x[0], n)
	default:
		geluAVX2(&out[0], &x[0], n)
	}
	geluGo(out[n:], x[n:])
}

func geluErf(out, x []float32) {
	n := whole(len(x))
	switch {
	case n == 0:
	case hasAVX512:
		geluErfAVX512(&out[0], &x[0], n)
	default:
		geluErfAVX2(&out[0], &x[0], n)
	}
	geluErfGo(out[n:], x[n:])
}

func sum(x []float32) float64 {
	n := whole(len(x))
	switch {
	case n == 0:
		return sumGo(x)
	case hasAVX512:
		return sumAVX512(&x[0], n) + sumGo(x[n:])
	default:
		return sumAVX2(&x[0], n) + sumGo(x[n:])
	}
}

func affine(out, x []float32, scale, shift float32) {
	n := whole(len(x))
	switch {
	case n == 0:
	case hasAVX512:
		affineAVX512(&out[0], &x[0], n, scale, shift)
	default:
		affineAVX2(&out[0], &x[0], n, scale, shift)
	}
	affineGo(out[n:], x[n:], scale, shift)
}

func clamp(out, x []float32, low, high float32) {
	n := whole(len(x))
	switch {
	case n == 0:
	case hasAVX512:
		clampAVX512(&out[0], &x[0], n, low, high)
	default:
		clampAVX2(&out[0], &x[0], n, low, high)
	}
	clampGo(out[n:], x[n:], low, high)
}

func softcap(x []float32, limit float32) {
	n := whole(len(x))
	switch {
	case n == 0:
	case hasAVX512:
		softcapAVX512(&x[0], n, limit, 2/limit)
	default:
		softcapAVX2(&x[0], n, limit, 2/limit)
	}
	softcapGo(x[n:], limit)
}

func rotatePairs(x, cos, sin []float32) {
	n := whole(len(x)) / 2
	switch {
	case n == 0:
	case hasAVX512:
		rotatePairsAVX512(&x[0], &cos[0], &sin[0], n)
	default:
		rotatePairsAVX2(&x[0], &cos[0], &sin[0], n)
	}
	rotatePairsGo(x[2*n:], cos[n:], sin[n:])
}

func rotate(a, b, cos, sin []float32) {
	n := whole(len(cos))
	switch {
	case n == 0:
	case hasAVX512:
		rotateAVX512(&a[0], &b[0], &cos[0], &sin[0], n)
	default:
		rotateAVX2(&a[0], &b[0], &cos[0], &sin[0], n)
	}
	rotateGo(a[n:], b[n:], cos[n:], sin[n:])
}

func softmaxLanes(s []float32, sink, sums *[lanes]float32) {
	v := vectorLen()
	if v == 0 || len(s) == 0 {
		softmaxLanesGo(s, sink, sums)
		return
	}
	for l := 0; l < lanes; l += v {
		if hasAVX512 {
			softmaxLanesAVX512(&s[l], len(s)/lanes, &sink[l], &sums[l])
		} else {
			softmaxLanesAVX2(&s[l], len(s)/lanes, &sink[l], &sums[l])
		}
	}
}

// has16 tells whether attention is faster in 16-bit integers.
func has16() bool { return hasVNNI }

func roundRows(dst []byte, tops, x []float32, stride, dim, limit int) {
	rows := len(tops)
	if !hasAVX512 || rows == 0 || dim == 0 {
		roundRowsGo(dst, tops, x, stride, dim, limit)
		return
	}
	_, _ = dst[2*rows*dim-1], x[(rows-1)*stride+dim-1]
	roundRowsAVX512(&dst[0], &tops[0], &x[0], uintptr(4*stride), rows, dim/16, float32(limit))
}

func zip16(dst, a, b []byte) {
	if !hasAVX512 || len(a) < 32 {
		zip16Go(dst, a, b)
		return
	}
	_, _ = dst[2*len(a)-1], b[len(a)-1]
	zip16AVX512(&dst[0], &a[0], &b[0], len(a)/32)
}

// scores16 is scores16Go; soon, which is wanted next, comes into the second-level
// cache meanwhile.
func scores16(c []float32, keys, queries []byte, depth int, scale []float32, lane *[lanes]float32, soon []float32) {
	rows := len(c) / lanes
	if !hasVNNI || rows == 0 {
		scores16Go(c, keys, queries, depth, scale, lane)
		return
	}
	_, _, _ = keys[4*rows*depth-1], queries[4*depth*lanes-1], scale[rows-1]
	scores16VNNI(&c[0], &keys[0], uintptr(4*depth), &queries[0], depth, &scale[0], &lane[0], rows/tile, unsafe.SliceData(soon), len(soon)/16)
}

// sums16 is sums16Go; soon is as for scores16.
func sums16(c []float32, values, weights []byte, depth int, old, factor *[lanes]float32, soon []float32) {
	rows := len(c) / lanes
	if !hasVNNI || rows == 0 {
		sums16Go(c, values, weights, depth, old, factor)
		return
	}
	_, _ = values[4*rows*depth-1], weights[4*depth*lanes-1]
	sums16VNNI(&c[0], &values[0], uintptr(4*rows), &weights[0], depth, &old[0], &factor[0], rows/tile, unsafe.SliceData(soon), len(soon)/16)
}

func softmax16(weights []byte, scores, logs, inverse []float32, s *softmaxState) {
	if !hasAVX512 {
		softmax16Go(weights, scores, logs, inverse, s)
		return
	}
	rows := len(scores) / lanes
	_, _, _ = weights[2*rows*lanes-1], logs[rows-1], inverse[rows-1]
	softmax16AVX512(&weights[0], &scores[0], rows, &logs[0], &inverse[0], &s.top[0])
}

// unpackSIMD is a type's unpacker as assembly, false if there is none.
func unpackSIMD(t quant.Type, u []byte, scale, offset []float32, src []byte, blocks int) bool {
	if !hasAVX2 || blocks == 0 {
		return false
	}
	f := &forms[t]
	n := blocks * t.BlockLen()
	groups := n / 32
	if f.group == 16 {
		groups = n / 16
	}
	_, _, _ = u[n-1], scale[groups-1], src[blocks*t.BlockSize()-1]
	var off *float32
	if f.offset {
		off = &offset[:groups][0]
	}
	var kernel func(u *byte, scale, offset *float32, src *byte, blocks int)
	switch t {
	case quant.Q4_0:
		kernel = unpackQ4_0AVX2
	case quant.Q4_1:
		kernel = unpackQ4_1AVX2
	case quant.Q5_0:
		kernel = unpackQ5_0AVX2
	case quant.Q5_1:
		kernel = unpackQ5_1AVX2
	case quant.Q8_0:
		kernel = unpackQ8_0AVX2
	case quant.Q2_K:
		kernel = unpackQ2KAVX2
	case quant.Q3_K:
		kernel = unpackQ3KAVX2
	case quant.Q4_K:
		kernel = unpackQ4KAVX2
	case quant.Q5_K:
		kernel = unpackQ5KAVX2
	case quant.Q6_K:
		kernel = unpackQ6KAVX2
	case quant.IQ4_NL:
		kernel = unpackIQ4NLAVX2
	case quant.IQ4_XS:
		kernel = unpackIQ4XSAVX2
	case quant.MXFP4:
		kernel = unpackMXFP4AVX2
	case quant.TQ2_0:
		kernel = unpackTQ2AVX2
	case quant.TQ1_0:
		kernel = unpackTQ1AVX2
	case quant.NVFP4:
		kernel = unpackNVFP4AVX2
	case quant.Q1_0:
		kernel = unpackQ1_0AVX2
	case quant.Q2_0:
		kernel = unpackQ2_0AVX2
	default:
		return lookupSIMD(t, u, scale, src, blocks)
	}
	kernel(&u[0], &scale[0], off, &src[0], blocks)
	return true
}

// lookupSIMD unpacks the types with codebooks.
func lookupSIMD(t quant.Type, u []byte, scale []float32, src []byte, blocks int) bool {
	var kernel func(u *byte, scale *float32, table *byte, masks *uint64, src *byte, blocks int)
	masks := &signMask7[0]
	switch t {
	case quant.IQ1_S:
		kernel, masks = unpackIQ1SAVX2, &deltas[0]
	case quant.IQ1_M:
		kernel, masks = unpackIQ1MAVX2, &deltas[0]
	case quant.IQ2_XXS:
		kernel = unpackIQ2XXSAVX2
	case quant.IQ2_XS:
		kernel = unpackIQ2XSAVX2
	case quant.IQ2_S:
		kernel = unpackIQ2SAVX2
	case quant.IQ3_XXS:
		kernel = unpackIQ3XXSAVX2
	case quant.IQ3_S:
		kernel = unpackIQ3SAVX2
	default:
		return false
	}
	kernel(&u[0], &scale[0], codebook(t), masks, &src[0], blocks)
	return true
}

// rowsSIMD multiplies rows whose width is a multiple of 256 with one token's
// activations, straight from the blocks: for types of which rowsForm knows. sums
// is as in Workspace.
func rowsSIMD(t quant.Type, out []float32, src []byte, x *oneToken, scales, sums []float32) {
	var kernel func(out *float32, outStep, rows int, src *byte, srcStep int, values *byte, negOrTable *int32, scales, sums *float32, blocks int)
	switch t {
	case quant.Q4_0:
		kernel = rowsQ4_0VNNI
	case quant.Q4_1:
		kernel = rowsQ4_1VNNI
	case quant.Q5_0:
		kernel = rowsQ5_0VNNI
	case quant.Q5_1:
		kernel = rowsQ5_1VNNI
	case quant.Q8_0:
		kernel = rowsQ8_0VNNI
	case quant.Q2_K:
		kernel = rowsQ2KVNNI
	case quant.Q3_K:
		kernel = rowsQ3KVNNI
	case quant.Q4_K:
		kernel = rowsQ4KVNNI
	case quant.Q5_K:
		kernel = rowsQ5KVNNI
	case quant.Q6_K:
		kernel = rowsQ6KVNNI
	case quant.IQ4_NL:
		kernel = rowsIQ4NLVNNI
	case quant.IQ4_XS:
		kernel = rowsIQ4XSVNNI
	case quant.MXFP4:
		kernel = rowsMXFP4VNNI
	case quant.NVFP4:
		kernel = rowsNVFP4VNNI
	case quant.TQ1_0:
		kernel = rowsTQ1VNNI
	case quant.TQ2_0:
		kernel = rowsTQ2VNNI
	case quant.Q1_0:
		kernel = rowsQ1_0VNNI
	case quant.Q2_0:
		kernel = rowsQ2_0VNNI
	case quant.IQ1_S:
		kernel = rowsIQ1SVNNI
	case quant.IQ1_M:
		kernel = rowsIQ1MVNNI
	case quant.IQ2_XXS:
		kernel = rowsIQ2XXSVNNI
	case quant.IQ2_XS:
		kernel = rowsIQ2XSVNNI
	case quant.IQ2_S:
		kernel = rowsIQ2SVNNI
	case quant.IQ3_XXS:
		kernel = rowsIQ3XXSVNNI
	case quant.IQ3_S:
		kernel = rowsIQ3SVNNI
	default:
		panic("kernels: no product of rows of " + t.String())
	}
	groups := len(scales)
	blocks := groups / 8
	size := blocks * t.RowSize(256)
	if len(out) == 0 || blocks == 0 {
		clear(out)
		return
	}
	_, _, _ = src[size*len(out)-1], x.values[256*blocks-1], sums[3*groups-1]
	if forms[t].group == 32 {
		sums = sums[2*groups:]
	}
	aux := (*int32)(unsafe.Pointer(codebook(t)))
	if x.form.offset > 0 {
		aux = &x.neg[0]
	}
	streams(len(out), func(first, step, count int) {
		kernel(&out[first], 4*step, count, &src[first*size], step*size, &x.values[0], aux, &scales[0], &sums[0], blocks)
	})
}

// exactRows multiplies rows with float32 activations, straight from the blocks,
// whose weights count as the decoders give them. It is false where there is no
// assembly for it.
func exactRows(t quant.Type, out []float32, src []byte, x []float32) bool {
	if !hasAVX512 || len(x) == 0 || len(x)%256 != 0 {
		return false
	}
	var kernel func(out *float32, outStep, rows int, src *byte, srcStep int, x *float32, blocks int)
	switch t {
	case quant.Q4_0:
		kernel = exactQ4_0AVX512
	case quant.Q8_0:
		kernel = exactQ8_0AVX512
	case quant.Q4_K:
		kernel = exactQ4KAVX512
	case quant.Q5_K:
		kernel = exactQ5KAVX512
	case quant.Q6_K:
		kernel = exactQ6KAVX512
	case quant.IQ4_NL:
		kernel = exactIQ4NLAVX512
	case quant.IQ4_XS:
		kernel = exactIQ4XSAVX512
	default:
		return false
	}
	size := t.RowSize(len(x))
	_ = src[:size*len(out)]
	streams(len(out), func(first, step, count int) {
		kernel(&out[first], 4*step, count, &src[first*size], step*size, &x[0], len(x)/256)
	})
	return true
}

// rowsForm tells for which types rowsSIMD is there, and what it wants.
func rowsForm(t quant.Type) (form oneForm, ok bool) {
	if !hasVNNI {
		return oneForm{}, false
	}
	switch t {
	case quant.Q4_1, quant.Q5_1:
		return oneForm{16, 0}, true
	case quant.Q4_0:
		return oneForm{16, 8}, true
	case quant.Q5_0, quant.MXFP4:
		return oneForm{16, 16}, true
	case quant.NVFP4:
		return oneForm{8, 16}, true
	case quant.IQ4_XS, quant.IQ4_NL:
		return oneForm{16, 128}, true
	case quant.Q8_0:
		return oneForm{0, 128}, true
	case quant.Q6_K:
		return oneForm{0, 32}, true
	case quant.Q3_K:
		return oneForm{0, 4}, true
	case quant.Q4_K, quant.Q5_K:
		return oneForm{32, 0}, true
	}
	return oneForm{}, forms[t].unpack != nil
}

// codebook is the table that the assembly for an IQ type looks elements up in,
// nil for types without.
func codebook(t quant.Type) *byte {
	var table8 []uint64
	var table4 []uint32
	switch t {
	case quant.IQ1_S, quant.IQ1_M:
		table8 = tableIQ1()
	case quant.IQ2_XXS:
		table8 = tableIQ2XXS()
	case quant.IQ2_XS:
		table8 = tableIQ2XS()
	case quant.IQ2_S:
		table8 = tableIQ2S()
	case quant.IQ3_XXS:
		table4 = tableIQ3XXS()
	case quant.IQ3_S:
		table4 = tableIQ3S()
	}
	if table4 != nil {
		return (*byte)(unsafe.Pointer(unsafe.SliceData(table4)))
	}
	return (*byte)(unsafe.Pointer(unsafe.SliceData(table8)))
}

// negSums fills neg: see oneToken.
func negSums(neg []int32, values []byte, each, shift int) {
	if len(neg) == 0 {
		return
	}
	_ = values[4*each*len(neg)-1]
	negSumsVNNI(&neg[0], &values[0], each, len(neg)/16, uint64(shift))
}

// The loops behind the measured ceilings return the operations that they did.
// They run in pieces, for assembly cannot be preempted.

func peakFMA(n int) float64 {
	v := vectorLen()
	for i := 0; v > 0 && i < n; i += 1 << 12 {
		if hasAVX512 {
			peakFMAAVX512(1 << 12)
		} else {
			peakFMAAVX2(1 << 12)
		}
	}
	return float64(n) * 48 * 2 * float64(v)
}

func peakInt8(n int) float64 {
	switch {
	case hasVNNI:
		for i := 0; i < n; i += 1 << 12 {
			peakVNNI(1 << 12)
		}
		return float64(n) * 14 * 2 * 64
	case hasAVX2:
		for i := 0; i < n; i += 1 << 12 {
			peakMADD(1 << 12)
		}
		return float64(n) * 4 * 2 * 32
	}
	return 0
}

func readAll(buf []byte) {
	n := len(buf) / 4 &^ 255
	switch {
	case n == 0:
	case hasAVX512:
		readAllAVX512(&buf[0], n, n)
	case hasAVX2:
		readAllAVX2(&buf[0], n, n)
	}
}
