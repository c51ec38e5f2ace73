package store_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/commands"
	"github.com/signet-iot/signet/store"
)

// The promises of commands.Store.
func init() {
	type promise = struct {
		name string
		keep func(t *testing.T, s *store.Store)
	}
	promises = append(promises, []promise{
		{"a command comes back as it went in, and belongs to its identity", func(t *testing.T, s *store.Store) {
			want := command("east", "d", "m", 1)
			_, err := s.AddCommand(t.Context(), want, 9)
			fails(t, err, signet.ErrNotFound)
			ok(t, s.CreateIdentity(t.Context(), device("east", "d")))
			ok(t, s.CreateIdentity(t.Context(), module("east", "d", "m")))
			want.System = []signet.Property{{Name: "content-type", Value: "text/plain"}}
			want.Properties = []signet.Property{{Name: "b", Value: "ü\t\"漢"}, {Name: "a"}}
			want.Body = []byte{0, 0xff, 'x'}
			want.Sequence, err = s.AddCommand(t.Context(), want, 9)
			ok(t, err)
			got, err := s.Command(t.Context(), want.CommandQueue, want.Sequence)
			ok(t, err)
			same(t, got, want)
			head := want
			head.System, head.Properties, head.Body = nil, nil, nil
			queue, err := s.Commands(t.Context(), want.CommandQueue)
			ok(t, err)
			same(t, queue, []signet.Command{head})

			for _, other := range []signet.CommandQueue{
				command("east", "d", "", 1).CommandQueue, command("west", "d", "m", 1).CommandQueue,
				{Hub: "east", DeviceID: "d", ModuleID: "m", GenerationID: "another"}, {Hub: "east", DeviceID: "d\x00", ModuleID: "m"},
			} {
				queue, err := s.Commands(t.Context(), other)
				ok(t, err)
				same(t, len(queue), 0)
				_, err = s.Command(t.Context(), other, want.Sequence)
				fails(t, err, signet.ErrNotFound)
				n, err := s.EndCommands(t.Context(), other, []commands.Ending{{Sequence: want.Sequence}})
				ok(t, err)
				same(t, n, 0)
				ok(t, s.RaiseDeliveries(t.Context(), other, []int64{want.Sequence}))
			}
			stranger := want
			stranger.GenerationID = "another"
			_, err = s.AddCommand(t.Context(), stranger, 9)
			fails(t, err, signet.ErrNotFound)
			ok(t, s.DeleteIdentity(t.Context(), "east", "d", "", "*")) // with its modules
			_, err = s.Command(t.Context(), want.CommandQueue, want.Sequence)
			fails(t, err, signet.ErrNotFound)
			ok(t, s.CreateIdentity(t.Context(), device("east", "d")))
			ok(t, s.CreateIdentity(t.Context(), module("east", "d", "m")))
			queue, err = s.Commands(t.Context(), want.CommandQueue)
			ok(t, err)
			same(t, len(queue), 0)
		}},
		{"a queue is in order and bounded, also among those who send at once", func(t *testing.T, s *store.Store) {
			ok(t, s.CreateIdentity(t.Context(), device("east", "d")))
			ok(t, s.CreateIdentity(t.Context(), device("east", "e")))
			const most = 5
			full := 0
			for _, err := range together(4*most, func(n int) error {
				_, err := s.AddCommand(t.Context(), command("east", "d", "", n), most)
				return err
			}) {
				if errors.Is(err, signet.ErrFull) {
					full++
				} else {
					ok(t, err)
				}
			}
			same(t, full, 3*most)
			queue, err := s.Commands(t.Context(), command("east", "d", "", 1).CommandQueue)
			ok(t, err)
			same(t, len(queue), most)
			for i := range queue[1:] {
				if queue[i].Sequence >= queue[i+1].Sequence {
					t.Errorf("%d is followed by %d", queue[i].Sequence, queue[i+1].Sequence)
				}
			}
			// It is the sequence that was asked for, when that is ahead.
			for _, want := range []int64{700, 701, 800} {
				c := command("east", "e", "", 1)
				c.Sequence = want / 100 * 100
				got, err := s.AddCommand(t.Context(), c, most)
				ok(t, err)
				same(t, got, want)
			}
		}},
		{"commands are counted for devices, each for itself", func(t *testing.T, s *store.Store) {
			for _, h := range []string{"east", "west"} {
				for n, d := range []string{"a", "b", "c", "D"} {
					ok(t, s.CreateIdentity(t.Context(), device(h, d)))
					ok(t, s.CreateIdentity(t.Context(), module(h, d, "m")))
					for range n {
						for _, m := range []string{"", "m"} {
							_, err := s.AddCommand(t.Context(), command(h, d, m, 1), 9)
							ok(t, err)
						}
					}
				}
			}
			counts, err := s.CountCommands(t.Context(), "east", "a", "b")
			ok(t, err)
			same(t, counts, map[string]int{"b": 1})
			counts, err = s.CountCommands(t.Context(), "east", "D", "c")
			ok(t, err)
			same(t, counts, map[string]int{"D": 3, "b": 1, "c": 2})
		}},
		{"deliveries are counted, and expired commands found", func(t *testing.T, s *store.Store) {
			var sequences []int64
			ok(t, s.CreateIdentity(t.Context(), device("east", "d")))
			queue := command("east", "d", "", 0).CommandQueue
			for _, n := range []int{3, 1, 2} {
				sequence, err := s.AddCommand(t.Context(), command("east", "d", "", n), 9)
				ok(t, err)
				sequences = append(sequences, sequence)
			}
			ok(t, s.RaiseDeliveries(t.Context(), queue, append(sequences[:2:2], 99)))
			ok(t, s.RaiseDeliveries(t.Context(), queue, sequences[1:2]))
			all, err := s.Commands(t.Context(), queue)
			ok(t, err)
			same(t, []int{all[0].DeliveryCount, all[1].DeliveryCount, all[2].DeliveryCount}, []int{1, 2, 0})
			for limit, want := range []string{"", "m1", "m1 m2", "m1 m2"} {
				expired, err := s.ExpiredCommands(t.Context(), command("", "", "", 2).ExpiryTime, limit)
				ok(t, err)
				got := ""
				for i, c := range expired {
					if i > 0 {
						got += " "
					}
					got += c.MessageID
					same(t, c.CommandQueue, queue)
				}
				same(t, got, want)
			}
		}},
		{"a command ends once, with its feedback, which is its hub's", func(t *testing.T, s *store.Store) {
			ok(t, s.CreateIdentity(t.Context(), device("east", "d")))
			queue := command("east", "d", "", 0).CommandQueue
			var endings []commands.Ending
			var want []signet.Feedback
			for n := range 3 {
				sequence, err := s.AddCommand(t.Context(), command("east", "d", "", n), 9)
				ok(t, err)
				f := signet.Feedback{CommandQueue: queue, ID: fmt.Sprint("f", n), MessageID: fmt.Sprint("m", n), Outcome: signet.Rejected, Time: at(9 - n)}
				endings = append(endings, commands.Ending{Sequence: sequence, Feedback: &f})
				want = append([]signet.Feedback{f}, want...) // the oldest first
			}
			n, err := s.EndCommands(t.Context(), queue, append(endings[:2:2], commands.Ending{Sequence: 5, Feedback: &signet.Feedback{ID: "no"}}))
			ok(t, err)
			same(t, n, 2)
			n, err = s.EndCommands(t.Context(), queue, endings)
			ok(t, err)
			same(t, n, 1)
			got, err := s.Feedback(t.Context(), "east", 9)
			ok(t, err)
			same(t, got, want)
			got, err = s.Feedback(t.Context(), "east", 1)
			ok(t, err)
			same(t, got, want[:1])
			for _, h := range []string{"west", "", "\xff"} {
				got, err = s.Feedback(t.Context(), h, 9)
				ok(t, err)
				same(t, len(got), 0)
			}
			ok(t, s.RemoveFeedback(t.Context(), "west", []string{"f1"}))
			ok(t, s.RemoveFeedback(t.Context(), "east", []string{"f1", "f1", "f7", "\x00"}))
			// It outlives the device, and not the hub.
			ok(t, s.DeleteIdentity(t.Context(), "east", "d", "", "*"))
			got, err = s.Feedback(t.Context(), "east", 9)
			ok(t, err)
			same(t, got, []signet.Feedback{want[0], want[2]})
			ok(t, s.DeleteHub(t.Context(), "east"))
			ok(t, s.CreateHub(t.Context(), hub("east")))
			got, err = s.Feedback(t.Context(), "east", 9)
			ok(t, err)
			same(t, len(got), 0)
		}},
		{"feedback that nobody reads is trimmed, each hub's for itself", func(t *testing.T, s *store.Store) {
			for _, h := range []string{"east", "west"} {
				ok(t, s.CreateIdentity(t.Context(), device(h, "d")))
				for n := range 5 {
					c := command(h, "d", "", n)
					sequence, err := s.AddCommand(t.Context(), c, 9)
					ok(t, err)
					_, err = s.EndCommands(t.Context(), c.CommandQueue, []commands.Ending{{Sequence: sequence,
						Feedback: &signet.Feedback{CommandQueue: c.CommandQueue, ID: fmt.Sprint("f", n), Time: at(n)}}})
					ok(t, err)
				}
			}
			ids := func(hub string) (ids []string) {
				list, err := s.Feedback(t.Context(), hub, 9)
				ok(t, err)
				for _, f := range list {
					ids = append(ids, f.ID)
				}
				return ids
			}
			ok(t, s.TrimFeedback(t.Context(), at(0), 5))
			same(t, len(ids("east")), 5)
			ok(t, s.RemoveFeedback(t.Context(), "west", []string{"f4"}))
			ok(t, s.TrimFeedback(t.Context(), at(2), 2))
			same(t, ids("east"), []string{"f3", "f4"})
			same(t, ids("west"), []string{"f2", "f3"})
		}},
	}...)
}

