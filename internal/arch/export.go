package arch

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/formats/gguf"
	"github.com/smeltgguf/smelt/internal/checkpoint"
	"github.com/smeltgguf/smelt/internal/stream"
	"github.com/smeltgguf/smelt/quant"
)

// Exported is a GGUF as the checkpoint that it could have come from.
type Exported struct {
	Family *Family
	// Config is config.json, without what concerns the tokenizer; its numbers
	// are json.Number.
	Config map[string]any
	// Tensors are named as in the checkpoint, the transformations of convert
	// undone; in the order of those of the GGUF that they come from.
	Tensors []Tensor
	Notes   []string // what config.json cannot express and need not
}

// Exportable lists the architectures that Export knows.
func Exportable() []string {
	var names []string
	for _, f := range Families {
		if f.export != nil {
			names = append(names, f.Name)
		}
	}
	return names
}

// Export describes a GGUF in Hugging Face's form. The family's description runs
// with a config made of the metadata, for names and transformations alone, which
// are then undone; what it would write for that config is compared with the
// metadata. file names the GGUF in errors.
func Export(file string, meta *gguf.Metadata, tensors []Tensor) (x *Exported, err error) {
	defer func() {
		if err != nil {
			var fe *formats.FormatError
			if !errors.As(err, &fe) {
				err = fmt.Errorf("%s: %w", file, err)
			}
			x = nil
		}
	}()
	defer catch(&err)
	name := meta.Architecture()
	f := byName(name)
	if f == nil || f.export == nil {
		return nil, formats.Unsupportedf(file, -1, "architecture %s cannot be exported", formats.Quote(name)).
			WithHint("these can: %s", strings.Join(Exportable(), ", "))
	}
	if typ, err := meta.String("general.type"); err == nil && typ != "model" {
		return nil, formats.Unsupportedf(file, -1, "general.type %s: only whole models can be exported", formats.Quote(typ))
	}
	d, err := DecoderFromGGUF(meta)
	if err != nil {
		return nil, err
	}
	e := &exporter{file: file, meta: meta, f: f, d: d, tensors: map[string]int{}, list: tensors, optional: map[string]bool{}, became: map[string][]string{}}
	for i, t := range tensors {
		e.tensors[t.Name] = i
	}
	e.config()
	e.describe()
	e.final = true
	e.describe()
	for _, t := range tensors {
		if !e.used[t.Name] {
			fail("tensor %s %s has no place in the checkpoint of a %s model", formats.Quote(t.Name), dims(t.Shape), name)
		}
	}
	x = &Exported{Family: f, Config: e.cfg, Notes: append(e.notes, e.compare()...)}
	slices.SortStableFunc(e.out, func(a, b exported) int { return a.from - b.from })
	for _, t := range e.out {
		x.Tensors = append(x.Tensors, t.Tensor)
	}
	return x, nil
}

// exporter is what a family's export function works with, and where the builder
// leaves what the description says about tensors.
type exporter struct {
	file string
	meta *gguf.Metadata
	f    *Family
	d    *Decoder
	cfg  map[string]any

	list    []Tensor
	tensors map[string]int // of the GGUF: name -> position

	// The description runs twice. The first run takes every optional tensor to
	// be there and finds out what it becomes; the second knows from that which
	// are.
	final    bool
	optional map[string]bool     // tensors of the checkpoint that were asked for with has
	became   map[string][]string // tensor of the checkpoint -> tensors of the GGUF

	order  int
	absent int // tensors of the description that the GGUF does not hold
	model  *Model
	out    []exported
	notes  []string
	used   map[string]bool // tensors of the GGUF
	placed map[string]bool // tensors of the checkpoint
}

type exported struct {
	from int // position of the GGUF's tensor
	Tensor
}

// describe runs the family's description.
func (e *exporter) describe() {
	e.order, e.absent, e.out, e.used, e.placed = 0, 0, nil, map[string]bool{}, map[string]bool{}
	cfg := newConfig("config.json", maps.Clone(e.cfg))
	e.model = &Model{Family: e.f, Early: gguf.NewMetadata(), Params: gguf.NewMetadata()}
	b := newBuilder(&checkpoint.Checkpoint{Path: e.file, Layout: checkpoint.HuggingFace}, cfg, e.f, e.model, Options{})
	b.export = e
	e.f.load(b)
	b.finish()
}

