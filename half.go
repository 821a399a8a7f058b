package plex

// A half is one direction of a connection, and the thing that is leased. This file has the ways out
// of service (lease, hold, retire) and the ways back (the fast close, and arrive for all else), and
// the life of a lease between the two.
//
// Who owns what: the word belongs to everyone, by atomic swaps. Whoever is busy owns the
// transport's direction and the fields marked so; so does whoever holds the half, and whoever ends
// the lease once nobody is busy. mu is for what is rare: deadlines, the start and end of a stream,
// waiting for an operation to leave. It is never held while the transport reads, writes or closes.
// See plex.go for the order of locks.

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

var errUninterruptible = errors.New("plex: a blocked operation could not be interrupted by a deadline, so the connection was closed")

type half struct {
	state atomic.Uint64 // the word
	queue *queue        // where it waits for the next lease; constant
	conn  *conn         // constant

	// Owned as said above.
	back    [][]byte        // read from the transport and not delivered
	refusal error           // a passing error of a look, which the next Read returns once back is empty
	reclaim func() [][]byte // takes back what the last stream left in its channel; nil if none
	looked  bool            // nothing is left inside the transport; until the half arrives

	mu        sync.Mutex
	deadlines deadlines
	parking   parking
	named     atomic.Pointer[named] // nil before the first caller who waits for just this half
	out       chan struct{}         // closed when the present operation leaves; nil if nobody waits
	done      chan struct{}         // the lease's Done; nil unless asked for
	killed    bool                  // the last lease there will be has been killed
	whole     word                  // the lease, if it is ending as part of a Duplex and must leave nothing unread
	stream    *stream               // the stream that is running
	result    *result               // what Err tells of a lease; nil if all is well
	sent      *stream               // the lease's last write stream, running or not
	unsent    *UnsentError          // of the lease's write streams before sent; nil if all was sent
	origin    *origin               // of the present lease, with leak detection
}

// result is how a stream of a lease, or its connection, ended. It outlives the lease, so that a
// consumer can ask after Close.
type result struct {
	lease word
	err   error
}

// init makes h a half in its first lease, which ends with the admission. A read half is on demand
// until it is decided how read halves are asked for, see ready.go.
func (h *half) init(c *conn, q *queue, flags word) {
	h.conn, h.queue = c, q
	h.state.Store(uint64(firstLease | leaseLive | flags))
}

func (h *half) writes() bool { return h == &h.conn.w }

// word returns the word as it is now.
func (h *half) word() word { return word(h.state.Load()) }

// swap replaces the word if it is what the caller expects, and keeps the queue's account of it.
func (h *half) swap(from, to word) bool {
	if !h.state.CompareAndSwap(uint64(from), uint64(to)) {
		return false
	}
	if was, is := from.stale(), to.stale(); was != is {
		h.queue.stale.Add(gain(was))
	}
	if was, is := from.circulates(), to.circulates(); was != is {
		h.queue.circulating.Add(gain(was))
	}
	return true
}

// gain is what a count changes by when one that was in it leaves, or another comes.
func gain(was bool) int64 {
	if was {
		return -1
	}
	return 1
}

// change applies a transition until it succeeds or has nothing to change. It returns what the
// transition says, and the word that it was applied to.
func (h *half) change(transition func(word) (word, bool)) (from word, ok bool) {
	for {
		w := h.word()
		next, ok := transition(w)
		if next == w || h.swap(w, next) {
			return w, ok
		}
	}
}

// set and unset change flags that no account is kept of. set returns the word as it was.
func (h *half) set(flags word) word { return word(h.state.Or(uint64(flags))) }
func (h *half) unset(flags word)    { h.state.And(^uint64(flags)) }

// lease begins a lease of a half that has just come out of the queue. It reports false for one that
// is not idle, whose entry is gone then.
func (h *half) lease() (id word, ok bool) {
	w := h.word()
	if next := w&^poolListed + leaseOne | leaseLive; w.idle() && h.state.CompareAndSwap(uint64(w), uint64(next)) {
		return next.lease(), true
	}
	w, ok = h.change(word.taken)
	return w.lease() + leaseOne, ok
}

