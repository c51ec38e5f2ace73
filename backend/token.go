package backend

import (
	"strings"
	"sync/atomic"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/wire/amqp"
)

// A grant is a token that was taken: what it is good for, and how long.
type grant struct {
	path  string // as [node.path]; "" is the whole hub
	until time.Time
}

// maxGrants bounds the tokens of one connection. The SDKs of Event Hubs put one for
// each link.
const maxGrants = 64

// PutToken takes a token of a shared access policy; name is what the client says it
// is for, and counts for nothing: what is signed does.
func (c *Conn) PutToken(name, token string) error {
	tenant, err := c.tenant()
	if err == nil {
		err = c.putToken(tenant, token)
	}
	if err != nil {
		return c.judged(err)
	}
	return nil
}

// putToken checks a token. What the signature does not cover is believed of none, so
// it is checked first; a policy that is not there and a wrong key are one answer.
func (c *Conn) putToken(tenant signet.Hub, text string) error {
	token, err := signet.ParseSASToken(text)
	if err != nil {
		return err
	}
	of := tenant.Policy(token.Policy)
	// The SDKs of IoT Hub decode a key, those of Event Hubs do not.
	if !token.SignedBy(of.PrimaryKey, of.SecondaryKey) && !token.SignedByText(of.PrimaryKey, of.SecondaryKey) {
		return signet.Refuse(signet.TokenSignature, "The SAS token is not signed with a key of a shared access policy of this hub.")
	}
	path, ok := audience(token.Resource, tenant)
	if !ok {
		return signet.Refuse(signet.TokenAudience, "The SAS token is for %q.", signet.Clip(token.Resource)).
			At("sr", tenant.HostName, token.Resource)
	}
	until, err := token.Until(c.Now())
	if err != nil {
		return err
	}
	if err := of.Gives(signet.ServiceConnect); err != nil {
		return err
	}
	return c.grant(grant{path, until})
}

// audience gives the path that a token's resource names at the hub: sb://{host}/…,
// amqps://{host}:5671/… or {host}/….
func audience(resource string, tenant signet.Hub) (path string, ok bool) {
	if _, rest, isURL := strings.Cut(resource, "://"); isURL {
		resource = rest
	}
	host, path, _ := strings.Cut(resource, "/")
	if signet.HostOnly(host) != signet.HostOnly(tenant.HostName) {
		return "", false
	}
	return resourcePath(path, tenant)
}

func (c *Conn) grant(g grant) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.Now()
	kept := c.grants[:0]
	for _, old := range c.grants {
		if old.path != g.path && now.Before(old.until) {
			kept = append(kept, old)
		}
	}
	c.grants = kept
	if len(kept) == maxGrants {
		return signet.Refuse(signet.LimitReaders, "%d tokens are in force on this connection already.", maxGrants).
			FixBy("Put one token for the host, which is good for all of its links, or open another connection.")
	}
	c.grants = append(kept, g)
	return nil
}

// Expires says when the last of the tokens ends; zero while there is none.
func (c *Conn) Expires() (last time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, g := range c.grants {
		if g.until.After(last) {
			last = g.until
		}
	}
	return last
}

func (c *Conn) hasToken() error {
	if !c.Expires().IsZero() {
		return nil
	}
	return signet.Refuse(signet.TokenNone, "No token was put to $cbs on this connection.").
		FixBy("Put a SAS token of a shared access policy that has ServiceConnect; the SDKs do so by the connection string.")
}

// allowed says until when the back end may have a link to a node.
func (c *Conn) allowed(n node) (until time.Time, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, g := range c.grants {
		if g.covers(n.path) && g.until.After(until) {
			until = g.until
		}
	}
	switch {
	case until.IsZero():
		return until, signet.Refuse(signet.TokenAudience, "No token that was put to $cbs is for %q.", n.path).
			FixBy("Put a token for the host, or for this address. The event hub is called %q: EntityPath=%[1]s.", c.hub.Name)
	case !c.Now().Before(until):
		return until, signet.Refuse(signet.TokenExpired, "The SAS token has expired.")
	}
	return until, nil
}

// covers says whether the grant is for a path or one above it.
func (g grant) covers(path string) bool {
	return g.path == "" || path == g.path || strings.HasPrefix(path, g.path+"/")
}

// expire ends a link when no token is good for it any more. It is to be called
// before the link is told to the client.
func (c *Conn) expire(l *amqp.Link, n node, until time.Time) {
	var timer *time.Timer
	var gone atomic.Bool
	timer = time.AfterFunc(time.Hour, func() { // to be set when there is a timer to set again
		until, err := c.allowed(n)
		switch {
		case gone.Load():
		case err != nil:
			l.Detach(c.refuse(err))
		default:
			if timer.Reset(until.Sub(c.Now())); gone.Load() {
				timer.Stop() // it went meanwhile: as a rule the connection ends with its token too
			}
		}
	})
	timer.Reset(until.Sub(c.Now()))
	before := l.Detached
	l.Detached = func(err *amqp.Error) {
		gone.Store(true)
		timer.Stop()
		if before != nil {
			before(err)
		}
	}
}
