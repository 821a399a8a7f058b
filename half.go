package plex

// A half is one direction of a connection, and the thing that is leased. This
// file has the life of a lease: begin (lease), use (enter, leave), end (close,
// kill), and the one way back (release).
//
// Who owns what: the word state is anyone's, by atomic operations. The holder
// of the busy bit owns the transport's direction and the fields marked so. mu
// is for what is rare: deadlines, the start and end of a stream, waiting for
// busy to end. It is never held while the transport reads, writes or closes,
// and setting a deadline under it does not block.

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// The word of a half: the number of the lease in the upper bits, flags below.
// All that the common path of acquire, Read, Write and Close needs to know is
// in this one word: it swaps the word that it expects, number and flags, for
// the next. Whatever is unusual shows as a flag, makes the swap fail, and is
// seen to on the slow path.
const (
	leased    = 1 << iota // in a consumer's hands
	busy                  // one Read, Write or stream has the transport's direction
	awaited               // somebody waits for busy to end
	streaming             // it is a stream that is busy
	closing               // the end of the lease has begun: nothing new starts
	deadline              // a deadline may be set on the transport
	backlog               // there are bytes to deliver before the transport's
	torn                  // the lease's last write was cut short
	watched               // there is a Done channel, or a stream's result, to see to
	gone                  // it is never leased again
	held                  // taken out of service without taking it out of the queue, see hold
	dropped               // whoever took it from the queue meanwhile has dropped it
	ending                // (read halves) the peer's end has been seen, by the watcher or by a Read
	expiring              // its connection is too old
	attended              // (read halves) somebody wants to know when it has something to deliver, see ready.go
	queued                // it is in the ready queue
	fresh                 // something has come since the last lease
	leaseOne              // the number of a lease counts in these

	flags = leaseOne - 1
	lent  = leased | held // leased by the ready queue, while its entry in the readers' queue stays
)

// interruptGrace is how long a blocked operation may take to notice a deadline
// in the past. A transport that takes longer ignores deadlines and is closed.
const interruptGrace = time.Second

// refusedGrace is the same for a transport that refuses deadlines, where only
// an operation that does not block in the transport can take notice.
const refusedGrace = 100 * time.Millisecond

// longAgo is a deadline that interrupts.
var longAgo = time.Unix(1, 0)

var errUninterruptible = errors.New("plex: a blocked operation could not be interrupted by a deadline, so the connection was closed")

type half struct {
	state atomic.Uint64
	queue *queue // where it waits for the next lease; constant
	conn  *conn  // constant

	// Owned by the holder of busy; by the closer of the lease when nobody is
	// busy.
	back    [][]byte        // read from the transport and not delivered
	reclaim func() [][]byte // takes back what the last stream left in its channel; nil if none
	ended   bool            // the transport has said io.EOF
	untold  bool            // and it was plex that it has told, which has to tell a ready reader
	proved  bool            // the connection has delivered something
	looked  bool            // nothing is left inside the transport; for the end of the lease, or of the hold

	mu          sync.Mutex
	out         chan struct{} // closed when the present operation leaves; nil if nobody waits
	done        chan struct{} // the lease's Done; nil unless asked for
	until       time.Time     // the deadline that the consumer has set
	killed      bool          // the last lease there will be has been killed
	interrupted bool          // a past deadline is set, and until is to be set again
	stream      *stream       // the stream that is running
	result      *result       // what Err tells of a lease; nil if all is well
	sent        *stream       // the lease's last write stream, running or not
	unsent      *UnsentError  // of the lease's write streams before sent; nil if all was sent

	// forcer closes the connection if an interrupt does not help; nil if none
	// is under way. It is written under mu.
	forcer atomic.Pointer[forcer]

	origin *origin // of the present lease, with leak detection

	settled bool // gone and out of every consumer's hands; guarded by Multiplexer.mu
}

// result is how a stream of a lease, or its connection, ended. It outlives the
// lease, so that a consumer can ask after Close.
type result struct {
	lease uint64
	err   error
}

