package message

// What remains to be delivered of a connection, and where it lies: with whoever holds the
// connection (a hand), or with the receiver while nobody does (a leftover, see leftover.go).
//
// A loop or Kill holds a connection as long as it has a lease on its read half or has taken its
// leftover. Nobody else delivers anything from that connection meanwhile.

import (
	"bufio"
	"bytes"

	"go.atomizer.io/plex"
)

// backlog is what remains to be delivered of one connection.
type backlog struct {
	conn     plex.Conn
	data     []byte // not split yet
	whole    bool   // data may contain whole messages
	datagram bool   // data is from one datagram
	atEOF    bool   // nothing follows data: a clean EOF, or the end of a datagram
	cause    error  // why nothing follows data; nil if something may
	refused  []byte // a message that was split off and that the loop did not take; nil if there is none
	last     bool   // nothing is wanted behind it
	report   error  // an error to deliver; there is nothing else then
}

// hand is a connection that is held.
type hand struct {
	backlog                  // data lies in the leftover's memory or in the iteration's buffer
	split    bufio.SplitFunc // nil until it is needed
	left     *leftover       // nil if there is none
	lease    plex.Reader
	leased   bool
	finished bool // the end, by cause, has been dealt with
	kill     bool // the connection must be killed
	asking   bool // the split function is running
}

// giveUp drops the rest of the data. It also gives up the connection, unless nothing follows the
// data anyway.
func (h *hand) giveUp() { h.data, h.finished, h.kill = nil, h.cause != nil, h.cause == nil }

// pending reports whether something remains to be delivered.
func (h *hand) pending() bool {
	return len(h.data) > 0 || h.refused != nil || h.report != nil || h.cause != nil && !h.finished
}

// situation is all that decides what becomes of a connection when its holder puts it back.
type situation struct {
	pending bool // something remains to be delivered
	report  bool // it is an error
	whole   bool // whole messages may be among it
	kill    bool // the connection must be killed
	leased  bool // there is a lease on its read half, so nobody else can get one before the kill
	ended   bool // nothing more will come from it
}

// decision is what becomes of the connection.
type decision struct {
	keep   bool // what remains is kept for the next holder
	queue  bool // the next iteration delivers it without waiting for more
	poison bool // whoever leases the connection before the kill takes effect must not read on
	watch  bool // plex tells when the connection has ended
	pin    bool // plex does not retire the connection meanwhile
}

// decide is a pure function.
func (s situation) decide() decision {
	if s.kill {
		// Only the report outlives a kill. Until plex has ended a connection that nobody here has a
		// lease on, another loop may still lease it, so it stays poisoned until the end is told.
		poison := !s.ended && !s.leased
		return decision{keep: s.report, queue: s.report, poison: poison, watch: poison}
	}
	if !s.pending {
		return decision{}
	}
	return decision{keep: true, queue: s.whole || s.ended || s.report, watch: !s.ended, pin: !s.ended}
}

// putBack ends the holding of a connection: it keeps what remains, or forgets the connection, and
// ends the lease. it is the iteration that held the connection, or nil for Kill.
func (r *Receiver) putBack(it *iteration, h *hand) {
	if h.pending() {
		if h.left == nil {
			h.left = new(leftover)
		}
		h.left.store(h) // which may copy much, so it is done before the lock is taken
	}

	r.mu.Lock()
	if it != nil {
		it.conn, it.lease = plex.Conn{}, plex.Reader{}
		if it.flags.And(^killed)&killed != 0 {
			h.kill = true
		}
	}
	var early plex.Reader
	if h.left != nil {
		early = r.settleLocked(h)
	}
	r.mu.Unlock()

	if h.kill {
		h.conn.Kill() // before the leases end, so that nobody gets another
	}
	// A lease that the multiplexer's Close has ended reports that, and so does the zero lease.
	// Neither matters here.
	_ = h.lease.Close()
	_ = early.Close()
}

// settleLocked decides what becomes of a leftover whose holder puts it back, and applies the
// decision. It returns the lease that another loop got meanwhile, which is to be closed.
func (r *Receiver) settleLocked(h *hand) (early plex.Reader) {
	left := h.left
	early, left.early = left.early, plex.Reader{}
	left.held = false
	if r.closed && left.ended == nil {
		left.ended = plex.ErrClosed
	}
	d := situation{
		pending: h.pending(), report: h.report != nil, whole: h.whole, kill: h.kill,
		leased: h.leased || early != plex.Reader{},
		ended:  left.ended != nil || h.cause != nil && !h.datagram,
	}.decide()

	left.poisoned = d.poison
	if !d.keep && !d.poison {
		r.dropLocked(left)
		return early
	}
	r.leftovers[h.conn] = left
	if d.watch {
		r.watchLocked(left)
	}
	if d.pin {
		left.pinLocked()
	}
	if d.poison {
		left.data, left.refused = nil, nil
		left.unpinLocked()
	}
	if d.queue {
		r.enqueueLocked(left)
	}
	return early
}

// store keeps the backlog in memory of the leftover's own, which is not much larger than the data.
func (left *leftover) store(h *hand) {
	memory := left.data
	left.backlog = h.backlog
	switch n := len(h.data); {
	case n > 0 && cap(memory) > 0 && &h.data[0] == &memory[:1][0]:
		// It is there already.
	case cap(memory) > 4*n+4<<10:
		left.data = bytes.Clone(h.data) // a long message was there
	default:
		left.data = append(memory[:0], h.data...)
	}
}
