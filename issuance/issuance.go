// Package issuance issues certificates to devices: in the call by which a device
// registers itself, and when a connected device renews the one it has. It checks
// what the device sent, signs by the policy of its provisioning service, and keeps
// a record of everything signed.
//
// It is the one part of the house that uses a CA's key. It never sees one: a
// policy comes with a [crypto.Signer], which whoever wires the house has opened
// from the operator's own file.
//
// Order of writes: the hub trusts the issuing CA (on disk, in force) → the
// certificate is signed → its record is on disk → it is handed out. A crash
// anywhere in between leaves nothing that is not on record in anybody's hands; the
// same request then finds the record, and gets that certificate.
package issuance

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/pki"
)

// The bounds of what a device can have us do and keep.
const (
	// MaxHourly is how many certificates a device is issued in an hour: a device
	// whose storage fails asks anew at each start, and shall come back, not flood.
	MaxHourly = 10
	// MaxKept is how many records of a device are kept: ten hours of such a flood,
	// or years of renewals.
	MaxKept = 100
	// KeepEnded is how long the record of a certificate outlives it, for people who
	// look back.
	KeepEnded = 90 * 24 * time.Hour

	// signTime is how long a signature may take. One by a key in a file takes
	// milliseconds, by one in a token less than a second; a token that hangs does not
	// say so.
	signTime = 10 * time.Second

	// trimEvery and trimBatch are how often, and how many at a time, records that
	// are past that are removed: a batch holds up other writes for a moment.
	trimEvery = time.Hour
	trimBatch = 500
)

// A Policy is a policy with what it takes to sign by it. Immutable.
type Policy struct {
	signet.IssuancePolicy
	// CA signs. Its key may be anywhere: only its Sign and Public are called, from
	// one goroutine for each certificate under way.
	CA *pki.CA
	// Above are the certificates above the leaf that a device is given, the issuing
	// CA first, the root last.
	Above []*x509.Certificate
}

// Policies gives the policies in force. Its server is package server, which reads
// them from the operator's files. Safe for concurrent use; it may read files, and
// answers with the last good ones when these have been spoiled.
type Policies interface {
	Policies() []Policy
}

// Authority is where an issuing CA becomes an anchor. Its server is package
// authority. Safe for concurrent use.
type Authority interface {
	// Adopt makes a CA certificate a verified anchor of a hub, on disk and in force
	// when it returns, unless it is one; name is for people, if it is new there. It
	// refuses with limit.certificates and cert.* codes.
	Adopt(ctx context.Context, hub, name string, ca *x509.Certificate) error
	// Revoked gives the refusal when a certificate of a path, leaf first, is
	// distrusted or revoked by what is known now; nil when none is.
	Revoked(hub string, path []*signet.PathCertificate) error
}

// Hubs knows the hubs of this server. Its server is package registry. They refuse
// with [signet.HubUnknown].
type Hubs interface {
	HubByHost(host string) (signet.Hub, error)
	HubByName(name string) (signet.Hub, error)
}

// Issuance issues certificates. Safe for concurrent use.
type Issuance struct {
	store     Store
	policies  Policies
	authority Authority
	hubs      Hubs
	now       func() time.Time
	log       *slog.Logger

	mu      sync.Mutex // held for moments only, and with no other lock
	devices map[[2]string]*device
	hung    map[string]int // signatures that have taken too long, by the CA's thumbprint
}

// Options of Issuance; all but Now and Logger are required.
type Options struct {
	Policies  Policies
	Authority Authority
	Hubs      Hubs
	Now       func() time.Time // the clock; time.Now when nil
	Logger    *slog.Logger     // slog.Default() when nil
}

// New makes an Issuance.
func New(store Store, o Options) *Issuance {
	k := &Issuance{store: store, policies: o.Policies, authority: o.Authority, hubs: o.Hubs, now: o.Now, log: o.Logger,
		devices: map[[2]string]*device{}, hung: map[string]int{}}
	if k.now == nil {
		k.now = time.Now
	}
	if k.log == nil {
		k.log = slog.Default()
	}
	return k
}

// A device is one for which something is under way: it exists as long as that.
// Orders for one device take turns, so that two that are the same have one outcome.
type device struct {
	turn    chan struct{} // of capacity 1; taken by who has the turn
	users   int           // under Issuance.mu
	renewal *renewal      // under way, or waiting for its turn; under Issuance.mu
}

// enter joins those who want something for a device; leave must follow.
func (k *Issuance) enter(service, id string) *device {
	k.mu.Lock()
	defer k.mu.Unlock()
	d := k.devices[[2]string{service, id}]
	if d == nil {
		d = &device{turn: make(chan struct{}, 1)}
		k.devices[[2]string{service, id}] = d
	}
	d.users++
	return d
}

func (k *Issuance) leave(service, id string, d *device) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if d.users--; d.users == 0 {
		delete(k.devices, [2]string{service, id})
	}
}

