package plex

// The supervisor: one goroutine that decides when to connect, for the healer
// and for the auto-scaler, and when to close what is too old or too much. It
// decides by looking at the state under mu, so a wake-up too many does no harm;
// it never connects itself. It is started by New if there is anything for it to
// do and ends when the multiplexer begins to close.

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime/debug"
	"time"
)

const (
	// healthyWindow is how many connects may be under way at once to replace
	// what is lost, as long as none has failed. It grows with each success.
	healthyWindow = 4

	// connectPatience is how long a connect may take before the healer goes
	// on without it: it keeps its slot, but no longer its place in the window.
	connectPatience = time.Second

	// proveAfter is how long a connection that has delivered nothing must
	// have lived to prove that the service does more than accept; or as long
	// as the pause before it, if that was longer.
	proveAfter = time.Second

	// waiterFloor is the least time between the attempts to reach a dead
	// service that waiting callers can bring about.
	waiterFloor = 500 * time.Millisecond
)

// healing is the healer's part of the multiplexer; mu guards it.
type healing struct {
	target   int                   // connections that there should be
	losses   []loss                // what is to be replaced, oldest first
	attempts map[*attempt]struct{} // connects that the supervisor has started

	failures int       // in a row, since a connection has proved useful
	window   int       // connects that may be under way at once
	badAt    time.Time // when failures last grew
	goodAt   time.Time // when a connect last succeeded
	unpaused bool      // failures has grown and the pause is not yet known
	pause    time.Duration
	retryAt  time.Time // the end of the pause
}

// loss is a connection that is to be replaced.
type loss struct {
	addr     net.Addr
	at       time.Time
	expired  bool // it was too old, not lost
	attempts int  // connects that have failed to replace it
}

// attempt is one connect that the supervisor has started.
type attempt struct {
	loss    loss
	grows   bool // it is the auto-scaler's
	started time.Time
	slow    bool // it has taken longer than connectPatience
	overdue bool // it has taken longer than the connect timeout
}

func (m *Multiplexer) initHealing() {
	m.attempts = make(map[*attempt]struct{})
	m.window = healthyWindow
	m.target = max(m.cfg.minimum.value, len(m.cfg.connections))
	m.short.Store(m.cfg.connect != nil && m.target == 0)
}

// kick wakes the supervisor.
func (m *Multiplexer) kick() {
	select {
	case m.wake <- struct{}{}:
	default: // it will look anyway
	}
}

func (m *Multiplexer) needsSupervisor() bool {
	return m.cfg.connect != nil || m.cfg.idleTimeout.set || m.cfg.leakThreshold.set
}

