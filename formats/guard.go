package formats

import (
	"errors"
	"fmt"
	"runtime/debug"
)

// ErrChanged says that a file is not what it was when it was opened.
var ErrChanged = errors.New("input changed while reading")

// Guard runs fn on the calling goroutine; where fn reads mapped memory that the
// file no longer backs, Guard returns an error in place of a crash.
func Guard(fn func() error) (err error) {
	old := debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(old)
	defer func() {
		if r := recover(); r != nil {
			fault, ok := r.(interface{ Addr() uintptr })
			if !ok {
				panic(r)
			}
			err = fmt.Errorf("%w (memory fault at %#x)", ErrChanged, fault.Addr())
		}
	}()
	return fn()
}
