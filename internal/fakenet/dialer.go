package fakenet

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"
)

// Dialer dials under the test's control: as a function that returns a connection, or as one that
// attaches it to a handle. Each call blocks until the test answers it, or is answered by Auto at
// once. The Dialer counts the calls, and what they and their connections take of a capacity.
type Dialer struct {
	// Set before use.
	Auto      func(n int) (*Conn, error)       // answers the nth dial, counting from 1
	IgnoreCtx bool                             // dials return when answered and not before, whatever their ctx says
	Ended     func(ctx context.Context, n int) // called as the nth dial's ctx has ended, before the dial returns

	calls chan *Dial
	done  chan struct{}

	mu     sync.Mutex
	counts DialCounts
}

// DialCounts is what a Dialer counts.
type DialCounts struct {
	Total       int // dials
	Dialing     int // dials in progress
	Open        int // connections made and not closed
	PeakDialing int // the most dials in progress at once
	PeakInUse   int // the most of both together at once
}

// Dial is a dial in progress, which waits for its answer.
type Dial struct {
	N      int // counting from 1
	Ctx    context.Context
	Handle net.Conn // of Connect

	answer chan func() (*Conn, error)
}

// NewDialer makes a dialer. Dials that nobody has answered fail when the test ends.
func NewDialer(t testing.TB) *Dialer {
	d := &Dialer{calls: make(chan *Dial, 10_000), done: make(chan struct{})}
	t.Cleanup(func() { close(d.done) })

	return d
}

// Dial has the signature that dial functions have.
func (d *Dialer) Dial(ctx context.Context) (net.Conn, error) {
	conn, err := d.do(&Dial{Ctx: ctx}, func(*Conn) error { return nil })
	if conn == nil {
		return nil, err
	}

	return conn, err
}

// Connect is a dial for functions that get a handle. It calls attach with the handle and the
// connection that the test has answered with, and returns what attach returns. A dial that is
// answered with neither a connection nor an error attaches nothing.
func (d *Dialer) Connect(ctx context.Context, handle net.Conn, attach func(handle, conn net.Conn) error) error {
	_, err := d.do(&Dial{Ctx: ctx, Handle: handle}, func(conn *Conn) error { return attach(handle, conn) })

	return err
}

// do has the call answered. It is in progress until then has returned.
func (d *Dialer) do(call *Dial, then func(*Conn) error) (conn *Conn, err error) {
	call.answer = make(chan func() (*Conn, error), 1)

	d.count(func(c *DialCounts) {
		c.Total++
		c.Dialing++
		call.N = c.Total
	})

	defer func() { // also when an answer panics
		if conn == nil || !conn.AfterClose(func() { d.count(func(c *DialCounts) { c.Open-- }) }) {
			d.count(func(c *DialCounts) { c.Dialing-- })
		} else {
			d.count(func(c *DialCounts) { c.Dialing, c.Open = c.Dialing-1, c.Open+1 })
		}
	}()

	if conn, err = d.wait(call); err == nil && conn != nil {
		err = then(conn)
	}

	return conn, err
}

func (d *Dialer) wait(call *Dial) (*Conn, error) {
	if d.Auto != nil {
		return d.Auto(call.N)
	}

	d.calls <- call

	ended := call.Ctx.Done()
	if d.IgnoreCtx {
		ended = nil
	}

	select {
	case f := <-call.answer:
		return f()
	case <-ended:
		if d.Ended != nil {
			d.Ended(call.Ctx, call.N)
		}

		return nil, context.Cause(call.Ctx)
	case <-d.done:
		return nil, fmt.Errorf("dial %d was never answered", call.N)
	}
}

func (d *Dialer) count(f func(*DialCounts)) {
	d.mu.Lock()
	defer d.mu.Unlock()

	f(&d.counts)
	d.counts.PeakDialing = max(d.counts.PeakDialing, d.counts.Dialing)
	d.counts.PeakInUse = max(d.counts.PeakInUse, d.counts.Dialing+d.counts.Open)
}

// Counts returns the counts.
func (d *Dialer) Counts() DialCounts {
	d.mu.Lock()
	defer d.mu.Unlock()

	return d.counts
}

// Total returns how many dials there have been.
func (d *Dialer) Total() int { return d.Counts().Total }

// Next waits for the next dial and returns it, unanswered.
func (d *Dialer) Next() *Dial { return <-d.calls }

// NextWithin is Next that waits for t at most, and returns nil then.
func (d *Dialer) NextWithin(t time.Duration) *Dial {
	select {
	case call := <-d.calls:
		return call
	case <-time.After(t):
		return nil
	}
}

// TakePending returns the dials that wait, unanswered.
func (d *Dialer) TakePending() (calls []*Dial) {
	for len(d.calls) > 0 {
		calls = append(calls, <-d.calls)
	}

	return calls
}

// Pending returns how many dials nobody has taken.
func (d *Dialer) Pending() int { return len(d.calls) }

// Do answers by what f returns, panics with, or does otherwise; it runs in the dial's goroutine.
func (d *Dial) Do(f func() (*Conn, error)) { d.answer <- f }

// Succeed answers with a connection.
func (d *Dial) Succeed(conn *Conn) { d.Do(func() (*Conn, error) { return conn, nil }) }

// Fail answers with an error.
func (d *Dial) Fail(err error) { d.Do(func() (*Conn, error) { return nil, err }) }

// Panic answers with a panic.
func (d *Dial) Panic(v any) { d.Do(func() (*Conn, error) { panic(v) }) }

// Listener is a net.Listener in memory. Its Dial makes a connection, and Accept returns the peer.
type Listener struct {
	addr  Addr
	books Books
	queue chan *Peer
	done  chan struct{}
	once  sync.Once
}

// Listen makes a listener.
func Listen() *Listener {
	return &Listener{addr: NewAddr("listener"), queue: make(chan *Peer), done: make(chan struct{})}
}

// Dial makes a connection once somebody accepts it.
func (l *Listener) Dial(ctx context.Context) (net.Conn, error) {
	conn, peer := Pair()

	select {
	case l.queue <- peer:
		l.books.Watch(conn)

		return conn, nil
	case <-l.done:
		return nil, conn.opError("dial", net.ErrClosed)
	case <-ctx.Done():
		return nil, conn.opError("dial", context.Cause(ctx))
	}
}

// Accept returns the peer of the next connection: a *Peer.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case p := <-l.queue:
		return p, nil
	case <-l.done:
		return nil, &net.OpError{Op: "accept", Net: "fake", Addr: l.addr, Err: net.ErrClosed}
	}
}

// Close has dials and Accept fail. Connections go on.
func (l *Listener) Close() error {
	l.once.Do(func() { close(l.done) })

	return nil
}

// Addr is an Addr.
func (l *Listener) Addr() net.Addr { return l.addr }

// Books have all connections that were dialed.
func (l *Listener) Books() *Books { return &l.books }
