package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/audit"
	"golang.org/x/mod/sumdb/note"
)

// The files of the audit log in the data folder.
const (
	auditKeyFile        = "audit.key"        // signs checkpoints; never leaves
	auditVerifierFile   = "audit.verifier"   // what others check them by
	auditCheckpointFile = "audit.checkpoint" // the last that was signed
)

// openAudit opens the audit log, with a key that is made at the first start. What
// the database holds must be what the last checkpoint, which is not in the
// database, was signed of: so a database that was edited, or put back to an older
// state, is noticed at the start.
func (s *Server) openAudit(ctx context.Context) error {
	key, verifier, err := s.auditKey()
	if err != nil {
		return err
	}
	if s.audit, err = audit.Open(ctx, s.db, audit.Options{Key: key, Now: s.cfg.Now, Logger: s.log}); err != nil {
		return err
	}
	file := filepath.Join(s.cfg.Data, auditCheckpointFile)
	last, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		s.audit.Close()
		return err
	default:
		if err := s.audit.Extends(ctx, last, verifier); err != nil {
			s.audit.Close()
			e := signet.Refuse(signet.AuditChanged, "The audit log in the database does not continue %s.", file).
				FixBy("If the database was restored from a backup on purpose, move %s elsewhere, keep it with the reason, and start again. If not, somebody has changed the record.", file)
			e.Cause = err
			return e
		}
	}
	s.onClose(func(context.Context) error {
		s.audit.Close()
		return s.keepCheckpoint()
	})
	s.background(func(ctx context.Context) {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for kept := int64(-1); ; {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			size := s.audit.Size()
			if size == kept {
				continue
			}
			if err := s.keepCheckpoint(); err != nil {
				s.log.Error("the checkpoint of the audit log could not be kept", "error", err)
				continue
			}
			kept = size
		}
	})
	return nil
}

func (s *Server) keepCheckpoint() error {
	text, err := s.audit.Checkpoint()
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(s.cfg.Data, auditCheckpointFile), text, 0o600)
}

// auditKey reads the key of the log, or makes it.
func (s *Server) auditKey() (key string, verifier note.Verifier, err error) {
	file, public := filepath.Join(s.cfg.Data, auditKeyFile), filepath.Join(s.cfg.Data, auditVerifierFile)
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		// Another would put itself in the place of what checkpoints are checked by.
		checkpoint := filepath.Join(s.cfg.Data, auditCheckpointFile)
		if _, e := os.Stat(checkpoint); !errors.Is(e, fs.ErrNotExist) {
			return "", nil, signet.Refuse(signet.AuditChanged, "The key of the audit log, %s, is not there; %s was signed by it.", file, checkpoint).
				FixBy("Put the key back. If it is lost, move %s and %s elsewhere, keep them with the reason, and start again.", checkpoint, public)
		}
		var verifierKey string
		if key, verifierKey, err = note.GenerateKey(rand.Reader, s.cfg.HostName+"/audit"); err != nil {
			return "", nil, err
		}
		// The public half first: a start that stops in between makes both anew.
		if err = writeFile(public, []byte(verifierKey+"\n"), 0o644); err == nil {
			err = writeFile(file, []byte(key+"\n"), 0o600)
		}
	} else {
		key = strings.TrimSpace(string(text))
	}
	if err != nil {
		return "", nil, fmt.Errorf("key of the audit log: %w", err)
	}
	verifierKey, err := os.ReadFile(public)
	if err == nil {
		verifier, err = note.NewVerifier(strings.TrimSpace(string(verifierKey)))
	}
	if err != nil {
		return "", nil, fmt.Errorf("verifier of the audit log, %s: %w", public, err)
	}
	return key, verifier, nil
}
