package baseline

import (
	"encoding/binary"
	"errors"
	"math"
	"math/bits"
	"math/rand/v2"

	"github.com/smeltgguf/smelt/kernels"
)

// A row keeps a distribution P over the vocabulary: the most probable tokens
// exactly, by their logits, and of the tail its mass and a rounded form P'. A
// token's P' is (q*step)^2, q being one of the two whole numbers around
// sqrt(P)/step, chosen by chance such that P' is P on average; 0, which most of the
// tail gets, takes no room. Steps of the square root make, for a given number of
// tokens that are listed, the sum of the variances over the probabilities least.
//
// For a model's distribution Q the divergence is
//
//	exact  sum P (ln P - ln Q)
//	tail   sum P' (ln P - ln Q) * mass/sum P' + e
//
// where sum P' ln P is stored, so that only Q's logarithms are taken of rounded
// probabilities. e is a sum of independent errors that are 0 on average: the chance
// is in the file and knows nothing of Q. Its variance is at most
//
//	sum ((q+1/2) step^2)^2 (d-c)^2,  d = ln Q - ln P
//
// which is estimated over the listed tokens. There ln Q - ln P' is known, which
// differs from d by u = ln P - ln P'; as that has nothing to do with Q, its share is
// taken off, but never more than 15/16 of the whole. c is the mean of d weighted by
// P'.
type head struct {
	LSE    float64 // ln sum exp of all logits
	Likely float64 // sum P' ln P
	Target float32 // the right token's logit
	Mass   float32 // of the tail
	Offset float32 // mean of u over listed tokens, weighted by their variances
	Blur   float32 // sum of (u-Offset)^2, weighted by the same
	Count  uint32  // tokens that are exact or listed
	Bits   uint32  // bytes of the row's bit stream
	Step   uint8   // step = 2^(-Step/2)
	Rice   uint8   // low bits of a gap that stand as they are
	_      [2]byte
}

var headSize = binary.Size(head{})

// What a row is made of beside its head: symbols, a byte for each token in the
// order of ids (255 for an exact one, else the place of q's leading bit); bits, for each token the distance from the one before (Rice code:
// quotient in unary, as ones ended by a zero, then Rice bits), then for one that
// is listed q's bits below the leading one; and the exact
// tokens' logits.
const (
	symExact = 255
	symSmall = 64
	fine     = 4  // from this q on ln P' is near enough
	maxStep  = 48 // q of up to 2^24
	maxExp   = maxStep/2 + 1
	symBits  = 2.2 // about what zstd makes of a symbol
	minBits  = 2400
	fill     = 0.97 // of the budget, what the estimate of a row's size may take
)

// exactTokens is how many tokens are kept exactly.
func exactTokens(vocab int) int { return min(vocab, max(8, min(64, vocab/512))) }

// encoder makes rows; its buffers are reused.
type encoder struct {
	vocab int
	top   []int
	exact []bool
	lnP   []float64
	head  head
	bits  bitWriter
	syms  []byte
	logit []float32
}

func newEncoder(vocab int) *encoder {
	return &encoder{vocab: vocab, top: make([]int, exactTokens(vocab)), exact: make([]bool, vocab), lnP: make([]float64, vocab)}
}

