// Package quanttest makes the inputs that tests of block types share: rows of
// ordinary and of awkward numbers, the same on every machine.
package quanttest

import "math"

// Rand is the splitmix64 generator.
type Rand uint64

// Uint64 returns 64 random bits.
func (r *Rand) Uint64() uint64 {
	*r += 0x9e3779b97f4a7c15
	z := uint64(*r)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// Intn returns a number in [0, n).
func (r *Rand) Intn(n int) int { return int(r.Uint64() >> 1 % uint64(n)) }

// Uniform returns a number in [0, 1).
func (r *Rand) Uniform() float64 { return float64(r.Uint64()>>40) / (1 << 24) }

// Bell returns a number with mean 0, variance 1/3 and a bell-shaped
// distribution over (-2, 2).
func (r *Rand) Bell() float32 {
	return float32(r.Uniform() + r.Uniform() + r.Uniform() + r.Uniform() - 2)
}

// Class is a kind of row.
type Class struct {
	Name string
	fill func(r *Rand, x []float32)
}

func each(f func(r *Rand) float32) func(*Rand, []float32) {
	return func(r *Rand, x []float32) {
		for i := range x {
			x[i] = f(r)
		}
	}
}

func bell(scale float32) func(*Rand, []float32) {
	return each(func(r *Rand) float32 { return r.Bell() * scale })
}

// perGroup scales groups of 16 by different powers of two.
func perGroup(low, high int) func(*Rand, []float32) {
	return func(r *Rand, x []float32) {
		var scale float32
		for i := range x {
			if i%16 == 0 {
				scale = float32(math.Ldexp(1, low+r.Intn(high-low)))
			}
			x[i] = r.Bell() * scale
		}
	}
}

// Classes are all kinds; none has NaN or infinity.
var Classes = []Class{
	{"bell", bell(0.05)},
	{"half", each(func(r *Rand) float32 { // what half precision holds
		return float32(math.Round(float64(r.Bell())*1024) / 16384)
	})},
	{"outliers", each(func(r *Rand) float32 {
		if r.Intn(64) == 0 {
			return r.Bell() * 8
		}
		return r.Bell() * 0.02
	})},
	{"zero", each(func(*Rand) float32 { return 0 })},
	{"signed zero", each(func(r *Rand) float32 {
		return math.Float32frombits(uint32(r.Intn(2)) << 31)
	})},
	{"constant", func(r *Rand, x []float32) {
		v := r.Bell()
		for i := range x {
			x[i] = v
		}
	}},
	{"constant groups", func(r *Rand, x []float32) {
		var v float32
		for i := range x {
			if i%16 == 0 {
				v = r.Bell()
			}
			x[i] = v
		}
	}},
	{"zero groups", func(r *Rand, x []float32) {
		zero := false
		for i := range x {
			if i%16 == 0 {
				zero = r.Intn(3) == 0
			}
			if x[i] = r.Bell(); zero {
				x[i] = 0
			}
		}
	}},
	{"sparse", each(func(r *Rand) float32 {
		if r.Intn(20) > 0 {
			return 0
		}
		return r.Bell()
	})},
	{"positive", each(func(r *Rand) float32 { return float32(math.Abs(float64(r.Bell()))) })},
	{"negative", each(func(r *Rand) float32 { return -float32(math.Abs(float64(r.Bell()))) })},
	{"offset", each(func(r *Rand) float32 { return r.Bell()*0.125 + 1 })},
	{"ternary", each(func(r *Rand) float32 { return float32(r.Intn(3) - 1) })},
	{"halves", each(func(r *Rand) float32 { return float32(r.Intn(33)-16) / 2 })},
	{"powers of two", each(func(r *Rand) float32 {
		return float32(math.Ldexp(float64(1-2*r.Intn(2)), r.Intn(40)-20))
	})},
	{"huge", bell(1.5e38)},
	{"large", bell(1e18)},
	{"beyond half", bell(1e5)},
	{"tiny", bell(1e-18)},
	{"at epsilon", bell(1e-15)},
	{"tinier", bell(1e-30)},
	{"subnormal", bell(1e-40)},
	{"smallest", each(func(r *Rand) float32 { return math.Float32frombits(uint32(r.Intn(2)<<31 | r.Intn(64))) })},
	{"scaled groups", perGroup(-6, 6)},
	{"very scaled groups", perGroup(-40, 20)},
	{"any finite", each(func(r *Rand) float32 {
		for {
			if bits := uint32(r.Uint64()); bits&0x7f800000 != 0x7f800000 {
				return math.Float32frombits(bits)
			}
		}
	})},
}

// Rows returns count rows of n numbers.
func (c Class) Rows(seed uint64, count, n int) []float32 {
	r := Rand(seed)
	x := make([]float32, count*n)
	for i := range count {
		c.fill(&r, x[i*n:][:n])
	}
	return x
}

// Importance returns n weights like those of an importance matrix: positive,
// of very different size, some 0.
func Importance(seed uint64, n int) []float32 {
	r := Rand(seed)
	w := make([]float32, n)
	for i := range w {
		w[i] = float32(math.Ldexp(r.Uniform(), r.Intn(12)-6))
		if r.Intn(50) == 0 {
			w[i] = 0
		}
	}
	return w
}
