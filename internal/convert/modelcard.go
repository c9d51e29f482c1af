package convert

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/goccy/go-yaml"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/formats/gguf"
	"github.com/smeltgguf/smelt/internal/checkpoint"
)

// card is what is known about a model besides its weights, from weakest to
// strongest source: the directory's name, config.json's _name_or_path, the
// model card's front matter, generation_config.json (sampling only), the
// metadata file, the model name given by the person. The keys are GGUF's
// without "general.".
type card struct {
	fields   map[string]any // string, or the type that the key has
	base     []map[string]string
	datasets []map[string]string
	tags     []string
	langs    []string
	notes    []string // what was passed over

	// params is the number of parameters, negative for an adapter, whose base
	// is larger; 0: unknown.
	params int64
}

// samplingKeys are generation_config.json's keys and what they become.
var samplingKeys = []struct {
	from, to string
	integer  bool
}{
	{"sequence", "sampling.sequence", false},
	{"top_k", "sampling.top_k", true},
	{"top_p", "sampling.top_p", false},
	{"min_p", "sampling.min_p", false},
	{"xtc_probability", "sampling.xtc_probability", false},
	{"xtc_threshold", "sampling.xtc_threshold", false},
	{"temperature", "sampling.temp", false},
	{"penalty_last_n", "sampling.penalty_last_n", true},
	{"penalty_repeat", "sampling.penalty_repeat", false},
	{"repetition_penalty", "sampling.penalty_repeat", false},
	{"mirostat", "sampling.mirostat", true},
	{"mirostat_tau", "sampling.mirostat_tau", false},
	{"mirostat_eta", "sampling.mirostat_eta", false},
}

// cardKeys are front matter's keys and what they become; for each key the first
// one that is there counts.
var cardKeys = [][2]string{
	{"name", "name"}, {"author", "author"}, {"version", "version"}, {"organization", "organization"},
	{"description", "description"}, {"finetune", "finetune"}, {"basename", "basename"}, {"size_label", "size_label"},
	{"url", "source.url"}, {"doi", "source.doi"}, {"uuid", "source.uuid"}, {"repo_url", "source.repo_url"},
	{"model_name", "name"}, {"model_author", "author"}, {"model_version", "version"}, {"model_organization", "organization"},
	{"model_description", "description"}, {"model_finetune", "finetune"}, {"model_basename", "basename"}, {"model_size_label", "size_label"},
	{"model_url", "source.url"}, {"model_doi", "source.doi"}, {"model_uuid", "source.uuid"}, {"model_repo_url", "source.repo_url"},
	{"model_creator", "author"}, {"model_type", "basename"},
	{"license", "license"}, {"license_name", "license.name"}, {"license_link", "license.link"},
}

// order is the order of the keys in the file.
var (
	fieldsBefore = []string{"name", "author", "version", "organization", "finetune", "basename", "description", "quantized_by",
		"size_label", "license", "license.name", "license.link", "url", "doi", "uuid", "repo_url",
		"source.url", "source.doi", "source.uuid", "source.repo_url"}
	sourceFields = []string{"name", "author", "version", "organization", "description", "url", "doi", "uuid", "repo_url"}
)

