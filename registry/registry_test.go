package registry_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/internal/memstore"
	"github.com/signet-iot/signet/registry"
)

func newRegistry(t *testing.T) (*registry.Registry, *memstore.Store, *[]signet.Change) {
	t.Helper()
	store, changes := memstore.New(), &[]signet.Change{}
	var mu sync.Mutex
	r := registry.New(store, registry.Options{Changed: func(_ context.Context, c signet.Change) {
		mu.Lock()
		*changes = append(*changes, c)
		mu.Unlock()
	}})
	if _, err := r.CreateHub(t.Context(), "hub", "Hub.Example.Test."); err != nil {
		t.Fatal(err)
	}
	return r, store, changes
}

func code(t *testing.T, err error, want signet.Code) {
	t.Helper()
	if got := signet.CodeOf(err); got != want {
		t.Errorf("got %q (%v), want %q", got, err, want)
	}
}

func TestHubs(t *testing.T) {
	r, _, changes := newRegistry(t)
	h, err := r.HubByHost("HUB.example.test:8883")
	if err != nil || h.Name != "hub" || h.HostName != "hub.example.test" || len(h.Policies) != 5 {
		t.Fatalf("%+v %v", h, err)
	}
	if owner := h.Policies[0]; owner.Name != "iothubowner" || !owner.Rights.Has(signet.RegistryWrite|signet.DeviceConnect) || len(owner.PrimaryKey) != 44 || owner.PrimaryKey == owner.SecondaryKey {
		t.Errorf("%+v", owner)
	}
	for _, c := range []struct {
		name, host string
		want       signet.Code
	}{
		{"hub", "other.test", signet.HubExists},
		{"HUB", "other.test", signet.HubExists},
		{"other", "hub.example.test", signet.HubExists},
		{"x", "x.test", signet.HubMalformed},
		{"-bad-", "x.test", signet.HubMalformed},
		{"a.b.c", "x.test", signet.HubMalformed},
		{"Devices", "x.test", signet.HubMalformed}, // its address as an event hub would be one of a device
		{"messages", "x.test", signet.HubMalformed},
		{"good", "no blanks", signet.HubMalformed},
		{"good", "", signet.HubMalformed},
		{"good", strings.Repeat("a.", 150) + "test", signet.HubMalformed},
		{"good", "good.test", ""},
	} {
		_, err := r.CreateHub(t.Context(), c.name, c.host)
		code(t, err, c.want)
	}
	*changes = nil
	if err := r.DeleteHub(t.Context(), "hub"); err != nil || len(*changes) != 1 || !(*changes)[0].HubDeleted {
		t.Errorf("%v %v", err, *changes)
	}
	_, err = r.HubByHost("hub.example.test")
	code(t, err, signet.HubUnknown)
	code(t, r.DeleteHub(t.Context(), "hub"), signet.HubUnknown)
}

// TestIdentityLife: the etag rules, step by step.
func TestIdentityLife(t *testing.T) {
	r, _, changes := newRegistry(t)
	ctx := t.Context()
	i, err := r.Create(ctx, signet.Identity{Hub: "hub", DeviceID: "d"})
	if err != nil || i.Auth.Type != signet.AuthSAS || len(i.Auth.PrimaryKey) != 44 || i.Status != signet.Enabled || i.ETag == "" || i.GenerationID == "" {
		t.Fatalf("%+v %v", i, err)
	}
	_, err = r.Create(ctx, i)
	code(t, err, signet.IdentityExists)
	_, err = r.Replace(ctx, i, "")
	code(t, err, signet.ETagMissing)
	_, err = r.Replace(ctx, i, "stale")
	code(t, err, signet.ETagStale)
	*changes = nil
	i.Status = signet.Disabled
	second, err := r.Replace(ctx, i, i.ETag)
	if err != nil || second.ETag == i.ETag || second.GenerationID != i.GenerationID || second.StatusUpdatedTime.IsZero() || len(*changes) != 1 {
		t.Fatalf("%+v %v %v", second, err, *changes)
	}
	_, err = r.Replace(ctx, i, i.ETag)
	code(t, err, signet.ETagStale)
	code(t, r.Delete(ctx, "hub", "d", "", ""), signet.ETagMissing)
	code(t, r.Delete(ctx, "hub", "d", "", i.ETag), signet.ETagStale)
	code(t, r.Delete(ctx, "other", "d", "", "*"), signet.IdentityUnknown)
	if err := r.Delete(ctx, "hub", "d", "", second.ETag); err != nil {
		t.Fatal(err)
	}
	_, err = r.Get(ctx, "hub", "d", "")
	code(t, err, signet.IdentityUnknown)
	_, err = r.Replace(ctx, i, "*")
	code(t, err, signet.IdentityUnknown)
	again, err := r.Create(ctx, signet.Identity{Hub: "hub", DeviceID: "d"})
	if err != nil || again.GenerationID == i.GenerationID {
		t.Errorf("a device made anew has the generation of the old one: %+v %v", again, err)
	}
}

