package plexprom

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/request"
)

// Whoever adds a figure to Stats shows it here, too.
func TestEachFigureIsShown(t *testing.T) {
	t.Run("pool", func(t *testing.T) { eachFigureIsShown(t, poolFigures) })
	t.Run("client", func(t *testing.T) {
		eachFigureIsShown(t, clientFigures,
			"LastMalformed", "LastPanic") // are text; Malformed and Panicked count them
	})
}

func eachFigureIsShown[S any](t *testing.T, figures func(page, S), except ...string) {
	var s S
	seen := map[string]string{exposed(t, figures, s): "zero"}
	for _, field := range reflect.VisibleFields(reflect.TypeFor[S]()) {
		if slices.Contains(except, field.Name) {
			continue
		}
		var s S
		value := reflect.ValueOf(&s).Elem().FieldByIndex(field.Index)
		switch {
		case value.CanInt():
			value.SetInt(3)
		case value.CanUint():
			value.SetUint(3)
		case value.Kind() == reflect.Array:
			value.Index(1).SetUint(3)
		default:
			value.Set(reflect.ValueOf(errors.New("failed")))
		}
		text := exposed(t, figures, s)
		if other, shown := seen[text]; shown {
			t.Errorf("%s shows the same as %s", field.Name, other)
		}
		seen[text] = field.Name
	}
}

// exposed is what a snapshot looks like to Prometheus.
func exposed[S any](t *testing.T, figures func(page, S), s S) string {
	registry := prometheus.NewPedanticRegistry()
	require.NoError(t, newCollector("orders", func() S { return s }, figures).Register(registry))
	families, err := registry.Gather()
	require.NoError(t, err)
	var text strings.Builder
	for _, family := range families {
		text.WriteString(family.String() + "\n")
	}
	return text.String()
}

func TestFigures(t *testing.T) {
	stats := plex.Stats{
		TimedOut: 1, Canceled: 2, Refused: 3, Lost: 4, Healed: 5, ScaledUp: 6, ScaledDown: 7,
		Expired: 8, Retired: 9, Killed: 10, SuspectedLeaks: 11, Acquired: 12, Waited: 13, WaitingReady: 14,
		Backoff: 1500 * time.Millisecond, LastConnectError: errors.New("refused"),
	}
	c := newCollector("orders", func() plex.Stats { return stats }, poolFigures)
	for name, want := range map[string]string{
		"plex_acquires_failed_total": `
# HELP plex_acquires_failed_total Acquires that brought no lease, by reason: their timeout, canceled by their context, or refused at once by WithMaxWaiting or WithFailFast.
# TYPE plex_acquires_failed_total counter
plex_acquires_failed_total{pool="orders",reason="canceled"} 2
plex_acquires_failed_total{pool="orders",reason="refused"} 3
plex_acquires_failed_total{pool="orders",reason="timeout"} 1
`,
		"plex_backoff_seconds": `
# HELP plex_backoff_seconds What is left of the pause before the next connect, or 0.
# TYPE plex_backoff_seconds gauge
plex_backoff_seconds{pool="orders"} 1.5
`,
		"plex_last_connect_failed": `
# HELP plex_last_connect_failed 1 if the latest connect has failed, or else 0.
# TYPE plex_last_connect_failed gauge
plex_last_connect_failed{pool="orders"} 1
`,
	} {
		require.NoError(t, testutil.CollectAndCompare(c, strings.NewReader(want), name))
	}
	for name, want := range map[string]float64{
		"lost": 4, "healed": 5, "scaled_up": 6, "scaled_down": 7, "expired": 8, "retired": 9, "killed": 10,
	} {
		name = "plex_connections_" + name + "_total"
		require.InDelta(t, want, valueOf(t, c, name), 0, name)
	}
	require.InDelta(t, 11, valueOf(t, c, "plex_suspected_leaks_total"), 0)
	require.InDelta(t, 12, valueOf(t, c, "plex_acquires_total"), 0)
	require.InDelta(t, 13, valueOf(t, c, "plex_acquires_waited_total"), 0)
	require.InDelta(t, 14, valueOf(t, c, "plex_waiting_ready"), 0)
}

