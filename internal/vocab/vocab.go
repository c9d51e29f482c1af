// Package vocab turns a checkpoint's tokenizer files into the tokenizer keys of
// a GGUF: tokens, scores, types, merges, special tokens, chat templates.
package vocab

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/formats/gguf"
	"github.com/smeltgguf/smelt/formats/sentencepiece"
	"github.com/smeltgguf/smelt/internal/checkpoint"
	"github.com/smeltgguf/smelt/internal/tokenizer/hf"
)

// Token types of GGUF; they are SentencePiece's piece types.
const (
	normal      = int32(sentencepiece.Normal)
	unknown     = int32(sentencepiece.Unknown)
	control     = int32(sentencepiece.Control)
	userDefined = int32(sentencepiece.UserDefined)
	unused      = int32(sentencepiece.Unused)
	byteToken   = int32(sentencepiece.Byte)
)

// Options say what the tokenizer files alone do not.
type Options struct {
	// Size is the number of rows of the embeddings, which the vocabulary is
	// padded to; 0: as many as the tokenizer has.
	Size int
	// Pre names the pre-tokenizer, for a byte-level BPE whose own description
	// is not among the known ones.
	Pre string
}

// Builder writes the tokenizer's keys. Families call its methods; they panic
// with a failure, which Run returns.
type Builder struct {
	ck   *checkpoint.Checkpoint
	meta *gguf.Metadata
	opt  Options

	config    object        // config.json
	tokConfig object        // tokenizer_config.json; nil if there is none
	fast      *hf.Tokenizer // tokenizer.json, once it was asked for
	slow      *hf.Tokenizer // vocab.json and merges.txt

	retype func(text string, typ int32) (string, int32)
	eos    string
	// dummyPrefix: tokenizer.model puts a space before texts.
	dummyPrefix bool
	defaults    []defaultToken
}

type defaultToken struct{ kind, text string }

// Retype sets a function that may change the pieces of tokenizer.model.
func (v *Builder) Retype(f func(text string, typ int32) (string, int32)) { v.retype = f }

// PreferEOS makes an added token of this text the end-of-text token, if there
// is one.
func (v *Builder) PreferEOS(text string) { v.eos = text }

// DefaultToken names an added token that is a special token of the kind ("eos",
// "eot"), if the files name no other.
func (v *Builder) DefaultToken(kind, text string) {
	v.defaults = append(v.defaults, defaultToken{kind, text})
}

// Unused is the type of tokens that no text gives.
const Unused = unused

// object is a JSON object.
type object = map[string]any

type failure struct{ error }

func fail(err error) { panic(failure{err}) }

// New returns a Builder that writes to meta.
func New(ck *checkpoint.Checkpoint, meta *gguf.Metadata, opt Options) (*Builder, error) {
	v := &Builder{ck: ck, meta: meta, opt: opt}
	err := v.Run(func(v *Builder) {
		v.config = v.json("config.json")
		v.tokConfig = v.json("tokenizer_config.json")
	})
	return v, err
}

// Run calls f and returns the error that its methods failed with.
func (v *Builder) Run(f func(*Builder)) (err error) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case failure:
			err = r.error
		default:
			panic(r)
		}
	}()
	f(v)
	return nil
}

// json reads an object, nil if there is no such file.
func (v *Builder) json(name string) object {
	o, err := v.ck.JSON(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		fail(err)
	}
	return o
}

// file reads a file, nil if there is none.
func (v *Builder) file(name string) []byte {
	b, err := v.ck.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		fail(err)
	}
	return b
}

func (v *Builder) bad(file, format string, args ...any) {
	fail(formats.Malformedf(v.ck.File(file), -1, format, args...))
}

// Size returns the number of embeddings, 0 if it is not known.
func (v *Builder) Size() int { return v.opt.Size }

// Set writes a key: "tokenizer." goes before it.
func (v *Builder) Set(key string, val any) { v.meta.Set("tokenizer."+key, val) }

