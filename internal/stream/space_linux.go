package stream

import (
	"os"

	"golang.org/x/sys/unix"
)

// freeSpace returns the bytes that an ordinary user may still write to f's
// file system.
func freeSpace(f *os.File) (uint64, bool) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return 0, false
	}
	return st.Bavail * uint64(st.Bsize), true
}

// reserve allocates the file's blocks, so that the space is not taken by
// others while we write. In memory (tmpfs) that would clear every page once
// more than needed.
func reserve(f *os.File, size int64) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil || st.Type == unix.TMPFS_MAGIC || size == 0 {
		return nil
	}
	return unix.Fallocate(int(f.Fd()), 0, 0, size)
}
