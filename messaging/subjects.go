package messaging

import (
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/signet-iot/signet"
)

// Every NATS subject of the house begins with the name of a hub, so that a
// permission, a purge or an import for "signet.HUB.>" takes in all of one hub
// and nothing of another. (The word before it is there because JetStream lets
// no stream begin with a wildcard.)
//
//	signet.HUB.telemetry.PARTITION   record batches of what devices send
const (
	telemetryStream   = "SIGNET_TELEMETRY"
	telemetrySubjects = "signet.*.telemetry.*"
)

func telemetrySubject(hub string, partition int) string {
	return "signet." + hub + ".telemetry." + strconv.Itoa(partition)
}

func telemetryOf(hub string) string { return "signet." + hub + ".telemetry.*" }

func everythingOf(hub string) string { return "signet." + hub + ".>" }

// checkHub refuses a name that would not be one plain token of a subject. The
// registry lets none through; a wildcard here would open every hub.
func checkHub(hub string) error {
	if hub == "" || len(hub) > 64 || strings.ContainsFunc(hub, func(r rune) bool {
		return r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	}) {
		return signet.Refuse(signet.HubMalformed, "%q cannot name a hub.", signet.Clip(hub))
	}
	return nil
}

// streamConfig is the telemetry stream as it is made new.
func streamConfig(maxAge time.Duration, maxBytes int64, replicas int) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        telemetryStream,
		Description: "Signet: telemetry, as record batches",
		Subjects:    []string{telemetrySubjects},
		Storage:     jetstream.FileStorage,
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardOld,
		MaxAge:      maxAge,
		MaxBytes:    maxBytes,
		Replicas:    replicas,
		DenyDelete:  true,
		// Not AllowDirect: a replica that lags would not know the latest that was
		// acknowledged.
	}
}