// encode fills head, bits, syms and logit; seed is of the row's chance.
func (e *encoder) encode(x []float32, target int32, seed uint64) {
	e.bits, e.syms, e.logit = bitWriter{b: e.bits.b[:0]}, e.syms[:0], e.logit[:0]
	lse := kernels.LogSumExp(x)
	var octaves [128]int // tokens by floor(-log2 P), the exact ones left out
	for i, v := range x {
		e.lnP[i] = float64(v) - lse
		octaves[octave(e.lnP[i])]++
	}
	top := kernels.Top(e.top, x)
	for _, i := range top {
		e.exact[i] = true
		octaves[octave(e.lnP[i])]--
	}
	h := head{LSE: lse, Target: x[target]}
	h.Step = e.chooseStep(octaves[:], len(top))
	scale := math.Exp2(float64(h.Step) / 2)

	rng := rand.New(rand.NewPCG(seed, uint64(target)))
	var ids []int32
	var roots []uint32 // 0 for an exact token
	var mass, w, wu, wu2 float64
	for i, l := range e.lnP {
		if e.exact[i] {
			ids, roots = append(ids, int32(i)), append(roots, 0)
			continue
		}
		p := math.Exp(l)
		mass += p
		root := math.Sqrt(p) * scale
		lo := math.Floor(root)
		// Between lo^2 and (lo+1)^2, in steps.
		if q := uint32(lo); rng.Float64()*(2*lo+1) < root*root-lo*lo {
			q++
			ids, roots = append(ids, int32(i)), append(roots, q)
		} else if q > 0 {
			ids, roots = append(ids, int32(i)), append(roots, q)
		} else {
			continue
		}
		about, ln, v := rounded(roots[len(roots)-1], h.Step)
		u := l - ln
		h.Likely += about * l
		w += v
		wu += v * u
		wu2 += v * u * u
	}
	if w > 0 {
		h.Offset, h.Blur = float32(wu/w), float32(max(0, wu2-wu*wu/w))
	}
	h.Count, h.Mass = uint32(len(ids)), float32(mass)
	if mean := float64(e.vocab-len(ids)) / float64(len(ids)); mean > 1 {
		h.Rice = uint8(min(24, math.Log2(0.7*mean)+0.5))
	}
	last := int32(-1)
	for k, id := range ids {
		gap := uint64(id - last - 1)
		last = id
		e.bits.ones(gap >> h.Rice)
		e.bits.write(gap, uint(h.Rice))
		q := roots[k]
		if q == 0 {
			e.syms = append(e.syms, symExact)
			e.logit = append(e.logit, x[id])
			continue
		}
		exp := bits.Len32(q) - 1
		e.syms = append(e.syms, byte(exp))
		e.bits.write(uint64(q), uint(exp))
	}
	e.bits.flush()
	h.Bits = uint32(len(e.bits.b))
	e.head = h
	for _, i := range top {
		e.exact[i] = false
	}
}

func octave(lnP float64) int { return int(min(127, max(0, -lnP/math.Ln2))) }

// rounded returns P' of q, its logarithm, and the most variance of one that got
// q by chance.
func rounded(q uint32, step uint8) (p, ln, variance float64) {
	s, unit := float64(q), math.Exp2(-float64(step))
	v := (s + 0.5) * unit
	return s * s * unit, 2*math.Log(s) - float64(step)*math.Ln2, v * v
}

// chooseStep returns the finest step whose row is expected to take no more than
// the budget: a tenth of two bytes per token of the vocabulary, but for small
// vocabularies, whose rows are small anyway, at least minBits.
func (e *encoder) chooseStep(octaves []int, exact int) uint8 {
	v := float64(e.vocab)
	budget := max(minBits, fill*1.6*v-float64(8*headSize+32*exact))
	best := uint8(0)
	for step := range maxStep + 1 {
		n, cost := float64(exact), 0.0
		for o, count := range octaves {
			listed := float64(count)
			if o >= step { // less likely than one step: listed by chance
				listed *= math.Exp2(float64(step-o) - 0.5)
			}
			n += listed
			cost += listed * (max(0, float64(step-o-1)/2) + symBits)
		}
		if cost += n * (math.Log2(max(1, v/n)) + 1.6); cost > budget {
			break
		}
		best = uint8(step)
	}
	return best
}

// packed is a row as it is read.
type packed struct {
	head
	vocab int
	bits  []byte
	syms  []byte
	logit []float32
}

var errRow = errors.New("damaged row")

// NLL returns the base's negative log-likelihood of the right token, which the
// row knows itself.
func (r *packed) NLL(int32) float64 { return r.LSE - float64(r.Target) }

// each calls f for every token that is exact, with
// ln P and q = 0, or listed, with q.
func (r *packed) each(f func(id int, q uint32, lnP float64)) error {
	in := bitReader{b: r.bits}
	id, exact := -1, 0
	for _, sym := range r.syms {
		gap := in.ones()<<r.Rice | in.read(uint(r.Rice))
		if in.failed || gap >= uint64(r.vocab-id-1) {
			return errRow
		}
		id += int(gap) + 1
		if sym == symExact {
			if exact == len(r.logit) {
				return errRow
			}
			f(id, 0, float64(r.logit[exact])-r.LSE)
			exact++
			continue
		}
		if sym > maxExp {
			return errRow
		}
		f(id, 1<<sym|uint32(in.read(uint(sym))), 0)
	}
	if in.failed || exact != len(r.logit) {
		return errRow
	}
	return nil
}