// TestMalformed: what cannot be kept, and the field that is named for it.
func TestMalformed(t *testing.T) {
	r, _, _ := newRegistry(t)
	key := "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
	sas := func(primary, secondary string) signet.Authentication {
		return signet.Authentication{Type: signet.AuthSAS, PrimaryKey: primary, SecondaryKey: secondary}
	}
	thumb := func(primary, secondary string) signet.Authentication {
		return signet.Authentication{Type: signet.AuthSelfSigned, PrimaryThumbprint: primary, SecondaryThumbprint: secondary}
	}
	for name, c := range map[string]struct {
		signet.Identity
		field string // "" is kept
	}{
		"no ID":                        {signet.Identity{}, "deviceId"},
		"an ID of 129 characters":      {signet.Identity{DeviceID: strings.Repeat("x", 129)}, "deviceId"},
		"an ID with a slash":           {signet.Identity{DeviceID: "a/b"}, "deviceId"},
		"an ID with NUL":               {signet.Identity{DeviceID: "a\x00"}, "deviceId"},
		"an ID that is no UTF-8":       {signet.Identity{DeviceID: "a\xff"}, "deviceId"},
		"a reserved module":            {signet.Identity{DeviceID: "d", ModuleID: "$edgeHub"}, "moduleId"},
		"another status":               {signet.Identity{DeviceID: "d", Status: "paused"}, "status"},
		"a reason too long":            {signet.Identity{DeviceID: "d", StatusReason: strings.Repeat("ä", 129)}, "statusReason"},
		"another type":                 {signet.Identity{DeviceID: "d", Auth: signet.Authentication{Type: "none"}}, "authentication.type"},
		"one key of two":               {signet.Identity{DeviceID: "d", Auth: sas(key, "")}, "authentication.symmetricKey.secondaryKey"},
		"a key too short":              {signet.Identity{DeviceID: "d", Auth: sas("YQ==", key)}, "authentication.symmetricKey.primaryKey"},
		"a key that is no base64":      {signet.Identity{DeviceID: "d", Auth: sas(key, "!")}, "authentication.symmetricKey.secondaryKey"},
		"a thumbprint with separators": {signet.Identity{DeviceID: "d", Auth: thumb("AA:BB", "")}, "authentication.x509Thumbprint.primaryThumbprint"},
		"thumbprints of two kinds":     {signet.Identity{DeviceID: "d", Auth: thumb(strings.Repeat("A", 40), strings.Repeat("A", 64))}, "authentication.x509Thumbprint"},
		"two keys":                     {signet.Identity{DeviceID: "k", Auth: sas(key, key)}, ""},
		"two thumbprints":              {signet.Identity{DeviceID: "t", Auth: thumb(strings.Repeat("a", 64), strings.Repeat("B", 64))}, ""},
	} {
		c.Identity.Hub = "hub"
		kept, err := r.Create(t.Context(), c.Identity)
		e, _ := errors.AsType[*signet.Error](err)
		switch {
		case c.field == "" && err == nil:
		case c.field == "" || e == nil || e.Code != signet.IdentityMalformed || e.Field != c.field:
			t.Errorf("%s: %v, want the field %q", name, err, c.field)
		case strings.Contains(e.Error()+e.Actual, key):
			t.Errorf("%s: the error repeats a key", name)
		}
		// A type keeps what it uses and nothing else.
		if err == nil && kept.Auth.Type == signet.AuthSelfSigned && kept.Auth.PrimaryKey != "" {
			t.Errorf("%s: %+v", name, kept.Auth)
		}
	}
}

