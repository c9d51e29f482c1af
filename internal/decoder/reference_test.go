package decoder

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/smeltgguf/smelt/internal/arch"
	"github.com/smeltgguf/smelt/quant"
)

// memory is a Source of random float32 tensors.
type memory map[string]Tensor

func (m memory) Tensor(name string) (Tensor, bool, error) {
	t, ok := m[name]
	return t, ok, nil
}

// add makes a tensor; dims have the row length first.
func (m memory) add(rng *rand.Rand, name string, mean, std float64, dims ...int) {
	t := Tensor{Type: quant.F32}
	n := 1
	for _, d := range dims {
		t.Dims = append(t.Dims, uint64(d))
		n *= d
	}
	for range n {
		t.Data = binary.LittleEndian.AppendUint32(t.Data, math.Float32bits(float32(mean+std*rng.NormFloat64())))
	}
	m[name] = t
}

// get returns a tensor's values; nil if it is not there.
func (m memory) get(name string) []float64 {
	var x []float64
	for b := m[name].Data; len(b) > 0; b = b[4:] {
		x = append(x, float64(math.Float32frombits(binary.LittleEndian.Uint32(b))))
	}
	return x
}

// build makes all tensors that d asks for; with lists what optional ones, and
// which are fused.
func build(d *arch.Decoder, with string) memory {
	rng := rand.New(rand.NewPCG(3, 5))
	m := memory{}
	wants := func(what string) bool { return slices.Contains(strings.Fields(with), what) }
	bias := func(name string, dims ...int) {
		if wants("bias") {
			m.add(rng, name+".bias", 0, 0.1, dims...)
		}
	}
	linear := func(name string, in, out int) {
		m.add(rng, name+".weight", 0, 1/math.Sqrt(float64(in)), in, out)
		bias(name, out)
	}
	stack := func(name string, in, out, n int) {
		m.add(rng, name+".weight", 0, 1.5/math.Sqrt(float64(in)), in, out, n)
	}
	norm := func(name string, dims ...int) {
		if d.BareNorms {
			return
		}
		m.add(rng, name+".weight", 1, 0.2, dims...)
		if d.Norm == arch.LayerNorm && len(dims) == 1 {
			m.add(rng, name+".bias", 0, 0.2, dims...)
		}
	}
	gated := func(name, suffix string, ffn int) {
		if wants("gateUp") {
			linear(name+"up"+suffix, d.Embd, 2*ffn)
		} else {
			if !wants("noGate") {
				linear(name+"gate"+suffix, d.Embd, ffn)
			}
			linear(name+"up"+suffix, d.Embd, ffn)
		}
		linear(name+"down"+suffix, ffn, d.Embd)
	}
	m.add(rng, "token_embd.weight", 0, 1, d.Embd, d.Vocab)
	norm("output_norm", d.Embd)
	if !wants("tied") {
		m.add(rng, "output.weight", 0, 0.2, d.Embd, d.Vocab)
	}
	if wants("positions") {
		m.add(rng, "position_embd.weight", 0, 1, d.Embd, d.Context)
	}
	if wants("freqs") {
		m.add(rng, "rope_freqs.weight", 2, 0.5, d.Rope.Dim/2)
	}
	if wants("longrope") {
		m.add(rng, "rope_factors_short.weight", 2, 0.5, d.Rope.Dim/2)
		m.add(rng, "rope_factors_long.weight", 4, 0.5, d.Rope.Dim/2)
	}
	q, kv := d.Heads*d.HeadDim, d.KVHeads*d.HeadDim
	for l := range d.Layers {
		p := fmt.Sprintf("blk.%d.", l)
		if !wants("noPre") {
			norm(p+"attn_norm", d.Embd)
		}
		switch a := d.MLA; {
		case a != nil:
			if a.QRank > 0 {
				linear(p+"attn_q_a", d.Embd, a.QRank)
				norm(p+"attn_q_a_norm", a.QRank)
				linear(p+"attn_q_b", a.QRank, d.Heads*a.KeyDim)
			} else {
				linear(p+"attn_q", d.Embd, d.Heads*a.KeyDim)
			}
			linear(p+"attn_kv_a_mqa", d.Embd, a.KVRank+d.Rope.Dim)
			norm(p+"attn_kv_a_norm", a.KVRank)
			stack(p+"attn_k_b", a.KeyDim-d.Rope.Dim, a.KVRank, d.Heads)
			stack(p+"attn_v_b", a.KVRank, a.ValueDim, d.Heads)
			linear(p+"attn_output", d.Heads*a.ValueDim, d.Embd)
		case wants("qkv"):
			linear(p+"attn_qkv", d.Embd, q+2*kv)
			linear(p+"attn_output", q, d.Embd)
		default:
			linear(p+"attn_q", d.Embd, q)
			linear(p+"attn_k", d.Embd, kv)
			linear(p+"attn_v", d.Embd, kv)
			linear(p+"attn_output", q, d.Embd)
		}
		switch {
		case wants("qknorm"):
			norm(p+"attn_q_norm", d.HeadDim)
			norm(p+"attn_k_norm", d.HeadDim)
		case wants("wholeNorm"):
			norm(p+"attn_q_norm", q)
			norm(p+"attn_k_norm", kv)
		case wants("headwiseNorm"):
			norm(p+"attn_q_norm", d.HeadDim, d.Heads)
			norm(p+"attn_k_norm", d.HeadDim, d.KVHeads)
		}
		if wants("sinks") {
			m.add(rng, p+"attn_sinks.weight", 0, 1, d.Heads)
		}
		if wants("post") {
			norm(p+"post_attention_norm", d.Embd)
			norm(p+"post_ffw_norm", d.Embd)
		}
		switch {
		case wants("attnNorm2"):
			norm(p+"attn_norm_2", d.Embd)
		case d.FFNNorm != "":
			norm(p+d.FFNNorm, d.Embd)
		case !wants("oneNorm") && !wants("noPre"):
			norm(p+"ffn_norm", d.Embd)
		}
		if d.Experts == 0 || l < d.DenseLayers {
			gated(p+"ffn_", "", d.FFN)
			continue
		}
		linear(p+"ffn_gate_inp", d.Embd, d.Experts)
		if wants("routerBias") {
			m.add(rng, p+"exp_probs_b.bias", 0, 0.3, d.Experts)
		}
		for _, name := range []string{"gate", "up"} {
			stack(p+"ffn_"+name+"_exps", d.Embd, d.ExpertFFN, d.Experts)
			bias(p+"ffn_"+name+"_exps", d.ExpertFFN, d.Experts)
		}
		stack(p+"ffn_down_exps", d.ExpertFFN, d.Embd, d.Experts)
		bias(p+"ffn_down_exps", d.Embd, d.Experts)
		if d.SharedFFN > 0 {
			gated(p+"ffn_", "_shexp", d.SharedFFN)
			if wants("sharedGate") {
				linear(p+"ffn_gate_inp_shexp", d.Embd, 1)
			}
		}
	}
	return m
}

