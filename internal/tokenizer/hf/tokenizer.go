package hf

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/formats/strictjson"
	"github.com/smeltgguf/smelt/internal/tokenizer"
)

// maxID bounds token ids; the largest vocabularies have some hundred thousand.
const maxID = 1 << 24

// A Tokenizer is the content of a tokenizer.json.
type Tokenizer struct {
	ModelType string   // model.type: "BPE", "Unigram", "WordPiece", ...
	Tokens    []string // the base vocabulary by id; "" where no token has the id
	Scores    []float32
	Merges    []string // "left right"; spaces inside of a part are U+0120
	Added     []AddedToken

	ByteFallback bool
	IgnoreMerges bool
	UnkToken     string // "" if there is none
	UnkID        int    // Unigram; -1 if there is none

	// The parts that say how text is prepared and put together again, as JSON;
	// nil where they are missing or null.
	Normalizer, PreTokenizer, PostProcessor, Decoder json.RawMessage

	file string
	ids  map[string]int32
}

// An AddedToken is an entry of added_tokens.
type AddedToken struct {
	ID         int
	Content    string
	Special    bool
	Normalized bool
	LStrip     bool
	RStrip     bool
	SingleWord bool
}

// Parse reads a tokenizer.json; file is its name for error messages. It refuses
// what readers would understand in different ways: duplicate keys, texts or ids.
// Errors are of type *formats.FormatError.
func Parse(data []byte, file string) (*Tokenizer, error) {
	d := strictjson.NewDecoder(file, string(data), 0)
	if err := d.CheckUTF8("tokenizer"); err != nil {
		return nil, err
	}
	t := &Tokenizer{file: file, UnkID: -1}
	p := parser{t: t, d: d}
	hasModel := false
	err := d.Object(func(key string) error {
		switch key {
		case "model":
			hasModel = true
			return p.model()
		case "added_tokens":
			return p.addedTokens()
		case "normalizer":
			return p.raw(&t.Normalizer)
		case "pre_tokenizer":
			return p.raw(&t.PreTokenizer)
		case "post_processor":
			return p.raw(&t.PostProcessor)
		case "decoder":
			return p.raw(&t.Decoder)
		}
		_, err := d.Value()
		return err
	})
	if err == nil {
		err = d.End()
	}
	if err != nil {
		return nil, err
	}
	if !hasModel || t.ModelType == "" {
		return nil, formats.Malformedf(file, -1, "model missing: not a tokenizer.json")
	}
	for _, a := range t.Added {
		if id, ok := t.ids[a.Content]; ok && int(id) != a.ID {
			return nil, formats.Malformedf(file, -1, "token %s has ids %d and %d", formats.Quote(a.Content), id, a.ID)
		}
		if a.ID < len(t.Tokens) && t.Tokens[a.ID] != "" && t.Tokens[a.ID] != a.Content {
			return nil, formats.Malformedf(file, -1, "id %d: %s and %s", a.ID, formats.Quote(t.Tokens[a.ID]), formats.Quote(a.Content))
		}
	}
	return t, nil
}

type parser struct {
	t *Tokenizer
	d *strictjson.Decoder
}

// raw keeps a small part of the file as JSON.
func (p *parser) raw(dst *json.RawMessage) error {
	v, err := p.d.Value()
	if err != nil || v == nil {
		return err
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return p.d.Errorf("%v", err)
	}
	*dst = bytes.TrimSpace(b.Bytes())
	return nil
}

// boolean reads a boolean; null is false.
func (p *parser) boolean(key string, dst *bool) error {
	v, err := p.d.Value()
	if err != nil {
		return err
	}
	b, ok := v.(bool)
	if !ok && v != nil {
		return p.d.Errorf("%s: want a boolean", key)
	}
	*dst = b
	return nil
}

func (p *parser) model() error {
	t, d := p.t, p.d
	return d.Object(func(key string) error {
		switch key {
		case "type":
			s, err := d.String()
			t.ModelType = s
			return err
		case "vocab":
			if d.Peek() == '[' {
				return p.scoredVocab()
			}
			return p.vocab()
		case "merges":
			return p.merges()
		case "byte_fallback":
			return p.boolean(key, &t.ByteFallback)
		case "ignore_merges":
			return p.boolean(key, &t.IgnoreMerges)
		case "unk_token":
			v, err := d.Value()
			t.UnkToken, _ = v.(string)
			return err
		case "unk_id":
			v, err := d.Value()
			if n, ok := v.(json.Number); ok {
				if id, err := strconv.Atoi(n.String()); err == nil && id >= 0 && id < maxID {
					t.UnkID = id
				}
			}
			return err
		}
		_, err := d.Value()
		return err
	})
}

