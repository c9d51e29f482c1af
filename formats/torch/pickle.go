package torch

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"strconv"

	"github.com/smeltgguf/smelt/formats"
)

// The pickle machine (format: pickletools.py of the Python standard library)
// knows the opcodes that torch.save makes use of and can only build what is
// defined here: it calls nothing. A global is a name and nothing else; names
// that are not in the list of package torch are an error at once.

// What a pickle's values become: nil, bool, int64, *big.Int, float64, string,
// []byte, tuple, *list, *dict, global, and what reduce and persistent make.
type (
	tuple  []any
	list   struct{ items []any }
	dict   struct{ keys, vals []any }
	global string // "module.name"
)

// Opcodes.
const (
	opMark           = '('
	opStop           = '.'
	opPop            = '0'
	opPopMark        = '1'
	opDup            = '2'
	opFloat          = 'F'
	opInt            = 'I'
	opBinInt         = 'J'
	opBinInt1        = 'K'
	opLong           = 'L'
	opBinInt2        = 'M'
	opNone           = 'N'
	opPersID         = 'P'
	opBinPersID      = 'Q'
	opReduce         = 'R'
	opString         = 'S'
	opBinString      = 'T'
	opShortBinString = 'U'
	opUnicode        = 'V'
	opBinUnicode     = 'X'
	opAppend         = 'a'
	opBuild          = 'b'
	opGlobal         = 'c'
	opDict           = 'd'
	opEmptyDict      = '}'
	opAppends        = 'e'
	opGet            = 'g'
	opBinGet         = 'h'
	opInst           = 'i'
	opLongBinGet     = 'j'
	opList           = 'l'
	opEmptyList      = ']'
	opObj            = 'o'
	opPut            = 'p'
	opBinPut         = 'q'
	opLongBinPut     = 'r'
	opSetItem        = 's'
	opTuple          = 't'
	opEmptyTuple     = ')'
	opSetItems       = 'u'
	opBinFloat       = 'G'
	opBinBytes       = 'B'
	opShortBinBytes  = 'C'
	opProto          = 0x80
	opNewObj         = 0x81
	opExt1           = 0x82
	opExt2           = 0x83
	opExt4           = 0x84
	opTuple1         = 0x85
	opTuple2         = 0x86
	opTuple3         = 0x87
	opNewTrue        = 0x88
	opNewFalse       = 0x89
	opLong1          = 0x8a
	opLong4          = 0x8b
	opShortUnicode   = 0x8c
	opBinUnicode8    = 0x8d
	opBinBytes8      = 0x8e
	opNewObjEx       = 0x92
	opStackGlobal    = 0x93
	opMemoize        = 0x94
	opFrame          = 0x95
)

const (
	maxProto = 5
	// The objects of a pickle may take baseBudget + budgetFactor x the bytes
	// read of it, in bytes.
	baseBudget   = 32 << 20
	budgetFactor = 2
	// maxLine bounds what ends with a newline: a number, a global's name.
	maxLine = 1 << 10
)

// machine runs one pickle.
type machine struct {
	file string
	r    *bufio.Reader
	base int64 // where the pickle starts in the file; -1 if that says nothing
	pos  int64 // bytes read
	size int64 // bytes that there are

	stack []any
	marks []int // heights of the stack
	memo  map[uint32]any
	spent int64

	// reduce calls a global; persistent resolves a persistent id.
	reduce     func(fn global, args tuple) (any, error)
	persistent func(id any) (any, error)
}

// newMachine returns a machine for the pickle that r reads: at most size bytes.
func newMachine(file string, r io.Reader, base, size int64) *machine {
	return &machine{file: file, r: bufio.NewReader(r), base: base, size: size, memo: map[uint32]any{}}
}

func (m *machine) errorf(format string, args ...any) error {
	at := int64(-1)
	if m.base >= 0 {
		at = m.base + m.pos
	}
	return formats.Malformedf(m.file, at, format, args...)
}

