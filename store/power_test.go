package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"modernc.org/libc"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/signet-iot/signet"
)

// A disk stands below SQLite, and knows what the loss of power leaves: what was
// synced. What a sync that failed was to write is lost, and no later one writes it: so
// Linux takes pages for clean that it could not write.
type disk struct {
	mu    sync.Mutex
	dir   string
	files map[string]*onDisk
	open  map[uintptr]handle
	fails string // the next sync of a file whose name ends so does
}

type onDisk struct {
	synced []byte
	dirty  []written
}

type handle struct {
	*onDisk
	name  string
	below *sqlite3.Tsqlite3_io_methods
}

type written struct {
	at   int64
	data []byte
}

type (
	openMethod  = func(tls *libc.TLS, vfs, name, file uintptr, flags int32, out uintptr) int32
	closeMethod = func(tls *libc.TLS, file uintptr) int32
	writeMethod = func(tls *libc.TLS, file, data uintptr, n int32, at sqlite3.Tsqlite3_int64) int32
	cutMethod   = func(tls *libc.TLS, file uintptr, size sqlite3.Tsqlite3_int64) int32
	syncMethod  = func(tls *libc.TLS, file uintptr, flags int32) int32
)

// below is the disk of a test, with the methods that it stands before.
var below struct {
	*disk
	vfs     *sqlite3.Tsqlite3_vfs
	methods map[uintptr]uintptr // of files, and ours before them
}

// memory is C's, as Go sees it; pointer and method have C call Go, and back.
func memory[T any](address uintptr) *T { return (*T)(*(*unsafe.Pointer)(unsafe.Pointer(&address))) }

func pointer(f any) uintptr { return (*[2]uintptr)(unsafe.Pointer(&f))[1] }

func method[F any](address uintptr) F {
	return *(*F)(unsafe.Pointer(&struct{ uintptr }{address}))
}

// newDisk has SQLite write to a disk until the test ends.
func newDisk(t *testing.T, dir string) *disk {
	tls := libc.NewTLS()
	was := sqlite3.Xsqlite3_vfs_find(tls, 0)
	name, err := libc.CString("signet-disk")
	if err != nil {
		t.Fatal(err)
	}
	vfs := libc.Xmalloc(tls, libc.Tsize_t(unsafe.Sizeof(sqlite3.Tsqlite3_vfs{})))
	below.disk = &disk{dir: dir, files: map[string]*onDisk{}, open: map[uintptr]handle{}}
	below.vfs, below.methods = memory[sqlite3.Tsqlite3_vfs](was), map[uintptr]uintptr{}
	ours := memory[sqlite3.Tsqlite3_vfs](vfs)
	*ours = *below.vfs
	ours.FzName, ours.FpNext, ours.FxOpen = name, 0, pointer(openMethod(diskOpen))
	if rc := sqlite3.Xsqlite3_vfs_register(tls, vfs, 1); rc != 0 {
		t.Fatal(rc)
	}
	t.Cleanup(func() {
		sqlite3.Xsqlite3_vfs_unregister(tls, vfs)
		sqlite3.Xsqlite3_vfs_register(tls, was, 1)
	})
	return below.disk
}

func diskOpen(tls *libc.TLS, _, name, file uintptr, flags int32, out uintptr) int32 {
	rc := method[openMethod](below.vfs.FxOpen)(tls, pointerTo(below.vfs), name, file, flags, out)
	if rc != sqlite3.SQLITE_OK || flags&(sqlite3.SQLITE_OPEN_MAIN_DB|sqlite3.SQLITE_OPEN_WAL) == 0 {
		return rc
	}
	path, d := libc.GoString(name), below.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	if filepath.Dir(path) != d.dir {
		return rc
	}
	methods := memory[uintptr](file)
	theirs := memory[sqlite3.Tsqlite3_io_methods](*methods)
	if below.methods[*methods] == 0 {
		below.methods[*methods] = libc.Xmalloc(tls, libc.Tsize_t(unsafe.Sizeof(*theirs)))
		ours := memory[sqlite3.Tsqlite3_io_methods](below.methods[*methods])
		*ours = *theirs
		ours.FxClose, ours.FxWrite = pointer(closeMethod(diskClose)), pointer(writeMethod(diskWrite))
		ours.FxTruncate, ours.FxSync = pointer(cutMethod(diskCut)), pointer(syncMethod(diskSync))
	}
	*methods = below.methods[*methods]
	if d.files[path] == nil {
		d.files[path] = &onDisk{}
	}
	d.open[file] = handle{d.files[path], path, theirs}
	return rc
}

