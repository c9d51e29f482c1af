package hf

import (
	"encoding/json"
	"strings"
	"unicode/utf8"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/formats/strictjson"
)

// ParseBPE reads the two files that hold a byte-level BPE where there is no
// tokenizer.json: vocab.json, tokens and their ids, and merges.txt, a merge a
// line. How text is split is not in them; class is tokenizer_class of
// tokenizer_config.json, which tells it: Qwen's splits as Qwen 2 does, all others
// as GPT-2 does. Errors name vocab.json and merges.txt by the files' names.
func ParseBPE(vocab, merges []byte, vocabFile, mergesFile, class string) (*Tokenizer, error) {
	d := strictjson.NewDecoder(vocabFile, string(vocab), 0)
	if err := d.CheckUTF8("vocabulary"); err != nil {
		return nil, err
	}
	t := &Tokenizer{ModelType: "BPE", UnkID: -1, file: vocabFile}
	p := parser{t: t, d: d}
	if err := p.vocab(); err != nil {
		return nil, err
	}
	if err := d.End(); err != nil {
		return nil, err
	}
	at := 0
	for line := range strings.Lines(string(merges)) {
		start := at
		at += len(line)
		line = strings.TrimRight(line, "\r\n")
		if line == "" || start == 0 && strings.HasPrefix(line, "#version") {
			continue
		}
		if !utf8.ValidString(line) {
			return nil, formats.Malformedf(mergesFile, int64(start), "merge %d not UTF-8", len(t.Merges))
		}
		if left, right, ok := strings.Cut(line, " "); !ok || left == "" || right == "" || strings.Contains(right, " ") {
			return nil, formats.Malformedf(mergesFile, int64(start), "merge %d: want two symbols and a space between, got %s",
				len(t.Merges), formats.Quote(line))
		}
		t.Merges = append(t.Merges, line)
	}
	t.PreTokenizer = json.RawMessage(`{"type":"ByteLevel","add_prefix_space":false,"use_regex":true}`)
	if strings.HasPrefix(class, "Qwen2Tokenizer") {
		pattern, err := json.Marshal(qwen2)
		if err != nil {
			return nil, err
		}
		t.Normalizer = json.RawMessage(`{"type":"NFC"}`)
		t.PreTokenizer = json.RawMessage(`{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":` + string(pattern) +
			`},"behavior":"Isolated","invert":false},{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]}`)
	}
	return t, nil
}
