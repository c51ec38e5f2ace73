package issuance

import (
	"context"
	"time"

	"github.com/signet-iot/signet"
)

// Store keeps the records of what was issued. Its server is package store.
//
// Safe for concurrent use. A write is durable (fsync) when it returns nil, and
// either wholly there or not at all. Reads see every write that has returned. A
// record goes with its service. Outcomes are [signet.ErrNotFound],
// [signet.ErrExists] and [signet.ErrFull]; any other error means that the outcome
// is unknown.
type Store interface {
	// AddIssued adds a record, and the key in it to those of its device. It fails
	// with ErrExists when the key is that of another device of the service, with
	// ErrFull when the device has most records of since or later, with ErrNotFound
	// when the service is not there. Of the device's records, the oldest beyond keep
	// go, and with them the keys that no record has any more.
	AddIssued(ctx context.Context, i signet.Issued, most int, since time.Time, keep int) error
	// CheckIssued gives the ErrExists or ErrFull that AddIssued would fail with now,
	// and writes nothing.
	CheckIssued(ctx context.Context, service, device, key string, most int, since time.Time) error
	// IssuedFor reads the latest record of a device that is of an operation.
	IssuedFor(ctx context.Context, service, device, operation string) (signet.Issued, error)
	// IssuedAt reads the record of a certificate, by its thumbprint, for a hub of
	// this server.
	IssuedAt(ctx context.Context, hub, thumbprint string) (signet.Issued, error)
	// LatestIssued reads the latest record of a device of a hub of this server.
	LatestIssued(ctx context.Context, hub, device string) (signet.Issued, error)
	// ListIssued lists records, the latest first, without their chains.
	ListIssued(ctx context.Context, q Query) ([]signet.Issued, error)
	// TrimIssued removes the records of certificates that ended before a time, at
	// most so many, and the keys that no record has any more. It gives their number.
	TrimIssued(ctx context.Context, before time.Time, most int) (removed int, err error)
}

// A Query selects records of a provisioning service, or of a hub of this server:
// one of the two is named.
type Query struct {
	Service, Hub string
	DeviceID     string    // of any device when empty
	Since        time.Time // issued then or later
	Limit        int       // at most this many; required
}
