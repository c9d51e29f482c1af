package check

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/smeltgguf/smelt/formats/gguf"
	"github.com/smeltgguf/smelt/internal/split"
	"github.com/smeltgguf/smelt/quant"
)

// llamaCpp is a very small llama, quantized to Q4_0 by llama.cpp.
const llamaCpp = "../../formats/gguf/testdata/llamacpp-q4_0.gguf"

// model is a file under construction.
type model struct {
	meta    *gguf.Metadata
	tensors []*gguf.Tensor
	data    map[string][]byte
	tail    []byte
}

func load(t *testing.T) *model {
	t.Helper()
	f, err := gguf.Open(llamaCpp)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m := &model{meta: f.Metadata, tensors: f.Tensors, data: map[string][]byte{}}
	for _, x := range f.Tensors {
		b := make([]byte, x.Size())
		if err := f.Rows(x).ReadRows(b, 0, x.Rows()); err != nil {
			t.Fatal(err)
		}
		m.data[x.Name] = b
	}
	return m
}

func (m *model) find(name string) *gguf.Tensor {
	for _, x := range m.tensors {
		if x.Name == name {
			return x
		}
	}
	return nil
}

func (m *model) remove(name string) {
	for i, x := range m.tensors {
		if x.Name == name {
			m.tensors = append(m.tensors[:i:i], m.tensors[i+1:]...)
			return
		}
	}
}

func (m *model) add(name string, typ quant.Type, fill byte, shape ...int) {
	x := gguf.NewTensor(name, typ, shape)
	m.tensors = append(m.tensors, x)
	m.data[name] = bytes.Repeat([]byte{fill}, int(x.Size()))
}

func (m *model) encode(t *testing.T) []byte {
	t.Helper()
	l, err := gguf.Plan(m.meta, m.tensors)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, l.Size)
	copy(b, l.Header)
	for i, x := range l.Tensors {
		copy(b[l.Offset(i):], m.data[x.Name])
	}
	return append(b, m.tail...)
}

