package hf

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/smeltgguf/smelt/internal/tokenizer"
)

// ranksOf returns bytes and some longer tokens.
func ranksOf(more ...string) []string {
	var tokens []string
	for b := range 256 {
		tokens = append(tokens, string([]byte{byte(b)}))
	}
	return append(tokens, more...)
}

func tiktoken(tokens []string) []byte {
	var b strings.Builder
	for i, token := range tokens {
		fmt.Fprintf(&b, "%s %d\n", base64.StdEncoding.EncodeToString([]byte(token)), i)
	}
	return []byte(b.String())
}

func TestTiktoken(t *testing.T) {
	data := tiktoken(ranksOf("ab", " a", " ab", "abab"))
	if !LooksTiktoken(data) || LooksTiktoken([]byte("\x0a\x0e\x0a\x05<unk>")) || LooksTiktoken(nil) || LooksTiktoken([]byte("# hello 1\n")) {
		t.Error("format not recognised")
	}
	r, err := ParseTiktoken(data, "tokenizer.model")
	if err != nil {
		t.Fatal(err)
	}
	// " ab" is " " + "ab" and " a" + "b"; of both, the left part of lower rank first.
	want := []string{"a b", "Ġ a", "Ġ ab", "Ġa b", "ab ab"}
	if got := r.Merges(); !slices.Equal(got, want) {
		t.Errorf("merges %q, want %q", got, want)
	}
	r.Special = Llama3Special(len(r.Tokens), true)
	v, err := r.Vocab("llama-bpe")
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.New(*v)
	if err != nil {
		t.Fatal(err)
	}
	got := tok.Encode("abab ab<|eot_id|>", tokenizer.Options{AddSpecial: true, ParseSpecial: true})
	if want := []int32{260, 259, 258, 269}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestLlama3Special(t *testing.T) {
	for _, tt := range []struct {
		v31  bool
		id   int
		want string
	}{
		{false, 128000, "<|begin_of_text|>"}, {false, 128004, "<|reserved_special_token_2|>"}, {false, 128008, "<|reserved_special_token_4|>"},
		{false, 128009, "<|eot_id|>"}, {false, 128255, "<|reserved_special_token_250|>"},
		{true, 128004, "<|finetune_right_pad_id|>"}, {true, 128005, "<|reserved_special_token_2|>"}, {true, 128008, "<|eom_id|>"},
		{true, 128010, "<|python_tag|>"}, {true, 128255, "<|reserved_special_token_247|>"},
	} {
		if a := Llama3Special(128000, tt.v31)[tt.id-128000]; a.Content != tt.want || a.ID != tt.id || !a.Special {
			t.Errorf("3.1 %v: id %d is %+v, want %s", tt.v31, tt.id, a, tt.want)
		}
	}
}

func TestBadTiktoken(t *testing.T) {
	for _, tt := range []struct{ data, want string }{
		{"", "f: no tokens"},
		{"YQ== 1\n", `f: token 0 has rank "1", at offset 0`},
		{"YQ== 0\nYg==\n", `f: token 1: want base64 and a rank, got "Yg==", at offset 7`},
		{"YQ== 0\n!!! 1\n", `f: token 1: want base64 and a rank, got "!!! 1", at offset 7`},
		{"YQ== 0\nYQ== 1\n", `f: tokens 0 and 1 are both "a"`},
		{"YQ== 0\n", "f: no token for byte 0x00"},
	} {
		if _, err := ParseTiktoken([]byte(tt.data), "f"); err == nil || err.Error() != tt.want {
			t.Errorf("%q: error %v, want %s", tt.data, err, tt.want)
		}
	}
}

// tekkenJSON makes a tekken.json.
func tekkenJSON(t testing.TB, config map[string]any, tokens []string, special []map[string]any) []byte {
	t.Helper()
	var vocab []map[string]any
	for i, token := range tokens {
		vocab = append(vocab, map[string]any{"rank": i, "token_bytes": []byte(token), "token_str": nil})
	}
	data, err := json.Marshal(map[string]any{"config": config, "vocab": vocab, "special_tokens": special})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestTekken(t *testing.T) {
	config := map[string]any{"pattern": "...", "default_vocab_size": 256 + 2 + 10, "default_num_special_tokens": 10}
	r, err := ParseTekken(tekkenJSON(t, config, ranksOf("ab", "abab", "unused"), nil), "tekken.json")
	if err != nil {
		t.Fatal(err)
	}
	v, err := r.Vocab("tekken")
	if err != nil {
		t.Fatal(err)
	}
	if len(v.Tokens) != 268 || v.Tokens[1] != "<s>" || v.Tokens[9] != "[TOOL_CALLS]" || v.Tokens[10] != "Ā" || v.Tokens[267] != "abab" ||
		v.BOS != 1 || v.EOS != 2 || v.UNK != 0 || v.Types[9] != tokenizer.Control || v.Types[10] != tokenizer.Normal {
		t.Errorf("%d tokens %q, bos %d eos %d unk %d", len(v.Tokens), v.Tokens[:12], v.BOS, v.EOS, v.UNK)
	}
	named := []map[string]any{{"rank": 0, "token_str": "<unk>", "is_control": true}, {"rank": 3, "token_str": "[X]", "is_control": true}}
	r, err = ParseTekken(tekkenJSON(t, config, ranksOf("ab"), named), "tekken.json")
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Special) != 10 || r.Special[1].Content != "<SPECIAL_1>" || r.Special[3].Content != "[X]" {
		t.Errorf("special tokens %+v", r.Special)
	}

	bad := func(config map[string]any, tokens []string, special []map[string]any) string {
		_, err := ParseTekken(tekkenJSON(t, config, tokens, special), "tekken.json")
		return fmt.Sprint(err)
	}
	for _, tt := range []struct{ got, want string }{
		{bad(config, ranksOf("ab", "ab"), nil), `tekken.json: tokens 256 and 257 are both "ab"`},
		{bad(config, nil, nil), "tekken.json: JSON has 'n', want '['"},
		{bad(map[string]any{"default_num_special_tokens": 1 << 30}, ranksOf(), nil), "tekken.json: 1073741824 special tokens in a vocabulary of 4294967295"},
		{bad(config, ranksOf(), []map[string]any{{"rank": 99, "token_str": "x"}}), `tekken.json: special token "x": rank 99 of 10`},
		{bad(config, ranksOf(), append(named, named[1])), `tekken.json: id 3: "[X]" and "[X]"`},
	} {
		if got, _, _ := strings.Cut(tt.got, ", at offset"); got != tt.want {
			t.Errorf("error %s, want %s", got, tt.want)
		}
	}
}

func FuzzTiktoken(f *testing.F) {
	f.Add(tiktoken(ranksOf("ab", "abab")))
	f.Add([]byte("YQ== 0\nYg== 1\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseTiktoken(data, "fuzz")
		if err != nil {
			return
		}
		if v, err := r.Vocab("llama-bpe"); err == nil {
			if _, err := tokenizer.New(*v); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func FuzzTekken(f *testing.F) {
	f.Add(tekkenJSON(f, map[string]any{"default_vocab_size": 262, "default_num_special_tokens": 4}, ranksOf("ab", "abab"), nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseTekken(data, "fuzz")
		if err != nil {
			return
		}
		if v, err := r.Vocab("tekken"); err == nil {
			_, _ = tokenizer.New(*v) // a special token may be spelled as another token
		}
	})
}
