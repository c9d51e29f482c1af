//go:build !(linux || darwin || freebsd || netbsd || openbsd || dragonfly)

package stream

import (
	"errors"
	"os"
)

// Lock says that there are no locks here.
func Lock(*os.File) error { return errors.ErrUnsupported }
