package tokenizer

import "strings"

// Byte-level BPE first splits text into words; merges never cross a word's end.
// Models describe the split by regular expressions, one after the other: each
// splits the pieces that the one before left into its matches and what lies
// between them. Here every expression in use is a scanner written out by hand:
// linear in the text, with Unicode's properties, and nothing that can backtrack
// for minutes.

// A scanner finds the first match of an expression in s at or after from:
// s[start:end]. start is len(s) if there is none. What a look-ahead may see ends
// with s. memo carries what a scanner wants to know at its next call on the same
// s; it is 0 at first.
type scanner func(s string, from int, memo *int) (start, end int)

// split calls word for all pieces of s, in order.
func split(s string, stages []scanner, word func(string)) {
	if len(stages) == 0 {
		word(s)
		return
	}
	memo := 0
	for pos := 0; pos < len(s); {
		start, end := stages[0](s, pos, &memo)
		if start > pos {
			split(s[pos:start], stages[1:], word)
		}
		if end > start {
			split(s[start:end], stages[1:], word)
		}
		if end <= pos { // a match of nothing
			_, n := decode(s, pos)
			split(s[pos:pos+n], stages[1:], word)
			end = pos + n
		}
		pos = end
	}
}

// A matcher returns the end of a match of an expression at s[i:], i if there is
// none; i is less than len(s).
type matcher func(s string, i int) int

// search makes a scanner of a matcher.
func search(match matcher) scanner {
	return func(s string, from int, _ *int) (int, int) {
		for i := from; i < len(s); {
			if end := match(s, i); end > i {
				return i, end
			}
			_, n := decode(s, i)
			i += n
		}
		return len(s), len(s)
	}
}

// anyOf is the alternation of expressions: the first that matches counts.
func anyOf(alternatives ...matcher) scanner {
	return search(func(s string, i int) int {
		for _, match := range alternatives {
			if end := match(s, i); end > i {
				return end
			}
		}
		return i
	})
}

// in matches one or more code points that have a property of set.
func in(set class) matcher {
	return func(s string, i int) int { return span(s, i, set) }
}

// notIn matches one or more code points that have no property of set.
func notIn(set class) matcher {
	return func(s string, i int) int { return spanNot(s, i, set) }
}

// upTo matches one to limit code points that have a property of set.
func upTo(limit int, set class) matcher {
	return func(s string, i int) int {
		for range limit {
			c, n := classAt(s, i)
			if c&set == 0 {
				break
			}
			i += n
		}
		return i
	}
}

// these matches one or more code points that accept accepts.
func these(accept func(r rune) bool) matcher {
	return func(s string, i int) int {
		for i < len(s) {
			r, n := decode(s, i)
			if !accept(r) {
				break
			}
			i += n
		}
		return i
	}
}

// one matches a single code point that accept accepts.
func one(accept func(r rune) bool) matcher {
	return func(s string, i int) int {
		if r, n := decode(s, i); accept(r) {
			return i + n
		}
		return i
	}
}

// spaced allows a space before what match matches: " ?..."
func spaced(match matcher) matcher {
	return func(s string, i int) int {
		if s[i] != ' ' {
			return match(s, i)
		}
		if i+1 < len(s) {
			if end := match(s, i+1); end > i+1 {
				return end
			}
		}
		return match(s, i)
	}
}

// afterSpace allows a whitespace character before what match matches: "\s?..."
func afterSpace(match matcher) matcher {
	return func(s string, i int) int {
		if c, n := classAt(s, i); c&space != 0 && i+n < len(s) {
			if end := match(s, i+n); end > i+n {
				return end
			}
		}
		return match(s, i)
	}
}

// tail lets characters of set follow what match matches.
func tail(match matcher, set string) matcher {
	return func(s string, i int) int {
		end := match(s, i)
		if end > i {
			for end < len(s) && strings.IndexByte(set, s[end]) >= 0 {
				end++
			}
		}
		return end
	}
}

// tailOne lets one character of set follow what match matches.
func tailOne(match matcher, set string) matcher {
	return func(s string, i int) int {
		end := match(s, i)
		if end > i && end < len(s) && strings.IndexByte(set, s[end]) >= 0 {
			end++
		}
		return end
	}
}

// newlines is \s*[\r\n]+: whitespace up to the last line break in it.
func newlines(s string, i int) int {
	end := i
	for {
		c, n := classAt(s, i)
		if c&space == 0 {
			return end
		}
		if s[i] == '\r' || s[i] == '\n' {
			end = i + 1
		}
		i += n
	}
}

// whitespace is \s+(?!\S)|\s+: a run of whitespace, but for its last character
// where a word follows and there are more than one.
func whitespace(s string, i int) int {
	end, last := i, i
	for {
		c, n := classAt(s, end)
		if c&space == 0 {
			break
		}
		last = end
		end += n
	}
	if end == len(s) || last == i {
		return end
	}
	return last
}

