package plex

// The maximal lifetime: a connection that is too old is replaced when both its
// halves are idle, one connection at a time, so that a pool whose connections
// were made together does not lose them together.

import "time"

// jitteredLifetime is d less up to a tenth of it; chance is from 0 to 1.
func jitteredLifetime(d time.Duration, chance float64) time.Duration {
	return d - time.Duration(0.1*chance*float64(d))
}

// expiredLocked marks connections that have become too old, so that the end of
// a lease tries to expire them too, and returns those to try now.
func (m *Multiplexer) expiredLocked(now time.Time, next *time.Time) []*conn {
	if !m.cfg.maxLifetime.set {
		return nil
	}
	var old []*conn
	for c := range m.conns {
		switch {
		case !c.counted || c.lost:
		case c.expired:
			old = append(old, c)
		case now.Before(c.admittedAt.Add(c.lifetime)):
			sooner(next, c.admittedAt.Add(c.lifetime))
		default:
			c.expired = true
			c.r.state.Or(expiring)
			c.w.state.Or(expiring)
			old = append(old, c)
		}
	}
	return old
}

// expire retires a connection that is too old, if it is idle.
func (m *Multiplexer) expire(c *conn) {
	if !m.drain(c) && m.mayExpire(c) && c.holdBoth() {
		m.expireHeld(c)
	}
}

// drain retires the write half of a connection that is too old and pinned, so
// that it comes to an end: what is expected of it may still arrive, but nothing
// more is asked for. It reports whether it did.
func (m *Multiplexer) drain(c *conn) bool {
	m.mu.Lock()
	drains := c.expired && c.pins > 0 && m.mayExpireLocked(c)
	if drains {
		c.draining = true
		m.expireLocked(c)
	}
	m.mu.Unlock()
	if drains {
		c.w.retire()
	}
	return drains
}

// drainedLocked reports whether a connection that drains has come to its end.
func (c *conn) drainedLocked() bool { return c.draining && c.pins == 0 }

// drained is drainedLocked.
func (m *Multiplexer) drained(c *conn) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return c.drainedLocked()
}

// mayExpire reports whether a connection that is too old can be spared now.
func (m *Multiplexer) mayExpire(c *conn) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mayExpireLocked(c)
}

func (m *Multiplexer) mayExpireLocked(c *conn) bool {
	return !m.refusing && !c.lost && c.counted && m.open-m.leaving >= m.target-m.hungLocked()
}

// hungLocked counts the connects that should have ended long ago. They are not
// waited for.
func (m *Multiplexer) hungLocked() (n int) {
	for a := range m.attempts {
		if a.overdue {
			n++
		}
	}
	return n
}

// expireHeld retires a connection that is too old, with both halves held, if no
// other is missing: the pool lacks at most one connection for its age. What
// cannot be retired now is tried again when one of its leases ends, or the
// pool is whole again.
func (m *Multiplexer) expireHeld(c *conn) {
	m.mu.Lock()
	retire := c.pins == 0 && m.mayExpireLocked(c)
	if retire {
		m.expireLocked(c)
	}
	m.mu.Unlock()
	c.letGo(retire)
}

// expireLocked accounts for a connection that is retired for its age.
func (m *Multiplexer) expireLocked(c *conn) {
	c.lost = true
	m.stats.Expired++
	c.replace = &loss{addr: c.remote, at: time.Now(), expired: true}
	c.leaveLocked()
}
