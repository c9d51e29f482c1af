// Package strictjson reads JSON (RFC 8259) that comes from outside and decides
// what is computed: headers, indexes and configurations. It refuses what
// readers are known to disagree about, duplicate keys and text that is not
// UTF-8, and bounds depth and memory. As the writers of these files do, it also
// allows the numbers NaN, Infinity and -Infinity.
//
// A Decoder is pulled: the caller says what it wants next. Strings without
// escapes share the input's memory.
package strictjson

import (
	"encoding/json"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/smeltgguf/smelt/formats"
)

const (
	// maxDepth bounds how deep arrays and objects nest.
	maxDepth = 100
	// maxChecked bounds the keys of an object read by Object, whose keys are
	// all remembered.
	maxChecked = 1 << 16
	// Value may take baseBudget + budgetFactor x the input's length in bytes.
	baseBudget   = 48 << 20
	budgetFactor = 3
)

// Parse reads a whole document into Go values: map[string]any, []any,
// json.Number, string, bool and nil. file names it in errors, which are all of
// type *formats.FormatError. With fold set, keys of one object that differ only
// in the case of ASCII letters count as duplicates.
func Parse(file string, data []byte, fold bool) (any, error) {
	d := NewDecoder(file, string(data), 0)
	d.fold = fold
	if err := d.CheckUTF8("text"); err != nil {
		return nil, err
	}
	v, err := d.Value()
	if err != nil {
		return nil, err
	}
	return v, d.End()
}

// A Decoder reads one JSON text. After an error it is of no further use.
type Decoder struct {
	file  string
	base  int64 // where the text starts in the file
	s     string
	pos   int
	depth int
	spent int // bytes of memory that Value has used, roughly
	fold  bool
}

// NewDecoder returns a Decoder of the text s, which starts at offset base of
// the file.
func NewDecoder(file, s string, base int64) *Decoder {
	return &Decoder{file: file, s: s, base: base}
}

// CheckUTF8 returns an error `<what> not UTF-8` if the text is not.
func (d *Decoder) CheckUTF8(what string) error {
	if utf8.ValidString(d.s) {
		return nil
	}
	for i, r := range d.s {
		if r == utf8.RuneError {
			if _, n := utf8.DecodeRuneInString(d.s[i:]); n == 1 {
				return formats.Malformedf(d.file, d.base+int64(i), "%s not UTF-8", what)
			}
		}
	}
	return nil
}

// Errorf returns an error at the current position.
func (d *Decoder) Errorf(format string, args ...any) error {
	return formats.Malformedf(d.file, d.base+int64(d.pos), format, args...)
}

// Peek returns the first byte of the next token, 0 at the end of the text.
func (d *Decoder) Peek() byte {
	for ; d.pos < len(d.s); d.pos++ {
		switch c := d.s[d.pos]; c {
		case ' ', '\t', '\n', '\r':
		default:
			return c
		}
	}
	return 0
}

// expect consumes the byte c.
func (d *Decoder) expect(c byte) error {
	if d.Peek() != c {
		return d.unexpected(strconv.QuoteRune(rune(c)))
	}
	d.pos++
	return nil
}

func (d *Decoder) unexpected(want string) error {
	if d.pos >= len(d.s) {
		return d.Errorf("JSON truncated, want %s", want)
	}
	r, _ := utf8.DecodeRuneInString(d.s[d.pos:])
	return d.Errorf("JSON has %q, want %s", r, want)
}

// End returns an error unless only white space is left.
func (d *Decoder) End() error {
	if d.Peek() != 0 || d.pos < len(d.s) {
		return d.unexpected("its end")
	}
	return nil
}

func (d *Decoder) enter(c byte) error {
	if err := d.expect(c); err != nil {
		return err
	}
	if d.depth++; d.depth > maxDepth {
		return d.Errorf("JSON nested deeper than %d", maxDepth)
	}
	return nil
}

