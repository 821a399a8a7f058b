package faulttest_test

// The whole pool: its end under load, the service's restart, the collector, the clock.

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/proxy"
)

// Row "multiplexer closed with waiters, leases, dials": all return; late connections closed.
// Catches: a Close that waits for consumers, waiters who are never told, connections that outlive the pool.
func TestFaultMultiplexerClosedWithWaitersLeasesAndDials(t *testing.T) {
	for name, end := range map[string]func(m *plex.Multiplexer, cancel context.CancelFunc){
		"Close":         func(m *plex.Multiplexer, _ context.CancelFunc) { _ = m.Close() },
		"Close, thrice": func(m *plex.Multiplexer, _ context.CancelFunc) { go m.Close(); go m.Close(); _ = m.Close() },
		"the ctx of New": func(m *plex.Multiplexer, cancel context.CancelFunc) {
			cancel()
			_ = m.Close() // which waits for it
		},
		"Shutdown without patience": func(m *plex.Multiplexer, _ context.CancelFunc) {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
			defer cancel()
			_ = m.Shutdown(ctx)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := oracled(t, 4, proxy.Config{}, nil)
			inner := w.book.Dial(w.Addr())
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			var dials atomic.Int32
			slow := make(chan struct{})
			m, err := plex.New(ctx, plex.WithMaxCapacity(4), plex.WithMinConnections(2), plex.WithAutoScaling(time.Millisecond),
				plex.WithConnector(func(ctx context.Context, conn net.Conn) error {
					if dials.Add(1) > 2 {
						<-slow // whatever its ctx says
						return inner(context.Background(), conn)
					}
					return inner(ctx, conn)
				}))
			require.NoError(t, err)

			// Both connections: one with Read and Write blocked, one with streams.
			rd, wr := reader(t, m), writer(t, m)
			rd2, wr2 := w.book.Reader(reader(t, m)), writer(t, m)
			var wg sync.WaitGroup
			wg.Go(func() {
				for err := error(nil); err == nil; {
					_, err = rd.Read(make([]byte, 100<<10))
				}
			})
			wg.Go(func() {
				for err := error(nil); err == nil; { // the peer does read, so it blocks now and then
					_, err = wr.Write(nil)
				}
			})
			in, err := rd2.RecvChunks(context.Background(), 0)
			require.NoError(t, err)
			out, err := wr2.SendChunks(context.Background(), 0)
			require.NoError(t, err)
			wg.Go(func() {
				for range in {
				}
			})
			wg.Go(func() {
				for {
					select {
					case out <- nil:
					case <-wr2.Done():
						close(out)
						return
					}
				}
			})
			// Waiters, for whom two slow dials are under way.
			errs := make(chan error, 20)
			for range 10 {
				wg.Go(func() { _, err := m.Reader(context.Background(), 0); errs <- err })
				wg.Go(func() { _, err := m.Writer(context.Background(), time.Hour); errs <- err })
			}
			eventually(t, func() bool { s := m.Stats(); return s.Waiting == 20 && s.Connecting == 2 }, "waiters and dials")

			within(t, name, func() { end(m, cancel) })
			within(t, "a consumer or a waiter", wg.Wait)
			for range 20 {
				require.ErrorIs(t, <-errs, plex.ErrClosed)
			}
			require.ErrorIs(t, rd.Err(), plex.ErrClosed)
			require.NoError(t, rd.Close())
			require.NoError(t, wr.Close())
			require.NoError(t, rd2.Close())
			_ = wr2.Close() // it may say what it has not sent
			close(slow)
			eventually(t, func() bool { return dials.Load() == 4 && w.book.Entered() == 4 && w.book.Open() == 0 }, "late connections are closed")
			_, err = m.Reader(context.Background(), 0)
			require.ErrorIs(t, err, plex.ErrClosed)
			require.NoError(t, m.Close())
			s := m.Stats()
			require.Zero(t, s.Open+s.IdleReaders+s.IdleWriters+s.LeasedReaders+s.LeasedWriters+s.Waiting)
			require.Zero(t, s.Lost, "plex has closed them")
		})
	}
}

