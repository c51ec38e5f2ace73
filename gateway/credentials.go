package gateway

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/wire/mqtt"
)

const (
	// maxCSRText is Azure's bound on the CSR of a request, in characters of base64.
	maxCSRText = 8 << 10
	// maxCredentialRequest bounds the request, which besides has two IDs.
	maxCredentialRequest = 16 << 10
)

// credential serves a device's request for another certificate. It is answered
// twice: 202 when it is taken on, 200 with the chain once that is on record; a
// refusal takes the place of either. Who has not subscribed to the answers gets
// none: no certificate is issued that nobody would hear of.
func (c *conn) credential(query string, p *mqtt.Publish) error {
	id, _ := queryValue(query, "$rid")
	if id == "" || len(id) > maxRequestID {
		return c.refuse(violation("", "a request for a certificate without a usable $rid"))
	}
	if c.listens&toCredentials == 0 {
		c.trace.Event("a request for a certificate without a subscription to the answer")
		c.acknowledge(p)
		return nil
	}
	request, err := parseCredentialRequest(p.Payload, c.session.Principal().DeviceID)
	if err != nil {
		c.acknowledge(p)
		c.refuseCredential(id, "", err)
		return nil
	}
	request.RequestID = id
	correlation := ""
	renewed, err := c.session.Renew(c.door.ctx, request, func(receipt signet.RenewalReceipt) {
		correlation = receipt.CorrelationID
		c.acknowledge(p)
		c.sayCredential("202", id, struct {
			CorrelationID    string `json:"correlationId"`
			OperationExpires string `json:"operationExpires"`
		}{correlation, receipt.Expires.UTC().Format("2006-01-02T15:04:05.000000000Z")})
	})
	if correlation == "" {
		c.acknowledge(p)
	}
	if err != nil {
		c.refuseCredential(id, correlation, err)
		return nil
	}
	c.trace.Event("certificate renewed", slog.String("thumbprint", thumbprint(renewed.Chain[0])))
	c.sayRenewed(renewed)
	return nil
}

// parseCredentialRequest reads the body of a request: a JSON object with the
// members id, which is the device's own, csr and, if it likes, replace; these names
// as they stand, each once, and no other.
func parseCredentialRequest(body []byte, device string) (r signet.Renewal, err error) {
	refuse := func(field, fix, format string, args ...any) (signet.Renewal, error) {
		e := signet.Refuse(signet.RequestMalformed, "The request to issue a certificate "+format, args...).FixBy("%s", fix)
		e.Field = field
		return signet.Renewal{}, e
	}
	const whole = "Send a JSON object with id and csr."
	switch {
	case len(body) == 0:
		return refuse("payload", whole, "has no payload.")
	case len(body) > maxCredentialRequest:
		return refuse("payload", whole, "has %d bytes; at most %d are taken.", len(body), maxCredentialRequest)
	}
	members, err := jsonMembers(body)
	if err != nil {
		return refuse("json", whole, "cannot be read as JSON.")
	}
	texts := map[string]string{}
	for name, value := range members {
		switch name {
		case "id", "csr", "replace":
			var text *string
			if json.Unmarshal(value, &text) == nil && text != nil {
				texts[name] = *text
			} else {
				texts[name] = "" // no text: as if it were empty
			}
		default:
			return refuse("payload", "Send id, csr and replace only.", "has the unknown field %q.", signet.Clip(name))
		}
	}
	csr, id := texts["csr"], texts["id"]
	switch {
	case csr == "":
		return refuse("csr", "Send the certificate signing request as base64 of its DER in csr.", "has an invalid or missing csr.")
	case len(csr) > maxCSRText:
		return refuse("csr", "Send a certificate signing request of at most 8 KB of base64.", "has a csr that exceeds the maximum length of %d.", maxCSRText)
	case id == "":
		return refuse("id", "Send the device ID in id.", "has an invalid or missing id.")
	case id != device:
		return refuse("id", "Send the ID of the device that is connected.", "has an id that does not match the authenticated device.")
	}
	if r.CSR, err = base64.StdEncoding.Strict().DecodeString(csr); err != nil || strings.ContainsAny(csr, "\r\n") {
		return refuse("csr", "Send the certificate signing request as base64 of its DER, without line breaks.", "has a csr that is not valid base64.")
	}
	if replace, ok := texts["replace"]; ok {
		if replace != "*" && !validRequestID(replace) {
			return refuse("replace", `Send "*", or a request ID of 4 to 36 letters, digits and hyphens that neither begins nor ends with a hyphen.`, "has a replace of an invalid format.")
		}
		r.Replace = replace
	}
	return r, nil
}

// validRequestID says whether a request can be named in replace.
func validRequestID(id string) bool {
	if len(id) < 4 || len(id) > 36 || id[0] == '-' || id[len(id)-1] == '-' {
		return false
	}
	for i := range len(id) {
		if c := id[i]; !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-') {
			return false
		}
	}
	return true
}

