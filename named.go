package plex

// Leases by name: of a half of one connection, for a caller who needs just that one. It gets the
// half at once if that is idle, and otherwise waits in a line of the half's own, which is served
// ahead of the queue by whoever brings the half back.

import (
	"container/list"
	"context"
	"runtime"
	"sync"
	"time"

	"go.atomizer.io/plex/internal/caller"
)

// named is the line of callers who wait for one half. A half has one from the first of them on.
type named struct {
	mu   sync.Mutex
	came uint64 // how many have come
	// In the order in which they came: those who want the half alone, and the others.
	alone, others list.List
}

// namedWaiter is a caller in that line.
type namedWaiter struct {
	number uint64
	list   *list.List
	place  *list.Element // in the list; nil if it is not there any more
	got    chan word     // its lease, once; 0 if the half has been retired
}

// line returns the half's line.
func (h *half) line() *named {
	if l := h.named.Load(); l != nil {
		return l
	}
	h.named.CompareAndSwap(nil, new(named))
	return h.named.Load()
}

// add puts a caller at the end of the line. One who wants the half alone is served only while nobody
// expects anything of the connection, see Conn.Pin.
func (l *named) add(alone bool) *namedWaiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := &namedWaiter{number: l.came, list: &l.others, got: make(chan word, 1)}
	if alone {
		w.list = &l.alone
	}
	l.came++
	w.place = w.list.PushBack(w)
	return w
}

// first returns the first waiter that can be served, nil if there is none.
func (l *named) first(h *half) *namedWaiter {
	var first *namedWaiter
	if e := l.others.Front(); e != nil {
		first = e.Value.(*namedWaiter)
	}
	if e := l.alone.Front(); e != nil && h.conn.isFree() {
		if w := e.Value.(*namedWaiter); first == nil || w.number < first.number {
			first = w
		}
	}
	return first
}

// leave takes a waiter out of the line. It reports false if it is not there any more.
func (w *namedWaiter) leave() bool {
	if w.place == nil {
		return false
	}
	w.list.Remove(w.place)
	w.place = nil
	return true
}

// isFree reports whether nobody expects anything of the connection.
func (c *conn) isFree() bool { return c.pins.Load() == 0 }

// leaseNow leases h if it is idle. For a caller who wants it alone, nobody may expect anything of
// the connection.
func (h *half) leaseNow(alone bool) (word, bool) {
	if alone && (!h.conn.isFree() || h.promised()) {
		return 0, false
	}
	w := h.word()
	if w.idle() && !w.is(poolListed) && h.swap(w, w+leaseOne|leaseLive) {
		return w.lease() + leaseOne, true
	}
	from, ok := h.change(word.named)
	if ok {
		h.unlist()
	}
	return from.lease() + leaseOne, ok
}

// comesWhenAsked reports whether the half is idle but for a Read of plex's own, which ends as soon as
// somebody asks for the half.
func (h *half) comesWhenAsked() bool {
	p := &h.parking
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.in && p.next == nil && h.conn.attention != blind
}

// unlist drops the entry of a half that is listed on demand and has just been leased: what it is listed
// for is read by this lease.
func (h *half) unlist() {
	for w := h.word(); w.is(poolListed) && w.is(poolOnDemand); w = h.word() {
		h.queue.sweeping.Lock()
		h.queue.sweepLocked(1)
		h.queue.sweeping.Unlock()
		runtime.Gosched() // a caller has the entry in hand, and is about to drop it
	}
}

// leaseNamed leases h, and waits for it if need be. It returns the cause if the half is never
// leased again.
func (h *half) leaseNamed(ctx context.Context, timeout time.Duration, alone bool) (word, error) {
	if id, ok := h.leaseNow(alone); ok {
		return id, nil
	}
	if timeout < 0 && !h.word().is(poolRetired) {
		if alone && !h.conn.isFree() || !h.comesWhenAsked() {
			return 0, ErrTimeout
		}
		timeout = interruptGrace
	}
	l := h.line()
	w := l.add(alone)
	h.offerNamed()

	var expired <-chan time.Time
	if timeout > 0 {
		timer := h.conn.m.timers.get(timeout)
		defer h.conn.m.timers.put(timer)
		expired = timer.C
	}
	var err error
	select {
	case id := <-w.got:
		return h.grantedTo(id)
	case <-ctx.Done():
		err = caller.ContextError(ctx)
	case <-expired:
		err = ErrTimeout
	}
	if !l.remove(w) {
		return h.grantedTo(<-w.got) // it has been served at the same moment
	}
	return 0, err
}

// grantedTo ends a wait: with the lease, or with the cause if the half is never leased again.
func (h *half) grantedTo(id word) (word, error) {
	if id != 0 {
		h.unlist()
		return id, nil
	}
	m := h.conn.m
	m.mu.Lock()
	defer m.mu.Unlock()
	return 0, h.conn.endCause()
}

// remove takes a waiter out of the line. It reports false if it is not there any more.
func (l *named) remove(w *namedWaiter) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return w.leave()
}

// offerNamed sees to it that the line is served: by whoever has the half now, when it arrives, or
// here if it is idle. It is called when a waiter has come, and when one may be served that could
// not be before.
func (h *half) offerNamed() {
	l := h.named.Load()
	if l == nil {
		return
	}
	waits, waitsNow := l.waits(h)
	for waits {
		if !h.writes() && h.word().idle() && h.promised() {
			runtime.Gosched() // to the caller who is about to lease it
			continue
		}
		w, promised := h.word(), false
		if waitsNow {
			w, promised = h.change(word.wanted)
		}
		switch {
		case w.is(poolRetired), !h.writes() && h.conn.w.word().is(poolRetired):
			h.failNamed()
			return
		case !waitsNow: // until the connection is free
			return
		case promised:
			if h.conn.attention != blind { // for that nothing is interrupted that only an end can
				h.leaveParking()
			}
			return
		case h.hold():
			h.serveNamed()
			return
		}
	}
}

// waits reports whether anyone is in the line, and whether anyone can be served now.
func (l *named) waits(h *half) (waits, now bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.alone.Len()+l.others.Len() > 0, l.first(h) != nil
}

// serveNamed gives a half that is held to the first in the line, or brings it back if there is
// none.
func (h *half) serveNamed() {
	if !h.grantNamed() {
		h.arrive(fromHold)
	}
}

func (h *half) grantNamed() bool {
	l := h.line()
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.first(h)
	if w == nil {
		h.unset(poolNamed)
		return false
	}
	w.leave()
	more := l.first(h) != nil
	from, ok := h.change(func(w word) (word, bool) { return w.granted(more) })
	if !ok { // it has been retired: nobody gets it any more
		w.got <- 0
		l.failLocked()
		h.unset(poolNamed)
		return false
	}
	w.got <- from.lease() + leaseOne // it holds one
	return true
}

// failWaiting tells those who wait for a half by name that it is retired. Whoever has a write half
// and waits for the read half beside it needs both.
func (h *half) failWaiting() {
	h.failNamed()
	if h.writes() {
		h.conn.r.failNamed()
	}
}

// failNamed tells all in the line that the half is never leased again.
func (h *half) failNamed() {
	if l := h.named.Load(); l != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.failLocked()
	}
}

func (l *named) failLocked() {
	for _, waiters := range []*list.List{&l.alone, &l.others} {
		for e := waiters.Front(); e != nil; e = waiters.Front() {
			w := e.Value.(*namedWaiter)
			w.leave()
			w.got <- 0
		}
	}
}
