package quantize

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/smeltgguf/smelt/formats"
	"github.com/smeltgguf/smelt/internal/imatrix"
	"github.com/smeltgguf/smelt/internal/stream"
)

// A journal tells what an unfinished run has written. It lies beside the first
// output's temporary file, a line of JSON per record: first a journalHead, then
// a journalUnit for each finished run of rows. Records are appended after the
// bytes that they speak of; a resumed run checks these against the checksums,
// so that neither a lost line nor a lost page does harm.

type journalHead struct {
	Plan    string   `json:"plan"`    // hash of all that decides the bytes
	Measure bool     `json:"measure"` // exact errors were asked for
	Temps   []string `json:"temps"`   // names of the temporary files
}

type journalUnit struct {
	Job    int             `json:"j"`
	First  int             `json:"r"`
	Rows   int             `json:"n"`
	Sum    uint32          `json:"c"`
	Errors []stream.Errors `json:"e,omitempty"`
}

// work is the open files of a run.
type work struct {
	outs    []*stream.Output
	journal *os.File
	path    string                 // of the journal
	units   map[[2]int]journalUnit // of the run that this one goes on with, by job and first row
	size    int64                  // of the journal's good lines
	closed  bool
}

func journalPath(output string) string {
	return filepath.Join(filepath.Dir(output), stream.HiddenName(output)+".journal")
}

// open creates the outputs, or takes up those of an earlier run.
func (p *Plan) open(specs []stream.Spec, opt *RunOptions) (*work, error) {
	hash, err := p.hash(opt.Version)
	if err != nil {
		return nil, err
	}
	w := &work{path: journalPath(specs[0].Path)}
	if err := w.openJournal(false); err != nil {
		return nil, err
	}
	head := journalHead{Plan: hash, Measure: opt.Measure}
	inputs := p.Inputs()
	old, units, err := w.readJournal()
	if opt.Resume {
		if err == nil {
			err = w.take(old, head, specs, opt.Force, inputs)
		}
		if err == nil {
			w.units = units
			opt.notice("resuming: %d pieces are done already", len(w.units))
			return w, nil
		}
		opt.notice("starting over: %v", err)
	}
	if w.outs, err = stream.CreateAll(specs, opt.Force, inputs); err != nil {
		if w.journal != nil {
			w.journal.Close()
		}
		return nil, err
	}
	if err := w.start(p, head, old, specs); err != nil {
		w.giveUp(false)
		return nil, err
	}
	return w, nil
}

// journalStart is how a journal begins.
const journalStart = `{"plan":"`

// openJournal opens and locks the journal that an earlier run has left, if
// there is one; else it makes one if create is set. What is no journal is left
// as it is.
func (w *work) openJournal(create bool) error {
	fail := func(msg string, err error) error {
		if err != nil {
			msg += ": " + err.Error()
		}
		return &stream.OutputError{Path: w.path, Msg: msg, Hint: "remove it, or write to another name", Err: err}
	}
	for range 100 {
		st, err := os.Lstat(w.path)
		flag := os.O_RDWR
		switch {
		case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR):
			if !create {
				return nil
			}
			flag |= os.O_CREATE | os.O_EXCL
		case err != nil:
			return fail("cannot open the journal", err)
		case !st.Mode().IsRegular():
			return fail("not a journal but in its place: no regular file", nil)
		}
		f, err := os.OpenFile(w.path, flag, 0o666)
		if errors.Is(err, fs.ErrExist) || flag&os.O_EXCL == 0 && errors.Is(err, fs.ErrNotExist) {
			continue // another run was faster
		}
		if err != nil {
			return fail("cannot open the journal", err)
		}
		if errors.Is(stream.Lock(f), stream.ErrLocked) {
			f.Close()
			return &stream.OutputError{Path: w.path, Msg: "another run is writing this output", Hint: "wait for it, or end it"}
		}
		// A run that has just ended removed the file before it let go of it.
		if !isAt(f, w.path) {
			f.Close()
			continue
		}
		begin := make([]byte, len(journalStart))
		n, err := f.ReadAt(begin, 0)
		if err != nil && !errors.Is(err, io.EOF) {
			f.Close()
			return fail("cannot read the journal", err)
		}
		if !strings.HasPrefix(journalStart, string(begin[:n])) {
			f.Close()
			return fail("not a journal but in its place", nil)
		}
		w.journal = f
		return nil
	}
	return fail("cannot open the journal: it comes and goes", nil)
}

// isAt reports whether path itself, not what it may link to, is the file f.
func isAt(f *os.File, path string) bool {
	is, err := f.Stat()
	if err != nil {
		return false
	}
	at, err := os.Lstat(path)
	return err == nil && os.SameFile(is, at)
}

