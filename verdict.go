package signet

import "time"

// A Verdict is a refusal in its circumstances: the [Error] and who, where and
// when. It is stored, logged and shown; it holds no key, token or body.
type Verdict struct {
	Error
	Step     Step      `json:"step"`
	Time     time.Time `json:"time"`
	Door     Door      `json:"door"`
	Remote   string    `json:"remote,omitempty"` // address of the peer, without the port
	Hub      string    `json:"hub,omitempty"`
	DeviceID string    `json:"deviceId,omitempty"`
	ModuleID string    `json:"moduleId,omitempty"`
	// Chain holds the SHA-256 thumbprints of what was presented, leaf first.
	Chain []string `json:"chain,omitempty"`
	// Count is how many refusals of the same kind this record stands for: one
	// that repeats is counted, not stored again.
	Count int64 `json:"count"`
	// LastTime is the time of the latest of them.
	LastTime time.Time `json:"lastTime"`
}

// A Door is a way into the server.
type Door string

// The doors.
const (
	DoorMQTT         Door = "mqtt"
	DoorMQTTWS       Door = "mqtt-ws"
	DoorAMQP         Door = "amqp"
	DoorAMQPWS       Door = "amqp-ws"
	DoorHTTPS        Door = "https"
	DoorService      Door = "service"
	DoorManagement   Door = "management"
	DoorProvisioning Door = "provisioning"
)
