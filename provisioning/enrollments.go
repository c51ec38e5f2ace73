package provisioning

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/pki"
)

// The bounds of a provisioning service.
const (
	// MaxEnrollments is how many individual enrollments it holds: Azure's limit.
	MaxEnrollments = 1_000_000
	// MaxGroups is how many groups it holds. Azure's limit is 100 of certificates and
	// 100 of keys; but a group is also how an intermediate is shut out. All of them
	// are held in memory.
	MaxGroups = 1000
	// MaxLinks is how many hubs are linked: Azure's limit.
	MaxLinks = 50
	// maxWeight is Azure's.
	maxWeight = 1000
	// maxX509ID bounds the ID of an X.509 device, which has to be the CN of its
	// certificate (RFC 5280, ub-common-name).
	maxX509ID = 64
	// maxInformation and maxURL bound, in bytes, what Azure leaves open.
	maxInformation = 8 << 10
	maxURL         = 2 << 10
)

// PutEnrollment adds an enrollment, or replaces it if ifMatch is its ETag or "*".
// What it leaves open is filled in: status, allocation, and random keys; a
// secondary certificate alone becomes the primary. Created, Updated and ETag are
// set here; an ID stays as first written.
//
// What the enrollment before had already is not judged again: one whose
// certificate has expired since can still be disabled.
//
// It refuses with [signet.EnrollmentMalformed], upload.*, cert.*, twin.* and
// limit.* codes, [signet.EnrollmentExists] when there is one and no ifMatch,
// [signet.EnrollmentUnknown] when there is none and an ifMatch,
// [signet.EnrollmentSigner] when a signer is another group's already, and
// [signet.ETagStale].
func (p *Provisioning) PutEnrollment(ctx context.Context, e signet.Enrollment, ifMatch string) (_ signet.Enrollment, created bool, err error) {
	if err := checkID(e.ID); err != nil {
		return e, false, err
	}
	for {
		old, err := p.deps.Enrollments.Enrollment(ctx, e.Service, e.Group, e.ID)
		switch created = errors.Is(err, signet.ErrNotFound); {
		case created && ifMatch != "":
			return e, false, enrollmentUnknown(e.Group, e.ID)
		case created:
			old = signet.Enrollment{Created: p.stamp()}
		case err != nil:
			return e, false, err
		case ifMatch == "":
			return e, false, signet.Refuse(signet.EnrollmentExists, "The %s %q exists already.", kind(e.Group), old.ID)
		case ifMatch != "*" && ifMatch != old.ETag:
			return e, false, enrollmentStale(e.Group, e.ID)
		default:
			e.ID = old.ID
		}
		signers, err := p.settle(ctx, &e, &old)
		if err != nil {
			return e, false, err
		}
		if !created && sameSigners(&e.Attestation, &old.Attestation) {
			signers = nil // they stay, whatever has become of a registered CA
		}
		e.Created, e.Updated, e.ETag = old.Created, p.stamp(), signet.NewETag()
		if created {
			err = p.deps.Enrollments.CreateEnrollment(ctx, e, signers, most(e.Group))
		} else {
			err = p.deps.Enrollments.ReplaceEnrollment(ctx, e, signers, old.ETag)
		}
		switch {
		case errors.Is(err, ErrSigner):
			return e, false, signet.Refuse(signet.EnrollmentSigner, "A signer of %q, or its key, is that of another enrollment group already.", e.ID)
		case errors.Is(err, signet.ErrExists):
			return e, false, signet.Refuse(signet.EnrollmentExists, "The %s %q exists already.", kind(e.Group), e.ID)
		case errors.Is(err, signet.ErrFull):
			return e, false, signet.Refuse(signet.LimitEnrollments, "The provisioning service has %d of the kind %s, as many as it may.", most(e.Group), kind(e.Group))
		case errors.Is(err, signet.ErrStale) && ifMatch == "*":
			continue // someone was faster, and the caller does not mind
		case errors.Is(err, signet.ErrStale):
			return e, false, enrollmentStale(e.Group, e.ID)
		case errors.Is(err, signet.ErrNotFound) && created:
			return e, false, signet.Refuse(signet.HubUnknown, "There is no provisioning service %q any more.", e.Service)
		case errors.Is(err, signet.ErrNotFound):
			return e, false, enrollmentUnknown(e.Group, e.ID)
		}
		// A write that failed for a reason of the machine may have been kept: then
		// too, what is known of it in memory counts no longer.
		p.enrollmentChanged(e.Service, e.Group)
		return e, created, err
	}
}

