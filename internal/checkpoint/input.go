package checkpoint

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/smeltgguf/smelt/formats"
)

// input is an open file of weights. Its bytes are read with pread, so that a
// file that is cut short meanwhile gives an error and not a signal; only what
// is used again and again, for a forward pass, is mapped.
type input struct {
	f    *os.File
	name string      // for messages
	info fs.FileInfo // when it was opened

	mapOnce sync.Once
	mapped  []byte
	mapErr  error
}

// openInput opens the regular file at path.
func openInput(path string) (*input, error) {
	f, info, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	return &input{f: f, name: path, info: info}, nil
}

// openRegular opens path if it is a regular file. A pipe is never opened: that
// would wait for its other end.
func openRegular(path string) (*os.File, fs.FileInfo, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, pathError(path, err)
	}
	if !info.Mode().IsRegular() {
		return nil, nil, formats.Malformedf(path, -1, "not a regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, pathError(path, err)
	}
	if info, err = f.Stat(); err == nil && !info.Mode().IsRegular() {
		err = formats.Malformedf(path, -1, "not a regular file")
	}
	if err != nil {
		f.Close()
		return nil, nil, pathError(path, err)
	}
	return f, info, nil
}

// pathError puts the path first, as all messages have it.
func pathError(path string, err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			return fmt.Errorf("%s: %w", path, fs.ErrNotExist)
		}
		return fmt.Errorf("%s: %w", path, pe.Err)
	}
	return err
}

// mapFile maps the file into memory.
func (in *input) mapFile() ([]byte, error) {
	in.mapOnce.Do(func() {
		if in.mapped, in.mapErr = formats.MapFile(in.f, in.info.Size()); in.mapErr != nil {
			in.mapErr = fmt.Errorf("%s: cannot map the file: %w", in.name, in.mapErr)
		}
	})
	return in.mapped, in.mapErr
}

// close closes the file; what was mapped is gone.
func (in *input) close() error {
	var err error
	if in.mapped != nil {
		err = formats.UnmapFile(in.mapped)
	}
	return errors.Join(err, in.f.Close())
}

// ReadAt fills p from offset off on.
func (in *input) ReadAt(p []byte, off int64) (int, error) {
	n, err := in.f.ReadAt(p, off)
	if n == len(p) {
		return n, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return n, in.changed()
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return n, formats.Malformedf(in.name, -1, "read error at %d: %v", off+int64(n), err)
}

func (in *input) changed() error {
	return formats.Malformedf(in.name, -1, "input changed while reading")
}

// verify reports whether the file is still the one that was opened, as far as
// its size and time tell.
func (in *input) verify() error {
	now, err := in.f.Stat()
	if err != nil {
		return pathError(in.name, err)
	}
	if now.Size() != in.info.Size() || !now.ModTime().Equal(in.info.ModTime()) {
		return in.changed()
	}
	return nil
}

// folder is the directory of a checkpoint. Its files' names come from outside
// (an index), so that what they lead to is looked at.
type folder struct {
	dir  string // as given, for messages
	real string // without symbolic links
}

func openFolder(dir string) (*folder, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	real, err := filepath.EvalSymlinks(abs)
	if err != nil {
		return nil, pathError(dir, err)
	}
	return &folder{dir, real}, nil
}

// path returns the path of a file in the folder. A symbolic link may lead
// elsewhere in the folder, or into the store of a download cache that has the
// folder among its snapshots (.../blobs/X beside .../snapshots/REVISION).
func (fo *folder) path(name string) (string, error) {
	path := filepath.Join(fo.dir, name)
	if !filepath.IsLocal(name) || strings.ContainsRune(name, 0) {
		return "", formats.Malformedf(fo.dir, -1, "file name %s not local", formats.Quote(name))
	}
	real, err := filepath.EvalSymlinks(filepath.Join(fo.real, name))
	if err != nil {
		return "", pathError(path, err)
	}
	if within(fo.real, real) {
		return path, nil
	}
	for dir := fo.real; ; dir = filepath.Dir(dir) {
		up := filepath.Dir(dir)
		if filepath.Base(up) == "snapshots" && within(filepath.Join(filepath.Dir(up), "blobs"), real) {
			return path, nil
		}
		if up == dir {
			break
		}
	}
	return "", formats.Malformedf(path, -1, "not a regular file of the checkpoint: a symbolic link leads out of it").
		WithHint("put the file itself there, or name it directly")
}

func within(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}
