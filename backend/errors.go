package backend

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/wire/amqp"
)

// conditions translates codes into those that Azure's SDKs know
// (iot-hub-devguide-messages; event-hubs-amqp-troubleshoot). One that is not here is
// told as its family, the part before the dot, is.
var conditions = map[signet.Code]amqp.Symbol{
	"request":              argumentError,
	signet.RequestNotFound: amqp.NotFound,
	signet.RequestMethod:   amqp.NotAllowed,

	"limit":                 amqp.ResourceLimitExceeded, // the queue of a device is full: DeviceMaximumQueueDepthExceeded
	signet.LimitMessageSize: amqp.MessageSizeExceeded,
	signet.LimitRate:        "com.microsoft:device-container-throttled",

	"token":    amqp.UnauthorizedAccess,
	"hub":      amqp.NotFound,
	"identity": amqp.NotFound,

	"reader":               amqp.InvalidField,
	signet.ReaderPartition: argumentOutOfRange,
	signet.ReaderPosition:  argumentOutOfRange,
	signet.ReaderTakenOver: amqp.LinkStolen,

	"message":              argumentError,
	signet.MessageLockLost: "com.microsoft:message-lock-lost",
	signet.FilesNoStorage:  amqp.NotImplemented,

	"internal":         amqp.InternalError,
	signet.Unavailable: amqp.InternalError, // the SDKs try again
}

const (
	argumentError      amqp.Symbol = "com.microsoft:argument-error"
	argumentOutOfRange amqp.Symbol = "com.microsoft:argument-out-of-range"
)

func conditionOf(code signet.Code) amqp.Symbol {
	if c, ok := conditions[code]; ok {
		return c
	}
	family, _, _ := strings.Cut(string(code), ".")
	if c, ok := conditions[signet.Code(family)]; ok {
		return c
	}
	return amqp.InternalError
}

// judged puts a refusal on record as api does: that of a token is a verdict, our own
// failure is logged with its cause.
func (c *Conn) judged(err error) *signet.Error {
	e := *signet.AsError(err) // a copy: the original may be shared
	if e.TrackingID == "" {
		e.TrackingID = signet.NewTrackingID()
	}
	switch {
	case e.Code.Info().Step == signet.StepToken:
		e.TrackingID = c.Verdicts.Record(signet.Verdict{Error: e, Door: c.door, Remote: c.remote.Addr().Unmap().String(),
			Hub: c.hub.Name, Time: c.Now().UTC().Truncate(time.Millisecond)})
	case e.Code.Info().Step == signet.StepProcessing && c.ctx.Err() == nil:
		c.Logger.Error("a back end cannot be served by AMQP", "hub", c.hub.Name, "trackingId", e.TrackingID, "code", e.Code, "cause", e.Cause)
	default:
		c.Logger.Debug("a back end is refused by AMQP", "hub", c.hub.Name, "trackingId", e.TrackingID, "code", e.Code, "message", e.Message)
	}
	e.Cause = nil
	return &e
}

// refuse tells an error: its condition, and our code, sentence, fix and tracking ID
// in the description, which SDKs show.
func (c *Conn) refuse(err error) *amqp.Error {
	e, ok := errors.AsType[*signet.Error](err)
	if !ok || e.TrackingID == "" || e.Cause != nil {
		e = c.judged(err)
	}
	return &amqp.Error{Condition: conditionOf(e.Code), Description: describe(e),
		Info: amqp.Map{{Key: amqp.Symbol("com.microsoft:tracking-id"), Value: e.TrackingID}}}
}

func describe(e *signet.Error) string {
	return fmt.Sprintf("%s %s (%s) Tracking ID: %s", e.Message, e.Fix, e.Code, e.TrackingID)
}
