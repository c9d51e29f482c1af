package vocab

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/internal/tokenizer/hf"
)

// fastTokenizer is the part of tokenizer.json, the file of Hugging Face's
// tokenizers library, that a GGUF needs.
type fastTokenizer struct {
	AddedTokens   []addedToken    `json:"added_tokens"`
	Normalizer    json.RawMessage `json:"normalizer"`
	PreTokenizer  json.RawMessage `json:"pre_tokenizer"`
	PostProcessor processor       `json:"post_processor"`
	Decoder       struct {
		Type string `json:"type"`
	} `json:"decoder"`
	Model struct {
		Type         string          `json:"type"`
		Vocab        json.RawMessage `json:"vocab"` // BPE: text -> id; Unigram: list of [text, score]
		Merges       json.RawMessage `json:"merges"`
		ByteFallback bool            `json:"byte_fallback"`
		IgnoreMerges bool            `json:"ignore_merges"`
	} `json:"model"`

	vocab map[string]int // Model.Vocab, once it was asked for
}

const fastFile = "tokenizer.json"

// fastTokenizer returns tokenizer.json, nil if there is none.
func (v *Builder) fastTokenizer() *fastTokenizer {
	if v.fast == nil {
		data := v.file(fastFile)
		if data == nil {
			return nil
		}
		v.fast = &fastTokenizer{}
		if err := json.Unmarshal(data, v.fast); err != nil {
			v.bad(fastFile, "%v", err)
		}
		for _, t := range v.fast.AddedTokens {
			if t.ID < 0 || t.ID > 1<<31-1 {
				v.bad(fastFile, "added token %s: bad id %d", formats.Quote(t.Content), t.ID)
			}
		}
	}
	return v.fast
}

// merges returns the merges, each as its two parts with a space between. Where
// a part has a space itself, it is written as U+0120, as byte-level BPE has it.
func (f *fastTokenizer) merges(v *Builder) []string {
	if len(f.Model.Merges) == 0 {
		return nil
	}
	var list []string
	if json.Unmarshal(f.Model.Merges, &list) == nil {
		return list
	}
	var pairs [][]string
	if err := json.Unmarshal(f.Model.Merges, &pairs); err != nil {
		v.bad(fastFile, "model.merges: %v", err)
	}
	list = make([]string, len(pairs))
	for i, p := range pairs {
		if len(p) != 2 {
			v.bad(fastFile, "model.merges: entry %d has %d parts", i, len(p))
		}
		list[i] = strings.ReplaceAll(p[0], " ", "\u0120") + " " + strings.ReplaceAll(p[1], " ", "\u0120")
	}
	return list
}

// bpeVocab returns the base vocabulary of a BPE tokenizer, text -> id.
func (f *fastTokenizer) bpeVocab(v *Builder) map[string]int {
	if f.vocab != nil {
		return f.vocab
	}
	if f.Model.Type != "BPE" {
		v.bad(fastFile, "model type %s, want BPE", formats.Quote(f.Model.Type))
	}
	if err := json.Unmarshal(f.Model.Vocab, &f.vocab); err != nil {
		v.bad(fastFile, "model.vocab: %v", err)
	}
	return f.vocab
}

// HasByteFallbackBPE reports whether tokenizer.json holds a BPE in
// SentencePiece's form: characters that are not in the vocabulary fall back to
// bytes.
func (v *Builder) HasByteFallbackBPE() bool {
	f := v.fastTokenizer()
	return f != nil && f.Model.Type == "BPE" && f.Model.ByteFallback && f.Decoder.Type == "Sequence"
}

