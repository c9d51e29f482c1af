package quantize

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/formats/gguf"
	"github.com/smeltgguf/smelt/internal/imatrix"
	"github.com/smeltgguf/smelt/internal/recipe"
	"github.com/smeltgguf/smelt/quant"
)

// Options say what to make of a source; the zero value with one target is
// ready to use.
type Options struct {
	Targets []Target // one output each, made in one pass

	Pure        bool
	LeaveOutput bool
	OutputType  *quant.Type
	EmbdType    *quant.Type
	Overrides   []recipe.Override

	Imatrix     *imatrix.Matrix // nil: none
	ImatrixFile string          // its path; the base name goes into the metadata
	Include     []string        // of the matrix, use only entries whose names contain one of these
	Exclude     []string        // and none of these

	Inputs []string // further files that were read, such as recipes; none may be replaced

	Prune      []int // layers to take out
	OverrideKV []KV
	KeepSplit  bool // outputs have the parts of the source
	// Split divides outputs anew; not together with KeepSplit.
	Split gguf.SplitOptions

	AllowRequantize bool // from quantized tensors as well
	Strict          bool // substitutions, missing importance and notes are errors
	// Notes are of the caller's own about requests without effect; those of the
	// plan come after them.
	Notes []string
	// DryRun: what would be missing is a warning rather than an error.
	DryRun bool
}

// Target is a recipe, or nil to copy all tensors as they are.
type Target struct{ Recipe *recipe.Recipe }

// Name returns what {ftype} in an output's name stands for.
func (t Target) Name() string {
	if t.Recipe == nil {
		return "COPY"
	}
	return t.Recipe.Name
}

// Plan is all that is decided before the first weight is read.
type Plan struct {
	Source  *Source
	Outputs []*Output

	opt       Options
	unmatched []string // notes on texts that choose no entry of the matrix
	tensors   []Tensor // of the source, in the outputs' order, pruned ones left out
}

// Output is the plan of one output.
type Output struct {
	Target   Target
	FileType uint32
	Tensors  []Planned      // in order
	Notes    []string       // requests without effect, a sentence each
	Layouts  []*gguf.Layout // one, or one per part

	place []place // of each tensor
}

// place is where a tensor goes.
type place struct{ part, index int }

// Planned is what becomes of a tensor.
type Planned struct {
	Name   string // in the output
	Source string // name in the source, which pruning may have changed
	From   quant.Type
	Dims   []uint64
	recipe.Choice

	Coverage   Coverage
	importance *imatrix.Entry
}

// Converted reports whether the tensor's bytes are not simply copied.
func (p *Planned) Converted() bool { return p.Type != p.From }

// Substituted reports whether another type stands in for the chosen one.
func (p *Planned) Substituted() bool { return p.Reason != "" }

// Coverage tells how a tensor stands with the importance matrix.
type Coverage uint8

const (
	NotAsked  Coverage = iota // no matrix, or the tensor is not quantized
	Covered                   // the matrix has an entry that fits
	Uncovered                 // it has none
	Unfitting                 // its entry is of another size
)

// New plans the outputs for a source: a pure function of the source's metadata
// and the options. Where something is missing or refused, the error names the
// tensor.
func New(src *Source, opt Options) (*Plan, error) {
	if len(opt.Targets) == 0 {
		return nil, fmt.Errorf("no type to quantize to")
	}
	var unmatched []string
	if opt.Imatrix != nil {
		unmatched = unmatchedFilters(opt.Imatrix, &opt)
		opt.Imatrix = filterImatrix(opt.Imatrix, opt.Include, opt.Exclude)
		switch {
		case opt.Imatrix.Len() > 0:
		case len(opt.Include) > 0:
			return nil, formats.Malformedf(opt.ImatrixFile, -1, "--include-weights matches no entry of the importance matrix")
		case len(opt.Exclude) > 0:
			return nil, formats.Malformedf(opt.ImatrixFile, -1, "--exclude-weights leaves no entry of the importance matrix")
		default:
			return nil, formats.Malformedf(opt.ImatrixFile, -1, "the importance matrix has no entries")
		}
	}
	p := &Plan{Source: src, opt: opt, unmatched: unmatched}
	blocks, names, err := p.order()
	if err != nil {
		return nil, err
	}
	withOverrides := src.Metadata.Clone()
	for _, kv := range opt.OverrideKV {
		withOverrides.Set(kv.Key, kv.Value)
	}
	model, err := modelOf(withOverrides, src.Name)
	if err != nil {
		return nil, err
	}
	for _, t := range opt.Targets {
		o, err := p.output(t, model, names, blocks)
		if err != nil {
			return nil, err
		}
		p.Outputs = append(p.Outputs, o)
	}
	return p, nil
}

