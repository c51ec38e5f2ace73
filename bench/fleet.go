package bench

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/signet-iot/signet/pki"
)

// Fleet is the devices of a load and what signs them: a root, a factory below it,
// a line below that. It is a folder:
//
//	root.pem                the CA that the server has to trust
//	factory.pem, line.pem   with their keys, what signs the devices
//	server.pem, server.key  for a server that brings no certificate of its own,
//	                        for localhost and 127.0.0.1, signed by the root
//
// The keys in it are worth nothing but for a load, and last ten days.
type Fleet struct {
	Dir   string
	Roots *x509.CertPool // the root alone
	first int            // the device that the first pair is of
	pairs []tls.Certificate
}

const fleetDays = 10

// DeviceID names the devices of every load.
func DeviceID(n int) string { return fmt.Sprintf("bench-%06d", n) }

// RootFile is the CA that the server has to trust.
func (f *Fleet) RootFile() string { return filepath.Join(f.Dir, "root.pem") }

// id names device n of those that are open.
func (f *Fleet) id(n int) string { return DeviceID(f.first + n) }

// Pair is what device n presents: its certificate, the line's, the factory's; and
// its key.
func (f *Fleet) Pair(n int) tls.Certificate { return f.pairs[n] }

// Issuer opens one of the CAs of the fleet: "line", "factory" or "root".
func (f *Fleet) Issuer(name string) (*pki.CA, error) {
	pair, err := tls.LoadX509KeyPair(filepath.Join(f.Dir, name+".pem"), filepath.Join(f.Dir, name+".key"))
	if err != nil {
		return nil, err
	}
	var chain []*x509.Certificate
	for _, der := range pair.Certificate {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		chain = append(chain, c)
	}
	return pki.OpenCA(chain[0], chain, pair.PrivateKey.(crypto.Signer))
}

// OpenFleet opens the fleet in a folder, or makes it with keys of that type, and
// signs so many devices from the first on, each with a key of its own; those with
// RSA, which takes long to make, share one. A device of a folder has the same key and
// the same certificate every time, as one in the field has.
func OpenFleet(dir string, key pki.KeyType, first, devices int) (*Fleet, error) {
	if first < 0 || devices < 1 || first+devices > MaxDevices {
		return nil, fmt.Errorf("%d devices from %d on: there are %d, from 0 on", devices, first, MaxDevices)
	}
	f := &Fleet{Dir: dir, Roots: x509.NewCertPool(), first: first}
	if _, err := os.Stat(f.RootFile()); errors.Is(err, fs.ErrNotExist) {
		if err := f.make(key); err != nil {
			return nil, err
		}
	}
	root, err := os.ReadFile(f.RootFile())
	if err != nil {
		return nil, err
	}
	if !f.Roots.AppendCertsFromPEM(root) {
		return nil, fmt.Errorf("%s holds no certificate", f.RootFile())
	}
	line, err := f.Issuer("line")
	if err != nil {
		return nil, err
	}
	own, err := tls.LoadX509KeyPair(filepath.Join(dir, "device.pem"), filepath.Join(dir, "device.key"))
	if err != nil {
		return nil, err
	}
	for n := range devices {
		pair, err := again(line, f.id(n), own.PrivateKey.(crypto.Signer))
		if err != nil {
			return nil, err
		}
		f.pairs = append(f.pairs, pair)
	}
	return f, nil
}

