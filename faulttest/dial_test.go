package faulttest_test

// A service that cannot be had: it refuses, accepts and closes, or speaks another language; and what waiters are told.

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/proxy"
)

// Row "dial refused": backoff; waiters keep their own deadlines, and are served when the service is back.
// Catches: waiters that wait for the dial's sake; a pool that gives up.
func TestFaultDialRefused(t *testing.T) {
	w := newWorld(t, 4, proxy.Config{})
	m := w.bare(plex.WithMaxCapacity(4), plex.WithMinConnections(4), // the default backoff
		plex.WithConnector(w.book.Dial(w.Addr())))
	w.everyone(4)
	w.Refuse()
	w.ResetAll()
	eventually(t, func() bool { return m.Stats().Lost == 4 && m.Stats().ConnectFailed > 0 },
		"all are lost, and a connect has failed")

	var wg sync.WaitGroup
	for _, timeout := range []time.Duration{5 * time.Millisecond, 50 * time.Millisecond, 400 * time.Millisecond} {
		wg.Go(func() {
			began := time.Now()
			_, err := m.Writer(context.Background(), timeout)
			if !errors.Is(err, plex.ErrTimeout) || !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("%v", err)
			}
			if took := time.Since(began); took < timeout {
				t.Errorf("a wait of %v took %v", timeout, took)
			}
		})
	}
	within(t, "those who wait", wg.Wait)
	require.Zero(t, m.Stats().Open)

	require.NoError(t, w.Listen())
	w.alive(m)
	w.healed(m, 4)
}

// Row "dial refused", in fake time: the pauses grow, and waiters wait exactly as long as they asked for.
// Catches: a loop of dials without a pause; a waiter whose wait a dial or a pause prolongs.
func TestFaultDialRefusedBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var refuse atomic.Bool
		var dials atomic.Int32
		var mu sync.Mutex
		var peers []net.Conn
		m := newMux(t, plex.WithMaxCapacity(4), plex.WithMinConnections(4), // the default backoff
			plex.WithConnector(plex.DialFunc(func(ctx context.Context) (net.Conn, error) {
				if dials.Add(1) > 1000 { // fake time would stand still under dials without a pause
					<-ctx.Done()
				}
				if refuse.Load() {
					return nil, syscall.ECONNREFUSED
				}
				client, server := net.Pipe()
				mu.Lock()
				defer mu.Unlock()
				peers = append(peers, server)
				return client, nil
			})))
		defer func() {
			for _, p := range peers {
				require.NoError(t, p.Close())
			}
		}()
		time.Sleep(time.Minute) // they have proved their worth
		refuse.Store(true)
		dials.Store(0)
		for range 4 {
			require.NoError(t, writer(t, m).Kill())
		}
		began := time.Now()
		var wg sync.WaitGroup
		for _, timeout := range []time.Duration{50, 150, 400, 1000} {
			wg.Go(func() {
				timeout *= time.Millisecond
				_, err := m.Writer(context.Background(), timeout)
				if !errors.Is(err, plex.ErrTimeout) || !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("%v", err)
				}
				if took := time.Since(began); took != timeout {
					t.Errorf("a wait of %v took %v", timeout, took)
				}
			})
		}
		wg.Wait()
		time.Sleep(time.Until(began.Add(1500 * time.Millisecond)))
		synctest.Wait()
		// At most four at first, then after 0.1, 0.25, 0.4, 0.64 s, and one or two because somebody waits.
		require.GreaterOrEqual(t, dials.Load(), int32(3), "it goes on trying")
		require.LessOrEqual(t, dials.Load(), int32(12), "in 1.5 s")
		require.Zero(t, m.Stats().Open)
		refuse.Store(false)
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, 4, m.Stats().Open, "it has not given up")
	})
}

// Row "dial refused", with jitter: pools that lost the service together do not come back together.
// Catches: a backoff without jitter.
func TestFaultDialRefusedJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const pools = 8
		var mu sync.Mutex
		second := map[time.Duration]bool{}
		began := time.Now()
		var wg sync.WaitGroup
		for range pools {
			calls := 0
			m := newMux(t, plex.WithConnector(func(context.Context, net.Conn) error {
				mu.Lock()
				defer mu.Unlock()
				if calls++; calls == 2 {
					second[time.Since(began)] = true
				}
				return syscall.ECONNREFUSED
			}))
			wg.Go(func() { _, _ = m.Writer(t.Context(), time.Second) })
		}
		wg.Wait()
		require.Greater(t, len(second), pools/2, "different pauses")
		for pause := range second {
			require.LessOrEqual(t, pause, 100*time.Millisecond, "the first retry")
		}
	})
}

