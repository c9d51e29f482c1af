package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// streams is how many rows are read at a time, far from each other: while one
// stands at the end of a page, where the processor's own prefetching ends, the
// others go on, and more of the memory's answers are under way.
const streams = 4

// Bytes are asked for twice, far before their use into the second-level cache
// and near it into the first, which has room for less under way.
const (
	near = 768
	far  = 1536
)

// rowStreams are the places that four runs of rows are read from, in a function
// with the parameters out, outStep, rows, src and srcStep: rows that follow each
// other from src on, and from srcStep bytes further on each, with results that
// follow each other from out on, and from outStep bytes further on each.
type rowStreams struct {
	src  [streams]reg.GPVirtual
	step reg.GPVirtual // scratch
}

func fourStreams() *rowStreams {
	s := &rowStreams{step: GP64()}
	for i := range s.src {
		s.src[i] = GP64()
	}
	Load(Param("src"), s.src[0])
	Load(Param("srcStep"), s.step)
	for i := 1; i < streams; i++ {
		MOVQ(s.src[i-1], s.src[i])
		ADDQ(s.step, s.src[i])
	}
	return s
}

// fetch asks for what comes after the next n bytes of run r.
func (s *rowStreams) fetch(r, n int) {
	for i := 0; i < n; i += 64 {
		PREFETCHT0(ptr(s.src[r], near+i))
		PREFETCHT1(ptr(s.src[r], far+i))
	}
}

// eachRow repeats row, which multiplies one row of each run and leaves what is to
// be added up in the first vector registers.
func (s *rowStreams) eachRow(w width, row func()) {
	out, rows := NewParamAddr("out", 0), NewParamAddr("rows", 16)
	CMPQ(rows, U32(0))
	JZ(LabelRef("done"))
	Label("row")
	row()
	at := GP64()
	MOVQ(out, at)
	ADDQ(U32(4), out)
	Load(Param("outStep"), s.step)
	for r := range streams {
		sumPS(w, r, streams)
		VMOVSS(w.v(r).AsX(), ptr(at, 0))
		ADDQ(s.step, at)
	}
	DECQ(rows)
	JNZ(LabelRef("row"))
	Label("done")
	ret()
}
