package registry_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/internal/memstore"
	"github.com/signet-iot/signet/registry"
)

// notice is what the hub would tell a device.
type notice struct {
	Name    string
	Version int64
	Patch   string
}

// twins is a registry with the device "d", at an hour that stands still.
type twins struct {
	*registry.Registry
	store   *memstore.Store
	device  signet.Identity
	notices []notice
}

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func newTwins(t testing.TB) *twins {
	t.Helper()
	w := &twins{store: memstore.New()}
	w.Registry = registry.New(w.store, registry.Options{
		Now: func() time.Time { return noon },
		Desired: func(t signet.Twin, patch []byte) {
			w.notices = append(w.notices, notice{t.Hub + "/" + signet.IdentityName(t.DeviceID, t.ModuleID), t.Desired.Version, string(patch)})
		},
	})
	_, err := w.CreateHub(context.Background(), "hub", "hub.test")
	if err == nil {
		w.device, err = w.Create(context.Background(), signet.Identity{Hub: "hub", DeviceID: "d"})
	}
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *twins) patch(desired string) (signet.Twin, error) {
	return w.ChangeTwin(context.Background(), "hub", "d", "", registry.TwinChange{Desired: []byte(desired)}, "")
}

// BenchmarkTwinPatch is a desired change of one property of ten, and its telling.
func BenchmarkTwinPatch(b *testing.B) {
	w := newTwins(b)
	var patches [2]string
	for n := range patches {
		patches[n] = fmt.Sprintf(`{"p0":{"value":%d}}`, n)
	}
	for n := range 10 {
		if _, err := w.patch(fmt.Sprintf(`{"p%d":{"value":0}}`, n)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		n++
		w.notices = w.notices[:0]
		if _, err := w.patch(patches[n%2]); err != nil {
			b.Fatal(err)
		}
	}
}

func (w *twins) report(patch string, ifVersion int64) (int64, error) {
	return w.Report(context.Background(), "hub", "d", "", w.device.GenerationID, []byte(patch), ifVersion)
}

func equal(t *testing.T, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// TestTwinLife: what each side writes, what the versions say, and what the device
// is told.
func TestTwinLife(t *testing.T) {
	w := newTwins(t)
	first, err := w.Twin(t.Context(), "hub", "d", "")
	if err != nil {
		t.Fatal(err)
	}
	equal(t, first, signet.EmptyTwin("hub", "d", "", w.device.GenerationID))

	second, err := w.ChangeTwin(t.Context(), "hub", "d", "", registry.TwinChange{
		Tags: []byte(`{"site":{"hall":4,"city":"Zürich"}}`), Desired: []byte(`{"a":{"b":1,"c":[1,null,{"x":2.50}]},"s":"<&>"}`)}, first.ETag)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, string(second.Tags), `{"site":{"city":"Zürich","hall":4}}`)
	equal(t, string(second.Desired.Values), `{"a":{"b":1,"c":[1,null,{"x":2.50}]},"s":"<&>"}`)
	equal(t, []int64{second.Version, second.Desired.Version, second.Reported.Version}, []int64{3, 2, 1})
	if second.ETag == first.ETag {
		t.Error("the etag stayed")
	}

	// A patch merges: null removes, a parent of nothing stays, arrays are replaced.
	third, err := w.patch(`{"a":{"b":null,"c":[2]},"s":null,"never":null,"$version":7,"$metadata":{}}`)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, string(third.Desired.Values), `{"a":{"c":[2]}}`)
	equal(t, string(third.Desired.Metadata), `{"$lastUpdated":"2026-11-23T12:00:00.0000000Z","$lastUpdatedVersion":3,`+
		`"a":{"$lastUpdated":"2026-11-23T12:00:00.0000000Z","$lastUpdatedVersion":3,"c":{"$lastUpdated":"2026-11-23T12:00:00.0000000Z","$lastUpdatedVersion":3}}}`)
	equal(t, string(third.Tags), string(second.Tags))

	// The device reports; the back end's etag stays good.
	version, err := w.report(`{"fw":"1.2","x":{"y":1}}`, 0)
	if err != nil || version != 2 {
		t.Fatal(version, err)
	}
	if version, err = w.report(`{"x":{"y":null}}`, 2); err != nil || version != 3 {
		t.Fatal(version, err)
	}
	_, err = w.report(`{"x":5}`, 2)
	code(t, err, signet.ETagStale)
	fourth, err := w.Twin(t.Context(), "hub", "d", "")
	if err != nil {
		t.Fatal(err)
	}
	equal(t, string(fourth.Reported.Values), `{"fw":"1.2","x":{}}`)
	equal(t, []any{fourth.ETag, fourth.Version, fourth.Desired.Version}, []any{third.ETag, int64(6), int64(3)})

	// A stale etag changes nothing; tags alone tell the device nothing.
	_, err = w.ChangeTwin(t.Context(), "hub", "d", "", registry.TwinChange{Desired: []byte(`{"a":1}`)}, first.ETag)
	code(t, err, signet.ETagStale)
	if _, err := w.ChangeTwin(t.Context(), "hub", "d", "", registry.TwinChange{Tags: []byte(`{"site":null}`)}, "*"); err != nil {
		t.Fatal(err)
	}
	last, err := w.ChangeTwin(t.Context(), "hub", "d", "", registry.TwinChange{Desired: []byte(`{"new":{"gone":null}}`), Replace: true}, "")
	if err != nil {
		t.Fatal(err)
	}
	equal(t, string(last.Tags)+string(last.Desired.Values), `{}{"new":{}}`)
	equal(t, w.notices, []notice{
		{"hub/d", 2, `{"a":{"b":1,"c":[1,null,{"x":2.50}]},"s":"<&>"}`},
		{"hub/d", 3, `{"a":{"b":null,"c":[2]},"never":null,"s":null}`},
		{"hub/d", 4, `{"new":{"gone":null}}`},
	})
}

