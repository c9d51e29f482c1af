package quantize

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/smeltgguf/smelt/internal/recipe"
	"github.com/smeltgguf/smelt/internal/stream"
)

// RunOptions say where the outputs go and how the work is done.
type RunOptions struct {
	// Out is the name of the output; with several targets it holds {ftype}.
	Out     string
	Force   bool // replace what exists
	Threads int
	// Progress is told of the bytes of source that have been dealt with, out of
	// SourceBytes.
	Progress func(done int64)
	// Measure asks for the exact error of every tensor; without it a sample of
	// each is measured.
	Measure        bool
	AllowNonfinite bool
	// Resume continues what an earlier run left behind, and leaves a run that
	// ctx, or a read or write error, interrupted to be continued.
	Resume bool
	// Version is the program's: a run is continued by the same one only.
	Version string
	// Notice is told, in a sentence, what a run with Resume found or left.
	Notice func(string)
}

func (o *RunOptions) notice(format string, args ...any) {
	if o.Notice != nil {
		o.Notice(fmt.Sprintf(format, args...))
	}
}

// Result is what a run found.
type Result struct {
	Paths     [][]string        // of each output
	Errors    [][]stream.Errors // of each output's tensors, in order
	Sampled   bool              // Errors are those of a sample
	Nonfinite []stream.Nonfinite
}

// SourceBytes returns the bytes of source that Run reads.
func (p *Plan) SourceBytes() int64 {
	n := int64(0)
	for i := range p.tensors {
		n += p.tensors[i].bytes(p.tensors[i].Type)
	}
	return n
}

// Run reads the source once and writes all outputs. After an error or when ctx
// ends, none of them exists.
func (p *Plan) Run(ctx context.Context, opt RunOptions) (_ *Result, err error) {
	res := &Result{Sampled: !opt.Measure}
	var specs []stream.Spec
	for i, o := range p.Outputs {
		paths := p.Paths(i, opt.Out)
		res.Paths = append(res.Paths, paths)
		for n, path := range paths {
			path, err := stream.Resolve(path)
			if err != nil {
				return nil, err
			}
			specs = append(specs, stream.Spec{Path: path, Size: o.Layouts[n].Size})
		}
	}
	if err := distinct(specs); err != nil {
		return nil, err
	}
	w, err := p.open(specs, &opt)
	if err != nil {
		return nil, err
	}
	keep := opt.Resume
	defer func() {
		if w.giveUp(keep && interrupted(ctx, err)) {
			opt.notice("what is done is kept; the same command goes on with it")
		}
	}()
	jobs, measures := p.jobs(w.outs, opt.Measure)
	so := stream.Options{
		Threads:        opt.Threads,
		Progress:       opt.Progress,
		AllowNonfinite: opt.AllowNonfinite,
		Done:           w.done(jobs),
		Finished:       w.finished,
	}
	if res.Nonfinite, err = stream.Run(ctx, jobs, so); err != nil {
		var nf *stream.NonfiniteError
		if errors.As(err, &nf) {
			err = fmt.Errorf("%s: %w", p.Source.Name, err)
		}
		return nil, err
	}
	keep = false
	if v := p.Source.Verify; v != nil {
		if err := v(); err != nil {
			return nil, err
		}
	}
	for _, m := range measures {
		var errs []stream.Errors
		for _, m := range m {
			if m == nil {
				m = &stream.Measure{}
			}
			errs = append(errs, m.Total())
		}
		res.Errors = append(res.Errors, errs)
	}
	return res, w.commit()
}

func distinct(specs []stream.Spec) error {
	seen := map[string]bool{}
	for _, s := range specs {
		if seen[s.Path] {
			return &stream.OutputError{Path: s.Path, Msg: "two outputs have this name", Hint: "put {ftype} into the name"}
		}
		seen[s.Path] = true
	}
	return nil
}

// copies writes the same bytes to several outputs, each from its own offset on.
type copies struct {
	outs    []*stream.Output
	offsets []int64
}

func (c *copies) WriteAt(b []byte, off int64) (int, error) {
	for i, o := range c.outs {
		if n, err := o.WriteAt(b, c.offsets[i]+off); err != nil {
			return n, err
		}
	}
	return len(b), nil
}

// jobs returns the work, one job per tensor, and what will be measured of each
// output's tensors. outs are the outputs' files, one after the other. Where
// several outputs have a tensor in the same type it is encoded once.
func (p *Plan) jobs(outs []*stream.Output, exact bool) ([]stream.Job, [][]*stream.Measure) {
	jobs := make([]stream.Job, len(p.tensors))
	measures := make([][]*stream.Measure, len(p.Outputs))
	for i := range p.tensors {
		t := &p.tensors[i]
		j := &jobs[i]
		*j = stream.Job{Name: t.Name, Src: t.Rows}
		if t.dim(2) > 1 {
			j.RowsPerMatrix = int(t.dim(1))
		}
		rest := outs
		for n, o := range p.Outputs {
			pl, at := &o.Tensors[i], o.place[i]
			k := slices.IndexFunc(j.Targets, func(t stream.Target) bool { return t.Type == pl.Type })
			if k < 0 {
				k = len(j.Targets)
				target := stream.Target{W: &copies{}, Type: pl.Type}
				if exact || recipe.Quantized(pl.Type) {
					target.Measure = &stream.Measure{Sample: !exact}
				}
				if pl.Converted() && pl.importance != nil {
					target.Importance = pl.importance
				}
				j.Targets = append(j.Targets, target)
			}
			c := j.Targets[k].W.(*copies)
			c.outs = append(c.outs, rest[at.part])
			c.offsets = append(c.offsets, o.Layouts[at.part].Offset(at.index))
			measures[n] = append(measures[n], j.Targets[k].Measure)
			rest = rest[len(o.Layouts):]
		}
	}
	return jobs, measures
}

// writeHeaders writes all that is not tensor data.
func (p *Plan) writeHeaders(outs []*stream.Output) error {
	i := 0
	for _, o := range p.Outputs {
		for _, l := range o.Layouts {
			if _, err := outs[i].WriteAt(l.Header, 0); err != nil {
				return err
			}
			for _, gap := range l.Gaps() {
				if _, err := io.Copy(io.NewOffsetWriter(outs[i], gap[0]), io.LimitReader(zeros{}, gap[1])); err != nil {
					return err
				}
			}
			i++
		}
	}
	return nil
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
