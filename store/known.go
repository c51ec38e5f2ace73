package store

import (
	"sync"

	"github.com/signet-iot/signet"
)

// maxKnown bounds the devices that are remembered, half a KiB each: 16 MiB.
const maxKnown = 32 << 10

// known remembers devices as they were last read, so that one that comes back is not
// looked up in the database: that was a twentieth of what its connect takes. It is for
// SQLite alone, whose file nobody else writes; two servers may share a PostgreSQL.
//
// Nobody is given a device as it was before a change that has returned: a change of
// a device has it forgotten before it returns, whatever has come of it, and what was
// read while one was under way is not remembered. Modules are not, nor that there is
// no such device.
type known struct {
	mu         sync.Mutex
	changes    uint64
	young, old map[deviceKey]*signet.Identity // half of maxKnown each; old is dropped when young is full
}

type deviceKey struct{ hub, device string }

// recall gives a device that is remembered; otherwise a number to tell [known.learn].
func (k *known) recall(hub, device string) (i *signet.Identity, changes uint64) {
	if k == nil {
		return nil, 0
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	key := deviceKey{hub, device}
	if i := k.young[key]; i != nil {
		return i, 0
	}
	if i := k.old[key]; i != nil {
		k.keep(i)
		return i, 0
	}
	return nil, k.changes
}

// learn remembers a device that was read since recall gave that number.
func (k *known) learn(i *signet.Identity, changes uint64) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.changes == changes {
		k.keep(i)
	}
}

// keep is called with mu held.
func (k *known) keep(i *signet.Identity) {
	if len(k.young) >= maxKnown/2 {
		k.young, k.old = nil, k.young
	}
	if k.young == nil {
		k.young = map[deviceKey]*signet.Identity{}
	}
	k.young[deviceKey{i.Hub, i.DeviceID}] = i
}

// forget is called after a change of a device, before it returns.
func (k *known) forget(hub, device string) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.changes++
	key := deviceKey{hub, device}
	delete(k.young, key)
	delete(k.old, key)
}

// forgetAll is called after a hub has been deleted, with all that bore its name.
func (k *known) forgetAll() {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.changes++
	k.young, k.old = nil, nil
}
