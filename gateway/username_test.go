package gateway

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/signet-iot/signet"
)

// The forms that clients are known to send.
func TestUsername(t *testing.T) {
	for _, c := range []struct {
		who, clientID, text string
		want                username
	}{
		{"Node", "d1", "hub.example.test/d1/?api-version=2021-04-12&DeviceClientType=azure-iot-device%2F1.18.4%20(node%20v20.0.0%3B%20x64)",
			username{"hub.example.test", "d1", "", "2021-04-12", "", "azure-iot-device/1.18.4 (node v20.0.0; x64)"}},
		{"Node, with a model", "d1", "hub.example.test/d1/?api-version=2021-04-12&model-id=dtmi:com:example:T;1&DeviceClientType=x",
			username{"hub.example.test", "d1", "", "2021-04-12", "dtmi:com:example:T;1", "x"}},
		{"Node, a module", "d1/m1", "hub.example.test/d1/m1/?api-version=2021-04-12",
			username{"hub.example.test", "d1", "m1", "2021-04-12", "", ""}},
		{"Node, with a port", "d1", "hub.example.test:8884/d1/?api-version=2021-04-12",
			username{"hub.example.test:8884", "d1", "", "2021-04-12", "", ""}},
		{"C", "d1", "hub.example.test/d1/?api-version=2020-09-30&DeviceClientType=iothubclient%2f1.9.2%20(native%3b%20Linux)&model-id=dtmi%3acom%3bx%3b1",
			username{"hub.example.test", "d1", "", "2020-09-30", "dtmi:com;x;1", "iothubclient/1.9.2 (native; Linux)"}},
		{"Embedded C", "d1", "hub.example.test/d1/?api-version=2020-09-30&DeviceClientType=c%2F1.6.0",
			username{"hub.example.test", "d1", "", "2020-09-30", "", "c/1.6.0"}},
		{"C#, below an edge", "d1", "hub.example.test/d1/?api-version=2020-09-30&DeviceClientType=.NET%2F1.42&auth-chain=e1%3Be2",
			username{"hub.example.test", "d1", "", "2020-09-30", "", ".NET/1.42"}},
		{"Python", "d1", "hub.example.test/d1/?api-version=2019-10-01&DeviceClientType=azure-iot-device-iothub-py%2F2.12.0%28%29",
			username{"hub.example.test", "d1", "", "2019-10-01", "", "azure-iot-device-iothub-py/2.12.0()"}},
		{"an agent with raw slashes and spaces", "d1", "hub.example.test/d1/?api-version=2018-06-30&DeviceClientType=a/b c/?d",
			username{"hub.example.test", "d1", "", "2018-06-30", "", "a/b c/?d"}},
		{"old, without ?", "d1", "hub.example.test/d1/api-version=2016-11-14",
			username{"hub.example.test", "d1", "", "2016-11-14", "", ""}},
		{"old, a module, raw slash", "d1/m1", "hub.example.test/d1/m1/api-version=2016-11-14&DeviceClientType=iothubclient/1.1.24",
			username{"hub.example.test", "d1", "m1", "2016-11-14", "", "iothubclient/1.1.24"}},
		{"oldest", "d1", "hub.example.test/d1", username{"hub.example.test", "d1", "", "", "", ""}},
		{"oldest, with a slash", "d1", "hub.example.test/d1/", username{"hub.example.test", "d1", "", "", "", ""}},
		{"no slash before the query", "d1", "hub.example.test/d1?api-version=2021-04-12",
			username{"hub.example.test", "d1", "", "2021-04-12", "", ""}},
		{"the first of a repeated key wins, unknown ones are ignored", "d1", "h/d1/?x=y&api-version=1&api-version=2&API-VERSION=3",
			username{"h", "d1", "", "1", "", ""}},
		{"an ID of the strangest characters", "-:.%_*?!(),=@;$'", "h/-:.%_*?!(),=@;$'/?api-version=2021-04-12",
			username{"h", "-:.%_*?!(),=@;$'", "", "2021-04-12", "", ""}},
		{"an ID that looks like a query", "?api-version=1", "h/?api-version=1/?api-version=2",
			username{"h", "?api-version=1", "", "2", "", ""}},
	} {
		if got, err := parseUsername(c.text, c.clientID); err != nil || got != c.want {
			t.Errorf("%s\n got %+v, %v\nwant %+v", c.who, got, err, c.want)
		}
	}
}

func TestUsernameRefused(t *testing.T) {
	for _, c := range []struct{ why, clientID, text string }{
		{"nothing at all", "", ""},
		{"no host", "d1", "/d1/?api-version=2021-04-12"},
		{"a host alone", "d1", "hub.example.test"},
		{"no client ID", "", "h//?api-version=2021-04-12"},
		{"another device", "d2", "h/d1/?api-version=2021-04-12"},
		{"another case", "D1", "h/d1/?api-version=2021-04-12"},
		{"a device that begins alike", "d1", "h/d12/?api-version=2021-04-12"},
		{"a device for its module", "d1", "h/d1/m1/?api-version=2021-04-12"},
		{"the same, in the old form", "d1", "h/d1/m1/api-version=2016-11-14"},
		{"a module for its device", "d1/m1", "h/d1/?api-version=2021-04-12"},
		{"a module without a name", "d1/", "h/d1//?api-version=2021-04-12"},
		{"three levels", "d1/m1/x", "h/d1/m1/x/?api-version=2021-04-12"},
		{"a query of nothing known, without ?", "d1", "h/d1/x=y"},
		{"escapes in the identity", "d 1", "h/d%201/?api-version=2021-04-12"},
		{"an ID of 129 characters", strings.Repeat("a", 129), "h/" + strings.Repeat("a", 129) + "/?api-version=2021-04-12"},
		{"a wildcard", "d+", "h/d+/?api-version=2021-04-12"},
	} {
		if got, err := parseUsername(c.text, c.clientID); signet.CodeOf(err) != signet.RequestMalformed {
			t.Errorf("%s: %+v, %v", c.why, got, err)
		}
	}
}

// Whatever is let through names exactly the client ID, and is what the user name
// says.
func FuzzUsername(f *testing.F) {
	f.Add("d1", "hub.example.test/d1/?api-version=2021-04-12&DeviceClientType=a%2Fb")
	f.Add("d1/m1", "h/d1/m1/api-version=2016-11-14&DeviceClientType=a/b")
	f.Add("d1", "h/d1")
	f.Add("d?", "h/d?/?model-id=%ff&%")
	f.Fuzz(func(t *testing.T, clientID, text string) {
		u, err := parseUsername(text, clientID)
		if err != nil {
			if e := signet.AsError(err); e.Code != signet.RequestMalformed || len(e.Message) > 2048 {
				t.Fatalf("a refusal of %s, %d bytes", e.Code, len(e.Message))
			}
			return
		}
		name := signet.IdentityName(u.deviceID, u.moduleID)
		if name != clientID || !strings.HasPrefix(text, u.host+"/"+clientID) || u.host == "" {
			t.Fatalf("%q as %q became %+v", text, clientID, u)
		}
		if rest := strings.TrimPrefix(text, u.host+"/"+clientID); rest != "" && rest[0] != '/' && rest[0] != '?' {
			t.Fatalf("%q is taken for a device of a longer name, %q", clientID, text)
		}
		if utf8.ValidString(text) && !utf8.ValidString(u.apiVersion+u.modelID+u.client) {
			t.Fatalf("what is text became bytes: %+v", u)
		}
	})
}
