package convert

import (
	"fmt"
	"strings"

	"github.com/smeltgguf/smelt/internal/checkpoint"
	"github.com/smeltgguf/smelt/quant"
)

// outtype is a type that weights are converted to.
type outtype struct {
	name     string
	typ      quant.Type
	fileType uint32 // general.file_type
}

var outtypes = []outtype{
	{"f32", quant.F32, 0},
	{"f16", quant.F16, 1},
	{"bf16", quant.BF16, 32},
	{"q8_0", quant.Q8_0, 7},
}

// Outtypes lists the names that Options.Outtype takes besides "auto".
func Outtypes() []string {
	var names []string
	for _, o := range outtypes {
		names = append(names, o.name)
	}
	return names
}

// findOuttype returns the type called name. "auto" is the type of the
// checkpoint's first matrix of 16-bit floats, F16 where there is none.
func findOuttype(name string, ck *checkpoint.Checkpoint) (outtype, error) {
	if name == "" || name == "auto" {
		name = "f16"
		for _, t := range ck.Tensors {
			if len(t.Shape) < 2 {
				continue
			}
			if typ := t.Rows.Type(); typ == quant.BF16 {
				name = "bf16"
				break
			} else if typ == quant.F16 {
				break
			}
		}
	}
	for _, o := range outtypes {
		if strings.EqualFold(o.name, name) {
			return o, nil
		}
	}
	return outtype{}, fmt.Errorf("unknown output type %q; known: auto, %s", name, strings.Join(Outtypes(), ", "))
}

// alwaysF32 are names, in the layer or outside of layers, of matrices that are
// small or that precision matters for.
var alwaysF32 = map[string]bool{
	"ffn_gate_inp.weight":       true,
	"ffn_gate_inp_shexp.weight": true,
	"position_embd.weight":      true,
	"token_types.weight":        true,
	"ssm_conv1d.weight":         true,
	"shortconv.conv.weight":     true,
}

// chooseType returns the type of a tensor in the file and, where that is not
// the one asked for, why.
func chooseType(name string, shape []int, from quant.Type, want quant.Type) (quant.Type, string) {
	if from.BlockLen() > 1 {
		return from, "" // quantized by its authors: stays as it is
	}
	local := name
	if rest, ok := strings.CutPrefix(name, "blk."); ok {
		_, local, _ = strings.Cut(rest, ".")
	}
	if len(shape) <= 1 || strings.HasSuffix(name, "_norm.weight") || alwaysF32[local] ||
		!strings.HasSuffix(name, ".weight") && !strings.HasSuffix(name, ".lora_a") && !strings.HasSuffix(name, ".lora_b") {
		return quant.F32, ""
	}
	if row := shape[len(shape)-1]; row%want.BlockLen() != 0 {
		return quant.F16, fmt.Sprintf("row %d is no multiple of %d", row, want.BlockLen())
	}
	return want, ""
}