// readCard gathers what the checkpoint's files say.
func readCard(ck *checkpoint.Checkpoint, params int64) (*card, error) {
	c := &card{fields: map[string]any{}, params: params}
	if err := c.frontMatter(ck); err != nil {
		return nil, err
	}
	if config, err := ck.JSON("config.json"); err == nil {
		// A path on somebody's machine says nothing; "org/model" does.
		if id, ok := config["_name_or_path"].(string); ok && strings.Count(id, "/") <= 1 {
			c.fromID(id)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if dir, err := filepath.Abs(filepath.Dir(ck.File("config.json"))); err == nil {
		c.fromID(filepath.Base(dir))
		if _, ok := c.fields["name"]; !ok {
			c.fields["name"] = filepath.Base(dir)
		}
	}
	gen, err := ck.JSON("generation_config.json")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.notes = append(c.notes, "generation_config.json was passed over: "+err.Error())
	}
	for _, k := range samplingKeys {
		c.sampling(k.to, gen[k.from], k.integer)
	}
	return c, nil
}

func (c *card) sampling(key string, v any, integer bool) {
	switch v := v.(type) {
	case json.Number:
		f, err := v.Float64()
		switch {
		case err != nil:
		case integer && f == math.Trunc(f) && math.Abs(f) <= math.MaxInt32:
			c.fields[key] = int32(f)
		case !integer && key != "sampling.sequence":
			c.fields[key] = float32(f)
		}
	case string:
		if key == "sampling.sequence" {
			c.fields[key] = v
		}
	}
}

// override reads a metadata file: a JSON object of GGUF keys.
func (c *card) override(file string, data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var o map[string]any
	if err := dec.Decode(&o); err != nil {
		return formats.Malformedf(file, -1, "want a JSON object of metadata: %v", err)
	}
	for key, v := range o {
		short, ok := strings.CutPrefix(key, "general.")
		if !ok {
			return formats.Unsupportedf(file, -1, "key %s: only general.* can be given", formats.Quote(key))
		}
		switch i := slices.IndexFunc(samplingKeys, func(s struct {
			from, to string
			integer  bool
		}) bool {
			return s.to == short
		}); {
		case i >= 0:
			c.sampling(short, v, samplingKeys[i].integer)
		case short == "base_models":
			c.base = sources(v)
		case short == "datasets":
			c.datasets = sources(v)
		case short == "tags":
			c.tags = texts(v)
		case short == "languages":
			c.langs = texts(v)
		case slices.Contains(fieldsBefore, short):
			s, ok := scalar(v)
			if !ok {
				return formats.Malformedf(file, -1, "key %s: want a string", formats.Quote(key))
			}
			c.fields[short] = s
		default:
			return formats.Unsupportedf(file, -1, "key %s is not known", formats.Quote(key))
		}
	}
	return nil
}

// write writes the keys, sampling first.
func (c *card) write(meta *gguf.Metadata) {
	put := func(key string) {
		if v, ok := c.fields[key]; ok {
			meta.Set("general."+key, v)
		}
	}
	for _, k := range samplingKeys {
		put(k.to)
	}
	for _, k := range fieldsBefore {
		put(k)
	}
	writeSources(meta, "general.base_model.", c.base)
	writeSources(meta, "general.dataset.", c.datasets)
	if len(c.tags) > 0 {
		meta.Set("general.tags", c.tags)
	}
	if len(c.langs) > 0 {
		meta.Set("general.languages", c.langs)
	}
}

func writeSources(meta *gguf.Metadata, prefix string, list []map[string]string) {
	if list == nil {
		return
	}
	meta.Set(prefix+"count", uint32(len(list)))
	for i, e := range list {
		for _, k := range sourceFields {
			if v, ok := e[k]; ok {
				meta.Set(fmt.Sprintf("%s%d.%s", prefix, i, k), v)
			}
		}
	}
}

// frontMatter reads the YAML between the first two lines "---" of README.md
// (huggingface.co/docs/hub/model-cards).
func (c *card) frontMatter(ck *checkpoint.Checkpoint) error {
	const file = "README.md"
	data, err := ck.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	text := strings.ReplaceAll(string(bytes.TrimPrefix(data, []byte("\ufeff"))), "\r\n", "\n")
	text, ok := strings.CutPrefix(text, "---\n")
	if !ok {
		return nil
	}
	if i := strings.Index("\n"+text, "\n---\n"); i >= 0 {
		text = text[:i]
	}
	var m map[string]any
	if err := yaml.Unmarshal([]byte(strings.ReplaceAll(text, "\t", "  ")), &m); err != nil {
		c.notes = append(c.notes, "the model card's front matter was passed over: it is no YAML mapping")
		return nil
	}
	for _, k := range cardKeys {
		if _, ok := c.fields[k[1]]; ok {
			continue
		}
		if list := texts(m[k[0]]); k[0] == "license" && len(list) > 1 {
			c.fields[k[1]] = strings.Join(list, ",")
		} else if s, ok := scalar(m[k[0]]); ok {
			c.fields[k[1]] = s
		} else if len(list) == 1 {
			c.fields[k[1]] = list[0]
		}
	}
	c.base = c.models(m, "base_model", "base_models", "base_model_sources")
	c.datasets = c.models(m, "datasets", "dataset", "dataset_sources")
	for _, k := range []string{"tags", "pipeline_tag"} {
		c.tags = append(c.tags, texts(m[k])...)
	}
	for _, k := range []string{"languages", "language"} {
		c.langs = append(c.langs, texts(m[k])...)
	}
	return nil
}

// scalar returns a YAML or JSON scalar as text.
func scalar(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case json.Number:
		return v.String(), true
	case bool, int, int64, uint64, float64:
		return fmt.Sprint(v), true
	}
	return "", false
}

// texts returns a text or a list of texts as a list.
func texts(v any) []string {
	if s, ok := scalar(v); ok {
		return []string{s}
	}
	list, _ := v.([]any)
	var out []string
	for _, e := range list {
		if s, ok := scalar(e); ok {
			out = append(out, s)
		}
	}
	return out
}

// sources returns a list of objects that describe models or data sets.
func sources(v any) []map[string]string {
	list, _ := v.([]any)
	out := []map[string]string{}
	for _, e := range list {
		o, _ := e.(map[string]any)
		m := map[string]string{}
		for k, val := range o {
			if s, ok := scalar(val); ok {
				m[k] = s
			}
		}
		out = append(out, m)
	}
	return out
}

