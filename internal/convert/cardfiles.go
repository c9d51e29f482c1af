package convert

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/smeltgguf/smelt/formats/gguf"
)

// CardFiles returns what a GGUF's general.* keys were made of, as far as a
// checkpoint has a place for them: the model card (README.md) with its front
// matter, nil if there is nothing to say, and the sampling parameters of
// generation_config.json.
func CardFiles(meta *gguf.Metadata) (readme []byte, sampling map[string]any, err error) {
	sampling = map[string]any{}
	for _, k := range samplingKeys { // of two names the second is transformers' own
		if v, ok := meta.Get("general." + k.to); ok {
			delete(sampling, samplingName(k.to))
			sampling[k.from] = v
		}
	}
	var b bytes.Buffer
	line := func(key string, val any) {
		var text bytes.Buffer
		enc := json.NewEncoder(&text) // JSON is YAML
		enc.SetEscapeHTML(false)
		if e := enc.Encode(val); e != nil {
			err = e
		}
		fmt.Fprintf(&b, "%s: %s", key, text.Bytes())
	}
	for _, k := range frontMatterKeys() {
		if s, e := meta.String("general." + k[1]); e == nil {
			line(k[0], s)
		}
	}
	if langs, e := meta.Strings("general.languages"); e == nil {
		line("language", langs)
	}
	if tags, e := meta.Strings("general.tags"); e == nil {
		line("tags", tags)
	}
	for _, k := range [][2]string{{"base_model", "base_model"}, {"datasets", "dataset"}} {
		if list := cardSources(meta, "general."+k[1]+"."); list != nil {
			line(k[0], list)
		}
	}
	if b.Len() == 0 {
		return nil, sampling, err
	}
	name, e := meta.String("general.name")
	if e != nil {
		name = "Model"
	}
	return fmt.Appendf(nil, "---\n%s---\n\n# %s\n\nWritten from a GGUF file.\n", b.Bytes(), strings.Join(strings.Fields(name), " ")), sampling, err
}

// samplingName returns the name that samplingKeys has first for a key.
func samplingName(to string) string {
	for _, k := range samplingKeys {
		if k.to == to {
			return k.from
		}
	}
	return ""
}

// frontMatterKeys are the keys of cardKeys that a card gets, each of GGUF's once,
// the name first.
func frontMatterKeys() [][2]string {
	var out [][2]string
	for _, k := range cardKeys {
		if !slices.ContainsFunc(out, func(o [2]string) bool { return o[1] == k[1] }) {
			out = append(out, k)
		}
	}
	return out
}

// cardSources returns models or data sets as a card names them: by the hub's id
// where that says the same, else as an object.
func cardSources(meta *gguf.Metadata, prefix string) []any {
	n, err := meta.Uint(prefix + "count")
	if err != nil || n > uint64(meta.Len()) {
		return nil
	}
	list := []any{}
	for i := range n {
		entry := map[string]string{}
		for _, k := range sourceFields {
			if s, err := meta.String(fmt.Sprintf("%s%d.%s", prefix, i, k)); err == nil {
				entry[k] = s
			}
		}
		id, isHub := strings.CutPrefix(entry["repo_url"], "https://huggingface.co/")
		if isHub && reflect.DeepEqual((&card{}).models(map[string]any{"": id}, ""), []map[string]string{entry}) {
			list = append(list, id)
			continue
		}
		list = append(list, maps.Clone(entry))
	}
	return list
}
