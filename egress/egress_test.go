package egress

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
)

// TestPrivate: what is no public host's, in every guise.
func TestPrivate(t *testing.T) {
	for address, want := range map[string]bool{
		"127.0.0.1": true, "10.1.2.3": true, "172.31.0.1": true, "192.168.1.1": true, "169.254.169.254": true, "0.0.0.0": true,
		"100.64.0.1": true, "192.0.0.170": true, "198.18.0.1": true, "224.0.0.1": true, "240.0.0.1": true, "255.255.255.255": true,
		"::1": true, "::": true, "fe80::1%eth0": true, "fc00::1": true, "fd12::1": true, "fec0::1": true, "ff02::1": true,
		"::ffff:10.0.0.1": true, "::ffff:127.0.0.1": true, "::7f00:1": true, "64:ff9b::7f00:1": true, "2002:7f00:1::": true,
		"2001:0:7f00:1::": true, "2001:db8::1": true,
		"::ffff:0:7f00:1": true, "3fff::1": true, "4000::1": true, "5f00::1": true,
		"1.1.1.1": false, "93.184.216.34": false, "172.32.0.1": false, "::ffff:1.1.1.1": false, "2606:4700::1111": false, "2a00:1450::1": false,
	} {
		if got := Private(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: %v", address, got)
		}
	}
}

// TestTransport: a private address is reached by who may, and by nobody else, by
// whatever name; and the failure tells nothing of it.
func TestTransport(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	port := s.URL[strings.LastIndexByte(s.URL, ':'):]
	for _, address := range []string{s.URL, "http://localhost" + port} {
		if r, err := (&http.Client{Transport: Transport(true)}).Get(address); err != nil {
			t.Error(err)
		} else {
			r.Body.Close()
		}
		if _, err := (&http.Client{Transport: Transport(false)}).Get(address); !errors.Is(err, ErrPrivate) {
			t.Errorf("%s: %v", address, err)
		} else if reason := Reason(err); reason != ErrPrivate.Error() {
			t.Errorf("told %q", reason)
		}
	}
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	_, err := (&http.Client{Transport: Transport(true)}).Get(closed.URL)
	if reason := Reason(err); reason == "" || strings.Contains(reason, "127.0.0.1") {
		t.Errorf("told %q", reason)
	}
}
