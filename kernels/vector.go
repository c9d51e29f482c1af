package kernels

import "math"

// RMSNorm computes for each row of x, (n, dim), out = x / sqrt(mean(x^2) + eps)
// * weight. weight is (dim) or nil for ones; out may be x.
func RMSNorm(out, x, weight []float32, dim int, eps float32) {
	for len(x) >= dim && dim > 0 {
		mean := sumSquares(x[:dim]) / float64(dim)
		scaleRow(out[:dim], x[:dim], weight, float32(1/math.Sqrt(mean+float64(eps))))
		out, x = out[dim:], x[dim:]
	}
}

// LayerNorm computes for each row of x, (n, dim), out = (x - mean(x)) /
// sqrt(var(x) + eps) * weight + bias. weight and bias are (dim) or nil; out may
// be x.
func LayerNorm(out, x, weight, bias []float32, dim int, eps float32) {
	for len(x) >= dim && dim > 0 {
		mean := float32(sum(x[:dim]) / float64(dim))
		affine(out[:dim], x[:dim], 1, -mean)
		variance := sumSquares(out[:dim]) / float64(dim)
		scaleRow(out[:dim], out[:dim], weight, float32(1/math.Sqrt(variance+float64(eps))))
		if bias != nil {
			Add(out[:dim], bias[:dim])
		}
		out, x = out[dim:], x[dim:]
	}
}

// scaleRow computes out[i] = x[i]*s*weight[i].
func scaleRow(out, x, weight []float32, s float32) {
	if weight == nil {
		affine(out, x, s, 0)
		return
	}
	weight = weight[:len(x)]
	mulScale(out, x, weight, s)
}

func mulScaleGo(out, x, weight []float32, s float32) {
	for i, v := range x {
		out[i] = v * s * weight[i]
	}
}

// affineGo computes out[i] = x[i]*scale + shift.
func affineGo(out, x []float32, scale, shift float32) {
	for i, v := range x {
		out[i] = float32(v*scale) + shift
	}
}

// sumGo sums in float64, side by side: an addition waits for the one before it.
func sumGo(x []float32) float64 {
	var s [4]float64
	for i, v := range x {
		s[i&3] += float64(v)
	}
	return s[0] + s[1] + s[2] + s[3]
}

// sumSquaresGo sums in float64, in 8 partial sums as the assembly does.
func sumSquaresGo(x []float32) float64 {
	var s [8]float64
	for i, v := range x {
		s[i&7] += float64(v) * float64(v)
	}
	return (s[0] + s[4]) + (s[2] + s[6]) + ((s[1] + s[5]) + (s[3] + s[7]))
}

// Softmax replaces x by exp(x) / sum(exp(x)).
func Softmax(x []float32) {
	if len(x) == 0 {
		return
	}
	top := maximum(x)
	sum := expSum(x, x, top)
	Scale(x, float32(1/sum))
}

// LogSumExp returns log(sum(exp(x))) with a sum in float64: -LogSumExp(x) +
// x[i] is the log-probability of i where x are logits. The exponentials are
// float32, so the result is good to about 1e-7.
func LogSumExp(x []float32) float64 {
	if len(x) == 0 {
		return math.Inf(-1)
	}
	top := maximum(x)
	if math.IsInf(float64(top), 0) {
		return float64(top)
	}
	return float64(top) + math.Log(expSum(nil, x, top))
}

// expSumGo returns the sum of exp(x[i]-top) and stores the terms in dst unless
// it is nil.
func expSumGo(dst, x []float32, top float32) float64 {
	var sum float64
	for i, v := range x {
		e := exp32(v - top)
		if dst != nil {
			dst[i] = e
		}
		sum += float64(e)
	}
	return sum
}

// Divergence returns the Kullback-Leibler divergence, in nats, of the softmax
// distribution Q of the logits q from P of p, with the logarithms of both sums of
// exponentials:
//
//	KL = sum P (ln P - ln Q) = sum P (p - q) - lse(p) + lse(q)
//
// The second form needs one exponential per entry and distribution. They are
// float32, sums and differences float64: the result is good to about 1e-7. len(q)
// is len(p).
func Divergence(p, q []float32) (kl, lseP, lseQ float64) {
	q = q[:len(p)]
	topP, topQ := maximum(p), maximum(q)
	sumP, sumQ, diff := divergence(p, q, topP, topQ)
	lseP = float64(topP) + math.Log(sumP)
	lseQ = float64(topQ) + math.Log(sumQ)
	// Rounding may leave a tiny negative number where P and Q agree.
	return max(0, diff/sumP-lseP+lseQ), lseP, lseQ
}

