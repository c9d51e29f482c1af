package model

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/internal/convert"
	"github.com/smeltgguf/smelt/internal/decoder"
	"github.com/smeltgguf/smelt/internal/eval"
	"github.com/smeltgguf/smelt/kernels"
)

const (
	models = "../../testdata/models/"
	// maxLogitError is how far logits may be from a float64 forward pass.
	maxLogitError = 1e-3
	// sameKLD is the divergence, in nats, below which a checkpoint and its F32
	// conversion count as the same model: what is left is float32 rounding.
	sameKLD = 1e-7
)

// convertTo converts a model of testdata.
func convertTo(t *testing.T, in, outtype string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "model.gguf")
	p, err := convert.NewPlan(convert.Options{In: in, Out: out, Outtype: outtype})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := p.Run(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	return out
}

func open(t *testing.T, path string) *Model {
	t.Helper()
	m, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// heldout is a text that the tiny model has not seen.
func heldout(t *testing.T, bytes int) []byte {
	t.Helper()
	b, err := os.ReadFile("../../testdata/text/tiny-heldout.txt")
	if err != nil {
		t.Fatal(err)
	}
	return b[:bytes]
}

// TestLogits compares with logits of the tiny model that were computed in
// float64 (golden/tiny.logits.f32: 64 positions of 2048): from the F16 file,
// and from the checkpoint itself.
func TestLogits(t *testing.T) {
	raw, err := os.ReadFile("../../testdata/golden/tiny.logits.f32")
	if err != nil {
		t.Fatal(err)
	}
	const n = 64
	for _, path := range []string{convertTo(t, models+"tiny/hf", "f16"), models + "tiny/hf"} {
		m := open(t, path)
		ids := m.Tokenize(heldout(t, 400))[:n]
		d := decoder.New(m.Weights, decoder.Options{Context: n})
		if err := d.Forward(context.Background(), ids); err != nil {
			t.Fatal(err)
		}
		got := make([]float32, n*d.Vocab())
		if err := d.Logits(got, 0, n); err != nil {
			t.Fatal(err)
		}
		if len(raw) != 4*len(got) {
			t.Fatalf("%d golden bytes for %d logits", len(raw), len(got))
		}
		worst := 0.0
		for i, v := range got {
			want := math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
			worst = max(worst, math.Abs(float64(v)-float64(want)))
		}
		if !(worst < maxLogitError) {
			t.Errorf("%s: logits are off by %g, budget %g", filepath.Base(path), worst, maxLogitError)
		}
	}
}

// TestCheckpointAgainstGGUF runs each form of a checkpoint from its own tensors
// and compares with its F32 conversion.
func TestCheckpointAgainstGGUF(t *testing.T) {
	base := open(t, convertTo(t, models+"micro/hf", "f32"))
	tokens := base.Tokenize(heldout(t, 3000))
	named := func(m *Model) eval.Named {
		return eval.Named{Path: m.Path, Model: decoder.New(m.Weights, decoder.Options{Context: 64, Compute: kernels.Exact})}
	}
	var all []eval.Named
	for _, form := range []string{"hf", "hf-sharded", "hf-bin", "hf-bin-legacy", "meta-1", "meta-2"} {
		all = append(all, named(open(t, models+"micro/"+form)))
	}
	b := named(base)
	res, err := eval.Run(context.Background(), &b, all, tokens, eval.Options{Ctx: 64, Chunks: 4, BOS: base.Start()})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range res.Models {
		if !(m.MeanKLD < sameKLD) || m.SameTop != 1 {
			t.Errorf("%s against its F32 file: mean KL %g, same top %g", m.Path, m.MeanKLD, m.SameTop)
		}
	}
}

func TestDescription(t *testing.T) {
	m := open(t, convertTo(t, models+"tiny/hf", "q8_0"))
	if m.Ftype != "Q8_0" || m.BitsPerWeight < 8.5 || m.BitsPerWeight > 8.6 || m.Weights.Desc().Layers != 3 {
		t.Errorf("type %s, %g bits per weight, %d layers", m.Ftype, m.BitsPerWeight, m.Weights.Desc().Layers)
	}
	hf := open(t, models+"tiny/hf")
	if hf.Ftype != "F16" || hf.BitsPerWeight != 16 {
		t.Errorf("checkpoint: type %s, %g bits per weight", hf.Ftype, hf.BitsPerWeight)
	}
}

func TestTokenizerAlone(t *testing.T) {
	full := open(t, models+"tiny/hf")
	for _, path := range []string{models + "tiny/hf", convertTo(t, models+"tiny/hf", "f16")} {
		tok, err := OpenTokenizer(path)
		if err != nil {
			t.Fatal(err)
		}
		text := heldout(t, 500)
		a, b := tok.Tokenize(text), full.Tokenize(text)
		if len(a) != len(b) || a[0] != tok.Start() || !strings.Contains(string(tok.Decode(a, false)), "Second Soldier:") {
			t.Errorf("%s: %d ids, the whole model's tokenizer gives %d; text %q", path, len(a), len(b), tok.Decode(a[:20], false))
		}
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.gguf")
	if err := os.WriteFile(bad, []byte("GGUF and nothing more"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "none"): "none: no such file",
		bad:                        "bad.gguf: truncated header: 21 of 24 bytes",
	} {
		if _, err := Open(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", path, err, want)
		}
	}
}

// TestInt8 bounds what rounding activations to 8 bits costs, against the exact
// arithmetic on the same weights.
func TestInt8(t *testing.T) {
	const ctx, maxKLD = 128, 2e-4
	path := convertTo(t, models+"tiny/hf", "q8_0")
	named := func(c kernels.Compute) eval.Named {
		m := open(t, path)
		return eval.Named{Path: c.String(), Model: decoder.New(m.Weights, decoder.Options{Context: ctx, Sequences: 2, Compute: c})}
	}
	exact, int8 := named(kernels.Exact), named(kernels.Int8)
	tokens := open(t, path).Tokenize(heldout(t, 8000))
	res, err := eval.Run(t.Context(), &exact, []eval.Named{int8}, tokens, eval.Options{Ctx: ctx, Chunks: 6, BOS: -1})
	if err != nil {
		t.Fatal(err)
	}
	if kld := res.Models[0].MeanKLD; !(kld > 0 && kld < maxKLD) {
		t.Errorf("KL divergence %g nats, budget %g", kld, maxKLD)
	}
}

// TestFileCutShort cuts the mapped file of a model that is running: the pass
// ends with an error, whichever core was reading.
func TestFileCutShort(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a mapped file cannot be cut short on Windows")
	}
	pool := kernels.NewPool(3)
	defer pool.Close()
	dir := filepath.Join(t.TempDir(), "hf")
	if err := os.CopyFS(dir, os.DirFS(models+"tiny/hf")); err != nil {
		t.Fatal(err)
	}
	gguf := convertTo(t, models+"tiny/hf", "f16")
	for path, file := range map[string]string{gguf: gguf, dir: filepath.Join(dir, "model.safetensors")} {
		m := open(t, path)
		ids := m.Tokenize(heldout(t, 400))[:32]
		for _, n := range []int{1, 32} {
			d := decoder.New(m.Weights, decoder.Options{Context: n, Pool: pool})
			if n == 1 {
				if err := d.Forward(t.Context(), ids[:n]); err != nil {
					t.Fatal(err)
				}
				if err := os.Truncate(file, 1<<16); err != nil {
					t.Fatal(err)
				}
			}
			if err := d.Forward(t.Context(), ids[:n]); !errors.Is(err, formats.ErrChanged) {
				t.Errorf("%s, %d tokens: error %v; want %v", filepath.Base(path), n, err, formats.ErrChanged)
			}
		}
	}
}
