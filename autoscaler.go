package plex

// The auto-scaler: when to add connections because callers wait, and when
// to close those that nobody has needed. Its decisions are carried out by the
// supervisor (healer.go).

import (
	"slices"
	"time"
)

// idleSlots is in how many parts the idle timeout is looked at: a
// surplus connection goes when it has been surplus in so many parts in a row.
const idleSlots = 10

// scaling is the auto-scaler's part of the multiplexer; mu guards it.
type scaling struct {
	lows   []int     // connections that nobody needed, in each of the last parts of the idle timeout
	tickAt time.Time // the end of the present part
}

// waitOverdue is called by a waiter that has waited for longer than the
// auto-scaler allows: it asks for a connection. Whether this waiter
// gets it or an earlier one does, who has asked as well, is the queue's to say.
func (m *Multiplexer) waitOverdue(q *queue) {
	m.mu.Lock()
	q.overdue++
	q.requests++
	m.mu.Unlock()
	m.kick()
}

// waitOverdueEnded is called by such a waiter when it waits no more, however
// that came. What it has asked for is not needed any more, unless it is on its
// way already; then whoever is next has it.
func (m *Multiplexer) waitOverdueEnded(q *queue) {
	m.mu.Lock()
	q.overdue--
	q.requests = min(q.requests, q.overdue)
	m.mu.Unlock()
}

// renewRequestsLocked is called when a connect that waiters had asked for has
// failed: they ask again.
func (m *Multiplexer) renewRequestsLocked() {
	growing := 0
	for a := range m.attempts {
		if a.grows {
			growing++
		}
	}
	for _, q := range []*queue{&m.readers, &m.writers} {
		q.requests = max(q.requests, q.overdue-growing)
	}
}

// surplusLocked returns the connections that nobody has needed over the idle
// timeout, oldest first. That a connection is idle says little, as
// all of them take turns; what counts is how many were idle at the same time.
// So each part of the timeout remembers the fewest that were, and the least of
// these is how many could have been missing all the time.
func (m *Multiplexer) surplusLocked(now time.Time, next *time.Time) []*conn {
	d := m.cfg.idleTimeout
	if !d.set {
		return nil
	}
	if m.open <= m.cfg.minimum.value {
		m.lows, m.tickAt = nil, time.Time{}
		m.readers.low.Store(0)
		m.writers.low.Store(0)
		return nil
	}
	if m.tickAt.IsZero() {
		m.beginPartLocked(now)
	}
	var surplus []*conn
	if !now.Before(m.tickAt) {
		m.lows = append(m.lows, int(min(m.readers.low.Load(), m.writers.low.Load())))
		if len(m.lows) > idleSlots {
			m.lows = m.lows[1:]
		}
		if len(m.lows) == idleSlots {
			if n := min(slices.Min(m.lows), m.open-m.cfg.minimum.value); n > 0 {
				surplus = m.oldestIdleLocked(n)
				for i := range m.lows {
					m.lows[i] -= len(surplus)
				}
			}
		}
		m.beginPartLocked(now)
	}
	sooner(next, m.tickAt)
	return surplus
}

// beginPartLocked begins to look for the fewest idle halves.
func (m *Multiplexer) beginPartLocked(now time.Time) {
	m.tickAt = now.Add(max(m.cfg.idleTimeout.value/idleSlots, 1))
	for _, q := range []*queue{&m.readers, &m.writers} {
		q.low.Store(max(0, int64(len(q.idle))-q.stale.Load()))
	}
}

// oldestIdleLocked returns the n oldest connections of which both halves
// are idle.
func (m *Multiplexer) oldestIdleLocked(n int) []*conn {
	var idle []*conn
	for c := range m.conns {
		if c.counted && (c.r.state.Load()|c.w.state.Load())&(leased|gone|held) == 0 {
			idle = append(idle, c)
		}
	}
	slices.SortFunc(idle, func(a, b *conn) int { return a.admittedAt.Compare(b.admittedAt) })
	return idle[:min(n, len(idle))]
}

// scaleDown closes a connection that nobody needs, unless somebody has just
// leased it.
func (m *Multiplexer) scaleDown(c *conn) {
	if !c.holdBoth() {
		return
	}
	m.mu.Lock()
	// Losses may have come in between.
	surplus := m.open > m.cfg.minimum.value && !m.refusing && !c.lost
	from := m.open
	if surplus {
		c.lost = true
		m.target = max(m.cfg.minimum.value, min(m.target, m.open)-1)
		m.stats.ScaledDown++
	}
	m.mu.Unlock()
	c.r.letGo(surplus)
	c.w.letGo(surplus)
	if surplus {
		m.logScaled("not needed", from, from-1)
	}
}

// holdBoth takes an idle connection out of service, and reports whether it was
// idle.
func (c *conn) holdBoth() bool {
	if !c.r.hold() {
		return false
	}
	if !c.w.hold() {
		c.r.letGo(false)
		return false
	}
	return true
}
