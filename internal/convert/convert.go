// Package convert turns a checkpoint into a GGUF: NewPlan reads and checks the
// metadata and lays out the output, Plan.Run streams the weights.
package convert

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/smeltgguf/smelt/formats/gguf"
	"github.com/smeltgguf/smelt/internal/arch"
	"github.com/smeltgguf/smelt/internal/checkpoint"
	"github.com/smeltgguf/smelt/internal/quantize"
	"github.com/smeltgguf/smelt/internal/stream"
	"github.com/smeltgguf/smelt/quant"
)

// Options say what to convert, and how.
type Options struct {
	In string // the checkpoint: a directory or a file
	// Out is the file to write; {ftype} in it stands for the output type
	// ("f16"), {FTYPE} for the same in capitals. A directory gets a file named
	// after the model.
	Out     string
	Outtype string // a name of Outtypes, or "auto", or ""

	VocabOnly    bool   // write no tensors
	ModelName    string // general.name
	MetadataFile string // JSON object of general.* keys that replace what the checkpoint says
	Pre          string // tokenizer.ggml.pre, where it cannot be told from the tokenizer's description
	// IgnoreConfigKeys are keys of config.json that are known to be harmless.
	IgnoreConfigKeys []string

	// Base is the checkpoint, or at least its config, that In is an adapter of
	// (In holds adapter_config.json).
	Base string
	// MergeLoRA is an adapter to merge into the weights of In.
	MergeLoRA string

	SplitMaxTensors int   // tensors per file; 0: no bound
	SplitMaxSize    int64 // bytes of tensors per file; 0: no bound

	Threads        int
	Force          bool // replace existing files
	AllowNonfinite bool // convert NaN, infinity and overflow as they come
}

// Tensor is one tensor of the plan.
type Tensor struct {
	Name  string
	Shape []int // outermost dimension first
	From  quant.Type
	Type  quant.Type
	Size  int64 // bytes in the output
	// Substituted says why Type is not the one asked for; "" if it is.
	Substituted string
}

// Plan is a conversion that has been checked as far as metadata goes. It holds
// the checkpoint open.
type Plan struct {
	Arch     string // general.architecture
	Outtype  string // resolved: never "auto"
	Metadata *gguf.Metadata
	Tensors  []Tensor
	Params   int64    // number of parameters
	Files    []string // that Run writes
	Size     int64    // of all files, in bytes
	Skipped  []string // tensors of the checkpoint that carry nothing to convert
	Notes    []string // what else the person should know

	opt     Options
	ck      *checkpoint.Checkpoint   // of In
	others  []*checkpoint.Checkpoint // Base, MergeLoRA
	rows    []stream.Rows            // of each tensor
	layouts []*gguf.Layout
}

// NewPlan opens the checkpoint and plans its conversion. Nothing is written.
func NewPlan(opt Options) (p *Plan, err error) {
	p = &Plan{Metadata: gguf.NewMetadata(), opt: opt}
	opened := p // p is nil once an error is returned
	defer func() {
		if err != nil {
			opened.Close()
		}
	}()
	if p.ck, err = checkpoint.Open(opt.In); err != nil && opt.VocabOnly {
		// Weights that are missing or incomplete do not matter.
		if ck, configErr := checkpoint.OpenConfig(opt.In); configErr == nil {
			p.ck, err = ck, nil
		}
	}
	if err != nil {
		return nil, err
	}
	out, err := findOuttype(opt.Outtype, p.ck)
	if err != nil {
		return nil, err
	}
	m, ad, err := p.load(out)
	if err != nil {
		return nil, err
	}
	m.Vocab.Pre = opt.Pre
	p.Arch, p.Outtype, p.Skipped, p.Notes = m.Family.Name, out.name, m.Skipped, m.Notes
	counts := p.addTensors(m.Tensors, out.typ)
	p.Params = counts.total
	if err := p.metadata(m, ad, counts); err != nil {
		return nil, err
	}
	return p, p.layout(out.name)
}

// load describes the model, or the adapter, which is then returned as well.
func (p *Plan) load(out outtype) (*arch.Model, *arch.Adapter, error) {
	opt := arch.Options{FileType: out.fileType, IgnoreKeys: p.opt.IgnoreConfigKeys, ConfigOnly: p.opt.VocabOnly && len(p.ck.Tensors) == 0}
	base := p.ck
	if _, err := p.ck.ReadFile(arch.AdapterFile); err == nil {
		if p.opt.Base == "" {
			return nil, nil, &InputError{p.opt.In, "this is an adapter", "name the model that it belongs to with --base: a directory with its config.json"}
		}
		if base, err = p.also(checkpoint.OpenConfig, p.opt.Base); err != nil {
			return nil, nil, err
		}
		if opt.Adapter, err = arch.OpenAdapter(p.ck); err != nil {
			return nil, nil, err
		}
	} else if p.opt.Base != "" {
		return nil, nil, &InputError{p.opt.In, "this is no adapter: it has no " + arch.AdapterFile, "leave --base away"}
	}
	if p.opt.MergeLoRA != "" {
		ck, err := p.also(checkpoint.Open, p.opt.MergeLoRA)
		if err != nil {
			return nil, nil, err
		}
		if opt.Merge, err = arch.OpenAdapter(ck); err != nil {
			return nil, nil, err
		}
	}
	m, err := arch.Load(base, opt)
	return m, opt.Adapter, err
}

