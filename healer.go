package plex

// The healer replaces what is lost. How fast is decided by package pace; here is the account of
// what is missing and of the connects that are under way.

import (
	"container/list"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"go.atomizer.io/plex/internal/caller"
	"go.atomizer.io/plex/internal/pace"
)

// healer is the healer's part of the multiplexer; mu guards it.
type healer struct {
	supervised sync.Once // for the start of the supervisor; safe without mu

	target int    // connections that there should be
	losses []loss // what is to be replaced, oldest first
	first  int    // connects for New's minimum that are yet to be started
	pace   pace.State

	pausing bool // the observer has been told of a backoff, and not of its end

	// The supervisor's connects, in the order in which they started.
	prompt  list.List // those that have taken less than pace.Patience
	slow    list.List // those that have taken less than the connect timeout
	growing int       // how many of the prompt ones are the auto-scaler's
	hung    int       // how many have taken longer than the connect timeout
}

// loss is a connection that is to be replaced.
type loss struct {
	addr     net.Addr
	at       time.Time
	first    bool // there has been none: it is one of New's minimum
	why      why  // it has left
	attempts int  // connects that have failed to replace it
}

// attempt is one connect that the supervisor has started.
type attempt struct {
	loss    loss
	grows   bool // it is the auto-scaler's
	started time.Time
	epoch   pace.Epoch
	list    *list.List    // that it is in; nil if none
	at      *list.Element // its place there
	hung    bool
}

func (m *Multiplexer) initHealer() {
	m.healer.target = max(m.cfg.minimum.Get(), len(m.cfg.connections))
	m.short.Store(m.cfg.connect != nil && m.healer.target == 0)
}

// connectsLocked starts the connects that are due and makes next the time to look again, if that is
// sooner.
func (m *Multiplexer) connectsLocked(now time.Time, next *time.Time) {
	h := &m.healer
	if m.cfg.connect == nil || m.refusing || m.waitsForReaders(now, next) {
		return
	}
	m.ageAttemptsLocked(now, next)
	if m.cfg.autoScaling.Given() {
		m.readers.line.age(now, m.cfg.scalingTimeout(), next)
		m.writers.line.age(now, m.cfg.scalingTimeout(), next)
	}
	demand := m.demandLocked()
	start, wake := h.pace.Decide(now, demand)
	if !wake.IsZero() {
		sooner(next, wake)
		if demand.Tried && start.None() {
			m.wanted.Store(true) // what is held back is still wanted then
		}
	}
	for range start.Heal {
		m.attemptLocked(&attempt{loss: m.nextLossLocked(), started: now})
	}
	for range start.Grow {
		h.target++
		m.attemptLocked(&attempt{loss: loss{addr: m.Addr(), at: now}, grows: true, started: now})
	}
	if !start.None() {
		sooner(next, now.Add(pace.Patience))
	}

	whole := m.open-m.leaving >= h.target
	if !whole && h.pace.Failures(now) > 0 && h.pace.Answers(now) {
		sooner(next, now.Add(proofPause)) // the service may have proved well by then
	}
	if whole && m.connecting == 0 {
		h.losses = nil
		h.pace.Whole(now)
	}
	m.short.Store(!whole || m.open == m.leaving)
}

// demandLocked is what decides how many connects to start.
func (m *Multiplexer) demandLocked() pace.Demand {
	h := &m.healer
	waiting := int(m.writers.waiting.Load())
	if !m.readers.ready.Load() {
		waiting += int(m.readers.waiting.Load())
	}
	target := h.target
	if len(m.due) > 0 && target < m.capacity {
		target++ // what is due is replaced first
	}
	return pace.Demand{
		Target: target, Capacity: m.capacity, Open: m.open, Leaving: m.leaving,
		Connecting: m.connecting, Hung: h.hung, Healing: h.prompt.Len() - h.growing, Growing: h.growing,
		Waiting: waiting, Tried: m.wanted.Swap(false),
		Overdue: max(m.readers.line.overdue-m.readers.line.served, m.writers.line.overdue-m.writers.line.served),

		MaxConnecting: m.cfg.maxConnecting.Get(),
	}
}

