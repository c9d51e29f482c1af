package torch

import (
	"cmp"
	"encoding/binary"
	"hash/crc32"
	"io"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/klauspost/compress/flate"

	"github.com/smeltgguf/smelt/formats"
)

// archive/zip of the standard library accepts much that makes readers of one
// file see different contents (flags, local headers that say something else,
// overlapping entries), and can read a record only from its start. Hence a
// reader of our own, which knows the little of zip that torch.save uses.

const (
	sigLocal     = 0x04034b50
	sigCentral   = 0x02014b50
	sigEnd       = 0x06054b50
	sigEnd64     = 0x06064b50
	sigLocator64 = 0x07064b50

	// maxRecords bounds the number of records of an archive.
	maxRecords = 1 << 17
	// maxRatio is more than deflate can compress: 258 bytes take 2 bits.
	maxRatio = 1032

	flagsAllowed  = 0x80e // compression level, data descriptor, UTF-8 names
	flagDesc      = 0x8
	methodStored  = 0
	methodDeflate = 8
)

// record is one entry of the archive.
type record struct {
	name         string // as in the archive, with its first directory
	flags        uint16
	method       uint16
	crc          uint32
	packed, size int64
	header       int64 // offset of the local header
	data         int64 // offset of the data
}

// archive is a zip file as torch.save writes it: all records are in one
// directory.
type archive struct {
	r       io.ReaderAt
	size    int64
	file    string
	root    string
	records []record // sorted by name
	// summed tells that the archive has checksums at all: torch.save can be
	// told not to compute any.
	summed bool

	readers []*recordReader // one for each storage
	mu      sync.Mutex      // of what follows, and of the readers' inflated
	active  []*recordReader // deflated records that are being read, at most maxActive
}

func (a *archive) errorf(off int64, format string, args ...any) error {
	return formats.Malformedf(a.file, off, format, args...)
}

func readZip(r io.ReaderAt, size int64, name string) (*File, error) {
	a := &archive{r: r, size: size, file: name}
	if err := a.readDirectory(); err != nil {
		return nil, err
	}
	for _, n := range []string{"constants.pkl", "code/"} {
		i, _ := slices.BinarySearchFunc(a.records, a.root+n, func(r record, s string) int { return strings.Compare(r.name, s) })
		if i < len(a.records) && strings.HasPrefix(a.records[i].name, a.root+n) {
			return nil, formats.Unsupportedf(name, -1, "TorchScript archive unsupported").WithHint("use a file with the model's state dict")
		}
	}
	if rec := a.find("byteorder"); rec != nil {
		order, err := a.readAll(rec, 16)
		if err != nil {
			return nil, err
		}
		if s := strings.TrimSpace(string(order)); s != "little" {
			return nil, formats.Unsupportedf(name, -1, "byteorder %s unsupported", formats.Quote(s))
		}
	}
	rec := a.find("data.pkl")
	if rec == nil {
		return nil, a.errorf(-1, "record data.pkl missing")
	}
	if err := a.checkWhole(rec); err != nil {
		return nil, err
	}
	l := newLoader()
	l.place = func(s *Storage) error {
		rec := a.find("data/" + s.key)
		if rec == nil {
			return bad("record data/%s missing", clean(s.key))
		}
		if rec.size != s.bytes() {
			return bad("storage %s needs %d bytes, record data/%s has %d", formats.Quote(s.key), s.bytes(), clean(s.key), rec.size)
		}
		rr := &recordReader{a: a, r: rec}
		a.readers = append(a.readers, rr)
		s.data = rr
		return nil
	}
	base := rec.data
	if rec.method != methodStored {
		base = -1
	}
	m := newMachine(name, a.open(rec), base, rec.size)
	m.reduce, m.persistent = l.reduce, l.persistent
	v, err := m.run()
	if err != nil {
		return nil, err
	}
	if m.pos != rec.size {
		return nil, m.errorf("%d bytes after the pickle's STOP", rec.size-m.pos)
	}
	f := &File{archive: a}
	f.Tensors, err = tensors(v, name)
	return f, err
}

// find returns the record of that name below the root directory.
func (a *archive) find(name string) *record {
	i, ok := slices.BinarySearchFunc(a.records, a.root+name, func(r record, s string) int { return strings.Compare(r.name, s) })
	if !ok {
		return nil
	}
	return &a.records[i]
}

// fields takes little-endian numbers from the front of b, which has enough.
type fields []byte

