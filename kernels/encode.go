package kernels

import (
	"encoding/binary"
	"math"
	"sync"
	"unsafe"

	"github.com/smeltgguf/smelt/quant"
)

// EncodeRow is quant.Encode, faster where the CPU allows: the same arguments
// and, for rows of finite numbers, the same bytes.
func EncodeRow(t quant.Type, dst []byte, row, importance []float32) {
	switch t {
	case quant.F16:
		F32ToF16(dst, row)
		return
	case quant.BF16:
		F32ToBF16(dst, row)
		return
	}
	if encodeIQ(t, dst, row, importance) || (len(row) > 0 && encodeSIMD(t, dst, row, importance)) {
		return
	}
	quant.Encode(t, dst, row, importance)
}

// decoders holds the memory that DecodeRow unpacks into.
var decoders = sync.Pool{New: func() any { return new(scratch) }}

// DecodeRow is quant.Decode, faster where the CPU allows: the same arguments,
// the same numbers.
func DecodeRow(t quant.Type, dst []float32, src []byte) {
	n := 0
	if len(src) == len(dst)*t.BlockSize() && len(dst) > 0 {
		d, s := (*byte)(unsafe.Pointer(&dst[0])), &src[0]
		switch t {
		case quant.F32:
			for i := range dst {
				dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
			}
			return
		case quant.F16:
			n, _ = convertSIMD(f16ToF32, d, s, len(dst))
		case quant.BF16:
			n, _ = convertSIMD(bf16ToF32, d, s, len(dst))
		}
	}
	if t.CanDecode() && forms[t].unpack != nil && vectorLen() > 0 && len(src)%t.BlockSize() == 0 && len(src)/t.BlockSize()*t.BlockLen() == len(dst) {
		w := decoders.Get().(*scratch)
		for ; n < len(dst); n += depthI {
			end := min(n+depthI, len(dst))
			decode(t, dst[n:end], src[t.RowSize(n):t.RowSize(end)], w)
		}
		decoders.Put(w)
		return
	}
	quant.Decode(t, dst[n:], src[n*t.BlockSize():])
}
