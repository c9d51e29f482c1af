package decoder

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
)

// Sampler picks the next token from logits.
type Sampler struct {
	// Temperature divides the logits; 0 takes the most probable token.
	Temperature float64
	// TopP keeps the most probable tokens whose probabilities sum to at least
	// this much (nucleus sampling, Holtzman et al. 2019); 0 or 1 keeps all.
	TopP float64
	// TopK keeps that many most probable tokens; 0 keeps all.
	TopK int

	rng *rand.Rand
	ids []int32
	p   []float64
}

// NewSampler returns a greedy sampler whose random numbers, once a temperature
// is set, follow from seed.
func NewSampler(seed uint64) *Sampler {
	return &Sampler{rng: rand.New(rand.NewPCG(seed, 0))}
}

// Next returns the token chosen; among equal logits the lower id comes first.
func (s *Sampler) Next(logits []float32) int32 {
	best := 0
	for i, v := range logits {
		if v > logits[best] {
			best = i
		}
	}
	if s.Temperature <= 0 {
		return int32(best)
	}
	s.ids, s.p = s.ids[:0], s.p[:0]
	for i := range logits {
		s.ids = append(s.ids, int32(i))
	}
	slices.SortStableFunc(s.ids, func(a, b int32) int { return cmp.Compare(logits[b], logits[a]) })
	if s.TopK > 0 && s.TopK < len(s.ids) {
		s.ids = s.ids[:s.TopK]
	}
	var sum float64
	for _, id := range s.ids {
		p := math.Exp(float64(logits[id]-logits[best]) / s.Temperature)
		s.p = append(s.p, p)
		sum += p
	}
	if s.TopP > 0 && s.TopP < 1 {
		var kept float64
		for i, p := range s.p {
			if kept += p; kept >= s.TopP*sum {
				s.p, sum = s.p[:i+1], kept
				break
			}
		}
	}
	r := s.rng.Float64() * sum
	for i, p := range s.p {
		if r -= p; r < 0 {
			return s.ids[i]
		}
	}
	return s.ids[len(s.p)-1]
}
