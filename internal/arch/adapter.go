package arch

import (
	"math"
	"strings"
	"sync"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/internal/checkpoint"
	"github.com/smeltgguf/smelt/internal/stream"
	"github.com/smeltgguf/smelt/quant"
)

// AdapterFile is the config that a PEFT adapter is recognised by.
const AdapterFile = "adapter_config.json"

// Adapter is a LoRA adapter (arXiv:2106.09685) as the PEFT library saves it:
// for a weight W of shape (out, in) the matrices A (rank, in) and B (out, rank)
// whose product, scaled, is added to W; besides, tensors that replace the
// base's.
type Adapter struct {
	ck *checkpoint.Checkpoint
	// Alpha is what the product is scaled by, times the rank.
	Alpha float64
	// transposed: the base stores its linear layers transposed (Conv1D).
	transposed bool

	pairs map[string]*pair // by the name of the weight in the base
	whole map[string]int   // tensors that replace the base's
	used  map[string]bool
}

// pair holds the positions of A and B among the adapter's tensors, -1 for one
// that was not found.
type pair struct {
	a, b      int
	embedding bool // A is (rank, tokens), B (width, rank)
}

// OpenAdapter reads an adapter's config and finds its tensors.
func OpenAdapter(ck *checkpoint.Checkpoint) (ad *Adapter, err error) {
	defer catch(&err)
	vals, err := ck.JSON(AdapterFile)
	if err != nil {
		return nil, err
	}
	c := newConfig(ck.File(AdapterFile), vals)
	c.oneOf("peft_type", "LORA", "LORA")
	c.mustBe("use_dora", false)
	c.oneOf("bias", "none", "none")
	for _, k := range []string{"alpha_pattern", "alora_invocation_tokens", "invocation_string", "layer_replication", "corda_config", "megatron_config", "trainable_token_indices"} {
		if !neutral(vals[k]) {
			c.bad(formats.Unsupported, "%s is not supported", k)
		}
	}
	ad = &Adapter{ck: ck, Alpha: c.positive("lora_alpha"), pairs: map[string]*pair{}, whole: map[string]int{}, used: map[string]bool{}}
	if c.boolean(false, "use_rslora") {
		// Scaled by alpha / sqrt(rank): said with the alpha that gives the same.
		ad.Alpha *= math.Sqrt(float64(c.count("r")))
	}
	ad.transposed = c.boolean(false, "fan_in_fan_out")
	for i, t := range ck.Tensors {
		ad.add(t.Name, i)
	}
	for name, p := range ad.pairs {
		if p.a < 0 || p.b < 0 {
			fail("%s: only one of lora_A and lora_B is there for %s", ck.Path, formats.Quote(name))
		}
	}
	if len(ad.pairs) == 0 {
		fail("%s: no lora_A and lora_B", ck.Path)
	}
	return ad, nil
}

// add files a tensor under the weight of the base that it belongs to.
func (ad *Adapter) add(name string, i int) {
	base := strings.ReplaceAll(strings.TrimPrefix(name, "base_model.model."), "language_model.", "")
	base = strings.ReplaceAll(base, ".default", "") // an adapter's usual name
	base = strings.ReplaceAll(base, ".modules_to_save", "")
	for _, s := range []struct {
		suffix       string
		b, embedding bool
	}{
		{".lora_A.weight", false, false}, {".lora_B.weight", true, false},
		{".lora_embedding_A", false, true}, {".lora_embedding_B", true, true},
	} {
		stem, ok := strings.CutSuffix(base, s.suffix)
		if !ok {
			continue
		}
		p := ad.pairs[stem+".weight"]
		if p == nil {
			p = &pair{-1, -1, s.embedding}
			ad.pairs[stem+".weight"] = p
		}
		if s.b {
			p.b = i
		} else {
			p.a = i
		}
		return
	}
	if strings.HasSuffix(base, ".base_layer.weight") {
		return // a copy of the base's own
	}
	ad.whole[base] = i
}

func (ad *Adapter) tensor(i int) shaped {
	t := &ad.ck.Tensors[i]
	if err := t.Weights(); err != nil {
		panic(failure{err})
	}
	return shaped{rows: t.Rows, shape: t.Shape, order: i}
}

