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

// Add adds what became of a run of elements. With d = x - y it sums d*d, x*x
// and x*d, each in four lanes; the other sums follow from these.
func (e *Errors) Add(x, y []float32) {
	y = y[:len(x)]
	var worst uint32 // magnitudes compare like their bits
	var dd, xx, xd [4]float64
	i := 0
	for ; i+4 <= len(x); i += 4 {
		a, b := x[i:i+4:i+4], y[i:i+4:i+4]
		d0, d1, d2, d3 := a[0]-b[0], a[1]-b[1], a[2]-b[2], a[3]-b[3]
		worst = max(worst, magnitude(d0), magnitude(d1), magnitude(d2), magnitude(d3))
		x0, x1, x2, x3 := float64(a[0]), float64(a[1]), float64(a[2]), float64(a[3])
		e0, e1, e2, e3 := float64(d0), float64(d1), float64(d2), float64(d3)
		dd[0], dd[1], dd[2], dd[3] = dd[0]+e0*e0, dd[1]+e1*e1, dd[2]+e2*e2, dd[3]+e3*e3
		xx[0], xx[1], xx[2], xx[3] = xx[0]+x0*x0, xx[1]+x1*x1, xx[2]+x2*x2, xx[3]+x3*x3
		xd[0], xd[1], xd[2], xd[3] = xd[0]+x0*e0, xd[1]+x1*e1, xd[2]+x2*e2, xd[3]+x3*e3
	}
	for ; i < len(x); i++ {
		d := x[i] - y[i]
		worst = max(worst, magnitude(d))
		dd[0] += float64(d) * float64(d)
		xx[0] += float64(x[i]) * float64(x[i])
		xd[0] += float64(x[i]) * float64(d)
	}
	o := Errors{
		N:      int64(len(x)),
		Max:    float64(math.Float32frombits(worst)),
		Square: dd[0] + dd[1] + (dd[2] + dd[3]),
		XX:     xx[0] + xx[1] + (xx[2] + xx[3]),
	}
	o.XY = o.XX - (xd[0] + xd[1] + (xd[2] + xd[3]))
	o.YY = o.Square - o.XX + 2*o.XY
	e.Merge(o)
}

func magnitude(v float32) uint32 { return math.Float32bits(v) &^ (1 << 31) }

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
