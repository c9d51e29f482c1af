// Package manifest writes and checks the sidecar of a model file: what it was
// made from, by what, and the checksums of it all.
package manifest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/formats/gguf"
	"github.com/smeltgguf/smelt/formats/strictjson"
)

// Suffix is what a manifest's name ends in, after the model's.
const Suffix = ".manifest.json"

// format is the version of the form; it changes when a reader would no longer
// understand a manifest.
const format = 1

// Manifest describes the making of one model. Files are named without their
// directories, and nothing depends on when or where it was made: equal runs
// have equal manifests.
type Manifest struct {
	Format  int      `json:"manifest"` // 1
	Smelt   string   `json:"smelt"`    // version
	Command []string `json:"command"`  // paths reduced to the files' names
	Type    string   `json:"type"`     // file type or recipe: "Q4_K_M", "f16"
	Inputs  []File   `json:"inputs"`
	Imatrix *File    `json:"imatrix,omitempty"`
	Outputs []File   `json:"outputs"` // all parts of a split model
}

// File identifies a file.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"` // lower-case hexadecimal
}

// Path returns where the manifest of a model file belongs. The parts of a
// split model share one, named after the model.
func Path(model string) string {
	if prefix, _, _, ok := gguf.SplitPrefix(model); ok {
		model = prefix + ".gguf"
	}
	return model + Suffix
}

// Hash reads a file and returns its size and checksum. progress, which may be
// nil, is told of the bytes read.
func Hash(ctx context.Context, path string, progress func(n int64)) (File, error) {
	f, err := formats.OpenRegular(path)
	if err != nil {
		return File{}, err
	}
	defer f.Close()
	h := sha256.New()
	out := File{Name: filepath.Base(path)}
	buf := make([]byte, 1<<20)
	for {
		if err := ctx.Err(); err != nil {
			return File{}, err
		}
		n, err := f.Read(buf)
		h.Write(buf[:n])
		out.Size += int64(n)
		if progress != nil {
			progress(int64(n))
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return File{}, err
		}
	}
	out.SHA256 = hex.EncodeToString(h.Sum(nil))
	return out, nil
}

// HashAll hashes files side by side, in order.
func HashAll(ctx context.Context, paths []string, progress func(n int64)) ([]File, error) {
	files, errs := make([]File, len(paths)), make([]error, len(paths))
	slots := make(chan struct{}, runtime.GOMAXPROCS(0))
	var wg sync.WaitGroup
	for i, path := range paths {
		slots <- struct{}{}
		wg.Go(func() {
			files[i], errs[i] = Hash(ctx, path, progress)
			<-slots
		})
	}
	wg.Wait()
	return files, errors.Join(errs...)
}

// Encode returns the manifest as a file's contents.
func (m *Manifest) Encode() ([]byte, error) {
	v := *m
	v.Format = format
	// Lists are lists, also empty ones: not null.
	v.Command = append([]string{}, m.Command...)
	v.Inputs, v.Outputs = append([]File{}, m.Inputs...), append([]File{}, m.Outputs...)
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(v)
	return b.Bytes(), err
}

// Command reduces a command line to what may be published: of each argument
// that is a path, also as --flag=path, the last part is kept.
func Command(args []string) []string {
	out := make([]string, len(args))
	for i, a := range args {
		flag, value := "", a
		if name, v, ok := strings.Cut(a, "="); ok && strings.HasPrefix(a, "-") {
			flag, value = name+"=", v
		}
		if strings.ContainsRune(filepath.ToSlash(value), '/') {
			value = filepath.Base(value)
		}
		out[i] = flag + value
	}
	return out
}

// maxSize bounds a manifest: some ten thousand files.
const maxSize = 4 << 20

// Read reads a manifest.
func Read(path string) (*Manifest, error) {
	f, err := formats.OpenRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxSize {
		return nil, formats.Malformedf(path, -1, "longer than %d bytes", maxSize)
	}
	return Parse(path, data)
}

// Parse reads a manifest; path names it in errors. Keys that it does not know
// are left alone, what it knows has to be as Manifest says.
func Parse(path string, data []byte) (*Manifest, error) {
	v, err := strictjson.Parse(path, data, false)
	if err != nil {
		return nil, err
	}
	p := parser{path: path}
	top := p.object("manifest", v)
	m := &Manifest{}
	if n := p.integer("manifest", top["manifest"]); p.err == nil && n != format {
		return nil, formats.Unsupportedf(path, -1, "a manifest of form %d; this version reads form %d", n, format)
	}
	m.Format = format
	m.Smelt, m.Type = p.text("smelt", top["smelt"]), p.text("type", top["type"])
	for _, a := range p.list("command", top["command"]) {
		m.Command = append(m.Command, p.text("command", a))
	}
	m.Inputs, m.Outputs = p.files("inputs", top["inputs"]), p.files("outputs", top["outputs"])
	if im, ok := top["imatrix"]; ok {
		f := p.file("imatrix", im)
		m.Imatrix = &f
	}
	if p.err == nil && len(m.Outputs) == 0 {
		p.fail("it has no outputs")
	}
	if p.err != nil {
		return nil, p.err
	}
	return m, nil
}

