package vocab

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"math"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/smeltgguf/smelt/internal/tokenizer/hf"
)

// kinds of special tokens, in the order in which they are looked for, and the
// names of their keys.
var (
	specialKinds = []string{"bos", "eos", "unk", "sep", "pad", "cls", "mask"}
	idKeys       = map[string]string{
		"bos": "bos_token_id", "eos": "eos_token_id", "unk": "unknown_token_id", "sep": "seperator_token_id",
		"pad": "padding_token_id", "mask": "mask_token_id", "eot": "eot_token_id", "eom": "eom_token_id",
	}
	addKeys = map[string]string{"bos": "add_bos_token", "eos": "add_eos_token", "sep": "add_sep_token"}
)

// SetToken writes the id of a special token: "eot".
func (v *Builder) SetToken(kind string, id int) { v.Set("ggml."+idKeys[kind], uint32(id)) }

// SetAdd writes whether a special token is added to texts: "bos".
func (v *Builder) SetAdd(kind string, add bool) { v.Set("ggml."+addKeys[kind], add) }

// ordered is a map that remembers in which order keys came in.
type ordered[T any] struct {
	keys []string
	vals map[string]T
}

func (o *ordered[T]) set(key string, val T) {
	if o.vals == nil {
		o.vals = map[string]T{}
	}
	if _, ok := o.vals[key]; !ok {
		o.keys = append(o.keys, key)
	}
	o.vals[key] = val
}

// special is what the files say about special tokens.
type special struct {
	kinds  []string
	ids    ordered[int]
	add    ordered[bool]
	tokens map[string]string // kind -> text, of tokenizer_config.json
	// object has the kinds that tokenizer_config.json describes by an object.
	// llama.cpp's converter takes these for other tokens than those of the same
	// text in tokenizer.json's post-processor.
	object map[string]bool
	// noConfig: without tokenizer_config.json the post-processor's tokens count.
	noConfig bool
	limit    int // ids from here on are ignored
}

// is tells whether text is the token of a kind, as llama.cpp's converter
// compares them.
func (s *special) is(kind, text string) bool { return text == s.tokens[kind] && !s.object[kind] }

// Special writes the merges, if asked for, the ids of special tokens, whether
// they are added to texts, and the chat templates. tokenizer_config.json's
// tokens, their ids looked up in tokenizer.json, go before config.json's ids.
// limit is the size of the vocabulary: greater ids are passed over.
func (v *Builder) Special(merges bool, limit int) {
	s := &special{kinds: slices.Clone(specialKinds), tokens: map[string]string{}, object: map[string]bool{}, noConfig: v.tokConfig == nil, limit: limit}
	for key, val := range v.tokConfig {
		if kind, ok := strings.CutSuffix(key, "_token"); ok {
			switch t := val.(type) {
			case string:
				s.tokens[kind] = t
			case object:
				if text, ok := t["content"].(string); ok {
					s.tokens[kind], s.object[kind] = text, true
				}
			}
		}
	}
	fast := v.fastTokenizer()
	if fast != nil {
		if s.tokens["bos"] == "" && s.tokens["cls"] != "" {
			s.tokens["bos"], s.object["bos"] = s.tokens["cls"], s.object["cls"]
		}
		if s.tokens["eos"] == "" && s.tokens["sep"] != "" {
			s.tokens["eos"], s.object["eos"] = s.tokens["sep"], s.object["sep"]
		}
		var p processor
		if len(fast.PostProcessor) > 0 {
			if err := json.Unmarshal(fast.PostProcessor, &p); err != nil {
				v.bad(fastFile, "post_processor: %v", err)
			}
		}
		s.postProcessor(p)
	}
	for _, kind := range s.kinds {
		if add, ok := v.tokConfig["add_"+kind+"_token"].(bool); ok {
			s.add.set(kind, add)
		}
		if text, ok := s.tokens[kind]; ok && v.tokConfig != nil && fast != nil {
			for _, t := range fast.Added {
				if t.Content == text {
					s.setID(kind, t.ID)
					break
				}
			}
		}
	}
	inner, _ := v.config["text_config"].(object)
	for _, kind := range s.kinds {
		val := v.config[kind+"_token_id"]
		if val == nil {
			val = inner[kind+"_token_id"]
		}
		if id, ok := integer(val); ok { // lists of ids are ignored
			if id < 0 {
				v.bad("config.json", "%s_token_id is %d", kind, id)
			}
			s.setID(kind, int(min(id, math.MaxInt32)))
		}
	}
	v.preferred(s, fast)
	if merges {
		v.merges(fast)
	}
	for _, kind := range s.ids.keys {
		if key, ok := idKeys[kind]; ok {
			v.Set("ggml."+key, uint32(s.ids.vals[kind]))
		}
	}
	for _, kind := range s.add.keys {
		if key, ok := addKeys[kind]; ok {
			v.Set("ggml."+key, s.add.vals[kind])
		}
	}
	v.chatTemplates()
}

// preferred applies PreferEOS and DefaultToken.
func (v *Builder) preferred(s *special, fast *hf.Tokenizer) {
	if v.eos == "" && v.defaults == nil {
		return
	}
	ids := map[string]int{}
	for _, e := range v.decoderEntries() {
		ids[e.Content] = e.ID
	}
	if fast != nil {
		for _, e := range fast.Added {
			ids[e.Content] = e.ID
		}
	}
	if id, ok := ids[v.eos]; ok && v.eos != "" {
		s.ids.set("eos", id)
	}
	for _, d := range v.defaults {
		if id, ok := ids[d.text]; ok {
			s.setID(d.kind, id)
		}
	}
}

func (s *special) setID(kind string, id int) {
	if _, ok := s.ids.vals[kind]; !ok && (s.limit == 0 || id < s.limit) {
		s.ids.set(kind, id)
	}
}

