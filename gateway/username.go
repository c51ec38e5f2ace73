package gateway

import (
	"strings"
	"unicode/utf8"

	"github.com/signet-iot/signet"
)

// A username is what a CONNECT says of the device in its user name:
//
//	{hub host name}/{device ID}[/{module ID}][/[?]{key}={value}[&…]]
//
// The SDKs write a query; the oldest clients leave out the "?" or all of it.
type username struct {
	host               string // as written; a port is the business of who compares it
	deviceID, moduleID string
	apiVersion         string // "" when missing: as the oldest
	modelID            string // of the device's Plug and Play model
	client             string // DeviceClientType: the SDK's name for itself
}

// parseUsername reads the user name of the client with this ID. The client ID is
// the identity, byte for byte; so it says where in the user name the identity
// ends, whatever characters it has.
func parseUsername(text, clientID string) (username, error) {
	var u username
	host, rest, ok := strings.Cut(text, "/")
	if !ok || host == "" {
		return u, signet.Refuse(signet.RequestMalformed, "The MQTT user name %q does not begin with a hub's host name and a device ID.", signet.Clip(text)).
			FixBy("Set the user name to {hub host name}/{device ID}/?api-version=2021-04-12, as the device SDKs do.")
	}
	u.host = host
	deviceID, moduleID, isModule := strings.Cut(clientID, "/")
	if !signet.ValidID(deviceID) || isModule && !signet.ValidID(moduleID) {
		return u, signet.Refuse(signet.RequestMalformed, "The MQTT client ID %q is neither a device ID nor a device ID, a slash and a module ID.", signet.Clip(clientID)).
			FixBy("Set the client ID to the device ID, as it is registered.")
	}
	u.deviceID, u.moduleID = deviceID, moduleID
	query, ok := strings.CutPrefix(rest, clientID)
	if ok {
		query, ok = cutQuery(query)
	}
	if !ok {
		return u, signet.Refuse(signet.RequestMalformed, "The MQTT user name and the client ID name different identities.").
			At("username", u.host+"/"+clientID+"/?api-version=…", text).
			FixBy("Use the device ID, or deviceId/moduleId, in both.")
	}
	for pair := range strings.SplitSeq(query, "&") {
		key, value, _ := strings.Cut(pair, "=")
		var field *string
		switch key {
		case "api-version":
			field = &u.apiVersion
		case "model-id":
			field = &u.modelID
		case "DeviceClientType":
			field = &u.client
		default:
			continue // unknown keys are ignored
		}
		if *field == "" { // the first wins
			*field = unescape(value)
		}
	}
	return u, nil
}

// cutQuery gives the query of what follows the identity. Without "?" it has to
// hold an api-version before any further slash, else it is not a query but
// another segment of the identity.
func cutQuery(rest string) (query string, ok bool) {
	if query, ok = strings.CutPrefix(rest, "?"); ok || rest == "" {
		return query, true
	}
	rest, ok = strings.CutPrefix(rest, "/")
	if !ok || rest == "" {
		return "", ok
	}
	if query, ok = strings.CutPrefix(rest, "?"); ok {
		return query, true
	}
	before, _, ok := strings.Cut(rest, "api-version=")
	return rest, ok && !strings.Contains(before, "/")
}

// unescape decodes percent-encoding as the vendor's own servers do: what is no
// escape, or would not be text, stays as it came; a plus is a plus.
func unescape(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	decoded := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			high, low := hexDigit(s[i+1]), hexDigit(s[i+2])
			if high >= 0 && low >= 0 {
				decoded = append(decoded, byte(high<<4|low))
				i += 2
				continue
			}
		}
		decoded = append(decoded, s[i])
	}
	if !utf8.Valid(decoded) {
		return s
	}
	return string(decoded)
}

func hexDigit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}