// LongObject reads an object; each is called for every key and reads its
// value. Duplicate keys are the caller's concern.
func (d *Decoder) LongObject(each func(key string) error) error {
	if err := d.enter('{'); err != nil {
		return err
	}
	for first := true; ; first = false {
		if first && d.Peek() == '}' {
			break
		}
		key, err := d.String()
		if err != nil {
			return err
		}
		if err := d.expect(':'); err != nil {
			return err
		}
		if err := each(key); err != nil {
			return err
		}
		if d.Peek() == '}' {
			break
		}
		if err := d.expect(','); err != nil {
			return err
		}
	}
	d.pos++
	d.depth--
	return nil
}

// Object reads an object and refuses duplicate keys.
func (d *Decoder) Object(each func(key string) error) error {
	var seen keySet
	return d.LongObject(func(key string) error {
		if seen.len() >= maxChecked {
			return d.Errorf("object with more than %d keys", maxChecked)
		}
		if !seen.add(key) {
			return d.duplicate(key)
		}
		return each(key)
	})
}

func (d *Decoder) duplicate(key string) error {
	return d.Errorf("duplicate key %s", formats.Quote(key))
}

// keySet remembers keys; a few without allocating.
type keySet struct {
	few  [6]string
	n    int
	many map[string]struct{}
}

func (k *keySet) len() int { return k.n + len(k.many) }

// add reports whether key is new.
func (k *keySet) add(key string) bool {
	for _, s := range k.few[:k.n] {
		if s == key {
			return false
		}
	}
	if k.n < len(k.few) {
		k.few[k.n] = key
		k.n++
		return true
	}
	if k.many == nil {
		k.many = map[string]struct{}{}
	}
	n := len(k.many)
	k.many[key] = struct{}{}
	return len(k.many) > n
}

// Array reads an array; each is called for every element and reads it.
func (d *Decoder) Array(each func() error) error {
	if err := d.enter('['); err != nil {
		return err
	}
	for first := true; ; first = false {
		if first && d.Peek() == ']' {
			break
		}
		if err := each(); err != nil {
			return err
		}
		if d.Peek() == ']' {
			break
		}
		if err := d.expect(','); err != nil {
			return err
		}
	}
	d.pos++
	d.depth--
	return nil
}

// String reads a string.
func (d *Decoder) String() (string, error) {
	if err := d.expect('"'); err != nil {
		return "", err
	}
	start := d.pos
	for ; d.pos < len(d.s); d.pos++ {
		switch c := d.s[d.pos]; {
		case c == '"':
			d.pos++
			return d.s[start : d.pos-1], nil
		case c == '\\':
			return d.escaped(start)
		case c < ' ':
			return "", d.Errorf("control character %q in a string", c)
		}
	}
	return "", d.Errorf("string truncated")
}

// escaped reads the rest of a string that started at start and has escapes.
func (d *Decoder) escaped(start int) (string, error) {
	var b strings.Builder
	b.WriteString(d.s[start:d.pos])
	for d.pos < len(d.s) {
		c := d.s[d.pos]
		d.pos++
		switch {
		case c == '"':
			return b.String(), nil
		case c < ' ':
			d.pos--
			return "", d.Errorf("control character %q in a string", c)
		case c != '\\':
			b.WriteByte(c)
			continue
		}
		if d.pos >= len(d.s) {
			break
		}
		c = d.s[d.pos]
		d.pos++
		if i := strings.IndexByte(`"\/bfnrt`, c); i >= 0 {
			b.WriteByte("\"\\/\b\f\n\r\t"[i])
			continue
		}
		if c != 'u' {
			d.pos--
			return "", d.unexpected("an escape")
		}
		r, err := d.hex4()
		if err != nil {
			return "", err
		}
		if utf16.IsSurrogate(r) {
			low := rune(-1)
			if strings.HasPrefix(d.s[d.pos:], `\u`) {
				d.pos += 2
				if low, err = d.hex4(); err != nil {
					return "", err
				}
			}
			if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
				return "", d.Errorf("half a surrogate pair in a string")
			}
		}
		b.WriteRune(r)
	}
	return "", d.Errorf("string truncated")
}

