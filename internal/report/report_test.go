package report

import (
	"encoding/json"
	"encoding/xml"
	"strings"
	"testing"

	"github.com/smeltgguf/smelt/internal/eval"
)

func sample() *Report {
	gate := eval.Gate{Figure: "mean_kld", Bound: 0.001}
	res := &eval.Result{
		Ctx: 256, Chunks: 2, Tokens: 512, Scored: 254, Complete: true,
		Base: &eval.Figures{Path: "out/f16.gguf", PPL: 37.5, PPLSE: 0.5},
		Models: []eval.Figures{{Path: "out/a|b.gguf", PPL: 38, PPLSE: 0.5,
			Comparison: &eval.Comparison{PPLRatio: 1.0133, MeanKLD: 0.005, KLD99: 0.02, MaxKLD: 0.2, RMSDP: 0.0123, SameTop: 0.94}}},
	}
	return &Report{
		Version: "v1", Compute: "exact", Texts: []string{"t.txt"}, Seconds: 1.5,
		Files: []File{
			{Path: "out/f16.gguf", Architecture: "llama", Ftype: "F16", Bytes: 5_600_000, BitsPerWeight: 16},
			{Path: "out/a|b.gguf", Architecture: "llama", Ftype: "Q4_0", Bytes: 1_600_000, BitsPerWeight: 4.56},
		},
		Result: res,
		Gates:  eval.Check(res, [][]eval.Gate{{gate, {Figure: "same_top", Bound: 0.9}}}),
	}
}

func TestText(t *testing.T) {
	var b strings.Builder
	if err := sample().Text(&b); err != nil {
		t.Fatal(err)
	}
	want := `model     type  size     bpw    perplexity        ratio              mean KL              99% KL   max KL   RMS Δp  same top
f16.gguf  F16   5.60 MB  16.00  37.5000 ± 0.5000  -                  -                    -        -        -       -
a|b.gguf  Q4_0  1.60 MB  4.56   38.0000 ± 0.5000  1.01330 ± 0.00000  0.005000 ± 0.000000  0.02000  0.20000  1.230%  94.00%
2 chunks of 256 tokens, 254 positions scored, exact arithmetic, 1.5 s
MISSED: out/a|b.gguf: mean_kld is 0.005, the gate is mean_kld <= 0.001
passed: out/a|b.gguf: same_top is 0.94, the gate is same_top >= 0.9
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

func TestMarkdown(t *testing.T) {
	var b strings.Builder
	if err := sample().Markdown(&b); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(b.String(), "\n")
	for _, l := range lines[:4] {
		if n := strings.Count(strings.ReplaceAll(l, `\|`, ""), "|"); n != 12 {
			t.Errorf("%d cell borders, want 12: %s", n, l)
		}
	}
	if !strings.Contains(b.String(), "❌ out/a|b.gguf") {
		t.Errorf("the missed gate is not there:\n%s", b.String())
	}
}

func TestJUnit(t *testing.T) {
	var b strings.Builder
	if err := sample().JUnit(&b); err != nil {
		t.Fatal(err)
	}
	var s junitSuite
	if err := xml.Unmarshal([]byte(b.String()), &s); err != nil {
		t.Fatal(err)
	}
	if s.Tests != 2 || s.Failures != 1 || s.Cases[0].Failure == nil || s.Cases[1].Failure != nil {
		t.Errorf("suite %+v", s)
	}
}

func TestJSON(t *testing.T) {
	var b strings.Builder
	if err := sample().JSON(&b); err != nil {
		t.Fatal(err)
	}
	var v struct {
		Base   struct{ PPL float64 }
		Models []struct {
			Path    string
			MeanKLD float64 `json:"mean_kld"`
		}
		Gates []struct {
			Gate   string
			Passed bool
		}
	}
	if err := json.Unmarshal([]byte(b.String()), &v); err != nil {
		t.Fatal(err)
	}
	if v.Base.PPL != 37.5 || v.Models[0].MeanKLD != 0.005 || v.Gates[0].Gate != "mean_kld <= 0.001" || v.Gates[0].Passed {
		t.Errorf("%+v", v)
	}
}

func TestPassed(t *testing.T) {
	r := sample()
	if r.Passed() || len(r.Missed()) != 1 {
		t.Errorf("passed %v, missed %v", r.Passed(), r.Missed())
	}
	r.Gates = r.Gates[1:]
	if !r.Passed() {
		t.Error("all gates met, but not passed")
	}
}

func TestBytes(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.00 kB", 2_200_000_000: "2.20 GB"} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestPlural(t *testing.T) {
	for n, want := range map[int]string{0: "0 tensors", 1: "1 tensor", 2: "2 tensors"} {
		if got := Plural(n, "tensor"); got != want {
			t.Errorf("Plural(%d) = %q, want %q", n, got, want)
		}
	}
}
