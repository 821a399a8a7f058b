package request

// The table has all requests from their turn to their end: by identifier, for replies, and by connection, for its loss.
// It does no I/O and calls nobody but plex, for names of connections. Its one mutex is held for a few map operations at
// a time; what they find is acted on after it.

import (
	"sync"
	"time"

	"go.atomizer.io/plex"
)

// pinFor is how long a connection stays pinned at least. To pin it anew for each request would cost more than the
// request's own bookkeeping.
const pinFor = 50 * time.Millisecond

type table[R any] struct {
	limit int                   // most in flight, 0 if there is no bound
	ended func(*link[R], error) // called when a connection has ended, in a goroutine
	wg    sync.WaitGroup        // calls of ended that can still come, or run
	news  chan struct{}         // holds one; there is a new link

	// mu guards what follows, and the calls and links in it.
	mu      sync.Mutex
	closed  error // why there is no turn any more; nil while there is
	ids     ids
	calls   map[uint64]*call[R] // all that have an identifier
	links   map[plex.Conn]*link[R]
	queue   list[R] // of those that wait for their turn
	unpins  *time.Timer
	pinning bool  // unpins will come
	stats   Stats // InFlight, Abandoned and Waiting are kept here, too
}

// link is a connection that requests have been given to, until its end.
type link[R any] struct {
	conn   plex.Conn
	calls  list[R]     // those sent, quitting and abandoned
	live   int         // those not abandoned
	writer plex.Writer // the latest; all before it are over
	unpin  func()      // nil while it is not pinned
	stop   func() bool // keeps its end from being told
	owes   bool        // a reply can still come to a call that is not in calls any more

	// What came over it made no sense.
	nonsense error
	known    chan struct{} // closed when nonsense is set
}

func (t *table[R]) init(cfg *config, ended func(*link[R], error)) {
	t.ids.max, t.limit, t.ended = cfg.ids, cfg.inFlight.value, ended
	t.calls, t.links = make(map[uint64]*call[R]), make(map[plex.Conn]*link[R])
	t.news = make(chan struct{}, 1)
}

// enter asks for a turn. If the call does not have it at once, it waits is true, and the call's done tells of it.
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

// canceled counts a request whose context had ended before it was made.
func (t *table[R]) canceled() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stats.Requests++
	t.stats.Canceled++
}

func (t *table[R]) roomLocked() bool {
	return (t.limit == 0 || t.stats.InFlight < t.limit) && t.ids.room(len(t.calls))
}

func (t *table[R]) admitLocked(c *call[R]) {
	c.id = t.ids.take(t.takenLocked)
	c.state = admitted
	t.calls[c.id] = c
	t.stats.InFlight++
}

func (t *table[R]) takenLocked(id uint64) bool {
	_, taken := t.calls[id]
	return taken
}

// turnsLocked gives their turn to as many as there is room for, in the order in which they came. Whatever makes room
// calls it in the same hold of the mutex, so nobody waits while there is room.
func (t *table[R]) turnsLocked() {
	for c := t.queue.head; c != nil && t.roomLocked(); c = t.queue.head {
		t.queue.remove(c)
		t.stats.Waiting--
		t.admitLocked(c)
		c.done <- turn
	}
}

// leave takes a call out that waits for its turn, because its context has ended. If it is too late for that, ok is
// false and done tells more.
func (t *table[R]) leave(c *call[R]) (figures WaitError, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c.state != waiting {
		return WaitError{}, false
	}
	t.queue.remove(c)
	t.stats.Waiting--
	t.stats.Canceled++
	c.state = idle
	return WaitError{
		InFlight: t.stats.InFlight, Limit: t.limit, Abandoned: t.stats.Abandoned, IDs: t.ids.max, Waiting: t.stats.Waiting,
	}, true
}

// register says that the call is about to be written by w. A reply may come, or the connection end, from then on. It
// reports false if the call has ended, and done tells how.
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

func (t *table[R]) linkLocked(conn plex.Conn) *link[R] {
	l := t.links[conn]
	if l != nil {
		return l
	}
	l = &link[R]{conn: conn, known: make(chan struct{})}
	t.links[conn] = l
	t.wg.Add(1)
	// If the connection has ended already, ended waits for the mutex, and finds the call.
	l.stop = conn.AfterEnd(func(cause error) {
		defer t.wg.Done()
		t.ended(l, cause)
	})
	select {
	case t.news <- struct{}{}:
	default:
	}
	return l
}

// pinLocked pins a connection for as long as requests are on it, and then for a while.
func (t *table[R]) pinLocked(l *link[R]) {
	if l.unpin != nil {
		return
	}
	l.unpin = l.conn.Pin()
	switch {
	case t.pinning:
	case t.unpins == nil:
		t.unpins = time.AfterFunc(pinFor, t.unpinIdle)
	default:
		t.unpins.Reset(pinFor)
	}
	t.pinning = true
}

// unpinIdle lets go of connections that nobody expects anything of, from time to time.
func (t *table[R]) unpinIdle() {
	var unpins []func()
	t.mu.Lock()
	t.pinning = false
	for _, l := range t.links {
		switch {
		case l.unpin == nil:
		case l.live == 0:
			unpins = append(unpins, l.unpin)
			l.unpin = nil
		default:
			t.pinning = true
		}
	}
	if t.pinning {
		t.unpins.Reset(pinFor)
	}
	t.mu.Unlock()
	for _, unpin := range unpins {
		unpin()
	}
}

