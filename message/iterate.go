package message

// One loop over the messages: it waits for a connection that something has arrived on, reads once, delivers the whole
// messages, puts the connection back, and begins again. All of it happens in the goroutine that ranges.

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.atomizer.io/plex"
)

// bufferSize is how much is read at a time. A connection is read once in a lease, as a second Read may find nothing and
// block, and then it is the others' turn; so this is large enough for the lease to cost little beside the Read.
const bufferSize = 256 << 10

// datagramSize is how much is read of a datagram; any that UDP can carry fits. plex itself keeps no more.
const datagramSize = 64 << 10

// awaitPause is how long to wait for the news of a connection's end before asking the multiplexer again.
const awaitPause = 10 * time.Millisecond

// past is a deadline that interrupts.
var past = time.Unix(1, 0)

// buffers are for the goroutines that range, while they have a connection in hands.
var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// The flags of an iteration, which others set.
const (
	stopped uint32 = 1 << iota // its ctx has ended
	killed                     // Kill was called for the connection that it has in hands
	reading                    // (by itself) it is in a Read
)

// iteration is one run of a loop.
type iteration struct {
	r       *Receiver
	ctx     context.Context
	yield   func(Message, error) bool
	refused *bool             // set when yield returned false without having taken what it got; nil if it always takes
	buf     *[bufferSize]byte // for what it has in hands; nil if not needed
	flags   atomic.Uint32

	// Guarded by Receiver.mu.
	wait    context.Context // ends with ctx, or when there is something to do beside what ReadyReader waits for
	wake    context.CancelFunc
	waiting bool // for wait
	woken   bool // wake was called
	conn    plex.Conn
	lease   plex.Reader // on conn, which it has in hands; either may be zero
}

// iterate delivers messages until ctx ends, the multiplexer has no more to give, or yield returns false.
func (r *Receiver) iterate(ctx context.Context, refused *bool, yield func(Message, error) bool) {
	it := &iteration{r: r, ctx: ctx, yield: yield, refused: refused}
	it.wait, it.wake = context.WithCancel(ctx)
	r.mu.Lock()
	r.iterations[it] = struct{}{}
	r.mu.Unlock()
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		it.stop()
	})
	defer func() { // also if the loop body panics
		if !stop() {
			<-interrupted
		}
		r.mu.Lock()
		delete(r.iterations, it)
		if len(r.queue) > 0 {
			r.wakeLocked() // it may have been woken for that
		}
		it.wake()
		r.mu.Unlock()
	}()
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

// stop is called when ctx has ended.
func (it *iteration) stop() {
	it.flags.Or(stopped)
	it.r.mu.Lock()
	lease := it.lease
	it.r.mu.Unlock()
	if it.flags.Load()&reading == 0 {
		return
	}
	// What is ready does not block in Read for long, but for a transport that cannot be looked at. Where it refuses
	// deadlines, too, there is no other way. The next lease has a handle of its own, which this cannot reach.
	if err := lease.SetReadDeadline(past); err != nil && !errors.Is(err, plex.ErrLeaseClosed) {
		_ = lease.Kill()
	}
}

// wakeLocked has an iteration that waits look at the queue.
func (r *Receiver) wakeLocked() {
	for it := range r.iterations {
		if it.waiting && !it.woken {
			it.woken = true
			it.wake()
			return
		}
	}
}

// next waits until a connection has something to deliver, and takes it. The error is the end of the iteration.
func (it *iteration) next() (hand, error) {
	r := it.r
	for {
		r.mu.Lock()
		if it.ctx.Err() == nil && len(r.queue) > 0 {
			left := r.queue[0]
			r.takeLocked(left)
			it.conn = left.conn
			h := handOfLocked(left)
			r.mu.Unlock()
			return h, nil
		}
		it.waiting = true
		wait := it.wait
		r.mu.Unlock()
		lease, err := r.m.ReadyReader(wait, 0)
		if h, ok := it.waited(lease, &err); ok || err != nil {
			return h, err
		}
	}
}

