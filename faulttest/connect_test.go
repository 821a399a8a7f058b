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

	rd := reader(t, m)
	_, err = m.Reader(t.Context(), 50*time.Millisecond) // which has the pool connect
	require.ErrorIs(t, err, plex.ErrTimeout)
	require.ErrorIs(t, err, plex.ErrKnownConnection)
	require.Equal(t, 1, m.Stats().Open)
	write(t, w.server(0), "unharmed")
	require.Equal(t, "unharmed", read(t, rd, 8))
	require.NoError(t, rd.Close())
	attaching.Lock()
	defer attaching.Unlock()
	over = true
}
