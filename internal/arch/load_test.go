package arch

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/smeltgguf/smelt/internal/checkpoint"
	"github.com/smeltgguf/smelt/internal/fixture"
)

func fixtureOf(t *testing.T, name string) fixture.Model {
	t.Helper()
	for _, m := range fixture.Models() {
		if m.Name == name {
			return m
		}
	}
	t.Fatalf("no fixture %s", name)
	return fixture.Model{}
}

// load writes a checkpoint and loads it.
func load(t *testing.T, m fixture.Model, opt Options) (*Model, error) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "ck")
	if err := m.Write(dir); err != nil {
		t.Fatal(err)
	}
	ck, err := checkpoint.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ck.Close() })
	return Load(ck, opt)
}

// TestLoadRefuses: configs that are incomplete, wrong or say what is not
// understood, and tensors that do not fit them.
func TestLoadRefuses(t *testing.T) {
	for _, tt := range []struct {
		model string
		key   string
		val   any // nil: the key is missing
		want  string
	}{
		{"llama", "hidden_size", nil, "config.json: hidden_size missing"},
		{"llama", "vocab_size", "many", `vocab_size: want a positive integer, got "many"`},
		{"llama", "vocab_size", 320.5, "vocab_size: want a positive integer, got 320.5"},
		{"llama", "num_hidden_layers", 1000000000, "1000000000 layers are not plausible"},
		{"llama", "num_hidden_layers", 5, `tensor "model.layers.4.input_layernorm.weight" is missing`},
		{"llama", "num_hidden_layers", 3, `has no place in a llama model`},
		{"llama", "num_attention_heads", 0, "num_attention_heads: want a positive integer, got 0"},
		{"llama", "num_key_value_heads", 3, "4 heads are no multiple of 3 kv heads"},
		{"llama", "num_attention_heads", 8, `"model.layers.0.self_attn.k_proj.weight" [32,64], config implies [16,64]`},
		{"llama", "head_dim", 32, `"model.layers.0.self_attn.q_proj.weight" [64,64], config implies [128,64]`},
		{"llama", "intermediate_size", 100, "config implies [100,64]"},
		{"llama", "vocab_size", 300, `"model.embed_tokens.weight" [320,64], config implies [300,64]`},
		{"llama", "rms_norm_eps", 0, "rms_norm_eps: want a positive number, got 0"},
		{"llama", "rms_norm_eps", 3, "rms_norm_eps: 3 is no epsilon"},
		{"llama", "rope_theta", -1, "rope_theta: want a positive number"},
		{"llama", "hidden_act", "xielu", `hidden_act "xielu" is not understood`},
		{"llama", "rope_scaling", map[string]any{"type": "spiral", "factor": 2}, `rope_type "spiral" is not understood`},
		{"llama", "rope_scaling", map[string]any{"type": "linear", "factor": 0}, "factor: want a positive number, got 0"},
		{"llama", "rope_scaling", map[string]any{"type": "linear", "factor": 2, "twist": 3}, "rope_scaling.twist = 3 is not understood"},
		{"llama", "rope_scaling", "linear", "rope_scaling: want an object"},
		{"llama", "residual_multiplier", 0.22, `"residual_multiplier" = 0.22 is not understood`},
		{"llama", "attn_logit_softcapping", 50, `"attn_logit_softcapping" = 50 is not understood`},
		{"llama", "quantization_config", map[string]any{"quant_method": "gptq"}, "quantization_config.bits 0 is not supported"},
		{"llama", "quantization_config", map[string]any{"quant_method": "hqq"}, `quantization_config.quant_method "hqq" is not supported`},
		{"llama", "rope_interleaved", true, "rope_interleaved: true is not supported"},
		{"llama", "architectures", []string{"NobodyForCausalLM"}, `architecture "NobodyForCausalLM" is not supported`},
		{"llama", "architectures", nil, "architectures missing"},
		{"qwen3moe", "norm_topk_prob", false, "norm_topk_prob: false is not supported"},
		{"qwen2moe", "decoder_sparse_step", 2, "decoder_sparse_step 2 is not supported"},
		{"gemma3", "sliding_window_pattern", 2, "sliding_window_pattern 2"},
		{"smollm3", "no_rope_layers", []int{1, 0, 1, 0}, "no_rope_layers: layer 1 is 0"},
		{"falcon", "alibi", true, "alibi: true is not supported"},
		{"deepseek2", "topk_method", "lottery", `topk_method "lottery" is not understood`},
		{"deepseek2", "kv_lora_rank", 33, "config implies"},
		{"deepseek2", "n_shared_experts", -1, "n_shared_experts: -1 is negative"},
		{"qwen3moe", "num_experts", 2000000000, "config implies [2000000000,64]"},
		{"command-r", "logit_scale", nil, "logit_scale missing"},
	} {
		t.Run(tt.model+"/"+tt.key, func(t *testing.T) {
			m := fixtureOf(t, tt.model)
			m.Config = maps.Clone(m.Config)
			delete(m.Config, tt.key)
			if tt.val != nil {
				m.Config[tt.key] = tt.val
			}
			m.VocabSize = 320
			_, err := load(t, m, Options{})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v\nwant  %s", err, tt.want)
			}
		})
	}
}

