package arch

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/smeltgguf/smelt/internal/stream"
	"github.com/smeltgguf/smelt/quant"
)

// The combinators here are what families build their tensors from. Each is a
// stream.Rows over others, reads no more of them than it is asked for and holds
// no state, so that it may be read concurrently.

// shaped is a lazily read tensor on its way from the checkpoint to the GGUF.
type shaped struct {
	rows  stream.Rows
	shape []int // outermost first
	order int   // position in the checkpoint of the last tensor in it
	// lora, in place of rows, is the change that an adapter makes. With neither
	// there is nothing: an adapter that does not change the tensor.
	lora *lora
}

// changed returns a copy whose B, the rows of the change, went through f.
func (l *lora) changed(f func(shaped) shaped) *lora {
	if l == nil {
		return nil
	}
	return &lora{l.a, f(l.b), l.embedding}
}

// gather reads row i of the output from row index(i) of the input.
type gather struct {
	stream.Rows
	count int
	index func(i int) int
}

func (g *gather) Count() int { return g.count }

func (g *gather) ReadRows(dst []byte, first, n int) error {
	size := g.Type().RowSize(g.Len())
	if at, span := g.span(first, n); span > n && span <= 4*n {
		// All that lies between is read in one go: rows of some inputs are dear
		// to read one by one.
		buf := make([]byte, span*size)
		if err := g.Rows.ReadRows(buf, at, span); err != nil {
			return err
		}
		for i := range n {
			copy(dst[i*size:][:size], buf[(g.index(first+i)-at)*size:])
		}
		return nil
	}
	for n > 0 {
		at, run := g.index(first), 1
		for run < n && g.index(first+run) == at+run {
			run++
		}
		if err := g.Rows.ReadRows(dst[:run*size], at, run); err != nil {
			return err
		}
		dst, first, n = dst[run*size:], first+run, n-run
	}
	return nil
}

// span returns the first of the input's rows that n rows from first on are read
// from, and how many there are to the last.
func (g *gather) span(first, n int) (at, span int) {
	if n == 0 {
		return 0, 0
	}
	lo := g.index(first)
	hi := lo
	for i := first + 1; i < first+n; i++ {
		at := g.index(i)
		lo, hi = min(lo, at), max(hi, at)
	}
	return lo, hi - lo + 1
}

// unrope reorders the rows of a q or k matrix (or the elements of its bias),
// (heads, 2, dim/2) to (heads, dim/2, 2): rotate-half order, as Hugging Face
// stores it, to the interleaved order that Meta and GGUF's llama have.
func (s shaped) unrope(heads int) shaped {
	if len(s.shape) == 0 {
		return s
	}
	dim := s.shape[0] / heads
	if s.shape[0]%heads != 0 || dim%2 != 0 {
		fail("q or k of %d rows cannot be reordered for %d heads", s.shape[0], heads)
	}
	if s.rows == nil {
		s.lora = s.lora.changed(func(b shaped) shaped { return b.unrope(heads) })
		return s
	}
	half := dim / 2
	index := func(i int) int {
		h, j := i/dim, i%dim
		return h*dim + j%2*half + j/2
	}
	if len(s.shape) == 1 {
		column := &gather{reshape(s.rows, 1), s.shape[0], index}
		s.rows = reshape(column, s.shape[0])
		return s
	}
	s.rows = &gather{s.rows, s.rows.Count(), index}
	return s
}

// slice takes n of the outermost dimension from first on.
func (s shaped) slice(first, n int) shaped {
	return s.pick(n, func(i int) int { return first + i })
}

// pick takes n of the outermost dimension, the i-th from place index(i).
func (s shaped) pick(n int, index func(i int) int) shaped {
	if s.rows == nil {
		if len(s.shape) > 0 {
			s.shape = append([]int{n}, s.shape[1:]...)
		}
		s.lora = s.lora.changed(func(b shaped) shaped { return b.pick(n, index) })
		return s
	}
	per := 1 // rows for one step of the outermost dimension
	for _, d := range s.shape[1:max(1, len(s.shape)-1)] {
		per *= d
	}
	out := shaped{shape: append([]int{n}, s.shape[1:]...), order: s.order}
	if len(s.shape) == 1 {
		out.rows = reshape(&gather{reshape(s.rows, 1), n, index}, n)
		return out
	}
	out.rows = &gather{s.rows, n * per, func(i int) int { return index(i/per)*per + i%per }}
	return out
}

