package sentencepiece

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMarshal(t *testing.T) {
	for _, data := range [][]byte{readModel(t, "llama-2"), small()} {
		want, err := Parse(data, "tokenizer.model")
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse(Marshal(want), "again")
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("what comes back differs (-want +got):\n%s", d)
		}
	}
}

// TestMarshalAll sets every field to what is not its default.
func TestMarshalAll(t *testing.T) {
	want := &Model{
		Pieces:                  []Piece{{"[unk]", 0, Unknown}, {"a\u2581", -1.5, Normal}, {"b", -2, Unused}},
		Type:                    BPE,
		TreatWhitespaceAsSuffix: true,
		UnkID:                   0, BosID: -1, EosID: -1, PadID: 2,
		Normalizer: Normalizer{Name: "nmt_nfkc", PrecompiledCharsmap: []byte{0, 1, 255}},
	}
	got, err := Parse(Marshal(want), "again")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("what comes back differs (-want +got):\n%s", d)
	}
}
