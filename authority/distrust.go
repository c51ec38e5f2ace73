package authority

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/pki"
)

const (
	// maxDistrusts bounds what a hub distrusts by name, hence what each change reads
	// anew: 10,000 take some 10 MiB and 20 ms. What a CA revokes by itself is a CRL's.
	maxDistrusts = 10_000
	// maxReason is how many characters a reason has, as that of a device's status.
	maxReason = 128
)

// Distrust has a certificate or a key count no longer at a hub, and ends the
// sessions that rest on it. What is meant is either the first certificate of
// chain, of which d.Kind says what to distrust: of a CA its key unless told, of
// any other the certificate alone; or, without a chain, the values in d. To
// distrust by serial number the issuer has to be known: it is looked for in the
// rest of the chain and among the hub's CA certificates.
//
// What is distrusted already stays as it is, and is given back. A leaf known by
// thumbprint, and an anchor, come without their issuer: by serial number they
// are found only if the certificate was given.
//
// It refuses with [signet.DistrustMalformed], [signet.LimitDistrusts] or
// [signet.HubUnknown].
func (a *Authority) Distrust(ctx context.Context, hub string, d signet.Distrust, chain []*x509.Certificate) (signet.Distrust, error) {
	d, err := a.distrust(ctx, hub, d, chain)
	if err != nil {
		return d, err
	}
	known, err := a.store.Distrusts(ctx, hub)
	if err != nil {
		return d, err
	}
	if len(known) >= maxDistrusts {
		// Counted before the write: two at once may exceed the limit by one, which
		// harms nobody.
		return d, signet.Refuse(signet.LimitDistrusts, "The hub distrusts %d certificates and keys, as many as it may.", len(known))
	}
	err = a.store.CreateDistrust(ctx, d)
	switch {
	case errors.Is(err, signet.ErrExists):
		// Who came first may still be on the way to bring it into force, so that is
		// done all the same.
		if known, err = a.store.Distrusts(ctx, hub); err != nil {
			break
		}
		if i := slices.IndexFunc(known, func(other signet.Distrust) bool { return other.ID == d.ID }); i >= 0 {
			d = known[i]
		}
	case errors.Is(err, signet.ErrNotFound):
		return d, signet.Refuse(signet.HubUnknown, "There is no hub called %q.", signet.Clip(hub))
	}
	return d, a.enforce(ctx, hub, err, signet.Change{Trust: true})
}

// distrust puts what is to be distrusted into the form that it is kept in.
func (a *Authority) distrust(ctx context.Context, hub string, d signet.Distrust, chain []*x509.Certificate) (signet.Distrust, error) {
	d.Hub, d.Subject, d.Created = hub, "", a.stamp()
	if utf8.RuneCountInString(d.Reason) > maxReason {
		return d, signet.Refuse(signet.DistrustMalformed, "The reason has more than %d characters.", maxReason).At("reason", "at most 128 characters", d.Reason)
	}
	var err error
	if len(chain) > 0 {
		err = a.describe(ctx, &d, chain)
	} else {
		err = checkDistrust(&d)
	}
	if err != nil {
		return d, err
	}
	sum := sha256.Sum256([]byte(string(d.Kind) + " " + d.Thumbprint + " " + d.Key + " " + d.IssuerKey + " " + d.Serial))
	d.ID = hex.EncodeToString(sum[:16])
	return d, nil
}

// Distrusts gives what a hub distrusts, the latest first.
func (a *Authority) Distrusts(ctx context.Context, hub string) ([]signet.Distrust, error) {
	return a.store.Distrusts(ctx, hub)
}

// LiftDistrust has what was distrusted count again, as far as the rest of the
// hub's trust lets it. It refuses with [signet.DistrustUnknown].
func (a *Authority) LiftDistrust(ctx context.Context, hub, id string) error {
	err := a.store.DeleteDistrust(ctx, hub, id)
	if errors.Is(err, signet.ErrNotFound) {
		return distrustUnknown(id)
	}
	return a.enforce(ctx, hub, err, signet.Change{})
}

func distrustUnknown(id string) error {
	return signet.Refuse(signet.DistrustUnknown, "The hub distrusts nothing under the ID %q.", signet.Clip(id))
}

