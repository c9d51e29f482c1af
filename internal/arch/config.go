package arch

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"path"
	"slices"
	"strconv"

	"github.com/smeltgguf/smelt/formats"
)

// failure is how the functions that families are written with report an error:
// they panic with it, and Load returns it. A family's code then reads as a
// description.
type failure struct{ error }

// fail ends Load with an error; the file is added where it is known.
func fail(format string, args ...any) { panic(failure{fmt.Errorf(format, args...)}) }

// Config is config.json (or params.json) on its way through a family. Every
// key that is asked for counts as understood; what is left at the end and is
// not known to be harmless is an error.
type Config struct {
	file  string
	where string // of a nested object, "rope_scaling."
	vals  map[string]any
	used  map[string]bool
}

func newConfig(file string, vals map[string]any) *Config {
	return &Config{file: file, vals: vals, used: map[string]bool{}}
}

func (c *Config) bad(kind formats.Kind, format string, args ...any) {
	panic(failure{&formats.FormatError{File: c.file, Offset: -1, Kind: kind, Msg: fmt.Sprintf(format, args...)}})
}

// find returns the value of the first of keys that is there and not null.
func (c *Config) find(keys []string) (string, any, bool) {
	name, val, ok := keys[0], any(nil), false
	for _, k := range keys {
		v, there := c.vals[k]
		if !there {
			continue
		}
		c.used[k] = true
		if v != nil && !ok {
			name, val, ok = k, v, true
		}
	}
	return c.where + name, val, ok
}

// has reports whether the key is there and not null.
func (c *Config) has(key string) bool { return c.vals[key] != nil }

// count returns a positive integer; it is an error if none of the keys is
// there.
func (c *Config) count(keys ...string) int {
	n, ok := c.countIf(keys...)
	if !ok {
		c.bad(formats.Malformed, "%s%s missing", c.where, keys[0])
	}
	return n
}

// countOr returns a positive integer, or def if none of the keys is there.
func (c *Config) countOr(def int, keys ...string) int {
	if n, ok := c.countIf(keys...); ok {
		return n
	}
	return def
}

func (c *Config) countIf(keys ...string) (int, bool) {
	key, v, ok := c.find(keys)
	if !ok {
		return 0, false
	}
	n, isInt := integer(v)
	if !isInt || n < 1 || n > math.MaxInt32 {
		c.bad(formats.Malformed, "%s: want a positive integer, got %s", key, show(v))
	}
	return int(n), true
}

// integer accepts what JSON has as an integer, written as a float or not.
func integer(v any) (int64, bool) {
	num, ok := v.(json.Number)
	if !ok {
		return 0, false
	}
	if n, err := num.Int64(); err == nil {
		return n, true
	}
	f, err := num.Float64()
	if err != nil || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
		return 0, false
	}
	return int64(f), true
}

// intIf returns any integer.
func (c *Config) intIf(keys ...string) (int, bool) {
	key, v, ok := c.find(keys)
	if !ok {
		return 0, false
	}
	n, isInt := integer(v)
	if !isInt || n < math.MinInt32 || n > math.MaxInt32 {
		c.bad(formats.Malformed, "%s: want an integer, got %s", key, show(v))
	}
	return int(n), true
}

// natural returns an integer that is not negative, 0 if it is missing.
func (c *Config) natural(key string) int {
	n, _ := c.intIf(key)
	if n < 0 {
		c.bad(formats.Malformed, "%s%s: %d is negative", c.where, key, n)
	}
	return n
}

// float returns a number; it is an error if none of the keys is there.
func (c *Config) float(keys ...string) float64 {
	f, ok := c.floatIf(keys...)
	if !ok {
		c.bad(formats.Malformed, "%s%s missing", c.where, keys[0])
	}
	return f
}

func (c *Config) floatOr(def float64, keys ...string) float64 {
	if f, ok := c.floatIf(keys...); ok {
		return f
	}
	return def
}

func (c *Config) floatIf(keys ...string) (float64, bool) {
	key, v, ok := c.find(keys)
	if !ok {
		return 0, false
	}
	num, isNum := v.(json.Number)
	f, err := num.Float64()
	if !isNum || err != nil || math.IsInf(f, 0) || math.IsNaN(f) {
		c.bad(formats.Malformed, "%s: want a number, got %s", key, show(v))
	}
	return f, true
}

// positive is float for values that must be above zero (an epsilon, a base).
func (c *Config) positive(keys ...string) float64 {
	f := c.float(keys...)
	if f <= 0 {
		c.bad(formats.Malformed, "%s%s: want a positive number, got %g", c.where, keys[0], f)
	}
	return f
}

func (c *Config) boolean(def bool, keys ...string) bool {
	key, v, ok := c.find(keys)
	if !ok {
		return def
	}
	b, isBool := v.(bool)
	if !isBool {
		c.bad(formats.Malformed, "%s: want true or false, got %s", key, show(v))
	}
	return b
}

// text returns a string, or def.
func (c *Config) text(def string, keys ...string) string {
	key, v, ok := c.find(keys)
	if !ok {
		return def
	}
	s, isString := v.(string)
	if !isString {
		c.bad(formats.Malformed, "%s: want a string, got %s", key, show(v))
	}
	return s
}

