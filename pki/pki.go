// Package pki is the pure X.509 of the house: keys and what is signed with
// them, what a CA's owner uploads and proves, and the judgement of a chain that
// a device presents (RFC 5280 §6).
//
// Nothing here does I/O or keeps time: readers, clocks and stores belong to the
// callers. Every refusal is a [signet.Error] with the certificate at fault.
//
// # How a chain is judged
//
// [Anchors.Validate] looks for certification paths from the device's
// certificate up to a trust anchor, by name. Each path is held against the
// rules of this package, and one that passes is handed to [x509.Certificate.Verify]:
// it is accepted only if both agree. So the rules of this package can refuse
// what the standard library would take, never the reverse, but for the four
// points at which RFC 5280 is wider than the library; they stand in engine.go.
// Certificate policies are processed, by the library, with any policy as the
// initial set; name constraints on directory names are not compared, and refuse.
package pki
