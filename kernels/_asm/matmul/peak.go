package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// peaks writes loops that do nothing but keep the execution units busy.
func peaks() {
	for _, w := range []width{avx512, avx2} {
		text("peakFMA"+w.suffix(), "func(n int)",
			fmt.Sprintf("peakFMA%s runs n times 48 multiply-adds, 12 of them independent, of %d float32.", w.suffix(), int(w)/4))
		n := load("n")
		for i := range 14 {
			zero(w.v(i))
		}
		Label("loop")
		for i := range 48 {
			VFMADD231PS(w.v(12), w.v(13), w.v(i%12))
		}
		DECQ(n)
		JNZ(LabelRef("loop"))
		ret()

		text("readAll"+w.suffix(), "func(src *byte, srcStep, n int)",
			"readAll"+w.suffix()+" loads n bytes, a multiple of 256, from src on and from srcStep, twice and three times that further on.")
		s := fourStreams()
		n = load("n")
		TESTQ(n, n)
		JZ(LabelRef("done"))
		Label("loop")
		for r, src := range s.src {
			s.fetch(r, 256)
			for i := 0; i < 256; i += int(w) {
				VMOVUPS(ptr(src, i), w.v(i/int(w)))
			}
			ADDQ(U32(256), src)
		}
		SUBQ(U32(256), n)
		JNZ(LabelRef("loop"))
		Label("done")
		ret()
	}
	text("peakVNNI", "func(n int)", "peakVNNI runs n times 14 independent products of 64 bytes.")
	n := load("n")
	for i := range 16 {
		zero(zmm[i])
	}
	Label("loop")
	for i := range 14 {
		VPDPBUSD(zmm[14], zmm[15], zmm[i])
	}
	DECQ(n)
	JNZ(LabelRef("loop"))
	ret()

	text("peakMADD", "func(n int)", "peakMADD runs n times 4 independent products of 32 bytes, as AVX2 does them.")
	n = load("n")
	for i := range 16 {
		zero(ymm[i])
	}
	Label("loop")
	for i := range 4 {
		VPMADDUBSW(reg.Y14, reg.Y15, ymm[4+i])
		VPMADDWD(reg.Y13, ymm[4+i], ymm[4+i])
		VPADDD(ymm[4+i], ymm[i], ymm[i])
	}
	DECQ(n)
	JNZ(LabelRef("loop"))
	ret()
}
