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
	limit   int                   // most in flight, 0 if there is no bound
	perConn int                   // most unanswered on one connection, 0 if there is no bound
	inOrder bool                  // replies come in the order of the requests
	cancels bool                  // requests that are given up can be cancelled
	buffer  int                   // bytes of messages that wait for a stream to take them
	quiet   bool                  // there may be requests without a reply
	pulses  *pulses               // of the connections; nil if nobody needs them
	stall   time.Duration         // how long a connection may bring nothing, 0 if there is no bound
	timeout time.Duration         // how long a call may wait for a connection, 0 if there is no bound
	epoch   time.Time             // when the clock began
	ended   func(*link[R], error) // called when a connection has ended, in a goroutine
	wg      sync.WaitGroup        // calls of ended that run or may still come, and what spawn has started
	news    chan struct{}         // holds one: there is a new link

	// mu guards what follows, and the calls and links in it. The multiplexer's own lock may be
	// taken under it, but not the other way round.
	mu         sync.Mutex
	closed     error // why nobody gets a turn any more; nil while callers do
	ids        ids
	calls      map[uint64]*call[R] // by identifier: those in flight, abandoned and resting
	links      map[plex.Conn]*link[R]
	queue      list[R] // of those waiting for their turn
	rest       rest[R]
	quarantine quarantine[R]
	tidier     *time.Timer // calls tidy; nil before the first time
	tidies     bool        // it will
	stats      Stats       // without InFlight, which is derived
	sessions   int         // callers that wait for one

	gathering[R]
}

func (t *table[R]) init(cfg *config, ended func(*link[R], error), watch func()) {
	t.ids.min, t.ids.max, t.ids.random = cfg.minID, cfg.maxID, cfg.randomIDs
	t.limit, t.ended = cfg.inFlight.Get(), ended
	t.calls, t.links = make(map[uint64]*call[R]), make(map[plex.Conn]*link[R])
	t.rest.mark.state = resting
	t.news = make(chan struct{}, 1)
	t.most = cfg.writeBuffer.Get()
	t.large = min(t.most, largeFrame)
	t.timeout = cfg.acquireTimeout.Get()
	t.perConn = cfg.perConn.Get()
	t.pulses, t.stall = cfg.pulses, cfg.stallTimeout.Get()
	t.buffer = cfg.streamBuffer.Get()
	t.quarantine.mark.state = resting
	t.epoch = time.Now()
	t.watcher = time.AfterFunc(time.Hour, watch)
	t.watcher.Stop()
}

// clock is a time that is never 0.
func (t *table[R]) clock() time.Duration { return time.Since(t.epoch) + 1 }

// spawn runs f in a goroutine that close waits for, unless the client is closed.
func (t *table[R]) spawn(f func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed == nil {
		t.wg.Go(f)
	}
	return t.closed == nil
}

// inFlightLocked is how many requests are in flight: those with an identifier that is not just
// reserved.
func (t *table[R]) inFlightLocked() int { return len(t.calls) - t.stats.Abandoned }

// plenty reports whether there is an identifier for every call at any time. Then a call gets the
// next one without the mutex, and is entered in the table only when its frame is gathered.
func (t *table[R]) plenty() bool { return t.ids.endless() && t.limit == 0 }

