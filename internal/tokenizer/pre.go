package tokenizer

import (
	"slices"
	"strings"
	"unicode"
)

// preTokenizer is what a name in tokenizer.ggml.pre stands for.
type preTokenizer struct {
	names  []string // as llama.cpp spells them
	stages []scanner
	// chars: symbols are characters, not bytes, spaces are U+2581 and bytes
	// without a character are <0xNN>: SentencePiece's vocabulary in byte-level
	// BPE's clothes.
	chars bool
	// newlineTokens: a run of line breaks that is a token is that token.
	newlineTokens bool
	// ignoreMerges: a word that is a token is that token, whatever merges say.
	ignoreMerges bool
	// What holds where the metadata does not say otherwise.
	addBOS, addSEP bool
	// noBOS: there is no BOS where the metadata names none.
	noBOS bool
}

var (
	other = spaced(notIn(space | letter | number)) //  ?[^\s\p{L}\p{N}]+

	// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
	splitGPT2 = anyOf(contraction, spaced(in(letter)), spaced(in(number)), other, whitespace)

	// (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|
	//  ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
	splitLlama3 = anyOf(contractionAnyCase, prefixed(letter|number, letter), upTo(3, number),
		tail(other, "\r\n"), newlines, whitespace)

	// The same with \p{N}.
	splitQwen2 = anyOf(contractionAnyCase, prefixed(letter|number, letter), upTo(1, number),
		tail(other, "\r\n"), newlines, whitespace)

	cased = casedWord(upper, lower)

	splitO200k = anyOf(withContraction(cased), upTo(3, number), tail(other, "\r\n/"), newlines, whitespace)

	// [!-/:-@\[-`{-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|
	//  ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
	splitDeepSeek3 = anyOf(punctuated, prefixed(letter|punct|symb, letter|mark),
		tail(spaced(in(punct|symb)), "\r\n"), newlines, whitespace)

	// [\p{Han}]+, then o200k's words without Han letters in them
	splitKimi = anyOf(in(han), withContraction(casedWord(upperNoHan, lowerNoHan)), upTo(3, number),
		tail(other, "\r\n"), newlines, whitespace)

	digits   = search(in(number))
	digit    = search(upTo(1, number))
	digits13 = search(upTo(3, number))

	// [一-龥\u3040-ゟ゠-ヿ]+
	cjk = search(these(ranged(0x3040, 0x30ff, 0x4e00, 0x9fa5)))
	// [一-龥ࠀ-一가-\ud7ff]+, which DeepSeek's first models have
	cjkWide = search(these(ranged(0x800, 0x9fa5, 0xac00, 0xd7ff)))

	lines = anyOf(these(func(r rune) bool { return r != '\n' }), these(func(r rune) bool { return r == '\n' }))
)

