package gateway

import (
	"strings"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/wire/mqtt"
)

// maxInFlight bounds the commands that a device has been sent and has not
// acknowledged; more wait in their queue. Each may have 64 KiB.
const maxInFlight = 10

// bringsCommands are the filters under which the topic of a command is.
const bringsCommands = toCommands | toEverything

// outbound is what a connection knows of the commands sent on it. It is there once
// the device has subscribed to them, and under conn.mu.
type outbound struct {
	qos      map[subscriptions]byte // as granted, by filter; empty when none is held
	due      bool                   // there may be a command to fetch
	inFlight map[uint16]string      // lock tokens by packet identifier
	packetID uint16                 // the last given
}

// subscribeCommands begins to send the device what waits for it.
func (c *conn) subscribeCommands(filter subscriptions, qos byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.outbound == nil {
		c.outbound = &outbound{qos: map[subscriptions]byte{}, inFlight: map[uint16]string{}}
	}
	c.outbound.qos[filter] = qos
	c.outbound.due, c.woken = true, true
	c.startWriting()
}

// unsubscribeCommands sends no more. What is in flight can still be acknowledged.
func (c *conn) unsubscribeCommands(filter subscriptions) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.outbound != nil {
		delete(c.outbound.qos, filter)
	}
}

// fetchCommands says the commands that wait, as many as may be in flight and no
// more than a buffer's worth at a time: the writer comes back here.
func (c *conn) fetchCommands() {
	if c.session.CommandWaiting() {
		c.mu.Lock()
		if c.outbound != nil {
			c.outbound.due = true
		}
		c.mu.Unlock()
	}
	for c.takesCommand() {
		command, err := c.session.NextCommand(c.door.ctx)
		if err == nil && command != nil {
			err = c.sayCommand(command)
		}
		if err != nil {
			// The device comes back, subscribes, and is given what waits.
			c.end(err)
			return
		}
		if command == nil {
			return
		}
	}
}

// takesCommand says whether there is room and reason to ask for a command. One that
// comes while it is being asked for makes it due again.
func (c *conn) takesCommand() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.outbound
	if o == nil || !o.due || len(o.qos) == 0 || len(o.inFlight) >= maxInFlight || len(c.out) >= maxOut || c.mute || c.ended != nil {
		return false
	}
	o.due = false
	return true
}

// sayCommand sends a command: with the higher QoS of the filters that it fits
// [MQTT-3.3.5-1]. With QoS 1 the PUBACK completes it; with QoS 0 it is complete once
// said, and completed before: nothing would tell that it came twice. It goes back to
// its queue when the device has unsubscribed meanwhile [MQTT-3.10.4-2], and with its
// session when the connection shall end.
func (c *conn) sayCommand(command *signet.Command) error {
	p := &mqtt.Publish{Topic: c.topics.commandTopic(command), Payload: command.Body}
	c.mu.Lock()
	ends, wanted := c.ended != nil || c.mute, len(c.outbound.qos) > 0
	for _, qos := range c.outbound.qos {
		p.QoS = max(p.QoS, qos)
	}
	c.mu.Unlock()
	if ends {
		return nil
	}
	disposition := signet.Complete
	if !wanted {
		disposition = signet.Abandon
	}
	var purged bool
	if p.QoS == 0 {
		err := c.session.SettleCommand(c.door.ctx, command.LockToken, disposition)
		if purged = signet.CodeOf(err) == signet.MessageLockLost; err != nil && !purged {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.outbound
	o.due = true // there may be another
	if c.mute || purged || !wanted {
		return nil
	}
	if p.QoS == 1 {
		for o.packetID++; o.packetID == 0 || o.inFlight[o.packetID] != ""; o.packetID++ {
		}
		o.inFlight[o.packetID] = command.LockToken
		p.PacketID, p.Dup = o.packetID, command.DeliveryCount > 0
	}
	c.door.metrics.commands.Inc()
	c.out = mqtt.AppendPublish(c.buffer(), p)
	return nil
}

// acknowledged completes the command that a PUBACK is for. One that answers
// nothing that was sent on this connection is void.
func (c *conn) acknowledged(packetID uint16) {
	c.mu.Lock()
	var token string
	if o := c.outbound; o != nil {
		token = o.inFlight[packetID]
		delete(o.inFlight, packetID)
	}
	c.mu.Unlock()
	if token == "" {
		return
	}
	err := c.session.SettleCommand(c.door.ctx, token, signet.Complete)
	if err != nil {
		// Lost to another request; or, when it could not be stored, sent again to the
		// next session.
		c.door.log.Debug("a command is not completed", "device", c.topics.prefix, "error", err)
	}
	c.wake() // there is room for another
}

// bagNames are the keys of the system properties of a command, in the order in
// which they are written.
var bagNames = [...]struct{ name, key string }{
	{"correlation-id", "%24.cid"},
	{"user-id", "%24.uid"},
	{"content-type", "%24.ct"},
	{"content-encoding", "%24.ce"},
	{"absolute-expiry-time", "%24.exp"},
}

// commandTopic is where a command is published. Its bag of properties is never
// empty, begins with a system property, has a value in every pair, and writes "$"
// and "/" encoded: each of these is what one SDK's parser rests on.
func (i identity) commandTopic(c *signet.Command) string {
	var b strings.Builder
	b.WriteString(i.prefix)
	b.WriteString("/messages/devicebound/%24.mid=")
	escape(&b, c.MessageID)
	b.WriteString("&%24.to=")
	escape(&b, "/"+i.prefix+"/messages/deviceBound")
	for _, known := range bagNames {
		for _, p := range c.System {
			if p.Name == known.name {
				b.WriteString("&" + known.key + "=")
				escape(&b, p.Value)
			}
		}
	}
	if c.Ack != signet.AckNone {
		b.WriteString("&iothub-ack=" + string(c.Ack))
	}
	for _, p := range c.Properties {
		b.WriteByte('&')
		escape(&b, p.Name)
		b.WriteByte('=')
		escape(&b, p.Value)
	}
	return b.String()
}

// escape percent-encodes as encodeURIComponent does.
func escape(b *strings.Builder, s string) {
	const hex = "0123456789ABCDEF"
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("-_.!~*'()", c) >= 0:
			b.WriteByte(c)
		default:
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
}