// vocab reads {"text": id, ...}.
func (p *parser) vocab() error {
	t, d := p.t, p.d
	type entry struct {
		text string
		id   int32
	}
	var list []entry
	top := -1
	err := d.LongObject(func(text string) error {
		n, err := d.Uint()
		if err != nil {
			return err
		}
		if n >= maxID {
			return d.Errorf("token %s: id %d is too large", formats.Quote(text), n)
		}
		if text == "" {
			return d.Errorf("id %d: empty token", n)
		}
		if len(text) > tokenizer.MaxTokenLen {
			return d.Errorf("id %d: token of %d bytes exceeds %d", n, len(text), tokenizer.MaxTokenLen)
		}
		list = append(list, entry{text, int32(n)})
		top = max(top, int(n))
		return nil
	})
	if err != nil {
		return err
	}
	// Ids may have holes, but not so many that they take memory by themselves.
	if top >= 4*len(list)+1024 {
		return d.Errorf("ids up to %d for %d tokens", top, len(list))
	}
	t.Tokens = make([]string, top+1)
	t.ids = make(map[string]int32, len(list))
	for _, e := range list {
		if old := t.Tokens[e.id]; old != "" {
			return formats.Malformedf(t.file, -1, "id %d: %s and %s", e.id, formats.Quote(old), formats.Quote(e.text))
		}
		if old, ok := t.ids[e.text]; ok {
			return formats.Malformedf(t.file, -1, "duplicate token %s: ids %d and %d", formats.Quote(e.text), old, e.id)
		}
		t.Tokens[e.id] = e.text
		t.ids[e.text] = e.id
	}
	return nil
}

// scoredVocab reads Unigram's [["text", score], ...].
func (p *parser) scoredVocab() error {
	t, d := p.t, p.d
	t.ids = make(map[string]int32)
	return d.Array(func() error {
		var text string
		var score float64
		i := 0
		err := d.Array(func() error {
			var err error
			switch i++; i {
			case 1:
				text, err = d.String()
			case 2:
				var s string
				if s, err = d.Number(); err == nil {
					score, err = strconv.ParseFloat(s, 64)
				}
			default:
				err = d.Errorf("token %d has more than a text and a score", len(t.Tokens))
			}
			return err
		})
		id := len(t.Tokens)
		switch {
		case err != nil:
			return err
		case i != 2 || text == "":
			return d.Errorf("token %d: want a text and a score", id)
		case math.IsNaN(score) || math.IsInf(score, 0):
			return d.Errorf("token %d: %s has score %v", id, formats.Quote(text), score)
		case id >= maxID:
			return d.Errorf("more than %d tokens", maxID)
		}
		if old, ok := t.ids[text]; ok {
			return d.Errorf("tokens %d and %d are both %s", old, id, formats.Quote(text))
		}
		t.ids[text] = int32(id)
		t.Tokens = append(t.Tokens, text)
		t.Scores = append(t.Scores, float32(score))
		return nil
	})
}

// merges reads ["a b", ...] or [["a", "b"], ...].
func (p *parser) merges() error {
	t, d := p.t, p.d
	if d.Peek() == 'n' { // null
		_, err := d.Value()
		return err
	}
	return d.Array(func() error {
		if d.Peek() == '"' {
			s, err := d.String()
			t.Merges = append(t.Merges, s)
			return err
		}
		var parts []string
		err := d.Array(func() error {
			s, err := d.String()
			parts = append(parts, strings.ReplaceAll(s, " ", "\u0120"))
			return err
		})
		if err == nil && len(parts) != 2 {
			err = d.Errorf("merge %d has %d parts", len(t.Merges), len(parts))
		}
		if err == nil {
			t.Merges = append(t.Merges, parts[0]+" "+parts[1])
		}
		return err
	})
}

func (p *parser) addedTokens() error {
	t, d := p.t, p.d
	if d.Peek() == 'n' {
		_, err := d.Value()
		return err
	}
	byID := make(map[int]string)
	return d.Array(func() error {
		a := AddedToken{ID: -1}
		err := d.Object(func(key string) error {
			var err error
			switch key {
			case "id":
				var n uint64
				if n, err = d.Uint(); err == nil && n >= maxID {
					err = d.Errorf("added token: id %d is too large", n)
				}
				a.ID = int(n)
			case "content":
				a.Content, err = d.String()
			case "special":
				err = p.boolean(key, &a.Special)
			case "normalized":
				err = p.boolean(key, &a.Normalized)
			case "lstrip":
				err = p.boolean(key, &a.LStrip)
			case "rstrip":
				err = p.boolean(key, &a.RStrip)
			case "single_word":
				err = p.boolean(key, &a.SingleWord)
			default:
				_, err = d.Value()
			}
			return err
		})
		switch {
		case err != nil:
			return err
		case a.ID < 0:
			return d.Errorf("added token %s has no id", formats.Quote(a.Content))
		case a.Content == "" || len(a.Content) > tokenizer.MaxTokenLen:
			return d.Errorf("added token %d has %d bytes", a.ID, len(a.Content))
		}
		if old, ok := byID[a.ID]; ok {
			if old == a.Content {
				return d.Errorf("duplicate added token %s", formats.Quote(old))
			}
			return d.Errorf("id %d: %s and %s", a.ID, formats.Quote(old), formats.Quote(a.Content))
		}
		byID[a.ID] = a.Content
		t.Added = append(t.Added, a)
		return nil
	})
}

