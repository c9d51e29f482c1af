package hf

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/smeltgguf/smelt/formats"
)

// A Description is what tokenizer.json says about how text is prepared and
// split, and what tells models apart whose texts are split alike.
type Description struct {
	Normalizer   json.RawMessage // nil or null: none
	PreTokenizer json.RawMessage
	IgnoreMerges bool                    // model.ignore_merges
	ModelType    string                  // model_type of config.json
	Has          func(token string) bool // whether the vocabulary has a token; may be nil
	Size         int                     // tokens of the vocabulary, without added ones
}

// A known is a way to split and the names that llama.cpp has for it. Several
// models have each their name for one and the same way; which of them a
// conversion gets is told by the model.
type known struct {
	steps []string
	names []name // the first whose model it is; the first of all if it is none of them
}

type name struct {
	pre    string
	models []string // model_type
	tokens []string // a token of these is in the vocabulary
	// sizes is a range that the vocabulary's size lies in.
	sizes [2]int
	// merges: for models of no type above that do not ignore merges, where the
	// group's first name stands for ignoring them.
	merges bool
}

// The steps below are the regular expressions of the models' tokenizer.json, in
// the canonical spelling that canonical gives them.
const (
	contractions = `(?i:'s|'t|'re|'ve|'m|'ll|'d)`
	newlines     = `|\s*[\r\n]+`
	spaces       = `|\s+(?!\S)|\s+`
	otherLines   = `| ?[^\s\p{L}\p{N}]+[\r\n]*`
	gpt2         = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+` + spaces
	cl100k       = contractions + `|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}` + otherLines + newlines + spaces
	qwen2        = contractions + `|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}` + otherLines + newlines + spaces
	upperSet     = `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`
	lowerSet     = `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`
	notWord      = `[^\r\n\p{L}\p{N}]?`
	o200kWords   = notWord + upperSet + `*` + lowerSet + `+` + contractions + `?|` + notWord + upperSet + `+` + lowerSet + `*` + contractions + `?`
	o200kRest    = `| ?[^\s\p{L}\p{N}]+[\r\n/]*` + newlines + spaces
	o200k        = o200kWords + `|\p{N}{1,3}` + o200kRest
	tekken       = notWord + upperSet + `*` + lowerSet + `+|` + notWord + upperSet + `+` + lowerSet + `*|\p{N}` + o200kRest
	deepseek3    = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+" +
		`|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*` + newlines + spaces
	cjk       = `[一-龥぀-ゟ゠-ヿ]+`
	cjkWide   = `[一-龥ࠀ-一가-퟿]+`
	bloom     = ` ?[^(\s|[.,!?…。，、।۔،])]+`
	punctuate = `{punctuation}+`
)

var knowns = []known{
	{[]string{cl100k}, []name{
		{pre: "llama-bpe", models: []string{"llama", "smollm3"}, tokens: []string{"<|begin_of_text|>"}},
		{pre: "falcon-h1", models: []string{"falcon_h1"}},
		{pre: "lfm2", models: []string{"lfm2", "lfm2_moe"}},
		{pre: "chatglm-bpe", models: []string{"chatglm"}},
		{pre: "glm4", models: []string{"glm", "glm4", "glm4_moe", "glm4_moe_lite"}, tokens: []string{"[gMASK]"}},
		{pre: "dbrx", models: []string{"dbrx", "olmo2", "olmo3", "phi3", "granitemoehybrid", "granite", "granitemoe"}, sizes: [2]int{100_000, 101_000}},
		{pre: "smaug-bpe", merges: true},
	}},
	{[]string{qwen2}, []name{
		{pre: "qwen2", models: []string{"qwen2", "qwen2_moe", "qwen3", "qwen3_moe"}},
		{pre: "deepseek-r1-qwen", tokens: []string{"<｜User｜>"}},
		{pre: "stablelm2", models: []string{"stablelm"}},
		{pre: "hunyuan", models: []string{"hunyuan_v1_moe", "hunyuan"}},
		{pre: "grok-2", models: []string{"grok-2", "git"}},
		{pre: "solar-open", models: []string{"solar_open"}},
		{pre: "megrez", models: []string{"llama"}},
	}},
	{[]string{gpt2}, []name{
		{pre: "gpt-2", models: []string{"gpt2", "gpt_neo", "gptj"}},
		{pre: "phi-2", models: []string{"phi"}},
		{pre: "olmo", models: []string{"olmo", "gpt_neox", "olmoe"}},
		{pre: "mpt", models: []string{"mpt"}},
		{pre: "jais", models: []string{"jais"}},
		{pre: "exaone4", models: []string{"exaone4"}},
		{pre: "modern-bert", models: []string{"modernbert"}},
		{pre: "mellum", models: []string{"mellum"}},
	}},
	{[]string{`\p{N}`, gpt2}, []name{
		{pre: "starcoder", models: []string{"starcoder2", "gpt_bigcode"}},
		{pre: "refact", models: []string{"granite", "granitemoe", "granitemoeshared", "gpt_refact"}},
		{pre: "command-r", models: []string{"cohere", "cohere2"}},
		{pre: "smollm", models: []string{"llama"}},
		{pre: "codeshell", models: []string{"codeshell", "kclgpt"}},
		{pre: "exaone", models: []string{"exaone"}},
		{pre: "minerva-7b", models: []string{"mistral"}},
	}},
	{[]string{punctuate, gpt2, `\p{N}+`, `[0-9][0-9][0-9]`}, []name{{pre: "falcon"}}},
	{[]string{o200k}, []name{
		{pre: "gpt-4o"},
		{pre: "llama4", models: []string{"llama4", "llama4_text"}},
		{pre: "kanana2", models: []string{"deepseek_v3"}},
		{pre: "minimax-m2", models: []string{"minimax", "minimax_m2"}},
	}},
	{[]string{tekken}, []name{{pre: "tekken"}}},
	{[]string{`\p{N}{1,3}`, cjk, deepseek3}, []name{
		{pre: "deepseek-v3"},
		{pre: "hunyuan-dense", models: []string{"hunyuan_v1_dense"}},
		{pre: "joyai-llm", models: []string{"joyai_llm"}},
	}},
	{[]string{`[\r\n]`, `\s?\p{L}+`, `\s?\p{P}+`, cjkWide, `\p{N}`}, []name{{pre: "deepseek-coder"}}},
	// Digits are split one by one in some of these; no token has two of them.
	{[]string{`[\r\n]`, `\s?[` + casedLetters + `]+`, `\s?[!-/:-~！-／：-～‘-‟\u3000-。]+`, `\s+$`, cjkWide, `\p{N}+`}, []name{{pre: "deepseek-llm"}}},
	{[]string{`[\r\n]`, `\s?[` + casedLetters + `]+`, `\s?[!-/:-~！-／：-～‘-‟\u3000-。]+`, `\s+$`, cjkWide, `\p{N}`}, []name{{pre: "deepseek-llm"}}},
	{[]string{bloom}, []name{
		{pre: "bloom"},
		{pre: "gpt3-finnish", models: []string{"gpt3-finnish"}},
	}},
	{[]string{bloom, `\p{N}`}, []name{{pre: "viking"}}},
	{[]string{contractions + `|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*` + newlines + spaces}, []name{{pre: "qwen35"}}},
	{[]string{`'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}` + otherLines + `|\s*[\r\n]` + spaces}, []name{
		{pre: "bailingmoe"},
		{pre: "bailingmoe2", models: []string{"bailing_moe_v2", "bailing_moe_linear"}},
		{pre: "llada-moe", models: []string{"llada"}},
	}},
	{[]string{contractions + `|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+` + newlines + spaces}, []name{{pre: "seed-coder"}}},
	{[]string{`\p{N}{1,3}`, contractions + `|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+` + otherLines + newlines + spaces}, []name{{pre: "minicpm5"}}},
	{[]string{contractions + `|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]` + spaces}, []name{{pre: "exaone-moe"}}},
	{[]string{`\d{1,3}(?=(?:\d{3})*\b)`, o200k}, []name{{pre: "tiny_aya"}, {pre: "cohere2moe", models: []string{"cohere2_moe"}}}},
	{[]string{contractions + `|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}` + otherLines + newlines +
		`|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s`}, []name{{pre: "jais-2"}}},
	{[]string{`[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+`, o200kWords + `|\p{N}` + o200kRest}, []name{{pre: "youtu"}}},
	{[]string{`\p{N}+`, `(?=(\d{3})+(?!\d))`}, []name{{pre: "superbpe"}}},
}

