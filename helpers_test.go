package plex_test

// The world that the tests run plex in: scripted in-memory connections, the ledger that checks the balance at a
// test's end, and a scripted connector. All of it works inside a testing/synctest bubble (every wait is on a
// sync.Cond or a channel, mutexes are held for moments only) and outside of one alike.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/fakenet"
)

// ---------------------------------------------------------------------------------------------------------------
// The balance

// ledger keeps the books of one test. Every connection made through it must have been closed exactly once when the
// test ends, or never if it was handed back. Multiplexers made through it are closed at the end if the test did not,
// and must have no live lease by then. Outside a synctest bubble (which sees to its own goroutines) the process must
// also be back to the goroutines and descriptors that it had, so such tests must not run in parallel with others.
type ledger struct {
	testing.TB
	*fakenet.Books
}

// newLedger opens the books. Call it first in the test, inside the bubble if there is one.
func newLedger(t testing.TB) *ledger {
	t.Helper()

	return &ledger{t, fakenet.NewBooks(t)}
}

// mux makes a multiplexer that is closed at the test's end. Its ctx never ends.
func (l *ledger) mux(opts ...plex.Option) *plex.Multiplexer {
	l.Helper()

	m, err := plex.New(context.Background(), opts...)
	require.NoError(l, err)
	l.closeAtEnd(m)

	return m
}

// closeAtEnd checks at the test's end that m has no live lease or waiter, and closes it.
func (l *ledger) closeAtEnd(m *plex.Multiplexer) {
	l.Cleanup(func() {
		if s := m.Stats(); s.LeasedReaders+s.LeasedWriters+s.Waiting != 0 {
			l.Errorf("balance: live at the test's end: %d read and %d write leases, %d waiters",
				s.LeasedReaders, s.LeasedWriters, s.Waiting)
		}

		if err := m.Close(); err != nil {
			l.Errorf("balance: closing the multiplexer: %v", err)
		}

		if s := m.Stats(); s.Open+s.IdleReaders+s.IdleWriters != 0 {
			l.Errorf("balance: after Close: %d connections open, %d readers and %d writers idle",
				s.Open, s.IdleReaders, s.IdleWriters)
		}
	})
}

// within polls ok until it holds, for d at most. In a bubble that costs no time.
func within(d time.Duration, ok func() bool) bool {
	for end := time.Now().Add(d); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}

	return true
}

// eventually fails the test unless ok holds within the patience that tests have.
func eventually(t testing.TB, ok func() bool, what string, args ...any) {
	t.Helper()
	require.True(t, within(patience, ok), append([]any{"did not happen in time: " + what}, args...)...)
}

// ---------------------------------------------------------------------------------------------------------------
// The connector

// connector is a plex.Connect under the test's control. Each call blocks until the test answers it, or is answered at
// once by Auto.
type connector struct {
	*fakenet.Dialer

	l         *ledger
	handshake func(net.Conn) error // runs on the handle after it was attached; set before use
}

func newConnector(l *ledger) *connector { return &connector{Dialer: fakenet.NewDialer(l), l: l} }

// connect is the plex.Connect.
func (c *connector) connect(ctx context.Context, handle net.Conn) error {
	return c.Connect(ctx, handle, func(handle, conn net.Conn) error {
		if err := plex.Attach(handle, conn); err != nil || c.handshake == nil {
			return err
		}

		return c.handshake(handle)
	})
}

// next waits for the next call and returns it, unanswered.
func (c *connector) next() *fakenet.Dial {
	c.l.Helper()

	call := c.NextWithin(10 * time.Minute) // longer than any backoff; real tests have their own, shorter bounds
	require.NotNil(c.l, call, "nobody called Connect")

	return call
}

// ---------------------------------------------------------------------------------------------------------------
// Shorthands

// nilContext is for tests of what a nil ctx leads to.
var nilContext context.Context

// readerOf leases a reader that must be idle now.
func readerOf(t testing.TB, m *plex.Multiplexer) plex.Reader {
	t.Helper()

	r, err := m.Reader(context.Background(), -1)
	require.NoError(t, err)

	return r
}

// writerOf leases a writer that must be idle now.
func writerOf(t testing.TB, m *plex.Multiplexer) plex.Writer {
	t.Helper()

	w, err := m.Writer(context.Background(), -1)
	require.NoError(t, err)

	return w
}

// requireClosedOnce waits until a transport has been closed, by whoever does that, and checks that it was closed once.
func requireClosedOnce(t testing.TB, c fakenet.CloseCounter, msg ...any) {
	t.Helper()
	eventually(t, func() bool { return c.Closes() > 0 }, "the transport is closed")
	require.Equal(t, 1, c.Closes(), msg...)
}

