package server

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/issuance"
	"github.com/signet-iot/signet/pki"
	"github.com/signet-iot/signet/token"
)

// issuanceFile is the form of issuance.toml. Paths in it that are not absolute are
// counted from its folder.
type issuanceFile struct {
	Policy []struct {
		// Name is what enrollments call the policy: 1 to 63 letters, digits and hyphens.
		Name string `toml:"name"`
		// Service is the provisioning service that it is of. Default: the one of the
		// server's configuration.
		Service string `toml:"service"`
		// Certificate is a PEM file with the certificate of the issuing CA, first. Those
		// above it, up to the root, may follow in it, or stand in Chain.
		Certificate string `toml:"certificate"`
		Chain       string `toml:"chain"`
		// Key is a file with its private key, in PEM: PKCS#8, plain or encrypted, SEC 1
		// or PKCS#1; or with the PKCS#11 URI of one in a token. PassphraseFile holds the
		// passphrase of an encrypted one, or the token's PIN, where the URI names no file
		// with that.
		Key            string `toml:"key"`
		PassphraseFile string `toml:"passphrase_file"`
		// Validity of the certificates: from an hour to 10 years. Default 2160h, 90 days.
		Validity time.Duration `toml:"validity"`
		// Keys are the kinds of keys that certificates are issued for: p256, p384, p521,
		// ed25519, rsa. Default p256, p384, ed25519 and rsa.
		Keys []string `toml:"keys"`
		// RenewExpired is how long after its end a certificate may still be renewed, at
		// most 90 days. Default 0: never.
		RenewExpired time.Duration `toml:"renew_expired"`
	} `toml:"policy"`
}

// The bounds of issuance.toml.
const (
	maxPolicies       = 100 // each is a CA, and a hub has room for 25
	maxIssuanceFile   = 1 << 20
	minValidity       = time.Hour // less, and a device would do nothing but renew
	maxValidity       = 10 * 366 * 24 * time.Hour
	maxRenewExpired   = 90 * 24 * time.Hour
	defaultValidity   = 90 * 24 * time.Hour
	issuanceFileCheck = time.Second // how often, at most, it is looked whether files changed

	// tokenFarewell is how long the session with a token is kept open for signatures
	// under way, after its policy was replaced.
	tokenFarewell = time.Minute
)

var (
	kindsOfKeys  = []string{"p256", "p384", "p521", "ed25519", "rsa"}
	defaultKinds = []string{"p256", "p384", "ed25519", "rsa"}
)

// policies are the issuance policies of the operator's file, read again when it or
// a file that it names has changed.
type policies struct {
	file, service string
	needed        bool // the operator has named the file
	services      func() []signet.Hub
	log           *slog.Logger
	now           func() time.Time

	mu      sync.Mutex
	current []issuance.Policy
	tokens  []io.Closer // that its keys are in
	files   []string    // that current came from
	stamp   string      // of them
	looked  time.Time
}

func loadPolicies(cfg Config, services func() []signet.Hub, log *slog.Logger) (*policies, error) {
	p := &policies{file: cfg.Issuance, needed: cfg.Issuance != "", services: services, service: cfg.Provisioning, log: log, now: cfg.Now}
	if !p.needed {
		p.file = filepath.Join(cfg.Data, "issuance.toml")
	}
	var err error
	p.current, p.tokens, p.files, err = p.read()
	p.stamp, p.looked = stampOf(p.files), p.now()
	if err != nil {
		return nil, fmt.Errorf("issuance: %w", err)
	}
	return p, nil
}

// Policies gives those in force.
func (p *policies) Policies() []issuance.Policy {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := p.now(); now.Sub(p.looked) >= issuanceFileCheck {
		p.looked = now
		if stamp := stampOf(p.files); stamp != p.stamp {
			current, tokens, files, err := p.read()
			p.files, p.stamp = files, stampOf(files)
			if err != nil {
				p.log.Error("the new issuance policies are not taken; the old ones stay", "file", p.file, "error", err)
			} else {
				old := p.tokens
				time.AfterFunc(tokenFarewell, func() { closeAll(old) })
				p.current, p.tokens = current, tokens
				p.log.Info("issuance policies reloaded", "file", p.file, "policies", len(current))
				p.warn()
			}
		}
	}
	return p.current
}

