// Package audit keeps the record of every act on trust and of every act of
// administration: a log that can be added to and not changed unseen.
//
// The entries are the leaves of a Merkle tree (RFC 6962 §2.1). Its head, signed,
// is the checkpoint; whoever keeps one, outside of the server's reach, can tell
// later that no entry before it was altered, removed or slipped in. Checkpoints,
// tiles and entries have the forms of C2SP: signed-note, tlog-checkpoint and
// tlog-tiles; so any tool of the field verifies them, and [Verify] does with
// nothing but the files.
//
// An act is appended, durably, before the keeper's change is: the log may tell of
// an act that a crash or a fault then prevented, never the reverse. A fault that
// is known is appended after the act, as "failed". The keepers' rules know
// nothing of it: [Authority] and [Registry] and their like stand between a keeper
// and its store.
package audit

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/signet-iot/signet"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	// MaxEntry bounds an entry: its length has two octets (tlog-tiles).
	MaxEntry = 1<<16 - 1
	// maxText bounds what of one text is kept in an entry.
	maxText = 2048
	// maxGathered bounds the acts that are written in one transaction; more wait for
	// the next.
	maxGathered = 512
	// maxRaces is how often acts are appended anew because another node was first.
	maxRaces = 16
)

// An Entry is one act.
type Entry struct {
	Index  int64     `json:"-"` // place in the log, from 0
	Time   time.Time `json:"time"`
	Hub    string    `json:"hub,omitempty"` // or provisioning service
	Act    string    `json:"act"`           // as "certificate.register"
	Of     string    `json:"of,omitempty"`  // what it was done to, by its name there
	By     string    `json:"by"`            // see [signet.Actor]
	Remote string    `json:"remote,omitempty"`
	// Detail is a JSON object: what was written, without keys and secrets.
	Detail json.RawMessage `json:"detail,omitempty"`
	// Failed, of an act that came to nothing, says why; it stands in a later entry
	// than the act itself.
	Failed string `json:"failed,omitempty"`
}

// Store keeps the log. Its server is package store.
//
// Safe for concurrent use. A write is durable (fsync) when it returns nil, and
// either wholly there or not at all.
type Store interface {
	// AuditTiles reads the tiles of the right edge: of each level the last.
	AuditTiles(ctx context.Context) ([]Tile, error)
	// AuditTile reads one, as far as it goes. It fails with signet.ErrNotFound.
	AuditTile(ctx context.Context, level int, number int64) (Tile, error)
	// AppendAudit adds entries, the first at index first, and writes tiles over their
	// earlier, narrower forms. It fails with signet.ErrExists when there is an entry
	// of that index: another node has appended since the tiles were read.
	AppendAudit(ctx context.Context, first int64, entries []Record, tiles []Tile) error
	// AuditRecords lists up to limit entries from an index on, oldest first.
	AuditRecords(ctx context.Context, from int64, limit int) ([]Record, error)
	// HubAuditRecords lists up to limit entries of one hub before an index, the
	// latest first; of all hubs for all.
	HubAuditRecords(ctx context.Context, hub string, all bool, before int64, limit int) ([]Record, error)
}

// A Record is an entry as it is stored and hashed.
type Record struct {
	Index int64
	Hub   string
	Text  []byte
}

// Entry reads a record.
func (r *Record) Entry() (Entry, error) {
	e := Entry{Index: r.Index}
	err := json.Unmarshal(r.Text, &e)
	return e, err
}

// Log is the log of one server, of all its hubs. Safe for concurrent use.
type Log struct {
	store  Store
	now    func() time.Time
	log    *slog.Logger
	origin string
	signer note.Signer

	acts chan *pending
	done chan struct{} // closed by Close
	over chan struct{} // closed when nothing is appended any more

	mu   sync.Mutex // guards tree
	tree tree
}

type pending struct {
	entry Entry
	err   chan error
}

// Options of a Log.
type Options struct {
	// Key signs checkpoints: the text form of note.GenerateKey. Its name is the
	// origin of the log.
	Key    string
	Now    func() time.Time // time.Now when nil
	Logger *slog.Logger     // slog.Default() when nil
}

// Open reads where the log ends, and begins to take acts, until Close.
func Open(ctx context.Context, store Store, o Options) (*Log, error) {
	signer, err := note.NewSigner(o.Key)
	if err != nil {
		return nil, errors.New("the key of the audit log is not one") // the cause would quote it
	}
	l := &Log{store: store, now: o.Now, log: o.Logger, origin: signer.Name(), signer: signer,
		acts: make(chan *pending, maxGathered), done: make(chan struct{}), over: make(chan struct{})}
	if l.now == nil {
		l.now = time.Now
	}
	if l.log == nil {
		l.log = slog.Default()
	}
	if l.tree, err = readTree(ctx, store); err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	go l.run()
	return l, nil
}

// Close ends the log; acts that come later are refused.
func (l *Log) Close() {
	close(l.done)
	<-l.over
}