func (h *half) init(c *conn, q *queue, word uint64) {
	h.conn, h.queue = c, q
	h.state.Store(word)
}

func (h *half) writes() bool { return h == &h.conn.w }

// lease begins a lease of a half that has just come out of the queue. It
// reports false for one that is gone or held, which the caller then drops.
func (h *half) lease() (id uint64, ok bool) {
	w := h.state.Load()
	if next := w&^fresh + leaseOne | leased; w&(gone|held) == 0 && h.state.CompareAndSwap(w, next) {
		return next &^ flags, true
	}
	return h.leaseUnusual()
}

// leaseUnusual is lease for a half that is held or gone, or was changed
// meanwhile. One that is held, or lent, is its holder's, who puts it back, see
// endHold and release.
func (h *half) leaseUnusual() (id uint64, ok bool) {
	for {
		w := h.state.Load()
		switch {
		case w&held != 0:
			if !h.state.CompareAndSwap(w, w|dropped) {
				continue
			}
			if w&leased != 0 {
				h.queue.stale.Add(-1) // lend has counted the entry that is dropped
			}
			return 0, false
		case w&gone != 0:
			h.queue.stale.Add(-1)
			return 0, false
		}
		if next := w&^fresh + leaseOne | leased; h.state.CompareAndSwap(w, next) {
			return next &^ flags, true
		}
	}
}

// leaveQueue is called with h taken out of q. It reports whether nobody needs it
// there: if h is gone, or if a consumer has it, since the end of the lease puts it
// back, or attends to it anew.
func (h *half) leaveQueue(q *queue) bool {
	for {
		w := h.state.Load()
		next := w
		switch {
		case w&gone != 0:
		case w&leased == 0:
			return false
		case q.lends:
			next = w &^ (queued | fresh)
		default:
			next = w | dropped // it has been lent
		}
		if !h.state.CompareAndSwap(w, next) {
			continue
		}
		if !q.lends {
			q.stale.Add(-1)
		}
		return true
	}
}

// retire marks h so that it is never leased again. If nobody has it, it
// is settled here, and its entry in the queue is stale; otherwise the end of
// the lease, or of the hold, settles it. The word decides which: exactly one of
// them sees it both gone and in nobody's hands first.
func (h *half) retire() {
	if h.markGone() {
		h.conn.m.settle(h)
	}
}

// markGone is the first part of retire. If it reports true, the caller has to settle
// h.
func (h *half) markGone() (idle bool) {
	if h.state.Or(gone)&(gone|held|leased) != 0 {
		return false
	}
	h.queue.stale.Add(1)
	return true
}

// retireUnleased is retire for a half that nobody has in hands. If somebody has,
// it is left to the end of that lease.
func (h *half) retireUnleased() {
	for {
		w := h.state.Load()
		if w&leased != 0 {
			return
		}
		if !h.state.CompareAndSwap(w, w|gone) {
			continue
		}
		if w&(gone|held) == 0 {
			h.queue.stale.Add(1)
			m := h.conn.m
			m.aside(func() { m.settle(h) }) // its transport may take long to close
		}
		return
	}
}

// hold takes an idle half out of service without taking it out of the queue,
// and reports whether it was idle. Until letGo the holder owns what the holder
// of busy owns. A caller that comes upon it in the queue drops it, and says so
// in the word.
func (h *half) hold() bool {
	for {
		w := h.state.Load()
		if w&(leased|gone|held) != 0 {
			return false
		}
		if h.state.CompareAndSwap(w, w|held) {
			return true
		}
	}
}

// courtesy is how often somebody who has come upon an idle half lets others run first.
const courtesy = 1000

// yieldToWaiter is called by whoever is about to take an idle half, but not from
// its queue. While callers wait in that, the half may be on its way to one of them, who
// should not lose its place in the line; that one takes it, or nobody does, within
// microseconds. It reports false if that is not over yet, as on a very busy machine,
// or because the waiter needs Multiplexer.mu first and the caller has it.
func (h *half) yieldToWaiter() bool {
	for range courtesy {
		if h.queue.waiting.Load() == 0 || h.state.Load()&(leased|held|gone) != 0 {
			return true
		}
		runtime.Gosched()
	}
	return false
}

