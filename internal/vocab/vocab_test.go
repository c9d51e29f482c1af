package vocab

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/smeltgguf/smelt/formats/gguf"
	"github.com/smeltgguf/smelt/internal/checkpoint"
	"github.com/smeltgguf/smelt/internal/fixture"
)

// open makes a checkpoint of config files alone: names and contents in turn.
func open(t *testing.T, files ...string) *checkpoint.Checkpoint {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(files); i += 2 {
		path := filepath.Join(dir, files[i])
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(files[i+1]), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	ck, err := checkpoint.OpenConfig(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ck.Close() })
	return ck
}

func build(t *testing.T, opt Options, f func(*Builder), files ...string) (*gguf.Metadata, error) {
	t.Helper()
	meta := gguf.NewMetadata()
	v, err := New(open(t, files...), meta, opt)
	if err != nil {
		return nil, err
	}
	return meta, v.Run(f)
}

func keysOf(m *gguf.Metadata) string {
	var out []string
	for k, v := range m.All() {
		k = strings.TrimPrefix(strings.TrimPrefix(k, "tokenizer."), "ggml.")
		if reflect.ValueOf(v).Kind() == reflect.Slice && k != "chat_templates" {
			v = fmt.Sprintf("[%d]", reflect.ValueOf(v).Len())
		}
		out = append(out, fmt.Sprintf("%s=%v", k, v))
	}
	return strings.Join(out, " ")
}

// spm is the fixture's tokenizer.model of 320 pieces, bpe its tokenizer.json.
var spm, bpe = tokenizerFiles()

func tokenizerFiles() (string, string) {
	dir, err := os.MkdirTemp("", "vocab")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	read := func(m fixture.Model, name string) string {
		if err := m.Write(filepath.Join(dir, name)); err != nil {
			panic(err)
		}
		b, err := os.ReadFile(filepath.Join(dir, name, name))
		if err != nil {
			panic(err)
		}
		return string(b)
	}
	return read(fixture.Model{SentencePiece: true, VocabSize: 320}, "tokenizer.model"), read(fixture.Model{VocabSize: 320}, "tokenizer.json")
}

func TestSentencePiece(t *testing.T) {
	meta, err := build(t, Options{Size: 325}, (*Builder).SentencePiece,
		"config.json", `{"bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 400}`,
		"tokenizer.model", spm,
		"added_tokens.json", `{"\u2581extra": 320, "beyond": 325}`,
		"tokenizer_config.json", `{"add_bos_token": true, "add_eos_token": false, "chat_template": "T", "added_tokens_decoder": {
			"0": {"content": "<unk>", "special": true}, "322": {"content": "a\u2581b", "special": false}, "323": {"content": "<|x|>", "special": false}}}`)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := keysOf(meta), "model=llama pre=default tokens=[325] scores=[325] token_type=[325] bos_token_id=1 add_bos_token=true add_eos_token=false chat_template=T"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	tokens, _ := meta.Strings("tokenizer.ggml.tokens")
	scores, _ := meta.Floats("tokenizer.ggml.scores")
	types, _ := meta.Ints("tokenizer.ggml.token_type")
	for id, want := range map[int]string{
		0: "<unk> -1000 3", 1: "<s> 0 3", 3: "<0x00> 0 6", 320: "\u2581extra -1000 4", 321: "[PAD321] -10000 5", 322: "a b -1000 4", 323: "<|x|> -1000 3",
	} {
		if got := fmt.Sprintf("%s %g %d", tokens[id], scores[id], types[id]); got != want {
			t.Errorf("token %d is %q, want %q", id, got, want)
		}
	}
}

