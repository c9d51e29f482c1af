package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/formats/gguf"
	"github.com/smeltgguf/smelt/internal/arch"
	"github.com/smeltgguf/smelt/internal/convert"
	"github.com/smeltgguf/smelt/internal/quantize"
	"github.com/smeltgguf/smelt/internal/report"
	"github.com/smeltgguf/smelt/quant"
)

func newConvert() *cobra.Command {
	var o convertOptions
	cmd := &cobra.Command{
		Use:   "convert --in PATH --out FILE",
		Short: "Turn a published checkpoint into a GGUF file",
		Long: `convert reads what a model's authors published, a Hugging Face directory
(safetensors or PyTorch) or Meta's own (params.json, consolidated.*), and writes it as
GGUF. The kind of input is recognised by its content.`,
		Example: `  convert --in hf/ --out model.gguf
  convert --in Llama-2-7b/ --out 'llama-2-7b-{ftype}.gguf' --outtype q8_0
  convert --in hf/ --out 'model-{ftype}.gguf' --outtype q4_k_m,q8_0 --imatrix model.imatrix.gguf
  convert --in adapter/ --base hf/ --out adapter.gguf
  convert --in hf/ --merge-lora adapter/ --out merged.gguf
  convert --in hf/ --out model.gguf --dry-run`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			floats, others := splitOuttype(o.Outtype)
			if len(floats) == 0 || len(floats)+len(others) == 1 || o.list {
				return o.runOne(cmd)
			}
			return o.runList(cmd, floats, others)
		},
	}
	f := cmd.Flags()
	o.quantize.add(cmd)
	f.StringVar(&o.In, "in", "", "checkpoint: directory, or one of its files")
	f.StringVar(&o.Out, "out", "", "GGUF file to write; {ftype} in its name stands for the type; a directory gets a name from the model")
	f.StringVar(&o.Outtype, "outtype", "auto", "type of the weights: auto, "+strings.Join(convert.Outtypes(), ", ")+", or any type of quantize; several, separated by commas, make several files, those of floats each in a pass of its own; a list's q8_0 is quantize's")
	f.BoolVar(&o.VocabOnly, "vocab-only", false, "write metadata and vocabulary, no weights")
	f.StringVar(&o.ModelName, "model-name", "", "general.name (default: from the model card or the directory)")
	f.StringVar(&o.MetadataFile, "metadata", "", "JSON file with general.* keys that replace what the checkpoint says")
	f.StringVar(&o.Pre, "pre", "", "tokenizer.ggml.pre, where the tokenizer's description does not tell")
	f.StringSliceVar(&o.IgnoreConfigKeys, "ignore-config-key", nil, "key of config.json that is known to be harmless (may be repeated)")
	f.StringVar(&o.Base, "base", "", "the model that an adapter belongs to: a directory with its config.json")
	f.StringVar(&o.MergeLoRA, "merge-lora", "", "adapter to merge into the weights")
	f.StringVar(&o.splitMaxSize, "split-max-size", "", "largest size of one file: 2G, 500M (decimal)")
	f.IntVar(&o.SplitMaxTensors, "split-max-tensors", 0, "most tensors in one file")
	f.IntVar(&o.Threads, "threads", 0, "goroutines that convert (default: all cores)")
	f.BoolVar(&o.Force, "force", false, "replace an existing file")
	f.BoolVar(&o.AllowNonfinite, "allow-nonfinite", false, "convert NaN, infinity and overflow as they come, and report them")
	f.BoolVar(&o.manifest, "manifest", false, "write OUT.manifest.json, too: checksums of inputs and output, version, command")
	f.BoolVar(&o.dryRun, "dry-run", false, "print the plan, write nothing")
	f.BoolVar(&o.list, "list", false, "print the model families that are read")
	f.BoolVar(&o.quiet, "quiet", false, "no progress and no summary")
	f.BoolVar(&o.json, "json", false, "print the summary or the plan as a JSON object; where it quantizes, as an array of one per output, before the objects of floats")
	return cmd
}

type convertOptions struct {
	convert.Options
	quantize                  quantizeFlags
	splitMaxSize              string
	dryRun, list, quiet, json bool
	manifest                  bool
}

func (o *convertOptions) run(ctx context.Context, stdout, stderr io.Writer) error {
	if o.list {
		for _, line := range arch.List() {
			if _, err := fmt.Fprintln(stdout, line); err != nil {
				return err
			}
		}
		return nil
	}
	if err := o.check(); err != nil {
		return err
	}
	p, err := convert.NewPlan(o.Options)
	if err != nil {
		return err
	}
	defer p.Close()
	if o.dryRun {
		return o.printPlan(stdout, p)
	}
	var m *manifests
	if o.manifest {
		if m, err = newManifests(ctx, [][]string{p.Files}, p.Source().Paths, "", p.Source().Paths, o.Force); err != nil {
			return err
		}
		defer m.giveUp()
	}
	start := time.Now()
	bar := newProgress(stderr, "convert", "B", p.SourceBytes(), o.quiet)
	res, err := p.Run(ctx, func(done int64) { bar.set(done, "") })
	bar.finish()
	if err != nil {
		return err
	}
	if m != nil {
		if err := m.commit(ctx, []string{p.Outtype}); err != nil {
			return err
		}
	}
	return o.summary(stdout, stderr, p, res, time.Since(start))
}

