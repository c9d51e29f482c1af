package kernels

import (
	"fmt"
	"math/bits"

	"github.com/smeltgguf/smelt/quant"
)

// Matrix is a weight matrix as it stands in a file: Rows rows of Cols elements,
// each row taking Type.RowSize(Cols) bytes of Data.
type Matrix struct {
	Type       quant.Type
	Rows, Cols int
	Data       []byte
}

// Compute says in what arithmetic a matrix product is done.
type Compute uint8

const (
	// Exact decodes weights to float32 and multiplies them with float32
	// activations.
	Exact Compute = iota
	// Int8 rounds activations to 8 bits with one scale for 32 of them, as
	// runtimes on CPUs do, and multiplies integers. Quantized weights are used
	// as they are; F16, BF16, F32 and types without an integer form are rounded
	// to 8 bits with one scale per 32 as well, but for few tokens F16, BF16 and
	// F32 are multiplied exactly, which takes no longer than reading them.
	Int8
)

// String returns "exact" or "int8".
func (c Compute) String() string {
	if c == Int8 {
		return "int8"
	}
	return "exact"
}

// Product is one matrix to multiply with and the place for the result.
type Product struct {
	W   Matrix
	Out []float32 // (n, W.Rows)
}

const (
	lanes  = 32  // tokens side by side in a panel of activations
	tile   = 8   // weight rows that one call of a micro-kernel multiplies
	chunkF = 64  // most weight rows that are unpacked at a time, exact
	chunkI = 128 // the same, int8
	batch  = 512 // most tokens that share an unpacked panel
	depthF = 256 // columns that are multiplied at a time, exact
	depthI = 512 // the same, int8

	// Columns that are unpacked at a time: rows are read in long runs, and the
	// panel stays in the second-level cache.
	spanF = 8 * depthF
	spanI = 8 * depthI

	strideF = depthF + 16
	strideI = depthI + 64
	groupsI = depthI / 16 // scales per row of an int8 panel

	// A panel of int8 activations holds, for each 32 columns of 32 tokens:
	// [8][32][4]int8 values, [32]float32 scales, and [2][32]int32 negated sums
	// of the values of each 16 columns.
	actValues = 32 * lanes
	actScales = actValues
	actSums   = actScales + 4*lanes
	actGroup  = actSums + 8*lanes
)

// few is the number of tokens below which rows are multiplied one token at a
// time: a tile would be mostly empty.
const few = 10

// Workspace holds the memory that products and attention need beside their
// arguments; it grows to what the largest call needs and can be used by one
// call at a time.
type Workspace struct {
	mode     Compute
	x        []float32
	n, cols  int
	products []Product
	pieces   []piece // the items of work

	values  []byte     // packed int8 activations
	columns []float32  // packed float32 activations
	scales  []float32  // few tokens: scales of the activations, (n, groups)
	one     []oneToken // one token, in the forms that the products' types want
	sums    []float32  // few tokens: scale times sums of activations, see quantizeRow, (n, 3*groups)

	workers []scratch
	pack    func(worker, item int)
	run     func(worker, item int)

	att    attention
	attend func(worker, item int)
	packed packedCache

	ffn  gated
	gate func(worker, item int)

	pack16   func(worker, item int)
	attend16 func(worker, item int)
}

// scratch is the memory of one worker.
type scratch struct {
	panelF         []float32 // (chunk, strideF) decoded weights
	panelI         []byte    // (chunk, strideI) unpacked weights
	scale          []float32 // (chunk, groupsI)
	offset         []float32 // (chunk, groupsI)
	c              []float32 // (tokens/lanes, rows, lanes) results
	gate           []float32 // and those of a feed-forward's gate
	row            []float32 // a decoded row
	bytes          []byte    // an unpacked row on its way to float32
	row16          []float32 // and its scales
	off16          []float32 // and offsets
	dots           []float32 // a row on its way to 8 bits
	isums          []int32   // sums of a panel's activations
	scores         []float32 // attention: (positions, lanes)
	queries        queryBlock
	query, columns []float32 // attention: (lanes, dim) and (dim, lanes)
	weights        []byte    // attention in 16 bits: (positions/2, lanes, 2)
	softmax        softmaxState
}

// grow returns s with length n, reallocated if needed; old values are lost.
func grow[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}

func (ws *Workspace) prepare(threads int) {
	if ws.run == nil {
		ws.pack, ws.run, ws.attend = ws.packItem, ws.runItem, ws.attendItem
		ws.gate = ws.gateItem
		ws.pack16, ws.attend16 = ws.packItem16, ws.attendItem16
	}
	for len(ws.workers) < threads {
		ws.workers = append(ws.workers, scratch{})
	}
}

