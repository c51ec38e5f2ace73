package messaging

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/signet-iot/signet"
)

// The record batch, version 1. ENCODING.md tells it in full; a change of what
// is written here is a new version, and every older one stays readable.
const (
	batchMagic   = "SGB"
	batchVersion = 1
	headerSize   = 16 // magic 3, version 1, CRC-32C 4, base time 8

	// sameOrigin in the flags of a record: AuthMethod and Source are those of the
	// record before. They are a quarter of a small message and seldom differ.
	sameOrigin = 1
)

const (
	// maxBatchBytes fits one NATS message, whose default limit (max_payload) is
	// 1 MiB with its headers.
	maxBatchBytes = 1<<20 - 4<<10
	// maxBatchRecords bounds how many devices wait for one sync, and what a
	// reader decodes to find one record.
	maxBatchRecords = signet.MaxBatchRecords
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// appendHeader begins a batch; [seal] ends it.
func appendHeader(dst []byte, hub string, base time.Time) []byte {
	dst = append(dst, batchMagic...)
	dst = append(dst, batchVersion, 0, 0, 0, 0)
	dst = binary.BigEndian.AppendUint64(dst, uint64(base.UnixMilli()))
	return appendString(dst, hub)
}

// seal writes the checksum of a batch that is complete: of all its bytes but
// the checksum's own.
func seal(batch []byte) { binary.BigEndian.PutUint32(batch[4:8], checksum(batch)) }

func checksum(batch []byte) uint32 {
	return crc32.Update(crc32.Checksum(batch[:4], castagnoli), castagnoli, batch[8:])
}

// recordSize is what m takes in a batch, at most.
func recordSize(m *signet.Message) int {
	const number = binary.MaxVarintLen32
	n := 8*number + binary.MaxVarintLen64 + len(m.DeviceID) + len(m.ModuleID) + len(m.GenerationID) + len(m.AuthMethod) + len(m.Source) + len(m.Body)
	for _, list := range [...][]signet.Property{m.System, m.Properties} {
		n += number
		for _, p := range list {
			n += 2*number + len(p.Name) + len(p.Value)
		}
	}
	return n
}

// An origin is how the sender of a record has authenticated, and what it is from.
type origin struct{ authMethod, source string }

// appendRecord adds m to a batch whose base time is base. before is the origin of
// the record before it, nil for the first. Nothing of m is kept.
func appendRecord(dst []byte, m *signet.Message, before *origin, base time.Time) []byte {
	if before != nil && *before == (origin{m.AuthMethod, m.Source}) {
		dst = append(dst, sameOrigin)
	} else {
		dst = append(dst, 0)
		dst = appendString(dst, m.AuthMethod)
		dst = appendString(dst, m.Source)
	}
	dst = binary.AppendVarint(dst, m.EnqueuedTime.UnixMilli()-base.UnixMilli())
	dst = appendString(dst, m.DeviceID)
	dst = appendString(dst, m.ModuleID)
	dst = appendString(dst, m.GenerationID)
	dst = appendProperties(dst, m.System)
	dst = appendProperties(dst, m.Properties)
	dst = binary.AppendUvarint(dst, uint64(len(m.Body)))
	return append(dst, m.Body...)
}

func appendString(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

func appendProperties(dst []byte, list []signet.Property) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(list)))
	for _, p := range list {
		dst = appendString(dst, p.Name)
		if p.Null {
			dst = append(dst, 0)
			continue
		}
		dst = append(binary.AppendUvarint(dst, uint64(len(p.Value))+1), p.Value...)
	}
	return dst
}

// errChecksum: the bytes are not those that were written.
var errChecksum = errors.New("the checksum does not fit")

// decodeBatch calls each for the records of a batch until it returns false. The
// batch must be one of hub: nothing of another hub is ever shown.
//
// The bodies share memory with data, the texts with one copy of it.
func decodeBatch(data []byte, hub string, each func(index uint32, m *signet.Message) bool) error {
	if len(data) < headerSize || string(data[:3]) != batchMagic {
		return errors.New("not a record batch")
	}
	if binary.BigEndian.Uint32(data[4:8]) != checksum(data) {
		return errChecksum
	}
	if v := data[3]; v != batchVersion {
		return fmt.Errorf("a record batch of version %d; this program reads version %d", v, batchVersion)
	}
	d := decoder{data: data, text: string(data), at: headerSize}
	base := int64(binary.BigEndian.Uint64(data[8:16]))
	if owner := d.string(); d.err == nil && owner != hub {
		return errors.New("a record batch of another hub")
	}
	var authMethod, source string
	for index := uint32(0); d.err == nil && d.at < len(data); index++ {
		m := &signet.Message{Hub: hub}
		switch flags := d.uvarint(); {
		case flags&^sameOrigin != 0:
			d.fail("record %d has the unknown flags %#x", index, flags)
		case flags&sameOrigin == 0:
			authMethod, source = d.string(), d.string()
		case index == 0:
			d.fail("the first record refers to one before it")
		}
		m.AuthMethod, m.Source = authMethod, source
		m.EnqueuedTime = time.UnixMilli(base + d.varint()).UTC()
		m.DeviceID, m.ModuleID, m.GenerationID = d.string(), d.string(), d.string()
		m.System, m.Properties = d.properties(), d.properties()
		if n := d.length(d.uvarint()); n > 0 {
			m.Body = data[d.at : d.at+n : d.at+n]
			d.at += n
		}
		if d.err == nil && !each(index, m) {
			return nil
		}
	}
	return d.err
}

// A decoder reads the fields of a batch one after the other. After the first
// error every read gives nothing.
type decoder struct {
	data []byte
	text string // the same bytes, so that all texts of a batch are one allocation
	at   int
	err  error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("a malformed record batch at byte %d: %s", d.at, fmt.Sprintf(format, args...))
	}
}

func (d *decoder) uvarint() uint64 {
	if d.err != nil {
		return 0
	}
	v, n := binary.Uvarint(d.data[d.at:])
	if n <= 0 {
		d.fail("a number was expected")
		return 0
	}
	d.at += n
	return v
}

func (d *decoder) varint() int64 {
	if d.err != nil {
		return 0
	}
	v, n := binary.Varint(d.data[d.at:])
	if n <= 0 {
		d.fail("a number was expected")
		return 0
	}
	d.at += n
	return v
}

// length checks that n more bytes are there; n is at least as long as whatever
// is allocated because of it.
func (d *decoder) length(n uint64) int {
	if d.err == nil && n > uint64(len(d.data)-d.at) {
		d.fail("%d bytes announced, %d left", n, len(d.data)-d.at)
	}
	if d.err != nil {
		return 0
	}
	return int(n)
}

func (d *decoder) string() string { return d.take(d.length(d.uvarint())) }

func (d *decoder) take(n int) string {
	s := d.text[d.at : d.at+n]
	d.at += n
	return s
}

func (d *decoder) properties() []signet.Property {
	n := d.length(d.uvarint()) // a property takes two bytes or more
	if n == 0 {
		return nil
	}
	list := make([]signet.Property, 0, min(n, 64))
	for range n {
		p := signet.Property{Name: d.string()}
		if v := d.uvarint(); v == 0 {
			p.Null = true
		} else {
			p.Value = d.take(d.length(v - 1))
		}
		if d.err != nil {
			return nil
		}
		list = append(list, p)
	}
	return list
}
