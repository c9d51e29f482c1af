package tasks

import (
	"context"
	"fmt"
	"math"

	"github.com/smeltgguf/smelt/internal/eval"
	"github.com/smeltgguf/smelt/kernels"
)

// Model runs several sequences side by side; decoder.Decoder is one.
type Model interface {
	Vocab() int
	// Forward and Append run tokens, those of each sequence, from an empty one and
	// after what it holds.
	Forward(ctx context.Context, seqs ...[]int32) error
	Append(ctx context.Context, seqs ...[]int32) error
	// Fork gives all sequences the first n tokens of the first.
	Fork(n int) error
	// Logits writes the logits of n positions from slot first on: position p of
	// sequence s is slot s*context+p.
	Logits(dst []float32, first, n int) error
}

// Contestant is a model with the path that it was given by, and the questions in
// its tokens.
type Contestant struct {
	Path  string
	Model Model
	Items []Item
	Slots int // tokens that each of the model's sequences holds at most
}

// Item is a question in tokens.
type Item struct {
	seqs  [][]int32
	from  []int // the first token of each that is scored
	to    []int // one past the last
	share int   // tokens that all have in common
	right []bool
}

// minTrailing is how many tokens must follow where the answers part for what
// comes after them to be scored alone, as in llama-perplexity.
const minTrailing = 3

// Prepare tokenizes questions. An answer's score is the mean log-probability of
// the tokens from where the answers part; in a question with Before, of those
// after the answer, its last one left out, as long as there are enough of them.
func Prepare(qs []Question, tokenize func([]byte) []int32) ([]Item, error) {
	items := make([]Item, len(qs))
	for i, q := range qs {
		it := &items[i]
		it.right = q.Right
		shortest := math.MaxInt
		for _, t := range q.Texts {
			s := tokenize([]byte(t))
			it.seqs = append(it.seqs, s)
			shortest = min(shortest, len(s))
		}
		// Every answer has a token to score, and every token one before it.
		if shortest < 2 {
			return nil, fmt.Errorf("question %d has %d tokens: too short to be scored", i, shortest)
		}
		for it.share < shortest-1 && same(it.seqs, it.share) {
			it.share++
		}
		skip := q.Before != nil
		for _, s := range it.seqs {
			skip = skip && len(s)-it.share > minTrailing
		}
		for k, s := range it.seqs {
			from, to := max(1, it.share), len(s)
			if skip {
				from = max(1, min(len(tokenize([]byte(q.Before[k]))), len(s)-1))
			}
			if q.Before != nil && to-from > 1 {
				to--
			}
			it.from, it.to = append(it.from, from), append(it.to, to)
		}
	}
	return items, nil
}

func same(seqs [][]int32, at int) bool {
	for _, s := range seqs[1:] {
		if s[at] != seqs[0][at] {
			return false
		}
	}
	return true
}

// Size returns the longest sequence and the most answers of the items: what
// their models must hold.
func Size(items []Item) (context, answers int) {
	for _, it := range items {
		answers = max(answers, len(it.seqs))
		for _, s := range it.seqs {
			context = max(context, len(s))
		}
	}
	return context, answers
}

// batchBytes bounds the logits that are held at a time.
const batchBytes = 16 << 20

// scores returns each answer's mean log-probability. What the answers have in
// common runs once, the rest of all side by side.
func (it *Item) scores(ctx context.Context, m Model, slots int) ([]float64, error) {
	vocab := m.Vocab()
	for _, s := range it.seqs {
		for _, t := range s {
			if t < 0 || int(t) >= vocab {
				return nil, fmt.Errorf("token %d: the vocabulary has %d", t, vocab)
			}
		}
	}
	share := it.share
	if share > 0 {
		if err := m.Forward(ctx, it.seqs[0][:share]); err != nil {
			return nil, err
		}
		if err := m.Fork(share); err != nil {
			return nil, err
		}
	}
	rest := make([][]int32, len(it.seqs))
	for k, s := range it.seqs {
		rest[k] = s[share : len(s)-1]
	}
	run := m.Append
	if share == 0 {
		run = m.Forward
	}
	if err := run(ctx, rest...); err != nil {
		return nil, err
	}
	batch := max(1, batchBytes/(4*vocab))
	logits := make([]float32, min(batch, slots)*vocab)
	scores := make([]float64, len(it.seqs))
	for k, s := range it.seqs {
		// The position before a token has its probability.
		for p := it.from[k] - 1; p < it.to[k]-1; {
			n := min(batch, it.to[k]-1-p)
			if err := m.Logits(logits[:n*vocab], k*slots+p, n); err != nil {
				return nil, err
			}
			for i := range n {
				row := logits[i*vocab : (i+1)*vocab]
				scores[k] += float64(row[s[p+i+1]]) - kernels.LogSumExp(row)
			}
			p += n
		}
		scores[k] /= float64(it.to[k] - it.from[k])
		if math.IsNaN(scores[k]) || math.IsInf(scores[k], 0) {
			return nil, fmt.Errorf("log-likelihood is %v: the model's output is not finite", scores[k])
		}
	}
	return scores, nil
}

