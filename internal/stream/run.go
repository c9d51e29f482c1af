package stream

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/smeltgguf/smelt/quant"
)

// Target is where a tensor goes: Src.Count() rows of Type from Offset on.
type Target struct {
	W      io.WriterAt
	Offset int64
	Type   quant.Type
	// Importance is nil or weighs the elements of a row: RowLen values per
	// matrix, row i using those from i/RowsPerMatrix*RowLen on.
	Importance Importance
	// Measure, if set, collects the error that encoding makes.
	Measure *Measure
}

// Importance is read as it is needed. Many goroutines do so at once.
type Importance interface {
	Len() int // values
	// ReadValues fills dst with the values from first on.
	ReadValues(dst []float32, first int) error
}

// Job is one tensor: read once, written to one or several targets.
type Job struct {
	Name string
	Src  Rows
	// RowsPerMatrix divides the rows into matrices that have their own
	// importance (experts); 0: all rows are one matrix.
	RowsPerMatrix int
	Targets       []Target
}

// Options are Run's options; the zero value is ready to use.
type Options struct {
	Threads int // workers; 0: as many as GOMAXPROCS
	// Progress is told how many bytes of source have been dealt with so far;
	// calls are serialized and the value only grows.
	Progress func(doneBytes int64)
	// AllowNonfinite: NaN, infinity and values that overflow a target's type
	// are converted and reported instead of being an error.
	AllowNonfinite bool
	// Done, if set, is asked before each work unit, from many goroutines; the
	// units that it knows are left as they are in the targets.
	Done func(job, first int) (Unit, bool)
	// Finished, if set, is told of each unit once its bytes have been written,
	// unless it held values that are not finite. Calls are serialized.
	Finished func(Unit) error
}

// Unit is a run of rows of a job. How a job is divided depends on nothing but
// its shape and types.
type Unit struct {
	Job, First, Rows int
	// Sum is the CRC-32C of the bytes written, target after target.
	Sum uint32
	// Errors holds what was measured, for each target that has a Measure.
	Errors []Errors
}

// Nonfinite tells about values of a tensor that are not finite numbers, or no
// longer are once converted. Positions count elements in logical order.
type Nonfinite struct {
	Tensor string
	NaN    int64 // how many
	Inf    int64
	// Overflow counts finite values that are too large for the target's type.
	Overflow int64
	Type     quant.Type // the type that overflowed
	First    int64      // position of the first such value
}

func (n *Nonfinite) String() string {
	s := fmt.Sprintf("tensor %q:", n.Tensor)
	sep := " "
	for _, c := range []struct {
		n    int64
		what string
	}{{n.NaN, "NaN"}, {n.Inf, "infinite"}, {n.Overflow, "too large for " + n.Type.String()}} {
		if c.n > 0 {
			s += fmt.Sprintf("%s%d %s", sep, c.n, c.what)
			sep = ", "
		}
	}
	return fmt.Sprintf("%s, first at %d", s, n.First)
}

// NonfiniteError is what Run returns for the first tensor, in the jobs' order,
// that holds values which are not finite or do not stay finite.
type NonfiniteError struct{ Nonfinite }

func (e *NonfiniteError) Error() string { return e.String() }

// HintText returns what the person can do about it.
func (e *NonfiniteError) HintText() string {
	if e.NaN+e.Inf == 0 {
		return "choose bf16 or f32, whose range holds them, or use --allow-nonfinite"
	}
	return "the checkpoint is damaged; use --allow-nonfinite to convert it as it is"
}

// PanicError is a programming error that showed itself in the work on a tensor.
type PanicError struct {
	Tensor string
	Value  any    // of the panic
	Stack  []byte // for who looks for the error
}

func (e *PanicError) Error() string {
	return fmt.Sprintf("tensor %q: internal error: %v\n%s", e.Tensor, e.Value, e.Stack)
}

// HintText returns what the person can do about it.
func (e *PanicError) HintText() string { return "please report this together with the lines above" }

// unitBytes is about how much a work unit reads or writes.
const unitBytes = 2 << 20

// chunkFloats is about how many float32 values are decoded at a time: a chunk
// stays in the second-level cache on its way from decoder to encoder.
const chunkFloats = 32 << 10

