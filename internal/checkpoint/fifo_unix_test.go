//go:build unix

package checkpoint

import (
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestFIFO: a pipe is refused and not waited for.
func TestFIFO(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"model.safetensors", "config.json"} {
		if err := unix.Mkfifo(filepath.Join(dir, name), 0o666); err != nil {
			t.Skip("no pipes here:", err)
		}
	}
	for _, path := range []string{dir, filepath.Join(dir, "model.safetensors")} {
		if _, err := Open(path); err == nil || !strings.HasSuffix(err.Error(), "model.safetensors: not a regular file") {
			t.Error(err)
		}
	}
	c, err := OpenConfig(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.JSON("config.json"); err == nil || !strings.HasSuffix(err.Error(), "config.json: not a regular file") {
		t.Error(err)
	}
}
