package dequant

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/x448/float16"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/internal/checkpoint"
	"github.com/smeltgguf/smelt/quant"
)

// entry is a tensor of a safetensors file.
type entry struct {
	name, dtype string
	shape       []int
	data        []byte
}

func bytesOf(name, dtype string, data []byte, shape ...int) entry {
	return entry{name, dtype, shape, data}
}

func ints(name string, v []int32, shape ...int) entry {
	return entry{name, "I32", shape, le(v)}
}

func floats32(name string, v []float32, shape ...int) entry {
	return entry{name, "F32", shape, le(v)}
}

// halves are numbers that F16 holds exactly.
func halves(name string, v []float32, shape ...int) entry {
	var u []uint16
	for _, f := range v {
		u = append(u, float16.Fromfloat32(f).Bits())
	}
	return entry{name, "F16", shape, le(u)}
}

func le(v any) []byte {
	var b bytes.Buffer
	if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// open writes a checkpoint of the entries and opens it.
func open(t testing.TB, entries ...entry) *checkpoint.Checkpoint {
	t.Helper()
	header := map[string]any{}
	var data []byte
	for _, e := range entries {
		if e.shape == nil {
			e.shape = []int{} // a scalar
		}
		header[e.name] = map[string]any{"dtype": e.dtype, "shape": e.shape, "data_offsets": []int{len(data), len(data) + len(e.data)}}
		data = append(data, e.data...)
	}
	head, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	file := append(binary.LittleEndian.AppendUint64(nil, uint64(len(head))), head...)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "model.safetensors"), append(file, data...), 0o666); err != nil {
		t.Fatal(err)
	}
	ck, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ck.Close() })
	return ck
}

func decode(t testing.TB, conf string, entries ...entry) (*Result, error) {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(conf))
	dec.UseNumber()
	var m map[string]any
	if err := dec.Decode(&m); err != nil {
		t.Fatal(err)
	}
	return Decode("config.json", m, open(t, entries...).Tensors)
}

// check decodes and compares one tensor, read in pieces of several sizes.
func check(t *testing.T, name string, shape []int, want []float32, conf string, entries ...entry) *Result {
	t.Helper()
	r, err := decode(t, conf, entries...)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(r.Tensors, func(x checkpoint.Tensor) bool { return x.Name == name })
	if i < 0 {
		t.Fatalf("no %s among %d tensors", name, len(r.Tensors))
	}
	x := r.Tensors[i]
	if err := x.Weights(); err != nil || !slices.Equal(x.Shape, shape) {
		t.Fatalf("shape %v, want %v; %v", x.Shape, shape, err)
	}
	for _, per := range []int{1, 3, x.Count()} {
		size := x.Type().RowSize(x.Len())
		raw := make([]byte, x.Count()*size)
		for at := 0; at < x.Count(); at += per {
			n := min(per, x.Count()-at)
			if err := x.ReadRows(raw[at*size:][:n*size], at, n); err != nil {
				t.Fatal(err)
			}
		}
		got := make([]float32, x.Count()*x.Len())
		quant.Decode(x.Type(), got, raw)
		if len(got) != len(want) {
			t.Fatalf("%d elements, want %d", len(got), len(want))
		}
		for i, v := range got {
			if math.Float32bits(v) != math.Float32bits(want[i]) && !(v != v && want[i] != want[i]) {
				t.Fatalf("by %d rows: element %d is %g, want %g", per, i, v, want[i])
			}
		}
	}
	return r
}

// pack puts integers of some bits into words, at the places that order says.
func pack(v []int, bits int, order []int) int32 {
	var w uint32
	for i, x := range v {
		w |= uint32(x) << (order[i] * bits)
	}
	return int32(w)
}