// enter asks for a turn. If the call must wait for it, waits is true, and done tells when it comes.
func (t *table[R]) enter(c *call[R]) (waits bool, err error) {
	if t.plenty() {
		c.id, c.state = t.ids.last.Add(1)-1, idle
		return false, nil
	}
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

// replies takes out the calls that replies are for, which the caller then ends. If replies are
// ordered, all are from one connection. To freed it appends the writers of connections that have
// room again, which the caller closes.
func (t *table[R]) replies(answers []answer[R], from plex.Conn, freed []plex.Writer) []plex.Writer {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range answers {
		a := &answers[i]
		if a.more {
			freed = t.partOfLocked(a, freed)
			continue
		}
		var on *link[R]
		if a.call, on = t.replyLocked(a.id); t.perConn > 0 {
			freed = t.unparkLocked(on, freed)
		}
	}
	t.turnsLocked()
	if t.inOrder {
		if l := t.links[from]; l != nil {
			t.unpinIdleLocked(l)
		}
	}
	return freed
}

// replyLocked takes out the call that a reply is for, and returns it, unless it was given up. on is
// the connection that may have room for another now; nil if there is none. The caller then gives
// turns.
func (t *table[R]) replyLocked(id uint64) (answered *call[R], on *link[R]) {
	c := t.calls[id]
	if c == nil {
		t.strayLocked(id)
		return nil, nil
	}
	on = c.on()
	switch {
	case c.state == flying && on != nil:
		t.removeLocked(c)
		c.state = over
		t.stats.Replies++
		return c, on
	case c.state == abandoned:
		if c.answered = c.cancels; !c.cancels {
			t.removeLocked(c)
		}
		if !c.ping {
			t.stats.Late++
		}
	case c.state == resting:
		t.stats.Late++
	default:
		t.stats.Unknown++
	}
	return nil, on
}

// strayLocked counts a reply to no request that the table knows.
func (t *table[R]) strayLocked(id uint64) {
	if !t.ids.few() && t.ids.used(id) {
		t.stats.Late++
	} else {
		t.stats.Unknown++
	}
}

// givenUp is what became of a call that Do gave up.
type givenUp[R any] struct {
	ok        bool          // Do has it again; otherwise somebody else has ended it, and done tells how
	kept      *call[R]      // but the table keeps it, because its identifier or place stays reserved; nil if not
	maybeSent bool          // something of it may have been sent
	on        *link[R]      // that it had been given to; nil if none
	freed     []plex.Writer // of a connection that has room again, which the caller closes
	waited    time.Duration // how long it waited for a connection, if that is what it did
}

// failure is the error that Do returns for it.
func (g givenUp[R]) failure(why error) error {
	err := &Error{MaybeSent: g.maybeSent, Err: why}
	if g.on != nil {
		err.Conn = g.on.conn
	}
	return err
}

// giveUp takes out a call that Do gives up. If nobody has taken its frame yet, it is cut out. If
// something of it may have been sent and identifiers are few, the identifier stays reserved.
func (t *table[R]) giveUp(c *call[R], why reason) givenUp[R] {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.giveUpLocked(c, why)
}

func (t *table[R]) giveUpLocked(c *call[R], why reason) (g givenUp[R]) {
	if c.state == over || c.slow {
		return g
	}
	g.ok = true
	if c.state == idle { // it has not been entered
		t.stats.Requests++
	}
	if why == canceled {
		t.stats.Canceled++
	} else {
		t.stats.Failed++
	}
	l := c.on()
	g.on = l
	switch {
	case c.state != flying:
	case l == nil:
		if t.stop != nil {
			g.waited = t.clock() - t.sinceLocked(c)
		}
		t.cutOutLocked(c)
	case c.unsent:
	case t.ids.few(), t.inOrder, t.perConn > 0 && !l.datagram:
		g.kept, g.maybeSent = c, true
		c.state, c.stream = abandoned, nil
		c.cancels = t.cancels
		l.live--
		t.stats.Abandoned++
	default:
		l.owes, g.maybeSent = true, true
	}
	if g.kept == nil && c.state != idle {
		t.removeLocked(c)
		c.state = idle
	}
	if g.maybeSent && !c.quiet {
		l.stalling.lapsed = true // a connection that hangs must be found although its callers give up sooner
	}
	g.freed = t.unparkLocked(l, nil)
	t.turnsLocked()
	return g
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
	if l := c.on(); l != nil {
		l.calls.remove(c)
		l.held--
		if c.state != abandoned {
			l.live--
		}
		t.partLocked(c)
	}
}

func (t *table[R]) freeLocked(id uint64) {
	delete(t.calls, id)
	t.ids.put(id)
}

func (t *table[R]) failLocked(c *call[R], maybeSent bool, victims *list[R]) {
	c.state, c.maybe = over, maybeSent
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
		t.failLocked(c, false, &victims)
	}
	for _, l := range t.links {
		if l.unwatch() {
			t.wg.Done()
		}
		l.owes = l.owes || l.calls.head != nil
		links = append(links, l)
		t.takeAllLocked(l, reason, &victims)
	}
	clear(t.links)
	t.rest.freeAllLocked(t)
	t.quarantine.endLocked(t)
	for _, c := range t.calls { // those not given to a connection yet, and those that are being written
		if c.on() == nil {
			c.in = nil
			t.removeLocked(c)
			if !c.ping {
				t.failLocked(c, false, &victims)
			}
		}
	}
	t.first, t.last, t.batches, t.buffers = nil, nil, nil, nil
	if t.tidier != nil {
		t.tidier.Stop()
	}
	return victims, links
}
