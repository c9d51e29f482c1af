package eval

import (
	"math"
	"sort"
)

// maxSegments bounds how many stretches of the text have a perplexity of
// their own.
const maxSegments = 64

// segments keeps the perplexity over the position in the text: neighbouring
// chunks are put together once there are too many.
type segments struct {
	chunks int // that a full segment has
	list   []segment
}

type segment struct {
	start  int // position of its first token
	chunks int
	nll    []mean // per model
}

// add takes the next chunk, which begins at position start.
func (s *segments) add(start int, nll []mean) {
	if s.chunks == 0 {
		s.chunks = 1
	}
	if n := len(s.list); n > 0 && s.list[n-1].chunks < s.chunks {
		s.list[n-1].join(segment{start, 1, nll})
		return
	}
	if len(s.list) == maxSegments {
		for i := range maxSegments / 2 {
			s.list[i] = s.list[2*i]
			s.list[i].join(s.list[2*i+1])
		}
		s.list = s.list[:maxSegments/2]
		s.chunks *= 2
	}
	s.list = append(s.list, segment{start, 1, nll})
}

func (s *segment) join(next segment) {
	s.chunks += next.chunks
	for i := range s.nll {
		s.nll[i].join(&next.nll[i])
	}
}

func (s *segments) starts() []int {
	var starts []int
	for _, seg := range s.list {
		starts = append(starts, seg.start)
	}
	return starts
}

// ppl returns each segment's perplexity of a model.
func (s *segments) ppl(model int) []float64 {
	var ppl []float64
	for _, seg := range s.list {
		ppl = append(ppl, math.Exp(seg.nll[model].value()))
	}
	return ppl
}

// kldEdges returns the bounds between the bins of a histogram of KL
// divergences: five per decade from 1e-7 to 10 nats.
func kldEdges() []float64 {
	const perDecade, first, last = 5, -7, 1
	edges := make([]float64, (last-first)*perDecade+1)
	for i := range edges {
		edges[i] = math.Pow(10, first+float64(i)/perDecade)
	}
	return edges
}

// histogram counts sorted values between edges: counts[0] those below
// edges[0], counts[len(edges)] those from the last edge on.
func histogram(sorted, edges []float64) []int {
	counts := make([]int, len(edges)+1)
	below := 0
	for i, e := range edges {
		n := sort.SearchFloat64s(sorted, e)
		counts[i] = n - below
		below = n
	}
	counts[len(edges)] = len(sorted) - below
	return counts
}
