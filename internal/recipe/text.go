package recipe

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/quant"
)

// Limits of a recipe file: far above what anyone writes by hand.
const (
	maxText  = 1 << 20
	maxRules = 10_000
)

// Pattern is a regular expression on a tensor's name, found anywhere in it.
type Pattern struct{ *regexp.Regexp }

// Parse reads a recipe of one's own. file is the name that errors show. The
// text holds lines, in this order:
//
//	recipe NAME                 the name, which {ftype} in a file name stands for
//	like BUILTIN                optional: take what is missing here from that recipe
//	file_type N                 general.file_type; may be left out after like
//	base TYPE                   may be left out after like
//	need_importance TYPE...     optional: types refused without an importance matrix
//	KIND[,KIND...] [CONDITION...] -> TYPE
//	/REGEXP/ [CONDITION...] -> TYPE
//
// A # starts a comment where a word could start. The rules of the recipe named
// by like come after those of the file.
func Parse(file, text string) (*Recipe, error) {
	rs, err := parseAll(file, text, builtin())
	if err != nil {
		return nil, err
	}
	if len(rs) != 1 {
		return nil, formats.Malformedf(file, -1, "holds %d recipes, expected one", len(rs))
	}
	return rs[0], nil
}

// parser reads recipes; known are those that like may name.
type parser struct {
	file  string
	line  int
	known []*Recipe

	out  []*Recipe
	cur  *Recipe
	like *Recipe
	seen map[string]bool // directives of cur
}

func parseAll(file, text string, known []*Recipe) ([]*Recipe, error) {
	if len(text) > maxText {
		return nil, formats.Malformedf(file, -1, "a recipe of %d bytes; at most %d are read", len(text), maxText)
	}
	if !utf8.ValidString(text) {
		return nil, formats.Malformedf(file, -1, "not UTF-8 text")
	}
	p := parser{file: file, known: known}
	for line := range strings.Lines(text) {
		p.line++
		if err := p.read(fields(line)); err != nil {
			return nil, err
		}
	}
	if err := p.finish(); err != nil {
		return nil, err
	}
	return p.out, nil
}

func (p *parser) errorf(format string, args ...any) error {
	return formats.Malformedf(fmt.Sprintf("%s:%d", p.file, p.line), -1, format, args...)
}

// fields splits a line into words and leaves out the comment.
func fields(line string) []string {
	f := strings.Fields(line)
	for i, w := range f {
		if strings.HasPrefix(w, "#") {
			return f[:i]
		}
	}
	return f
}

func (p *parser) read(f []string) error {
	if len(f) == 0 {
		return nil
	}
	if f[0] == "recipe" {
		if err := p.finish(); err != nil {
			return err
		}
		if len(f) != 2 {
			return p.errorf("recipe wants one name")
		}
		if !validName(f[1]) {
			return p.errorf("recipe name %s: want letters, digits, '_', '-' and '.', at most 64", formats.Quote(f[1]))
		}
		p.cur, p.like, p.seen = &Recipe{Name: f[1]}, nil, map[string]bool{}
		return nil
	}
	if p.cur == nil {
		return p.errorf("expected 'recipe NAME', found %s", formats.Quote(f[0]))
	}
	if i := slices.Index(f, "->"); i >= 0 {
		return p.rule(f[:i], f[i+1:])
	}
	if len(p.cur.Rules) > 0 {
		return p.errorf("expected a rule '... -> TYPE', found %s", formats.Quote(strings.Join(f, " ")))
	}
	if p.seen[f[0]] {
		return p.errorf("%s is given twice", formats.Quote(f[0]))
	}
	p.seen[f[0]] = true
	return p.directive(f[0], f[1:])
}

func (p *parser) directive(word string, args []string) error {
	if word == "need_importance" {
		for _, a := range args {
			t, err := p.encodable(a)
			if err != nil {
				return err
			}
			p.cur.NeedImportance = append(p.cur.NeedImportance, t)
		}
		return nil
	}
	if len(args) != 1 {
		return p.errorf("%s wants one value, has %d", formats.Quote(word), len(args))
	}
	switch word {
	case "file_type":
		n, err := strconv.ParseUint(args[0], 10, 32)
		if err != nil {
			return p.errorf("file_type %s: want a number", formats.Quote(args[0]))
		}
		p.cur.FileType = uint32(n)
	case "base":
		t, err := p.encodable(args[0])
		if err != nil {
			return err
		}
		p.cur.Base = t
	case "like":
		for _, r := range p.known {
			if strings.EqualFold(r.Name, args[0]) {
				p.like = r
				return nil
			}
		}
		return p.errorf("like %s: no built-in recipe of that name", formats.Quote(args[0]))
	default:
		return p.errorf("unknown word %s", formats.Quote(word))
	}
	return nil
}

