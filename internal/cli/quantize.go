package cli

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/formats/gguf"
	"github.com/smeltgguf/smelt/internal/imatrix"
	"github.com/smeltgguf/smelt/internal/manifest"
	"github.com/smeltgguf/smelt/internal/quantize"
	"github.com/smeltgguf/smelt/internal/recipe"
	"github.com/smeltgguf/smelt/internal/report"
	"github.com/smeltgguf/smelt/internal/stream"
	"github.com/smeltgguf/smelt/quant"
)

// quantizeFlags are the flags that say what to quantize to; convert has them
// as well.
type quantizeFlags struct {
	recipes        []string
	imatrix        string
	include        []string
	exclude        []string
	pure           bool
	leaveOutput    bool
	outputType     string
	embdType       string
	tensorTypes    []string
	tensorTypeFile string
	strict         bool
	report         string
	resume         bool
}

// quantizeFlagNames are the flags that add makes.
var quantizeFlagNames = []string{
	"recipe", "imatrix", "include-weights", "exclude-weights", "pure", "leave-output-tensor", "output-tensor-type",
	"token-embedding-type", "tensor-type", "tensor-type-file", "strict", "report", "resume",
}

// usedQuantizeFlags names those that were given.
func usedQuantizeFlags(cmd *cobra.Command) []string {
	var used []string
	for _, name := range quantizeFlagNames {
		if cmd.Flags().Changed(name) {
			used = append(used, "--"+name)
		}
	}
	return used
}

func (q *quantizeFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&q.recipes, "recipe", nil, "recipe file of your own (see 'smelt recipe show')")
	f.StringVar(&q.imatrix, "imatrix", "", "importance matrix, GGUF or .dat")
	f.StringArrayVar(&q.include, "include-weights", nil, "use the importance matrix only for tensors whose names contain this")
	f.StringArrayVar(&q.exclude, "exclude-weights", nil, "do not use it for tensors whose names contain this")
	f.BoolVar(&q.pure, "pure", false, "give every tensor the base type instead of a mixture")
	f.BoolVar(&q.leaveOutput, "leave-output-tensor", false, "leave output.weight as it is")
	f.StringVar(&q.outputType, "output-tensor-type", "", "type of output.weight")
	f.StringVar(&q.embdType, "token-embedding-type", "", "type of the token embeddings")
	f.StringArrayVar(&q.tensorTypes, "tensor-type", nil, "PATTERN=TYPE: type of the tensors whose names match; the first match counts")
	f.StringVar(&q.tensorTypeFile, "tensor-type-file", "", "file of PATTERN=TYPE, separated by spaces or newlines")
	f.BoolVar(&q.strict, "strict", false, "refuse substituted types, missing importance and requests without effect")
	f.StringVar(&q.report, "report", "", "write the error of every tensor to this JSON file")
	f.BoolVar(&q.resume, "resume", false, "continue an interrupted run; if interrupted, leave what is done")
	cmd.MarkFlagsMutuallyExclusive("include-weights", "exclude-weights")
}

// options turns the flags into options; types is the list given with -q. Close
// the importance matrix, which may be nil, after use.
func (q *quantizeFlags) options(types string) (quantize.Options, error) {
	opt := quantize.Options{
		Pure: q.pure, LeaveOutput: q.leaveOutput, Strict: q.strict,
		ImatrixFile: q.imatrix, Include: q.include, Exclude: q.exclude,
	}
	var err error
	if opt.Targets, err = q.targets(types); err != nil {
		return opt, err
	}
	for _, t := range []struct {
		name string
		to   **quant.Type
	}{{q.outputType, &opt.OutputType}, {q.embdType, &opt.EmbdType}} {
		if t.name == "" {
			continue
		}
		typ, err := targetType(t.name)
		if err != nil {
			return opt, usageError{err}
		}
		*t.to = &typ
	}
	opt.Inputs = slices.Clone(q.recipes)
	for _, s := range q.tensorTypes {
		o, err := parseOverride(s)
		if err != nil {
			return opt, usageError{err}
		}
		opt.Overrides = append(opt.Overrides, o)
	}
	if q.tensorTypeFile != "" {
		opt.Inputs = append(opt.Inputs, q.tensorTypeFile)
		text, err := readSmall(q.tensorTypeFile)
		if err != nil {
			return opt, err
		}
		n := 0
		for line := range strings.Lines(text) {
			n++
			for _, s := range strings.Fields(line) {
				o, err := parseOverride(s)
				if err != nil {
					return opt, formats.Malformedf(fmt.Sprintf("%s:%d", q.tensorTypeFile, n), -1, "%v", err)
				}
				opt.Overrides = append(opt.Overrides, o)
			}
		}
	}
	if q.imatrix != "" {
		opt.Imatrix, err = imatrix.OpenLazy(q.imatrix)
	}
	return opt, err
}

