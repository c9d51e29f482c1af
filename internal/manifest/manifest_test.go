package manifest

import (
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
)

const sum = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" // of "abc", FIPS 180-2

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestHash(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	write(t, a, "abc")
	write(t, b, "")
	got, err := HashAll(t.Context(), []string{a, b}, nil)
	want := []File{{"a", 3, sum}, {"b", 0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	if _, err := Hash(t.Context(), dir, nil); err == nil {
		t.Error("a directory has a checksum")
	}
	if _, err := HashAll(t.Context(), []string{a, filepath.Join(dir, "none")}, nil); err == nil {
		t.Error("a file that does not exist has a checksum")
	}
}

func TestPath(t *testing.T) {
	for in, want := range map[string]string{
		"m.gguf": "m.gguf.manifest.json", "d/m": "d/m.manifest.json",
		"d/m-00002-of-00003.gguf": "d/m.gguf.manifest.json",
	} {
		if got := Path(in); got != want {
			t.Errorf("Path(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestCommand(t *testing.T) {
	args := []string{"quantize", "-q", "q4_0", "/home/me/in.gguf", "--out=../x/out.gguf", "--tensor-type", "ffn=q8_0", "plain"}
	want := []string{"quantize", "-q", "q4_0", "in.gguf", "--out=out.gguf", "--tensor-type", "ffn=q8_0", "plain"}
	if got := Command(args); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if runtime.GOOS == "windows" {
		if got := Command([]string{`C:\a\b.gguf`})[0]; got != "b.gguf" {
			t.Errorf("got %q", got)
		}
	}
}

func example() *Manifest {
	return &Manifest{Smelt: "v1", Command: []string{"quantize", "<in>"}, Type: "Q4_0", Inputs: []File{{"in.gguf", 3, sum}},
		Imatrix: &File{"im.gguf", 3, sum}, Outputs: []File{{"m-00001-of-00002.gguf", 3, sum}, {"m-00002-of-00002.gguf", 3, sum}}}
}

func TestRoundTrip(t *testing.T) {
	m := example()
	data, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse("m", data)
	m.Format = 1
	if err != nil || !reflect.DeepEqual(got, m) {
		t.Errorf("got %+v, %v; want %+v", got, err, m)
	}
}

func TestParseHostile(t *testing.T) {
	data, err := example().Encode()
	if err != nil {
		t.Fatal(err)
	}
	good := string(data)
	for _, tt := range []struct{ from, to, want string }{
		{good, "", "JSON"},
		{good, "[]", "no object"},
		{good, "{}", "no whole number"},
		{`"manifest": 1`, `"manifest": 2`, "form 2"},
		{`"manifest": 1`, `"manifest": 1, "manifest": 1`, "duplicate key"},
		{`"size": 3`, `"size": 3.5`, "no whole number"},
		{`"size": 3`, `"size": -1`, "-1 bytes"},
		{`"size": 3`, `"size": 1e400`, "no whole number"},
		{`"size": 3`, `"size": "3"`, "no whole number"},
		{sum, strings.ToUpper(sum), "no SHA-256"},
		{sum, sum[:63], "no SHA-256"},
		{`"m-00001-of-00002.gguf"`, `"../../etc/passwd"`, "no file's name"},
		{`"m-00001-of-00002.gguf"`, `"a\\b"`, "no file's name"},
		{`"m-00001-of-00002.gguf"`, `".."`, "no file's name"},
		{`"m-00001-of-00002.gguf"`, `null`, "no string"},
		{`"command": [`, `"command": [[`, "JSON"},
		{`"type": "Q4_0"`, `"type": ` + strings.Repeat("[", 200) + strings.Repeat("]", 200), "nested"},
	} {
		_, err := Parse("f.manifest.json", []byte(strings.Replace(good, tt.from, tt.to, 1)))
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "f.manifest.json: ") {
			t.Errorf("%.40q for %.40q: error %v, want one with %q", tt.to, tt.from, err, tt.want)
		}
	}
	if _, err := Parse("f", []byte(`{"manifest":1,"smelt":"v","type":"t","command":[],"inputs":[],"outputs":[]}`)); err == nil || !strings.Contains(err.Error(), "no outputs") {
		t.Errorf("no outputs: %v", err)
	}
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	long := filepath.Join(dir, "long")
	write(t, long, strings.Repeat(" ", maxSize+1))
	if _, err := Read(long); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("too long: %v", err)
	}
	if _, err := Read(dir); err == nil {
		t.Error("a directory is a manifest")
	}
}

func TestCheck(t *testing.T) {
	m := example()
	dir := t.TempDir()
	one, two := filepath.Join(dir, m.Outputs[0].Name), filepath.Join(dir, m.Outputs[1].Name)
	check := func(path string, m *Manifest, want ...string) {
		t.Helper()
		var done, total int64
		got, err := m.Check(t.Context(), path, func(d, n int64) { done, total = d, n })
		if err != nil || len(got) != len(want) {
			t.Fatalf("found %q, %v; want %q", got, err, want)
		}
		for i := range want {
			if !strings.Contains(got[i], want[i]) {
				t.Errorf("found %q, want %q", got[i], want[i])
			}
		}
		if done != total {
			t.Errorf("progress ends at %d of %d", done, total)
		}
	}
	write(t, one, "abc")
	check(one, m, "-00002-of-00002.gguf\" is missing")
	write(t, two, "abc")
	check(two, m)
	write(t, two, "abd")
	check(one, m, "SHA-256 a52d159f262b2c6ddb724a61840befc36eb30c88877a4030b65cbe86298449c9, "+sum+" by the manifest")
	write(t, two, "ab")
	check(one, m, "has 2 bytes, 3 by the manifest")
	other := filepath.Join(dir, "other.gguf")
	write(t, other, "abc")
	check(other, m, "does not list it")
	single := &Manifest{Outputs: m.Outputs[:1]}
	check(other, single) // renamed
}

func FuzzParse(f *testing.F) {
	data, err := example().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"manifest":1}`))
	f.Add([]byte(`{"manifest":1,"outputs":[{"name":"..","size":-1,"sha256":"x"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Parse("f", data)
		if err != nil {
			return
		}
		again, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if n, err := Parse("f", again); err != nil || !reflect.DeepEqual(n, m) {
			t.Errorf("%+v comes back as %+v, %v", m, n, err)
		}
	})
}
