// Package websocket carries a stream of bytes in the binary messages of RFC 6455,
// on the server's side: where messages and frames begin and end means nothing to
// what is carried. It knows no extension, and hence no compression.
//
// It is a codec of our own because a connection that idles costs what it holds:
// a library holds buffers of 8 KiB for each and closes it at a deadline, this one
// holds some 100 bytes and leaves deadlines to the connection below.
package websocket

import (
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"
)

// AcceptKey answers the Sec-WebSocket-Key of a client; ok is false for what is
// not the base64 of 16 bytes (RFC 6455 §4.2.1).
func AcceptKey(key string) (accept string, ok bool) {
	if nonce, err := base64.StdEncoding.DecodeString(key); err != nil || len(nonce) != 16 {
		return "", false
	}
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:]), true
}

// The codes of a close frame that a Conn says (RFC 6455 §7.4.1).
const (
	StatusNormal        = 1000
	StatusProtocolError = 1002
	StatusUnsupported   = 1003
)

// A Violation is a breach of RFC 6455 by the client, or a message of text. The
// stream is over.
type Violation struct {
	Status uint16 // what Close tells the client
	Reason string
}

func (v *Violation) Error() string { return v.Reason }

// opcodes (RFC 6455 §11.8)
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xA

	final    = 0x80 // in the first byte of a frame
	reserved = 0x70
	masked   = 0x80 // in the second
)

// maxControl bounds the payload of a control frame (RFC 6455 §5.5).
const maxControl = 125

// closeTime is what a close frame may wait for its turn, and then take to be
// written: it is for a peer that reads, and nobody waits for one that does not.
const closeTime = 100 * time.Millisecond

// A Conn is such a stream over a connection on which the handshake is done. One
// goroutine may read while another writes; Close may come from any. Deadlines
// are those of the connection below; but each write sets its own.
type Conn struct {
	net.Conn
	patience time.Duration

	// Of the reader: the header of the next frame as far as it came, and where it
	// stands in the present one.
	header    [14]byte
	have      int
	left      uint64 // of a data frame
	control   []byte // the payload of a control frame; not nil while that is under way
	mask      [4]byte
	at        int
	inMessage bool
	over      error // a *Violation, or io.EOF after a close frame

	status atomic.Uint32          // what Close tells the client
	pong   atomic.Pointer[[]byte] // what to answer the latest ping; not nil while a goroutine is about to

	turn chan struct{} // holds what one who writes has put there
	shut error         // why nothing is written any more: a close frame, or a failure
}

// NewConn speaks WebSocket on nc. patience is how long a peer may take to read
// what is written.
func NewConn(nc net.Conn, patience time.Duration) *Conn {
	c := &Conn{Conn: nc, patience: patience, turn: make(chan struct{}, 1)}
	c.status.Store(StatusNormal)
	return c
}

// Read gives what the binary messages of the client hold. Pings are answered
// meanwhile; a close frame is io.EOF. A *[Violation] is repeated at every call; after
// a deadline it goes on where it stood.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for c.left == 0 {
		if c.over != nil {
			return 0, c.over
		}
		if c.control == nil {
			if err := c.nextFrame(); err != nil {
				return 0, err
			}
		}
		if c.control != nil {
			if err := c.readControl(); err != nil {
				return 0, err
			}
		}
	}
	n, err := c.Conn.Read(p[:min(uint64(len(p)), c.left)])
	c.unmask(p[:n])
	c.left -= uint64(n)
	if n > 0 {
		return n, nil
	}
	return 0, err
}

// nextFrame reads a header.
func (c *Conn) nextFrame() error {
	// No frame of a client is shorter than two bytes and a mask. Two are enough to
	// refuse one.
	for size := 6; c.have < size; {
		n, err := c.Conn.Read(c.header[c.have:size])
		c.have += n
		if n == 0 && err != nil {
			return err
		}
		if c.have >= 2 {
			if v := c.judge(); v != nil {
				return c.fail(v)
			}
			size = headerSize(c.header[1])
		}
	}
	size := headerSize(c.header[1])
	c.have, c.at = 0, 0
	copy(c.mask[:], c.header[size-4:size])
	length := uint64(c.header[1] &^ masked)
	switch length {
	case 126:
		length = uint64(binary.BigEndian.Uint16(c.header[2:]))
	case 127:
		if length = binary.BigEndian.Uint64(c.header[2:]); length>>63 != 0 {
			return c.fail(violation("a frame of more than 2^63 bytes"))
		}
	}
	if c.header[0]&0x0F < opClose {
		c.left, c.inMessage = length, c.header[0]&final == 0
	} else {
		c.control = make([]byte, 0, length)
	}
	return nil
}

