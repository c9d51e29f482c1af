package eval

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
)

// Gate is a bar that a figure must meet.
type Gate struct {
	Figure string  // a JSON name of Figures or Comparison: "mean_kld"
	Bound  float64 // the worst value that passes
}

// higherIsBetter lists the figures of which more is good; of all others less
// is. Changes of probability are judged by how far down they go.
var higherIsBetter = map[string]bool{
	"correlation": true, "same_top": true, "top5_overlap": true,
	"mean_dp": true, "min_dp": true, "dp_1": true, "dp_5": true, "dp_10": true, "median_dp": true,
}

func (g Gate) higherIsBetter() bool {
	_, task := g.Task()
	return task || higherIsBetter[g.Figure]
}

// FigureNames lists what can be a gate, in the order of the structs.
func FigureNames() []string {
	var names []string
	for _, t := range []reflect.Type{reflect.TypeFor[Figures](), reflect.TypeFor[Comparison]()} {
		for i := range t.NumField() {
			if f := t.Field(i); f.Type.Kind() == reflect.Float64 {
				names = append(names, jsonName(f))
			}
		}
	}
	return names
}

func jsonName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

// Figure returns a figure by its JSON name; ok is false where there is none,
// as for a comparison without a base.
func (f *Figures) Figure(name string) (value float64, ok bool) {
	for _, v := range []reflect.Value{reflect.ValueOf(f).Elem(), reflect.ValueOf(f.Comparison)} {
		if v.Kind() == reflect.Pointer {
			if v.IsNil() {
				continue
			}
			v = v.Elem()
		}
		for i := range v.NumField() {
			if t := v.Type().Field(i); t.Type.Kind() == reflect.Float64 && jsonName(t) == name {
				return v.Field(i).Float(), true
			}
		}
	}
	return 0, false
}

// taskPrefix begins the gates on tasks: "task.hellaswag".
const taskPrefix = "task."

// Task returns the name of the task whose accuracy, less the base's, the gate
// bounds from below; ok is false for a gate on a figure of the text.
func (g Gate) Task() (name string, ok bool) {
	name, ok = strings.CutPrefix(g.Figure, taskPrefix)
	return name, ok && name != ""
}

// Validate reports whether the gate's figure exists.
func (g Gate) Validate() error {
	if _, ok := g.Task(); !ok && !slices.Contains(FigureNames(), g.Figure) {
		return fmt.Errorf("gate %q: no such figure; there are %s, and task.NAME for a --task", g.Figure, strings.Join(FigureNames(), ", "))
	}
	if math.IsNaN(g.Bound) {
		return fmt.Errorf("gate %q: bound is not a number", g.Figure)
	}
	return nil
}

// NeedsBase reports whether the gate's figure compares with a base.
func (g Gate) NeedsBase() bool {
	_, alone := (&Figures{}).Figure(g.Figure)
	return !alone
}

// String gives the gate as a condition: "mean_kld <= 0.05".
func (g Gate) String() string {
	op := "<="
	if g.higherIsBetter() {
		op = ">="
	}
	return fmt.Sprintf("%s %s %g", g.Figure, op, g.Bound)
}

// Outcome is a gate held against one model.
type Outcome struct {
	Gate   Gate    `json:"-"`
	Name   string  `json:"gate"` // the condition
	Path   string  `json:"path"`
	Value  float64 `json:"value"`
	Passed bool    `json:"passed"`
}

func (o Outcome) String() string {
	return fmt.Sprintf("%s: %s is %.6g, the gate is %s", o.Path, o.Gate.Figure, o.Value, o.Gate)
}

// Check holds gates against a result: gates[i] against its i-th model. A
// figure that was not measured misses its gate. Gates on tasks are left out.
func Check(res *Result, gates [][]Gate) []Outcome {
	var out []Outcome
	for i := range res.Models {
		m := &res.Models[i]
		for _, g := range gates[i] {
			if _, task := g.Task(); task {
				continue
			}
			v, ok := m.Figure(g.Figure)
			out = append(out, Outcome{Gate: g, Name: g.String(), Path: m.Path, Value: v, Passed: ok && g.met(v)})
		}
	}
	return out
}

// met reports whether a value passes.
func (g Gate) met(v float64) bool {
	if g.higherIsBetter() {
		return v >= g.Bound
	}
	return v <= g.Bound
}

// DecisionZ is how many standard errors a figure must be from its bound before
// Decided takes the gate for decided: the 99% interval of a normal
// distribution, for a gate that is looked at once.
const DecisionZ = 2.58

// minDecision is how many chunks must have been run before anything is
// decided: standard errors of fewer mean little.
const minDecision = 4

// Decided reports whether more text would not change what Check says of any
// gate: the interval of DecisionZ standard errors around the figure lies wholly
// on one side of the bound. Extremes have no such interval; they decide where
// they cannot get back (the largest KL divergence is above its bound). All other
// figures without a standard error leave their gate open. Gates on tasks have no
// part in it.
func Decided(res *Result, gates [][]Gate) bool {
	if res.Chunks < minDecision {
		return false
	}
	for i := range res.Models {
		for _, g := range gates[i] {
			if _, task := g.Task(); !task && !res.Models[i].decides(g, res.Scored) {
				return false
			}
		}
	}
	return true
}

// growing tells of the extremes in which direction more text moves them.
var growing = map[string]bool{"max_kld": true, "max_dp": true, "min_kld": false, "min_dp": false}

func (f *Figures) decides(g Gate, n int) bool {
	v, ok := f.Figure(g.Figure)
	if !ok {
		return false
	}
	var bound float64
	if f.Comparison != nil && strings.Contains(g.Figure, "kld") {
		bound = f.KLDBound
	}
	if up, ok := growing[g.Figure]; ok {
		if up {
			v -= bound
		} else {
			v += bound
		}
		return up && v > g.Bound || !up && v < g.Bound
	}
	var lo, hi float64
	switch se, ok := f.Figure(g.Figure + "_se"); {
	case g.Figure == "same_top":
		lo, hi = Wilson(v, n, DecisionZ)
	case g.Figure == "mean_nll":
		d := DecisionZ * f.PPLSE / f.PPL // PPL = exp of it
		lo, hi = v-d, v+d
	case g.Figure == "mean_kld":
		d := DecisionZ*se + f.MeanKLDBound
		lo, hi = v-d, v+d
	case ok:
		lo, hi = v-DecisionZ*se, v+DecisionZ*se
	default:
		return false
	}
	return g.met(lo) == g.met(hi)
}
