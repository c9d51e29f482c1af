//go:build peer

package peer

import (
	"bufio"
	"bytes"
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// sameNumbers is how far float32 logits of the same model may be from each
// other, relative to their root mean square.
const sameNumbers = 1e-3

// python returns an interpreter with Hugging Face's library, or skips:
// SMELT_PYTHON, or python3.
func python(t *testing.T) string {
	t.Helper()
	name := os.Getenv("SMELT_PYTHON")
	if name == "" {
		name = "python3"
	}
	if out, err := exec.Command(name, "-c", "import torch, transformers").CombinedOutput(); err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		t.Skipf("skipped: %s has no torch and transformers (set SMELT_PYTHON to one that has): %v %s", name, err, lines[len(lines)-1])
	}
	return name
}

// remoteCode are models that transformers runs only with code from elsewhere.
var remoteCode = []string{"internlm2", "internlm2-bias", "minicpm", "baichuan"}

// TestTransformers runs checkpoints through Hugging Face's library in float32
// and compares its logits with ours, of the checkpoint itself and of its GGUF.
func TestTransformers(t *testing.T) {
	name := python(t)
	cmd := exec.Command(name, filepath.Join(root, "scripts/transformers_logits.py"))
	cmd.Stderr = &bytes.Buffer{}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("transformers: %v\n%s", err, cmd.Stderr)
		}
	})
	answers, ids := bufio.NewScanner(out), prompt()
	for _, c := range checkpoints(t) {
		t.Run(c.name, func(t *testing.T) {
			if slices.Contains(remoteCode, c.name) {
				t.Skip("skipped: transformers has no code of its own for it")
			}
			file := filepath.Join(t.TempDir(), "logits.f32")
			job, err := json.Marshal(map[string]any{"dir": c.dir, "ids": ids, "out": file})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := in.Write(append(job, '\n')); err != nil {
				t.Fatal(err)
			}
			var answer struct{ Error string }
			if !answers.Scan() {
				t.Fatalf("transformers ended: %v\n%s", answers.Err(), cmd.Stderr)
			}
			if err := json.Unmarshal(answers.Bytes(), &answer); err != nil {
				t.Fatalf("%v: %s", err, answers.Bytes())
			}
			if answer.Error != "" {
				t.Fatalf("transformers: %s", answer.Error)
			}
			want := floats(t, file)
			compare := func(what, path string, budget float64) {
				d := off(t, run(t, path, ids), want, len(ids))
				t.Logf("%s: logits differ by %.2g of their root mean square, budget %g", what, d, budget)
				if !(d <= budget) {
					t.Fail()
				}
			}
			compare("checkpoint", c.dir, sameNumbers)
			if !math.IsInf(c.unsaid, 1) {
				compare("GGUF", converted(t, c.dir, "f32"), max(sameNumbers, c.unsaid))
			}
		})
	}
}
