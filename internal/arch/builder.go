package arch

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/internal/checkpoint"
	"github.com/smeltgguf/smelt/internal/dequant"
	"github.com/smeltgguf/smelt/internal/vocab"
)

// builder is what a family's load function works with: it claims tensors of
// the checkpoint, puts tensors into the GGUF and writes metadata. Its methods
// panic with a failure where something does not fit.
type builder struct {
	ck  *checkpoint.Checkpoint
	cfg *Config
	f   *Family
	m   *Model
	opt Options
	// export, if set, makes the description run for names and transformations
	// alone, to be undone.
	export *exporter

	tensors   []checkpoint.Tensor // the checkpoint's, decoded where they were quantized
	index     map[string]int      // name of a tensor, normalized -> position
	claimed   []bool
	out       []output
	reordered bool // some q and k are interleaved in the GGUF
	vocabSize int
	tune      []func(*Decoder)
}

type output struct {
	name string
	shaped
}

func newBuilder(ck *checkpoint.Checkpoint, cfg *Config, f *Family, m *Model, opt Options) *builder {
	b := &builder{ck: ck, cfg: cfg, f: f, m: m, opt: opt, tensors: ck.Tensors, index: map[string]int{}}
	b.decode()
	b.claimed = make([]bool, len(b.tensors))
	for i, t := range b.tensors {
		// Text models inside of multimodal checkpoints.
		name := strings.ReplaceAll(t.Name, "language_model.", "")
		if _, dup := b.index[name]; dup {
			fail("%s: tensor %s is there twice", t.File, formats.Quote(name))
		}
		b.index[name] = i
	}
	return b
}

// decode looks at quantization_config and takes the weights that it describes
// as what they mean.
func (b *builder) decode() {
	b.cfg.ignore(dequant.Key)
	if b.adapting() {
		return // the base's weights are not looked at
	}
	var conf map[string]any
	if q := b.cfg.object(dequant.Key); q != nil && len(q.vals) > 0 {
		conf = q.vals
	}
	r, err := dequant.Decode(b.cfg.file, conf, b.tensors)
	if err != nil {
		panic(failure{err})
	}
	b.tensors = r.Tensors
	b.m.Skipped = append(b.m.Skipped, r.Unused...)
	if r.MXFP4 && b.opt.FileType != fileTypeQ8_0 {
		b.opt.FileType = fileTypeMXFP4
	}
}

// general.file_type of files whose weights are Q8_0, or MXFP4 experts among
// others of whatever type.
const (
	fileTypeQ8_0  = 7
	fileTypeMXFP4 = 38
)

// addPrefix makes names known with a prefix that some checkpoints of a family
// lack: those saved from the bare model, without its head.
func (b *builder) addPrefix(prefix string) {
	more := map[string]int{}
	for name, i := range b.index {
		if strings.HasPrefix(name, prefix) {
			return
		}
		more[prefix+name] = i
	}
	maps.Copy(b.index, more)
}

// has reports whether the checkpoint holds the tensor.
func (b *builder) has(name string) bool {
	switch {
	case b.adapting():
		return b.opt.Adapter.pairs[name] != nil
	case b.exporting():
		return b.export.asked(name)
	}
	_, ok := b.index[name]
	return ok
}

// src claims a tensor of the checkpoint, which must be there and have the
// shape.
func (b *builder) src(name string, shape ...int) shaped {
	switch {
	case b.adapting():
		return b.adapterSrc(name, shape)
	case b.exporting():
		return b.export.src(name, shape)
	}
	s := b.srcAny(name)
	if !slices.Equal(s.shape, shape) {
		t := b.tensors[s.order]
		panic(failure{formats.Malformedf(t.File, -1, "%s %s, config implies %s", formats.Quote(name), dims(s.shape), dims(shape))})
	}
	return s
}

// srcAny claims a tensor of whatever shape.
func (b *builder) srcAny(name string) shaped {
	if b.adapting() || b.exporting() {
		return shaped{}
	}
	i, ok := b.index[name]
	if !ok {
		panic(failure{formats.Malformedf(b.ck.Path, -1, "tensor %q is missing", name)})
	}
	t := &b.tensors[i]
	if err := t.Weights(); err != nil {
		panic(failure{err})
	}
	b.claimed[i] = true
	s := shaped{rows: t.Rows, shape: t.Shape, order: i}
	if b.opt.Merge != nil {
		s = b.opt.Merge.merge(name, s)
	}
	return s
}

// adapting reports whether the GGUF is to hold an adapter: the family's names
// and transformations then apply to the adapter's matrices.
func (b *builder) adapting() bool { return b.opt.Adapter != nil }

// exporting reports whether the description runs to be undone.
func (b *builder) exporting() bool { return b.export != nil }

// hasOther reports whether the checkpoint holds the tensor in place of those
// that most checkpoints of the family hold, and that Export writes.
func (b *builder) hasOther(name string) bool { return !b.exporting() && b.has(name) }

func dims(shape []int) string { return strings.ReplaceAll(fmt.Sprint(shape), " ", ",") }

// put adds a tensor to the GGUF.
func (b *builder) put(name string, s shaped) {
	switch l := s.lora; {
	case b.exporting():
		b.export.put(name, s)
	case l != nil:
		a := l.a
		if l.embedding {
			a = a.transpose()
		}
		a.order, l.b.order = s.order, s.order
		b.out = append(b.out, output{name + ".lora_a", a}, output{name + ".lora_b", l.b})
	case s.rows != nil && (!b.adapting() || s.order != generated):
		b.out = append(b.out, output{name, s})
	}
}

