package cli

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/smeltgguf/smelt/kernels"
)

// version is what `git describe` says, set by the linker; a plain `go install`
// leaves it empty and the module's version counts.
var version string

func versionString() string {
	if version != "" {
		return version
	}
	if bi, ok := debug.ReadBuildInfo(); ok && bi.Main.Version != "" {
		return bi.Main.Version
	}
	return "(devel)"
}

func newVersion() *cobra.Command {
	var verbose bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version and the platform",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			w := cmd.OutOrStdout()
			_, err := fmt.Fprintf(w, "smelt %s %s/%s %s\n", versionString(), runtime.GOOS, runtime.GOARCH, runtime.Version())
			if err == nil && verbose {
				err = printCPU(w, os.Getenv("SMELT_CPU"))
			}
			return err
		},
	}
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "also print the instruction sets that kernels can use here, and the one in use")
	return cmd
}

// knownCPU reports whether SMELT_CPU can have the value env.
func knownCPU(env string) bool {
	levels, _ := kernels.CPULevels()
	return slices.Contains(levels, env)
}

// printCPU prints what SMELT_CPU, whose value is env, can be and what of it
// this machine has.
func printCPU(w io.Writer, env string) error {
	levels, here := kernels.CPULevels()
	note := ""
	switch {
	case env != "" && !knownCPU(env):
		note = fmt.Sprintf(" (SMELT_CPU=%q is none of these and changes nothing)", env)
	case env != "":
		note = " (SMELT_CPU=" + env + ")"
	}
	_, err := fmt.Fprintf(w, "instruction sets (SMELT_CPU): %s\non this machine: %s\nin use: %s%s\nprocessors: %d\n",
		strings.Join(levels, ", "), strings.Join(here, ", "), kernels.CPU(), note, runtime.GOMAXPROCS(0))
	return err
}