func upTo(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

// half is a random number that F16 holds.
func half(rng *rand.Rand) float32 {
	return float16.Fromfloat32(float32(rng.NormFloat64() / 50)).Float32()
}

// TestGPTQ packs integers as AutoGPTQ does and expects scale * (q - zero),
// where the zero point of the older format is one more than what is stored.
func TestGPTQ(t *testing.T) {
	const in, out, group = 64, 32, 16
	for _, bits := range []int{2, 4, 8} {
		for _, kind := range []string{"plain", "act-order", "no g_idx", "v2"} {
			t.Run(fmt.Sprintf("%d bits %s", bits, kind), func(t *testing.T) {
				rng := rand.New(rand.NewPCG(uint64(bits), 1))
				per, levels := 32/bits, 1<<bits
				q, zeros := make([]int, in*out), make([]int, in/group*out)
				for i := range q {
					q[i] = rng.IntN(levels)
				}
				scales := make([]float32, len(zeros))
				for i := range zeros {
					zeros[i], scales[i] = rng.IntN(levels), half(rng)
				}
				zeros[0], q[0] = levels-1, levels-1
				index := make([]int32, in)
				for j := range index {
					index[j] = int32(j / group)
				}
				if kind == "act-order" {
					rng.Shuffle(in, func(a, b int) { index[a], index[b] = index[b], index[a] })
				}
				var qw, qz []int32
				for w := range in / per {
					for o := range out {
						var v []int
						for i := range per {
							v = append(v, q[(w*per+i)*out+o])
						}
						qw = append(qw, pack(v, bits, upTo(per)))
					}
				}
				for i := 0; i < len(zeros); i += per {
					qz = append(qz, pack(zeros[i:i+per], bits, upTo(per)))
				}
				conf := fmt.Sprintf(`{"quant_method": "gptq", "bits": %d, "group_size": %d, "sym": false}`, bits, group)
				offset := 1
				if kind == "v2" {
					conf, offset = conf[:len(conf)-1]+`, "checkpoint_format": "gptq_v2"}`, 0
				}
				want := make([]float32, out*in)
				for o := range out {
					for j := range in {
						g := int(index[j])
						want[o*in+j] = scales[g*out+o] * float32(q[j*out+o]-(zeros[g*out+o]+offset))
					}
				}
				entries := []entry{
					ints("l.qweight", qw, in/per, out), ints("l.qzeros", qz, in/group, out/per), halves("l.scales", scales, in/group, out),
					halves("l.bias", scales[:out], out), halves("z.weight", scales[:2], 2),
				}
				if kind != "no g_idx" {
					entries = append(entries, ints("l.g_idx", index, in))
				}
				r := check(t, "l.weight", []int{out, in}, want, conf, entries...)
				if len(r.Tensors) != 3 || r.Tensors[2].Name != "l.weight" {
					t.Errorf("%d tensors; new ones come last", len(r.Tensors))
				}
			})
		}
	}
}

// TestAWQ packs as AutoAWQ's gemm does: the i-th of 8 places in a word is output
// 0, 2, 4, 6, 1, 3, 5, 7.
func TestAWQ(t *testing.T) {
	const in, out, group = 32, 24, 8
	order := []int{0, 2, 4, 6, 1, 3, 5, 7}
	rng := rand.New(rand.NewPCG(3, 4))
	random := func(n int) (v []int, words []int32) {
		for i := range n {
			v = append(v, rng.IntN(16))
			if i%8 == 7 {
				var in [8]int
				for place, o := range order {
					in[place] = v[i-7+o]
				}
				words = append(words, pack(in[:], 4, upTo(8)))
			}
		}
		return v, words
	}
	q, qw := random(in * out)
	zeros, qz := random(in / group * out)
	scales := make([]float32, len(zeros))
	for i := range scales {
		scales[i] = half(rng)
	}
	want := make([]float32, out*in)
	for o := range out {
		for j := range in {
			g := j / group
			want[o*in+j] = float32(q[j*out+o]-zeros[g*out+o]) * scales[g*out+o]
		}
	}
	check(t, "l.weight", []int{out, in}, want, `{"quant_method": "awq", "bits": 4, "group_size": 8, "version": "GEMM", "zero_point": true}`,
		ints("l.qweight", qw, in, out/8), ints("l.qzeros", qz, in/group, out/8), halves("l.scales", scales, in/group, out))
}

// TestPacked: compressed-tensors' pack-quantized: rows that fill their last word
// or not, zero points packed along the outputs, groups in any order.
func TestPacked(t *testing.T) {
	const out, in = 11, 20
	for _, bits := range []int{2, 4, 8} {
		for _, kind := range []string{"group", "channel", "zero points", "act-order"} {
			t.Run(fmt.Sprintf("%d bits %s", bits, kind), func(t *testing.T) {
				rng := rand.New(rand.NewPCG(uint64(bits), 7))
				per, levels, groups := 32/bits, 1<<bits, 4
				if kind == "channel" {
					groups = 1
				}
				rowWords := (in + per - 1) / per
				q, words := make([]int, out*in), make([]int32, out*rowWords)
				for i := range q {
					q[i] = rng.IntN(levels)
					words[i/in*rowWords+i%in/per] |= pack([]int{q[i]}, bits, []int{i % in % per})
				}
				scales, zeros := make([]float32, out*groups), make([]int, out*groups)
				zeroWords := make([]int32, (out+per-1)/per*groups)
				for i := range scales {
					scales[i], zeros[i] = half(rng), levels/2
					if kind == "zero points" {
						zeros[i] = rng.IntN(levels)
					}
					o, g := i/groups, i%groups
					zeroWords[o/per*groups+g] |= pack([]int{zeros[i]}, bits, []int{o % per})
				}
				index := make([]int32, in)
				for j := range index {
					index[j] = int32(j * groups / in)
				}
				entries := []entry{
					ints("l.weight_packed", words, out, rowWords), halves("l.weight_scale", scales, out, groups),
					bytesOf("l.weight_shape", "I64", le([]int64{out, in}), 2), halves("l.input_scale", []float32{2}, 1),
				}
				conf := fmt.Sprintf(`"num_bits": %d, "type": "int", "strategy": "group", "group_size": 5, "symmetric": true`, bits)
				switch kind {
				case "channel":
					conf = fmt.Sprintf(`"num_bits": %d, "type": "int", "strategy": "channel", "group_size": null`, bits)
				case "zero points":
					conf = strings.Replace(conf, "true", "false", 1)
					entries = append(entries, ints("l.weight_zero_point", zeroWords, (out+per-1)/per, groups))
				case "act-order":
					rng.Shuffle(in, func(a, b int) { index[a], index[b] = index[b], index[a] })
					entries = append(entries, ints("l.weight_g_idx", index, in))
				}
				want := make([]float32, out*in)
				for i := range want {
					o, g := i/in, int(index[i%in])
					want[i] = float32(q[i]-zeros[o*groups+g]) * scales[o*groups+g]
				}
				r := check(t, "l.weight", []int{out, in}, want,
					`{"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": {"weights": {`+conf+`}}}}`, entries...)
				if len(r.Tensors) != 1 || len(r.Unused) != 1 || r.Unused[0] != "l.input_scale" {
					t.Errorf("%d tensors, unused %q", len(r.Tensors), r.Unused)
				}
			})
		}
	}
}

// e4m3Value is computed from the definition, with sums of bits.
func e4m3Value(b byte) float32 {
	if b&0x7f == 0x7f {
		return float32(math.NaN())
	}
	frac, exp := float64(b>>2&1)/2+float64(b>>1&1)/4+float64(b&1)/8, float64(b>>3&15)
	v := math.Exp2(exp-7) * (1 + frac)
	if exp == 0 {
		v = math.Exp2(-6) * frac
	}
	if b >= 0x80 {
		v = -v
	}
	return float32(v)
}

func TestFloat8(t *testing.T) {
	same := func(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) || a != a && b != b }
	for i := range 256 {
		b := byte(i)
		if got, want := float32(e4m3(b)), e4m3Value(b); !same(got, want) {
			t.Errorf("E4M3 %#x is %g, want %g", b, got, want)
		}
		if got, want := float32(e5m2(b)), float16.Frombits(uint16(b)<<8).Float32(); !same(got, want) {
			t.Errorf("E5M2 %#x is %g, want %g", b, got, want)
		}
		// E8M0 is the exponent of a float32, whose smallest is denormal.
		want := math.Float32frombits(uint32(b) << 23)
		switch b {
		case 0:
			want = math.Float32frombits(1 << 22)
		case 255:
			want = float32(math.NaN())
		}
		if got := float32(e8m0(b)); !same(got, want) {
			t.Errorf("E8M0 %#x is %g, want %g", b, got, want)
		}
	}
}

