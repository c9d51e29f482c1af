package recipe

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/smeltgguf/smelt/quant"
)

// mix is a file of testdata/mix: a model's tensors and the types that
// llama.cpp v0.5.0 gives them for each ftype.
type mix struct {
	model      Model
	importance bool
	tensors    []Tensor
	types      map[string]map[string]quant.Type // ftype -> tensor -> type
}

func readMix(t *testing.T, path string) *mix {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	m := &mix{types: map[string]map[string]quant.Type{}}
	num := func(s string) int {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(path, err)
		}
		return n
	}
	typ := func(s string) quant.Type {
		ty, err := quant.ParseType(s)
		if err != nil {
			t.Fatal(path, err)
		}
		return ty
	}
	var exceptions map[string]quant.Type
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		switch {
		case f[0] == "arch":
			m.model.Arch = f[1]
		case f[0] == "layers":
			m.model.Layers = num(f[1])
		case f[0] == "heads":
			m.model.Heads = num(f[1])
		case f[0] == "kv_heads":
			m.model.KVHeads = num(f[1])
		case f[0] == "experts":
			m.model.Experts = num(f[1])
		case f[0] == "imatrix":
			m.importance = f[1] == "yes"
		case f[0] == "tensor":
			for _, name := range expandLayers(t, f[1], m.model.Layers) {
				ten := Tensor{Name: name, Type: quant.F16}
				for _, d := range f[2:] {
					ten.Dims = append(ten.Dims, uint64(num(d)))
				}
				m.tensors = append(m.tensors, ten)
			}
		case f[0][0] == '[':
			fts := strings.Fields(strings.Trim(line[:strings.Index(line, "]")], "[]"))
			base := typ(f[len(f)-1])
			exceptions = map[string]quant.Type{}
			for _, ten := range m.tensors {
				exceptions[ten.Name] = base
				if kept(&ten) != "" {
					exceptions[ten.Name] = ten.Type
				}
			}
			for _, ft := range fts {
				m.types[ft] = exceptions
			}
		default:
			for _, name := range expandLayers(t, f[0], m.model.Layers) {
				exceptions[name] = typ(f[1])
			}
		}
	}
	return m
}

var layersRE = regexp.MustCompile(`^blk\.([\d,*-]+)\.`)

// expandLayers turns blk.0-2,5.x and blk.*.x into one name per layer.
func expandLayers(t *testing.T, name string, layers int) []string {
	m := layersRE.FindStringSubmatch(name)
	if m == nil {
		return []string{name}
	}
	var out []string
	for _, r := range strings.Split(m[1], ",") {
		lo, hi, ok := strings.Cut(r, "-")
		if r == "*" {
			lo, hi = "0", strconv.Itoa(layers-1)
		} else if !ok {
			hi = lo
		}
		a, err1 := strconv.Atoi(lo)
		b, err2 := strconv.Atoi(hi)
		if err1 != nil || err2 != nil {
			t.Fatalf("layers %q", name)
		}
		for i := a; i <= b; i++ {
			out = append(out, fmt.Sprintf("blk.%d.%s", i, name[len(m[0]):]))
		}
	}
	return out
}

func TestMixtures(t *testing.T) {
	files, err := filepath.Glob("testdata/mix/*.txt")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	checked := 0
	for _, path := range files {
		m := readMix(t, path)
		slices.SortFunc(m.tensors, func(a, b Tensor) int { return Compare(a.Name, b.Name) })
		for ft, want := range m.types {
			r, err := Find(ft)
			if err != nil {
				t.Fatal(err)
			}
			got := r.Choose(m.model, m.tensors, Options{Importance: m.importance})
			if err != nil {
				t.Fatal(path, ft, err)
			}
			bad := 0
			for i, c := range got {
				checked++
				if w := want[m.tensors[i].Name]; c.Type != w {
					if bad++; bad <= 3 {
						t.Errorf("%s %s %s: %s, want %s", path, ft, m.tensors[i].Name, c.Type, w)
					}
				}
			}
		}
	}
	t.Logf("%d choices", checked)
}

// TestBuiltinText holds the table to the form in which recipes are printed.
func TestBuiltinText(t *testing.T) {
	head, _, _ := strings.Cut(builtinText, "\nrecipe ")
	var b strings.Builder
	b.WriteString(head)
	for _, r := range Builtin() {
		b.WriteString("\n" + r.String())
	}
	if b.String() != builtinText {
		t.Error("recipes.txt is not what its recipes print as")
	}
	for _, r := range Builtin() {
		again, err := Parse("x", r.String())
		if err != nil {
			t.Errorf("%s: %v", r.Name, err)
		} else if again.String() != r.String() {
			t.Errorf("%s is read back as\n%s", r.Name, again)
		}
	}
}

