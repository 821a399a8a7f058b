package plex

// The name of a connection, for consumers whose interest in it outlasts a lease: those who wait for
// a reply, or for the rest of a message.

import (
	"errors"
	"net"
	"sync"
	"time"

	"go.atomizer.io/plex/internal/caller"
)

// ErrRetired is the cause that [Conn.AfterEnd] gives for a connection that plex has closed for its
// age or because nobody needed it.
var ErrRetired = errors.New("plex: connection retired, for its age or because nobody needed it")

// Conn names the connection that a lease is on. Two leases are on the same connection if their
// Conns are equal; a connection and its replacement are not the same. It keeps nothing open and
// stays valid after the lease. The zero Conn is that of the zero Reader and the zero Writer.
//
// All methods may be called from several goroutines.
type Conn struct{ c *conn }

// Conn returns the name of the connection that the lease is on, also after the lease has ended.
func (r Reader) Conn() Conn { return r.h.name() }

// Conn returns the name of the connection that the lease is on, also after the lease has ended.
func (w Writer) Conn() Conn { return w.h.name() }

func (h *half) name() Conn {
	if h == nil {
		return Conn{}
	}
	return Conn{h.conn}
}

// LocalAddr returns the local address of the connection; nil for the zero Conn.
func (c Conn) LocalAddr() net.Addr {
	if c.c == nil {
		return nil
	}
	return c.c.nc.LocalAddr()
}

// RemoteAddr returns the remote address of the connection; nil for the zero Conn.
func (c Conn) RemoteAddr() net.Addr {
	if c.c == nil {
		return nil
	}
	return c.c.remote
}

// Datagram reports whether the connection keeps the boundaries of messages, as plex judges it by
// the network of its local address; see [Attach].
func (c Conn) Datagram() bool { return c.c != nil && c.c.kind.Datagram() }

// Kill ends the connection, both its halves, as the Kill of a lease does: for a consumer that finds
// it to be of no use without having a lease on it. It is closed and counts as lost. If it has ended
// already, what is left of it to be read is given up, and that is all.
func (c Conn) Kill() {
	if c.c != nil {
		c.c.fail(ErrKilled)
	}
}

// afterEnd is one call of AfterEnd.
type afterEnd struct{ f func(cause error) }

// AfterEnd arranges to call f in a goroutine of its own when nothing more will be read from the
// connection: it is lost or retired, and its last read lease has ended, so that whatever had
// arrived has been read or is given up. If that is so already, and for the zero Conn, f is called
// right away.
//
// The cause is the connection's error as its leases report it, io.EOF after a clean end by the
// peer, [ErrClosed] after Close or Shutdown, and [ErrRetired].
//
// stop reports whether it has kept f from being called. It does not wait for an f that runs. Close
// of the multiplexer waits for it, but only briefly.
func (c Conn) AfterEnd(f func(cause error)) (stop func() bool) {
	if c.c == nil {
		go func() { // of no multiplexer
			_ = caller.Guard("the function given to AfterEnd", func() error { f(ErrLeaseClosed); return nil })
		}()
		return func() bool { return false }
	}
	m := c.c.m
	m.mu.Lock()
	defer m.mu.Unlock()
	e := &afterEnd{f}
	if c.c.ends == nil {
		c.c.ends = make(map[*afterEnd]struct{})
	}
	c.c.ends[e] = struct{}{}
	if c.c.r.word().over() {
		c.c.endedLocked()
	}
	return func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		_, waits := c.c.ends[e]
		delete(c.c.ends, e)
		return waits
	}
}

// endedLocked is called when the read half is over.
func (c *conn) endedLocked() {
	if c.parkWake != nil {
		wakeUp(c.parkWake) // to find that there is nothing to do any more
	}
	if len(c.ends) == 0 {
		return
	}
	m, ends, cause := c.m, c.ends, c.endCause()
	c.ends = nil
	m.tasks.startForeign(foreignTask, func() {
		for e := range ends {
			m.tasks.startForeign(foreignTask, func() {
				if err := caller.Guard("the function given to AfterEnd", func() error { e.f(cause); return nil }); err != nil {
					m.news.warn("plex: a callback failed", "cause", err)
				}
			})
		}
	})
}

// Pin keeps plex from retiring the connection, because of its age or because nobody needs it, until
// unpin is called: for a consumer that expects something of it without having a lease. Of one that
// is too old no more writers are leased meanwhile, so that it comes to an end. Pin keeps nothing
// from failing. Every Pin has to be undone; to call unpin again does nothing.
func (c Conn) Pin() (unpin func()) {
	if c.c == nil {
		return func() {}
	}
	m := c.c.m
	m.mu.Lock()
	c.c.pins.Add(1)
	grace := m.cfg.retireGrace.Get()
	late := c.c.life.phase == phaseLeaving && c.c.graceEnds.IsZero()
	if late {
		c.c.graceEnds = time.Now().Add(grace)
	}
	m.mu.Unlock()
	if late {
		c.c.endRetirementAfter(grace)
	}
	return sync.OnceFunc(func() {
		m.mu.Lock()
		free := c.c.pins.Add(-1) == 0
		drained, due := c.c.drainedLocked(), free && c.c.life.due()
		m.mu.Unlock()
		if free {
			c.c.r.offerNamed()
		}
		switch {
		case drained:
			m.tasks.start(c.c.endRetirement)
		case due:
			c.c.tryLater()
		}
	})
}