// Append adds an act, in the name of the actor of ctx. It is on disk when it
// returns nil. Acts that come together share one write. It refuses with
// [signet.Unavailable]: what cannot be recorded is not to be done.
func (l *Log) Append(ctx context.Context, e Entry) error {
	actor := signet.ActorOf(ctx)
	e.By, e.Remote = actor.Name, actor.Remote
	p := &pending{e, make(chan error, 1)}
	select {
	case l.acts <- p:
	case <-l.done:
		return unavailable(errors.New("the log is closed"))
	case <-ctx.Done():
		return ctx.Err()
	}
	// Once it is taken, it is waited for: what comes next must not overtake it.
	select {
	case err := <-p.err:
		return err
	case <-l.over:
		select {
		case err := <-p.err:
			return err
		default:
			return unavailable(errors.New("the log is closed"))
		}
	}
}

func unavailable(cause error) error {
	e := signet.Refuse(signet.Unavailable, "The audit log cannot record this just now, so it is not done.")
	e.Cause = cause
	return e
}

// run appends what waits, all of it at once, while the next gathers.
func (l *Log) run() {
	defer close(l.over)
	for {
		var some []*pending
		select {
		case p := <-l.acts:
			some = append(some, p)
		case <-l.done:
			return
		}
	gather:
		for len(some) < maxGathered {
			select {
			case p := <-l.acts:
				some = append(some, p)
			default:
				break gather
			}
		}
		err := l.append(some)
		if err != nil {
			l.log.Error("acts could not be recorded in the audit log, and are not done", "acts", len(some), "error", err)
			err = unavailable(err)
		}
		for _, p := range some {
			p.err <- err
		}
	}
}

func (l *Log) append(some []*pending) error {
	ctx := context.Background() // nobody's request: it is for all of them
	records := make([]Record, len(some))
	now := l.now().UTC()
	for n, p := range some {
		p.entry.Time = now
		text, err := p.entry.text()
		if err != nil {
			return err
		}
		records[n] = Record{Hub: p.entry.Hub, Text: text}
	}
	l.mu.Lock()
	t := l.tree
	l.mu.Unlock()
	var err error
	for range maxRaces {
		var grown tree
		var tiles []Tile
		if grown, tiles, err = t.with(records); err != nil {
			return err
		}
		for n := range records {
			records[n].Index = t.size + int64(n)
		}
		if err = l.store.AppendAudit(ctx, t.size, records, tiles); err == nil {
			l.mu.Lock()
			l.tree = grown
			l.mu.Unlock()
			return nil
		}
		// Another node was first; or it is not known whether it was written, and then
		// the log may hold acts that are not done: that is allowed.
		var again error
		if t, again = readTree(ctx, l.store); again != nil {
			return errors.Join(err, again)
		}
		l.mu.Lock()
		l.tree = t
		l.mu.Unlock()
		if !errors.Is(err, signet.ErrExists) {
			return err
		}
	}
	return err
}

// text is an entry as it is kept. What is too long is cut and says so.
func (e Entry) text() ([]byte, error) {
	for _, text := range []*string{&e.Of, &e.By, &e.Remote, &e.Failed} {
		if len(*text) > maxText {
			*text = (*text)[:maxText] + "…"
		}
	}
	text, err := json.Marshal(e)
	if err == nil && len(text) > MaxEntry {
		e.Detail = json.RawMessage(fmt.Sprintf(`{"omitted":"%d octets"}`, len(e.Detail)))
		text, err = json.Marshal(e)
	}
	return text, err
}

// List gives up to limit entries of a hub before an index, the latest first; of
// all hubs for all.
func (l *Log) List(ctx context.Context, hub string, all bool, before int64, limit int) ([]Entry, error) {
	records, err := l.store.HubAuditRecords(ctx, hub, all, before, limit)
	if err != nil {
		return nil, err
	}
	entries := make([]Entry, len(records))
	for n := range records {
		if entries[n], err = records[n].Entry(); err != nil {
			return nil, fmt.Errorf("audit entry %d: %w", records[n].Index, err)
		}
	}
	return entries, nil
}

// Checkpoint gives the signed head of the log (tlog-checkpoint): what was
// appended before it was asked for is under it.
func (l *Log) Checkpoint() ([]byte, error) {
	l.mu.Lock()
	t := l.tree
	l.mu.Unlock()
	root, err := t.root()
	if err != nil {
		return nil, err
	}
	return note.Sign(&note.Note{Text: fmt.Sprintf("%s\n%d\n%s\n", l.origin, t.size, base64.StdEncoding.EncodeToString(root[:]))}, l.signer)
}

// Size is how many entries the log has.
func (l *Log) Size() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tree.size
}

// ErrChanged is of a log that does not hold what a checkpoint was signed of.
var ErrChanged = errors.New("the audit log has been changed or cut since a checkpoint was signed")

// Extends says whether the log holds all that an earlier checkpoint, of the same
// key, was signed of, unchanged; otherwise it fails with [ErrChanged].
func (l *Log) Extends(ctx context.Context, checkpoint []byte, verifier note.Verifier) error {
	size, root, err := OpenCheckpoint(checkpoint, verifier)
	if err != nil {
		return err
	}
	l.mu.Lock()
	t := l.tree
	l.mu.Unlock()
	if size > t.size {
		return fmt.Errorf("%w: it has %d entries, the checkpoint is of %d", ErrChanged, t.size, size)
	}
	now, err := tlog.TreeHash(size, t.stored(ctx, l.store))
	if err == nil && now != root {
		err = fmt.Errorf("%w: its first %d entries are others", ErrChanged, size)
	}
	return err
}