// TestRaces: of two that do the same at once, one is told that it did not.
func TestRaces(t *testing.T) {
	r, _, _ := newRegistry(t)
	outcomes := func(f func() error) map[signet.Code]int {
		var mu sync.Mutex
		var wg sync.WaitGroup
		seen := map[signet.Code]int{}
		for range 8 {
			wg.Go(func() {
				err := f()
				mu.Lock()
				seen[signet.CodeOf(err)]++
				mu.Unlock()
			})
		}
		wg.Wait()
		return seen
	}
	got := outcomes(func() error {
		_, err := r.Create(t.Context(), signet.Identity{Hub: "hub", DeviceID: "d"})
		return err
	})
	if got[""] != 1 || got[signet.IdentityExists] != 7 {
		t.Errorf("create: %v", got)
	}
	i, _ := r.Get(t.Context(), "hub", "d", "")
	got = outcomes(func() error { _, err := r.Replace(t.Context(), i, i.ETag); return err })
	if got[""] != 1 || got[signet.ETagStale] != 7 {
		t.Errorf("replace: %v", got)
	}
	got = outcomes(func() error { _, err := r.Replace(t.Context(), i, "*"); return err })
	if got[""] != 8 {
		t.Errorf("replace whatever is there: %v", got)
	}
}

func TestBulk(t *testing.T) {
	r, store, _ := newRegistry(t)
	id := func(name string) signet.Identity { return signet.Identity{DeviceID: name} }
	module := func(device, name string) signet.Identity { return signet.Identity{DeviceID: device, ModuleID: name} }
	text := func(s string) json.RawMessage { return json.RawMessage(s) }
	r.Create(t.Context(), signet.Identity{Hub: "hub", DeviceID: "there"})
	if _, err := r.ChangeTwin(t.Context(), "hub", "there", "", registry.TwinChange{Tags: text(`{"old":1}`), Desired: text(`{"old":1}`)}, ""); err != nil {
		t.Fatal(err)
	}
	outcomes := r.Bulk(t.Context(), "hub", []registry.BulkItem{
		{Mode: registry.BulkCreate, Identity: module("a", "m"), Desired: text(`{"m":1}`)}, // its device comes after it
		{Mode: registry.BulkCreate, Identity: id("a"), Tags: text(`{"site":"x"}`), Desired: text(`{"$version":7,"rate":1}`)},
		{Mode: registry.BulkCreate, Identity: id("there")},
		{Mode: registry.BulkUpdate, Identity: id("gone")},
		{Mode: registry.BulkDeleteIfMatchETag, Identity: id("there"), ETag: "stale"},
		{Mode: registry.BulkCreateOrUpdate, Identity: id("there"), Tags: text(`{"new":1}`), Desired: text("null")},
		{Mode: "dance", Identity: id("c")},
		{Mode: registry.BulkCreate, Identity: id("bad"), Tags: text(`{"a.b":1}`)},
		{Mode: registry.BulkCreate, Identity: id("large"), Tags: text(`{"a":"` + strings.Repeat("x", 4096) + `","b":"` + strings.Repeat("x", 4096) + `"}`)},
		{Mode: registry.BulkUpdateTwin, Identity: id("gone"), Tags: text(`{}`)},
		{Mode: registry.BulkUpdateTwinIfMatchETag, Identity: id("there"), TwinETag: "stale", Tags: text(`{}`)},
		{Mode: registry.BulkUpdateTwinIfMatchETag, Identity: id("there"), Tags: text(`{}`)},
	})
	for n, want := range []signet.Code{"", "", signet.IdentityExists, signet.IdentityUnknown, signet.ETagStale, "", signet.IdentityMalformed,
		signet.TwinMalformed, signet.LimitTwinSize, signet.IdentityUnknown, signet.ETagStale, signet.ETagMissing} {
		if got := signet.CodeOf(outcomes[n].Err); got != want || outcomes[n].Twin != nil {
			t.Errorf("item %d: %v, want %q", n, outcomes[n], want)
		}
	}
	twin := func(device, module, want string) {
		t.Helper()
		twin, err := r.Twin(t.Context(), "hub", device, module)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, string(twin.Tags)+string(twin.Desired.Values), want)
	}
	twin("a", "", `{"site":"x"}{"rate":1}`)
	twin("a", "m", `{}{"m":1}`)
	twin("there", "", `{"new":1}{"old":1}`)
	for _, name := range []string{"bad", "large"} {
		_, err := r.Get(t.Context(), "hub", name, "")
		code(t, err, signet.IdentityUnknown)
	}

	// The modes of twins merge; modules go before their device.
	outcomes = r.Bulk(t.Context(), "hub", []registry.BulkItem{
		{Mode: registry.BulkUpdateTwin, Identity: id("there"), Tags: text(`{"newer":2,"new":null}`), Desired: text(`{"b":1}`)},
		{Mode: registry.BulkDelete, Identity: id("a")},
		{Mode: registry.BulkDelete, Identity: module("a", "m")},
	})
	equal(t, outcomes, make([]registry.BulkOutcome, 3))
	twin("there", "", `{"newer":2}{"b":1,"old":1}`)

	fails := func(operation string) {
		store.Before = func(now string) error {
			if now == operation {
				return memstore.ErrFault
			}
			return nil
		}
	}
	fails("CreateIdentity")
	if o := r.Bulk(t.Context(), "hub", []registry.BulkItem{{Mode: registry.BulkCreate, Identity: id("z")}}); signet.CodeOf(o[0].Err) != signet.Internal {
		t.Error(o)
	}
	fails("WriteTwin")
	if o := r.Bulk(t.Context(), "hub", []registry.BulkItem{{Mode: registry.BulkCreate, Identity: id("z"), Tags: text(`{"a":1}`)}}); o[0].Err != nil || signet.CodeOf(o[0].Twin) != signet.Internal {
		t.Error(o)
	}
}