func TestFind(t *testing.T) {
	for name, want := range map[string]string{
		"q4_k_m": "Q4_K_M", "Q4_K": "Q4_K_M", "q3_k": "Q3_K_M", "Q5_k": "Q5_K_M", "15": "Q4_K_M", "0": "F32", "mxfp4": "MXFP4_MOE", "iq4_nl": "IQ4_NL",
	} {
		if r, err := Find(name); err != nil || r.Name != want {
			t.Errorf("Find(%q) = %v, %v; want %s", name, r, err, want)
		}
	}
	for _, name := range []string{"", "Q4_K_X", "99", "-1", "Q8_K"} {
		if _, err := Find(name); err == nil {
			t.Errorf("Find(%q) succeeded", name)
		}
	}
}

// TestFileTypes checks the numbers of general.file_type against llama.h.
func TestFileTypes(t *testing.T) {
	want := map[string]uint32{
		"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K_S": 11, "Q3_K_M": 12,
		"Q3_K_L": 13, "Q4_K_S": 14, "Q4_K_M": 15, "Q5_K_S": 16, "Q5_K_M": 17, "Q6_K": 18, "IQ2_XXS": 19, "IQ2_XS": 20,
		"Q2_K_S": 21, "IQ3_XS": 22, "IQ3_XXS": 23, "IQ1_S": 24, "IQ4_NL": 25, "IQ3_S": 26, "IQ3_M": 27, "IQ2_S": 28,
		"IQ2_M": 29, "IQ4_XS": 30, "IQ1_M": 31, "BF16": 32, "TQ1_0": 36, "TQ2_0": 37, "MXFP4_MOE": 38, "Q1_0": 40, "Q2_0": 41,
	}
	for _, r := range Builtin() {
		if n, ok := want[r.Name]; !ok || n != r.FileType {
			t.Errorf("%s has file type %d", r.Name, r.FileType)
		}
	}
	if len(Builtin()) != len(want) {
		t.Errorf("%d recipes, want %d", len(Builtin()), len(want))
	}
}

// small is a dense model of two layers.
var small = []Tensor{
	{"output.weight", quant.F16, []uint64{256, 64}},
	{"token_embd.weight", quant.F16, []uint64{256, 64}},
	{"blk.0.attn_q.weight", quant.F16, []uint64{256, 256}},
	{"blk.0.attn_v.weight", quant.F16, []uint64{256, 64}},
	{"blk.0.ffn_down.weight", quant.F16, []uint64{96, 256}},
	{"blk.1.attn_v.weight", quant.F16, []uint64{256, 64}},
}

func TestOptions(t *testing.T) {
	typ := func(t quant.Type) *quant.Type { return &t }
	pattern := func(s string) *Pattern {
		p, err := ParsePattern(s)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	tests := []struct {
		name, recipe string
		opt          Options
		tied         bool
		want         string // types of small
	}{
		{"plain", "Q4_K_S", Options{}, false, "Q6_K Q4_K Q4_K Q5_K Q5_0 Q5_K"},
		{"pure", "Q4_K_S", Options{Pure: true}, false, "Q4_K Q4_K Q4_K Q4_K Q5_0 Q4_K"},
		{"output kept", "Q4_K_S", Options{LeaveOutput: true}, false, "F16 Q4_K Q4_K Q5_K Q5_0 Q5_K"},
		{"output type", "Q4_K_S", Options{OutputType: typ(quant.Q8_0)}, false, "Q8_0 Q4_K Q4_K Q5_K Q5_0 Q5_K"},
		{"embedding type", "Q4_K_S", Options{EmbdType: typ(quant.Q8_0)}, false, "Q6_K Q8_0 Q4_K Q5_K Q5_0 Q5_K"},
		{"output type, tied", "Q4_K_S", Options{OutputType: typ(quant.Q8_0)}, true, "Q8_0 Q4_K Q5_K Q5_0 Q5_K"},
		{"output type, tied, pure", "Q4_K_S", Options{OutputType: typ(quant.Q8_0), Pure: true}, true, "Q4_K Q4_K Q4_K Q5_0 Q4_K"},
		{"float base", "F16", Options{OutputType: typ(quant.Q8_0), Overrides: []Override{{pattern("attn"), quant.Q4_0}}}, false, "Q8_0 F16 F16 F16 F16 F16"},
		{
			"first override counts, and does not count as seen", "Q3_K_M",
			Options{Overrides: []Override{{pattern(`blk\.0\..*v`), quant.Q4_0}, {pattern("attn_[qv]"), quant.F32}}},
			false, "Q6_K Q3_K F32 Q4_0 Q5_0 F32",
		},
		{"override of pure", "Q4_K_S", Options{Pure: true, Overrides: []Override{{pattern("down"), quant.Q2_K}}}, false, "Q4_K Q4_K Q4_K Q4_K Q4_0 Q4_K"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := Find(tt.recipe)
			if err != nil {
				t.Fatal(err)
			}
			ts := small
			if tt.tied {
				ts = ts[1:]
			}
			got := r.Choose(Model{Arch: "llama", Layers: 2, Heads: 8, KVHeads: 2}, ts, tt.opt)
			var types []string
			for _, c := range got {
				types = append(types, c.Type.String())
			}
			if s := strings.Join(types, " "); s != tt.want {
				t.Errorf("got  %s\nwant %s", s, tt.want)
			}
		})
	}
}

