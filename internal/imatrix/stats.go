package imatrix

import "math"

// Stats sums up one entry; values are mean squared activations per channel.
type Stats struct {
	Tensor   string  `json:"tensor"`
	Channels int     `json:"channels"` // of all experts together
	Unseen   int     `json:"unseen_experts"`
	Count    float64 `json:"count"` // activations, of all experts together
	Sum      float64 `json:"sum"`
	Min      float64 `json:"min"`
	Max      float64 `json:"max"`
	Mean     float64 `json:"mean"`
	Std      float64 `json:"std"`
	Active   float64 `json:"active"`  // share of channels above 1e-5
	Entropy  float64 `json:"entropy"` // bits; of the channels' shares of the sum
	// Evenness is the entropy in units of its maximum, log2(channels): 1 where
	// all channels weigh the same.
	Evenness float64 `json:"evenness"`
}

// Stats returns the statistics of every entry, in order of the names.
func (m *Matrix) Stats() []Stats {
	var all []Stats
	for _, name := range m.Names() {
		all = append(all, stats(name, m.entries[name]))
	}
	return all
}

func stats(name string, e *Entry) Stats {
	values := e.Values()
	s := Stats{Tensor: name, Channels: len(values), Unseen: e.Unseen(), Min: math.Inf(1)}
	for _, c := range e.Counts {
		s.Count += float64(c)
	}
	var squares float64
	for _, f := range values {
		v := float64(f)
		s.Sum += v
		squares += v * v
		s.Min, s.Max = min(s.Min, v), max(s.Max, v)
		if v > 1e-5 {
			s.Active++
		}
	}
	n := float64(len(values))
	s.Mean = s.Sum / n
	s.Std = math.Sqrt(max(0, squares/n-s.Mean*s.Mean))
	s.Active /= n
	for _, f := range values {
		if p := float64(f) / s.Sum; p > 0 {
			s.Entropy -= p * math.Log2(p)
		}
	}
	if n > 1 {
		s.Evenness = s.Entropy / math.Log2(n)
	}
	return s
}