// again signs a device as it was signed before: its key is derived from that of the
// folder's devices, if it has a curve, and nothing in its certificate is random.
func again(line *pki.CA, id string, private crypto.Signer) (pair tls.Certificate, err error) {
	if common, ok := private.(*ecdsa.PrivateKey); ok {
		secret, err := common.Bytes()
		if err != nil {
			return pair, err
		}
		if secret, err = hkdf.Key(sha256.New, secret, nil, id, len(secret)); err != nil {
			return pair, err
		}
		secret[0] &= byte(1<<((common.Params().BitSize+7)%8+1) - 1) // of P-521, one bit of the first octet
		if private, err = ecdsa.ParseRawPrivateKey(common.Curve, secret); err != nil {
			return pair, err
		}
	}
	serial := sha256.Sum256([]byte(id))
	der, err := x509.CreateCertificate(nil, &x509.Certificate{ // without chance, ECDSA signs as RFC 6979 has it
		SerialNumber: new(big.Int).SetBytes(serial[:16]), Subject: pkix.Name{CommonName: id},
		NotBefore: line.Certificate.NotBefore, NotAfter: line.Certificate.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, line.Certificate, private.Public(), line.Key)
	if err != nil {
		return pair, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return pair, err
	}
	return with(private, append([]*x509.Certificate{leaf}, line.Chain...)), nil
}

// Scatter puts each device below a factory and a line of its own, with keys of their own,
// that no server has seen.
func (f *Fleet) Scatter() error {
	root, err := f.Issuer("root")
	if err != nil {
		return err
	}
	now := time.Now()
	for n := range f.pairs {
		ca := root
		for _, name := range []string{"factory", "line"} {
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				return err
			}
			chain, err := ca.Intermediate(fmt.Sprint("Bench ", name, " of ", f.id(n)), key.Public(), pki.NoPathLength, now, fleetDays)
			if err != nil {
				return err
			}
			if ca, err = pki.OpenCA(chain[0], chain, key); err != nil {
				return err
			}
		}
		pair := &f.pairs[n]
		if *pair, err = present(ca, f.id(n), pair.PrivateKey.(crypto.Signer), now); err != nil {
			return err
		}
	}
	return nil
}

// present has a CA sign a device, and gives what that presents.
func present(ca *pki.CA, id string, private crypto.Signer, now time.Time) (pair tls.Certificate, err error) {
	chain, err := ca.Device(id, private.Public(), now, fleetDays)
	if err != nil {
		return pair, err
	}
	return with(private, chain), nil
}

// with gives what a device presents, and its key.
func with(private crypto.Signer, chain []*x509.Certificate) tls.Certificate {
	pair := tls.Certificate{PrivateKey: private, Leaf: chain[0]}
	for _, c := range chain {
		pair.Certificate = append(pair.Certificate, c.Raw)
	}
	return pair
}

// make makes the folder; root.pem, by which it counts as made, comes last.
func (f *Fleet) make(kind pki.KeyType) error {
	if err := os.MkdirAll(f.Dir, 0o700); err != nil {
		return err
	}
	keys := map[string]crypto.Signer{}
	for _, name := range []string{"root", "factory", "line", "device", "server"} {
		key, err := pki.GenerateKey(kind)
		if err != nil {
			return err
		}
		text, err := pki.MarshalKey(key, nil)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(f.Dir, name+".key"), text, 0o600); err != nil {
			return err
		}
		keys[name] = key
	}
	now := time.Now()
	root, err := pki.NewRoot("Bench Root", keys["root"], now, fleetDays)
	if err != nil {
		return err
	}
	ca := root
	for _, name := range []string{"factory", "line"} {
		chain, err := ca.Intermediate("Bench "+name, keys[name].Public(), pki.NoPathLength, now, fleetDays)
		if err != nil {
			return err
		}
		if ca, err = pki.OpenCA(chain[0], chain, keys[name]); err != nil {
			return err
		}
		if err := f.write(name+".pem", chain...); err != nil {
			return err
		}
	}
	device, err := ca.Device("bench", keys["device"].Public(), now, fleetDays)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "localhost"},
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: now.Add(-time.Hour), NotAfter: root.Certificate.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, root.Certificate, keys["server"].Public(), keys["root"])
	if err != nil {
		return err
	}
	server, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	return errors.Join(f.write("device.pem", device...), f.write("server.pem", server), f.write("root.pem", root.Certificate))
}

func (f *Fleet) write(name string, certs ...*x509.Certificate) error {
	var text []byte
	for _, c := range certs {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return os.WriteFile(filepath.Join(f.Dir, name), text, 0o644)
}

// verifyServer checks the certificate of a server as crypto/tls would.
func verifyServer(conf *tls.Config, state tls.ConnectionState) error {
	intermediates := x509.NewCertPool()
	for _, c := range state.PeerCertificates[1:] {
		intermediates.AddCert(c)
	}
	_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{DNSName: conf.ServerName, Roots: conf.RootCAs, Intermediates: intermediates})
	return err
}
