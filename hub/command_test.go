package hub_test

import (
	"testing"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/hub"
	"github.com/signet-iot/signet/internal/memstore"
)

// mailed is a device with symmetric keys, and what is sent to it.
type mailed struct {
	*house
	identity signet.Identity
}

func newMailed(t *testing.T) *mailed {
	h := newHouse(t)
	return &mailed{h, h.device(signet.Identity{DeviceID: "d"})}
}

func (m *mailed) send(id string) {
	m.t.Helper()
	i := m.identity
	if _, err := m.commands.Send(m.t.Context(), signet.Command{MessageID: id,
		CommandQueue: signet.CommandQueue{Hub: i.Hub, DeviceID: i.DeviceID, ModuleID: i.ModuleID, GenerationID: i.GenerationID}}); err != nil {
		m.t.Fatal(err)
	}
}

func (m *mailed) credentials() hub.Credentials {
	m.t.Helper()
	token, err := signet.SignSAS("first.test/devices/d", "", m.identity.Auth.PrimaryKey, m.now.Add(time.Hour))
	if err != nil {
		m.t.Fatal(err)
	}
	return hub.Credentials{Door: signet.DoorMQTT, Host: "first.test", DeviceID: "d", Token: token}
}

// session connects the device; woken counts.
func (m *mailed) session() (s *hub.Session, woken chan bool) {
	m.t.Helper()
	woken = make(chan bool, 100)
	s, err := m.hub.Connect(m.t.Context(), m.credentials(), func() { woken <- true })
	if err != nil {
		m.t.Fatal(err)
	}
	return s, woken
}

// next asks a session for its next command, of the ID and delivery count given; ""
// is none.
func (m *mailed) next(s *hub.Session, id string, deliveries int) *signet.Command {
	m.t.Helper()
	c, err := s.NextCommand(m.t.Context())
	switch {
	case err != nil:
		m.t.Fatal(err)
	case c == nil && id != "" || c != nil && (c.MessageID != id || c.DeliveryCount != deliveries):
		m.t.Fatalf("the device is given %+v where %q was due", c, id)
	}
	return c
}

// TestCommandsReachTheDevice: what was sent while it was away and what is sent while
// it is there; and one that polls is given them too.
func TestCommandsReachTheDevice(t *testing.T) {
	m := newMailed(t)
	m.send("1")
	s, woken := m.session()
	if s.CommandWaiting() {
		t.Error("the hub looks into the queue at connect: that is the door's to do, once the device listens")
	}
	one := m.next(s, "1", 0)
	m.next(s, "", 0)
	m.send("2")
	<-woken
	if !s.CommandWaiting() || s.CommandWaiting() {
		t.Error("a door is told once")
	}
	two := m.next(s, "2", 0)
	for _, c := range []*signet.Command{one, two} {
		if err := s.SettleCommand(t.Context(), c.LockToken, signet.Complete); err != nil {
			t.Error(err)
		}
	}
	m.send("3")
	poll, err := m.hub.Authenticate(t.Context(), m.credentials())
	if err != nil {
		t.Fatal(err)
	}
	three := m.next(poll, "3", 0)
	m.next(s, "", 0)
	if err := s.SettleCommand(t.Context(), three.LockToken, signet.Complete); err != nil {
		t.Error(err) // by another request of the same identity, as HTTPS does
	}
	// A module has a queue of its own.
	s.CommandWaiting()
	m.identity = m.device(signet.Identity{DeviceID: "d", ModuleID: "m"})
	m.send("4")
	if s.CommandWaiting() {
		t.Error("what is a module's is not its device's")
	}
	m.next(s, "", 0)
}

