package recipe

import (
	"slices"
	"strings"

	"github.com/smeltgguf/smelt/quant"
)

// Kind is what a tensor does in the model, as far as recipes tell it apart.
type Kind uint8

// The kinds. Output is output.weight or, in a model that has none because its
// embeddings are tied, token_embd.weight.
const (
	Any Kind = iota // in rules: every kind
	Other
	Output
	TokenEmbd
	AttnV // also the fused query-key-value matrix and MLA's key-value one
	AttnK
	AttnQ
	AttnOutput
	FFNUp
	FFNGate
	FFNDown
	numKinds
)

var kindNames = [numKinds]string{
	Any: "any", Other: "other", Output: "output", TokenEmbd: "token_embd",
	AttnV: "attn_v", AttnK: "attn_k", AttnQ: "attn_q", AttnOutput: "attn_output",
	FFNUp: "ffn_up", FFNGate: "ffn_gate", FFNDown: "ffn_down",
}

func (k Kind) String() string { return kindNames[k] }

func kindByName(name string) (Kind, bool) {
	i := slices.Index(kindNames[:], name)
	return Kind(max(i, 0)), i >= 0
}

// kindTable tells a tensor's kind by its name; the first line that fits counts.
var kindTable = []struct {
	name  string
	exact bool // the whole name, not a part of it
	kind  Kind
}{
	{"output.weight", true, Output},
	{"token_embd.weight", true, TokenEmbd},
	{"per_layer_token_embd.weight", true, TokenEmbd},
	{"attn_qkv.weight", false, AttnV},
	{"attn_kv_b.weight", false, AttnV},
	{"attn_v.weight", false, AttnV},
	{"attn_k.weight", false, AttnK},
	{"attn_q.weight", false, AttnQ},
	{"attn_output.weight", false, AttnOutput},
	{"ffn_up", false, FFNUp},
	{"ffn_gate", false, FFNGate},
	{"ffn_down", false, FFNDown},
}

// KindOf returns the kind that a name tells.
func KindOf(name string) Kind {
	for _, k := range kindTable {
		if k.exact && name == k.name || !k.exact && strings.Contains(name, k.name) {
			return k.kind
		}
	}
	return Other
}

// keptTable lists what stays as it is, by parts of the name, and why.
var keptTable = []struct {
	part, why string
}{
	{"_norm.weight", "norm"},
	{"ffn_gate_inp.weight", "expert router"},
	{"ffn_gate_tid2eid.weight", "expert routing table"},
	{"altup", "very small"},
	{"laurel", "very small"},
	{"per_layer_model_proj", "small"},
	{"ssm_conv1d", "small convolution"},
	{"shortconv.conv.weight", "small convolution"},
	{"indexer.k_proj.weight", "small indexer projection"},
	{"indexer.q_proj.weight", "small indexer projection"},
	{"time_mix_first.weight", "small RWKV matrix"},
	{"time_mix_w0.weight", "small RWKV matrix"},
	{"time_mix_w1.weight", "small RWKV matrix"},
	{"time_mix_w2.weight", "small RWKV matrix"},
	{"time_mix_v0.weight", "small RWKV matrix"},
	{"time_mix_v1.weight", "small RWKV matrix"},
	{"time_mix_v2.weight", "small RWKV matrix"},
	{"time_mix_a0.weight", "small RWKV matrix"},
	{"time_mix_a1.weight", "small RWKV matrix"},
	{"time_mix_a2.weight", "small RWKV matrix"},
	{"time_mix_g1.weight", "small RWKV matrix"},
	{"time_mix_g2.weight", "small RWKV matrix"},
	{"time_mix_decay_w1.weight", "small RWKV matrix"},
	{"time_mix_decay_w2.weight", "small RWKV matrix"},
	{"time_mix_lerp_fused.weight", "small RWKV matrix"},
	{"attn_rel_b.weight", "relative position bias"},
	{".position_embd", "position embedding"},
	{"sam.pos_embd", "position embedding"},
	{"sam.neck.", "image encoder neck"},
	{"sam.net_", "image encoder neck"},
	{".rel_pos", "relative position"},
	{".patch_embd", "patch embedding"},
	{".patch_merger", "patch merger"},
	{"a.rvq.codebook", "audio codebook"},
	{"mm.a.code_embd", "audio codebook"},
}

// kept returns why a tensor is never quantized, or "".
func kept(t *Tensor) string {
	if t.dims() < 2 {
		return "one dimension"
	}
	if !strings.HasSuffix(t.Name, "weight") {
		return "not a weight"
	}
	if t.Name == "position_embd.weight" || t.Name == "token_types.weight" {
		return "position or token type embedding"
	}
	for _, k := range keptTable {
		if strings.Contains(t.Name, k.part) {
			return k.why
		}
	}
	return ""
}

// fallbackTable says what replaces a type whose blocks do not divide a row;
// F16 where nothing is listed or that does not divide it either.
var fallbackTable = map[quant.Type]quant.Type{
	quant.Q2_0:    quant.Q4_0,
	quant.Q2_K:    quant.Q4_0,
	quant.Q3_K:    quant.Q4_0,
	quant.TQ1_0:   quant.Q4_0,
	quant.TQ2_0:   quant.Q4_0,
	quant.Q4_K:    quant.Q5_0,
	quant.Q5_K:    quant.Q5_1,
	quant.Q6_K:    quant.Q8_0,
	quant.IQ1_S:   quant.IQ4_NL,
	quant.IQ1_M:   quant.IQ4_NL,
	quant.IQ2_XXS: quant.IQ4_NL,
	quant.IQ2_XS:  quant.IQ4_NL,
	quant.IQ2_S:   quant.IQ4_NL,
	quant.IQ3_XXS: quant.IQ4_NL,
	quant.IQ3_S:   quant.IQ4_NL,
	quant.IQ4_XS:  quant.IQ4_NL,
}

// fit returns t, or what replaces it in rows of n elements.
func fit(t quant.Type, n uint64) quant.Type {
	if n%uint64(t.BlockLen()) == 0 {
		return t
	}
	if f, ok := fallbackTable[t]; ok && n%uint64(f.BlockLen()) == 0 {
		return f
	}
	return quant.F16
}

// Target reports whether tensors may be given type t: floats of 16 and 32 bits
// and the quantized types of files.
func Target(t quant.Type) bool {
	switch t {
	case quant.F32, quant.F16, quant.BF16:
		return true
	case quant.Q8_1, quant.Q8_K: // only for activations
		return false
	}
	return Quantized(t)
}

// Quantized reports whether t stores blocks rather than single numbers.
func Quantized(t quant.Type) bool { return t.BlockLen() > 1 }