func TestBPE(t *testing.T) {
	meta, err := build(t, Options{Size: 322}, (*Builder).BPE,
		"config.json", `{"eos_token_id": 319}`, "tokenizer.json", bpe,
		"tokenizer_config.json", `{"bos_token": "<|endoftext|>", "eos_token": {"content": "<|user|>"}, "pad_token": "<|gone|>",
			"chat_template": [{"name": "default", "template": "D"}, {"name": "tool use", "template": "U"}]}`)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := keysOf(meta), "model=gpt2 pre=gpt-2 tokens=[322] token_type=[322] merges=[61] bos_token_id=317 eos_token_id=318 chat_template.tool_use=U chat_templates=[tool_use] chat_template=D"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	types, _ := meta.Ints("tokenizer.ggml.token_type")
	if !slices.Equal(types[316:], []int32{1, 3, 3, 3, 5, 5}) {
		t.Errorf("types %v", types[316:])
	}
}

// TestTemplates: which of the places that may hold chat templates counts.
func TestTemplates(t *testing.T) {
	jinja := []string{"chat_template.jinja", "J", "additional_chat_templates/rag.jinja", "R", "additional_chat_templates/notes.txt", "N"}
	for _, tt := range []struct {
		name  string
		files []string
		want  string
	}{
		{"none", []string{"tokenizer_config.json", `{}`}, ""},
		{"config first", append([]string{"tokenizer_config.json", `{"chat_template": "C"}`}, jinja...), "chat_template=C"},
		{"null counts", append([]string{"tokenizer_config.json", `{"chat_template": null}`}, jinja...), ""},
		{"jinja", []string{"tokenizer_config.json", `{}`, "chat_template.jinja", "J", "chat_template.json", `{"chat_template": "S"}`}, "chat_template=J"},
		{"several", append([]string{"tokenizer_config.json", `{}`}, jinja...), "chat_template.rag=R chat_templates=[rag] chat_template=J"},
		{"json", []string{"tokenizer_config.json", `{}`, "chat_template.json", `{"chat_template": "S"}`}, "chat_template=S"},
		{"without config", jinja, ""},
	} {
		meta, err := build(t, Options{}, func(v *Builder) { v.chatTemplates() }, append([]string{"config.json", "{}"}, tt.files...)...)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
		} else if got := keysOf(meta); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// TestPostProcessor: what tokenizer.json adds to texts.
func TestPostProcessor(t *testing.T) {
	tok := func(s string) string { return `{"SpecialToken": {"id": "` + s + `", "type_id": 0}}` }
	seq := func(s string) string { return `{"Sequence": {"id": "` + s + `", "type_id": 0}}` }
	template := func(single, pair string) string {
		return `{"type": "TemplateProcessing", "single": [` + single + `], "pair": [` + pair + `]}`
	}
	config := `{"bos_token": "<|endoftext|>", "eos_token": "<|user|>"}`
	for _, tt := range []struct{ name, processor, want string }{
		{"bos", template(tok("<|endoftext|>")+","+seq("A"), tok("<|endoftext|>")+","+seq("A")+","+tok("<|endoftext|>")+","+seq("B")), "add_bos_token=true add_sep_token=false"},
		{"bos eos", template(tok("<|endoftext|>")+","+seq("A")+","+tok("<|user|>"), ""), "add_bos_token=true add_eos_token=true"},
		{"other eos", template(seq("A")+","+tok("<|im_end|>"), ""), "eos_token_id=319 eot_token_id=318 add_eos_token=true"},
		{"sep", template(seq("A")+","+seq("A"), seq("A")+","+tok("<|user|>")+","+seq("B")), "seperator_token_id=318 add_sep_token=true"},
		{"in a sequence", `{"type": "Sequence", "processors": [{"type": "ByteLevel"}, ` + template(tok("<|endoftext|>")+","+seq("A"), "") + `]}`, "add_bos_token=true"},
	} {
		with := strings.Replace(bpe, "{", `{"post_processor": `+tt.processor+`,`, 1)
		meta, err := build(t, Options{}, func(v *Builder) { v.Special(false, 0) }, "config.json", "{}", "tokenizer.json", with, "tokenizer_config.json", config)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		got := strings.TrimPrefix(keysOf(meta), "bos_token_id=317 ")
		if got = strings.TrimPrefix(got, "eos_token_id=318 "); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// TestObjectTokens: a token that tokenizer_config.json describes by an object
// is not taken for the post-processor's token of the same text, as in
// llama.cpp's converter; what add_bos_token says goes before.
func TestObjectTokens(t *testing.T) {
	processor := `{"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": []}`
	with := strings.Replace(bpe, "{", `{"post_processor": `+processor+`,`, 1)
	object := `{"content": "<|endoftext|>", "lstrip": false}`
	for _, tt := range []struct{ config, want string }{
		{`{"bos_token": ` + object + `}`, "bos_token_id=317 add_bos_token=false"},
		{`{"bos_token": ` + object + `, "add_bos_token": true}`, "bos_token_id=317 add_bos_token=true"},
		{`{"bos_token": "<|endoftext|>"}`, "bos_token_id=317 add_bos_token=true"},
		{"", "add_bos_token=true"},
	} {
		files := []string{"config.json", "{}", "tokenizer.json", with}
		if tt.config != "" {
			files = append(files, "tokenizer_config.json", tt.config)
		}
		meta, err := build(t, Options{}, func(v *Builder) { v.Special(false, 0) }, files...)
		if err != nil {
			t.Errorf("%s: %v", tt.config, err)
			continue
		}
		if got := keysOf(meta); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.config, got, tt.want)
		}
	}
}

func TestRefuses(t *testing.T) {
	for _, tt := range []struct {
		name  string
		f     func(*Builder)
		size  int
		files []string
		want  string
	}{
		{"nothing there", (*Builder).BPE, 0, nil, "no tokenizer: neither"},
		{"cut", (*Builder).SentencePiece, 0, []string{"tokenizer.model", spm[:1000]}, "tokenizer.model: piece"},
		{"too many pieces", (*Builder).SentencePiece, 300, []string{"tokenizer.model", spm}, "vocab 320, embedding 300"},
		{"too many tokens", (*Builder).BPE, 300, []string{"tokenizer.json", bpe}, "vocab 320, embedding 300"},
		{"two texts for an id", (*Builder).SentencePiece, 330, []string{"tokenizer.model", spm, "added_tokens.json", `{"a": 321, "b": 321}`}, `id 321: "a" and "b"`},
		{"negative id", (*Builder).SentencePiece, 330, []string{"tokenizer.model", spm, "added_tokens.json", `{"a": -1}`}, `token "a": bad id -1`},
		{"added over base", (*Builder).BPE, 330, []string{"tokenizer.json", strings.Replace(bpe, `"id":317`, `"id":300`, 1)}, `id 300`},
		{"negative special", (*Builder).SentencePiece, 330, []string{"tokenizer.model", spm, "config.json", `{"bos_token_id": -1}`}, "bos_token_id is -1"},
		{"bad entry", (*Builder).SentencePiece, 330, []string{"tokenizer.model", spm, "tokenizer_config.json", `{"added_tokens_decoder": {"x": {"content": "y"}}}`}, `bad entry "x"`},
		{"twice the same key", (*Builder).SentencePiece, 330, []string{"tokenizer.model", spm, "tokenizer_config.json", `{"a": 1, "a": 2}`}, `duplicate key "a"`},
		{"unknown splitting", (*Builder).BPE, 330, []string{"tokenizer.json", strings.Replace(bpe, `"pre_tokenizer":{`, `"pre_tokenizer":{"type":"Split","pattern":{"Regex":"(a+)+"},"behavior":"Isolated","invert":false},"x":{`, 1)}, "(a+)+"},
	} {
		files := tt.files
		if !slices.Contains(files, "config.json") {
			files = append([]string{"config.json", "{}"}, files...)
		}
		if _, err := build(t, Options{Size: tt.size}, tt.f, files...); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want %s", tt.name, err, tt.want)
		}
	}
}