// reply takes the call out that a reply is for, which the caller then ends; nil if there is none.
func (t *table[R]) reply(id uint64) *call[R] {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.calls[id]
	switch {
	case c != nil && (c.state == sent || c.state == quitting):
		t.removeLocked(c)
		c.state = over
		t.stats.Replies++
		t.turnsLocked()
		return c
	case c != nil && c.state == abandoned:
		t.removeLocked(c)
		t.stats.Late++
		t.turnsLocked()
	case c == nil && !t.ids.few() && t.ids.used(id):
		t.stats.Late++
	default:
		t.stats.Unknown++
	}
	return nil
}

// unsolicited counts a message that is no reply.
func (t *table[R]) unsolicited() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stats.Unsolicited++
}

// malformed counts a message that made no sense.
func (t *table[R]) malformed(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.malformedLocked(err)
}

func (t *table[R]) malformedLocked(err error) {
	t.stats.Malformed++
	t.stats.LastMalformed = err
}

// panicked counts a panic of the function of WithUnsolicited.
func (t *table[R]) panicked(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stats.Panicked++
	t.stats.LastPanic = err
}

// quit says that the call's Write is being interrupted because its context has ended: whatever becomes of its
// connection, that is what has ended the call.
func (t *table[R]) quit(c *call[R]) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c.state == sent {
		c.state = quitting
	}
}

// giveUp takes a call out because its context has ended, or because it could not be sent; killed says that this was for
// a kill of its connection. If something of it may have been sent and identifiers are few, the identifier stays
// reserved, and the table keeps the call; kept says so. If somebody else has ended the call already, or will, ok is
// false and done tells how.
func (t *table[R]) giveUp(c *call[R], maybeSent, canceled, killed bool) (kept, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch c.state {
	case over:
		return false, false
	case idle:
		return false, true // it was quitting, and its connection has ended
	}
	if !canceled && c.state == sent && (killed || c.on.nonsense != nil) {
		return false, false // the kill that has cut the Write short has a reason, which comes with the connection's end
	}
	if canceled {
		t.stats.Canceled++
	} else {
		t.stats.Failed++
	}
	if maybeSent && t.ids.few() {
		kept = true
		c.state = abandoned
		c.on.live--
		t.stats.InFlight--
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

// removeLocked takes a call out of everything and frees its identifier. The caller gives the turns.
func (t *table[R]) removeLocked(c *call[R]) {
	delete(t.calls, c.id)
	t.ids.put(c.id)
	if c.state == abandoned {
		t.stats.Abandoned--
	} else {
		t.stats.InFlight--
	}
	if l := c.on; l != nil {
		l.calls.remove(c)
		if c.state != abandoned {
			l.live--
		}
		c.on = nil
	}
}

// end forgets a connection that has ended. The caller fails the calls with the cause, and interrupts the writer.
func (t *table[R]) end(l *link[R], cause error) (victims list[R], w plex.Writer, why error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.links[l.conn] != l {
		return list[R]{}, plex.Writer{}, nil // it has been forgotten by close
	}
	delete(t.links, l.conn)
	if l.nonsense != nil {
		cause = l.nonsense
	}
	return t.takeAllLocked(l), l.writer, cause
}

// nonsense says that a connection is out of step, which is why what is on it will fail when it has been killed. Not
// before: its identifiers and turns would be free, and the next request could be written to it still.
func (t *table[R]) nonsense(conn plex.Conn, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.malformedLocked(err)
	if l := t.links[conn]; l != nil && l.nonsense == nil {
		l.nonsense = err
		close(l.known)
	}
}

// takeAllLocked takes out all calls on a connection, and returns those to be failed.
func (t *table[R]) takeAllLocked(l *link[R]) (victims list[R]) {
	for c := l.calls.head; c != nil; c = l.calls.head {
		was := c.state
		t.removeLocked(c)
		switch was {
		case sent:
			t.failLocked(c, &victims)
		case quitting:
			t.stats.Canceled++
			c.state = idle
		}
	}
	if l.unpin != nil {
		l.unpin()
		l.unpin = nil
	}
	t.turnsLocked()
	return victims
}

func (t *table[R]) failLocked(c *call[R], victims *list[R]) {
	c.state = over
	t.stats.Failed++
	victims.push(c)
}

// close takes out everything, and lets nobody in any more, for a reason. The links are the caller's then. Only the first
// call does anything.
func (t *table[R]) close(reason error) (victims list[R], links []*link[R]) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed != nil {
		return list[R]{}, nil
	}
	t.closed = reason
	for c := t.queue.head; c != nil; c = t.queue.head {
		t.queue.remove(c)
		t.stats.Waiting--
		t.failLocked(c, &victims)
	}
	for _, l := range t.links {
		if l.stop() {
			t.wg.Done()
		}
		l.owes = l.owes || l.calls.head != nil
		links = append(links, l)
		delete(t.links, l.conn)
		for c := t.takeAllLocked(l).head; c != nil; {
			next := c.next
			victims.push(c)
			c = next
		}
	}
	for _, c := range t.calls { // those not given to a connection yet
		t.removeLocked(c)
		t.failLocked(c, &victims)
	}
	if t.unpins != nil {
		t.unpins.Stop()
	}
	return victims, links
}

func (t *table[R]) snapshot() Stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.stats
}
