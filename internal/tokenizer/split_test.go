package tokenizer

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
)

// splitNamed returns the words that a pre-tokenizer makes of text.
func splitNamed(pre, text string) []string {
	loadClasses()
	var words []string
	split(sanitize(text), findPre(pre).stages, func(w string) { words = append(words, w) })
	return words
}

// testdata/split.json holds the lengths of the words that the regular expressions
// of the models' own tokenizer files make of some texts, as another engine with
// Unicode's properties and look-ahead (Python's regex) evaluates them.
func TestSplit(t *testing.T) {
	data, err := os.ReadFile("testdata/split.json")
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Texts []string
		Words map[string][][]int
	}
	if err := json.Unmarshal(data, &golden); err != nil {
		t.Fatal(err)
	}
	for pre, lens := range golden.Words {
		for i, text := range golden.Texts {
			var want []string
			rest := text
			for _, n := range lens[i] {
				want = append(want, rest[:n])
				rest = rest[n:]
			}
			if got := splitNamed(pre, text); !slices.Equal(got, want) {
				t.Errorf("%s: %q\n got %q\nwant %q", pre, text, got, want)
			}
		}
	}
	for i := range preTokenizers {
		if !slices.ContainsFunc(preTokenizers[i].names, func(name string) bool { return golden.Words[name] != nil }) {
			if name := preTokenizers[i].names[0]; !slices.Contains([]string{"jina-v1-en", "granite-embed-multi-97m", "sarvam-moe"}, name) {
				t.Errorf("%s is not tested", name) // those three split as others do
			}
		}
	}
}

func FuzzSplit(f *testing.F) {
	f.Add("Hello, World! I'm 1234567\n\n\t<sentinel:1>IMGIMGAZ")
	f.Add("\xed\xa0\x80\xc0\x80\xf4\x90\x80\x80 \u3000日本語٣٤")
	f.Fuzz(func(t *testing.T, text string) {
		want := sanitize(text)
		for i := range preTokenizers {
			words := splitNamed(preTokenizers[i].names[0], text)
			if slices.Contains(words, "") || strings.Join(words, "") != want {
				t.Errorf("%s: %q splits into %q", preTokenizers[i].names[0], text, words)
			}
		}
	})
}

// No pattern needs more than linear time, whatever is repeated.
func TestSplitLinear(t *testing.T) {
	loadClasses()
	n := 1 << 16
	if testing.Short() {
		n = 1 << 13
	}
	for _, s := range []string{" ", "\n", "\t ", "a", "A", "1", "٣", "é", "'", ".", "/", "日", "\u0301", "<sentinel:1", "IMG", " a", "~A"} {
		text := strings.Repeat(s, n/len(s))
		for i := range preTokenizers {
			total := 0
			split(text, preTokenizers[i].stages, func(w string) { total += len(w) })
			if total != len(text) {
				t.Errorf("%s: %d bytes of %q split into %d", preTokenizers[i].names[0], len(text), s, total)
			}
		}
	}
}
