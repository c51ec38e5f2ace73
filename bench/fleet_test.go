package bench

import (
	"bytes"
	"crypto/x509"
	"testing"
	"time"

	"github.com/signet-iot/signet/pki"
)

// A device is the same in each run, whatever the keys, and a hub takes its chain. In
// another folder it is another.
func TestFleetAgain(t *testing.T) {
	for _, kind := range []pki.KeyType{pki.P256, pki.P384, pki.P521, pki.Ed25519, pki.RSA2048} {
		t.Run(string(kind), func(t *testing.T) {
			dir := t.TempDir()
			open := func(dir string, first, n int) *Fleet {
				f, err := OpenFleet(dir, kind, first, n)
				if err != nil {
					t.Fatal(err)
				}
				return f
			}
			before, after, other := open(dir, 0, 3), open(dir, 2, 2), open(t.TempDir(), 2, 1)
			if a, b := before.Pair(2), after.Pair(0); !bytes.Equal(a.Leaf.Raw, b.Leaf.Raw) {
				t.Error("its certificate is another")
			}
			if a, b := after.Pair(0), after.Pair(1); bytes.Equal(a.Leaf.RawSubject, b.Leaf.RawSubject) || a.Leaf.SerialNumber.Cmp(b.Leaf.SerialNumber) == 0 {
				t.Error("two devices are one")
			}
			if a, b := after.Pair(0), other.Pair(0); bytes.Equal(a.Leaf.RawSubjectPublicKeyInfo, b.Leaf.RawSubjectPublicKeyInfo) {
				t.Error("two fleets have one key")
			}

			root, err := after.Issuer("root")
			if err != nil {
				t.Fatal(err)
			}
			var chain []*x509.Certificate
			for _, der := range after.Pair(1).Certificate {
				c, err := x509.ParseCertificate(der)
				if err != nil {
					t.Fatal(err)
				}
				chain = append(chain, c)
			}
			path, err := pki.NewAnchors([]*x509.Certificate{root.Certificate}).Validate(pki.PathRequest{Chain: chain, Time: time.Now(), Usage: pki.UsageClient, MaxDepth: -1})
			if err != nil || len(path) != 4 {
				t.Errorf("%d certificates, %v", len(path), err)
			}
			if err := pki.CheckCommonName(chain[0], DeviceID(3)); err != nil {
				t.Error(err)
			}
		})
	}
}
