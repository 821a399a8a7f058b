package model

// Whole connections: who gets them and who waits, their end, and connections that are taken out of the pool.
//
// A caller of Duplex first waits for a write half, in one line with the callers of Writer, and then, with that in hand,
// for the read half beside it. Which of the callers holds which write half cannot be seen, so the model knows only of
// which connections somebody does: those are pending.

import (
	"errors"
	"io"
	"slices"
	"time"

	"github.com/stretchr/testify/require"
	"go.atomizer.io/plex"
	"pgregory.net/rapid"
)

// name is that of the connection that the lease is on.
func (l *lease) name() plex.Conn {
	switch {
	case l.mate != nil:
		return l.d.Conn()
	case l.side.name == "reader":
		return l.r.Conn()
	}
	return l.w.Conn()
}

// idleWhole returns the connections of which both halves can be leased, and of which nobody expects anything.
func (m *machine) idleWhole() []*conn {
	writers := m.idle(&m.writers)
	return slices.DeleteFunc(m.idle(&m.readers), func(c *conn) bool { return !slices.Contains(writers, c) || len(c.pins) > 0 })
}

// pending returns the connections whose write half is held by a caller who waits for the read half.
func (m *machine) pending() (pending []*conn) {
	for _, c := range m.order {
		if c.writer != nil && c.writer.pending && c.writer.probe == nil {
			pending = append(pending, c)
		}
	}
	return pending
}

// learnPending finds them.
func (m *machine) learnPending() {
	m.clearPending()
	if len(m.whole.waiters) == 0 {
		m.held, m.displaced = nil, 0
		return
	}
	for _, c := range m.order {
		if c.writer != nil || c.name.Info().Writer.State != plex.HalfLeased {
			continue
		}
		i := slices.IndexFunc(m.held, func(l *lease) bool { return l.conn == c })
		if i >= 0 {
			c.writer = m.held[i]
			continue
		}
		m.arrived++
		c.writer = &lease{side: &m.writers, conn: c, came: m.arrived, pending: true}
	}
}

// clearPending forgets them: whoever has been served since, or has given up, is about to be noted.
func (m *machine) clearPending() {
	for _, c := range m.pending() {
		c.writer = nil
	}
}

// keepPending remembers them until the next comparison. A caller whose connection has ended goes to the end of the line.
func (m *machine) keepPending() {
	for _, l := range m.held {
		if l.conn.writer != l && (l.conn.writeGone() || l.conn.readGone()) {
			m.displaced++
		}
	}
	for _, c := range m.order {
		if c.justEnded { // somebody may have had its write half for less than the time between two comparisons
			m.displaced++
		}
	}
	m.held = nil
	for _, c := range m.pending() {
		m.held = append(m.held, c.writer)
	}
}

// checkOneLine compares the order in which callers of Writer and Duplex were served with that in which they came. Held
// is how many of the latter had a write half before.
func (m *machine) checkOneLine(served []*waiter, held int) {
	before := func(waiters []*waiter, w *waiter) (n int) {
		for _, o := range waiters {
			if o.came < w.came {
				n++
			}
		}
		return n
	}
	excused, overtook := len(m.pending())+m.displaced, 0
	for _, w := range served {
		switch {
		case w.side == &m.writers:
			require.LessOrEqual(m.t, before(m.whole.waiters, w), excused, "a writer was served before a whole connection that was asked for first")
		case w.side == &m.whole && (before(m.whole.waiters, w) > excused || before(m.writers.waiters, w) > 0):
			overtook++
		}
	}
	require.LessOrEqual(m.t, overtook, held, "a whole connection was served before others who had come first")
}

// checkPending looks whether those who wait for a whole connection have to.
func (m *machine) checkPending() {
	pending := m.pending()
	require.LessOrEqual(m.t, len(pending), len(m.whole.waiters), "write halves are leased to nobody")
	if len(pending) < len(m.whole.waiters) {
		require.Empty(m.t, m.has(&m.writers), "a caller waits for a whole connection, and has no write half though there is one")
	}
	for _, c := range pending {
		require.True(m.t, c.reader != nil && !c.writeGone() || len(c.pins) > 0 && !c.writeGone(), "a caller waits for the idle read half of connection %d", c.id)
	}
}

// servedWhole notes the leases of a whole connection.
func (m *machine) servedWhole(w *waiter, c *conn) {
	m.acquired++ // both halves count
	i := slices.IndexFunc(m.held, func(l *lease) bool { return l.conn == c })
	require.True(m.t, slices.Contains(m.idle(&m.readers), c) && c.writer == nil && len(c.pins) == 0 && (i >= 0 || c.justEnded || !c.writeGone()),
		"%s, which was not to be had", describe(w.side, c))
	if len(w.choice) > 0 {
		require.Contains(m.t, w.choice, c, "a caller got a connection that was not idle, though one was")
	}
	l := w.lease
	m.begins(l, c)
	m.begins(l.mate, c)
	if i >= 0 {
		l.mate.came = m.held[i].came
	}
}