// TestScaled: bytes times scales of every form.
func TestScaled(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	compressed := func(s string) string {
		return `{"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {"g": {"weights": {"num_bits": 8, "type": "float", ` + s + `}}}}`
	}
	for _, tt := range []struct {
		name, conf, scale string
		weights           []int
		scales            []int
		blocks            [3]int // in the three last dimensions
	}{
		{"tensor", `{"quant_method": "fp8", "activation_scheme": "static"}`, "weight_scale", []int{5, 7}, []int{1}, [3]int{1, 5, 7}},
		{"scalar", `{"quant_method": "modelopt", "quant_algo": "FP8"}`, "weight_scale", []int{5, 7}, []int{}, [3]int{1, 5, 7}},
		{"rows", `{"quant_method": "fp8"}`, "weight_scale_inv", []int{5, 7}, []int{5}, [3]int{1, 1, 7}},
		{"blocks", `{"quant_method": "fp8", "weight_block_size": [2, 3]}`, "weight_scale_inv", []int{5, 7}, []int{3, 3}, [3]int{1, 2, 3}},
		{"one block", `{"quant_method": "fp8", "weight_block_size": [128, 128]}`, "weight_scale_inv", []int{5, 7}, []int{1, 1}, [3]int{1, 5, 7}},
		{"a column of blocks", `{"quant_method": "fp8", "weight_block_size": [2, 128]}`, "weight_scale_inv", []int{5, 7}, []int{3, 1}, [3]int{1, 2, 7}},
		{"experts", `{"quant_method": "fp8"}`, "weight_scale_inv", []int{3, 5, 7}, []int{3}, [3]int{1, 5, 7}},
		{"experts' blocks", `{"quant_method": "fp8", "weight_block_size": [2, 3]}`, "weight_scale_inv", []int{3, 5, 7}, []int{3, 3, 3}, [3]int{1, 2, 3}},
		{"Mistral", `{"quant_method": "fp8"}`, "qscale_weight", []int{5, 7}, []int{}, [3]int{1, 5, 7}},
		{"channel", compressed(`"strategy": "channel"`), "weight_scale", []int{5, 7}, []int{5, 1}, [3]int{1, 1, 7}},
		{"one of all", compressed(`"strategy": "tensor"`), "weight_scale", []int{5, 7}, []int{1}, [3]int{1, 5, 7}},
		{"structure", compressed(`"strategy": "block", "block_structure": [2, 3]`), "weight_scale", []int{5, 7}, []int{3, 3}, [3]int{1, 2, 3}},
		{"structure in words", compressed(`"strategy": "block", "block_structure": "2x3"`), "weight_scale", []int{5, 7}, []int{3, 3}, [3]int{1, 2, 3}},
		{"groups", compressed(`"strategy": "group", "group_size": 2`), "weight_scale", []int{5, 8}, []int{5, 4}, [3]int{1, 1, 2}},
		{"int8", strings.NewReplacer("float-q", "int-q", `"float"`, `"int"`).Replace(compressed(`"strategy": "channel"`)), "weight_scale", []int{5, 7}, []int{5, 1}, [3]int{1, 1, 7}},
		{"naive int8", strings.NewReplacer("float-q", "naive-q", `"float"`, `"int"`).Replace(compressed(`"strategy": "tensor"`)), "weight_scale", []int{5, 7}, []int{1}, [3]int{1, 5, 7}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n, s := 1, 1
			for _, d := range tt.weights {
				n *= d
			}
			for _, d := range tt.scales {
				s *= d
			}
			w, scales := make([]byte, n), make([]float32, s)
			for i := range w {
				w[i] = byte(rng.Uint32())
			}
			for i := range scales {
				scales[i] = rng.Float32()
			}
			dtype, value := "F8_E4M3", e4m3Value
			if strings.Contains(tt.name, "int8") {
				dtype, value = "I8", func(b byte) float32 { return float32(int8(b)) }
			}
			full := append(make([]int, 0, 3), tt.weights...)
			if len(full) == 2 {
				full = append([]int{1}, full...)
			}
			want := make([]float32, n)
			for i := range want {
				at, left := 0, i
				index := [3]int{left / (full[1] * full[2]), left / full[2] % full[1], left % full[2]}
				for d := range full {
					at = at*((full[d]+tt.blocks[d]-1)/tt.blocks[d]) + index[d]/tt.blocks[d]
				}
				want[i] = value(w[i]) * scales[at]
			}
			r := check(t, "l.weight", tt.weights, want, tt.conf,
				bytesOf("l.weight", dtype, w, tt.weights...), floats32("l."+tt.scale, scales, tt.scales...),
				floats32("l.input_scale", []float32{3}), floats32("z.weight", scales[:1], 1))
			if len(r.Tensors) != 2 || r.Tensors[0].Name != "l.weight" || len(r.Unused) != 1 {
				t.Errorf("%d tensors, first is %s", len(r.Tensors), r.Tensors[0].Name)
			}
		})
	}
}

