package plex

// A queue holds the idle halves of one kind and, by the channel's own order, the callers that wait
// for one. Acquiring is in acquire.go; the ways back are half.close and half.arrive.
//
// What the channel gives for free is what makes pools hard. A caller that waits is handed a half by
// the very send that frees it, first come first served. A caller that gives up while it is being
// served either has the half or has never had it. And no wake-up is lost, since nobody checks
// before waiting.

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex/internal/option"
)

// queue is one of the multiplexer's two channels and its figures.
type queue struct {
	// idle holds each listed half once. It never blocks a sender, see init. A nil in it is the
	// token that says: look at the state of the multiplexer (see wakeLocked).
	idle chan *half
	kind string // "reader" or "writer"
	// attended says that each idle half is attended to, also one that is listed: they are read
	// halves, with WithQuietIdle. Constant.
	attended bool
	// ready says that halves are listed only when they have something to deliver.
	ready atomic.Bool
	// low is the fewest halves that were idle since the auto-scaler looked last: those that nobody
	// has needed. It is 0, and stays so, if nobody wants to know.
	low atomic.Int64
	// stale counts entries whose half is not idle. Whoever takes one out drops it.
	stale atomic.Int64
	// circulating counts the halves that a consumer has or can get from the channel.
	circulating atomic.Int64

	_ [64]byte // what follows changes with every wait; what is above hardly does

	waiting atomic.Int64 // callers that wait now

	waited   atomic.Uint64
	timedOut atomic.Uint64
	canceled atomic.Uint64
	refused  atomic.Uint64 // callers that did not wait, as too many did, or as there was nothing to wait for
	waitTime atomic.Int64  // nanoseconds that waits have taken, all added up
	waits    histogram

	sweeping sync.Mutex // held by the one that sweeps

	// Guarded by Multiplexer.mu.
	token bool // the nil is in idle or in a caller's hands
	line  line // of those that wait, with auto-scaling
}

// init makes room for all that can be of use in the channel at one moment: the halves of every open
// connection, those of connections that are over except for what is left to be read, at most so
// many times the capacity, and the token. A quarter more is for stale entries, see sweep.
func (q *queue) init(kind string, capacity, over int) {
	q.kind = kind
	q.idle = make(chan *half, 5*(1+over)*capacity/4+8)
}

// name is what a caller asks for.
func (q *queue) name() string {
	if q.ready.Load() {
		return "ready " + q.kind
	}
	return q.kind
}

// put lists h, whose word says so already. It does not block: a half is in the channel only once,
// and what takes up the room for idle halves are stale entries.
func (q *queue) put(h *half) {
	if !q.offer(h) {
		q.makeRoom(h)
	}
}

func (q *queue) offer(h *half) bool {
	select {
	case q.idle <- h:
		return true
	default:
		return false
	}
}

// makeRoom is put when the channel is full.
func (q *queue) makeRoom(h *half) {
	for !q.offer(h) {
		q.sweep(1)
		runtime.Gosched()
	}
}

// sweep drops stale entries if there are at least so many. It turns the channel once, holding one
// half at a time, so that no caller finds it empty who would have found a half before, unless that
// was the only one.
func (q *queue) sweep(least int) {
	if q.stale.Load() < int64(least) || !q.sweeping.TryLock() {
		return
	}
	defer q.sweeping.Unlock()
	q.sweepLocked(least)
}

// sweepLocked is sweep for a caller that has the lock.
func (q *queue) sweepLocked(least int) {
	if q.stale.Load() < int64(least) {
		return
	}
	var hand []*half // taken out and not stale
	for n := len(q.idle); n > 0 || len(hand) > 0; {
		if len(hand) > 0 && q.offer(hand[0]) {
			hand = hand[1:]
			continue
		}
		select {
		case h := <-q.idle:
			n--
			if h != nil {
				if _, gone := h.change(word.swept); gone {
					continue
				}
			}
			hand = append(hand, h)
		default:
			n = 0
		}
	}
}

// take returns an idle half, leased, if there is one. The third result is true if it came upon the
// token, which is then in the caller's hands.
func (q *queue) take() (h *half, lease word, token bool) {
	for {
		select {
		case h := <-q.idle:
			if h == nil {
				return nil, 0, true
			}
			if lease, ok := h.lease(); ok {
				q.noteLow()
				return h, lease, false
			}
		default:
			return nil, 0, false
		}
	}
}

// listed is how many idle halves the channel holds, and leased how many consumers have. Both are
// right when nothing changes meanwhile, and near that otherwise.
func (q *queue) listed() int { return max(0, len(q.idle)-int(q.stale.Load())) }
func (q *queue) leased() int { return max(0, int(q.circulating.Load())-q.listed()) }

// noteLow keeps low up to date.
func (q *queue) noteLow() {
	idle := int64(q.listed())
	for {
		low := q.low.Load()
		if idle >= low || q.low.CompareAndSwap(low, idle) {
			return
		}
	}
}

// join has one more caller wait, unless as many wait already as may.
func (q *queue) join(most option.Value[int]) bool {
	if !most.Given() || q.ready.Load() {
		q.waiting.Add(1)
		return true
	}
	for {
		n := q.waiting.Load()
		if n >= int64(most.Get()) {
			return false
		}
		if q.waiting.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// wakeLocked puts the token into both queues, unless it is on its way there already. Each waiter
// that takes it out looks at the multiplexer's state. If there is nothing to wait for, it puts the
// token back for the next and fails; so one token wakes all waiters, and those still to come.
func (m *Multiplexer) wakeLocked() {
	for _, q := range []*queue{&m.readers, &m.writers} {
		if !q.token {
			q.token = true
			q.put(nil)
		}
	}
}

// wakeIfHopelessLocked wakes the waiters if the last connection has gone.
func (m *Multiplexer) wakeIfHopelessLocked() {
	if err := m.hopelessLocked(); err == ErrNoConnections || err == ErrUnavailable {
		m.wakeLocked()
	}
}

// tokenTaken is called with the token in hand. It puts the token back and says why there is nothing
// to wait for, or drops it.
func (m *Multiplexer) tokenTaken(q *queue) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	err := m.hopelessLocked()
	if err == nil || err == ErrUnavailable && q.ready.Load() { // what arrives can be waited for
		q.token = false
		return nil
	}
	q.put(nil)
	if err != ErrClosed && len(q.idle) > 1 {
		return nil // what a lost connection left to be read goes first; the token is behind it now
	}
	if err == ErrUnavailable {
		q.refused.Add(1)
		m.want(q)
	}
	return err
}

// hopelessLocked says why no caller should wait, nil if one may.
func (m *Multiplexer) hopelessLocked() error {
	switch {
	case m.refused:
		return ErrClosed
	case m.refusing: // all will be told in a moment, and of that
		return nil
	case m.cfg.connect == nil && m.admitted > 0 && m.open == 0 && m.connecting == 0 && m.looking == 0:
		return ErrNoConnections
	case m.cfg.failFast.Given() && m.open == m.leaving && m.healer.pace.Failures(time.Now()) >= m.cfg.failFast.Get():
		return ErrUnavailable
	}
	return nil
}
