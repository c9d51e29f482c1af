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

func parseFile(t testing.TB, name string) *Tokenizer {
	t.Helper()
	data, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	h, err := Parse(data, name)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func newTokenizer(t testing.TB, h *Tokenizer) *tokenizer.Tokenizer {
	t.Helper()
	pre := ""
	if !h.SentencePiece() {
		var err error
		if pre, err = h.Pre("llama"); err != nil {
			t.Fatal(err)
		}
	}
	v, err := h.Vocab(pre)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.New(*v)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// testdata/golden.json holds the ids that Hugging Face's tokenizers library gives
// for the small tokenizers beside it, which it also trained.
func TestEncode(t *testing.T) {
	data, err := os.ReadFile("testdata/golden.json")
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Texts  []string
		Golden map[string][][2]json.RawMessage
	}
	if err := json.Unmarshal(data, &golden); err != nil {
		t.Fatal(err)
	}
	for name, results := range golden.Golden {
		t.Run(name, func(t *testing.T) {
			tok := newTokenizer(t, parseFile(t, name+".json"))
			for i, text := range golden.Texts {
				var want []int32
				var decoded string
				if err := json.Unmarshal(results[i][0], &want); err != nil {
					t.Fatal(err)
				}
				if err := json.Unmarshal(results[i][1], &decoded); err != nil {
					t.Fatal(err)
				}
				got := tok.Encode(text, tokenizer.Options{AddSpecial: true, ParseSpecial: true})
				if !slices.Equal(got, want) {
					t.Errorf("%q\n got %v\nwant %v", text, got, want)
				}
				ids := tok.Encode(text, tokenizer.Options{ParseSpecial: true})
				if got := string(tok.Decode(ids, true)); got != decoded {
					t.Errorf("%q comes back as %q, want %q", text, got, decoded)
				}
			}
		})
	}
}

func TestMalformed(t *testing.T) {
	long := strings.Repeat("x", tokenizer.MaxTokenLen+1)
	model := func(vocab, merges string) string {
		return `{"model":{"type":"BPE","vocab":` + vocab + `,"merges":` + merges + `}}`
	}
	for _, tt := range []struct{ json, want string }{
		{``, `JSON truncated, want '{'`},
		{`{}`, "model missing: not a tokenizer.json"},
		{`{"model":{}}`, "model missing: not a tokenizer.json"},
		{"{\"\xff\":1}", "tokenizer not UTF-8"},
		{`{"model":{"type":"BPE"},"model":{"type":"BPE"}}`, `duplicate key "model"`},
		{`{"model":{"type":"BPE","type":"BPE"}}`, `duplicate key "type"`},
		{model(`{"foo":1,"bar":1}`, `[]`), `id 1: "foo" and "bar"`},
		{model(`{"foo":1,"foo":2}`, `[]`), `duplicate token "foo": ids 1 and 2`},
		{model(`{"foo":-1}`, `[]`), `want a natural number, got "-1"`},
		{model(`{"foo":1.5}`, `[]`), `want a natural number, got "1.5"`},
		{model(`{"foo":99999999}`, `[]`), `token "foo": id 99999999 is too large`},
		{model(`{"foo":1000000}`, `[]`), `ids up to 1000000 for 1 tokens`},
		{model(`{"":1}`, `[]`), `id 1: empty token`},
		{model(`{"`+long+`":1}`, `[]`), `id 1: token of 65537 bytes exceeds 65536`},
		{model(`{"a":0}`, `[["a","b","c"]]`), `merge 0 has 3 parts`},
		{`{"model":{"type":"Unigram","vocab":[["a",NaN]]}}`, `token 0: "a" has score NaN`},
		{`{"model":{"type":"Unigram","vocab":[["a",-1],["a",-2]]}}`, `tokens 0 and 1 are both "a"`},
		{`{"model":{"type":"Unigram","vocab":[["a"]]}}`, `token 0: want a text and a score`},
		{`{"model":{"type":"BPE","vocab":{"a":0}},"added_tokens":[{"id":0,"content":"b"}]}`, `id 0: "a" and "b"`},
		{`{"model":{"type":"BPE","vocab":{"a":0}},"added_tokens":[{"id":1,"content":"a"}]}`, `token "a" has ids 0 and 1`},
		{`{"added_tokens":[{"id":1,"content":"a"},{"id":1,"content":"b"}]}`, `id 1: "a" and "b"`},
		{`{"added_tokens":[{"content":"a"}]}`, `added token "a" has no id`},
		{`{"added_tokens":[{"id":-1,"content":"a"}]}`, `want a natural number, got "-1"`},
		{`{"added_tokens":[{"id":1,"content":"a","special":"yes"}]}`, `special: want a boolean`},
	} {
		_, err := Parse([]byte(tt.json), "tokenizer.json")
		var fe *formats.FormatError
		if !errors.As(err, &fe) || fe.Msg != tt.want || fe.File != "tokenizer.json" {
			t.Errorf("%.80s: error %v, want %q", tt.json, err, tt.want)
		}
	}
}

func TestVocab(t *testing.T) {
	h, err := Parse([]byte(`{"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":3},"merges":["a b"]},
		"added_tokens":[{"id":5,"content":"<|x|>","special":true},{"id":3,"content":"ab"}],
		"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false},
		"post_processor":{"type":"Sequence","processors":[{"type":"ByteLevel"},{"type":"TemplateProcessing",
			"single":[{"Sequence":{"id":"A"}},{"SpecialToken":{"id":"<|x|>"}}],"special_tokens":{"<|x|>":{"ids":[5]}}}]}}`), "tokenizer.json")
	if err != nil {
		t.Fatal(err)
	}
	v, err := h.Vocab("gpt-2")
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"a", "b", "[PAD2]", "ab", "[PAD4]", "<|x|>"}; !slices.Equal(v.Tokens, want) {
		t.Errorf("tokens %q, want %q", v.Tokens, want)
	}
	if want := []tokenizer.Type{1, 1, 5, 4, 5, 3}; !slices.Equal(v.Types, want) {
		t.Errorf("types %v, want %v", v.Types, want)
	}
	if v.AddBOS || !v.AddEOS || v.EOS != 5 || !h.Has("<|x|>") || !h.Has("b") || h.Has("c") {
		t.Errorf("%+v", v)
	}
	if _, err := h.Vocab("nobody-5"); err == nil {
		t.Error("pre-tokenizer nobody-5 is known")
	}
	h.ModelType = "WordPiece"
	if _, err := h.Vocab(""); err == nil || !strings.Contains(err.Error(), `model type "WordPiece" is not supported`) {
		t.Errorf("error %v", err)
	}
}

