package cli

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain lets the test binary stand in for all four commands, so that the
// scripts run what users run.
func TestMain(m *testing.M) {
	commands := map[string]func(){}
	for _, name := range []string{"smelt", "convert", "quantize", "verify"} {
		commands[name] = func() { os.Exit(Main(name, os.Args[1:])) }
	}
	testscript.Main(m, commands)
}

func TestScripts(t *testing.T) {
	testdata, err := filepath.Abs("../../testdata")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("TESTDATA", testdata)
			return nil
		},
	})
}