// command is one that expires n hours later than others.
func command(hub, deviceID, moduleID string, n int) signet.Command {
	return signet.Command{
		CommandQueue: signet.CommandQueue{Hub: hub, DeviceID: deviceID, ModuleID: moduleID, GenerationID: module(hub, deviceID, moduleID).GenerationID},
		MessageID:    fmt.Sprint("m", n), Ack: signet.AckNegative,
		EnqueuedTime: at(1), ExpiryTime: at(3600 * n), Body: []byte{},
	}
}

// TestCommandsReopen: what was acknowledged to a sender is there after a restart.
func TestCommandsReopen(t *testing.T) {
	each(t, func(t *testing.T, db database, dsn string) {
		s := db.mustOpen(t, dsn)
		ok(t, s.CreateHub(t.Context(), hub("east")))
		ok(t, s.CreateIdentity(t.Context(), device("east", "d")))
		sent := command("east", "d", "", 1)
		sent.Body = []byte("hello")
		var err error
		sent.Sequence, err = s.AddCommand(t.Context(), sent, 9)
		ok(t, err)
		ok(t, s.Close())
		got, err := db.mustOpen(t, dsn).Command(t.Context(), sent.CommandQueue, sent.Sequence)
		ok(t, err)
		same(t, got, sent)
	})
}
