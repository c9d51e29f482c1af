package hf

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/formats/strictjson"
	"github.com/smeltgguf/smelt/internal/tokenizer"
)

// Ranks is a byte-level BPE as tiktoken has it: a list of tokens, in which a
// token's rank is its id and the order in which merges make it.
type Ranks struct {
	Tokens  []string // bytes by rank
	Special []AddedToken
	file    string
}

// LooksTiktoken reports whether a tokenizer.model is in tiktoken's format and
// not in SentencePiece's: its first line is a base64 text and a number.
func LooksTiktoken(data []byte) bool {
	line, _, _ := strings.Cut(string(data[:min(len(data), 256)]), "\n")
	text, rank, ok := strings.Cut(strings.TrimRight(line, "\r"), " ")
	if !ok || text == "" || rank == "" {
		return false
	}
	if _, err := base64.StdEncoding.DecodeString(text); err != nil {
		return false
	}
	_, err := strconv.ParseUint(rank, 10, 32)
	return err == nil
}

// ParseTiktoken reads tiktoken's format, one token a line: its bytes in base64,
// a space and its rank. Ranks count from 0 without holes.
func ParseTiktoken(data []byte, file string) (*Ranks, error) {
	r := &Ranks{file: file}
	at := 0
	for line := range strings.Lines(string(data)) {
		start := at
		at += len(line)
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			continue
		}
		text, rank, ok := strings.Cut(line, " ")
		token, err := base64.StdEncoding.DecodeString(text)
		if !ok || err != nil || len(token) == 0 {
			return nil, formats.Malformedf(file, int64(start), "token %d: want base64 and a rank, got %s", len(r.Tokens), formats.Quote(line))
		}
		if n, err := strconv.ParseUint(rank, 10, 32); err != nil || n != uint64(len(r.Tokens)) {
			return nil, formats.Malformedf(file, int64(start), "token %d has rank %s", len(r.Tokens), formats.Quote(rank))
		}
		r.Tokens = append(r.Tokens, string(token))
	}
	return r, r.check()
}

// check looks for what cannot be a vocabulary.
func (r *Ranks) check() error {
	if len(r.Tokens) == 0 {
		return formats.Malformedf(r.file, -1, "no tokens")
	}
	seen := make(map[string]int32, len(r.Tokens))
	for i, token := range r.Tokens {
		if len(token) > tokenizer.MaxTokenLen {
			return formats.Malformedf(r.file, -1, "token %d: %d bytes exceed %d", i, len(token), tokenizer.MaxTokenLen)
		}
		if j, ok := seen[token]; ok {
			return formats.Malformedf(r.file, -1, "tokens %d and %d are both %s", j, i, formats.Quote(token))
		}
		seen[token] = int32(i)
	}
	for b := range 256 {
		if _, ok := seen[string([]byte{byte(b)})]; !ok {
			return formats.Malformedf(r.file, -1, "no token for byte %#02x", b)
		}
	}
	return nil
}

// Llama3Special returns the special tokens of Llama 3, which its tokenizer.model
// does not hold: 256 from id base on. Llama 3.1 gave names to some of those that
// 3.0 had in reserve.
func Llama3Special(base int, v31 bool) []AddedToken {
	names := map[int]string{0: "<|begin_of_text|>", 1: "<|end_of_text|>", 6: "<|start_header_id|>", 7: "<|end_header_id|>", 9: "<|eot_id|>"}
	if v31 {
		names[4], names[8], names[10] = "<|finetune_right_pad_id|>", "<|eom_id|>", "<|python_tag|>"
	}
	special := make([]AddedToken, 256)
	reserved := 0
	for i := range special {
		name, ok := names[i]
		if !ok {
			name = fmt.Sprintf("<|reserved_special_token_%d|>", reserved)
			reserved++
		}
		special[i] = AddedToken{ID: base + i, Content: name, Special: true}
	}
	return special
}

// tekkenFillers is the number of special tokens that Mistral's tokenizers of this
// kind have where the file does not say so.
const tekkenFillers = 1000

// ParseTekken reads Mistral's tekken.json. Special tokens come first; a token's id
// is its rank plus their number.
func ParseTekken(data []byte, file string) (*Ranks, error) {
	d := strictjson.NewDecoder(file, string(data), 0)
	if err := d.CheckUTF8("tokenizer"); err != nil {
		return nil, err
	}
	r := &Ranks{file: file}
	size, specials := uint64(math.MaxUint32), uint64(tekkenFillers)
	names := map[int]string{}
	err := d.Object(func(key string) error {
		switch key {
		case "config":
			return d.Object(func(key string) error {
				var err error
				switch key {
				case "default_vocab_size":
					size, err = d.Uint()
				case "default_num_special_tokens":
					specials, err = d.Uint()
				default:
					_, err = d.Value()
				}
				return err
			})
		case "vocab":
			return r.tekkenVocab(d)
		case "special_tokens":
			if d.Peek() != '[' {
				_, err := d.Value()
				return err
			}
			return tekkenSpecial(d, names)
		}
		_, err := d.Value()
		return err
	})
	if err == nil {
		err = d.End()
	}
	if err != nil {
		return nil, err
	}
	if specials > maxID || size < specials {
		return nil, formats.Malformedf(file, -1, "%d special tokens in a vocabulary of %d", specials, size)
	}
	if specials > uint64(len(data)) { // every one of them costs memory
		return nil, formats.Malformedf(file, -1, "%d special tokens", specials)
	}
	if n := size - specials; n < uint64(len(r.Tokens)) {
		r.Tokens = r.Tokens[:n] // the file has more than the model uses
	}
	if len(names) == 0 {
		for i, name := range []string{"<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]",
			"[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]",
			"[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"} {
			if uint64(i) < specials {
				names[i] = name
			}
		}
	}
	for i := range int(specials) {
		name, ok := names[i]
		if !ok {
			name = fmt.Sprintf("<SPECIAL_%d>", i)
		}
		r.Special = append(r.Special, AddedToken{ID: i, Content: name, Special: true})
		delete(names, i)
	}
	for id, name := range names {
		if id >= int(specials) {
			return nil, formats.Malformedf(file, -1, "special token %s: rank %d of %d", formats.Quote(name), id, specials)
		}
	}
	return r, r.check()
}

