package main

// In all of this file and rows.go, x2 is the block.

// unpackers write the bytes of ../../unpack.go's forms. Scales are few, and
// read in Go.
func unpackers() {
	small("Q4_0", 18, func() {
		v("ldur q0, [x2, #2]")
		nibbles(0, 2)
	})
	small("Q4_1", 20, func() {
		v("ldur q0, [x2, #4]")
		nibbles(0, 2)
	})
	small("Q5_0", 22, func() {
		g("ADD $2, R2, R3")
		v("ldur q0, [x2, #6]")
		nibbles(0, 2)
		fifth()
	})
	small("Q5_1", 24, func() {
		g("ADD $4, R2, R3")
		v("ldur q0, [x2, #8]")
		nibbles(0, 2)
		fifth()
	})
	small("Q8_0", 34, func() {
		v("ldur q0, [x2, #2]\nldur q1, [x2, #18]\neor v2.16b, v0.16b, v29.16b\neor v3.16b, v1.16b, v29.16b")
	})
	levels("IQ4NL", 18, func() {
		v("ldur q0, [x2, #2]")
		nibbles(0, 2)
		lookup()
		v("stp q2, q3, [x0], #32")
	})
	levels("MXFP4", 17, func() {
		v("ldur q0, [x2, #1]")
		nibbles(0, 2)
		lookup()
		v("stp q2, q3, [x0], #32")
	})
	levels("NVFP4", 36, func() {
		for i := range 2 { // two groups of 16 in 16 bytes
			v("ldur q0, [x2, #%d]", 4+16*i)
			nibbles(0, 2)
			lookup()
			v("trn1 v4.2d, v2.2d, v3.2d\ntrn2 v5.2d, v2.2d, v3.2d\nstp q4, q5, [x0], #32")
		}
	})
	levels("IQ4XS", 136, func() {
		for i := range 8 {
			v("ldur q0, [x2, #%d]", 8+16*i)
			nibbles(0, 2)
			lookup()
			v("stp q2, q3, [x0], #32")
		}
	})
	large("Q4K", 144, func() {
		for c := range 4 {
			unpackK(c, 16)
			v("stp q4, q5, [x0], #32\nstp q6, q7, [x0], #32")
		}
	})
	large("Q5K", 176, func() {
		v("ldp q14, q15, [x2, #16]")
		for c := range 4 {
			unpackK(c, 48)
			fifthK(c)
			v("stp q4, q5, [x0], #32\nstp q6, q7, [x0], #32")
		}
	})
	large("Q6K", 210, func() {
		for n := range 2 {
			loadQ6K(n)
			for p := range 4 {
				for i := range 2 {
					partQ6K(9+i, p, i)
				}
				v("stp q9, q10, [x0], #32")
			}
		}
	})
	large("Q2K", 84, func() { pairs(16, nil) })
	large("TQ2", 66, func() { pairs(0, nil) })
	large("Q3K", 110, func() {
		v("ldp q2, q3, [x2, #0]\nmovi v28.16b, #4")
		pairs(32, func(reg, i, part int) { // the third bit
			moveBit(8, 2+i, part, 2)
			v("and v8.16b, v8.16b, v28.16b\norr v%d.16b, v%d.16b, v8.16b", reg, reg)
		})
	})
}

