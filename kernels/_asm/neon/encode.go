package main

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// A field places one number of an instruction in its word.
type field func(n int) (word uint32, ok bool)

// bits is a field of a width at a position, for multiples of a unit.
func bits(at, width, unit int) field {
	return func(n int) (uint32, bool) {
		return uint32(n/unit) << at, n%unit == 0 && n >= 0 && n/unit < 1<<width
	}
}

// signed is bits for two's complement.
func signed(at, width, unit int) field {
	return func(n int) (uint32, bool) {
		q := n / unit
		return uint32(q) & (1<<width - 1) << at, n%unit == 0 && -1<<(width-1) <= q && q < 1<<(width-1)
	}
}

// left is the amount of a shift left of elements of a size in bits, right that
// of a shift right.
func left(size int) field {
	return func(n int) (uint32, bool) { return uint32(size+n) << 16, 0 <= n && n < size }
}

func right(size int) field {
	return func(n int) (uint32, bool) { return uint32(2*size-n) << 16, 0 < n && n <= size }
}

var (
	rd = bits(0, 5, 1)
	rn = bits(5, 5, 1)
	rm = bits(16, 5, 1)
	// Elements of four in a by-element instruction: bits L and H.
	index field = func(n int) (uint32, bool) { return uint32(n&1)<<21 | uint32(n>>1)<<11, 0 <= n && n < 4 }
	byte8 field = func(n int) (uint32, bool) { return uint32(n>>5)<<16 | uint32(n&31)<<5, 0 <= n && n < 256 }
	// none is a number that the word holds already.
	none field = func(n int) (uint32, bool) { return 0, true }
)

// An encoding is the word of an instruction whose numbers are all zero and the
// fields of the numbers, in the order in which the text has them.
type encoding struct {
	word   uint32
	fields []field
}

func two(word uint32) encoding   { return encoding{word, []field{rd, rn}} }
func three(word uint32) encoding { return encoding{word, []field{rd, rn, rm}} }
func shift(word uint32, amount field) encoding {
	return encoding{word, []field{rd, rn, amount}}
}
func element(word uint32) encoding { return encoding{word, []field{rd, rn, rm, index}} }
func memory(word uint32, offset field) encoding {
	return encoding{word, []field{rd, rn, offset}}
}
func pair(word uint32) encoding {
	return encoding{word, []field{rd, bits(10, 5, 1), rn, signed(15, 7, 16)}}
}

var (
	after    = signed(12, 9, 1)
	unscaled = signed(12, 9, 1)
)

