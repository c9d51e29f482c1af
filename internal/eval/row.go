package eval

import "slices"

// topK is how many of the most probable tokens the top-k overlap looks at.
const topK = 5

// overlap returns the share of a's entries that are in b too.
func overlap(a, b []int) float64 {
	n := 0
	for _, x := range a {
		if slices.Contains(b, x) {
			n++
		}
	}
	return float64(n) / float64(len(a))
}
