// Package tokenizer turns text into token ids and back, with the vocabulary that
// a GGUF's metadata holds: SentencePiece-BPE (tokenizer.ggml.model "llama"),
// SentencePiece unigram ("t5") and byte-level BPE ("gpt2"). Ids are those that
// llama.cpp gives; where its pre-tokenizers only approximate a model's own
// description (the cased words of GPT-4o and Tekken), the model's own counts.
package tokenizer

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/smeltgguf/smelt/formats"
)

// Type is a token's type, numbered as in tokenizer.ggml.token_type.
type Type int32

// The token types of GGUF.
const (
	Undefined   Type = 0
	Normal      Type = 1
	Unknown     Type = 2
	Control     Type = 3
	UserDefined Type = 4
	Unused      Type = 5
	Byte        Type = 6
)

// None is the id of a special token that a vocabulary does not have.
const None int32 = -1

// MaxTokenLen is the longest text of a token in bytes.
const MaxTokenLen = 64 << 10

// A Vocab is a vocabulary and how to use it; NewVocab gives one with the defaults
// of its kind. A token's id is its index.
type Vocab struct {
	Model  string    // tokenizer.ggml.model
	Pre    string    // tokenizer.ggml.pre; for byte-level BPE
	Tokens []string  // in byte-level BPE's alphabet, or with U+2581 for spaces
	Scores []float32 // one per token, or none; for SentencePiece
	Types  []Type    // one per token, or none: all are normal
	Merges []string  // "left right", best first; for byte-level BPE

	// Ids of special tokens; None where there is none.
	BOS, EOS, EOT, EOM, UNK, SEP, PAD, Mask        int32
	FimPre, FimSuf, FimMid, FimPad, FimRep, FimSep int32

	AddBOS, AddEOS, AddSEP bool // what Encode adds

	AddSpacePrefix bool // SentencePiece: a space goes before the text
	// How tokenizers' Metaspace differs from SentencePiece in this: a space that
	// the text begins with is the prefix, and only the start of the text has one,
	// not what follows a special token.
	PrefixUnlessSpace, PrefixOnce bool

	RemoveExtraWhitespaces bool   // unigram: runs of spaces become one
	SuffixWhitespace       bool   // unigram: a space belongs to the word before it
	Charsmap               []byte // unigram: SentencePiece's precompiled_charsmap

	// NFC: text is composed to Unicode's Normalization Form C first. Some models
	// were trained so; GGUF has no key for it, and llama.cpp does not do it.
	NFC bool

	// ExactTypes: Types can be relied on. Otherwise tokens that look like the
	// ends of turns and the like are control tokens, as llama.cpp has it, because
	// GGUF files often have them as normal ones.
	ExactTypes bool

	// StripAfterSpecial: whitespace after special tokens is dropped, as Phi-3
	// has it.
	StripAfterSpecial bool
	// Ids of the special tokens that take the whitespace before and after them.
	LStrip, RStrip []int32
	// Ids of the special tokens that count only where no letter, digit or the like
	// stands right before or after them.
	SingleWord []int32
}

// NewVocab returns a vocabulary without tokens that has the special ids and flags
// of its kind. It is an error if there is no such kind of model, or no such
// pre-tokenizer.
func NewVocab(model, pre string) (*Vocab, error) {
	v := &Vocab{Model: model, Pre: pre}
	for _, id := range v.specialIDs() {
		*id.id = None
	}
	switch model {
	case "llama":
		v.BOS, v.EOS, v.UNK = 1, 2, 0
		v.AddSpacePrefix, v.AddBOS = true, true
	case "t5":
		v.EOS, v.UNK, v.PAD = 1, 2, 0
		v.AddEOS = true
	case "gpt2", "gemma4":
		if model == "gemma4" {
			v.Pre = "gemma4"
		}
		if v.Pre == "" {
			v.Pre = "default"
		}
		p := findPre(v.Pre)
		if p == nil {
			return nil, fmt.Errorf("unknown pre-tokenizer %s", formats.Quote(v.Pre))
		}
		if model == "gpt2" {
			v.BOS, v.EOS = 11, 11
			if p.noBOS {
				v.BOS = None
			}
		}
		v.AddBOS, v.AddSEP = p.addBOS || p.newlineTokens, p.addSEP
	default:
		return nil, fmt.Errorf("tokenizer model %s is not supported", formats.Quote(model))
	}
	return v, nil
}

