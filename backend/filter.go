package backend

import (
	"strconv"
	"strings"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/wire/amqp"
)

// selectorFilter is the filter by which a reader says where it begins
// (apache.org:selector-filter:string), by name or by the code that Event Hubs has
// for it.
const (
	selectorFilter amqp.Symbol = "apache.org:selector-filter:string"
	selectorCode   uint64      = 0x468C00000004
)

// maxSelector bounds a selector; the longest that SDKs write has some 70 bytes.
const maxSelector = 256

// selectorOf gives the selector among the filters of a source: "" when there is none.
// A filter is what its descriptor says (AMQP §3.5.8); its name is the client's: Azure's
// SDKs write the descriptor there too, Qpid Proton "selector", rhea "jms-selector".
// Text that is not described counts by its name.
func selectorOf(filters amqp.Map) (text string, err error) {
	found := false
	for _, f := range filters {
		if f.Value == nil {
			continue
		}
		value, kind := f.Value, f.Key
		if d, ok := value.(amqp.Described); ok {
			value, kind = d.Value, d.Descriptor
		}
		if kind != selectorFilter && kind != selectorCode {
			return "", signet.Refuse(signet.ReaderFilter, "A reader has a filter of another kind than %s.", selectorFilter)
		}
		if found {
			return "", signet.Refuse(signet.ReaderFilter, "A reader has more than one filter.")
		}
		if text, found = value.(string); !found {
			return "", signet.Refuse(signet.ReaderFilter, "The filter of the reader is no text.")
		}
	}
	return text, nil
}

// A beginning is where a reader begins.
type beginning struct {
	number int64     // after the message of that number, or with it
	time   time.Time // if not zero: with what was enqueued then
	latest bool      // after the last that is there
}

// parseSelector reads the selectors that the SDKs of Event Hubs write:
//
//	amqp.annotation.x-opt-offset > '-1'              from the first
//	amqp.annotation.x-opt-offset > '@latest'         what comes from now on
//	amqp.annotation.x-opt-offset > '2560'            after an offset; >= is with it
//	amqp.annotation.x-opt-sequence-number > '2560'   the same: an offset is the number, as text
//	amqp.annotation.x-opt-enqueued-time > '1767225600000'
//
// with or without quotes. No selector is from the first.
func parseSelector(text string) (b beginning, err error) {
	b.number = -1
	if text == "" {
		return b, nil
	}
	malformed := func() (beginning, error) {
		return b, signet.Refuse(signet.ReaderFilter, "%q is no place to begin at.", signet.Clip(text)).
			At("filter", "amqp.annotation.x-opt-offset, -sequence-number or -enqueued-time, > or >=, and a number in quotes, '-1' or '@latest'", text)
	}
	fields := strings.Fields(text)
	if len(text) > maxSelector || len(fields) != 3 {
		return malformed()
	}
	value := fields[2]
	if n := len(value); n >= 2 && value[0] == '\'' && value[n-1] == '\'' {
		value = value[1 : n-1]
	}
	after := int64(1)
	switch fields[1] {
	case ">":
	case ">=":
		after = 0
	default:
		return malformed()
	}
	name, ok := strings.CutPrefix(fields[0], "amqp.annotation.x-opt-")
	if ok && name == "offset" && value == "@latest" {
		b.latest = true
		return b, nil
	}
	number, err := strconv.ParseInt(value, 10, 64)
	if !ok || err != nil || number < -1 || number > maxNumber {
		return malformed()
	}
	switch name {
	case "offset", "sequence-number":
		b.number = max(-1, number+after-1)
	case "enqueued-time", "enqueuedtimeutc":
		b.time = time.UnixMilli(max(0, number+after)).UTC()
	default:
		return malformed()
	}
	return b, nil
}

// maxNumber is the largest that a float64 holds exactly, as JavaScript counts; also
// as milliseconds it is far ahead.
const maxNumber = 1<<53 - 1

// start gives where that is in the log, whose last message is at last.
func (b beginning) start(last signet.Position) (hub.Start, error) {
	switch {
	case b.latest:
		return hub.Start{After: last}, nil
	case !b.time.IsZero():
		return hub.Start{Time: b.time}, nil
	case last == (signet.Position{}): // all that comes is new, and its numbers are small if the log is
		return hub.Start{}, nil
	case b.number > last.Number():
		// One that remembers more than there is would miss what comes until then.
		return hub.Start{}, signet.Refuse(signet.ReaderPosition, "The reader would begin after %d, and the last message has the number %d.", b.number, last.Number()).
			At("sequence number", "at most "+strconv.FormatInt(last.Number(), 10), strconv.FormatInt(b.number, 10))
	}
	return hub.Start{After: signet.PositionOf(b.number)}, nil
}
