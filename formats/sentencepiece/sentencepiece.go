// Package sentencepiece reads tokenizer.model, the file that SentencePiece
// trains: a ModelProto of pieces, trainer settings and normalizer settings
// (github.com/google/sentencepiece, src/sentencepiece_model.proto).
package sentencepiece

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/smeltgguf/smelt/formats"
)

// MaxPieceLen is the longest text of a piece in bytes; SentencePiece's own
// trainer makes pieces of at most a few dozen characters.
const MaxPieceLen = 64 << 10

// PieceType says what a piece is. GGUF's token types have the same numbers.
type PieceType int32

// The piece types of sentencepiece_model.proto.
const (
	Normal      PieceType = 1
	Unknown     PieceType = 2
	Control     PieceType = 3
	UserDefined PieceType = 4
	Unused      PieceType = 5
	Byte        PieceType = 6
)

// ModelType is the segmentation algorithm.
type ModelType int32

// The model types of sentencepiece_model.proto.
const (
	Unigram ModelType = 1
	BPE     ModelType = 2
	Word    ModelType = 3
	Char    ModelType = 4
)

var modelTypes = [...]string{Unigram: "unigram", BPE: "bpe", Word: "word", Char: "char"}

func (t ModelType) String() string {
	if t < Unigram || int(t) >= len(modelTypes) {
		return "invalid"
	}
	return modelTypes[t]
}

// A Piece is one entry of the vocabulary; its id is its index.
type Piece struct {
	Text  string // spaces are U+2581
	Score float32
	Type  PieceType
}

// Byte returns the value of a piece of type Byte, whose text is "<0xNN>".
func (p Piece) Byte() byte {
	return unhex(p.Text[3])<<4 | unhex(p.Text[4])
}

// A Model is the content of a tokenizer.model.
type Model struct {
	Pieces []Piece

	Type         ModelType
	ByteFallback bool // characters without a piece become Byte pieces
	// TreatWhitespaceAsSuffix: the space belongs to the word before it.
	TreatWhitespaceAsSuffix bool
	// Ids of the special pieces, -1 where the model has none.
	UnkID, BosID, EosID, PadID int

	Normalizer Normalizer
}

// Normalizer is the model's normalizer_spec.
type Normalizer struct {
	Name                   string // "identity", "nmt_nfkc", ...
	PrecompiledCharsmap    []byte // a double array trie and replacements; empty for identity
	AddDummyPrefix         bool   // a space goes before the text
	RemoveExtraWhitespaces bool   // runs of spaces become one, none at the ends
	EscapeWhitespaces      bool   // spaces become U+2581
}

// Parse reads a tokenizer.model; file is its name for error messages. Errors
// are of type *formats.FormatError.
func Parse(data []byte, file string) (*Model, error) {
	switch {
	case len(data) == 0:
		return nil, formats.Malformedf(file, -1, "file is empty")
	case strings.HasPrefix(string(data[:min(len(data), 64)]), "version https://git-lfs"):
		return nil, formats.Malformedf(file, -1, "this is a Git LFS pointer").
			WithHint("fetch the file itself: git lfs pull")
	}
	p := parser{file: file, m: &Model{
		Type: Unigram, UnkID: 0, BosID: 1, EosID: 2, PadID: -1,
		Normalizer: Normalizer{AddDummyPrefix: true, RemoveExtraWhitespaces: true, EscapeWhitespaces: true},
	}}
	if err := p.model(string(data)); err != nil {
		return nil, err
	}
	if err := p.check(); err != nil {
		return nil, err
	}
	return p.m, nil
}

type parser struct {
	file string
	m    *Model
}

