package tasks

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/smeltgguf/smelt/internal/decoder"
	"github.com/smeltgguf/smelt/internal/eval"
	"github.com/smeltgguf/smelt/internal/model"
)

var files = map[string]string{"hellaswag": "hellaswag.txt", "winogrande": "winogrande.csv", "mc": "mc.bin", "jsonl": "questions.jsonl"}

func questions(t testing.TB, kind string) []Question {
	t.Helper()
	path := filepath.Join("testdata", files[kind])
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	qs, err := Parse(kind, path, data)
	if err != nil {
		t.Fatal(err)
	}
	return qs
}

// TestTiny asks the tiny model. Scores are held to those of whole sequences, each
// run alone; the numbers of right answers are those that llama.cpp's logits give.
func TestTiny(t *testing.T) {
	m, err := model.Open("../../testdata/models/tiny/hf")
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for kind, want := range map[string]struct{ questions, correct int }{
		"hellaswag": {30, 4}, "winogrande": {30, 23}, "mc": {12, 1}, "jsonl": {12, 4},
	} {
		items, err := Prepare(questions(t, kind), m.Tokenize)
		if err != nil {
			t.Fatal(err)
		}
		slots, answers := Size(items)
		d := decoder.New(m.Weights, decoder.Options{Context: slots, Sequences: answers})
		vocab := d.Vocab()
		logits := make([]float32, slots*vocab)
		for i := range items {
			it := &items[i]
			got, err := it.scores(t.Context(), d, slots)
			if err != nil {
				t.Fatal(err)
			}
			for k, s := range it.seqs {
				if err := d.Forward(t.Context(), s); err != nil {
					t.Fatal(err)
				}
				if err := d.Logits(logits[:len(s)*vocab], 0, len(s)); err != nil {
					t.Fatal(err)
				}
				var sum float64
				for j := it.from[k]; j < it.to[k]; j++ {
					row := logits[(j-1)*vocab : j*vocab]
					var all float64
					for _, v := range row {
						all += math.Exp(float64(v))
					}
					sum += float64(row[s[j]]) - math.Log(all)
				}
				if sum /= float64(it.to[k] - it.from[k]); math.Abs(sum-got[k]) > 1e-4 {
					t.Errorf("%s, question %d, answer %d: %g, alone %g", kind, i, k, got[k], sum)
				}
			}
		}
		res, err := Run(t.Context(), []Contestant{{"m", d, items, slots}}, false, nil)
		if err != nil || res.Questions != want.questions || res.Models[0].Correct != want.correct || !res.Complete || res.Models[0].Against != nil {
			t.Errorf("%s: %+v, error %v; want %+v", kind, res, err, want)
		}
	}
}

// knows finds the sequences that are right more probable, for the questions
// that it knows.
type knows struct {
	right  map[int32]bool // last tokens
	tokens [][]int32
	fail   int // Forward calls until it fails
}

func (k *knows) Vocab() int { return 100 }

func (k *knows) Forward(_ context.Context, seqs ...[]int32) error {
	if k.fail--; k.fail == 0 {
		return context.Canceled
	}
	k.tokens = make([][]int32, 4)
	for i, s := range seqs {
		k.tokens[i] = append([]int32(nil), s...)
	}
	return nil
}

func (k *knows) Append(_ context.Context, seqs ...[]int32) error {
	for i, s := range seqs {
		k.tokens[i] = append(k.tokens[i], s...)
	}
	return nil
}

func (k *knows) Fork(n int) error {
	for i := range k.tokens {
		k.tokens[i] = append([]int32(nil), k.tokens[0][:n]...)
	}
	return nil
}

func (k *knows) Logits(dst []float32, first, n int) error {
	for i := range n {
		for v := range k.Vocab() {
			dst[i*k.Vocab()+v] = 0
			if k.right[int32(v)] {
				dst[i*k.Vocab()+v] = 1
			}
		}
	}
	return nil
}

