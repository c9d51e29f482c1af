package dequant

import "testing"

// BenchmarkDecode reads matrices of 4096 x 4096 by work units of 128 rows; the
// bytes are those of the floats.
func BenchmarkDecode(b *testing.B) {
	const n, unit = 4096, 128
	zero := func(name, dtype string, size int, shape ...int) entry {
		for _, d := range shape {
			size *= d
		}
		return bytesOf(name, dtype, make([]byte, size), shape...)
	}
	for _, bb := range []struct {
		name, conf string
		entries    []entry
	}{
		{"gptq", `{"quant_method": "gptq", "bits": 4, "group_size": 128}`, []entry{
			zero("l.qweight", "I32", 4, n/8, n), zero("l.qzeros", "I32", 4, n/128, n/8), zero("l.scales", "F16", 2, n/128, n)}},
		{"awq", `{"quant_method": "awq", "bits": 4, "group_size": 128}`, []entry{
			zero("l.qweight", "I32", 4, n, n/8), zero("l.qzeros", "I32", 4, n/128, n/8), zero("l.scales", "F16", 2, n/128, n)}},
		{"packed", `{"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"g": {"weights": {"num_bits": 4, "strategy": "group", "group_size": 128}}}}`, []entry{
			zero("l.weight_packed", "I32", 4, n, n/8), zero("l.weight_scale", "F16", 2, n, n/128), bytesOf("l.weight_shape", "I64", le([]int64{n, n}), 2)}},
		{"fp8", `{"quant_method": "fp8", "weight_block_size": [128, 128]}`, []entry{
			zero("l.weight", "F8_E4M3", 1, n, n), zero("l.weight_scale_inv", "F32", 4, n/128, n/128)}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			r, err := decode(b, bb.conf, bb.entries...)
			if err != nil {
				b.Fatal(err)
			}
			dst := make([]byte, 4*unit*n)
			b.SetBytes(int64(len(dst)))
			for i := 0; b.Loop(); i++ {
				if err := r.Tensors[0].ReadRows(dst, i*unit%n, unit); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