func (p *parser) model(data string) error {
	// A first walk counts the pieces, so that the slice has its final size.
	var f field
	n := 0
	for msg := (message{data: data}); !msg.done() && msg.next(&f); {
		if f.num == 1 && f.wire == wireBytes {
			n++
		}
	}
	if n == 0 {
		return formats.Malformedf(p.file, -1, "not a SentencePiece model")
	}
	p.m.Pieces = make([]Piece, 0, n)

	for msg := (message{data: data}); !msg.done(); {
		at := msg.pos
		if !msg.next(&f) {
			if data[at] == 1<<3|wireBytes {
				return formats.Malformedf(p.file, int64(at), "piece %d truncated", len(p.m.Pieces))
			}
			return formats.Malformedf(p.file, int64(at), "truncated after piece %d", len(p.m.Pieces)-1)
		}
		if f.wire != wireBytes {
			if f.num <= 5 {
				return formats.Malformedf(p.file, int64(at), "field %d is not a message", f.num)
			}
			continue
		}
		var err error
		switch f.num {
		case 1:
			err = p.piece(message{data: f.b, base: f.bAt})
		case 2:
			err = p.trainer(message{data: f.b, base: f.bAt})
		case 3:
			err = p.normalizer(message{data: f.b, base: f.bAt})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *parser) piece(msg message) error {
	id := len(p.m.Pieces)
	piece := Piece{Type: Normal}
	var f field
	for !msg.done() {
		if !msg.next(&f) {
			return formats.Malformedf(p.file, int64(f.at), "piece %d truncated", id)
		}
		switch {
		case f.num == 1 && f.wire == wireBytes:
			piece.Text = f.b
		case f.num == 2 && f.wire == wireFixed32:
			piece.Score = f.float()
		case f.num == 3 && f.wire == wireVarint:
			if f.n < uint64(Normal) || f.n > uint64(Byte) {
				return formats.Malformedf(p.file, int64(f.at), "piece %d: type %d", id, f.n)
			}
			piece.Type = PieceType(f.n)
		case f.num <= 3:
			return formats.Malformedf(p.file, int64(f.at), "piece %d: field %d has wire type %d", id, f.num, f.wire)
		}
	}
	bad := func(format string, args ...any) error {
		return formats.Malformedf(p.file, int64(msg.base), "piece %d: "+format, append([]any{id}, args...)...)
	}
	switch {
	case piece.Text == "":
		return bad("empty text")
	case len(piece.Text) > MaxPieceLen:
		return bad("text of %d bytes exceeds %d", len(piece.Text), MaxPieceLen)
	case !utf8.ValidString(piece.Text):
		return bad("text %s is not UTF-8", formats.Quote(piece.Text))
	case math.IsNaN(float64(piece.Score)) || math.IsInf(float64(piece.Score), 0):
		return bad("%s has score %v", formats.Quote(piece.Text), piece.Score)
	case piece.Type == Byte && !isByte(piece.Text):
		return bad("bad byte token %s, want <0x00> to <0xFF>", formats.Quote(piece.Text))
	}
	p.m.Pieces = append(p.m.Pieces, piece)
	return nil
}

func (p *parser) trainer(msg message) error {
	var f field
	for !msg.done() {
		if !msg.next(&f) {
			return formats.Malformedf(p.file, int64(f.at), "trainer_spec truncated")
		}
		if f.wire != wireVarint {
			continue
		}
		switch f.num {
		case 3:
			if f.n < uint64(Unigram) || f.n > uint64(Char) {
				return formats.Malformedf(p.file, int64(f.at), "model_type %d", f.n)
			}
			p.m.Type = ModelType(f.n)
		case 24:
			p.m.TreatWhitespaceAsSuffix = f.n != 0
		case 35:
			p.m.ByteFallback = f.n != 0
		case 40, 41, 42, 43:
			ids := [...]*int{&p.m.UnkID, &p.m.BosID, &p.m.EosID, &p.m.PadID}
			*ids[f.num-40] = int(max(int32(f.n), -1)) // int32; negative: none
		}
	}
	return nil
}

func (p *parser) normalizer(msg message) error {
	n := &p.m.Normalizer
	var f field
	for !msg.done() {
		if !msg.next(&f) {
			return formats.Malformedf(p.file, int64(f.at), "normalizer_spec truncated")
		}
		switch {
		case f.num == 1 && f.wire == wireBytes:
			n.Name = f.b
		case f.num == 2 && f.wire == wireBytes:
			n.PrecompiledCharsmap = []byte(f.b)
		case f.num == 3 && f.wire == wireVarint:
			n.AddDummyPrefix = f.n != 0
		case f.num == 4 && f.wire == wireVarint:
			n.RemoveExtraWhitespaces = f.n != 0
		case f.num == 5 && f.wire == wireVarint:
			n.EscapeWhitespaces = f.n != 0
		}
	}
	return nil
}

// check looks at the model as a whole, as SentencePiece does when it loads one.
func (p *parser) check() error {
	pieces := p.m.Pieces
	// The special ids count only where the pieces reach that far.
	for _, id := range []*int{&p.m.UnkID, &p.m.BosID, &p.m.EosID, &p.m.PadID} {
		if *id >= len(pieces) {
			*id = -1
		}
	}
	var have [256]bool
	bytes := 0
	for id, piece := range pieces {
		if piece.Type != Byte {
			continue
		}
		b := piece.Byte()
		if have[b] {
			return formats.Malformedf(p.file, -1, "piece %d: second byte token %s", id, piece.Text)
		}
		have[b] = true
		bytes++
	}
	if p.m.ByteFallback && bytes < 256 {
		return formats.Malformedf(p.file, -1, "byte_fallback needs 256 byte tokens, found %d", bytes)
	}
	order := make([]int32, len(pieces))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(a, b int32) int {
		return cmp.Or(cmp.Compare(pieces[a].Text, pieces[b].Text), cmp.Compare(a, b))
	})
	for i := 1; i < len(order); i++ {
		if a, b := order[i-1], order[i]; pieces[a].Text == pieces[b].Text {
			return formats.Malformedf(p.file, -1, "pieces %d and %d are both %s", a, b, formats.Quote(pieces[a].Text))
		}
	}
	return nil
}

// isByte reports whether s is "<0xNN>" with two hexadecimal digits.
func isByte(s string) bool {
	return len(s) == 6 && s[:3] == "<0x" && s[5] == '>' && unhex(s[3]) < 16 && unhex(s[4]) < 16
}

// unhex returns the value of a hexadecimal digit, 255 for another byte.
func unhex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return 255
}