// waited acts on what ReadyReader has returned. It reports true for a connection that the iteration has in hands now,
// and leaves no error where the iteration goes on.
func (it *iteration) waited(lease plex.Reader, failed *error) (h hand, ok bool) {
	r := it.r
	r.mu.Lock()
	defer r.mu.Unlock()
	it.waiting = false
	woken := it.woken
	if woken {
		it.woken = false
		it.wait, it.wake = context.WithCancel(it.ctx)
	}
	err := *failed
	*failed = nil
	if err == nil && r.closed {
		// It was on its way when another loop learned of the multiplexer's end. What is left of the connection's last
		// message has been given up then, so nobody may read on behind it.
		r.mu.Unlock()
		_ = lease.Close()
		r.mu.Lock()
		err = plex.ErrClosed
	}
	switch {
	case err == nil:
		if woken && len(r.queue) > 0 {
			r.wakeLocked() // for what it was woken for: it has something else to do now
		}
		return it.leasedLocked(lease)
	case it.ctx.Err() != nil:
		if woken {
			return h, false // the next error is that of ctx
		}
	case errors.Is(err, plex.ErrClosed):
		r.closed = true
		if r.orphanLocked() {
			return h, false
		}
	case errors.Is(err, plex.ErrNoConnections):
		if len(r.queue) > 0 {
			return h, false
		}
		if r.awaitedLocked() { // plex has lost the last connection, but not told of it yet
			it.awaitLocked()
			return h, false
		}
	case woken:
		return h, false
	}
	*failed = err
	return h, false
}

// awaitLocked waits for a moment, without the lock, or until it is woken.
func (it *iteration) awaitLocked() {
	it.waiting = true
	wait := it.wait
	it.r.mu.Unlock()
	timer := time.NewTimer(awaitPause)
	select {
	case <-wait.Done():
	case <-timer.C:
	}
	timer.Stop()
	it.r.mu.Lock()
	it.waiting = false
	if it.woken {
		it.woken = false
		it.wait, it.wake = context.WithCancel(it.ctx)
	}
}

// leasedLocked takes the connection of a lease, unless there is something about it.
func (it *iteration) leasedLocked(lease plex.Reader) (h hand, ok bool) {
	r := it.r
	conn := lease.Conn()
	left := r.leftovers[conn]
	switch {
	case left == nil:
		h.conn = conn
	case left.held:
		// Somebody has yet to deliver what is older. They give the lease back when that is done, and then it is ready
		// again.
		left.early = lease
		return h, false
	case left.poisoned:
		if left.poisoned = false; !left.queued { // there may be a report of it
			r.dropLocked(left)
		}
		r.mu.Unlock()
		_ = lease.Kill()
		r.mu.Lock()
		return h, false
	default:
		r.takeLocked(left)
		h = handOfLocked(left)
	}
	h.lease, h.leased = lease, true
	it.conn, it.lease = conn, lease
	return h, true
}

// serve delivers what there is of a connection, and puts it back. It reports false if the loop was left.
func (it *iteration) serve(h *hand) (more bool) {
	defer it.putBack(h) // also if the loop body panics
	if h.report != nil {
		h.finished = true // when it was found: there is nothing behind it
		return it.tell(h, h.report)
	}
	if h.whole || !h.leased {
		if !it.deliver(h) {
			return false
		}
	}
	// What has ended may be a datagram that was left over. The next is for the next lease.
	if !h.leased || h.kill || h.cause != nil || !it.read(h) {
		return true
	}
	return it.deliver(h)
}

// putBack ends the holding of a connection.
func (it *iteration) putBack(h *hand) {
	if h.asking { // the split function has ended this goroutine, and would end the next as well
		h.giveUp()
		h.report = &SplitError{Conn: h.conn, Err: errExited}
	}
	it.r.putBack(it, h) // which keeps a copy of what is left in the buffer
	if it.buf != nil {
		buffers.Put(it.buf)
		it.buf = nil
	}
}

