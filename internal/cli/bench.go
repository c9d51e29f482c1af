package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/smeltgguf/smelt/internal/decoder"
	"github.com/smeltgguf/smelt/internal/model"
	"github.com/smeltgguf/smelt/kernels"
)

func newBench() *cobra.Command {
	var o benchOptions
	cmd := &cobra.Command{
		Use:   "bench -m FILE",
		Short: "Measure the speed of prompt and generation against this machine's ceilings",
		Long: `bench runs a model on a prompt and generates tokens one by one, and prints tokens per
second, the arithmetic and the memory traffic that this takes, and their share of
what this machine can do, which it measures too: multiply-adds from registers
alone, and reading memory.`,
		Example: `  smelt bench -m model.gguf
  smelt bench -m model.gguf -p 512 -n 32 -r 5 --compute int8 --json
  smelt bench -m model.gguf -p 512,2048,8192 --batch 32,512 --threads 1`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.model, "model", "m", "", "model: GGUF file or checkpoint directory")
	f.IntSliceVarP(&o.prompt, "prompt", "p", []int{512}, "tokens of the prompt, or several lengths; 0: no prompt")
	f.IntSliceVar(&o.batch, "batch", nil, "tokens of the prompt that are run at a time, or several numbers (default: all)")
	f.IntVarP(&o.generate, "generate", "n", 32, "tokens to generate; 0: none")
	f.IntVarP(&o.runs, "runs", "r", 3, "runs; medians are printed")
	f.StringSliceVar(&o.compute, "compute", []string{"exact", "int8"}, "arithmetic: exact, int8 or both")
	f.StringVar(&o.cache, "cache", "f32", "keys and values are kept as: f32 or f16 (half the memory)")
	f.IntVar(&o.threads, "threads", 0, "goroutines that compute (default: all cores)")
	f.BoolVar(&o.json, "json", false, "print one JSON object")
	return cmd
}

type benchOptions struct {
	model                   string
	prompt, batch           []int
	generate, runs, threads int
	compute                 []string
	cache                   string
	json                    bool
}

// benchResult is the form of --json. Rates are of all threads together; a share
// is of the ceiling that goes with the arithmetic, 0 where it is not known.
type benchResult struct {
	Model    string  `json:"model"`
	Ftype    string  `json:"ftype"`
	CPU      string  `json:"cpu"`
	Threads  int     `json:"threads"`
	PeakFMA  float64 `json:"peak_fma_flops"`
	PeakInt8 float64 `json:"peak_int8_ops"`
	PeakRead float64 `json:"peak_read_bytes_per_s"`

	Runs []benchRun `json:"runs"`
}

type benchRun struct {
	Compute string  `json:"compute"`
	What    string  `json:"what"` // "prompt 512", "generate 32"
	Tokens  int     `json:"tokens"`
	Batch   int     `json:"batch"`        // tokens at a time
	Rate    float64 `json:"tokens_per_s"` // median
	Ops     float64 `json:"ops_per_s"`    // multiply-adds of the matrix products, two operations each
	Read    float64 `json:"read_bytes_per_s"`
	// ComputeShare and MemoryShare are Ops and Read over this machine's peaks.
	ComputeShare float64 `json:"compute_share"`
	MemoryShare  float64 `json:"memory_share"`
}

func (o *benchOptions) run(ctx context.Context, stdout io.Writer) error {
	if o.model == "" {
		return usagef("--model is needed")
	}
	if len(o.prompt) == 0 {
		o.prompt = []int{0}
	}
	longest := slices.Max(o.prompt)
	if o.runs < 1 || slices.Min(o.prompt) < 0 || o.generate < 0 || longest+o.generate == 0 {
		return usagef("-r must be at least 1, -p and -n not negative and not both 0")
	}
	if len(o.batch) > 0 && slices.Min(o.batch) < 1 {
		return usagef("--batch must be at least 1")
	}
	half, err := parseCache(o.cache)
	if err != nil {
		return err
	}
	m, err := model.Open(o.model)
	if err != nil {
		return err
	}
	defer m.Close()
	pool := kernels.NewPool(o.threads)
	defer pool.Close()
	r := benchResult{Model: o.model, Ftype: m.Ftype, CPU: kernels.CPU(), Threads: pool.Threads()}
	buf := make([]byte, 512<<20)
	for i := 0; i < len(buf); i += 4096 {
		buf[i] = 1
	}
	r.measurePeaks(pool, buf)
	for _, name := range o.compute {
		c, err := parseCompute(name)
		if err != nil {
			return err
		}
		d := decoder.New(m.Weights, decoder.Options{Context: max(longest, o.generate), Compute: c, HalfCache: half, Pool: pool})
		peak := r.PeakFMA
		if c == kernels.Int8 {
			peak = r.PeakInt8
		}
		for _, what := range o.cases() {
			rate, err := o.time(ctx, d, what.tokens, what.batch)
			if err != nil {
				return err
			}
			run := benchRun{Compute: c.String(), What: what.String(), Tokens: what.tokens, Batch: what.batch, Rate: rate}
			macs, bytes := m.Weights.Cost()
			run.Ops = 2 * float64(macs) * rate
			run.Read = float64(bytes) * rate / float64(what.batch)
			if peak > 0 {
				run.ComputeShare = run.Ops / peak
			}
			r.Runs = append(r.Runs, run)
		}
		r.measureRead(pool, buf)
	}
	for i := range r.Runs {
		if r.PeakRead > 0 {
			r.Runs[i].MemoryShare = r.Runs[i].Read / r.PeakRead
		}
	}
	if o.json {
		return printJSON(stdout, r)
	}
	return r.print(stdout)
}

