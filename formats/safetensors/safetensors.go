// Package safetensors reads the headers of safetensors files and the index of
// a checkpoint that is divided among several.
//
// Format: https://github.com/huggingface/safetensors#format: eight bytes with
// the header's length (little-endian), a JSON object that gives each tensor's
// element type, shape and range of the data, then the data, every byte of which
// belongs to exactly one tensor.
//
// github.com/nlpodyssey/safetensors is what this package is tested against and
// what writes files here. It does not serve for reading checkpoints: it wants
// the whole file in memory, keeps the last of duplicate keys, takes a header's
// size many times over, and does not know the 8- and 4-bit element types, so
// that a file that merely holds one could not be read at all.
package safetensors

import (
	"cmp"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"math/bits"
	"slices"
	"strings"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/formats/strictjson"
)

const (
	// maxHeader is the format's limit on the header, in bytes.
	maxHeader = 100_000_000
	// maxRank is the number of dimensions that PyTorch allows.
	maxRank = 64
)

// Tensor is one tensor of a file: Size bytes from Offset of the file on, in C
// order, little-endian.
type Tensor struct {
	formats.TensorInfo
	Offset, Size int64
}

// IsHeader reports whether b, the first bytes of a file (9 or more), can be
// those of a safetensors file.
func IsHeader(b []byte) bool {
	return len(b) >= 9 && b[8] == '{' && b[6] == 0 && b[7] == 0
}

// ReadHeader reads and checks the header of the file r of size bytes and
// returns its tensors sorted by name. name stands for the file in errors, which
// are of type *formats.FormatError unless reading failed.
func ReadHeader(r io.ReaderAt, size int64, name string) ([]Tensor, error) {
	var head [8]byte
	if n := min(size, 8); n > 0 {
		if _, err := r.ReadAt(head[:n], 0); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
	}
	if size < 8 {
		return nil, formats.Malformedf(name, 0, "header length truncated: %d of 8 bytes", size)
	}
	n := binary.LittleEndian.Uint64(head[:])
	if n > uint64(size) {
		return nil, formats.Malformedf(name, 0, "header %d > file %d", n, size)
	}
	if n > maxHeader {
		return nil, formats.Malformedf(name, 0, "header exceeds 100 MB: %d bytes", n)
	}
	if n > uint64(size)-8 {
		return nil, formats.Malformedf(name, 0, "header truncated: %d of %d bytes", size-8, n)
	}
	var text strings.Builder
	text.Grow(int(n))
	if _, err := io.Copy(&text, io.NewSectionReader(r, 8, int64(n))); err != nil {
		return nil, err
	}
	if uint64(text.Len()) != n {
		return nil, formats.Malformedf(name, 8, "header truncated: %d of %d bytes", text.Len(), n)
	}
	h := header{file: name, d: strictjson.NewDecoder(name, text.String(), 8), start: int64(8 + n), data: uint64(size) - 8 - n}
	if err := h.parse(text.String()); err != nil {
		return nil, err
	}
	return h.tensors, nil
}

// errOverfull ends the reading of a header whose tensors overlap.
var errOverfull = errors.New("tensors overlap")

type header struct {
	file    string
	d       *strictjson.Decoder
	start   int64  // of the data
	data    uint64 // bytes of it
	claimed uint64 // by the tensors so far
	tensors []Tensor
}

func (h *header) parse(text string) error {
	d := h.d
	if err := d.CheckUTF8("header"); err != nil {
		return err
	}
	if !strings.HasPrefix(text, "{") {
		return d.Errorf("header is no JSON object")
	}
	// An entry has at least 50 bytes, so that this is less than the header.
	h.tensors = make([]Tensor, 0, strings.Count(text, `"data_offsets"`))
	metadata := false
	err := d.LongObject(func(key string) error {
		if key == "__metadata__" {
			if metadata {
				return d.Errorf("duplicate key %q", key)
			}
			metadata = true
			return h.metadata()
		}
		t, err := h.entry(key)
		if err != nil {
			return err
		}
		h.tensors = append(h.tensors, t)
		// Ranges that together are larger than the data overlap somewhere:
		// there is no need to read on, and no end to what could be claimed.
		if h.claimed += uint64(t.Size); h.claimed > h.data {
			return errOverfull
		}
		return nil
	})
	if err == nil {
		err = d.End()
	}
	if err != nil && !errors.Is(err, errOverfull) {
		return err
	}
	return h.check()
}

