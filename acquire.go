package plex

// Acquiring a lease: the common case, and waiting. The queue does the rest.

import (
	"context"
	"runtime"
	"sync"
	"time"

	"go.atomizer.io/plex/internal/caller"
)

// epoch is for measuring waits: Since reads one clock, and Now two.
var epoch = time.Now()

// maxWait is longer than any process lives. Durations near the limit are cut to it, so that adding
// them to a time does not overflow.
const maxWait = 100 * 365 * 24 * time.Hour

// acquire leases a half of q. The common case is one receive from a channel and one atomic
// operation.
func (m *Multiplexer) acquire(ctx context.Context, timeout time.Duration, q *queue) (*half, word, error) {
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

func (m *Multiplexer) acquireSlow(ctx context.Context, timeout time.Duration, q *queue) (*half, word, error) {
	if err := ctx.Err(); err != nil {
		q.canceled.Add(1)
		return nil, 0, m.acquireFailed(q, 0, caller.ContextError(ctx))
	}
	h, lease, err := m.tryTake(q)
	if h == nil && err == nil && q.waiting.Load() == 0 {
		// Nobody queues, so those who hold the halves have just been running: let them, it costs
		// less than being put to sleep and woken. A caller that comes back here with a half has
		// overtaken no waiter, for while one waits the channel is empty.
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
		q.sweeping.Lock()
		q.sweeping.Unlock() //nolint:staticcheck // it is over now
		if h, lease, err = m.tryTake(q); h != nil {
			return h, lease, nil
		}
		if err == nil {
			err = ErrTimeout
			m.want(q)
		}
		return nil, 0, m.acquireFailed(q, 0, err)
	}
	return m.wait(ctx, timeout, q)
}

// tryTake is take with the token seen to.
func (m *Multiplexer) tryTake(q *queue) (*half, word, error) {
	for {
		h, lease, token := q.take()
		if !token {
			return h, lease, nil
		}
		if err := m.tokenTaken(q); err != nil {
			return nil, 0, err
		}
	}
}

// wait blocks until the queue hands over a half, the caller's time is up, or there is nothing left
// to wait for.
func (m *Multiplexer) wait(ctx context.Context, timeout time.Duration, q *queue) (*half, word, error) {
	if !q.join(m.cfg.maxWaiting) {
		q.refused.Add(1)
		m.want(q)
		return nil, 0, m.acquireFailed(q, 0, ErrTooManyWaiting)
	}
	q.waited.Add(1)
	m.news.waiting(ctx, q)
	if q.low.Load() > 0 {
		q.low.Store(0) // somebody needs all that there is
	}
	start := time.Since(epoch)
	m.want(q)
	if m.cfg.autoScaling.Given() && !q.ready.Load() {
		defer m.endWait(q, m.beginWait(q))
	}
	var expired <-chan time.Time // nil, which never comes, without a timeout
	if timeout > 0 {
		timer := m.timers.get(timeout)
		defer m.timers.put(timer)
		expired = timer.C
	}

	var (
		leased *half
		lease  word
		err    error
	)
	for leased == nil && err == nil {
		var h *half
		// The bare receive is half the price of the select and needs no way out: the token is its
		// way out.
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
		} else if id, ok := h.lease(); ok {
			leased, lease = h, id
		}
		// A half that died between its release and this moment sends its waiter to the end of the
		// queue. That takes a fault within the microseconds of a hand-over, so it can delay a
		// waiter but not starve it.
	}

	waited := time.Since(epoch) - start
	q.waitTime.Add(int64(waited))
	q.waits.add(waited)
	q.waiting.Add(-1)
	if err != nil {
		return nil, 0, m.acquireFailed(q, waited, err)
	}
	return leased, lease, nil
}

// want is called for a caller for whom there is nothing at this moment, which is a reason to
// connect, or to do so sooner, if connections are missing.
func (m *Multiplexer) want(q *queue) {
	if m.short.Load() && !q.ready.Load() {
		m.wanted.Store(true)
		m.kick()
	}
}

// timers are reused. They are pooled for each multiplexer, not for all, since a timer must not
// cross the bubbles of testing/synctest.
type timers struct{ pool sync.Pool }

// get returns a running timer.
func (p *timers) get(d time.Duration) *time.Timer {
	if t, ok := p.pool.Get().(*time.Timer); ok {
		t.Reset(d)
		return t
	}
	return time.NewTimer(d)
}

// put stops t and keeps it. Since Go 1.23 nothing stale is left in its channel.
func (p *timers) put(t *time.Timer) {
	t.Stop()
	p.pool.Put(t)
}