// Has reports whether the vocabulary or the added tokens have a token.
func (t *Tokenizer) Has(text string) bool {
	if _, ok := t.ids[text]; ok {
		return true
	}
	return slices.ContainsFunc(t.Added, func(a AddedToken) bool { return a.Content == text })
}

// Pre returns the name of the pre-tokenizer of a byte-level BPE; modelType is
// model_type of config.json. See PreTokenizer.
func (t *Tokenizer) Pre(modelType string) (string, error) {
	return PreTokenizer(Description{
		Normalizer: t.Normalizer, PreTokenizer: t.PreTokenizer, IgnoreMerges: t.IgnoreMerges,
		ModelType: modelType, Has: t.Has, Size: len(t.Tokens),
	}, t.file)
}

// SentencePiece reports whether the tokenizer is a SentencePiece model in another
// form: a BPE over characters that falls back to bytes, or a Unigram.
func (t *Tokenizer) SentencePiece() bool {
	return t.ModelType == "Unigram" || t.ModelType == "BPE" && t.ByteFallback
}

// Vocab returns the vocabulary for package tokenizer. pre names the pre-tokenizer
// of a byte-level BPE and is not used for others. Ids that no token has become
// unused tokens "[PADn]". The scores of a BPE in SentencePiece's form are made of
// the order of its merges.
func (t *Tokenizer) Vocab(pre string) (*tokenizer.Vocab, error) {
	model := "gpt2"
	switch {
	case t.ModelType == "Unigram":
		model, pre = "t5", ""
	case t.ModelType != "BPE":
		return nil, formats.Unsupportedf(t.file, -1, "model type %s is not supported", formats.Quote(t.ModelType))
	case t.ByteFallback:
		model, pre = "llama", ""
	}
	v, err := tokenizer.NewVocab(model, pre)
	if err != nil {
		return nil, formats.Unsupportedf(t.file, -1, "%v", err)
	}
	v.BOS, v.EOS, v.AddBOS, v.AddEOS = tokenizer.None, tokenizer.None, false, false
	v.UNK, v.PAD = tokenizer.None, tokenizer.None
	v.ExactTypes = true

	v.Tokens = slices.Clone(t.Tokens)
	for _, a := range t.Added {
		if a.ID >= len(v.Tokens) {
			if a.ID >= 4*(len(t.Tokens)+len(t.Added))+1024 {
				return nil, formats.Malformedf(t.file, -1, "added token %s: id %d is too large", formats.Quote(a.Content), a.ID)
			}
			v.Tokens = append(v.Tokens, make([]string, a.ID+1-len(v.Tokens))...)
		}
		v.Tokens[a.ID] = a.Content
	}
	v.Types = make([]tokenizer.Type, len(v.Tokens))
	for id, text := range v.Tokens {
		v.Types[id] = tokenizer.Normal
		switch {
		case text == "":
			v.Tokens[id] = fmt.Sprintf("[PAD%d]", id)
			v.Types[id] = tokenizer.Unused
		case model == "llama" && tokenizer.IsByteToken(text):
			v.Types[id] = tokenizer.Byte
		case text == t.UnkToken:
			v.UNK = int32(id)
		}
	}
	for _, a := range t.Added {
		v.Types[a.ID] = tokenizer.UserDefined
		if a.Special {
			v.Types[a.ID] = tokenizer.Control
		}
		if a.LStrip {
			v.LStrip = append(v.LStrip, int32(a.ID))
		}
		if a.RStrip {
			v.RStrip = append(v.RStrip, int32(a.ID))
		}
		if a.SingleWord {
			v.SingleWord = append(v.SingleWord, int32(a.ID))
		}
	}
	switch model {
	case "gpt2":
		v.Merges = t.Merges
	case "llama":
		v.Scores = t.mergeScores(len(v.Tokens))
	case "t5":
		v.Scores = make([]float32, len(v.Tokens))
		copy(v.Scores, t.Scores)
		if t.UnkID >= 0 {
			v.UNK = int32(t.UnkID)
		}
		if v.UNK != tokenizer.None && int(v.UNK) < len(v.Types) {
			v.Types[v.UNK] = tokenizer.Unknown
		}
	}
	if err := t.template(v); err != nil {
		return nil, err
	}
	return v, t.prepare(v)
}

