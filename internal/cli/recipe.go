package cli

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/smeltgguf/smelt/internal/recipe"
)

func newRecipe() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "recipe",
		Short: "Show which type each tensor gets, as a table of rules",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(&cobra.Command{
		Use:     "show TYPE",
		Short:   "Print a built-in recipe in the form that --recipe reads",
		Example: "  smelt recipe show Q4_K_M > mine.recipe",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := recipe.Find(args[0])
			if err != nil {
				return usageError{err}
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), r)
			return err
		},
	}, &cobra.Command{
		Use:   "list",
		Short: "List the built-in recipes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "recipe\tfile type\tbase type\trules")
			for _, r := range recipe.Builtin() {
				fmt.Fprintf(w, "%s\t%d\t%s\t%d\n", r.Name, r.FileType, r.Base, len(r.Rules))
			}
			return w.Flush()
		},
	})
	return cmd
}
