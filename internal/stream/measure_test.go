package stream

import (
	"bytes"
	"context"
	"math"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smeltgguf/smelt/quant"
)

// wave is a matrix of a few work units.
func wave() *mem {
	const rowLen, rows = 256, 9000
	m := &mem{typ: quant.F32, len: rowLen}
	for i := range rowLen * rows {
		m.data = append(m.data, put(quant.F32, math.Sin(float64(i)))...)
	}
	return m
}

func TestMeasure(t *testing.T) {
	src := wave()
	var want Errors
	for threads := 1; threads < 4; threads++ {
		out := make(sink, src.Count()*quant.Q8_0.RowSize(src.len))
		m, sample, copied := &Measure{}, &Measure{Sample: true}, &Measure{}
		_, err := Run(context.Background(), []Job{{Name: "w", Src: src, Targets: []Target{
			{W: out, Type: quant.Q8_0, Measure: m},
			{W: make(sink, len(src.data)), Type: quant.F32, Measure: copied},
			{W: make(sink, len(out)), Type: quant.Q8_0, Measure: sample},
		}}}, Options{Threads: threads})
		if err != nil {
			t.Fatal(err)
		}
		got := m.Total()
		if threads == 1 {
			want = got
		} else if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%d threads: %s", threads, d)
		}
		n := int64(src.Count() * src.len)
		if got.N != n || got.RMSE() < 0.001 || got.RMSE() > 0.003 || got.Max > 0.5/127+1.0/2048 || got.Cosine() < 0.9999 || math.Abs(got.SNR()+20*math.Log10(got.Relative())) > 1e-9 {
			t.Errorf("errors %+v: RMSE %g, cosine %g, SNR %g", got, got.RMSE(), got.Cosine(), got.SNR())
		}
		if s := sample.Total(); s.N == 0 || s.N > n/8 || math.Abs(s.RMSE()-got.RMSE()) > 0.01*got.RMSE() {
			t.Errorf("sample: %+v", s)
		}
		if c := copied.Total(); c != (Errors{}) {
			t.Errorf("copied: %+v", c)
		}
	}
	none := Errors{N: 3}
	if none.RMSE() != 0 || none.Relative() != 0 || none.Cosine() != 1 || !math.IsInf(none.SNR(), 1) {
		t.Error("a tensor of zeros that stays one has errors")
	}
}

// TestUnits runs a job, then again with every other unit known.
func TestUnits(t *testing.T) {
	src := wave()
	out := make(sink, src.Count()*quant.Q8_0.RowSize(src.len))
	m := &Measure{}
	jobs := []Job{{Name: "w", Src: src, Targets: []Target{{W: out, Type: quant.Q8_0, Measure: m}}}}
	units := map[int]Unit{}
	_, err := Run(context.Background(), jobs, Options{Threads: 2, Finished: func(u Unit) error { units[u.First] = u; return nil }})
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for _, u := range units {
		rows += u.Rows
	}
	if len(units) < 4 || rows != src.Count() {
		t.Fatalf("%d units of %d rows", len(units), rows)
	}
	want, total := bytes.Clone(out), m.Total()
	known := map[int]Unit{}
	i := 0
	for first, u := range units {
		if i++; i%2 == 0 {
			known[first] = u
			clear(out[first*quant.Q8_0.RowSize(src.len):][:u.Rows*quant.Q8_0.RowSize(src.len)])
		}
	}
	var mu sync.Mutex
	done := int64(0)
	again := map[int]Unit{}
	_, err = Run(context.Background(), jobs, Options{
		Threads:  2,
		Progress: func(n int64) { done = n },
		Done: func(_, first int) (Unit, bool) {
			mu.Lock()
			defer mu.Unlock()
			u, ok := known[first]
			return u, ok
		},
		Finished: func(u Unit) error { again[u.First] = u; return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	if done != int64(len(src.data)) {
		t.Errorf("progress ends at %d of %d", done, len(src.data))
	}
	for first, u := range units {
		row := quant.Q8_0.RowSize(src.len)
		got, was := out[first*row:][:u.Rows*row], want[first*row:][:u.Rows*row]
		if _, ok := known[first]; ok {
			if _, ok := again[first]; ok || !bytes.Equal(got, make([]byte, len(got))) {
				t.Errorf("unit at %d was known, but done again", first)
			}
		} else if d := cmp.Diff(u, again[first]); d != "" || !bytes.Equal(got, was) {
			t.Errorf("unit at %d: %s", first, d)
		}
	}
	if d := cmp.Diff(total, m.Total()); d != "" {
		t.Errorf("measured: %s", d)
	}
}