// TestScaleTypes: scales of other types than float32.
func TestScaleTypes(t *testing.T) {
	const conf = `{"quant_method": "fp8"}`
	w := bytesOf("l.weight", "F8_E5M2", []byte{0x3c, 0x40}, 2, 1)
	check(t, "l.weight", []int{2, 1}, []float32{0.5, 4}, conf, w, halves("l.weight_scale", []float32{0.5, 2}, 2))
	check(t, "l.weight", []int{2, 1}, []float32{0.5, 4}, conf, w, bytesOf("l.weight_scale", "BF16", le([]uint16{0x3f00, 0x4000}), 2))
	check(t, "l.weight", []int{2, 1}, []float32{0.5, 4}, conf, w, bytesOf("l.weight_scale", "F8_E8M0", []byte{126, 128}, 2))
}

// TestMXFP4: the values of repacked blocks are those of the checkpoint's, whose
// bytes hold neighbours.
func TestMXFP4(t *testing.T) {
	const rows, blocks = 6, 2
	rng := rand.New(rand.NewPCG(1, 2))
	data, scales := make([]byte, rows*blocks*16), make([]byte, rows*blocks)
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	for i := range scales {
		scales[i] = byte(120 + rng.IntN(16))
	}
	// E2M1: OCP Microscaling Formats, table 1.
	values := []float64{0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6}
	want := make([]float32, rows*blocks*32)
	for i := range want {
		code := data[i/2] >> (i % 2 * 4) & 15
		want[i] = float32(values[code] * math.Exp2(float64(scales[i/32])-127)) // ggml has one zero
	}
	for _, shape := range [][]int{{rows, blocks, 16}, {2, rows / 2, blocks, 16}} {
		n := len(shape)
		full := append(slices.Clone(shape[:n-2]), blocks*32)
		r := check(t, "l", full, want, `{"quant_method": "mxfp4"}`,
			bytesOf("l_blocks", "U8", data, shape...), bytesOf("l_scales", "U8", scales, shape[:n-1]...))
		if !r.MXFP4 || len(r.Tensors) != 1 || r.Tensors[0].Type() != quant.MXFP4 {
			t.Errorf("%+v", r)
		}
	}
}

