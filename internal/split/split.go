// Package split cuts a GGUF into parts and joins them again, by copying: the
// names of files and keys are llama-gguf-split's.
package split

import (
	"context"
	"fmt"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/formats/gguf"
	"github.com/smeltgguf/smelt/internal/stream"
)

// Options say how outputs are written.
type Options struct {
	Force    bool // replace existing files
	Threads  int  // 0: as many as there are processors
	Progress func(doneBytes int64)
}

// Plan is what will be written: opened input, and a layout and a path for each
// output.
type Plan struct {
	File    *gguf.File
	Layouts []*gguf.Layout
	Paths   []string
}

// Split plans to cut the model at path into parts called
// prefix-00001-of-00003.gguf and so on. Metadata goes into the first; each part
// has split.no (u16, from 0), split.tensors.count (i32) and split.count (u16).
// A tensor larger than MaxSize gets a part of its own.
func Split(path, prefix string, opt gguf.SplitOptions) (*Plan, error) {
	f, err := gguf.Open(path)
	if err != nil {
		return nil, err
	}
	opt.Resplit = true
	p := &Plan{File: f}
	if p.Layouts, err = gguf.PlanSplit(f.Metadata, f.Tensors, opt); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for i := range p.Layouts {
		p.Paths = append(p.Paths, gguf.SplitName(prefix, i, len(p.Layouts)))
	}
	return p, nil
}

// Merge plans to join the parts of a model, any of which is at path, into out:
// what Split makes of a file becomes that file again. (llama-gguf-split leaves
// split keys in the result, the count set to 0.)
func Merge(path, out string) (*Plan, error) {
	if _, _, _, ok := gguf.SplitPrefix(path); !ok {
		return nil, formats.Malformedf(path, -1, "not a part of a split model").
			WithHint("name one of the files called name-00001-of-00003.gguf")
	}
	f, err := gguf.Open(path)
	if err != nil {
		return nil, err
	}
	l, err := gguf.Plan(f.Metadata, f.Tensors)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &Plan{File: f, Layouts: []*gguf.Layout{l}, Paths: []string{out}}, nil
}

// Close closes the input.
func (p *Plan) Close() error { return p.File.Close() }

// Bytes returns how many bytes of tensor data there are to copy.
func (p *Plan) Bytes() int64 {
	var n uint64
	for _, t := range p.File.Tensors {
		n += t.Size()
	}
	return int64(n)
}

// Write makes the outputs, all or none of them.
func (p *Plan) Write(ctx context.Context, opt Options) error {
	specs := make([]stream.Spec, len(p.Layouts))
	for i, l := range p.Layouts {
		specs[i] = stream.Spec{Path: p.Paths[i], Size: l.Size}
	}
	outs, err := stream.CreateAll(specs, opt.Force, p.File.Paths())
	if err != nil {
		return err
	}
	defer func() {
		for _, o := range outs {
			o.Abort()
		}
	}()
	var jobs []stream.Job
	for i, l := range p.Layouts {
		if _, err := outs[i].WriteAt(l.Header, 0); err != nil {
			return err
		}
		for j, t := range l.Tensors {
			jobs = append(jobs, stream.Job{
				Name:    t.Name,
				Src:     p.File.Rows(p.File.Tensor(t.Name)),
				Targets: []stream.Target{{W: outs[i], Offset: l.Offset(j), Type: t.Type}},
			})
		}
	}
	// A copy is exact whatever the values are.
	_, err = stream.Run(ctx, jobs, stream.Options{Threads: opt.Threads, Progress: opt.Progress, AllowNonfinite: true})
	if err != nil {
		return err
	}
	if err := p.File.Changed(); err != nil {
		return err
	}
	return stream.CommitAll(outs)
}
