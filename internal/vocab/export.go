package vocab

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/formats/gguf"
	"github.com/smeltgguf/smelt/formats/sentencepiece"
	"github.com/smeltgguf/smelt/internal/tokenizer"
	"github.com/smeltgguf/smelt/internal/tokenizer/hf"
)

// Exported are the tokenizer's files of a checkpoint, made from a GGUF.
type Exported struct {
	Files map[string][]byte
	// Config holds what config.json says about tokens: bos_token_id and so on.
	Config map[string]any
}

// Export turns a GGUF's tokenizer keys into the files that they could have come
// from: for a vocabulary of SentencePiece's BPE tokenizer.model and, for those who
// have only Hugging Face's libraries, tokenizer.json; for a byte-level BPE
// tokenizer.json; for both tokenizer_config.json and special_tokens_map.json.
// Other kinds are refused.
func Export(meta *gguf.Metadata) (*Exported, error) {
	v, err := tokenizer.VocabFromMetadata(meta)
	if err != nil {
		return nil, err
	}
	x := &exporter{meta: meta, v: v, config: object{}, out: &Exported{Files: map[string][]byte{}, Config: map[string]any{}}}
	if x.v.Types == nil {
		x.v.Types = make([]tokenizer.Type, len(v.Tokens))
	}
	if v.Scores == nil {
		v.Scores = make([]float32, len(v.Tokens))
	}
	for id, text := range v.Tokens {
		if text == "" || !utf8.ValidString(text) {
			return nil, fmt.Errorf("token %d is %s: a tokenizer's files cannot hold it", id, formats.Quote(text))
		}
	}
	x.special()
	switch v.Model {
	case "llama":
		err = x.sentencePiece()
	case "gpt2":
		err = x.byteLevel()
	default:
		err = fmt.Errorf("tokenizer model %s cannot be exported; llama (SentencePiece) and gpt2 (byte-level BPE) can", formats.Quote(v.Model))
	}
	if err != nil {
		return nil, err
	}
	x.chatTemplate()
	x.file("tokenizer_config.json", x.config)
	return x.out, x.err
}

type exporter struct {
	meta   *gguf.Metadata
	v      *tokenizer.Vocab
	config object // tokenizer_config.json
	out    *Exported
	err    error
}

// file adds a JSON file.
func (x *exporter) file(name string, val any) {
	b, err := marshal(val, "  ")
	if x.err == nil {
		x.err = err
	}
	x.out.Files[name] = append(b, '\n')
}

// marshal leaves <, > and & as they are.
func marshal(v any, indent string) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	err := enc.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// special writes special tokens, by text and by id, and whether they are added
// to texts.
//
// Ids that tokenizer_config.json names by text come before those that only
// config.json has; each in the order of specialKinds. A key that stands too late
// for its kind is one of the latter.
func (x *exporter) special() {
	byText := object{}
	next := 0
	for key := range x.meta.All() {
		at := slices.IndexFunc(specialKinds, func(kind string) bool {
			name, ok := idKeys[kind]
			return ok && key == "tokenizer.ggml."+name
		})
		if at < 0 {
			continue
		}
		kind := specialKinds[at]
		id, err := x.meta.Uint(key)
		if err != nil {
			continue // VocabFromMetadata has looked at its type
		}
		x.out.Config[kind+"_token_id"] = id
		inOrder := at >= next
		next = max(next, at+1)
		if id < uint64(len(x.v.Tokens)) && inOrder {
			byText[kind+"_token"] = x.v.Tokens[id]
			x.config[kind+"_token"] = x.v.Tokens[id]
		}
	}
	for kind, key := range addKeys {
		if add, err := x.meta.Bool("tokenizer.ggml." + key); err == nil {
			x.config["add_"+kind+"_token"] = add
		}
	}
	if add, err := x.meta.Bool("tokenizer.ggml.add_space_prefix"); err == nil {
		x.config["add_prefix_space"] = add
	}
	x.config["clean_up_tokenization_spaces"] = false
	x.file("special_tokens_map.json", byText)
}

// padding reports whether a token says of itself that it is none.
func (x *exporter) padding(id int) bool {
	return x.v.Types[id] == tokenizer.Unused && x.v.Tokens[id] == fmt.Sprintf("[PAD%d]", id)
}