// reference is the forward pass in float64, one token and one number at a time,
// with nothing precomputed, fused or absorbed: what the decoder is held to.
type reference struct {
	d            *arch.Decoder
	m            memory
	context      int             // tokens that the decoder is set up for
	keys, values [][][][]float64 // by layer, position and head
}

func newReference(d *arch.Decoder, m memory, context int) *reference {
	return &reference{d, m, context, make([][][][]float64, d.Layers), make([][][][]float64, d.Layers)}
}

func (r *reference) has(name string) bool { return r.m[name].Data != nil }

// product is matrix e of the tensor times x, plus its bias.
func (r *reference) product(name string, e int, x []float64) []float64 {
	w, b := r.m.get(name+".weight"), r.m.get(name+".bias")
	rows := int(r.m[name+".weight"].Dims[1])
	w = w[e*rows*len(x):]
	out := make([]float64, rows)
	for i := range out {
		for j, v := range x {
			out[i] += w[i*len(x)+j] * v
		}
		if b != nil {
			out[i] += b[e*rows+i]
		}
	}
	return out
}

func (r *reference) linear(name string, x []float64) []float64 { return r.product(name, 0, x) }

// norm normalizes each run of x that is as long as a row of the weights, with
// the row that is its turn; without weights it does nothing, unless norms have
// none.
func (r *reference) norm(name string, x []float64) []float64 {
	var w, b []float64
	n := len(x)
	switch {
	case r.has(name + ".weight"):
		w, b, n = r.m.get(name+".weight"), r.m.get(name+".bias"), int(r.m[name+".weight"].Dims[0])
	case r.d.BareNorms && (strings.HasSuffix(name, "attn_norm") || strings.HasSuffix(name, "ffn_norm") || name == "output_norm"):
		w = slices.Repeat([]float64{1}, n)
	default:
		return x
	}
	var out []float64
	for first := 0; first < len(x); first += n {
		run := x[first : first+n]
		mean, square := 0.0, 0.0
		if r.d.Norm == arch.LayerNorm {
			for _, v := range run {
				mean += v / float64(n)
			}
		}
		for _, v := range run {
			square += (v - mean) * (v - mean) / float64(n)
		}
		for i, v := range run {
			y := (v - mean) / math.Sqrt(square+float64(r.d.NormEps)) * w[(first+i)%len(w)]
			if b != nil {
				y += b[i]
			}
			out = append(out, y)
		}
	}
	return out
}