// Top finds the most probable tokens among the exact ones.
func (r *packed) Top(dst []int) []int {
	ids := make([]int, 0, len(r.logit))
	if err := r.each(func(id int, q uint32, _ float64) {
		if q == 0 {
			ids = append(ids, id)
		}
	}); err != nil {
		return dst[:0] // Compare says so
	}
	dst = kernels.Top(dst, r.logit)
	for i, k := range dst {
		dst[i] = ids[k]
	}
	return dst
}

// Compare estimates the divergence and the variance of what it may be off by.
func (r *packed) Compare(logits []float32, target int32) (Comparison, error) {
	lse := kernels.LogSumExp(logits)
	c := Comparison{NLL: lse - float64(logits[target]), BaseNLL: r.NLL(target)}
	var exact, listed, cross, w, wg, wg2 float64
	err := r.each(func(id int, q uint32, lnP float64) {
		lnQ := float64(logits[id]) - lse
		if q == 0 {
			exact += math.Exp(lnP) * (lnP - lnQ)
			return
		}
		p, lnP, v := rounded(q, r.Step)
		g := lnQ - lnP
		listed += p
		cross += p * lnQ
		w += v
		wg += v * g
		wg2 += v * g * g
	})
	if err != nil {
		return c, err
	}
	tail := r.Likely - cross
	if mass := float64(r.Mass); listed > mass/2 && listed < 2*mass {
		tail *= mass / listed
	}
	c.KL = exact + tail
	if listed == 0 {
		// Nothing of the tail was drawn. Let d be 1, for want of anything better.
		c.Variance = float64(r.Mass) * math.Exp2(-float64(r.Step))
	} else {
		mean := wg / w
		total := max(0, wg2-mean*wg)
		off := mean - float64(r.Offset) - (cross-r.Likely)/listed // of the two means of d
		c.Variance = max(total-float64(r.Blur), total/16) + w*off*off
	}
	return c, nil
}

// bitWriter appends bits, the first in a byte's lowest place.
type bitWriter struct {
	b   []byte
	acc uint64
	n   uint
}

func (w *bitWriter) write(v uint64, n uint) {
	w.acc |= v & (1<<n - 1) << w.n
	for w.n += n; w.n >= 8; w.n -= 8 {
		w.b = append(w.b, byte(w.acc))
		w.acc >>= 8
	}
}

// ones writes n in unary.
func (w *bitWriter) ones(n uint64) {
	for ; n >= 16; n -= 16 {
		w.write(0xffff, 16)
	}
	w.write(1<<n-1, uint(n)+1)
}

func (w *bitWriter) flush() {
	if w.n > 0 {
		w.b = append(w.b, byte(w.acc))
		w.acc, w.n = 0, 0
	}
}

// bitReader reads what bitWriter wrote; beyond the end it gives zeros and is
// failed.
type bitReader struct {
	b      []byte
	acc    uint64
	n      uint
	failed bool
}

func (r *bitReader) fill() {
	for r.n <= 56 && len(r.b) > 0 {
		r.acc |= uint64(r.b[0]) << r.n
		r.b = r.b[1:]
		r.n += 8
	}
}

func (r *bitReader) read(n uint) uint64 {
	if r.n < n {
		r.fill()
		if r.n < n {
			r.failed = true
			return 0
		}
	}
	v := r.acc & (1<<n - 1)
	r.acc >>= n
	r.n -= n
	return v
}

func (r *bitReader) ones() uint64 {
	var total uint64
	for {
		r.fill()
		k := uint(bits.TrailingZeros64(^r.acc))
		if k < r.n {
			r.acc >>= k + 1
			r.n -= k + 1
			return total + uint64(k)
		}
		total += uint64(r.n)
		r.acc, r.n = 0, 0
		if len(r.b) == 0 {
			r.failed = true
			return 0
		}
	}
}