// TestRefuses: methods and settings that are not understood, and tensors that do
// not fit together. None may panic or wait for the weights to be read.
func TestRefuses(t *testing.T) {
	zero := func(name, dtype string, size int, shape ...int) entry {
		n := size
		for _, d := range shape {
			n *= d
		}
		return bytesOf(name, dtype, make([]byte, n), shape...)
	}
	gptq := func(change string, shape ...int) []entry {
		list := []entry{zero("l.qweight", "I32", 4, 2, 8), zero("l.qzeros", "I32", 4, 2, 1), zero("l.scales", "F16", 2, 2, 8), zero("l.g_idx", "I32", 4, 16)}
		for i, e := range list {
			if e.name == change {
				size := map[string]int{"I32": 4, "F16": 2}[e.dtype]
				list[i] = zero(e.name, e.dtype, size, shape...)
			}
		}
		return list
	}
	packed := func(shape []int64, e ...entry) []entry {
		return append([]entry{bytesOf("l.weight_shape", "I64", le(shape), len(shape)), zero("l.weight_packed", "I32", 4, 3, 2)}, e...)
	}
	compressed := func(format, weights string) string {
		return `{"quant_method": "compressed-tensors", "format": "` + format + `", "config_groups": {"g": {"weights": {` + weights + `}}}}`
	}
	const int4 = `"num_bits": 4, "strategy": "group", "group_size": 8`
	for _, tt := range []struct {
		conf    string
		entries []entry
		want    string
	}{
		{`{"quant_method": "bitsandbytes"}`, nil, `quantization_config.quant_method "bitsandbytes" is not supported; known here: awq, compressed-tensors, fp8, gptq, modelopt, mxfp4`},
		{`{"bits": 4}`, nil, `quantization_config.quant_method "" is not supported`},
		{`{"quant_method": 4}`, nil, `quantization_config.quant_method: a number is not what is expected there`},
		{`{"quant_method": "gptq", "bits": 4.5}`, nil, `quantization_config.bits: a number 4.5 is not what is expected there`},
		{`{"quant_method": "gptq", "bits": 3}`, nil, "quantization_config.bits 3 is not supported; known here: 2, 4, 8"},
		{`{"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}`, nil, `quantization_config.checkpoint_format "marlin" is not supported`},
		{`{"quant_method": "gptq", "bits": 4, "is_marlin_format": true}`, nil, `is_marlin_format true is not supported`},
		{`{"quant_method": "gptq", "bits": 4, "dynamic": {"+:x": {"bits": 8}}}`, nil, `quantization_config.dynamic is not supported`},
		{`{"quant_method": "awq", "bits": 8}`, nil, "quantization_config.bits 8 is not supported; known here: 4"},
		{`{"quant_method": "awq", "bits": 4, "version": "gemv"}`, nil, `quantization_config.version "gemv" is not supported`},
		{`{"quant_method": "awq", "bits": 4, "zero_point": false}`, nil, "quantization_config.zero_point false is not supported"},
		{`{"quant_method": "modelopt", "quant_algo": "NVFP4"}`, nil, `quantization_config.quant_algo "NVFP4" is not supported`},
		{`{"quant_method": "fp8", "weight_block_size": [128]}`, nil, "weight_block_size: want two sizes, got [128]"},
		{compressed("nvfp4-pack-quantized", int4), nil, `quantization_config.format "nvfp4-pack-quantized" is not supported`},
		{compressed("pack-quantized", `"num_bits": 3, "strategy": "group", "group_size": 8`), nil, "num_bits 3 is not supported"},
		{compressed("pack-quantized", `"num_bits": 4, "strategy": "tensor"`), nil, `strategy "tensor" is not supported`},
		{compressed("pack-quantized", `"num_bits": 4, "strategy": "group"`), nil, `config_groups.weights.group_size is not supported; a group needs a size`},
		{compressed("float-quantized", `"num_bits": 4, "type": "float"`), nil, "num_bits 4 is not supported"},
		{compressed("float-quantized", `"num_bits": 8, "type": "float", "strategy": "block", "block_structure": "axb"`), nil, `block_structure "\"axb\"" is not supported`},
		{`{"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"a": {}, "b": {}}}`, nil, "config_groups is not supported; 2 groups"},
		{`{"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"a": null}}`, nil, "config_groups.a is not supported"},
		{`{"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-24-bitmask"}}`, nil, `sparsity_config.format "sparse-24-bitmask" is not supported`},

		{`{"quant_method": "gptq", "bits": 4}`, gptq("l.qweight", 16), `"l.qweight" is I32 [16], expected I32 [*,*]`},
		{`{"quant_method": "gptq", "bits": 4}`, gptq("l.qweight", 0, 8), `"l.qweight" is I32 [0,8], expected I32 [*,*]`},
		{`{"quant_method": "gptq", "bits": 4}`, gptq("l.qzeros", 2, 2), `"l.qzeros" is I32 [2,2], expected I32 [2,1]`},
		{`{"quant_method": "gptq", "bits": 4}`, gptq("l.scales", 2, 7), `"l.scales" is F16 [2,7], expected F16 or BF16 or F32 [*,8]`},
		{`{"quant_method": "gptq", "bits": 4}`, gptq("l.scales", 17, 8), `"l.scales" has 17 groups, more than the 16 inputs`},
		{`{"quant_method": "gptq", "bits": 4}`, gptq("l.g_idx", 15), `"l.g_idx" is I32 [15], expected I32 or I64 [16]`},
		{`{"quant_method": "gptq", "bits": 4}`, gptq("")[:2], `tensor "l.scales" is missing`},
		{`{"quant_method": "gptq", "bits": 4, "desc_act": true}`, gptq("")[:3], `tensor "l.g_idx" is missing`},
		{`{"quant_method": "gptq", "bits": 4, "group_size": 4}`, gptq("")[:3], `"l.scales" has 2 groups, group_size 4 implies another number for 16 inputs`},
		{`{"quant_method": "gptq", "bits": 4, "group_size": 0}`, gptq("")[:3], "group_size 0 implies another number"},
		{`{"quant_method": "gptq", "bits": 4}`, append(gptq(""), zero("l.weight", "F16", 2, 8, 16)), `tensor "l.weight" is there both quantized and not`},
		{`{"quant_method": "gptq", "bits": 2}`, []entry{zero("l.qweight", "I32", 4, 1, 8), zero("l.scales", "F16", 2, 1, 8), zero("l.qzeros", "I32", 4, 1, 1)}, "8 outputs are no multiple of the 16 in a word"},

		{`{"quant_method": "fp8"}`, []entry{zero("l.weight_scale_inv", "F32", 4, 1)}, `tensor "l.weight" is missing`},
		{`{"quant_method": "fp8"}`, []entry{zero("l.weight", "F16", 2, 4, 4), zero("l.weight_scale", "F32", 4, 1)}, `"l.weight" is F16 [4,4], expected F8_E4M3 or F8_E5M2 [*,*]`},
		{`{"quant_method": "fp8"}`, []entry{zero("l.weight", "F8_E4M3", 1, 4, 4), zero("l.weight_scale", "F32", 4, 3)}, `"l.weight_scale" F32 [3] is no scale for weights of [4,4]`},
		{`{"quant_method": "fp8"}`, []entry{zero("l.weight", "F8_E4M3", 1, 4, 4), zero("l.weight_scale", "F32", 4, 1, 1, 4)}, "is no scale for weights"},
		{`{"quant_method": "fp8"}`, []entry{zero("l.weight", "F8_E4M3", 1, 4, 4), zero("l.weight_scale", "I32", 4, 1)}, "is no scale for weights"},
		{`{"quant_method": "fp8", "weight_block_size": [2, 2]}`, []entry{zero("l.weight", "F8_E4M3", 1, 4, 4), zero("l.weight_scale", "F32", 4, 2, 3)}, "is no scale for weights"},
		{`{"quant_method": "fp8", "weight_block_size": [0, 2]}`, []entry{zero("l.weight", "F8_E4M3", 1, 4, 4), zero("l.weight_scale", "F32", 4, 2, 2)}, "is no scale for weights"},
		{`{"quant_method": "fp8"}`, []entry{zero("l.weight", "F8_E4M3", 1, 0, 4), zero("l.weight_scale", "F32", 4, 0)}, "[0,4], expected"},
		{compressed("int-quantized", `"num_bits": 8, "strategy": "channel"`), []entry{zero("l.weight", "I8", 1, 2, 2), zero("l.weight_zero_point", "I8", 1, 2, 1)}, `tensor "l.weight_zero_point": zero points are not supported`},

		{compressed("pack-quantized", int4), packed([]int64{3, 16})[1:], `tensor "l.weight_shape" is missing`},
		{compressed("pack-quantized", int4), packed([]int64{3, 16}), `tensor "l.weight_scale" is missing`},
		{compressed("pack-quantized", int4), packed([]int64{3, 17}), `"l.weight_packed" I32 [3,2] does not hold the [3,17] of "l.weight_shape" in 4 bits`},
		{compressed("pack-quantized", int4), packed([]int64{-1, 16}), "a size of 18446744073709551615 is not plausible"},
		{compressed("pack-quantized", int4), packed([]int64{0, 0}), "does not hold the [0,0]"},
		{compressed("pack-quantized", int4), packed([]int64{3, 16, 1}), `"l.weight_shape" is I64 [3], expected I64 or I32 [2]`},
		{compressed("pack-quantized", int4), packed([]int64{3, 12}), "rows of 12 are no multiple of group_size 8"},
		{compressed("pack-quantized", int4), packed([]int64{3, 16}, zero("l.weight_scale", "F16", 2, 3, 1)), `"l.weight_scale" is F16 [3,1], expected F16 or BF16 or F32 [3,2]`},
		{compressed("pack-quantized", int4+`, "symmetric": false`), packed([]int64{3, 16}, zero("l.weight_scale", "F16", 2, 3, 2)), `tensor "l.weight_zero_point" is missing`},
		{compressed("pack-quantized", int4), packed([]int64{3, 16}, zero("l.weight_scale", "F16", 2, 3, 2), zero("l.weight_zero_point", "I32", 4, 3, 2)), `"l.weight_zero_point" is I32 [3,2], expected I32 [1,2]`},

		{`{"quant_method": "mxfp4"}`, []entry{zero("l_blocks", "U8", 1, 2, 1, 16)}, `tensor "l_scales" is missing`},
		{`{"quant_method": "mxfp4"}`, []entry{zero("l_blocks", "U8", 1, 2, 16), zero("l_scales", "U8", 1, 2)}, `"l_blocks" U8 [2,16]: expected U8 with 16 in the last`},
		{`{"quant_method": "mxfp4"}`, []entry{zero("l_blocks", "U8", 1, 2, 1, 16), zero("l_scales", "U8", 1, 2, 2)}, `"l_scales" is U8 [2,2], expected U8 or F8_E8M0 [2,1]`},

		{`null`, []entry{zero("l.qweight", "I32", 4, 1)}, `tensor "l.qweight" is of quantized weights, but config.json has no quantization_config`},
	} {
		t.Run(tt.want, func(t *testing.T) {
			entries := append(tt.entries, zero("z", "F32", 4, 1))
			_, err := decode(t, tt.conf, entries...)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v\nwant  %s", err, tt.want)
			}
		})
	}
}