func divergenceGo(p, q []float32, topP, topQ float32) (sumP, sumQ, diff float64) {
	for i, a := range p {
		b := q[i]
		e := float64(exp32(a - topP))
		sumP += e
		diff += e * (float64(a) - float64(b))
		sumQ += float64(exp32(b - topQ))
	}
	return sumP, sumQ, diff
}

func maximumGo(x []float32) float32 {
	top := float32(math.Inf(-1))
	for _, v := range x {
		top = max(top, v) // NaN if there is one
	}
	return top
}

// ArgMax returns the index of the largest element, the first of equal ones; -1
// for an empty slice or one without any number but -Inf and NaN.
func ArgMax(x []float32) int {
	best, at := float32(math.Inf(-1)), -1
	for i, v := range x {
		if v > best {
			best, at = v, i
		}
	}
	return at
}

// Top fills dst with the indices of the len(dst) largest elements, largest first,
// among equal ones the first first; the result is shorter where x is.
func Top(dst []int, x []float32) []int {
	dst = dst[:min(len(dst), len(x))]
	if len(dst) == 0 {
		return dst
	}
	last := len(dst) - 1
	const run = 256 // elements that are passed over at once if none of them is large enough
	for i := 0; i < len(x); i++ {
		if i > last && i%run == 0 && i+run <= len(x) && maximum(x[i:i+run]) <= x[dst[last]] {
			i += run - 1
			continue
		}
		v, j := x[i], i
		if i > last {
			if v <= x[dst[last]] {
				continue
			}
			j = last
		}
		for ; j > 0 && v > x[dst[j-1]]; j-- {
			dst[j] = dst[j-1]
		}
		dst[j] = i
	}
	return dst
}

// exp32 is exp with the steps of the assembly: x = n*ln(2) + r, a polynomial
// for exp(r) with |r| <= ln(2)/2 (Cephes, expf), times 2^n.
func exp32(x float32) float32 {
	if x != x {
		return x
	}
	x = min(max(x, -104), 89)
	n := float32(math.RoundToEven(float64(x * 1.44269504088896341)))
	r := float64(x) - float64(n)*0.693359375
	r -= float64(n) * -2.12194440e-4
	f := float32(r)
	p := float32(1.9875691500e-4)
	for _, c := range [...]float32{1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1} {
		p = float32(p*f) + c
	}
	p = float32(float32(p*f)*f) + f + 1
	return float32(math.Ldexp(float64(p), int(n)))
}

// SiLUMul computes out = gate * sigmoid(gate) * up; out may be one of them.
func SiLUMul(out, gate, up []float32) { siluMul(out[:len(gate)], gate, up[:len(gate)]) }

func siluMulGo(out, gate, up []float32) {
	for i, g := range gate {
		out[i] = g / (1 + exp32(-g)) * up[i]
	}
}

// SiLU computes out = x * sigmoid(x); out may be x.
func SiLU(out, x []float32) { sigmoidTimes(out[:len(x)], x, &units) }

// units and quicks are factors for sigmoidTimes.
var units, quicks = repeated(1), repeated(1 / 1.702)

func repeated(v float32) (x [256]float32) {
	for i := range x {
		x[i] = v
	}
	return x
}

// sigmoidTimes computes out = x * sigmoid(x) * factor.
func sigmoidTimes(out, x []float32, factor *[256]float32) {
	for len(x) > 0 {
		n := min(len(x), len(factor))
		siluMul(out[:n], x[:n], factor[:n])
		out, x = out[n:], x[n:]
	}
}

// GELU computes out = x * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))) / 2; out
// may be x.
func GELU(out, x []float32) { gelu(out[:len(x)], x) }

func geluGo(out, x []float32) {
	for i, v := range x {
		// (1 + tanh(y))/2 = 1 / (1 + exp(-2y))
		out[i] = v / (1 + exp32(-1.5957691216057308*v*(1+0.044715*v*v)))
	}
}

// GELUErf computes out = x * (1 + erf(x/sqrt(2))) / 2; out may be x.
func GELUErf(out, x []float32) { geluErf(out[:len(x)], x) }

func geluErfGo(out, x []float32) {
	for i, v := range x {
		out[i] = float32(0.5 * float64(v) * (1 + math.Erf(float64(v)*math.Sqrt2/2)))
	}
}

// GELUQuick computes out = x * sigmoid(1.702 x); out may be x.
func GELUQuick(out, x []float32) {
	out = out[:len(x)]
	affine(out, x, 1.702, 0)
	sigmoidTimes(out, out, &quicks)
}

