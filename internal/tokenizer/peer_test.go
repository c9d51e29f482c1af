package tokenizer_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/smeltgguf/smelt/internal/tokenizer"
)

// mixedText has prose, code, every assigned code point of the basic plane between
// letters, digits and spaces, emoji, bytes that are not UTF-8, and runs.
func mixedText(t testing.TB) string {
	var b strings.Builder
	wiki, err := os.ReadFile(shared(t, "text", "wikitext2-test.txt"))
	if err != nil {
		t.Fatal(err)
	}
	b.Write(wiki[:min(len(wiki), 400_000)])
	sources, err := filepath.Glob("*.go")
	if err != nil || len(sources) == 0 {
		t.Fatal("no sources", err)
	}
	for _, name := range sources {
		src, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(src)
	}
	for r := rune(1); r < 0x1fc00; r++ {
		if 0xd800 <= r && r < 0xe000 {
			continue
		}
		switch r % 5 {
		case 0:
			b.WriteString("a" + string(r) + "b")
		case 1:
			b.WriteString(" " + string(r))
		case 2:
			b.WriteString("1" + string(r) + "2\t")
		case 3:
			b.WriteString(string(r) + "'S.\n")
		case 4:
			b.WriteString("!" + string(r) + " X")
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	words := []string{" ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "\u0085", "é", "e\u0301", "ß", "Ж", "日本語", "한국어", "क्षि", "ไทย",
		"العربية", "👩‍👩‍👧‍👦", "🇩🇪", "😀", "'s", "'LL", "'re", "don't", "0", "12", "345", "1234567", "½", "٣", "_", "...", "!=", "<|im_end|>",
		"</s>", "<s>", "~", "`", "$", "+", "HTTPServer", "x", "\x00", "\x7f", "µ", "ǅ", "々", "ー", "ﬁ", "\u200b", "\ufeff", "\U0001d54f",
		"\x80", "\xff", "\xc3", "\xe4\xb8", "\xc0\x80", "\xed\xa0\x80", "\xf0\x9f\x98"}
	for range 40_000 {
		b.WriteString(words[rng.IntN(len(words))])
	}
	for _, s := range []string{" ", "\n", "a", "0", "é", "日", ".", " a", "=", "\xff"} {
		b.WriteString(strings.Repeat(s, 3000))
	}
	return b.String()
}

// The ids of a long text equal those of llama.cpp.
func TestPeerText(t *testing.T) {
	if os.Getenv("SMELT_PEER") == "" {
		t.Skip("set SMELT_PEER=1 to compare with llama.cpp")
	}
	script := shared(t, "peer", "llamacpp.py")
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip(err)
	}
	text := mixedText(t)
	models, err := filepath.Glob(filepath.Join(shared(t, "tokenizers", "vectors"), "*.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	for _, model := range models {
		for _, parse := range []bool{false, true} {
			t.Run(filepath.Base(model)+"/parse="+strconv.FormatBool(parse), func(t *testing.T) {
				args := []string{script, "tokenize", model}
				if parse {
					args = append(args, "--parse-special")
				}
				cmd := exec.Command(python, args...)
				cmd.Stdin = strings.NewReader(text)
				var stderr bytes.Buffer
				cmd.Stderr = &stderr
				out, err := cmd.Output()
				if err != nil {
					t.Fatalf("%v: %s", err, stderr.String())
				}
				tok := openGGUF(t, model)
				got := tok.Encode(text, tokenizer.Options{AddSpecial: true, ParseSpecial: parse})
				want := strings.FieldsFunc(string(out), func(r rune) bool { return r < '0' || r > '9' })
				at := 0
				for i := range max(len(got), len(want)) {
					if i >= len(got) || i >= len(want) || strconv.Itoa(int(got[i])) != want[i] {
						t.Fatalf("token %d of %d, %d: got %v, want %v, after %q, before %q", i, len(got), len(want),
							got[i:min(len(got), i+8)], want[i:min(len(want), i+8)],
							tok.Decode(got[max(0, i-8):i], true), tok.Decode(got[i:min(i+8, len(got))], true))
					}
					at++
				}
				t.Logf("%d tokens", at)
			})
		}
	}
}
