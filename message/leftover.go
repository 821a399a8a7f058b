package message

// What is left over of a connection between two reads: the beginning of a message, or what a loop that was left has not
// taken. A connection that nothing is left of has no leftover and takes no memory.
//
// Who owns what: a leftover is in somebody's hands, an iteration's or Kill's, while held is set; then the fields marked
// so are theirs. Otherwise Receiver.mu guards them, as it does the others always. Whoever holds a leftover, or
// the lease of a connection without one, has the connection in hands, and nobody else delivers anything of it.

import (
	"bytes"
	"slices"

	"go.atomizer.io/plex"
)

type leftover struct {
	conn plex.Conn

	// The holder's.
	data     []byte      // not split yet
	whole    bool        // there may be whole messages in it
	datagram bool        // it is the rest of one
	atEOF    bool        // nothing follows it, by a clean end
	cause    error       // why nothing follows it; nil if something may
	report   error       // to be delivered, and nothing else
	stop     func() bool // undoes AfterEnd; nil if that was not called
	unpin    func()      // undoes Pin; nil if that was not called

	// Guarded by Receiver.mu.
	held     bool
	queued   bool        // it is in Receiver.queue
	poisoned bool        // the connection is being killed; who gets a lease on it nevertheless must not read on
	dropped  bool        // it is not used any more
	ended    error       // what AfterEnd, or the multiplexer's end, said; nil before
	early    plex.Reader // a lease that was got while somebody else had the connection in hands; zero if none
}

// hand is a connection in somebody's hands.
type hand struct {
	conn     plex.Conn
	lease    plex.Reader
	leased   bool
	left     *leftover // nil if there is none
	data     []byte    // not split yet; in the leftover's memory, or the iteration's
	whole    bool      // there may be whole messages in it
	datagram bool      // it is the rest of one
	atEOF    bool      // nothing follows it, by a clean end
	cause    error     // why nothing follows it; nil if something may
	finished bool      // that has been seen to
	report   error     // to be delivered, and nothing else
	kill     bool      // the connection is to be killed
	asking   bool      // the split function is being asked
}

// giveUp gives up the rest of the data, and the connection unless nothing follows the data anyway.
func (h *hand) giveUp() { h.data, h.finished, h.kill = nil, h.cause != nil, h.cause == nil }

// takeLocked takes a leftover that nobody holds.
func (r *Receiver) takeLocked(left *leftover) {
	left.held = true
	if left.queued {
		left.queued = false
		r.queue = slices.DeleteFunc(r.queue, func(l *leftover) bool { return l == left })
	}
}

// handOfLocked is what there is to do for a leftover that has just been taken.
func handOfLocked(left *leftover) hand {
	h := hand{
		conn: left.conn, left: left, data: left.data, whole: left.whole, datagram: left.datagram,
		atEOF: left.atEOF, cause: left.cause, report: left.report, kill: left.poisoned,
	}
	if h.cause == nil {
		h.cause = left.ended
	}
	return h
}

// enqueueLocked makes a leftover one that the next iteration to look sees to, and has one look.
func (r *Receiver) enqueueLocked(left *leftover) {
	left.queued = true
	r.queue = append(r.queue, left)
	r.wakeLocked()
}

// dropLocked forgets a leftover.
func (r *Receiver) dropLocked(left *leftover) {
	left.dropped, left.data = true, nil
	delete(r.leftovers, left.conn)
	if left.stop != nil {
		left.stop()
	}
	left.releaseLocked()
}

// watchLocked has plex tell of the connection's end. Like pinLocked it takes the multiplexer's lock, under which plex
// calls nothing of ours.
func (r *Receiver) watchLocked(left *leftover) {
	if left.stop == nil {
		left.stop = left.conn.AfterEnd(func(cause error) { r.afterEnd(left, cause) })
	}
}

// pinLocked keeps plex from retiring the connection in the middle of a message.
func (left *leftover) pinLocked() {
	if left.unpin == nil {
		left.unpin = left.conn.Pin()
	}
}

