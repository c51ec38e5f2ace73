package authority

import (
	"context"
	"time"

	"github.com/signet-iot/signet"
)

// Store keeps the registered CA certificates, what is distrusted, and what their
// issuers have revoked. Its server is package store.
//
// Safe for concurrent use. A write is durable (fsync) when it returns nil, and
// either wholly there or not at all. Reads see every write that has returned.
// Outcomes are [signet.ErrNotFound], [signet.ErrExists] and [signet.ErrStale];
// any other error means that the outcome is unknown. Names are compared without
// case and kept as first given.
type Store interface {
	// CAs lists the certificates of one hub by name; of all hubs for "".
	CAs(ctx context.Context, hub string) ([]signet.CACertificate, error)
	CA(ctx context.Context, hub, name string) (signet.CACertificate, error)
	// CreateCA fails with ErrNotFound when the hub is not there.
	CreateCA(ctx context.Context, c signet.CACertificate) error
	// ReplaceCA replaces the record of the same hub and name if its ETag is etag.
	ReplaceCA(ctx context.Context, c signet.CACertificate, etag string) error
	DeleteCA(ctx context.Context, hub, name, etag string) error

	// Distrusts lists what a hub distrusts, the latest first; of all hubs for "".
	Distrusts(ctx context.Context, hub string) ([]signet.Distrust, error)
	CreateDistrust(ctx context.Context, d signet.Distrust) error
	DeleteDistrust(ctx context.Context, hub, id string) error

	// Scopes lists the scopes of a hub by key; of all hubs for "".
	Scopes(ctx context.Context, hub string) ([]signet.Scope, error)
	// SaveScope adds or replaces the scope of a key; Seen does not count. Devices that
	// have a place keep it. When the scope begins to bound their number, those that the
	// trust tree has under the key get theirs first, by when they were first seen. It
	// fails with ErrNotFound when the hub is not there.
	SaveScope(ctx context.Context, s signet.Scope) error
	// DeleteScope removes a scope and the places under it.
	DeleteScope(ctx context.Context, hub, key string) error
	// Place gives the place of a device under a scope, 1 for the first; 0 when it has
	// none.
	Place(ctx context.Context, hub, key, device string) (int64, error)
	// TakePlace gives the place of a device, the next one if it has none. Of two
	// devices at once each gets its own, and no place is left out. It fails with
	// ErrNotFound when the scope is not there.
	TakePlace(ctx context.Context, hub, key, device string) (int64, error)
	// SeenUnder gives the nth of the devices that the trust tree has under a key, by
	// when they were first seen there, then by ID: who would get that place. It fails
	// with ErrNotFound when there are fewer.
	SeenUnder(ctx context.Context, hub, key string, n int64) (device string, first time.Time, _ error)
	// FirstSeenUnder gives when the trust tree first saw a device that it has under a
	// key. It fails with ErrNotFound when it has not.
	FirstSeenUnder(ctx context.Context, hub, key, device string) (time.Time, error)

	// RevocationPolicies lists the policies of a hub; of all hubs for "".
	RevocationPolicies(ctx context.Context, hub string) ([]signet.RevocationPolicy, error)
	// SaveRevocationPolicy adds or replaces the policy of a CA, and fails with
	// ErrNotFound when that is not there. The policy goes with the CA.
	SaveRevocationPolicy(ctx context.Context, p signet.RevocationPolicy) error

	// CRLs lists the CRLs of a hub without their DER; of all hubs for "".
	CRLs(ctx context.Context, hub string) ([]signet.CRL, error)
	CRL(ctx context.Context, hub, id string) (signet.CRL, error)
	// SaveCRL adds a CRL, or replaces the one with its ID; it fails with ErrStale
	// when that is of a later ThisUpdate, with ErrNotFound when the hub is not there.
	SaveCRL(ctx context.Context, c signet.CRL) error
	DeleteCRL(ctx context.Context, hub, id string) error

	// OCSPAnswers lists what responders have said of certificates of a hub, in no
	// order; of all hubs for "".
	OCSPAnswers(ctx context.Context, hub string) ([]signet.OCSPAnswer, error)
	// SaveOCSPAnswers adds answers, or replaces those of the same certificates, and
	// drops those of others, of which only hub, issuer key and serial number count.
	// What belongs to a hub that has gone is passed over.
	SaveOCSPAnswers(ctx context.Context, said, dropped []signet.OCSPAnswer) error
}

// VerdictStore keeps refusals for people to read. Safe for concurrent use.
type VerdictStore interface {
	// SaveVerdicts adds verdicts, or replaces those that have the same tracking
	// ID, in one transaction; then, of each hub concerned, it drops the oldest
	// beyond keep.
	SaveVerdicts(ctx context.Context, vs []signet.Verdict, keep int) error
	// Verdicts lists the newest first.
	Verdicts(ctx context.Context, q VerdictQuery) ([]signet.Verdict, error)
}

// VerdictQuery selects verdicts of one hub.
type VerdictQuery struct {
	Hub        string // refusals that could not be put to a hub have the hub ""
	DeviceID   string // of any device when empty
	TrackingID string // any when empty
	Since      time.Time
	Limit      int // at most this many; required
}
