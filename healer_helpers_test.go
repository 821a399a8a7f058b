package plex_test

// Helpers of the tests of the healer, the auto-scaler, lifetimes, leaks and the log: a service that a test takes down
// and up, waiters, and a log that is kept.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
)

var errRefused = errors.New("the service refuses connections")

// service is a connector that answers by itself. It is up or down, takes its time, and remembers when it was dialled.
// Set refusal, latency and greet with set.
type service struct {
	*connector

	mu          sync.Mutex
	refusal     error           // what dials are refused with; nil while the service is up
	latency     time.Duration   // how long a dial takes
	greet       func(*fakePeer) // is given the peer of each connection before it is attached
	dials       []time.Time     // when each began
	peers       []*fakePeer     // of the dials that succeeded, in order
	dialing     int             // dials in progress
	peakDialing int             // the most that were, since the last call of set
}

func newService(l *ledger) *service {
	s := &service{connector: newConnector(l)}
	s.auto = func(int) (*fakeConn, error) { return s.dial() }

	return s
}

// set changes how the service behaves, and forgets the peak.
func (s *service) set(f func(*service)) {
	s.mu.Lock()
	defer s.mu.Unlock()

	f(s)
	s.peakDialing = s.dialing
}

// pool makes a multiplexer of n connections to the service, which have lived for a minute.
func (s *service) pool(n int, opts ...plex.Option) *plex.Multiplexer {
	s.l.Helper()

	m := s.l.mux(append([]plex.Option{
		plex.WithConnector(s.connect), plex.WithMaxCapacity(n), plex.WithMinConnections(n),
	}, opts...)...)
	time.Sleep(time.Minute)

	return m
}

func (s *service) goDown() { s.set(func(s *service) { s.refusal = errRefused }) }
func (s *service) comeUp() { s.set(func(s *service) { s.refusal = nil }) }

func (s *service) dial() (*fakeConn, error) {
	s.mu.Lock()
	s.dials = append(s.dials, time.Now())
	s.dialing++
	s.peakDialing = max(s.peakDialing, s.dialing)
	latency := s.latency
	s.mu.Unlock()

	if latency > 0 {
		time.Sleep(latency)
	}

	s.mu.Lock()
	defer s.mu.Unlock()

	s.dialing--
	if s.refusal != nil {
		return nil, s.refusal
	}

	conn, peer := s.l.pair()
	s.peers = append(s.peers, peer)

	if s.greet != nil {
		s.greet(peer)
	}

	return conn, nil
}

// dialled returns when the dials began, from the nth on.
func (s *service) dialled(from int) []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()

	return s.dials[from:]
}

// peak returns the most dials that were in progress at once since the last call of set.
func (s *service) peakSinceSet() int {
	s.mu.Lock()
	defer s.mu.Unlock()

	return s.peakDialing
}

// connected returns the peers of the connections that were made, from the nth on.
func (s *service) connected(from int) []*fakePeer {
	s.mu.Lock()
	defer s.mu.Unlock()

	return s.peers[from:]
}

// calls returns how often Connect was called.
func (c *connector) count() int {
	total, _, _ := c.counts()

	return total
}

// unanswered settles the bubble, takes the calls that wait for their answer, and requires that there are n.
func (c *connector) unanswered(n int) []*connectCall {
	c.l.Helper()
	synctest.Wait()

	var calls []*connectCall
	for len(c.calls) > 0 {
		calls = append(calls, <-c.calls)
	}

	require.Len(c.l, calls, n, "calls of Connect that wait for their answer")

	return calls
}

// each pause is the difference between two times.
func pauses(times []time.Time) []time.Duration {
	var ds []time.Duration
	for i := 1; i < len(times); i++ {
		ds = append(ds, times[i].Sub(times[i-1]))
	}

	return ds
}

// settled returns the Stats when all that can happen now has happened.
func settled(m *plex.Multiplexer) plex.Stats {
	synctest.Wait()

	return m.Stats()
}

// waiter is an acquire in the background.
type waiter struct {
	r   plex.Reader
	w   plex.Writer
	err error
	at  time.Time // when it returned
}

func (a waiter) lease() interface {
	Close() error
	Kill() error
	RemoteAddr() net.Addr
} {
	if a.w != (plex.Writer{}) {
		return a.w
	}

	return a.r
}

