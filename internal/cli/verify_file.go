package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/smeltgguf/smelt/internal/check"
	"github.com/smeltgguf/smelt/internal/corpus"
	"github.com/smeltgguf/smelt/internal/report"
)

// newVerifyFile is the subcommand `file` of verify.
func newVerifyFile() *cobra.Command {
	var (
		texts                 []string
		sidecar               string
		asJSON, strict, quiet bool
	)
	cmd := &cobra.Command{
		Use:   "file FILE",
		Short: "Look through a GGUF for what makes it unusable",
		Long: `Look through a GGUF for what makes it unusable, without running it: structure, all
parts of a split model, NaN and infinities in every block, all-zero tensors, the
tensors and dimensions that the architecture asks for, vocabulary against embedding.
With --text the tokenizer must give that text back. Sizes and checksums are held against
the manifest that convert and quantize write with --manifest: --manifest FILE, or
FILE.manifest.json where there is one. Any error is exit code 1.`,
		Example: `  verify file model.gguf
  verify file --strict --text wiki.txt model-00001-of-00003.gguf`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			opt := check.Options{}
			if len(texts) > 0 {
				text, err := corpus.Read(texts, corpus.Options{})
				if err != nil {
					return err
				}
				opt.Text = string(text.Data)
			}
			var err error
			if opt.Manifest, err = manifestOf(sidecar, args[0]); err != nil {
				return err
			}
			var bar *progress
			opt.Checksums = func(done, total int64) {
				if bar == nil {
					bar = newProgress(cmd.ErrOrStderr(), "checksum", "B", total, quiet)
				}
				bar.set(done, "")
				if done == total {
					bar.finish()
					bar = nil
				}
			}
			opt.Progress = func(done, total int64) {
				if bar == nil {
					bar = newProgress(cmd.ErrOrStderr(), "check", "B", total, quiet)
				}
				bar.set(done, "")
			}
			found, err := check.File(cmd.Context(), args[0], opt)
			if bar != nil {
				bar.finish()
			}
			if err != nil {
				return err
			}
			errs, warnings := check.Count(found)
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), struct {
					Path     string          `json:"path"`
					Errors   int             `json:"errors"`
					Warnings int             `json:"warnings"`
					Findings []check.Finding `json:"findings"`
				}{args[0], errs, warnings, append([]check.Finding{}, found...)})
			} else {
				for _, f := range found {
					fmt.Fprintln(cmd.OutOrStdout(), f)
				}
				if len(found) == 0 {
					fmt.Fprintf(cmd.OutOrStdout(), "%s: nothing found wrong\n", args[0])
				}
			}
			if err == nil && (errs > 0 || strict && warnings > 0) {
				err = fmt.Errorf("%s: %s, %s", args[0], report.Plural(errs, "error"), report.Plural(warnings, "warning"))
			}
			return err
		},
	}
	cmd.Flags().StringArrayVar(&texts, "text", nil, "text to send through the tokenizer and back: file or glob (may be repeated)")
	cmd.Flags().StringVar(&sidecar, "manifest", "", "manifest to check the file with (default: FILE.manifest.json, if there is one)")
	cmd.Flags().BoolVar(&strict, "strict", false, "fail on warnings, too")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object: path, errors, warnings, findings (severity, tensor, message)")
	cmd.Flags().BoolVar(&quiet, "quiet", false, "no progress")
	return cmd
}
