package kernels

import "fmt"

// gated holds the arguments of FeedForward for the workers.
type gated struct {
	gate, up Matrix
	act      func(gate, up []float32)
	rows     int       // per item, a multiple of 32
	values   []byte    // what Down is multiplied with, packed: int8
	columns  []float32 // and float32
	hidden   []float32 // few tokens: (2, n, Rows)
}

// FeedForward computes a gated feed-forward network for n tokens, x being (n,
// Cols): Down.Out = Down.W · act(gate·x, up·x), as two calls of MatMul with act
// between them would, but what is between need not go through the memory. act
// replaces each element of gate by a function of that and of the element of up
// in the same place; it gets runs of them in any order, from several goroutines,
// and may write to up. Its function of two zeros must be zero.
func FeedForward(p *Pool, ws *Workspace, mode Compute, x []float32, n int, gate, up Matrix, act func(gate, up []float32), down Product) {
	if n == 0 {
		return
	}
	rows, cols := gate.Rows, gate.Cols
	if up.Rows != rows || down.W.Cols != rows || len(x) < n*cols {
		panic(fmt.Sprintf("kernels: feed-forward of (%d, %d), (%d, %d) and (%d, %d) with %d activations for %d tokens",
			rows, cols, up.Rows, up.Cols, down.W.Rows, down.W.Cols, len(x), n))
	}
	for _, w := range []Matrix{gate, up} {
		check(&Product{W: w}, cols, 0)
	}
	check(&down, rows, n)
	ws.prepare(p.Threads())
	g := &ws.ffn
	for t := 0; t < n; t += batch {
		m := min(batch, n-t)
		x := x[t*cols:][:m*cols]
		out := down
		out.Out = down.Out[t*down.W.Rows:]
		if m < few {
			g.hidden = grow(g.hidden, 2*m*rows)
			a, b := g.hidden[:m*rows], g.hidden[m*rows:]
			MatMul(p, ws, mode, x, m, Product{gate, a}, Product{up, b})
			act(a, b)
			MatMul(p, ws, mode, a, m, out)
			continue
		}
		ws.mode, ws.cols, ws.n, ws.x = mode, cols, m, x
		ws.packAll(p)
		g.gate, g.up, g.act = gate, up, act
		g.rows = min(max(rows/(4*p.Threads())/32*32, 32), ws.chunk())
		panels := (m + lanes - 1) / lanes
		if mode == Exact {
			g.columns = grow(g.columns, panels*rows*lanes)
		} else {
			g.values = grow(g.values, panels*((rows+31)/32)*actGroup)
		}
		p.Run((rows+g.rows-1)/g.rows, ws.gate)
		// What is packed takes the place of x's panels while Down is computed.
		ws.values, g.values, ws.columns, g.columns = g.values, ws.values, g.columns, ws.columns
		ws.cols = rows
		ws.products = append(ws.products[:0], out)
		ws.divide(m, p.Threads())
		p.Run(len(ws.pieces), ws.run)
		ws.values, g.values, ws.columns, g.columns = g.values, ws.values, g.columns, ws.columns
	}
	clear(ws.products) // keep no reference to weights
	g.gate, g.up, g.act = Matrix{}, Matrix{}, nil
	ws.x = nil
}

// gateItem computes a run of rows of what is between the matrices, and packs it.
func (ws *Workspace) gateItem(worker, item int) {
	g, s := &ws.ffn, &ws.workers[worker]
	all := g.gate.Rows
	first := item * g.rows
	rows := min(g.rows, all-first)
	ws.tiles(s, &g.gate, first, rows)
	s.c, s.gate = s.gate, s.c
	padded := ws.tiles(s, &g.up, first, rows)
	g.act(s.gate, s.c)
	groups := (all + 31) / 32
	for t := range (ws.n + lanes - 1) / lanes {
		c := s.gate[t*padded*lanes:][:rows*lanes]
		if ws.mode == Exact {
			copy(g.columns[(t*all+first)*lanes:], c)
			continue
		}
		for r := 0; r < rows; r += 32 {
			in := c[r*lanes:]
			if rows-r < 32 {
				s.row = grow(s.row, 32*lanes)
				clear(s.row[copy(s.row, in):])
				in = s.row
			}
			packGroup(g.values[(t*groups+(first+r)/32)*actGroup:][:actGroup], in[:32*lanes], s)
		}
	}
}
