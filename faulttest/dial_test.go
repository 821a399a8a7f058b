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
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/proxy"
)

// Row "dial refused": backoff with jitter; waiters keep their own deadlines.
// Catches: a loop of dials without a pause, waiters that wait for the dial's sake, or not as long as they asked for.
func TestFaultDialRefused(t *testing.T) {
	w := newWorld(t, 4, proxy.Config{})
	var mu sync.Mutex
	var dials []time.Time
	inner := w.book.Dial(w.Addr())
	connect := func(ctx context.Context, conn net.Conn) error {
		mu.Lock()
		dials = append(dials, time.Now())
		mu.Unlock()
		return inner(ctx, conn)
	}
	m := w.bare(plex.WithMaxCapacity(4), plex.WithMinConnections(4), plex.WithConnector(connect)) // the default backoff
	mu.Lock()
	dials = nil
	mu.Unlock()
	w.everyone(4)
	w.Refuse()
	w.ResetAll()
	eventually(t, func() bool { return m.Stats().Lost == 4 }, "all are lost")

	began := time.Now()
	var wg sync.WaitGroup
	for _, timeout := range []time.Duration{50, 150, 400, 1000} {
		wg.Go(func() {
			began := time.Now()
			_, err := m.Writer(context.Background(), timeout*time.Millisecond)
			took := time.Since(began)
			if !errors.Is(err, plex.ErrTimeout) || !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("%v", err)
			}
			if took < timeout*time.Millisecond || took > timeout*time.Millisecond+500*time.Millisecond {
				t.Errorf("a wait of %v ms took %v", timeout, took)
			}
		})
	}
	wg.Wait()
	time.Sleep(time.Until(began.Add(1500 * time.Millisecond)))
	mu.Lock()
	n := len(dials)
	mu.Unlock()
	// At most four at first, then after 0.1, 0.25, 0.4, 0.64 s, and one or two because somebody waits.
	require.GreaterOrEqual(t, n, 3, "it goes on trying")
	require.LessOrEqual(t, n, 12, "in 1.5 s")
	require.Zero(t, m.Stats().Open)

	require.NoError(t, w.Listen())
	w.alive(m)
	w.healed(m, 4)
}

// Row "dial refused", with jitter: pools that lost the service together do not come back together.
// Catches: a backoff without jitter.
func TestFaultDialRefusedJitter(t *testing.T) {
	w := newWorld(t, 8, proxy.Config{})
	w.Refuse()
	var mu sync.Mutex
	second := map[time.Duration]bool{}
	for range 8 {
		var calls atomic.Int32
		first := time.Now()
		m := w.bare(plex.WithConnector(func(context.Context, net.Conn) error {
			switch calls.Add(1) {
			case 1:
				first = time.Now()
			case 2:
				mu.Lock()
				second[time.Since(first).Round(time.Millisecond)] = true
				mu.Unlock()
			}
			return syscall.ECONNREFUSED
		}))
		go func() { _, _ = m.Writer(t.Context(), time.Second) }()
	}
	eventually(t, func() bool { mu.Lock(); defer mu.Unlock(); return len(second) >= 3 }, "three different pauses")
	mu.Lock()
	defer mu.Unlock()
	for pause := range second {
		require.LessOrEqual(t, pause, 400*time.Millisecond, "the first retry comes within 100 ms, on a busy machine later")
	}
	time.Sleep(1100 * time.Millisecond) // the waiters
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
			for time.Since(began) < 1500*time.Millisecond {
				// A lease on a connection that is about to die is possible; nothing proves its use.
				if wr, err := m.Writer(t.Context(), 100*time.Millisecond); err == nil {
					_ = wr.Close()
				}
			}
			require.LessOrEqual(t, p.Accepted(), 12, "connects in 1.5 s to a service that is down")
			require.GreaterOrEqual(t, p.Accepted(), 3, "it goes on trying")

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
				_, err = m.Writer(t.Context(), 50*time.Millisecond)
				require.ErrorIs(t, err, plex.ErrTimeout)
				var header tls.RecordHeaderError
				require.ErrorAs(t, err, &header, "the acquire tells why")
			}
			require.Zero(t, m.Stats().Open)
			require.Zero(t, m.Stats().Connected)
			require.NoError(t, m.Close())
			eventually(t, func() bool { return p.Open() == 0 }, "all raw connections are closed")
			require.Greater(t, p.Accepted(), 2)
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
