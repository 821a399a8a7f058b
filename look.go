package plex

// The only place where plex reads for itself: to see whether an idle connection has ended, to fetch
// what a transport has inside itself, and to read what is left up to the peer's end. Whoever calls
// owns the read half, by a hold or by the end of its lease; what is found goes to the next lease.

import (
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex/internal/clock"
)

const (
	// remainsLimit is how much of what the peer has sent before its end is kept in memory. More
	// stays with the system, and with it the transport.
	remainsLimit = 64 << 10

	// remainsTime bounds the reading of what should be there already.
	remainsTime = time.Second

	// glanceTime is how long an idle connection is looked at.
	glanceTime = time.Millisecond

	// resetGrace is how long a read lease of a connection that was reset has for reading what had
	// arrived.
	resetGrace = time.Second

	// emptyReads is how many Reads in a row may return nothing at all.
	emptyReads = 100
)

// errCannotLook says that a transport refuses deadlines, so that a Read might block.
var errCannotLook = errors.New("plex: the connection cannot be looked at")

var errEmptyReads = errors.New("plex: the transport's Read returns no bytes and no error, over and over")

// beginLook and endLook are around the time in which plex has a read half that may have data:
// meanwhile nobody gets ErrNoConnections. With a connector nobody gets it anyway.
func (m *Multiplexer) beginLook() {
	if m.cfg.connect != nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.looking++
}

func (m *Multiplexer) endLook() {
	if m.cfg.connect != nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.looking--
	m.wakeIfHopelessLocked()
}

// examine reads until a moment, or until limit bytes have come; a limit of 0 means one Read. It
// returns the error that has ended the reading, nil if that was the moment or the limit. It sets
// the deadline and clears it again; at the end of a lease, half.clear does the latter.
func (h *half) examine(until time.Time, limit int, leaseEnds bool) error {
	h.mu.Lock()
	h.deadlines.calm()
	if leaseEnds {
		h.set(leaseDeadline)
	}
	err := h.setDeadline(until)
	h.mu.Unlock()
	if err != nil && (leaseEnds || !isClosed(err)) { // a closed transport says at once what there is
		return errCannotLook
	}
	h.looked = true
	err = h.fetch(until, limit)
	h.noteLeft()
	if err != nil && h.operation().missed(err) {
		err = nil
	}
	if err == nil && !leaseEnds {
		h.deadlineLeft(h.setDeadline(time.Time{}))
	}
	return err
}

// fetch reads into back, once or up to a limit.
func (h *half) fetch(until time.Time, limit int) error {
	c := h.conn
	buffers := c.buffers()
	pooled := buffers.Get().(*[]byte)
	defer buffers.Put(pooled)
	buf := *pooled
	// Also for crypto/tls, which heeds deadlines: its Read may have to write, and waits for a Write then.
	v := &vigil{h: h, patience: clock.NewPatience()}
	v.patience.Start(interruptGrace, v.look)
	defer v.end()
	for size, empty := 0, 0; ; {
		n, err := c.readOnce(buf)
		if n > 0 || err == nil && c.kind.Datagram() {
			h.back = append(h.back, append([]byte{}, buf[:n]...))
			size += n
			empty = 0
		} else if empty++; empty == emptyReads && err == nil {
			err = errEmptyReads
		}
		if err != nil || size >= limit || !time.Now().Before(until) {
			return err
		}
	}
}

// readParked reads for as long as it takes for something to arrive.
func (h *half) readParked(buf []byte) error {
	for range emptyReads {
		n, err := h.conn.readOnce(buf)
		if n > 0 || err == nil && h.conn.kind.Datagram() {
			h.back = append(h.back, append([]byte{}, buf[:n]...))
			h.noteLeft()
			return err
		}
		if err != nil {
			return err
		}
	}
	return errEmptyReads
}

// errMoreToRead says that a limit has ended the reading.
var errMoreToRead = errors.New("plex: there is more to read")

