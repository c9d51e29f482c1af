//go:build !amd64 || purego

package kernels

import "github.com/smeltgguf/smelt/quant"

// iqOps returns the inner loops of the IQ encoders for this CPU.
func iqOps() *quant.IQOps { return &quant.PlainIQOps }
