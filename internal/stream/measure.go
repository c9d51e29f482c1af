package stream

import "math"

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
		e.merge(u)
	}
	return e
}

func (e *Errors) merge(o Errors) {
	e.N += o.N
	e.Max = max(e.Max, o.Max)
	e.Square += o.Square
	e.XX += o.XX
	e.YY += o.YY
	e.XY += o.XY
}

// add adds what became of a run of elements.
func (e *Errors) add(x, y []float32) {
	y = y[:len(x)]
	var worst float32
	var square, xx, yy, xy float64
	for i, a := range x {
		b := y[i]
		d := a - b
		worst = max(worst, d, -d)
		da, db, dd := float64(a), float64(b), float64(d)
		square += dd * dd
		xx += da * da
		yy += db * db
		xy += da * db
	}
	e.merge(Errors{int64(len(x)), float64(worst), square, xx, yy, xy})
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
