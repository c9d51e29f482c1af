package cli

import "testing"

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{"1": 1, "500M": 5e8, "2G": 2e9, "3k": 3000, "1T": 1e12} {
		if got, err := parseSize(s); err != nil || got != want {
			t.Errorf("parseSize(%q) = %d, %v; want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "G", "-1G", "0", "1.5G", "9999999999T", "x"} {
		if got, err := parseSize(s); err == nil {
			t.Errorf("parseSize(%q) = %d, want an error", s, got)
		}
	}
}

func TestCountsString(t *testing.T) {
	if got := countsString(map[string]int{"F32": 7, "Q4_0": 21, "F16": 7}); got != "Q4_0 21, F16 7, F32 7" {
		t.Errorf("%s", got)
	}
}
