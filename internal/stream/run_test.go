package stream

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/smeltgguf/smelt/quant"
)

// mem is a matrix in memory.
type mem struct {
	typ   quant.Type
	len   int
	data  []byte
	limit int // bytes that can be read, if not 0: a file cut short
}

func (m *mem) Type() quant.Type { return m.typ }
func (m *mem) Len() int         { return m.len }
func (m *mem) Count() int       { return len(m.data) / m.typ.RowSize(m.len) }

func (m *mem) ReadRows(dst []byte, first, n int) error {
	size := m.typ.RowSize(m.len)
	if len(dst) != n*size {
		return errors.New("wrong length")
	}
	if m.limit != 0 && (first+n)*size > m.limit {
		return io.ErrUnexpectedEOF
	}
	copy(dst, m.data[first*size:])
	return nil
}

// sink is a file in memory of fixed size.
type sink []byte

func (s sink) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > int64(len(s)) {
		return 0, errors.New("write outside the file")
	}
	return copy(s[off:], p), nil
}

// random returns n floats of type t, all finite and well inside the range of
// a half.
func random(t quant.Type, n int) []byte {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	var b []byte
	for range n {
		v := math.Float32bits(float32(r.NormFloat64()))
		switch t {
		case quant.F32:
			b = binary.LittleEndian.AppendUint32(b, v)
		case quant.BF16:
			b = binary.LittleEndian.AppendUint16(b, uint16(v>>16))
		case quant.F16:
			b = binary.LittleEndian.AppendUint16(b, uint16(v>>16)&0x3fff)
		}
	}
	return b
}

func TestRunIsTheSameForEveryThreadCount(t *testing.T) {
	a := &mem{typ: quant.F32, len: 1 << 18, data: random(quant.F32, 9<<18)} // more than one unit, rows of 1 MiB
	b := &mem{typ: quant.BF16, len: 96, data: random(quant.BF16, 96*70)}
	v := &mem{typ: quant.F32, len: 5, data: random(quant.F32, 5)}
	empty := &mem{typ: quant.F32, len: 8}
	var total int64
	for _, m := range []*mem{a, b, v} {
		total += int64(len(m.data))
	}
	type to struct {
		src *mem
		t   quant.Type
	}
	tos := []to{{a, quant.F32}, {b, quant.BF16}, {v, quant.F32}, {empty, quant.F32}, {b, quant.F16}, {a, quant.Q8_0}}
	var want sink
	for threads := 1; threads <= 5; threads++ {
		var size int64 = 3
		var jobs []Job
		out := make(sink, 64<<20)
		for _, x := range tos {
			if x.t != x.src.typ && (!x.t.CanEncode() || !x.src.typ.CanDecode()) {
				t.Fatalf("%v cannot be encoded", x.t)
			}
			jobs = append(jobs, Job{Name: x.t.String(), Src: x.src, Targets: []Target{{W: out, Offset: size, Type: x.t}}})
			size += int64(x.src.Count()*x.t.RowSize(x.src.len)) + 5
		}
		out = out[:size]
		for i := range jobs {
			jobs[i].Targets[0].W = out
		}
		var last int64
		found, err := Run(context.Background(), jobs, Options{Threads: threads, Progress: func(n int64) {
			if n < last {
				t.Errorf("progress went back from %d to %d", last, n)
			}
			last = n
		}})
		if err != nil || len(found) > 0 {
			t.Fatal(err, found)
		}
		if want := total + int64(len(a.data)+len(b.data)); last != want {
			t.Errorf("progress ends at %d, want %d", last, want)
		}
		if want == nil {
			want = out
			if !bytes.Equal(out[3:][:len(a.data)], a.data) {
				t.Error("a copy differs from its source")
			}
			row := out[jobs[5].Targets[0].Offset:][:quant.Q8_0.RowSize(a.len)]
			f, ref := make([]float32, a.len), make([]byte, len(row))
			quant.Decode(quant.F32, f, a.data[:4*a.len])
			quant.Encode(quant.Q8_0, ref, f, nil)
			if !bytes.Equal(row, ref) {
				t.Error("the first Q8_0 row is not what quant.Encode makes")
			}
		} else if !bytes.Equal(out, want) {
			t.Errorf("%d threads give other bytes", threads)
		}
	}
}