// hold takes an idle half out of service, and reports whether it was idle. Until arrive the holder
// owns what whoever is busy owns. Its entry stays in the queue; a caller that comes upon it drops
// it.
func (h *half) hold() bool {
	_, ok := h.change(word.held)
	return ok
}

// promised reports whether the half may be on its way to a caller that waits, who would lose its
// place in the line if anyone else took it.
func (h *half) promised() bool {
	return h.queue.waiting.Load() > 0 && h.word().is(poolListed)
}

// retire has the half never leased again. If nobody has it, it is settled here, otherwise by
// whoever has it, when it arrives.
func (h *half) retire() {
	if h.markRetired() {
		h.settle()
	}
}

// markRetired is the first part of retire. If it reports true, the caller has to settle h.
func (h *half) markRetired() bool {
	_, over := h.change(word.retired)
	h.failWaiting()
	return over
}

// arrival says what a half comes back from.
type arrival int8

const (
	fromLease  arrival = iota // it goes on to be looked at, if its connection has ended or is due
	fromHold                  // it goes back into service
	fromRead                  // as fromHold; what there was to read up to the peer's end is read
	intoRetire                // it is retired
)

// arrive is the one way back: for the end of a lease, of a hold, and of an admission. The half
// becomes idle, or is looked at first, or is settled if it is retired. Whoever retires it comes
// either before the swap, and is seen here, or after it, and finds the half idle or held.
func (h *half) arrive(how arrival) {
	c := h.conn
	looked := h.looked
	h.looked = false
	retire := how == intoRetire || !h.writes() && c.finished()

	w := h.word()
	look := how == fromLease && w.is(connEnded|connDue)
	if look {
		c.m.beginLook()
		defer c.m.endLook()
	}
	var next word
	from, _ := h.change(func(w word) (word, bool) {
		next = w.arrived(retire)
		return next, true
	})
	switch {
	case next.over():
		h.failWaiting()
		h.settle()
	case next.is(poolHeld) && from.is(leaseLive) && next.is(connEnded|connDue):
		c.look(h)
	case next.is(poolHeld):
		h.serveNamed()
	default:
		if next.is(poolListed) && !from.is(poolListed) {
			h.queue.put(h)
		}
		switch {
		case how != fromLease && how != fromRead && next.is(connEnded):
			c.inspectAside() // who noticed the end came while h was held, and went away
		case !next.is(poolListed) || h.queue.attended:
			h.attend(next, looked)
		}
	}
}

// enter claims h for one operation of a lease. A second operation of the same lease waits for its
// turn.
func (h *half) enter(id word) error {
	if h.state.CompareAndSwap(uint64(id|leaseLive), uint64(id|leaseLive|leaseBusy)) {
		return nil
	}
	for {
		w, ok := h.change(func(w word) (word, bool) { return w.entered(id) })
		switch {
		case ok:
			return nil
		case !w.goesOn(id):
			return ErrLeaseClosed
		case w.is(leaseStream):
			return ErrStreaming
		}
		h.mu.Lock()
		out := h.awaitLocked()
		h.mu.Unlock()
		if out != nil {
			<-out
		}
	}
}

// leave ends the operation that enter began.
func (h *half) leave(id word) {
	if h.state.CompareAndSwap(uint64(id|leaseLive|leaseBusy), uint64(id|leaseLive)) {
		return
	}
	w, _ := h.change(func(w word) (word, bool) { return w.left(), true })
	if w.is(leaseAwaited) {
		h.mu.Lock()
		if h.out != nil {
			close(h.out)
			h.out = nil
		}
		h.mu.Unlock()
	}
}

// awaitLocked returns a channel that is closed when the present operation has left, nil if there is
// none. It may be closed early, on behalf of an operation before, so the caller has to look again.
func (h *half) awaitLocked() <-chan struct{} {
	// Marked while busy: whoever is busy must come by mu to leave, and finds out there.
	if _, busy := h.change(word.awaited); !busy {
		return nil
	}
	if h.out == nil {
		h.out = make(chan struct{})
	}
	return h.out
}

// live reports whether lease id goes on.
func (h *half) live(id word) bool { return h.word().goesOn(id) }

// mark sets a flag if lease id goes on, and reports whether it does.
func (h *half) mark(id, flag word) bool {
	_, ok := h.change(func(w word) (word, bool) { return w.marked(id, flag) })
	return ok
}

