package signet

import "math"

// Limits are what an operator lets a hub and each of its devices do in a second.
// The zero value limits nothing.
type Limits struct {
	Connections Rate `json:"connections"` // sessions that begin, and requests over HTTPS, each of which is judged as one
	Messages    Rate `json:"messages"`    // telemetry
	Twins       Rate `json:"twins"`       // reads and changes, of devices and back ends
	Methods     Rate `json:"methods"`     // direct method calls
	Registry    Rate `json:"registry"`    // operations on identities, items of bulk ones
}

// A Rate is so many a second, of a hub in all and of one device with its modules;
// 0 is without limit. In one go there may be as many as in a second, and at least
// one.
type Rate struct {
	PerHub    float64 `json:"perHub"`
	PerDevice float64 `json:"perDevice"`
}

// A Meter is what is counted against a Rate.
type Meter uint8

// The meters.
const (
	MeterConnections Meter = iota
	MeterMessages
	MeterTwins
	MeterMethods
	MeterRegistry
)

// Meters lists them.
var Meters = [...]Meter{MeterConnections, MeterMessages, MeterTwins, MeterMethods, MeterRegistry}

// String names the meter as Limits does.
func (m Meter) String() string {
	return [...]string{"connections", "messages", "twins", "methods", "registry"}[m]
}

// Rate gives the limit that a meter counts against.
func (l *Limits) Rate(m Meter) *Rate {
	return [...]*Rate{&l.Connections, &l.Messages, &l.Twins, &l.Methods, &l.Registry}[m]
}

// maxRate is more than any hub does, and minRate one in some two hours: slower is
// a mistake.
const (
	maxRate = 1e6
	minRate = 1e-4
)

// Check refuses, with [HubMalformed], what are no limits.
func (l *Limits) Check() error {
	for _, m := range Meters {
		for _, rate := range [...]float64{l.Rate(m).PerHub, l.Rate(m).PerDevice} {
			if math.IsNaN(rate) || rate != 0 && (rate < minRate || rate > maxRate) {
				return Refuse(HubMalformed, "The limit of %s is not a rate.", m).
					At(m.String(), "0 for none, or 0.0001 to 1000000 a second", "another number").FixBy("Give rates a second, 0 for none.")
			}
		}
	}
	return nil
}