func (d *Decoder) hex4() (rune, error) {
	if len(d.s)-d.pos < 4 {
		return 0, d.Errorf("string truncated")
	}
	n, err := strconv.ParseUint(d.s[d.pos:d.pos+4], 16, 16)
	if err != nil {
		return 0, d.Errorf("bad \\u escape")
	}
	d.pos += 4
	return rune(n), nil
}

// Number reads a number and returns its text.
func (d *Decoder) Number() (string, error) {
	d.Peek()
	rest := d.s[d.pos:]
	for _, name := range []string{"NaN", "Infinity", "-Infinity"} {
		if strings.HasPrefix(rest, name) {
			d.pos += len(name)
			return name, nil
		}
	}
	n := numberLen(rest)
	if n == 0 {
		return "", d.unexpected("a number")
	}
	d.pos += n
	return rest[:n], nil
}

// numberLen returns how many bytes of s the longest number at its start has.
func numberLen(s string) int {
	digits := func(i int) int {
		for i < len(s) && '0' <= s[i] && s[i] <= '9' {
			i++
		}
		return i
	}
	i := 0
	if i < len(s) && s[i] == '-' {
		i++
	}
	switch j := digits(i); {
	case j == i:
		return 0
	case s[i] == '0':
		i++
	default:
		i = j
	}
	if i < len(s) && s[i] == '.' {
		if j := digits(i + 1); j > i+1 {
			i = j
		}
	}
	if i < len(s) && (s[i] == 'e' || s[i] == 'E') {
		k := i + 1
		if k < len(s) && (s[k] == '+' || s[k] == '-') {
			k++
		}
		if j := digits(k); j > k {
			i = j
		}
	}
	return i
}

// Uint reads a number that is a natural number written without fraction or
// exponent.
func (d *Decoder) Uint() (uint64, error) {
	at := d.pos
	s, err := d.Number()
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		d.pos = at
		return 0, d.Errorf("want a natural number, got %s", formats.Quote(s))
	}
	return n, nil
}

// spend counts memory and refuses what takes many times the input's length.
func (d *Decoder) spend(n int) error {
	if d.spent += n; d.spent > baseBudget+budgetFactor*len(d.s) {
		return d.Errorf("JSON has too many values")
	}
	return nil
}

// Value reads any value; see Parse.
func (d *Decoder) Value() (any, error) {
	if err := d.spend(32); err != nil { // an interface and a boxed string header
		return nil, err
	}
	switch c := d.Peek(); c {
	case '{':
		m := map[string]any{}
		var folded map[string]string
		if d.fold {
			folded = map[string]string{}
		}
		if err := d.spend(200); err != nil { // a map's first group
			return nil, err
		}
		err := d.LongObject(func(key string) error {
			if _, ok := m[key]; ok {
				return d.duplicate(key)
			}
			if d.fold {
				low := strings.ToLower(key)
				if other, ok := folded[low]; ok {
					return d.Errorf("keys %s and %s differ only in case", formats.Quote(other), formats.Quote(key))
				}
				folded[low] = key
			}
			if err := d.spend(40); err != nil {
				return err
			}
			v, err := d.Value()
			m[key] = v
			return err
		})
		return m, err
	case '[':
		list := []any{}
		if err := d.spend(24); err != nil {
			return nil, err
		}
		err := d.Array(func() error {
			v, err := d.Value()
			list = append(list, v)
			return err
		})
		return list, err
	case '"':
		s, err := d.String()
		return s, err
	default:
		switch rest := d.s[d.pos:]; {
		case strings.HasPrefix(rest, "null"):
			d.pos += len("null")
			return nil, nil
		case strings.HasPrefix(rest, "true"):
			d.pos += len("true")
			return true, nil
		case strings.HasPrefix(rest, "false"):
			d.pos += len("false")
			return false, nil
		}
		n, err := d.Number()
		return json.Number(n), err
	}
}