var errNotOneObject = errors.New("not one JSON object, of UTF-8 and with each member once")

// jsonMembers reads the members of a JSON object by their names as they stand;
// encoding/json itself would not mind their case, and take the last of two.
func jsonMembers(text []byte) (map[string]json.RawMessage, error) {
	if !utf8.Valid(text) {
		return nil, errNotOneObject
	}
	d := json.NewDecoder(bytes.NewReader(text))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errNotOneObject
	}
	members := map[string]json.RawMessage{}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, errNotOneObject
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, errNotOneObject
		}
		key, _ := name.(string) // the only token there can be here
		if _, twice := members[key]; twice {
			return nil, errNotOneObject
		}
		members[key] = value
	}
	if _, err := d.Token(); err != nil {
		return nil, errNotOneObject
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errNotOneObject
	}
	return members, nil
}

// refuseCredential tells a refusal by Azure's numbers, of which SDKs read the first
// three digits. It is recorded, unless it is a fault of our own.
func (c *conn) refuseCredential(id, correlation string, err error) {
	e := *signet.AsError(err) // the original may be shared
	number, retryAfter := credentialNumber(&e, correlation != "")
	if number >= 500000 {
		e.TrackingID = signet.NewTrackingID()
		c.door.log.Error("a request for a certificate failed", "device", c.topics.prefix, "hub", c.session.Principal().Hub,
			"trackingId", e.TrackingID, "cause", err)
	} else {
		c.refuse(&e)
	}
	c.trace.Event("request for a certificate refused", slog.String("code", string(e.Code)), slog.String("trackingId", e.TrackingID))
	body := struct {
		ErrorCode    int               `json:"errorCode"`
		Message      string            `json:"message"`
		TrackingID   string            `json:"trackingId"`
		TimestampUTC string            `json:"timestampUtc"`
		RetryAfter   int               `json:"retryAfter,omitempty"` // seconds
		Info         map[string]string `json:"info,omitempty"`
	}{number, e.Message, e.TrackingID, signet.AzureTime(c.door.now()), retryAfter, nil}
	if e.Fix != "" {
		body.Message += " " + e.Fix
	}
	switch {
	case correlation != "":
		body.Info = map[string]string{"correlationId": correlation, "credentialError": "400000", "credentialMessage": e.Message}
	case e.Code == signet.IssuancePending:
		body.Info = map[string]string{"requestId": e.Expected}
	}
	c.sayCredential(strconv.Itoa(number/1000), id, body)
}

// credentialNumber gives the number of a refusal, and after how many seconds it may
// be tried again, where that helps.
func credentialNumber(e *signet.Error, taken bool) (number, retryAfter int) {
	switch e.Code {
	case signet.RequestMalformed:
		if e.Field == "json" {
			return 400006, 0
		}
		return 400004, 0
	case signet.CSRMalformed, signet.CSRName, signet.CSRForbidden, signet.CSRKeyType, signet.CSRKeyUsed, signet.CertWeakKey:
		if taken {
			return 400037, 0
		}
		return 400004, 0
	case signet.IdentityUnknown:
		return 404001, 0
	case signet.IssuancePending:
		return 409004, 0
	case signet.IssuanceNothingPending:
		return 412001, 0
	case signet.LimitIssuance:
		return 429002, 360
	case signet.Unavailable:
		return 503001, 5
	case signet.Internal:
		return 500001, 300
	}
	return 403010, 0 // by the policy, or by what the hub trusts
}

// sayRenewed says the outcome of a renewal.
func (c *conn) sayRenewed(r signet.Renewed) {
	body := struct {
		CorrelationID string   `json:"correlationId"`
		Certificates  [][]byte `json:"certificates"` // base64 of DER, leaf first, root last
	}{CorrelationID: r.CorrelationID}
	for _, cert := range r.Chain {
		body.Certificates = append(body.Certificates, cert.Raw)
	}
	c.sayCredential("200", r.RequestID, body)
}

// sayCredential answers with QoS 0, as Azure does.
func (c *conn) sayCredential(status, id string, body any) {
	text, _ := json.Marshal(body)
	c.say(func(dst []byte) []byte {
		return mqtt.AppendPublish(dst, &mqtt.Publish{Topic: credentialResult + status + "/?$rid=" + id, Payload: text})
	})
}

// missedCredential says the outcome of a renewal to a device that has come back
// with the certificate of before it: when the device subscribes to such answers.
func (c *conn) missedCredential() {
	renewed, some, err := c.session.Renewed(c.door.ctx)
	if err != nil {
		c.door.log.Warn("the outcome of a renewal cannot be told", "device", c.topics.prefix, "error", err)
	} else if some {
		c.sayRenewed(renewed)
	}
}
