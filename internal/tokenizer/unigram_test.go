package tokenizer

import (
	"encoding/binary"
	"slices"
	"testing"
)

// charsmapOf returns a precompiled_charsmap that replaces single bytes.
func charsmapOf(m map[byte]string) []byte {
	const base, leaves = 256, 512
	units := make([]uint32, 1024)
	units[0] = base << 10
	var text []byte
	for c := range 256 {
		to, ok := m[byte(c)]
		if !ok {
			continue
		}
		// The node's value lies where its own offset leads.
		node := uint32(base ^ c)
		leaf := uint32(leaves + c)
		units[node] = uint32(c) | 1<<8 | (node^leaf)<<10
		units[leaf] = 1<<31 | uint32(len(text))
		text = append(append(text, to...), 0)
	}
	data := binary.LittleEndian.AppendUint32(nil, uint32(4*len(units)))
	for _, u := range units {
		data = binary.LittleEndian.AppendUint32(data, u)
	}
	return append(data, text...)
}

func unigramVocab(t testing.TB) *Vocab {
	t.Helper()
	v, err := NewVocab("t5", "")
	if err != nil {
		t.Fatal(err)
	}
	v.Tokens = []string{"<pad>", "</s>", "<unk>", "\u2581", "\u2581a", "a", "b", "ab", "[X y]", "aab"}
	v.Scores = []float32{0, 0, 0, -3, -2, -2, -2, -3, 0, -4.5}
	v.Types = []Type{Control, Control, Unknown, Normal, Normal, Normal, Normal, Normal, UserDefined, Unused}
	v.AddSpacePrefix = true
	return v
}

func TestUnigram(t *testing.T) {
	for _, tt := range []struct {
		change func(v *Vocab)
		text   string
		want   []int32
	}{
		{nil, "", nil},
		{nil, "ab", []int32{4, 6}},     // -4 is better than -3-3
		{nil, "aab", []int32{4, 7}},    // -5 is better than -3-4.5
		{nil, "zzb", []int32{3, 2, 6}}, // unknowns become one
		{nil, "a  b", []int32{4, 3, 3, 6}},
		{nil, "b[X y]b", []int32{3, 6, 8, 3, 6}}, // found before anything else
		{nil, "\xff", []int32{3, 2}},
		{func(v *Vocab) { v.AddSpacePrefix = false }, "ab", []int32{7}},
		{func(v *Vocab) { v.RemoveExtraWhitespaces = true }, "  a   b ", []int32{4, 3, 6}},
		{func(v *Vocab) { v.SuffixWhitespace = true }, "b", []int32{6, 3}},
		{func(v *Vocab) { v.Charsmap = charsmapOf(map[byte]string{'A': "a", 'B': "ab", 'C': ""}) }, "ACBC", []int32{4, 7}},
		{func(v *Vocab) { v.PrefixUnlessSpace = true }, " a", []int32{4}},
	} {
		v := unigramVocab(t)
		if tt.change != nil {
			tt.change(v)
		}
		tok, err := New(*v)
		if err != nil {
			t.Fatal(err)
		}
		if got := tok.Encode(tt.text, Options{}); !slices.Equal(got, tt.want) {
			t.Errorf("%q: got %v, want %v", tt.text, got, tt.want)
		}
	}
}

func FuzzCharsmap(f *testing.F) {
	f.Add(charsmapOf(map[byte]string{'A': "a", ' ': ""}), "A b")
	f.Add([]byte{4, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f, 0}, "abc")
	f.Add([]byte{0xff, 0xff, 0xff, 0xff}, "abc")
	f.Fuzz(func(t *testing.T, data []byte, text string) {
		v := unigramVocab(t)
		v.Charsmap = data
		tok, err := New(*v)
		if err != nil {
			return
		}
		for _, id := range tok.Encode(text, Options{}) {
			if id < 0 || int(id) >= tok.Len() {
				t.Fatalf("id %d", id)
			}
		}
	})
}
