package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/smeltgguf/smelt/formats/gguf"
	results "github.com/smeltgguf/smelt/internal/report"
	"github.com/smeltgguf/smelt/internal/split"
)

// defaultSplitTensors is llama-gguf-split's bound where none is given.
const defaultSplitTensors = 128

func newSplit() *cobra.Command {
	var (
		opt    gguf.SplitOptions
		size   string
		dryRun bool
		copy   copyFlags
	)
	cmd := &cobra.Command{
		Use:   "split IN OUTPREFIX",
		Short: "Cut a GGUF into parts",
		Long: `Cut a GGUF into parts called OUTPREFIX-00001-of-00003.gguf and so on, which llama.cpp
loads when given the first. Sizes count tensor data, not metadata.`,
		Example: `  smelt split --split-max-size 40G model.gguf parts/model
  smelt split --split-max-tensors 256 --dry-run model.gguf parts/model`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if opt.MaxTensors < 0 {
				return usagef("--split-max-tensors: want at least 1, got %d", opt.MaxTensors)
			}
			if size != "" {
				var err error
				if opt.MaxSize, err = parseSize(size); err != nil {
					return usagef("--split-max-size: %w", err)
				}
			}
			if opt.MaxSize == 0 && opt.MaxTensors == 0 {
				opt.MaxTensors = defaultSplitTensors
			}
			p, err := split.Split(args[0], args[1], opt)
			if err != nil {
				return err
			}
			defer p.Close()
			if dryRun {
				return printParts(cmd, p)
			}
			return copy.write(cmd, "split", p)
		},
	}
	cmd.Flags().StringVar(&size, "split-max-size", "", "largest size of a part's tensors, as 300M or 2G (powers of 1000)")
	cmd.Flags().IntVar(&opt.MaxTensors, "split-max-tensors", 0, fmt.Sprintf("most tensors in a part (default %d, without --split-max-size)", defaultSplitTensors))
	cmd.Flags().BoolVar(&opt.NoTensorFirst, "no-tensor-first-split", false, "keep the first part to metadata")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "print the parts and write nothing")
	cmd.MarkFlagsMutuallyExclusive("split-max-size", "split-max-tensors")
	copy.add(cmd)
	return cmd
}

func newMerge() *cobra.Command {
	var copy copyFlags
	cmd := &cobra.Command{
		Use:     "merge FIRST OUT",
		Short:   "Join the parts of a split GGUF",
		Long:    `Join the parts of a split GGUF, found by the name of any of them, into one file.`,
		Example: `  smelt merge parts/model-00001-of-00003.gguf model.gguf`,
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := split.Merge(args[0], args[1])
			if err != nil {
				return err
			}
			defer p.Close()
			return copy.write(cmd, "merge", p)
		},
	}
	copy.add(cmd)
	return cmd
}

// copyFlags are what split and merge have in common.
type copyFlags struct {
	split.Options
	quiet bool
}

func (c *copyFlags) add(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&c.Force, "force", false, "replace existing files")
	cmd.Flags().IntVar(&c.Threads, "threads", 0, "threads (default: one per processor)")
	cmd.Flags().BoolVar(&c.quiet, "quiet", false, "print nothing but errors")
}

func (c *copyFlags) write(cmd *cobra.Command, label string, p *split.Plan) error {
	bar := newProgress(cmd.ErrOrStderr(), label, "B", p.Bytes(), c.quiet)
	c.Progress = func(done int64) { bar.set(done, "") }
	err := p.Write(cmd.Context(), c.Options)
	bar.finish()
	if err != nil || c.quiet {
		return err
	}
	return printParts(cmd, p)
}

// printParts lists the files of a plan.
func printParts(cmd *cobra.Command, p *split.Plan) error {
	for i, l := range p.Layouts {
		if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: %s, %s\n", p.Paths[i], results.Plural(len(l.Tensors), "tensor"), results.Bytes(l.Size)); err != nil {
			return err
		}
	}
	return nil
}
