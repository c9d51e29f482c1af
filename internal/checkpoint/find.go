package checkpoint

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/formats/safetensors"
	"github.com/smeltgguf/smelt/formats/torch"
)

// fileSet is the files that make up the weights of one checkpoint.
type fileSet struct {
	names    []string // within the folder, sorted
	direct   string   // instead: the one file, as the user named it
	index    string   // the index's name, or ""
	weights  *safetensors.Index
	extra    []string // files of the set's kind that the index does not know
	parallel bool     // each file holds a slice of each tensor
}

// The names of files that come in sets.
var (
	shardName    = regexp.MustCompile(`^(.+)-([0-9]{5})-of-([0-9]{5})\.(safetensors|bin)$`)
	parallelName = regexp.MustCompile(`^consolidated\.([0-9]{2})\.(pth|safetensors)$`)
)

const indexSuffix = ".index.json"

// maxShards bounds the number of files of one checkpoint.
const maxShards = 2000

// locate finds a checkpoint's folder and the files of its weights, if any.
func locate(path string) (*Checkpoint, fileSet, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fileSet{}, pathError(path, err)
	}
	c := &Checkpoint{Path: path}
	dir, name := path, ""
	if !info.IsDir() {
		if !info.Mode().IsRegular() {
			return nil, fileSet{}, formats.Malformedf(path, -1, "not a regular file")
		}
		dir, name = filepath.Dir(path), filepath.Base(path)
	}
	if c.folder, err = openFolder(dir); err != nil {
		return nil, fileSet{}, err
	}
	names, err := list(dir)
	if err != nil {
		return nil, fileSet{}, err
	}
	var set fileSet
	switch {
	case name == "":
		set, err = c.choose(names)
	case strings.HasSuffix(name, indexSuffix):
		set, err = c.readIndex(name, names)
	default:
		set, err = c.setOf(name, names)
		if set.index == "" && len(set.names) == 1 {
			set.direct = path
		}
	}
	return c, set, err
}

// list returns the names in a directory, sorted.
func list(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, pathError(dir, err)
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, pathError(dir, err)
	}
	slices.Sort(names)
	return names, nil
}

// choose finds the weights of a directory. Where they are there in several
// forms, safetensors come before PyTorch files and Hugging Face's layout before
// Meta's.
func (c *Checkpoint) choose(names []string) (fileSet, error) {
	has := func(name string) bool { _, ok := slices.BinarySearch(names, name); return ok }
	for _, base := range []string{"model.safetensors", "pytorch_model.bin", "consolidated.safetensors", "adapter_model.safetensors", "adapter_model.bin"} {
		if has(base) {
			return fileSet{names: []string{base}}, nil
		}
		if has(base + indexSuffix) {
			return c.readIndex(base+indexSuffix, names)
		}
		stem, ext, _ := strings.Cut(base, ".")
		for _, n := range names {
			if m := shardName.FindStringSubmatch(n); m != nil && m[1] == stem && m[4] == ext {
				return c.setOf(n, names)
			}
			if stem == "consolidated" && parallelName.MatchString(n) {
				return c.setOf(n, names)
			}
		}
	}
	// Other names: take what there is, if that leaves no choice.
	var found []string
	for _, n := range names {
		if strings.HasSuffix(n, ".safetensors"+indexSuffix) || strings.HasSuffix(n, ".bin"+indexSuffix) {
			return c.readIndex(n, names)
		}
		switch filepath.Ext(n) {
		case ".safetensors", ".bin", ".pth", ".pt":
			if c.looksLikeWeights(n) {
				found = append(found, n)
			}
		}
	}
	if len(found) == 0 {
		return fileSet{}, nil
	}
	set, err := c.setOf(found[0], names)
	if err != nil {
		return fileSet{}, err
	}
	for _, n := range found {
		if !slices.Contains(set.names, n) {
			return fileSet{}, fmt.Errorf("%s: both %s and %s hold weights: name the one to read", c.folder.dir, formats.Quote(set.names[0]), formats.Quote(n))
		}
	}
	return set, nil
}

// looksLikeWeights reports whether the file starts like one of weights.
func (c *Checkpoint) looksLikeWeights(name string) bool {
	path, err := c.folder.path(name)
	if err != nil {
		return false
	}
	f, _, err := openRegular(path)
	if err != nil {
		return false
	}
	defer f.Close()
	var b [16]byte
	n, _ := f.ReadAt(b[:], 0)
	return safetensors.IsHeader(b[:n]) || bytes.HasPrefix(b[:n], []byte("PK\x03\x04")) || bytes.HasPrefix(b[:n], []byte{0x80, 2, 0x8a})
}

// setOf returns the set that the file name belongs to.
func (c *Checkpoint) setOf(name string, names []string) (fileSet, error) {
	if m := shardName.FindStringSubmatch(name); m != nil {
		index := m[1] + "." + m[4] + indexSuffix
		if _, ok := slices.BinarySearch(names, index); ok {
			return c.readIndex(index, names)
		}
		n, _ := strconv.Atoi(m[3])
		if n < 1 || n > maxShards {
			return fileSet{}, formats.Malformedf(c.File(name), -1, "name says that there are %d shards", n)
		}
		var set fileSet
		for i := range n {
			set.names = append(set.names, fmt.Sprintf("%s-%05d-of-%s.%s", m[1], i+1, m[3], m[4]))
		}
		return set, nil
	}
	if m := parallelName.FindStringSubmatch(name); m != nil {
		last := 0
		for _, n := range names {
			if o := parallelName.FindStringSubmatch(n); o != nil && o[2] == m[2] {
				i, _ := strconv.Atoi(o[1])
				last = max(last, i)
			}
		}
		set := fileSet{parallel: true}
		for i := range last + 1 {
			set.names = append(set.names, fmt.Sprintf("consolidated.%02d.%s", i, m[2]))
		}
		return set, nil
	}
	return fileSet{names: []string{name}}, nil
}

