package message

// The receiver as its consumers see it. Whoever ranges over All does the work, in iterate.go and
// deliver.go.

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"

	"go.atomizer.io/plex"
)

// Message is one whole message.
type Message struct {
	Data []byte    // belongs to the consumer, in memory of its own; never nil
	Conn plex.Conn // the connection that it came over
}

// Received is what [Receiver.Channel] delivers: a message, or an error and the connection that it
// is about, if any.
type Received struct {
	Message
	Err error
}

// Receiver finds the whole messages in what arrives on the connections of a multiplexer, including
// connections that healing and scaling add later. Make one with [New]. It has no goroutine and
// needs no closing: whoever ranges over [Receiver.All] does the work. All methods may be called
// from any number of goroutines.
//
// A multiplexer should have one Receiver and no other readers. The bytes that another reader takes
// are missing from the messages.
type Receiver struct {
	m        *plex.Multiplexer
	split    bufio.SplitFunc                 // for all connections; nil if each has its own
	splitFor func(plex.Conn) bufio.SplitFunc // makes one for a connection; nil if all have the same
	maxSize  int

	// mu guards the following. The multiplexer's own lock may be taken under it, but not the other
	// way round.
	mu         sync.Mutex
	iterations map[*iteration]struct{} // those that run
	leftovers  map[plex.Conn]*leftover // by the connection that they are from
	splits     map[plex.Conn]*split    // by connection, if each has its own
	queue      []*leftover             // to be delivered, in order; taken ones are nil, but the first is not
	passed     int                     // how many have left the queue at its head, ever
	closed     bool                    // the multiplexer is closed
}

// New makes a Receiver for the messages that split finds in what arrives on any connection of m.
// split is [Prefix.Split], [Lines], the result of [Delimiter], a function of package bufio, or
// another. It works as [bufio.SplitFunc] says, except:
//
//   - It must depend on its arguments alone; see [NewFor] for others. Several goroutines call it, for several connections,
//     with what has arrived over one of them, and call it again for the same data when more has
//     arrived.
//   - atEOF is true after a clean EOF from the peer. After an error of the connection nobody knows
//     whether the peer was done, so the beginning of a message is then reported as cut off without
//     calling split. A split function that returns [io.ErrUnexpectedEOF] at the end of the data has
//     the same effect.
//   - [bufio.ErrFinalToken] says that nothing more is wanted from the connection. The message with
//     it, if any, is delivered, and the connection is killed unless it has ended.
//   - A message without an advance is an error at once, unless the data has ended and there is none
//     left.
//   - Any other error, a panic, and an advance beyond the data result in a [*SplitError] and kill
//     the connection. So does runtime.Goexit, which the next loop reports.
//
// On connections that keep the boundaries of datagrams, each datagram is split by itself, with
// atEOF true, even an empty one. What is wrong with a datagram is reported, and says nothing about
// the connection or the next datagram. At most 64 KiB of a datagram are read, which is all that UDP
// can carry; one that fills them is a [*TooLongError].
//
// New returns an error for a nil multiplexer, a nil split function, and bad options.
func New(m *plex.Multiplexer, split bufio.SplitFunc, options ...Option) (*Receiver, error) {
	if m == nil {
		return nil, errNilMultiplexer("New")
	}
	if split == nil {
		return nil, errors.New("message: New: the split function is nil; Lines and Prefix.Split are two, " +
			"and Delimiter makes one, though not of an empty delimiter")
	}
	r, err := newReceiver(m, options)
	if err != nil {
		return nil, err
	}
	r.split = split
	return r, nil
}

// newReceiver makes a Receiver that has no split function yet.
func newReceiver(m *plex.Multiplexer, options []Option) (*Receiver, error) {
	c, err := configure(options)
	if err != nil {
		return nil, err
	}
	return &Receiver{
		m: m, maxSize: c.maxSize,
		iterations: make(map[*iteration]struct{}), leftovers: make(map[plex.Conn]*leftover),
	}, nil
}

