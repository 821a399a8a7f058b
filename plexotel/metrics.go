package plexotel

// Metrics: what is read from Stats whenever a reader collects, and create times as they happen.

import (
	"context"
	"errors"
	"math"
	"strconv"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"go.atomizer.io/plex"
)

// Register has the figures of a multiplexer observed, under the name of the pool, whenever metrics
// are collected. Each collection costs one call of Stats. Two pools must not have the same name and
// the same attributes, because one would hide the other.
//
// The multiplexer is kept in memory until unregister is called, which ends the observation. A
// multiplexer that is closed still has its figures, so unregister may wait until the last of them
// have been collected. To call it again does nothing.
func Register(m *plex.Multiplexer, pool string, options ...Option) (unregister func() error, err error) {
	const call = "Register"
	c, err := configure(call, pool, options)
	if m == nil {
		err = errors.Join(errors.New("plexotel: "+call+": the multiplexer is nil; make one with plex.New"), err)
	}
	if err != nil {
		return nil, err
	}
	s := &sheet{config: c, meter: c.meter()}
	s.conventional()
	s.own()
	s.durations()
	if err := errors.Join(s.errs...); err != nil {
		return nil, err
	}
	registration, err := s.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		stats := m.Stats()
		for _, read := range s.reads {
			read(o, &stats)
		}
		return nil
	}, s.instruments...)
	if err != nil {
		return nil, err
	}
	return registration.Unregister, nil
}

// sheet is the instruments of a pool, and how each is read.
type sheet struct {
	*config
	meter       metric.Meter
	instruments []metric.Observable
	reads       []func(metric.Observer, *plex.Stats)
	errs        []error
}

// series is one figure of an instrument.
type series struct {
	attributes []attribute.KeyValue
	read       func(*plex.Stats) int64
}

// conventional adds what the semantic conventions know.
func (s *sheet) conventional() {
	prefix := s.prefix()
	state := attribute.Key(prefix + "state")
	s.gauge(prefix+"count", "{connection}", "The number of open connections by state. One is idle if its write half can be leased.",
		series{of(state.String("idle")), idle},
		series{of(state.String("used")), func(st *plex.Stats) int64 { return int64(st.Open) - idle(st) }})
	s.gauge(prefix+"max", "{connection}", "The maximum number of open connections allowed.",
		series{read: func(st *plex.Stats) int64 { return int64(st.Capacity) }})
	s.gauge(prefix+"pending_requests", "{request}", "The number of callers who wait for a reader or a writer.",
		series{read: func(st *plex.Stats) int64 { return int64(st.Waiting) }})
	s.counter(prefix+"timeouts", "{timeout}", "The number of acquires that failed by their timeout.",
		series{read: func(st *plex.Stats) int64 { return count(st.TimedOut) }})
}

// idle is how many open connections have a write half that can be leased. Stats looks at the halves
// a moment before it counts the connections.
func idle(s *plex.Stats) int64 { return int64(min(s.IdleWriters, s.Open)) }

// own adds what only plex has.
func (s *sheet) own() {
	const (
		half    = attribute.Key(plexPrefix + "half")
		state   = attribute.Key(plexPrefix + "state")
		outcome = attribute.Key(plexPrefix + "outcome")
	)
	reader, writer := half.String("reader"), half.String("writer")
	s.gauge(plexPrefix+"half.count", "{half}", "The number of halves of connections that can be leased, and that are leased.",
		series{of(reader, state.String("idle")), func(st *plex.Stats) int64 { return int64(st.IdleReaders) }},
		series{of(reader, state.String("used")), func(st *plex.Stats) int64 { return int64(st.LeasedReaders) }},
		series{of(writer, state.String("idle")), func(st *plex.Stats) int64 { return int64(st.IdleWriters) }},
		series{of(writer, state.String("used")), func(st *plex.Stats) int64 { return int64(st.LeasedWriters) }})
	s.gauge(plexPrefix+"connecting", "{connection}", "The number of connections on their way.",
		series{read: func(st *plex.Stats) int64 { return int64(st.Connecting) }})
	s.counter(plexPrefix+"acquires", "{acquire}", "The number of acquires by what came of them.",
		series{of(outcome.String("leased")), func(st *plex.Stats) int64 { return count(st.Acquired) }},
		series{of(outcome.String("timed_out")), func(st *plex.Stats) int64 { return count(st.TimedOut) }},
		series{of(outcome.String("canceled")), func(st *plex.Stats) int64 { return count(st.Canceled) }},
		series{of(outcome.String("refused")), func(st *plex.Stats) int64 { return count(st.Refused) }})
	s.counter(plexPrefix+"connects", "{connect}", "The number of connects by what came of them.",
		series{of(outcome.String("connected")), func(st *plex.Stats) int64 { return count(st.Connected) }},
		series{of(outcome.String("failed")), func(st *plex.Stats) int64 { return count(st.ConnectFailed) }})
	s.counter(plexPrefix+"losses", "{connection}", "The number of connections that failed or were killed.",
		series{read: func(st *plex.Stats) int64 { return count(st.Lost) }})
	s.counter(plexPrefix+"heals", "{connection}", "The number of lost connections that were replaced.",
		series{read: func(st *plex.Stats) int64 { return count(st.Healed) }})
	s.counter(plexPrefix+"retirements", "{connection}", "The number of healthy connections that the pool has closed.",
		series{read: func(st *plex.Stats) int64 { return count(st.Retired) }})
	s.counter(plexPrefix+"suspected_leaks", "{lease}", "The number of leases that were held for too long.",
		series{read: func(st *plex.Stats) int64 { return count(st.SuspectedLeaks) }})
	s.counter(plexPrefix+"wait_time.bucket", "{wait}", "The number of acquires that have waited for less than so many seconds.",
		buckets(func(st *plex.Stats) *plex.Histogram { return &st.Waits })...)
}