func (f *fields) u16() uint16 {
	v := binary.LittleEndian.Uint16(*f)
	*f = (*f)[2:]
	return v
}

func (f *fields) u32() uint32 {
	v := binary.LittleEndian.Uint32(*f)
	*f = (*f)[4:]
	return v
}

func (f *fields) u64() uint64 {
	v := binary.LittleEndian.Uint64(*f)
	*f = (*f)[8:]
	return v
}

func (a *archive) readAt(n int, off int64) (fields, error) {
	if off < 0 || off > a.size-int64(n) {
		return nil, a.errorf(off, "zip truncated")
	}
	b := make([]byte, n)
	if _, err := a.r.ReadAt(b, off); err != nil && err != io.EOF {
		return nil, err
	}
	return b, nil
}

// readDirectory reads and checks the central directory and all local headers.
func (a *archive) readDirectory() error {
	start, size, count, err := a.findDirectory()
	if err != nil {
		return err
	}
	if count > maxRecords {
		return formats.Unsupportedf(a.file, -1, "zip with %d records, more than %d", count, maxRecords)
	}
	if uint64(size) < count*46 {
		return a.errorf(start, "zip directory of %d bytes cannot have %d records", size, count)
	}
	if size > 64<<20 {
		return formats.Unsupportedf(a.file, start, "zip directory of %d bytes", size)
	}
	dir, err := a.readAt(int(size), start)
	if err != nil {
		return err
	}
	a.records = make([]record, 0, count)
	for len(dir) > 0 {
		at := start + size - int64(len(dir))
		if uint64(len(a.records)) == count {
			return a.errorf(at, "zip directory has more than its %d records", count)
		}
		rec, err := a.centralEntry(&dir, at)
		if err != nil {
			return err
		}
		a.records = append(a.records, rec)
	}
	if uint64(len(a.records)) != count {
		return a.errorf(start, "zip directory has %d records, not %d", len(a.records), count)
	}
	if err := a.checkNames(); err != nil {
		return err
	}
	return a.checkLayout(start)
}

// findDirectory reads the end of the archive; the directory stands right before
// it.
func (a *archive) findDirectory() (start, size int64, count uint64, err error) {
	tailLen := min(a.size, 22+math.MaxUint16)
	tail, err := a.readAt(int(tailLen), a.size-tailLen)
	if err != nil {
		return 0, 0, 0, err
	}
	end := int64(-1)
	for i := len(tail) - 22; i >= 0; i-- {
		if binary.LittleEndian.Uint32(tail[i:]) == sigEnd && int(binary.LittleEndian.Uint16(tail[i+20:])) == len(tail)-i-22 {
			end = a.size - tailLen + int64(i)
			break
		}
	}
	if end < 0 {
		return 0, 0, 0, formats.Malformedf(a.file, -1, "zip truncated: no end of central directory").WithHint("download it again")
	}
	f := tail[end-(a.size-tailLen)+4:]
	disk, dirDisk, here := f.u16(), f.u16(), f.u16()
	count = uint64(f.u16())
	size, start = int64(f.u32()), int64(f.u32())
	if disk == 0xffff && dirDisk == 0xffff {
		disk, dirDisk = 0, 0
	}
	if disk != 0 || dirDisk != 0 || uint64(here) != count {
		return 0, 0, 0, formats.Unsupportedf(a.file, end, "zip divided over several files")
	}
	// Numbers that do not fit are in a second record before this one; torch.save
	// writes it always.
	large := count == math.MaxUint16 || size == math.MaxUint32 || start == math.MaxUint32
	var loc fields
	if end >= 20 {
		if loc, err = a.readAt(20, end-20); err != nil {
			return 0, 0, 0, err
		}
	}
	if loc != nil && loc.u32() == sigLocator64 {
		loc.u32()
		at := int64(loc.u64())
		f, err := a.readAt(56, at)
		if err != nil {
			return 0, 0, 0, err
		}
		if f.u32() != sigEnd64 || f.u64() != 44 || at+56 != end-20 {
			return 0, 0, 0, a.errorf(at, "malformed zip64 end of central directory")
		}
		f = f[12:]
		here64, count64 := f.u64(), f.u64()
		size64, start64 := int64(f.u64()), int64(f.u64())
		differs := func(short, long uint64, limit uint64) bool { return short != limit && short != long }
		if here64 != count64 || differs(count, count64, math.MaxUint16) ||
			differs(uint64(size), uint64(size64), math.MaxUint32) || differs(uint64(start), uint64(start64), math.MaxUint32) {
			return 0, 0, 0, a.errorf(at, "zip64 end of central directory differs from the other")
		}
		count, size, start, end = count64, size64, start64, at
	} else if large {
		return 0, 0, 0, a.errorf(end, "zip64 locator missing")
	}
	if size < 0 || start < 0 || start > end || end-start != size {
		return 0, 0, 0, a.errorf(end, "zip directory [%d,+%d) does not end at %d", start, size, end)
	}
	return start, size, count, nil
}

