package plex

// The supervisor: one goroutine that decides when to connect, for the healer and for the
// auto-scaler, and when to close what is too old or too much. It decides by looking at the state
// under mu, so a wake-up too many does no harm; it never connects itself. It starts when there is
// something for it to do, in New or when a connection is to be retired, and it ends when the
// multiplexer begins to close.

import "time"

// kick wakes the supervisor.
func (m *Multiplexer) kick() { wakeUp(m.wake) } // if it is full, the supervisor will look anyway

func (c *config) needsSupervisor() bool {
	return c.connect != nil || c.idleTimeout.Given() || c.leakThreshold.Given() || c.probe.Given()
}

// startSupervisor starts the supervisor if it does not run.
func (m *Multiplexer) startSupervisor() {
	m.healer.supervised.Do(func() { m.tasks.start(m.supervise) })
}

func (m *Multiplexer) supervise() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var leaks detector
	var probes prober
	for {
		now := time.Now()
		next := now.Add(time.Hour)
		m.mu.Lock()
		due := m.dueLocked(now, &next) // first, for what is due is replaced before it goes
		m.connectsLocked(now, &next)
		m.wakeIfHopelessLocked()
		surplus := m.surplusLocked(now, &next)
		overfull, move := m.healer.resolver.balanceLocked(now, &next)
		unpaused, failures := m.healer.pace.Unpaused()
		m.scaler.armed = next
		m.mu.Unlock()

		m.closeSurplus(surplus)
		m.retireDue(due)
		leaks.look(m, now, &next)
		probes.look(m, now, &next)
		if move {
			m.healer.resolver.moveOne(overfull)
		}
		if unpaused != nil {
			m.decidePause(unpaused, failures)
			continue
		}
		timer.Reset(time.Until(next))
		select {
		case <-m.wake:
		case <-timer.C:
		case <-m.ctx.Done():
			return
		}
	}
}

// sooner makes *next t if that is earlier.
func sooner(next *time.Time, t time.Time) {
	if t.Before(*next) {
		*next = t
	}
}