func TestOpen(t *testing.T) {
	nan, inf := []byte{0x00, 0x7e}, []byte{0x00, 0x7c} // halves
	for _, tt := range []struct {
		name   string
		change func(m *model)
		text   string
		want   []string
	}{
		{"a good model", func(*model) {}, "ab a, ünd 中 \x00\n", nil},
		{"trailing bytes", func(m *model) { m.tail = []byte("tail") }, "", []string{"warning: 4 trailing bytes after the last tensor"}},
		{"a scale that is NaN", func(m *model) { copy(m.data["blk.0.attn_q.weight"][18*3:], nan) }, "",
			[]string{`error: tensor "blk.0.attn_q.weight" holds 32 NaN, first at 96`}},
		{"an infinite scale", func(m *model) {
			b := m.data["blk.0.attn_q.weight"][18:]
			copy(b, inf)
			for i := range 16 {
				b[2+i] = 0x98 // 0 and 1: NaN and infinite
			}
		}, "", []string{`error: tensor "blk.0.attn_q.weight" holds 16 NaN, 16 infinite, first at 32`}},
		{"NaN among floats", func(m *model) {
			binary.LittleEndian.PutUint32(m.data["output_norm.weight"][4*7:], 0xffc00001)
		}, "", []string{`error: tensor "output_norm.weight" holds 1 NaN, first at 7`}},
		{"all zero", func(m *model) { clear(m.data["blk.0.ffn_up.weight"]) }, "", []string{`warning: tensor "blk.0.ffn_up.weight" is all zero`}},
		{"a tensor missing", func(m *model) { m.remove("blk.0.attn_k.weight") }, "", []string{`error: tensor "blk.0.attn_k.weight" is missing`}},
		{"a layer missing", func(m *model) { m.meta.Set("llama.block_count", uint32(2)) }, "", []string{
			`error: tensor "blk.1.attn_norm.weight" is missing`, `error: tensor "blk.1.attn_q.weight" is missing`,
			`error: tensor "blk.1.attn_k.weight" is missing`, `error: tensor "blk.1.attn_v.weight" is missing`,
			`error: tensor "blk.1.attn_output.weight" is missing`, `error: tensor "blk.1.ffn_norm.weight" is missing`,
			`error: tensor "blk.1.ffn_down.weight" is missing`, `error: tensor "blk.1.ffn_up.weight" is missing`,
		}},
		{"other dimensions", func(m *model) { m.find("blk.0.ffn_down.weight").Dims = []uint64{192, 32} }, "",
			[]string{`error: tensor "blk.0.ffn_down.weight" is [192 32], the metadata implies [96 64]`}},
		{"an empty weight", func(m *model) { m.find("blk.0.ffn_down.weight").Dims = []uint64{96, 0} }, "",
			[]string{`error: tensor "blk.0.ffn_down.weight" is [96 0], the metadata implies [96 64]`}},
		{"a tensor too many", func(m *model) { m.add("blk.0.other.weight", quant.F32, 1, 4) }, "",
			[]string{`warning: tensor "blk.0.other.weight" is of no use to llama`}},
		{"a long name", func(m *model) { m.add(strings.Repeat("x", 64), quant.I8, 1, 4) }, "", []string{
			`warning: tensor "` + strings.Repeat("x", 64) + `" has a name of 64 bytes: llama.cpp loads at most 63`,
			`warning: tensor "` + strings.Repeat("x", 64) + `" is of no use to llama`,
		}},
		{"a type that cannot be decoded", func(m *model) { m.add("x", quant.Q8_1, 1, 32) }, "", []string{
			`warning: tensor "x" is of no use to llama`, `warning: tensor "x" is of type Q8_1, whose values are not checked`,
		}},
		{"zero integers", func(m *model) { m.add("x", quant.I32, 0, 32) }, "", []string{
			`warning: tensor "x" is of no use to llama`, `warning: tensor "x" is all zero`,
		}},
		{"a token too many", func(m *model) {
			tokens, _ := m.meta.Strings("tokenizer.ggml.tokens")
			scores, _ := m.meta.Floats("tokenizer.ggml.scores")
			types, _ := m.meta.Ints("tokenizer.ggml.token_type")
			m.meta.Set("tokenizer.ggml.tokens", append(tokens[:262:262], "more"))
			m.meta.Set("tokenizer.ggml.scores", append(scores[:262:262], -4))
			m.meta.Set("tokenizer.ggml.token_type", append(types[:262:262], 1))
		}, "", []string{
			`error: tensor "token_embd.weight" does not fit the vocabulary: vocab 263, embedding 262`,
		}},
		{"scores of the wrong type", func(m *model) { m.meta.Set("tokenizer.ggml.scores", []int8{1}) }, "", []string{"error: tokenizer.ggml.scores: want f32 array, got i8 array"}},
		{"a text that is lost", func(m *model) {
			types, _ := m.meta.Ints("tokenizer.ggml.token_type")
			types = append([]int32{}, types...)
			types[3+'A'] = 3 // no byte any more
			m.meta.Set("tokenizer.ggml.token_type", types)
		}, "abA", []string{`warning: the tokenizer does not give the text back: from byte 2 on "A" became "<0x41>"`}},
		{"no vocabulary", func(m *model) {
			m.meta.Delete("tokenizer.ggml.model")
		}, "", []string{"warning: no vocabulary"}},
		{"no architecture", func(m *model) { m.meta.Delete("general.architecture") }, "", []string{"error: general.architecture is missing"}},
		{"unknown architecture", func(m *model) { m.meta.Set("general.architecture", "lama") }, "", []string{`error: general.architecture "lama" is not supported`}},
		{"no heads", func(m *model) { m.meta.Set("llama.attention.head_count", uint32(0)) }, "", []string{"error: llama.attention.head_count: want u32 >= 1, got 0"}},
		{"a vocabulary only", func(m *model) { m.tensors = nil }, "", []string{"warning: no tensors: a vocabulary only"}},
		{"no model", func(m *model) { m.meta.Set("general.type", "imatrix"); m.remove("output.weight") }, "", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := load(t)
			tt.change(m)
			b := m.encode(t)
			f, err := gguf.NewFile(bytes.NewReader(b), int64(len(b)), "f")
			if err != nil {
				t.Fatal(err)
			}
			found, err := Open(context.Background(), f, Options{Text: tt.text})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, x := range found {
				got = append(got, x.String())
			}
			if strings.Join(got, "\n") != strings.Join(tt.want, "\n") {
				t.Errorf("found\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
		})
	}
}

func TestFile(t *testing.T) {
	dir := t.TempDir()
	p, err := split.Split(llamaCpp, filepath.Join(dir, "m"), gguf.SplitOptions{MaxTensors: 4})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Write(context.Background(), split.Options{}); err != nil {
		t.Fatal(err)
	}
	var read, total int64
	found, err := File(context.Background(), p.Paths[1], Options{Progress: func(done, all int64) { read, total = done, all }})
	if err != nil || len(found) > 0 {
		t.Errorf("a split model: %v, %v", found, err)
	}
	if read != p.Bytes() || total != p.Bytes() {
		t.Errorf("progress ended at %d of %d, there are %d bytes", read, total, p.Bytes())
	}
	if err := os.Remove(p.Paths[2]); err != nil {
		t.Fatal(err)
	}
	found, err = File(context.Background(), p.Paths[0], Options{})
	if err != nil || len(found) != 1 || found[0].Severity != Error || !strings.Contains(found[0].Message, "split 3 of 3 missing") {
		t.Errorf("a part missing: %v, %v", found, err)
	}
	if _, err := File(context.Background(), filepath.Join(dir, "none"), Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := File(ctx, llamaCpp, Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}
