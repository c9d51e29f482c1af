package strictjson

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/smeltgguf/smelt/formats"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want any
	}{
		{`null`, nil},
		{` true `, true},
		{`"a\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00é"`, "a\"\\/\b\f\n\r\té😀é"},
		{`[]`, []any{}},
		{`{}`, map[string]any{}},
		{`[1, -0.5e+3, 0, 1E2]`, []any{json.Number("1"), json.Number("-0.5e+3"), json.Number("0"), json.Number("1E2")}},
		{`[NaN,Infinity,-Infinity]`, []any{json.Number("NaN"), json.Number("Infinity"), json.Number("-Infinity")}},
		{`{"a":{"b":[false]},"A":null}`, map[string]any{"a": map[string]any{"b": []any{false}}, "A": nil}},
	} {
		got, err := Parse("f", []byte(tt.in), false)
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: got %#v, %v", tt.in, got, err)
		}
	}
}

func TestRefused(t *testing.T) {
	many := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `"k%d":1,`, i)
		}
		return "{" + b.String()
	}
	for _, tt := range []struct{ in, want string }{
		{``, "f: JSON truncated, want a number, at offset 0"},
		{`{"a":1,"b":2,"a":3}`, `f: duplicate key "a", at offset 17`},
		{many(100) + `"k99":1}`, `f: duplicate key "k99", at offset 797`},
		{`{"hidden_size":1,"Hidden_Size":2}`, `f: keys "hidden_size" and "Hidden_Size" differ only in case, at offset 31`},
		{"{\"a\":\"\xff\"}", `f: text not UTF-8, at offset 6`},
		{strings.Repeat("[", 10001), `f: JSON nested deeper than 100, at offset 101`},
		{strings.Repeat(`{"a":`, 10001), `f: JSON nested deeper than 100, at offset 501`},
		{`[1,]`, `f: JSON has ']', want a number, at offset 3`},
		{`{"a":1,}`, `f: JSON has '}', want '"', at offset 7`},
		{`[1 2]`, `f: JSON has '2', want ',', at offset 3`},
		{`[01]`, `f: JSON has '1', want ',', at offset 2`},
		{`1.`, `f: JSON has '.', want its end, at offset 1`},
		{`-`, `f: JSON has '-', want a number, at offset 0`},
		{`"a`, `f: string truncated, at offset 2`},
		{`"a\`, `f: string truncated, at offset 3`},
		{`"\u12`, `f: string truncated, at offset 3`},
		{`"\u12g4"`, `f: bad \u escape, at offset 3`},
		{`"\x"`, `f: JSON has 'x', want an escape, at offset 2`},
		{`"\ud800"`, `f: half a surrogate pair in a string, at offset 7`},
		{"\"a\nb\"", `f: control character '\n' in a string, at offset 2`},
		{"\"\\n\n\"", `f: control character '\n' in a string, at offset 3`},
		{`{} {}`, `f: JSON has '{', want its end, at offset 3`},
		{"{}\x00", `f: JSON has '\x00', want its end, at offset 2`},
	} {
		_, err := Parse("f", []byte(tt.in), true)
		var fe *formats.FormatError
		if !errors.As(err, &fe) || err.Error() != tt.want {
			t.Errorf("%.40q: error %q, want %q", tt.in, fmt.Sprint(err), tt.want)
		}
	}
}

// TestMemory: what takes most memory per byte of text is bounded.
func TestMemory(t *testing.T) {
	for _, unit := range []string{"[],", "{},", "0,", `"",`, `{"":0},`} {
		const size = 8 << 20
		in := []byte("[" + strings.Repeat(unit, size/len(unit)))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := Parse("f", in, false)
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Fatal("accepted")
		}
		// What counts is the peak; the sum of all allocations has the discarded
		// halves of growing slices in it as well.
		if got, limit := after.TotalAlloc-before.TotalAlloc, uint64(3*(64<<20+4*len(in))); got > limit {
			t.Errorf("%s: %d MiB allocated for %d MiB of text", unit, got>>20, len(in)>>20)
		}
	}
}

func TestObjectKeys(t *testing.T) {
	var b strings.Builder
	for i := range maxChecked + 1 {
		fmt.Fprintf(&b, `"%d":0,`, i)
	}
	d := NewDecoder("f", "{"+b.String()+`"x":0}`, 0)
	err := d.Object(func(string) error { _, err := d.Uint(); return err })
	if err == nil || !strings.Contains(err.Error(), "more than 65536 keys") {
		t.Error(err)
	}
}

// FuzzParse: what is accepted is valid JSON with the same meaning for the
// standard library, except for the numbers that JSON does not have.
func FuzzParse(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.5e3,"x\u00e9\ud83d\ude00",null,true]}`, `{"a":1,"a":2}`, `[NaN,-Infinity]`, `"\ud800"`, "\"\xff\"", `[[[[]]]]`, `{"dtype":"F32","DTYPE":0}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		got, err := Parse("f", in, false)
		if err != nil {
			return
		}
		if s := string(in); strings.Contains(s, "NaN") || strings.Contains(s, "Infinity") {
			return
		}
		d := json.NewDecoder(strings.NewReader(string(in)))
		d.UseNumber()
		var want any
		if err := d.Decode(&want); err != nil {
			t.Fatalf("accepted %q: %v", in, err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%q: got %#v, want %#v", in, got, want)
		}
	})
}
