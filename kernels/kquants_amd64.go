//go:build !purego

package kernels

import (
	"bytes"
	"math"
	"math/bits"
	"sync"
	"unsafe"

	"github.com/smeltgguf/smelt/quant"
)

// groups holds 16 groups of elements for the searches that run one group per
// SIMD lane: column j of each array belongs to group j. The assembly knows the
// layout (offsets in _asm/encode/kquants.go). AVX2 takes eight columns a call.
type groups struct {
	x, w, l                                [32][16]float32 // elements, weights, levels
	scale, negMin, inv, base, sumw, sigma2 [16]float32     // see quant.KFit
	wild                                   [16]float32     // not 0: the lane is no good
	sumx, lowest, highest, minimum, least  [16]float32     // used by the searches
}

// The assembly relies on these.
const (
	_ = -(unsafe.Offsetof(groups{}.w) ^ 2048)
	_ = -(unsafe.Offsetof(groups{}.l) ^ 2*2048)
	_ = -(unsafe.Offsetof(groups{}.scale) ^ 3*2048)
	_ = -(unsafe.Offsetof(groups{}.wild) ^ (3*2048 + 6*64))
	_ = -(unsafe.Offsetof(groups{}.least) ^ (3*2048 + 11*64))
	_ = -(unsafe.Sizeof(groups{}) ^ (3*2048 + 12*64))
	_ = -unsafe.Offsetof(kScratch{}.groups)
	_ = -(unsafe.Offsetof(kScratch{}.more) ^ unsafe.Sizeof(groups{}))
)

// kScratch is the working memory of one row's encoding.
type kScratch struct {
	groups
	more   [3]groups             // for Q3_K
	scales [supersQ3][16]float32 // of super-blocks of Q3_K
	stored [supersQ3]struct {    // what is made of them
		d      float32
		scales [16]uint8
	}
	queues [2]greedyQueue // groups for fewRounds and for maxRounds
	padded [512]float32   // elements, or their importance, where a row ends early
	fit    quant.KFit
}

// greedyQueue holds groups that are yet to be searched.
type greedyQueue struct {
	n     int
	x     [64][16]float32
	scale [64]*float32 // where their scales belong
}

func (q *greedyQueue) add(x []float32, scale *float32) {
	q.x[q.n] = [16]float32(x)
	q.scale[q.n] = scale
	q.n++
}

// supersQ3 is the number of super-blocks that encodeQ3 takes at a time: the
// more, the fewer searches have empty lanes.
const supersQ3 = 128

var kScratches = sync.Pool{New: func() any { return new(kScratch) }}

// halves calls f with the address of each part of g that one call can do.
func (g *groups) halves(avx512 func(*byte), avx2 func(*byte)) {
	p := unsafe.Pointer(g)
	if hasAVX512 {
		avx512((*byte)(p))
		return
	}
	avx2((*byte)(p))
	avx2((*byte)(unsafe.Add(p, 32)))
}

// transpose fills dst with 16 groups of n elements.
func transposeGroups(dst *[32][16]float32, src []float32, n int) {
	_ = src[16*n-1]
	for i := 0; i < n; i += 16 {
		if hasAVX512 {
			toLanesAVX512(&dst[i][0], &src[i], n)
			continue
		}
		for j := 0; j < 16; j += 8 {
			toLanesAVX2(&dst[i][j], &src[j*n+i], n)
			toLanesAVX2(&dst[i+8][j], &src[j*n+i+8], n)
		}
	}
}

func (g *groups) weightsAbs(n int) {
	g.halves(func(p *byte) { weightsAbsAVX512(p, n) }, func(p *byte) { weightsAbsAVX2(p, n) })
}

func (g *groups) weightsSquare(n int) {
	g.halves(func(p *byte) { weightsSquareAVX512(p, n) }, func(p *byte) { weightsSquareAVX2(p, n) })
}

func (g *groups) weightsMean(n int) {
	g.halves(func(p *byte) { weightsMeanAVX512(p, n) }, func(p *byte) { weightsMeanAVX2(p, n) })
}

func (g *groups) weightsImportance(n int) {
	g.halves(func(p *byte) { weightsImportanceAVX512(p, n) }, func(p *byte) { weightsImportanceAVX2(p, n) })
}

