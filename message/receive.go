package message

// The receiver as its consumers see it. The work is done by whoever ranges over All, in iterate.go; what is left over
// between two reads is kept in leftover.go.

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
	Data []byte    // belongs to whoever receives it, and has memory of its own; never nil
	Conn plex.Conn // that it came over
}

// Received is what [Receiver.Channel] delivers: a message, or an error and the connection that it is about, if any.
type Received struct {
	Message
	Err error
}

// Receiver finds the whole messages in what arrives on the connections of a multiplexer, including those that healing
// and scaling add later. Make one with [New]. It has no goroutine and needs no closing: the work is done by those who
// range over [Receiver.All]. All its methods may be called from any number of goroutines.
//
// A multiplexer should have one Receiver and no other readers. Whoever else leases a Reader gets bytes that are missing
// from the messages.
type Receiver struct {
	m       *plex.Multiplexer
	split   bufio.SplitFunc
	maxSize int

	mu         sync.Mutex
	iterations map[*iteration]struct{} // those that run
	leftovers  map[plex.Conn]*leftover // of the connections that something is left over of
	queue      []*leftover             // those of them that there is something to do for without a lease, in order
	closed     bool                    // the multiplexer is
}

// New makes a Receiver of the messages that split finds in what arrives on any connection of m. split is
// [Prefix.Split], [Lines], what [Delimiter] returns, one of package bufio's or another; it says what a
// [bufio.SplitFunc] says, except:
//
//   - It has to go by its arguments alone. It is called by several goroutines for several connections, with what has
//     arrived over one of them, and again for the same when more has.
//   - atEOF is true after a clean end by the peer. After an error of the connection nobody knows whether the peer was
//     done, so the beginning of a message is then reported as cut off without asking split. An [io.ErrUnexpectedEOF]
//     at the end says the same.
//   - [bufio.ErrFinalToken] says that nothing more is wanted from the connection: the message with it, if there is
//     one, is delivered, and the connection killed unless it has ended.
//   - A message without an advance is an error at once, unless the data has ended and there is none left.
//   - Any other error, a panic, and an advance beyond the data are a [*SplitError], and the connection is killed. So it
//     is by runtime.Goexit, of which the next loop is told.
//
// On connections that keep the boundaries of datagrams, each datagram is split by itself, with atEOF true, and an
// empty one too; what is wrong with one is reported, and says nothing about the connection or the next. Of a datagram
// the first 64 KiB are read, which is all that UDP can carry; one that fills them is a [*TooLongError].
//
// New reports a nil multiplexer, a nil split function, and what is wrong with the options.
func New(m *plex.Multiplexer, split bufio.SplitFunc, options ...Option) (*Receiver, error) {
	if m == nil {
		return nil, errNilMultiplexer("New")
	}
	if split == nil {
		return nil, errors.New("message: New: the split function is nil; Lines and Prefix.Split are two, " +
			"and Delimiter makes one, though not of an empty delimiter")
	}
	c, err := configure(options)
	if err != nil {
		return nil, err
	}
	return &Receiver{
		m: m, split: split, maxSize: c.maxSize,
		iterations: make(map[*iteration]struct{}), leftovers: make(map[plex.Conn]*leftover),
	}, nil
}

// All returns an iterator over the messages that arrive on all connections. Those of one connection come in order. It
// may be called, and ranged over, by several goroutines at once: each message goes to one of them, and a connection
// is in one's hands at a time. So those of one connection are in order there too, and each loop body is done with one
// before the next is delivered, to whichever of them.
//
// A pair with an error and a connection, a [*CutError], [*TooLongError] or [*SplitError], is about that connection
// alone, and the iteration goes on. The last pair has an error and the zero Message: it matches the error of ctx when
// that has ended, [plex.ErrClosed] when the multiplexer is closed or shutting down, and [plex.ErrNoConnections] when
// the last connection is lost and there is no connector, where the iteration can begin anew after an Add. The end of
// a connection between two messages is nothing to report.
//
// A loop may be left at any time, and another one begun later: what had been read and not delivered is the next one's.
//
// The loop body has a lease on the read half of the connection, so nothing more is read from that one while it
// runs, and a Shutdown within it waits for itself. Where a body may take long, range with more goroutines.
func (r *Receiver) All(ctx context.Context) iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		if ctx == nil {
			yield(Message{}, errors.New("message: All: nil context; context.Background() is one without an end"))
			return
		}
		r.iterate(ctx, nil, yield)
	}
}

// Channel is All as a channel that holds buffer messages; it is closed at the end, and then the goroutine behind it
// has ended. Of the end of ctx it tells by that alone; other ends come as an error first.
//
// A consumer that stops receiving has to end ctx. A message that it has not taken then, and that is not in the
// channel's buffer, is delivered by the next All or Channel. For a nil ctx or a negative buffer the channel has an
// error that says so, and no more.
func (r *Receiver) Channel(ctx context.Context, buffer int) <-chan Received {
	var bad error
	switch {
	case ctx == nil:
		bad = errors.New("message: Channel: nil context; context.Background() is one without an end")
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
	go func() {
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
	}()
	return ch
}

// Kill ends a connection, for a consumer that has found what comes over it to be out of step, say. Nothing more of
// what came over it is delivered, and no message of it is reported as cut off. The connection is closed at once.
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
		return // another Kill is at it
	}
	if left == nil {
		left = &leftover{conn: conn}
		r.leftovers[conn] = left
	}
	r.takeLocked(left)
	r.mu.Unlock()
	r.putBack(nil, &hand{conn: conn, left: left, kill: true})
}

// Discard gives up what is left over between two reads: the beginnings of messages, and whole ones that no loop has
// taken. Connections that something is left over of are killed, as whoever read on would begin in the middle of a
// message. It is for the end of a Receiver whose multiplexer goes on, when its loops have ended; then nothing of the
// Receiver keeps a connection from being retired.
func (r *Receiver) Discard() {
	r.mu.Lock()
	var victims []plex.Conn
	for conn, left := range r.leftovers {
		if left.held {
			continue // a loop has it, which will put it back
		}
		if left.ended == nil {
			victims = append(victims, conn)
		}
		r.takeLocked(left)
		r.dropLocked(left)
	}
	r.mu.Unlock()
	for _, conn := range victims {
		conn.Kill()
	}
}
