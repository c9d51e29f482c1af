package checkpoint

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/internal/stream"
)

// Meta publishes large models divided for model parallelism: each file holds a
// slice of every matrix (cut along the rows where a layer's outputs were
// divided, along the columns where its inputs were) and a copy of every vector.
// Which is which is fixed by the model's code, github.com/meta-llama/llama
// llama/model.py: ColumnParallelLinear divides outputs, RowParallelLinear (wo,
// w2) inputs. The embedding was divided along the columns up to Llama 2 and
// along the rows from Llama 3 on.

// maxCopied bounds the vectors that are compared among files, in bytes.
const maxCopied = 1 << 24

// join puts the slices of all files together, in the order of the first.
func (c *Checkpoint) join() ([]Tensor, error) {
	names := make([]map[string]int, len(c.parts))
	for i, p := range c.parts {
		names[i] = make(map[string]int, len(p.tensors))
		for j, t := range p.tensors {
			names[i][t.Name] = j
		}
		for _, t := range p.tensors {
			if _, ok := names[0][t.Name]; !ok {
				return nil, formats.Malformedf(t.File, -1, "tensor %s is not in %s", formats.Quote(t.Name), filepath.Base(c.parts[0].in.name))
			}
		}
	}
	var out []Tensor
	for _, t := range c.parts[0].tensors {
		cuts := make([]Tensor, len(c.parts))
		for i, p := range c.parts {
			j, ok := names[i][t.Name]
			if !ok {
				return nil, formats.Malformedf(p.in.name, -1, "tensor %s is missing, but in %s", formats.Quote(t.Name), filepath.Base(t.File))
			}
			cuts[i] = p.tensors[j]
			if a, b := cuts[i], cuts[0]; a.DType != b.DType || fmt.Sprint(a.Shape) != fmt.Sprint(b.Shape) {
				return nil, formats.Malformedf(a.File, -1, "tensor %s is %v %v, but %v %v in %s", formats.Quote(t.Name),
					a.DType, a.Shape, b.DType, b.Shape, filepath.Base(b.File))
			}
		}
		whole, err := c.joinTensor(cuts)
		if err != nil {
			return nil, err
		}
		out = append(out, whole)
	}
	return out, nil
}

// joinTensor joins the slices of one tensor, which are of equal shape.
func (c *Checkpoint) joinTensor(cuts []Tensor) (Tensor, error) {
	t := cuts[0]
	if len(t.Shape) < 2 {
		return t, equalCopies(cuts)
	}
	if len(t.Shape) > 2 {
		return t, formats.Unsupportedf(t.File, -1, "tensor %s of shape %v: how its slices are joined is not known", formats.Quote(t.Name), t.Shape)
	}
	n, rows, cols := len(cuts), t.Shape[0], t.Shape[1]
	wide := false
	switch base := strings.TrimSuffix(t.Name, ".weight"); {
	case base == "tok_embeddings":
		dim, err := c.dim()
		if err != nil {
			return t, err
		}
		switch dim {
		case cols:
		case cols * n:
			wide = true
		default:
			return t, formats.Malformedf(t.File, -1, "tensor %s is %v in each of %d files, params.json has dim %d", formats.Quote(t.Name), t.Shape, n, dim)
		}
	case strings.HasSuffix(base, ".wo"), strings.HasSuffix(base, ".w2"):
		wide = true
	}
	parts := make([]stream.Rows, n)
	for i := range cuts {
		parts[i] = cuts[i].Rows
	}
	m := matrix{t.Type(), cols, rows * n}
	t.Shape = []int{rows * n, cols}
	t.Rows = &stacked{m, parts}
	if wide {
		m = matrix{t.Type(), cols * n, rows}
		t.Shape = []int{rows, cols * n}
		t.Rows = &sideBySide{m, parts}
	}
	return t, nil
}

// dim returns the width of the model as params.json has it.
func (c *Checkpoint) dim() (int, error) {
	params, err := c.JSON("params.json")
	if err != nil {
		return 0, err
	}
	file := c.File("params.json")
	v, ok := params["dim"]
	if !ok {
		return 0, formats.Malformedf(file, -1, "dim missing")
	}
	num, _ := v.(json.Number)
	n, err := strconv.Atoi(string(num))
	if err != nil || n < 1 {
		return 0, formats.Malformedf(file, -1, "dim: want a positive integer, got %s", formats.Quote(fmt.Sprint(v)))
	}
	return n, nil
}

// equalCopies returns an error unless all slices hold the same bytes.
func equalCopies(cuts []Tensor) error {
	first := cuts[0]
	size := first.Count() * first.Type().RowSize(first.Len())
	if size > maxCopied {
		return formats.Unsupportedf(first.File, -1, "tensor %s: a vector of %d bytes", formats.Quote(first.Name), size)
	}
	want, got := make([]byte, size), make([]byte, size)
	if err := first.ReadRows(want, 0, first.Count()); err != nil {
		return err
	}
	for _, t := range cuts[1:] {
		if err := t.ReadRows(got, 0, t.Count()); err != nil {
			return err
		}
		if !bytes.Equal(want, got) {
			return formats.Malformedf(t.File, -1, "tensor %s differs from its copy in %s", formats.Quote(t.Name), filepath.Base(first.File))
		}
	}
	return nil
}