// isAdded reports whether a token is of a type that added tokens have.
func (x *exporter) isAdded(id int) bool {
	return x.v.Types[id] == tokenizer.Control || x.v.Types[id] == tokenizer.UserDefined
}

// base returns how many tokens there are up to the last that is neither padding
// nor added.
func (x *exporter) base(added func(id int) bool) int {
	n := len(x.v.Tokens)
	for n > 0 && (x.padding(n-1) || added(n-1)) {
		n--
	}
	return n
}

// decoderEntry is an entry of tokenizer_config.json's added_tokens_decoder.
type decoderEntry struct {
	Content    string `json:"content"`
	LStrip     bool   `json:"lstrip"`
	Normalized bool   `json:"normalized"`
	RStrip     bool   `json:"rstrip"`
	SingleWord bool   `json:"single_word"`
	Special    bool   `json:"special"`
}

// addedTokens writes added_tokens_decoder.
func (x *exporter) addedTokens(ids []int) {
	if len(ids) == 0 {
		return
	}
	entries := map[string]decoderEntry{}
	for _, id := range ids {
		entries[fmt.Sprint(id)] = decoderEntry{Content: x.v.Tokens[id], Special: x.v.Types[id] == tokenizer.Control}
	}
	x.config["added_tokens_decoder"] = entries
}

// scores that the conversion gives to added tokens and to padding.
const (
	addedScore   = -1000
	paddingScore = -10000
)

// sentencePiece writes tokenizer.model. Tokens that the conversion would have
// from elsewhere are listed in tokenizer_config.json, those at the end nowhere
// else.
func (x *exporter) sentencePiece() error {
	v := x.v
	added := func(id int) bool { return x.isAdded(id) && v.Scores[id] == addedScore }
	m := &sentencepiece.Model{
		Type:  sentencepiece.BPE,
		UnkID: int(v.UNK), BosID: int(v.BOS), EosID: int(v.EOS), PadID: int(v.PAD),
		Normalizer: sentencepiece.Normalizer{Name: "identity", AddDummyPrefix: v.AddSpacePrefix, EscapeWhitespaces: true},
	}
	n := x.base(added)
	bytes := 0
	for id, text := range v.Tokens[:n] {
		typ := v.Types[id]
		switch typ {
		case tokenizer.Undefined:
			typ = tokenizer.Normal
		case tokenizer.UserDefined:
			text = strings.ReplaceAll(text, " ", "\u2581")
		case tokenizer.Byte:
			bytes++
		}
		m.Pieces = append(m.Pieces, sentencepiece.Piece{Text: text, Score: v.Scores[id], Type: sentencepiece.PieceType(typ)})
	}
	m.ByteFallback = bytes == 256
	data := sentencepiece.Marshal(m)
	if _, err := sentencepiece.Parse(data, "the vocabulary"); err != nil {
		return fmt.Errorf("tokenizer.model cannot be written: %w", err)
	}
	x.out.Files["tokenizer.model"] = data
	var list []int
	for id := range v.Tokens {
		if added(id) || x.v.Types[id] == tokenizer.UserDefined {
			list = append(list, id)
		}
	}
	x.addedTokens(list)
	x.config["tokenizer_class"] = "LlamaTokenizer"
	if strings.HasPrefix(x.meta.Architecture(), "gemma") {
		x.config["tokenizer_class"] = "GemmaTokenizer"
	}
	x.config["legacy"] = true // a space also after special tokens, as llama.cpp has it
	return x.sentencePieceFast(m)
}

// addedEntry is an entry of tokenizer.json's added_tokens.
type addedEntry struct {
	ID int `json:"id"`
	decoderEntry
}

func (x *exporter) added(id int) addedEntry {
	return addedEntry{id, decoderEntry{Content: x.v.Tokens[id], Special: x.v.Types[id] != tokenizer.UserDefined}}
}

// fast is tokenizer.json.
type fast struct {
	Version       string       `json:"version"`
	Truncation    any          `json:"truncation"`
	Padding       any          `json:"padding"`
	AddedTokens   []addedEntry `json:"added_tokens"`
	Normalizer    any          `json:"normalizer"`
	PreTokenizer  any          `json:"pre_tokenizer"`
	PostProcessor any          `json:"post_processor"`
	Decoder       any          `json:"decoder"`
	Model         fastModel    `json:"model"`
}

