package request

// Heartbeats: a connection that has brought nothing for a while is asked whether it is alive. One
// goroutine looks after all connections. A ping is a request that nobody waits for, over just one
// connection.

import (
	"fmt"
	"time"

	"go.atomizer.io/plex"
)

// Pinger is an optional part of a protocol, for [WithHeartbeat].
type Pinger[Q any] interface {
	// Ping returns a request that the server answers at once, wherever it comes. It is encoded like
	// any other, and its reply is parsed like any other, and dropped.
	Ping() Q
}

// heartParts is in how many parts the times of WithHeartbeat are looked at.
const heartParts = 4

// heart is what the heartbeat knows of a connection.
type heart struct {
	pulse *pulse
	beats uint64    // at the latest look
	since time.Time // when that was new, or the connection was
	asked time.Time // when it was pinged, and has brought nothing since; zero if it was not
}

// startHeartbeat starts the heartbeat, if there is one.
func (c *Client[Q, R]) startHeartbeat() {
	if c.pingRequest != nil {
		c.wg.Go(func() { c.heartbeat(c.cfg.idle.Get(), c.cfg.pong.Get()) })
	}
}

// heartbeat looks after all connections until the client is closed.
func (c *Client[Q, R]) heartbeat(idle, timeout time.Duration) {
	ticker := time.NewTicker(max(min(idle, timeout)/heartParts, time.Millisecond))
	defer ticker.Stop()
	hearts := make(map[plex.Conn]*heart)
	for {
		now := time.Now()
		seen := make(map[plex.Conn]*heart, len(hearts))
		for conn := range c.mux.Conns() {
			h := hearts[conn]
			if h == nil {
				h = &heart{pulse: c.cfg.pulses.get(conn), since: now}
			}
			seen[conn] = h
			beats := h.pulse.beats.Load()
			switch {
			case beats != h.beats:
				h.beats, h.since, h.asked = beats, now, time.Time{}
			case !h.asked.IsZero():
				if now.Sub(h.asked) >= timeout {
					c.table.condemn(conn, errNoPong(conn, timeout))
					conn.Kill()
				}
			case now.Sub(h.since) >= idle && c.ping(conn):
				h.asked = now
			}
		}
		hearts = seen
		select {
		case <-ticker.C:
		case <-c.ctx.Done():
			return
		}
	}
}

// ping pings a connection, without waiting for anything. It reports false if it cannot be done now:
// somebody writes to the connection or has it for a session, or it is full.
func (c *Client[Q, R]) ping(conn plex.Conn) bool {
	if c.ordered() && conn.Datagram() || conn.Info().Writer.State != plex.HalfIdle {
		return false
	}
	w, err := conn.Writer(c.ctx, noWait)
	if err != nil {
		return false
	}
	call := &call[R]{done: make(chan signal, 2), ping: true}
	if c.table.enterPing(call, conn) {
		frame := c.encodePing(call, w)
		if len(frame) > 0 && c.table.spawn(func() { c.writePing(call, frame, w) }) {
			return true
		}
	}
	c.dropPing(call, w)
	return false
}

// encodePing has the protocol encode a ping. It returns nil if that fails.
func (c *Client[Q, R]) encodePing(call *call[R], w plex.Writer) (frame []byte) {
	var err error
	panicked := guard("Ping or Append", func() {
		request := c.pingRequest()
		if c.ordered() {
			c.prepare(call, request, false)
		}
		frame, err = c.appendOne(nil, call.id, request)
	}, func() { // it has ended this goroutine
		c.dropPing(call, w)
		c.startHeartbeat()
	})
	if panicked != nil {
		c.table.panicked(panicked)
	}
	if panicked != nil || err != nil {
		return nil
	}
	return frame
}

// writePing writes a ping.
func (c *Client[Q, R]) writePing(call *call[R], frame []byte, w plex.Writer) {
	f := c.flushers.Get().(*flusher[R])
	f.role, f.writer, f.caller = role{}, w, nil
	if b := c.table.takePing(f, call, frame); b != nil {
		c.write(f, b) // keeps f, which never leads
		return
	}
	c.dropPing(call, w)
	c.flushers.Put(f)
}

// dropPing gives up a ping that is not written.
func (c *Client[Q, R]) dropPing(call *call[R], w plex.Writer) {
	c.table.dropPing(call)
	_ = w.Close() // nothing was written
}

// enterPing gives a ping an identifier. It is born abandoned: its reply is dropped, and it counts for
// nothing but its identifier, and, if replies are ordered, its place.
func (t *table[R]) enterPing(c *call[R], conn plex.Conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch l := t.links[conn]; {
	case t.closed != nil:
		return false
	case t.inOrder && l != nil && l.held > 0:
		return false // its reply would come behind those, which say as much
	case t.ids.endless():
		c.id = t.ids.last.Add(1) - 1
	case t.ids.room(len(t.calls)):
		c.id = t.ids.take(t.takenLocked)
	default:
		return false
	}
	c.state = abandoned
	t.calls[c.id] = c
	t.stats.Abandoned++
	return true
}

// dropPing takes out a ping that was not given to a connection.
func (t *table[R]) dropPing(c *call[R]) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.calls[c.id] == c {
		t.removeLocked(c)
		t.turnsLocked()
	}
}

// takePing makes a batch of a ping. It returns nil if the client is closed.
func (t *table[R]) takePing(f *flusher[R], c *call[R], frame []byte) *batch[R] {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed != nil {
		return nil
	}
	l := t.linkLocked(f.writer.Conn())
	if t.inOrder {
		t.pinLocked(l) // so that no session begins before the reply has come
	}
	b := t.batchLocked()
	b.frames = append(t.bufferLocked(), frame...)
	b.calls.push(c)
	b.live = 1
	c.in, c.begin, c.size = b, 0, int32(len(frame))
	l.calls.splice(&b.calls)
	l.held++
	t.stats.Pings++
	t.beginLocked(f, l, b, 0)
	return b
}

// condemn notes why a connection is about to be killed.
func (t *table[R]) condemn(conn plex.Conn, why error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.condemnLocked(conn, why)
}

// errNoPong is what requests fail with on a connection that does not answer a ping.
func errNoPong(conn plex.Conn, d time.Duration) error {
	return fmt.Errorf("request: connection to %v killed because it has not answered a ping within %v: %w",
		conn.RemoteAddr(), d, ErrStalled)
}
