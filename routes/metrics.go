package routes

import (
	"maps"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	attempts *prometheus.CounterVec // outcome: delivered, failed
	messages *prometheus.CounterVec // outcome: delivered, dead
}

func newMetrics(r *Routes, to prometheus.Registerer) metrics {
	f := promauto.With(to)
	if to != nil {
		to.MustRegister(waiting{r})
	}
	return metrics{
		attempts: f.NewCounterVec(prometheus.CounterOpts{
			Name: "signet_route_attempts_total", Help: "Batches posted to webhooks, by outcome: delivered, failed."}, []string{"hub", "route", "outcome"}),
		messages: f.NewCounterVec(prometheus.CounterOpts{
			Name: "signet_route_messages_total", Help: "Messages of routes, by what became of them: delivered, dead."}, []string{"hub", "route", "outcome"}),
	}
}

// forget drops what is counted of a route that is gone, or changed.
func (m *metrics) forget(k key) {
	for _, v := range []*prometheus.CounterVec{m.attempts, m.messages} {
		v.DeletePartialMatch(prometheus.Labels{"hub": k.hub, "route": k.name})
	}
}

var waitingSeconds = prometheus.NewDesc("signet_route_waiting_seconds",
	"Age of the oldest message that a route is trying to deliver; 0 when none waits.", []string{"hub", "route"}, nil)

// waiting tells how far routes are behind.
type waiting struct{ r *Routes }

// Describe is for prometheus.
func (waiting) Describe(to chan<- *prometheus.Desc) { to <- waitingSeconds }

// Collect is for prometheus.
func (c waiting) Collect(to chan<- prometheus.Metric) {
	c.r.mu.Lock()
	workers := maps.Clone(c.r.workers)
	c.r.mu.Unlock()
	for k, w := range workers {
		w.mu.Lock()
		age := 0.0
		if !w.waiting.IsZero() {
			age = c.r.Now().Sub(w.waiting).Seconds()
		}
		w.mu.Unlock()
		to <- prometheus.MustNewConstMetric(waitingSeconds, prometheus.GaugeValue, age, k.hub, k.name)
	}
}