type fastModel struct {
	Type                    string          `json:"type"`
	Dropout                 any             `json:"dropout"`
	UnkToken                any             `json:"unk_token"`
	ContinuingSubwordPrefix any             `json:"continuing_subword_prefix"`
	EndOfWordSuffix         any             `json:"end_of_word_suffix"`
	FuseUnk                 bool            `json:"fuse_unk"`
	ByteFallback            bool            `json:"byte_fallback"`
	IgnoreMerges            bool            `json:"ignore_merges"`
	Vocab                   json.RawMessage `json:"vocab"`
	Merges                  []string        `json:"merges"`
}

// appendToken adds an entry to the object that a fastModel's vocabulary is; what
// closes it is not there yet.
func appendToken(vocab []byte, text string, id int) ([]byte, error) {
	if len(vocab) > 1 {
		vocab = append(vocab, ',')
	}
	key, err := marshal(text, "")
	return fmt.Appendf(append(vocab, key...), ":%d", id), err
}

// fastFile writes tokenizer.json and reads it again.
func (x *exporter) fastFile(f *fast) error {
	f.Version, f.Model.Type = "1.0", "BPE"
	x.file(fastFile, f)
	if x.err != nil {
		return x.err
	}
	if _, err := hf.Parse(x.out.Files[fastFile], "the vocabulary"); err != nil {
		return fmt.Errorf("%s cannot be written: %w", fastFile, err)
	}
	return nil
}

