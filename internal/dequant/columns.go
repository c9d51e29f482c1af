package dequant

import (
	"encoding/binary"
	"math"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/internal/checkpoint"
	"github.com/smeltgguf/smelt/quant"
)

// columns is a matrix as GPTQ and AWQ store it: transposed, (in, out), its
// integers packed in 32-bit words, with a zero point and a scale for each group
// of inputs and each output. The weight is
//
//	scales[g][o] * (q[j][o] - zeros[g][o]), g = groupIndex[j]
//
// Reading rows of the weights reads columns of what is stored, and no more than
// the words that hold them.
type columns struct {
	qweight, qzeros, scales *checkpoint.Tensor

	groupIndex *checkpoint.Tensor // group of each input; nil: groupSize inputs each
	groupSize  int

	in, out, groups int
	bits            int
	// tall: a word of qweight holds neighbours along the inputs; else along the
	// outputs, as words of qzeros always do.
	tall bool
	// shifts[i] is where in a word its i-th neighbour stands.
	shifts []int
	// zeroOffset is added to stored zero points.
	zeroOffset int32
}

func (c *columns) Type() quant.Type { return quant.F32 }
func (c *columns) Len() int         { return c.in }
func (c *columns) Count() int       { return c.out }

// words reads n 32-bit words from word first on.
func words(t *checkpoint.Tensor, raw []byte, first, n int) ([]byte, error) {
	raw = raw[:4*n]
	return raw, checkpoint.ReadElems(t.Rows, raw, first, n)
}

func (c *columns) ReadRows(dst []byte, first, n int) error {
	if n == 0 {
		return nil
	}
	index, err := groupsOf(c.groupIndex, c.in, c.groupSize, c.groups)
	if err != nil {
		return err
	}
	per, mask := len(c.shifts), int32(1)<<c.bits-1
	// The words that hold outputs first to first+n-1, where they are packed.
	w0, wn := first/per, (first+n-1)/per-first/per+1
	at, shift := make([]int, n), make([]int, n) // bytes, bits
	for k := range n {
		at[k], shift[k] = 4*((first+k)/per-w0), c.shifts[(first+k)%per]
	}
	raw := make([]byte, 4*max(n, wn))
	scales, zeros := make([]float32, c.groups*n), make([]int32, c.groups*n) // by output, then group
	for g := range c.groups {
		s, err := floats(c.scales, g*c.out+first, n)
		if err != nil {
			return err
		}
		z, err := words(c.qzeros, raw, g*(c.out/per)+w0, wn)
		if err != nil {
			return err
		}
		for k := range n {
			word := int32(binary.LittleEndian.Uint32(z[at[k]:]))
			scales[k*c.groups+g], zeros[k*c.groups+g] = s[k], word>>shift[k]&mask+c.zeroOffset
		}
	}
	// A step is the inputs that a word holds, or so many that rows of the
	// output are written in lines of the cache.
	step := 16
	if c.tall {
		step = per
	}
	q := make([]int32, n*step)
	for j := 0; j < c.in; j += step {
		m := min(step, c.in-j)
		if c.tall {
			w, err := words(c.qweight, raw, j/per*c.out+first, n)
			if err != nil {
				return err
			}
			for k := range n {
				word := int32(binary.LittleEndian.Uint32(w[4*k:]))
				for i, shift := range c.shifts {
					q[k*step+i] = word >> shift & mask
				}
			}
		} else {
			for i := range m {
				w, err := words(c.qweight, raw, (j+i)*(c.out/per)+w0, wn)
				if err != nil {
					return err
				}
				for k := range n {
					q[k*step+i] = int32(binary.LittleEndian.Uint32(w[at[k]:])) >> shift[k] & mask
				}
			}
		}
		for k := range n {
			store(dst[4*(k*c.in+j):], q[k*step:][:m], index[j:], scales[k*c.groups:][:c.groups], zeros[k*c.groups:][:c.groups])
		}
	}
	return nil
}

