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
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"go.atomizer.io/plex/internal/caller"
)

type conn struct {
	r half

	// Constant from claim on.
	m        *Multiplexer
	nc       net.Conn
	remote   net.Addr
	datagram bool // Read and Write keep message boundaries
	udp      bool // and some errors are about one datagram, not the connection
	tls      bool // a write that times out breaks the write side for good

	socket   syscall.RawConn // beneath nc; nil if there is none
	watchKey uint32          // the watcher's number for it; written under its mu, before any event

	watcher   *watcher  // that arms it; written before its read half is attended
	attention attention // how ready readers come to know of what arrives; constant from its admission on

	// cause is the first fatal error; nil while there is none.
	cause atomic.Pointer[error]
	// saidBye is set before plex closes the write side; after that the kernel
	// forgets whether the peer's end was clean.
	saidBye atomic.Bool
	// kept is set when all that the peer will have sent has been read from the
	// transport. What of it is left to be delivered, no failure takes away.
	kept atomic.Bool

	// Guarded by m.mu.
	owned      bool // plex has to close it; not so a connection of the caller's before its admission
	admitted   bool
	counted    bool     // it takes a slot of the capacity
	lost       bool     // its loss, or its retirement, is accounted for
	leaving    bool     // it is counted in Multiplexer.leaving
	atEnd      bool     // io.EOF has been read: the read half needs the transport no more
	shutting   bool     // the closing of the transport has begun
	shut       bool     // and is done
	dialed     bool     // the connector brought it
	attempt    *attempt // the supervisor's that did; nil after the admission
	proved     bool     // it has delivered something
	finSeen    bool     // the watcher has seen the peer's end
	expired    bool     // older than the maximal lifetime; it goes when both halves are idle
	admittedAt time.Time
	lostAt     time.Time
	replace    *loss         // what its slot is to be filled for, once it is free
	lifetime   time.Duration // the maximal, with its jitter; meaningless if there is none
	pins       int           // somebody expects something of it without a lease
	draining   bool          // too old and pinned: its read half goes when it is not
	ends       *afterEnd     // the first of those to be told of its end
	pollWake   chan struct{} // has the goroutine that polls it look again; nil if there is none

	w half
}

// claim makes nc known and gives it a slot, which the caller has reserved by
// connecting++. Its halves begin in a lease that ends with the admission, so
// that whoever does the handshake uses them as any consumer would.
func (m *Multiplexer) claim(nc net.Conn, owned bool) (*conn, error) {
	if caller.IsNil(nc) {
		return nil, ErrNilConnection
	}
	c := &conn{m: m, nc: nc, remote: nc.RemoteAddr(), owned: owned}
	c.datagram, c.udp = transportKind(nc)
	_, c.tls = nc.(interface{ ConnectionState() tls.ConnectionState })
	c.socket = socketOf(nc)
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
	m.unknownLocked(c)
}

// unknownLocked forgets c's transport, which may then be had again.
func (m *Multiplexer) unknownLocked(c *conn) {
	if key, ok := identity(c.nc); ok {
		delete(m.known, key)
	}
}

// firstLease is the number of the lease that a half begins in.
const firstLease = leaseOne

// prepare makes a claimed connection fit for consumers: open, without a
// deadline, its TLS handshake done.
func (c *conn) prepare(ctx context.Context, timeout time.Duration) error {
	err := c.nc.SetDeadline(time.Time{})
	if isClosed(err) {
		return fmt.Errorf("plex: the connection is closed already: %w", err)
	}
	// Any other error is that of a transport without deadlines.
	c.attention = attentionOf(c, err == nil)
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
			err = fmt.Errorf("%w: %w", caller.ContextError(ctx), err)
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
	cause := c.failure()
	if cause == nil && c.r.ended {
		cause = errPeerClosed
	}
	if cause != nil {
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
	if d := m.cfg.maxLifetime; d.set {
		c.lifetime = jitteredLifetime(d.value, rand.Float64())
	}
	m.connecting--
	m.open++
	m.admitted++
	m.alive++
	a, from := c.attempt, m.open-1
	c.attempt = nil
	if c.dialed {
		m.stats.Connected++
		m.lastErr = nil
	}
	if a != nil {
		m.attemptSucceededLocked(a, c.admittedAt)
	}
	if m.addr.Load() == nil && c.remote != nil {
		m.addr.Store(&c.remote)
	}
	m.readers.sweep(m.capacity)
	m.writers.sweep(m.capacity)
	// What a handshake has read proves nothing: a service that is overloaded
	// can say so and hang up.
	c.r.proved, c.proved = false, false
	attend := m.attending.Load()
	m.mu.Unlock()

	m.kick()
	m.watch(c)
	if attend {
		c.startAttention()
	}
	c.r.release(firstLease)
	c.w.release(firstLease)
	if a != nil {
		m.logConnected(a, c.admittedAt.Sub(a.loss.at), from)
	}
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
		c.retireFor(cause) // in case the first has not come to it: after any fail, no half is leased again
		return
	}
	c.m.mu.Lock()
	lost := c.loseLocked(cause)
	c.leaveLocked()
	shut := c.beginShutLocked()
	c.m.mu.Unlock()
	c.retireFor(cause)
	if shut {
		c.shutTransport()
	}
	c.r.failed()
	c.w.failed()
	if lost {
		c.m.logLost(c, cause)
	}
}

