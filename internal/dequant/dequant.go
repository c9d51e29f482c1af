// Package dequant presents checkpoints whose weights were quantized by their
// authors as ones of plain floats: X.qweight, X.scales and what else stands for
// a matrix become X.weight, decoded as it is read. One table of methods, each in
// a file of its own, is keyed by config.json's quantization_config.quant_method.
//
// The arithmetic is float32 and that of llama.cpp's converter where it knows
// the method, so that converted files have the same bytes.
package dequant

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/internal/checkpoint"
	"github.com/smeltgguf/smelt/internal/stream"
	"github.com/smeltgguf/smelt/quant"
)

// methods is the table: each folds the tensors of its method.
var methods = map[string]func(d *decoder) error{
	"fp8":                decodeFP8,
	"modelopt":           decodeModelOpt,
	"gptq":               decodeGPTQ,
	"awq":                decodeAWQ,
	"compressed-tensors": decodeCompressed,
	"mxfp4":              decodeMXFP4,
}

// Key is the key of config.json that says how weights are quantized.
const Key = "quantization_config"

// Result is a checkpoint's tensors after decoding.
type Result struct {
	// Tensors are the decoded ones and those that were floats already, in the
	// order in which llama.cpp's converter has them: a matrix whose tensor only
	// gets scaled keeps its place, one put together from others comes after all
	// that the checkpoint holds. Rows are of type F32, or MXFP4, which is passed
	// on without loss.
	Tensors []checkpoint.Tensor
	// Unused are names of tensors that are of no use for weights: the scales of
	// activations and of cached keys and values.
	Unused []string
	// MXFP4 reports whether there are MXFP4 tensors.
	MXFP4 bool
}

// settings are the keys of quantization_config that decide how weights are
// decoded.
type settings struct {
	Method string `json:"quant_method"`

	// FP8
	Format          string `json:"fmt"`
	WeightBlockSize []int  `json:"weight_block_size"`
	// ModelOpt
	Algorithm string `json:"quant_algo"`

	// GPTQ and AWQ
	Bits             int            `json:"bits"`
	WBits            int            `json:"w_bit"` // AWQ's own name
	GroupSize        int            `json:"group_size"`
	QGroupSize       int            `json:"q_group_size"`
	DescAct          bool           `json:"desc_act"`
	CheckpointFormat string         `json:"checkpoint_format"`
	Marlin           bool           `json:"is_marlin_format"`
	Dynamic          map[string]any `json:"dynamic"`
	Version          string         `json:"version"`
	ZeroPoint        *bool          `json:"zero_point"`

	// compressed-tensors
	Layout   string                    `json:"format"`
	Groups   map[string]*compressGroup `json:"config_groups"`
	Sparsity *struct {
		Format string `json:"format"`
	} `json:"sparsity_config"`
	Transform map[string]any `json:"transform_config"`
}

// Decode folds the tensors that conf, the value of quantization_config in file,
// describes. A nil conf means that nothing is quantized. Only metadata is read,
// and the few numbers that give a packed matrix its shape. A method, a setting
// or a tensor that is not understood is an error that names it.
func Decode(file string, conf map[string]any, tensors []checkpoint.Tensor) (*Result, error) {
	d := &decoder{file: file, tensors: tensors, index: map[string]int{}, folded: map[int]*checkpoint.Tensor{}}
	for i, t := range tensors {
		d.index[t.Name] = i
	}
	if conf == nil {
		return &Result{Tensors: tensors}, d.undeclared()
	}
	data, err := json.Marshal(conf)
	if err == nil {
		err = json.Unmarshal(data, &d.conf)
	}
	if err != nil {
		var te *json.UnmarshalTypeError
		if errors.As(err, &te) {
			return nil, formats.Malformedf(file, -1, "%s.%s: a %s is not what is expected there", Key, te.Field, te.Value)
		}
		return nil, formats.Malformedf(file, -1, "%s: %v", Key, err)
	}
	method := methods[d.conf.Method]
	if method == nil {
		return nil, d.unsupported("quant_method", d.conf.Method, "known here: "+strings.Join(slices.Sorted(maps.Keys(methods)), ", "))
	}
	if err := method(d); err != nil {
		return nil, err
	}
	return d.result(), nil
}

// decoder is what a method works with.
type decoder struct {
	file    string
	conf    settings
	tensors []checkpoint.Tensor
	index   map[string]int

	folded map[int]*checkpoint.Tensor // what stands in a tensor's place; nil: nothing
	added  []checkpoint.Tensor
	unused []string
	mxfp4  bool
}

// unsupported is the error for a setting that is not understood; a nil value is
// not shown.
func (d *decoder) unsupported(key string, value any, more string) error {
	text := ""
	switch v := value.(type) {
	case nil:
	case string:
		text = " " + formats.Quote(v)
	default:
		text = fmt.Sprint(" ", v)
	}
	if more != "" {
		more = "; " + more
	}
	return formats.Unsupportedf(d.file, -1, "%s.%s%s is not supported%s", Key, key, text, more).
		WithHint("convert the model's checkpoint as it was before quantization")
}

