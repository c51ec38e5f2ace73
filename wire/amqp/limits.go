package amqp

import "time"

// What a peer may cost. Those of a stranger hold until [Conn.LetIn].
const (
	// maxFrame is the largest frame that is taken, and told as max-frame-size: what
	// the MQTT door reads of a stranger, and one record of TLS. A token of 4 KiB fits
	// in it; what is larger comes in several.
	maxFrame = 16 << 10

	// maxSentFrame bounds ours, whatever the peer takes: half a buffer of output.
	maxSentFrame = 32 << 10

	// minFrame is what every peer takes (AMQP §2.4.1: MIN-MAX-FRAME-SIZE).
	minFrame = 512

	// Channels and handles are small numbers, so that they index what is there. 255
	// is what Azure tells.
	maxChannel = 255
	maxHandle  = 255

	// Sessions and links that are there at once. A stranger authenticates with two
	// links; SDKs have up to three sessions by then.
	strangerSessions, guestSessions = 4, 256
	strangerLinks, guestLinks       = 8, 256

	// Bytes of messages that have come in part, on all links together: a token; and
	// the largest message of a device, with its envelope, twice.
	strangerPartial, guestPartial = 16 << 10, 1 << 20

	// strangerFrames bounds what a stranger makes us do before it has proven itself:
	// twice what the longest dialogue of an SDK takes, with a renewal.
	strangerFrames = 128

	// maxName bounds the name of a link and a container, in bytes: UUIDs and
	// addresses are written there.
	maxName = 1 << 10

	// maxCredit bounds what is there of one link and not settled.
	maxCredit = 2048

	// maxUnsettled bounds what we have sent in a session and the peer has not
	// settled; beyond it no sender of the session is ready.
	maxUnsettled = 2048

	// incomingWindow is told of each session, in frames (AMQP §2.5.6). What bounds
	// memory is that we read no further while a Handler is busy.
	incomingWindow = 2048

	// maxOut bounds what waits to be written before nothing more is read, and before
	// a sender is not ready any more.
	maxOut = 64 << 10

	// saidSize is told as max-message-size of a link on which we send: as Azure does, more
	// than any message of ours. Azure's SDK for C takes an attach without one for a fault.
	saidSize = 1 << 20

	// maxTag is the standard's (AMQP §2.8.7).
	maxTag = 32

	// maxValues and maxDepth bound the values in one frame or message, and how deep
	// they lie in each other: a value takes up to 40 bytes in memory, and one on the
	// wire.
	maxValues = 4096
	maxDepth  = 16

	// maxSASL bounds the text of an initial response: a user name and a token.
	maxSASL = 8 << 10

	// silence is how long a peer that is let in may say nothing. It is told half of
	// it (AMQP §2.4.5), as idle-time-out; before that a deadline of the Handler's
	// holds.
	silence = 240 * time.Second

	// minHeartbeat is the shortest idle-time-out of a peer that is served: we say
	// something twice within it.
	minHeartbeat = time.Second

	// writeTime is how long a peer may take to read what was written.
	writeTime = 10 * time.Second

	// cutTime is what is left of that for the close of one whose connection is ended
	// from outside: who is cut off is told to be gone within a second.
	cutTime = 500 * time.Millisecond

	// lingerTime and lingerBytes are what a peer gets to read our close while it still
	// sends; endTime is that of one whose connection is ended from outside, who has to
	// be gone within a second.
	lingerTime  = time.Second
	endTime     = 200 * time.Millisecond
	lingerBytes = 64 << 10
)
