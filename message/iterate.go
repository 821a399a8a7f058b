package message

// One loop over the messages. It waits for a connection that has something to deliver, holds it,
// reads once, delivers the whole messages (deliver.go), puts the connection back (backlog.go), and
// starts over. All of this happens in the goroutine that ranges.

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/intake"
)

// endGrace is how long to wait for plex to tell that a connection has ended before asking the
// multiplexer again.
const endGrace = 10 * time.Millisecond

// past is a deadline that interrupts.
var past = time.Unix(1, 0)

// The flags of an iteration, which others set.
const (
	stopped uint32 = 1 << iota // its ctx has ended
	killed                     // Kill was called for the connection that it holds
	reading                    // (set by the iteration) it is in a Read
)

// iteration is one run of a loop.
type iteration struct {
	r       *Receiver
	ctx     context.Context
	yield   func(Message, error) bool
	intake  intake.Intake     // how the messages are wanted
	refused *bool             // set if yield returned false and took nothing; nil if it always takes
	buf     *[bufferSize]byte // for the connection that it holds; nil if it needs none
	flags   atomic.Uint32

	// Guarded by Receiver.mu.
	wait    context.Context // ends with ctx, or when the queue has something
	wake    context.CancelFunc
	waiting bool        // for wait
	woken   bool        // wake was called
	conn    plex.Conn   // the connection that it holds; zero if none
	lease   plex.Reader // its lease on that connection; zero if none
}

// iterate delivers messages until ctx ends, the multiplexer has no more to give, or yield returns
// false.
func (r *Receiver) iterate(ctx context.Context, refused *bool, yield func(Message, error) bool) {
	it := &iteration{r: r, ctx: ctx, yield: yield, intake: intake.From(ctx), refused: refused}
	defer it.begin()() // also if the loop body panics
	for {
		h, err := it.next()
		if err != nil {
			yield(Message{}, err)
			return
		}
		if !it.serve(&h) {
			return
		}
	}
}

// begin adds the iteration to those that run, and returns what removes it.
func (it *iteration) begin() (end func()) {
	r := it.r
	it.wait, it.wake = context.WithCancel(it.ctx)
	r.mu.Lock()
	r.iterations[it] = struct{}{}
	r.mu.Unlock()

	interrupted := make(chan struct{})
	stop := context.AfterFunc(it.ctx, func() {
		defer close(interrupted)
		it.stop()
	})
	return func() {
		if !stop() {
			<-interrupted
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.iterations, it)
		if len(r.queue) > 0 {
			r.wakeLocked() // this one may have been woken for it
		}
		it.wake()
	}
}

// stop is called when ctx has ended.
func (it *iteration) stop() {
	it.flags.Or(stopped)
	it.r.mu.Lock()
	lease := it.lease
	it.r.mu.Unlock()
	if it.flags.Load()&reading == 0 {
		return
	}
	// A ready connection does not block in Read for long, unless plex cannot look at its transport.
	// If the transport refuses deadlines too, only a kill can interrupt it. The next lease has its
	// own handle, out of reach from here.
	if err := lease.SetReadDeadline(past); err != nil && !errors.Is(err, plex.ErrLeaseClosed) {
		_ = lease.Kill()
	}
}

// wakeLocked has one waiting iteration look at the queue.
func (r *Receiver) wakeLocked() {
	for it := range r.iterations {
		if it.waiting && !it.woken {
			it.woken = true
			it.wake()
			return
		}
	}
}

// next waits until a connection has something to deliver, and holds it. An error ends the
// iteration.
func (it *iteration) next() (hand, error) {
	for {
		h, wait, ok := it.fromQueue()
		if ok {
			return h, nil
		}
		lease, err := it.r.m.ReadyReader(wait, 0)
		if err == nil {
			h, ok, err = it.leased(lease)
		} else {
			err = it.failed(err)
		}
		if ok || err != nil {
			return h, err
		}
	}
}