// undeclared refuses packed tensors that no config describes.
func (d *decoder) undeclared() error {
	for _, t := range d.tensors {
		for _, s := range []string{".qweight", ".weight_packed", ".weight_scale", ".weight_scale_inv"} {
			if strings.HasSuffix(t.Name, s) {
				return formats.Unsupportedf(t.File, -1, "tensor %s is of quantized weights, but %s has no %s that says how", formats.Quote(t.Name), d.file, Key)
			}
		}
	}
	return nil
}

// find returns a tensor that must be there.
func (d *decoder) find(name string) (*checkpoint.Tensor, error) {
	i, ok := d.index[name]
	if !ok {
		return nil, formats.Malformedf(d.file, -1, "tensor %s is missing, which %s %s needs", formats.Quote(name), Key, formats.Quote(d.conf.Method))
	}
	return &d.tensors[i], nil
}

// optional returns a tensor that need not be there.
func (d *decoder) optional(name string) *checkpoint.Tensor {
	if i, ok := d.index[name]; ok {
		return &d.tensors[i]
	}
	return nil
}

// drop removes tensors that went into another.
func (d *decoder) drop(names ...string) {
	for _, n := range names {
		if i, ok := d.index[n]; ok {
			d.folded[i] = nil
		}
	}
}

// replace puts decoded weights in the place of the tensor called name.
func (d *decoder) replace(name string, t checkpoint.Tensor) { d.folded[d.index[name]] = &t }

// add appends decoded weights, which must be new.
func (d *decoder) add(t checkpoint.Tensor) error {
	if other := d.optional(t.Name); other != nil {
		return formats.Malformedf(other.File, -1, "tensor %s is there both quantized and not", formats.Quote(t.Name))
	}
	d.added = append(d.added, t)
	return nil
}

// dropUnused removes the tensors whose names end in one of suffixes.
func (d *decoder) dropUnused(suffixes ...string) {
	for i, t := range d.tensors {
		for _, s := range suffixes {
			if strings.HasSuffix(t.Name, s) {
				d.folded[i] = nil
				d.unused = append(d.unused, t.Name)
				break
			}
		}
	}
}

// each calls f with the stem of every tensor whose name ends in suffix.
func (d *decoder) each(suffix string, f func(stem string, t *checkpoint.Tensor) error) error {
	for i := range d.tensors {
		if stem, ok := strings.CutSuffix(d.tensors[i].Name, suffix); ok {
			if err := f(stem, &d.tensors[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *decoder) result() *Result {
	r := &Result{Unused: d.unused, MXFP4: d.mxfp4}
	for i, t := range d.tensors {
		if f, ok := d.folded[i]; !ok {
			r.Tensors = append(r.Tensors, t)
		} else if f != nil {
			r.Tensors = append(r.Tensors, *f)
		}
	}
	r.Tensors = append(r.Tensors, d.added...)
	return r
}

// decoded is the description of weights that rows read.
func decoded(name string, shape []int, from *checkpoint.Tensor, rows stream.Rows) checkpoint.Tensor {
	return checkpoint.Tensor{Name: name, Shape: shape, DType: formats.F32, Rows: rows, File: from.File}
}

// want checks a tensor's type and shape; -1 stands for any size.
func want(t *checkpoint.Tensor, shape []int, types ...formats.DType) error {
	ok := slices.Contains(types, t.DType) && len(t.Shape) == len(shape)
	for i := 0; ok && i < len(shape); i++ {
		ok = t.Shape[i] == shape[i] || shape[i] < 0 && t.Shape[i] > 0
	}
	if ok {
		return nil
	}
	var names []string
	for _, d := range types {
		names = append(names, d.String())
	}
	return formats.Malformedf(t.File, -1, "%s is %v %s, expected %s %s", formats.Quote(t.Name), t.DType, dims(t.Shape),
		strings.Join(names, " or "), dims(shape))
}

// dims prints a shape; -1 as *.
func dims(shape []int) string {
	return strings.NewReplacer(" ", ",", "-1", "*").Replace(fmt.Sprint(shape))
}

var floatTypes = []formats.DType{formats.F16, formats.BF16, formats.F32}

// floats reads n elements of a tensor, counted through its rows, as float32.
func floats(t *checkpoint.Tensor, first, n int) ([]float32, error) {
	typ := t.Rows.Type()
	raw := make([]byte, n*typ.BlockSize())
	if err := checkpoint.ReadElems(t.Rows, raw, first, n); err != nil {
		return nil, err
	}
	out := make([]float32, n)
	if table := bytes8[t.DType]; table != nil {
		for i, b := range raw {
			out[i] = table[b]
		}
		return out, nil
	}
	quant.Decode(typ, out, raw)
	return out, nil
}
