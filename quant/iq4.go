package quant

import (
	"encoding/binary"
	"math"
)

// iq4Values are the 16 levels of IQ4_NL and IQ4_XS (ggml-common.h,
// kvalues_iq4nl), closer together near zero, where most weights are.
var iq4Values = [16]float32{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}

// decodeIQ4NL reads blocks of 32: a half-precision scale, then 16 bytes whose
// low nibbles are the levels of the first 16 elements and whose high nibbles
// those of the others.
func decodeIQ4NL(dst []float32, src []byte) {
	for ; len(src) > 0; dst, src = dst[32:], src[18:] {
		decodeIQ4(dst, src[2:18], halfToFloat(src))
	}
}

func decodeIQ4(dst []float32, qs []byte, scale float32) {
	for j := range 16 {
		dst[j] = scale * iq4Values[qs[j]&15]
		dst[j+16] = scale * iq4Values[qs[j]>>4]
	}
}

// decodeIQ4XS reads super-blocks of 256: a half-precision scale, the high 2
// bits of eight 6-bit scales, their low 4 bits, and 8 blocks of 16 bytes.
func decodeIQ4XS(dst []float32, src []byte) {
	for ; len(src) > 0; dst, src = dst[256:], src[136:] {
		d := halfToFloat(src)
		high := binary.LittleEndian.Uint16(src[2:])
		for ib := range 8 {
			scale := int(src[4+ib/2]>>(4*(ib%2))&15) | int(high>>(2*ib)&3)<<4
			decodeIQ4(dst[32*ib:], src[8+16*ib:], d*float32(scale-32))
		}
	}
}

// iq4Index returns the index of the level nearest to v; a value halfway between
// two levels gets the upper one, NaN the last.
func iq4Index(v float32) uint8 {
	if v != v {
		return 15
	}
	// All midpoints are multiples of one half.
	return iq4Nearest[int(math.Floor(float64(2*min(max(v, -127), 127))))+254]
}

// iq4Nearest holds by floor(2v)+254 the index of the level nearest to v.
var iq4Nearest = func() (t [509]uint8) {
	for i := range t {
		v := float32(i-254) / 2
		n := 0
		for n < 15 && v >= (iq4Values[n]+iq4Values[n+1])/2 {
			n++
		}
		t[i] = uint8(n)
	}
	return t
}()

// iq4Scale finds the scale of one block of 32: that with the least weighted
// squared error among 16 trials around the one that maps the largest value to
// the lowest level (ggml-quants.c, quantize_row_iq4_nl_impl). sigma2 is twice
// the mean square of the block or super-block.
func iq4Scale(x, importance []float32, sigma2 float32, ops *IQOps, w *IQ4Trials) float32 {
	var amax, largest float32
	for j, v := range x[:32] {
		if a := abs32(v); a > amax {
			amax, largest = a, v
		}
		w.X[j] = v
		w.Weight[j] = float32(v * v)
		if importance != nil {
			w.Weight[j] = importance[j] * sqrt32(sigma2+float32(v*v))
		}
	}
	if amax < 1e-15 {
		return 0
	}
	w.Inv[0] = 1 / (largest / 127)
	for i := range 15 {
		w.Inv[1+i] = (float32(i-7) - 127) / largest
	}
	ops.IQ4Sums(w)
	var d float32
	if w.SumQ2[0] > 0 {
		d = w.SumQX[0] / w.SumQ2[0]
	}
	best := d * w.SumQX[0]
	for i := 1; i < 16; i++ {
		if sumqx, sumq2 := w.SumQX[i], w.SumQ2[i]; sumq2 > 0 && sumqx*sumqx > best*sumq2 {
			d = sumqx / sumq2
			best = d * sumqx
		}
	}
	return d
}

// IQ4Trials is the working storage of the search for an IQ4 block's scale.
type IQ4Trials struct {
	X      [32]float32 // the block
	Weight [32]float32 // of each element
	Inv    [16]float32 // for each trial, what the block is multiplied with
	SumQX  [16]float32 // results: for each trial, the weighted sum of level times x
	SumQ2  [16]float32 // and of level squared
}

func iq4Sums(w *IQ4Trials) {
	for t, inv := range w.Inv {
		var sumqx, sumq2 float32
		for j, v := range w.X {
			q := iq4Values[iq4Index(inv*v)]
			wq := w.Weight[j] * q
			sumqx += float32(wq * v)
			sumq2 += float32(wq * q)
		}
		w.SumQX[t], w.SumQ2[t] = sumqx, sumq2
	}
}

// iq4Pack stores the levels nearest to inv times the 32 elements of x.
func iq4Pack(dst []byte, x []float32, inv float32) {
	x, dst = x[:32], dst[:16]
	for j := range dst {
		dst[j] = iq4Index(inv*x[j]) | iq4Index(inv*x[j+16])<<4
	}
}

func encodeIQ4NL(dst []byte, row, importance []float32, ops *IQOps) {
	w := new(IQ4Trials)
	for ; len(row) > 0; row, dst = row[32:], dst[18:] {
		var sigma2 float32
		for _, v := range row[:32] {
			sigma2 += float32(v * v)
		}
		d := iq4Scale(row, importance, sigma2*(2.0/32), ops, w)
		putHalf(dst, d)
		ops.IQ4Pack(dst[2:18], row, invert(d))
		if importance != nil {
			importance = importance[32:]
		}
	}
}

func encodeIQ4XS(dst []byte, row, importance []float32, ops *IQOps) {
	w := new(IQ4Trials)
	for ; len(row) > 0; row, dst = row[256:], dst[136:] {
		var sigma2 float32
		for _, v := range row[:256] {
			sigma2 += float32(v * v)
		}
		sigma2 *= 2.0 / 256
		var scales [8]float32
		var maxScale, amaxScale float32
		for ib := range scales {
			var imp []float32
			if importance != nil {
				imp = importance[32*ib:]
			}
			scales[ib] = iq4Scale(row[32*ib:], imp, sigma2, ops, w)
			if a := abs32(scales[ib]); a > amaxScale {
				amaxScale, maxScale = a, scales[ib]
			}
		}
		d := -maxScale / 32
		putHalf(dst, d)
		id := invert(d)
		var high uint16
		clear(dst[4:8])
		for ib, scale := range scales {
			l := min(max(nearestInt(id*scale), -32), 31)
			ops.IQ4Pack(dst[8+16*ib:24+16*ib], row[32*ib:], invert(d*float32(l)))
			dst[4+ib/2] |= uint8((l+32)&15) << (4 * (ib % 2))
			high |= uint16((l+32)>>4) << (2 * ib)
		}
		binary.LittleEndian.PutUint16(dst[2:], high)
		if importance != nil {
			importance = importance[256:]
		}
	}
}