// deferToWaiter is yieldToWaiter to the end. The caller does not have Multiplexer.mu.
func (h *half) deferToWaiter() {
	for !h.yieldToWaiter() {
		time.Sleep(time.Millisecond)
	}
}

// letGo ends a hold: the half is idle again, or retired if the holder, or
// anyone meanwhile, says so. The watcher may have come when h was held, and
// gone away: then what it came for is done now.
func (h *half) letGo(retire bool) {
	if w := h.endHold(retire); w&(ending|gone) == ending {
		h.conn.m.spawn(h.conn.inspect)
	}
}

// endHold is letGo for a holder that has looked at the end itself. It returns
// the word that it has left.
func (h *half) endHold(retire bool) uint64 {
	looked := h.looked
	h.looked = false
	for {
		w := h.state.Load()
		next := w &^ (held | dropped)
		if retire {
			next |= gone
		}
		if !h.state.CompareAndSwap(w, next) {
			continue
		}
		switch {
		case next&gone == 0:
			if w&dropped != 0 {
				h.queue.put(h)
			}
			if next&attended != 0 {
				h.attend(next&^flags, looked)
			}
		default:
			if w&dropped == 0 {
				h.queue.stale.Add(1)
			}
			h.conn.m.settle(h)
		}
		return next
	}
}

// enter claims h for one operation of a lease. A second operation of the same
// lease waits for its turn.
func (h *half) enter(id uint64) error {
	if h.state.CompareAndSwap(id|leased, id|leased|busy) {
		return nil
	}
	for {
		w := h.state.Load()
		switch {
		case !usable(w, id):
			return ErrLeaseClosed
		case w&streaming != 0:
			return ErrStreaming
		case w&busy != 0:
			h.mu.Lock()
			out := h.awaitLocked()
			h.mu.Unlock()
			if out != nil {
				<-out
			}
		case h.state.CompareAndSwap(w, w|busy):
			return nil
		}
	}
}

// leave ends the operation that enter began.
func (h *half) leave(id uint64) {
	if h.state.CompareAndSwap(id|leased|busy, id|leased) {
		return
	}
	if h.state.And(^uint64(busy|streaming|awaited))&awaited != 0 {
		h.mu.Lock()
		if h.out != nil {
			close(h.out)
			h.out = nil
		}
		h.mu.Unlock()
	}
}

// awaitLocked returns a channel that is closed when the present operation has
// left, nil if there is none. It may be closed early, on behalf of an
// operation before, so the caller has to look again.
func (h *half) awaitLocked() <-chan struct{} {
	for {
		w := h.state.Load()
		if w&busy == 0 {
			return nil
		}
		// Marked while busy: whoever is busy must now come by mu to leave,
		// and finds out there.
		if h.state.CompareAndSwap(w, w|awaited) {
			if h.out == nil {
				h.out = make(chan struct{})
			}
			return h.out
		}
	}
}

// usable reports whether a word says that lease id goes on: it is the present
// one and has not begun to end.
func usable(w, id uint64) bool {
	return w&(^uint64(flags)|leased|closing) == id|leased
}

// live reports whether lease id goes on.
func (h *half) live(id uint64) bool { return usable(h.state.Load(), id) }

// mark sets a flag if lease id goes on, and reports whether it does.
func (h *half) mark(id, flag uint64) bool {
	for {
		w := h.state.Load()
		if !usable(w, id) {
			return false
		}
		if h.state.CompareAndSwap(w, w|flag) {
			return true
		}
	}
}

// beginEndLocked marks the lease as ending; from now on nothing new starts. It
// reports false if the lease has ended or is ending.
func (h *half) beginEndLocked(id uint64) bool { return h.mark(id, closing) }

