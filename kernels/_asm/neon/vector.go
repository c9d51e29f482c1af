package main

import "math"

// Constants of exp (Cephes, expf) in registers 16 to 27: bounds, log2(e), ln(2)
// in two parts, 1, and the polynomial.
const expLow, expHigh, log2e, ln2High, ln2Low, one, expPoly = 16, 17, 18, 19, 20, 21, 22

func loadExp() {
	for i, c := range []float32{-104, 89, 1.44269504088896341, 0.693359375, -2.12194440e-4, 1,
		1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1} {
		constant(expLow+i, c)
	}
}

// exp replaces register x by its exponential; a, b and c are scratch. NaN stays.
func exp(x, a, b, c int) {
	v("fmax v%d.4s, v%d.4s, v%d.4s\nfmin v%d.4s, v%d.4s, v%d.4s", x, x, expLow, x, x, expHigh)
	v("fmul v%d.4s, v%d.4s, v%d.4s\nfrintn v%d.4s, v%d.4s", a, x, log2e, a, a)
	v("fmls v%d.4s, v%d.4s, v%d.4s\nfmls v%d.4s, v%d.4s, v%d.4s", x, a, ln2High, x, a, ln2Low)
	p := expPoly
	for i := 1; i < 6; i++ {
		v("mov v%d.16b, v%d.16b\nfmla v%d.4s, v%d.4s, v%d.4s", b, expPoly+i, b, p, x)
		p, b, c = b, c, b
	}
	v("fmul v%d.4s, v%d.4s, v%d.4s", p, p, x)
	v("mov v%d.16b, v%d.16b\nfmla v%d.4s, v%d.4s, v%d.4s\nfadd v%d.4s, v%d.4s, v%d.4s", b, x, b, p, x, x, b, one)
	// In two steps, for 2^n may be too large or too small for one.
	v("fcvtns v%d.4s, v%d.4s\nsshr v%d.4s, v%d.4s, #1\nsub v%d.4s, v%d.4s, v%d.4s", a, a, b, a, a, a, b)
	for _, n := range []int{a, b} {
		v("shl v%d.4s, v%d.4s, #23\nadd v%d.4s, v%d.4s, v%d.4s\nfmul v%d.4s, v%d.4s, v%d.4s", n, n, n, n, one, x, x, n)
	}
}

