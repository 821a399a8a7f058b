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
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
)

// ---------------------------------------------------------------------------------------------------------------
// Connections

// fakeAddr is an address of a fakeConn; no two connections of a test run share one.
type fakeAddr string

func (fakeAddr) Network() string  { return "fake" }
func (a fakeAddr) String() string { return string(a) }

var fakeNumber atomic.Int64

// deadlineMode says what a fakeConn makes of deadlines.
type deadlineMode int

const (
	deadlinesKept    deadlineMode = iota // as a socket does
	deadlinesRefused                     // an error and no effect, as an SSH channel does
	deadlinesIgnored                     // no error and no effect
)

// hooks are called at the start of the fakeConn method that they are named after, with no lock held, so they may
// block. Set them before the connection is in use.
type hooks struct {
	read, write      func(p []byte)
	close            func()
	setReadDeadline  func(time.Time)
	setWriteDeadline func(time.Time)
}

// wire is what the two ends of a connection share. mu is held for moments only; cond is signalled on every change.
type wire struct {
	mu   sync.Mutex
	cond sync.Cond

	in      []byte // sent by the peer, not yet read by the client
	inEOF   bool   // the peer has sent its FIN
	out     []byte // written by the client, not yet read by the peer
	outEOF  bool   // the client has closed its write side, or all
	credit  int    // bytes that the client may still write before it blocks; below zero: no bound
	gone    bool   // the peer has closed both sides: the next write is accepted and answered with a reset
	err     error  // what the connection died of
	errSeen bool   // err has been told to its first asker; as on Linux, others get io.EOF and EPIPE
	writing bool   // a Write is under way, others wait for their turn

	mode        deadlineMode
	closed      bool
	done        chan struct{} // closed with the first Close
	closeErr    error         // what the first Close returns
	onClose     []func()      // called after the first Close
	closes      int
	closeWrites int
	rd, wd      deadline
}

// deadline is one side's deadline; wire.mu protects it.
type deadline struct {
	t      time.Time // as last set, whatever the mode
	passed bool
	timer  *time.Timer
}

// fakeConn is the end that plex gets.
type fakeConn struct {
	*wire
	hooks
	number int64
}

// fakePeer is the test's end. It is an io.Reader and io.Writer too, so that it can echo with io.Copy.
type fakePeer struct {
	*wire
	conn *fakeConn
}

// newPair makes a connection that no ledger watches; ledger.pair is the usual way.
func newPair() (*fakeConn, *fakePeer) {
	w := &wire{credit: -1, done: make(chan struct{})}
	w.cond.L = &w.mu
	c := &fakeConn{wire: w, number: fakeNumber.Add(1)}

	return c, &fakePeer{wire: w, conn: c}
}

