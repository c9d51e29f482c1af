// Package cli is the command line: cobra commands, flags, progress and exit
// codes. It is the only package that knows the terminal; the work is done in
// the packages named after the commands.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/kernels"
)

// Exit codes, as every command's help lists them.
const (
	exitOK     = 0
	exitFailed = 1 // bad input, no space, I/O
	exitUsage  = 2
	exitGate   = 3 // an accuracy gate was not met
)

const exitCodesHelp = `
Exit codes:
  0  done
  1  failed: bad input, no space, I/O error
  2  wrong usage
  3  an accuracy gate of verify was not met
  130/143  interrupted by SIGINT/SIGTERM`

// commands lists every command once; smelt has them all as subcommands, the
// three main ones are also binaries of their own.
var commands = []struct {
	name string
	make func() *cobra.Command
}{
	{"convert", newConvert},
	{"quantize", newQuantize},
	{"verify", newVerify},
	{"export", newExport},
	{"inspect", newInspect},
	{"split", newSplit},
	{"merge", newMerge},
	{"recipe", newRecipe},
	{"imatrix", newImatrix},
	{"generate", newGenerate},
	{"tokenize", newTokenize},
	{"logits", newLogits},
	{"bench", newBench},
	{"version", newVersion},
}

// Main runs the binary called name with args and returns its exit code.
func Main(name string, args []string) int {
	root := newRoot(name)
	root.SetArgs(args)
	if env := os.Getenv("SMELT_CPU"); env != "" && !knownCPU(env) {
		levels, _ := kernels.CPULevels()
		fmt.Fprintf(os.Stderr, "%s: warning: SMELT_CPU=%q changes nothing; known are %s\n", name, env, strings.Join(levels, ", "))
	}
	ctx, stop := interruptible(context.Background())
	defer stop()
	cmd, err := root.ExecuteContextC(ctx)
	return fail(os.Stderr, cmd, context.Cause(ctx), err)
}

func newRoot(name string) *cobra.Command {
	var root *cobra.Command
	for _, c := range commands {
		if c.name == name {
			root = c.make()
		}
	}
	if root == nil {
		root = &cobra.Command{
			Use:   "smelt",
			Short: "Convert, quantize and verify language models as GGUF",
			Long: `smelt turns a published language-model checkpoint into a quantized GGUF file and
proves that it still works.`,
			Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		}
		for _, c := range commands {
			root.AddCommand(c.make())
		}
	}
	root.SilenceErrors = true
	root.SilenceUsage = true
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetHelpTemplate(root.HelpTemplate() + exitCodesHelp + "\n")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	return root
}

// fail prints err in the form that every command uses and returns the exit
// code that goes with it. cause is why the context ended, if it did.
func fail(w io.Writer, cmd *cobra.Command, cause, err error) int {
	if err == nil {
		return exitOK
	}
	name := "smelt"
	if cmd != nil {
		name = strings.TrimPrefix(cmd.CommandPath(), "smelt ") // "verify file"
	}
	var gate *gateError
	if errors.As(err, &gate) {
		for _, line := range gate.missed {
			fmt.Fprintf(w, "%s: gate missed: %s\n", name, line)
		}
		return exitGate
	}
	var sig interruptError
	if errors.As(cause, &sig) && errors.Is(err, context.Canceled) || errors.As(err, &sig) {
		fmt.Fprintf(w, "%s: interrupted\n", name)
		return 128 + int(sig.Signal)
	}
	fmt.Fprintf(w, "%s: error: %s\n", name, oneLine(err.Error()))
	if h := hint(err); h != "" {
		fmt.Fprintf(w, "hint: %s\n", oneLine(h))
	}
	var usage usageError
	if errors.As(err, &usage) || isCobraUsage(err) {
		fmt.Fprintf(w, "hint: see '%s --help'\n", cmd.CommandPath())
		return exitUsage
	}
	return exitFailed
}

// hint finds what an error says about what to do.
func hint(err error) string {
	var fe *formats.FormatError
	if errors.As(err, &fe) && fe.Hint != "" {
		return fe.Hint
	}
	var h interface{ HintText() string }
	if errors.As(err, &h) {
		return h.HintText()
	}
	return ""
}

// usageError marks an error as the caller's: exit code 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// gateError lists the accuracy gates that were not met, a line each.
type gateError struct{ missed []string }

func (e *gateError) Error() string { return strings.Join(e.missed, "; ") }

// isCobraUsage recognises the argument errors that cobra makes itself, which
// have no type of their own.
func isCobraUsage(err error) bool {
	s := err.Error()
	for _, p := range []string{"unknown command ", "required flag(s) ", "accepts ", "requires at least ", "if any flags in the group "} {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// interruptError is the context's cause after a signal.
type interruptError struct{ syscall.Signal }

func (e interruptError) Error() string { return "interrupted by " + e.String() }

// interruptible returns a context that the first SIGINT or SIGTERM cancels, so
// that the command can remove what it has begun; a second one ends the process.
func interruptible(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	ch := make(chan os.Signal, 2)
	signal.Notify(ch, os.Interrupt, syscall.SIGTERM)
	go func() {
		sig, ok := <-ch
		if !ok {
			return
		}
		s, _ := sig.(syscall.Signal)
		cancel(interruptError{s})
		if _, ok := <-ch; ok {
			os.Exit(128 + int(s))
		}
	}()
	return ctx, func() {
		signal.Stop(ch)
		close(ch)
		cancel(nil)
	}
}