// heads cuts x into heads of n elements.
func heads(x []float64, n int) [][]float64 { return slices.Collect(slices.Chunk(x, n)) }

func or1(f float64) float64 {
	if f == 0 {
		return 1
	}
	return f
}

// rotated is h with its first elements rotated, in layer l at position pos.
func (r *reference) rotated(h []float64, l, pos int) []float64 {
	d := r.d
	if d.NoRopeStep > 0 && (l+1)%d.NoRopeStep == 0 {
		return h
	}
	rope := d.Rope
	if !d.Global(l) && rope.BaseLocal != 0 {
		rope = arch.Rope{Dim: rope.Dim, Half: rope.Half, Base: rope.BaseLocal}
	}
	factors := "rope_freqs.weight"
	if r.has("rope_factors_long.weight") {
		factors = "rope_factors_short.weight"
		if r.context > rope.OriginalContext {
			factors = "rope_factors_long.weight"
		}
	}
	out := slices.Clone(h)
	for i := range rope.Dim / 2 {
		freq := math.Pow(rope.Base, -2*float64(i)/float64(rope.Dim))
		if r.has(factors) && (d.Global(l) || d.Rope.BaseLocal == 0) {
			freq /= r.m.get(factors)[i]
		}
		if y := rope.Yarn; y != nil {
			// The pair that turns n times in the original context.
			turns := func(n float64) float64 {
				return float64(rope.Dim) / 2 * math.Log(float64(y.OriginalContext)/(n*2*math.Pi)) / math.Log(rope.Base)
			}
			low, high := turns(y.BetaFast), turns(y.BetaSlow)
			if !y.Unrounded {
				low, high = math.Floor(low), math.Ceil(high)
			}
			low, high = max(low, 0), min(high, float64(rope.Dim-1))
			interpolated := min(1, max(0, (float64(i)-low)/max(high-low, 0.001)))
			freq *= 1 - interpolated + interpolated/y.Factor
		} else {
			freq *= or1(rope.Scale)
		}
		a, b := 2*i, 2*i+1
		if rope.Half {
			a, b = i, i+rope.Dim/2
		}
		sin, cos := math.Sincos(float64(pos) * freq)
		f := or1(rope.AttnFactor)
		out[a], out[b] = f*(h[a]*cos-h[b]*sin), f*(h[a]*sin+h[b]*cos)
	}
	return out
}

// attention is the block's output for one token, whose keys and values join
// those of the earlier ones.
func (r *reference) attention(l, pos int, x []float64) []float64 {
	d, p := r.d, fmt.Sprintf("blk.%d.", l)
	var q, k, v [][]float64
	if d.MLA != nil {
		q, k, v = r.latent(l, pos, x)
	} else {
		nq, nkv := d.Heads*d.HeadDim, d.KVHeads*d.HeadDim
		var all []float64
		if r.has(p + "attn_qkv.weight") {
			all = r.linear(p+"attn_qkv", x)
		} else {
			all = slices.Concat(r.linear(p+"attn_q", x), r.linear(p+"attn_k", x), r.linear(p+"attn_v", x))
		}
		if c := float64(d.ClampQKV); c > 0 {
			for i, v := range all {
				all[i] = min(c, max(-c, v))
			}
		}
		q = heads(r.norm(p+"attn_q_norm", all[:nq]), d.HeadDim)
		k = heads(r.norm(p+"attn_k_norm", all[nq:nq+nkv]), d.HeadDim)
		v = heads(all[nq+nkv:], d.HeadDim)
		for h := range q {
			q[h] = r.rotated(q[h], l, pos)
		}
		for h := range k {
			k[h] = r.rotated(k[h], l, pos)
		}
	}
	r.keys[l], r.values[l] = append(r.keys[l], k), append(r.values[l], v)
	var out []float64
	for h := range q {
		group := h / (len(q) / len(k))
		scale := 1 / math.Sqrt(float64(len(q[h])))
		if d.AttnScale != 0 {
			scale = float64(d.AttnScale)
		}
		sum, head := 0.0, make([]float64, len(v[group]))
		if r.has(p + "attn_sinks.weight") {
			sum = math.Exp(r.m.get(p + "attn_sinks.weight")[h])
		}
		for j := range r.keys[l] {
			if l >= d.WindowFrom && !d.Global(l) && pos-j >= d.Window {
				continue
			}
			score := 0.0
			for i, a := range q[h] {
				score += a * r.keys[l][j][group][i]
			}
			score = softcap(score*scale, float64(d.AttnSoftcap))
			if d.AlibiMax > 0 {
				score -= alibi(h, d.Heads, float64(d.AlibiMax)) * float64(pos-j)
			}
			weight := math.Exp(score)
			sum += weight
			for i, a := range r.values[l][j][group] {
				head[i] += weight * a
			}
		}
		for _, a := range head {
			out = append(out, a/sum)
		}
	}
	return r.linear(p+"attn_output", out)
}

