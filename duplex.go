package plex

// Whole connections: both halves of one connection in one lease.

import (
	"context"
	"errors"
	"net"
	"time"

	"go.atomizer.io/plex/internal/caller"
)

// Duplex is a lease on a whole connection: for protocols in which a connection keeps a caller's
// state, or answers in order, and for code that wants a [net.Conn], such as net/textproto,
// net/smtp, bufio or a driver. It is a small value: copies are the same lease. The zero Duplex is a
// lease that has ended.
//
// All methods may be called from several goroutines. After Close, Kill or Detach a Duplex never
// reaches the connection again, though the connection may be someone else's by then: its methods
// return [ErrLeaseClosed]. So it may be given to code that closes a connection twice.
//
// What the peer sent and the consumer has not read when the lease ends goes to whoever reads next.
type Duplex struct {
	r, w     *half
	rid, wid word
}

var _ net.Conn = Duplex{}

// Duplex leases a whole connection. Callers are served first come, first served, together with
// those of [Multiplexer.Writer]. A connection whose read half is idle is preferred. If there is
// none, the caller keeps the write half that it got, and waits until the connection's reader closes
// its lease and nobody expects anything of the connection (see [Conn.Pin]). ctx, timeout and the
// errors are as in [Multiplexer.Writer].
//
// A Duplex goes with Reader and with ReadyReader.
func (m *Multiplexer) Duplex(ctx context.Context, timeout time.Duration) (d Duplex, err error) {
	if ctx == nil {
		return Duplex{}, errNilContext("Duplex")
	}
	if m.news.tracks {
		began := m.news.begun()
		defer func() {
			if err == nil {
				d.r.remember(d.rid, "")
			}
			m.news.acquired(ctx, duplexName, began, d.w, d.wid, err)
		}()
	}
	var start time.Time
	if timeout > 0 {
		start = time.Now()
	}
	w, wid, err := m.acquire(ctx, timeout, &m.writers)
	if err != nil {
		return Duplex{}, asDuplex(err)
	}
	rid, ok := w.conn.wholeNow()
	if !ok {
		if start.IsZero() {
			start = time.Now()
		}
		if w, wid, rid, err = (&pairing{m, ctx, timeout, start}).of(w, wid); err != nil {
			return Duplex{}, err
		}
	}
	return Duplex{&w.conn.r, w, rid, wid}, nil
}

// asDuplex has an error of an acquire tell of a whole connection.
func asDuplex(err error) error {
	var failed *AcquireError
	if errors.As(err, &failed) {
		failed.Half = duplexName
	}
	return err
}

// duplexName is what a caller of Duplex asks for.
const duplexName = "whole connection"

// pairing is the rest of a call of Duplex whose write half has a read half that is not to be had
// now.
type pairing struct {
	m       *Multiplexer
	ctx     context.Context
	timeout time.Duration
	start   time.Time
}

// of returns the leased halves of one connection, of that of w or of another.
func (p *pairing) of(w *half, wid word) (*half, word, word, error) {
	for {
		if p.othersMayBeIdle(w.conn) {
			if other, otherID, rid, ok := p.idle(); ok {
				_ = w.close(wid)
				return other, otherID, rid, nil
			}
		}
		rid, err := w.conn.r.leaseNamed(p.ctx, p.left(), true)
		if err == nil && w.conn.inStep(rid) {
			return w, wid, rid, nil
		}
		_ = w.close(wid)
		if err != nil && p.ctx.Err() != nil { // which is why, even if the connection has ended by now
			err = caller.ContextError(p.ctx)
		}
		if err != nil && (p.ctx.Err() != nil || errors.Is(err, ErrTimeout)) {
			return nil, 0, 0, w.notLeased(duplexName, p.timeout, time.Since(p.start), err)
		}
		// The connection has ended, so another is asked for.
		if w, wid, err = p.m.acquire(p.ctx, p.left(), &p.m.writers); err != nil {
			return nil, 0, 0, asDuplex(err)
		}
		if rid, ok := w.conn.wholeNow(); ok {
			return w, wid, rid, nil
		}
	}
}

// left is what is left of the caller's timeout; negative if nothing is, and 0 if there is none.
func (p *pairing) left() time.Duration {
	if p.timeout <= 0 {
		return p.timeout
	}
	if left := p.timeout - time.Since(p.start); left > 0 {
		return left
	}
	return -1
}

// othersMayBeIdle reports whether it is worth while to look for another connection than c, of which
// the read half is not idle. It is not if plex reads there and stops as soon as somebody comes, nor
// if no read half is idle, which is known where all that are idle are listed.
func (p *pairing) othersMayBeIdle(c *conn) bool {
	if c.isFree() && c.r.comesWhenAsked() {
		return false
	}
	return p.m.reading.Load() != readsAny || p.m.readers.listed() > 0
}

// idle leases a connection of which both halves are idle, if there is one. It looks at each idle
// write half once, and what it cannot use goes to the end of the queue.
func (p *pairing) idle() (w *half, wid, rid word, ok bool) {
	type lease struct {
		h  *half
		id word
	}
	var unfit []lease
	for range p.m.writers.listed() {
		h, id, err := p.m.tryTake(&p.m.writers)
		if h == nil || err != nil {
			break
		}
		if rid, ok = h.conn.wholeNow(); ok {
			w, wid = h, id
			break
		}
		unfit = append(unfit, lease{h, id})
	}
	for _, l := range unfit {
		_ = l.h.close(l.id)
	}
	return w, wid, rid, ok
}

