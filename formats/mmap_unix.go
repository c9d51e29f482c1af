//go:build unix

package formats

import (
	"os"

	"golang.org/x/sys/unix"
)

// MapFile maps a file's first size bytes into memory, to be read only. Reading
// may fault if the file is cut short meanwhile: see Guard.
func MapFile(f *os.File, size int64) ([]byte, error) {
	return unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
}

// UnmapFile ends what MapFile began.
func UnmapFile(b []byte) error { return unix.Munmap(b) }
