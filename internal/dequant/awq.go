package dequant

import (
	"cmp"
	"strings"

	"github.com/smeltgguf/smelt/internal/checkpoint"
)

// awqShifts are the places of 8 neighbouring outputs in a word of AWQ's "gemm"
// format: the even ones come first, then the odd ones.
var awqShifts = []int{0, 16, 4, 20, 8, 24, 12, 28}

// decodeAWQ: AWQ (arXiv:2306.00978) as AutoAWQ's "gemm" format stores it, 4 bits,
// words of both qweight and qzeros along the outputs.
func decodeAWQ(d *decoder) error {
	if bits := cmp.Or(d.conf.Bits, d.conf.WBits); bits != 4 {
		return d.unsupported("bits", bits, "known here: 4")
	}
	if v := d.conf.Version; v != "" && !strings.EqualFold(v, "gemm") {
		return d.unsupported("version", v, `known here: "gemm"`)
	}
	if z := d.conf.ZeroPoint; z != nil && !*z {
		return d.unsupported("zero_point", false, "")
	}
	return d.each(".qweight", func(stem string, _ *checkpoint.Tensor) error {
		c, err := d.triple(stem)
		if err != nil {
			return err
		}
		c.bits, c.shifts, c.groupSize = 4, awqShifts, cmp.Or(d.conf.GroupSize, d.conf.QGroupSize)
		return d.fold(stem, c, ".qzeros", ".scales")
	})
}