// check looks at the flags that all conversions share.
func (o *convertOptions) check() error {
	if o.In == "" || o.Out == "" && !o.dryRun {
		return usagef("--in and --out are needed")
	}
	if o.Out == "" {
		o.Out = "."
	}
	if o.splitMaxSize != "" {
		n, err := parseSize(o.splitMaxSize)
		if err != nil {
			return usagef("--split-max-size: %w", err)
		}
		o.SplitMaxSize = n
	}
	return nil
}

// quantizes reports whether the flags ask for more than convert's own types.
func quantizes(cmd *cobra.Command, o *convertOptions) bool {
	if o.list {
		return false
	}
	return len(usedQuantizeFlags(cmd)) > 0 || o.Outtype != "auto" && !slices.ContainsFunc(convert.Outtypes(), func(name string) bool {
		return strings.EqualFold(name, o.Outtype)
	})
}

func (o *convertOptions) runOne(cmd *cobra.Command) error {
	if quantizes(cmd, o) {
		return o.runQuantize(cmd)
	}
	return o.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
}

// splitOuttype divides a list of types into floats, which convert makes itself,
// and those that it makes through --outtype auto.
func splitOuttype(list string) (floats, others []string) {
	for name := range strings.SplitSeq(list, ",") {
		switch strings.ToLower(name) {
		case "f32", "f16", "bf16":
			floats = append(floats, strings.ToLower(name))
		default:
			others = append(others, name)
		}
	}
	return floats, others
}

// runList makes files of several types of which some are floats. Those are
// converted by themselves, so that none is rounded to another's precision.
func (o *convertOptions) runList(cmd *cobra.Command, floats, others []string) error {
	if err := o.check(); err != nil {
		return err
	}
	st, err := os.Stat(o.Out)
	if !(err == nil && st.IsDir()) && !strings.Contains(strings.ToLower(filepath.Base(o.Out)), "type}") {
		return usagef("--outtype %s: several files need {ftype} in --out, or a directory", o.Outtype)
	}
	if used := slices.DeleteFunc(usedQuantizeFlags(cmd), func(name string) bool { return name == "--imatrix" }); len(used) > 0 {
		return usagef("%s: not together with %s; make those files by themselves", strings.Join(used, ", "), strings.Join(floats, ", "))
	}
	if slices.Contains(others, "auto") {
		return usagef("--outtype %s: auto stands alone", o.Outtype)
	}
	seen := map[string]bool{}
	for _, name := range floats {
		if seen[name] {
			return usagef("--outtype %s: %s is there twice", o.Outtype, name)
		}
		seen[name] = true
	}
	if len(others) > 0 { // first, because more can be wrong with them
		rest := *o
		rest.Outtype = strings.Join(others, ",")
		if err := rest.runQuantize(cmd); err != nil {
			return err
		}
	}
	for _, name := range floats {
		one := *o
		one.Outtype = name
		if err := one.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr()); err != nil {
			return err
		}
	}
	return nil
}

// narrowed returns an error if a tensor is to be written as F32 that was F32 and
// has been rounded in between.
func narrowed(p *convert.Plan, plan *quantize.Plan) error {
	rounded := map[string]quant.Type{}
	for _, t := range p.Tensors {
		if t.From == quant.F32 && t.Type != quant.F32 {
			rounded[t.Name] = t.Type
		}
	}
	for _, o := range plan.Outputs {
		for _, t := range o.Tensors {
			if between, ok := rounded[t.Source]; ok && t.Type == quant.F32 {
				return usagef("tensor %s would be F32, but rounded to %v: here types are made from those of --outtype auto; convert with --outtype f32, then use quantize", formats.Name(t.Name), between)
			}
		}
	}
	return nil
}

// runQuantize converts and quantizes in one pass, with the bytes of convert
// --outtype auto and quantize one after the other.
func (o *convertOptions) runQuantize(cmd *cobra.Command) error {
	if err := o.check(); err != nil {
		return err
	}
	types := o.Outtype
	if types == "auto" {
		if len(o.quantize.recipes) == 0 {
			return usagef("%s: give a type to quantize to with --outtype", strings.Join(usedQuantizeFlags(cmd), ", "))
		}
		types = ""
	}
	if o.VocabOnly {
		return usagef("--vocab-only: there is nothing to quantize")
	}
	opt, err := o.quantize.options(types)
	if err != nil {
		return err
	}
	defer opt.Imatrix.Close()
	if o.dryRun {
		opt.DryRun, opt.Notes = true, dryRunNotes(cmd)
	}
	opt.Split = gguf.SplitOptions{MaxTensors: o.SplitMaxTensors, MaxSize: o.SplitMaxSize}
	o.Outtype, o.SplitMaxTensors, o.SplitMaxSize = "auto", 0, 0
	p, err := convert.NewPlan(o.Options)
	if err != nil {
		return err
	}
	defer p.Close()
	plan, err := quantize.New(p.Source(), opt)
	if err != nil {
		return err
	}
	if err := narrowed(p, plan); err != nil {
		return err
	}
	out := quantizePrinter{cmd: cmd, quiet: o.quiet, json: o.json, manifest: o.manifest, imatrix: o.quantize.imatrix}
	if !o.quiet {
		printRemarks(cmd.ErrOrStderr(), describePlan(p))
	}
	if o.dryRun {
		return out.plan(plan)
	}
	return out.run(plan, o.quantize.report, quantize.RunOptions{
		Out: p.OutputName("{ftype}"), Force: o.Force, Threads: o.Threads, AllowNonfinite: o.AllowNonfinite, Resume: o.quantize.resume,
	})
}

