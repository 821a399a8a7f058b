package request

// Receiving: a few goroutines take messages from all connections, parse them, and end the calls
// that they answer.

import (
	"errors"
	"time"

	"go.atomizer.io/plex"
	"go.atomizer.io/plex/message"
)

// revival is how often to look whether there are connections again, when none was left and there is
// no connector, so that only an Add can bring one. The first request over a new connection is
// reported earlier, see table.news.
const revival = time.Second

// receive is one of these goroutines. It ends with the client or with the multiplexer.
//
// A message is handled within the read lease that brought it. plex tells that a connection has
// ended only after its last read lease, so by then everything that had arrived over it has been
// handed over.
func (c *Client[Q, R]) receive() {
	finished := false
	defer func() {
		if !finished { // the user's function has called runtime.Goexit, as t.FailNow does
			c.wg.Go(c.receive)
		}
	}()
	for {
		last := c.receiveUntil()
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
func (c *Client[Q, R]) receiveUntil() (last error) {
	for m, err := range c.messages.All(c.ctx) {
		switch last = err; {
		case err == nil:
			c.take(m)
		case m.Conn != plex.Conn{}:
			c.troubled(m.Conn, err)
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
func (c *Client[Q, R]) take(m message.Message) {
	switch p := c.parse(m); {
	case p.push:
		c.table.unsolicited()
		if c.cfg.unsolicited == nil {
			return
		}
		if err := c.pass(m); err != nil {
			c.table.panicked(err)
		}
	case p.err != nil:
		c.malformed(m.Conn, p.err)
	default:
		if call := c.table.reply(p.id); call != nil {
			call.reply = p.reply
			call.done <- reply
		}
	}
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
		if refused(err) {
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
	victims := c.table.refuse(conn)
	victims.fail(errRefused(conn, err))
}

// outOfStep notes why requests fail on a connection that has brought nonsense and has been killed
// or is about to be.
func (c *Client[Q, R]) outOfStep(conn plex.Conn, err error) {
	c.table.nonsense(conn, errOutOfStep(conn, err))
}