func (r *Ranks) tekkenVocab(d *strictjson.Decoder) error {
	return d.Array(func() error {
		rank, token := uint64(math.MaxUint64), []byte(nil)
		err := d.Object(func(key string) error {
			var err error
			switch key {
			case "rank":
				rank, err = d.Uint()
			case "token_bytes":
				var s string
				if s, err = d.String(); err != nil {
					return err
				}
				if token, err = base64.StdEncoding.DecodeString(s); err != nil || len(token) == 0 {
					return d.Errorf("token %d: bad base64", len(r.Tokens))
				}
			default:
				_, err = d.Value()
			}
			return err
		})
		switch {
		case err != nil:
			return err
		case rank != uint64(len(r.Tokens)):
			return d.Errorf("token %d has another rank", len(r.Tokens))
		case token == nil:
			return d.Errorf("token %d has no bytes", rank)
		}
		r.Tokens = append(r.Tokens, string(token))
		return nil
	})
}

func tekkenSpecial(d *strictjson.Decoder, names map[int]string) error {
	return d.Array(func() error {
		rank, text := uint64(math.MaxUint64), ""
		err := d.Object(func(key string) error {
			var err error
			switch key {
			case "rank":
				rank, err = d.Uint()
			case "token_str":
				text, err = d.String()
			default:
				_, err = d.Value()
			}
			return err
		})
		switch {
		case err != nil:
			return err
		case rank >= maxID || text == "":
			return d.Errorf("special token without a rank or a text")
		}
		if old, ok := names[int(rank)]; ok {
			return d.Errorf("id %d: %s and %s", rank, formats.Quote(old), formats.Quote(text))
		}
		names[int(rank)] = text
		return nil
	})
}

// Merges returns the merges that make the tokens, in the form of merges.txt:
// every pair of tokens that a token consists of, in the order of the tokens that
// they make, then of the left and the right token.
func (r *Ranks) Merges() []string {
	ranks := make(map[string]int32, len(r.Tokens))
	for i, token := range r.Tokens {
		ranks[token] = int32(i)
	}
	type pair struct{ left, right int32 }
	var merges []string
	var local []pair
	var lens [tokenizer.MaxTokenLen + 1]bool
	texts := make([]string, len(r.Tokens)) // in byte-level BPE's alphabet
	for i, token := range r.Tokens {
		texts[i] = tokenizer.ByteText(token)
		lens[len(token)] = true
	}
	for _, token := range r.Tokens {
		local = local[:0]
		for j := 1; j < len(token); j++ {
			if !lens[j] || !lens[len(token)-j] {
				continue
			}
			left, ok := ranks[token[:j]]
			if !ok {
				continue
			}
			if right, ok := ranks[token[j:]]; ok {
				local = append(local, pair{left, right})
			}
		}
		slices.SortFunc(local, func(a, b pair) int { return cmp.Or(cmp.Compare(a.left, b.left), cmp.Compare(a.right, b.right)) })
		for _, p := range local {
			merges = append(merges, texts[p.left]+" "+texts[p.right])
		}
	}
	return merges
}

// Vocab returns the vocabulary for package tokenizer; pre names the
// pre-tokenizer. Special tokens come before or after the others, wherever their
// ids are.
func (r *Ranks) Vocab(pre string) (*tokenizer.Vocab, error) {
	v, err := tokenizer.NewVocab("gpt2", pre)
	if err != nil {
		return nil, formats.Unsupportedf(r.file, -1, "%v", err)
	}
	base := 0
	if len(r.Special) > 0 && r.Special[0].ID == 0 {
		base = len(r.Special)
	}
	n := len(r.Tokens) + len(r.Special)
	v.Tokens, v.Types = make([]string, n), make([]tokenizer.Type, n)
	for i, token := range r.Tokens {
		v.Tokens[base+i], v.Types[base+i] = tokenizer.ByteText(token), tokenizer.Normal
	}
	v.BOS, v.EOS = tokenizer.None, tokenizer.None
	for _, s := range r.Special {
		if s.ID < 0 || s.ID >= n || v.Tokens[s.ID] != "" {
			return nil, formats.Malformedf(r.file, -1, "special token %s: id %d is taken or leaves a hole", formats.Quote(s.Content), s.ID)
		}
		v.Tokens[s.ID], v.Types[s.ID] = s.Content, tokenizer.Control
		switch s.Content {
		case "<s>", "<|begin_of_text|>":
			v.BOS = int32(s.ID)
		case "</s>", "<|end_of_text|>":
			v.EOS = int32(s.ID)
		case "<unk>":
			v.UNK = int32(s.ID)
		case "<pad>":
			v.PAD = int32(s.ID)
		}
	}
	v.AddBOS = v.AddBOS && v.BOS != tokenizer.None
	v.Merges = r.Merges()
	v.ExactTypes = true
	return v, nil
}
