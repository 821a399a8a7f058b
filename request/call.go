package request

// A call is one request, from its turn to its end.

// call has one owner at a time:
//
//   - While it waits for its turn or is in flight, the table owns it. Whoever takes it out of the
//     table, under the mutex, must end it. Only one can: the goroutine that has the reply, the one
//     that knows that the connection or the client has ended, or Do itself.
//   - Whoever took it out, unless that is Do, writes reply or err and then sends on done. After
//     that Do owns the call.
//   - If Do gives it up and the identifier stays reserved, the table owns it for good, and drops it
//     later.
//
// So done carries at most two signals in each use of a call: the turn, from whoever takes it out of
// the queue, and then the end. It has room for both, so that nobody blocks. Before the call goes
// into the pool, Do has received what was sent, or knows that nobody will send, because it took the
// call out itself. That is why call and channel can be reused.
type call[R any] struct {
	id    uint64
	state state
	on    *link[R] // the connection that it was given to; nil before
	next  *call[R] // in the list of its link, or of those waiting for their turn
	prev  *call[R]

	done  chan signal // holds two
	reply R
	err   error // why it failed; Do adds what was sent
}

// signal is what done carries.
type signal uint8

const (
	turn  signal = iota // the call has an identifier
	reply               // it has ended, with a reply
	loss                // it has ended, with an error
)

// state is where a call is; the table's mutex guards it.
type state uint8

const (
	idle      state = iota // Do owns it
	waiting                // for its turn
	admitted               // it has an identifier
	sent                   // it has been given to a connection
	quitting               // the same, but its context has ended during the Write
	abandoned              // Do has given it up, and the identifier is reserved
	resting                // the mark of an identifier that nobody will answer, see rest.go
	over                   // it has been taken out; done carries, or will carry, how it ended
)

// reason is why Do gives a call up.
type reason uint8

const (
	sendFailed reason = iota // it could not be sent, or not wholly
	killed                   // the same, because its connection was killed
	canceled                 // its context has ended
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