// store writes scale * (q - zero) for each of q, whose groups index gives.
func store(dst []byte, q, index []int32, scales []float32, zeros []int32) {
	index, dst, zeros = index[:len(q)], dst[:4*len(q)], zeros[:len(scales)]
	for i, v := range q {
		g := index[i]
		binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(scales[g]*float32(v-zeros[g])))
	}
}

// groupsOf returns the group of each of n inputs: as t says, or size of them
// each one after the other.
func groupsOf(t *checkpoint.Tensor, n, size, groups int) ([]int32, error) {
	if t != nil {
		return groupIndex(t, groups)
	}
	index := make([]int32, n)
	for j := range index {
		index[j] = int32(j / size)
	}
	return index, nil
}

// groupIndex reads a tensor of groups and checks them.
func groupIndex(t *checkpoint.Tensor, groups int) ([]int32, error) {
	n := t.Shape[0]
	size := t.Rows.Type().BlockSize()
	raw := make([]byte, n*size)
	if err := checkpoint.ReadElems(t.Rows, raw, 0, n); err != nil {
		return nil, err
	}
	index := make([]int32, n)
	for j := range index {
		g := int64(int32(binary.LittleEndian.Uint32(raw[j*size:])))
		if size == 8 {
			g = int64(binary.LittleEndian.Uint64(raw[j*size:]))
		}
		if g < 0 || g >= int64(groups) {
			return nil, formats.Malformedf(t.File, -1, "%s: element %d is %d, but there are %d groups", formats.Quote(t.Name), j, g, groups)
		}
		index[j] = int32(g)
	}
	return index, nil
}

// fold puts c in the place of the tensors of one matrix. It has the tensors and
// what the method says; sizes follow from the tensors and are checked here.
func (d *decoder) fold(stem string, c *columns, names ...string) error {
	per := 32 / c.bits
	q := c.qweight
	if err := want(q, []int{-1, -1}, formats.I32); err != nil {
		return err
	}
	c.in, c.out = q.Shape[0], q.Shape[1]
	if c.tall {
		c.in *= per
	} else {
		c.out *= per
	}
	if err := want(c.scales, []int{-1, c.out}, floatTypes...); err != nil {
		return err
	}
	c.groups = c.scales.Shape[0]
	if c.groups > c.in {
		return formats.Malformedf(c.scales.File, -1, "%s has %d groups, more than the %d inputs", formats.Quote(c.scales.Name), c.groups, c.in)
	}
	if c.out%per != 0 {
		return formats.Malformedf(q.File, -1, "%s: %d outputs are no multiple of the %d in a word", formats.Quote(q.Name), c.out, per)
	}
	if err := want(c.qzeros, []int{c.groups, c.out / per}, formats.I32); err != nil {
		return err
	}
	if c.groupIndex != nil {
		if err := want(c.groupIndex, []int{c.in}, formats.I32, formats.I64); err != nil {
			return err
		}
	} else {
		if c.groupSize == -1 {
			c.groupSize = c.in
		}
		if c.groupSize < 1 || (c.in-1)/c.groupSize+1 != c.groups {
			return formats.Malformedf(c.scales.File, -1, "%s has %d groups, group_size %d implies another number for %d inputs",
				formats.Quote(c.scales.Name), c.groups, c.groupSize, c.in)
		}
	}
	if err := d.add(decoded(stem+".weight", []int{c.out, c.in}, q, c)); err != nil {
		return err
	}
	d.drop(q.Name)
	for _, n := range names {
		d.drop(stem + n)
	}
	return nil
}

// triple finds the three tensors that GPTQ and AWQ have in common.
func (d *decoder) triple(stem string) (c *columns, err error) {
	c = &columns{}
	for _, p := range []struct {
		name string
		t    **checkpoint.Tensor
	}{{".qweight", &c.qweight}, {".qzeros", &c.qzeros}, {".scales", &c.scales}} {
		if *p.t, err = d.find(stem + p.name); err != nil {
			return nil, err
		}
	}
	return c, nil
}
