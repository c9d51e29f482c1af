package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/internal/arch"
	"github.com/smeltgguf/smelt/internal/export"
	"github.com/smeltgguf/smelt/internal/report"
)

func newExport() *cobra.Command {
	var o exportOptions
	cmd := &cobra.Command{
		Use:   "export --in FILE --out DIR",
		Short: "Turn a GGUF file back into a Hugging Face checkpoint",
		Long: `export is the inverse of convert: it writes safetensors, config.json and the tokenizer's
files. F16, BF16 and F32 tensors keep their bits, quantized ones are decoded. These
architectures can be exported: ` + strings.Join(arch.Exportable(), ", ") + `.

What was written is read again as convert would; metadata that would not come back are
named in the summary.`,
		Example: `  smelt export --in model.gguf --out hf/
  smelt export --in model-Q4_K_M.gguf --out hf/ --dtype bf16 --max-shard-size 2G
  smelt export --in model.gguf --out hf/ --dry-run`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.In, "in", "", "GGUF file, or any part of a split one")
	f.StringVar(&o.Out, "out", "", "directory to write")
	f.StringVar(&o.DType, "dtype", "auto", "type that quantized tensors are decoded to: auto (bf16 if the file has tensors of it, else f16), "+strings.Join(export.DTypes(), ", "))
	f.StringVar(&o.maxShardSize, "max-shard-size", "5G", "most bytes of tensors in one file: 2G, 500M (decimal)")
	f.IntVar(&o.Threads, "threads", 0, "goroutines that decode (default: all cores)")
	f.BoolVar(&o.Force, "force", false, "replace a directory that holds nothing but such a checkpoint")
	f.BoolVar(&o.AllowNonfinite, "allow-nonfinite", false, "write NaN, infinity and overflow as they come, and report them")
	f.BoolVar(&o.dryRun, "dry-run", false, "print the plan, write nothing")
	f.BoolVar(&o.quiet, "quiet", false, "no progress and no summary")
	f.BoolVar(&o.json, "json", false, "print the summary or the plan as one JSON object")
	return cmd
}

type exportOptions struct {
	export.Options
	maxShardSize        string
	dryRun, quiet, json bool
}

func (o *exportOptions) run(ctx context.Context, stdout, stderr io.Writer) error {
	if o.In == "" || o.Out == "" && !o.dryRun {
		return usagef("--in and --out are needed")
	}
	var err error
	if o.MaxShardSize, err = parseSize(o.maxShardSize); err != nil {
		return usagef("--max-shard-size: %w", err)
	}
	p, err := export.NewPlan(o.Options)
	if err != nil {
		return err
	}
	defer p.Close()
	if o.dryRun {
		return o.printPlan(stdout, p)
	}
	start := time.Now()
	bar := newProgress(stderr, "export", "B", p.SourceBytes(), o.quiet)
	res, err := p.Run(ctx, func(done int64) { bar.set(done, "") })
	bar.finish()
	if err != nil {
		return err
	}
	return o.summary(stdout, stderr, p, res, time.Since(start))
}

// exportJSON is the form of --dry-run --json and, with what a run found, of
// --json.
type exportJSON struct {
	Files        []string       `json:"files"`
	Architecture string         `json:"architecture"`
	DType        string         `json:"dtype"` // of decoded tensors; "" if there are none
	Parameters   int64          `json:"parameters"`
	Bytes        int64          `json:"bytes"`
	Seconds      float64        `json:"seconds,omitempty"`
	Tensors      []exportTensor `json:"tensors,omitempty"`
	Counts       map[string]int `json:"counts"`
	Notes        []string       `json:"notes"`
	Nonfinite    []string       `json:"nonfinite"`
	Differ       []string       `json:"metadata_differ"`
	New          []string       `json:"metadata_new"`
}

type exportTensor struct {
	Name  string `json:"name"`
	Shape []int  `json:"shape"`
	From  string `json:"from"`
	Type  string `json:"type"`
	Bytes int64  `json:"bytes"`
	File  string `json:"file"`
}

func describeExport(p *export.Plan) exportJSON {
	v := exportJSON{
		Files: p.Files, Architecture: p.Arch, DType: p.DType, Parameters: p.Params, Bytes: p.Size,
		Counts: map[string]int{}, Notes: append([]string{}, p.Notes...), Nonfinite: []string{}, Differ: []string{}, New: []string{},
	}
	for _, t := range p.Tensors {
		v.Counts[t.Type.String()]++
		v.Tensors = append(v.Tensors, exportTensor{t.Name, t.Shape, t.From.String(), t.Type.String(), t.Size, t.File})
	}
	return v
}

func (o *exportOptions) printPlan(w io.Writer, p *export.Plan) error {
	v := describeExport(p)
	if o.json {
		return printJSON(w, v)
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "tensor\ttype\tfrom\tshape\tsize\tfile")
	for _, t := range p.Tensors {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\n", formats.Name(t.Name), t.Type, t.From, dimsString(t.Shape), report.Bytes(t.Size), t.File)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "%d tensors, %d parameters, %s in %s\n", len(p.Tensors), p.Params, report.Bytes(p.Size), strings.Join(p.Files, ", "))
	printExportRemarks(w, v)
	return err
}

func (o *exportOptions) summary(stdout, stderr io.Writer, p *export.Plan, res *export.Result, took time.Duration) error {
	v := describeExport(p)
	v.Seconds, v.Tensors = took.Seconds(), nil
	v.Differ, v.New = append(v.Differ, res.Differ...), append(v.New, res.New...)
	for i := range res.Nonfinite {
		v.Nonfinite = append(v.Nonfinite, res.Nonfinite[i].String())
	}
	if o.json {
		return printJSON(stdout, v)
	}
	if o.quiet {
		return nil
	}
	fmt.Fprintf(stderr, "%s: %s, %d tensors (%s), %s in %d files, %.1f s, %s/s\n", o.Out, p.Arch,
		len(p.Tensors), countsString(v.Counts), report.Bytes(res.Bytes), len(res.Files), took.Seconds(), report.Bytes(int64(float64(res.Bytes)/took.Seconds())))
	printExportRemarks(stderr, v)
	return nil
}

// printExportRemarks prints what a person has to know although they did not ask.
func printExportRemarks(w io.Writer, v exportJSON) {
	if v.DType != "" {
		fmt.Fprintf(w, "decoded: quantized tensors are %s\n", strings.ToUpper(v.DType))
	}
	for _, s := range v.Nonfinite {
		fmt.Fprintf(w, "not finite: %s\n", s)
	}
	for _, s := range v.Notes {
		fmt.Fprintf(w, "note: %s\n", s)
	}
	if len(v.Differ) > 0 {
		fmt.Fprintf(w, "note: converted again, these keys are not as in the GGUF: %s\n", strings.Join(v.Differ, ", "))
	}
	if len(v.New) > 0 {
		fmt.Fprintf(w, "note: converted again, these keys are new: %s\n", strings.Join(v.New, ", "))
	}
}
