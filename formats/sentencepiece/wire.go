package sentencepiece

import (
	"encoding/binary"
	"math"
)

// The reader below knows as much of protobuf's wire format as tokenizer.model
// uses: it is shorter than the generated code would be, depends on nothing, and
// gives errors that name the piece. Format: protobuf.dev/programming-guides/encoding.

// Wire types of protobuf.
const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
	wireFixed32 = 5
)

// A field is one key and value of a message.
type field struct {
	num  int
	wire int
	at   int    // offset of the key in the file
	n    uint64 // value of a varint or fixed field
	b    string // value of a bytes field
	bAt  int    // offset of b in the file
}

func (f *field) float() float32 { return math.Float32frombits(uint32(f.n)) }

// A message walks over the fields of one message.
type message struct {
	data string
	base int // offset of data in the file
	pos  int
}

func (m *message) done() bool { return m.pos >= len(m.data) }

// next reads a field; ok is false where the message ends inside of it or holds
// what protobuf does not allow (a group, field 0, a varint of more than 64 bits).
func (m *message) next(f *field) (ok bool) {
	f.at = m.base + m.pos
	key, ok := m.varint()
	if !ok || key>>3 == 0 || key>>3 > math.MaxInt32 {
		return false
	}
	f.num, f.wire = int(key>>3), int(key&7)
	rest := len(m.data) - m.pos
	switch f.wire {
	case wireVarint:
		f.n, ok = m.varint()
		return ok
	case wireFixed32:
		if rest < 4 {
			return false
		}
		f.n = uint64(binary.LittleEndian.Uint32([]byte(m.data[m.pos : m.pos+4])))
		m.pos += 4
	case wireFixed64:
		if rest < 8 {
			return false
		}
		f.n = binary.LittleEndian.Uint64([]byte(m.data[m.pos : m.pos+8]))
		m.pos += 8
	case wireBytes:
		n, ok := m.varint()
		if !ok || n > uint64(len(m.data)-m.pos) {
			return false
		}
		f.bAt = m.base + m.pos
		f.b = m.data[m.pos : m.pos+int(n)]
		m.pos += int(n)
	default:
		return false
	}
	return true
}

func (m *message) varint() (uint64, bool) {
	var v uint64
	for shift := 0; shift < 70 && m.pos < len(m.data); shift += 7 {
		c := m.data[m.pos]
		m.pos++
		if shift == 63 && c > 1 {
			return 0, false
		}
		v |= uint64(c&0x7f) << shift
		if c < 0x80 {
			return v, true
		}
	}
	return 0, false
}
