package gateway

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"net"
	"reflect"
	"unsafe"
)

// What crypto/tls keeps of a handshake for as long as the connection lives: the
// chain that the client presented, parsed, and buffers as large as its messages.
// It is two thirds of what an idle connection holds, nobody asks for it again once
// the device is judged, and there is no way to give it back but this.
//
// A release of Go that has no such field is noticed by TestLetGo; what is built
// with it keeps what it keeps, and works.
var (
	peerCertificates = fieldOf[[]*x509.Certificate]("peerCertificates")
	verifiedChains   = fieldOf[[][]*x509.Certificate]("verifiedChains")
	handBuffer       = fieldOf[bytes.Buffer]("hand")     // messages of the handshake
	rawInput         = fieldOf[bytes.Buffer]("rawInput") // records as they come
	input            = fieldOf[bytes.Reader]("input")    // of rawInput, what is decrypted and not yet read
)

// letGo lets go of all that, once the handshake is done. Nobody else may read the
// connection meanwhile, nor ask it for its state.
func letGo(nc net.Conn) {
	c, ok := nc.(*tls.Conn)
	if !ok {
		return
	}
	*peerCertificates.of(c), *verifiedChains.of(c) = nil, nil
	for _, b := range []*bytes.Buffer{handBuffer.of(c), rawInput.of(c)} {
		if b.Len() == 0 && input.of(c).Len() == 0 {
			*b = bytes.Buffer{}
		}
	}
}

// A field of tls.Conn that is not exported.
type field[T any] struct {
	offset uintptr
	there  bool
}

func fieldOf[T any](name string) field[T] {
	f, ok := reflect.TypeFor[tls.Conn]().FieldByName(name)
	return field[T]{f.Offset, ok && f.Type == reflect.TypeFor[T]()}
}

// of gives the field of a connection; of one that is not there, something empty.
func (f field[T]) of(c *tls.Conn) *T {
	if !f.there {
		return new(T)
	}
	return (*T)(unsafe.Add(unsafe.Pointer(c), f.offset))
}