// requireClosed is for leases that the test is done with.
func requireClosed(t testing.TB, closers ...io.Closer) {
	t.Helper()

	for _, c := range closers {
		require.NoError(t, c.Close())
	}
}

// ---------------------------------------------------------------------------------------------------------------
// Leases: connections that watch how plex uses them, a scripted
// datagram connection, and one face for the two kinds of stream in each direction.

// past is a deadline that has passed in any bubble and outside of one.
var past = time.Unix(1, 0)

// bubble runs f in a synctest bubble with its own ledger.
func bubble(t *testing.T, f func(t *testing.T, l *ledger)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newLedger(t)) })
}

// single makes a multiplexer of one connection.
func (l *ledger) single(opts ...plex.Option) (*plex.Multiplexer, *fakenet.Conn, *fakenet.Peer) {
	l.Helper()

	c, p := l.Pair()

	return l.mux(append(opts, plex.WithConnections(c))...), c, p
}

// ---------------------------------------------------------------------------------------------------------------
// Calls in the background

// outcome is what a Read or Write returned.
type outcome struct {
	n   int
	err error
}

// later runs f in a goroutine; its result comes over the channel.
func later[T any](f func() T) <-chan T {
	ch := make(chan T, 1)

	go func() { ch <- f() }()

	return ch
}

// reading reads once in the background.
func reading(r plex.Reader, p []byte) <-chan outcome {
	return later(func() outcome { n, err := r.Read(p); return outcome{n, err} })
}

// writing writes once in the background.
func writing(w plex.Writer, s string) <-chan outcome {
	return later(func() outcome { n, err := w.Write([]byte(s)); return outcome{n, err} })
}

// requirePending fails the test if ch has something to receive.
func requirePending[T any](t testing.TB, ch <-chan T, what string) {
	t.Helper()

	select {
	case v, open := <-ch:
		require.FailNow(t, what+" is over already", "%v (channel open: %v)", v, open)
	default:
	}
}

// isClosed says whether ch is closed now. Nothing may ever be sent on it.
func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// readN reads exactly n bytes, in as many calls as it takes.
func readN(t testing.TB, r plex.Reader, n int) string {
	t.Helper()

	b := make([]byte, 0, n)
	for len(b) < n {
		k, err := r.Read(b[len(b):n])
		require.NoErrorf(t, err, "after %d of %d bytes: %q", len(b), n, b)
		b = b[:len(b)+k]
	}

	return string(b)
}

// ---------------------------------------------------------------------------------------------------------------
// Streams

// streamKind is per byte or in chunks.
type streamKind string

const (
	perByte  streamKind = "bytes"
	inChunks streamKind = "chunks"
)

// forEachKind runs f in a bubble for both kinds of stream.
func forEachKind(t *testing.T, f func(t *testing.T, l *ledger, k streamKind)) {
	for _, k := range []streamKind{perByte, inChunks} {
		t.Run(string(k), func(t *testing.T) {
			bubble(t, func(t *testing.T, l *ledger) { f(t, l, k) })
		})
	}
}

// inflow is a stream that a Reader receives.
type inflow struct {
	bytes  <-chan byte
	chunks <-chan []byte
}

// receive starts a stream; size is the buffer or the chunk size.
func receive(ctx context.Context, r plex.Reader, k streamKind, size int) (f inflow, err error) {
	if k == perByte {
		f.bytes, err = r.Recv(ctx, size)
	} else {
		f.chunks, err = r.RecvChunks(ctx, size)
	}

	return f, err
}

// receiving starts a stream that must start.
func receiving(t testing.TB, ctx context.Context, r plex.Reader, k streamKind, size int) inflow { //nolint:revive // t first
	t.Helper()

	f, err := receive(ctx, r, k, size)
	require.NoError(t, err)

	return f
}

// next receives once; open is false when the channel is closed.
func (f inflow) next() (p []byte, open bool) {
	if f.bytes != nil {
		b, ok := <-f.bytes

		return []byte{b}, ok
	}

	p, open = <-f.chunks

	return p, open
}

// poll receives once without waiting; nothing may have come.
func (f inflow) poll() (p []byte, came, open bool) {
	select {
	case b, ok := <-f.bytes:
		return []byte{b}, ok, ok
	case p, ok := <-f.chunks:
		return p, ok, ok
	default:
		return nil, false, true
	}
}

// take receives until it has n bytes, or more where a chunk goes beyond, or the channel is closed.
func (f inflow) take(n int) string {
	var all []byte

	for len(all) < n {
		p, open := f.next()
		if !open {
			break
		}

		all = append(all, p...)
	}

	return string(all)
}