func (c *fakeConn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "fake", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// Read returns, in this order of precedence: closed, deadline, data, the error, EOF.
func (c *fakeConn) Read(p []byte) (int, error) {
	if c.hooks.read != nil {
		c.hooks.read(p)
	}

	c.mu.Lock()
	defer c.mu.Unlock()

	for {
		switch {
		case c.closed:
			return 0, c.opError("read", net.ErrClosed)
		case c.rd.passed:
			return 0, c.opError("read", os.ErrDeadlineExceeded)
		case len(p) == 0:
			return 0, nil
		case len(c.in) > 0:
			n := copy(p, c.in)
			c.in = c.in[n:]
			c.cond.Broadcast()

			return n, nil
		case c.err != nil && !c.errSeen:
			c.errSeen = true

			return 0, c.opError("read", c.err)
		case c.err != nil, c.inEOF:
			return 0, io.EOF
		}

		c.cond.Wait()
	}
}

// Write blocks while the peer gives no credit; a deadline, a reset or a Close meanwhile makes it short.
func (c *fakeConn) Write(p []byte) (n int, err error) {
	if c.hooks.write != nil {
		c.hooks.write(p)
	}

	c.mu.Lock()
	defer c.mu.Unlock()

	for c.writing {
		c.cond.Wait()
	}

	c.writing = true
	defer func() { c.writing = false; c.cond.Broadcast() }()

	for {
		switch {
		case c.closed:
			return n, c.opError("write", net.ErrClosed)
		case c.wd.passed:
			return n, c.opError("write", os.ErrDeadlineExceeded)
		case c.err != nil && !c.errSeen:
			c.errSeen = true

			return n, c.opError("write", c.err)
		case c.err != nil, c.outEOF:
			return n, c.opError("write", syscall.EPIPE)
		case c.gone:
			c.err = syscall.ECONNRESET // learnt by whoever asks next

			return len(p), nil
		}

		k := len(p) - n
		if c.credit >= 0 {
			k = min(k, c.credit)
			c.credit -= k
		}

		c.out = append(c.out, p[n:n+k]...)
		n += k
		c.cond.Broadcast()

		if n == len(p) {
			return n, nil
		}

		c.cond.Wait()
	}
}

func (c *fakeConn) Close() error {
	if c.hooks.close != nil {
		c.hooks.close()
	}

	c.mu.Lock()

	c.closes++
	if c.closed {
		c.mu.Unlock()

		return c.opError("close", net.ErrClosed)
	}

	c.closed, c.outEOF = true, true
	for _, d := range []*deadline{&c.rd, &c.wd} {
		if d.timer != nil {
			d.timer.Stop()
		}
	}

	close(c.done)
	c.cond.Broadcast()
	err, then := c.closeErr, c.onClose
	c.mu.Unlock()

	for _, f := range then {
		f()
	}

	return err
}

// CloseWrite sends a FIN, as (*net.TCPConn).CloseWrite does.
func (c *fakeConn) CloseWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()

	c.closeWrites++
	if c.closed {
		return c.opError("close", net.ErrClosed)
	}

	c.outEOF = true
	c.cond.Broadcast()

	return nil
}

func (c *fakeConn) LocalAddr() net.Addr  { return fakeAddr(fmt.Sprintf("client-%d", c.number)) }
func (c *fakeConn) RemoteAddr() net.Addr { return fakeAddr(fmt.Sprintf("peer-%d", c.number)) }

func (c *fakeConn) SetReadDeadline(t time.Time) error {
	if c.hooks.setReadDeadline != nil {
		c.hooks.setReadDeadline(t)
	}

	return c.set(&c.rd, t)
}

func (c *fakeConn) SetWriteDeadline(t time.Time) error {
	if c.hooks.setWriteDeadline != nil {
		c.hooks.setWriteDeadline(t)
	}

	return c.set(&c.wd, t)
}

func (c *fakeConn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}

	return c.SetWriteDeadline(t)
}

func (c *fakeConn) set(d *deadline, t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()

	switch {
	case c.closed:
		return c.opError("set", net.ErrClosed)
	case c.mode == deadlinesRefused:
		return c.opError("set", os.ErrNoDeadline)
	}

	d.t = t
	if c.mode == deadlinesIgnored {
		return nil
	}

	if d.timer != nil {
		d.timer.Stop()
	}

	d.passed = !t.IsZero() && !time.Now().Before(t)
	if !t.IsZero() && !d.passed {
		var timer *time.Timer

		timer = time.AfterFunc(time.Until(t), func() {
			c.mu.Lock()
			defer c.mu.Unlock()

			if d.timer == timer { // else a later deadline has taken its place
				d.passed = true
				c.cond.Broadcast()
			}
		})
		d.timer = timer
	} else {
		d.timer = nil
	}

	c.cond.Broadcast()

	return nil
}

// closeCount says how many times Close was called.
func (c *fakeConn) closeCount() int {
	c.mu.Lock()
	defer c.mu.Unlock()

	return c.closes
}

// deadlinesLeft returns the deadlines as they were last set, whether or not they had an effect.
func (c *fakeConn) deadlinesLeft() (read, write time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()

	return c.rd.t, c.wd.t
}

// setMode says what the connection makes of deadlines from now on.
func (c *fakeConn) setMode(mode deadlineMode) {
	c.mu.Lock()
	defer c.mu.Unlock()

	c.mode = mode
}

