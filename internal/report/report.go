// Package report prints what verify found: a table for the terminal, JSON,
// Markdown for a pull request and JUnit for a CI system. All forms are made
// from one Report, so that they cannot disagree.
package report

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/smeltgguf/smelt/internal/compare"
	"github.com/smeltgguf/smelt/internal/eval"
	"github.com/smeltgguf/smelt/internal/tasks"
)

// Report is one run of verify. docs/verify.md documents its JSON form.
type Report struct {
	Version string         `json:"version"` // of smelt
	Compute string         `json:"compute"` // "exact" or "int8"
	Texts   []string       `json:"texts"`
	Seconds float64        `json:"seconds"`
	Files   []File         `json:"files"`
	Gates   []eval.Outcome `json:"gates"`
	Tasks   []tasks.Result `json:"tasks,omitempty"`
	*eval.Result
	// Tensors has the error of the models' tensors, where it was measured.
	Tensors []ModelTensors `json:"tensors,omitempty"`
}

// ModelTensors is how far a model's tensors are from the base's.
type ModelTensors struct {
	Path    string        `json:"path"`
	Tensors []TensorError `json:"tensors"`
}

// TensorError is how far a tensor is from the base's. Problem, if not empty,
// says why that is not known.
type TensorError struct {
	Name     string  `json:"name"`
	Type     string  `json:"type"`     // the model's
	Relative float64 `json:"rel_rmse"` // RMSE over the base's root mean square; -1: the base's is all zero
	Problem  string  `json:"problem,omitempty"`
}

// TensorErrors returns what the page and the JSON say of a comparison of
// tensors.
func TensorErrors(path string, r *compare.Result) ModelTensors {
	m := ModelTensors{Path: path, Tensors: []TensorError{}}
	for i := range r.Tensors {
		t := &r.Tensors[i]
		m.Tensors = append(m.Tensors, TensorError{t.Name, t.TypeB, t.Relative, t.Problem})
	}
	for _, name := range r.OnlyA {
		m.Tensors = append(m.Tensors, TensorError{Name: name, Problem: "missing"})
	}
	for _, name := range r.OnlyB {
		m.Tensors = append(m.Tensors, TensorError{Name: name, Problem: "not in the base"})
	}
	return m
}

// File describes one of the models compared.
type File struct {
	Path          string  `json:"path"`
	Architecture  string  `json:"architecture"`
	Ftype         string  `json:"ftype"`
	Bytes         int64   `json:"bytes"` // of tensor data
	BitsPerWeight float64 `json:"bits_per_weight"`
}

// Passed reports whether every gate was met.
func (r *Report) Passed() bool {
	for _, g := range r.Gates {
		if !g.Passed {
			return false
		}
	}
	return true
}

// Missed lists the gates that were not met, a line each.
func (r *Report) Missed() []string {
	var lines []string
	for _, g := range r.Gates {
		if !g.Passed {
			lines = append(lines, g.String())
		}
	}
	return lines
}

// JSON writes the report as one object.
func (r *Report) JSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

func (r *Report) file(path string) File {
	for _, f := range r.Files {
		if f.Path == path {
			return f
		}
	}
	return File{Path: path}
}

// column is one figure of the table.
type column struct {
	title string
	text  func(f File, m *eval.Figures) string
}

