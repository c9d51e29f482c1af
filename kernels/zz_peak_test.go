package kernels

import (
	"fmt"
	"os"
	"sort"
	"testing"
	"time"
)

func TestGenPeak(t *testing.T) {
	if os.Getenv("GENP") == "" {
		t.Skip()
	}
	for _, mb := range []int{512, 1024} {
		buf := make([]byte, mb<<20)
		for i := range buf {
			buf[i] = byte(i)
		}
		p := NewPool(2)
		for _, win := range []int{16, 32, 64, 256, mb} {
			var v []float64
			at := 0
			for start := time.Now(); time.Since(start) < time.Second; {
				t0 := time.Now()
				p.Run(win, func(_, i int) { k := (at + i) % mb; readAll(buf[k<<20:][:1<<20]) })
				v = append(v, float64(win<<20)/time.Since(t0).Seconds()/1e9)
				at = (at + win) % mb
			}
			sort.Float64s(v)
			n := len(v)
			fmt.Printf("buf %d window %d MiB: n %d min %.1f median %.1f p90 %.1f p99 %.1f max %.1f\n", mb, win, n, v[0], v[n/2], v[n*9/10], v[n*99/100], v[n-1])
		}
	}
}
