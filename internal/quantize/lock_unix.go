//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package quantize

import (
	"os"

	"golang.org/x/sys/unix"
)

// lock makes f this process's for as long as it is open; false if it is
// another's. File systems without locks let everyone pass.
func lock(f *os.File) bool {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	return err != unix.EWOULDBLOCK
}
