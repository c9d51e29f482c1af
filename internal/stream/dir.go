package stream

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// OutputDir is a directory of files that comes into being as a whole: until
// Commit it is in a temporary directory beside its final place, under its final
// name.
type OutputDir struct {
	path string // where it will be
	tmp  string // the directory that it is in until then
	once sync.Once
	err  error
}

// CreateDir prepares a directory. One that is there already is refused unless
// force is set and replaceable returns no error for it.
func CreateDir(path string, force bool, replaceable func(dir string) error) (*OutputDir, error) {
	full, err := filepath.Abs(path)
	if err != nil {
		return nil, &OutputError{Path: path, Msg: reason(err), Err: err}
	}
	if to, err := filepath.EvalSymlinks(full); err == nil {
		full = to
	}
	switch st, err := os.Lstat(full); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, &OutputError{Path: path, Msg: reason(err), Err: err}
	case !st.IsDir():
		return nil, &OutputError{Path: path, Msg: "is no directory", Hint: "name a directory to write"}
	case !force:
		return nil, &OutputError{Path: path, Msg: "exists already", Hint: "use --force to replace it", Err: fs.ErrExist}
	default:
		if err := replaceable(full); err != nil {
			return nil, &OutputError{Path: path, Msg: err.Error(), Hint: "remove it yourself if nothing in it is needed", Err: err}
		}
	}
	parent := filepath.Dir(full)
	tmp, err := os.MkdirTemp(parent, "."+filepath.Base(full)+".tmp-*")
	if err == nil {
		if err = os.Mkdir(filepath.Join(tmp, filepath.Base(full)), 0o777); err != nil {
			os.Remove(tmp)
		}
	}
	if err != nil {
		return nil, &OutputError{Path: path, Msg: fmt.Sprintf("cannot create a directory in %s: %s", parent, reason(err)), Err: err}
	}
	return &OutputDir{path: full, tmp: tmp}, nil
}

// Temp returns where the directory is until Commit: its files go there.
func (d *OutputDir) Temp() string { return filepath.Join(d.tmp, filepath.Base(d.path)) }

// Commit puts the directory under its name, in place of what stood there. After
// an error the temporary directory is gone and the name is as it was.
func (d *OutputDir) Commit() error {
	d.once.Do(func() {
		defer os.RemoveAll(d.tmp)
		old := filepath.Join(d.tmp, "old")
		if old == d.Temp() {
			old += "er"
		}
		err := os.Rename(d.path, old)
		if errors.Is(err, fs.ErrNotExist) {
			old, err = "", nil
		}
		if err == nil {
			if err = os.Rename(d.Temp(), d.path); err != nil && old != "" {
				err = errors.Join(err, os.Rename(old, d.path))
			}
		}
		if err == nil {
			err = errors.Join(syncDir(d.path), syncDir(filepath.Dir(d.path)))
		}
		if err != nil {
			d.err = &OutputError{Path: d.path, Msg: "cannot finish it: " + reason(err), Err: err}
		}
	})
	return d.err
}

// Abort removes what has been written; after Commit it does nothing.
func (d *OutputDir) Abort() error {
	var err error
	d.once.Do(func() {
		d.err = &OutputError{Path: d.path, Msg: "was given up"}
		err = os.RemoveAll(d.tmp)
	})
	return err
}