// Enrollment reads one. It refuses with [signet.EnrollmentUnknown].
func (p *Provisioning) Enrollment(ctx context.Context, service string, group bool, id string) (signet.Enrollment, error) {
	e, err := p.deps.Enrollments.Enrollment(ctx, service, group, id)
	if errors.Is(err, signet.ErrNotFound) {
		return e, enrollmentUnknown(group, id)
	}
	return e, err
}

// Enrollments lists up to limit individual enrollments, or groups, with a
// folded ID greater than after, in byte order of the folded IDs.
func (p *Provisioning) Enrollments(ctx context.Context, service string, group bool, after string, limit int) ([]signet.Enrollment, error) {
	return p.deps.Enrollments.Enrollments(ctx, service, group, after, limit)
}

// DeleteEnrollment removes one if ifMatch is its ETag; "*" and "" fit any. What
// devices have got by it, they keep. It refuses with [signet.EnrollmentUnknown]
// and [signet.ETagStale].
func (p *Provisioning) DeleteEnrollment(ctx context.Context, service string, group bool, id, ifMatch string) error {
	if ifMatch == "" {
		ifMatch = "*"
	}
	err := p.deps.Enrollments.DeleteEnrollment(ctx, service, group, id, ifMatch)
	switch {
	case errors.Is(err, signet.ErrNotFound):
		return enrollmentUnknown(group, id)
	case errors.Is(err, signet.ErrStale):
		return enrollmentStale(group, id)
	}
	p.enrollmentChanged(service, group)
	return err
}

// Signer is what a group knows a signer by: its key, as SHA-256 of the
// SubjectPublicKeyInfo in hex. By the certificate alone, whoever holds one below
// could step round a group that shuts him out, with a certificate of the signer
// in another form: an ECDSA signature has two.
func Signer(c *x509.Certificate) string {
	key := pki.PathCertificate(c).Key
	return hex.EncodeToString(key[:])
}

// settle fills in what the caller left open, refuses what cannot be kept, and
// gives the signers of a group. old is the enrollment before, without an ID when
// there is none.
func (p *Provisioning) settle(ctx context.Context, e, old *signet.Enrollment) (signers []string, err error) {
	switch e.Status {
	case "":
		e.Status = signet.Enabled
	case signet.Enabled, signet.Disabled:
	default:
		return nil, malformed("provisioningStatus", "enabled or disabled", string(e.Status))
	}
	switch {
	case e.Group && e.DeviceID != "":
		return nil, malformed("deviceId", "nothing: the devices of a group are named by their registration IDs", e.DeviceID)
	case e.DeviceID != "" && !signet.ValidID(e.DeviceID):
		return nil, malformed("deviceId", "1 to 128 letters, digits and - : . % _ * ? ! ( ) , = @ ; $ '", e.DeviceID)
	}
	if signers, err = p.settleAttestation(ctx, e, old); err != nil {
		return nil, err
	}
	if err := p.settleAllocation(ctx, e, old); err != nil {
		return nil, err
	}
	if e.Information, err = object("optionalDeviceInformation", e.Information, maxInformation); err != nil {
		return nil, err
	}
	if err := p.deps.Tenants.CheckTwin(e.InitialTwin.Tags, e.InitialTwin.Desired); err != nil {
		return nil, err
	}
	if e.IssuancePolicy != "" && !signet.ValidPolicyName(e.IssuancePolicy) {
		return nil, malformed("credentialPolicyName", "1 to 63 letters, digits and hyphens", e.IssuancePolicy)
	}
	switch {
	case e.HubAuth != "" && e.HubAuth != signet.AuthSelfSigned && e.HubAuth != signet.AuthCA:
		return nil, malformed("hubAuthentication", "selfSigned or certificateAuthority", string(e.HubAuth))
	case e.Attestation.Type != signet.AttestX509 && e.HubAuth != "":
		return nil, malformed("attestation.type", "x509, which the identity's certificate follows from", string(e.Attestation.Type))
	}
	return signers, nil
}

