// Package signet holds the words of the house: device identities, CA
// certificates, messages, principals and verdicts, and the pure text forms
// (SAS token, connection string) that the field writes them in.
//
// It depends on the standard library alone and every other package may use it.
// Nothing here does I/O, keeps state or knows a protocol; rules live with the
// keepers (authority, registry, provisioning) and in the waist (hub).
package signet

import "errors"

// What a store answers when it cannot do as asked. The keepers turn these into
// an [Error] with a code; nothing above a keeper sees them.
var (
	// ErrNotFound: there is no such record.
	ErrNotFound = errors.New("not found")
	// ErrExists: create-if-absent found the record there.
	ErrExists = errors.New("already exists")
	// ErrStale: replace-if-matches found another ETag.
	ErrStale = errors.New("etag does not match")
	// ErrFull: there are as many records already as there may be.
	ErrFull = errors.New("full")
)
