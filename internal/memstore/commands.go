package memstore

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/commands"
)

var _ commands.Store = (*Store)(nil)

func (s *Store) forgetCommands(of func(signet.CommandQueue) bool) {
	s.commands = slices.DeleteFunc(s.commands, func(c signet.Command) bool { return of(c.CommandQueue) })
}

func (s *Store) queue(q signet.CommandQueue) (of []signet.Command) {
	for _, c := range s.commands {
		if c.CommandQueue == q {
			of = append(of, c)
		}
	}
	return of
}

func heads(of []signet.Command) []signet.Command {
	for i := range of {
		of[i].System, of[i].Properties, of[i].Body = nil, nil, nil
	}
	return of
}

// AddCommand adds one at the end of its queue.
func (s *Store) AddCommand(_ context.Context, c signet.Command, most int) (sequence int64, err error) {
	err = s.do("AddCommand", func() error {
		i, ok := s.identities[rowKey{c.Hub, c.DeviceID, c.ModuleID}]
		if !ok || i.GenerationID != c.GenerationID {
			return signet.ErrNotFound
		}
		waiting := s.queue(c.CommandQueue)
		if len(waiting) >= most {
			return signet.ErrFull
		}
		if n := len(waiting); n > 0 {
			c.Sequence = max(c.Sequence, waiting[n-1].Sequence+1)
		}
		sequence = c.Sequence
		s.commands = append(s.commands, c)
		return nil
	})
	return sequence, err
}

// Commands lists a queue.
func (s *Store) Commands(_ context.Context, q signet.CommandQueue) ([]signet.Command, error) {
	return read(s, "Commands", func() ([]signet.Command, error) { return heads(s.queue(q)), nil })
}

// Command reads one.
func (s *Store) Command(_ context.Context, q signet.CommandQueue, sequence int64) (signet.Command, error) {
	return read(s, "Command", func() (signet.Command, error) {
		for _, c := range s.queue(q) {
			if c.Sequence == sequence {
				return c, nil
			}
		}
		return signet.Command{}, signet.ErrNotFound
	})
}

// EndCommands removes some, with their feedback.
func (s *Store) EndCommands(_ context.Context, q signet.CommandQueue, endings []commands.Ending) (ended int, err error) {
	err = s.do("EndCommands", func() error {
		for _, e := range endings {
			n := slices.IndexFunc(s.commands, func(c signet.Command) bool { return c.CommandQueue == q && c.Sequence == e.Sequence })
			if n < 0 {
				continue
			}
			s.commands = slices.Delete(s.commands, n, n+1)
			ended++
			if e.Feedback != nil {
				s.feedback = append(s.feedback, *e.Feedback)
			}
		}
		return nil
	})
	return ended, err
}

// RaiseDeliveries counts deliveries.
func (s *Store) RaiseDeliveries(_ context.Context, q signet.CommandQueue, sequences []int64) error {
	return s.do("RaiseDeliveries", func() error {
		for i := range s.commands {
			if c := &s.commands[i]; c.CommandQueue == q && slices.Contains(sequences, c.Sequence) {
				c.DeliveryCount++
			}
		}
		return nil
	})
}

// ExpiredCommands lists what is past its time.
func (s *Store) ExpiredCommands(_ context.Context, at time.Time, limit int) (cs []signet.Command, err error) {
	err = s.do("ExpiredCommands", func() error {
		for _, c := range s.commands {
			if !c.ExpiryTime.After(at) {
				cs = append(cs, c)
			}
		}
		slices.SortStableFunc(cs, func(a, b signet.Command) int { return a.ExpiryTime.Compare(b.ExpiryTime) })
		cs = heads(cs[:min(limit, len(cs))])
		return nil
	})
	return cs, err
}

// CountCommands counts by device.
func (s *Store) CountCommands(_ context.Context, hub, first, last string) (counts map[string]int, err error) {
	err = s.do("CountCommands", func() error {
		counts = map[string]int{}
		for _, c := range s.commands {
			if c.Hub == hub && c.ModuleID == "" && c.DeviceID >= first && c.DeviceID <= last {
				counts[c.DeviceID]++
			}
		}
		return nil
	})
	return counts, err
}

// Feedback lists records.
func (s *Store) Feedback(_ context.Context, hub string, limit int) (fs []signet.Feedback, err error) {
	err = s.do("Feedback", func() error {
		for _, f := range s.feedback {
			if f.Hub == hub {
				fs = append(fs, f)
			}
		}
		slices.SortStableFunc(fs, func(a, b signet.Feedback) int { return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.ID, b.ID)) })
		fs = fs[:min(limit, len(fs))]
		return nil
	})
	return fs, err
}

// RemoveFeedback removes records.
func (s *Store) RemoveFeedback(_ context.Context, hub string, ids []string) error {
	return s.do("RemoveFeedback", func() error {
		s.feedback = slices.DeleteFunc(s.feedback, func(f signet.Feedback) bool { return f.Hub == hub && slices.Contains(ids, f.ID) })
		return nil
	})
}

// TrimFeedback removes what is old or too much.
func (s *Store) TrimFeedback(_ context.Context, before time.Time, keep int) error {
	return s.do("TrimFeedback", func() error {
		s.feedback = slices.DeleteFunc(s.feedback, func(f signet.Feedback) bool { return f.Time.Before(before) })
		kept := map[string]int{}
		slices.SortStableFunc(s.feedback, func(a, b signet.Feedback) int { return cmp.Or(b.Time.Compare(a.Time), cmp.Compare(b.ID, a.ID)) })
		s.feedback = slices.DeleteFunc(s.feedback, func(f signet.Feedback) bool { kept[f.Hub]++; return kept[f.Hub] > keep })
		return nil
	})
}