func TestRun(t *testing.T) {
	// Question i has answers 2i and 2i+1, the first right.
	var items []Item
	for i := range int32(10) {
		items = append(items, Item{seqs: [][]int32{{99, 2 * i}, {99, 2*i + 1}}, from: []int{1, 1}, to: []int{2, 2}, share: 1, right: []bool{true, false}})
	}
	with := func(fail int, right ...int32) Contestant {
		k := &knows{right: map[int32]bool{}, fail: fail}
		for _, r := range right {
			k.right[r] = true
		}
		return Contestant{"m", k, items, 2}
	}
	// The base has 0 to 3 wrong, the model 3 to 8.
	base, other := with(0, 1, 3, 5, 7), with(0, 7, 9, 11, 13, 15, 17)
	var steps []int
	res, err := Run(t.Context(), []Contestant{base, other}, true, func(n int) { steps = append(steps, n) })
	if err != nil {
		t.Fatal(err)
	}
	a := res.Models[0].Against
	if res.Base.Correct != 6 || res.Models[0].Correct != 4 || a.OnlyBase != 5 || a.OnlyModel != 3 || math.Abs(a.Diff+0.2) > 1e-12 || len(steps) != 10 {
		t.Errorf("base %+v, model %+v, against %+v, steps %v", res.Base, res.Models[0], a, steps)
	}
	// 8 throws: 2 * (1+8+28+56)/256.
	if want := 2 * 93.0 / 256; math.Abs(a.McNemar-want) > 1e-12 {
		t.Errorf("McNemar p = %g, want %g", a.McNemar, want)
	}
	// Wilson's interval of 4 in 10, as tables have it.
	if s := res.Models[0]; math.Abs(s.Low-0.16818) > 1e-5 || math.Abs(s.High-0.68733) > 1e-5 {
		t.Errorf("interval %g to %g", s.Low, s.High)
	}

	gates := [][]eval.Gate{{{Figure: "task.x", Bound: -0.25}, {Figure: "task.x", Bound: -0.1}, {Figure: "task.y", Bound: -1}, {Figure: "mean_kld", Bound: 1}}}
	res.Name = "x"
	out := Check([]Result{*res}, []string{"m"}, gates)
	if len(out) != 3 || !out[0].Passed || out[1].Passed || out[2].Passed || out[0].Name != "task.x >= -0.25" {
		t.Errorf("gates: %+v", out)
	}

	// An interrupt leaves what all have been asked.
	res, err = Run(t.Context(), []Contestant{with(0), with(4)}, true, nil)
	if !errors.Is(err, context.Canceled) || res.Questions != 3 || res.Complete {
		t.Errorf("%+v, error %v", res, err)
	}
}

func TestMcNemar(t *testing.T) {
	for _, tt := range []struct {
		b, c int
		want float64
	}{{0, 0, 1}, {1, 0, 1}, {5, 5, 1}, {0, 6, 2.0 / 64}, {10, 0, 2.0 / 1024}, {3000, 2000, 1.6e-45}} {
		got := mcNemar(tt.b, tt.c)
		if math.Abs(got-tt.want) > 1e-9 || tt.want < 1e-9 && !(got > 0 && got < 1e-40) {
			t.Errorf("%d to %d: %g, want %g", tt.b, tt.c, got, tt.want)
		}
	}
}

// TestWinoGrandeParts looks at which tokens are scored.
func TestWinoGrandeParts(t *testing.T) {
	qs, err := Parse("winogrande", "x", []byte("0,\"a b, _ d e f g\",x,y,2\n1,a _ d,x,y,1\n"))
	if err != nil {
		t.Fatal(err)
	}
	if qs[0].Texts[1] != "a b, y d e f g" || qs[0].Before[0] != "a b, x" || !qs[0].Right[1] || qs[0].Right[0] {
		t.Errorf("%+v", qs[0])
	}
	words := func(b []byte) []int32 {
		ids := []int32{1}
		for _, w := range strings.Fields(string(b)) {
			ids = append(ids, int32(w[0]))
		}
		return ids
	}
	items, err := Prepare(qs, words)
	if err != nil {
		t.Fatal(err)
	}
	// <s> a b, x | d e f | g: what follows the choice, without the last token.
	if it := items[0]; it.share != 3 || it.from[0] != 4 || it.to[0] != 7 {
		t.Errorf("%+v", it)
	}
	// <s> a | x | d: too short, so from where they part.
	if it := items[1]; it.share != 2 || it.from[0] != 2 || it.to[0] != 3 {
		t.Errorf("%+v", it)
	}
}

