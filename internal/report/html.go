package report

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/smeltgguf/smelt/internal/eval"
	"github.com/smeltgguf/smelt/internal/tasks"
)

//go:embed report.html.tmpl
var pageSource string

var page = template.Must(template.New("report").Parse(pageSource))

// HTML writes the report as one page that needs nothing from elsewhere: style,
// charts and the report's JSON are in it. The page is a function of that JSON
// alone. Every figure's element says in data-json where in the JSON it stands
// (a JSON pointer, RFC 6901) and in data-value its exact value.
func (r *Report) HTML(w io.Writer) error {
	var data bytes.Buffer
	if err := r.JSON(&data); err != nil {
		return err
	}
	v := r.view()
	v.JSON = template.JS(data.String()) // encoding/json escapes <, > and & in strings
	return page.Execute(w, v)
}

// num is a figure as it is shown.
type num struct {
	Text, At, Value string
}

// cell is a field of a table: text, or one figure or two with a sign between.
type cell struct {
	Text string
	Num  *num
	SE   *num
}

// nameView is a model as it is named in the page; Index is that of its colour,
// -1 for the base.
type nameView struct {
	Short, Path string
	Index       int
	Dashed      bool
}

type rowView struct {
	Name  nameView // or
	Label string
	Cells []cell
}

type tableView struct {
	Caption string
	Columns []string
	Models  []nameView // columns that are models, after Columns
	Rows    []rowView  // one without cells is a heading
}

// Width is the number of columns.
func (t *tableView) Width() int { return len(t.Columns) + len(t.Models) }

type figureView struct {
	Title, Note string
	SVG         template.HTML
	Full        bool   // takes all of the page's width
	Empty       string // in place of a chart
	Table       *tableView
}

type tileView struct {
	Label string
	cell
}

type gateView struct {
	Model  nameView
	At     string // in the JSON
	Bound  string
	Value  num
	Passed bool
}

type heatView struct {
	Model nameView
	figureView
	Others []rowView
}

type factView struct {
	Label string
	Text  string
	Num   *num
	Names []string
}

type pageView struct {
	JSON      template.JS
	Title     string
	Subtitle  string
	Verdict   string // passed, failed or none
	Headline  string
	Detail    string
	Partial   string
	Facts     []factView
	Tiles     []tileView
	Gates     []gateView
	Summary   tableView
	All       tableView
	Tasks     *tableView
	Charts    []figureView
	Legend    []nameView
	Heat      []heatView
	HeatTop   *num
	Series    []int // indices of colours
	HeatSteps []int
	Version   string
}

// printable makes untrusted text fit to be shown: control characters and
// characters that change the direction of what follows become U+FFFD.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		if unicode.IsPrint(c) || c == ' ' {
			return c
		}
		return unicode.ReplacementChar
	}, strings.ToValidUTF8(s, string(unicode.ReplacementChar)))
}

// shorten cuts the middle out of what is longer than n characters.
func shorten(s string, n int) string {
	c := []rune(s)
	if len(c) <= n {
		return s
	}
	head := (n - 1) / 2
	return string(c[:head]) + "…" + string(c[len(c)-(n-1-head):])
}

// thousands prints a number of tokens: 12k, 1.5M.
func thousands(v float64) string {
	switch {
	case v >= 1e6:
		return strconv.FormatFloat(v/1e6, 'f', -1, 64) + "M"
	case v >= 1e4:
		return strconv.FormatFloat(v/1e3, 'f', -1, 64) + "k"
	}
	return strconv.FormatFloat(v, 'f', -1, 64)
}

func number(text, at string, value float64) *num {
	return &num{Text: text, At: at, Value: strconv.FormatFloat(value, 'g', -1, 64)}
}

func integer(v int, at string) *num {
	s := strconv.Itoa(v)
	return &num{Text: group(s), At: at, Value: s}
}

// group puts narrow spaces between thousands.
func group(digits string) string {
	var b strings.Builder
	for i, c := range digits {
		if n := len(digits) - i; i > 0 && n%3 == 0 && len(digits) > 4 {
			b.WriteRune('\u202f')
		}
		b.WriteRune(c)
	}
	return b.String()
}

func (r *Report) model(i int) nameView {
	return nameView{Short: shorten(printable(filepath.Base(r.Models[i].Path)), 48), Path: printable(r.Models[i].Path), Index: i % seriesCount, Dashed: i >= seriesCount}
}

