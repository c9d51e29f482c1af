package main

import "fmt"

// A variant of the integer micro-kernel. Weights are unsigned bytes u with a
// zero below 128, or, where they use all 8 bits, with zero 128: then flipping
// the top bit makes them signed and their zero 0. Offsets come with zero 0.
type variant struct {
	suffix       string
	flip, offset bool
}

func int8s() {
	for _, group := range []int{32, 16} {
		for _, x := range []variant{{"", false, false}, {"o", false, true}, {"f", true, false}} {
			gemmInt8(group, x, true)
			gemmInt8(group, x, false)
		}
	}
}

func gemmInt8(group int, x variant, dot bool) {
	level, width := "DOT", 8
	if !dot {
		level, width = "NEON", 4
	}
	name := fmt.Sprintf("gemmInt8g%d%s%s", group, x.suffix, level)
	doc := fmt.Sprintf(`%s adds to %d lanes of c, (4, 32), the product of unpacked weights with groups of packed
activations, for each group of 32 columns and each part p of %d of them, i being the part's number:

	sum := sum of (u[r*strideI+k] - zero) * act[k][l] over the part's columns k
	c[r*32+l] += scaleOfAct[l] * scale[r*groupsI+i] * sum
`, name, width, group)
	switch {
	case x.offset:
		doc += "\tc[r*32+l] += scaleOfAct[l] * offset[r*groupsI+i] * sumOfAct[l]\n\nwith zero = 0."
	case x.flip:
		doc += "\nwith zero = 128."
	default:
		doc += "\nwith zero = 1<<shift, less than 128, or 0 if shift is 32."
	}
	text(name, "(c *float32, u *byte, scale, offset *float32, acts *byte, groups int, shift uint64)", doc)
	load("c", "u", "scale", "offset", "acts", "groups", "shift")
	g("ADD $%d, R4, R7 // scales, then sums, of activations", actScales)
	vectors := width / 4 // of lanes
	const total = 8      // first of the sums over groups, the integers being from 0 on
	zero(total, 4*vectors)
	times("R5", func() {
		for part := range 32 / group {
			if x.flip {
				v("movi v28.16b, #0x80")
			}
			switch {
			case x.flip || x.offset:
				zero(30, 2)
			default: // 30 and 31: -zero times the sums
				sums(30, vectors, group, part)
				v("dup v29.4s, w6")
				for h := range vectors {
					v("sshl v%d.4s, v%d.4s, v29.4s", 30+h, 30+h)
				}
			}
			if dot {
				dots(group, part, x.flip)
			} else {
				products(group, part, x.flip)
			}
			for r := range 4 {
				v("ldr s%d, [x2, #%d]", 16+r, 4*(groupsI*r+part))
			}
			for h := range vectors {
				v("ldr q%d, [x7, #%d]", 28+h, 16*h)
			}
			each(vectors, func(r, h int) {
				i := r*vectors + h
				v("scvtf v%d.4s, v%d.4s", i, i)
				v("fmul v%d.4s, v%d.4s, v%d.s[0]", i, i, 16+r)
				v("fmla v%d.4s, v%d.4s, v%d.4s", total+i, i, 28+h)
			})
			if !x.offset {
				continue
			}
			for r := range 4 {
				v("ldr s%d, [x3, #%d]", 20+r, 4*(groupsI*r+part))
			}
			sums(24, vectors, group, part)
			for h := range vectors {
				v("scvtf v%d.4s, v%d.4s", 24+h, 24+h)
				v("fmul v%d.4s, v%d.4s, v%d.4s", 24+h, 24+h, 28+h)
			}
			each(vectors, func(r, h int) {
				v("fmls v%d.4s, v%d.4s, v%d.s[0]", total+r*vectors+h, 24+h, 20+r)
			})
		}
		g("ADD $32, R1\nADD $%d, R2\nADD $%d, R3\nADD $%d, R4\nADD $%d, R7", 128/group, 128/group, actGroup, actGroup)
	})
	addC(4, vectors, total)
	ret()
}

// each calls f for the rows and the vectors of a tile.
func each(vectors int, f func(r, h int)) {
	for r := range 4 {
		for h := range vectors {
			f(r, h)
		}
	}
}

// sums loads the negated sums of a part's activations; 26 and 27 are scratch.
func sums(first, vectors, group, part int) {
	for h := range vectors {
		v("ldr q%d, [x7, #%d]", first+h, 4*lanes*(1+part)+16*h)
		if group == 32 {
			v("ldr q%d, [x7, #%d]", 26+h, 8*lanes+16*h)
			v("add v%d.4s, v%d.4s, v%d.4s", first+h, first+h, 26+h)
		}
	}
}

// weights loads 16 columns of four rows into 16 to 19.
func weights(half int, flip bool) {
	for r := range 4 {
		v("ldr q%d, [x1, #%d]", 16+r, strideI*r+16*half)
		if flip {
			v("eor v%d.16b, v%d.16b, v28.16b", 16+r, 16+r)
		}
	}
}

// halves calls f for each 16 columns of a part.
func halves(group, part int, f func(half int)) {
	for half := part * group / 16; half < (part+1)*group/16; half++ {
		f(half)
	}
}

// dots leaves the sums of 4 rows times 8 lanes in 0 to 7, begun with 30 and 31.
func dots(group, part int, flip bool) {
	each(2, func(r, h int) { v("mov v%d.16b, v%d.16b", 2*r+h, 30+h) })
	halves(group, part, func(half int) {
		weights(half, flip)
		for j := range 4 {
			v("ldp q%d, q%d, [x4, #%d]", 20+2*j, 21+2*j, 4*lanes*(4*half+j))
			each(2, func(r, h int) {
				v("sdot v%d.4s, v%d.16b, v%d.4b[%d]", 2*r+h, 20+2*j+h, 16+r, j)
			})
		}
	})
}

// products leaves the sums of 4 rows times 4 lanes in 0 to 3, 30 added. Two
// products of 8 bits fit into 16, for activations are not -128.
func products(group, part int, flip bool) {
	zero(0, 8)
	halves(group, part, func(half int) {
		weights(half, flip)
		for j := 0; j < 4; j += 2 {
			for i := range 2 {
				v("ldr q%d, [x4, #%d]", 20+i, 4*lanes*(4*half+j+i))
			}
			for r := range 4 {
				for i := range 2 {
					v("dup v%d.4s, v%d.s[%d]", 22+i, 16+r, j+i)
				}
				v("smull v24.8h, v20.8b, v22.8b")
				v("smull2 v25.8h, v20.16b, v22.16b")
				v("smlal v24.8h, v21.8b, v23.8b")
				v("smlal2 v25.8h, v21.16b, v23.16b")
				v("sadalp v%d.4s, v24.8h", 2*r)
				v("sadalp v%d.4s, v25.8h", 2*r+1)
			}
		}
	})
	for r := range 4 {
		v("addp v%d.4s, v%d.4s, v%d.4s", r, 2*r, 2*r+1)
		v("add v%d.4s, v%d.4s, v30.4s", r, r)
	}
}