func TestRunReadsOnceForAllTargets(t *testing.T) {
	src := &counting{mem: mem{typ: quant.F32, len: 64, data: random(quant.F32, 64*100)}}
	outs := []sink{make(sink, 100*256), make(sink, 100*128), make(sink, 100*68)}
	_, err := Run(context.Background(), []Job{{Name: "w", Src: src, Targets: []Target{
		{W: outs[0], Type: quant.F32}, {W: outs[1], Type: quant.F16}, {W: outs[2], Type: quant.Q8_0}}}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if n := src.rows.Load(); n != 100 {
		t.Errorf("%d rows read, want 100", n)
	}
	if !bytes.Equal(outs[0], src.data) {
		t.Error("copy differs")
	}
}

type counting struct {
	mem
	rows atomic.Int64
}

func (c *counting) ReadRows(dst []byte, first, n int) error {
	c.rows.Add(int64(n))
	return c.mem.ReadRows(dst, first, n)
}

// weights is importance held in memory.
type weights []float32

func (w weights) Len() int { return len(w) }

func (w weights) ReadValues(dst []float32, first int) error {
	if copy(dst, w[first:]) < len(dst) {
		return io.ErrUnexpectedEOF
	}
	return nil
}

// lost is importance whose file has gone.
type lost struct{ weights }

func (lost) ReadValues([]float32, int) error { return io.ErrUnexpectedEOF }

// TestImportanceLost: importance that cannot be read is an error.
func TestImportanceLost(t *testing.T) {
	const n = 64
	src := &mem{typ: quant.F32, len: n, data: random(quant.F32, n)}
	out := make(sink, quant.Q4_0.RowSize(n))
	imp := lost{make(weights, n)}
	_, err := Run(context.Background(), []Job{{Name: "w", Src: src, Targets: []Target{{W: out, Type: quant.Q4_0, Importance: imp}}}}, Options{})
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("error %v", err)
	}
}

// TestImportance: rows of each matrix get their matrix's importance.
func TestImportance(t *testing.T) {
	const rows, n, per = 6, 64, 2
	src := &mem{typ: quant.F32, len: n, data: random(quant.F32, rows*n)}
	imp := make([]float32, rows/per*n)
	for i := range imp {
		imp[i] = float32(i%7) + 0.5
	}
	out := make(sink, rows*quant.Q4_0.RowSize(n))
	if _, err := Run(context.Background(), []Job{{Name: "w", Src: src, RowsPerMatrix: per, Targets: []Target{{W: out, Type: quant.Q4_0, Importance: weights(imp)}}}}, Options{}); err != nil {
		t.Fatal(err)
	}
	for r := range rows {
		f, want := make([]float32, n), make([]byte, quant.Q4_0.RowSize(n))
		quant.Decode(quant.F32, f, src.data[r*4*n:][:4*n])
		quant.Encode(quant.Q4_0, want, f, imp[r/per*n:][:n])
		if !bytes.Equal(out[r*len(want):][:len(want)], want) {
			t.Errorf("row %d differs", r)
		}
	}
}

func put(t quant.Type, v float64) []byte {
	f := float32(v)
	switch t {
	case quant.F64:
		return binary.LittleEndian.AppendUint64(nil, math.Float64bits(v))
	case quant.F32:
		return binary.LittleEndian.AppendUint32(nil, math.Float32bits(f))
	case quant.BF16:
		return binary.LittleEndian.AppendUint16(nil, uint16(math.Float32bits(f)>>16))
	}
	switch {
	case math.IsNaN(v):
		return []byte{0, 0x7e}
	case math.IsInf(v, 0):
		return []byte{0, 0x7c}
	}
	return []byte{0xff, 0x7b} // the largest half
}

func TestNonfinite(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	const rowLen, rows = 32, 5000
	for _, tt := range []struct {
		name    string
		from    quant.Type
		to      quant.Type
		at      map[int]float64
		want    string // "" for success
		allowed string
	}{
		{"finite", quant.F32, quant.F16, map[int]float64{9: 65504}, "", ""},
		{"nan copied", quant.F16, quant.F16, map[int]float64{17: nan, 40: nan, 150001: nan}, `tensor "w": 3 NaN, first at 17`, ""},
		{"largest half copied", quant.F16, quant.F16, map[int]float64{17: 1}, "", ""},
		{"bf16", quant.BF16, quant.BF16, map[int]float64{159999: -inf}, `tensor "w": 1 infinite, first at 159999`, ""},
		{"f32", quant.F32, quant.F32, map[int]float64{3: inf, 5: nan}, `tensor "w": 1 NaN, 1 infinite, first at 3`, ""},
		{"overflow", quant.BF16, quant.F16, map[int]float64{70: 1e20, 90: -70000, 100: 65504}, `tensor "w": 2 too large for F16, first at 70`, ""},
		{"both", quant.F32, quant.F16, map[int]float64{70: 1e20, 40: inf}, `tensor "w": 1 infinite, 1 too large for F16, first at 40`, ""},
		{"into bf16", quant.F32, quant.BF16, map[int]float64{1: math.MaxFloat32}, `tensor "w": 1 too large for BF16, first at 1`, ""},
		{"block scale", quant.F32, quant.Q8_0, map[int]float64{73: 1e12}, `tensor "w": 1 too large for Q8_0, first at 73`, ""},
		{"block fits", quant.F32, quant.Q8_0, map[int]float64{64: 1e6}, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			zero := put(tt.from, 0)
			if tt.from == quant.F16 {
				zero = []byte{0, 0}
			}
			src := &mem{typ: tt.from, len: rowLen, data: bytes.Repeat(zero, rowLen*rows)}
			for i, v := range tt.at {
				copy(src.data[i*len(zero):], put(tt.from, v))
			}
			out := make(sink, rows*tt.to.RowSize(rowLen))
			jobs := []Job{{Name: "ok", Src: &mem{typ: quant.F32, len: 1, data: make([]byte, 4)}, Targets: []Target{{W: make(sink, 4), Type: quant.F32}}},
				{Name: "w", Src: src, Targets: []Target{{W: out, Type: tt.to}}}}
			for threads := 1; threads < 4; threads++ {
				_, err := Run(context.Background(), jobs, Options{Threads: threads})
				got := ""
				if err != nil {
					got = err.Error()
				}
				if got != tt.want {
					t.Errorf("%d threads: error %q, want %q", threads, got, tt.want)
				}
				found, err := Run(context.Background(), jobs, Options{Threads: threads, AllowNonfinite: true})
				if err != nil {
					t.Fatal(err)
				}
				if (len(found) == 1) != (tt.want != "") || len(found) == 1 && found[0].String() != tt.want {
					t.Errorf("allowed: found %v, want %q", found, tt.want)
				}
			}
		})
	}
}