// close ends a lease, the common case in one swap.
func (h *half) close(id uint64) error {
	if h.state.CompareAndSwap(id|leased, id) {
		h.queue.put(h)
		return nil
	}
	return h.closeUnusual(id)
}

// closeUnusual ends a lease that is in use, or has left something behind, or
// is not the caller's any more.
func (h *half) closeUnusual(id uint64) error {
	h.mu.Lock()
	if !h.beginEndLocked(id) {
		h.mu.Unlock()
		return ErrLeaseClosed
	}
	if s := h.stream; s != nil {
		s.haltLocked(ErrLeaseClosed)
	}
	h.mu.Unlock()
	return h.end(id)
}

// kill ends a lease and its connection. While a Close of the same lease waits
// for a flush, kill abandons the flush.
func (h *half) kill(id uint64) error {
	h.mu.Lock()
	began := h.beginEndLocked(id)
	w := h.state.Load()
	if !began && (w&^flags != id || w&leased == 0 || h.killed) {
		h.mu.Unlock()
		return ErrLeaseClosed
	}
	h.killed = true
	if s := h.stream; s != nil {
		s.haltLocked(ErrKilled)
	}
	h.mu.Unlock()
	h.conn.fail(ErrKilled)
	if began {
		_ = h.end(id) // it says what a stream could not write, which is what kill is for
	}
	return nil
}

// end is the second part of close and kill: only the goroutine that began the
// end gets here. It waits until the lease's operation or stream is out, and
// puts the half back.
func (h *half) end(id uint64) error {
	err := h.finishSending(id)
	h.evict()
	h.takeBack()
	if h.peek() {
		defer h.conn.m.endLook()
	}
	h.keepCause(id)
	h.clear()
	h.release(id)
	return err
}

