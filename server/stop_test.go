package server_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/internal/hubtest"
	"github.com/signet-iot/signet/server"
)

// TestStopUnderLoad: a server that stops while devices register and webhooks keep
// silent is down within its time, without a failure; its successor knows every
// registration that was acknowledged as one to go on with.
func TestStopUnderLoad(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	asked := make(chan net.Conn)
	go func() {
		defer close(asked)
		for {
			c, err := silent.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			asked <- c
		}
	}()
	h := hubtest.Start(t, quietly, func(c *server.Config) { c.PrivateWebhooks = true })
	scope, pairs := fleet(t, h, 60)
	service := h.Config.Provisioning
	e, err := h.Provisioning().Enrollment(t.Context(), service, true, "fleet")
	if err != nil {
		t.Fatal(err)
	}
	e.Allocation, e.Webhook = signet.AllocateCustom, signet.Webhook{URL: "https://" + silent.Addr().String()}
	if _, _, err := h.Provisioning().PutEnrollment(t.Context(), e, "*"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Registry().SetEvents(t.Context(), h.Config.Hub, signet.LifeCycleEvents); err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.Routes().Put(t.Context(), signet.Route{Hub: h.Config.Hub, Name: "r", Sources: signet.FromLifeCycle,
		URL: "http://" + silent.Addr().String(), AllowPrivate: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Registry().Create(t.Context(), signet.Identity{Hub: h.Config.Hub, DeviceID: "x", Auth: signet.Authentication{Type: signet.AuthCA}}); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for id, pair := range pairs {
		all.Go(func() { h.Register(scope, id, h.ClientTLS(pair), "") }) // it is cut, and would come again
	}
	for range 9 { // eight of a service are asked about at a time, and the route has its own
		<-asked
	}
	go func() {
		for range asked {
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	began := time.Now()
	if err := h.Close(ctx); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 9*time.Second { // a webhook has ten
		t.Errorf("it is down after %v", took)
	}
	all.Wait()
	next, err := server.Start(context.Background(), h.Config)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close(context.Background())
	list, err := next.Provisioning().ListRegistrations(t.Context(), service, "fleet", "", 100)
	if err != nil || len(list) < 8 {
		t.Errorf("%d registrations, %v", len(list), err)
	}
	for _, r := range list {
		if r.Status != signet.Assigning {
			t.Errorf("%s: %s %s", r.RegistrationID, r.Status, r.ErrorMessage)
		}
	}
}
