package tokenizer

import (
	"cmp"
	"container/heap"
	"iter"
	"slices"
	"unicode"
	"unicode/utf8"
)

// Special tokens are found in text before anything else is done with it. The
// longest special token of a vocabulary is looked for first, from left to right,
// then the next in what lies between, and so on. Going through the text once per
// token would take vocabularies with thousands of them minutes, so the
// occurrences are found in one pass and taken from a heap in that order.

// A fragment is a special token, or, where id is None, text[start:end].
type fragment struct {
	id         int32
	start, end int
}

type specials struct {
	first [256]bool // bytes that special tokens begin with
	dict  *dict
	// Tokens that take the whitespace before and after them.
	before, after map[int32]bool
	words         map[int32]bool // tokens that must be words of their own
}

// newSpecials collects the tokens that have an attribute of with and none of
// without.
func newSpecials(t *Tokenizer, with, without attr) *specials {
	s := &specials{}
	var ids []int32
	for id, a := range t.attrs {
		if a&with != 0 && a&without == 0 {
			ids = append(ids, int32(id))
			s.first[t.v.Tokens[id][0]] = true
		}
	}
	s.dict = newDict(ids, t.v.Tokens)
	s.before, s.after = make(map[int32]bool), make(map[int32]bool)
	for _, id := range t.v.LStrip {
		s.before[id] = true
	}
	for _, id := range t.v.RStrip {
		s.after[id] = true
	}
	s.words = make(map[int32]bool)
	for _, id := range t.v.SingleWord {
		s.words[id] = true
	}
	if t.v.StripAfterSpecial {
		for _, id := range ids {
			s.after[id] = true
		}
		for _, text := range []string{"<unk>", "<s>", "<|endoftext|>"} {
			if id, ok := t.ids[text]; ok {
				s.after[id] = false
			}
		}
	}
	return s
}

// longest returns the longest special token that text begins with, of at most
// limit bytes.
func (s *specials) longest(text string, limit int) (id int32, n int) {
	id = None
	w := s.dict.walk()
	for i := 0; i < min(limit, len(text)) && w.step(text[i]); i++ {
		if at := w.token(); at != None {
			id, n = at, i+1
		}
	}
	return id, n
}

// fragments yields the fragments of text in order; fragments of text are not
// empty.
func (s *specials) fragments(text string) iter.Seq[fragment] {
	return func(yield func(fragment) bool) {
		found := s.find(text)
		pos := 0
		for _, f := range found {
			start := f.start
			for s.before[f.id] && start > pos && isSpaceASCII(text[start-1]) {
				start--
			}
			if start > pos && !yield(fragment{None, pos, start}) {
				return
			}
			if !yield(f) {
				return
			}
			pos = f.end
			for s.after[f.id] && pos < len(text) && isSpaceASCII(text[pos]) {
				pos++
			}
		}
		if pos < len(text) {
			yield(fragment{None, pos, len(text)})
		}
	}
}

func isSpaceASCII(c byte) bool { return c == ' ' || '\t' <= c && c <= '\r' }

// fits reports whether the token may stand at text[start:end]: one that must be a
// word of its own does not continue another, nor is it continued.
func (s *specials) fits(id int32, text string, start, end int) bool {
	if !s.words[id] {
		return true
	}
	before, _ := utf8.DecodeLastRuneInString(text[:start])
	after, _ := utf8.DecodeRuneInString(text[end:])
	return !isWord(before) && !isWord(after)
}

// isWord is \w of Unicode's technical standard 18, annex C.
func isWord(r rune) bool {
	return unicode.In(r, unicode.L, unicode.M, unicode.Nd, unicode.Nl, unicode.Pc, unicode.Other_Alphabetic, unicode.Join_Control)
}

