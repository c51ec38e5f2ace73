package server

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/signet-iot/signet"
)

// certificates serves the server's own certificate: the operator's, read again
// when its file changes, or one of the server's own making.
type certificates struct {
	certFile, keyFile string
	log               *slog.Logger
	now               func() time.Time
	// renew makes a new certificate in the files when the end of the old one is
	// near; nil when the files are the operator's.
	renew func() error

	mu      sync.Mutex
	current *tls.Certificate
	stamp   string    // of the files that current came from
	looked  time.Time // when the files were last looked at
	renewed time.Time // when renewal was last tried
}

const (
	// fileCheck is how often, at most, a handshake looks whether the files changed.
	fileCheck = time.Second
	// renewBefore is how long before its end a certificate of our own is renewed,
	// and renewTry how long to wait after a try that failed.
	renewBefore = 30 * 24 * time.Hour
	renewTry    = time.Hour
)

func loadCertificates(certFile, keyFile string, log *slog.Logger, now func() time.Time) (*certificates, error) {
	c := &certificates{certFile: certFile, keyFile: keyFile, log: log, now: now}
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("server certificate: %w", err)
	}
	c.current, c.stamp, c.looked = &cert, c.fileStamp(), now()
	return c, nil
}

// get is a tls.Config.GetCertificate. One certificate serves every name: it
// never tells one hub's devices from another's.
func (c *certificates) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if now.Sub(c.looked) < fileCheck {
		return c.current, nil
	}
	c.looked = now
	if c.renew != nil && now.Add(renewBefore).After(c.current.Leaf.NotAfter) && now.Sub(c.renewed) >= renewTry {
		c.renewed = now
		if err := c.renew(); err != nil {
			c.log.Error("the server certificate could not be renewed", "notAfter", c.current.Leaf.NotAfter, "error", err)
		}
	}
	stamp := c.fileStamp()
	if stamp == c.stamp {
		return c.current, nil
	}
	c.stamp = stamp
	cert, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		c.log.Error("the new server certificate is not taken; the old one stays", "file", c.certFile, "error", err)
		return c.current, nil
	}
	c.current = &cert
	c.log.Info("server certificate reloaded", "file", c.certFile, "subject", cert.Leaf.Subject, "notAfter", cert.Leaf.NotAfter)
	return c.current, nil
}

func (c *certificates) fileStamp() string {
	stamp := ""
	for _, file := range []string{c.certFile, c.keyFile} {
		if info, err := os.Stat(file); err == nil {
			stamp += fmt.Sprint(info.ModTime().UnixNano(), info.Size(), ";")
		}
	}
	return stamp
}

// ownCertificate makes sure that the data folder holds a certificate for all the
// names, by the CA that is there, and gives its files. The certificate is made anew
// when a name is missing or its end is near; the CA is not, so that devices which
// trust it go on doing so.
func ownCertificate(folder string, names []string, now time.Time) (certFile, keyFile string, err error) {
	certFile, keyFile = filepath.Join(folder, ownCertFile), filepath.Join(folder, ownKeyFile)
	if cert, err := tls.LoadX509KeyPair(certFile, keyFile); err == nil {
		missing := slices.ContainsFunc(names, func(n string) bool { return cert.Leaf.VerifyHostname(n) != nil })
		if !missing && now.Add(renewBefore).Before(cert.Leaf.NotAfter) {
			return certFile, keyFile, nil
		}
	}
	ca, caKey, err := ownCA(folder)
	if err != nil {
		return "", "", err
	}
	leaf := &x509.Certificate{
		Subject:     pkix.Name{CommonName: names[0]},
		NotBefore:   now.Add(-time.Hour), // for devices whose clock is a little behind
		NotAfter:    now.AddDate(1, 0, 0),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if leaf.NotAfter.After(ca.NotAfter) {
		leaf.NotAfter = ca.NotAfter
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			leaf.IPAddresses = append(leaf.IPAddresses, ip)
		} else {
			leaf.DNSNames = append(leaf.DNSNames, name)
		}
	}
	// P-256, because the server signs once a handshake: 27 µs, where RSA-2048
	// takes 700.
	return certFile, keyFile, issue(leaf, ca, caKey, certFile, keyFile)
}

// The files in the data folder of a server that has a certificate of its own making.
const (
	ownCertFile, ownKeyFile     = "server.pem", "server.key"
	ownCACertFile, ownCAKeyFile = "server-ca.pem", "server-ca.key"
)

// beginCA makes the CA of a data folder that has had none, and otherwise sees that it
// is there. One that is made before its certificate is written has signed nothing.
func beginCA(folder string, now time.Time) error {
	for _, name := range []string{ownCACertFile, ownCertFile, ownKeyFile} {
		if _, err := os.Stat(filepath.Join(folder, name)); !errors.Is(err, fs.ErrNotExist) {
			_, _, err := ownCA(folder)
			return err
		}
	}
	return issue(&x509.Certificate{
		Subject:               pkix.Name{CommonName: "Signet server CA"},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.AddDate(10, 0, 0),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}, nil, nil, filepath.Join(folder, ownCACertFile), filepath.Join(folder, ownCAKeyFile))
}

// ownCA reads the CA. It refuses to go on without: devices trust this one, and would
// not find the server behind another.
func ownCA(folder string) (*x509.Certificate, crypto.Signer, error) {
	file := func(name string) string { return filepath.Join(folder, name) }
	pair, err := tls.LoadX509KeyPair(file(ownCACertFile), file(ownCAKeyFile))
	if missing, ok := errors.AsType[*fs.PathError](err); ok && errors.Is(err, fs.ErrNotExist) {
		return nil, nil, signet.Refuse(signet.Unavailable, "A file of the CA of the server's certificate, %s, is not there.", missing.Path).
			FixBy("Put it back. If it is lost, name %s and %s as tls_cert and tls_key to go on until that certificate ends; or move %s and these two elsewhere and start again: then a new CA is made, which devices have to trust.",
				file(ownCertFile), file(ownKeyFile), file(ownCACertFile))
	}
	if err != nil {
		return nil, nil, fmt.Errorf("server CA: %w", err)
	}
	return pair.Leaf, pair.PrivateKey.(crypto.Signer), nil
}

// issue makes a key and a certificate for it and writes both; without an issuer
// the certificate is self-signed. The key is written first: a certificate
// without its key would be taken for a whole pair.
func issue(template, issuer *x509.Certificate, issuerKey crypto.Signer, certFile, keyFile string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	if issuer == nil {
		issuer, issuerKey = template, key
	}
	serial := make([]byte, 20)
	rand.Read(serial)
	serial[0] = serial[0]&0x3f | 0x40 // positive and of 20 octets (RFC 5280 §4.1.2.2)
	template.SerialNumber = new(big.Int).SetBytes(serial)
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), issuerKey)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := writeFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600); err != nil {
		return err
	}
	return writeFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}

// half begins the names of files that are being written.
const half = ".new-"

// removeHalf removes from a folder what the end of a process has left half written: it
// may be of a key.
func removeHalf(folder string) error {
	files, err := os.ReadDir(folder)
	for _, f := range files {
		if f.Type().IsRegular() && strings.HasPrefix(f.Name(), half) {
			err = errors.Join(err, os.Remove(filepath.Join(folder, f.Name())))
		}
	}
	return err
}

// writeFile writes a file so that it is there whole or not at all, and stays
// after a power loss.
func writeFile(name string, data []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(name), half+"*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err = f.Write(data); err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
