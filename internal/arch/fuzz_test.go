package arch

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/smeltgguf/smelt/formats/gguf"
	"github.com/smeltgguf/smelt/internal/checkpoint"
	"github.com/smeltgguf/smelt/internal/fixture"
)

// FuzzConfig loads a small checkpoint with any config.json: an error or a plan,
// never a panic.
func FuzzConfig(f *testing.F) {
	for _, m := range []string{"llama", "deepseek2", "gemma3", "falcon", "olmo2"} {
		for _, x := range fixture.Models() {
			if x.Name == m {
				f.Add(x.ConfigJSON())
			}
		}
	}
	f.Add([]byte(`{"architectures":["LlamaForCausalLM"],"hidden_size":-1}`))
	f.Add([]byte(`{"architectures":["Phi3ForCausalLM"],"rope_scaling":{"type":"su","long_factor":[1e400]}}`))
	dir := f.TempDir()
	if err := fixture.Models()[0].Write(dir); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, config []byte) {
		if err := os.WriteFile(filepath.Join(dir, "config.json"), config, 0o666); err != nil {
			t.Fatal(err)
		}
		ck, err := checkpoint.Open(dir)
		if err != nil {
			return
		}
		defer ck.Close()
		for _, opt := range []Options{{}, {Native: true}} {
			m, err := Load(ck, opt)
			if err == nil && (m.Decoder == nil || len(m.Tensors) == 0) {
				t.Error("neither a plan nor an error")
			}
		}
	})
}

// FuzzDecoderFromGGUF describes a decoder from any values of the usual keys.
func FuzzDecoderFromGGUF(f *testing.F) {
	f.Add("llama", uint32(2), uint32(64), uint32(4), uint32(2), uint32(16), float32(1e-5), "linear", float32(2))
	f.Add("deepseek2", uint32(0), uint32(1), uint32(0), uint32(0), uint32(0), float32(0), "yarn", float32(-1))
	f.Fuzz(func(t *testing.T, arch string, layers, embd, heads, kv, dim uint32, eps float32, rope string, factor float32) {
		m := gguf.NewMetadata()
		m.Set("general.architecture", arch)
		for k, v := range map[string]any{
			"block_count": layers, "embedding_length": embd, "attention.head_count": heads, "attention.head_count_kv": kv,
			"attention.key_length": dim, "rope.dimension_count": dim, "attention.layer_norm_rms_epsilon": eps,
			"rope.scaling.type": rope, "rope.scaling.factor": factor, "attention.kv_lora_rank": heads,
			"attention.key_length_mla": kv, "attention.value_length_mla": dim, "expert_count": layers, "expert_used_count": kv,
		} {
			m.Set(arch+"."+k, v)
		}
		d, err := DecoderFromGGUF(m)
		if err != nil {
			return
		}
		if d.Layers < 1 || d.Heads < 1 || d.KVHeads < 1 || d.HeadDim < 1 || d.Embd < 1 || d.Heads%d.KVHeads != 0 || d.Rope.Dim > d.HeadDim {
			t.Errorf("accepted %+v", d)
		}
	})
}