// settleAttestation keeps of the attestation what its type uses.
func (p *Provisioning) settleAttestation(ctx context.Context, e, old *signet.Enrollment) (signers []string, err error) {
	a := &e.Attestation
	switch a.Type {
	case signet.AttestX509:
		a.PrimaryKey, a.SecondaryKey = "", ""
		// The SDKs for C# and Java cannot read an enrollment without a primary.
		if len(a.Primary) == 0 {
			a.Primary, a.Secondary = a.Secondary, nil
		}
		if a.PrimaryCA == "" {
			a.PrimaryCA, a.SecondaryCA = a.SecondaryCA, ""
		}
		if e.Group {
			return p.settleSigners(ctx, e.Service, a, &old.Attestation)
		}
		return nil, p.settleLeaves(e, &old.Attestation)
	case signet.AttestSymmetricKey:
		*a = signet.Attestation{Type: a.Type, PrimaryKey: a.PrimaryKey, SecondaryKey: a.SecondaryKey}
		if a.PrimaryKey == "" && a.SecondaryKey == "" {
			a.PrimaryKey, a.SecondaryKey = newKey(), newKey()
		}
		for field, key := range map[string]string{"primaryKey": a.PrimaryKey, "secondaryKey": a.SecondaryKey} {
			if raw, err := base64.StdEncoding.DecodeString(key); err != nil || len(raw) < 16 || len(raw) > 64 {
				// The key itself is never repeated.
				return nil, malformed("attestation.symmetricKey."+field, "base64 of 16 to 64 bytes, both keys or neither", "")
			}
		}
		return []string{}, nil
	case signet.AttestTPM:
		return nil, malformed("attestation.type", "x509 or symmetricKey: attestation by a TPM is not supported", "tpm")
	}
	return nil, malformed("attestation.type", "x509 or symmetricKey", string(a.Type))
}

// sameSigners says whether two attestations of a group name the same signers.
func sameSigners(a, b *signet.Attestation) bool {
	return bytes.Equal(a.Primary, b.Primary) && bytes.Equal(a.Secondary, b.Secondary) &&
		strings.EqualFold(a.PrimaryCA, b.PrimaryCA) && strings.EqualFold(a.SecondaryCA, b.SecondaryCA)
}

// settleLeaves judges the certificates of one device.
func (p *Provisioning) settleLeaves(e *signet.Enrollment, old *signet.Attestation) error {
	a := &e.Attestation
	if a.PrimaryCA != "" || a.SecondaryCA != "" {
		return malformed("attestation.x509.caReferences", "nothing: CA certificates are for groups", signet.Clip(a.PrimaryCA+a.SecondaryCA))
	}
	if len(a.Primary)+len(a.Secondary) == 0 {
		return malformed("attestation.x509.clientCertificates", "a certificate of the device", "none")
	}
	if len(e.ID) > maxX509ID {
		return malformed("registrationId", "at most 64 characters for an X.509 device: it is the CN of the certificate", e.ID)
	}
	for _, der := range certificates(a) {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return signet.Refuse(signet.UploadMalformed, "The certificate of the device cannot be read.")
		}
		cn, err := pki.CommonName(c)
		if err != nil || signet.FoldRegistrationID(cn) != signet.FoldRegistrationID(e.ID) {
			return signet.Refuse(signet.EnrollmentMalformed, "The enrollment is for %q, and its certificate for %q.", e.ID, signet.Clip(c.Subject.CommonName)).
				At("subject CN", "exactly one, "+e.ID, c.Subject.CommonName).Of(pki.Reference(c, pki.NotPresented)).
				FixBy("Issue the certificate with CN = registration ID.")
		}
		if bytes.Equal(der, old.Primary) || bytes.Equal(der, old.Secondary) {
			continue
		}
		at := p.deps.Now()
		if at.Before(c.NotBefore) {
			at = c.NotBefore // one may be enrolled ahead of its time
		}
		if err := pki.CheckSelfStanding(c, at); err != nil {
			return err
		}
	}
	return nil
}