// order sorts the source's tensors as the outputs have them, and returns their
// names there and the number of layers that pruning leaves, or -1.
func (p *Plan) order() (blocks int, names []string, err error) {
	all := slices.Clone(p.Source.Tensors)
	slices.SortStableFunc(all, func(a, b Tensor) int { return recipe.Compare(a.Name, b.Name) })
	pr := pruner{prune: p.opt.Prune, to: map[int]int{}}
	renamed := map[string]string{}
	for _, t := range all {
		if name, ok := pr.rename(t.Name); ok {
			renamed[t.Name] = name
			p.tensors = append(p.tensors, t)
		}
	}
	if p.opt.KeepSplit {
		// The source's order within each part, as upstream.
		at := map[string]int{}
		for i, t := range p.Source.Tensors {
			at[t.Name] = i
		}
		slices.SortFunc(p.tensors, func(a, b Tensor) int { return cmp.Compare(at[a.Name], at[b.Name]) })
	}
	for _, t := range p.tensors {
		names = append(names, renamed[t.Name])
	}
	blocks = -1
	if len(p.opt.Prune) > 0 {
		for _, n := range p.opt.Prune {
			if _, ok := pr.to[n]; !ok {
				return 0, nil, formats.Malformedf(p.Source.Name, -1, "no layer %d to prune", n)
			}
		}
		if blocks = pr.next; blocks == 0 {
			return 0, nil, formats.Malformedf(p.Source.Name, -1, "pruning leaves no layer")
		}
	}
	return blocks, names, nil
}

func (p *Plan) output(target Target, model recipe.Model, names []string, blocks int) (*Output, error) {
	opt := &p.opt
	o := &Output{Target: target}
	ts := make([]recipe.Tensor, len(names))
	for i, t := range p.tensors {
		ts[i] = recipe.Tensor{Name: names[i], Type: t.Type, Dims: t.Dims}
	}
	var choices []recipe.Choice
	if r := target.Recipe; r != nil {
		o.FileType = r.FileType
		choices = r.Choose(model, ts, recipe.Options{
			Importance:  opt.Imatrix != nil,
			Pure:        opt.Pure,
			LeaveOutput: opt.LeaveOutput,
			OutputType:  opt.OutputType,
			EmbdType:    opt.EmbdType,
			Overrides:   opt.Overrides,
		})
	} else {
		o.FileType = copiedFileType(p.Source)
		for i := range ts {
			choices = append(choices, recipe.Choice{Type: ts[i].Type, Wanted: ts[i].Type, Kept: "copied"})
		}
	}
	for i, c := range choices {
		t := &p.tensors[i]
		pl := Planned{Name: names[i], Source: t.Name, From: t.Type, Dims: t.Dims, Choice: c}
		if err := p.check(target, t, &pl); err != nil {
			return nil, err
		}
		o.Tensors = append(o.Tensors, pl)
	}
	o.Notes = p.notes(o)
	if opt.Strict && len(o.Notes) > 0 {
		return nil, formats.Unsupportedf(p.Source.Name, -1, "%s: %s", target.Name(), o.Notes[0]).
			WithHint("leave that out, or --strict")
	}
	if err := o.layout(p, metadata(p.Source.Metadata, o.FileType, opt, blocks)); err != nil {
		return nil, fmt.Errorf("%s: %s: %w", p.Source.Name, target.Name(), err)
	}
	return o, nil
}