// encodable reads the name of a type that tensors may be given.
func (p *parser) encodable(name string) (quant.Type, error) {
	t, err := quant.ParseType(name)
	if err != nil || !Target(t) {
		return 0, p.errorf("%s is no type that tensors can be quantized to", formats.Quote(name))
	}
	return t, nil
}

func (p *parser) rule(left, right []string) error {
	if len(left) == 0 || len(right) != 1 {
		return p.errorf("a rule is 'TENSORS [CONDITION...] -> TYPE'")
	}
	if len(p.cur.Rules) == maxRules {
		return p.errorf("more than %d rules", maxRules)
	}
	var r Rule
	var err error
	if r.Type, err = p.encodable(right[0]); err != nil {
		return err
	}
	if re, ok := strings.CutPrefix(left[0], "/"); ok {
		re, ok = strings.CutSuffix(re, "/")
		if !ok || re == "" {
			return p.errorf("pattern %s: want /REGEXP/ without spaces", formats.Quote(left[0]))
		}
		if r.Pattern, err = ParsePattern(re); err != nil {
			return p.errorf("%w", err)
		}
	} else {
		for _, name := range strings.Split(left[0], ",") {
			k, ok := kindByName(name)
			if !ok {
				return p.errorf("unknown kind of tensor %s; kinds are %s", formats.Quote(name), strings.Join(kindNames[:], ", "))
			}
			r.Kinds = append(r.Kinds, k)
		}
	}
	for _, w := range left[1:] {
		c, err := parseCond(w)
		if err != nil {
			return p.errorf("%w", err)
		}
		r.Where = append(r.Where, c)
	}
	p.cur.Rules = append(p.cur.Rules, r)
	return nil
}

// finish completes the recipe that was being read.
func (p *parser) finish() error {
	r := p.cur
	if r == nil {
		return nil
	}
	if p.like != nil {
		if !p.seen["base"] {
			r.Base = p.like.Base
		}
		if !p.seen["file_type"] {
			r.FileType = p.like.FileType
		}
		if !p.seen["need_importance"] {
			r.NeedImportance = p.like.NeedImportance
		}
		r.Rules = append(r.Rules, p.like.Rules...)
	} else {
		for _, want := range []string{"file_type", "base"} {
			if !p.seen[want] {
				return p.errorf("recipe %s has no %s", formats.Quote(r.Name), want)
			}
		}
	}
	p.out = append(p.out, r)
	p.cur = nil
	return nil
}

func validName(s string) bool {
	for _, c := range s {
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.ContainsRune("_-.", c)) {
			return false
		}
	}
	return len(s) <= 64 && s != "" && s[0] != '.'
}

// ParsePattern compiles a regular expression on tensor names.
func ParsePattern(expr string) (*Pattern, error) {
	re, err := regexp.Compile(expr)
	if err != nil {
		return nil, fmt.Errorf("pattern %s: %s (Go's regular expressions have no look-around and no back references)", formats.Quote(expr), reason(err))
	}
	return &Pattern{re}, nil
}

// reason leaves the expression out of a regexp error.
func reason(err error) string {
	msg := strings.TrimPrefix(err.Error(), "error parsing regexp: ")
	msg, _, _ = strings.Cut(msg, ": `")
	return msg
}

// String returns the recipe in the form that Parse reads.
func (r *Recipe) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "recipe %s\nfile_type %d\nbase %s\n", r.Name, r.FileType, r.Base)
	if len(r.NeedImportance) > 0 {
		b.WriteString("need_importance")
		for _, t := range r.NeedImportance {
			fmt.Fprintf(&b, " %s", t)
		}
		b.WriteByte('\n')
	}
	for _, rule := range r.Rules {
		b.WriteString(rule.String())
		b.WriteByte('\n')
	}
	return b.String()
}

// String returns the rule as one line, its columns aligned with those of the
// other rules.
func (r *Rule) String() string {
	var what string
	if r.Pattern != nil {
		what = "/" + r.Pattern.String() + "/"
	} else {
		names := make([]string, len(r.Kinds))
		for i, k := range r.Kinds {
			names[i] = k.String()
		}
		what = strings.Join(names, ",")
	}
	var where []string
	for _, c := range r.Where {
		where = append(where, c.String())
	}
	return fmt.Sprintf("%-11s %-22s -> %s", what, strings.Join(where, " "), r.Type)
}
