package signet_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/signet-iot/signet"
)

// Tokens as the SDKs write them: each orders and encodes the fields in its own
// way, and each signs the resource as it wrote it.
func TestSASTokenOfEachSDK(t *testing.T) {
	const key = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
	expiry := time.Unix(1_900_000_000, 0)
	made, err := signet.SignSAS("hub.example.test/devices/dev 1", "device", key, expiry)
	if err != nil {
		t.Fatal(err)
	}
	// sr, sig and se in other orders are the same token.
	fields := strings.Split(strings.TrimPrefix(made, "SharedAccessSignature "), "&")
	for _, order := range [][]int{{0, 1, 2, 3}, {0, 1, 3, 2}, {3, 2, 1, 0}} {
		var parts []string
		for _, i := range order {
			parts = append(parts, fields[i])
		}
		token, err := signet.ParseSASToken("SharedAccessSignature " + strings.Join(parts, "&"))
		if err != nil {
			t.Fatal(err)
		}
		if !token.SignedBy("", key) || token.SignedBy("bm90IHRoZSBrZXkgYXQgYWxsIQ==") || token.SignedBy("") {
			t.Error("the MAC is the key's and nobody else's")
		}
		if !token.Expiry.Equal(expiry) || token.Policy != "device" || token.Resource != "hub.example.test/devices/dev 1" {
			t.Errorf("read back %+v", token)
		}
	}
}

func TestSASTokenCovers(t *testing.T) {
	for _, c := range []struct {
		resource, host, path string
		want                 bool
	}{
		{"hub.test", "hub.test", "devices/a", true},
		{"HUB.test", "hub.test", "devices/a", true},
		{"hub.test:443", "hub.test", "", true},
		{"hub.test/devices/a", "hub.test", "devices/a", true},
		{"hub.test/devices/a/", "hub.test", "devices/a", true},
		{"hub.test/devices/a", "hub.test", "devices/a/modules/m", true},
		{"hub.test/devices/a", "hub.test", "devices/ab", false},
		{"hub.test/devices/ab", "hub.test", "devices/a", false},
		{"hub.test/devices/a/modules/m", "hub.test", "devices/a", false},
		{"hub.test/devices/A", "hub.test", "devices/a", false},
		{"other.test", "hub.test", "devices/a", false},
		{"hub.test.evil", "hub.test", "", false},
		{"", "hub.test", "", false},
	} {
		token := &signet.SASToken{Resource: c.resource}
		if got := token.Covers(c.host, c.path); got != c.want {
			t.Errorf("%q covers %q %q: %v", c.resource, c.host, c.path, got)
		}
	}
}

// TestSASTokenOneResource: one MAC is good for one resource, in whatever way that
// is written.
func TestSASTokenOneResource(t *testing.T) {
	key := base64.StdEncoding.EncodeToString([]byte("0123456789abcdef"))
	for _, signed := range []string{"h.test/devices/%61", "h.test/devices/a%40b", "h.test/devices/a", "h.test%2Fdevices%2Fa"} {
		mac := hmac.New(sha256.New, []byte("0123456789abcdef"))
		mac.Write([]byte(signed + "\n4000000000"))
		sig := url.QueryEscape(base64.StdEncoding.EncodeToString(mac.Sum(nil)))
		good := map[string]bool{}
		for _, written := range []string{signed, url.QueryEscape(signed)} {
			token, err := signet.ParseSASToken("SharedAccessSignature sr=" + written + "&sig=" + sig + "&se=4000000000")
			if err != nil {
				t.Fatal(err)
			}
			if token.SignedBy(key) {
				good[token.Resource] = true
			}
		}
		if len(good) != 1 {
			t.Errorf("the MAC over %q is good for %v", signed, good)
		}
	}
}

func TestSASTokenMalformed(t *testing.T) {
	for _, text := range []string{
		"", "SharedAccessSignature", "SharedAccessSignature ", "Bearer x", "SharedAccessSignaturesr=a&sig=YQ==&se=1",
		"SharedAccessSignature sr=a&se=1", "SharedAccessSignature sr=a&sig=YQ==", "SharedAccessSignature sig=YQ==&se=1",
		"SharedAccessSignature sr=a&sr=b&sig=YQ==&se=1", "SharedAccessSignature sr=%zz&sig=YQ==&se=1",
		"SharedAccessSignature sr=a&sig=!&se=1", "SharedAccessSignature sr=a&sig=YQ==&se=-1",
		"SharedAccessSignature sr=a&sig=YQ==&se=99999999999999999999", "SharedAccessSignature sr",
		"SharedAccessSignature sr=" + strings.Repeat("a", 4000) + "&sig=YQ==&se=1",
	} {
		if _, err := signet.ParseSASToken(text); signet.CodeOf(err) != signet.TokenMalformed {
			t.Errorf("%.60q: %v", text, err)
		}
	}
	// An expiry in milliseconds, as a Node client has been seen to send, is far
	// away and not an overflow.
	token, err := signet.ParseSASToken("SharedAccessSignature sr=a&sig=YQ==&se=1900000000000000")
	if err != nil || token.Expiry.Year() != 9999 {
		t.Errorf("%v %v", token, err)
	}
}

