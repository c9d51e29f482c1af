//go:build (!amd64 && !arm64) || purego

package kernels

// detect leaves every feature off: all kernels run as plain Go.
func detect() {}
