package plex

// The one way in. Every connection is claimed, prepared and admitted, whatever brought it: given to
// New or Add, healed, or added because callers wait. Here closed-ness, capacity and identity are
// checked.

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"go.atomizer.io/plex/internal/caller"
	"go.atomizer.io/plex/internal/sock"
)

// reserve takes a slot of the capacity for a connection to come.
func (m *Multiplexer) reserve() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.refusing:
		return ErrClosed
	case m.open+m.connecting >= m.capacity:
		return ErrTooManyConnections
	}
	m.connecting++
	return nil
}

// unreserve gives the slot back.
func (m *Multiplexer) unreserve() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.unreserveLocked()
}

func (m *Multiplexer) unreserveLocked() {
	m.connecting--
	m.wakeIfHopelessLocked()
	m.kick()
}

// claim makes nc known, in a slot that the caller has reserved. Its halves begin in a lease that
// ends with the admission, so that whoever does the handshake uses them as any consumer would.
func (m *Multiplexer) claim(nc net.Conn, dialed bool, at Address) (*conn, error) {
	if caller.IsNil(nc) {
		return nil, ErrNilConnection
	}
	c := &conn{m: m, nc: nc, dialed: dialed, at: at}
	if err := caller.Guard("a method of the connection", func() error {
		c.remote, c.kind, c.socket = nc.RemoteAddr(), sock.KindOf(nc), sock.Of(nc)
		return nil
	}); err != nil {
		return nil, err
	}
	c.r.init(c, &m.readers, poolOnDemand)
	c.w.init(c, &m.writers, 0)

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
	m.roster.add(c)
	return c, nil
}

// unclaim forgets a connection that has not been admitted and is not plex's to close.
func (c *conn) unclaim() {
	m := c.m
	m.mu.Lock()
	defer m.mu.Unlock()
	m.roster.remove(c)
	c.unknownLocked()
}

// unknownLocked forgets the transport, which may then come again.
func (c *conn) unknownLocked() {
	if key, ok := identity(c.nc); ok {
		delete(c.m.known, key)
	}
}

// knows reports whether the pool has transport.
func (m *Multiplexer) knows(transport net.Conn) bool {
	key, ok := identity(transport)
	if !ok {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	_, known := m.known[key]
	return known
}

// prepare makes a claimed connection fit for consumers: open, without a deadline, its TLS handshake
// done.
func (c *conn) prepare(ctx context.Context, timeout time.Duration) error {
	return caller.Guard("a method of the connection", func() error { return c.prepareUnguarded(ctx, timeout) })
}

func (c *conn) prepareUnguarded(ctx context.Context, timeout time.Duration) error {
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
	// A handshake must not be left to the first consumer: a timeout within one breaks the
	// connection for good. HandshakeContext would close the connection, which may not be ours, when
	// ctx ends. So a deadline interrupts it.
	if err := tc.SetDeadline(time.Now().Add(min(timeout, maxWait))); err != nil {
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

// admit puts a claimed and prepared connection into service, in the slot that was reserved for it.
func (m *Multiplexer) admit(c *conn) error {
	// The first lease ends as every lease does. For a connection that a Connect has used, that
	// interrupts what Connect has left running.
	for _, h := range []*half{&c.r, &c.w} {
		h.beginEnd(firstLease)
		h.evict()
		h.takeBack()
		h.clear()
	}
	// What a handshake has read proves nothing: a service that is overloaded can say so and hang
	// up.
	c.delivered.Store(false)

	m.mu.Lock()
	if err := m.admitLocked(c); err != nil {
		m.mu.Unlock()
		return err
	}
	a := c.attempt
	c.attempt = nil
	if a != nil {
		m.succeededLocked(c, a)
	} else {
		m.news.given(c)
	}
	m.mu.Unlock()

	m.readers.sweep(m.capacity)
	m.writers.sweep(m.capacity)
	m.kick()
	m.watcher.watch(c)
	if m.reading.Load() == readsAny {
		c.r.beListed() // which decides for a half that is on its way in, see ready.go
	}
	c.r.arrive(fromLease)
	c.w.arrive(fromLease)
	if a != nil {
		a.reportFirst(&m.firsts, nil)
	}
	return nil
}

// admitLocked is the moment at which a connection comes into service, or says why it cannot.
func (m *Multiplexer) admitLocked(c *conn) error {
	cause := c.failure()
	switch {
	case cause != nil:
		return cause
	case c.peer.reached(peerRead):
		return errPeerClosed
	case m.refusing:
		return ErrClosed
	}
	c.life, _ = c.life.turn(phaseOpen, whyNone)
	c.counted, c.admittedAt = true, time.Now()
	if d := m.cfg.maxLifetime; d.Given() {
		c.expiresAt = c.admittedAt.Add(jitteredLifetime(d.Get(), rand.Float64()))
		m.expiries.add(c)
	}
	m.connecting--
	m.open++
	m.healer.pace.Opened(c.at)
	m.admitted++
	m.alive++
	m.readers.circulating.Add(1)
	m.writers.circulating.Add(1)
	if c.dialed {
		m.stats.Connected++
		m.lastErr = nil
	}
	if m.addr.Load() == nil && c.remote != nil {
		m.addr.Store(&c.remote)
	}
	return nil
}

// connectionError says which of several connections an error is about.
func connectionError(call string, i, n int, err error) error {
	return fmt.Errorf("plex: %s: connection %d of %d: %w", call, i+1, n, err)
}
