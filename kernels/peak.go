package kernels

import "time"

// The ceilings of one core, measured: what a kernel's rate is to be compared
// with. Each takes about the time given and is 0 where there is no assembly.

// PeakFMA returns the float32 multiply-adds of one core in FLOP/s (two per
// multiply-add), from a loop on registers alone.
func PeakFMA(d time.Duration) float64 { return rate(d, peakFMA) }

// PeakInt8 returns the 8-bit multiply-adds of one core in op/s (two per
// multiply-add), from a loop on registers alone.
func PeakInt8(d time.Duration) float64 { return rate(d, peakInt8) }

// PeakRead returns the bytes per second at which the pool's goroutines together
// read the whole of buf, which should be larger than the caches and have been
// written to: the best rate of as many times as fit into d, at least one. They
// read in the way that products with one token read weights.
func PeakRead(p *Pool, buf []byte, d time.Duration) float64 {
	const piece = 1 << 20
	pieces := len(buf) / piece
	if pieces == 0 || vectorLen() == 0 {
		return 0
	}
	work := func(_, i int) { readAll(buf[i*piece:][:piece]) }
	var best time.Duration
	for start := time.Now(); best == 0 || time.Since(start) < d; {
		t := time.Now()
		p.Run(pieces, work)
		if took := time.Since(t); best == 0 || took < best {
			best = took
		}
	}
	return float64(pieces*piece) / best.Seconds()
}

// rate calls f, which returns how much it did, for the time d in all and
// returns the best rate of calls that take about a millisecond: other programs
// take the core away for longer than that.
func rate(d time.Duration, f func(n int) float64) float64 {
	n := 1 << 12
	var best float64
	for start := time.Now(); time.Since(start) < d; {
		t := time.Now()
		done := f(n)
		took := time.Since(t)
		if done == 0 {
			return 0
		}
		if took < time.Millisecond/2 && n < 1<<40 {
			n *= 2
			continue
		}
		best = max(best, done/took.Seconds())
	}
	return best
}
