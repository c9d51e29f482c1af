package stream

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/smeltgguf/smelt/kernels"
	"github.com/smeltgguf/smelt/quant"
)

// convert encodes n rows of b.src, the first of them row first of the job,
// into b.dst, and adds to bad what overflows. It reports whether it found the
// source to be finite.
func (b *buffers) convert(j *Job, t *Target, first, n int, bad *Nonfinite) (finite bool, err error) {
	rowLen, st := j.Src.Len(), j.Src.Type()
	if rowLen == 0 {
		if t.Measure != nil {
			b.errors = append(b.errors, Errors{})
		}
		return true, nil
	}
	base := int64(first) * int64(rowLen)
	switch {
	case t.Measure != nil:
	case st == quant.BF16 && t.Type == quant.F16:
		if kernels.BF16ToF16(b.dst, b.src) < 0 {
			return true, nil
		}
		bad.overflow(t.Type, b.dst, plainFinite(st, b.src), base)
		return false, nil
	case st == quant.F16 && t.Type == quant.BF16: // the range only grows
		return kernels.F16ToBF16(b.dst, b.src) < 0, nil
	}
	srcRow, dstRow := st.RowSize(rowLen), t.Type.RowSize(rowLen)
	_, plain := exponents[st]
	per := max(1, chunkFloats/rowLen)
	b.f32 = grow(b.f32, per*rowLen)
	var errs Errors
	finite = t.Type.BlockLen() > 1
	for r := 0; r < n; r += per {
		k := min(per, n-r)
		f := b.f32[:k*rowLen]
		kernels.DecodeRow(st, f, b.src[r*srcRow:][:k*srcRow])
		if !plain && !b.scanned {
			bad.scanFloats(f, base+int64(r)*int64(rowLen))
		}
		if t.Type.BlockLen() == 1 {
			out := b.dst[r*dstRow:][:k*dstRow]
			kernels.EncodeRow(t.Type, out, f, nil)
			if !plain {
				bad.overflow(t.Type, out, func(i int) bool { return isFinite(f[i]) }, base+int64(r)*int64(rowLen))
			}
		} else {
			src := b.src[r*srcRow:][:k*srcRow]
			small := (st == quant.F16 || st == quant.BF16) && kernels.MaxAbs16(st, src) < nearOverflow
			ok, err := b.encodeRows(j, t, first+r, f, b.dst[r*dstRow:][:k*dstRow], small, bad)
			if err != nil {
				return false, err
			}
			finite = finite && ok
		}
		if m := t.Measure; m != nil && (r == 0 || !m.Sample) {
			b.check = grow(b.check, len(f))
			kernels.DecodeRow(t.Type, b.check, b.dst[r*dstRow:][:k*dstRow])
			errs.Add(f, b.check)
		}
	}
	if t.Measure != nil {
		b.errors = append(b.errors, errs)
	}
	b.scanned = true
	if plain {
		bad.overflow(t.Type, b.dst, plainFinite(st, b.src), base)
	}
	return finite, nil
}

// encodeRows quantizes the rows in f, the first of them row first of the job,
// each with its matrix's importance. Without importance rows are nothing to the
// encoders but runs of blocks, so that they take all at once. small tells that no
// element comes near overflow. It reports whether all rows are finite.
func (b *buffers) encodeRows(j *Job, t *Target, first int, f []float32, out []byte, small bool, bad *Nonfinite) (allFinite bool, err error) {
	rowLen := j.Src.Len()
	size := t.Type.RowSize(rowLen)
	allFinite = true
	if t.Importance == nil {
		kernels.EncodeRow(t.Type, out, f, nil)
		if small {
			return true, nil
		}
	}
	for r := first; len(f) > 0; r++ {
		row, dst := f[:rowLen], out[:size]
		if t.Importance != nil {
			m := 0
			if j.RowsPerMatrix > 0 {
				m = r / j.RowsPerMatrix
			}
			imp, err := b.importanceOf(t, m, rowLen)
			if err != nil {
				return false, err
			}
			kernels.EncodeRow(t.Type, dst, row, imp)
		}
		if !small {
			allFinite = b.blockOverflow(bad, t.Type, dst, row, int64(r)*int64(rowLen)) && allFinite
		}
		f, out = f[rowLen:], out[size:]
	}
	return allFinite, nil
}

// importanceOf returns the importance of a matrix of a target. The last one
// that was read is kept.
func (b *buffers) importanceOf(t *Target, matrix, rowLen int) ([]float32, error) {
	c := &b.importance
	if c.of != t || c.matrix != matrix {
		c.of = nil
		c.values = grow(c.values, rowLen)
		if err := t.Importance.ReadValues(c.values, matrix*rowLen); err != nil {
			return nil, err
		}
		c.of, c.matrix = t, matrix
	}
	return c.values, nil
}

// exponent tells where a type of plain floats keeps its exponent: all of it
// ones means infinity or NaN.
type exponent struct {
	size int    // bytes
	mask uint64 // of the exponent
	frac uint64 // of the fraction
}

var exponents = map[quant.Type]exponent{
	quant.F64:  {8, 0x7ff << 52, 1<<52 - 1},
	quant.F32:  {4, 0xff << 23, 1<<23 - 1},
	quant.F16:  {2, 0x1f << 10, 1<<10 - 1},
	quant.BF16: {2, 0xff << 7, 1<<7 - 1},
}