// TestGroupIndex: groups that do not exist are found when they are read.
func TestGroupIndex(t *testing.T) {
	for _, bad := range []int32{-1, 2, math.MaxInt32} {
		index := make([]int32, 16)
		index[5] = bad
		r, err := decode(t, `{"quant_method": "gptq", "bits": 4}`, ints("l.qweight", make([]int32, 16), 2, 8), ints("l.qzeros", make([]int32, 2), 2, 1),
			halves("l.scales", make([]float32, 16), 2, 8), ints("l.g_idx", index, 16))
		if err != nil {
			t.Fatal(err)
		}
		err = r.Tensors[0].ReadRows(make([]byte, 64), 0, 1)
		if want := fmt.Sprintf(`"l.g_idx": element 5 is %d, but there are 2 groups`, bad); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %s", err, want)
		}
	}
}

// zeros is a matrix of zero bytes that must not be read outside of its bounds.
type zeros struct {
	typ        quant.Type
	len, count int
}

func (z *zeros) Type() quant.Type { return z.typ }
func (z *zeros) Len() int         { return z.len }
func (z *zeros) Count() int       { return z.count }
func (z *zeros) ReadRows(dst []byte, first, n int) error {
	if first < 0 || n < 0 || first+n > z.count || len(dst) < n*z.typ.RowSize(z.len) {
		panic(fmt.Sprintf("rows %d to %d of %d into %d bytes", first, first+n, z.count, len(dst)))
	}
	clear(dst[:n*z.typ.RowSize(z.len)])
	return nil
}