// retireFor retires what a failure is the end of: both halves, but for what is kept to
// be read. Whoever kills the connection, or closes the multiplexer, gives that up.
func (c *conn) retireFor(cause error) {
	if !c.kept.Load() || cause == ErrKilled || cause == ErrClosed {
		c.r.retire()
	}
	c.w.retire()
}

// peerClosed is called by the read half when it has come to the end of what
// the peer has sent. A write lease may go on, since the peer may still be
// reading; there will be no other. The read half itself goes when its
// lease ends and nothing is left to be delivered.
func (c *conn) peerClosed() {
	c.kept.Store(true)
	c.m.mu.Lock()
	lost := c.loseLocked(io.EOF)
	c.atEnd = true
	shut := c.uselessLocked() && c.beginShutLocked()
	c.m.mu.Unlock()
	c.w.retire()
	if shut {
		c.shutTransport()
	}
	if lost {
		c.m.logLost(c, io.EOF)
	}
}

// settle is called once for each half, when it is gone and in nobody's hands.
func (m *Multiplexer) settle(h *half) {
	c := h.conn
	m.mu.Lock()
	h.settled = true
	shut := c.uselessLocked() && c.beginShutLocked()
	halfShut := h == &c.w && c.finSeen && !c.shutting
	if h == &c.r {
		c.endedLocked()
		if len(m.remains) > m.capacity {
			m.kick() // it may be one that connecting has waited for
		}
	}
	m.forgetLocked(c)
	m.mu.Unlock()
	switch {
	case shut:
		c.shutTransport()
	case halfShut:
		m.spawn(c.shutWriteSide)
	}
}

// uselessLocked reports whether nobody needs the transport any more.
func (c *conn) uselessLocked() bool {
	return c.w.settled && (c.r.settled || c.atEnd)
}

