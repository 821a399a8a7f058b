package faulttest_test

// What dials and Connect functions do wrong.

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
// Catches: a loop of dials without a pause, pauses that are the same everywhere, waiters that wait for the dial's sake.
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
	pauses := map[time.Duration]bool{}
	for i := 5; i < n; i++ {
		pauses[dials[i].Sub(dials[i-1]).Round(time.Microsecond)] = true
	}
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

// Row "dial hangs, or Connect ignores its ctx": waiters return on time; the slot stays counted; a late connection is
// used or closed.
// Catches: a waiter that is tied to its dial, a slot given away twice, a late connection that leaks.
func TestFaultConnectIgnoresItsContext(t *testing.T) {
	w := newWorld(t, 2, proxy.Config{})
	release := make(chan struct{})
	var calls, inside, most atomic.Int32
	inner := w.book.Dial(w.Addr())
	m := w.bare(plex.WithMaxCapacity(2), plex.WithConnectTimeout(20*time.Millisecond), plex.WithBackoff(quick),
		plex.WithAutoScaling(time.Millisecond),
		plex.WithConnector(func(_ context.Context, conn net.Conn) error {
			calls.Add(1)
			for n := inside.Add(1); ; {
				if old := most.Load(); n <= old || most.CompareAndSwap(old, n) {
					break
				}
			}
			defer inside.Add(-1)
			<-release
			return inner(context.Background(), conn)
		}))
	for range 3 {
		began := time.Now()
		_, err := m.Reader(t.Context(), 60*time.Millisecond)
		require.ErrorIs(t, err, plex.ErrTimeout)
		require.Less(t, time.Since(began), time.Second)
		s := m.Stats()
		require.LessOrEqual(t, s.Open+s.Connecting, 2)
		require.Positive(t, s.Connecting, "the slot stays counted")
	}
	close(release)
	eventually(t, func() bool { s := m.Stats(); return s.Connecting == 0 && s.Open > 0 }, "the late ones are used")
	require.NoError(t, reader(t, m).Close())
	require.LessOrEqual(t, most.Load(), int32(2))

	// And once more, with a Close in between.
	w2 := newWorld(t, 1, proxy.Config{})
	late, attached := make(chan struct{}), make(chan error, 1)
	inner = w2.book.Dial(w2.Addr())
	m = w2.bare(plex.WithConnector(func(_ context.Context, conn net.Conn) error {
		calls.Add(1)
		<-late
		err := inner(context.Background(), conn)
		attached <- err
		return err
	}))
	_, err := m.Reader(t.Context(), 30*time.Millisecond)
	require.ErrorIs(t, err, plex.ErrTimeout)
	within(t, "Close", func() { require.NoError(t, m.Close()) })
	close(late)
	require.ErrorIs(t, <-attached, plex.ErrClosed)
	eventually(t, func() bool { return w2.book.Open() == 0 }, "the late connection is closed")
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

// Row "Connect panics": an error with the stack, slot freed.
// Catches: the process taken down, the slot lost for ever (database/sql).
func TestFaultConnectPanics(t *testing.T) {
	w := newWorld(t, 1, proxy.Config{})
	var left atomic.Int32
	left.Store(5)
	inner := w.book.Dial(w.Addr())
	gate := make(chan struct{})
	m := w.bare(plex.WithBackoff(quick), plex.WithConnector(func(ctx context.Context, conn net.Conn) error {
		switch n := left.Add(-1); {
		case n == 0:
			<-gate
			_ = inner(ctx, conn)
			panic("after attaching")
		case n > 0:
			panicAtTheDisco()
		}
		return inner(ctx, conn)
	}))
	var ae *plex.AcquireError
	eventually(t, func() bool {
		_, err := m.Reader(t.Context(), time.Millisecond)
		require.ErrorAs(t, err, &ae)
		return ae.Connect != nil
	}, "the panic is told")
	require.ErrorContains(t, ae, "oh dear")
	require.ErrorContains(t, ae.Connect, "panicAtTheDisco", "the stack")
	close(gate)
	require.NoError(t, reader(t, m).Close(), "five panics later the slot is still there")
	require.EqualValues(t, 5, m.Stats().ConnectFailed)
	require.Equal(t, 1, w.book.Open())
	require.Equal(t, 2, w.book.Entered())
}

func panicAtTheDisco() { panic("oh dear") }

// Row "Connect returns nil without a transport, or a typed nil": an error that says so.
// Catches: a nil in the pool, which panics in a consumer's hands (database/sql pools it).
func TestFaultConnectReturnsNilWithoutATransport(t *testing.T) {
	var none *net.TCPConn
	for name, tc := range map[string]struct {
		connect plex.Connect
		err     error
	}{
		"nothing attached":   {func(context.Context, net.Conn) error { return nil }, plex.ErrNotAttached},
		"nil attached":       {func(_ context.Context, conn net.Conn) error { _ = plex.Attach(conn, nil); return nil }, plex.ErrNilConnection},
		"typed nil attached": {func(_ context.Context, conn net.Conn) error { return plex.Attach(conn, none) }, plex.ErrNilConnection},
		"a dial's nil":       {plex.DialFunc(func(context.Context) (net.Conn, error) { return nil, nil }), plex.ErrNilConnection},
		"a dial's typed nil": {plex.DialFunc(func(context.Context) (net.Conn, error) { return none, nil }), plex.ErrNilConnection},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1, proxy.Config{})
			var well atomic.Bool
			inner := w.book.Dial(w.Addr())
			m := w.bare(plex.WithBackoff(quick), plex.WithConnector(func(ctx context.Context, conn net.Conn) error {
				if well.Load() {
					return inner(ctx, conn)
				}
				return tc.connect(ctx, conn)
			}))
			_, err := m.Reader(t.Context(), 50*time.Millisecond)
			require.ErrorIs(t, err, tc.err)
			require.ErrorIs(t, err, plex.ErrTimeout)
			require.Zero(t, m.Stats().Open)
			well.Store(true)
			require.NoError(t, reader(t, m).Close())
		})
	}
}