// has reports whether the GGUF holds the tensor.
func (e *exporter) has(name string) bool {
	_, ok := e.tensors[name]
	return ok
}

// asked answers whether the checkpoint has the optional tensor.
func (e *exporter) asked(name string) bool {
	e.optional[name] = true
	return !e.final || slices.ContainsFunc(e.became[name], e.has)
}

// src returns a tensor of the checkpoint, of which only name and shape are
// known.
func (e *exporter) src(name string, shape []int) shaped {
	if e.placed[name] {
		fail("tensor %s is needed twice", formats.Quote(name))
	}
	e.placed[name] = true
	e.order++
	l := &leaf{name: name, shape: shape, len: 1, count: 1}
	for _, d := range shape[:len(shape)-1] {
		l.count *= d
	}
	l.len = shape[len(shape)-1]
	return shaped{rows: l, shape: shape, order: e.order}
}

// leaf stands for a tensor of the checkpoint.
type leaf struct {
	name       string
	shape      []int
	len, count int
}

func (l *leaf) Type() quant.Type { return quant.F32 }
func (l *leaf) Len() int         { return l.len }
func (l *leaf) Count() int       { return l.count }

func (l *leaf) ReadRows([]byte, int, int) error {
	return fmt.Errorf("tensor %q is only a name", l.name)
}

// put undoes what made the GGUF's tensor out of the checkpoint's.
func (e *exporter) put(name string, s shaped) {
	at, ok := e.tensors[name]
	if want, ok := s.rows.(floats); ok {
		e.mustBe(name, want)
		return
	}
	optional := true
	leaves(s.rows, func(l *leaf) {
		if !e.final {
			e.became[l.name] = append(e.became[l.name], name)
		}
		optional = optional && e.optional[l.name]
	})
	if !ok {
		// What goes with an optional tensor is not asked for by itself, so the
		// first run only sees to it that it comes to an end.
		if e.absent++; !optional && (e.final || e.absent > len(e.list)) {
			fail("tensor %q is missing", name)
		}
		return
	}
	t := e.list[at]
	if !slices.Equal(t.Shape, s.shape) {
		fail("%s %s, metadata implies %s", formats.Quote(name), dims(t.Shape), dims(s.shape))
	}
	e.used[name] = true
	if !e.final {
		return
	}
	undo(s.rows, t.Rows, func(l *leaf, rows stream.Rows) {
		e.out = append(e.out, exported{at, Tensor{l.name, l.shape, rows}})
	})
}

// mustStack checks that the GGUF has the matrices of n experts before they are
// counted through.
func (e *exporter) mustStack(n int, kinds []expert) {
	for _, k := range kinds {
		at, ok := e.tensors[k.dst]
		if !ok {
			fail("tensor %q is missing", k.dst)
		}
		if shape := e.list[at].Shape; shape[0] != n {
			fail("%s %s, metadata implies %s", formats.Quote(k.dst), dims(shape), dims([]int{n, k.out, k.in}))
		}
	}
}

// mustBe checks a tensor that convert computes from the config: there is nothing
// to write for it, but it must be what will be computed again.
func (e *exporter) mustBe(name string, want floats) {
	at, there := e.tensors[name]
	if !there {
		fail("tensor %q is missing", name)
	}
	e.used[name] = true
	got, err := vectorOf(e.list[at])
	if err != nil {
		panic(failure{err})
	}
	n, ok := rounded(got, want)
	if !ok {
		fail("%s does not hold what config.json can express", formats.Quote(name))
	}
	if n > 0 && e.final {
		e.notes = append(e.notes, fmt.Sprintf("%s: %d of its %d values are rounded otherwise by another conversion", name, n, len(got)))
	}
}

// rounded reports whether two vectors are the same but for rounding, and how many
// of their values are not the same bits: libraries compute factors in their own
// order.
func rounded(a, b []float32) (differ int, ok bool) {
	if len(a) != len(b) {
		return 0, false
	}
	for i := range a {
		if a[i] == b[i] {
			continue
		}
		if d := math.Abs(float64(a[i]) - float64(b[i])); !(d <= 1e-5*math.Abs(float64(b[i]))) {
			return 0, false
		}
		differ++
	}
	return differ, true
}