// TestOutcomeUnknown: a write that was kept and answered with a fault is told as
// a failure, and nothing is announced that the caller was not told.
func TestOutcomeUnknown(t *testing.T) {
	r, store, changes := newRegistry(t)
	i, _ := r.Create(t.Context(), signet.Identity{Hub: "hub", DeviceID: "d"})
	for _, after := range []bool{false, true} {
		fault := func(operation string) error {
			if operation == "DeleteIdentity" {
				return memstore.ErrFault
			}
			return nil
		}
		store.Before, store.After = fault, nil
		if after {
			store.Before, store.After = nil, fault
		}
		*changes = nil
		err := r.Delete(t.Context(), "hub", "d", "", i.ETag)
		code(t, err, signet.Internal)
		// The change may be kept: the sessions are looked at again all the same.
		if len(*changes) != 1 {
			t.Errorf("after=%v: announced %v", after, *changes)
		}
		store.Before, store.After = nil, nil
		_, err = r.Get(t.Context(), "hub", "d", "")
		code(t, err, map[bool]signet.Code{false: "", true: signet.IdentityUnknown}[after])
	}
}

// TestAtExpiry: the policy of a hub is stored before it counts, and whoever is
// told that it failed may find it kept.
func TestAtExpiry(t *testing.T) {
	for _, after := range []bool{false, true} {
		r, store, changes := newRegistry(t)
		h, err := r.SetAtExpiry(t.Context(), "HUB", signet.EndAtExpiry)
		if err != nil || h.AtExpiry != signet.EndAtExpiry || len(*changes) != 2 || !(*changes)[1].Trust || (*changes)[1].Hub != "hub" {
			t.Fatalf("%+v %v %+v", h, err, *changes)
		}
		_, err = r.SetAtExpiry(t.Context(), "hub", "sometimes")
		code(t, err, signet.HubMalformed)
		_, err = r.SetAtExpiry(t.Context(), "nowhere", signet.EndAtExpiry)
		code(t, err, signet.HubUnknown)
		// Nobody loses anything by its being kept.
		if h, err := r.SetAtExpiry(t.Context(), "hub", signet.KeepAtExpiry); err != nil || h.AtExpiry != signet.KeepAtExpiry || len(*changes) != 2 {
			t.Fatalf("%+v %v %+v", h, err, *changes)
		}
		fault := func(operation string) error {
			if operation == "SetAtExpiry" {
				return memstore.ErrFault
			}
			return nil
		}
		want := signet.KeepAtExpiry
		if after {
			store.After, want = fault, signet.EndAtExpiry
		} else {
			store.Before = fault
		}
		_, err = r.SetAtExpiry(t.Context(), "hub", signet.EndAtExpiry)
		if !errors.Is(err, memstore.ErrFault) {
			t.Errorf("the fault was answered with %v", err)
		}
		if h, _ := r.HubByName("hub"); h.AtExpiry != want || len(*changes) != map[bool]int{false: 2, true: 3}[after] {
			t.Errorf("kept %v: in force is %q, told of %d changes", after, h.AtExpiry, len(*changes))
		}
	}
}

