package hubtest

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/signet-iot/signet/wire/mqtt"
)

// A Place is what a device hears of its registration.
type Place struct {
	OperationID string `json:"operationId"`
	Status      string `json:"status"`
	State       struct {
		AssignedHub            string   `json:"assignedHub"`
		DeviceID               string   `json:"deviceId"`
		Substatus              string   `json:"substatus"`
		ErrorCode              int      `json:"errorCode"`
		ErrorMessage           string   `json:"errorMessage"`
		IssuedCertificateChain [][]byte `json:"issuedCertificateChain"`
	} `json:"registrationState"`
	// Of a refusal.
	ErrorCode  int    `json:"errorCode"`
	TrackingID string `json:"trackingId"`
}

// Register has a device ask the service with that ID scope for its place, by MQTT,
// as the SDKs do: it asks again when it is told to. body is that of the
// registration. It may be called from any goroutine.
func (h *Hub) Register(scope, id string, conf *tls.Config, body string) (Place, error) {
	var place Place
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", h.MQTTAddr(), conf)
	if err != nil {
		return place, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	in := mqtt.NewClientReader(c, 1<<19)
	say := func(packet []byte) (mqtt.Packet, error) {
		if _, err := c.Write(packet); err != nil {
			return nil, err
		}
		return in.Next()
	}
	answer, err := say(mqtt.AppendConnect(nil, &mqtt.Connect{ProtocolName: "MQTT", Level: 4, KeepAlive: 60, ClientID: id, CleanSession: true,
		HasUsername: true, Username: scope + "/registrations/" + id + "/api-version=2025-07-01-preview&ClientVersion=hubtest"}))
	if err != nil {
		return place, err
	}
	if ack, ok := answer.(*mqtt.Connack); !ok || ack.Code != 0 {
		return place, fmt.Errorf("%+v where a CONNACK was due", answer)
	}
	if _, err := say(mqtt.AppendSubscribe(nil, &mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Subscription{{Filter: "$dps/registrations/res/#", QoS: 1}}})); err != nil {
		return place, err
	}
	topic := "$dps/registrations/PUT/iotdps-register/?$rid=1"
	for n := 2; ; n++ {
		answer, err := say(mqtt.AppendPublish(nil, &mqtt.Publish{Topic: topic, Payload: []byte(body)}))
		if err != nil {
			return place, err
		}
		p, ok := answer.(*mqtt.Publish)
		if !ok {
			return place, fmt.Errorf("%T where an answer was due", answer)
		}
		place = Place{}
		if err := json.Unmarshal(p.Payload, &place); err != nil {
			return place, fmt.Errorf("%s: %w", p.Payload, err)
		}
		status, query, _ := strings.Cut(strings.TrimPrefix(p.Topic, "$dps/registrations/res/"), "/?")
		values, err := url.ParseQuery(query)
		if err != nil {
			return place, err
		}
		seconds, _ := strconv.Atoi(values.Get("retry-after"))
		switch {
		case status == "202":
			topic = fmt.Sprintf("$dps/registrations/GET/iotdps-get-operationstatus/?$rid=%d&operationId=%s", n, place.OperationID)
			body = ""
		case status >= "429": // again, as it was
		default:
			return place, nil
		}
		time.Sleep(time.Duration(seconds) * time.Second)
	}
}
