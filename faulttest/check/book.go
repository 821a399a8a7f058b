package check

// The book of a pool's connections, kept outside of the pool: each connection is known by a number from its dial to
// its close, whoever leases its halves.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/faulttest/oracle"
	"go.atomizer.io/plex/faulttest/proxy"
)

// most is how many violations are kept.
const most = 20

// Book has all connections of one pool. Its connections tell by their local address who they are, so that a lease leads
// to its connection.
type Book struct {
	capacity int

	mu       sync.Mutex
	next     uint32
	open     map[*Conn]struct{}
	dialing  int
	peak     int
	wrong    []error
	numWrong int
	keep     bool
	ended    []*Conn
	gone     map[string]struct{} // local addresses of connections that have been closed and not entered again
}

// NewBook opens the book of a pool of the given capacity. With keep it remembers connections that have been closed, for
// End to check; else it forgets them, and End sees only those that are open.
func NewBook(capacity int, keep bool) *Book {
	return &Book{capacity: capacity, open: make(map[*Conn]struct{}), gone: make(map[string]struct{}), keep: keep}
}

// Conn is a connection in the book: a TCP connection, with its two streams.
type Conn struct {
	*net.TCPConn
	Number uint32
	// In checks what the read leases get, Out makes what the write leases send. Whoever has the lease may use them.
	In  *oracle.Checker
	Out *oracle.Source

	book    *Book
	addr    net.Addr
	reading atomic.Bool
	writing atomic.Bool
	sawEnd  atomic.Bool // a read lease was told io.EOF
	torn    atomic.Bool // the last write of a lease was short
	closes  atomic.Int32
}

// Addr is a local address that knows its connection.
type Addr struct {
	net.Addr
	Conn *Conn
}

// LocalAddr leads to the connection, see Of.
func (c *Conn) LocalAddr() net.Addr { return c.addr }

// Of is the connection that a lease is on.
func Of(lease interface{ LocalAddr() net.Addr }) *Conn {
	if a, ok := lease.LocalAddr().(*Addr); ok {
		return a.Conn
	}
	return nil
}

// Wrap enters a connection into the book. What it returns is to be given to the pool.
func (b *Book) Wrap(tcp *net.TCPConn) *Conn {
	return b.enter(tcp, 0)
}

// enter makes a connection of one that was being dialled, if dialed is 1, at one moment.
func (b *Book) enter(tcp *net.TCPConn, dialed int) *Conn {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dialing -= dialed
	b.next++
	c := &Conn{TCPConn: tcp, Number: b.next, book: b, In: oracle.NewAdopter(), Out: oracle.NewSource(oracle.ID(b.next, false))}
	c.addr = &Addr{tcp.LocalAddr(), c}
	b.open[c] = struct{}{}
	delete(b.gone, tcp.LocalAddr().String())
	return c
}

// Dial is a plex.Connect that dials address and enters the connection. It counts what is open and being connected.
func (b *Book) Dial(address string) plex.Connect {
	return b.Connect(func(ctx context.Context) (*net.TCPConn, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, err
		}
		return c.(*net.TCPConn), nil
	}, nil)
}

// Connect is a plex.Connect that calls dial and enters the connection; then, if it is not nil, it calls login.
func (b *Book) Connect(dial func(context.Context) (*net.TCPConn, error), login func(context.Context, net.Conn) error) plex.Connect {
	return func(ctx context.Context, conn net.Conn) error {
		b.beginDial()
		tcp, err := dial(ctx)
		if err != nil {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.dialing--
			return err
		}
		if err := plex.Attach(conn, b.enter(tcp, 1)); err != nil {
			return err
		}
		if login != nil {
			return login(ctx, conn)
		}
		return nil
	}
}

// beginDial counts, at the moment at which a connect begins, those under way and the connections that are established.
func (b *Book) beginDial() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dialing++
	n := b.dialing
	for c := range b.open {
		if proxy.Established(c.TCPConn) {
			n++
		}
	}
	b.peak = max(b.peak, n)
	if n > b.capacity {
		b.wrongLocked(fmt.Errorf("check: capacity %d: %d connections open and being connected", b.capacity, n))
	}
}

// Peak is the most connections that were open or being connected when a connect began.
func (b *Book) Peak() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.peak
}

// Counts reports whether the pool holds c for open, for proxy.Config: the kernel may go on delivering what was written
// for as long as a peer does not read, though the pool has closed the connection.
func (b *Book) Counts(c *proxy.Conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, gone := b.gone[c.RemoteAddr().String()]
	return !gone
}

// Open is how many connections have been entered and not been closed.
func (b *Book) Open() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.open)
}

// Entered is how many connections have been entered ever.
func (b *Book) Entered() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return int(b.next)
}

// Close is called by the pool.
func (c *Conn) Close() error {
	err := c.TCPConn.Close()
	b := c.book
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := c.closes.Add(1); n > 1 {
		b.wrongLocked(fmt.Errorf("check: connection %d was closed %d times", c.Number, n))
		return err
	}
	delete(b.open, c)
	b.gone[c.TCPConn.LocalAddr().String()] = struct{}{}
	if b.keep {
		b.ended = append(b.ended, c)
	}
	return err
}

// Wrong notes a violation.
func (b *Book) Wrong(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wrongLocked(err)
}

func (b *Book) wrongLocked(err error) {
	b.numWrong++
	if len(b.wrong) < most {
		b.wrong = append(b.wrong, err)
	}
}

// Err is all violations so far, nil if there are none.
func (b *Book) Err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.numWrong > len(b.wrong) {
		return errors.Join(append(slices.Clone(b.wrong), fmt.Errorf("check: and %d violations more", b.numWrong-len(b.wrong)))...)
	}
	return errors.Join(b.wrong...)
}

