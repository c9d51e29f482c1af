//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package quantize

import "os"

func lock(*os.File) bool { return true }