// Row "server restart with everyone connected": probe, ramp, whole again; no storm.
// Catches: all connections redialled at once against a service that is down or has just come up.
func TestFaultServerRestartWithEveryoneConnected(t *testing.T) {
	for name, reset := range map[string]bool{"RST": true, "FIN": false} {
		t.Run(name, func(t *testing.T) {
			const capacity = 16
			w := newWorld(t, capacity, proxy.Config{})
			inner := w.book.Dial(w.Addr())
			var mu sync.Mutex
			inside, failed, good := 0, 0, 0
			down := false
			m := w.bare(plex.WithMaxCapacity(capacity), plex.WithMinConnections(capacity), // the default backoff
				plex.WithConnector(func(ctx context.Context, conn net.Conn) error {
					mu.Lock()
					inside++
					switch {
					case !down:
					case failed > 0 && inside > 1+good:
						t.Errorf("%d connects at once after %d that failed and %d that did not", inside, failed, good)
					case failed == 0 && inside > 4:
						t.Errorf("%d connects at once, before any has failed", inside)
					}
					mu.Unlock()
					err := inner(ctx, conn)
					time.Sleep(2 * time.Millisecond)
					mu.Lock()
					defer mu.Unlock()
					inside--
					switch {
					case !down:
					case err != nil:
						failed++
					case failed > 0:
						good++
					}
					return err
				}))
			w.everyone(capacity)
			mu.Lock()
			down = true
			mu.Unlock()
			began, outage := time.Now(), make(chan time.Duration, 1)
			go func() { _ = w.Restart(400*time.Millisecond, reset); outage <- time.Since(began) }()
			eventually(t, func() bool { return m.Stats().Lost == capacity }, "all are lost")
			wr, err := m.Writer(t.Context(), patience) // somebody waits through it
			require.NoError(t, err)
			require.NoError(t, wr.Close())
			w.healed(m, capacity)
			mu.Lock()
			require.Positive(t, failed, "it has probed")
			// Four at once, and four more in 0.4 s; the pauses grow, but a busy machine may be down for longer.
			require.LessOrEqual(t, float64(failed), 4+10*(<-outage).Seconds())
			mu.Unlock()
			w.everyone(capacity)
			require.Equal(t, 2*capacity, w.Accepted(), "each is replaced once")
			w.alive(m)
		})
	}
}

// Row "garbage collection all the time": nothing.
// Catches: a connection or a descriptor that is closed by a finalizer while it is in use, a handle that does not keep
// alive what it needs.
func TestFaultGarbageCollectionAllTheTime(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(1))
	w := oracled(t, 4, proxy.Config{Script: proxy.Random(seed, proxy.Rates{Reset: 0.3, FIN: 0.3, HalfClose: 0.2, Bytes: 200 << 10})}, nil)
	m := w.lazy(plex.WithAutoScaling(time.Millisecond))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		defer cancel()
		for began := time.Now(); !enough(began, 500*time.Millisecond, func() bool { return w.peer.Total() > 0 }); {
			runtime.GC()
		}
	})
	for range 4 {
		wg.Go(func() { use(ctx, w, m, readSome) })
		wg.Go(func() { use(ctx, w, m, writeSome) })
	}
	within(t, "consumers", wg.Wait)
	require.Positive(t, w.peer.Total())
	w.settle(m)
}

// settle sees that the pool goes on serving, with the faults of random scripts going on as well.
func (w *world) settle(m *plex.Multiplexer) {
	w.Helper()
	require.NoError(w, reader(w, m).Close())
	require.NoError(w, writer(w, m).Close())
}

