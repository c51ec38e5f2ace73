package signet

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// A SASToken is a shared access signature: a resource, an expiry and a MAC over
// both by the key of a policy or of a device.
//
//	SharedAccessSignature sr={resource}&sig={mac}&se={unix seconds}[&skn={policy}]
type SASToken struct {
	Resource string    // decoded: "{host}", "{host}/devices/{id}", "{host}/devices/{d}/modules/{m}"
	Policy   string    // skn; empty when a device's own key signed
	Expiry   time.Time // se

	rawResource string // sr as it came: SDKs encode it each in their own way and sign what they wrote
	rawExpiry   string
	mac         []byte
}

const sasScheme = "SharedAccessSignature"

// maxSASToken bounds a token in bytes: host, two IDs of 128 characters three
// times longer by encoding, a MAC, and slack.
const maxSASToken = 2048

// ParseSASToken reads a token in any order of its fields. It refuses with
// [TokenMalformed]; it checks neither MAC nor expiry.
func ParseSASToken(text string) (*SASToken, error) {
	malformed := func(why string) error {
		return Refuse(TokenMalformed, "The SAS token is malformed: %s.", why)
	}
	if len(text) > maxSASToken {
		return nil, malformed("it is too long")
	}
	fields, ok := strings.CutPrefix(text, sasScheme)
	if !ok || !strings.HasPrefix(fields, " ") {
		return nil, malformed(`it does not begin with "SharedAccessSignature "`)
	}
	t := &SASToken{}
	seen := map[string]bool{}
	for field := range strings.SplitSeq(strings.TrimSpace(fields), "&") {
		key, raw, ok := strings.Cut(field, "=")
		if !ok || seen[key] {
			return nil, malformed("a field is repeated or has no value")
		}
		seen[key] = true
		// Percent-decoding only: a + in base64 comes as itself or as %2B.
		value, err := url.PathUnescape(raw)
		if err != nil {
			return nil, malformed("a field is badly encoded")
		}
		switch key {
		case "sr":
			t.Resource, t.rawResource = value, raw
		case "sig":
			if t.mac, err = base64.StdEncoding.DecodeString(value); err != nil {
				return nil, malformed("sig is not base64")
			}
		case "se":
			seconds, err := strconv.ParseInt(value, 10, 64)
			// The Node SDK has been seen to send an expiry in milliseconds; the year
			// 9999 bounds what time.Time can print.
			if err != nil || seconds < 0 {
				return nil, malformed("se is not a time")
			}
			t.Expiry, t.rawExpiry = time.Unix(min(seconds, 253402300799), 0).UTC(), raw
		case "skn":
			t.Policy = value
		}
	}
	if t.Resource == "" || len(t.mac) == 0 || t.rawExpiry == "" {
		return nil, malformed("sr, sig or se is missing")
	}
	return t, nil
}

// SignedBy says whether one of the base64 keys made the token's MAC. An empty or
// undecodable key never did. It takes the same time for a right and a wrong key.
//
// The resource may be signed as it is written or decoded. But a text with a % is
// signed only as written: else one MAC would be good for "%61", an ID that there
// can be, and for the "a" that it decodes to.
func (t *SASToken) SignedBy(keys ...string) bool {
	signed := false
	for _, key := range keys {
		k, err := base64.StdEncoding.DecodeString(key)
		if err == nil && t.signedBy(k) {
			signed = true
		}
	}
	return signed
}

// SignedByText says whether one of the keys made the token's MAC as it is written:
// the SDKs of Event Hubs do not decode a key.
func (t *SASToken) SignedByText(keys ...string) bool {
	signed := false
	for _, key := range keys {
		if t.signedBy([]byte(key)) {
			signed = true
		}
	}
	return signed
}

func (t *SASToken) signedBy(key []byte) bool {
	texts := []string{t.rawResource}
	if !strings.Contains(t.Resource, "%") {
		texts = append(texts, t.Resource)
	}
	signed := false
	for _, resource := range texts {
		if len(key) > 0 && hmac.Equal(t.mac, sasMAC(key, resource, t.rawExpiry)) {
			signed = true
		}
	}
	return signed
}

// Covers says whether the token's resource is the one asked for or one above it:
// a path prefix that ends at a segment border, the host compared without case.
func (t *SASToken) Covers(host, path string) bool {
	tokenHost, tokenPath, _ := strings.Cut(t.Resource, "/")
	if !strings.EqualFold(HostOnly(tokenHost), host) {
		return false
	}
	path = strings.Trim(path, "/")
	tokenPath = strings.Trim(tokenPath, "/")
	return tokenPath == "" || path == tokenPath || strings.HasPrefix(path, tokenPath+"/")
}

// Until says when the token ends for the hub, or refuses with [TokenExpired].
func (t *SASToken) Until(now time.Time) (time.Time, error) {
	ends := t.Expiry.Add(SASClockSkew)
	if !now.Before(ends) {
		const layout = "2006-01-02T15:04:05Z"
		return ends, Refuse(TokenExpired, "The SAS token expired at %s.", t.Expiry.Format(layout)).
			At("se", "a time to come", t.Expiry.Format(layout))
	}
	return ends, nil
}

// SASClockSkew is how long past its expiry a token is still taken, for clocks
// that are apart.
const SASClockSkew = 5 * time.Minute

// SignSAS makes a token for resource with a base64 key.
func SignSAS(resource, policy, key string, expiry time.Time) (string, error) {
	k, err := base64.StdEncoding.DecodeString(key)
	if err != nil || len(k) == 0 {
		return "", Refuse(TokenMalformed, "The shared access key is not base64.")
	}
	escape := func(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") } // as encodeURIComponent
	sr := escape(resource)
	se := strconv.FormatInt(expiry.Unix(), 10)
	token := sasScheme + " sr=" + sr + "&sig=" + escape(base64.StdEncoding.EncodeToString(sasMAC(k, sr, se))) + "&se=" + se
	if policy != "" {
		token += "&skn=" + escape(policy)
	}
	return token, nil
}

func sasMAC(key []byte, resource, expiry string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(resource + "\n" + expiry))
	return m.Sum(nil)
}

// HostOnly strips a port from a host name and puts it in lower case, without a
// trailing dot.
func HostOnly(host string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.Contains(host[i:], "]") {
		host = host[:i]
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}
