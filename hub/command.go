package hub

import (
	"context"
	"time"

	"github.com/signet-iot/signet"
)

// Commands keeps the cloud-to-device messages that wait for devices. Its server is
// package commands. Safe for concurrent use; what has returned nil is on disk.
type Commands interface {
	// Receive gives out the oldest command of a queue that is free, locked; nil
	// when none is. session is the number of the session that asks, or 0 for a
	// single request; an earlier session than another that has asked gets nothing.
	Receive(ctx context.Context, q signet.CommandQueue, session uint64) (*signet.Command, error)
	// Settle disposes of the command that a token locks. It refuses with
	// [signet.MessageLockLost].
	Settle(ctx context.Context, q signet.CommandQueue, token string, d signet.Disposition) error
	// Release abandons what a session was given and has not settled.
	Release(ctx context.Context, q signet.CommandQueue, session uint64) error
}

// releaseTime bounds how long the end of a connection waits to give back what its
// device has not settled. What is not given back is given out to the next session.
const releaseTime = 5 * time.Second

// CommandWaiting lets the session of an identity know that a command waits for it,
// if it is connected. It never blocks.
func (h *Hub) CommandWaiting(q signet.CommandQueue) {
	s := h.session(q.Hub, q.DeviceID, q.ModuleID)
	if s != nil && s.principal.GenerationID == q.GenerationID {
		s.commands.waiting.Store(true)
		s.wake()
	}
}

// CommandWaiting says whether a command may have come since it was last asked.
func (s *Session) CommandWaiting() bool { return s.commands.waiting.Swap(false) }

// NextCommand gives the oldest command that waits for the device, locked until it
// is settled; nil when none is free. What a connected device was given is not given
// to it again while it is.
func (s *Session) NextCommand(ctx context.Context) (*signet.Command, error) {
	if err := s.stillMay(ctx); err != nil {
		return nil, err
	}
	s.commands.taken.Store(true)
	c, err := s.hub.commands.Receive(ctx, s.commandQueue(), s.number)
	if s.commands.released.Load() {
		s.release() // the connection was closed meanwhile
		return nil, s.Ended()
	}
	return c, err
}

// SettleCommand disposes of a command by the token that it was given out with. It
// refuses with [signet.MessageLockLost] when it is not the session's to settle.
func (s *Session) SettleCommand(ctx context.Context, token string, d signet.Disposition) error {
	if s.principal.RenewOnly || s.single {
		if err := s.stillMay(ctx); err != nil {
			return err
		}
	}
	return s.hub.commands.Settle(ctx, s.commandQueue(), token, d)
}

func (s *Session) commandQueue() signet.CommandQueue {
	p := s.principal
	return signet.CommandQueue{Hub: p.Hub, DeviceID: p.DeviceID, ModuleID: p.ModuleID, GenerationID: p.GenerationID}
}

// release gives back what a device that has gone has not settled.
func (s *Session) release() {
	s.commands.released.Store(true)
	if s.number == 0 || !s.commands.taken.Load() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), releaseTime)
	defer cancel()
	// An error is one of the store: see Release.
	_ = s.hub.commands.Release(ctx, s.commandQueue(), s.number)
}
