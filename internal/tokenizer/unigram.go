package tokenizer

import (
	"encoding/binary"
	"errors"
	"math"
	"unicode/utf8"
)

// unigramEncoder is SentencePiece's unigram model: of all ways to cut a text into
// tokens, the one with the largest sum of scores, which are log-probabilities.
type unigramEncoder struct {
	t        *Tokenizer
	dict     *dict
	user     *dict // user-defined tokens, which are not normalised
	unkScore float64
	charsmap charsmap
}

// unkPenalty is how much worse than the worst token an unknown character is, as
// in SentencePiece.
const unkPenalty = 10

func newUnigram(t *Tokenizer) (*unigramEncoder, error) {
	if t.v.UNK == None {
		return nil, errors.New("a unigram vocabulary needs an unknown token")
	}
	if len(t.v.Scores) == 0 {
		return nil, errors.New("a unigram vocabulary needs scores")
	}
	e := &unigramEncoder{t: t}
	var ids, user []int32
	worst := math.Inf(1)
	for id, a := range t.attrs {
		if a&attrNormal != 0 {
			worst = min(worst, float64(t.v.Scores[id]))
		}
		if a&(attrNormal|attrUser|attrUnused) != 0 {
			ids = append(ids, int32(id))
		}
		if a&attrUser != 0 {
			user = append(user, int32(id))
		}
	}
	if math.IsInf(worst, 0) {
		return nil, errors.New("a unigram vocabulary needs normal tokens with finite scores")
	}
	e.unkScore = float64(float32(worst) - unkPenalty)
	e.dict = newDict(ids, t.v.Tokens)
	e.user = newDict(user, t.v.Tokens)
	var err error
	e.charsmap, err = newCharsmap(t.v.Charsmap)
	return e, err
}

// A step is the best way to reach a place in the text: by a token that starts at
// from.
type step struct {
	score float64
	id    int32
	from  int32
}

func (e *unigramEncoder) encode(dst []int32, text string, prefix bool, s *scratch) []int32 {
	s.buf = e.normalize(s.buf[:0], text, prefix)
	norm := s.buf
	if len(norm) == 0 {
		return dst
	}
	steps := s.steps[:0]
	for range len(norm) + 1 {
		steps = append(steps, step{math.Inf(-1), e.t.v.UNK, 0})
	}
	steps[0].score = 0
	reach := func(to int, score float64, id int32, from int) {
		if score > steps[to].score {
			steps[to] = step{score, id, int32(from)}
		}
	}
	for i := 0; i < len(norm); {
		n := min(charLen(norm[i]), len(norm)-i)
		whole := false // a token is this very character
		w := e.dict.walk()
		for j := i; j < len(norm) && w.step(norm[j]); j++ {
			id := w.token()
			if id == None {
				continue
			}
			whole = whole || j+1-i == n
			score := float64(e.t.v.Scores[id])
			if e.t.attrs[id]&attrUser != 0 {
				score = 0 // better than any normal token
			}
			reach(j+1, steps[i].score+score, id, i)
		}
		if !whole {
			reach(i+n, steps[i].score+e.unkScore, e.t.v.UNK, i)
		}
		i += n
	}
	// Back from the end; neighbouring unknowns become one.
	start := len(dst)
	for i := len(norm); i > 0; i = int(steps[i].from) {
		id := steps[i].id
		if id != e.t.v.UNK || len(dst) == start || dst[len(dst)-1] != id {
			dst = append(dst, id)
		}
	}
	for i, j := start, len(dst)-1; i < j; i, j = i+1, j-1 {
		dst[i], dst[j] = dst[j], dst[i]
	}
	s.steps = steps[:0]
	return dst
}

// normalize appends text as the model was trained on it: characters replaced,
// spaces escaped, runs of them made one where the vocabulary wants that.
func (e *unigramEncoder) normalize(dst []byte, text string, prefix bool) []byte {
	v := &e.t.v
	prepend := prefix && !v.SuffixWhitespace
	inWord := false
	for i := 0; i < len(text); {
		part, n := e.normalizePrefix(text[i:])
		i += n
		for _, c := range []byte(part) {
			if c == ' ' {
				inWord = false
				if !v.RemoveExtraWhitespaces {
					dst = append(dst, escapedSpace...)
				}
				continue
			}
			if !inWord {
				inWord = true
				if prepend || v.RemoveExtraWhitespaces {
					dst = append(dst, escapedSpace...)
					prepend = false
				}
			}
			dst = append(dst, c)
		}
	}
	if prefix && v.SuffixWhitespace {
		dst = append(dst, escapedSpace...)
	}
	return dst
}

// normalizePrefix returns what the first characters of text become, and how many
// bytes of it that were.
func (e *unigramEncoder) normalizePrefix(text string) (string, int) {
	w := e.user.walk()
	n := 0
	for i := 0; i < len(text) && w.step(text[i]); i++ {
		if w.token() != None {
			n = i + 1
		}
	}
	if n > 0 {
		return text[:n], n
	}
	if part, n := e.charsmap.longest(text); n > 0 {
		return part, n
	}
	if r, n := utf8.DecodeRuneInString(text); r != utf8.RuneError || n == 3 {
		return text[:n], n
	}
	return "\uFFFD", 1
}

// charsmap is SentencePiece's precompiled_charsmap: a double array trie (Yata et
// al. 2007; darts-clone) of the texts to replace, and the replacements, each with
// a zero at its end.
type charsmap struct {
	units        []uint32
	replacements string
}

func newCharsmap(data []byte) (charsmap, error) {
	if len(data) == 0 {
		return charsmap{}, nil
	}
	if len(data) < 4 {
		return charsmap{}, errors.New("precompiled_charsmap: truncated")
	}
	size := uint64(binary.LittleEndian.Uint32(data))
	if size%4 != 0 || size == 0 || size >= uint64(len(data)-4) {
		return charsmap{}, errors.New("precompiled_charsmap: truncated")
	}
	m := charsmap{units: make([]uint32, size/4)}
	for i := range m.units {
		m.units[i] = binary.LittleEndian.Uint32(data[4+4*i:])
	}
	m.replacements = string(data[4+size:])
	if m.replacements[len(m.replacements)-1] != 0 {
		return charsmap{}, errors.New("precompiled_charsmap: last replacement has no end")
	}
	return m, nil
}

// longest returns the replacement of the longest text in the map that s begins
// with, and that text's length; 0 if there is none.
func (m *charsmap) longest(s string) (replacement string, n int) {
	if len(m.units) == 0 {
		return "", 0
	}
	// A unit holds the label of its node in bits 0-7 and 31, whether it has a
	// value in bit 8, and the offset to its children in bits 10-30, which bit 9
	// shifts by 8. A value's unit has bit 31 set and the value below it.
	offset := func(unit uint32) uint32 { return unit >> 10 << (unit & (1 << 9) >> 6) }
	node := offset(m.units[0])
	at := uint32(0)
	for i := 0; i < len(s); i++ {
		c := uint32(s[i])
		node ^= c
		if c == 0 || node >= uint32(len(m.units)) {
			break
		}
		unit := m.units[node]
		if unit&(1<<31|0xff) != c {
			break
		}
		node ^= offset(unit)
		if unit>>8&1 != 0 && node < uint32(len(m.units)) {
			at, n = m.units[node]&(1<<31-1), i+1
		}
	}
	if n == 0 || at >= uint32(len(m.replacements)) {
		return "", 0
	}
	rest := m.replacements[at:]
	for i := range len(rest) {
		if rest[i] == 0 {
			return rest[:i], n
		}
	}
	return "", 0
}
