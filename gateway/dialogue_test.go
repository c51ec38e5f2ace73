package gateway

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/wire/mqtt"
)

// TestDialogues plays the conversations in testdata/dialogues, each on a clock of
// its own, so that waiting costs nothing. The language is in their README.
func TestDialogues(t *testing.T) {
	files, err := filepath.Glob("testdata/dialogues/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no dialogues", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			title, script, _ := strings.Cut(string(text), "\n")
			if !strings.HasPrefix(title, "[") {
				t.Errorf("the first line %q does not begin with the clause that the dialogue is about", title)
			}
			for i, part := range strings.Split(script, "\n---\n") {
				t.Run(strconv.Itoa(i+1), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { play(t, part, pipe) })
				})
				t.Run(strconv.Itoa(i+1)+" by WebSocket", func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { play(t, part, webSocketPipe) })
				})
			}
		})
	}
}

// A dialogue is the state of one conversation.
type dialogue struct {
	t      *testing.T
	waist  *fakeWaist
	door   *MQTT
	pipe   func(*MQTT) net.Conn
	device net.Conn
	heard  chan string // packets from the server, as text; closed with the connection
	deaf   chan struct{}
	read   int // messages that H: message has looked at
}

func play(t *testing.T, script string, pipe func(*MQTT) net.Conn) {
	w := &fakeWaist{}
	d := &dialogue{t: t, waist: w, door: plainDoor(t, w), pipe: pipe}
	d.connect()
	for line := range strings.Lines(script) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		synctest.Wait()
		who, what, _ := strings.Cut(line, ": ")
		var err error
		switch who {
		case "C":
			err = d.client(what)
		case "S":
			err = d.server(what)
		case "H":
			err = d.hub(what)
		default:
			err = fmt.Errorf("who is %q", who)
		}
		if err != nil {
			t.Fatalf("%s\n\t%v", line, err)
		}
	}
	synctest.Wait()
	if left := d.waist.refusals(); len(left) > 0 {
		t.Errorf("the door refused and the dialogue does not say so: %v", left)
	}
	select {
	case packet, open := <-d.heard:
		if open {
			t.Errorf("the server said more: %s", packet)
		}
	default:
	}
	d.device.Close()
	for d.waist.settle(nil) { // so that nothing waits for a held message
	}
}

// connect begins a connection, and listens to it.
func (d *dialogue) connect() {
	d.device, d.heard, d.deaf = d.pipe(d.door), make(chan string, 1024), make(chan struct{})
	device, heard, deaf := d.device, d.heard, d.deaf
	go func() {
		defer close(heard)
		r := mqtt.NewClientReader(device, maxPacket)
		for {
			p, err := r.Next()
			if err != nil {
				if large := (*mqtt.Malformed)(nil); asMalformed(err, &large) {
					heard <- "unreadable: " + err.Error()
				}
				return
			}
			select {
			case <-deaf:
				return
			default:
				heard <- describe(p)
			}
		}
	}()
}

func asMalformed(err error, m **mqtt.Malformed) bool {
	var ok bool
	*m, ok = err.(*mqtt.Malformed)
	return ok
}

func describe(p mqtt.Packet) string {
	switch p := p.(type) {
	case *mqtt.Connack:
		return fmt.Sprintf("CONNACK %d present=%v", p.Code, p.SessionPresent)
	case *mqtt.Puback:
		return fmt.Sprintf("PUBACK %d", p.PacketID)
	case *mqtt.Suback:
		return fmt.Sprintf("SUBACK %d %v", p.PacketID, p.Codes)
	case *mqtt.Unsuback:
		return fmt.Sprintf("UNSUBACK %d", p.PacketID)
	case *mqtt.Pingresp:
		return "PINGRESP"
	case *mqtt.Publish:
		if p.QoS > 0 {
			return fmt.Sprintf("PUBLISH qos=%d id=%d dup=%v topic=%s body=%s", p.QoS, p.PacketID, p.Dup, p.Topic, p.Payload)
		}
		return fmt.Sprintf("PUBLISH qos=%d topic=%s body=%s", p.QoS, p.Topic, p.Payload)
	}
	return fmt.Sprintf("%T", p)
}

// client lets the device act.
func (d *dialogue) client(what string) error {
	verb, rest, _ := strings.Cut(what, " ")
	switch verb {
	case "waits":
		duration, err := time.ParseDuration(rest)
		time.Sleep(duration)
		return err
	case "drops":
		return d.device.Close()
	case "reads":
		close(d.deaf) // "reads no more"
		return nil
	case "again":
		d.connect()
		return nil
	}
	packet, err := encode(verb, rest)
	if err != nil {
		return err
	}
	// The server may close in the middle, or stop reading; what it then does is
	// told by the lines to come.
	d.device.SetWriteDeadline(time.Now().Add(time.Millisecond))
	d.device.Write(packet)
	return nil
}

