package request

// A link is a connection that requests have been given to, as the table knows it.

import (
	"time"

	"go.atomizer.io/plex"
)

// tidyEvery is how often the table tidies up. A connection stays pinned for at least that long:
// pinning it again for each request would cost more than everything else that the table does for
// it.
const tidyEvery = 50 * time.Millisecond

// link is guarded by the table's mutex. It exists until its connection has ended.
type link[R any] struct {
	conn     plex.Conn
	datagram bool
	calls    list[R]     // those given to it, in the order of their bytes, and not ended; and the abandoned
	live     int         // those not abandoned
	held     int         // all of them
	parked   bool        // the client keeps the writer, because the connection has no room for more
	writer   plex.Writer // the latest lease; all before it have ended
	writing  *batch[R]   // what it writes; nil if it does not. It is the end of calls
	ended    error       // why the connection or the client has ended, if something was being written then
	unpin    func()      // nil while it is not pinned
	unwatch  func() bool // keeps plex from telling that it has ended
	owes     bool        // a reply may still come to a call that is no longer in calls
	stalling stalling[R]
	aside    aside[R] // what is to be written over just this connection

	why   error         // the client has killed it for this reason; nil if it has not
	known chan struct{} // closed when why is set
}

func (t *table[R]) linkLocked(conn plex.Conn) *link[R] {
	l := t.links[conn]
	if l != nil {
		return l
	}
	l = &link[R]{conn: conn, datagram: conn.Datagram(), known: make(chan struct{})}
	if t.pulses != nil {
		l.stalling.pulse = t.pulses.get(conn)
	}
	t.links[conn] = l
	t.wg.Add(1)
	// If the connection has ended already, ended waits for the mutex, and finds the call.
	l.unwatch = conn.AfterEnd(func(cause error) {
		defer t.wg.Done()
		t.ended(l, cause)
	})
	select {
	case t.news <- struct{}{}:
	default:
	}
	return l
}

// pinLocked pins a connection for as long as requests are on it, and for a while after that.
func (t *table[R]) pinLocked(l *link[R]) {
	if l.unpin == nil {
		l.unpin = l.conn.Pin()
		t.tidyLaterLocked()
	}
}

func (t *table[R]) tidyLaterLocked() {
	switch {
	case t.tidies:
	case t.tidier == nil:
		t.tidier = time.AfterFunc(tidyEvery, t.tidy)
	default:
		t.tidier.Reset(tidyEvery)
	}
	t.tidies = true
}

// tidy unpins connections that nobody expects anything from, and frees identifiers that have
// rested.
func (t *table[R]) tidy() {
	var unpins []func()
	t.mu.Lock()
	if t.closed == nil {
		t.tidies = false
		more := t.rest.tidyLocked(t)
		for _, l := range t.links {
			switch {
			case l.unpin == nil:
			case l.live == 0 && (!t.inOrder || l.held == 0): // an ordered reply still comes first
				unpins = append(unpins, l.unpin)
				l.unpin = nil
			default:
				more = true
			}
		}
		if more {
			t.tidyLaterLocked()
		}
	}
	t.mu.Unlock()
	for _, unpin := range unpins {
		unpin()
	}
}

// nonsense notes that a connection is out of step. That is why the requests on it will fail when
// the kill has taken effect. They must not fail earlier: that would free their identifiers and
// turns, and the next request could still be written to the connection.
func (t *table[R]) nonsense(conn plex.Conn, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.malformedLocked(err)
	t.condemnLocked(conn, err)
}

// condemnLocked notes why a connection is about to be killed, if it has been given requests.
func (t *table[R]) condemnLocked(conn plex.Conn, why error) {
	if l := t.links[conn]; l != nil {
		l.condemn(why)
	}
}

// condemn notes why the connection is about to be killed.
func (l *link[R]) condemn(why error) {
	if l.why == nil {
		l.why = why
		close(l.known)
	}
}

// end forgets a connection that has ended. The caller fails the calls with the reason, and
// interrupts the writer.
func (t *table[R]) end(l *link[R], cause error) (victims list[R], w plex.Writer, why error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.links[l.conn] != l {
		return list[R]{}, plex.Writer{}, nil // close has forgotten it
	}
	delete(t.links, l.conn)
	if l.why != nil {
		cause = l.why
	}
	t.takeAllLocked(l, cause, &victims)
	t.turnsLocked()
	return victims, l.writer, cause
}

// takeAllLocked takes out all calls on a connection, and adds those that must be failed to victims.
// If a Write still runs, settle does the same for its calls, because only then it is known what was
// sent of them.
func (t *table[R]) takeAllLocked(l *link[R], cause error, victims *list[R]) {
	if l.writing != nil {
		l.ended = cause
	}
	for c := l.calls.head; c != nil; {
		next := c.next
		if l.writing == nil || c.in != l.writing {
			t.detachAndFailLocked(c, victims)
			t.freeLocked(c.id)
		}
		c = next
	}
	if l.unpin != nil {
		l.unpin()
		l.unpin = nil
	}
	l.stalling.endLocked()
}

// detachAndFailLocked ends a call whose connection has ended, or that was not sent. Its identifier
// is not free yet.
func (t *table[R]) detachAndFailLocked(c *call[R], victims *list[R]) {
	flew, maybe := c.state == flying, !c.unsent
	if l := c.on(); l != nil {
		c.conn = l.conn
	}
	t.detachLocked(c)
	if flew {
		t.failLocked(c, maybe, victims)
	}
}

// refuse takes out all calls on a datagram connection whose peer does not listen. The caller fails
// them. The connection goes on. The kernel tells of a refusal ahead of replies that arrived before
// it, so identifiers must rest. It tells once, and may do so before the Write of the datagram has
// returned, so a call that is being written is no exception.
//
// The connection has room for requests then. The caller closes the writers in freed.
func (t *table[R]) refuse(conn plex.Conn) (victims list[R], freed []plex.Writer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.links[conn]
	if l == nil {
		return victims, nil
	}
	for c := l.calls.head; c != nil; c = l.calls.head {
		t.detachAndFailLocked(c, &victims)
		if t.ids.few() {
			t.rest.addLocked(t, c.id)
		} else {
			t.freeLocked(c.id)
		}
	}
	t.turnsLocked()
	return victims, t.unparkLocked(l, nil)
}
