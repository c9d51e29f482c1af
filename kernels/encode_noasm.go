//go:build (!amd64 && !arm64) || purego

package kernels

import "github.com/smeltgguf/smelt/quant"

func convertSIMD(conversion, *byte, *byte, int) (done int, bad bool) { return 0, false }

func encodeSIMD(quant.Type, []byte, []float32, []float32) bool { return false }

func maxAbsSIMD([]float32) (float32, bool) { return 0, false }

func maxBits16SIMD([]byte) (uint32, bool) { return 0, false }

func addErrorsSIMD(*[3][4]float64, []float32, []float32) (uint32, bool) { return 0, false }