// start writes all but the tensor data, and the journal's head; what earlier
// runs left of these outputs is removed.
func (w *work) start(p *Plan, head, old journalHead, specs []stream.Spec) error {
	if w.journal == nil {
		if err := w.openJournal(true); err != nil {
			return err
		}
	}
	for i, s := range specs {
		// Where there are no locks the journal's word counts.
		if i < len(old.Temps) && old.Temps[i] != filepath.Base(w.outs[i].Temp()) && stream.IsTemp(old.Temps[i], s.Path) {
			os.Remove(filepath.Join(filepath.Dir(s.Path), old.Temps[i]))
		}
		stream.RemoveStale(s.Path, w.outs[i])
	}
	if err := p.writeHeaders(w.outs); err != nil {
		return err
	}
	for _, o := range w.outs {
		head.Temps = append(head.Temps, filepath.Base(o.Temp()))
	}
	if err := w.truncate(0); err != nil {
		return err
	}
	return w.append(head)
}

func (w *work) truncate(size int64) error {
	err := w.journal.Truncate(size)
	if err == nil {
		_, err = w.journal.Seek(size, io.SeekStart)
	}
	if err != nil {
		return &stream.OutputError{Path: w.path, Msg: "cannot write the journal: " + err.Error(), Err: err}
	}
	return nil
}

func (w *work) append(record any) error {
	line, err := json.Marshal(record)
	if err != nil {
		return err
	}
	if _, err := w.journal.Write(append(line, '\n')); err != nil {
		return &stream.OutputError{Path: w.path, Msg: "cannot write the journal: " + err.Error(), Err: err}
	}
	return nil
}

// readJournal reads the head of the journal that an earlier run has left, and
// its units. The error says why that cannot be done.
func (w *work) readJournal() (journalHead, map[[2]int]journalUnit, error) {
	var head journalHead
	if w.journal == nil {
		return head, nil, fmt.Errorf("no unfinished run has left %s", w.path)
	}
	r := bufio.NewReaderSize(w.journal, 64<<10)
	line, err := readLine(r)
	if err != nil || json.Unmarshal(line, &head) != nil {
		return head, nil, fmt.Errorf("the journal %s is damaged", w.path)
	}
	w.size = int64(len(line))
	units := map[[2]int]journalUnit{}
	for {
		line, err := readLine(r)
		var u journalUnit
		if err != nil || json.Unmarshal(line, &u) != nil {
			return head, units, nil // the end, or a line cut short
		}
		w.size += int64(len(line))
		units[[2]int{u.Job, u.First}] = u
	}
}

// readLine reads a line of at most 1 MiB, its end included.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if !errors.Is(err, bufio.ErrBufferFull) || len(line) > 1<<20 {
			return line, err
		}
	}
}

// take takes up the outputs that an old journal is of.
func (w *work) take(old, want journalHead, specs []stream.Spec, force bool, inputs []string) error {
	switch {
	case old.Plan != want.Plan:
		return fmt.Errorf("the unfinished run was of another input or plan")
	case old.Measure != want.Measure:
		return fmt.Errorf("the unfinished run did not measure errors in the same way")
	case len(old.Temps) != len(specs):
		return fmt.Errorf("the journal %s is damaged", w.path)
	}
	temps := make([]string, len(specs))
	for i, t := range old.Temps {
		if !stream.IsTemp(t, specs[i].Path) {
			return fmt.Errorf("the unfinished run was of another output")
		}
		temps[i] = filepath.Join(filepath.Dir(specs[i].Path), t)
	}
	outs, err := stream.Reopen(specs, temps, force, inputs)
	if err != nil {
		return err
	}
	w.outs = outs
	return w.truncate(w.size)
}

// done returns what tells the stream that a unit needs no work: the journal
// knows it, and its bytes are what was written.
func (w *work) done(jobs []stream.Job) func(job, first int) (stream.Unit, bool) {
	if len(w.units) == 0 {
		return nil
	}
	return func(job, first int) (stream.Unit, bool) {
		u, ok := w.units[[2]int{job, first}]
		j := &jobs[job]
		if !ok || u.Rows <= 0 || u.Rows > j.Src.Count()-first {
			return stream.Unit{}, false
		}
		// Targets may have copies; the sum of each set of copies must fit.
		for copy := 0; ; copy++ {
			sum, more, err := unitSum(j, first, u.Rows, copy)
			if err != nil || sum != u.Sum {
				return stream.Unit{}, false
			}
			if !more {
				break
			}
		}
		return stream.Unit{Job: job, First: first, Rows: u.Rows, Sum: u.Sum, Errors: u.Errors}, true
	}
}

