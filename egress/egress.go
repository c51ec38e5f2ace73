// Package egress goes to addresses that others have chosen: sources of CRLs,
// responders, webhooks. Unless it may, it does not go to private ones, and what it
// tells of a failure tells nothing of our own network.
package egress

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"
)

// ErrPrivate: the address is a private one.
var ErrPrivate = errors.New("the address is private")

// Transport bounds what a server can cost before its body: ten seconds to be
// connected to, ten for the handshake, 32 KiB of headers. Unless it may, it goes to
// no private address. What decides is the address that is connected to, when it is:
// a name that leads elsewhere than a moment ago gains nothing. Proxies of the
// environment are not used, as they would hide that address.
func Transport(toPrivate bool) *http.Transport {
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	if !toPrivate {
		dialer.Control = PublicOnly
	}
	return &http.Transport{
		DialContext: dialer.DialContext, ForceAttemptHTTP2: true,
		TLSHandshakeTimeout: 10 * time.Second, MaxResponseHeaderBytes: 32 << 10,
		DisableCompression: true, // what is unpacked has no bound on the wire
		MaxConnsPerHost:    16, MaxIdleConns: 32, MaxIdleConnsPerHost: 4, IdleConnTimeout: 30 * time.Second,
	}
}

// PublicOnly is the Control of a dialer that goes to no private address, whatever
// name leads there: it fails with [ErrPrivate].
func PublicOnly(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	if Private(at.Addr()) {
		return ErrPrivate
	}
	return nil
}

// unicast is what has been given to hosts of IPv6 at all (RFC 4291 §2.4, IANA).
var unicast = netip.MustParsePrefix("2000::/3")

// special are the networks that are no public host's, besides those that
// [netip.Addr] tells (RFC 6890 and its successors); and those by which an IPv4
// address is reached in the guise of another.
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("192.88.99.0/24"), netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("2001::/23"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("3fff::/20"),
}

// Private says whether an address is anything but a public host's.
func Private(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if !a.IsGlobalUnicast() || a.IsPrivate() || a.Is6() && !unicast.Contains(a) {
		return true
	}
	for _, p := range special {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// Reason says in a few words why a server could not be reached, without its
// address, which may hold a secret, and without ours: whoever chose the address
// reads it, and need not know the network of this server.
func Reason(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return "it does not answer in time"
	}
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		if wrapped.Timeout() {
			return "it does not answer in time"
		}
		err = wrapped.Err
	}
	if wrapped, ok := errors.AsType[*net.OpError](err); ok { // has our addresses
		err = wrapped.Err
	}
	if lookup, ok := errors.AsType[*net.DNSError](err); ok { // has our resolver's
		err = errors.New(lookup.Err)
	}
	return err.Error()
}

// Jitter gives a time a tenth more or less, so that those who wait do not come
// back together.
func Jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.9 + 0.2*rand.Float64()))
}

// BackOff is how long to wait after so many failures.
func BackOff(failures int, least, most time.Duration) time.Duration {
	return Jitter(min(least<<min(failures-1, 20), most))
}