// processor is a post-processor of tokenizer.json.
type processor struct {
	Type       string          `json:"type"`
	Single     []templatePart  `json:"single"`
	Pair       []templatePart  `json:"pair"`
	Processors []processor     `json:"processors"`
	Cls, Sep   json.RawMessage // of RobertaProcessing: [token, id]
}

type templatePart struct {
	SpecialToken struct {
		ID string `json:"id"`
	}
	Sequence struct {
		ID string `json:"id"`
	}
}

// postProcessor finds out from what tokenizer.json does after tokenizing
// whether special tokens are added at the ends of a text.
func (s *special) postProcessor(p processor) {
	list := p.Processors
	if list == nil {
		list = []processor{p}
	}
	for _, p := range list {
		switch p.Type {
		case "RobertaProcessing":
			s.add.set("bos", true)
			s.add.set("eos", true)
			s.add.set("sep", true)
			for kind, raw := range map[string]json.RawMessage{"cls": p.Cls, "sep": p.Sep} {
				var pair []any
				if s.tokens[kind] == "" && json.Unmarshal(raw, &pair) == nil && len(pair) > 0 {
					if text, ok := pair[0].(string); ok {
						s.tokens[kind] = text
					}
				}
			}
		case "TemplateProcessing":
			s.template(p.Single, p.Pair)
		}
	}
}

// template reads a template such as [bos, A, eos], and of a pair of texts
// [bos, A, sep, B, eos].
func (s *special) template(single, pair []templatePart) {
	var first, last string
	if len(single) > 1 {
		if first = single[0].SpecialToken.ID; first != "" {
			s.add.set("bos", s.noConfig || s.is("bos", first) || s.is("cls", first))
		}
		if last = single[len(single)-1].SpecialToken.ID; last != "" {
			if old := s.tokens["eos"]; !s.noConfig && !s.is("eos", last) {
				// The text ends with another token than the one called eos,
				// which then ends a turn.
				for _, kind := range []string{"eot", "eom"} {
					if !slices.Contains(s.kinds, kind) {
						s.kinds = append(s.kinds, kind)
						s.tokens[kind] = old
						break
					}
				}
				s.tokens["eos"], s.object["eos"] = last, false
			}
			s.add.set("eos", true)
		}
	}
	if len(pair) == 0 {
		return
	}
	if first != "" && pair[0].SpecialToken.ID == first {
		pair = pair[1:]
	}
	if n := len(pair); last != "" && n > 0 && pair[n-1].SpecialToken.ID == last {
		pair = pair[:n-1]
	}
	if len(pair) < 3 || pair[0].Sequence.ID != "A" || pair[len(pair)-1].Sequence.ID != "B" {
		return
	}
	between := pair[1 : len(pair)-1]
	separates := func(p templatePart) bool {
		id := p.SpecialToken.ID
		return id != "" && (s.is("sep", id) || s.is("eos", id) || s.noConfig && id == last)
	}
	sep := separates(between[0]) && last == "" || len(between) == 2 && separates(between[1])
	s.add.set("sep", sep)
	if sep && s.tokens["sep"] == "" {
		s.tokens["sep"] = s.tokens["eos"]
	}
}

// merges writes the merges.
func (v *Builder) merges(fast *hf.Tokenizer) {
	if fast == nil {
		fast = v.slow
	}
	if fast != nil && len(fast.Merges) > 0 {
		v.Set("ggml.merges", fast.Merges)
	}
}

// chatTemplates writes the chat templates: those of tokenizer_config.json, a
// string or a list of named ones; else chat_template.jinja with what lies in
// additional_chat_templates; else chat_template.json.
func (v *Builder) chatTemplates() {
	if v.tokConfig == nil {
		return
	}
	val, ok := v.tokConfig["chat_template"]
	if !ok {
		if text := v.file("chat_template.jinja"); text != nil {
			val = string(text)
			if more := v.additionalTemplates(); len(more) > 0 {
				val = append([]any{object{"name": "default", "template": string(text)}}, more...)
			}
		} else if o := v.json("chat_template.json"); o != nil {
			val = o["chat_template"]
		}
	}
	switch t := val.(type) {
	case string:
		v.Set("chat_template", t)
	case []any:
		v.namedTemplates(t)
	}
}

func (v *Builder) namedTemplates(list []any) {
	var names []string
	var def any
	for _, e := range list {
		o, _ := e.(object)
		name, _ := o["name"].(string)
		text, ok := o["template"].(string)
		name = strings.Map(func(r rune) rune {
			if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
				return r
			}
			return '_'
		}, name)
		switch {
		case name == "" || !ok:
		case name == "default":
			def = text
		default:
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
			v.Set("chat_template."+name, text)
		}
	}
	if len(names) > 0 {
		v.Set("chat_templates", names)
	}
	if def != nil {
		v.Set("chat_template", def)
	}
}

func (v *Builder) additionalTemplates() []any {
	const dir = "additional_chat_templates"
	entries, err := os.ReadDir(v.ck.File(dir)) // sorted
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		fail(err)
	}
	var out []any
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".jinja")
		if !ok {
			continue
		}
		text := v.file(path.Join(dir, e.Name()))
		out = append(out, object{"name": name, "template": string(text)})
	}
	return out
}

func sortedKeys[T any](m map[string]T) []string { return slices.Sorted(maps.Keys(m)) }

func parseID(s string) (int, bool) {
	n, err := strconv.ParseInt(s, 10, 32)
	return int(n), err == nil && n >= 0
}

func integer(v any) (int64, bool) {
	num, ok := v.(json.Number)
	if !ok {
		return 0, false
	}
	n, err := num.Int64()
	return n, err == nil
}
