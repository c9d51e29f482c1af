package tokenizer

import (
	"cmp"
	"slices"
	"strings"
)

// escapedSpace stands for a space in SentencePiece's tokens.
const escapedSpace = "\u2581"

// spmEncoder is SentencePiece-BPE: any two neighbours that make a token are
// merged, the token of the highest score first.
type spmEncoder struct {
	t     *Tokenizer
	pairs *pairTable
	chars map[string]int32 // symbols of characters
	ascii [128]int32
	extra []string // texts of symbols that are no tokens; the first has id t.Len()
	// joined has the hashes of all pairs of characters that are neighbours in a
	// token. Between two characters of a text that are not in it no token can
	// come to lie, so that what lies before and after are two tasks.
	joined [1 << 14]uint64
}

func newSPM(t *Tokenizer) *spmEncoder {
	e := &spmEncoder{t: t, chars: make(map[string]int32)}
	rank := scoreRanks(&t.v)

	// The characters of all tokens are symbols.
	pairs := 0
	lens := [MaxTokenLen + 1]bool{1: true, 2: true, 3: true, 4: true} // of symbols
	for _, text := range t.v.Tokens {
		lens[len(text)] = true
		for i := 0; i < len(text); {
			n := min(charLen(text[i]), len(text)-i)
			char := text[i : i+n]
			if _, ok := e.chars[char]; !ok {
				id, ok := t.ids[char]
				if !ok {
					id = int32(t.Len() + len(e.extra))
					e.extra = append(e.extra, char)
				}
				e.chars[char] = id
			}
			if i += n; i < len(text) {
				next := text[i:min(len(text), i+charLen(text[i]))]
				h := joinHash(char, next)
				e.joined[h>>6] |= 1 << (h & 63)
				pairs++
			}
		}
	}
	for c := range e.ascii {
		id, ok := e.chars[string([]byte{byte(c)})]
		if !ok {
			id = None
		}
		e.ascii[c] = id
	}

	// A token is the merge of any two symbols that it consists of.
	symbol := func(text string) (int32, bool) {
		if id, ok := t.ids[text]; ok {
			return id, true
		}
		id, ok := e.chars[text]
		return id, ok
	}
	e.pairs = newPairTable(pairs)
	for id, text := range t.v.Tokens {
		for i := 0; ; {
			if i += charLen(text[min(i, len(text)-1)]); i >= len(text) {
				break
			}
			if !lens[i] || !lens[len(text)-i] {
				continue
			}
			if left, ok := symbol(text[:i]); ok {
				if right, ok := symbol(text[i:]); ok {
					e.pairs.add(left, right, rank[id], int32(id))
				}
			}
		}
	}
	return e
}

// scoreRanks returns ranks that order tokens by falling score; equal scores have
// equal ranks.
func scoreRanks(v *Vocab) []int32 {
	rank := make([]int32, len(v.Tokens))
	if len(v.Scores) == 0 {
		return rank
	}
	order := make([]int32, len(rank))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(a, b int32) int { return cmp.Compare(v.Scores[b], v.Scores[a]) })
	for i := 1; i < len(order); i++ {
		rank[order[i]] = rank[order[i-1]]
		if v.Scores[order[i]] != v.Scores[order[i-1]] {
			rank[order[i]]++
		}
	}
	return rank
}

// joinHash returns a hash of 20 bits of a pair of characters.
func joinHash(a, b string) uint64 {
	var h uint64
	for _, c := range []byte(a) {
		h = h<<8 | uint64(c)
	}
	for _, c := range []byte(b) {
		h = h<<8 | uint64(c)
	}
	return (h * hashFactor) >> (64 - 20)
}

func (e *spmEncoder) encode(dst []int32, text string, prefix bool, s *scratch) []int32 {
	text = strings.ReplaceAll(text, " ", escapedSpace)
	if prefix {
		text = escapedSpace + text
	}
	ids, chars := s.ids[:0], s.chars[:0]
	prev := ""
	for i := 0; i < len(text); {
		n := min(charLen(text[i]), len(text)-i)
		char := text[i : i+n]
		if prev != "" {
			if h := joinHash(prev, char); e.joined[h>>6]>>(h&63)&1 == 0 {
				dst = e.flush(dst, ids, chars, s)
				ids, chars = ids[:0], chars[:0]
			}
		}
		id := None
		if n == 1 && char[0] < 0x80 {
			id = e.ascii[char[0]]
		} else if c, ok := e.chars[char]; ok {
			id = c
		}
		if id == None {
			id = -1 - int32(len(chars))
			chars = append(chars, char)
		}
		ids = append(ids, id)
		prev = char
		i += n
	}
	dst = e.flush(dst, ids, chars, s)
	s.ids, s.chars = ids[:0], chars[:0]
	return dst
}

// flush merges symbols and appends the tokens that come of it; chars are the
// characters that no token has.
func (e *spmEncoder) flush(dst, ids []int32, chars []string, s *scratch) []int32 {
	for _, id := range e.pairs.merge(ids, &s.pairScratch) {
		switch {
		case id < 0:
			dst = e.fallback(dst, chars[-1-id])
		case int(id) >= e.t.Len():
			dst = e.fallback(dst, e.extra[int(id)-e.t.Len()])
		default:
			dst = append(dst, id)
		}
	}
	return dst
}

// fallback appends the tokens of a character's bytes.
func (e *spmEncoder) fallback(dst []int32, char string) []int32 {
	for _, b := range []byte(char) {
		if id := e.t.bytes[b]; id != None {
			dst = append(dst, id)
		}
	}
	return dst
}