// TestTwinOfALaterDevice: a twin goes with its identity, and what an earlier
// device of the name reports does not reach it.
func TestTwinOfALaterDevice(t *testing.T) {
	w := newTwins(t)
	if _, err := w.patch(`{"a":1}`); err != nil {
		t.Fatal(err)
	}
	earlier := w.device.GenerationID
	if err := w.Delete(t.Context(), "hub", "d", "", "*"); err != nil {
		t.Fatal(err)
	}
	_, err := w.Twin(t.Context(), "hub", "d", "")
	code(t, err, signet.IdentityUnknown)
	_, err = w.patch(`{}`)
	code(t, err, signet.IdentityUnknown)
	_, err = w.report(`{}`, 0)
	code(t, err, signet.IdentityUnknown)

	later := registry.New(w.store, registry.Options{Now: func() time.Time { return noon.Add(time.Second) }})
	if _, err := later.Create(t.Context(), signet.Identity{Hub: "hub", DeviceID: "d"}); err != nil {
		t.Fatal(err)
	}
	_, err = later.Report(t.Context(), "hub", "d", "", earlier, []byte(`{"a":1}`), 0)
	code(t, err, signet.IdentityUnknown)
	if twin, err := later.Twin(t.Context(), "hub", "d", ""); err != nil || twin.Version != 2 || string(twin.Desired.Values) != "{}" {
		t.Errorf("%+v %v", twin, err)
	}
}

