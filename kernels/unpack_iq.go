package kernels

import (
	"encoding/binary"
	"math"
	"math/bits"
	"sync"

	"github.com/smeltgguf/smelt/quant"
)

// The IQ types store indices into a codebook and signs. Eight elements at a
// time are taken from a table as the bytes of a word. The tables are read off
// quant's decoders: blocks that count through the indices, with a scale of 1.

const eachByte = 0x0101010101010101

var (
	tableIQ2XXS = sync.OnceValue(func() []uint64 {
		return table8(quant.IQ2_XXS, 8, 0x4800, func(b []byte, at, i int) { b[2+at/4*8+at%4] = byte(i) })
	})
	tableIQ2XS = sync.OnceValue(func() []uint64 {
		return table8(quant.IQ2_XS, 9, 0x4800, func(b []byte, at, i int) { binary.LittleEndian.PutUint16(b[2+2*at:], uint16(i)) })
	})
	tableIQ2S = sync.OnceValue(func() []uint64 {
		return table8(quant.IQ2_S, 10, 0x4800, func(b []byte, at, i int) {
			b[2+at] = byte(i)
			b[66+at/4] |= byte(i>>8) << (at % 4 * 2)
		})
	})
	tableIQ3XXS = sync.OnceValue(func() []uint32 {
		return table4(quant.IQ3_XXS, 8, 0x4400, func(b []byte, at, i int) { b[2+at] = byte(i) })
	})
	tableIQ3S = sync.OnceValue(func() []uint32 {
		return table4(quant.IQ3_S, 9, 0x3c00, func(b []byte, at, i int) {
			b[2+at] = byte(i)
			b[66+at/8] |= byte(i>>8) << (at % 8)
		})
	})
	// tableIQ1 holds 16 + 8*level: its formats add or take away an eighth of a
	// level from each.
	tableIQ1 = sync.OnceValue(func() []uint64 {
		t := table8(quant.IQ1_S, 11, 0x3c00, func(b []byte, at, i int) {
			b[2+at] = byte(i)
			h := b[34+at/4*2:]
			binary.LittleEndian.PutUint16(h, binary.LittleEndian.Uint16(h)|uint16(i>>8)<<(3*(at%4)))
		})
		for i, w := range t { // bytes 8*level+1 as two's complement
			t[i] = w ^ 0x80*eachByte - 0x71*eachByte
		}
		return t
	})
)

// decoded returns what blocks of type t decode to that hold the indices 0 to
// 1<<bits-1, per of them in a block, put there by set; half is the scale.
func decoded(t quant.Type, bits, per int, half uint16, set func(block []byte, at, index int)) []float32 {
	count := 1 << bits
	blocks := make([]byte, count/per*t.BlockSize())
	for i := range count {
		block := blocks[i/per*t.BlockSize():][:t.BlockSize()]
		binary.LittleEndian.PutUint16(block, half)
		set(block, i%per, i)
	}
	values := make([]float32, count*256/per)
	quant.Decode(t, values, blocks)
	return values
}

func table8(t quant.Type, bits int, half uint16, set func(block []byte, at, index int)) []uint64 {
	values := decoded(t, bits, 32, half, set)
	scale := float32(1)
	if t == quant.IQ1_S {
		scale = 8
	}
	words := make([]uint64, len(values)/8)
	for i, v := range values {
		words[i/8] |= uint64(uint8(int8(math.Round(float64(v*scale))))) << (i % 8 * 8)
	}
	return words
}

func table4(t quant.Type, bits int, half uint16, set func(block []byte, at, index int)) []uint32 {
	values := decoded(t, bits, 64, half, set)
	words := make([]uint32, len(values)/4)
	for i, v := range values {
		words[i/4] |= uint32(v) << (i % 4 * 8)
	}
	return words
}

// signMask holds for 8 sign bits a byte of ones for each that is set.
var signMask = func() (t [256]uint64) {
	for i := range t {
		for j := range 8 {
			if i>>j&1 != 0 {
				t[i] |= 0xff << (8 * j)
			}
		}
	}
	return t
}()

// signMask7 completes seven stored sign bits: the number of minus signs is even.
var signMask7 = func() (t [128]uint64) {
	for i := range t {
		t[i] = signMask[i|bits.OnesCount8(uint8(i))&1<<7]
	}
	return t
}()

// putSigned writes 128 + the bytes of w, those negated where mask has ones. The
// bytes of w are positive, so nothing carries from one to the next.
func putSigned(u []byte, w, mask uint64) {
	binary.LittleEndian.PutUint64(u, (w^mask+mask&eachByte)^0x80*eachByte)
}

// The scales of one block.

func scalesIQ2XXS(scale []float32, src []byte) {
	d := half(src)
	for g := range scale[:8] {
		scale[g] = d * (0.5 + float32(src[2+8*g+7]>>4)) * 0.25
	}
}

// scalesIQ2 reads those of IQ2_XS and IQ2_S, which end with them.
func scalesIQ2(scale []float32, src []byte) {
	d := half(src)
	for g, s := range src[len(src)-8:] {
		scale[2*g], scale[2*g+1] = d*(0.5+float32(s&15))*0.25, d*(0.5+float32(s>>4))*0.25
	}
}

func scalesIQ3XXS(scale []float32, src []byte) {
	d := half(src)
	for g := range scale[:8] {
		scale[g] = d * (0.5 + float32(src[66+4*g+3]>>4)) * 0.5
	}
}

