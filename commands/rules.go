package commands

import (
	"strings"
	"time"
	"unicode/utf8"

	"github.com/signet-iot/signet"
)

// systemNames are the system properties that a sender may set; message-id,
// iothub-ack and absolute-expiry-time are members of the command.
var systemNames = map[string]bool{
	"correlation-id": true, "user-id": true, "content-type": true, "content-encoding": true,
}

const expiryName = "absolute-expiry-time"

// complete fills in what the sender left open, and judges the command. What one of
// the doors could not say is refused here, to who can mend it: names of properties
// are those of HTTP headers, values have no control characters.
func complete(c *signet.Command) error {
	malformed := func(field, expected, actual string) error {
		return signet.Refuse(signet.MessageMalformed, "The %s of the message will not do.", field).At(field, expected, actual)
	}
	if c.MessageID == "" {
		c.MessageID = newID()
	}
	if c.Ack == "" {
		c.Ack = signet.AckNone
	}
	if len(c.MessageID) > 128 || !only(c.MessageID, letters+"-:.+%_#*?!(),=@;$'") {
		return malformed("messageId", "1 to 128 letters, digits and - : . + % _ # * ? ! ( ) , = @ ; $ '", c.MessageID)
	}
	switch c.Ack {
	case signet.AckNone, signet.AckPositive, signet.AckNegative, signet.AckFull:
	default:
		return malformed("ack", "none, positive, negative or full", string(c.Ack))
	}
	cost := 0
	for _, p := range c.System {
		if !systemNames[p.Name] {
			return malformed("system properties", "correlation-id, user-id, content-type, content-encoding", p.Name)
		}
		if !printable(p.Value) {
			return malformed(p.Name, "UTF-8 without control characters", p.Value)
		}
		cost += len(p.Value) + propertyCost
	}
	for _, p := range c.Properties {
		switch lower := strings.ToLower(p.Name); {
		case p.Name == "" || !only(p.Name, letters+"!#$%&'*+-.^_`|~"):
			return malformed("properties", "names of letters, digits and ! # $ % & ' * + - . ^ _ ` | ~", p.Name)
		case strings.HasPrefix(lower, "$.") || strings.HasPrefix(lower, "iothub-"):
			return malformed("properties", "names that do not begin with $. or iothub-, as those of the hub do", p.Name)
		case p.Null || !printable(p.Value):
			return malformed("properties", "values in UTF-8 without control characters", p.Name)
		}
		cost += len(p.Name) + len(p.Value) + propertyCost
	}
	if cost > maxProperties {
		return signet.Refuse(signet.LimitMessageSize, "The properties of the message count %d bytes, and may count %d.", cost, maxProperties).
			FixBy("Send fewer or shorter properties; put more into the body.")
	}
	if size := c.Size(); size > signet.MaxCommandSize {
		return signet.Refuse(signet.LimitMessageSize, "The message has %d bytes; one to a device may have %d.", size, signet.MaxCommandSize)
	}
	return expiry(c)
}

// expiry gives the command its time. One that the sender has set is a property of
// it; one that the hub has set is not.
func expiry(c *signet.Command) error {
	if c.ExpiryTime.IsZero() {
		c.ExpiryTime = c.EnqueuedTime.Add(DefaultLife)
		return nil
	}
	c.ExpiryTime = c.ExpiryTime.UTC().Truncate(time.Millisecond)
	if life := c.ExpiryTime.Sub(c.EnqueuedTime); life <= 0 || life > MaxLife+signet.SASClockSkew {
		return signet.Refuse(signet.MessageExpiry, "The message expires at %s.", signet.AzureTime(c.ExpiryTime)).
			At("expiryTimeUtc", "within two days of "+signet.AzureTime(c.EnqueuedTime), signet.AzureTime(c.ExpiryTime))
	}
	c.System = append(c.System[:len(c.System):len(c.System)], signet.Property{Name: expiryName, Value: signet.AzureTime(c.ExpiryTime)})
	return nil
}

const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

func only(s, characters string) bool { return strings.Trim(s, characters) == "" }

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 })
}
