package store

import (
	"sync"

	"github.com/signet-iot/signet"
)

// maxKnown bounds the devices that are remembered, half a KiB each, 1 at most: 16 MiB, or 32.
const maxKnown = 32 << 10

// known remembers devices as they were last read, so that one that comes back is not
// looked up in the database: that was a twentieth of what its connect takes. It is for
// SQLite alone, whose file nobody else writes; two servers may share a PostgreSQL.
//
// Nobody is given a device as it was before a change that is stored, whether or not it
// has returned: who has made a device anew may be told so before who has deleted it. A
// change has its device forgotten before it is made, and what is read until it is over,
// whatever has come of it, is not remembered. Modules are not, nor that there is no such
// device.
type known struct {
	mu         sync.Mutex
	underWay   map[deviceKey]int              // changes; where the device is "", of the hub with all of them
	changes    uint64                         // that are over
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
	if k.changes == changes && k.underWay[deviceKey{i.Hub, i.DeviceID}] == 0 && k.underWay[deviceKey{i.Hub, ""}] == 0 {
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

// change is called before a change of a device, and over after it. That of a hub, which
// is deleted with all that bears its name, is one of the device "".
func (k *known) change(hub, device string) (over func()) {
	if k == nil {
		return func() {}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	key := deviceKey{hub, device}
	if device == "" {
		k.young, k.old = nil, nil
	}
	delete(k.young, key)
	delete(k.old, key)
	if k.underWay == nil {
		k.underWay = map[deviceKey]int{}
	}
	k.underWay[key]++
	return func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.changes++
		if k.underWay[key]--; k.underWay[key] == 0 {
			delete(k.underWay, key)
		}
	}
}