func (r *Report) base() nameView { return baseName(r.Base.Path) }

func baseName(path string) nameView {
	return nameView{Short: shorten(printable(filepath.Base(path)), 48), Path: printable(path), Index: -1}
}

func (r *Report) models() []nameView {
	var names []nameView
	for i := range r.Models {
		names = append(names, r.model(i))
	}
	return names
}

// spec is how a figure is shown.
type spec struct {
	name, label string
	digits      int
	percent     bool
}

func (s spec) format(v float64) string {
	if s.percent {
		return strconv.FormatFloat(100*v, 'f', s.digits, 64) + "\u202f%"
	}
	if v != 0 && math.Abs(v) < 5*math.Pow10(-s.digits) || math.Abs(v) >= 1e7 {
		return scientific(v)
	}
	return strconv.FormatFloat(v, 'f', s.digits, 64)
}

// scientific prints two significant digits and the exponent as it is: 1.7e-7.
func scientific(v float64) string {
	m, e, _ := strings.Cut(strconv.FormatFloat(v, 'e', 1, 64), "e")
	n, _ := strconv.Atoi(e)
	return m + "e" + strconv.Itoa(n)
}

// cell shows a model's figure, and its standard error where there is one.
func (s spec) cell(f *eval.Figures, at string) cell {
	v, ok := f.Figure(s.name)
	if !ok {
		return cell{Text: "–"}
	}
	c := cell{Num: number(s.format(v), at+"/"+s.name, v)}
	if se, ok := f.Figure(s.name + "_se"); ok {
		c.SE = number(s.format(se), at+"/"+s.name+"_se", se)
	}
	return c
}

// summarySpecs are the columns of the first table, after type and size.
var summarySpecs = []spec{
	{"ppl", "perplexity", 4, false},
	{"ppl_ratio", "ratio", 5, false},
	{"mean_kld", "mean KL", 6, false},
	{"kld_99", "99% KL", 5, false},
	{"max_kld", "max KL", 5, false},
	{"rms_dp", "RMS Δp", 3, true},
	{"same_top", "same top", 2, true},
}

// allSpecs are all figures, in groups.
var allSpecs = []struct {
	title string
	specs []spec
}{
	{"Perplexity", []spec{
		{"ppl", "perplexity", 4, false}, {"mean_nll", "negative log-likelihood, nats", 6, false}, {"ppl_ratio", "ratio to the base", 6, false},
		{"ln_ppl_ratio", "ln of the ratio", 6, false}, {"ppl_diff", "difference to the base", 5, false}, {"correlation", "correlation of log-likelihoods", 6, false},
	}},
	{"KL divergence, nats", []spec{
		{"mean_kld", "mean", 6, false}, {"min_kld", "smallest", 6, false}, {"median_kld", "median", 6, false}, {"kld_90", "90%", 6, false},
		{"kld_95", "95%", 6, false}, {"kld_99", "99%", 6, false}, {"kld_99_9", "99.9%", 6, false}, {"max_kld", "largest", 6, false},
	}},
	{"Probability of the right token", []spec{
		{"mean_dp", "mean change", 4, true}, {"rms_dp", "RMS change", 4, true}, {"min_dp", "largest fall", 3, true}, {"dp_1", "1%", 3, true}, {"dp_5", "5%", 3, true},
		{"dp_10", "10%", 3, true}, {"median_dp", "median", 3, true}, {"dp_90", "90%", 3, true}, {"dp_95", "95%", 3, true}, {"dp_99", "99%", 3, true}, {"max_dp", "largest rise", 3, true},
	}},
	{"Most probable tokens", []spec{
		{"same_top", "same token on top", 3, true}, {"top5_overlap", "overlap of the top five", 3, true},
	}},
}

func (r *Report) view() *pageView {
	v := &pageView{Version: printable(r.Version)}
	r.heading(v)
	r.facts(v)
	for i, g := range r.Gates {
		m := nameView{Short: printable(filepath.Base(g.Path)), Path: printable(g.Path)}
		for k := range r.Models {
			if r.Models[k].Path == g.Path {
				m = r.model(k)
			}
		}
		bound := strings.NewReplacer("<=", "≤", ">=", "≥").Replace(printable(g.Name))
		v.Gates = append(v.Gates, gateView{m, fmt.Sprintf("/gates/%d", i), bound, *number(fmt.Sprintf("%.6g", g.Value), fmt.Sprintf("/gates/%d/value", i), g.Value), g.Passed})
	}
	slices.SortStableFunc(v.Gates, func(a, b gateView) int { // the missed ones first
		switch {
		case a.Passed == b.Passed:
			return 0
		case b.Passed:
			return -1
		}
		return 1
	})
	r.tables(v)
	r.tasks(v)
	r.charts(v)
	r.heat(v)
	for i := range min(seriesCount, len(r.Models)) {
		v.Series = append(v.Series, i)
	}
	for i := range heatSteps {
		v.HeatSteps = append(v.HeatSteps, i)
	}
	return v
}