// readIndex returns the set that an index describes.
func (c *Checkpoint) readIndex(name string, names []string) (fileSet, error) {
	path, err := c.folder.path(name)
	if err != nil {
		return fileSet{}, err
	}
	f, _, err := openRegular(path)
	if err != nil {
		return fileSet{}, err
	}
	defer f.Close()
	var head [64]byte
	n, _ := f.ReadAt(head[:], 0)
	if err := formats.NotDownloaded(head[:n], path); err != nil {
		return fileSet{}, err
	}
	ix, err := safetensors.ReadIndex(f, path)
	if err != nil {
		return fileSet{}, err
	}
	if len(ix.Files) > maxShards {
		return fileSet{}, formats.Malformedf(path, -1, "%d shards, more than %d", len(ix.Files), maxShards)
	}
	set := fileSet{names: ix.Files, index: name, weights: ix}
	m := shardName.FindStringSubmatch(ix.Files[0])
	for _, n := range names {
		o := shardName.FindStringSubmatch(n)
		if _, known := slices.BinarySearch(ix.Files, n); m != nil && o != nil && !known && o[1] == m[1] && o[4] == m[4] {
			set.extra = append(set.extra, n)
		}
	}
	return set, nil
}

// missing is the error for a file of the set that is not there.
func (s *fileSet) missing(dir, name string) error {
	if s.weights == nil {
		return formats.Malformedf(dir, -1, "missing shard %s", name)
	}
	n := 0
	for _, file := range s.weights.Tensors {
		if file == name {
			n++
		}
	}
	return formats.Malformedf(filepath.Join(dir, s.index), -1, "missing shard %s (%d tensors)", formats.Quote(name), n)
}

// check compares what the files hold with what the index says.
func (s *fileSet) check(dir string, parts []*part) error {
	if s.weights == nil {
		return nil
	}
	index := filepath.Join(dir, s.index)
	seen := make(map[string]string, len(s.weights.Tensors))
	for i, p := range parts {
		for _, t := range p.tensors {
			q := formats.Quote(t.Name)
			want, ok := s.weights.Tensors[t.Name]
			if other, twice := seen[t.Name]; twice {
				return formats.Malformedf(index, -1, "tensor %s in %s and %s", q, other, s.names[i])
			}
			if !ok {
				return formats.Malformedf(index, -1, "tensor %s of %s not in index", q, s.names[i])
			}
			seen[t.Name] = s.names[i]
			if want != s.names[i] && !slices.ContainsFunc(parts[i+1:], func(p *part) bool {
				return slices.ContainsFunc(p.tensors, func(o Tensor) bool { return o.Name == t.Name })
			}) {
				return formats.Malformedf(index, -1, "tensor %s is in %s, not in %s", q, s.names[i], formats.Quote(want))
			}
		}
	}
	if len(seen) < len(s.weights.Tensors) {
		var lost []string
		for name := range s.weights.Tensors {
			if _, ok := seen[name]; !ok {
				lost = append(lost, name)
			}
		}
		name := slices.Min(lost)
		return formats.Malformedf(index, -1, "tensor %s not in %s (%d missing)", formats.Quote(name), s.weights.Tensors[name], len(lost))
	}
	if len(s.extra) > 0 {
		return formats.Malformedf(index, -1, "shard %s not in index", formats.Quote(s.extra[0]))
	}
	return nil
}

// part is one file of weights.
type part struct {
	in      *input
	tensors []Tensor
	verify  func() error // of the format's checksums; may be nil
}

// openPart opens a file and reads what it holds, by its content.
func openPart(path string) (p *part, err error) {
	in, err := openInput(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			in.f.Close()
		}
	}()
	head := make([]byte, min(512, in.info.Size()))
	if _, err := in.ReadAt(head, 0); err != nil {
		return nil, err
	}
	if err := formats.NotDownloaded(head, path); err != nil {
		return nil, err
	}
	if bytes.HasPrefix(head, []byte("GGUF")) {
		return nil, formats.Unsupportedf(path, -1, "this is a GGUF file, not a checkpoint").WithHint("quantize reads it")
	}
	if safetensors.IsHeader(head) {
		return openSafetensors(in)
	}
	switch filepath.Ext(path) {
	case ".bin", ".pth", ".pt", ".ckpt":
		return openTorch(in)
	}
	if torch.IsFile(head) {
		return openTorch(in)
	}
	return openSafetensors(in)
}

func openTorch(in *input) (*part, error) {
	f, err := torch.Read(in, in.info.Size(), in.name)
	if err != nil {
		return nil, err
	}
	p := &part{in: in, verify: f.Verify}
	for i := range f.Tensors {
		t := &f.Tensors[i]
		x := Tensor{Name: t.Name, Shape: t.Shape, DType: t.DType, File: in.name, Rows: newStrided(t)}
		if t.Contiguous() {
			m := matrixOf(t.TensorInfo)
			x.Rows = &flat{m, t.Storage, int64(t.Start) * int64(m.typ.BlockSize())}
		}
		p.tensors = append(p.tensors, x)
	}
	return p, nil
}

func openSafetensors(in *input) (*part, error) {
	ts, err := safetensors.ReadHeader(in, in.info.Size(), in.name)
	if err != nil {
		return nil, err
	}
	p := &part{in: in}
	for _, t := range ts {
		p.tensors = append(p.tensors, Tensor{
			Name: t.Name, Shape: t.Shape, DType: t.DType, File: in.name,
			Rows: &flat{matrixOf(t.TensorInfo), in, t.Offset},
		})
	}
	return p, nil
}
