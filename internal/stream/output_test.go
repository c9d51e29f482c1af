package stream

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// only fails unless dir holds exactly these names: nothing temporary stays.
func only(t *testing.T, dir string, names ...string) {
	t.Helper()
	es, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range es {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(names, " ") {
		t.Errorf("directory holds %q, want %q", got, names)
	}
}

func TestCreateRefuses(t *testing.T) {
	dir := t.TempDir()
	in := filepath.Join(dir, "in")
	write(t, in, "weights")
	path := func(name string) string { return filepath.Join(dir, name) }
	if err := os.Mkdir(path("dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(in, path("hard")); err != nil {
		t.Skip("no hard links here:", err)
	}
	if err := os.Symlink("in", path("soft")); err != nil {
		t.Skip("no symbolic links here:", err)
	}
	if err := os.Symlink("nowhere", path("dangling")); err != nil {
		t.Fatal(err)
	}
	write(t, path("old"), "old")
	for _, tt := range []struct {
		path  string
		size  int64
		force bool
		want  string
	}{
		{"dir", 1, true, "is a directory"},
		{"new" + string(os.PathSeparator), 1, true, "is a directory"},
		{"in", 1, true, "output is an input"},
		{"hard", 1, true, "output is an input"},
		{"soft", 1, true, "output is an input"},
		{"in", 1, false, "output is an input"},
		{"old", 1, false, "exists already"},
		{"dangling", 1, false, "no such file"},
		{"missing/new", 1, false, "no directory for it"},
		{"old/new", 1, false, "old is not a directory"},
		{"new", 1 << 60, false, "need 1152921504606846976"},
	} {
		p := filepath.Join(dir, filepath.FromSlash(tt.path))
		if strings.HasSuffix(tt.path, string(os.PathSeparator)) {
			p += string(os.PathSeparator)
		}
		o, err := Create(p, tt.size, tt.force, in)
		if err == nil {
			o.Abort()
			t.Errorf("%s: no error, want %q", tt.path, tt.want)
		} else if !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %q, want %q", tt.path, err, tt.want)
		}
	}
	only(t, dir, "dangling", "dir", "hard", "in", "old", "soft")
	if b, _ := os.ReadFile(in); string(b) != "weights" {
		t.Errorf("input now holds %q", b)
	}
}

func TestCreateInReadOnlyDirectory(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(dir, 0o755)
	if f, err := os.Create(filepath.Join(dir, "probe")); err == nil {
		f.Close()
		os.Remove(f.Name())
		t.Skip("this user may write to read-only directories")
	}
	if _, err := Create(filepath.Join(dir, "new"), 1, false); err == nil || !strings.Contains(err.Error(), "cannot create a file in "+dir) {
		t.Errorf("error %v", err)
	}
}

func TestCommitReplacesWhole(t *testing.T) {
	dir := t.TempDir()
	p := filepath.Join(dir, "out")
	write(t, p, "old")
	if err := os.Chmod(p, 0o640); err != nil {
		t.Fatal(err)
	}
	o, err := Create(p, 6, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.WriteAt([]byte("new"), 2); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(p); string(b) != "old" {
		t.Errorf("before Commit: %q", b)
	}
	if err := o.Commit(); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(p); string(b) != "\x00\x00new\x00" {
		t.Errorf("after Commit: %q", b)
	}
	if st, _ := os.Stat(p); runtime.GOOS != "windows" && st.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, want that of the file replaced", st.Mode())
	}
	if err := o.Abort(); err != nil {
		t.Errorf("Abort after Commit: %v", err)
	}
	only(t, dir, "out")
}

func TestAbortLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	p := filepath.Join(dir, "out")
	o, err := Create(p, 1<<20, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Abort(); err != nil {
		t.Fatal(err)
	}
	if err := o.Commit(); err == nil {
		t.Error("Commit after Abort succeeded")
	}
	only(t, dir)
}

func TestCreateAllIsAllOrNothing(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "b"), "old")
	_, err := CreateAll([]Spec{{filepath.Join(dir, "a"), 1}, {filepath.Join(dir, "b"), 1}}, false, nil)
	var oe *OutputError
	if !errors.As(err, &oe) || oe.Path != filepath.Join(dir, "b") || oe.HintText() == "" {
		t.Errorf("error %v", err)
	}
	// Each would fit alone, both do not.
	have := int64(0)
	if f, err := os.CreateTemp(dir, "probe"); err == nil {
		n, ok := freeSpace(f)
		f.Close()
		os.Remove(f.Name())
		if !ok {
			t.Skip("free space is not known here")
		}
		have = int64(min(n, 1<<50))
	}
	half := have/2 + have/4
	_, err = CreateAll([]Spec{{filepath.Join(dir, "c"), half}, {filepath.Join(dir, "d"), half}}, false, nil)
	if err == nil || !strings.Contains(err.Error(), "no space: need ") {
		t.Errorf("error %v", err)
	}
	only(t, dir, "b")
}