// Row "Connect returns a connection and an error": closed.
// Catches: the connection leaked beside the error.
func TestFaultConnectReturnsAConnectionAndAnError(t *testing.T) {
	refused := errors.New("login refused")
	for name, both := range map[string]func(dial plex.Connect) plex.Connect{
		"attached": func(dial plex.Connect) plex.Connect {
			return func(ctx context.Context, conn net.Conn) error { return errors.Join(dial(ctx, conn), refused) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1, proxy.Config{})
			m := w.bare(plex.WithBackoff(quick), plex.WithConnector(both(w.book.Dial(w.Addr()))))
			_, err := m.Reader(t.Context(), 50*time.Millisecond)
			require.ErrorIs(t, err, refused)
			eventually(t, func() bool { return m.Stats().ConnectFailed >= 3 }, "again and again")
			require.LessOrEqual(t, w.book.Open(), 1)
		})
	}
	t.Run("DialFunc", func(t *testing.T) {
		w := newWorld(t, 1, proxy.Config{})
		m := w.bare(plex.WithBackoff(quick), plex.WithConnector(plex.DialFunc(func(ctx context.Context) (net.Conn, error) {
			c, err := net.Dial("tcp", w.Addr())
			if err != nil {
				return nil, err
			}
			return w.book.Wrap(c.(*net.TCPConn)), refused
		})))
		_, err := m.Reader(t.Context(), 50*time.Millisecond)
		require.ErrorIs(t, err, refused)
		require.NoError(t, m.Close())
		require.Zero(t, w.book.Open())
		require.Positive(t, w.book.Entered())
	})
}

// Row "the same connection twice": refused.
// Catches: two consumers on one half, because a connector caches what it dials.
func TestFaultTheSameConnectionTwice(t *testing.T) {
	w := newWorld(t, 3, proxy.Config{})
	d, err := net.Dial("tcp", w.Addr())
	require.NoError(t, err)
	cached := w.book.Wrap(d.(*net.TCPConn))
	_, err = plex.New(t.Context(), plex.WithConnections(cached, cached))
	require.Error(t, err)
	require.True(t, proxy.Established(cached.TCPConn), "New has failed, so it is still ours")

	m := w.bare(plex.WithConnections(cached), plex.WithMaxCapacity(3), plex.WithBackoff(quick),
		plex.WithAutoScaling(time.Millisecond),
		plex.WithConnector(func(_ context.Context, conn net.Conn) error { return plex.Attach(conn, cached) }))
	rest, err := m.Add(t.Context(), cached)
	require.ErrorIs(t, err, plex.ErrKnownConnection)
	require.Len(t, rest, 1)

	rd := reader(t, m)
	_, err = m.Reader(t.Context(), 50*time.Millisecond) // which has the pool connect
	require.ErrorIs(t, err, plex.ErrTimeout)
	require.ErrorIs(t, err, plex.ErrKnownConnection)
	require.Equal(t, 1, m.Stats().Open)
	write(t, w.server(0), "unharmed")
	require.Equal(t, "unharmed", read(t, rd, 8))
	require.NoError(t, rd.Close())
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
