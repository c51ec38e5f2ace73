package token_test

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/pki"
	"github.com/signet-iot/signet/token"
)

// softHSM makes a token of the software kind, and gives its library and a file
// with its PIN.
func softHSM(t *testing.T) (module, pin string) {
	t.Helper()
	if _, err := exec.LookPath("softhsm2-util"); err != nil {
		t.Skip("no softhsm2-util: install softhsm2 (test/prepare does, as root on Debian)")
	}
	modules, _ := filepath.Glob("/usr/lib/**/softhsm/libsofthsm2.so")
	if more, _ := filepath.Glob("/usr/lib/softhsm/libsofthsm2.so"); len(more) > 0 {
		modules = more
	}
	if len(modules) == 0 {
		t.Skip("libsofthsm2.so is not where Debian has it")
	}
	dir := t.TempDir()
	conf := filepath.Join(dir, "softhsm2.conf")
	if err := os.WriteFile(conf, []byte("directories.tokendir = "+dir+"\nobjectstore.backend = file\nlog.level = ERROR\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", conf)
	if out, err := exec.Command("softhsm2-util", "--init-token", "--free", "--label", "Acme CAs", "--pin", "4711", "--so-pin", "0815").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	pin = filepath.Join(dir, "pin")
	if err := os.WriteFile(pin, []byte("4711\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return modules[0], pin
}

func noPIN() ([]byte, error) { return nil, errors.New("the PIN was asked for") }

// TestToken: CAs whose keys are made in a token, and stay there, sign as others do.
func TestToken(t *testing.T) {
	module, pin := softHSM(t)
	at := func(object string) string {
		return "pkcs11:token=Acme%20CAs;object=" + object + "?module-path=" + module + "&pin-source=file:" + pin
	}
	now := time.Now()
	for _, kind := range []pki.KeyType{pki.P256, pki.P384, pki.RSA2048} {
		t.Run(string(kind), func(t *testing.T) {
			name := "root-" + string(kind)
			made, err := token.Make(at(name), kind, noPIN)
			if err != nil {
				t.Fatal(err)
			}
			root, err := pki.NewRoot("Acme Root", made, now, 30)
			if err != nil {
				t.Fatal(err)
			}
			made.Close()

			found, err := token.Open(at(name), noPIN)
			if err != nil {
				t.Fatal(err)
			}
			defer found.Close()
			ca, err := pki.OpenCA(root.Certificate, nil, found)
			if err != nil {
				t.Fatal(err)
			}
			var all sync.WaitGroup
			for n := range 20 {
				all.Go(func() {
					device, _ := pki.GenerateKey(pki.P256)
					chain, err := ca.Device(fmt.Sprint("press-", n), device.Public(), now, 8)
					if err != nil {
						t.Error(err)
						return
					}
					roots := x509.NewCertPool()
					roots.AddCert(root.Certificate)
					if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
			if _, err := token.Make(at(name), kind, noPIN); signet.CodeOf(err) != signet.KeyToken || !strings.Contains(err.Error(), "already") {
				t.Errorf("made twice: %v", err)
			}
		})
	}

	wrong := filepath.Join(t.TempDir(), "pin")
	os.WriteFile(wrong, []byte("1234\n"), 0o600)
	for name, uri := range map[string]string{
		"no such key":     at("root-p521"),
		"no such token":   strings.Replace(at("root-p256"), "Acme%20CAs", "Other", 1),
		"no such library": strings.Replace(at("root-p256"), module, "/nowhere.so", 1),
		"no library":      strings.Replace(at("root-p256"), module, wrong, 1),
		"a wrong PIN":     strings.Replace(at("root-p256"), pin, wrong, 1),
		"no PIN file":     strings.Replace(at("root-p256"), pin, "/nowhere", 1),
	} {
		k, err := token.Open(uri, noPIN)
		if signet.CodeOf(err) != signet.KeyToken || k != nil || strings.Contains(err.Error(), "4711") || strings.Contains(err.Error(), "1234") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := token.Make(at("edwards"), pki.Ed25519, noPIN); signet.CodeOf(err) != signet.KeyToken {
		t.Errorf("Ed25519: %v", err)
	}
	asked, err := token.Open(strings.SplitN(at("root-p256"), "&pin", 2)[0], func() ([]byte, error) { return []byte("4711"), nil })
	if err != nil {
		t.Fatal(err)
	}
	asked.Close()
	digest := sha256.Sum256(nil)
	if _, err := asked.Sign(rand.Reader, digest[:], crypto.SHA256); signet.CodeOf(err) != signet.KeyToken {
		t.Errorf("signed by a closed token: %v", err)
	}
}

func TestParse(t *testing.T) {
	const lib = "?module-path=/usr/lib/x.so"
	for uri, want := range map[string]token.Reference{
		"pkcs11:token=Acme;object=line" + lib:                                         {Token: "Acme", Object: "line", Module: "/usr/lib/x.so"},
		"pkcs11:serial=0a1b;id=%01%ff;type=private" + lib:                             {Serial: "0a1b", ID: []byte("\x01\xff"), Module: "/usr/lib/x.so"},
		" pkcs11:token=A%20%3B;object=a%2Fb" + lib + "&pin-source=file:///etc/pin\n":  {Token: "A ;", Object: "a/b", Module: "/usr/lib/x.so", PINFile: "/etc/pin"},
		"pkcs11:object=line;token=Acme?pin-source=/etc/pin&module-path=/usr/lib/x.so": {Token: "Acme", Object: "line", Module: "/usr/lib/x.so", PINFile: "/etc/pin"},
	} {
		r, err := token.Parse(uri)
		if err != nil || !reflect.DeepEqual(r, want) {
			t.Errorf("%s: %+v %v", uri, r, err)
		}
		if again, err := token.Parse(r.String()); err != nil || !reflect.DeepEqual(again, r) {
			t.Errorf("%s: %+v %v", r, again, err)
		}
	}
	for name, uri := range map[string]string{
		"a PIN in it":            "pkcs11:token=A;object=b" + lib + "&pin-value=4711",
		"an unknown attribute":   "pkcs11:token=A;object=b;manufacturer=c" + lib,
		"twice":                  "pkcs11:token=A;token=B;object=b" + lib,
		"both names of a token":  "pkcs11:token=A;serial=1;object=b" + lib,
		"no token":               "pkcs11:object=b" + lib,
		"no key":                 "pkcs11:token=A" + lib,
		"no library":             "pkcs11:token=A;object=b",
		"a library anywhere":     "pkcs11:token=A;object=b?module-path=x.so",
		"a public key":           "pkcs11:token=A;object=b;type=public" + lib,
		"a command for a PIN":    "pkcs11:token=A;object=b" + lib + "&pin-source=|cat",
		"badly encoded":          "pkcs11:token=%zz;object=b" + lib,
		"a NUL":                  "pkcs11:token=A%00;object=b" + lib,
		"a space":                "pkcs11:token=A b;object=b" + lib,
		"another scheme":         "file:/x",
		"nothing":                "",
		"longer than any can be": "pkcs11:token=" + strings.Repeat("A", 3000) + ";object=b" + lib,
	} {
		if _, err := token.Parse(uri); signet.CodeOf(err) != signet.KeyToken || strings.Contains(err.Error(), "4711") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("pkcs11:token=Acme;object=line?module-path=/usr/lib/x.so&pin-source=file:/etc/pin")
	f.Fuzz(func(t *testing.T, uri string) {
		r, err := token.Parse(uri)
		if err != nil {
			return
		}
		if again, err := token.Parse(r.String()); err != nil || !reflect.DeepEqual(again, r) {
			t.Errorf("%q: %+v is not %+v: %v", uri, again, r, err)
		}
	})
}
