package messaging

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// embedded is the NATS server inside this process.
//
// JetStream never writes to a stream again once a write has failed, and leaves
// publishers without an answer. So a server that is not well is marked, which
// fails Appends at once while reading goes on, and is replaced on the same
// folder as soon as the folder takes writes again.
type embedded struct {
	options *server.Options
	log     *slog.Logger

	mu  sync.Mutex
	srv *server.Server // mu
	ill error          // mu; while set, mend is at work

	mending sync.WaitGroup
}

const (
	startTimeout = 30 * time.Second
	// mendInterval is how often a folder that does not take writes is tried again.
	mendInterval = time.Second
	// maxBlock is how large a file of the log gets, by JetStream.
	maxBlock = 8 << 20
	// probeSize must be free before the server is replaced: a block, which is then written
	// anew, and a few batches, or it would fail again at once.
	probeSize = maxBlock + 4*maxBatchBytes
)

func startEmbedded(dir string, log *slog.Logger) (*embedded, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	e := &embedded{log: log, options: &server.Options{
		ServerName: "signet",
		DontListen: true,
		JetStream:  true,
		StoreDir:   dir,
		SyncAlways: true, // acknowledged = on disk
		// The stream's own MaxBytes is the bound. JetStream's is a reservation: it
		// would refuse to start where less than that is free.
		JetStreamMaxStore:      math.MaxInt64,
		JetStreamMaxMemory:     64 << 20, // consumers' state; no stream is in memory
		DisableJetStreamBanner: true,
		NoSigs:                 true,
	}}
	if err := e.rewrite(); err != nil {
		log.Warn("the message log cannot be written anew", "error", err) // nor at all, and is then mended
	}
	if err := e.start(); err != nil {
		e.stop()
		return nil, err
	}
	return e, nil
}

func (e *embedded) start() error {
	srv, err := server.NewServer(e.options)
	if err != nil {
		return fmt.Errorf("NATS server: %w", err)
	}
	log := &serverLog{log: e.log}
	srv.SetLoggerV2(log, false, false, false)
	e.mu.Lock()
	e.srv = srv
	e.mu.Unlock()
	srv.Start()
	if !srv.JetStreamEnabled() || !srv.ReadyForConnections(startTimeout) {
		return fmt.Errorf("NATS server in %s: %w", e.options.StoreDir, log.fatal())
	}
	return nil
}

func (e *embedded) stop() {
	e.mu.Lock()
	srv := e.srv
	e.mu.Unlock()
	if srv != nil {
		srv.Shutdown()
		srv.WaitForShutdown()
	}
}

// InProcessConn connects the client, the first time and each time that the
// server was replaced.
func (e *embedded) InProcessConn() (net.Conn, error) {
	e.mu.Lock()
	srv := e.srv
	e.mu.Unlock()
	return srv.InProcessConn()
}

// fault is why nothing can be written just now, or nil.
func (e *embedded) fault() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.ill
}

// examine asks the server how it is and sees to it that it is mended.
func (e *embedded) examine(ctx context.Context, nc *nats.Conn) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ill != nil {
		return e.ill
	}
	if health := e.srv.Healthz(nil); health.Error != "" {
		e.ill = errors.New(health.Error)
		e.log.Error("the message log cannot be written; it is tried again every second", "error", e.ill)
		e.mending.Go(func() { e.mend(ctx, nc) })
	}
	return e.ill
}

// mend replaces the server when its folder takes writes again.
func (e *embedded) mend(ctx context.Context, nc *nats.Conn) {
	for pause(ctx, mendInterval) {
		if err := e.probe(); err != nil {
			e.log.Debug("the message log still cannot be written", "error", err)
			continue
		}
		connections := nc.Stats().Reconnects
		e.stop()
		if err := errors.Join(e.rewrite(), e.start()); err != nil { // it may be read all the same
			e.log.Error("the message log cannot be opened", "error", err)
			continue
		}
		for nc.Stats().Reconnects == connections && pause(ctx, 10*time.Millisecond) {
		}
		e.mu.Lock()
		e.ill = nil
		e.mu.Unlock()
		e.log.Info("the message log can be written again")
		return
	}
}

// rewrite writes the last block of the log anew, while no server runs. After a sync that has
// failed, maybe in an earlier process, the system takes for written what it could not write,
// and no later sync writes it: in the block, what came behind such a hole would be lost with
// the power, although it was synced itself.
func (e *embedded) rewrite() error {
	dir := os.DirFS(e.options.StoreDir)
	blocks, err := fs.Glob(dir, "jetstream/*/streams/"+telemetryStream+"/msgs/*.blk")
	if err != nil || len(blocks) == 0 {
		return err
	}
	number := func(block string) (n int) {
		n, _ = strconv.Atoi(strings.TrimSuffix(path.Base(block), ".blk"))
		return n
	}
	last := slices.MaxFunc(blocks, func(a, b string) int { return number(a) - number(b) })
	data, err := fs.ReadFile(dir, last)
	if err != nil {
		return err
	}
	anew := e.probeFile() // so that what a crash leaves of it goes with the next probe
	block := filepath.Join(e.options.StoreDir, filepath.FromSlash(last))
	if err := writeSynced(anew, data); err != nil {
		return errors.Join(err, os.Remove(anew))
	}
	if err := os.Rename(anew, block); err != nil {
		return err
	}
	folder, err := os.Open(filepath.Dir(block))
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

func (e *embedded) probeFile() string { return filepath.Join(e.options.StoreDir, "probe") }

// probe writes and syncs a file beside the log.
func (e *embedded) probe() error {
	return errors.Join(writeSynced(e.probeFile(), make([]byte, probeSize)), os.Remove(e.probeFile()))
}

func writeSynced(name string, data []byte) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// pause waits, and says whether to go on.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// serverLog takes the server's log into ours: what it notices is detail to us.
type serverLog struct {
	log  *slog.Logger
	mu   sync.Mutex
	last string // mu; the last fatal line
}

func (l *serverLog) Debugf(string, ...any) {}
func (l *serverLog) Tracef(string, ...any) {}
func (l *serverLog) Noticef(format string, args ...any) {
	l.log.Debug("NATS server", "says", fmt.Sprintf(format, args...))
}
func (l *serverLog) Warnf(format string, args ...any) {
	l.log.Warn("NATS server", "says", fmt.Sprintf(format, args...))
}
func (l *serverLog) Errorf(format string, args ...any) {
	l.log.Error("NATS server", "says", fmt.Sprintf(format, args...))
}
func (l *serverLog) Fatalf(format string, args ...any) {
	l.mu.Lock()
	l.last = fmt.Sprintf(format, args...)
	l.mu.Unlock()
	l.Errorf(format, args...)
}

// fatal is why the server did not start.
func (l *serverLog) fatal() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last == "" {
		return errors.New("it did not start in time")
	}
	return errors.New(l.last)
}
