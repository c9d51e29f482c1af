package arch

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/smeltgguf/smelt/formats/gguf"
	"github.com/smeltgguf/smelt/internal/checkpoint"
	"github.com/smeltgguf/smelt/internal/fixture"
	"github.com/smeltgguf/smelt/internal/stream"
	"github.com/smeltgguf/smelt/quant"
)

// metaOf returns the metadata of the GGUF that a model becomes, as far as
// Export looks at it.
func metaOf(m *Model) *gguf.Metadata {
	meta := m.Params.Clone()
	meta.Set("general.architecture", m.Family.Name)
	return meta
}

// float32s reads all of rows as float32.
func float32s(t *testing.T, rows stream.Rows) []byte {
	t.Helper()
	raw := make([]byte, rows.Count()*rows.Type().RowSize(rows.Len()))
	if err := rows.ReadRows(raw, 0, rows.Count()); err != nil {
		t.Fatal(err)
	}
	f := make([]float32, rows.Count()*rows.Len())
	quant.Decode(rows.Type(), f, raw)
	out := make([]byte, 4*len(f))
	quant.Encode(quant.F32, out, f, nil)
	return out
}

// float32ed rounds the numbers of a JSON value to what a GGUF holds.
func float32ed(v any) any {
	switch v := v.(type) {
	case float64:
		return float32(v)
	case map[string]any:
		out := map[string]any{}
		for k, e := range v {
			out[k] = float32ed(e)
		}
		return out
	}
	return v
}

func TestExport(t *testing.T) {
	for _, m := range fixture.Models() {
		t.Run(m.Name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "ck")
			if err := m.Write(dir); err != nil {
				t.Fatal(err)
			}
			ck, err := checkpoint.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer ck.Close()
			model, err := Load(ck, Options{})
			if err != nil {
				t.Fatal(err)
			}
			x, err := Export("x.gguf", metaOf(model), model.Tensors)
			if model.Family.export == nil {
				if err == nil || !strings.Contains(err.Error(), "cannot be exported") {
					t.Errorf("error %v, want it refused", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(x.Notes) > 0 {
				t.Errorf("notes %q", x.Notes)
			}
			got := map[string]Tensor{}
			for _, e := range x.Tensors {
				got[e.Name] = e
			}
			for _, want := range ck.Tensors {
				e, ok := got[want.Name]
				if !ok {
					t.Errorf("%s is missing", want.Name)
					continue
				}
				delete(got, want.Name)
				gotRows, wantRows := e.Rows, want.Rows
				if a, ok := e.Rows.(*added); ok {
					// What the sum of weight and 1 has rounded off is gone; the
					// sum comes back.
					gotRows, wantRows = &added{a, 1}, &added{wantRows, 1}
				}
				if !slices.Equal(e.Shape, want.Shape) || !bytes.Equal(float32s(t, gotRows), float32s(t, wantRows)) {
					t.Errorf("%s %v differs from %v", e.Name, e.Shape, want.Shape)
				}
			}
			for name := range got {
				t.Errorf("%s should not be there", name)
			}
			var config map[string]any
			if err := json.Unmarshal(m.ConfigJSON(), &config); err != nil {
				t.Fatal(err)
			}
			written, err := json.Marshal(x.Config)
			if err != nil {
				t.Fatal(err)
			}
			var again map[string]any
			if err := json.Unmarshal(written, &again); err != nil {
				t.Fatal(err)
			}
			for key, v := range again {
				switch key {
				case "tie_word_embeddings":
					if strings.HasPrefix(model.Family.Name, "gemma") {
						continue // always true, whatever the config says
					}
				case "architectures", "model_type":
					if strings.HasPrefix(m.Name, "mistral") {
						continue // the GGUF says llama, which computes the same
					}
				case "query_pre_attn_scalar":
					if m.Unsaid > 0 {
						continue // what the GGUF cannot say
					}
				}
				if w, ok := config[key]; ok && w != nil && !reflect.DeepEqual(float32ed(v), float32ed(w)) {
					t.Errorf("%s = %v, want %v", key, v, w)
				}
			}
		})
	}
}