// Write sends p to the client; it never blocks. Once the connection is dead or closed it returns an error.
func (p *fakePeer) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()

	if p.closed || p.err != nil || p.inEOF {
		return 0, syscall.EPIPE
	}

	p.in = append(p.in, b...)
	p.cond.Broadcast()

	return len(b), nil
}

// send sends s to the client.
func (p *fakePeer) send(s string) { _, _ = p.Write([]byte(s)) }

// Read reads what the client wrote; io.EOF once the client has closed or the connection is dead.
func (p *fakePeer) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()

	for len(p.out) == 0 && len(b) > 0 {
		if p.outEOF || p.err != nil || p.gone {
			return 0, io.EOF
		}

		p.cond.Wait()
	}

	n := copy(b, p.out)
	p.out = p.out[n:]

	return n, nil
}

// read reads exactly n bytes, fewer only when the client has closed.
func (p *fakePeer) read(n int) string {
	b := make([]byte, n)
	k, _ := io.ReadFull(p, b)

	return string(b[:k])
}

// readAll reads until the client has closed its write side.
func (p *fakePeer) readAll() string {
	b, _ := io.ReadAll(p)

	return string(b)
}

// unread returns what the client wrote and the peer has not read, without waiting and without taking it.
func (p *fakePeer) unread() string {
	p.mu.Lock()
	defer p.mu.Unlock()

	return string(bytes.Clone(p.out))
}

// allow lets the client write n bytes more, and then stalls it; below zero lifts the bound. allow(0) is a zero window.
func (p *fakePeer) allow(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()

	p.credit = n
	p.cond.Broadcast()
}

// closeWrite is a half close: the client reads what was sent, then io.EOF; its writes still arrive.
func (p *fakePeer) closeWrite() {
	p.mu.Lock()
	defer p.mu.Unlock()

	p.inEOF = true
	p.cond.Broadcast()
}

// Close closes both sides: as closeWrite, and the client's next write is accepted, and answered with a reset.
func (p *fakePeer) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()

	p.inEOF, p.gone = true, true
	p.cond.Broadcast()

	return nil
}

// reset kills the connection. What was sent and not yet read is still delivered if keep is true and dropped
// otherwise; then the first to ask, reader or writer, is told err, and any other gets io.EOF or EPIPE.
func (p *fakePeer) reset(err error, keep bool) {
	p.mu.Lock()
	defer p.mu.Unlock()

	if !keep {
		p.in = nil
	}

	p.err, p.errSeen = err, false
	p.cond.Broadcast()
}

// clientClosed is closed once the client's end has been closed.
func (p *fakePeer) clientClosed() <-chan struct{} { return p.done }

// ---------------------------------------------------------------------------------------------------------------
// The balance

// ledger keeps the books of one test. Every connection made through it must have been closed exactly once when the
// test ends, or never if it was handed back. Multiplexers made through it are closed at the end if the test did not,
// and must have no live lease by then. Outside a synctest bubble (which sees to its own goroutines) the process must
// also be back to the goroutines and descriptors that it had, so such tests must not run in parallel with others.
type ledger struct {
	testing.TB

	mu    sync.Mutex
	conns []closeCounter
	back  map[closeCounter]bool
}

// closeCounter is a connection that counts the calls of its Close.
type closeCounter interface {
	net.Conn
	closeCount() int
}

// newLedger opens the books. Call it first in the test, inside the bubble if there is one.
func newLedger(t testing.TB) *ledger {
	t.Helper()

	l := &ledger{TB: t, back: map[closeCounter]bool{}}

	if !inBubble() {
		balanceProcess(t)
	}

	t.Cleanup(l.check)

	return l
}

// inBubble says whether the caller runs in a synctest bubble: its clock starts at the beginning of the year 2000.
func inBubble() bool { return time.Now().Year() < 2020 }

// watch has the ledger watch connections that it did not make.
func (l *ledger) watch(conns ...closeCounter) {
	l.mu.Lock()
	defer l.mu.Unlock()

	l.conns = append(l.conns, conns...)
}

