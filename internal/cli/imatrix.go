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

	"github.com/spf13/cobra"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/internal/corpus"
	"github.com/smeltgguf/smelt/internal/decoder"
	"github.com/smeltgguf/smelt/internal/imatrix"
	"github.com/smeltgguf/smelt/internal/model"
	"github.com/smeltgguf/smelt/kernels"
)

func newImatrix() *cobra.Command {
	var o imatrixOptions
	cmd := &cobra.Command{
		Use:   "imatrix --model FILE --text FILE --out FILE",
		Short: "Measure, merge and show importance matrices",
		Long: `imatrix runs a model on a calibration text and sums the squared activations of every
input channel of every matrix: what quantize --imatrix weighs its errors with. The text
is cut as llama-imatrix does. Several matrices are merged with --merge; --show prints
statistics.`,
		Example: `  smelt imatrix --model model-f16.gguf --text calibration.txt --out model.imatrix.gguf
  smelt imatrix --merge a.gguf --merge b.gguf --out both.gguf
  smelt imatrix --show model.imatrix.gguf`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.model, "model", "", "model: GGUF file or checkpoint directory")
	f.StringArrayVar(&o.texts, "text", nil, "calibration text: file or glob (may be repeated)")
	f.StringVar(&o.field, "field", "text", "key of the text in lines of .jsonl")
	f.StringVar(&o.out, "out", "", "file to write, in GGUF form")
	f.IntVar(&o.ctx, "ctx", 512, "tokens per chunk")
	f.IntVar(&o.chunks, "chunks", 0, "chunks to run (default: all)")
	f.BoolVar(&o.output, "process-output", false, "measure output.weight too")
	f.StringArrayVar(&o.merge, "merge", nil, "importance matrix to add (may be repeated)")
	f.IntVar(&o.saveEvery, "save-every", 50, "chunks after which OUT.partial is saved; 0: never")
	f.BoolVar(&o.resume, "resume", false, "continue from OUT.partial")
	f.StringVar(&o.show, "show", "", "print statistics of this importance matrix")
	f.StringVar(&o.compute, "compute", "exact", "arithmetic: exact or int8")
	f.IntVar(&o.threads, "threads", 0, "goroutines that compute (default: all cores)")
	f.BoolVar(&o.force, "force", false, "replace an existing file")
	f.BoolVar(&o.quiet, "quiet", false, "no progress")
	f.BoolVar(&o.json, "json", false, "print statistics as JSON")
	return cmd
}

type imatrixOptions struct {
	model, out, show, compute, field string
	texts, merge                     []string
	ctx, chunks, saveEvery, threads  int
	output, resume                   bool
	force, quiet, json               bool
}