func (m *machine) truncated(format string, args ...any) error {
	return m.errorf("pickle truncated or damaged: %s", fmt.Sprintf(format, args...))
}

func (m *machine) readError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return m.truncated("no STOP")
	}
	return err
}

func (m *machine) byte() (byte, error) {
	b, err := m.r.ReadByte()
	if err != nil {
		return 0, m.readError(err)
	}
	m.pos++
	return b, nil
}

// uint reads a little-endian number of n bytes.
func (m *machine) uint(n int) (uint64, error) {
	var b [8]byte
	if _, err := io.ReadFull(m.r, b[:n]); err != nil {
		return 0, m.readError(err)
	}
	m.pos += int64(n)
	return binary.LittleEndian.Uint64(b[:]), nil
}

// bytes reads n bytes.
func (m *machine) bytes(n uint64) ([]byte, error) {
	if n > uint64(m.size-m.pos) {
		return nil, m.truncated("string of %d bytes, %d left", n, m.size-m.pos)
	}
	if err := m.spend(int64(n)); err != nil {
		return nil, err
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(m.r, b); err != nil {
		return nil, m.readError(err)
	}
	m.pos += int64(n)
	return b, nil
}

// sized reads a length of n bytes, and that many bytes.
func (m *machine) sized(n int) ([]byte, error) {
	size, err := m.uint(n)
	if err != nil {
		return nil, err
	}
	return m.bytes(size)
}

// line reads up to a newline.
func (m *machine) line() (string, error) {
	var b []byte
	for {
		c, err := m.byte()
		if err != nil {
			return "", err
		}
		if c == '\n' {
			return string(b), nil
		}
		if b = append(b, c); len(b) > maxLine {
			return "", m.errorf("line in a pickle longer than %d", maxLine)
		}
	}
}

// spend counts memory.
func (m *machine) spend(n int64) error {
	if m.spent += n; m.spent > baseBudget+budgetFactor*m.pos {
		return m.errorf("object budget exceeded")
	}
	return nil
}

// push puts a value on the stack that takes about size bytes of its own. A
// place on the stack counts twice, because the stack is copied as it grows.
func (m *machine) push(v any, size int64) error {
	m.stack = append(m.stack, v)
	return m.spend(2*16 + size)
}

// pop takes the top n values; they are valid until the next push.
func (m *machine) pop(n int) ([]any, error) {
	floor := 0
	if len(m.marks) > 0 {
		floor = m.marks[len(m.marks)-1]
	}
	if len(m.stack)-floor < n {
		return nil, m.truncated("%d values wanted, the stack has %d", n, len(m.stack)-floor)
	}
	at := len(m.stack) - n
	v := m.stack[at:]
	m.stack = m.stack[:at]
	return v, nil
}

// popMark takes everything above the last mark, and the mark.
func (m *machine) popMark() ([]any, error) {
	if len(m.marks) == 0 {
		return nil, m.truncated("no mark")
	}
	at := m.marks[len(m.marks)-1]
	m.marks = m.marks[:len(m.marks)-1]
	v := m.stack[at:]
	m.stack = m.stack[:at]
	return v, nil
}

func (m *machine) top() (any, error) {
	v, err := m.pop(1)
	if err != nil {
		return nil, err
	}
	m.stack = m.stack[:len(m.stack)+1]
	return v[0], nil
}

// run executes opcodes up to STOP and returns the value.
func (m *machine) run() (any, error) {
	for {
		op, err := m.byte()
		if err != nil {
			return nil, err
		}
		if op == opStop {
			v, err := m.pop(1)
			if err != nil {
				return nil, err
			}
			if len(m.stack) > 0 || len(m.marks) > 0 {
				return nil, m.truncated("%d values left at STOP", len(m.stack))
			}
			return v[0], nil
		}
		if err := m.step(op); err != nil {
			return nil, err
		}
	}
}

func (m *machine) step(op byte) error {
	switch op {
	case opProto:
		v, err := m.byte()
		if err == nil && v > maxProto {
			err = m.errorf("pickle protocol %d unsupported", v)
		}
		return err
	case opFrame:
		_, err := m.uint(8)
		return err
	case opMark:
		m.marks = append(m.marks, len(m.stack))
		return m.spend(2 * 8)
	case opPop:
		if n := len(m.marks); n > 0 && m.marks[n-1] == len(m.stack) {
			m.marks = m.marks[:n-1]
			return nil
		}
		_, err := m.pop(1)
		return err
	case opPopMark:
		_, err := m.popMark()
		return err
	case opDup:
		v, err := m.top()
		if err != nil {
			return err
		}
		return m.push(v, 0)
	case opNone:
		return m.push(nil, 0)
	case opNewTrue, opNewFalse:
		return m.push(op == opNewTrue, 0)
	case opInt, opLong, opFloat:
		return m.textNumber(op)
	case opBinInt, opBinInt1, opBinInt2:
		size := map[byte]int{opBinInt: 4, opBinInt1: 1, opBinInt2: 2}[op]
		n, err := m.uint(size)
		if err != nil {
			return err
		}
		if op == opBinInt {
			n = uint64(int64(int32(n)))
		}
		return m.push(int64(n), 8)
	case opLong1, opLong4:
		b, err := m.sized(map[byte]int{opLong1: 1, opLong4: 4}[op])
		if err != nil {
			return err
		}
		return m.push(longInt(b), 64)
	case opBinFloat:
		var b [8]byte
		n, err := m.uint(8)
		binary.LittleEndian.PutUint64(b[:], n)
		if err != nil {
			return err
		}
		return m.push(math.Float64frombits(binary.BigEndian.Uint64(b[:])), 8)
	case opBinUnicode, opShortUnicode, opBinUnicode8, opBinString, opShortBinString, opBinBytes, opShortBinBytes, opBinBytes8:
		return m.binString(op)
	case opString, opUnicode:
		s, err := m.line()
		if err != nil {
			return err
		}
		// Only plain text: how escapes are read differs among readers.
		if op == opString {
			if n := len(s); n < 2 || s[0] != s[n-1] || (s[0] != '\'' && s[0] != '"') {
				return m.errorf("bad string in a pickle")
			}
			s = s[1 : len(s)-1]
		}
		for _, c := range []byte(s) {
			if c == '\\' || c == '\'' || c == '"' || c < ' ' || c > '~' {
				return m.errorf("escaped string in a pickle unsupported")
			}
		}
		return m.push(s, 16+int64(len(s)))
	case opEmptyTuple:
		return m.push(tuple{}, 24)
	case opTuple1, opTuple2, opTuple3:
		v, err := m.pop(int(op) - opTuple1 + 1)
		if err != nil {
			return err
		}
		return m.pushTuple(v)
	case opTuple:
		v, err := m.popMark()
		if err != nil {
			return err
		}
		return m.pushTuple(v)
	case opEmptyList:
		return m.push(&list{}, 32)
	case opList:
		v, err := m.popMark()
		if err != nil {
			return err
		}
		l := &list{items: append([]any(nil), v...)}
		return m.push(l, 32+16*int64(len(v)))
	case opEmptyDict:
		return m.push(&dict{}, 64)
	case opDict:
		v, err := m.popMark()
		if err != nil {
			return err
		}
		d := &dict{}
		if err := m.setItems(d, v); err != nil {
			return err
		}
		return m.push(d, 64)
	case opAppend, opAppends:
		return m.appendItems(op)
	case opSetItem, opSetItems:
		pop := m.popMark
		if op == opSetItem {
			pop = func() ([]any, error) { return m.pop(2) }
		}
		v, err := pop()
		if err != nil {
			return err
		}
		n := len(v) // top leaves v where it is
		target, err := m.top()
		if err != nil {
			return err
		}
		d, ok := target.(*dict)
		if !ok {
			return m.errorf("SETITEM on %s", kind(target))
		}
		return m.setItems(d, v[:n])
	case opPut, opBinPut, opLongBinPut, opMemoize, opGet, opBinGet, opLongBinGet:
		return m.memoStep(op)
	case opGlobal, opStackGlobal, opInst:
		return m.globalStep(op)
	case opReduce, opNewObj:
		v, err := m.pop(2)
		if err != nil {
			return err
		}
		fn, ok := v[0].(global)
		args, isTuple := v[1].(tuple)
		if !ok || !isTuple {
			return m.errorf("REDUCE of %s with %s", kind(v[0]), kind(v[1]))
		}
		r, err := m.reduce(fn, args)
		if err != nil {
			return m.at(err)
		}
		return m.push(r, 256)
	case opBuild:
		v, err := m.pop(1)
		if err != nil {
			return err
		}
		if _, ok := v[0].(*dict); !ok {
			return m.errorf("BUILD with %s", kind(v[0]))
		}
		target, err := m.top()
		if err != nil {
			return err
		}
		// The attributes of a state_dict (_metadata) say nothing about weights.
		if _, ok := target.(*dict); !ok {
			return m.errorf("BUILD on %s", kind(target))
		}
		return nil
	case opBinPersID:
		v, err := m.pop(1)
		if err != nil {
			return err
		}
		r, err := m.persistent(v[0])
		if err != nil {
			return m.at(err)
		}
		return m.push(r, 256)
	case opExt1, opExt2, opExt4:
		return m.errorf("extension code in a pickle refused")
	case opObj, opNewObjEx, opPersID:
		return m.errorf("pickle opcode %q refused", op)
	}
	return m.errorf("pickle opcode 0x%02x unsupported", op)
}

// at adds the file and position to an error that has none.
func (m *machine) at(err error) error {
	var fe *formats.FormatError
	if errors.As(err, &fe) && fe.File == "" {
		fe.File = m.file
		if m.base >= 0 {
			fe.Offset = m.base + m.pos
		}
	}
	return err
}

func (m *machine) pushTuple(v []any) error {
	t := append(tuple{}, v...)
	return m.push(t, 24+16*int64(len(t)))
}

func (m *machine) setItems(d *dict, v []any) error {
	if len(v)%2 != 0 {
		return m.truncated("a key without a value")
	}
	for i := 0; i < len(v); i += 2 {
		d.keys = append(d.keys, v[i])
		d.vals = append(d.vals, v[i+1])
	}
	return m.spend(32 * int64(len(v)))
}

func (m *machine) appendItems(op byte) error {
	pop := m.popMark
	if op == opAppend {
		pop = func() ([]any, error) { return m.pop(1) }
	}
	v, err := pop()
	if err != nil {
		return err
	}
	n := len(v)
	target, err := m.top()
	if err != nil {
		return err
	}
	l, ok := target.(*list)
	if !ok {
		return m.errorf("APPEND on %s", kind(target))
	}
	l.items = append(l.items, v[:n]...)
	return m.spend(32 * int64(n))
}

func (m *machine) memoStep(op byte) error {
	var key uint64
	var err error
	switch op {
	case opMemoize:
		key = uint64(len(m.memo))
	case opBinPut, opBinGet:
		key, err = m.uint(1)
	case opLongBinPut, opLongBinGet:
		key, err = m.uint(4)
	default:
		var s string
		if s, err = m.line(); err == nil {
			if key, err = strconv.ParseUint(s, 10, 32); err != nil {
				err = m.errorf("bad memo key %s", formats.Quote(s))
			}
		}
	}
	if err != nil {
		return err
	}
	switch op {
	case opGet, opBinGet, opLongBinGet:
		v, ok := m.memo[uint32(key)]
		if !ok {
			return m.errorf("memo key %d was never set", key)
		}
		return m.push(v, 0)
	}
	v, err := m.top()
	if err != nil {
		return err
	}
	m.memo[uint32(key)] = v
	return m.spend(64)
}

func (m *machine) globalStep(op byte) error {
	var module, name string
	if op == opStackGlobal {
		v, err := m.pop(2)
		if err != nil {
			return err
		}
		var ok, ok2 bool
		module, ok = v[0].(string)
		name, ok2 = v[1].(string)
		if !ok || !ok2 {
			return m.errorf("STACK_GLOBAL of %s and %s", kind(v[0]), kind(v[1]))
		}
	} else {
		var err error
		if module, err = m.line(); err != nil {
			return err
		}
		if name, err = m.line(); err != nil {
			return err
		}
	}
	g := global(module + "." + name)
	if !known(g) {
		at := int64(-1)
		if m.base >= 0 {
			at = m.base + m.pos
		}
		return formats.Unsupportedf(m.file, at, "global %s refused", clean(string(g))).
			WithHint("the file wants to run code, or holds more than weights; use a safetensors file of the model")
	}
	if op == opInst {
		return m.errorf("pickle opcode INST refused")
	}
	return m.push(g, 16)
}

// clean returns s as it is if it is a dotted name, else quoted.
func clean(s string) string {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '.' {
			return formats.Quote(s)
		}
	}
	if len(s) > 80 {
		return s[:80] + "..."
	}
	return s
}