// settleSigners judges the signers of a group, and gives what they are known by.
func (p *Provisioning) settleSigners(ctx context.Context, service string, a, old *signet.Attestation) (signers []string, err error) {
	own, named := certificates(a), present(a.PrimaryCA, a.SecondaryCA)
	switch {
	case len(own) > 0 && len(named) > 0:
		return nil, malformed("attestation.x509", "signingCertificates or caReferences, not both", "both")
	case len(own)+len(named) == 0:
		return nil, malformed("attestation.x509", "signingCertificates or caReferences", "neither")
	}
	for _, der := range own {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, signet.Refuse(signet.UploadMalformed, "The signing certificate cannot be read.")
		}
		if !bytes.Equal(der, old.Primary) && !bytes.Equal(der, old.Secondary) {
			if err := pki.CheckCA(c, p.deps.Now()); err != nil {
				return nil, err
			}
		}
		signers = append(signers, Signer(c))
	}
	if len(named) > 0 {
		cas, err := p.deps.Authority.List(ctx, service)
		if err != nil {
			return nil, err
		}
		for _, name := range named {
			n := slices.IndexFunc(cas, func(ca signet.CACertificate) bool { return strings.EqualFold(ca.Name, name) })
			switch {
			case n >= 0:
				c, err := x509.ParseCertificate(cas[n].DER)
				if err != nil {
					return nil, fmt.Errorf("stored CA certificate %s of %s: %w", name, service, err)
				}
				signers = append(signers, Signer(c))
			case !slices.Contains(present(old.PrimaryCA, old.SecondaryCA), name):
				return nil, signet.Refuse(signet.CertificateUnknown, "The provisioning service has no CA certificate %q.", signet.Clip(name)).
					At("attestation.x509.caReferences", "names of registered CA certificates", name).
					FixBy("Register the CA at the provisioning service first.")
			}
		}
	}
	slices.Sort(signers)
	return slices.Compact(signers), nil
}

// settleAllocation judges how a hub is chosen, and from which.
func (p *Provisioning) settleAllocation(ctx context.Context, e, old *signet.Enrollment) error {
	if len(e.Hubs) > MaxLinks {
		return malformed("iotHubs", fmt.Sprintf("at most %d hubs", MaxLinks), strconv.Itoa(len(e.Hubs)))
	}
	var hubs []string
	for _, host := range e.Hubs {
		if host = signet.HostOnly(host); !slices.Contains(hubs, host) {
			hubs = append(hubs, host)
		}
	}
	e.Hubs = hubs
	if isNew := slices.ContainsFunc(hubs, func(host string) bool { return !slices.Contains(old.Hubs, host) }); isNew {
		links, err := p.Links(ctx, e.Service)
		if err != nil {
			return err
		}
		for _, host := range hubs {
			if !slices.Contains(old.Hubs, host) && !slices.ContainsFunc(links, func(l signet.LinkedHub) bool { return l.HostName == host }) {
				return malformed("iotHubs", "host names of linked hubs", host)
			}
		}
	}
	webhook := e.Webhook
	e.Webhook = signet.Webhook{}
	switch e.Allocation {
	case "":
		e.Allocation = signet.AllocateHashed
	case signet.AllocateHashed, signet.AllocateGeoLatency:
	case signet.AllocateStatic:
		if len(hubs) == 0 {
			return malformed("iotHubs", "the host name of a hub: allocation is static", "none")
		}
	case signet.AllocateCustom:
		u, err := url.Parse(webhook.URL)
		if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || u.User != nil || len(webhook.URL) > maxURL {
			// Its query may hold a code, which is never repeated.
			return malformed("customAllocationDefinition.webhookUrl", "an https:// or http:// URL of at most 2048 bytes, without a user name", "")
		}
		if len(webhook.APIVersion) > 64 || !utf8.ValidString(webhook.APIVersion) || strings.ContainsRune(webhook.APIVersion, 0) {
			return malformed("customAllocationDefinition.apiVersion", "at most 64 bytes", webhook.APIVersion)
		}
		e.Webhook = webhook
	default:
		return malformed("allocationPolicy", "hashed, geoLatency, static or custom", string(e.Allocation))
	}
	return nil
}