func FuzzParseSASToken(f *testing.F) {
	f.Add("SharedAccessSignature sr=hub.test%2fdevices%2fd&sig=YQ%3D%3D&se=1900000000&skn=device")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := signet.ParseSASToken(text)
		if err != nil {
			if signet.CodeOf(err) != signet.TokenMalformed {
				t.Fatal(err)
			}
			return
		}
		token.SignedBy("MDEyMzQ1Njc4OWFiY2RlZg==")
		token.Covers("hub.test", "devices/d")
	})
}

func TestConnectionString(t *testing.T) {
	const text = "HostName=hub.test;SharedAccessKeyName=iothubowner;SharedAccessKey=YWJj="
	c, err := signet.ParseConnectionString(text + "\n")
	if err != nil || c.SharedAccessKey != "YWJj=" || c.String() != text {
		t.Errorf("%+v %v", c, err)
	}
	if c, err := signet.ParseConnectionString("HostName=h;DeviceId=d;x509=true"); err != nil || !c.X509 || c.DeviceID != "d" {
		t.Errorf("%+v %v", c, err)
	}
	for _, text := range []string{"", "DeviceId=d", "HostName=h;SharedAccessKey"} {
		_, err := signet.ParseConnectionString(text)
		if signet.CodeOf(err) != signet.RequestMalformed {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestValidID(t *testing.T) {
	for id, want := range map[string]bool{
		"a": true, "press-17": true, "A.b_c%d*e?f!(g),h=i@j;k$l'm:n": true, strings.Repeat("x", 128): true,
		"": false, strings.Repeat("x", 129): false, "a/b": false, "a#": false, "a+": false, "a b": false,
		"a\x00": false, "ä": false, "a\xff": false, `a"`: false, "a\\b": false,
	} {
		if got := signet.ValidID(id); got != want {
			t.Errorf("%q: %v", id, got)
		}
	}
}

// TestCodes: each code stands once in the table, with a meaning and a fix.
func TestCodes(t *testing.T) {
	seen := map[signet.Code]bool{}
	for _, c := range signet.Codes {
		if seen[c.Code] || c.Meaning == "" || c.Fix == "" || c.Step == "" {
			t.Errorf("%+v", c)
		}
		seen[c.Code] = true
	}
	for _, fixed := range strings.Fields(`chain.none chain.too-long chain.malformed chain.issuer-missing chain.untrusted
		anchor.unverified anchor.expired cert.expired cert.not-yet-valid cert.not-a-ca cert.path-length cert.key-usage
		cert.ext-key-usage cert.name-constraints cert.unknown-critical cert.weak-key cert.weak-signature cert.bad-signature
		cert.revoked cert.revocation-unknown cert.is-ca-anchor cert.out-of-scope identity.cn-mismatch identity.unknown
		identity.disabled identity.auth-type identity.thumbprint proof.code-mismatch proof.wrong-signer proof.expired
		upload.private-key upload.not-a-ca upload.malformed request.malformed hub.unknown`) {
		if !seen[signet.Code(fixed)] {
			t.Errorf("%s is promised and not in the table", fixed)
		}
	}
}

// TestClip: what a client wrote is told short, and without what is secret in it.
func TestClip(t *testing.T) {
	for text, want := range map[string]string{
		"":                                    "",
		"press-17":                            "press-17",
		strings.Repeat("x", 128):              strings.Repeat("x", 128),
		strings.Repeat("x", 129):              strings.Repeat("x", 128) + "…",
		"SharedAccessSignature sr=h&sig=abc":  "SharedAccessSignature sr=h&sig=…",
		"HostName=h;SharedAccessKey=abc":      "HostName=h;SharedAccessKey=…",
		strings.Repeat("x", 126) + "&sig=abc": strings.Repeat("x", 126) + "&s…",
	} {
		if got := signet.Clip(text); got != want {
			t.Errorf("%q is told as %q", text, got)
		}
	}
}
