package request_test

// Scripted connections: one end behaves like a socket and is given to plex. The other belongs to
// the test, which decides what arrives, how much can be written, and how the connection ends. It
// works inside a testing/synctest bubble.

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// fakeAddr is an address of a fakeConn; no two connections of a test run share one.
type fakeAddr string

func (fakeAddr) Network() string  { return "fake" }
func (a fakeAddr) String() string { return string(a) }

var fakeNumber atomic.Int64

// fakeConn is the end that plex gets. mu is held for moments only; cond is signalled on every
// change.
type fakeConn struct {
	number int64

	// Hooks, called with no lock held, so they may block. Set them before the connection is in use.
	written   func(p []byte) // after a Write has written all, before it returns
	closeHook func()

	mu     sync.Mutex
	cond   sync.Cond
	in     []byte // sent by the peer, not yet read
	inEOF  bool   // the peer has sent its FIN
	out    []byte // written, not yet read by the peer
	credit int    // bytes that may still be written before a Write blocks; below zero: no bound
	err    error  // what the connection died of
	closes int
	rd, wd deadline
}

type deadline struct {
	passed bool
	timer  *time.Timer
}

func newFakeConn() *fakeConn {
	c := &fakeConn{number: fakeNumber.Add(1), credit: -1}
	c.cond.L = &c.mu

	return c
}

func (c *fakeConn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "fake", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// Read returns, in this order of precedence: closed, deadline exceeded, data, the error, EOF.
func (c *fakeConn) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()

	for {
		switch {
		case c.closes > 0:
			return 0, c.opError("read", net.ErrClosed)
		case c.rd.passed:
			return 0, c.opError("read", os.ErrDeadlineExceeded)
		case len(c.in) > 0:
			n := copy(p, c.in)
			c.in = c.in[n:]

			return n, nil
		case c.err != nil:
			return 0, c.opError("read", c.err)
		case c.inEOF:
			return 0, io.EOF
		}

		c.cond.Wait()
	}
}

// Write blocks while the peer gives no credit. A deadline, a reset or a Close meanwhile cuts it
// short.
func (c *fakeConn) Write(p []byte) (int, error) {
	n, err := c.write(p)
	if err == nil && c.written != nil {
		c.written(p)
	}

	return n, err
}

func (c *fakeConn) write(p []byte) (n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()

	for {
		switch {
		case c.closes > 0:
			return n, c.opError("write", net.ErrClosed)
		case c.wd.passed:
			return n, c.opError("write", os.ErrDeadlineExceeded)
		case c.err != nil:
			return n, c.opError("write", c.err)
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
	if c.closeHook != nil {
		c.closeHook()
	}

	c.mu.Lock()
	defer c.mu.Unlock()

	c.closes++
	if c.closes > 1 {
		return c.opError("close", net.ErrClosed)
	}

	for _, d := range []*deadline{&c.rd, &c.wd} {
		if d.timer != nil {
			d.timer.Stop()
		}
	}

	c.cond.Broadcast()

	return nil
}

func (c *fakeConn) LocalAddr() net.Addr  { return fakeAddr(fmt.Sprintf("client-%d", c.number)) }
func (c *fakeConn) RemoteAddr() net.Addr { return fakeAddr(fmt.Sprintf("peer-%d", c.number)) }

func (c *fakeConn) SetReadDeadline(t time.Time) error  { return c.set(&c.rd, t) }
func (c *fakeConn) SetWriteDeadline(t time.Time) error { return c.set(&c.wd, t) }

func (c *fakeConn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}

	return c.SetWriteDeadline(t)
}

func (c *fakeConn) set(d *deadline, t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()

	if c.closes > 0 {
		return c.opError("set", net.ErrClosed)
	}

	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}

	d.passed = !t.IsZero() && !time.Now().Before(t)
	if !t.IsZero() && !d.passed {
		var timer *time.Timer

		timer = time.AfterFunc(time.Until(t), func() {
			c.mu.Lock()
			defer c.mu.Unlock()

			if d.timer == timer { // otherwise a later deadline has replaced it
				d.passed = true
				c.cond.Broadcast()
			}
		})
		d.timer = timer
	}

	c.cond.Broadcast()

	return nil
}

func (c *fakeConn) closeCount() int {
	c.mu.Lock()
	defer c.mu.Unlock()

	return c.closes
}

// -------------------------------------------------------------------------------------------------
// The test's end: the peer

// asked is a request as it arrived.
type asked struct {
	id   uint64
	text string
}

// next waits for a whole request. ok is false if there will be none, because the connection has
// ended.
func (c *fakeConn) next() (a asked, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()

	for {
		if len(c.out) >= 2 {
			if n := 2 + int(binary.BigEndian.Uint16(c.out)); len(c.out) >= n {
				a = asked{id: binary.BigEndian.Uint64(c.out[3:]), text: string(c.out[11:n])}
				c.out = c.out[n:]

				return a, true
			}
		}

		if c.closes > 0 || c.err != nil {
			return asked{}, false
		}

		c.cond.Wait()
	}
}

// take is next for a request that must have that text.
func (c *fakeConn) take(text string) uint64 {
	a, ok := c.next()
	if !ok || a.text != text {
		panic(fmt.Sprintf("the peer of %v wanted %q, got %q (%v)", c.LocalAddr(), text, a.text, ok))
	}

	return a.id
}

// unread returns how many bytes were written and not taken.
func (c *fakeConn) unread() int {
	c.mu.Lock()
	defer c.mu.Unlock()

	return len(c.out)
}

// send delivers bytes.
func (c *fakeConn) send(frames ...[]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()

	for _, f := range frames {
		c.in = append(c.in, f...)
	}

	c.cond.Broadcast()
}

// reply answers a request.
func (c *fakeConn) reply(id uint64, text string) { c.send(frame(kindReply, id, text)) }

// fin ends what the peer sends; what was sent before can still be read.
func (c *fakeConn) fin() {
	c.mu.Lock()
	defer c.mu.Unlock()

	c.inEOF = true
	c.cond.Broadcast()
}

// reset kills the connection; what was sent before can still be read.
func (c *fakeConn) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()

	c.err = syscall.ECONNRESET
	c.cond.Broadcast()
}

// allow lets n more bytes be written before Write blocks; below zero removes the bound.
func (c *fakeConn) allow(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()

	c.credit = n
	c.cond.Broadcast()
}