type specialID struct {
	key string // of the metadata, after "tokenizer.ggml."
	id  *int32
}

func (v *Vocab) specialIDs() []specialID {
	return []specialID{
		{"bos_token_id", &v.BOS}, {"eos_token_id", &v.EOS}, {"eot_token_id", &v.EOT}, {"eom_token_id", &v.EOM},
		{"unknown_token_id", &v.UNK}, {"seperator_token_id", &v.SEP}, {"padding_token_id", &v.PAD}, {"mask_token_id", &v.Mask},
		{"prefix_token_id", &v.FimPre}, {"suffix_token_id", &v.FimSuf}, {"middle_token_id", &v.FimMid},
		{"fim_pre_token_id", &v.FimPre}, {"fim_suf_token_id", &v.FimSuf}, {"fim_mid_token_id", &v.FimMid},
		{"fim_pad_token_id", &v.FimPad}, {"fim_rep_token_id", &v.FimRep}, {"fim_sep_token_id", &v.FimSep},
	}
}

// A Tokenizer encodes and decodes. It does not change and may be used from
// several goroutines.
type Tokenizer struct {
	v     Vocab
	attrs []attr
	ids   map[string]int32 // token text to id
	eog   map[int32]bool   // tokens that end a generation
	bytes [256]int32       // SentencePiece: ids of bytes, None where there is none

	special     *specials // all special tokens
	userSpecial *specials // those that are found in text even if it is not parsed

	enc   encoder
	plain []byte // texts of all tokens as bytes, one after the other
	ends  []int  // of each token's text in plain

	scratch sync.Pool
}

// An encoder encodes text without special tokens in it.
type encoder interface {
	// prefix: a space goes before the text.
	encode(dst []int32, text string, prefix bool, s *scratch) []int32
}

// scratch is the working memory of one call of Encode.
type scratch struct {
	pairScratch
	ids   []int32
	chars []string
	buf   []byte
	steps []step
}

// An attr is a set of token types; a token may have more than one.
type attr uint8

const (
	attrUnknown attr = 1 << iota
	attrUnused
	attrNormal
	attrControl
	attrUser
	attrByte
)

var typeAttr = [...]attr{Normal: attrNormal, Unknown: attrUnknown, Control: attrControl,
	UserDefined: attrUser, Unused: attrUnused, Byte: attrByte}

