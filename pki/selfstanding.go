package pki

import (
	"crypto/x509"
	"time"

	"github.com/signet-iot/signet"
)

// CheckSelfStanding judges a certificate that is known by its thumbprint, and so
// needs no certification path: it counts within its validity, both ends
// included (RFC 5280 §4.1.2.5), and with a key that is taken, in its one form. It
// refuses with [signet.CertNotYetValid], [signet.CertExpired], [signet.CertWeakKey] or
// [signet.ChainMalformed].
func CheckSelfStanding(c *x509.Certificate, at time.Time) error {
	ref := Reference(c, 0)
	at = at.UTC()
	switch {
	case at.Before(c.NotBefore):
		return signet.Refuse(signet.CertNotYetValid, "The certificate of %q is valid from %s.", ref.Subject, c.NotBefore.UTC().Format(time.RFC3339)).
			Of(ref).At("notBefore", "not after "+at.Format(time.RFC3339), c.NotBefore.UTC().Format(time.RFC3339))
	case at.After(c.NotAfter):
		return signet.Refuse(signet.CertExpired, "The certificate of %q expired at %s.", ref.Subject, c.NotAfter.UTC().Format(time.RFC3339)).
			Of(ref).At("notAfter", "not before "+at.Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339))
	}
	if err := checkKey(c.PublicKey); err != nil {
		return signet.AsError(err).Of(ref)
	}
	if Loose(c) {
		return looseForm(c, 0)
	}
	return nil
}