// durations adds what is in seconds.
func (s *sheet) durations() {
	seconds := s.set()
	add := func(i metric.Float64Observable, err error, read func(*plex.Stats) float64) {
		s.add(i, err, func(o metric.Observer, st *plex.Stats) { o.ObserveFloat64(i, read(st), seconds) })
	}
	connects, err := s.meter.Float64ObservableCounter(plexPrefix+"connect_time.sum",
		metric.WithUnit("s"), metric.WithDescription("The time that connects have taken, all added up."))
	add(connects, err, func(st *plex.Stats) float64 { return st.ConnectDuration.Seconds() })
	waits, err := s.meter.Float64ObservableCounter(plexPrefix+"wait_time.sum",
		metric.WithUnit("s"), metric.WithDescription("The time that acquires have waited, all added up."))
	add(waits, err, func(st *plex.Stats) float64 { return st.WaitDuration.Seconds() })
	backoff, err := s.meter.Float64ObservableGauge(plexPrefix+"backoff",
		metric.WithUnit("s"), metric.WithDescription("What is left of the pause before the next connect."))
	add(backoff, err, func(st *plex.Stats) float64 { return st.Backoff.Seconds() })
}

// gauge adds figures that rise and fall, and mean something when added up.
func (s *sheet) gauge(name, unit, description string, all ...series) {
	i, err := s.meter.Int64ObservableUpDownCounter(name, metric.WithUnit(unit), metric.WithDescription(description))
	s.addSeries(i, err, all)
}

// counter adds figures that only grow.
func (s *sheet) counter(name, unit, description string, all ...series) {
	i, err := s.meter.Int64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(description))
	s.addSeries(i, err, all)
}

func (s *sheet) addSeries(i metric.Int64Observable, err error, all []series) {
	for _, one := range all {
		attributes := s.set(one.attributes...)
		s.reads = append(s.reads, func(o metric.Observer, st *plex.Stats) { o.ObserveInt64(i, one.read(st), attributes) })
	}
	s.add(i, err, nil)
}

func (s *sheet) add(i metric.Observable, err error, read func(metric.Observer, *plex.Stats)) {
	if err != nil {
		s.errs = append(s.errs, err)
		return
	}
	s.instruments = append(s.instruments, i)
	if read != nil {
		s.reads = append(s.reads, read)
	}
}

// buckets is the counts of a histogram below each of its bounds.
func buckets(of func(*plex.Stats) *plex.Histogram) []series {
	var bounds plex.Histogram
	all := make([]series, len(bounds))
	for i := range all {
		le := "+Inf"
		if i < len(bounds)-1 {
			le = strconv.FormatFloat(bounds.Bound(i).Seconds(), 'g', -1, 64)
		}
		all[i] = series{[]attribute.KeyValue{attribute.String("le", le)}, func(st *plex.Stats) (below int64) {
			for _, n := range of(st)[:i+1] {
				below += count(n)
			}
			return below
		}}
	}
	return all
}

func of(attributes ...attribute.KeyValue) []attribute.KeyValue { return attributes }

// count is a counter as OpenTelemetry wants it.
func count(n uint64) int64 { return int64(min(n, math.MaxInt64)) }

// createBounds are the bounds of create_time in seconds, since those of the SDK are for milliseconds.
var createBounds = []float64{0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10}

// Observer returns a function for [plex.WithObserver] that records how long each connection of the
// pool took to create, as the histogram create_time:
//
//	observe, err := plexotel.Observer("orders")
//	mux, err := plex.New(ctx, plex.WithConnector(connect), plex.WithObserver(observe))
//
// Connections that were given to the pool, and connects that failed, are not recorded. To observe
// events yourself, too, call the function from your own. It costs nothing while no connection is
// created, and may be called from several goroutines.
func Observer(pool string, options ...Option) (func(plex.Event), error) {
	c, err := configure("Observer", pool, options)
	if err != nil {
		return nil, err
	}
	times, err := c.meter().Float64Histogram(c.prefix()+"create_time", metric.WithUnit("s"),
		metric.WithDescription("The time it took to create a new connection."),
		metric.WithExplicitBucketBoundaries(createBounds...))
	if err != nil {
		return nil, err
	}
	attributes := c.set()
	return func(e plex.Event) {
		if e.Kind == plex.EventConnected && e.Attempts > 0 { // else it was given
			times.Record(context.Background(), e.Took.Seconds(), attributes)
		}
	}, nil
}
