package request

// Ordered replies: protocols without identifiers, whose replies come in the order of the requests.
//
// A connection's list of calls has the order of the bytes on the wire, because take hangs a batch in
// under the same hold of the mutex in which the connection gets it, and within the lease that then
// writes it. So the calls that the next replies are for are the first of that list. A call that is
// given up stays in the list until its reply has come or the connection has ended. Whoever holds the
// connection's read half is the only one to take calls out at the front.

import (
	"bufio"
	"errors"
	"fmt"
	"slices"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/caller"
	"go.atomizer.io/plex/message"
)

// Ordered defines what requests of type Q and replies of type R look like on the wire, in a protocol
// without identifiers whose replies come in the order of the requests: RESP, memcached's text, SMTP,
// HTTP/1.1. Many goroutines call its methods at once. See also [Quiet] and [Splitter].
type Ordered[Q, R any] interface {
	// Append appends to dst the whole frame of a request, as [Protocol.Append] does.
	Append(dst []byte, request Q) ([]byte, error)

	// Split is as in Protocol.
	Split(data []byte, atEOF bool) (advance int, token []byte, err error)

	// Parse takes a message apart. request is the oldest request on its connection that has no reply
	// yet; the zero Q if every request has. Parse owns the message, so the reply may refer to its
	// bytes.
	//
	// ErrNotReply says that the message answers no request: it is a push, and goes to the function of
	// WithUnsolicited. The next message is parsed with the same request. Any other error says that
	// the connection is out of step, as does a panic; see [Protocol.Parse]. An error that the server
	// reports for one request is a reply; make it part of R. Parse must not block.
	//
	// If the request's context has ended, Parse is called after Do has returned. So it must not rely
	// on memory that request refers to and that the caller of Do uses again.
	Parse(message []byte, request Q) (R, error)
}

// Quiet is an optional part of an Ordered protocol, for requests that the server does not answer.
type Quiet[Q any] interface {
	// Replies returns how many replies the server sends for a request: 1, or 0 for none. Any other
	// number is an error, which Do returns without sending anything. For 0, Do returns the zero R
	// when the request has been written. Do calls Replies in the goroutine of its caller.
	Replies(request Q) int
}

// Splitter is an optional part of a protocol, for messages that cannot be found without keeping
// state.
type Splitter interface {
	// SplitFor is called once for each connection. It returns the split function for that connection,
	// which is used instead of the protocol's Split. See [message.NewFor].
	SplitFor() bufio.SplitFunc
}

// NewOrdered makes a client for a protocol whose replies come in the order of the requests. The
// order is kept for each connection, so a few connections carry many requests at once, as with
// [New]. What the client promises, and what it writes together, is the same, and:
//
//   - A reply goes to the request that it answers or to nobody. A request that its context has ended
//     keeps its place: its reply is read, dropped and counted as Late.
//   - A reply that no request waits for, and an error of Parse, cost the connection. The requests on
//     it fail; see [ErrOutOfStep].
//   - At most as many requests as [WithDepth] says are unanswered on one connection.
//
// Nothing else may write to the connections of m: a reply to what others have asked would be taken
// for a reply to a request of the client. Requests over datagrams fail, because datagrams keep no
// order.
func NewOrdered[Q, R any](m *plex.Multiplexer, p Ordered[Q, R], options ...Option) (*Client[Q, R], error) {
	const call = "NewOrdered"
	cfg, err := configure(call, options)
	if err := refuse(call, m == nil, caller.IsNil(p), err); err != nil {
		return nil, err
	}
	ping, err := pinger[Q](call, p, cfg)
	if err != nil {
		return nil, err
	}
	messages, splitOf, err := receive(m, p, p.Split, cfg)
	if err != nil {
		return nil, fmt.Errorf("request: %s: %w", call, err)
	}
	c := newClient[Q, R](m, cfg, messages)
	c.appendOne = func(dst []byte, _ uint64, request Q) ([]byte, error) { return p.Append(dst, request) }
	c.parseOrdered, c.splitOf, c.pingRequest = p.Parse, splitOf, ping
	if q, ok := p.(Quiet[Q]); ok {
		c.replies = q.Replies
	}
	c.start()
	return c, nil
}

// ErrOutOfStep is why a connection was killed that has brought a reply for which no request waits.
// From there on nobody can tell which reply is whose. It is [plex.ErrOutOfStep].
var ErrOutOfStep = plex.ErrOutOfStep

