package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"hash/maphash"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/signet-iot/signet"
)

// The limits of a twin: Azure's (iot-hub-devguide-device-twins), but for the two
// that bound what Azure's leave open.
const (
	maxProperties = 32 << 10 // bytes of the desired, and of the reported properties, as size counts
	maxTags       = 8 << 10
	maxLevels     = 10   // of objects and arrays below a section
	maxKey        = 1024 // bytes
	maxString     = 4096 // bytes
	maxInteger    = 1<<52 - 1
	minInteger    = -1 << 52

	// maxMembers bounds the members of a section: empty values cost nothing as
	// Azure counts, but each has a time stamp of some 90 bytes in the metadata.
	maxMembers = 4096
	// maxText bounds the JSON text of one section, as sent and as kept: escapes, quotes
	// and white space make it longer than what counts, and control characters, which
	// do not count at all, could make it as long as anyone has patience.
	maxText = 128 << 10
)

// twinTime bounds the wait for others who change the same twin, and then for the
// store: a caller gets an answer, and no line of callers grows behind a store
// that hangs.
const twinTime = 10 * time.Second

// object is a JSON object, decoded: of nil, bool, json.Number, string, []any and
// object.
type object = map[string]any

// A TwinChange is what a back end wants of a twin: JSON objects, nil where
// nothing is to change.
type TwinChange struct {
	Tags, Desired json.RawMessage
	// Replace makes them the whole of tags and desired properties, empty where
	// they are nil; otherwise they are merged as RFC 7396 has it.
	Replace bool
	// Given, with Replace, leaves as they are those that are nil.
	Given bool
}

// Twin reads the twin of an identity; module is empty for a device. It refuses
// with [signet.IdentityUnknown].
func (r *Registry) Twin(ctx context.Context, hub, device, module string) (signet.Twin, error) {
	t, err := r.store.Twin(ctx, hub, device, module)
	if errors.Is(err, signet.ErrNotFound) {
		return t, unknown(device, module)
	}
	if err == nil && t.Version == 0 {
		t = signet.EmptyTwin(hub, device, module, t.GenerationID)
	}
	return t, err
}

// ChangeTwin changes tags and desired properties on behalf of a back end, if the
// twin's ETag is ifMatch; "*" and "" fit any. The device is told of new desired
// properties before it returns. It refuses with [signet.TwinMalformed],
// [signet.LimitTwinSize], [signet.IdentityUnknown] and [signet.ETagStale].
func (r *Registry) ChangeTwin(ctx context.Context, hub, device, module string, c TwinChange, ifMatch string) (signet.Twin, error) {
	tags, err := section("tags", c.Tags, c.Replace && !c.Given)
	if err != nil {
		return signet.Twin{}, err
	}
	desired, err := section("properties.desired", c.Desired, c.Replace && !c.Given)
	if err != nil {
		return signet.Twin{}, err
	}
	var notice []byte
	return r.changeTwin(ctx, hub, device, module, func(t *signet.Twin, at time.Time) ([]signet.Event, error) {
		if ifMatch != "" && ifMatch != "*" && ifMatch != t.ETag {
			return nil, signet.Refuse(signet.ETagStale, "The twin of %q has changed since its etag was read.", signet.IdentityName(device, module))
		}
		t.ETag = signet.NewETag()
		if tags != nil {
			// Tags have no version and no metadata.
			p := signet.Properties{Values: t.Tags, Metadata: json.RawMessage("{}")}
			if err := apply("tags", maxTags, &p, tags, c.Replace, at); err != nil {
				return nil, err
			}
			t.Tags = p.Values
		}
		if desired != nil {
			if err := apply("properties.desired", maxProperties, &t.Desired, desired, c.Replace, at); err != nil {
				return nil, err
			}
			// The device gets what came, with its nulls; a replacement whole.
			notice = encode(desired)
		}
		return r.twinChange(t, c.Replace, at, func(p *signet.TwinPatch) {
			if tags != nil {
				p.Tags = encode(tags)
			}
			if desired != nil {
				p.Desired = patched(desired, &t.Desired, at)
			}
		})
	}, func(t *signet.Twin, known bool) {
		switch {
		case desired == nil:
		case known:
			r.desired(*t, notice)
		default:
			r.desired(*t, nil)
		}
	})
}