// benchCase is one thing to measure.
type benchCase struct {
	name          string
	tokens, batch int
}

func (c benchCase) String() string {
	s := fmt.Sprintf("%s %d", c.name, c.tokens)
	if c.batch > 1 && c.batch < c.tokens {
		s += fmt.Sprintf(" by %d", c.batch)
	}
	return s
}

func (o *benchOptions) cases() (cases []benchCase) {
	for _, n := range o.prompt {
		if n == 0 {
			continue
		}
		if len(o.batch) == 0 {
			cases = append(cases, benchCase{"prompt", n, n})
		}
		for _, b := range o.batch {
			cases = append(cases, benchCase{"prompt", n, min(b, n)})
		}
	}
	if o.generate > 0 {
		cases = append(cases, benchCase{"generate", o.generate, 1})
	}
	return cases
}

// time runs tokens in batches, once uncounted, and returns the median rate.
func (o *benchOptions) time(ctx context.Context, d *decoder.Decoder, tokens, batch int) (float64, error) {
	var rates []float64
	ids := make([]int32, tokens)
	for i := range ids {
		ids[i] = int32((1 + i%97) % d.Vocab())
	}
	logits := make([]float32, d.Vocab())
	for run := range o.runs + 1 {
		d.Reset()
		start := time.Now()
		for i := 0; i < tokens; i += batch {
			if err := d.Append(ctx, ids[i:min(i+batch, tokens)]); err != nil {
				return 0, err
			}
			if err := d.Logits(logits, d.Pos(0)-1, 1); err != nil {
				return 0, err
			}
		}
		if run > 0 {
			rates = append(rates, float64(tokens)/time.Since(start).Seconds())
		}
	}
	slices.Sort(rates)
	return rates[len(rates)/2], nil
}

// peakTime is how long each ceiling is measured.
const peakTime = 200 * time.Millisecond

// measurePeaks measures what all threads can do together. Arithmetic is
// measured on one core, idle otherwise, and taken to grow with the cores.
func (r *benchResult) measurePeaks(pool *kernels.Pool, buf []byte) {
	r.PeakFMA = kernels.PeakFMA(peakTime) * float64(r.Threads)
	r.PeakInt8 = kernels.PeakInt8(peakTime) * float64(r.Threads)
	r.measureRead(pool, buf)
}

// measureRead measures reading memory; what was best counts, for other users of
// a machine may take part of its bandwidth for seconds.
func (r *benchResult) measureRead(pool *kernels.Pool, buf []byte) {
	r.PeakRead = max(r.PeakRead, kernels.PeakRead(pool, buf, peakTime))
}

func (r *benchResult) print(w io.Writer) error {
	fmt.Fprintf(w, "%s (%s), %s, %d threads; peaks: %s multiply-adds float32, %s int8, %.1f GB/s memory\n",
		r.Model, r.Ftype, r.CPU, r.Threads, giga(r.PeakFMA, "FLOP/s"), giga(r.PeakInt8, "op/s"), r.PeakRead/1e9)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "arithmetic\twhat\ttokens/s\tGop/s\tof peak\tGB/s\tof peak")
	for _, x := range r.Runs {
		fmt.Fprintf(tw, "%s\t%s\t%.2f\t%.1f\t%.0f%%\t%.1f\t%.0f%%\n", x.Compute, x.What, x.Rate, x.Ops/1e9, 100*x.ComputeShare, x.Read/1e9, 100*x.MemoryShare)
	}
	return tw.Flush()
}

func giga(v float64, unit string) string {
	if v == 0 {
		return "unknown"
	}
	return fmt.Sprintf("%.0f G%s", v/1e9, unit)
}
