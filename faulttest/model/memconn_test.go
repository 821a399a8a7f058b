package model

// Connections in memory: what happens in them happens at once, so that under testing/synctest all is quiet as soon as it
// can be, and they say afterwards what they have told plex. The client's end is a net.Conn, the peer's end is methods.

import (
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"go.atomizer.io/plex/faulttest/oracle"
)

// network is all connections of one test.
type network struct {
	mu    sync.Mutex
	conns []*memConn
}

func (n *network) dial() *memConn {
	n.mu.Lock()
	defer n.mu.Unlock()
	id := uint32(len(n.conns) + 1)
	c := &memConn{id: id, wire: wire{credit: -1}, arrived: oracle.NewChecker(oracle.ID(id, false))}
	c.cond.L = &c.mu
	n.conns = append(n.conns, c)
	return c
}

// open is how many connections the client has not closed.
func (n *network) open() (open int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.conns {
		if c.peek().closes == 0 {
			open++
		}
	}
	return open
}

// wire is the state of a connection.
type wire struct {
	in  []byte // sent by the peer, not yet read
	fin bool   // the peer has sent its end
	err error  // what the connection has died of
	// credit is how many bytes the client may still write before it blocks; below zero, there is no bound.
	credit int

	sent    uint64 // by the peer
	written uint64 // by the client
	writes  int
	torn    bool // the client's last write that wrote anything was short

	reads   int  // the client's, under way
	eofTold bool // plex knows of fin
	errTold bool // and of err
	errRead bool // by a Read
	closes  int
}

type memConn struct {
	id uint32

	mu   sync.Mutex // held for moments only
	cond sync.Cond  // signalled on every change
	wire
	writing bool
	rd, wd  memDeadline
	arrived *oracle.Checker // judges what the client writes
	wrong   error           // its verdict
}

type memDeadline struct {
	passed bool
	timer  *time.Timer
}

// peek is the present state.
func (c *memConn) peek() wire {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wire
}

// verdict is what was wrong with the bytes that the client wrote.
func (c *memConn) verdict() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wrong
}

func (c *memConn) change(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
	c.cond.Broadcast()
}

// What the peer does.

func (c *memConn) send(n int) {
	c.change(func() {
		p := make([]byte, n)
		oracle.Fill(oracle.ID(c.id, true), c.sent, p)
		c.in = append(c.in, p...)
		c.sent += uint64(n)
	})
}

func (c *memConn) end() { c.change(func() { c.fin = true }) }

// reset kills the connection. What has arrived and was not read can be lost with it.
func (c *memConn) reset(err error, keep bool) {
	c.change(func() {
		c.err = err
		if !keep {
			c.sent -= uint64(len(c.in)) // as if it had never been
			c.in = nil
		}
	})
}

// loseUnread is told of a connection that was closed while it was well: what it has inside itself is lost with it, and
// what the client had read before is not.
func (c *memConn) loseUnread() {
	c.change(func() {
		c.sent -= uint64(len(c.in))
		c.in = nil
	})
}

func (c *memConn) allow(n int) { c.change(func() { c.credit = n }) }

// What plex does.

func (c *memConn) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reads++
	defer func() { c.reads-- }()
	for {
		switch {
		case c.closes > 0:
			return 0, c.failed("read", net.ErrClosed)
		case c.rd.passed:
			return 0, c.failed("read", os.ErrDeadlineExceeded)
		case len(p) == 0:
			return 0, nil
		case len(c.in) > 0:
			n := copy(p, c.in)
			c.in = c.in[n:]
			return n, nil
		case c.err != nil:
			c.errRead = c.errRead || !c.errTold
			c.errTold = true
			return 0, c.failed("read", c.err)
		case c.fin:
			c.eofTold = true
			return 0, io.EOF
		}
		c.cond.Wait()
	}
}

func (c *memConn) Write(p []byte) (n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.writing {
		c.cond.Wait()
	}
	c.writing = true
	c.writes++
	defer func() {
		c.writing = false
		if n > 0 {
			c.torn = n < len(p)
		}
		c.cond.Broadcast()
	}()
	for {
		switch {
		case c.closes > 0:
			return n, c.failed("write", net.ErrClosed)
		case c.wd.passed:
			return n, c.failed("write", os.ErrDeadlineExceeded)
		case c.err != nil:
			c.errTold = true
			return n, c.failed("write", c.err)
		}
		k := len(p) - n
		if c.credit >= 0 {
			k = min(k, c.credit)
			c.credit -= k
		}
		if err := c.arrived.Check(p[n : n+k]); c.wrong == nil {
			c.wrong = err
		}
		c.written += uint64(k)
		if n += k; n == len(p) {
			return n, nil
		}
		c.cond.Wait()
	}
}

func (c *memConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closes++
	if c.closes > 1 {
		return c.failed("close", net.ErrClosed)
	}
	for _, d := range []*memDeadline{&c.rd, &c.wd} {
		if d.timer != nil {
			d.timer.Stop()
		}
	}
	c.cond.Broadcast()
	return nil
}

func (c *memConn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

func (c *memConn) SetReadDeadline(t time.Time) error  { return c.set(&c.rd, t) }
func (c *memConn) SetWriteDeadline(t time.Time) error { return c.set(&c.wd, t) }

func (c *memConn) set(d *memDeadline, t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closes > 0 {
		return c.failed("set", net.ErrClosed)
	}
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.passed = !t.IsZero() && !time.Now().Before(t)
	if !t.IsZero() && !d.passed {
		var timer *time.Timer
		timer = time.AfterFunc(time.Until(t), func() {
			c.change(func() { d.passed = d.passed || d.timer == timer })
		})
		d.timer = timer
	}
	c.cond.Broadcast()
	return nil
}

func (c *memConn) failed(op string, err error) error {
	return &net.OpError{Op: op, Net: "memory", Addr: c.RemoteAddr(), Err: err}
}

type memAddr string

func (memAddr) Network() string  { return "memory" }
func (a memAddr) String() string { return string(a) }

func (c *memConn) LocalAddr() net.Addr  { return memAddr(fmt.Sprintf("client-%d", c.id)) }
func (c *memConn) RemoteAddr() net.Addr { return memAddr(fmt.Sprintf("peer-%d", c.id)) }

// resetError is a different one for each connection, so that a cause can be told from another.
type resetError uint32

func (e resetError) Error() string        { return fmt.Sprintf("connection %d reset by peer", uint32(e)) }
func (e resetError) Is(target error) bool { return target == syscall.ECONNRESET }
