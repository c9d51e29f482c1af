package dequant

import (
	"encoding/binary"
	"math"
	"strings"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/internal/checkpoint"
	"github.com/smeltgguf/smelt/internal/stream"
	"github.com/smeltgguf/smelt/quant"
)

// scaled is weights of one byte times the scales of their blocks:
// float32(w) * float32(scale).
type scaled struct {
	stream.Rows
	table  *[256]float32
	scale  *checkpoint.Tensor
	shape  []int // of the weights
	sizes  []int // of the scales, as many dimensions as the weights
	blocks []int // weights that share a scale, in each dimension
}

func (s *scaled) Type() quant.Type { return quant.F32 }

// scaleRow returns the row of scales for row i of the weights.
func (s *scaled) scaleRow(i int) int {
	at, step := 0, 1
	for d := len(s.shape) - 2; d >= 0; d-- {
		at += i % s.shape[d] / s.blocks[d] * step
		i /= s.shape[d]
		step *= s.sizes[d]
	}
	return at
}

func (s *scaled) ReadRows(dst []byte, first, n int) error {
	if n == 0 {
		return nil
	}
	last := len(s.shape) - 1
	per, block, rowLen := s.sizes[last], s.blocks[last], s.Len()
	lo := s.scaleRow(first)
	hi := lo
	for i := first + 1; i < first+n; i++ {
		r := s.scaleRow(i)
		lo, hi = min(lo, r), max(hi, r)
	}
	scales, err := floats(s.scale, lo*per, (hi-lo+1)*per)
	if err != nil {
		return err
	}
	raw := make([]byte, n*rowLen)
	if err := s.Rows.ReadRows(raw, first, n); err != nil {
		return err
	}
	for i := range n {
		row := scales[(s.scaleRow(first+i)-lo)*per:][:per]
		w, out := raw[i*rowLen:][:rowLen], dst[i*rowLen*4:][:rowLen*4]
		for g, f := range row {
			for j := g * block; j < min(rowLen, (g+1)*block); j++ {
				binary.LittleEndian.PutUint32(out[4*j:], math.Float32bits(s.table[w[j]]*f))
			}
		}
	}
	return nil
}

// scale replaces the weights called name by their product with the scales of
// the tensor sc. blocks gives the size of the blocks in the last dimensions that
// have a scale each; nil: a scale is for the whole tensor or, of a scale with
// fewer dimensions, for the rest of them.
func (d *decoder) scale(name string, sc *checkpoint.Tensor, blocks []int, types ...formats.DType) error {
	w, err := d.find(name)
	if err != nil {
		return err
	}
	any := make([]int, len(w.Shape))
	for i := range any {
		any[i] = -1
	}
	if err := want(w, any, types...); err != nil {
		return err
	}
	misfit := func() error {
		return formats.Malformedf(sc.File, -1, "%s %v %s is no scale for weights of %s", formats.Quote(sc.Name), sc.DType, dims(sc.Shape), dims(w.Shape))
	}
	switch sc.DType {
	case formats.F32, formats.F16, formats.BF16, formats.F8E8M0:
	default:
		return misfit()
	}
	if len(sc.Shape) > len(w.Shape) || len(w.Shape) == 0 {
		return misfit()
	}
	s := &scaled{Rows: w.Rows, table: bytes8[w.DType], scale: sc, shape: w.Shape}
	elems := 1
	for _, n := range sc.Shape {
		elems *= n
	}
	if elems == 1 {
		blocks = nil
	}
	if len(blocks) > len(sc.Shape) {
		return misfit()
	}
	for i, n := range w.Shape {
		size, block := 1, 1
		if i < len(sc.Shape) {
			size = sc.Shape[i]
		}
		if b := i - (len(sc.Shape) - len(blocks)); b >= 0 && b < len(blocks) {
			block = blocks[b]
		}
		switch {
		case block < 1 || n < 1:
			return misfit()
		case size == 1 && (block == 1 || block >= n):
			block = n
		case size != (n-1)/block+1:
			return misfit()
		}
		s.sizes, s.blocks = append(s.sizes, size), append(s.blocks, block)
	}
	d.replace(name, decoded(name, w.Shape, w, s))
	d.drop(sc.Name)
	return nil
}

var fp8Types = []formats.DType{formats.F8E4M3, formats.F8E5M2}

// decodeFP8: fine-grained FP8 as DeepSeek-V3 has it, X_scale_inv with a scale
// for each block of weight_block_size, and scales per tensor or row, which are
// called X_scale or, in Mistral's files, qscale_weight. In spite of its name
// X_scale_inv is multiplied by.
func decodeFP8(d *decoder) error {
	blocks := d.conf.WeightBlockSize
	if blocks != nil && len(blocks) != 2 {
		return formats.Malformedf(d.file, -1, "%s.weight_block_size: want two sizes, got %v", Key, blocks)
	}
	d.dropUnused(".activation_scale", "_activation_scale", ".qscale_act", ".input_scale", ".output_scale", ".k_scale", ".v_scale")
	for _, form := range []struct{ suffix, weight string }{{"_scale_inv", ""}, {".weight_scale", ".weight"}, {".qscale_weight", ".weight"}} {
		err := d.each(form.suffix, func(stem string, t *checkpoint.Tensor) error {
			if strings.HasSuffix(t.Name, "_activation_scale_inv") {
				return nil
			}
			return d.scale(stem+form.weight, t, blocks, fp8Types...)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// decodeModelOpt: FP8 with a scale per tensor.
func decodeModelOpt(d *decoder) error {
	if a := d.conf.Algorithm; a != "FP8" {
		return d.unsupported("quant_algo", a, `known here: "FP8"`)
	}
	d.dropUnused(".input_scale", ".output_scale", ".k_scale", ".v_scale")
	return d.each(".weight_scale", func(stem string, t *checkpoint.Tensor) error {
		return d.scale(stem+".weight", t, nil, fp8Types...)
	})
}
