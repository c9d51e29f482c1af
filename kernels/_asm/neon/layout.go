package main

func layout() {
	transpose()
	quantizeRow()
	expand()
	conversions()
}

// transpose turns squares of 4 by 4.
func transpose() {
	text("transpose4NEON", "(dst *byte, ds uintptr, src *byte, ss uintptr, n int)",
		`transpose4NEON transposes 4 rows of 4*n elements of 4 bytes; strides are in bytes:

	for i := range 4 {
		for j := range 4*n {
			dst[j*ds+4*i:][:4] = src[i*ss+4*j:][:4]`)
	load("dst", "ds", "src", "ss", "n")
	g("ADD R3, R2, R5\nADD R3, R5, R6\nADD R3, R6, R7")
	times("R4", func() {
		for i, x := range []int{2, 5, 6, 7} {
			v("ldr q%d, [x%d], #16", i, x)
		}
		for i := 0; i < 4; i += 2 {
			v("trn1 v%d.4s, v%d.4s, v%d.4s\ntrn2 v%d.4s, v%d.4s, v%d.4s", 4+i, i, i+1, 5+i, i, i+1)
		}
		v("trn1 v0.2d, v4.2d, v6.2d\ntrn1 v1.2d, v5.2d, v7.2d\ntrn2 v2.2d, v4.2d, v6.2d\ntrn2 v3.2d, v5.2d, v7.2d")
		for i := range 4 {
			v("str q%d, [x0]", i)
			g("ADD R1, R0")
		}
	})
	ret()
}

// quantizeRow holds a group of 32 in 0 to 7.
func quantizeRow() {
	text("quantizeRowNEON", "(values *byte, scales *float32, sums *int32, x *float32, groups int, flip uint64)",
		"quantizeRowNEON is quantizeRowGo for whole groups; the bits of flip are inverted in each byte of values.")
	load("values", "scales", "sums", "x", "groups", "flip")
	v("dup v31.16b, w5")
	g("MOVD $0x42fe0000, R6 // 127")
	v("fmov s30, w6")
	times("R4", func() {
		for i := 0; i < 8; i += 2 {
			v("ldp q%d, q%d, [x3], #32", i, i+1)
		}
		for i := range 8 {
			v("fabs v%d.4s, v%d.4s", 16+i, i)
		}
		for n := 4; n > 0; n /= 2 { // NaN wins
			for i := range n {
				v("fmax v%d.4s, v%d.4s, v%d.4s", 16+i, 16+i, 16+i+n)
			}
		}
		v("fmaxv s16, v16.4s\nfdiv s17, s16, s30\nfdiv s18, s30, s16")
		// The inverse is too large, or there is none: a scale of 0 for numbers
		// too small, of NaN for those that are not finite.
		v("fmov w7, s18\nfmov w8, s16")
		labels++
		id := labels
		g("MOVD $0x7f800000, R9\nCMPW R9, R8\nBHS wild%d\nCMPW R9, R7\nBLO scale%d", id, id)
		v("movi v17.16b, #0\nmovi v18.16b, #0")
		g("JMP scale%d", id)
		labelN("wild", id)
		v("fsub v17.4s, v16.4s, v16.4s")
		zero(0, 8)
		v("movi v18.16b, #0")
		labelN("scale", id)
		v("str s17, [x1], #4")
		for i := range 8 {
			v("fmul v%d.4s, v%d.4s, v18.s[0]\nfcvtns v%d.4s, v%d.4s", i, i, i, i)
		}
		for i := range 2 { // sums of 16
			v("add v%d.4s, v%d.4s, v%d.4s\nadd v%d.4s, v%d.4s, v%d.4s", 16+i, 4*i, 4*i+1, 20+i, 4*i+2, 4*i+3)
			v("add v%d.4s, v%d.4s, v%d.4s\naddv s%d, v%d.4s\nstr s%d, [x2], #4", 16+i, 16+i, 20+i, 16+i, 16+i, 16+i)
		}
		for i := range 2 {
			a := 4 * i
			v("xtn v%d.4h, v%d.4s\nxtn2 v%d.8h, v%d.4s", a, a, a, a+1)
			v("xtn v%d.4h, v%d.4s\nxtn2 v%d.8h, v%d.4s", a+2, a+2, a+2, a+3)
			v("xtn v%d.8b, v%d.8h\nxtn2 v%d.16b, v%d.8h", a, a, a, a+2)
			v("eor v%d.16b, v%d.16b, v31.16b\nstr q%d, [x0], #16", a, a, a)
		}
	})
	ret()
}

