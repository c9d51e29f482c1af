package tokenizer

import (
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// A class is a set of properties of a code point: what split patterns ask for.
type class uint16

const (
	letter     class = 1 << iota // \p{L}
	number                       // \p{N}
	space                        // \s: Unicode's White_Space
	punct                        // \p{P}
	symb                         // \p{S}
	mark                         // \p{M}
	upper                        // [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]
	lower                        // [\p{Ll}\p{Lm}\p{Lo}\p{M}]
	han                          // \p{Han}
	upperNoHan                   // upper, but for Han
	lowerNoHan                   // lower, but for Han
)

// classTable holds the class of every code point; loadClasses fills it before
// the first tokenizer is made.
var classTable [unicode.MaxRune + 1]class

var loadClasses = sync.OnceFunc(func() {
	for _, e := range []struct {
		table *unicode.RangeTable
		class class
	}{
		{unicode.Lu, letter | upper},
		{unicode.Lt, letter | upper},
		{unicode.Ll, letter | lower},
		{unicode.Lm, letter | upper | lower},
		{unicode.Lo, letter | upper | lower},
		{unicode.M, mark | upper | lower},
		{unicode.N, number},
		{unicode.P, punct},
		{unicode.S, symb},
		{unicode.White_Space, space},
		{unicode.Han, han},
	} {
		for _, r := range e.table.R16 {
			for c := uint32(r.Lo); c <= uint32(r.Hi); c += uint32(r.Stride) {
				classTable[c] |= e.class
			}
		}
		for _, r := range e.table.R32 {
			for c := r.Lo; c <= r.Hi; c += r.Stride {
				classTable[c] |= e.class
			}
		}
	}
	for r, c := range classTable {
		if c&han == 0 && c&(upper|lower) != 0 {
			if c&upper != 0 {
				c |= upperNoHan
			}
			if c&lower != 0 {
				c |= lowerNoHan
			}
			classTable[r] = c
		}
	}
})

// decode returns the code point at s[i] and its length. s has gone through
// sanitize.
func decode(s string, i int) (rune, int) {
	c := s[i]
	switch {
	case c < 0x80:
		return rune(c), 1
	case c < 0xe0:
		return rune(c&0x1f)<<6 | rune(s[i+1]&0x3f), 2
	case c < 0xf0:
		return rune(c&0x0f)<<12 | rune(s[i+1]&0x3f)<<6 | rune(s[i+2]&0x3f), 3
	}
	return rune(c&0x07)<<18 | rune(s[i+1]&0x3f)<<12 | rune(s[i+2]&0x3f)<<6 | rune(s[i+3]&0x3f), 4
}

// classAt returns the class of the code point at s[i] and its length; at the end
// of s the class is 0 and the length too.
func classAt(s string, i int) (class, int) {
	if i >= len(s) {
		return 0, 0
	}
	if c := s[i]; c < 0x80 {
		return classTable[c], 1
	}
	r, n := decode(s, i)
	return classTable[r], n
}

// span returns the end of the run of code points at s[i:] that have one of the
// properties of set.
func span(s string, i int, set class) int {
	for {
		c, n := classAt(s, i)
		if c&set == 0 {
			return i
		}
		i += n
	}
}

// spanNot returns the end of the run of code points at s[i:] that have none of
// the properties of set.
func spanNot(s string, i int, set class) int {
	for {
		c, n := classAt(s, i)
		if n == 0 || c&set != 0 {
			return i
		}
		i += n
	}
}

// sanitize makes text such that decode reads it: bytes that are not UTF-8 become
// U+FFFD one by one, overlong forms the shortest one. Encoded surrogates stay,
// as they do in llama.cpp.
func sanitize(text string) string {
	if utf8.ValidString(text) {
		return text
	}
	var b strings.Builder
	b.Grow(len(text) + len(text)/4)
	for i := 0; i < len(text); {
		r, n := lenientRune(text[i:])
		switch {
		case n == 0:
			b.WriteString("\uFFFD")
			n = 1
		case 0xd800 <= r && r < 0xe000:
			b.WriteString(text[i : i+n])
		default:
			b.WriteRune(r)
		}
		i += n
	}
	return b.String()
}

// lenientRune decodes by the lengths and tags of UTF-8's bytes alone; n is 0
// where these are wrong.
func lenientRune(s string) (r rune, n int) {
	switch c := s[0]; {
	case c < 0x80:
		return rune(c), 1
	case c < 0xc0 || c >= 0xf8:
		return 0, 0
	case c < 0xe0:
		r, n = rune(c&0x1f), 2
	case c < 0xf0:
		r, n = rune(c&0x0f), 3
	default:
		r, n = rune(c&0x07), 4
	}
	if len(s) < n {
		return 0, 0
	}
	for _, c := range []byte(s[1:n]) {
		if c&0xc0 != 0x80 {
			return 0, 0
		}
		r = r<<6 | rune(c&0x3f)
	}
	if r > unicode.MaxRune {
		return 0, 0
	}
	return r, n
}

// charLen is the length of a character of SentencePiece-BPE as its first byte
// tells it; the bytes that follow are not looked at.
func charLen(c byte) int {
	switch {
	case c < 0xc0:
		return 1
	case c < 0xe0:
		return 2
	case c < 0xf0:
		return 3
	}
	return 4
}

// byteRunes is the alphabet of byte-level BPE: printable Latin-1 stands for
// itself, the other bytes, in order, for U+0100 and on (GPT-2's encoder.py).
var byteRunes = func() (t [256]rune) {
	next := rune(0x100)
	for b := range t {
		if 0x21 <= b && b <= 0x7e || 0xa1 <= b && b <= 0xac || 0xae <= b {
			t[b] = rune(b)
		} else {
			t[b] = next
			next++
		}
	}
	return t
}()

// runeBytes is the inverse of byteRunes; -1 for a code point that is no byte.
var runeBytes = func() (t [0x144]int16) {
	for r := range t {
		t[r] = -1
	}
	for b, r := range byteRunes {
		t[r] = int16(b)
	}
	return t
}()

// unbyte returns the bytes that a byte-level text stands for; ok is false where a
// code point is not of its alphabet.
func unbyte(dst []byte, text string) (_ []byte, ok bool) {
	for _, r := range text {
		if int(r) >= len(runeBytes) || runeBytes[r] < 0 {
			return dst, false
		}
		dst = append(dst, byte(runeBytes[r]))
	}
	return dst, true
}

// ByteText returns bytes in byte-level BPE's alphabet, in which each is one
// printable character.
func ByteText(b string) string {
	var s strings.Builder
	s.Grow(len(b) + len(b)/4)
	for i := range len(b) {
		s.WriteRune(byteRunes[b[i]])
	}
	return s.String()
}