// textNumber reads a number written as text: decimal digits only, because
// Python's readers disagree about everything else.
func (m *machine) textNumber(op byte) error {
	s, err := m.line()
	if err != nil {
		return err
	}
	switch {
	case op == opFloat:
		f, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return m.errorf("bad number %s in a pickle", formats.Quote(s))
		}
		return m.push(f, 8)
	case op == opInt && (s == "00" || s == "01"):
		return m.push(s == "01", 0)
	case op == opLong && len(s) > 0 && s[len(s)-1] == 'L':
		s = s[:len(s)-1]
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return m.errorf("bad number %s in a pickle: decimal only", formats.Quote(s))
	}
	return m.push(n, 8)
}

func (m *machine) binString(op byte) error {
	var b []byte
	var err error
	switch op {
	case opShortUnicode, opShortBinString, opShortBinBytes:
		b, err = m.sized(1)
	case opBinUnicode, opBinString, opBinBytes:
		b, err = m.sized(4)
	default:
		b, err = m.sized(8)
	}
	if err != nil {
		return err
	}
	switch op {
	case opBinBytes, opShortBinBytes, opBinBytes8:
		return m.push(b, 24)
	}
	return m.push(string(b), 16+int64(len(b)))
}

// longInt decodes a little-endian number in two's complement.
func longInt(b []byte) any {
	if len(b) <= 8 {
		var p [8]byte
		copy(p[:], b)
		n := int64(binary.LittleEndian.Uint64(p[:]))
		if len(b) == 0 {
			return int64(0)
		}
		shift := 64 - 8*len(b)
		return n << shift >> shift
	}
	r := make([]byte, len(b))
	for i, c := range b {
		r[len(b)-1-i] = c
	}
	n := new(big.Int).SetBytes(r)
	if b[len(b)-1]&0x80 != 0 {
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(b))))
	}
	return n
}

// kind names a value's type for a message.
func kind(v any) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case bool:
		return "a bool"
	case int64, *big.Int:
		return "an int"
	case float64:
		return "a float"
	case string:
		return "a string"
	case []byte:
		return "bytes"
	case tuple:
		return "a tuple"
	case *list:
		return "a list"
	case *dict:
		return "a dict"
	case global:
		return "global " + clean(string(v))
	case *Tensor:
		return "a tensor"
	case *Storage:
		return "a storage"
	}
	return "an object"
}