// CheckTwin refuses, as ChangeTwin would, tags and desired properties that a new
// twin could not begin with.
func (r *Registry) CheckTwin(tags, desired json.RawMessage) error {
	for _, part := range []struct {
		name string
		text json.RawMessage
		most int
	}{{"tags", tags, maxTags}, {"properties.desired", desired, maxProperties}} {
		values, err := section(part.name, part.text, true)
		if err != nil {
			return err
		}
		if err := apply(part.name, part.most, &signet.Properties{}, values, true, r.now()); err != nil {
			return err
		}
	}
	return nil
}

// Report merges what a device reports into its reported properties, if their
// version is ifVersion; 0 fits any. generation is that of the identity that the
// device was let in as. It gives the new version, and refuses as ChangeTwin does.
func (r *Registry) Report(ctx context.Context, hub, device, module, generation string, patch []byte, ifVersion int64) (version int64, err error) {
	reported, err := section("properties.reported", patch, false)
	if err == nil && reported == nil {
		err = twinMalformed("properties.reported", "a JSON object", "nothing")
	}
	if err != nil {
		return 0, err
	}
	t, err := r.changeTwin(ctx, hub, device, module, func(t *signet.Twin, at time.Time) ([]signet.Event, error) {
		if t.GenerationID != generation {
			return nil, unknown(device, module)
		}
		if ifVersion != 0 && ifVersion != t.Reported.Version {
			return nil, signet.Refuse(signet.ETagStale, "The reported properties of %q have version %d, not %d.",
				signet.IdentityName(device, module), t.Reported.Version, ifVersion)
		}
		if err := apply("properties.reported", maxProperties, &t.Reported, reported, false, at); err != nil {
			return nil, err
		}
		return r.twinChange(t, false, at, func(p *signet.TwinPatch) { p.Reported = patched(reported, &t.Reported, at) })
	}, nil)
	return t.Reported.Version, err
}

