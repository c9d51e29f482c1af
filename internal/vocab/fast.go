package vocab

import (
	"slices"
	"strings"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/internal/tokenizer"
	"github.com/smeltgguf/smelt/internal/tokenizer/hf"
)

const fastFile = "tokenizer.json"

// fastTokenizer returns tokenizer.json, nil if there is none.
func (v *Builder) fastTokenizer() *hf.Tokenizer {
	if v.fast == nil {
		data := v.file(fastFile)
		if data == nil {
			return nil
		}
		var err error
		if v.fast, err = hf.Parse(data, v.ck.File(fastFile)); err != nil {
			fail(err)
		}
	}
	return v.fast
}

// HasByteFallbackBPE reports whether tokenizer.json holds a BPE in
// SentencePiece's form: characters that are not in the vocabulary fall back to
// bytes.
func (v *Builder) HasByteFallbackBPE() bool {
	f := v.fastTokenizer()
	return f != nil && f.ModelType == "BPE" && f.ByteFallback
}

// ByteFallbackBPE writes a tokenizer.json in SentencePiece's form. It holds no
// scores: the tokens' order stands for them.
func (v *Builder) ByteFallbackBPE() {
	f := v.fastTokenizer()
	special := map[string]bool{}
	for _, e := range f.Added {
		if e.Special {
			special[e.Content] = true
		}
	}
	t := &tokens{}
	add := func(text string, typ int32) {
		t.text, t.score, t.typ = append(t.text, text), append(t.score, -1000), append(t.typ, typ)
	}
	for id, text := range f.Tokens {
		switch {
		case text == "":
			v.bad(fastFile, "hole at id %d", id)
		case isByte(text):
			add(text, byteToken)
		case special[text]:
			add(text, control)
		default:
			add(text, normal)
		}
	}
	added := slices.Clone(f.Added)
	slices.SortStableFunc(added, func(a, b hf.AddedToken) int { return a.ID - b.ID })
	for _, e := range added {
		if e.ID < len(f.Tokens) {
			continue
		}
		if e.ID != len(t.text) {
			v.bad(fastFile, "hole at id %d", len(t.text))
		}
		if e.Special {
			add(e.Content, control)
		} else {
			add(e.Content, userDefined)
		}
	}
	if size := v.opt.Size; size > 0 && len(t.text) > size {
		v.bad(fastFile, "vocab %d, embedding %d", len(t.text), size)
	}
	v.write("llama", "default", t, true)
	v.Special(false, len(t.text))
}

// isByte recognises tokens of the form "<0x0A>".
func isByte(s string) bool {
	return len(s) == 6 && strings.HasPrefix(s, "<0x") && s[5] == '>' && strings.Trim(s[3:5], "0123456789abcdefABCDEF") == ""
}

// BPE writes a byte-level BPE: from tokenizer.json, from vocab.json and
// merges.txt, from a tokenizer.model in tiktoken's format, or from tekken.json.
func (v *Builder) BPE() {
	f := v.fastTokenizer()
	if f == nil {
		if data := v.file("tekken.json"); data != nil {
			v.tekken(data)
			return
		}
		if data := v.file("tokenizer.model"); data != nil && hf.LooksTiktoken(data) {
			v.tiktoken(data)
			return
		}
		f = v.slowTokenizer()
	}
	t := v.bpe(f)
	v.write("gpt2", v.pre(f), t, false)
	v.Special(true, 0)
}

// slowTokenizer reads vocab.json, merges.txt and added_tokens.json.
func (v *Builder) slowTokenizer() *hf.Tokenizer {
	vocab, merges := v.file("vocab.json"), v.file("merges.txt")
	if vocab == nil || merges == nil {
		fail(formats.Malformedf(v.ck.Path, -1, "no tokenizer: neither tokenizer.model nor tokenizer.json nor vocab.json with merges.txt is there"))
	}
	f, err := hf.ParseBPE(vocab, merges, v.ck.File("vocab.json"), v.ck.File("merges.txt"), v.TokenizerClass())
	if err != nil {
		fail(err)
	}
	const file = "added_tokens.json"
	more := v.json(file)
	for _, text := range sortedKeys(more) {
		f.Added = append(f.Added, hf.AddedToken{ID: v.id(file, text, more[text]), Content: text})
	}
	v.slow = f
	return f
}

// pre returns the name of the pre-tokenizer.
func (v *Builder) pre(f *hf.Tokenizer) string {
	if v.opt.Pre != "" {
		return v.opt.Pre
	}
	modelType, _ := v.config["model_type"].(string)
	name, err := f.Pre(modelType)
	if err != nil {
		fail(err)
	}
	return name
}

