package vocab

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/smeltgguf/smelt/formats/gguf"
)

// exportAgain exports a vocabulary and reads what was written.
func exportAgain(t *testing.T, meta *gguf.Metadata, size int) (*gguf.Metadata, error) {
	t.Helper()
	x, err := Export(meta)
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(x.Config)
	if err != nil {
		t.Fatal(err)
	}
	files := []string{"config.json", string(config)}
	for name, data := range x.Files {
		files = append(files, name, string(data))
	}
	read := (*Builder).BPE
	if x.Files["tokenizer.model"] != nil {
		read = (*Builder).SentencePiece
	}
	again, err := build(t, Options{Size: size}, func(v *Builder) { v.AddPrefixSpace(); read(v) }, files...)
	if err != nil {
		t.Fatalf("what was written cannot be read: %v", err)
	}
	return again, nil
}

func tokensOf(m *gguf.Metadata) []string {
	tokens, err := m.Strings("tokenizer.ggml.tokens")
	if err != nil {
		return nil
	}
	return tokens
}

// TestExport: what a conversion has written comes back, in the same order.
func TestExport(t *testing.T) {
	template := func(single string) string {
		return strings.Replace(bpe, `"model":`, `"post_processor":{"type":"TemplateProcessing","single":[`+single+`{"Sequence":{"id":"A"}}],
			"pair":[`+single+`{"Sequence":{"id":"A"}},`+single+`{"Sequence":{"id":"B"}}]},"model":`, 1)
	}
	for _, tt := range []struct {
		name  string
		size  int
		read  func(*Builder)
		files []string
	}{
		{"SentencePiece", 320, (*Builder).SentencePiece, []string{"config.json", `{}`, "tokenizer.model", spm, "tokenizer_config.json", `{"add_bos_token": false}`}},
		{"added tokens", 325, (*Builder).SentencePiece, []string{
			"config.json", `{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 324}`, "tokenizer.model", spm, "added_tokens.json", `{"extra": 320}`,
			"tokenizer_config.json", `{"add_bos_token": true, "add_eos_token": false, "chat_template": "T", "added_tokens_decoder": {
				"0": {"content": "<unk>", "special": true}, "322": {"content": "a\u2581b", "special": false}, "323": {"content": "<|x|>", "special": false}}}`,
		}},
		{"a space inside", 321, func(v *Builder) { v.AddPrefixSpace(); v.SentencePiece() }, []string{
			"config.json", `{}`, "tokenizer.model", spm,
			"tokenizer_config.json", `{"add_bos_token": true, "add_prefix_space": false, "added_tokens_decoder": {"262": {"content": " x ", "special": false}}}`,
		}},
		{"byte-level", 322, (*Builder).BPE, []string{
			"config.json", `{"eos_token_id": 319}`, "tokenizer.json", bpe,
			"tokenizer_config.json", `{"bos_token": "<|endoftext|>", "eos_token": {"content": "<|user|>"}, "pad_token": "<|gone|>",
				"chat_template": [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "U"}, {"name": "rag", "template": "R"}]}`,
		}},
		{"out of order", 320, (*Builder).BPE, []string{
			"config.json", `{"bos_token_id": 317, "eos_token_id": 319}`, "tokenizer.json", bpe, "tokenizer_config.json", `{"eos_token": "<|user|>"}`,
		}},
		{"begin", 320, (*Builder).BPE, []string{
			"config.json", `{}`, "tokenizer.json", template(`{"SpecialToken":{"id":"<|endoftext|>"}},`), "tokenizer_config.json", `{"bos_token": "<|endoftext|>", "add_eos_token": false}`,
		}},
		{"a hole among added tokens", 330, (*Builder).BPE, []string{
			"config.json", `{}`, "tokenizer.json", bpe,
			"tokenizer_config.json", `{"added_tokens_decoder": {"325": {"content": "<|late|>", "special": true}, "327": {"content": "later", "special": false}}}`,
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			first, err := build(t, Options{Size: tt.size}, tt.read, tt.files...)
			if err != nil {
				t.Fatal(err)
			}
			second, err := exportAgain(t, first, tt.size)
			if err != nil {
				t.Fatal(err)
			}
			if a, b := keysOf(first), keysOf(second); a != b {
				t.Errorf("got  %s\nwant %s", b, a)
			}
			for key, v := range first.All() {
				if w, _ := second.Get(key); !reflect.DeepEqual(v, w) {
					t.Errorf("%s differs", key)
				}
			}
		})
	}
}

// FuzzExport exports any vocabulary: an error, or files that give the same tokens.
func FuzzExport(f *testing.F) {
	f.Add(true, "<unk>\n<s>\n</s>\n\u2581\na\n\u2581a", []byte{2, 3, 3, 1, 1, 1}, []byte{0, 0, 0, 1, 2, 3}, "", uint32(1))
	f.Add(true, "<unk>\na b\n<|x|>\n[PAD3]\n[PAD4]", []byte{2, 4, 3, 5, 5}, []byte{0, 255, 255, 0, 0}, "", uint32(2))
	f.Add(false, "a\nb\nab\n<|x|>\n[PAD4]\n<y>", []byte{1, 1, 1, 3, 5, 4}, []byte{}, "a b", uint32(3))
	f.Add(false, "a\n\xff", []byte{1, 1}, []byte{}, "a b c", uint32(9))
	f.Fuzz(func(t *testing.T, spm bool, texts string, types, scores []byte, merges string, bos uint32) {
		meta := gguf.NewMetadata()
		tokens := strings.Split(texts, "\n")
		typ, score := make([]int32, len(tokens)), make([]float32, len(tokens))
		for i := range tokens {
			typ[i] = 1
			if i < len(types) {
				typ[i] = int32(types[i] % 8)
			}
			if i < len(scores) {
				score[i] = -float32(scores[i])
				if scores[i] == 255 {
					score[i] = addedScore
				}
			}
		}
		if spm {
			meta.Set("tokenizer.ggml.model", "llama")
			meta.Set("tokenizer.ggml.scores", score)
		} else {
			meta.Set("tokenizer.ggml.model", "gpt2")
			meta.Set("tokenizer.ggml.pre", "gpt-2")
			meta.Set("tokenizer.ggml.merges", strings.Split(merges, "\n"))
		}
		meta.Set("tokenizer.ggml.tokens", tokens)
		meta.Set("tokenizer.ggml.token_type", typ)
		meta.Set("tokenizer.ggml.bos_token_id", bos)
		again, err := exportAgain(t, meta, len(tokens))
		if err != nil {
			return
		}
		// A space in an added token is written as one, whatever it was.
		plain := func(list []string) []string {
			return strings.Split(strings.ReplaceAll(strings.Join(list, "\n"), "\u2581", " "), "\n")
		}
		if got := tokensOf(again); !slices.Equal(plain(got), plain(tokens)) {
			t.Errorf("%q comes back as %q", tokens, got)
		}
	})
}