// releaseLocked undoes pinLocked.
func (left *leftover) releaseLocked() {
	if left.unpin != nil {
		left.unpin()
		left.unpin = nil
	}
}

// afterEnd is called by plex when nothing more will be read from the connection. What is left of a message is
// delivered as cut off, by whoever ranges.
func (r *Receiver) afterEnd(left *leftover, cause error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if left.dropped || left.ended != nil {
		return
	}
	left.ended = cause
	switch {
	case left.held, left.queued: // putBack sees it
	case left.poisoned:
		r.dropLocked(left)
	default:
		r.enqueueLocked(left)
	}
}

// orphanLocked is called when the multiplexer gives no more leases. It has all that is left of messages be delivered as
// cut off, and reports whether there is anything to deliver.
func (r *Receiver) orphanLocked() bool {
	for _, left := range r.leftovers {
		switch {
		case left.held || left.queued || left.ended != nil:
		case left.poisoned:
			r.dropLocked(left)
		default:
			left.ended = plex.ErrClosed
			r.enqueueLocked(left)
		}
	}
	return len(r.queue) > 0
}

// awaitedLocked reports whether there is a leftover that waits for more, or for its connection's end.
func (r *Receiver) awaitedLocked() bool {
	for _, left := range r.leftovers {
		if !left.held && !left.queued && !left.poisoned {
			return true
		}
	}
	return false
}

// putBack ends the holding of a connection: it keeps what is left, or forgets the connection, and ends the lease. it is
// the iteration that had it, nil for Kill.
func (r *Receiver) putBack(it *iteration, h *hand) {
	left := h.left
	keep := len(h.data) > 0 || h.report != nil || h.cause != nil && !h.finished
	if left == nil && keep {
		left = &leftover{conn: h.conn}
	}
	if keep {
		left.store(h)
	}

	r.mu.Lock()
	if it != nil {
		it.conn, it.lease = plex.Conn{}, plex.Reader{}
		if it.flags.And(^killed)&killed != 0 {
			h.kill = true
		}
	}
	var early plex.Reader
	if left != nil {
		early, left.early = left.early, plex.Reader{}
		left.held = false
		if r.closed && left.ended == nil {
			left.ended = plex.ErrClosed
		}
		over := left.ended != nil || h.cause != nil && !h.datagram
		if h.kill {
			keep = h.report != nil
			// Until the end of a connection that we have no lease on, another loop may get one.
			left.poisoned = !over && !h.leased && early == plex.Reader{}
			over = !left.poisoned
		}
		if keep || left.poisoned {
			r.leftovers[h.conn] = left
		} else {
			r.dropLocked(left)
		}
		if !left.dropped && !over {
			r.watchLocked(left)
		}
		switch {
		case left.poisoned:
			left.data = nil
			left.releaseLocked()
		case keep && !over:
			left.pinLocked()
		}
		if keep && (h.whole || over || h.report != nil) {
			r.enqueueLocked(left)
		}
	}
	r.mu.Unlock()

	if h.kill {
		h.conn.Kill() // before the leases end, so that nobody gets another
	}
	// A lease that the multiplexer's Close has ended meanwhile says so, and so does the zero one.
	_ = h.lease.Close()
	_ = early.Close()
}

// store keeps what there is to do for h in the leftover, in memory that is its own and not much more than it takes.
func (left *leftover) store(h *hand) {
	left.whole, left.datagram, left.atEOF, left.cause, left.report = h.whole, h.datagram, h.atEOF, h.cause, h.report
	switch n := len(h.data); {
	case n > 0 && cap(left.data) > 0 && &h.data[0] == &left.data[:1][0]:
		left.data = h.data // it is there already
	case cap(left.data) > 4*n+4<<10:
		left.data = bytes.Clone(h.data) // a long message has been there
	default:
		left.data = append(left.data[:0], h.data...)
	}
}