func encode(verb, rest string) ([]byte, error) {
	if verb == "hex" {
		return hex.DecodeString(strings.ReplaceAll(rest, " ", ""))
	}
	args, bare := arguments(rest)
	number := func(name string) uint16 { n, _ := strconv.ParseUint(args[name], 10, 16); return uint16(n) }
	switch verb {
	case "CONNECT":
		c := &mqtt.Connect{ClientID: args["client"], KeepAlive: number("keepalive"), CleanSession: args["clean"] == "1"}
		c.Username, c.HasUsername = args["user"]
		var password string
		password, c.HasPassword = args["password"]
		c.Password = []byte(password)
		if topic, ok := args["will"]; ok {
			c.Will = &mqtt.Will{Topic: topic, Payload: []byte(args["willbody"]), QoS: byte(number("willqos")), Retain: args["willretain"] == "1"}
		}
		return mqtt.AppendConnect(nil, c), nil
	case "PUBLISH":
		return mqtt.AppendPublish(nil, &mqtt.Publish{
			QoS: byte(number("qos")), Retain: args["retain"] == "1", Dup: args["dup"] == "1",
			Topic: args["topic"], PacketID: number("id"), Payload: []byte(args["body"]),
		}), nil
	case "SUBSCRIBE":
		s := &mqtt.Subscribe{PacketID: number("id")}
		for _, f := range bare {
			at := strings.LastIndexByte(f, '@') // IDs may have one too
			n, _ := strconv.Atoi(f[at+1:])
			s.Filters = append(s.Filters, mqtt.Subscription{Filter: f[:at], QoS: byte(n)})
		}
		return mqtt.AppendSubscribe(nil, s), nil
	case "UNSUBSCRIBE":
		return mqtt.AppendUnsubscribe(nil, &mqtt.Unsubscribe{PacketID: number("id"), Filters: bare}), nil
	case "PUBACK":
		return mqtt.AppendPuback(nil, number("id")), nil
	case "PINGREQ":
		return mqtt.AppendPingreq(nil), nil
	case "DISCONNECT":
		return mqtt.AppendDisconnect(nil), nil
	}
	return nil, fmt.Errorf("what is %q", verb)
}

// arguments reads name=value, with value N*text for repetitions, and bare words.
func arguments(s string) (named map[string]string, bare []string) {
	named = map[string]string{}
	for word := range strings.FieldsSeq(s) {
		name, value, ok := strings.Cut(word, "=")
		if !ok || strings.HasPrefix(word, "$") || strings.HasPrefix(word, "devices/") {
			bare = append(bare, word)
			continue
		}
		if n, text, ok := strings.Cut(value, "*"); ok {
			if n, err := strconv.Atoi(n); err == nil {
				value = strings.Repeat(text, n)
			}
		}
		named[name] = value
	}
	return named, bare
}

// server expects what the server does.
func (d *dialogue) server(what string) error {
	switch what {
	case "closes":
		select {
		case packet, open := <-d.heard:
			if !open {
				return nil
			}
			return fmt.Errorf("the server said %s", packet)
		default:
			return fmt.Errorf("the connection is open")
		}
	case "says nothing":
		select {
		case packet, open := <-d.heard:
			if open {
				return fmt.Errorf("the server said %s", packet)
			}
			return fmt.Errorf("the server closed")
		default:
			return nil
		}
	case "shuts down":
		go d.door.Shutdown(context.Background())
		return nil
	}
	select {
	case packet, open := <-d.heard:
		if !open {
			return fmt.Errorf("the server closed")
		}
		if !like(packet, what) {
			return fmt.Errorf("the server said %s", packet)
		}
		return nil
	default:
		return fmt.Errorf("the server said nothing")
	}
}

var systemNames = map[string]bool{"correlation-id": true, "user-id": true, "content-type": true, "content-encoding": true, "absolute-expiry-time": true}

// like compares with a pattern in which * stands for any text.
func like(s, pattern string) bool {
	parts := strings.Split(pattern, "*")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile("^" + strings.Join(parts, ".*") + "$").MatchString(s)
}