// finite reports whether all elements of b are finite. In each 64-bit word the
// lowest exponent bit is added to the exponents: only one that is all ones
// carries into the sign bit, which was cleared.
func (e exponent) finite(b []byte) bool {
	mask, one, sign := e.mask, e.mask&-e.mask, e.mask+e.mask&-e.mask
	for n := e.size * 8; n < 64; n *= 2 {
		mask |= mask << n
		one |= one << n
		sign |= sign << n
	}
	var acc uint64
	for ; len(b) >= 32; b = b[32:] {
		acc |= (binary.LittleEndian.Uint64(b)&mask + one) |
			(binary.LittleEndian.Uint64(b[8:])&mask + one) |
			(binary.LittleEndian.Uint64(b[16:])&mask + one) |
			(binary.LittleEndian.Uint64(b[24:])&mask + one)
	}
	if acc&sign != 0 {
		return false
	}
	for ; len(b) > 0; b = b[e.size:] {
		if v := e.load(b); v&e.mask == e.mask {
			return false
		}
	}
	return true
}

func (e exponent) load(b []byte) uint64 {
	switch e.size {
	case 2:
		return uint64(binary.LittleEndian.Uint16(b))
	case 4:
		return uint64(binary.LittleEndian.Uint32(b))
	}
	return binary.LittleEndian.Uint64(b)
}

// add counts one value at position pos.
func (n *Nonfinite) add(counter *int64, pos int64) {
	*counter++
	if n.First < 0 || pos < n.First {
		n.First = pos
	}
}

// scan counts the NaN and infinities of plain floats of type t; base is the
// position of the first element.
func (n *Nonfinite) scan(t quant.Type, b []byte, base int64) {
	e, ok := exponents[t]
	if !ok || e.finite(b) {
		return
	}
	for i := int64(0); len(b) > 0; i, b = i+1, b[e.size:] {
		v := e.load(b)
		if v&e.mask != e.mask {
			continue
		}
		if v&e.frac != 0 {
			n.add(&n.NaN, base+i)
		} else {
			n.add(&n.Inf, base+i)
		}
	}
}

// scanBlocks looks at the values of blocks that are written as they are.
func (b *buffers) scanBlocks(n *Nonfinite, t quant.Type, base int64) {
	if t.BlockLen() == 1 || !t.CanDecode() {
		return
	}
	per := chunkFloats / t.BlockLen() // blocks
	b.f32 = grow(b.f32, per*t.BlockLen())
	for part := range slices.Chunk(b.src, per*t.BlockSize()) {
		f := b.f32[:len(part)/t.BlockSize()*t.BlockLen()]
		kernels.DecodeRow(t, f, part)
		n.scanFloats(f, base)
		base += int64(len(f))
	}
}

// scanFloats counts the NaN and infinities that blocks decode to.
func (n *Nonfinite) scanFloats(x []float32, base int64) {
	if isFinite(kernels.MaxAbs(x)) {
		return
	}
	for i, v := range x {
		switch {
		case v != v:
			n.add(&n.NaN, base+int64(i))
		case !isFinite(v):
			n.add(&n.Inf, base+int64(i))
		}
	}
}

// overflow counts the values that are not finite in dst although element i of
// the source was.
func (n *Nonfinite) overflow(dt quant.Type, dst []byte, was func(i int) bool, base int64) {
	d, ok := exponents[dt]
	if !ok || d.finite(dst) {
		return
	}
	for i := 0; len(dst) > 0; i, dst = i+1, dst[d.size:] {
		if d.load(dst)&d.mask == d.mask && was(i) {
			n.Type = dt
			n.add(&n.Overflow, base+int64(i))
		}
	}
}

// plainFinite tells which elements of src, plain floats of type t, are finite.
func plainFinite(t quant.Type, src []byte) func(i int) bool {
	e := exponents[t]
	return func(i int) bool { return e.load(src[i*e.size:])&e.mask != e.mask }
}

// nearOverflow is where a block's scale, a half, might overflow.
const nearOverflow = 32768

// blockOverflow counts the elements of a row that become infinite or NaN once
// quantized to type t: where a block's scale, a half, overflows. Only values
// near a half's range can do that, so that a row's largest tells whether to
// look closer. A row that is not finite itself is left to the scan of the
// source: its blocks are spoilt as a whole. So is a block whose scale overflows,
// but only the elements that made it are counted. It reports whether the row is
// finite.
func (b *buffers) blockOverflow(n *Nonfinite, t quant.Type, dst []byte, row []float32, base int64) (rowFinite bool) {
	m := kernels.MaxAbs(row)
	if m < nearOverflow || !isFinite(m) || !t.CanDecode() {
		return isFinite(m)
	}
	b.check = grow(b.check, len(row))
	kernels.DecodeRow(t, b.check, dst)
	for first := 0; first < len(row); first += t.BlockLen() {
		block := b.check[first:][:t.BlockLen()]
		if isFinite(kernels.MaxAbs(block)) {
			continue
		}
		n.Type = t
		// The limit is that of the block's largest, should that be less.
		limit := min(nearOverflow, kernels.MaxAbs(row[first:][:len(block)]))
		for i, v := range block {
			if x := row[first+i]; !isFinite(v) && (x >= limit || x <= -limit) {
				n.add(&n.Overflow, base+int64(first+i))
			}
		}
	}
	return true
}

func isFinite(v float32) bool { return math.Float32bits(v)&0x7f800000 != 0x7f800000 }