// pair makes a connection in the books.
func (l *ledger) pair() (*fakeConn, *fakePeer) {
	c, p := newPair()
	l.watch(c)

	return c, p
}

// pairs makes n connections in the books.
func (l *ledger) pairs(n int) ([]net.Conn, []*fakePeer) {
	conns, peers := make([]net.Conn, n), make([]*fakePeer, n)
	for i := range n {
		conns[i], peers[i] = l.pair()
	}

	return conns, peers
}

// handedBack says that plex must not have closed these, because it never took them or gave them back.
func (l *ledger) handedBack(conns ...net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()

	for _, c := range conns {
		l.back[c.(closeCounter)] = true
	}
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

// unbalanced returns what is wrong with the books, or "".
func (l *ledger) unbalanced() (wrong string) {
	l.mu.Lock()
	defer l.mu.Unlock()

	for _, c := range l.conns {
		want := 1
		if l.back[c] {
			want = 0
		}

		if n := c.closeCount(); n != want {
			wrong += fmt.Sprintf("\n\t%v was closed %d times, not %d", c.RemoteAddr(), n, want)
		}
	}

	return wrong
}

// check is the balance. Connections may be closed by goroutines, so it gives them a moment.
func (l *ledger) check() {
	if !within(5*time.Second, func() bool { return l.unbalanced() == "" }) {
		l.Errorf("balance: %s", l.unbalanced())
	}
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

// eventually fails the test unless ok holds within 10 s.
func eventually(t testing.TB, ok func() bool, what string, args ...any) {
	t.Helper()
	require.True(t, within(10*time.Second, ok), append([]any{"did not happen within 10 s: " + what}, args...)...)
}

var wakeNetpoll sync.Once

// balanceProcess has the test fail unless the process has at its end the goroutines and file descriptors that it has
// now. newLedger calls it outside of bubbles.
func balanceProcess(t testing.TB) {
	wakeNetpoll.Do(func() { // the runtime's own descriptors come with the first socket
		if ln, err := net.Listen("tcp", "127.0.0.1:0"); err == nil {
			_ = ln.Close()
		}
	})

	goroutines, fds := runtime.NumGoroutine(), descriptors()

	t.Cleanup(func() {
		if !within(5*time.Second, func() bool { return runtime.NumGoroutine() <= goroutines && descriptors() <= fds }) {
			stacks := make([]byte, 1<<20)
			stacks = stacks[:runtime.Stack(stacks, true)]
			t.Errorf("balance: %d goroutines and %d descriptors, there were %d and %d\n%s",
				runtime.NumGoroutine(), descriptors(), goroutines, fds, stacks)
		}
	})
}

// descriptors counts the process's file descriptors; 0 where that is not to be had.
func descriptors() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}

	return len(entries)
}

// ---------------------------------------------------------------------------------------------------------------
// The connector

// connector is a plex.Connect under the test's control: each call blocks until the test answers it, or, with auto,
// is answered at once. It counts the calls, and what they and their connections take of the capacity.
type connector struct {
	l     *ledger
	calls chan *connectCall
	done  chan struct{} // closed at the test's end: unanswered calls fail

	// Set before use.
	ignoreCtx bool                             // calls return when answered and not before, whatever their ctx says
	auto      func(n int) (*fakeConn, error)   // answers the nth call, counting from 1
	handshake func(net.Conn) error             // runs on the handle after it was attached
	ended     func(ctx context.Context, n int) // called as the nth call's ctx has ended, before it returns

	mu             sync.Mutex
	total          int // calls
	connecting     int // calls in progress
	inUse          int // calls in progress, and connections attached and not closed
	peakConnecting int
	peak           int // of inUse
}

// connectCall is one call of the connector.
type connectCall struct {
	n        int // counting from 1
	ctx      context.Context
	handle   net.Conn
	answer   chan func() error
	attached *fakeConn
	c        *connector
}

func newConnector(l *ledger) *connector {
	c := &connector{l: l, calls: make(chan *connectCall, 10_000), done: make(chan struct{})}
	l.Cleanup(func() { close(c.done) })

	return c
}