func TestOwnRecipe(t *testing.T) {
	r, err := Parse("mine", `
# a comment
recipe my-Q4   # another
like Q4_K_M
file_type 77
attn_q,other  arch=llama  -> Q8_0
/blk\.[01]\.attn_v/ seen=0 -> F16
`)
	if err != nil {
		t.Fatal(err)
	}
	got := r.Choose(Model{Arch: "llama", Layers: 2, Heads: 8, KVHeads: 8}, small, Options{})
	want := []quant.Type{quant.Q6_K, quant.Q4_K, quant.Q8_0, quant.F16, quant.Q5_0, quant.Q6_K}
	for i, c := range got {
		if c.Type != want[i] {
			t.Errorf("%s: %s, want %s", small[i].Name, c.Type, want[i])
		}
	}
	// A layer that the options decide moves the others' up, but not their blocks.
	ffn := []Tensor{
		{"blk.0.ffn_up.weight", quant.F16, []uint64{256, 64}},
		{"blk.1.ffn_up.weight", quant.F16, []uint64{256, 64}},
	}
	up, err := ParsePattern(`blk\.0\.`)
	if err != nil {
		t.Fatal(err)
	}
	for where, want := range map[string][2]quant.Type{
		"layer=0": {quant.Q8_0, quant.Q6_K}, "block=0": {quant.Q8_0, quant.Q4_0}, "block=1": {quant.Q8_0, quant.Q6_K}, "block>=1/2": {quant.Q8_0, quant.Q6_K},
	} {
		r, err := Parse("up", "recipe up\nfile_type 2\nbase Q4_0\nffn_up "+where+" -> Q6_K\n")
		if err != nil {
			t.Fatal(err)
		}
		cs := r.Choose(Model{Layers: 2}, ffn, Options{Overrides: []Override{{up, quant.Q8_0}}})
		if got := [2]quant.Type{cs[0].Type, cs[1].Type}; got != want {
			t.Errorf("%s: %v, want %v", where, got, want)
		}
	}
	// Rules count where the base type is a float, too.
	half, err := Parse("half", "recipe half\nfile_type 1\nbase F16\nffn_down -> Q5_0\nattn_q -> Q4_K\n")
	if err != nil {
		t.Fatal(err)
	}
	want = []quant.Type{quant.F16, quant.F16, quant.Q4_K, quant.F16, quant.Q5_0, quant.F16}
	for i, c := range half.Choose(Model{Arch: "llama", Layers: 2, Heads: 8, KVHeads: 8}, small, Options{}) {
		if c.Type != want[i] {
			t.Errorf("float base: %s: %s, want %s", small[i].Name, c.Type, want[i])
		}
	}
	if r.FileType != 77 || r.Base != quant.Q4_K || r.Name != "my-Q4" {
		t.Errorf("%+v", r)
	}
}

func TestNeedsImportance(t *testing.T) {
	for name, want := range map[string]string{
		"Q2_K_S": "blk.0.attn_q.weight", "Q2_K": "", "IQ3_M": "", "IQ4_XS": "",
		"IQ2_XS": "blk.0.attn_q.weight", "IQ3_XS": "blk.0.attn_q.weight",
	} {
		r, err := Find(name)
		if err != nil {
			t.Fatal(err)
		}
		cs := r.Choose(Model{Arch: "llama", Layers: 2, Heads: 8, KVHeads: 8}, small, Options{})
		first := ""
		for i, c := range cs {
			if c.NeedsImportance && first == "" {
				first = small[i].Name
			}
		}
		if first != want {
			t.Errorf("%s: first tensor that needs importance is %q, want %q", name, first, want)
		}
	}
}

