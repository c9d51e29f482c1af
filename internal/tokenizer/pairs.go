package tokenizer

import "math/bits"

// Both kinds of BPE build tokens in the same way: of all neighbouring symbols
// that can be merged, the pair of the lowest rank is merged, the leftmost where
// ranks are equal, until no pair is left. They differ in where ranks come from:
// byte-level BPE has a list of merges, SentencePiece-BPE ranks the merged token
// by its score.
//
// A symbol is an id: of a token, or, from the vocabulary's size on, of a text
// that is no token but part of a merge. Negative ids are symbols that nothing
// merges with.

// A pairTable maps a pair of symbols to what they merge into: an open-addressed
// hash table, because this lookup is most of the work of encoding.
type pairTable struct {
	slots []pairSlot // a power of two
	shift uint8
}

type pairSlot struct {
	key  uint64 // left<<32 | right, plus 1; 0 is an empty slot
	rank int32
	id   int32
}

func newPairTable(n int) *pairTable {
	size := uint8(bits.Len(uint(n + n/2 + 8)))
	return &pairTable{slots: make([]pairSlot, 1<<size), shift: 64 - size}
}

func pairKey(left, right int32) uint64 { return uint64(left)<<32 + uint64(right) + 1 }

// add enters a merge; the first one of a pair counts.
func (t *pairTable) add(left, right, rank, id int32) {
	key := pairKey(left, right)
	for i := (key * hashFactor) >> t.shift; ; i = (i + 1) & uint64(len(t.slots)-1) {
		switch t.slots[i].key {
		case key:
			return
		case 0:
			t.slots[i] = pairSlot{key, rank, id}
			return
		}
	}
}

const hashFactor = 0x9E3779B97F4A7C15 // 2^64 / golden ratio

// noRank is the rank of a pair that does not merge.
const noRank = 1<<31 - 1

// find returns rank and id of the merge of two symbols, noRank if there is none.
func (t *pairTable) find(left, right int32) (rank, id int32) {
	if left|right < 0 {
		return noRank, 0
	}
	key := pairKey(left, right)
	for i := (key * hashFactor) >> t.shift; ; i = (i + 1) & uint64(len(t.slots)-1) {
		s := &t.slots[i]
		if s.key == key {
			return s.rank, s.id
		}
		if s.key == 0 {
			return noRank, 0
		}
	}
}

// A pairScratch is the working memory of merge.
type pairScratch struct {
	pairs []pair
	syms  []symbol
	heap  []candidate
}

type pair struct{ rank, id int32 }

type symbol struct {
	id         int32
	prev, next int32 // -1 at the ends
}

// A candidate is a possible merge; it is outdated once one of its symbols is
// another than it was.
type candidate struct {
	rank   int32
	left   int32 // index of the left symbol
	leftID int32
	right  int32 // id of the right symbol
}

func (c candidate) before(d candidate) bool {
	return c.rank < d.rank || c.rank == d.rank && c.left < d.left
}

// scanLimit is the number of symbols up to which looking for the best pair in an
// array is faster than a heap.
const scanLimit = 32

// merge merges symbols as long as a pair merges; it works in place and returns
// the front of syms.
func (t *pairTable) merge(ids []int32, s *pairScratch) []int32 {
	switch {
	case len(ids) < 2:
		return ids
	case len(ids) <= scanLimit:
		return t.mergeShort(ids, s)
	}
	return t.mergeLong(ids, s)
}

func (t *pairTable) mergeShort(ids []int32, s *pairScratch) []int32 {
	if cap(s.pairs) < scanLimit {
		s.pairs = make([]pair, scanLimit)
	}
	pairs := s.pairs[:len(ids)-1] // pairs[i] is the merge of ids[i] and ids[i+1]
	for i := range pairs {
		pairs[i].rank, pairs[i].id = t.find(ids[i], ids[i+1])
	}
	for {
		best, at := int32(noRank), 0
		for i := range pairs {
			if pairs[i].rank < best {
				best, at = pairs[i].rank, i
			}
		}
		if best == noRank {
			return ids
		}
		ids[at] = pairs[at].id
		ids = append(ids[:at+1], ids[at+2:]...)
		pairs = append(pairs[:at], pairs[at+1:]...)
		if at > 0 {
			pairs[at-1].rank, pairs[at-1].id = t.find(ids[at-1], ids[at])
		}
		if at < len(pairs) {
			pairs[at].rank, pairs[at].id = t.find(ids[at], ids[at+1])
		}
	}
}

func (t *pairTable) mergeLong(ids []int32, s *pairScratch) []int32 {
	const dead = -1 << 31
	syms, heap := s.syms[:0], s.heap[:0]
	for i, id := range ids {
		syms = append(syms, symbol{id, int32(i - 1), int32(i + 1)})
		if i > 0 {
			if rank, _ := t.find(ids[i-1], id); rank != noRank {
				heap = append(heap, candidate{rank, int32(i - 1), ids[i-1], id})
			}
		}
	}
	syms[len(syms)-1].next = -1
	for i := len(heap)/2 - 1; i >= 0; i-- {
		siftDown(heap, i)
	}
	push := func(left, right int32) {
		if left < 0 || right < 0 {
			return
		}
		if rank, _ := t.find(syms[left].id, syms[right].id); rank != noRank {
			heap = append(heap, candidate{rank, left, syms[left].id, syms[right].id})
			siftUp(heap)
		}
	}
	for len(heap) > 0 {
		c := heap[0]
		last := len(heap) - 1
		heap[0] = heap[last]
		heap = heap[:last]
		siftDown(heap, 0)

		left := &syms[c.left]
		if left.id != c.leftID || left.next < 0 || syms[left.next].id != c.right {
			continue
		}
		_, left.id = t.find(c.leftID, c.right)
		right := &syms[left.next]
		right.id = dead
		left.next = right.next
		if right.next >= 0 {
			syms[right.next].prev = c.left
		}
		push(left.prev, c.left)
		push(c.left, left.next)
	}
	n := 0
	for i := int32(0); i >= 0; i = syms[i].next {
		ids[n] = syms[i].id
		n++
	}
	s.syms, s.heap = syms[:0], heap[:0]
	return ids[:n]
}

func siftUp(h []candidate) {
	i := len(h) - 1
	for i > 0 {
		parent := (i - 1) / 2
		if !h[i].before(h[parent]) {
			return
		}
		h[i], h[parent] = h[parent], h[i]
		i = parent
	}
}

func siftDown(h []candidate, i int) {
	for {
		child := 2*i + 1
		if child >= len(h) {
			return
		}
		if child+1 < len(h) && h[child+1].before(h[child]) {
			child++
		}
		if !h[child].before(h[i]) {
			return
		}
		h[i], h[child] = h[child], h[i]
		i = child
	}
}
