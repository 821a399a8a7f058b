package plex

// The auto-scaler: when to add connections because callers wait, and when to close those that
// nobody has needed. The supervisor carries out its decisions.

import (
	"slices"
	"sync"
	"time"
)

// idleSlots is in how many parts the idle timeout is looked at: a surplus connection goes when it
// has been surplus in so many parts in a row.
const idleSlots = 10

// scaler is the auto-scaler's part of the multiplexer; mu guards it.
type scaler struct {
	lows    []int     // connections that nobody needed, in each of the last parts of the idle timeout
	tickAt  time.Time // the end of the present part
	armed   time.Time // when the supervisor looks again at the latest
	waiters sync.Pool // *waiter; safe without mu
}

// waiter is a caller that waits, with auto-scaling. It has no timer: the supervisor looks at the
// line when the first waiter in it becomes overdue.
type waiter struct {
	prev, next *waiter
	since      time.Time
	overdue    bool // it has waited for longer than the auto-scaler allows
}

// line is the waiters of one kind in the order in which they came. Multiplexer.mu guards it.
//
// How many are overdue is all that decides: there are never more connects under way than overdue
// waiters, so nothing is asked for or withdrawn. What a new connection serves is counted, because
// its waiter is overdue until it has woken up.
type line struct {
	first, last *waiter
	prompt      *waiter // the first that is not overdue
	overdue     int
	served      int       // overdue waiters that have got a new connection, as far as is known
	servedAt    time.Time // when served last grew
}

func (l *line) add(w *waiter) {
	w.prev, w.next = l.last, nil
	if l.last == nil {
		l.first = w
	} else {
		l.last.next = w
	}
	l.last = w
	if l.prompt == nil {
		l.prompt = w
	}
}

func (l *line) remove(w *waiter) {
	if w.prev == nil {
		l.first = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		l.last = w.prev
	} else {
		w.next.prev = w.prev
	}
	if l.prompt == w {
		l.prompt = w.next
	}
	if w.overdue {
		l.overdue--
		l.served = min(max(0, l.served-1), l.overdue)
	}
	*w = waiter{}
}

// age finds the waiters that have become overdue, each once. If a connection that should have
// served one has served nobody for as long, it has not.
func (l *line) age(now time.Time, timeout time.Duration, next *time.Time) {
	for ; l.prompt != nil; l.prompt = l.prompt.next {
		if late := l.prompt.since.Add(timeout); now.Before(late) {
			sooner(next, late)
			break
		}
		l.prompt.overdue = true
		l.overdue++
	}
	if l.served > 0 {
		if late := l.servedAt.Add(timeout); now.Before(late) {
			sooner(next, late)
		} else {
			l.served = 0
		}
	}
}

// serve counts that a connection has come: the first waiter is served, and the first is overdue if
// any is.
func (l *line) serve(now time.Time) {
	if l.served < l.overdue {
		l.served++
		l.servedAt = now
	}
}

// beginWait puts a caller into the line of those that wait, and endWait takes it out.
func (m *Multiplexer) beginWait(q *queue) *waiter {
	w, ok := m.scaler.waiters.Get().(*waiter)
	if !ok {
		w = new(waiter)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	w.since = time.Now()
	q.line.add(w)
	if m.scaler.armed.After(w.since.Add(m.cfg.scalingTimeout())) {
		m.kick()
	}
	return w
}

func (m *Multiplexer) endWait(q *queue, w *waiter) {
	m.mu.Lock()
	q.line.remove(w)
	m.mu.Unlock()
	m.scaler.waiters.Put(w)
}

func (c *config) scalingTimeout() time.Duration { return min(c.autoScaling.Get(), maxWait) }

// surplusLocked says how many connections nobody has needed over the idle timeout. That a
// connection is idle says little, as all of them take turns; what counts is how many were idle at
// the same time. So each part of the timeout remembers the fewest that were, and the least of these
// is how many could have been missing all the time.
func (m *Multiplexer) surplusLocked(now time.Time, next *time.Time) (n int) {
	d, s := m.cfg.idleTimeout, &m.scaler
	if !d.Given() {
		return 0
	}
	spare := m.open - m.leaving - m.cfg.minimum.Get()
	if spare <= 0 {
		s.lows, s.tickAt = nil, time.Time{}
		m.readers.low.Store(0)
		m.writers.low.Store(0)
		return 0
	}
	if s.tickAt.IsZero() {
		m.beginPartLocked(now)
	}
	if !now.Before(s.tickAt) {
		s.lows = append(s.lows, m.lowLocked())
		if len(s.lows) > idleSlots {
			s.lows = s.lows[1:]
		}
		if len(s.lows) == idleSlots {
			n = max(0, min(slices.Min(s.lows), spare))
		}
		m.beginPartLocked(now)
	}
	sooner(next, s.tickAt)
	return n
}

// lowLocked is how many connections nobody has needed in the present part. Read halves count only
// where each idle one is listed.
func (m *Multiplexer) lowLocked() int {
	low := m.writers.low.Load()
	if m.reading.Load() == readsAny {
		low = min(low, m.readers.low.Load())
	}
	return int(low)
}

// beginPartLocked begins to look for the fewest idle halves.
func (m *Multiplexer) beginPartLocked(now time.Time) {
	m.scaler.tickAt = now.Add(max(min(m.cfg.idleTimeout.Get(), maxWait)/idleSlots, time.Millisecond))
	for _, q := range []*queue{&m.readers, &m.writers} {
		q.low.Store(int64(q.listed()))
	}
}

// closeSurplus closes the n oldest connections of which both halves are idle.
func (m *Multiplexer) closeSurplus(n int) {
	if n == 0 {
		return
	}
	idle := slices.DeleteFunc(m.roster.all(), func(c *conn) bool {
		return !c.w.word().idle() || !c.r.word().idle() && !c.r.isParked()
	})
	slices.SortFunc(idle, func(a, b *conn) int { return a.admittedAt.Compare(b.admittedAt) })
	closed := 0
	for _, c := range idle {
		if closed < n && c.scaleDown() {
			closed++
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.scaler.lows {
		m.scaler.lows[i] -= closed
	}
}

// scaleDown closes a connection that nobody needs, unless somebody has just leased it or is about
// to. It reports whether it has begun to.
func (c *conn) scaleDown() bool {
	return !c.m.readers.isAwaited() && !c.m.writers.isAwaited() && c.isSurplus() && c.takeBoth(c.scaleDownHeld)
}

// isSurplus reports whether the pool can do without the connection.
func (c *conn) isSurplus() bool {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	return c.isSurplusLocked()
}

func (c *conn) isSurplusLocked() bool {
	m := c.m
	return m.open-m.leaving > m.cfg.minimum.Get() && !m.refusing && c.pins.Load() == 0
}

// scaleDownHeld is scaleDown with both halves held.
func (c *conn) scaleDownHeld() {
	m := c.m
	m.mu.Lock()
	// Losses may have come in between.
	from := m.open - m.leaving
	surplus := c.isSurplusLocked() && c.leaveLocked(whySurplus)
	if surplus {
		m.healer.target = max(m.cfg.minimum.Get(), min(m.healer.target, from)-1)
	}
	if surplus {
		m.news.scaled("not needed", from, from-1)
	}
	m.mu.Unlock()
	if !surplus {
		c.letGo()
		return
	}
	c.retireBoth()
}

// isAwaited reports whether callers wait for any half of the kind.
func (q *queue) isAwaited() bool { return q.waiting.Load() > 0 && !q.ready.Load() }