// warn tells of policies that nobody can use.
func (p *policies) warn() {
	for _, policy := range p.current {
		if !slices.ContainsFunc(p.services(), func(s signet.Hub) bool { return s.Name == policy.Service }) {
			p.log.Warn("an issuance policy is of a provisioning service that is not there", "file", p.file, "policy", policy.Name, "service", policy.Service)
		}
		if !p.now().Before(policy.NotAfter) {
			p.log.Warn("the CA of an issuance policy has expired", "file", p.file, "policy", policy.Name, "subject", policy.Subject, "notAfter", policy.NotAfter)
		}
	}
}

func closeAll(tokens []io.Closer) {
	for _, t := range tokens {
		t.Close()
	}
}

// close ends the sessions with tokens.
func (p *policies) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	closeAll(p.tokens)
	p.current, p.tokens, p.looked = nil, nil, time.Unix(1<<40, 0) // for good
}

// stampOf changes when one of the files does, or comes or goes.
func stampOf(files []string) string {
	stamp := ""
	for _, file := range files {
		if info, err := os.Stat(file); err == nil {
			stamp += fmt.Sprint(info.ModTime().UnixNano(), info.Size())
		}
		stamp += ";"
	}
	return stamp
}

// read reads the file and what it names, and gives also the names of all that it
// has looked at, whatever came of it.
func (p *policies) read() (all []issuance.Policy, tokens []io.Closer, files []string, err error) {
	defer func() {
		if err != nil {
			closeAll(tokens)
			all, tokens = nil, nil
		}
	}()
	files = []string{p.file}
	text, err := readBounded(p.file)
	if errors.Is(err, fs.ErrNotExist) && !p.needed {
		return nil, nil, files, nil
	}
	if err != nil {
		return nil, nil, files, err
	}
	var parsed issuanceFile
	meta, err := toml.Decode(string(text), &parsed)
	if err != nil {
		return nil, nil, files, fmt.Errorf("%s: %w", p.file, err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return nil, nil, files, fmt.Errorf("%s: no such setting: %s", p.file, unknown[0])
	}
	if len(parsed.Policy) > maxPolicies {
		return nil, nil, files, fmt.Errorf("%s: %d policies; at most %d are taken", p.file, len(parsed.Policy), maxPolicies)
	}
	at := func(name string) string {
		if name == "" || filepath.IsAbs(name) {
			return name
		}
		return filepath.Join(filepath.Dir(p.file), name)
	}
	for _, f := range parsed.Policy {
		for _, name := range []*string{&f.Certificate, &f.Chain, &f.Key, &f.PassphraseFile} {
			if *name = at(*name); *name != "" {
				files = append(files, *name)
			}
		}
	}
	for _, f := range parsed.Policy {
		policy := issuance.Policy{IssuancePolicy: signet.IssuancePolicy{Service: f.Service, Name: f.Name,
			Validity: f.Validity, Keys: f.Keys, RenewExpired: f.RenewExpired}}
		if policy.Service == "" {
			policy.Service = p.service
		}
		if policy.Validity == 0 {
			policy.Validity = defaultValidity
		}
		if len(policy.Keys) == 0 {
			policy.Keys = defaultKinds
		}
		if err := checkPolicy(policy, all); err != nil {
			return all, tokens, files, fmt.Errorf("%s: policy %q: %w", p.file, f.Name, err)
		}
		if policy.CA, policy.Above, err = p.openIssuer(at(f.Certificate), at(f.Chain), at(f.Key), at(f.PassphraseFile)); err != nil {
			return all, tokens, files, fmt.Errorf("%s: policy %q: %w", p.file, f.Name, err)
		}
		if held, ok := policy.CA.Key.(io.Closer); ok {
			tokens = append(tokens, held)
		}
		ca := policy.CA.Certificate
		policy.Subject, policy.Thumbprint, policy.NotAfter = ca.Subject.String(), pki.ThumbprintSHA256(ca.Raw), ca.NotAfter.UTC()
		all = append(all, policy)
	}
	return all, tokens, files, nil
}

// checkPolicy refuses what cannot be meant.
func checkPolicy(p issuance.Policy, before []issuance.Policy) error {
	switch {
	case !signet.ValidPolicyName(p.Name):
		return errors.New("a name is 1 to 63 letters, digits and hyphens")
	case slices.ContainsFunc(before, func(b issuance.Policy) bool {
		return b.Service == p.Service && strings.EqualFold(b.Name, p.Name)
	}):
		return errors.New("it is there twice")
	case p.Validity < minValidity || p.Validity > maxValidity:
		return fmt.Errorf("validity is from %v to ten years, not %v", minValidity, p.Validity)
	case p.RenewExpired < 0 || p.RenewExpired > maxRenewExpired:
		return fmt.Errorf("renew_expired is at most %v, not %v", maxRenewExpired, p.RenewExpired)
	}
	for _, kind := range p.Keys {
		if !slices.Contains(kindsOfKeys, kind) {
			return fmt.Errorf("%q is no kind of key; these are: %s", kind, strings.Join(kindsOfKeys, ", "))
		}
	}
	return nil
}

// openIssuer opens the CA. The key stays in the signer, and the text that it came
// from is let go.
func (p *policies) openIssuer(certificate, chain, key, passphrase string) (*pki.CA, []*x509.Certificate, error) {
	if certificate == "" || key == "" {
		return nil, nil, errors.New("certificate and key name the files of the issuing CA; both are needed")
	}
	certs, err := readCertificates(certificate)
	if err == nil && len(certs) == 0 {
		err = fmt.Errorf("%s holds no certificate in PEM", certificate)
	}
	if err != nil {
		return nil, nil, err
	}
	if chain != "" {
		above, err := readCertificates(chain)
		if err != nil {
			return nil, nil, err
		}
		if len(above) > 0 && above[0].Equal(certs[0]) {
			above = above[1:] // as signet ca writes it
		}
		certs = append(certs, above...)
	}
	signer, err := p.openKey(key, passphrase)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", key, err)
	}
	ca, above, err := joinIssuer(certs, signer)
	if err != nil {
		if held, ok := signer.(io.Closer); ok {
			held.Close()
		}
		return nil, nil, fmt.Errorf("%s: %w", certificate, err)
	}
	return ca, above, nil
}

