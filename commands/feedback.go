package commands

import (
	"context"
	"time"

	"github.com/signet-iot/signet"
)

// The bounds of the feedback of a hub.
const (
	// MaxFeedback is how many records are kept: beyond it the oldest go, for a back
	// end that does not read them.
	MaxFeedback = 10_000
	// feedbackLife is how long they are kept: as long as a command can live.
	feedbackLife = MaxLife
	// maxBatch bounds the records of a batch, and maxBatches the batches given out
	// at a time.
	maxBatch   = 100
	maxBatches = 10
)

// A batch is feedback that is given out.
type batch struct {
	ids   map[string]bool
	until time.Time
}

// Feedback gives out the oldest feedback of a hub that is free, at most 100
// records, locked for a minute; none when there is none.
func (k *Commands) Feedback(ctx context.Context, hub string) (records []signet.Feedback, token string, err error) {
	// All that can be locked, and a batch more.
	kept, err := k.store.Feedback(ctx, hub, maxBatch*(maxBatches+1))
	if err != nil {
		return nil, "", err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	taken := map[string]bool{}
	batches := k.feedback[hub]
	for token, b := range batches {
		if !k.now().Before(b.until) {
			delete(batches, token)
			continue
		}
		for id := range b.ids {
			taken[id] = true
		}
	}
	b := batch{ids: map[string]bool{}, until: k.now().Add(LockTime)}
	for _, f := range kept {
		if !taken[f.ID] && len(records) < maxBatch {
			records = append(records, f)
			b.ids[f.ID] = true
		}
	}
	if len(records) == 0 || len(batches) >= maxBatches {
		return nil, "", nil
	}
	if batches == nil {
		batches = map[string]batch{}
		k.feedback[hub] = batches
	}
	token = newID()
	batches[token] = b
	return records, token, nil
}

// CompleteFeedback removes the feedback that the token locks. It refuses with
// [signet.MessageLockLost] when the lock has lapsed.
func (k *Commands) CompleteFeedback(ctx context.Context, hub, token string) error {
	b, err := k.batch(hub, token)
	if err != nil {
		return err
	}
	ids := make([]string, 0, len(b.ids))
	for id := range b.ids {
		ids = append(ids, id)
	}
	if err := k.store.RemoveFeedback(ctx, hub, ids); err != nil {
		return err
	}
	k.unlockFeedback(hub, token)
	return nil
}

// AbandonFeedback gives back the feedback that the token locks, as
// CompleteFeedback.
func (k *Commands) AbandonFeedback(hub, token string) error {
	if _, err := k.batch(hub, token); err != nil {
		return err
	}
	k.unlockFeedback(hub, token)
	return nil
}

func (k *Commands) batch(hub, token string) (batch, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	b, ok := k.feedback[hub][token]
	if !ok || !k.now().Before(b.until) {
		return b, lockLost()
	}
	return b, nil
}

func (k *Commands) unlockFeedback(hub, token string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.feedback[hub], token)
	if len(k.feedback[hub]) == 0 {
		delete(k.feedback, hub)
	}
}

// sweepFeedback removes what nobody has read.
func (k *Commands) sweepFeedback(ctx context.Context) error {
	k.mu.Lock()
	for hub, batches := range k.feedback {
		for token, b := range batches {
			if !k.now().Before(b.until) {
				delete(batches, token)
			}
		}
		if len(batches) == 0 {
			delete(k.feedback, hub)
		}
	}
	k.mu.Unlock()
	return k.store.TrimFeedback(ctx, k.now().Add(-feedbackLife), MaxFeedback)
}