// keepCause has Err tell after the lease, too, why the connection has failed, unless
// a stream has told more. The lease is ending and nobody busy.
func (h *half) keepCause(id uint64) {
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

// evict waits until nobody is busy in h; it interrupts who is. The lease is
// ending, so nobody new comes in.
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

// interruptLocked makes the transport's blocked operation return by a deadline
// in the past, which loses nothing. Should the transport refuse deadlines, or
// take no notice of them, its connection is closed after a while, as the only
// other way.
func (h *half) interruptLocked() {
	if h.forcer.Load() != nil {
		return // it is interrupted
	}
	// The forcer does not need mu, in case setting the deadline blocks, as it
	// does with a transport that has one mutex for everything.
	f := &forcer{}
	h.forcer.Store(f)
	f.timer = time.AfterFunc(interruptGrace, func() {
		if h.forcer.Load() == f {
			h.conn.fail(errUninterruptible)
		}
	})
	h.state.Or(deadline) // first, for who is interrupted looks at it
	switch err := h.setDeadline(longAgo); {
	case err == nil:
		h.interrupted = true
	case !isClosed(err): // a closed one interrupts by itself
		f.timer.Reset(refusedGrace) // who does not block in the transport is out by then
	}
}

type forcer struct{ timer *time.Timer }

// calmLocked stops the forcer.
func (h *half) calmLocked() {
	if f := h.forcer.Swap(nil); f != nil {
		f.timer.Stop()
	}
}

// resumeLocked takes an interrupt back: the deadline is again the consumer's.
func (h *half) resumeLocked() error {
	h.calmLocked()
	if !h.interrupted {
		return nil
	}
	h.interrupted = false
	return h.setDeadline(h.until)
}

// setDeadline sets the deadline of this direction of the transport. One that
// has come to its end may be closed, while what it has delivered is still being
// read from memory, where nothing blocks.
func (h *half) setDeadline(t time.Time) error {
	if h.writes() {
		return h.conn.nc.SetWriteDeadline(t)
	}
	err := h.conn.nc.SetReadDeadline(t)
	if err != nil && h.state.Load()&(ending|gone) == ending {
		err = nil
	}
	return err
}

// consumerDeadline is Reader.SetReadDeadline and Writer.SetWriteDeadline. It
// holds mu from looking at the lease until the deadline is set, and a lease
// with a deadline needs mu to end; so a stale handle cannot set a deadline on
// the next lease, and none is left behind.
func (h *half) consumerDeadline(id uint64, t time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.mark(id, deadline) {
		return ErrLeaseClosed
	}
	if h.interrupted {
		h.until = t // set by resumeLocked
		return nil
	}
	if err := h.setDeadline(t); err != nil {
		if cause := h.conn.failure(); cause != nil {
			return cause
		}
		return err
	}
	h.until = t
	return nil
}

// clear takes from the transport, and from h, what the lease has left: a
// deadline, a torn write, a Done channel. The lease is ending and nobody busy.
func (h *half) clear() {
	var err error
	h.mu.Lock()
	h.calmLocked()
	w := h.state.Load()
	if w&deadline != 0 && w&gone == 0 {
		err = h.setDeadline(time.Time{})
		if err != nil && h.until.IsZero() && h.conn.failure() == nil && !h.interrupted {
			err = nil // it refuses deadlines altogether, so none is set
		}
	}
	h.interrupted, h.until = false, time.Time{}
	h.sent, h.unsent = nil, nil
	if h.done != nil {
		close(h.done)
		h.done = nil
	}
	h.mu.Unlock()
	h.deadlineLeft(err)
	if w&torn != 0 {
		h.conn.fail(ErrPartialWrite)
	}
}

// deadlineLeft is for an error of setting back a deadline that was set. The
// half cannot be used with a stranger's deadline. But a pipe refuses deadlines
// when its peer has closed it, which is an end like any other: what was read
// before is still to be delivered.
func (h *half) deadlineLeft(err error) {
	switch {
	case err == nil:
	case !h.writes() && h.conn.failure() == nil && isClosed(err):
		h.ended = true
		h.untold = h.state.Or(ending)&attended != 0
		h.conn.peerClosed()
	default:
		h.conn.fail(fmt.Errorf("plex: setting back the deadline: %w", err))
	}
}

// release is the one way back, for a lease that ends and for a new
// connection's halves: the half becomes idle, or is settled if it is gone.
// Between the two is a half that has to be looked at first, because the peer's
// end has been seen or the connection is too old. It becomes held, not idle,
// so that no waiter is given what may be taken from it again.
func (h *half) release(id uint64) {
	c := h.conn
	looked := h.looked
	h.looked = false
	switch {
	case !h.ended:
	case len(h.back) > 0:
		h.untold = h.state.Load()&attended != 0
	case h.untold:
		h.untold = false // the next lease is for the end
	default:
		h.state.Or(gone) // all is delivered; still leased, so this settles nothing
	}
	look := false
	// retire either comes before the swap and is seen here, or comes after it
	// and sees the half idle or held.
	var w, next uint64
	for {
		w = h.state.Load()
		next = id | w&(backlog|gone|ending|expiring|attended|queued)
		if w&gone == 0 && w&(ending|expiring) != 0 {
			next |= held
			if w&held == 0 || w&dropped != 0 {
				next |= dropped // since it is not in the queue
			}
			if !look {
				look = true
				c.m.beginLook()
			}
		}
		if h.state.CompareAndSwap(w, next) {
			break
		}
	}
	inQueue := w&held != 0 && w&dropped == 0 // it was lent, and nobody has come upon it
	if inQueue && next&gone == 0 {
		h.queue.stale.Add(-1)
	}
	switch {
	case next&gone != 0:
		c.m.settle(h)
	case next&held != 0:
		c.look(h)
	default:
		if !inQueue {
			h.queue.put(h)
		}
		if next&attended != 0 {
			h.attend(id, looked)
		}
	}
	if look {
		c.m.endLook()
	}
}

// doneChannel is Writer.Done.
func (h *half) doneChannel(id uint64) <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.mark(id, watched) {
		return closedChannel
	}
	// fail stores the cause before it comes by mu to close done, so either it
	// is seen here or done is seen there.
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

// failed tells a lease's Done that its connection is dead.
func (h *half) failed() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.done != nil {
		close(h.done)
		h.done = nil
	}
}

