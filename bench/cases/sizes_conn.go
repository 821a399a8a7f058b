package cases

// Connections in memory for pools that are larger than the number of descriptors that a process may
// have.

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex"
)

// still is a connection on which at most one byte arrives, and its end. It heeds deadlines, as a
// socket does, and takes little memory, so that what is measured is the pool.
type still struct {
	mu      sync.Mutex
	changed sync.Cond
	arrived bool // a byte, which nobody has read
	ended   bool // by the peer
	closed  bool
	past    bool // the read deadline has passed
	timer   *time.Timer
	set     int // how often the read deadline has been set
}

func newStill() *still {
	c := new(still)
	c.changed.L = &c.mu
	return c
}

// stillAddr is the address of all of them.
type stillAddr struct{}

func (stillAddr) Network() string { return "memory" }
func (stillAddr) String() string  { return "memory" }

func (*still) LocalAddr() net.Addr  { return stillAddr{} }
func (*still) RemoteAddr() net.Addr { return stillAddr{} }

func (c *still) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.closed:
			return 0, net.ErrClosed
		case c.past:
			return 0, os.ErrDeadlineExceeded
		case c.arrived && len(p) > 0:
			c.arrived = false
			return copy(p, "x"), nil
		case c.ended:
			return 0, io.EOF
		}
		c.changed.Wait()
	}
}

func (c *still) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, net.ErrClosed
	}
	return len(p), nil
}

// change changes the state, and wakes whoever reads.
func (c *still) change(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
	c.changed.Broadcast()
}

// arrive has a byte arrive.
func (c *still) arrive() { c.change(func() { c.arrived = true }) }

// end is the peer's close.
func (c *still) end() { c.change(func() { c.ended = true }) }

func (c *still) Close() error {
	c.change(func() { c.closed = true })
	return nil
}

func (c *still) SetDeadline(t time.Time) error    { return c.SetReadDeadline(t) }
func (c *still) SetWriteDeadline(time.Time) error { return nil }

func (c *still) SetReadDeadline(t time.Time) error {
	c.change(func() {
		if c.timer != nil {
			c.timer.Stop()
			c.timer = nil
		}
		c.set++
		wait := time.Until(t)
		c.past = !t.IsZero() && wait <= 0
		if t.IsZero() || c.past {
			return
		}
		set := c.set
		c.timer = time.AfterFunc(wait, func() {
			c.change(func() { c.past = c.past || c.set == set })
		})
	})
	return nil
}

// stills dials connections in memory, and remembers those that it has dialled.
type stills struct {
	dialed atomic.Int64

	mu    sync.Mutex
	conns []*still // nil if nobody wants to know
	keep  bool
}

func (s *stills) dial(context.Context) (net.Conn, error) {
	c := newStill()
	s.dialed.Add(1)
	if s.keep {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.conns = append(s.conns, c)
	}
	return c, nil
}

// take returns the connections dialled so far, and remembers them no more.
func (s *stills) take() []*still {
	s.mu.Lock()
	defer s.mu.Unlock()
	conns := s.conns
	s.conns, s.keep = nil, false
	return conns
}

// whole waits until so many have been dialled and the pool has n connections in service, none of
// them on its way out.
func (s *stills) whole(m *plex.Multiplexer, dialed int64, n int) {
	for s.dialed.Load() < dialed {
		time.Sleep(time.Millisecond)
	}
	for {
		if st := m.Stats(); st.Open == n && st.Connecting == 0 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}