func TestParseBPE(t *testing.T) {
	vocab := []byte(`{"a":0,"b":1,"ab":2}`)
	h, err := ParseBPE(vocab, []byte("#version: 0.2\r\na b\r\n\n"), "vocab.json", "merges.txt", "GPT2Tokenizer")
	if err != nil {
		t.Fatal(err)
	}
	if pre, err := h.Pre("gpt2"); err != nil || pre != "gpt-2" || !slices.Equal(h.Merges, []string{"a b"}) {
		t.Errorf("%q, %v, merges %q", pre, err, h.Merges)
	}
	h, err = ParseBPE(vocab, []byte("a b"), "vocab.json", "merges.txt", "Qwen2Tokenizer")
	if err != nil {
		t.Fatal(err)
	}
	if pre, err := h.Pre("qwen2"); err != nil || pre != "qwen2" {
		t.Errorf("%q, %v", pre, err)
	}
	for _, tt := range []struct{ vocab, merges, want string }{
		{`{"a":0,"a":1}`, "", `vocab.json: duplicate token "a": ids 0 and 1`},
		{`{"a":0} x`, "", `vocab.json: JSON has 'x', want its end, at offset 8`},
		{`{"a":0}`, "a b\nab\n", `merges.txt: merge 1: want two symbols and a space between, got "ab", at offset 4`},
		{`{"a":0}`, "a b c\n", `merges.txt: merge 0: want two symbols and a space between, got "a b c", at offset 0`},
		{`{"a":0}`, "a \xff\n", `merges.txt: merge 0 not UTF-8, at offset 0`},
	} {
		if _, err := ParseBPE([]byte(tt.vocab), []byte(tt.merges), "vocab.json", "merges.txt", ""); err == nil || err.Error() != tt.want {
			t.Errorf("error %v, want %s", err, tt.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{"bytelevel.json", "bytefallback.json", "unigram.json"} {
		data, err := os.ReadFile("testdata/" + name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":[["a","b"]]},"added_tokens":[{"id":3,"content":"x"}],
		"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := Parse(data, "fuzz")
		if err != nil {
			var fe *formats.FormatError
			if !errors.As(err, &fe) {
				t.Fatalf("error of type %T", err)
			}
			return
		}
		pre, err := h.Pre("")
		if err != nil {
			pre = "gpt-2"
		}
		v, err := h.Vocab(pre)
		if err != nil {
			return
		}
		tok, err := tokenizer.New(*v)
		if err != nil {
			return
		}
		tok.Decode(tok.Encode("Hello \u2581 w\xffrld 123\n<s>", tokenizer.Options{AddSpecial: true, ParseSpecial: true}), true)
	})
}

// TestSingleWord: tokens with single_word count only as words of their own. The
// ids are those of Hugging Face's tokenizers library.
func TestSingleWord(t *testing.T) {
	vocab := map[string]int{}
	for b := range 256 {
		vocab[tokenizer.ByteText(string([]byte{byte(b)}))] = b
	}
	text, err := json.Marshal(vocab)
	if err != nil {
		t.Fatal(err)
	}
	h, err := Parse([]byte(`{"model":{"type":"BPE","vocab":`+string(text)+`,"merges":[]},
		"added_tokens":[{"id":256,"content":"ab","single_word":true,"special":true},{"id":257,"content":"<x>","single_word":true,"lstrip":true,"special":true}],
		"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false}}`), "tokenizer.json")
	if err != nil {
		t.Fatal(err)
	}
	tok := newTokenizer(t, h)
	for _, tt := range []struct {
		text string
		want []int32 // ids above 255
	}{
		{"ab", []int32{256}}, {"ab ab", []int32{256, 256}}, {"abab", nil}, {"cab", nil}, {"abc", nil}, {"ab.", []int32{256}}, {"(ab)", []int32{256}},
		{"éab", nil}, {"abé", nil}, {"ab_", nil}, {"1ab", nil}, {"ab\u0301", nil}, {"\u200dab", nil}, {"²ab", []int32{256}}, {"Ⅷab", nil},
		{"a ab b", []int32{256}}, {"x <x>", []int32{257}}, {"x<x>", nil}, {"<x>x", nil}, {" <x> ab", []int32{257, 256}}, {"ab<x>ab", []int32{256, 256}},
		{"一ab", nil}, {"ab\u203f", nil}, {"🄰ab", nil}, {"٣ab", nil}, {"½ab", []int32{256}},
	} {
		var got []int32
		for _, id := range tok.Encode(tt.text, tokenizer.Options{ParseSpecial: true}) {
			if id > 255 {
				got = append(got, id)
			}
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%q: %v, want %v", tt.text, got, tt.want)
		}
	}
}
