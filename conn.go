package plex

// A connection and its life. One phase says where it is, one why says for what reason it leaves,
// and one stage says what is known of the peer's end. All three change here only.
//
//	phase    to       when                                             why
//	claimed  open     it is admitted                                   none
//	claimed  closing  its connect fails                                lost, killed, shut down
//	open     open     it is due: to be retired between leases          expired, renewed, drained, moved
//	open     leaving  it is of no more use, and its slot is refilled   any
//	leaving  closing  nobody needs the transport any more              as before
//	closing  closed   the transport is closed                          as before
//
//	peer's end  to       when
//	open        noticed  the kernel has told of an EOF or a reset
//	open        read     all that the peer will have sent has been read, by a lease or by plex
//	noticed     read     likewise
//	read        told     a lease has been told of the end
//	told        read     what that lease had read before goes back to the connection
//
// The word of each half says the rest: a half that is retired and in nobody's hands is over. A
// transport is closed when its write half is over and its read half is over or has read all. The
// slot is free when the transport is closed, or as soon as both peers have ended their side. The
// multiplexer forgets the connection when the transport is closed and both halves are over.

import (
	"container/list"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex/internal/pace"
	"go.atomizer.io/plex/internal/poll"
	"go.atomizer.io/plex/internal/sock"
)

type phase int8

const (
	phaseClaimed phase = iota // known, in a slot of the capacity
	phaseOpen                 // in service
	phaseLeaving              // out of service; a lease may go on
	phaseClosing              // the transport is being closed
	phaseClosed
)

type why int8

const (
	whyNone     why = iota
	whyLost         // it has failed, or its peer has ended it
	whyKilled       // a consumer has given it up
	whySurplus      // nobody needs it
	whyExpired      // it is too old
	whyRenewed      // somebody has asked for another in its place
	whyDrained      // its address is gone, see WithResolver
	whyMoved        // its address has too many, see WithResolver
	whyDetached     // a consumer has taken it out of the pool
	whyShutDown     // the multiplexer closes
)

// retires reports whether a connection that leaves for this reason is healthy.
func (y why) retires() bool { return y == whySurplus || y.replaces() || y == whyDetached }

// replaces reports whether a connection is due for this reason: it goes when it has been replaced.
func (y why) replaces() bool { return y >= whyExpired && y <= whyMoved }

// text is a why for logs and for ConnInfo; "" if there is none.
func (y why) text() string {
	return [...]string{"", "lost", "killed", "not needed", "maximal lifetime", "asked for", "address gone", "moved", "detached", "shut down"}[y]
}

// life is the phase of a connection and why it leaves.
type life struct {
	phase phase
	why   why
}

// turn returns the life after a change, and whether that is legal; if not, nothing changes. Once a
// connection leaves, its why stays.
func (l life) turn(to phase, y why) (life, bool) {
	if l.phase >= phaseLeaving {
		y = l.why
	}
	next := life{to, y}
	if !l.mayTurn(next) {
		return l, false
	}
	return next, true
}

func (l life) mayTurn(next life) bool {
	switch l.phase {
	case phaseClaimed:
		return next.phase == phaseOpen && next.why == whyNone ||
			next.phase == phaseClosing && next.why != whyNone && !next.why.retires()
	case phaseOpen:
		return next.phase == phaseOpen && l.why == whyNone && next.why.replaces() ||
			next.phase == phaseLeaving && next.why != whyNone
	case phaseLeaving:
		return next.phase == phaseClosing
	case phaseClosing:
		return next.phase == phaseClosed
	}
	return false
}

// due reports whether the connection is to be retired as soon as it is idle.
func (l life) due() bool { return l.phase == phaseOpen && l.why != whyNone }

// stage is what is known of the peer's end.
type stage int32

const (
	peerOpen stage = iota
	peerNoticed
	peerRead
	peerTold
)

