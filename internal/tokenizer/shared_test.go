package tokenizer_test

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/smeltgguf/smelt/formats/gguf"
	"github.com/smeltgguf/smelt/internal/tokenizer"
)

// shared returns a path in the folder of large files to compare with; the test is
// skipped where there is none.
func shared(t testing.TB, elem ...string) string {
	t.Helper()
	dir := os.Getenv("SMELT_SHARED")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared")
	}
	path := filepath.Join(append([]string{dir}, elem...)...)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("%v: set SMELT_SHARED to run this", err)
	}
	return path
}

func openGGUF(t testing.TB, path string) *tokenizer.Tokenizer {
	t.Helper()
	f, err := gguf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tok, err := tokenizer.FromMetadata(f.Metadata)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return tok
}

// checkVectors compares the ids of texts, separated by a line, with those of
// llama.cpp, one list a line.
func checkVectors(t *testing.T, tok *tokenizer.Tokenizer, inp, out []byte) {
	t.Helper()
	texts := strings.Split(strings.TrimSuffix(string(inp), "\n__ggml_vocab_test__\n"), "\n__ggml_vocab_test__\n")
	lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	if len(texts) != len(lines) {
		t.Fatalf("%d texts, %d lists of ids", len(texts), len(lines))
	}
	for i, text := range texts {
		var want []int32
		for _, f := range strings.Fields(lines[i]) {
			id, err := strconv.Atoi(f)
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, int32(id))
		}
		got := tok.Encode(text, tokenizer.Options{})
		if !slices.Equal(got, want) {
			t.Errorf("text %d: %q\n got %v\nwant %v", i, text, got, want)
		}
		if back := tok.Decode(got, true); string(back) != text {
			t.Errorf("text %d: %q comes back as %q", i, text, back)
		}
	}
}

func TestVectors(t *testing.T) {
	models, err := filepath.Glob(filepath.Join(shared(t, "tokenizers", "vectors"), "*.gguf"))
	if err != nil || len(models) == 0 {
		t.Fatal("no vocabularies", err)
	}
	for _, model := range models {
		t.Run(filepath.Base(model), func(t *testing.T) {
			inp, err := os.ReadFile(model + ".inp")
			if err != nil {
				t.Fatal(err)
			}
			out, err := os.ReadFile(model + ".out")
			if err != nil {
				t.Fatal(err)
			}
			checkVectors(t, openGGUF(t, model), inp, out)
		})
	}
}