func TestClientFigures(t *testing.T) {
	stats := request.Stats{
		Waiting: 1, InFlight: 2, Abandoned: 3, Requests: 4, Sent: 5, Replies: 6, Canceled: 7, Failed: 8, Writes: 9,
		Pings: 10, Cancels: 11, Parts: 12, Late: 13, Unknown: 14, Unsolicited: 15, Malformed: 16, Panicked: 17,
	}
	c := newCollector("orders", func() request.Stats { return stats }, clientFigures)
	require.NoError(t, testutil.CollectAndCompare(c, strings.NewReader(`
# HELP plex_request_cancels_total Messages sent to cancel requests that were given up.
# TYPE plex_request_cancels_total counter
plex_request_cancels_total{pool="orders"} 11
# HELP plex_request_messages_total Messages beside the replies, by kind: part of a reply, late, unknown, unsolicited, or malformed.
# TYPE plex_request_messages_total counter
plex_request_messages_total{kind="late",pool="orders"} 13
plex_request_messages_total{kind="malformed",pool="orders"} 16
plex_request_messages_total{kind="part",pool="orders"} 12
plex_request_messages_total{kind="unknown",pool="orders"} 14
plex_request_messages_total{kind="unsolicited",pool="orders"} 15
# HELP plex_request_panics_total Panics of functions that the user has given.
# TYPE plex_request_panics_total counter
plex_request_panics_total{pool="orders"} 17
# HELP plex_request_pings_total Pings sent by WithHeartbeat.
# TYPE plex_request_pings_total counter
plex_request_pings_total{pool="orders"} 10
# HELP plex_request_writes_total Writes, each with one request or several.
# TYPE plex_request_writes_total counter
plex_request_writes_total{pool="orders"} 9
# HELP plex_requests Requests by state: waiting for an identifier or a place, in_flight, or abandoned with their reply still due.
# TYPE plex_requests gauge
plex_requests{pool="orders",state="abandoned"} 3
plex_requests{pool="orders",state="in_flight"} 2
plex_requests{pool="orders",state="waiting"} 1
# HELP plex_requests_ended_total Requests that have ended, by result: reply, canceled by their context, or failed.
# TYPE plex_requests_ended_total counter
plex_requests_ended_total{pool="orders",result="canceled"} 7
plex_requests_ended_total{pool="orders",result="failed"} 8
plex_requests_ended_total{pool="orders",result="reply"} 6
# HELP plex_requests_sent_total Requests given to a connection to be written.
# TYPE plex_requests_sent_total counter
plex_requests_sent_total{pool="orders"} 5
# HELP plex_requests_total Requests made.
# TYPE plex_requests_total counter
plex_requests_total{pool="orders"} 4
`)))
}

func TestHistogram(t *testing.T) {
	var waits plex.Histogram
	last := len(waits) - 1
	waits[0], waits[1], waits[11], waits[last-1], waits[last] = 1, 2, 3, 4, 5
	c := newCollector("orders", func() plex.Stats {
		return plex.Stats{Waits: waits, WaitDuration: 1500 * time.Millisecond}
	}, poolFigures)
	registry := prometheus.NewPedanticRegistry()
	require.NoError(t, c.Register(registry))
	families, err := registry.Gather()
	require.NoError(t, err)
	for _, family := range families {
		h := family.GetMetric()[0].GetHistogram()
		if family.GetName() != "plex_wait_duration_seconds" {
			continue
		}
		require.EqualValues(t, 15, h.GetSampleCount())
		require.InDelta(t, 1.5, h.GetSampleSum(), 0)
		buckets := h.GetBucket()
		require.Len(t, buckets, last, "what is above all bounds is in the count only")
		for i, want := range map[int]uint64{0: 1, 1: 3, 10: 3, 11: 6, last - 2: 6, last - 1: 10} {
			require.Equal(t, want, buckets[i].GetCumulativeCount(), i)
			require.InDelta(t, waits.Bound(i).Seconds(), buckets[i].GetUpperBound(), 0)
		}
		require.InDelta(t, 1e-6, buckets[0].GetUpperBound(), 0)
		require.InDelta(t, 67.108864, buckets[last-1].GetUpperBound(), 0)
		return
	}
	t.Fatal("there is no such histogram")
}

// valueOf is the value of a metric that the collector has once.
func valueOf(t *testing.T, c *Collector, name string) float64 {
	registry := prometheus.NewPedanticRegistry()
	require.NoError(t, c.Register(registry))
	families, err := registry.Gather()
	require.NoError(t, err)
	for _, family := range families {
		if family.GetName() == name {
			require.Len(t, family.GetMetric(), 1)
			metric := family.GetMetric()[0]
			return metric.GetCounter().GetValue() + metric.GetGauge().GetValue()
		}
	}
	t.Fatalf("there is no %s", name)
	return 0
}