func (r *Report) heading(v *pageView) {
	if len(r.Models) == 1 {
		v.Title = printable(filepath.Base(r.Models[0].Path))
	} else {
		v.Title = Plural(len(r.Models), "model")
	}
	if r.Base != nil {
		v.Subtitle = printable(filepath.Base(r.Base.Path))
	}
	missed := len(r.Missed())
	switch {
	case len(r.Gates) == 0:
		v.Verdict, v.Headline, v.Detail = "none", "No gates", "The figures were measured and held against nothing."
	case missed == 0:
		v.Verdict, v.Headline, v.Detail = "passed", "Passed", "All "+Plural(len(r.Gates), "gate")+" met."
		if len(r.Gates) == 1 {
			v.Detail = "The gate is met."
		}
	default:
		v.Verdict, v.Headline, v.Detail = "failed", "Failed", fmt.Sprintf("%d of %s missed.", missed, Plural(len(r.Gates), "gate"))
		if len(r.Gates) == 1 {
			v.Detail = "The gate is missed."
		}
	}
	switch {
	case r.Decided:
		v.Partial = "Not the whole text was read: all gates were decided before."
	case !r.Complete:
		v.Partial = "The run was interrupted: not the whole text was read."
	}
	if len(r.Models) != 1 {
		return
	}
	m := &r.Models[0]
	specs := []spec{{"ppl", "Perplexity", 4, false}}
	if m.Comparison != nil {
		specs = []spec{{"ppl_ratio", "Perplexity ratio", 5, false}, {"mean_kld", "Mean KL divergence", 6, false},
			{"kld_99", "99% KL divergence", 5, false}, {"same_top", "Same top token", 2, true}}
	}
	for _, s := range specs {
		v.Tiles = append(v.Tiles, tileView{s.label, s.cell(m, "/models/0")})
	}
}

func (r *Report) facts(v *pageView) {
	texts := factView{Label: "Text"}
	for _, t := range r.Texts {
		texts.Names = append(texts.Names, shorten(printable(filepath.Base(t)), 60))
	}
	v.Facts = []factView{
		texts,
		{Label: "Chunks", Num: integer(r.Chunks, "/chunks")},
		{Label: "Tokens per chunk", Num: integer(r.Ctx, "/ctx")},
		{Label: "Positions scored", Num: integer(r.Scored, "/scored")},
		{Label: "Arithmetic", Text: shorten(printable(r.Compute), 24)},
		{Label: "Seconds", Num: number(fmt.Sprintf("%.1f", r.Seconds), "/seconds", r.Seconds)},
	}
	for _, f := range r.Files {
		if f.Architecture != "" {
			v.Facts = append(v.Facts, factView{Label: "Architecture", Text: shorten(printable(f.Architecture), 24)})
			break
		}
	}
}

