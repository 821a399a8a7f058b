package faulttest_test

// The world of a test: a proxy with a server behind it, a pool, the book of its connections, and the balance at the
// end, which no test can leave out.

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/check"
	"go.atomizer.io/plex/faulttest/proxy"
)

// patience bounds whatever has to happen at some time. It decides nothing on a machine that is merely busy.
const patience = time.Minute

// world is what a test runs in. At the test's end no lease is live and nobody waits, every connection has been closed
// once, no stream has lost, doubled or misdelivered a byte, the server has never had more connections than the
// capacity, and the process has the goroutines and descriptors that it had before.
type world struct {
	testing.TB
	*proxy.Proxy
	book     *check.Book
	peer     *check.Peer // nil unless it is the server
	capacity int
}

// newWorld starts the server. A nil handler is one that accepts and does nothing.
func newWorld(t testing.TB, capacity int, cfg proxy.Config) *world {
	t.Helper()
	balance(t)
	w := &world{TB: t, capacity: capacity, book: check.NewBook(capacity, true)}
	if cfg.Handler == nil && cfg.Backend == "" {
		cfg.Handler = hold
	}
	cfg.Counts = w.book.Counts
	var err error
	w.Proxy, err = proxy.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		w.Proxy.Close()
		if err := w.book.End(w.peer); err != nil {
			t.Errorf("%v\nthe faults:\n%s", err, w.Tell(30))
		}
		if w.Peak() > capacity || w.book.Peak() > capacity {
			t.Errorf("capacity %d: %d connections at the server, %d open and being connected", capacity, w.Peak(), w.book.Peak())
		}
	})
	return w
}

// oracled is a world whose server speaks the oracle's streams. set, if it is not nil, sets the peer up.
func oracled(t testing.TB, capacity int, cfg proxy.Config, set func(*check.Peer)) *world {
	t.Helper()
	peer := &check.Peer{}
	if set != nil {
		set(peer)
	}
	cfg.Handler = func(c *proxy.Conn) { peer.Serve(c) }
	w := newWorld(t, capacity, cfg)
	w.peer = peer
	return w
}

// balanced has the tests that have called balance.
var balanced sync.Map

// balance has the test fail unless the process has at its end what it has now. The first call of a test counts: its
// cleanup is the last.
func balance(t testing.TB) {
	if _, again := balanced.LoadOrStore(t, nil); again {
		return
	}
	before := check.Before()
	t.Cleanup(func() {
		if err := before.Back(patience); err != nil {
			t.Error(err)
		}
	})
}

// hold is a server that does nothing but keep the connection.
func hold(c *proxy.Conn) { <-c.Done() }

// quick is a backoff for tests in which connections die faster than they can prove their worth.
func quick(int) time.Duration { return time.Millisecond }

// mux makes a pool that connects to the server and has its capacity open from the start. opts come on top.
func (w *world) mux(opts ...plex.Option) *plex.Multiplexer {
	w.Helper()
	return w.bare(append([]plex.Option{
		plex.WithMaxCapacity(w.capacity), plex.WithMinConnections(w.capacity), plex.WithConnector(w.book.Dial(w.Addr())),
		plex.WithBackoff(quick),
	}, opts...)...)
}

// lazy is mux without a connection at the start.
func (w *world) lazy(opts ...plex.Option) *plex.Multiplexer {
	w.Helper()
	return w.bare(append([]plex.Option{
		plex.WithMaxCapacity(w.capacity), plex.WithConnector(w.book.Dial(w.Addr())),
		plex.WithBackoff(quick),
	}, opts...)...)
}

// bare makes a pool of nothing but opts, which is closed at the test's end.
func (w *world) bare(opts ...plex.Option) *plex.Multiplexer {
	w.Helper()
	return newMux(w, opts...)
}

// newMux makes a pool that is closed at the test's end, when nothing of it may be in use.
func newMux(t testing.TB, opts ...plex.Option) *plex.Multiplexer {
	t.Helper()
	m, err := plex.New(context.Background(), opts...)
	require.NoError(t, err)
	t.Cleanup(func() {
		if s := m.Stats(); s.LeasedReaders+s.LeasedWriters+s.Waiting != 0 {
			t.Errorf("in use at the test's end: %+v", s)
		}
		if err := m.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if s := m.Stats(); s.Open+s.IdleReaders+s.IdleWriters != 0 {
			t.Errorf("after Close: %+v", s)
		}
	})
	return m
}