// readControl reads the payload of a control frame, and does what it asks for.
func (c *Conn) readControl() error {
	for len(c.control) < cap(c.control) {
		rest := c.control[len(c.control):cap(c.control)]
		n, err := c.Conn.Read(rest)
		c.unmask(rest[:n])
		c.control = c.control[:len(c.control)+n]
		if n == 0 && err != nil {
			return err
		}
	}
	payload := c.control
	c.control = nil
	switch c.header[0] & 0x0F {
	case opPing:
		c.answer(payload)
	case opClose:
		if len(payload) == 1 {
			return c.fail(violation("a close frame with half a status"))
		}
		c.over = io.EOF
	}
	return nil
}

func (c *Conn) fail(v *Violation) error {
	c.over = v
	c.status.Store(uint32(v.Status))
	return v
}

func headerSize(second byte) int {
	switch second &^ masked {
	case 126:
		return 8
	case 127:
		return 14
	}
	return 6
}

// judge refuses a frame by its first two bytes.
func (c *Conn) judge() *Violation {
	first, second := c.header[0], c.header[1]
	opcode := first & 0x0F
	switch {
	case first&reserved != 0:
		return violation("a reserved bit is set, and no extension was agreed")
	case second&masked == 0:
		return violation("a frame that is not masked")
	case opcode >= opClose && opcode <= opPong:
		if first&final == 0 || second&^masked > maxControl {
			return violation("a control frame that is fragmented or too long")
		}
	case opcode == opText:
		return &Violation{StatusUnsupported, "a message of text"}
	case opcode != opBinary && opcode != opContinuation:
		return violation(fmt.Sprintf("the unknown opcode %d", opcode))
	case c.inMessage != (opcode == opContinuation):
		return violation("a frame that does not continue its message")
	}
	return nil
}

func violation(reason string) *Violation { return &Violation{StatusProtocolError, reason} }

func (c *Conn) unmask(p []byte) {
	for i := range p {
		p[i] ^= c.mask[c.at&3]
		c.at++
	}
}

// answer sends a pong without holding up the reader: a peer that pings and reads
// nothing costs one goroutine more, and only the latest ping is answered, as RFC
// 6455 §5.5.3 allows.
func (c *Conn) answer(ping []byte) {
	if c.pong.Swap(&ping) != nil {
		return
	}
	go func() {
		c.turn <- struct{}{}
		defer c.yield()
		c.write(opPong, *c.pong.Swap(nil), c.patience)
	}()
}

// Write sends p as one message.
func (c *Conn) Write(p []byte) (int, error) {
	c.turn <- struct{}{}
	defer c.yield()
	if err := c.write(opBinary, p, c.patience); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (c *Conn) yield() { <-c.turn }

// write sends a frame, in one write so that it takes one record of TLS. It is
// called by who has the turn.
func (c *Conn) write(opcode byte, payload []byte, patience time.Duration) error {
	if c.shut != nil {
		return c.shut
	}
	frame := make([]byte, 2, 10+len(payload))
	frame[0] = final | opcode
	switch n := len(payload); {
	case n <= 125:
		frame[1] = byte(n)
	case n <= 0xFFFF:
		frame[1] = 126
		frame = binary.BigEndian.AppendUint16(frame, uint16(n))
	default:
		frame[1] = 127
		frame = binary.BigEndian.AppendUint64(frame, uint64(n))
	}
	c.SetWriteDeadline(time.Now().Add(patience))
	_, err := c.Conn.Write(append(frame, payload...))
	if c.shut = err; err == nil && opcode == opClose {
		c.shut = net.ErrClosed
	}
	return err
}

// CloseWrite tells the peer that nothing more comes, and leaves it the time to
// read that.
func (c *Conn) CloseWrite() error {
	c.sayClose()
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// Close tells the peer why, unless it does not read what is being written, and
// closes the connection without waiting for an answer.
func (c *Conn) Close() error {
	if err := c.sayClose(); err != nil && !errors.Is(err, net.ErrClosed) {
		// TLS would wait five seconds more for this peer to read its farewell.
		if outer, ok := c.Conn.(interface{ NetConn() net.Conn }); ok {
			outer.NetConn().Close()
		}
	}
	return c.Conn.Close()
}

func (c *Conn) sayClose() error {
	patience := time.NewTimer(closeTime)
	defer patience.Stop()
	select {
	case c.turn <- struct{}{}:
		defer c.yield()
	case <-patience.C:
		return nil // whoever writes is being cut off
	}
	return c.write(opClose, binary.BigEndian.AppendUint16(nil, uint16(c.status.Load())), closeTime)
}
