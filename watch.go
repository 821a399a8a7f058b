package plex

// What happens when the peer's end of an idle connection is seen by the
// watcher (watch_linux.go, watch_other.go) before anyone uses the connection.

import (
	"errors"
	"net"
	"os"
	"syscall"
	"time"
)

const (
	// inspectLimit is how much of what the peer has sent before its end is
	// kept in memory; more stays with the system, and with it the transport.
	inspectLimit = 64 << 10

	// inspectTime bounds the reading of what should be there already.
	inspectTime = time.Second

	// resetGrace is how long a read lease of a connection that was reset has
	// for reading what had arrived.
	resetGrace = time.Second
)

// socketOf returns the socket beneath nc, through TLS and other types that tell
// what they wrap; nil if there is none.
func socketOf(nc net.Conn) syscall.RawConn {
	for range 8 { // a guard against one that says it wraps itself
		switch c := nc.(type) {
		case syscall.Conn:
			raw, err := c.SyscallConn()
			if err != nil {
				return nil
			}
			return raw
		case interface{ NetConn() net.Conn }:
			nc = c.NetConn()
		default:
			return nil
		}
	}
	return nil
}

// noticed is called by the watcher when the peer has closed the connection, or
// reset it.
func (c *conn) noticed(reset bool) {
	c.m.beginLook() // what is left is not to be overlooked when the connection does not count any more
	defer c.m.endLook()
	c.r.state.Or(ending) // before looking for a lease, so that its end looks again
	reset = reset || wasReset(c.nc)
	if !reset {
		c.m.mu.Lock()
		c.finSeen = true
		lost := c.loseLocked(errPeerClosed)
		c.m.mu.Unlock()
		if lost {
			c.m.logLost(c, errPeerClosed)
		}
	}
	c.w.retire()
	c.inspect()
	if reset && c.failure() == nil {
		// A consumer has the read half and may still read what had arrived;
		// then it finds the error. One that does not read must not keep the
		// slot.
		time.AfterFunc(resetGrace, func() { c.fail(errReset) })
	}
}

// inspect looks at an idle read half of a connection that is at its end. If the
// half is leased, its consumer comes to the end by itself, or the end of its
// lease comes to look.
func (c *conn) inspect() {
	c.m.beginLook()
	defer c.m.endLook()
	if c.r.hold() {
		c.readRemains()
	}
}

// look is for a half of c, held, whose lease has just ended and which cannot
// simply go back.
func (c *conn) look(h *half) {
	m := c.m
	if h == &c.r && h.state.Load()&ending != 0 {
		m.beginLook()
		read := func() {
			defer m.endLook()
			c.readRemains()
		}
		if h.ended {
			read()
		} else {
			m.aside(read)
		}
		return
	}
	if h == &c.r && m.drained(c) {
		m.aside(func() { h.letGo(true) })
		return
	}
	other := &c.w
	if h == other {
		other = &c.r
	}
	switch { // asked before the other half is held, for nothing if it may not go
	case m.drain(c) || !m.mayExpire(c) || c.r.undelivered():
		h.letGo(false)
	case other.hold():
		m.expireHeld(c)
	default:
		h.letGo(false)
		m.againIfUnleased(other)
	}
}

// againIfUnleased is called by whoever has let go of one half of a connection
// because the other could not be held. If nobody has leased that, it was held at the
// same time for the same reason, and let go for this one: then both are looked at
// again. The end of a lease looks by itself.
func (m *Multiplexer) againIfUnleased(other *half) {
	if other.state.Load()&leased == 0 {
		m.kick()
	}
}

// beginLook and endLook are around the time that a half is held by plex: nobody
// shall be told meanwhile that there is nothing left.
func (m *Multiplexer) beginLook() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.looking++
}

func (m *Multiplexer) endLook() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.looking--
	if m.hopelessLocked() == ErrNoConnections {
		m.wakeLocked()
	}
}

// readRemains reads what is left in a read half that is held, to see whether
// there is anything but the end: bytes for the next lease, or nothing to lease
// at all.
func (c *conn) readRemains() {
	h := &c.r
	if h.ended {
		h.endHold(h.over() || c.keepRemains())
		return
	}
	// What is there is there at once; the deadline is for a transport that
	// thinks otherwise.
	_ = h.conn.nc.SetReadDeadline(time.Now().Add(inspectTime))
	chunk := 4 << 10
	if c.datagram {
		chunk = byteBuffer // any datagram fits
	}
	size := 0
	for _, p := range h.back {
		size += len(p)
	}
	var err error
	for err == nil && size < inspectLimit {
		var n int
		buf := make([]byte, chunk)
		if n, err = h.conn.nc.Read(buf); n > 0 {
			h.back = append(h.back, buf[:n])
			size += n
		}
	}
	h.noteBacklog()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = nil
	}
	if err == nil {
		err = h.conn.nc.SetReadDeadline(time.Time{})
	}
	if err != nil {
		h.lookFailed(err)
	}
	failed := !h.ended && c.failure() != nil
	h.endHold(h.over() || !failed && c.keepRemains())
}

// watch begins to watch a connection that has just been admitted.
func (m *Multiplexer) watch(c *conn) {
	if !watches(c) {
		return
	}
	w, err := m.theWatcher()
	if err != nil {
		if err != ErrClosed {
			m.log("plex: idle connections are not watched", "cause", err)
		}
		return
	}
	w.add(c)
	m.mu.Lock()
	late := c.shutting // and may have been removed before it was added
	m.mu.Unlock()
	if late {
		w.remove(c)
	}
}

// theWatcher returns the multiplexer's watcher, which begins with the first
// connection that it can watch.
func (m *Multiplexer) theWatcher() (*watcher, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.theWatcherLocked()
}

func (m *Multiplexer) theWatcherLocked() (*watcher, error) {
	if m.watcher != nil {
		return m.watcher, nil
	}
	if m.closed {
		return nil, ErrClosed
	}
	w, err := newWatcher(m)
	if err != nil {
		return nil, err
	}
	if m.attending.Load() {
		if err := w.attendLocked(); err != nil {
			w.stop()
			return nil, err
		}
	}
	m.watcher = w
	m.spawnLocked(w.run)
	return w, nil
}

// unwatchConn ends the watching of c.
func (m *Multiplexer) unwatchConn(c *conn) {
	m.mu.Lock()
	w := m.watcher
	m.mu.Unlock()
	if w != nil {
		w.remove(c)
	}
}

// stopWatcher ends the watcher's goroutine.
func (m *Multiplexer) stopWatcher() {
	m.mu.Lock()
	w := m.watcher
	m.watcher = nil
	m.mu.Unlock()
	if w != nil {
		w.stop()
	}
}
