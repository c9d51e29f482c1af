package convert

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/smeltgguf/smelt/formats/gguf"
	"github.com/smeltgguf/smelt/internal/tokenizer"
)

const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUV"

// ranks returns a vocabulary of all bytes and of the pairs of the first left and
// the first right letters.
func ranks(left, right int) []string {
	var out []string
	for b := range 256 {
		out = append(out, string([]byte{byte(b)}))
	}
	for i := range left {
		for j := range right {
			out = append(out, letters[i:i+1]+letters[j:j+1])
		}
	}
	return out
}

// copyFiles copies files of a model in testdata to a new directory.
func copyFiles(t *testing.T, model string, names ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "m")
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join("../../testdata/models", model, name))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name), string(data))
	}
	return dir
}

// checkRanks looks at what both vocabularies have in common.
func checkRanks(t *testing.T, f *gguf.File, want map[string]any, text string, ids []int32) {
	t.Helper()
	for key, v := range want {
		if got, ok := f.Metadata.Get("tokenizer.ggml." + key); !ok || got != v {
			t.Errorf("%s = %v, want %v", key, got, v)
		}
	}
	tok, err := tokenizer.FromMetadata(f.Metadata)
	if err != nil {
		t.Fatal(err)
	}
	if tok.Len() != 2048 {
		t.Errorf("%d tokens", tok.Len())
	}
	if got := tok.Encode(text, tokenizer.Options{AddSpecial: true, ParseSpecial: true}); !slices.Equal(got, ids) {
		t.Errorf("%q is %v, want %v", text, got, ids)
	}
}

func openConverted(t *testing.T, dir string) *gguf.File {
	t.Helper()
	f, err := gguf.Open(run(t, Options{In: dir}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// TestTiktoken converts a checkpoint in Meta's form of Llama 3.1: tokenizer.model
// in tiktoken's format, scaled rope, special tokens that no file holds.
func TestTiktoken(t *testing.T) {
	dir := copyFiles(t, "micro/meta-1", "consolidated.00.pth")
	var b strings.Builder
	for i, token := range ranks(48, 32) {
		fmt.Fprintf(&b, "%s %d\n", base64.StdEncoding.EncodeToString([]byte(token)), i)
	}
	write(t, filepath.Join(dir, "tokenizer.model"), b.String())
	write(t, filepath.Join(dir, "params.json"), `{"dim": 64, "multiple_of": 32, "n_heads": 4, "n_kv_heads": 2, "n_layers": 2,
		"norm_eps": 1e-05, "vocab_size": 2048, "rope_theta": 500000.0, "use_scaled_rope": true}`)
	f := openConverted(t, dir)
	// Merges go by rank: "el" is 256+4*32+11, "lo" 256+11*32+14.
	checkRanks(t, f, map[string]any{
		"model": "gpt2", "pre": "llama-bpe", "add_bos_token": true,
		"bos_token_id": uint32(1792), "eos_token_id": uint32(1793), "eot_token_id": uint32(1801),
	}, "Hello<|eom_id|>", []int32{1792, 'H', 395, 622, 1800})
	if n, err := f.Metadata.Uint("llama.context_length"); err != nil || n != 131072 {
		t.Errorf("context_length %d, %v", n, err)
	}
	if f.Tensor("rope_freqs.weight") == nil {
		t.Error("no rope_freqs.weight")
	}
	plain, err := gguf.Open(run(t, Options{In: "../../testdata/models/micro/meta-1"}))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if len(f.Tensors) != len(plain.Tensors)+1 {
		t.Errorf("%d tensors, %d with another tokenizer", len(f.Tensors), len(plain.Tensors))
	}
	for _, x := range plain.Tensors {
		if y := f.Tensor(x.Name); y == nil || !slices.Equal(bytesOf(t, plain, x), bytesOf(t, f, y)) {
			t.Errorf("tensor %s differs", x.Name)
		}
	}

	// One rank too many does not fit the embeddings.
	write(t, filepath.Join(dir, "tokenizer.model"), b.String()+base64.StdEncoding.EncodeToString([]byte("abc"))+" 1792\n")
	if _, err := NewPlan(Options{In: dir, Out: "x"}); err == nil || !strings.Contains(err.Error(), "vocab 2049, embedding 2048") {
		t.Errorf("error %v", err)
	}
}

func bytesOf(t *testing.T, f *gguf.File, x *gguf.Tensor) []byte {
	t.Helper()
	b := make([]byte, x.Size())
	if err := f.Rows(x).ReadRows(b, 0, x.Rows()); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestTekken converts a checkpoint with Mistral's tekken.json: special tokens
// first, ids after them.
func TestTekken(t *testing.T) {
	dir := copyFiles(t, "micro/hf", "config.json", "model.safetensors")
	var vocab []map[string]any
	for i, token := range ranks(24, 33) {
		vocab = append(vocab, map[string]any{"rank": i, "token_bytes": []byte(token), "token_str": nil})
	}
	data, err := json.Marshal(map[string]any{
		"config": map[string]any{"pattern": "", "default_vocab_size": 2048, "default_num_special_tokens": 1000, "version": "v3"},
		"vocab":  vocab,
	})
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "tekken.json"), string(data))
	// "ab" is 256+1, "cd" 256+2*33+3.
	checkRanks(t, openConverted(t, dir), map[string]any{
		"model": "gpt2", "pre": "tekken", "add_bos_token": true, "add_eos_token": false,
		"bos_token_id": uint32(1), "eos_token_id": uint32(2), "unknown_token_id": uint32(0), "padding_token_id": uint32(11),
	}, "[INST]abcd", []int32{1, 3, 1257, 1325})
}
