package gates

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/smeltgguf/smelt/internal/eval"
)

const sample = `
"*": { ppl_ratio: 1.02, mean_kld: 0.05 }
Q2_K*:            # by file type
  ppl_ratio: 1.2
out/big*.gguf:
  same_top: 9.5e-1
`

func TestFor(t *testing.T) {
	f, err := Parse([]byte(sample))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		path, ftype string
		want        []eval.Gate
	}{
		{"m.gguf", "Q4_0", []eval.Gate{{Figure: "ppl_ratio", Bound: 1.02}, {Figure: "mean_kld", Bound: 0.05}}},
		{"dir/m.gguf", "q2_k_s", []eval.Gate{{Figure: "ppl_ratio", Bound: 1.2}, {Figure: "mean_kld", Bound: 0.05}}},
		{"dir/q2_k.gguf", "F16", []eval.Gate{{Figure: "ppl_ratio", Bound: 1.2}, {Figure: "mean_kld", Bound: 0.05}}},
		{"out/big-1.gguf", "F16", []eval.Gate{{Figure: "ppl_ratio", Bound: 1.02}, {Figure: "mean_kld", Bound: 0.05}, {Figure: "same_top", Bound: 0.95}}},
		{"in/big-1.gguf", "F16", []eval.Gate{{Figure: "ppl_ratio", Bound: 1.02}, {Figure: "mean_kld", Bound: 0.05}}},
	} {
		if d := cmp.Diff(tt.want, f.For(tt.path, tt.ftype)); d != "" {
			t.Errorf("%s, %s: %s", tt.path, tt.ftype, d)
		}
	}
	if n := len(f.All()); n != 4 {
		t.Errorf("%d gates, want 4", n)
	}
}

func TestErrors(t *testing.T) {
	for text, want := range map[string]string{
		"":                             "no gates",
		"- ppl":                        "not the YAML of gates: ",
		"ppl: 5":                       `"ppl": want a pattern with figures and their bounds below it`,
		"m: { mean_kl: 1 }":            `pattern "m": gate "mean_kl": no such figure`,
		"m: { ppl: low }":              `pattern "m": "ppl": "low" is no number`,
		"m: { ppl: .nan }":             `bound is not a number`,
		"m: { ppl: 1, ppl: 2 }":        `already defined`,
		"'[': { ppl: 1 }":              `pattern "[": syntax error in pattern`,
		"*: { ppl: 1 }":                "line 1: anchors and aliases are not supported; put a pattern",
		"a: &x { ppl: 1 }\nb: *x":      "anchors and aliases",
		"a: { ppl: 1 }\na: { ppl: 1 }": "already defined",
	} {
		_, err := Parse([]byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
}

func TestRead(t *testing.T) {
	name := filepath.Join(t.TempDir(), "gates.yaml")
	if _, err := Read(name); err == nil || !strings.HasPrefix(err.Error(), name+": ") {
		t.Errorf("got %v", err)
	}
	if err := os.WriteFile(name, []byte(sample), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(name); err != nil {
		t.Error(err)
	}
	if _, err := Read(filepath.Dir(name)); err == nil {
		t.Error("a directory was read")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(sample))
	f.Add([]byte("{a: {b: [1, {c: d}]}}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if file, err := Parse(data); err == nil {
			file.For("m", "Q4_0")
		}
	})
}