// unitSum returns the checksum of what is in the outputs for a run of rows,
// taken from the given copy of each target or its last; more tells whether any
// target has further copies.
func unitSum(j *stream.Job, first, rows, copy int) (sum uint32, more bool, err error) {
	var buf [64 << 10]byte
	for _, t := range j.Targets {
		c := t.W.(*copies)
		more = more || copy+1 < len(c.outs)
		n := min(copy, len(c.outs)-1)
		row := int64(t.Type.RowSize(j.Src.Len()))
		r := io.NewSectionReader(c.outs[n], c.offsets[n]+int64(first)*row, int64(rows)*row)
		for {
			n, err := r.Read(buf[:])
			sum = stream.Checksum(sum, buf[:n])
			if err == io.EOF {
				break
			}
			if err != nil {
				return 0, false, err
			}
		}
	}
	return sum, more, nil
}

func (w *work) finished(u stream.Unit) error {
	return w.append(journalUnit{u.Job, u.First, u.Rows, u.Sum, u.Errors})
}

// commit puts the outputs under their names.
func (w *work) commit() error {
	w.closed = true
	err := stream.CommitAll(w.outs)
	w.dropJournal()
	return err
}

// dropJournal removes the journal. One that stays does no harm: it is of files
// that are no more.
func (w *work) dropJournal() {
	err := os.Remove(w.path) // while it is locked, and so this run's
	w.journal.Close()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		os.Remove(w.path) // some systems keep files that are open
	}
}

// interrupted reports whether a run ended for a reason that lies outside of it:
// the same one may well go on.
func interrupted(ctx context.Context, err error) bool {
	var errno syscall.Errno
	return ctx.Err() != nil || errors.As(err, &errno) || errors.Is(err, formats.ErrChanged)
}

// giveUp removes what is unfinished, or leaves it for a resumed run. It reports
// whether there is something left.
func (w *work) giveUp(keep bool) bool {
	if w.closed {
		return false
	}
	w.closed = true
	for _, o := range w.outs {
		if keep {
			o.Keep()
		} else {
			o.Abort()
		}
	}
	switch {
	case w.journal == nil:
	case keep:
		w.journal.Close()
	default:
		w.dropJournal()
	}
	return keep
}

// hash identifies the program, the plan and its inputs: two runs with the same
// hash write the same bytes.
func (p *Plan) hash(version string) (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "%q\n", version)
	for _, o := range p.Outputs {
		for _, l := range o.Layouts {
			h.Write(l.Header)
		}
		for i := range o.Tensors {
			t := &o.Tensors[i]
			fmt.Fprintf(h, "%q %d %v\n", t.Source, t.From, t.Dims)
			if e := t.importance; e != nil {
				if err := hashValues(h, e); err != nil {
					return "", err
				}
			}
		}
	}
	for _, path := range p.Source.Paths {
		st, err := os.Stat(path)
		if err != nil {
			return "", formats.Malformedf(path, -1, "%v", err)
		}
		fmt.Fprintf(h, "%d %d\n", st.Size(), st.ModTime().UnixNano())
	}
	// Files of the same size and time are common: copies of archives whose
	// times are set to a fixed one, layers of containers.
	for i := range p.tensors {
		if err := hashSamples(h, p.tensors[i].Rows); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// hashSamples writes a few KiB from the start, the middle and the end of a
// tensor to h, whole rows.
func hashSamples(h io.Writer, rows stream.Rows) error {
	size := rows.Type().RowSize(rows.Len())
	n := min(rows.Count(), max(1, (4<<10)/max(1, size)))
	buf := make([]byte, n*size)
	last := rows.Count() - n
	for _, first := range []int{0, last / 2, last} {
		if err := rows.ReadRows(buf, first, n); err != nil {
			return err
		}
		if _, err := h.Write(buf); err != nil {
			return err
		}
	}
	return nil
}

// hashValues writes the values of e to h.
func hashValues(h io.Writer, e *imatrix.Entry) error {
	buf := make([]float32, min(e.Len(), 16<<10))
	for first := 0; first < e.Len(); first += len(buf) {
		piece := buf[:min(len(buf), e.Len()-first)]
		if err := e.ReadValues(piece, first); err != nil {
			return err
		}
		if err := binary.Write(h, binary.LittleEndian, piece); err != nil {
			return err
		}
	}
	return nil
}

// Inputs returns the files that nothing written may replace.
func (p *Plan) Inputs() []string {
	in := slices.Concat(p.Source.Paths, p.opt.Inputs)
	if p.opt.ImatrixFile != "" {
		in = append(in, p.opt.ImatrixFile)
	}
	return in
}