// columns returns the table's columns: with a base, those of the comparison
// too. A figure that the base does not have is a dash.
func (r *Report) columns() []column {
	compared := func(f func(c *eval.Comparison) string) func(File, *eval.Figures) string {
		return func(_ File, m *eval.Figures) string {
			if m.Comparison == nil {
				return "-"
			}
			return f(m.Comparison)
		}
	}
	cols := []column{
		{"model", func(f File, _ *eval.Figures) string { return filepath.Base(f.Path) }},
		{"type", func(f File, _ *eval.Figures) string { return f.Ftype }},
		{"size", func(f File, _ *eval.Figures) string {
			if f.Bytes == 0 { // of llama.cpp's baseline, which does not say
				return "-"
			}
			return Bytes(f.Bytes)
		}},
		{"bpw", func(f File, _ *eval.Figures) string {
			if f.BitsPerWeight == 0 { // of a baseline
				return "-"
			}
			return fmt.Sprintf("%.2f", f.BitsPerWeight)
		}},
		{"perplexity", func(_ File, m *eval.Figures) string { return fmt.Sprintf("%.4f ± %.4f", m.PPL, m.PPLSE) }},
	}
	if r.Base == nil {
		return cols
	}
	return append(cols,
		column{"ratio", compared(func(c *eval.Comparison) string { return fmt.Sprintf("%.5f ± %.5f", c.PPLRatio, c.PPLRatioSE) })},
		column{"mean KL", compared(func(c *eval.Comparison) string { return fmt.Sprintf("%.6f ± %.6f", c.MeanKLD, c.MeanKLDSE) })},
		column{"99% KL", compared(func(c *eval.Comparison) string { return fmt.Sprintf("%.5f", c.KLD99) })},
		column{"max KL", compared(func(c *eval.Comparison) string { return fmt.Sprintf("%.5f", c.MaxKLD) })},
		column{"RMS Δp", compared(func(c *eval.Comparison) string { return fmt.Sprintf("%.3f%%", 100*c.RMSDP) })},
		column{"same top", compared(func(c *eval.Comparison) string { return fmt.Sprintf("%.2f%%", 100*c.SameTop) })},
	)
}

// rows returns the table's cells, the base first.
func (r *Report) rows() [][]string {
	cols := r.columns()
	head := make([]string, len(cols))
	for i, c := range cols {
		head[i] = c.title
	}
	rows := [][]string{head}
	add := func(m *eval.Figures) {
		row := make([]string, len(cols))
		for i, c := range cols {
			row[i] = c.text(r.file(m.Path), m)
		}
		rows = append(rows, row)
	}
	if r.Base != nil {
		add(r.Base)
	}
	for i := range r.Models {
		add(&r.Models[i])
	}
	return rows
}

func (r *Report) what() string {
	s := fmt.Sprintf("%d chunks of %d tokens, %d positions scored, %s arithmetic, %.1f s", r.Chunks, r.Ctx, r.Scored, r.Compute, r.Seconds)
	if r.Decided {
		s += " (not the whole text: all gates are decided)"
	} else if !r.Complete {
		s += " (not the whole text)"
	}
	return s + r.bound()
}

// bound says how far figures from a baseline may be off, on a line of its own.
func (r *Report) bound() string {
	var mean, one float64
	for _, m := range r.Models {
		if m.Comparison != nil {
			mean, one = max(mean, m.MeanKLDBound), max(one, m.KLDBound)
		}
	}
	if mean == 0 {
		return ""
	}
	return fmt.Sprintf("\nKL from a baseline: means within ±%.2g, single positions and quantiles within ±%.2g of what the base itself would give; all else is exact", mean, one)
}

// taskRows returns the cells of the table of tasks, none without any.
func (r *Report) taskRows() [][]string {
	if len(r.Tasks) == 0 {
		return nil
	}
	rows := [][]string{{"task", "model", "correct", "accuracy", "95%", "difference", "only base : only model", "McNemar p"}}
	for _, t := range r.Tasks {
		name := t.Name
		if !t.Complete {
			name += " (not all)"
		}
		add := func(s *tasks.Score) {
			row := []string{name, filepath.Base(s.Path), fmt.Sprintf("%d/%d", s.Correct, t.Questions), inPercent(s.Accuracy), inPercent(s.Low) + " to " + inPercent(s.High), "-", "-", "-"}
			if a := s.Against; a != nil {
				row = append(row[:5], fmt.Sprintf("%+.2f%%", 100*a.Diff), fmt.Sprintf("%d : %d", a.OnlyBase, a.OnlyModel), fmt.Sprintf("%.3g", a.McNemar))
			}
			rows = append(rows, row)
		}
		if t.Base != nil {
			add(t.Base)
		}
		for i := range t.Models {
			add(&t.Models[i])
		}
	}
	return rows
}

