package amqp

import (
	"encoding/binary"
	"io"
	"sync"
)

// A frame is one as it came (AMQP §2.3). Its body is what follows the extended
// header, and belongs to the reader until the next is asked for.
type frame struct {
	kind    byte
	channel uint16
	body    []byte
}

// The types of frames, which are the numbers of protocol headers too, but for one.
const (
	frameAMQP = 0
	frameSASL = 1

	headerAMQP = 0
	headerSASL = 3
)

// A reader takes frames from a stream. Between frames it holds no buffer: the next
// eight bytes go into an array of its own. A buffer begins small and grows as bytes
// arrive. A read that timed out may go on where it stood.
type reader struct {
	source io.Reader
	header [8]byte
	have   int // of header
	buffer *buffer
	got    int // in buffer
	given  bool
}

// protocol reads a protocol header: its number, when it is one of AMQP 1.0.
func (r *reader) protocol() (id byte, ok bool, err error) {
	if err := r.eight(); err != nil {
		return 0, false, err
	}
	r.have = 0
	h := r.header
	return h[4], string(h[:4]) == "AMQP" && h[5] == 1 && h[6] == 0 && h[7] == 0, nil
}

func appendProtocol(dst []byte, id byte) []byte { return append(dst, 'A', 'M', 'Q', 'P', id, 1, 0, 0) }

func (r *reader) eight() error {
	if r.given {
		r.giveBack()
		r.have, r.given = 0, false
	}
	for r.have < len(r.header) {
		n, err := r.source.Read(r.header[r.have:])
		r.have += n
		if err := r.failed(n, err); err != nil {
			return err
		}
	}
	return nil
}

// failed gives the error of a read that brought nothing.
func (r *reader) failed(n int, err error) error {
	switch {
	case n > 0 || err == nil:
		return nil
	case err == io.EOF && r.have+r.got > 0:
		return io.ErrUnexpectedEOF
	}
	return err
}

// next waits for a frame.
func (r *reader) next() (frame, error) {
	if err := r.eight(); err != nil {
		return frame{}, err
	}
	size, data := binary.BigEndian.Uint32(r.header[:]), int(r.header[4])*4
	switch {
	case size > maxFrame:
		return frame{}, &Malformed{"§2.3.1", "a frame is larger than the max-frame-size"}
	case data < len(r.header) || data > int(size):
		return frame{}, &Malformed{"§2.3.1", "the data offset of a frame is not within it"}
	}
	rest := int(size) - len(r.header)
	for r.got < rest {
		n, err := r.source.Read(r.room(rest))
		r.got += n
		if err := r.failed(n, err); err != nil {
			return frame{}, err
		}
	}
	r.given = true
	f := frame{kind: r.header[5], channel: binary.BigEndian.Uint16(r.header[6:])}
	if rest > 0 {
		f.body = r.buffer.bytes[data-len(r.header) : rest]
	}
	return f, nil
}

// room gives where more of a frame goes; it is never empty.
func (r *reader) room(size int) []byte {
	if r.buffer == nil {
		r.buffer = borrow(0)
	} else if r.got == len(r.buffer.bytes) {
		b := borrow(r.buffer.class + 1)
		copy(b.bytes, r.buffer.bytes)
		r.buffer.giveBack()
		r.buffer = b
	}
	return r.buffer.bytes[r.got:min(size, len(r.buffer.bytes))]
}

func (r *reader) giveBack() {
	if r.buffer != nil {
		r.buffer.giveBack()
	}
	r.buffer, r.got = nil, 0
}

// A buffer is borrowed for as long as a frame is under way.
type buffer struct {
	bytes []byte
	class int
}

// buffers are kept by class: 1, 4 and 16 KiB.
var buffers [3]sync.Pool

func borrow(class int) *buffer {
	if b, ok := buffers[class].Get().(*buffer); ok {
		return b
	}
	return &buffer{bytes: make([]byte, 1<<10<<(2*class)), class: class}
}

func (b *buffer) giveBack() { buffers[b.class].Put(b) }

// appendFrame writes a frame whose body is appended by performative.
func appendFrame(dst []byte, kind byte, channel uint16, performative func([]byte) []byte) []byte {
	at := len(dst)
	dst = append(dst, 0, 0, 0, 0, 2, kind, byte(channel>>8), byte(channel))
	dst = performative(dst)
	binary.BigEndian.PutUint32(dst[at:], uint32(len(dst)-at))
	return dst
}

// appendEmpty writes a frame that says nothing but that we are there (AMQP §2.4.5).
func appendEmpty(dst []byte) []byte { return append(dst, 0, 0, 0, 8, 2, 0, 0, 0) }