// oneOf returns a string that must be among allowed; def where it is missing.
func (c *Config) oneOf(key, def string, allowed ...string) string {
	s := c.text(def, key)
	if !slices.Contains(allowed, s) {
		c.bad(formats.Unsupported, "%s%s %s is not understood; known here: %q", c.where, key, formats.Quote(s), allowed)
	}
	return s
}

// mustBe accepts a key that has only one value here that is understood.
func (c *Config) mustBe(key string, want bool) {
	if got := c.boolean(want, key); got != want {
		c.bad(formats.Unsupported, "%s%s: %v is not supported for this model", c.where, key, got)
	}
}

// object returns a nested object, nil if it is missing or null.
func (c *Config) object(keys ...string) *Config {
	key, v, ok := c.find(keys)
	if !ok {
		return nil
	}
	m, isObject := v.(map[string]any)
	if !isObject {
		c.bad(formats.Malformed, "%s: want an object, got %s", key, show(v))
	}
	return &Config{file: c.file, where: key + ".", vals: m, used: map[string]bool{}}
}

// strings returns a list of strings, nil if it is missing.
func (c *Config) strings(key string) []string {
	name, v, ok := c.find([]string{key})
	if !ok {
		return nil
	}
	list, isList := v.([]any)
	out := make([]string, 0, len(list))
	for _, e := range list {
		if s, ok := e.(string); ok {
			out = append(out, s)
		}
	}
	if !isList || len(out) != len(list) {
		c.bad(formats.Malformed, "%s: want a list of strings, got %s", name, show(v))
	}
	return out
}

// floatList returns a list of n numbers, nil if it is missing.
func (c *Config) floatList(key string, n int) []float32 {
	name, v, ok := c.find([]string{key})
	if !ok {
		return nil
	}
	list, _ := v.([]any)
	if len(list) != n {
		c.bad(formats.Malformed, "%s: want a list of %d numbers, got %s", name, n, show(v))
	}
	out := make([]float32, n)
	for i, e := range list {
		num, _ := e.(json.Number)
		f, err := num.Float64()
		if err != nil {
			c.bad(formats.Malformed, "%s: element %d is %s, not a number", name, i, show(e))
		}
		out[i] = float32(f)
	}
	return out
}

// ignore marks keys as understood: they say what does not matter here.
func (c *Config) ignore(keys ...string) {
	for _, k := range keys {
		c.used[k] = true
	}
}

// number and decimal are values for keys that a config may leave out.
func number(n int) any { return decimal(strconv.Itoa(n)) }

func decimal(s string) any { return json.Number(s) }

// show prints a JSON value for a message.
func show(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprintf("%T", v)
	}
	if s := string(b); len(s) > 60 {
		return s[:60] + "..."
	}
	return string(b)
}

// harmless are patterns (of package path) of keys that do not change what the
// model computes: they concern training, saving and generating, or restate what
// the weights show.
var harmless = []string{
	"_*", "architectures", "auto_map", "model_type", "transformers_version", "torch_dtype", "dtype", "*_version",
	"use_cache", "use_return_dict", "return_dict*", "output_*", "torchscript", "pruned_heads", "problem_type",
	"id2label", "label2id", "num_labels", "finetuning_task", "task_specific_params", "tokenizer_class", "prefix",
	"is_decoder", "is_encoder_decoder", "add_cross_attention", "cross_attention_hidden_size", "chunk_size_feed_forward",
	"*dropout*", "*pdrop*", "*initializer*", "init_*", "*_token_id", "*_token_ids", "*_token_index", "pretraining_tp", "gradient_checkpointing*",
	"*_loss_coef", "*_loss_alpha", "*aux_loss*", "seq_aux", "ep_size", "z_loss*",
	"attn_implementation", "use_flash*", "flash_attn*", "*_attn_implementation", "cache_implementation", "fused_*", "*_kernels",
	"temperature", "top_k", "top_p", "typical_p", "do_sample", "num_beams", "num_beam_groups", "diversity_penalty", "repetition_penalty",
	"length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "min_length",
	"max_length", "max_new_tokens", "early_stopping", "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens",
	"begin_suppress_tokens", "forced_*", "tf_legacy_loss", "use_bfloat16", "unsloth_*", "bos_token", "eos_token", "pad_token",
	"tie_word_embeddings", "tie_encoder_decoder", "generation_config", "use_mem_eff_path", "base_model_name_or_path",
	"summary_*", "reorder_and_upcast_attn", "onnx*", "name_or_path", "model_max_length", "max_batch_size",
	"transformers.js_config", "lm_head_bias", "full_attn_mod", "interpolate_factor", "router_jitter_noise", "parallelization_strategy",
}

// leftover returns the keys that nobody asked for and that may matter: not
// known to be harmless, and neither null, false, zero nor empty.
func (c *Config) leftover() []string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(c.vals)) {
		if c.used[k] || neutral(c.vals[k]) {
			continue
		}
		if !slices.ContainsFunc(harmless, func(p string) bool { ok, _ := path.Match(p, k); return ok }) {
			out = append(out, k)
		}
	}
	return out
}

func neutral(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case bool:
		return !v
	case string:
		return v == ""
	case json.Number:
		f, err := v.Float64()
		return err == nil && f == 0
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}
