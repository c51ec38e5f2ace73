package audit_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/audit"
	"github.com/signet-iot/signet/authority"
	"github.com/signet-iot/signet/internal/memstore"
	"github.com/signet-iot/signet/issuance"
	"github.com/signet-iot/signet/provisioning"
	"github.com/signet-iot/signet/registry"
	"golang.org/x/mod/sumdb/note"
)

var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

const origin = "hub.example/audit"

func keys(t testing.TB) (signing string, verifier note.Verifier) {
	t.Helper()
	signing, public, err := note.GenerateKey(rand.Reader, origin)
	if err != nil {
		t.Fatal(err)
	}
	if verifier, err = note.NewVerifier(public); err != nil {
		t.Fatal(err)
	}
	return signing, verifier
}

func open(t testing.TB, store audit.Store, key string) *audit.Log {
	t.Helper()
	l, err := audit.Open(t.Context(), store, audit.Options{Key: key, Now: func() time.Time { return noon }, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

func appendN(t testing.TB, l *audit.Log, n int) {
	t.Helper()
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			if err := l.Append(t.Context(), audit.Entry{Hub: "east", Act: "identity.create", Of: fmt.Sprint("d", i)}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

func checkpoint(t testing.TB, l *audit.Log) []byte {
	t.Helper()
	text, err := l.Checkpoint()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// files is a log as signet audit export writes it.
func files(t testing.TB, l *audit.Log) fstest.MapFS {
	t.Helper()
	all := fstest.MapFS{}
	for from := int64(0); from < l.Size(); from += audit.TileWidth {
		n, width := from/audit.TileWidth, int(min(l.Size()-from, audit.TileWidth))
		bundle, err := l.Bundle(t.Context(), n, width)
		if err != nil {
			t.Fatal(err)
		}
		all[audit.TilePath(-1, n, width)] = &fstest.MapFile{Data: bundle}
	}
	return all
}

// TestLog: whatever the size of the tree and of the steps by which it grew, the
// files alone prove it, earlier checkpoints stay good, and a restart goes on.
func TestLog(t *testing.T) {
	key, verifier := keys(t)
	store := memstore.New()
	l := open(t, store, key)
	var earlier [][]byte
	total := int64(0)
	for _, n := range []int{0, 1, 1, 5, 248, 1, 1, 255, 600, 1000} {
		appendN(t, l, n)
		if total += int64(n); l.Size() != total {
			t.Fatalf("%d entries, not %d", l.Size(), total)
		}
		earlier = append(earlier, checkpoint(t, l))
		read := int64(0)
		size, err := audit.Verify(files(t, l), checkpoint(t, l), verifier, func(e audit.Entry) error {
			if e.Index != read || !e.Time.Equal(noon) || e.By != "signet" {
				t.Errorf("%+v", e)
			}
			read++
			return nil
		})
		if err != nil || size != total || read != total {
			t.Fatalf("at %d: %d, %d read, %v", total, size, read, err)
		}
	}
	again := open(t, store, key) // beside the first, as another node
	appendN(t, again, 3)
	appendN(t, l, 3)
	if err := again.Append(t.Context(), audit.Entry{Act: "last"}); err != nil || again.Size() != total+7 {
		t.Fatal(again.Size(), err)
	}
	for n, c := range earlier {
		if err := again.Extends(t.Context(), c, verifier); err != nil {
			t.Errorf("checkpoint %d: %v", n, err)
		}
		if _, err := audit.Verify(files(t, again), c, verifier, nil); err != nil {
			t.Errorf("checkpoint %d, by the files: %v", n, err)
		}
	}
}

// TestChanged: nobody can alter, drop, add or reorder what a checkpoint is of.
func TestChanged(t *testing.T) {
	key, verifier := keys(t)
	l := open(t, memstore.New(), key)
	appendN(t, l, 300)
	kept := checkpoint(t, l)
	first, last := audit.TilePath(-1, 0, audit.TileWidth), audit.TilePath(-1, 1, 44)
	for name, change := range map[string]func(fstest.MapFS){
		"a letter":         func(f fstest.MapFS) { f[first].Data[100]++ },
		"a bundle is gone": func(f fstest.MapFS) { delete(f, last) },
		"an entry less":    func(f fstest.MapFS) { f[last].Data = f[last].Data[:len(f[last].Data)-1] },
		"two change places": func(f fstest.MapFS) {
			d := f[first].Data
			a := 2 + int(d[0])<<8 + int(d[1])
			b := a + 2 + int(d[a])<<8 + int(d[a+1])
			f[first].Data = append(append(append([]byte{}, d[a:b]...), d[:a]...), d[b:]...)
		},
	} {
		f := files(t, l)
		change(f)
		if _, err := audit.Verify(f, kept, verifier, nil); !errors.Is(err, audit.ErrChanged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, other := keys(t)
	if _, err := audit.Verify(files(t, l), kept, other, nil); err == nil {
		t.Error("signed by another, and taken")
	}
	forged := []byte(strings.Replace(string(kept), "\n300\n", "\n299\n", 1))
	if _, err := audit.Verify(files(t, l), forged, verifier, nil); err == nil {
		t.Error("a checkpoint was changed, and taken")
	}

	// A database that was put back to yesterday's, or written anew.
	for name, n := range map[string]int{"cut": 200, "rewritten": 400} {
		anew := open(t, memstore.New(), key)
		appendN(t, anew, n)
		if err := anew.Extends(t.Context(), kept, verifier); !errors.Is(err, audit.ErrChanged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestBefore: what cannot be recorded is not done; what was recorded and then
// fails is said to have.
func TestBefore(t *testing.T) {
	key, _ := keys(t)
	for _, c := range []struct {
		name          string
		before, after string // operations that fail
		made          bool
		acts          string
	}{
		{"all is well", "", "", true, "hub.create"},
		{"the log cannot be written", "AppendAudit", "", false, ""},
		{"it is not known whether the log was written", "", "AppendAudit", false, "hub.create"},
		{"the change fails", "CreateHub", "", false, "hub.create hub.create:failed"},
		{"it is not known whether the change was made", "", "CreateHub", true, "hub.create hub.create:failed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			store := memstore.New()
			l := open(t, store, key)
			fault := func(which string) func(string) error {
				return func(operation string) error {
					if operation == which {
						return memstore.ErrFault
					}
					return nil
				}
			}
			store.Before, store.After = fault(c.before), fault(c.after)
			ctx := signet.WithActor(t.Context(), signet.Actor{Name: "iothubowner", Remote: "192.0.2.1"})
			err := audit.Registry(l, store).CreateHub(ctx, signet.Hub{Name: "east", HostName: "east.example"})
			if failed := c.before != "" || c.after != ""; (err != nil) != failed {
				t.Errorf("%v", err)
			}
			store.Before, store.After = nil, nil
			hubs, _ := store.Hubs(t.Context())
			if made := len(hubs) == 1; made != c.made {
				t.Errorf("made: %v", made)
			}
			entries, err := l.List(t.Context(), "east", false, 1<<60, 10)
			if err != nil {
				t.Fatal(err)
			}
			var acts []string
			for n := len(entries) - 1; n >= 0; n-- {
				e := entries[n]
				act := e.Act
				if e.Failed != "" {
					act += ":failed"
				}
				acts = append(acts, act)
				if e.By != "iothubowner" || e.Remote != "192.0.2.1" || e.Of != "east" {
					t.Errorf("%+v", e)
				}
			}
			if got := strings.Join(acts, " "); got != c.acts {
				t.Errorf("recorded: %q", got)
			}
		})
	}
}

// TestEveryAct: each method of a keeper's contract that is not named here appends
// to the log, so that a new one is not forgotten.
func TestEveryAct(t *testing.T) {
	reads := map[string]string{}
	for why, names := range map[string]string{
		"it reads": "CA CAs CRL CRLs Distrusts OCSPAnswers RevocationPolicies Scopes Place SeenUnder FirstSeenUnder " +
			"Hubs Identity Identities Modules CountDevices Twin Activity Find Aggregate " +
			"Enrollment Enrollments LinkedHubs " +
			"CheckIssued IssuedFor IssuedAt LatestIssued ListIssued",
		"what ended long ago has been recorded":                "TrimIssued",
		"a device takes its place by connecting":               "TakePlace",
		"what responders said is no act":                       "SaveOCSPAnswers",
		"who is connected is no act":                           "SaveActivity NobodyConnected",
		"nor is what devices listen to":                        "SetSubscriptions",
		"twins are what devices and back ends tell each other": "WriteTwin",
	} {
		for name := range strings.FieldsSeq(names) {
			reads[name] = why
		}
	}
	key, _ := keys(t)
	store := memstore.New()
	l := open(t, store, key)
	for contract, kept := range map[string]any{
		"authority": audit.Authority(l, store), "registry": audit.Registry(l, store), "enrollments": audit.Enrollments(l, store),
		"issuance": audit.Issuance(l, store),
	} {
		var of reflect.Type
		switch contract {
		case "authority":
			of = reflect.TypeFor[authority.Store]()
		case "registry":
			of = reflect.TypeFor[registry.Store]()
		case "enrollments":
			of = reflect.TypeFor[provisioning.EnrollmentStore]()
		case "issuance":
			of = reflect.TypeFor[issuance.Store]()
		}
		for n := range of.NumMethod() {
			m := of.Method(n)
			before := l.Size()
			args := []reflect.Value{reflect.ValueOf(context.Background())}
			for i := 1; i < m.Type.NumIn() && !(m.Type.IsVariadic() && i == m.Type.NumIn()-1); i++ {
				arg := reflect.Zero(m.Type.In(i))
				if arg.Kind() == reflect.Pointer {
					arg = reflect.New(arg.Type().Elem())
				}
				args = append(args, arg)
			}
			reflect.ValueOf(kept).MethodByName(m.Name).Call(args)
			if _, read := reads[m.Name]; read == (l.Size() > before) {
				t.Errorf("%s.%s: %d entries (%s)", contract, m.Name, l.Size()-before, reads[m.Name])
			}
		}
	}
}

// TestEntry: an entry is bounded and holds no secret.
func TestEntry(t *testing.T) {
	key, verifier := keys(t)
	store := memstore.New()
	l := open(t, store, key)
	long := strings.Repeat("ü", 80_000)
	detail, _ := json.Marshal(long)
	if err := l.Append(t.Context(), audit.Entry{Hub: "east", Act: "crl.save", Of: long, Detail: detail}); err != nil {
		t.Fatal(err)
	}
	if err := audit.Authority(l, store).SaveRevocationPolicy(t.Context(), signet.RevocationPolicy{Hub: "east", CA: "acme",
		OCSP: "http://o/?token=secret", CRLs: []string{"http://c/x.crl?token=secret"}}); !errors.Is(err, signet.ErrNotFound) {
		t.Fatal(err)
	}
	bundle, err := l.Bundle(t.Context(), 0, int(l.Size()))
	if err != nil || strings.Contains(string(bundle), "secret") || !strings.Contains(string(bundle), "http://c/x.crl?…") {
		t.Errorf("%v: %q", err, bundle)
	}
	if _, err := audit.Verify(files(t, l), checkpoint(t, l), verifier, func(e audit.Entry) error {
		if len(e.Of) > 2100 {
			t.Errorf("%d octets", len(e.Of))
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if _, err := audit.Open(t.Context(), store, audit.Options{Key: "PRIVATE+KEY+rubbish"}); err == nil || strings.Contains(err.Error(), "rubbish") {
		t.Errorf("%v", err)
	}
}

// TestClosed: what comes after the end is refused, not done unrecorded.
func TestClosed(t *testing.T) {
	key, _ := keys(t)
	l, err := audit.Open(t.Context(), memstore.New(), audit.Options{Key: key})
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := l.Append(t.Context(), audit.Entry{Act: "late"}); signet.CodeOf(err) != signet.Unavailable {
		t.Errorf("%v", err)
	}
}

func TestTilePath(t *testing.T) {
	for path, want := range map[string][3]int64{
		"tile/0/000":                  {0, 0, 256},
		"tile/entries/001.p/7":        {-1, 1, 7},
		"tile/1/x001/x234/067":        {1, 1234067, 256},
		"tile/entries/x999/999.p/255": {-1, 999999, 255},
		"tile/entries/x999999/000":    {},
		"tile/0/0":                    {},
		"tile/0/x000/001":             {},
		"tile/0/001.p/0":              {},
		"tile/0/001.p/256":            {},
		"tile/64/001":                 {},
		"tile/+1/001":                 {},
		"tile/entries/" + strings.Repeat("x999/", 30) + "001": {},
		"tile/../001": {},
		"checkpoint":  {},
	} {
		level, number, width, ok := audit.ParseTilePath(path)
		if ok != (want != [3]int64{}) || ok && [3]int64{int64(level), number, int64(width)} != want {
			t.Errorf("%s: %d %d %d %v", path, level, number, width, ok)
		}
	}
}

// FuzzVerify: files and checkpoints from anywhere.
func FuzzVerify(f *testing.F) {
	key, verifier := keys(f)
	l := open(f, memstore.New(), key)
	appendN(f, l, 3)
	good := checkpoint(f, l)
	f.Add([]byte(files(f, l)[audit.TilePath(-1, 0, 3)].Data), good, "tile/0/000")
	f.Fuzz(func(t *testing.T, bundle, head []byte, path string) {
		dir := t.TempDir()
		name := filepath.Join(dir, filepath.FromSlash(audit.TilePath(-1, 0, 3)))
		os.MkdirAll(filepath.Dir(name), 0o700)
		os.WriteFile(name, bundle, 0o600)
		audit.Verify(os.DirFS(dir), head, verifier, nil)
		size, err := audit.Verify(os.DirFS(dir), good, verifier, func(audit.Entry) error { return nil })
		if err == nil && (size != 3 || !strings.HasPrefix(string(bundle), string(files(t, l)[audit.TilePath(-1, 0, 3)].Data))) {
			t.Error("another log was taken")
		}
		audit.ParseTilePath(path)
	})
}
