package eval

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestSegments puts numbers of chunks around the bound into segments and
// expects the perplexity of each to be that of its chunks.
func TestSegments(t *testing.T) {
	for _, n := range []int{1, 2, maxSegments - 1, maxSegments, maxSegments + 1, 3 * maxSegments, 4*maxSegments + 7} {
		rng := rand.New(rand.NewPCG(uint64(n), 1))
		var s segments
		var nll []float64
		for i := range n {
			v := 3 + rng.Float64()
			nll = append(nll, v)
			s.add(100*i, []mean{meanOf(0), meanOf(v, v+1)})
		}
		starts, ppl := s.starts(), s.ppl(1)
		if len(starts) > maxSegments || len(starts) != len(ppl) || starts[0] != 0 {
			t.Fatalf("%d chunks: %d segments from %d on, %d perplexities", n, len(starts), starts[0], len(ppl))
		}
		for i, start := range starts {
			end := n
			if i+1 < len(starts) {
				end = starts[i+1] / 100
			}
			sum := 0.0
			for _, v := range nll[start/100 : end] {
				sum += v + 0.5
			}
			if want := math.Exp(sum / float64(end-start/100)); math.Abs(ppl[i]-want) > 1e-12*want {
				t.Errorf("%d chunks: segment %d from %d: perplexity %v, want %v", n, i, start, ppl[i], want)
			}
		}
	}
}

func meanOf(values ...float64) mean {
	var m mean
	for _, v := range values {
		m.add(v)
	}
	return m
}

func TestMeanJoin(t *testing.T) {
	a, b := meanOf(1, 2, 7), meanOf(5, 1e3)
	a.join(&b)
	all := meanOf(1, 2, 7, 5, 1e3)
	if a.n != all.n || math.Abs(a.value()-all.value()) > 1e-12 || math.Abs(a.se()-all.se()) > 1e-9 {
		t.Errorf("joined: %d values, %v +- %v; want %d, %v +- %v", a.n, a.value(), a.se(), all.n, all.value(), all.se())
	}
	var empty mean
	empty.join(&b)
	if empty != b {
		t.Errorf("nothing joined with %+v is %+v", b, empty)
	}
}

func TestHistogram(t *testing.T) {
	edges := []float64{1, 2, 4}
	got := histogram([]float64{0, 0.5, 1, 1.5, 2, 3.9, 4, 100}, edges)
	if want := []int{2, 2, 2, 2}; !slices.Equal(got, want) {
		t.Errorf("counts %v, want %v", got, want)
	}
	e := kldEdges()
	if len(e) != 41 || math.Abs(e[0]/1e-7-1) > 1e-12 || math.Abs(e[40]/10-1) > 1e-12 || !slices.IsSorted(e) {
		t.Errorf("edges %v", e)
	}
	if got := histogram(nil, e); len(got) != 42 || slices.Max(got) != 0 {
		t.Errorf("counts of nothing %v", got)
	}
}
