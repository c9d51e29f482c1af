// Package corpus reads the texts that a model is measured on.
package corpus

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/smeltgguf/smelt/formats"
)

// maxSize bounds a text once decompressed: far more than any evaluation reads,
// little enough that a compression bomb does no harm.
const maxSize = 1 << 30

// Options say how files are read.
type Options struct {
	// Field is the key of a JSONL line whose string is the text; "text" if empty.
	Field string
}

// Text is what was read.
type Text struct {
	Files []string // the files, patterns expanded, in order
	Data  []byte   // their contents, one after the other
}

// Read expands each pattern (a path, or a glob as in path/filepath) and reads
// the files in order. Files ending in .gz and .zst are decompressed; of files
// ending in .jsonl, before that ending, each line is an object whose Field is
// taken, followed by a newline.
func Read(patterns []string, opt Options) (*Text, error) {
	t := &Text{}
	for _, p := range patterns {
		files, err := expand(p)
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			b, err := readFile(f, opt)
			if err != nil {
				return nil, err
			}
			t.Files = append(t.Files, f)
			t.Data = append(t.Data, b...)
			if len(t.Data) > maxSize {
				return nil, fmt.Errorf("%s: texts exceed %d MiB", f, maxSize>>20)
			}
		}
	}
	return t, nil
}

func expand(pattern string) ([]string, error) {
	if _, err := os.Lstat(pattern); err == nil || !strings.ContainsAny(pattern, "*?[") {
		return []string{pattern}, nil // a file of that very name comes first
	}
	files, err := filepath.Glob(pattern)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", pattern, err)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s: no file matches", pattern)
	}
	return files, nil
}

func readFile(path string, opt Options) ([]byte, error) {
	b, name, err := ReadFile(path)
	if err == nil && filepath.Ext(name) == ".jsonl" {
		return jsonLines(path, b, opt.Field)
	}
	return b, err
}

// ReadFile reads a file as it stands, decompressed if its name ends in .gz or
// .zst; name is the path without that ending.
func ReadFile(path string) (data []byte, name string, err error) {
	f, err := formats.OpenRegular(path)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	var r io.Reader = f
	name = path
	switch filepath.Ext(path) {
	case ".gz":
		z, err := gzip.NewReader(f)
		if err != nil {
			return nil, "", fmt.Errorf("%s: not a gzip file: %w", path, err)
		}
		r, name = z, strings.TrimSuffix(path, ".gz")
	case ".zst":
		z, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, "", fmt.Errorf("%s: not a zstd file: %w", path, err)
		}
		defer z.Close()
		r, name = z, strings.TrimSuffix(path, ".zst")
	}
	b, err := io.ReadAll(io.LimitReader(r, maxSize+1))
	if err != nil {
		return nil, "", fmt.Errorf("%s: read error after %d bytes: %w", path, len(b), err)
	}
	if len(b) > maxSize {
		return nil, "", fmt.Errorf("%s: text exceeds %d MiB", path, maxSize>>20)
	}
	return b, name, nil
}

func jsonLines(path string, data []byte, field string) ([]byte, error) {
	if field == "" {
		field = "text"
	}
	var out []byte
	n := 0
	for line := range bytes.Lines(data) {
		n++
		if len(bytes.TrimSpace(line)) == 0 {
			continue
		}
		var obj map[string]json.RawMessage
		if err := json.Unmarshal(line, &obj); err != nil {
			return nil, fmt.Errorf("%s: line %d: not a JSON object: %w", path, n, err)
		}
		raw, ok := obj[field]
		if !ok {
			return nil, fmt.Errorf("%s: line %d: no field %q: name another with --field", path, n, field)
		}
		var s string
		if err := json.Unmarshal(raw, &s); err != nil {
			return nil, fmt.Errorf("%s: line %d: field %q is not a string", path, n, field)
		}
		out = append(out, s...)
		out = append(out, '\n')
	}
	return out, nil
}
