package plex

// What operators ask of a pool: which connections there are, how each is, to take one out, to renew
// all.

import (
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"net"
	"slices"
	"time"

	"go.atomizer.io/plex/internal/caller"
)

// Conns yields the connections that are in service now, in no particular order.
func (m *Multiplexer) Conns() iter.Seq[Conn] {
	return func(yield func(Conn) bool) {
		for _, c := range m.roster.all() {
			if c.isOpen() && !yield(Conn{c}) {
				return
			}
		}
	}
}

func (c *conn) isOpen() bool {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	return c.life.phase == phaseOpen
}

// Retire takes the connection out of the pool, gracefully: between leases, and with a connector
// only when another has been connected in its place, or, where the capacity has no room for one
// more, while the service answers. Pins delay it, for the retire grace at most. Retire returns at
// once; to be told of the end, use AfterEnd, whose cause is [ErrRetired]. It does nothing to a
// connection that is leaving the pool.
func (c Conn) Retire() {
	if c.c == nil {
		return
	}
	c.c.m.startSupervisor()
	c.c.turnOut(whyRenewed)
}

const (
	renewPause  = 20 * time.Millisecond // the longest between two connections
	renewPauses = 2 * time.Second       // all of them together
)

var errRenewNothing = errors.New("plex: Renew: there is no connector to connect others; give one with WithConnector")

// Renew retires all connections that are open now, one after the other, as [Conn.Retire] does:
// after a failover, a change of certificates or of the service's addresses. They come in a random
// order and with short random pauses, of two seconds at most together, so that many pools that are
// renewed at the same moment do not go through the service's addresses in step. Leases are not cut
// short, and callers do not fail for it. With [WithResolver] the addresses are asked for first, which
// may take a second longer than the resolver does. Renew returns when all of them are closed, or
// with the error of ctx, or with [ErrClosed]; when ctx ends, the connections that are still open are
// retired all the same.
func (m *Multiplexer) Renew(ctx context.Context) error {
	switch {
	case ctx == nil:
		return errNilContext("Renew")
	case ctx.Err() != nil:
		return caller.ContextError(ctx)
	case m.cfg.connect == nil:
		return errRenewNothing
	}
	m.healer.resolver.refresh(ctx)
	old := slices.DeleteFunc(m.roster.all(), func(c *conn) bool { return !c.isOpen() })
	rand.Shuffle(len(old), func(i, j int) { old[i], old[j] = old[j], old[i] })
	starts := renewal{at: time.Now(), most: min(renewPause, renewPauses/time.Duration(max(1, len(old))))}
	for _, c := range old {
		Conn{c}.Retire()
		pause := starts.pause(time.Now())
		if pause <= 0 {
			continue
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		case <-m.ctx.Done():
		}
	}
	stop := context.AfterFunc(ctx, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.changed.Broadcast()
	})
	defer stop()
	for _, c := range old {
		if err := c.awaitClosed(ctx); err != nil {
			return err
		}
	}
	return nil
}

// renewal is when the connections begin to be retired, one after the other.
type renewal struct {
	at   time.Time     // of the next
	most time.Duration // from one to the next
}

// pause draws when the next one is, and returns how long that is from now. It is not from the one
// before: a timer may come a millisecond late, which is longer than the pauses of a large pool.
func (r *renewal) pause(now time.Time) time.Duration {
	r.at = r.at.Add(rand.N(r.most))
	return r.at.Sub(now)
}

// awaitClosed waits until a connection is closed, the multiplexer begins to close, or ctx ends,
// which broadcasts changed.
func (c *conn) awaitClosed(ctx context.Context) error {
	m := c.m
	m.mu.Lock() // for each, so that nobody waits while a large pool is looked through
	defer m.mu.Unlock()
	for {
		switch {
		case m.refusing:
			return ErrClosed
		case c.life.phase == phaseClosed:
			return nil
		case ctx.Err() != nil:
			return caller.ContextError(ctx)
		}
		m.changed.Wait()
	}
}

// ConnInfo is a snapshot of one connection.
type ConnInfo struct {
	Local, Remote net.Addr
	Opened        time.Time // when it came into service
	Reader        HalfInfo
	Writer        HalfInfo
	Pins          int    // how many expect something of it, see Conn.Pin
	Leaving       string // why it leaves the pool or is due to: "maximal lifetime", "lost", ...; "" if it does not
	Err           error  // why it has failed; nil if it has not
}