var preTokenizers = []preTokenizer{
	{names: []string{"default"},
		stages: []scanner{search(these(falconPunct("$+<=>^~|"))), splitGPT2, digits, search(threeDigits)}},
	{names: []string{"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"},
		stages: []scanner{splitLlama3}, ignoreMerges: true, addBOS: true},
	{names: []string{"dbrx", "smaug-bpe"}, stages: []scanner{splitLlama3}},
	{names: []string{"glm4", "chatglm-bpe"}, stages: []scanner{splitLlama3}, noBOS: true},
	{names: []string{"jais-2"}, stages: []scanner{splitJais2}},
	{names: []string{"minicpm5"}, ignoreMerges: true,
		stages: []scanner{digits13, anyOf(contractionAnyCase, prefixed(letter|number, letter), in(number),
			tail(other, "\r\n"), newlines, whitespace)}},
	{names: []string{"qwen2", "stablelm2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "hunyuan", "grok-2", "solar-open"},
		stages: []scanner{splitQwen2}},
	{names: []string{"qwen35"},
		stages: []scanner{anyOf(contractionAnyCase, prefixed(letter|number, letter|mark), upTo(1, number),
			tail(spaced(notIn(space|letter|mark|number)), "\r\n"), newlines, whitespace)}},
	{names: []string{"bailingmoe", "bailingmoe2", "llada-moe"}, // \s*[\r\n] matches what \s*[\r\n]+ does
		stages: []scanner{splitQwen2}},
	{names: []string{"seed-coder"},
		stages: []scanner{anyOf(contractionAnyCase, prefixed(letter|number, letter), upTo(1, number), other, newlines, whitespace)}},
	{names: []string{"ufakzeka"},
		stages: []scanner{anyOf(prefixed(letter|number, letter), upTo(1, number), tail(other, "\r\n"), newlines, whitespace)}},
	{names: []string{"laguna"}, stages: []scanner{lines, splitQwen2}},
	{names: []string{"exaone-moe"},
		stages: []scanner{anyOf(contractionAnyCase, letterGroups, upTo(1, number), tailOne(other, "\r\n/"), newlines, whitespace)}},
	{names: []string{"gpt-2", "phi-2", "jina-es", "jina-de", "gigachat", "jina-v2-es", "jina-v2-de", "a.x-4.0", "mellum",
		"modern-bert", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4"},
		stages: []scanner{splitGPT2}},
	{names: []string{"jina-v1-en", "jina-v2-code", "roberta-bpe"}, stages: []scanner{splitGPT2}, addSEP: true},
	{names: []string{"starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"},
		stages: []scanner{digit, splitGPT2}},
	{names: []string{"falcon"},
		stages: []scanner{search(these(falconPunct("$+<=>^~|`"))), splitGPT2, search(threeDigits)}},
	{names: []string{"bloom", "poro-chat", "gpt3-finnish"}, stages: []scanner{splitBloom}},
	{names: []string{"viking"}, stages: []scanner{splitBloom, digit}},
	{names: []string{"gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"}, stages: []scanner{splitO200k}},
	{names: []string{"granite-embed-multi-97m"}, stages: []scanner{splitO200k}, ignoreMerges: true},
	{names: []string{"tekken"}, ignoreMerges: true, addBOS: true,
		stages: []scanner{anyOf(cased, upTo(1, number), tail(other, "\r\n/"), newlines, whitespace)}},
	{names: []string{"tiny_aya", "cohere2moe"}, stages: []scanner{thousands, splitO200k}},
	{names: []string{"youtu"}, ignoreMerges: true,
		stages: []scanner{
			anyOf(these(ranged(0x3131, 0x318e, 0xac00, 0xd7a3)),
				these(ranged('‘', '’', '“', '”', '…', '…', '—', '—', '、', '〿', '︰', '﹏', '！', '！', '，', '，', '：', '；')),
				these(ranged(0x3105, 0x312f)),
				these(ranged(0x3040, 0x30ff, 0x4e00, 0x9fa5))),
			anyOf(withContraction(cased), upTo(1, number), tail(other, "\r\n/"), newlines, whitespace)}},
	{names: []string{"kimi-k2"}, stages: []scanner{splitKimi}},
	{names: []string{"superbpe"}, stages: []scanner{digits, splitThousands}},
	{names: []string{"deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"}, stages: []scanner{digits13, cjk, splitDeepSeek3}},
	{names: []string{"spark2_5"},
		stages: []scanner{digits13, cjk,
			anyOf(punctuated, prefixed(letter|punct|symb, letter|mark), spaced(in(punct|symb)), lineBreak, whitespace),
			digit}},
	{names: []string{"afmoe"},
		stages: []scanner{digitsFromRight,
			search(these(ranged(0xe40, 0xe7f, 0xe80, 0xeff, 0x1000, 0x109f, 0x1100, 0x11ff, 0x1780, 0x17ff, 0x2f00, 0x2fdf,
				0x3040, 0x30ff, 0x3400, 0x4dbf, 0x4e00, 0x9fff, 0xa9e0, 0xa9ff, 0xaa60, 0xaa7f, 0xac00, 0xd7af, 0xf900, 0xfaff,
				0xff65, 0xff9f))),
			splitDeepSeek3}},
	{names: []string{"deepseek-coder"},
		stages: []scanner{search(lineBreak), search(afterSpace(in(letter))), search(afterSpace(in(punct))), cjkWide, digit}},
	{names: []string{"deepseek-llm"},
		stages: []scanner{search(lineBreak), search(afterSpace(these(ranged(casedLetters...)))),
			search(afterSpace(these(ranged('!', '/', ':', '~', '‘', '‟', '\u3000', '。', '！', '／', '：', '～')))),
			search(trailingSpace), cjkWide, digits}},
	{names: []string{"chameleon"}, addBOS: true,
		stages: []scanner{search(sentinel), search(imageToken), search(indent), digit,
			search(one(func(r rune) bool { return classTable[r]&punct != 0 || r < 0x80 && classTable[r]&symb != 0 })), splitGPT2}},
	{names: []string{"gemma4", "granite-embed-multi-311m"}, stages: []scanner{lines}, chars: true, newlineTokens: true},
	{names: []string{"sarvam-moe"}, stages: []scanner{lines}, chars: true},
}

// findPre returns the pre-tokenizer of a name, nil if the name is not known.
func findPre(name string) *preTokenizer {
	for i := range preTokenizers {
		if slices.Contains(preTokenizers[i].names, name) {
			return &preTokenizers[i]
		}
	}
	return nil
}

// Alike returns the names of the pre-tokenizers that split text as the one called
// name does, itself first; nil if the name is not known.
func Alike(name string) []string {
	p := findPre(name)
	if p == nil {
		return nil
	}
	names := []string{name}
	for _, n := range p.names {
		if n != name {
			names = append(names, n)
		}
	}
	return names
}

// IgnoresMerges reports whether the pre-tokenizer called name takes a word that is
// a token for that token, whatever the merges say.
func IgnoresMerges(name string) bool {
	p := findPre(name)
	return p != nil && p.ignoreMerges
}

// falconPunct is [\p{P}...] with the symbols of s.
func falconPunct(s string) func(rune) bool {
	symbols := []rune(s)
	return func(r rune) bool { return classTable[r]&punct != 0 || slices.Contains(symbols, r) }
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// threeDigits is [0-9][0-9][0-9].
func threeDigits(s string, i int) int {
	if i+3 <= len(s) && isDigit(s[i]) && isDigit(s[i+1]) && isDigit(s[i+2]) {
		return i + 3
	}
	return i
}

// splitBloom is  ?[^(\s|.,!?…。，、।۔،)]+
var splitBloom = search(spaced(these(func(r rune) bool {
	return classTable[r]&space == 0 && !slices.Contains([]rune("(|.,!?…。，、।۔،)"), r)
})))

// trailingSpace is \s+$
func trailingSpace(s string, i int) int {
	if end := span(s, i, space); end == len(s) {
		return end
	}
	return i
}

// sentinel is <sentinel:[0-9]+>
func sentinel(s string, i int) int {
	rest, ok := strings.CutPrefix(s[i:], "<sentinel:")
	if !ok {
		return i
	}
	n := 0
	for n < len(rest) && isDigit(rest[n]) {
		n++
	}
	if n == 0 || n == len(rest) || rest[n] != '>' {
		return i
	}
	return len(s) - len(rest) + n + 1
}

// imageToken is IMGIMG[A-I]{1,4}Z
func imageToken(s string, i int) int {
	rest, ok := strings.CutPrefix(s[i:], "IMGIMG")
	if !ok {
		return i
	}
	n := 0
	for n < len(rest) && n < 4 && 'A' <= rest[n] && rest[n] <= 'I' {
		n++
	}
	if n == 0 || n == len(rest) || rest[n] != 'Z' {
		return i
	}
	return len(s) - len(rest) + n + 1
}

// indent is [\t\n]|    |  (a tab, a line break, four spaces or two)
func indent(s string, i int) int {
	switch {
	case s[i] == '\t' || s[i] == '\n':
		return i + 1
	case strings.HasPrefix(s[i:], "    "):
		return i + 4
	case strings.HasPrefix(s[i:], "  "):
		return i + 2
	}
	return i
}

// digitsFromRight is one group of the groups of three that a run of \p{N} consists
// of, counted from its end (Arcee's AFMoE).
func digitsFromRight(s string, from int, memo *int) (int, int) {
	return groupFromRight(s, from, memo, func(r rune) bool { return classTable[r]&number != 0 }, nil)
}

// thousands is \d{1,3}(?=(?:\d{3})*\b): the same, but for runs of \d, and not
// where a letter follows the run.
func thousands(s string, from int, memo *int) (int, int) {
	return groupFromRight(s, from, memo, unicode.IsDigit, func(r rune) bool { // \w
		return classTable[r]&(letter|mark) != 0 || unicode.In(r, unicode.Nd, unicode.Nl, unicode.Pc, unicode.Other_Alphabetic)
	})
}

// groupFromRight finds runs of what isDigit accepts and returns their groups. The
// first group of a run takes what three does not divide; *memo is the end of a
// run whose groups that follow have three.
func groupFromRight(s string, from int, memo *int, isDigit, notBefore func(rune) bool) (int, int) {
	group := func(i, limit int) int {
		for ; limit > 0; limit-- {
			_, n := decode(s, i)
			i += n
		}
		return i
	}
	if from < *memo {
		return from, group(from, 3)
	}
	for i := from; i < len(s); {
		r, n := decode(s, i)
		if !isDigit(r) {
			i += n
			continue
		}
		end, count := i, 0
		for end < len(s) && isDigit(r) {
			end += n
			count++
			if end < len(s) {
				r, n = decode(s, end)
			}
		}
		if end < len(s) && notBefore != nil && notBefore(r) {
			i = end
			continue
		}
		*memo = end
		return i, group(i, (count-1)%3+1)
	}
	return len(s), len(s)
}

// splitThousands cuts where (?=(\d{3})+(?!\d)) matches: runs of ASCII digits into
// groups of three, counted from the end. What it returns reaches to the next cut.
func splitThousands(s string, from int, memo *int) (int, int) {
	i := from
	if i < *memo { // inside a run, at a cut
		if i+3 < *memo {
			return from, i + 3
		}
		i = *memo
	}
	for i < len(s) {
		for i < len(s) && !isDigit(s[i]) {
			i++
		}
		end := i
		for end < len(s) && isDigit(s[end]) {
			end++
		}
		if cut := i + (end-i)%3; end-i >= 3 {
			if cut == from {
				cut += 3
			}
			if cut < end {
				*memo = end
				return from, cut
			}
		}
		i = end
	}
	return from, len(s)
}

// jais2Words are the alternatives of Jais 2 but for whitespace without a line break.
var jais2Words = []matcher{contractionAnyCase, prefixed(letter|number, letter), upTo(3, number),
	tail(other, "\r\n"), newlines}

// splitJais2 is Llama 3's pattern with runs of whitespace in powers of two:
//
//	\s{512}(?!\S)|\s{256}(?!\S)|...|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}
//
// *memo is the end of a run that is known to have no line break.
func splitJais2(s string, from int, memo *int) (int, int) {
	for i := from; i < len(s); {
		run := upTo(2, space)(s, i)
		if _, n := decode(s, i); run <= i+n || run > *memo { // not inside of a known run
			for _, match := range jais2Words {
				if end := match(s, i); end > i {
					return i, end
				}
			}
			if run > i {
				*memo = span(s, i, space)
			}
		}
		for limit := 512; limit > 0; limit /= 2 {
			end := i
			count := 0
			for end < *memo && count < limit {
				_, n := decode(s, end)
				end += n
				count++
			}
			if count == limit && (end < *memo || end == len(s) || limit == 1) {
				return i, end
			}
		}
		_, n := decode(s, i)
		i += n
	}
	return len(s), len(s)
}

// casedLetters are the letters with case of Unicode 11 that DeepSeek LLM's pattern lists.
var casedLetters = []rune{
	0x41, 0x5a, 0x61, 0x7a, 0xb5, 0xb5, 0xc0, 0xd6, 0xd8, 0xf6, 0xf8, 0x1ba,
	0x1bc, 0x1bf, 0x1c4, 0x293, 0x295, 0x2af, 0x370, 0x373, 0x376, 0x376, 0x377, 0x377,
	0x37b, 0x37d, 0x37f, 0x37f, 0x386, 0x386, 0x388, 0x38a, 0x38c, 0x38c, 0x38e, 0x3a1,
	0x3a3, 0x3f5, 0x3f7, 0x481, 0x48a, 0x52f, 0x531, 0x556, 0x10a0, 0x10c5, 0x13a0, 0x13f5,
	0x13f8, 0x13fd, 0x1c90, 0x1cba, 0x1cbd, 0x1cbf, 0x1d00, 0x1d2b, 0x1d6b, 0x1d77, 0x1d79, 0x1d9a,
	0x1e00, 0x1f15, 0x1f18, 0x1f1d, 0x1f20, 0x1f45, 0x1f48, 0x1f4d, 0x1f50, 0x1f57, 0x1f59, 0x1f59,
	0x1f5b, 0x1f5b, 0x1f5d, 0x1f5d, 0x1f5f, 0x1f7d, 0x1f80, 0x1fb4, 0x1fb6, 0x1fbc, 0x1fbe, 0x1fbe,
	0x1fc2, 0x1fc4, 0x1fc6, 0x1fcc, 0x1fd0, 0x1fd3, 0x1fd6, 0x1fdb, 0x1fe0, 0x1fec, 0x1ff2, 0x1ff4,
	0x1ff6, 0x1ffc, 0x2102, 0x2102, 0x2107, 0x2107, 0x210a, 0x2113, 0x2115, 0x2115, 0x2119, 0x211d,
	0x2124, 0x2124, 0x2126, 0x2126, 0x2128, 0x2128, 0x212a, 0x212d, 0x212f, 0x2134, 0x2139, 0x2139,
	0x213c, 0x213f, 0x2145, 0x2149, 0x214e, 0x214e, 0x2183, 0x2183, 0x2184, 0x2184, 0x2c00, 0x2c7b,
	0x2c7e, 0x2ce4, 0x2ceb, 0x2cee, 0x2cf2, 0x2cf2, 0x2cf3, 0x2cf3, 0xa640, 0xa66d, 0xa680, 0xa69b,
	0xa722, 0xa76f, 0xa771, 0xa787, 0xa78b, 0xa78e, 0xab70, 0xabbf, 0xfb00, 0xfb06, 0xfb13, 0xfb17,
	0xff21, 0xff3a, 0xff41, 0xff5a, 0x10400, 0x1044f, 0x104b0, 0x104d3, 0x104d8, 0x104fb, 0x10c80, 0x10cb2,
	0x10cc0, 0x10cf2, 0x118a0, 0x118df, 0x1e900, 0x1e943,
}
