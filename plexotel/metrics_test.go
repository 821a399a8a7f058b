package plexotel_test

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/plexotel"
)

// slowly connects to a peer that reads all and answers nothing. Each connect takes so long.
func slowly(d time.Duration) plex.Connect {
	return plex.DialFunc(func(ctx context.Context) (net.Conn, error) {
		select {
		case <-time.After(d):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		near, far := net.Pipe()
		go func() {
			defer far.Close()
			_, _ = io.Copy(io.Discard, far)
		}()
		return near, nil
	})
}

// A pool of two connections: one writer is leased, then both are, two callers time out, one is
// cancelled, and one waits.
func TestThePoolIsObserved(t *testing.T) {
	for name, test := range map[string]struct {
		options        []plexotel.Option
		prefix, labels string
	}{
		"own names": {nil, "plex.connection.", "plex.pool.name=orders"},
		"names of databases": {
			[]plexotel.Option{plexotel.WithDBNames(), plexotel.WithAttributes(attribute.String("server.address", "db"))},
			"db.client.connection.", "db.client.connection.pool.name=orders,server.address=db",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				all := newMetrics()
				options := append(test.options, plexotel.WithMeterProvider(all.provider))
				observe, err := plexotel.Observer("orders", options...)
				require.NoError(t, err)
				mux, err := plex.New(t.Context(), plex.WithConnector(slowly(300*time.Millisecond)),
					plex.WithMinConnections(2), plex.WithObserver(observe))
				require.NoError(t, err)
				unregister, err := plexotel.Register(mux, "orders", options...)
				require.NoError(t, err)

				one, err := mux.Writer(t.Context(), 0)
				require.NoError(t, err)
				synctest.Wait()
				figure := figuresOf(t, all, test.prefix, test.labels)
				require.EqualValues(t, 1, figure("count", "state=idle"))
				require.EqualValues(t, 1, figure("count", "state=used"))
				require.EqualValues(t, 2, figure("max", ""))
				require.EqualValues(t, 0, figure("pending_requests", ""))

				two, err := mux.Writer(t.Context(), 0)
				require.NoError(t, err)
				for range 2 {
					_, err = mux.Writer(t.Context(), 100*time.Millisecond)
					require.ErrorIs(t, err, plex.ErrTimeout)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
				defer cancel()
				_, err = mux.Writer(ctx, 0)
				require.ErrorIs(t, err, context.DeadlineExceeded)
				go func() {
					if w, err := mux.Writer(t.Context(), 0); err == nil {
						_ = w.Close()
					}
				}()
				synctest.Wait()
				figure = figuresOf(t, all, test.prefix, test.labels)
				require.EqualValues(t, 0, figure("count", "state=idle"))
				require.EqualValues(t, 2, figure("count", "state=used"))
				require.EqualValues(t, 1, figure("pending_requests", ""))
				require.EqualValues(t, 2, figure("timeouts", ""))

				// What only plex has keeps its names.
				own := figuresOf(t, all, "plex.connection.", test.labels)
				require.EqualValues(t, 2, own("half.count", "half=reader,state=idle"))
				require.EqualValues(t, 0, own("half.count", "half=reader,state=used"))
				require.EqualValues(t, 0, own("half.count", "half=writer,state=idle"))
				require.EqualValues(t, 2, own("half.count", "half=writer,state=used"))
				require.EqualValues(t, 2, own("acquires", "outcome=leased"))
				require.EqualValues(t, 2, own("acquires", "outcome=timed_out"))
				require.EqualValues(t, 1, own("acquires", "outcome=canceled"))
				require.EqualValues(t, 0, own("acquires", "outcome=refused"))
				require.EqualValues(t, 2, own("connects", "outcome=connected"))
				require.EqualValues(t, 0, own("connects", "outcome=failed"))
				require.InDelta(t, 0.6, own("connect_time.sum", ""), 1e-9)
				require.InDelta(t, 0.6, own("wait_time.sum", ""), 1e-9)
				require.EqualValues(t, 0, own("wait_time.bucket", "^le=0.065536"))
				require.EqualValues(t, 2, own("wait_time.bucket", "^le=0.131072"))
				require.EqualValues(t, 2, own("wait_time.bucket", "^le=0.262144"))
				require.EqualValues(t, 3, own("wait_time.bucket", "^le=0.524288"))
				require.EqualValues(t, 3, own("wait_time.bucket", "^le=+Inf"))
				require.EqualValues(t, 0, own("backoff", ""))
				require.EqualValues(t, 0, own("connecting", ""))

				// A connection is lost, and replaced.
				require.NoError(t, one.Kill())
				synctest.Wait()
				own = figuresOf(t, all, "plex.connection.", test.labels)
				require.EqualValues(t, 1, own("losses", ""))
				require.EqualValues(t, 0, own("heals", ""))
				require.EqualValues(t, 1, own("connecting", ""))
				time.Sleep(time.Second)
				synctest.Wait()
				require.NoError(t, two.Close())
				own = figuresOf(t, all, "plex.connection.", test.labels)
				require.EqualValues(t, 1, own("heals", ""))
				require.EqualValues(t, 0, own("retirements", ""))
				require.EqualValues(t, 0, own("suspected_leaks", ""))

				histogram := all.collect(t)[test.prefix+"create_time"].Data.(metricdata.Histogram[float64])
				require.Len(t, histogram.DataPoints, 1)
				require.EqualValues(t, 3, histogram.DataPoints[0].Count)
				require.InDelta(t, 0.9, histogram.DataPoints[0].Sum, 1e-9)
				require.Equal(t, test.labels, histogram.DataPoints[0].Attributes.Encoded(attribute.DefaultEncoder()))

				require.NoError(t, mux.Close())
				require.NoError(t, unregister())
				require.NoError(t, unregister())
				left := all.collect(t)
				require.Len(t, left, 1)
				require.Contains(t, left, test.prefix+"create_time")
			})
		})
	}
}