// object takes a JSON object of at most so many bytes; nil for none or null.
func object(field string, text json.RawMessage, most int) (json.RawMessage, error) {
	text = bytes.TrimSpace(text)
	if len(text) == 0 || string(text) == "null" {
		return nil, nil
	}
	if len(text) > most {
		return nil, malformed(field, fmt.Sprintf("at most %d bytes", most), strconv.Itoa(len(text))+" bytes")
	}
	if text[0] != '{' || !json.Valid(text) || !utf8.Valid(text) {
		return nil, malformed(field, "a JSON object", "something else")
	}
	return text, nil
}

// Links lists the linked hubs of a service by host name; when there are none, all
// hubs of this server, each with weight 1.
func (p *Provisioning) Links(ctx context.Context, service string) ([]signet.LinkedHub, error) {
	links, err := p.deps.Enrollments.LinkedHubs(ctx, service)
	if err != nil || len(links) > 0 {
		return links, err
	}
	for _, h := range p.deps.Tenants.Hubs() {
		links = append(links, signet.LinkedHub{Service: service, HostName: h.HostName, Weight: 1, Allocates: true})
	}
	slices.SortFunc(links, func(a, b signet.LinkedHub) int { return strings.Compare(a.HostName, b.HostName) })
	return links, nil
}

// Linked lists the hubs that have been linked on purpose, by host name.
func (p *Provisioning) Linked(ctx context.Context, service string) ([]signet.LinkedHub, error) {
	return p.deps.Enrollments.LinkedHubs(ctx, service)
}

// SetLinks has exactly these hubs linked: devices that have another keep it. A hub
// of another server comes with a connection string, whose host name it gets; one
// of this server needs none. It refuses with [signet.LinkMalformed] and
// [signet.LimitLinks].
func (p *Provisioning) SetLinks(ctx context.Context, service string, hubs []signet.LinkedHub) error {
	hubs = slices.Clone(hubs)
	names := map[string]bool{}
	for i := range hubs {
		hubs[i].Service = service
		if err := p.settleLink(&hubs[i]); err != nil {
			return err
		}
		if names[hubs[i].HostName] {
			return linkMalformed("iotHubs", "each hub once", hubs[i].HostName)
		}
		names[hubs[i].HostName] = true
	}
	if len(hubs) > MaxLinks {
		return signet.Refuse(signet.LimitLinks, "There would be %d linked hubs, and at most %d may be.", len(hubs), MaxLinks)
	}
	linked, err := p.deps.Enrollments.LinkedHubs(ctx, service)
	if err != nil {
		return err
	}
	var remove []string
	for _, l := range linked {
		if !names[l.HostName] {
			remove = append(remove, l.HostName)
		}
	}
	err = p.deps.Enrollments.ChangeLinkedHubs(ctx, service, remove, hubs)
	if errors.Is(err, signet.ErrNotFound) {
		return signet.Refuse(signet.HubUnknown, "There is no provisioning service %q any more.", service)
	}
	return err
}