// wholes returns the leases of whole connections, the read half of each, that nobody has begun to end.
func (m *machine) wholes() []*lease {
	return slices.DeleteFunc(m.readers.live(), func(l *lease) bool { return l.mate == nil })
}

func (m *machine) closeWhole(t *rapid.T) { m.endWhole(pick(t, "whole connection", m.wholes()), false) }

func (m *machine) killWhole(t *rapid.T) { m.endWhole(pick(t, "whole connection", m.wholes()), true) }

func (m *machine) endWhole(l *lease, kill bool) {
	l.closing, l.mate.closing = true, true
	if kill {
		m.fail(l.conn, plex.ErrKilled)
	}
	var err error
	m.start("the end of a lease of "+describe(&m.whole, l.conn), func() {
		if kill {
			err = l.d.Kill()
		} else {
			err = l.d.Close()
		}
	}, func() bool { return false }, func() {
		require.NoError(m.t, err)
		m.ended(l)
		m.ended(l.mate)
	}).ends = l
}

// useStaleWhole does with a whole connection that has ended what must have no effect.
func (m *machine) useStaleWhole(d plex.Duplex, op int) (err error) {
	switch op {
	case 0:
		_, err = d.Read(make([]byte, 5))
	case 1:
		err = d.Close()
	case 2:
		err = d.Kill()
	case 3:
		err = errors.Join(d.SetDeadline(time.Unix(1, 0)), d.SetReadDeadline(time.Unix(1, 0)), d.SetWriteDeadline(time.Unix(1, 0)))
	case 4:
		_, err = d.Write([]byte("stale"))
	case 5:
		_, err = d.Detach()
	}
	return err
}

// detach takes a connection out of the pool. It is the consumer's from then on, with all that it has not delivered.
func (m *machine) detach(t *rapid.T) {
	l := pick(t, "whole connection", m.wholes())
	c := l.conn
	l.closing, l.mate.closing = true, true
	var err error
	m.start("Detach of "+describe(&m.whole, c), func() { c.detached, err = l.d.Detach() }, func() bool { return false }, func() {
		got := c.detached
		c.detached = nil
		m.ended(l)
		m.ended(l.mate)
		if err == nil {
			require.False(m.t, c.dead || c.atEnd || m.closed || c.leaving, "a connection was detached that has ended: %v", c.cause)
			require.Zero(m.t, c.peek().closes)
			c.detached = got
			m.detached++
			return
		}
		require.Nil(m.t, got)
		m.tellsTheEndToNamed(c, err)
		require.True(m.t, c.dead || c.atEnd || m.closed || c.leaving, "a connection that is well was not detached: %v", err)
	}).ends = l
}

// theirs returns the connections that were taken out of the pool and not closed yet.
func (m *machine) theirs() (theirs []*conn) {
	for _, c := range m.order {
		if c.detached != nil && c.peek().closes == 0 {
			theirs = append(theirs, c)
		}
	}
	return theirs
}

// useDetached does with such a connection what its owner may, without any deadline: the pool has left none.
func (m *machine) useDetached(t *rapid.T) {
	c := pick(t, "detached connection", m.theirs())
	w := c.peek()
	switch rapid.IntRange(0, 4).Draw(t, "use") {
	case 0, 1:
		m.readDetached(c, rapid.IntRange(1, 40).Draw(t, "size"))
	case 2, 3:
		if w.err != nil || w.credit == 0 {
			t.Skip("it would block or fail")
		}
		n, err := c.detached.Write(c.next(w.written, 1))
		require.NoError(t, err)
		require.Equal(t, 1, n)
		require.NoError(t, c.verdict())
	default:
		require.NoError(t, c.detached.Close())
	}
}

// readDetached reads once, unless that would block.
func (m *machine) readDetached(c *conn, size int) {
	w := c.peek()
	if c.left() == 0 && !w.fin && w.err == nil {
		return
	}
	left, p := c.left(), make([]byte, size)
	n, err := c.detached.Read(p)
	m.deliver(c, p[:n])
	switch {
	case left > 0:
		require.NoError(m.t, err)
		require.Positive(m.t, n)
	case w.err != nil:
		require.Error(m.t, err)
	default:
		require.Equal(m.t, io.EOF, err)
	}
}

// closeDetached reads what is left in the connections that were taken out of the pool, and closes them.
func (m *machine) closeDetached() {
	for _, c := range m.theirs() {
		for c.left() > 0 {
			m.readDetached(c, 10)
		}
		require.NoError(m.t, c.detached.Close())
	}
}
