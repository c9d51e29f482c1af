package eval

import (
	"math"
	"slices"
)

// mean accumulates a sample's mean and the standard error of that mean. Sums
// are taken about the first value, so that a small spread around a large mean
// does not cancel.
type mean struct {
	n      int
	shift  float64
	s1, s2 float64
}

func (m *mean) add(x float64) {
	if m.n == 0 {
		m.shift = x
	}
	d := x - m.shift
	m.n++
	m.s1 += d
	m.s2 += d * d
}

// join adds what another mean has seen.
func (m *mean) join(o *mean) {
	if m.n == 0 {
		*m = *o
		return
	}
	d := o.shift - m.shift
	m.n += o.n
	m.s1 += o.s1 + float64(o.n)*d
	m.s2 += o.s2 + 2*d*o.s1 + float64(o.n)*d*d
}

func (m *mean) value() float64 {
	if m.n == 0 {
		return math.NaN()
	}
	return m.shift + m.s1/float64(m.n)
}

// se is the standard error of the mean, as llama-perplexity defines it:
// sqrt((E[x^2] - E[x]^2) / (n-1)); 0 for fewer than two values.
func (m *mean) se() float64 {
	if m.n < 2 {
		return 0
	}
	n := float64(m.n)
	v := m.s2/n - (m.s1/n)*(m.s1/n)
	return math.Sqrt(math.Max(0, v) / (n - 1))
}

// rms returns the root of the mean square and its standard error: that of the
// mean square, propagated through the root.
func rms(squares *mean) (value, se float64) {
	value = math.Sqrt(squares.value())
	if value == 0 {
		return 0, 0
	}
	return value, 0.5 / value * squares.se()
}

// pair accumulates the covariance of two samples taken at the same places.
type pair struct {
	x, y mean
	sxy  float64
}

func (p *pair) add(x, y float64) {
	p.x.add(x)
	p.y.add(y)
	p.sxy += (x - p.x.shift) * (y - p.y.shift)
}

// cov is the covariance of the two means.
func (p *pair) cov() float64 {
	if p.x.n < 2 {
		return 0
	}
	n := float64(p.x.n)
	return (p.sxy/n - p.x.s1/n*p.y.s1/n) / (n - 1)
}

func (p *pair) correlation() float64 {
	d := p.x.se() * p.y.se()
	if d == 0 {
		return 1
	}
	return p.cov() / d
}

// quantile returns the q-quantile (0..1) of sorted values, interpolated
// linearly between neighbours.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	pos := q * float64(len(sorted)-1)
	i := int(pos)
	frac := pos - float64(i)
	return (1-frac)*sorted[i] + frac*sorted[min(i+1, len(sorted)-1)]
}

func sorted(x []float64) []float64 {
	s := slices.Clone(x)
	slices.Sort(s)
	return s
}

// Wilson returns the score interval of a share p of n trials, z standard errors
// wide on either side (E. B. Wilson, 1927): unlike p +- z*se it is no single
// point where all trials went one way.
func Wilson(p float64, n int, z float64) (lo, hi float64) {
	if n == 0 {
		return 0, 1
	}
	k := z * z / float64(n)
	mid := (p + k/2) / (1 + k)
	d := z / (1 + k) * math.Sqrt(p*(1-p)/float64(n)+k/float64(4*n))
	return max(0, mid-d), min(1, mid+d)
}