// errDatagrams is what requests fail with if they would go over datagrams.
var errDatagrams = errors.New("request: the replies come in the order of the requests, which datagrams do not keep; " +
	"use a stream, or a protocol with identifiers and New")

// prepare notes what is needed to take the reply to a request.
func (c *Client[Q, R]) prepare(call *call[R], request Q, quiet bool) {
	kept, ok := call.request.(*Q) // which a call keeps, so that it is allocated once
	if !ok {
		kept = new(Q)
		call.request = kept
	}
	*kept, call.quiet = request, quiet
}

// put keeps a call for the next request.
func (c *Client[Q, R]) put(call *call[R]) {
	if kept, ok := call.request.(*Q); ok {
		var none Q
		*kept = none
	}
	if call.several {
		select {
		case <-call.done: // that there are several, which nobody has received
		default:
		}
		call.several = false
	}
	call.stream = nil
	c.calls.Put(call)
}

// isQuiet asks the protocol whether a request has no reply.
func (c *Client[Q, R]) isQuiet(request Q) (bool, error) {
	if c.replies == nil {
		return false, nil
	}
	n := c.replies(request)
	if n == 0 || n == 1 {
		return n == 0, nil
	}
	return false, fmt.Errorf("request: Replies returned %d; a request has 1 reply, or 0 if there is none", n)
}

// endQuietLocked ends the calls of a batch that nobody answers, when it has been written.
func (t *table[R]) endQuietLocked(b *batch[R]) {
	for c := b.on.calls.tail; c != nil && c.in == b; {
		before := c.prev
		if c.quiet {
			waits := c.state == flying
			t.removeLocked(c)
			if waits {
				c.state = over
				t.stats.Replies++
				c.done <- reply
			}
		}
		c = before
	}
	t.turnsLocked()
}

// asked is a request that waits for its reply.
type asked[Q any] struct {
	id      uint64
	request Q
}

// oldest finds the n oldest requests on a connection that have no reply yet, or all if they are
// fewer. It reports false if the client has been closed.
func (rx *receiver[Q, R]) oldest(conn plex.Conn, n int) bool {
	t := &rx.table
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed != nil {
		return false
	}
	if l := t.links[conn]; l != nil {
		for c := l.calls.head; c != nil && len(rx.asked) < n; c = c.next {
			if !c.quiet {
				rx.asked = append(rx.asked, asked[Q]{c.id, *c.request.(*Q)})
			}
		}
	}
	return true
}

// collect handles a message of an ordered protocol. Messages are collected, to find their requests
// together. All are of one connection, because what was collected is sorted before anybody else can
// read from it.
func (rx *receiver[Q, R]) collect(m message.Message) {
	if rx.collected = append(rx.collected, m); len(rx.collected) == mostAnswers {
		rx.sort()
	}
}

// sort parses the messages collected so far, each with the request that it answers, and delivers the
// replies.
func (rx *receiver[Q, R]) sort() {
	if len(rx.collected) == 0 {
		return
	}
	conn := rx.collected[0].Conn
	rx.from = conn
	open := rx.oldest(conn, len(rx.collected))
	defer func() { // also if Parse ends the goroutine
		clear(rx.collected)
		clear(rx.asked)
		rx.collected, rx.asked = rx.collected[:0], rx.asked[:0]
		rx.deliver()
	}()
	if !open {
		return
	}
	next := 0
	for _, m := range rx.collected {
		var a asked[Q]
		waits := next < len(rx.asked)
		if waits {
			a = rx.asked[next]
		}
		p := rx.parse(m, a.request)
		if p.err == nil && !waits {
			p.err = ErrOutOfStep
		}
		switch {
		case p.push:
			rx.push(m) // which delivers what came before it
		case p.err != nil:
			rx.malformed(conn, p.err)
			return // nobody knows whose the rest is
		default:
			next++
			rx.answers = append(rx.answers, answer[R]{id: a.id, reply: p.reply})
		}
	}
}

// splitLocked makes a batch of the first n calls of another, which stays in the queue.
func (t *table[R]) splitLocked(from *batch[R], n int) *batch[R] {
	b := new(batch[R])
	b.frames = slices.Grow(t.bufferLocked(), len(from.frames)/from.live*n)
	for range n {
		c := from.calls.head
		from.calls.remove(c)
		begin := int32(len(b.frames))
		b.frames = append(b.frames, from.frames[c.begin:c.begin+c.size]...)
		b.calls.push(c)
		c.in, c.begin = b, begin
		from.cut += int(c.size)
	}
	from.live -= n
	b.live = n
	return b
}
