package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/smeltgguf/smelt/internal/baseline"
	"github.com/smeltgguf/smelt/internal/corpus"
	"github.com/smeltgguf/smelt/internal/decoder"
	"github.com/smeltgguf/smelt/internal/eval"
	"github.com/smeltgguf/smelt/internal/gates"
	"github.com/smeltgguf/smelt/internal/model"
	"github.com/smeltgguf/smelt/internal/report"
	"github.com/smeltgguf/smelt/internal/tasks"
	"github.com/smeltgguf/smelt/kernels"
)

func newVerify() *cobra.Command {
	var o verifyOptions
	cmd := &cobra.Command{
		Use:   "verify --model FILE --text FILE",
		Short: "Measure perplexity, and how far a model is from its base",
		Long: `verify runs a model on a text and prints its perplexity. With --base it runs both
on the same text and compares them position by position: perplexity ratio, KL
divergence, how often both find the same token most probable. Base and model may be
GGUF files or checkpoint directories.`,
		Example: `  verify --model model.gguf --text wiki.txt
  verify --base model-f16.gguf --model model-q4_k_m.gguf --text wiki.txt --max-kld 0.05
  verify --base model-f16.gguf --text wiki.txt --save-baseline wiki.baseline
  verify --baseline wiki.baseline --model model-q4_k_m.gguf
  verify --base model-f16.gguf --model model-q4_k_m.gguf --task hellaswag=hellaswag_val.txt --gate task.hellaswag=-0.01
  verify --base hf/ --model model-f16.gguf --text 'texts/*.txt.gz' --chunks 20 --json
  verify --base model-f16.gguf --model model-q4_k_m.gguf --text wiki.txt --html report.html`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), cmd.Flags().Changed)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&o.models, "model", nil, "model to measure: GGUF file or checkpoint directory (may be repeated)")
	f.StringVar(&o.base, "base", "", "model to compare with")
	f.StringVar(&o.baseline, "baseline", "", "compare with this file of --save-baseline, or of llama-perplexity --save-all-logits, in place of --base")
	f.StringVar(&o.saveBaseline, "save-baseline", "", "write what --base says of the text to this file, for --baseline")
	f.StringArrayVar(&o.texts, "text", nil, "text to measure on: file or glob; .gz, .zst and .jsonl are read too (may be repeated)")
	f.StringArrayVar(&o.taskFlags, "task", nil, "multiple choice: KIND=FILE or KIND:NAME=FILE, the kind being hellaswag, winogrande, mc or jsonl (may be repeated)")
	f.IntVar(&o.taskQuestions, "task-questions", 0, "questions of each task to ask (default: all)")
	f.StringVar(&o.field, "field", "text", "key of the text in lines of .jsonl")
	f.IntVar(&o.eval.Ctx, "ctx", 512, "tokens per chunk")
	f.IntVar(&o.eval.Stride, "stride", 0, "tokens from one chunk's start to the next's (default: ctx)")
	f.IntVar(&o.eval.Chunks, "chunks", 0, "chunks to run (default: all)")
	f.Uint64Var(&o.eval.Seed, "seed", 0, "take a random sample of --chunks chunks in place of the first")
	f.StringVar(&o.compute, "compute", "exact", "arithmetic: exact (float32) or int8 (8-bit activations, faster)")
	f.StringVar(&o.cache, "cache", "f32", "keys and values are kept as: f32 or f16 (half the memory)")
	f.IntVar(&o.threads, "threads", 0, "goroutines that compute (default: all cores)")
	f.Float64Var(&o.maxPPLRatio, "max-ppl-ratio", 0, "gate: largest perplexity ratio to the base")
	f.Float64Var(&o.maxKLD, "max-kld", 0, "gate: largest mean KL divergence from the base, in nats")
	f.Float64Var(&o.minSameTop, "min-same-top", 0, "gate: smallest share of equal top tokens, 0 to 1")
	f.StringVar(&o.gatesFile, "gates", "", "file of gates (YAML): patterns of file names or types, each with figures and their bounds")
	f.BoolVar(&o.untilDecided, "until-decided", false, "stop as soon as more text would not change whether any gate is met")
	f.StringArrayVar(&o.gates, "gate", nil, "gate on any figure of the JSON output: NAME=BOUND (may be repeated)")
	f.BoolVar(&o.json, "json", false, "print one JSON object (docs/verify.md describes it)")
	f.StringVar(&o.markdown, "markdown", "", "write the table to this file as Markdown")
	f.StringVar(&o.html, "html", "", "write figures and charts to this file, as a page that needs nothing else")
	f.BoolVar(&o.tensors, "tensors", false, "with --base: measure the error of every tensor, too; --html does unless this is false. It takes one more read of all weights, less than a chunk of the text")
	f.StringVar(&o.junit, "junit", "", "write the gates to this file as JUnit XML")
	f.BoolVar(&o.quiet, "quiet", false, "no progress")
	cmd.AddCommand(newVerifyFile(), newVerifyTensors())
	return cmd
}

