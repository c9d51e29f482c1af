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

// PeakRead returns the bytes per second that the pool's goroutines together
// read from buf, which should be larger than the caches and have been written
// to.
func PeakRead(p *Pool, buf []byte, d time.Duration) float64 {
	const piece = 1 << 16
	pieces := len(buf) / piece
	if pieces == 0 || vectorLen() == 0 {
		return 0
	}
	at := 0
	work := func(_, item int) {
		i := (at + item) % pieces
		readAll(buf[i*piece:][:piece])
	}
	return rate(d, func(n int) float64 {
		items := n/piece + 1
		p.Run(items, work)
		at = (at + items) % pieces
		return float64(items * piece)
	})
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