// rest receives until the channel is closed.
func (f inflow) rest() string { return f.take(math.MaxInt) }

// outflow is a stream that a Writer sends.
type outflow struct {
	bytes  chan<- byte
	chunks chan<- []byte
}

// transmit starts a stream; size is the buffer or the chunk size.
func transmit(ctx context.Context, w plex.Writer, k streamKind, size int) (f outflow, err error) {
	if k == perByte {
		f.bytes, err = w.Send(ctx, size)
	} else {
		f.chunks, err = w.SendChunks(ctx, size)
	}

	return f, err
}

// sending starts a stream that must start.
func sending(t testing.TB, ctx context.Context, w plex.Writer, k streamKind, size int) outflow { //nolint:revive // t first
	t.Helper()

	f, err := transmit(ctx, w, k, size)
	require.NoError(t, err)

	return f
}

// send sends s: byte by byte, or as one chunk.
func (f outflow) send(s string) {
	if f.chunks != nil {
		f.chunks <- []byte(s)

		return
	}

	for i := range len(s) {
		f.bytes <- s[i]
	}
}

// sendUntil sends s until done is closed, and returns how much of it the channel took.
func (f outflow) sendUntil(done <-chan struct{}, s string) (sent int) {
	if f.chunks != nil {
		select {
		case f.chunks <- []byte(s):
			return len(s)
		case <-done:
			return 0
		}
	}

	for i := range len(s) {
		select {
		case f.bytes <- s[i]:
		case <-done:
			return i
		}
	}

	return len(s)
}

// offer sends as much of s as the channel takes without waiting, a chunk whole or not at all, and says how much.
func (f outflow) offer(s string) (sent int) {
	if f.chunks != nil {
		select {
		case f.chunks <- []byte(s):
			return len(s)
		default:
			return 0
		}
	}

	for i := range len(s) {
		select {
		case f.bytes <- s[i]:
		default:
			return i
		}
	}

	return len(s)
}

// end closes the channel.
func (f outflow) end() {
	if f.chunks != nil {
		close(f.chunks)
	} else {
		close(f.bytes)
	}
}

// ---------------------------------------------------------------------------------------------------------------
// Waiting

// plexGoroutines counts the goroutines that are in a function of plex.
func plexGoroutines() (n int) {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]

	for g := range bytes.SplitSeq(stacks, []byte("\n\n")) {
		if bytes.Contains(g, []byte("go.atomizer.io/plex.")) {
			n++
		}
	}

	return n
}

// requireReaderIdle checks that a Reader can be had at once, and puts it back.
func requireReaderIdle(t testing.TB, m *plex.Multiplexer) {
	t.Helper()
	requireClosed(t, readerOf(t, m))
}

// requireWriterIdle checks that a Writer can be had at once, and puts it back.
func requireWriterIdle(t testing.TB, m *plex.Multiplexer) {
	t.Helper()
	requireClosed(t, writerOf(t, m))
}

// requireNoReader checks that no Reader can be had at once.
func requireNoReader(t testing.TB, m *plex.Multiplexer) {
	t.Helper()

	r, err := m.Reader(context.Background(), -1)
	if err == nil {
		_ = r.Close()
	}

	require.Error(t, err, "a Reader could be had")
}

// requireNoWriter checks that no Writer can be had at once.
func requireNoWriter(t testing.TB, m *plex.Multiplexer) {
	t.Helper()

	w, err := m.Writer(context.Background(), -1)
	if err == nil {
		_ = w.Close()
	}

	require.Error(t, err, "a Writer could be had")
}

// requireKept checks that m has lost nothing and has its n connections open and idle.
func requireKept(t testing.TB, m *plex.Multiplexer, n int) {
	t.Helper()

	s := m.Stats()
	require.Equal(t, [5]int{n, n, n, 0, 0}, [5]int{s.Open, s.IdleReaders, s.IdleWriters, s.LeasedReaders, s.LeasedWriters},
		"open, idle readers, idle writers, leased readers, leased writers")
	require.Zero(t, s.Lost, "lost")
}

// requireLost checks that m has lost n connections and has none open.
func requireLost(t testing.TB, m *plex.Multiplexer, n int) {
	t.Helper()

	require.EqualValues(t, n, m.Stats().Lost, "lost")
	eventually(t, func() bool { return m.Stats().Open == 0 }, "none is open") // a slot is free when the transport is closed
}

// ---------------------------------------------------------------------------------------------------------------
// Pools that are made with a connector.