// figuresOf returns a function for one figure. The keys of the attributes begin with the prefix, but
// for one that begins with ^.
func figuresOf(t *testing.T, all *metrics, prefix, labels string) func(name, attributes string) float64 {
	t.Helper()
	figures := all.figures(t)
	return func(name, attributes string) float64 {
		t.Helper()
		var set []string
		for a := range strings.SplitSeq(attributes, ",") {
			if bare, ok := strings.CutPrefix(a, "^"); ok {
				set = append(set, bare)
			} else if a != "" {
				set = append(set, prefix+a)
			}
		}
		var sorted []attribute.KeyValue
		for _, a := range append(set, strings.Split(labels, ",")...) {
			key, value, _ := strings.Cut(a, "=")
			sorted = append(sorted, attribute.String(key, value))
		}
		labels := attribute.NewSet(sorted...)
		key := prefix + name + "{" + labels.Encoded(attribute.DefaultEncoder()) + "}"
		require.Contains(t, figures, key)
		return figures[key]
	}
}

// Units and kinds are those of the semantic conventions.
func TestMetricsHaveTheShapesOfTheConventions(t *testing.T) {
	all := newMetrics()
	near, far := net.Pipe()
	defer far.Close()
	mux, err := plex.New(t.Context(), plex.WithConnections(near))
	require.NoError(t, err)
	defer mux.Close()
	unregister, err := plexotel.Register(mux, "orders", plexotel.WithMeterProvider(all.provider), plexotel.WithDBNames())
	require.NoError(t, err)
	metrics := all.collect(t)
	for name, want := range map[string]struct {
		unit      string
		monotonic bool
	}{
		"count":            {"{connection}", false},
		"max":              {"{connection}", false},
		"pending_requests": {"{request}", false},
		"timeouts":         {"{timeout}", true},
	} {
		one := metrics["db.client.connection."+name]
		require.Equal(t, want.unit, one.Unit, name)
		require.NotEmpty(t, one.Description, name)
		require.Equal(t, want.monotonic, one.Data.(metricdata.Sum[int64]).IsMonotonic, name)
	}
	require.NoError(t, unregister())
	require.Empty(t, all.collect(t))
}

// A connection that was given took no time, and neither did one that failed come into being.
func TestOnlyConnectsAreRecorded(t *testing.T) {
	all := newMetrics()
	observe, err := plexotel.Observer("orders", plexotel.WithMeterProvider(all.provider))
	require.NoError(t, err)
	observe(plex.Event{Kind: plex.EventConnected, Why: "given"})
	observe(plex.Event{Kind: plex.EventConnectFailed, Attempts: 1, Took: time.Second})
	observe(plex.Event{Kind: plex.EventHealed, Attempts: 1, Took: time.Second})
	require.Empty(t, all.collect(t))
}

func TestBadArgumentsAreRefused(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	mux, err := plex.New(t.Context(), plex.WithConnections(near))
	require.NoError(t, err)
	defer mux.Close()

	_, err = plexotel.Register(mux, "")
	require.EqualError(t, err, "plexotel: Register: the name of the pool is empty; give one, such as that of the service")
	_, err = plexotel.Register(nil, "", nil)
	require.EqualError(t, err, "plexotel: Register: the multiplexer is nil; make one with plex.New\n"+
		"plexotel: Register: the name of the pool is empty; give one, such as that of the service\n"+
		"plexotel: Register: option 1 of 1 is nil; leave it out or give an option")
	_, err = plexotel.Observer("")
	require.EqualError(t, err, "plexotel: Observer: the name of the pool is empty; give one, such as that of the service")
	_, err = plexotel.Traced[string, string](nil, "")
	require.EqualError(t, err, "plexotel: Traced: the client is nil; make one with request.New or request.NewOrdered\n"+
		"plexotel: Traced: the name of the pool is empty; give one, such as that of the service")

	// The global provider is the default, and does nothing until the program sets one.
	unregister, err := plexotel.Register(mux, "orders")
	require.NoError(t, err)
	require.NoError(t, unregister())
}