type verifyOptions struct {
	models, texts, gates            []string
	base, field, compute, cache     string
	baseline, saveBaseline          string
	taskFlags                       []string
	tasks                           []task
	taskQuestions                   int
	eval                            eval.Options
	threads                         int
	maxPPLRatio, maxKLD, minSameTop float64
	gatesFile                       string
	json, quiet, untilDecided       bool
	markdown, junit, html           string
	tensors                         bool
}

func (o *verifyOptions) run(ctx context.Context, stdout, stderr io.Writer, changed func(flag string) bool) error {
	if err := o.parseTasks(); err != nil {
		return err
	}
	file, flagGates, err := o.parseGates(changed)
	if err != nil {
		return err
	}
	if err := o.check(); err != nil {
		return err
	}
	compute, err := parseCompute(o.compute)
	if err != nil {
		return err
	}
	half, err := parseCache(o.cache)
	if err != nil {
		return err
	}
	var text *corpus.Text
	if len(o.texts) > 0 {
		if text, err = corpus.Read(o.texts, corpus.Options{Field: o.field}); err != nil {
			return err
		}
	}
	if err := o.readTasks(); err != nil {
		return err
	}
	if o.baseline != "" {
		b, err := baseline.Open(o.baseline)
		if err != nil {
			return err
		}
		defer b.Close()
		if err := o.matchBaseline(b.Header(), changed); err != nil {
			return err
		}
		o.eval.Baseline = b
	}

	pool := kernels.NewPool(o.threads)
	defer pool.Close()
	paths := o.models
	if o.base != "" {
		paths = append([]string{o.base}, paths...)
	}
	var opened []*model.Model
	defer func() {
		for _, m := range opened {
			m.Close()
		}
	}()
	measure := text != nil || o.eval.Baseline != nil
	run := decoder.Options{Compute: compute, HalfCache: half, Pool: pool}
	var named []eval.Named
	r := &report.Report{Version: versionString(), Compute: compute.String()}
	for _, p := range paths {
		m, err := model.Open(p)
		if err != nil {
			return err
		}
		opened = append(opened, m)
		n := eval.Named{Path: p}
		if measure {
			opt := run
			opt.Context, opt.Sequences = o.eval.Ctx, sideBySide(o.eval.Ctx)
			n.Model = decoder.New(m.Weights, opt)
		}
		named = append(named, n)
		r.Files = append(r.Files, report.File{Path: p, Architecture: m.Weights.Desc().Arch, Ftype: m.Ftype, Bytes: m.Bytes, BitsPerWeight: m.BitsPerWeight})
	}
	var tokens []int32
	if b := o.eval.Baseline; b != nil {
		r.Texts = b.Header().Texts
		for _, m := range opened {
			if err := o.comparable(b.Header(), m, text); err != nil {
				return err
			}
		}
	} else if text != nil {
		r.Texts = text.Files
		if tokens, err = tokenizeForAll(opened, text.Data); err != nil {
			return err
		}
	}
	if o.saveBaseline != "" {
		if o.eval.Save, err = o.createBaseline(o.saveBaseline, opened[0], text, tokens); err != nil {
			return err
		}
		defer o.eval.Save.Abort() // which does nothing once it is committed
	}
	o.eval.BOS = opened[0].Start()

	start := time.Now()
	var bar *progress
	o.eval.Progress = func(p eval.Progress) {
		if bar == nil {
			bar = newProgress(stderr, "verify", "tok", p.TotalTokens, o.quiet)
		}
		m := p.Result.Base
		if len(p.Result.Models) > 0 {
			m = &p.Result.Models[0]
		}
		note := fmt.Sprintf("ppl %.4f", m.PPL)
		if m.Comparison != nil {
			note += fmt.Sprintf(", KL %.6f", m.MeanKLD)
		}
		bar.set(p.Tokens, note)
	}
	var base *eval.Named
	measured := r.Files
	if o.base != "" {
		base, named, measured = &named[0], named[1:], measured[1:]
	}
	if b := o.eval.Baseline; b != nil {
		base = &eval.Named{Path: o.baseline}
		h := b.Header().Model
		r.Files = append(r.Files, report.File{Path: o.baseline, Architecture: h.Architecture, Ftype: h.Ftype, Bytes: h.Bytes})
	}
	perModel := make([][]eval.Gate, len(named))
	for i := range named {
		if file != nil {
			perModel[i] = file.For(measured[i].Path, measured[i].Ftype)
		}
		perModel[i] = gates.Merge(perModel[i], flagGates)
	}
	if o.untilDecided {
		o.eval.Stop = func(r *eval.Result) bool { return eval.Decided(r, perModel) }
	}
	var runErr error
	r.Result = &eval.Result{Complete: true, Models: []eval.Figures{}}
	if measure {
		r.Result, runErr = eval.Run(ctx, base, named, tokens, o.eval)
		if bar != nil {
			bar.finish()
		}
		if runErr != nil && (r.Result == nil || r.Chunks == 0 || !errors.Is(runErr, context.Canceled) && ctx.Err() == nil) {
			return runErr
		}
	}
	if runErr == nil && o.eval.Save != nil {
		if err := o.eval.Save.Commit(); err != nil {
			return err
		}
	}
	r.Gates = eval.Check(r.Result, perModel)
	if runErr == nil && len(o.tasks) > 0 {
		if r.Tasks, runErr = o.runTasks(ctx, opened, run, stderr); runErr != nil && ctx.Err() == nil {
			return runErr
		}
		r.Gates = append(r.Gates, tasks.Check(r.Tasks, o.models, perModel)...)
	}
	r.Seconds = time.Since(start).Seconds()
	if o.base != "" && runErr == nil && (o.tensors || o.html != "" && !changed("tensors")) {
		if r.Tensors, err = compareWeights(ctx, o.base, o.models, stderr, o.quiet); err != nil && ctx.Err() == nil {
			return err
		}
		runErr = ctx.Err() // interrupted: the figures are known
	}
	if err := o.write(r, stdout); err != nil {
		return err
	}
	if runErr != nil {
		return runErr // interrupted: what is known so far has been printed
	}
	if missed := r.Missed(); len(missed) > 0 {
		return &gateError{missed}
	}
	return nil
}

