package arch

import (
	"reflect"
	"strings"
	"testing"

	"github.com/smeltgguf/smelt/formats/gguf"
)

func llamaMeta() *gguf.Metadata {
	m := gguf.NewMetadata()
	m.Set("general.architecture", "llama")
	for k, v := range map[string]uint32{
		"block_count": 2, "context_length": 256, "embedding_length": 64, "feed_forward_length": 160,
		"attention.head_count": 4, "attention.head_count_kv": 2, "vocab_size": 100,
	} {
		m.Set("llama."+k, v)
	}
	m.Set("llama.attention.layer_norm_rms_epsilon", float32(1e-5))
	return m
}

func TestDecoderFromGGUF(t *testing.T) {
	m := llamaMeta()
	m.Set("tokenizer.ggml.tokens", make([]string, 90))
	m.Set("llama.rope.scaling.type", "linear")
	m.Set("llama.rope.scaling.factor", float32(4))
	d, err := DecoderFromGGUF(m)
	if err != nil {
		t.Fatal(err)
	}
	want := Decoder{
		Arch: "llama", Layers: 2, Embd: 64, Heads: 4, KVHeads: 2, HeadDim: 16, FFN: 160, Vocab: 90, Context: 256,
		NormEps: 1e-5, ExpertNorm: true, Rope: Rope{Dim: 16, Base: 10000, Scale: 0.25, OriginalContext: 256},
	}
	if !reflect.DeepEqual(*d, want) {
		t.Errorf("got  %+v\nwant %+v", *d, want)
	}
}

func TestDecoderFromGGUFRefuses(t *testing.T) {
	for _, tt := range []struct {
		key  string
		val  any
		want string
	}{
		{"general.architecture", "unheard-of", `general.architecture "unheard-of" is not supported`},
		{"llama.block_count", uint32(0), "llama.block_count: want u32 >= 1"},
		{"llama.block_count", "many", "llama.block_count"},
		{"llama.block_count", uint32(1e9), "1000000000 layers are not plausible"},
		{"llama.block_count", nil, "llama.block_count missing"},
		{"llama.attention.head_count", uint32(0), "llama.attention.head_count: want u32 >= 1"},
		{"llama.attention.head_count_kv", uint32(3), "4 heads are no multiple of 3"},
		{"llama.attention.head_count_kv", uint32(0), "no multiple of 0"},
		{"llama.attention.key_length", uint32(0), "heads of 0 elements"},
		{"llama.attention.layer_norm_rms_epsilon", nil, "layer_norm_rms_epsilon missing"},
		{"llama.rope.dimension_count", uint32(17), "17 of heads of 16"},
		{"llama.rope.scaling.type", "unheard-of", `"unheard-of" is not understood`},
		{"llama.expert_used_count", uint32(2), "2 of 0 experts"},
		{"llama.expert_gating_func", uint32(3), "llama.expert_gating_func: gating function 3 is not understood"},
		{"llama.attention.sliding_window", uint32(3), `"llama.attention.sliding_window" = "3" is not understood`},
		{"llama.attention.value_length", uint32(8), "llama.attention.value_length: 8, heads of keys have 16"},
		{"llama.attention.causal", false, "llama.attention.causal is false"},
		{"llama.rope.scaling.factor", float32(-1), "llama.rope.scaling.factor: -1"},
	} {
		m := llamaMeta()
		m.Delete(tt.key)
		if tt.val != nil {
			m.Set(tt.key, tt.val)
		}
		if _, err := DecoderFromGGUF(m); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s = %v: error %v, want %q", tt.key, tt.val, err, tt.want)
		}
	}
}