// TestTwinLimits: just within, and just beyond.
func TestTwinLimits(t *testing.T) {
	nested := func(levels int) string { return strings.Repeat(`{"a":`, levels) + "1" + strings.Repeat("}", levels) }
	arrays := func(levels int) string {
		return `{"a":` + strings.Repeat("[", levels) + strings.Repeat("]", levels) + `}`
	}
	members := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `,"%x":{}`, i)
		}
		return "{" + b.String()[1:] + "}"
	}
	// Each of eight texts counts 4096 bytes with its key of one.
	full := func(last int) string {
		var b strings.Builder
		for i := range 8 {
			n := 4095
			if i == 7 {
				n += last
			}
			fmt.Fprintf(&b, `,"%d":"%s"`, i, strings.Repeat("x", n))
		}
		return "{" + b.String()[1:] + "}"
	}
	for name, c := range map[string]struct {
		patch string
		want  signet.Code
	}{
		"11 objects within another": {nested(11), ""},
		"12 objects":                {nested(12), signet.LimitTwinSize},
		"10 arrays":                 {arrays(10), ""},
		"11 arrays":                 {arrays(11), signet.LimitTwinSize},
		"5000 arrays":               {arrays(5000), signet.LimitTwinSize},
		"50000 arrays":              {arrays(50000), signet.TwinMalformed},
		"4096 members":              {members(4096), ""},
		"4097 members":              {members(4097), signet.LimitTwinSize},
		"32 KB":                     {full(0), ""},
		"32 KB and one":             {full(1), signet.LimitTwinSize},
		"a text of 4096":            {`{"a":"` + strings.Repeat("x", 4096) + `"}`, ""},
		"a text of 4097":            {`{"a":"` + strings.Repeat("x", 4097) + `"}`, signet.TwinMalformed},
		"a text in an array":        {`{"a":["` + strings.Repeat("x", 4097) + `"]}`, signet.TwinMalformed},
		"a key of 1024":             {`{"` + strings.Repeat("k", 1024) + `":1}`, ""},
		"a key of 1025":             {`{"` + strings.Repeat("k", 1025) + `":1}`, signet.TwinMalformed},
		"no key":                    {`{"":1}`, signet.TwinMalformed},
		"a key with a dot":          {`{"a.b":1}`, signet.TwinMalformed},
		"a key with a dollar":       {`{"a":{"$version":1}}`, signet.TwinMalformed},
		"a key with a space":        {`{"a b":null}`, signet.TwinMalformed},
		"a key with a hash":         {`{"a":[{"#":1}]}`, signet.TwinMalformed},
		"a key with a control":      {"{\"a\u0085\":1}", signet.TwinMalformed},
		"umlauts":                   {`{"ä":"ö","漢":"字"}`, ""},
		"the largest integer":       {`{"a":4503599627370495,"b":-4503599627370496}`, ""},
		"one more":                  {`{"a":4503599627370496}`, signet.TwinMalformed},
		"one less":                  {`{"a":[-4503599627370497]}`, signet.TwinMalformed},
		"a huge integer":            {`{"a":` + strings.Repeat("9", 500) + `}`, signet.TwinMalformed},
		"doubles":                   {`{"a":1.5e300,"b":-0.0,"c":1E+2}`, ""},
		"no double":                 {`{"a":1e400}`, signet.TwinMalformed},
		"NUL":                       {`{"a":"\u0000"}`, signet.TwinMalformed},
		"half a character":          {"{\"a\":\"\xc3\"}", signet.TwinMalformed},
		"an array":                  {`[1]`, signet.TwinMalformed},
		"a number":                  {`1`, signet.TwinMalformed},
		"two objects":               {`{}{}`, signet.TwinMalformed},
		"cut short":                 {`{"a":`, signet.TwinMalformed},
		"white space":               {"\n{ }\t", ""},
		"too much white space":      {"{" + strings.Repeat(" ", 128<<10) + "}", signet.LimitTwinSize},
	} {
		w := newTwins(t)
		_, err := w.report(c.patch, 0)
		if signet.CodeOf(err) != c.want {
			t.Errorf("%s, reported: %v, want %q", name, err, c.want)
		}
		_, err = w.patch(c.patch)
		if signet.CodeOf(err) != c.want {
			t.Errorf("%s, desired: %v, want %q", name, err, c.want)
		}
		if kept, err := w.Twin(t.Context(), "hub", "d", ""); err != nil || c.want != "" && kept.Version != 2 {
			t.Errorf("%s: a refused change was kept: %v", name, err)
		}
	}

	w := newTwins(t)
	for _, nothing := range []string{"", "null", " "} {
		_, err := w.report(nothing, 0)
		code(t, err, signet.TwinMalformed)
	}
	_, err := w.ChangeTwin(t.Context(), "hub", "d", "", registry.TwinChange{Tags: []byte(`{"a":"` + strings.Repeat("x", 4096) + `","b":"` + strings.Repeat("x", 4095) + `"}`)}, "")
	code(t, err, signet.LimitTwinSize)

	// Patches that are small each do not add up to more than may be.
	for n := range 8 {
		_, err = w.report(fmt.Sprintf(`{"%d":"%s"}`, n, strings.Repeat(`\u001f`, 10)+strings.Repeat("x", 4080)), 0)
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err = w.report(`{"one more":1}`, 0)
	code(t, err, signet.TwinMalformed)
	_, err = w.report(`{"more":"`+strings.Repeat("x", 200)+`"}`, 0)
	code(t, err, signet.LimitTwinSize)
	// Nor do those of signs that do not count.
	for n := range 6 {
		_, err = w.patch(fmt.Sprintf(`{"%d":"%s"}`, n, strings.Repeat(`\u001f`, 4096)))
		if want := map[bool]signet.Code{true: signet.LimitTwinSize}[n == 5]; signet.CodeOf(err) != want { // 24 KB of JSON each
			t.Errorf("%d: %v, want %q", n, err, want)
		}
	}
	if _, err = w.patch(`{"0":null,"1":null,"2":null,"3":null,"4":null}`); err != nil {
		t.Fatal(err)
	}
	// A number longer than any double needs is kept as the double that it is.
	twin, err := w.patch(`{"pi":3.` + strings.Repeat("1415926535", 1000) + `}`)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, string(twin.Desired.Values), `{"pi":3.1415926535141594e+00}`)
	// One that is nothing but for its exponent is nothing.
	twin, err = w.patch(`{"pi":null,"tiny":1e-20000,"zero":0e99999,"small":1e-310}`)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, string(twin.Desired.Values), `{"small":1e-310,"tiny":0,"zero":0}`)
}