// server is the server's end of connection k.
func (w *world) server(k int) *proxy.Conn {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), patience)
	defer cancel()
	c := w.Conn(ctx, k)
	require.NotNil(w, c, "connection %d has not come or is gone", k)
	return c
}

// everyone waits until the server has accepted n connections, which may be after the client has been told that it has.
func (w *world) everyone(n int) {
	w.Helper()
	eventually(w, func() bool { return w.Established() == n }, "the server has %d connections", n)
}

// eventually waits until ok.
func eventually(t testing.TB, ok func() bool, what string, args ...any) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			require.FailNow(t, "did not happen in time", append([]any{what}, args...)...)
		}
	}
}

// refusedWith asks for a writer until it is told of a connect's failure, and returns that error. Each wait is short.
func refusedWith(t testing.TB, m *plex.Multiplexer, cause func(error) bool) (err error) {
	t.Helper()
	eventually(t, func() bool {
		_, err = m.Writer(context.Background(), 5*time.Millisecond)
		require.ErrorIs(t, err, plex.ErrTimeout)
		return cause(err)
	}, "the acquire tells why the connect has failed")
	return err
}

// is is a cause for refusedWith.
func is(target error) func(error) bool {
	return func(err error) bool { return errors.Is(err, target) }
}

// enough reports whether a test that has random things happen since a moment may stop: not before so long, and then as
// soon as what it needs has happened, if that happens at all.
func enough(began time.Time, least time.Duration, has func() bool) bool {
	took := time.Since(began)
	return took >= least && (has() || took > patience/2)
}

// healed waits until n connections have been lost and replaced, and the pool is whole and idle.
func (w *world) healed(m *plex.Multiplexer, n int) {
	w.Helper()
	eventually(w, func() bool {
		s := m.Stats()
		return s.Lost >= uint64(n) && s.Healed >= uint64(n) && s.Open == w.capacity
	}, "%d lost and healed", n)
	s := m.Stats()
	require.Equal(w, [2]uint64{uint64(n), uint64(n)}, [2]uint64{s.Lost, s.Healed}, "lost and healed")
}

// alive checks that the pool serves as many as it has connections.
func (w *world) alive(m *plex.Multiplexer) {
	w.Helper()
	require.NoError(w, check.Live(context.Background(), m, w.capacity, patience), w.Tell(30))
}

func reader(t testing.TB, m *plex.Multiplexer) plex.Reader {
	t.Helper()
	r, err := m.Reader(context.Background(), patience)
	require.NoError(t, err)
	return r
}

func writer(t testing.TB, m *plex.Multiplexer) plex.Writer {
	t.Helper()
	w, err := m.Writer(context.Background(), patience)
	require.NoError(t, err)
	return w
}

// write has the server send s.
func write(t testing.TB, c io.Writer, s string) {
	t.Helper()
	_, err := c.Write([]byte(s))
	require.NoError(t, err)
}

// read has a lease or the server read n bytes.
func read(t testing.TB, c io.Reader, n int) string {
	t.Helper()
	b := make([]byte, n)
	_, err := io.ReadFull(c, b)
	require.NoError(t, err)
	return string(b)
}

// within fails the test if f takes longer than patience, and shows where it is.
func within(t testing.TB, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(patience):
		panic(what + " hangs") // which shows all goroutines, as nothing else does
	}
}

// recorder is a server that keeps what each connection has sent.
type recorder struct {
	mu   sync.Mutex
	got  map[int]*bytes.Buffer
	ends map[int]error
}

func (r *recorder) serve(c *proxy.Conn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := c.Read(buf)
		r.mu.Lock()
		if r.got == nil {
			r.got, r.ends = map[int]*bytes.Buffer{}, map[int]error{}
		}
		if r.got[c.Number] == nil {
			r.got[c.Number] = &bytes.Buffer{}
		}
		r.got[c.Number].Write(buf[:n])
		if err != nil {
			r.ends[c.Number] = err
		}
		r.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// of is what connection k has sent so far, and its end.
func (r *recorder) of(k int) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.got[k] == nil {
		return "", nil
	}
	return r.got[k].String(), r.ends[k]
}

// isTimeout tells a deadline that the consumer has set from any other end.
func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