// connect is the plex.Connect.
func (c *connector) connect(ctx context.Context, handle net.Conn) error {
	call := &connectCall{ctx: ctx, handle: handle, answer: make(chan func() error, 1), c: c}

	c.mu.Lock()
	c.total++
	c.connecting++
	c.inUse++
	c.peakConnecting = max(c.peakConnecting, c.connecting)
	c.peak = max(c.peak, c.inUse)
	call.n = c.total
	c.mu.Unlock()

	defer call.end()

	if c.auto != nil {
		conn, err := c.auto(call.n)
		if err != nil {
			return err
		}

		return call.attach(conn)
	}

	c.calls <- call

	ended := ctx.Done()
	if c.ignoreCtx {
		ended = nil
	}

	select {
	case f := <-call.answer:
		return f()
	case <-ended:
		if c.ended != nil {
			c.ended(ctx, call.n)
		}

		return context.Cause(ctx)
	case <-c.done:
		return fmt.Errorf("connect call %d was never answered", call.n)
	}
}

// end books the call out, and what it attached once that is closed.
func (k *connectCall) end() {
	k.c.mu.Lock()
	k.c.connecting--
	k.c.mu.Unlock()

	free := func() {
		k.c.mu.Lock()
		k.c.inUse--
		k.c.mu.Unlock()
	}

	if k.attached == nil || !k.attached.afterClose(free) {
		free()
	}
}

// afterClose has f called once c is closed; false if it is closed already.
func (c *fakeConn) afterClose(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()

	if !c.closed {
		c.onClose = append(c.onClose, f)
	}

	return !c.closed
}

// attach is what a successful call does.
func (k *connectCall) attach(conn *fakeConn) error {
	k.attached = conn
	if err := plex.Attach(k.handle, conn); err != nil {
		return err
	}

	if k.c.handshake != nil {
		return k.c.handshake(k.handle)
	}

	return nil
}

// next waits for the next call and returns it, unanswered.
func (c *connector) next() *connectCall {
	c.l.Helper()

	select {
	case call := <-c.calls:
		return call
	case <-time.After(10 * time.Minute): // longer than any backoff; real tests have their own, shorter bounds
		require.FailNow(c.l, "nobody called Connect")

		return nil
	}
}

// none says whether no call is waiting for its answer.
func (c *connector) none() bool { return len(c.calls) == 0 }

// counts returns the calls so far, those in progress, and the peak of connecting and open ones together.
func (c *connector) counts() (total, connecting, peak int) {
	c.mu.Lock()
	defer c.mu.Unlock()

	return c.total, c.connecting, c.peak
}

// do answers the call with whatever f does and returns.
func (k *connectCall) do(f func() error) { k.answer <- f }

// succeed attaches conn.
func (k *connectCall) succeed(conn *fakeConn) { k.do(func() error { return k.attach(conn) }) }

// fail returns err.
func (k *connectCall) fail(err error) { k.do(func() error { return err }) }

// panic panics.
func (k *connectCall) panic(v any) { k.do(func() error { panic(v) }) }

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

// requireClosed is for leases that the test is done with.
func requireClosed(t testing.TB, closers ...io.Closer) {
	t.Helper()

	for _, c := range closers {
		require.NoError(t, c.Close())
	}
}

// ---------------------------------------------------------------------------------------------------------------
// The fakes themselves

func TestFakeConnWriteIsShortWhenTheDeadlinePassesInAZeroWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := newLedger(t).pair()
		p.allow(3)

		require.NoError(t, c.SetWriteDeadline(time.Now().Add(time.Second)))
		n, err := c.Write([]byte("abcdef"))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, 3, n)
		require.Equal(t, "abc", p.read(3))

		p.allow(-1)

		_, err = c.Write([]byte("g"))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded, "the deadline stays until it is cleared")
		require.NoError(t, c.SetWriteDeadline(time.Time{}))
		_, err = c.Write([]byte("g"))
		require.NoError(t, err)
		require.NoError(t, c.Close())
		require.Equal(t, "g", p.readAll())
	})
}