func TestLoadTensors(t *testing.T) {
	extra := fixtureOf(t, "llama")
	extra.Tensors = append(extra.Tensors, fixture.Tensor{Name: "model.layers.0.mystery.weight", Shape: []int{2}})
	if _, err := load(t, extra, Options{}); err == nil || !strings.Contains(err.Error(), `tensor "model.layers.0.mystery.weight" [2] has no place in a llama model`) {
		t.Errorf("an unknown tensor: %v", err)
	}
	buffers := fixtureOf(t, "llama")
	buffers.Tensors = append(buffers.Tensors, fixture.Tensor{Name: "model.layers.0.self_attn.rotary_emb.inv_freq", Shape: []int{8}})
	if m, err := load(t, buffers, Options{}); err != nil || len(m.Skipped) != 1 {
		t.Errorf("a buffer: %v", err)
	}
	untied := fixtureOf(t, "llama")
	untied.Tensors = untied.Tensors[:len(untied.Tensors)-1]
	if _, err := load(t, untied, Options{}); err == nil || !strings.Contains(err.Error(), "tie_word_embeddings is false") {
		t.Errorf("no output matrix: %v", err)
	}
}

func TestIgnoreKeys(t *testing.T) {
	m := fixtureOf(t, "llama")
	m.Config = maps.Clone(m.Config)
	m.Config["my_trainer_settings"] = "x"
	_, err := load(t, m, Options{})
	if err == nil || !strings.Contains(err.Error(), "my_trainer_settings") {
		t.Errorf("error %v", err)
	}
	if _, err := load(t, m, Options{IgnoreKeys: []string{"my_trainer_settings"}}); err != nil {
		t.Errorf("ignored, yet %v", err)
	}
}