var hubURL = regexp.MustCompile(`^https?://huggingface\.co/([^/]+/[^/]+)$`)

// models reads the first of keys that is there: ids or links of models or data
// sets, or objects that describe them.
func (c *card) models(m map[string]any, keys ...string) []map[string]string {
	i := slices.IndexFunc(keys, func(k string) bool { _, ok := m[k]; return ok })
	if i < 0 {
		return nil
	}
	list, ok := m[keys[i]].([]any)
	if !ok {
		list = []any{m[keys[i]]}
	}
	out := []map[string]string{}
	for _, e := range list {
		if o, ok := e.(map[string]any); ok {
			out = append(out, sources([]any{o})...)
			continue
		}
		id, ok := e.(string)
		if !ok {
			continue
		}
		entry := map[string]string{}
		isURL := strings.HasPrefix(id, "http://") || strings.HasPrefix(id, "https://") || strings.HasPrefix(id, "ssh://")
		if isURL {
			entry["repo_url"] = id
			hub := hubURL.FindStringSubmatch(id)
			if hub == nil {
				out = append(out, entry)
				continue
			}
			id = hub[1]
		}
		p := parseID(id, c.params)
		if p.full != "" {
			entry["name"] = title(p.full)
		}
		if p.org != "" {
			entry["organization"] = title(p.org)
		}
		if p.version != "" {
			entry["version"] = p.version
		}
		if !isURL && p.org != "" && p.full != "" {
			entry["repo_url"] = "https://huggingface.co/" + p.org + "/" + p.full
		}
		out = append(out, entry)
	}
	return out
}

// fromID fills what is not known yet from the model's id.
func (c *card) fromID(id string) {
	p := parseID(id, c.params)
	for _, f := range [][2]string{
		{"name", title(p.full)}, {"organization", title(p.org)}, {"basename", p.base},
		{"finetune", p.finetune}, {"version", p.version}, {"size_label", p.size},
	} {
		if _, ok := c.fields[f[0]]; !ok && f[1] != "" {
			c.fields[f[0]] = f[1]
		}
	}
}

var versionWord = regexp.MustCompile(`^(v\d+(?:\.\d+)*|\d.*)$`)

// title makes a readable name of an id: "llama-2-7b-hf" -> "Llama 2 7b Hf".
// Words with capitals, versions and numbers stay as they are.
func title(id string) string {
	words := strings.Fields(strings.ReplaceAll(id, "-", " "))
	for i, w := range words {
		if strings.ToLower(w) == w && strings.ToUpper(w) != w && !versionWord.MatchString(w) {
			prev := false
			words[i] = strings.Map(func(r rune) rune {
				if !prev && unicode.IsLetter(r) {
					r = unicode.ToTitle(r)
				}
				prev = unicode.IsLetter(r)
				return r
			}, w)
		}
	}
	return strings.Join(words, " ")
}

// idParts is what a model's id says, by the conventions of the hub:
// org/Basename-Size-Finetune-version.
type idParts struct {
	full, org, base, finetune, version, size string
}

type wordKind uint8

const (
	isBase wordKind = 1 << iota
	isSize
	isFinetune
	isVersion
	isType
)

var (
	idVersion  = regexp.MustCompile(`(?i)^(v|iter)?\d+([.]\d+)*$`)
	idType     = regexp.MustCompile(`(?i)^(i?q\d(_\w)*|b?fp?(16|32))$`)
	idSize     = regexp.MustCompile(`(?i)^(([A]|\d+[x])?\d+([._]\d+)?[KMBT][\d]?|small|mini|medium|large|x?xl)$`)
	idFinetune = regexp.MustCompile(`(?i)^(chat|instruct|vision|lora)$`)
)

func isDigit(b byte) bool { return '0' <= b && b <= '9' }

