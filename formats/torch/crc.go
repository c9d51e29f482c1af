package torch

import (
	"hash/crc32"
	"io"
	"slices"
	"sync"
)

// checksum puts together the CRC-32 of a record from pieces that are read in
// any order, so that a record that is read as a whole need not be read again to
// be checked.
type checksum struct {
	mu    sync.Mutex
	spans []span // sorted, apart from each other
	used  bool
}

type span struct {
	start, end int64
	sum        uint32
}

// maxSpans bounds what is remembered; pieces beyond are read again at the end.
const maxSpans = 1000

func (c *checksum) touched() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.used
}

// add notes the piece p at byte off. Pieces that overlap others are of no use.
func (c *checksum) add(p []byte, off int64) {
	end := off + int64(len(p))
	c.mu.Lock()
	c.used = true
	free := c.free(off, end)
	c.mu.Unlock()
	if !free {
		return
	}
	c.insert(span{off, end, crc32.ChecksumIEEE(p)})
}

// after returns the index of the first span that starts at off or later.
func (c *checksum) after(off int64) int {
	i, _ := slices.BinarySearchFunc(c.spans, off, func(s span, off int64) int {
		if s.start < off {
			return -1
		}
		return 1
	})
	return i
}

func (c *checksum) free(off, end int64) bool {
	i := c.after(off)
	return off < end && (i == 0 || c.spans[i-1].end <= off) && (i == len(c.spans) || end <= c.spans[i].start)
}

func (c *checksum) insert(s span) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.free(s.start, s.end) {
		return // another worker read the same meanwhile
	}
	i := c.after(s.start)
	if i > 0 && c.spans[i-1].end == s.start {
		i--
		s = join(c.spans[i], s)
		c.spans = slices.Delete(c.spans, i, i+1)
	}
	if i < len(c.spans) && s.end == c.spans[i].start {
		c.spans[i] = join(s, c.spans[i])
		return
	}
	if len(c.spans) < maxSpans {
		c.spans = slices.Insert(c.spans, i, s)
	}
}

// finish returns the checksum of the record, size bytes at off of r, and reads
// what was not read yet.
func (c *checksum) finish(r io.ReaderAt, off, size int64) (uint32, error) {
	c.mu.Lock()
	spans := slices.Clone(c.spans)
	c.mu.Unlock()
	all := span{}
	for _, s := range append(spans, span{size, size, 0}) {
		if s.start > all.end {
			h := crc32.NewIEEE()
			n, err := io.Copy(h, io.NewSectionReader(r, off+all.end, s.start-all.end))
			if err == nil && n < s.start-all.end {
				err = io.ErrUnexpectedEOF
			}
			if err != nil {
				return 0, err
			}
			all = join(all, span{all.end, s.start, h.Sum32()})
		}
		all = join(all, s)
	}
	return all.sum, nil
}

// join returns the span of a and b, which follows a. A CRC is a remainder of
// polynomials over GF(2), and appending n bytes multiplies by x^8n:
// crc(ab) = crc(a) x^8n + crc(b).
func join(a, b span) span {
	return span{a.start, b.end, mulmod(a.sum, power(uint64(b.end-b.start)*8)) ^ b.sum}
}

// mulmod multiplies two polynomials modulo the CRC's; the highest bit is x^0.
func mulmod(a, b uint32) uint32 {
	var p uint32
	for m := uint32(1 << 31); m != 0; m >>= 1 {
		if a&m != 0 {
			p ^= b
		}
		if b&1 != 0 {
			b = b>>1 ^ crc32.IEEE
		} else {
			b >>= 1
		}
	}
	return p
}

// power returns x^n modulo the CRC's polynomial.
func power(n uint64) uint32 {
	p, sq := uint32(1<<31), uint32(1<<30) // 1, x
	for ; n > 0; n >>= 1 {
		if n&1 != 0 {
			p = mulmod(p, sq)
		}
		sq = mulmod(sq, sq)
	}
	return p
}
