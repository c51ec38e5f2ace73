package signet

import (
	"context"
	"sync"
	"time"
)

// A Receipt says what a change did to the sessions that rested on what it
// changed, on one node.
type Receipt struct {
	Node string `json:"node"`
	// Sessions is how many the change ended; Closed how many of their connections
	// were seen closed by the time of writing. A door has a second for the rest.
	Sessions int `json:"sessions"`
	Closed   int `json:"closed"`
	// From the change being in force to a connection being closed.
	P50  time.Duration `json:"p50Nanos"`
	P99  time.Duration `json:"p99Nanos"`
	Last time.Duration `json:"lastNanos"`
	// Devices names the first hundred, as device or device/module.
	Devices []string `json:"devices,omitempty"`
}

// Receipts gathers what the changes made within one request did.
type Receipts struct {
	mu   sync.Mutex
	list []Receipt
}

type receiptsKey struct{}

// WithReceipts gives a context in which the receipts of changes are gathered: so
// that who asked for a change can be told what it did, whichever rule made it.
func WithReceipts(ctx context.Context) (context.Context, *Receipts) {
	r := &Receipts{}
	return context.WithValue(ctx, receiptsKey{}, r), r
}

// AddReceipt adds to the receipts of the context, if it gathers any.
func AddReceipt(ctx context.Context, receipt Receipt) {
	if r, ok := ctx.Value(receiptsKey{}).(*Receipts); ok {
		r.mu.Lock()
		r.list = append(r.list, receipt)
		r.mu.Unlock()
	}
}

// List gives what was gathered.
func (r *Receipts) List() []Receipt {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Receipt{}, r.list...)
}

// Total sums up what was gathered, if anything was: the sessions are added up,
// the times are those of the slowest change, the devices are left out.
func (r *Receipts) Total() (total Receipt, some bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, one := range r.list {
		total.Node = one.Node
		total.Sessions += one.Sessions
		total.Closed += one.Closed
		total.P50, total.P99, total.Last = max(total.P50, one.P50), max(total.P99, one.P99), max(total.Last, one.Last)
	}
	return total, len(r.list) > 0
}
