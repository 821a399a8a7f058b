// Package plexprom shows Prometheus the figures of plex's pools. Two lines do it:
//
//	prometheus.MustRegister(plexprom.NewCollector("orders", mux))
//	http.Handle("/metrics", promhttp.Handler())
//
// Each scrape takes one snapshot of [plex.Multiplexer.Stats]. Between scrapes it costs nothing.
// Every metric has the label pool, so that one registry can hold many pools. [NewClientCollector]
// adds the figures of a client of package request.
//
// dashboard.json, beside this package, is a dashboard for Grafana.
//
// # Metrics of a pool
//
//   - plex_connections{state}: connections, open or connecting
//   - plex_connections_max: the capacity
//   - plex_halves{half, state}: halves, read or write, idle or leased
//   - plex_waiting, plex_waiting_ready: callers that wait for a half, and for one with something to read
//   - plex_backoff_seconds: what is left of the pause before the next connect
//   - plex_last_connect_failed: 1 if the latest connect has failed
//   - plex_acquires_total, plex_acquires_waited_total, plex_acquires_failed_total{reason}: leases,
//     acquires that had to wait, and those that got none: timeout, canceled or refused
//   - plex_connects_total{result}: success or failure
//   - plex_connections_lost_total, plex_connections_killed_total, plex_connections_healed_total,
//     plex_connections_retired_total, plex_connections_expired_total,
//     plex_connections_scaled_up_total, plex_connections_scaled_down_total: what became of connections
//   - plex_probes_total: idle connections that were asked whether they live
//   - plex_suspected_leaks_total: leases held for longer than WithLeakDetection allows
//   - plex_wait_duration_seconds, plex_connect_duration_seconds: histograms
//
// # Metrics of a client
//
//   - plex_requests{state}: requests that are waiting, in_flight, or abandoned with their reply still due
//   - plex_requests_total, plex_requests_sent_total, plex_requests_ended_total{result}: requests made,
//     given to a connection, and ended by reply, canceled or failed
//   - plex_request_writes_total, plex_request_pings_total, plex_request_cancels_total: what was sent
//   - plex_request_messages_total{kind}: messages beside the replies: part, late, unknown, unsolicited
//     or malformed
//   - plex_request_panics_total: panics of the user's functions
package plexprom

import (
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/request"
)

// Collector is a [prometheus.Collector] for one pool or one client.
type Collector struct {
	pool  string
	err   error // why it cannot be registered
	page  page
	write func(page)
}

// NewCollector returns a collector of a multiplexer's figures. The value of the label pool is the
// name given here, which must not be empty; that of plex.WithName is a good choice.
//
// A registry takes each name once. It refuses a second collector of the same name, one without a
// name, and one without a multiplexer: Register returns an error and MustRegister panics. To take a
// pool out again, call the registry's Unregister with this collector, or with one of the same name.
func NewCollector(pool string, mux *plex.Multiplexer) *Collector {
	if mux == nil {
		return invalid(pool, errors.New("the multiplexer is nil"))
	}
	return newCollector(pool, mux.Stats, poolFigures)
}

// NewClientCollector returns a collector of the figures of a client of package request: a
// *request.Client, whatever its types. The name is that of its pool. Where several clients use one
// pool, each needs a name of its own. Rules for names are those of [NewCollector].
func NewClientCollector(pool string, client interface{ Stats() request.Stats }) *Collector {
	if client == nil {
		return invalid(pool, errors.New("the client is nil"))
	}
	return newCollector(pool, client.Stats, clientFigures)
}

func newCollector[S any](pool string, stats func() S, figures func(page, S)) *Collector {
	switch {
	case pool == "":
		return invalid(pool, errors.New("the pool has no name"))
	case !utf8.ValidString(pool):
		return invalid(pool, errors.New("the pool's name is not UTF-8"))
	}
	c := &Collector{
		pool:  pool,
		page:  page{pool: prometheus.Labels{"pool": pool}, descs: make(map[string]*prometheus.Desc)},
		write: func(p page) { figures(p, stats()) },
	}
	var zero S
	figures(c.page, zero) // fills in the descriptions
	return c
}

func invalid(pool string, why error) *Collector {
	return &Collector{pool: pool, err: fmt.Errorf("plexprom: pool %s: %w", strconv.Quote(pool), why)}
}

// Register registers the collector, as the registry's Register does. Its error names the pool, also
// when the name is taken. It then matches [prometheus.AlreadyRegisteredError].
func (c *Collector) Register(registry prometheus.Registerer) error {
	if c.err != nil {
		return c.err
	}
	err := registry.Register(c)
	if taken := (prometheus.AlreadyRegisteredError{}); errors.As(err, &taken) {
		return fmt.Errorf("plexprom: the registry has a pool %q already: %w", c.pool, err)
	} else if err != nil {
		return fmt.Errorf("plexprom: pool %q: %w", c.pool, err)
	}
	return nil
}

// Describe implements [prometheus.Collector].
func (c *Collector) Describe(descs chan<- *prometheus.Desc) {
	if c.err != nil {
		descs <- prometheus.NewInvalidDesc(c.err) // the registry then returns this error
		return
	}
	for _, desc := range c.page.descs {
		descs <- desc
	}
}

// Collect implements [prometheus.Collector]. Any number of goroutines may call it.
func (c *Collector) Collect(metrics chan<- prometheus.Metric) {
	if c.err != nil {
		metrics <- prometheus.NewInvalidMetric(prometheus.NewInvalidDesc(c.err), c.err)
		return
	}
	p := c.page
	p.out = metrics
	c.write(p)
}
