package crash_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/internal/hubtest"
	"github.com/signet-iot/signet/pki"
	"github.com/signet-iot/signet/server"
)

// settleService makes what registrations need, at the first start: a group, and
// a second hub, so that there is something to choose.
func settleService(ctx context.Context, s *server.Server, pem string) error {
	if _, err := s.Registry().CreateHub(ctx, "other", "other.localhost"); err != nil && signet.CodeOf(err) != signet.HubExists {
		return err
	}
	if _, _, err := s.Authority().Register(ctx, "dps", "acme", pem, true, ""); err != nil {
		return err
	}
	_, _, err := s.Provisioning().PutEnrollment(ctx, signet.Enrollment{Service: "dps", Group: true, ID: "acme",
		Attestation: signet.Attestation{Type: signet.AttestX509, PrimaryCA: "acme"},
		InitialTwin: signet.InitialTwin{Tags: json.RawMessage(`{"plant":4}`)}}, "")
	if signet.CodeOf(err) == signet.EnrollmentExists {
		return nil
	}
	return err
}

// TestKillRegistrations: kill -9 while devices register. Each operation that was
// acknowledged is gone on with by the next process, to its end; each device gets
// one identity, at one hub, with the certificate that it came with and the twin
// that it begins with.
func TestKillRegistrations(t *testing.T) {
	folder := t.TempDir()
	data, caFile := filepath.Join(folder, "data"), filepath.Join(folder, "ca.pem")
	root := hubtest.NewCA(t, "Root")
	if err := os.WriteFile(caFile, []byte(hubtest.PEM(root.Cert.Raw)), 0o600); err != nil {
		t.Fatal(err)
	}
	const devices, kills, gangs = 120, 3, 8
	var mu sync.Mutex
	word := map[string]string{} // operations by device
	pairs := map[string]tls.Certificate{}
	for round := range kills {
		v := begin(t, data, "SIGNET_CRASH_CA="+caFile)
		scope, err := os.ReadFile(filepath.Join(data, "id-scope"))
		if err != nil {
			t.Fatal(err)
		}
		ids := make(chan string, devices)
		for n := range devices {
			id := fmt.Sprintf("press-%d-%d", round, n)
			pairs[id] = root.Device(t, id)
			ids <- id
		}
		close(ids)
		enough := make(chan struct{}, devices)
		var all sync.WaitGroup
		for range gangs {
			all.Go(func() {
				for id := range ids {
					conf := &tls.Config{RootCAs: v.roots, ServerName: "localhost", Certificates: []tls.Certificate{pairs[id]}}
					operation, err := register(v.https, conf, strings.TrimSpace(string(scope)), id)
					if err != nil {
						return // it is dead
					}
					mu.Lock()
					word[id] = operation
					mu.Unlock()
					enough <- struct{}{}
				}
			})
		}
		for range 20 + rand.IntN(60) {
			select {
			case <-enough:
			case <-time.After(3 * time.Minute):
				t.Fatalf("round %d: only %d are acknowledged\n%s", round, len(word), &v.log)
			}
		}
		v.kill()
		all.Wait()
		v.cmd.Wait()
	}

	s, err := server.Start(t.Context(), config(data))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(context.Background())
	for id, operation := range word {
		var r signet.Registration
		for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
			if r, err = s.Provisioning().Registration(t.Context(), "dps", id); err != nil || r.OperationID != operation {
				t.Fatalf("%s was acknowledged operation %s: %+v %v", id, operation, r, err)
			}
			if r.Status != signet.Assigning || time.Now().After(deadline) {
				break
			}
		}
		var at []string
		for _, h := range s.Registry().Hubs() {
			i, err := s.Registry().Get(t.Context(), h.Name, id, "")
			twin, err2 := s.Registry().Twin(t.Context(), h.Name, id, "")
			if signet.CodeOf(err) == signet.IdentityUnknown {
				continue
			}
			if err := errors.Join(err, err2); err != nil {
				t.Fatal(err)
			}
			if !strings.EqualFold(i.Auth.PrimaryThumbprint, pki.ThumbprintSHA256(pairs[id].Certificate[0])) || string(twin.Tags) != `{"plant":4}` {
				t.Errorf("%s: %+v %s", id, i, twin.Tags)
			}
			at = append(at, h.HostName)
		}
		if r.Status != signet.Assigned || len(at) != 1 || at[0] != r.Hub {
			t.Errorf("%s is %s to %s, and at %v", id, r.Status, r.Hub, at)
		}
	}
	t.Logf("%d kills: %d registrations acknowledged, all assigned", kills, len(word))
}

// register asks for a place, by HTTPS, and gives the operation that is
// acknowledged; it does not ask after it.
func register(address string, conf *tls.Config, scope, id string) (operation string, err error) {
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}, Timeout: 2 * time.Minute}
	r, err := http.NewRequest("PUT", "https://"+address+"/"+scope+"/registrations/"+id+"/register?api-version=2019-03-31", strings.NewReader(`{"registrationId":"`+id+`"}`))
	if err != nil {
		return "", err
	}
	answer, err := client.Do(r)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return "", err
	}
	var o struct{ OperationID string }
	if answer.StatusCode != http.StatusAccepted || json.Unmarshal(body, &o) != nil {
		return "", fmt.Errorf("%s: %s", answer.Status, body)
	}
	return o.OperationID, nil
}