// New checks a vocabulary and makes a tokenizer of it. The slices of v are kept.
func New(v Vocab) (*Tokenizer, error) {
	loadClasses()
	n := len(v.Tokens)
	switch {
	case n == 0:
		return nil, fmt.Errorf("vocabulary is empty")
	case n > math.MaxInt32/2:
		return nil, fmt.Errorf("vocabulary of %d tokens", n)
	case len(v.Scores) > 0 && len(v.Scores) != n:
		return nil, fmt.Errorf("%d scores for %d tokens", len(v.Scores), n)
	case len(v.Types) > 0 && len(v.Types) != n:
		return nil, fmt.Errorf("%d token types for %d tokens", len(v.Types), n)
	}
	t := &Tokenizer{v: v, attrs: make([]attr, n), ids: make(map[string]int32, n)}
	t.scratch.New = func() any { return new(scratch) }
	if slices.Contains(v.Tokens, "") {
		t.v.Tokens = slices.Clone(v.Tokens)
		for i, text := range t.v.Tokens {
			if text == "" { // llama.cpp's name for it
				t.v.Tokens[i] = fmt.Sprintf("[EMPTY_%d]", i)
			}
		}
	}
	for i, text := range t.v.Tokens {
		if len(text) > MaxTokenLen {
			return nil, fmt.Errorf("token %d: text of %d bytes exceeds %d", i, len(text), MaxTokenLen)
		}
		if j, ok := t.ids[text]; ok {
			return nil, fmt.Errorf("tokens %d and %d are both %s", j, i, formats.Quote(text))
		}
		t.ids[text] = int32(i)
		t.attrs[i] = attrNormal
		if len(v.Types) > 0 {
			t.attrs[i] = 0
			if typ := v.Types[i]; typ >= 0 && int(typ) < len(typeAttr) {
				t.attrs[i] = typeAttr[typ]
			}
		}
	}
	for i, s := range v.Scores {
		if s != s {
			return nil, fmt.Errorf("token %d: %s has score NaN", i, formats.Quote(v.Tokens[i]))
		}
	}
	for _, id := range t.v.specialIDs() {
		if *id.id < 0 || int(*id.id) >= n {
			*id.id = None
		}
	}
	for _, add := range []struct {
		set  bool
		id   int32
		what string
	}{{v.AddBOS, t.v.BOS, "BOS"}, {v.AddEOS, t.v.EOS, "EOS"}, {v.AddSEP, t.v.SEP, "SEP"}} {
		if add.set && add.id == None {
			return nil, fmt.Errorf("%s is to be added, but no token is named as %[1]s", add.what)
		}
	}
	t.findByText()

	var err error
	switch v.Model {
	case "llama":
		if err = t.loadBytes(); err == nil {
			t.enc = newSPM(t)
		}
	case "t5":
		if err = t.loadBytes(); err == nil {
			t.enc, err = newUnigram(t)
		}
	case "gpt2", "gemma4":
		p := findPre(v.Pre)
		if p == nil {
			return nil, fmt.Errorf("unknown pre-tokenizer %s", formats.Quote(v.Pre))
		}
		if p.chars {
			err = t.loadBytes()
		}
		if err == nil {
			t.enc, err = newBPE(t, p)
		}
	default:
		err = fmt.Errorf("tokenizer model %s is not supported", formats.Quote(v.Model))
	}
	if err != nil {
		return nil, err
	}
	t.loadPieces()
	t.special = newSpecials(t, attrControl|attrUser|attrUnknown, 0)
	t.userSpecial = newSpecials(t, attrUser, attrControl|attrUnknown)
	return t, nil
}

// loadBytes finds the byte tokens of a SentencePiece vocabulary.
func (t *Tokenizer) loadBytes() error {
	for i, a := range t.attrs {
		if a&attrByte != 0 && !IsByteToken(t.v.Tokens[i]) {
			return fmt.Errorf("token %d: bad byte token %s, want <0x00> to <0xFF>", i, formats.Quote(t.v.Tokens[i]))
		}
	}
	for b := range t.bytes {
		id, ok := t.ids[fmt.Sprintf("<0x%02X>", b)]
		if !ok {
			id, ok = t.ids[string([]byte{byte(b)})]
		}
		if !ok {
			id = t.v.UNK
		}
		t.bytes[b] = id
	}
	return nil
}

// IsByteToken reports whether s is "<0xNN>" with two hexadecimal digits.
func IsByteToken(s string) bool {
	if len(s) != 6 || s[:3] != "<0x" || s[5] != '>' {
		return false
	}
	for _, c := range []byte(s[3:5]) {
		if !isDigit(c) && (c|0x20 < 'a' || c|0x20 > 'f') {
			return false
		}
	}
	return true
}

func byteOf(token string) byte {
	digit := func(c byte) byte {
		if isDigit(c) {
			return c - '0'
		}
		return c | 0x20 - 'a' + 10
	}
	return digit(token[3])<<4 | digit(token[4])
}

// Options say how to encode.
type Options struct {
	// AddSpecial adds BOS, EOS and SEP where the vocabulary wants them.
	AddSpecial bool
	// ParseSpecial makes control tokens of their texts ("<|im_end|>");
	// user-defined tokens are always found.
	ParseSpecial bool
}

// Encode returns the token ids of text, which may be any bytes.
func (t *Tokenizer) Encode(text string, opt Options) []int32 {
	return t.AppendEncode(make([]int32, 0, len(text)/3+8), text, opt)
}