// TestCommandsComeBack: a connection that ends, or is taken over, gives back what
// was not settled; the next is given it, and told that it had been given out.
func TestCommandsComeBack(t *testing.T) {
	m := newMailed(t)
	m.send("1")
	first, _ := m.session()
	m.next(first, "1", 0)
	first.Close()
	first.Close()
	second, _ := m.session()
	m.next(second, "1", 1)
	third, woken := m.session() // the second door has not noticed yet
	again := m.next(third, "1", 2)
	if _, err := second.NextCommand(t.Context()); signet.CodeOf(err) != signet.SessionTakenOver {
		t.Errorf("%v", err)
	}
	second.Close()
	if err := third.SettleCommand(t.Context(), again.LockToken, signet.Complete); err != nil {
		t.Error(err)
	}
	// Abandoned by one that polls, it is offered to the one that listens.
	m.send("2")
	poll, err := m.hub.Authenticate(t.Context(), m.credentials())
	if err != nil {
		t.Fatal(err)
	}
	polled := m.next(poll, "2", 0)
	third.CommandWaiting()
	if err := poll.SettleCommand(t.Context(), polled.LockToken, signet.Abandon); err != nil {
		t.Error(err)
	}
	<-woken
	if !third.CommandWaiting() {
		t.Error("the session is not told")
	}
	m.next(third, "2", 1)
}

// TestCommandsOfTheNextOne: nothing that was sent to a device reaches the next of
// its name, nor the other way round.
func TestCommandsOfTheNextOne(t *testing.T) {
	m := newMailed(t)
	m.send("old")
	s, _ := m.session()
	if err := m.registry.Delete(t.Context(), "first", "d", "", "*"); err != nil {
		t.Fatal(err)
	}
	m.identity.GenerationID += "1" // as of a later moment; the clock stands
	if err := m.store.CreateIdentity(t.Context(), m.identity); err != nil {
		t.Fatal(err)
	}
	next, _ := m.session()
	m.next(next, "", 0)
	m.send("new")
	if _, err := s.NextCommand(t.Context()); err == nil {
		t.Error("a session that has ended is given a command")
	}
	s.Close()
	m.next(next, "new", 0)
}

// TestCloseWhileAsking: a connection that closes while its door asks the store keeps
// nothing from the next one.
func TestCloseWhileAsking(t *testing.T) {
	m := newMailed(t)
	m.send("1")
	s, _ := m.session()
	m.store.Before = func(operation string) error {
		if operation == "Command" {
			m.store.Before = nil
			go s.Close()
			for s.Ended() == nil {
				time.Sleep(time.Millisecond)
			}
		}
		return nil
	}
	if c, err := s.NextCommand(t.Context()); err == nil && c != nil {
		t.Errorf("a closed session is given %+v", c)
	}
	deadline := time.Now().Add(time.Minute)
	poll, err := m.hub.Authenticate(t.Context(), m.credentials())
	if err != nil {
		t.Fatal(err)
	}
	for {
		c, err := poll.NextCommand(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if c != nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the command is kept by a session that is gone")
		}
		time.Sleep(time.Millisecond)
	}
}

// TestDiskFailsAtClose: when the end of a session cannot be stored, the next is
// given what it had all the same.
func TestDiskFailsAtClose(t *testing.T) {
	m := newMailed(t)
	m.send("1")
	s, _ := m.session()
	m.next(s, "1", 0)
	m.store.Before = func(operation string) error {
		if operation == "RaiseDeliveries" {
			return memstore.ErrFault
		}
		return nil
	}
	s.Close()
	next, _ := m.session()
	m.next(next, "1", 0)
}

// TestCommandsOfWhoIsRevoked: a request may wait for its turn after it was let in, as
// long as others of its device take for their bodies. One whose device has lost its
// right meanwhile is given nothing and settles nothing.
func TestCommandsOfWhoIsRevoked(t *testing.T) {
	m := newMailed(t)
	m.send("1")
	m.send("2")
	first, err := m.hub.Authenticate(t.Context(), m.credentials())
	if err != nil {
		t.Fatal(err)
	}
	one := m.next(first, "1", 0)
	var waits [2]*hub.Session
	for i := range waits {
		if waits[i], err = m.hub.Authenticate(t.Context(), m.credentials()); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := m.registry.SetStatus(t.Context(), m.identity.Hub, "d", signet.Disabled, ""); err != nil {
		t.Fatal(err)
	}
	if c, err := waits[0].NextCommand(t.Context()); signet.CodeOf(err) != signet.IdentityDisabled {
		t.Errorf("a disabled device is given %+v, %v", c, err)
	}
	if err := waits[1].SettleCommand(t.Context(), one.LockToken, signet.Complete); signet.CodeOf(err) != signet.IdentityDisabled {
		t.Errorf("a disabled device settles a command: %v", err)
	}
}
