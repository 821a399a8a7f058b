package plex

// Retirement: how a healthy connection that is due leaves the pool. The supervisor marks what is
// due. A due connection is replaced first, where the capacity has room for one more; where it has
// none, it leaves only while the service answers. One leaves at a time, so that a pool whose
// connections were made together does not lose them together.
//
// A connection leaves between leases, with both halves held. If it is pinned, because something is
// expected of it without a lease, its write half goes and its read half stays until it is unpinned,
// for the retire grace at most. Where there was no room to replace it, it goes on in service as
// long as that, except for a last moment in which nothing new is asked of it.
//
// What cannot be retired now is tried again when the reason is gone: when a lease ends, when the
// connection is unpinned, or when it can be spared.

import "time"

const (
	dueBatch   = 64                     // how many connections the supervisor marks, or tries, at a time
	duePause   = 100 * time.Millisecond // until it tries again what was about to be leased
	againPause = time.Millisecond       // until both halves are tried again, when each was held for the other
	lastCalls  = time.Second            // how long a pinned connection that was not replaced first has no writers
)

// jitteredLifetime is d less up to a tenth of it; chance is from 0 to 1.
func jitteredLifetime(d time.Duration, chance float64) time.Duration {
	d = min(d, maxWait)
	return d - time.Duration(0.1*chance*float64(d))
}

// dueLocked marks connections that have become due, and returns how many to try now at most.
func (m *Multiplexer) dueLocked(now time.Time, next *time.Time) int {
	for range dueBatch {
		c := m.expiries.due(now)
		if c == nil {
			break
		}
		if !c.markDueLocked(whyExpired, c.expiresAt) {
			c.tryLaterLocked()
		}
	}
	if t, ok := m.expiries.next(); ok {
		sooner(next, t)
	}
	n := m.due.Len()
	if n == 0 || !m.canSpareLocked(now) {
		return 0
	}
	if n > dueBatch {
		sooner(next, now.Add(duePause))
	}
	return min(n, dueBatch)
}

// retireDue tries n of the connections that are due, or as many as can be spared.
func (m *Multiplexer) retireDue(n int) {
	for range n {
		c := m.nextDue()
		if c == nil {
			return // when that changes, the supervisor wakes up
		}
		c.retireDue()
	}
}

// nextDue takes out the connection that is to be tried next, nil if none can be spared.
func (m *Multiplexer) nextDue() *conn {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.firstDueLocked()
	if c == nil || !m.canSpareLocked(time.Now()) {
		return nil
	}
	c.tryNoMoreLocked()
	if m.due.Len() == 0 {
		m.kick() // nothing is to be replaced first any more
	}
	return c
}

// firstDueLocked returns the connection that is to be tried next, nil if there is none.
func (m *Multiplexer) firstDueLocked() *conn {
	if front := m.due.Front(); front != nil {
		return front.Value.(*conn)
	}
	return nil
}

// markDueLocked makes a connection due since a moment, and has the supervisor try it. It reports
// false if it is due already, or out of service.
func (c *conn) markDueLocked(y why, since time.Time) bool {
	next, ok := c.life.turn(phaseOpen, y)
	if !ok {
		return false
	}
	m, grace := c.m, c.m.cfg.retireGrace.Get()
	c.life = next
	m.healer.pace.Marked(c.at)
	c.r.set(connDue) // so that the end of a lease tries it, too
	c.w.set(connDue)
	m.expiries.drop(c)
	c.expiresAt = since.Add(grace - min(lastCalls, grace/2)) // when pins no longer keep it
	m.expiries.add(c)
	c.tryLaterLocked()
	return true
}

// turnOut makes a connection due now. It reports false if it is due already, or out of service.
func (c *conn) turnOut(y why) bool {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	return c.markDueLocked(y, time.Now())
}

// tryLaterLocked has the supervisor try a connection that is due, once one can be spared.
func (c *conn) tryLaterLocked() {
	if c.life.due() && c.dueAt == nil {
		c.dueAt = c.m.due.PushBack(c)
		c.m.kick() // it is replaced first
	}
}

// tryNoMoreLocked is for a connection that is just tried, or that has left.
func (c *conn) tryNoMoreLocked() {
	if c.dueAt != nil {
		c.m.due.Remove(c.dueAt)
		c.dueAt = nil
	}
}

// canSpareLocked reports whether a connection that is due may leave now. Connects that should have
// ended long ago are not waited for.
func (m *Multiplexer) canSpareLocked(now time.Time) bool {
	usable, enough := m.open-m.leaving, m.healer.target-m.healer.pace.Hung()
	switch {
	case m.refusing:
		return false
	case m.cfg.connect == nil:
		return true // nothing will ever replace it
	case m.healer.target < m.capacity:
		return usable > enough // it has been replaced
	}
	return usable >= enough && m.healer.pace.Answers(now)
}

// retireDue retires a connection that is due, if it is idle and can be spared.
func (c *conn) retireDue() {
	switch {
	case !c.mayRetire() || c.retirePinned():
	case c.r.promised() || c.w.promised():
		c.tryLater()
	default:
		c.takeBoth(c.retireHeld)
	}
}

// mayRetire reports whether a connection is due and can be spared. If it cannot be spared yet, it
// is tried again.
func (c *conn) mayRetire() bool {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	return c.mayRetireLocked()
}

func (c *conn) mayRetireLocked() bool {
	if c.life.due() && c.m.canSpareLocked(time.Now()) {
		return true
	}
	c.tryLaterLocked()
	return false
}

// tryLater has a connection tried again that could not be held: by the supervisor if it is due, and
// at once if it leaves and nothing more is expected of it.
func (c *conn) tryLater() {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	c.tryLaterLocked()
	c.m.kick()
	if c.drainedLocked() {
		c.m.tasks.start(c.endRetirement)
	}
}

