package recipe

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/smeltgguf/smelt/quant"
)

// Tensor is a tensor as it comes: its name in the output, type and dimensions,
// row length first.
type Tensor struct {
	Name string
	Type quant.Type
	Dims []uint64
}

// RowLen returns the number of elements in a row.
func (t *Tensor) RowLen() uint64 {
	if len(t.Dims) == 0 {
		return 1
	}
	return t.Dims[0]
}

// dims counts the dimensions up to the last that is not 1.
func (t *Tensor) dims() int {
	n := len(t.Dims)
	for n > 1 && t.Dims[n-1] == 1 {
		n--
	}
	return n
}

// Model is what recipes know about a model, from its metadata.
type Model struct {
	Arch    string // general.architecture
	Layers  int    // <arch>.block_count
	Heads   int    // <arch>.attention.head_count, of the first layer
	KVHeads int    // <arch>.attention.head_count_kv, of the first layer
	Experts int    // <arch>.expert_count, 0 if there is none
}

// Is70B reports whether the model is of the class that llama.cpp calls 70B:
// with 80 layers in one of the architectures where it knows that size.
func (m *Model) Is70B() bool {
	if m.Layers != 80 {
		return false
	}
	switch m.Arch {
	case "llama", "llama-embed":
		return m.Heads != m.KVHeads
	case "qwen2", "deci", "olmo":
		return true
	}
	return false
}

func (m *Model) gqa() int {
	if m.KVHeads == 0 {
		return 0
	}
	return m.Heads / m.KVHeads
}

// Override gives the tensors whose names match a pattern a type, whatever the
// recipe says.
type Override struct {
	Pattern *Pattern
	Type    quant.Type
}

// Options are the person's wishes on top of a recipe.
type Options struct {
	Importance  bool        // an importance matrix is given
	Pure        bool        // every tensor gets the base type
	LeaveOutput bool        // output.weight stays as it is
	OutputType  *quant.Type // of output.weight, or of a tied token_embd.weight
	EmbdType    *quant.Type // of token_embd.weight
	Overrides   []Override  // the first that matches counts; ignored where all tensors get one float type
}

// Choice is the outcome for one tensor.
type Choice struct {
	Type quant.Type
	// Kept says why the tensor stays as it is; empty if it is quantized.
	Kept string
	// Wanted is what the tensor would have got in rows that blocks divide, and
	// Reason says in words why Type stands in for it; where nothing does, Wanted
	// equals Type and Reason is empty.
	Wanted quant.Type
	Reason string
	// By is the option that chose: OutputType, EmbdType or the address of an
	// override's Type; nil where the recipe chose.
	By *quant.Type
	// NeedsImportance is set where Type is worthless without an importance
	// matrix, or has no encoder that works without one.
	NeedsImportance bool
}

// env is what conditions are evaluated against.
type env struct {
	model         *Model
	opt           *Options
	t             *Tensor
	whole         bool // the base type's blocks divide the rows
	seen, total   int
	layer, layers int // layer is -1 where the name has none
}

