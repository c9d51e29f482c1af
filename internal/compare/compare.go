// Package compare measures how far one model's tensors are from another's,
// without running either.
package compare

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/internal/arch"
	"github.com/smeltgguf/smelt/internal/stream"
	"github.com/smeltgguf/smelt/kernels"
	"github.com/smeltgguf/smelt/quant"
)

// Result is how far the tensors of model B are from those of A.
type Result struct {
	Tensors []Tensor `json:"tensors"` // that both have, in the order of A
	OnlyA   []string `json:"only_a"`
	OnlyB   []string `json:"only_b"`
	Total   Figures  `json:"total"`
}

// Tensor is one tensor of both models. Problem, if not empty, says why there
// are no figures.
type Tensor struct {
	Name    string `json:"name"`
	Shape   []int  `json:"shape"` // A's, outermost dimension first
	TypeA   string `json:"type_a"`
	TypeB   string `json:"type_b"`
	Problem string `json:"problem,omitempty"`
	Figures
}

// Figures are taken over the elements that are finite in both.
type Figures struct {
	Elements  int64   `json:"elements"`
	RMSE      float64 `json:"rmse"`
	Relative  float64 `json:"rel_rmse"`  // RMSE over A's root mean square; -1: A is all zero, B is not
	Max       float64 `json:"max_error"` // largest difference
	Cosine    float64 `json:"cosine"`
	NaNA      int64   `json:"nan_a"`
	NaNB      int64   `json:"nan_b"`
	InfA      int64   `json:"inf_a"`
	InfB      int64   `json:"inf_b"`
	ZeroRowsA int64   `json:"zero_rows_a"`
	ZeroRowsB int64   `json:"zero_rows_b"`
	// Saturated counts blocks of a quantized B that could not hold all of A's
	// values; Blocks is how many blocks there are.
	Saturated int64 `json:"saturated_blocks"`
	Blocks    int64 `json:"blocks"`
}

// Missed lists what is beyond a largest relative RMSE, a line each: tensors
// over it, with values that are not finite only in B, without figures, or in
// one model only.
func (r *Result) Missed(maxRelative float64) []string {
	var lines []string
	for i := range r.Tensors {
		t := &r.Tensors[i]
		name := formats.Quote(t.Name)
		switch {
		case t.Problem != "":
			lines = append(lines, fmt.Sprintf("tensor %s: %s", name, t.Problem))
		case t.NaNB > t.NaNA || t.InfB > t.InfA:
			lines = append(lines, fmt.Sprintf("tensor %s: %d NaN and %d infinite values, the reference has %d and %d", name, t.NaNB, t.InfB, t.NaNA, t.InfA))
		case t.Relative < 0:
			lines = append(lines, fmt.Sprintf("tensor %s: not zero, as the reference is", name))
		case t.Relative > maxRelative:
			lines = append(lines, fmt.Sprintf("tensor %s: rel_rmse is %.6g, the gate is rel_rmse <= %g", name, t.Relative, maxRelative))
		}
	}
	for _, n := range r.OnlyA {
		lines = append(lines, fmt.Sprintf("tensor %s is missing", formats.Quote(n)))
	}
	for _, n := range r.OnlyB {
		lines = append(lines, fmt.Sprintf("tensor %s is not in the reference", formats.Quote(n)))
	}
	return lines
}

// unitElems is how many elements a worker takes at a time, give or take a row.
const unitElems = 1 << 18

// unit is a run of rows of one tensor.
type unit struct {
	tensor   int // of Result.Tensors
	first, n int // rows
}

