package quant

import (
	"encoding/base64"
	"math/bits"
	"sync"
)

// A Grid is the codebook of an IQ type: a set of points of a lattice, each a
// short vector of levels. A code is such a vector with its levels packed into
// an integer, the first in the lowest bits.
type Grid struct {
	Dim  int // levels in a code: 8 or 4
	Bits int // bits of a level: 2 where Dim is 8 (levels 0 to 2), 3 where it is 4

	// Codes holds the points; a point's index here is what the format stores.
	Codes []uint16

	// Lookup tells by code what to do with it: the index of the point, or, for
	// a code that is no point, -1-i where the points near it start at Near[i].
	Lookup []int32

	// Near[i] is the number of points n in a list, then n codes, nearest first
	// and by index among those equally near; then padding, copies of the last
	// one, up to a multiple of 16 and so that lists end inside the slice.
	Near []uint16
}

// Grids are built when first used: their neighbour lists are large.
var (
	gridIQ1    = sync.OnceValue(func() *Grid { return newGrid(iq1Points, 8, 2, 3, 3) })
	gridIQ2XXS = sync.OnceValue(func() *Grid { return newGrid(iq2xxsPoints, 8, 2, 3, 2) })
	gridIQ2XS  = sync.OnceValue(func() *Grid { return newGrid(iq2xsPoints, 8, 2, 3, 2) })
	gridIQ2S   = sync.OnceValue(func() *Grid { return newGrid(iq2sPoints, 8, 2, 3, 1) })
	gridIQ3XXS = sync.OnceValue(func() *Grid { return newGrid(iq3xxsPoints, 4, 3, 8, 2) })
	gridIQ3S   = sync.OnceValue(func() *Grid { return newGrid(iq3sPoints, 4, 3, 8, 3) })
)

// newGrid builds a codebook of vectors of dim levels out of levels possible
// ones. The neighbours of a code are the points at the smallest distances from
// it, as many different distances as shells says (ggml-quants.c,
// iq2xs_init_impl and iq3xs_init_impl).
func newGrid(points string, dim, width, levels, shells int) *Grid {
	set, err := base64.StdEncoding.DecodeString(points)
	if err != nil {
		panic("quant: grid: " + err.Error())
	}
	g := &Grid{Dim: dim, Bits: width, Lookup: make([]int32, 1<<(dim*width))}
	count := 1
	for range dim {
		count *= levels
	}
	codeOf := func(number int) (code uint16) {
		for i := range dim {
			code |= uint16(number%levels) << (width * i)
			number /= levels
		}
		return code
	}
	for number := range count {
		if set[number/8]>>(number%8)&1 != 0 {
			code := codeOf(number)
			g.Lookup[code] = int32(len(g.Codes)) + 1
			g.Codes = append(g.Codes, code)
		}
	}
	for i := range g.Lookup {
		g.Lookup[i]-- // -1: no point
	}

	// Squared distances of half a code from half another one.
	half := dim * width / 2
	mask := uint16(1)<<half - 1
	dist := make([]uint8, 1<<(2*half))
	for a := range 1 << half {
		for b := range 1 << half {
			d := 0
			for i := 0; i < half; i += width {
				diff := a>>i&(1<<width-1) - b>>i&(1<<width-1)
				d += diff * diff
			}
			dist[a<<half|b] = uint8(d)
		}
	}

	var byDist [256][]uint16 // no distance exceeds 4*7*7
	for number := range count {
		code := codeOf(number)
		if g.Lookup[code] >= 0 {
			continue
		}
		for d := range byDist {
			byDist[d] = byDist[d][:0]
		}
		lo, hi := dist[int(code&mask)<<half:][:1<<half], dist[int(code>>half)<<half:][:1<<half]
		for _, p := range g.Codes {
			d := lo[p&mask] + hi[p>>half]
			byDist[d] = append(byDist[d], p)
		}
		start := len(g.Near)
		g.Lookup[code] = int32(-1 - start)
		g.Near = append(g.Near, 0)
		have := 0
		for _, list := range byDist {
			if len(list) > 0 {
				g.Near = append(g.Near, list...)
				if have++; have == shells {
					break
				}
			}
		}
		n := len(g.Near) - start - 1
		g.Near[start] = uint16(n)
		for ; n%16 != 0; n++ {
			g.Near = append(g.Near, g.Near[len(g.Near)-1])
		}
	}
	return g
}

// level returns level i of a code.
func (g *Grid) level(code uint16, i int) int {
	return int(code>>(g.Bits*i)) & (1<<g.Bits - 1)
}

// evenSigns completes seven stored sign bits: the eighth makes the number of
// minus signs even.
func evenSigns(s uint8) uint8 {
	return s&0x7f | uint8(bits.OnesCount8(s&0x7f)&1)<<7
}
