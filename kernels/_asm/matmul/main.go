// Command asm writes the assembly of package kernels for amd64. Run it through
// `make asm`.
package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

//go:generate go run . -out ../../asm_amd64.s -stubs ../../asm_amd64.go -pkg kernels

// The layout constants of ../../matmul.go.
const (
	lanes     = 32
	strideI   = 512 + 64
	groupsI   = 512 / 16
	actScales = 32 * lanes
	actSums   = actScales + 4*lanes
	actGroup  = actSums + 8*lanes
)

func main() {
	ConstraintExpr("amd64,!purego")
	gemm()
	dots()
	layout()
	vectors()
	attention()
	unpackers()
	exactRows()
	peaks()
	Generate()
}

// A width is a vector length: 32 bytes for AVX2, 64 for AVX-512.
type width int

const (
	avx2   width = 32
	avx512 width = 64
)

func (w width) suffix() string {
	if w == avx512 {
		return "AVX512"
	}
	return "AVX2"
}

var (
	ymm = [...]reg.VecPhysical{reg.Y0, reg.Y1, reg.Y2, reg.Y3, reg.Y4, reg.Y5, reg.Y6, reg.Y7, reg.Y8, reg.Y9, reg.Y10, reg.Y11,
		reg.Y12, reg.Y13, reg.Y14, reg.Y15}
	zmm = [...]reg.VecPhysical{reg.Z0, reg.Z1, reg.Z2, reg.Z3, reg.Z4, reg.Z5, reg.Z6, reg.Z7, reg.Z8, reg.Z9, reg.Z10, reg.Z11,
		reg.Z12, reg.Z13, reg.Z14, reg.Z15, reg.Z16, reg.Z17, reg.Z18, reg.Z19, reg.Z20, reg.Z21, reg.Z22, reg.Z23, reg.Z24,
		reg.Z25, reg.Z26, reg.Z27, reg.Z28, reg.Z29, reg.Z30, reg.Z31}
)

// v returns vector register i.
func (w width) v(i int) reg.VecPhysical {
	if w == avx512 {
		return zmm[i]
	}
	return ymm[i]
}

// text starts a function; doc's lines are the comment of its stub.
func text(name, signature string, doc ...string) {
	TEXT(name, NOSPLIT, signature)
	Doc(doc...)
	Pragma("noescape")
}

func load(name string) reg.GPVirtual {
	r := GP64()
	Load(Param(name), r)
	return r
}

func ptr(base reg.Register, disp int) Mem { return Mem{Base: base, Disp: disp} }

func ret() {
	VZEROUPPER()
	RET()
}

// zero clears a vector register.
func zero(r reg.VecPhysical) { VPXOR(r.AsY(), r.AsY(), r.AsY()) }

// clearZ clears any 512-bit register.
func clearZ(r reg.VecPhysical) { VPXORD(r, r, r) }

// f32 returns a constant that can be broadcast. It is written as bits: avo
// prints whole numbers in a form that the assembler takes for integers.
func f32(name string, v float32) Mem { return ConstData(name, U32(math.Float32bits(v))) }