// readUntilTaken reads until the peer has taken all that was sent to it, or ends its side, or a
// moment comes; and no longer than until limit bytes wait for a lease, which is errMoreToRead. With
// a limit of 0 what comes is dropped.
func (h *half) readUntilTaken(until time.Time, limit int) error {
	c := h.conn
	for pause := lingerLook; ; pause = min(2*pause, lingerPause) {
		taken, wait := c.socket.Unsent() == 0, earlier(until, time.Now().Add(pause))
		if !c.socket.Exists() {
			wait = longAgo // nobody knows what the peer has taken, so only what is inside is fetched
		}
		err := h.examine(wait, remainsLimit, false)
		if limit == 0 {
			h.back = nil
		}
		if err == errCannotLook {
			time.Sleep(pause)
			err = nil
		}
		switch {
		case err != nil:
			return err
		case limit > 0 && h.leftOver() >= limit:
			return errMoreToRead
		case taken || !time.Now().Before(until) || limit == 0 && c.m.tasks.isClosed():
			return nil
		}
	}
}

// leftOver is how many bytes wait for a lease.
func (h *half) leftOver() (n int) {
	for _, p := range h.back {
		n += len(p)
	}
	return n
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// vigil is kept while plex reads from a transport of which it does not know whether it heeds its
// deadline. One that does not is closed if a lease cannot end because of it, or if it is of no more
// use; and if callers wait for any connection, since none of them gets this one meanwhile. Otherwise
// there is no harm in it: what it waits for is something to deliver.
type vigil struct {
	h        *half
	patience *clock.Patience
	over     atomic.Bool
}

func (v *vigil) look() {
	switch w := v.h.word(); {
	case v.over.Load():
	case w.is(poolRetired):
		v.h.conn.fail(ErrClosed)
		v.h.conn.shut() // if it is being closed, that waits for the Read
	case w.is(leaseLive), v.h.conn.m.reading.Load() == readsAny:
		v.h.conn.fail(errUninterruptible)
	default:
		v.patience.Start(interruptGrace, nil)
	}
}

func (v *vigil) end() {
	v.over.Store(true)
	v.patience.Stop()
}

// lookFailed acts on an error of a Read that plex itself made. What had arrived before is still
// delivered, and where somebody may ask for ready readers, so is the end.
func (h *half) lookFailed(err error) {
	c := h.conn
	if err == errCannotLook {
		return
	}
	c.noteLastWords()
	says := h.verdict(err)
	if says == sawEOF && c.wasReset() { // of which somebody else was told
		says, err = fatal, c.resetCause()
	}
	switch says {
	case passing:
		h.refusal = err // the kernel tells it once, so a lease has to be told
		h.noteLeft()
	case sawEOF:
		if c.resetBehindEOF() == nil {
			c.peerEnded(errPeerClosed)
		}
	default:
		if len(h.back) > 0 || c.m.reading.Load() == readsReady {
			c.peer.turn(peerRead)
			h.set(connEnded)
		}
		c.fail(err)
	}
}

// readAhead fetches what the transport has inside itself, without waiting for more: nobody would
// tell a ready reader of it. The lease is ending and nobody is busy; clear sets the deadline back.
// It reports whether it has found the connection's end.
func (h *half) readAhead() (ended bool) {
	w, c := h.word(), h.conn
	var err error
	whole := h.endsWhole(w)
	switch {
	case w.is(poolRetired), len(h.back) > 0, c.peer.reached(peerRead):
	case whole:
		err = h.examineUnread(true)
	case w.is(poolOnDemand) && c.attention == inside && c.m.reading.Load() == readsReady:
		err = h.examine(longAgo, 0, true)
	}
	if whole {
		c.failUnasked(whole)
	}
	if err == nil || err == errCannotLook || isClosed(err) {
		return false
	}
	h.lookFailed(err)
	return true
}

// glance looks at an idle connection for a moment, unless there is something to be read already.
func (c *conn) glance() {
	if !c.r.word().is(dataLeft | connEnded) {
		c.lookIdle(0)
	}
}

// fetchIdle keeps what has arrived at an idle connection for the next lease; what is more than
// remainsLimit stays with the system. It reports whether it has looked. Of a transport that has
// something inside itself it takes all, since nobody would tell of that.
func (c *conn) fetchIdle() (looked bool) {
	if c.attention == inside {
		return c.lookIdle(remainsLimit)
	}
	return c.lookIdle(0)
}

// lookIdle looks at an idle connection for a moment, until limit bytes have come; a limit of 0 means
// one Read. It reports whether it has looked.
func (c *conn) lookIdle(limit int) (looked bool) {
	h := &c.r
	if h.promised() {
		return false // somebody is about to read
	}
	c.m.beginLook()
	defer c.m.endLook()
	if !h.hold() {
		return false // somebody reads
	}
	c.whileHeld(func() arrival {
		if looked = h.leftOver() < remainsLimit; looked {
			if err := h.examine(time.Now().Add(glanceTime), limit, false); err != nil {
				h.lookFailed(err)
			}
		}
		return c.afterLook(fromHold)
	})
	if h.word().is(connDue) {
		c.againIfUnleased(&c.w) // who came for it meanwhile went away, as it was held
	}
	return looked
}

// inspect looks at an idle read half of a connection that is at its end. If the half is leased, its
// consumer comes to the end by itself, or the end of its lease comes to look.
func (c *conn) inspect() {
	c.m.beginLook()
	defer c.m.endLook()
	if c.r.hold() {
		c.readRemains()
	}
}

// inspectAside is inspect in a goroutine of its own, which is looked at from now on.
func (c *conn) inspectAside() {
	c.m.beginLook()
	if !c.m.tasks.start(func() {
		defer c.m.endLook()
		c.inspect()
	}) {
		c.m.endLook()
	}
}

// readRemains reads what is left in a read half that is held, to see whether there is anything but
// the end: bytes for the next lease, or nothing to lease at all.
func (c *conn) readRemains() {
	h := &c.r
	c.whileHeld(func() arrival {
		left := remainsLimit - h.leftOver()
		if !c.peer.reached(peerRead) && left > 0 {
			if err := h.examine(time.Now().Add(remainsTime), left, false); err != nil {
				h.lookFailed(err)
			}
		}
		return c.afterLook(fromRead)
	})
}

// whileHeld looks at a read half that is held, and brings it back, also if the transport ends the
// goroutine.
func (c *conn) whileHeld(look func() arrival) {
	how := fromHold
	defer func() { c.r.arrive(how) }()
	how = look()
}

// lastWords is how much of what the peer said before it hung up goes into the cause of the loss.
const lastWords = 128

// noteLastWords keeps what a peer has said that hung up before anyone read it, as a service does
// that is too busy. The caller owns the read half.
func (c *conn) noteLastWords() {
	back := c.r.back
	if len(back) == 0 || c.delivered.Load() || c.kind.Datagram() || c.said.Load() != nil {
		return
	}
	last := back[len(back)-1]
	said := strings.TrimSpace(string(last[max(0, len(last)-lastWords):]))
	c.said.Store(&said)
}

// afterLook says what becomes of a read half that has been looked at. What a kill has given up is
// not kept at the cost of what others have left: the half is retired before the transport is
// closed, so before a look can come to the end by that.
func (c *conn) afterLook(how arrival) arrival {
	c.failUnasked(false)
	read := c.peer.reached(peerRead)
	switch {
	case c.finished(), c.r.word().is(poolRetired):
		return intoRetire
	case !read && (how == fromHold || c.failure() != nil):
		return how
	case c.keepRemains():
		return intoRetire
	}
	return fromRead
}

// look is for a half, held, whose lease has just ended and which cannot simply go back.
func (c *conn) look(h *half) {
	m := c.m
	if !h.writes() && h.word().is(connEnded) {
		if c.peer.reached(peerRead) {
			c.readRemains() // from memory
			return
		}
		m.beginLook()
		m.tasks.aside(func() {
			defer m.endLook()
			c.readRemains()
		})
		return
	}
	c.lookDue(h)
}