func (q *quantizeFlags) targets(types string) ([]quantize.Target, error) {
	var out []quantize.Target
	if types != "" {
		for _, name := range strings.Split(types, ",") {
			if strings.EqualFold(name, "copy") {
				out = append(out, quantize.Target{})
				continue
			}
			r, err := recipe.Find(name)
			if err != nil {
				return nil, usageError{err}
			}
			out = append(out, quantize.Target{Recipe: r})
		}
	}
	for _, path := range q.recipes {
		text, err := readSmall(path)
		if err != nil {
			return nil, err
		}
		r, err := recipe.Parse(path, text)
		if err != nil {
			return nil, err
		}
		out = append(out, quantize.Target{Recipe: r})
	}
	for i, t := range out {
		if slices.ContainsFunc(out[:i], func(o quantize.Target) bool { return strings.EqualFold(o.Name(), t.Name()) }) {
			return nil, usagef("type %s is given twice", t.Name())
		}
	}
	if len(out) == 0 {
		return nil, usagef("no type: give -q TYPE or --recipe FILE")
	}
	return out, nil
}

func targetType(name string) (quant.Type, error) {
	t, err := quant.ParseType(name)
	if err == nil && !recipe.Target(t) {
		err = fmt.Errorf("%s is no type for the tensors of a file", t)
	}
	return t, err
}

// parseOverride reads PATTERN=TYPE. Patterns are in lower case, as in
// llama-quantize.
func parseOverride(s string) (recipe.Override, error) {
	pattern, name, ok := strings.Cut(s, "=")
	if !ok || pattern == "" {
		return recipe.Override{}, fmt.Errorf("tensor type %s: want PATTERN=TYPE", formats.Quote(s))
	}
	t, err := targetType(name)
	if err != nil {
		return recipe.Override{}, err
	}
	p, err := recipe.ParsePattern(strings.ToLower(pattern))
	if err != nil {
		return recipe.Override{}, err
	}
	return recipe.Override{Pattern: p, Type: t}, nil
}

// readSmall reads a text file that a person wrote.
func readSmall(path string) (string, error) {
	const limit = 1 << 20
	f, err := formats.OpenRegular(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return "", err
	}
	if len(b) > limit {
		return "", formats.Malformedf(path, -1, "longer than %d bytes", limit)
	}
	return string(b), nil
}