// End checks the book when the pool has been closed: every connection was closed once, no lease is left. If peer is not
// nil, it also checks each stream against what the peer has sent and got. The book must have been made with keep.
func (b *Book) End(peer *Peer) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.open {
		b.wrongLocked(fmt.Errorf("check: connection %d (%v) was not closed", c.Number, c.TCPConn.LocalAddr()))
	}
	for _, c := range b.ended {
		if c.reading.Load() || c.writing.Load() {
			b.wrongLocked(fmt.Errorf("check: connection %d is leased at the end", c.Number))
		}
		if err := c.In.End(); err != nil {
			b.wrongLocked(fmt.Errorf("check: connection %d, read: %w", c.Number, err))
		}
		if peer == nil {
			continue
		}
		if id, known := c.In.ID(); known && c.sawEnd.Load() {
			if s, ok := peer.Sent(id); ok {
				if err := c.In.Whole(s); err != nil {
					b.wrongLocked(fmt.Errorf("check: connection %d was told io.EOF: %w", c.Number, err))
				}
			}
		}
		if got, clean, ok := peer.Got(c.Out.ID()); ok {
			sent := c.Out.Sent()
			if got > sent || clean && got != sent {
				b.wrongLocked(fmt.Errorf("check: connection %d: %d bytes written, the peer has %d, and then a clean end: %v",
					c.Number, sent, got, clean))
			}
		}
	}
	return errors.Join(append(slices.Clone(b.wrong), peer.errIfAny())...)
}

// Reader is a read lease with its checks. It is for one goroutine at a time.
type Reader struct {
	plex.Reader
	Conn *Conn
}

// Reader begins to check a read lease on a connection in the book.
func (b *Book) Reader(r plex.Reader) *Reader {
	c := Of(r)
	if c == nil {
		b.Wrong(fmt.Errorf("check: a read lease on a connection that is not in the book: %v", r.LocalAddr()))
		c = &Conn{book: b, In: oracle.NewAdopter(), Out: oracle.NewSource(0)}
	}
	if !c.reading.CompareAndSwap(false, true) {
		b.Wrong(fmt.Errorf("check: connection %d has two read leases", c.Number))
	}
	return &Reader{r, c}
}

// Read reads and checks what came.
func (r *Reader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.Took(p[:n])
	if errors.Is(err, io.EOF) {
		r.Conn.sawEnd.Store(true)
	}
	return n, err
}

// Took checks bytes that came by a stream of the lease.
func (r *Reader) Took(p []byte) {
	before := r.Conn.In.Err()
	if err := r.Conn.In.Check(p); err != nil && before == nil {
		r.Conn.book.Wrong(fmt.Errorf("check: connection %d, read: %w", r.Conn.Number, err))
	}
}

// Close ends the lease.
func (r *Reader) Close() error {
	r.end()
	return r.Reader.Close()
}

// Kill ends the lease and the connection.
func (r *Reader) Kill() error {
	r.end()
	return r.Reader.Kill()
}

func (r *Reader) end() {
	if !r.Conn.reading.CompareAndSwap(true, false) {
		r.Conn.book.Wrong(fmt.Errorf("check: connection %d: a read lease ended that was none", r.Conn.Number))
	}
}

// Released says that a lease on a half, the write half if write is set, has been ended without the checks' Close: for a
// test that closes the lease and looks at its last bytes afterwards.
func (c *Conn) Released(write bool) {
	if write {
		c.writing.Store(false)
	} else {
		c.reading.Store(false)
	}
}

// Writer is a write lease with its checks. It is for one goroutine at a time.
type Writer struct {
	plex.Writer
	Conn  *Conn
	short bool
}

// Writer begins to check a write lease on a connection in the book.
func (b *Book) Writer(w plex.Writer) *Writer {
	c := Of(w)
	if c == nil {
		b.Wrong(fmt.Errorf("check: a write lease on a connection that is not in the book: %v", w.LocalAddr()))
		c = &Conn{book: b, In: oracle.NewAdopter(), Out: oracle.NewSource(0)}
	}
	if !c.writing.CompareAndSwap(false, true) {
		b.Wrong(fmt.Errorf("check: connection %d has two write leases", c.Number))
	}
	if c.torn.Load() {
		b.Wrong(fmt.Errorf("check: connection %d was leased again after a write that was cut short", c.Number))
	}
	return &Writer{Writer: w, Conn: c}
}

// WriteNext fills p with the next bytes of the connection's stream and writes it.
func (w *Writer) WriteNext(p []byte) (int, error) {
	w.Conn.Out.Fill(p)
	return w.WriteFilled(p)
}

// WriteFilled writes p, which has been filled with the next bytes of the connection's stream.
func (w *Writer) WriteFilled(p []byte) (int, error) {
	n, err := w.Write(p)
	w.Conn.Out.Wrote(n)
	w.short = n > 0 && n < len(p) || n == 0 && w.short
	return n, err
}

// Close ends the lease.
func (w *Writer) Close() error {
	w.end()
	return w.Writer.Close()
}

// Kill ends the lease and the connection.
func (w *Writer) Kill() error {
	w.end()
	return w.Writer.Kill()
}

func (w *Writer) end() {
	if w.short {
		w.Conn.torn.Store(true)
	}
	if !w.Conn.writing.CompareAndSwap(true, false) {
		w.Conn.book.Wrong(fmt.Errorf("check: connection %d: a write lease ended that was none", w.Conn.Number))
	}
}
