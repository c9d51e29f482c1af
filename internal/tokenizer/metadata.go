package tokenizer

import (
	"fmt"
	"math"
	"strings"
)

// Metadata is what a GGUF's metadata offers: the value of a key as a Go value
// whose type is that of the file.
type Metadata interface {
	Get(key string) (any, bool)
}

const prefix = "tokenizer.ggml."

// FromMetadata makes the tokenizer that the metadata of a GGUF describes.
func FromMetadata(m Metadata) (*Tokenizer, error) {
	v, err := VocabFromMetadata(m)
	if err != nil {
		return nil, err
	}
	return New(*v)
}

// VocabFromMetadata reads the vocabulary from the metadata of a GGUF.
func VocabFromMetadata(m Metadata) (*Vocab, error) {
	r := reader{m: m}
	model, pre := "", ""
	if !read(&r, "model", &model) && r.err == nil {
		return nil, fmt.Errorf("%smodel missing: the file has no tokenizer", prefix)
	}
	read(&r, "pre", &pre)
	if r.err != nil {
		return nil, r.err
	}
	if model != "gpt2" && model != "gemma4" {
		pre = ""
	}
	v, err := NewVocab(model, pre)
	if err != nil {
		return nil, err
	}
	if !read(&r, "tokens", &v.Tokens) && r.err == nil {
		return nil, fmt.Errorf("%stokens missing", prefix)
	}
	if !read(&r, "merges", &v.Merges) && r.err == nil && (model == "gpt2" || model == "gemma4") && pre != "kimi-k2" {
		return nil, fmt.Errorf("%smerges missing", prefix)
	}
	r.scores(&v.Scores)
	var types []int32
	read(&r, "token_type", &types)
	if n := len(v.Tokens); r.err == nil {
		// More than one value per token does no harm; fewer would.
		if v.Scores != nil {
			if len(v.Scores) < n {
				return nil, fmt.Errorf("%sscores: %d values for %d tokens", prefix, len(v.Scores), n)
			}
			v.Scores = v.Scores[:n]
		}
		if types != nil {
			if len(types) < n {
				return nil, fmt.Errorf("%stoken_type: %d values for %d tokens", prefix, len(types), n)
			}
			v.Types = make([]Type, n)
			for i := range v.Types {
				v.Types[i] = Type(types[i])
			}
		}
	}
	for _, id := range v.specialIDs() {
		r.id(id.key, id.id, len(v.Tokens))
	}
	read(&r, "add_bos_token", &v.AddBOS)
	read(&r, "add_eos_token", &v.AddEOS)
	read(&r, "add_sep_token", &v.AddSEP)
	if p := findPre(v.Pre); p != nil && p.newlineTokens {
		v.AddBOS = true // Gemma 4's files say false, and need it
	}
	read(&r, "add_space_prefix", &v.AddSpacePrefix)
	read(&r, "remove_extra_whitespaces", &v.RemoveExtraWhitespaces)
	r.charsmap(&v.Charsmap)
	if name, ok := m.Get("general.name"); ok {
		// llama.cpp knows Phi-3, whose special tokens take the whitespace that
		// follows, by nothing else.
		s, _ := name.(string)
		s = strings.ToLower(s)
		v.StripAfterSpecial = strings.Contains(s, "phi-3") || strings.Contains(s, "phi3")
	}
	return v, r.err
}

// A reader remembers the first error.
type reader struct {
	m   Metadata
	err error
}

// read stores the value of a key if there is one of the right type.
func read[T any](r *reader, key string, dst *T) bool {
	val, ok := r.m.Get(prefix + key)
	if !ok {
		return false
	}
	got, ok := val.(T)
	if !ok {
		r.wrongType(key, *dst, val)
		return false
	}
	*dst = got
	return true
}

func (r *reader) wrongType(key string, want, got any) {
	if r.err == nil {
		r.err = fmt.Errorf("%s%s: want %s, got %s", prefix, key, typeName(want), typeName(got))
	}
}

// typeName names a Go type as GGUF does.
func typeName(v any) string {
	name := fmt.Sprintf("%T", v)
	array := strings.HasPrefix(name, "[]")
	name = strings.TrimPrefix(name, "[]")
	for _, r := range [...][2]string{{"uint", "u"}, {"int", "i"}, {"float", "f"}} {
		if rest, ok := strings.CutPrefix(name, r[0]); ok {
			name = r[1] + rest
			break
		}
	}
	if array {
		name += " array"
	}
	return name
}

// scores reads scores, which some files hold as integers.
func (r *reader) scores(dst *[]float32) {
	val, ok := r.m.Get(prefix + "scores")
	if !ok {
		return
	}
	switch val := val.(type) {
	case []float32:
		*dst = val
	case []int32:
		*dst = make([]float32, len(val))
		for i, s := range val {
			(*dst)[i] = float32(s)
		}
	default:
		r.wrongType("scores", *dst, val)
	}
}

func (r *reader) charsmap(dst *[]byte) {
	val, ok := r.m.Get(prefix + "precompiled_charsmap")
	if !ok {
		return
	}
	switch val := val.(type) {
	case []uint8:
		*dst = val
	case []int8:
		*dst = make([]byte, len(val))
		for i, b := range val {
			(*dst)[i] = byte(b)
		}
	default:
		r.wrongType("precompiled_charsmap", *dst, val)
	}
}

// id reads a token id. Ids past the vocabulary count as not there, as in
// llama.cpp: files use them to say that there is no such token.
func (r *reader) id(key string, dst *int32, vocab int) {
	val, ok := r.m.Get(prefix + key)
	if !ok {
		return
	}
	var id int64
	switch val := val.(type) {
	case uint32:
		id = int64(val)
	case int32:
		id = int64(val)
	case uint64:
		id = int64(min(val, math.MaxInt64))
	case int64:
		id = val
	default:
		r.wrongType(key, uint32(0), val)
		return
	}
	if id >= 0 && id < int64(vocab) {
		*dst = int32(id)
	}
}
