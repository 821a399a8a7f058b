package plex_test

// Helpers of the lease tests (reader, writer, recv, send): connections that watch how plex uses them, a scripted
// datagram connection, and one face for the two kinds of stream in each direction.

import (
	"bytes"
	"context"
	"net"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
)

// past is a deadline that has passed in any bubble and outside of one.
var past = time.Unix(1, 0)

// bubble runs f in a synctest bubble with its own ledger.
func bubble(t *testing.T, f func(t *testing.T, l *ledger)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newLedger(t)) })
}

// single makes a multiplexer of one connection.
func (l *ledger) single() (*plex.Multiplexer, *fakeConn, *fakePeer) {
	l.Helper()

	c, p := l.pair()

	return l.mux(plex.WithConnections(c)), c, p
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
// Connections that watch

// spy counts the calls that reach a connection.
type spy struct{ reads, writes, readDeadlines, writeDeadlines, closes atomic.Int64 }

// spyOn watches c from now on. It takes the place of c's hooks.
func spyOn(c *fakeConn) *spy {
	s := &spy{}
	c.hooks = hooks{
		read:             func([]byte) { s.reads.Add(1) },
		write:            func([]byte) { s.writes.Add(1) },
		close:            func() { s.closes.Add(1) },
		setReadDeadline:  func(time.Time) { s.readDeadlines.Add(1) },
		setWriteDeadline: func(time.Time) { s.writeDeadlines.Add(1) },
	}

	return s
}

// calls is all the calls so far.
func (s *spy) calls() int64 {
	return s.reads.Load() + s.writes.Load() + s.readDeadlines.Load() + s.writeDeadlines.Load() + s.closes.Load()
}

// lingering is a fakeConn whose Read and Write stay for as long as after blocks them, even when they were interrupted.
type lingering struct {
	*fakeConn
	after func(op string, n int, err error)
}

func (c *lingering) Read(p []byte) (int, error) {
	n, err := c.fakeConn.Read(p)
	c.after("read", n, err)

	return n, err
}

func (c *lingering) Write(p []byte) (int, error) {
	n, err := c.fakeConn.Write(p)
	c.after("write", n, err)

	return n, err
}

// crowd is a fakeConn that knows how many Reads and Writes were in it at once.
type crowd struct {
	*fakeConn
	reads, writes         atomic.Int64
	peakReads, peakWrites atomic.Int64
}

func enter(in, peak *atomic.Int64) {
	n := in.Add(1)
	for old := peak.Load(); n > old && !peak.CompareAndSwap(old, n); old = peak.Load() {
	}
}

func (c *crowd) Read(p []byte) (int, error) {
	enter(&c.reads, &c.peakReads)
	defer c.reads.Add(-1)

	return c.fakeConn.Read(p)
}

func (c *crowd) Write(p []byte) (int, error) {
	enter(&c.writes, &c.peakWrites)
	defer c.writes.Add(-1)

	return c.fakeConn.Write(p)
}

// account is a fakeConn that books what it wrote.
type account struct {
	*fakeConn
	written atomic.Int64 // bytes
	largest atomic.Int64 // the largest Write
	torn    atomic.Bool  // the last Write that wrote anything was short
}

// account makes a connection in the books.
func (l *ledger) account() (*account, *fakePeer) {
	c, p := l.pair()

	return &account{fakeConn: c}, p
}

func (c *account) Write(p []byte) (int, error) {
	n, err := c.fakeConn.Write(p)
	c.written.Add(int64(n))
	c.largest.Store(max(c.largest.Load(), int64(len(p)))) // Writes take turns

	if n > 0 {
		c.torn.Store(n < len(p))
	}

	return n, err
}

// gate holds up one call that comes by, the first after arm.
type gate struct {
	armed          atomic.Bool
	entered, leave chan struct{}
}

func newGate() *gate { return &gate{entered: make(chan struct{}), leave: make(chan struct{})} }

func (g *gate) arm() { g.armed.Store(true) }

// pass is a hook for deadlines.
func (g *gate) pass(time.Time) {
	if g.armed.CompareAndSwap(true, false) {
		close(g.entered)
		<-g.leave
	}
}

// datagrams is a scripted connected datagram socket: a Read takes one packet and drops what does not fit, a Write
// sends one. Deadlines, Close and the counts are those of the fakeConn; wire.mu protects the packets too.
type datagrams struct {
	*fakeConn
	arrived [][]byte
	sent    [][]byte
	errs    []error // the next Reads return these first, one each
}

// newDatagrams makes a datagram connection in the books.
func (l *ledger) datagrams() *datagrams {
	c, _ := l.pair()

	return &datagrams{fakeConn: c}
}

func (c *datagrams) LocalAddr() net.Addr {
	return &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(c.number)}
}

func (c *datagrams) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()

	for {
		switch {
		case c.closed:
			return 0, c.opError("read", net.ErrClosed)
		case c.rd.passed:
			return 0, c.opError("read", os.ErrDeadlineExceeded)
		case len(c.errs) > 0:
			err := c.errs[0]
			c.errs = c.errs[1:]

			return 0, c.opError("read", err)
		case len(c.arrived) > 0:
			n := copy(p, c.arrived[0])
			c.arrived = c.arrived[1:]

			return n, nil
		}

		c.cond.Wait()
	}
}

func (c *datagrams) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()

	for {
		switch {
		case c.closed:
			return 0, c.opError("write", net.ErrClosed)
		case c.wd.passed:
			return 0, c.opError("write", os.ErrDeadlineExceeded)
		case c.credit != 0:
			c.sent = append(c.sent, slices.Clone(p))

			return len(p), nil
		}

		c.cond.Wait()
	}
}

// deliver has packets arrive.
func (c *datagrams) deliver(packets ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()

	for _, p := range packets {
		c.arrived = append(c.arrived, []byte(p))
	}

	c.cond.Broadcast()
}

// fail has the next Read return err, once.
func (c *datagrams) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()

	c.errs = append(c.errs, err)
	c.cond.Broadcast()
}

// packets returns what was sent.
func (c *datagrams) packets() []string {
	c.mu.Lock()
	defer c.mu.Unlock()

	all := []string{}
	for _, p := range c.sent {
		all = append(all, string(p))
	}

	return all
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
func (f inflow) rest() string { return f.take(1 << 40) }

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
