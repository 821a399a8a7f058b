package plex

// The sweeper looks at idle connections from time to time, where no descriptor
// can be watched. It reads from each for a moment, which finds an end or an
// error; what else it finds goes to the next lease.

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

const (
	sweepInterval = time.Second
	sweepGlance   = time.Millisecond // how long a connection is looked at
)

type sweeper struct {
	m    *Multiplexer
	done chan struct{}

	mu    sync.Mutex
	conns map[*conn]struct{}
}

func newSweeper(m *Multiplexer) *sweeper {
	return &sweeper{m: m, done: make(chan struct{}), conns: make(map[*conn]struct{})}
}

// sweeps reports whether c can be swept: a type that is known to heed a
// deadline.
func sweeps(c *conn) bool {
	switch c.nc.(type) {
	case *net.TCPConn, *net.UnixConn, *tls.Conn:
		return !c.datagram
	}
	return false
}

func (s *sweeper) add(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[c] = struct{}{}
}

func (s *sweeper) remove(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

func (s *sweeper) stop() { close(s.done) }

func (s *sweeper) run() {
	ticker := time.NewTicker(sweepInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-s.done:
			return
		}
		s.mu.Lock()
		conns := make([]*conn, 0, len(s.conns))
		for c := range s.conns {
			conns = append(conns, c)
		}
		s.mu.Unlock()
		for _, c := range conns {
			c.glance()
		}
	}
}

// glance reads from an idle connection for a moment.
func (c *conn) glance() {
	h := &c.r
	if h.state.Load()&(backlog|ending) != 0 {
		return // there is something to be read
	}
	if c.m.cfg.connect == nil { // with one there is always something to wait for
		c.m.beginLook()
		defer c.m.endLook()
	}
	h.deferToWaiter()
	if !h.hold() {
		return // somebody reads
	}
	err := h.conn.nc.SetReadDeadline(time.Now().Add(sweepGlance))
	var failed error
	if err == nil {
		if failed = h.fetch(); errors.Is(failed, os.ErrDeadlineExceeded) {
			failed = nil
		}
		err = h.conn.nc.SetReadDeadline(time.Time{})
	}
	if failed != nil {
		h.lookFailed(failed)
	}
	if !h.ended {
		h.deadlineLeft(err)
	}
	h.letGo(h.over() || h.ended && c.keepRemains())
	// Whoever came meanwhile because of its age, and went away as it was held.
	if h.state.Load()&(expiring|leased|gone) == expiring && c.w.state.Load()&(leased|held) == 0 {
		c.m.expire(c)
	}
}
