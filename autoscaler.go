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

// patience is what makes a waiter overdue when it has waited for too long. It
// does so from a timer's goroutine, because a waiter that left its select to do
// so would lose its place in the queue. Patiences are reused.
//
// Overdue waiters are all that the supervisor needs to know: as many connects
// are to be under way as there are overdue waiters, so nothing is asked for or
// withdrawn. What a new connection serves is counted, because its waiter is
// overdue until it has woken up.
type patience struct {
	m     *Multiplexer
	timer *time.Timer

	// Guarded by m.mu.
	q       *queue // nil when nobody waits
	overdue bool
}

// patient starts the clock of a caller that begins to wait.
func (m *Multiplexer) patient(q *queue) *patience {
	p, ok := m.patiences.Get().(*patience)
	if !ok {
		p = &patience{m: m}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	p.q = q
	if p.timer == nil {
		p.timer = time.AfterFunc(m.cfg.autoScaling.value, p.lost)
	} else {
		p.timer.Reset(m.cfg.autoScaling.value)
	}
	return p
}

// lost is called by the timer, and again each time that the wait has taken as
// long once more: then what was counted as serving someone has not served this
// waiter.
func (p *patience) lost() {
	m := p.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if p.q == nil {
		return
	}
	if p.overdue {
		p.q.served = 0
	} else {
		p.overdue = true
		p.q.overdue++
	}
	p.timer.Reset(m.cfg.autoScaling.value)
	m.kick()
}

// end is called when the wait has ended, however that came.
func (p *patience) end() {
	m := p.m
	m.mu.Lock()
	if p.overdue {
		p.overdue = false
		p.q.overdue--
		p.q.served = min(max(0, p.q.served-1), p.q.overdue)
	}
	p.q = nil
	stopped := p.timer.Stop()
	m.mu.Unlock()
	if stopped { // else lost may be about to run, for this wait and not for another
		m.patiences.Put(p)
	}
}

// serveLocked counts that a connection has come: the first waiter is served, and
// the first is overdue if any is.
func (q *queue) serveLocked() { q.served = min(q.served+1, q.overdue) }

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
	if m.open-m.leaving <= m.cfg.minimum.value {
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
			if n := min(slices.Min(m.lows), m.open-m.leaving-m.cfg.minimum.value); n > 0 {
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
	m.tickAt = now.Add(max(m.cfg.idleTimeout.value/idleSlots, time.Millisecond))
	for _, q := range []*queue{&m.readers, &m.writers} {
		q.low.Store(max(0, int64(len(q.idle))-q.stale.Load()))
	}
}

// oldestIdleLocked returns the n oldest connections of which both halves
// are idle.
func (m *Multiplexer) oldestIdleLocked(n int) []*conn {
	var idle []*conn
	for c := range m.conns {
		if c.counted && c.pins == 0 && (c.r.state.Load()|c.w.state.Load())&(leased|gone|held) == 0 {
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
	from := m.open - m.leaving
	surplus := from > m.cfg.minimum.value && !m.refusing && !c.lost && c.pins == 0
	if surplus {
		c.lost = true
		c.leaveLocked()
		m.target = max(m.cfg.minimum.value, min(m.target, from)-1)
		m.stats.ScaledDown++
	}
	m.mu.Unlock()
	c.letGo(surplus)
	if surplus {
		m.logScaled("not needed", from, from-1)
	}
}

// holdBoth takes an idle connection out of service, and reports whether it was
// idle. As long as anybody waits it is not: a half may be on its way to a waiter,
// who would lose its place in the queue.
func (c *conn) holdBoth() bool {
	if c.m.readers.waiting.Load()+c.m.writers.waiting.Load() > 0 || c.r.undelivered() || !c.r.hold() {
		return false
	}
	if !c.w.hold() {
		c.r.letGo(false)
		c.m.againIfUnleased(&c.w)
		return false
	}
	return true
}

// letGo ends the hold of both halves. To retire them closes the transport,
// which may take long, and frees the slot.
func (c *conn) letGo(retire bool) {
	both := func() {
		c.r.letGo(retire)
		c.w.letGo(retire)
	}
	if retire {
		c.m.aside(both)
	} else {
		both()
	}
}
