package baseline

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/kernels"
)

// logits makes rows of a Zipf-like distribution, and rows near them.
func logits(rows, vocab int, noise float64, seed uint64) (p, q []float32) {
	r := rand.New(rand.NewPCG(1, seed))
	p, q = make([]float32, rows*vocab), make([]float32, rows*vocab)
	for i := range p {
		x := 2.5 * r.NormFloat64()
		if r.IntN(vocab) < 4 {
			x += 8
		}
		p[i], q[i] = float32(x+3), float32(x+noise*r.NormFloat64())
	}
	return p, q
}

func testHeader(ctx, vocab, chunks int) *Header {
	return &Header{Version: "v1", Model: Model{Path: "base.gguf", SHA256: "ab"}, Ctx: ctx, Stride: ctx, First: ctx / 2, Chunks: chunks, BOS: 1, Vocab: vocab, VocabSHA256: "cd"}
}

// write writes chunks whose token i is i%vocab and returns the file's path.
func write(t testing.TB, h *Header, p []float32) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "base.smelt")
	w, err := Create(path, h)
	if err != nil {
		t.Fatal(err)
	}
	tokens := make([]int32, h.Ctx)
	for i := range tokens {
		tokens[i] = int32(i % h.Vocab)
	}
	per := h.Ctx - 1 - h.First
	for c := range h.Chunks {
		if err := w.Chunk(c*h.Stride, tokens); err != nil {
			t.Fatal(err)
		}
		for at := 0; at < per; {
			n := min(MaxRows(h.Vocab), per-at)
			rows := p[(c*per+at)*h.Vocab:][:n*h.Vocab]
			if err := w.Rows(rows, tokens[h.First+at+1:][:n]); err != nil {
				t.Fatal(err)
			}
			at += n
		}
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t testing.TB, path string) Reader {
	t.Helper()
	r, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// TestCompare holds the estimate to the divergence of the full rows: the error
// of the mean within four of its own standard deviations, everything else exact.
func TestCompare(t *testing.T) {
	const ctx, chunks = 64, 3
	for _, vocab := range []int{2, 5, 300, 2048, 32000} {
		if testing.Short() && vocab > 10000 {
			continue
		}
		for _, noise := range []float64{0, 0.02, 0.3} {
			rows := chunks * (ctx/2 - 1)
			p, q := logits(rows, vocab, noise, uint64(vocab))
			path := write(t, testHeader(ctx, vocab, chunks), p)
			fi, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if vocab >= 2048 {
				if ratio := float64(2*vocab*rows) / float64(fi.Size()); ratio < 10 {
					t.Errorf("vocabulary of %d: %.2f times smaller than 16-bit rows, want 10", vocab, ratio)
				}
			}
			r := open(t, path)
			if want := testHeader(ctx, vocab, chunks); !reflect.DeepEqual(r.Header(), want) {
				t.Errorf("header %+v, want %+v", r.Header(), want)
			}
			var sum, variance, largest float64
			at := 0
			for c := range chunks {
				start, tokens, err := r.Chunk()
				if err != nil || start != c*ctx || len(tokens) != ctx || tokens[ctx-1] != int32((ctx-1)%vocab) {
					t.Fatalf("chunk %d: start %d, %d tokens, error %v", c, start, len(tokens), err)
				}
				for n := 0; n < ctx/2-1; {
					got, err := r.Rows(7)
					if err != nil || len(got) == 0 {
						t.Fatalf("%d rows, error %v", len(got), err)
					}
					for _, row := range got {
						x, y := p[at*vocab:][:vocab], q[at*vocab:][:vocab]
						target := tokens[ctx/2+n+1]
						cmp, err := row.Compare(y, target)
						if err != nil {
							t.Fatal(err)
						}
						kl, lp, lq := kernels.Divergence(x, y)
						if cmp.NLL != kernels.LogSumExp(y)-float64(y[target]) || math.Abs(cmp.NLL-lq+float64(y[target])) > 1e-6 || cmp.BaseNLL != kernels.LogSumExp(x)-float64(x[target]) || row.NLL(target) != cmp.BaseNLL {
							t.Errorf("log-likelihoods %g and %g, want %g and %g", cmp.NLL, cmp.BaseNLL, lq-float64(y[target]), lp-float64(x[target]))
						}
						if got, want := row.Top(make([]int, 5)), kernels.Top(make([]int, 5), x); !slices.Equal(got, want) {
							t.Errorf("top %v, want %v", got, want)
						}
						sum += cmp.KL - kl
						variance += cmp.Variance
						largest = max(largest, math.Abs(cmp.KL-kl)-6*math.Sqrt(cmp.Variance))
						at++
						n++
					}
				}
			}
			if _, _, err := r.Chunk(); !errors.Is(err, io.EOF) {
				t.Errorf("after the last chunk: %v", err)
			}
			if bound := 4*math.Sqrt(variance) + float64(rows)*Storage; math.Abs(sum) > bound || largest > Storage {
				t.Errorf("vocabulary of %d, noise %g: mean KL off by %.3g, bound %.3g; a position is %.3g over its bound", vocab, noise, sum/float64(rows), bound/float64(rows), largest)
			}
		}
	}
}

// TestSameBytes: chance follows from the place of a row alone.
func TestSameBytes(t *testing.T) {
	p, _ := logits(31, 500, 0, 3)
	a, err := os.ReadFile(write(t, testHeader(64, 500, 1), p))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(write(t, testHeader(64, 500, 1), p))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Error("two runs give two files")
	}
}

