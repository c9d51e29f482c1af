// Package inspect is what `smelt inspect` shows of a GGUF: its metadata, its
// tensors and, if asked for, a hash of each tensor's data.
package inspect

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/smeltgguf/smelt/formats/gguf"
	"github.com/smeltgguf/smelt/quant"
)

// Hashes holds the SHA-256 of each tensor's data in hexadecimal, in the order
// of File.Tensors.
type Hashes []string

// chunk is how many bytes are read at a time.
const chunk = 256 << 10

// Hash reads all tensors. progress, which may be nil, is told how many bytes
// have been read so far; calls are serialized.
func Hash(ctx context.Context, f *gguf.File, progress func(done int64)) (Hashes, error) {
	sums := make(Hashes, len(f.Tensors))
	err := ForEach(ctx, f, progress, func(i int, read func(fn func(b []byte)) error) error {
		h := sha256.New()
		if err := read(func(b []byte) { h.Write(b) }); err != nil {
			return err
		}
		sums[i] = hex.EncodeToString(h.Sum(nil))
		return nil
	})
	if err != nil {
		return nil, err
	}
	return sums, nil
}

// ForEach calls visit for each of f.Tensors, as many at a time as there are
// processors. What visit is given reads the tensor's data from front to back,
// whole blocks of up to 256 KiB at a time, which are good until fn returns. The
// first error ends it.
func ForEach(ctx context.Context, f *gguf.File, progress func(done int64), visit func(i int, read func(fn func(b []byte)) error) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		wg   sync.WaitGroup
		next atomic.Int64
		mu   sync.Mutex
		done int64
	)
	count := func(n int) {
		mu.Lock()
		defer mu.Unlock()
		done += int64(n)
		if progress != nil {
			progress(done)
		}
	}
	for range min(runtime.GOMAXPROCS(0), len(f.Tensors)) {
		wg.Go(func() {
			buf := make([]byte, chunk)
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(f.Tensors) {
					return
				}
				read := func(fn func(b []byte)) error {
					return f.ReadBlocks(ctx, f.Tensors[i], buf, func(b []byte) error {
						fn(b)
						count(len(b))
						return nil
					})
				}
				if err := visit(i, read); err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return f.Changed()
}

// TypeTotal sums up the tensors of one type.
type TypeTotal struct {
	Type    quant.Type
	Tensors int
	Elems   uint64
	Bytes   uint64
}

// Totals sums up the tensors by type, the largest first, and all together.
func Totals(f *gguf.File) (byType []TypeTotal, all TypeTotal) {
	at := map[quant.Type]int{}
	for _, t := range f.Tensors {
		i, ok := at[t.Type]
		if !ok {
			i = len(byType)
			at[t.Type] = i
			byType = append(byType, TypeTotal{Type: t.Type})
		}
		for _, s := range []*TypeTotal{&byType[i], &all} {
			s.Tensors++
			s.Elems += t.Elems()
			s.Bytes += t.Size()
		}
	}
	slices.SortStableFunc(byType, func(a, b TypeTotal) int { return cmp.Compare(b.Bytes, a.Bytes) })
	return byType, all
}

// BitsPerWeight returns the mean bits of an element; 0 where there are none.
func (t TypeTotal) BitsPerWeight() float64 {
	if t.Elems == 0 {
		return 0
	}
	return float64(t.Bytes) * 8 / float64(t.Elems)
}
