package request

// Flushing: whoever has the lead takes what is gathered, and writes it within one lease of a write
// half.

import (
	"context"
	"errors"
	"runtime"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/caller"
	"go.atomizer.io/plex/internal/sock"
)

const (
	// writePatience is how long a Write may last before somebody else leads, so that a peer that
	// has stopped reading holds up nobody but its own requests.
	writePatience = time.Millisecond

	// noWait has the multiplexer give a writer now or never.
	noWait = -1
)

// longAgo is a deadline that interrupts.
var longAgo = time.Unix(1, 0)

// flusher is what a goroutine needs to write batches. It is pooled, and belongs to one goroutine at
// a time, except for what the table's mutex guards.
type flusher[R any] struct {
	role
	yielded time.Duration   // how long it let others run before this Write; 0 if it did not
	waits   bool            // it is the one that waits for a connection
	caller  context.Context // of the caller whose goroutine this is; nil if it is the client's
	writer  plex.Writer     // the lease, live or not
	own     *scratch        // of the latest batch, when it is written; nil if it had none

	// Guarded by the table's mutex.
	batch   *batch[R] // being written; nil if none is
	carried int       // how many calls were in it at the start
	watching
}

// flushOwn has the caller that has been given the lead write once, in its own goroutine. What is
// left then is another goroutine's work, so that it can wait for its reply.
func (c *Client[Q, R]) flushOwn(ctx context.Context, r role) {
	f := c.flushers.Get().(*flusher[R])
	f.role = r
	c.yield(f)
	var err error
	if f.writer, err = c.mux.Writer(c.ctx, noWait); err == nil {
		if ctx.Done() != nil {
			f.caller = ctx
		}
		f = c.flush(f)
	}
	if f != nil {
		c.goOn(f)
	}
}

// goOn has f write what is gathered in a goroutine of its own. If the client has been closed,
// nothing is left to be written.
func (c *Client[Q, R]) goOn(f *flusher[R]) {
	c.table.spawn(func() { c.flushAll(f) })
}

// flushAll writes batch after batch for as long as it has the lead.
func (c *Client[Q, R]) flushAll(f *flusher[R]) {
	for f != nil {
		c.yield(f)
		if !c.lease(f) {
			return
		}
		f = c.flush(f)
	}
}

// yield lets other goroutines run, which may have requests too.
func (c *Client[Q, R]) yield(f *flusher[R]) {
	if f.yield {
		start := c.table.clock()
		runtime.Gosched()
		f.yielded = c.table.clock() - start
	}
}

// lease leases a writer. It waits for as long as there are requests to be written, and fails those
// that have waited for too long. If it reports false, there are none, and f is in the pool.
func (c *Client[Q, R]) lease(f *flusher[R]) bool {
	var err error
	if f.writer, err = c.mux.Writer(c.ctx, noWait); err == nil {
		return true
	}
	for {
		ctx, cancel := context.WithCancel(c.ctx)
		timeout, ok := c.table.await(f, cancel)
		if ok {
			f.writer, err = c.mux.Writer(ctx, timeout)
		}
		gaveUp := ctx.Err() != nil
		cancel()
		switch {
		case !ok:
			c.flushers.Put(f)
			return false
		case err == nil:
			return true
		case !gaveUp:
			c.table.unserved(err).fail(err)
		}
	}
}

// flush writes one batch within the lease that f has, and ends the lease. It returns the flusher
// that goes on, or nil.
func (c *Client[Q, R]) flush(f *flusher[R]) *flusher[R] {
	b := c.table.take(f)
	if b == nil {
		_ = f.writer.Close() // nothing was written
		f.caller = nil
		c.flushers.Put(f)
		return nil
	}
	return c.write(f, b)
}

// write writes a batch that f has taken.
func (c *Client[Q, R]) write(f *flusher[R], b *batch[R]) *flusher[R] {
	returned := false
	defer func() {
		if !returned {
			c.abort(f)
		}
	}()
	n, err := 0, errDatagrams
	if !c.ordered() || !f.writer.Conn().Datagram() {
		n, err = f.writer.Write(b.frames)
	}
	returned = true
	if err != nil && f.interrupted() && c.table.mayResume(f) && c.table.spawn(func() { c.resume(f, n) }) {
		return nil
	}
	return c.finish(f, n, err)
}

// finish ends a lease after its Write, and acts on what has become of the requests.
func (c *Client[Q, R]) finish(f *flusher[R], n int, err error) (next *flusher[R]) {
	conn, w := f.writer.Conn(), f.writer
	if err != nil && caller.IsCrash(err) {
		n = len(f.batch.frames) // nobody knows how much was written
	}
	// The kernel says this only once. It is about an earlier datagram, and nothing was sent.
	unheard := err != nil && n == 0 && conn.Datagram() && sock.Refused(err)
	victims, r, why, parked := c.table.settle(f, n, err, unheard)
	if !parked {
		_ = w.Close() // has nothing to add to what Write returned
	}
	victims.fail(why)
	if unheard {
		c.refuse(conn, err)
	}
	if f.own != nil {
		c.scratches.Put(f.own)
		f.own = nil
	}
	if f.unwatch != nil {
		f.unwatch() // if it is too late for that, interrupt finds that the lease has ended
		f.unwatch = nil
	}
	if f.role, f.caller = r, nil; r.number == 0 {
		c.flushers.Put(f)
		return nil
	}
	return f
}

// abort is called when the transport has ended the goroutine that wrote. Nobody knows how much was
// written.
func (c *Client[Q, R]) abort(f *flusher[R]) {
	w := f.writer
	_ = w.Kill()
	if next := c.finish(f, len(f.batch.frames), errWriteExited); next != nil {
		c.goOn(next)
	}
}

// watch is called by the table's timer while something is being written. It hands the lead on where
// a Write lasts, and ends connections whose peers have stopped reading.
func (c *Client[Q, R]) watch() {
	w := c.table.watch(c.cfg.writeTimeout.Get())
	if w.role.number != 0 {
		f := c.flushers.Get().(*flusher[R])
		f.role = w.role
		c.goOn(f)
	}
	for _, conn := range w.overdue {
		conn.Kill()
	}
	for _, s := range w.stalled {
		unwatch := context.AfterFunc(s.caller, func() { interrupt(s.writer) })
		if !c.table.watched(s, unwatch) {
			unwatch()
		}
	}
}

// interrupt frees the caller in whose goroutine a Write is stalled, because its context has ended.
// The rest is written by another goroutine, within the same lease, so nothing is cut short.
func interrupt(w plex.Writer) {
	if err := w.SetWriteDeadline(longAgo); err != nil && !errors.Is(err, plex.ErrLeaseClosed) {
		_ = w.Kill() // a transport that refuses deadlines cannot be interrupted otherwise
	}
}

// interrupted reports whether the Write of f may have ended because of interrupt, and can go on.
func (f *flusher[R]) interrupted() bool {
	return f.caller != nil && f.caller.Err() != nil && f.writer.Err() == nil
}

// resume writes the rest of a batch whose Write was interrupted after n bytes.
func (c *Client[Q, R]) resume(f *flusher[R], n int) {
	returned := false
	defer func() {
		if !returned {
			c.abort(f)
		}
	}()
	_ = f.writer.SetWriteDeadline(time.Time{}) // if that fails, so does the Write
	k, err := f.writer.Write(f.batch.frames[n:])
	returned = true
	if next := c.finish(f, n+k, err); next != nil {
		c.flushAll(next)
	}
}

func isKill(err error) bool { return errors.Is(err, plex.ErrKilled) }
