package gguf

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"strconv"

	"github.com/smeltgguf/smelt/formats"
)

// The keys of a split model; all others stand only in its first part.
const (
	keySplitNo      = "split.no"            // u16, from 0
	keySplitCount   = "split.count"         // u16
	keySplitTensors = "split.tensors.count" // i32, of all parts together
)

var splitKeys = []string{keySplitNo, keySplitCount, keySplitTensors}

// SplitName returns the name of part no (from 0) of count:
// name-00001-of-00003.gguf. A .gguf at the end of path is not repeated.
func SplitName(path string, no, count int) string {
	return fmt.Sprintf("%s-%05d-of-%05d.gguf", trimGGUF(path), no+1, count)
}

func trimGGUF(path string) string {
	if filepath.Ext(path) == ".gguf" {
		return path[:len(path)-len(".gguf")]
	}
	return path
}

var splitPattern = regexp.MustCompile(`^(.*)-(\d{5})-of-(\d{5})\.gguf$`)

// SplitPrefix takes the name of a part apart; ok is false for other names. no
// counts from 0.
func SplitPrefix(path string) (prefix string, no, count int, ok bool) {
	m := splitPattern.FindStringSubmatch(path)
	if m == nil {
		return "", 0, 0, false
	}
	no, _ = strconv.Atoi(m[2]) // five digits fit
	count, _ = strconv.Atoi(m[3])
	return m[1], no - 1, count, true
}

type splitInfo struct{ no, count, tensors int }

// splitOf returns what a part says of the split; a file that is not split is
// part 0 of 1.
func splitOf(p *part) (splitInfo, error) {
	s := splitInfo{0, 1, len(p.tensors)}
	if _, ok := p.meta.Get(keySplitCount); !ok {
		return s, nil
	}
	for _, k := range []struct {
		key string
		to  *int
	}{{keySplitNo, &s.no}, {keySplitCount, &s.count}, {keySplitTensors, &s.tensors}} {
		v, err := p.meta.Uint(k.key)
		if err != nil {
			return s, formats.Malformedf(p.name, -1, "%v", err)
		}
		if v > 1<<31-1 {
			return s, formats.Malformedf(p.name, -1, "%s: %d", k.key, v)
		}
		*k.to = int(v)
	}
	if s.no >= max(1, s.count) {
		return s, formats.Malformedf(p.name, -1, "split.no %d of split.count %d", s.no, s.count)
	}
	return s, nil
}

// addSplits opens the other parts of the model whose part path names, and
// checks that they belong together.
func (f *File) addSplits(path string) error {
	p := f.parts[0]
	s, err := splitOf(p)
	if err != nil || s.count <= 1 {
		return err
	}
	prefix, no, count, ok := SplitPrefix(path)
	if !ok {
		return formats.Malformedf(path, -1, "part %d of %d of a split model, but its name does not end in -%05d-of-%05d.gguf", s.no+1, s.count, s.no+1, s.count).
			WithHint("give the parts the names that they were published under")
	}
	if no != s.no || count != s.count {
		return formats.Malformedf(path, -1, "the name says part %d of %d, the file part %d of %d", no+1, count, s.no+1, s.count)
	}
	var parts []*part
	defer func() { f.parts = append(parts, f.parts...) }() // for Close, after an error
	tensors, seen := 0, map[string]string{}
	for i := range s.count {
		q, name := p, SplitName(prefix, i, s.count)
		if i == s.no {
			f.parts = nil
		} else if q, err = openPart(name); errors.Is(err, fs.ErrNotExist) {
			return formats.Malformedf(path, -1, "split %d of %d missing: %v", i+1, s.count, err)
		} else if err != nil {
			return err
		}
		parts = append(parts, q)
		got, err := splitOf(q)
		if err != nil {
			return err
		}
		if got.no != i || got.count != s.count || got.tensors != s.tensors {
			return formats.Malformedf(name, -1, "part %d of %d with %d tensors in all; %s says part %d of %d with %d",
				got.no+1, got.count, got.tensors, path, i+1, s.count, s.tensors)
		}
		tensors += len(q.tensors)
		for _, t := range q.tensors {
			if other, ok := seen[t.Name]; ok {
				return formats.Malformedf(name, -1, "tensor %s is in %s too", formats.Quote(t.Name), other)
			}
			seen[t.Name] = name
		}
	}
	if tensors != s.tensors {
		return formats.Malformedf(path, -1, "%d tensors in %d parts, split.tensors.count is %d", tensors, s.count, s.tensors)
	}
	return nil
}

// SplitOptions bound the parts of a split model; a zero bound is none.
type SplitOptions struct {
	MaxTensors int
	MaxSize    int64 // bytes of tensor data per part
	// NoTensorFirst: the first part holds metadata only.
	NoTensorFirst bool
	// Resplit does what llama-gguf-split does in place of llama.cpp's converter:
	// sizes count the padding, split.count stands last, and a model that fits one
	// part is part 1 of 1.
	Resplit bool
}

// PlanSplit lays out a model as parts, part i of n to be called
// SplitName(path, i, n); where there is only one, it is an ordinary file
// without split keys (but see Resplit).
func PlanSplit(meta *Metadata, tensors []*Tensor, opt SplitOptions) ([]*Layout, error) {
	groups := [][]*Tensor{nil}
	if opt.NoTensorFirst {
		groups = append(groups, nil)
	}
	size := uint64(0)
	for _, t := range tensors {
		last := len(groups) - 1
		n := t.Size()
		if opt.Resplit {
			n = pad(n, defaultAlign)
		}
		full := opt.MaxTensors > 0 && len(groups[last]) >= opt.MaxTensors ||
			opt.MaxSize > 0 && size+n > uint64(opt.MaxSize)
		if full && len(groups[last]) > 0 {
			groups = append(groups, nil)
			last++
			size = 0
		}
		groups[last] = append(groups[last], t)
		size += n
	}
	if len(groups) == 1 && !opt.Resplit {
		l, err := Plan(meta, tensors)
		if err != nil {
			return nil, err
		}
		return []*Layout{l}, nil
	}
	if len(groups) > 1<<16-1 {
		return nil, fmt.Errorf("%d parts: at most %d", len(groups), 1<<16-1)
	}
	seen := make(map[string]bool, len(tensors))
	for _, t := range tensors {
		if seen[t.Name] {
			return nil, fmt.Errorf("duplicate tensor %s", formats.Quote(t.Name))
		}
		seen[t.Name] = true
	}
	var layouts []*Layout
	for i, g := range groups {
		m := SplitMetadata(meta, i, len(groups), len(tensors), opt.Resplit)
		l, err := plan(m, g, true)
		if err != nil {
			return nil, err
		}
		layouts = append(layouts, l)
	}
	return layouts, nil
}

// SplitMetadata returns the metadata of part no (from 0) of count: all of meta
// in the first, and the keys of the split, over tensors in all parts, in each.
// resplit gives the keys the order of SplitOptions.Resplit.
func SplitMetadata(meta *Metadata, no, count, tensors int, resplit bool) *Metadata {
	m := NewMetadata()
	if no == 0 {
		m = meta.Clone()
	} else if a, ok := meta.Get(alignmentKey); ok {
		m.Set(alignmentKey, a) // every part's own data is aligned to it
	}
	for _, k := range splitKeys {
		m.Delete(k)
	}
	m.Set(keySplitNo, uint16(no))
	if resplit {
		m.Set(keySplitTensors, int32(tensors))
	}
	m.Set(keySplitCount, uint16(count))
	if !resplit {
		m.Set(keySplitTensors, int32(tensors))
	}
	return m
}
