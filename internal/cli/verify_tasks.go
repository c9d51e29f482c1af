package cli

import (
	"context"
	"io"
	"slices"
	"strings"

	"github.com/smeltgguf/smelt/internal/corpus"
	"github.com/smeltgguf/smelt/internal/decoder"
	"github.com/smeltgguf/smelt/internal/model"
	"github.com/smeltgguf/smelt/internal/tasks"
)

// task is one --task.
type task struct {
	kind, name, file string
	questions        []tasks.Question
}

// parseTask takes KIND=FILE or KIND:NAME=FILE apart.
func parseTask(s string) (task, error) {
	head, file, ok := strings.Cut(s, "=")
	kind, name, named := strings.Cut(head, ":")
	if !named {
		name = kind
	}
	if !ok || file == "" || name == "" || !slices.Contains(tasks.Kinds, kind) {
		return task{}, usagef("--task %q: want KIND=FILE or KIND:NAME=FILE, the kind being one of %s", s, strings.Join(tasks.Kinds, ", "))
	}
	return task{kind: kind, name: name, file: file}, nil
}

// parseTasks parses all --task; their files are read later.
func (o *verifyOptions) parseTasks() error {
	for _, s := range o.taskFlags {
		t, err := parseTask(s)
		if err != nil {
			return err
		}
		if o.hasTask(t.name) {
			return usagef("--task %q: there is a task %s already: write KIND:NAME=FILE", s, t.name)
		}
		o.tasks = append(o.tasks, t)
	}
	return nil
}

func (o *verifyOptions) hasTask(name string) bool {
	return slices.ContainsFunc(o.tasks, func(t task) bool { return t.name == name })
}

// readTasks reads the files of questions.
func (o *verifyOptions) readTasks() error {
	for i := range o.tasks {
		t := &o.tasks[i]
		data, _, err := corpus.ReadFile(t.file)
		if err != nil {
			return err
		}
		if t.questions, err = tasks.Parse(t.kind, t.file, data); err != nil {
			return err
		}
		if o.taskQuestions > 0 && o.taskQuestions < len(t.questions) {
			t.questions = t.questions[:o.taskQuestions]
		}
	}
	return nil
}

// runTasks asks all models the questions of all tasks. After an error, an
// interrupt for one, the results hold what is known.
func (o *verifyOptions) runTasks(ctx context.Context, models []*model.Model, opt decoder.Options, stderr io.Writer) ([]tasks.Result, error) {
	var results []tasks.Result
	for _, t := range o.tasks {
		var all []tasks.Contestant
		for _, m := range models {
			items, err := tasks.Prepare(t.questions, m.Tokenize)
			if err != nil {
				return results, err
			}
			c := tasks.Contestant{Path: m.Path, Items: items}
			c.Slots, opt.Sequences = tasks.Size(items)
			opt.Context = c.Slots
			c.Model = decoder.New(m.Weights, opt)
			all = append(all, c)
		}
		bar := newProgress(stderr, "verify "+t.name, "questions", int64(len(t.questions)), o.quiet)
		res, err := tasks.Run(ctx, all, o.base != "", func(done int) { bar.set(int64(done), "") })
		bar.finish()
		res.Name, res.File = t.name, t.file
		results = append(results, *res)
		if err != nil {
			return results, err
		}
	}
	return results, nil
}
