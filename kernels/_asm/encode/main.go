// Command encode writes the assembly of the encoders and of the conversions
// between plain float types.
package main

//go:generate go run . -out ../../encode_amd64.s -stubs ../../encode_stubs_amd64.go -pkg kernels

import . "github.com/mmcloughlin/avo/build"

func main() {
	ConstraintExpr("!purego")
	conversions()
	legacy()
	ternary()
	fp4()
	measures()
	for _, t := range []target{{8, "AVX2"}, {16, "AVX512"}} {
		t.kquants()
	}
	Generate()
}