// centralEntry takes an entry from the front of dir.
func (a *archive) centralEntry(dir *fields, at int64) (record, error) {
	var rec record
	if len(*dir) < 46 {
		return rec, a.errorf(at, "zip directory truncated")
	}
	f := *dir
	if f.u32() != sigCentral {
		return rec, a.errorf(at, "malformed zip directory")
	}
	f = f[4:]
	rec.flags, rec.method = f.u16(), f.u16()
	f = f[4:]
	rec.crc = f.u32()
	packed, size := f.u32(), f.u32()
	rec.packed, rec.size = int64(packed), int64(size)
	nameLen, extraLen, commentLen := int(f.u16()), int(f.u16()), int(f.u16())
	disk := f.u16()
	f = f[6:]
	header := f.u32()
	rec.header = int64(header)
	if len(f) < nameLen+extraLen+commentLen {
		return rec, a.errorf(at, "zip directory truncated")
	}
	rec.name = string(f[:nameLen])
	extra := f[nameLen:][:extraLen]
	*dir = f[nameLen+extraLen+commentLen:]
	q := formats.Quote(rec.name)
	// The zip64 field holds, in this order, those numbers that did not fit.
	z, err := zip64Extra(extra)
	if err != nil {
		return rec, a.errorf(at, "record %s: malformed extra field", q)
	}
	for _, n := range []struct {
		short uint32
		long  *int64
	}{{size, &rec.size}, {packed, &rec.packed}, {header, &rec.header}} {
		if n.short != math.MaxUint32 || z == nil {
			continue
		}
		if len(z) < 8 {
			return rec, a.errorf(at, "record %s: zip64 field too short", q)
		}
		*n.long = int64(z.u64())
	}
	if bad := rec.flags &^ flagsAllowed; bad != 0 {
		return rec, formats.Unsupportedf(a.file, at, "zip flag 0x%x refused: record %s", bad&-bad, q)
	}
	if disk != 0 {
		return rec, formats.Unsupportedf(a.file, at, "zip divided over several files")
	}
	switch rec.method {
	case methodStored:
		if rec.packed != rec.size {
			return rec, a.errorf(at, "record %s is stored, but has two sizes", q)
		}
	case methodDeflate:
		if rec.packed < 0 || rec.size < 0 || rec.size/maxRatio > rec.packed {
			return rec, a.errorf(at, "record %s: %d bytes cannot become %d", q, rec.packed, rec.size)
		}
	default:
		return rec, formats.Unsupportedf(a.file, at, "record %s: zip method %d unsupported", q, rec.method)
	}
	if rec.header < 0 || rec.packed < 0 || rec.header > a.size || rec.packed > a.size-rec.header {
		return rec, a.errorf(at, "record %s exceeds the file", q)
	}
	return rec, nil
}

// zip64Extra finds the zip64 field among extra fields, nil if there is none.
func zip64Extra(extra fields) (fields, error) {
	var z fields
	for len(extra) > 0 {
		if len(extra) < 4 {
			return nil, io.ErrUnexpectedEOF
		}
		id, n := extra.u16(), int(extra.u16())
		if n > len(extra) {
			return nil, io.ErrUnexpectedEOF
		}
		if id == 1 {
			if z != nil {
				return nil, io.ErrUnexpectedEOF
			}
			z = extra[:n:n]
		}
		extra = extra[n:]
	}
	return z, nil
}

