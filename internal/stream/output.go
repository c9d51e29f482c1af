package stream

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
)

// ErrLocked is what Lock returns for a file that another has locked.
var ErrLocked = errors.New("locked by another process")

// OutputError says why a file cannot be written. It prints as
// `<path>: <message>`.
type OutputError struct {
	Path string
	Msg  string
	Hint string // what to do about it; may be empty
	Err  error  // the cause; may be nil
}

func (e *OutputError) Error() string { return e.Path + ": " + e.Msg }

func (e *OutputError) Unwrap() error { return e.Err }

// HintText returns what the person can do about it.
func (e *OutputError) HintText() string { return e.Hint }

// Output is a file that comes into being as a whole: until Commit its bytes
// are in a temporary file of the same directory, and what stood under its name
// before is untouched.
type Output struct {
	path string
	f    *os.File
	once sync.Once // Commit or Abort
	err  error
}

// Spec is a file to be created: its path and its final size in bytes.
type Spec struct {
	Path string
	Size int64
}

// Create prepares one output file of the given size; see CreateAll.
func Create(path string, size int64, force bool, inputs ...string) (*Output, error) {
	outs, err := CreateAll([]Spec{{path, size}}, force, inputs)
	if err != nil {
		return nil, err
	}
	return outs[0], nil
}

// CreateAll prepares the files of an output, all or none of them: it refuses a
// path that is a directory, a device or a pipe, one that is among inputs under
// whatever name (hard and symbolic links included), and, unless force is set,
// one that exists; it checks that the files fit the free space, and
// makes temporary files of the final sizes that read as zeros. A path that is
// a symbolic link means the file that it points to.
func CreateAll(files []Spec, force bool, inputs []string) ([]*Output, error) {
	paths := make([]string, len(files))
	need := map[string]int64{} // directory -> bytes
	for i, s := range files {
		p, err := checkOutput(s.Path, force, inputs)
		if err != nil {
			return nil, err
		}
		paths[i] = p
		need[filepath.Dir(p)] += s.Size
	}
	var outs []*Output
	fail := func(err error) ([]*Output, error) {
		for _, o := range outs {
			o.Abort()
		}
		return nil, err
	}
	checked := map[string]bool{}
	for i, s := range files {
		dir := filepath.Dir(paths[i])
		f, err := createTemp(dir, HiddenName(paths[i])+".tmp-*")
		if err != nil {
			return fail(&OutputError{Path: s.Path, Msg: fmt.Sprintf("cannot create a file in %s: %s", dir, reason(err)), Err: err})
		}
		outs = append(outs, &Output{path: paths[i], f: f})
		if !checked[dir] {
			checked[dir] = true
			if have, ok := freeSpace(f); ok && uint64(need[dir]) > have {
				return fail(noSpace(s.Path, need[dir], have))
			}
		}
		if err := f.Truncate(s.Size); err != nil {
			return fail(&OutputError{Path: s.Path, Msg: fmt.Sprintf("cannot make a file of %d bytes: %s", s.Size, reason(err)), Err: err})
		}
		if err := reserve(f, s.Size); errors.Is(err, syscall.ENOSPC) {
			have, _ := freeSpace(f)
			return fail(noSpace(s.Path, s.Size, have))
		}
	}
	return outs, nil
}

// createTemp makes a file that RemoveStale, in whatever process, leaves alone.
func createTemp(dir, pattern string) (*os.File, error) {
	for {
		f, err := os.CreateTemp(dir, pattern)
		if err != nil {
			return nil, err
		}
		if !errors.Is(Lock(f), ErrLocked) {
			if _, err := os.Lstat(f.Name()); !errors.Is(err, fs.ErrNotExist) {
				return f, nil
			}
		}
		f.Close() // it was taken for stale before it was locked
	}
}

