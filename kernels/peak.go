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
// read from buf, which should be larger than the caches.
func PeakRead(p *Pool, buf []byte, d time.Duration) float64 {
	const piece = 1 << 20
	pieces := len(buf) / piece
	if pieces == 0 || vectorLen() == 0 {
		return 0
	}
	work := func(_, item int) { readAll(buf[item*piece:][:piece]) }
	return rate(d, func(n int) float64 {
		var bytes float64
		for range max(1, n/len(buf)) {
			p.Run(pieces, work)
			bytes += float64(pieces * piece)
		}
		return bytes
	})
}

// rate calls f, which returns how much it did, with growing n until it takes
// the time d, and returns the best rate of three such calls.
func rate(d time.Duration, f func(n int) float64) float64 {
	n := 1 << 16
	for {
		start := time.Now()
		if f(n) == 0 {
			return 0
		}
		took := time.Since(start)
		if took >= d/8 {
			n = int(float64(n)*float64(d/4)/float64(took)) + 1
			break
		}
		n *= 2
	}
	var best float64
	for range 3 {
		start := time.Now()
		done := f(n)
		best = max(best, done/time.Since(start).Seconds())
	}
	return best
}
