// Package export turns a GGUF back into a Hugging Face checkpoint: NewPlan reads
// and checks the metadata and lays out the files, Plan.Run streams the weights.
package export

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/formats/gguf"
	"github.com/smeltgguf/smelt/formats/safetensors"
	"github.com/smeltgguf/smelt/internal/arch"
	"github.com/smeltgguf/smelt/internal/convert"
	"github.com/smeltgguf/smelt/internal/model"
	"github.com/smeltgguf/smelt/internal/stream"
	"github.com/smeltgguf/smelt/internal/vocab"
	"github.com/smeltgguf/smelt/quant"
)

// DefaultShardSize is the most bytes of tensors in one file where Options say
// nothing else.
const DefaultShardSize = 5_000_000_000

// Options say what to export, and how.
type Options struct {
	In  string // a GGUF, or any part of a split one
	Out string // the directory to write
	// DType is what quantized tensors are decoded to: "f16", "bf16" or "f32";
	// "" or "auto": bf16 if there are tensors of that type, else f16.
	DType        string
	MaxShardSize int64 // bytes of tensors in one file; 0: DefaultShardSize

	Threads        int
	Force          bool // replace a directory that an export has written
	AllowNonfinite bool // write NaN, infinity and overflow as they come
}

var dtypes = []struct {
	name string
	typ  quant.Type
}{
	{"f16", quant.F16}, {"bf16", quant.BF16}, {"f32", quant.F32},
}

// DTypes lists the names that Options.DType takes besides "auto".
func DTypes() []string {
	var names []string
	for _, d := range dtypes {
		names = append(names, d.name)
	}
	return names
}

// What safetensors and config.json call the types that are written.
var (
	fileTypes  = map[quant.Type]formats.DType{quant.F16: formats.F16, quant.BF16: formats.BF16, quant.F32: formats.F32, quant.F64: formats.F64}
	torchTypes = map[quant.Type]string{quant.F16: "float16", quant.BF16: "bfloat16", quant.F32: "float32", quant.F64: "float64"}
)

// Tensor is one tensor of the plan.
type Tensor struct {
	Name  string
	Shape []int // outermost dimension first
	From  quant.Type
	Type  quant.Type
	Size  int64  // bytes in the output
	File  string // that it goes to
}

// Plan is an export that has been checked as far as metadata goes. It holds the
// GGUF open.
type Plan struct {
	Arch    string // general.architecture
	DType   string // what quantized tensors are decoded to; "" if there are none
	Tensors []Tensor
	Params  int64    // number of parameters
	Files   []string // that Run writes, in Options.Out
	Size    int64    // of all files, in bytes
	Notes   []string // what the person should know

	opt    Options
	file   *gguf.File
	rows   []stream.Rows // of each tensor
	shards []shard
	small  map[string][]byte // the other files
}

// shard is one file of tensors.
type shard struct {
	name    string
	tensors []int // positions in Plan.Tensors
	layout  *safetensors.Layout
}

// NewPlan opens the GGUF and plans its export. Nothing is written.
func NewPlan(opt Options) (p *Plan, err error) {
	if st, err := os.Stat(opt.In); err == nil && st.IsDir() {
		return nil, &convert.InputError{Path: opt.In, Msg: "is a directory", Hint: "name a GGUF file; a checkpoint needs no export"}
	}
	f, err := gguf.Open(opt.In)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	x, err := arch.Export(opt.In, f.Metadata, model.GGUFTensors(f))
	if err != nil {
		return nil, err
	}
	tok, err := vocab.Export(f.Metadata)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", opt.In, err)
	}
	p = &Plan{Arch: x.Family.Name, Notes: x.Notes, opt: opt, file: f, small: tok.Files}
	if err := p.addTensors(x.Tensors); err != nil {
		return nil, err
	}
	if err := p.layout(); err != nil {
		return nil, fmt.Errorf("%s: %w", opt.In, err)
	}
	maps.Copy(x.Config, tok.Config)
	x.Config["torch_dtype"] = torchTypes[p.mainType()]
	if err := p.writeConfigs(x.Config, tok.Config); err != nil {
		return nil, err
	}
	for _, s := range p.shards {
		p.Files = append(p.Files, s.name)
		p.Size += s.layout.Size
	}
	for _, name := range slices.Sorted(maps.Keys(p.small)) {
		p.Files = append(p.Files, name)
		p.Size += int64(len(p.small[name]))
	}
	return p, nil
}

// Close closes the input.
func (p *Plan) Close() error { return p.file.Close() }

// SourceBytes returns how many bytes of weights Run reads: the end of its
// progress.
func (p *Plan) SourceBytes() int64 {
	var n int64
	for _, r := range p.rows {
		n += int64(r.Type().RowSize(r.Len())) * int64(r.Count())
	}
	return n
}