// parseID takes a model's id apart. params, if not 0, tells sizes from context
// lengths ("128k").
func parseID(id string, params int64) idParts {
	var p idParts
	if id == "" {
		return p
	}
	if strings.Contains(id, " ") { // a sentence
		p.full = id
		return p
	}
	p.full = id
	if org, rest, ok := strings.Cut(id, "/"); ok {
		p.full = rest
		if !strings.HasPrefix(org, ".") {
			p.org = org
		}
	}
	words := slices.DeleteFunc(strings.Split(p.full, "-"), func(s string) bool { return s == "" })
	kinds := make([]wordKind, len(words))
	numberedSize := false
	for i, w := range words {
		switch {
		case idVersion.MatchString(w):
			kinds[i] = isVersion
		case idType.MatchString(w):
			kinds[i] = isType
			words[i] = strings.ToUpper(w)
		case i > 0 && idSize.MatchString(w):
			words[i], kinds[i] = sizeWord(w, params)
			numberedSize = numberedSize || kinds[i] == isSize && strings.ContainsAny(words[i], "0123456789")
		case i > 0 && idFinetune.MatchString(w):
			kinds[i] = isFinetune
			if params < 0 && strings.EqualFold(w, "lora") {
				kinds[i] = isType
			}
		}
	}
	if numberedSize { // "mini" and the like then say no more
		for i, w := range words {
			if kinds[i] == isSize && !strings.ContainsAny(w, "0123456789._") {
				kinds[i] = 0
			}
		}
	}
	start := true
	for i, w := range words {
		first := rune(w[0])
		for _, r := range w {
			first = r
			break
		}
		switch {
		case start && (kinds[i] == 0 && unicode.IsLetter(first) || kinds[i] == isVersion):
			kinds[i] |= isBase
		default:
			start = false
			if kinds[i] == 0 {
				kinds[i] = isFinetune
			}
		}
	}
	// A version at the end of the base name is the model's version.
	for i := len(words) - 1; i >= 0 && kinds[i] == isBase|isVersion; i-- {
		kinds[i] = isVersion
	}
	var parts [5][]string
	for i, w := range words {
		switch k := kinds[i]; {
		case k&isBase != 0:
			parts[0] = append(parts[0], w)
		case k == isSize && !slices.Contains(parts[1], w):
			parts[1] = append(parts[1], w)
		case k == isFinetune:
			parts[2] = append(parts[2], w)
		case k == isVersion:
			parts[3] = append(parts[3], w)
		}
	}
	p.size, p.finetune, p.version = strings.Join(parts[1], "-"), strings.Join(parts[2], "-"), strings.Join(parts[3], "-")
	if p.size != "" || p.finetune != "" || p.version != "" {
		p.base = strings.Join(parts[0], "-")
	}
	return p
}

// sizeWord normalizes a size ("7b1" -> "7.1B") and says whether it is one.
func sizeWord(w string, params int64) (string, wordKind) {
	w = strings.ReplaceAll(w, "_", ".")
	if n := len(w); isDigit(w[n-1]) {
		w = w[:n-2] + "." + w[n-1:] + w[n-2:n-1]
	}
	if n := len(w); n > 1 && isDigit(w[n-2]) {
		w = w[:n-1] + strings.ToUpper(w[n-1:])
	}
	if params == 0 {
		return w, isSize
	}
	n := len(w)
	num, err := strconv.ParseFloat(w[:n-1], 64)
	if err != nil {
		return w, isSize
	}
	label := num * math.Pow(1000, float64(strings.IndexByte(" KMBT", w[n-1])))
	total := math.Abs(float64(params))
	if params < 0 && label < math.Floor(total/8) ||
		params > 0 && math.Abs(label-total) > math.Floor(7*total/8) {
		return w[:n-1] + strings.ToLower(w[n-1:]), isFinetune
	}
	return w, isSize
}

// paramCounts are numbers of parameters.
type paramCounts struct {
	total, shared, expert int64 // expert: of one expert
	experts               int
}

// count counts the parameters of tensors by name and shape, outermost
// dimension first.
func (p *paramCounts) count(names []string, shapes [][]int) {
	expertSum, expertTensors := 0, 0
	for i, name := range names {
		shape := shapes[i]
		size := int64(1)
		for _, d := range shape {
			size *= int64(d)
		}
		if strings.Contains(name, "_exps.") && len(shape) >= 3 {
			n := shape[len(shape)-3]
			if strings.Contains(name, ".bias") {
				n = shape[len(shape)-2]
			}
			p.expert += size / int64(n)
			expertSum += n
			expertTensors++
		} else {
			p.shared += size
		}
		p.total += size
	}
	if expertTensors > 0 {
		p.experts = expertSum / expertTensors
	}
}

// label returns the size as people write it: "7.1B", "8x7B".
func (p *paramCounts) label() string {
	if p.experts > 0 {
		return fmt.Sprintf("%dx%s", p.experts, rounded(p.shared+p.expert))
	}
	return rounded(p.total)
}

// rounded writes a count with a suffix and at least two digits.
func rounded(n int64) string {
	f, suffix := float64(n), ""
	switch {
	case f > 1e12:
		f, suffix = f*1e-12, "T"
	case f > 1e9:
		f, suffix = f*1e-9, "B"
	case f > 1e6:
		f, suffix = f*1e-6, "M"
	default:
		f, suffix = f*1e-3, "K"
	}
	digits := len(strings.TrimLeft(strconv.FormatFloat(math.RoundToEven(f), 'f', 0, 64), "0"))
	return strconv.FormatFloat(f, 'f', max(2-digits, 0), 64) + suffix
}
