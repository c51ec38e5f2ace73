package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/commands"
)

const (
	commandHead = `hub, device_id, module_id, generation_id, sequence, message_id, ack, enqueued, expires, delivery_count`
	whereQueue  = ` WHERE hub = $1 AND device_id = $2 AND module_id = $3 AND generation_id = $4`
)

// commandProperties is what of a command is kept as JSON.
type commandProperties struct {
	System      []signet.Property `json:"system,omitempty"`
	Application []signet.Property `json:"application,omitempty"`
}

func findableQueue(q signet.CommandQueue) bool {
	return findable(q.Hub, q.DeviceID, q.ModuleID, q.GenerationID)
}

func scanCommandHead(rows *sql.Rows, c *signet.Command) error { return scanCommand(rows, c) }

func scanCommand(rows *sql.Rows, c *signet.Command, more ...any) error {
	var enqueued, expires int64
	err := rows.Scan(append([]any{&c.Hub, &c.DeviceID, &c.ModuleID, &c.GenerationID, &c.Sequence, &c.MessageID,
		(*string)(&c.Ack), &enqueued, &expires, &c.DeliveryCount}, more...)...)
	c.EnqueuedTime, c.ExpiryTime = moment(enqueued), moment(expires)
	return err
}

// AddCommand puts a command at the end of its queue and gives its sequence. It
// fails with [signet.ErrFull] and [signet.ErrNotFound].
func (s *Store) AddCommand(ctx context.Context, c signet.Command, most int) (sequence int64, err error) {
	if !findableQueue(c.CommandQueue) {
		return 0, signet.ErrNotFound
	}
	properties, err := json.Marshal(commandProperties{c.System, c.Properties})
	if err != nil {
		return 0, fmt.Errorf("store: command %s: %w", c.MessageID, err)
	}
	if err := writable(c.MessageID, string(c.Ack), string(properties)); err != nil {
		return 0, err
	}
	body := c.Body
	if body == nil {
		body = []byte{} // NULL is not the same
	}
	err = s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		// The row of the identity is what commands for it queue up at.
		if _, err := one(ctx, q, func(rows *sql.Rows, n *int) error { return rows.Scan(n) },
			`SELECT 1 FROM identity`+whereQueue+s.engine.exclusive(), c.Hub, c.DeviceID, c.ModuleID, c.GenerationID); err != nil {
			return err
		}
		var last int64
		var waiting int
		if err := each(ctx, q, func(rows *sql.Rows) error { return rows.Scan(&waiting, &last) },
			`SELECT count(*), COALESCE(max(sequence), 0) FROM command WHERE hub = $1 AND device_id = $2 AND module_id = $3`,
			c.Hub, c.DeviceID, c.ModuleID); err != nil {
			return err
		}
		if waiting >= most {
			return signet.ErrFull
		}
		sequence = max(c.Sequence, last+1)
		_, err := q.ExecContext(ctx, `INSERT INTO command (`+commandHead+`, properties, body)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)`,
			c.Hub, c.DeviceID, c.ModuleID, c.GenerationID, sequence, c.MessageID, string(c.Ack),
			micros(c.EnqueuedTime), micros(c.ExpiryTime), int64(c.DeliveryCount), string(properties), body)
		return err
	})
	return sequence, err
}

// Commands lists a queue, oldest first, without bodies and properties.
func (s *Store) Commands(ctx context.Context, q signet.CommandQueue) ([]signet.Command, error) {
	if !findableQueue(q) {
		return nil, nil
	}
	return list(ctx, s.engine.reader(), scanCommandHead, `SELECT `+commandHead+` FROM command`+whereQueue+` ORDER BY sequence`,
		q.Hub, q.DeviceID, q.ModuleID, q.GenerationID)
}

// Command reads one command.
func (s *Store) Command(ctx context.Context, q signet.CommandQueue, sequence int64) (signet.Command, error) {
	if !findableQueue(q) {
		return signet.Command{}, signet.ErrNotFound
	}
	return one(ctx, s.engine.reader(), func(rows *sql.Rows, c *signet.Command) error {
		var properties []byte
		if err := scanCommand(rows, c, &properties, &c.Body); err != nil {
			return err
		}
		var p commandProperties
		err := json.Unmarshal(properties, &p)
		c.System, c.Properties = p.System, p.Application
		return err
	}, `SELECT `+commandHead+`, properties, body FROM command`+whereQueue+` AND sequence = $5`,
		q.Hub, q.DeviceID, q.ModuleID, q.GenerationID, sequence)
}

