package kernels

import "github.com/smeltgguf/smelt/quant"

// encodeIQ is quant.Encode for the IQ types. It reports false for the others.
func encodeIQ(t quant.Type, dst []byte, row, importance []float32) bool {
	switch t {
	case quant.IQ1_S, quant.IQ1_M, quant.IQ2_XXS, quant.IQ2_XS, quant.IQ2_S, quant.IQ3_XXS, quant.IQ3_S, quant.IQ4_NL, quant.IQ4_XS:
		quant.EncodeIQ(t, dst, row, importance, iqOps())
		return true
	}
	return false
}