// MatMul multiplies n tokens' activations with one or several matrices of the
// same width: for each product, Out[t][r] = sum over c of W[r][c] * x[t][c],
// x being (n, cols) and Out (n, W.Rows), row-major. The activations are packed
// once for all products. Results do not depend on the number of threads.
// It panics where shapes disagree or a type cannot be decoded.
func MatMul(p *Pool, ws *Workspace, mode Compute, x []float32, n int, products ...Product) {
	if n == 0 || len(products) == 0 {
		return
	}
	cols := products[0].W.Cols
	for i := range products {
		check(&products[i], cols, n)
	}
	if len(x) < n*cols {
		panic(fmt.Sprintf("kernels: %d activations for %d tokens of %d", len(x), n, cols))
	}
	ws.prepare(p.Threads())
	ws.mode, ws.cols = mode, cols
	ws.products = append(ws.products[:0], products...)
	ws.divide(n, p.Threads())
	for t := 0; t < n; t += batch {
		ws.n = min(batch, n-t)
		ws.x = x[t*cols:][:ws.n*cols]
		ws.packAll(p)
		p.Run(len(ws.pieces), ws.run)
		for i := range ws.products {
			w := &ws.products[i]
			w.Out = w.Out[ws.n*w.W.Rows:]
		}
	}
	clear(ws.products) // keep no reference to weights
	ws.x = nil
}

// piece is a run of rows of one of the products.
type piece struct{ product, first, rows int }

// divide cuts the products of n tokens into pieces: small enough for workers to
// finish together, large enough that packed activations read from the cache
// serve many rows, or for few tokens that rows are read in long runs. Those
// begin large and become smaller.
func (ws *Workspace) divide(n, threads int) {
	left := 0
	for i := range ws.products {
		left += ws.products[i].W.Rows
	}
	most := min(max((left/(4*threads)+tile-1)/tile*tile, tile), ws.chunk())
	ws.pieces = ws.pieces[:0]
	for i := range ws.products {
		all := ws.products[i].W.Rows
		for first := 0; first < all; {
			if n < few {
				most = max(left/(2*threads)/tile*tile, 2*tile)
			}
			rows := min(most, all-first)
			ws.pieces = append(ws.pieces, piece{i, first, rows})
			first, left = first+rows, left-rows
		}
	}
}

// chunk returns how many rows are unpacked together at most.
func (ws *Workspace) chunk() int {
	if ws.mode == Exact {
		return chunkF
	}
	return chunkI
}

func check(p *Product, cols, n int) {
	w := &p.W
	if !w.Type.Valid() || w.Cols != cols || w.Rows < 0 || cols%w.Type.BlockLen() != 0 ||
		len(w.Data) < w.Rows*w.Type.RowSize(cols) || len(p.Out) < n*w.Rows {
		panic(fmt.Sprintf("kernels: product of %s (%d, %d) in %d bytes with %d columns into %d results for %d tokens",
			w.Type, w.Rows, w.Cols, len(w.Data), cols, len(p.Out), n))
	}
}

// packAll brings the activations into the form that the micro-kernels read.
func (ws *Workspace) packAll(p *Pool) {
	groups := (ws.cols + 31) / 32
	panels := (ws.n + lanes - 1) / lanes
	switch {
	case ws.n < few && ws.mode == Exact:
	case ws.n < few:
		ws.values = grow(ws.values, ws.n*groups*32)
		ws.scales = grow(ws.scales, ws.n*groups)
		ws.sums = grow(ws.sums, ws.n*groups*3)
		for t := range ws.n {
			ws.quantizeToken(t, groups)
		}
		if ws.n == 1 && ws.cols%256 == 0 {
			ws.one = ws.one[:0]
			for i := range ws.products {
				ws.prepareOne(ws.products[i].W.Type)
			}
		}
	case ws.mode == Exact:
		ws.columns = grow(ws.columns, panels*ws.cols*lanes)
		p.Run(panels, ws.pack)
	default:
		ws.values = grow(ws.values, panels*groups*actGroup)
		p.Run(panels, ws.pack)
	}
}

// quantizeToken rounds one token's activations to 8 bits.
func (ws *Workspace) quantizeToken(t, groups int) {
	s := &ws.workers[0]
	s.isums = grow(s.isums, 2*groups)
	scales, sums := ws.scales[t*groups:][:groups], ws.sums[t*groups*3:][:groups*3]
	quantizeRow(ws.values[t*groups*32:][:groups*32], scales, s.isums, ws.x[t*ws.cols:][:ws.cols], 0)
	for g, scale := range scales {
		a, b := s.isums[2*g], s.isums[2*g+1]
		sums[2*g], sums[2*g+1], sums[2*groups+g] = scale*float32(a), scale*float32(b), scale*float32(a+b)
	}
}

