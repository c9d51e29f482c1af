package eval

import "math"

// logSumExp returns ln(sum(exp(x))) of a row of logits, summed in float64.
func logSumExp(x []float32) float64 {
	m := math.Inf(-1)
	for _, v := range x {
		m = math.Max(m, float64(v)) // NaN stays NaN
	}
	var sum float64
	for _, v := range x {
		sum += math.Exp(float64(v) - m)
	}
	return m + math.Log(sum)
}

// klDivergence returns KL(P||Q) in nats and ln-sum-exp of both rows, where P
// and Q are the softmax distributions of the logits p and q:
//
//	KL = sum P (ln P - ln Q) = sum P (p - q) - lse(p) + lse(q)
//
// The second form needs one exponential per entry and distribution.
func klDivergence(p, q []float32) (kl, lseP, lseQ float64) {
	mp, mq := math.Inf(-1), math.Inf(-1)
	for i, v := range p {
		mp = math.Max(mp, float64(v))
		mq = math.Max(mq, float64(q[i]))
	}
	var sumP, sumQ, diff float64
	for i, v := range p {
		a, b := float64(v), float64(q[i])
		e := math.Exp(a - mp)
		sumP += e
		diff += e * ((a - mp) - (b - mq))
		sumQ += math.Exp(b - mq)
	}
	lp, lq := math.Log(sumP), math.Log(sumQ)
	// Rounding may leave a tiny negative number where P and Q agree.
	return math.Max(0, diff/sumP-lp+lq), mp + lp, mq + lq
}

// topK is how many of the most probable tokens the top-k overlap looks at.
const topK = 5

// top returns the indices of the topK largest entries of x, largest first;
// among equals the lower index comes first. Entries beyond len(x) are -1.
func top(x []float32) [topK]int {
	var idx [topK]int
	for i := range idx {
		idx[i] = -1
	}
	for i, v := range x {
		if last := idx[topK-1]; last >= 0 && v <= x[last] {
			continue
		}
		j := topK - 1
		for j > 0 && (idx[j-1] < 0 || v > x[idx[j-1]]) {
			idx[j] = idx[j-1]
			j--
		}
		idx[j] = i
	}
	return idx
}

// overlap returns the share of a's entries that are in b too.
func overlap(a, b [topK]int) float64 {
	n, total := 0, 0
	for _, x := range a {
		if x < 0 {
			continue
		}
		total++
		for _, y := range b {
			if x == y {
				n++
			}
		}
	}
	return float64(n) / float64(total)
}
