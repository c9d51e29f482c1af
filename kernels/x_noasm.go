//go:build (!amd64 && !arm64) || purego

package kernels

import "github.com/smeltgguf/smelt/quant"

func gemmF32(c, a []float32, rs, ks int, b []float32, depth, rows int) {
	gemmF32Go(c, a, rs, ks, b, depth, rows)
}

func gemmInt8(f *form, c []float32, u []byte, scale, offset []float32, acts []byte, groups int) {
	gemmInt8Go(f, c, u, scale, offset, acts, groups)
}

func transpose16(dst []float32, ds int, src []float32, ss int) { transpose16Go(dst, ds, src, ss) }

func interleave(dst, src []byte, stride int) { interleaveGo(dst, src, stride) }

func quantizeRow(values []byte, scales []float32, sums []int32, x []float32, flip byte) {
	quantizeRowGo(values, scales, sums, x, flip)
}

func dotF32(x, y []float32) float32 { return dotF32Go(x, y) }

func dotGroups(group int, u []byte, scale []float32, values []byte, scales []float32, groups int) float32 {
	return dotGroupsGo(group, u, scale, values, scales, groups)
}

func expand(f *form, dst []float32, u []byte, scale, offset []float32) {
	expandGo(f, dst, u, scale, offset)
}

func unpackSIMD(quant.Type, []byte, []float32, []float32, []byte, int) bool { return false }

func mulScale(out, x, weight []float32, s float32) { mulScaleGo(out, x, weight, s) }

func sumSquares(x []float32) float64 { return sumSquaresGo(x) }

func expSum(dst, x []float32, top float32) float64 { return expSumGo(dst, x, top) }

func divergence(p, q []float32, topP, topQ float32) (sumP, sumQ, diff float64) {
	return divergenceGo(p, q, topP, topQ)
}

func maximum(x []float32) float32 { return maximumGo(x) }

func siluMul(out, gate, up []float32) { siluMulGo(out, gate, up) }

func gelu(out, x []float32) { geluGo(out, x) }

func softcap(x []float32, limit float32) { softcapGo(x, limit) }

func scaleAdd(dst, x []float32, s float32) { scaleAddGo(dst, x, s) }

func toHalf(dst []uint16, x []float32) { toHalfGo(dst, x) }

func fromHalf(dst []float32, x []uint16) { fromHalfGo(dst, x) }

func softmaxLanes(s []float32, sink, sums *[lanes]float32) { softmaxLanesGo(s, sink, sums) }

func rotate(a, b, cos, sin []float32) { rotateGo(a, b, cos, sin) }

func vectorLen() int { return 0 }

func peakFMA(int) float64 { return 0 }

func peakInt8(int) float64 { return 0 }

func readAll([]byte) {}

func dotForm(*form, []byte, []float32, []float32, []float32) (float32, bool) { return 0, false }

func exactRows(quant.Type, []float32, []byte, []float32) bool { return false }

func rowsForm(quant.Type) (oneForm, bool) { return oneForm{}, false }

func rowsSIMD(t quant.Type, _ []float32, _ []byte, _ *oneToken, _, _ []float32) {
	panic("kernels: no product of rows of " + t.String())
}

func negSums([]int32, []byte, int, int) { panic("kernels: no weights want an offset") }

func dotRows(t quant.Type, out []float32, rows []byte, x []float32) {
	size := t.RowSize(len(x))
	for r := range out {
		out[r] = dotRowGo(t, rows[r*size:][:size], x)
	}
}

func geluErf(out, x []float32) { geluErfGo(out, x) }

func sum(x []float32) float64 { return sumGo(x) }

func affine(out, x []float32, scale, shift float32) { affineGo(out, x, scale, shift) }

func rotatePairs(x, cos, sin []float32) { rotatePairsGo(x, cos, sin) }

func clamp(out, x []float32, low, high float32) { clampGo(out, x, low, high) }
