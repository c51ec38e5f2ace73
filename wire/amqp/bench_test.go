package amqp

import (
	"bytes"
	"testing"
)

// BenchmarkTransfer is a message of 256 bytes in, accepted, and its disposition out.
func BenchmarkTransfer(b *testing.B) {
	said := appendProtocol(nil, headerAMQP)
	for _, f := range []func([]byte) []byte{sayOpen, sayBegin, sayAttach("link", 0, false)} {
		said = appendFrame(said, frameAMQP, 0, f)
	}
	m := Message{Properties: Properties{MessageID: "m-1", ContentType: "application/json"}, Body: DataBody, Data: [][]byte{make([]byte, 256)}}
	payload := string(m.Append(nil))
	for i := range b.N {
		said = appendFrame(said, frameAMQP, 0, sayTransfer(0, uint32(i), false, payload))
	}
	taken := 0
	h := &handler{credit: 256, take: func(d *Delivery) {
		if _, err := ParseMessage(d.Payload); err != nil {
			b.Error(err)
		}
		taken++
		d.Settle(Accepted{})
	}}
	h.conn = NewConn(&scripted{in: bytes.NewReader(said)}, h, Options{ContainerID: "hub", Mechanisms: []Symbol{"ANONYMOUS"}})
	h.size = 1 << 20
	b.ReportAllocs()
	b.ResetTimer()
	h.conn.Serve()
	if taken != b.N {
		b.Errorf("%d of %d are taken", taken, b.N)
	}
}