func newQuantize() *cobra.Command {
	var (
		q                  quantizeFlags
		types, in, out     string
		overrideKV         []string
		prune              string
		keepSplit, requant bool
		dryRun, force      bool
		quiet, jsonOut     bool
		nonfinite, sidecar bool
		threads            int
	)
	cmd := &cobra.Command{
		Use:   "quantize -q TYPE[,TYPE...] IN [OUT]",
		Short: "Quantize a GGUF file, to the same bytes as llama-quantize",
		Long: `Quantize a GGUF file. Types are llama.cpp's, in any case: ` + strings.Join(recipe.Names(), ", ") + `;
COPY copies all tensors. Several types make several files in one pass over the
source; {ftype} in the output's name stands for the type.`,
		Example: `  quantize -q q4_k_m model-f16.gguf model-q4_k_m.gguf
  quantize -q q4_k_m,q5_k_m,q8_0 model-f16.gguf --out 'model-{ftype}.gguf'
  quantize -q iq2_xs --imatrix model.imatrix.gguf model-f16.gguf model-iq2_xs.gguf
  quantize -q q4_k_m --tensor-type 'ffn_down=q6_k' --dry-run model-f16.gguf`,
		Args: quantizeArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, to := range []*string{&in, &out} {
				if *to == "" && len(args) > 0 {
					*to, args = args[0], args[1:]
				}
			}
			if len(args) > 0 {
				return usagef("input and output are given twice")
			}
			if in == "" {
				return usagef("no input: give a GGUF file")
			}
			opt, err := q.options(types)
			if err != nil {
				return err
			}
			defer opt.Imatrix.Close()
			opt.KeepSplit, opt.AllowRequantize = keepSplit, requant
			if dryRun {
				opt.DryRun, opt.Notes = true, dryRunNotes(cmd)
			}
			if opt.Prune, err = parseLayers(prune); err != nil {
				return err
			}
			for _, s := range overrideKV {
				kv, err := quantize.ParseKV(s)
				if err != nil {
					return usageError{err}
				}
				opt.OverrideKV = append(opt.OverrideKV, kv)
			}
			f, err := gguf.Open(in)
			if err != nil {
				return err
			}
			defer f.Close()
			plan, err := quantize.New(quantize.FromGGUF(f), opt)
			if err != nil {
				return err
			}
			p := quantizePrinter{cmd: cmd, quiet: quiet, json: jsonOut, manifest: sidecar, imatrix: q.imatrix}
			if dryRun {
				return p.plan(plan)
			}
			if out == "" {
				out = filepath.Join(filepath.Dir(in), "ggml-model-{FTYPE}.gguf")
			}
			return p.run(plan, q.report, quantize.RunOptions{
				Out: out, Force: force, Threads: threads, AllowNonfinite: nonfinite, Resume: q.resume,
			})
		},
	}
	q.add(cmd)
	f := cmd.Flags()
	f.StringVarP(&types, "type", "q", "", "type to quantize to; several, separated by commas, make several files")
	f.StringVar(&in, "in", "", "input: a GGUF file, or any part of a split one")
	f.StringVar(&out, "out", "", "output (default ggml-model-TYPE.gguf beside the input)")
	f.StringArrayVar(&overrideKV, "override-kv", nil, "KEY=TYPE:VALUE: set a metadata key; types are int, float, bool and str")
	f.StringVar(&prune, "prune-layers", "", "layers to take out, separated by commas")
	f.BoolVar(&keepSplit, "keep-split", false, "write the same parts as the input has")
	f.BoolVar(&requant, "allow-requantize", false, "quantize tensors that are quantized already")
	f.BoolVar(&nonfinite, "allow-nonfinite", false, "go on where the source holds NaN or infinity")
	f.BoolVar(&sidecar, "manifest", false, "write OUT.manifest.json, too: checksums of inputs and output, type, version, command")
	f.BoolVar(&dryRun, "dry-run", false, "print the plan and write nothing")
	f.BoolVar(&force, "force", false, "replace the output if it exists")
	f.IntVar(&threads, "threads", 0, "threads (default: all processors)")
	f.BoolVar(&quiet, "quiet", false, "print errors only")
	f.BoolVar(&jsonOut, "json", false, "print the summary or the plan as a JSON array, one object per output")
	return cmd
}

const dryRunNote = " has no effect: a dry run writes nothing"

// quantizeArgs allows IN and OUT. llama-quantize takes the type behind them.
func quantizeArgs(_ *cobra.Command, args []string) error {
	if len(args) <= 2 {
		return nil
	}
	example := "q4_k_m"
	if _, err := recipe.Find(args[2]); err == nil {
		example = strings.ToLower(args[2])
	}
	return usagef("want IN and OUT, found %d arguments; the type is given as -q %s", len(args), example)
}

