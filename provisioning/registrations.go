package provisioning

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/signet-iot/signet"
)

// A RegistrationStore keeps registrations, and what is still to be done for each.
// Its server is package store.
//
// Safe for concurrent use. A write is durable (fsync) when it returns nil, and
// either wholly there or not at all. Reads see every write that has returned.
// IDs and the names of groups are compared folded. Everything goes with its
// service. Outcomes are [signet.ErrNotFound], [signet.ErrExists] and
// [signet.ErrStale]; any other error means that the outcome is unknown.
type RegistrationStore interface {
	// Registration reads one, with what is still to be done for it: nil when nothing
	// is.
	Registration(ctx context.Context, service, id string) (signet.Registration, *Work, error)
	// Registrations lists up to limit that a group has let in, with a folded ID
	// greater than after, in byte order of the folded IDs.
	Registrations(ctx context.Context, service, group, after string, limit int) ([]signet.Registration, error)
	// CreateRegistration adds one. It fails with ErrExists when there is one, and
	// with ErrNotFound when there is no such service.
	CreateRegistration(ctx context.Context, r signet.Registration, w *Work) error
	// ReplaceRegistration replaces the one of the same key if its ETag is etag, and
	// what is to be done for it.
	ReplaceRegistration(ctx context.Context, r signet.Registration, w *Work, etag string) error
	// DeleteRegistration removes one if its ETag is etag, or whatever it is when etag
	// is "*".
	DeleteRegistration(ctx context.Context, service, id, etag string) error
	// CountRegistrations counts those of a service. It may take seconds.
	CountRegistrations(ctx context.Context, service string) (int, error)
	// Unfinished lists up to limit registrations of all services for which something
	// is to be done, the earliest first.
	Unfinished(ctx context.Context, limit int) ([]signet.Registration, error)
}

// Work is what is still to be done for a registration: its operation, from the
// moment that it is acknowledged to its end.
type Work struct {
	Begun time.Time
	// Chain is what the device presented, DER, leaf first: it is judged once more
	// before anything is written. Empty for keys.
	Chain   [][]byte
	Payload json.RawMessage // for the webhook
	CSR     []byte
	// Placement is where the device goes, once that is decided: what goes on with the
	// work does not decide it anew.
	Placement *Placement
}

// A Placement is what allocation has decided.
type Placement struct {
	Hub         string             // host name
	InitialTwin signet.InitialTwin // of a new identity
	Payload     json.RawMessage    // for the device
}

// Registration reads the record of a device. It refuses with
// [signet.RegistrationUnknown].
func (p *Provisioning) Registration(ctx context.Context, service, id string) (signet.Registration, error) {
	r, _, err := p.registration(ctx, service, id)
	return r, err
}

func (p *Provisioning) registration(ctx context.Context, service, id string) (signet.Registration, *Work, error) {
	r, w, err := p.deps.Registrations.Registration(ctx, service, id)
	if errors.Is(err, signet.ErrNotFound) {
		err = registrationUnknown(id)
	}
	return r, w, err
}

// ListRegistrations gives up to limit registrations that a group has let in, with
// a folded ID greater than after, in byte order of the folded IDs.
func (p *Provisioning) ListRegistrations(ctx context.Context, service, group, after string, limit int) ([]signet.Registration, error) {
	return p.deps.Registrations.Registrations(ctx, service, group, after, limit)
}

// DeleteRegistration removes the record of a device if its ETag is ifMatch; "*"
// and "" fit any. The device may then register as a new one; its identity at a
// hub stays. It refuses with [signet.RegistrationUnknown] and [signet.ETagStale].
func (p *Provisioning) DeleteRegistration(ctx context.Context, service, id, ifMatch string) error {
	if ifMatch == "" {
		ifMatch = "*"
	}
	err := p.deps.Registrations.DeleteRegistration(ctx, service, id, ifMatch)
	switch {
	case errors.Is(err, signet.ErrNotFound):
		return registrationUnknown(id)
	case errors.Is(err, signet.ErrStale):
		return signet.Refuse(signet.ETagStale, "The registration %q has changed since its etag was read.", signet.Clip(id))
	case err == nil:
		p.tally.add(service, -1)
	}
	return err
}

// MaxRegistrations is how many registrations a service holds: Azure's limit. So a
// CA that signs what it should not fills no disk.
const MaxRegistrations = 1_000_000

// A tally knows how many registrations each service has. A write whose outcome is
// unknown may leave it one off.
type tally struct {
	mu sync.Mutex // held while they are counted, once
	of map[string]int
}

// full says whether a service has as many as it may.
func (p *Provisioning) full(ctx context.Context, service string) (bool, error) {
	p.tally.mu.Lock()
	defer p.tally.mu.Unlock()
	n, known := p.tally.of[service]
	if !known {
		var err error
		if n, err = p.deps.Registrations.CountRegistrations(ctx, service); err != nil {
			return false, err
		}
		p.tally.of[service] = n
	}
	return n >= p.deps.MaxRegistrations, nil
}

func (t *tally) add(service string, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, known := t.of[service]; known {
		t.of[service] += n
	}
}

func registrationUnknown(id string) error {
	return signet.Refuse(signet.RegistrationUnknown, "No device has registered as %q.", signet.Clip(id))
}
