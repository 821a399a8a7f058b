package plex

// Traces: what is called around leases, in the goroutine of whoever acquires or closes.

import (
	"context"
	"time"

	"go.atomizer.io/plex/internal/caller"
)

// Trace has functions that are called around leases, as those of package httptrace are around a
// request; see [WithTrace]. Each may be nil, and a multiplexer without a trace pays nothing. They are
// called in the goroutine of whoever acquires or closes, under no lock, and hold that up for as long
// as they take. One that panics costs its own call; the panic is logged.
type Trace struct {
	// Waiting is called when a caller has found nothing idle and begins to wait. ctx is the caller's,
	// and half is what it asks for: "reader", "ready reader" or "writer".
	Waiting func(ctx context.Context, half string)

	// Acquired is called when a caller has got a lease, or an error.
	Acquired func(ctx context.Context, a Acquired)

	// Released is called when a lease has ended, by Close or by Kill.
	Released func(r Released)
}

// Acquired is what a [Trace] is told of an acquire that has ended.
type Acquired struct {
	Half   string // what was asked for: also "whole connection" and "writer of this connection"
	Conn   Conn   // the connection; zero after an error
	Waited time.Duration
	Err    error // nil for a lease
}

// Released is what a [Trace] is told of a lease that has ended.
type Released struct {
	Half   string // as in Acquired; of a whole connection it is told once
	Conn   Conn
	Held   time.Duration
	Killed bool
}

// watches reports whether a trace has any function.
func (t Trace) watches() bool { return t.Waiting != nil || t.Acquired != nil || t.Released != nil }

// begun is when a lease was asked for, if anybody wants to know.
func (n *news) begun() (t time.Time) {
	if n.tracks {
		t = time.Now()
	}
	return t
}

// acquired tells what has come of an acquire, and has the lease remembered. A caller without a ctx
// has not asked for anything.
func (n *news) acquired(ctx context.Context, half string, began time.Time, h *half, id word, err error) {
	if ctx == nil {
		return
	}
	if err == nil {
		h.remember(id, half)
	}
	f := n.trace.Acquired
	if f == nil {
		return
	}
	a := Acquired{Half: half, Waited: time.Since(began), Err: err}
	if err == nil {
		a.Conn = Conn{h.conn}
	}
	n.traced("Acquired", func() { f(ctx, a) })
}

// waiting tells that a caller waits.
func (n *news) waiting(ctx context.Context, q *queue) {
	if f := n.trace.Waiting; f != nil {
		n.traced("Waiting", func() { f(ctx, q.name()) })
	}
}

// releasing returns what is told when the lease has ended, nil if nobody wants to know. The lease is
// ending, so it is still the half's own.
func (h *half) releasing(id word) (tell func()) {
	n := &h.conn.m.news
	f := n.trace.Released
	if f == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	o := h.origin
	if o == nil || o.lease != id || o.half == "" {
		return nil
	}
	r := Released{Half: o.half, Conn: Conn{h.conn}, Held: time.Since(o.at), Killed: h.killed}
	return func() { n.traced("Released", func() { f(r) }) }
}

// traced calls a function of the trace.
func (n *news) traced(which string, f func()) {
	if err := caller.Guard("the trace's "+which, func() error { f(); return nil }); err != nil {
		n.warn("plex: a callback failed", "cause", err)
	}
}
