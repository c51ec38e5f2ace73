package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/signet-iot/signet/client"
)

// written calls a function with what is written.
type written func(string)

func (f written) Write(b []byte) (int, error) { f(string(b)); return len(b), nil }

// TestMonitorOfNobody: who follows a hub that is not there is told so at once, and not
// when patience is at its end.
func TestMonitorOfNobody(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	for _, also := range [][]string{nil, {"--feedback"}} {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		var said string
		cmd := rootCommand()
		cmd.SetArgs(append([]string{"monitor", "--hub", "HostName=" + address + ";SharedAccessKeyName=service;SharedAccessKey=c2VjcmV0"}, also...))
		cmd.SetErr(written(func(text string) { said = text; cancel() }))
		if err := cmd.ExecuteContext(ctx); err != nil {
			t.Error(err)
		}
		if !strings.Contains(said, "cannot be reached") || !strings.HasSuffix(said, "Trying again for 1m0s.\n") {
			t.Errorf("%v: %q", also, said)
		}
		cancel()
	}
}

// TestHarmless: what a hub tells, others have written, and no terminal obeys it.
func TestHarmless(t *testing.T) {
	var out strings.Builder
	cmd := rootCommand()
	cmd.SetOut(&out)
	if err := show(cmd, nil, func(w io.Writer) {
		printCertificate(w, client.Certificate{Name: "acme", Properties: client.CertificateProperties{Subject: "CN=x\x1b[31m\r\nacme  verified\u202e\u009b", IsVerified: true}})
		fmt.Fprintf(w, "tags\t%s\n", "{\"a\":\"\u009b\u2067\"}")
	}); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); !strings.Contains(got, "CN=x·[31m··acme  verified··\n") || !strings.Contains(got, "{\"a\":\"··\"}\n") || strings.Count(got, "\n") != 8 {
		t.Errorf("%q", got)
	}
}
