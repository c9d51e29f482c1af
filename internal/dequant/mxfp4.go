package dequant

import (
	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/internal/checkpoint"
	"github.com/smeltgguf/smelt/quant"
)

// decodeMXFP4: OCP Microscaling FP4, X_blocks (..., rows, blocks, 16 bytes) with
// X_scales (..., rows, blocks). ggml has the same blocks with their halves in
// another order, so that nothing is decoded: the weights stay MXFP4.
func decodeMXFP4(d *decoder) error {
	d.mxfp4 = true
	return d.each("_blocks", func(stem string, blocks *checkpoint.Tensor) error {
		scales, err := d.find(stem + "_scales")
		if err != nil {
			return err
		}
		n := len(blocks.Shape)
		if blocks.DType != formats.U8 || n < 3 || blocks.Shape[n-1] != 16 || blocks.Rows.Count() == 0 {
			return formats.Malformedf(blocks.File, -1, "%s %v %s: expected U8 with 16 in the last of at least three dimensions", formats.Quote(blocks.Name), blocks.DType, dims(blocks.Shape))
		}
		if err := want(scales, blocks.Shape[:n-1], formats.U8, formats.F8E8M0); err != nil {
			return err
		}
		shape := append([]int{}, blocks.Shape[:n-1]...)
		per := shape[n-2]
		shape[n-2] *= 32
		if d.optional(stem) != nil {
			return formats.Malformedf(blocks.File, -1, "tensor %s is there both quantized and not", formats.Quote(stem))
		}
		t := decoded(stem, shape, scales, &mxfp4{blocks, scales, per})
		t.DType = formats.F4
		d.drop(blocks.Name)
		d.replace(scales.Name, t)
		return nil
	})
}

// mxfp4 puts blocks and scales together to ggml's blocks: the scale, then 16
// bytes whose low halves are the first 16 elements and whose high halves the
// others. In the checkpoint the two elements of a byte are neighbours.
type mxfp4 struct {
	blocks, scales *checkpoint.Tensor
	per            int // blocks of a row
}

func (m *mxfp4) Type() quant.Type { return quant.MXFP4 }
func (m *mxfp4) Len() int         { return m.per * 32 }
func (m *mxfp4) Count() int       { return m.scales.Rows.Count() }

func (m *mxfp4) ReadRows(dst []byte, first, n int) error {
	scales := make([]byte, n*m.per)
	blocks := make([]byte, n*m.per*16)
	if err := m.scales.Rows.ReadRows(scales, first, n); err != nil {
		return err
	}
	if err := m.blocks.Rows.ReadRows(blocks, first*m.per, n*m.per); err != nil {
		return err
	}
	for i, scale := range scales {
		out, in := dst[i*17:][:17], blocks[i*16:][:16]
		out[0] = scale
		for j := range 8 {
			a, b := in[j], in[8+j] // elements 2j, 2j+1 and 16+2j, 17+2j
			out[1+2*j] = a&0x0f | b<<4
			out[2+2*j] = a>>4 | b&0xf0
		}
	}
	return nil
}