// TestNative: q and k stay as they are, and the decoder rotates halves.
func TestNative(t *testing.T) {
	gguf, err := load(t, fixtureOf(t, "llama"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	native, err := load(t, fixtureOf(t, "llama"), Options{Native: true})
	if err != nil {
		t.Fatal(err)
	}
	if gguf.Decoder.Rope.Half || !native.Decoder.Rope.Half {
		t.Errorf("halves: %v in the GGUF, %v in the checkpoint", gguf.Decoder.Rope.Half, native.Decoder.Rope.Half)
	}
	if gguf.Decoder.Vocab != 320 {
		t.Errorf("vocabulary of %d", gguf.Decoder.Vocab)
	}
	for i, x := range gguf.Tensors {
		y := native.Tensors[i]
		a, err := readFloats(x.Rows, 0, x.Rows.Count())
		if err != nil {
			t.Fatal(err)
		}
		b, err := readFloats(y.Rows, 0, y.Rows.Count())
		if err != nil {
			t.Fatal(err)
		}
		same := true
		for j := range a {
			same = same && a[j] == b[j]
		}
		reordered := strings.Contains(x.Name, "attn_q.") || strings.Contains(x.Name, "attn_k.")
		if same == reordered || x.Name != y.Name {
			t.Errorf("%s: the same as in the checkpoint: %v", x.Name, same)
		}
	}
}

// TestAdapters converts an adapter, and merges it.
func TestAdapters(t *testing.T) {
	base := fixtureOf(t, "llama")
	dir := t.TempDir()
	adapter := fixture.Model{Name: "adapter", Config: base.Config, Tensors: []fixture.Tensor{
		{Name: "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", Shape: []int{3, 64}},
		{Name: "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", Shape: []int{64, 3}},
	}}
	open := func(config map[string]any) (*Adapter, error) {
		t.Helper()
		sub, err := os.MkdirTemp(dir, "")
		if err != nil {
			t.Fatal(err)
		}
		if err := adapter.Write(sub); err != nil {
			t.Fatal(err)
		}
		data, err := json.Marshal(config)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(sub, AdapterFile), data, 0o666); err != nil {
			t.Fatal(err)
		}
		ck, err := checkpoint.Open(sub)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ck.Close() })
		return OpenAdapter(ck)
	}
	plain := map[string]any{"peft_type": "LORA", "lora_alpha": 6, "r": 3}
	ad, err := open(plain)
	if err != nil {
		t.Fatal(err)
	}
	m, err := load(t, base, Options{Adapter: ad})
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Tensors) != 2 || m.Tensors[0].Name != "blk.0.attn_q.weight.lora_a" || m.Tensors[1].Name != "blk.0.attn_q.weight.lora_b" {
		t.Fatalf("tensors %v", m.Tensors)
	}

	// Merging, then reordering equals reordering B.
	if ad, err = open(plain); err != nil {
		t.Fatal(err)
	}
	merged, err := load(t, base, Options{Merge: ad})
	if err != nil {
		t.Fatal(err)
	}
	before, err := load(t, base, Options{})
	if err != nil {
		t.Fatal(err)
	}
	get := func(m *Model, name string) []float32 {
		for _, x := range m.Tensors {
			if x.Name == name {
				f, err := readFloats(x.Rows, 0, x.Rows.Count())
				if err != nil {
					t.Fatal(err)
				}
				return f
			}
		}
		t.Fatalf("no tensor %s", name)
		return nil
	}
	a, b := get(m, "blk.0.attn_q.weight.lora_a"), get(m, "blk.0.attn_q.weight.lora_b")
	w, got := get(before, "blk.0.attn_q.weight"), get(merged, "blk.0.attn_q.weight")
	for i := range w {
		sum := 0.0
		for r := range 3 {
			sum += float64(b[i/64*3+r]) * float64(a[r*64+i%64])
		}
		if d := float64(got[i]) - (float64(w[i]) + 2*sum); d > 1e-5 || d < -1e-5 {
			t.Fatalf("element %d is %g, off by %g", i, got[i], d)
		}
	}

	for _, tt := range []struct {
		key  string
		val  any
		want string
	}{
		{"use_dora", true, "use_dora: true is not supported"},
		{"peft_type", "LOHA", `peft_type "LOHA" is not understood`},
		{"lora_alpha", nil, "lora_alpha missing"},
		{"bias", "all", `bias "all" is not understood`},
		{"alpha_pattern", map[string]any{"q_proj": 4}, "alpha_pattern is not supported"},
	} {
		config := maps.Clone(plain)
		delete(config, tt.key)
		if tt.val != nil {
			config[tt.key] = tt.val
		}
		if _, err := open(config); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want %s", tt.key, err, tt.want)
		}
	}
	adapter.Tensors[1].Shape = []int{63, 3}
	if ad, err = open(plain); err != nil {
		t.Fatal(err)
	}
	if _, err := load(t, base, Options{Adapter: ad}); err == nil || !strings.Contains(err.Error(), "lora_A [3,64] and lora_B [63,3] do not fit the base's [64,64]") {
		t.Errorf("wrong shape: %v", err)
	}
}
