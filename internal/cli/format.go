package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// printJSON prints v as one indented object.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// dimsString shows dimensions as 4096x32.
func dimsString[T int | uint64](dims []T) string {
	s := make([]string, len(dims))
	for i, d := range dims {
		s[i] = fmt.Sprint(d)
	}
	return strings.Join(s, "x")
}

// countsString lists how many there are of each: "F16 22, F32 7".
func countsString(counts map[string]int) string {
	keys := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		if counts[a] != counts[b] {
			return counts[b] - counts[a]
		}
		return strings.Compare(a, b)
	})
	for i, k := range keys {
		keys[i] = fmt.Sprintf("%s %d", k, counts[k])
	}
	return strings.Join(keys, ", ")
}

// parseSize reads a size in bytes with an optional decimal unit: 500M is 5e8.
func parseSize(s string) (int64, error) {
	unit := int64(1)
	number := s
	if s != "" {
		switch s[len(s)-1] {
		case 'K', 'k':
			unit = 1e3
		case 'M', 'm':
			unit = 1e6
		case 'G', 'g':
			unit = 1e9
		case 'T', 't':
			unit = 1e12
		}
		if unit > 1 {
			number = s[:len(s)-1]
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n <= 0 || n > (1<<62)/unit {
		return 0, fmt.Errorf("%q is no size: want a number with K, M, G or T", s)
	}
	return n * unit, nil
}
