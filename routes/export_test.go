package routes

import (
	"context"
	"time"
)

// WithPause has what waits call f.
func (o Options) WithPause(f func(context.Context, time.Duration)) Options {
	o.pause = func(ctx context.Context, d time.Duration, _ <-chan struct{}) { f(ctx, d) }
	return o
}

// Workers counts the routes at work; -1 before any can be.
func (r *Routes) Workers() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.running == nil {
		return -1
	}
	return len(r.workers)
}
