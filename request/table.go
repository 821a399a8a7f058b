package request

// The table has all requests from their turn to their end: by identifier, for replies, and by
// connection, for its end (link.go). It does no I/O and calls nobody but plex, for names of
// connections. It has one mutex, held for a few map operations at a time. What they find is acted
// on after that.

import (
	"sync"
	"time"

	"go.atomizer.io/plex"
)

type table[R any] struct {
	limit int                   // most in flight, 0 if there is no bound
	ended func(*link[R], error) // called when a connection has ended, in a goroutine
	wg    sync.WaitGroup        // calls of ended that run or may still come
	news  chan struct{}         // holds one: there is a new link

	// mu guards what follows, and the calls and links in it. The multiplexer's own lock may be
	// taken under it, but not the other way round.
	mu     sync.Mutex
	closed error // why nobody gets a turn any more; nil while callers do
	ids    ids
	calls  map[uint64]*call[R] // by identifier: those in flight, abandoned and resting
	links  map[plex.Conn]*link[R]
	queue  list[R] // of those waiting for their turn
	rest   rest[R]
	tidier *time.Timer // calls tidy; nil before the first time
	tidies bool        // it will
	stats  Stats       // without InFlight, which is derived
}

func (t *table[R]) init(cfg *config, ended func(*link[R], error)) {
	t.ids.max, t.limit, t.ended = cfg.ids, cfg.inFlight.Get(), ended
	t.calls, t.links = make(map[uint64]*call[R]), make(map[plex.Conn]*link[R])
	t.rest.mark.state = resting
	t.news = make(chan struct{}, 1)
}

// inFlightLocked is how many requests are in flight: those with an identifier that is not just
// reserved.
func (t *table[R]) inFlightLocked() int { return len(t.calls) - t.stats.Abandoned }

// enter asks for a turn. If the call must wait for it, waits is true, and done tells when it comes.
func (t *table[R]) enter(c *call[R]) (waits bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stats.Requests++
	if t.closed != nil {
		t.stats.Failed++
		return false, t.closed
	}
	if t.queue.head == nil && t.roomLocked() {
		t.admitLocked(c)
		return false, nil
	}
	c.state = waiting
	t.queue.push(c)
	t.stats.Waiting++
	return true, nil
}

func (t *table[R]) roomLocked() bool {
	return (t.limit == 0 || t.inFlightLocked() < t.limit) && t.ids.room(len(t.calls))
}

func (t *table[R]) admitLocked(c *call[R]) {
	c.id = t.ids.take(t.takenLocked)
	c.state = admitted
	t.calls[c.id] = c
}

func (t *table[R]) takenLocked(id uint64) bool {
	_, taken := t.calls[id]
	return taken
}

// turnsLocked gives their turn to as many callers as there is room for, first come, first served.
// Whatever makes room calls it under the same hold of the mutex, so nobody waits while there is
// room.
func (t *table[R]) turnsLocked() {
	for c := t.queue.head; c != nil && t.roomLocked(); c = t.queue.head {
		t.unqueueLocked(c)
		t.admitLocked(c)
		c.done <- turn
	}
}

func (t *table[R]) unqueueLocked(c *call[R]) {
	t.queue.remove(c)
	t.stats.Waiting--
}

// leave takes out a call that waits for its turn, because its context has ended. If it is too late
// for that, ok is false and done says what happened.
func (t *table[R]) leave(c *call[R]) (figures WaitError, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c.state != waiting {
		return WaitError{}, false
	}
	t.unqueueLocked(c)
	t.stats.Canceled++
	c.state = idle
	return WaitError{
		InFlight: t.inFlightLocked(), Limit: t.limit,
		Abandoned: t.stats.Abandoned, IDs: t.ids.max, Waiting: t.stats.Waiting,
	}, true
}

// register notes that the call is about to be written by w. From then on a reply may come, or the
// connection end. It reports false if the call has ended, and done tells how.
func (t *table[R]) register(c *call[R], w plex.Writer) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c.state != admitted {
		return false
	}
	l := t.linkLocked(w.Conn())
	t.pinLocked(l)
	c.state, c.on = sent, l
	l.calls.push(c)
	l.live++
	l.writer = w
	t.stats.Sent++
	return true
}