func noSpace(path string, need int64, have uint64) error {
	return &OutputError{
		Path: path,
		Msg:  fmt.Sprintf("no space: need %d bytes, have %d", need, have),
		Hint: "free space or write to another file system",
		Err:  syscall.ENOSPC,
	}
}

// checkOutput returns the path of the file that writing to path would make.
func checkOutput(path string, force bool, inputs []string) (string, error) {
	if path == "" {
		return "", &OutputError{Path: `""`, Msg: "empty output name"}
	}
	if os.IsPathSeparator(path[len(path)-1]) {
		return "", &OutputError{Path: path, Msg: "is a directory", Hint: "name the file to write"}
	}
	if dir, err := os.Stat(filepath.Dir(path)); err != nil {
		return "", &OutputError{Path: path, Msg: "no directory for it: " + reason(err), Err: err}
	} else if !dir.IsDir() {
		return "", &OutputError{Path: path, Msg: filepath.Dir(path) + " is not a directory"}
	}
	path, err := Resolve(path)
	if err != nil {
		return "", err
	}
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return path, nil
	}
	if err != nil {
		return "", &OutputError{Path: path, Msg: reason(err), Err: err}
	}
	if st.IsDir() {
		return "", &OutputError{Path: path, Msg: "is a directory", Hint: "name the file to write"}
	}
	if !st.Mode().IsRegular() {
		return "", &OutputError{Path: path, Msg: "not a regular file"}
	}
	for _, in := range inputs {
		if is, err := os.Stat(in); err == nil && os.SameFile(st, is) {
			return "", &OutputError{Path: path, Msg: "output is an input: the same file as " + in, Hint: "write to another name"}
		}
	}
	if !force {
		return "", &OutputError{Path: path, Msg: "exists already", Hint: "use --force to replace it", Err: fs.ErrExist}
	}
	return path, nil
}

// Resolve returns the file that writing to path makes or replaces: what a
// symbolic link points to, else path as it is.
func Resolve(path string) (string, error) {
	st, err := os.Lstat(path)
	if err != nil || st.Mode()&fs.ModeSymlink == 0 {
		return path, nil // what is wrong with it shows later
	}
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", &OutputError{Path: path, Msg: reason(err), Err: err}
	}
	return target, nil
}

// mostName is what a file name may have in bytes on nearly all file systems,
// less what is appended to a hidden name.
const mostName = 255 - len(".tmp-4294967295")

// HiddenName returns what the names of an output's companions begin with: its
// own behind a dot. Of a name that is too long for that a part and a checksum
// are taken.
func HiddenName(path string) string {
	name := "." + filepath.Base(path)
	if len(name) > mostName {
		sum := fmt.Sprintf("~%08x", Checksum(0, []byte(name)))
		name = strings.ToValidUTF8(name[:mostName-len(sum)], "") + sum
	}
	return name
}

// IsTemp reports whether a file name is that of a temporary file of an output.
func IsTemp(name, path string) bool {
	number, ok := strings.CutPrefix(name, HiddenName(path)+".tmp-")
	return ok && number != "" && strings.Trim(number, "0123456789") == ""
}

// RemoveStale removes the temporary files of an output that no process has
// open any more, as far as that can be told. But for keep, which may be nil.
func RemoveStale(path string, keep *Output) {
	dir := filepath.Dir(path)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		if !IsTemp(e.Name(), path) || !e.Type().IsRegular() || keep != nil && keep.f.Name() == name {
			continue
		}
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			continue
		}
		if Lock(f) == nil {
			os.Remove(name)
		}
		f.Close()
	}
}

// reason leaves the operation and the path out of an error of package os.
func reason(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return err.Error()
}

// Path returns where the file will be.
func (o *Output) Path() string { return o.path }

// WriteAt writes at a final position; it may be called concurrently.
func (o *Output) WriteAt(p []byte, off int64) (int, error) {
	n, err := o.f.WriteAt(p, off)
	if err != nil {
		msg := fmt.Sprintf("write error at %d: %s", off, reason(err))
		if errors.Is(err, syscall.ENOSPC) {
			msg = fmt.Sprintf("no space left at %d", off)
		}
		err = &OutputError{Path: o.path, Msg: msg, Err: err}
	}
	return n, err
}