// HalfInfo is a snapshot of one half of a connection.
type HalfInfo struct {
	State  HalfState
	Leases uint64    // how often it has been leased
	Since  time.Time // when the present lease began; zero without one, and without WithLeakDetection
}

// HalfState says who has a half.
type HalfState string

// The states of a half.
const (
	HalfIdle    HalfState = "idle"    // nobody: it can be leased
	HalfLeased  HalfState = "leased"  // a consumer
	HalfHeld    HalfState = "held"    // plex itself, which reads from it or is about to retire it
	HalfRetired HalfState = "retired" // nobody, and it is never leased again
)

// Info returns a snapshot of the connection, also after its end; zero for the zero Conn.
func (c Conn) Info() ConnInfo {
	if c.c == nil {
		return ConnInfo{}
	}
	info := ConnInfo{
		Local: c.LocalAddr(), Remote: c.RemoteAddr(), Pins: int(c.c.pins.Load()), Err: c.c.failure(),
		Reader: c.c.r.info(), Writer: c.c.w.info(),
	}
	m := c.c.m
	m.mu.Lock()
	defer m.mu.Unlock()
	info.Opened, info.Leaving = c.c.admittedAt, c.c.life.why.text()
	return info
}

func (h *half) info() HalfInfo {
	w := h.word()
	info := HalfInfo{State: HalfIdle, Leases: w.leases()}
	switch {
	case w.is(leaseLive):
		info.State = HalfLeased
	case w.is(poolRetired):
		info.State = HalfRetired
	case w.is(poolHeld):
		info.State = HalfHeld
	}
	// The lock may be held by whoever sets a deadline of a transport that does not return; then the
	// time is left out.
	if info.State == HalfLeased && h.conn.m.news.tracks && h.mu.TryLock() {
		if o := h.origin; o != nil && o.lease == w.lease() {
			info.Since = o.at
		}
		h.mu.Unlock()
	}
	return info
}

// Detach takes the connection out of the pool and gives it to the caller, alive: to speak another
// protocol on it from now on, or to keep it. What was read and not delivered comes first. Its slot
// is free, and with a connector another is connected in its place. If the connection has failed or
// its peer has ended it, Detach returns the cause. The lease ends either way.
func (d Duplex) Detach() (net.Conn, error) {
	if d.w == nil {
		return nil, ErrLeaseClosed
	}
	c := d.w.conn
	if !d.r.beginEnd(d.rid) {
		return nil, ErrLeaseClosed
	}
	d.r.evict()
	d.r.takeBack()
	if !d.w.beginEnd(d.wid) {
		_ = d.r.end(d.rid)
		return nil, ErrLeaseClosed
	}
	d.w.evict()
	back := d.r.back
	d.r.clear()
	d.w.clear() // a torn write is a failure
	ok := c.detach()
	if ok {
		d.r.back = nil
	}
	d.r.arrive(fromLease)
	d.w.arrive(fromLease)
	if !ok {
		c.m.mu.Lock()
		defer c.m.mu.Unlock()
		return nil, c.endCause()
	}
	if len(back) == 0 {
		return c.nc, nil
	}
	return &detached{Conn: c.nc, back: back}, nil
}

// detach takes a connection out of the books without closing its transport, unless it has left
// already. Both its leases are ending.
func (c *conn) detach() bool {
	m := c.m
	m.mu.Lock()
	ok := c.life.phase == phaseOpen && c.failure() == nil && !c.peer.reached(peerNoticed) && !m.refusing &&
		c.leaveLocked(whyDetached) && c.closeLocked(whyDetached)
	m.mu.Unlock()
	if !ok {
		return false
	}
	defer m.tasks.dismiss(transportTask) // nobody closes the transport
	c.r.retire()
	c.w.retire()
	c.leaveAlone()
	c.closed()
	return true
}

// detached is a transport that something was read from before it was detached.
type detached struct {
	net.Conn
	back [][]byte
}

// Read gives what was read before, first.
func (d *detached) Read(p []byte) (int, error) {
	if len(d.back) == 0 || len(p) == 0 {
		return d.Conn.Read(p)
	}
	n := copy(p, d.back[0])
	if d.back[0] = d.back[0][n:]; len(d.back[0]) == 0 {
		d.back = d.back[1:]
	}
	return n, nil
}
