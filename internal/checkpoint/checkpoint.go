// Package checkpoint presents a directory or file of any input format as one
// ordered set of named, lazily read tensors and the configuration files beside
// them.
package checkpoint

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/formats/strictjson"
	"github.com/smeltgguf/smelt/internal/stream"
)

// Layout names the conventions that a checkpoint's tensor names and weights
// follow.
type Layout uint8

const (
	// HuggingFace: config.json; q and k rows in rotate-half order.
	HuggingFace Layout = iota + 1
	// Meta: params.json; q and k rows interleaved, model-parallel shards joined.
	Meta
)

func (l Layout) String() string {
	switch l {
	case HuggingFace:
		return "Hugging Face"
	case Meta:
		return "Meta"
	}
	return "unknown"
}

// Tensor is one tensor of a checkpoint.
type Tensor struct {
	Name  string
	Shape []int // outermost dimension first; nil for a scalar
	// DType is the element type in the file.
	DType formats.DType
	// Rows reads the elements in logical order (whatever strides, shards or
	// records they come from); the last dimension is the row. Its type is F64,
	// F32, F16 or BF16, or for other element types an integer of the same width
	// (I8 for what takes less than a byte), as which the bytes are passed on.
	stream.Rows
	// File is where the tensor stands, for messages; the first of several.
	File string
}

// Weights returns an error if the elements are no floats that can be
// converted.
func (t *Tensor) Weights() error {
	switch t.DType {
	case formats.F64, formats.F32, formats.F16, formats.BF16:
		return nil
	}
	if t.Rows.Type().BlockLen() > 1 {
		return nil
	}
	return formats.Unsupportedf(t.File, -1, "tensor %s: dtype %v unsupported", formats.Quote(t.Name), t.DType)
}

// Checkpoint is an opened checkpoint. Its methods may be called concurrently.
type Checkpoint struct {
	Path    string // as given
	Layout  Layout
	Tensors []Tensor // in the order that llama.cpp's converter sees them

	folder *folder
	parts  []*part
	index  string // the index's path, or ""
	byName map[string]int

	mu      sync.Mutex
	configs []string // paths of the files that ReadFile read
}

// ErrNoWeights is what Open's error wraps where there is nothing that looks
// like weights.
var ErrNoWeights = errors.New("no weights found")

