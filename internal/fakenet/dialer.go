package fakenet

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
)

// CloseCounter is a connection that counts the calls of its Close.
type CloseCounter interface {
	net.Conn

	Closes() int
}

// Books say which connections were closed exactly once, and which were not.
type Books struct {
	mu    sync.Mutex
	conns []CloseCounter
	back  map[CloseCounter]bool
}

// Watch puts connections in the books.
func (b *Books) Watch(conns ...CloseCounter) {
	b.mu.Lock()
	defer b.mu.Unlock()

	b.conns = append(b.conns, conns...)
}

// HandedBack says that these must never be closed, because they still belong to the test.
func (b *Books) HandedBack(conns ...CloseCounter) {
	b.mu.Lock()
	defer b.mu.Unlock()

	if b.back == nil {
		b.back = map[CloseCounter]bool{}
	}

	for _, c := range conns {
		b.back[c] = true
	}
}

// Open returns how many connections have not been closed.
func (b *Books) Open() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()

	for _, c := range b.conns {
		if c.Closes() == 0 {
			n++
		}
	}

	return n
}

// Unbalanced returns what is wrong, one line for each connection that was not closed exactly once,
// or "".
func (b *Books) Unbalanced() (wrong string) {
	b.mu.Lock()
	defer b.mu.Unlock()

	for _, c := range b.conns {
		want := 1
		if b.back[c] {
			want = 0
		}

		if n := c.Closes(); n != want {
			wrong += fmt.Sprintf("\n\t%v was closed %d times, not %d", c.RemoteAddr(), n, want)
		}
	}

	return wrong
}

// Dialer dials under the test's control. Each Dial blocks until the test answers it, or is answered
// by Auto at once. It counts the dials, and what they and their connections take of a capacity.
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
	N   int // counting from 1
	Ctx context.Context

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
	call := &Dial{Ctx: ctx, answer: make(chan func() (*Conn, error), 1)}

	d.count(func(c *DialCounts) {
		c.Total++
		c.Dialing++
		call.N = c.Total
	})

	var conn *Conn
	defer func() { // also when an answer panics
		if conn == nil || !conn.AfterClose(func() { d.count(func(c *DialCounts) { c.Open-- }) }) {
			d.count(func(c *DialCounts) { c.Dialing-- })
		} else {
			d.count(func(c *DialCounts) { c.Dialing, c.Open = c.Dialing-1, c.Open+1 })
		}
	}()

	var err error
	if conn, err = d.wait(call); conn == nil {
		return nil, err
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

// Next waits for the next dial and returns it, unanswered.
func (d *Dialer) Next() *Dial { return <-d.calls }

// Pending returns how many dials have not been taken by Next.
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
