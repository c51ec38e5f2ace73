package bench

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/signet-iot/signet/wire/mqtt"
)

// RegisterOptions of [Register].
type RegisterOptions struct {
	IDScope string // of the provisioning service
	// Limit is when those that have no place yet give up.
	Limit time.Duration
}

// The conversation about a registration, as the SDKs have it.
const (
	registerTopic  = "$dps/registrations/PUT/iotdps-register/?$rid=1"
	operationTopic = "$dps/registrations/GET/iotdps-get-operationstatus/?$rid=1&operationId="
	resultTopic    = "$dps/registrations/res/"

	// pollTime is how long they wait where the service names no time.
	pollTime = 2 * time.Second
)

// unheard is the failure of a device that the service has told nothing final.
const unheard = "no answer in time"

// Register has all devices of the fleet ask a provisioning service for their place
// at once, and each ask again when it is told to. A device whose connection fails
// comes again, after up to a second. An operation is a device that is assigned;
// what is waited for is that answer, from the moment at which all begin, and the
// time in all is that of the last of them. What the service refuses is no error
// but counted in Failures, by the status of its answer, or by that of the
// registration and its error code; the server's work for them is in CPU. When the
// service answers nobody, that is an error.
func Register(ctx context.Context, t *Target, f *Fleet, o RegisterOptions) (r Result, err error) {
	if o.IDScope == "" || strings.ContainsAny(o.IDScope, "/+#") {
		return r, errors.New("the ID scope of the provisioning service has to be given")
	}
	if o.Limit <= 0 || o.Limit > MaxTime {
		return r, fmt.Errorf("a load may last %v", MaxTime)
	}
	rush, give := context.WithTimeout(ctx, o.Limit)
	defer give()
	var took waits
	var retries atomic.Int64
	var mu sync.Mutex
	var last error // of a connection
	r.Failures = map[string]int{}
	process := process(t.PID)
	used, began := process.cpu(), time.Now()
	var all sync.WaitGroup
	for n := range f.pairs {
		all.Go(func() {
			for {
				failure, err := t.register(rush, f, n, o.IDScope, &retries)
				switch {
				case err == nil && failure == "":
					took.add(time.Since(began))
					return
				case err != nil && pause(rush, rand.N(time.Second)) == nil:
					retries.Add(1)
					mu.Lock()
					last = err
					mu.Unlock()
					continue
				}
				mu.Lock()
				defer mu.Unlock()
				r.Failures[cmp.Or(failure, unheard)]++
				return
			}
		})
	}
	all.Wait()
	if err := ctx.Err(); err != nil {
		return r, err
	}
	if r.Failures[unheard] == len(f.pairs) {
		return r, fmt.Errorf("no device was answered in %v: %w", o.Limit, cmp.Or(last, rush.Err()))
	}
	took.tell(&r)
	r.measured("register", len(took.all), time.Duration(r.Max*float64(time.Millisecond)))
	r.CPU = (process.cpu() - used) / float64(max(len(took.all), 1))
	r.Retries = int(retries.Load())
	return r, nil
}

// register has device n ask for its place, until it has one or is told that it
// gets none: that is the failure. An error is of the connection.
func (t *Target) register(ctx context.Context, f *Fleet, n int, scope string, retries *atomic.Int64) (failure string, err error) {
	id := f.id(n)
	d, err := t.dialAs(ctx, f, n, scope+"/registrations/"+id+"/api-version=2019-03-31")
	if err != nil {
		return "", err
	}
	defer d.leave()
	defer context.AfterFunc(ctx, func() { d.conn.NetConn().Close() })()
	subscribe := mqtt.AppendSubscribe(nil, &mqtt.Subscribe{PacketID: 1, Filters: []mqtt.Subscription{{Filter: resultTopic + "#", QoS: 1}}})
	if _, err := d.conn.Write(subscribe); err != nil {
		return "", err
	}
	if answer, err := d.in.Next(); err != nil {
		return "", err
	} else if _, ok := answer.(*mqtt.Suback); !ok {
		return "", fmt.Errorf("device %s got %T where a SUBACK was due", id, answer)
	}
	topic, body := registerTopic, []byte(`{"registrationId":"`+id+`"}`)
	for {
		status, wait, place, err := d.ask(topic, body)
		switch {
		case err != nil:
			return "", err
		case status == "200" && place.Status == "assigned":
			return "", nil
		case status == "202":
			topic, body = operationTopic+url.QueryEscape(place.OperationID), []byte("{}")
		case status >= "429": // too many, or unable: again, as it was
			retries.Add(1)
		case status == "200":
			if place.State.ErrorCode != 0 {
				place.Status += " " + strconv.Itoa(place.State.ErrorCode)
			}
			return place.Status, nil
		default:
			return status, nil
		}
		if err := pause(ctx, wait); err != nil {
			return "", err
		}
	}
}

// place is what a device reads of its registration.
type place struct {
	OperationID string `json:"operationId"`
	Status      string `json:"status"`
	State       struct {
		ErrorCode int `json:"errorCode"`
	} `json:"registrationState"`
}

// ask sends a request and gives the answer: its status, how long to wait before
// the next, and what it says.
func (d *device) ask(topic string, body []byte) (status string, wait time.Duration, p place, err error) {
	d.conn.SetDeadline(time.Now().Add(patience))
	if _, err = d.conn.Write(mqtt.AppendPublish(nil, &mqtt.Publish{QoS: 1, PacketID: 2, Topic: topic, Payload: body})); err != nil {
		return "", 0, p, err
	}
	packet, err := d.in.Next()
	for _, is := packet.(*mqtt.Puback); is && err == nil; _, is = packet.(*mqtt.Puback) {
		packet, err = d.in.Next()
	}
	if err != nil {
		return "", 0, p, err
	}
	answer, ok := packet.(*mqtt.Publish)
	if !ok || !strings.HasPrefix(answer.Topic, resultTopic) {
		return "", 0, p, fmt.Errorf("device %s got %T where an answer was due", d.id, packet)
	}
	status, query, _ := strings.Cut(answer.Topic[len(resultTopic):], "/?")
	values, err := url.ParseQuery(query)
	if err = cmp.Or(err, json.Unmarshal(answer.Payload, &p)); err != nil {
		return "", 0, p, fmt.Errorf("device %s: %w", d.id, err)
	}
	seconds, _ := strconv.ParseUint(values.Get("retry-after"), 10, 16)
	return status, cmp.Or(time.Duration(seconds)*time.Second, pollTime), p, nil
}
