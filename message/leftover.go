package message

// What is left of a connection between two holders: the beginning of a message, or messages and
// errors that a loop did not take. A connection with nothing left has no leftover and takes no
// memory.

import (
	"go.atomizer.io/plex"
)

// leftover is a backlog that nobody holds, or the memory of one that somebody does. While held is
// set, the first group of fields belongs to the holder. Otherwise Receiver.mu guards them, as it
// always does the second group.
type leftover struct {
	backlog
	unwatch func() bool // undoes watchLocked; nil if there is nothing to undo
	unpin   func()      // undoes pinLocked; nil if there is nothing to undo

	held     bool
	queued   bool        // it is in Receiver.queue
	place    int         // there, counting from the first that was ever queued
	poisoned bool        // the connection is being killed; whoever leases it must not read on
	dropped  bool        // it is no longer used
	ended    error       // why the connection has ended, as plex told; nil before
	early    plex.Reader // a lease that another loop got while this was held; zero if none
}

// takeLocked takes a leftover that nobody holds.
func (r *Receiver) takeLocked(left *leftover) {
	left.held = true
	if !left.queued {
		return
	}
	left.queued = false
	if i := left.place - r.passed; i > 0 {
		r.queue[i] = nil
		return
	}
	passed := 1
	for passed < len(r.queue) && r.queue[passed] == nil {
		passed++
	}
	r.queue = r.queue[passed:]
	r.passed += passed
}

// handOfLocked is the hand that holds a leftover that has just been taken.
func handOfLocked(left *leftover) hand {
	h := hand{backlog: left.backlog, left: left, kill: left.poisoned}
	if h.cause == nil {
		h.cause = left.ended
	}
	return h
}

// enqueueLocked has the next iteration that looks deliver a leftover, and wakes one if all wait.
func (r *Receiver) enqueueLocked(left *leftover) {
	left.queued, left.place = true, r.passed+len(r.queue)
	r.queue = append(r.queue, left)
	r.wakeLocked()
}

// dropLocked forgets a leftover.
func (r *Receiver) dropLocked(left *leftover) {
	left.dropped, left.data = true, nil
	delete(r.leftovers, left.conn)
	r.dropSplitLocked(left.conn)
	if left.unwatch != nil {
		left.unwatch()
	}
	left.unpinLocked()
}

// watchLocked has plex call afterEnd. Like pinLocked it takes the multiplexer's lock, under which
// plex calls nothing of this package.
func (r *Receiver) watchLocked(left *leftover) {
	if left.unwatch == nil {
		left.unwatch = left.conn.AfterEnd(func(cause error) { r.afterEnd(left, cause) })
	}
}

// pinLocked keeps plex from retiring the connection in the middle of a message.
func (left *leftover) pinLocked() {
	if left.unpin == nil {
		left.unpin = left.conn.Pin()
	}
}

// unpinLocked undoes pinLocked.
func (left *leftover) unpinLocked() {
	if left.unpin != nil {
		left.unpin()
		left.unpin = nil
	}
}

// afterEnd is called by plex when nothing more will be read from the connection. The next iteration
// delivers what is left of a message as cut off.
func (r *Receiver) afterEnd(left *leftover, cause error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !left.dropped && left.ended == nil {
		r.endLocked(left, cause)
	}
}

// endLocked notes that a connection has ended, and has its leftover delivered.
func (r *Receiver) endLocked(left *leftover, cause error) {
	left.ended = cause
	switch {
	case left.held, left.queued: // its holder, or the next one, acts on it
	case left.poisoned:
		r.dropLocked(left)
	default:
		r.enqueueLocked(left)
	}
}

// endAllLocked is called when the multiplexer gives no more leases. It has all leftovers delivered,
// and reports whether there are any.
func (r *Receiver) endAllLocked() bool {
	for _, left := range r.leftovers {
		if left.ended == nil && !left.held && !left.queued {
			r.endLocked(left, plex.ErrClosed)
		}
	}
	return len(r.queue) > 0
}

// awaitedLocked reports whether a leftover waits for more data or for the end of its connection.
func (r *Receiver) awaitedLocked() bool {
	for _, left := range r.leftovers {
		if !left.held && !left.queued && !left.poisoned {
			return true
		}
	}
	return false
}
