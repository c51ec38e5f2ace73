package mqtt

import (
	"bufio"
	"bytes"
	"io"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"
)

// forever gives the same bytes again and again, in pieces as TLS records are.
type forever struct {
	packet []byte
	at     int
}

func (f *forever) Read(b []byte) (int, error) {
	n := copy(b, f.packet[f.at:])
	f.at = (f.at + n) % len(f.packet)
	return n, nil
}

// BenchmarkPublish takes a PUBLISH of QoS 1 with 256 bytes from a stream and
// writes its PUBACK, as a broker does it with each codec.
func BenchmarkPublish(b *testing.B) {
	packet := AppendPublish(nil, &Publish{QoS: 1, Topic: "devices/device-0001/messages/events/", PacketID: 7, Payload: make([]byte, 256)})

	b.Run("signet", func(b *testing.B) {
		b.ReportAllocs()
		r := NewReader(&forever{packet: packet}, enough)
		var out []byte
		for b.Loop() {
			p, err := r.Next()
			if err != nil {
				b.Fatal(err)
			}
			out = AppendPuback(out[:0], p.(*Publish).PacketID)
		}
	})

	// As mochi's own Client.ReadFixedHeader, ReadPacket and WritePacket.
	b.Run("mochi", func(b *testing.B) {
		b.ReportAllocs()
		r := bufio.NewReaderSize(&forever{packet: packet}, 2048)
		for b.Loop() {
			var header packets.FixedHeader
			first, err := r.ReadByte()
			if err != nil {
				b.Fatal(err)
			}
			if err = header.Decode(first); err != nil {
				b.Fatal(err)
			}
			if header.Remaining, _, err = packets.DecodeLength(r); err != nil {
				b.Fatal(err)
			}
			body := make([]byte, header.Remaining)
			if _, err = io.ReadFull(r, body); err != nil {
				b.Fatal(err)
			}
			in := packets.Packet{ProtocolVersion: 4, FixedHeader: header}
			if err = in.PublishDecode(body); err != nil {
				b.Fatal(err)
			}
			if code := in.PublishValidate(0); code != packets.CodeSuccess {
				b.Fatal(code)
			}
			out := packets.Packet{ProtocolVersion: 4, FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: in.PacketID}
			var wire bytes.Buffer
			if err = out.PubackEncode(&wire); err != nil {
				b.Fatal(err)
			}
		}
	})
}