// err is Reader.Err and Writer.Err.
func (h *half) err(id uint64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.state.Load()&^flags == id && h.state.Load()&leased != 0 {
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

// read is one Read of the transport, or of what was read before. The caller is
// busy.
func (h *half) read(p []byte) (int, error) {
	if h.reclaim != nil {
		h.takeBack()
	}
	if len(h.back) > 0 {
		if !h.proved && h.state.Load()&(attended|ending) == attended { // it was plex that has read it
			h.proved = true
			h.conn.prove()
		}
		return h.readBack(p), nil
	}
	if h.ended {
		h.untold = false
		if cause := h.conn.failure(); cause != nil {
			return 0, cause
		}
		return 0, io.EOF
	}
	n, err := h.conn.nc.Read(p)
	return n, h.afterRead(n, err)
}

// afterRead sees to what a Read of the transport has brought.
func (h *half) afterRead(n int, err error) error {
	if n > 0 && !h.proved {
		h.proved = true
		h.conn.prove()
	}
	if err != nil {
		err = h.failedOperation(err)
	}
	return err
}

// write is one Write to the transport, and keeps the account of whether it was
// whole. The caller is busy.
func (h *half) write(p []byte) (int, error) {
	n, err := h.conn.nc.Write(p)
	return n, h.afterWrite(p, n, err)
}

// afterWrite keeps the account of whether a Write of p was whole.
func (h *half) afterWrite(p []byte, n int, err error) error {
	switch {
	case n < len(p):
		if err == nil {
			err = io.ErrShortWrite
		}
		if n > 0 && !h.conn.datagram {
			h.state.Or(torn)
		}
	case len(p) > 0 && h.state.Load()&torn != 0:
		h.state.And(^uint64(torn)) // the consumer has mended its message
	}
	if err != nil {
		err = h.failedOperation(err)
	}
	return err
}

// failedOperation decides what an error of the transport means, acts on it,
// and returns what the consumer is told.
func (h *half) failedOperation(err error) error {
	c := h.conn
	switch h.verdict(err) {
	case passing:
		if cause := c.failure(); cause != nil {
			return h.told(cause)
		}
		return h.told(err)
	case peerClosed:
		// The kernel tells a reset to one half only; the other is told of
		// a clean end. So an end is believed only of a connection that has
		// not failed.
		if c.failure() == nil && wasReset(c.nc) && !c.saidBye.Load() {
			c.fail(errReset)
		}
		if cause := c.failure(); cause != nil {
			return cause
		}
		h.ended = true
		h.state.Or(ending)
		c.peerClosed()
		return err
	default:
		// A write to a connection that has been reset meanwhile only says
		// that the pipe is broken; why, the kernel has told the other half.
		if h.writes() && errors.Is(err, syscall.EPIPE) && wasReset(c.nc) && !c.saidBye.Load() {
			err = fmt.Errorf("%w: %w", errReset, err)
		}
		// Whose deadline it was, or whose lease has ended, is nothing to the others on
		// the connection; to them it says why there is none any more.
		if h.writes() && c.tls && errors.Is(err, os.ErrDeadlineExceeded) {
			err = fmt.Errorf("%w, which TLS does not survive: %w", ErrPartialWrite, err)
		}
		c.fail(err)
		return h.told(c.failure())
	}
}

func (h *half) verdict(err error) verdict {
	c, w := h.conn, h.state.Load()
	return judge(err, operation{write: h.writes(), udp: c.udp, tls: c.tls, deadline: w&deadline != 0})
}

// told is what a Read or Write returns for err: to one that the end of its own
// lease has interrupted, that is all there is to say.
func (h *half) told(err error) error {
	if w := h.state.Load(); w&closing != 0 && w&streaming == 0 && isInterrupt(err) {
		return ErrLeaseClosed
	}
	return err
}

// isInterrupt reports whether err can be the consequence of interruptLocked.
func isInterrupt(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || err == errUninterruptible
}
