package provisioning

import (
	"context"
	"fmt"

	"github.com/signet-iot/signet"
)

// ErrSigner says that another group has one of the signers. It is a kind of
// [signet.ErrExists].
var ErrSigner = fmt.Errorf("the signer of another group: %w", signet.ErrExists)

// EnrollmentStore keeps enrollments and linked hubs. Its server is package store.
//
// Safe for concurrent use. A write is durable (fsync) when it returns nil, and
// either wholly there or not at all. Reads see every write that has returned.
// IDs are compared folded, see [signet.FoldRegistrationID]. Everything goes with
// its service. Outcomes are [signet.ErrNotFound], [signet.ErrExists], [ErrSigner],
// [signet.ErrStale] and [signet.ErrFull]; any other error means that the outcome
// is unknown.
type EnrollmentStore interface {
	// Enrollment reads one.
	Enrollment(ctx context.Context, service string, group bool, id string) (signet.Enrollment, error)
	// Enrollments lists up to limit individual enrollments, or groups, with a folded
	// ID greater than after, in byte order of the folded IDs.
	Enrollments(ctx context.Context, service string, group bool, after string, limit int) ([]signet.Enrollment, error)
	// CreateEnrollment adds one, with the signers that are its own: no other of the
	// service has one of them. It fails with ErrExists when the ID is taken, with
	// ErrSigner when another has one of the signers, with ErrFull when the service
	// holds most or more of its kind, and with ErrNotFound when there is no such
	// service.
	CreateEnrollment(ctx context.Context, e signet.Enrollment, signers []string, most int) error
	// ReplaceEnrollment replaces the one of the same key, and its signers, if its
	// ETag is etag; with nil, the signers that it has stay.
	ReplaceEnrollment(ctx context.Context, e signet.Enrollment, signers []string, etag string) error
	// DeleteEnrollment removes one if its ETag is etag, or whatever it is when etag
	// is "*".
	DeleteEnrollment(ctx context.Context, service string, group bool, id, etag string) error

	// LinkedHubs lists those of a service by host name.
	LinkedHubs(ctx context.Context, service string) ([]signet.LinkedHub, error)
	// ChangeLinkedHubs removes hubs by their host names, and then adds or replaces
	// others, all in one transaction. It fails with ErrNotFound when there is no such
	// service.
	ChangeLinkedHubs(ctx context.Context, service string, remove []string, put []signet.LinkedHub) error
}