// vectorOf reads a vector of float32 values.
func vectorOf(t Tensor) ([]float32, error) {
	const longest = 1 << 16
	if t.Type() != quant.F32 || t.Count() != 1 || t.Len() > longest {
		return nil, fmt.Errorf("tensor %s: %v %s is not understood", formats.Quote(t.Name), t.Type(), dims(t.Shape))
	}
	raw := make([]byte, 4*t.Len())
	if err := t.ReadRows(raw, 0, 1); err != nil {
		return nil, err
	}
	out := make([]float32, t.Len())
	quant.Decode(quant.F32, out, raw)
	return out, nil
}

// leaves calls f for all tensors that rows are made of.
func leaves(rows stream.Rows, f func(*leaf)) {
	switch r := rows.(type) {
	case *leaf:
		f(r)
	case *gather:
		leaves(r.Rows, f)
	case *reshaped:
		leaves(r.Rows, f)
	case *added:
		leaves(r.Rows, f)
	case *concat:
		for _, p := range r.parts {
			leaves(p, f)
		}
	default:
		fail("a transformation of type %T cannot be undone", r)
	}
}

// undo takes what rows describes backwards: out holds the result, and emit gets
// what each tensor in it must have been.
func undo(rows, out stream.Rows, emit func(*leaf, stream.Rows)) {
	switch r := rows.(type) {
	case *leaf:
		emit(r, reshape(out, r.len))
	case *gather:
		undo(r.Rows, inverse(r, out), emit)
	case *reshaped:
		undo(r.Rows, reshape(out, r.Rows.Len()), emit)
	case *added:
		undo(r.Rows, &added{out, -r.c}, emit)
	case *concat:
		for i, p := range r.parts {
			first := r.first[i]
			undo(p, &gather{out, r.first[i+1] - first, func(i int) int { return first + i }}, emit)
		}
	}
}

// inverse puts rows back to where g took them from.
func inverse(g *gather, out stream.Rows) stream.Rows {
	if n := g.Rows.Count(); n != g.count || n > math.MaxInt32 {
		fail("%d rows of %d: the others are not in the file", g.count, n)
	}
	from := make([]int32, g.count)
	seen := make([]bool, g.count)
	same := true
	for i := range g.count {
		at := g.index(i)
		if seen[at] {
			fail("row %d is there twice", at)
		}
		seen[at], from[at] = true, int32(i)
		same = same && at == i
	}
	if same {
		return out
	}
	return &gather{out, g.count, func(i int) int { return int(from[i]) }}
}

// compare returns the architecture's keys that another conversion would not
// write as they are. It is an error if they make a difference to the forward
// pass.
func (e *exporter) compare() []string {
	var differ []string
	prefix := e.f.Name + "."
	for key, v := range e.meta.All() {
		if w, ok := e.model.Params.Get(key); strings.HasPrefix(key, prefix) && (!ok || !reflect.DeepEqual(v, w)) {
			differ = append(differ, key)
		}
	}
	all := e.model.Params.Clone()
	all.Set("general.architecture", e.f.Name)
	d, err := DecoderFromGGUF(all)
	if err != nil {
		panic(failure{err})
	}
	d.Vocab = e.d.Vocab
	if !reflect.DeepEqual(d, e.d) {
		if len(differ) == 0 {
			fail("config.json cannot express this model")
		}
		v, _ := e.meta.Get(differ[0])
		fail("%s = %s cannot be expressed in config.json", formats.Quote(differ[0]), formats.Quote(fmt.Sprint(v)))
	}
	var notes []string
	for _, key := range differ {
		notes = append(notes, fmt.Sprintf("%s has no place in config.json and changes nothing", key))
	}
	return notes
}