// addTensors chooses the tensors' types.
func (p *Plan) addTensors(list []arch.Tensor) error {
	decoded, err := decodeType(p.opt.DType, list)
	if err != nil {
		return err
	}
	for _, t := range list {
		from := t.Rows.Type()
		typ := from
		if _, plain := fileTypes[from]; !plain {
			if from.BlockLen() <= 1 || !from.CanDecode() {
				return formats.Unsupportedf(p.opt.In, -1, "tensor for %s: type %v cannot be decoded", formats.Quote(t.Name), from)
			}
			typ = decoded
			p.DType = strings.ToLower(decoded.String())
		}
		p.Params += int64(t.Len()) * int64(t.Count())
		p.Tensors = append(p.Tensors, Tensor{Name: t.Name, Shape: t.Shape, From: from, Type: typ, Size: int64(typ.RowSize(t.Len())) * int64(t.Count())})
		p.rows = append(p.rows, t.Rows)
	}
	return nil
}

// decodeType returns the type called name.
func decodeType(name string, list []arch.Tensor) (quant.Type, error) {
	if name == "" || name == "auto" {
		name = "f16"
		if slices.ContainsFunc(list, func(t arch.Tensor) bool { return t.Rows.Type() == quant.BF16 }) {
			name = "bf16"
		}
	}
	for _, d := range dtypes {
		if strings.EqualFold(d.name, name) {
			return d.typ, nil
		}
	}
	return 0, fmt.Errorf("unknown type %q; known: auto, %s", name, strings.Join(DTypes(), ", "))
}

// mainType returns the type that most weights have.
func (p *Plan) mainType() quant.Type {
	size := map[quant.Type]int64{}
	best := quant.F32
	for i, t := range p.Tensors {
		size[t.Type] += int64(p.rows[i].Len()) * int64(p.rows[i].Count())
		if size[t.Type] > size[best] {
			best = t.Type
		}
	}
	return best
}

// layout divides the tensors among files and lays those out.
func (p *Plan) layout() error {
	for _, list := range p.divide() {
		p.shards = append(p.shards, shard{name: "model.safetensors", tensors: list})
	}
	n := len(p.shards)
	where := map[string]string{}
	total := int64(0)
	for i := range p.shards {
		s := &p.shards[i]
		if n > 1 {
			s.name = fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, n)
		}
		// Wider types first, so that all elements are aligned.
		slices.SortFunc(s.tensors, func(a, b int) int {
			x, y := p.Tensors[a], p.Tensors[b]
			return cmp.Or(cmp.Compare(y.Type.BlockSize(), x.Type.BlockSize()), cmp.Compare(x.Name, y.Name))
		})
		var infos []formats.TensorInfo
		for _, at := range s.tensors {
			t := &p.Tensors[at]
			t.File = s.name
			where[t.Name] = s.name
			total += t.Size
			infos = append(infos, formats.TensorInfo{Name: t.Name, DType: fileTypes[t.Type], Shape: t.Shape})
		}
		var err error
		if s.layout, err = safetensors.Plan(infos); err != nil {
			return err
		}
	}
	if n == 1 {
		return nil
	}
	return p.json("model.safetensors.index.json", map[string]any{
		"metadata": map[string]any{"total_size": total}, "weight_map": where,
	})
}

// divide returns the tensors of each file. Files are as large as allowed. Where
// convert read several, whose tensors it sorts by name file by file, the GGUF
// shows where they began: if those are few, files begin there too, so that
// another conversion has the order of this GGUF.
func (p *Plan) divide() [][]int {
	limit := cmp.Or(p.opt.MaxShardSize, DefaultShardSize)
	runs := 1
	for i := 1; i < len(p.Tensors); i++ {
		if p.Tensors[i].Name < p.Tensors[i-1].Name {
			runs++
		}
	}
	keep := runs*4 <= len(p.Tensors)
	var out [][]int
	size := int64(0)
	for i, t := range p.Tensors {
		if i == 0 || size > limit-t.Size || keep && t.Name < p.Tensors[i-1].Name {
			out, size = append(out, nil), 0
		}
		out[len(out)-1] = append(out[len(out)-1], i)
		size += t.Size
	}
	return out
}

// json adds a file.
func (p *Plan) json(name string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	p.small[name] = append(b, '\n')
	return err
}

// writeConfigs adds config.json, generation_config.json and the model card.
func (p *Plan) writeConfigs(config, ids map[string]any) error {
	readme, gen, err := convert.CardFiles(p.file.Metadata)
	if err != nil {
		return err
	}
	if readme != nil {
		p.small["README.md"] = readme
	}
	if len(gen) > 0 {
		gen["do_sample"] = true
	}
	for _, kind := range []string{"bos_token_id", "pad_token_id"} {
		if id, ok := ids[kind]; ok {
			gen[kind] = id
		}
	}
	var ends []uint64
	for _, kind := range []string{"eos", "eot", "eom"} {
		if id, err := p.file.Metadata.Uint("tokenizer.ggml." + kind + "_token_id"); err == nil && !slices.Contains(ends, id) {
			ends = append(ends, id)
		}
	}
	switch {
	case len(ends) == 1:
		gen["eos_token_id"] = ends[0]
	case len(ends) > 1:
		gen["eos_token_id"] = ends
	}
	return errors.Join(p.json("config.json", config), p.json("generation_config.json", gen))
}