// ByteFallbackBPE writes a tokenizer.json in SentencePiece's form. It holds no
// scores: the tokens' order stands for them.
func (v *Builder) ByteFallbackBPE() {
	f := v.fastTokenizer()
	texts := v.byID(fastFile, f.bpeVocab(v))
	special := map[string]bool{}
	for _, e := range f.AddedTokens {
		if e.Special {
			special[e.Content] = true
		}
	}
	t := &tokens{}
	add := func(text string, typ int32) {
		t.text, t.score, t.typ = append(t.text, text), append(t.score, -1000), append(t.typ, typ)
	}
	for id, text := range texts {
		switch {
		case text == nil:
			v.bad(fastFile, "hole at id %d", id)
		case isByte(*text):
			add(*text, byteToken)
		case special[*text]:
			add(*text, control)
		default:
			add(*text, normal)
		}
	}
	added := slices.Clone(f.AddedTokens)
	slices.SortStableFunc(added, func(a, b addedToken) int { return a.ID - b.ID })
	for _, e := range added {
		if e.ID < len(texts) {
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
	v.write("llama", "default", t, true)
	v.Special(false, len(t.text))
}

// isByte recognises tokens of the form "<0x0A>".
func isByte(s string) bool {
	return len(s) == 6 && strings.HasPrefix(s, "<0x") && s[5] == '>' && strings.Trim(s[3:5], "0123456789abcdefABCDEF") == ""
}

// byID inverts a vocabulary; entries that no text has are nil.
func (v *Builder) byID(file string, vocab map[string]int) []*string {
	top := -1
	for text, id := range vocab {
		if id < 0 || id >= 1<<24 {
			v.bad(file, "token %s: bad id %d", formats.Quote(text), id)
		}
		top = max(top, id)
	}
	// A sparse vocabulary must not cost memory that the file did not.
	if top >= 4*len(vocab)+1024 {
		v.bad(file, "ids up to %d for %d tokens", top, len(vocab))
	}
	out := make([]*string, top+1)
	for text, id := range vocab {
		if out[id] != nil {
			a, b := *out[id], text
			v.bad(file, "id %d: %s and %s", id, formats.Quote(min(a, b)), formats.Quote(max(a, b)))
		}
		out[id] = &text
	}
	return out
}

// BPE writes a byte-level BPE from tokenizer.json, or from vocab.json and
// merges.txt.
func (v *Builder) BPE() {
	t := v.bpe()
	v.write("gpt2", v.pre(), t, false)
	v.Special(true, 0)
}

func (v *Builder) bpe() *tokens {
	var vocab map[string]int
	var added []addedToken
	file := fastFile
	if f := v.fastTokenizer(); f != nil {
		vocab, added = f.bpeVocab(v), f.AddedTokens
	} else {
		file = "vocab.json"
		data := v.file(file)
		if data == nil {
			fail(formats.Malformedf(v.ck.Path, -1, "no tokenizer: neither tokenizer.model nor tokenizer.json nor vocab.json is there"))
		}
		if err := json.Unmarshal(data, &vocab); err != nil {
			v.bad(file, "%v", err)
		}
		more := v.json("added_tokens.json")
		for _, text := range sortedKeys(more) {
			added = append(added, addedToken{ID: v.id("added_tokens.json", text, more[text]), Content: text})
		}
	}
	added = v.mergeAdded(added)
	texts := v.byID(file, vocab)
	top := len(texts)
	for _, e := range added {
		top = max(top, e.ID+1)
	}
	size := v.opt.Size
	if size == 0 {
		size = top
	}
	if top > size {
		v.bad(file, "vocab %d, embedding %d", top, size)
	}
	t := padded(size)
	for id, text := range texts {
		if text != nil {
			t.set(id, *text, 0, normal)
		}
	}
	for _, e := range added {
		if e.ID < len(texts) && texts[e.ID] != nil && *texts[e.ID] != e.Content {
			v.bad(file, "id %d: %s and %s", e.ID, formats.Quote(*texts[e.ID]), formats.Quote(e.Content))
		}
		text, typ := addedText(e)
		t.set(e.ID, text, 0, typ)
	}
	return t
}

// mergeAdded adds tokenizer_config.json's added tokens to those of the
// tokenizer; where both have a token, its flags are the tokenizer's.
func (v *Builder) mergeAdded(added []addedToken) []addedToken {
	out := slices.Clone(added)
	known := map[string]bool{}
	byID := map[int]string{}
	for _, e := range out {
		known[e.Content] = true
		if old, dup := byID[e.ID]; dup && old != e.Content {
			v.bad(fastFile, "id %d: %s and %s", e.ID, formats.Quote(old), formats.Quote(e.Content))
		}
		byID[e.ID] = e.Content
	}
	for _, e := range v.decoderEntries() {
		if !known[e.Content] {
			out = append(out, e)
		}
	}
	return out
}

// slowPre names the pre-tokenizers of the classes that exist as vocab.json and
// merges.txt only, by tokenizer_config.json's tokenizer_class.
var slowPre = map[string]string{"": "gpt-2", "GPT2Tokenizer": "gpt-2", "Qwen2Tokenizer": "qwen2", "CodeGenTokenizer": "gpt-2"}

// pre returns the name of the pre-tokenizer.
func (v *Builder) pre() string {
	if v.opt.Pre != "" {
		return v.opt.Pre
	}
	f := v.fastTokenizer()
	if f == nil {
		name, ok := slowPre[v.TokenizerClass()]
		if !ok {
			fail(formats.Unsupportedf(v.ck.Path, -1, "the pre-tokenizer of a %s is not known without tokenizer.json", formats.Quote(v.TokenizerClass())).
				WithHint("name it with --pre"))
		}
		return name
	}
	vocab := f.bpeVocab(v)
	modelType, _ := v.config["model_type"].(string)
	name, err := hf.PreTokenizer(hf.Description{
		Normalizer:   f.Normalizer,
		PreTokenizer: f.PreTokenizer,
		IgnoreMerges: f.Model.IgnoreMerges,
		ModelType:    modelType,
		Has:          func(token string) bool { _, ok := vocab[token]; return ok },
		Size:         len(vocab),
	}, v.ck.File(fastFile))
	if err != nil {
		fail(err)
	}
	return name
}
