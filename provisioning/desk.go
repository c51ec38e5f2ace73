package provisioning

import (
	"context"
	"sync"
	"time"
)

// A task is a registration that is to be worked on, by its service and folded ID.
type task struct{ service, id string }

// A desk hands tasks out to workers: each to one at a time, in the order of their
// coming. What it knows is in memory; what there is to do is on disk.
type desk struct {
	mu     sync.Mutex
	wanted sync.Cond
	tasks  map[task]*taskState
	queue  []task
}

type taskState struct {
	working, resting bool
	again            bool // it was handed in anew while it was worked on
}

func newDesk() *desk {
	d := &desk{tasks: map[task]*taskState{}}
	d.wanted.L = &d.mu
	return d
}

// load counts the tasks that are not done.
func (d *desk) load() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.tasks)
}

// submit hands in a task.
func (d *desk) submit(t task) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.tasks[t]
	switch {
	case s == nil:
		d.tasks[t] = &taskState{}
	case s.resting:
		s.resting = false
	case s.working:
		s.again = true
		return
	default:
		return // it waits already
	}
	d.queue = append(d.queue, t)
	d.wanted.Signal()
}

// take waits for a task; there is none any more when ctx has ended.
func (d *desk) take(ctx context.Context) (t task, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.queue) == 0 && ctx.Err() == nil {
		d.wanted.Wait()
	}
	if ctx.Err() != nil {
		return t, false
	}
	t, d.queue = d.queue[0], d.queue[1:]
	d.tasks[t].working = true
	return t, true
}

// done gives a task back: for good, or to be worked on again after a rest.
func (d *desk) done(t task, rest time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.tasks[t]
	s.working = false
	switch {
	case s.again:
		s.again = false
		d.queue = append(d.queue, t)
		d.wanted.Signal()
	case rest > 0:
		s.resting = true
		time.AfterFunc(rest, func() { d.wake(t, s) })
	default:
		delete(d.tasks, t)
	}
}

// wake ends the rest of a task, unless it has ended.
func (d *desk) wake(t task, s *taskState) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s.resting && d.tasks[t] == s {
		s.resting = false
		d.queue = append(d.queue, t)
		d.wanted.Signal()
	}
}

// stopped wakes all who wait, when ctx has ended.
func (d *desk) stopped() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wanted.Broadcast()
}
