package request

// Aside: what must go over just one connection, beside the batches that go over any. A goroutine for
// each connection that has such frames leases the writer by name, and writes them.

import (
	"context"

	"go.atomizer.io/plex"
)

// Canceler is an optional part of a Protocol, for servers that can be told that nobody wants the
// reply to a request any more: Abandon in LDAP, CANCEL, RST_STREAM.
type Canceler[Q any] interface {
	// AppendCancel appends to dst the whole frame of what cancels a request, and returns the extended
	// slice. It is called when a request that may have been sent is given up: by its context, or
	// because the loop over its [Client.Stream] was left or was too slow. id and request are what
	// Append got. If AppendCancel returns an error or an empty frame, nothing is sent.
	//
	// The frame is sent over the connection that the request was sent over, behind it. That is best
	// effort: Do does not wait for it, and it is dropped if the connection ends first, or if more
	// than 64 KiB of such frames wait for one connection. The server may answer the request all the
	// same.
	//
	// If the server then answers nothing any more, nobody can tell when the identifier is free. If
	// there are more than 1<<16 identifiers, it may be used again after a minute. If there are fewer,
	// it stays reserved until its connection has ended, as that of any request given up; see
	// [WithIDs].
	AppendCancel(dst []byte, id uint64, request Q) ([]byte, error)
}

// mostAside is how many bytes of frames wait for one connection at most.
const mostAside = 64 << 10

// aside is what is to be written over just one connection. The table's mutex guards it.
type aside[R any] struct {
	cancels []cancel[R] // to be written
	bytes   int         // of those
	written []cancel[R] // what is being written
	busy    bool        // a goroutine writes them
	stop    func()      // ends its wait for the writer; nil while it does not wait
}

// cancel cancels a request.
type cancel[R any] struct {
	frame []byte
	call  *call[R] // whose identifier the table keeps; nil if it keeps none
}

// cancelRequest has it sent that a request has been given up, if the protocol says how.
func (c *Client[Q, R]) cancelRequest(g givenUp[R], id uint64, request Q) {
	var frame []byte
	defer func() { // also if AppendCancel panics
		if c.table.cancelLater(g, frame) {
			go c.writeAside(g.on)
		}
	}()
	if f, err := c.appendCancel(nil, id, request); err == nil {
		frame = f
	}
}

// cancelLater adds a frame to those that are to be written over a connection. If it returns true,
// the caller starts the goroutine that writes them.
func (t *table[R]) cancelLater(g givenUp[R], frame []byte) (start bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := g.on
	a := &l.aside
	if len(frame) == 0 || t.links[l.conn] != l || len(a.cancels) > 0 && a.bytes+len(frame) > mostAside {
		t.settleCancelLocked(g.kept, false)
		return false
	}
	a.cancels = append(a.cancels, cancel[R]{frame, g.kept})
	a.bytes += len(frame)
	if start = !a.busy; start {
		a.busy = true
		t.wg.Add(1)
	}
	return start
}

// writeAside writes what is to be written over just one connection, until there is nothing left.
func (c *Client[Q, R]) writeAside(l *link[R]) {
	defer c.table.wg.Done()
	for {
		w, ok := c.leaseAside(l)
		if !ok {
			return
		}
		f := c.flushers.Get().(*flusher[R])
		f.role, f.writer, f.caller = role{}, w, nil
		if b := c.table.takeCancels(f, l); b != nil {
			c.write(f, b) // keeps f, which never leads
		} else {
			_ = w.Close() // nothing was written
			c.flushers.Put(f)
		}
	}
}

// leaseAside leases the writer of a connection that has something to be written over just it. If
// there is nothing any more, ok is false, and the goroutine must end.
func (c *Client[Q, R]) leaseAside(l *link[R]) (w plex.Writer, ok bool) {
	for {
		ctx, stop := context.WithCancel(c.ctx)
		w, how := c.table.awaitAside(l, stop)
		var err error
		if how == asideWaits {
			w, err = l.conn.Writer(ctx, 0)
		}
		stopped := ctx.Err() != nil
		stop()
		switch {
		case how == asideEnds:
			return w, false
		case err == nil:
			return w, true
		case !stopped || c.ctx.Err() != nil: // the connection or the client has ended
			c.table.dropAside(l)
			return w, false
		}
	}
}

// What awaitAside has found.
const (
	asideEnds  = iota // there is nothing to be written
	asideHas          // the writer
	asideWaits        // for the writer
)

// awaitAside says how to get the writer of a connection. stop ends the wait for it, if the client
// parks the connection meanwhile: then it has the writer already.
func (t *table[R]) awaitAside(l *link[R], stop func()) (w plex.Writer, how int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := &l.aside
	a.stop = nil
	switch {
	case len(a.cancels) == 0 || t.links[l.conn] != l:
		t.dropAsideLocked(l)
		return w, asideEnds
	case l.parked:
		l.parked = false
		return l.writer, asideHas
	}
	a.stop = stop
	return w, asideWaits
}

// dropAside gives up what is to be written over just one connection.
func (t *table[R]) dropAside(l *link[R]) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dropAsideLocked(l)
}

func (t *table[R]) dropAsideLocked(l *link[R]) {
	for _, c := range l.aside.cancels {
		t.settleCancelLocked(c.call, false)
	}
	l.aside = aside[R]{written: l.aside.written}
}

// takeCancels makes one batch of the frames that cancel requests. It returns nil if there is none
// any more. A datagram has one frame.
func (t *table[R]) takeCancels(f *flusher[R], l *link[R]) *batch[R] {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := &l.aside
	a.stop = nil
	n := len(a.cancels)
	switch {
	case n == 0, t.links[l.conn] != l:
		return nil
	case l.datagram:
		n = 1
	}
	b := t.batchLocked()
	b.frames = t.bufferLocked()
	a.written = append(a.written[:0], a.cancels[:n]...)
	for _, c := range a.written {
		b.frames = append(b.frames, c.frame...)
	}
	a.bytes -= len(b.frames)
	a.cancels = append(a.cancels[:0], a.cancels[n:]...)
	clear(a.cancels[len(a.cancels):cap(a.cancels)])
	t.beginLocked(f, l, b, 0)
	return b
}

// canceledLocked is called when a batch without requests has been written.
func (t *table[R]) canceledLocked(l *link[R], err error) {
	if err == nil {
		t.stats.Cancels += uint64(len(l.aside.written))
	}
	for _, c := range l.aside.written {
		t.settleCancelLocked(c.call, err == nil)
	}
	clear(l.aside.written)
	l.aside.written = l.aside.written[:0]
}

// settleCancelLocked is called when what cancels a request has been written, or never will be. call
// is what the table keeps of the request; nil if it keeps nothing.
func (t *table[R]) settleCancelLocked(c *call[R], written bool) {
	if c == nil {
		return
	}
	c.cancels = false
	if t.calls[c.id] != c { // its connection has ended
		return
	}
	switch l := c.on(); {
	case c.answered:
		t.removeLocked(c)
	case !written || t.ids.small():
		return // its identifier stays reserved as that of any request given up
	default:
		l.owes = true
		t.detachLocked(c)
		if t.ids.few() {
			t.quarantine.addLocked(t, c.id)
		} else {
			t.freeLocked(c.id)
		}
	}
	t.turnsLocked()
}