func inPercent(x float64) string { return fmt.Sprintf("%.2f%%", 100*x) }

// measured reports whether there are figures of a text.
func (r *Report) measured() bool { return r.Base != nil || len(r.Models) > 0 }

// Text writes the tables for a terminal.
func (r *Report) Text(w io.Writer) error {
	write := func(rows [][]string) error {
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, row := range rows {
			fmt.Fprintln(tw, strings.Join(row, "\t"))
		}
		return tw.Flush()
	}
	var err error
	if r.measured() {
		if err = write(r.rows()); err == nil {
			_, err = fmt.Fprintln(w, r.what())
		}
	}
	if rows := r.taskRows(); rows != nil && err == nil {
		err = write(rows)
	}
	for _, g := range r.Gates {
		fmt.Fprintf(w, "%s %s\n", mark(g.Passed, "passed:", "MISSED:"), g)
	}
	return err
}

// Markdown writes the tables for a pull request's comment or a job's summary.
func (r *Report) Markdown(w io.Writer) error {
	if r.measured() {
		if err := markdownTable(w, r.rows()); err != nil {
			return err
		}
		fmt.Fprintf(w, "\n%s\n", r.what())
	}
	if rows := r.taskRows(); rows != nil {
		if r.measured() {
			fmt.Fprintln(w)
		}
		if err := markdownTable(w, rows); err != nil {
			return err
		}
	}
	if len(r.Gates) > 0 {
		fmt.Fprintln(w)
	}
	for _, g := range r.Gates {
		if _, err := fmt.Fprintf(w, "- %s %s\n", mark(g.Passed, "✅", "❌"), g); err != nil {
			return err
		}
	}
	return nil
}

func markdownTable(w io.Writer, rows [][]string) error {
	for i, row := range rows {
		for j := range row {
			row[j] = strings.ReplaceAll(row[j], "|", `\|`)
		}
		if _, err := fmt.Fprintf(w, "| %s |\n", strings.Join(row, " | ")); err != nil {
			return err
		}
		if i == 0 {
			fmt.Fprintf(w, "|%s\n", strings.Repeat(" --- |", len(row)))
		}
	}
	return nil
}

func mark(ok bool, yes, no string) string {
	if ok {
		return yes
	}
	return no
}

// The JUnit form: a suite, a test case per gate.
type (
	junitSuite struct {
		XMLName  xml.Name    `xml:"testsuite"`
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Time     string      `xml:"time,attr"`
		Cases    []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Name    string        `xml:"name,attr"`
		Class   string        `xml:"classname,attr"`
		Failure *junitFailure `xml:"failure,omitempty"`
	}
	junitFailure struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

// JUnit writes a test case per gate.
func (r *Report) JUnit(w io.Writer) error {
	s := junitSuite{Name: "smelt verify", Tests: len(r.Gates), Time: fmt.Sprintf("%.3f", r.Seconds)}
	for _, g := range r.Gates {
		c := junitCase{Name: g.Name, Class: g.Path}
		if !g.Passed {
			s.Failures++
			c.Failure = &junitFailure{Message: fmt.Sprintf("%s is %.6g", g.Gate.Figure, g.Value), Text: g.String()}
		}
		s.Cases = append(s.Cases, c)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(s); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

// Bytes prints a size in decimal units: "2.20 GB".
func Bytes(n int64) string {
	v, unit := float64(n), 0
	for v >= 1000 && unit < 4 {
		v /= 1000
		unit++
	}
	if unit == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.2f %cB", v, " kMGT"[unit])
}

// Plural prints a number of things: "1 tensor", "2 tensors".
func Plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
