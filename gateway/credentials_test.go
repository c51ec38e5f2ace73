package gateway

import (
	"strings"
	"testing"

	"github.com/signet-iot/signet"
)

// TestCredentialRequest: what a request may say, and what is no request.
func TestCredentialRequest(t *testing.T) {
	for _, test := range []struct {
		body, field string // of the refusal; "" is taken
	}{
		{`{"id":"d","csr":"AAAA"}`, ""},
		{" {\"csr\":\"AAAA\",\"id\":\"d\",\"replace\":\"*\"}\n", ""},
		{`{"id":"d","csr":"AAAA","replace":"0b6e25f9-0d5e-4f0b-9f5a-36d5a1b7c001"}`, ""},
		{`{"id":"d","csr":"` + strings.Repeat("A", 8192) + `"}`, ""},
		{`{"id":"d","csr":"` + strings.Repeat("A", 8196) + `"}`, "csr"},
		{`{"id":"d","csr":"AAA"}`, "csr"},
		{`{"id":"d","csr":"AA\nAA"}`, "csr"},
		{`{"id":"d","csr":"AB=="}`, "csr"}, // bits beyond the last byte
		{`{"id":"d","csr":null}`, "csr"},
		{`{"id":"d","csr":["AAAA"]}`, "csr"},
		{`{"id":"d","CSR":"AAAA"}`, "payload"},
		{`{"id":"d","csr":"AAAA","csr":"BBBB"}`, "json"},
		{`{"id":"d","csr":"AAAA"}{}`, "json"},
		{`["id","d"]`, "json"},
		{`null`, "json"},
		{"{\"id\":\"d\xff\",\"csr\":\"AAAA\"}", "json"},
		{`{"id":"d","csr":"AAAA","replace":""}`, "replace"},
		{`{"id":"d","csr":"AAAA","replace":"abc"}`, "replace"},
		{`{"id":"d","csr":"AAAA","replace":"abc-"}`, "replace"},
		{`{"id":"d","csr":"AAAA","replace":"ab_d"}`, "replace"},
		{`{"id":"d","csr":"AAAA","replace":null}`, "replace"},
		{`{"id":"e","csr":"AAAA"}`, "id"},
		{strings.Repeat(" ", maxCredentialRequest+1), "payload"},
	} {
		_, err := parseCredentialRequest([]byte(test.body), "d")
		field := ""
		if e := signet.AsError(err); e != nil {
			if field = e.Field; e.Code != signet.RequestMalformed || !strings.HasPrefix(e.Message, "The request to issue a certificate ") || e.Fix == "" {
				t.Errorf("%.60q: %+v", test.body, e)
			}
		}
		if field != test.field {
			t.Errorf("%.60q: refused for %q, not %q: %v", test.body, field, test.field, err)
		}
	}
}

// FuzzCredentialRequest: whatever comes is taken or refused, and what is taken is
// for the device itself.
func FuzzCredentialRequest(f *testing.F) {
	f.Add([]byte(`{"id":"d","csr":"AAAA","replace":"*"}`))
	f.Add([]byte(`{"id":"d","csr":"AAAA","csr":"BBBB"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := parseCredentialRequest(body, "d")
		if err == nil && (len(r.CSR) == 0 || len(r.CSR) > maxCSRText || r.Replace != "" && r.Replace != "*" && !validRequestID(r.Replace)) {
			t.Errorf("taken: %+v", r)
		}
		if err != nil && signet.CodeOf(err) != signet.RequestMalformed {
			t.Error(err)
		}
	})
}
