package imatrix

// Collector sums squared activations while a model runs on a calibration text.
// Sums are float64, so that they do not depend on how the text is cut.
type Collector struct {
	tensors map[string]*sums
	skip    func(tensor string) bool
}

type sums struct {
	values [][]float64 // per matrix, per input channel; nil: never reached
	counts []float64   // activations summed, per matrix
}

// NewCollector returns an empty collector that passes over tensors that skip
// accepts.
func NewCollector(skip func(tensor string) bool) *Collector {
	return &Collector{tensors: map[string]*sums{}, skip: skip}
}

// Observe adds n rows of activations, x being (n, channels), that went through
// matrix number expert of a tensor. It is what decoder.Options.Observe takes.
func (c *Collector) Observe(tensor string, expert int, x []float32, n int) {
	if n == 0 || c.skip(tensor) {
		return
	}
	s := c.tensors[tensor]
	if s == nil {
		s = &sums{}
		c.tensors[tensor] = s
	}
	for len(s.values) <= expert {
		s.values = append(s.values, nil)
		s.counts = append(s.counts, 0)
	}
	channels := len(x) / n
	if s.values[expert] == nil {
		s.values[expert] = make([]float64, channels)
	}
	v := s.values[expert]
	for ; len(x) >= channels && n > 0; x, n = x[channels:], n-1 {
		for i, a := range x[:channels] {
			v[i] += float64(a) * float64(a)
		}
		s.counts[expert]++
	}
}

// Matrix returns what has been summed. experts says how many matrices a tensor
// has: those that the text never reached have no count.
func (c *Collector) Matrix(experts func(tensor string) int) *Matrix {
	m := New()
	for name, s := range c.tensors {
		channels := 0
		for _, v := range s.values {
			channels = max(channels, len(v))
		}
		n := max(len(s.values), experts(name))
		e := &Entry{Sums: make([]float32, n*channels), Counts: make([]float32, n)}
		for k, v := range s.values {
			e.Counts[k] = float32(s.counts[k])
			for i, x := range v {
				e.Sums[k*channels+i] = float32(x)
			}
		}
		m.Set(name, e)
	}
	return m
}