func vectors() {
	text("sumSquaresNEON", "(x *float32, n int) float64",
		"sumSquaresNEON returns the sum of float64(x[i])*float64(x[i]), n being a multiple of the vector length.")
	load("x", "n")
	zero(0, 4)
	square := func(sums int) {
		v("ldr q16, [x0], #16\nfcvtl v17.2d, v16.2s\nfcvtl2 v18.2d, v16.4s")
		v("fmla v%d.2d, v17.2d, v17.2d\nfmla v%d.2d, v18.2d, v18.2d", sums, sums+1)
	}
	g("LSR $3, R1, R2")
	times("R2", func() {
		square(0)
		square(2)
	})
	g("AND $4, R1\nLSR $2, R1")
	times("R1", func() { square(0) })
	v("fadd v0.2d, v0.2d, v2.2d\nfadd v1.2d, v1.2d, v3.2d\nfadd v0.2d, v0.2d, v1.2d\nfaddp d0, v0.2d")
	g("FMOVD F0, %s", params["ret"])
	ret()

	text("sumNEON", "(x *float32, n int) float64",
		"sumNEON returns the sum of float64(x[i]), n being a multiple of the vector length.")
	load("x", "n")
	zero(0, 2)
	g("LSR $2, R1")
	times("R1", func() {
		v("ldr q16, [x0], #16\nfcvtl v17.2d, v16.2s\nfcvtl2 v18.2d, v16.4s\nfadd v0.2d, v0.2d, v17.2d\nfadd v1.2d, v1.2d, v18.2d")
	})
	v("fadd v0.2d, v0.2d, v1.2d\nfaddp d0, v0.2d")
	g("FMOVD F0, %s", params["ret"])
	ret()

	text("affineNEON", "(out, x *float32, n int, scale, shift float32)",
		"affineNEON computes out[i] = x[i]*scale + shift, n being a multiple of the vector length.")
	load("out", "x", "n")
	loadFloat("scale", 30)
	loadFloat("shift", 31)
	g("LSR $2, R2")
	times("R2", func() {
		v("ldr q0, [x1], #16\nmov v1.16b, v31.16b\nfmla v1.4s, v0.4s, v30.4s\nstr q1, [x0], #16")
	})
	ret()

	text("clampNEON", "(out, x *float32, n int, low, high float32)",
		"clampNEON computes out[i] = min(max(x[i], low), high), n being a multiple of the vector length.")
	load("out", "x", "n")
	loadFloat("low", 30)
	loadFloat("high", 31)
	g("LSR $2, R2")
	times("R2", func() {
		v("ldr q0, [x1], #16\nfmax v0.4s, v0.4s, v30.4s\nfmin v0.4s, v0.4s, v31.4s\nstr q0, [x0], #16")
	})
	ret()

	text("mulScaleNEON", "(out, x, weight *float32, n int, s float32)",
		"mulScaleNEON computes out[i] = x[i]*s*weight[i], n being a multiple of the vector length.")
	load("out", "x", "weight", "n")
	loadFloat("s", 31)
	g("LSR $2, R3")
	times("R3", func() {
		v("ldr q0, [x1], #16\nldr q1, [x2], #16\nfmul v0.4s, v0.4s, v31.4s\nfmul v0.4s, v0.4s, v1.4s\nstr q0, [x0], #16")
	})
	ret()

	text("scaleAddNEON", "(dst, x *float32, n int, s float32)",
		"scaleAddNEON computes dst[i] += s*x[i], n being a multiple of the vector length.")
	load("dst", "x", "n")
	loadFloat("s", 31)
	g("LSR $2, R2")
	times("R2", func() {
		v("ldr q0, [x0]\nldr q1, [x1], #16\nfmla v0.4s, v1.4s, v31.4s\nstr q0, [x0], #16")
	})
	ret()

	text("maximumNEON", "(x *float32, n int) float32",
		"maximumNEON returns the largest of n elements, a multiple of the vector length, NaN if there is one.")
	load("x", "n")
	bits32(0, 0xff800000)
	g("LSR $2, R1")
	times("R1", func() { v("ldr q1, [x0], #16\nfmax v0.4s, v0.4s, v1.4s") })
	v("fmaxv s0, v0.4s")
	returnFloat()

	text("expSumNEON", "(dst, x *float32, n int, top float32) float64",
		`expSumNEON returns the sum, in float64, of exp(x[i]-top) and stores the terms in dst unless it is
nil; n is a multiple of the vector length.`)
	load("dst", "x", "n")
	loadExp()
	loadFloat("top", 31)
	zero(6, 2)
	g("LSR $2, R2")
	times("R2", func() {
		v("ldr q0, [x1], #16\nfsub v0.4s, v0.4s, v31.4s")
		exp(0, 1, 2, 3)
		labels++
		id := labels
		g("CBZ R0, skip%d", id)
		v("str q0, [x0], #16")
		labelN("skip", id)
		v("fcvtl v1.2d, v0.2s\nfcvtl2 v2.2d, v0.4s\nfadd v6.2d, v6.2d, v1.2d\nfadd v7.2d, v7.2d, v2.2d")
	})
	v("fadd v0.2d, v6.2d, v7.2d\nfaddp d0, v0.2d")
	g("FMOVD F0, %s", params["ret"])
	ret()

	text("divergenceNEON", "(p, q *float32, n int, topP, topQ float32, sums *[3]float64)",
		`divergenceNEON returns, in float64, the sums of exp(p[i]-topP), of exp(q[i]-topQ) and of
exp(p[i]-topP)*(p[i]-q[i]), n being a multiple of the vector length.`)
	load("p", "q", "n")
	loadExp()
	loadFloat("topP", 30)
	loadFloat("topQ", 31)
	zero(6, 4) // 6 and 7: the first sum, 8 and 9: the second
	zero(14, 2)
	g("LSR $2, R2")
	times("R2", func() {
		v("ldr q4, [x0], #16\nldr q5, [x1], #16\nfsub v0.4s, v4.4s, v30.4s")
		exp(0, 1, 2, 3)
		v("fcvtl v10.2d, v0.2s\nfcvtl2 v11.2d, v0.4s\nfadd v6.2d, v6.2d, v10.2d\nfadd v7.2d, v7.2d, v11.2d")
		v("fcvtl v0.2d, v4.2s\nfcvtl2 v1.2d, v4.4s\nfcvtl v2.2d, v5.2s\nfcvtl2 v3.2d, v5.4s")
		v("fsub v0.2d, v0.2d, v2.2d\nfsub v1.2d, v1.2d, v3.2d\nfmla v14.2d, v10.2d, v0.2d\nfmla v15.2d, v11.2d, v1.2d")
		v("fsub v0.4s, v5.4s, v31.4s")
		exp(0, 1, 2, 3)
		v("fcvtl v10.2d, v0.2s\nfcvtl2 v11.2d, v0.4s\nfadd v8.2d, v8.2d, v10.2d\nfadd v9.2d, v9.2d, v11.2d")
	})
	g("MOVD %s, R3", params["sums"])
	for i, sum := range []int{6, 8, 14} {
		v("fadd v0.2d, v%d.2d, v%d.2d\nfaddp d0, v0.2d\nstr d0, [x3, #%d]", sum, sum+1, 8*i)
	}
	ret()

	text("siluMulNEON", "(out, gate, up *float32, n int)",
		"siluMulNEON computes out[i] = gate[i] / (1 + exp(-gate[i])) * up[i], n being a multiple of the vector length.")
	load("out", "gate", "up", "n")
	loadExp()
	g("LSR $2, R3")
	times("R3", func() {
		v("ldr q4, [x1], #16\nldr q5, [x2], #16\nfneg v0.4s, v4.4s")
		exp(0, 1, 2, 3)
		v("fadd v0.4s, v0.4s, v%d.4s\nfdiv v0.4s, v4.4s, v0.4s\nfmul v0.4s, v0.4s, v5.4s\nstr q0, [x0], #16", one)
	})
	ret()

	text("geluNEON", "(out, x *float32, n int)",
		`geluNEON computes out[i] = x[i] / (1 + exp(-2*sqrt(2/pi)*x[i]*(1 + 0.044715*x[i]^2))), n being a
multiple of the vector length.`)
	load("out", "x", "n")
	loadExp()
	constant(30, 0.044715)
	constant(31, -1.5957691216057308)
	g("LSR $2, R2")
	times("R2", func() {
		v("ldr q4, [x1], #16\nfmul v1.4s, v4.4s, v4.4s\nmov v0.16b, v%d.16b\nfmla v0.4s, v1.4s, v30.4s", one)
		v("fmul v1.4s, v4.4s, v31.4s\nfmul v0.4s, v0.4s, v1.4s")
		exp(0, 1, 2, 3)
		v("fadd v0.4s, v0.4s, v%d.4s\nfdiv v0.4s, v4.4s, v0.4s\nstr q0, [x0], #16", one)
	})
	ret()

	text("geluErfNEON", "(out, x *float32, n int)",
		`geluErfNEON computes out[i] = x[i] times the normal distribution at x[i], n being a multiple of the
vector length.`)
	load("out", "x", "n")
	loadExp()
	// The rational approximation 26.2.17 of Abramowitz and Stegun, whose error
	// is below 7.5e-8; the density's factor 1/sqrt(2 pi) is in the polynomial.
	for i, c := range []float64{0.319381530, -0.356563782, 1.781477937, -1.821255978, 1.330274429} {
		constant(8+i, float32(c/math.Sqrt(2*math.Pi)))
	}
	constant(28, 0.2316419)
	constant(29, 0.5)
	bits32(30, 1<<31)
	constant(31, -0.5)
	g("LSR $2, R2")
	times("R2", func() {
		v("ldr q4, [x1], #16\nfmul v0.4s, v4.4s, v4.4s\nfmul v0.4s, v0.4s, v31.4s")
		exp(0, 1, 2, 3)
		v("fabs v1.4s, v4.4s\nmov v2.16b, v%d.16b\nfmla v2.4s, v1.4s, v28.4s\nfdiv v1.4s, v%d.4s, v2.4s", one, one)
		p := 12 // of 1 = 1/(1 + p|x|)
		for i := 3; i >= 0; i-- {
			v("mov v%d.16b, v%d.16b\nfmla v%d.4s, v%d.4s, v1.4s", 2+i%2, 8+i, 2+i%2, p)
			p = 2 + i%2
		}
		v("fmul v2.4s, v2.4s, v1.4s\nfmul v2.4s, v2.4s, v0.4s") // what is beyond |x|
		v("and v5.16b, v4.16b, v30.16b\neor v2.16b, v2.16b, v5.16b\norr v5.16b, v5.16b, v29.16b\nfadd v5.4s, v5.4s, v29.4s")
		v("fsub v5.4s, v5.4s, v2.4s\nfmul v4.4s, v4.4s, v5.4s\nstr q4, [x0], #16")
	})
	ret()

	text("softcapNEON", "(x *float32, n int, limit, twice float32)",
		`softcapNEON computes x[i] = limit * (1 - 2/(exp(twice*x[i])+1)) with twice = 2/limit, n being a
multiple of the vector length.`)
	load("x", "n")
	loadExp()
	constant(29, 2)
	loadFloat("limit", 30)
	loadFloat("twice", 31)
	g("LSR $2, R1")
	times("R1", func() {
		v("ldr q0, [x0]\nfmul v0.4s, v0.4s, v31.4s")
		exp(0, 1, 2, 3)
		v("fadd v0.4s, v0.4s, v%d.4s\nfdiv v0.4s, v29.4s, v0.4s\nfsub v0.4s, v%d.4s, v0.4s", one, one)
		v("fmul v0.4s, v0.4s, v30.4s\nstr q0, [x0], #16")
	})
	ret()

	text("softmaxLanesNEON", "(s *float32, rows int, sink, sums *float32)",
		"softmaxLanesNEON is softmaxLanesGo for 16 of the lanes, rows being at least 1.")
	load("s", "rows", "sink", "sums")
	loadExp()
	for i := range 4 { // 4 to 7: the largest
		v("ldr q%d, [x2, #%d]", 4+i, 16*i)
	}
	g("MOVD R0, R4\nMOVD R1, R5")
	times("R5", func() {
		for i := range 4 {
			v("ldr q0, [x4, #%d]\nfmax v%d.4s, v%d.4s, v0.4s", 16*i, 4+i, 4+i)
		}
		g("ADD $%d, R4", 4*lanes)
	})
	for i := range 4 { // 28 to 31: the sums
		v("ldr q%d, [x2, #%d]\nfsub v%d.4s, v%d.4s, v%d.4s", 28+i, 16*i, 28+i, 28+i, 4+i)
		exp(28+i, 1, 2, 3)
	}
	times("R1", func() {
		for i := range 4 {
			v("ldr q0, [x0, #%d]\nfsub v0.4s, v0.4s, v%d.4s", 16*i, 4+i)
			exp(0, 1, 2, 3)
			v("str q0, [x0, #%d]\nfadd v%d.4s, v%d.4s, v0.4s", 16*i, 28+i, 28+i)
		}
		g("ADD $%d, R0", 4*lanes)
	})
	for i := range 4 {
		v("str q%d, [x3, #%d]", 28+i, 16*i)
	}
	ret()

	text("rotateNEON", "(a, b, cos, sin *float32, n int)",
		`rotateNEON computes a[i], b[i] = a[i]*cos[i] - b[i]*sin[i], a[i]*sin[i] + b[i]*cos[i], n being a
multiple of the vector length.`)
	load("a", "b", "cos", "sin", "n")
	g("LSR $2, R4")
	times("R4", func() {
		v("ldr q0, [x0]\nldr q1, [x1]\nldr q2, [x2], #16\nldr q3, [x3], #16")
		v("fmul v4.4s, v0.4s, v2.4s\nfmls v4.4s, v1.4s, v3.4s\nfmul v5.4s, v0.4s, v3.4s\nfmla v5.4s, v1.4s, v2.4s")
		v("str q4, [x0], #16\nstr q5, [x1], #16")
	})
	ret()

	text("rotatePairsNEON", "(x, cos, sin *float32, n int)",
		`rotatePairsNEON turns n pairs (x[2*i], x[2*i+1]) by the angles of cos[i] and sin[i], n being a multiple of
the vector length.`)
	load("x", "cos", "sin", "n")
	g("LSR $2, R3")
	times("R3", func() {
		v("ld2 {v0.4s, v1.4s}, [x0]\nldr q2, [x1], #16\nldr q3, [x2], #16")
		v("fmul v4.4s, v0.4s, v2.4s\nfmls v4.4s, v1.4s, v3.4s\nfmul v5.4s, v0.4s, v3.4s\nfmla v5.4s, v1.4s, v2.4s")
		v("st2 {v4.4s, v5.4s}, [x0]")
		g("ADD $32, R0")
	})
	ret()

	text("maxAbsNEON", "(x *float32, n int) uint64",
		"maxAbsNEON returns the largest of the bits of n elements, a multiple of 4, without their signs.")
	load("x", "n")
	zero(0, 1)
	g("LSR $2, R1")
	times("R1", func() { v("ldr q1, [x0], #16\nfabs v1.4s, v1.4s\numax v0.4s, v0.4s, v1.4s") })
	v("umaxv s0, v0.4s\nfmov w0, s0")
	g("MOVD R0, %s", params["ret"])
	ret()
}

// The loops that measure what the machine can do.
func peaks() {
	const chains = 24
	peak := func(name, instruction string) {
		text(name, "(n int)", name+" does n rounds of 24 instructions that do not wait for each other.")
		load("n")
		zero(0, 32)
		times("R0", func() {
			for i := range chains {
				v(instruction, i)
			}
		})
		ret()
	}
	peak("peakFMANEON", "fmla v%d.4s, v30.4s, v31.4s")
	peak("peakDOT", "sdot v%d.4s, v30.16b, v31.16b")

	text("readAllNEON", "(x *byte, n int)", "readAllNEON reads n bytes, a multiple of 256.")
	load("x", "n")
	g("LSR $8, R1")
	times("R1", func() {
		for i := range 8 {
			v("ldp q%d, q%d, [x0, #%d]", 2*i, 2*i+1, 32*i)
		}
		g("ADD $256, R0")
	})
	ret()
}
