//go:build peer

package peer

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/smeltgguf/smelt/internal/convert"
	"github.com/smeltgguf/smelt/internal/decoder"
	"github.com/smeltgguf/smelt/internal/fixture"
	"github.com/smeltgguf/smelt/internal/model"
)

// checkpoint is one to run, in its own form and converted.
type checkpoint struct {
	name, dir string
	unsaid    float64 // see fixture.Model.Unsaid
}

// unsaid is fixture.Model.Unsaid of checkpoints of the shared folder.
var unsaid = map[string]float64{
	// GELU's tanh form for the exact one.
	"falcon-7b-instruct": 5e-3,
	// YaRN's bounds are rounded.
	"gpt-oss-20b": 5e-3,
	// query_pre_attn_scalar is not the heads' size.
	"gemma-3-1b-it": math.Inf(1),
}

// checkpoints are the fixtures of all families and those of the shared folder.
func checkpoints(t *testing.T) []checkpoint {
	t.Helper()
	var all []checkpoint
	tmp := t.TempDir()
	for _, m := range fixture.Models() {
		dir := filepath.Join(tmp, m.Name)
		if err := m.Write(dir); err != nil {
			t.Fatal(err)
		}
		all = append(all, checkpoint{m.Name, dir, m.Unsaid})
	}
	found, err := filepath.Glob(filepath.Join(sharedDir(), "families/*/*/config.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		dir := filepath.Dir(f)
		all = append(all, checkpoint{filepath.Base(dir), dir, unsaid[filepath.Base(dir)]})
	}
	return all
}

// prompt is long enough for the windows of the fixtures and for longrope's
// factors for long texts to count.
func prompt() []int32 {
	ids := make([]int32, 48)
	for i := range ids {
		ids[i] = int32(3 + i*37%300)
	}
	return ids
}

// run returns the logits of ids by our decoder.
func run(t *testing.T, path string, ids []int32) []float64 {
	t.Helper()
	m, err := model.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	d := decoder.New(m.Weights, decoder.Options{Context: len(ids)})
	if err := d.Forward(context.Background(), ids); err != nil {
		t.Fatal(err)
	}
	l := make([]float32, len(ids)*d.Vocab())
	if err := d.Logits(l, 0, len(ids)); err != nil {
		t.Fatal(err)
	}
	out := make([]float64, len(l))
	for i, v := range l {
		out[i] = float64(v)
	}
	return out
}

// converted returns the checkpoint's GGUF.
func converted(t *testing.T, dir, outtype string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "model.gguf")
	p, err := convert.NewPlan(convert.Options{In: dir, Out: out, Outtype: outtype})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := p.Run(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	return out
}

// off is the largest difference relative to the root mean square of want, both
// (tokens, vocabulary); got may have fewer columns, if the checkpoint's matrix
// is padded.
func off(t *testing.T, got, want []float64, tokens int) float64 {
	t.Helper()
	columns, wide := len(got)/tokens, len(want)/tokens
	if len(got) == 0 || columns > wide {
		t.Fatalf("%d logits, want %d", columns, wide)
	}
	worst, squares := 0.0, 0.0
	for i := range tokens {
		for j := range columns {
			w := want[i*wide+j]
			d := math.Abs(got[i*columns+j] - w)
			if math.IsNaN(d) {
				return math.Inf(1)
			}
			worst = max(worst, d)
			squares += w * w
		}
	}
	return worst / math.Sqrt(squares/float64(len(got)))
}

// familyBudgets are how far logits may be from llama.cpp's of the same file,
// relative to their root mean square, at the median position. llama.cpp keeps
// keys and values in F16 and rounds what meets Q8_0 or MXFP4 weights to 8 bits;
// the median, since a rounded router may choose another expert for a token.
var familyBudgets = []struct {
	outtype string
	budget  float64
}{{"f32", 5e-3}, {"q8_0", 8e-2}}

// refused are the models that llama.cpp does not load, with why.
var refused = map[string]string{
	"internlm2-bias":        "it has no biases for this architecture",
	"command-r-plus":        "it has norms of q and k from 64 layers on",
	"DeepSeek-V2-Lite-Chat": "it knows models whose q is not compressed by their 27 layers",
}

// TestFamilies runs the GGUF of each family through llama.cpp and compares
// its logits with ours.
func TestFamilies(t *testing.T) {
	shared(t, "peer/llamacpp.py")
	ids := prompt()
	arg := strings.Trim(strings.ReplaceAll(fmt.Sprint(ids), " ", ","), "[]")
	for _, c := range checkpoints(t) {
		for _, b := range familyBudgets {
			if c.name == "gpt-oss-20b" {
				b.budget = 8e-2 // its experts are MXFP4 in all files
			}
			if c.name == "deepseek2-lite" {
				b.budget *= 4 // what 27 layers add up
			}
			t.Run(c.name+"/"+b.outtype, func(t *testing.T) {
				if why := refused[c.name]; why != "" {
					t.Skipf("skipped: llama.cpp refuses it: %s", why)
				}
				gguf, file := converted(t, c.dir, b.outtype), filepath.Join(t.TempDir(), "logits.f32")
				llamacpp(t, nil, "logits", gguf, "--ids", arg, "--out", file)
				d := typicallyOff(t, run(t, gguf, ids), floats(t, file), len(ids))
				t.Logf("%s %s: logits differ by %.2g of their root mean square, budget %g", c.name, b.outtype, d, b.budget)
				if !(d <= b.budget) {
					t.Fail()
				}
			})
		}
	}
}

// typicallyOff is the median over positions of the root mean square of the
// difference, relative to that of want, both (tokens, vocabulary).
func typicallyOff(t *testing.T, got, want []float64, tokens int) float64 {
	t.Helper()
	if len(got) != len(want) || len(got) == 0 {
		t.Fatalf("%d logits, want %d", len(got), len(want))
	}
	columns := len(got) / tokens
	var each []float64
	for i := 0; i < len(got); i += columns {
		var diff, all float64
		for j := i; j < i+columns; j++ {
			diff += (got[j] - want[j]) * (got[j] - want[j])
			all += want[j] * want[j]
		}
		each = append(each, math.Sqrt(diff/all))
	}
	slices.SortFunc(each, func(x, y float64) int {
		if math.IsNaN(x) || math.IsNaN(y) {
			t.Fatal("logits are not numbers")
		}
		return cmp.Compare(x, y)
	})
	return each[len(each)/2]
}
