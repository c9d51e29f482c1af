package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/cobra"

	"github.com/smeltgguf/smelt/formats"
)

func TestFail(t *testing.T) {
	cmd := &cobra.Command{Use: "convert"}
	for _, tt := range []struct {
		name       string
		cause, err error
		code       int
		want       string
	}{
		{"success", nil, nil, exitOK, ""},
		{"failure", nil, errors.New("f: bad"), exitFailed, "convert: error: f: bad\n"},
		{"two lines", nil, errors.New("f: bad\n  worse"), exitFailed, "convert: error: f: bad worse\n"},
		{"hint", nil, fmt.Errorf("x: %w", formats.Malformedf("f", 3, "no").WithHint("do it")), exitFailed, "convert: error: x: f: no, at offset 3\nhint: do it\n"},
		{"usage", nil, usagef("--in is needed"), exitUsage, "convert: error: --in is needed\nhint: see 'convert --help'\n"},
		{"gates", nil, &gateError{[]string{"a: x", "b: y"}}, exitGate, "convert: gate missed: a: x\nconvert: gate missed: b: y\n"},
		{"SIGINT", interruptError{syscall.SIGINT}, fmt.Errorf("run: %w", context.Canceled), 130, "convert: interrupted\n"},
		{"SIGTERM", interruptError{syscall.SIGTERM}, interruptError{syscall.SIGTERM}, 143, "convert: interrupted\n"},
		{"failed before the signal", interruptError{syscall.SIGINT}, fs.ErrNotExist, exitFailed, "convert: error: file does not exist\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var b strings.Builder
			if code := fail(&b, cmd, tt.cause, tt.err); code != tt.code || b.String() != tt.want {
				t.Errorf("exit code %d, %q; want %d, %q", code, b.String(), tt.code, tt.want)
			}
		})
	}
}

// TestInterruptible sends the signals to the test itself.
func TestInterruptible(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a process cannot signal itself on Windows")
	}
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		ctx, stop := interruptible(context.Background())
		p, err := os.FindProcess(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Signal(sig); err != nil {
			t.Fatal(err)
		}
		<-ctx.Done()
		var got interruptError
		if !errors.As(context.Cause(ctx), &got) || got.Signal != sig {
			t.Errorf("cause %v, want %v", context.Cause(ctx), sig)
		}
		stop()
	}
}