// ageAttemptsLocked finds the connects that take too long: after pace.Patience the healer goes on
// without them, and after the connect timeout nobody counts on them any more.
func (m *Multiplexer) ageAttemptsLocked(now time.Time, next *time.Time) {
	h := &m.healer
	timeout := min(m.cfg.connectTimeout.Get(), maxWait) + connectGrace
	for a := oldest(&h.prompt); a != nil; a = oldest(&h.prompt) {
		if late := a.started.Add(pace.Patience); now.Before(late) {
			sooner(next, late)
			break
		}
		h.moveLocked(a, &h.slow)
		h.pace.Failed(a.epoch, now)
	}
	for a := oldest(&h.slow); a != nil; a = oldest(&h.slow) {
		if late := a.started.Add(timeout); now.Before(late) {
			sooner(next, late)
			break
		}
		h.moveLocked(a, nil)
		m.lastErr = fmt.Errorf("plex: Connect has not returned %v after it was called: %w", timeout, context.DeadlineExceeded)
		a.reportFirst(m.firsts, m.lastErr)
	}
}

// oldest returns the first attempt of a list, nil if there is none.
func oldest(l *list.List) *attempt {
	if front := l.Front(); front != nil {
		return front.Value.(*attempt)
	}
	return nil
}

// moveLocked takes an attempt out of its list and puts it into another; nil means that it hangs.
func (h *healer) moveLocked(a *attempt, to *list.List) {
	h.removeLocked(a)
	if to == nil {
		a.hung = true
		h.hung++
		return
	}
	a.list, a.at = to, to.PushBack(a)
	if to == &h.prompt && a.grows {
		h.growing++
	}
}

// removeLocked takes an attempt out of the account.
func (h *healer) removeLocked(a *attempt) {
	switch {
	case a.hung:
		a.hung = false
		h.hung--
	case a.list != nil:
		if a.list == &h.prompt && a.grows {
			h.growing--
		}
		a.list.Remove(a.at)
		a.list, a.at = nil, nil
	}
}

// nextLossLocked takes the loss to be replaced next. Losses may have been forgotten when the pool
// was whole for a moment; the place is then still to be filled.
func (m *Multiplexer) nextLossLocked() loss {
	h := &m.healer
	if len(h.losses) > 0 {
		l := h.losses[0]
		h.losses = h.losses[1:]
		return l
	}
	l := loss{addr: m.Addr(), at: time.Now(), first: h.first > 0}
	switch {
	case l.first:
		h.first--
	case len(m.due) > 0:
		l.addr, l.why = m.due[0].remote, m.due[0].life.why
	}
	return l
}

// attemptLocked starts a connect.
func (m *Multiplexer) attemptLocked(a *attempt) {
	a.epoch = m.healer.pace.Epoch()
	m.healer.moveLocked(a, &m.healer.prompt)
	m.connecting++
	m.tasks.startForeign(foreignTask, func() { m.connect(a) })
}

// succeededLocked is called in the same moment as the attempt's connection is admitted, before
// anyone can use it.
func (m *Multiplexer) succeededLocked(c *conn, a *attempt) {
	h, now := &m.healer, c.admittedAt
	h.removeLocked(a)
	c.epoch = h.pace.Connected(now)
	m.stats.noteConnect(now.Sub(a.started))
	if h.pausing {
		h.pausing = false
		m.news.backoffEnded()
	}
	m.news.connected(c, a, m.open)
	switch {
	case a.grows:
		m.stats.ScaledUp++
	case !a.loss.why.retires() && !a.loss.first:
		m.stats.Healed++
	}
	m.readers.line.serve(now)
	m.writers.line.serve(now)
}

// failedLocked is called in the same moment as the attempt's slot is freed.
func (m *Multiplexer) failedLocked(a *attempt, now time.Time, err error) {
	h := &m.healer
	h.removeLocked(a)
	h.pace.Failed(a.epoch, now)
	m.stats.noteConnect(now.Sub(a.started))
	a.reportFirst(m.firsts, err)
	if a.grows {
		h.target = max(m.cfg.minimum.Get(), h.target-1, min(h.target, m.open-m.leaving+m.connecting))
		return
	}
	again := a.loss
	again.attempts++
	h.losses = append([]loss{again}, h.losses...)
}

