package hf

import (
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/internal/tokenizer"
)

// testdata/descriptions.json holds what the tokenizer.json of published models
// says, and the name that llama.cpp's converter finds for each.
func TestPreTokenizer(t *testing.T) {
	data, err := os.ReadFile("testdata/descriptions.json")
	if err != nil {
		t.Fatal(err)
	}
	var models []struct {
		Model        string
		ModelType    string `json:"model_type"`
		Normalizer   json.RawMessage
		PreTokenizer json.RawMessage `json:"pre_tokenizer"`
		Want         string
	}
	if err := json.Unmarshal(data, &models); err != nil {
		t.Fatal(err)
	}
	for _, m := range models {
		got, err := PreTokenizer(Description{Normalizer: m.Normalizer, PreTokenizer: m.PreTokenizer, ModelType: m.ModelType}, "tokenizer.json")
		if err != nil || got != m.Want {
			t.Errorf("%s: got %q, %v, want %q", m.Model, got, err, m.Want)
		}
	}
}

func TestPreTokenizerSpellings(t *testing.T) {
	const byteLevel = `{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}`
	splitWith := func(pattern, rest string) string {
		q, err := json.Marshal(pattern)
		if err != nil {
			t.Fatal(err)
		}
		return `{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":` + string(q) + `},` + rest + `},` + byteLevel + `]}`
	}
	const isolated = `"behavior":"Isolated","invert":false`
	llama3 := `(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	for _, tt := range []struct {
		d    Description
		want string
	}{
		{Description{PreTokenizer: json.RawMessage(splitWith(llama3, isolated)), IgnoreMerges: true}, "llama-bpe"},
		{Description{PreTokenizer: json.RawMessage(splitWith(llama3, isolated)), ModelType: "llama"}, "llama-bpe"},
		{Description{PreTokenizer: json.RawMessage(splitWith(llama3, isolated)), ModelType: "other"}, "smaug-bpe"},
		{Description{PreTokenizer: json.RawMessage(splitWith(llama3, `"behavior":"Removed","invert":true`)), IgnoreMerges: true}, "llama-bpe"},
		{Description{PreTokenizer: json.RawMessage(splitWith(strings.ReplaceAll(llama3, `\r`, "\r"), isolated)), IgnoreMerges: true}, "llama-bpe"},
		{Description{PreTokenizer: json.RawMessage(splitWith(llama3, isolated)), ModelType: "dbrx"}, "dbrx"},
		{Description{PreTokenizer: json.RawMessage(splitWith(llama3, isolated)), ModelType: "olmo2", Size: 100_256}, "dbrx"},
		{Description{PreTokenizer: json.RawMessage(splitWith(strings.ReplaceAll(llama3, "{1,3}", "{1}"), isolated)), ModelType: "qwen2",
			Has: func(s string) bool { return s == "<｜User｜>" }}, "deepseek-r1-qwen"},
		{Description{PreTokenizer: json.RawMessage(`{"type":"ByteLevel","add_prefix_space":false}`), ModelType: "phi"}, "phi-2"},
	} {
		if got, err := PreTokenizer(tt.d, "tokenizer.json"); err != nil || got != tt.want {
			t.Errorf("%s: got %q, %v, want %q", tt.d.PreTokenizer, got, err, tt.want)
		}
	}
	for _, tt := range []struct {
		normalizer, pre, want string
	}{
		{`{"type":"Lowercase"}`, byteLevel, `unknown normalizer "Lowercase": normalizer {"type":"Lowercase"}, pre_tokenizer ` + byteLevel},
		{``, splitWith(`\w+`, isolated), `unknown pre-tokenizer: normalizer null, pre_tokenizer ` + splitWith(`\w+`, isolated)},
		{`null`, splitWith(llama3, `"behavior":"MergedWithPrevious"`), `unknown pre-tokenizer "Split": normalizer null, pre_tokenizer ` + splitWith(llama3, `"behavior":"MergedWithPrevious"`)},
		{``, `{"type":"Metaspace"}`, `unknown pre-tokenizer "Metaspace": normalizer null, pre_tokenizer {"type":"Metaspace"}`},
		{``, ``, `pre-tokenizer without ByteLevel: normalizer null, pre_tokenizer null`},
	} {
		_, err := PreTokenizer(Description{Normalizer: json.RawMessage(tt.normalizer), PreTokenizer: json.RawMessage(tt.pre)}, "tokenizer.json")
		var fe *formats.FormatError
		if !errors.As(err, &fe) || fe.Kind != formats.Unsupported || fe.Msg != tt.want || !strings.Contains(fe.Hint, "--pre NAME") {
			t.Errorf("error %v\nwant %s", err, tt.want)
		}
	}
}

// Every name that a description can lead to is one that the tokenizer knows.
func TestKnownNames(t *testing.T) {
	for _, k := range knowns {
		for _, n := range k.names {
			if _, err := tokenizer.NewVocab("gpt2", n.pre); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestDescribe: what Describe writes is understood as the same way to split.
func TestDescribe(t *testing.T) {
	for _, pre := range []string{"gpt-2", "llama-bpe", "smollm", "qwen2", "tekken", "deepseek-v3", "falcon", "bloom", "gpt-4o", "llama3", "superbpe"} {
		raw, err := Describe(pre)
		if err != nil {
			t.Error(err)
			continue
		}
		got, err := PreTokenizer(Description{PreTokenizer: raw, IgnoreMerges: tokenizer.IgnoresMerges(pre)}, "x")
		if err != nil {
			t.Errorf("%s: %v", pre, err)
		} else if !slices.Contains(tokenizer.Alike(pre), got) {
			t.Errorf("%s is read as %s", pre, got)
		}
	}
	for _, k := range knowns {
		raw, err := Describe(k.names[0].pre)
		if err != nil {
			t.Errorf("%s: %v", k.names[0].pre, err)
			continue
		}
		if _, err := PreTokenizer(Description{PreTokenizer: raw}, "x"); err != nil {
			t.Error(err)
		}
	}
	for _, pre := range []string{"nobody", "default", "gemma4"} {
		if _, err := Describe(pre); err == nil {
			t.Errorf("%s: no error", pre)
		}
	}
}
