package faulttest_test

// What Connect functions do wrong.

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/proxy"
)

// Row "dial hangs, or Connect ignores its ctx": waiters return on time; the slot stays counted; a late connection is
// used or closed.
// Catches: a waiter that is tied to its dial, a slot given away twice, a late connection that leaks.
func TestFaultConnectIgnoresItsContext(t *testing.T) {
	w := newWorld(t, 2, proxy.Config{})
	release := make(chan struct{})
	var inside, most atomic.Int32
	inner := w.book.Dial(w.Addr())
	m := w.bare(plex.WithMaxCapacity(2), plex.WithConnectTimeout(20*time.Millisecond), plex.WithBackoff(quick),
		plex.WithAutoScaling(time.Millisecond),
		plex.WithConnector(func(_ context.Context, conn net.Conn) error {
			for n := inside.Add(1); ; {
				if old := most.Load(); n <= old || most.CompareAndSwap(old, n) {
					break
				}
			}
			defer inside.Add(-1)
			<-release
			return inner(context.Background(), conn)
		}))
	for range 3 { // and no connect returns before all of these have
		_, err := m.Reader(t.Context(), 60*time.Millisecond)
		require.ErrorIs(t, err, plex.ErrTimeout)
		require.LessOrEqual(t, m.Stats().Open+m.Stats().Connecting, 2)
		eventually(t, func() bool { return inside.Load() > 0 }, "a connect is under way")
		require.Positive(t, m.Stats().Connecting, "the slot stays counted")
	}
	close(release)
	eventually(t, func() bool { s := m.Stats(); return s.Connecting == 0 && s.Open > 0 }, "the late ones are used")
	require.NoError(t, reader(t, m).Close())
	require.LessOrEqual(t, most.Load(), int32(2))

	// And once more, with a Close in between.
	w2 := newWorld(t, 1, proxy.Config{})
	called, late, attached := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	inner = w2.book.Dial(w2.Addr())
	m = w2.bare(plex.WithConnector(func(_ context.Context, conn net.Conn) error {
		close(called)
		<-late
		err := inner(context.Background(), conn)
		attached <- err
		return err
	}))
	_, err := m.Reader(t.Context(), 30*time.Millisecond)
	require.ErrorIs(t, err, plex.ErrTimeout)
	within(t, "the connector", func() { <-called })
	within(t, "Close", func() { require.NoError(t, m.Close()) })
	close(late)
	require.ErrorIs(t, <-attached, plex.ErrClosed)
	eventually(t, func() bool { return w2.book.Open() == 0 }, "the late connection is closed")
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
	eventually(t, func() bool { return w.book.Open() == 1 }, "what was attached before the panic is closed")
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
			refusedWith(t, m, is(tc.err))
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
			refusedWith(t, m, is(refused))
			refusedWith(t, m, func(error) bool { return m.Stats().ConnectFailed >= 3 }) // again and again
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
		refusedWith(t, m, is(refused))
		require.NoError(t, m.Close())
		eventually(t, func() bool { return w.book.Open() == 0 }, "all are closed")
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

	// What is attached when the pool has closed it already is closed once more, which the book would not like.
	var attaching sync.Mutex
	over := false
	m := w.bare(plex.WithConnections(cached), plex.WithMaxCapacity(3), plex.WithBackoff(quick),
		plex.WithAutoScaling(time.Millisecond),
		plex.WithConnector(func(_ context.Context, conn net.Conn) error {
			attaching.Lock()
			defer attaching.Unlock()
			if over {
				return errors.New("the test is over")
			}
			return plex.Attach(conn, cached)
		}))
	rest, err := m.Add(t.Context(), cached)
	require.ErrorIs(t, err, plex.ErrKnownConnection)
	require.Len(t, rest, 1)

	rd, wr := reader(t, m), writer(t, m)
	refusedWith(t, m, is(plex.ErrKnownConnection)) // the wait has the pool connect
	require.NoError(t, wr.Close())
	require.Equal(t, 1, m.Stats().Open)
	write(t, w.server(0), "unharmed")
	require.Equal(t, "unharmed", read(t, rd, 8))
	require.NoError(t, rd.Close())
	attaching.Lock()
	defer attaching.Unlock()
	over = true
}
