package model

// Connections by name: a writer of just one, pins, and those that are to be retired because somebody has asked for it.

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"pgregory.net/rapid"
)

// learnNames asks for the names of the connections that have come into service.
func (m *machine) learnNames() {
	if !slices.ContainsFunc(m.order, func(c *conn) bool { return c.name == plex.Conn{} }) {
		return
	}
	for name := range m.pool.Conns() {
		if c := m.conns[name.RemoteAddr().String()]; c != nil {
			c.name = name
		}
	}
}

// nameable returns the connections of which the model has the name, also those that have ended.
func (m *machine) nameable() []*conn {
	return slices.DeleteFunc(slices.Clone(m.order), func(c *conn) bool { return c.name == plex.Conn{} })
}

// acquireNamed asks for the writer of one connection.
func (m *machine) acquireNamed(t *rapid.T) {
	c := pick(t, "connection", m.nameable())
	timeout := rapid.SampledFrom([]time.Duration{0, -1, 10 * time.Millisecond, time.Second}).Draw(t, "timeout")
	m.begin(&m.named, c, timeout, rapid.IntRange(0, 9).Draw(t, "ended") == 0)
}

// checkNamed looks whether a caller who waits for the writer of one connection has to.
func (m *machine) checkNamed(w *waiter) {
	c := w.of
	require.NotNil(m.t, c.writer, "a caller waits for the idle writer of connection %d", c.id)
	require.False(m.t, c.writeGone(), "a caller waits for the writer of connection %d, which has ended", c.id)
	require.True(m.t, c.writer.ahead || c.writer.came < w.came, "somebody was served before a caller who wants just the writer of connection %d", c.id)
}

// refusedNamed compares the reason why the writer of one connection is not to be had.
func (m *machine) refusedNamed(w *waiter, err error) {
	require.True(m.t, w.of.writeGone() || m.closed, "%v", err)
	m.tellsTheEndToNamed(w.of, err)
}

// tellsTheEndToNamed compares what those are told who ask for a connection that has ended, or is about to.
func (m *machine) tellsTheEndToNamed(c *conn, err error) {
	switch {
	case errors.Is(err, plex.ErrRetired) && (c.retired || c.leaving || m.closed && m.isDue(c)):
	case c.dead:
		require.ErrorIs(m.t, err, c.cause)
	case c.retired, c.leaving, c.detached != nil:
		require.ErrorIs(m.t, err, plex.ErrRetired)
	case c.atEnd:
		require.ErrorIs(m.t, err, io.EOF)
	default:
		require.ErrorIs(m.t, err, plex.ErrClosed)
	}
}

// ---------------------------------------------------------------------------------------------------------------------
// Pins

const mostPins = 2 // of one connection

func (m *machine) pin(t *rapid.T) {
	c := pick(t, "connection", m.nameable())
	if len(c.pins) == mostPins {
		t.Skip("it has enough")
	}
	c.pins = append(c.pins, c.name.Pin())
}

func (m *machine) unpin(t *rapid.T) {
	c := pick(t, "pinned connection", slices.DeleteFunc(slices.Clone(m.order), func(c *conn) bool { return len(c.pins) == 0 }))
	i := rapid.IntRange(0, len(c.pins)-1).Draw(t, "pin")
	undo := c.pins[i]
	c.pins = slices.Delete(c.pins, i, i+1)
	undo()
	undo() // has no effect
}

func (m *machine) unpinAll(c *conn) {
	for _, undo := range c.pins {
		undo()
	}
	c.pins = nil
}

// dueSince is when a connection became one that is to be retired, at the earliest; far away if it is none.
func (m *machine) dueSince(c *conn) time.Time {
	since := time.Now().Add(time.Hour)
	if !c.asked.IsZero() {
		since = c.asked
	}
	if m.cfg.lifetime {
		if old := c.name.Info().Opened.Add(m.cfg.maxLife - m.cfg.maxLife/10); old.Before(since) {
			since = old
		}
	}
	return since
}

// isDue reports whether a connection is to be retired.
func (m *machine) isDue(c *conn) bool { return !time.Now().Before(m.dueSince(c)) }

// checkPins looks whether a connection that was retired was not kept by a pin any more.
func (m *machine) checkPins(c *conn) {
	if len(c.pins) > 0 {
		require.False(m.t, time.Now().Before(m.dueSince(c).Add(m.cfg.grace)), "connection %d was retired though it is pinned", c.id)
	}
}

// kept reports whether pins keep a connection that is leaving.
func (m *machine) kept(c *conn) bool {
	// See TestAPinOfAConnectionThatIsLeavingKeepsItForTheGraceAtMost.
	return len(c.pins) > 0 && time.Now().Before(c.drains.Add(m.cfg.grace))
}

// ---------------------------------------------------------------------------------------------------------------------
// Retiring

// retire asks for another connection in the place of this.
func (m *machine) retire(t *rapid.T) {
	c := pick(t, "connection", m.nameable())
	m.ask(c)
	c.name.Retire()
}

func (m *machine) ask(c *conn) {
	if c.asked.IsZero() {
		c.asked = time.Now()
	}
}

// renewal is a call of Renew.
type renewal struct {
	ctx    context.Context
	cancel context.CancelFunc
	began  time.Time
	old    []*conn // open when it began
}

const renewPause = 20 * time.Millisecond // the longest between two connections

func (r *renewal) goesOn() []*conn {
	return slices.DeleteFunc(slices.Clone(r.old), func(c *conn) bool { return c.peek().closes > 0 || c.detached != nil })
}