// check finds flags that do not go together.
func (o *verifyOptions) check() error {
	if o.base != "" && o.baseline != "" {
		return usagef("--base and --baseline are two bases: give one of them")
	}
	if o.saveBaseline != "" && o.base == "" {
		return usagef("--save-baseline keeps what a base says: it needs --base")
	}
	if len(o.models) == 0 && o.saveBaseline == "" || len(o.texts) == 0 && o.baseline == "" && len(o.tasks) == 0 {
		return usagef("--model and --text are needed, or --task")
	}
	if len(o.texts) == 0 && o.baseline == "" && (o.saveBaseline != "" || o.html != "") {
		return usagef("--save-baseline and --html are about a text: they need --text")
	}
	if len(o.tasks) > 0 && len(o.models) == 0 {
		return usagef("--task needs --model")
	}
	if o.taskQuestions < 0 {
		return usagef("--task-questions must not be negative")
	}
	if o.eval.Ctx < 4 || o.eval.Chunks < 0 || o.eval.Stride < 0 {
		return usagef("--ctx must be at least 4, --chunks and --stride not negative")
	}
	return nil
}

// write prints the report in all the forms that were asked for.
func (o *verifyOptions) write(r *report.Report, stdout io.Writer) error {
	for _, f := range []struct {
		path  string
		write func(io.Writer) error
	}{{o.markdown, r.Markdown}, {o.junit, r.JUnit}, {o.html, r.HTML}} {
		if f.path == "" {
			continue
		}
		if err := writeFile(f.path, f.write); err != nil {
			return err
		}
	}
	if o.json {
		return r.JSON(stdout)
	}
	return r.Text(stdout)
}

