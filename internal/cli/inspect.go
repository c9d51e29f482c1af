package cli

import (
	"github.com/spf13/cobra"

	"github.com/smeltgguf/smelt/formats/gguf"
	"github.com/smeltgguf/smelt/internal/inspect"
)

func newInspect() *cobra.Command {
	var hash, asJSON, quiet bool
	cmd := &cobra.Command{
		Use:   "inspect FILE",
		Short: "Print a GGUF's metadata and tensors",
		Long: `Print a GGUF's metadata and tensors. Any part of a split model stands for all of it.

With --json one object: "kv" has each key's type and value (long arrays as a SHA-256 of
their elements), "tensors" a row [name, type, dims, sha256] for each tensor; --hash=false
saves reading the tensors and leaves the last element out.`,
		Example: `  smelt inspect model.gguf
  smelt inspect --hash model-00001-of-00003.gguf
  smelt inspect --json model.gguf`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := gguf.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			if asJSON && !cmd.Flags().Changed("hash") {
				hash = true
			}
			var sums inspect.Hashes
			if hash {
				_, all := inspect.Totals(f)
				p := newProgress(cmd.ErrOrStderr(), "hash", "B", int64(all.Bytes), quiet)
				sums, err = inspect.Hash(cmd.Context(), f, func(done int64) { p.set(done, "") })
				p.finish()
				if err != nil {
					return err
				}
			}
			if asJSON {
				return inspect.JSON(cmd.OutOrStdout(), f, sums)
			}
			return inspect.Text(cmd.OutOrStdout(), f, sums)
		},
	}
	cmd.Flags().BoolVar(&hash, "hash", false, "print the SHA-256 of each tensor's data")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, hashes included")
	cmd.Flags().BoolVar(&quiet, "quiet", false, "no progress")
	return cmd
}
