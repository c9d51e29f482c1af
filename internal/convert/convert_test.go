package convert

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// TestNewPlanFails: the errors of all stages come out.
func TestNewPlanFails(t *testing.T) {
	dir := t.TempDir()
	if _, err := NewPlan(Options{In: filepath.Join(dir, "none"), Out: "x.gguf"}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no checkpoint: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "model.safetensors"), []byte("\x02\x00\x00\x00\x00\x00\x00\x00{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := NewPlan(Options{In: dir, Out: "x.gguf"}); err == nil {
		t.Error("a checkpoint without tensors and config is planned")
	}
}
