package cli

import (
	"github.com/spf13/cobra"

	"github.com/smeltgguf/smelt/internal/compare"
	"github.com/smeltgguf/smelt/internal/model"
	"github.com/smeltgguf/smelt/internal/report"
)

// newVerifyTensors is the subcommand `tensors` of verify.
func newVerifyTensors() *cobra.Command {
	var (
		maxRelative   float64
		asJSON, quiet bool
	)
	cmd := &cobra.Command{
		Use:   "tensors A B",
		Short: "Compare every tensor of one model with another's",
		Long: `Compare every tensor of model B with the one of the same name in model A, without
running either. Both may be GGUF files or checkpoint directories; a checkpoint's tensors
are named and ordered as convert does. Memory stays bounded, whatever the model's size.`,
		Example: `  verify tensors hf/ model-q4_k_m.gguf
  verify tensors model-f16.gguf model-q8_0.gguf --max-rel-rmse 0.01 --json`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var m [2]*model.Tensors
			for i, path := range args {
				t, err := model.OpenTensors(path)
				if err != nil {
					return err
				}
				defer t.Close()
				m[i] = t
			}
			res, err := compareTensors(cmd.Context(), m[0], m[1], cmd.ErrOrStderr(), quiet)
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), struct {
					A string `json:"a"`
					B string `json:"b"`
					*compare.Result
				}{args[0], args[1], res})
			} else {
				err = report.TensorsText(cmd.OutOrStdout(), res)
			}
			if err != nil || !cmd.Flags().Changed("max-rel-rmse") {
				return err
			}
			if missed := res.Missed(maxRelative); len(missed) > 0 {
				return &gateError{missed}
			}
			return nil
		},
	}
	cmd.Flags().Float64Var(&maxRelative, "max-rel-rmse", 0, "gate: largest RMSE of a tensor, relative to the root mean square of A's")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object (docs/verify.md describes it)")
	cmd.Flags().BoolVar(&quiet, "quiet", false, "no progress")
	return cmd
}