// lora returns A and B for a weight of the given shape, nil if the adapter does
// not change it.
func (ad *Adapter) lora(name string, shape []int) *lora {
	p := ad.pairs[name]
	if p == nil {
		return nil
	}
	ad.used[name] = true
	a, b := ad.tensor(p.a), ad.tensor(p.b)
	in, out := 0, 0
	if len(shape) == 2 {
		out, in = shape[0], shape[1]
	}
	if p.embedding || ad.transposed {
		out, in = in, out
	}
	if len(a.shape) != 2 || len(b.shape) != 2 || a.shape[0] != b.shape[1] || a.shape[1] != in || b.shape[0] != out {
		panic(failure{formats.Malformedf(ad.ck.Tensors[p.a].File, -1, "%s: lora_A %s and lora_B %s do not fit the base's %s",
			formats.Quote(name), dims(a.shape), dims(b.shape), dims(shape))})
	}
	if a.rows.Type() != b.rows.Type() {
		panic(failure{formats.Unsupportedf(ad.ck.Tensors[p.a].File, -1, "%s: lora_A is %v, lora_B %v", formats.Quote(name), a.rows.Type(), b.rows.Type())})
	}
	l := &lora{a: a, b: b, embedding: p.embedding}
	if ad.transposed && !p.embedding {
		l.a, l.b = b.transpose(), a.transpose()
	}
	return l
}

// lora is the two matrices of a weight on its way into an adapter's GGUF.
type lora struct {
	a, b      shaped
	embedding bool
}

// adapterSrc is src for an adapter's own GGUF: the pair of a weight, a tensor
// that replaces the base's, or nothing, which is passed along and never put.
func (b *builder) adapterSrc(name string, shape []int) shaped {
	ad := b.opt.Adapter
	if l := ad.lora(name, shape); l != nil {
		return shaped{shape: shape, order: min(l.a.order, l.b.order), lora: l}
	}
	i, ok := ad.whole[name]
	if !ok {
		return shaped{shape: shape}
	}
	ad.used[name] = true
	s := ad.tensor(i)
	if len(shape) != 1 {
		panic(failure{formats.Unsupportedf(ad.ck.Tensors[i].File, -1, "%s is whole in the adapter, which a LoRA GGUF cannot hold", formats.Quote(name)).
			WithHint("merge it into its base with --merge-lora")})
	}
	return s
}

// merge returns a tensor of the base with the adapter merged into it.
func (ad *Adapter) merge(name string, s shaped) shaped {
	if i, ok := ad.whole[name]; ok {
		ad.used[name] = true
		w := ad.tensor(i)
		if len(w.shape) != len(s.shape) || w.shape[len(w.shape)-1] != s.shape[len(s.shape)-1] {
			panic(failure{formats.Malformedf(ad.ck.Tensors[i].File, -1, "%s %s, the base has %s", formats.Quote(name), dims(w.shape), dims(s.shape))})
		}
		return shaped{rows: w.rows, shape: w.shape, order: s.order}
	}
	l := ad.lora(name, s.shape)
	if l == nil {
		return s
	}
	if l.embedding { // W is (tokens, width): its change is A^T B^T
		l.a, l.b = l.b.transpose(), l.a.transpose()
	}
	rank := l.a.shape[0]
	s.rows = &merged{Rows: s.rows, a: l.a.rows, b: l.b.rows, rank: rank, scale: float32(ad.Alpha / float64(rank))}
	return s
}

// check refuses what of the adapter belongs to no tensor of the base.
func (ad *Adapter) check() {
	for _, m := range []map[string]bool{keys(ad.pairs), keys(ad.whole)} {
		for name := range m {
			if !ad.used[name] {
				fail("%s: the adapter changes %s, which the base does not have", ad.ck.Path, formats.Quote(name))
			}
		}
	}
}

func keys[T any](m map[string]T) map[string]bool {
	out := map[string]bool{}
	for k := range m {
		out[k] = true
	}
	return out
}

// merged is W + scale * B A, in float32. A is small and is read once.
type merged struct {
	stream.Rows
	a, b  stream.Rows
	rank  int
	scale float32

	once sync.Once
	av   []float32
	err  error
}

func (m *merged) Type() quant.Type { return quant.F32 }

func (m *merged) ReadRows(dst []byte, first, n int) error {
	m.once.Do(func() { m.av, m.err = readFloats(m.a, 0, m.rank) })
	if m.err != nil {
		return m.err
	}
	w, err := readFloats(m.Rows, first, n)
	if err != nil {
		return err
	}
	b, err := readFloats(m.b, first, n)
	if err != nil {
		return err
	}
	in := m.Len()
	sum := make([]float32, in)
	for i := range n {
		clear(sum)
		for r := range m.rank {
			f, a := b[i*m.rank+r], m.av[r*in:][:in]
			for j, v := range a {
				sum[j] += float32(f * v)
			}
		}
		for j, v := range sum {
			w[i*in+j] += float32(m.scale * v)
		}
	}
	quant.Encode(quant.F32, dst, w, nil)
	return nil
}

// readFloats reads n rows as float32.
func readFloats(r stream.Rows, first, n int) ([]float32, error) {
	raw := make([]byte, n*r.Type().RowSize(r.Len()))
	if err := r.ReadRows(raw, first, n); err != nil {
		return nil, err
	}
	f := make([]float32, n*r.Len())
	quant.Decode(r.Type(), f, raw)
	return f, nil
}
