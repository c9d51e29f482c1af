package report

import (
	"bytes"
	"fmt"
	"html"
	"html/template"
	"image/color"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/palette"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Charts are drawn by gonum/plot in colours that stand for roles: a mark, a
// role and an index. In the SVG each becomes a CSS variable, so that the page's
// style decides, in light and in dark.
type role uint8

const (
	roleMuted  role = iota // tick labels and titles of axes
	roleAxis               // axis lines and ticks
	roleGrid               // grid lines
	roleBase               // the base model, a broad line below the others
	roleSeries             // a model, by index
	roleFill               // the area below a model's line
	roleHeat               // a step of the heat map
)

var roleNames = [...]string{"muted", "axis", "grid", "base", "series", "fill", "heat"}

const (
	colorMark   = 3
	seriesCount = 8 // colours; then they repeat, dashed
	heatSteps   = 9
)

// paint returns the colour that stands for a role. A component is 2n+1: the
// SVG writer may round it down by one.
func paint(r role, index int) color.Color {
	return color.RGBA{R: colorMark, G: 2*uint8(r) + 1, B: 2*uint8(index) + 1, A: 255}
}

var (
	styleRE = regexp.MustCompile(`style="[^"]*"`)
	paintRE = regexp.MustCompile(`#0[23]([0-9A-F]{2})([0-9A-F]{2})`)
	fontRE  = regexp.MustCompile(`font-(family|variant|weight|style):[^;"]*;`)
	heatRE  = regexp.MustCompile(`style="fill:var\(--(heat-[0-9])\)"`)
)

// style turns the style attributes of gonum's SVG into the page's.
func style(s string) string {
	s = paintRE.ReplaceAllStringFunc(s, func(c string) string {
		r, _ := strconv.ParseUint(c[3:5], 16, 8)
		i, _ := strconv.ParseUint(c[5:7], 16, 8)
		name := roleNames[min(int(r/2), len(roleNames)-1)]
		if role(r/2) >= roleSeries {
			name += "-" + strconv.Itoa(int(i/2))
		}
		return "var(--" + name + ")"
	})
	s = fontRE.ReplaceAllString(s, "")
	return heatRE.ReplaceAllString(s, `class="$1"`)
}

// chart is a figure of the page, the same plot in several forms.
type chart struct {
	label string // for those who do not see it
	forms []form
	draw  func(p *plot.Plot, narrow bool)
}

// form is a size of a chart in CSS pixels; the page's style decides by class
// which one a screen shows, so that text has the same size on all.
type form struct {
	class         string // full, wide or narrow
	width, height int
}

var (
	halfForms = []form{{"wide", 500, 268}, {"narrow", 310, 226}}                      // half of the page's width
	fullForms = []form{{"full", 1060, 268}, {"wide", 500, 268}, {"narrow", 310, 226}} // all of it
)

// svg draws the chart as elements to be put into the page.
func (c chart) svg() template.HTML {
	var b strings.Builder
	for _, f := range c.forms {
		p := plot.New()
		p.BackgroundColor = nil
		for _, a := range []*plot.Axis{&p.X, &p.Y} {
			a.Color, a.Width, a.Padding = paint(roleAxis, 0), 1, 0
			a.Tick.Color, a.Tick.Width, a.Tick.Length = paint(roleAxis, 0), 1, 3
			a.Tick.Label.Font, a.Tick.Label.Color = fontOf(11), paint(roleMuted, 0)
			a.Label.TextStyle.Font, a.Label.TextStyle.Color = fontOf(11), paint(roleMuted, 0)
			a.Label.Padding = 4
		}
		// The lines of the grid say enough on this axis.
		p.Y.Width, p.Y.Tick.Width, p.Y.Tick.Length = 0, 0, 2
		c.draw(p, f.class == "narrow")
		canvas := vgsvg.New(vg.Length(f.width), vg.Length(f.height))
		// Text at the edges reaches beyond its place by part of a letter.
		p.Draw(draw.Crop(draw.New(canvas), 2, -8, 4, -6))
		var out bytes.Buffer
		if _, err := canvas.WriteTo(&out); err != nil {
			panic(err) // a bytes.Buffer takes everything
		}
		_, body, _ := strings.Cut(out.String(), "<svg ")
		_, body, _ = strings.Cut(body, ">")
		fmt.Fprintf(&b, `<svg class="%s" viewBox="0 0 %d %d" style="max-width:%dpx" role="img" aria-label="%s">%s`,
			f.class, f.width, f.height, f.width*5/4, html.EscapeString(c.label), styleRE.ReplaceAllStringFunc(body, style))
	}
	return template.HTML(b.String())
}

func fontOf(size float64) font.Font {
	return font.Font{Typeface: "Liberation", Variant: "Sans", Size: font.Length(size)}
}

func textStyle(size float64) text.Style {
	return text.Style{Font: fontOf(size), Color: paint(roleMuted, 0), Handler: plot.DefaultTextHandler}
}

// series is one model's line.
type series struct {
	index  int // of the colour; -1: the base
	points plotter.XYs
}

func (s series) style() draw.LineStyle {
	l := draw.LineStyle{Color: paint(roleBase, 0), Width: 5}
	if s.index >= 0 {
		l.Color, l.Width = paint(roleSeries, s.index%seriesCount), 1.5
		if s.index >= seriesCount {
			l.Dashes = []vg.Length{4, 3}
		}
	}
	return l
}

// add draws the series as a line, its points marked if there are few.
func (s series) add(p *plot.Plot, marked bool) {
	if len(s.points) == 0 {
		return
	}
	line := &plotter.Line{XYs: s.points, LineStyle: s.style()}
	p.Add(line)
	if marked && s.index >= 0 || len(s.points) == 1 {
		p.Add(&plotter.Scatter{XYs: s.points, GlyphStyle: draw.GlyphStyle{Color: line.Color, Radius: 2.6, Shape: draw.CircleGlyph{}}})
	}
}

// grid adds horizontal lines.
func grid(p *plot.Plot) {
	g := plotter.NewGrid()
	g.Vertical.Color = nil
	g.Horizontal.Color, g.Horizontal.Width = paint(roleGrid, 0), 1
	p.Add(g)
}

// ticks places about n round ticks.
func ticks(n int, label func(v, step float64) string) plot.Ticker {
	return plot.TickerFunc(func(lo, hi float64) []plot.Tick {
		step := math.Pow(10, math.Floor(math.Log10((hi-lo)/float64(n))))
		for _, f := range []float64{1, 2, 2.5, 5, 10} {
			if (hi-lo)/(f*step) <= float64(n)+1e-9 {
				step *= f
				break
			}
		}
		var out []plot.Tick
		for k := math.Ceil(lo/step - 1e-9); k*step <= hi+1e-9*step; k++ {
			v := k*step + 0 // no -0
			out = append(out, plot.Tick{Value: v, Label: label(v, step)})
		}
		return out
	})
}

// plain prints a tick with the decimals that its step needs.
func plain(v, step float64) string {
	digits := max(0, int(math.Ceil(-math.Log10(step)-1e-9)))
	if s := step * math.Pow(10, float64(digits)); math.Abs(s-math.Round(s)) > 1e-6 {
		digits++ // 2.5
	}
	return strconv.FormatFloat(v, 'f', digits, 64)
}

// decades labels an axis of decimal logarithms. Where it spans less than two
// of them, 2 and 5 times a power of ten have labels as well.
func decades() plot.Ticker {
	return plot.TickerFunc(func(lo, hi float64) []plot.Tick {
		var out []plot.Tick
		stride := max(1, int(math.Ceil((hi-lo)/6)))
		for e := int(math.Floor(lo)); e <= int(math.Ceil(hi)); e++ {
			for _, m := range []float64{1, 2, 5} {
				t := plot.Tick{Value: float64(e) + math.Log10(m)}
				if t.Value < lo-1e-9 || t.Value > hi+1e-9 {
					continue
				}
				switch {
				case m == 1 && e%stride == 0, m > 1 && hi-lo < 2:
					t.Label = power(m, e)
				case m > 1 || stride > 1:
					continue
				}
				out = append(out, t)
			}
		}
		return out
	})
}

// power prints m x 10^e for a reader.
func power(m float64, e int) string {
	if e >= -4 && e <= 3 {
		return strconv.FormatFloat(m*math.Pow10(e), 'f', max(0, -e), 64)
	}
	s := ""
	if m != 1 {
		s = strconv.FormatFloat(m, 'f', -1, 64) + "·"
	}
	return s + "1e" + strconv.Itoa(e)
}

// room widens a range by shares of its width at both ends.
func room(a *plot.Axis, below, above float64) {
	w := a.Max - a.Min
	if w <= 0 {
		w = max(math.Abs(a.Max)*0.1, 1e-6)
	}
	a.Min, a.Max = a.Min-below*w, a.Max+above*w
}

// named is a point with a name beside it.
type named struct {
	x, y  float64
	name  string
	index int
}

// nameTags draws points and their names, moved apart where they would overlap.
type nameTags []named

// Plot implements plot.Plotter.
func (n nameTags) Plot(c draw.Canvas, p *plot.Plot) {
	tx, ty := p.Transforms(&c)
	sty := textStyle(11)
	sty.YAlign = draw.YCenter
	sorted := slices.Clone(n)
	slices.SortStableFunc(sorted, func(a, b named) int {
		switch {
		case a.y < b.y:
			return -1
		case a.y > b.y:
			return 1
		}
		return 0
	})
	var placed []vg.Rectangle
	for _, t := range sorted {
		at := vg.Point{X: tx(t.x), Y: ty(t.y)}
		c.DrawGlyph(draw.GlyphStyle{Color: series{index: t.index}.style().Color, Radius: 4, Shape: draw.CircleGlyph{}}, at)
		w := sty.Width(t.name)
		box := vg.Rectangle{Min: vg.Point{X: at.X + 8, Y: at.Y - 6.5}, Max: vg.Point{X: at.X + 8 + w, Y: at.Y + 6.5}}
		if box.Max.X > c.Max.X { // no room on the right
			box.Min.X, box.Max.X = at.X-8-w, at.X-8
		}
		for moved := true; moved; {
			moved = false
			for _, o := range placed {
				if box.Min.X < o.Max.X && o.Min.X < box.Max.X && box.Min.Y < o.Max.Y && o.Min.Y < box.Max.Y {
					d := o.Max.Y - box.Min.Y + 0.5
					box.Min.Y, box.Max.Y, moved = box.Min.Y+d, box.Max.Y+d, true
				}
			}
		}
		placed = append(placed, box)
		c.FillText(sty, vg.Point{X: box.Min.X, Y: (box.Min.Y + box.Max.Y) / 2}, t.name)
	}
}

// DataRange implements plot.DataRanger.
func (n nameTags) DataRange() (xmin, xmax, ymin, ymax float64) {
	xys := make(plotter.XYs, len(n))
	for i, t := range n {
		xys[i] = plotter.XY{X: t.x, Y: t.y}
	}
	return plotter.XYRange(xys)
}

// heatGrid is a matrix of values, first row at the top; NaN is empty.
type heatGrid [][]float64

func (g heatGrid) Dims() (c, r int)   { return len(g[0]), len(g) }
func (g heatGrid) Z(c, r int) float64 { return g[len(g)-1-r][c] }
func (g heatGrid) X(c int) float64    { return float64(c) }
func (g heatGrid) Y(r int) float64    { return float64(r) }

type heatPalette struct{}

func (heatPalette) Colors() []color.Color {
	colors := make([]color.Color, heatSteps)
	for i := range colors {
		colors[i] = paint(roleHeat, i)
	}
	return colors
}

var _ palette.Palette = heatPalette{}

// heatMap draws a matrix, its colours reaching from 0 to most.
func heatMap(label string, g heatGrid, rows []string, columns []int, most float64) chart {
	height := 18*len(rows) + 40
	wide := 110 + max(200, 30*len(columns))
	return chart{label: label, forms: []form{{"full", min(1060, wide), height}, {"wide", min(580, wide), height}, {"narrow", 310, height}},
		draw: func(p *plot.Plot, narrow bool) {
			h := plotter.NewHeatMap(g, heatPalette{})
			h.Min, h.Max = 0, most
			p.Add(h)
			p.X.Label.Text = "layer"
			p.X.Width, p.X.Tick.Width, p.X.Tick.Length = 0, 0, 1
			every := 1
			for _, n := range []int{1, 2, 4, 5, 10, 20, 50, 100} {
				every = n
				if len(columns)/n <= 40 && (!narrow || len(columns)/n <= 12) {
					break
				}
			}
			var xs, ys plot.ConstantTicks
			for i, n := range columns {
				if n%every == 0 {
					xs = append(xs, plot.Tick{Value: float64(i), Label: strconv.Itoa(n)})
				}
			}
			for i, name := range rows {
				ys = append(ys, plot.Tick{Value: float64(len(rows) - 1 - i), Label: name})
			}
			p.X.Tick.Marker, p.Y.Tick.Marker = xs, ys
			// Room for rounding: cells that touch the border would be left out.
			p.X.Min, p.X.Max = -0.5-1e-6, float64(len(columns))-0.5+1e-6
			p.Y.Min, p.Y.Max = -0.5-1e-6, float64(len(rows))-0.5+1e-6
		}}
}

// klHistogram shows how positions spread over KL divergences: bins of equal
// width on a logarithmic axis, the shares of all positions.
func (r *Report) klHistogram(label string, forms []form) chart {
	lo, hi := len(r.KLDEdges), 0
	for i := range r.Models {
		for k, n := range histogram(&r.Models[i]) {
			if n > 0 {
				lo, hi = min(lo, k), max(hi, k)
			}
		}
	}
	// edge returns the lower bound of bin k, a logarithm; the bin below the
	// first edge is drawn as wide as the others.
	edge := func(k int) float64 {
		e := r.KLDEdges
		switch {
		case k == 0:
			return 2*math.Log10(e[0]) - math.Log10(e[1])
		case k > len(e):
			return 2*math.Log10(e[len(e)-1]) - math.Log10(e[len(e)-2])
		}
		return math.Log10(e[k-1])
	}
	return chart{label: label, forms: forms, draw: func(p *plot.Plot, _ bool) {
		grid(p)
		for pass := range 2 {
			for i := range r.Models {
				counts := histogram(&r.Models[i])
				if len(counts) == 0 {
					continue
				}
				pts := plotter.XYs{{X: edge(lo)}}
				for k := lo; k <= hi; k++ {
					y := 100 * float64(counts[k]) / float64(max(1, r.Scored))
					pts = append(pts, plotter.XY{X: edge(k), Y: y}, plotter.XY{X: edge(k + 1), Y: y})
				}
				pts = append(pts, plotter.XY{X: edge(hi + 1)})
				if pass == 0 {
					p.Add(&plotter.Polygon{XYs: []plotter.XYs{pts}, Color: paint(roleFill, i%seriesCount)})
				} else {
					series{i, pts}.add(p, false)
				}
			}
		}
		p.X.Min, p.X.Max, p.Y.Min = edge(lo), edge(hi+1), 0
		room(&p.Y, 0, 0.06)
		p.X.Label.Text, p.Y.Label.Text = "KL divergence, nats", "positions, %"
		p.X.Tick.Marker, p.Y.Tick.Marker = decades(), ticks(5, plain)
	}}
}

// klQuantiles are the figures that klPercentiles shows.
var klQuantiles = []struct{ figure, label string }{
	{"median_kld", "50%"}, {"kld_90", "90%"}, {"kld_95", "95%"}, {"kld_99", "99%"}, {"kld_99_9", "99.9%"}, {"max_kld", "max"},
}

func (r *Report) klPercentiles(label string) chart {
	return chart{label: label, forms: halfForms, draw: func(p *plot.Plot, _ bool) {
		grid(p)
		for i := range r.Models {
			s := series{index: i}
			for k, q := range klQuantiles {
				if v, ok := r.Models[i].Figure(q.figure); ok && v > 0 {
					s.points = append(s.points, plotter.XY{X: float64(k), Y: math.Log10(v)})
				}
			}
			s.add(p, true)
		}
		p.X.Min, p.X.Max = -0.2, float64(len(klQuantiles))-0.8
		room(&p.Y, 0.05, 0.05)
		var xs plot.ConstantTicks
		for k, q := range klQuantiles {
			xs = append(xs, plot.Tick{Value: float64(k), Label: q.label})
		}
		p.X.Label.Text, p.Y.Label.Text = "share of positions with less", "KL divergence, nats"
		p.X.Tick.Marker, p.Y.Tick.Marker = xs, decades()
	}}
}

// segmentLines draws one value per stretch of the text.
func (r *Report) segmentLines(label, yLabel string, withBase bool, value func(ppl []float64, i int) float64) chart {
	return chart{label: label, forms: halfForms, draw: func(p *plot.Plot, narrow bool) {
		grid(p)
		line := func(index int, ppl []float64) {
			s := series{index: index}
			for i, start := range r.SegmentStarts[:min(len(ppl), len(r.SegmentStarts))] {
				s.points = append(s.points, plotter.XY{X: float64(start), Y: value(ppl, i)})
			}
			s.add(p, len(s.points) <= 24)
		}
		if withBase && r.Base != nil {
			line(-1, r.Base.SegmentPPL)
		}
		for i := range r.Models {
			line(i, r.Models[i].SegmentPPL)
		}
		if p.X.Max <= p.X.Min {
			room(&p.X, 0.5, 0.5)
		}
		room(&p.Y, 0.06, 0.06)
		p.X.Label.Text, p.Y.Label.Text = "position in the text, tokens", yLabel
		n := 7
		if narrow {
			n = 5
		}
		p.X.Tick.Marker = ticks(n, func(v, _ float64) string { return thousands(v) })
		p.Y.Tick.Marker = ticks(5, plain)
	}}
}

// sizeAgainstKL shows what each model's size costs.
func (r *Report) sizeAgainstKL(label string) chart {
	unit, name := 1e6, "MB"
	for _, f := range r.Files {
		if f.Bytes >= 1e9 {
			unit, name = 1e9, "GB"
		}
	}
	return chart{label: label, forms: halfForms, draw: func(p *plot.Plot, _ bool) {
		grid(p)
		var tags nameTags
		for i := range r.Models {
			m := &r.Models[i]
			if m.Comparison != nil && m.MeanKLD > 0 {
				f := r.file(m.Path)
				tags = append(tags, named{float64(f.Bytes) / unit, math.Log10(m.MeanKLD), shorten(printable(f.Ftype), 14), i})
			}
		}
		p.Add(tags)
		room(&p.X, 0.08, 0.18)
		p.X.Min = max(0, p.X.Min)
		room(&p.Y, 0.12, 0.12)
		p.X.Label.Text, p.Y.Label.Text = "size of tensors, "+name, "mean KL divergence, nats"
		p.X.Tick.Marker, p.Y.Tick.Marker = ticks(6, plain), decades()
	}}
}
