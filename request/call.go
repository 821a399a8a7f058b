package request

// A call is one request, from its turn to its end.

// call is owned by whoever the table says:
//
//   - while it waits for its turn, or is in flight, the table has it, and whoever takes it out of the table under the
//     mutex has to end it. Exactly one can: the goroutine that has the reply, the one that knows of the connection's or
//     the client's end, or Do itself.
//   - the one that took it out, unless it is Do, writes reply or err and then says so on done, after which the call is
//     Do's.
//   - when Do gives it up and the identifier stays reserved, the table has it for good, and drops it.
//
// So in each use of a call done is told at most of its turn, by whoever takes it out of the queue, and then of its end.
// It has room for both, so that nobody blocks. Before the call goes into the pool, Do has received what was sent, or
// knows, by having taken the call out itself, that nobody will send. That is why call and channel can be used again.
type call[R any] struct {
	id    uint64
	state state
	on    *link[R] // the connection it was given to, nil before
	next  *call[R] // in the list of its link, or of those that wait for their turn
	prev  *call[R]

	done  chan signal // holds two
	reply R
	err   error // why it failed: the cause, for Do to say what has been sent
}

// signal is what done tells.
type signal uint8

const (
	turn  signal = iota // the call has an identifier
	reply               // it has ended, with a reply
	loss                // it has ended, with an error
)

// state is where a call is; guarded by the table's mutex.
type state uint8

const (
	idle      state = iota // Do's alone
	waiting                // for its turn
	admitted               // it has an identifier
	sent                   // it has been given to a connection
	quitting               // so, and its context has ended while it was written
	abandoned              // Do has given it up, and the identifier is reserved
	over                   // it has been taken out, done tells or will tell how it has ended
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
		next := c.next // after the send c is somebody else's
		c.prev, c.next = nil, nil
		c.err = err
		c.done <- loss
		c = next
	}
}
