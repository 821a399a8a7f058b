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

	target int // connections that there should be
	losses losses
	first  int // connects for New's minimum that are yet to be started
	pace   pace.Service[Address]

	resolver *resolver // constant; nil without WithResolver
	tried    bool      // an address that had failed has been connected to, to see whether it answers
	pausing  bool      // the observer has been told of a backoff, and not of its end

	// The supervisor's connects, in the order in which they started.
	prompt list.List // those that have taken less than pace.Patience
	slow   list.List // those that have taken less than the connect timeout
}

// loss is a connection that is to be replaced.
type loss struct {
	addr     net.Addr
	from     Address // see WithResolver
	at       time.Time
	first    bool // there has been none: it is one of New's minimum
	why      why  // it has left
	attempts int  // connects that have failed to replace it
}

// losses are what is to be replaced: what a failed connect was for goes first, and then the oldest.
// They are a list, since a slice would be copied as it grows, under the lock, when all peers close
// at once.
type losses struct{ list list.List }

// add puts a loss behind all others.
func (ls *losses) add(l loss) { ls.list.PushBack(l) }

// handBack puts a loss that was taken ahead of all others.
func (ls *losses) handBack(l loss) { ls.list.PushFront(l) }

// take takes out the first loss, and reports false if there is none.
func (ls *losses) take() (loss, bool) {
	front := ls.list.Front()
	if front == nil {
		return loss{}, false
	}
	return ls.list.Remove(front).(loss), true
}

// from returns a function that says from which address the i-th loss is, the zero Address if there
// are not so many. From one call to the next, i must not fall.
func (ls *losses) from() func(i int) Address {
	e, at := ls.list.Front(), 0
	return func(i int) (a Address) {
		for ; e != nil && at < i; at++ {
			e = e.Next()
		}
		if e != nil {
			a = e.Value.(loss).from
		}
		return a
	}
}

// attempt is one connect that the supervisor has started.
type attempt struct {
	loss    loss
	grows   bool    // it is the auto-scaler's
	tries   bool    // it is beyond the target, to see whether the address answers
	to      Address // that was chosen; zero without WithResolver
	started time.Time
	epoch   pace.Epochs
	stage   pace.Stage
	place   *list.Element // in the list of its stage; nil if it is in none
}