// TestTwinTogether: many change one twin at once; nothing is lost, and the device
// hears of the versions in their order. Another process has its say between.
func TestTwinTogether(t *testing.T) {
	w := newTwins(t)
	var busy atomic.Bool
	w.store.Before = func(operation string) error {
		if operation == "WriteTwin" && busy.CompareAndSwap(false, true) {
			other := registry.New(w.store, registry.Options{})
			if _, err := other.ChangeTwin(context.Background(), "hub", "d", "", registry.TwinChange{Tags: []byte(`{"other":1}`)}, ""); err != nil {
				t.Error(err)
			}
		}
		return nil
	}
	var wg sync.WaitGroup
	for n := range 40 {
		wg.Go(func() {
			var err error
			if n%2 == 0 {
				_, err = w.patch(fmt.Sprintf(`{"k%d":%d}`, n, n))
			} else {
				_, err = w.report(fmt.Sprintf(`{"k%d":%d}`, n, n), 0)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	twin, err := w.Twin(t.Context(), "hub", "d", "")
	if err != nil {
		t.Fatal(err)
	}
	var desired, reported map[string]int
	if err := errors.Join(json.Unmarshal(twin.Desired.Values, &desired), json.Unmarshal(twin.Reported.Values, &reported)); err != nil {
		t.Fatal(err)
	}
	equal(t, []int64{int64(len(desired)), int64(len(reported)), twin.Version, twin.Desired.Version, twin.Reported.Version}, []int64{20, 20, 43, 21, 21})
	equal(t, string(twin.Tags), `{"other":1}`)
	for n, notice := range w.notices {
		if notice.Version != int64(n+2) {
			t.Fatalf("version %d came as number %d", notice.Version, n)
		}
	}
}

// TestTwinFaults: a store that fails before or after a write leads to no wrong
// word to the device, and to nobody's waiting.
func TestTwinFaults(t *testing.T) {
	w := newTwins(t)
	fault := func(operation string) error {
		if operation == "WriteTwin" {
			return memstore.ErrFault
		}
		return nil
	}
	w.store.Before = fault
	if _, err := w.patch(`{"a":1}`); !errors.Is(err, memstore.ErrFault) {
		t.Error(err)
	}
	w.store.Before, w.store.After = nil, fault
	if _, err := w.patch(`{"a":2}`); !errors.Is(err, memstore.ErrFault) {
		t.Error(err)
	}
	if _, err := w.report(`{"a":2}`, 0); !errors.Is(err, memstore.ErrFault) {
		t.Error(err)
	}
	w.store.After = nil
	// Either time the device is told that it cannot be known.
	equal(t, w.notices, []notice{{"hub/d", 2, ""}, {"hub/d", 2, ""}})

	// A caller who leaves while another has the turn waits no longer.
	entered, leave := make(chan bool), make(chan bool)
	w.store.Before = func(operation string) error {
		if operation == "WriteTwin" {
			entered <- true
			<-leave
		}
		return nil
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := w.patch(`{"a":3}`); err != nil {
			t.Error(err)
		}
	})
	<-entered
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Report(ctx, "hub", "d", "", w.device.GenerationID, []byte(`{}`), 0); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	leave <- true
	wg.Wait()
}

// FuzzTwin holds whatever is accepted to RFC 7396, to the limits, and to metadata
// of the same shape.
func FuzzTwin(f *testing.F) {
	f.Add([]byte(`{"a":{"b":1},"c":[1,{"d":null}]}`), []byte(`{"a":{"b":null,"e":{}},"c":"x"}`))
	f.Add([]byte(`{"a":1e2,"$version":1}`), []byte(`{"a":{"b":{"c":null}}}`))
	f.Add([]byte(`{"a":"\ud800\u001f","b":0.10000000000000000000000000001}`), []byte(`{"b":null,"a":[]}`))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		w := newTwins(t)
		var want any = map[string]any{}
		for _, patch := range [][]byte{first, second} {
			_, err := w.report(string(patch), 0)
			if err != nil {
				if c := signet.CodeOf(err); c != signet.TwinMalformed && c != signet.LimitTwinSize {
					t.Fatal(err)
				}
				continue
			}
			var p map[string]any
			if err := json.Unmarshal(patch, &p); err != nil {
				t.Fatalf("%s was taken: %v", patch, err)
			}
			delete(p, "$version")
			delete(p, "$metadata")
			want = rfc7396(want, p)
		}
		twin, err := w.Twin(t.Context(), "hub", "d", "")
		if err != nil {
			t.Fatal(err)
		}
		var got, metadata map[string]any
		if err := errors.Join(json.Unmarshal(twin.Reported.Values, &got), json.Unmarshal(twin.Reported.Metadata, &metadata)); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(any(got), want) {
			t.Fatalf("%s then %s made %s", first, second, twin.Reported.Values)
		}
		shape(t, got, metadata)
	})
}

// rfc7396 is the function MergePatch of the RFC, line by line.
func rfc7396(target, patch any) any {
	p, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	into, ok := target.(map[string]any)
	if !ok {
		into = map[string]any{}
	}
	for name, value := range p {
		if value == nil {
			delete(into, name)
		} else {
			into[name] = rfc7396(into[name], value)
		}
	}
	return into
}

// shape: metadata has the members of the values, and the two of its own.
func shape(t *testing.T, values, metadata map[string]any) {
	t.Helper()
	if _, ok := metadata["$lastUpdated"].(string); !ok {
		t.Fatal("no time stamp")
	}
	own := 0
	for name := range metadata {
		if strings.HasPrefix(name, "$") {
			own++
		}
	}
	if len(metadata)-own != len(values) {
		t.Fatalf("metadata %v of values %v", metadata, values)
	}
	for name, value := range values {
		about, ok := metadata[name].(map[string]any)
		if !ok {
			t.Fatalf("no metadata of %q", name)
		}
		inner, _ := value.(map[string]any)
		shape(t, inner, about)
	}
}

// TestModules: a device has up to fifty.
func TestModules(t *testing.T) {
	w := newTwins(t)
	_, err := w.Modules(t.Context(), "hub", "nobody")
	code(t, err, signet.IdentityUnknown)
	for n := range registry.MaxModules {
		if _, err := w.Create(t.Context(), signet.Identity{Hub: "hub", DeviceID: "d", ModuleID: fmt.Sprintf("m%02d", n)}); err != nil {
			t.Fatal(err)
		}
	}
	_, err = w.Create(t.Context(), signet.Identity{Hub: "hub", DeviceID: "d", ModuleID: "x"})
	code(t, err, signet.LimitModules)
	list, err := w.Modules(t.Context(), "hub", "d")
	if err != nil || len(list) != registry.MaxModules || list[9].ModuleID != "m09" {
		t.Errorf("%d %v", len(list), err)
	}
}