// planJSON is the form of --dry-run --json and, with the time that it took, of
// --json.
type planJSON struct {
	Files        []string           `json:"files"`
	Architecture string             `json:"architecture"`
	Outtype      string             `json:"outtype"`
	Parameters   int64              `json:"parameters"`
	Bytes        int64              `json:"bytes"`
	Seconds      float64            `json:"seconds,omitempty"`
	Tensors      []planTensor       `json:"tensors,omitempty"`
	Counts       map[string]int     `json:"counts"`
	Substituted  []planSubstitution `json:"substituted"`
	Skipped      []string           `json:"skipped"`
	Notes        []string           `json:"notes"`
	Nonfinite    []string           `json:"nonfinite"`
}

type planTensor struct {
	Name  string `json:"name"`
	Shape []int  `json:"shape"`
	From  string `json:"from"`
	Type  string `json:"type"`
	Bytes int64  `json:"bytes"`
}

type planSubstitution struct {
	Name   string `json:"name"`
	Type   string `json:"type"`
	Reason string `json:"reason"`
}

func describePlan(p *convert.Plan) planJSON {
	v := planJSON{
		Files: p.Files, Architecture: p.Arch, Outtype: p.Outtype, Parameters: p.Params, Bytes: p.Size,
		Counts: map[string]int{}, Substituted: []planSubstitution{}, Nonfinite: []string{},
		Skipped: append([]string{}, p.Skipped...), Notes: append([]string{}, p.Notes...),
	}
	for _, t := range p.Tensors {
		v.Counts[t.Type.String()]++
		v.Tensors = append(v.Tensors, planTensor{t.Name, t.Shape, t.From.String(), t.Type.String(), t.Size})
		if t.Substituted != "" {
			v.Substituted = append(v.Substituted, planSubstitution{t.Name, t.Type.String(), t.Substituted})
		}
	}
	return v
}

func (o *convertOptions) printPlan(w io.Writer, p *convert.Plan) error {
	v := describePlan(p)
	if o.manifest {
		v.Notes = append(v.Notes, "--manifest"+dryRunNote)
	}
	if o.json {
		return printJSON(w, v)
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "tensor\ttype\tfrom\tshape\tsize")
	for _, t := range p.Tensors {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", formats.Name(t.Name), t.Type, t.From, dimsString(t.Shape), report.Bytes(t.Size))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "%s, %d parameters, %s in %s\n", report.Plural(len(p.Tensors), "tensor"), p.Params, report.Bytes(p.Size), strings.Join(p.Files, ", "))
	printRemarks(w, v)
	return err
}

func (o *convertOptions) summary(stdout, stderr io.Writer, p *convert.Plan, res *convert.Result, took time.Duration) error {
	v := describePlan(p)
	v.Seconds = took.Seconds()
	for i := range res.Nonfinite {
		v.Nonfinite = append(v.Nonfinite, res.Nonfinite[i].String())
	}
	if o.json {
		v.Tensors = nil
		return printJSON(stdout, v)
	}
	if o.quiet {
		return nil
	}
	fmt.Fprintf(stderr, "%s: %s, %s (%s), %s in %.1f s, %s/s\n", strings.Join(res.Files, ", "), p.Arch,
		report.Plural(len(p.Tensors), "tensor"), countsString(v.Counts), report.Bytes(res.Bytes), took.Seconds(), report.Bytes(int64(float64(res.Bytes)/took.Seconds())))
	printRemarks(stderr, v)
	return nil
}

// printRemarks prints what a person has to know although they did not ask.
func printRemarks(w io.Writer, v planJSON) {
	for _, s := range v.Substituted {
		fmt.Fprintf(w, "substituted: %s is %s: %s\n", formats.Name(s.Name), s.Type, s.Reason)
	}
	if len(v.Skipped) > 0 {
		fmt.Fprintf(w, "skipped: %s with nothing to convert, such as %s\n", report.Plural(len(v.Skipped), "tensor"), formats.Name(v.Skipped[0]))
	}
	for _, s := range v.Nonfinite {
		fmt.Fprintf(w, "not finite: %s\n", s)
	}
	for _, s := range v.Notes {
		fmt.Fprintf(w, "note: %s\n", s)
	}
}
