package cli

import (
	"context"
	"io"

	"github.com/smeltgguf/smelt/internal/compare"
	"github.com/smeltgguf/smelt/internal/model"
	"github.com/smeltgguf/smelt/internal/report"
)

// compareWeights measures how far each model's tensors are from the base's.
func compareWeights(ctx context.Context, base string, models []string, stderr io.Writer, quiet bool) ([]report.ModelTensors, error) {
	a, err := model.OpenTensors(base)
	if err != nil {
		return nil, err
	}
	defer a.Close()
	var all []report.ModelTensors
	for _, path := range models {
		m, err := compareTo(ctx, a, path, stderr, quiet)
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, nil
}

func compareTo(ctx context.Context, a *model.Tensors, path string, stderr io.Writer, quiet bool) (report.ModelTensors, error) {
	b, err := model.OpenTensors(path)
	if err != nil {
		return report.ModelTensors{}, err
	}
	defer b.Close()
	res, err := compareTensors(ctx, a, b, stderr, quiet)
	if err != nil {
		return report.ModelTensors{}, err
	}
	return report.TensorErrors(path, res), nil
}

// compareTensors compares with a progress bar.
func compareTensors(ctx context.Context, a, b *model.Tensors, stderr io.Writer, quiet bool) (*compare.Result, error) {
	var bar *progress
	defer func() {
		if bar != nil {
			bar.finish()
		}
	}()
	return compare.Tensors(ctx, a.List, b.List, func(done, total int64) {
		if bar == nil {
			bar = newProgress(stderr, "compare", "weights", total, quiet)
		}
		bar.set(done, "")
	})
}
