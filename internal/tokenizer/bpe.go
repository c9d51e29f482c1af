package tokenizer

import (
	"fmt"
	"strings"

	"golang.org/x/text/unicode/norm"

	"github.com/smeltgguf/smelt/formats"
)

// bpeEncoder is byte-level BPE: text is split into words, and the symbols of a
// word, its bytes, are merged in the order of a list.
type bpeEncoder struct {
	t     *Tokenizer
	pre   *preTokenizer
	pairs *pairTable
	// texts of the symbols that are no tokens; the first has id t.Len().
	extra []string
	bytes [256]int32       // symbols of bytes
	chars map[string]int32 // pre.chars: symbols of characters
	words map[string]int32 // pre.ignoreMerges: tokens by the bytes they stand for
}

func newBPE(t *Tokenizer, pre *preTokenizer) (*bpeEncoder, error) {
	e := &bpeEncoder{t: t, pre: pre, pairs: newPairTable(len(t.v.Merges))}
	extra := make(map[string]int32)
	intern := func(text []byte) int32 {
		if id, ok := t.ids[string(text)]; ok {
			return id
		}
		id, ok := extra[string(text)]
		if !ok {
			id = int32(t.Len() + len(e.extra))
			e.extra = append(e.extra, string(text))
			extra[string(text)] = id
		}
		return id
	}
	var buf []byte
	for rank, m := range t.v.Merges {
		// The left part may be a space in vocabularies of characters.
		i := -1
		if m != "" {
			i = strings.IndexByte(m[1:], ' ') + 1
		}
		if i <= 0 || i == len(m)-1 {
			return nil, fmt.Errorf("merge %d: want two symbols and a space between, got %s", rank, formats.Quote(m))
		}
		buf = append(append(buf[:0], m[:i]...), m[i+1:]...)
		e.pairs.add(intern(buf[:i]), intern(buf[i:]), int32(rank), intern(buf))
	}
	symbol := func(text string) int32 {
		if id, ok := t.ids[text]; ok {
			return id
		}
		if id, ok := extra[text]; ok {
			return id
		}
		return None
	}
	for b := range e.bytes {
		e.bytes[b] = symbol(string(byteRunes[b]))
	}
	if pre.chars {
		e.chars = make(map[string]int32)
		add := func(text string, id int32) {
			if text != "" && charLen(text[0]) >= len(text) {
				e.chars[text] = id
			}
		}
		for text, id := range t.ids {
			add(text, id)
		}
		for text, id := range extra {
			add(text, id)
		}
	}
	if pre.ignoreMerges {
		e.words = make(map[string]int32, t.Len())
		for text, id := range t.ids {
			var ok bool
			if buf, ok = unbyte(buf[:0], text); ok {
				e.words[string(buf)] = id
			}
		}
	}
	return e, nil
}

func (e *bpeEncoder) encode(dst []int32, text string, _ bool, s *scratch) []int32 {
	if e.pre.chars {
		text = strings.ReplaceAll(text, " ", escapedSpace)
	}
	text = sanitize(text)
	if e.t.v.NFC {
		text = norm.NFC.String(text)
	}
	split(text, e.pre.stages, func(word string) {
		dst = e.word(dst, word, s)
	})
	return dst
}

// word appends the tokens of one word.
func (e *bpeEncoder) word(dst []int32, word string, s *scratch) []int32 {
	if e.words != nil {
		if id, ok := e.words[word]; ok {
			return append(dst, id)
		}
	}
	ids := s.ids[:0]
	if e.pre.chars {
		// Gemma has tokens for runs of line breaks that no merges lead to.
		if word[0] == '\n' && e.pre.newlineTokens {
			if id, ok := e.t.ids[word]; ok {
				return append(dst, id)
			}
		}
		s.chars = s.chars[:0]
		for i := 0; i < len(word); {
			n := min(charLen(word[i]), len(word)-i)
			id, ok := e.chars[word[i:i+n]]
			if !ok {
				id = -1 - int32(len(s.chars))
				s.chars = append(s.chars, word[i:i+n])
			}
			ids = append(ids, id)
			i += n
		}
	} else {
		for _, b := range []byte(word) {
			ids = append(ids, e.bytes[b])
		}
	}
	s.ids = ids
	for _, id := range e.pairs.merge(ids, &s.pairScratch) {
		switch {
		case int(id) >= e.t.Len():
			dst = e.fallback(dst, e.extra[int(id)-e.t.Len()])
		case id >= 0:
			dst = append(dst, id)
		case e.pre.chars:
			dst = e.fallback(dst, s.chars[-1-id])
		}
	}
	return dst
}

// fallback appends tokens for the bytes of a symbol that is no token. Of a
// byte-level symbol only bytes that are tokens by themselves remain.
func (e *bpeEncoder) fallback(dst []int32, text string) []int32 {
	for _, b := range []byte(text) {
		id := e.t.bytes[b]
		if !e.pre.chars {
			var ok bool
			if id, ok = e.t.ids[string([]byte{b})]; !ok {
				continue
			}
		}
		if id != None {
			dst = append(dst, id)
		}
	}
	return dst
}
