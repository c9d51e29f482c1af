//go:build unix

package stream

import (
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// umask reads the process's file mode mask, which can only be read by setting
// it.
var umask = sync.OnceValue(func() os.FileMode {
	m := unix.Umask(0o022)
	unix.Umask(m)
	return os.FileMode(m) & os.ModePerm
})

// syncDir makes a rename in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	// Some network file systems cannot sync a directory; the rename stands.
	if err := d.Sync(); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOTSUP) {
		return err
	}
	return nil
}
