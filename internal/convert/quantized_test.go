package convert

import (
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/smeltgguf/smelt/formats/gguf"
	"github.com/smeltgguf/smelt/internal/checkpoint"
	"github.com/smeltgguf/smelt/internal/dequant"
	"github.com/smeltgguf/smelt/quant"
)

// stored is a tensor of a safetensors file to be written.
type stored struct {
	dtype string
	shape []int
	data  []byte
}

func writeSafetensors(t *testing.T, path string, tensors map[string]stored) {
	t.Helper()
	header := map[string]any{}
	var data []byte
	for name, s := range tensors {
		header[name] = map[string]any{"dtype": s.dtype, "shape": s.shape, "data_offsets": []int{len(data), len(data) + len(s.data)}}
		data = append(data, s.data...)
	}
	head, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	file := append(binary.LittleEndian.AppendUint64(nil, uint64(len(head))), head...)
	if err := os.WriteFile(path, append(file, data...), 0o666); err != nil {
		t.Fatal(err)
	}
}

// setConfig changes a key of config.json; nil removes it.
func setConfig(t *testing.T, dir, key string, value any) {
	t.Helper()
	path := filepath.Join(dir, "config.json")
	data, err := os.ReadFile(path)
	config := map[string]any{}
	if err == nil {
		err = json.Unmarshal(data, &config)
	}
	if err != nil {
		t.Fatal(err)
	}
	config[key] = value
	if value == nil {
		delete(config, key)
	}
	if data, err = json.Marshal(config); err != nil {
		t.Fatal(err)
	}
	write(t, path, string(data))
}

// floatsOf reads a tensor as it stands in the file of floats that means the same.
func floatsOf(t *testing.T, x checkpoint.Tensor) stored {
	t.Helper()
	raw := make([]byte, x.Count()*x.Type().RowSize(x.Len()))
	if err := x.ReadRows(raw, 0, x.Count()); err != nil {
		t.Fatal(err)
	}
	f := make([]float32, x.Count()*x.Len())
	quant.Decode(x.Type(), f, raw)
	out := make([]byte, 4*len(f))
	quant.Encode(quant.F32, out, f, nil)
	return stored{"F32", x.Shape, out}
}

func gptq(bits int) map[string]any {
	return map[string]any{"quant_method": "gptq", "bits": bits, "group_size": 32, "desc_act": false}
}

func gptqTensors(bits int) func(stem string, out, in int, put func(name, dtype string, size int, shape ...int)) {
	return func(stem string, out, in int, put func(string, string, int, ...int)) {
		put(stem+".qweight", "I32", 4, in*bits/32, out)
		put(stem+".qzeros", "I32", 4, in/32, out*bits/32)
		put(stem+".scales", "F16", 2, in/32, out)
	}
}

func compressed(format string, bits int, typ, strategy string) map[string]any {
	weights := map[string]any{"num_bits": bits, "type": typ, "strategy": strategy, "group_size": 32, "symmetric": true}
	return map[string]any{
		"quant_method": "compressed-tensors", "format": format, "ignore": []string{"lm_head"},
		"config_groups": map[string]any{"group_0": map[string]any{"targets": []string{"Linear"}, "weights": weights}},
	}
}

