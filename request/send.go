package request

// Sending: a request is encoded, and written within one lease of a write half.

import (
	"context"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/caller"
)

const (
	// writePatience is how long a Write may take before it is worth watching the context. To watch it from the start
	// would cost every request three allocations, and the lock of a context that many callers share.
	writePatience = time.Millisecond

	// keptBuffer is the largest buffer that is kept for the next request, in bytes.
	keptBuffer = 64 << 10
)

// sending is what one Do needs until its request is written. It is pooled, and belongs to one Do at a time.
type sending[R any] struct {
	either
	frame      []byte
	writer     plex.Writer // the lease, over or not
	call       *call[R]
	registered bool // the call is in the account of the writer's connection
	table      *table[R]

	timer       *time.Timer      // runs while a Write does
	armed       chan func() bool // holds one: what stops that which the timer has started
	interrupted chan struct{}    // holds one: that has been done
}

func newSending[R any](client context.Context, t *table[R]) *sending[R] {
	return &sending[R]{
		either: either{client: client}, table: t,
		armed: make(chan func() bool, 1), interrupted: make(chan struct{}, 1),
	}
}

// send encodes the request and writes it over a free connection. n is how much of it was written; if err is nil, all of
// it. Others may have ended the call in any case, and then know better.
func (c *Client[Q, R]) send(ctx context.Context, call *call[R], request Q) (n int, err error) {
	s := c.sendings.Get().(*sending[R])
	s.user, s.call = ctx, call
	finished := false
	defer func() {
		if !finished {
			c.abort(call, s)
		}
	}()
	s.frame, err = c.protocol.Append(s.frame[:0], call.id, request)
	switch {
	case err != nil:
	case len(s.frame) == 0:
		err = errEmpty
	default:
		n, err = c.sendFrame(call, s)
	}
	finished = true
	s.finish()
	c.sendings.Put(s)
	return n, err
}

// abort is called instead of the rest of Do when Append or a transport has panicked, or has ended the goroutine.
// Nothing of the call stays behind. Of what was written nothing is known.
func (c *Client[Q, R]) abort(call *call[R], s *sending[R]) {
	_ = s.writer.Kill() // it does nothing if there is no lease
	if _, ok := c.table.giveUp(call, s.registered, false, false); !ok {
		<-call.done
	}
	s.release()
}

// sendFrame leases a writer and writes the frame.
func (c *Client[Q, R]) sendFrame(call *call[R], s *sending[R]) (n int, err error) {
	if s.writer, err = c.mux.Writer(&s.either, c.cfg.acquireTimeout.value); err != nil {
		return 0, err
	}
	if s.registered = c.table.register(call, s.writer); s.registered {
		n, err = s.write()
	} else {
		err = ErrClosed // which is how a call ends before it is sent
	}
	_ = s.writer.Close() // it has no more to say than Write
	return n, err
}

// write is one Write, which the end of the user's context interrupts. plex sees to it that a connection on which it was
// cut short is not used again.
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
	// Asked when nothing interrupts any more, so that this and what the table has been told are the same.
	if err != nil && s.user.Err() != nil {
		err = caller.ContextError(s.user) // rather than that the lease has ended, which is how it comes about
	}
	return n, err
}

func (s *sending[R]) writeAndDisarm() (int, error) {
	defer s.disarm() // also if the transport panics
	return s.writer.Write(s.frame)
}

// disarm undoes what write has set up, so that it does not come upon the next request.
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

// interrupt ends the lease, and the Write with it if that still runs. If that cuts the Write short, it ends the
// connection as well; to this call, that is no loss but its own doing.
func (s *sending[R]) interrupt() {
	s.table.quit(s.call)
	_ = s.writer.Close() // sendFrame's comes too late then
	s.interrupted <- struct{}{}
}

// finish makes s fit for the next.
func (s *sending[R]) finish() {
	s.release()
	s.either = either{client: s.client}
	s.writer, s.call, s.registered = plex.Writer{}, nil, false
	if cap(s.frame) > keptBuffer {
		s.frame = nil
	}
}

// either is a context that ends with the user's or with the client's. It costs nothing until somebody asks for Done,
// which plex does when it has to wait. It is used by one goroutine.
type either struct {
	user   context.Context
	client context.Context
	merged context.Context // nil until asked for
	cancel context.CancelFunc
	stop   func() bool
}

// Deadline is the user's.
func (e *either) Deadline() (time.Time, bool) { return e.user.Deadline() }

// Value is the user's.
func (e *either) Value(key any) any { return e.user.Value(key) }

// Err is the user's, or the client's if only that has ended.
func (e *either) Err() error {
	if err := e.user.Err(); err != nil {
		return err
	}
	return e.client.Err()
}

// Done is closed when one of the two ends.
func (e *either) Done() <-chan struct{} {
	if e.user.Done() == nil {
		return e.client.Done()
	}
	if e.merged == nil {
		e.merged, e.cancel = context.WithCancel(e.user)
		e.stop = context.AfterFunc(e.client, e.cancel)
	}
	return e.merged.Done()
}

func (e *either) release() {
	if e.merged != nil {
		e.stop()
		e.cancel()
	}
}
