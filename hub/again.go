package hub

import (
	"crypto/sha256"
	"sync"
	"time"

	"github.com/signet-iot/signet"
)

// A device whose chain is refused and that comes again and again is judged less
// and less often, and told meanwhile what it was told before: at most once in
// maxHold. What it is known by is the key of its leaf, which the handshake has
// proven to be its own: so nobody behind the same address, and nobody who knows
// its name, has it slowed, nor is slowed by it. Each time it is let in or
// something is cut, judging begins anew; what an operator has mended otherwise is
// seen after maxHold at the latest.
const (
	freeRefusals = 3 // in a row are judged; SDKs that try again after a minute never have more
	firstHold    = 500 * time.Millisecond
	maxHold      = 5 * time.Second
	forgetAfter  = time.Minute // without a refusal

	// maxHammering bounds the keys that are remembered, some 300 bytes each. Whoever
	// has more, and a certificate for each, is bounded by the gate.
	maxHammering = 16_384
)

type hammering struct {
	mu   sync.Mutex
	keys map[[32]byte]*hammerer
}

// A hammerer is a key whose chain was refused.
type hammerer struct {
	refusals int
	last     time.Time
	until    time.Time // not judged before
	changes  uint64    // the hub's count of them when it was judged
	told     *signet.Error
}

// keyOf is the hub and the key of who comes; there is none without a chain.
func keyOf(c Credentials) (key [32]byte, ok bool) {
	if len(c.Chain) == 0 || c.Token != "" {
		return key, false
	}
	h := sha256.New()
	h.Write(c.Chain[0].RawSubjectPublicKeyInfo)
	h.Write([]byte(signet.HostOnly(c.Host)))
	h.Sum(key[:0])
	return key, true
}

// again gives what who comes is told without being judged; nil when he is judged.
func (x *hammering) again(c Credentials, changes uint64, now time.Time) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.keys) == 0 {
		return nil // nobody is hashed for nothing
	}
	key, ok := keyOf(c)
	if k := x.keys[key]; ok && k != nil && k.changes == changes && now.Before(k.until) {
		return k.told
	}
	return nil
}

// judged notes what became of a judgement.
func (x *hammering) judged(c Credentials, err error, changes uint64, now time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if err == nil && len(x.keys) == 0 {
		return
	}
	key, ok := keyOf(c)
	if !ok {
		return
	}
	if err == nil {
		delete(x.keys, key)
		return
	}
	e := signet.AsError(err)
	step := e.Code.Info().Step
	switch {
	case step != signet.StepChain && step != signet.StepPath,
		e.Code == signet.CertRevocationUnknown, // the next try may find the answer
		e.Code == signet.CertOutOfScope:        // which is of a device ID, not of a key
		return
	}
	k := x.keys[key]
	if k == nil || now.Sub(k.last) > forgetAfter {
		x.makeRoom(now)
		k = &hammerer{}
		x.keys[key] = k
	}
	k.refusals++
	k.last, k.changes, k.told = now, changes, e
	if more := k.refusals - freeRefusals; more > 0 {
		k.until = now.Add(min(maxHold, firstHold<<min(more-1, 10)))
	}
}

// makeRoom keeps the keys within their bound.
func (x *hammering) makeRoom(now time.Time) {
	if x.keys == nil {
		x.keys = map[[32]byte]*hammerer{}
	}
	if len(x.keys) < maxHammering {
		return
	}
	for key, k := range x.keys {
		if now.Sub(k.last) > forgetAfter {
			delete(x.keys, key)
		}
	}
	for key := range x.keys {
		if len(x.keys) < maxHammering {
			return
		}
		delete(x.keys, key) // any: it is judged once more
	}
}
