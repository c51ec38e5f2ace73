package server_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azeventhubs/v2"
	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/internal/hubtest"
)

// TestEventHubsForGo: the SDK of Event Hubs for Go, which is strict about types and
// drains its credit, reads what devices send; and one reader takes over from another.
func TestEventHubsForGo(t *testing.T) {
	h := hubtest.Start(t)
	d, err := h.Registry().Create(t.Context(), signet.Identity{Hub: h.Config.Hub, DeviceID: "press-17"})
	if err != nil {
		t.Fatal(err)
	}
	token, err := signet.SignSAS("localhost/devices/press-17", "", d.Auth.PrimaryKey, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	s, err := h.Hub().Connect(t.Context(), hub.Credentials{Door: signet.DoorMQTT, Host: "localhost", DeviceID: "press-17", Token: token}, func() {})
	if err != nil {
		t.Fatal(err)
	}
	send := func(n int) {
		t.Helper()
		done := make(chan error, 1)
		s.Send(t.Context(), &signet.Message{Body: fmt.Append(nil, n)}, func(err error) { done <- err })
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	for n := range 5 {
		send(n)
	}
	consumer := func() *azeventhubs.ConsumerClient {
		t.Helper()
		c, err := azeventhubs.NewConsumerClientFromConnectionString(fmt.Sprintf("Endpoint=sb://%s/;SharedAccessKeyName=%s;SharedAccessKey=%s",
			"localhost:"+port(h.AMQPAddr()), h.Owner.SharedAccessKeyName, h.Owner.SharedAccessKey), h.Config.Hub, azeventhubs.DefaultConsumerGroup,
			&azeventhubs.ConsumerClientOptions{TLSConfig: h.ClientTLS(), RetryOptions: azeventhubs.RetryOptions{MaxRetries: -1}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close(context.Background()) })
		return c
	}
	c := consumer()
	properties, err := c.GetEventHubProperties(t.Context(), nil)
	if err != nil || properties.Name != h.Config.Hub || len(properties.PartitionIDs) != 1 {
		t.Fatal(err, properties)
	}
	partition, err := c.GetPartitionProperties(t.Context(), properties.PartitionIDs[0], nil)
	if err != nil || partition.IsEmpty || partition.BeginningSequenceNumber >= partition.LastEnqueuedSequenceNumber {
		t.Fatal(err, partition)
	}
	read := func(c *azeventhubs.PartitionClient, want ...int) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		events, err := c.ReceiveEvents(ctx, len(want), nil)
		if err != nil || len(events) != len(want) {
			t.Fatalf("%d events, %v", len(events), err)
		}
		for n, e := range events {
			if string(e.Body) != fmt.Sprint(want[n]) || e.SystemProperties["iothub-connection-device-id"] != "press-17" || e.EnqueuedTime == nil {
				t.Errorf("event %d is %s %v", n, e.Body, e.SystemProperties)
			}
		}
	}
	earliest := azeventhubs.StartPosition{Earliest: new(true)}
	for _, prefetch := range []int32{0, -1} { // on its own, and credit by hand, drained
		p, err := c.NewPartitionClient("0", &azeventhubs.PartitionClientOptions{StartPosition: earliest, Prefetch: prefetch})
		if err != nil {
			t.Fatal(err)
		}
		read(p, 0, 1)
		read(p, 2, 3, 4)
		if prefetch == 0 {
			send(5)
		}
		read(p, 5)
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}

	low, err := consumer().NewPartitionClient("0", &azeventhubs.PartitionClientOptions{StartPosition: earliest, OwnerLevel: new(int64(1))})
	if err != nil {
		t.Fatal(err)
	}
	read(low, 0)
	high, err := consumer().NewPartitionClient("0", &azeventhubs.PartitionClientOptions{StartPosition: earliest, OwnerLevel: new(int64(2))})
	if err != nil {
		t.Fatal(err)
	}
	read(high, 0)
	for err == nil {
		_, err = low.ReceiveEvents(t.Context(), 10, nil)
	}
	if e, ok := errors.AsType[*azeventhubs.Error](err); !ok || e.Code != azeventhubs.ErrorCodeOwnershipLost {
		t.Errorf("the reader that has lost hears %v", err)
	}
}

func port(address string) string { return address[strings.LastIndexByte(address, ':')+1:] }
