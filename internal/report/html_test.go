package report

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/smeltgguf/smelt/internal/compare"
	"github.com/smeltgguf/smelt/internal/eval"
	"github.com/smeltgguf/smelt/internal/tasks"
)

// many returns a report of several models with all that a page can show.
func many(models, layers, segments int) *Report {
	res := &eval.Result{Ctx: 512, Chunks: 64, Tokens: 32768, Scored: 16320, Complete: true,
		Base: &eval.Figures{Path: "out/base-f16.gguf", PPL: 6.1234, PPLSE: 0.05, MeanNLL: math.Log(6.1234)}}
	for i := range segments {
		res.SegmentStarts = append(res.SegmentStarts, 1024*i)
		res.Base.SegmentPPL = append(res.Base.SegmentPPL, 6+math.Sin(float64(i)))
	}
	for e := -7; e <= 1; e++ {
		res.KLDEdges = append(res.KLDEdges, math.Pow10(e))
	}
	r := &Report{Version: "v1.2.3", Compute: "exact", Texts: []string{"texts/wiki.txt"}, Seconds: 12.34, Result: res,
		Files: []File{{Path: "out/base-f16.gguf", Architecture: "llama", Ftype: "F16", Bytes: 14_000_000_000, BitsPerWeight: 16}}}
	var gates [][]eval.Gate
	for m := range models {
		kl := 0.0003 * math.Pow(3, float64(m))
		f := eval.Figures{Path: fmt.Sprintf("out/model-%d.gguf", m), PPL: 6.13 + kl, PPLSE: 0.05, MeanNLL: math.Log(6.13 + kl), Comparison: &eval.Comparison{
			PPLRatio: 1 + kl/10, PPLRatioSE: kl / 100, LnPPLRatio: kl / 10, LnPPLRatioSE: kl / 100, PPLDiff: kl, PPLDiffSE: kl / 10, Correlation: 0.999,
			MeanKLD: kl, MeanKLDSE: kl / 50, MedianKLD: kl / 2, KLD90: 2 * kl, KLD95: 3 * kl, KLD99: 8 * kl, KLD999: 20 * kl, MaxKLD: 90 * kl, MinKLD: 1e-8,
			MeanDP: -kl / 10, MeanDPSE: kl / 100, RMSDP: kl, RMSDPSE: kl / 20, MinDP: -0.4, DP01: -0.05, DP05: -0.02, DP10: -0.01, MedianDP: -1e-6,
			DP90: 0.01, DP95: 0.02, DP99: 0.05, MaxDP: 0.3, SameTop: 0.99 - kl, SameTopSE: 0.001, Top5Overlap: 0.97,
		}}
		for k := range len(res.KLDEdges) + 1 {
			f.KLDHistogram = append(f.KLDHistogram, (k*(m+3)*37)%1800)
		}
		for i := range segments {
			f.SegmentPPL = append(f.SegmentPPL, (6+math.Sin(float64(i)))*(1+kl*float64(i%3)))
		}
		res.Models = append(res.Models, f)
		r.Files = append(r.Files, File{Path: f.Path, Architecture: "llama", Ftype: fmt.Sprintf("Q%d_K_M", 8-m%7), Bytes: int64(8e9 - 7e8*float64(m)), BitsPerWeight: 8 - 0.5*float64(m)})
		gates = append(gates, []eval.Gate{{Figure: "mean_kld", Bound: 0.02}, {Figure: "same_top", Bound: 0.9}})
		set := ModelTensors{Path: f.Path, Tensors: []TensorError{{Name: "token_embd.weight", Type: "Q4_K", Relative: 0.08}, {Name: "output_norm.weight", Type: "F32"}}}
		for l := range layers {
			for k, kind := range []string{"attn_norm", "attn_k", "attn_output", "attn_q", "attn_v", "ffn_down", "ffn_gate", "ffn_up"} {
				t := TensorError{Name: fmt.Sprintf("blk.%d.%s.weight", l, kind), Type: "Q4_K"}
				if k > 0 {
					t.Relative = 0.02 * float64(m+1) * (1 + float64((l*7+k*3)%10)/10)
				}
				set.Tensors = append(set.Tensors, t)
			}
		}
		r.Tensors = append(r.Tensors, set)
	}
	r.Gates = eval.Check(res, gates)
	for _, name := range []string{"hellaswag", "winogrande"} {
		t := tasks.Result{Name: name, Questions: 12_345, Complete: name == "hellaswag",
			Base: &tasks.Score{Path: res.Base.Path, Correct: 9_000, Accuracy: 0.72904, Low: 0.7211, High: 0.7368}}
		for m := range models {
			t.Models = append(t.Models, tasks.Score{Path: res.Models[m].Path, Correct: 8_900 - m, Accuracy: 0.7209, Low: 0.7129, High: 0.7288,
				Against: &tasks.Against{Diff: -0.0081, OnlyBase: 300 + m, OnlyModel: 200, McNemar: 8.5e-6}})
		}
		r.Tasks = append(r.Tasks, t)
	}
	return r
}