// view gives the same elements another shape.
func (s shaped) view(shape ...int) shaped {
	if s.lora != nil && len(shape) != len(s.shape) {
		fail("an adapter for a matrix that is taken apart into %v is not supported", shape)
	}
	s.shape = shape
	if s.rows != nil {
		s.rows = reshape(s.rows, shape[len(shape)-1])
	}
	return s
}

// reshaped is the same sequence of elements cut into rows of another length.
type reshaped struct {
	stream.Rows
	len, count int
}

func reshape(r stream.Rows, rowLen int) stream.Rows {
	if r.Len() == rowLen {
		return r
	}
	if r.Type().BlockLen() != 1 {
		fail("a tensor of type %v cannot be cut into rows of %d", r.Type(), rowLen)
	}
	total := r.Len() * r.Count()
	if rowLen == 0 || total%rowLen != 0 {
		fail("%d elements are no rows of %d", total, rowLen)
	}
	return &reshaped{r, rowLen, total / rowLen}
}

func (r *reshaped) Len() int   { return r.len }
func (r *reshaped) Count() int { return r.count }

func (r *reshaped) ReadRows(dst []byte, first, n int) error {
	size, inner := r.Type().BlockSize(), r.Rows.Len()
	from, to := first*r.len, (first+n)*r.len // elements
	a, b := from/inner, (to+inner-1)/inner   // rows of the input
	if from == a*inner && to == b*inner {
		return r.Rows.ReadRows(dst, a, b-a)
	}
	buf := make([]byte, (b-a)*inner*size)
	if err := r.Rows.ReadRows(buf, a, b-a); err != nil {
		return err
	}
	copy(dst, buf[(from-a*inner)*size:(to-a*inner)*size])
	return nil
}

// Map implements stream.Mapper.
func (r *reshaped) Map() ([]byte, error) {
	if m, ok := r.Rows.(stream.Mapper); ok {
		return m.Map()
	}
	return nil, nil
}

// concat is several matrices of one row length, one below the other.
type concat struct {
	parts []stream.Rows
	first []int // of each part; one more at the end
}

func (c *concat) Type() quant.Type { return c.parts[0].Type() }
func (c *concat) Len() int         { return c.parts[0].Len() }
func (c *concat) Count() int       { return c.first[len(c.parts)] }

func (c *concat) ReadRows(dst []byte, first, n int) error {
	size := c.Type().RowSize(c.Len())
	i, found := slices.BinarySearch(c.first, first)
	if !found {
		i--
	}
	for ; n > 0; i++ {
		k := min(n, c.first[i+1]-first)
		if k > 0 {
			if err := c.parts[i].ReadRows(dst[:k*size], first-c.first[i], k); err != nil {
				return err
			}
		}
		dst, first, n = dst[k*size:], first+k, n-k
	}
	return nil
}

// join puts tensors of one shape below each other along a new outermost
// dimension (stack) or along the outermost one they have.
func join(parts []shaped, stack bool) shaped {
	p0 := parts[0]
	out := shaped{order: p0.order}
	c := &concat{first: []int{0}}
	outer := 0
	if p0.rows == nil {
		return joinAdapted(parts, stack)
	}
	for _, p := range parts {
		vectors := !stack && len(p0.shape) == 1 // their lengths may differ
		if p.rows.Type() != p0.rows.Type() || !vectors && p.rows.Len() != p0.rows.Len() {
			fail("parts of one tensor differ: %v %v and %v %v", p0.rows.Type(), p0.shape, p.rows.Type(), p.shape)
		}
		c.parts = append(c.parts, p.rows)
		c.first = append(c.first, c.first[len(c.first)-1]+p.rows.Count())
		out.order = max(out.order, p.order)
		outer += p.shape[0]
	}
	out.rows = c
	if stack {
		out.shape = append([]int{len(parts)}, p0.shape...)
		return out
	}
	out.shape = append([]int{outer}, p0.shape[1:]...)
	if len(p0.shape) == 1 {
		// Vectors are one row each: join their elements.
		for i := range c.parts {
			c.parts[i] = reshape(c.parts[i], 1)
			c.first[i+1] = c.first[i] + c.parts[i].Count()
		}
		out.rows = reshape(c, outer)
	}
	return out
}

