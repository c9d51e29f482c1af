// Genmodel writes a Hugging Face checkpoint with random weights, for
// benchmarks that need a model of some size and not its knowledge:
//
//	go run ./internal/tools/genmodel -shape llama-1.1b -tokenizer testdata/tokenizers/llama-2/tokenizer.model -out DIR
//
// Matrices are drawn from a normal distribution with standard deviation 0.02,
// norms from one around 1. The same flags give the same bytes.
package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/nlpodyssey/safetensors"
	"github.com/x448/float16"
)

// shape is the dimensions of a Llama.
type shape struct {
	layers, hidden, heads, kvHeads, ffn, vocab int
}

var shapes = map[string]shape{
	"llama-15m":  {6, 288, 6, 6, 768, 32000},
	"llama-0.3b": {22, 1024, 16, 4, 2816, 32000},
	"llama-1.1b": {22, 2048, 32, 4, 5632, 32000},
	"llama-2b":   {28, 2560, 20, 4, 6912, 32000},
	"llama-7b":   {32, 4096, 32, 32, 11008, 32000},
}

func main() {
	names := make([]string, 0, len(shapes))
	for n := range shapes {
		names = append(names, n)
	}
	slices.Sort(names)
	out := flag.String("out", "", "directory to write, made if need be")
	name := flag.String("shape", "llama-1.1b", "one of "+strings.Join(names, ", "))
	dtype := flag.String("dtype", "bf16", "bf16, f16 or f32")
	tok := flag.String("tokenizer", "", "tokenizer.model to copy into the directory")
	seed := flag.Uint64("seed", 1, "of the random numbers")
	flag.Parse()
	s, ok := shapes[*name]
	if !ok || *out == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := generate(*out, s, *dtype, *tok, *seed); err != nil {
		fmt.Fprintln(os.Stderr, "genmodel: error:", err)
		os.Exit(1)
	}
}

func generate(dir string, s shape, dtype, tok string, seed uint64) error {
	e, ok := map[string]element{
		"bf16": {safetensors.BF16, 2, func(b []byte, v float32) {
			binary.LittleEndian.PutUint16(b, uint16((math.Float32bits(v)+0x8000)>>16))
		}},
		"f16": {safetensors.F16, 2, func(b []byte, v float32) { binary.LittleEndian.PutUint16(b, float16.Fromfloat32(v).Bits()) }},
		"f32": {safetensors.F32, 4, func(b []byte, v float32) { binary.LittleEndian.PutUint32(b, math.Float32bits(v)) }},
	}[dtype]
	if !ok {
		return fmt.Errorf("dtype %q", dtype)
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	if err := writeConfigs(dir, s, dtype, tok); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(dir, "model.safetensors"))
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	if err := safetensors.SerializeToWriter(s.tensors(e, seed), map[string]string{"format": "pt"}, w); err != nil {
		return err
	}
	return errors.Join(w.Flush(), f.Close())
}

func writeConfigs(dir string, s shape, dtype, tok string) error {
	config := map[string]any{
		"architectures": []string{"LlamaForCausalLM"}, "model_type": "llama", "hidden_act": "silu",
		"hidden_size": s.hidden, "intermediate_size": s.ffn, "num_hidden_layers": s.layers,
		"num_attention_heads": s.heads, "num_key_value_heads": s.kvHeads, "vocab_size": s.vocab,
		"max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "rope_scaling": nil,
		"attention_bias": false, "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2,
		"torch_dtype": map[string]string{"bf16": "bfloat16", "f16": "float16", "f32": "float32"}[dtype],
	}
	b, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), b, 0o666); err != nil || tok == "" {
		return err
	}
	if b, err = os.ReadFile(tok); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("tokenizer: %w", err)
		}
		return err
	}
	return os.WriteFile(filepath.Join(dir, "tokenizer.model"), b, 0o666)
}

// element is how values are stored.
type element struct {
	dtype safetensors.DType
	size  int
	put   func(b []byte, v float32)
}

// tensors describes all tensors; their values are drawn when they are written.
func (s shape) tensors(e element, seed uint64) map[string]tensor {
	out := map[string]tensor{}
	weights := e.table(0, 0.02)
	norms := e.table(1, 0.05)
	add := func(name string, t table, dims ...uint64) {
		out[name+".weight"] = tensor{element: e, table: t, shape: dims, name: name, seed: seed}
	}
	h, f := uint64(s.hidden), uint64(s.ffn)
	kv := uint64(s.hidden / s.heads * s.kvHeads)
	add("model.embed_tokens", weights, uint64(s.vocab), h)
	add("model.norm", norms, h)
	add("lm_head", weights, uint64(s.vocab), h)
	for i := range s.layers {
		p := fmt.Sprintf("model.layers.%d.", i)
		add(p+"input_layernorm", norms, h)
		add(p+"post_attention_layernorm", norms, h)
		add(p+"self_attn.q_proj", weights, h, h)
		add(p+"self_attn.k_proj", weights, kv, h)
		add(p+"self_attn.v_proj", weights, kv, h)
		add(p+"self_attn.o_proj", weights, h, h)
		add(p+"mlp.gate_proj", weights, f, h)
		add(p+"mlp.up_proj", weights, f, h)
		add(p+"mlp.down_proj", weights, h, f)
	}
	return out
}

// table has the stored form of the 65,536 quantiles of a distribution: a random
// index is a random value.
type table []byte

func (e element) table(mean, std float64) table {
	const n = 1 << 16
	t := make(table, n*e.size)
	for i := range n {
		p := (float64(i) + 0.5) / n
		e.put(t[i*e.size:], float32(mean+std*math.Sqrt2*math.Erfinv(2*p-1)))
	}
	return t
}

// tensor implements safetensors.View.
type tensor struct {
	element
	table table
	shape []uint64
	name  string
	seed  uint64
}

func (t tensor) DType() safetensors.DType { return t.dtype }
func (t tensor) Shape() []uint64          { return t.shape }

func (t tensor) DataLen() uint64 {
	n := uint64(t.size)
	for _, d := range t.shape {
		n *= d
	}
	return n
}

// chunk is how many elements are drawn from one generator.
const chunk = 1 << 20

// Data draws the values.
func (t tensor) Data() []byte {
	b := make([]byte, t.DataLen())
	key := t.seed
	for _, c := range t.name {
		key = key*1099511628211 + uint64(c)
	}
	var wg sync.WaitGroup
	i := uint64(0)
	for part := range slices.Chunk(b, chunk*t.size) {
		rng := rand.NewPCG(key, i)
		i++
		wg.Go(func() { t.fill(part, rng) })
	}
	wg.Wait()
	return b
}

func (t tensor) fill(b []byte, rng *rand.PCG) {
	for len(b) > 0 {
		r := rng.Uint64()
		for range 4 {
			if len(b) == 0 {
				return
			}
			i := int(r&0xffff) * t.size
			r >>= 16
			if t.size == 2 {
				b[0], b[1] = t.table[i], t.table[i+1]
			} else {
				copy(b[:t.size], t.table[i:])
			}
			b = b[t.size:]
		}
	}
}
