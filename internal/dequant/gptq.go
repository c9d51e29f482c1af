package dequant

import "github.com/smeltgguf/smelt/internal/checkpoint"

// decodeGPTQ: GPTQ (arXiv:2210.17323) as AutoGPTQ and GPTQModel store it. Words
// of qweight hold 32/bits inputs, the first in the lowest bits; those of qzeros
// as many outputs. The first form of the format ("gptq") stores zero points less
// one, the second ("gptq_v2") as they are. g_idx gives the group of each input,
// in any order (act-order); files that do without have groups one after the
// other.
func decodeGPTQ(d *decoder) error {
	bits := d.conf.Bits
	switch bits {
	case 2, 4, 8:
	default:
		return d.unsupported("bits", bits, "known here: 2, 4, 8")
	}
	zeroOffset := int32(1)
	switch f := d.conf.CheckpointFormat; f {
	case "", "gptq":
	case "gptq_v2":
		zeroOffset = 0
	default:
		return d.unsupported("checkpoint_format", f, `known here: "gptq", "gptq_v2"`)
	}
	if d.conf.Marlin {
		return d.unsupported("is_marlin_format", true, "")
	}
	if len(d.conf.Dynamic) > 0 {
		return d.unsupported("dynamic", nil, "it quantizes some modules in other ways")
	}
	var shifts []int
	for s := 0; s < 32; s += bits {
		shifts = append(shifts, s)
	}
	return d.each(".qweight", func(stem string, _ *checkpoint.Tensor) error {
		c, err := d.triple(stem)
		if err != nil {
			return err
		}
		c.tall, c.bits, c.shifts, c.zeroOffset, c.groupSize = true, bits, shifts, zeroOffset, d.conf.GroupSize
		c.groupIndex = d.optional(stem + ".g_idx")
		if c.groupIndex == nil && d.conf.DescAct {
			_, err := d.find(stem + ".g_idx")
			return err
		}
		return d.fold(stem, c, ".qzeros", ".scales", ".g_idx")
	})
}
