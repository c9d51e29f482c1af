package tokenizer_test

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/smeltgguf/smelt/formats/sentencepiece"
	"github.com/smeltgguf/smelt/internal/tokenizer"
)

func testdata(elem ...string) string {
	return filepath.Join(append([]string{"..", "..", "testdata", "tokenizers"}, elem...)...)
}

func readLines(t testing.TB, path string) []string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	if strings.HasSuffix(path, ".gz") {
		zr, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		sc = bufio.NewScanner(zr)
	}
	var lines []string
	for sc.Scan() {
		lines = append(lines, sc.Text())
	}
	if sc.Err() != nil {
		t.Fatal(sc.Err())
	}
	return lines
}

// llama2Vocab is the vocabulary of Llama 2.
func llama2Vocab(t testing.TB) tokenizer.Vocab {
	t.Helper()
	data, err := os.ReadFile(testdata("llama-2", "tokenizer.model"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := sentencepiece.Parse(data, "tokenizer.model")
	if err != nil {
		t.Fatal(err)
	}
	v, err := tokenizer.NewVocab("llama", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range m.Pieces {
		v.Tokens = append(v.Tokens, p.Text)
		v.Scores = append(v.Scores, p.Score)
		v.Types = append(v.Types, tokenizer.Type(p.Type))
	}
	return *v
}

// bpeVocab makes a vocabulary of a list of merges, which its tokens follow in
// order, after those in first.
func bpeVocab(t testing.TB, name, pre string, first []string, control int) tokenizer.Vocab {
	t.Helper()
	v, err := tokenizer.NewVocab("gpt2", pre)
	if err != nil {
		t.Fatal(err)
	}
	v.Merges = readLines(t, testdata(name, "merges.txt.gz"))[1:] // after #version
	v.Tokens = slices.Clone(first)
	for _, m := range v.Merges {
		v.Tokens = append(v.Tokens, strings.Replace(m, " ", "", 1))
	}
	v.Types = make([]tokenizer.Type, len(v.Tokens))
	for i := range v.Types {
		v.Types[i] = tokenizer.Normal
		if i < control {
			v.Types[i] = tokenizer.Control
		}
	}
	return *v
}

func gpt2Vocab(t testing.TB) tokenizer.Vocab {
	var alphabet, rest []string
	for b := range 256 {
		if 0x21 <= b && b <= 0x7e || 0xa1 <= b && b <= 0xac || 0xae <= b {
			alphabet = append(alphabet, string(rune(b)))
		} else {
			rest = append(rest, string(rune(256+len(rest))))
		}
	}
	v := bpeVocab(t, "gpt-2", "gpt-2", append(alphabet, rest...), 0)
	v.Tokens = append(v.Tokens, "<|endoftext|>")
	v.Types = append(v.Types, tokenizer.Control)
	v.BOS, v.EOS = int32(len(v.Tokens)-1), int32(len(v.Tokens)-1)
	return v
}

func starcoderVocab(t testing.TB) tokenizer.Vocab {
	v := bpeVocab(t, "starcoder", "starcoder", readLines(t, testdata("starcoder", "first.txt")), 38)
	v.BOS, v.EOS, v.UNK = 0, 0, 0
	return v
}

func mustNew(t testing.TB, v tokenizer.Vocab) *tokenizer.Tokenizer {
	t.Helper()
	tok, err := tokenizer.New(v)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func TestEncode(t *testing.T) {
	inp, err := os.ReadFile(testdata("vectors", "texts.inp"))
	if err != nil {
		t.Fatal(err)
	}
	for name, vocab := range map[string]func(testing.TB) tokenizer.Vocab{
		"llama-spm": llama2Vocab, "gpt-2": gpt2Vocab, "starcoder": starcoderVocab,
	} {
		t.Run(name, func(t *testing.T) {
			out, err := os.ReadFile(testdata("vectors", name+".out"))
			if err != nil {
				t.Fatal(err)
			}
			checkVectors(t, mustNew(t, vocab(t)), inp, out)
		})
	}
}

func TestSpecial(t *testing.T) {
	spm := mustNew(t, llama2Vocab(t))
	gpt2 := mustNew(t, gpt2Vocab(t))
	phi := llama2Vocab(t)
	phi.Tokens = append(phi.Tokens, "<|user|>", "<|end|>", "<|endoftext|>", "\n\n", "\n")
	phi.Scores = append(phi.Scores, 0, 0, 0, 0, 0)
	phi.Types = append(phi.Types, tokenizer.Control, tokenizer.Control, tokenizer.Control, tokenizer.UserDefined, tokenizer.UserDefined)
	phi.StripAfterSpecial = true
	phi3 := mustNew(t, phi)
	stripping := gpt2Vocab(t)
	stripping.LStrip, stripping.RStrip = []int32{50256}, []int32{50256}
	strip := mustNew(t, stripping)
	for _, tt := range []struct {
		tok  *tokenizer.Tokenizer
		text string
		opt  tokenizer.Options
		want []int32
	}{
		{spm, "", tokenizer.Options{AddSpecial: true}, []int32{1}},
		{spm, "", tokenizer.Options{}, nil},
		{spm, "Hello", tokenizer.Options{AddSpecial: true}, []int32{1, 15043}},
		{spm, "Hello</s>", tokenizer.Options{}, []int32{15043, 829, 29879, 29958}},
		{spm, "Hello</s>Hello", tokenizer.Options{ParseSpecial: true}, []int32{15043, 2, 15043}},
		{spm, "\xff\x00", tokenizer.Options{}, []int32{29871, 258, 3}},
		{gpt2, "Hello<|endoftext|>Hello", tokenizer.Options{ParseSpecial: true, AddSpecial: true}, []int32{15496, 50256, 15496}},
		{gpt2, "<|endoftext|>", tokenizer.Options{}, []int32{27, 91, 437, 1659, 5239, 91, 29}},
		{gpt2, "\xff", tokenizer.Options{}, []int32{4210}}, // U+FFFD
		{strip, "Hello <|endoftext|>\t\n<|endoftext|> Hello ", tokenizer.Options{ParseSpecial: true}, []int32{15496, 50256, 50256, 15496, 220}},
		{phi3, "<|user|>\n Hello<|end|>", tokenizer.Options{ParseSpecial: true}, []int32{32000, 15043, 32001}},
		// The longest special token takes its part first.
		{phi3, "\n\n\n", tokenizer.Options{}, []int32{32003}},
		{phi3, "<s> Hello", tokenizer.Options{ParseSpecial: true}, []int32{1, 29871, 15043}},
	} {
		if got := tt.tok.Encode(tt.text, tt.opt); !slices.Equal(got, tt.want) {
			t.Errorf("%q %+v: got %v, want %v", tt.text, tt.opt, got, tt.want)
		}
	}
	if !spm.IsEOG(2) || spm.IsEOG(1) || !spm.IsControl(1) || spm.IsControl(300) || !gpt2.IsEOG(50256) || !phi3.IsEOG(32001) {
		t.Error("end of generation or control tokens not recognised")
	}
}

func TestDecode(t *testing.T) {
	spm := mustNew(t, llama2Vocab(t))
	for _, tt := range []struct {
		ids     []int32
		special bool
		want    string
	}{
		{nil, true, ""},
		{[]int32{1, 15043, 2}, false, "Hello"},
		{[]int32{1, 15043, 2}, true, "<s>Hello</s>"},
		{[]int32{15043, 15043}, false, "Hello Hello"},
		{[]int32{29871, 15043}, false, " Hello"},
		{[]int32{258}, false, "\xff"},
		{[]int32{-1, 32000, 15043}, false, " Hello"},
	} {
		if got := string(spm.Decode(tt.ids, tt.special)); got != tt.want {
			t.Errorf("%v: got %q, want %q", tt.ids, got, tt.want)
		}
	}
	// 日 in three byte tokens comes out when it is whole.
	w := spm.NewWriter(false)
	var got []string
	for _, id := range []int32{15043, 3 + 0xe6, 3 + 0x97, 3 + 0xa5, 3 + 0xe6} {
		got = append(got, w.Add(id))
	}
	got = append(got, w.Rest())
	if want := []string{" Hello", "", "", "日", "", "\xe6"}; !slices.Equal(got, want) {
		t.Errorf("written %q, want %q", got, want)
	}
}

type metadata map[string]any

func (m metadata) Get(key string) (any, bool) {
	v, ok := m[key]
	return v, ok
}

// smallMetadata describes a vocabulary of four tokens.
func smallMetadata() metadata {
	return metadata{
		"tokenizer.ggml.model":            "llama",
		"tokenizer.ggml.pre":              "default",
		"tokenizer.ggml.tokens":           []string{"<unk>", "<s>", "</s>", "\u2581a"},
		"tokenizer.ggml.scores":           []float32{0, 0, 0, -1},
		"tokenizer.ggml.token_type":       []int32{2, 3, 3, 1},
		"tokenizer.ggml.bos_token_id":     uint32(1),
		"tokenizer.ggml.padding_token_id": uint32(math.MaxUint32),
		"tokenizer.ggml.add_space_prefix": false,
		"tokenizer.ggml.add_eos_token":    true,
	}
}

func TestMetadata(t *testing.T) {
	tok, err := tokenizer.FromMetadata(smallMetadata())
	if err != nil {
		t.Fatal(err)
	}
	v := tok.Vocab()
	if !v.AddBOS || !v.AddEOS || v.AddSpacePrefix || v.BOS != 1 || v.EOS != 2 || v.UNK != 0 || v.PAD != tokenizer.None {
		t.Errorf("%+v", v)
	}
	if got, want := tok.Encode(" a", tokenizer.Options{AddSpecial: true}), []int32{1, 3, 2}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if id, ok := tok.ID("\u2581a"); !ok || id != 3 || tok.Text(3) != "\u2581a" || tok.Len() != 4 {
		t.Error("token is not found by its text")
	}
	m := smallMetadata()
	m["tokenizer.ggml.scores"] = []int32{0, 0, 0, -1}
	m["tokenizer.ggml.tokens"].([]string)[3] = ""
	if tok, err = tokenizer.FromMetadata(m); err != nil || tok.Text(3) != "[EMPTY_3]" {
		t.Errorf("integer scores and an empty token: %v", err)
	}
}

func TestBadMetadata(t *testing.T) {
	gpt2 := func(m metadata) {
		m["tokenizer.ggml.model"] = "gpt2"
		m["tokenizer.ggml.merges"] = []string{"a b"}
	}
	for _, tt := range []struct {
		change func(m metadata)
		want   string
	}{
		{func(m metadata) { delete(m, "tokenizer.ggml.model") }, "tokenizer.ggml.model missing: the file has no tokenizer"},
		{func(m metadata) { m["tokenizer.ggml.model"] = "bert" }, `tokenizer model "bert" is not supported`},
		{func(m metadata) { delete(m, "tokenizer.ggml.tokens") }, "tokenizer.ggml.tokens missing"},
		{func(m metadata) { m["tokenizer.ggml.tokens"] = []string{} }, "vocabulary is empty"},
		{func(m metadata) { m["tokenizer.ggml.scores"] = []int8{1, 2, 3, 4} }, "tokenizer.ggml.scores: want f32 array, got i8 array"},
		{func(m metadata) { m["tokenizer.ggml.scores"] = []float32{1} }, "tokenizer.ggml.scores: 1 values for 4 tokens"},
		{func(m metadata) { m["tokenizer.ggml.scores"].([]float32)[3] = float32(math.NaN()) }, "token 3: \"\u2581a\" has score NaN"},
		{func(m metadata) { m["tokenizer.ggml.token_type"] = []uint32{1, 1, 1, 1} }, "tokenizer.ggml.token_type: want i32 array, got u32 array"},
		{func(m metadata) { m["tokenizer.ggml.token_type"] = []int32{1} }, "tokenizer.ggml.token_type: 1 values for 4 tokens"},
		{func(m metadata) {
			m["tokenizer.ggml.tokens"].([]string)[3] = "<0x-1>"
			m["tokenizer.ggml.token_type"].([]int32)[3] = 6
		}, `token 3: bad byte token "<0x-1>", want <0x00> to <0xFF>`},
		{func(m metadata) { m["tokenizer.ggml.tokens"].([]string)[3] = "</s>" }, `tokens 2 and 3 are both "</s>"`},
		{func(m metadata) { m["tokenizer.ggml.tokens"].([]string)[3] = strings.Repeat("x", 65537) },
			"token 3: text of 65537 bytes exceeds 65536"},
		{func(m metadata) { m["tokenizer.ggml.bos_token_id"] = "1" }, "tokenizer.ggml.bos_token_id: want u32, got string"},
		{func(m metadata) { m["tokenizer.ggml.add_bos_token"] = uint8(1) }, "tokenizer.ggml.add_bos_token: want bool, got u8"},
		{func(m metadata) { m["tokenizer.ggml.add_sep_token"] = true }, "SEP is to be added, but no token is named as SEP"},
		{func(m metadata) { gpt2(m); m["tokenizer.ggml.pre"] = "nobody-5" }, `unknown pre-tokenizer "nobody-5"`},
		{func(m metadata) { gpt2(m); delete(m, "tokenizer.ggml.merges") }, "tokenizer.ggml.merges missing"},
		{func(m metadata) {
			gpt2(m)
			m["tokenizer.ggml.add_eos_token"] = false
			m["tokenizer.ggml.merges"] = []string{"a b", "ab"}
		},
			`merge 1: want two symbols and a space between, got "ab"`},
		{func(m metadata) { m["tokenizer.ggml.model"] = "t5"; delete(m, "tokenizer.ggml.scores") }, "a unigram vocabulary needs scores"},
		{func(m metadata) {
			m["tokenizer.ggml.model"] = "t5"
			m["tokenizer.ggml.precompiled_charsmap"] = []int8{100, 0, 0, 0, 1}
		}, "precompiled_charsmap: truncated"},
	} {
		m := smallMetadata()
		tt.change(m)
		_, err := tokenizer.FromMetadata(m)
		if fmt.Sprint(err) != tt.want {
			t.Errorf("error %q, want %q", fmt.Sprint(err), tt.want)
		}
	}
}

// Long runs take time in proportion to their length; a test that is quadratic
// would not end.
func TestLongRuns(t *testing.T) {
	n := 1 << 18
	if testing.Short() {
		n = 1 << 16
	}
	for _, tok := range []*tokenizer.Tokenizer{mustNew(t, llama2Vocab(t)), mustNew(t, starcoderVocab(t)), mustNew(t, gpt2Vocab(t))} {
		for _, s := range []string{" ", "\n", "a", "1", "é", "\xff", "</s>"} {
			text := strings.Repeat(s, n/len(s))
			ids := tok.Encode(text, tokenizer.Options{ParseSpecial: true})
			if s != "\xff" && string(tok.Decode(ids, true)) != text {
				t.Errorf("%d times %q comes back as something else", n/len(s), s)
			}
		}
	}
}

func FuzzEncode(f *testing.F) {
	f.Add("Hello, world! 'S 123 \n\n  x\t", true)
	f.Add("\xff\xe4\xb8 \u2581</s><|endoftext|>", false)
	f.Add("<s></s><<s>", true)
	spm, gpt2, coder := mustNew(f, llama2Vocab(f)), mustNew(f, gpt2Vocab(f)), mustNew(f, starcoderVocab(f))
	f.Fuzz(func(t *testing.T, text string, parse bool) {
		opt := tokenizer.Options{ParseSpecial: parse}
		for _, tok := range []*tokenizer.Tokenizer{spm, gpt2, coder} {
			got := string(tok.Decode(tok.Encode(text, opt), true))
			// SentencePiece has U+2581 for spaces, and a special token swallows
			// the space that is taken for its prefix.
			if !utf8.ValidString(text) || tok == spm && (parse || strings.Contains(text, "\u2581")) {
				continue
			}
			if got != text {
				t.Errorf("%q comes back as %q", text, got)
			}
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	text, err := os.ReadFile(testdata("..", "..", "docs", "formats.md"))
	if err != nil {
		b.Fatal(err)
	}
	for name, vocab := range map[string]func(testing.TB) tokenizer.Vocab{
		"llama-spm": llama2Vocab, "gpt-2": gpt2Vocab, "starcoder": starcoderVocab,
	} {
		b.Run(name, func(b *testing.B) {
			tok := mustNew(b, vocab(b))
			b.SetBytes(int64(len(text)))
			var ids []int32
			for b.Loop() {
				ids = tok.AppendEncode(ids[:0], string(text), tokenizer.Options{})
			}
		})
	}
}

func BenchmarkNew(b *testing.B) {
	for name, v := range map[string]tokenizer.Vocab{"llama-spm": llama2Vocab(b), "gpt-2": gpt2Vocab(b)} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				mustNew(b, v)
			}
		})
	}
}
