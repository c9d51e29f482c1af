// Package tasks scores models on multiple-choice questions: which of the
// answers a model finds most probable, and whether two models differ in that.
package tasks

import (
	"bytes"
	"encoding/binary"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/smeltgguf/smelt/formats"
)

// Question is a text with several continuations.
type Question struct {
	Texts []string // whole texts, one per answer
	// Before, if not nil, are the beginnings of Texts that end with the answer:
	// what comes after them is scored, but for its last token.
	Before []string
	Right  []bool // per answer
}

// Kinds are the file formats that Parse knows.
var Kinds = []string{"hellaswag", "winogrande", "mc", "jsonl"}

// maxAnswers bounds the answers of a question.
const maxAnswers = 100

// Parse reads a file of the kind:
//
//   - hellaswag: six lines a question: the context, the number of the right
//     ending from 0, four endings (llama-perplexity --hellaswag);
//   - winogrande: CSV lines of index, sentence with a _, two choices for it, the
//     number of the right one from 1 (llama-perplexity --winogrande);
//   - mc: the binary form of llama-perplexity --multiple-choice, of which the
//     questions with a single right answer are taken;
//   - jsonl: lines {"question": "...", "choices": ["...", ...], "answer": 0}; the
//     answer is a number from 0, a letter from A or the text of a choice.
//
// file is its name, for errors.
func Parse(kind, file string, data []byte) ([]Question, error) {
	var qs []Question
	var err error
	switch kind {
	case "hellaswag":
		qs, err = hellaswag(data)
	case "winogrande":
		qs, err = winogrande(data)
	case "mc":
		qs, err = multipleChoice(data)
	case "jsonl":
		qs, err = jsonLines(data)
	default:
		return nil, fmt.Errorf("no kind of task %s; there are %s", formats.Quote(kind), strings.Join(Kinds, ", "))
	}
	if err == nil && len(qs) == 0 {
		err = errors.New("no questions")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return qs, nil
}

// continued makes a question whose answers follow after a space.
func continued(context string, answers []string, right ...int) Question {
	q := Question{Right: make([]bool, len(answers))}
	for _, a := range answers {
		q.Texts = append(q.Texts, context+" "+a)
	}
	for _, r := range right {
		q.Right[r] = true
	}
	return q
}

// lines splits a text; an ending of CR LF is one too.
func lines(data []byte) []string {
	s := strings.ReplaceAll(string(data), "\r\n", "\n")
	return strings.Split(strings.TrimRight(s, "\n"), "\n")
}

func hellaswag(data []byte) ([]Question, error) {
	const per, endings = 6, 4
	l := lines(data)
	if len(l)%per != 0 {
		return nil, fmt.Errorf("%d lines: HellaSwag has %d for each question", len(l), per)
	}
	var qs []Question
	for i := 0; i < len(l); i += per {
		gold, err := strconv.Atoi(strings.TrimSpace(l[i+1]))
		if err != nil || gold < 0 || gold >= endings {
			return nil, fmt.Errorf("line %d: %s: want the right ending's number, 0 to %d", i+2, formats.Quote(l[i+1]), endings-1)
		}
		qs = append(qs, continued(l[i], l[i+2:i+per], gold))
	}
	return qs, nil
}

func winogrande(data []byte) ([]Question, error) {
	r := csv.NewReader(bytes.NewReader(data))
	r.FieldsPerRecord = 5
	r.LazyQuotes = true
	var qs []Question
	for {
		rec, err := r.Read()
		if errors.Is(err, io.EOF) {
			return qs, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%w: want index, sentence, two choices, answer", err)
		}
		line, _ := r.FieldPos(0)
		first, second, ok := strings.Cut(rec[1], "_")
		if !ok {
			return nil, fmt.Errorf("line %d: no _ in %s", line, formats.Quote(rec[1]))
		}
		answer, err := strconv.Atoi(strings.TrimSpace(rec[4]))
		if err != nil || answer < 1 || answer > 2 {
			return nil, fmt.Errorf("line %d: answer %s: want 1 or 2", line, formats.Quote(rec[4]))
		}
		q := Question{Right: make([]bool, 2)}
		for _, c := range rec[2:4] {
			q.Texts = append(q.Texts, first+c+second)
			q.Before = append(q.Before, first+c)
		}
		q.Right[answer-1] = true
		qs = append(qs, q)
	}
}

// multipleChoice reads uint32 n, n uint32 positions, and n times the question
// and two lists of answers, with one right one and with several. A string is its
// length and its bytes; a list the number of answers, these, and for each an int32
// that is 1 if it is right.
func multipleChoice(data []byte) ([]Question, error) {
	rest := data
	number := func() (uint32, bool) {
		if len(rest) < 4 {
			return 0, false
		}
		v := binary.LittleEndian.Uint32(rest)
		rest = rest[4:]
		return v, true
	}
	text := func() (string, bool) {
		n, ok := number()
		if !ok || uint64(n) > uint64(len(rest)) {
			return "", false
		}
		s := string(rest[:n])
		rest = rest[n:]
		return s, true
	}
	n, ok := number()
	if !ok || uint64(n) > uint64(len(rest))/4 {
		return nil, fmt.Errorf("%d questions in %d bytes: not a file of multiple choice, or cut short", n, len(data))
	}
	rest = rest[4*n:]
	var qs []Question
	for i := range n {
		cut := func() ([]Question, error) {
			return nil, fmt.Errorf("question %d, byte %d: damaged or cut short", i, len(data)-len(rest))
		}
		question, ok := text()
		if !ok {
			return cut()
		}
		var answers [2][]string
		var right [2][]int
		for list := range 2 {
			count, ok := number()
			if !ok || count > maxAnswers {
				return cut()
			}
			for range count {
				a, ok := text()
				if !ok {
					return cut()
				}
				answers[list] = append(answers[list], a)
			}
			for a := range int(count) {
				label, ok := number()
				if !ok {
					return cut()
				}
				if label == 1 {
					right[list] = append(right[list], a)
				}
			}
		}
		if question == "" || len(answers[0]) < 2 || len(right[0]) == 0 || slices.Contains(answers[0], "") {
			return nil, fmt.Errorf("question %d: %d answers, %d of them right: want a question, two answers or more and a right one", i, len(answers[0]), len(right[0]))
		}
		qs = append(qs, continued(question, answers[0], right[0]...))
	}
	return qs, nil
}

func jsonLines(data []byte) ([]Question, error) {
	var qs []Question
	for i, line := range lines(data) {
		if strings.TrimSpace(line) == "" {
			continue
		}
		var v struct {
			Question *string         `json:"question"`
			Choices  []string        `json:"choices"`
			Answer   json.RawMessage `json:"answer"`
		}
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
		if v.Question == nil || len(v.Choices) < 2 || len(v.Choices) > maxAnswers || slices.Contains(v.Choices, "") {
			return nil, fmt.Errorf("line %d: want question, 2 to %d choices that are not empty, and answer", i+1, maxAnswers)
		}
		right, ok := answer(v.Answer, v.Choices)
		if !ok {
			return nil, fmt.Errorf("line %d: answer %s: want a choice's number from 0, letter from A, or text", i+1, formats.Quote(string(v.Answer)))
		}
		qs = append(qs, continued(*v.Question, v.Choices, right))
	}
	return qs, nil
}

func answer(raw json.RawMessage, choices []string) (int, bool) {
	var n int
	if json.Unmarshal(raw, &n) == nil && len(raw) > 0 && string(raw) != "null" {
		return n, n >= 0 && n < len(choices)
	}
	var s string
	if json.Unmarshal(raw, &s) != nil || s == "" {
		return 0, false
	}
	if i := slices.Index(choices, s); i >= 0 {
		return i, true
	}
	n = int(s[0]) - 'A'
	return n, len(s) == 1 && n >= 0 && n < len(choices)
}