// Row "accepted then closed at once (flapping)": backoff keeps growing until a connection proves useful.
// Catches: a failure count that an accepted connection sets back, which makes a storm of a crashing service.
func TestFaultAcceptedThenClosedAtOnce(t *testing.T) {
	balance(t)
	for name, kind := range map[string]proxy.Kind{"FIN": proxy.AcceptClose, "RST": proxy.AcceptReset} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			flapping := atomic.Bool{}
			flapping.Store(true)
			p, err := proxy.New(proxy.Config{Handler: hold, Script: func(int) (s proxy.Script) {
				if flapping.Load() {
					s.Accept = kind
				}
				return s
			}})
			require.NoError(t, err)
			defer p.Close()
			m, err := plex.New(t.Context(), plex.WithMaxCapacity(4), plex.WithConnector(plex.Dial("tcp", p.Addr()))) // the default backoff
			require.NoError(t, err)
			defer m.Close()
			began := time.Now()
			for !enough(began, 1500*time.Millisecond, func() bool { return p.Accepted() >= 3 }) {
				// A lease on a connection that is about to die is possible; nothing proves its use.
				if wr, err := m.Writer(t.Context(), 100*time.Millisecond); err == nil {
					_ = wr.Close()
				}
			}
			n, took := p.Accepted(), time.Since(began)
			require.GreaterOrEqual(t, n, 3, "it goes on trying")
			require.LessOrEqual(t, float64(n), 10*took.Seconds(), "connects in %v to a service that is down", took)

			flapping.Store(false)
			eventually(t, func() bool {
				wr, err := m.Writer(t.Context(), patience)
				if err != nil {
					return false
				}
				defer wr.Close()
				return p.Established() == 1
			}, "served once the service is well")
		})
	}
}

// Row "TLS handshake fails": raw connection closed.
// Catches: the raw connection left open beneath a TLS connection that never came to be; the slot lost with it.
func TestFaultTLSHandshakeFails(t *testing.T) {
	for name, connect := range map[string]func(addr string) plex.Connect{
		"the dialer's handshake": func(addr string) plex.Connect {
			return plex.DialContext(&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}, "tcp", addr)
		},
		"plex's handshake": func(addr string) plex.Connect {
			return plex.DialFunc(func(ctx context.Context) (net.Conn, error) {
				var d net.Dialer
				raw, err := d.DialContext(ctx, "tcp", addr)
				if err != nil {
					return nil, err
				}
				return tls.Client(raw, &tls.Config{InsecureSkipVerify: true}), nil
			})
		},
		"Connect's handshake, through the handle": func(addr string) plex.Connect {
			return func(ctx context.Context, conn net.Conn) error {
				if err := plex.Dial("tcp", addr)(ctx, conn); err != nil {
					return err
				}
				return tls.Client(conn, &tls.Config{InsecureSkipVerify: true}).HandshakeContext(ctx)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			balance(t)
			p, err := proxy.New(proxy.Config{Handler: func(c *proxy.Conn) {
				_, _ = c.Write([]byte("220 this is no TLS\r\n"))
				_, _ = io.Copy(io.Discard, c)
			}})
			require.NoError(t, err)
			defer p.Close()
			m := newMux(t, plex.WithMaxCapacity(2), plex.WithBackoff(quick), plex.WithConnector(connect(p.Addr())))
			for range 3 {
				refusedWith(t, m, func(err error) bool { return errors.As(err, new(tls.RecordHeaderError)) })
			}
			refusedWith(t, m, func(error) bool { return p.Accepted() > 2 }) // it goes on trying
			require.Zero(t, m.Stats().Open)
			require.Zero(t, m.Stats().Connected)
			require.NoError(t, m.Close())
			eventually(t, func() bool { return p.Open() == 0 }, "all raw connections are closed")
			require.LessOrEqual(t, p.Peak(), 2)
		})
	}
}

// Row "wait timeouts hide the cause": the acquire error carries the last connect error.
// Catches: "connection pool timeout", and nothing else to go by at night.
func TestFaultWaitTimeoutsHideTheCause(t *testing.T) {
	w := newWorld(t, 2, proxy.Config{})
	m := w.lazy()
	rd := reader(t, m)
	w.everyone(1)
	w.Refuse()
	w.ResetAll()
	require.NoError(t, rd.Close())
	eventually(t, func() bool { return m.Stats().LastConnectError != nil }, "a connect has failed")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	for name, acquire := range map[string]func() error{
		"timeout":      func() error { _, err := m.Writer(t.Context(), 20*time.Millisecond); return err },
		"no wait":      func() error { _, err := m.Writer(t.Context(), -1); return err },
		"ctx's end":    func() error { _, err := m.Writer(ctx, 0); return err },
		"dead context": func() error { <-ctx.Done(); _, err := m.Writer(ctx, 0); return err },
	} {
		t.Run(name, func(t *testing.T) {
			err := acquire()
			require.ErrorIs(t, err, syscall.ECONNREFUSED, "the cause")
			var ae *plex.AcquireError
			require.ErrorAs(t, err, &ae)
			require.True(t, ae.Timeout())
			require.Equal(t, "writer", ae.Half)
			require.Equal(t, 2, ae.Capacity)
			require.ErrorContains(t, err, "connection refused")
			require.ErrorContains(t, err, "writer")
		})
	}
}
