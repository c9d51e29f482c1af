package convert

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/smeltgguf/smelt/formats/gguf"
	"github.com/smeltgguf/smelt/internal/arch"
	"github.com/smeltgguf/smelt/internal/fixture"
)

// TestFixtures converts a checkpoint of each family.
func TestFixtures(t *testing.T) {
	for _, m := range fixture.Models() {
		t.Run(m.Name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), m.Name)
			if err := m.Write(dir); err != nil {
				t.Fatal(err)
			}
			out := run(t, Options{In: dir, Outtype: "f32"})
			f, err := gguf.Open(out)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			var in, got uint64
			for _, x := range m.Tensors {
				n := uint64(1)
				for _, d := range x.Shape {
					n *= uint64(d)
				}
				in += n
			}
			for _, x := range f.Tensors {
				if !strings.HasPrefix(x.Name, "rope_") {
					got += x.Elems()
				}
			}
			if got != in {
				t.Errorf("%d elements in the GGUF, %d in the checkpoint", got, in)
			}
			if _, err := arch.DecoderFromGGUF(f.Metadata); err != nil {
				t.Errorf("its decoder: %v", err)
			}
		})
	}
}
