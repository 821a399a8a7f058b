package plex

// A connection's life: claimed (known to the pool, in a slot of the capacity),
// admitted (its halves are leased and released), and then one of
//
//	fail        a hard end: both halves stop at once, the transport is closed
//	peerClosed  the peer has sent its end: what it sent is still delivered
//	retire      a soft end: each half goes when its lease ends
//
// All three mark the halves gone. A half that is gone and in nobody's hands is
// settled; the transport is closed when it is of no more use, the slot is free
// when the transport is closed, and the multiplexer forgets the connection when
// both halves are settled and the transport is closed.

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"time"
)

type conn struct {
	r half

	// Constant from claim on.
	m        *Multiplexer
	nc       net.Conn
	remote   net.Addr
	key      any  // identity in Multiplexer.known, nil if it has none
	datagram bool // Read and Write keep message boundaries
	udp      bool // and some errors are about one datagram, not the connection
	tls      bool // a write that times out breaks the write side for good

	// cause is the first fatal error; nil while there is none.
	cause atomic.Pointer[error]

	// Guarded by m.mu.
	owned      bool // plex has to close it; not so a connection of the caller's before its admission
	admitted   bool
	counted    bool // it takes a slot of the capacity
	lost       bool // counted as lost
	atEnd      bool // io.EOF has been read: the read half needs the transport no more
	shutting   bool // the closing of the transport has begun
	shut       bool // and is done
	admittedAt time.Time

	w half
}

// claim makes nc known and gives it a slot, which the caller has reserved by
// connecting++. Its halves begin in a lease that ends with the admission, so
// that whoever does the handshake uses them as any consumer would.
func (m *Multiplexer) claim(nc net.Conn, owned bool) (*conn, error) {
	if isNil(nc) {
		return nil, ErrNilConnection
	}
	c := &conn{m: m, nc: nc, remote: nc.RemoteAddr(), owned: owned}
	c.datagram, c.udp = transportKind(nc)
	_, c.tls = nc.(interface{ ConnectionState() tls.ConnectionState })
	c.r.init(c, &m.readers, firstLease|leased)
	c.w.init(c, &m.writers, firstLease|leased)

	m.mu.Lock()
	defer m.mu.Unlock()
	if m.refusing {
		return nil, ErrClosed
	}
	if key, ok := identity(nc); ok {
		if _, known := m.known[key]; known {
			return nil, ErrKnownConnection
		}
		m.known[key] = struct{}{}
		c.key = key
	}
	m.conns[c] = struct{}{}
	if owned {
		m.transports++
	}
	return c, nil
}

// unclaim forgets a connection that has not been admitted and is not plex's
// to close.
func (m *Multiplexer) unclaim(c *conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.conns, c)
	if c.key != nil {
		delete(m.known, c.key)
	}
}

// firstLease is the number of the lease that a half begins in.
const firstLease = leaseOne

// prepare makes a claimed connection fit for consumers: open, without a
// deadline, its TLS handshake done.
func (c *conn) prepare(ctx context.Context, timeout time.Duration) error {
	err := c.nc.SetDeadline(time.Time{})
	if errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe) {
		return fmt.Errorf("plex: the connection is closed already: %w", err)
	}
	// Any other error is that of a transport without deadlines.
	tc, ok := c.nc.(*tls.Conn)
	if !ok || tc.ConnectionState().HandshakeComplete {
		return nil
	}
	// A handshake must not be left to the first consumer: a timeout within
	// one breaks the connection for good. HandshakeContext would close the
	// connection, which may not be ours, when ctx ends; so a deadline does it.
	if err := tc.SetDeadline(time.Now().Add(timeout)); err != nil {
		return fmt.Errorf("plex: TLS handshake: %w", err)
	}
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		_ = tc.SetDeadline(longAgo) // it could be set before
	})
	err = tc.Handshake()
	if !stop() {
		<-interrupted
		if err != nil {
			err = fmt.Errorf("%w: %w", contextError(ctx), err)
		}
	}
	if err != nil {
		return fmt.Errorf("plex: TLS handshake: %w", err)
	}
	return tc.SetDeadline(time.Time{})
}

// admit puts a claimed and prepared connection into service, in the slot
// that was reserved for it. Everything that is ever leased has come through
// here.
func (m *Multiplexer) admit(c *conn) error {
	// The first lease ends as every lease does. For a connection that a
	// Connect has used, that interrupts what Connect has left running.
	for _, h := range []*half{&c.r, &c.w} {
		h.mu.Lock()
		h.beginEndLocked(firstLease)
		if s := h.stream; s != nil {
			s.haltLocked(ErrLeaseClosed)
		}
		h.mu.Unlock()
		h.evict()
		h.takeBack()
		h.clear()
	}

	m.mu.Lock()
	if cause := c.failure(); cause != nil {
		m.mu.Unlock()
		return cause
	}
	if m.refusing {
		m.mu.Unlock()
		return ErrClosed
	}
	if !c.owned {
		c.owned = true
		m.transports++
	}
	c.admitted, c.counted, c.admittedAt = true, true, time.Now()
	m.connecting--
	m.open++
	m.admitted++
	m.alive++
	if m.addr.Load() == nil && c.remote != nil {
		m.addr.Store(&c.remote)
	}
	m.readers.sweepLocked(m.capacity)
	m.writers.sweepLocked(m.capacity)
	m.mu.Unlock()

	c.r.release(firstLease)
	c.w.release(firstLease)
	return nil
}