// dryRunNotes says which of the given flags ask for what a dry run does not do.
func dryRunNotes(cmd *cobra.Command) []string {
	var notes []string
	for _, name := range []string{"report", "manifest", "resume"} {
		if cmd.Flags().Changed(name) {
			notes = append(notes, "--"+name+dryRunNote)
		}
	}
	return notes
}

func parseLayers(s string) ([]int, error) {
	if s == "" {
		return nil, nil
	}
	var out []int
	for _, f := range strings.Split(s, ",") {
		n, err := strconv.Atoi(f)
		if err != nil || n < 0 {
			return nil, usagef("layer %s: want a number", formats.Quote(f))
		}
		out = append(out, n)
	}
	return out, nil
}

// quantizePrinter prints plans and results.
type quantizePrinter struct {
	cmd         *cobra.Command
	quiet, json bool
	manifest    bool   // write one per output
	imatrix     string // its file, for the manifest
}

func (p *quantizePrinter) notice(s string) {
	if !p.quiet {
		fmt.Fprintf(p.cmd.ErrOrStderr(), "%s: %s\n", p.cmd.Name(), s)
	}
}

// run quantizes and prints the summary.
func (p *quantizePrinter) run(plan *quantize.Plan, reportPath string, opt quantize.RunOptions) error {
	var outputs [][]string
	for i := range plan.Outputs {
		outputs = append(outputs, plan.Paths(i, opt.Out))
	}
	if len(plan.Outputs) > 1 && !strings.Contains(strings.ToLower(opt.Out), "{ftype}") {
		return usagef("%s: %d outputs have this name: put {ftype} into it", opt.Out, len(plan.Outputs))
	}
	var m *manifests
	var rep *stream.Output
	var err error
	if p.manifest {
		if m, err = newManifests(p.cmd.Context(), outputs, plan.Source.Paths, p.imatrix, plan.Inputs(), opt.Force); err != nil {
			return err
		}
		defer m.giveUp()
	}
	if reportPath != "" {
		if rep, err = claimReport(reportPath, outputs, p.manifest, opt.Force, plan.Inputs()); err != nil {
			return err
		}
		defer rep.Abort()
	}
	bar := newProgress(p.cmd.ErrOrStderr(), p.cmd.Name(), "B", plan.SourceBytes(), p.quiet)
	opt.Measure = reportPath != ""
	opt.Progress = func(done int64) { bar.set(done, "") }
	opt.Notice = func(s string) {
		bar.clear()
		p.notice(s)
	}
	opt.Version = versionString()
	res, err := plan.Run(p.cmd.Context(), opt)
	bar.finish()
	if err != nil {
		return err
	}
	if m != nil {
		var types []string
		for _, o := range plan.Outputs {
			types = append(types, o.Target.Name())
		}
		if err := m.commit(p.cmd.Context(), types); err != nil {
			return err
		}
	}
	return p.result(plan, res, rep)
}

// plan prints what a dry run found.
func (p *quantizePrinter) plan(plan *quantize.Plan) error {
	var all []*quantize.Summary
	for i := range plan.Outputs {
		all = append(all, plan.Summarize(i, nil))
	}
	if p.json {
		return printJSON(p.cmd.OutOrStdout(), all)
	}
	w := bufio.NewWriter(p.cmd.OutOrStdout())
	for _, s := range all {
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintf(tw, "tensor\tdims\tfrom\tto\tbytes\t%s\n", s.FType)
		for _, t := range s.Plan {
			row := fmt.Sprintf("%s\t%s\t%s\t%s\t%d\t%s", formats.Name(t.Name), dimsString(t.Dims), t.From, t.Type, t.Bytes, t.Note)
			fmt.Fprintln(tw, strings.TrimRight(row, "\t"))
		}
		tw.Flush()
		printSummary(w, s)
	}
	return w.Flush()
}