func TestGenerationLooksLikeAzures(t *testing.T) {
	r := registry.New(memstore.New(), registry.Options{Now: func() time.Time { return time.Date(2020, 1, 10, 3, 3, 36, 0, time.UTC) }})
	r.CreateHub(t.Context(), "hub", "hub.test")
	i, err := r.Create(t.Context(), signet.Identity{Hub: "hub", DeviceID: "d"})
	if err != nil || i.GenerationID != "637142222160000000" {
		t.Error(i.GenerationID, err)
	}
}

// TestHubOutcomeUnknown: what is served is what is stored, also when the caller
// is told that it failed.
func TestHubOutcomeUnknown(t *testing.T) {
	for _, after := range []bool{false, true} {
		r, store, changes := newRegistry(t)
		fault := func(operation string) error {
			if operation == "CreateHub" || operation == "DeleteHub" {
				return memstore.ErrFault
			}
			return nil
		}
		store.Before, store.After = fault, nil
		if after {
			store.Before, store.After = nil, fault
		}
		*changes = nil
		_, err := r.CreateHub(t.Context(), "new", "new.test")
		code(t, err, signet.Internal)
		code(t, r.DeleteHub(t.Context(), "hub"), signet.Internal)
		store.Before, store.After = nil, nil

		want := map[string]signet.Code{"new": signet.HubUnknown, "hub": ""}
		if after {
			want = map[string]signet.Code{"new": "", "hub": signet.HubUnknown}
		}
		for name, unknown := range want {
			_, err := r.HubByName(name)
			code(t, err, unknown)
		}
		if told := len(*changes) == 2 && (*changes)[0].HubCreated && (*changes)[1].HubDeleted; told != after || !after && len(*changes) > 0 {
			t.Errorf("after=%v: announced %v", after, *changes)
		}
	}
}

// TestHubGoesWithoutItsCaller: who asked to delete a hub may go; the hub goes too.
func TestHubGoesWithoutItsCaller(t *testing.T) {
	r, store, changes := newRegistry(t)
	ctx, cancel := context.WithCancel(t.Context())
	store.After = func(operation string) error {
		if operation == "DeleteHub" {
			cancel()
		}
		return nil
	}
	*changes = nil
	if err := r.DeleteHub(ctx, "hub"); err != nil || len(*changes) != 1 {
		t.Errorf("%v %v", err, *changes)
	}
	_, err := r.HubByName("hub")
	code(t, err, signet.HubUnknown)
}