// checkNames sorts the records and looks at their names: all in one directory,
// none that readers could take for another.
func (a *archive) checkNames() error {
	if len(a.records) == 0 {
		return a.errorf(-1, "zip has no records")
	}
	folded := make([]string, len(a.records))
	for i, r := range a.records {
		dir, _, ok := strings.Cut(r.name, "/")
		root := dir + "/"
		if !ok || strings.ContainsAny(r.name, "\\\x00") || dir == "" || dir == "." || slices.Contains(strings.Split(r.name, "/"), "..") {
			return a.errorf(-1, "record name %s refused", formats.Quote(r.name))
		}
		if i == 0 {
			a.root = root
		}
		// Another directory of records would be another checkpoint to a reader
		// that goes by the last part of a name.
		if root != a.root {
			if strings.EqualFold(r.name[len(root):], "data.pkl") {
				return a.errorf(-1, "duplicate record %s", formats.Quote(r.name))
			}
			return a.errorf(-1, "record %s is outside of directory %s", formats.Quote(r.name), formats.Quote(strings.TrimSuffix(a.root, "/")))
		}
		folded[i] = strings.ToLower(r.name)
	}
	slices.Sort(folded)
	for i := range folded[1:] {
		if folded[i] == folded[i+1] {
			return a.errorf(-1, "duplicate record %s", formats.Quote(folded[i]))
		}
	}
	slices.SortFunc(a.records, func(x, y record) int { return strings.Compare(x.name, y.name) })
	n := 0
	for _, name := range folded {
		if strings.HasSuffix(name, "/data.pkl") {
			if n++; n > 1 {
				return a.errorf(-1, "duplicate record %s", formats.Quote(name))
			}
		}
	}
	return nil
}

// checkLayout reads the local headers: each says what the directory says, and
// no byte belongs to two records.
func (a *archive) checkLayout(dirStart int64) error {
	order := make([]*record, len(a.records))
	for i := range a.records {
		order[i] = &a.records[i]
	}
	slices.SortFunc(order, func(x, y *record) int { return cmp.Compare(x.header, y.header) })
	end := int64(0)
	for _, r := range order {
		q := formats.Quote(r.name)
		a.summed = a.summed || r.crc != 0
		if r.header < end {
			return a.errorf(r.header, "record %s overlaps another", q)
		}
		f, err := a.readAt(30+len(r.name), r.header)
		if err != nil {
			return err
		}
		if f.u32() != sigLocal {
			return a.errorf(r.header, "record %s has no local header", q)
		}
		f = f[2:]
		flags, method := f.u16(), f.u16()
		f = f[4:]
		crc, packed, size := f.u32(), f.u32(), f.u32()
		nameLen, extraLen := int(f.u16()), int(f.u16())
		if bad := flags &^ flagsAllowed; bad != 0 {
			return formats.Unsupportedf(a.file, r.header, "zip flag 0x%x refused: record %s", bad&-bad, q)
		}
		same := func(local uint32, central int64) bool {
			// With a data descriptor the header was written before they were
			// known; with zip64 they are elsewhere.
			return int64(local) == central || local == math.MaxUint32 || (flags&flagDesc != 0 && local == 0)
		}
		if nameLen != len(r.name) || string(f) != r.name || method != r.method || flags&flagDesc != r.flags&flagDesc ||
			!same(packed, r.packed) || !same(size, r.size) || (crc != r.crc && (flags&flagDesc == 0 || crc != 0)) {
			return a.errorf(r.header, "record %s: local header differs from the directory", q)
		}
		r.data = r.header + 30 + int64(nameLen+extraLen)
		if end = r.data + r.packed; end > dirStart || end < 0 {
			return a.errorf(r.header, "record %s overlaps the directory", q)
		}
	}
	return nil
}

// open returns a reader of the record from its start.
func (a *archive) open(r *record) io.Reader {
	raw := io.NewSectionReader(a.r, r.data, r.packed)
	if r.method == methodDeflate {
		return io.LimitReader(flate.NewReader(raw), r.size+1)
	}
	return raw
}

// checkWhole reads a record and compares its size and checksum.
func (a *archive) checkWhole(r *record) error {
	h := crc32.NewIEEE()
	n, err := io.Copy(h, a.open(r))
	if err != nil && r.method == methodStored {
		return err
	}
	if err != nil || n != r.size {
		return a.errorf(r.data, "record %s does not inflate to %d bytes", a.short(r), r.size)
	}
	return a.compare(r, h.Sum32())
}

// readAll returns a small record's contents.
func (a *archive) readAll(r *record, limit int64) ([]byte, error) {
	if r.size > limit {
		return nil, a.errorf(r.data, "record %s has %d bytes, more than %d", a.short(r), r.size, limit)
	}
	if err := a.checkWhole(r); err != nil {
		return nil, err
	}
	return io.ReadAll(a.open(r))
}

func (a *archive) short(r *record) string { return clean2(strings.TrimPrefix(r.name, a.root)) }