// Tensors compares tensors by name; a is the reference. Memory is a few MiB per
// processor, or two rows where those are longer. progress is told how many
// elements have been compared, of how many; it may be nil.
func Tensors(ctx context.Context, a, b []arch.Tensor, progress func(done, total int64)) (*Result, error) {
	res := &Result{OnlyA: []string{}, OnlyB: []string{}}
	other := map[string]*arch.Tensor{}
	for i := range b {
		other[b[i].Name] = &b[i]
	}
	var (
		pairs [][2]*arch.Tensor
		units []unit
		total int64
	)
	for i := range a {
		x, y := &a[i], other[a[i].Name]
		if y == nil {
			res.OnlyA = append(res.OnlyA, x.Name)
			continue
		}
		delete(other, x.Name)
		t := Tensor{Name: x.Name, Shape: x.Shape, TypeA: x.Type().String(), TypeB: y.Type().String()}
		switch {
		case !slices.Equal(trim(x.Shape), trim(y.Shape)):
			t.Problem = fmt.Sprintf("shape %v, the reference has %v", y.Shape, x.Shape)
		case !x.Type().CanDecode():
			t.Problem = fmt.Sprintf("values of type %s are not compared", x.Type())
		case !y.Type().CanDecode():
			t.Problem = fmt.Sprintf("values of type %s are not compared", y.Type())
		default:
			per := max(1, unitElems/max(1, x.Len()))
			for r := 0; r < x.Count(); r += per {
				units = append(units, unit{len(pairs), r, min(per, x.Count()-r)})
			}
			total += int64(x.Len()) * int64(x.Count())
		}
		pairs = append(pairs, [2]*arch.Tensor{x, y})
		res.Tensors = append(res.Tensors, t)
	}
	for i := range b {
		if other[b[i].Name] != nil {
			res.OnlyB = append(res.OnlyB, b[i].Name)
		}
	}
	sums, err := run(ctx, pairs, units, func(done int64) {
		if progress != nil {
			progress(done, total)
		}
	})
	if err != nil {
		return nil, err
	}
	// Units are added up in order, so that the number of workers changes nothing.
	perTensor := make([]sum, len(pairs))
	for i, u := range units {
		perTensor[u.tensor].merge(&sums[i])
	}
	var all sum
	for i := range res.Tensors {
		all.merge(&perTensor[i])
		res.Tensors[i].Figures = perTensor[i].figures()
	}
	res.Total = all.figures()
	return res, nil
}

// trim drops leading dimensions of 1, which a GGUF does not keep.
func trim(shape []int) []int {
	for len(shape) > 1 && shape[0] == 1 {
		shape = shape[1:]
	}
	return shape
}