// config makes config.json.
func (e *exporter) config() {
	e.cfg = map[string]any{}
	for _, k := range slices.Concat(dimKeys, expertKeys) {
		e.copyUint(k)
	}
	for _, k := range epsKeys {
		e.copyFloat(e.cfg, k)
	}
	if _, ok := e.meta.Get(e.f.Name + "." + headDimKeys[0]); ok {
		e.cfg["head_dim"] = number(e.d.HeadDim)
	}
	e.rope()
	at, ok := e.tensors["token_embd.weight"]
	if !ok {
		fail("tensor %q is missing", "token_embd.weight")
	}
	e.cfg["vocab_size"] = number(e.list[at].Shape[0])
	e.cfg["tie_word_embeddings"] = !e.has("output.weight")
	e.f.export(e)
}

// class sets the names that transformers knows the model by.
func (e *exporter) class(name, modelType string) {
	e.cfg["architectures"], e.cfg["model_type"] = []any{name}, modelType
	if name != "LlamaForCausalLM" { // others' defaults are those of one model
		e.cfg[kvKeys[0]] = number(e.d.KVHeads)
		e.cfg["rope_theta"] = jsonFloat(e.d.Rope.Base)
	}
}

// copyUint writes a number to the config, if the GGUF has it.
func (e *exporter) copyUint(k keyPair) {
	if n, err := e.meta.Uint(e.f.Name + "." + k.key); check(err, "") {
		e.cfg[k.from[0]] = json.Number(strconv.FormatUint(n, 10))
	}
}

// copyFloat writes a number to an object of the config, if the GGUF has it.
func (e *exporter) copyFloat(to map[string]any, k keyPair) {
	if f, err := e.meta.Float(e.f.Name + "." + k.key); check(err, "") {
		to[k.from[0]] = jsonFloat(f)
	}
}

// jsonFloat writes a float32 value with the digits that it takes.
func jsonFloat(f float64) json.Number {
	s := strconv.FormatFloat(f, 'g', -1, 32)
	if math.Abs(f) >= 1e-4 && math.Abs(f) < 1e15 {
		if s = strconv.FormatFloat(f, 'f', -1, 32); !strings.Contains(s, ".") {
			s += ".0"
		}
	}
	return json.Number(s)
}

// rope writes rope_theta and rope_scaling.
func (e *exporter) rope() {
	e.copyFloat(e.cfg, keyPair{"rope.freq_base", []string{"rope_theta"}})
	if e.d.Rope.BaseLocal > 0 {
		e.copyFloat(e.cfg, keyPair{"rope.freq_base_swa", []string{"rope_local_base_freq"}})
	}
	s := map[string]any{}
	switch r := e.d.Rope; {
	case r.Yarn != nil:
		s["rope_type"], s["factor"] = "yarn", jsonFloat(r.Yarn.Factor)
		s["original_max_position_embeddings"] = number(r.Yarn.OriginalContext)
		for _, k := range yarnKeys {
			e.copyFloat(s, k)
		}
	case r.Scale != 0 && r.Scale != 1:
		s["rope_type"], s["factor"] = "linear", jsonFloat(1/r.Scale)
	case e.has(ropeFactors):
		l := e.llama3()
		s["rope_type"], s["factor"] = "llama3", jsonFloat(l.factor)
		s["low_freq_factor"], s["high_freq_factor"] = jsonFloat(l.lowFreq), jsonFloat(l.highFreq)
		s["original_max_position_embeddings"] = number(l.context)
	default:
		return
	}
	e.cfg["rope_scaling"] = s
}

// llama3 finds the parameters that rope_freqs.weight was computed with. The file
// holds the factors alone; they are compared with those of the parameters that
// Meta uses, with the scaling's factor that the lowest frequency has.
func (e *exporter) llama3() llama3Scaling {
	t := e.list[e.tensors[ropeFactors]]
	got, err := vectorOf(t)
	if err != nil {
		panic(failure{err})
	}
	s := llama3Scaling{factor: 1, lowFreq: 1, highFreq: 4, context: 8192}
	for _, f := range got {
		s.factor = max(s.factor, float64(f))
	}
	if _, ok := rounded(got, s.factors(e.d.HeadDim, e.d.Rope.Base)); !ok {
		fail("%s holds factors that are not those of Llama 3.1's scaling (low_freq_factor %g, high_freq_factor %g, context %d), the only one that can be exported",
			formats.Quote(t.Name), s.lowFreq, s.highFreq, s.context)
	}
	return s
}