func TestPrepareErrors(t *testing.T) {
	one := func([]byte) []int32 { return []int32{1} }
	if _, err := Prepare([]Question{{Texts: []string{"a", "b"}}}, one); err == nil {
		t.Error("a question of one token: no error")
	}
	// One answer is the beginning of the other: it keeps a token of its own.
	ids := func(b []byte) []int32 { return []int32{1, 2, 3, 4}[:len(b)] }
	items, err := Prepare([]Question{{Texts: []string{"aaa", "aaaa"}, Right: []bool{true, false}}}, ids)
	if err != nil || items[0].share != 2 || items[0].to[0] != 3 {
		t.Errorf("%+v, error %v", items, err)
	}
}

func TestParseErrors(t *testing.T) {
	u32 := func(v ...uint32) string {
		b, _ := binary.Append(nil, binary.LittleEndian, v)
		return string(b)
	}
	for _, tt := range []struct{ kind, data, want string }{
		{"quiz", "", "no kind of task"},
		{"hellaswag", "a\n0\nb\nc\n", "4 lines"},
		{"hellaswag", "a\n4\nb\nc\nd\ne\n", "line 2"},
		{"winogrande", "", "no questions"},
		{"winogrande", "0,a b,x,y,1\n", "no _"},
		{"winogrande", "0,a _,x,y,3\n", "want 1 or 2"},
		{"winogrande", "0,a _,x\n", "want index"},
		{"mc", "", "cut short"},
		{"mc", u32(1 << 30), "cut short"},
		{"mc", u32(1, 8, 1<<31), "question 0"},
		{"mc", u32(1, 8, 1) + "q" + u32(1<<20), "question 0"},
		{"mc", u32(1, 8, 1) + "q" + u32(0, 0), "want a question"},
		{"jsonl", "{", "line 1"},
		{"jsonl", `{"question": "q", "choices": ["a"], "answer": 0}`, "want question"},
		{"jsonl", `{"question": "q", "choices": ["a", "b"], "answer": 2}`, `answer "2"`},
		{"jsonl", `{"question": "q", "choices": ["a", "b"]}`, "answer"},
		{"jsonl", `{"question": "q", "choices": ["a", "b"], "answer": "C"}`, "answer"},
	} {
		_, err := Parse(tt.kind, "file", []byte(tt.data))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s %q: error %v, want %q", tt.kind, tt.data, err, tt.want)
		}
	}
	for text, want := range map[string]int{"1": 1, `"B"`: 1, `"b2"`: 1, `"A"`: 0} {
		qs, err := Parse("jsonl", "file", []byte(`{"question": "q", "choices": ["a", "b2"], "answer": `+text+"}\r\n"))
		if err != nil || !qs[0].Right[want] {
			t.Errorf("answer %s: %+v, error %v", text, qs, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for kind, name := range files {
		data, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(kind, data)
	}
	f.Fuzz(func(t *testing.T, kind string, data []byte) {
		qs, err := Parse(kind, "file", data)
		if err == nil && len(qs) == 0 {
			t.Error("no questions, and no error")
		}
		for _, q := range qs {
			if len(q.Texts) < 2 || len(q.Right) != len(q.Texts) || q.Before != nil && len(q.Before) != len(q.Texts) {
				t.Errorf("%+v", q)
			}
		}
	})
}
