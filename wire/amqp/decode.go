package amqp

import (
	"encoding/binary"
	"math"
	"time"
	"unicode/utf8"
)

// A decoder reads values from bytes. It copies no binary: what it gives of []byte
// lies in them. After an error it reads nothing more.
type decoder struct {
	b      []byte
	err    error
	values int // how many have been read
	depth  int
}

func (d *decoder) fail(clause, reason string) {
	if d.err == nil {
		d.err = &Malformed{clause, reason}
	}
	d.b = nil
}

func (d *decoder) take(n int) []byte {
	if n < 0 || n > len(d.b) {
		d.fail("§1.2", "a value is cut short")
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) byte() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) uint16() uint16 {
	if b := d.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (d *decoder) uint32() uint32 {
	if b := d.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) uint64() uint64 {
	if b := d.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// size reads the size of what is of variable width, of 1 or 4 bytes.
func (d *decoder) size(code byte) int {
	if code&0x10 == 0 { // 0xA0, 0xC0, 0xE0
		return int(d.byte())
	}
	if n := d.uint32(); n <= math.MaxInt32 {
		return int(n)
	}
	d.fail("§1.2", "a value is cut short")
	return 0
}

// text reads a string or symbol of a constructor.
func (d *decoder) text(code byte) string {
	b := d.take(d.size(code))
	if !utf8.Valid(b) { // a symbol is of ASCII, and nobody is served worse by more
		d.fail("§1.6.20", "a string is not UTF-8")
		return ""
	}
	return string(b)
}

// count enters a value.
func (d *decoder) count() bool {
	if d.values++; d.values > maxValues {
		d.fail("§2.8.15", "there are too many values in one message or frame")
	}
	return d.err == nil
}

// value reads any value.
func (d *decoder) value() any {
	if !d.count() {
		return nil
	}
	code := d.byte()
	if code == 0 {
		return d.described()
	}
	return d.primitive(code)
}

func (d *decoder) described() any {
	if !d.deeper() {
		return nil
	}
	defer d.higher()
	// Any value may be the descriptor, though §1.2 gives only two types a meaning: azure-eventhub for Python 5.11 asks
	// $management with a token, as binary, that describes the time of its end.
	v := Described{Descriptor: d.value()}
	v.Value = d.value()
	return v
}

func (d *decoder) deeper() bool {
	if d.depth++; d.depth > maxDepth {
		d.fail("§2.8.15", "values lie too deep in each other")
	}
	return d.err == nil
}

func (d *decoder) higher() { d.depth-- }

// primitive reads a value of a constructor (AMQP §1.6).
func (d *decoder) primitive(code byte) any {
	switch code {
	case 0x40:
		return nil
	case 0x41:
		return true
	case 0x42:
		return false
	case 0x56:
		switch d.byte() {
		case 0:
			return false
		case 1:
			return true
		}
		d.fail("§1.6.2", "a boolean is neither 0 nor 1")
		return nil
	case 0x50:
		return d.byte()
	case 0x60:
		return d.uint16()
	case 0x43:
		return uint32(0)
	case 0x52:
		return uint32(d.byte())
	case 0x70:
		return d.uint32()
	case 0x44:
		return uint64(0)
	case 0x53:
		return uint64(d.byte())
	case 0x80:
		return d.uint64()
	case 0x51:
		return int8(d.byte())
	case 0x61:
		return int16(d.uint16())
	case 0x54:
		return int32(int8(d.byte()))
	case 0x71:
		return int32(d.uint32())
	case 0x55:
		return int64(int8(d.byte()))
	case 0x81:
		return int64(d.uint64())
	case 0x72:
		return math.Float32frombits(d.uint32())
	case 0x82:
		return math.Float64frombits(d.uint64())
	case 0x73:
		return Char(d.uint32())
	case 0x74:
		var v Decimal32
		copy(v[:], d.take(len(v)))
		return v
	case 0x84:
		var v Decimal64
		copy(v[:], d.take(len(v)))
		return v
	case 0x94:
		var v Decimal128
		copy(v[:], d.take(len(v)))
		return v
	case 0x83:
		return time.UnixMilli(int64(d.uint64())).UTC()
	case 0x98:
		var v UUID
		copy(v[:], d.take(len(v)))
		return v
	case 0xA0, 0xB0:
		return d.take(d.size(code))
	case 0xA1, 0xB1:
		return d.text(code)
	case 0xA3, 0xB3:
		return Symbol(d.text(code))
	case 0x45:
		return List{}
	case 0xC0, 0xD0:
		return d.list(code)
	case 0xC1, 0xD1:
		return d.mapping(code)
	case 0xE0, 0xF0:
		return d.array(code)
	}
	d.fail("§1.6", "a constructor is of no known type")
	return nil
}

// compound begins to read one: it gives a decoder of its contents, which counts and
// fails for d when it is closed, and the number of its elements.
func (d *decoder) compound(code byte) (inner decoder, n int) {
	body := d.take(d.size(code))
	inner = decoder{b: body, err: d.err, values: d.values, depth: d.depth}
	if inner.err != nil {
		return inner, 0
	}
	if code&0x10 == 0 {
		n = int(inner.byte())
	} else if count := inner.uint32(); count <= maxValues {
		n = int(count)
	} else {
		inner.fail("§2.8.15", "there are too many values in one message or frame")
	}
	inner.deeper()
	return inner, n
}

func (d *decoder) close(inner *decoder) {
	if inner.err == nil && len(inner.b) > 0 {
		inner.fail("§1.4", "a list, map or array is longer than what it holds")
	}
	d.values = inner.values
	if inner.err != nil {
		d.err, d.b = inner.err, nil
	}
}

func (d *decoder) list(code byte) any {
	inner, n := d.compound(code)
	defer d.close(&inner)
	var v List
	for range n {
		e := inner.value()
		if inner.err != nil {
			return nil
		}
		v = append(v, e)
	}
	if v == nil {
		v = List{}
	}
	return v
}

func (d *decoder) mapping(code byte) any {
	inner, n := d.compound(code)
	defer d.close(&inner)
	if n%2 != 0 {
		inner.fail("§1.6.23", "a map has a key without a value")
	}
	v := Map{}
	for range n / 2 {
		e := Entry{inner.value(), inner.value()}
		if inner.err != nil {
			return nil
		}
		v = append(v, e)
	}
	return v
}

func (d *decoder) array(code byte) any {
	inner, n := d.compound(code)
	defer d.close(&inner)
	if inner.err != nil {
		return nil
	}
	element := inner.byte()
	var descriptor any
	if element == 0 {
		switch v := inner.value().(type) {
		case uint64, Symbol:
			descriptor = v
		default:
			inner.fail("§1.3", "a descriptor is neither an ulong nor a symbol")
		}
		element = inner.byte()
		if element == 0 {
			inner.fail("§1.6.24", "an array holds values with two descriptors")
		}
	}
	v := Array{}
	for range n { // also of values that take no bytes: they are counted
		if !inner.count() {
			return nil
		}
		e := inner.primitive(element)
		if inner.err != nil {
			return nil
		}
		if descriptor != nil {
			e = Described{descriptor, e}
		}
		v = append(v, e)
	}
	return v
}

// A fields reads the list of a composite type (AMQP §1.4), field by field. What is
// absent at its end is null.
type fields struct {
	decoder
	left int
}

// composite begins to read one: what follows a descriptor.
func (d *decoder) composite() fields {
	var f fields
	switch code := d.byte(); code {
	case 0x45:
		f.err, f.values = d.err, d.values
	case 0xC0, 0xD0:
		f.decoder, f.left = d.compound(code)
	default:
		d.fail("§1.4", "what should be a list of fields is none")
		f.err = d.err
	}
	return f
}

// over ends it. Fields that a later version might add are passed over.
func (d *decoder) over(f *fields) {
	for f.left > 0 && f.err == nil {
		f.any()
	}
	d.close(&f.decoder)
}

// next gives the constructor of the next field; 0x40 when it is null.
func (f *fields) next() byte {
	if f.left == 0 || f.err != nil {
		return 0x40
	}
	f.left--
	if !f.count() {
		return 0x40
	}
	return f.byte()
}

func (f *fields) any() any {
	if f.left == 0 || f.err != nil {
		return nil
	}
	f.left--
	return f.value()
}

func (f *fields) wrong() { f.fail("§1.4", "a field is of another type than the standard's") }

func (f *fields) bool() bool {
	switch code := f.next(); code {
	case 0x40, 0x42:
		return false
	case 0x41:
		return true
	case 0x56:
		v, _ := f.primitive(code).(bool)
		return v
	}
	f.wrong()
	return false
}

func (f *fields) ubyte(def uint8) uint8 {
	switch f.next() {
	case 0x40:
		return def
	case 0x50:
		return f.byte()
	}
	f.wrong()
	return 0
}

func (f *fields) ushort(def uint16) uint16 {
	switch f.next() {
	case 0x40:
		return def
	case 0x60:
		return f.uint16()
	}
	f.wrong()
	return 0
}

func (f *fields) uint(def uint32) uint32 {
	v, ok := f.maybeUint()
	if !ok {
		return def
	}
	return v
}

func (f *fields) maybeUint() (v uint32, ok bool) {
	switch f.next() {
	case 0x40:
		return 0, false
	case 0x43:
		return 0, true
	case 0x52:
		return uint32(f.byte()), true
	case 0x70:
		return f.decoder.uint32(), true
	}
	f.wrong()
	return 0, false
}

func (f *fields) ulong() uint64 {
	switch f.next() {
	case 0x40, 0x44:
		return 0
	case 0x53:
		return uint64(f.byte())
	case 0x80:
		return f.decoder.uint64()
	}
	f.wrong()
	return 0
}

func (f *fields) string() string {
	switch code := f.next(); code {
	case 0x40:
		return ""
	case 0xA1, 0xB1:
		return f.text(code)
	}
	f.wrong()
	return ""
}

func (f *fields) symbol() Symbol {
	switch code := f.next(); code {
	case 0x40:
		return ""
	case 0xA3, 0xB3:
		return Symbol(f.text(code))
	}
	f.wrong()
	return ""
}

// symbols reads a field that may be one symbol or an array of them.
func (f *fields) symbols() []Symbol {
	switch v := f.any().(type) {
	case nil:
	case Symbol:
		return []Symbol{v}
	case Array:
		var all []Symbol
		for _, e := range v {
			s, ok := e.(Symbol)
			if !ok {
				f.wrong()
				return nil
			}
			all = append(all, s)
		}
		return all
	default:
		f.wrong()
	}
	return nil
}

// binary gives bytes that lie in what is decoded; nil when there are none.
func (f *fields) binary() []byte {
	switch code := f.next(); code {
	case 0x40:
		return nil
	case 0xA0, 0xB0:
		return f.take(f.size(code))
	}
	f.wrong()
	return nil
}

func (f *fields) timestamp() time.Time {
	switch f.next() {
	case 0x40:
		return time.Time{}
	case 0x83:
		return time.UnixMilli(int64(f.decoder.uint64())).UTC()
	}
	f.wrong()
	return time.Time{}
}

func (f *fields) mapping() Map {
	switch v := f.any().(type) {
	case nil:
		return nil
	case Map:
		return v
	}
	if f.err == nil {
		f.wrong()
	}
	return nil
}