// few writes the unpackers of the types with 1 bit, 2 bits and trits in a row.
func few() {
	large("Q1_0", 18, func() {
		v("ldur q0, [x2, #2]\nmov v2.16b, v26.16b")
		for i := range 8 {
			v("tbl v1.16b, {v0.16b}, v2.16b\ncmtst v1.16b, v1.16b, v28.16b\nand v1.16b, v1.16b, v27.16b\nstr q1, [x0], #16")
			if i < 7 { // 27 holds 2
				v("add v2.16b, v2.16b, v27.16b")
			}
		}
	})
	large("Q2_0", 18, func() {
		v("ldur q0, [x2, #2]\nmov v2.16b, v26.16b")
		for i := range 4 {
			v("tbl v1.16b, {v0.16b}, v2.16b\nushl v1.16b, v1.16b, v28.16b\nand v1.16b, v1.16b, v31.16b\nstr q1, [x0], #16")
			if i < 3 { // 27 holds 4
				v("add v2.16b, v2.16b, v27.16b")
			}
		}
	})
	large("TQ1", 54, func() {
		for i := range 3 {
			v("ldur q%d, [x2, #%d]", i, 16*i)
		}
		for n := range 5 {
			trits(4, 0)
			trits(5, 1)
			v("stp q4, q5, [x0], #32")
			if n < 4 {
				v("mul v0.16b, v0.16b, v28.16b\nmul v1.16b, v1.16b, v28.16b")
			}
		}
		for n := range 5 {
			trits(4, 2)
			v("str q4, [x0], #16")
			if n < 4 {
				v("mul v2.16b, v2.16b, v28.16b")
			}
		}
		g("ADD $48, R2, R3")
		v("ld1r {v0.4s}, [x3]\nmul v0.16b, v0.16b, v27.16b")
		trits(4, 0)
		v("str q4, [x0], #16")
	})
}

// trits leaves the first digits to base 3 of fractions of 256 in dst: how many
// of 86/256 and 171/256, in 30 and 31, they reach.
func trits(dst, src int) {
	v("cmhs v6.16b, v%d.16b, v30.16b\ncmhs v7.16b, v%d.16b, v31.16b\nadd v6.16b, v6.16b, v7.16b\nneg v%d.16b, v6.16b", src, src, dst)
}

// fill fills a vector with two numbers.
func fill(reg int, low, high uint64) {
	g("MOVD $0x%016x, R19", low)
	v("dup v%d.2d, x19", reg)
	if high != low {
		g("MOVD $0x%016x, R19", high)
		v("mov v%d.d[1], x19", reg)
	}
}

// masks fills 29 to 31 with the constants 0x80, 0x10 and 15.
func masks() { v("movi v29.16b, #0x80\nmovi v30.16b, #0x10\nmovi v31.16b, #15") }

func unpacker(kind, signature string, size int, body func()) {
	name := "unpack" + kind + "NEON"
	text(name, signature, name+" writes the bytes of whole blocks, not the scales.")
	load("u", "blocks", "src")
	masks()
	const eachBit = 0x8040201008040201
	switch kind {
	case "Q5_0", "Q5_1": // 26 and 27: which of four bytes a bit is in
		fill(28, eachBit, eachBit)
		fill(26, 0, 0x0101010101010101)
		fill(27, 0x0202020202020202, 0x0303030303030303)
	case "Q1_0":
		fill(28, eachBit, eachBit)
		fill(26, 0, 0x0101010101010101)
		v("movi v27.16b, #2")
	case "Q2_0": // 28: shifts right by 0, 2, 4 and 6
		fill(28, 0xfafcfe00fafcfe00, 0xfafcfe00fafcfe00)
		fill(26, 0x0101010100000000, 0x0303030302020202)
		v("movi v27.16b, #4\nmovi v31.16b, #3")
	case "TQ1": // 27: powers of 3
		fill(27, 0x0303030301010101, 0x1b1b1b1b09090909)
		v("movi v28.16b, #3\nmovi v30.16b, #86\nmovi v31.16b, #171")
	case "Q6K":
		v("movi v30.16b, #0x30")
	case "Q2K", "Q3K", "TQ2":
		v("movi v31.16b, #3")
	}
	if params["table"] != "" {
		g("MOVD %s, R3", params["table"])
		v("ldr q28, [x3]")
	}
	times("R1", func() {
		body()
		g("ADD $%d, R2", size)
	})
	ret()
}

func large(kind string, size int, body func()) {
	unpacker(kind, "(u, src *byte, blocks int)", size, body)
}