// skip claims tensors that carry nothing: they are listed in the summary.
func (b *builder) skip(name string) {
	if i, ok := b.index[name]; ok {
		b.claimed[i] = true
		b.m.Skipped = append(b.m.Skipped, b.tensors[i].Name)
	}
}

// linear puts dst.weight from src.weight, shape (out, in), and dst.bias from
// src.bias if there is one; via, if not nil, transforms both.
func (b *builder) linear(dst, src string, out, in int, via func(shaped) shaped) {
	b.putVia(dst+".weight", b.src(src+".weight", out, in), via)
	if b.has(src + ".bias") {
		b.putVia(dst+".bias", b.src(src+".bias", out), via)
	}
}

func (b *builder) putVia(name string, s shaped, via func(shaped) shaped) {
	if via != nil {
		s = via(s)
	}
	b.put(name, s)
}

// norm puts a norm's weight and, if there is one, its bias.
func (b *builder) norm(dst, src string, n int) {
	b.put(dst+".weight", b.src(src+".weight", n))
	if b.has(src + ".bias") {
		b.put(dst+".bias", b.src(src+".bias", n))
	}
}

// unrope returns the transformation of q and k for a GGUF architecture whose
// rope is interleaved; native order leaves them.
func (b *builder) unrope(heads int) func(shaped) shaped {
	b.reordered = true
	if b.opt.Native {
		return nil
	}
	return func(s shaped) shaped { return s.unrope(heads) }
}

// embedding puts the token embeddings and the output matrix. A separate output
// matrix is optional: without it the embeddings serve as output.
func (b *builder) embedding(embed, head string, vocabSize, width int) {
	b.put("token_embd.weight", b.src(embed, vocabSize, width))
	if b.has(head) {
		b.put("output.weight", b.src(head, vocabSize, width))
	} else if !b.cfg.boolean(true, "tie_word_embeddings") && !b.adapting() {
		panic(failure{formats.Malformedf(b.ck.Path, -1, "tensor %q is missing, and tie_word_embeddings is false", head)})
	}
}

// note tells the person about something that the GGUF cannot express.
func (b *builder) note(format string, args ...any) {
	b.m.Notes = append(b.m.Notes, fmt.Sprintf(format, args...))
}

// native changes the description of the forward pass from the checkpoint
// itself: what the GGUF, or llama.cpp, has otherwise.
func (b *builder) native(f func(*Decoder)) { b.tune = append(b.tune, f) }

// set writes a key of the architecture.
func (b *builder) set(key string, v any) { b.m.Params.Set(b.f.Name+"."+key, v) }

func (b *builder) setUint(key string, n int) { b.set(key, uint32(n)) }

func (b *builder) setFloat(key string, f float64) { b.set(key, float32(f)) }

// toEnd moves a key of the architecture behind those that are there.
func (b *builder) toEnd(key string) {
	key = b.f.Name + "." + key
	if v, ok := b.m.Params.Get(key); ok {
		b.m.Params.Delete(key)
		b.m.Params.Set(key, v)
	}
}

// setFileType writes general.file_type, which stands among the architecture's
// keys.
func (b *builder) setFileType() { b.m.Params.Set("general.file_type", b.opt.FileType) }

// neverNeeded reports whether a tensor of this name holds nothing but what
// follows from the config: buffers that older libraries saved.
func neverNeeded(name string) bool {
	for _, s := range []string{".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq", ".rotary_emb.cos_cached", ".rotary_emb.sin_cached"} {
		if strings.HasSuffix(name, s) {
			return true
		}
	}
	return name == "rope.freqs"
}

// otherModality reports whether a tensor of this name belongs to the image or
// sound part of a multimodal checkpoint.
func otherModality(name string) bool {
	for _, s := range []string{"visual.", "vision.", "audio.", "vision_", "audio_", "projector.", "image_newline", "patch_embed"} {
		if strings.Contains(name, s) {
			return true
		}
	}
	return false
}

// finish checks that nothing is left over and puts the tensors in order: that
// of the checkpoint, each where the last tensor that it is made of stands.
func (b *builder) finish() {
	for _, ad := range []*Adapter{b.opt.Adapter, b.opt.Merge} {
		if ad != nil {
			ad.check()
		}
	}
	for i, t := range b.tensors {
		if b.claimed[i] || b.adapting() {
			continue
		}
		if neverNeeded(t.Name) || otherModality(t.Name) {
			b.m.Skipped = append(b.m.Skipped, t.Name)
			continue
		}
		panic(failure{formats.Unsupportedf(t.File, -1, "tensor %s %s has no place in a %s model", formats.Quote(t.Name), dims(t.Shape), b.f.Name)})
	}
	b.cfg.ignore(b.opt.IgnoreKeys...)
	if left := b.cfg.leftover(); len(left) > 0 {
		panic(failure{formats.Unsupportedf(b.cfg.file, -1, "%s = %s is not understood and may change what the model computes", formats.Quote(left[0]), show(b.cfg.vals[left[0]])).
			WithHint("if it is harmless, add --ignore-config-key %s", left[0])})
	}
	slices.SortStableFunc(b.out, func(x, y output) int { return cmp.Compare(x.order, y.order) })
	seen := map[string]bool{}
	for _, o := range b.out {
		if seen[o.name] {
			fail("%s: two tensors become %q", b.ck.Path, o.name)
		}
		seen[o.name] = true
		b.m.Tensors = append(b.m.Tensors, Tensor{o.name, o.shape, o.rows})
	}
	b.m.Vocab = vocab.Options{Size: b.vocabSize}
}