var hostName = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$`)

func (p *Provisioning) settleLink(l *signet.LinkedHub) error {
	if l.ConnectionString != "" {
		// No error of these repeats the string: it holds a key.
		c, err := signet.ParseConnectionString(l.ConnectionString)
		switch {
		case err != nil || len(l.ConnectionString) > maxURL:
			return linkMalformed("connectionString", "HostName=…;SharedAccessKeyName=…;SharedAccessKey=…", "")
		case l.HostName != "" && signet.HostOnly(c.HostName) != signet.HostOnly(l.HostName):
			return linkMalformed("connectionString", "one of the hub "+signet.Clip(l.HostName), "")
		case c.SharedAccessKeyName == "" || c.SharedAccessKey == "":
			return linkMalformed("connectionString", "a shared access policy and its key", "")
		}
		l.HostName = c.HostName
	}
	host := l.HostName // with its port: a hub elsewhere may have another than 443
	l.HostName = signet.HostOnly(host)
	// Of a:b@c the host is c, whatever it looks like.
	if _, err := netip.ParseAddr(l.HostName); err != nil && !hostName.MatchString(l.HostName) || strings.ContainsAny(host, `@/?#\`) {
		return linkMalformed("name", "the host name of a hub", "") // it may be a connection string in the wrong place
	}
	if _, err := p.deps.Tenants.HubByHost(l.HostName); err == nil {
		l.ConnectionString = "" // ours: no key has to lie about
	} else if l.ConnectionString == "" {
		return linkMalformed("connectionString", "one: "+signet.Clip(l.HostName)+" is no hub of this server", "none")
	}
	if l.Weight == 0 {
		l.Weight = 1
	}
	if l.Weight < 1 || l.Weight > maxWeight {
		return linkMalformed("allocationWeight", "1 to 1000", strconv.Itoa(l.Weight))
	}
	if len(l.Location) > 64 || !utf8.ValidString(l.Location) || strings.ContainsRune(l.Location, 0) {
		return linkMalformed("location", "at most 64 bytes of text", l.Location)
	}
	return nil
}

func checkID(id string) error {
	if signet.ValidRegistrationID(id) {
		return nil
	}
	return malformed("registrationId", "1 to 128 letters, digits and - . _ : that end in a letter, a digit or a dash", id)
}

func kind(group bool) string {
	if group {
		return "enrollment group"
	}
	return "individual enrollment"
}

func most(group bool) int {
	if group {
		return MaxGroups
	}
	return MaxEnrollments
}

// stamp is now as the store keeps it: UTC, to the millisecond.
func (p *Provisioning) stamp() time.Time { return p.deps.Now().UTC().Truncate(time.Millisecond) }

// newKey makes a key as Azure does.
func newKey() string {
	var b [64]byte
	rand.Read(b[:])
	return base64.StdEncoding.EncodeToString(b[:])
}

// present leaves out what is empty.
func present(values ...string) []string {
	return slices.DeleteFunc(values, func(s string) bool { return s == "" })
}

func certificates(a *signet.Attestation) [][]byte {
	return slices.DeleteFunc([][]byte{a.Primary, a.Secondary}, func(der []byte) bool { return len(der) == 0 })
}

func malformed(field, expected, actual string) error {
	return signet.Refuse(signet.EnrollmentMalformed, "The %s is not taken: it should be %s.", field, expected).At(field, expected, actual)
}

func linkMalformed(field, expected, actual string) error {
	return signet.Refuse(signet.LinkMalformed, "The %s of a linked hub is not taken: it should be %s.", field, expected).At(field, expected, actual)
}

func enrollmentUnknown(group bool, id string) error {
	return signet.Refuse(signet.EnrollmentUnknown, "There is no %s %q.", kind(group), signet.Clip(id))
}

func enrollmentStale(group bool, id string) error {
	return signet.Refuse(signet.ETagStale, "The %s %q has changed since its etag was read.", kind(group), signet.Clip(id))
}