// Choose returns a type for each tensor. Their order matters, because rules
// count: it is the order of the output (see Compare), layer by layer.
func (r *Recipe) Choose(m Model, tensors []Tensor, opt Options) []Choice {
	kinds := make([]Kind, len(tensors))
	tied, attnV := true, 0
	for i := range tensors {
		kinds[i] = KindOf(tensors[i].Name)
		switch kinds[i] {
		case AttnV:
			attnV++
		case Output:
			tied = false
		}
	}
	var seen [numKinds]int
	e := env{model: &m, opt: &opt, layers: m.Layers}
	out := make([]Choice, len(tensors))
	for i := range tensors {
		t, k := &tensors[i], kinds[i]
		c := Choice{Type: t.Type, Wanted: t.Type, Kept: kept(t)}
		if c.Kept == "" && opt.LeaveOutput && t.Name == "output.weight" {
			c.Kept = "output tensor left as it is"
		}
		if c.Kept == "" {
			ruled := false
			c.Type, c.By, ruled = r.manual(t, k, &opt)
			c.Wanted = c.Type
			if ruled {
				e.t, e.seen, e.total = t, seen[k], m.Layers
				if k == AttnV {
					e.total = attnV
				}
				e.layer = layer(t.Name)
				if m.Experts <= 1 && (k == FFNUp || k == FFNGate || k == FFNDown) {
					e.layer = seen[k]
				}
				seen[k]++
				if k == TokenEmbd && tied {
					k = Output
				}
				if k == Output && opt.OutputType != nil {
					c.Type, c.By = *opt.OutputType, opt.OutputType
					c.Wanted = c.Type
				} else {
					e.whole = t.RowLen()%uint64(r.Base.BlockLen()) == 0
					c.Type = r.rule(&e, k)
					e.whole = true
					c.Wanted = r.rule(&e, k)
				}
			}
			c.Type = fit(c.Type, t.RowLen())
			c.Reason = r.reason(&c, t.RowLen())
			c.NeedsImportance = c.Type.RequiresImportance() ||
				r.needsImportance(c.Type) && kinds[i] != TokenEmbd && kinds[i] != Output
		}
		out[i] = c
	}
	return out
}

// manual returns the type that the person's options give a tensor and the
// option that did, or the base type, and whether the recipe's rules are still to
// be asked.
func (r *Recipe) manual(t *Tensor, k Kind, opt *Options) (typ quant.Type, by *quant.Type, ruled bool) {
	switch {
	case k == TokenEmbd && opt.EmbdType != nil:
		return *opt.EmbdType, opt.EmbdType, false
	case k == Output && opt.OutputType != nil:
		return *opt.OutputType, opt.OutputType, false
	case !Quantized(r.Base) && len(r.Rules) == 0:
		return r.Base, nil, false
	}
	for i := range opt.Overrides {
		if o := &opt.Overrides[i]; o.Pattern.MatchString(t.Name) {
			return o.Type, &o.Type, false
		}
	}
	return r.Base, nil, !opt.Pure
}

// rule returns the type that the first fitting rule gives.
func (r *Recipe) rule(e *env, k Kind) quant.Type {
	for i := range r.Rules {
		if rule := &r.Rules[i]; rule.fits(e, k) {
			return rule.Type
		}
	}
	return r.Base
}

func (r *Rule) fits(e *env, k Kind) bool {
	if r.Pattern != nil {
		if !r.Pattern.MatchString(e.t.Name) {
			return false
		}
	} else if !slices.Contains(r.Kinds, k) && !slices.Contains(r.Kinds, Any) {
		return false
	}
	for i := range r.Where {
		if !r.Where[i].holds(e) {
			return false
		}
	}
	return true
}

// reason says why c is not what was wanted in rows of n elements: the blocks of
// that type, or those of the base type where a rule asks for them.
func (r *Recipe) reason(c *Choice, n uint64) string {
	if c.Type == c.Wanted {
		return ""
	}
	block := uint64(c.Wanted.BlockLen())
	if n%block == 0 {
		block = uint64(r.Base.BlockLen())
	}
	return fmt.Sprintf("row of %d is not a multiple of %d", n, block)
}

// layer returns the number in a name that starts with "blk.N.", else -1.
func layer(name string) int {
	rest, ok := strings.CutPrefix(name, "blk.")
	if !ok {
		return -1
	}
	digits, _, ok := strings.Cut(rest, ".")
	n, err := strconv.Atoi(digits)
	if !ok || err != nil || n < 0 || n > math.MaxInt32 {
		return -1
	}
	return n
}

// Compare orders tensor names by layer, then by name: the order in which
// quantized files have them. Names outside the layers come first.
func Compare(a, b string) int {
	if la, lb := layer(a), layer(b); la != lb {
		return la - lb
	}
	return strings.Compare(a, b)
}