// TestQuantizedInputs: a checkpoint with quantized projections becomes the same
// GGUF as one that holds the floats they mean; tensors that were put together
// come last.
func TestQuantizedInputs(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	random := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rng.Uint32()) &^ 0x40 // keeps exponents of halves and FP8 small
		}
		return b
	}
	for _, tt := range []struct {
		name string
		conf map[string]any
		last bool
		make func(stem string, out, in int, put func(name, dtype string, size int, shape ...int))
	}{
		{"fp8", map[string]any{"quant_method": "fp8", "weight_block_size": []int{32, 32}}, false,
			func(stem string, out, in int, put func(string, string, int, ...int)) {
				put(stem+".weight", "F8_E4M3", 1, out, in)
				put(stem+".weight_scale_inv", "F16", 2, (out+31)/32, (in+31)/32)
				put(stem+".input_scale", "F16", 2, 1)
			}},
		{"fp8, a scale per tensor", map[string]any{"quant_method": "fp8", "activation_scheme": "static"}, false,
			func(stem string, out, in int, put func(string, string, int, ...int)) {
				put(stem+".weight", "F8_E4M3", 1, out, in)
				put(stem+".weight_scale", "F16", 2, 1)
				put(stem+".input_scale", "F16", 2, 1)
			}},
		{"modelopt", map[string]any{"quant_method": "modelopt", "quant_algo": "FP8"}, false,
			func(stem string, out, in int, put func(string, string, int, ...int)) {
				put(stem+".weight", "F8_E4M3", 1, out, in)
				put(stem+".weight_scale", "F16", 2)
			}},
		{"gptq 2", gptq(2), true, gptqTensors(2)},
		{"gptq 4", gptq(4), true, gptqTensors(4)},
		{"gptq 8", gptq(8), true, gptqTensors(8)},
		{"compressed, packed", compressed("pack-quantized", 4, "int", "group"), true,
			func(stem string, out, in int, put func(string, string, int, ...int)) {
				put(stem+".weight_packed", "I32", 4, out, in/8)
				put(stem+".weight_scale", "F16", 2, out, in/32)
				put(stem+".weight_shape", "I64", 8, 2)
			}},
		{"compressed, FP8", compressed("float-quantized", 8, "float", "channel"), false,
			func(stem string, out, in int, put func(string, string, int, ...int)) {
				put(stem+".weight", "F8_E4M3", 1, out, in)
				put(stem+".weight_scale", "F16", 2, out, 1)
			}},
		{"compressed, int8", compressed("int-quantized", 8, "int", "channel"), false,
			func(stem string, out, in int, put func(string, string, int, ...int)) {
				put(stem+".weight", "I8", 1, out, in)
				put(stem+".weight_scale", "F16", 2, out, 1)
			}},
		{"awq", map[string]any{"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}, true,
			func(stem string, out, in int, put func(string, string, int, ...int)) {
				put(stem+".qweight", "I32", 4, in, out/8)
				put(stem+".qzeros", "I32", 4, in/32, out/8)
				put(stem+".scales", "F16", 2, in/32, out)
			}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := checkpointOf(t, "llama")
			file := filepath.Join(dir, "model.safetensors")
			ck, err := checkpoint.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			packed := map[string]stored{}
			for _, x := range ck.Tensors {
				stem, ok := strings.CutSuffix(x.Name, "_proj.weight")
				if !ok {
					packed[x.Name] = floatsOf(t, x)
					continue
				}
				tt.make(stem+"_proj", x.Shape[0], x.Shape[1], func(name, dtype string, size int, shape ...int) {
					n := size
					for _, d := range shape {
						n *= d
					}
					data := random(n)
					if strings.HasSuffix(name, ".weight_shape") {
						data = binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, uint64(x.Shape[0])), uint64(x.Shape[1]))
					}
					packed[name] = stored{dtype, append([]int{}, shape...), data}
				})
			}
			if err := ck.Close(); err != nil {
				t.Fatal(err)
			}
			writeSafetensors(t, file, packed)
			setConfig(t, dir, dequant.Key, tt.conf)
			got, err := gguf.Open(run(t, Options{In: dir, Outtype: "f32"}))
			if err != nil {
				t.Fatal(err)
			}
			defer got.Close()

			if ck, err = checkpoint.Open(dir); err != nil {
				t.Fatal(err)
			}
			r, err := dequant.Decode("config.json", tt.conf, ck.Tensors)
			if err != nil {
				t.Fatal(err)
			}
			plain := map[string]stored{}
			for _, x := range r.Tensors {
				plain[x.Name] = floatsOf(t, x)
			}
			if err := ck.Close(); err != nil {
				t.Fatal(err)
			}
			writeSafetensors(t, file, plain)
			setConfig(t, dir, dequant.Key, nil)
			want, err := gguf.Open(run(t, Options{In: dir, Outtype: "f32"}))
			if err != nil {
				t.Fatal(err)
			}
			defer want.Close()

			if len(got.Tensors) != len(want.Tensors) {
				t.Fatalf("%d tensors, want %d", len(got.Tensors), len(want.Tensors))
			}
			for i, x := range got.Tensors {
				j := slices.IndexFunc(want.Tensors, func(y *gguf.Tensor) bool { return y.Name == x.Name })
				if j < 0 || !slices.Equal(bytesOf(t, got, x), bytesOf(t, want, want.Tensors[j])) {
					t.Errorf("tensor %s differs", x.Name)
				}
				matrix := strings.HasPrefix(x.Name, "blk.") && !strings.Contains(x.Name, "norm")
				if late := i >= len(got.Tensors)-7*4; tt.last && late != matrix {
					t.Errorf("tensor %s is in place %d of %d", x.Name, i, len(got.Tensors))
				} else if !tt.last && i != j {
					t.Errorf("tensor %s is in place %d, want %d", x.Name, i, j)
				}
			}
		})
	}
}
