package quantize

import (
	"regexp"
	"slices"
	"strconv"
)

var blockPattern = regexp.MustCompile(`blk\.(\d+)\.`)

// pruner renumbers the layers that stay when some are taken out.
type pruner struct {
	prune []int
	to    map[int]int // layer -> its new number, or -1
	next  int
}

// rename returns a tensor's new name; false if its layer is taken out. Names
// come layer by layer.
func (p *pruner) rename(name string) (string, bool) {
	if len(p.prune) == 0 {
		return name, true
	}
	m := blockPattern.FindStringSubmatchIndex(name)
	if m == nil {
		return name, true
	}
	n, err := strconv.Atoi(name[m[2]:m[3]])
	if err != nil {
		return name, true
	}
	to, ok := p.to[n]
	switch {
	case ok:
	case slices.Contains(p.prune, n):
		to = -1
	case n < slices.Min(p.prune):
		to = n
		p.next = n + 1
	default:
		to = p.next
		p.next++
	}
	p.to[n] = to
	if to < 0 {
		return "", false
	}
	return name[:m[2]] + strconv.Itoa(to) + name[m[3]:], true
}
