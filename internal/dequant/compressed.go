package dequant

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"strconv"
	"strings"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/internal/checkpoint"
	"github.com/smeltgguf/smelt/internal/stream"
	"github.com/smeltgguf/smelt/quant"
)

// compressGroup is one of compressed-tensors' config_groups.
type compressGroup struct {
	Format  string           `json:"format"`
	Weights *compressWeights `json:"weights"`
}

// compressWeights says how the weights of a group are quantized.
type compressWeights struct {
	Bits      int             `json:"num_bits"`
	Type      string          `json:"type"`
	Strategy  string          `json:"strategy"`
	GroupSize *int            `json:"group_size"`
	Block     json.RawMessage `json:"block_structure"`
	Symmetric *bool           `json:"symmetric"`
}

// decodeCompressed: the formats of the compressed-tensors library that store
// weights as integers in 32-bit words, as bytes, or as FP8.
func decodeCompressed(d *decoder) error {
	if s := d.conf.Sparsity; s != nil && s.Format != "" && s.Format != "dense" {
		return d.unsupported("sparsity_config.format", s.Format, "")
	}
	if len(d.conf.Transform) > 0 {
		return d.unsupported("transform_config", nil, "weights were rotated")
	}
	if n := len(d.conf.Groups); n != 1 {
		return d.unsupported("config_groups", nil, strconv.Itoa(n)+" groups; one group is what is known here")
	}
	var w *compressWeights
	layout := d.conf.Layout
	for name, g := range d.conf.Groups {
		if g == nil || g.Weights == nil {
			return d.unsupported("config_groups."+name, nil, "it does not quantize weights")
		}
		w = g.Weights
		if g.Format != "" && layout != g.Format {
			return d.unsupported("config_groups."+name+".format", g.Format, "format is "+formats.Quote(layout))
		}
	}
	d.dropUnused(".input_scale", ".input_zero_point", ".output_scale", ".output_zero_point", ".k_scale", ".v_scale", ".q_scale",
		".input_global_scale")
	switch layout {
	case "pack-quantized":
		return d.packQuantized(w)
	case "float-quantized", "int-quantized", "naive-quantized":
		return d.bytesQuantized(w)
	}
	return d.unsupported("format", layout, `known here: "pack-quantized", "float-quantized", "int-quantized", "naive-quantized"`)
}

// bytesQuantized: X.weight is bytes, X.weight_scale their scales.
func (d *decoder) bytesQuantized(w *compressWeights) error {
	var types []formats.DType
	switch {
	case w.Bits != 8:
		return d.unsupported("config_groups.weights.num_bits", w.Bits, "known here for this format: 8")
	case w.Type == "float":
		types = fp8Types
	case w.Type == "int" || w.Type == "":
		types = []formats.DType{formats.I8}
	default:
		return d.unsupported("config_groups.weights.type", w.Type, "")
	}
	var blocks []int
	switch w.Strategy {
	case "tensor", "channel":
	case "block":
		var err error
		if blocks, err = d.blockStructure(w.Block); err != nil {
			return err
		}
	case "group":
		if w.GroupSize == nil || *w.GroupSize < 1 {
			return d.unsupported("config_groups.weights.group_size", nil, "a group needs a size")
		}
		blocks = []int{1, *w.GroupSize}
	default:
		return d.unsupported("config_groups.weights.strategy", w.Strategy, `known here: "tensor", "channel", "group", "block"`)
	}
	err := d.each(".weight_zero_point", func(stem string, t *checkpoint.Tensor) error {
		return formats.Unsupportedf(t.File, -1, "tensor %s: zero points are not supported in this format", formats.Quote(t.Name))
	})
	if err != nil {
		return err
	}
	return d.each(".weight_scale", func(stem string, t *checkpoint.Tensor) error {
		return d.scale(stem+".weight", t, blocks, types...)
	})
}

// blockStructure reads [128, 128], or "128x128" as older files have it.
func (d *decoder) blockStructure(raw json.RawMessage) ([]int, error) {
	var list []int
	if json.Unmarshal(raw, &list) == nil && len(list) == 2 {
		return list, nil
	}
	var text string
	if json.Unmarshal(raw, &text) == nil {
		a, b, _ := strings.Cut(text, "x")
		x, errX := strconv.Atoi(a)
		y, errY := strconv.Atoi(b)
		if errX == nil && errY == nil {
			return []int{x, y}, nil
		}
	}
	return nil, d.unsupported("config_groups.weights.block_structure", string(raw), "two sizes are expected")
}

// packQuantized: X.weight_packed holds a row's integers in 32-bit words, the
// first in the lowest bits, less their smallest value; X.weight_shape the shape
// before packing; X.weight_zero_point is packed the same way, but along the
// outputs.
func (d *decoder) packQuantized(w *compressWeights) error {
	switch w.Bits {
	case 2, 4, 8:
	default:
		return d.unsupported("config_groups.weights.num_bits", w.Bits, "known here for this format: 2, 4, 8")
	}
	if w.Type != "int" && w.Type != "" {
		return d.unsupported("config_groups.weights.type", w.Type, `known here for this format: "int"`)
	}
	groupSize := 0 // a group is a row
	switch w.Strategy {
	case "channel":
	case "group":
		if w.GroupSize == nil || *w.GroupSize < 1 {
			return d.unsupported("config_groups.weights.group_size", nil, "a group needs a size")
		}
		groupSize = *w.GroupSize
	default:
		return d.unsupported("config_groups.weights.strategy", w.Strategy, `known here for this format: "group", "channel"`)
	}
	return d.each(".weight_packed", func(stem string, q *checkpoint.Tensor) error {
		return d.foldPacked(stem+".weight", q, w, groupSize)
	})
}

