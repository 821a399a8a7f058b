package plex

// A queue holds the idle halves of one kind and, by the channel's own order,
// the callers that wait for one. Acquiring is here; the way back is
// half.release.
//
// What the channel gives for free is what makes pools hard: a caller that
// waits is handed a half by the very send that frees it, first come first
// served; a caller that gives up while it is being served either has the half
// or has never had it; and no wake-up is lost, since nobody checks before
// waiting.

import (
	"context"
	"runtime"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex/internal/caller"
)

// epoch is for measuring waits: Since reads one clock, and Now two.
var epoch = time.Now()

// queue is one of the multiplexer's two channels and its figures.
type queue struct {
	// idle holds each idle half once. It never blocks a sender, see
	// newQueue. A nil in it is a token that says: look at the state of the
	// multiplexer (see Multiplexer.wakeLocked).
	idle  chan *half
	name  string // "reader", "writer" or "ready reader"
	lends bool   // it holds halves that wait in another queue as well, see ready.go
	// low is the fewest halves that were idle since the auto-scaler looked
	// last: those that nobody has needed. It is 0, and stays so, if nobody
	// wants to know.
	low atomic.Int64
	// stale counts the halves in idle that have been retired since they were
	// put there. Whoever takes one out drops it.
	stale atomic.Int64

	_ [88]byte // what follows changes with every wait; what is above hardly does

	waiting atomic.Int64 // callers that wait now

	waited   atomic.Uint64
	timedOut atomic.Uint64
	canceled atomic.Uint64
	waitTime atomic.Int64 // nanoseconds that waits have taken, all added up

	// Guarded by Multiplexer.mu.
	token   bool // the nil is in idle or in a caller's hands
	overdue int  // callers that have waited for longer than the auto-scaler allows
	served  int  // those of them that have got a new connection, as far as is known
}

// init makes room for all that can be of use in the channel at one moment, the
// halves of every open connection, those of connections that are over but for
// what is left to be read, at most so many times the capacity, and the token;
// and for a quarter more that are of none, see sweep.
func (q *queue) init(name string, capacity, over int) {
	q.name = name
	q.idle = make(chan *half, 5*(1+over)*capacity/4+8)
}

// put makes h available. It does not block: h is in the channel only once, as
// only the end of a lease, of a hold, or its admission puts it there, and what
// takes up the room for halves that can be leased are halves that cannot.
func (q *queue) put(h *half) {
	select {
	case q.idle <- h:
	default:
		q.makeRoom(h)
	}
}

// makeRoom is put when the channel is full.
func (q *queue) makeRoom(h *half) {
	for {
		q.sweep(1)
		select {
		case q.idle <- h:
			return
		default:
			runtime.Gosched()
		}
	}
}

// sweep drops halves that cannot be leased if there are at least so many: those
// that are retired, and those that a consumer has, which the end of the lease puts
// back. It turns the channel once, holding one half at a time, so that no caller
// finds it empty who would have found a half before, unless that was the only one.
func (q *queue) sweep(least int) {
	if q.stale.Load() < int64(least) && !q.lends {
		return
	}
	for range len(q.idle) {
		select {
		case h := <-q.idle:
			if h != nil && h.leaveQueue(q) {
				continue
			}
			q.put(h)
		default:
			return
		}
	}
}

// take returns an idle half, leased, if there is one. The second result is
// true if it came upon the token, which is then in the caller's hands. Locked says
// that the caller has Multiplexer.mu.
func (q *queue) take(locked bool) (h *half, lease uint64, token bool) {
	for {
		select {
		case h := <-q.idle:
			if h == nil {
				return nil, 0, true
			}
			if lease, ok := q.lease(h, locked); ok {
				q.noteLow()
				return h, lease, false
			}
		default:
			return nil, 0, false
		}
	}
}

// lease begins the lease of a half that has come out of q, if it can be had.
func (q *queue) lease(h *half, locked bool) (id uint64, ok bool) {
	if q.lends {
		return h.lend(locked)
	}
	return h.lease()
}

// noteLow keeps low up to date. Halves that are not idle, only not yet swept
// out, do not count.
func (q *queue) noteLow() {
	idle := max(0, int64(len(q.idle))-q.stale.Load())
	for {
		low := q.low.Load()
		if idle >= low || q.low.CompareAndSwap(low, idle) {
			return
		}
	}
}

// acquire leases a half of q. The common case is one receive from a channel
// and one atomic operation.
func (m *Multiplexer) acquire(ctx context.Context, timeout time.Duration, q *queue) (*half, uint64, error) {
	if ctx.Err() == nil {
		select {
		case h := <-q.idle:
			if h != nil {
				if lease, ok := h.lease(); ok {
					if q.low.Load() > 0 {
						q.noteLow()
					}
					return h, lease, nil
				}
			} else if err := m.tokenTaken(q); err != nil {
				return nil, 0, m.acquireFailed(q, 0, err)
			}
		default:
		}
	}
	return m.acquireSlow(ctx, timeout, q)
}

