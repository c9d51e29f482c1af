package recipe

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/smeltgguf/smelt/formats"
)

// Cond is one condition of a rule: VARIABLE OPERATOR VALUE without spaces.
//
//	arch=falcon        general.architecture
//	model=70B          the size class in which attn_v is worth more bits (Model.Is70B)
//	gqa>=4             query heads per key-value head
//	experts=8          number of experts, 0 in a dense model
//	imatrix=yes        an importance matrix is given
//	stacked=yes        the tensor stacks matrices (experts): its third dimension is above 1
//	whole_blocks=no    the base type's blocks do not divide the tensor's rows
//	seen<2             tensors of this kind before this one
//	block<2            the number in its name, as in blk.2.attn_q.weight
//	layer<2            its layer as llama.cpp counts them
//	layer<1/8          the same, in the first eighth of all layers; also with block and seen
//	layer=more_bits    in the first eighth, the last eighth, or every third between
//
// = and != work for all variables, < <= > >= for numbers. layer is block in a
// model with experts; in one without, feed-forward matrices are counted instead,
// those left out for which an option chooses the type. seen is out of all
// attn_v tensors for these and out of the number of layers for the rest.
type Cond struct {
	Var, Op, Value string

	num, den int // of a number or fraction
}

type condKind uint8

const (
	isText condKind = iota
	isBool
	isNumber
	isPlace // a number, a fraction of the whole, or more_bits
)

var condVars = map[string]condKind{
	"arch": isText, "model": isText,
	"imatrix": isBool, "stacked": isBool, "whole_blocks": isBool,
	"gqa": isNumber, "experts": isNumber,
	"seen": isPlace, "block": isPlace, "layer": isPlace,
}

// ops are in the order in which they are looked for.
var ops = []string{"!=", "<=", ">=", "=", "<", ">"}

const moreBits = "more_bits"

func (c Cond) String() string { return c.Var + c.Op + c.Value }

func parseCond(s string) (Cond, error) {
	bad := func(format string, args ...any) (Cond, error) {
		return Cond{}, fmt.Errorf("condition %s: %s", formats.Quote(s), fmt.Sprintf(format, args...))
	}
	i := strings.IndexAny(s, "!<>=")
	if i < 0 {
		return bad("want VARIABLE=VALUE")
	}
	c := Cond{Var: s[:i]}
	j := slices.IndexFunc(ops, func(op string) bool { return strings.HasPrefix(s[i:], op) })
	if j < 0 {
		return bad("unknown operator")
	}
	c.Op = ops[j]
	c.Value = s[i+len(c.Op):]
	kind, ok := condVars[c.Var]
	equality := c.Op == "=" || c.Op == "!="
	switch {
	case !ok:
		return bad("unknown variable")
	case kind < isNumber && !equality:
		return bad("%s takes = or !=", c.Var)
	case c.Var == "model" && c.Value != "70B":
		return bad("the only model class is 70B")
	case kind == isText && !validName(c.Value):
		return bad("want a name")
	case kind == isBool && c.Value != "yes" && c.Value != "no":
		return bad("want yes or no")
	case kind < isNumber:
		return c, nil
	case kind == isPlace && c.Value == moreBits:
		if !equality {
			return bad("more_bits takes = or !=")
		}
		return c, nil
	}
	num, den, frac := strings.Cut(c.Value, "/")
	c.den = 1
	var err error
	if c.num, err = number(num); err == nil && frac {
		c.den, err = number(den)
	}
	if err != nil || c.den == 0 || frac && (kind != isPlace || c.den == 1) {
		if kind == isPlace {
			return bad("want a number, a fraction or more_bits")
		}
		return bad("want a number")
	}
	return c, nil
}

// number reads a small decimal number in its shortest form.
func number(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > 1_000_000 || strconv.Itoa(n) != s {
		return 0, fmt.Errorf("not a number")
	}
	return n, nil
}

// holds evaluates the condition for the tensor that e is at.
func (c *Cond) holds(e *env) bool {
	switch c.Var {
	case "arch":
		return (e.model.Arch == c.Value) == (c.Op == "=")
	case "model":
		return e.model.Is70B() == (c.Op == "=")
	case "imatrix":
		return c.yes(e.opt.Importance)
	case "stacked":
		return c.yes(len(e.t.Dims) > 2 && e.t.Dims[2] > 1)
	case "whole_blocks":
		return c.yes(e.whole)
	case "gqa":
		return c.compare(e.model.gqa(), c.num)
	case "experts":
		return c.compare(e.model.Experts, c.num)
	case "seen":
		return c.place(e.seen, e.total)
	case "block":
		n := layer(e.t.Name)
		return n >= 0 && c.place(n, e.layers)
	}
	return e.layer >= 0 && c.place(e.layer, e.layers)
}

func (c *Cond) yes(v bool) bool { return (v == (c.Value == "yes")) == (c.Op == "=") }

// place compares the i-th of n with the condition's place.
func (c *Cond) place(i, n int) bool {
	if c.Value == moreBits {
		more := i < n/8 || i >= 7*n/8 || (i-n/8)%3 == 2
		return more == (c.Op == "=")
	}
	if strings.Contains(c.Value, "/") {
		return c.compare(i, c.num*n/c.den)
	}
	return c.compare(i, c.num)
}

func (c *Cond) compare(a, b int) bool {
	switch c.Op {
	case "=":
		return a == b
	case "!=":
		return a != b
	case "<":
		return a < b
	case "<=":
		return a <= b
	case ">":
		return a > b
	}
	return a >= b
}