func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := write(f); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// tokenizeForAll tokenizes the text with every model's tokenizer and checks
// that they agree: else their figures could not be compared.
func tokenizeForAll(models []*model.Model, text []byte) ([]int32, error) {
	tokens := models[0].Tokenize(text)
	for _, m := range models[1:] {
		other := m.Tokenize(text)
		if len(other) != len(tokens) {
			return nil, fmt.Errorf("%s: its tokenizer makes %d tokens of the text, that of %s %d: they cannot be compared", m.Path, len(other), models[0].Path, len(tokens))
		}
		for i := range other {
			if other[i] != tokens[i] {
				return nil, fmt.Errorf("%s: token %d of the text is %d, by %s it is %d: they cannot be compared", m.Path, i, other[i], models[0].Path, tokens[i])
			}
		}
	}
	return tokens, nil
}

// parseGates returns the gates of the file, nil if there is none, and those of
// the command line, which hold for all models and come before the file's.
func (o *verifyOptions) parseGates(changed func(string) bool) (file *gates.File, flags []eval.Gate, err error) {
	for _, g := range []struct {
		flag, figure string
		bound        float64
	}{
		{"max-ppl-ratio", "ppl_ratio", o.maxPPLRatio},
		{"max-kld", "mean_kld", o.maxKLD},
		{"min-same-top", "same_top", o.minSameTop},
	} {
		if changed(g.flag) {
			flags = append(flags, eval.Gate{Figure: g.figure, Bound: g.bound})
		}
	}
	for _, s := range o.gates {
		name, bound, ok := strings.Cut(s, "=")
		v, err := strconv.ParseFloat(bound, 64)
		if !ok || err != nil {
			return nil, nil, usagef("--gate %q: want NAME=BOUND", s)
		}
		g := eval.Gate{Figure: name, Bound: v}
		if err := g.Validate(); err != nil {
			return nil, nil, usageError{err}
		}
		flags = append(flags, g)
	}
	all := flags
	if o.gatesFile != "" {
		if file, err = gates.Read(o.gatesFile); err != nil {
			return nil, nil, err
		}
		all = append(file.All(), flags...)
	}
	for _, g := range all {
		name, isTask := g.Task()
		if isTask && o.base == "" {
			return nil, nil, usagef("a gate on %s is about the difference from the base's accuracy: it needs --base", g.Figure)
		}
		if isTask && !o.hasTask(name) {
			return nil, nil, usagef("a gate on %s needs --task %s=FILE", g.Figure, name)
		}
		if g.NeedsBase() && o.base == "" && o.baseline == "" {
			return nil, nil, usagef("a gate on %s needs --base or --baseline", g.Figure)
		}
	}
	if o.untilDecided && len(all) == 0 {
		return nil, nil, usagef("--until-decided needs a gate")
	}
	return file, flags, nil
}

func parseCompute(s string) (kernels.Compute, error) {
	for _, c := range []kernels.Compute{kernels.Exact, kernels.Int8} {
		if c.String() == s {
			return c, nil
		}
	}
	return 0, usagef("--compute %q: want exact or int8", s)
}

// parseCache tells whether keys and values are kept in half precision.
func parseCache(s string) (half bool, err error) {
	if s != "f32" && s != "f16" {
		return false, usagef("--cache %q: want f32 or f16", s)
	}
	return s == "f16", nil
}

// sideBySide is how many chunks of ctx tokens go through the layers together:
// as many as make the products' matrices large.
func sideBySide(ctx int) int { return max(1, decoder.MaxBatch/ctx) }
