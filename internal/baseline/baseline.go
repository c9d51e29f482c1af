// Package baseline keeps what a base model says of a text, so that other models
// can be compared with it later without running it. It reads and writes a form
// of its own, which docs/formats.md describes, and reads the files that
// llama-perplexity --save-all-logits writes.
package baseline

import (
	"math"

	"github.com/smeltgguf/smelt/kernels"
)

// Header says what a baseline was made from. A comparison must agree in all of
// it but the model.
type Header struct {
	Version string   `json:"version"` // of smelt
	Model   Model    `json:"model"`
	Texts   []string `json:"texts"`
	// TextSHA256 is of the texts' bytes, TokensSHA256 of all their token ids as
	// little-endian int32.
	TextSHA256   string `json:"text_sha256"`
	TokensSHA256 string `json:"tokens_sha256"`
	Ctx          int    `json:"ctx"`
	Stride       int    `json:"stride"`
	First        int    `json:"first"`  // the first position of a chunk that is scored; the last is ctx-2
	Chunks       int    `json:"chunks"` // that the run was to have; the trailer has how many there are
	BOS          int32  `json:"bos"`    // in the place of each chunk's first token; -1: nothing is
	Vocab        int    `json:"vocab"`  // logits per position
	VocabSHA256  string `json:"vocab_sha256"`
	Compute      string `json:"compute"`
}

// Model identifies a model.
type Model struct {
	Path         string `json:"path"`
	Name         string `json:"name,omitempty"`
	Architecture string `json:"architecture"`
	Ftype        string `json:"ftype"`
	Bytes        int64  `json:"bytes"`  // of tensor data
	SHA256       string `json:"sha256"` // of what describes the file: metadata and tensor table
}

// Comparison is what a position of a baseline gives for a model's logits.
type Comparison struct {
	NLL     float64 // the model's, of the right token
	BaseNLL float64
	KL      float64
	// Variance is that of KL's error: of how far it is from the divergence of the
	// full distributions. Errors are independent, and 0 on average.
	Variance float64
}

// Storage is what float32 may add to the error of a divergence: the logits, the
// tail's mass, the exponentials of a sum.
const Storage = 1e-6

// Row is a position of a baseline.
type Row interface {
	// Compare compares with a model's logits; target is the right token.
	Compare(logits []float32, target int32) (Comparison, error)
	// Top fills dst as kernels.Top does.
	Top(dst []int) []int
	// NLL is the base's, of the right token.
	NLL(target int32) float64
}

// Reader reads a baseline of either form.
type Reader interface {
	// Header says what the baseline is of. Of llama.cpp's files only Ctx, Stride,
	// First, Chunks and Vocab are known; TokensSHA256 is empty.
	Header() *Header
	// Chunk returns where in the text the next chunk begins and its tokens, the
	// first as the text has it; io.EOF after the last.
	Chunk() (start int, tokens []int32, err error)
	// Rows returns the next positions of the chunk, at most limit.
	Rows(limit int) ([]Row, error)
	Close() error
}

// full is a row of log-probabilities of the whole vocabulary, as llama.cpp keeps
// them: rounded to 16 bits, and cut off 16 below the largest.
type full []float32

// llamaFloor is the log-probability at and below which llama-perplexity leaves
// tokens out of the divergence.
const llamaFloor = -16

// Compare follows llama-perplexity: the log-probabilities count as they stand,
// without being made to sum to one.
func (f full) Compare(logits []float32, target int32) (Comparison, error) {
	lse := kernels.LogSumExp(logits)
	var kl float64
	for i, lp := range f {
		if lp > llamaFloor {
			kl += math.Exp(float64(lp)) * (float64(lp) - float64(logits[i]) + lse)
		}
	}
	return Comparison{NLL: lse - float64(logits[target]), BaseNLL: -float64(f[target]), KL: kl}, nil
}

func (f full) NLL(target int32) float64 { return -float64(f[target]) }

func (f full) Top(dst []int) []int { return kernels.Top(dst, f) }