// sentencePieceFast writes tokenizer.json for the pieces of tokenizer.model. Its
// merges are all ways to make a piece of two others, in the order of the pieces'
// scores.
func (x *exporter) sentencePieceFast(m *sentencepiece.Model) error {
	v := x.v
	f := &fast{AddedTokens: []addedEntry{}, Model: fastModel{FuseUnk: true, ByteFallback: m.ByteFallback}}
	if m.UnkID >= 0 && m.UnkID < len(m.Pieces) {
		f.Model.UnkToken = m.Pieces[m.UnkID].Text
	}
	ids := make(map[string]int, len(m.Pieces))
	f.Model.Vocab = []byte{'{'}
	for id, p := range m.Pieces {
		var err error
		text := p.Text
		if v.Types[id] == tokenizer.UserDefined {
			text = v.Tokens[id] // found in texts before spaces become U+2581
		}
		ids[text] = id
		if f.Model.Vocab, err = appendToken(f.Model.Vocab, text, id); err != nil {
			return err
		}
	}
	f.Model.Vocab = append(f.Model.Vocab, '}')
	type merge struct {
		piece, left int // id; length of the left part
	}
	var merges []merge
	for id, p := range m.Pieces {
		if p.Type != sentencepiece.Normal {
			continue
		}
		for i := range p.Text {
			_, l := ids[p.Text[:i]]
			_, r := ids[p.Text[i:]]
			if l && r {
				merges = append(merges, merge{id, i})
			}
		}
	}
	slices.SortStableFunc(merges, func(a, b merge) int { return cmp.Compare(m.Pieces[b.piece].Score, m.Pieces[a.piece].Score) })
	f.Model.Merges = make([]string, len(merges))
	for i, g := range merges {
		text := m.Pieces[g.piece].Text
		f.Model.Merges[i] = text[:g.left] + " " + text[g.left:]
	}
	for id := range v.Tokens {
		if !x.padding(id) && (x.isAdded(id) || v.Types[id] == tokenizer.Unknown) {
			f.AddedTokens = append(f.AddedTokens, x.added(id))
		}
	}
	spaces := object{"type": "Replace", "pattern": object{"String": " "}, "content": "\u2581"}
	decode := []object{
		{"type": "Replace", "pattern": object{"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
	}
	f.Normalizer = spaces
	if v.AddSpacePrefix {
		f.Normalizer = object{"type": "Sequence", "normalizers": []object{{"type": "Prepend", "prepend": "\u2581"}, spaces}}
		decode = append(decode, object{"type": "Strip", "content": " ", "start": 1, "stop": 0})
	}
	f.Decoder = object{"type": "Sequence", "decoders": decode}
	if post := x.template(v.AddBOS, v.AddEOS); post != nil {
		f.PostProcessor = post
	}
	return x.fastFile(f)
}

// byteLevel writes tokenizer.json.
func (x *exporter) byteLevel() error {
	v := x.v
	split, err := hf.Describe(v.Pre)
	if err != nil {
		return err
	}
	n := x.base(x.isAdded)
	// The tokenizers library numbers added tokens itself, from the size of the
	// vocabulary on; where that gives other ids they stand in the vocabulary too.
	last := len(v.Tokens)
	for last > n && x.padding(last-1) {
		last--
	}
	holes := false
	for id := range last {
		holes = holes || x.padding(id)
	}
	if holes {
		n = last
	}
	vocab := []byte{'{'}
	added := []addedEntry{}
	var ids []int
	for id, text := range v.Tokens[:last] {
		if x.padding(id) {
			continue
		}
		if id < n {
			if vocab, err = appendToken(vocab, text, id); err != nil {
				return err
			}
		}
		if x.isAdded(id) {
			ids = append(ids, id)
			added = append(added, x.added(id))
		}
	}
	merges := v.Merges
	if merges == nil {
		merges = []string{}
	}
	if i := slices.IndexFunc(merges, func(m string) bool { return !utf8.ValidString(m) }); i >= 0 {
		return fmt.Errorf("merge %d is %s: tokenizer.json cannot hold it", i, formats.Quote(merges[i]))
	}
	byteLevel := object{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}
	post := x.template(v.AddBOS, v.AddEOS)
	if post == nil {
		post = object{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true}
	}
	err = x.fastFile(&fast{
		AddedTokens: added, PreTokenizer: split, PostProcessor: post, Decoder: byteLevel,
		Model: fastModel{IgnoreMerges: tokenizer.IgnoresMerges(v.Pre), Vocab: append(vocab, '}'), Merges: merges},
	})
	if err != nil {
		return err
	}
	x.addedTokens(ids)
	x.config["tokenizer_class"] = "PreTrainedTokenizerFast"
	return nil
}

// template adds the special tokens that texts begin and end with; nil if there
// are none.
func (x *exporter) template(bos, eos bool) object {
	v := x.v
	part := func(kind, id string, typ int) object {
		return object{kind: object{"id": id, "type_id": typ}}
	}
	tokens := object{}
	var before, after []string
	add := func(list *[]string, id int32, want bool) {
		if want && id >= 0 && int(id) < len(v.Tokens) {
			text := v.Tokens[id]
			*list = append(*list, text)
			tokens[text] = object{"id": text, "ids": []int32{id}, "tokens": []string{text}}
		}
	}
	add(&before, v.BOS, bos)
	add(&after, v.EOS, eos)
	if len(tokens) == 0 {
		return nil
	}
	around := func(list []object, sequence string, typ int) []object {
		for _, t := range before {
			list = append(list, part("SpecialToken", t, typ))
		}
		list = append(list, part("Sequence", sequence, typ))
		for _, t := range after {
			list = append(list, part("SpecialToken", t, typ))
		}
		return list
	}
	// A template of two texts says something about separators. Where the GGUF
	// does not, there is nothing between them.
	pair := []object{part("Sequence", "A", 0), part("Sequence", "B", 1)}
	if _, ok := x.meta.Get("tokenizer.ggml.add_sep_token"); ok {
		pair = around(around(nil, "A", 0), "B", 1)
	}
	return object{
		"type": "TemplateProcessing", "single": around(nil, "A", 0), "pair": pair, "special_tokens": tokens,
	}
}

// chatTemplate writes the chat templates.
func (x *exporter) chatTemplate() {
	def, err := x.meta.String("tokenizer.chat_template")
	names, _ := x.meta.Strings("tokenizer.chat_templates")
	if len(names) == 0 {
		if err == nil {
			x.config["chat_template"] = def
		}
		return
	}
	var list []object
	if err == nil {
		list = append(list, object{"name": "default", "template": def})
	}
	for _, name := range slices.Compact(slices.Clone(names)) {
		if text, err := x.meta.String("tokenizer.chat_template." + name); err == nil {
			list = append(list, object{"name": name, "template": text})
		}
	}
	x.config["chat_template"] = list
}
