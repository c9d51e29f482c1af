package arch

import (
	"fmt"
	"slices"
	"strings"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/formats/gguf"
	"github.com/smeltgguf/smelt/internal/checkpoint"
	"github.com/smeltgguf/smelt/internal/stream"
	"github.com/smeltgguf/smelt/internal/vocab"
)

// Family is one entry of the table of model families: everything that smelt
// knows about it is in the file that defines it.
type Family struct {
	// Name is the general.architecture of its GGUF files.
	Name string
	// Models says for people which models belong to it.
	Models string
	// Classes are the names in config.json's "architectures" that it reads.
	Classes []string
	// Meta: it also reads checkpoints in Meta's own layout.
	Meta bool

	// load names and checks the checkpoint's tensors and writes the metadata.
	load func(b *builder)
	// vocab writes the tokenizer's metadata.
	vocab func(v *vocab.Builder)
	// decoder completes the description of the forward pass from the
	// architecture's metadata.
	decoder func(d *Decoder, m *params)
	// export completes config.json where a GGUF is turned back into a
	// checkpoint; nil: that is not known how to do.
	export func(e *exporter)
}

// Families is the table, in the order in which they are listed for people.
var Families = []*Family{
	llamaFamily,
	qwen2Family,
	qwen2MoEFamily,
	qwen3Family,
	qwen3MoEFamily,
	gemmaFamily,
	gemma2Family,
	gemma3Family,
	phi3Family,
	gpt2Family,
	falconFamily,
	stablelmFamily,
	graniteFamily,
	graniteMoEFamily,
	deepseek2Family,
	gptOSSFamily,
	smollm3Family,
	phi2Family,
	gptneoxFamily,
	starcoder2Family,
	olmoFamily,
	olmo2Family,
	internlm2Family,
	commandRFamily,
	cohere2Family,
	minicpmFamily,
	baichuanFamily,
	glm4Family,
}

// Tensor is one tensor of the GGUF to be written.
type Tensor struct {
	Name  string
	Shape []int // outermost dimension first
	stream.Rows
}

// Model is a checkpoint seen through its family: the plan of a conversion and,
// with Options.Native, what the forward pass runs from.
type Model struct {
	Family *Family
	// Early holds keys that stand between general.architecture and
	// general.type, Params those of the architecture, among them
	// general.file_type, in the order of the file.
	Early, Params *gguf.Metadata
	Tensors       []Tensor // in the order of the file
	Skipped       []string // tensors of the checkpoint that carry nothing to convert
	Notes         []string // what the GGUF cannot express
	Decoder       *Decoder
	Vocab         vocab.Options
}

// Options of Load.
type Options struct {
	// FileType is general.file_type, unless the family has one of its own.
	FileType uint32
	// Native leaves weights as the checkpoint has them: q and k not reordered,
	// for a forward pass whose rope rotates halves.
	Native bool
	// Adapter makes Load describe the GGUF of an adapter; the checkpoint is its
	// base, of which only the config is looked at.
	Adapter *Adapter
	// Merge is an adapter that is merged into the weights.
	Merge *Adapter
	// ConfigOnly: the checkpoint has no weights, and the model gets no tensors.
	ConfigOnly bool
	// IgnoreKeys are config keys that the person knows to be harmless.
	IgnoreKeys []string
}

// Find returns the family that reads the checkpoint.
func Find(ck *checkpoint.Checkpoint) (*Family, error) {
	cfg, err := readConfig(ck)
	if err != nil {
		return nil, err
	}
	return find(ck, cfg)
}

func find(ck *checkpoint.Checkpoint, cfg *Config) (f *Family, err error) {
	defer catch(&err)
	if ck.Layout == checkpoint.Meta {
		for _, f := range Families {
			if f.Meta {
				return f, nil
			}
		}
	}
	classes := cfg.strings("architectures")
	for _, f := range Families {
		for _, c := range classes {
			if slices.Contains(f.Classes, c) {
				return f, nil
			}
		}
	}
	if len(classes) == 0 {
		return nil, formats.Malformedf(cfg.file, -1, "architectures missing: nothing says which model this is")
	}
	return nil, formats.Unsupportedf(cfg.file, -1, "architecture %s is not supported", formats.Quote(classes[0])).
		WithHint("'smelt convert --list' prints the families that are")
}

// catch turns a failure into an error.
func catch(err *error) {
	switch r := recover().(type) {
	case nil:
	case failure:
		*err = r.error
	default:
		panic(r)
	}
}

// Load describes the checkpoint as the model of its family. Nothing but
// metadata is read: every tensor is claimed, every required one present and of
// the shape that the config implies, when it returns without error.
func Load(ck *checkpoint.Checkpoint, opt Options) (m *Model, err error) {
	cfg, err := readConfig(ck)
	if err != nil {
		return nil, err
	}
	f, err := find(ck, cfg)
	if err != nil {
		return nil, err
	}
	defer catch(&err)
	if opt.ConfigOnly {
		opt.Adapter = &Adapter{} // one that changes nothing
	}
	m = &Model{Family: f, Early: gguf.NewMetadata(), Params: gguf.NewMetadata()}
	b := newBuilder(ck, cfg, f, m, opt)
	f.load(b)
	b.finish()
	all := m.Params.Clone()
	all.Set("general.architecture", f.Name)
	for k, v := range m.Early.All() {
		all.Set(k, v)
	}
	d, err := DecoderFromGGUF(all)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ck.Path, err)
	}
	d.Vocab = b.vocabSize
	if opt.Native {
		d.Rope.Half = d.Rope.Half || b.reordered
		for _, f := range b.tune {
			f(d)
		}
	}
	m.Decoder = d
	return m, nil
}

// WriteVocab writes the tokenizer's keys to meta.
func (m *Model) WriteVocab(ck *checkpoint.Checkpoint, meta *gguf.Metadata) (err error) {
	v, err := vocab.New(ck, meta, m.Vocab)
	if err != nil {
		return err
	}
	return v.Run(m.Family.vocab)
}

func byName(arch string) *Family {
	for _, f := range Families {
		if f.Name == arch {
			return f
		}
	}
	return nil
}

// List returns a line for each family: its name, its models and its classes.
func List() []string {
	var out []string
	for _, f := range Families {
		out = append(out, fmt.Sprintf("%-10s %s (%s)", f.Name, f.Models, strings.Join(f.Classes, ", ")))
	}
	return out
}