// expand is not fused: the values are those of quant.Decode.
func expand() {
	text("expandNEON", "(dst *float32, u *byte, scale, offset *float32, groups, group int, zero uint64)",
		`expandNEON computes dst[i] = scale[g]*float32(u[i]-zero) + offset[g] with g = i/group, for groups of 16 or
32 elements; offset may be nil.`)
	load("dst", "u", "scale", "offset", "groups", "group", "zero")
	v("dup v31.8h, w6")
	g("LSR $4, R5")
	times("R4", func() {
		v("ldr s30, [x2], #4")
		g("MOVD R5, R7")
		times("R7", func() {
			v("ldr q4, [x1], #16\nushll v5.8h, v4.8b, #0\nushll2 v6.8h, v4.16b, #0")
			v("sub v5.8h, v5.8h, v31.8h\nsub v6.8h, v6.8h, v31.8h")
			v("sshll v0.4s, v5.4h, #0\nsshll2 v1.4s, v5.8h, #0\nsshll v2.4s, v6.4h, #0\nsshll2 v3.4s, v6.8h, #0")
			for i := range 4 {
				v("scvtf v%d.4s, v%d.4s\nfmul v%d.4s, v%d.4s, v30.s[0]", i, i, i, i)
			}
			labels++
			id := labels
			g("CBZ R3, store%d", id)
			v("ld1r {v29.4s}, [x3]")
			for i := range 4 {
				v("fadd v%d.4s, v%d.4s, v29.4s", i, i)
			}
			labelN("store", id)
			v("stp q0, q1, [x0], #32\nstp q2, q3, [x0], #32")
		})
		labels++
		g("CBZ R3, next%d\nADD $4, R3", labels)
		labelN("next", labels)
	})
	ret()
}

// convert emits a function that converts n elements, a multiple of 16, 16 at a
// time: to32 brings 8 halves in register 8+i as float32 into 2*i and 2*i+1, nil
// for float32; from32 does the reverse, nil for float32, and sets bits in 30
// for what is not finite.
func convert(name, doc string, to32, from32 func(i int)) {
	signature := "(dst, src *byte, n int)"
	if from32 != nil {
		signature += " bool"
	}
	text(name, signature, doc)
	load("dst", "src", "n")
	zero(30, 1)
	bits32(31, 0x7c007c00)
	bits32(29, 0x7f800000)
	bits32(28, 0x7fff)
	bits32(27, 1)
	g("LSR $4, R2")
	times("R2", func() {
		if to32 == nil {
			v("ldp q0, q1, [x1], #32\nldp q2, q3, [x1], #32")
		} else {
			v("ldp q8, q9, [x1], #32")
			to32(0)
			to32(1)
		}
		if from32 == nil {
			v("stp q0, q1, [x0], #32\nstp q2, q3, [x0], #32")
			return
		}
		from32(0)
		from32(1)
		v("stp q8, q9, [x0], #32")
	})
	if from32 != nil {
		v("umaxv s30, v30.4s\nfmov w3, s30")
		g("CMPW $0, R3\nCSET NE, R3\nMOVB R3, %s", params["ret"])
	}
	ret()
}

func conversions() {
	fromHalf := func(i int) {
		v("fcvtl v%d.4s, v%d.4h\nfcvtl2 v%d.4s, v%d.8h", 2*i, 8+i, 2*i+1, 8+i)
	}
	fromBF16 := func(i int) {
		v("shll v%d.4s, v%d.4h, #16\nshll2 v%d.4s, v%d.8h, #16", 2*i, 8+i, 2*i+1, 8+i)
	}
	note := func(size string, from, mask int) {
		v("and v16.16b, v%d.16b, v%d.16b\ncmeq v16.%s, v16.%s, v%d.%s\norr v30.16b, v30.16b, v16.16b", from, mask, size, size, mask, size)
	}
	toHalf := func(i int) {
		v("fcvtn v%d.4h, v%d.4s\nfcvtn2 v%d.8h, v%d.4s", 8+i, 2*i, 8+i, 2*i+1)
		note("8h", 8+i, 31)
	}
	toBF16 := func(i int) {
		for j := 2 * i; j < 2*i+2; j++ { // to nearest even
			note("4s", j, 29)
			v("ushr v17.4s, v%d.4s, #16\nand v17.16b, v17.16b, v27.16b\nadd v17.4s, v17.4s, v28.4s\nadd v%d.4s, v%d.4s, v17.4s", j, j, j)
			note("4s", j, 29)
		}
		v("shrn v%d.4h, v%d.4s, #16\nshrn2 v%d.8h, v%d.4s, #16", 8+i, 2*i, 8+i, 2*i+1)
	}
	convert("f16ToF32NEON", "f16ToF32NEON: dst[i] = float32(src[i])", fromHalf, nil)
	convert("bf16ToF32NEON", "bf16ToF32NEON: dst[i] = float32(src[i])", fromBF16, nil)
	convert("f32ToF16NEON", "f32ToF16NEON: dst[i] = float16(src[i]); true if some dst[i] is not finite", nil, toHalf)
	convert("bf16ToF16NEON", "bf16ToF16NEON: dst[i] = float16(src[i]); true if some dst[i] is not finite", fromBF16, toHalf)
	convert("f32ToBF16NEON", "f32ToBF16NEON: dst[i] = bfloat16(src[i]); true if some src[i] or dst[i] is not finite", nil, toBF16)
	convert("f16ToBF16NEON", "f16ToBF16NEON: dst[i] = bfloat16(src[i]); true if some src[i] is not finite", fromHalf, toBF16)
}