// notes says which of the requests have no effect on an output, or another
// than they ask for.
func (p *Plan) notes(o *Output) []string {
	opt := &p.opt
	used := map[*quant.Type]bool{}
	asked, hasOutput := false, false
	for i := range o.Tensors {
		t := &o.Tensors[i]
		used[t.By] = true
		asked = asked || t.Coverage != NotAsked
		hasOutput = hasOutput || t.Name == "output.weight"
	}
	notes := slices.Clone(opt.Notes)
	add := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	if opt.Pure && o.Target.Recipe == nil {
		add("--pure has no effect: tensors are copied")
	}
	if opt.LeaveOutput && !hasOutput {
		add("--leave-output-tensor has no effect: the model has no output.weight")
	}
	if opt.OutputType != nil && !used[opt.OutputType] {
		add("--output-tensor-type %s chooses for no tensor", *opt.OutputType)
	}
	if opt.EmbdType != nil && !used[opt.EmbdType] {
		add("--token-embedding-type %s chooses for no tensor", *opt.EmbdType)
	}
	for i := range opt.Overrides {
		if or := &opt.Overrides[i]; !used[&or.Type] {
			add("--tensor-type %s chooses for no tensor", formats.Quote(fmt.Sprintf("%s=%s", or.Pattern, or.Type)))
		}
	}
	for i, kv := range opt.OverrideKV {
		if slices.ContainsFunc(opt.OverrideKV[:i], func(o KV) bool { return o.Key == kv.Key }) {
			add("--override-kv %s is given twice: the last counts", formats.Quote(kv.Key))
		}
		if kv.Negative {
			add("--override-kv %s: negative numbers are written without their sign, as %v", formats.Quote(kv.Key), kv.Value)
		}
	}
	switch {
	case opt.Imatrix != nil && !asked:
		add("--imatrix has no effect: no tensor is quantized")
	case opt.Imatrix == nil && len(opt.Include)+len(opt.Exclude) > 0:
		add("--include-weights and --exclude-weights have no effect without --imatrix")
	}
	return append(notes, p.unmatched...)
}

// check refuses what cannot or should not be done to a tensor, and finds its
// importance.
func (p *Plan) check(target Target, t *Tensor, pl *Planned) error {
	opt := &p.opt
	refuse := func(format string, args ...any) *formats.FormatError {
		return formats.Unsupportedf(p.Source.Name, -1, "%s: tensor %s: %s", target.Name(), formats.Quote(t.Name), fmt.Sprintf(format, args...))
	}
	if !pl.Converted() {
		return nil
	}
	switch t.Type {
	case quant.F32, quant.F16, quant.BF16:
	default:
		if !recipe.Quantized(t.Type) || !t.Type.CanDecode() {
			return refuse("%s cannot be quantized", t.Type)
		}
		if !opt.AllowRequantize {
			return refuse("is %s already; %s from it loses more than from the original", t.Type, pl.Type).
				WithHint("quantize the F16, BF16 or F32 model, or use --allow-requantize")
		}
	}
	if !pl.Type.CanEncode() {
		return refuse("cannot encode %s", pl.Type)
	}
	if opt.Strict && pl.Substituted() {
		return refuse("%s does not fit (%s), %s would stand in for it", pl.Wanted, pl.Reason, pl.Type).
			WithHint("choose a type for it with --tensor-type, or leave out --strict")
	}
	if opt.Imatrix != nil && recipe.Quantized(pl.Type) {
		p.cover(t, pl)
		embedding := recipe.KindOf(pl.Name) == recipe.TokenEmbd
		switch {
		case pl.Coverage == Unfitting && (!embedding || pl.NeedsImportance):
			return refuse("its importance has %d values, the tensor wants %d x %d; the matrix is of another model",
				opt.Imatrix.Entry(t.Name).Len(), t.dim(0), t.dim(2))
		case pl.Coverage != Covered && opt.Strict && !embedding && recipe.KindOf(pl.Name) != recipe.Output:
			return refuse("the importance matrix has no entry for it").WithHint("leave out --strict, or use a matrix of more text")
		}
	}
	if pl.NeedsImportance && pl.Coverage != Covered && !opt.DryRun {
		if opt.Imatrix == nil {
			return refuse("%s needs an importance matrix", pl.Type).WithHint("give one with --imatrix")
		}
		return refuse("%s needs importance, and the matrix has no entry for the tensor; the result would be garbage", pl.Type)
	}
	return nil
}