func (g *groups) fitAffine(n int, t *quant.AffineTrials) {
	num, count := &t.Numerators[0], len(t.Numerators)
	if t.Absolute {
		g.halves(func(p *byte) { fitAffineAbsAVX512(p, n, t.Top, num, count) },
			func(p *byte) { fitAffineAbsAVX2(p, n, t.Top, num, count) })
		return
	}
	g.halves(func(p *byte) { fitAffineAVX512(p, n, t.Top, num, count) },
		func(p *byte) { fitAffineAVX2(p, n, t.Top, num, count) })
}

func (g *groups) fitSigned(n, half int, trials []float32) {
	h, num, count := float32(half), &trials[0], len(trials)
	g.halves(func(p *byte) { fitSignedAVX512(p, n, h, num, count) },
		func(p *byte) { fitSignedAVX2(p, n, h, num, count) })
}

// greedySets returns the groups structures that the next two take.
func (s *kScratch) greedySets() []*groups {
	sets := [4]*groups{&s.groups, &s.more[0], &s.more[1], &s.more[2]}
	if hasAVX512 {
		return sets[:]
	}
	return sets[:1]
}

// screenGreedy sets the scales of groups of 16 that fitGreedy would leave as
// they are, and returns a bit for each of the others.
func (s *kScratch) screenGreedy() (unsettled uint64) {
	p := (*byte)(unsafe.Pointer(s))
	if hasAVX512 {
		return screenGreedyAVX512(p, 4)
	}
	return screenGreedyAVX2(p, 4)
}

// fitGreedy works on all sets of s. The search is over for the lanes whose wild
// is 0, and after maxRounds.
func (s *kScratch) fitGreedy(rounds int) {
	p := (*byte)(unsafe.Pointer(s))
	if hasAVX512 {
		fitGreedyAVX512(p, 4, rounds)
	} else {
		fitGreedyAVX2(p, 4, rounds)
	}
}

// maxRounds is how often quant's fitSignedGreedy goes through a group. Nearly
// all groups need fewRounds at most, but of the many side by side one often
// needs more, and all take as long as that one.
const maxRounds, fewRounds = 5, 3

// sumSquaresK adds the squares of each super-block of x in order. Two sums side
// by side hide some of the latency.
func sumSquaresK(x []float32) (a, b float32) {
	if len(x) <= 256 {
		for _, v := range x {
			a += float32(v * v)
		}
		return a, 0
	}
	y := x[256:512]
	for i, v := range x[:256] {
		a += float32(v * v)
		b += float32(y[i] * y[i])
	}
	return a, b
}

var trials4, trials32 = quant.SignedTrials(4), quant.SignedTrials(32)

// encodeK is quant.Encode for the K-quants.
func encodeK(t quant.Type, dst []byte, row, importance []float32) {
	s := kScratches.Get().(*kScratch)
	defer kScratches.Put(s)
	n := 16 // elements of a group
	if t == quant.Q4_K || t == quant.Q5_K {
		n = 32
	}
	size := t.BlockSize()
	if t == quant.Q3_K && importance == nil {
		for len(row) > 0 {
			count := min(256*supersQ3, len(row))
			s.encodeQ3(dst[:size*count/256], row[:count])
			row, dst = row[count:], dst[size*count/256:]
		}
		return
	}
	for len(row) > 0 {
		count := min(16*n, len(row)) // elements of this turn
		s.search(t, n, row[:count], importance)
		for b := range count / 256 {
			f, x, out := &s.fit, row[256*b:][:256], dst[size*b:][:size]
			if s.take(t, f, b*256/n, 256/n) {
				roundScales(t, f, importance != nil)
				f.Put(t, out, x, &kLevels)
				continue
			}
			var w []float32
			if importance != nil {
				w = importance[256*b:][:256]
			}
			quant.Encode(t, out, x, w)
		}
		row, dst = row[count:], dst[size*count/256:]
		if importance != nil {
			importance = importance[count:]
		}
	}
}

