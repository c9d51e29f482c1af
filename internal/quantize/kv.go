package quantize

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/formats/gguf"
	"github.com/smeltgguf/smelt/internal/imatrix"
)

// KV is a metadata key with its value.
type KV struct {
	Key   string
	Value any
	// Negative: Value is a number whose sign was left out.
	Negative bool
}

// ParseKV reads KEY=TYPE:VALUE, where TYPE is int, float, bool or str, as
// llama-quantize does: integers become u32, without their sign, floats f32.
func ParseKV(s string) (KV, error) {
	bad := func(format string, args ...any) (KV, error) {
		return KV{}, fmt.Errorf("%s: %s; want KEY=TYPE:VALUE with type int, float, bool or str", formats.Quote(s), fmt.Sprintf(format, args...))
	}
	key, rest, ok := strings.Cut(s, "=")
	if !ok || key == "" {
		return bad("no key")
	}
	typ, value, ok := strings.Cut(rest, ":")
	if !ok {
		return bad("no type")
	}
	kv := KV{Key: key}
	switch typ {
	case "int":
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil || n < -math.MaxUint32 || n > math.MaxUint32 {
			return bad("no integer of 32 bits")
		}
		kv.Value, kv.Negative = uint32(max(n, -n)), n < 0
	case "float":
		f, err := strconv.ParseFloat(value, 32)
		if err != nil {
			return bad("no number")
		}
		kv.Value = float32(f)
	case "bool":
		if value != "true" && value != "false" {
			return bad("want true or false")
		}
		kv.Value = value == "true"
	case "str":
		if !utf8.ValidString(value) {
			return bad("not UTF-8")
		}
		kv.Value = value
	default:
		return bad("unknown type %s", formats.Quote(typ))
	}
	switch {
	case strings.HasPrefix(key, "split."):
		return KV{}, fmt.Errorf("%s: these keys follow from the files that are written", formats.Quote(s))
	case key == "general.architecture" && (typ != "str" || value == ""):
		return KV{}, fmt.Errorf("%s: an architecture is a str", formats.Quote(s))
	}
	return kv, nil
}

// quantizationVersion is that of ggml's block formats (GGML_QNT_VERSION).
const quantizationVersion = 2

// put sets a key as llama.cpp does: it moves to the end.
func put(m *gguf.Metadata, key string, v any) {
	m.Delete(key)
	m.Set(key, v)
}

// metadata returns the metadata of a quantized file. blocks is the number of
// layers that pruning left, or -1.
func metadata(src *gguf.Metadata, fileType uint32, opt *Options, blocks int) *gguf.Metadata {
	m := src.Clone()
	put(m, "general.quantization_version", uint32(quantizationVersion))
	put(m, "general.file_type", fileType)
	for _, kv := range opt.OverrideKV {
		put(m, kv.Key, kv.Value)
	}
	if im := opt.Imatrix; im != nil {
		// Upstream stores the path as it was given; the rest of it concerns nobody.
		put(m, "quantize.imatrix.file", capped(filepath.Base(opt.ImatrixFile)))
		if len(im.Datasets) > 0 {
			put(m, "quantize.imatrix.dataset", capped(im.Datasets[0]))
		}
		put(m, "quantize.imatrix.entries_count", uint32(im.Len()))
		if im.Chunks > 0 {
			put(m, "quantize.imatrix.chunks_count", im.Chunks)
		}
	}
	if blocks >= 0 {
		put(m, m.Architecture()+".block_count", uint32(blocks))
	}
	return m
}

// capped cuts s to the 127 bytes that llama.cpp has room for, at a character's
// start.
func capped(s string) string {
	const room = 127
	if len(s) <= room {
		return s
	}
	n := room
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// filterImatrix keeps the entries that --include-weights and --exclude-weights
// leave: names that contain one, or none, of the given texts.
func filterImatrix(m *imatrix.Matrix, include, exclude []string) *imatrix.Matrix {
	contains := func(name string, parts []string) bool {
		return slices.ContainsFunc(parts, func(p string) bool { return strings.Contains(name, p) })
	}
	return m.Filter(func(name string) bool {
		return (len(include) == 0 || contains(name, include)) && !contains(name, exclude)
	})
}

// unmatchedFilters returns a note for each text of --include-weights and
// --exclude-weights that no entry's name contains.
func unmatchedFilters(m *imatrix.Matrix, opt *Options) []string {
	var notes []string
	names := m.Names()
	for _, text := range slices.Concat(opt.Include, opt.Exclude) {
		if !slices.ContainsFunc(names, func(name string) bool { return strings.Contains(name, text) }) {
			flag := "--include-weights"
			if slices.Contains(opt.Exclude, text) {
				flag = "--exclude-weights"
			}
			notes = append(notes, fmt.Sprintf("%s %s matches no entry of the importance matrix", flag, formats.Quote(text)))
		}
	}
	return notes
}