// casedLetters is how DeepSeek LLM's pattern lists the letters that have case.
const casedLetters = `A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-` +
	"\u1f7d" + `ᾀ-ᾴᾶ-ᾼ` + "\u1fbe" + `ῂ-ῄῆ-ῌῐ-` + "\u1fd3" + `ῖ-` + "\u1fdb" + `ῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ` + "\u2126" + `ℨ` + "\u212a" +
	`-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃`

// PreTokenizer returns the name that llama.cpp has for the way in which a
// byte-level BPE splits text, the value of tokenizer.ggml.pre. It is found by
// what tokenizer.json says: its split patterns in order are compared with those
// of the known models. file names tokenizer.json in errors.
func PreTokenizer(d Description, file string) (string, error) {
	steps, err := d.steps()
	if err == nil {
		for _, k := range knowns {
			if slices.EqualFunc(k.steps, steps, func(a, b string) bool { return canonical(a) == b }) {
				return k.name(d), nil
			}
		}
		err = fmt.Errorf("unknown pre-tokenizer")
	}
	return "", formats.Unsupportedf(file, -1, "%v: normalizer %s, pre_tokenizer %s", err, describe(d.Normalizer), describe(d.PreTokenizer)).
		WithHint("name one that splits alike: --pre NAME")
}

// name picks the name of the model.
func (k *known) name(d Description) string {
	for _, n := range k.names {
		if slices.ContainsFunc(n.tokens, func(t string) bool { return d.Has != nil && d.Has(t) }) ||
			n.sizes[0] <= d.Size && d.Size < n.sizes[1] {
			return n.pre
		}
	}
	for _, n := range k.names {
		if slices.Contains(n.models, d.ModelType) {
			return n.pre
		}
	}
	for _, n := range k.names {
		if n.merges && !d.IgnoreMerges {
			return n.pre
		}
	}
	return k.names[0].pre
}

