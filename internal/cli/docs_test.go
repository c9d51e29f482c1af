package cli

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

var update = flag.Bool("update", false, "write docs/commands.md anew")

const commandsPage = "../../docs/commands.md"

// TestCommandsPage keeps docs/commands.md equal to what --help says.
func TestCommandsPage(t *testing.T) {
	var b strings.Builder
	b.WriteString("# Commands\n\nWhat `--help` prints; `convert`, `quantize` and `verify` are binaries of their own as well.\n" +
		"This page is written by `go test ./internal/cli -run TestCommandsPage -update`.\n")
	root := newRoot("smelt")
	root.InitDefaultHelpFlag()
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		c.InitDefaultHelpFlag()
		b.WriteString("\n## " + c.CommandPath() + "\n\n")
		if c.Long != "" {
			b.WriteString(c.Long + "\n\n")
		} else {
			b.WriteString(c.Short + ".\n\n")
		}
		b.WriteString("```\n" + strings.TrimSpace(c.UsageString()) + "\n```\n")
		for _, s := range c.Commands() {
			if s.Name() != "help" && s.Name() != "completion" {
				walk(s)
			}
		}
	}
	walk(root)
	b.WriteString("\n## Exit codes\n\n```" + strings.TrimPrefix(exitCodesHelp, "\nExit codes:") + "\n```\n")
	if *update {
		if err := os.WriteFile(commandsPage, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(commandsPage)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != b.String() {
		t.Errorf("docs/commands.md is not what --help says: run go test ./internal/cli -run TestCommandsPage -update")
	}
}
