package request

// A call is one request, from its turn to its end.

import (
	"time"

	"go.atomizer.io/plex"
)

// call has one owner at a time:
//
//   - While it waits for its turn or is in flight, the table owns it. Whoever takes it out of the
//     table, under the mutex, must end it. Only one can: the goroutine that has the reply, the one
//     that knows that the connection or the client has ended, or Do itself.
//   - Whoever took it out, unless that is Do, writes how it ended and then sends on done. After
//     that Do owns the call.
//   - If Do gives it up and the identifier stays reserved, the table owns it for good, and drops it
//     later.
//
// So done carries at most three signals in each use of a call: the turn, from whoever takes it out
// of the queue, then perhaps that there is more than one message, and then the end. Do waits for the
// turn before it goes on, and done has room for two, so that nobody blocks. Before the call goes
// into the pool, Do has received what was sent, or knows that nobody will send, because it took the
// call out itself. That is why call and channel can be reused.
//
// A call has no memory of its own that a Write uses: its frame is in its batch. So it can be reused
// while that Write still runs.
type call[R any] struct {
	// What all of the client touches, in one cache line.
	id     uint64
	next   *call[R] // in the list of its batch or link, or of those waiting for their turn
	prev   *call[R]
	in     *batch[R]     // that its frame is in; nil before
	begin  int32         // where in the batch its frame begins
	size   int32         // of the frame; 0 if it is the only one
	since  time.Duration // when it began to wait for a connection, on the table's clock; 0 if unknown
	done   chan signal   // holds two
	state  state
	unsent bool // the batch has been written, but nothing of the frame
	maybe  bool // it failed, and the server may have got it

	err   error     // why it failed; Do adds what was sent
	conn  plex.Conn // that it had been given to when it failed; zero if none
	reply R

	stream   *stream[R] // takes its parts; nil if it has one reply
	several  bool       // it has no stream, and a part that is not the last has come
	ping     bool       // nobody ever waits for it
	slow     bool       // its stream was too slow, so it has been given up
	cancels  bool       // what cancels it may still be written, so its identifier stays reserved
	answered bool       // meanwhile its reply has come

	// Of ordered replies.
	request any  // a *Q, which the call keeps for its next use; nil before the first
	quiet   bool // it has no reply, and ends when it has been written
}

// on is the connection that the call has been given to; nil before.
func (c *call[R]) on() *link[R] {
	if c.in == nil {
		return nil
	}
	return c.in.on
}

// signal is what done carries.
type signal uint8

const (
	turn    signal = iota // the call has an identifier
	reply                 // it has ended, with a reply
	loss                  // it has ended, with an error
	several               // more than one message has come, and no stream takes them; it has not ended
)

// state is where a call is; the table's mutex guards it.
type state uint8

const (
	idle      state = iota // Do owns it
	waiting                // for its turn
	admitted               // it has an identifier
	flying                 // its frame is in a batch, which has been given to a connection or soon will be
	abandoned              // Do has given it up, and the identifier is reserved
	resting                // the mark of an identifier that nobody will answer, see rest.go
	over                   // it has been taken out; done carries, or will carry, how it ended
)

// reason is why Do gives a call up.
type reason uint8

const (
	notEncoded reason = iota // the protocol could not encode it
	canceled                 // its context has ended
	failed                   // for any other reason
)

// list is a list of calls, linked through them.
type list[R any] struct{ head, tail *call[R] }

func (l *list[R]) push(c *call[R]) {
	c.prev, c.next = l.tail, nil
	if l.tail == nil {
		l.head = c
	} else {
		l.tail.next = c
	}
	l.tail = c
}

// splice moves all calls of another list to the end of this one.
func (l *list[R]) splice(other *list[R]) {
	switch {
	case other.head == nil:
		return
	case l.tail == nil:
		l.head = other.head
	default:
		l.tail.next, other.head.prev = other.head, l.tail
	}
	l.tail = other.tail
	*other = list[R]{}
}

func (l *list[R]) remove(c *call[R]) {
	if c.prev == nil {
		l.head = c.next
	} else {
		c.prev.next = c.next
	}
	if c.next == nil {
		l.tail = c.prev
	} else {
		c.next.prev = c.prev
	}
	c.prev, c.next = nil, nil
}

// fail ends the calls of a list that have been taken out of the table.
func (l list[R]) fail(err error) {
	for c := l.head; c != nil; {
		next := c.next // after the send, somebody else owns c
		c.prev, c.next = nil, nil
		c.err = err
		c.done <- loss
		c = next
	}
}