// describe returns JSON on one line, capped.
func describe(raw json.RawMessage) string {
	const limit = 2000
	var b bytes.Buffer
	if json.Compact(&b, raw) != nil || b.Len() == 0 {
		return "null"
	}
	if s := b.String(); len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(b.String()[:limit], "") + "..."
}

// component is a normalizer or a pre-tokenizer of tokenizer.json.
type component struct {
	Type           string      `json:"type"`
	Normalizers    []component `json:"normalizers"`
	PreTokenizers  []component `json:"pretokenizers"`
	AddPrefixSpace bool        `json:"add_prefix_space"` // ByteLevel
	UseRegex       *bool       `json:"use_regex"`        // ByteLevel; true if it is missing
	Individual     bool        `json:"individual_digits"`
	Behavior       string      `json:"behavior"` // Split, Punctuation
	Invert         bool        `json:"invert"`
	Pattern        struct {
		Regex  *string
		String *string
	} `json:"pattern"`
	Content string `json:"content"` // Replace
	// Precompiled; base64 in the file
	PrecompiledCharsmap []byte `json:"precompiled_charsmap"`
	Prepend             string `json:"prepend"` // Prepend

	Replacement   string `json:"replacement"`    // Metaspace
	PrependScheme string `json:"prepend_scheme"` // Metaspace
	Split         *bool  `json:"split"`          // Metaspace
}

// parseComponents reads a normalizer or pre-tokenizer as a flat list.
func parseComponents(raw json.RawMessage) ([]component, error) {
	if len(raw) == 0 || strings.TrimSpace(string(raw)) == "null" {
		return nil, nil
	}
	var c component
	if err := json.Unmarshal(raw, &c); err != nil {
		return nil, err
	}
	var flat []component
	var walk func(c component, depth int)
	walk = func(c component, depth int) {
		if c.Type == "Sequence" && depth < 8 {
			for _, sub := range slices.Concat(c.Normalizers, c.PreTokenizers) {
				walk(sub, depth+1)
			}
			return
		}
		flat = append(flat, c)
	}
	walk(c, 0)
	return flat, nil
}

// steps returns the split patterns in order.
func (d Description) steps() ([]string, error) {
	normalizers, err := parseComponents(d.Normalizer)
	if err != nil {
		return nil, fmt.Errorf("normalizer: %w", err)
	}
	for _, n := range normalizers {
		// llama.cpp composes no characters; texts are nearly always in NFC.
		if n.Type != "NFC" {
			return nil, fmt.Errorf("unknown normalizer %s", formats.Quote(n.Type))
		}
	}
	parts, err := parseComponents(d.PreTokenizer)
	if err != nil {
		return nil, fmt.Errorf("pre_tokenizer: %w", err)
	}
	var steps []string
	byteLevel := false
	for _, p := range parts {
		switch {
		case p.Type == "ByteLevel" && !p.AddPrefixSpace:
			byteLevel = true
			if p.UseRegex == nil || *p.UseRegex {
				steps = append(steps, gpt2)
			}
		case p.Type == "Digits" && p.Individual:
			steps = append(steps, `\p{N}`)
		case p.Type == "Digits":
			steps = append(steps, `\p{N}+`)
		case p.Type == "Punctuation" && p.Behavior == "Contiguous":
			steps = append(steps, punctuate)
		// A pattern that matches all text splits it no matter whether the
		// matches or what lies between them are kept apart.
		case p.Type == "Split" && p.Pattern.Regex != nil && (p.Behavior == "Isolated" && !p.Invert || p.Behavior == "Removed" && p.Invert):
			steps = append(steps, canonical(*p.Pattern.Regex))
		default:
			return nil, fmt.Errorf("unknown pre-tokenizer %s", formats.Quote(p.Type))
		}
	}
	if !byteLevel {
		return nil, fmt.Errorf("pre-tokenizer without ByteLevel")
	}
	return steps, nil
}

// canonical spells a regular expression in one of the ways in which the same is
// written.
var canonical = strings.NewReplacer(
	"\r", `\r`, "\n", `\n`, "\t", `\t`,
	`(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])`, contractions,
	// Possessive quantifiers differ from greedy ones where what follows could
	// match the same characters, which it cannot in these patterns.
	`?+`, `?`, `++`, `+`, `*+`, `*`,
	`{1}`, ``,
	`[\p{L}]`, `\p{L}`, `[\p{N}]`, `\p{N}`,
	"\u3000", `\u3000`, `\x{3000}`, `\u3000`,
).Replace
