package main

import (
	"os"
	"syscall"
)

// maxRSS returns the peak memory of a finished process in bytes.
func maxRSS(p *os.ProcessState) int64 {
	ru, ok := p.SysUsage().(*syscall.Rusage)
	if !ok {
		return 0
	}
	return ru.Maxrss << 10 // Linux counts KiB
}