// supervise is the supervisor.
func (m *Multiplexer) supervise() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		m.mu.Lock()
		if m.unpaused {
			failures := m.failures
			m.mu.Unlock()
			pause := m.backoff(failures) // the user's function, so not under mu
			m.mu.Lock()
			if m.failures == failures { // else there is another to be worked out, or none at all
				m.pause, m.retryAt, m.unpaused = pause, m.badAt.Add(pause), false
			}
		}
		now := time.Now()
		next := now.Add(time.Hour)
		m.connectsLocked(now, &next)
		surplus := m.surplusLocked(now, &next)
		old := m.expiredLocked(now, &next)
		leaks := m.leaksLocked(now, &next)
		again := m.unpaused
		m.mu.Unlock()

		for _, c := range surplus {
			m.scaleDown(c)
		}
		for _, c := range old {
			m.expire(c)
		}
		m.reportLeaks(leaks)
		if again {
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

// connectsLocked starts the connects that are due and makes next the time to
// look again, if that is sooner.
func (m *Multiplexer) connectsLocked(now time.Time, next *time.Time) {
	if m.cfg.connect == nil || m.refusing || m.waitsForReaders(now, next) {
		return
	}
	active := 0
	for a := range m.attempts {
		switch {
		case !a.slow && now.Sub(a.started) >= connectPatience:
			a.slow = true
			m.connectFailedLocked(a.started, now)
		case !a.slow:
			if !a.grows || m.failures > 0 {
				active++
			}
			sooner(next, a.started.Add(connectPatience))
		}
		if timeout := m.cfg.connectTimeout.value + connectGrace; !a.overdue {
			if now.Sub(a.started) >= timeout {
				a.overdue = true
				m.lastErr = fmt.Errorf("plex: Connect has not returned %v after it was called: %w", timeout, context.DeadlineExceeded)
			} else {
				sooner(next, a.started.Add(timeout))
			}
		}
	}

	waiting := int(m.readers.waiting.Load() + m.writers.waiting.Load())
	d := decide(demand{
		target: m.target, open: m.open, leaving: m.leaving, connecting: m.connecting, capacity: m.capacity,
		active: active, hung: m.hungLocked(), window: m.window, failures: m.failures,
		waiting: waiting,
		overdue: max(m.readers.overdue-m.readers.served, m.writers.overdue-m.writers.served),
	})
	if d.heal+d.grow > 0 {
		retryAt := m.retryAt
		if m.failures > 0 && waiting > 0 && m.cfg.backoff == nil {
			retryAt = earlier(retryAt, m.badAt.Add(waiterFloor))
		}
		switch {
		case m.unpaused: // the pause is worked out first
			d = decision{}
		case m.failures > 0 && now.Before(retryAt):
			sooner(next, retryAt)
			d = decision{}
		}
	}
	if d.heal+d.grow > 0 {
		sooner(next, now.Add(connectPatience))
	}
	for range d.heal {
		m.attemptLocked(&attempt{loss: m.nextLossLocked(), started: now})
	}
	for range d.grow {
		m.target++
		m.attemptLocked(&attempt{loss: loss{addr: m.Addr(), at: now}, grows: true, started: now})
	}

	whole := m.open-m.leaving >= m.target
	if whole && m.connecting == 0 {
		m.losses = nil
		if m.failures == 0 {
			m.window = healthyWindow
		}
	}
	m.short.Store(!whole || m.open == m.leaving)
}

// demand is what decides how many connects to start, and decision how many:
// to replace what is lost, and because callers wait.
type demand struct {
	target, open, connecting, capacity int

	leaving  int // of those open, how many are of no more use
	active   int // connects under way that the window is for and that have not taken too long
	hung     int // connects under way that should have ended long ago, and are not counted on
	window   int // connects that may be under way
	failures int // since the service was last known to be well
	overdue  int // waiters of one kind that have waited for too long and are not served yet
	waiting  int // all waiters
}

type decision struct{ heal, grow int }

// decide is pure; all pacing but the pauses is here.
func decide(d demand) decision {
	room := d.capacity - d.open - d.connecting
	slots := d.window - d.active
	usable := d.open - d.leaving
	coming := d.connecting - d.hung
	heal := max(0, min(d.target-usable-coming, room, slots))

	coming += heal
	want := d.overdue - coming
	if d.waiting > 0 && usable+coming == 0 {
		want = max(want, 1) // nothing is open or on its way
	}
	if d.failures > 0 {
		want = min(want, slots-heal) // a dead service gets its probe, for whatever reason
	}
	// Growing goes beyond the target: what is to be healed serves waiters, too.
	beyond := d.capacity - max(d.target, usable+d.connecting+heal)
	return decision{heal: heal, grow: max(0, min(want, room-heal, beyond))}
}

// nextLossLocked takes the loss to be replaced next. Losses may have been
// forgotten when the pool was whole for a moment; the place is then still to be
// filled.
func (m *Multiplexer) nextLossLocked() loss {
	if len(m.losses) == 0 {
		return loss{addr: m.Addr(), at: time.Now()}
	}
	l := m.losses[0]
	m.losses = m.losses[1:]
	return l
}

// attemptLocked starts a connect.
func (m *Multiplexer) attemptLocked(a *attempt) {
	m.attempts[a] = struct{}{}
	m.connecting++
	m.spawnOutsideLocked(func() { _ = m.connect(a.loss.addr, a) }) // what comes of it is in the books
}

// attemptSucceededLocked is called in the same moment as its connection is
// admitted, before anyone can use it.
func (m *Multiplexer) attemptSucceededLocked(a *attempt, now time.Time) {
	delete(m.attempts, a)
	m.window++
	m.goodAt, m.retryAt = now, now // on with the ramp
	switch {
	case a.grows:
		m.stats.ScaledUp++
	case !a.loss.expired:
		m.stats.Healed++
	}
	m.readers.serveLocked()
	m.writers.serveLocked()
}

// attemptFailedLocked is called in the same moment as its slot is freed.
func (m *Multiplexer) attemptFailedLocked(a *attempt, now time.Time) {
	delete(m.attempts, a)
	m.connectFailedLocked(a.started, now)
	if a.grows {
		m.target = max(m.cfg.minimum.value, m.target-1, min(m.target, m.open-m.leaving+m.connecting))
		return
	}
	again := a.loss
	again.attempts++
	m.losses = append([]loss{again}, m.losses...)
}

// connectFailedLocked makes the healer more careful: one connect at a time, and
// a longer pause before it. Of connects that were under way together only the
// first failure counts, since the others say the same.
func (m *Multiplexer) connectFailedLocked(started, now time.Time) {
	m.window = 1
	if m.failures > 0 && started.Before(m.badAt) {
		return
	}
	if m.goodAt.After(m.badAt) && m.provedLocked(m.goodAt, now) {
		m.failures, m.pause = 0, 0 // what was connected then has lived, so this is a new failure
	}
	m.failures++
	m.badAt, m.unpaused = now, true
}

// provedLocked reports whether to have lived from one time to another proves
// something.
func (m *Multiplexer) provedLocked(from, to time.Time) bool {
	return to.Sub(from) >= max(proveAfter, m.pause)
}

// lostLocked is told of each connection that is lost, once. One that had
// neither delivered anything nor lived for a while is a failed connect that has
// only looked like a success.
func (m *Multiplexer) lostLocked(c *conn) {
	if m.cfg.connect == nil {
		return
	}
	now := c.lostAt
	c.replace = &loss{addr: c.remote, at: now}
	if !c.dialed || c.proved {
		return
	}
	if m.provedLocked(c.admittedAt, now) {
		if c.admittedAt.After(m.badAt) {
			m.wellLocked()
		}
		return
	}
	first := m.failures == 0
	m.connectFailedLocked(c.admittedAt, now)
	if first {
		m.unpaused, m.retryAt = false, now // once may be chance
	}
}

// prove is told when a connection delivers something for the first time. If it
// was connected after the last failure, the service is well again.
func (c *conn) prove() {
	m := c.m
	m.mu.Lock()
	defer m.mu.Unlock()
	c.proved = true
	if m.failures > 0 && c.admittedAt.After(m.badAt) {
		m.wellLocked()
		m.kick()
	}
}

// wellLocked ends the backing off: the service is known to be well.
func (m *Multiplexer) wellLocked() {
	m.failures, m.unpaused, m.pause = 0, false, 0
	m.window = max(m.window, healthyWindow)
}

// backoff is the pause after so many failures. A function of the user's that
// panics gets the default.
func (m *Multiplexer) backoff(failures int) (pause time.Duration) {
	if m.cfg.backoff == nil {
		return defaultBackoff(failures, rand.Float64())
	}
	defer func() {
		if p := recover(); p != nil {
			m.log("plex: the function given to WithBackoff panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			pause = defaultBackoff(failures, rand.Float64())
		}
	}()
	return max(0, m.cfg.backoff(failures))
}

// defaultBackoff is the pause after so many failures; chance is from 0 to 1.
func defaultBackoff(failures int, chance float64) time.Duration {
	const (
		first  = 100 * time.Millisecond
		second = 250 * time.Millisecond
		factor = 1.6
		jitter = 0.2
		most   = 30 * time.Second
	)
	if failures <= 1 {
		return time.Duration(float64(first) * (0.5 + 0.5*chance))
	}
	pause := float64(second)
	for i := 2; i < failures && pause < float64(most); i++ {
		pause *= factor
	}
	pause = min(pause, float64(most)/(1+jitter)) // so that the longest are spread as well
	return time.Duration(pause * (1 - jitter + 2*jitter*chance))
}

// sooner makes *next t if that is earlier.
func sooner(next *time.Time, t time.Time) { *next = earlier(*next, t) }

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