// search fills g with up to 16 groups of n elements and finds their scales.
func (s *kScratch) search(t quant.Type, n int, x, importance []float32) {
	g := &s.groups
	if importance != nil {
		transposeGroups(&g.w, s.pad(importance[:len(x)], 16*n), n)
		if t != quant.Q6_K {
			a, b := sumSquaresK(x)
			sums := [2]float32{quant.KSigma2(t, a), quant.KSigma2(t, b)}
			for j := range g.sigma2 {
				g.sigma2[j] = sums[j*n/256]
			}
		}
	}
	transposeGroups(&g.x, s.pad(x, 16*n), n)
	switch {
	case t == quant.Q6_K && importance == nil:
		g.weightsSquare(n)
	case t == quant.Q6_K:
	case importance != nil:
		g.weightsImportance(n)
	case t == quant.Q2_K:
		g.weightsAbs(n)
	default:
		g.weightsMean(n)
	}
	switch t {
	case quant.Q3_K:
		g.fitSigned(n, 4, trials4)
	case quant.Q6_K:
		g.fitSigned(n, 32, trials32)
	default:
		g.fitAffine(n, quant.KTrials(t, importance != nil))
	}
}

// pad returns x with zeros to length n.
func (s *kScratch) pad(x []float32, n int) []float32 {
	if len(x) == n {
		return x
	}
	clear(s.padded[copy(s.padded[:], x):])
	return s.padded[:n]
}

// take moves count groups from first on into f, or returns false where the
// lanes could not do one of them.
func (s *kScratch) take(t quant.Type, f *quant.KFit, first, count int) bool {
	g := &s.groups
	copy(f.Scale[:count], g.scale[first:])
	copy(f.SumW[:count], g.sumw[first:])
	switch t {
	case quant.Q3_K, quant.Q6_K:
		copy(f.Inv[:], g.inv[:])
		clear(f.Levels[:])
		return true
	}
	copy(f.NegMin[:count], g.negMin[first:])
	copy(f.Inv[:count], g.inv[first:])
	copy(f.Base[:count], g.base[first:])
	for _, w := range g.wild[first:][:count] {
		if w != 0 {
			return false
		}
	}
	return true
}

// encodeQ3 is quant.Encode for Q3_K without importance and up to supersQ3
// super-blocks. Groups that have to be searched are queued until they fill all
// lanes.
func (s *kScratch) encodeQ3(dst []byte, x []float32) {
	blocks := len(x) / 256
	sets := s.greedySets()
	for b := 0; b < blocks; b += len(sets) {
		n := min(len(sets), blocks-b)
		for i := range n {
			transposeGroups(&sets[i].x, x[256*(b+i):][:256], 16)
		}
		unsettled := s.screenGreedy() & (1<<(16*n) - 1)
		for i := range n {
			s.scales[b+i] = sets[i].scale
		}
		for ; unsettled != 0; unsettled &= unsettled - 1 {
			j := 16*b + bits.TrailingZeros64(unsettled)
			s.enqueue(0, x[16*j:], &s.scales[j/16][j%16])
		}
	}
	s.searchQueue(0)
	s.searchQueue(1)
	f := &s.fit
	// Rounding waits for its own results: all at once, it does so for several.
	for b := range blocks {
		to := &s.stored[b]
		var ok bool
		if to.d, ok = roundSigned(&to.scales, &s.scales[b], 32, 32); !ok {
			f.Scale = s.scales[b]
			f.Round(quant.Q3_K, false)
			to.d, to.scales = f.D, f.LScale
		}
	}
	size := quant.Q3_K.BlockSize()
	clear(f.Inv[:])
	for b := range blocks {
		xb := x[256*b:][:256]
		f.D, f.LScale = s.stored[b].d, s.stored[b].scales
		if tiny := math.Abs(float64(f.D)) <= 1e-6; tiny || bytes.IndexByte(f.LScale[:], 32) >= 0 {
			// A stored scale may be zero. Then the search's levels count.
			for j, l := range f.LScale {
				if tiny || l == 32 {
					f.SearchGroup(quant.Q3_K, j, xb)
				}
			}
		}
		f.Put(quant.Q3_K, dst[size*b:][:size], xb, &kLevels)
	}
}

