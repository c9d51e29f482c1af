// Command bench times our binaries against llama.cpp and cp on the same files,
// in turn (A B A B ...), and prints medians and ratios: what docs/performance.md
// quotes. The model is generated; both it and the outputs belong on a tmpfs,
// because disks of shared machines vary by a multiple from run to run.
//
//	go run ./internal/tools/bench -dir /dev/shm/smelt-bench -runs 3 -only quantize -types q8_0,q4_k_m
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// cost is what one run of a command took.
type cost struct {
	wall, cpu float64 // seconds
	rss       int64   // bytes, the largest of any process of the run
	out       []byte
}

func run(args ...string) cost { return runWith(nil, args...) }

// runWith runs a command with something more in its environment.
func runWith(env []string, args ...string) cost {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	start := time.Now()
	if err := cmd.Run(); err != nil {
		fatal("%s: %v\n%s", strings.Join(args, " "), err, stderr.Bytes())
	}
	c := cost{wall: time.Since(start).Seconds(), out: out.Bytes()}
	c.cpu = cmd.ProcessState.UserTime().Seconds() + cmd.ProcessState.SystemTime().Seconds()
	c.rss = maxRSS(cmd.ProcessState)
	return c
}

func fatal(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(1)
}

// pair runs two commands in turn after one uncounted run of each.
func pair(runs int, a, b func() cost) (as, bs []cost) {
	a()
	b()
	for range runs {
		as = append(as, a())
		bs = append(bs, b())
	}
	return as, bs
}

func median(cs []cost, f func(cost) float64) float64 {
	var x []float64
	for _, c := range cs {
		x = append(x, f(c))
	}
	slices.Sort(x)
	return (x[(len(x)-1)/2] + x[len(x)/2]) / 2
}

func wall(c cost) float64 { return c.wall }
func cpu(c cost) float64  { return c.cpu }
func mib(c cost) float64  { return float64(c.rss) / (1 << 20) }

// row prints one comparison; the ratios say how many times as fast we are, the
// last of them with AVX2 alone, in CPU seconds, where that was measured.
func row(what string, ours, theirs, avx2 []cost) {
	fmt.Printf("| %s | %.2f | %.2f | %.2f | %.2f | %.2f | %.2f | ", what,
		median(ours, wall), median(theirs, wall), median(theirs, wall)/median(ours, wall),
		median(ours, cpu), median(theirs, cpu), median(theirs, cpu)/median(ours, cpu))
	if len(avx2) > 0 {
		fmt.Printf("%.2f", median(theirs, cpu)/median(avx2, cpu))
	}
	fmt.Printf(" | %.0f |\n", median(ours, mib))
}

// What is measured unless -types says otherwise: all that docs/performance.md
// has of the 1.1 B shape.
const (
	quantizeTypes = "q4_0,q4_1,q5_0,q5_1,q8_0,q2_k,q3_k_s,q3_k_m,q3_k_l,q4_k_s,q4_k_m,q5_k_s,q5_k_m,q6_k,tq1_0,tq2_0,q1_0,q2_0"
	forwardTypes  = "q4_0,q8_0,q4_k_m,q5_k_m,q6_k,f16,q4_1,q5_0,q5_1,q2_k,q3_k_m,q4_k_s,iq4_nl,iq4_xs,tq1_0,tq2_0,q1_0,q2_0"
)

// list splits types, or what stands for none.
func list(types, otherwise string) []string {
	if types == "" {
		types = otherwise
	}
	return strings.Split(types, ",")
}