func (r *Report) tables(v *pageView) {
	specs := summarySpecs
	if r.Base == nil {
		specs = specs[:1]
	}
	v.Summary = tableView{Caption: "Figures of each model", Columns: []string{"model", "type", "size", "bits/weight"}}
	for _, s := range specs {
		v.Summary.Columns = append(v.Summary.Columns, s.label)
	}
	add := func(name nameView, m *eval.Figures, at string) {
		row := rowView{Name: name}
		file := slices.IndexFunc(r.Files, func(f File) bool { return f.Path == m.Path })
		if file < 0 {
			row.Cells = append(row.Cells, cell{Text: "–"}, cell{Text: "–"}, cell{Text: "–"})
		} else {
			f, at := &r.Files[file], fmt.Sprintf("/files/%d/", file)
			row.Cells = append(row.Cells, cell{Text: shorten(printable(f.Ftype), 24)}, cell{Num: number(Bytes(f.Bytes), at+"bytes", float64(f.Bytes))},
				cell{Num: number(fmt.Sprintf("%.2f", f.BitsPerWeight), at+"bits_per_weight", f.BitsPerWeight)})
		}
		for _, s := range specs {
			row.Cells = append(row.Cells, s.cell(m, at))
		}
		v.Summary.Rows = append(v.Summary.Rows, row)
	}
	if r.Base != nil {
		add(r.base(), r.Base, "/base")
	}
	for i := range r.Models {
		add(r.model(i), &r.Models[i], fmt.Sprintf("/models/%d", i))
	}

	v.All = tableView{Caption: "All figures", Columns: []string{"figure"}, Models: r.models()}
	if r.Base != nil {
		v.All.Models = slices.Insert(v.All.Models, 0, r.base())
	}
	for _, g := range allSpecs {
		first := true
		for _, s := range g.specs {
			row := rowView{Label: s.label}
			any := false
			if r.Base != nil {
				row.Cells = append(row.Cells, s.cell(r.Base, "/base"))
			}
			for i := range r.Models {
				c := s.cell(&r.Models[i], fmt.Sprintf("/models/%d", i))
				any = any || c.Num != nil
				row.Cells = append(row.Cells, c)
			}
			if !any {
				continue
			}
			if first {
				v.All.Rows = append(v.All.Rows, rowView{Label: g.title})
				first = false
			}
			v.All.Rows = append(v.All.Rows, row)
		}
	}
}

// tasks makes the table of tasks: a heading for each, a row for each model.
func (r *Report) tasks(v *pageView) {
	if len(r.Tasks) == 0 {
		return
	}
	t := &tableView{Caption: "Tasks", Columns: []string{"model", "correct", "accuracy", "95% from", "to", "difference", "only the base", "only the model", "McNemar p"}}
	percent := spec{digits: 2, percent: true}
	share := func(v float64, at string) cell { return cell{Num: number(percent.format(v), at, v)} }
	for i := range r.Tasks {
		task, at := &r.Tasks[i], fmt.Sprintf("/tasks/%d", i)
		title := fmt.Sprintf("%s, %s questions", shorten(printable(task.Name), 48), group(strconv.Itoa(task.Questions)))
		if !task.Complete {
			title += ", interrupted"
		}
		t.Rows = append(t.Rows, rowView{Label: title})
		add := func(name nameView, score *tasks.Score, at string) {
			row := rowView{Name: name, Cells: []cell{{Num: integer(score.Correct, at+"/correct")}, share(score.Accuracy, at+"/accuracy"),
				share(score.Low, at+"/accuracy_low"), share(score.High, at+"/accuracy_high")}}
			if a := score.Against; a != nil {
				row.Cells = append(row.Cells, share(a.Diff, at+"/diff"), cell{Num: integer(a.OnlyBase, at+"/only_base")},
					cell{Num: integer(a.OnlyModel, at+"/only_model")}, cell{Num: number(fmt.Sprintf("%.3g", a.McNemar), at+"/mcnemar_p", a.McNemar)})
			}
			for len(row.Cells) < t.Width()-1 {
				row.Cells = append(row.Cells, cell{Text: "–"})
			}
			t.Rows = append(t.Rows, row)
		}
		if task.Base != nil {
			add(baseName(task.Base.Path), task.Base, at+"/base")
		}
		for k := range task.Models {
			add(r.model(k), &task.Models[k], fmt.Sprintf("%s/models/%d", at, k))
		}
	}
	v.Tasks = t
}

func (r *Report) charts(v *pageView) {
	v.Legend = r.models()
	if r.Base != nil {
		v.Legend = slices.Insert(v.Legend, 0, r.base())
		r.klCharts(v)
	}
	if len(r.SegmentStarts) < 2 {
		return // a point is no course
	}
	v.Charts = append(v.Charts, figureView{
		Title: "Perplexity over the text", Note: "of each stretch of the text", Table: r.segmentTable(),
		SVG: r.segmentLines("Line chart: perplexity of each model over the position in the text; the table below has the figures.", "perplexity", true,
			func(ppl []float64, i int) float64 { return ppl[i] }).svg(),
	})
	if r.Base == nil || len(r.Base.SegmentPPL) != len(r.SegmentStarts) {
		return
	}
	v.Charts = append(v.Charts, figureView{
		Title: "Perplexity ratio over the text", Note: "model to base; 1 is no change",
		SVG: r.segmentLines("Line chart: ratio of each model's perplexity to the base's over the position in the text.", "ratio to the base", false,
			func(ppl []float64, i int) float64 { return ppl[i] / r.Base.SegmentPPL[i] }).svg(),
	})
}

