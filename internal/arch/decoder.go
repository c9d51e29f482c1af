// Package arch describes model families, one file each: how a checkpoint's
// config is recognised, how its tensors are named and transformed, which
// metadata they give, and what decoder runs them. A table of families is all
// that the other packages see.
package arch

import "math"

// Norm is the kind of normalisation before attention and feed-forward.
type Norm uint8

const (
	// RMSNorm: x / sqrt(mean(x^2) + eps) * w.
	RMSNorm Norm = iota
	// LayerNorm: (x - mean(x)) / sqrt(var(x) + eps) * w + b; w and b may be absent.
	LayerNorm
)

// Activation is the feed-forward's non-linearity.
type Activation uint8

const (
	// SiLU: x * sigmoid(x).
	SiLU Activation = iota
	// GELU in its tanh form.
	GELU
	// GELUErf is GELU with the exact error function.
	GELUErf
	// ReLUSquared: max(x, 0)^2.
	ReLUSquared
	// SwiGLUClamped is gpt-oss's gated unit, of gate g and up u: with g clamped
	// to at most 7 and u to -7..7, g * sigmoid(1.702 g) * (u + 1).
	SwiGLUClamped
)

// Decoder describes a decoder-only transformer's forward pass; package decoder
// runs it. What differs between families is here as data; whether there are
// biases, norms of q and k (per head or over all of them), norms behind the
// blocks, a gate, learned positions or attention sinks, and whether matrices
// are fused, is told by the presence and the shape of their tensors. The zero
// value of an optional field means that there is no such thing.
type Decoder struct {
	Arch    string // general.architecture
	Layers  int
	Embd    int // width of the residual stream
	Heads   int
	KVHeads int // heads of keys and values; Heads is a multiple of it
	HeadDim int
	FFN     int // width of the feed-forward where there are no experts
	Vocab   int
	Context int // tokens that the model was trained for

	Norm       Norm
	NormEps    float32
	Activation Activation
	// ParallelResidual: attention and feed-forward read the same normed input
	// and are added together (GPT-NeoX, Falcon, Phi-2, Command-R).
	ParallelResidual bool
	// ParallelUnlessNorm: the same in layers that have no norm of their own for
	// the feed-forward (StableLM).
	ParallelUnlessNorm bool
	// NormsBehind: norms stand only behind attention and feed-forward (OLMo 2).
	NormsBehind bool
	// BareNorms: the norms before the blocks and the output have neither weights
	// nor biases (OLMo 1).
	BareNorms bool
	// FFNNorm is the tensor that holds the norm before the feed-forward; "":
	// ffn_norm.
	FFNNorm string

	Rope Rope
	// Window is the sliding window in tokens, 0 for full attention. A layer l
	// uses it unless Global(l).
	Window int
	// WindowPattern n > 0: every n-th layer (l % n == n-1) attends to all.
	WindowPattern int
	// WindowFrom is the first layer that uses the window.
	WindowFrom int

	// NoRopeStep n > 0: every n-th layer (l % n == n-1) has no rope.
	NoRopeStep int
	// AlibiMax > 0: there is no rope, but linear biases (arXiv:2108.12409) with
	// this largest exponent, usually 8.
	AlibiMax float32

	ClampQKV      float32 // q, k and v are clamped to -ClampQKV..ClampQKV; 0: they are not
	AttnScale     float32 // of q·k; 0: 1/sqrt(HeadDim)
	AttnSoftcap   float32 // s -> cap*tanh(s/cap) on attention scores
	LogitSoftcap  float32 // the same on logits
	EmbdScale     float32 // embeddings are multiplied by it; 0: 1
	ResidualScale float32 // what a block adds is multiplied by it; 0: 1
	LogitScale    float32 // logits are multiplied by it; 0: 1

	Experts     int // 0: a dense feed-forward
	ExpertsUsed int
	ExpertFFN   int // width of one expert's feed-forward
	SharedFFN   int // of the experts that every token uses, all together; 0: none
	// ExpertNorm: the chosen experts' probabilities are scaled to sum 1.
	ExpertNorm  bool
	ExpertScale float32 // the routed sum is multiplied by it; 0: 1
	DenseLayers int     // leading layers without experts
	// ExpertSigmoid: the router's logits go through a sigmoid, not softmax; a
	// bias (exp_probs_b) then counts for the choice, not for the weights.
	ExpertSigmoid bool
	// ExpertGroups > 1: experts are chosen from the ExpertGroupsUsed groups whose
	// two best experts are the best together.
	ExpertGroups, ExpertGroupsUsed int

	MLA *MLA // latent attention; nil: none
}

// Rope describes rotary position embeddings.
type Rope struct {
	Dim  int // leading elements of each head that are rotated; 0: no rope
	Base float64
	// BaseLocal is the base of layers with a sliding window, whose rope is then
	// not scaled in any way; 0: it is the same as in the others.
	BaseLocal float64
	// Scale multiplies positions (linear scaling; 1/factor); 0: 1.
	Scale float64
	// Half: pairs are (i, i+Dim/2), rotate-half as Hugging Face and NeoX have
	// it; else (2i, 2i+1), as Meta has it.
	Half bool
	// Yarn holds YaRN's parameters; nil: none.
	Yarn *Yarn
	// AttnFactor multiplies the rotated values (longrope, YaRN); 0: 1.
	AttnFactor float64
	// OriginalContext is what the model was trained for before its context was
	// extended: for longer ones longrope has other factors.
	OriginalContext int
}

// MLA describes multi-head latent attention in its absorbed form
// (arXiv:2405.04434): per position one vector of KVRank normed elements and
// Rope.Dim rotated ones is kept, the first being both key and value; attn_k_b
// takes each head's q there, attn_v_b takes its value back. Decoder.KVHeads is
// 1, HeadDim is KVRank + Rope.Dim.
type MLA struct {
	QRank    int // of q's compression; 0: q is not compressed
	KVRank   int
	KeyDim   int // of a head before absorption, its Rope.Dim rotated elements last
	ValueDim int // of a head
}

// Yarn holds the parameters of YaRN (Peng et al. 2023, arXiv:2309.00071).
type Yarn struct {
	Factor             float64
	BetaFast, BetaSlow float64
	OriginalContext    int
	// Unrounded: the bounds of the blend between kept and interpolated
	// frequencies are not rounded to whole dimensions.
	Unrounded bool
}

// magnitude is what YaRN multiplies values by to keep attention as sharp as it
// was: 1 + m ln Factor, with m usually 0.1.
func (y *Yarn) magnitude(m float64) float64 { return 1 + m*math.Log(max(1, y.Factor)) }

// Global reports whether layer l attends to the whole context.
func (d *Decoder) Global(l int) bool {
	return d.Window == 0 || l < d.WindowFrom || d.WindowPattern > 0 && l%d.WindowPattern == d.WindowPattern-1
}