// Open opens the checkpoint at path: a directory, a file of weights, or an
// index. Which files are read is decided by their names, how they are read by
// their content. With a file that is one of several, all are opened.
func Open(path string) (*Checkpoint, error) {
	c, set, err := locate(path)
	if err != nil {
		return nil, err
	}
	if len(set.names) == 0 {
		return nil, fmt.Errorf("%s: %w", path, ErrNoWeights)
	}
	if err := c.open(set); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// OpenConfig opens what Open does, but only its configuration: no weights need
// be there, and Tensors stays empty.
func OpenConfig(path string) (*Checkpoint, error) {
	c, _, err := locate(path)
	if err != nil {
		return nil, err
	}
	c.Layout = HuggingFace
	if !c.has("config.json") && c.has("params.json") {
		c.Layout = Meta
	}
	return c, nil
}

// open reads the headers of the files in set.
func (c *Checkpoint) open(set fileSet) error {
	if set.index != "" {
		c.index = c.File(set.index)
	}
	for _, name := range set.names {
		path := set.direct
		if path == "" {
			var err error
			if path, err = c.folder.path(name); errors.Is(err, fs.ErrNotExist) {
				return set.missing(c.folder.dir, name)
			} else if err != nil {
				return err
			}
		}
		p, err := openPart(path)
		if err != nil {
			return err
		}
		c.parts = append(c.parts, p)
	}
	if err := set.check(c.folder.dir, c.parts); err != nil {
		return err
	}
	c.Layout = HuggingFace
	if c.isMeta() {
		c.Layout = Meta
	}
	if set.parallel && len(c.parts) > 1 {
		var err error
		if c.Tensors, err = c.join(); err != nil {
			return err
		}
	} else {
		for _, p := range c.parts {
			c.Tensors = append(c.Tensors, p.tensors...)
		}
	}
	c.byName = make(map[string]int, len(c.Tensors))
	for i, t := range c.Tensors {
		if j, ok := c.byName[t.Name]; ok {
			return formats.Malformedf(c.folder.dir, -1, "tensor %s in %s and %s", formats.Quote(t.Name),
				filepath.Base(c.Tensors[j].File), filepath.Base(t.File))
		}
		c.byName[t.Name] = i
	}
	return nil
}

// isMeta reports whether the tensors have Meta's names.
func (c *Checkpoint) isMeta() bool {
	return slices.ContainsFunc(c.parts, func(p *part) bool {
		return slices.ContainsFunc(p.tensors, func(t Tensor) bool {
			return t.Name == "tok_embeddings.weight" || t.Name == "layers.0.attention.wq.weight"
		})
	})
}

// has reports whether there is a file of this name beside the weights.
func (c *Checkpoint) has(name string) bool {
	_, err := os.Lstat(filepath.Join(c.folder.dir, name))
	return err == nil
}

// Tensor finds a tensor by its name.
func (c *Checkpoint) Tensor(name string) (*Tensor, bool) {
	i, ok := c.byName[name]
	if !ok {
		return nil, false
	}
	return &c.Tensors[i], true
}

// Files returns the paths of all files that were read so far: weights, index
// and configurations.
func (c *Checkpoint) Files() []string {
	var out []string
	for _, p := range c.parts {
		out = append(out, p.in.name)
	}
	if c.index != "" {
		out = append(out, c.index)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return append(out, c.configs...)
}

// Verify checks that what was read is what the files say and that they did not
// change since they were opened: their sizes and times, and the checksums of
// the records from which elements were read, where the format has them. It is
// to be called after the last read, before the output counts. Parts of a record
// that were not read are read now.
func (c *Checkpoint) Verify() error {
	for _, p := range c.parts {
		if p.verify != nil {
			if err := p.verify(); err != nil {
				return err
			}
		}
		if err := p.in.verify(); err != nil {
			return err
		}
	}
	return nil
}

// Close closes the files.
func (c *Checkpoint) Close() error {
	var errs []error
	for _, p := range c.parts {
		errs = append(errs, p.in.close())
	}
	c.parts = nil
	return errors.Join(errs...)
}

// maxConfig bounds the size of a file that is read as a whole. The largest
// tokenizer.json published has about 35 MB.
const maxConfig = 128 << 20

// File returns the path of a file beside the weights, for messages.
func (c *Checkpoint) File(name string) string { return filepath.Join(c.folder.dir, name) }

// ReadFile reads a file beside the weights: a configuration, a tokenizer. If
// there is none, the error wraps fs.ErrNotExist.
func (c *Checkpoint) ReadFile(name string) ([]byte, error) {
	path, err := c.folder.path(name)
	if err != nil {
		return nil, err
	}
	f, info, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info.Size() > maxConfig {
		return nil, formats.Unsupportedf(path, -1, "file of %d bytes, more than %d", info.Size(), maxConfig)
	}
	data := make([]byte, info.Size())
	if _, err := io.ReadFull(f, data); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, formats.Malformedf(path, -1, "input changed while reading")
		}
		return nil, pathError(path, err)
	}
	if err := formats.NotDownloaded(data[:min(len(data), 512)], path); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Contains(c.configs, path) {
		c.configs = append(c.configs, path)
	}
	return data, nil
}

// foldedConfigs are files whose keys have fixed names: there, two keys that
// differ only in case are one key to some reader.
var foldedConfigs = []string{"config.json", "params.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "adapter_config.json"}

// JSON reads a file that holds a JSON object, strictly; numbers are
// json.Number. If there is none, the error wraps fs.ErrNotExist.
func (c *Checkpoint) JSON(name string) (map[string]any, error) {
	data, err := c.ReadFile(name)
	if err != nil {
		return nil, err
	}
	v, err := strictjson.Parse(c.File(name), data, slices.Contains(foldedConfigs, name))
	if err != nil {
		return nil, err
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, formats.Malformedf(c.File(name), -1, "no JSON object")
	}
	return m, nil
}
