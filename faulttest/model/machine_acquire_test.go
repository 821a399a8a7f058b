package model

// Those who acquire leases, and handles that are used after their time.

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"pgregory.net/rapid"
)

// lease is a lease in the model's hands.
type lease struct {
	side *side
	conn *conn
	r    plex.Reader // of one kind or the other
	w    plex.Writer

	deadline time.Time
	closing  bool // Close or Kill has been called
	over     bool
	busy     bool // a Read or Write is under way
	in       *inflow
	streamed bool // there has been one
	before   bool // it was over when plex saw the end of the connection
	out      *outflow
	unsent   uint64 // by streams before out
}

func (l *lease) expired() bool { return !l.deadline.IsZero() && !time.Now().Before(l.deadline) }

// waiter is a call of Reader or Writer.
type waiter struct {
	side     *side
	ctx      context.Context
	cancel   context.CancelFunc
	deadline time.Time // zero: none
	try      bool
	dials    int // that were under way when it came
	done     chan struct{}
	lease    *lease
	addr     net.Addr
	err      error
}

func (m *machine) acquire(t *rapid.T) {
	m.drawAcquire(t, rapid.SampledFrom(m.asked()).Draw(t, "kind"))
}

// asked is what the pool is asked for: writers, and read halves in one of the two ways.
func (m *machine) asked() []*side {
	if m.attending {
		return []*side{&m.ready, &m.writers}
	}
	return []*side{&m.readers, &m.writers}
}

func (m *machine) drawAcquire(t *rapid.T, s *side) {
	// For ever, not at all, or for a while; or with a ctx that has ended.
	timeout := rapid.SampledFrom([]time.Duration{0, -1, -1, 10 * time.Millisecond, time.Second}).Draw(t, "timeout")
	ended := rapid.IntRange(0, 9).Draw(t, "ended") == 0
	m.begin(s, timeout, ended)
}

func (m *machine) begin(s *side, timeout time.Duration, ended bool) *waiter {
	w := &waiter{side: s, try: timeout < 0, dials: len(m.dials), done: make(chan struct{})}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	if ended {
		w.cancel()
	}
	if timeout > 0 {
		w.deadline = time.Now().Add(timeout)
	}
	s.waiters = append(s.waiters, w)
	go func() {
		defer close(w.done)
		l := &lease{side: s}
		switch s {
		case &m.readers:
			l.r, w.err = m.pool.Reader(w.ctx, timeout)
			w.addr = l.r.RemoteAddr()
		case &m.ready:
			l.r, w.err = m.pool.ReadyReader(w.ctx, timeout)
			w.addr = l.r.RemoteAddr()
			l.side = &m.readers
		default:
			l.w, w.err = m.pool.Writer(w.ctx, timeout)
			w.addr = l.w.RemoteAddr()
		}
		if w.err == nil {
			w.lease = l
		}
	}()
	return w
}

// settleWaiters compares who was served with who should be: those who came first, as long as there was anything to be
// had, and nobody else.
func (m *machine) settleWaiters() {
	for _, s := range []*side{&m.readers, &m.writers, &m.ready} {
		passed := false // someone before is still waiting
		s.waiters = slices.DeleteFunc(s.waiters, func(w *waiter) bool {
			select {
			case <-w.done:
			default:
				passed = true
				return false
			}
			w.cancel() // the lease does not mind
			if w.err != nil {
				m.refused(w)
				return true
			}
			require.False(m.t, passed, "a %s was served before another who had come first", s.name)
			m.served(w)
			return true
		})
	}
}

// mayHave returns the connections of which a caller can have a lease, and those of which that is not known.
func (m *machine) mayHave(s *side) []*conn {
	if s != &m.ready {
		return m.idle(s)
	}
	return slices.DeleteFunc(m.idle(&m.readers), func(c *conn) bool { return c.left() == 0 && !c.offered && !c.vague })
}

// has returns the connections of which a caller can have a lease.
func (m *machine) has(s *side) []*conn {
	return slices.DeleteFunc(m.mayHave(s), func(c *conn) bool { return s != &m.writers && c.vague })
}

// checkWaiters looks whether those who wait have to.
func (m *machine) checkWaiters() {
	for _, s := range []*side{&m.readers, &m.writers, &m.ready} {
		for _, w := range s.waiters {
			require.Empty(m.t, m.has(s), "a caller waits for a %s though there is one", s.name)
			require.False(m.t, m.closed, "a caller waits for a %s of a closed pool", s.name)
			require.False(m.t, m.hopeless(), "a caller waits for a %s though there is nothing to wait for", s.name)
			require.False(m.t, w.try, "a caller waits who did not want to")
			require.NoError(m.t, w.ctx.Err())
			require.True(m.t, w.deadline.IsZero() || time.Now().Before(w.deadline), "a caller waits beyond its timeout")
		}
	}
}

func (m *machine) served(w *waiter) {
	m.acquired++
	l, s := w.lease, w.lease.side
	c := m.conns[w.addr.String()]
	require.NotNil(m.t, c, "%s of connection %v, which was not admitted", s.name, w.addr)
	require.False(m.t, m.closed, "%s after the pool was closed", describe(s, c))
	require.True(m.t, slices.Contains(m.mayHave(w.side), c), "%s, which was not to be had", describe(s, c))
	l.conn = c
	if s == &m.readers {
		c.vague = false
		c.reader = l
	} else {
		c.writer = l
	}
	s.leases = append(s.leases, l)
}

