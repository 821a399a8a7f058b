package request

// Streams: requests that are answered by several messages.

import (
	"context"
	"errors"
	"iter"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/caller"
)

// PartParser is an optional part of a Protocol in which several messages can answer one request, as
// in a search of LDAP. See [Client.Stream].
type PartParser[R any] interface {
	// ParsePart is called instead of Parse, for each message. last says that no other message
	// answers the same request; for a request with one reply it is true. Everything else is as in
	// [Protocol.Parse].
	ParsePart(message []byte) (id uint64, part R, last bool, err error)
}

// ErrSlow is why a stream failed whose loop did not take the parts as fast as they came; see
// [WithStreamBuffer].
var ErrSlow = errors.New("request: the loop over the stream is too slow: the parts that it has not taken exceed WithStreamBuffer")

// ErrParts is why a request failed that was made with Do, but is answered by several messages.
var ErrParts = errors.New("request: several messages answer the request; use Stream instead of Do")

var (
	errNoParts = errors.New("request: Stream: the protocol has no method ParsePart; use Do")
	errLeft    = errors.New("request: the loop over the stream was left")
)

// partCost is what a part counts beside its message, so that many small ones are bounded, too.
const partCost = 64

// Stream makes a request and returns a loop over the messages that answer it, the last one
// included. The protocol must have a method ParsePart, see [PartParser]. The request is made when
// the loop begins, and again with each loop.
//
//	for part, err := range client.Stream(ctx, request) {
//		if err != nil {
//			return err
//		}
//		…
//	}
//
// After the last message, or after an error, which is an [*Error], the loop ends. What came before
// a connection was lost is delivered before the error. ctx bounds all of the loop. To leave the
// loop early is to give the request up: if the protocol can cancel a request, it is cancelled, see
// [Canceler]. Messages that come after that are dropped and counted as Late. The identifier is not
// used again before the last of them, as described at [WithIDs].
//
// Other requests share the connection, and the loop may make requests itself. So the connection
// is read on, whatever the loop does, and the messages that it has not taken yet are kept. If they
// exceed the bound of [WithStreamBuffer], the loop gets those, and then [ErrSlow]; the request is
// cancelled at once. To make the server wait instead, ask it for a page at a time, if the protocol
// has pages, cursors or credits.
func (c *Client[Q, R]) Stream(ctx context.Context, request Q) iter.Seq2[R, error] {
	return func(yield func(R, error) bool) {
		var none R
		if c.parsePart == nil {
			yield(none, &Error{Err: errNoParts})
			return
		}
		if err := c.refuseContext(ctx); err != nil {
			yield(none, err)
			return
		}
		call := c.calls.Get().(*call[R])
		s := &stream[R]{news: make(chan struct{}, 1)}
		call.stream = s
		if c.appendCancel != nil {
			s.cancel = func() {
				// The loop may never come back, so this is another goroutine.
				if err := guard("AppendCancel", func() { c.cancelRequest(s.gone, s.id, request) }, func() {}); err != nil {
					c.table.panicked(err)
				}
			}
		}
		if ended, err := c.turn(ctx, call); err != nil {
			yield(none, err)
			return
		} else if ended {
			yield(c.result(call, loss))
			return
		}
		s.id = call.id
		if err := c.send(ctx, call, request); err != nil {
			why := notEncoded
			if ctx.Err() != nil {
				why = canceled
			}
			if failed := c.giveUp(ctx, call, why, err); failed != nil {
				yield(none, failed)
				return
			}
			// The client was closed meanwhile.
		}
		l := &loop[Q, R]{c: c, ctx: ctx, request: &request, call: call, stream: s, how: several}
		l.run(yield)
	}
}

// stream takes the parts that answer a request.
type stream[R any] struct {
	id     uint64
	news   chan struct{} // holds one: something below has changed
	cancel func()        // nil if the protocol cannot cancel

	// Guarded by the table's mutex.
	parts []R
	bytes int        // of their messages, and of those that the loop has taken last
	taken int        // of the latter
	slow  bool       // it was too slow, and its call has been given up
	gone  givenUp[R] // then
}

// partOfLocked handles a part that is not the last.
func (t *table[R]) partOfLocked(a *answer[R], freed []plex.Writer) []plex.Writer {
	c := t.calls[a.id]
	switch {
	case c == nil:
		t.strayLocked(a.id)
	case c.state == abandoned && c.ping:
	case c.state == abandoned, c.state == resting:
		t.stats.Late++
	case c.state != flying || c.on() == nil:
		t.stats.Unknown++
	case c.stream == nil:
		t.stats.Parts++
		if !c.several {
			c.several = true
			c.done <- several
		}
	default:
		t.stats.Parts++
		s := c.stream
		size := int(a.size) + partCost
		if s.bytes > 0 && s.bytes+size > t.buffer {
			s.gone = t.giveUpLocked(c, failed)
			s.slow, c.slow = true, true
			c.done <- several
			freed = append(freed, s.gone.freed...)
			if s.cancel != nil {
				t.wg.Go(s.cancel)
			}
		} else {
			s.parts = append(s.parts, a.reply)
			s.bytes += size
		}
		select {
		case s.news <- struct{}{}:
		default:
		}
	}
	return freed
}

// takeParts returns the parts that have come since the last time, for which the caller gives the memory
// of those. slow says that no others will, because the call has been given up.
func (t *table[R]) takeParts(s *stream[R], parts []R) (_ []R, slow bool) {
	clear(parts)
	t.mu.Lock()
	defer t.mu.Unlock()
	s.bytes -= s.taken
	s.taken = s.bytes
	parts, s.parts = s.parts, parts[:0]
	return parts, s.slow
}

// loop is one loop over a stream.
type loop[Q, R any] struct {
	c       *Client[Q, R]
	ctx     context.Context
	request *Q
	call    *call[R]
	stream  *stream[R]
	how     signal // how the call has ended; several if it has not, or has been given up
	over    bool   // nothing is to be given up any more
}

func (l *loop[Q, R]) run(yield func(R, error) bool) {
	defer func() {
		if !l.over { // the loop was left, or its body has panicked
			_ = l.leave(errLeft)
		}
	}()
	var none R
	var parts []R
	for {
		var slow bool
		parts, slow = l.c.table.takeParts(l.stream, parts)
		for _, part := range parts {
			if !l.over && l.ctx.Err() != nil {
				if err := l.leave(caller.ContextError(l.ctx)); err != nil {
					yield(none, err)
					return
				}
			}
			if !yield(part, nil) {
				return
			}
		}
		switch {
		case len(parts) > 0:
			continue
		case slow:
			l.over = true
			yield(none, l.stream.gone.failure(ErrSlow))
			return
		case l.how != several:
			yield(l.c.result(l.call, l.how))
			return
		}
		select {
		case <-l.stream.news:
		case l.how = <-l.call.done:
			l.over = true
		case <-l.ctx.Done():
			if err := l.leave(caller.ContextError(l.ctx)); err != nil {
				yield(none, err)
				return
			}
		}
	}
}

// leave gives the request up, and returns the error for it. If the request has ended at the same
// moment, leave returns nil, and l.how says how.
func (l *loop[Q, R]) leave(why error) error {
	l.over = true
	err := l.c.abandon(l.ctx, l.call, l.request, canceled, why)
	if err == nil {
		l.how = <-l.call.done
	}
	return err
}