// run measures each unit on all processors; the first error ends it.
func run(ctx context.Context, pairs [][2]*arch.Tensor, units []unit, progress func(done int64)) ([]sum, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		wg   sync.WaitGroup
		next atomic.Int64
		mu   sync.Mutex
		done int64
	)
	sums := make([]sum, len(units))
	for range min(runtime.GOMAXPROCS(0), len(units)) {
		wg.Go(func() {
			var w worker
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(units) {
					return
				}
				u := units[i]
				x, y := pairs[u.tensor][0], pairs[u.tensor][1]
				if err := w.measure(&sums[i], x, y, u); err != nil {
					cancel(fmt.Errorf("tensor %s: %w", formats.Quote(x.Name), err))
					return
				}
				mu.Lock()
				done += int64(u.n) * int64(x.Len())
				progress(done)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return sums, nil
}

// sum is what has been seen of a part of a tensor.
type sum struct {
	stream.Errors
	f Figures // the counts of it
}

func (s *sum) merge(o *sum) {
	s.Errors.Merge(o.Errors)
	s.f.Elements += o.f.Elements
	s.f.NaNA += o.f.NaNA
	s.f.NaNB += o.f.NaNB
	s.f.InfA += o.f.InfA
	s.f.InfB += o.f.InfB
	s.f.ZeroRowsA += o.f.ZeroRowsA
	s.f.ZeroRowsB += o.f.ZeroRowsB
	s.f.Saturated += o.f.Saturated
	s.f.Blocks += o.f.Blocks
}

func (s *sum) figures() Figures {
	f := s.f
	f.RMSE, f.Relative, f.Max, f.Cosine = s.RMSE(), s.Errors.Relative(), s.Errors.Max, s.Errors.Cosine()
	if math.IsInf(f.Relative, 0) {
		f.Relative = -1
	}
	return f
}

// worker holds one goroutine's buffers.
type worker struct {
	raw  []byte
	x, y []float32
}

func (w *worker) read(dst *[]float32, t *arch.Tensor, u unit) error {
	w.raw = grow(w.raw, u.n*t.Type().RowSize(t.Len()))
	*dst = grow(*dst, u.n*t.Len())
	if err := t.ReadRows(w.raw, u.first, u.n); err != nil {
		return err
	}
	kernels.DecodeRow(t.Type(), *dst, w.raw)
	return nil
}

func grow[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}

func (w *worker) measure(s *sum, a, b *arch.Tensor, u unit) error {
	if err := w.read(&w.x, a, u); err != nil {
		return err
	}
	if err := w.read(&w.y, b, u); err != nil {
		return err
	}
	s.f.Elements = int64(len(w.x))
	s.f.ZeroRowsA, s.f.ZeroRowsB = zeroRows(w.x, a.Len()), zeroRows(w.y, a.Len())
	left := 0 // elements left out
	if kernels.FirstNonfinite(w.x) >= 0 || kernels.FirstNonfinite(w.y) >= 0 {
		s.f.NaNA, s.f.InfA = nonfinite(w.x)
		s.f.NaNB, s.f.InfB = nonfinite(w.y)
		for i := range w.x {
			if !finite(w.x[i]) || !finite(w.y[i]) {
				w.x[i], w.y[i] = 0, 0 // no part of any sum
				left++
			}
		}
	}
	s.Errors.Add(w.x, w.y)
	s.Errors.N -= int64(left)
	if n := b.Type().BlockLen(); n > 1 {
		s.f.Blocks, s.f.Saturated = saturated(b.Type(), w.x, w.y)
	}
	return nil
}

func zeroRows(x []float32, n int) (count int64) {
	for ; len(x) > 0; x = x[n:] {
		if !slices.ContainsFunc(x[:n], func(v float32) bool { return v != 0 }) {
			count++
		}
	}
	return count
}

func finite(v float32) bool { return v-v == 0 }

func nonfinite(x []float32) (nan, inf int64) {
	for _, v := range x {
		switch {
		case v != v:
			nan++
		case !finite(v):
			inf++
		}
	}
	return nan, inf
}

// group is the fewest elements that share a scale in any type.
const group = 16

// saturated counts the blocks of y's type in which x was clipped. A value is
// clipped if it lies outside the range of the group's quantized values by more
// than half the smallest step between them (rounding alone never does that), or
// if the group has become all zero and it is not.
func saturated(t quant.Type, x, y []float32) (blocks, count int64) {
	n := t.BlockLen()
	for ; len(x) >= n; x, y = x[n:], y[n:] {
		blocks++
		for i := 0; i < n; i += group {
			if clipped(x[i:min(n, i+group)], y[i:min(n, i+group)]) {
				count++
				break
			}
		}
	}
	return blocks, count
}

func clipped(x, y []float32) bool {
	var levels [group]float32
	s := levels[:copy(levels[:], y)]
	slices.Sort(s)
	step := math.Inf(1)
	for i := 1; i < len(s); i++ {
		if d := float64(s[i]) - float64(s[i-1]); d > 0 {
			step = min(step, d)
		}
	}
	lo, hi := float64(s[0]), float64(s[len(s)-1])
	if lo == hi {
		return lo == 0 && slices.ContainsFunc(x, func(v float32) bool { return v != 0 })
	}
	// A scale kept as a half is off by up to 2^-11 of itself, and with it all values.
	slack := step/2 + max(math.Abs(lo), math.Abs(hi))/1024
	for _, v := range x {
		if v := float64(v); v < lo-slack || v > hi+slack {
			return true
		}
	}
	return false
}