// AddPrefixSpace writes what tokenizer_config.json says about a space before
// the text, if it says something.
func (v *Builder) AddPrefixSpace() {
	if b, ok := v.tokConfig["add_prefix_space"].(bool); ok {
		v.SetSpacePrefix(b)
	}
}

// SetSpacePrefix writes whether a space goes before the text.
func (v *Builder) SetSpacePrefix(add bool) { v.Set("ggml.add_space_prefix", add) }

// TokenizerClass returns tokenizer_config.json's tokenizer_class.
func (v *Builder) TokenizerClass() string {
	s, _ := v.tokConfig["tokenizer_class"].(string)
	return s
}

// tokens is a vocabulary being filled.
type tokens struct {
	text  []string
	score []float32
	typ   []int32
}

// padded returns n entries that say they are padding.
func padded(n int) *tokens {
	t := &tokens{make([]string, n), make([]float32, n), make([]int32, n)}
	for i := range n {
		t.set(i, fmt.Sprintf("[PAD%d]", i), -10000, unused)
	}
	return t
}

func (t *tokens) set(id int, text string, score float32, typ int32) {
	t.text[id], t.score[id], t.typ[id] = text, score, typ
}

// write writes the vocabulary of a tokenizer of SentencePiece's kind.
func (v *Builder) write(model, pre string, t *tokens, scores bool) {
	v.Set("ggml.model", model)
	v.Set("ggml.pre", pre)
	v.Set("ggml.tokens", t.text)
	if scores {
		v.Set("ggml.scores", t.score)
	}
	v.Set("ggml.token_type", t.typ)
}

// HasSentencePiece reports whether there is a tokenizer.model of
// SentencePiece's format.
func (v *Builder) HasSentencePiece() bool {
	b := v.file("tokenizer.model")
	return b != nil && !hf.LooksTiktoken(b)
}

// SentencePiece writes the vocabulary of tokenizer.model, of added_tokens.json
// and of tokenizer_config.json, and the special tokens.
func (v *Builder) SentencePiece() {
	t := v.sentencePiece()
	for _, e := range v.decoderEntries() {
		if e.ID < len(t.text) {
			text, typ := addedText(e)
			t.set(e.ID, text, -1000, typ)
		}
	}
	v.writeSentencePiece(t)
}

// SentencePieceExact does the same for models whose added tokens are what they
// are marked as, whatever they look like, and which list some of them in
// tokenizer.json only. With prefix it also writes whether tokenizer.model puts a
// space before texts.
func (v *Builder) SentencePieceExact(prefix bool) {
	t := v.sentencePiece()
	added := v.decoderEntries()
	if f := v.fastTokenizer(); f != nil {
		added = append(added, f.Added...)
	}
	for _, e := range added {
		switch {
		case e.ID >= len(t.text):
		case e.Special:
			t.set(e.ID, e.Content, -1000, control)
		default:
			t.set(e.ID, e.Content, -1000, userDefined)
		}
	}
	v.write("llama", "default", t, true)
	if prefix {
		v.SetSpacePrefix(v.dummyPrefix)
	}
	v.Special(false, len(t.text))
}

func (v *Builder) writeSentencePiece(t *tokens) {
	v.write("llama", "default", t, true)
	v.Special(false, len(t.text))
}

// Count returns the number of tokens of the checkpoint's tokenizer, 0 if it has
// none that is readable.
func Count(ck *checkpoint.Checkpoint) int {
	n := 0
	v, err := New(ck, gguf.NewMetadata(), Options{})
	if err != nil {
		return 0
	}
	err = v.Run(func(v *Builder) {
		if v.HasSentencePiece() {
			n = len(v.sentencePiece().text)
		} else if f := v.fastTokenizer(); f != nil {
			n = len(v.bpe(f).text)
		}
	})
	if err != nil {
		return 0
	}
	return n
}

