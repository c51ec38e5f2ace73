package signet_test

import (
	"testing"

	"github.com/signet-iot/signet"
)

// TestRouteTakes: what a route takes of a hub's log.
func TestRouteTakes(t *testing.T) {
	telemetry := signet.Message{DeviceID: "press-17", Source: signet.SourceTelemetry,
		Properties: []signet.Property{{Name: "Level", Value: "red"}, {Name: "flag", Null: true}}}
	expiry := signet.Message{Source: signet.SourceExpiry}
	for name, c := range map[string]struct {
		r    signet.Route
		m    signet.Message
		want bool
	}{
		"its source":                  {signet.Route{Sources: signet.FromTelemetry}, telemetry, true},
		"another":                     {signet.Route{Sources: signet.FromAll &^ signet.FromTelemetry}, telemetry, false},
		"what the hub says of itself": {signet.Route{Sources: signet.FromOthers}, expiry, true},
		"a device by name":            {signet.Route{Sources: signet.FromAll, DeviceID: "press-17"}, telemetry, true},
		"a longer name":               {signet.Route{Sources: signet.FromAll, DeviceID: "press-170"}, telemetry, false},
		"a pattern":                   {signet.Route{Sources: signet.FromAll, DeviceID: "pr*s*-1*"}, telemetry, true},
		"its ends overlap":            {signet.Route{Sources: signet.FromAll, DeviceID: "press-17*-17"}, telemetry, false},
		"a pattern in another case":   {signet.Route{Sources: signet.FromAll, DeviceID: "Press-*"}, telemetry, false},
		"any":                         {signet.Route{Sources: signet.FromAll, DeviceID: "*"}, telemetry, true},
		"the end":                     {signet.Route{Sources: signet.FromAll, DeviceID: "*17"}, telemetry, true},
		"not the middle":              {signet.Route{Sources: signet.FromAll, DeviceID: "*x*"}, telemetry, false},
		"no device":                   {signet.Route{Sources: signet.FromAll, DeviceID: "a*"}, expiry, false},
		"a property in any case":      {signet.Route{Sources: signet.FromAll, Properties: map[string]string{"level": "red"}}, telemetry, true},
		"its value in another":        {signet.Route{Sources: signet.FromAll, Properties: map[string]string{"level": "Red"}}, telemetry, false},
		"one of two":                  {signet.Route{Sources: signet.FromAll, Properties: map[string]string{"level": "red", "line": "4"}}, telemetry, false},
		"no value is not an empty":    {signet.Route{Sources: signet.FromAll, Properties: map[string]string{"flag": ""}}, telemetry, false},
	} {
		if got := c.r.Takes(&c.m); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// TestSources: their names, both ways.
func TestSources(t *testing.T) {
	for text, want := range map[string]string{"": "telemetry,lifecycle,twin,connection,other", "twin": "twin", "Twin, telemetry": "telemetry,twin", "other,other": "other"} {
		if s, err := signet.ParseSources(text); err != nil || s.String() != want {
			t.Errorf("%q: %q %v", text, s, err)
		}
	}
	for _, text := range []string{"weather", "twin,", ","} {
		if s, err := signet.ParseSources(text); signet.CodeOf(err) != signet.RequestMalformed {
			t.Errorf("%q: %q %v", text, s, err)
		}
	}
}