// metadata checks __metadata__; nothing in it concerns the tensors.
func (h *header) metadata() error {
	if h.d.Peek() != '{' {
		return h.d.Errorf("metadata must be strings: __metadata__ is no object")
	}
	return h.d.Object(func(key string) error {
		if h.d.Peek() != '"' {
			return h.d.Errorf("metadata must be strings: %s is not", formats.Quote(key))
		}
		_, err := h.d.String()
		return err
	})
}

// entry reads what the header says about one tensor.
func (h *header) entry(name string) (Tensor, error) {
	d, q := h.d, formats.Quote(name)
	t := Tensor{TensorInfo: formats.TensorInfo{Name: name}}
	var dtype string
	var dims [maxRank]int
	rank, elems := -1, uint64(1)
	var offsets [2]uint64
	noff := -1
	if d.Peek() != '{' {
		return t, d.Errorf("tensor %s: want an object", q)
	}
	err := d.Object(func(key string) (err error) {
		switch key {
		case "dtype":
			if d.Peek() != '"' {
				return d.Errorf("tensor %s: dtype is no string", q)
			}
			dtype, err = d.String()
			return err
		case "shape":
			if d.Peek() != '[' {
				return d.Errorf("tensor %s: shape is no list", q)
			}
			rank = 0
			return d.Array(func() error {
				n, err := d.Uint()
				if err != nil {
					return d.Errorf("tensor %s: bad shape", q)
				}
				if rank >= maxRank {
					return d.Errorf("tensor %s: more than %d dimensions", q, maxRank)
				}
				hi, lo := bits.Mul64(elems, n)
				if hi != 0 || n > math.MaxInt64 {
					return d.Errorf("tensor %s: shape overflows", q)
				}
				dims[rank], elems = int(n), lo
				rank++
				return nil
			})
		case "data_offsets":
			noff = 0
			if d.Peek() != '[' {
				return d.Errorf("tensor %s: bad data_offsets", q)
			}
			return d.Array(func() error {
				n, err := d.Uint()
				if err != nil || noff >= 2 {
					return d.Errorf("tensor %s: bad data_offsets", q)
				}
				offsets[noff] = n
				noff++
				return nil
			})
		}
		return d.Errorf("tensor %s: unknown key %s", q, formats.Quote(key))
	})
	if err != nil {
		return t, err
	}
	switch {
	case dtype == "":
		return t, d.Errorf("tensor %s: dtype missing", q)
	case rank < 0:
		return t, d.Errorf("tensor %s: shape missing", q)
	case noff != 2 || offsets[0] > offsets[1]:
		return t, d.Errorf("tensor %s: bad data_offsets", q)
	}
	var ok bool
	if t.DType, ok = formats.ParseDType(dtype); !ok {
		return t, formats.Unsupportedf(h.file, -1, "tensor %s: dtype %s unsupported", q, strings.Trim(formats.Quote(dtype), `"`))
	}
	hi, n := bits.Mul64(elems, uint64(t.DType.Bits()))
	if hi != 0 || elems > math.MaxInt64 {
		return t, d.Errorf("tensor %s: shape overflows", q)
	}
	if n%8 != 0 {
		return t, d.Errorf("tensor %s: %d elements of %v are no whole number of bytes", q, elems, t.DType)
	}
	if has := offsets[1] - offsets[0]; n/8 != has {
		return t, d.Errorf("tensor %s: needs %d bytes, has %d", q, n/8, has)
	}
	if offsets[1] > h.data {
		return t, formats.Malformedf(h.file, -1, "tensor %s [%d,%d) exceeds the file's %d bytes of data", q, offsets[0], offsets[1], h.data).
			WithHint("the file is cut short: download it again")
	}
	t.Offset, t.Size = h.start+int64(offsets[0]), int64(n/8)
	if rank > 0 {
		t.Shape = slices.Clone(dims[:rank])
	}
	return t, nil
}

