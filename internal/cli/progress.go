package cli

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// progress shows how far a command is: a bar with rate and time left on a
// terminal, a plain line every few seconds elsewhere, nothing when quiet. All
// methods may be called from several goroutines.
type progress struct {
	mu    sync.Mutex
	w     io.Writer
	bar   *progressbar.ProgressBar // nil off a terminal
	label string
	total int64
	unit  string
	start time.Time
	last  time.Time
	quiet bool
}

// plainInterval is how often a line is printed where there is no terminal.
const plainInterval = 10 * time.Second

// newProgress counts up to total: bytes where unit is "B", else things called
// unit ("tok").
func newProgress(w io.Writer, label, unit string, total int64, quiet bool) *progress {
	p := &progress{w: w, label: label, total: total, unit: unit, start: time.Now(), last: time.Now(), quiet: quiet}
	if f, ok := w.(*os.File); ok && !quiet && term.IsTerminal(int(f.Fd())) {
		opts := []progressbar.Option{
			progressbar.OptionSetWriter(w),
			progressbar.OptionSetDescription(label),
			progressbar.OptionThrottle(100 * time.Millisecond),
			progressbar.OptionShowCount(),
			progressbar.OptionSetPredictTime(true),
			progressbar.OptionFullWidth(),
			progressbar.OptionClearOnFinish(),
		}
		if unit == "B" {
			opts = append(opts, progressbar.OptionShowBytes(true))
		} else {
			opts = append(opts, progressbar.OptionShowIts(), progressbar.OptionSetItsString(unit))
		}
		p.bar = progressbar.NewOptions64(total, opts...)
	}
	return p
}

// set says that done of the total are finished; note is added to the line
// ("ppl 12.3"), if any.
func (p *progress) set(done int64, note string) {
	if p.quiet {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		if note != "" {
			p.bar.Describe(p.label + " " + note)
		}
		_ = p.bar.Set64(done) // a bar that cannot be drawn must not stop the work
		return
	}
	now := time.Now()
	if now.Sub(p.last) < plainInterval || done == 0 {
		return
	}
	p.last = now
	elapsed := now.Sub(p.start)
	rate := float64(done) / elapsed.Seconds()
	left := time.Duration(float64(p.total-done) / rate * float64(time.Second)).Round(time.Second)
	amount := fmt.Sprintf("%.0f %s/s", rate, p.unit)
	if p.unit == "B" {
		amount = fmt.Sprintf("%.0f MB/s", rate/1e6)
	}
	if note != "" {
		note = ", " + note
	}
	fmt.Fprintf(p.w, "%s: %.0f%%, %s, %s left%s\n", p.label, 100*float64(done)/float64(p.total), amount, left, note)
}

// clear makes room for a line of text; the bar is drawn again when it moves.
func (p *progress) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		_ = p.bar.Clear()
	}
}

// finish removes the bar.
func (p *progress) finish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		_ = p.bar.Finish()
	}
}
