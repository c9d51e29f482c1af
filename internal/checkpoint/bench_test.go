package checkpoint

import (
	"os"
	"sync"
	"testing"
)

// BenchmarkReadRows reads all tensors of the checkpoint SMELT_BENCH_MODEL
// (default: the tiny one) in units of 2 MiB, by two workers.
func BenchmarkReadRows(b *testing.B) {
	path := os.Getenv("SMELT_BENCH_MODEL")
	if path == "" {
		path = models + "tiny/hf"
	}
	c, err := Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	var total int64
	for _, t := range c.Tensors {
		total += int64(t.Count()) * int64(t.Type().RowSize(t.Len()))
	}
	b.SetBytes(total)
	b.ReportAllocs()
	for b.Loop() {
		var wg sync.WaitGroup
		for w := range 2 {
			wg.Go(func() {
				buf := make([]byte, 4<<20)
				for i := range c.Tensors {
					if i%2 != w {
						continue
					}
					t := &c.Tensors[i]
					size := t.Type().RowSize(t.Len())
					per := max(1, 2<<20/size)
					for r := 0; r < t.Count(); r += per {
						n := min(per, t.Count()-r)
						if err := t.ReadRows(buf[:n*size], r, n); err != nil {
							b.Error(err)
						}
					}
				}
			})
		}
		wg.Wait()
	}
}
