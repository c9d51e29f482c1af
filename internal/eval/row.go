package eval

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