// latent gives each head keys and values of its own, made of the compressed
// vector, as arXiv:2405.04434 has it before matrices are absorbed.
func (r *reference) latent(l, pos int, x []float64) (q, k, v [][]float64) {
	d, a, p := r.d, r.d.MLA, fmt.Sprintf("blk.%d.", l)
	nope := a.KeyDim - d.Rope.Dim
	if a.QRank > 0 {
		q = heads(r.linear(p+"attn_q_b", r.norm(p+"attn_q_a_norm", r.linear(p+"attn_q_a", x))), a.KeyDim)
	} else {
		q = heads(r.linear(p+"attn_q", x), a.KeyDim)
	}
	down := r.linear(p+"attn_kv_a_mqa", x)
	c, shared := r.norm(p+"attn_kv_a_norm", down[:a.KVRank]), r.rotated(down[a.KVRank:], l, pos)
	up := r.m.get(p + "attn_k_b.weight") // (heads, rank, nope)
	for h := range q {
		q[h] = slices.Concat(q[h][:nope], r.rotated(q[h][nope:], l, pos))
		key := make([]float64, nope)
		for i, ci := range c {
			for j := range key {
				key[j] += up[(h*a.KVRank+i)*nope+j] * ci
			}
		}
		k = append(k, slices.Concat(key, shared))
		v = append(v, r.product(p+"attn_v_b", h, c))
	}
	return q, k, v
}

// alibi is the slope of head h of n (arXiv:2108.12409): of a power of two of
// heads a geometric sequence from 2^(-most/n); of others those of the power
// below, then every second one of the power above.
func alibi(h, n int, most float64) float64 {
	below := 1 << int(math.Log2(float64(n)))
	if h < below {
		return math.Pow(2, -most/float64(below)*float64(h+1))
	}
	return math.Pow(2, -most/float64(2*below)*float64(2*(h-below)+1))
}

func softcap(x, limit float64) float64 {
	if limit == 0 {
		return x
	}
	return limit * math.Tanh(x/limit)
}

func logistic(x float64) float64 { return 1 / (1 + math.Exp(-x)) }

// unit is the feed-forward's non-linearity of gate g and up u.
func (r *reference) unit(g, u float64) float64 {
	switch r.d.Activation {
	case arch.GELU:
		return u * g * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(g+0.044715*g*g*g))) / 2
	case arch.GELUErf:
		return u * g * (1 + math.Erf(g/math.Sqrt2)) / 2
	case arch.ReLUSquared:
		return u * max(0, g) * max(0, g)
	case arch.SwiGLUClamped:
		g = min(g, 7)
		return g * logistic(1.702*g) * (min(7, max(-7, u)) + 1)
	}
	return u * g * logistic(g)
}

// ffn is feed-forward number e of those that names with the suffix hold.
func (r *reference) ffn(p, suffix string, e int, x []float64) []float64 {
	up := r.product(p+"ffn_up"+suffix, e, x)
	in := int(r.m[p+"ffn_down"+suffix+".weight"].Dims[0])
	var gate []float64
	switch {
	case len(up) == 2*in:
		gate, up = up[:in], up[in:]
	case r.has(p + "ffn_gate" + suffix + ".weight"):
		gate = r.product(p+"ffn_gate"+suffix, e, x)
	default:
		gate = up
		up = slices.Repeat([]float64{1}, in)
	}
	y := make([]float64, in)
	for i := range y {
		y[i] = r.unit(gate[i], up[i])
	}
	return r.product(p+"ffn_down"+suffix, e, y)
}