func TestAbort(t *testing.T) {
	dir := t.TempDir()
	w, err := Create(filepath.Join(dir, "x"), testHeader(64, 500, 1))
	if err != nil {
		t.Fatal(err)
	}
	w.Abort()
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// readAll reads a baseline to its end and compares every position.
func readAll(data []byte) error {
	r, err := newReader("x", memory{bytes.NewReader(data)}, int64(len(data)))
	if err != nil {
		return err
	}
	defer r.Close()
	h := r.Header()
	var x []float32
	for {
		_, tokens, err := r.Chunk()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for n := h.First; n < h.Ctx-1; {
			rows, err := r.Rows(16)
			if err != nil {
				return err
			}
			if len(rows) == 0 {
				return errors.New("no rows")
			}
			if x == nil {
				x = make([]float32, h.Vocab)
			}
			for _, row := range rows {
				n++
				row.Top(make([]int, 5))
				if _, err := row.Compare(x, tokens[n]); err != nil {
					return err
				}
			}
		}
	}
}

type memory struct{ *bytes.Reader }

func (memory) Close() error { return nil }

func TestDamage(t *testing.T) {
	p, _ := logits(7, 40, 0, 3)
	good, err := os.ReadFile(write(t, testHeader(16, 40, 1), p))
	if err != nil {
		t.Fatal(err)
	}
	if err := readAll(good); err != nil {
		t.Fatal(err)
	}
	for n := range good {
		if err := readAll(good[:n]); err == nil {
			t.Errorf("cut to %d of %d bytes: no error", n, len(good))
		}
	}
	for n := range good {
		bad := bytes.Clone(good)
		bad[n] ^= 0x55
		_ = readAll(bad) // must not panic; text in the header may be any
	}
	if err := readAll(append(bytes.Clone(good), 0)); err == nil {
		t.Error("a byte too many: no error")
	}
	for name, tt := range map[string]struct {
		data []byte
		want string
	}{
		"empty":   {nil, "no baseline"},
		"other":   {[]byte("GGUF\x03\x00\x00\x00"), "no baseline"},
		"version": {append([]byte(magic), 9, 0, 0, 0), "version 9"},
		"header":  {append([]byte(magic), 1, 0, 0, 0, 255, 255, 255, 255), "at most"},
		"llama":   {llamaFile(4, -1, 1, nil), "cannot be"},
		"chunks":  {llamaFile(512, 32000, 1<<30, nil), "do not fit"},
	} {
		err := readAll(tt.data)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want %q", name, err, tt.want)
		}
		var fe *formats.FormatError
		if !errors.As(err, &fe) {
			t.Errorf("%s: %T", name, err)
		}
	}
}

// llamaFile puts a file together as llama-perplexity does.
func llamaFile(ctx, vocab, chunks int32, rows []float32) []byte {
	b := []byte(llamaMagic)
	b, _ = binary.Append(b, binary.LittleEndian, []int32{ctx, vocab, chunks})
	if len(rows) == 0 {
		return b
	}
	for i := range ctx * chunks {
		b, _ = binary.Append(b, binary.LittleEndian, i%ctx%vocab)
	}
	for ; len(rows) > 0; rows = rows[vocab:] {
		x := rows[:vocab]
		top, lse := slices.Max(x), float32(kernels.LogSumExp(x))
		least := max(slices.Min(x), top-16)
		scale := (top - least) / 65535
		b, _ = binary.Append(b, binary.LittleEndian, []float32{scale, least - lse})
		for _, v := range x {
			b = binary.LittleEndian.AppendUint16(b, uint16(math.RoundToEven(float64(max(0, v-least)/scale))))
		}
		if vocab%2 == 1 {
			b = append(b, 0, 0)
		}
	}
	return b
}

func TestLlama(t *testing.T) {
	const ctx, chunks = 32, 2
	for _, vocab := range []int{101, 64} {
		p, q := logits(chunks*(ctx/2-1), vocab, 0.2, 5)
		path := filepath.Join(t.TempDir(), "base.kld")
		if err := os.WriteFile(path, llamaFile(ctx, int32(vocab), chunks, p), 0o644); err != nil {
			t.Fatal(err)
		}
		r := open(t, path)
		if h := r.Header(); h.Ctx != ctx || h.Vocab != vocab || h.Chunks != chunks || h.First != ctx/2 {
			t.Errorf("header %+v", h)
		}
		at := 0
		for c := range chunks {
			start, tokens, err := r.Chunk()
			if err != nil || start != c*ctx || tokens[5] != 5 {
				t.Fatalf("chunk at %d: tokens %v, error %v", start, tokens, err)
			}
			rows, err := r.Rows(ctx)
			if err != nil || len(rows) != ctx/2-1 {
				t.Fatalf("%d rows, error %v", len(rows), err)
			}
			for _, row := range rows {
				x, y := p[at*vocab:][:vocab], q[at*vocab:][:vocab]
				c, err := row.Compare(y, 3)
				kl, lp, lq := kernels.Divergence(x, y)
				if err != nil || math.Abs(c.KL-kl) > 2e-4 || math.Abs(c.BaseNLL-lp+float64(x[3])) > 2e-4 || math.Abs(c.NLL-lq+float64(y[3])) > 1e-6 {
					t.Errorf("%+v, error %v; want KL %g", c, err, kl)
				}
				at++
			}
		}
		if _, _, err := r.Chunk(); !errors.Is(err, io.EOF) {
			t.Errorf("after the last chunk: %v", err)
		}
	}
}

func FuzzReader(f *testing.F) {
	p, _ := logits(7, 40, 0, 3)
	good, err := os.ReadFile(write(f, testHeader(16, 40, 1), p))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(llamaFile(16, 40, 1, p))
	f.Add(good[:len(good)-9])
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<16 {
			return
		}
		_ = readAll(data) // any error will do, but no panic and no large allocation
	})
}
