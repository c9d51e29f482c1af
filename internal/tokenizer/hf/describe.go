package hf

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/internal/tokenizer"
)

// Describe returns what PreTokenizer reads: the pre_tokenizer of a
// tokenizer.json that splits text as the byte-level BPE called pre does. It is
// an error if no description of that way to split is known.
func Describe(pre string) (json.RawMessage, error) {
	alike := tokenizer.Alike(pre)
	for _, k := range knowns {
		if !slices.ContainsFunc(k.names, func(n name) bool { return slices.Contains(alike, n.pre) }) {
			continue
		}
		return json.Marshal(describeSteps(k.steps))
	}
	return nil, fmt.Errorf("pre-tokenizer %s has no description that tokenizer.json could hold", formats.Quote(pre))
}

// describeSteps writes split patterns as pre-tokenizers. Where GPT-2's is the
// last, ByteLevel does it.
func describeSteps(steps []string) any {
	type object = map[string]any
	byteLevel := object{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}
	if n := len(steps) - 1; steps[n] == gpt2 {
		byteLevel["use_regex"] = true
		steps = steps[:n]
	}
	var parts []object
	for _, s := range steps {
		if s == punctuate {
			parts = append(parts, object{"type": "Punctuation", "behavior": "Contiguous"})
			continue
		}
		parts = append(parts, object{"type": "Split", "pattern": object{"Regex": s}, "behavior": "Isolated", "invert": false})
	}
	if parts == nil {
		return byteLevel
	}
	return object{"type": "Sequence", "pretokenizers": append(parts, byteLevel)}
}