// parser takes values apart and keeps the first error.
type parser struct {
	path string
	err  error
}

func (p *parser) fail(msg string, args ...any) {
	if p.err == nil {
		p.err = formats.Malformedf(p.path, -1, "not a manifest: "+msg, args...)
	}
}

func (p *parser) object(what string, v any) map[string]any {
	m, ok := v.(map[string]any)
	if !ok {
		p.fail("%s is no object", what)
	}
	return m
}

func (p *parser) list(what string, v any) []any {
	l, ok := v.([]any)
	if !ok {
		p.fail("%s is no list", what)
	}
	return l
}

func (p *parser) text(what string, v any) string {
	s, ok := v.(string)
	if !ok {
		p.fail("%s is no string", what)
	}
	return s
}

func (p *parser) integer(what string, v any) int64 {
	n, _ := v.(json.Number)
	i, err := strconv.ParseInt(string(n), 10, 64)
	if err != nil {
		p.fail("%s is no whole number", what)
	}
	return i
}

func (p *parser) files(what string, v any) []File {
	var files []File
	for _, f := range p.list(what, v) {
		files = append(files, p.file(what, f))
	}
	return files
}

func (p *parser) file(what string, v any) File {
	m := p.object(what, v)
	f := File{Name: p.text(what+": name", m["name"]), Size: p.integer(what+": size", m["size"]), SHA256: p.text(what+": sha256", m["sha256"])}
	if f.Name == "" || f.Name == "." || f.Name == ".." || strings.ContainsAny(f.Name, "/\\\x00") {
		p.fail("%s: %s is no file's name", what, formats.Quote(f.Name))
	}
	if f.Size < 0 {
		p.fail("%s: %s has %d bytes", what, formats.Quote(f.Name), f.Size)
	}
	if sum, err := hex.DecodeString(f.SHA256); err != nil || len(sum) != sha256.Size || f.SHA256 != strings.ToLower(f.SHA256) {
		p.fail("%s: %s is no SHA-256", what, formats.Quote(f.SHA256))
	}
	return f
}

// Check holds the model that path is a file of against the manifest and says
// what differs, a line each; the files are beside path. An error is what kept it
// from looking.
func (m *Manifest) Check(ctx context.Context, path string, progress func(done, total int64)) ([]string, error) {
	dir, base := filepath.Split(path)
	var problems []string
	names := make([]string, len(m.Outputs))
	listed := false
	for i, f := range m.Outputs {
		names[i] = f.Name
		listed = listed || f.Name == base
	}
	if !listed {
		if len(m.Outputs) > 1 {
			return []string{fmt.Sprintf("the manifest does not list it, but %s and %d others", formats.Quote(names[0]), len(names)-1)}, nil
		}
		names[0] = base // the file has another name now
	}
	var total, done int64
	sizes := make([]int64, len(names))
	for i, f := range m.Outputs {
		st, err := os.Stat(dir + names[i])
		switch {
		case errors.Is(err, fs.ErrNotExist):
			problems = append(problems, fmt.Sprintf("%s is missing; the manifest lists it with %d bytes", formats.Quote(names[i]), f.Size))
			sizes[i] = -1
		case err != nil:
			return problems, err
		case st.Size() != f.Size:
			problems = append(problems, fmt.Sprintf("%s has %d bytes, %d by the manifest", formats.Quote(names[i]), st.Size(), f.Size))
			sizes[i] = -1
		default:
			sizes[i] = f.Size
			total += f.Size
		}
	}
	for i, f := range m.Outputs {
		if sizes[i] < 0 {
			continue
		}
		found, err := Hash(ctx, dir+names[i], func(n int64) {
			done += n
			if progress != nil {
				progress(done, total)
			}
		})
		if err != nil {
			return problems, err
		}
		if found.SHA256 != f.SHA256 {
			problems = append(problems, fmt.Sprintf("%s has SHA-256 %s, %s by the manifest", formats.Quote(names[i]), found.SHA256, f.SHA256))
		}
	}
	return problems, nil
}