func TestParseErrors(t *testing.T) {
	const head = "recipe x\nfile_type 1\nbase Q4_0\n"
	tests := []struct{ text, want string }{
		{"", "f: holds 0 recipes, expected one"},
		{head + head, "f: holds 2 recipes, expected one"},
		{"base Q4_0\n", `f:1: expected 'recipe NAME', found "base"`},
		{"recipe\n", "f:1: recipe wants one name"},
		{"recipe ../x\n", `f:1: recipe name "../x": want letters`},
		{"recipe x\nbase Q4_0\n", `recipe "x" has no file_type`},
		{"recipe x\nfile_type 1\n", `recipe "x" has no base`},
		{"recipe x\nfile_type -1\n", `f:2: file_type "-1": want a number`},
		{"recipe x\nbase Q8_K\n", `f:2: "Q8_K" is no type that tensors can be quantized to`},
		{"recipe x\nbase I32\n", `"I32" is no type`},
		{"recipe x\nbase Q4_0\nbase Q4_0\n", `f:3: "base" is given twice`},
		{"recipe x\nlike Q4_K_X\n", `like "Q4_K_X": no built-in recipe of that name`},
		{"recipe x\ncolour red\n", `unknown word "colour"`},
		{head + "attn_v -> Q4_0\nbase Q4_1\n", "f:5: expected a rule"},
		{head + "-> Q4_0\n", "a rule is 'TENSORS [CONDITION...] -> TYPE'"},
		{head + "attn_v ->\n", "a rule is"},
		{head + "attn_w -> Q4_0\n", `unknown kind of tensor "attn_w"`},
		{head + "/attn -> Q4_0\n", `pattern "/attn": want /REGEXP/`},
		{head + "/a(?=b)/ -> Q4_0\n", `pattern "a(?=b)": invalid or unsupported Perl syntax`},
		{head + "any arch -> Q4_0\n", `condition "arch": want VARIABLE=VALUE`},
		{head + "any color=red -> Q4_0\n", `condition "color=red": unknown variable`},
		{head + "any arch<falcon -> Q4_0\n", "arch takes = or !="},
		{head + "any model=7B -> Q4_0\n", "the only model class is 70B"},
		{head + "any imatrix=maybe -> Q4_0\n", "want yes or no"},
		{head + "any layer<more_bits -> Q4_0\n", "more_bits takes = or !="},
		{head + "any layer<1/0 -> Q4_0\n", "want a number, a fraction or more_bits"},
		{head + "any gqa>=1/2 -> Q4_0\n", "want a number"},
		{head + "any experts=08 -> Q4_0\n", "want a number"},
		{"recipe \xff\n", "not UTF-8 text"},
		{strings.Repeat("#", maxText+1), "at most 1048576 are read"},
		{head + strings.Repeat("any -> Q4_0\n", maxRules+1), "more than 10000 rules"},
	}
	for _, tt := range tests {
		if _, err := Parse("f", tt.text); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%.60q: error %v, want %q", tt.text, err, tt.want)
		}
	}
}

func TestCompare(t *testing.T) {
	want := []string{"output.weight", "token_embd.weight", "blk.0.a", "blk.0.b", "blk.2.a", "blk.10.a"}
	got := slices.Clone(want)
	slices.Reverse(got)
	slices.SortFunc(got, Compare)
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// FuzzParse checks that what is read is printed in a form that is read back.
func FuzzParse(f *testing.F) {
	for _, r := range Builtin() {
		f.Add(r.String())
	}
	f.Add("recipe x\nlike q4_k_m\nneed_importance Q2_K\n/a.*b/ layer>=1/8 layer<7/8 -> q8_0 # end\n")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := Parse("f", text)
		if err != nil {
			return
		}
		s := r.String()
		again, err := Parse("f", s)
		if err != nil {
			t.Fatalf("%v in\n%s", err, s)
		}
		if again.String() != s {
			t.Fatalf("%q is read back as %q", s, again.String())
		}
		r.Choose(Model{Arch: "llama", Layers: 2, Heads: 8, KVHeads: 2}, small, Options{})
	})
}
