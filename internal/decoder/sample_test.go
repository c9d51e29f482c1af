package decoder

import (
	"math"
	"testing"
)

func TestGreedy(t *testing.T) {
	s := NewSampler(1)
	if got := s.Next([]float32{0, 3, 1, 3}); got != 1 {
		t.Errorf("token %d, want 1", got)
	}
}

// TestSampling compares how often each token is drawn with its probability.
func TestSampling(t *testing.T) {
	logits := []float32{float32(math.Log(4)), 0, float32(math.Log(3)), float32(math.Log(2))}
	for _, tt := range []struct {
		name string
		topP float64
		topK int
		temp float64
		want []float64
	}{
		{"all", 0, 0, 1, []float64{0.4, 0.1, 0.3, 0.2}},
		{"top-p", 0.7, 0, 1, []float64{4. / 7, 0, 3. / 7, 0}},
		{"top-k", 0, 3, 1, []float64{4. / 9, 0, 3. / 9, 2. / 9}},
		{"temperature", 0, 0, 0.5, []float64{16. / 30, 1. / 30, 9. / 30, 4. / 30}},
	} {
		s := NewSampler(42)
		s.TopP, s.TopK, s.Temperature = tt.topP, tt.topK, tt.temp
		const n = 20000
		count := make([]float64, len(logits))
		for range n {
			count[s.Next(logits)]++
		}
		for i := range count {
			if got := count[i] / n; math.Abs(got-tt.want[i]) > 0.015 || (tt.want[i] == 0 && got != 0) {
				t.Errorf("%s: token %d drawn with %.3f, want %.3f", tt.name, i, got, tt.want[i])
			}
		}
	}
}

func TestSeed(t *testing.T) {
	draw := func(seed uint64) (ids []int32) {
		s := NewSampler(seed)
		s.Temperature = 1
		for range 32 {
			ids = append(ids, s.Next(make([]float32, 100)))
		}
		return ids
	}
	a, b, c := draw(1), draw(1), draw(2)
	same, differ := true, false
	for i := range a {
		same = same && a[i] == b[i]
		differ = differ || a[i] != c[i]
	}
	if !same || !differ {
		t.Errorf("equal seeds agree: %v; different seeds differ: %v", same, differ)
	}
}