// Result is what a task found.
type Result struct {
	Name      string  `json:"name"`
	File      string  `json:"file"`
	Questions int     `json:"questions"` // that were asked
	Complete  bool    `json:"complete"`
	Base      *Score  `json:"base,omitempty"`
	Models    []Score `json:"models"`
}

// Score is one model's.
type Score struct {
	Path     string  `json:"path"`
	Correct  int     `json:"correct"`
	Accuracy float64 `json:"accuracy"` // share of the questions
	// Low and High bound the accuracy: Wilson's interval of 95%.
	Low  float64 `json:"accuracy_low"`
	High float64 `json:"accuracy_high"`

	*Against // nil for the base and where there is none
}

// Against compares with the base, question by question.
type Against struct {
	Diff      float64 `json:"diff"`       // of the accuracies, model less base
	OnlyBase  int     `json:"only_base"`  // questions that only the base has right
	OnlyModel int     `json:"only_model"` // that only the model has right
	// McNemar is the two-sided p of McNemar's exact test: how probable so uneven a
	// split of these questions is if the models are equally good.
	McNemar float64 `json:"mcnemar_p"`
}

// confidence is how many standard deviations a 95% interval is wide to either
// side.
const confidence = 1.959963984540054

// Run asks every model every question. With base, models[0] is what the others are
// compared with. progress, if not nil, is called after each question. After an error the result holds the
// questions that all were asked.
func Run(ctx context.Context, models []Contestant, base bool, progress func(done int)) (*Result, error) {
	correct, onlyFirst, onlyOther := make([]int, len(models)), make([]int, len(models)), make([]int, len(models))
	asked := 0
	var failed error
ask:
	for i := range models[0].Items {
		got := make([]bool, len(models))
		for k, m := range models {
			s, err := m.Items[i].scores(ctx, m.Model, m.Slots)
			if err != nil {
				failed = fmt.Errorf("%s: question %d: %w", m.Path, i, err)
				break ask
			}
			best := 0
			for a, v := range s {
				if v > s[best] {
					best = a
				}
			}
			got[k] = m.Items[i].right[best]
		}
		asked++
		for k, ok := range got {
			if ok {
				correct[k]++
			}
			switch {
			case got[0] && !ok:
				onlyFirst[k]++
			case ok && !got[0]:
				onlyOther[k]++
			}
		}
		if progress != nil {
			progress(asked)
		}
	}
	res := &Result{Questions: asked, Complete: asked == len(models[0].Items)}
	if asked == 0 {
		return res, failed
	}
	n := float64(asked)
	for k, m := range models {
		s := Score{Path: m.Path, Correct: correct[k], Accuracy: float64(correct[k]) / n}
		s.Low, s.High = eval.Wilson(s.Accuracy, asked, confidence)
		if base && k == 0 {
			res.Base = &s
			continue
		}
		if base {
			s.Against = &Against{
				Diff:     float64(correct[k]-correct[0]) / n,
				OnlyBase: onlyFirst[k], OnlyModel: onlyOther[k],
				McNemar: mcNemar(onlyFirst[k], onlyOther[k]),
			}
		}
		res.Models = append(res.Models, s)
	}
	return res, failed
}

// mcNemar is the two-sided probability that b+c throws of a fair coin split at
// least as unevenly as b to c (Q. McNemar, 1947, in the exact form).
func mcNemar(b, c int) float64 {
	n := b + c
	all, _ := math.Lgamma(float64(n + 1))
	var p float64
	for i := range min(b, c) + 1 {
		x, _ := math.Lgamma(float64(i + 1))
		y, _ := math.Lgamma(float64(n - i + 1))
		p += math.Exp(all - x - y - float64(n)*math.Ln2)
	}
	return min(1, 2*p)
}

// Check holds gates on tasks against results: gates[i] against the i-th model's.
// A task that was not run misses its gate.
func Check(results []Result, paths []string, gates [][]eval.Gate) []eval.Outcome {
	var out []eval.Outcome
	for i, path := range paths {
		for _, g := range gates[i] {
			name, ok := g.Task()
			if !ok {
				continue
			}
			o := eval.Outcome{Gate: g, Name: g.String(), Path: path}
			for _, r := range results {
				if r.Name == name && i < len(r.Models) && r.Models[i].Against != nil {
					o.Value = r.Models[i].Diff
					o.Passed = o.Value >= g.Bound
				}
			}
			out = append(out, o)
		}
	}
	return out
}
