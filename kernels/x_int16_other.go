//go:build !amd64 || purego

package kernels

// has16 tells whether attention is faster in 16-bit integers. NEON multiplies
// as many of them at a time as of float32.
func has16() bool { return false }

func roundRows(dst []byte, tops, x []float32, stride, dim, limit int) {
	roundRowsGo(dst, tops, x, stride, dim, limit)
}

func zip16(dst, a, b []byte) { zip16Go(dst, a, b) }

func scores16(c []float32, keys, queries []byte, depth int, scale []float32, lane *[lanes]float32, _ []float32) {
	scores16Go(c, keys, queries, depth, scale, lane)
}

func sums16(c []float32, values, weights []byte, depth int, old, factor *[lanes]float32, _ []float32) {
	sums16Go(c, values, weights, depth, old, factor)
}

func softmax16(weights []byte, scores, logs, inverse []float32, s *softmaxState) {
	softmax16Go(weights, scores, logs, inverse, s)
}

// packsGroups tells whether packGroupSIMD is there.
func packsGroups() bool { return false }

func packGroupSIMD([]byte, []float32) {}