// open makes a multiplexer that opens n connections with connect. It is closed at the test's end.
func (l *ledger) open(n int, connect plex.Connect, opts ...plex.Option) (*plex.Multiplexer, error) {
	l.Helper()
	opts = append([]plex.Option{plex.WithMaxCapacity(n), plex.WithMinConnections(n), plex.WithConnector(connect)}, opts...)
	m, err := plex.New(context.Background(), opts...)
	if err == nil {
		l.closeAtEnd(m)
	}
	return m, err
}

// mustOpen is open that must succeed.
func (l *ledger) mustOpen(n int, connect plex.Connect, opts ...plex.Option) *plex.Multiplexer {
	l.Helper()
	m, err := l.open(n, connect, opts...)
	require.NoError(l, err)
	return m
}

// refused demands that New fails with connect, beside a healthy connection that was given, and that neither that
// connection nor a pool that is made of it afterwards has taken harm. It returns New's error.
func refused(t *testing.T, l *ledger, connect plex.Connect, opts ...plex.Option) error {
	t.Helper()
	given, peer := l.Pair()
	_, err := l.open(2, connect, append(opts, plex.WithConnections(given))...)
	require.Error(t, err)
	require.Zero(t, given.Closes(), "what the caller gave stays open and the caller's")
	read, write := given.DeadlinesLeft()
	assert.True(t, read.IsZero() && write.IsZero(), "without a deadline")
	requireExchange(t, l.mux(plex.WithConnections(given)), peer)
	return err
}

// attaching is a Connect that attaches conn and goes on with then.
func attaching(conn net.Conn, then func(ctx context.Context, handle net.Conn) error) plex.Connect {
	return func(ctx context.Context, handle net.Conn) error {
		if err := plex.Attach(handle, conn); err != nil {
			return err
		}
		if then == nil {
			return nil
		}
		return then(ctx, handle)
	}
}

// requireExchange passes a few bytes both ways over the only connection of m.
func requireExchange(t testing.TB, m *plex.Multiplexer, peer *fakenet.Peer) {
	t.Helper()
	r, w := readerOf(t, m), writerOf(t, m)
	peer.Send("down")
	require.Equal(t, "down", readN(t, r, 4))
	_, err := w.Write([]byte("up"))
	require.NoError(t, err)
	require.Equal(t, "up", peer.ReadN(2))
	requireClosed(t, r)
	requireClosed(t, w)
}

// ---------------------------------------------------------------------------------------------------------------
// A service that a test takes down
// and up, waiters, and a log that is kept.

var errRefused = errors.New("the service refuses connections")

// service is a connector that answers by itself. It is up or down, takes its time, and remembers when it was dialled.
// Set refusal, latency and greet with set.
type service struct {
	*connector

	mu          sync.Mutex
	refusal     error               // what dials are refused with; nil while the service is up
	latency     time.Duration       // how long a dial takes
	greet       func(*fakenet.Peer) // is given the peer of each connection before it is attached
	dials       []time.Time         // when each began
	peers       []*fakenet.Peer     // of the dials that succeeded, in order
	dialing     int                 // dials in progress
	peakDialing int                 // the most that were, since the last call of set
}

func newService(l *ledger) *service {
	s := &service{connector: newConnector(l)}
	s.Auto = func(int) (*fakenet.Conn, error) { return s.dial() }

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

func (s *service) dial() (*fakenet.Conn, error) {
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

	conn, peer := s.l.Pair()
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
func (s *service) connected(from int) []*fakenet.Peer {
	s.mu.Lock()
	defer s.mu.Unlock()

	return s.peers[from:]
}

// unanswered settles the bubble, takes the calls that wait for their answer, and requires that there are n.
func (c *connector) unanswered(n int) []*fakenet.Dial {
	c.l.Helper()
	synctest.Wait()

	calls := c.TakePending()
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
func requireWorks(t testing.TB, r plex.Reader, w plex.Writer, p *fakenet.Peer) {
	t.Helper()
	p.Send("down")
	require.Equal(t, "down", readN(t, r, 4))

	_, err := w.Write([]byte("up"))
	require.NoError(t, err)
	require.Equal(t, "up", p.ReadN(2))
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
func use(t testing.TB, m *plex.Multiplexer, peers ...*fakenet.Peer) {
	t.Helper()

	for _, p := range peers {
		p.Send("x")
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

func (b *logbook) logger() *slog.Logger { return slog.New(b) }

// option has a multiplexer write into the book.
func (b *logbook) option() plex.Option { return plex.WithLogger(b.logger()) }

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

// named waits for the first n records with this message, and returns them.
func (b *logbook) named(t testing.TB, msg string, n int) (found []record) {
	t.Helper()
	eventually(t, func() bool { found = b.with(msg); return len(found) >= n }, "%d records %q", n, msg)

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