// All returns an iterator over the messages that arrive on all connections. Messages of one
// connection come in order. Several goroutines may call All and range over it at once. Each message
// goes to one of them, and one goroutine at a time holds a connection. So the messages of one
// connection stay in order across goroutines too: a loop body has finished with one message before
// the next is delivered to any of them.
//
// A pair with an error and a connection, a [*CutError], [*TooLongError], [*SplitError] or
// [*DatagramError], is about that connection alone, and the iteration goes on. The last pair has an
// error and the zero Message. That error matches the error of ctx when ctx has ended,
// [plex.ErrClosed] when the multiplexer is closed or shutting down, and [plex.ErrNoConnections]
// when the last connection is lost and there is no connector; after an Add the iteration can be
// started again. A connection that ends between two messages is not reported.
//
// A loop may be left at any time, and another one started later, which gets what was read and not
// delivered.
//
// While the loop body runs it holds a lease on the read half of the connection, so nothing more is
// read from that connection meanwhile, and a Shutdown called in the body waits for itself. If a
// body may take long, range in several goroutines.
func (r *Receiver) All(ctx context.Context) iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		if ctx == nil {
			yield(Message{}, errors.New("message: All: nil context; use context.Background() for one that never ends"))
			return
		}
		r.iterate(ctx, nil, yield)
	}
}

// Channel is All as a channel that buffers so many messages. It is closed at the end; the goroutine
// behind it has ended then. When ctx ends, the channel is just closed. Any other end is delivered
// as an error first.
//
// A consumer that stops receiving must end ctx. A message that it has not received by then, and
// that is not in the channel's buffer, is delivered by the next All or Channel. For a nil ctx or a
// negative buffer the channel delivers one error that says so.
func (r *Receiver) Channel(ctx context.Context, buffer int) <-chan Received {
	var bad error
	switch {
	case ctx == nil:
		bad = errors.New("message: Channel: nil context; use context.Background() for one that never ends")
	case buffer < 0:
		bad = fmt.Errorf("message: Channel: a buffer of %d; 0 or more is right", buffer)
	}
	if bad != nil {
		ch := make(chan Received, 1)
		ch <- Received{Err: bad}
		close(ch)
		return ch
	}
	ch := make(chan Received, buffer)
	go r.fill(ctx, ch)
	return ch
}

// fill delivers to a channel, and closes it.
func (r *Receiver) fill(ctx context.Context, ch chan<- Received) {
	defer close(ch)
	refused := false
	r.iterate(ctx, &refused, func(m Message, err error) bool {
		if ctx.Err() != nil {
			refused = true
			return false
		}
		select {
		case ch <- Received{m, err}:
			return true
		case <-ctx.Done():
			refused = true
			return false
		}
	})
}

// Kill ends a connection, for a consumer that finds it out of step, for example. Nothing more that
// came over it is delivered, and no message of it is reported as cut off. The connection is closed
// at once.
func (r *Receiver) Kill(conn plex.Conn) {
	if conn == (plex.Conn{}) {
		return
	}
	r.mu.Lock()
	for it := range r.iterations {
		if it.conn == conn {
			it.flags.Or(killed)
			r.mu.Unlock()
			conn.Kill()
			return
		}
	}
	left := r.leftovers[conn]
	if left != nil && left.held {
		r.mu.Unlock()
		return // another Kill is at work
	}
	if left == nil {
		left = &leftover{backlog: backlog{conn: conn}}
		r.leftovers[conn] = left
	}
	r.takeLocked(left)
	r.mu.Unlock()
	r.putBack(nil, &hand{backlog: backlog{conn: conn}, left: left, kill: true})
}

// Discard gives up everything that is left between two reads: the beginnings of messages, and whole
// messages that no loop has taken. It kills the connections that these came over, because whoever
// read on would begin in the middle of a message. Call it at the end of a Receiver whose
// multiplexer goes on, when its loops have ended. After that the Receiver no longer keeps any
// connection from being retired.
func (r *Receiver) Discard() {
	r.mu.Lock()
	var victims []plex.Conn
	for conn, left := range r.leftovers {
		if left.held {
			continue // the loop that holds it will put it back
		}
		if left.ended == nil {
			victims = append(victims, conn)
		}
		r.takeLocked(left)
		r.dropLocked(left)
	}
	r.discardSplitsLocked()
	r.mu.Unlock()
	for _, conn := range victims {
		conn.Kill()
	}
}