// use leases and uses connections until ctx ends.
func use(ctx context.Context, w *world, m *plex.Multiplexer, some func(context.Context, *world, *plex.Multiplexer) error) {
	for ctx.Err() == nil {
		if err := some(ctx, w, m); err != nil && !errors.Is(err, ctx.Err()) {
			w.Errorf("acquire: %v", err)
			return
		}
	}
}

// readSome takes a read lease and reads a little. That the connection fails is no error.
func readSome(ctx context.Context, w *world, m *plex.Multiplexer) error {
	r, err := m.Reader(ctx, 0)
	if err != nil {
		return err
	}
	lease := w.book.Reader(r)
	_ = lease.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
	buf := make([]byte, 4000)
	for range 5 {
		if _, err := lease.Read(buf); err != nil {
			break
		}
	}
	_ = lease.Close() // a read lease's end cannot fail
	return nil
}

// writeSome takes a write lease and writes a little.
func writeSome(ctx context.Context, w *world, m *plex.Multiplexer) error {
	wr, err := m.Writer(ctx, 0)
	if err != nil {
		return err
	}
	lease := w.book.Writer(wr)
	_ = lease.SetWriteDeadline(time.Now().Add(5 * time.Millisecond))
	buf := make([]byte, 4000)
	for range 5 {
		if _, err := lease.WriteNext(buf); err != nil {
			break
		}
	}
	_ = lease.Close() // there is no stream that it could speak of
	return nil
}

// Row "clock jump": nothing, monotonic time only.
// Catches: a pool that throws its connections away, or fails its waiters, because the machine has slept. Fake time jumps
// ten years here; that the wall clock is never asked, which fake time cannot show, the second test sees to.
func TestFaultClockJump(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dials atomic.Int32
		var peers sync.Map
		m, err := plex.New(t.Context(), plex.WithMaxCapacity(4), plex.WithMinConnections(2), plex.WithAutoScaling(time.Second),
			plex.WithIdleTimeout(time.Minute), plex.WithLeakDetection(time.Hour),
			plex.WithConnector(plex.DialFunc(func(context.Context) (net.Conn, error) {
				client, server := net.Pipe()
				peers.Store(dials.Add(1), server)
				return client, nil
			})))
		require.NoError(t, err)
		defer func() {
			require.NoError(t, m.Close())
			peers.Range(func(_, p any) bool { return p.(net.Conn).Close() == nil })
		}()
		for range 3 {
			time.Sleep(10 * 365 * 24 * time.Hour)
			s := m.Stats()
			require.Equal(t, 2, s.Open)
			require.Zero(t, s.Lost+s.Expired+s.ScaledDown+s.SuspectedLeaks+s.ConnectFailed)
			require.EqualValues(t, 2, dials.Load())
			rd := reader(t, m)
			rd2 := reader(t, m)
			began := time.Now()
			_, err := m.Reader(t.Context(), 100*time.Millisecond)
			require.ErrorIs(t, err, plex.ErrTimeout)
			require.Equal(t, 100*time.Millisecond, time.Since(began), "waits take what they should")
			require.NoError(t, rd.Close())
			require.NoError(t, rd2.Close())
		}
	})
}

// Row "clock jump", the other half: the library asks the wall clock for nothing.
// Catches: Round, Unix, In and the like, which take the monotonic reading from a time.
func TestFaultClockJumpWallClockIsNeverAsked(t *testing.T) {
	files, err := filepath.Glob("../*.go")
	require.NoError(t, err)
	wall := regexp.MustCompile(`\.(Round\(0\)|Unix(Milli|Micro|Nano)?\(\)|UTC\(\)|Local\(\)|In\(time\.|Truncate\(0\)|AddDate\()`)
	seen := 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		src, err := os.ReadFile(file)
		require.NoError(t, err)
		seen++
		for i, line := range strings.Split(string(src), "\n") {
			code, _, _ := strings.Cut(line, "//")
			require.False(t, wall.MatchString(code), "%s:%d: %s", file, i+1, line)
		}
	}
	require.Greater(t, seen, 10, "the library's files")
}