func (o *imatrixOptions) run(ctx context.Context, stdout, stderr io.Writer) error {
	if o.show != "" {
		m, err := imatrix.Open(o.show)
		if err != nil {
			return err
		}
		return o.print(stdout, m)
	}
	if o.out == "" || o.model == "" && len(o.merge) == 0 || (o.model == "") != (len(o.texts) == 0) {
		return usagef("--out is needed, and --model with --text, or --merge")
	}
	if o.ctx < 1 || o.chunks < 0 {
		return usagef("--ctx must be at least 1, --chunks not negative")
	}
	if _, err := os.Stat(o.out); err == nil && !o.force {
		return fmt.Errorf("%s: exists already: use --force to replace it", o.out)
	}
	sum := imatrix.New()
	for _, path := range o.merge {
		m, err := imatrix.Open(path)
		if err != nil {
			return err
		}
		if err := sum.Merge(m); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	if o.model != "" {
		m, err := o.measure(ctx, stderr)
		if err != nil {
			return err
		}
		if err := sum.Merge(m); err != nil {
			return err
		}
	}
	if err := sum.Save(o.out, o.force, append(slices.Clone(o.merge), o.model)...); err != nil {
		return err
	}
	os.Remove(o.partial())
	if o.json {
		return o.print(stdout, sum)
	}
	if !o.quiet {
		fmt.Fprintf(stderr, "%s: %d matrices, %d chunks of %d tokens\n", o.out, sum.Len(), sum.Chunks, sum.ChunkSize)
	}
	return nil
}

func (o *imatrixOptions) partial() string { return o.out + ".partial" }

// measure runs the model on the text.
func (o *imatrixOptions) measure(ctx context.Context, stderr io.Writer) (*imatrix.Matrix, error) {
	compute, err := parseCompute(o.compute)
	if err != nil {
		return nil, err
	}
	text, err := corpus.Read(o.texts, corpus.Options{Field: o.field})
	if err != nil {
		return nil, err
	}
	m, err := model.Open(o.model)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	tokens := m.Tokenize(text.Data)
	n := len(tokens) / o.ctx
	if o.chunks > 0 {
		n = min(n, o.chunks)
	}
	if n == 0 {
		return nil, fmt.Errorf("the text has %d tokens, one chunk takes %d: use a longer text or a smaller --ctx", len(tokens), o.ctx)
	}
	var datasets []string
	for _, f := range text.Files {
		datasets = append(datasets, filepath.Base(f))
	}

	done := imatrix.New()
	if o.resume {
		if done, err = imatrix.Open(o.partial()); err != nil {
			return nil, fmt.Errorf("nothing to resume: %w", err)
		}
		if !slices.Equal(done.Datasets, datasets) || int(done.ChunkSize) != o.ctx || int(done.Chunks) > n {
			return nil, fmt.Errorf("%s: %d chunks of %d tokens of %s do not belong to this run", o.partial(), done.Chunks, done.ChunkSize, strings.Join(done.Datasets, ", "))
		}
	}
	pool := kernels.NewPool(o.threads)
	defer pool.Close()
	c := imatrix.NewCollector(func(tensor string) bool { return tensor == "output.weight" && !o.output })
	d := decoder.New(m.Weights, decoder.Options{Context: o.ctx, Compute: compute, Pool: pool, Observe: c.Observe})
	experts := func(tensor string) int {
		if strings.Contains(tensor, "_exps.") {
			return m.Weights.Desc().Experts
		}
		return 1
	}
	collected := func(chunks int) (*imatrix.Matrix, error) {
		x := c.Matrix(experts)
		x.Datasets, x.Chunks, x.ChunkSize = datasets, uint32(chunks), uint32(o.ctx)
		if done.Len() == 0 {
			return x, nil
		}
		return x, x.Merge(done)
	}
	logits := make([]float32, d.Vocab())
	first := int(done.Chunks)
	bar := newProgress(stderr, "imatrix", "tok", int64(n*o.ctx), o.quiet)
	defer bar.finish()
	for i := first; i < n; i++ {
		chunk := slices.Clone(tokens[i*o.ctx : (i+1)*o.ctx])
		if id := m.Start(); id >= 0 {
			chunk[0] = id
		}
		if err := d.Forward(ctx, chunk); err != nil {
			return nil, err
		}
		if o.output {
			for k := range chunk {
				if err := d.Logits(logits, k, 1); err != nil {
					return nil, err
				}
			}
		}
		bar.set(int64((i+1)*o.ctx), "")
		if o.saveEvery > 0 && (i+1-first)%o.saveEvery == 0 && i+1 < n {
			x, err := collected(i + 1 - first)
			if err != nil {
				return nil, err
			}
			if err := x.Save(o.partial(), true); err != nil {
				return nil, err
			}
		}
	}
	return collected(n - first)
}

func (o *imatrixOptions) print(w io.Writer, m *imatrix.Matrix) error {
	if o.json {
		return printJSON(w, struct {
			Datasets  []string        `json:"datasets"`
			Chunks    uint32          `json:"chunks"`
			ChunkSize uint32          `json:"chunk_size"`
			Tensors   []imatrix.Stats `json:"tensors"`
		}{m.Datasets, m.Chunks, m.ChunkSize, m.Stats()})
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "tensor\tchannels\tactivations\tsum\tmin\tmax\tmean\tstd\tactive\tevenness\tunseen")
	for _, s := range m.Stats() {
		fmt.Fprintf(tw, "%s\t%d\t%.0f\t%.4g\t%.4g\t%.4g\t%.4g\t%.4g\t%.1f%%\t%.3f\t%d\n",
			formats.Name(s.Tensor), s.Channels, s.Count, s.Sum, s.Min, s.Max, s.Mean, s.Std, 100*s.Active, s.Evenness, s.Unseen)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	datasets := make([]string, len(m.Datasets))
	for i, d := range m.Datasets {
		datasets[i] = formats.Name(d)
	}
	_, err := fmt.Fprintf(w, "%d matrices, %d chunks of %d tokens: %s\n", m.Len(), m.Chunks, m.ChunkSize, strings.Join(datasets, ", "))
	return err
}
