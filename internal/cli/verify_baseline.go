package cli

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"github.com/smeltgguf/smelt/internal/baseline"
	"github.com/smeltgguf/smelt/internal/corpus"
	"github.com/smeltgguf/smelt/internal/eval"
	"github.com/smeltgguf/smelt/internal/model"
)

// measuredOn is what a text is for a model: its bytes and tokens.
type measuredOn struct {
	files        []string
	text, tokens string // SHA-256
}

func hashText(text *corpus.Text, tokens []int32) (measuredOn, error) {
	b, err := binary.Append(nil, binary.LittleEndian, tokens)
	if err != nil {
		return measuredOn{}, err
	}
	a, c := sha256.Sum256(text.Data), sha256.Sum256(b)
	return measuredOn{text.Files, hex.EncodeToString(a[:]), hex.EncodeToString(c[:])}, nil
}

// createBaseline begins the file of --save-baseline.
func (o *verifyOptions) createBaseline(path string, m *model.Model, text *corpus.Text, tokens []int32) (*baseline.Writer, error) {
	on, err := hashText(text, tokens)
	if err != nil {
		return nil, err
	}
	opt := o.eval
	starts, err := eval.ChunkStarts(len(tokens), &opt)
	if err != nil {
		return nil, err
	}
	desc := m.Weights.Desc()
	return baseline.Create(path, &baseline.Header{
		Version: versionString(),
		Model:   baseline.Model{Path: m.Path, Name: m.Name, Architecture: desc.Arch, Ftype: m.Ftype, Bytes: m.Bytes, SHA256: m.Hash},
		Texts:   on.files, TextSHA256: on.text, TokensSHA256: on.tokens,
		Ctx: opt.Ctx, Stride: opt.Stride, First: eval.First(opt.Ctx, opt.Stride), Chunks: len(starts),
		BOS: m.Start(), Vocab: desc.Vocab, VocabSHA256: m.VocabHash(), Compute: o.compute,
	})
}

// matchBaseline takes a baseline's conditions for the run; it is an error if the
// command line asks for others.
func (o *verifyOptions) matchBaseline(h *baseline.Header, changed func(flag string) bool) error {
	for _, f := range []struct {
		flag        string
		asked, kept int
	}{
		{"ctx", o.eval.Ctx, h.Ctx},
		{"stride", o.eval.Stride, h.Stride},
	} {
		if changed(f.flag) && f.asked != f.kept {
			return fmt.Errorf("%s was made with --%s %d, not %d: leave the flag out, or make another baseline", o.baseline, f.flag, f.kept, f.asked)
		}
	}
	if changed("seed") {
		return usagef("--seed chooses chunks of a text; those of --baseline are chosen")
	}
	o.eval.Ctx, o.eval.Stride = h.Ctx, h.Stride
	return nil
}

// comparable checks that a model can be compared with a baseline; text is nil if
// there is none.
func (o *verifyOptions) comparable(h *baseline.Header, m *model.Model, text *corpus.Text) error {
	refuse := func(what string, kept, found any) error {
		return fmt.Errorf("%s: %s of %s is %v, that of %s is %v: they cannot be compared", m.Path, what, o.baseline, kept, m.Path, found)
	}
	if v := m.Weights.Desc().Vocab; v != h.Vocab {
		return refuse("the vocabulary's size", h.Vocab, v)
	}
	own := h.VocabSHA256 != "" // llama.cpp's files do not say
	if own {
		if v := m.VocabHash(); v != h.VocabSHA256 {
			return refuse("the vocabulary's hash", short(h.VocabSHA256), short(v))
		}
		if v := m.Start(); v != h.BOS {
			return refuse("the token that begins a text", h.BOS, v)
		}
	}
	if text == nil {
		return nil
	}
	tokens := m.Tokenize(text.Data)
	if own {
		on, err := hashText(text, tokens)
		if err != nil {
			return err
		}
		if on.text != h.TextSHA256 {
			return fmt.Errorf("%s was made of %q, with SHA-256 %s; --text is %q with %s: leave --text out, or give the same", o.baseline, h.Texts, short(h.TextSHA256), on.files, short(on.text))
		}
		if on.tokens != h.TokensSHA256 {
			return refuse("the hash of the text's tokens", short(h.TokensSHA256), short(on.tokens))
		}
		return nil
	}
	return o.sameTokens(m, tokens)
}

// sameTokens compares the tokens of llama.cpp's file with those of the text.
func (o *verifyOptions) sameTokens(m *model.Model, tokens []int32) error {
	r, err := baseline.Open(o.baseline)
	if err != nil {
		return err
	}
	defer r.Close()
	h := r.Header()
	if n := h.Ctx * h.Chunks; n > len(tokens) {
		return fmt.Errorf("%s holds %d tokens, %s makes %d of --text: they cannot be compared", o.baseline, n, m.Path, len(tokens))
	}
	for range h.Chunks {
		start, chunk, err := r.Chunk()
		if err != nil {
			return err
		}
		for i, t := range chunk {
			if tokens[start+i] != t {
				return fmt.Errorf("token %d of %s is %d, %s makes %d of --text: they cannot be compared", start+i, o.baseline, t, m.Path, tokens[start+i])
			}
		}
	}
	return nil
}

// short is enough of a hash to tell two apart.
func short(hash string) string { return hash[:min(16, len(hash))] }