// openKey opens the key of an issuing CA, in a file or in a token.
func (p *policies) openKey(file, passphrase string) (crypto.Signer, error) {
	text, err := readBounded(file)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	secret := func() ([]byte, error) {
		if passphrase == "" {
			return nil, signet.Refuse(signet.KeyPassphrase, "The key takes a passphrase or a PIN, and passphrase_file names no file with it.")
		}
		secret, err := readBounded(passphrase)
		return bytes.TrimRight(secret, "\r\n"), err
	}
	if token.IsReference(text) {
		return token.Open(string(text), secret)
	}
	if info, err := os.Stat(file); err == nil && info.Mode().Perm()&0o077 != 0 {
		p.log.Warn("the key of an issuing CA can be read by others than its owner", "file", file, "mode", info.Mode().Perm())
	}
	return pki.ParseKey(text, secret)
}

// joinIssuer makes the CA, and gives what devices get above their certificates: the
// CA, what stands above it, and the root where it is known.
func joinIssuer(certs []*x509.Certificate, signer crypto.Signer) (*pki.CA, []*x509.Certificate, error) {
	ca, err := pki.OpenCA(certs[0], certs[1:], signer)
	if err != nil {
		return nil, nil, err
	}
	above := ca.Chain
	if len(above) == 0 {
		return ca, certs[:1], nil
	}
	if root := certs[len(certs)-1]; !root.Equal(above[len(above)-1]) {
		if above[len(above)-1].CheckSignatureFrom(root) != nil {
			return nil, nil, fmt.Errorf("the root %s has not signed %s", root.Subject, above[len(above)-1].Subject)
		}
		above = append(slices.Clip(above), root)
	}
	return ca, above, nil
}

// readCertificates reads the certificates of a PEM file, in their order.
func readCertificates(name string) (certs []*x509.Certificate, err error) {
	text, err := readBounded(name)
	if err != nil {
		return nil, err
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		certs = append(certs, cert)
	}
	return certs, nil
}

// readBounded reads a file that is meant to be small.
func readBounded(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxIssuanceFile {
		return nil, fmt.Errorf("%s has %d bytes; at most %d are read", name, info.Size(), maxIssuanceFile)
	}
	return os.ReadFile(name)
}
