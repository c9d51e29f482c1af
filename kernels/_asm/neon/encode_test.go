package main

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// TestWords has llvm-mc assemble the comments of the assembly, in which the
// generator's words must result.
func TestWords(t *testing.T) {
	if _, err := exec.LookPath("llvm-mc"); err != nil {
		t.Skip("needs llvm-mc")
	}
	assembly, err := os.ReadFile("../../asm_arm64.s")
	if err != nil {
		t.Fatal(err)
	}
	lines := regexp.MustCompile(`WORD \$0x([0-9a-f]{8}) // (.*)`).FindAllStringSubmatch(string(assembly), -1)
	if len(lines) == 0 {
		t.Fatal("no words in the assembly")
	}
	var in strings.Builder
	for _, l := range lines {
		in.WriteString(l[2] + "\n")
	}
	cmd := exec.Command("llvm-mc", "-triple=aarch64", "-mattr=+v8.2a,+dotprod", "-show-encoding")
	cmd.Stdin = strings.NewReader(in.String())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %.2000s", err, out)
	}
	got := regexp.MustCompile(`encoding: \[0x(..),0x(..),0x(..),0x(..)\]`).FindAllStringSubmatch(string(out), -1)
	if len(got) != len(lines) {
		t.Fatalf("llvm-mc assembled %d of %d instructions", len(got), len(lines))
	}
	for i, l := range lines {
		if want := fmt.Sprint(got[i][4], got[i][3], got[i][2], got[i][1]); strings.ReplaceAll(want, " ", "") != l[1] {
			t.Errorf("%s is %s, want %s", l[2], l[1], want)
		}
	}
}