// TestNonfiniteBlocks spoils a block's scale: its tensor is refused also where it
// is copied.
func TestNonfiniteBlocks(t *testing.T) {
	src := &mem{typ: quant.Q8_0, len: 64, data: make([]byte, 34*2*5000)}
	copy(src.data[34*7001:], []byte{0, 0x7e, 1}) // NaN
	for _, to := range []quant.Type{quant.Q8_0, quant.Q4_0, quant.F32} {
		job := Job{Name: "w", Src: src, Targets: []Target{{W: make(sink, 5000*to.RowSize(64)), Type: to}}}
		_, err := Run(context.Background(), []Job{job}, Options{Threads: 2})
		if want := `tensor "w": 32 NaN, first at 224032`; err == nil || err.Error() != want {
			t.Errorf("to %v: %v, want %s", to, err, want)
		}
	}
}

// TestCastOverflow tells what was infinite from what a cast on the way made so.
func TestCastOverflow(t *testing.T) {
	src := &mem{typ: quant.F32, len: 32, data: bytes.Repeat(put(quant.F32, 1), 32*100)}
	copy(src.data[4*40:], put(quant.F32, 70000))
	copy(src.data[4*3000:], put(quant.F32, math.Inf(-1)))
	job := Job{Name: "w", Src: Cast(src, quant.F16), Targets: []Target{{W: make(sink, 100*34), Type: quant.Q8_0}}}
	_, err := Run(context.Background(), []Job{job}, Options{})
	if want := `tensor "w": 1 infinite, 1 too large for F16, first at 40`; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

// TestFiniteLengths looks for the one bad value at every position of short
// runs: the unrolled loop and its rest.
func TestFiniteLengths(t *testing.T) {
	for typ, e := range exponents {
		for n := range 40 {
			b := make([]byte, n*e.size)
			if !e.finite(b) {
				t.Errorf("%v: %d zeros are not finite", typ, n)
			}
			for i := range n {
				copy(b[i*e.size:], put(typ, math.Inf(-1)))
				if e.finite(b) {
					t.Errorf("%v: infinity at %d of %d not seen", typ, i, n)
				}
				clear(b)
			}
		}
	}
}

func TestRunErrors(t *testing.T) {
	good := func() *mem { return &mem{typ: quant.F32, len: 33, data: random(quant.F32, 33*4)} }
	cut := good()
	cut.limit = 33 * 4 * 2
	for _, tt := range []struct {
		name string
		job  Job
		want string
	}{
		{"row", Job{Name: "w", Src: good(), Targets: []Target{{W: make(sink, 999), Type: quant.Q8_0}}}, `tensor "w": row 33 not a multiple of 32`},
		{"type", Job{Name: "w", Src: good(), Targets: []Target{{W: make(sink, 999), Type: 99}}}, `tensor "w": cannot encode type 99`},
		{"cut", Job{Name: "w", Src: cut, Targets: []Target{{W: make(sink, 999), Type: quant.F32}}}, `tensor "w": input changed while reading`},
		{"write", Job{Name: "w", Src: good(), Targets: []Target{{W: make(sink, 9), Type: quant.F32}}}, `tensor "w": write outside the file`},
		{"importance", Job{Name: "w", Src: good(), Targets: []Target{{W: make(sink, 999), Type: quant.F16, Importance: weights(make([]float32, 32))}}}, `importance has 32 values, want 1 x 33`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Run(context.Background(), []Job{tt.job}, Options{})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

// broken panics when it is read.
type broken struct{ mem }

func (*broken) ReadRows([]byte, int, int) error { panic("oh") }

func TestRunPanic(t *testing.T) {
	good := &mem{typ: quant.F32, len: 1, data: make([]byte, 4)}
	jobs := []Job{
		{Name: "a", Src: good, Targets: []Target{{W: make(sink, 4), Type: quant.F32}}},
		{Name: "b", Src: &broken{*good}, Targets: []Target{{W: make(sink, 4), Type: quant.F32}}},
	}
	_, err := Run(context.Background(), jobs, Options{Threads: 2})
	var p *PanicError
	if !errors.As(err, &p) || p.Tensor != "b" || p.Value != "oh" || !strings.Contains(err.Error(), "ReadRows") {
		t.Errorf("error %v", err)
	}
}

// TestDoneOtherRows: a unit counts as done only if it has the rows that this
// run gives it.
func TestDoneOtherRows(t *testing.T) {
	src := &mem{typ: quant.F32, len: 1, data: random(quant.F32, 8)}
	for _, rows := range []int{1, 7, 8, 9} {
		out := make(sink, len(src.data))
		_, err := Run(context.Background(), []Job{{Name: "w", Src: src, Targets: []Target{{W: out, Type: quant.F32}}}},
			Options{Done: func(job, first int) (Unit, bool) { return Unit{Job: job, First: first, Rows: rows}, true }})
		if left := bytes.Equal(out, make(sink, len(out))); err != nil || left != (rows == 8) {
			t.Errorf("%d rows: taken for done %v, %v", rows, left, err)
		}
	}
}

func TestRunCancelled(t *testing.T) {
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("why")
	src := &mem{typ: quant.F32, len: 1 << 18, data: make([]byte, 40<<20)}
	calls := 0
	_, err := Run(ctx, []Job{{Name: "w", Src: src, Targets: []Target{{W: make(sink, len(src.data)), Type: quant.F32}}}},
		Options{Threads: 1, Progress: func(int64) { calls++; cancel(why) }})
	if !errors.Is(err, why) || calls != 1 {
		t.Errorf("error %v after %d units", err, calls)
	}
}

func TestNonfiniteOrder(t *testing.T) {
	bad := func(name string) Job {
		return Job{Name: name, Src: &mem{typ: quant.F32, len: 1, data: []byte{0, 0, 0xc0, 0x7f}}, Targets: []Target{{W: make(sink, 4), Type: quant.F32}}}
	}
	jobs := []Job{bad("a"), bad("b"), bad("c")}
	found, err := Run(context.Background(), jobs, Options{Threads: 3, AllowNonfinite: true})
	if err != nil || !slices.EqualFunc(found, jobs, func(n Nonfinite, j Job) bool { return n.Tensor == j.Name }) {
		t.Errorf("found %v, error %v", found, err)
	}
	_, err = Run(context.Background(), jobs, Options{Threads: 3})
	var ne *NonfiniteError
	if !errors.As(err, &ne) || ne.Tensor != "a" || ne.HintText() == "" {
		t.Errorf("error %v", err)
	}
}
