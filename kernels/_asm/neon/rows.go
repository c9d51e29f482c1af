package main

import "strings"

// rows multiply rows with one token's activations, straight from the blocks.
func rows() {
	rowsOf("Q8_0", func() {
		for i := range 8 {
			v("ldur q2, [x2, #2]\nldur q3, [x2, #18]")
			group(i, 34)
		}
	})
	rowsOf("Q4_0", func() {
		for i := range 8 {
			v("ldur q4, [x2, #2]")
			nibbles(4, 2)
			v("sub v2.16b, v2.16b, v30.16b\nsub v3.16b, v3.16b, v30.16b")
			group(i, 18)
		}
	})
	rowsOf("Q4_K", func() {
		scalesK()
		for c := range 4 {
			unpackK(c, 16)
			groups(c)
		}
		g("ADD $144, R2")
	})
	rowsOf("Q5_K", func() {
		scalesK()
		v("ldp q14, q15, [x2, #16]")
		for c := range 4 {
			unpackK(c, 48)
			fifthK(c)
			groups(c)
		}
		g("ADD $176, R2")
	})
	rowsOf("Q6_K", rowsQ6K)
	rowsOf("IQ4_XS", rowsIQ4XS)
}

// rowsOf loops over rows and blocks of 256 columns, with sums in 0 and 1. In
// body, x2 is the block, x8 the values, x9 and x10 their scales and sums.
func rowsOf(kind string, body func()) {
	name := "rows" + strings.NewReplacer("_K", "K", "_X", "X").Replace(kind) + "DOT"
	text(name, "(out *float32, rows int, src, values *byte, scales, sums *float32, blocks int, table *[16]byte)",
		name+` multiplies rows that follow each other, blocks of 256 columns each, with the activations of one
token: values and scales of quantizeRow, and scales times the sums of 32 values.`)
	load("out", "rows", "src", "values", "scales", "sums", "blocks")
	v("movi v31.16b, #15")
	switch kind {
	case "Q4_0":
		v("movi v30.16b, #8")
	case "Q5_K":
		v("movi v30.16b, #16")
	case "Q6_K":
		v("movi v29.16b, #32\nmovi v30.16b, #0x30")
	case "IQ4_XS":
		g("MOVD %s, R7", params["table"])
		v("ldr q28, [x7]\nmovi v29.16b, #0x80\neor v28.16b, v28.16b, v29.16b")
		// 29: shifts that bring each two bits down, 30: -32.
		g("MOVD $0xfffafffcfffe0000, R7\nMOVD $0xfff2fff4fff6fff8, R11")
		v("dup v29.2d, x7\nmov v29.d[1], x11")
		g("MOVD $32, R7")
		v("dup v30.8h, w7")
	}
	times("R1", func() {
		g("MOVD R3, R8\nMOVD R4, R9\nMOVD R5, R10\nMOVD R6, R11")
		zero(0, 2)
		times("R11", body)
		v("fadd v0.4s, v0.4s, v1.4s")
		sumFloats(0)
		v("str s0, [x0], #4")
	})
	ret()
}

// multiply leaves the sums of products of a and a+1 with 32 values in acc.
func multiply(acc, a int) {
	v("ldp q24, q25, [x8], #32\nmovi v%d.16b, #0", acc)
	v("sdot v%d.4s, v%d.16b, v24.16b\nsdot v%d.4s, v%d.16b, v25.16b", acc, a, acc, a+1)
}

// group adds block i of 32, whose elements are in 2 and 3.
func group(i, size int) {
	multiply(16, 2)
	v("ldr h17, [x2]\nfcvt s17, h17\nldr s18, [x9], #4\nfmul s17, s17, s18")
	v("scvtf v16.4s, v16.4s\nfmla v%d.4s, v16.4s, v17.s[0]", i%2)
	g("ADD $%d, R2", size)
}

// groups adds 64 elements in 4 to 7, whose factors are in 20 and 21.
func groups(c int) {
	for i := range 2 {
		multiply(16+i, 4+2*i)
		v("scvtf v%d.4s, v%d.4s\nfmla v%d.4s, v%d.4s, v%d.s[%d]", 16+i, 16+i, i, 16+i, 20+c/2, 2*c%4+i)
	}
}

