package cli

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/smeltgguf/smelt/internal/decoder"
	"github.com/smeltgguf/smelt/internal/model"
	"github.com/smeltgguf/smelt/kernels"
)

func newTokenize() *cobra.Command {
	var path, file string
	var pieces bool
	cmd := &cobra.Command{
		Use:   "tokenize -m FILE [TEXT]",
		Short: "Print the token ids of a text",
		Long:  `tokenize prints the ids of a text on one line; the text is the argument, a file, or standard input.`,
		Example: `  smelt tokenize -m model.gguf "Hello world"
  smelt tokenize -m model.gguf --file text.txt
  smelt tokenize -m model.gguf --pieces < text.txt`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if path == "" {
				return usagef("--model is needed")
			}
			var text []byte
			var err error
			switch {
			case len(args) == 1 && file != "":
				return usagef("give the text as an argument or with --file, not both")
			case len(args) == 1:
				text = []byte(args[0])
			case file != "":
				text, err = os.ReadFile(file)
			default:
				text, err = io.ReadAll(cmd.InOrStdin())
			}
			if err != nil {
				return err
			}
			tok, err := model.OpenTokenizer(path)
			if err != nil {
				return err
			}
			return printTokens(cmd.OutOrStdout(), tok, tok.Tokenize(text), pieces)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&path, "model", "m", "", "model: GGUF file or checkpoint directory")
	f.StringVar(&file, "file", "", "file that holds the text")
	f.BoolVar(&pieces, "pieces", false, "print a line per token: id and text")
	return cmd
}

func printTokens(out io.Writer, tok *model.Tokenizer, ids []int32, pieces bool) error {
	w := bufio.NewWriter(out)
	for i, id := range ids {
		if pieces {
			fmt.Fprintf(w, "%d\t%q\n", id, tok.Piece(id))
			continue
		}
		if i > 0 {
			w.WriteByte(' ')
		}
		w.WriteString(strconv.Itoa(int(id)))
	}
	if !pieces {
		w.WriteByte('\n')
	}
	return w.Flush()
}

func newLogits() *cobra.Command {
	var path, out, compute string
	var ids []int32
	cmd := &cobra.Command{
		Use:     "logits -m FILE --ids 1,2,3 --out FILE",
		Short:   "Write a model's logits for a list of token ids",
		Long:    `logits runs the ids as one sequence and writes little-endian float32, a row of one logit per token of the vocabulary for each id.`,
		Example: `  smelt logits -m model.gguf --ids 1,15043,3186 --out logits.f32`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if path == "" || out == "" || len(ids) == 0 {
				return usagef("--model, --ids and --out are needed")
			}
			c, err := parseCompute(compute)
			if err != nil {
				return err
			}
			m, err := model.Open(path)
			if err != nil {
				return err
			}
			defer m.Close()
			pool := kernels.NewPool(0)
			defer pool.Close()
			d := decoder.New(m.Weights, decoder.Options{Context: len(ids), Compute: c, Pool: pool})
			if err := d.Append(cmd.Context(), ids); err != nil {
				return err
			}
			return writeFile(out, func(w io.Writer) error { return writeLogits(w, d, len(ids)) })
		},
	}
	f := cmd.Flags()
	f.StringVarP(&path, "model", "m", "", "model: GGUF file or checkpoint directory")
	f.Int32SliceVar(&ids, "ids", nil, "token ids, separated by commas")
	f.StringVar(&out, "out", "", "file to write")
	f.StringVar(&compute, "compute", "exact", "arithmetic: exact or int8")
	return cmd
}

func writeLogits(out io.Writer, d *decoder.Decoder, n int) error {
	w := bufio.NewWriter(out)
	row, b := make([]float32, d.Vocab()), make([]byte, 4)
	for i := range n {
		if err := d.Logits(row, i, 1); err != nil {
			return err
		}
		for _, v := range row {
			binary.LittleEndian.PutUint32(b, math.Float32bits(v))
			if _, err := w.Write(b); err != nil {
				return err
			}
		}
	}
	return w.Flush()
}