// reportFirst tells New, which listens at firsts, what has become of a connect for its minimum.
func (a *attempt) reportFirst(firsts chan<- error, err error) {
	if a.loss.first {
		select {
		case firsts <- err:
		default: // New has returned
		}
	}
}

// leftLocked is told of each connection that leaves service, once: its place is to be filled,
// unless nobody needs it, and the pace has to know whether it was the service that ended it.
func (c *conn) leftLocked() {
	m := c.m
	y := c.life.why
	if m.cfg.connect == nil || y == whyShutDown {
		return
	}
	if y != whySurplus {
		m.healer.losses = append(m.healer.losses, loss{addr: c.remote, at: c.leftAt, why: y})
	}
	switch p := &m.healer.pace; {
	case !c.dialed:
	case y == whyLost && !c.wasUseful() && !consumersDoing(c.failure()):
		p.Lost(c.epoch, c.admittedAt, c.leftAt)
	default:
		p.Gone(c.epoch, c.admittedAt, c.leftAt)
	}
}

// usefulLeases is how often a connection that delivers must have been leased to have been of use,
// however short its life: a service may close connections after so many requests, and be well.
const usefulLeases = 32

func (c *conn) wasUseful() bool {
	return c.delivered.Load() && c.leases() >= usefulLeases
}

// consumersDoing reports whether a connection has failed because of what a consumer did to it,
// which says nothing about the service.
func consumersDoing(cause error) bool {
	return cause == ErrKilled || cause == ErrPartialWrite || cause == errUninterruptible // a foreign error is not asked, as m.mu is held
}

// noteDelivery is told when a connection delivers something for the first time.
func (c *conn) noteDelivery() {
	m := c.m
	if m.cfg.connect == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if c.dialed && c.admitted() {
		m.healer.pace.Delivered(c.epoch, c.admittedAt, time.Now())
		m.kick()
	}
}

// decidePause works out the pause after the last failure. The function may be the user's, so it is
// called under no lock.
func (m *Multiplexer) decidePause(failures int) {
	pause, chosen := m.backoff(failures)
	m.mu.Lock()
	defer m.mu.Unlock()
	if now, wanted := m.healer.pace.Unpaused(); wanted && now == failures { // no connect has succeeded meanwhile
		m.healer.pausing = true
		m.news.backoffBegan(failures, pause, m.lastErr)
	}
	m.healer.pace.SetPause(failures, pause, !chosen)
}

// backoff is the pause after so many failures, and whether the user has chosen it. If the user's
// function fails, or does not return, the default applies.
func (m *Multiplexer) backoff(failures int) (pause time.Duration, isChosen bool) {
	if m.cfg.backoff == nil {
		return pace.DefaultBackoff(failures, rand.Float64()), false
	}
	chosen := make(chan time.Duration, 1)
	m.tasks.startForeign(foreignTask, func() {
		err := caller.Apart("the function given to WithBackoff", func() error {
			chosen <- min(max(0, m.cfg.backoff(failures)), maxWait)
			return nil
		})
		if err != nil {
			m.news.warn("plex: the default backoff applies", "cause", err)
			close(chosen)
		}
	})
	late := time.NewTimer(backoffPatience)
	defer late.Stop()
	select {
	case pause, isChosen = <-chosen:
	case <-late.C:
		m.news.warn("plex: the default backoff applies", "cause", "the function given to WithBackoff has not returned", "after", backoffPatience)
	case <-m.ctx.Done():
	}
	if !isChosen {
		pause = pace.DefaultBackoff(failures, rand.Float64())
	}
	return pause, isChosen
}

// proofPause is how often it is asked whether a service that answers again has proved well.
const proofPause = 25 * time.Millisecond

// backoffPatience is how long the user's backoff function may take.
const backoffPatience = time.Second