// encodings holds the instructions that the kernels use, with numbers left out:
// Arm Architecture Reference Manual for A-profile, C7.2.
var encodings = map[string]encoding{
	"ldr q, [x]":            memory(0x3dc00000, nil),
	"ldr q, [x, #]":         memory(0x3dc00000, bits(10, 12, 16)),
	"ldr q, [x], #":         memory(0x3cc00400, after),
	"ldur q, [x, #]":        memory(0x3cc00000, unscaled),
	"ldr d, [x]":            memory(0xfd400000, nil),
	"ldr d, [x, #]":         memory(0xfd400000, bits(10, 12, 8)),
	"ldr d, [x], #":         memory(0xfc400400, after),
	"ldr s, [x]":            memory(0xbd400000, nil),
	"ldr s, [x, #]":         memory(0xbd400000, bits(10, 12, 4)),
	"ldr s, [x], #":         memory(0xbc400400, after),
	"ldr h, [x]":            memory(0x7d400000, nil),
	"ldr h, [x, #]":         memory(0x7d400000, bits(10, 12, 2)),
	"ldr h, [x], #":         memory(0x7c400400, after),
	"str q, [x]":            memory(0x3d800000, nil),
	"str q, [x, #]":         memory(0x3d800000, bits(10, 12, 16)),
	"str q, [x], #":         memory(0x3c800400, after),
	"str d, [x]":            memory(0xfd000000, nil),
	"str d, [x, #]":         memory(0xfd000000, bits(10, 12, 8)),
	"str d, [x], #":         memory(0xfc000400, after),
	"str s, [x], #":         memory(0xbc000400, after),
	"ldp q, q, [x, #]":      pair(0xad400000),
	"ldp q, q, [x], #":      pair(0xacc00000),
	"stp q, q, [x, #]":      pair(0xad000000),
	"stp q, q, [x], #":      pair(0xac800000),
	"ld1r {v.4s}, [x]":      two(0x4d40c800),
	"ld1r {v.16b}, [x]":     two(0x4d40c000),
	"ld1r {v.4s}, [x], x":   three(0x4dc0c800),
	"ld2 {v.4s, v.4s}, [x]": {0x4c408800, []field{rd, none, rn}},
	"st2 {v.4s, v.4s}, [x]": {0x4c008800, []field{rd, none, rn}},

	"fadd v.4s, v.4s, v.4s":  three(0x4e20d400),
	"fadd v.2d, v.2d, v.2d":  three(0x4e60d400),
	"fadd s, s, s":           three(0x1e202800),
	"fsub v.4s, v.4s, v.4s":  three(0x4ea0d400),
	"fsub v.2d, v.2d, v.2d":  three(0x4ee0d400),
	"fmul v.4s, v.4s, v.4s":  three(0x6e20dc00),
	"fmul v.4s, v.4s, v.s[]": element(0x4f809000),
	"fmul s, s, s":           three(0x1e200800),
	"fdiv v.4s, v.4s, v.4s":  three(0x6e20fc00),
	"fdiv s, s, s":           three(0x1e201800),
	"fmla v.4s, v.4s, v.4s":  three(0x4e20cc00),
	"fmla v.2d, v.2d, v.2d":  three(0x4e60cc00),
	"fmla v.4s, v.4s, v.s[]": element(0x4f801000),
	"fmls v.4s, v.4s, v.4s":  three(0x4ea0cc00),
	"fmls v.4s, v.4s, v.s[]": element(0x4f805000),
	"fmax v.4s, v.4s, v.4s":  three(0x4e20f400),
	"fmin v.4s, v.4s, v.4s":  three(0x4ea0f400),
	"fmaxv s, v.4s":          two(0x6e30f800),
	"faddp v.4s, v.4s, v.4s": three(0x6e20d400),
	"faddp s, v.2s":          two(0x7e30d800),
	"faddp d, v.2d":          two(0x7e70d800),
	"fabs v.4s, v.4s":        two(0x4ea0f800),
	"fneg v.4s, v.4s":        two(0x6ea0f800),

	"frintn v.4s, v.4s":   two(0x4e218800),
	"fcvtns v.4s, v.4s":   two(0x4e21a800),
	"scvtf v.4s, v.4s":    two(0x4e21d800),
	"ucvtf v.4s, v.4s":    two(0x6e21d800),
	"fcvt s, h":           two(0x1ee24000),
	"fcvtl v.4s, v.4h":    two(0x0e217800),
	"fcvtl2 v.4s, v.8h":   two(0x4e217800),
	"fcvtl v.2d, v.2s":    two(0x0e617800),
	"fcvtl2 v.2d, v.4s":   two(0x4e617800),
	"fcvtn v.4h, v.4s":    two(0x0e216800),
	"fcvtn2 v.8h, v.4s":   two(0x4e216800),
	"shll v.4s, v.4h, #":  {0x2e613800, []field{rd, rn, none}},
	"shll2 v.4s, v.8h, #": {0x6e613800, []field{rd, rn, none}},

	"sdot v.4s, v.16b, v.16b":   three(0x4e809400),
	"sdot v.4s, v.16b, v.4b[]":  element(0x4f80e000),
	"smull v.8h, v.8b, v.8b":    three(0x0e20c000),
	"smull2 v.8h, v.16b, v.16b": three(0x4e20c000),
	"smlal v.8h, v.8b, v.8b":    three(0x0e208000),
	"smlal2 v.8h, v.16b, v.16b": three(0x4e208000),
	"sadalp v.4s, v.8h":         two(0x4e606800),
	"addp v.4s, v.4s, v.4s":     three(0x4ea0bc00),
	"addv s, v.4s":              two(0x4eb1b800),
	"umaxv s, v.4s":             two(0x6eb0a800),
	"umax v.4s, v.4s, v.4s":     three(0x6ea06400),
	"add v.4s, v.4s, v.4s":      three(0x4ea08400),
	"add v.16b, v.16b, v.16b":   three(0x4e208400),
	"sub v.4s, v.4s, v.4s":      three(0x6ea08400),
	"sub v.8h, v.8h, v.8h":      three(0x6e608400),
	"sub v.16b, v.16b, v.16b":   three(0x6e208400),
	"mul v.4s, v.4s, v.s[]":     element(0x4f808000),
	"mla v.4s, v.4s, v.s[]":     element(0x6f800000),
	"neg v.16b, v.16b":          two(0x6e20b800),
	"mul v.16b, v.16b, v.16b":   three(0x4e209c00),
	"cmhs v.16b, v.16b, v.16b":  three(0x6e203c00),
	"ushl v.16b, v.16b, v.16b":  three(0x6e204400),

	"and v.16b, v.16b, v.16b":   three(0x4e201c00),
	"orr v.16b, v.16b, v.16b":   three(0x4ea01c00),
	"eor v.16b, v.16b, v.16b":   three(0x6e201c00),
	"mov v.16b, v.16b":          {0x4ea01c00, []field{rd, func(n int) (uint32, bool) { return uint32(n)<<5 | uint32(n)<<16, n < 32 }}},
	"cmeq v.4s, v.4s, v.4s":     three(0x6ea08c00),
	"cmeq v.8h, v.8h, v.8h":     three(0x6e608c00),
	"cmtst v.16b, v.16b, v.16b": three(0x4e208c00),
	"shl v.16b, v.16b, #":       shift(0x4f005400, left(8)),
	"shl v.4s, v.4s, #":         shift(0x4f005400, left(32)),
	"ushr v.16b, v.16b, #":      shift(0x6f000400, right(8)),
	"ushr v.4s, v.4s, #":        shift(0x6f000400, right(32)),
	"sshr v.4s, v.4s, #":        shift(0x4f000400, right(32)),
	"sli v.16b, v.16b, #":       shift(0x6f005400, left(8)),
	"sshl v.4s, v.4s, v.4s":     three(0x4ea04400),
	"sshll v.8h, v.8b, #":       shift(0x0f00a400, left(8)),
	"sshll2 v.8h, v.16b, #":     shift(0x4f00a400, left(8)),
	"sshll v.4s, v.4h, #":       shift(0x0f00a400, left(16)),
	"sshll2 v.4s, v.8h, #":      shift(0x4f00a400, left(16)),
	"ushll v.8h, v.8b, #":       shift(0x2f00a400, left(8)),
	"ushll2 v.8h, v.16b, #":     shift(0x6f00a400, left(8)),
	"ushll v.4s, v.4h, #":       shift(0x2f00a400, left(16)),
	"ushll2 v.4s, v.8h, #":      shift(0x6f00a400, left(16)),
	"shrn v.4h, v.4s, #":        shift(0x0f008400, right(16)),
	"shrn2 v.8h, v.4s, #":       shift(0x4f008400, right(16)),
	"xtn v.4h, v.4s":            two(0x0e612800),
	"xtn2 v.8h, v.4s":           two(0x4e612800),
	"xtn v.8b, v.8h":            two(0x0e212800),
	"xtn2 v.16b, v.8h":          two(0x4e212800),

	"movi v.16b, #":             {0x4f00e400, []field{rd, byte8}},
	"movi v.4s, #":              {0x4f000400, []field{rd, byte8}},
	"dup v.4s, w":               two(0x4e040c00),
	"dup v.8h, w":               two(0x4e020c00),
	"dup v.16b, w":              two(0x4e010c00),
	"dup v.4s, v.s[]":           {0x4e040400, []field{rd, rn, bits(19, 2, 1)}},
	"movi v.8h, #":              {0x4f008400, []field{rd, byte8}},
	"dup v.2d, x":               two(0x4e080c00),
	"mov v.d[], x":              {0x4e081c00, []field{rd, bits(20, 1, 1), rn}},
	"ushl v.8h, v.8h, v.8h":     three(0x6e604400),
	"shl v.8h, v.8h, #":         shift(0x4f005400, left(16)),
	"add v.8h, v.8h, v.8h":      three(0x4e608400),
	"fmov w, s":                 two(0x1e260000),
	"fmov s, w":                 two(0x1e270000),
	"mov v.s[], w":              {0x4e041c00, []field{rd, bits(19, 2, 1), rn}},
	"trn1 v.4s, v.4s, v.4s":     three(0x4e802800),
	"trn2 v.4s, v.4s, v.4s":     three(0x4e806800),
	"trn1 v.2d, v.2d, v.2d":     three(0x4ec02800),
	"trn2 v.2d, v.2d, v.2d":     three(0x4ec06800),
	"zip1 v.16b, v.16b, v.16b":  three(0x4e003800),
	"zip2 v.16b, v.16b, v.16b":  three(0x4e007800),
	"tbl v.16b, {v.16b}, v.16b": three(0x4e000000),
}

// numbers are those that name a register, an element or an amount, not those
// of an arrangement or an instruction.
var numbers = regexp.MustCompile(`\b([vqdshxw])(\d+)|#(-?(?:0x)?[0-9a-f]+)|\[(\d+)\]`)

// encode returns the word of an instruction in Arm's syntax.
func encode(text string) (uint32, error) {
	var found []int
	form := numbers.ReplaceAllStringFunc(text, func(s string) string {
		digits := strings.TrimLeft(strings.TrimRight(s, "]"), "vqdshxw#[")
		n, _ := strconv.ParseInt(digits, 0, 64)
		found = append(found, int(n))
		return strings.Replace(s, digits, "", 1)
	})
	e, ok := encodings[form]
	if !ok {
		return 0, fmt.Errorf("no encoding for %q, of the form %q", text, form)
	}
	word := e.word
	for i, n := range found {
		w, ok := e.fields[i](n)
		if !ok {
			return 0, fmt.Errorf("number %d of %q is out of range", i+1, text)
		}
		word |= w
	}
	return word, nil
}