// looseForm is why an act on a certificate that is loose is refused: by its hashes it
// would concern nobody, and its caller would believe that it does.
const looseForm = "The certificate, or the key in it, is followed by what does not belong to it, or not a whole number of octets. In that form it is let in nowhere, and its hashes are those of no other form."

// describe fills in what is distrusted of a certificate.
func (a *Authority) describe(ctx context.Context, d *signet.Distrust, chain []*x509.Certificate) error {
	cert := chain[0]
	if d.Thumbprint+d.Key+d.IssuerKey+d.Serial != "" {
		return signet.Refuse(signet.DistrustMalformed, "Both a certificate and a hash or serial number are given.")
	}
	if slices.ContainsFunc(chain, pki.Loose) {
		return signet.Refuse(signet.DistrustMalformed, "%s", looseForm).Of(pki.Reference(cert, 0))
	}
	c := pki.PathCertificate(cert)
	// A name that a store cannot hold must not keep us from distrusting who bears it.
	d.Subject = strings.ReplaceAll(strings.ToValidUTF8(c.Subject, "\uFFFD"), "\x00", "\uFFFD")
	if d.Kind == "" {
		if d.Kind = signet.DistrustCertificate; cert.BasicConstraintsValid && cert.IsCA {
			d.Kind = signet.DistrustKey
		}
	}
	switch d.Kind {
	case signet.DistrustCertificate:
		d.Thumbprint = hex.EncodeToString(c.Thumbprint[:])
	case signet.DistrustKey:
		d.Key = hex.EncodeToString(c.Key[:])
	case signet.DistrustSerial:
		issuer, err := a.issuer(ctx, d.Hub, cert, chain)
		if err != nil {
			return err
		}
		key := pki.PathCertificate(issuer).Key
		d.Thumbprint, d.IssuerKey, d.Serial = hex.EncodeToString(c.Thumbprint[:]), hex.EncodeToString(key[:]), c.Serial
	default:
		return unknownKind(d.Kind)
	}
	return nil
}

// issuer finds who signed a certificate.
func (a *Authority) issuer(ctx context.Context, hub string, cert *x509.Certificate, chain []*x509.Certificate) (*x509.Certificate, error) {
	registered, err := a.store.CAs(ctx, hub)
	if err != nil {
		return nil, err
	}
	for _, ca := range registered {
		if c, err := x509.ParseCertificate(ca.DER); err == nil {
			chain = append(chain[:len(chain):len(chain)], c)
		}
	}
	for _, c := range chain {
		if c.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) == nil {
			return c, nil
		}
	}
	return nil, signet.Refuse(signet.DistrustMalformed, "The certificate of who issued %q is neither beside it nor registered here, and a serial number means nothing without its key.", pki.PathCertificate(cert).Subject).
		Of(pki.Reference(cert, 0)).
		FixBy("Send the issuer's certificate behind it, or distrust by certificate or key.")
}

// checkDistrust puts what is distrusted without a certificate into the form that
// it is kept in.
func checkDistrust(d *signet.Distrust) error {
	var kind signet.DistrustKind
	switch {
	case d.Thumbprint != "" && d.Key+d.IssuerKey+d.Serial == "":
		kind = signet.DistrustCertificate
	case d.Key != "" && d.Thumbprint+d.IssuerKey+d.Serial == "":
		kind = signet.DistrustKey
	case d.IssuerKey != "" && d.Serial != "" && d.Thumbprint+d.Key == "":
		kind = signet.DistrustSerial
	default:
		return signet.Refuse(signet.DistrustMalformed, "Give one of these: a certificate; a thumbprint; a key's hash; an issuer's key hash and a serial number.")
	}
	if d.Kind != "" && d.Kind != kind {
		if d.Kind != signet.DistrustCertificate && d.Kind != signet.DistrustKey && d.Kind != signet.DistrustSerial {
			return unknownKind(d.Kind)
		}
		return signet.Refuse(signet.DistrustMalformed, "What is given is a %s, not a %s.", kind, d.Kind).At("kind", string(kind), string(d.Kind))
	}
	d.Kind = kind
	for _, f := range []struct {
		name string
		hash *string
	}{{"thumbprint", &d.Thumbprint}, {"key", &d.Key}, {"issuerKey", &d.IssuerKey}} {
		if *f.hash == "" {
			continue
		}
		text := strings.ToLower(strings.ReplaceAll(*f.hash, ":", ""))
		if _, ok := hash(text); !ok {
			return signet.Refuse(signet.DistrustMalformed, "The %s is not a SHA-256 in hex.", f.name).At(f.name, "64 hex digits", *f.hash)
		}
		*f.hash = text
	}
	if d.Serial != "" {
		serial, ok := pki.ParseSerial(d.Serial)
		if !ok {
			return signet.Refuse(signet.DistrustMalformed, "The serial number is not one in hex.").At("serial", "hex digits, of at most 64 octets", d.Serial)
		}
		d.Serial = serial
	}
	return nil
}

