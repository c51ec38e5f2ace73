package gateway

import (
	"math/bits"
	"time"
)

// A session that a device does not begin clean goes on with the next connection
// [MQTT-3.1.2-4]: what it listens to is stored, and the device need not subscribe again.
// Azure's SDK for Python never does. What is on its way is no part of it: a command that
// was not acknowledged waits in its queue, and a message without a PUBACK the device
// sends again.

// maxKeeps is how often what a session listens to may change on one connection without a
// wait, five subscriptions made one by one and a second time over; each change more is a
// write to the disk, and waits for keepTime.
const (
	maxKeeps = 10
	keepTime = time.Second
)

// kept is how what the device listens to is stored: a bit for each subscription, and
// eight above it one more if that is of QoS 1.
func (c *conn) kept() uint32 { return uint32(c.surely)<<8 | uint32(c.listens) }

// recall has the session listen to what it did before, and says whether there is any of
// that: one that listened to nothing is as one that is new [MQTT-3.2.2-2].
func (c *conn) recall(s Session) (present bool) {
	if c.clean {
		return false
	}
	c.onDisk = s.Kept()
	c.listens, c.surely = subscriptions(c.onDisk), subscriptions(c.onDisk>>8)
	return c.listens != 0
}

// keep stores what the device listens to before it is told so.
func (c *conn) keep() error {
	now := c.kept()
	if c.clean || now == c.onDisk {
		return nil
	}
	if c.keeps++; c.keeps > maxKeeps {
		if err := c.hold(keepTime); err != nil {
			return err
		}
	}
	if err := c.session.Keep(c.door.ctx, now); err != nil {
		return err
	}
	c.onDisk = now
	return nil
}

// listen has the device given what comes for it from now on, and of what it has just been
// granted also what waits; fresh is what it did not listen to before.
func (c *conn) listen(granted, fresh subscriptions) {
	c.session.Listen(c.listens.kinds())
	for commands := granted & bringsCommands; commands != 0; commands &= commands - 1 {
		filter := subscriptions(1) << bits.TrailingZeros8(uint8(commands))
		qos := byte(0)
		if c.surely&filter != 0 {
			qos = 1
		}
		c.subscribeCommands(filter, qos)
	}
	if fresh&toCredentials != 0 {
		c.missedCredential()
	}
}