// EndCommands removes commands, and adds the feedback of those that it removed. It
// gives their number.
func (s *Store) EndCommands(ctx context.Context, of signet.CommandQueue, endings []commands.Ending) (ended int, err error) {
	if !findableQueue(of) {
		return 0, nil
	}
	for _, e := range endings {
		if f := e.Feedback; f != nil {
			if err := writable(f.ID, f.MessageID, string(f.Outcome)); err != nil {
				return 0, err
			}
		}
	}
	err = s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		ended = 0
		for _, e := range endings {
			n, err := affected(ctx, q, `DELETE FROM command`+whereQueue+` AND sequence = $5`,
				of.Hub, of.DeviceID, of.ModuleID, of.GenerationID, e.Sequence)
			if err != nil {
				return err
			}
			ended += int(n)
			if f := e.Feedback; f != nil && n > 0 {
				if _, err := q.ExecContext(ctx, `INSERT INTO feedback (hub, id, device_id, module_id, generation_id, message_id, outcome, time)
					VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`, of.Hub, f.ID, of.DeviceID, of.ModuleID, of.GenerationID,
					f.MessageID, string(f.Outcome), micros(f.Time)); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return ended, err
}

// RaiseDeliveries adds one to the delivery counts of commands.
func (s *Store) RaiseDeliveries(ctx context.Context, of signet.CommandQueue, sequences []int64) error {
	if !findableQueue(of) {
		return nil
	}
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		for _, sequence := range sequences {
			if _, err := q.ExecContext(ctx, `UPDATE command SET delivery_count = delivery_count + 1`+whereQueue+` AND sequence = $5`,
				of.Hub, of.DeviceID, of.ModuleID, of.GenerationID, sequence); err != nil {
				return err
			}
		}
		return nil
	})
}

// ExpiredCommands lists up to limit commands of all hubs whose expiry is not after
// a time, the earliest first, without bodies and properties.
func (s *Store) ExpiredCommands(ctx context.Context, at time.Time, limit int) ([]signet.Command, error) {
	return list(ctx, s.engine.reader(), scanCommandHead,
		`SELECT `+commandHead+` FROM command WHERE expires <= $1 ORDER BY expires LIMIT $2`, micros(at), int64(max(limit, 0)))
}

// CountCommands counts what waits for each device of a hub from one ID to another,
// in byte order.
func (s *Store) CountCommands(ctx context.Context, hub, first, last string) (map[string]int, error) {
	counts := map[string]int{}
	if !findable(hub, first, last) {
		return counts, nil
	}
	err := each(ctx, s.engine.reader(), func(rows *sql.Rows) error {
		var device string
		var n int
		err := rows.Scan(&device, &n)
		counts[device] = n
		return err
	}, `SELECT device_id, count(*) FROM command WHERE hub = $1 AND device_id >= $2 AND device_id <= $3 AND module_id = ''
		GROUP BY device_id`, hub, first, last)
	return counts, err
}

// Feedback lists up to limit records of a hub, oldest first.
func (s *Store) Feedback(ctx context.Context, hub string, limit int) ([]signet.Feedback, error) {
	if !findable(hub) {
		return nil, nil
	}
	return list(ctx, s.engine.reader(), func(rows *sql.Rows, f *signet.Feedback) error {
		var at int64
		err := rows.Scan(&f.Hub, &f.ID, &f.DeviceID, &f.ModuleID, &f.GenerationID, &f.MessageID, (*string)(&f.Outcome), &at)
		f.Time = moment(at)
		return err
	}, `SELECT hub, id, device_id, module_id, generation_id, message_id, outcome, time FROM feedback WHERE hub = $1
		ORDER BY time, id LIMIT $2`, hub, int64(max(limit, 0)))
}

// RemoveFeedback removes records; those that are gone already do not matter.
func (s *Store) RemoveFeedback(ctx context.Context, hub string, ids []string) error {
	if !findable(hub) {
		return nil
	}
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		for _, id := range ids {
			if _, err := q.ExecContext(ctx, `DELETE FROM feedback WHERE hub = $1 AND id = $2`, hub, stored(id)); err != nil {
				return err
			}
		}
		return nil
	})
}

// TrimFeedback removes, of every hub, the records of before a time, and the oldest
// of those beyond keep.
func (s *Store) TrimFeedback(ctx context.Context, before time.Time, keep int) error {
	// Mostly there is nothing to do, and nothing is written.
	hubs, err := list(ctx, s.engine.reader(), func(rows *sql.Rows, hub *string) error { return rows.Scan(hub) },
		`SELECT hub FROM feedback GROUP BY hub HAVING count(*) > $1 OR min(time) < $2 ORDER BY hub`, int64(max(keep, 0)), micros(before))
	if err != nil || len(hubs) == 0 {
		return err
	}
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		for _, hub := range hubs {
			if _, err := q.ExecContext(ctx, `DELETE FROM feedback WHERE hub = $1 AND time < $2`, hub, micros(before)); err != nil {
				return err
			}
			if _, err := q.ExecContext(ctx, `DELETE FROM feedback WHERE hub = $1 AND (time, id) <=
				(SELECT time, id FROM feedback WHERE hub = $1 ORDER BY time DESC, id DESC LIMIT 1 OFFSET $2)`,
				hub, int64(max(keep, 0))); err != nil {
				return err
			}
		}
		return nil
	})
}
