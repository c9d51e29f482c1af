package sentencepiece

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/smeltgguf/smelt/formats"
)

func readModel(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "testdata", "tokenizers", name, "tokenizer.model"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestLlama2(t *testing.T) {
	m, err := Parse(readModel(t, "llama-2"), "tokenizer.model")
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Pieces) != 32000 || m.Type != BPE || !m.ByteFallback || m.TreatWhitespaceAsSuffix {
		t.Errorf("%d pieces, type %v, byte fallback %v, suffix %v", len(m.Pieces), m.Type, m.ByteFallback, m.TreatWhitespaceAsSuffix)
	}
	if m.UnkID != 0 || m.BosID != 1 || m.EosID != 2 || m.PadID != -1 {
		t.Errorf("unk %d bos %d eos %d pad %d", m.UnkID, m.BosID, m.EosID, m.PadID)
	}
	n := m.Normalizer
	if n.Name != "identity" || len(n.PrecompiledCharsmap) != 0 || !n.AddDummyPrefix || n.RemoveExtraWhitespaces || !n.EscapeWhitespaces {
		t.Errorf("normalizer %+v", n)
	}
	for id, want := range map[int]Piece{
		0:     {"<unk>", 0, Unknown},
		1:     {"<s>", 0, Control},
		2:     {"</s>", 0, Control},
		3:     {"<0x00>", 0, Byte},
		258:   {"<0xFF>", 0, Byte},
		259:   {"\u2581\u2581", -1e9, Normal},
		260:   {"\u2581t", -1, Normal},
		31999: {"给", -31740, Normal},
	} {
		if m.Pieces[id] != want {
			t.Errorf("piece %d: %+v, want %+v", id, m.Pieces[id], want)
		}
	}
	for b := range 256 {
		if got := m.Pieces[3+b].Byte(); got != byte(b) {
			t.Errorf("piece %d is byte %#x, want %#x", 3+b, got, b)
		}
	}
}

// put appends a field in wire format; v is a string, a float32 or an int.
func put(b []byte, num int, v any) []byte {
	switch v := v.(type) {
	case string:
		b = binary.AppendUvarint(b, uint64(num)<<3|wireBytes)
		b = binary.AppendUvarint(b, uint64(len(v)))
		return append(b, v...)
	case float32:
		b = binary.AppendUvarint(b, uint64(num)<<3|wireFixed32)
		return binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	case int:
		b = binary.AppendUvarint(b, uint64(num)<<3|wireVarint)
		return binary.AppendUvarint(b, uint64(v))
	}
	panic(fmt.Sprintf("%T", v))
}

func putPiece(b []byte, text string, score float32, typ PieceType) []byte {
	return put(b, 1, string(put(put(put(nil, 1, text), 2, score), 3, int(typ))))
}

// small is a model of five pieces.
func small() []byte {
	b := putPiece(nil, "<unk>", 0, Unknown)
	b = putPiece(b, "<s>", 0, Control)
	b = putPiece(b, "</s>", 0, Control)
	b = putPiece(b, "\u2581a", -1, Normal)
	return putPiece(b, "[X]", -2, UserDefined)
}

func TestDefaults(t *testing.T) {
	m, err := Parse(small(), "tokenizer.model")
	if err != nil {
		t.Fatal(err)
	}
	if m.Type != Unigram || m.UnkID != 0 || m.BosID != 1 || m.EosID != 2 || m.PadID != -1 {
		t.Errorf("%+v", m)
	}
	if n := m.Normalizer; !n.AddDummyPrefix || !n.RemoveExtraWhitespaces || !n.EscapeWhitespaces {
		t.Errorf("%+v", n)
	}
}

func TestFields(t *testing.T) {
	trainer := put(nil, 1, "corpus.txt")
	trainer = put(trainer, 3, 2)
	trainer = put(trainer, 10, float32(0.9995))
	trainer = put(trainer, 24, 1)
	trainer = put(trainer, 40, 3)
	trainer = put(trainer, 41, 4)
	trainer = put(trainer, 42, -1)
	trainer = put(trainer, 43, 99) // beyond the pieces
	norm := put(nil, 1, "nmt_nfkc")
	norm = put(norm, 2, "\x01\x02")
	norm = put(norm, 3, 0)
	norm = put(norm, 4, 0)
	norm = put(norm, 5, 0)
	m, err := Parse(put(put(small(), 3, string(norm)), 2, string(trainer)), "")
	if err != nil {
		t.Fatal(err)
	}
	if m.Type != BPE || !m.TreatWhitespaceAsSuffix || m.UnkID != 3 || m.BosID != 4 || m.EosID != -1 || m.PadID != -1 {
		t.Errorf("%+v", m)
	}
	if n := m.Normalizer; n.Name != "nmt_nfkc" || string(n.PrecompiledCharsmap) != "\x01\x02" ||
		n.AddDummyPrefix || n.RemoveExtraWhitespaces || n.EscapeWhitespaces {
		t.Errorf("%+v", n)
	}
}

