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
	side  *side
	conn  *conn
	r     plex.Reader // of one kind or the other
	w     plex.Writer
	d     plex.Duplex // or both
	mate  *lease      // the other half of a whole connection; nil if this is only a half
	came  int         // when, see machine.arrived
	ahead bool        // of the line, as just this connection was asked for

	probe   *probe // it is that of a probe
	pending bool   // it is of a caller who waits for the other half

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

// The methods of both kinds, for each half of a whole connection, too.

func (l *lease) read(p []byte) (int, error) {
	if l.mate != nil {
		return l.d.Read(p)
	}
	return l.r.Read(p)
}

func (l *lease) write(p []byte) (int, error) {
	if l.mate != nil {
		return l.d.Write(p)
	}
	return l.w.Write(p)
}

func (l *lease) setDeadline(deadline time.Time) error {
	switch {
	case l.mate != nil && l.side.name == "reader":
		return l.d.SetReadDeadline(deadline)
	case l.mate != nil:
		return l.d.SetWriteDeadline(deadline)
	case l.side.name == "reader":
		return l.r.SetReadDeadline(deadline)
	}
	return l.w.SetWriteDeadline(deadline)
}

// waiter is a call of Reader or Writer, or of what else there is to lease.
type waiter struct {
	side     *side
	ctx      context.Context
	cancel   context.CancelFunc
	deadline time.Time // zero: none
	timeout  time.Duration
	try      bool
	dials    int // that were under way when it came
	came     int // see machine.arrived
	of       *conn
	robbed   bool    // it may have been about to get a half that somebody else took, and lost its place by that
	choice   []*conn // whole connections that were idle when it came for one
	done     chan struct{}
	lease    *lease
	addr     net.Addr
	err      error
}

func (m *machine) acquire(t *rapid.T) {
	m.drawAcquire(t, rapid.SampledFrom(m.kinds()).Draw(t, "kind"))
}

// kinds is what the pool is asked for: writers, and read halves in one of the two ways.
func (m *machine) kinds() []*side {
	if m.attending {
		return []*side{&m.ready, &m.writers, &m.whole}
	}
	return []*side{&m.readers, &m.writers, &m.whole}
}

func (m *machine) sides() []*side {
	return []*side{&m.readers, &m.writers, &m.ready, &m.whole, &m.named}
}

// allWaiters returns those who wait for anything.
func (m *machine) allWaiters() (all []*waiter) {
	for _, s := range m.sides() {
		all = append(all, s.waiters...)
	}
	return all
}

func (m *machine) drawAcquire(t *rapid.T, s *side) {
	// For ever, not at all, or for a while; or with a ctx that has ended.
	timeout := rapid.SampledFrom([]time.Duration{0, -1, -1, 10 * time.Millisecond, time.Second}).Draw(t, "timeout")
	ended := rapid.IntRange(0, 9).Draw(t, "ended") == 0
	m.begin(s, nil, timeout, ended)
}

func (m *machine) begin(s *side, of *conn, timeout time.Duration, ended bool) {
	m.arrived++
	w := &waiter{side: s, of: of, try: timeout < 0, timeout: timeout, dials: len(m.dials), came: m.arrived, done: make(chan struct{})}
	if s == &m.whole {
		m.pairing = true
		if !ended && !m.attending && !m.closed { // where plex reads itself, a connection is not seen to be idle
			w.choice = m.idleWhole()
		}
	}
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
		case &m.whole:
			l.d, w.err = m.pool.Duplex(w.ctx, timeout)
			w.addr = l.d.RemoteAddr()
			l.side, l.mate = &m.readers, &lease{side: &m.writers, d: l.d, mate: l}
		case &m.named:
			l.w, w.err = of.name.Writer(w.ctx, timeout)
			w.addr = l.w.RemoteAddr()
			l.side = &m.writers
		default:
			l.w, w.err = m.pool.Writer(w.ctx, timeout)
			w.addr = l.w.RemoteAddr()
		}
		if w.err == nil {
			w.lease = l
		}
	}()
}

// settleWaiters compares who was served with who should be: those who came first, as long as there was anything to be
// had, and nobody else.
func (m *machine) settleWaiters() {
	held := len(m.held)
	m.clearPending()
	var served, refused []*waiter
	// What is due goes before the next lease, also if it has just been handed to a waiter.
	robbed := slices.ContainsFunc(m.order, m.isDue)
	for _, s := range m.sides() {
		passed := make(map[*conn]bool) // someone before is still waiting
		s.waiters = slices.DeleteFunc(s.waiters, func(w *waiter) bool {
			select {
			case <-w.done:
			default:
				require.Empty(m.t, w.choice, "a caller waits for a whole connection though one was idle")
				w.robbed = w.robbed || robbed && (s == &m.readers || s == &m.ready)
				passed[w.of] = passed[w.of] || s != &m.whole && !w.robbed
				return false
			}
			w.cancel() // the lease does not mind
			if w.err != nil {
				refused = append(refused, w)
				return true
			}
			require.False(m.t, passed[w.of], "a %s was served before another who had come first", s.name)
			m.served(w)
			served = append(served, w)
			return true
		})
	}
	m.learnPending()
	m.keepPending()
	for _, w := range refused {
		m.refused(w)
	}
	m.checkOneLine(served, held)
}

