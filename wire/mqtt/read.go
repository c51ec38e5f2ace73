package mqtt

import (
	"io"
	"sync"
)

// A Reader takes packets from a stream. It is for one goroutine.
//
// Between packets it holds no buffer: the next packet's first two bytes go into
// an array of its own, and only then a buffer is borrowed. That one starts
// small and grows as bytes arrive, never by what is merely announced.
type Reader struct {
	source io.Reader
	max    int
	server bool // packets of a server are due, not those of a client

	first  [2]byte // where an idle connection waits; no packet is shorter
	buffer *buffer // nil: what is unread, if anything, is in first
	from   int     // the unread bytes are [from:to]
	to     int
	given  int // how many of them were handed out as a packet

	publish Publish // the one given out, so that it costs no allocation
	topic   string  // of the last PUBLISH: a device seldom has another
	refused error   // what ended the stream
}

// NewReader reads what a client sends. max bounds a packet's remaining length in
// bytes; a larger one is refused as [*TooLarge] before its body is read.
func NewReader(r io.Reader, max int) *Reader { return &Reader{source: r, max: max} }

// NewClientReader reads what a server sends.
func NewClientReader(r io.Reader, max int) *Reader {
	return &Reader{source: r, max: max, server: true}
}

// SetMax changes the bound for the packets to come: little before a client is
// known, more afterwards.
func (r *Reader) SetMax(max int) { r.max = max }

// Next waits for the next packet. A *[Publish] and its Payload belong to the
// Reader and are valid until Release or the next call; everything else, the
// Topic too, is the caller's.
//
// Errors: [*Malformed], [*UnsupportedVersion] and [*TooLarge], after which the
// stream is over and Next repeats them; io.EOF between packets and
// io.ErrUnexpectedEOF within one; else the source's own, such as a timeout,
// after which Next may be called again and goes on where it stood.
func (r *Reader) Next() (Packet, error) {
	r.Release()
	if r.refused != nil {
		return nil, r.refused
	}
	for {
		header, size, err := r.measure()
		if err == nil && size > 0 && r.to-r.from >= size {
			var p Packet
			if p, err = r.decode(r.unread()[:size], header); err == nil {
				r.given = size
				return p, nil
			}
		}
		if err != nil {
			r.refused = err
			r.giveBack()
			return nil, err
		}
		if err := r.fill(size); err != nil {
			return nil, err
		}
	}
}

// Release tells that the last packet is done with. A caller that keeps a
// packet's handling long after it has copied what it needs may call it early;
// Next calls it too.
func (r *Reader) Release() {
	r.publish = Publish{}
	r.from, r.given = r.from+r.given, 0
	if r.from == r.to {
		r.giveBack()
	}
}

func (r *Reader) unread() []byte {
	if r.buffer == nil {
		return r.first[r.from:r.to]
	}
	return r.buffer.bytes[r.from:r.to]
}

// measure judges the fixed header as far as it is there. size is that of the
// whole packet and 0 while it is not known.
func (r *Reader) measure() (header, size int, err error) {
	unread := r.unread()
	if len(unread) == 0 {
		return 0, 0, nil
	}
	if m := checkFirst(unread[0], r.server); m != nil {
		return 0, 0, m
	}
	length, shift := 0, 0
	for i, b := range unread[1:] {
		length |= int(b&0x7F) << shift
		if shift += 7; b < 0x80 {
			header, size = i+2, i+2+length
			break
		}
		if i == 3 {
			return 0, 0, &Malformed{Tag: violation, Reason: "the remaining length takes more than four bytes"}
		}
	}
	if size == 0 {
		return 0, 0, nil
	}
	if length > r.max {
		return 0, 0, &TooLarge{Size: length, Max: r.max}
	}
	if m := checkLength(unread[0], length); m != nil {
		return 0, 0, m
	}
	return header, size, nil
}

// fill waits for more of a packet of the given size, which may not be known yet.
func (r *Reader) fill(size int) error {
	// io.Reader allows an empty read; as bufio does, be patient only so long.
	for range 100 {
		n, err := r.source.Read(r.room(size))
		r.to += n
		if n > 0 {
			return nil
		}
		if err == io.EOF && r.to > r.from {
			return io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

// room gives where the next bytes go; it is never empty.
func (r *Reader) room(size int) []byte {
	if r.buffer == nil {
		if r.to < len(r.first) {
			return r.first[r.to:]
		}
		r.move(borrow(0))
	}
	b := r.buffer
	switch {
	case r.from == 0 && r.to == len(b.bytes):
		b = r.move(borrow(b.class + 1))
	case r.from+max(size, maxHeader) > len(b.bytes):
		r.to = copy(b.bytes, b.bytes[r.from:r.to])
		r.from = 0
	}
	if size > smallest {
		// Read ahead in the smallest buffer alone, so that a big one never
		// outlasts its packet.
		return b.bytes[r.to:min(size, len(b.bytes))]
	}
	return b.bytes[r.to:]
}

// move takes what is unread into another buffer.
func (r *Reader) move(b *buffer) *buffer {
	n := copy(b.bytes, r.unread())
	r.giveBack()
	r.buffer, r.to = b, n
	return b
}

func (r *Reader) giveBack() {
	if r.buffer != nil {
		buffers[r.buffer.class].Put(r.buffer)
	}
	r.buffer, r.from, r.to = nil, 0, 0
}

// A buffer is borrowed for as long as a packet is under way.
type buffer struct {
	bytes []byte
	class int
}

const (
	// maxRemembered is the longest topic that is remembered: an idle connection
	// holds it. Those of a device with some properties are shorter.
	maxRemembered = 256

	maxHeader = 5
	smallest  = 2 << 10 // holds a few packets of telemetry as they are sent
)

// buffers are kept by class, each four times the one before: 2, 8, 32, 128 and
// 512 KiB, then 2 MiB and so on up to the 256 MiB that MQTT knows. So a packet
// under way never holds more than four times what has arrived of it.
var buffers [10]sync.Pool

func borrow(class int) *buffer {
	if b, ok := buffers[class].Get().(*buffer); ok {
		return b
	}
	return &buffer{bytes: make([]byte, smallest<<(2*class)), class: class}
}