// Run converts the jobs' tensors. What is written does not depend on the
// number of threads. It returns what it found of values that are not finite,
// per tensor in the jobs' order: an error unless opt allows them. After an
// error the targets hold parts of the output.
func Run(ctx context.Context, jobs []Job, opt Options) ([]Nonfinite, error) {
	r := &runner{jobs: jobs, opt: opt, first: make([]int, len(jobs)+1), rows: make([]int, len(jobs)), found: make([]Nonfinite, len(jobs))}
	for i := range jobs {
		n, err := planJob(&jobs[i])
		if err != nil {
			return nil, err
		}
		r.rows[i] = n
		units := (jobs[i].Src.Count() + n - 1) / n
		r.first[i+1] = r.first[i] + units
		for _, t := range jobs[i].Targets {
			if t.Measure != nil {
				t.Measure.units = make([]Errors, units)
			}
		}
		r.found[i] = Nonfinite{Tensor: jobs[i].Name, First: -1}
	}
	r.lastJob.Store(int64(len(jobs)))
	threads := opt.Threads
	if threads <= 0 {
		threads = runtime.GOMAXPROCS(0)
	}
	threads = max(1, min(threads, r.first[len(jobs)]))
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for range threads {
		wg.Go(func() {
			if err := r.work(ctx); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	var found []Nonfinite
	for _, n := range r.found {
		if n.First >= 0 {
			found = append(found, n)
		}
	}
	if err := ctx.Err(); err != nil {
		if cause := context.Cause(ctx); cause != nil && !errors.Is(err, context.DeadlineExceeded) {
			err = cause
		}
		return found, err
	}
	if len(found) > 0 && !opt.AllowNonfinite {
		return found, &NonfiniteError{found[0]}
	}
	return found, nil
}

// planJob checks a job and returns how many rows a unit of it has.
func planJob(j *Job) (int, error) {
	src := j.Src.Type()
	n := j.Src.Len()
	if src.BlockLen() == 0 || n%src.BlockLen() != 0 {
		return 0, fmt.Errorf("tensor %q: rows of %d elements are no %v", j.Name, n, src)
	}
	row := max(1, src.RowSize(n))
	for _, t := range j.Targets {
		if t.Type == src {
			continue
		}
		if !src.CanDecode() {
			return 0, fmt.Errorf("tensor %q: cannot decode %v", j.Name, src)
		}
		if !t.Type.CanEncode() {
			return 0, fmt.Errorf("tensor %q: cannot encode %v", j.Name, t.Type)
		}
		if n%t.Type.BlockLen() != 0 {
			return 0, fmt.Errorf("tensor %q: row %d not a multiple of %d, the block of %v", j.Name, n, t.Type.BlockLen(), t.Type)
		}
		if m := matrices(j); t.Importance != nil && t.Importance.Len() != m*n {
			return 0, fmt.Errorf("tensor %q: importance has %d values, want %d x %d", j.Name, t.Importance.Len(), m, n)
		}
		row = max(row, t.Type.RowSize(n))
	}
	return max(1, unitBytes/row), nil
}

func matrices(j *Job) int {
	if j.RowsPerMatrix <= 0 {
		return 1
	}
	return (j.Src.Count() + j.RowsPerMatrix - 1) / j.RowsPerMatrix
}

type runner struct {
	jobs  []Job
	opt   Options
	first []int // number of each job's first unit; one more at the end
	rows  []int // rows per unit of each job

	next    atomic.Int64 // unit
	lastJob atomic.Int64 // jobs after this one are no longer wanted

	mu    sync.Mutex // guards what follows
	done  int64
	found []Nonfinite
}

// work takes units in order until there are none left. A panic ends the run as
// an error does, so that the caller can put things in order.
func (r *runner) work(ctx context.Context) (err error) {
	var b buffers
	job := 0
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Tensor: r.jobs[min(job, len(r.jobs)-1)].Name, Value: v, Stack: debug.Stack()}
		}
	}()
	for ctx.Err() == nil {
		u := int(r.next.Add(1)) - 1
		for job < len(r.jobs) && u >= r.first[job+1] {
			job++
		}
		if job == len(r.jobs) || int64(job) > r.lastJob.Load() {
			return nil
		}
		j := &r.jobs[job]
		row := (u - r.first[job]) * r.rows[job]
		n := min(r.rows[job], j.Src.Count()-row)
		bytes := int64(n) * int64(j.Src.Type().RowSize(j.Src.Len()))
		unit, known := Unit{}, false
		if r.opt.Done != nil {
			unit, known = r.opt.Done(job, row)
			known = known && unit.Rows == n
		}
		bad := Nonfinite{First: -1}
		if !known {
			var err error
			if bad, err = b.unit(j, row, n, r.opt.Finished != nil); err != nil {
				return fmt.Errorf("tensor %q: %w", j.Name, err)
			}
			unit = Unit{Job: job, First: row, Rows: n, Sum: b.sum, Errors: b.errors}
		}
		i := 0
		for _, t := range j.Targets {
			if t.Measure != nil && i < len(unit.Errors) {
				t.Measure.units[u-r.first[job]] = unit.Errors[i]
				i++
			}
		}
		if err := r.report(unit, known, bytes, bad); err != nil {
			return err
		}
	}
	return nil
}

