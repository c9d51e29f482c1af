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

// reserve does nothing: APFS allocates when blocks are written.
func reserve(*os.File, int64) error { return nil }