func main() {
	dir := flag.String("dir", "/dev/shm/smelt-bench", "where model and outputs go")
	shape := flag.String("shape", "llama-1.1b", "shape of the generated model")
	runs := flag.Int("runs", 3, "counted runs of each command")
	only := flag.String("only", "convert,quantize,verify,bench", "what to measure")
	types := flag.String("types", "", "types to quantize to (default: "+quantizeTypes+"; of the forward pass "+forwardTypes+")")
	imatrix := flag.String("imatrix", "", "importance matrix for quantize")
	bin := flag.String("bin", "bin", "where our binaries are")
	peer := flag.String("peer", peerScript(), "llamacpp.py, for the comparisons with llama.cpp")
	keep := flag.Bool("keep", false, "leave the files where they are")
	flag.Parse()

	if err := os.MkdirAll(*dir, 0o755); err != nil {
		fatal("%v", err)
	}
	if !*keep {
		defer os.RemoveAll(*dir)
	}
	path := func(name string) string { return filepath.Join(*dir, name) }
	ours := func(name string, args ...string) func() cost {
		return func() cost { return run(append([]string{filepath.Join(*bin, name)}, args...)...) }
	}
	if _, err := os.Stat(path("hf")); err != nil {
		run("go", "run", "./internal/tools/genmodel", "-shape", *shape, "-tokenizer", "testdata/tokenizers/llama-2/tokenizer.model", "-out", path("hf"))
	}
	havePeer := *peer != ""
	if !havePeer {
		fmt.Fprintln(os.Stderr, "skipped: comparisons with llama.cpp: SMELT_SHARED names no folder with peer/llamacpp.py")
	}
	f16 := path("f16.gguf")
	ours("convert", "--in", path("hf"), "--out", f16, "--outtype", "f16", "--force", "--quiet")()

	fmt.Println("| what | ours, s | theirs, s | times as fast | ours, CPU s | theirs, CPU s | times as fast | with AVX2 alone | ours, MiB |")
	fmt.Println("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
	for _, what := range strings.Split(*only, ",") {
		switch what {
		case "convert":
			// Both write a new file: one that overwrites spares itself the pages.
			a, b := pair(*runs, func() cost {
				os.Remove(path("out.gguf"))
				return ours("convert", "--in", path("hf"), "--out", path("out.gguf"), "--outtype", "f16", "--quiet")()
			}, func() cost {
				os.Remove(path("copy.gguf"))
				return run("cp", f16, path("copy.gguf"))
			})
			row("convert BF16 to F16, against cp of the result", a, b, nil)
			os.Remove(path("copy.gguf"))
		case "quantize":
			for _, t := range list(*types, quantizeTypes) {
				args := []string{"-q", t, f16, path("out.gguf"), "--force", "--quiet"}
				theirs := []string{"python3", *peer, "quantize", f16, path("theirs.gguf"), strings.ToUpper(t)}
				if *imatrix != "" {
					args, theirs = append(args, "--imatrix", *imatrix), append(theirs, "--imatrix", *imatrix)
				}
				if !havePeer {
					a := ours("quantize", args...)()
					row("quantize to "+t, []cost{a}, []cost{a}, nil)
					continue
				}
				a, b := pair(*runs, ours("quantize", args...), func() cost { return run(theirs...) })
				var narrow []cost
				if runtime.GOARCH == "amd64" {
					narrow = []cost{runWith([]string{"SMELT_CPU=avx2"}, append([]string{filepath.Join(*bin, "quantize")}, args...)...)}
				}
				row("quantize to "+t, a, b, narrow)
				os.Remove(path("theirs.gguf"))
			}
		case "verify":
			text := path("text.txt")
			words := strings.Repeat("The quick brown fox jumps over the lazy dog and runs away. ", 400)
			if err := os.WriteFile(text, []byte(words), 0o644); err != nil {
				fatal("%v", err)
			}
			for _, c := range []string{"exact", "int8"} {
				r := ours("verify", "--model", f16, "--text", text, "--chunks", "2", "--compute", c, "--json", "--quiet")()
				var v struct {
					Tokens  float64
					Seconds float64
				}
				if err := json.Unmarshal(r.out, &v); err != nil {
					fatal("verify: %v", err)
				}
				fmt.Printf("\nverify F16, %s: %.1f tokens/s, %.0f MiB\n", c, v.Tokens/v.Seconds, mib(r))
			}
		case "bench":
			forward(*bin, *peer, path, f16, list(*types, forwardTypes), *runs)
		}
	}
}

// forward times the forward pass in int8 arithmetic, and of F16 exactly, against
// llama.cpp's: prompts of 512 tokens and generation.
func forward(bin, peer string, path func(string) string, f16 string, types []string, runs int) {
	fmt.Println("\n| type | prompt, tokens/s | theirs | in units of their Q4_0 | generation, tokens/s | theirs | times as fast | of memory bandwidth |")
	fmt.Println("| --- | --- | --- | --- | --- | --- | --- | --- |")
	var unit float64
	// Q4_0's rate is the unit.
	types = append([]string{"q4_0"}, slices.DeleteFunc(slices.Clone(types), func(t string) bool { return t == "q4_0" })...)
	for _, t := range types {
		file, compute := f16, "exact"
		if t != "f16" {
			file, compute = path("forward.gguf"), "int8"
			run(filepath.Join(bin, "quantize"), "-q", t, f16, file, "--force", "--quiet")
		}
		var prompt, generate, share, theirPrompt, theirGenerate []float64
		for range runs {
			var ours struct {
				Runs []struct {
					Rate  float64 `json:"tokens_per_s"`
					Share float64 `json:"memory_share"`
				}
			}
			decode(run(filepath.Join(bin, "smelt"), "bench", "-m", file, "--compute", compute, "-r", "1", "--json"), &ours)
			prompt, generate = append(prompt, ours.Runs[0].Rate), append(generate, ours.Runs[1].Rate)
			share = append(share, ours.Runs[1].Share)
			if peer == "" {
				continue
			}
			var theirs struct {
				Prompt   float64 `json:"prompt_tok_s"`
				Generate float64 `json:"gen_tok_s"`
			}
			decode(run("python3", peer, "bench", file, "-p", "512", "-n", "32", "-r", "1"), &theirs)
			theirPrompt, theirGenerate = append(theirPrompt, theirs.Prompt), append(theirGenerate, theirs.Generate)
		}
		p, g := middle(theirPrompt), middle(theirGenerate)
		if t == "q4_0" {
			unit = p
		}
		fmt.Printf("| %s, %s | %.0f | %.0f | %.2f | %.1f | %.1f | %.2f | %.0f%% |\n", strings.ToUpper(t), compute,
			middle(prompt), p, middle(prompt)/unit, middle(generate), g, middle(generate)/g, 100*middle(share))
	}
	os.Remove(path("forward.gguf"))
}

func decode(c cost, v any) {
	if err := json.Unmarshal(c.out, v); err != nil {
		fatal("%v: %s", err, c.out)
	}
}

// middle returns the median, NaN of none.
func middle(x []float64) float64 {
	if len(x) == 0 {
		return math.NaN()
	}
	slices.Sort(x)
	return x[len(x)/2]
}

// peerScript finds llamacpp.py as the peer tests do.
func peerScript() string {
	dir := os.Getenv("SMELT_SHARED")
	if dir == "" {
		dir = filepath.Join("..", "shared")
	}
	p := filepath.Join(dir, "peer", "llamacpp.py")
	if _, err := os.Stat(p); err != nil {
		return ""
	}
	return p
}