// quit notes that the call's Write is being interrupted because its context has ended. Whatever
// becomes of its connection, the context is what ended the call.
func (t *table[R]) quit(c *call[R]) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c.state == sent {
		c.state = quitting
	}
}

// reply takes out the call that a reply is for, which the caller then ends. It returns nil if there
// is none.
func (t *table[R]) reply(id uint64) *call[R] {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.calls[id]
	if c == nil {
		if !t.ids.few() && t.ids.used(id) {
			t.stats.Late++
		} else {
			t.stats.Unknown++
		}
		return nil
	}
	switch c.state {
	case sent, quitting:
		t.removeLocked(c)
		c.state = over
		t.stats.Replies++
		t.turnsLocked()
		return c
	case abandoned:
		t.removeLocked(c)
		t.stats.Late++
		t.turnsLocked()
	case resting:
		t.stats.Late++
	default:
		t.stats.Unknown++
	}
	return nil
}

// giveUp takes out a call that Do gives up. If something of it may have been sent and identifiers
// are few, the identifier stays reserved, and the table keeps the call; kept says so. If somebody
// else has ended the call already, or will, ok is false and done tells how.
func (t *table[R]) giveUp(c *call[R], maybeSent bool, why reason) (kept, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case c.state == over:
		return false, false
	case c.state == idle:
		return false, true // it was quitting, and its connection has ended
	case c.state == sent && t.otherReasonLocked(c, why):
		return false, false
	}
	if why == canceled {
		t.stats.Canceled++
	} else {
		t.stats.Failed++
	}
	if kept = maybeSent && t.ids.few(); kept {
		c.state = abandoned
		c.on.live--
		t.stats.Abandoned++
	} else {
		if maybeSent {
			c.on.owes = true
		}
		t.removeLocked(c)
		c.state = idle
	}
	t.turnsLocked()
	return kept, true
}

// otherReasonLocked reports whether the Write failed because the connection was killed. The kill
// has a reason, which ends the call when the connection has ended.
func (t *table[R]) otherReasonLocked(c *call[R], why reason) bool {
	return why == killed || why == sendFailed && c.on.nonsense != nil
}

// removeLocked takes a call out of everything and frees its identifier. The caller then gives
// turns.
func (t *table[R]) removeLocked(c *call[R]) {
	t.detachLocked(c)
	t.freeLocked(c.id)
}

// detachLocked takes a call out of everything but the map of identifiers.
func (t *table[R]) detachLocked(c *call[R]) {
	if c.state == abandoned {
		t.stats.Abandoned--
	}
	if l := c.on; l != nil {
		l.calls.remove(c)
		if c.state != abandoned {
			l.live--
		}
		c.on = nil
	}
}

func (t *table[R]) freeLocked(id uint64) {
	delete(t.calls, id)
	t.ids.put(id)
}

func (t *table[R]) failLocked(c *call[R], victims *list[R]) {
	c.state = over
	t.stats.Failed++
	victims.push(c)
}

// close takes everything out for a reason, and lets nobody in any more. The links are the caller's
// then. Only the first call does anything.
func (t *table[R]) close(reason error) (victims list[R], links []*link[R]) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed != nil {
		return list[R]{}, nil
	}
	t.closed = reason
	for c := t.queue.head; c != nil; c = t.queue.head {
		t.unqueueLocked(c)
		t.failLocked(c, &victims)
	}
	for _, l := range t.links {
		if l.unwatch() {
			t.wg.Done()
		}
		l.owes = l.owes || l.calls.head != nil
		links = append(links, l)
		t.takeAllLocked(l, &victims)
	}
	clear(t.links)
	t.rest.freeAllLocked(t)
	for _, c := range t.calls { // those not given to a connection yet
		t.removeLocked(c)
		t.failLocked(c, &victims)
	}
	if t.tidier != nil {
		t.tidier.Stop()
	}
	return victims, links
}
