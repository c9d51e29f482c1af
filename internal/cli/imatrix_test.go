package cli

import (
	"bytes"
	"context"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/smeltgguf/smelt/internal/imatrix"
)

// Budgets against llama-imatrix, which rounds activations to half precision on
// the way: the relative difference of any value, and of the median one.
const (
	maxImatrixError    = 0.01
	medianImatrixError = 0.001
)

// execute runs a command of smelt in this process.
func execute(ctx context.Context, args ...string) error {
	root := newRoot("smelt")
	root.SetArgs(args)
	root.SetOut(io.Discard)
	root.SetErr(io.Discard)
	return root.ExecuteContext(ctx)
}

func TestImatrix(t *testing.T) {
	dir := t.TempDir()
	f16, out := filepath.Join(dir, "f16.gguf"), filepath.Join(dir, "imatrix.gguf")
	ctx := context.Background()
	if err := execute(ctx, "convert", "--in", "../../testdata/models/tiny/hf", "--out", f16, "--quiet"); err != nil {
		t.Fatal(err)
	}
	measure := []string{"imatrix", "--model", f16, "--text", "../../testdata/text/tiny-calibration.txt", "--ctx", "256", "--chunks", "40", "--out", out, "--quiet", "--save-every", "15"}
	if err := execute(ctx, measure...); err != nil {
		t.Fatal(err)
	}
	got, err := imatrix.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	want, err := imatrix.Open("../../testdata/golden/tiny.imatrix.gguf")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got.Names(), want.Names()) || got.Chunks != want.Chunks || got.ChunkSize != want.ChunkSize || !slices.Equal(got.Datasets, want.Datasets) {
		t.Fatalf("%d entries, %d chunks of %d of %v; want %d, %d, %d, %v", got.Len(), got.Chunks, got.ChunkSize, got.Datasets, want.Len(), want.Chunks, want.ChunkSize, want.Datasets)
	}
	var errs []float64
	for _, name := range want.Names() {
		a, b := got.Entry(name), want.Entry(name)
		if !slices.Equal(a.Counts, b.Counts) {
			t.Errorf("%s: counts %v, want %v", name, a.Counts, b.Counts)
		}
		for i, v := range b.Sums {
			errs = append(errs, math.Abs(float64(a.Sums[i]-v))/float64(v))
		}
	}
	slices.Sort(errs)
	if worst, median := errs[len(errs)-1], errs[len(errs)/2]; !(worst < maxImatrixError && median < medianImatrixError) {
		t.Errorf("off by at most %g, by %g in the median; budgets %g and %g", worst, median, maxImatrixError, medianImatrixError)
	}

	// An interrupted run that is resumed measures the same.
	whole, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	part := slices.Clone(measure)
	part[slices.Index(part, "40")] = "15"
	part[slices.Index(part, out)] = out + ".partial"
	if err := execute(ctx, append(part, "--force")...); err != nil {
		t.Fatal(err)
	}
	if err := execute(ctx, append(measure, "--force", "--resume")...); err != nil {
		t.Fatal(err)
	}
	resumed, err := imatrix.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range got.Names() {
		a, b := got.Entry(name).Values(), resumed.Entry(name).Values()
		for i := range a {
			if math.Abs(float64(a[i]-b[i])) > 1e-6*math.Abs(float64(a[i])) {
				t.Fatalf("%s, channel %d: %g resumed, %g at once", name, i, b[i], a[i])
			}
		}
	}
	if again, err := os.ReadFile(out); err != nil || len(again) != len(whole) || !bytes.Equal(again[:200], whole[:200]) {
		t.Errorf("a resumed run writes another file: %v", err)
	}

	// Two of the same merged count twice.
	twice := filepath.Join(dir, "twice.gguf")
	if err := execute(ctx, "imatrix", "--merge", out, "--merge", out, "--out", twice, "--quiet"); err != nil {
		t.Fatal(err)
	}
	m, err := imatrix.Open(twice)
	if err != nil {
		t.Fatal(err)
	}
	if name := m.Names()[0]; m.Chunks != 80 || m.Entry(name).Counts[0] != 2*resumed.Entry(name).Counts[0] {
		t.Errorf("%d chunks, count %v", m.Chunks, m.Entry(name).Counts)
	}
}