// result prints what a run made, and writes the report unless that is nil.
func (p *quantizePrinter) result(plan *quantize.Plan, res *quantize.Result, rep *stream.Output) error {
	var all []*quantize.Summary
	for i := range plan.Outputs {
		all = append(all, plan.Summarize(i, res))
	}
	for _, n := range res.Nonfinite {
		p.notice("warning: " + n.String())
	}
	if rep != nil {
		var b bytes.Buffer
		if err := printJSON(&b, all); err != nil {
			return err
		}
		if _, err := rep.WriteAt(b.Bytes(), 0); err != nil {
			return err
		}
		if err := rep.Commit(); err != nil {
			return err
		}
	}
	if p.json {
		return printJSON(p.cmd.OutOrStdout(), all)
	}
	if p.quiet {
		return nil
	}
	w := bufio.NewWriter(p.cmd.OutOrStdout())
	for _, s := range all {
		fmt.Fprintln(w, strings.Join(s.Paths, "\n"))
		printSummary(w, s)
	}
	return w.Flush()
}

// printSummary prints what the people who publish the file want to know.
func printSummary(w io.Writer, s *quantize.Summary) {
	fmt.Fprintf(w, "%s: %s from %s of tensors, %.2f bits per weight\n", s.FType, report.Bytes(s.Bytes), report.Bytes(s.SourceBytes), s.BitsPerWeight)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, t := range s.Types {
		fmt.Fprintf(tw, "  %s\t%s\t%s\n", t.Type, report.Plural(t.Tensors, "tensor"), report.Bytes(t.Bytes))
	}
	tw.Flush()
	if s.Importance != nil {
		fmt.Fprintf(w, "importance: %s\n", s.Importance)
		for _, n := range s.Importance.Missing {
			fmt.Fprintf(w, "  none for %s\n", formats.Name(n))
		}
		if s.Importance.Unseen > 0 {
			fmt.Fprintf(w, "  %s never seen, counted as all ones\n", report.Plural(s.Importance.Unseen, "expert"))
		}
	}
	if n := len(s.NeedImportance); n > 0 {
		fmt.Fprintf(w, "warning: no importance matrix for %s that cannot do without, first %s\n", report.Plural(n, "tensor"), formats.Name(s.NeedImportance[0]))
	}
	if n := len(s.Substitutions); n > 0 {
		fmt.Fprintf(w, "substituted: %s\n", report.Plural(n, "tensor"))
		for _, t := range s.Substitutions {
			fmt.Fprintf(w, "  %s: %s for %s, %s\n", formats.Name(t.Tensor), t.Got, t.Wanted, t.Reason)
		}
	}
	for _, n := range s.Notes {
		fmt.Fprintf(w, "note: %s\n", n)
	}
	worst := s.Worst(5)
	if len(worst) == 0 {
		return
	}
	note := ""
	if s.Sampled {
		note = " (sampled)"
	}
	fmt.Fprintf(w, "largest errors%s:\n", note)
	for _, t := range worst {
		fmt.Fprintf(tw, "  %s\t%s\trelative RMSE %.4f\tmax %.3g\tcosine %.6f\tSNR %.1f dB\n", formats.Name(t.Name), t.Type, t.Relative, t.MaxAbs, t.Cosine, t.SNR)
	}
	tw.Flush()
}

// claimReport prepares the report's file before the run, so that it does not
// fail over it at its end. outputs are the models' files; with manifests each
// model has one of these as well.
func claimReport(path string, outputs [][]string, manifests, force bool, inputs []string) (*stream.Output, error) {
	for _, files := range outputs {
		others := files
		if manifests {
			others = append(slices.Clone(files), manifest.Path(files[0]))
		}
		for _, o := range others {
			if placeOf(o) == placeOf(path) {
				return nil, &stream.OutputError{Path: path, Msg: "the report and another output have this name", Hint: "write the report to another file"}
			}
		}
	}
	return stream.Create(path, 0, force, inputs...)
}

// placeOf returns where a file of that name will be, links to its directory
// resolved.
func placeOf(path string) string {
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err == nil {
		dir, err = filepath.Abs(dir)
	}
	if err != nil {
		return path
	}
	return filepath.Join(dir, filepath.Base(path))
}