// retirePinned retires the write half of a connection that is pinned: what is expected of it may
// still arrive, but nothing more is asked for. It reports whether the connection is pinned.
func (c *conn) retirePinned() bool {
	pinned, left, grace := c.leavePinned()
	if left {
		c.w.retire()
		c.endRetirementAfter(grace)
	}
	return pinned
}

// leavePinned takes a connection that is pinned out of service, unless its pins keep it in service,
// and says for how long they keep what is expected of it.
func (c *conn) leavePinned() (pinned, left bool, grace time.Duration) {
	m := c.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if c.pins.Load() == 0 {
		return false, false, 0
	}
	now := time.Now()
	grace = m.cfg.retireGrace.Get()
	if m.healer.target >= m.capacity { // nothing has replaced it
		if grace = min(lastCalls, grace/2); now.Before(c.expiresAt) {
			return true, false, 0
		}
	}
	c.graceEnds = now.Add(grace)
	return true, c.leaveLocked(c.life.why), grace
}

// endRetirementAfter has the retirement of a connection that leaves go on after a time, when its
// pins do not count any more or its linger is over.
func (c *conn) endRetirementAfter(d time.Duration) {
	c.m.tasks.after(d, c.endRetirement)
}

// retireHeld retires a connection that is due, with both halves held, if it can still be spared.
// Where ready readers come for what arrives, it looks once more: what has come by now may be the
// beginning of something.
func (c *conn) retireHeld() {
	if c.m.reading.Load() != readsReady {
		c.retireLooked()
		return
	}
	c.m.tasks.aside(func() {
		how, looked := fromHold, false
		defer func() { // also if the transport ends the goroutine
			if !looked {
				c.r.arrive(how)
				c.w.arrive(fromHold)
			}
		}()
		if err := c.r.examine(time.Now().Add(glanceTime), 0, false); err != nil {
			c.r.lookFailed(err)
		}
		if len(c.r.back) > 0 || c.peer.reached(peerRead) || c.failure() != nil {
			how = c.afterLook(fromHold)
			return
		}
		looked = true
		c.retireLooked()
	})
}

// retireLooked is retireHeld without a look.
func (c *conn) retireLooked() {
	m := c.m
	m.mu.Lock()
	retire := c.pins.Load() == 0 && c.mayRetireLocked() && c.leaveLocked(c.life.why)
	if !retire {
		c.tryLaterLocked()
	}
	m.mu.Unlock()
	if retire {
		c.retireBoth()
		return
	}
	c.letGo()
}

// letGo brings back the halves of a connection that was taken.
func (c *conn) letGo() {
	c.r.arrive(c.afterLook(fromHold))
	c.w.arrive(fromHold)
}

// retireBoth ends a connection that has left in good order, with both halves held.
func (c *conn) retireBoth() {
	c.w.arrive(intoRetire)
	c.m.tasks.aside(c.readOut)
}

// endRetirement ends a connection that leaves, whose write half is retired, once it is not pinned
// any more. If a lease has the read half, its end does so, see look: whoever has it may have read
// the beginning of something, and pin the connection for the rest of it before the lease ends.
func (c *conn) endRetirement() {
	if c.drained() {
		c.r.take(c.readOut)
	}
}

// drained reports whether a connection leaves in good order and nothing more is expected of it.
func (c *conn) drained() bool {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	return c.drainedLocked()
}

func (c *conn) drainedLocked() bool {
	return c.life.phase == phaseLeaving && c.life.why.retires() && c.w.word().over() &&
		(c.pins.Load() == 0 || !c.graceEnds.IsZero() && !time.Now().Before(c.graceEnds))
}

// lookDue is for a half, held, whose lease has just ended on a connection that is due, or that
// leaves.
func (c *conn) lookDue(h *half) {
	other := &c.w
	if h.writes() {
		other = &c.r
	}
	switch {
	case !h.writes() && c.drained():
		c.m.tasks.aside(c.readOut)
	case !c.mayRetire() || c.retirePinned():
		h.arrive(fromHold)
	case other.take(c.retireHeld):
	case h.writes() && c.retireWhileRead():
	default:
		h.arrive(fromHold)
		c.againIfUnleased(other)
	}
}

// retireWhileRead retires the held write half of a connection that is due, while a consumer reads:
// otherwise a connection that is always busy would never become too old. The end of the read lease
// does the rest. It reports false where the connection would keep its slot from its replacement for
// as long as somebody reads.
func (c *conn) retireWhileRead() bool {
	m := c.m
	m.mu.Lock()
	left := (m.healer.target < m.capacity || m.reading.Load() == readsReady) && c.mayRetireLocked() && c.leaveLocked(c.life.why)
	m.mu.Unlock()
	if left {
		c.w.arrive(intoRetire)
		c.endRetirement() // if the read lease has ended meanwhile
	}
	return left
}

// againIfUnleased is called by whoever has let go of one half of a connection because the other
// could not be held. If nobody has leased that, it was held at the same time for the same reason,
// and let go for this one: then both are tried again, after a moment, for whoever holds it may take
// long. The end of a lease looks by itself.
func (c *conn) againIfUnleased(other *half) {
	if !other.word().is(leaseLive) {
		c.m.tasks.after(againPause, c.tryLater)
	}
}

// takeBoth takes an idle connection out of service and has f called, which owns both halves then.
// It reports whether the connection was idle.
func (c *conn) takeBoth(f func()) bool {
	if !c.w.hold() {
		c.againIfUnleased(&c.w)
		return false
	}
	if !c.r.take(f) {
		c.w.arrive(fromHold)
		c.againIfUnleased(&c.r)
		return false
	}
	return true
}