// sentencePiece reads tokenizer.model and added_tokens.json.
func (v *Builder) sentencePiece() *tokens {
	const file = "tokenizer.model"
	data := v.file(file)
	if data == nil {
		fail(formats.Malformedf(v.ck.Path, -1, "%s is missing", file))
	}
	m, err := sentencepiece.Parse(data, v.ck.File(file))
	if err != nil {
		fail(err)
	}
	size := v.opt.Size
	if size == 0 {
		size = len(m.Pieces)
	}
	if len(m.Pieces) > size {
		v.bad(file, "vocab %d, embedding %d", len(m.Pieces), size)
	}
	t := padded(size)
	for i, p := range m.Pieces {
		typ := int32(p.Type)
		if typ == userDefined {
			typ = normal // unlike added tokens, they are matched like all pieces
		}
		text := p.Text
		if v.retype != nil {
			text, typ = v.retype(text, typ)
		}
		t.set(i, text, p.Score, typ)
	}
	v.dummyPrefix = m.Normalizer.AddDummyPrefix
	v.addedTokensFile(t)
	return t
}

// addedTokensFile adds added_tokens.json: text -> id.
func (v *Builder) addedTokensFile(t *tokens) {
	const file = "added_tokens.json"
	added := v.json(file)
	byID := map[int]string{}
	for _, text := range sortedKeys(added) {
		id := v.id(file, text, added[text])
		if old, dup := byID[id]; dup {
			v.bad(file, "id %d: %s and %s", id, formats.Quote(old), formats.Quote(text))
		}
		byID[id] = text
		if id >= len(t.text) {
			continue // no embedding belongs to it
		}
		t.set(id, text, -1000, userDefined)
	}
}

// id checks a token's id.
func (v *Builder) id(file, text string, val any) int {
	id, ok := integer(val)
	if !ok || id < 0 || id > 1<<31-1 {
		v.bad(file, "token %s: bad id %v", formats.Quote(text), val)
	}
	return int(id)
}

// decoderEntries returns tokenizer_config.json's added_tokens_decoder, by id.
func (v *Builder) decoderEntries() []hf.AddedToken {
	const file = "tokenizer_config.json"
	raw, ok := v.tokConfig["added_tokens_decoder"]
	if !ok || raw == nil {
		return nil
	}
	entries, ok := raw.(object)
	if !ok {
		v.bad(file, "added_tokens_decoder is no object")
	}
	var out []hf.AddedToken
	for _, key := range sortedKeys(entries) {
		e, _ := entries[key].(object)
		text, ok := e["content"].(string)
		id, isID := parseID(key)
		if !ok || !isID {
			v.bad(file, "added_tokens_decoder: bad entry %s", formats.Quote(key))
		}
		special, _ := e["special"].(bool)
		normalized, _ := e["normalized"].(bool)
		out = append(out, hf.AddedToken{ID: id, Content: text, Special: special, Normalized: normalized})
	}
	slices.SortFunc(out, func(a, b hf.AddedToken) int { return a.ID - b.ID })
	return out
}

// addedText returns the text and type of an added token: control if it is
// special or looks so, else user-defined, its spaces written as such.
func addedText(e hf.AddedToken) (string, int32) {
	if e.Special || looksSpecial(e.Content) {
		return e.Content, control
	}
	return strings.ReplaceAll(e.Content, "\u2581", " "), userDefined
}

// looksSpecial tells control tokens that some models fail to mark as special
// by their form.
func looksSpecial(s string) bool {
	switch s {
	case "<pad>", "<mask>", "<2mass>", "[@BOS@]":
		return true
	}
	enclosed := func(a, b string) bool { return strings.HasPrefix(s, a) && strings.HasSuffix(s, b) }
	return enclosed("<|", "|>") || enclosed("<\uff5c", "\uff5c>") || enclosed("<unused", ">")
}