// also opens a checkpoint besides In.
func (p *Plan) also(open func(string) (*checkpoint.Checkpoint, error), path string) (*checkpoint.Checkpoint, error) {
	ck, err := open(path)
	if err == nil {
		p.others = append(p.others, ck)
	}
	return ck, err
}

// InputError says that the inputs do not go together. It prints as
// `<path>: <message>`.
type InputError struct{ Path, Msg, Hint string }

func (e *InputError) Error() string { return e.Path + ": " + e.Msg }

// HintText returns what the person can do about it.
func (e *InputError) HintText() string { return e.Hint }

// addTensors chooses the tensors' types.
func (p *Plan) addTensors(list []arch.Tensor, want quant.Type) paramCounts {
	var counts paramCounts
	if p.opt.VocabOnly {
		return counts
	}
	var names []string
	var shapes [][]int
	for _, t := range list {
		typ, why := chooseType(t.Name, t.Shape, t.Rows.Type(), want)
		size := int64(typ.RowSize(t.Rows.Len())) * int64(t.Rows.Count())
		p.Tensors = append(p.Tensors, Tensor{t.Name, t.Shape, t.Rows.Type(), typ, size, why})
		p.rows = append(p.rows, t.Rows)
		names, shapes = append(names, t.Name), append(shapes, t.Shape)
	}
	counts.count(names, shapes)
	return counts
}

// metadata writes all keys in their order.
func (p *Plan) metadata(m *arch.Model, ad *arch.Adapter, counts paramCounts) error {
	params := counts.total
	if ad != nil {
		params = -params // of the adapter alone; its base has more
	}
	c, err := readCard(p.ck, params)
	if err != nil {
		return err
	}
	if p.opt.MetadataFile != "" {
		data, err := os.ReadFile(p.opt.MetadataFile)
		if err != nil {
			return err
		}
		if err := c.override(p.opt.MetadataFile, data); err != nil {
			return err
		}
	}
	if p.opt.ModelName != "" {
		c.fields["name"] = p.opt.ModelName
	}
	if _, ok := c.fields["size_label"]; !ok && params > 0 {
		c.fields["size_label"] = counts.label()
	}
	p.Notes = append(p.Notes, c.notes...)

	meta := p.Metadata
	meta.Set("general.architecture", m.Family.Name)
	if ad != nil {
		meta.Set("general.type", "adapter")
		meta.Set("adapter.type", "lora")
		c.write(meta)
		meta.Set("adapter.lora.alpha", float32(ad.Alpha))
		meta.Set("general.quantization_version", uint32(2))
		return nil
	}
	copyKeys(meta, m.Early)
	meta.Set("general.type", "model")
	c.write(meta)
	copyKeys(meta, m.Params)
	meta.Set("general.quantization_version", uint32(2))
	return m.WriteVocab(p.ck, meta)
}

func copyKeys(to, from *gguf.Metadata) {
	for k, v := range from.All() {
		to.Set(k, v)
	}
}

// layout lays out the files.
func (p *Plan) layout(outtype string) error {
	var tensors []*gguf.Tensor
	for _, t := range p.Tensors {
		tensors = append(tensors, gguf.NewTensor(t.Name, t.Type, t.Shape))
	}
	layouts, err := gguf.PlanSplit(p.Metadata, tensors, gguf.SplitOptions{MaxTensors: p.opt.SplitMaxTensors, MaxSize: p.opt.SplitMaxSize})
	if err != nil {
		return err
	}
	p.layouts = layouts
	path := p.OutputName(outtype)
	for i, l := range layouts {
		name := path
		if len(layouts) > 1 {
			name = gguf.SplitName(path, i, len(layouts))
		}
		p.Files = append(p.Files, name)
		p.Size += l.Size
	}
	return nil
}

