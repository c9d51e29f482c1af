package main

func gemm() {
	gemmF32x8()
	gemmF32x8t()
	gemmF32x1()
}

// addC adds the accumulators, rows times vectors of a row, to c at R0.
func addC(rows, vectors, acc int) {
	for r := range rows {
		for h := range vectors {
			v("ldr q16, [x0, #%d]", 16*h)
			v("fadd v16.4s, v16.4s, v%d.4s", acc+r*vectors+h)
			v("str q16, [x0, #%d]", 16*h)
		}
		if r+1 < rows {
			g("ADD $%d, R0", 4*lanes)
		}
	}
}

// gemmF32x8 keeps 8 rows times 8 lanes in registers 0 to 15. It reads four
// columns of each row at a time into 16 to 23, and rows of b into 24 to 31.
func gemmF32x8() {
	text("gemmF32x8NEON", "(c, a *float32, rs uintptr, b *float32, depth int)",
		`gemmF32x8NEON adds a product to 8 of the lanes of c, (8, 32); rs is in bytes:

	for r := range 8 {
		for k := range depth {
			for l := range 8 {
				c[r*32+l] += a[r*rs/4+k] * b[k*32+l]`)
	load("c", "a", "rs", "b", "depth")
	g("MOVD R1, R8")
	for r := 9; r < 16; r++ {
		g("ADD R2, R%d, R%d", r-1, r)
	}
	zero(0, 16)
	multiply := func(k, b int) {
		for r := range 8 {
			for h := range 2 {
				v("fmla v%d.4s, v%d.4s, v%d.s[%d]", 2*r+h, b+h, 16+r, k)
			}
		}
	}
	g("LSR $2, R4, R5")
	times("R5", func() {
		for r := range 8 {
			v("ldr q%d, [x%d], #16", 16+r, 8+r)
		}
		for k := range 4 {
			v("ldp q%d, q%d, [x3, #%d]", 24+2*k, 25+2*k, 4*lanes*k)
		}
		g("ADD $%d, R3", 4*4*lanes)
		for k := range 4 {
			multiply(k, 24+2*k)
		}
	})
	g("AND $3, R4")
	times("R4", func() {
		for r := range 8 {
			v("ldr s%d, [x%d], #4", 16+r, 8+r)
		}
		v("ldp q24, q25, [x3], #%d", 4*lanes)
		multiply(0, 24)
	})
	addC(8, 2, 0)
	ret()
}

// gemmF32x8t is for a that stands column by column: the 8 rows of a column are
// two vectors.
func gemmF32x8t() {
	text("gemmF32x8tNEON", "(c, a *float32, ks uintptr, b *float32, depth int)",
		`gemmF32x8tNEON adds a product to 8 of the lanes of c, (8, 32); ks is in bytes:

	for r := range 8 {
		for k := range depth {
			for l := range 8 {
				c[r*32+l] += a[r+k*ks/4] * b[k*32+l]`)
	load("c", "a", "ks", "b", "depth")
	zero(0, 16)
	times("R4", func() {
		v("ldp q16, q17, [x1, #0]")
		g("ADD R2, R1")
		v("ldp q24, q25, [x3], #%d", 4*lanes)
		for r := range 8 {
			for h := range 2 {
				v("fmla v%d.4s, v%d.4s, v%d.s[%d]", 2*r+h, 24+h, 16+r/4, r%4)
			}
		}
	})
	addC(8, 2, 0)
	ret()
}

func gemmF32x1() {
	text("gemmF32x1NEON", "(c, a *float32, ks uintptr, b *float32, depth int)",
		`gemmF32x1NEON adds a product to c, (32); ks is in bytes:

	for k := range depth {
		for l := range 32 {
			c[l] += a[k*ks/4] * b[k*32+l]`)
	load("c", "a", "ks", "b", "depth")
	zero(0, 8)
	times("R4", func() {
		v("ld1r {v16.4s}, [x1], x2")
		for h := range 4 {
			v("ldp q%d, q%d, [x3, #%d]", 24+2*h, 25+2*h, 32*h)
		}
		g("ADD $%d, R3", 4*lanes)
		for h := range 8 {
			v("fmla v%d.4s, v%d.4s, v16.4s", h, 24+h)
		}
	})
	addC(1, 8, 0)
	ret()
}