func (m *Multiplexer) initHealer() {
	m.healer.target = max(m.cfg.minimum.Get(), len(m.cfg.connections))
	m.healer.pace.Chance = rand.Int64N
	if m.cfg.resolver.Given() {
		m.healer.resolver = newResolver(m)
	} else {
		m.healer.pace.List([]Address{{}}, time.Now()) // the only one, whatever it is
	}
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
	starts, wake := h.pace.Decide(now, demand, h.losses.from())
	if !wake.IsZero() {
		sooner(next, wake)
	}
	if demand.Tried && len(starts) == 0 && (!wake.IsZero() || len(h.pace.Listed()) == 0) {
		m.wanted.Store(true) // what is held back is still wanted then
	}
	for _, start := range starts {
		a := &attempt{to: start.At, grows: start.Grows, started: now}
		if a.grows {
			h.target++
			a.loss = loss{addr: m.Addr(), at: now}
		} else {
			a.loss = m.nextLossLocked()
		}
		m.attemptLocked(a)
	}
	if len(starts) > 0 {
		sooner(next, now.Add(pace.Patience))
	}

	whole := m.open-m.leaving >= h.target
	if !whole && h.pace.Proving(now) {
		sooner(next, now.Add(proofPause)) // the service may have proved well by then
	}
	if whole && m.connecting == 0 {
		h.losses = losses{}
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
	if m.due.Len() > 0 && target < m.capacity {
		target++ // what is due is replaced first
	}
	return pace.Demand{
		Target: target, Capacity: m.capacity, Open: m.open, Leaving: m.leaving,
		Connecting: m.connecting,
		Waiting:    waiting, Tried: m.wanted.Swap(false),
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
		h.turnLocked(a, pace.Slow)
		h.resolver.notedLocked(a.to, now, context.DeadlineExceeded, func() { h.pace.Failed(a.to, a.epoch, now) })
		h.resolver.passOverLocked(a)
	}
	for a := oldest(&h.slow); a != nil; a = oldest(&h.slow) {
		if late := a.started.Add(timeout); now.Before(late) {
			sooner(next, late)
			break
		}
		h.turnLocked(a, pace.Hung)
		m.lastErr = fmt.Errorf("plex: Connect has not returned %v after it was called: %w", timeout, context.DeadlineExceeded)
		a.reportFirst(&m.firsts, m.lastErr)
	}
}

// oldest returns the first attempt of a list, nil if there is none.
func oldest(l *list.List) *attempt {
	if front := l.Front(); front != nil {
		return front.Value.(*attempt)
	}
	return nil
}

// turnLocked brings an attempt to another stage, and into the list of those at that stage.
func (h *healer) turnLocked(a *attempt, to pace.Stage) {
	if from := h.of(a.stage); from != nil {
		from.Remove(a.place)
		a.place = nil
	}
	if into := h.of(to); into != nil {
		a.place = into.PushBack(a)
	}
	h.pace.Turn(a.to, a.stage, to)
	a.stage = to
}

// of returns the list of the attempts at a stage, nil if there is none.
func (h *healer) of(stage pace.Stage) *list.List {
	switch stage {
	case pace.Healing, pace.Growing:
		return &h.prompt
	case pace.Slow:
		return &h.slow
	}
	return nil
}

// nextLossLocked takes the loss to be replaced next. Losses may have been forgotten when the pool
// was whole for a moment; the place is then still to be filled.
func (m *Multiplexer) nextLossLocked() loss {
	h := &m.healer
	if l, ok := h.losses.take(); ok {
		return l
	}
	l := loss{addr: m.Addr(), at: time.Now(), first: h.first > 0}
	switch {
	case l.first:
		h.first--
	case m.due.Len() > 0:
		c := m.firstDueLocked()
		l.addr, l.from, l.why = c.remote, c.at, c.life.why
	}
	return l
}

// attemptLocked starts a connect.
func (m *Multiplexer) attemptLocked(a *attempt) {
	h, stage := &m.healer, pace.Healing
	if a.grows {
		stage = pace.Growing
	}
	if m.cfg.resolver.Given() {
		a.loss.addr = netAddr{a.to}
	}
	a.epoch = h.pace.Epoch(a.to)
	h.turnLocked(a, stage)
	m.connecting++
	m.tasks.startForeign(foreignTask, func() { m.connect(a) })
}

// succeededLocked is called in the same moment as the attempt's connection is admitted, before
// anyone can use it.
func (m *Multiplexer) succeededLocked(c *conn, a *attempt) {
	h, now := &m.healer, c.admittedAt
	h.turnLocked(a, pace.NotBegun)
	h.resolver.notedLocked(a.to, now, nil, func() { c.epoch = h.pace.Connected(a.to, now) })
	if !h.pace.Look(a.to, now).Listed {
		c.markDueLocked(whyDrained, now) // its address has gone meanwhile
	}
	m.stats.noteConnect(now.Sub(a.started))
	if h.pausing {
		h.pausing = false
		m.news.backoffEnded()
	}
	m.news.connected(c, a, m.open)
	switch {
	case a.tries:
		h.tried = true
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
	h.turnLocked(a, pace.NotBegun)
	h.resolver.notedLocked(a.to, now, err, func() { h.pace.Failed(a.to, a.epoch, now) })
	h.resolver.hurry()
	m.stats.noteConnect(now.Sub(a.started))
	a.reportFirst(&m.firsts, err)
	a.handBackLocked(m, m.connecting)
}

// handBackLocked gives back what an attempt is for: its loss is the next to be replaced, and growth
// that nobody needs any more is forgotten. others is how many connects go on.
func (a *attempt) handBackLocked(m *Multiplexer, others int) {
	h := &m.healer
	switch {
	case a.grows:
		h.target = max(m.cfg.minimum.Get(), h.target-1, min(h.target, m.open-m.leaving+others))
	case !a.tries:
		again := a.loss
		again.attempts++
		h.losses.handBack(again)
	}
}

// reportFirst tells New what has become of a connect for its minimum.
func (a *attempt) reportFirst(to *firsts, err error) {
	if a.loss.first {
		to.report(err)
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
		m.healer.losses.add(loss{addr: c.remote, from: c.at, at: c.leftAt, why: y})
	}
	switch p := &m.healer.pace; {
	case !c.dialed:
	case y == whyLost && !c.wasUseful() && !consumersDoing(c.failure()):
		m.healer.resolver.notedLocked(c.at, c.leftAt, c.lossCause(), func() { p.Lost(c.at, c.epoch, c.admittedAt, c.leftAt) })
	default:
		p.Gone(c.at, c.epoch, c.admittedAt, c.leftAt)
	}
	if y == whyLost {
		m.healer.resolver.hurry()
	}
}

// lossCause is the cause of a loss, for those who tell of it.
func (c *conn) lossCause() error {
	if err := c.failure(); err != nil {
		return err
	}
	return errPeerClosed
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
		m.healer.pace.Delivered(c.at, c.epoch, c.admittedAt, time.Now())
		m.kick()
	}
}

// decidePause works out the pause after the last failure, of one address or of the service. The
// function may be the user's, so it is called under no lock.
func (m *Multiplexer) decidePause(of *pace.State, failures int) {
	pause, chosen := m.backoff(failures)
	m.mu.Lock()
	defer m.mu.Unlock()
	p := &m.healer.pace
	if now, wanted := of.Unpaused(); wanted && now == failures && !p.Answers(time.Now()) { // no connect has succeeded meanwhile
		m.healer.pausing = true
		m.news.backoffBegan(failures, pause, m.lastErr)
	}
	of.SetPause(failures, pause, !chosen)
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
