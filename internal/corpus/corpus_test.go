package corpus

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

func write(t *testing.T, dir, name string, data []byte) string {
	t.Helper()
	p := filepath.Join(dir, name)
	if err := os.WriteFile(p, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func gz(t *testing.T, s string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write([]byte(s)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zst(t *testing.T, s string) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll([]byte(s), nil)
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.txt", []byte("plain "))
	write(t, dir, "b.txt.gz", gz(t, "gzipped "))
	write(t, dir, "c.txt.zst", zst(t, "zstd "))
	write(t, dir, "d.jsonl", []byte("{\"text\": \"one\", \"n\": 1}\n\n{\"text\": \"two\"}\n"))
	write(t, dir, "e.jsonl.gz", gz(t, `{"body": "x", "text": "y"}`))
	write(t, dir, "[odd].txt", []byte("odd"))
	for _, tt := range []struct {
		patterns []string
		field    string
		want     string
		files    int
	}{
		{[]string{"a.txt"}, "", "plain ", 1},
		{[]string{"?.txt*"}, "", "plain gzipped zstd ", 3},
		{[]string{"c.txt.zst", "a.txt"}, "", "zstd plain ", 2},
		{[]string{"d.jsonl"}, "", "one\ntwo\n", 1},
		{[]string{"e.jsonl.gz"}, "body", "x\n", 1},
		{[]string{"[odd].txt"}, "", "odd", 1},
	} {
		var paths []string
		for _, p := range tt.patterns {
			paths = append(paths, filepath.Join(dir, p))
		}
		got, err := Read(paths, Options{Field: tt.field})
		if err != nil {
			t.Errorf("%v: %v", tt.patterns, err)
			continue
		}
		if string(got.Data) != tt.want || len(got.Files) != tt.files {
			t.Errorf("%v: %q from %v, want %q", tt.patterns, got.Data, got.Files, tt.want)
		}
	}
}

func TestReadErrors(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "bad.gz", []byte("not gzip at all"))
	write(t, dir, "cut.gz", gz(t, strings.Repeat("text", 1000))[:20])
	write(t, dir, "bad.zst", []byte("not zstd at all"))
	write(t, dir, "bad.jsonl", []byte("{\"text\": \"a\"}\n[1]\n"))
	write(t, dir, "nofield.jsonl", []byte("{\"body\": \"a\"}\n"))
	write(t, dir, "number.jsonl", []byte("{\"text\": 3}\n"))
	for _, tt := range []struct{ name, want string }{
		{"missing.txt", "missing.txt: no such file"},
		{"*.none", "*.none: no file matches"},
		{".", "not a regular file"},
		{"bad.gz", "bad.gz: not a gzip file"},
		{"cut.gz", "cut.gz: read error after"},
		{"bad.zst", "bad.zst: read error after 0 bytes"},
		{"bad.jsonl", "bad.jsonl: line 2: not a JSON object"},
		{"nofield.jsonl", `line 1: no field "text": name another with --field`},
		{"number.jsonl", `line 1: field "text" is not a string`},
	} {
		_, err := Read([]string{filepath.Join(dir, tt.name)}, Options{})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want ...%s...", tt.name, err, tt.want)
		}
	}
}