// notLeased makes the diagnosis for a lease by name that could not be had.
func (h *half) notLeased(name string, timeout, waited time.Duration, why error) error {
	q := h.queue
	switch {
	case errors.Is(why, ErrProbe): // which may have ended with a context of its own
	case errors.Is(why, ErrTimeout) && timeout < 0: // who would not wait has not been let down
	case errors.Is(why, ErrTimeout):
		q.timedOut.Add(1)
	case errors.Is(why, context.Canceled), errors.Is(why, context.DeadlineExceeded):
		q.canceled.Add(1)
	}
	err := h.conn.m.acquireFailed(q, waited, why)
	err.Half = name
	return err
}

// Writer leases the write half of just this connection, ahead of the callers of
// [Multiplexer.Writer]: for heartbeats, for cancels, and for replies that must go where the
// question came from. ctx and timeout are as there. If the connection has ended, or is retired, the
// error gives its cause.
func (c Conn) Writer(ctx context.Context, timeout time.Duration) (w Writer, err error) {
	switch {
	case ctx == nil:
		return Writer{}, errNilContext("Conn.Writer")
	case c.c == nil:
		return Writer{}, ErrLeaseClosed
	}
	h, n := &c.c.w, &c.c.m.news
	if n.tracks {
		began := n.begun()
		defer func() { n.acquired(ctx, thisWriter, began, w.h, w.id, err) }()
	}
	if ctx.Err() != nil {
		return Writer{}, h.notLeased(thisWriter, timeout, 0, caller.ContextError(ctx))
	}
	start := time.Now()
	id, err := h.leaseNamed(ctx, timeout, false)
	if err != nil {
		return Writer{}, h.notLeased(thisWriter, timeout, time.Since(start), err)
	}
	return Writer{h, id}, nil
}

// thisWriter is what a caller of Conn.Writer asks for.
const thisWriter = "writer of this connection"

func (d Duplex) reader() Reader { return Reader{d.r, d.rid} }
func (d Duplex) writer() Writer { return Writer{d.w, d.wid} }

// Read reads from the connection, see [Reader.Read].
func (d Duplex) Read(p []byte) (int, error) { return d.reader().Read(p) }

// Write writes to the connection, see [Writer.Write].
func (d Duplex) Write(p []byte) (int, error) { return d.writer().Write(p) }

// SetDeadline sets both deadlines, see [Reader.SetReadDeadline] and [Writer.SetWriteDeadline].
func (d Duplex) SetDeadline(t time.Time) error {
	if err := d.SetReadDeadline(t); err != nil {
		return err
	}
	return d.SetWriteDeadline(t)
}

// SetReadDeadline sets the deadline of this lease's Reads, see [Reader.SetReadDeadline].
func (d Duplex) SetReadDeadline(t time.Time) error { return d.reader().SetReadDeadline(t) }

// SetWriteDeadline sets the deadline of this lease's Writes, see [Writer.SetWriteDeadline].
func (d Duplex) SetWriteDeadline(t time.Time) error { return d.writer().SetWriteDeadline(t) }

// LocalAddr returns the local address of the connection, also after the lease has ended; nil for
// the zero Duplex.
func (d Duplex) LocalAddr() net.Addr { return d.w.localAddr() }

// RemoteAddr returns the remote address of the connection, also after the lease has ended; nil for
// the zero Duplex.
func (d Duplex) RemoteAddr() net.Addr { return d.w.remoteAddr() }

// Conn returns the name of the connection, also after the lease has ended.
func (d Duplex) Conn() Conn { return d.w.name() }

// Err says why the connection has failed, nil while all is well. It may also be asked after Close.
func (d Duplex) Err() error {
	if d.w == nil {
		return ErrLeaseClosed
	}
	return d.reader().Err() // both halves report the same cause
}

// Close ends the lease and puts the connection back for the next. It may be called at any moment:
// it interrupts this lease's blocked Read and Write and waits until they are out. A second Close
// does nothing but return [ErrLeaseClosed].
func (d Duplex) Close() (err error) {
	if d.w == nil {
		return ErrLeaseClosed
	}
	if d.w.word().is(leaseTorn | leaseBusy) { // a write that is cut short is the end of the connection, also for a reader
		err := d.w.close(d.wid)
		return errors.Join(err, d.r.close(d.rid))
	}
	// The read half first, so that the next caller finds it idle.
	end := d.r.closeNamed
	if d.r.queue.attended {
		end = d.r.closeWhole
	}
	defer func() { err = errors.Join(d.w.close(d.wid), err) }() // also if the transport ends the goroutine
	return end(d.rid)
}

// Kill ends the lease and the connection with it. The connection is closed and counts as lost.
// After the lease's end Kill does nothing but return [ErrLeaseClosed].
func (d Duplex) Kill() error {
	if d.w == nil {
		return ErrLeaseClosed
	}
	defer func() { _ = d.r.kill(d.rid) }() // also if the transport ends the goroutine
	return d.w.kill(d.wid)
}