// close ends a lease, the common case in one swap.
func (h *half) close(id word) error {
	if h.state.CompareAndSwap(uint64(id|leaseLive), uint64(id|poolListed)) {
		h.queue.put(h)
		if h.queue.attended {
			h.attend(id, false)
		}
		return nil
	}
	return h.closeSlow(id)
}

// closeNamed is close for a read half that was leased by name: it may still have its entry in the
// queue, or be listed on demand only. The common case is one swap here, too.
func (h *half) closeNamed(id word) error {
	w := h.word()
	if w&^(poolListed|poolOnDemand) != id|leaseLive || !w.is(poolListed|poolOnDemand) || !h.swap(w, w&^leaseLive) {
		return h.close(id)
	}
	// Whoever decides meanwhile how read halves are asked for looks at those that are idle after the
	// decision, see decideReading.
	if w.is(poolOnDemand) {
		h.attend(w, false)
	}
	return nil
}

// closeSlow ends a lease that is in use, or has left something behind, or is not the caller's any
// more.
func (h *half) closeSlow(id word) error {
	if !h.beginEnd(id) {
		return ErrLeaseClosed
	}
	return h.endInTime(id)
}

// beginEnd marks the lease as ending and halts its stream: from now on nothing new starts. It
// reports false if the lease has ended or is ending.
func (h *half) beginEnd(id word) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.mark(id, leaseClosing) {
		return false
	}
	if h.stream != nil {
		h.stream.haltLocked(ErrLeaseClosed)
	}
	return true
}

// kill ends a lease and its connection. While a Close of the same lease waits for a flush, kill
// abandons the flush.
func (h *half) kill(id word) error {
	h.mu.Lock()
	began := h.mark(id, leaseClosing)
	if w := h.word(); !began && (w.lease() != id || !w.is(leaseLive) || h.killed) {
		h.mu.Unlock()
		return ErrLeaseClosed
	}
	h.killed = true
	if h.stream != nil {
		h.stream.haltLocked(ErrKilled)
	}
	h.mu.Unlock()
	h.conn.fail(ErrKilled)
	if began {
		_ = h.endInTime(id) // what a stream could not write is what the consumer gives up by Kill
	}
	return nil
}

// endInTime is end, but does not wait for long for an operation or a stream that stays in the
// transport after the connection has failed and is being closed. Then the half comes back, or is
// settled, whenever the transport returns.
func (h *half) endInTime(id word) error {
	if h.sentLast() == nil && !h.word().is(leaseBusy) {
		return h.end(id)
	}
	over, failed := make(chan error, 1), h.failedChannel()
	h.conn.m.tasks.startForeign(transportTask, func() {
		var err error
		defer func() { over <- err }() // also if the transport ends the goroutine
		err = h.end(id)
	})
	select {
	case err := <-over:
		return err
	case <-failed:
	}
	late := time.NewTimer(closeGrace)
	defer late.Stop()
	select {
	case err := <-over:
		return err
	case <-late.C:
		return h.conn.failure()
	}
}

// end is the second part of close and kill. Only the goroutine that began the end gets here. It
// waits until the lease's operation or stream is out, and brings the half back.
func (h *half) end(id word) error {
	err := h.finishSending(id)
	h.evict()
	h.takeBack()
	ended := false
	defer func() { // also if the transport ends the goroutine in readAhead
		h.keepCause(id)
		h.clear()
		tell := h.releasing(id)
		h.arrive(fromLease)
		if tell != nil {
			defer tell()
		}
		if ended {
			h.conn.m.endLook()
		}
	}()
	if ended = h.readAhead(); ended { // the peer's end: nobody gets ErrNoConnections before the half is back
		h.conn.m.beginLook()
	}
	return err
}

// evict waits until nobody is busy in h; it interrupts whoever is. The lease is ending, so nobody
// new comes in.
func (h *half) evict() {
	for {
		h.mu.Lock()
		out := h.awaitLocked()
		if out != nil {
			h.interruptLocked()
		}
		h.mu.Unlock()
		if out == nil {
			return
		}
		<-out
	}
}