// scalesK puts the eight factors of Q4_K and Q5_K into 20 and 21 and adds what
// the minimums contribute.
func scalesK() {
	g(`MOVWU 4(R2), R12
	MOVWU 8(R2), R13
	MOVWU 12(R2), R14
	ANDW $0x3f3f3f3f, R12, R15
	ANDW $0x3f3f3f3f, R13, R16
	LSRW $2, R12
	LSRW $2, R13
	ANDW $0x30303030, R12
	ANDW $0x30303030, R13
	LSRW $4, R14, R17
	ANDW $0x0f0f0f0f, R14
	ANDW $0x0f0f0f0f, R17
	ORRW R14, R12
	ORRW R17, R13`)
	v("fmov s16, w15\nmov v16.s[1], w12\nmov v16.s[2], w16\nmov v16.s[3], w13")
	v("ushll v17.8h, v16.8b, #0\nushll2 v18.8h, v16.16b, #0")
	for i, half := range []string{"ushll v%d.4s, v%d.4h, #0", "ushll2 v%d.4s, v%d.8h, #0"} {
		v(half, 20+i, 17)
		v(half, 22+i, 18)
	}
	for i := range 4 {
		v("ucvtf v%d.4s, v%d.4s", 20+i, 20+i)
	}
	v("ldr h16, [x2]\nfcvt s16, h16\nldr h17, [x2, #2]\nfcvt s17, h17")
	v("ldp q24, q25, [x9], #32\nldp q26, q27, [x10], #32")
	for i := range 2 {
		v("fmul v%d.4s, v%d.4s, v16.s[0]\nfmul v%d.4s, v%d.4s, v%d.4s", 20+i, 20+i, 20+i, 20+i, 24+i)
		v("fmul v%d.4s, v%d.4s, v17.s[0]\nfmls v%d.4s, v%d.4s, v%d.4s", 22+i, 22+i, i, 22+i, 26+i)
	}
}

func rowsQ6K() {
	v("ldr q16, [x2, #192]\nsshll v20.8h, v16.8b, #0\nsshll2 v21.8h, v16.16b, #0")
	for i := range 2 { // 16 to 19: the scales
		v("sshll v%d.4s, v%d.4h, #0\nsshll2 v%d.4s, v%d.8h, #0", 16+2*i, 20+i, 17+2*i, 20+i)
	}
	v("ldr h22, [x2, #208]\nfcvt s22, h22\nldp q20, q21, [x9], #32\nfmul v20.4s, v20.4s, v22.s[0]\nfmul v21.4s, v21.4s, v22.s[0]")
	for n := range 2 {
		loadQ6K(n)
		for p := range 4 {
			v("ldp q24, q25, [x8], #32")
			for i := range 2 {
				partQ6K(9+i, p, i)
				v("sub v%d.16b, v%d.16b, v29.16b\nmovi v%d.16b, #0\nsdot v%d.4s, v%d.16b, v%d.16b", 9+i, 9+i, 11+i, 11+i, 9+i, 24+i)
			}
			s := 8*n + 2*p
			v("mul v13.4s, v11.4s, v%d.s[%d]\nmla v13.4s, v12.4s, v%d.s[%d]", 16+s/4, s%4, 16+(s+1)/4, (s+1)%4)
			v("scvtf v13.4s, v13.4s\nfmla v%d.4s, v13.4s, v%d.s[%d]", p%2, 20+n, p)
		}
	}
	g("ADD $210, R2")
}

func rowsIQ4XS() {
	// Scales of 6 bits, the low 4 in order of nibbles, the high 2 in a word.
	g("MOVHU 2(R2), R12\nMOVWU 4(R2), R13")
	v("dup v16.8h, w12\nushl v16.8h, v16.8h, v29.8h\nmovi v17.8h, #3\nand v16.16b, v16.16b, v17.16b\nshl v16.8h, v16.8h, #4")
	v("fmov s17, w13")
	nibbles(17, 18)
	v("zip1 v17.16b, v18.16b, v19.16b\nushll v17.8h, v17.8b, #0\nadd v16.8h, v16.8h, v17.8h\nsub v16.8h, v16.8h, v30.8h")
	v("sshll v20.4s, v16.4h, #0\nsshll2 v21.4s, v16.8h, #0\nldr h16, [x2]\nfcvt s16, h16\nldp q24, q25, [x9], #32")
	for i := range 2 {
		v("scvtf v%d.4s, v%d.4s\nfmul v%d.4s, v%d.4s, v16.s[0]\nfmul v%d.4s, v%d.4s, v%d.4s", 20+i, 20+i, 20+i, 20+i, 20+i, 20+i, 24+i)
	}
	for c := range 4 {
		for i := range 2 {
			v("ldur q2, [x2, #%d]", 8+32*c+16*i)
			nibbles(2, 4+2*i)
			v("tbl v%d.16b, {v28.16b}, v%d.16b\ntbl v%d.16b, {v28.16b}, v%d.16b", 4+2*i, 4+2*i, 5+2*i, 5+2*i)
		}
		groups(c)
	}
	g("ADD $136, R2")
}
