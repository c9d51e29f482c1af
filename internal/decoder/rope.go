package decoder

import (
	"math"

	"github.com/smeltgguf/smelt/internal/arch"
	"github.com/smeltgguf/smelt/kernels"
)

// ropeTable holds the rotations of all positions of a context.
type ropeTable struct {
	dim      int
	half     bool
	cos, sin []float32 // (context, dim/2)
}

// newRopeTable computes the angles in float64: position times
// base^(-2i/dim), scaled as the description says. freqs, where given, divide
// the frequencies one by one (llama3 and longrope scaling).
func newRopeTable(r *arch.Rope, freqs []float32, context int) ropeTable {
	half := r.Dim / 2
	t := ropeTable{dim: r.Dim, half: r.Half, cos: make([]float32, context*half), sin: make([]float32, context*half)}
	scale, factor := r.Scale, r.AttnFactor
	if scale == 0 {
		scale = 1
	}
	if factor == 0 {
		factor = 1
	}
	for i := range half {
		freq := math.Pow(r.Base, -2*float64(i)/float64(r.Dim))
		if freqs != nil {
			freq /= float64(freqs[i])
		}
		if r.Yarn != nil {
			freq = yarn(r.Yarn, freq, i, r.Dim, r.Base)
		} else {
			freq *= scale
		}
		for pos := range context {
			sin, cos := math.Sincos(float64(pos) * freq)
			t.cos[pos*half+i] = float32(cos * factor)
			t.sin[pos*half+i] = float32(sin * factor)
		}
	}
	return t
}

// yarn interpolates the low frequencies, keeps the high ones, and blends those
// between (arXiv:2309.00071, section 3.2).
func yarn(y *arch.Yarn, freq float64, i, dim int, base float64) float64 {
	// The dimension whose wavelength makes n turns in the original context.
	at := func(turns float64) float64 {
		return float64(dim) * math.Log(float64(y.OriginalContext)/(turns*2*math.Pi)) / (2 * math.Log(base))
	}
	low, high := at(y.BetaFast), at(y.BetaSlow)
	if !y.Unrounded {
		low, high = math.Floor(low), math.Ceil(high)
	}
	low, high = math.Max(0, low), math.Min(float64(dim-1), high)
	ramp := (float64(i) - low) / math.Max(0.001, high-low)
	keep := 1 - math.Min(1, math.Max(0, ramp))
	return freq/y.Factor*(1-keep) + freq*keep
}

// apply rotates dim elements of each head of x, those from skip on; x is
// (n, heads, headDim), the first of the n tokens is at position pos.
func (t *ropeTable) apply(x []float32, headDim, heads, skip, pos int) {
	if t.dim == 0 {
		return
	}
	half, row := t.dim/2, heads*headDim
	for i := 0; i*row < len(x); i++ {
		at := (pos + i) * half
		cos, sin := t.cos[at:at+half], t.sin[at:at+half]
		if skip == 0 {
			kernels.Rope(x[i*row:(i+1)*row], headDim, cos, sin, t.half)
			continue
		}
		for h := range heads {
			kernels.Rope(x[i*row+h*headDim+skip:][:t.dim], t.dim, cos, sin, t.half)
		}
	}
}
