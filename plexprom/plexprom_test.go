package plexprom_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/plexprom"
	"go.atomizer.io/plex/request"
)

func TestPool(t *testing.T) {
	mux := newPool(t, plex.WithMinConnections(3), plex.WithMaxCapacity(5))
	c := plexprom.NewCollector("orders", mux)

	w, err := mux.Writer(t.Context(), time.Second)
	require.NoError(t, err)
	r, err := mux.Reader(t.Context(), time.Second)
	require.NoError(t, err)
	r2, err := mux.Reader(t.Context(), time.Second)
	require.NoError(t, err)
	requireMetrics(t, c, `
# HELP plex_acquires_total Acquires that brought a lease.
# TYPE plex_acquires_total counter
plex_acquires_total{pool="orders"} 3
# HELP plex_connections Connections by state: open, or connecting.
# TYPE plex_connections gauge
plex_connections{pool="orders",state="connecting"} 0
plex_connections{pool="orders",state="open"} 3
# HELP plex_connections_max Capacity: most connections open or connecting at one moment.
# TYPE plex_connections_max gauge
plex_connections_max{pool="orders"} 5
# HELP plex_connects_total Connects by result: success, or failure.
# TYPE plex_connects_total counter
plex_connects_total{pool="orders",result="failure"} 0
plex_connects_total{pool="orders",result="success"} 3
# HELP plex_halves Halves of connections, read or write: idle, or leased.
# TYPE plex_halves gauge
plex_halves{half="read",pool="orders",state="idle"} 1
plex_halves{half="read",pool="orders",state="leased"} 2
plex_halves{half="write",pool="orders",state="idle"} 2
plex_halves{half="write",pool="orders",state="leased"} 1
# HELP plex_waiting Callers that wait for a half.
# TYPE plex_waiting gauge
plex_waiting{pool="orders"} 0
`)
	require.NoError(t, w.Close())
	require.NoError(t, r.Close())
	require.NoError(t, r2.Close())
}

func TestPoolClosed(t *testing.T) {
	mux := newPool(t, plex.WithMinConnections(1))
	c := plexprom.NewCollector("orders", mux)
	require.NoError(t, mux.Close())
	requireMetrics(t, c, `
# HELP plex_connections Connections by state: open, or connecting.
# TYPE plex_connections gauge
plex_connections{pool="orders",state="connecting"} 0
plex_connections{pool="orders",state="open"} 0
`)
}

func TestLint(t *testing.T) {
	mux := newPool(t)
	problems, err := testutil.GatherAndLint(registryOf(t, mux))
	require.NoError(t, err)
	require.Empty(t, problems)
}

func TestNames(t *testing.T) {
	mux := newPool(t)
	client := newClient(t, mux)
	for _, test := range []struct {
		name string
		c    *plexprom.Collector
		want string
	}{
		{"no name", plexprom.NewCollector("", mux), `plexprom: pool "": the pool has no name`},
		{"no UTF-8", plexprom.NewCollector("\xff", mux), `plexprom: pool "\xff": the pool's name is not UTF-8`},
		{"no multiplexer", plexprom.NewCollector("orders", nil), `plexprom: pool "orders": the multiplexer is nil`},
		{"client without a name", plexprom.NewClientCollector("", client), `plexprom: pool "": the pool has no name`},
		{"no client", plexprom.NewClientCollector("orders", nil), `plexprom: pool "orders": the client is nil`},
	} {
		t.Run(test.name, func(t *testing.T) {
			registry := prometheus.NewRegistry()
			require.EqualError(t, test.c.Register(registry), test.want)
			require.ErrorContains(t, registry.Register(test.c), test.want)
			_, err := testutil.CollectAndLint(test.c)
			require.ErrorContains(t, err, test.want)

			metrics := make(chan prometheus.Metric, 1)
			test.c.Collect(metrics)
			require.ErrorContains(t, (<-metrics).Write(nil), test.want)
		})
	}
}

func TestNameTaken(t *testing.T) {
	orders, users := newPool(t), newPool(t)
	registry := prometheus.NewRegistry()
	first := plexprom.NewCollector("orders", orders)
	require.NoError(t, first.Register(registry))

	second := plexprom.NewCollector("orders", users)
	err := second.Register(registry)
	require.ErrorContains(t, err, `plexprom: the registry has a pool "orders" already: `)
	var taken prometheus.AlreadyRegisteredError
	require.ErrorAs(t, err, &taken)
	require.Same(t, first, taken.ExistingCollector)
	require.Panics(t, func() { registry.MustRegister(second) })

	require.NoError(t, plexprom.NewCollector("users", users).Register(registry), "another name")
	require.NoError(t, plexprom.NewClientCollector("orders", newClient(t, orders)).Register(registry), "another kind")
	require.True(t, registry.Unregister(second), "by its name")
	require.NoError(t, second.Register(registry))
}

// Whatever the registry says, the error names the pool.
func TestRegistryRefuses(t *testing.T) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "plex_waiting", Help: "Something else."}))
	err := plexprom.NewCollector("orders", newPool(t)).Register(registry)
	require.ErrorContains(t, err, `plexprom: pool "orders": `)
}