// Commit puts the file under its name, replacing what stood there: contents
// and name are on the disk when it returns. After an error the temporary file
// is gone and the name is as it was.
func (o *Output) Commit() error {
	o.once.Do(func() {
		tmp := o.f.Name()
		err := o.f.Chmod(outputMode(o.path))
		if errors.Is(err, errors.ErrUnsupported) || runtime.GOOS == "windows" {
			err = nil
		}
		err = errors.Join(err, o.f.Sync(), o.f.Close())
		if err == nil {
			err = os.Rename(tmp, o.path)
		}
		if err != nil {
			os.Remove(tmp)
			o.err = &OutputError{Path: o.path, Msg: "cannot finish it: " + reason(err), Err: err}
			return
		}
		if err := syncDir(filepath.Dir(o.path)); err != nil {
			o.err = &OutputError{Path: o.path, Msg: "cannot sync its directory: " + reason(err), Err: err}
		}
	})
	return o.err
}

// Temp returns where the file's bytes are until Commit.
func (o *Output) Temp() string { return o.f.Name() }

// Keep closes the temporary file and leaves it for a later Reopen; after Commit
// or Abort it does nothing.
func (o *Output) Keep() error {
	var err error
	o.once.Do(func() {
		o.err = &OutputError{Path: o.path, Msg: "was not finished"}
		err = o.f.Close()
	})
	return err
}

// Reopen takes up outputs that were kept, or left behind by a process that did
// not end well: temps are their temporary files. It checks what CreateAll
// checks of the paths, and that the temporary files have the right sizes.
func Reopen(files []Spec, temps []string, force bool, inputs []string) ([]*Output, error) {
	var outs []*Output
	for i, s := range files {
		path, err := checkOutput(s.Path, force, inputs)
		if err == nil {
			var f *os.File
			if f, err = openTemp(temps[i], s.Size); err == nil {
				outs = append(outs, &Output{path: path, f: f})
				continue
			}
		}
		for _, o := range outs {
			o.Keep()
		}
		return nil, err
	}
	return outs, nil
}

func openTemp(path string, size int64) (*os.File, error) {
	st, err := os.Lstat(path)
	if err != nil {
		return nil, &OutputError{Path: path, Msg: reason(err), Err: err}
	}
	if !st.Mode().IsRegular() || st.Size() != size {
		return nil, &OutputError{Path: path, Msg: fmt.Sprintf("not a regular file of %d bytes", size)}
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, &OutputError{Path: path, Msg: reason(err), Err: err}
	}
	if errors.Is(Lock(f), ErrLocked) {
		f.Close()
		return nil, &OutputError{Path: path, Msg: "another process has it"}
	}
	return f, nil
}

// ReadAt reads what has been written.
func (o *Output) ReadAt(p []byte, off int64) (int, error) { return o.f.ReadAt(p, off) }

// Abort removes the temporary file; after Commit it does nothing.
func (o *Output) Abort() error {
	var err error
	o.once.Do(func() {
		o.err = &OutputError{Path: o.path, Msg: "was given up"}
		err = errors.Join(o.f.Close(), os.Remove(o.f.Name()))
	})
	return err
}

// CommitAll commits all outputs; when one fails, those not yet committed are
// given up.
func CommitAll(outs []*Output) error {
	for i, o := range outs {
		if err := o.Commit(); err != nil {
			for _, rest := range outs[i+1:] {
				rest.Abort()
			}
			return err
		}
	}
	return nil
}

// outputMode is the mode of a new file: that of the file it replaces, else
// what the process's umask leaves of 0666.
func outputMode(path string) fs.FileMode {
	if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() {
		return st.Mode().Perm()
	}
	return 0o666 &^ umask()
}