// joinAdapted is join where an adapter changes all parts or none.
func joinAdapted(parts []shaped, stack bool) shaped {
	var as, bs []shaped
	order := 0
	for _, p := range parts {
		if p.rows != nil {
			fail("an adapter that replaces some of the experts is not supported")
		}
		if p.lora != nil {
			as, bs = append(as, p.lora.a), append(bs, p.lora.b)
			order = max(order, p.order)
		}
	}
	if len(as) == 0 {
		return shaped{}
	}
	if len(as) != len(parts) || !stack {
		fail("an adapter that changes %d of %d matrices that become one is not supported", len(as), len(parts))
	}
	return shaped{order: order, lora: &lora{a: join(as, true), b: join(bs, true)}}
}

// transposed swaps the last two dimensions of batches of rows x Len matrices.
type transposed struct {
	stream.Rows
	rows int // of one matrix of the input; the row length of the output
}

func (t *transposed) Len() int   { return t.rows }
func (t *transposed) Count() int { return t.Rows.Count() / t.rows * t.Rows.Len() }

func (t *transposed) ReadRows(dst []byte, first, n int) error {
	const chunk = 1 << 20 // bytes of input at a time
	in, size := t.Rows.Len(), t.Type().BlockSize()
	per := max(1, min(t.rows, chunk/(in*size)))
	buf := make([]byte, per*in*size)
	for n > 0 {
		m, c0 := first/in, first%in // matrix, and column of it
		k := min(n, in-c0)
		for r := 0; r < t.rows; r += per {
			rows := min(per, t.rows-r)
			if err := t.Rows.ReadRows(buf[:rows*in*size], m*t.rows+r, rows); err != nil {
				return err
			}
			for i := range rows {
				for c := range k {
					copy(dst[(c*t.rows+r+i)*size:][:size], buf[(i*in+c0+c)*size:])
				}
			}
		}
		dst, first, n = dst[k*t.rows*size:], first+k, n-k
	}
	return nil
}

// transpose swaps the last two dimensions.
func (s shaped) transpose() shaped {
	if s.rows == nil {
		if s.lora != nil {
			s.lora = &lora{a: s.lora.b.transpose(), b: s.lora.a.transpose()}
		}
		return s
	}
	if s.rows.Type().BlockLen() != 1 {
		fail("a tensor of type %v cannot be transposed", s.rows.Type())
	}
	d := len(s.shape)
	shape := slices.Clone(s.shape)
	shape[d-1], shape[d-2] = shape[d-2], shape[d-1]
	return shaped{rows: &transposed{s.rows, s.shape[d-2]}, shape: shape, order: s.order}
}

// added is the input plus a constant, in float32, or in half precision where
// the input has it: the sum is rounded to a half, as llama.cpp's converter has
// it.
type added struct {
	stream.Rows
	c float32
}

func (s shaped) add(c float32) shaped {
	if s.rows == nil {
		return s
	}
	s.rows = &added{s.rows, c}
	return s
}

func (a *added) Type() quant.Type {
	if t := a.Rows.Type(); t == quant.F16 {
		return t
	}
	return quant.F32
}

func (a *added) ReadRows(dst []byte, first, n int) error {
	t := a.Rows.Type()
	raw := make([]byte, n*t.RowSize(a.Len()))
	if err := a.Rows.ReadRows(raw, first, n); err != nil {
		return err
	}
	f := make([]float32, n*a.Len())
	quant.Decode(t, f, raw)
	for i := range f {
		f[i] += a.c
	}
	quant.Encode(a.Type(), dst, f, nil)
	return nil
}

// floats is a generated tensor of float32 values, one row.
type floats []float32

func (f floats) Type() quant.Type { return quant.F32 }
func (f floats) Len() int         { return len(f) }
func (f floats) Count() int       { return 1 }

func (f floats) ReadRows(dst []byte, first, n int) error {
	if first != 0 || n != 1 {
		return fmt.Errorf("row %d of 1", first)
	}
	for i, v := range f {
		binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(v))
	}
	return nil
}

// generated is the order of tensors that stand before the checkpoint's.
const generated = math.MinInt32

// values makes a generated vector.
func values(v []float32) shaped {
	return shaped{rows: floats(v), shape: []int{len(v)}, order: generated}
}
