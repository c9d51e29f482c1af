//go:build unix

package stream

import (
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestCreateRefusesPipesAndDevices(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o644); err != nil {
		t.Skip(err)
	}
	for _, p := range []string{fifo, "/dev/null"} {
		if _, err := Create(p, 1, true); err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Errorf("%s: error %v", p, err)
		}
	}
}