// keepCause has Err tell after the lease, too, why the connection has failed, unless a stream has
// told more. The lease is ending and nobody is busy.
func (h *half) keepCause(id word) {
	cause := h.conn.failure()
	if cause == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.result == nil || h.result.lease != id {
		h.result = &result{id, cause}
	}
}

// clear takes from the transport, and from h, what the lease has left: a deadline, a torn write, a
// Done channel. The lease is ending and nobody is busy.
func (h *half) clear() {
	h.mu.Lock()
	w := h.word()
	err := h.deadlines.clear(h, w.is(leaseDeadline) && !w.is(poolRetired))
	h.sent, h.unsent = nil, nil
	h.closeDoneLocked()
	h.mu.Unlock()
	h.deadlineLeft(err)
	if w.is(leaseTorn) {
		h.conn.fail(ErrPartialWrite)
	}
}

// interruptLocked makes the transport's blocked operation return, see deadlines.
func (h *half) interruptLocked() {
	h.set(leaseDeadline) // first, for whoever is interrupted looks at it
	h.deadlines.interrupt(h)
}

// setDeadline sets the deadline of this direction of the transport. A transport whose peer has
// ended may be closed while what it has delivered is still being read from memory, where nothing
// blocks.
func (h *half) setDeadline(t time.Time) error {
	if h.writes() {
		return guardDeadline(h.conn.nc.SetWriteDeadline, t)
	}
	err := guardDeadline(h.conn.nc.SetReadDeadline, t)
	if w := h.word(); err != nil && w.is(connEnded) && !w.is(poolRetired) {
		err = nil
	}
	return err
}

// stuck is called when an interrupt has not helped.
func (h *half) stuck() { h.conn.fail(errUninterruptible) }

// consumerDeadline is Reader.SetReadDeadline and Writer.SetWriteDeadline. It holds mu from looking
// at the lease until the deadline is set, and a lease with a deadline needs mu to end. So a stale
// handle cannot set a deadline on the next lease, and none is left behind.
func (h *half) consumerDeadline(id word, t time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.mark(id, leaseDeadline) {
		return ErrLeaseClosed
	}
	err := h.deadlines.set(h, t)
	if err != nil {
		if cause := h.conn.failure(); cause != nil {
			return cause
		}
	}
	return err
}

// deadlineLeft is for an error of taking a deadline away. The half cannot be used with a stranger's
// deadline. But a pipe refuses deadlines when its peer has closed it, which is an EOF like any
// other: what was read before is still to be delivered.
func (h *half) deadlineLeft(err error) {
	c := h.conn
	switch {
	case err == nil || c.failure() != nil:
	case !h.writes() && isClosed(err):
		c.peerEnded(errPeerClosed)
	default:
		c.fail(fmt.Errorf("plex: setting back the deadline: %w", err))
	}
}

// doneChannel is Writer.Done.
func (h *half) doneChannel(id word) <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.mark(id, leaseWatched) {
		return closedChannel
	}
	// fail stores the cause before it comes by mu to close done. So either the cause is seen here
	// or done is seen there.
	if h.conn.failure() != nil {
		return closedChannel
	}
	if h.done == nil {
		h.done = make(chan struct{})
	}
	return h.done
}

var closedChannel = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// failedChannel returns a channel that is closed when the connection has failed, or when the lease,
// which is ending, has ended.
func (h *half) failedChannel() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conn.failure() != nil {
		return closedChannel // as in doneChannel
	}
	if h.done == nil {
		h.done = make(chan struct{})
	}
	return h.done
}

// sentLast returns the lease's last write stream, nil if there was none.
func (h *half) sentLast() *stream {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.sent
}

// failed tells a lease's Done that its connection is dead.
func (h *half) failed() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closeDoneLocked()
}

func (h *half) closeDoneLocked() {
	if h.done != nil {
		close(h.done)
		h.done = nil
	}
}

// err is Reader.Err and Writer.Err.
func (h *half) err(id word) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if w := h.word(); w.lease() == id && w.is(leaseLive) {
		if err := h.unsentLocked(); err != nil {
			return err
		}
	}
	if h.result != nil && h.result.lease == id {
		return h.result.err
	}
	if h.live(id) {
		return h.conn.failure()
	}
	return nil
}