// lineBreak is [\r\n].
func lineBreak(s string, i int) int {
	if s[i] == '\r' || s[i] == '\n' {
		return i + 1
	}
	return i
}

// contraction is 's|'t|'re|'ve|'m|'ll|'d.
func contraction(s string, i int) int { return contracted(s, i, 0) }

// contractionAnyCase is (?i:'s|'t|'re|'ve|'m|'ll|'d).
func contractionAnyCase(s string, i int) int { return contracted(s, i, 0x20) }

// contracted compares letters after setting the bits of fold in them.
func contracted(s string, i int, fold byte) int {
	if s[i] != '\'' || i+1 == len(s) {
		return i
	}
	first, second := s[i+1]|fold, byte(0)
	if i+2 < len(s) {
		second = s[i+2] | fold
	}
	switch first {
	case 's', 't', 'm', 'd':
		return i + 2
	case 'r', 'v':
		if second == 'e' {
			return i + 3
		}
	case 'l':
		if second == 'l' {
			return i + 3
		}
	}
	return i
}

// prefixed is [^\r\n...]?[...]+: not are the properties that the character before
// the word must not have, set those that the word consists of.
func prefixed(not, set class) matcher {
	return func(s string, i int) int {
		c, n := classAt(s, i)
		if c&not == 0 && s[i] != '\r' && s[i] != '\n' {
			if end := span(s, i+n, set); end > i+n {
				return end
			}
		}
		return span(s, i, set)
	}
}

// punctuated is [!-/:-@\[-`{-~][A-Za-z]+: a punctuation mark and the word after it.
func punctuated(s string, i int) int {
	c := s[i]
	if c <= ' ' || c > '~' || isLetterASCII(c) || '0' <= c && c <= '9' {
		return i
	}
	end := i + 1
	for end < len(s) && isLetterASCII(s[end]) {
		end++
	}
	if end == i+1 {
		return i
	}
	return end
}

func isLetterASCII(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

// casedWord is the word of o200k (GPT-4o), which ends where an upper-case letter
// follows a lower-case one. With U = [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}] and
// L = [\p{Ll}\p{Lm}\p{Lo}\p{M}]:
//
//	[^\r\n\p{L}\p{N}]?U*L+|[^\r\n\p{L}\p{N}]?U+L*
//
// Where U+ matches and U*L+ does not, no L follows.
func casedWord(upper, lower class) matcher {
	// upperLower is U*L+.
	upperLower := func(s string, i int) int {
		end := i
		back := i // end of the last code point of U* that is in L too
		for {
			c, n := classAt(s, end)
			if c&upper == 0 {
				break
			}
			end += n
			if c&lower != 0 {
				back = end
			}
		}
		if low := span(s, end, lower); low > end {
			return low
		}
		return back
	}
	return func(s string, i int) int {
		c, n := classAt(s, i)
		prefix := c&(letter|number) == 0 && s[i] != '\r' && s[i] != '\n'
		if prefix {
			if end := upperLower(s, i+n); end > i+n {
				return end
			}
		}
		if end := upperLower(s, i); end > i {
			return end
		}
		if prefix {
			if end := span(s, i+n, upper); end > i+n {
				return end
			}
		}
		return span(s, i, upper)
	}
}

// withContraction lets a contraction follow what match matches.
func withContraction(match matcher) matcher {
	return func(s string, i int) int {
		end := match(s, i)
		if end > i && end < len(s) {
			return contractionAnyCase(s, end)
		}
		return end
	}
}

// letterGroups is EXAONE's word: letters and their marks, single spaces between.
//
//	[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+
func letterGroups(s string, i int) int {
	from := i
	if c, n := classAt(s, i); c&(letter|number) == 0 && s[i] != '\r' && s[i] != '\n' {
		from = i + n
	}
	end := from
	for {
		j := end
		if j > from && j < len(s) && s[j] == ' ' {
			j++
		}
		c, n := classAt(s, j)
		if c&letter == 0 {
			break
		}
		end = span(s, j+n, mark)
	}
	if end == from {
		return i
	}
	return end
}

// inRanges tells whether r lies in one of the ranges lo, hi, lo, hi, ... of a
// sorted list.
func inRanges(ranges []rune, r rune) bool {
	lo, hi := 0, len(ranges)/2
	for lo < hi {
		mid := (lo + hi) / 2
		switch {
		case r < ranges[2*mid]:
			hi = mid
		case r > ranges[2*mid+1]:
			lo = mid + 1
		default:
			return true
		}
	}
	return false
}

func ranged(ranges ...rune) func(rune) bool {
	return func(r rune) bool { return inRanges(ranges, r) }
}
