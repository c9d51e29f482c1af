package inspect

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"reflect"
	"unicode/utf8"

	"github.com/smeltgguf/smelt/formats/gguf"
)

// longArray is the length from which on JSON gives an array's hash in place of
// its elements.
const longArray = 65

// JSON writes one object:
//
//	kv       an object, a member per key in the file's order: {"type", "value"}, of
//	         an array {"type", "elem", "value"} or, with more than 64 elements,
//	         {"type", "elem", "len", "sha256"} over the elements' bytes as they stand
//	         in the file. Types are GGUF's numbers.
//	tensors  [name, type, dims (row length first), sha256 of the data]; without the
//	         last where hashes is nil
//	trailing_bytes  only where there are any
//
// Text may hold any bytes: those that are not UTF-8 are written as the escapes
// \udc80 to \udcff, which is how Python's surrogateescape reads them back. Floats
// that JSON has no number for are the strings "NaN", "Infinity" and "-Infinity".
func JSON(w io.Writer, f *gguf.File, hashes Hashes) error {
	b := bufio.NewWriter(w)
	b.WriteString("{\n \"kv\": {")
	sep := "\n"
	for k, v := range f.Metadata.All() {
		typ, elem, _ := gguf.TypeOf(v)
		fmt.Fprintf(b, "%s  %s: {\"type\": %d", sep, quote(k), typ)
		sep = ",\n"
		a := reflect.ValueOf(v)
		switch {
		case a.Kind() != reflect.Slice:
			fmt.Fprintf(b, ", \"value\": %s", scalar(v))
		case a.Len() >= longArray:
			sum := sha256.Sum256(gguf.AppendData(nil, v))
			fmt.Fprintf(b, ", \"elem\": %d, \"len\": %d, \"sha256\": %q", elem, a.Len(), hex.EncodeToString(sum[:]))
		default:
			fmt.Fprintf(b, ", \"elem\": %d, \"value\": [", elem)
			for i := range a.Len() {
				if i > 0 {
					b.WriteString(", ")
				}
				b.WriteString(scalar(a.Index(i).Interface()))
			}
			b.WriteString("]")
		}
		b.WriteString("}")
	}
	b.WriteString("\n },\n \"tensors\": [")
	sep = "\n"
	for i, t := range f.Tensors {
		fmt.Fprintf(b, "%s  [%s, %q, [", sep, quote(t.Name), t.Type)
		sep = ",\n"
		for j, d := range t.Dims {
			if j > 0 {
				b.WriteString(", ")
			}
			fmt.Fprint(b, d)
		}
		b.WriteString("]")
		if hashes != nil {
			fmt.Fprintf(b, ", %q", hashes[i])
		}
		b.WriteString("]")
	}
	b.WriteString("\n ]")
	if n := f.Trailing(); n > 0 {
		fmt.Fprintf(b, ",\n \"trailing_bytes\": %d", n)
	}
	b.WriteString("\n}\n")
	return b.Flush()
}

// scalar gives a value that is not an array as JSON.
func scalar(v any) string {
	switch v := v.(type) {
	case string:
		return quote(v)
	case float32:
		return number(float64(v)) // as the double that it is
	case float64:
		return number(v)
	}
	return fmt.Sprint(v) // an integer or a bool
}

func number(f float64) string {
	switch {
	case math.IsNaN(f):
		return `"NaN"`
	case math.IsInf(f, 1):
		return `"Infinity"`
	case math.IsInf(f, -1):
		return `"-Infinity"`
	}
	b, err := json.Marshal(f)
	if err != nil {
		panic(err) // json refuses only what is handled above
	}
	return string(b)
}

// quote gives text as a JSON string.
func quote(s string) string {
	b := make([]byte, 0, len(s)+2)
	b = append(b, '"')
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1:
			b = fmt.Appendf(b, `\udc%02x`, s[0])
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r < 0x20 || r == 0x7f || r == '\u2028' || r == '\u2029':
			b = fmt.Appendf(b, `\u%04x`, r)
		default:
			b = append(b, s[:n]...)
		}
		s = s[n:]
	}
	return string(append(b, '"'))
}