// take waits for the turn, until ctx ends.
func (d *device) take(ctx context.Context) error {
	select {
	case d.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *device) give() { <-d.turn }

// List gives the policies of a service by name; of all services for "".
func (k *Issuance) List(service string) []signet.IssuancePolicy {
	all := []signet.IssuancePolicy{}
	for _, p := range k.policies.Policies() {
		if service == "" || p.Service == service {
			all = append(all, p.IssuancePolicy)
		}
	}
	slices.SortFunc(all, func(a, b signet.IssuancePolicy) int {
		return strings.Compare(a.Service+"\n"+strings.ToLower(a.Name), b.Service+"\n"+strings.ToLower(b.Name))
	})
	return all
}

func (k *Issuance) policy(service, name string) (Policy, error) {
	for _, p := range k.policies.Policies() {
		if p.Service == service && strings.EqualFold(p.Name, name) {
			return p, nil
		}
	}
	return Policy{}, signet.Refuse(signet.IssuancePolicyUnknown, "The provisioning service %s has no issuance policy %q.", service, signet.Clip(name)).
		At("policy", "one that issuance.toml describes", name)
}

// Issued lists records.
func (k *Issuance) Issued(ctx context.Context, q Query) ([]signet.Issued, error) {
	return k.store.ListIssued(ctx, q)
}

// Issue issues a certificate by an order of a provisioning service. The same CSR
// for the same operation and hub gives the same chain; another CSR is refused with
// [signet.CSRReplayed].
func (k *Issuance) Issue(ctx context.Context, o signet.CertificateOrder) ([]*x509.Certificate, error) {
	d := k.enter(o.Service, o.DeviceID)
	defer k.leave(o.Service, o.DeviceID, d)
	if err := d.take(ctx); err != nil {
		return nil, err
	}
	defer d.give()
	hub, err := k.hubs.HubByHost(o.HostName)
	if err != nil && signet.CodeOf(err) != signet.HubUnknown {
		return nil, err
	}
	before, err := k.store.IssuedFor(ctx, o.Service, o.DeviceID, o.Operation)
	switch {
	case err == nil && before.CSR != sum(o.CSR):
		return nil, signet.Refuse(signet.CSRReplayed, "The request of %q was answered already with a certificate for another certificate signing request.", signet.Clip(o.DeviceID))
	case err == nil && before.HostName == signet.HostOnly(o.HostName): // else it has been given another place since
		return k.again(ctx, before)
	case err != nil && !errors.Is(err, signet.ErrNotFound):
		return nil, err
	}
	p, err := k.policy(o.Service, o.Policy)
	if err != nil {
		return nil, err
	}
	names := []string{o.DeviceID}
	if o.RegistrationID != "" {
		names = append(names, o.RegistrationID)
	}
	return k.sign(ctx, p, signet.Issued{Hub: hub.Name, HostName: signet.HostOnly(o.HostName), DeviceID: o.DeviceID, Operation: o.Operation}, o.CSR, names)
}

// again hands out what is on record. The anchor is there already, unless someone
// has removed it since.
func (k *Issuance) again(ctx context.Context, i signet.Issued) ([]*x509.Certificate, error) {
	chain := make([]*x509.Certificate, len(i.Chain))
	for n, der := range i.Chain {
		var err error
		if chain[n], err = x509.ParseCertificate(der); err != nil {
			return nil, fmt.Errorf("stored chain of certificate %s: %w", i.Serial, err)
		}
	}
	if len(chain) < 2 {
		return nil, fmt.Errorf("stored chain of certificate %s: %d certificates", i.Serial, len(chain))
	}
	if err := k.trusted(ctx, i, chain); err != nil {
		return nil, err
	}
	return chain, nil
}

// trusted sees to it that the certificate that is about to be handed out counts at
// its hub, if that is one of this server: its issuer is an anchor, and nothing of
// it is distrusted or revoked.
func (k *Issuance) trusted(ctx context.Context, i signet.Issued, chain []*x509.Certificate) error {
	if i.Hub == "" {
		return nil
	}
	path := pki.Path(chain[:2])
	// That not all is known is for the connect to judge, which asks behind.
	if err := k.authority.Revoked(i.Hub, path); err != nil && signet.CodeOf(err) != signet.CertRevocationUnknown {
		return err
	}
	return k.authority.Adopt(ctx, i.Hub, anchorName(i.Policy, path[1]), chain[1])
}

// anchorName is what an issuing CA is registered as: the policy, and of which of
// its CAs.
func anchorName(policy string, ca *signet.PathCertificate) string {
	return fmt.Sprintf("issuing-%.40s-%x", policy, ca.Thumbprint[:4])
}

// sign issues a certificate for a CSR that no certificate is on record for yet; of
// i, what it is for is filled in.
func (k *Issuance) sign(ctx context.Context, p Policy, i signet.Issued, csr []byte, names []string) ([]*x509.Certificate, error) {
	request, err := pki.DeviceCSR(csr, names...)
	if err != nil {
		return nil, err
	}
	if kind := pki.KindOfKey(request.PublicKey); !slices.Contains(p.Keys, kind) {
		return nil, signet.Refuse(signet.CSRKeyType, "The issuance policy %s issues no certificates for keys of the kind %s.", p.Name, kind).
			At("subjectPublicKeyInfo", strings.Join(p.Keys, ", "), kind)
	}
	key, err := keyHash(request.PublicKey)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(pki.Path(p.Above), func(c *signet.PathCertificate) bool { return c.Key == key }) {
		return nil, keyUsed(i.DeviceID)
	}
	now := k.now()
	i.Service, i.Policy, i.Issuer, i.CSR, i.Key = p.Service, p.Name, p.Thumbprint, sum(csr), hex.EncodeToString(key[:])
	i.Time = now.UTC().Truncate(time.Microsecond) // as the store keeps it: the latest has to be known
	// Looked at before, so that what would be refused costs no signature and leaves
	// no trace.
	lately := i.Time.Add(-time.Hour)
	if err := k.store.CheckIssued(ctx, i.Service, i.DeviceID, i.Key, MaxHourly, lately); err != nil {
		return nil, unrecorded(err, &i)
	}
	issued, err := k.signed(ctx, p, func() ([]*x509.Certificate, error) {
		return p.CA.Operational(i.DeviceID, i.HostName, request.PublicKey, now, p.Validity)
	})
	if err != nil {
		return nil, err
	}
	chain := append(issued[:1:1], p.Above...)
	leaf := pki.PathCertificate(chain[0])
	i.Serial, i.Thumbprint = leaf.Serial, hex.EncodeToString(leaf.Thumbprint[:])
	i.NotBefore, i.NotAfter = chain[0].NotBefore.UTC(), chain[0].NotAfter.UTC()
	for _, c := range chain {
		i.Chain = append(i.Chain, c.Raw)
	}
	if err := k.trusted(ctx, i, chain); err != nil {
		return nil, err
	}
	// It has been signed and nobody has it. On record before anybody does.
	if err := k.store.AddIssued(ctx, i, MaxHourly, lately, MaxKept); err != nil {
		return nil, unrecorded(err, &i)
	}
	k.log.Info("certificate issued", "service", i.Service, "policy", i.Policy, "hub", i.HostName, "device", i.DeviceID, "serial", i.Serial, "notAfter", i.NotAfter)
	return chain, nil
}

// signed waits for what the CA of a policy signs, and not for ever: a token cannot
// be told to stop. As long as one of its signatures has taken too long, no other is
// begun, whether or not somebody still waits for that one.
func (k *Issuance) signed(ctx context.Context, p Policy, f func() ([]*x509.Certificate, error)) ([]*x509.Certificate, error) {
	hangs := func(n int) bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.hung[p.Thumbprint] += n; k.hung[p.Thumbprint] == 0 {
			delete(k.hung, p.Thumbprint)
		}
		return k.hung[p.Thumbprint] > 0
	}
	refused := signet.Refuse(signet.Unavailable, "The CA of the issuance policy %s does not sign at the moment.", p.Name)
	if hangs(0) {
		return nil, refused
	}
	type outcome struct {
		chain []*x509.Certificate
		err   error
	}
	done, late := make(chan outcome, 1), make(chan struct{})
	timer := time.AfterFunc(signTime, func() {
		hangs(1)
		k.log.Error("the CA of an issuance policy does not sign", "service", p.Service, "policy", p.Name, "after", signTime)
		close(late)
	})
	go func() {
		var o outcome
		defer func() {
			if fault := recover(); fault != nil {
				o.err = signet.Fail(fmt.Errorf("panic: %v", fault))
			}
			if !timer.Stop() {
				hangs(-1)
			}
			done <- o
		}()
		o.chain, o.err = f()
	}()
	select {
	case o := <-done:
		return o.chain, o.err
	case <-late:
		return nil, refused
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// unrecorded says why a certificate is not put on record.
func unrecorded(err error, i *signet.Issued) error {
	switch {
	case errors.Is(err, signet.ErrExists):
		return keyUsed(i.DeviceID)
	case errors.Is(err, signet.ErrFull):
		return signet.Refuse(signet.LimitIssuance, "%q has been issued %d certificates within an hour.", signet.Clip(i.DeviceID), MaxHourly)
	case errors.Is(err, signet.ErrNotFound):
		return signet.Refuse(signet.HubUnknown, "The provisioning service %s has been deleted.", i.Service)
	}
	return err
}

// keyHash names a public key as certificates will, however the request has written
// it.
func keyHash(key crypto.PublicKey) ([32]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(key)
	return sha256.Sum256(spki), err
}

func keyUsed(device string) error {
	return signet.Refuse(signet.CSRKeyUsed, "The key in the certificate signing request of %q is that of another device, or of a CA.", signet.Clip(device))
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// Run removes records that are past their time, until ctx ends.
func (k *Issuance) Run(ctx context.Context) {
	tick := time.NewTicker(trimEvery)
	defer tick.Stop()
	for {
		if err := k.Trim(ctx); err != nil && ctx.Err() == nil {
			k.log.Error("records of issued certificates could not be trimmed", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Trim removes the records of certificates that ended long ago.
func (k *Issuance) Trim(ctx context.Context) error {
	for {
		n, err := k.store.TrimIssued(ctx, k.now().Add(-KeepEnded), trimBatch)
		if err != nil || n < trimBatch {
			return err
		}
	}
}