// read reads once, behind what is left. It reports false if there is nothing new.
func (it *iteration) read(h *hand) bool {
	h.datagram = h.lease.Conn().Datagram()
	var buf []byte
	have := len(h.data)
	if have > bufferSize/2 {
		buf = it.r.grow(h)
	} else {
		it.buf = buffers.Get().(*[bufferSize]byte)
		buf = it.buf[:]
		copy(buf, h.data)
	}
	if h.datagram {
		buf = buf[:datagramSize]
	}
	if it.flags.Or(reading)&(stopped|killed) != 0 {
		it.flags.And(^reading)
		return false
	}
	n, err := h.lease.Read(buf[have:])
	if it.flags.And(^reading)&stopped != 0 && errors.Is(err, os.ErrDeadlineExceeded) {
		return false // interrupted, which loses nothing
	}
	switch {
	case h.datagram:
		if err != nil {
			return false // about one datagram, or an end, which cuts nothing off
		}
		h.atEOF, h.cause = true, io.EOF
	case n == 0 && err == nil:
		return false
	default:
		h.atEOF, h.cause = err == io.EOF, err // any error, without a deadline, has ended the connection
	}
	h.data, h.whole = buf[:have+n], true
	return true
}

// grow returns the leftover's memory, with the data that is in it and room for more. There always is: data without
// a whole message is shorter than the limit.
func (r *Receiver) grow(h *hand) []byte {
	have, limit := len(h.data), r.maxSize+framing
	if room := cap(h.data) - have; room < min(have/4, limit-have) {
		data := make([]byte, have, min(2*have, limit))
		copy(data, h.data)
		h.data, h.left.data = data, data
	}
	return h.data[:cap(h.data)]
}

// deliver delivers the whole messages that are in the data, and, after the end, what is wrong with the rest. It reports
// false if the loop was left.
func (it *iteration) deliver(h *hand) (more bool) {
	if h.datagram && len(h.data) == datagramSize { // there may have been more
		return it.fail(h, &TooLongError{Size: datagramSize, Max: datagramSize - 1})
	}
	for len(h.data) > 0 || h.atEOF {
		if flags := it.flags.Load(); flags&(stopped|killed) != 0 {
			return true // next, or putBack, acts on it
		}
		h.asking = true
		advance, token, final, err := it.r.ask(h.data, h.atEOF)
		h.asking = false
		if err != nil {
			return it.fail(h, err)
		}
		if token == nil && advance == 0 && !final {
			break // it wants more
		}
		// What is to come after this message is decided before it is delivered, for the loop body may panic.
		before, last := h.data, final || advance == 0
		h.data = h.data[advance:]
		if last {
			h.giveUp()
		}
		if token != nil {
			data := make([]byte, len(token))
			copy(data, token)
			if !it.yield(Message{data, h.conn}, nil) {
				if it.refused != nil && *it.refused {
					h.data, h.finished, h.kill = before, false, false
				}
				return false
			}
		}
		if last {
			return true
		}
	}
	h.whole = false
	switch {
	case h.cause != nil:
		h.finished = true
		if len(h.data) > 0 {
			return it.fail(h, io.ErrUnexpectedEOF)
		}
	case len(h.data) >= it.r.maxSize+framing:
		return it.fail(h, &TooLongError{Size: uint64(len(h.data)), Max: it.r.maxSize})
	}
	return true
}

// fail reports what is wrong with the data, and gives up the rest of it and the connection. A datagram is given up
// alone.
func (it *iteration) fail(h *hand, err error) (more bool) {
	var tooLong *TooLongError
	switch {
	case h.cause != nil && errors.Is(err, io.ErrUnexpectedEOF):
		if len(h.data) == 0 {
			h.finished = true
			return true // nothing is cut off, whatever the split function says
		}
		if h.cause != io.EOF {
			err = h.cause
		}
		err = &CutError{Conn: h.conn, Data: bytes.Clone(h.data), Err: err}
	case errors.As(err, &tooLong):
		err = &TooLongError{Conn: h.conn, Size: tooLong.Size, Max: tooLong.Max}
	default:
		err = &SplitError{Conn: h.conn, Err: err}
	}
	h.giveUp()
	if h.kill {
		h.conn.Kill() // now, not when the loop body is done
	}
	return it.tell(h, err)
}

// tell delivers an error about a connection.
func (it *iteration) tell(h *hand, err error) (more bool) {
	h.report = nil
	if it.yield(Message{Conn: h.conn}, err) {
		return true
	}
	if it.refused != nil && *it.refused {
		h.report = err
	}
	return false
}
