package stream

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/windows"
)

func umask() os.FileMode { return 0 }

// syncDir does nothing: NTFS journals its names, and a directory cannot be
// flushed without special rights.
func syncDir(string) error { return nil }

// freeSpace returns the bytes that the user may still write beside f.
func freeSpace(f *os.File) (uint64, bool) {
	dir, err := windows.UTF16PtrFromString(filepath.Dir(f.Name()))
	if err != nil {
		return 0, false
	}
	var free uint64
	if err := windows.GetDiskFreeSpaceEx(dir, &free, nil, nil); err != nil {
		return 0, false
	}
	return free, true
}

// reserve does nothing: setting the file's end has allocated it.
func reserve(*os.File, int64) error { return nil }