// AppendEncode appends the token ids of text to dst.
func (t *Tokenizer) AppendEncode(dst []int32, text string, opt Options) []int32 {
	s := t.scratch.Get().(*scratch)
	defer t.scratch.Put(s)
	if opt.AddSpecial && t.v.AddBOS {
		dst = append(dst, t.v.BOS)
	}
	special := t.userSpecial
	if opt.ParseSpecial {
		special = t.special
	}
	afterSpecial := true // the start counts as one
	for frag := range special.fragments(text) {
		if frag.id != None {
			dst = append(dst, frag.id)
			afterSpecial = true
			continue
		}
		part := text[frag.start:frag.end]
		prefix := t.v.AddSpacePrefix && afterSpecial
		if t.v.PrefixUnlessSpace && (strings.HasPrefix(part, " ") || strings.HasPrefix(part, escapedSpace)) ||
			t.v.PrefixOnce && frag.start > 0 {
			prefix = false
		}
		dst = t.enc.encode(dst, part, prefix, s)
		afterSpecial = false
	}
	if opt.AddSpecial && t.v.AddEOS {
		dst = append(dst, t.v.EOS)
	}
	return dst
}

// Decode returns the text of ids. Control tokens give their texts if special is
// set, and nothing otherwise; the space that Encode puts before a text is taken
// off again. Bytes are not checked: ids need not give UTF-8.
func (t *Tokenizer) Decode(ids []int32, special bool) []byte {
	var dst []byte
	strip := t.v.AddSpacePrefix
	if strip && len(ids) > 0 && ids[0] == t.v.BOS {
		// The prefix comes after BOS.
		dst = t.AppendPiece(dst, ids[0], special)
		ids = ids[1:]
	}
	for i, id := range ids {
		at := len(dst)
		dst = t.AppendPiece(dst, id, special)
		if i == 0 && strip && at < len(dst) && dst[at] == ' ' {
			dst = slices.Delete(dst, at, at+1)
		}
	}
	return dst
}

// AppendPiece appends the text of one token, for output as it is generated.
// Control tokens and ids that are no token give nothing, unless special is set.
func (t *Tokenizer) AppendPiece(dst []byte, id int32, special bool) []byte {
	if id < 0 || int(id) >= len(t.ends) || !special && t.attrs[id]&(attrControl|attrUnknown) != 0 {
		return dst
	}
	start := 0
	if id > 0 {
		start = t.ends[id-1]
	}
	return append(dst, t.plain[start:t.ends[id]]...)
}

// loadPieces fills in the texts of all tokens as bytes.
func (t *Tokenizer) loadPieces() {
	size := 0
	for _, text := range t.v.Tokens {
		size += len(text)
	}
	t.plain = make([]byte, 0, size)
	t.ends = make([]int, len(t.v.Tokens))
	bpe, _ := t.enc.(*bpeEncoder)
	for i, text := range t.v.Tokens {
		switch a := t.attrs[i]; {
		case a&(attrUnknown|attrControl|attrUser) != 0:
			t.plain = append(t.plain, text...)
		case a&attrNormal != 0 && (bpe == nil || bpe.pre.chars):
			t.plain = append(t.plain, strings.ReplaceAll(text, escapedSpace, " ")...)
		case a&attrNormal != 0:
			start := len(t.plain)
			plain, ok := unbyte(t.plain, text)
			if !ok { // not of the alphabet: as it is
				plain = append(plain[:start], text...)
			}
			t.plain = plain
		case a&attrByte != 0 && IsByteToken(text):
			t.plain = append(t.plain, byteOf(text))
		}
		t.ends[i] = len(t.plain)
	}
}

// Len returns the number of tokens.
func (t *Tokenizer) Len() int { return len(t.v.Tokens) }

// Vocab returns the vocabulary; it is not to be changed.
func (t *Tokenizer) Vocab() *Vocab { return &t.v }

// Text returns a token's text as the vocabulary spells it.
func (t *Tokenizer) Text(id int32) string { return t.v.Tokens[id] }

// ID returns the id of a token by its text as the vocabulary spells it.
func (t *Tokenizer) ID(text string) (int32, bool) {
	id, ok := t.ids[text]
	return id, ok
}

// IsControl reports whether a token is a control token.
func (t *Tokenizer) IsControl(id int32) bool {
	return id >= 0 && int(id) < len(t.attrs) && t.attrs[id]&attrControl != 0
}

// IsEOG reports whether a token ends a generation.
func (t *Tokenizer) IsEOG(id int32) bool { return t.eog[id] }

// BOS returns the id of the token that begins a text, None if there is none.
func (t *Tokenizer) BOS() int32 { return t.v.BOS }