func pointerTo(vfs *sqlite3.Tsqlite3_vfs) uintptr { return uintptr(unsafe.Pointer(vfs)) }

func diskClose(tls *libc.TLS, file uintptr) int32 {
	d := below.disk
	d.mu.Lock()
	f := d.open[file]
	delete(d.open, file)
	d.mu.Unlock()
	return method[closeMethod](f.below.FxClose)(tls, file)
}

func diskWrite(tls *libc.TLS, file, data uintptr, n int32, at sqlite3.Tsqlite3_int64) int32 {
	d := below.disk
	d.mu.Lock()
	f := d.open[file]
	f.dirty = append(f.dirty, written{at, append([]byte(nil), unsafe.Slice(memory[byte](data), n)...)})
	d.mu.Unlock()
	return method[writeMethod](f.below.FxWrite)(tls, file, data, n, at)
}

// diskCut is on disk at once, and before what was written: what follows on it is then
// the worst that can.
func diskCut(tls *libc.TLS, file uintptr, size sqlite3.Tsqlite3_int64) int32 {
	d := below.disk
	d.mu.Lock()
	f := d.open[file]
	f.synced = append(f.synced, make([]byte, max(0, size-int64(len(f.synced))))...)[:size]
	f.dirty = slices.DeleteFunc(f.dirty, func(w written) bool { return w.at >= size })
	for n, w := range f.dirty {
		f.dirty[n].data = w.data[:min(int64(len(w.data)), size-w.at)]
	}
	d.mu.Unlock()
	return method[cutMethod](f.below.FxTruncate)(tls, file, size)
}

func diskSync(tls *libc.TLS, file uintptr, flags int32) int32 {
	d := below.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.open[file]
	if d.fails != "" && strings.HasSuffix(f.name, d.fails) {
		d.fails, f.dirty = "", nil
		return sqlite3.SQLITE_IOERR_FSYNC
	}
	f.write()
	return sqlite3.SQLITE_OK
}

func (f *onDisk) write() {
	for _, w := range f.dirty {
		end := w.at + int64(len(w.data))
		f.synced = append(f.synced, make([]byte, max(0, end-int64(len(f.synced))))...)
		copy(f.synced[w.at:], w.data)
	}
	f.dirty = nil
}

// fail has the next sync of a file fail.
func (d *disk) fail(end string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fails = end
}

// lost gives a store of what is there if the power is lost now.
func (d *disk) lost(t *testing.T) *Store {
	t.Helper()
	dir := t.TempDir()
	d.mu.Lock()
	for name, f := range d.files {
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(name)), f.synced, 0o600); err != nil {
			t.Error(err)
		}
	}
	d.mu.Unlock()
	return openIn(t, dir)
}

