package sentencepiece

import (
	"encoding/binary"
	"math"
)

// Marshal returns m as the bytes of a tokenizer.model, fields in the order of
// their numbers: pieces, trainer_spec, normalizer_spec. Of the trainer's
// settings it holds those that matter once a model is trained.
func Marshal(m *Model) []byte {
	var b, msg []byte
	for _, p := range m.Pieces {
		msg = appendString(msg[:0], 1, p.Text)
		msg = append(msg, 2<<3|wireFixed32)
		msg = binary.LittleEndian.AppendUint32(msg, math.Float32bits(p.Score))
		if p.Type != Normal {
			msg = appendVarint(msg, 3, uint64(p.Type))
		}
		b = appendString(b, 1, string(msg))
	}
	msg = appendVarint(msg[:0], 3, uint64(m.Type))
	msg = appendVarint(msg, 4, uint64(len(m.Pieces)))
	msg = appendBool(msg, 24, m.TreatWhitespaceAsSuffix)
	msg = appendBool(msg, 35, m.ByteFallback)
	special := [...]int{m.UnkID, m.BosID, m.EosID, m.PadID}
	for i, id := range special {
		msg = appendVarint(msg, 40+i, uint64(int64(id))) // negative numbers take ten bytes
	}
	for i, id := range special {
		if id >= 0 && id < len(m.Pieces) {
			msg = appendString(msg, 45+i, m.Pieces[id].Text) // unk_piece and so on
		}
	}
	b = appendString(b, 2, string(msg))

	n := &m.Normalizer
	msg = appendString(msg[:0], 1, n.Name)
	if n.PrecompiledCharsmap != nil {
		msg = appendString(msg, 2, string(n.PrecompiledCharsmap))
	}
	msg = appendBool(msg, 3, n.AddDummyPrefix)
	msg = appendBool(msg, 4, n.RemoveExtraWhitespaces)
	msg = appendBool(msg, 5, n.EscapeWhitespaces)
	return appendString(b, 3, string(msg))
}

func appendVarint(b []byte, num int, v uint64) []byte {
	b = binary.AppendUvarint(b, uint64(num)<<3|wireVarint)
	return binary.AppendUvarint(b, v)
}

func appendBool(b []byte, num int, v bool) []byte {
	if v {
		return appendVarint(b, num, 1)
	}
	return appendVarint(b, num, 0)
}

func appendString(b []byte, num int, s string) []byte {
	b = binary.AppendUvarint(b, uint64(num)<<3|wireBytes)
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}