// OutputName returns Out with the name of a type, and with the model's name if
// it is a directory.
func (p *Plan) OutputName(outtype string) string {
	out := p.opt.Out
	if st, err := os.Stat(out); err == nil && st.IsDir() {
		return filepath.Join(out, p.defaultName(outtype))
	}
	dir, base := filepath.Split(out)
	r := strings.NewReplacer("{ftype}", outtype, "{outtype}", outtype, "{FTYPE}", strings.ToUpper(outtype), "{OUTTYPE}", strings.ToUpper(outtype))
	return dir + r.Replace(base)
}

// defaultName follows the naming convention of ggml's docs/gguf.md:
// Base-Size-Finetune-Version-Type.gguf.
func (p *Plan) defaultName(outtype string) string {
	get := func(key string) string {
		s, _ := p.Metadata.String("general." + key)
		return strings.NewReplacer(" ", "-", "/", "-", string(filepath.Separator), "-").Replace(strings.TrimSpace(s))
	}
	name := get("basename")
	if name == "" {
		name = get("name")
	}
	parts := []string{name}
	for _, key := range []string{"size_label", "finetune", "version"} {
		if s := get(key); s != "" && (key != "size_label" || !p.opt.VocabOnly) {
			parts = append(parts, s)
		}
	}
	if p.opt.VocabOnly {
		parts = append(parts, "vocab")
	} else {
		parts = append(parts, strings.ToUpper(outtype))
	}
	return strings.Join(parts, "-") + ".gguf"
}

// Close closes the inputs.
func (p *Plan) Close() error {
	var errs []error
	for _, ck := range append(p.others, p.ck) {
		if ck != nil {
			errs = append(errs, ck.Close())
		}
	}
	return errors.Join(errs...)
}

// SourceBytes returns how many bytes of weights Run reads: the end of its
// progress.
func (p *Plan) SourceBytes() int64 {
	var n int64
	for _, r := range p.rows {
		n += int64(r.Type().RowSize(r.Len())) * int64(r.Count())
	}
	return n
}

// inputs lists the files that are read.
func (p *Plan) inputs() []string {
	files := slices.Clone(p.ck.Files())
	for _, ck := range p.others {
		files = append(files, ck.Files()...)
	}
	if p.opt.MetadataFile != "" {
		files = append(files, p.opt.MetadataFile)
	}
	return files
}

// verify returns an error if an input is no longer what it was.
func (p *Plan) verify() error {
	for _, ck := range append(p.others, p.ck) {
		if err := ck.Verify(); err != nil {
			return err
		}
	}
	return nil
}

// Source returns the model that Run would write as one to quantize, so that a
// checkpoint becomes a quantized file without the one between: its weights go
// through the types of this plan on their way.
func (p *Plan) Source() *quantize.Source {
	s := &quantize.Source{Name: p.opt.In, Metadata: p.Metadata, Paths: p.inputs(), Parts: 1, Verify: p.verify}
	for i, t := range p.Tensors {
		s.Tensors = append(s.Tensors, quantize.Tensor{
			Name: t.Name,
			Type: t.Type,
			Dims: gguf.NewTensor(t.Name, t.Type, t.Shape).Dims,
			Rows: stream.Cast(p.rows[i], t.Type),
		})
	}
	return s
}

// Result says what a run did.
type Result struct {
	Files     []string
	Bytes     int64
	Nonfinite []stream.Nonfinite // only with AllowNonfinite
}

// Run converts. Outputs appear under their names when all of them are
// complete; after an error or when ctx ends, none does. progress, which may be
// nil, is told how many of SourceBytes are done.
func (p *Plan) Run(ctx context.Context, progress func(done int64)) (*Result, error) {
	specs := make([]stream.Spec, len(p.Files))
	for i, name := range p.Files {
		specs[i] = stream.Spec{Path: name, Size: p.layouts[i].Size}
	}
	outs, err := stream.CreateAll(specs, p.opt.Force, p.inputs())
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, o := range outs {
			o.Abort()
		}
	}()
	var jobs []stream.Job
	for f, l := range p.layouts {
		if _, err := outs[f].WriteAt(l.Header, 0); err != nil {
			return nil, err
		}
		for i, t := range l.Tensors {
			jobs = append(jobs, stream.Job{
				Name:    t.Name,
				Src:     p.rows[len(jobs)],
				Targets: []stream.Target{{W: outs[f], Offset: l.Offset(i), Type: t.Type}},
			})
		}
	}
	if len(jobs) != len(p.rows) {
		return nil, errors.New("the layout does not hold all tensors")
	}
	found, err := stream.Run(ctx, jobs, stream.Options{Threads: p.opt.Threads, Progress: progress, AllowNonfinite: p.opt.AllowNonfinite})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.opt.In, err)
	}
	if err := p.verify(); err != nil {
		return nil, err
	}
	if err := stream.CommitAll(outs); err != nil {
		return nil, err
	}
	return &Result{Files: p.Files, Bytes: p.Size, Nonfinite: found}, nil
}
