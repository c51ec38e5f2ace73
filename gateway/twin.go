package gateway

import (
	"encoding/json"
	"log/slog"
	"strconv"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/wire/mqtt"
)

// maxRequestID bounds a $rid, which is echoed: SDKs write at most a UUID.
const maxRequestID = 256

// maxReads bounds how often a twin is read for one answer, when the device is told of
// later desired properties each time before it has that.
const maxReads = 4

// twin serves a twin request: the answer comes on another topic, besides the
// PUBACK that a request of QoS 1 gets. What is answered 204 is on disk.
func (c *conn) twin(r twinRequest, p *mqtt.Publish) error {
	if r.id == "" || len(r.id) > maxRequestID {
		return c.refuse(violation("", "a twin request without a usable $rid"))
	}
	c.counted.twins++
	for reads := 1; ; reads++ {
		status, more, body, desired, err := c.serveTwin(r, p.Payload, reads)
		if err != nil {
			ours := err.Code == signet.Internal || err.Code == signet.Unavailable
			if ours {
				c.door.log.Error("a twin request failed", "device", c.topics.prefix, "hub", c.session.Principal().Hub,
					"trackingId", err.TrackingID, "cause", err)
			}
			if (ours || err.Code == signet.LimitRate) && c.listens&toTwinResults == 0 && r.patch {
				return err // nobody hears that it was not stored: it must not look so
			}
			c.trace.Event("twin request refused", slog.String("code", string(err.Code)), slog.String("trackingId", err.TrackingID))
			status, body = c.twinError(err)
		}
		if reads == 1 {
			c.acknowledge(p)
		}
		if c.listens&toTwinResults == 0 {
			return nil // an answer that nobody has subscribed to is not sent
		}
		old := false
		c.say(func(dst []byte) []byte {
			if old = desired > 0 && desired < c.told; old {
				return dst // the device would take it for what is so now
			}
			// QoS 0 whatever was asked for: that fits every SDK. $rid comes first, as it came.
			return mqtt.AppendPublish(dst, &mqtt.Publish{Topic: twinResult + status + "/?$rid=" + r.id + more, Payload: body})
		})
		if !old {
			return nil
		}
	}
}

// serveTwin does what a request asks for; a twin may be read again. desired is the
// version of the desired properties that were read, 0 when none were.
func (c *conn) serveTwin(r twinRequest, payload []byte, reads int) (status, more string, body []byte, desired int64, _ *signet.Error) {
	fail := func(err error) (string, string, []byte, int64, *signet.Error) {
		e := *signet.AsError(err) // the original may be shared
		e.TrackingID = signet.NewTrackingID()
		return "", "", nil, 0, &e
	}
	if reads > maxReads {
		return fail(signet.Refuse(signet.Unavailable, "The twin changes faster than it can be read."))
	}
	if reads == 1 {
		if _, err := c.session.Meter(signet.MeterTwins, 1, 0); err != nil {
			return fail(err)
		}
	}
	switch {
	case r.patch && r.badVersion:
		return fail(signet.Refuse(signet.RequestMalformed, "The $version of the request is not a whole number from 1."))
	case r.patch:
		version, err := c.session.Report(c.door.ctx, payload, r.version)
		if err != nil {
			return fail(err)
		}
		return "204", "&$version=" + strconv.FormatInt(version, 10), nil, 0, nil
	}
	t, err := c.session.Twin(c.door.ctx)
	if err != nil {
		return fail(err)
	}
	return "200", "", twinDocument(&t), t.Desired.Version, nil
}

// twinDocument is a twin as a device is told it.
func twinDocument(t *signet.Twin) []byte {
	body := append(make([]byte, 0, len(t.Desired.Values)+len(t.Reported.Values)+80), `{"desired":`...)
	body = appendVersioned(body, t.Desired.Values, t.Desired.Version)
	body = append(body, `,"reported":`...)
	body = appendVersioned(body, t.Reported.Values, t.Reported.Version)
	return append(body, '}')
}

// appendVersioned writes a JSON object with the member $version added.
func appendVersioned(dst, object []byte, version int64) []byte {
	dst = append(dst, object[:len(object)-1]...)
	if len(object) > len("{}") {
		dst = append(dst, ',')
	}
	dst = append(dst, `"$version":`...)
	return append(strconv.AppendInt(dst, version, 10), '}')
}

// twinError tells a refusal as the SDKs understand it: Node looks at the body
// alone, and takes one without errorCode for success.
func (p *peer) twinError(e *signet.Error) (status string, body []byte) {
	number := 500001
	switch e.Code {
	case signet.TwinMalformed, signet.LimitTwinSize, signet.RequestMalformed:
		number = 400004
	case signet.IdentityUnknown:
		number = 404001
	case signet.ETagStale:
		number = 412001
	case signet.LimitRate:
		number = 429001
	case signet.Unavailable:
		number = 503001
	}
	body, _ = json.Marshal(struct {
		ErrorCode    int     `json:"errorCode"`
		TrackingID   string  `json:"trackingId"`
		Message      string  `json:"message"`
		Info         *string `json:"info"`
		TimestampUTC string  `json:"timestampUtc"`
	}{number, e.TrackingID, e.Message, nil, signet.AzureTime(p.door.now())})
	return strconv.Itoa(number / 1000), body
}

// kinds are the deliveries that subscriptions ask for.
func (s subscriptions) kinds() (k hub.Kinds) {
	if s&toTwinChanges != 0 {
		k |= hub.DesiredChanges
	}
	if s&toMethods != 0 {
		k |= hub.MethodCalls
	}
	return k
}

// fetchMail says the deliveries that wait, no more than a buffer's worth at a time:
// the writer comes back for the rest.
func (c *conn) fetchMail() {
	for {
		c.mu.Lock()
		c.unread = len(c.out) >= maxOut
		full := c.unread || c.mute
		c.mu.Unlock()
		if full {
			return
		}
		delivery, ok := c.session.Receive()
		if !ok {
			return
		}
		p, desired := &mqtt.Publish{}, int64(0)
		switch d := delivery.(type) {
		case hub.DesiredChange:
			desired = d.Version
			p.Topic = twinDesired + "?$version=" + strconv.FormatInt(d.Version, 10)
			p.Payload = appendVersioned(nil, d.Patch, d.Version)
		case hub.MethodCall:
			p.Topic, p.Payload = methodTopic(d.Method, d.RequestID), d.Payload
		}
		c.say(func(dst []byte) []byte {
			c.told = max(c.told, desired)
			return mqtt.AppendPublish(dst, p)
		})
	}
}
