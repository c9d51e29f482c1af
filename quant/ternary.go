package quant

import "encoding/binary"

// The types of one scale per block and very few levels. Importance makes no
// difference to any of them.

// Q1_0, 18 bytes for 128 elements:
//
//	0  scale d, half precision: the mean magnitude
//	2  16 bytes: bit i%8 of byte i/8 is set where element i is not negative
//
// x = d or -d
func decodeQ1_0(dst []float32, src []byte) {
	for ; len(src) > 0; src, dst = src[18:], dst[128:] {
		d := halfToFloat(src)
		for i := range 128 {
			dst[i] = d
			if src[2+i/8]>>(i%8)&1 == 0 {
				dst[i] = -d
			}
		}
	}
}

func encodeQ1_0(dst []byte, row, _ []float32) {
	for ; len(row) > 0; row, dst = row[128:], dst[18:] {
		var sum float32
		clear(dst[:18])
		for i, v := range row[:128] {
			sum += abs32(v)
			if v >= 0 {
				dst[2+i/8] |= 1 << (i % 8)
			}
		}
		putHalf(dst, sum/128)
	}
}

// Q2_0, 18 bytes for 64 elements:
//
//	0  scale d, half precision: the largest magnitude
//	2  16 bytes: levels q of 2 bits, element i at bit 2*(i%4) of byte i/4
//
// x = d * (q - 1); the encoder makes no use of level 3.
func decodeQ2_0(dst []float32, src []byte) {
	for ; len(src) > 0; src, dst = src[18:], dst[64:] {
		d := halfToFloat(src)
		for i := range 64 {
			dst[i] = d * float32(int(src[2+i/4]>>(2*(i%4))&3)-1)
		}
	}
}

func encodeQ2_0(dst []byte, row, _ []float32) {
	var levels [64]uint8
	for ; len(row) > 0; row, dst = row[64:], dst[18:] {
		x := row[:64]
		_, d := extreme(x)
		inv := invert(d)
		for i, v := range x {
			levels[i] = uint8(max(0, min(3, truncInt(roundAway(v*inv))+1)))
		}
		PutTernary(Q2_0, dst[:18], levels[:], d)
	}
}

// PutTernary is the last step of encoding a block of Q2_0, TQ1_0 or TQ2_0: it
// stores levels of 0 to 2 and the scale d.
func PutTernary(t Type, dst []byte, levels []uint8, d float32) {
	switch t {
	case Q2_0:
		putHalf(dst, d)
		for i := range 16 {
			l := binary.LittleEndian.Uint32(levels[4*i:])
			dst[2+i] = byte(l | l>>6 | l>>12 | l>>18)
		}
	case TQ1_0:
		putHalf(dst[52:], d)
		for _, run := range tritRuns {
			for i := range run.bytes {
				q := 0
				for n := range run.trits {
					q = 3*q + int(levels[n*run.bytes+i])
				}
				if run.trits == 4 {
					q *= 3
				}
				dst[run.first+i] = tritBytes[q]
			}
			levels = levels[run.bytes*run.trits:]
		}
	case TQ2_0:
		putHalf(dst[64:], d)
		putPlanes(dst, levels[:128], 0, 2)
		putPlanes(dst[32:], levels[128:], 0, 2)
	}
}

// tritBytes[q] is q/243 in units of 1/256, rounded up.
var tritBytes = func() (table [256]uint8) {
	for q := range table {
		table[q] = uint8((q*256 + 242) / 243)
	}
	return table
}()

// TQ1_0, 54 bytes for 256 elements:
//
//	 0  48 bytes of five trits: 32 bytes for the elements 0 to 159, then 16
//	    bytes for 160 to 239; byte i of n has elements i, i+n, i+2n ...
//	48  4 bytes of four trits, elements 240 to 255
//	52  scale d, half precision: the largest magnitude
//
// The trits t0 t1 ... of a byte are the fraction 0.t0t1t2t3t4 in base 3, in
// units of 1/256 and rounded up, so that multiplying by 3 brings out the first.
//
// x = d * (trit - 1)
func decodeTQ1_0(dst []float32, src []byte) {
	for ; len(src) > 0; src, dst = src[54:], dst[superLen:] {
		d := halfToFloat(src[52:])
		out := dst
		for _, run := range tritRuns {
			for i, b := range src[run.first : run.first+run.bytes] {
				for n := range run.trits {
					out[n*run.bytes+i] = d * float32(int(uint16(b)*3>>8)-1)
					b *= 3
				}
			}
			out = out[run.bytes*run.trits:]
		}
	}
}

// tritRuns are the parts of a TQ1_0 block.
var tritRuns = []struct{ first, bytes, trits int }{{0, 32, 5}, {32, 16, 5}, {48, 4, 4}}

// encodeTQ is the encoder of TQ1_0 and TQ2_0, whose blocks have size bytes.
func encodeTQ(t Type, size int) func(dst []byte, row, importance []float32) {
	return func(dst []byte, row, _ []float32) {
		var levels [superLen]uint8
		for ; len(row) > 0; row, dst = row[superLen:], dst[size:] {
			x := row[:superLen]
			_, d := extreme(x)
			inv := invert(d)
			for i, v := range x {
				// At most 2, or 1 where the inverse overflowed.
				levels[i] = uint8(truncInt(roundAway(v*inv)) + 1)
			}
			PutTernary(t, dst[:size], levels[:], d)
		}
	}
}

// TQ2_0, 66 bytes for 256 elements:
//
//	 0  64 bytes: trits in 2 bits, in planes of 128 elements
//	64  scale d, half precision: the largest magnitude
//
// x = d * (trit - 1)
func decodeTQ2_0(dst []float32, src []byte) {
	for ; len(src) > 0; src, dst = src[66:], dst[superLen:] {
		d := halfToFloat(src[64:])
		for i := range superLen {
			dst[i] = d * float32(int(src[32*(i/128)+i%32]>>(2*(i/32%4))&3)-1)
		}
	}
}