func TestFakeConnDeadlineInterruptsABlockedReadAndALaterOneReplacesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := newLedger(t).pair()
		began := time.Now()

		require.NoError(t, c.SetReadDeadline(began.Add(time.Second)))
		require.NoError(t, c.SetReadDeadline(began.Add(3*time.Second)))
		_, err := c.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, 3*time.Second, time.Since(began))

		require.NoError(t, c.SetReadDeadline(time.Time{}))

		read := make(chan error)

		go func() {
			_, err := c.Read(make([]byte, 1))
			read <- err
		}()

		synctest.Wait()
		require.NoError(t, c.SetReadDeadline(time.Unix(1, 0)))
		require.ErrorIs(t, <-read, os.ErrDeadlineExceeded)

		require.NoError(t, c.SetReadDeadline(time.Time{}))
		c.setMode(deadlinesRefused)
		require.Error(t, c.SetReadDeadline(time.Unix(1, 0)))
		c.setMode(deadlinesIgnored)
		require.NoError(t, c.SetReadDeadline(time.Unix(1, 0)))
		p.send("x")

		n, err := c.Read(make([]byte, 1))
		require.NoError(t, err)
		require.Equal(t, 1, n)
		require.NoError(t, c.Close())
	})
}

func TestFakeConnTellsAResetToTheFirstAskerOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := newLedger(t).pair()

		p.send("rest")
		p.reset(syscall.ECONNRESET, true)

		n, err := c.Read(make([]byte, 9))
		require.NoError(t, err)
		require.Equal(t, 4, n)

		_, err = c.Write([]byte("x"))
		require.ErrorIs(t, err, syscall.ECONNRESET)
		_, err = c.Write([]byte("x"))
		require.ErrorIs(t, err, syscall.EPIPE)
		_, err = c.Read(make([]byte, 9))
		require.Equal(t, io.EOF, err)
		require.NoError(t, c.Close())
		require.ErrorIs(t, c.SetDeadline(time.Time{}), net.ErrClosed)
	})
}

func TestFakeConnAcceptsTheFirstWriteAfterThePeerHasClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := newLedger(t).pair()

		require.NoError(t, p.Close())

		_, err := c.Write([]byte("x"))
		require.NoError(t, err)
		_, err = c.Write([]byte("x"))
		require.ErrorIs(t, err, syscall.ECONNRESET)
		require.NoError(t, c.Close())
	})
}

func TestLedgerSeesAConnectionLeftOpenAndOneClosedTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &ledger{TB: t, back: map[closeCounter]bool{}} // unchecked at the end
		a, _ := l.pair()
		b, _ := l.pair()
		c, _ := l.pair()

		l.handedBack(c)
		require.Contains(t, l.unbalanced(), a.RemoteAddr().String()+" was closed 0 times")
		require.NotContains(t, l.unbalanced(), c.RemoteAddr().String())

		_ = a.Close()
		_ = b.Close()

		require.Empty(t, l.unbalanced())

		_ = b.Close()
		_ = c.Close()

		require.NotContains(t, l.unbalanced(), a.RemoteAddr().String())
		require.Contains(t, l.unbalanced(), b.RemoteAddr().String()+" was closed 2 times, not 1")
		require.Contains(t, l.unbalanced(), c.RemoteAddr().String()+" was closed 1 times, not 0")
	})
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
	given, peer := l.pair()
	_, err := l.open(2, connect, append(opts, plex.WithConnections(given))...)
	require.Error(t, err)
	require.Zero(t, given.closeCount(), "what the caller gave stays open and the caller's")
	read, write := given.deadlinesLeft()
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
func requireExchange(t testing.TB, m *plex.Multiplexer, peer *fakePeer) {
	t.Helper()
	r, w := readerOf(t, m), writerOf(t, m)
	peer.send("down")
	require.Equal(t, "down", readN(t, r, 4))
	_, err := w.Write([]byte("up"))
	require.NoError(t, err)
	require.Equal(t, "up", peer.read(2))
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