// twinTurn waits for the turn at a twin.
func (r *Registry) twinTurn(ctx context.Context, hub, device, module string) (leave func(), err error) {
	turn := r.twinTurns[maphash.String(r.twinSeed, hub+"\n"+signet.IdentityName(device, module))%uint64(len(r.twinTurns))]
	select {
	case turn <- struct{}{}:
		return func() { <-turn }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// changeTwin reads a twin, has it changed, and writes it, in one go for all who
// look from this process, with the events of the change. done, where there is one,
// is told after it is written, in the order of the versions: whether that is known
// or only possible.
func (r *Registry) changeTwin(ctx context.Context, hub, device, module string, change func(*signet.Twin, time.Time) ([]signet.Event, error),
	done func(t *signet.Twin, known bool)) (signet.Twin, error) {
	ctx, cancel := context.WithTimeout(ctx, twinTime)
	defer cancel()
	leave, err := r.twinTurn(ctx, hub, device, module)
	if err != nil {
		return signet.Twin{}, err
	}
	defer leave()
	for {
		was, err := r.store.Twin(ctx, hub, device, module)
		if errors.Is(err, signet.ErrNotFound) {
			return was, unknown(device, module)
		}
		if err != nil {
			return was, err
		}
		t := was
		if was.Version == 0 {
			t = signet.EmptyTwin(hub, device, module, was.GenerationID)
		}
		t.Version++
		events, err := change(&t, r.now())
		if err != nil {
			return t, err
		}
		// A caller who goes does not leave it open whether the change was made.
		store, cancel := context.WithTimeout(context.WithoutCancel(ctx), twinTime)
		err = r.store.WriteTwin(store, t, was.Version, events...)
		cancel()
		r.told(hub, events)
		switch {
		case errors.Is(err, signet.ErrStale) && ctx.Err() == nil:
			continue // another process was faster
		case errors.Is(err, signet.ErrStale):
			err = ctx.Err()
		case errors.Is(err, signet.ErrNotFound):
			return t, unknown(device, module)
		case done != nil:
			done(&t, err == nil)
		}
		return t, err
	}
}

// apply merges a patch into properties, or replaces them by it, and steps their
// version.
func apply(section string, most int, p *signet.Properties, patch object, replace bool, at time.Time) error {
	values, metadata := object{}, object{}
	if !replace {
		var err error
		if values, err = decode(p.Values); err != nil {
			return err
		}
		if metadata, err = decode(p.Metadata); err != nil {
			return err
		}
	}
	p.Version++
	merge(values, metadata, patch, newStamp(at, p.Version))
	bytes, members := size(values)
	switch {
	case bytes > most:
		return signet.Refuse(signet.LimitTwinSize, "The %s would have %d bytes.", section, bytes).At(section, strconv.Itoa(most)+" bytes at most", strconv.Itoa(bytes))
	case members > maxMembers:
		return signet.Refuse(signet.LimitTwinSize, "The %s would have %d members.", section, members).At(section, strconv.Itoa(maxMembers)+" members at most", strconv.Itoa(members))
	}
	text := encode(values)
	if len(text) > maxText {
		return signet.Refuse(signet.LimitTwinSize, "The %s would have %d bytes of JSON.", section, len(text)).At(section, strconv.Itoa(maxText)+" bytes at most", strconv.Itoa(len(text)))
	}
	p.Values, p.Metadata = text, encode(metadata)
	return nil
}

// stamp is what metadata says of a change.
type stamp struct {
	time    string
	version json.Number
}

func newStamp(at time.Time, version int64) stamp {
	return stamp{signet.AzureTime(at), json.Number(strconv.FormatInt(version, 10))}
}

// merge merges a patch (RFC 7396): null removes, objects merge, anything else
// replaces. metadata follows, each object and leaf of the patch with its stamp.
func merge(values, metadata, patch object, s stamp) {
	for key, value := range patch {
		switch value := value.(type) {
		case nil:
			delete(values, key)
			delete(metadata, key)
		case object:
			into, ok := values[key].(object)
			about, known := metadata[key].(object)
			if !ok {
				into = object{}
			}
			if !ok || !known {
				about = object{}
			}
			merge(into, about, value, s)
			values[key], metadata[key] = into, about
		default:
			values[key] = value
			metadata[key] = object{"$lastUpdated": s.time, "$lastUpdatedVersion": s.version}
		}
	}
	metadata["$lastUpdated"], metadata["$lastUpdatedVersion"] = s.time, s.version
}

// size counts as Azure does: keys and texts without control characters, 8 bytes
// a number, 4 a boolean, nothing for the rest; and how many members there are.
func size(v any) (bytes, members int) {
	switch v := v.(type) {
	case object:
		for key, value := range v {
			b, m := size(value)
			bytes, members = bytes+len(key)+b, members+1+m
		}
	case []any:
		for _, value := range v {
			b, m := size(value)
			bytes, members = bytes+b, members+1+m
		}
	case string:
		bytes = len(v)
		for _, r := range v {
			if isControl(r) {
				bytes -= utf8.RuneLen(r)
			}
		}
	case json.Number:
		bytes = 8
	case bool:
		bytes = 4
	}
	return bytes, members
}

// isControl: C0, DEL and C1.
func isControl(r rune) bool { return r < 0x20 || r >= 0x7f && r < 0xa0 }

// section reads a section of a change: nil where there is nothing, or, when it is
// to be whole, an empty object.
func section(name string, text []byte, whole bool) (object, error) {
	text = bytes.TrimSpace(text)
	if len(text) == 0 || string(text) == "null" {
		if whole {
			return object{}, nil
		}
		return nil, nil
	}
	if len(text) > maxText {
		return nil, signet.Refuse(signet.LimitTwinSize, "The %s have %d bytes of JSON.", name, len(text)).At(name, strconv.Itoa(maxText)+" bytes at most", strconv.Itoa(len(text)))
	}
	if !utf8.Valid(text) {
		return nil, twinMalformed(name, "UTF-8", "bytes that are none")
	}
	o, err := decode(text)
	if err != nil {
		return nil, twinMalformed(name, "a JSON object", "JSON that is none")
	}
	// Whoever sends a twin back as it was read sends these two with it.
	delete(o, "$metadata")
	delete(o, "$version")
	return o, check(o, []string{name})
}

// check holds all that is in a section to the limits that each part has. path is
// where v lies. Numbers are put in their shortest form when they are longer than
// one needs to be.
func check(v any, path []string) error {
	switch v := v.(type) {
	case object:
		for key, value := range v {
			if len(key) == 0 || len(key) > maxKey || strings.ContainsFunc(key, func(r rune) bool { return isControl(r) || strings.ContainsRune(".$# ", r) }) {
				return twinMalformed(strings.Join(path, "."), "keys of 1 to 1024 bytes without control characters, spaces and . $ #", strconv.Quote(signet.Clip(key)))
			}
			checked, err := checkMember(value, append(path, key))
			if err != nil {
				return err
			}
			v[key] = checked
		}
	case []any:
		for i, value := range v {
			checked, err := checkMember(value, append(path, strconv.Itoa(i)))
			if err != nil {
				return err
			}
			v[i] = checked
		}
	}
	return nil
}

func checkMember(v any, path []string) (any, error) {
	switch v := v.(type) {
	case object, []any:
		if len(path)-1 > maxLevels {
			return v, signet.Refuse(signet.LimitTwinSize, "The %s are nested more than %d deep.", path[0], maxLevels)
		}
		return v, check(v, path)
	case json.Number:
		return number(v, path)
	case string:
		if len(v) > maxString || strings.ContainsRune(v, 0) {
			return v, twinMalformed(strings.Join(path, "."), "text of at most 4096 bytes without NUL", strconv.Itoa(len(v))+" bytes")
		}
	}
	return v, nil
}

// longNumber is more than any double needs.
const longNumber = 25

// number takes a JSON number: an integer of 53 bits, or a finite double.
func number(n json.Number, path []string) (json.Number, error) {
	if !strings.ContainsAny(string(n), ".eE") {
		if i, err := strconv.ParseInt(string(n), 10, 64); err != nil || i < minInteger || i > maxInteger {
			return n, twinMalformed(strings.Join(path, "."), "a whole number from -4503599627370496 to 4503599627370495", string(n))
		}
		return n, nil
	}
	f, err := strconv.ParseFloat(string(n), 64)
	if err != nil || math.IsInf(f, 0) {
		return n, twinMalformed(strings.Join(path, "."), "a number of double precision", string(n))
	}
	if f == 0 && strings.ContainsAny(string(n), "eE") {
		n = "0" // PostgreSQL has no number with such an exponent
	}
	if len(n) > longNumber {
		n = json.Number(strconv.FormatFloat(f, 'e', -1, 64))
	}
	return n, nil
}

func twinMalformed(field, expected, actual string) *signet.Error {
	field = signet.Clip(field)
	return signet.Refuse(signet.TwinMalformed, "The %s cannot be kept; wanted: %s.", field, expected).At(field, expected, actual)
}

func decode(text []byte) (object, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber() // what was written is what is given back
	var o object
	if err := d.Decode(&o); err != nil {
		return nil, err
	}
	if _, err := d.Token(); o == nil || err != io.EOF {
		return nil, errors.New("more or less than an object")
	}
	return o, nil
}

// encode writes an object that decode gave.
func encode(o object) []byte {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	if err := e.Encode(o); err != nil {
		panic("registry: " + err.Error()) // no value of JSON cannot be written
	}
	return bytes.TrimSuffix(text.Bytes(), []byte("\n"))
}
