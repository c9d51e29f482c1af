package stream

import (
	"sync"

	"github.com/smeltgguf/smelt/kernels"
	"github.com/smeltgguf/smelt/quant"
)

// Cast returns the matrix with its elements converted to type t as they are
// read. Blocks of t divide the rows.
func Cast(r Rows, t quant.Type) Rows {
	if r.Type() == t {
		return r
	}
	return &castRows{Rows: r, typ: t}
}

type castRows struct {
	Rows
	typ  quant.Type
	pool sync.Pool // of *castBuffers
}

// tellOverflow counts those of the infinities in bad that are finite before the
// conversion, in n rows from row first on, as overflow.
func (c *castRows) tellOverflow(bad *Nonfinite, first, n int) error {
	st, rowLen := c.Rows.Type(), c.Len()
	src, f32 := make([]byte, st.RowSize(rowLen)), make([]float32, rowLen)
	var before int64
	for r := range n {
		if err := c.Rows.ReadRows(src, first+r, 1); err != nil {
			return err
		}
		kernels.DecodeRow(st, f32, src)
		for _, v := range f32 {
			if v == v && !isFinite(v) {
				before++
			}
		}
	}
	if over := bad.Inf - before; over > 0 {
		bad.Inf, bad.Overflow, bad.Type = before, bad.Overflow+over, c.typ
	}
	return nil
}

type castBuffers struct {
	src []byte
	f32 []float32
}

func (c *castRows) Type() quant.Type { return c.typ }

func (c *castRows) ReadRows(dst []byte, first, n int) error {
	b, _ := c.pool.Get().(*castBuffers)
	if b == nil {
		b = &castBuffers{}
	}
	defer c.pool.Put(b)
	st, rowLen := c.Rows.Type(), c.Len()
	from, to := st.RowSize(rowLen), c.typ.RowSize(rowLen)
	per := max(1, chunkFloats/max(1, rowLen))
	for ; n > 0; n -= per {
		k := min(per, n)
		b.src, b.f32 = grow(b.src, k*from), grow(b.f32, k*rowLen)
		if err := c.Rows.ReadRows(b.src, first, k); err != nil {
			return err
		}
		kernels.DecodeRow(st, b.f32, b.src)
		for i := range k {
			kernels.EncodeRow(c.typ, dst[i*to:][:to], b.f32[i*rowLen:][:rowLen], nil)
		}
		dst = dst[k*to:]
		first += k
	}
	return nil
}