// small is for blocks of 32, which body leaves in 2 and 3.
func small(kind string, size int, body func()) {
	large(kind, size, func() {
		body()
		v("stp q2, q3, [x0], #32")
	})
}

// levels is for types whose 4 bits are looked up.
func levels(kind string, size int, body func()) {
	unpacker(kind, "(u, src *byte, blocks int, table *[16]byte)", size, body)
}

// nibbles takes a register apart.
func nibbles(from, to int) {
	v("and v%d.16b, v%d.16b, v31.16b\nushr v%d.16b, v%d.16b, #4", to, from, to+1, from)
}

func lookup() {
	for i := 2; i < 4; i++ {
		v("tbl v%d.16b, {v28.16b}, v%d.16b", i, i)
	}
}

// fifth adds the bits of the word at x3 to 2 and 3.
func fifth() {
	v("ld1r {v0.4s}, [x3]")
	for i := range 2 {
		v("tbl v1.16b, {v0.16b}, v%d.16b\ncmtst v1.16b, v1.16b, v28.16b\nand v1.16b, v1.16b, v30.16b\norr v%d.16b, v%d.16b, v1.16b",
			26+i, 2+i, 2+i)
	}
}

// moveBit brings bit from of each byte to bit to; others remain.
func moveBit(dst, src, from, to int) {
	switch {
	case from < to:
		v("shl v%d.16b, v%d.16b, #%d", dst, src, to-from)
	case from > to:
		v("ushr v%d.16b, v%d.16b, #%d", dst, src, from-to)
	default:
		v("mov v%d.16b, v%d.16b", dst, src)
	}
}

// unpackK leaves 64 elements of Q4_K or Q5_K, whose low bits start at an
// offset, in 4 to 7.
func unpackK(c, at int) {
	v("ldp q2, q3, [x2, #%d]", at+32*c)
	v("and v4.16b, v2.16b, v31.16b\nand v5.16b, v3.16b, v31.16b\nushr v6.16b, v2.16b, #4\nushr v7.16b, v3.16b, #4")
}

// fifthK adds their fifth bits, which are in 14 and 15; 30
// holds 0x10.
func fifthK(c int) {
	for i := range 4 {
		moveBit(8, 14+i%2, 2*c+i/2, 4)
		v("and v8.16b, v8.16b, v30.16b\norr v%d.16b, v%d.16b, v8.16b", 4+i, 4+i)
	}
}

// loadQ6K loads the bits of half a block: low ones into 2 to 5, high ones into
// 6 and 7.
func loadQ6K(n int) {
	v("ldp q2, q3, [x2, #%d]\nldp q4, q5, [x2, #%d]\nldp q6, q7, [x2, #%d]", 64*n, 64*n+32, 128+32*n)
}

// partQ6K leaves 16 of its elements in a register; 30 holds 0x30.
func partQ6K(dst, part, i int) {
	if part < 2 {
		v("and v%d.16b, v%d.16b, v31.16b", dst, 2+part%2*2+i)
	} else {
		v("ushr v%d.16b, v%d.16b, #4", dst, 2+part%2*2+i)
	}
	moveBit(8, 6+i, 2*part, 4)
	v("and v8.16b, v8.16b, v30.16b\norr v%d.16b, v%d.16b, v8.16b", dst, dst)
}

// pairs unpacks 256 elements of 2 bits. more sees the registers of element
// 32*part and after before they are stored.
func pairs(at int, more func(reg, i, part int)) {
	for n := range 2 {
		for i := range 2 {
			v("ldur q%d, [x2, #%d]", i, at+32*n+16*i)
		}
		for p := range 4 {
			for i := range 2 {
				moveBit(4+i, i, 2*p, 0)
				v("and v%d.16b, v%d.16b, v31.16b", 4+i, 4+i)
				if more != nil {
					more(4+i, i, 4*n+p)
				}
			}
			v("stp q4, q5, [x0], #32")
		}
	}
}
