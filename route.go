package signet

import (
	"slices"
	"strings"
	"time"
)

// A Route sends messages of a hub's log on to a webhook. Hub and Name are its key.
type Route struct {
	Hub  string `json:"-"`
	Name string `json:"name"` // 1 to 64 letters, digits and . _ -
	// Sources are what messages it takes come from; telemetry unless told.
	Sources MessageSources `json:"sources"`
	// DeviceID is of whose messages it takes: each * stands for any run of
	// characters; "" is any, and none.
	DeviceID string `json:"deviceId,omitempty"`
	// Properties are application properties that a message must have, all of them:
	// names in any case, values as they are.
	Properties map[string]string `json:"properties,omitempty"`

	URL string `json:"url"`
	// Secret signs what is sent: whsec_ and base64 of 24 to 64 bytes, as Standard
	// Webhooks have it. It is told once, to who made the route.
	Secret string `json:"secret,omitempty"`
	// AllowPrivate lets the URL be of http, and lead to a private address.
	AllowPrivate bool `json:"allowPrivate,omitempty"`
	// RetrySeconds is how long a message is tried before it is a dead letter.
	RetrySeconds int `json:"retrySeconds"`
	// From is when it begins; zero is with the oldest message that is kept.
	From    time.Time `json:"from,omitzero"`
	Created time.Time `json:"created"`
}

// Takes says whether a message is one of the route's.
func (r *Route) Takes(m *Message) bool {
	if !r.Sources.Has(SourceOf(m)) || r.DeviceID != "" && !matches(r.DeviceID, m.DeviceID) {
		return false
	}
	for name, value := range r.Properties {
		if !slices.ContainsFunc(m.Properties, func(p Property) bool {
			return !p.Null && p.Value == value && strings.EqualFold(p.Name, name)
		}) {
			return false
		}
	}
	return true
}

// matches says whether text is of a pattern, in which * is any run of characters.
func matches(pattern, text string) bool {
	parts := strings.Split(pattern, "*")
	last := len(parts) - 1
	if last == 0 {
		return pattern == text
	}
	rest, ok := strings.CutPrefix(text, parts[0])
	if !ok {
		return false
	}
	for _, part := range parts[1:last] {
		at := strings.Index(rest, part) // the first is as good as any
		if at < 0 {
			return false
		}
		rest = rest[at+len(part):]
	}
	return strings.HasSuffix(rest, parts[last])
}

// A DeadLetter is what a route could not deliver: messages of the log, by their
// places, one after the other.
type DeadLetter struct {
	ID        string    `json:"id"`
	First     Position  `json:"first"`
	Last      Position  `json:"last"`
	Messages  int       `json:"messages"`
	FirstTime time.Time `json:"firstTime"` // enqueued
	LastTime  time.Time `json:"lastTime"`
	Failed    time.Time `json:"failed"` // when it was given up, last
	Reason    string    `json:"reason"`
	// Replay is set while it waits to be sent again.
	Replay bool `json:"replay"`
}
