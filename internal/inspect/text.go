package inspect

import (
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/formats/gguf"
	"github.com/smeltgguf/smelt/internal/report"
)

// maxShown is about how many characters of a value Text shows.
const maxShown = 72

// Text writes tables for people: metadata with long values cut short, tensors,
// and the totals by type. hashes may be nil.
func Text(w io.Writer, f *gguf.File, hashes Hashes) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, p := range f.Paths() {
		fmt.Fprintf(tw, "%s\n", p)
	}
	fmt.Fprintf(tw, "GGUF version %d, %s\n\n", f.Version, report.Bytes(f.Size()))

	fmt.Fprintf(tw, "Metadata: %d keys\n", f.Metadata.Len())
	for k, v := range f.Metadata.All() {
		typ := gguf.TypeName(v)
		if a := reflect.ValueOf(v); a.Kind() == reflect.Slice {
			typ = fmt.Sprintf("%s[%d]", typ, a.Len())
		}
		fmt.Fprintf(tw, "  %s\t%s\t%s\n", formats.Name(k), typ, value(v))
	}
	fmt.Fprintf(tw, "\nTensors: %d\n", len(f.Tensors))
	for i, t := range f.Tensors {
		fmt.Fprintf(tw, "  %s\t%s\t%s\t%s", formats.Name(t.Name), t.Type, Shape(t), report.Bytes(int64(t.Size())))
		if hashes != nil {
			fmt.Fprintf(tw, "\t%s", hashes[i])
		}
		fmt.Fprintln(tw)
	}
	byType, all := Totals(f)
	fmt.Fprintf(tw, "\nTypes\n")
	for _, t := range byType {
		fmt.Fprintf(tw, "  %s\t%s\t%s weights\t%s\t%.2f bits per weight\n",
			t.Type, report.Plural(t.Tensors, "tensor"), Count(t.Elems), report.Bytes(int64(t.Bytes)), t.BitsPerWeight())
	}
	fmt.Fprintf(tw, "  total\t%s\t%s weights\t%s\t%.2f bits per weight\n",
		report.Plural(all.Tensors, "tensor"), Count(all.Elems), report.Bytes(int64(all.Bytes)), all.BitsPerWeight())
	if n := f.Trailing(); n > 0 {
		fmt.Fprintf(tw, "\n%d trailing bytes after the last tensor\n", n)
	}
	return tw.Flush()
}

// Shape gives a tensor's dimensions as `4096 x 32000`, row length first.
func Shape(t *gguf.Tensor) string {
	if len(t.Dims) == 0 {
		return "scalar"
	}
	var s []string
	for _, d := range t.Dims {
		s = append(s, strconv.FormatUint(d, 10))
	}
	return strings.Join(s, " x ")
}

// Count gives a number of weights as people say it: 6.74 B, 2.8 M.
func Count(n uint64) string {
	for _, u := range []struct {
		size uint64
		unit string
	}{{1e12, "T"}, {1e9, "B"}, {1e6, "M"}, {1e3, "K"}} {
		if n >= u.size {
			return fmt.Sprintf("%.2f %s", float64(n)/float64(u.size), u.unit)
		}
	}
	return strconv.FormatUint(n, 10)
}

// value shows a value in about maxShown characters.
func value(v any) string {
	a := reflect.ValueOf(v)
	if a.Kind() != reflect.Slice {
		return element(v, maxShown)
	}
	var b strings.Builder
	b.WriteString("[")
	for i := range a.Len() {
		if i > 0 {
			b.WriteString(", ")
		}
		e := element(a.Index(i).Interface(), maxShown/2)
		if i > 0 && b.Len()+len(e) > maxShown {
			b.WriteString("...")
			break
		}
		b.WriteString(e)
	}
	return b.String() + "]"
}

func element(v any, limit int) string {
	s, ok := v.(string)
	if !ok {
		return fmt.Sprint(v)
	}
	if len(s) <= limit {
		return strconv.Quote(s)
	}
	return fmt.Sprintf("%s... (%d bytes)", strconv.Quote(strings.ToValidUTF8(s[:limit], "")), len(s))
}