const hostileName = "x/<script>alert(1)</script>\"' onload=\"x\"&amp;{{.}}\u202e\x00\n\xff #030305 style=\"fill:#030305\" 模型.gguf"

// hostile replaces every text of a report that comes from elsewhere.
func hostile() *Report {
	r := many(3, 2, 5)
	r.Version, r.Compute, r.Texts = hostileName, hostileName, []string{hostileName, strings.Repeat("long", 200)}
	for i := range r.Files {
		r.Files[i].Architecture, r.Files[i].Ftype = hostileName, hostileName
	}
	r.Models[0].Path, r.Files[1].Path, r.Gates[0].Path, r.Tensors[0].Path = hostileName, hostileName, hostileName, hostileName
	r.Models[1].Path = strings.Repeat("a", 500)
	r.Base.Path, r.Files[0].Path = "b"+hostileName, "b"+hostileName
	r.Gates[1].Name, r.Tasks[0].Name = hostileName, hostileName
	r.Tensors[0].Tensors[0].Name = hostileName
	r.Tensors[0].Tensors[1].Problem = hostileName
	r.Tensors[0].Tensors[3].Name = "blk.0." + hostileName
	r.Tensors[1].Tensors[4].Name = "blk.99999999999999999999.ffn_up.weight"
	r.Tensors[1].Tensors[5].Relative = -1
	return r
}

func pages() map[string]*Report {
	alone := many(1, 0, 3)
	alone.Base, alone.Gates, alone.KLDEdges, alone.Tensors, alone.Complete = nil, nil, nil, nil, false
	alone.Models[0].Comparison = nil
	equal := many(2, 3, 1)
	for i := range equal.Models {
		equal.Models[i].Comparison = &eval.Comparison{PPLRatio: 1, SameTop: 1, Correlation: 1, Top5Overlap: 1}
		for k := range equal.Tensors[i].Tensors {
			equal.Tensors[i].Tensors[k].Relative = 0
		}
	}
	decided := many(1, 1, 2)
	decided.Decided, decided.Complete = true, false
	bare := sample() // no distributions: as from an earlier version
	return map[string]*Report{
		"one": many(1, 32, 60), "several": many(6, 4, 30), "many": many(12, 2, 3), "alone": alone, "equal": equal,
		"decided": decided, "bare": bare, "hostile": hostile(),
	}
}

// element is a start tag of a page and the text below it.
type element struct {
	name string
	attr map[string]string
	text *strings.Builder
}

