package report

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/internal/compare"
)

// TensorsText writes a table of how far each tensor is from the reference's.
func TensorsText(w io.Writer, r *compare.Result) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "tensor\ttypes\tRMSE\trel RMSE\tmax\tcosine\tsaturated\tnotes")
	row := func(name, types string, f *compare.Figures, notes []string) {
		saturated := "-"
		if f.Blocks > 0 {
			saturated = fmt.Sprintf("%d/%d", f.Saturated, f.Blocks)
		}
		fmt.Fprintf(tw, "%s\t%s\t%.4g\t%.6f\t%.4g\t%.8f\t%s\t%s\n",
			name, types, f.RMSE, f.Relative, f.Max, f.Cosine, saturated, strings.Join(notes, ", "))
	}
	for i := range r.Tensors {
		t := &r.Tensors[i]
		types := t.TypeA
		if t.TypeB != t.TypeA {
			types += " " + t.TypeB
		}
		if t.Problem != "" {
			fmt.Fprintf(tw, "%s\t%s\t-\t-\t-\t-\t-\t%s\n", formats.Name(t.Name), types, t.Problem)
			continue
		}
		row(formats.Name(t.Name), types, &t.Figures, notes(&t.Figures))
	}
	row("total", "", &r.Total, notes(&r.Total))
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, only := range []struct {
		names []string
		of    string
	}{{r.OnlyA, "the first"}, {r.OnlyB, "the second"}} {
		for _, n := range only.names {
			if _, err := fmt.Fprintf(w, "only in %s model: %s\n", only.of, formats.Name(n)); err != nil {
				return err
			}
		}
	}
	return nil
}

// notes lists what should not be there, for both models.
func notes(f *compare.Figures) []string {
	var s []string
	for _, n := range []struct {
		what string
		a, b int64
	}{{"NaN", f.NaNA, f.NaNB}, {"infinite", f.InfA, f.InfB}, {"zero rows", f.ZeroRowsA, f.ZeroRowsB}} {
		if n.a+n.b > 0 {
			s = append(s, fmt.Sprintf("%s: %d, %d", n.what, n.a, n.b))
		}
	}
	if f.Relative < 0 {
		s = append(s, "reference all zero")
	}
	return s
}
