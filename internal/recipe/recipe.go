// Package recipe decides which type each tensor of a quantized file gets. The
// decisions are data: recipes.txt holds a table of rules per ftype, people may
// write their own in the same form, and one engine evaluates both.
package recipe

import (
	_ "embed"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/quant"
)

// Recipe is the table of one ftype.
type Recipe struct {
	Name     string
	FileType uint32     // general.file_type of the output
	Base     quant.Type // where no rule fits
	// NeedImportance lists types that this recipe refuses to make without an
	// importance matrix, in addition to those that always need one.
	NeedImportance []quant.Type
	Rules          []Rule // the first that fits decides
}

// Rule gives a type to tensors of certain kinds, or of matching names, where
// all conditions hold.
type Rule struct {
	Kinds   []Kind   // empty if Pattern is set
	Pattern *Pattern // of the tensor's name; nil if Kinds is set
	Where   []Cond
	Type    quant.Type
}

//go:embed recipes.txt
var builtinText string

var builtin = sync.OnceValue(func() []*Recipe {
	rs, err := parseAll("recipes.txt", builtinText, nil)
	if err != nil {
		panic(err)
	}
	return rs
})

// Builtin returns the built-in recipes, from the widest to the narrowest.
// Callers do not change them.
func Builtin() []*Recipe { return builtin() }

// aliases are names that llama.cpp's users know for a recipe.
var aliases = map[string]string{"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M", "MXFP4": "MXFP4_MOE"}

// Find returns the built-in recipe with a name, in any case, an alias such as
// Q4_K, or a file type's number.
func Find(name string) (*Recipe, error) {
	up := strings.ToUpper(name)
	if a, ok := aliases[up]; ok {
		up = a
	}
	number, numErr := strconv.ParseUint(name, 10, 32)
	for _, r := range builtin() {
		if r.Name == up || numErr == nil && uint64(r.FileType) == number {
			return r, nil
		}
	}
	return nil, fmt.Errorf("unknown type %s; known are %s", formats.Quote(name), strings.Join(Names(), ", "))
}

// Names lists the built-in recipes.
func Names() []string {
	var names []string
	for _, r := range builtin() {
		names = append(names, r.Name)
	}
	return names
}

// needImportance are the types that come out as garbage without an importance
// matrix (llama.cpp refuses them as well).
var needImportance = map[quant.Type]bool{
	quant.IQ1_S: true, quant.IQ1_M: true,
	quant.IQ2_XXS: true, quant.IQ2_XS: true, quant.IQ2_S: true,
	quant.IQ3_XXS: true,
}

func (r *Recipe) needsImportance(t quant.Type) bool {
	if needImportance[t] {
		return true
	}
	for _, n := range r.NeedImportance {
		if n == t {
			return true
		}
	}
	return false
}