// cover looks the tensor up in the importance matrix.
func (p *Plan) cover(t *Tensor, pl *Planned) {
	e := p.opt.Imatrix.Entry(t.Name)
	switch {
	case e == nil:
		pl.Coverage = Uncovered
	case uint64(e.Len()) != t.dim(0)*t.dim(2):
		pl.Coverage = Unfitting
	default:
		pl.Coverage, pl.importance = Covered, e
	}
}

// layout decides where the tensors go.
func (o *Output) layout(p *Plan, meta *gguf.Metadata) error {
	var list []*gguf.Tensor
	for i := range o.Tensors {
		t := &o.Tensors[i]
		list = append(list, &gguf.Tensor{Name: t.Name, Type: t.Type, Dims: trimmed(t.Dims)})
	}
	var err error
	if !p.opt.KeepSplit {
		o.Layouts, err = gguf.PlanSplit(meta, list, p.opt.Split)
	} else {
		groups := make([][]*gguf.Tensor, p.Source.Parts)
		for i, t := range list {
			part := p.tensors[i].Part
			groups[part] = append(groups[part], t)
		}
		for i, g := range groups {
			m := meta
			if len(groups) > 1 {
				m = gguf.SplitMetadata(meta, i, len(groups), len(list), false)
			}
			l, err := gguf.Plan(m, g)
			if err != nil {
				return err
			}
			o.Layouts = append(o.Layouts, l)
		}
	}
	// Both keep the tensors' order.
	for part, l := range o.Layouts {
		for i := range l.Tensors {
			o.place = append(o.place, place{part, i})
		}
	}
	return err
}

// trimmed leaves out dimensions of 1 at the end, as ggml writes them.
func trimmed(dims []uint64) []uint64 {
	n := len(dims)
	for n > 1 && dims[n-1] == 1 {
		n--
	}
	return dims[:n]
}

// copiedFileType returns the file type of a model whose tensors are copied:
// what its metadata says, or, marked as guessed, the type that most of its
// tensors have.
func copiedFileType(s *Source) uint32 {
	if n, err := s.Metadata.Uint("general.file_type"); err == nil && n < 1<<32 {
		return uint32(n)
	}
	const guessed = 1024 // LLAMA_FTYPE_GUESSED
	counts := map[quant.Type]int{}
	best := quant.F32
	for _, t := range s.Tensors {
		counts[t.Type]++
	}
	for t, n := range counts {
		if n > counts[best] || n == counts[best] && t < best {
			best = t
		}
	}
	if r, err := recipe.Find(best.String()); err == nil {
		return guessed | r.FileType
	}
	return guessed
}

// Paths returns the files that output i makes, given the name that the person
// asked for, in which {ftype} stands for the recipe in lower case and {FTYPE}
// for it in upper case.
func (p *Plan) Paths(i int, name string) []string {
	o := p.Outputs[i]
	ftype := o.Target.Name()
	name = strings.NewReplacer("{ftype}", strings.ToLower(ftype), "{FTYPE}", strings.ToUpper(ftype)).Replace(name)
	if !p.opt.KeepSplit && len(o.Layouts) == 1 {
		return []string{name}
	}
	var paths []string
	for n := range o.Layouts {
		paths = append(paths, gguf.SplitName(name, n, len(o.Layouts)))
	}
	return paths
}