func unknownKind(kind signet.DistrustKind) error {
	return signet.Refuse(signet.DistrustMalformed, "%q is not a kind of distrust.", signet.Clip(string(kind))).
		At("kind", "certificate, key or serial", string(kind))
}

func hash(text string) (sum [sha256.Size]byte, ok bool) {
	b, err := hex.DecodeString(text)
	return sum, err == nil && copy(sum[:], b) == len(sum) && len(b) == len(sum)
}

// distrusts is what a hub distrusts, to be found by what a path shows. It never
// changes. The zero value is empty.
type distrusts struct {
	certificates map[[sha256.Size]byte]*signet.Distrust // by thumbprint
	keys         map[[sha256.Size]byte]*signet.Distrust
	serials      map[issued]*signet.Distrust
}

// issued is a certificate as its issuer knows it.
type issued struct {
	issuerKey [sha256.Size]byte
	serial    string
}

func newDistrusts(list []signet.Distrust) (distrusts, error) {
	s := distrusts{map[[sha256.Size]byte]*signet.Distrust{}, map[[sha256.Size]byte]*signet.Distrust{}, map[issued]*signet.Distrust{}}
	for i := range list {
		d := &list[i]
		thumbprint, isCertificate := hash(d.Thumbprint)
		key, isKey := hash(d.Key)
		issuerKey, isSerial := hash(d.IssuerKey)
		if isCertificate {
			s.certificates[thumbprint] = d
		}
		if isKey {
			s.keys[key] = d
		}
		if isSerial {
			s.serials[issued{issuerKey, d.Serial}] = d
		}
		if !isCertificate && !isKey && !isSerial {
			return s, fmt.Errorf("stored distrust %s of hub %s says nothing", d.ID, d.Hub)
		}
	}
	return s, nil
}

func (s *distrusts) empty() bool { return len(s.certificates)+len(s.keys)+len(s.serials) == 0 }

// refusal gives the first certificate of a path, leaf first, that is distrusted,
// and why; nil when none is. It costs a few look-ups for each.
func (s *distrusts) refusal(path []*signet.PathCertificate) (at int, refusal *signet.Error) {
	if s.empty() {
		return 0, nil
	}
	for i, c := range path {
		d := s.keys[c.Key]
		if d == nil {
			d = s.certificates[c.Thumbprint]
		}
		if d == nil && c.Alias != [sha256.Size]byte{} {
			d = s.certificates[c.Alias]
		}
		if d == nil && i+1 < len(path) {
			d = s.serials[issued{path[i+1].Key, c.Serial}]
		}
		if d != nil {
			return i, distrusted(c, d)
		}
	}
	return 0, nil
}

func distrusted(c *signet.PathCertificate, d *signet.Distrust) *signet.Error {
	by := map[signet.DistrustKind]string{
		signet.DistrustCertificate: "", signet.DistrustKey: ", by its key,", signet.DistrustSerial: ", by its serial number,",
	}[d.Kind]
	reason := ""
	if d.Reason != "" {
		reason = ": " + d.Reason
	}
	return signet.Refuse(signet.CertRevoked, "%q is distrusted%s since %s on the word of %s%s.", c.Subject, by, d.Created.UTC().Format(time.RFC3339), d.By, reason).
		At("distrust", "none", d.ID).
		FixBy("Issue a new certificate with a new key. If this was a mistake: signet distrust lift %s", d.ID)
}