// Scrapes see figures that fit together while connections come, go and are leased.
func TestBusy(t *testing.T) {
	mux := newPool(t, plex.WithMinConnections(2), plex.WithMaxCapacity(4), plex.WithAutoScaling(time.Millisecond))
	client := newClient(t, mux)
	registry := prometheus.NewPedanticRegistry()
	require.NoError(t, plexprom.NewCollector("orders", mux).Register(registry))
	require.NoError(t, plexprom.NewClientCollector("orders", client).Register(registry))

	ctx, stop := context.WithCancel(t.Context())
	var busy sync.WaitGroup
	for i := range 8 {
		busy.Go(func() {
			for ctx.Err() == nil {
				if i > 0 {
					_, _ = client.Do(ctx, "question") // ends by a reply, by a killed connection, or at the end
				} else if w, err := mux.Writer(ctx, 0); err == nil {
					_ = w.Kill()
				}
			}
		})
	}
	var scrapes sync.WaitGroup
	for range 2 {
		scrapes.Go(func() {
			last := make(map[string]float64)
			for range 50 {
				checkScrape(t, registry, last)
			}
		})
	}
	scrapes.Wait()
	stop()
	busy.Wait()

	families, err := registry.Gather()
	require.NoError(t, err)
	for _, family := range families {
		if family.GetName() == "plex_requests_total" {
			require.Positive(t, family.GetMetric()[0].GetCounter().GetValue())
		}
	}
}

// checkScrape takes one scrape. Counters never fall, bucket follows bucket, and there are never more
// connections than the capacity allows.
func checkScrape(t *testing.T, registry *prometheus.Registry, last map[string]float64) {
	families, err := registry.Gather()
	if err != nil {
		t.Error(err)
		return
	}
	var connections, most float64
	rises := func(name string, value float64) {
		if value < last[name] {
			t.Errorf("%s fell from %v to %v", name, last[name], value)
		}
		last[name] = value
	}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			name := fmt.Sprint(family.GetName(), metric.GetLabel())
			switch {
			case metric.Counter != nil:
				rises(name, metric.GetCounter().GetValue())
			case metric.Histogram != nil:
				h := metric.GetHistogram()
				rises(name, float64(h.GetSampleCount()))
				below, bound := uint64(0), 0.0
				for _, bucket := range h.GetBucket() {
					if bucket.GetCumulativeCount() < below || bucket.GetUpperBound() <= bound {
						t.Errorf("%s: %v", name, h)
					}
					below, bound = bucket.GetCumulativeCount(), bucket.GetUpperBound()
				}
				if below > h.GetSampleCount() {
					t.Errorf("%s: %v", name, h)
				}
			case family.GetName() == "plex_connections":
				connections += metric.GetGauge().GetValue()
			case family.GetName() == "plex_connections_max":
				most = metric.GetGauge().GetValue()
			}
		}
	}
	if connections > most {
		t.Errorf("%v connections of at most %v", connections, most)
	}
}

// registryOf has all metrics that there are.
func registryOf(t *testing.T, mux *plex.Multiplexer) *prometheus.Registry {
	registry := prometheus.NewPedanticRegistry()
	require.NoError(t, plexprom.NewCollector("orders", mux).Register(registry))
	require.NoError(t, plexprom.NewClientCollector("orders", newClient(t, mux)).Register(registry))
	return registry
}

// requireMetrics compares the families that are in want.
func requireMetrics(t *testing.T, c *plexprom.Collector, want string) {
	t.Helper()
	var names []string
	for line := range strings.Lines(want) {
		if name, ok := strings.CutPrefix(line, "# HELP "); ok {
			names = append(names, strings.Fields(name)[0])
		}
	}
	require.NoError(t, testutil.CollectAndCompare(c, strings.NewReader(want), names...))
}

// newPool makes a pool to a service that sends back what it gets.
func newPool(t testing.TB, options ...plex.Option) *plex.Multiplexer {
	t.Helper()
	address := echo(t)
	mux, err := plex.New(t.Context(), append([]plex.Option{plex.WithConnector(plex.Dial("tcp", address))}, options...)...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, mux.Close()) })
	return mux
}

func newClient(t *testing.T, mux *plex.Multiplexer) *request.Client[string, string] {
	client, err := request.New(mux, lines{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func echo(t testing.TB) (address string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn) // until plex closes the connection
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close() // ends the loop above
		conns.Wait()
	})
	return listener.Addr().String()
}

// lines is a protocol of lines of which each begins with its identifier, eight bytes.
type lines struct{}

func (lines) Append(dst []byte, id uint64, question string) ([]byte, error) {
	for shift := 56; shift >= 0; shift -= 8 {
		dst = append(dst, byte(id>>shift))
	}
	return append(append(dst, question...), '\n'), nil
}

func (lines) Split(data []byte, _ bool) (int, []byte, error) {
	const id = 8
	if len(data) < id {
		return 0, nil, nil
	}
	if end := bytes.IndexByte(data[id:], '\n'); end >= 0 {
		return id + end + 1, data[:id+end], nil
	}
	return 0, nil, nil
}

func (lines) Parse(line []byte) (id uint64, answer string, err error) {
	for _, b := range line[:8] {
		id = id<<8 | uint64(b)
	}
	return id, string(line[8:]), nil
}
