package kernels

import "github.com/smeltgguf/smelt/quant"

// EncodeRow is quant.Encode at full speed: the same arguments, the same bytes.
func EncodeRow(t quant.Type, dst []byte, row, importance []float32) {
	if encodeIQ(t, dst, row, importance) {
		return
	}
	quant.Encode(t, dst, row, importance)
}