// failure is the error that both halves report, nil while there is none.
func (c *conn) failure() error {
	if p := c.cause.Load(); p != nil {
		return *p
	}
	return nil
}

// fail is the hard end, with the error that both halves shall report. The
// first error counts; later ones are mostly its consequences.
func (c *conn) fail(cause error) {
	if !c.cause.CompareAndSwap(nil, &cause) {
		return
	}
	c.m.mu.Lock()
	c.loseLocked(cause)
	shut := c.beginShutLocked()
	c.m.mu.Unlock()
	c.retire()
	c.r.failed()
	c.w.failed()
	if shut {
		c.shutTransport()
	}
}

// peerClosed is called by the read half when it has come to the end of what
// the peer has sent. A write lease may go on, since the peer may still be
// reading; there will be no other. The read half itself goes when its
// lease ends and nothing is left to be delivered.
func (c *conn) peerClosed() {
	c.m.mu.Lock()
	c.loseLocked(io.EOF)
	c.atEnd = true
	shut := c.uselessLocked() && c.beginShutLocked()
	c.m.mu.Unlock()
	c.w.retire()
	if shut {
		c.shutTransport()
	}
}

// retire is the soft end: no half is leased again.
func (c *conn) retire() {
	c.r.retire()
	c.w.retire()
}

// settle is called once for each half, when it is gone and in nobody's hands.
func (m *Multiplexer) settle(h *half) {
	c := h.conn
	m.mu.Lock()
	h.settled = true
	shut := c.uselessLocked() && c.beginShutLocked()
	m.forgetLocked(c)
	m.mu.Unlock()
	if shut {
		c.shutTransport()
	}
}

// uselessLocked reports whether nobody needs the transport any more.
func (c *conn) uselessLocked() bool {
	return c.w.settled && (c.r.settled || c.atEnd)
}

// loseLocked counts a connection that has failed.
func (c *conn) loseLocked(cause error) {
	if !c.admitted || c.lost || cause == ErrClosed {
		return
	}
	c.lost = true
	c.m.stats.Lost++
	if cause == ErrKilled {
		c.m.stats.Killed++
	}
}

// beginShutLocked reports true to the one caller that has to close the
// transport.
func (c *conn) beginShutLocked() bool {
	if c.shutting || !c.owned {
		return false
	}
	c.shutting = true
	return true
}

// shutTransport closes the transport, once, under no lock: a TLS connection may
// take seconds to say good-bye behind a full send buffer, for which nobody
// should have to wait. The slot is free only when the transport is closed, so
// the peer never sees more connections than the capacity.
func (c *conn) shutTransport() {
	if _, ok := c.nc.(*tls.Conn); ok {
		c.m.spawn(c.shutNow)
		return
	}
	c.shutNow()
}

func (c *conn) shutNow() {
	_ = c.nc.Close() // a connection that is thrown away has no more to say
	m := c.m
	m.mu.Lock()
	defer m.mu.Unlock()
	c.shut = true
	m.transports--
	if c.key != nil {
		delete(m.known, c.key)
	}
	if c.counted {
		c.counted = false
		m.open--
	}
	m.forgetLocked(c)
	if m.hopelessLocked() == ErrNoConnections {
		m.wakeLocked()
	}
	m.changed.Broadcast()
}

// forgetLocked drops c from the books when nothing of it is left.
func (m *Multiplexer) forgetLocked(c *conn) {
	if _, ok := m.conns[c]; !ok || !c.shut || c.admitted && !(c.r.settled && c.w.settled) {
		return
	}
	delete(m.conns, c)
	if c.admitted {
		m.alive--
		m.stats.Acquired += c.r.leases() + c.w.leases()
		m.changed.Broadcast()
	}
}

// leases is how often h has been leased by consumers.
func (h *half) leases() uint64 {
	w := h.state.Load()
	if h.settled && w&leased != 0 {
		w -= leaseOne // just taken from the queue, to be found gone and given up
	}
	return (w - firstLease) / leaseOne
}

// transportKind reports whether nc keeps the boundaries of messages, and whether
// it does so without a connection beneath, as UDP does.
func transportKind(nc net.Conn) (datagram, udp bool) {
	local := nc.LocalAddr()
	if isNil(local) {
		return false, false
	}
	network := local.Network()
	udp = strings.HasPrefix(network, "udp") || strings.HasPrefix(network, "ip")
	return udp || network == "unixgram" || network == "unixpacket", udp
}