// enqueue adds a group to a queue, which is searched when it is full.
func (s *kScratch) enqueue(queue int, x []float32, scale *float32) {
	q := &s.queues[queue]
	q.add(x, scale)
	if q.n == 16*len(s.greedySets()) {
		s.searchQueue(queue)
	}
}

// searchQueue finds the scales of all groups in a queue. Those in the first
// that are not done after fewRounds start again in the second.
func (s *kScratch) searchQueue(queue int) {
	q := &s.queues[queue]
	if q.n == 0 {
		return
	}
	sets := s.greedySets()
	for i := range sets {
		// Lanes past the end search what an earlier turn left.
		transposeGroups(&sets[i].x, unsafe.Slice(&q.x[16*i][0], 256), 16)
	}
	rounds := fewRounds
	if queue > 0 {
		rounds = maxRounds
	}
	s.fitGreedy(rounds)
	var again uint64
	for i, to := range q.scale[:q.n] {
		g := sets[i/16]
		*to = g.scale[i%16]
		if g.wild[i%16] != 0 {
			again |= 1 << i
		}
	}
	q.n = 0
	if queue == 0 {
		for ; again != 0; again &= again - 1 {
			i := bits.TrailingZeros64(again)
			s.enqueue(1, q.x[i][:], q.scale[i])
		}
	}
}

// roundScales is f.Round.
func roundScales(t quant.Type, f *quant.KFit, weighted bool) {
	if t == quant.Q6_K {
		var ok bool
		if f.D, ok = roundSigned(&f.LScale, &f.Scale, 128, 0); ok {
			return
		}
	}
	f.Round(t, weighted)
}

// roundSigned sets levels to scales in units of -1/half of the one of largest
// magnitude, plus offset, and returns that unit. It is not ok where all are
// zeros, or numbers that need care.
func roundSigned(levels *[16]uint8, scales *[16]float32, half, offset float32) (unit float32, ok bool) {
	const magic = 12582912 // see quant's nearestInt
	largest := roundScalesAVX2(&levels[0], &scales[0], -half, magic+offset, magic+offset+half-1)
	m := math.Abs(float64(largest))
	inv := -half / largest
	return 1 / inv, m > 1e-14 && m < 1e30
}

var kLevels = quant.KLevels{
	Affine: func(levels *[256]uint8, x []float32, top int, scale, minimum []float32) {
		levelsDivide(levels[:], x, 0, top, scale, minimum)
	},
	Signed: func(levels *[256]uint8, x []float32, half int, scale []float32) {
		levelsDivide(levels[:], x, -half, half-1, scale, noBase[:])
	},
	Planes: func(dst, levels []uint8, shift, bits int) {
		_, _ = dst[31], levels[256/bits-1]
		putPlanesAVX2(&dst[0], &levels[0], shift, bits, 8/bits)
	},
}

var noBase [16]float32

// levelsDivide sets levels for scales and minima of groups of 16 or 32.
func levelsDivide(levels []uint8, x []float32, bottom, top int, scale, minimum []float32) {
	if len(scale) == 8 {
		scale, minimum = spread(scale)[:], spread(minimum)[:]
	}
	b, t := float32(bottom), float32(top)
	if hasAVX512 {
		levelsDivideAVX512(&levels[0], &x[0], b, t, &scale[0], &minimum[0], len(x)/16)
	} else {
		levelsDivideAVX2(&levels[0], &x[0], b, t, &scale[0], &minimum[0], len(x)/16)
	}
}

// levelsMultiply sets the levels of a block of 32.
func levelsMultiply(levels *[32]uint8, x []float32, bottom, top int, inv, base float32) {
	_ = x[31]
	b, t := float32(bottom), float32(top)
	i, m := [2]float32{inv, inv}, [2]float32{base, base}
	if hasAVX512 {
		levelsMultiplyAVX512(&levels[0], &x[0], b, t, &i[0], &m[0], 2)
	} else {
		levelsMultiplyAVX2(&levels[0], &x[0], b, t, &i[0], &m[0], 2)
	}
}

// spread gives every 16 elements a scale, from one for every 32.
func spread(x []float32) *[16]float32 {
	var s [16]float32
	for j, v := range x {
		s[2*j], s[2*j+1] = v, v
	}
	return &s
}