// EOS returns the id of the token that ends a text, None if there is none.
func (t *Tokenizer) EOS() int32 { return t.v.EOS }

// AddBOS reports whether Encode puts BOS first when it is told to add special
// tokens.
func (t *Tokenizer) AddBOS() bool { return t.v.AddBOS }

// findByText gives tokens the roles that GGUF files often fail to name: what ends
// a generation, and which tokens are control tokens whatever their type says. The
// texts are those that llama.cpp looks for.
func (t *Tokenizer) findByText() {
	t.eog = make(map[int32]bool)
	find := func(text string) (int32, bool) {
		id, ok := t.ids[text]
		return id, ok && (!t.v.ExactTypes || t.attrs[id]&(attrControl|attrUser) != 0)
	}
	control := func(id int32) {
		if !t.v.ExactTypes {
			t.attrs[id] |= attrControl
		}
	}
	first := func(dst *int32, texts ...string) {
		if *dst != None {
			return
		}
		best := None
		for _, text := range texts {
			if id, ok := find(text); ok && (best == None || id < best) {
				best = id
			}
		}
		if best != None {
			*dst = best
			control(best)
		}
	}
	v := &t.v
	first(&v.EOT, "<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<EOT>",
		"_<EOT>", "[EOT]", "<｜end▁of▁sentence｜>", "<end_of_utterance>")
	first(&v.EOM, "<|eom_id|>")
	first(&v.FimPre, "<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "<|code_prefix|>", "<|prefix|>")
	first(&v.FimSuf, "<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>", "<|code_suffix|>", "<|suffix|>")
	first(&v.FimMid, "<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>", "<|code_middle|>", "<|middle|>")
	first(&v.FimPad, "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]")
	first(&v.FimRep, "<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>")
	first(&v.FimSep, "<|file_sep|>")

	for _, id := range []int32{v.FimPad, v.FimRep, v.FimSep, v.EOS, v.EOT, v.EOM} {
		if id != None {
			t.eog[id] = true
		}
	}
	for _, text := range []string{"<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>",
		"<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>",
		"<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~["} {
		if id, ok := find(text); ok {
			t.eog[id] = true
			control(id)
		}
	}
	if v.ExactTypes {
		return
	}
	// OpenAI's harmony format shows these, and <|end|> ends a message only.
	for _, text := range []string{"<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"} {
		if id, ok := t.ids[text]; ok {
			t.attrs[id] = attrUser
		}
	}
	ends := func(text string) bool {
		id, ok := t.ids[text]
		return ok && t.eog[id]
	}
	if calls := ends("<|call|>") || ends("<|calls|>"); calls && ends("<|end|>") && (ends("<|return|>") || ends("<|flush|>")) {
		id := t.ids["<|end|>"]
		delete(t.eog, id)
		t.attrs[id] = attrUser
	}
	if ends("<|tool_response>") && ends("</s>") {
		id := t.ids["</s>"]
		delete(t.eog, id)
		t.attrs[id] = attrNormal
	}
}

// validUTF8Prefix returns the length of the longest prefix of b that does not end
// inside of a character.
func validUTF8Prefix(b []byte) int {
	for i := len(b) - 1; i >= 0 && i >= len(b)-utf8.UTFMax; i-- {
		if utf8.RuneStart(b[i]) {
			if !utf8.FullRune(b[i:]) {
				return i
			}
			break
		}
	}
	return len(b)
}

// A Writer turns ids into text as they come; it holds back the bytes of a
// character until the character is whole.
type Writer struct {
	t       *Tokenizer
	special bool
	pending []byte
}

// NewWriter returns a Writer; special is as in Decode. It does not take off a
// space at the start.
func (t *Tokenizer) NewWriter(special bool) *Writer { return &Writer{t: t, special: special} }

// Add returns the text that id completes, which may be none.
func (w *Writer) Add(id int32) string {
	w.pending = w.t.AppendPiece(w.pending, id, w.special)
	n := validUTF8Prefix(w.pending)
	s := string(w.pending[:n])
	w.pending = append(w.pending[:0], w.pending[n:]...)
	return s
}

// Rest returns what is still held back.
func (w *Writer) Rest() string {
	s := string(w.pending)
	w.pending = w.pending[:0]
	return s
}