// refused compares the reason why a caller has no lease.
func (m *machine) refused(w *waiter) {
	var e *plex.AcquireError
	require.ErrorAs(m.t, w.err, &e)
	require.Equal(m.t, w.side.name, e.Half)
	require.Equal(m.t, m.cfg.capacity, e.Capacity)
	require.LessOrEqual(m.t, e.Open+e.Connecting, e.Capacity)
	switch {
	case errors.Is(e.Err, context.Canceled):
		if w.side != &m.ready {
			m.canceled++
		}
		require.ErrorIs(m.t, w.ctx.Err(), context.Canceled)
	case errors.Is(e.Err, plex.ErrTimeout):
		if w.side != &m.ready && !w.try { // who does not want to wait has not waited in vain
			m.timedOut++
		}
		require.True(m.t, e.Timeout())
		require.True(m.t, w.try || !w.deadline.IsZero() && !time.Now().Before(w.deadline), "too soon: %v", e)
		if w.try {
			require.Empty(m.t, m.has(w.side), "%v, though there is a %s", e, w.side.name)
			require.Equal(m.t, m.open(), e.Open)
			require.GreaterOrEqual(m.t, e.Connecting, w.dials)
			require.LessOrEqual(m.t, e.Connecting, len(m.dials)) // it has itself begun to connect, for those who come later
		}
	case errors.Is(e.Err, plex.ErrNoConnections):
		require.True(m.t, m.hopeless(), "%v", e)
		require.Empty(m.t, m.has(w.side), "%v, though there is a %s", e, w.side.name)
	case errors.Is(e.Err, plex.ErrClosed):
		require.True(m.t, m.closed, "%v", e)
	default:
		m.t.Fatalf("an unexpected error: %v", e)
	}
	require.ErrorIs(m.t, w.err, e.Err)
}

func (m *machine) cancelWaiter(t *rapid.T) {
	w := pick(t, "waiter", slices.Concat(m.readers.waiters, m.writers.waiters, m.ready.waiters))
	w.cancel()
}

// live returns the leases of a kind that nobody has begun to end.
func (s *side) live() (live []*lease) {
	for _, l := range s.leases {
		if !l.closing {
			live = append(live, l)
		}
	}
	return live
}

// ended notes the end of a lease: the half is idle again, unless there is a reason why not.
func (m *machine) ended(l *lease) {
	if l.over {
		return
	}
	l.over = true
	c := l.conn
	l.side.leases = slices.DeleteFunc(l.side.leases, func(x *lease) bool { return x == l })
	m.stale = append(m.stale, l)
	if l.side == &m.writers {
		if c.writer == l {
			c.writer = nil
		}
		return
	}
	if c.reader == l {
		c.reader = nil
	}
	if !c.ended || l.before {
		return
	}
	switch {
	case c.left() > 0:
		c.untold = m.attending
	case c.untold && l.streamed:
		c.vague, c.untold = true, false
	default:
		c.offered = c.untold // until someone has been told
	}
	if !c.readGone() {
		m.keepRemains(c)
	}
}

// keepRemains is the bound on what closed connections have left to be read: as many as the capacity, the newest.
func (m *machine) keepRemains(c *conn) {
	if !c.kept {
		c.kept = true
		m.remains = append(m.remains, c)
	}
	m.remains = slices.DeleteFunc(m.remains, func(c *conn) bool { return c.readGone() && c.reader == nil })
	most := m.cfg.capacity
	if m.attending {
		most *= 4
	}
	if len(m.remains) > most {
		victim := m.remains[0]
		m.remains = m.remains[1:]
		victim.kept = false
		victim.dropped = victim.reader == nil
	}
}

// useStaleHandle does with a lease that has ended what must have no effect.
func (m *machine) useStaleHandle(t *rapid.T) {
	l := pick(t, "stale handle", m.stale)
	op := rapid.IntRange(0, 5).Draw(t, "operation")
	var err error
	ctx, past := context.Background(), time.Unix(1, 0)
	if l.side == &m.readers {
		switch op {
		case 0:
			_, err = l.r.Read(make([]byte, 5))
		case 1:
			err = l.r.Close()
		case 2:
			err = l.r.Kill()
		case 3:
			err = l.r.SetReadDeadline(past)
		case 4:
			_, err = l.r.Recv(ctx, 1)
		case 5:
			_, err = l.r.RecvChunks(ctx, 1)
		}
	} else {
		switch op {
		case 0:
			_, err = l.w.Write([]byte("stale"))
		case 1:
			err = l.w.Close()
		case 2:
			err = l.w.Kill()
		case 3:
			err = l.w.SetWriteDeadline(past)
		case 4:
			_, err = l.w.Send(ctx, 1)
		case 5:
			_, err = l.w.SendChunks(ctx, 1)
		}
		select {
		case <-l.w.Done():
		default:
			t.Fatalf("the Done channel of a lease that has ended is open")
		}
	}
	require.ErrorIs(t, err, plex.ErrLeaseClosed)
	require.ErrorIs(t, err, net.ErrClosed)
}

// explained compares an error that a Read or Write returned with what has happened to its lease and connection.
func (m *machine) explained(l *lease, err error) {
	c := l.conn
	switch {
	case errors.Is(err, plex.ErrLeaseClosed):
		require.True(m.t, l.closing, "lease closed: by whom?")
	case errors.Is(err, os.ErrDeadlineExceeded):
		require.True(m.t, l.expired(), "a deadline that nobody set: %v", err)
	default:
		m.tellsTheEnd(c, err)
	}
}

// tellsTheEnd compares an error with what has become of the connection.
func (m *machine) tellsTheEnd(c *conn, err error) {
	if c.retired && !c.dead {
		require.ErrorIs(m.t, err, plex.ErrRetired)
		return
	}
	require.True(m.t, c.dead, "an error of a connection that is well: %v", err)
	require.ErrorIs(m.t, err, c.cause)
}