// parse reads a page as far as the tests need: void elements and entities are
// HTML's, the rest is well-formed.
func parse(t *testing.T, src string) []element {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(src))
	d.Strict, d.AutoClose, d.Entity = false, xml.HTMLAutoClose, xml.HTMLEntity
	var all []element
	var open []int
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch tok := tok.(type) {
		case xml.StartElement:
			e := element{tok.Name.Local, map[string]string{}, &strings.Builder{}}
			for _, a := range tok.Attr {
				e.attr[a.Name.Local] = a.Value
			}
			open = append(open, len(all))
			all = append(all, e)
		case xml.EndElement:
			open = open[:len(open)-1]
		case xml.CharData:
			for _, i := range open {
				all[i].text.Write(tok)
			}
		}
	}
	if len(open) != 0 {
		t.Errorf("%d elements are not closed, the first is %s", len(open), all[open[0]].name)
	}
	return all
}

func render(t *testing.T, r *Report) string {
	t.Helper()
	var b strings.Builder
	if err := r.HTML(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// at resolves a JSON pointer.
func at(doc any, pointer string) (any, bool) {
	for _, key := range strings.Split(pointer, "/")[1:] {
		switch v := doc.(type) {
		case map[string]any:
			var ok bool
			if doc, ok = v[key]; !ok {
				return nil, false
			}
		case []any:
			i, err := strconv.Atoi(key)
			if err != nil || i < 0 || i >= len(v) {
				return nil, false
			}
			doc = v[i]
		default:
			return nil, false
		}
	}
	return doc, true
}

// TestHTMLFigures holds every figure of the pages against the JSON in them:
// the exact value in its attribute, and the text to as many digits as it has.
func TestHTMLFigures(t *testing.T) {
	for name, r := range pages() {
		t.Run(name, func(t *testing.T) {
			var want strings.Builder
			if err := r.JSON(&want); err != nil {
				t.Fatal(err)
			}
			all := parse(t, render(t, r))
			var doc any
			for _, e := range all {
				if e.name == "script" {
					if e.text.String() != want.String() {
						t.Fatal("the JSON in the page is not what --json prints")
					}
					if err := json.Unmarshal([]byte(e.text.String()), &doc); err != nil {
						t.Fatal(err)
					}
				}
			}
			seen := map[string]bool{}
			for _, e := range all {
				pointer, ok := e.attr["data-json"]
				if !ok {
					if strings.Contains(e.attr["class"], "num") {
						t.Errorf("the figure %q does not say where it is from", e.text)
					}
					continue
				}
				seen[pointer] = true
				v, ok := at(doc, pointer)
				f, isNumber := v.(float64)
				if !ok || !isNumber {
					t.Errorf("%s: no such number in the JSON", pointer)
					continue
				}
				if got, err := strconv.ParseFloat(e.attr["data-value"], 64); err != nil || got != f {
					t.Errorf("%s: %s in the page, %v in the JSON", pointer, e.attr["data-value"], f)
				}
				checkShown(t, pointer, e.text.String(), f)
			}
			// Nothing that was measured is missing.
			for i := range r.Models {
				for _, figure := range eval.FigureNames() {
					p := fmt.Sprintf("/models/%d/%s", i, figure)
					if _, ok := at(doc, p); ok && !seen[p] {
						t.Errorf("%s is not in the page", p)
					}
				}
			}
			for i := range r.Gates {
				if p := fmt.Sprintf("/gates/%d/value", i); !seen[p] {
					t.Errorf("%s is not in the page", p)
				}
			}
			for _, e := range all {
				if p, ok := e.attr["data-gate"]; ok {
					if passed, _ := at(doc, p+"/passed"); fmt.Sprint(passed) != e.attr["data-passed"] {
						t.Errorf("%s: passed is %s in the page, %v in the JSON", p, e.attr["data-passed"], passed)
					}
				}
			}
		})
	}
}

var shownRE = regexp.MustCompile(`^(-?[0-9.]+)(e-?\d+)?(%| [kMGT]?B)?$`)

// checkShown holds a figure's text against its value.
func checkShown(t *testing.T, pointer, text string, v float64) {
	t.Helper()
	if v < 0 && text == "base is zero" {
		return
	}
	m := shownRE.FindStringSubmatch(strings.ReplaceAll(text, "\u202f", ""))
	if m == nil {
		t.Errorf("%s: %q is no figure", pointer, text)
		return
	}
	mantissa, _ := strconv.ParseFloat(m[1], 64)
	scale := 1.0
	if m[2] != "" {
		e, _ := strconv.Atoi(m[2][1:])
		scale = math.Pow10(e)
	}
	if m[3] == "%" {
		scale /= 100
	} else if m[3] != "" {
		scale *= map[string]float64{" B": 1, " kB": 1e3, " MB": 1e6, " GB": 1e9, " TB": 1e12}[m[3]]
	}
	_, decimals, _ := strings.Cut(m[1], ".")
	if half := 0.5 * math.Pow10(-len(decimals)) * scale; math.Abs(mantissa*scale-v) > half*(1+1e-9) {
		t.Errorf("%s: the page shows %q, the value is %v", pointer, text, v)
	}
}

// TestHTMLAlone: nothing is loaded from anywhere, and the page is a function of
// the JSON.
func TestHTMLAlone(t *testing.T) {
	refs := regexp.MustCompile(`(?i)\b(src|srcset|xlink:href|action|data)\s*=|href="[^"]|@import|url\(|https?:|//[a-z]`)
	for name, r := range pages() {
		src := render(t, r)
		body, _, _ := strings.Cut(src, `<script type="application/json"`)
		if body = strings.Replace(body, `<link rel="icon" href="data:,">`, "", 1); refs.MatchString(body) {
			t.Errorf("%s: refers to something: %q", name, refs.FindString(body))
		}
		var b strings.Builder
		if err := r.JSON(&b); err != nil {
			t.Fatal(err)
		}
		var again Report
		if err := json.Unmarshal([]byte(b.String()), &again); err != nil {
			t.Fatal(err)
		}
		if name != "hostile" && render(t, &again) != src { // bytes that are no UTF-8 do not come back
			t.Errorf("%s: the page of its JSON is another", name)
		}
	}
}

// TestHTMLStructure: what a screen reader and a phone need is there, and text
// from elsewhere is text.
func TestHTMLStructure(t *testing.T) {
	for name, r := range pages() {
		all := parse(t, render(t, r))
		count := map[string]int{}
		ids := map[string]bool{}
		title := ""
		for _, e := range all {
			count[e.name]++
			for k := range e.attr {
				if strings.HasPrefix(strings.ToLower(k), "on") {
					t.Errorf("%s: <%s> has an attribute %s", name, e.name, k)
				}
			}
			if id := e.attr["id"]; id != "" {
				if ids[id] {
					t.Errorf("%s: two elements have the id %s", name, id)
				}
				ids[id] = true
			}
			switch e.name {
			case "html":
				if e.attr["lang"] != "en" {
					t.Errorf("%s: no language", name)
				}
			case "title":
				title = e.text.String()
			case "th":
				if e.attr["scope"] == "" {
					t.Errorf("%s: the header %q has no scope", name, e.text)
				}
			case "svg":
				if e.attr["aria-hidden"] != "true" && (e.attr["role"] != "img" || e.attr["aria-label"] == "") {
					t.Errorf("%s: a chart without a description", name)
				}
			case "section":
				if e.attr["aria-labelledby"] == "" {
					t.Errorf("%s: a section without a name", name)
				}
			case "script":
				if e.attr["type"] != "application/json" {
					t.Errorf("%s: a script runs", name)
				}
			}
		}
		if count["script"] != 1 || count["h1"] != 1 || count["main"] != 1 || count["caption"] != count["table"] {
			t.Errorf("%s: elements %v", name, count)
		}
		verdict := "No gates"
		if len(r.Gates) > 0 {
			verdict = mark(r.Passed(), "Passed", "Failed")
		}
		if !strings.HasPrefix(title, verdict+": ") || !ids["verdict"] {
			t.Errorf("%s: title %q, want the verdict %s", name, title, verdict)
		}
	}
}

func TestHTMLHostile(t *testing.T) {
	src := render(t, hostile())
	body, _, _ := strings.Cut(src, `<script type="application/json"`)
	if strings.Contains(src, "<script>alert") || strings.ContainsRune(body, '\u202e') || strings.ContainsRune(src, 0) {
		t.Error("a name gets into the page as it is")
	}
	found := false
	for _, e := range parse(t, src) {
		found = found || e.name == "span" && strings.Contains(e.attr["title"], "<script>alert(1)</script>\"' onload=")
	}
	if !found {
		t.Error("the name is not in the page as text")
	}
}

// TestHTMLCharts counts what is drawn.
func TestHTMLCharts(t *testing.T) {
	for _, tt := range []struct {
		models, layers, charts int
	}{{1, 5, 4}, {6, 40, 5}, {12, 1, 5}} {
		r := many(tt.models, tt.layers, 10)
		src := render(t, r)
		if n := strings.Count(src, `<figure class="card`); n != tt.charts+tt.models {
			t.Errorf("%d models: %d figures, want %d charts and %d heat maps", tt.models, n, tt.charts, tt.models)
		}
		// Seven kinds differ from the base; each heat map is there in three forms.
		if n, want := strings.Count(src, ` class="heat-`), 3*7*tt.layers*tt.models; n != want {
			t.Errorf("%d models: %d cells in the heat maps, want %d", tt.models, n, want)
		}
		for i := range min(tt.models, seriesCount) {
			if !strings.Contains(src, fmt.Sprintf("stroke:var(--series-%d)", i)) || !strings.Contains(src, fmt.Sprintf("--series-%d: #", i)) {
				t.Errorf("%d models: nothing is drawn in colour %d", tt.models, i)
			}
		}
		if m := regexp.MustCompile(`(fill|stroke):#`).FindString(strings.SplitN(src, "<body>", 2)[1]); m != "" {
			t.Errorf("a chart has a colour of its own: %s", m)
		}
	}
}

func TestTicks(t *testing.T) {
	for _, tt := range []struct {
		lo, hi float64
		want   string
	}{
		{0, 1, "0.0 0.2 0.4 0.6 0.8 1.0"}, {0, 100, "0 20 40 60 80 100"}, {0.98, 1.03, "0.98 0.99 1.00 1.01 1.02 1.03"},
		{-1, 1, "-1.0 -0.5 0.0 0.5 1.0"}, {0, 12, "0.0 2.5 5.0 7.5 10.0"},
	} {
		var got []string
		for _, tick := range ticks(5, plain).Ticks(tt.lo, tt.hi) {
			got = append(got, tick.Label)
		}
		if s := strings.Join(got, " "); s != tt.want {
			t.Errorf("%v to %v: %s, want %s", tt.lo, tt.hi, s, tt.want)
		}
	}
	var got []string
	for _, tick := range decades().Ticks(-5.2, -3.9) {
		got = append(got, tick.Label)
	}
	if s := strings.Join(got, " "); s != "1e-5 2·1e-5 5·1e-5 0.0001" {
		t.Errorf("decades: %s", s)
	}
}

func TestShorten(t *testing.T) {
	for _, tt := range []struct{ s, want string }{{"short", "short"}, {"abcdefghijkl", "abcd…hijkl"}, {"ääääääääääää", "ääää…äääää"}} {
		if got := shorten(tt.s, 10); got != tt.want {
			t.Errorf("shorten(%q) = %q, want %q", tt.s, got, tt.want)
		}
	}
}

func TestTensorErrors(t *testing.T) {
	got := TensorErrors("m", &compare.Result{
		Tensors: []compare.Tensor{{Name: "a", TypeA: "F16", TypeB: "Q8_0", Figures: compare.Figures{Relative: 0.25}}, {Name: "b", TypeB: "F32", Problem: "shape"}},
		OnlyA:   []string{"c"}, OnlyB: []string{"d"},
	})
	want := ModelTensors{"m", []TensorError{{"a", "Q8_0", 0.25, ""}, {"b", "F32", 0, "shape"}, {"c", "", 0, "missing"}, {"d", "", 0, "not in the base"}}}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
