package request

// Sending: a request is encoded, and written within one lease of a write half.

import (
	"context"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/caller"
)

const (
	// writePatience is how long a Write may take before the context is watched. Watching it from
	// the start would cost every request three allocations, and the lock of a context that many
	// callers may share.
	writePatience = time.Millisecond

	// keptBuffer is the size in bytes of the largest buffer that is kept for the next request.
	keptBuffer = 64 << 10
)

// sending is what a Do needs until its request is written. It is pooled, and belongs to one Do at a
// time.
type sending[R any] struct {
	either
	buffer     []byte      // what Append appends to
	frame      []byte      // what Append returned; not kept, because it may be the user's memory
	writer     plex.Writer // the lease, live or not
	call       *call[R]
	registered bool // the table counts the call among those on the writer's connection
	table      *table[R]

	timer       *time.Timer      // runs while a Write does
	armed       chan func() bool // holds one: what stops the watch that the timer began
	interrupted chan struct{}    // holds one: the interrupt is complete
}

func newSending[R any](client context.Context, t *table[R]) *sending[R] {
	return &sending[R]{
		either: either{client: client}, table: t,
		armed: make(chan func() bool, 1), interrupted: make(chan struct{}, 1),
	}
}

// appendError marks an error of the protocol's Append.
type appendError struct{ error }

// send encodes the request and writes it over a free connection. n is how much of it was written:
// all of it if err is nil. In any case somebody else may have ended the call; their reason counts
// then.
func (c *Client[Q, R]) send(ctx context.Context, call *call[R], request Q) (n int, err error) {
	s := c.sendings.Get().(*sending[R])
	s.user, s.call = ctx, call
	finished := false
	defer func() {
		if !finished {
			c.abort(call, s)
		}
	}()
	s.frame, err = c.protocol.Append(s.buffer[:0], call.id, request)
	switch {
	case err != nil:
		err = &appendError{err}
	case len(s.frame) == 0:
		err = &appendError{errEmpty}
	default:
		n, err = c.sendFrame(call, s)
	}
	finished = true
	s.finish()
	c.sendings.Put(s)
	return n, err
}

// abort is called instead of the rest of Do when Append or a transport has panicked or ended the
// goroutine. It removes every trace of the call. How much was written is unknown.
func (c *Client[Q, R]) abort(call *call[R], s *sending[R]) {
	_ = s.writer.Kill() // does nothing if there is no lease
	if _, ok := c.table.giveUp(call, s.registered, sendFailed); !ok {
		<-call.done
	}
	s.release()
}

// sendFrame leases a writer and writes the frame.
func (c *Client[Q, R]) sendFrame(call *call[R], s *sending[R]) (n int, err error) {
	if s.writer, err = c.mux.Writer(&s.either, c.cfg.acquireTimeout.Get()); err != nil {
		return 0, err
	}
	if s.registered = c.table.register(call, s.writer); s.registered {
		n, err = s.write()
	} else {
		err = ErrClosed // the only way that a call ends before it is sent
	}
	conn := s.writer.Conn()
	_ = s.writer.Close() // has nothing to add to what Write returned
	if err != nil && n == 0 && conn.Datagram() && refused(err) {
		// The kernel says this only once. It is about an earlier datagram, and nothing was sent.
		c.refuse(conn, err)
	}
	return n, err
}

// write is one Write, which is interrupted when the user's context ends. plex does not use a
// connection again on which a Write was cut short.
func (s *sending[R]) write() (n int, err error) {
	if s.user.Done() == nil {
		return s.writer.Write(s.frame)
	}
	if s.timer == nil {
		s.timer = time.AfterFunc(writePatience, s.watch)
	} else {
		s.timer.Reset(writePatience)
	}
	n, err = s.writeAndDisarm()
	// The context is asked when nothing can interrupt any more, so that the answer agrees with what
	// the table knows.
	if err != nil && s.user.Err() != nil {
		err = caller.ContextError(s.user) // the lease was closed because of it
	}
	return n, err
}

func (s *sending[R]) writeAndDisarm() (int, error) {
	defer s.disarm() // also if the transport panics
	return s.writer.Write(s.frame)
}

// disarm undoes what write has set up, so that it does not hit the next request.
func (s *sending[R]) disarm() {
	if s.timer.Stop() {
		return
	}
	if stop := <-s.armed; !stop() {
		<-s.interrupted
	}
}

// watch is called by the timer. From now on the end of the user's context interrupts the Write.
func (s *sending[R]) watch() { s.armed <- context.AfterFunc(s.user, s.interrupt) }

// interrupt closes the lease, which interrupts the Write if it still runs. If that cuts the Write
// short, the connection is lost. To this call, that is no loss but its own context's doing.
func (s *sending[R]) interrupt() {
	s.table.quit(s.call)
	_ = s.writer.Close() // sendFrame closes it again, which does nothing
	s.interrupted <- struct{}{}
}

// finish prepares s for the next request.
func (s *sending[R]) finish() {
	s.release()
	s.either = either{client: s.client}
	s.writer, s.call, s.registered = plex.Writer{}, nil, false
	if n := len(s.frame); n > cap(s.buffer) && n <= keptBuffer {
		s.buffer = make([]byte, 0, min(2*n, keptBuffer))
	}
	s.frame = nil
}