// renew asks for others in the place of all.
func (m *machine) renew(*rapid.T) {
	r := &renewal{began: time.Now()}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	m.renews = append(m.renews, r)
	if m.cfg.connector {
		r.old = slices.DeleteFunc(slices.Clone(m.order), func(c *conn) bool { return !m.serves(c) })
	}
	for _, c := range r.old {
		m.ask(c)
	}
	var err error
	m.start("Renew", func() { err = m.pool.Renew(r.ctx) }, func() bool {
		pausing := !time.Now().After(r.began.Add(renewPause * time.Duration(len(r.old))))
		return r.ctx.Err() == nil && !m.forced && (pausing || len(r.goesOn()) > 0)
	}, func() {
		m.renews = slices.DeleteFunc(m.renews, func(o *renewal) bool { return o == r })
		r.cancel()
		switch {
		case !m.cfg.connector:
			require.Error(m.t, err)
		case err == nil:
			require.Empty(m.t, r.goesOn(), "Renew has returned, though connections are open that it was for")
		case errors.Is(err, plex.ErrClosed):
			require.True(m.t, m.closed, "%v", err)
		default:
			require.ErrorIs(m.t, err, context.Canceled)
		}
	})
}

func (m *machine) cancelRenew(t *rapid.T) { pick(t, "renewal", m.renews).cancel() }

// serves reports whether a connection is in service.
func (m *machine) serves(c *conn) bool { return !c.writeGone() }

// inService is how many connections the pool says are.
func (m *machine) inService() (n int) {
	for range m.pool.Conns() {
		n++
	}
	return n
}

// checkService compares which connections are in service.
func (m *machine) checkService() {
	if m.closed {
		return
	}
	var want, got []uint32
	for _, c := range m.order {
		if m.serves(c) {
			want = append(want, c.id)
		}
	}
	for name := range m.pool.Conns() {
		got = append(got, m.conns[name.RemoteAddr().String()].id)
	}
	require.ElementsMatch(m.t, want, got, "connections in service")
}

// learnLeaving finds connections that are leaving while a consumer reads, or because something is expected of them. Their
// write half was retired. The consumer may have been given the reader a moment before. Readers who come for what has arrived do not keep a connection for ever.
func (m *machine) learnLeaving() {
	if m.closed {
		return
	}
	var leave []*conn
	for _, c := range m.order {
		w := c.peek()
		if m.serves(c) && (c.writer == nil || len(c.pins) > 0) && w.closes == 0 && !w.eofTold && !w.errTold {
			leave = append(leave, c)
		}
	}
	for in := range m.pool.Conns() {
		leave = slices.DeleteFunc(leave, func(c *conn) bool { return c.RemoteAddr().String() == in.RemoteAddr().String() })
	}
	for _, c := range m.order {
		w := c.peek()
		if !c.leaving || c.drained || c.dead || c.retired || w.errTold || w.eofTold {
			continue
		}
		in := c.name.Info()
		if in.Err != nil && !errors.Is(in.Err, plex.ErrRetired) || in.Reader.State != plex.HalfRetired && in.Err == nil {
			continue
		}
		if c.writer != nil && !c.writer.closing {
			m.t.Fatalf("connection %d drains under a write lease", c.id)
		}
		if c.reader == nil && in.Reader.State == plex.HalfRetired {
			m.checkPins(c)
			c.drained = true
		}
	}
	for _, c := range leave {
		m.countRetired(c)
		m.checkReplaced(c, m.inService())
		c.leaving, c.counted, c.justEnded = true, true, true
		c.drains = time.Now()
	}
}

// countRetired notes that a connection was retired, for one of the reasons that there are.
func (m *machine) countRetired(c *conn) {
	s := m.pool.Stats()
	switch {
	case !c.asked.IsZero() && m.renewed+m.detached < int(s.Retired-s.Expired-s.ScaledDown):
		m.renewed++
	case m.expired < int(s.Expired):
		m.expired++
	case m.scaledDown < int(s.ScaledDown):
		m.scaledDown++
	default:
		m.t.Fatalf("connection %d left for no reason", c.id)
	}
}

// checkReplaced looks whether a connection was retired only when another had taken its place, where there is room for
// one more. A connect that should have ended long ago is not waited for.
func (m *machine) checkReplaced(c *conn, inService int) {
	if !m.cfg.connector || m.cfg.scaling || m.cfg.minimum >= m.cfg.capacity {
		return
	}
	least := m.cfg.minimum - (int(m.pool.Stats().Lost) - m.lostBefore)
	for _, d := range m.dials {
		if time.Since(d.began) >= connectTimeout {
			least--
		}
	}
	require.GreaterOrEqual(m.t, inService, least, "connection %d was retired before another had taken its place", c.id)
}

// checkAllLeft looks whether all connections have left that were to be retired, when nothing keeps them any more. Where
// there is no room to replace them first, they stay if the service is not known to be well.
func (m *machine) checkAllLeft() {
	if m.cfg.connector && m.connectFailed+m.lost > 0 {
		return
	}
	for _, c := range m.order {
		if !c.asked.IsZero() && c.detached == nil && !(m.attending && c.left() > 0) { // which is kept for ready readers
			require.Equal(m.t, 1, c.peek().closes, "connection %d has not been retired: %+v %+v", c.id, c.name.Info(), m.pool.Stats())
		}
	}
}
