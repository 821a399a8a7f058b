package request

// Receiving: a few goroutines take messages from all connections, parse them, and end the calls
// that they answer.

import (
	"context"
	"errors"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/internal/intake"
	"go.atomizer.io/plex/internal/sock"
	"go.atomizer.io/plex/message"
)

// revival is how often to look whether there are connections again, when none was left and there is
// no connector, so that only an Add can bring one. The first request over a new connection is
// reported earlier, see table.news.
const revival = time.Second

// mostAnswers is how many replies are collected before their callers get them. More would only make
// the table's mutex be held for longer.
const mostAnswers = 32

// receiver is one of these goroutines.
type receiver[Q, R any] struct {
	*Client[Q, R]
	answers []answer[R]   // that have arrived together and been parsed
	freed   []plex.Writer // of connections that have room again

	// Of ordered replies.
	from      plex.Conn         // the connection that has brought what follows
	collected []message.Message // that have arrived together
	asked     []asked[Q]        // that they may be replies to
}

// answer is a parsed reply, and the call that it is for.
type answer[R any] struct {
	id    uint64
	reply R
	call  *call[R] // nil if there is none, or before it has been looked up
	more  bool     // it is a part that is not the last
	size  int32    // bytes of the message
}

// receive runs a receiver. It ends with the client or with the multiplexer.
func (c *Client[Q, R]) receive() {
	rx := &receiver[Q, R]{Client: c, answers: make([]answer[R], 0, mostAnswers)}
	finished := false
	defer func() {
		if !finished { // the user's function has called runtime.Goexit, as t.FailNow does
			c.wg.Go(c.receive)
		}
	}()
	settled := rx.deliver
	if c.ordered() {
		settled = rx.sort
	}
	ctx := intake.With(c.ctx, intake.Intake{Settled: settled, Lend: c.borrows})
	for {
		last := rx.receiveUntil(ctx)
		var none *plex.AcquireError
		switch {
		case errors.Is(last, plex.ErrClosed):
			last = plex.ErrClosed // without the figures of a lease that no caller asked for
		case errors.Is(last, plex.ErrNoConnections), errors.As(last, &none) && c.ctx.Err() == nil:
			c.awaitRevival()
			continue // which ends there if the client is closed
		}
		finished = true
		c.end(last)
		return
	}
}

// receiveUntil handles messages until an error ends the loop over them, and returns it.
//
// Messages are handled within the read lease that brought them, and their replies are delivered
// before it ends. plex tells that a connection has ended only after its last read lease, so by then
// everything that had arrived over it has been handed over.
func (rx *receiver[Q, R]) receiveUntil(ctx context.Context) (last error) {
	for m, err := range rx.messages.All(ctx) {
		switch last = err; {
		case err == nil && rx.ordered():
			rx.collect(m)
		case err == nil:
			rx.take(m)
		case m.Conn != plex.Conn{}:
			rx.troubled(m.Conn, err)
		}
	}
	return last
}

// awaitRevival waits until there may be connections again.
func (c *Client[Q, R]) awaitRevival() {
	timer := time.NewTimer(revival)
	defer timer.Stop()
	select {
	case <-c.table.news:
	case <-timer.C:
	case <-c.ctx.Done():
	}
}

// take handles a message.
func (rx *receiver[Q, R]) take(m message.Message) {
	var none Q
	switch p := rx.parse(m, none); {
	case p.push:
		rx.push(m)
	case p.err != nil:
		rx.malformed(m.Conn, p.err)
	default:
		rx.answers = append(rx.answers, answer[R]{id: p.id, reply: p.reply, more: p.more, size: int32(len(m.Data))})
		if len(rx.answers) == mostAnswers {
			rx.deliver()
		}
	}
}

// push handles a message that is no reply.
func (rx *receiver[Q, R]) push(m message.Message) {
	rx.deliver() // what came earlier does not wait for the user's function
	rx.table.unsolicited()
	if rx.cfg.unsolicited == nil {
		return
	}
	if err := rx.pass(m); err != nil {
		rx.table.panicked(err)
	}
}

// deliver gives the replies collected so far to their callers.
func (rx *receiver[Q, R]) deliver() {
	if len(rx.answers) == 0 {
		return
	}
	rx.freed = rx.table.replies(rx.answers, rx.from, rx.freed[:0])
	for i := range rx.answers {
		if a := &rx.answers[i]; a.call != nil {
			a.call.reply = a.reply
			a.call.done <- reply
		}
	}
	closeAll(rx.freed)
	clear(rx.answers) // so that nothing of the replies is kept
	rx.answers = rx.answers[:0]
}

// malformed handles a message that makes no sense. A malformed datagram says nothing about the next
// one.
//
// On a stream, everything behind the message would be read from the wrong place, and a reply found
// there could be anyone's. So none of it is delivered: this goroutine, which holds the connection,
// kills it now.
func (c *Client[Q, R]) malformed(conn plex.Conn, err error) {
	if conn.Datagram() {
		c.table.malformed(errNonsense(conn, err))
		return
	}
	c.outOfStep(conn, err)
	c.messages.Kill(conn)
}

// troubled handles an error that package message reports about one connection. The connection has
// ended or been killed, unless it carries datagrams.
func (c *Client[Q, R]) troubled(conn plex.Conn, err error) {
	switch err.(type) { // as package message returns them; there may be errors of the user inside
	case *message.DatagramError:
		if sock.Refused(err) {
			c.refuse(conn, err)
		}
	case *message.CutError:
		// On a stream, the requests fail with the connection's own error.
		if conn.Datagram() {
			c.table.malformed(errNonsense(conn, err))
		}
	default:
		if conn.Datagram() {
			c.table.malformed(errNonsense(conn, err))
		} else {
			c.outOfStep(conn, err)
		}
	}
}

// refuse fails the requests on a datagram connection whose peer does not listen.
func (c *Client[Q, R]) refuse(conn plex.Conn, err error) {
	victims, freed := c.table.refuse(conn)
	victims.fail(errRefused(conn, err))
	closeAll(freed)
}

// outOfStep notes why requests fail on a connection that has brought nonsense and has been killed
// or is about to be.
func (c *Client[Q, R]) outOfStep(conn plex.Conn, err error) {
	c.table.nonsense(conn, errOutOfStep(conn, err))
}