// wantReader acquires a Reader in the background, and returns when that waits or is done.
func wantReader(ctx context.Context, m *plex.Multiplexer, timeout time.Duration) <-chan waiter {
	ch := later(func() waiter {
		r, err := m.Reader(ctx, timeout)
		return waiter{r: r, err: err, at: time.Now()}
	})
	synctest.Wait()

	return ch
}

// wantWriter does the same for a Writer.
func wantWriter(ctx context.Context, m *plex.Multiplexer, timeout time.Duration) <-chan waiter {
	ch := later(func() waiter {
		w, err := m.Writer(ctx, timeout)
		return waiter{w: w, err: err, at: time.Now()}
	})
	synctest.Wait()

	return ch
}

// got requires that the waiter has been served by now, and returns its lease.
func got(t testing.TB, ch <-chan waiter) waiter {
	t.Helper()
	synctest.Wait()

	select {
	case a := <-ch:
		require.NoError(t, a.err)

		return a
	default:
		require.FailNow(t, "the waiter waits on")

		return waiter{}
	}
}

// requireWorks passes a few bytes in both directions over the connection of two leases.
func requireWorks(t testing.TB, r plex.Reader, w plex.Writer, p *fakePeer) {
	t.Helper()
	p.send("down")
	require.Equal(t, "down", readN(t, r, 4))

	_, err := w.Write([]byte("up"))
	require.NoError(t, err)
	require.Equal(t, "up", p.read(2))
}

// killAll loses n connections, which must be idle.
func killAll(t testing.TB, m *plex.Multiplexer, n int) {
	t.Helper()

	leases := make([]plex.Reader, n)
	for i := range leases {
		leases[i] = readerOf(t, m)
	}

	for _, r := range leases {
		require.NoError(t, r.Kill())
	}
}

// use has a byte delivered over each of n connections, which must be idle, so that they have proved useful.
func use(t testing.TB, m *plex.Multiplexer, peers ...*fakePeer) {
	t.Helper()

	for _, p := range peers {
		p.send("x")
	}

	leases := make([]plex.Reader, len(peers))
	for i := range leases {
		leases[i] = readerOf(t, m)
		require.Equal(t, "x", readN(t, leases[i], 1))
	}

	for _, r := range leases {
		requireClosed(t, r)
	}
}

// ---------------------------------------------------------------------------------------------------------------
// The log

// record is a line of a log.
type record struct {
	at    time.Time
	level slog.Level
	msg   string
	keys  []string // of the attributes, in order
	attrs map[string]any
}

// logbook is a slog.Handler that keeps what it is given.
type logbook struct {
	hook func(record) // is called with each record, with no lock held; set before use

	mu      sync.Mutex
	records []record
}

func (b *logbook) Enabled(context.Context, slog.Level) bool { return true }
func (b *logbook) WithAttrs([]slog.Attr) slog.Handler       { return b }
func (b *logbook) WithGroup(string) slog.Handler            { return b }

func (b *logbook) Handle(_ context.Context, r slog.Record) error {
	rec := record{at: time.Now(), level: r.Level, msg: r.Message, attrs: map[string]any{}}
	r.Attrs(func(a slog.Attr) bool {
		rec.keys = append(rec.keys, a.Key)
		rec.attrs[a.Key] = a.Value.Any()

		return true
	})

	b.mu.Lock()
	b.records = append(b.records, rec)
	b.mu.Unlock()

	if b.hook != nil {
		b.hook(rec)
	}

	return nil
}

// option has a multiplexer write into the book.
func (b *logbook) option() plex.Option { return plex.WithLogger(slog.New(b)) }

// with returns the records with one message.
func (b *logbook) with(msg string) (found []record) {
	b.mu.Lock()
	defer b.mu.Unlock()

	for _, r := range b.records {
		if r.msg == msg {
			found = append(found, r)
		}
	}

	return found
}

// messages returns the messages of all records, in order.
func (b *logbook) messages() (all []string) {
	b.mu.Lock()
	defer b.mu.Unlock()

	for _, r := range b.records {
		all = append(all, r.msg)
	}

	return all
}

// String is for the output of a failed test.
func (b *logbook) String() string { return fmt.Sprint(b.messages()) }