// loseLocked counts a connection that has failed, once, and hands it to the
// healer. It reports whether it did.
func (c *conn) loseLocked(cause error) bool {
	if !c.admitted || c.lost || cause == ErrClosed {
		return false
	}
	c.lost, c.lostAt = true, time.Now()
	c.m.stats.Lost++
	if cause == ErrKilled {
		c.m.stats.Killed++
	}
	c.m.lostLocked(c)
	return true
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
//
// After a failure the end of a TCP connection may queue behind what the peer has
// not taken, for minutes if it has stopped reading; then for so long the peer
// would have one connection more. It gets a while to take it, and is reset.
func (c *conn) shutTransport() {
	_, isTLS := c.nc.(*tls.Conn)
	cause := c.failure()
	stuck := cause != nil && cause != ErrClosed && unsent(c.nc) > 0
	if (isTLS || stuck) && c.m.spawn(func() {
		if stuck {
			c.linger()
		}
		c.shutNow()
	}) {
		return
	}
	c.shutNow() // also when Close waits for it, which closes side by side
}

const (
	lingerTime  = time.Second            // for the peer to take what has been sent
	lingerClose = 100 * time.Millisecond // the same when the multiplexer closes
	lingerLook  = time.Millisecond       // how often to look whether it has
)

// linger ends both directions, which wakes whoever is blocked in them, and
// waits until the peer has taken what was sent or its time is up. Then the close
// will be a reset.
func (c *conn) linger() {
	shutDown(c.nc)
	ticker := time.NewTicker(lingerLook)
	defer ticker.Stop()
	end, closing := time.Now().Add(lingerTime), c.m.closing
	for unsent(c.nc) > 0 && time.Now().Before(end) {
		select {
		case <-ticker.C:
		case <-closing: // no slot is waited for, but Close waits
			end, closing = time.Now().Add(lingerClose), nil
		}
	}
	// Also when what was sent has arrived: a peer that is itself blocked in a
	// write is told of the end by a reset only, since the window that it waits
	// for is not opened any more.
	resetOnClose(c.nc)
}

func (c *conn) shutNow() {
	m := c.m
	m.unwatchConn(c)
	defer c.wasShut() // also if the transport panics
	_ = c.nc.Close()  // a connection that is thrown away has no more to say
}

func (c *conn) wasShut() {
	m := c.m
	m.mu.Lock()
	defer m.mu.Unlock()
	c.shut = true
	m.transports--
	m.unknownLocked(c)
	m.uncountLocked(c)
	m.forgetLocked(c)
	m.changed.Broadcast()
}

// shutWriteSide says good-bye to a peer that has said so, after the last
// write lease. The connection is kept for what is still to be read, but no longer
// counts: the peer has closed it.
func (c *conn) shutWriteSide() {
	c.saidBye.Store(true)
	if cw, ok := c.nc.(interface{ CloseWrite() error }); ok {
		_ = cw.CloseWrite() // if it fails, the peer learns of it by the close
	}
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	c.m.uncountLocked(c)
}

// leaveLocked is called when c is of no more use, although it has its slot until
// its transport is closed, which may take long. Its replacement may take another.
func (c *conn) leaveLocked() {
	m := c.m
	if !c.counted || c.leaving {
		return
	}
	c.leaving = true
	m.leaving++
	if c.replace != nil {
		m.losses = append(m.losses, *c.replace)
	}
	m.kick()
}

// uncountLocked frees c's slot.
func (m *Multiplexer) uncountLocked(c *conn) {
	if !c.counted {
		return
	}
	c.leaveLocked()
	c.counted = false
	m.open--
	m.leaving--
	m.short.Store(m.cfg.connect != nil)
	if m.hopelessLocked() == ErrNoConnections {
		m.wakeLocked()
	}
	m.kick()
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
	return (h.state.Load() - firstLease) / leaseOne
}

// transportKind reports whether nc keeps the boundaries of messages, and whether
// it does so without a connection beneath, as UDP does.
func transportKind(nc net.Conn) (datagram, udp bool) {
	local := nc.LocalAddr()
	if caller.IsNil(local) {
		return false, false
	}
	network := local.Network()
	udp = strings.HasPrefix(network, "udp") || strings.HasPrefix(network, "ip")
	return udp || network == "unixgram" || network == "unixpacket", udp
}

// mostRemains is how many connections that are over but for what is left to be
// read are kept. Where ready readers come for them, no message shall be lost as
// long as they do, so there may be more for a moment, see waitsForReaders.
func (m *Multiplexer) mostRemains() int {
	if m.attending.Load() {
		return attendedRemains * m.capacity
	}
	return m.capacity
}

const (
	attendedRemains = 4           // times the capacity
	remainsPatience = time.Second // how long ready readers may take to come for what is left
)

// waitsForReaders reports whether connecting has to wait until ready readers have
// read what earlier connections have left: a peer that sends and hangs up, over
// and over, must not be faster than they are. If they do not come for the oldest
// in time they are not waited for.
func (m *Multiplexer) waitsForReaders(now time.Time, next *time.Time) bool {
	if !m.attending.Load() {
		return false
	}
	m.remains = slices.DeleteFunc(m.remains, func(c *conn) bool { return c.r.settled })
	if len(m.remains) <= m.capacity {
		return false
	}
	// One that a consumer has in hands is not waited for.
	left := slices.DeleteFunc(slices.Clone(m.remains), func(c *conn) bool { return c.r.state.Load()&leased != 0 })
	if len(left) <= m.capacity {
		return false
	}
	oldest := slices.MinFunc(left, func(a, b *conn) int { return a.lostAt.Compare(b.lostAt) })
	late := oldest.lostAt.Add(remainsPatience)
	if !now.Before(late) {
		return false
	}
	sooner(next, late)
	return true
}

// keepRemains remembers a connection that is over but for what is left to be
// read; its read half is held. If there are more of them than are kept, the one
// that ended first, and that nobody has come to read, is given up; it
// reports true if that is c itself.
func (c *conn) keepRemains() (giveUp bool) {
	m := c.m
	m.mu.Lock()
	m.remains = slices.DeleteFunc(m.remains, func(r *conn) bool { return r == c || r.r.settled })
	m.remains = append(m.remains, c)
	var victim *conn
	slow := false
	if len(m.remains) > m.mostRemains() {
		victim = slices.MinFunc(m.remains, func(a, b *conn) int { return a.lostAt.Compare(b.lostAt) })
		m.remains = slices.DeleteFunc(m.remains, func(r *conn) bool { return r == victim })
		slow = !victim.shut
	}
	m.mu.Unlock()
	switch {
	case victim == nil:
		return false
	case victim == c:
		return true
	case !victim.r.hold():
		return false // it is being read; when that ends, it comes here again
	}
	drop := func() { victim.r.letGo(true) }
	if slow { // its transport may take long to close
		m.aside(drop)
	} else {
		drop()
	}
	return false
}