func openIn(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := OpenSQLite(t.Context(), filepath.Join(dir, "signet.db"), Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// What was acknowledged is there after the loss of power, whatever was written behind
// before it, and although a sync has failed meanwhile.
func TestPowerLoss(t *testing.T) {
	for name, between := range map[string]func(t *testing.T, d *disk, s *Store){
		"nothing": func(*testing.T, *disk, *Store) {},
		"a sync that fails": func(t *testing.T, d *disk, s *Store) {
			d.fail("-wal")
			if err := s.CreateIdentity(t.Context(), signet.Identity{Hub: "east", DeviceID: "refused"}); signet.CodeOf(err) != signet.Unavailable || !strings.Contains(err.Error(), "not known") {
				t.Errorf("a change that could not be synced: %v", err)
			}
		},
		"a sync of the database that fails": func(t *testing.T, d *disk, s *Store) {
			d.fail("signet.db")
			for range 3 {
				if err := fill(s); err != nil {
					t.Fatal(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			d := newDisk(t, dir)
			s := openIn(t, dir)
			if err := s.CreateHub(t.Context(), signet.Hub{Name: "east", HostName: "east"}); err != nil {
				t.Fatal(err)
			}
			var acknowledged []string
			create := func() {
				t.Helper()
				id := fmt.Sprint("d", len(acknowledged))
				if err := s.CreateIdentity(t.Context(), signet.Identity{Hub: "east", DeviceID: id, GenerationID: "1"}); err != nil {
					t.Fatal(err)
				}
				acknowledged = append(acknowledged, id)
			}
			create()
			if _, err := s.Hubs(t.Context()); err != nil { // a reader has the files open from here on
				t.Fatal(err)
			}
			if err := s.SaveActivity(context.Background(), []signet.Activity{{Hub: "east", DeviceID: "d0", GenerationID: "1", Connected: true}}); err != nil {
				t.Fatal(err)
			}
			between(t, d, s)
			for range 3 {
				create()
				after := d.lost(t)
				for _, id := range acknowledged {
					if _, err := after.Identity(t.Context(), "east", id, ""); err != nil {
						t.Errorf("%s of %v was acknowledged: %v", id, acknowledged, err)
					}
				}
			}
		})
	}
}

// fill makes a change that is large enough for the -wal file to be moved into the database.
func fill(s *Store) error {
	return s.engine.write(context.Background(), func(ctx context.Context, q queryer) error {
		if _, err := q.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS filler (x BLOB)"); err != nil {
			return err
		}
		_, err := q.ExecContext(ctx, "REPLACE INTO filler (rowid, x) VALUES (1, randomblob(5000000))")
		return err
	})
}

// What was moved into the database while somebody read is on disk with the next sync of it.
// When that fails, what is acknowledged stays in the -wal file: nothing more is taken, and
// the next process moves all of it again.
func TestPowerLossBehindAReader(t *testing.T) {
	dir := t.TempDir()
	d := newDisk(t, dir)
	failed := make(chan error, 1)
	s, err := OpenSQLite(t.Context(), filepath.Join(dir, "signet.db"), Options{Logger: slog.New(slog.DiscardHandler), Failed: func(err error) { failed <- err }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if err := errors.Join(fill(s), fill(s), s.CreateHub(t.Context(), signet.Hub{Name: "east", HostName: "east"}),
		s.CreateIdentity(t.Context(), signet.Identity{Hub: "east", DeviceID: "d", GenerationID: "1"})); err != nil {
		t.Fatal(err)
	}
	if err := s.engine.view(t.Context(), func(ctx context.Context, q queryer) error {
		err := each(ctx, q, func(*sql.Rows) error { return nil }, "SELECT name FROM hub")
		// The device is moved, before the next change is made; what came after the reader is not.
		return errors.Join(err, fill(s), s.Ping(ctx))
	}); err != nil {
		t.Fatal(err)
	}
	d.fail("signet.db")
	for range 4 { // the -wal file is begun anew, if it can be
		err = errors.Join(err, fill(s))
	}
	there := func(s *Store) {
		t.Helper()
		if _, err := s.Identity(t.Context(), "east", "d", ""); err != nil {
			t.Errorf("what was acknowledged: %v", err)
		}
	}
	there(d.lost(t))
	if signet.CodeOf(err) != signet.Unavailable {
		t.Errorf("a change behind it: %v", err)
	}
	if len(failed) == 0 {
		t.Error("nobody is told")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	again := openIn(t, dir)
	for range 3 {
		if err := fill(again); err != nil {
			t.Fatal(err)
		}
	}
	there(d.lost(t))
}
