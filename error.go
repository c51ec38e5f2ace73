package signet

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Error is the one error of the house: a code for machines, a sentence for
// people, and the fix. Rules return it; each front door translates it once, by
// its code, into what its wire can say. An error that is not an *Error is the
// hub's own failure: it is logged in full and shown as [Internal].
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"` // one sentence; holds no key and no token
	Fix     string `json:"fix,omitempty"`

	// What was looked at, when one thing was: the field, what it should have
	// held and what it held. Text that came from a client is quoted and cut.
	Field    string `json:"field,omitempty"`
	Expected string `json:"expected,omitempty"`
	Actual   string `json:"actual,omitempty"`

	// Certificate is the one at fault, when one is.
	Certificate *CertificateRef `json:"certificate,omitempty"`

	// RetryAfter is how long to leave it, when that is known.
	RetryAfter time.Duration `json:"-"`

	// TrackingID leads from what the client was told to the stored verdict.
	TrackingID string `json:"trackingId,omitempty"`

	// Cause goes to the log and nowhere else.
	Cause error `json:"-"`
}

// Refuse makes an Error with the usual fix of its code.
func Refuse(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...), Fix: code.Info().Fix}
}

// Fail makes an Error of the hub's own failure. The cause is for the log; a
// caller is told only that something failed.
func Fail(cause error) *Error {
	return &Error{Code: Internal, Message: Internal.Info().Meaning, Fix: Internal.Info().Fix, Cause: cause}
}

// AsError gives the *Error in err's chain, or [Fail] of err. AsError(nil) is nil.
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return Fail(err)
}

// CodeOf gives the code of err, [Internal] for a foreign error and "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	return AsError(err).Code
}

// At names the field that was looked at, what was expected and what came.
func (e *Error) At(field, expected, actual string) *Error {
	e.Field, e.Expected, e.Actual = field, expected, Clip(actual)
	return e
}

// Of names the certificate at fault.
func (e *Error) Of(ref *CertificateRef) *Error {
	e.Certificate = ref
	return e
}

// FixBy replaces the usual fix by one that fits the case better.
func (e *Error) FixBy(format string, args ...any) *Error {
	e.Fix = fmt.Sprintf(format, args...)
	return e
}

// Error gives code and sentence, without the fix.
func (e *Error) Error() string {
	if e.Cause != nil {
		return fmt.Sprintf("%s: %s (%v)", e.Code, e.Message, e.Cause)
	}
	return fmt.Sprintf("%s: %s", e.Code, e.Message)
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Clip shortens text that a client sent to at most 128 bytes, for messages and
// logs: enough to recognise, too little to flood. Nothing of it is told from where a
// token has its signature or a connection string its key: people write them where a
// name belongs.
func Clip(s string) string {
	const most = 128
	for _, secret := range [...]string{"sig=", "SharedAccessKey="} {
		if at := strings.Index(s, secret); at >= 0 {
			s = s[:at+len(secret)] + "…"
		}
	}
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}

// NewTrackingID gives 16 random bytes in upper-case hex, the form in which
// Azure shows a tracking ID.
func NewTrackingID() string {
	var b [16]byte
	rand.Read(b[:])
	return fmt.Sprintf("%X", b[:])
}

// NewETag gives an opaque ETag: 12 random bytes in hex, so that no two
// versions of a record, even of one deleted and made anew, share one.
func NewETag() string {
	var b [12]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
