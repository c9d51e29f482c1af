//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package stream

import (
	"os"

	"golang.org/x/sys/unix"
)

// Lock makes f this process's for as long as it is open. The error is ErrLocked
// if it is another's, or says that this file system has no locks.
func Lock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == unix.EWOULDBLOCK {
		return ErrLocked
	}
	return err
}