func (v *Builder) bpe(f *hf.Tokenizer) *tokens {
	if f.ModelType != "BPE" {
		v.bad(fastFile, "model type %s, want BPE", formats.Quote(f.ModelType))
	}
	added := v.mergeAdded(f.Added)
	top := len(f.Tokens)
	for _, e := range added {
		top = max(top, e.ID+1)
	}
	size := v.opt.Size
	if size == 0 {
		size = top
	}
	if top > size {
		v.bad(fastFile, "vocab %d, embedding %d", top, size)
	}
	t := padded(size)
	for id, text := range f.Tokens {
		if text != "" {
			t.set(id, text, 0, normal)
		}
	}
	for _, e := range added {
		if e.ID < len(f.Tokens) && f.Tokens[e.ID] != "" && f.Tokens[e.ID] != e.Content {
			v.bad(fastFile, "id %d: %s and %s", e.ID, formats.Quote(f.Tokens[e.ID]), formats.Quote(e.Content))
		}
		text, typ := addedText(e)
		t.set(e.ID, text, 0, typ)
	}
	return t
}

// mergeAdded adds tokenizer_config.json's added tokens to those of the
// tokenizer; where both have a token, its flags are the tokenizer's.
func (v *Builder) mergeAdded(added []hf.AddedToken) []hf.AddedToken {
	out := slices.Clone(added)
	known := map[string]bool{}
	for _, e := range out {
		known[e.Content] = true
	}
	for _, e := range v.decoderEntries() {
		if !known[e.Content] {
			out = append(out, e)
		}
	}
	return out
}

// ranks returns the vocabulary of a list of ranks, padded to the embeddings.
func (v *Builder) ranks(r *hf.Ranks, pre, file string) *tokens {
	vocab, err := r.Vocab(pre)
	if err != nil {
		fail(err)
	}
	size := v.opt.Size
	if size == 0 {
		size = len(vocab.Tokens)
	}
	if len(vocab.Tokens) > size {
		v.bad(file, "vocab %d, embedding %d", len(vocab.Tokens), size)
	}
	t := padded(size)
	for i, text := range vocab.Tokens {
		typ := normal
		if i < len(vocab.Types) && vocab.Types[i] != tokenizer.Undefined {
			typ = int32(vocab.Types[i])
		}
		t.set(i, text, 0, typ)
	}
	return t
}

// tiktoken writes Llama 3's tokenizer as Meta publishes it. Its special tokens
// are not in the file, but known.
func (v *Builder) tiktoken(data []byte) {
	const file = "tokenizer.model"
	r, err := hf.ParseTiktoken(data, v.ck.File(file))
	if err != nil {
		fail(err)
	}
	params := v.json("params.json")
	scaled, _ := params["use_scaled_rope"].(bool)
	r.Special = hf.Llama3Special(len(r.Tokens), scaled)
	v.write("gpt2", "llama-bpe", v.ranks(r, "llama-bpe", file), false)
	v.Set("ggml.merges", r.Merges())
	ids := map[string]int{}
	for _, e := range r.Special {
		ids[e.Content] = e.ID
	}
	for _, s := range [][2]string{{"bos", "<|begin_of_text|>"}, {"eos", "<|end_of_text|>"}, {"eot", "<|eot_id|>"}} {
		if id, ok := ids[s[1]]; ok {
			v.SetToken(s[0], id)
		}
	}
	v.SetAdd("bos", true)
}

// tekken writes Mistral's tokenizer, in which the special tokens come first.
func (v *Builder) tekken(data []byte) {
	const file = "tekken.json"
	r, err := hf.ParseTekken(data, v.ck.File(file))
	if err != nil {
		fail(err)
	}
	t := v.ranks(r, "tekken", file)
	ids := map[string]int{}
	for _, e := range r.Special {
		ids[e.Content] = e.ID
	}
	v.Set("ggml.model", "gpt2")
	v.Set("ggml.pre", "tekken")
	v.Set("ggml.merges", r.Merges())
	for _, s := range []struct {
		kind, text string
		def        int
	}{{"bos", "<s>", 1}, {"eos", "</s>", 2}, {"unk", "<unk>", 0}, {"pad", "<pad>", 2}} {
		id, ok := ids[s.text]
		if !ok {
			id = s.def
		}
		v.SetToken(s.kind, id)
	}
	v.Set("ggml.tokens", t.text)
	v.Set("ggml.scores", t.score)
	v.Set("ggml.token_type", t.typ)
	v.SetAdd("bos", true)
	v.SetAdd("eos", false)
	v.chatTemplates()
}