// feedForward is the block's output: of one network, or of the experts that the
// router chooses and those that always count.
func (r *reference) feedForward(l int, x []float64) []float64 {
	d, p := r.d, fmt.Sprintf("blk.%d.", l)
	if d.Experts == 0 || l < d.DenseLayers {
		return r.ffn(p, "", 0, x)
	}
	probs, sum := r.linear(p+"ffn_gate_inp", x), 0.0
	for e, v := range probs {
		probs[e] = math.Exp(v)
		if d.ExpertSigmoid {
			probs[e] = logistic(v)
		}
		sum += probs[e]
	}
	score := slices.Clone(probs)
	for e := range probs {
		if !d.ExpertSigmoid {
			probs[e] /= sum
			score[e] = probs[e]
		}
		if b := r.m.get(p + "exp_probs_b.bias"); b != nil {
			score[e] += b[e]
		}
	}
	best := func(list []int) { slices.SortFunc(list, func(a, b int) int { return cmp.Compare(score[b], score[a]) }) }
	var chosen []int
	if d.ExpertGroups > 1 {
		size := d.Experts / d.ExpertGroups
		var groups [][]int
		for g := range d.ExpertGroups {
			var group []int
			for e := range size {
				group = append(group, g*size+e)
			}
			best(group)
			groups = append(groups, group)
		}
		two := func(g []int) float64 { return score[g[0]] + score[g[1]] }
		slices.SortFunc(groups, func(a, b []int) int { return cmp.Compare(two(b), two(a)) })
		chosen = slices.Concat(groups[:d.ExpertGroupsUsed]...)
	} else {
		for e := range d.Experts {
			chosen = append(chosen, e)
		}
	}
	best(chosen)
	chosen, sum = chosen[:d.ExpertsUsed], 1
	if d.ExpertNorm {
		sum = 0
		for _, e := range chosen {
			sum += probs[e]
		}
	}
	out := make([]float64, d.Embd)
	for _, e := range chosen {
		for i, v := range r.ffn(p, "_exps", e, x) {
			out[i] += v * probs[e] / sum * or1(float64(d.ExpertScale))
		}
	}
	if d.SharedFFN > 0 {
		weight := 1.0
		if r.has(p + "ffn_gate_inp_shexp.weight") {
			weight = logistic(r.linear(p+"ffn_gate_inp_shexp", x)[0])
		}
		for i, v := range r.ffn(p, "_shexp", 0, x) {
			out[i] += v * weight
		}
	}
	return out
}

// logits runs the tokens and returns the logits of every position.
func (r *reference) logits(tokens []int32) [][]float64 {
	d := r.d
	var all [][]float64
	embd := r.m.get("token_embd.weight")
	for pos, t := range tokens {
		x := slices.Clone(embd[int(t)*d.Embd : int(t+1)*d.Embd])
		for i := range x {
			x[i] *= or1(float64(d.EmbdScale))
			if r.has("position_embd.weight") {
				x[i] += r.m.get("position_embd.weight")[pos*d.Embd+i]
			}
		}
		add := func(y []float64) {
			for i := range x {
				x[i] += y[i] * or1(float64(d.ResidualScale))
			}
		}
		for l := range d.Layers {
			p := fmt.Sprintf("blk.%d.", l)
			first, second, post := "attn_norm", "ffn_norm", "post_attention_norm"
			switch {
			case d.FFNNorm != "":
				second, post = d.FFNNorm, "none"
			case r.has(p + "attn_norm_2.weight"):
				first, second = "attn_norm_2", "attn_norm"
			case d.ParallelResidual && !r.has(p+"ffn_norm.weight"):
				second = "attn_norm"
			case d.ParallelUnlessNorm && !r.has(p+"ffn_norm.weight"):
				second = "attn_norm"
			}
			parallel := d.ParallelResidual || d.ParallelUnlessNorm && second == "attn_norm"
			attended := r.norm(p+post, r.attention(l, pos, r.norm(p+first, x)))
			before := slices.Clone(x)
			add(attended)
			if !parallel {
				before = x
			}
			add(r.norm(p+"post_ffw_norm", r.feedForward(l, r.norm(p+second, before))))
		}
		head := "output"
		if !r.has("output.weight") {
			head = "token_embd"
		}
		row := r.linear(head, r.norm("output_norm", x))
		for i := range row {
			row[i] = softcap(row[i]*or1(float64(d.LogitScale)), float64(d.LogitSoftcap))
		}
		all = append(all, row)
	}
	return all
}