// ReLUSquared computes out = max(x, 0)^2; out may be x.
func ReLUSquared(out, x []float32) {
	out = out[:len(x)]
	clamp(out, x, 0, float32(math.Inf(1)))
	Mul(out, out)
}

// SwiGLUClamped computes gate = g * sigmoid(1.702 g) * (u + 1) with g = min(gate,
// limit) and u = up between -limit and limit, which it leaves in up plus 1.
func SwiGLUClamped(gate, up []float32, limit float32) {
	up = up[:len(gate)]
	clamp(gate, gate, float32(math.Inf(-1)), limit)
	clamp(up, up, -limit, limit)
	affine(up, up, 1, 1)
	GELUQuick(gate, gate)
	Mul(gate, up)
}

// Clamp computes x = min(max(x, low), high); NaN stays.
func Clamp(x []float32, low, high float32) { clamp(x, x, low, high) }

func clampGo(out, x []float32, low, high float32) {
	for i, v := range x {
		out[i] = min(max(v, low), high)
	}
}

// Softcap computes x = limit * tanh(x/limit).
func Softcap(x []float32, limit float32) { softcap(x, limit) }

func softcapGo(x []float32, limit float32) {
	for i, v := range x {
		// tanh(y) = 1 - 2/(exp(2y)+1)
		x[i] = limit * (1 - 2/(exp32(2/limit*v)+1))
	}
}

// Rope rotates the heads of one token, x being (heads, headDim): in each head
// pair i of len(cos) turns by the angle whose cosine is cos[i] and whose sine
// is sin[i]. Pairs are elements (i, i+len(cos)) if half, else (2i, 2i+1);
// elements beyond the pairs stay.
func Rope(x []float32, headDim int, cos, sin []float32, half bool) {
	n := len(cos)
	sin = sin[:n]
	for ; len(x) >= headDim && headDim > 0; x = x[headDim:] {
		if half {
			a, b := x[:n], x[n:2*n]
			rotate(a, b, cos, sin)
			continue
		}
		rotatePairs(x[:2*n], cos, sin)
	}
}

func rotatePairsGo(x, cos, sin []float32) {
	for i, c := range cos {
		a, b, s := x[2*i], x[2*i+1], sin[i]
		x[2*i], x[2*i+1] = a*c-b*s, a*s+b*c
	}
}

func rotateGo(a, b, cos, sin []float32) {
	for i, c := range cos {
		x, y, s := a[i], b[i], sin[i]
		a[i], b[i] = x*c-y*s, x*s+y*c
	}
}

// Add computes dst += x.
func Add(dst, x []float32) { scaleAdd(dst[:len(x)], x, 1) }

// ScaleAdd computes dst += s*x.
func ScaleAdd(dst, x []float32, s float32) { scaleAdd(dst[:len(x)], x, s) }

func scaleAddGo(dst, x []float32, s float32) {
	for i, v := range x {
		dst[i] += s * v
	}
}

// Scale computes x *= s.
func Scale(x []float32, s float32) { affine(x, x, s, 0) }

// Mul computes dst *= x.
func Mul(dst, x []float32) { mulScale(dst[:len(x)], dst[:len(x)], x, 1) }

// Dot returns the sum of x[i]*y[i], len(y) >= len(x).
func Dot(x, y []float32) float32 { return dotF32(x, y) }

// ToHalf rounds float32 to half precision, to nearest even; what is too large
// becomes infinite.
func ToHalf(dst []uint16, x []float32) { toHalf(dst[:len(x)], x) }

func toHalfGo(dst []uint16, x []float32) {
	for i, v := range x {
		b := math.Float32bits(v)
		sign := uint16(b >> 16 & 0x8000)
		b &= 0x7fffffff
		switch {
		case b > 0x7f800000: // NaN stays one
			dst[i] = sign | 0x7e00 | uint16(b>>13&0x1ff)
		case b >= 0x47800000:
			dst[i] = sign | 0x7c00
		case b < 0x38800000: // subnormal: let the float adder round
			dst[i] = sign | uint16(math.Float32bits(math.Float32frombits(b)+0.5)-0x3f000000)
		default:
			dst[i] = sign | uint16((b-0x38000000+0xfff+b>>13&1)>>13)
		}
	}
}

// FromHalf expands half precision to float32.
func FromHalf(dst []float32, x []uint16) { fromHalf(dst[:len(x)], x) }

func fromHalfGo(dst []float32, x []uint16) {
	for i, v := range x {
		dst[i] = halfToFloat(v)
	}
}
