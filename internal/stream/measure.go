package stream

import (
	"math"

	"github.com/smeltgguf/smelt/kernels"
)

// Measure collects how far the encoded values of a target are from those that
// they were made from. Totals do not depend on the number of threads.
type Measure struct {
	// Sample measures a part of each work unit only, for a figure that costs
	// next to nothing.
	Sample bool

	units []Errors // of each unit
}

// Errors are sums over elements x that became y.
type Errors struct {
	N      int64   // elements
	Max    float64 // largest |x-y|
	Square float64 // sum of (x-y)^2
	XX     float64 // sum of x^2
	YY     float64 // sum of y^2
	XY     float64 // sum of x*y
}

// Total returns the sums over all that has been written.
func (m *Measure) Total() Errors {
	var e Errors
	for _, u := range m.units {
		e.Merge(u)
	}
	return e
}

// Merge adds the sums over other elements.
func (e *Errors) Merge(o Errors) {
	e.N += o.N
	e.Max = max(e.Max, o.Max)
	e.Square += o.Square
	e.XX += o.XX
	e.YY += o.YY
	e.XY += o.XY
}

// Add adds what became of a run of elements.
func (e *Errors) Add(x, y []float32) {
	var sums [3][4]float64
	worst := kernels.AddErrors(&sums, x, y)
	total := func(s [4]float64) float64 { return s[0] + s[1] + (s[2] + s[3]) }
	dd, xx, dx := total(sums[0]), total(sums[1]), total(sums[2])
	o := Errors{N: int64(len(x)), Max: float64(worst), Square: dd, XX: xx}
	o.XY = xx - dx // y is x - d
	o.YY = dd - xx + 2*o.XY
	e.Merge(o)
}

// RMSE returns the root of the mean squared error.
func (e *Errors) RMSE() float64 {
	if e.N == 0 {
		return 0
	}
	return math.Sqrt(e.Square / float64(e.N))
}

// Relative returns the RMSE over the root mean square of the original values,
// 0 where both are 0.
func (e *Errors) Relative() float64 {
	if e.Square == 0 {
		return 0
	}
	return math.Sqrt(e.Square / e.XX)
}

// Cosine returns the cosine of the angle between original and encoded values
// as vectors, 1 where both are 0.
func (e *Errors) Cosine() float64 {
	if e.XX == 0 && e.YY == 0 {
		return 1
	}
	if e.XX == 0 || e.YY == 0 {
		return 0
	}
	return min(1, e.XY/math.Sqrt(e.XX*e.YY))
}

// SNR returns the signal-to-noise ratio in decibels, +Inf without noise.
func (e *Errors) SNR() float64 {
	if e.Square == 0 {
		return math.Inf(1)
	}
	return 10 * math.Log10(e.XX/e.Square)
}
