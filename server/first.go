package server

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/signet-iot/signet"
)

func (s *Server) firstTenants(ctx context.Context) error {
	return errors.Join(s.firstHub(ctx), s.firstService(ctx))
}

// firstHub makes the hub, its owner's connection string and the admin token
// where they are missing. A connection string of an earlier hub of the name is
// good for nothing, and replaced.
func (s *Server) firstHub(ctx context.Context) error {
	h, err := s.registry.HubByName(s.cfg.Hub)
	if signet.CodeOf(err) == signet.HubUnknown {
		h, err = s.registry.CreateHub(ctx, s.cfg.Hub, s.cfg.HostName)
	}
	if err != nil {
		return err
	}
	if h.HostName != s.cfg.HostName {
		return fmt.Errorf("the hub %s in %s has the host name %s, not %s: start with that name, or use another data folder",
			h.Name, s.cfg.Data, h.HostName, s.cfg.HostName)
	}
	owner := h.Policies[0]
	return s.leave(map[string]string{
		"owner.connection-string": signet.ConnectionString{HostName: h.HostName, SharedAccessKeyName: owner.Name, SharedAccessKey: owner.PrimaryKey}.String(),
		adminTokenFile:            newToken(),
	})
}

// firstService makes the provisioning service, and the files for its owner and
// its devices, where they are missing.
func (s *Server) firstService(ctx context.Context) error {
	if s.cfg.Provisioning == "off" {
		return nil
	}
	h, err := s.registry.HubByName(s.cfg.Provisioning)
	if signet.CodeOf(err) == signet.HubUnknown {
		h, err = s.registry.CreateService(ctx, s.cfg.Provisioning, s.cfg.Provisioning+"."+s.cfg.HostName)
	}
	if err != nil {
		return err
	}
	if !h.Provisions() {
		return fmt.Errorf("%s in %s is a hub: name the provisioning service otherwise (provisioning), or have none (off)", h.Name, s.cfg.Data)
	}
	owner := h.Policies[0]
	return s.leave(map[string]string{
		// By the name of the first hub, which is known to lead here.
		"provisioning.connection-string": signet.ConnectionString{HostName: s.cfg.HostName, SharedAccessKeyName: owner.Name, SharedAccessKey: owner.PrimaryKey}.String(),
		"id-scope":                       h.IDScope,
	})
}

// leave writes files for the owner into the data folder, unless they are there
// with that text; the admin token stays whatever it is.
func (s *Server) leave(files map[string]string) error {
	for name, text := range files {
		file := filepath.Join(s.cfg.Data, name)
		there, err := os.ReadFile(file)
		switch {
		case err == nil && (name == adminTokenFile || strings.TrimSpace(string(there)) == text):
			continue
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return err
		}
		if err := writeFile(file, []byte(text+"\n"), 0o600); err != nil {
			return err
		}
	}
	return nil
}

const adminTokenFile = "admin.token"

func newToken() string {
	var b [32]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// adminToken reads the token of the management API each time, so that a new one
// in the file counts at once. It is "" when there is none, which fits nobody.
func (s *Server) adminToken() string {
	text, err := os.ReadFile(filepath.Join(s.cfg.Data, adminTokenFile))
	if err != nil {
		s.log.Error("the admin token cannot be read", "error", err)
		return ""
	}
	return strings.TrimSpace(string(text))
}