func (m *Multiplexer) acquireSlow(ctx context.Context, timeout time.Duration, q *queue) (*half, uint64, error) {
	if err := ctx.Err(); err != nil {
		q.canceled.Add(1)
		return nil, 0, m.acquireFailed(q, 0, caller.ContextError(ctx))
	}
	h, lease, err := m.tryTake(q)
	if h == nil && err == nil && q.waiting.Load() == 0 {
		// Nobody queues, so those who hold the halves have just been running:
		// let them, it costs less than being put to sleep and woken. A caller
		// that comes back here with a half has overtaken no waiter, for while
		// one waits the channel is empty.
		runtime.Gosched()
		h, lease, err = m.tryTake(q)
	}
	switch {
	case err != nil:
		return nil, 0, m.acquireFailed(q, 0, err)
	case h != nil:
		return h, lease, nil
	case timeout < 0:
		// A sweep may have had the only idle half in its hands.
		m.mu.Lock()
		h, lease, token := q.take(true)
		if token {
			err = m.tokenTakenLocked(q)
		}
		m.mu.Unlock()
		if h != nil {
			return h, lease, nil
		}
		if err == nil {
			err = ErrTimeout
			q.timedOut.Add(1)
		}
		return nil, 0, m.acquireFailed(q, 0, err)
	}
	return m.wait(ctx, timeout, q)
}

// tryTake is take with the token seen to.
func (m *Multiplexer) tryTake(q *queue) (*half, uint64, error) {
	for {
		h, lease, token := q.take(false)
		if !token {
			return h, lease, nil
		}
		if err := m.tokenTaken(q); err != nil {
			return nil, 0, err
		}
	}
}

// wait blocks until the queue hands over a half, the caller's time is up, or
// there is nothing left to wait for.
func (m *Multiplexer) wait(ctx context.Context, timeout time.Duration, q *queue) (*half, uint64, error) {
	q.waiting.Add(1)
	q.waited.Add(1)
	if q.low.Load() > 0 {
		q.low.Store(0) // somebody needs all that there is
	}
	start := time.Since(epoch)
	if m.short.Load() && !q.lends {
		m.kick() // a wait is a reason to connect, or to do so sooner
	}

	if m.cfg.autoScaling.set && !q.lends {
		defer m.patient(q).end()
	}
	var expired <-chan time.Time // nil, which never comes, without a timeout
	if timeout > 0 {
		timer := m.timer(timeout)
		defer m.putTimer(timer)
		expired = timer.C
	}

	var (
		leased *half
		lease  uint64
		err    error
	)
	for leased == nil && err == nil {
		var h *half
		// The bare receive is half the price of the select and needs no way
		// out: the token is its way out.
		if done := ctx.Done(); done == nil && expired == nil {
			h = <-q.idle
		} else {
			select {
			case h = <-q.idle:
			case <-done:
				q.canceled.Add(1)
				err = caller.ContextError(ctx)
				continue
			case <-expired:
				q.timedOut.Add(1)
				err = ErrTimeout
				continue
			}
		}
		if h == nil {
			err = m.tokenTaken(q)
		} else if id, ok := q.lease(h, false); ok {
			leased, lease = h, id
		}
		// A half that died between its release and this moment sends its
		// waiter to the end of the queue. That takes a fault within the
		// microseconds of a hand-over, so it can delay a waiter but not
		// starve it.
	}

	waited := time.Since(epoch) - start
	q.waitTime.Add(int64(waited))
	q.waiting.Add(-1)
	if err != nil {
		return nil, 0, m.acquireFailed(q, waited, err)
	}
	return leased, lease, nil
}

// timer returns a running timer. Timers are pooled for each multiplexer, not
// for all, since a timer must not cross the bubbles of testing/synctest.
func (m *Multiplexer) timer(d time.Duration) *time.Timer {
	if t, ok := m.timers.Get().(*time.Timer); ok {
		t.Reset(d)
		return t
	}
	return time.NewTimer(d)
}

// putTimer stops t and keeps it. Since Go 1.23 nothing stale is left in its
// channel.
func (m *Multiplexer) putTimer(t *time.Timer) {
	t.Stop()
	m.timers.Put(t)
}

// wakeLocked puts the token into both queues, unless it is on its way there
// already. Each waiter that takes it out looks at the multiplexer's state, and
// if there is nothing to wait for puts it back for the next and fails; so one
// token wakes all waiters, and those still to come.
func (m *Multiplexer) wakeLocked() {
	for _, q := range []*queue{&m.readers, &m.writers, &m.ready} {
		if !q.token && q.idle != nil {
			q.token = true
			q.put(nil)
		}
	}
}

// tokenTaken is called with the token in hand. It puts the token back and
// says why there is nothing to wait for, or drops it.
func (m *Multiplexer) tokenTaken(q *queue) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.tokenTakenLocked(q)
}

func (m *Multiplexer) tokenTakenLocked(q *queue) error {
	err := m.hopelessLocked()
	if err == nil {
		q.token = false
		return nil
	}
	q.put(nil)
	if err != ErrClosed && len(q.idle) > 1 {
		return nil // what a lost connection left to be read goes first; the token is behind it now
	}
	return err
}

// hopelessLocked says why no caller should wait, nil if one may.
func (m *Multiplexer) hopelessLocked() error {
	switch {
	case m.refusing:
		return ErrClosed
	case m.cfg.connect == nil && m.admitted > 0 && m.open == 0 && m.connecting == 0 && m.looking == 0:
		return ErrNoConnections
	}
	return nil
}
