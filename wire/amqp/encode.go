package amqp

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"
)

// appendValue writes a value, in the shortest form that its type has.
func appendValue(dst []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(dst, 0x40)
	case bool:
		return appendBool(dst, v)
	case uint8:
		return append(dst, 0x50, v)
	case uint16:
		return binary.BigEndian.AppendUint16(append(dst, 0x60), v)
	case uint32:
		return appendUint(dst, v)
	case uint64:
		return appendUlong(dst, v)
	case int8:
		return append(dst, 0x51, byte(v))
	case int16:
		return binary.BigEndian.AppendUint16(append(dst, 0x61), uint16(v))
	case int32:
		if v >= math.MinInt8 && v <= math.MaxInt8 {
			return append(dst, 0x54, byte(v))
		}
		return binary.BigEndian.AppendUint32(append(dst, 0x71), uint32(v))
	case int64:
		if v >= math.MinInt8 && v <= math.MaxInt8 {
			return append(dst, 0x55, byte(v))
		}
		return binary.BigEndian.AppendUint64(append(dst, 0x81), uint64(v))
	case float32:
		return binary.BigEndian.AppendUint32(append(dst, 0x72), math.Float32bits(v))
	case float64:
		return binary.BigEndian.AppendUint64(append(dst, 0x82), math.Float64bits(v))
	case Char:
		return binary.BigEndian.AppendUint32(append(dst, 0x73), uint32(v))
	case Decimal32:
		return append(append(dst, 0x74), v[:]...)
	case Decimal64:
		return append(append(dst, 0x84), v[:]...)
	case Decimal128:
		return append(append(dst, 0x94), v[:]...)
	case time.Time:
		return appendTime(dst, v)
	case UUID:
		return append(append(dst, 0x98), v[:]...)
	case []byte:
		return appendBinary(dst, v)
	case string:
		return appendString(dst, v)
	case Symbol:
		return appendSymbol(dst, v)
	case List:
		return appendCompound(dst, 0xD0, len(v), func(dst []byte) []byte {
			for _, e := range v {
				dst = appendValue(dst, e)
			}
			return dst
		})
	case Map:
		return appendCompound(dst, 0xD1, 2*len(v), func(dst []byte) []byte {
			for _, e := range v {
				dst = appendValue(appendValue(dst, e.Key), e.Value)
			}
			return dst
		})
	case Array:
		return appendArray(dst, v)
	case []Symbol:
		return appendTexts(dst, 0xB3, v)
	case []string:
		return appendTexts(dst, 0xB1, v)
	case Described:
		return appendValue(appendValue(append(dst, 0), v.Descriptor), v.Value)
	}
	panic(fmt.Sprintf("amqp: a %T is no value", v))
}

func appendBool(dst []byte, v bool) []byte {
	if v {
		return append(dst, 0x41)
	}
	return append(dst, 0x42)
}

func appendUint(dst []byte, v uint32) []byte {
	switch {
	case v == 0:
		return append(dst, 0x43)
	case v <= math.MaxUint8:
		return append(dst, 0x52, byte(v))
	}
	return binary.BigEndian.AppendUint32(append(dst, 0x70), v)
}

func appendUlong(dst []byte, v uint64) []byte {
	switch {
	case v == 0:
		return append(dst, 0x44)
	case v <= math.MaxUint8:
		return append(dst, 0x53, byte(v))
	}
	return binary.BigEndian.AppendUint64(append(dst, 0x80), v)
}

func appendTime(dst []byte, v time.Time) []byte {
	return binary.BigEndian.AppendUint64(append(dst, 0x83), uint64(v.UnixMilli()))
}

func appendVariable(dst []byte, code byte, n int) []byte {
	if n <= math.MaxUint8 {
		return append(dst, code, byte(n))
	}
	return binary.BigEndian.AppendUint32(append(dst, code|0x10), uint32(n))
}

func appendBinary(dst, v []byte) []byte { return append(appendVariable(dst, 0xA0, len(v)), v...) }
func appendString(dst []byte, v string) []byte {
	return append(appendVariable(dst, 0xA1, len(v)), v...)
}
func appendSymbol(dst []byte, v Symbol) []byte {
	return append(appendVariable(dst, 0xA3, len(v)), v...)
}

// appendCompound writes what has a size and a count, with four bytes for each; the
// size is known at the end.
func appendCompound(dst []byte, code byte, n int, elements func([]byte) []byte) []byte {
	dst = append(dst, code, 0, 0, 0, 0)
	at := len(dst)
	dst = elements(binary.BigEndian.AppendUint32(dst, uint32(n)))
	binary.BigEndian.PutUint32(dst[at-4:], uint32(len(dst)-at))
	return dst
}

// appendTexts writes an array of strings or symbols.
func appendTexts[T ~string](dst []byte, code byte, v []T) []byte {
	return appendCompound(dst, 0xF0, len(v), func(dst []byte) []byte {
		dst = append(dst, code)
		for _, s := range v {
			dst = append(binary.BigEndian.AppendUint32(dst, uint32(len(s))), s...)
		}
		return dst
	})
}

// appendArray writes an array as it was decoded: its elements are of one type, and
// each is written in the widest form that this has.
func appendArray(dst []byte, v Array) []byte {
	if len(v) == 0 {
		return append(dst, 0x40) // nothing tells of what it would be
	}
	return appendCompound(dst, 0xF0, len(v), func(dst []byte) []byte {
		first := wide(v[0])
		dst = append(dst, first.constructor...)
		for _, e := range v {
			w := wide(e)
			if string(w.constructor) != string(first.constructor) {
				panic("amqp: an array holds values of two types")
			}
			dst = append(dst, w.value...)
		}
		return dst
	})
}

