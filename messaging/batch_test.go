package messaging

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/signet-iot/signet"
)

func encodeBatch(hub string, messages []*signet.Message) []byte {
	base := messages[0].EnqueuedTime
	data := appendHeader(nil, hub, base)
	var before *origin
	for _, m := range messages {
		size := len(data) + recordSize(m)
		if data = appendRecord(data, m, before, base); len(data) > size {
			panic(fmt.Sprintf("a record of %d bytes more than its size", len(data)-size))
		}
		before = &origin{m.AuthMethod, m.Source}
	}
	seal(data)
	return data
}

func decodeAll(data []byte, hub string) (all []*signet.Message, err error) {
	err = decodeBatch(data, hub, func(index uint32, m *signet.Message) bool {
		if int(index) != len(all) {
			panic("the indexes do not count")
		}
		all = append(all, m)
		return true
	})
	return all, err
}

// What version 1 is, for good.
func TestBatchVersion1(t *testing.T) {
	taken := time.Date(2026, 3, 1, 12, 0, 0, 250e6, time.UTC)
	want := []*signet.Message{{
		Hub: "plant", DeviceID: "press-17", GenerationID: "638763", AuthMethod: "x509", Source: "Telemetry", EnqueuedTime: taken,
		System:     []signet.Property{{Name: "message-id", Value: "m1"}, {Name: "content-type", Value: "application/json"}},
		Properties: []signet.Property{{Name: "alarm", Value: "hot"}, {Name: "bare", Null: true}, {Name: "empty"}},
		Body:       []byte(`{"°C":81}`),
	}, {
		Hub: "plant", DeviceID: "press-17", ModuleID: "camera", GenerationID: "638764", AuthMethod: "x509", Source: "Telemetry",
		EnqueuedTime: taken.Add(7 * time.Millisecond), Body: []byte{0, 255},
	}, {
		Hub: "plant", DeviceID: "oven", GenerationID: "638765", AuthMethod: "sas", Source: "Telemetry", EnqueuedTime: taken.Add(-time.Second),
	}}
	text, err := os.ReadFile("testdata/batch-v1.txt")
	if err != nil {
		t.Fatal(err)
	}
	golden, err := hex.DecodeString(strings.Join(strings.Fields(regexp.MustCompile(`#.*`).ReplaceAllString(string(text), "")), ""))
	if err != nil {
		t.Fatal(err)
	}
	if got := encodeBatch("plant", want); !bytes.Equal(got, golden) {
		t.Errorf("written\n%x\nwant\n%x", got, golden)
	}
	got, err := decodeAll(golden, "plant")
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("read %+v, %v", got, err)
	}
	if got, err := decodeAll(golden, "plan"); err == nil || len(got) > 0 {
		t.Errorf("another hub reads %+v", got)
	}
	// No byte and no length but these are this batch.
	for i := range golden {
		damaged := bytes.Clone(golden)
		damaged[i] ^= 0x10
		if got, err := decodeAll(damaged, "plant"); err == nil || len(got) > 0 {
			t.Errorf("with byte %d flipped: %+v", i, got)
		}
		if got, err := decodeAll(golden[:i], "plant"); err == nil || len(got) > 0 {
			t.Errorf("cut to %d bytes: %+v", i, got)
		}
	}
	later := bytes.Clone(golden)
	later[3] = 2
	seal(later)
	if _, err := decodeAll(later, "plant"); err == nil || !strings.Contains(err.Error(), "version 2") {
		t.Errorf("of a later version: %v", err)
	}
}

// Whatever is written is read back, whatever its fields are.
func TestBatchRoundTrip(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	text := func(most int) string {
		b := make([]byte, r.IntN(most+1))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return string(b)
	}
	list := func() (l []signet.Property) {
		for range r.IntN(6) {
			if p := (signet.Property{Name: text(20), Value: text(300)}); r.IntN(3) == 0 {
				l = append(l, signet.Property{Name: p.Name, Null: true})
			} else {
				l = append(l, p)
			}
		}
		return l
	}
	for range 300 {
		var want []*signet.Message
		for range 1 + r.IntN(20) {
			m := &signet.Message{
				Hub: "plant", DeviceID: text(128), ModuleID: text(3), GenerationID: text(20), AuthMethod: text(1), Source: text(1),
				EnqueuedTime: time.UnixMilli(int64(r.Uint64() >> (1 + r.UintN(63)))).UTC(), System: list(), Properties: list(),
			}
			if body := text(1000); body != "" {
				m.Body = []byte(body)
			}
			want = append(want, m)
		}
		got, err := decodeAll(encodeBatch("plant", want), "plant")
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("read %+v, want %+v", got, want)
		}
	}
}

// Any bytes are a batch or an error, and cost no more memory than a small
// multiple of themselves, even when their checksum fits.
func FuzzDecodeBatch(f *testing.F) {
	m := &signet.Message{DeviceID: "d", AuthMethod: "a", EnqueuedTime: time.UnixMilli(1), Body: []byte("b"),
		System: []signet.Property{{Name: "s", Null: true}}, Properties: []signet.Property{{Name: "p", Value: "v"}}}
	sound := encodeBatch("plant", []*signet.Message{m, m, m})
	f.Add(sound)
	f.Add(sound[:len(sound)-1])
	f.Add(appendHeader(nil, "plant", time.UnixMilli(-1)))
	// A count of properties far beyond what follows.
	f.Add(append(appendRecord(appendHeader(nil, "plant", time.UnixMilli(0)), &signet.Message{}, nil, time.UnixMilli(0))[:headerSize+6+6], 0xff, 0xff, 0xff, 0xff, 0x0f))
	f.Fuzz(func(t *testing.T, data []byte) {
		decodeAll(data, "plant")
		if len(data) < headerSize {
			return
		}
		copy(data, batchMagic)
		data[3] = batchVersion
		seal(data)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		records := 0
		err := decodeBatch(data, "plant", func(_ uint32, m *signet.Message) bool {
			records++
			if m.Hub != "plant" || len(m.Body) > len(data) || len(m.Properties) > len(data) {
				t.Fatalf("%+v", m)
			}
			return true
		})
		runtime.ReadMemStats(&after)
		if cost := after.TotalAlloc - before.TotalAlloc; cost > 64<<10+100*uint64(len(data)) {
			t.Fatalf("%d bytes cost %d", len(data), cost)
		}
		if err != nil && records > len(data)/8 {
			t.Fatalf("%d records in %d bytes", records, len(data))
		}
	})
}