// hub expects what the waist sees, or lets it act.
func (d *dialogue) hub(what string) error {
	verb, rest, _ := strings.Cut(what, " ")
	w := d.waist
	switch verb {
	case "holds": // messages, from now on
		w.mu.Lock()
		defer w.mu.Unlock()
		w.hold = true
	case "stores", "fails":
		var err error
		if verb == "fails" {
			err = signet.Refuse(signet.Unavailable, "The disk is full.")
		}
		if !w.settle(err) {
			return fmt.Errorf("nothing is held")
		}
	case "paces":
		wait, err := time.ParseDuration(rest)
		if err != nil {
			return err
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.pace = wait
	case "keeps": // nothing, from now on
		w.mu.Lock()
		defer w.mu.Unlock()
		w.keeping = signet.Refuse(signet.Unavailable, "The disk is full.")
	case "refuses": // the next CONNECT
		w.mu.Lock()
		defer w.mu.Unlock()
		w.refusal = signet.Refuse(signet.Code(rest), "refused by the dialogue")
	case "limits": // the next session's time
		lifetime, err := time.ParseDuration(rest)
		if err != nil {
			return err
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.lifetime = lifetime
	case "ends": // the session
		w.last().end(signet.Refuse(signet.Code(rest), "ended by the dialogue"))
	case "sees": // the credentials of the last CONNECT
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.seen) == 0 {
			return fmt.Errorf("the hub saw nobody")
		}
		c := w.seen[len(w.seen)-1]
		got := fmt.Sprintf("host=%s device=%s module=%s token=%s api=%s client=%s", c.Host, c.DeviceID, c.ModuleID, c.Token, c.APIVersion, c.Client)
		if got != rest {
			return fmt.Errorf("the hub saw %s", got)
		}
	case "records": // a refusal that the door made
		codes := w.refusals()
		if !slices.Equal(codes, []signet.Code{signet.Code(rest)}) {
			return fmt.Errorf("recorded is %v", codes)
		}
	case "gets": // a message
		w.mu.Lock()
		defer w.mu.Unlock()
		if rest == "nothing" {
			if len(w.messages) > d.read {
				return fmt.Errorf("the hub got %s", describeMessage(w.messages[d.read]))
			}
			return nil
		}
		if len(w.messages) == d.read {
			return fmt.Errorf("the hub got nothing")
		}
		got := describeMessage(w.messages[d.read])
		d.read++
		if !like(got, rest) {
			return fmt.Errorf("the hub got %s", got)
		}
	case "sends": // a command
		id, rest, _ := strings.Cut(rest, " ")
		args, _ := arguments(rest)
		command := &signet.Command{MessageID: id, Ack: signet.AckNone, Body: []byte(args["body"])}
		for name, value := range args {
			switch {
			case name == "ack":
				command.Ack = signet.Ack(value)
			case systemNames[name]:
				command.System = append(command.System, signet.Property{Name: name, Value: unescape(value)})
			case name != "body":
				command.Properties = append(command.Properties, signet.Property{Name: unescape(name), Value: unescape(value)})
			}
		}
		w.mu.Lock()
		w.commands = append(w.commands, command)
		w.mu.Unlock()
		if s := w.last(); s != nil {
			s.wake()
		}
	case "fetches": // commands, in that time
		fetching, err := time.ParseDuration(rest)
		if err != nil {
			return err
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.fetching = fetching
	case "settles": // what the device has settled
		w.mu.Lock()
		defer w.mu.Unlock()
		if got := strings.Join(w.settled, ", "); got != rest {
			return fmt.Errorf("settled is %q", got)
		}
		w.settled = nil
	case "missed": // a renewal by that request has an outcome that the device has not heard of
		w.mu.Lock()
		defer w.mu.Unlock()
		w.missed = rest
	case "renews": // the last request for a certificate
		w.mu.Lock()
		defer w.mu.Unlock()
		var got []string
		for _, r := range w.renewals {
			got = append(got, fmt.Sprintf("rid=%s csr=%s replace=%s", r.RequestID, r.CSR, r.Replace))
		}
		w.renewals = nil
		if strings.Join(got, ", ") != rest {
			return fmt.Errorf("requested is %q", got)
		}
	case "sees-gone": // the door closed the session
		if s := w.last(); s == nil || s.Ended() == nil {
			return fmt.Errorf("the session lives")
		}
	default:
		return fmt.Errorf("what is %q", verb)
	}
	return nil
}

func describeMessage(m *signet.Message) string {
	var b strings.Builder
	for i, list := range [][]signet.Property{m.System, m.Properties} {
		if i == 1 {
			b.WriteString("|")
		}
		for _, p := range list {
			if p.Null {
				fmt.Fprintf(&b, " %s", p.Name)
			} else {
				fmt.Fprintf(&b, " %s=%q", p.Name, p.Value)
			}
		}
		b.WriteString(" ")
	}
	if len(m.Body) > 100 {
		fmt.Fprintf(&b, "| %d bytes", len(m.Body))
	} else {
		fmt.Fprintf(&b, "| %s", bytes.TrimSpace(m.Body))
	}
	return strings.TrimSpace(b.String())
}