func (d *decoder) foldPacked(name string, q *checkpoint.Tensor, w *compressWeights, groupSize int) error {
	sizes, err := d.find(name + "_shape")
	if err != nil {
		return err
	}
	out, in, err := readShape(sizes)
	if err != nil {
		return err
	}
	per := 32 / w.Bits
	if out < 1 || in < 1 || q.DType != formats.I32 || len(q.Shape) != 2 || q.Shape[0] != out || q.Shape[1] != (in-1)/per+1 {
		return formats.Malformedf(q.File, -1, "%s %v %s does not hold the [%d,%d] of %s in %d bits", formats.Quote(q.Name), q.DType, dims(q.Shape),
			out, in, formats.Quote(sizes.Name), w.Bits)
	}
	p := &packed{words: q, in: in, out: out, bits: w.Bits, groupSize: groupSize}
	if groupSize == 0 {
		p.groupSize = in
	}
	if in%p.groupSize != 0 {
		return formats.Malformedf(q.File, -1, "%s: rows of %d are no multiple of group_size %d", formats.Quote(q.Name), in, groupSize)
	}
	p.groups = in / p.groupSize
	if p.scales, err = d.find(name + "_scale"); err != nil {
		return err
	}
	if err := want(p.scales, []int{out, p.groups}, floatTypes...); err != nil {
		return err
	}
	if p.zeros = d.optional(name + "_zero_point"); p.zeros != nil {
		if err := want(p.zeros, []int{(out-1)/per + 1, p.groups}, formats.I32); err != nil {
			return err
		}
	} else if w.Symmetric != nil && !*w.Symmetric {
		_, err := d.find(name + "_zero_point")
		return err
	}
	if p.index = d.optional(name + "_g_idx"); p.index != nil {
		if err := want(p.index, []int{in}, formats.I32, formats.I64); err != nil {
			return err
		}
	}
	if err := d.add(decoded(name, []int{out, in}, q, p)); err != nil {
		return err
	}
	d.drop(q.Name, sizes.Name, p.scales.Name, name+"_zero_point", name+"_g_idx")
	return nil
}

// readShape reads a tensor of two integers.
func readShape(t *checkpoint.Tensor) (rows, cols int, err error) {
	if err := want(t, []int{2}, formats.I64, formats.I32); err != nil {
		return 0, 0, err
	}
	size := t.Rows.Type().BlockSize()
	raw := make([]byte, 2*size)
	if err := checkpoint.ReadElems(t.Rows, raw, 0, 2); err != nil {
		return 0, 0, err
	}
	var n [2]int
	for i := range n {
		v := uint64(binary.LittleEndian.Uint32(raw[i*size:]))
		if size == 8 {
			v = binary.LittleEndian.Uint64(raw[i*size:])
		}
		if v > math.MaxInt32 {
			return 0, 0, formats.Malformedf(t.File, -1, "%s: a size of %d is not plausible", formats.Quote(t.Name), v)
		}
		n[i] = int(v)
	}
	return n[0], n[1], nil
}

// packed is (q - zero) * scale, where q is a row's integers without sign.
type packed struct {
	words, scales *checkpoint.Tensor
	zeros         *checkpoint.Tensor // nil: half of the range
	index         *checkpoint.Tensor // group of each input; nil: one after the other

	in, out, bits, groupSize, groups int
}

var _ stream.Rows = (*packed)(nil)

func (p *packed) Type() quant.Type { return quant.F32 }
func (p *packed) Len() int         { return p.in }
func (p *packed) Count() int       { return p.out }

func (p *packed) ReadRows(dst []byte, first, n int) error {
	if n == 0 {
		return nil
	}
	per, mask := 32/p.bits, int32(1)<<p.bits-1
	rowWords := (p.in-1)/per + 1
	raw := make([]byte, 4*n*rowWords)
	if err := p.words.Rows.ReadRows(raw, first, n); err != nil {
		return err
	}
	scales, err := floats(p.scales, first*p.groups, n*p.groups)
	if err != nil {
		return err
	}
	var zeroWords []byte
	z0 := first / per
	if p.zeros != nil {
		zn := (first+n-1)/per - z0 + 1
		zeroWords = make([]byte, 4*zn*p.groups)
		if err := p.zeros.Rows.ReadRows(zeroWords, z0, zn); err != nil {
			return err
		}
	}
	index, err := groupsOf(p.index, p.in, p.groupSize, p.groups)
	if err != nil {
		return err
	}
	zeros, q := make([]int32, p.groups), make([]int32, rowWords*per)
	for i := range n {
		o := first + i
		for g := range zeros {
			zeros[g] = 1 << (p.bits - 1)
			if zeroWords != nil {
				word := int32(binary.LittleEndian.Uint32(zeroWords[4*((o/per-z0)*p.groups+g):]))
				zeros[g] = word >> (o % per * p.bits) & mask
			}
		}
		for w := range rowWords {
			word := int32(binary.LittleEndian.Uint32(raw[4*(i*rowWords+w):]))
			for k := range per {
				q[w*per+k] = word >> (k * p.bits) & mask
			}
		}
		store(dst[4*i*p.in:], q[:p.in], index, scales[i*p.groups:][:p.groups], zeros)
	}
	return nil
}