// fromQueue holds the first leftover in the queue. If there is none, the iteration counts as
// waiting, until wait ends.
func (it *iteration) fromQueue() (h hand, wait context.Context, ok bool) {
	r := it.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if it.ctx.Err() != nil || len(r.queue) == 0 {
		it.waiting = true
		return h, it.wait, false
	}
	left := r.queue[0]
	r.takeLocked(left)
	it.conn = left.conn
	return handOfLocked(left), nil, true
}

// waitedLocked ends a wait, and reports whether the iteration was woken from it.
func (it *iteration) waitedLocked() (woken bool) {
	woken, it.woken, it.waiting = it.woken, false, false
	if woken {
		it.wait, it.wake = context.WithCancel(it.ctx)
	}
	return woken
}

// leased holds the connection of a lease. ok is false if it must not be held now; then the
// iteration goes on, unless there is an error.
func (it *iteration) leased(lease plex.Reader) (h hand, ok bool, err error) {
	r := it.r
	r.mu.Lock()
	woken := it.waitedLocked()
	if r.closed {
		// The lease was on its way when another loop learned that the multiplexer is closed. The
		// beginning of this connection's next message has been reported as cut off then, so nobody
		// may read on.
		r.mu.Unlock()
		_ = lease.Close()
		r.mu.Lock()
		defer r.mu.Unlock()
		return h, false, it.failedLocked(plex.ErrClosed, woken)
	}
	if woken && len(r.queue) > 0 {
		r.wakeLocked() // another must do what this one was woken for
	}
	h, ok, kill := it.holdLocked(lease)
	r.mu.Unlock()
	if kill {
		_ = lease.Kill()
	}
	return h, ok, nil
}

// holdLocked is leased for a multiplexer that is not closed. kill says that the lease is to be
// killed.
func (it *iteration) holdLocked(lease plex.Reader) (h hand, ok, kill bool) {
	r, conn := it.r, lease.Conn()
	left := r.leftovers[conn]
	switch {
	case left == nil:
		h.conn = conn
	case left.held:
		// Its holder has yet to deliver what came earlier. It closes this lease when that is done,
		// and then the connection is ready again.
		left.early = lease
		return h, false, false
	case left.poisoned:
		if left.poisoned = false; !left.queued { // a queued one has an error to report
			r.dropLocked(left)
		}
		return h, false, true
	default:
		r.takeLocked(left)
		h = handOfLocked(left)
	}
	h.lease, h.leased = lease, true
	it.conn, it.lease = conn, lease
	return h, true, false
}

// failed decides whether an error of ReadyReader ends the iteration: if so it returns the error,
// otherwise nil.
func (it *iteration) failed(err error) error {
	it.r.mu.Lock()
	defer it.r.mu.Unlock()
	return it.failedLocked(err, it.waitedLocked())
}

func (it *iteration) failedLocked(err error, woken bool) error {
	r := it.r
	goOn := woken
	switch {
	case it.ctx.Err() != nil: // if it was woken, the next error is that of ctx
	case errors.Is(err, plex.ErrClosed):
		r.closed = true
		goOn = r.endAllLocked()
	case errors.Is(err, plex.ErrNoConnections):
		goOn = len(r.queue) > 0
		if !goOn && r.awaitedLocked() { // plex has yet to tell that the last connection has ended
			it.awaitEndLocked()
			goOn = true
		}
	}
	if goOn {
		return nil
	}
	return err
}

// awaitEndLocked waits for a moment, without the lock, or until the iteration is woken.
func (it *iteration) awaitEndLocked() {
	it.waiting = true
	wait := it.wait
	it.r.mu.Unlock()
	timer := time.NewTimer(endGrace)
	select {
	case <-wait.Done():
	case <-timer.C:
	}
	timer.Stop()
	it.r.mu.Lock()
	it.waitedLocked()
}