// mayTurn reports whether a change is legal.
func (s stage) mayTurn(to stage) bool {
	switch to {
	case peerNoticed:
		return s == peerOpen
	case peerRead:
		return s != peerRead
	case peerTold:
		return s == peerRead
	}
	return false
}

// peerEnd is the stage of one connection. The read half's owner changes it from noticed on.
type peerEnd struct{ stage atomic.Int32 }

// reached reports whether the peer's end has come to a stage.
func (p *peerEnd) reached(s stage) bool { return stage(p.stage.Load()) >= s }

// turn changes the stage if that is legal, and reports whether it was.
func (p *peerEnd) turn(to stage) bool {
	for {
		s := stage(p.stage.Load())
		if !s.mayTurn(to) {
			return false
		}
		if p.stage.CompareAndSwap(int32(s), int32(to)) {
			return true
		}
	}
}

type conn struct {
	r half

	// Constant from claim on.
	m      *Multiplexer
	nc     net.Conn
	remote net.Addr
	kind   sock.Kind
	socket sock.Socket // beneath nc; the zero Socket if there is none
	dialed bool        // the connector brought it, so it is plex's to close from the beginning
	at     Address     // that it was connected to; zero without WithResolver

	// Constant from its admission on.
	attention attention // how ready readers come to know of what arrives

	cause     atomic.Pointer[error] // the first fatal error; nil while there is none
	peer      peerEnd
	pins      atomic.Int64           // how many expect something of it without a lease; changed under m.mu
	delivered atomic.Bool            // it has delivered something
	said      atomic.Pointer[string] // the last that the peer said before it hung up, if plex has read it
	saidBye   atomic.Bool            // plex has closed the write side, which makes the kernel forget a reset
	member    poll.Member[*conn]
	shutting  sync.Once // the transport's Close

	// Guarded by m.mu.
	life       life
	counted    bool        // it takes a slot of the capacity
	attempt    *attempt    // the supervisor's that brought it; nil after the admission
	epoch      pace.Epochs // of that, see package pace
	admittedAt time.Time
	leftAt     time.Time
	expiresAt  time.Time     // when it becomes due, and later when pins no longer keep it; zero without a maximal lifetime
	graceEnds  time.Time     // when pins no longer keep it, once it leaves; zero if it was not pinned then
	parkWake   chan struct{} // has the goroutine that parks go back to its Read; nil if there is none
	ends       map[*afterEnd]struct{}
	rosterAt   int // its place in the roster, and in the heap of expiries; from 1, 0 if none
	expiryAt   int
	remainsAt  *list.Element // its place among the remains; nil if none
	dueAt      *list.Element // its place in Multiplexer.due; nil if none

	w half
}

// admitted reports whether the connection has ever been in service.
func (c *conn) admitted() bool { return !c.admittedAt.IsZero() }

// owned reports whether the transport is plex's to close. A connection of the caller's is not,
// before its admission.
func (c *conn) owned() bool { return c.dialed || c.life.phase > phaseClaimed }

// failure is the error that both halves report, nil while there is none.
func (c *conn) failure() error {
	if p := c.cause.Load(); p != nil {
		return *p
	}
	return nil
}

// wasReset reports whether the kernel has seen a reset of the connection. The kernel is asked
// first: once plex has closed the write side, a clean end looks like a reset. Where the kernel does
// not answer, the poller may have been told.
func (c *conn) wasReset() bool {
	return c.member.Failure() != nil || c.socket.WasReset() && !c.saidBye.Load()
}

// resetCause is the error of a connection that was reset, for whoever the kernel did not tell.
func (c *conn) resetCause() error {
	if err := c.member.Failure(); err != nil {
		return err
	}
	return sock.ErrReset
}