func scalesIQ3S(scale []float32, src []byte) {
	d := half(src)
	for g := range scale[:8] {
		scale[g] = d * float32(1+2*(src[106+g/2]>>(g%2*4)&15))
	}
}

func scalesIQ1S(scale []float32, src []byte) {
	d := half(src)
	for g := range scale[:8] {
		scale[g] = d * float32(2*(src[34+2*g+1]>>4&7)+1) / 8
	}
}

func scalesIQ1M(scale []float32, src []byte) {
	var sc [4]uint16
	for i := range sc {
		sc[i] = binary.LittleEndian.Uint16(src[48+2*i:])
	}
	d := halfToFloat(sc[0]>>12 | sc[1]>>8&0xf0 | sc[2]>>4&0xf00 | sc[3]&0xf000)
	for g := range scale[:16] {
		scale[g] = d * float32(2*(sc[g/4]>>(3*(g%4))&7)+1) / 8
	}
}

func unpackIQ2XXS(u []byte, scale, _ []float32, src []byte) {
	table := tableIQ2XXS()[:256]
	for ; len(src) >= 66; u, scale, src = u[256:], scale[8:], src[66:] {
		scalesIQ2XXS(scale, src)
		for g := range 8 {
			q, out := src[2+8*g:][:8], u[32*g:][:32]
			s := binary.LittleEndian.Uint32(q[4:])
			for i := range 4 {
				putSigned(out[8*i:], table[q[i]], signMask7[s>>(7*i)&127])
			}
		}
	}
}

func unpackIQ2XS(u []byte, scale, _ []float32, src []byte) {
	table := tableIQ2XS()[:512]
	for ; len(src) >= 74; u, scale, src = u[256:], scale[16:], src[74:] {
		scalesIQ2(scale, src[:74])
		for i := range 32 {
			q := binary.LittleEndian.Uint16(src[2+2*i:])
			putSigned(u[8*i:], table[q&511], signMask7[q>>9])
		}
	}
}

func unpackIQ2S(u []byte, scale, _ []float32, src []byte) {
	table := tableIQ2S()[:1024]
	for ; len(src) >= 82; u, scale, src = u[256:], scale[16:], src[82:] {
		scalesIQ2(scale, src[:82])
		for i := range 32 {
			index := int(src[2+i]) | int(src[66+i/4])>>(i%4*2)&3<<8
			putSigned(u[8*i:], table[index], signMask[src[34+i]])
		}
	}
}

func unpackIQ3XXS(u []byte, scale, _ []float32, src []byte) {
	table := tableIQ3XXS()[:256]
	for ; len(src) >= 98; u, scale, src = u[256:], scale[8:], src[98:] {
		scalesIQ3XXS(scale, src)
		for g := range 8 {
			s := binary.LittleEndian.Uint32(src[66+4*g:])
			q, out := src[2+8*g:][:8], u[32*g:][:32]
			for i := range 4 {
				w := uint64(table[q[2*i]]) | uint64(table[q[2*i+1]])<<32
				putSigned(out[8*i:], w, signMask7[s>>(7*i)&127])
			}
		}
	}
}

func unpackIQ3S(u []byte, scale, _ []float32, src []byte) {
	table := tableIQ3S()[:512]
	for ; len(src) >= 110; u, scale, src = u[256:], scale[8:], src[110:] {
		scalesIQ3S(scale, src)
		for g := range 8 {
			q, h, out := src[2+8*g:][:8], int(src[66+g]), u[32*g:][:32]
			for i := range 4 {
				w := uint64(table[int(q[2*i])|h>>(2*i)&1<<8]) | uint64(table[int(q[2*i+1])|h>>(2*i+1)&1<<8])<<32
				putSigned(out[8*i:], w, signMask[src[74+4*g+i]])
			}
		}
	}
}

// deltas is what is added to a word of tableIQ1: an eighth of a level up, or
// down.
var deltas = [2]uint64{eachByte, 0xff * eachByte}

// addBytes adds the bytes of b to those of a, which are below 128, modulo 256.
func addBytes(a, b uint64) uint64 {
	const top = 0x80 * eachByte
	return (a + b&^top) ^ b&top
}

func unpackIQ1S(u []byte, scale, _ []float32, src []byte) {
	table := tableIQ1()[:2048]
	for ; len(src) >= 50; u, scale, src = u[256:], scale[8:], src[50:] {
		scalesIQ1S(scale, src)
		for g := range 8 {
			h := binary.LittleEndian.Uint16(src[34+2*g:])
			for i := range 4 {
				w := table[int(src[2+4*g+i])|int(h>>(3*i)&7)<<8]
				binary.LittleEndian.PutUint64(u[32*g+8*i:], addBytes(w, deltas[h>>15]))
			}
		}
	}
}

func unpackIQ1M(u []byte, scale, _ []float32, src []byte) {
	table := tableIQ1()[:2048]
	for ; len(src) >= 56; u, scale, src = u[256:], scale[16:], src[56:] {
		scalesIQ1M(scale, src)
		for i := range 32 {
			h := src[32+i/2] >> (i % 2 * 4)
			w := table[int(src[i])|int(h&7)<<8]
			binary.LittleEndian.PutUint64(u[8*i:], addBytes(w, deltas[h>>3&1]))
		}
	}
}
