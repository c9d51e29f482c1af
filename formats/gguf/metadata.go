package gguf

import (
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/smeltgguf/smelt/formats"
)

// Value types as GGUF files number them (gguf.h, enum gguf_type).
const (
	typeUint8   = 0
	typeInt8    = 1
	typeUint16  = 2
	typeInt16   = 3
	typeUint32  = 4
	typeInt32   = 5
	typeFloat32 = 6
	typeBool    = 7
	typeString  = 8
	typeArray   = 9
	typeUint64  = 10
	typeInt64   = 11
	typeFloat64 = 12
)

var typeNames = [...]string{"u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"}

// typeSizes are the bytes of a scalar; 0 for strings and arrays.
var typeSizes = [...]int{1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8}

// ErrMissing is what the typed getters wrap where there is no such key.
var ErrMissing = errors.New("missing")

// Metadata is an ordered list of keys with values. The Go type of a value fixes
// its GGUF type: uint8, int8, uint16, int16, uint32, int32, uint64, int64,
// float32, float64, bool, string, and slices of these for arrays.
type Metadata struct {
	keys   []string
	values map[string]any
}

// NewMetadata returns an empty list.
func NewMetadata() *Metadata { return &Metadata{values: map[string]any{}} }

// Set appends a key, or replaces the value where the key stands. It panics on a
// Go type that GGUF has no type for.
func (m *Metadata) Set(key string, v any) {
	if _, _, ok := TypeOf(v); !ok {
		panic(fmt.Sprintf("gguf: %s: no type for %T", key, v))
	}
	if _, ok := m.values[key]; !ok {
		m.keys = append(m.keys, key)
	}
	m.values[key] = v
}

// Get returns a value as it was set or read.
func (m *Metadata) Get(key string) (any, bool) {
	v, ok := m.values[key]
	return v, ok
}

// Delete removes a key, if it is there.
func (m *Metadata) Delete(key string) {
	if _, ok := m.values[key]; !ok {
		return
	}
	delete(m.values, key)
	m.keys = slices.DeleteFunc(m.keys, func(k string) bool { return k == key })
}

// Len returns the number of keys.
func (m *Metadata) Len() int { return len(m.keys) }

// All yields keys and values in order.
func (m *Metadata) All() iter.Seq2[string, any] {
	return func(yield func(string, any) bool) {
		for _, k := range m.keys {
			if !yield(k, m.values[k]) {
				return
			}
		}
	}
}

// Clone returns a copy that shares the arrays.
func (m *Metadata) Clone() *Metadata {
	c := NewMetadata()
	for k, v := range m.All() {
		c.Set(k, v)
	}
	return c
}

// Architecture returns general.architecture, "" if there is none.
func (m *Metadata) Architecture() string {
	s, _ := m.values["general.architecture"].(string)
	return s
}

func (m *Metadata) wrong(key, want string, v any) error {
	return fmt.Errorf("%s: want %s, got %s", key, want, describe(v))
}

// Uint returns an integer of any width that is not negative.
func (m *Metadata) Uint(key string) (uint64, error) {
	v, ok := m.values[key]
	if !ok {
		return 0, fmt.Errorf("%s: %w", key, ErrMissing)
	}
	var i int64
	switch v := v.(type) {
	case uint8:
		return uint64(v), nil
	case uint16:
		return uint64(v), nil
	case uint32:
		return uint64(v), nil
	case uint64:
		return v, nil
	case int8:
		i = int64(v)
	case int16:
		i = int64(v)
	case int32:
		i = int64(v)
	case int64:
		i = v
	default:
		return 0, m.wrong(key, "an integer", v)
	}
	if i < 0 {
		return 0, fmt.Errorf("%s: want at least 0, got %d", key, i)
	}
	return uint64(i), nil
}

// Float returns a float of either width.
func (m *Metadata) Float(key string) (float64, error) {
	switch v := m.values[key].(type) {
	case nil:
		return 0, fmt.Errorf("%s: %w", key, ErrMissing)
	case float32:
		return float64(v), nil
	case float64:
		return v, nil
	default:
		return 0, m.wrong(key, "a float", v)
	}
}

// String returns a string.
func (m *Metadata) String(key string) (string, error) { return get[string](m, key, "a string") }

// Bool returns a bool.
func (m *Metadata) Bool(key string) (bool, error) { return get[bool](m, key, "a bool") }

// Strings returns an array of strings.
func (m *Metadata) Strings(key string) ([]string, error) {
	return get[[]string](m, key, "an array of strings")
}

// Floats returns an array of float32.
func (m *Metadata) Floats(key string) ([]float32, error) {
	return get[[]float32](m, key, "an array of f32")
}

// Ints returns an array of int32.
func (m *Metadata) Ints(key string) ([]int32, error) {
	return get[[]int32](m, key, "an array of i32")
}

func get[T any](m *Metadata, key, want string) (T, error) {
	var zero T
	v, ok := m.values[key]
	if !ok {
		return zero, fmt.Errorf("%s: %w", key, ErrMissing)
	}
	t, ok := v.(T)
	if !ok {
		return zero, m.wrong(key, want, v)
	}
	return t, nil
}

// TypeOf returns the GGUF type number of a value and, for an array, that of its
// elements; ok is false where GGUF has no such type.
func TypeOf(v any) (typ, elem uint32, ok bool) {
	switch v.(type) {
	case uint8:
		return typeUint8, 0, true
	case int8:
		return typeInt8, 0, true
	case uint16:
		return typeUint16, 0, true
	case int16:
		return typeInt16, 0, true
	case uint32:
		return typeUint32, 0, true
	case int32:
		return typeInt32, 0, true
	case float32:
		return typeFloat32, 0, true
	case bool:
		return typeBool, 0, true
	case string:
		return typeString, 0, true
	case uint64:
		return typeUint64, 0, true
	case int64:
		return typeInt64, 0, true
	case float64:
		return typeFloat64, 0, true
	case []uint8:
		return typeArray, typeUint8, true
	case []int8:
		return typeArray, typeInt8, true
	case []uint16:
		return typeArray, typeUint16, true
	case []int16:
		return typeArray, typeInt16, true
	case []uint32:
		return typeArray, typeUint32, true
	case []int32:
		return typeArray, typeInt32, true
	case []float32:
		return typeArray, typeFloat32, true
	case []bool:
		return typeArray, typeBool, true
	case []string:
		return typeArray, typeString, true
	case []uint64:
		return typeArray, typeUint64, true
	case []int64:
		return typeArray, typeInt64, true
	case []float64:
		return typeArray, typeFloat64, true
	}
	return 0, 0, false
}

// TypeName names a value's type, of an array that of its elements: "u32", "string".
func TypeName(v any) string {
	typ, elem, ok := TypeOf(v)
	if !ok {
		return fmt.Sprintf("%T", v)
	}
	if typ == typeArray {
		typ = elem
	}
	return typeNames[typ]
}

// describe names a value's type for an error: `string "x"`, "array of i8".
func describe(v any) string {
	typ, elem, _ := TypeOf(v)
	if typ == typeArray {
		return "array of " + typeNames[elem]
	}
	if s, ok := v.(string); ok {
		return "string " + formats.Quote(s)
	}
	return fmt.Sprintf("%s %v", typeNames[typ], v)
}
