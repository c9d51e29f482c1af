package arch

import (
	"math"
	"strings"
	"sync"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/internal/stream"
	"github.com/smeltgguf/smelt/quant"
)

// quantized is what quantization_config says about weights that are quantized
// already: FP8 (E4M3) with a scale per tensor, per row or per block.
type quantized struct {
	blockRows, blockCols int // 0: the scale's shape tells
}

// readQuantized looks at quantization_config. What is not understood is refused
// by name here, because the tensors would otherwise be reported as missing.
func (b *builder) readQuantized() {
	q := b.cfg.object("quantization_config")
	if q == nil {
		return
	}
	refuse := func(what string) {
		panic(failure{formats.Unsupportedf(q.file, -1, "%s", what).WithHint("convert the model's unquantized checkpoint")})
	}
	switch method := q.text("", "quant_method"); method {
	case "mxfp4":
		if b.f != gptOSSFamily {
			refuse("quantization_config: mxfp4 is supported for gpt-oss only")
		}
	case "fp8":
		b.quantized = &quantized{}
		if _, list, ok := q.find([]string{"weight_block_size"}); ok {
			sizes, _ := list.([]any)
			if len(sizes) == 2 {
				r, _ := integer(sizes[0])
				c, _ := integer(sizes[1])
				b.quantized.blockRows, b.quantized.blockCols = int(r), int(c)
			}
			if b.quantized.blockRows < 1 || b.quantized.blockCols < 1 {
				q.bad(formats.Malformed, "quantization_config.weight_block_size: want two sizes, got %s", show(list))
			}
		}
	case "compressed-tensors":
		if format := q.text("", "format"); format != "float-quantized" && format != "naive-quantized" {
			refuse("quantization_config: compressed-tensors of format " + formats.Quote(format) + " are not supported")
		}
		b.quantized = &quantized{}
	default:
		refuse("quantization_config: weights quantized with " + formats.Quote(method) + " are not supported")
	}
}

// dequantized returns an FP8 tensor of the checkpoint times its scale. The
// tensors that hold scales of activations are of no use here.
func (b *builder) dequantized(name string, i int) shaped {
	t := &b.ck.Tensors[i]
	b.skipScales(name)
	var scale int
	found := false
	for _, s := range []string{name + "_scale_inv", name + "_scale"} {
		if scale, found = b.index[s]; found {
			break
		}
	}
	if !found || len(t.Shape) != 2 {
		panic(failure{formats.Malformedf(t.File, -1, "%s is F8_E4M3 %s without a scale", formats.Quote(name), dims(t.Shape))})
	}
	b.claimed[i], b.claimed[scale] = true, true
	sc := &b.ck.Tensors[scale]
	if err := sc.Weights(); err != nil {
		panic(failure{err})
	}
	d := &fp8{Rows: t.Rows, scales: sc.Rows, blockRows: b.quantized.blockRows, blockCols: b.quantized.blockCols}
	rows, cols := t.Shape[0], t.Shape[1]
	n := sc.Rows.Count() * sc.Rows.Len()
	switch {
	case n == 1:
		d.blockRows, d.blockCols = rows, cols
	case n == rows:
		d.blockRows, d.blockCols = 1, cols
	}
	if d.blockRows < 1 || n != ceilDiv(rows, d.blockRows)*ceilDiv(cols, d.blockCols) {
		panic(failure{formats.Malformedf(sc.File, -1, "%s %s does not fit weights of %s", formats.Quote(sc.Name), dims(sc.Shape), dims(t.Shape))})
	}
	d.perRow = ceilDiv(cols, d.blockCols)
	return shaped{rows: d, shape: t.Shape, order: i}
}

func ceilDiv(a, b int) int { return (a + b - 1) / b }

// skipScales passes over the scales of activations beside a weight.
func (b *builder) skipScales(name string) {
	stem := strings.TrimSuffix(name, "weight")
	for _, s := range []string{"input_scale", "activation_scale", "output_scale", "k_scale", "v_scale"} {
		b.skip(stem + s)
	}
}

// fp8 is a matrix of E4M3 numbers times the scales of its blocks, in float32.
type fp8 struct {
	stream.Rows
	scales               stream.Rows
	blockRows, blockCols int
	perRow               int // scales for one row

	once   sync.Once
	values []float32
	err    error
}

func (f *fp8) Type() quant.Type { return quant.F32 }

func (f *fp8) ReadRows(dst []byte, first, n int) error {
	f.once.Do(func() { f.values, f.err = readFloats(f.scales, 0, f.scales.Count()) })
	if f.err != nil {
		return f.err
	}
	cols := f.Len()
	raw := make([]byte, n*cols)
	if err := f.Rows.ReadRows(raw, first, n); err != nil {
		return err
	}
	out := make([]float32, n*cols)
	for i := range n {
		scales := f.values[(first+i)/f.blockRows*f.perRow:][:f.perRow]
		for j := range cols {
			out[i*cols+j] = e4m3[raw[i*cols+j]] * scales[j/f.blockCols]
		}
	}
	quant.Encode(quant.F32, dst, out, nil)
	return nil
}

// e4m3 are the values of FP8 E4M3 (OCP 8-bit Floating Point Specification):
// bias 7, no infinities, NaN where all other bits are ones.
var e4m3 = func() (t [256]float32) {
	for i := range t {
		exp, frac := i>>3&15, float64(i&7)
		v := math.Ldexp(frac, -9)
		if exp > 0 {
			v = math.Ldexp(8+frac, exp-10)
		}
		if i&0x7f == 0x7f {
			v = math.NaN()
		}
		if i&0x80 != 0 {
			v = -v
		}
		t[i] = float32(v)
	}
	return t
}()