// Result says what a run did.
type Result struct {
	Files     []string
	Bytes     int64
	Nonfinite []stream.Nonfinite // only with AllowNonfinite
	// Differ are keys of the metadata that converting the result again would not
	// give, or not with this value; New are those that it would give besides.
	Differ, New []string
}

// Run writes the directory, which appears under its name when it is complete;
// after an error or when ctx ends, it does not. What has been written is read as
// convert reads it before it counts. progress, which may be nil, is told how many
// of SourceBytes are done.
func (p *Plan) Run(ctx context.Context, progress func(done int64)) (*Result, error) {
	dir, err := stream.CreateDir(p.opt.Out, p.opt.Force, ours)
	if err != nil {
		return nil, err
	}
	defer dir.Abort()
	res := &Result{Files: p.Files, Bytes: p.Size}
	if res.Nonfinite, err = p.write(ctx, dir.Temp(), progress); err != nil {
		return nil, err
	}
	if err := p.file.Changed(); err != nil {
		return nil, err
	}
	if err := p.readBack(dir.Temp(), res); err != nil {
		return nil, fmt.Errorf("what was written cannot be converted again: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return res, dir.Commit()
}

// write writes all files to a directory.
func (p *Plan) write(ctx context.Context, dir string, progress func(done int64)) ([]stream.Nonfinite, error) {
	var specs []stream.Spec
	for _, s := range p.shards {
		specs = append(specs, stream.Spec{Path: filepath.Join(dir, s.name), Size: s.layout.Size})
	}
	names := slices.Sorted(maps.Keys(p.small))
	for _, name := range names {
		specs = append(specs, stream.Spec{Path: filepath.Join(dir, name), Size: int64(len(p.small[name]))})
	}
	outs, err := stream.CreateAll(specs, false, nil)
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, o := range outs {
			o.Abort()
		}
	}()
	var jobs []stream.Job
	for i, s := range p.shards {
		if _, err := outs[i].WriteAt(s.layout.Header, 0); err != nil {
			return nil, err
		}
		for k, at := range s.tensors {
			t := p.Tensors[at]
			jobs = append(jobs, stream.Job{
				Name:    t.Name,
				Src:     p.rows[at],
				Targets: []stream.Target{{W: outs[i], Offset: s.layout.Tensors[k].Offset, Type: t.Type}},
			})
		}
	}
	for i, name := range names {
		if _, err := outs[len(p.shards)+i].WriteAt(p.small[name], 0); err != nil {
			return nil, err
		}
	}
	found, err := stream.Run(ctx, jobs, stream.Options{Threads: p.opt.Threads, Progress: progress, AllowNonfinite: p.opt.AllowNonfinite})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.opt.In, err)
	}
	return found, stream.CommitAll(outs)
}

// readBack plans the conversion of what was written and compares its metadata
// with the GGUF's.
func (p *Plan) readBack(dir string, res *Result) error {
	c, err := convert.NewPlan(convert.Options{In: dir, Out: filepath.Join(dir, "x.gguf")})
	if err != nil {
		return err
	}
	defer c.Close()
	for key, v := range p.file.Metadata.All() {
		if w, ok := c.Metadata.Get(key); !aboutFile(key) && (!ok || !reflect.DeepEqual(v, w)) {
			res.Differ = append(res.Differ, key)
		}
	}
	for key := range c.Metadata.All() {
		if _, ok := p.file.Metadata.Get(key); !ok && !aboutFile(key) {
			res.New = append(res.New, key)
		}
	}
	return nil
}

// aboutFile reports whether a key is about how the weights are stored.
func aboutFile(key string) bool {
	switch key {
	case "general.file_type", "general.quantization_version", "general.alignment":
		return true
	}
	return strings.HasPrefix(key, "split.") || strings.HasPrefix(key, "quantize.")
}

// ours returns an error if a directory holds anything but what an export
// writes.
func ours(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	config := false
	for _, e := range entries {
		name := e.Name()
		config = config || name == "config.json"
		known := strings.HasPrefix(name, "model") && strings.HasSuffix(name, ".safetensors") || slices.Contains([]string{
			"config.json", "generation_config.json", "model.safetensors.index.json", "README.md",
			"tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
		}, name)
		if !known || e.Type()&fs.ModeType != 0 {
			return fmt.Errorf("holds %s, which no export has written", formats.Quote(name))
		}
	}
	if len(entries) > 0 && !config {
		return errors.New("is no exported checkpoint")
	}
	return nil
}
