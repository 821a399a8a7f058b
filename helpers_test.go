package plex_test

// The world that the tests run plex in: scripted in-memory connections, the ledger that checks the balance at a
// test's end, and a scripted connector. All of it works inside a testing/synctest bubble (every wait is on a
// sync.Cond or a channel, mutexes are held for moments only) and outside of one alike.

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

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
