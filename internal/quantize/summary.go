package quantize

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"slices"

	"github.com/smeltgguf/smelt/internal/recipe"
	"github.com/smeltgguf/smelt/quant"
)

// Summary is what people want to know of one output, and the form of --json
// and --report.
type Summary struct {
	FType         string         `json:"ftype"`
	FileType      uint32         `json:"file_type"`
	Paths         []string       `json:"paths,omitempty"`
	Parameters    uint64         `json:"parameters"`
	SourceBytes   int64          `json:"source_bytes"` // of tensor data
	Bytes         int64          `json:"bytes"`        // of tensor data
	FileBytes     int64          `json:"file_bytes"`
	BitsPerWeight float64        `json:"bits_per_weight"`
	Types         []TypeCount    `json:"types"` // from most bytes to fewest
	Substitutions []Substitution `json:"substitutions"`
	Notes         []string       `json:"notes,omitempty"`      // requests without effect
	Importance    *Importance    `json:"importance,omitempty"` // nil without a matrix
	// NeedImportance lists tensors whose type needs the importance that is
	// missing; only a dry run gets that far.
	NeedImportance []string     `json:"need_importance,omitempty"`
	Plan           []TensorPlan `json:"plan,omitempty"` // where nothing has run
	// Sampled: the errors are those of a part of each tensor.
	Sampled bool          `json:"sampled,omitempty"`
	Tensors []TensorError `json:"tensors,omitempty"`
}

// TypeCount counts the tensors of a type.
type TypeCount struct {
	Type    string `json:"type"`
	Tensors int    `json:"tensors"`
	Bytes   int64  `json:"bytes"`
}

// Substitution is a tensor that did not get the type chosen for it.
type Substitution struct {
	Tensor string `json:"tensor"`
	Wanted string `json:"wanted"`
	Got    string `json:"got"`
	Reason string `json:"reason"`
}

// Importance tells how an importance matrix covers the quantized tensors.
type Importance struct {
	With      int      `json:"with"`
	Without   int      `json:"without"`
	WrongSize int      `json:"wrong_size"`
	Missing   []string `json:"missing,omitempty"` // without or of the wrong size
	Unseen    int      `json:"unseen_experts,omitempty"`
}

// TensorPlan is what becomes of a tensor.
type TensorPlan struct {
	Name  string   `json:"name"`
	From  string   `json:"from"`
	Type  string   `json:"type"`
	Dims  []uint64 `json:"dims"`
	Bytes int64    `json:"bytes"`
	Note  string   `json:"note,omitempty"` // why, where there is something to say
}

// TensorError is what a tensor has become, and at what loss.
type TensorError struct {
	TensorPlan
	Measured int64  `json:"measured"` // elements
	RMSE     Figure `json:"rmse"`
	Relative Figure `json:"relative_rmse"`
	MaxAbs   Figure `json:"max_abs"`
	Cosine   Figure `json:"cosine"`
	SNR      Figure `json:"snr_db"` // infinite without any error
}

// Figure is a number that JSON has as null where it is infinite or none: the
// weights may be.
type Figure float64

// MarshalJSON implements json.Marshaler.
func (f Figure) MarshalJSON() ([]byte, error) {
	if math.IsInf(float64(f), 0) || math.IsNaN(float64(f)) {
		return []byte("null"), nil
	}
	return json.Marshal(float64(f))
}

// Summarize says what output i of the plan is, or, given the result of a run,
// what it has become.
func (p *Plan) Summarize(i int, res *Result) *Summary {
	o := p.Outputs[i]
	s := &Summary{FType: o.Target.Name(), FileType: o.FileType, Substitutions: []Substitution{}, Notes: o.Notes}
	for _, l := range o.Layouts {
		s.FileBytes += l.Size
	}
	counts := map[quant.Type]*TypeCount{}
	var im Importance
	for k := range o.Tensors {
		t, src := &o.Tensors[k], &p.tensors[k]
		n := src.bytes(t.Type)
		s.Parameters += src.elems()
		s.SourceBytes += src.bytes(t.From)
		s.Bytes += n
		c := counts[t.Type]
		if c == nil {
			c = &TypeCount{Type: t.Type.String()}
			counts[t.Type] = c
		}
		c.Tensors++
		c.Bytes += n
		if t.Substituted() {
			s.Substitutions = append(s.Substitutions, Substitution{t.Name, t.Wanted.String(), t.Type.String(), t.Reason})
		}
		switch t.Coverage {
		case Covered:
			im.With++
			im.Unseen += t.importance.Unseen()
		case Uncovered:
			im.Without++
			im.Missing = append(im.Missing, t.Name)
		case Unfitting:
			im.WrongSize++
			im.Missing = append(im.Missing, t.Name)
		}
		if t.NeedsImportance && t.Coverage != Covered && t.Converted() {
			s.NeedImportance = append(s.NeedImportance, t.Name)
		}
	}
	for _, c := range counts {
		s.Types = append(s.Types, *c)
	}
	slices.SortFunc(s.Types, func(a, b TypeCount) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Type, b.Type))
	})
	if s.Parameters > 0 {
		s.BitsPerWeight = float64(s.Bytes) * 8 / float64(s.Parameters)
	}
	if p.opt.Imatrix != nil {
		s.Importance = &im
	}
	if res != nil {
		s.Paths = res.Paths[i]
		s.Sampled = res.Sampled
		for k, e := range res.Errors[i] {
			s.Tensors = append(s.Tensors, TensorError{
				TensorPlan: p.plan(o, k),
				Measured:   e.N, RMSE: Figure(e.RMSE()), Relative: Figure(e.Relative()), MaxAbs: Figure(e.Max),
				Cosine: Figure(e.Cosine()), SNR: Figure(e.SNR()),
			})
		}
		return s
	}
	for k := range o.Tensors {
		s.Plan = append(s.Plan, p.plan(o, k))
	}
	return s
}

// Worst returns the n quantized tensors with the largest relative errors, first
// those where these are no numbers.
func (s *Summary) Worst(n int) []TensorError {
	var worst []TensorError
	for _, t := range s.Tensors {
		if t.Measured > 0 && t.RMSE != 0 {
			worst = append(worst, t)
		}
	}
	size := func(t TensorError) float64 {
		if e := float64(t.Relative); !math.IsNaN(e) {
			return e
		}
		return math.Inf(1)
	}
	slices.SortStableFunc(worst, func(a, b TensorError) int { return cmp.Compare(size(b), size(a)) })
	return worst[:min(n, len(worst))]
}

// Coverage returns the line that says how the importance matrix covers the
// quantized tensors.
func (im *Importance) String() string {
	return fmt.Sprintf("%d tensors with, %d without, %d of the wrong size", im.With, im.Without, im.WrongSize)
}

// plan says what becomes of tensor k of output o.
func (p *Plan) plan(o *Output, k int) TensorPlan {
	t := &o.Tensors[k]
	note := t.Kept
	switch {
	case t.Substituted():
		note = fmt.Sprintf("for %s: %s", t.Wanted, t.Reason)
	case t.By != nil:
		note = "as asked for"
	}
	if t.Converted() && recipe.Quantized(t.Type) && (t.Coverage == Uncovered || t.Coverage == Unfitting) {
		if note != "" {
			note += "; "
		}
		note += "no importance"
	}
	return TensorPlan{t.Name, t.From.String(), t.Type.String(), t.Dims, p.tensors[k].bytes(t.Type), note}
}