// FuzzDecode: whatever the config says and the tensors are like, there is an
// error or weights that can be read.
func FuzzDecode(f *testing.F) {
	for _, conf := range []string{
		`{"quant_method": "gptq", "bits": 4, "group_size": 4}`, `{"quant_method": "gptq", "bits": 8, "desc_act": true}`, `{"quant_method": "awq", "w_bit": 4, "q_group_size": -1}`,
		`{"quant_method": "fp8", "weight_block_size": [2, 2]}`, `{"quant_method": "modelopt", "quant_algo": "FP8"}`, `{"quant_method": "mxfp4"}`,
		`{"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"g": {"weights": {"num_bits": 4, "strategy": "group", "group_size": 8}}}}`,
		`{"quant_method": "compressed-tensors", "format": "int-quantized", "config_groups": {"g": {"weights": {"num_bits": 8, "strategy": "block", "block_structure": "2x2"}}}}`,
	} {
		f.Add(conf, []byte{2, 2, 8, 1, 2, 2, 1, 1, 2, 2, 8, 4, 2, 16, 0, 0})
		f.Add(conf, []byte{2, 4, 4, 6, 2, 2, 2, 4})
	}
	types := []struct {
		dtype formats.DType
		typ   quant.Type
	}{{formats.I64, quant.I64}, {formats.I32, quant.I32}, {formats.U8, quant.I8}, {formats.I8, quant.I8},
		{formats.F16, quant.F16}, {formats.F32, quant.F32}, {formats.F8E4M3, quant.I8}, {formats.F8E8M0, quant.I8}}
	names := []string{"qweight", "qzeros", "scales", "g_idx", "weight", "weight_scale", "weight_scale_inv", "weight_packed", "weight_shape", "weight_zero_point", "weight_g_idx", "w_blocks", "w_scales"}
	f.Fuzz(func(t *testing.T, conf string, data []byte) {
		var m map[string]any
		dec := json.NewDecoder(strings.NewReader(conf))
		dec.UseNumber()
		if dec.Decode(&m) != nil {
			return
		}
		next := func() int {
			if len(data) == 0 {
				return 1
			}
			b := data[0]
			data = data[1:]
			return int(b)
		}
		var tensors []checkpoint.Tensor
		for _, name := range names {
			rank, count := next()%5, 1
			var shape []int
			for range rank {
				shape = append(shape, next()%20)
			}
			z := &zeros{len: 1}
			for i, d := range shape {
				if i == rank-1 {
					z.len = d
				} else {
					count *= d
				}
			}
			z.count = count
			typ := types[next()%len(types)]
			z.typ = typ.typ
			tensors = append(tensors, checkpoint.Tensor{Name: "l." + name, Shape: shape, DType: typ.dtype, Rows: z, File: "f"})
		}
		r, err := Decode("config.json", m, tensors)
		if err != nil {
			return
		}
		for _, x := range r.Tensors {
			for i := range x.Count() {
				if err := x.ReadRows(make([]byte, x.Type().RowSize(x.Len())), i, 1); err != nil {
					return
				}
			}
		}
	})
}
