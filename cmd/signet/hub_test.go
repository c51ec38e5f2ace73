package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/internal/hubtest"
)

// TestHubScript plays the stories in testdata/hub, each against a hub of its own,
// with the environment that an operator sets once.
func TestHubScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/hub",
		Setup: func(env *testscript.Env) error {
			h := hubtest.Start(t)
			env.Values["hub"] = h
			env.Setenv("SIGNET_CONNECTION_STRING", h.Owner.String())
			env.Setenv("SIGNET_TOKEN", h.Token)
			env.Setenv("SIGNET_CA_FILE", h.CAFile)
			env.Setenv("SIGNET_ADDRESS", "")
			env.Setenv("GORACE", "atexit_sleep_ms=0") // else each command of a -race build waits a second to end
			env.Setenv("HTTPS", h.HTTPSAddr())
			env.Setenv("DATA", h.Config.Data)
			env.Defer(h.Stop)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// send DEVICE BODY [NAME=VALUE…]: telemetry of a device, acknowledged.
			"send": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(send(ts.Value("hub").(*hubtest.Hub), args[0], args[1], args[2:]))
			},
		},
	})
}

func send(h *hubtest.Hub, device, body string, properties []string) error {
	ctx := context.Background()
	name := signet.HostOnly(h.Owner.HostName)
	token, err := signet.SignSAS(name+"/devices/"+device, h.Owner.SharedAccessKeyName, h.Owner.SharedAccessKey, time.Now().Add(time.Hour))
	if err != nil {
		return err
	}
	session, err := h.Hub().Connect(ctx, hub.Credentials{Door: signet.DoorMQTT, Host: name, DeviceID: device, Token: token}, func() {})
	if err != nil {
		return err
	}
	defer session.Close()
	m := &signet.Message{Body: []byte(body)}
	for _, p := range properties {
		name, value, _ := strings.Cut(p, "=")
		m.Properties = append(m.Properties, signet.Property{Name: name, Value: value})
	}
	done := make(chan error)
	session.Send(ctx, m, func(err error) { done <- err })
	return <-done
}
