package api

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
)

// The bounds of a direct method call; the seconds are Azure's
// (iot-hub-devguide-direct-methods).
const (
	maxMethodBody = hub.MaxMethodPayload + 4<<10 // in bytes: the payload, and what is around it
	maxMethodName = 128                          // in bytes

	minResponseSeconds, maxResponseSeconds, defaultResponseSeconds = 5, 300, 30
	maxConnectSeconds                                              = 300

	// methodMargin is how long before the caller's time is up it is answered: the
	// Node SDK gives up when the two time-outs have passed by its own clock.
	methodMargin = 500 * time.Millisecond
)

// methodJSON is Azure's CloudToDeviceMethod; a payload left out is null.
type methodJSON struct {
	MethodName               string          `json:"methodName"`
	Payload                  json.RawMessage `json:"payload"`
	ResponseTimeoutInSeconds *int            `json:"responseTimeoutInSeconds"`
	ConnectTimeoutInSeconds  *int            `json:"connectTimeoutInSeconds"`
}

// methodResultJSON is Azure's CloudToDeviceMethodResult.
type methodResultJSON struct {
	Status  int             `json:"status"`
	Payload json.RawMessage `json:"payload"` // null when there is none
}

// POST /twins/{id}[/modules/{module}]/methods calls a direct method, and answers
// 200 whatever status the device answered with.
func (c *call) invokeMethod() error {
	var body methodJSON
	if err := c.read(maxMethodBody, &body); err != nil {
		return err
	}
	if n := body.MethodName; n == "" || len(n) > maxMethodName || strings.ContainsFunc(n, func(r rune) bool { return r < ' ' || r == 0x7f || r == utf8.RuneError }) {
		return signet.Refuse(signet.RequestMalformed, "A method has a name of 1 to %d bytes.", maxMethodName).At("methodName", "a name", n)
	}
	if len(body.Payload) > hub.MaxMethodPayload {
		return signet.Refuse(signet.LimitRequestSize, "The payload has %d bytes.", len(body.Payload))
	}
	response, err := seconds("responseTimeoutInSeconds", body.ResponseTimeoutInSeconds, defaultResponseSeconds, minResponseSeconds, maxResponseSeconds)
	if err != nil {
		return err
	}
	connect, err := seconds("connectTimeoutInSeconds", body.ConnectTimeoutInSeconds, 0, 0, maxConnectSeconds)
	if err != nil {
		return err
	}

	// The server gives a request a minute; this one gets what it asks for.
	deadline := time.Now().Add(connect + response + time.Minute)
	writer := http.NewResponseController(c.w)
	writer.SetWriteDeadline(deadline)
	writer.SetReadDeadline(deadline) // its end would look like the caller's

	ctx, cancel := context.WithCancel(c.r.Context())
	defer cancel()
	defer context.AfterFunc(c.Draining, cancel)()
	result, err := c.Hub.Invoke(ctx, c.hub.Name, c.args["device"], c.args["module"], hub.Invocation{
		Method: body.MethodName, Payload: body.Payload,
		ConnectTimeout: connect, ResponseTimeout: response - methodMargin,
	})
	if err != nil && c.Draining.Err() != nil {
		return signet.Refuse(signet.Unavailable, "The server is shutting down.")
	}
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, methodResultJSON{result.Status, result.Payload})
}

func seconds(name string, given *int, otherwise, least, most int) (time.Duration, error) {
	n := otherwise
	if given != nil {
		n = *given
	}
	if n < least || n > most {
		return 0, signet.Refuse(signet.RequestMalformed, "%s should be from %d to %d, not %d.", name, least, most, n)
	}
	return time.Duration(n) * time.Second, nil
}