// fail is the hard end, with the error that both halves shall report. The first error counts; later
// ones are mostly its consequences. But each does the whole work, for the first may not have come to
// it: after any fail no half is leased again.
func (c *conn) fail(cause error) {
	first := cause
	if !c.cause.CompareAndSwap(nil, &first) {
		first = c.failure()
	}
	m, y := c.m, whyOf(first)
	m.mu.Lock()
	left := c.leaveLocked(y)
	closes := c.closeLocked(y)
	m.mu.Unlock()
	c.retireFor(cause)
	if closes {
		c.end() // before anything that waits for half.mu, which a blocked transport may hold up
	}
	c.r.failed()
	c.w.failed()
	if left && y != whyShutDown {
		c.noteLoss(first)
	}
}

// whyOf is the why of a connection that fails with an error.
func whyOf(cause error) why {
	switch cause {
	case ErrKilled:
		return whyKilled
	case ErrClosed:
		return whyShutDown
	}
	return whyLost
}

// retireFor retires what a failure is the end of: both halves, except that what has been read up to
// the peer's end is still delivered. Only a kill and the multiplexer's Close give that up.
func (c *conn) retireFor(cause error) {
	if !c.peer.reached(peerRead) || whyOf(cause) != whyLost {
		c.r.retire()
	}
	c.w.retire()
}

// peerNoticed is called when the kernel has told of the peer's end. What the peer has sent is still
// to be read.
func (c *conn) peerNoticed() {
	c.peer.turn(peerNoticed)
	c.r.set(connEnded) // before anyone looks for a lease, so that the lease's end looks again
}

// peerEnded is called by the owner of the read half, who has come to the end of what the peer has
// sent. A write lease may go on, since the peer may still be reading; there will be no other. The
// read half itself goes when nothing is left to be delivered.
func (c *conn) peerEnded(cause error) {
	if !c.peer.reached(peerRead) {
		c.peer.turn(peerRead)
	}
	c.r.set(connEnded)
	if c.leave(whyLost) {
		c.noteLoss(cause)
	}
	c.w.retire()
}

// leave takes the connection out of service for a reason, and closes the transport if nobody needs
// it. It reports whether the connection was in service.
func (c *conn) leave(y why) bool {
	m := c.m
	m.mu.Lock()
	left := c.leaveLocked(y)
	closes := c.uselessLocked() && c.closeLocked(y)
	m.mu.Unlock()
	if closes {
		c.end()
	}
	return left
}

// readEnough is called by the owner of the read half when plex reads no more of a connection that
// it has retired. Nobody has to be told of that end, except whoever reads what is left.
func (c *conn) readEnough() {
	if !c.peer.reached(peerRead) {
		c.cause.CompareAndSwap(nil, &errRetired) // whoever reads on is not told of an EOF
		if c.peer.turn(peerRead) && len(c.r.back) == 0 {
			c.peer.turn(peerTold)
		}
	}
	c.r.set(connEnded)
	c.leave(whyExpired) // it has left already, but now nobody needs the transport
}

var errRetired = ErrRetired

