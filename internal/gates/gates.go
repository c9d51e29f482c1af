// Package gates reads files that say how accurate models must be.
package gates

import (
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/token"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/internal/eval"
)

// maxSize bounds a file of gates.
const maxSize = 1 << 20

// File is a list of patterns, each with gates for the models that it matches.
type File struct{ rules []rule }

type rule struct {
	pattern string // lower case
	gates   []eval.Gate
}

// Read reads a file of gates.
func Read(name string) (*File, error) {
	file, err := formats.OpenRegular(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxSize+1))
	if err == nil && len(data) > maxSize {
		err = fmt.Errorf("a file of gates has at most %d bytes", maxSize)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	f, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return f, nil
}

// Parse reads YAML: a mapping of patterns to mappings of figures to bounds.
//
//	"*":    { ppl_ratio: 1.02 }
//	q2_k*:  { ppl_ratio: 1.2, same_top: 0.8 }
//
// A pattern, as in path.Match but blind to case, is held against the model's
// path, file name and file type; all that match count, and of several bounds for
// one figure the last.
func Parse(data []byte) (*File, error) {
	for _, t := range lexer.Tokenize(string(data)) {
		if t.Type == token.AnchorType || t.Type == token.AliasType {
			// They could make a small file a huge one.
			return nil, fmt.Errorf("line %d: anchors and aliases are not supported; put a pattern that begins with * in quotes", t.Position.Line)
		}
	}
	var doc yaml.MapSlice
	if err := yaml.UnmarshalWithOptions(data, &doc, yaml.UseOrderedMap()); err != nil {
		first, _, _ := strings.Cut(err.Error(), "\n")
		return nil, fmt.Errorf("not the YAML of gates: %s", first)
	}
	f := &File{}
	for _, item := range doc {
		pattern, ok := item.Key.(string)
		figures, ok2 := item.Value.(yaml.MapSlice)
		if !ok || !ok2 {
			return nil, fmt.Errorf("%s: want a pattern with figures and their bounds below it", formats.Quote(fmt.Sprint(item.Key)))
		}
		if _, err := path.Match(pattern, ""); err != nil {
			return nil, fmt.Errorf("pattern %s: %w", formats.Quote(pattern), err)
		}
		r := rule{pattern: strings.ToLower(pattern)}
		for _, fig := range figures {
			g := eval.Gate{Figure: fmt.Sprint(fig.Key)}
			text := fmt.Sprint(fig.Value) // 1e-3 is a string in YAML 1.1
			var err error
			if g.Bound, err = strconv.ParseFloat(text, 64); err != nil {
				return nil, fmt.Errorf("pattern %s: %s: %s is no number", formats.Quote(pattern), formats.Quote(g.Figure), formats.Quote(text))
			}
			if err := g.Validate(); err != nil {
				return nil, fmt.Errorf("pattern %s: %w", formats.Quote(pattern), err)
			}
			r.gates = append(r.gates, g)
		}
		f.rules = append(f.rules, r)
	}
	if len(f.rules) == 0 {
		return nil, errors.New("no gates")
	}
	return f, nil
}

// For returns the gates of a model: file is its path, ftype its file type.
func (f *File) For(file, ftype string) []eval.Gate {
	var gates []eval.Gate
	for _, r := range f.rules {
		if !r.matches(filepath.ToSlash(file)) && !r.matches(filepath.Base(file)) && !r.matches(ftype) {
			continue
		}
		gates = Merge(gates, r.gates)
	}
	return gates
}

func (r *rule) matches(s string) bool {
	ok, _ := path.Match(r.pattern, strings.ToLower(s)) // Parse has seen the pattern
	return ok
}

// All returns every gate of the file, whatever its pattern.
func (f *File) All() []eval.Gate {
	var gates []eval.Gate
	for _, r := range f.rules {
		gates = append(gates, r.gates...)
	}
	return gates
}

// Merge adds gates to a list, replacing those on the same figure.
func Merge(list, add []eval.Gate) []eval.Gate {
	list = slices.Clone(list)
	for _, g := range add {
		if i := slices.IndexFunc(list, func(o eval.Gate) bool { return o.Figure == g.Figure }); i >= 0 {
			list[i] = g
			continue
		}
		list = append(list, g)
	}
	return list
}