type wideValue struct{ constructor, value []byte }

// wide writes a value in the one form that all of its type can have.
func wide(v any) wideValue {
	split := func(b []byte) wideValue { return wideValue{b[:1], b[1:]} }
	switch v := v.(type) {
	case bool:
		if v {
			return wideValue{[]byte{0x56}, []byte{1}}
		}
		return wideValue{[]byte{0x56}, []byte{0}}
	case uint32:
		return split(binary.BigEndian.AppendUint32([]byte{0x70}, v))
	case uint64:
		return split(binary.BigEndian.AppendUint64([]byte{0x80}, v))
	case int32:
		return split(binary.BigEndian.AppendUint32([]byte{0x71}, uint32(v)))
	case int64:
		return split(binary.BigEndian.AppendUint64([]byte{0x81}, uint64(v)))
	case []byte:
		return split(append(binary.BigEndian.AppendUint32([]byte{0xB0}, uint32(len(v))), v...))
	case string:
		return split(append(binary.BigEndian.AppendUint32([]byte{0xB1}, uint32(len(v))), v...))
	case Symbol:
		return split(append(binary.BigEndian.AppendUint32([]byte{0xB3}, uint32(len(v))), v...))
	case Described:
		inner := wide(v.Value)
		return wideValue{append(appendValue([]byte{0}, v.Descriptor), inner.constructor...), inner.value}
	case List:
		if len(v) == 0 {
			return wideValue{[]byte{0xD0}, []byte{0, 0, 0, 4, 0, 0, 0, 0}}
		}
	case Array:
		if len(v) == 0 {
			return wideValue{[]byte{0xF0}, []byte{0, 0, 0, 5, 0, 0, 0, 0, 0x40}}
		}
	}
	return split(appendValue(nil, v))
}

// A fieldsWriter writes the list of a composite type.
type fieldsWriter struct {
	dst   []byte
	at    int // of the first byte after the size
	n     int // fields written
	nulls int // to be written before the next
}

// begin writes a descriptor and the head of a list.
func begin(dst []byte, descriptor byte) fieldsWriter {
	dst = append(dst, 0, 0x53, descriptor, 0xD0, 0, 0, 0, 0, 0, 0, 0, 0)
	return fieldsWriter{dst: dst, at: len(dst) - 4}
}

// end gives what was written. Nulls at its end are left out.
func (w *fieldsWriter) end() []byte {
	if w.n == 0 {
		return append(w.dst[:w.at-5], 0x45)
	}
	size := len(w.dst) - w.at
	if size-4+1 <= math.MaxUint8 && w.n <= math.MaxUint8 { // the short form
		w.dst[w.at-5] = 0xC0
		w.dst[w.at-4], w.dst[w.at-3] = byte(size-4+1), byte(w.n)
		n := copy(w.dst[w.at-2:], w.dst[w.at+4:])
		return w.dst[:w.at-2+n]
	}
	binary.BigEndian.PutUint32(w.dst[w.at-4:], uint32(size))
	binary.BigEndian.PutUint32(w.dst[w.at:], uint32(w.n))
	return w.dst
}

// all is end for a list of n fields, with the nulls at its end: performatives and errors are said whole. Azure says them
// so, and azure-eventhub for Python takes their fields by place, and looks for none that is missing.
func (w *fieldsWriter) all(n int) []byte {
	if w.n < n {
		w.nulls = n - w.n - 1
		w.dst = append(w.next(), 0x40)
	}
	return w.end()
}

func (w *fieldsWriter) null() { w.nulls++ }

// next makes room for a field that is not null.
func (w *fieldsWriter) next() []byte {
	for ; w.nulls > 0; w.nulls-- {
		w.dst = append(w.dst, 0x40)
		w.n++
	}
	w.n++
	return w.dst
}

func (w *fieldsWriter) bool(v bool)   { w.dst = appendBool(w.next(), v) }
func (w *fieldsWriter) ubyte(v uint8) { w.dst = append(w.next(), 0x50, v) }
func (w *fieldsWriter) ushort(v uint16) {
	w.dst = binary.BigEndian.AppendUint16(append(w.next(), 0x60), v)
}
func (w *fieldsWriter) uint(v uint32)         { w.dst = appendUint(w.next(), v) }
func (w *fieldsWriter) ulong(v uint64)        { w.dst = appendUlong(w.next(), v) }
func (w *fieldsWriter) binary(v []byte)       { w.dst = appendBinary(w.next(), v) }
func (w *fieldsWriter) text(v string)         { w.dst = appendString(w.next(), v) }
func (w *fieldsWriter) symbol(v Symbol)       { w.dst = appendSymbol(w.next(), v) }
func (w *fieldsWriter) timestamp(v time.Time) { w.dst = appendTime(w.next(), v) }

// The following write null for what is zero.

func (w *fieldsWriter) maybeText(v string) {
	if v == "" {
		w.null()
	} else {
		w.text(v)
	}
}

func (w *fieldsWriter) maybeSymbol(v Symbol) {
	if v == "" {
		w.null()
	} else {
		w.symbol(v)
	}
}

func (w *fieldsWriter) maybeSymbols(v []Symbol) {
	if len(v) == 0 {
		w.null()
	} else {
		w.value([]Symbol(v))
	}
}

func (w *fieldsWriter) maybeTime(v time.Time) {
	if v.IsZero() {
		w.null()
	} else {
		w.timestamp(v)
	}
}

func (w *fieldsWriter) maybeMap(v Map) {
	if v == nil {
		w.null()
	} else {
		w.value(v)
	}
}

// value writes any value.
func (w *fieldsWriter) value(v any) {
	if v == nil {
		w.null()
	} else {
		w.dst = appendValue(w.next(), v)
	}
}