// mergeScores gives the token that a merge makes the negative rank of the merge;
// tokens that no merge makes come last.
func (t *Tokenizer) mergeScores(n int) []float32 {
	scores := make([]float32, n)
	for i := range scores {
		scores[i] = float32(-len(t.Merges) - 1)
	}
	for rank := len(t.Merges) - 1; rank >= 0; rank-- {
		left, right, _ := strings.Cut(t.Merges[rank], " ")
		if id, ok := t.ids[left+right]; ok {
			scores[id] = float32(-rank)
		}
	}
	return scores
}

// template reads from the post-processor which tokens go before and after a text.
func (t *Tokenizer) template(v *tokenizer.Vocab) error {
	type processor struct {
		Type   string
		Single []struct {
			SpecialToken *struct{ ID string }
			Sequence     *struct{ ID string }
		}
		SpecialTokens map[string]struct{ IDs []int } `json:"special_tokens"`
		Processors    []json.RawMessage
	}
	var walk func(raw json.RawMessage, depth int) error
	walk = func(raw json.RawMessage, depth int) error {
		if len(raw) == 0 || depth > 4 {
			return nil
		}
		var p processor
		if err := json.Unmarshal(raw, &p); err != nil {
			return formats.Malformedf(t.file, -1, "post_processor: %v", err)
		}
		for _, sub := range p.Processors {
			if err := walk(sub, depth+1); err != nil {
				return err
			}
		}
		if p.Type != "TemplateProcessing" || len(p.Single) == 0 {
			return nil
		}
		id := func(i int) int32 {
			if s := p.Single[i].SpecialToken; s != nil {
				if ids := p.SpecialTokens[s.ID].IDs; len(ids) == 1 && ids[0] >= 0 && ids[0] < len(v.Tokens) {
					return int32(ids[0])
				}
			}
			return tokenizer.None
		}
		if bos := id(0); bos != tokenizer.None {
			v.BOS, v.AddBOS = bos, true
		}
		if eos := id(len(p.Single) - 1); eos != tokenizer.None && len(p.Single) > 1 {
			v.EOS, v.AddEOS = eos, true
		}
		return nil
	}
	return walk(t.PostProcessor, 0)
}

// prepare reads from the normalizer and the pre-tokenizer what a SentencePiece
// model does with spaces; for byte-level BPE, whether text becomes NFC first.
func (t *Tokenizer) prepare(v *tokenizer.Vocab) error {
	normalizers, err := parseComponents(t.Normalizer)
	if err != nil {
		return formats.Malformedf(t.file, -1, "normalizer: %v", err)
	}
	pres, err := parseComponents(t.PreTokenizer)
	if err != nil {
		return formats.Malformedf(t.file, -1, "pre_tokenizer: %v", err)
	}
	if v.Model == "gpt2" {
		v.NFC = slices.ContainsFunc(normalizers, func(c component) bool { return c.Type == "NFC" })
		return nil
	}
	unknown := func(kind string, c component) error {
		return formats.Unsupportedf(t.file, -1, "unknown %s %s: normalizer %s, pre_tokenizer %s", kind, formats.Quote(c.Type),
			describe(t.Normalizer), describe(t.PreTokenizer))
	}
	v.AddSpacePrefix = false
	for _, c := range normalizers {
		switch {
		case c.Type == "Prepend" && c.Prepend == "\u2581":
			v.AddSpacePrefix = true
		case c.Type == "Replace" && c.Pattern.String != nil && *c.Pattern.String == " " && c.Content == "\u2581":
		case c.Type == "Precompiled":
			v.Charsmap = c.PrecompiledCharsmap
		case c.Type == "Replace" && c.Pattern.Regex != nil && *c.Pattern.Regex == " {2,}" && v.Model == "t5":
			v.RemoveExtraWhitespaces = true
		case c.Type == "Strip" && v.Model == "t5":
		default:
			return unknown("normalizer", c)
		}
	}
	for _, c := range pres {
		switch {
		case c.Type == "Metaspace":
			v.AddSpacePrefix = c.PrependScheme != "never" && (c.PrependScheme != "" || c.AddPrefixSpace)
			v.PrefixUnlessSpace, v.PrefixOnce = true, c.PrependScheme == "first"
		case c.Type == "WhitespaceSplit" && v.Model == "t5":
			v.RemoveExtraWhitespaces = true
		case c.Type == "Split" && c.Pattern.String != nil && *c.Pattern.String == " " && c.Behavior == "MergedWithPrevious":
			// Gemma's; the normalizer has left no spaces.
		default:
			return unknown("pre-tokenizer", c)
		}
	}
	return nil
}
