package backend

import (
	"testing"

	"github.com/signet-iot/signet"
)

// BenchmarkEvent: what a message costs to be written for a reader.
func BenchmarkEvent(b *testing.B) {
	m := &signet.Message{Hub: "plant", DeviceID: "press-17", GenerationID: "638000000000000000", Source: signet.SourceTelemetry, EnqueuedTime: start,
		AuthMethod: `{"scope":"device","type":"x509Certificate","issuer":"external","acceptingIpFilterRule":null}`, Body: make([]byte, 256),
		System:     []signet.Property{{Name: "content-type", Value: "application/json"}, {Name: "content-encoding", Value: "utf-8"}},
		Properties: []signet.Property{{Name: "level", Value: "high"}}}
	b.ReportAllocs()
	for b.Loop() {
		appendEvent(make([]byte, 0, eventRoom+m.Size()), signet.Position{Sequence: 7}, m, nil)
	}
}
