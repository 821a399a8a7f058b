package plexprom

// What is shown, and under which names. Each metric is named once, here.

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/request"
)

func poolFigures(p page, s plex.Stats) {
	connections := p.gauge("plex_connections", "Connections by state: open, or connecting.", "state")
	connections(s.Open, "open")
	connections(s.Connecting, "connecting")
	p.gauge("plex_connections_max", "Capacity: most connections open or connecting at one moment.")(s.Capacity)

	halves := p.gauge("plex_halves", "Halves of connections, read or write: idle, or leased.", "half", "state")
	halves(s.IdleReaders, "read", "idle")
	halves(s.LeasedReaders, "read", "leased")
	halves(s.IdleWriters, "write", "idle")
	halves(s.LeasedWriters, "write", "leased")

	p.gauge("plex_waiting", "Callers that wait for a half.")(s.Waiting)
	p.gauge("plex_waiting_ready", "Callers that wait for a read half with something to read.")(s.WaitingReady)
	p.seconds("plex_backoff_seconds", "What is left of the pause before the next connect, or 0.", s.Backoff)
	p.gauge("plex_last_connect_failed", "1 if the latest connect has failed, or else 0.")(count(s.LastConnectError != nil))

	p.counter("plex_acquires_total", "Acquires that brought a lease.")(s.Acquired)
	p.counter("plex_acquires_waited_total", "Acquires that had to wait, whatever came of it.")(s.Waited)
	failed := p.counter("plex_acquires_failed_total", "Acquires that brought no lease, by reason: their timeout, "+
		"canceled by their context, or refused at once by WithMaxWaiting or WithFailFast.", "reason")
	failed(s.TimedOut, "timeout")
	failed(s.Canceled, "canceled")
	failed(s.Refused, "refused")

	connects := p.counter("plex_connects_total", "Connects by result: success, or failure.", "result")
	connects(s.Connected, "success")
	connects(s.ConnectFailed, "failure")

	p.counter("plex_connections_lost_total", "Connections that failed or were killed.")(s.Lost)
	p.counter("plex_connections_killed_total", "Connections killed by consumers. They count as lost, too.")(s.Killed)
	p.counter("plex_connections_healed_total", "Lost connections that were replaced.")(s.Healed)
	p.counter("plex_connections_retired_total", "Healthy connections taken out, for whatever reason.")(s.Retired)
	p.counter("plex_connections_expired_total", "Connections retired because of their age.")(s.Expired)
	p.counter("plex_connections_scaled_up_total", "Connections added because callers waited.")(s.ScaledUp)
	p.counter("plex_connections_scaled_down_total", "Connections retired because nobody needed them.")(s.ScaledDown)
	p.counter("plex_probes_total", "Idle connections that were asked whether they live, see WithProbe.")(s.Probed)
	p.counter("plex_suspected_leaks_total", "Leases held for longer than WithLeakDetection allows.")(s.SuspectedLeaks)

	p.histogram("plex_wait_duration_seconds", "Waits of acquires that had to wait.", s.Waits, s.WaitDuration)
	p.histogram("plex_connect_duration_seconds", "How long connects took.", s.Connects, s.ConnectDuration)
}

func clientFigures(p page, s request.Stats) {
	requests := p.gauge("plex_requests", "Requests by state: waiting for an identifier or a place, in_flight, "+
		"or abandoned with their reply still due.", "state")
	requests(s.Waiting, "waiting")
	requests(s.InFlight, "in_flight")
	requests(s.Abandoned, "abandoned")

	p.counter("plex_requests_total", "Requests made.")(s.Requests)
	p.counter("plex_requests_sent_total", "Requests given to a connection to be written.")(s.Sent)
	ended := p.counter("plex_requests_ended_total", "Requests that have ended, by result: reply, "+
		"canceled by their context, or failed.", "result")
	ended(s.Replies, "reply")
	ended(s.Canceled, "canceled")
	ended(s.Failed, "failed")

	p.counter("plex_request_writes_total", "Writes, each with one request or several.")(s.Writes)
	p.counter("plex_request_pings_total", "Pings sent by WithHeartbeat.")(s.Pings)
	p.counter("plex_request_cancels_total", "Messages sent to cancel requests that were given up.")(s.Cancels)
	messages := p.counter("plex_request_messages_total", "Messages beside the replies, by kind: part of a reply, late, "+
		"unknown, unsolicited, or malformed.", "kind")
	messages(s.Parts, "part")
	messages(s.Late, "late")
	messages(s.Unknown, "unknown")
	messages(s.Unsolicited, "unsolicited")
	messages(s.Malformed, "malformed")
	p.counter("plex_request_panics_total", "Panics of functions that the user has given.")(s.Panicked)
}

// page is what one snapshot is written to. Without out, it only learns the descriptions.
type page struct {
	pool  prometheus.Labels
	descs map[string]*prometheus.Desc
	out   chan<- prometheus.Metric
}

func (p page) gauge(name, help string, labels ...string) func(value int, labels ...string) {
	desc := p.desc(name, help, labels)
	return func(value int, labels ...string) { p.write(desc, prometheus.GaugeValue, float64(value), labels) }
}

func (p page) counter(name, help string, labels ...string) func(value uint64, labels ...string) {
	desc := p.desc(name, help, labels)
	return func(value uint64, labels ...string) { p.write(desc, prometheus.CounterValue, float64(value), labels) }
}

func (p page) seconds(name, help string, value time.Duration) {
	p.write(p.desc(name, help, nil), prometheus.GaugeValue, value.Seconds(), nil)
}

// histogram writes plex's buckets as they are. A bound of Prometheus includes what is equal to it,
// and one of plex does not. The difference is less than the clock's resolution.
func (p page) histogram(name, help string, h plex.Histogram, sum time.Duration) {
	desc := p.desc(name, help, nil)
	if p.out == nil {
		return
	}
	last := len(h) - 1 // what is above all bounds is in the count only
	buckets, below := make(map[float64]uint64, last), uint64(0)
	for i, n := range h[:last] {
		below += n
		buckets[h.Bound(i).Seconds()] = below
	}
	p.out <- prometheus.MustNewConstHistogram(desc, h.Count(), sum.Seconds(), buckets)
}

func (p page) desc(name, help string, labels []string) *prometheus.Desc {
	if p.out == nil {
		p.descs[name] = prometheus.NewDesc(name, help, labels, p.pool)
	}
	return p.descs[name]
}

func (p page) write(desc *prometheus.Desc, kind prometheus.ValueType, value float64, labels []string) {
	if p.out != nil {
		p.out <- prometheus.MustNewConstMetric(desc, kind, value, labels...)
	}
}

func count(is bool) int {
	if is {
		return 1
	}
	return 0
}