func TestMalformed(t *testing.T) {
	ok := small()
	long := strings.Repeat("x", MaxPieceLen+1)
	piece := func(text string, score float32, typ PieceType) []byte { return putPiece(small(), text, score, typ) }
	for _, tt := range []struct {
		name string
		data []byte
		want string
	}{
		{"empty", nil, "file is empty"},
		{"text", []byte("hello, world"), "not a SentencePiece model"},
		{"git lfs", []byte("version https://git-lfs.github.com/spec/v1\noid"), "this is a Git LFS pointer"},
		{"cut inside a piece", ok[:len(ok)-3], "piece 4 truncated"},
		{"length beyond the rest", append(ok[:len(ok):len(ok)], 0x0a, 0x7f, 1), "piece 5 truncated"},
		{"length 2^64-1", append(ok[:len(ok):len(ok)], 0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1), "piece 5 truncated"},
		{"endless varint", append(ok[:len(ok):len(ok)], 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), "truncated after piece 4"},
		{"length inside a piece", put(small(), 1, "\x0a\x09ab"), "piece 5 truncated"},
		{"cut score", put(small(), 1, "\x0a\x01x\x15\x00\x00"), "piece 5 truncated"},
		{"group", append(ok[:len(ok):len(ok)], 0x0b), "truncated after piece 4"},
		{"piece as number", put(small(), 1, 7), "field 1 is not a message"},
		{"text as number", put(small(), 1, string(put(nil, 1, 7))), "piece 5: field 1 has wire type 0"},
		{"NaN score", piece("b", float32(math.NaN()), Normal), `piece 5: "b" has score NaN`},
		{"infinite score", piece("b", float32(math.Inf(-1)), Normal), `piece 5: "b" has score -Inf`},
		{"oversized", piece(long, 0, Normal), "piece 5: text of 65537 bytes exceeds 65536"},
		{"empty text", piece("", 0, Normal), "piece 5: empty text"},
		{"not UTF-8", piece("\xff", 0, Normal), `piece 5: text "\xff" is not UTF-8`},
		{"type 7", piece("b", 0, 7), "piece 5: type 7"},
		{"byte token -1", piece("<0x-1>", 0, Byte), `piece 5: bad byte token "<0x-1>", want <0x00> to <0xFF>`},
		{"byte token 100", piece("<0x100>", 0, Byte), `piece 5: bad byte token "<0x100>", want <0x00> to <0xFF>`},
		{"byte twice", putPiece(piece("<0x0a>", 0, Byte), "<0x0A>", 0, Byte), "piece 6: second byte token <0x0A>"},
		{"bytes missing", put(small(), 2, string(put(nil, 35, 1))), "byte_fallback needs 256 byte tokens, found 0"},
		{"duplicate", piece("\u2581a", -9, Normal), "pieces 3 and 5 are both \"\u2581a\""},
		{"model type", put(small(), 2, string(put(nil, 3, 9))), "model_type 9"},
		{"trainer cut", put(small(), 2, "\x0a\x05ab"), "trainer_spec truncated"},
		{"normalizer cut", put(small(), 3, "\x0a\x05ab"), "normalizer_spec truncated"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse(tt.data, "dir/tokenizer.model")
			var fe *formats.FormatError
			if !errors.As(err, &fe) {
				t.Fatalf("error %v, want a FormatError", err)
			}
			if fe.Msg != tt.want || fe.File != "dir/tokenizer.model" {
				t.Errorf("%q in %q, want %q", fe.Msg, fe.File, tt.want)
			}
		})
	}
}

// Every prefix of a model is refused or, where it ends between two fields of the
// model, read.
func TestTruncated(t *testing.T) {
	full := put(small(), 3, string(put(nil, 1, "identity")))
	whole := 0
	for n := range full {
		m, err := Parse(full[:n], "")
		if err == nil {
			whole++
			if len(m.Pieces) == 0 {
				t.Errorf("%d bytes: a model without pieces", n)
			}
		}
	}
	if whole != 5 {
		t.Errorf("%d prefixes were read, want the 5 that end after a piece", whole)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(small())
	f.Add(put(small(), 2, string(put(put(nil, 3, 2), 35, 1))))
	f.Add(put(small(), 3, string(put(nil, 2, "\x00\x01"))))
	f.Add([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Parse(data, "fuzz")
		if err != nil {
			var fe *formats.FormatError
			if !errors.As(err, &fe) {
				t.Fatalf("error of type %T", err)
			}
			return
		}
		for i, p := range m.Pieces {
			if p.Text == "" || p.Type < Normal || p.Type > Byte || p.Score != p.Score {
				t.Errorf("piece %d: %+v", i, p)
			}
			if p.Type == Byte && !strings.EqualFold(fmt.Sprintf("<0x%02X>", p.Byte()), p.Text) {
				t.Errorf("piece %d: %q is byte %#x", i, p.Text, p.Byte())
			}
		}
	})
}

func BenchmarkParse(b *testing.B) {
	data := readModel(b, "llama-2")
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := Parse(data, ""); err != nil {
			b.Fatal(err)
		}
	}
}