// packItem packs 32 tokens.
func (ws *Workspace) packItem(worker, item int) {
	first := item * lanes
	n := min(lanes, ws.n-first)
	x := ws.x[first*ws.cols:][:n*ws.cols]
	if ws.mode == Exact {
		transposeIn(ws.columns[item*ws.cols*lanes:][:ws.cols*lanes], x, ws.cols, n, ws.cols)
		return
	}
	groups := (ws.cols + 31) / 32
	packInt8(ws.values[item*groups*actGroup:][:groups*actGroup], x, n, ws.cols, &ws.workers[worker])
}

// runItem multiplies a piece with all packed tokens.
func (ws *Workspace) runItem(worker, item int) {
	at := ws.pieces[item]
	p, first, rows := &ws.products[at.product], at.first, at.rows
	s := &ws.workers[worker]
	switch {
	case ws.n < few && (ws.mode == Exact || plainFloat(p.W.Type)):
		ws.fewExact(s, p, first, rows)
	case ws.n < few:
		ws.fewInt8(s, p, first, rows)
	default:
		padded := ws.tiles(s, &p.W, first, rows)
		ws.unpackResults(s, p, first, rows, padded)
	}
}

// tiles multiplies rows with all packed tokens: s.c is (tokens/lanes, padded,
// lanes), padded being the rows up to a multiple of tile.
func (ws *Workspace) tiles(s *scratch, w *Matrix, first, rows int) (padded int) {
	padded = (rows + tile - 1) / tile * tile
	if ws.mode == Exact {
		ws.tilesExact(s, w, first, rows, padded)
	} else {
		ws.tilesInt8(s, w, first, rows, padded)
	}
	return padded
}

func (ws *Workspace) tilesExact(s *scratch, w *Matrix, first, rows, padded int) {
	panels := (ws.n + lanes - 1) / lanes
	s.panelF = grow(s.panelF, spanF/depthF*padded*strideF)
	s.c = grow(s.c, panels*padded*lanes)
	clear(s.c)
	size := w.Type.RowSize(w.Cols)
	for from := 0; from < w.Cols; from += spanF {
		to := min(from+spanF, w.Cols)
		for r := range padded {
			for k := from; k < to; k += depthF {
				dst := s.panelF[((k-from)/depthF*padded+r)*strideF:][:min(depthF, to-k)]
				if r >= rows {
					clear(dst)
					continue
				}
				row := w.Data[(first+r)*size:][:size]
				decode(w.Type, dst, row[w.Type.RowSize(k):w.Type.RowSize(k+len(dst))], s)
			}
		}
		for k := from; k < to; k += depthF {
			depth := min(depthF, to-k)
			panel := s.panelF[(k-from)/depthF*padded*strideF:]
			for t := range panels {
				b := ws.columns[(t*w.Cols+k)*lanes:][:depth*lanes]
				c := s.c[t*padded*lanes:][:padded*lanes]
				for r := 0; r < padded; r += tile {
					gemmF32(c[r*lanes:], panel[r*strideF:], strideF, 1, b, depth, tile)
				}
			}
		}
	}
}

func (ws *Workspace) tilesInt8(s *scratch, w *Matrix, first, rows, padded int) {
	f := &forms[w.Type]
	panels := (ws.n + lanes - 1) / lanes
	groups := (w.Cols + 31) / 32
	s.panelI = grow(s.panelI, spanI/depthI*padded*strideI)
	s.scale = grow(s.scale, spanI/depthI*padded*groupsI)
	s.offset = grow(s.offset, spanI/depthI*padded*groupsI)
	s.c = grow(s.c, panels*padded*lanes)
	clear(s.c)
	size, run, blockLen := w.Type.RowSize(w.Cols), w.Type.RowSize(depthI), w.Type.BlockLen()
	full := depthI / blockLen
	for from := 0; from < w.Cols; from += spanI {
		to := min(from+spanI, w.Cols)
		for r := range padded {
			for k := from; k < to; k += depthI {
				i := (k-from)/depthI*padded + r
				scale, offset := s.scale[i*groupsI:][:groupsI], s.offset[i*groupsI:][:groupsI]
				if r >= rows {
					clear(scale)
					clear(offset)
					continue
				}
				row, at := w.Data[(first+r)*size:][:size], k/depthI*run
				blocks := full
				if k+depthI > to {
					blocks = (to - k) / blockLen
				}
				unpack(w.Type, s.panelI[i*strideI:][:strideI], scale, offset, row[at:min(at+run, size)], blocks, s)
			}
		}
		for k := from; k < to; k += depthI {
			g := (min(depthI, to-k) + 31) / 32
			i := (k - from) / depthI * padded
			for t := range panels {
				acts := ws.values[(t*groups+k/32)*actGroup:][:g*actGroup]
				c := s.c[t*padded*lanes:][:padded*lanes]
				gemmInt8(f, c, s.panelI[i*strideI:], s.scale[i*groupsI:], s.offset[i*groupsI:], acts, g)
			}
		}
	}
}