// find returns the special tokens of text in order.
func (s *specials) find(text string) []fragment {
	var queue fragmentHeap
	for i := range len(text) {
		if s.first[text[i]] {
			if id, n := s.longest(text[i:], len(text)); id != None && s.fits(id, text, i, i+n) {
				queue = append(queue, fragment{id, i, i + n})
			}
		}
	}
	if len(queue) == 0 {
		return nil
	}
	if len(queue) == 1 {
		return queue
	}
	heap.Init(&queue)
	taken := make([]bool, len(text))
	var found []fragment
	for len(queue) > 0 {
		f := queue[0]
		free := f.start
		for free < f.end && !taken[free] {
			free++
		}
		if free == f.end {
			heap.Pop(&queue)
			found = append(found, f)
			start, end := f.start, f.end
			for s.before[f.id] && start > 0 && !taken[start-1] && isSpaceASCII(text[start-1]) {
				start--
			}
			for s.after[f.id] && end < len(text) && !taken[end] && isSpaceASCII(text[end]) {
				end++
			}
			for i := start; i < end; i++ {
				taken[i] = true
			}
			continue
		}
		// Something better has part of it; a shorter token may still fit.
		id, n := s.longest(text[f.start:], free-f.start)
		if id == None || !s.fits(id, text, f.start, f.start+n) {
			heap.Pop(&queue)
			continue
		}
		queue[0] = fragment{id, f.start, f.start + n}
		heap.Fix(&queue, 0)
	}
	slices.SortFunc(found, func(a, b fragment) int { return cmp.Compare(a.start, b.start) })
	return found
}

// A fragmentHeap has the longest fragment first; of equal lengths the one of the
// smaller id, then the leftmost.
type fragmentHeap []fragment

func (h fragmentHeap) Len() int { return len(h) }
func (h fragmentHeap) Less(i, j int) bool {
	a, b := h[i], h[j]
	return cmp.Or(cmp.Compare(b.end-b.start, a.end-a.start), cmp.Compare(a.id, b.id), cmp.Compare(a.start, b.start)) < 0
}
func (h fragmentHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *fragmentHeap) Push(x any)   { *h = append(*h, x.(fragment)) }
func (h *fragmentHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

// A dict finds the tokens that a text begins with: a sorted list, in which the
// tokens with a common prefix are neighbours.
type dict struct {
	ids   []int32 // sorted by text
	texts []string
	start [257]int32 // start[c] is the first token that begins with byte c or a larger one
}

func newDict(ids []int32, texts []string) *dict {
	d := &dict{ids: ids, texts: make([]string, len(ids))}
	slices.SortFunc(d.ids, func(a, b int32) int { return cmp.Compare(texts[a], texts[b]) })
	for i, id := range d.ids {
		d.texts[i] = texts[id]
	}
	i := 0
	for c := range d.start {
		for i < len(d.texts) && int(d.texts[i][0]) < c {
			i++
		}
		d.start[c] = int32(i)
	}
	return d
}

// A walker stands at a prefix: texts[lo:hi] are the tokens that begin with it.
type walker struct {
	d      *dict
	lo, hi int32
	depth  int
}

func (d *dict) walk() walker { return walker{d: d, hi: int32(len(d.ids))} }

// step makes the prefix longer by a byte; it reports whether a token begins so.
func (w *walker) step(c byte) bool {
	if w.depth == 0 {
		w.lo, w.hi = w.d.start[c], w.d.start[int(c)+1]
		w.depth = 1
		return w.lo < w.hi
	}
	texts := w.d.texts
	if w.lo < w.hi && len(texts[w.lo]) == w.depth {
		w.lo++ // the prefix itself
	}
	// Both ends by binary search, narrow ranges being the rule.
	lo, hi := w.lo, w.hi
	for lo < hi {
		mid := (lo + hi) / 2
		if texts[mid][w.depth] < c {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	w.lo = lo
	hi = w.hi
	for lo < hi {
		mid := (lo + hi) / 2
		if texts[mid][w.depth] <= c {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	w.hi = lo
	w.depth++
	return w.lo < w.hi
}

// token returns the token that is the prefix, None if there is none.
func (w *walker) token() int32 {
	if w.lo < w.hi && len(w.d.texts[w.lo]) == w.depth {
		return w.d.ids[w.lo]
	}
	return None
}
