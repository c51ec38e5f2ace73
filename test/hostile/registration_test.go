package hostile_test

import (
	"crypto/x509"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/internal/hubtest"
	"github.com/signet-iot/signet/server"
	"github.com/signet-iot/signet/wire/mqtt"
)

func certificatePath(name, operation string) string {
	return "/subscriptions/s/resourceGroups/g/providers/Microsoft.Devices/IotHubs/" + tenant + "/certificates/" + name + operation + "?api-version=2023-06-30"
}

func upload(pem string) map[string]any { return map[string]any{"certificate": pem} }

// TestRegistration: what is refused as a CA, and what proves nothing.
func TestRegistration(t *testing.T) {
	var ahead atomic.Int64
	a := open(t, func(c *server.Config) {
		c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	named := 0
	name := func() string { named++; return fmt.Sprint("ca-", named) }
	put := func(t *testing.T, name string, ca *hubtest.CA, want int) map[string]any {
		t.Helper()
		status, answer := a.request(t, "PUT", certificatePath(name, ""), "", upload(hubtest.PEM(ca.Cert.Raw)))
		if status != want {
			t.Fatalf("PUT: %d, not %d: %v", status, want, answer)
		}
		return answer
	}
	// code gives a fresh verification code, and the etag to verify with.
	code := func(t *testing.T, name string) (code, etag string) {
		t.Helper()
		status, answer := a.request(t, "POST", certificatePath(name, "/generateVerificationCode"), "*", nil)
		if status != 200 {
			t.Fatalf("generateVerificationCode: %d %v", status, answer)
		}
		return answer["properties"].(map[string]any)["verificationCode"].(string), answer["etag"].(string)
	}
	verify := func(t *testing.T, name, etag, proof string) (int, signet.Code) {
		t.Helper()
		status, answer := a.request(t, "POST", certificatePath(name, "/verify"), etag, upload(proof))
		return status, refusalOf(answer)
	}

	for what, change := range map[string]hubtest.Option{
		"CA false":                      func(c *x509.Certificate) { c.IsCA = false },
		"no basic constraints":          func(c *x509.Certificate) { c.BasicConstraintsValid = false },
		"key usage without keyCertSign": func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature },
	} {
		a.line(t, what, func(t *testing.T) {
			if answer := put(t, name(), hubtest.NewCA(t, what, change), 400); refusalOf(answer) != signet.UploadNotACA {
				t.Errorf("%v", answer)
			}
		})
	}
	a.line(t, "no key usage", func(t *testing.T) {
		put(t, name(), hubtest.NewCA(t, "No Key Usage", func(c *x509.Certificate) { c.KeyUsage = 0 }), 201)
	})

	root, other := hubtest.NewCA(t, "Prover"), hubtest.NewCA(t, "Other")
	mine, theirs := name(), name()
	put(t, mine, root, 201)
	put(t, theirs, other, 201)
	old, _ := code(t, mine)
	theirCode, _ := code(t, theirs)
	fresh, etag := code(t, mine)
	for what, proof := range map[string]struct {
		pem  string
		code signet.Code
	}{
		"the code of another CA":    {root.Prove(t, theirCode), signet.ProofCodeMismatch},
		"an old code":               {root.Prove(t, old), signet.ProofCodeMismatch},
		"the CA's own certificate":  {hubtest.PEM(root.Cert.Raw), signet.ProofWrongSigner},
		"signed by another CA":      {other.Prove(t, fresh), signet.ProofWrongSigner},
		"with a private key beside": {root.Prove(t, fresh) + hubtest.KeyPEM(t, root.Key), signet.UploadPrivateKey},
	} {
		a.line(t, what, func(t *testing.T) {
			if status, code := verify(t, mine, etag, proof.pem); status != 400 || code != proof.code {
				t.Errorf("%d %s, not %s", status, code, proof.code)
			}
			if _, answer := a.request(t, "GET", certificatePath(mine, ""), "", nil); answer["properties"].(map[string]any)["isVerified"] != false {
				t.Errorf("it is verified: %v", answer)
			}
		})
	}
	a.line(t, "a device of an unverified CA", func(t *testing.T) {
		conf := a.device(t, "early", root.Intermediate(t, "Line").Device(t, "early"))
		if code := a.connect(t, conf, "early"); code != mqtt.ConnRefusedNotAuthorized {
			t.Errorf("CONNACK %d", code)
		}
		if v := a.verdict(t, "early"); v.Code != signet.AnchorUnverified {
			t.Errorf("the verdict is %q", v.Code)
		}
	})
	a.line(t, "eight verifications at once", func(t *testing.T) {
		proof := root.Prove(t, fresh)
		var mu sync.Mutex
		won := map[int]int{}
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				status, _ := verify(t, mine, etag, proof)
				mu.Lock()
				won[status]++
				mu.Unlock()
			})
		}
		all.Wait()
		if won[200] != 1 || won[412] != 7 {
			t.Errorf("answers: %v", won)
		}
		if code := a.connect(t, a.presenting(root.Intermediate(t, "Line").Device(t, "early")), "early"); code != mqtt.ConnAccepted {
			t.Errorf("CONNACK %d once the CA is verified", code)
		}
	})
	a.line(t, "the same certificate under two names", func(t *testing.T) {
		if answer := put(t, name(), root, 409); refusalOf(answer) != signet.UploadDuplicate {
			t.Errorf("%v", answer)
		}
	})
	a.line(t, "an expired CA", func(t *testing.T) {
		gone := hubtest.NewCA(t, "Gone", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
		if answer := put(t, name(), gone, 400); refusalOf(answer) != signet.UploadExpired {
			t.Errorf("%v", answer)
		}
	})
	a.line(t, "a CA expires after it was registered", func(t *testing.T) {
		expiring, short := name(), hubtest.NewCA(t, "Short", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(10 * time.Minute) })
		etag := put(t, expiring, short, 201)["etag"].(string)
		ahead.Store(int64(20 * time.Minute))
		if status, _ := a.request(t, "GET", certificatePath(expiring, ""), "", nil); status != 200 {
			t.Errorf("GET: %d", status)
		}
		if status, answer := a.request(t, "DELETE", certificatePath(expiring, ""), etag, nil); status != 200 {
			t.Errorf("DELETE: %d %v", status, answer)
		}
	})
}