// clean2 is clean for names with slashes.
func clean2(s string) string {
	if clean(strings.ReplaceAll(s, "/", ".")) == strings.ReplaceAll(s, "/", ".") {
		return s
	}
	return formats.Quote(s)
}

func (a *archive) compare(r *record, sum uint32) error {
	if sum != r.crc && a.summed {
		return a.errorf(-1, "CRC mismatch %s", a.short(r))
	}
	return nil
}

// recordReader reads a storage's record.
type recordReader struct {
	a        *archive
	r        *record
	check    checksum // of a stored record
	inflated inflated // of a deflated one
}

func (x *recordReader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > x.r.size-int64(len(p)) {
		return 0, io.ErrUnexpectedEOF
	}
	if x.r.method == methodDeflate {
		return x.readInflated(p, off)
	}
	n, err := x.a.r.ReadAt(p, x.r.data+off)
	if n < len(p) {
		return n, err
	}
	if x.a.summed {
		x.check.add(p, off)
	}
	return n, nil
}

// verify checks the records that were read.
func (a *archive) verify() error {
	for _, x := range a.readers {
		var err error
		if x.r.method == methodDeflate {
			a.mu.Lock()
			again := x.inflated.used && !x.inflated.checked
			a.mu.Unlock()
			if again {
				err = a.checkWhole(x.r)
			}
		} else if x.check.touched() {
			var sum uint32
			if sum, err = x.check.finish(a.r, x.r.data, x.r.size); err == nil {
				err = a.compare(x.r, sum)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

const (
	maxActive   = 4
	windowBytes = 4 << 20
	inflateStep = 256 << 10
)

// inflated is a deflated record that is being read. Requests come nearly in
// order (work units of several workers), so that the last few MiB are kept;
// what lies further back means starting again.
type inflated struct {
	z       io.Reader
	window  []byte // ends at pos
	pos     int64
	sum     uint32
	used    bool // something was read
	checked bool // the end was reached and the checksum is right
}

// readInflated fills p from byte off of a deflated record on.
func (x *recordReader) readInflated(p []byte, off int64) (int, error) {
	x.a.mu.Lock()
	defer x.a.mu.Unlock()
	s := &x.inflated
	x.activate()
	if off < s.pos-int64(len(s.window)) {
		s.restart(x.a.open(x.r))
	}
	n := 0
	for {
		if start := s.pos - int64(len(s.window)); off+int64(n) < s.pos {
			n += copy(p[n:], s.window[off+int64(n)-start:])
		}
		if n == len(p) {
			return n, nil
		}
		if err := x.inflate(); err != nil {
			return n, err
		}
	}
}

func (s *inflated) restart(z io.Reader) {
	s.z, s.window, s.pos, s.sum = z, s.window[:0], 0, 0
}

// activate makes x one of the few records whose state is kept.
func (x *recordReader) activate() {
	a := x.a
	x.inflated.used = true
	if i := slices.Index(a.active, x); i >= 0 {
		a.active = slices.Delete(a.active, i, i+1)
	} else {
		x.inflated.restart(a.open(x.r))
		if len(a.active) == maxActive {
			old := &a.active[0].inflated
			old.z, old.window, old.pos = nil, nil, 0
			a.active = a.active[1:]
		}
	}
	a.active = append(a.active, x)
}

// inflate adds the next bytes to the window.
func (x *recordReader) inflate() error {
	a, s, size := x.a, &x.inflated, x.r.size
	if len(s.window)+inflateStep > windowBytes {
		keep := copy(s.window, s.window[len(s.window)-windowBytes/2:])
		s.window = s.window[:keep]
	}
	at := len(s.window)
	want := int(min(inflateStep, size-s.pos))
	s.window = slices.Grow(s.window, want)[:at+want]
	n, err := io.ReadFull(s.z, s.window[at:])
	if err != nil || want == 0 {
		s.window = s.window[:at+n]
		s.pos += int64(n)
		return a.errorf(x.r.data, "record %s does not inflate to %d bytes", a.short(x.r), size)
	}
	s.pos += int64(n)
	s.sum = crc32.Update(s.sum, crc32.IEEETable, s.window[at:])
	if s.pos == size {
		if err := a.compare(x.r, s.sum); err != nil {
			return err
		}
		if k, _ := s.z.Read(make([]byte, 1)); k > 0 {
			return a.errorf(x.r.data, "record %s inflates to more than %d bytes", a.short(x.r), size)
		}
		s.checked = true
	}
	return nil
}
