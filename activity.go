package signet

import "time"

// Activity is what is known of the connections of an identity. Times are zero
// for never.
type Activity struct {
	Hub, DeviceID, ModuleID string
	// GenerationID is that of the identity that was active.
	GenerationID      string
	Connected         bool
	ConnectionUpdated time.Time // when Connected changed
	LastActive        time.Time // when it last connected or sent, give or take half a minute
}