func (r *Report) klCharts(v *pageView) {
	differs, sizes := false, 0
	for i := range r.Models {
		if c := r.Models[i].Comparison; c != nil {
			differs = differs || c.MaxKLD > 0
			if c.MeanKLD > 0 {
				sizes++
			}
		}
	}
	if !differs {
		v.Charts = append(v.Charts, figureView{Title: "KL divergence", Full: true, Empty: "Zero at every position: the distributions are the base's."})
		return
	}
	if len(r.KLDEdges) > 1 {
		// With a chart of sizes there is an odd number of charts.
		forms := halfForms
		if sizes >= 2 {
			forms = fullForms
		}
		v.Charts = append(v.Charts, figureView{
			Title: "KL divergence", Note: "share of positions per bin", Full: sizes >= 2, Table: r.histogramTable(),
			SVG: r.klHistogram("Histogram: share of positions by KL divergence from the base; the table below has the counts.", forms).svg(),
		})
	}
	q := tableView{Caption: "Percentiles of the KL divergence, nats", Columns: []string{"percentile"}, Models: r.models()}
	for _, k := range klQuantiles {
		row := rowView{Label: k.label}
		for i := range r.Models {
			row.Cells = append(row.Cells, spec{k.figure, "", 6, false}.cell(&r.Models[i], fmt.Sprintf("/models/%d", i)))
		}
		q.Rows = append(q.Rows, row)
	}
	v.Charts = append(v.Charts, figureView{
		Title: "KL divergence, percentiles", Note: "what that share of positions stays below", Table: &q,
		SVG: r.klPercentiles("Line chart: percentiles of the KL divergence of each model; the table below has the figures.").svg(),
	})
	if sizes >= 2 {
		v.Charts = append(v.Charts, figureView{
			Title: "Size against KL divergence", Note: "lower and further left is better",
			SVG: r.sizeAgainstKL("Scatter chart: size of each model against its mean KL divergence; both are in the table of figures.").svg(),
		})
	}
}

func (r *Report) histogramTable() *tableView {
	t := &tableView{Caption: "Positions by KL divergence, nats", Columns: []string{"from"}, Models: r.models()}
	for k := range len(r.KLDEdges) + 1 {
		row := rowView{Label: "0"}
		if k > 0 {
			row.Label = fmt.Sprintf("%.3g", r.KLDEdges[k-1])
		}
		any := false
		for i := range r.Models {
			c := cell{Text: "–"}
			if h := histogram(&r.Models[i]); k < len(h) {
				c = cell{Num: integer(h[k], fmt.Sprintf("/models/%d/kld_histogram/%d", i, k))}
				any = any || h[k] > 0
			}
			row.Cells = append(row.Cells, c)
		}
		if any {
			t.Rows = append(t.Rows, row)
		}
	}
	return t
}