// plainFloat tells types that are floats, not blocks.
func plainFloat(t quant.Type) bool { return t == quant.F32 || t == quant.F16 || t == quant.BF16 }

// unpackResults brings results, which stand side by side by token, into Out.
func (ws *Workspace) unpackResults(s *scratch, p *Product, first, rows, padded int) {
	for t := 0; t*lanes < ws.n; t++ {
		out := p.Out[t*lanes*p.W.Rows+first:]
		transposeOut(out, p.W.Rows, s.c[t*padded*lanes:], rows, min(lanes, ws.n-t*lanes))
	}
}

func (ws *Workspace) fewExact(s *scratch, p *Product, first, rows int) {
	w := &p.W
	size := w.Type.RowSize(w.Cols)
	if ws.n == 1 && plainFloat(w.Type) {
		dotRows(w.Type, p.Out[first:first+rows], w.Data[first*size:][:rows*size], ws.x)
		return
	}
	if ws.n == 1 && exactRows(w.Type, p.Out[first:first+rows], w.Data[first*size:][:rows*size], ws.x) {
		return
	}
	for r := first; r < first+rows; r++ {
		row := w.Data[r*size:][:size]
		if ws.n == 1 {
			p.Out[r] = decodeDot(w.Type, row, ws.x, s)
			continue
		}
		s.row = grow(s.row, w.Cols)
		decode(w.Type, s.row, row, s)
		for t := range ws.n {
			p.Out[t*w.Rows+r] = dotF32(s.row, ws.x[t*w.Cols:])
		}
	}
}

func (ws *Workspace) fewInt8(s *scratch, p *Product, first, rows int) {
	w := &p.W
	f := &forms[w.Type]
	size := w.Type.RowSize(w.Cols)
	groups := (w.Cols + 31) / 32
	if form, ok := rowsForm(w.Type); ok && ws.n == 1 && w.Cols%256 == 0 {
		for i := range ws.one {
			if ws.one[i].form == form {
				rowsSIMD(w.Type, p.Out[first:first+rows], w.Data[first*size:][:rows*size], &ws.one[i], ws.scales[:groups], ws.sums[:3*groups])
				return
			}
		}
	}
	s.panelI = grow(s.panelI, groups*32)
	s.scale = grow(s.scale, groups*2)
	s.offset = grow(s.offset, groups*2)
	for r := first; r < first+rows; r++ {
		unpack(w.Type, s.panelI, s.scale, s.offset, w.Data[r*size:][:size], w.Cols/w.Type.BlockLen(), s)
		for t := range ws.n {
			p.Out[t*w.Rows+r] = dotInt8(f, s.panelI, s.scale, s.offset,
				ws.values[t*groups*32:], ws.scales[t*groups:], ws.sums[t*groups*3:], groups)
		}
	}
}

// oneForm is how one token's activations stand for products straight from a
// type's blocks, which rowsForm gives for those types that there are such
// kernels for.
type oneForm struct {
	// run is the length of the runs of values of which, among each 128, those of
	// even number come first: the order in which nibbles of 64 bytes are
	// unpacked. 0: as they come.
	run    int
	offset int // what the weights are too large by, a power of two or 0
}

// oneToken is one token's activations in a form.
type oneToken struct {
	form   oneForm
	values []byte // the workspace's, or own
	own    []byte
	// neg takes the offset out of the products: for each 4 values, or with runs
	// for each 4 of 64 and the 4 that stand 64 later, their sum times -offset.
	neg []int32
}

// prepareOne brings the token's values into the form that a type wants.
func (ws *Workspace) prepareOne(t quant.Type) {
	form, ok := rowsForm(t)
	if !ok {
		return
	}
	for i := range ws.one {
		if ws.one[i].form == form {
			return
		}
	}
	if len(ws.one) == cap(ws.one) {
		ws.one = append(ws.one, oneToken{})
	} else {
		ws.one = ws.one[:len(ws.one)+1] // with the memory that it had
	}
	o := &ws.one[len(ws.one)-1]
	o.form = form
	each := 1
	o.values = ws.values
	if run := form.run; run > 0 {
		each = 2
		o.own = grow(o.own, len(ws.values))
		o.values = o.own
		for i := 0; i < len(o.values); i += 128 {
			for k := 0; k < 64; k += run {
				copy(o.values[i+k:][:run], ws.values[i+2*k:])
				copy(o.values[i+64+k:][:run], ws.values[i+2*k+run:])
			}
		}
	}
	if form.offset > 0 {
		o.neg = grow(o.neg, len(o.values)/4/each)
		negSums(o.neg, o.values, each, bits.TrailingZeros(uint(form.offset)))
	}
}