// noteLoss tells the log of a loss, and, if the connection died young, callers who wait for another.
// The first failure says more than cause, and so do the last words of a peer that hung up. A connect
// that has failed meanwhile says more to callers.
func (c *conn) noteLoss(cause error) {
	m := c.m
	if failure := c.failure(); failure != nil {
		cause = failure
	}
	if said := c.said.Load(); said != nil {
		cause = fmt.Errorf("%w; the last it said was %q", cause, *said)
	}
	age := c.leftAt.Sub(c.admittedAt) // which do not change any more
	var young error
	if c.dialed && age < pace.Patience && !consumersDoing(c.failure()) {
		young = fmt.Errorf("plex: the connection was lost %v after it was made: %w", age.Round(time.Microsecond), cause)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.news.logLoss(c, cause)
	if m.lastErr == nil && c.life.why == whyLost {
		m.lastErr = young
	}
}

// finished reports whether a read half has nothing to be leased for any more: all that the peer has
// sent is delivered, and whoever asks for ready readers has been told of the end. The caller owns
// the read half.
func (c *conn) finished() bool {
	if len(c.r.back) > 0 {
		c.peer.turnBack()
		return false
	}
	return c.peer.reached(peerTold) || c.peer.reached(peerRead) && c.m.reading.Load() != readsReady
}

// turnBack is for bytes that go back to the connection after a lease has read on to the end: the
// next lease is told of the end, too.
func (p *peerEnd) turnBack() {
	if p.reached(peerTold) {
		p.turn(peerRead)
	}
}

// leaveLocked takes the connection out of service, accounts for it, and has it replaced. It reports
// false if it is not in service.
func (c *conn) leaveLocked(y why) bool {
	next, ok := c.life.turn(phaseLeaving, y)
	if !ok {
		return false
	}
	m := c.m
	m.healer.pace.Left(c.at, c.life.due())
	c.life, c.leftAt = next, time.Now()
	m.expiries.drop(c)
	c.tryNoMoreLocked() // or another would be connected to replace it first, one too many
	m.leaving++
	if next.why.retires() {
		m.stats.Retired++
		m.news.retired(c)
	}
	switch {
	case y == whySurplus:
		m.stats.ScaledDown++
	case y == whyExpired:
		m.stats.Expired++
	case y == whyKilled:
		m.stats.Killed++
		fallthrough
	case y == whyLost:
		m.stats.Lost++
		m.news.lost(c)
	}
	c.leftLocked()
	m.kick()
	return true
}

// closeLocked begins the closing of the transport. It reports true to the one caller that has to go
// on with end.
func (c *conn) closeLocked(y why) bool {
	if !c.owned() {
		return false
	}
	if c.life.phase == phaseOpen {
		c.leaveLocked(y)
	}
	next, ok := c.life.turn(phaseClosing, y)
	if ok {
		c.life = next
		c.m.tasks.expect(transportTask)
	}
	return ok
}

// uselessLocked reports whether nobody needs the transport any more.
func (c *conn) uselessLocked() bool {
	return c.w.word().over() && (c.r.word().over() || c.peer.reached(peerRead))
}

// settle is called once for each half, when it is over.
func (h *half) settle() {
	c, m := h.conn, h.conn.m
	m.mu.Lock()
	y := whyShutDown // a connection in service whose halves are over: the multiplexer shuts down
	closes := c.uselessLocked() && c.closeLocked(y)
	drained := h.writes() && c.drainedLocked()
	sayBye := h.writes() && c.life.phase == phaseLeaving && c.peer.reached(peerNoticed)
	if h == &c.r {
		c.endedLocked()
		m.remains.drop(c)
	}
	c.forgetLocked()
	m.mu.Unlock()
	switch {
	case closes:
		c.end()
	case sayBye:
		m.tasks.start(c.closeWriteSide)
	case drained:
		m.tasks.start(c.endRetirement)
	}
}

// uncountLocked frees the connection's slot.
func (c *conn) uncountLocked() {
	m := c.m
	if !c.counted {
		return
	}
	c.counted = false
	m.open--
	m.leaving--
	m.short.Store(m.cfg.connect != nil)
	m.wakeIfHopelessLocked()
	m.kick()
}

// forgetLocked drops the connection from the books when nothing of it is left.
func (c *conn) forgetLocked() {
	m := c.m
	if c.life.phase != phaseClosed || c.admitted() && !(c.r.word().over() && c.w.word().over()) || !m.roster.remove(c) {
		return
	}
	if c.admitted() {
		m.alive--
		m.changed.Broadcast()
	}
}

// endCause is what AfterEnd tells of a connection that has ended.
func (c *conn) endCause() error {
	cause := c.failure()
	switch {
	case cause != nil:
		return cause
	case c.life.why.retires():
		return ErrRetired
	case c.peer.reached(peerNoticed):
		return io.EOF
	}
	return ErrClosed
}
