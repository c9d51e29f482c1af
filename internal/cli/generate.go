package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/smeltgguf/smelt/internal/decoder"
	"github.com/smeltgguf/smelt/internal/model"
	"github.com/smeltgguf/smelt/kernels"
)

func newGenerate() *cobra.Command {
	var o generateOptions
	cmd := &cobra.Command{
		Use:   "generate -m FILE -p TEXT",
		Short: "Continue a text",
		Long:  `generate continues a text with a model: the most probable token each time, or, with a temperature, one drawn at random.`,
		Example: `  smelt generate -m model.gguf -p "Once upon a time" -n 64
  smelt generate -m model.gguf -p "Once upon a time" --temp 0.8 --top-p 0.95 --seed 7`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.model, "model", "m", "", "model: GGUF file or checkpoint directory")
	f.StringVarP(&o.prompt, "prompt", "p", "", "text to continue")
	f.IntVarP(&o.n, "predict", "n", 128, "most tokens to write")
	f.IntVar(&o.ctx, "ctx", 0, "context in tokens (default: what prompt and -n need)")
	f.Float64Var(&o.temp, "temp", 0, "temperature; 0 takes the most probable token")
	f.Float64Var(&o.topP, "top-p", 1, "keep the most probable tokens whose probabilities sum to this")
	f.IntVar(&o.topK, "top-k", 0, "keep that many most probable tokens (default: all)")
	f.Uint64Var(&o.seed, "seed", 0, "seed of the random numbers")
	f.StringVar(&o.compute, "compute", "exact", "arithmetic: exact or int8")
	f.StringVar(&o.cache, "cache", "f32", "keys and values are kept as: f32 or f16 (half the memory)")
	f.IntVar(&o.threads, "threads", 0, "goroutines that compute (default: all cores)")
	f.BoolVar(&o.quiet, "quiet", false, "no figures about speed")
	return cmd
}

type generateOptions struct {
	model, prompt, compute, cache string
	n, ctx, topK, threads         int
	temp, topP                    float64
	seed                          uint64
	quiet                         bool
}

func (o *generateOptions) run(ctx context.Context, stdout, stderr io.Writer) error {
	compute, err := parseCompute(o.compute)
	if err != nil {
		return err
	}
	half, err := parseCache(o.cache)
	if err != nil {
		return err
	}
	if o.model == "" {
		return usagef("--model is needed")
	}
	m, err := model.Open(o.model)
	if err != nil {
		return err
	}
	defer m.Close()
	tokens := m.Tokenize([]byte(o.prompt))
	if len(tokens) == 0 {
		return usagef("--prompt is empty, and the model has no token for the beginning of a text")
	}
	if o.ctx == 0 {
		o.ctx = len(tokens) + o.n
	}
	pool := kernels.NewPool(o.threads)
	defer pool.Close()
	d := decoder.New(m.Weights, decoder.Options{Context: o.ctx, Compute: compute, HalfCache: half, Pool: pool})
	s := decoder.NewSampler(o.seed)
	s.Temperature, s.TopP, s.TopK = o.temp, o.topP, o.topK

	start := time.Now()
	if err := d.Append(ctx, tokens); err != nil {
		return err
	}
	read := time.Since(start)
	if _, err := io.WriteString(stdout, o.prompt); err != nil {
		return err
	}
	logits := make([]float32, d.Vocab())
	start, n := time.Now(), 0
	for range min(o.n, o.ctx-len(tokens)) {
		if err := d.Logits(logits, d.Pos(0)-1, 1); err != nil {
			return err
		}
		id := s.Next(logits)
		if m.IsEOG(id) {
			break
		}
		if _, err := stdout.Write(m.Piece(id)); err != nil {
			return err
		}
		if err := d.Append(ctx, []int32{id}); err != nil {
			return err
		}
		n++
	}
	fmt.Fprintln(stdout)
	if !o.quiet {
		fmt.Fprintf(stderr, "%d tokens read at %.1f tok/s, %d written at %.1f tok/s\n",
			len(tokens), float64(len(tokens))/read.Seconds(), n, float64(n)/time.Since(start).Seconds())
	}
	return nil
}