// check sorts the tensors and looks at them together: no name twice, no byte
// of the data twice or not at all.
func (h *header) check() error {
	ts := h.tensors
	slices.SortFunc(ts, func(a, b Tensor) int { return strings.Compare(a.Name, b.Name) })
	order := make([]int32, len(ts))
	for i := range ts {
		order[i] = int32(i)
		if i > 0 && ts[i-1].Name == ts[i].Name {
			return formats.Malformedf(h.file, -1, "duplicate key %s", formats.Quote(ts[i].Name))
		}
	}
	slices.SortFunc(order, func(a, b int32) int {
		return cmp.Or(cmp.Compare(ts[a].Offset, ts[b].Offset), cmp.Compare(ts[a].Size, ts[b].Size))
	})
	end, last := h.start, ""
	for _, i := range order {
		t := &ts[i]
		if t.Offset < end {
			return formats.Malformedf(h.file, -1, "offsets overlap: tensors %s and %s", formats.Quote(last), formats.Quote(t.Name))
		}
		if t.Offset > end {
			break
		}
		end, last = t.Offset+t.Size, t.Name
	}
	if missing := uint64(end - h.start); missing != h.data {
		return formats.Malformedf(h.file, end, "data not fully covered: byte %d of %d belongs to no tensor", missing, h.data)
	}
	return nil
}

// maxIndex bounds the size of an index, in bytes: ten times that of the
// largest published.
const maxIndex = 64 << 20

// Index is a model.safetensors.index.json (pytorch_model.bin.index.json has the
// same form): which file each tensor is in.
type Index struct {
	Files   []string          // sorted
	Tensors map[string]string // tensor name to file name
}

// ReadIndex reads an index; name stands for it in errors.
func ReadIndex(r io.Reader, name string) (*Index, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxIndex+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxIndex {
		return nil, formats.Unsupportedf(name, -1, "index larger than %d bytes", maxIndex)
	}
	d := strictjson.NewDecoder(name, string(data), 0)
	if err := d.CheckUTF8("index"); err != nil {
		return nil, err
	}
	if d.Peek() != '{' {
		return nil, d.Errorf("index is no JSON object")
	}
	// An entry takes more memory than text: its part of the map.
	ix := &Index{}
	maxEntries := 1<<18 + len(data)/64
	files := map[string]string{} // each name once, however often it is read
	err = d.Object(func(key string) error {
		if key != "weight_map" {
			_, err := d.Value()
			return err
		}
		if d.Peek() != '{' {
			return d.Errorf("weight_map is no object")
		}
		ix.Tensors = map[string]string{}
		return d.LongObject(func(key string) error {
			if _, ok := ix.Tensors[key]; ok {
				return d.Errorf("duplicate key %s", formats.Quote(key))
			}
			if len(ix.Tensors) >= maxEntries {
				return d.Errorf("weight_map has too many entries")
			}
			if d.Peek() != '"' {
				return d.Errorf("weight_map: tensor %s: want a file name", formats.Quote(key))
			}
			file, err := d.String()
			if err != nil {
				return err
			}
			name, ok := files[file]
			if !ok {
				// Readers on other systems take a backslash or a colon for more.
				if file == "" || file == "." || file == ".." || strings.ContainsAny(file, "/\\:\x00") {
					return d.Errorf("shard name not local: %s", formats.Quote(file))
				}
				name = file
				files[file] = name
				ix.Files = append(ix.Files, name)
			}
			ix.Tensors[key] = name
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	if err := d.End(); err != nil {
		return nil, err
	}
	if len(ix.Tensors) == 0 {
		return nil, formats.Malformedf(name, -1, "weight_map missing or empty")
	}
	slices.Sort(ix.Files)
	return ix, nil
}