func (r *runner) report(unit Unit, known bool, bytes int64, bad Nonfinite) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done += bytes
	if r.opt.Progress != nil {
		r.opt.Progress(r.done)
	}
	if bad.First < 0 {
		if r.opt.Finished != nil && !known {
			return r.opt.Finished(unit)
		}
		return nil
	}
	job := unit.Job
	f := &r.found[job]
	f.NaN += bad.NaN
	f.Inf += bad.Inf
	f.Overflow += bad.Overflow
	if bad.Overflow > 0 {
		f.Type = bad.Type
	}
	if f.First < 0 || bad.First < f.First {
		f.First = bad.First
	}
	// The rest of this tensor is still read, so that the counts are complete
	// and do not depend on the number of threads.
	if !r.opt.AllowNonfinite && int64(job) < r.lastJob.Load() {
		r.lastJob.Store(int64(job))
	}
	return nil
}

// buffers are one worker's, reused from unit to unit.
type buffers struct {
	src   []byte
	dst   []byte
	f32   []float32
	check []float32
	// importance holds the values of one matrix of a target.
	importance struct {
		of     *Target
		matrix int
		values []float32
	}
	// scanned: the decoded values of the unit's blocks have been looked at.
	scanned bool
	sum     uint32   // of what the unit wrote
	errors  []Errors // of its targets that have a Measure
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksum goes on with the checksum of a Unit: that of b after what sum is of.
func Checksum(sum uint32, b []byte) uint32 { return crc32.Update(sum, castagnoli, b) }

func grow[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}

// unit converts n rows from row first on; sum asks for the checksum.
func (b *buffers) unit(j *Job, first, n int, sum bool) (Nonfinite, error) {
	rowLen, st := j.Src.Len(), j.Src.Type()
	bad := Nonfinite{First: -1}
	b.src = grow(b.src, n*st.RowSize(rowLen))
	if err := j.Src.ReadRows(b.src, first, n); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("input changed while reading: %w", err)
		}
		return bad, err
	}
	b.scanned, b.sum, b.errors = false, 0, nil
	known := false // to be finite
	for ti := range j.Targets {
		t := &j.Targets[ti]
		out := b.src
		if t.Type != st {
			b.dst = grow(b.dst, n*t.Type.RowSize(rowLen))
			out = b.dst
			finite, err := b.convert(j, t, first, n, &bad)
			if err != nil {
				return bad, err
			}
			known = known || finite
		} else if t.Measure != nil {
			b.errors = append(b.errors, Errors{})
		}
		if sum {
			b.sum = Checksum(b.sum, out)
		}
		if _, err := t.W.WriteAt(out, t.Offset+int64(first)*int64(t.Type.RowSize(rowLen))); err != nil {
			return bad, err
		}
	}
	if !known {
		bad.scan(st, b.src, int64(first)*int64(rowLen))
		if !b.scanned {
			b.scanBlocks(&bad, st, int64(first)*int64(rowLen))
		}
	}
	if c, ok := j.Src.(*castRows); ok && bad.Inf > 0 {
		return bad, c.tellOverflow(&bad, first, n)
	}
	return bad, nil
}