func (r *Report) segmentTable() *tableView {
	t := &tableView{Caption: "Perplexity by position in the text", Columns: []string{"from token"}, Models: r.models()}
	if r.Base != nil {
		t.Models = slices.Insert(t.Models, 0, r.base())
	}
	for i, start := range r.SegmentStarts {
		row := rowView{Label: group(strconv.Itoa(start))}
		add := func(ppl []float64, at string) {
			c := cell{Text: "–"}
			if i < len(ppl) {
				c = cell{Num: number(spec{digits: 4}.format(ppl[i]), fmt.Sprintf("%s/segment_ppl/%d", at, i), ppl[i])}
			}
			row.Cells = append(row.Cells, c)
		}
		if r.Base != nil {
			add(r.Base.SegmentPPL, "/base")
		}
		for k := range r.Models {
			add(r.Models[k].SegmentPPL, fmt.Sprintf("/models/%d", k))
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

// heat fills in the heat maps: a matrix of kinds by layers for each model.
func (r *Report) heat(v *pageView) {
	most, at := 0.0, ""
	for i := range r.Tensors {
		for k, t := range r.Tensors[i].Tensors {
			if t.Relative > most {
				most, at = t.Relative, fmt.Sprintf("/tensors/%d/tensors/%d/rel_rmse", i, k)
			}
		}
	}
	if len(r.Tensors) == 0 {
		return
	}
	if most > 0 {
		v.HeatTop = number(percent(most), at, most)
	}
	for i := range r.Tensors {
		v.Heat = append(v.Heat, r.heatOf(i, most))
	}
}

func percent(v float64) string {
	switch {
	case v < 0: // the base's tensor is all zero
		return "base is zero"
	case v > 0 && v < 0.0001:
		return scientific(100*v) + "\u202f%"
	}
	return strconv.FormatFloat(100*v, 'f', 2, 64) + "\u202f%"
}

// layerAndKind takes a tensor's name apart: "blk.3.ffn_up.weight" is the
// ffn_up of layer 3. ok is false for tensors outside the layers.
func layerAndKind(name string) (layer int, kind string, ok bool) {
	rest, found := strings.CutPrefix(name, "blk.")
	number, kind, dot := strings.Cut(rest, ".")
	n, err := strconv.ParseUint(number, 10, 16)
	if !found || !dot || err != nil {
		return 0, name, false
	}
	return int(n), strings.TrimSuffix(kind, ".weight"), true
}

// firstKinds is the order of the kinds that most models have; others follow.
var firstKinds = []string{"attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output", "ffn_gate", "ffn_up", "ffn_down"}

func (r *Report) heatOf(n int, most float64) heatView {
	set := &r.Tensors[n]
	v := heatView{Model: nameView{Short: printable(filepath.Base(set.Path)), Path: printable(set.Path)}}
	for k := range r.Models {
		if r.Models[k].Path == set.Path {
			v.Model = r.model(k)
		}
	}
	var (
		kinds  []string
		layers []int
		same   = map[string]bool{} // kinds without any error
		values = map[string]map[int]int{}
	)
	for i, t := range set.Tensors {
		layer, kind, ok := layerAndKind(t.Name)
		c := cell{Num: number(percent(t.Relative), fmt.Sprintf("/tensors/%d/tensors/%d/rel_rmse", n, i), t.Relative)}
		if t.Problem != "" {
			c = cell{Text: printable(t.Problem)}
		}
		if !ok || t.Problem != "" {
			v.Others = append(v.Others, rowView{Label: printable(t.Name), Cells: []cell{{Text: printable(t.Type)}, c}})
			continue
		}
		if values[kind] == nil {
			values[kind], same[kind] = map[int]int{}, true
			kinds = append(kinds, kind)
		}
		values[kind][layer] = i
		same[kind] = same[kind] && t.Relative == 0
		if !slices.Contains(layers, layer) {
			layers = append(layers, layer)
		}
	}
	slices.Sort(layers)
	var shown, equal []string
	for _, k := range append(slices.Clone(firstKinds), kinds...) {
		switch {
		case values[k] == nil || slices.Contains(shown, k) || slices.Contains(equal, k):
		case same[k]:
			equal = append(equal, k)
		default:
			shown = append(shown, k)
		}
	}
	for i := range equal {
		equal[i] = printable(equal[i])
	}
	if len(equal) > 0 {
		v.Note = "Equal to the base in every layer: " + strings.Join(equal, ", ") + "."
	}
	if len(shown) == 0 {
		v.Note = ""
		v.Empty = "Every tensor of the layers equals the base's."
		if len(layers) == 0 {
			v.Empty = "This model has no tensors in layers."
		}
		return v
	}
	g := make(heatGrid, len(shown))
	labels := make([]string, len(shown))
	t := &tableView{Caption: "Relative RMSE by layer and kind", Columns: []string{"layer"}}
	for row, k := range shown {
		g[row] = make([]float64, len(layers))
		labels[row] = shorten(printable(k), 16)
		t.Columns = append(t.Columns, printable(k))
	}
	for col, layer := range layers {
		line := rowView{Label: strconv.Itoa(layer)}
		for row, k := range shown {
			g[row][col] = math.NaN()
			c := cell{Text: "–"}
			if i, ok := values[k][layer]; ok {
				rel := set.Tensors[i].Relative
				c = cell{Num: number(percent(rel), fmt.Sprintf("/tensors/%d/tensors/%d/rel_rmse", n, i), rel)}
				if rel >= 0 {
					g[row][col] = rel
				}
			}
			line.Cells = append(line.Cells, c)
		}
		t.Rows = append(t.Rows, line)
	}
	v.Table = t
	v.SVG = heatMap("Heat map: relative error of the weights by layer and kind of tensor; the table below has the figures.", g, labels, layers, most).svg()
	return v
}

func histogram(m *eval.Figures) []int {
	if m.Comparison == nil {
		return nil
	}
	return m.KLDHistogram
}
