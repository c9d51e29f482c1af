package main

import "fmt"

func dotProducts() {
	dotFloats("F32", 4, func(i int) { // four elements
		v("ldr q%d, [x0], #16", 16+i)
	})
	dotFloats("F16", 2, func(i int) {
		v("ldr d%d, [x0], #8\nfcvtl v%d.4s, v%d.4h", 16+i, 16+i, 16+i)
	})
	dotFloats("BF16", 2, func(i int) {
		v("ldr d%d, [x0], #8\nshll v%d.4s, v%d.4h, #16", 16+i, 16+i, 16+i)
	})
	for _, group := range []int{32, 16} {
		dotGroups(group, true)
		dotGroups(group, false)
	}
}

// dotFloats multiplies 32 elements a turn, in eight sums side by side.
func dotFloats(kind string, size int, next func(i int)) {
	text("dot"+kind+"NEON", "(x *byte, y *float32, n int) float32",
		"dot"+kind+"NEON returns the sum of x[i]*y[i], n being a multiple of the vector length.")
	load("x", "y", "n")
	zero(0, 8)
	g("LSR $5, R2, R3")
	times("R3", func() {
		if size == 4 {
			for i := 0; i < 8; i += 2 {
				v("ldp q%d, q%d, [x0], #32", 16+i, 17+i)
			}
		} else {
			v("ldp q8, q9, [x0], #32\nldp q10, q11, [x0], #32")
			for i := range 8 {
				from, half := 8+i/2, [2]string{"", "2"}[i%2]
				if kind == "F16" {
					v("fcvtl%s v%d.4s, v%d.%s", half, 16+i, from, [2]string{"4h", "8h"}[i%2])
				} else {
					v("shll%s v%d.4s, v%d.%s, #16", half, 16+i, from, [2]string{"4h", "8h"}[i%2])
				}
			}
		}
		for i := 0; i < 8; i += 2 {
			v("ldp q%d, q%d, [x1], #32", 24+i, 25+i)
		}
		for i := range 8 {
			v("fmla v%d.4s, v%d.4s, v%d.4s", i, 16+i, 24+i)
		}
	})
	g("AND $31, R2\nLSR $2, R2")
	times("R2", func() {
		next(0)
		v("ldr q24, [x1], #16\nfmla v0.4s, v16.4s, v24.4s")
	})
	for n := 4; n > 0; n /= 2 {
		for i := range n {
			v("fadd v%d.4s, v%d.4s, v%d.4s", i, i, i+n)
		}
	}
	sumFloats(0)
	returnFloat()
}

// sumFloats adds the elements of a vector; the result is its first.
func sumFloats(reg int) {
	v("faddp v%d.4s, v%d.4s, v%d.4s\nfaddp s%d, v%d.2s", reg, reg, reg, reg, reg)
}

// returnFloat returns the first element of vector 0.
func returnFloat() {
	g("FMOVS F0, %s", params["ret"])
	ret()
}

// dotGroups multiplies unsigned with signed bytes by products of signed ones
// alone: u*v = -((127-u)*v - 127*v).
func dotGroups(group int, dot bool) {
	level := "DOT"
	if !dot {
		level = "NEON"
	}
	name := fmt.Sprintf("dotGroups%d%s", group, level)
	text(name, "(u *byte, scale *float32, values *byte, scales *float32, groups int) float32",
		fmt.Sprintf("%s is dotGroups for groups of 32 with one scale per %d.", name, group))
	load("u", "scale", "values", "scales", "groups")
	zero(0, 2)
	v("movi v30.16b, #127\nmovi v31.16b, #129")
	times("R4", func() {
		v("ldp q16, q17, [x0], #32\nldp q18, q19, [x2], #32")
		v("eor v16.16b, v16.16b, v30.16b\neor v17.16b, v17.16b, v30.16b")
		zero(2, 2)
		for i := range 2 {
			if dot {
				v("sdot v%d.4s, v%d.16b, v%d.16b\nsdot v%d.4s, v31.16b, v%d.16b", 2+i, 16+i, 18+i, 2+i, 18+i)
				continue
			}
			v("smull v20.8h, v%d.8b, v%d.8b\nsmull2 v21.8h, v%d.16b, v%d.16b", 16+i, 18+i, 16+i, 18+i)
			v("smlal v20.8h, v31.8b, v%d.8b\nsmlal2 v21.8h, v31.16b, v%d.16b", 18+i, 18+i)
			v("sadalp v%d.4s, v20.8h\nsadalp v%d.4s, v21.8h", 2+i, 2+i)
		}
		v("ldr s22, [x3], #4")
		if group == 32 {
			v("ldr s23, [x1], #4\nfmul v23.4s, v23.4s, v22.s[0]")
			v("add v2.4s, v2.4s, v3.4s\nscvtf v2.4s, v2.4s\nfmls v0.4s, v2.4s, v23.s[0]")
			return
		}
		v("ldr d23, [x1], #8\nfmul v23.4s, v23.4s, v22.s[0]")
		for i := range 2 {
			v("scvtf v%d.4s, v%d.4s\nfmls v%d.4s, v%d.4s, v23.s[%d]", 2+i, 2+i, i, 2+i, i)
		}
	})
	v("fadd v0.4s, v0.4s, v1.4s")
	sumFloats(0)
	returnFloat()
}