// mayHave returns the connections of which a caller can have a lease, and those of which that is not known.
func (m *machine) mayHave(s *side) []*conn {
	switch s {
	case &m.ready:
	case &m.whole:
		return m.idleWhole()
	default:
		return m.idle(s)
	}
	return slices.DeleteFunc(m.idle(&m.readers), func(c *conn) bool { return c.left() == 0 && !c.offered && !c.vague })
}

// has returns the connections of which a caller can have a lease.
func (m *machine) has(s *side) []*conn {
	return slices.DeleteFunc(m.mayHave(s), func(c *conn) bool { return s != &m.writers && c.vague })
}

// hasFor is has for one caller.
func (m *machine) hasFor(w *waiter) (has []*conn) {
	switch w.side {
	case &m.named:
		return slices.DeleteFunc(m.idle(&m.writers), func(c *conn) bool { return c != w.of })
	case &m.whole:
		if m.attending { // where plex reads itself, a connection is not seen to be idle
			return nil
		}
	}
	return m.has(w.side)
}

// checkWaiters looks whether those who wait have to.
func (m *machine) checkWaiters() {
	m.checkPending()
	for _, s := range m.sides() {
		for _, w := range s.waiters {
			switch s {
			case &m.whole: // see checkPending
			case &m.named:
				m.checkNamed(w)
			default:
				require.Empty(m.t, m.has(s), "a caller waits for a %s though there is one", s.name)
			}
			require.False(m.t, m.closed, "a caller waits for a %s of a closed pool", s.name)
			require.False(m.t, m.hopeless(), "a caller waits for a %s though there is nothing to wait for", s.name)
			require.False(m.t, w.try, "a caller waits who did not want to")
			require.NoError(m.t, w.ctx.Err())
			require.True(m.t, w.deadline.IsZero() || time.Now().Before(w.deadline), "a caller waits for a %s beyond its timeout", s.name)
		}
	}
}

func (m *machine) served(w *waiter) {
	m.acquired++
	l, s := w.lease, w.lease.side
	c := m.conns[w.addr.String()]
	require.NotNil(m.t, c, "%s of connection %v, which was not admitted", w.side.name, w.addr)
	require.False(m.t, m.closed, "%s after the pool was closed", describe(w.side, c))
	switch w.side {
	case &m.whole:
		m.servedWhole(w, c)
		return
	case &m.named:
		require.Same(m.t, w.of, c, "a writer of another connection")
		require.True(m.t, slices.Contains(m.idle(&m.writers), c) || c.justEnded && c.writer == nil, "%s, which was not to be had", describe(w.side, c))
	default:
		require.True(m.t, slices.Contains(m.mayHave(w.side), c) || m.tookWhatEnded(s, c),
			"%s, which was not to be had: dead %v, at its end %v, retired %v, leaving %v", describe(s, c), c.dead, c.atEnd, c.retired, c.leaving)
	}
	l.ahead = w.side == &m.named
	m.begins(l, c)
}

// tookWhatEnded reports whether a write half may have been leased in the moment before its connection came to its end.
func (m *machine) tookWhatEnded(s *side, c *conn) bool {
	return s == &m.writers && c.justEnded && c.writer == nil
}

// begins notes that a lease has begun.
func (m *machine) begins(l *lease, c *conn) {
	m.arrived++
	l.conn, l.came = c, m.arrived
	c.used = time.Now()
	s := l.side
	if s == &m.readers {
		c.vague = false
		c.reader = l
	} else {
		c.writer = l
	}
	if (c.name == plex.Conn{}) {
		c.name = l.name()
	}
	require.Equal(m.t, c.name, l.name(), "two names of connection %d", c.id)
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
			require.Empty(m.t, m.hasFor(w), "%v, though there is a %s", e, w.side.name)
			require.Equal(m.t, m.open(), e.Open)
			require.GreaterOrEqual(m.t, e.Connecting, w.dials)
			require.LessOrEqual(m.t, e.Connecting, len(m.dials)) // it has itself begun to connect, for those who come later
		}
	case w.side == &m.named:
		m.refusedNamed(w, e.Err)
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
	w := pick(t, "waiter", m.allWaiters())
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

// single returns those of them that are not of a whole connection.
func (s *side) single() []*lease {
	return slices.DeleteFunc(s.live(), func(l *lease) bool { return l.mate != nil })
}

// ended notes the end of a lease: the half is idle again, unless there is a reason why not.
func (m *machine) ended(l *lease) {
	if l.over {
		return
	}
	l.over = true
	c := l.conn
	c.used = time.Now()
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
	if l.mate != nil {
		err = m.useStaleWhole(l.d, op)
	} else if l.side == &m.readers {
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
